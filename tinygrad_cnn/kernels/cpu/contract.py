"""Contractions: a plan of integers, a body that walks it, and the door that runs it.

A plan is built once per shape (`lru_cache`) and holds every count, stride and tile address, so that a call costs a
few microseconds of Python. A body is a kernel `(plan, a, b, c, bias, scratch, part, parts)` over flat arrays that
computes its share of the tasks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from .. import launch, threads_for
from ..compile import inner, jit
from . import memory, simd
from .simd import A_MORE, AK, AR, B_MORE, BK, FLAGS, LDC, MORE, N1, N3, PLANES, TILE_ARGS, call_tile

#: Whether the kernels can run; else the reference does.
ENABLED = not numba.config.DISABLE_JIT

#: A column panel in a plan: the tiles of `rows` and `rows - 1` rows, the first column, the lanes in use in the last
#: vector, how many tiles cover the rows, and how many of them are the larger ones.
BIG, SMALL, COLUMN, LANES, TILES, BIGS, ROWS = range(7)
PANEL = 7

#: What each panel adds to the time of all where it walks the left side anew, and a part of each line of the right side,
#: from the L2 cache or memory: 3 -> 64 channels' weight gradient takes 2545 us in two panels, 1464 us in one.
WALK = 0.02


class _Work(NamedTuple):
    body: Any
    plan: np.ndarray
    scratch: int
    work: int


class Work(_Work):
    """A contraction ready to run: its body, plan, scratch elements per part, and work as `launch` counts it."""

    __slots__ = ()

    def __new__(cls, body: Any, plan: np.ndarray, scratch: int, work: int) -> Work:
        return super().__new__(cls, getattr(body, "dispatcher", body), plan, scratch, work)


def effort(multiply_adds: int, elements: int) -> int:
    """The work of a contraction: its multiply-adds, of which tiles do four in the time of an element, or its memory.

    LeNet's second layer, 240,000 multiply-adds, takes 3.9 us on one thread and 6.1 on two that are awake.
    """
    return max(multiply_adds // 4, elements)


def run(work: Work, a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Run on C-contiguous arrays of one dtype; c is the output."""
    run_flat(work, flat(a), flat(b), c.reshape(-1), bias)


def run_flat(work: Work, a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None) -> None:
    """Run on 1-D arrays that may be written."""
    body, plan, per_part, size = work
    threads = threads_for(size)  # once: another thread may change it before the launch
    scratch = memory.empty((threads * per_part,), c.dtype) if per_part else c  # c: nobody looks at it
    bias = c if bias is None else memory.contiguous(bias)
    if threads == 1:
        body(plan, a, b, c, bias, scratch, 1)
    else:
        launch(body, plan, a, b, c, bias, scratch, work=size, threads=threads)


def flat(x: np.ndarray) -> np.ndarray:
    """A 1-D view; a copy of a read-only array, which would be another Numba type and compile everything anew."""
    if not x.flags.writeable:
        return x.flatten()
    return x if x.ndim == 1 else x.reshape(-1)


