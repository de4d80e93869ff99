"""Convolutions at stride 1 with fewer multiplications: Winograd's F(2x2, 3x3), and larger kernels in pieces of 3 x 3.

Two neighbouring outputs of a filter of three taps share their inputs, and take 4 products instead of 6; in both
directions a tile of 2 x 2 outputs takes 16 instead of 36 (Lavin & Gray 2016, arXiv:1509.09308, section 4.1):

    Y = A' [(G w G') * (B' x B)] A        * element by element, summed over the channels

so each of the 16 planes is a matrix product of (tiles, C) and (C, O). A kernel of 5 x 5 is four pieces of up to three
taps a side, whose products add up before the last step: where a piece has fewer taps its last plane is zero, and 49
products do for 100. The input gradient is the same formula for the output gradient and the flipped kernel; the weight
gradient, the formula read in another direction, is in winograd_weights.

Only 1, -1 and 1/2 occur in the three matrices, and sums are shorter than those of the direct form: the float32 error is
0.4 to 1.4 times that of NumPy's matrix product over unfolded windows. Infinities and NaN would spread to the other
outputs of their tile, so a result that is not finite is left to the direct kernels.

Letters: N images, C channels, O output channels, P x Q outputs, R x S pieces of the kernel, T tiles, K = R * S * C.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import get_num_threads, launch
from ..compile import inner, jit
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .simd import A1, A2, A_PLANE, AK, AR, B1, B2, B_PLANE, BK, C_PLANE, LDC, N1, N2, N3, PLANES, TILE_ARGS

if contract.ENABLED:
    from .winograd_transforms import (
        input_planes,
        kernel_planes,
        output_pixels,
        pooled_pixels,
    )

#: Bytes of transformed inputs and products of a group of tiles, from planes to pixels in one go. A group reads all of
#: the transformed weights. Up to WEIGHT_BYTES, both fit the L1 cache (64 images of 32 x 32, 16 -> 16 channels: 562 us,
#: 595 in large groups); more come from the L2 cache, the fewer times the better (64 images of 16 x 16, 16 -> 32
#: channels: 236 us, 259 in small groups), or from beyond it: then a group is a fifth of the weights' bytes, up to
#: HUGE_BYTES (32 images of 16 x 16, 128 -> 128 channels, 5x5: 8.3 ms, 10.0 in large groups, 17.6 where others use the
#: memory too).
SMALL_BYTES, LARGE_BYTES, HUGE_BYTES, WEIGHT_BYTES = 48 << 10, 384 << 10, 1536 << 10, 16 << 10
#: Groups that there are at least, where there are tiles enough, so that threads finish together.
GROUPS_WANTED = 16
#: Cycles that the launches take, of both threads.
LAUNCHES = 45_000
#: Products from which a sum is taken in parts, half as many where pieces are added up: the error of the input gradient
#: of 5 x 5 kernels was 2.1 times NumPy's with 16 and with 64 channels, and is 1.7.
SUM_PRODUCTS = 128


# fmt: off
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_ROWS, OUT_COLUMNS, OUT_CHANNELS, TOP, LEFT, PIECE_ROWS, PIECE_COLUMNS,
 TILE_ROWS, TILE_COLUMNS, GROUPS, MOST_TILES, V_ROW, V_PLANE, M_PLANE, U_PLANE, M_AT, SCRATCH, PANELS, LANE_COUNT,
 RELU, POOL, TILE) = range(26)
# fmt: on
HEADER = TILE + 12 * TILE_ARGS  # then the panels: for products those of the smaller and those of the larger groups


class Plan(NamedTuple):
    """A convolution by tiles: the numbers its kernels read, scratch elements per part, and multiply-adds."""

    numbers: np.ndarray
    scratch: int
    work: int
    pieces: tuple[int, int]


@lru_cache(4096)
def find(
    char: str,
    x_shape: tuple[int, int, int, int],
    o: int,
    kernel_hw: tuple[int, int],
    out_hw: tuple[int, int],
    origin: tuple[int, int],
    relu: bool,
    pool: bool = False,
) -> Plan | None:
    """The plan for x (N, H, W, C), or None where the direct kernels are as fast.

    `origin` is the first window's corner in x, negative in the padding. With `pool` it is for the
    largest of each 2 x 2 outputs.
    """
    (n, h, w, c), (kh, kw), (p, q) = x_shape, kernel_hw, out_hw
    lanes, itemsize = simd.lanes(char), np.dtype(char).itemsize
    tile_rows, tile_columns = -(-p // 2), -(-q // 2)
    pieces, whole = (-(-kh // 3), -(-kw // 3)), (kh // 3, kw // 3)
    planes, depth = (3 * pieces[0] + whole[0]) * (3 * pieces[1] + whole[1]), pieces[0] * pieces[1] * c
    total = n * tile_rows * tile_columns
    once = LAUNCHES + 16 * depth * o / lanes * (8 if pieces == whole else 16)  # 8 cycles for a vector of a plane
    if not pays(x_shape, o, kernel_hw, out_hw, origin[0], lanes, (planes, depth + o), once):
        return None
    v_row = depth + lanes  # a row of planes never starts where another one ends its way through the cache
    widths = contract.panel_widths(char, simd.OUTER, 1024, o, contract.WALK)
    rows = min(simd.max_rows(width) for width in widths)
    weights = 16 * depth * o * itemsize
    room = SMALL_BYTES if weights <= WEIGHT_BYTES else min(max(LARGE_BYTES, weights // 5), HUGE_BYTES)
    most = max(1, min(room // (16 * (depth + o) * itemsize), total // GROUPS_WANTED) // rows) * rows
    groups = -(-total // most)
    groups = min(groups + groups % 2, total)  # an even number: two threads finish together
    most = -(-total // groups)
    line = 64 // itemsize
    v_plane, m_plane = odd_lines(most * v_row, itemsize), odd_lines(most * o, itemsize)
    u_plane = depth * o + line  # 64 x 64 without the line share sets of the cache: 13 us, not 5
    head = {
        IMAGES: n, HEIGHT: h, WIDTH: w, CHANNELS: c, OUT_ROWS: p, OUT_COLUMNS: q, OUT_CHANNELS: o, TOP: origin[0],
        LEFT: origin[1], PIECE_ROWS: pieces[0], PIECE_COLUMNS: pieces[1], TILE_ROWS: tile_rows,
        TILE_COLUMNS: tile_columns, GROUPS: groups, MOST_TILES: most, V_ROW: v_row, V_PLANE: v_plane,
        M_PLANE: m_plane, U_PLANE: u_plane, M_AT: 16 * v_plane, SCRATCH: 16 * (v_plane + m_plane),
        PANELS: len(widths), LANE_COUNT: lanes, RELU: relu, POOL: pool,
    }  # fmt: skip
    tile_args = _product_tiles(c, o, pieces, whole, v_row, (v_plane, u_plane, m_plane))
    panels = [p for size in (total // groups, most) for p in contract.panels(char, simd.OUTER, size, o, widths)]
    numbers = np.array([head[i] for i in range(TILE)] + tile_args + panels, np.int64)
    return Plan(numbers, head[SCRATCH], total * 16 * depth * o, pieces)


def pays(
    x_shape: tuple[int, int, int, int],
    o: int,
    kernel_hw: tuple[int, int],
    out_hw: tuple[int, int],
    top: int,
    lanes: int,
    tile: tuple[int, float],
    once: float,
) -> bool:
    """Whether fewer products outweigh the transforms, by estimated cycles; 9 of 10 to be sure.

    A tile takes (C, O) products in so many planes, and so many channels are transformed for it, some 25 cycles a vector
    (measured with AVX-512); `once` is what comes on top. The direct form skips rows of taps outside of the image.
    16 channels, the fewest, reach 1.0 to 1.4 times the direct kernels' speed.
    """
    (n, h, _, c), (kh, kw), (p, q) = x_shape, kernel_hw, out_hw
    if min(kernel_hw) < 3 or min(c, o) < 16 or c % lanes or o % lanes:
        return False
    product = c * o / (2 * lanes) * 1.1
    planes, channels = tile
    tiles = n * -(-p // 2) * -(-q // 2)
    rows = sum(max(0, min(p, h - y) - max(0, -y)) for y in range(top, top + kh))
    return tiles * (planes * product + 25 * channels / lanes) + once < 0.9 * n * rows * q * kw * product


def odd_lines(elements: int, itemsize: int) -> int:
    """So many elements or some more: an odd number of cache lines, so that planes do not share sets of the cache."""
    line = 64 // itemsize
    return (-(-elements // line) | 1) * line


def _product_tiles(
    c: int, o: int, pieces: tuple[int, int], whole: tuple[int, int], v_row: int, steps: tuple[int, int, int]
) -> list[int]:
    """(tiles, K) @ (K, O): tile arguments for planes with all pieces, all down, all across, and neither.

    `steps` are from plane to plane, of the left, the right and the product. Neighbouring planes with the same arguments
    are one call.
    """
    arguments: list[int] = []
    one_row = pieces[1] == whole[1]
    runs = (16 if whole == pieces else 12 if one_row else 3), 1, (4 if one_row else 3), 1
    longest = SUM_PRODUCTS // (1 if pieces == (1, 1) else 2)
    corners = [(r, s) for r in (pieces[0], whole[0]) for s in (pieces[1], whole[1])]
    for (rows, columns), planes in zip(corners, runs, strict=True):
        tile = [0] * TILE_ARGS
        tile[N1], tile[N2], tile[N3] = rows, columns, c
        if columns == pieces[1]:
            tile[N2], tile[N3] = 1, columns * c
        tile[A1], tile[A2], tile[AK], tile[AR] = pieces[1] * c, c, 1, v_row
        tile[B1], tile[B2], tile[BK], tile[LDC] = pieces[1] * c * o, c * o, o, o
        tile[PLANES], (tile[A_PLANE], tile[B_PLANE], tile[C_PLANE]) = planes - 1, steps
        depth = rows * columns * c
        parts = 1 if depth < longest else max(2, depth // longest)
        if depth == tile[N3] or tile[N3] == tile[A1]:  # one row, or rows that are neighbours
            parts = next(n for n in range(parts, 0, -1) if depth % n == 0)
            tile[N1], tile[N3] = 1, depth // parts
            arguments += contract.in_sums(tile, parts, tile[N3], tile[N3] * o)
        else:
            parts = 1 if parts == 1 else tile[N1]
            tile[N1] //= parts
            arguments += contract.in_sums(tile, parts, tile[A1], tile[B1])
    return arguments


def convolve(
    plan: Plan,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: Any = None,
    winner: Any = None,
    kept: dict[Any, np.ndarray] | None = None,
) -> bool:
    """y (N, P, Q, O) from x (N, H, W, C) and w (KH, KW, C, O), all C-contiguous; False if y is not finite.

    If the plan is for a pool, y is (N, P // 2, Q // 2, O), and so is winner, of uint8, or of size 0 to be left alone.
    The transformed w is in `kept`, or put there.
    """
    planes = None if kept is None else kept.get(plan.pieces)
    if planes is None:
        planes = _transformed(plan, w)
        if kept is not None:
            kept[plan.pieces] = planes
    threads = get_num_threads()
    scratch = memory.empty((threads * plan.scratch,), x.dtype)
    finite = np.array([True] * threads)  # np.ones and all() take 2 us
    bias = np.zeros(y.shape[3], x.dtype) if bias is None else memory.contiguous(bias)
    winner = np.empty(0, np.uint8) if winner is None else winner.reshape(-1)
    arrays = (contract.flat(x), planes, y.reshape(-1), winner, bias, scratch, finite)
    launch(_convolve, plan.numbers, *arrays, work=plan.work, threads=threads)
    return False not in finite.tolist()


def _transformed(plan: Plan, w: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) -> (16, K, O), flat, U_PLANE from plane to plane."""
    kh, kw, c, o = w.shape
    rows, columns = plan.pieces
    if (kh, kw) != (3 * rows, 3 * columns):
        w, taps = memory.zeros((3 * rows, 3 * columns, c, o), w.dtype), w
        w[:kh, :kw] = taps
    plane = int(plan.numbers[U_PLANE])
    planes = memory.empty((16 * plane,), w.dtype)
    numbers = rows, columns, c * o, plane, simd.lanes(w.dtype)
    launch(_transform_kernel, contract.flat(w), planes, *numbers, work=planes.size)
    return planes


@jit(parts=True)
def _transform_kernel(w, planes, rows, columns, size, plane, lanes, part, parts):  # type: ignore[no-untyped-def]
    """Each part takes its share of the (C, O) matrix, of every piece."""
    vectors = size // lanes
    first, last = vectors * part // parts, vectors * (part + 1) // parts
    for r in range(rows):
        for s in range(columns):
            at, to = r * 9 * columns + s * 3, r * columns + s
            at, to = at * size + first * lanes, to * size + first * lanes
            kernel_planes(w, at, 3 * columns * size, size, 1, 0, planes, to, 4 * plane, plane, last - first)


@jit(parts=True)
def _convolve(plan, x, u, y, winner, bias, scratch, finite, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the groups."""
    groups = plan[GROUPS]
    base = part * plan[SCRATCH]
    for group in range(groups * part // parts, groups * (part + 1) // parts):
        first, last = _group(plan, group)
        _to_planes(plan, x, first, last, scratch, base)
        _multiply(plan, last - first, u, scratch, base)
        if not _from_planes(plan, first, last, scratch, base, bias, y, winner):
            finite[part] = False


@inner
def _group(plan, group):  # type: ignore[no-untyped-def]
    """A group's first tile and the tile after its last."""
    tiles, groups = plan[IMAGES] * plan[TILE_ROWS] * plan[TILE_COLUMNS], plan[GROUPS]
    return tiles * group // groups, tiles * (group + 1) // groups


@inner
def _run(plan, tile, last):  # type: ignore[no-untyped-def]
    """The image, row and column of a tile, and how many from there on to `last` are in its row."""
    rows, columns = plan[TILE_ROWS], plan[TILE_COLUMNS]
    row, j = tile // columns, tile % columns
    return row // rows, row % rows, j, min(columns - j, last - tile)


@inner
def _to_planes(plan, x, first, last, scratch, base):  # type: ignore[no-untyped-def]
    """V[plane, tile, piece, channel]: the transformed inputs of the tiles from `first` to `last`."""
    channels, height, width = plan[CHANNELS], plan[HEIGHT], plan[WIDTH]
    columns, plane = plan[PIECE_COLUMNS], plan[V_PLANE]
    tile, target = first, base
    while tile < last:
        n, i, j, count = _run(plan, tile, last)
        for r in range(plan[PIECE_ROWS]):
            for s in range(columns):
                top, left = 2 * i + 3 * r + plan[TOP], 2 * j + 3 * s + plan[LEFT]
                at = ((n * height + top) * width + left) * channels
                input_planes(
                    x, at, channels, top, height, left, width, scratch, target + (r * columns + s) * channels,
                    4 * plane, plane, plan[V_ROW], count, channels // plan[LANE_COUNT],
                )  # fmt: skip
        tile += count
        target += count * plan[V_ROW]


@inner
def _multiply(plan, tiles, u, scratch, base):  # type: ignore[no-untyped-def]
    """M[plane] = V[plane] @ U[plane]: (tiles, K) @ (K, O), for all planes."""
    plane = 0
    while plane < 16:
        tile = TILE + 3 * TILE_ARGS * ((2 if plane >= 12 else 0) + (1 if plane % 4 == 3 else 0))
        for p in range(plan[PANELS]):
            panel = HEADER + (p if tiles < plan[MOST_TILES] else plan[PANELS] + p) * PANEL
            a = base + plane * plan[V_PLANE]
            b = plane * plan[U_PLANE] + plan[panel + COLUMN]
            c = base + plan[M_AT] + plane * plan[M_PLANE] + plan[panel + COLUMN]
            tile_panel(plan, tile, panel, scratch, a, u, b, scratch, c, scratch, 0)
        plane += plan[tile + PLANES] + 1


@inner
def _from_planes(plan, first, last, scratch, base, bias, y, winner):  # type: ignore[no-untyped-def]
    """The output pixels of these tiles, or the largest of each; whether they are finite."""
    channels, columns, rows = plan[OUT_CHANNELS], plan[OUT_COLUMNS], plan[OUT_ROWS]
    plane, vectors, relu = plan[M_PLANE], channels // plan[LANE_COUNT], plan[RELU]
    tile, at = first, base + plan[M_AT]
    finite = True
    while tile < last:
        n, i, j, count = _run(plan, tile, last)
        if plan[POOL]:
            if 2 * i + 1 < rows:
                to = ((n * (rows // 2) + i) * (columns // 2) + j) * channels
                whole = min(count, columns // 2 - j)
                finite &= pooled_pixels(scratch, at, 4 * plane, plane, bias, y, winner, to, whole, vectors, relu)
        else:
            down = columns * channels if 2 * i + 1 < rows else 0
            to = ((n * rows + 2 * i) * columns + 2 * j) * channels
            half = 1 if 2 * (j + count) > columns else 0  # of the last tile
            whole = count - half
            finite &= output_pixels(scratch, at, 4 * plane, plane, bias, y, to, down, channels, whole, vectors, relu)
            at_last, to = at + whole * channels, to + 2 * whole * channels
            finite &= output_pixels(scratch, at_last, 4 * plane, plane, bias, y, to, down, 0, half, vectors, relu)
        tile += count
        at += count * channels
    return finite
