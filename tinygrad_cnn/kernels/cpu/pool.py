"""Pooling over windows of channels-last images; each gradient is a gather by the row that owns it.

Shapes in memory: N images, H x W input pixels, P x Q output pixels, C channels, windows of K x L taps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .. import launch
from ..compile import jit
from .memory import empty, nchw, nhwc
from .reduce import mean

Pair = tuple[int, int]


def max_pool2d(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out_hw: Pair
) -> tuple[np.ndarray, np.ndarray]:
    """(N, C, H, W) -> the maxima (N, C, P, Q), and the winner's row-major position inside its window.

    The first of equals wins, NaN wins over numbers, a padded cell never wins. Positions are uint8, or int32 for
    windows of more than 256 taps.
    """
    base = nhwc(x)
    n, _, _, c = base.shape
    y = empty((n, *out_hw, c), x.dtype)
    index = empty(y.shape, np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)
    launch(_max_pool, base, y, index, *kernel, *stride, *padding, *dilation, work=y.size * kernel[0] * kernel[1])
    return nchw(y), nchw(index)


@jit(parts=True)
def _max_pool(x, y, index, kh, kw, sh, sw, ph, pw, dh, dw, p, parts):
    n, h, w, c = x.shape
    rows, columns = y.shape[1], y.shape[2]
    for row in range(p * n * rows // parts, (p + 1) * n * rows // parts):
        image = row // rows
        top = (row - image * rows) * sh - ph
        for column in range(columns):
            left = column * sw - pw
            best = y[image, row - image * rows, column]
            winner = index[image, row - image * rows, column]
            first = True
            for i in range(kh):
                if top + i * dh < 0 or top + i * dh >= h:
                    continue
                for j in range(kw):
                    if left + j * dw < 0 or left + j * dw >= w:
                        continue
                    cell = x[image, top + i * dh, left + j * dw]
                    tap = index.dtype.type(i * kw + j)
                    if first:
                        first = False
                        for k in range(c):
                            best[k] = cell[k]
                            winner[k] = tap
                    else:
                        for k in range(c):
                            v, m = cell[k], best[k]
                            better = (not v <= m) & (m == m)
                            best[k] = v if better else m
                            winner[k] = tap if better else winner[k]
            if first:  # the window lies in the padding: there is no winner, and tap 0 is no cell
                for k in range(c):
                    best[k] = -np.inf
                    winner[k] = 0


def max_pool2d_scatter(
    g: np.ndarray,
    index: np.ndarray,
    input_hw: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> np.ndarray:
    """(N, C, P, Q) -> (N, C, H, W): each value goes to the cell that won its window; the gradient of max_pool2d."""
    base, index = nhwc(g), nhwc(index)
    n, _, _, c = base.shape
    dx = empty((n, *input_hw, c), g.dtype)
    overlap = (kernel[0] - 1) * dilation[0] + 1 > stride[0]
    taps = _tap_offsets(kernel, dilation, input_hw[1] * c, c)
    full = [
        _has_a_cell(*axis) for axis in zip(input_hw, kernel, stride, padding, dilation, base.shape[1:3], strict=True)
    ]
    launch(_max_scatter, base, index, dx, taps, *full, *stride, *padding, overlap, work=dx.size + 2 * base.size)
    return nchw(dx)


@lru_cache(maxsize=1024)
def _tap_offsets(kernel: Pair, dilation: Pair, row: int, channels: int) -> np.ndarray:
    """Where the taps of a window lie in memory, from its first one."""
    i, j = np.arange(kernel[0]), np.arange(kernel[1])
    return (i[:, None] * dilation[0] * row + j * dilation[1] * channels).reshape(-1)


@lru_cache(maxsize=1024)
def _has_a_cell(size: int, kernel: int, stride: int, padding: int, dilation: int, windows: int) -> np.ndarray:
    """Which windows contain a cell that is not padding, along one axis."""
    cells = np.arange(windows)[:, None] * stride - padding + np.arange(kernel) * dilation
    return ((cells >= 0) & (cells < size)).any(axis=1)


@jit(parts=True)
def _max_scatter(g, index, dx, taps, full_rows, full_columns, sh, sw, ph, pw, overlap, p, parts):
    """A task owns the input rows between the windows of one output row and the next, or an image if they overlap.

    Asking from each input row which windows chose its cells is vector code and still no faster: 0.3 ms against 0.4
    at 64 channels, 2 against 0.13 at 6.
    """
    n, h, w, c = dx.shape
    rows, columns = g.shape[1], g.shape[2]
    bands = 1 if overlap else rows
    for task in range(p * n * bands // parts, (p + 1) * n * bands // parts):
        image = task // bands
        first = task - image * bands
        top = 0 if first == 0 else max(0, first * sh - ph)
        bottom = h if first == bands - 1 else max(0, (first + 1) * sh - ph)
        flat = dx[image].reshape(-1)
        band = flat[top * w * c : bottom * w * c]
        for k in range(band.size):
            band[k] = 0
        for row in range(first, rows if overlap else first + 1):
            if not full_rows[row]:
                continue
            for column in range(columns):
                if not full_columns[column]:
                    continue
                values, winner = g[image, row, column], index[image, row, column]
                start = ((row * sh - ph) * w + column * sw - pw) * c
                for k in range(c):
                    flat[np.uint64(start + taps[winner[k]] + k)] += values[k]


def max_pool2d_gather(
    x: np.ndarray, index: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> np.ndarray:
    """(N, C, H, W) -> (N, C, P, Q): from each window the cell at the given position; max_pool2d_scatter's adjoint."""
    base, index = nhwc(x), nhwc(index)
    y = empty(index.shape, x.dtype)
    work = y.size * kernel[0] * kernel[1]
    launch(_max_gather, base, index, y, *kernel, *stride, *padding, *dilation, work=work)
    return nchw(y)


