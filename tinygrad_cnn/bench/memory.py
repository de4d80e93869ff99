"""How much memory a training step takes: the growth of a warm process while it runs one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .nets import TRAIN
from .options import Options
from .process import TORCH_MODES, Side
from .results import OURS, Row
from .steps import QUICK, title


def measure(options: Options) -> Iterator[Row]:
    """Fresh processes for each case; weights and the optimizer's state are there before the step, gradients are not."""
    if sys.platform != "linux":
        print("  skipped: the peak of a process is read from Linux's /proc")
        return
    for net, batch in [QUICK[0][1:]] if options.quick else TRAIN:
        step = Row("memory that a step needs", title("train", net, batch), "B")
        whole = Row("memory of the whole process", step.name, "B")
        if not options.wants(step.name):
            continue
        for name, mode in [(OURS, ""), *(("torch", mode) for mode in TORCH_MODES if options.torch)]:
            with Side(name, mode, options.threads, options.torch) as side:
                case = {"kind": "train", "net": net, "batch": batch}
                whole.sides[side.name] = [side.ask(case, "peak")]
                step.sides[side.name] = [side.ask(case, "growth") for _ in range(options.rounds)]
        yield from (step, whole)
