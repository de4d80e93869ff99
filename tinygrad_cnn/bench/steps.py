"""Training steps and inference of whole networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from .nets import INFER, TITLES, TRAIN
from .options import Options
from .process import TORCH_MODES, Side, take_turns
from .results import OURS, Row

QUICK = [("train", "lenet5", 32), ("infer", "lenet5", 1)]


def cases(quick: bool) -> list[tuple[str, str, int]]:
    """(kind, net, batch) of every case."""
    return QUICK if quick else [("train", *case) for case in TRAIN] + [("infer", *case) for case in INFER]


def title(kind: str, net: str, batch: int) -> str:
    return f"{TITLES[net]}, {'training step' if kind == 'train' else 'inference'}, batch {batch}"


def measure(options: Options) -> Iterator[Row]:
    """Every case in fresh processes: torch.compile gives up on a process that has compiled a few networks."""
    for kind, net, batch in cases(options.quick):
        row = Row("training steps" if kind == "train" else "inference", title(kind, net, batch))
        if not options.wants(row.name):
            continue
        with ExitStack() as stack:
            names = [(OURS, ""), *(("torch", mode) for mode in TORCH_MODES if options.torch)]
            sides = [stack.enter_context(Side(name, mode, options.threads, options.torch)) for name, mode in names]
            case = {"kind": kind, "net": net, "batch": batch}
            yield take_turns(sides, case, row, options.seconds, options.rounds)
