"""The weight gradient of a convolution: sums over pixels, held in registers while a block of images passes.

A tile is taps x output channels, or, where that fills the vectors better, output channels x taps. A run is a row of
taps that are neighbours in memory (kw * C of them without dilation). A block of images and rows fits the L2 cache.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .. import PARALLEL_WORK
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .conv_shared import BAND_BYTES, FEW_PRODUCTS, is_far, longer_rows
from .matmul import column_sums
from .simd import A1, A2, A_RUN, AK, AR, B1, B2, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS, clear, copy

#: Shares of the work: shards (runs of blocks, each with its own sum) x splits (shares of the tap runs and panels).
#: By size only, so that no thread count changes a bit; powers of two, so that two and four threads finish together.
#: What is too small for threads is one: 32 images of 8 x 8, 16 -> 16 channels, 1x1, take 9.0 us so, in 8 shards 12.2.
TASKS = 8
#: Pixels whose products make one sum; the sums of blocks are added up, which keeps the error small: with one sum for a
#: row of 16,000 pixels it was 8.8 times that of NumPy's matrix product.
BLOCK_PIXELS = 512
#: Cycles that a pixel and a tap of a group take, however few its channels are.
LEAST = 5
#: Bytes of weights that a task adds to again and again: they stay in the L2 cache, next to a block.
SPLIT_BYTES = 256 << 10


def weight_grad(x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, H, W, C), (N, P, Q, O) -> (KH, KW, C/G, O), all C-contiguous."""
    join = _joined(x.dtype.char, x.shape[3], g.shape[3], spec.groups)
    if join > 1:
        w = weight_grad(x, g, kernel_hw, spec._replace(groups=spec.groups // join))
        pairs = w.reshape(kernel_hw[0] * kernel_hw[1], join, -1, spec.groups // join, join, g.shape[3] // spec.groups)
        return np.ascontiguousarray(np.einsum("tjcsjo->tcsjo", pairs)).reshape(*kernel_hw, -1, g.shape[3])
    found = _find(x.dtype.char, x.shape, g.shape, kernel_hw, spec)
    taps, o = (*kernel_hw, x.shape[3] // spec.groups), g.shape[3]
    if found is None:
        return memory.zeros((*taps, o), x.dtype)
    shape = (o, *taps) if found.swapped else (*taps, o)
    w = memory.empty(shape, x.dtype)
    sums = w if found.shards == 1 else memory.empty((found.shards, w.size), x.dtype)
    contract.run(found.work, x, g, sums)
    if found.shards > 1:
        column_sums(sums, w)
    if found.swapped:  # (O, KH, KW, C/G) -> (KH, KW, C/G, O)
        w, swapped = memory.empty((*taps, o), x.dtype), w
        np.copyto(w, swapped.transpose(1, 2, 3, 0))
    return w


@lru_cache(4096)
def _joined(char: str, c: int, o: int, groups: int) -> int:
    """How many groups to take as one, with products between them that nobody asks for: the fewest cycles.

    128 channels in 32 groups, 3x3 at stride 2: 1017 us in 8 sets of 16 channels, 2266 us without.
    """
    if groups == c == o or 0 in (c, o):
        return 1  # channel by channel in vectors, or nothing at all

    def cycles(join: int) -> float:
        sets = groups // join
        return sets * max(contract.cycles(char, simd.OUTER, c // sets, o // sets), LEAST)

    return min((d for d in range(1, groups + 1) if groups % d == 0), key=cycles)


class _Found(NamedTuple):
    work: contract.Work
    shards: int
    swapped: bool  # the work writes (O, KH, KW, C/G)


class _Tiles(NamedTuple):
    """The tiles of a run: taps x output channels, or with `swapped` output channels x taps."""

    kind: int
    together: int  # taps that a row of the tile holds
    rows: int
    across: int
    widths: list[int]  # of the panels
    sets: list[int]  # rows of the kernel that are one stack of tiles
    swapped: bool
    halves: bool  # two panels, a task each


def _tiles(
    char: str, kh: int, run: int, o: int, pixels: int, lanewise: bool, whole_rows: bool, may_halve: bool
) -> _Tiles:
    """What takes the fewest cycles for runs of `run` taps, which may be whole rows of the kernel, and o channels."""
    if lanewise:
        return _Tiles(simd.LANEWISE, 1, run, o, _widths(char, simd.LANEWISE, run, o), [1] * kh, False, False)
    widths: list[int] | None = None
    sets, straight = [1] * kh, contract.cycles(char, simd.OUTER, run, o)
    if whole_rows:
        cycles, widths, sets = contract.stacks(char, kh, run, o, contract.WALK)
        straight = cycles / kh
    kind, together = simd.OUTER, 1
    paired = contract.pays_in_pairs(char, simd.ROW_PAIRS, run, run // 2, o, straight)
    # two panels, each on its own, leave nothing to add up: 32 images of 8 x 8, 32 -> 32, 1x1, take 15.9 us, not 18.6
    halves = may_halve and -(-o // simd.lanes(char)) == 2
    halves = halves and contract.pays_in_pairs(char, simd.ROW_PAIRS, run, run // 2, simd.lanes(char), straight)
    if paired or halves:
        kind, together, widths, sets = simd.ROW_PAIRS, 2, [1] * (1 + halves), [1] * kh
        straight = contract.cycles(char, kind, run // 2, o)
    turned = contract.cycles(char, simd.OUTER, o, run)
    saved = (straight - turned) * pixels  # cycles for each run of each group; the copy takes 4 a weight
    if turned < 0.9 * straight and saved > 4 * run * o:
        return _Tiles(simd.OUTER, 1, o, run, _widths(char, simd.OUTER, o, run), [1] * kh, True, False)
    rows = run // together
    return _Tiles(kind, together, rows, o, widths or _widths(char, kind, rows, o), sets, False, halves)


def _widths(char: str, kind: int, rows: int, columns: int) -> list[int]:
    return contract.panel_widths(char, kind, rows, columns, contract.WALK)


# fmt: off
(SHARDS, SPLITS, BLOCKS, BANDS, IMAGES, BLOCK_IMAGES, ROWS_OUT, SIZE, RUNS, PANELS, GROUPS, SCRATCH, PADDED,
 X_IMAGE, X_ROW, G_IMAGE, G_ROW, ORIGIN_ROW, ORIGIN_COLUMN, SPAN_ROWS, SPAN_COLUMNS, STRIDE, HEIGHT, WIDTH, CHANNELS,
 SWAPPED, LANEWISE, X_GROUP, G_GROUP, OUT_GROUP, FEWEST_ROWS, ROW_COUNTS, RUNS_AT, JOB_SUMS, TILE) = range(35)
# fmt: on
SUMS = 3 * TILE_ARGS  # of a kind of tiles: a row may be more than one sum
#: A run of taps, or runs of several rows of the kernel together: offsets in x's window, in the weights, of its panels,
#: and of the output rows for which it meets the image the first and the one after the last.
RUN_X, RUN_W, RUN_PANELS, RUN_BEGIN, RUN_END, RUN = range(6)


@lru_cache(4096)
def _find(
    char: str,
    x_shape: tuple[int, ...],
    g_shape: tuple[int, ...],
    kernel_hw: tuple[int, int],
    spec: Conv2dSpec,
) -> _Found | None:
    """The plan for these shapes; None where there is nothing to sum."""
    (n, h, w, c), (_, p, q, o), (kh, kw) = x_shape, g_shape, kernel_hw
    if 0 in x_shape or 0 in g_shape:
        return None
    if (kh, kw, *spec.stride, *spec.padding) == (1, 1, 1, 1, 0, 0, 0, 0):
        n, h, w = longer_rows(n, h, w)
        p, q = h, w
    (sy, sx), (dy, dx), (top, _, left, _) = spec.stride, spec.dilation, spec.padding
    padded = any(spec.padding)
    columns = (q - 1) * sx + (kw - 1) * dx + 1 if padded else w
    itemsize = np.dtype(char).itemsize
    lanewise = spec.groups == c == o
    groups = 1 if lanewise else spec.groups
    c_group, o_group = c // groups, o // groups  # lanewise: all channels, one by one

    if lanewise:
        run, run_taps, tap_step, depth = kw, kw, dx * c, 1
    elif dx == 1 and groups == 1:
        run, run_taps, tap_step, depth = kw * c, kw, 1, c
    else:
        run, run_taps, tap_step, depth = c_group, 1, 1, c_group
    size = kh * kw * depth * o
    elements, multiply_adds = n * (h * w * c + p * q * o), n * p * q * size
    work = multiply_adds if lanewise else contract.effort(multiply_adds, elements + size)
    may_halve = work >= PARALLEL_WORK and kh * kw == groups == 1 and elements * itemsize <= 2 * BAND_BYTES
    tiles = _tiles(char, kh, run, o_group, n * p * q, lanewise, run_taps == kw, may_halve)
    kind, together, rows, across, widths, sets, swapped, halves = tiles
    ldc = kh * kw * depth if swapped else o
    starts = [(sum(sets[:i]), z, count) for i, count in enumerate(sets) for z in range(0, kw, run_taps)]

    # blocks: rows of one image, or several images
    row_bytes = (sy * columns * c + q * o) * itemsize
    bands = min(p, max(-(-p * row_bytes // (2 * BAND_BYTES)), -(-p * q // BLOCK_PIXELS)))
    most = min(2 * BAND_BYTES // (p * row_bytes), BLOCK_PIXELS // (p * q))
    block_images = 1 if bands > 1 else max(1, min(most, -(-n // TASKS)))
    blocks = -(-n // block_images) * bands
    tasks = shards = TASKS if work >= PARALLEL_WORK and not halves else 1
    while shards > 1 and (shards > blocks or shards * size > elements):
        shards //= 2
    jobs = groups * len(starts) * len(widths)
    splits = jobs if halves else min(jobs, max(tasks // shards, -(-size * itemsize // SPLIT_BYTES)))

    far = groups == 1 and not lanewise and (kh * kw == 1 or kh * kw * c * o <= FEW_PRODUCTS)
    far = far and (max(sets) == 1 or simd.host().registers == 32) and is_far(elements, itemsize)  # else tiles spill
    sharing = -(-jobs // splits)
    walks = sharing * (1 if max(sets) > 1 else -(-rows // simd.max_rows(widths[0], kind, far)))
    flat = not padded and (sy, sx, kw) == (1, 1, 1)  # pixels follow each other from row to row
    x_fetches = contract.fetches(c, itemsize, walks) if far and flat else 0
    g_fetches = contract.fetches(o, itemsize, walks) if far else 0
    fetches = (g_fetches, x_fetches) if swapped else (x_fetches, g_fetches)
    panels, panels_at = list[int](), {}
    for count in dict.fromkeys(sets):
        panels_at[count] = len(panels)
        panels += contract.panels(char, kind, count * rows, across, widths, run=run * (count > 1), fetches=fetches)

    # of a run only the rows of a band that meet the image: for 5 x 5 taps on 8 x 8 pixels 34 of 40
    meets = [(-((y + count - 1) * dy - top) // sy, -((y * dy - top - h) // sy)) for y, _, count in starts]
    edges = [p * band // bands for band in range(bands + 1)]
    met = {max(min(last, b) - max(first, a), 1) for first, last in set(meets) for a, b in pairwise(edges)}
    row_counts = range(min(met), max(met) + 1)
    job_sums = 4 * SUMS * len(row_counts)
    runs_at = TILE + job_sums * (jobs if far else 1)
    runs = []
    for (y, z, count), rows_met in zip(starts, meets, strict=True):
        runs += [(y * dy * columns + z * dx) * c, (y * kw + z) * depth * (1 if swapped else o)]
        runs += [runs_at + RUN * len(starts) + panels_at[count], *rows_met]

    span = (kh - 1) * dy + 1
    scratch_image = ((-(-p // bands) - 1) * sy + span) * columns * c
    scratch = scratch_image * block_images if padded else 0
    x_image, g_image = h * w * c, p * q * o
    head = {
        SHARDS: shards, SPLITS: splits, BLOCKS: blocks, BANDS: bands, IMAGES: n, BLOCK_IMAGES: block_images,
        ROWS_OUT: p, SIZE: size, RUNS: len(starts), PANELS: len(widths), GROUPS: groups,
        SCRATCH: scratch, PADDED: padded, X_IMAGE: x_image, X_ROW: sy * columns * c, G_IMAGE: g_image, G_ROW: q * o,
        ORIGIN_ROW: -top, ORIGIN_COLUMN: -left, SPAN_ROWS: span, SPAN_COLUMNS: columns, STRIDE: sy,
        HEIGHT: h, WIDTH: w, CHANNELS: c, SWAPPED: swapped, LANEWISE: lanewise,
        X_GROUP: c_group, G_GROUP: o_group, OUT_GROUP: o_group * (ldc if swapped else 1),
        FEWEST_ROWS: row_counts[0], ROW_COUNTS: len(row_counts), RUNS_AT: runs_at,
        JOB_SUMS: job_sums if far else 0,
    }  # fmt: skip
    x_strides = (scratch_image if padded else x_image, sy * columns * c, sx * c)
    g_strides = (g_image, q * o, o)
    tile = [0] * TILE_ARGS
    tile[N3], tile[AR], tile[LDC], tile[A_RUN] = q, tap_step * together, ldc * together, dy * columns * c
    tile[A1], tile[A2], tile[AK] = g_strides if swapped else x_strides
    tile[B1], tile[B2], tile[BK] = x_strides if swapped else g_strides
    sums = _sums(tile, (block_images, n - (-(-n // block_images) - 1) * block_images), row_counts)
    if far:
        pixels, strides = block_images * -(-p // bands) * q, (o, c) if swapped else (c, o)
        sums = contract.fetching(sums, jobs, sharing, pixels, strides)
    plan = np.array([head[i] for i in range(TILE)] + sums + runs + panels, np.int64)
    return _Found(contract.Work(_walk, plan, scratch, work), shards, swapped)


def _sums(tile: list[int], images: tuple[int, int], row_counts: range) -> list[int]:
    """The tile to begin sums and to go on, for each number of rows, for a full block of images and the last one."""
    sums = []
    for tile[N1] in images:
        for tile[N2] in row_counts:
            for tile[FLAGS] in (0, simd.ADD):
                sums += contract.in_columns(tile, BLOCK_PIXELS)
    return sums


@jit(parts=True)
def _walk(plan, x, g, w, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the (shard, split) tasks."""
    tasks = plan[SHARDS] * plan[SPLITS]
    if plan[PADDED]:
        clear(scratch, part * plan[SCRATCH], plan[SCRATCH])
    for task in range(tasks * part // parts, tasks * (part + 1) // parts):
        shard, split = task // plan[SPLITS], task % plan[SPLITS]
        first = plan[BLOCKS] * shard // plan[SHARDS]
        last = plan[BLOCKS] * (shard + 1) // plan[SHARDS]
        for block in range(first, last):
            _block(plan, x, g, w, scratch, part * plan[SCRATCH], shard, split, block, block == first)


@inner
def _block(plan, x, g, w, scratch, base, shard, split, block, begins):  # type: ignore[no-untyped-def]
    """Add what a block of images and rows gives to the jobs of a split."""
    bands, rows = plan[BANDS], plan[ROWS_OUT]
    n, band = block // bands * plan[BLOCK_IMAGES], block % bands
    images = min(plan[BLOCK_IMAGES], plan[IMAGES] - n)
    top, bottom = rows * band // bands, rows * (band + 1) // bands
    kinds = 2 * ((images < plan[BLOCK_IMAGES]) * plan[ROW_COUNTS] - plan[FEWEST_ROWS]) + (not begins)
    tiles = TILE + kinds * SUMS
    at_g = n * plan[G_IMAGE] + top * plan[G_ROW]
    row = top * plan[STRIDE] + plan[ORIGIN_ROW]
    at_x = n * plan[X_IMAGE] + row * plan[WIDTH] * plan[CHANNELS]
    if plan[PADDED]:
        to = base
        last = (bottom - 1) * plan[STRIDE] + plan[ORIGIN_ROW] + plan[SPAN_ROWS]
        for image in range(n, n + images):
            _copy_rows(plan, x, image * plan[X_IMAGE], row, last, scratch, to)
            to += plan[TILE + B1] if plan[SWAPPED] else plan[TILE + A1]
        x, at_x = scratch, base
    _jobs(plan, tiles, x, at_x, g, at_g, w, shard, split, top, bottom)


@inner
def _copy_rows(plan, x, source, first, last, scratch, to):  # type: ignore[no-untyped-def]
    """Rows of an image, zero where they leave it; beside them scratch stays zero: images of 28 x 28 gain 3 to 5 %."""
    columns, left = plan[SPAN_COLUMNS] * plan[CHANNELS], plan[ORIGIN_COLUMN] * plan[CHANNELS]
    width = plan[WIDTH] * plan[CHANNELS]
    for row in range(first, last):
        if row < 0 or row >= plan[HEIGHT]:
            clear(scratch, to, columns)
        else:
            copy(scratch, to - left, x, source + row * width, max(min(width, left + columns), 0))
        to += columns


@inner
def _within(begin, end, first, last):  # type: ignore[no-untyped-def]
    """What of the rows begin..end lies in first..last, one at least."""
    begin = min(max(begin, first), last - 1)
    return begin, max(min(end, last), begin + 1)


@inner
def _jobs(plan, tiles, x, at_x, g, at_g, w, shard, split, top, bottom):  # type: ignore[no-untyped-def]
    """The (group, run, panel) jobs of a split: each walks the rows of the block with its sums in registers."""
    runs, panels, splits = plan[RUNS], plan[PANELS], plan[SPLITS]
    jobs = plan[GROUPS] * runs * panels
    for job in range(jobs * split // splits, jobs * (split + 1) // splits):
        run, rest = plan[RUNS_AT] + RUN * (job % runs), job // runs
        group, panel = rest // panels, plan[run + RUN_PANELS] + rest % panels * PANEL
        column = plan[panel + COLUMN]
        begin, end = _within(plan[run + RUN_BEGIN], plan[run + RUN_END], top, bottom)
        tile = tiles + 2 * (end - begin) * SUMS + job * plan[JOB_SUMS]
        a = at_x + plan[run + RUN_X] + group * plan[X_GROUP] + (begin - top) * plan[X_ROW]
        b = at_g + group * plan[G_GROUP] + (begin - top) * plan[G_ROW]
        c = shard * plan[SIZE] + group * plan[OUT_GROUP] + plan[run + RUN_W] + column
        if plan[SWAPPED]:
            tile_panel(plan, tile, panel, g, b, x, a + column, w, c, w, 0)
        else:
            a += column if plan[LANEWISE] else 0
            tile_panel(plan, tile, panel, x, a, g, b + column, w, c, w, 0)
