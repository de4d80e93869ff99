"""Matrix products on the register tiles: blocked, batched, any strides."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .. import reference
from ..compile import jit
from . import contract, memory, simd
from .contract import BIG, BIGS, COLUMN, LANES, PANEL, ROWS, SMALL, TILES
from .simd import AK, AR, BK, LDC, N1, N2, N3, START, TILE_ARGS, call_tile

#: Rows that a column sum adds one after another; more are summed in blocks, which keeps the error small.
SUM_ROWS = 128


#: Depth of a block: a panel of B of that many rows (64 KiB) stays in the L2 cache while the rows of A pass.
DEPTH = 512
#: Rows of a task: enough to use a panel of B again and again, few enough to share among threads.
BLOCK_ROWS = 112


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, K) @ (K, N), or batches (B, M, K) @ (B, K, N); any strides, the result is C-contiguous.

    A batch of one may be broadcast by a stride of 0. Other dtypes than float32 and float64 are NumPy's.
    """
    if not contract.ENABLED or a.dtype.char not in "fd" or a.dtype != b.dtype:
        return reference.matmul(a, b)
    shape = (*a.shape[:-1], b.shape[-1])
    c = memory.empty(shape, a.dtype)
    if 0 in shape or a.shape[-1] == 0:
        c.fill(0)
        return c
    _multiply(a, b, c, None)
    return c


