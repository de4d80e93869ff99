"""Matrix products against NumPy's OpenBLAS: square ones, and those of linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from . import machine
from .options import Options
from .process import Side, take_turns
from .results import OURS, Row

SIZES = (128, 192, 256, 384, 512, 768, 1024)
TRANSPOSED = {"A B": "", "A' B": "a", "A B'": "b", "A' B'": "ab"}

#: (in_features, out_features, batch) of the benchmark's networks
LAYERS = [
    (i, o, n)
    for i, o, batches in [
        (400, 120, (1, 32, 128, 512)),
        (120, 84, (1, 32, 128, 512)),
        (84, 10, (1, 32, 128, 512)),
        (9216, 128, (64, 256)),
        (128, 10, (64, 256)),
        (576, 10, (64, 512)),
        (64, 10, (64,)),
        (256, 10, (64,)),
    ]
    for n in batches
]


class Product(NamedTuple):
    part: str
    name: str
    a: tuple[int, int]
    b: tuple[int, int]
    transposed: str

    @property
    def flops(self) -> int:
        return 2 * self.a[0] * self.a[1] * self.b[1]

    @property
    def case(self) -> dict[str, Any]:
        return {"kind": "matmul", "a": self.a, "b": self.b, "transposed": self.transposed}


def products() -> Iterator[Product]:
    for n in SIZES:
        for name, transposed in TRANSPOSED.items():
            yield Product("matmul", f"{n}x{n} {name}", (n, n), (n, n), transposed)
    for i, o, n in LAYERS:
        yield Product("linear", f"{n}x{i}->{o} forward", (n, i), (i, o), "b")
        yield Product("linear", f"{n}x{i}->{o} input gradient", (n, o), (o, i), "")
        yield Product("linear", f"{n}x{i}->{o} weight gradient", (o, n), (n, i), "a")


def measure(options: Options) -> Iterator[Row]:
    peaks: list[float] = []
    with Side(OURS, "", options.threads) as ours, Side("numpy", "", options.threads) as numpy:
        for product in list(products())[: 2 if options.quick else None]:
            row = Row(product.part, product.name, flops=product.flops)
            if options.wants(row.name):
                peaks.append(machine.peak(ours, options))
                row.peak = median(peaks)
                yield take_turns([ours, numpy], product.case, row, options.seconds, options.rounds)
