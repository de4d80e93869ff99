"""How a tensor shows itself: as PyTorch does, four digits, the dtype where it is not the usual one, the history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

PRECISION = 4
EDGE_ITEMS = 3
THRESHOLD = 1000  # elements above which the middle is left out
LINE_WIDTH = 80


def tensor_repr(x: Any) -> str:
    """`tensor([1., 2.], dtype=float64, grad_fn=<MulBackward>)`."""
    array, prefix = x._array, "tensor("
    parts = []
    if array.size == 0 and array.ndim != 1:
        parts.append(f"size={array.shape}")
    if array.dtype not in (np.float32, np.int64, np.bool_) or (array.size == 0 and array.dtype != np.float32):
        parts.append(f"dtype={array.dtype}")
    if x.grad_fn is not None:
        parts.append(f"grad_fn={x.grad_fn!r}")
    elif x.requires_grad:
        parts.append("requires_grad=True")
    return prefix + _with_parts(_body(array, len(prefix)), parts, len(prefix)) + ")"


def _with_parts(text: str, parts: list[str], indent: int) -> str:
    """The parts after the numbers, on a line of their own where they do not fit."""
    width = len(text) - text.rfind("\n") + 1
    for part in parts:
        if width + len(part) + 2 > LINE_WIDTH:
            text += ",\n" + " " * indent + part
            width = indent + len(part)
        else:
            text += ", " + part
            width += len(part) + 2
    return text


def _body(array: np.ndarray, indent: int) -> str:
    if array.size == 0:
        return "[]"
    short = array.size > THRESHOLD
    shown = _edges(array) if short else array
    fmt, width = _formatter(shown)
    return _nested(shown, indent, short, array.shape, lambda v: fmt(v).rjust(width))


def _edges(array: np.ndarray) -> np.ndarray:
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE_ITEMS:
            array = np.take(array, [*range(EDGE_ITEMS), *range(n - EDGE_ITEMS, n)], axis)
    return array


def _nested(array: np.ndarray, indent: int, short: bool, shape: tuple[int, ...], fmt: Callable[[Any], str]) -> str:
    """The brackets; `shape` is that of the whole tensor, of which a short one shows the edges."""
    if array.ndim == 0:
        return fmt(array.item())
    if array.ndim == 1:
        items = [fmt(v) for v in array.tolist()]
        per_line = max(1, (LINE_WIDTH - indent) // (len(items[0]) + 2)) if items else 1
        items = _elided(items, " ...", short and shape[0] > 2 * EDGE_ITEMS)
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows = [_nested(row, indent + 1, short, shape[1:], fmt) for row in array]
    rows = _elided(rows, "...", short and shape[0] > 2 * EDGE_ITEMS)
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(rows) + "]"


def _elided(items: list[str], dots: str, is_short: bool) -> list[str]:
    return [*items[:EDGE_ITEMS], dots, *items[-EDGE_ITEMS:]] if is_short else items


def _formatter(shown: np.ndarray) -> tuple[Callable[[Any], str], int]:
    """How to write an element, and the width of the widest; zeros, infinities and NaN are fitted in."""
    if shown.dtype.kind != "f":
        return str, max(len(str(v)) for v in shown.flat)
    fmt = _float_format(shown)
    finite = shown[np.isfinite(shown) & (shown != 0)]
    return fmt, max((len(fmt(v)) for v in finite.tolist()), default=1)


def _float_format(shown: np.ndarray) -> Callable[[Any], str]:
    """Whole numbers as "2.", others with four digits, very large, small or unlike ones with an exponent."""
    size = np.abs(shown[np.isfinite(shown) & (shown != 0)]).astype(np.float64)
    whole = bool((size == np.floor(size)).all())
    if size.size and (size.max() / size.min() > 1000 or size.max() > 1e8 or (size.min() < 1e-4 and not whole)):
        return lambda v: f"{v:.{PRECISION}e}"
    if whole:
        return lambda v: f"{v:.0f}." if math.isfinite(v) else str(v)
    return lambda v: f"{v:.{PRECISION}f}"
