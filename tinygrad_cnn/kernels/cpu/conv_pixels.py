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
#: Elements whose bytes are whole cache lines for every dtype.
LINE_ELEMENTS = 16
#: The longest sum of products, see conv.FORWARD_SUM.
LONGEST_SUM = 256

# fmt: off
(TASKS, BANDS, UNITS, UNIT, HEIGHT, WIDTH, IN, OUT, X_IMAGE, Y_IMAGE, Y_ROW, PITCH, TOP, LEFT, SPAN_ROWS, X_PLANE,
 X_VECTORS, X_READS, SPARE, M_PLANE, M_AT, BIAS_AT, Y_AT, WINNERS_AT, LAST_ROWS, SCRATCH, BIASED, RELU, VECTORS,
 ADDRESS, LANES, TILE) = range(32)
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
    if spec.stride != (1, 1) or spec.groups != 1 or 0 in x_shape or terms > LONGEST_SUM:
        return None
    if not 0 < o <= CHANNELS or c > CHANNELS:
        return None
    (p, q), lanes, itemsize = spec.output_hw((h, w), (kh, kw)), simd.lanes(char), np.dtype(char).itemsize
    (top, _, left, right), (dy, dx) = spec.padding, spec.dilation
    width = max(v for v in range(1, simd.max_vectors() + 1) if simd.max_rows(v) >= o)
    pitch = max(w + max(left, right), q)  # the zeros behind a row are those before the next
    step, unit = width * lanes, 2 if pool else 1
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
    x_plane = in_lines(line + (span - 1) * pitch + (kw - 1) * dx + lanes)
    m_plane = line + unit * lanes  # the last vectors may begin at a row's last pixel
    for tile in tiles:
        tile[B1], tile[B2], tile[BK], tile[LDC] = x_plane, dy * pitch, dx, m_plane
    vectors, x_vectors = -(-columns // lanes), -(-w // lanes)
    overrun = (vectors * lanes - columns) * o + lanes // 2  # what `pixels` writes behind a row, for others to replace
    pixels = in_lines(most * columns * o + overrun) if pool else 0
    m_at = c * x_plane
    y_at = m_at + in_lines(o * m_plane + CHANNELS)
    spare_at, spare = y_at + 2 * pixels, max(reads(x_vectors, c, lanes), columns * o + overrun)
    head = {
        TASKS: n * bands, BANDS: bands, UNITS: units, UNIT: unit, HEIGHT: h, WIDTH: w, IN: c, OUT: o,
        X_IMAGE: h * w * c, Y_IMAGE: units * columns * o, Y_ROW: columns * o, PITCH: pitch, TOP: top, LEFT: left,
        SPAN_ROWS: span, X_PLANE: x_plane, X_VECTORS: x_vectors, X_READS: reads(x_vectors, c, lanes), SPARE: spare_at,
        M_PLANE: m_plane, M_AT: m_at, BIAS_AT: y_at - CHANNELS, Y_AT: y_at, WINNERS_AT: y_at + pixels,
        LAST_ROWS: -(-overrun // (columns * o)), SCRATCH: spare_at + in_lines(spare), BIASED: biased, RELU: relu,
        VECTORS: vectors, ADDRESS: simd.tile_address(char, simd.OUTER, width, o), LANES: lanes,
    }  # fmt: skip
    plan = np.array([head[i] for i in range(TILE)] + tiles[0] + tiles[1], np.int64)
    return contract.Work(_convolve_and_pool if pool else _convolve, plan, head[SCRATCH], work)


def in_lines(elements: int) -> int:
    """So many or some more, so that what follows them is aligned as they are: else each vector is in two lines."""
    return -(-elements // LINE_ELEMENTS) * LINE_ELEMENTS


def reads(vectors: int, channels: int, lanes: int) -> int:
    """How many elements `apart` reads of so many vectors of pixels, at most."""
    return vectors * lanes * channels + lanes // 2


def _pays(char: str, terms: int, c: int, o: int, q: int, pitch: int, step: int, pool: bool) -> bool:
    """Whether a row takes less time than with lanes of channels, in cycles measured with AVX-512.

    A channel of a pixel takes some 0.35 cycles on its way to a plane or from it, a pool of its own 10 a pixel.
    """
    pixels = -(-q // simd.lanes(char)) * simd.lanes(char)
    planes = terms * contract.cycles(char, simd.OUTER, o, step) * pitch / step + 0.35 * (o + c) * pixels
    return planes < terms * contract.cycles(char, simd.OUTER, q, o) + 10 * pool * q


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
        at, to, size = base + plan[M_AT], image * plan[Y_IMAGE] + first * plan[Y_ROW], plan[Y_ROW]
        pitch, plane, bias_at, spare = plan[PITCH], plan[M_PLANE], base + plan[BIAS_AT], base + plan[SPARE]
        o, vectors, relu = plan[OUT], plan[VECTORS], plan[RELU]
        whole = max(last - first - plan[LAST_ROWS], 0)
        pixels(scratch, at, pitch, plane, bias_at, y, to, size, o, vectors, whole, relu)
        for row in range(whole, last - first):
            pixels(scratch, at + row * pitch, pitch, plane, bias_at, scratch, spare, size, o, vectors, 1, relu)
            simd.copy(y, to + row * size, scratch, spare, size)


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
    image, first, last = copy_band(plan, x, task, scratch, base)
    tile = TILE + (TILE_ARGS if last - first > plan[UNITS] // plan[BANDS] else 0)
    at = base + plan[M_AT]
    simd.call_tile(plan[ADDRESS], plan, tile, w, 0, scratch, base, scratch, at, scratch, base, plan[LANES], 1)
    return image, first, last


@inner
def copy_band(plan, x, task, scratch, base):  # type: ignore[no-untyped-def]
    """The input planes of a task's band, with their padding; what `_planes` returns."""
    bands, units, pitch = plan[BANDS], plan[UNITS], plan[PITCH]
    image, band = task // bands, task % bands
    first, last = units * band // bands, units * (band + 1) // bands
    top, size, plane = first * plan[UNIT] - plan[TOP], plan[WIDTH] * plan[IN], plan[X_PLANE]
    bottom = top + (last - first) * plan[UNIT] + plan[SPAN_ROWS] - 1
    begin, end = min(max(top, 0), bottom), max(min(bottom, plan[HEIGHT]), top)
    for channel in range(plan[IN]):
        simd.clear(scratch, base + channel * plane, (begin - top) * pitch)
        simd.clear(scratch, base + channel * plane + (end - top) * pitch, (bottom - end) * pitch)
    into_planes(
        scratch, base + (begin - top) * pitch + plan[LEFT], pitch, plane, x, image * plan[X_IMAGE] + begin * size, size,
        plan[IN], plan[X_VECTORS], end - begin, plan[WIDTH], plan[X_READS], base + plan[SPARE],
    )  # fmt: skip
    return image, first, last


@inner
def into_planes(scratch, to, pitch, plane, x, at, size, channels, vectors, rows, count, reads, spare):  # type: ignore[no-untyped-def]
    """`apart`, by a copy in scratch for rows where that would read beyond the end of x."""
    whole = min(max((x.size - reads - at) // size + 1, 0), rows)
    apart(scratch, to, pitch, plane, x, at, size, channels, vectors, whole, count)
    for row in range(whole, rows):
        simd.copy(scratch, spare, x, at + row * size, size)
        apart(scratch, to + row * pitch, pitch, plane, scratch, spare, size, channels, vectors, 1, count)


class _Planes(Vectors):
    """What the two ends of such a convolution share: vectors of a plane's pixels, exchanged with the channels."""

    def each(self, rows: Any, count: Any, o: Any, body: Any) -> None:
        """body(row, v, channels) for row < rows and v < count: loops of their own for each number of channels."""
        builder = self.builder
        for channels in range(1, CHANNELS + 1):
            here = builder.icmp_signed("==", o, INT64(channels))
            with builder.if_then(here), cgutils.for_range(builder, rows) as row, cgutils.for_range(builder, count) as v:
                body(row.index, v.index, channels)

    def bias(self, at: Any, channel: int) -> Any:
        """A channel's bias in all lanes."""
        return self.splat(self.builder.load(self.pointer(0, at, INT64(channel)), typ=self.scalar))

    def write(self, channels: list[Any], pointer: Any) -> None:
        """The pixels of a vector of each channel, and up to half a vector more, which the next pixels replace.

        Pairs of channels are merged first: six channels take 18 exchanges, in squares of 8 x 8 they take 32.
        """
        o, lanes, half = len(channels), self.lanes, self.lanes // 2
        pairs = [[a, b] for a, b in zip(channels[::2], [*channels[1::2], channels[-1]], strict=False)]
        for first in (0, half):
            merged = [self.gathered(pair, [first + k // 2 + k % 2 * lanes for k in range(lanes)]) for pair in pairs]
            for start in range(0, half * o, lanes):
                pixels = [divmod(k, o) for k in range(start, min(start + lanes, half * o))]
                places = [channel // 2 * lanes + 2 * pixel + channel % 2 for pixel, channel in pixels]
                self.store(self.gathered(merged, places), self.past(pointer, INT64((first * o + start) * self.size)))

    def read(self, pointer: Any, o: int) -> list[Any]:
        """The reverse: a vector of each of o channels, of the pixels from there on."""
        lanes, half, halves = self.lanes, self.lanes // 2, list[list[Any]]()
        if o == 1:
            return [self.load(pointer)]
        for first in (0, half):
            starts = range(0, half * o, lanes)
            flat = [self.load(self.past(pointer, INT64((first * o + start) * self.size))) for start in starts]
            pairs = [(channel, min(channel + 1, o - 1)) for channel in range(0, o, 2)]
            halves.append([self.gathered(flat, [k // 2 * o + pair[k % 2] for k in range(lanes)]) for pair in pairs])
        return [
            self.gathered([pairs[channel // 2] for pairs in halves], [2 * k + channel % 2 for k in range(lanes)])
            for channel in range(o)
        ]

    def read_words(self, pointer: Any, o: Any) -> list[Any]:
        """Bytes of 8 channels of the pixels from there on, four channels in each of two vectors of words."""
        builder, numbers = self.builder, ir.Constant(ir.VectorType(INT64, self.lanes), ir.Undefined)
        for pixel in range(self.lanes):
            numbers = builder.insert_element(numbers, builder.load(pointer, typ=INT64, align=1), INT32(pixel))
            pointer = self.past(pointer, o)
        numbers = builder.bitcast(numbers, ir.VectorType(INT32, 2 * self.lanes))
        words = ir.VectorType(INT32, self.lanes)
        return [builder.shuffle_vector(numbers, numbers, words(list(range(i, 2 * self.lanes, 2)))) for i in (0, 1)]

    def first(self, count: Any) -> Any:
        """A mask of the first `count` lanes."""
        words, count = ir.VectorType(INT32, self.lanes), self.builder.trunc(count, INT32)
        one = self.builder.insert_element(ir.Constant(words, ir.Undefined), count, INT32(0))
        every = self.builder.shuffle_vector(one, one, words([0] * self.lanes))
        return self.builder.icmp_signed(">", every, words(list(range(self.lanes))))

    def gathered(self, vectors: list[Any], places: list[int]) -> Any:
        """A vector of the elements at these places of vectors that follow each other."""
        lanes, out = self.lanes, vectors[0]
        for i, other in enumerate(vectors[1:] or vectors, 1):
            index = list(range(lanes))
            for lane, place in enumerate(places):
                if place // lanes == i or (i == 1 and place < lanes):
                    index[lane] = lanes * (place // lanes > 0) + place % lanes
            out = self.builder.shuffle_vector(out, other, ir.VectorType(INT32, lanes)(index))
        return out


def _pixels_typing(
    typing_context: Any,
    planes: Any,
    at: Any,
    pitch: Any,
    plane: Any,
    bias: Any,
    target: Any,
    to: Any,
    size: Any,
    o: Any,
    count: Any,
    rows: Any,
    relu: Any,
) -> Any:
    """Rows of `count` vectors of pixels of o planes plus their bias, or the ReLU, as pixels at `to` in the target.

    Rows are `pitch` elements apart in the planes, `size` in the target.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, at, pitch, plane, bias, _, to, size, o, count, rows, relu = values
        floor = on.floor(relu)

        def body(row: Any, v: Any, channels: int) -> None:
            start, done = builder.mul(row, pitch), builder.mul(v, INT64(on.lanes))
            places = [on.pointer(0, at, start, done, builder.mul(plane, INT64(i))) for i in range(channels)]
            sums = [builder.fadd(on.load(place), on.bias(bias, i)) for i, place in enumerate(places)]
            first = on.pointer(5, to, builder.mul(row, size), builder.mul(done, INT64(channels)))
            on.write([on.clamped(value, floor) for value in sums], first)

        on.each(rows, count, o, body)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 4, target, *[types.int64] * 6), codegen


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

        def pointer(v: Any, channel: int) -> Any:
            return on.pointer(0, at, builder.mul(v, INT64(2 * on.lanes)), builder.mul(plane, INT64(channel)))

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

        def body(_: Any, v: Any, channels: int) -> None:
            found = [largest(pointer(v, i), on.bias(bias, i), i % 4 * 8) for i in range(channels)]
            done = builder.mul(v, INT64(channels * on.lanes))
            on.write([best for best, _ in found], on.pointer(0, to, done))
            with builder.if_then(builder.icmp_signed("!=", numbered, INT64(0))):
                write_numbers(found, done)

        def write_numbers(found: list[Any], done: Any) -> None:
            bits, none = [word for _, word in found], words([0] * on.lanes)
            halves = [reduce(builder.or_, bits[i : i + 4], none) for i in (0, 4)]
            pairs = [half * on.lanes + lane for lane in range(on.lanes) for half in (0, 1)]
            numbers = builder.shuffle_vector(*halves, ir.VectorType(INT32, 2 * on.lanes)(pairs))
            numbers = builder.bitcast(numbers, ir.VectorType(INT64, on.lanes))
            place = on.past(on.past(on.pointer(0, winners), winners_on), done)
            for pixel in range(on.lanes):
                number = builder.extract_element(numbers, INT32(pixel))
                builder.store(number, builder.bitcast(place, INT64.as_pointer()), align=1)
                place = on.past(place, o)

        on.each(INT64(1), count, o, body)
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

        def body(_: Any, v: Any, channels: int) -> None:
            done = builder.mul(v, INT64(lanes))
            place = on.past(on.past(on.pointer(0, winners), winners_on), builder.mul(done, o))
            numbers = on.read_words(place, o)
            inside = on.first(builder.sub(windows, done))
            for i, channel in enumerate(on.read(on.pointer(0, at, builder.mul(done, o)), channels)):
                start = on.pointer(0, to, builder.mul(done, INT64(2)), builder.mul(plane, INT64(i)))
                give(builder.select(inside, channel, on.zero), numbers[i // 4], i % 4 * 8, start)

        on.each(INT64(1), count, o, body)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 9), codegen


def _apart_typing(
    typing_context: Any,
    planes: Any,
    to: Any,
    pitch: Any,
    plane: Any,
    source: Any,
    at: Any,
    size: Any,
    o: Any,
    count: Any,
    rows: Any,
    pixels: Any,
) -> Any:
    """The reverse: rows of `count` vectors of pixels at `at` in the source, as o planes; zero after so many pixels."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Planes(context, builder, signature, values, planes)
        _, to, pitch, plane, _, at, size, o, count, rows, pixels = values

        def body(row: Any, v: Any, channels: int) -> None:
            start, done = builder.mul(row, pitch), builder.mul(v, INT64(on.lanes))
            first = on.pointer(4, at, builder.mul(row, size), builder.mul(done, INT64(channels)))
            inside = on.first(builder.sub(pixels, done))
            for i, channel in enumerate(on.read(first, channels)):
                place = on.pointer(0, to, start, done, builder.mul(plane, INT64(i)))
                on.store(builder.select(inside, channel, on.zero), place)

        on.each(rows, count, o, body)
        return context.get_dummy_value()

    return types.none(planes, *[types.int64] * 3, source, *[types.int64] * 6), codegen


if not numba.config.DISABLE_JIT:
    pixels, largest_pixels, spread_pixels, apart = map(
        intrinsic, (_pixels_typing, _largest_typing, _spread_typing, _apart_typing)
    )
