"""Convolutions to few output channels, at stride 1: the lanes of a vector are neighbouring pixels.

Six channels, as LeNet's first layer has, fill 6 of the 16 lanes of a vector of channels. Here a band of the input is
copied, with its padding, to one plane for each channel; a tile is output channels x pixels, and all pixels of the band
are one line to it, so that what it computes between the rows is left unused. Then the output planes, still in the L1
cache, become channels-last pixels, perhaps the largest of each 2 x 2.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import Any

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
from .simd import A1, A2, AK, AR, B1, B2, B_PLANE, BK, C_PLANE, INT32, INT64, LDC, N1, N2, N3, PLANES, TILE_ARGS
from .vectors import Vectors

#: The most output channels: so many are exchanged with pixels at once.
CHANNELS = 8
#: Bytes of a band's planes and pixels together: most of them stay in the L1 cache.
PLANE_BYTES = 64 << 10
#: Bands that there are at least, where there is work enough, so that threads finish together.
BANDS_WANTED = 8
#: The longest sum of products, see conv.FORWARD_SUM.
LONGEST_SUM = 256

# fmt: off
(TASKS, BANDS, UNITS, UNIT, HEIGHT, WIDTH, IN, OUT, X_IMAGE, Y_IMAGE, Y_ROW, PITCH, TOP, LEFT, SPAN_ROWS, X_PLANE,
 M_PLANE, M_AT, BIAS_AT, Y_AT, WINNERS_AT, SCRATCH, BIASED, RELU, VECTORS, ADDRESS, LANES, TILE) = range(28)
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
    x_plane = line + (span - 1) * pitch + (kw - 1) * dx
    m_plane = line + unit * lanes  # the last vectors may begin at a row's last pixel
    for tile in tiles:
        tile[B1], tile[B2], tile[BK], tile[LDC] = x_plane, dy * pitch, dx, m_plane
    pixels = most * columns * o + lanes * CHANNELS
    m_at = c * x_plane
    y_at = m_at + o * m_plane + CHANNELS
    head = {
        TASKS: n * bands, BANDS: bands, UNITS: units, UNIT: unit, HEIGHT: h, WIDTH: w, IN: c, OUT: o,
        X_IMAGE: h * w * c, Y_IMAGE: units * columns * o, Y_ROW: columns * o, PITCH: pitch, TOP: top, LEFT: left,
        SPAN_ROWS: span, X_PLANE: x_plane, M_PLANE: m_plane, M_AT: m_at, BIAS_AT: y_at - CHANNELS, Y_AT: y_at,
        WINNERS_AT: y_at + pixels, SCRATCH: y_at + (2 if pool else 1) * pixels, BIASED: biased, RELU: relu,
        VECTORS: -(-columns // lanes), ADDRESS: simd.tile_address(char, simd.OUTER, width, o), LANES: lanes,
    }  # fmt: skip
    plan = np.array([head[i] for i in range(TILE)] + tiles[0] + tiles[1], np.int64)
    return contract.Work(_convolve_and_pool if pool else _convolve, plan, head[SCRATCH], work)


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
    """y and winner (N, P // 2, Q // 2, O) from x (N, H, W, C) and w (KH, KW, C, O), all C-contiguous; always True."""
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
                to + done, winners, done, plan[OUT], plan[VECTORS], plan[RELU],
            )  # fmt: skip
        place = image * plan[Y_IMAGE] + first * plan[Y_ROW]
        simd.copy(y, place, scratch, to, (last - first) * plan[Y_ROW])
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
    tile = TILE + (TILE_ARGS if last - first > units // bands else 0)
    at = base + plan[M_AT]
    simd.call_tile(plan[ADDRESS], plan, tile, w, 0, scratch, base, scratch, at, scratch, base, plan[LANES], 1)
    return image, first, last


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
) -> Any:
    """The same for the largest of 2 x 2 pixels, the first of equals; NaN wins. Its number is a byte at `winners`.

    With a ReLU, where none is above 0, that is 0 and the number 4. `winners_on` counts bytes, `winners` elements.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, at, row, plane, bias, to, winners, winners_on, o, count, relu = values
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

    return types.none(planes, *[types.int64] * 10), codegen


if not numba.config.DISABLE_JIT:
    pixels, largest_pixels = intrinsic(_pixels_typing), intrinsic(_largest_typing)
