"""The process of one side: reads cases, one JSON line each, does their work and answers with what it measured."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: A call shorter than this is timed in blocks of calls.
BLOCK_SECONDS = 2e-3
WARM_CALLS = 3


def main(arguments: list[str]) -> None:
    """`SIDE MODE THREADS`: say when the library is there, then answer every line of standard input until it ends."""
    name, mode, threads = arguments
    side = importlib.import_module(f".side_{name}", __package__)
    side.set_threads(int(threads))
    print("ready", flush=True)
    kept: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps(request["case"])
        if key not in kept:
            kept.clear()  # the arrays of the case before
            kept[key] = getattr(side, request["case"]["kind"])(request["case"], mode)
            for _ in range(WARM_CALLS):
                kept[key]()
        work = kept[key]
        if request["what"] == "seconds":
            answer: float = seconds(work, request["seconds"])
        elif request["what"] == "growth":
            answer = peak_growth(work, side.release)
        else:
            answer = _status("VmHWM")
        print(json.dumps(answer), flush=True)


def seconds(work: Callable[[], Any], total: float) -> float:
    """The median time of a call, over blocks of calls for `total` seconds and five blocks at least."""
    start = time.perf_counter()
    work()
    calls = max(1, int(BLOCK_SECONDS / (time.perf_counter() - start)))
    times: list[float] = []
    end = time.perf_counter() + total
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def peak_growth(work: Callable[[], Any], release: Callable[[], None]) -> int:
    """The bytes by which the process grows in a warm call, after unused memory went back to the system (Linux only)."""
    gc.collect()
    release()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main(sys.argv[1:])
