"""Whether tensors are the same: one answer for all elements, as a Python bool."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dims import array_of


def equal(input: Any, other: Any) -> bool:
    """Whether the tensors have one shape and equal elements; NaN equals nothing."""
    return np.array_equal(array_of("equal", input), array_of("equal", other))


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |input - other| <= atol + rtol * |other| everywhere; broadcasts.

    RuntimeError when the dtypes differ or the shapes do not fit.

    >>> import tinygrad_cnn as tg
    >>> tg.allclose(tg.ones(2), tg.tensor([1.0, 1.000001]))
    True
    """
    a, b = array_of("allclose", input), array_of("allclose", other)
    if a.dtype != b.dtype:
        raise RuntimeError(f"allclose: dtypes {a.dtype} and {b.dtype} differ; cast one with .to()")
    try:
        return np.allclose(a, b, rtol, atol, equal_nan)
    except ValueError:
        raise RuntimeError(f"allclose: shapes {a.shape} and {b.shape} do not broadcast") from None
