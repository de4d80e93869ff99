"""How a tensor shows itself: as PyTorch does, four digits, the dtype where it is not the usual one, the history."""

from __future__ import annotations

from typing import Any

import numpy as np

PRECISION = 4
EDGE_ITEMS = 3
THRESHOLD = 1000  # elements above which the middle is left out
LINE_WIDTH = 80


def tensor_repr(x: Any) -> str:
    """`tensor([1., 2.], dtype=float64, grad_fn=<MulBackward>)`."""
    prefix = "tensor("
    parts = [prefix + _body(x._array, len(prefix))]
    if x._array.size == 0 and x._array.ndim != 1:
        parts.append(f"size={tuple(x.shape)}")
    if x.dtype not in (np.float32, np.int64, np.bool_) or (x._array.size == 0 and x.dtype != np.float32):
        parts.append(f"dtype={x.dtype}")
    if x.grad_fn is not None:
        parts.append(f"grad_fn={x.grad_fn!r}")
    elif x.requires_grad:
        parts.append("requires_grad=True")
    return ", ".join(parts) + ")"


def _body(array: np.ndarray, indent: int) -> str:
    if array.size == 0:
        return "[]"
    text = np.array2string(
        array,
        separator=", ",
        prefix=" " * indent,
        threshold=THRESHOLD,
        edgeitems=EDGE_ITEMS,
        max_line_width=LINE_WIDTH,
        formatter={"all": _formatter(array)},
    )
    return text


def _formatter(array: np.ndarray) -> Any:
    """One format for all elements, as wide as the widest that is shown."""
    if array.dtype.kind == "f":
        fmt = _float_format(array)
    else:
        fmt = str
    width = max(len(fmt(v)) for v in _shown(array).flat)
    return lambda v: fmt(v).rjust(width)


def _shown(array: np.ndarray) -> np.ndarray:
    """The elements that are printed: the edges only, when there are many."""
    if array.size <= THRESHOLD:
        return array
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE_ITEMS:
            array = np.take(array, [*range(EDGE_ITEMS), *range(n - EDGE_ITEMS, n)], axis)
    return array


def _float_format(array: np.ndarray) -> Any:
    finite = np.abs(_shown(array)[np.isfinite(_shown(array))]).astype(np.float64)
    if finite.size and (finite == np.round(finite)).all() and finite.max() < 1e8:
        return lambda v: f"{v:.0f}." if np.isfinite(v) else str(v)
    nonzero = finite[finite > 0]
    if nonzero.size and (
        nonzero.max() / nonzero.min() > 1000 or nonzero.max() > 1e8 or nonzero.min() < 1e-4
    ):
        return lambda v: f"{v:.{PRECISION}e}"
    return lambda v: f"{v:.{PRECISION}f}"
