"""Training steps on one thread beside those on all of them: the ratio is what more threads are worth."""

from __future__ import annotations

from collections.abc import Iterator

from .options import Options
from .process import Side, take_turns
from .results import OURS, Row
from .steps import title

CASES = [("lenet5", 128), ("mnist_cnn", 64), ("bn_cnn", 64), ("resnet20", 64), ("depthwise_cnn", 64)]


def measure(options: Options) -> Iterator[Row]:
    """A row for each network, none of them where `options.threads` is 1."""
    for net, batch in CASES[: 1 if options.quick else None]:
        row = Row("more threads", title("train", net, batch))
        if options.threads > 1 and options.wants(row.name):
            with Side(OURS, "", options.threads) as ours, Side(OURS, "on one thread", 1) as alone:
                case = {"kind": "train", "net": net, "batch": batch}
                yield take_turns([ours, alone], case, row, options.seconds, options.rounds)
