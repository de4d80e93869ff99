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
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out_hw: Pair, relu: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(N, C, H, W) -> the maxima (N, C, P, Q), and the winner's row-major position inside its window.

    The first of equals wins, NaN wins over numbers, a padded cell never wins. With relu, the maxima are those of
    max(x, 0), and where they are 0 nobody wins: the position is the number of taps. Positions are uint8, or int32 for
    windows of more than 255 taps.
    """
    base = nhwc(x)
    n, h, w, c = base.shape
    y = empty((n, *out_hw, c), x.dtype)
    index = empty(y.shape, np.uint8 if kernel[0] * kernel[1] < 256 else np.int32)
    taps = _taps((h, w), kernel, stride, padding, dilation, out_hw)
    steps = dilation[0] * w * c, dilation[1] * c, kernel[1]
    floor = x.dtype.type(0 if relu else np.nan), kernel[0] * kernel[1]
    flat = base.reshape(-1), y.reshape(-1), index.reshape(-1)  # 0.2 us each here, 0.1 s each to compile
    launch(_max_pool, *flat, base.shape, *taps, steps, floor, work=y.size * kernel[0] * kernel[1])
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
def _max_pool(cells, best, winner, shape, vertical, horizontal, steps, floor, p, parts):
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
                _max_of_window(cells, at + k, steps, taps, best, winner, to + k, some, floor)


def _max_of_window(x, at, steps, taps, best, winner, to, lanes, floor):
    """The largest of the cells x[at + i * steps[0] + j * steps[1]], i < taps[0], j < taps[1], and its tap.

    Of `lanes` neighbouring channels at once; taps are numbered taps[2] + i * steps[2] + j. Where the largest is not
    above floor[0], that and floor[1] take their places.
    """
    for k in range(lanes):
        best[to + k], winner[to + k] = x[at + k], taps[2]
        for i in range(taps[0]):
            for j in range(taps[1]):
                value = x[at + i * steps[0] + j * steps[1] + k]
                if not value <= best[to + k] and best[to + k] == best[to + k]:
                    best[to + k], winner[to + k] = value, taps[2] + i * steps[2] + j
        if best[to + k] <= floor[0]:
            best[to + k], winner[to + k] = floor


class _Window:
    """What the two code generators below share: vectors of channels, and of taps as int32.

    As loops over channels they would be scalar for less than 16 of them: 6 times slower.
    """

    def __init__(self, context, builder, signature, values, place, lanes):
        self.context, self.builder, self.kinds, self.values = context, builder, signature.args, values
        self.scalar, self.place = context.get_data_type(signature.args[0].dtype), context.get_data_type(place.dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.count = _LANES // self.size
        self.vector, self.numbers = ir.VectorType(self.scalar, self.count), ir.VectorType(_INT32, self.count)
        wide = ir.VectorType(_INT64, self.count)
        self.mask = builder.icmp_signed("<", wide(list(range(self.count))), self.splat(lanes, wide))
        self.whole = builder.icmp_signed("==", lanes, _INT64(self.count))

    def pointer(self, k, at):
        kind = self.kinds[k]
        data = self.context.make_array(kind)(self.context, self.builder, self.values[k]).data
        return self.builder.gep(data, [at], source_etype=self.context.get_data_type(kind.dtype))

    def splat(self, value, kind):
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT32(0))
        return self.builder.shuffle_vector(one, one, ir.VectorType(_INT32, self.count)([0] * self.count))

    def number(self, value):
        return self.splat(self.builder.trunc(value, _INT32), self.numbers)

    def masked(self, name, result, *args):
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.masked.{name}.p0"), args
        )

    def load(self, k, at):
        zeros, name = self.vector([0.0] * self.count), f"load.v{self.count}f{8 * self.size}"
        return self.masked(name, self.vector, self.pointer(k, at), _INT32(self.size), self.mask, zeros)

    def store(self, k, at, value):
        name = f"store.v{self.count}f{8 * self.size}"
        self.masked(name, ir.VoidType(), value, self.pointer(k, at), _INT32(self.size), self.mask)

    def taps_type(self):
        return ir.VectorType(self.place, self.count), _INT32(self.place.width // 8)

    def store_taps(self, k, at, taps):
        kind, size = self.taps_type()
        taps = self.builder.trunc(taps, kind) if self.place.width < 32 else taps
        out = self.pointer(k, at)
        with self.builder.if_else(self.whole) as (whole, some):  # without AVX-512 a masked store of bytes is branches
            with whole:
                self.builder.store(taps, self.builder.bitcast(out, kind.as_pointer()), align=size.constant)
            with some:
                name = f"store.v{self.count}i{self.place.width}"
                self.masked(name, ir.VoidType(), taps, out, size, self.mask)

    def load_taps(self, k, at):
        kind, size = self.taps_type()
        taps, place = cgutils.alloca_once(self.builder, kind), self.pointer(k, at)
        with self.builder.if_else(self.whole) as (whole, some):
            with whole:
                pointer = self.builder.bitcast(place, kind.as_pointer())
                self.builder.store(self.builder.load(pointer, align=size.constant), taps)
            with some:
                name = f"load.v{self.count}i{self.place.width}"
                self.builder.store(self.masked(name, kind, place, size, self.mask, kind([0] * self.count)), taps)
        taps = self.builder.load(taps)
        return self.builder.zext(taps, self.numbers) if self.place.width < 32 else taps

    def each_tap(self, steps, taps, body):
        """body(the cell's distance, its number) for each tap; windows of 2 x 2 take half of the time unrolled."""
        builder = self.builder
        (row, column, number), (tall, broad, first) = (cgutils.unpack_tuple(builder, v) for v in (steps, taps))

        def visit(i, j):
            tap = builder.add(first, builder.add(builder.mul(i, number), j))
            body(builder.add(builder.mul(i, row), builder.mul(j, column)), tap)

        square = builder.and_(*(builder.icmp_signed("==", n, _INT64(2)) for n in (tall, broad)))
        with builder.if_else(square) as (then, otherwise):
            with then:
                for i, j in np.ndindex(2, 2):
                    visit(_INT64(i), _INT64(j))
            with otherwise, cgutils.for_range(builder, tall) as i, cgutils.for_range(builder, broad) as j:
                visit(i.index, j.index)


def _max_of_window_typing(typing_context, x, at, steps, taps, best, winner, to, lanes, floor):
    """The same in registers."""

    def codegen(context, builder, signature, values):
        _, at, steps, taps, _, _, to, lanes, floor = values
        window = _Window(context, builder, signature, values, winner, lanes)
        largest = cgutils.alloca_once_value(builder, window.load(0, at))
        winners = cgutils.alloca_once_value(builder, window.number(cgutils.unpack_tuple(builder, taps)[2]))

        def compare(distance, tap):
            value, most = window.load(0, builder.add(at, distance)), builder.load(largest)
            better = builder.and_(builder.fcmp_unordered(">", value, most), builder.fcmp_ordered("==", most, most))
            builder.store(builder.select(better, value, most), largest)
            builder.store(builder.select(better, window.number(tap), builder.load(winners)), winners)

        window.each_tap(steps, taps, compare)
        least, nobody = cgutils.unpack_tuple(builder, floor)
        least, most = window.splat(least, window.vector), builder.load(largest)
        below = builder.fcmp_ordered("<=", most, least)
        window.store(4, to, builder.select(below, least, most))
        window.store_taps(5, to, builder.select(below, window.number(nobody), builder.load(winners)))
        return context.get_dummy_value()

    integers = types.UniTuple(types.int64, 3)
    floors = types.Tuple((x.dtype, types.int64))
    return types.void(x, types.int64, integers, integers, best, winner, types.int64, types.int64, floors), codegen


def _give_to_winners(g, winner, at, dx, to, steps, taps, lanes, add):
    """The reverse: each cell of a window gets g where its tap won, else 0, which is added to it or written."""
    for k in range(lanes):
        for i in range(taps[0]):
            for j in range(taps[1]):
                cell = to + i * steps[0] + j * steps[1] + k
                value = g[at + k] if winner[at + k] == taps[2] + i * steps[2] + j else 0
                dx[cell] = dx[cell] + value if add else value


def _give_to_winners_typing(typing_context, g, winner, at, dx, to, steps, taps, lanes, add):
    """The same in registers."""

    def codegen(context, builder, signature, values):
        _, _, at, _, to, steps, taps, lanes, add = values
        window = _Window(context, builder, signature, values, winner, lanes)
        value, winners, zeros = window.load(0, at), window.load_taps(1, at), window.vector([0.0] * window.count)
        share = cgutils.alloca_once(builder, window.vector)

        def give(distance, tap):
            cell = builder.add(to, distance)
            won = builder.icmp_signed("==", winners, window.number(tap))
            builder.store(builder.select(won, value, zeros), share)
            with builder.if_then(builder.trunc(add, ir.IntType(1))):  # loads of what was just stored make it wait
                builder.store(builder.fadd(builder.load(share), window.load(3, cell)), share)
            window.store(3, cell, builder.load(share))

        window.each_tap(steps, taps, give)
        return context.get_dummy_value()

    integers = types.UniTuple(types.int64, 3)
    int64 = types.int64
    return types.void(g, winner, int64, dx, int64, integers, integers, int64, int64), codegen


def _sum_of_window(x, at, steps, taps, y, to, lanes, scale):
    """The sum of a window's cells times scale."""
    for k in range(lanes):
        total = x.dtype.type(0)
        for i in range(taps[0]):
            for j in range(taps[1]):
                total += x[at + i * steps[0] + j * steps[1] + k]
        y[to + k] = total * scale


def _sum_of_window_typing(typing_context, x, at, steps, taps, y, to, lanes, scale):
    """The same in registers."""

    def codegen(context, builder, signature, values):
        _, at, steps, taps, _, to, lanes, scale = values
        window = _Window(context, builder, signature, values, y, lanes)
        total = cgutils.alloca_once_value(builder, window.vector([0.0] * window.count))

        def add(distance, tap):
            cell = window.load(0, builder.add(at, distance))
            builder.store(builder.fadd(builder.load(total), cell), total)

        window.each_tap(steps, taps, add)
        window.store(4, to, builder.fmul(builder.load(total), window.splat(scale, window.vector)))
        return context.get_dummy_value()

    integers = types.UniTuple(types.int64, 3)
    return types.void(x, types.int64, integers, integers, y, types.int64, types.int64, x.dtype), codegen


def _give_to_window(g, at, dx, to, steps, taps, lanes, scale, add):
    """The reverse: g times scale is added to each cell of a window, or written."""
    for k in range(lanes):
        for i in range(taps[0]):
            for j in range(taps[1]):
                cell = to + i * steps[0] + j * steps[1] + k
                dx[cell] = dx[cell] + g[at + k] * scale if add else g[at + k] * scale


def _give_to_window_typing(typing_context, g, at, dx, to, steps, taps, lanes, scale, add):
    """The same in registers."""

    def codegen(context, builder, signature, values):
        _, at, _, to, steps, taps, lanes, scale, add = values
        window = _Window(context, builder, signature, values, g, lanes)
        share = builder.fmul(window.load(0, at), window.splat(scale, window.vector))
        value = cgutils.alloca_once(builder, window.vector)

        def give(distance, tap):
            cell = builder.add(to, distance)
            builder.store(share, value)
            with builder.if_then(builder.trunc(add, ir.IntType(1))):
                builder.store(builder.fadd(share, window.load(2, cell)), value)
            window.store(2, cell, builder.load(value))

        window.each_tap(steps, taps, give)
        return context.get_dummy_value()

    integers, int64 = types.UniTuple(types.int64, 3), types.int64
    return types.void(g, int64, dx, int64, integers, integers, int64, g.dtype, int64), codegen


if not numba.config.DISABLE_JIT:
    _max_of_window = intrinsic(_max_of_window_typing)
    _give_to_winners = intrinsic(_give_to_winners_typing)
    _sum_of_window = intrinsic(_sum_of_window_typing)
    _give_to_window = intrinsic(_give_to_window_typing)


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
    h, w = input_hw
    dx = empty((n, h, w, c), g.dtype)
    overlap = any((k - 1) * d + 1 > s for k, d, s in zip(kernel, dilation, stride, strict=True))
    out_hw = base.shape[1:3]
    whole = (h, w) == (kernel[0] * out_hw[0], kernel[1] * out_hw[1])
    tiled = whole and kernel == stride and padding == (0, 0) and not overlap
    windows = _taps(input_hw, kernel, stride, padding, dilation, out_hw)
    steps = dilation[0] * w * c, dilation[1] * c, kernel[1]
    how = stride[0], padding[0], overlap, not tiled
    flat = base.reshape(-1), index.reshape(-1), dx.reshape(-1)
    launch(_max_scatter, *flat, dx.shape, *windows, steps, how, work=dx.size + 2 * base.size)
    return nchw(dx)


@jit(parts=True)
def _max_scatter(g, index, dx, shape, vertical, horizontal, steps, how, p, parts):
    """A task owns the input rows between the windows of one output row and the next, or an image if they overlap."""
    n, h, w, c = shape
    stride, padding, overlap, fill = how
    rows, columns = len(vertical), len(horizontal)
    lanes = _LANES // g.itemsize
    bands = 1 if overlap else rows
    for task in range(p * n * bands // parts, (p + 1) * n * bands // parts):
        image = task // bands
        first = task - image * bands
        if fill:
            top = 0 if first == 0 else first * stride - padding  # windows apart have padding <= kernel / 2 < stride
            bottom = h if first == bands - 1 else (first + 1) * stride - padding
            band = dx[(image * h + top) * w * c : (image * h + bottom) * w * c]
            for k in range(band.size):
                band[k] = 0
        for row in range(first, rows if overlap else first + 1):
            first_i, last_i, top = vertical[row]
            for column in range(columns):
                first_j, last_j, left = horizontal[column]
                if first_i >= last_i or first_j >= last_j:
                    continue  # all is padding: nothing won
                taps = last_i - first_i, last_j - first_j, first_i * steps[2] + first_j
                at = ((image * rows + row) * columns + column) * c
                to = ((image * h + top) * w + left) * c
                for k in range(0, c, lanes):
                    some = c - k if c - k < lanes else lanes
                    _give_to_winners(g, index, at + k, dx, to + k, steps, taps, some, overlap)


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
    launch(_avg_pool, base.reshape(-1), y.reshape(-1), base.shape, *windows, divisor or 0, work=base.size + y.size)
    return nchw(y)


@jit(parts=True)
def _avg_pool(x, y, shape, vertical, horizontal, divisor, p, parts):
    n, h, w, c = shape
    rows, columns, lanes = len(vertical), len(horizontal), _LANES // x.itemsize
    steps = w * c, c, 0
    for row in range(p * n * rows // parts, (p + 1) * n * rows // parts):
        image = row // rows
        top, bottom, height = vertical[row - image * rows]
        for column in range(columns):
            left, right, width = horizontal[column]
            scale = x.dtype.type(1 / (divisor if divisor != 0 else height * width))
            at, to = ((image * h + top) * w + left) * c, (row * columns + column) * c
            taps = bottom - top, right - left, 0
            for k in range(0, c, lanes):
                some = c - k if c - k < lanes else lanes
                _sum_of_window(x, at + k, steps, taps, y, to + k, some, scale)


def _average_grad(g: np.ndarray, input_hw: Pair, windows: list[np.ndarray], divisor: int | None) -> np.ndarray:
    base = nhwc(g)
    n, _, _, c = base.shape
    dx = empty((n, *input_hw, c), g.dtype)
    overlap = any((axis[1:, 0] < axis[:-1, 1]).any() for axis in windows)
    flat = base.reshape(-1), dx.reshape(-1)
    launch(_avg_grad, *flat, dx.shape, *windows, divisor or 0, overlap, work=dx.size + base.size)
    return nchw(dx)


@jit(parts=True)
def _avg_grad(g, dx, shape, vertical, horizontal, divisor, overlap, p, parts):
    """A task owns the input rows from one output row's windows to the next one's, or an image if they overlap."""
    n, h, w, c = shape
    rows, columns, lanes = len(vertical), len(horizontal), _LANES // g.itemsize
    steps = w * c, c, 0
    bands = 1 if overlap else rows
    for task in range(p * n * bands // parts, (p + 1) * n * bands // parts):
        image = task // bands
        first = task - image * bands
        top = 0 if first == 0 else min(vertical[first, 0], h)
        bottom = h if first == bands - 1 else min(vertical[first + 1, 0], h)
        band = dx[(image * h + top) * w * c : (image * h + bottom) * w * c]
        for k in range(band.size):
            band[k] = 0
        for row in range(first, rows if overlap else first + 1):
            top, bottom, height = vertical[row]
            for column in range(columns):
                left, right, width = horizontal[column]
                scale = g.dtype.type(1 / (divisor if divisor != 0 else height * width))
                at, to = ((image * rows + row) * columns + column) * c, ((image * h + top) * w + left) * c
                taps = bottom - top, right - left, 0
                for k in range(0, c, lanes):
                    some = c - k if c - k < lanes else lanes
                    _give_to_window(g, at + k, dx, to + k, steps, taps, some, scale, overlap)
