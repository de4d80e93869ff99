"""What NumPy (its OpenBLAS) runs of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def set_threads(threads: int) -> None:
    """The environment says it: `OPENBLAS_NUM_THREADS`."""


def matmul(case: dict[str, Any], mode: str) -> Callable[[], Any]:
    a, b = matrices(case)
    return lambda: a @ b


def linear(case: dict[str, Any], mode: str) -> Callable[[], Any]:
    x, w, bias, g = layer(case)
    return (lambda: (g @ w, g.T @ x, g.sum(0))) if case["backward"] else (lambda: x @ w.T + bias)


def matrices(case: dict[str, Any]) -> list[Array]:
    """Two (n, n) factors, stored transposed where `transposed` names them."""
    rng, n = np.random.default_rng(0), case["n"]
    drawn = [rng.standard_normal((n, n), np.float32) for _ in "ab"]
    return [x.T if name in case["transposed"] else x for name, x in zip("ab", drawn, strict=True)]


def layer(case: dict[str, Any]) -> list[Array]:
    """Of a linear layer: input (n, i), weight (o, i), bias (o,), and the gradient of the output (n, o)."""
    rng, i, o, n = np.random.default_rng(0), case["i"], case["o"], case["n"]
    return [rng.standard_normal(shape, np.float32) for shape in ((n, i), (o, i), (o,), (n, o))]