@jit(parts=True)
def _max_gather(x, index, y, kh, kw, sh, sw, ph, pw, dh, dw, p, parts):
    n, h, w, c = x.shape
    rows, columns = y.shape[1], y.shape[2]
    for row in range(p * n * rows // parts, (p + 1) * n * rows // parts):
        image = row // rows
        top = (row - image * rows) * sh - ph
        for column in range(columns):
            left = column * sw - pw
            out = y[image, row - image * rows, column]
            winner = index[image, row - image * rows, column]
            for k in range(c):
                out[k] = 0
            for i in range(kh):
                if top + i * dh < 0 or top + i * dh >= h:
                    continue
                for j in range(kw):
                    if left + j * dw < 0 or left + j * dw >= w:
                        continue
                    cell = x[image, top + i * dh, left + j * dw]
                    tap = index.dtype.type(i * kw + j)
                    for k in range(c):
                        out[k] = cell[k] if winner[k] == tap else out[k]


def avg_pool2d(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    out_hw: Pair,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """(N, C, H, W) -> the means (N, C, P, Q) of the windows; padded cells count as zeros, or not at all."""
    windows = [
        _windows(*axis, count_include_pad, divisor_override)
        for axis in zip(x.shape[2:], kernel, stride, padding, out_hw, strict=True)
    ]
    return _average(x, windows, divisor_override)


def avg_pool2d_grad(
    g: np.ndarray,
    input_hw: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """(N, C, P, Q) -> (N, C, H, W): the adjoint of avg_pool2d."""
    windows = [
        _windows(*axis, count_include_pad, divisor_override)
        for axis in zip(input_hw, kernel, stride, padding, g.shape[2:], strict=True)
    ]
    return _average_grad(g, input_hw, windows, divisor_override)


def adaptive_avg_pool2d(x: np.ndarray, out_hw: Pair) -> np.ndarray:
    """(N, C, H, W) -> (N, C, P, Q): window i covers the cells from floor(i H / P) to ceil((i + 1) H / P)."""
    if out_hw == (1, 1):
        return mean(x, (2, 3), keepdims=True)
    return _average(x, [_adaptive_windows(*axis) for axis in zip(x.shape[2:], out_hw, strict=True)], None)


def adaptive_avg_pool2d_grad(g: np.ndarray, input_hw: Pair) -> np.ndarray:
    """(N, C, P, Q) -> (N, C, H, W): the adjoint of adaptive_avg_pool2d."""
    windows = [_adaptive_windows(*axis) for axis in zip(input_hw, g.shape[2:], strict=True)]
    return _average_grad(g, input_hw, windows, None)


@lru_cache(maxsize=1024)
def _windows(
    size: int, kernel: int, stride: int, padding: int, windows: int, include_pad: bool, divisor: int | None
) -> np.ndarray:
    """(windows, 3): first cell, last cell + 1, and the number of cells that count, along one axis."""
    first = np.arange(windows) * stride - padding
    last = np.minimum(first + kernel, size + padding)  # a window that hangs over counts up to the padding
    inside = np.maximum(first, 0), np.minimum(last, size)
    return np.stack([*inside, last - first if include_pad else np.maximum(inside[1] - inside[0], 1)], axis=1)


@lru_cache(maxsize=1024)
def _adaptive_windows(size: int, windows: int) -> np.ndarray:
    i = np.arange(windows)
    first, last = i * size // windows, -(-(i + 1) * size // windows)
    return np.stack([first, last, last - first], axis=1)


def _average(x: np.ndarray, windows: list[np.ndarray], divisor: int | None) -> np.ndarray:
    base = nhwc(x)
    n, _, _, c = base.shape
    y = empty((n, len(windows[0]), len(windows[1]), c), x.dtype)
    launch(_avg_pool, base, y, *windows, divisor or 0, work=base.size + y.size)
    return nchw(y)


@jit(parts=True)
def _avg_pool(x, y, vertical, horizontal, divisor, p, parts):
    n, rows, columns, c = y.shape
    for row in range(p * n * rows // parts, (p + 1) * n * rows // parts):
        image = row // rows
        top, bottom, height = vertical[row - image * rows]
        for column in range(columns):
            left, right, width = horizontal[column]
            out = y[image, row - image * rows, column]
            for k in range(c):
                out[k] = 0
            for i in range(top, bottom):
                for j in range(left, right):
                    cell = x[image, i, j]
                    for k in range(c):
                        out[k] += cell[k]
            scale = y.dtype.type(1 / (divisor if divisor != 0 else height * width))
            for k in range(c):
                out[k] *= scale


def _average_grad(g: np.ndarray, input_hw: Pair, windows: list[np.ndarray], divisor: int | None) -> np.ndarray:
    base = nhwc(g)
    n, _, _, c = base.shape
    dx = empty((n, *input_hw, c), g.dtype)
    launch(_avg_grad, base, dx, *windows, divisor or 0, work=dx.size + base.size)
    return nchw(dx)


@jit(parts=True)
def _avg_grad(g, dx, vertical, horizontal, divisor, p, parts):
    """Each input row takes its share from the windows that contain it."""
    n, h, _, c = dx.shape
    rows, columns = g.shape[1], g.shape[2]
    for row in range(p * n * h // parts, (p + 1) * n * h // parts):
        image = row // h
        line = dx[image, row - image * h]
        flat = line.reshape(-1)
        for k in range(flat.size):
            flat[k] = 0
        for r in range(rows):
            top, bottom, height = vertical[r]
            if row - image * h < top or row - image * h >= bottom:
                continue
            for column in range(columns):
                left, right, width = horizontal[column]
                values = g[image, r, column]
                scale = g.dtype.type(1 / (divisor if divisor != 0 else height * width))
                for j in range(left, right):
                    cell = line[j]
                    for k in range(c):
                        cell[k] += scale * values[k]
