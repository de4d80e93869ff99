"""The same numbers laid out in memory in every way that NumPy knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def contiguous(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="C")


def fortran(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="F")


def transposed(x: np.ndarray) -> np.ndarray:
    """The last two axes trade places in memory; fewer than two axes stay."""
    return x.swapaxes(-1, -2).copy().swapaxes(-1, -2) if x.ndim > 1 else x.copy()


def strided(x: np.ndarray) -> np.ndarray:
    """Every second element of a larger array, along each axis."""
    large = np.full(tuple(2 * n for n in x.shape), -99, x.dtype)
    every_second: tuple[Any, ...] = (*[slice(None, None, 2)] * x.ndim, ...)
    view: np.ndarray = large[every_second]
    view[...] = x
    return view


def reversed(x: np.ndarray) -> np.ndarray:
    """Negative strides along every axis."""
    return np.flip(np.flip(x).copy()) if x.ndim else x.copy()


def offset(x: np.ndarray) -> np.ndarray:
    """A contiguous part of a larger array, not at its start: aligned to the element only."""
    return np.concatenate([np.zeros(1, x.dtype), x.ravel()])[1:].reshape(x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.flags.writeable = False
    return y


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) with the memory of (N, ..., C)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 2 else x.copy()


#: All of them by name; each returns a new array equal to its argument.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": contiguous,
    "F": fortran,
    "transposed": transposed,
    "strided": strided,
    "reversed": reversed,
    "offset": offset,
    "read-only": read_only,
    "channels-last": channels_last,
}


def recast(x: np.ndarray, dtype: Any) -> np.ndarray:
    """The numbers in another dtype, with the same strides in elements: `astype` would close the gaps."""
    if x.dtype == dtype:
        return x
    steps = [s // x.itemsize for s in x.strides]
    reach = [s * (n - 1) for s, n in zip(steps, x.shape, strict=True)]
    before = -sum(min(r, 0) for r in reach)
    flat = np.zeros(before + sum(max(r, 0) for r in reach) + 1 if x.size else 0, dtype)
    strides = [s * flat.itemsize for s in steps]
    y = np.lib.stride_tricks.as_strided(flat[before:], x.shape, strides)
    y[...] = x
    if not x.flags.writeable:
        y.flags.writeable = False
    return y


def broadcast(x: np.ndarray) -> np.ndarray:
    """The first row of x for every row, with stride 0; unlike the others it changes the numbers."""
    return np.broadcast_to(x[:1], x.shape)
