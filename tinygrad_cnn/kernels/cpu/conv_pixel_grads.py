"""The weights' gradients of convolutions to few output channels, at stride 1: sums over lines of pixels.

conv_pixels goes the way back here: a band of the output's gradient becomes one plane for each channel, zero between the
rows and, of a convolution with its pool, where no pixel won. All pixels of the band are one line to tiles of dot
products, taps x output channels.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np

from .. import PARALLEL_WORK, launch, silent, threads_for
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, conv_pixels, memory, simd
from .conv_pixels import (
    BANDS,
    BANDS_WANTED,
    CHANNELS,
    HEIGHT,
    IN,
    LEFT,
    OUT,
    PITCH,
    PLANE_BYTES,
    SPAN_ROWS,
    SPARE,
    TASKS,
    TOP,
    UNIT,
    UNITS,
    WIDTH,
    X_IMAGE,
    X_PLANE,
    X_READS,
    X_VECTORS,
    Y_IMAGE,
    Y_ROW,
    copy_band,
    in_lines,
    into_planes,
    reads,
)
from .simd import AR, BK, FLAGS, LDC, N3, TILE_ARGS

if contract.ENABLED:
    from .conv_pixels import spread_pixels

#: Shares of the sums, each with its own.
SHARDS_WANTED = 8
#: Cycles of a tile's call.
CALL = 80

# fmt: off
(G_PLANE, G_AT, ONES_AT, Y_AT, WINNERS_AT, SCRATCH, SHARDS, SHARD, VECTORS, COLUMNS, G_READS, LANES, TAIL, KERNEL_ROWS,
 KERNEL_COLUMNS, DOWN, ACROSS, GROUPS, MOST_TAPS, BIASED, SUMS, TILE) = range(SPARE + 1, SPARE + 23)
# fmt: on
#: After the tiles, for each group of output channels: its first one, and the tiles' addresses for 1, 2, ... taps.
TILES_AT = TILE + 2 * TILE_ARGS


class Gradients(NamedTuple):
    """The work of the gradients, and how many shares have sums of their own, of how many elements."""

    work: contract.Work
    sums: tuple[int, int]


@lru_cache(4096)
def find(
    char: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], spec: Conv2dSpec, pool: bool
) -> Gradients | None:
    """The work for x (N, C, H, W), of a convolution or of one with its 2 x 2 max-pool; None if others are as fast."""
    (n, c, h, w), (o, _, kh, kw) = x_shape, w_shape
    if c > CHANNELS or not 0 < o <= CHANNELS or spec.stride != (1, 1) or spec.groups != 1 or 0 in x_shape:
        return None
    (p, q), unit = spec.output_hw((h, w), (kh, kw)), 1 + pool
    lanes, itemsize = simd.lanes(char), np.dtype(char).itemsize
    (top, _, left, right), (dy, dx) = spec.padding, spec.dilation
    units, columns, span = p // unit, q // unit, (kh - 1) * dy + 1
    groups, taps = _tiles(char, kw, o)
    vectors, x_vectors = -(-columns // lanes), -(-w // lanes)
    pitch = max(w + max(left, right), q)  # the zeros behind a row are those before the next
    if pool and (p % 2 or conv_pixels.find(char, x_shape, w_shape, False, spec, False, True) is None):
        return None  # an infinity under a last row that no window takes would go unseen
    if not pool and not _pays(char, (p, q), (kh, kw), c, o, pitch):
        return None
    if pool:
        pitch = max(pitch, 2 * lanes * vectors)  # the last windows of a row stay clear of the next
    work = contract.effort(n * p * q * kh * kw * c * o, n * (h * w * c + p * q * o))
    bands = -(-units * unit * (c + o + 2 * pool) * pitch * itemsize // PLANE_BYTES)
    bands = min(units, max(bands, 1 if work < PARALLEL_WORK else -(-BANDS_WANTED // n)))
    most = -(-units // bands)
    g_plane = in_lines(most * unit * pitch + unit * lanes * vectors)
    x_plane = in_lines(g_plane + (span - 1) * pitch + (kw - 1) * dx + lanes)
    g_at = c * x_plane
    ones_at = g_at + o * g_plane
    y_at = ones_at + (g_plane if pool else 0)
    pixels = in_lines(most * columns * o + lanes * CHANNELS) if pool else 0
    winners_at, spare_at = y_at + pixels, y_at + 2 * pixels
    spare = in_lines(max(reads(x_vectors, c, lanes), reads(vectors, o, lanes)))
    shards = min(SHARDS_WANTED, n * bands)
    size = (kh * kw * c + pool) * o
    head = {
        TASKS: n * bands, BANDS: bands, UNITS: units, UNIT: unit, HEIGHT: h, WIDTH: w, IN: c, OUT: o,
        X_IMAGE: h * w * c, Y_IMAGE: units * columns * o, Y_ROW: columns * o, PITCH: pitch, TOP: top, LEFT: left,
        SPAN_ROWS: span, X_PLANE: x_plane, X_VECTORS: x_vectors, X_READS: reads(x_vectors, c, lanes), SPARE: spare_at,
        G_PLANE: g_plane, G_AT: g_at, G_READS: reads(vectors, o, lanes), ONES_AT: ones_at, Y_AT: y_at,
        WINNERS_AT: winners_at, SCRATCH: spare_at + spare, SHARDS: shards, SHARD: size, SUMS: in_lines(shards * size),
        VECTORS: vectors, COLUMNS: columns, LANES: lanes, TAIL: q - pitch, KERNEL_ROWS: kh,
        KERNEL_COLUMNS: kw, DOWN: dy * pitch, ACROSS: dx, GROUPS: len(groups), MOST_TAPS: taps, BIASED: pool,
    }  # fmt: skip
    tiles = []
    for rows in (units // bands, most):
        tile = [0] * TILE_ARGS
        tile[N3] = (rows * unit * pitch + head[TAIL] - 1) // lanes
        tile[AR], tile[BK], tile[LDC], tile[FLAGS] = dx, g_plane, c * o, simd.ADD
        tiles += tile
    for group, columns in enumerate(groups):
        tiles += [sum(groups[:group])] + [simd.tile_address(char, simd.DOT, columns, k + 1) for k in range(taps)]
    plan = np.array([head[i] for i in range(TILE)] + tiles, np.int64)
    body = _gradients_through_pool if pool else _gradients
    return Gradients(contract.Work(body, plan, head[SCRATCH], work), (shards, size))


def _tiles(char: str, kw: int, o: int) -> tuple[list[int], int]:
    """How many output channels to take in each tile, and how many of the kw taps of a row: the fewest cycles."""
    fewest = -(-o // simd.max_columns(char))

    def choice(groups: int) -> tuple[float, list[int], int]:
        columns = contract.split(o, groups)
        taps = -(-kw // -(-kw // simd.max_rows(columns[0], simd.DOT)))
        return _cycles(kw, columns, taps, CALL / 64), columns, taps

    return min(choice(groups) for groups in (fewest, fewest + 1) if groups <= o)[1:]


def _cycles(kw: int, columns: list[int], taps: int, call: float) -> float:
    """Of a vector of pixels, for a row of taps: two multiply-adds or some two lines a cycle; A's vectors lie in two."""
    tiles = [(min(taps, kw - first), n) for first in range(0, kw, taps) for n in columns]
    return sum(max(m * n / 2, 0.53 * (1.8 * m + n)) + call for m, n in tiles)


