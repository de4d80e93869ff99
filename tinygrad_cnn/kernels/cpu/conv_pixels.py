"""Convolutions to few output channels, at stride 1: the lanes of a vector are neighbouring pixels.

Six channels, as LeNet's first layer has, fill 6 of the 16 lanes of a vector of channels. Here a band of the input is
copied, with its padding, to one plane for each channel; a tile is output channels x pixels, and all pixels of the band
are one line to it, so that what it computes between the rows is left unused. Then the output planes, still in the L1
cache, become channels-last pixels, perhaps the largest of each 2 x 2.

The gradients of such a convolution with a pool go the way back: what each window got becomes planes of the map's
gradient, zero where no pixel won and between the rows, and tiles of dot products sum over a whole band.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import PARALLEL_WORK, launch, threads_for
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .matmul import column_sums
from .simd import A1, A2, AK, AR, B1, B2, B_PLANE, BK, C_PLANE, FLAGS, INT32, INT64, LDC, N1, N2, N3, PLANES, TILE_ARGS
from .vectors import Vectors

#: The most output channels: so many are exchanged with pixels at once.
CHANNELS = 8
#: Bytes of a band's planes and pixels together: most of them stay in the L1 cache.
PLANE_BYTES = 64 << 10
#: Bands that there are at least, where there is work enough, so that threads finish together.
BANDS_WANTED = 8
#: Elements whose bytes are whole cache lines for every dtype.
LINE_ELEMENTS = 16
#: Shares of the gradients, each with its own sums.
SHARDS_WANTED = 8
#: The longest sum of products, see conv.FORWARD_SUM.
LONGEST_SUM = 256

# fmt: off
(TASKS, BANDS, UNITS, UNIT, HEIGHT, WIDTH, IN, OUT, X_IMAGE, Y_IMAGE, Y_ROW, PITCH, TOP, LEFT, SPAN_ROWS, X_PLANE,
 M_PLANE, M_AT, BIAS_AT, Y_AT, WINNERS_AT, SCRATCH, BIASED, RELU, VECTORS, ADDRESS, LANES, TILE) = range(28)
# and of the gradients, in the place of what they do not need
ONES_AT, SHARDS, SHARD, LINE, PAIR = BIAS_AT, BIASED, RELU, LANES, TILE + 2 * TILE_ARGS
KERNEL_ROWS, KERNEL_COLUMNS, DOWN, ACROSS, LANE_COUNT = range(PAIR + 1, PAIR + 6)
# fmt: on


@lru_cache(4096)
def find(
    char: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    biased: bool,
    spec: Conv2dSpec,
    relu: bool,
    pool: bool = False,
) -> contract.Work | None:
    """The work for x (N, C, H, W), with the 2 x 2 max-pool or without; None where lanes of channels are as fast."""
    (n, c, h, w), (o, _, kh, kw) = x_shape, w_shape
    terms = kh * kw * c
    if spec.stride != (1, 1) or spec.groups != 1 or 0 in x_shape or not 0 < o <= CHANNELS or terms > LONGEST_SUM:
        return None
    (p, q), lanes, itemsize = spec.output_hw((h, w), (kh, kw)), simd.lanes(char), np.dtype(char).itemsize
    (top, _, left, right), (dy, dx) = spec.padding, spec.dilation
    width = max(v for v in range(1, simd.max_vectors() + 1) if simd.max_rows(v) >= o)
    pitch, step, unit = left + w + right, width * lanes, 2 if pool else 1
    units, columns, span = p // unit, q // unit, (kh - 1) * dy + 1
    if units == 0 or columns == 0 or not _pays(char, terms, c, o, q, pitch, step, pool):
        return None
    work = contract.effort(n * p * q * terms * o, n * (h * w * c + p * q * o))
    bands = -(-units * unit * (c * pitch + o * (pitch + q)) * itemsize // PLANE_BYTES)
    bands = min(units, max(bands, 1 if work < PARALLEL_WORK else -(-BANDS_WANTED // n)))
    tiles, most = [], -(-units // bands)
    for rows in (units // bands * unit, most * unit):
        tile = [0] * TILE_ARGS
        tile[N1], tile[N2], tile[N3] = c, kh, kw
        tile[A1], tile[A2], tile[AK], tile[AR] = o, kw * c * o, c * o, 1
        tile[PLANES], tile[B_PLANE], tile[C_PLANE] = -(-rows * pitch // step) - 1, step, step
        tiles.append(tile)
    line = (tiles[1][PLANES] + 1) * step
    x_plane = _in_lines(line + (span - 1) * pitch + (kw - 1) * dx)
    m_plane = line + unit * lanes  # the last vectors may begin at a row's last pixel
    for tile in tiles:
        tile[B1], tile[B2], tile[BK], tile[LDC] = x_plane, dy * pitch, dx, m_plane
    pixels = _in_lines(most * columns * o + lanes * CHANNELS)
    m_at = c * x_plane
    y_at = m_at + _in_lines(o * m_plane + CHANNELS)
    head = {
        TASKS: n * bands, BANDS: bands, UNITS: units, UNIT: unit, HEIGHT: h, WIDTH: w, IN: c, OUT: o,
        X_IMAGE: h * w * c, Y_IMAGE: units * columns * o, Y_ROW: columns * o, PITCH: pitch, TOP: top, LEFT: left,
        SPAN_ROWS: span, X_PLANE: x_plane, M_PLANE: m_plane, M_AT: m_at, BIAS_AT: y_at - CHANNELS, Y_AT: y_at,
        WINNERS_AT: y_at + pixels, SCRATCH: y_at + (2 if pool else 1) * pixels, BIASED: biased, RELU: relu,
        VECTORS: -(-columns // lanes), ADDRESS: simd.tile_address(char, simd.OUTER, width, o), LANES: lanes,
    }  # fmt: skip
    plan = np.array([head[i] for i in range(TILE)] + tiles[0] + tiles[1], np.int64)
    return contract.Work(_convolve_and_pool if pool else _convolve, plan, head[SCRATCH], work)


def _in_lines(elements: int) -> int:
    """So many or some more, so that what follows them is aligned as they are: else each vector is in two lines."""
    return -(-elements // LINE_ELEMENTS) * LINE_ELEMENTS


def _pays(char: str, terms: int, c: int, o: int, q: int, pitch: int, step: int, pool: bool) -> bool:
    """Whether a row takes 9 of 10 cycles of what it would with lanes of channels, or less.

    Measured with AVX-512: a pixel from the planes takes some 2.5 cycles, an element to its plane 5 if there are several
    channels, and a pool of its own 10 a pixel.
    """
    lanes = simd.lanes(char)
    pixels = -(-q // lanes) * lanes
    planes = terms * contract.cycles(char, simd.OUTER, o, step) * pitch / step + 2.5 * pixels + 5 * (c > 1) * c * q
    return planes < 0.9 * (terms * contract.cycles(char, simd.OUTER, q, o) + 10 * pool * q)


def convolve(work: contract.Work, x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: Any, winner: np.ndarray) -> bool:
    """y and winner (N, P // 2, Q // 2, O) from x (N, H, W, C) and w (KH, KW, C, O), all C-contiguous; always True.

    A winner of size 0 is left alone.
    """
    threads = threads_for(work.work)
    scratch = memory.empty((threads * work.scratch,), x.dtype)
    bias = scratch if bias is None else memory.contiguous(bias)
    arrays = contract.flat(x), contract.flat(w), y.reshape(-1), winner.reshape(-1), bias, scratch
    launch(work.body, work.plan, *arrays, work=work.work, threads=threads)
    return True


@jit(parts=True)
def _convolve(plan, x, w, y, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the (image, band) tasks."""
    base = part * plan[SCRATCH]
    _begin(plan, bias, scratch, base)
    for task in range(plan[TASKS] * part // parts, plan[TASKS] * (part + 1) // parts):
        image, first, last = _planes(plan, x, w, task, scratch, base)
        at, to = base + plan[M_AT], base + plan[Y_AT]
        for row in range(first, last):
            pixels(
                scratch, at + (row - first) * plan[PITCH], plan[M_PLANE], base + plan[BIAS_AT],
                to + (row - first) * plan[Y_ROW], plan[OUT], plan[VECTORS], plan[RELU],
            )  # fmt: skip
        simd.copy(y, image * plan[Y_IMAGE] + first * plan[Y_ROW], scratch, to, (last - first) * plan[Y_ROW])


@jit(parts=True)
def _convolve_and_pool(plan, x, w, y, winner, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """The same, and of each 2 x 2 pixels the largest and its number."""
    base = part * plan[SCRATCH]
    _begin(plan, bias, scratch, base)
    for task in range(plan[TASKS] * part // parts, plan[TASKS] * (part + 1) // parts):
        image, first, last = _planes(plan, x, w, task, scratch, base)
        at, to, winners = base + plan[M_AT], base + plan[Y_AT], base + plan[WINNERS_AT]
        for row in range(first, last):
            done = (row - first) * plan[Y_ROW]
            largest_pixels(
                scratch, at + (row - first) * 2 * plan[PITCH], plan[PITCH], plan[M_PLANE], base + plan[BIAS_AT],
                to + done, winners, done, plan[OUT], plan[VECTORS], plan[RELU], winner.size,
            )  # fmt: skip
        place = image * plan[Y_IMAGE] + first * plan[Y_ROW]
        simd.copy(y, place, scratch, to, (last - first) * plan[Y_ROW])
        if winner.size > 0:
            simd.copy(winner, place, scratch, winners, (last - first) * plan[Y_ROW])


@inner
def _begin(plan, bias, scratch, base):  # type: ignore[no-untyped-def]
    """Zeros beside the rows of the input, which stay there, and the bias of the channels that there are."""
    simd.clear(scratch, base, plan[M_AT])
    simd.clear(scratch, base + plan[BIAS_AT], CHANNELS)
    if plan[BIASED]:
        simd.copy(scratch, base + plan[BIAS_AT], bias, 0, plan[OUT])


@inner
def _planes(plan, x, w, task, scratch, base):  # type: ignore[no-untyped-def]
    """The output planes of a task's band; its image, first row (or pair of rows) and the one after the last."""
    image, first, last = _copy_band(plan, x, task, scratch, base)
    tile = TILE + (TILE_ARGS if last - first > plan[UNITS] // plan[BANDS] else 0)
    at = base + plan[M_AT]
    simd.call_tile(plan[ADDRESS], plan, tile, w, 0, scratch, base, scratch, at, scratch, base, plan[LANES], 1)
    return image, first, last


@inner
def _copy_band(plan, x, task, scratch, base):  # type: ignore[no-untyped-def]
    """The input planes of a task's band, with their padding; what `_planes` returns."""
    bands, units, pitch = plan[BANDS], plan[UNITS], plan[PITCH]
    image, band = task // bands, task % bands
    first, last = units * band // bands, units * (band + 1) // bands
    channels, width = plan[IN], plan[WIDTH]
    top = first * plan[UNIT] - plan[TOP]
    for i in range((last - first) * plan[UNIT] + plan[SPAN_ROWS] - 1):
        row, to = top + i, base + i * pitch
        source = image * plan[X_IMAGE] + row * width * channels
        for c in range(channels):
            if row < 0 or row >= plan[HEIGHT]:
                simd.clear(scratch, to, pitch)
            elif channels == 1:
                simd.copy(scratch, to + plan[LEFT], x, source, width)
            else:
                for j in range(width):
                    scratch[to + plan[LEFT] + j] = x[source + j * channels + c]
            to += plan[X_PLANE]
    return image, first, last


class Gradients(NamedTuple):
    """The work of both gradients of the weights of a convolution with a pool, and shares with sums of their own."""

    work: contract.Work
    shards: int


@lru_cache(4096)
def find_gradients(char: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], spec: Conv2dSpec) -> Gradients | None:
    """The work for x (N, 1, H, W) where the convolution with its pool goes by planes, else None."""
    n, (o, c, kh, kw) = x_shape[0], w_shape
    forward = find(char, x_shape, w_shape, False, spec, False, True)
    if forward is None or c > 1 or o > simd.max_columns(char):
        return None
    lanes, (dy, dx) = simd.lanes(char), spec.dilation
    head = dict(enumerate(forward.plan[:TILE].tolist()))
    units, vectors, span = head[UNITS], head[VECTORS], head[SPAN_ROWS]
    pitch = head[PITCH] = max(head[PITCH], 2 * lanes * vectors)  # the last windows of a row stay clear of the next
    bytes_of_unit = 2 * (o + 2) * pitch * np.dtype(char).itemsize
    bands = max(-(-units * bytes_of_unit // PLANE_BYTES), 1 if forward.work < PARALLEL_WORK else -(-BANDS_WANTED // n))
    bands = head[BANDS] = min(units, bands)
    most = -(-units // bands)
    line = _in_lines(2 * most * pitch)
    x_plane = _in_lines(line + (span - 1) * pitch + (kw - 1) * dx)
    pixels = _in_lines(most * head[Y_ROW] + lanes * CHANNELS)
    head[TASKS], head[X_PLANE], head[M_PLANE], head[M_AT] = n * bands, x_plane, line, x_plane
    head[ONES_AT] = head[M_AT] + (o + 1) * line
    head[Y_AT] = head[ONES_AT] + line
    head[WINNERS_AT] = head[Y_AT] + pixels
    head[SCRATCH] = head[WINNERS_AT] + pixels
    head[SHARDS], head[SHARD], head[LINE] = min(SHARDS_WANTED, n * bands), (kh * kw + 1) * o, line
    head[ADDRESS] = simd.tile_address(char, simd.DOT, o, 1)
    tiles = []
    for rows in (units // bands, most):
        tile = [0] * TILE_ARGS
        tile[N3], tile[AR], tile[BK] = (2 * rows * pitch - 1) // lanes, dx, line
        tile[LDC], tile[FLAGS] = o, simd.ADD
        tiles += tile
    rest = [simd.tile_address(char, simd.DOT, o, 2), kh, kw, dy * pitch, dx, lanes]
    plan = np.array([head[i] for i in range(TILE)] + tiles + rest, np.int64)
    return Gradients(contract.Work(_gradients, plan, head[SCRATCH], forward.work), head[SHARDS])


def gradients(
    found: Gradients, x: np.ndarray, g: np.ndarray, winner: np.ndarray, kernel_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """(KH, KW, 1, O) and (O,) from x (N, H, W, 1), g and winner (N, P // 2, Q // 2, O); None if they are not finite.

    Zeros between the rows would take infinities and NaN to taps that never meet them.
    """
    work, shards = found
    taps, o = kernel_hw[0] * kernel_hw[1], g.shape[3]
    threads = threads_for(work.work)
    scratch = memory.empty((threads * work.scratch,), x.dtype)
    sums = memory.empty((shards, (taps + 1) * o), x.dtype)
    arrays = contract.flat(x), contract.flat(g), contract.flat(winner), sums.reshape(-1), scratch
    launch(work.body, work.plan, *arrays, work=work.work, threads=threads)
    total = column_sums(sums) if shards > 1 else sums[0]
    if not np.isfinite(total).all():
        return None
    return total[: taps * o].reshape(*kernel_hw, 1, o), total[taps * o :]


@jit(parts=True)
def _gradients(plan, x, g, winner, sums, scratch, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the shards, each the sums over its own tasks."""
    base, shards = part * plan[SCRATCH], plan[SHARDS]
    simd.clear(scratch, base, plan[ONES_AT])
    for k in range(plan[LINE]):
        scratch[base + plan[ONES_AT] + k] = 1
    for shard in range(shards * part // parts, shards * (part + 1) // parts):
        simd.clear(sums, shard * plan[SHARD], plan[SHARD])
        for task in range(plan[TASKS] * shard // shards, plan[TASKS] * (shard + 1) // shards):
            image, first, last = _copy_band(plan, x, task, scratch, base)
            place, size = image * plan[Y_IMAGE] + first * plan[Y_ROW], (last - first) * plan[Y_ROW]
            at, winners = base + plan[Y_AT], base + plan[WINNERS_AT]
            simd.copy(scratch, at, g, place, size)
            simd.copy(scratch, winners, winner, place, size)
            for row in range(last - first):
                done, to = row * plan[Y_ROW], base + plan[M_AT] + row * 2 * plan[PITCH]
                spread_pixels(
                    scratch, at + done, winners, done, to, plan[PITCH], plan[M_PLANE], plan[OUT], plan[VECTORS],
                    plan[Y_ROW] // plan[OUT],
                )  # fmt: skip
            _add_products(plan, last - first, sums, shard * plan[SHARD], scratch, base)


@inner
def _add_products(plan, rows, sums, to, scratch, base):  # type: ignore[no-untyped-def]
    """Add a band's dot products of each tap's pixels, and of ones, with the gradient of each output channel."""
    tile = TILE + (TILE_ARGS if rows > plan[UNITS] // plan[BANDS] else 0)
    g, columns, at = base + plan[M_AT], plan[KERNEL_COLUMNS], to
    lanes = 2 * rows * plan[PITCH] - plan[tile + N3] * plan[LANE_COUNT]
    for row in range(plan[KERNEL_ROWS]):
        for column in range(0, columns, 2):
            a = base + row * plan[DOWN] + column * plan[ACROSS]
            address = plan[PAIR] if column + 1 < columns else plan[ADDRESS]
            simd.call_tile(address, plan, tile, scratch, a, scratch, g, sums, at, sums, to, lanes, 1)
            at += min(2, columns - column) * plan[OUT]
    ones = base + plan[ONES_AT]
    simd.call_tile(plan[ADDRESS], plan, tile, scratch, ones, scratch, g, sums, at, sums, to, lanes, 1)


class _Planes(Vectors):
    """What the two ends of such a convolution share: vectors of a plane's pixels, exchanged with the channels."""

    def each(self, count: Any, o: Any, place: Any, bias_at: Any, body: Any) -> None:
        """body(v, [(place(v, channel), bias)] of 8 channels) for v < count; the last stands for those there are not."""
        builder = self.builder
        with cgutils.for_range(builder, count) as v:
            channels = []
            for i in range(CHANNELS):
                channel = builder.select(builder.icmp_signed("<", INT64(i), o), INT64(i), builder.sub(o, INT64(1)))
                bias = builder.load(self.pointer(0, bias_at, channel), typ=self.scalar)
                channels.append((place(v.index, channel), self.splat(bias)))
            body(v.index, channels)

    def write(self, channels: list[Any], pointer: Any, o: Any) -> None:
        """The pixels of 8 vectors of channels, o elements apart.

        Each is 8 elements, of which those beyond the o are overwritten by the next one's.
        """
        builder, size = self.builder, min(CHANNELS, self.lanes)
        groups = [self.exchanged(channels[i : i + size]) for i in range(0, CHANNELS, size)]
        index, step = ir.VectorType(INT32, size), builder.mul(o, INT64(self.size))
        for pixel in range(self.lanes):
            block, row = divmod(pixel, size)
            for i, group in enumerate(groups):
                lanes = index([block * size + lane for lane in range(size)])
                place = self.past(pointer, INT64(i * size * self.size))
                self.store(builder.shuffle_vector(group[row], group[row], lanes), place)
            pointer = self.past(pointer, step)

    def read(self, pointer: Any, o: Any) -> list[Any]:
        """The reverse: 8 vectors of channels, the last for none, of the pixels from there on."""
        builder, size, groups = self.builder, min(CHANNELS, self.lanes), list[Any]()
        part, step = ir.VectorType(self.scalar, size), builder.mul(o, INT64(self.size))
        pixels = [pointer]
        for _ in range(self.lanes - 1):
            pixels.append(self.past(pixels[-1], step))
        for i in range(0, CHANNELS, size):
            rows = [builder.load(self.past(p, INT64(i * self.size)), typ=part, align=self.size) for p in pixels]
            if self.lanes > size:
                both = ir.VectorType(INT32, self.lanes)(list(range(self.lanes)))
                rows = [builder.shuffle_vector(rows[k], rows[k + size], both) for k in range(size)]
            groups += self.exchanged(rows)
        return groups

    def read_words(self, pointer: Any, o: Any) -> list[Any]:
        """Bytes of 8 channels of the pixels from there on, four channels in each of two vectors of words."""
        builder, numbers = self.builder, ir.Constant(ir.VectorType(INT64, self.lanes), ir.Undefined)
        for pixel in range(self.lanes):
            numbers = builder.insert_element(numbers, builder.load(pointer, typ=INT64, align=1), INT32(pixel))
            pointer = self.past(pointer, o)
        numbers = builder.bitcast(numbers, ir.VectorType(INT32, 2 * self.lanes))
        words = ir.VectorType(INT32, self.lanes)
        return [builder.shuffle_vector(numbers, numbers, words(list(range(i, 2 * self.lanes, 2)))) for i in (0, 1)]

    def exchanged(self, rows: list[Any]) -> list[Any]:
        """Each square of as many lanes as there are rows, transposed (as in simd.transpose)."""
        rows, step, index = list(rows), 1, ir.VectorType(INT32, self.lanes)
        while step < len(rows):
            low = [lane if not lane & step else self.lanes + lane - step for lane in range(self.lanes)]
            high = [lane + step if not lane & step else self.lanes + lane for lane in range(self.lanes)]
            for i in range(len(rows)):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    rows[i] = self.builder.shuffle_vector(a, b, index(low))
                    rows[i + step] = self.builder.shuffle_vector(a, b, index(high))
            step *= 2
        return rows


def _pixels_typing(
    typing_context: Any, planes: Any, at: Any, plane: Any, bias: Any, to: Any, o: Any, count: Any, relu: Any
) -> Any:
    """`count` vectors of pixels of o planes at `at` plus their bias, or the ReLU, as pixels at `to`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, at, plane, bias, to, o, count, relu = values
        floor = on.floor(relu)

        def pointer(v: Any, channel: Any) -> Any:
            return on.pointer(0, at, builder.mul(v, INT64(on.lanes)), builder.mul(channel, plane))

        def body(v: Any, channels: list[Any]) -> None:
            rows = [on.clamped(builder.fadd(on.load(place), bias), floor) for place, bias in channels]
            on.write(rows, on.pointer(0, to, builder.mul(v, builder.mul(o, INT64(on.lanes)))), o)

        on.each(count, o, pointer, bias, body)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 7), codegen


def _largest_typing(
    typing_context: Any,
    planes: Any,
    at: Any,
    row: Any,
    plane: Any,
    bias: Any,
    to: Any,
    winners: Any,
    winners_on: Any,
    o: Any,
    count: Any,
    relu: Any,
    numbered: Any,
) -> Any:
    """The same for the largest of 2 x 2 pixels, the first of equals; NaN wins. Its number is a byte at `winners`.

    With a ReLU, where none is above 0, that is 0 and the number 4. `winners_on` counts bytes, `winners` elements.
    Where `numbered` is 0 no number is written.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, at, row, plane, bias, to, winners, winners_on, o, count, relu, numbered = values
        floor, words = on.floor(relu), ir.VectorType(INT32, on.lanes)

        def pointer(v: Any, channel: Any) -> Any:
            return on.pointer(0, at, builder.mul(v, INT64(2 * on.lanes)), builder.mul(channel, plane))

        def of_window(place: Any, bias: Any) -> list[Any]:
            """The pixels 0, 1, 2 and 3 of the windows of a vector."""
            out, vector = [], INT64(on.lanes * on.size)
            for start in (place, on.past(place, builder.mul(row, INT64(on.size)))):
                a, b = (builder.fadd(on.load(pointer), bias) for pointer in (start, on.past(start, vector)))
                columns = (words(list(range(odd, 2 * on.lanes, 2))) for odd in (0, 1))
                out += [builder.shuffle_vector(a, b, column) for column in columns]
            return out

        def largest(place: Any, bias: Any, shift: int) -> tuple[Any, Any]:
            """The largest pixels, and their numbers at bit `shift` of 32-bit words."""

            def number(tap: int) -> Any:
                return words([tap << shift] * on.lanes)

            best, *others = of_window(place, bias)
            winner = number(0)
            for tap, value in enumerate(others, 1):
                better = builder.fcmp_unordered(">", value, best)
                better = builder.and_(better, builder.fcmp_ordered("ord", best, best))
                best, winner = builder.select(better, value, best), builder.select(better, number(tap), winner)
            below = builder.fcmp_ordered("<=", best, floor)
            return builder.select(below, floor, best), builder.select(below, number(4), winner)

        def body(v: Any, channels: list[tuple[Any, Any]]) -> None:
            found = [largest(place, bias, i % 4 * 8) for i, (place, bias) in enumerate(channels)]
            done = builder.mul(v, builder.mul(o, INT64(on.lanes)))
            on.write([best for best, _ in found], on.pointer(0, to, done), o)
            with builder.if_then(builder.icmp_signed("!=", numbered, INT64(0))):
                write_numbers(found, done)

        def write_numbers(found: list[Any], done: Any) -> None:
            halves = [reduce(builder.or_, [word for _, word in found[i : i + 4]]) for i in range(0, CHANNELS, 4)]
            pairs = [half * on.lanes + lane for lane in range(on.lanes) for half in (0, 1)]
            numbers = builder.shuffle_vector(*halves, ir.VectorType(INT32, 2 * on.lanes)(pairs))
            numbers = builder.bitcast(numbers, ir.VectorType(INT64, on.lanes))
            place = on.past(on.past(on.pointer(0, winners), winners_on), done)
            for pixel in range(on.lanes):
                number = builder.extract_element(numbers, INT32(pixel))
                builder.store(number, builder.bitcast(place, INT64.as_pointer()), align=1)
                place = on.past(place, o)

        on.each(count, o, pointer, bias, body)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 11), codegen


def _spread_typing(
    typing_context: Any,
    planes: Any,
    at: Any,
    winners: Any,
    winners_on: Any,
    to: Any,
    row: Any,
    plane: Any,
    o: Any,
    count: Any,
    windows: Any,
) -> Any:
    """The reverse: two rows of o planes at `to`, from a row of windows, `count` vectors of them, at `at`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, at, winners, winners_on, to, row, plane, o, count, windows = values
        words, lanes = ir.VectorType(INT32, on.lanes), on.lanes
        down = builder.mul(row, INT64(on.size))

        def words_of(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(words, ir.Undefined), builder.trunc(value, INT32), INT32(0))
            return builder.shuffle_vector(one, one, words([0] * lanes))

        def give(channel: Any, word: Any, shift: int, start: Any) -> None:
            """A channel's values to the pixels that won, zero to the others."""
            number = builder.and_(word, words([0xFF << shift if shift < 24 else -1 << 24] * lanes))
            shares = []
            for tap in range(4):
                won = builder.icmp_signed("==", number, words([tap << shift] * lanes))
                shares.append(builder.select(won, channel, on.zero))
            for i in (0, 1):
                for half in (0, 1):
                    pairs = [n * lanes + half * lanes // 2 + k for k in range(lanes // 2) for n in (0, 1)]
                    value = builder.shuffle_vector(*shares[2 * i : 2 * i + 2], words(pairs))
                    place = on.past(start, INT64(half * lanes * on.size))
                    on.store(value, on.past(place, down) if i else place)

        with cgutils.for_range(builder, count) as v:
            done = builder.mul(v.index, INT64(lanes))
            place = on.past(on.past(on.pointer(0, winners), winners_on), builder.mul(done, o))
            channels = on.read(on.pointer(0, at, builder.mul(done, o)), o)
            numbers = on.read_words(place, o)
            inside = builder.icmp_signed(">", words_of(builder.sub(windows, done)), words(list(range(lanes))))
            for i, channel in enumerate(channels):
                plane_of = builder.select(builder.icmp_signed("<", INT64(i), o), INT64(i), o)
                start = on.pointer(0, to, builder.mul(done, INT64(2)), builder.mul(plane_of, plane))
                give(builder.select(inside, channel, on.zero), numbers[i // 4], i % 4 * 8, start)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 9), codegen


if not numba.config.DISABLE_JIT:
    pixels, largest_pixels, spread_pixels = map(intrinsic, (_pixels_typing, _largest_typing, _spread_typing))