def linear(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(B, I) @ (O, I).T + (O,) -> (B, O)."""
    if not contract.ENABLED or x.dtype.char not in "fd" or x.dtype != w.dtype:
        return reference.linear(x, w, bias)
    y = memory.empty((x.shape[0], w.shape[0]), x.dtype)
    if y.size == 0 or x.shape[1] == 0:
        y[...] = 0 if bias is None else bias
        return y
    _multiply(x, w.T, y, bias)
    return y


def _multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None) -> None:
    a, b = _whole(a), _rows_contiguous(_whole(b))
    work = _product(a.dtype.char, a.shape, b.shape[-1], a.strides, b.strides, bias is not None)
    contract.run(work, _memory(a), _memory(b), c, bias)


def _whole(x: np.ndarray) -> np.ndarray:
    """x where its memory can be walked forwards from its first element and written; else a copy."""
    if min(x.strides) < 0 or not x.flags.writeable or any(stride % x.itemsize for stride in x.strides):
        return x.copy()
    return x


def _rows_contiguous(b: np.ndarray) -> np.ndarray:
    if b.strides[-1] == b.itemsize or b.shape[-1] == 1:
        return b
    out = memory.empty(b.shape, b.dtype)
    np.copyto(out, b)
    return out


def _memory(x: np.ndarray) -> np.ndarray:
    """The memory from x's first to its last element, as a 1-D array."""
    if x.flags.c_contiguous:
        return x.reshape(-1)
    extent = (
        sum((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)) // x.itemsize + 1
    )
    return np.lib.stride_tricks.as_strided(x, (extent,), (x.itemsize,))


# fmt: off
(M_BATCH, M_BLOCKS, M_PANELS, M_DEPTH, M_DEPTHS, M_A_BATCH, M_A_ROW, M_A_DEPTH, M_B_BATCH, M_B_DEPTH, M_C_BATCH,
 M_COLUMNS, M_TILE) = range(13)
# fmt: on
M_HEADER = M_TILE + 4 * TILE_ARGS


@lru_cache(4096)
def _product(
    char: str,
    a_shape: tuple[int, ...],
    n: int,
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    biased: bool,
) -> contract.Work:
    m, k = a_shape[-2:]
    batch = a_shape[0] if len(a_shape) == 3 else 1
    itemsize = np.dtype(char).itemsize
    a_batch, a_row, a_depth = ([0] + [stride // itemsize for stride in a_strides])[-3:]
    b_batch, b_row, _ = ([0] + [stride // itemsize for stride in b_strides])[-3:]
    depths = -(-k // DEPTH)
    tiles = []  # by place in the sum (the first block starts it, the others add), then by one k more or not
    for depth in (k // depths, k // depths + 1):
        for start in (simd.BIAS if biased else simd.ZERO, simd.LOAD):
            tile = [0] * TILE_ARGS
            tile[N1], tile[N2], tile[N3] = 1, 1, depth
            tile[AK], tile[AR], tile[BK], tile[LDC], tile[START] = a_depth, a_row, b_row, n, start
            tiles += tile
    panels = contract.panels(char, simd.OUTER, m, n)
    head = [0] * M_TILE
    head[M_BATCH], head[M_BLOCKS], head[M_PANELS] = batch, -(-m // BLOCK_ROWS), len(panels) // PANEL
    head[M_DEPTH], head[M_DEPTHS] = k, depths
    head[M_A_BATCH], head[M_A_ROW], head[M_A_DEPTH] = a_batch, a_row, a_depth
    head[M_B_BATCH], head[M_B_DEPTH], head[M_C_BATCH], head[M_COLUMNS] = b_batch, b_row, m * n, n
    return contract.Work(_multiply_panels, np.array(head + tiles + panels, np.int64), 0, batch * m * n * k)


@jit(parts=True)
def _multiply_panels(plan, a, b, c, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the (batch, block of row tiles, panel) jobs."""
    blocks, panels = plan[M_BLOCKS], plan[M_PANELS]
    jobs = plan[M_BATCH] * blocks * panels
    for job in range(jobs * part // parts, jobs * (part + 1) // parts):
        panel = M_HEADER + job % panels * PANEL
        block = job // panels % blocks
        batch = job // panels // blocks
        first, last = plan[panel + TILES] * block // blocks, plan[panel + TILES] * (block + 1) // blocks
        depth, depths, column = plan[M_DEPTH], plan[M_DEPTHS], plan[panel + COLUMN]
        for d in range(depths):
            begin = depth * d // depths
            more = depth * (d + 1) // depths - begin - depth // depths
            tile = M_TILE + TILE_ARGS * (2 * more + (d > 0))
            for t in range(first, last):
                big = t < plan[panel + BIGS]
                row = t * (plan[panel + ROWS] - 1) + min(t, plan[panel + BIGS])
                left = batch * plan[M_A_BATCH] + row * plan[M_A_ROW] + begin * plan[M_A_DEPTH]
                right = batch * plan[M_B_BATCH] + begin * plan[M_B_DEPTH] + column
                out = batch * plan[M_C_BATCH] + row * plan[M_COLUMNS] + column
                call_tile(
                    plan[panel + BIG] if big else plan[panel + SMALL],
                    plan, tile, a, left, b, right, c, out, bias, column, plan[panel + LANES],
                )  # fmt: skip


def column_sums(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(R, C) -> (C,): sums over the rows of a C-contiguous array, in a tree of blocks."""
    rows, columns = x.shape
    if not contract.ENABLED or x.dtype.char not in "fd" or 0 in x.shape:
        total = x.sum(axis=0, dtype=np.float64).astype(x.dtype)
        if out is None:
            return total
        out[...] = total.reshape(out.shape)
        return out
    blocks = -(-rows // SUM_ROWS)
    if blocks > 1:
        partial = memory.empty((blocks, columns), x.dtype)
        contract.run(_column_sums(x.dtype.char, rows, columns), _one(x.dtype.char), x, partial)
        return column_sums(partial, out)
    if out is None:
        out = memory.empty((columns,), x.dtype)
    contract.run(_column_sums(x.dtype.char, rows, columns), _one(x.dtype.char), x, out)
    return out


@lru_cache(64)
def _one(char: str) -> np.ndarray:
    return np.ones(1, char)


S_ROWS, S_COLUMNS, S_PANELS, S_TILE = range(4)
S_HEADER = S_TILE + 2 * TILE_ARGS


@lru_cache(4096)
def _column_sums(char: str, rows: int, columns: int) -> contract.Work:
    head = [rows, columns, 0]
    tiles = []
    for count in (SUM_ROWS, rows % SUM_ROWS or SUM_ROWS):
        tile = [0] * TILE_ARGS
        tile[N1] = tile[N2] = 1
        tile[N3], tile[BK] = count, columns
        tiles += tile
    panels = contract.panels(char, simd.OUTER, 1, columns)
    head[S_PANELS] = len(panels) // PANEL
    plan = np.array(head + tiles + panels, np.int64)
    return contract.Work(_sum_columns, plan, 0, rows * columns)


@jit(parts=True)
def _sum_columns(plan, one, x, out, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: for this part's share of (block of rows, panel), the sum of the block."""
    rows, columns, panels = plan[S_ROWS], plan[S_COLUMNS], plan[S_PANELS]
    blocks = (rows + SUM_ROWS - 1) // SUM_ROWS
    tasks = blocks * panels
    for task in range(tasks * part // parts, tasks * (part + 1) // parts):
        block, panel = task // panels, S_HEADER + task % panels * PANEL
        tile = S_TILE + (TILE_ARGS if block == blocks - 1 else 0)
        b, c = block * SUM_ROWS * columns + plan[panel + COLUMN], block * columns + plan[panel + COLUMN]
        call_tile(plan[panel + BIG], plan, tile, one, 0, x, b, out, c, bias, 0, plan[panel + LANES])
