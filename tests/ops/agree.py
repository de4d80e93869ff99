"""What the tests of ops say of most of them: the value is NumPy's, and both gradients are the function's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn.testing import gradcheck, gradgradcheck


def agree(
    fn: Callable[..., Any],
    reference: Callable[..., Any],
    *inputs: np.ndarray,
    degree: int | None = None,
    rtol: float = 1e-13,
    gradients: bool = True,
) -> None:
    """fn of tensors equals reference of arrays in value, shape and dtype, and its gradients are right."""
    xs = [tg.from_numpy(x) for x in inputs]
    expected = np.asarray(reference(*inputs))
    value = fn(*xs)
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype
    np.testing.assert_allclose(value.numpy(), expected, rtol=rtol, atol=rtol)
    if gradients:
        gradcheck(fn, xs, degree=degree)
        gradgradcheck(fn, xs, degree=degree)
