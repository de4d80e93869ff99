"""Training steps on one thread beside those on all of them: the ratio is what more threads are worth.

Beside it stands what they are worth to multiply-adds in registers. On a virtual machine of two processors that is 2.0
while each has a core of its own and 1.0 while they share one, and it changes within seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from . import machine
from .options import Options
from .process import Side, take_turns
from .results import OURS, Row
from .steps import title

CASES = [("lenet5", 128), ("mnist_cnn", 64), ("bn_cnn", 64), ("resnet20", 64), ("depthwise_cnn", 64)]


def measure(options: Options) -> Iterator[Row]:
    """A row for each network, none of them where `options.threads` is 1."""
    if options.threads == 1:
        return
    with Side(OURS, "", options.threads) as all_cores, Side(OURS, "", 1) as one_core:
        for net, batch in CASES[: 1 if options.quick else None]:
            row, scaling = Row("more threads", title("train", net, batch)), list[float]()
            if not options.wants(row.name):
                continue
            with Side(OURS, "", options.threads) as ours, Side(OURS, "on one thread", 1) as alone:
                case = {"kind": "train", "net": net, "batch": batch}
                for _ in range(options.rounds):
                    scaling.append(machine.peak(all_cores, options) / machine.peak(one_core, options, 1))
                    take_turns([ours, alone], case, row, options.seconds, 1)
            row.scaling = median(scaling)
            yield row
