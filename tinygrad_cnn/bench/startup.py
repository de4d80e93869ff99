"""Cold start: from a process's start to the end of its first training step, and what importing us costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from .options import Options
from .results import OURS, Row

NET, BATCH = "mnist_cnn", 64

_FIRST_STEP = f"""
from tinygrad_cnn.bench.side_ours import set_threads, train
import sys
set_threads(int(sys.argv[1]))
train({{"net": "{NET}", "batch": {BATCH}}}, "")()
"""
_IMPORT = """
import numpy, numba, time
start = time.perf_counter()
import tinygrad_cnn
print(time.perf_counter() - start)
"""


def measure(options: Options) -> Iterator[Row]:
    cold, warm, imports = (
        Row("startup", name)
        for name in (
            "first training step of the MNIST CNN, empty kernel cache",
            "first training step of the MNIST CNN, warm kernel cache",
            "import tinygrad_cnn, beyond numpy and numba",
        )
    )
    if options.wants(cold.name) or options.wants(warm.name):
        with tempfile.TemporaryDirectory() as cache:
            cold.sides[OURS] = [first_step(options.threads, cache)]
            yield cold
            warm.sides[OURS] = [first_step(options.threads, cache) for _ in range(options.rounds)]
            yield warm
    if options.wants(imports.name):
        imports.sides[OURS] = [float(_python(_IMPORT)) for _ in range(options.rounds)]
        yield imports


def first_step(threads: int, cache: str) -> float:
    """Seconds from the start of a process to its end after one step."""
    start = time.perf_counter()
    _python(_FIRST_STEP, str(threads), TINYGRAD_CNN_CACHE_DIR=cache)
    return time.perf_counter() - start


def _python(script: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True).stdout
