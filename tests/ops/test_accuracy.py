"""Errors of the elementwise functions in float32, in units of the last place, over the whole range of bit patterns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F

Function = Callable[[Any], Any]
erf, erfc = (np.vectorize(f, otypes=[np.float64]) for f in (math.erf, math.erfc))


def sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> Any:
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))  # (1 + tanh(u)) / 2 without cancellation


#: By name: ours, a float64 reference, and the units allowed.
FUNCTIONS: dict[str, tuple[Function, Function, float]] = {
    "exp": (tg.exp, np.exp, 4),
    "expm1": (tg.expm1, np.expm1, 2),
    "log": (tg.log, np.log, 4),
    "log1p": (tg.log1p, np.log1p, 2),
    "tanh": (tg.tanh, np.tanh, 4),
    "sigmoid": (tg.sigmoid, sigmoid, 2),
    "sqrt": (tg.sqrt, np.sqrt, 0.5),
    "rsqrt": (tg.rsqrt, lambda x: 1 / np.sqrt(x), 2),
    "reciprocal": (tg.reciprocal, lambda x: 1 / x, 0.5),
    "square": (tg.square, np.square, 0.5),
    "sin": (tg.sin, np.sin, 2),
    "cos": (tg.cos, np.cos, 2),
    "erf": (tg.erf, erf, 2),
    "elu": (F.elu, lambda x: np.where(x > 0, x, np.expm1(x)), 2),
    "gelu": (F.gelu, lambda x: 0.5 * x * erfc(-x / math.sqrt(2)), 2),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), gelu_tanh, 2),
    "silu": (F.silu, lambda x: x * sigmoid(x), 2),
    "softplus": (F.softplus, lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))), 2),
    "x ** 3": (lambda x: x**3, lambda x: x * x * x, 2),
    "x ** -1.5": (lambda x: x**-1.5, lambda x: x**-1.5, 2),
    "2 ** x": (lambda x: 2**x, np.exp2, 2),
    "x / 3": (lambda x: x / 3, lambda x: x / 3, 0.5),
}


def largest_error(name: str, patterns: np.ndarray) -> tuple[float, float]:
    """In units of the last place of the true result, and where; NaN and infinity must be where they should be."""
    x = patterns.astype(np.uint32).view(np.float32)
    ours, reference, _ = FUNCTIONS[name]
    y = ours(tg.from_numpy(x)).numpy()
    with np.errstate(all="ignore"):
        true = np.asarray(reference(x.astype(np.float64)), np.float64)
        rounded = true.astype(np.float32)
        units = np.abs(y - true) / np.spacing(np.abs(rounded)).astype(np.float64)
    assert y.dtype == np.float32
    same = (y == rounded) | (np.isnan(y) & np.isnan(true))
    units = np.where(same & ~np.isfinite(rounded), 0.0, np.nan_to_num(units, nan=np.inf))
    worst = int(np.argmax(units))
    return float(units[worst]), float(x[worst])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(name: str) -> None:
    """At 2**18 of the 2**32 bit patterns, one in each interval of equal length."""
    step = 2**14
    patterns = np.arange(0, 2**32, step) + np.random.default_rng(0).integers(0, step, 2**32 // step)
    error, at = largest_error(name, patterns)
    assert error <= FUNCTIONS[name][2], f"{error:.2f} units at {at!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place_at_every_64th_pattern(name: str) -> None:
    for start in range(0, 2**32, 2**26):
        error, at = largest_error(name, np.arange(start + 17, start + 2**26, 64))
        assert error <= FUNCTIONS[name][2], f"{error:.2f} units at {at!r}"