def panels(
    dtype: Any,
    kind: int,
    rows: int,
    columns: int,
    widths: list[int] | None = None,
    walk: float = 0.0,
    run: int = 0,
    fetches: tuple[int, int] = (0, 0),
) -> list[int]:
    """Cover a (rows, columns) block with tiles, or stacks of `run` rows: a list of panels, PANEL numbers each."""
    lanes = simd.lanes(dtype)
    out, first = [], 0
    for width in widths or panel_widths(dtype, kind, rows, columns, walk):
        tiles = 1 if run else -(-rows // simd.max_rows(width, kind, any(fetches)))
        big = -(-rows // tiles)
        sizes = (big, big if run else max(big - 1, 1))
        out += [simd.tile_address(dtype, kind, width, size, run, fetches) for size in sizes]
        used = min(columns - first * lanes, width * lanes) - (width - 1) * lanes
        out += [first * lanes, used, tiles, rows - tiles * (big - 1), big]
        first += width
    return out


def fetches(elements: float, itemsize: int, tiles: int) -> int:
    """What each of so many tiles fetches at each k, that together they get that many elements, as FETCH's shift."""
    return max(math.ceil(math.log2(elements * itemsize / tiles / simd.FETCH)), 1)


def fetching(
    tiles: list[int], jobs: int, sharing: int, pixels: int, strides: tuple[int, int], walks: int = 1
) -> list[int]:
    """The arguments of tiles for each of the jobs, `sharing` of which walk over the same pixels, one after another.

    Each fetches its share of those that come `walks` walks later; `strides` are from pixel to pixel in A and in B.
    """
    (a, b), out = strides, list[int]()
    for job in range(jobs):
        first = pixels * walks + pixels * (job % sharing) // sharing
        for at in range(0, len(tiles), TILE_ARGS):
            out += [*tiles[at : at + simd.A_AHEAD], first * a, first * b]
    return out


def panel_widths(dtype: Any, kind: int, rows: int, columns: int, walk: float = 0.0) -> list[int]:
    """How many vectors wide the panels of a (rows, columns) block should be, for the fewest cycles.

    `walk` is the share of the time that each panel adds to it.
    """
    vectors = -(-columns // simd.lanes(dtype))
    choices = [split(vectors, -(-vectors // widest)) for widest in range(1, simd.max_vectors(kind) + 1)]

    def cost(widths: list[int]) -> float:
        return sum(_cycles(kind, rows, width) for width in widths) * (1 + walk * len(widths))

    return min(choices, key=cost)


def cycles(dtype: Any, kind: int, rows: int, columns: int) -> float:
    """Estimated cycles of a (rows, columns) block for one k (and one tap, of a sliding tile)."""
    return sum(_cycles(kind, rows, width) for width in panel_widths(dtype, kind, rows, columns))


def pays_in_pairs(dtype: Any, kind: int, count: int, rows: int, columns: int, other: float) -> bool:
    """Whether tiles of a paired kind take fewer cycles than `other`; `count` are the rows or terms that are paired.

    With half of the registers it was not measured. 16 -> 16 channels, 1x1: 8.7 cycles a pixel, 10.4 with OUTER.
    """
    few = count % 2 == 0 and count >= 8 and columns <= simd.lanes(dtype) and simd.host().registers == 32
    return few and cycles(dtype, kind, rows, columns) < other


def kind_of_sums(dtype: Any, terms: int, rows: int, columns: int) -> int:
    """OUTER or, where it is faster, K_PAIRS for a (rows, columns) block of sums of so many terms, neighbours in A."""
    outer = cycles(dtype, simd.OUTER, rows, columns)
    return simd.K_PAIRS if pays_in_pairs(dtype, simd.K_PAIRS, terms, rows, columns, outer) else simd.OUTER


def in_pairs(tile: list[int]) -> None:
    """Make the arguments of a tile of OUTER those of one of K_PAIRS."""
    tile[N3], tile[AK], tile[BK] = tile[N3] // 2, 2 * tile[AK], 2 * tile[BK]


def stacks(dtype: Any, runs: int, run: int, columns: int, walk: float) -> tuple[float, list[int], list[int]]:
    """How to cover `runs` rows of a kernel, each of `run` rows of A: cycles for one k, widths of panels, runs together.

    Alone, few rows wait for the sums before: of 5 x 5 taps a vector takes 20.8 cycles in 5 tiles, 13.9 in one stack.
    """
    lanes, choices = simd.lanes(dtype), []
    for widest in range(1, simd.max_vectors() + 1):
        vectors = -(-columns // lanes)
        widths = split(vectors, -(-vectors // widest))
        most = max(1, simd.max_stack(widths[0]) // run)
        sets = split(runs, -(-runs // most))
        cycles = sum(_cycles(simd.OUTER, run, w) if n == 1 else _stack_cycles(n * run, w) for n in sets for w in widths)
        choices.append((cycles * (1 + walk * len(widths) * len(sets)), widths, sets))
    return min(choices)


def _stack_cycles(rows: int, width: int) -> float:
    return max(rows * width / 2, (rows + width) * 0.53) + 0.3


def split(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most, largest first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _cycles(kind: int, rows: int, width: int) -> float:
    """Of one panel, for one tap: two multiply-adds or, with the odd line out of the L2 cache, 1.7 loads a cycle.

    The taps of a slide add to the same sums one after another: four cycles each; else (measured) two.
    """
    taps = simd.taps(kind)
    tiles = split(rows, -(-rows // simd.max_rows(width, kind)))
    if simd.is_paired(kind):
        return sum(max(m, 4) + 0.3 for m in tiles) / (2 if kind == simd.K_PAIRS else 1)
    left = width if simd.is_lanewise(kind) else 1
    loads = [left * (m + taps - 1) / taps + width for m in tiles]
    wait = 4 if taps > 1 else 2
    return sum(max(m * width / 2, load * 0.6, wait) + 0.3 for m, load in zip(tiles, loads, strict=True))


def in_sums(tile: list[int], sums: int, a_step: int, b_step: int, last_n1: int = 0) -> list[int]:
    """The arguments of tiles whose results are added up: of the first, which is `tile`, of further ones and the last.

    The error of a float32 sum grows with its length; each of shorter ones costs a load and a store of the output.
    """
    first = [*tile[:MORE], sums - 1, a_step, b_step, *tile[PLANES:]]
    further, last = list(tile), list(tile)
    further[FLAGS], last[FLAGS] = simd.ADD, simd.ADD | tile[FLAGS] & simd.RELU
    last[N1] = last_n1 or tile[N1]
    if sums > 1:
        first[FLAGS] &= simd.BIAS | simd.ADD
    return first + further + last


def in_columns(tile: list[int], longest: int) -> list[int]:
    """The same for the sums over k of a tile whose other loops run once, if there are more than `longest` of them."""
    sums = -(-tile[N3] // longest)
    each = -(-tile[N3] // sums)
    out = in_sums([*tile[:N3], each, *tile[N3 + 1 :]], sums, each * tile[AK], each * tile[BK])
    out[2 * TILE_ARGS + N3] = tile[N3] - (sums - 1) * each
    return out


@inner
def tile_panel(plan, tile, panel, a, a_at, b, b_at, c, c_at, bias, bias_at):  # type: ignore[no-untyped-def]
    """All tiles of a panel, one below the other; `tile` and `panel` are their places in the plan."""
    more = plan[tile + MORE]
    for i in range(more + 1):
        place = tile + (0 if i == 0 else TILE_ARGS if i < more else 2 * TILE_ARGS)
        _column(plan, place, panel, a, a_at, b, b_at, c, c_at, bias, bias_at)
        a_at += plan[tile + A_MORE]
        b_at += plan[tile + B_MORE]


@inner
def _column(plan, tile, panel, a, a_at, b, b_at, c, c_at, bias, bias_at):  # type: ignore[no-untyped-def]
    lanes, bigs, smalls = plan[panel + LANES], plan[panel + BIGS], plan[panel + TILES] - plan[panel + BIGS]
    call_tile(plan[panel + BIG], plan, tile, a, a_at, b, b_at, c, c_at, bias, bias_at, lanes, bigs)
    if smalls > 0:
        rows = bigs * plan[panel + ROWS]
        a_at += rows * plan[tile + AR]
        c_at += rows * plan[tile + LDC]
        call_tile(plan[panel + SMALL], plan, tile, a, a_at, b, b_at, c, c_at, bias, bias_at, lanes, smalls)


@jit(parts=True)
def run_tile(address, plan, operand, c, part, parts):  # type: ignore[no-untyped-def]
    """One tile a part on its share of c: what the benchmark measures as the peak."""
    call_tile(address, plan, 0, operand, 0, operand, 0, c, c.size // parts * part, c, 0, 16, 1)
