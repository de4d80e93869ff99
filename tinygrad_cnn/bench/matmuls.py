"""Matrix products against NumPy's OpenBLAS: square ones, and those of linear layers.

A layer's forward is x @ w.T + bias, and its backward the gradients of all three, which is how training calls them.
"""

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
    flops: int
    case: dict[str, Any]


def products() -> Iterator[Product]:
    for n in SIZES:
        for name, transposed in TRANSPOSED.items():
            case = {"kind": "matmul", "n": n, "transposed": transposed}
            yield Product("matmul", f"{n}x{n} {name}", 2 * n**3, case)
    for i, o, n in LAYERS:
        case = {"kind": "linear", "i": i, "o": o, "n": n}
        yield Product("linear", f"{n}x{i}->{o} forward", 2 * n * i * o, case | {"backward": False})
        yield Product("linear", f"{n}x{i}->{o} backward", 4 * n * i * o, case | {"backward": True})


def measure(options: Options) -> Iterator[Row]:
    peaks: list[float] = []
    with Side(OURS, "", options.threads) as ours, Side("numpy", "", options.threads) as numpy:
        for product in list(products())[: 2 if options.quick else None]:
            row = Row(product.part, product.name, flops=product.flops)
            if options.wants(row.name):
                peaks.append(machine.peak(ours, options))
                row.peak = median(peaks)
                yield take_turns([ours, numpy], product.case, row, options.seconds, options.rounds)
