"""Pooling over windows of channels-last images; each gradient is a gather by the row that owns it.

Shapes in memory: N images, H x W input pixels, P x Q output pixels, C channels, windows of K x L taps.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import launch
from ..compile import jit
from .memory import empty, nchw, nhwc
from .reduce import mean

Pair = tuple[int, int]
_LANES = 64  # bytes of channels in a vector; LLVM makes two or four of it where registers are shorter
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def max_pool2d(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out_hw: Pair
) -> tuple[np.ndarray, np.ndarray]:
    """(N, C, H, W) -> the maxima (N, C, P, Q), and the winner's row-major position inside its window.

    The first of equals wins, NaN wins over numbers, a padded cell never wins. Positions are uint8, or int32 for
    windows of more than 256 taps.
    """
    base = nhwc(x)
    n, h, w, c = base.shape
    y = empty((n, *out_hw, c), x.dtype)
    index = empty(y.shape, np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)
    taps = _taps((h, w), kernel, stride, padding, dilation, out_hw)
    steps = dilation[0] * w * c, dilation[1] * c, kernel[1]
    flat = base.reshape(-1), y.reshape(-1), index.reshape(-1)  # 0.2 us each here, 0.1 s each to compile
    launch(_max_pool, *flat, base.shape, *taps, steps, work=y.size * kernel[0] * kernel[1])
    return nchw(y), nchw(index)


@lru_cache(maxsize=1024)
def _taps(hw: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out_hw: Pair) -> list[np.ndarray]:
    """(windows, 3) for each axis: the first tap and the last + 1 that are no padding, and the cell of the first."""
    axes = []
    for size, taps, step, pad, spread, windows in zip(hw, kernel, stride, padding, dilation, out_hw, strict=True):
        start = np.arange(windows) * step - pad
        first = np.maximum(0, -(start // spread))
        last = np.minimum(taps, (size - 1 - start) // spread + 1)
        axes.append(np.stack([first, last, start + first * spread], axis=1))
    return axes


@jit(parts=True)
def _max_pool(cells, best, winner, shape, vertical, horizontal, steps, p, parts):
    n, h, w, c = shape
    rows, columns = len(vertical), len(horizontal)
    lanes = _LANES // cells.itemsize
    for row in range(p * n * rows // parts, (p + 1) * n * rows // parts):
        image = row // rows
        first_i, last_i, top = vertical[row - image * rows]
        for column in range(columns):
            first_j, last_j, left = horizontal[column]
            at, to = ((image * h + top) * w + left) * c, (row * columns + column) * c
            if first_i >= last_i or first_j >= last_j:  # all is padding: there is no winner, and tap 0 is no cell
                for k in range(to, to + c):
                    best[k] = -np.inf
                    winner[k] = 0
                continue
            taps = last_i - first_i, last_j - first_j, first_i * steps[2] + first_j
            for k in range(0, c, lanes):
                some = c - k if c - k < lanes else lanes
                _max_of_window(cells, at + k, steps, taps, best, winner, to + k, some)


def _max_of_window(x, at, steps, taps, best, winner, to, lanes):
    """The largest of the cells x[at + i * steps[0] + j * steps[1]], i < taps[0], j < taps[1], and its tap.

    Of `lanes` neighbouring channels at once; taps are numbered taps[2] + i * steps[2] + j.
    """
    for k in range(lanes):
        best[to + k], winner[to + k] = x[at + k], taps[2]
        for i in range(taps[0]):
            for j in range(taps[1]):
                value = x[at + i * steps[0] + j * steps[1] + k]
                if not value <= best[to + k] and best[to + k] == best[to + k]:
                    best[to + k], winner[to + k] = value, taps[2] + i * steps[2] + j


def _max_of_window_typing(typing_context, x, at, steps, taps, best, winner, to, lanes):
    """The same in registers. As a loop over channels it would be scalar for less than 16 of them: 6 times slower."""

    def codegen(context, builder, signature, values):
        scalar, place = context.get_data_type(x.dtype), context.get_data_type(winner.dtype)
        size = context.get_abi_sizeof(scalar)
        count = _LANES // size
        vector, numbers = ir.VectorType(scalar, count), ir.VectorType(_INT32, count)

        def pointer(which, kind, at):
            data = context.make_array(signature.args[which])(context, builder, values[which]).data
            return builder.gep(data, [at], source_etype=kind)

        def splat(value, kind):
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT32(0))
            return builder.shuffle_vector(one, one, ir.VectorType(_INT32, count)([0] * count))

        def masked(name, result, *args):
            kind = ir.FunctionType(result, [arg.type for arg in args])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.p0"), args)

        wide = ir.VectorType(_INT64, count)
        mask = builder.icmp_signed("<", wide(list(range(count))), splat(values[7], wide))
        (row, column, number), (tall, broad, first) = (cgutils.unpack_tuple(builder, values[k]) for k in (2, 3))
        number, first = builder.trunc(number, _INT32), builder.trunc(first, _INT32)

        def load(at):
            zeros = vector([0.0] * count)
            return masked(f"load.v{count}f{8 * size}", vector, pointer(0, scalar, at), _INT32(size), mask, zeros)

        largest = cgutils.alloca_once_value(builder, load(values[1]))
        winners = cgutils.alloca_once_value(builder, splat(first, numbers))
        with cgutils.for_range(builder, tall) as i, cgutils.for_range(builder, broad) as j:
            at = builder.add(builder.mul(i.index, row), builder.mul(j.index, column))
            value, most = load(builder.add(values[1], at)), builder.load(largest)
            tap = builder.add(builder.mul(builder.trunc(i.index, _INT32), number), builder.trunc(j.index, _INT32))
            better = builder.and_(builder.fcmp_unordered(">", value, most), builder.fcmp_ordered("==", most, most))
            builder.store(builder.select(better, value, most), largest)
            tap = splat(builder.add(first, tap), numbers)
            builder.store(builder.select(better, tap, builder.load(winners)), winners)
        out = pointer(4, scalar, values[6])
        masked(f"store.v{count}f{8 * size}", ir.VoidType(), builder.load(largest), out, _INT32(size), mask)
        chosen = builder.load(winners)
        if place.width < 32:
            chosen = builder.trunc(chosen, ir.VectorType(place, count))
        out = pointer(5, place, values[6])
        whole = builder.icmp_signed("==", values[7], _INT64(count))
        with builder.if_else(whole) as (all_lanes, some):  # without AVX-512 a masked store of bytes is a branch each
            with all_lanes:
                builder.store(chosen, builder.bitcast(out, chosen.type.as_pointer()), align=place.width // 8)
            with some:
                size_of_place = _INT32(place.width // 8)
                masked(f"store.v{count}i{place.width}", ir.VoidType(), chosen, out, size_of_place, mask)
        return context.get_dummy_value()

    integers = types.UniTuple(types.int64, 3)
    return types.void(x, types.int64, integers, integers, best, winner, types.int64, types.int64), codegen


if not numba.config.DISABLE_JIT:
    _max_of_window = intrinsic(_max_of_window_typing)


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
    windows = _taps(input_hw, kernel, stride, padding, dilation, base.shape[1:3])
    flat = base.reshape(-1), index.reshape(-1), dx.reshape(-1)
    launch(_max_scatter, *flat, dx.shape, taps, *windows, *stride, *padding, overlap, work=dx.size + 2 * base.size)
    return nchw(dx)


@lru_cache(maxsize=1024)
def _tap_offsets(kernel: Pair, dilation: Pair, row: int, channels: int) -> np.ndarray:
    """Where the taps of a window lie in memory, from its first one."""
    i, j = np.arange(kernel[0]), np.arange(kernel[1])
    return (i[:, None] * dilation[0] * row + j * dilation[1] * channels).reshape(-1)


@jit(parts=True)
def _max_scatter(g, index, dx, shape, taps, vertical, horizontal, sh, sw, ph, pw, overlap, p, parts):
    """A task owns the input rows between the windows of one output row and the next, or an image if they overlap.

    Asking from each input row which windows chose its cells is vector code and still no faster: 0.3 ms against 0.4
    at 64 channels, 2 against 0.13 at 6.
    """
    n, h, w, c = shape
    rows, columns = len(vertical), len(horizontal)
    bands = 1 if overlap else rows
    for task in range(p * n * bands // parts, (p + 1) * n * bands // parts):
        image = task // bands
        first = task - image * bands
        top = 0 if first == 0 else first * sh - ph  # not negative: windows apart have ph <= kh / 2 < sh
        bottom = h if first == bands - 1 else (first + 1) * sh - ph
        band = dx[(image * h + top) * w * c : (image * h + bottom) * w * c]
        for k in range(band.size):
            band[k] = 0
        for row in range(first, rows if overlap else first + 1):
            if vertical[row, 0] >= vertical[row, 1]:
                continue  # all is padding: nothing won
            for column in range(columns):
                if horizontal[column, 0] >= horizontal[column, 1]:
                    continue
                at = ((image * rows + row) * columns + column) * c
                values, winner = g[at : at + c], index[at : at + c]
                to = ((image * h + row * sh - ph) * w + column * sw - pw) * c
                for k in range(c):
                    dx[np.uint64(to + taps[winner[k]] + k)] += values[k]


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
