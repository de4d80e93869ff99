"""Convolutions at stride 1 with fewer multiplications: Winograd's F(2x2, 3x3), and larger kernels in pieces of 3 x 3.

Two neighbouring outputs of a filter of three taps share their inputs, and take 4 products instead of 6; in both
directions a tile of 2 x 2 outputs takes 16 instead of 36 (Lavin & Gray 2016, arXiv:1509.09308, section 4.1):

    Y = A' [(G w G') * (B' x B)] A        * element by element, summed over the channels

so each of the 16 planes is a matrix product of (tiles, C) and (C, O). A kernel of 5 x 5 is four pieces that begin two
taps apart, as tiles do: what a piece reads in one tile, the piece before it reads in the next, so that all share the
same transformed inputs (in pieces three taps apart, each with its own, 5 x 5 takes a seventh longer). Their products
add up before the last step. All but the last piece have two taps, and no product in the last plane, so 49 products do
for 100. The input gradient is the same formula for the output gradient and the flipped kernel; the weight gradient, the
formula read in another direction, is in winograd_weights.

Only 1, -1 and 1/2 occur in the three matrices, and sums are shorter than those of the direct form: the float32 error is
0.7 to 1.5 times that of NumPy's matrix product over unfolded windows, of input gradients 1.0 to 1.9 times. Infinities
and NaN would spread to the other outputs of their tile, so a result that is not finite is left to the direct kernels.

Where there are pieces, tiles go in units: the rows of tiles of a block of images, one below the other, each by tile
column first and image second, so that from tile to tile of a unit, and to the next piece's inputs, is always as far.

Letters: N images, C channels, O output channels, P x Q outputs, R x S pieces of the kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import get_num_threads, launch
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .simd import A2, A_PLANE, AK, AR, B2, B_PLANE, BK, C_PLANE, FLAGS, LDC, N1, N2, N3, PLANES, TILE_ARGS

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
#: Channels that fill a vector; below, the direct kernels are as fast.
FEWEST = 16
#: Groups that there are at least, where there are tiles enough, so that threads finish together.
GROUPS_WANTED = 16
#: Cycles that the launches take, of both threads.
LAUNCHES = 45_000
#: Cycles that it takes to put the weights of groups into sets, or back.
SORTING = 30_000
#: Products of a sum, half as many where pieces are added up: the error of the input gradient of 5 x 5 kernels was 2.1
#: times NumPy's with 16 and with 64 channels, and is 1.7. Channels from which there are two sums: with 96 in one, that
#: of 3 x 3 kernels in two groups was 2.01 times NumPy's.
SUM_PRODUCTS, SPLIT_FROM = 128, 96


# fmt: off
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_ROWS, OUT_COLUMNS, OUT_CHANNELS, TOP, LEFT, PIECE_ROWS, PIECE_COLUMNS,
 TILE_ROWS, TILE_COLUMNS, GROUPS, MOST_TILES, BLOCK, UNIT, V_STEP, V_UNIT, V_PLANE, M_PLANE, U_PLANE, M_AT, SCRATCH,
 PANELS, RELU, POOL, PHASE_ROWS, PHASE_COLUMNS, SETS, TILE) = range(31)
# fmt: on
SUMS = 3 * TILE_ARGS  # of a kind of tiles: a row may be more than one sum
HEADER = TILE + 8 * SUMS  # then the panels: for products those of the smaller and those of the larger groups


class Plan(NamedTuple):
    """A convolution by tiles: the numbers its kernels read, scratch elements per part, and multiply-adds."""

    numbers: np.ndarray
    scratch: int
    work: int
    pieces: tuple[int, int]
    sets: tuple[int, int]  # of channels that are convolved apart, and how many groups each of them joins


class Parts(NamedTuple):
    """What a convolution falls into: sets of channels, and phases of images, which are as many images more.

    The taps of a dilated kernel are neighbours in a phase: every `down`-th row, every `across`-th column of an image.
    Groups of few channels are joined, with zeros for the weights between them, until they fill a vector.
    """

    x_shape: tuple[int, int, int, int]  # of one set, and of the largest phase
    o: int
    out_hw: tuple[int, int]
    origin: tuple[int, int]
    sets: tuple[int, int]


def parts_of(
    x_shape: tuple[int, int, int, int], o: int, out_hw: tuple[int, int], origin: tuple[int, int], spec: Conv2dSpec
) -> Parts | None:
    """Of x (N, H, W, C), to O channels; None if there is nothing to compute, or no way by tiles."""
    (n, h, w, c), (y, x), (dy, dx), groups = x_shape, origin, spec.dilation, spec.groups
    if spec.stride != (1, 1) or 0 in (*x_shape, o, *out_hw) or y % dy or x % dx or 1 < groups == c == o:
        return None
    fewest = min(c, o) // groups
    join = next((d for d in range(1, groups + 1) if groups % d == 0 and d * fewest >= FEWEST), groups)
    sets = groups // join
    p, q = out_hw
    phases = n * dy * dx, -(-h // dy), -(-w // dx), c // sets
    return Parts(phases, o // sets, (-(-p // dy), -(-q // dx)), (y // dy, x // dx), (sets, join))


@lru_cache(4096)
def find(
    char: str,
    x_shape: tuple[int, int, int, int],
    o: int,
    kernel_hw: tuple[int, int],
    out_hw: tuple[int, int],
    origin: tuple[int, int],
    spec: Conv2dSpec,
    relu: bool,
    pool: bool = False,
    spreads: bool = False,
) -> Plan | None:
    """The plan for x (N, H, W, C), or None where the direct kernels are as fast.

    `origin` is the first window's corner in x, negative in the padding; stride, dilation and groups are those of spec.
    With `pool` it is for the largest of each 2 x 2 outputs. With `spreads`, the direct kernel would be conv_spread's.
    """
    (_, *hw, _), outputs, lanes, itemsize = x_shape, out_hw, simd.lanes(char), np.dtype(char).itemsize
    parts = parts_of(x_shape, o, out_hw, origin, spec)
    if parts is None or (pool and (parts.sets[0] > 1 or max(spec.dilation) > 1)):
        return None
    x_shape, o, out_hw, origin, (sets, join) = parts
    (n, _, _, c), (p, q) = x_shape, out_hw
    rows, columns = pieces = max(kernel_hw[0] // 2, 1), max(kernel_hw[1] // 2, 1)
    tile_rows, tile_columns = -(-p // 2), -(-q // 2)
    total, planes, depth = n * tile_rows * tile_columns, (3 * rows + 1) * (3 * columns + 1), rows * columns * c
    v_columns = tile_columns + columns - 1
    launches = LAUNCHES + SORTING * (spec.groups > 1)
    once = launches / sets + 16 * depth * o / lanes * 8  # 8 cycles for a vector of a plane
    vectors = -(-c // lanes) * v_columns / tile_columns * (tile_rows + rows - 1) / tile_rows + -(-o // lanes)
    if not pays(x_shape, o, kernel_hw, out_hw, origin, lanes, (planes, vectors), once, join, spreads):
        return None
    kind = contract.kind_of_sums(char, c, 1024, o)
    widths = contract.panel_widths(char, kind, 1024, o, contract.WALK)
    weights = 16 * depth * o * itemsize
    room = SMALL_BYTES if weights <= WEIGHT_BYTES else min(max(LARGE_BYTES, weights // 5), HUGE_BYTES)
    most = min(room // (16 * (c + o) * itemsize), total // GROUPS_WANTED)
    if pieces == (1, 1):
        most_rows = min(simd.max_rows(width, kind) for width in widths)
        most = max(1, most // most_rows) * most_rows
        groups = -(-total // most)
        groups = min(groups + groups % 2, total)  # an even number: two threads finish together
        block = unit = 1
        v_step = v_unit = c + lanes  # a row of planes never starts where another one ends its way through the cache
        sizes = total // groups, -(-total // groups)
    else:
        image = tile_rows * tile_columns
        block = max(d for d in range(1, n + 1) if n % d == 0 and (d == 1 or d * image <= most))
        bands = min(tile_rows, -(-block * image // max(most, 1)))
        groups, unit, v_step, v_unit = n // block * bands, block * tile_columns, block * c, v_columns * block * c
        sizes = tile_rows // bands * unit, -(-tile_rows // bands) * unit
    v_plane = odd_lines((sizes[1] // unit + rows - 1) * v_unit, itemsize)
    m_plane = odd_lines(sizes[1] * o, itemsize)
    u_plane = sets * depth * o + 64 // itemsize  # 64 x 64 without the line share sets of the cache: 13 us, not 5
    head = {
        IMAGES: n, HEIGHT: hw[0], WIDTH: hw[1], CHANNELS: c, OUT_ROWS: outputs[0], OUT_COLUMNS: outputs[1],
        OUT_CHANNELS: o, TOP: origin[0], LEFT: origin[1], PIECE_ROWS: rows, PIECE_COLUMNS: columns,
        TILE_ROWS: tile_rows, TILE_COLUMNS: tile_columns, GROUPS: groups, MOST_TILES: sizes[1], BLOCK: block,
        UNIT: unit, V_STEP: v_step, V_UNIT: v_unit, V_PLANE: v_plane, M_PLANE: m_plane, U_PLANE: u_plane,
        M_AT: 16 * v_plane, SCRATCH: 16 * (v_plane + m_plane), PANELS: len(widths), RELU: relu, POOL: pool,
        PHASE_ROWS: spec.dilation[0], PHASE_COLUMNS: spec.dilation[1], SETS: sets,
    }  # fmt: skip
    if pieces == (1, 1):
        tiles = _tile_of_planes(c, o, kind, v_step, (v_plane, u_plane, m_plane)) * 8
    else:
        tiles = [
            number
            for size in sizes
            for flags in (0, simd.ADD)
            for width in (columns, 1)
            for number in _tile_of_units(c, o, sets, kind, width, flags, (size // unit, unit, v_step, v_unit))
        ]
        sizes = unit, unit
    panels = [p for size in sizes for p in contract.panels(char, kind, size, o, widths)]
    numbers = np.array([head[i] for i in range(TILE)] + tiles + panels, np.int64)
    return Plan(numbers, head[SCRATCH], sets * total * planes * c * o, pieces, (sets, join))


def pays(
    x_shape: tuple[int, int, int, int],
    o: int,
    kernel_hw: tuple[int, int],
    out_hw: tuple[int, int],
    origin: tuple[int, int],
    lanes: int,
    tile: tuple[int, float],
    once: float,
    join: int,
    spreads: bool = False,
) -> bool:
    """Whether fewer products outweigh the transforms, by estimated cycles; 9 of 10 to be sure.

    A tile takes (C, O) products in so many planes, and so many vectors are transformed for it, some 25 cycles each
    (measured with AVX-512); `once` is what comes on top. The direct form skips rows of taps outside of the image,
    conv_spread columns as well. 16 channels, the fewest, reach 1.0 to 1.4 times the direct kernels' speed. Where so
    many groups are joined, it has fewer products.
    """
    (n, h, w, c), (kh, kw), (p, q) = x_shape, kernel_hw, out_hw
    if min(kernel_hw) < 3 or min(c, o) < FEWEST:
        return False
    product = c * -(-o // lanes) / 2 * 1.1
    planes, vectors = tile
    tiles = n * -(-p // 2) * -(-q // 2)
    rows = _inside(origin[0], kh, p, h)
    columns = _inside(origin[1], kw, q, w) if spreads else kw * q
    direct = n * rows * columns * c * -(-(o // join) // lanes) / 2 * 1.1
    return tiles * (planes * product + 25 * vectors) + once < 0.9 * direct


def _inside(first: int, taps: int, outputs: int, size: int) -> int:
    """Along one axis, how many of the taps of all outputs are inside of the image."""
    return sum(max(0, min(outputs, size - at) - max(0, -at)) for at in range(first, first + taps))


def odd_lines(elements: int, itemsize: int) -> int:
    """So many elements or some more: an odd number of cache lines, so that planes do not share sets of the cache."""
    line = 64 // itemsize
    return (-(-elements // line) | 1) * line


def _tile_of_planes(c: int, o: int, kind: int, v_step: int, steps: tuple[int, int, int]) -> list[int]:
    """(tiles, C) @ (C, O): the tile of all planes; `steps` are from plane to plane, left, right and in the product."""
    tile = [0] * TILE_ARGS
    parts = 1 if c < SPLIT_FROM else max(2, c // SUM_PRODUCTS)
    together = 2 if kind == simd.K_PAIRS else 1
    parts = next(n for n in range(parts, 0, -1) if c % (n * together) == 0)
    tile[N1], tile[N2], tile[N3] = 1, 1, c // parts
    tile[AK], tile[AR], tile[BK], tile[LDC] = 1, v_step, o, o
    tile[PLANES], (tile[A_PLANE], tile[B_PLANE], tile[C_PLANE]) = 15, steps
    if kind == simd.K_PAIRS:
        contract.in_pairs(tile)
    return contract.in_sums(tile, parts, c // parts, c // parts * o)


def _tile_of_units(
    c: int, o: int, sets: int, kind: int, columns: int, flags: int, units: tuple[int, int, int, int]
) -> list[int]:
    """(tiles, C) @ (C, O) for each of so many neighbouring pieces: the tile of all units of a group, in one plane."""
    count, unit, v_step, v_unit = units
    tile = [0] * TILE_ARGS
    parts = 1 if columns * c <= SUM_PRODUCTS // 2 else columns
    tile[N1], tile[N2], tile[N3] = 1, columns // parts, c
    tile[A2], tile[B2], tile[AK], tile[AR], tile[BK], tile[LDC], tile[FLAGS] = v_step, sets * c * o, 1, c, o, o, flags
    tile[PLANES], tile[A_PLANE], tile[B_PLANE], tile[C_PLANE] = count - 1, v_unit, 0, unit * o
    if kind == simd.K_PAIRS:
        contract.in_pairs(tile)
    return contract.in_sums(tile, parts, v_step, sets * c * o)


def convolve(
    plan: Plan,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: Any = None,
    winner: Any = None,
    kept: dict[Any, np.ndarray] | None = None,
) -> bool:
    """y (N, P, Q, O) from x (N, H, W, C) and w (KH, KW, C/G, O), all C-contiguous; False if y is not finite.

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
    """(KH, KW, C/G, O) -> (16, K, O), flat, U_PLANE from plane to plane; K is over pieces, sets and their channels."""
    w = _joined(w, plan.sets)
    kh, kw, c, o = w.shape
    plane = int(plan.numbers[U_PLANE])
    planes = memory.empty((16 * plane,), w.dtype)
    numbers = kh, kw, *plan.pieces, c * o, plane, simd.lanes(w.dtype)
    launch(_transform_kernel, contract.flat(w), planes, *numbers, work=planes.size)
    return planes


