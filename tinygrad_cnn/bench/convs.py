"""Convolutions: forward, input gradient and weight gradient of common and of awkward shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from statistics import median
from typing import NamedTuple

from . import machine
from .options import Options
from .process import Side, take_turns
from .results import OURS, Row

PASSES = ("forward", "input gradient", "weight gradient")

#: Elements of a batch of images above which a shape is left out: 134 MB of float32.
LARGEST = 1 << 24


class Shape(NamedTuple):
    """N images of C channels, H x H pixels, to O channels by K x K kernels; by default H stays."""

    n: int
    c: int
    h: int
    o: int
    k: int
    stride: int = 1
    groups: int = 1
    padding: int = -1
    dilation: int = 1

    @property
    def pad(self) -> int:
        return self.dilation * (self.k // 2) if self.padding < 0 else self.padding

    @property
    def out(self) -> int:
        return (self.h + 2 * self.pad - self.dilation * (self.k - 1) - 1) // self.stride + 1

    @property
    def flops(self) -> int:
        return 2 * self.n * self.out**2 * self.o * self.c // self.groups * self.k**2

    def __str__(self) -> str:
        text = f"{self.n}x{self.h}x{self.h}x{self.c}->{self.o} {self.k}x{self.k}"
        text += f" stride {self.stride}" * (self.stride > 1) + f" groups {self.groups}" * (self.groups > 1)
        return text + f" padding {self.pad}" * (self.padding >= 0) + f" dilation {self.dilation}" * (self.dilation > 1)


#: The sizes of the project's goal: at least 80 % of the peak in the median, none under 55 %.
COMMON = [
    Shape(n, c, h, c, k) for n, c, k, h in product((32, 128), (16, 32, 64, 128), (1, 3, 5), (8, 16, 32))
]  # fmt: skip
UNEQUAL = [
    Shape(n, c, h, o, k)
    for n, (c, o, h), k in product((32, 128), ((16, 32, 32), (32, 64, 16), (64, 128, 8), (64, 32, 16)), (1, 3, 5))
]
#: First layers of networks.
FIRST = [
    Shape(n, *rest)
    for n in (32, 128)
    for rest in [(1, 28, 6, 5), (1, 28, 16, 5), (1, 28, 32, 3), (3, 32, 16, 3), (3, 32, 32, 3), (3, 32, 64, 5)]
]
AWKWARD = [
    Shape(128, 6, 14, 16, 5, padding=0),
    Shape(64, 32, 26, 64, 3, padding=0),
    Shape(64, 32, 24, 32, 5, padding=0),
    Shape(64, 10, 20, 20, 3),
    Shape(64, 24, 20, 40, 3),
    Shape(64, 20, 12, 50, 5),
    Shape(32, 100, 14, 100, 3),
    Shape(32, 32, 32, 32, 7),
    Shape(16, 16, 32, 16, 11),
    Shape(64, 16, 32, 32, 3, stride=2),
    Shape(64, 32, 32, 64, 3, stride=2),
    Shape(64, 32, 16, 64, 1, stride=2),
    Shape(64, 64, 16, 64, 3, groups=4),
    Shape(64, 64, 16, 64, 3, groups=64),
    Shape(64, 32, 32, 32, 3, groups=32),
    Shape(64, 64, 32, 64, 3, stride=2, groups=64),
    Shape(64, 128, 16, 128, 3, groups=128),
    Shape(64, 128, 16, 128, 3, stride=2, groups=128),
    Shape(64, 32, 16, 32, 5, groups=32),
    Shape(64, 32, 16, 32, 3, dilation=2),
    Shape(64, 16, 32, 40, 3, dilation=3),
]
GROUPS = {"convs": COMMON, "convs, C != O": UNEQUAL, "first layers": FIRST, "awkward convs": AWKWARD}
QUICK = {"convs": COMMON[:1], "first layers": FIRST[:1]}

#: Rows between two measurements of the peak.
PEAK_EVERY = 3


def measure(options: Options) -> Iterator[Row]:
    """One row for each pass of each shape; first layers need no input gradient.

    Every round goes through all rows: what slows the machine down for a while spoils one round of each and not a row.
    """
    peaks: list[float] = []
    modes = ("eager", "eager channels_last") if options.torch else ()
    rows = [(row, shape) for row, shape in _rows(options.quick) if options.wants(row.name)]
    with ExitStack() as stack:
        ours = stack.enter_context(Side(OURS, "", options.threads))
        rivals = [stack.enter_context(Side("torch", mode, options.threads, options.torch)) for mode in modes]
        for turn in range(options.rounds):
            print(f"  round {turn + 1} of {options.rounds}", flush=True)
            for i, (row, shape) in enumerate(rows):
                if i % PEAK_EVERY == 0:
                    peaks.append(machine.peak(ours, options))
                part = row.name[len(str(shape)) + 1 :]
                case = shape._asdict() | {"kind": "conv", "padding": shape.pad, "pass": part}
                take_turns([ours, *rivals], case, row, options.seconds, 1)
                if turn == options.rounds - 1:
                    row.peak = median(peaks)
                    yield row


def _rows(quick: bool) -> Iterator[tuple[Row, Shape]]:
    for group, shapes in (QUICK if quick else GROUPS).items():
        for shape in shapes:
            for part in PASSES if shape.n * shape.h**2 * shape.c <= LARGEST else ():
                if group != "first layers" or part != "input gradient":
                    yield Row(group, f"{shape} {part}", flops=shape.flops), shape