def _pays(char: str, y_hw: tuple[int, int], kernel_hw: tuple[int, int], c: int, o: int, pitch: int) -> bool:
    """Whether the sums take less time than with lanes of channels, in cycles a pixel measured with AVX-512.

    A channel of a pixel takes 0.25 on its way to its plane. The others take a tenth more than contract says, and 1.
    """
    (p, q), (kh, kw) = y_hw, kernel_hw
    vectors = pitch / simd.lanes(char) / q  # of a pixel
    planes = kh * c * vectors * _cycles(kw, *_tiles(char, kw, o), CALL / (vectors * p * q)) + 0.25 * (o + c) + 0.5
    stacks = contract.stacks(char, kh, kw * c, o, contract.WALK)[0]
    return planes < 1.1 * min(stacks, kh * contract.cycles(char, simd.OUTER, o, kw * c)) + 1


def weights(found: Gradients, x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int]) -> np.ndarray | None:
    """(KH, KW, C, O) from x (N, H, W, C) and g (N, P, Q, O), all C-contiguous; None if they are not finite.

    Zeros between the rows would take infinities and NaN to taps that never meet them.
    """
    total = _total(found, x, g)
    return None if total is None else total.reshape(*kernel_hw, x.shape[3], g.shape[3])


def through_pool(
    found: Gradients, x: np.ndarray, g: np.ndarray, winner: np.ndarray, kernel_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of a convolution with its pool and (O,) of its bias; g and winner (N, P // 2, Q // 2, O)."""
    total, (_, _, _, c), o = _total(found, x, g, contract.flat(winner)), x.shape, g.shape[3]
    return None if total is None else (total[:-o].reshape(*kernel_hw, c, o), total[-o:])


@silent
def _total(found: Gradients, x: np.ndarray, g: np.ndarray, *winner: np.ndarray) -> np.ndarray | None:
    work, (shards, size) = found
    threads = threads_for(work.work)
    scratch = memory.empty((in_lines(shards * size) + threads * work.scratch,), x.dtype)
    launch(work.body, work.plan, contract.flat(x), contract.flat(g), *winner, scratch, work=work.work, threads=threads)
    total: np.ndarray = np.add.reduce(scratch[: shards * size].reshape(shards, size), 0)
    return total if isfinite(total.dot(total)) else None


@jit(parts=True)
def _gradients(plan, x, g, scratch, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the shards, each the sums over its own tasks."""
    base, shards = plan[SUMS] + part * plan[SCRATCH], plan[SHARDS]
    _begin(plan, scratch, base)
    for shard in range(shards * part // parts, shards * (part + 1) // parts):
        simd.clear(scratch, shard * plan[SHARD], plan[SHARD])
        for task in range(plan[TASKS] * shard // shards, plan[TASKS] * (shard + 1) // shards):
            image, first, last = copy_band(plan, x, task, scratch, base)
            at = image * plan[Y_IMAGE] + first * plan[Y_ROW]
            into_planes(
                scratch, base + plan[G_AT], plan[PITCH], plan[G_PLANE], g, at, plan[Y_ROW], plan[OUT], plan[VECTORS],
                last - first, plan[COLUMNS], plan[G_READS], base + plan[SPARE],
            )  # fmt: skip
            _add_products(plan, last - first, shard * plan[SHARD], scratch, base)


@jit(parts=True)
def _gradients_through_pool(plan, x, g, winner, scratch, part, parts):  # type: ignore[no-untyped-def]
    """The same of a convolution with its pool, and after them those of the bias."""
    base, shards = plan[SUMS] + part * plan[SCRATCH], plan[SHARDS]
    _begin(plan, scratch, base)
    for shard in range(shards * part // parts, shards * (part + 1) // parts):
        simd.clear(scratch, shard * plan[SHARD], plan[SHARD])
        for task in range(plan[TASKS] * shard // shards, plan[TASKS] * (shard + 1) // shards):
            image, first, last = copy_band(plan, x, task, scratch, base)
            place, size = image * plan[Y_IMAGE] + first * plan[Y_ROW], (last - first) * plan[Y_ROW]
            at, winners = base + plan[Y_AT], base + plan[WINNERS_AT]
            simd.copy(scratch, at, g, place, size)
            simd.copy(scratch, winners, winner, place, size)
            for row in range(last - first):
                done, to = row * plan[Y_ROW], base + plan[G_AT] + row * 2 * plan[PITCH]
                spread_pixels(
                    scratch, at + done, winners, done, to, plan[PITCH], plan[G_PLANE], plan[OUT], plan[VECTORS],
                    plan[COLUMNS],
                )  # fmt: skip
            _add_products(plan, last - first, shard * plan[SHARD], scratch, base)


@inner
def _begin(plan, scratch, base):  # type: ignore[no-untyped-def]
    """Zeros between the rows of all planes, which stay there, and ones for the sums of the bias."""
    simd.clear(scratch, base, plan[ONES_AT])
    for k in range(plan[ONES_AT], plan[Y_AT]):
        scratch[base + k] = 1


@inner
def _add_products(plan, rows, to, scratch, base):  # type: ignore[no-untyped-def]
    """Add a band's dot products of each tap's pixels, or of ones, with the gradient of each output channel."""
    tile = TILE + (TILE_ARGS if rows > plan[UNITS] // plan[BANDS] else 0)
    lanes = rows * plan[UNIT] * plan[PITCH] + plan[TAIL] - plan[tile + N3] * plan[LANES]
    for group in range(plan[GROUPS]):
        tiles = TILES_AT + group * (1 + plan[MOST_TAPS])
        g, out = base + plan[G_AT] + plan[tiles] * plan[G_PLANE], to + plan[tiles]
        for row in range(plan[KERNEL_ROWS]):
            for channel in range(plan[IN]):
                a, at = base + channel * plan[X_PLANE] + row * plan[DOWN], out + channel * plan[OUT]
                _add_row(plan, tile, tiles, lanes, a, g, at, scratch)
            out += plan[KERNEL_COLUMNS] * plan[tile + LDC]
        if plan[BIASED]:
            a = base + plan[ONES_AT]
            simd.call_tile(plan[tiles + 1], plan, tile, scratch, a, scratch, g, scratch, out, scratch, out, lanes, 1)


@inner
def _add_row(plan, tile, tiles, lanes, a, g, out, scratch):  # type: ignore[no-untyped-def]
    """The products of a row of taps."""
    columns, most = plan[KERNEL_COLUMNS], plan[MOST_TAPS]
    for column in range(0, columns, most):
        taps = min(most, columns - column)
        address = plan[tiles + taps]
        simd.call_tile(address, plan, tile, scratch, a, scratch, g, scratch, out, scratch, out, lanes, 1)
        a += taps * plan[ACROSS]
        out += taps * plan[tile + LDC]
