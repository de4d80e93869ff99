"""The machine: its multiply-add peak, how fast it copies, what launching a kernel costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .options import Options
from .process import Side, take_turns
from .results import OURS, Row

PEAK_FLOPS = 2 * 10**9
COPY_BYTES = 1 << 28


def fma(flops: float, threads: int, parallel: bool = True) -> dict[str, Any]:
    return {"kind": "fma", "flops": int(flops), "threads": threads, "parallel": parallel}


def peak(side: Side, options: Options, threads: int = 0) -> float:
    """GFLOP/s of multiply-adds, now, on so many threads as the side has, or on all."""
    case = fma(PEAK_FLOPS, threads or options.threads)
    return PEAK_FLOPS / min(side.ask(case, seconds=options.seconds / 2) for _ in range(2)) / 1e9


def measure(options: Options) -> Iterator[Row]:
    some = sorted({1, options.threads})
    rows = [(Row("machine", f"multiply-adds, {_count(n)}", flops=PEAK_FLOPS), fma(PEAK_FLOPS, n)) for n in some]
    rows += [
        (
            Row("machine", f"copy, {_count(n)}", traffic=2 * COPY_BYTES),
            {"kind": "copy", "bytes": COPY_BYTES, "threads": n},
        )
        for n in some
    ]
    rows += [
        (Row("machine", "kernel launch"), fma(0, options.threads, parallel=False)),
        (Row("machine", f"kernel launch and parallel region, {_count(options.threads)}"), fma(0, options.threads)),
    ]
    with Side(OURS, "", options.threads) as side:
        for row, case in rows:
            if options.wants(row.name):
                yield take_turns([side], case, row, options.seconds, options.rounds)


def _count(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"
