"""What NumPy (its OpenBLAS) runs of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def set_threads(threads: int) -> None:
    """The environment says it: `OPENBLAS_NUM_THREADS`."""


def matmul(case: dict[str, Any], mode: str) -> Callable[[], Any]:
    a, b = matrices(case)
    return lambda: a @ b


def matrices(case: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Two factors of the shapes `a` and `b`, stored transposed where `transposed` names them."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(case[key][::-1], np.float32).T
        if key in case["transposed"]
        else rng.standard_normal(case[key], np.float32)
        for key in "ab"
    ]
