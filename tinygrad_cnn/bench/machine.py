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


def peak(side: Side, options: Options) -> float:
    """GFLOP/s of multiply-adds on all threads, now."""
    case = fma(PEAK_FLOPS, options.threads)
    return PEAK_FLOPS / min(side.ask(case, seconds=options.seconds / 2) for _ in range(2)) / 1e9


def measure(options: Options) -> Iterator[Row]:
    some = sorted({1, options.threads})
    cases = [(f"multiply-adds, {_count(n)}", fma(PEAK_FLOPS, n), PEAK_FLOPS) for n in some]
    cases += [
        (f"copy of {COPY_BYTES >> 20} MB, {_count(n)}", {"kind": "copy", "bytes": COPY_BYTES, "threads": n}, 0)
        for n in some
    ]
    cases += [
        ("kernel launch", fma(0, options.threads, parallel=False), 0),
        (f"kernel launch and parallel region, {_count(options.threads)}", fma(0, options.threads), 0),
    ]
    with Side(OURS, "", options.threads) as side:
        for name, case, flops in cases:
            row = Row("machine", name, flops=flops)
            if options.wants(name):
                yield take_turns([side], case, row, options.seconds, options.rounds)


def _count(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"
