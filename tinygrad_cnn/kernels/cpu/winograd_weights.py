"""The weight gradient of a convolution with fewer multiplications: Winograd's formula read in another direction,

    dW = G' [sum over tiles of (B' x B) * (A g A')] G

with tiles of 2 x 2 outputs and the matrices of conv_winograd. A kernel of 5 x 5 is four pieces that begin two taps
apart, as tiles do: what a piece reads in one tile, the piece before it reads in the next, so that all share the same
transformed inputs. The last piece has three taps, or two, as the others; pieces of two have no product in the last
plane, which makes 49 products of 100. The third tap of a piece that has two is the first one of its neighbour.

Letters: N images, C channels, O output channels, P x Q outputs, R x S pieces of the kernel.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

from .. import get_num_threads, launch
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .conv_winograd import (
    SORTING,
    SUM_PRODUCTS,
    Plan,
    diagonal,
    odd_lines,
    parts_of,
    pays,
    phase_size,
    pixel_at,
    vectors_of_part,
)
from .simd import A1, A2, AK, AR, B1, B2, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS

if contract.ENABLED:
    from .winograd_transforms import grad_planes, input_planes, kernel_sums

#: Bytes of the transformed inputs and gradients of a block of tiles, which stays in the L2 cache: it is read for each
#: piece, and the sums are read and written for each block.
BLOCK_BYTES = 768 << 10
#: Shares of the work: runs of blocks, each with its own sums, or, where these would take more bytes than this, parts of
#: the input channels. A block reads and writes all sums of its share: four runs of blocks take 3870 us for 5 x 5 taps
#: between 128 channels and 32 images of 8 x 8, four times 32 channels 2500.
SHARES, SHARE_BYTES = 4, 1 << 20
#: Cycles that the launches take, of both threads, more than those of the direct form, which has as many.
LAUNCHES = 5_000

# fmt: off
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_ROWS, OUT_COLUMNS, OUT_CHANNELS, TOP, LEFT, PIECE_ROWS, PIECE_COLUMNS,
 ODD_ROWS, ODD_COLUMNS, TILE_ROWS, TILE_COLUMNS, GROUPS, BANDS, V_ROW, V_COLUMNS, V_PLANE, M_PLANE, SUM_PLANE, M_AT,
 SCRATCH, SHARDS, SPLITS, PANELS, PHASE_ROWS, PHASE_COLUMNS, SETS, TILE) = range(31)
# fmt: on
SUMS = 3 * TILE_ARGS  # of a kind of tiles: a row may be more than one sum
HEADER = TILE + 8 * SUMS  # then the panels


@lru_cache(4096)
def find(
    char: str,
    x_shape: tuple[int, int, int, int],
    o: int,
    kernel_hw: tuple[int, int],
    out_hw: tuple[int, int],
    origin: tuple[int, int],
    spec: Conv2dSpec,
) -> Plan | None:
    """The plan for x (N, H, W, C), or None where the direct kernels are as fast.

    `origin` is the first window's corner in x, negative in the padding.
    """
    (_, *hw, _), outputs, lanes, itemsize = x_shape, out_hw, simd.lanes(char), np.dtype(char).itemsize
    parts = parts_of(x_shape, o, out_hw, origin, spec)
    if parts is None:
        return None
    x_shape, o, out_hw, origin, (sets, join) = parts
    (n, _, _, c), (p, q) = x_shape, out_hw
    (rows, columns), odd = (max(k // 2, 1) for k in kernel_hw), [k % 2 for k in kernel_hw]
    tile_rows, tile_columns = -(-p // 2), -(-q // 2)
    planes = (3 * rows + odd[0]) * (3 * columns + odd[1])
    vectors = -(-c // lanes) * (1 + (columns - 1) / tile_columns) + -(-o // lanes)
    launches = LAUNCHES + SORTING * (spec.groups > 1)
    once = launches / sets + 16 * rows * columns * c * o / lanes * 8  # 8 cycles for a vector of a plane
    if not pays(x_shape, o, kernel_hw, out_hw, origin, lanes, (planes, vectors), once, join):
        return None
    splits = 1
    while planes * c * o * itemsize > splits * SHARE_BYTES and splits < SHARES and c % (2 * splits * lanes) == 0:
        splits *= 2
    v_row, v_columns = c // splits, tile_columns + columns - 1

    # blocks: rows of tiles of one image, or several images
    tile_bytes = 16 * (v_row * v_columns / tile_columns + o) * itemsize
    most = max(8, min(SUM_PRODUCTS, int(BLOCK_BYTES // tile_bytes)))
    bands = min(tile_rows, -(-tile_rows * tile_columns // most))
    groups = n if bands > 1 else -(-n // max(1, most // (tile_rows * tile_columns)))
    groups = min(-(-groups // SHARES) * SHARES, n)
    size = sets * rows * columns * c * o
    shards = SHARES // splits
    sum_plane = size + 64 // itemsize
    most_tiles = -(-n // groups) * -(-tile_rows // bands)
    most_inputs = -(-n // groups) * (-(-tile_rows // bands) + rows - 1)
    v_plane = odd_lines(most_inputs * v_columns * v_row, itemsize)
    m_plane = odd_lines(most_tiles * tile_columns * o, itemsize)
    panels = contract.panels(char, simd.OUTER, c // splits, o, walk=contract.WALK)
    head = {
        IMAGES: n, HEIGHT: hw[0], WIDTH: hw[1], CHANNELS: c, OUT_ROWS: outputs[0], OUT_COLUMNS: outputs[1],
        OUT_CHANNELS: o, TOP: origin[0], LEFT: origin[1], PIECE_ROWS: rows, PIECE_COLUMNS: columns, ODD_ROWS: odd[0],
        ODD_COLUMNS: odd[1], TILE_ROWS: tile_rows, TILE_COLUMNS: tile_columns, GROUPS: groups, BANDS: bands,
        V_ROW: v_row, V_COLUMNS: v_columns, V_PLANE: v_plane, M_PLANE: m_plane, SUM_PLANE: sum_plane,
        M_AT: 16 * v_plane, SCRATCH: 16 * (v_plane + m_plane), SHARDS: min(shards // gcd(shards, sets), groups * bands),
        SPLITS: splits, PANELS: len(panels) // PANEL, PHASE_ROWS: spec.dilation[0], PHASE_COLUMNS: spec.dilation[1],
        SETS: sets,
    }  # fmt: skip
    tiles = []  # to begin sums or to go on, then the smaller number of rows or the larger, then of images
    for images in (n // groups, -(-n // groups)):
        for down in (tile_rows // bands, -(-tile_rows // bands)):
            for flags in (0, simd.ADD):
                tile = [0] * TILE_ARGS
                tile[N1], tile[N2], tile[N3] = images, down, tile_columns
                if rows == columns == 1:  # all tiles follow each other
                    tile[N1], tile[N2], tile[N3] = 1, 1, images * down * tile_columns
                tile[A1], tile[A2], tile[AK] = (down + rows - 1) * v_columns * v_row, v_columns * v_row, v_row
                tile[B1], tile[B2], tile[BK] = down * tile_columns * o, tile_columns * o, o
                tile[AR], tile[LDC], tile[FLAGS] = 1, o, flags
                tiles += contract.in_columns(tile, SUM_PRODUCTS)
    numbers = np.array([head[i] for i in range(TILE)] + tiles + panels, np.int64)
    work = sets * n * tile_rows * tile_columns * planes * c * o
    return Plan(numbers, head[SCRATCH], work, (rows, columns), parts.sets)


def weight_grad(plan: Plan, x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int]) -> np.ndarray | None:
    """(KH, KW, C/G, O) from x (N, H, W, C) and g (N, P, Q, O), all C-contiguous; None if it is not finite."""
    (rows, columns), (kh, kw), (sets, join), c = plan.pieces, kernel_hw, plan.sets, x.shape[3]
    o = g.shape[3] // sets
    threads, shards, plane = get_num_threads(), int(plan.numbers[SHARDS]), int(plan.numbers[SUM_PLANE])
    scratch = memory.empty((threads * plan.scratch,), x.dtype)
    sums = memory.empty((shards * 16 * plane,), x.dtype)
    arrays = contract.flat(x), contract.flat(g), sums, scratch
    launch(_sum_planes, plan.numbers, *arrays, work=plan.work, threads=threads)
    taps = memory.empty((2 * rows + 1, 2 * columns + 1, c, o), x.dtype)
    numbers = shards, rows, columns, c * o, plane, simd.lanes(x.dtype)
    launch(_to_taps, sums, taps.reshape(-1), *numbers, work=sums.size)
    w = taps if taps.shape[:2] == kernel_hw else np.ascontiguousarray(taps[:kh, :kw])
    if not np.isfinite(w).all():
        return None
    if sets * join > 1:
        own = diagonal(w.reshape(kh * kw, sets, join, -1, o), join)
        w = np.ascontiguousarray(own.transpose(0, 3, 1, 2, 4)).reshape(kh, kw, -1, sets * o)
    return w


@jit(parts=True)
def _sum_planes(plan, x, g, sums, scratch, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the shards, each over its own blocks, and of the splits of all sets of channels."""
    shards, splits, bands = plan[SHARDS], plan[SPLITS] * plan[SETS], plan[BANDS]
    blocks, base = plan[GROUPS] * bands, part * plan[SCRATCH]
    for share in range(shards * splits * part // parts, shards * splits * (part + 1) // parts):
        shard, split = share // splits, share % splits
        begin = blocks * shard // shards
        for block in range(begin, blocks * (shard + 1) // shards):
            group, band = block // bands, block % bands
            first, last = plan[IMAGES] * group // plan[GROUPS], plan[IMAGES] * (group + 1) // plan[GROUPS]
            top, bottom = plan[TILE_ROWS] * band // bands, plan[TILE_ROWS] * (band + 1) // bands
            _inputs_to_planes(plan, x, split, first, last, top, bottom, scratch, base)
            _grads_to_planes(plan, g, split // plan[SPLITS], first, last, top, bottom, scratch, base)
            more_images = last - first - plan[IMAGES] // plan[GROUPS]
            more_rows = bottom - top - plan[TILE_ROWS] // bands
            tile = TILE + SUMS * (4 * more_images + 2 * more_rows + (block > begin))
            _add_products(plan, tile, shard, split, sums, scratch, base)


@inner
def _inputs_to_planes(plan, x, split, first, last, top, bottom, scratch, to):  # type: ignore[no-untyped-def]
    """V[plane, image, row, column, channel]: the transformed inputs of rows of tiles, in a split."""
    height, width, down, across = plan[HEIGHT], plan[WIDTH], plan[PHASE_ROWS], plan[PHASE_COLUMNS]
    plane, some, pixel = plan[V_PLANE], plan[V_ROW], plan[SETS] * plan[CHANNELS]
    for n in range(first, last):
        rows, columns = phase_size(n, height, width, down, across)
        for i in range(top, bottom + plan[PIECE_ROWS] - 1):
            row, left = 2 * i + plan[TOP], plan[LEFT]
            at = pixel_at(n, row, left, height, width, pixel, down, across) + split * some
            input_planes(
                x, at, down * width * pixel, across * pixel, row, rows, left, columns, scratch, to,
                4 * plane, plane, some, plan[V_COLUMNS], some,
            )  # fmt: skip
            to += plan[V_COLUMNS] * some


@inner
def _grads_to_planes(plan, g, some, first, last, top, bottom, scratch, base):  # type: ignore[no-untyped-def]
    """M[plane, image, row, column, channel]: the transformed output gradients of rows of tiles, in a set."""
    height, width, down, across = plan[OUT_ROWS], plan[OUT_COLUMNS], plan[PHASE_ROWS], plan[PHASE_COLUMNS]
    plane, to, channels = plan[M_PLANE], base + plan[M_AT], plan[OUT_CHANNELS]
    pixel = plan[SETS] * channels
    for n in range(first, last):
        rows, columns = phase_size(n, height, width, down, across)
        for i in range(top, bottom):
            at = pixel_at(n, 2 * i, 0, height, width, pixel, down, across) + some * channels
            grad_planes(
                g, at, down * width * pixel, across * pixel, 2 * i, rows, 0, columns, scratch, to,
                4 * plane, plane, channels, plan[TILE_COLUMNS], channels,
            )  # fmt: skip
            to += plan[TILE_COLUMNS] * channels


@inner
def _add_products(plan, tile, shard, split, sums, scratch, base):  # type: ignore[no-untyped-def]
    """sums[shard, plane, piece] += V[plane, what the piece reads]' @ M[plane], but for pieces without a third tap."""
    rows, columns = plan[PIECE_ROWS], plan[PIECE_COLUMNS]
    some, size = plan[V_ROW], plan[SETS] * plan[CHANNELS] * plan[OUT_CHANNELS]
    for plane in range(16):
        for r in range(rows - plan[ODD_ROWS] if plane >= 12 else 0, rows):
            for s in range(columns - plan[ODD_COLUMNS] if plane % 4 == 3 else 0, columns):
                for p in range(plan[PANELS]):
                    panel = HEADER + p * PANEL
                    column = plan[panel + COLUMN]
                    a = base + plane * plan[V_PLANE] + (r * plan[V_COLUMNS] + s) * some
                    b = base + plan[M_AT] + plane * plan[M_PLANE] + column
                    c = (shard * 16 + plane) * plan[SUM_PLANE] + (r * columns + s) * size + column
                    c += split * some * plan[OUT_CHANNELS]
                    tile_panel(plan, tile, panel, scratch, a, scratch, b, sums, c, scratch, 0)


@jit(parts=True)
def _to_taps(sums, taps, shards, rows, columns, size, plane, lanes, part, parts):  # type: ignore[no-untyped-def]
    """Each part takes its share of the (C, O) matrix, of every piece: later ones replace third taps of those before."""
    first, count = vectors_of_part(size, lanes, part, parts)
    row = (2 * columns + 1) * size
    for piece in range(rows * columns):
        at, to = piece * size + first, first
        to += piece // columns * 2 * row + piece % columns * 2 * size
        kernel_sums(sums, at, 4 * plane, plane, 4, 4, shards, 16 * plane, taps, to, row, size, count)