def _joined(w: np.ndarray, sets: tuple[int, int]) -> np.ndarray:
    """(KH, KW, C/G, O) -> (KH, KW, C of all sets, O of one): zeros between the groups that a set joins."""
    if sets == (1, 1):
        return w
    out = memory.zeros((w.shape[0] * w.shape[1], sets[0], sets[1], w.shape[2], w.shape[3] // sets[0]), w.dtype)
    groups = w.reshape(out.shape[0], w.shape[2], *sets, -1)
    np.copyto(diagonal(out, sets[1]), groups.transpose(0, 2, 3, 1, 4))
    return out.reshape(*w.shape[:2], -1, out.shape[4])


def diagonal(w: np.ndarray, join: int) -> np.ndarray:
    """Of (taps, sets, joined groups, C/G, O of a set) each group's own weights, a view: (..., C/G, O/G)."""
    return np.einsum("tsgcgo->tsgco", w.reshape(*w.shape[:4], join, -1))


@inner
def vectors_of_part(size, lanes, part, parts):  # type: ignore[no-untyped-def]
    """The first and the number of elements of a part's share of the vectors that cover `size` elements."""
    vectors = -(-size // lanes)
    first, last = vectors * part // parts * lanes, vectors * (part + 1) // parts * lanes
    return first, min(last, size) - first


@jit(parts=True)
def _transform_kernel(w, planes, kh, kw, rows, columns, size, plane, lanes, part, parts):  # type: ignore[no-untyped-def]
    """Each part takes its share of the (C, O) matrix, of every piece: two taps, or what is left for the last."""
    first, count = vectors_of_part(size, lanes, part, parts)
    for r in range(rows):
        for s in range(columns):
            high, wide = kh - 2 * r if r == rows - 1 else 2, kw - 2 * s if s == columns - 1 else 2
            at, to = (r * kw + s) * 2 * size + first, (r * columns + s) * size + first
            kernel_planes(w, at, kw * size, size, high, wide, 1, 0, planes, to, 4 * plane, plane, count)


@jit(parts=True)
def _convolve(plan, x, u, y, winner, bias, scratch, finite, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the groups."""
    groups = plan[GROUPS]
    base = part * plan[SCRATCH]
    for group in range(groups * part // parts, groups * (part + 1) // parts):
        first, last = _group(plan, group)
        for some in range(plan[SETS]):
            _to_planes(plan, x, some, first, last, scratch, base)
            _multiply(plan, some, last - first, u, scratch, base)
            if not _from_planes(plan, some, first, last, scratch, base, bias, y, winner):
                finite[part] = False


@inner
def _group(plan, group):  # type: ignore[no-untyped-def]
    """A group's first tile and the tile after its last."""
    unit, groups = plan[UNIT], plan[GROUPS]
    units = plan[IMAGES] * plan[TILE_ROWS] * plan[TILE_COLUMNS] // unit
    return units * group // groups * unit, units * (group + 1) // groups * unit


@inner
def _run(plan, tile, last):  # type: ignore[no-untyped-def]
    """The image, its place in its block, row and column of a tile, how many from there on are in its row, and the units
    that end with them.
    """
    rows, columns, block = plan[TILE_ROWS], plan[TILE_COLUMNS], plan[BLOCK]
    line, j = tile // columns, tile % columns
    row, place = (line, 0) if block == 1 else (line // block, line % block)
    count = min(columns - j, last - tile)
    units = count if plan[UNIT] == 1 else 1 if place + 1 == block else 0
    return row // rows * block + place, place, row % rows, j, count, units


@inner
def pixel_at(n, row, column, height, width, channels, down, across):  # type: ignore[no-untyped-def]
    """Where a pixel of a phase begins, of which an image has `down * across`, one after another."""
    phases = down * across
    if phases == 1:  # no divisions: they take 4 % of the time of 16 channels
        return ((n * height + row) * width + column) * channels
    y, x = row * down + n % phases // across, column * across + n % across
    return ((n // phases * height + y) * width + x) * channels


@inner
def phase_size(n, height, width, down, across):  # type: ignore[no-untyped-def]
    """The rows and columns of a phase of an image."""
    if down * across == 1:
        return height, width
    return (height - n % (down * across) // across + down - 1) // down, (width - n % across + across - 1) // across


@inner
def _to_planes(plan, x, some, first, last, scratch, base):  # type: ignore[no-untyped-def]
    """V[plane, unit, ...]: a set's transformed inputs of tiles `first` to `last`, and those that pieces add."""
    channels, height, width, down, across = (
        plan[CHANNELS],
        plan[HEIGHT],
        plan[WIDTH],
        plan[PHASE_ROWS],
        plan[PHASE_COLUMNS],
    )
    unit, plane, pixel = plan[UNIT], plan[V_PLANE], plan[SETS] * channels
    tile, unit_to = first, base
    while tile < last:
        n, place, i, j, count, units = _run(plan, tile, last)
        to = unit_to + place * channels
        rows, columns = phase_size(n, height, width, down, across)
        for r in range(plan[PIECE_ROWS] if tile >= last - unit else 1):
            top, left = 2 * (i + r) + plan[TOP], 2 * j + plan[LEFT]
            at = pixel_at(n, top, left, height, width, pixel, down, across) + some * channels
            input_planes(
                x, at, down * width * pixel, across * pixel, top, rows, left, columns, scratch, to + r * plan[V_UNIT],
                4 * plane, plane, plan[V_STEP], count + plan[PIECE_COLUMNS] - 1, channels,
            )  # fmt: skip
        tile += count
        unit_to += units * plan[V_UNIT]


@inner
def _multiply(plan, some, tiles, u, scratch, base):  # type: ignore[no-untyped-def]
    """M[plane] = the sum over pieces of V[plane, what the piece reads] @ U[plane, piece], for all planes."""
    rows, columns = plan[PIECE_ROWS], plan[PIECE_COLUMNS]
    large, size = tiles == plan[MOST_TILES], plan[CHANNELS] * plan[OUT_CHANNELS]
    pieces = plan[SETS] * size
    for plane in range(16 if rows * columns > 1 else 1):
        right = plane % 4 == 3  # only the last piece has a third tap
        top, left = rows - 1 if plane >= 12 else 0, columns - 1 if right else 0
        for p in range(plan[PANELS]):
            panel = HEADER + (large * plan[PANELS] + p) * PANEL
            c = base + plan[M_AT] + plane * plan[M_PLANE] + plan[panel + COLUMN]
            for r in range(top, rows):
                tile = TILE + SUMS * (4 * large + 2 * (r > top) + right)
                a = base + plane * plan[V_PLANE] + r * plan[V_UNIT] + left * plan[V_STEP]
                b = plane * plan[U_PLANE] + (r * columns + left) * pieces + some * size + plan[panel + COLUMN]
                tile_panel(plan, tile, panel, scratch, a, u, b, scratch, c, scratch, 0)


@inner
def _from_planes(plan, some, first, last, scratch, base, bias, y, winner):  # type: ignore[no-untyped-def]
    """A set's output pixels of these tiles, or the largest of each; whether they are finite."""
    channels, down, across, relu = plan[OUT_CHANNELS], plan[PHASE_ROWS], plan[PHASE_COLUMNS], plan[RELU]
    plane, unit, step, pixel = plan[M_PLANE], plan[UNIT], plan[BLOCK] * channels, plan[SETS] * channels
    tile, unit_at, finite = first, base + plan[M_AT], True
    bias = bias[some * channels : (some + 1) * channels]
    while tile < last:
        n, place, i, j, count, units = _run(plan, tile, last)
        at = unit_at + place * channels
        rows, columns = phase_size(n, plan[OUT_ROWS], plan[OUT_COLUMNS], down, across)
        whole = max(min(count, columns // 2 - j), 0)
        if plan[POOL]:
            if 2 * i + 1 < rows:
                to = ((n * (rows // 2) + i) * (columns // 2) + j) * channels
                finite &= pooled_pixels(scratch, at, 4 * plane, plane, step, bias, y, winner, to, whole, channels, relu)
        elif 2 * i < rows:  # a phase may have a row and a column less than others
            below = down * plan[OUT_COLUMNS] * pixel if 2 * i + 1 < rows else 0
            to = pixel_at(n, 2 * i, 2 * j, plan[OUT_ROWS], plan[OUT_COLUMNS], pixel, down, across) + some * channels
            beside = across * pixel
            finite &= output_pixels(
                scratch, at, 4 * plane, plane, step, bias, y, to, below, beside, whole, channels, relu
            )
            half = 1 if whole < count and 2 * (j + whole) < columns else 0
            at_last, to = at + whole * step, to + 2 * whole * beside
            finite &= output_pixels(
                scratch, at_last, 4 * plane, plane, step, bias, y, to, below, 0, half, channels, relu
            )
        tile += count
        unit_at += units * unit * channels
    return finite
