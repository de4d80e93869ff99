"""Matrix products on the register tiles: blocked, batched, any strides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .. import launch, reference, threads_for
from ..compile import inner, jit
from . import contract, memory, simd
from .contract import BIG, COLUMN, LANES, PANEL, tile_panel
from .elementwise import relu_grad
from .simd import AK, AR, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS, call_tile, copy, transpose

#: Rows that a column sum adds one after another; more are summed in blocks, which keeps the error small.
SUM_ROWS = 128


#: Depth of a block: a panel of B of that many rows (48 KiB) and BLOCK_ROWS rows of A stay in the L2 cache, and sums of
#: that many products are added up: in one sum of 4096 the error was 11 times that of OpenBLAS.
DEPTH = 384
#: Rows of a job: enough to use a packed panel of B again and again, few enough to share among threads.
BLOCK_ROWS = 112
#: Jobs worth having, so that threads finish together.
JOBS = 8
#: Up to that many rows, a B whose columns are contiguous (a Linear layer's weights) is not packed: dot products.
DOT_ROWS = 4
#: Nor for these depths, up to so many rows: packing B takes longer than adding up the lanes of the sums in the end, and
#: the columns fit the L1 cache (128 x 784 -> 128: 62 us, packed 76; 512 x 256 -> 128: 128 us, packed 101).
DOT_DEPTHS, DOT_MOST_ROWS = range(128, 801), 256
#: Bytes of a B that is not packed either: it stays in the L1 cache as it is.
SMALL_B = 16 << 10
#: Rows of A packed lie this much further apart than they are long: at 4 KiB they would share one set of the L1 cache.
SKEW = 16


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


def linear(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, relu: bool = False) -> np.ndarray:
    """(B, I) @ (O, I).T + (O,) -> (B, O), or its ReLU."""
    dtype = x.dtype
    if contract.ENABLED and x.flags.carray and w.flags.carray and dtype == w.dtype:
        layer = _layer(dtype.char, x.shape, w.shape, bias is not None, relu)
        if layer is not None:
            return _run_layer(layer, x, w, bias)
    if not contract.ENABLED or dtype.char not in "fd" or dtype != w.dtype:
        y = reference.linear(x, w, bias)
        return reference.relu(y) if relu else y
    y = memory.empty((x.shape[0], w.shape[0]), dtype)
    if y.size == 0 or x.shape[1] == 0:
        y[...] = 0 if bias is None else reference.relu(bias) if relu else bias
        return y
    _multiply(x, w.T, y, bias, relu)
    return y


class _Layer(NamedTuple):
    """A product with the weights of a layer, all C-contiguous, ready to run."""

    work: contract.Work
    shape: tuple[int, int]  # of the output
    dots: bool
    nothing: np.ndarray  # in the place of a bias


@lru_cache(4096)
def _layer(char: str, x_shape: tuple[int, int], w_shape: tuple[int, int], biased: bool, relu: bool) -> _Layer | None:
    """None where the kernels are not for it."""
    if char not in "fd" or 0 in x_shape + w_shape:
        return None
    size, shape = np.dtype(char).itemsize, (x_shape[0], w_shape[0])
    row = x_shape[1] * size
    work = _product(char, x_shape, shape[1], (row, size), (size, row), biased, relu)
    return _Layer(work, shape, work.body is _dots, np.empty(0, char))


def _run_layer(layer: _Layer, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """With as little Python as can be: for one image and 10 outputs the kernel takes 0.1 us."""
    work, shape, dots, nothing = layer
    y = memory.empty(shape, x.dtype)
    if not dots:
        contract.run_flat(work, x.reshape(-1), w.reshape(-1), y.reshape(-1), bias)
        return y
    if bias is None:
        bias = nothing
    elif not bias.flags.carray:
        bias = bias.copy()
    body, plan, _, size = work
    if threads_for(size) == 1:
        body(plan, x, w, y, bias, nothing, 1)
    else:
        launch(body, plan, x, w, y, bias, nothing, work=size)
    return y


def _multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None, relu: bool = False) -> None:
    (a, left), (b, right) = _operand(a), _operand(b)
    work = _product(a.dtype.char, a.shape, b.shape[-1], a.strides, b.strides, bias is not None, relu)
    contract.run_flat(work, left, right, c.reshape(-1), bias)


def _operand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, and the memory from its first to its last element as a 1-D array that may be written; of a copy, where x's
    goes backwards or may not.
    """
    flags = x.flags
    if flags.carray:
        return x, x.reshape(-1)
    turned = x.swapaxes(-1, -2)
    if turned.flags.carray:
        return x, turned.reshape(-1)
    if min(x.strides) < 0 or not flags.writeable or not flags.aligned:
        x = x.copy()
        return x, x.reshape(-1)
    extent = sum((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)) // x.itemsize + 1
    return x, np.lib.stride_tricks.as_strided(x, (extent,), (x.itemsize,))


def linear_grads(
    g: np.ndarray,
    x: np.ndarray | None,
    w: np.ndarray | None,
    wanted: Sequence[bool],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(B, O), (B, I), (O, I) -> the wanted gradients of x, w and the bias; `out` is `linear`'s output if of a ReLU."""
    y, left, right = g if out is None else out, g if x is None else x, g if w is None else w
    plain = g.flags.carray and y.flags.carray and left.flags.carray and right.flags.carray
    if plain and contract.ENABLED and g.dtype == left.dtype == right.dtype:
        for_x, for_w = w is not None and wanted[0], x is not None and wanted[1]
        layer = _layer_grads(g.dtype.char, g.shape, left.shape, right.shape, for_x, for_w, wanted[2])
        if layer is not None:
            return _run_grads(layer, g, y, left, right, out is not None)
    if out is not None:
        g = relu_grad(g, out)
    return (
        matmul(g, w) if w is not None and wanted[0] else None,
        matmul(g.T, x) if x is not None and wanted[1] else None,
        column_sums(g) if wanted[2] else None,
    )


class _LayerGrads(NamedTuple):
    """The gradients of a layer, all C-contiguous, ready to run."""

    plan: np.ndarray
    shapes: tuple[tuple[int, ...] | None, ...]  # of the gradients of x, w and the bias; None: not wanted
    scratch: int
    work: int
    few: bool
    one: np.ndarray


def _run_grads(
    layer: _LayerGrads, g: np.ndarray, y: np.ndarray, x: np.ndarray, w: np.ndarray, relu: bool
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """In one launch."""
    plan, (x_shape, w_shape, b_shape), per_part, work, few, one = layer
    dtype, threads, passed = g.dtype, threads_for(work), g
    if relu and not few:
        if threads == 1:
            passed = memory.empty(g.shape, dtype)
        else:  # each part would do all of it
            g = passed = relu_grad(g, y)
            relu = False
    dx = None if x_shape is None else memory.empty(x_shape, dtype)
    dw = None if w_shape is None else memory.empty(w_shape, dtype)
    db = None if b_shape is None else np.empty(b_shape, dtype)
    scratch = memory.empty((threads * per_part,), dtype) if per_part else one
    outputs = g if dx is None else dx, g if dw is None else dw, one if db is None else db
    kernel, arrays = (_few_rows, ()) if few else (_grads, (plan, passed, one, scratch))
    if threads == 1:
        kernel(g, y, x, w, *outputs, relu, *arrays, 1)
    else:
        launch(kernel, g, y, x, w, *outputs, relu, *arrays, work=work, threads=threads)
    return dx, dw, db


@jit(parts=True)
def _grads(g, y, x, w, dx, dw, db, relu, plan, passed, one, scratch, part, parts):  # type: ignore[no-untyped-def]
    """The ReLU's gradient if there is one, which each part needs all of, then this part's share of the products."""
    g, y, passed, w, x, dx, dw = (
        g.reshape(-1), y.reshape(-1), passed.reshape(-1), w.reshape(-1), x.reshape(-1), dx.reshape(-1), dw.reshape(-1),
    )  # fmt: skip
    if relu:
        zero = one[0] - one[0]
        for i in range(g.size):
            passed[i] = zero if y[i] <= zero else g[i]
    for product in range(3):
        at = plan[product]
        if at != 0:
            a = one if product == L_BIAS else passed
            b = w if product == L_INPUT else x if product == L_WEIGHT else passed
            c = dx if product == L_INPUT else dw if product == L_WEIGHT else db
            _multiply_share(plan, at, a, b, c, one, scratch, part * plan[L_SCRATCH], part, parts)


@jit(parts=True)
def _few_rows(g, y, x, w, dx, dw, db, relu, part, parts):  # type: ignore[no-untyped-def]
    """Everything in one pass over the weights, which a few rows do not fill a tile with; part by columns."""
    outputs, inputs = w.shape
    first, last = inputs * part // parts, inputs * (part + 1) // parts
    zero = g.dtype.type(0)
    for row in range(g.shape[0]):
        dx[row, first:last] = zero
    for o in range(outputs):
        weights, grads = w[o, first:last], dw[o, first:last]
        total = zero
        for row in range(g.shape[0]):
            up = zero if relu and y[row, o] <= zero else g[row, o]
            values, down = x[row, first:last], dx[row, first:last]
            for i in range(last - first):
                grads[i] = up * values[i] if row == 0 else grads[i] + up * values[i]
                down[i] += up * weights[i]
            total += up
        if part == 0:
            db[o] = total


# fmt: off
(M_BATCH, M_BLOCKS, M_GROUPS, M_PANELS, M_ROWS, M_COLUMNS, M_DEPTH, M_DEPTHS, M_LANES,
 M_A_BATCH, M_A_ROW, M_A_DEPTH, M_B_BATCH, M_B_DEPTH, M_B_COLUMN, M_C_BATCH,
 M_PACK_A, M_PACK_B, M_PACKED_ROW, M_SCRATCH_B, M_SCRATCH, M_TILE) = range(22)
# fmt: on
M_HEADER = M_TILE + 6 * TILE_ARGS
ROWS_PACKED, DEPTHS_PACKED = 1, 2  # how A is packed: row after row, or (A transposed) all rows of a depth together


#: The plan of a layer's gradients: where those of the three products begin (0: not wanted), and scratch for a part.
L_INPUT, L_WEIGHT, L_BIAS, L_SCRATCH, L_HEADER = range(5)


@lru_cache(4096)
def _layer_grads(
    char: str,
    g_shape: tuple[int, int],
    x_shape: tuple[int, int],
    w_shape: tuple[int, int],
    for_x: bool,
    for_w: bool,
    for_bias: bool,
) -> _LayerGrads | None:
    """None where the kernels are not for it; x's shape counts if the gradient of w is wanted, and w's if x's is."""
    if char not in "fd" or 0 in g_shape + x_shape + w_shape:
        return None
    (rows, outputs), inputs = g_shape, (w_shape if for_x else x_shape)[1]
    shapes = (rows, inputs) if for_x else None, (outputs, inputs) if for_w else None, (outputs,) if for_bias else None
    if rows <= DOT_ROWS and for_x and for_w and for_bias:
        return _LayerGrads(_one(char), shapes, 0, 2 * rows * outputs * inputs, True, _one(char))
    size = np.dtype(char).itemsize
    down, right = (outputs * size, size), (inputs * size, size)  # the strides of g, and those of x and w
    products = {
        L_INPUT: _blocks(char, (rows, outputs), inputs, down, right) if for_x else None,
        L_WEIGHT: _blocks(char, (outputs, rows), inputs, down[::-1], right) if for_w else None,
        L_BIAS: _blocks(char, (1, rows), outputs, (0, 0), down) if for_bias else None,
    }
    plan, scratch, work = [0] * L_HEADER, 0, 0
    for place, product in products.items():
        if product is not None:
            plan[place] = len(plan)
            plan += product.plan.tolist()
            scratch, work = max(scratch, product.scratch), work + product.work
    plan[L_SCRATCH] = scratch
    return _LayerGrads(np.array(plan, np.int64), shapes, scratch, work, False, _one(char))


@lru_cache(4096)
def _product(
    char: str,
    a_shape: tuple[int, ...],
    n: int,
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    biased: bool,
    relu: bool,
) -> contract.Work:
    m, k = a_shape[-2:]
    (a_row, a_depth), (b_depth, b_column) = a_strides[-2:], b_strides[-2:]
    itemsize = np.dtype(char).itemsize
    dots = m <= DOT_ROWS or n <= simd.max_columns(char) or (m <= DOT_MOST_ROWS and k in DOT_DEPTHS)
    if dots and (len(a_shape) == 2 or a_shape[0] == 1) and a_depth == b_depth == itemsize and b_column != itemsize:
        return _dot_products(char, m, n, k, a_row // itemsize, b_column // itemsize, biased, relu)
    return _blocks(char, a_shape, n, a_strides, b_strides, biased, relu)


def _blocks(
    char: str,
    a_shape: tuple[int, ...],
    n: int,
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    biased: bool = False,
    relu: bool = False,
) -> contract.Work:
    """The product in blocks that fit the caches."""
    m, k = a_shape[-2:]
    batch = a_shape[0] if len(a_shape) == 3 else 1
    itemsize, lanes = np.dtype(char).itemsize, simd.lanes(char)
    a_batch, a_row, a_depth = ([0] + [stride // itemsize for stride in a_strides])[-3:]
    b_batch, b_depth, b_column = ([0] + [stride // itemsize for stride in b_strides])[-3:]
    blocks, depths = -(-m // BLOCK_ROWS), -(-k // DEPTH)
    rows, deepest = -(-m // blocks), -(-k // depths)
    widths = contract.panel_widths(char, simd.OUTER, rows, n)
    groups = min(len(widths), -(-JOBS // (batch * blocks)))
    pack_b = b_column != 1 or (rows >= 28 and deepest * n * itemsize > SMALL_B)
    pack_a = 0
    if len(widths) >= 4 * groups and deepest > 64:
        pack_a = ROWS_PACKED if a_depth == 1 else DEPTHS_PACKED if a_row == 1 else 0
    packed_row = {0: 0, ROWS_PACKED: deepest + SKEW, DEPTHS_PACKED: rows}[pack_a]
    scratch_b = {0: 0, ROWS_PACKED: rows * packed_row, DEPTHS_PACKED: deepest * packed_row}[pack_a]

    first, last = simd.BIAS * biased, simd.RELU * relu
    tiles = []  # of the first, further and the last blocks of a sum, then by one k more or not
    for depth in (k // depths, k // depths + 1):
        for flags in (first | (last if depths == 1 else 0), simd.ADD, simd.ADD | last):
            tile = [0] * TILE_ARGS
            tile[N1], tile[N2], tile[N3] = 1, 1, depth
            tile[AK], tile[AR] = [(a_depth, a_row), (1, packed_row), (packed_row, 1)][pack_a]
            tile[BK] = max(widths) * lanes if pack_b else b_depth
            tile[LDC], tile[FLAGS] = n, flags
            tiles += tile
    panels = [contract.panels(char, simd.OUTER, max(size, 1), n, widths) for size in (m // blocks, m // blocks + 1)]
    head = [0] * M_TILE
    head[M_BATCH], head[M_BLOCKS], head[M_GROUPS], head[M_PANELS] = batch, blocks, groups, len(widths)
    head[M_ROWS], head[M_COLUMNS], head[M_DEPTH], head[M_DEPTHS], head[M_LANES] = m, n, k, depths, lanes
    head[M_A_BATCH], head[M_A_ROW], head[M_A_DEPTH] = a_batch, a_row, a_depth
    head[M_B_BATCH], head[M_B_DEPTH], head[M_B_COLUMN], head[M_C_BATCH] = b_batch, b_depth, b_column, m * n
    head[M_PACK_A], head[M_PACK_B], head[M_PACKED_ROW], head[M_SCRATCH_B] = pack_a, pack_b, packed_row, scratch_b
    head[M_SCRATCH] = scratch_b + (deepest * max(widths) * lanes if pack_b else 0)
    plan = np.array(head + tiles + panels[0] + panels[1], np.int64)
    return contract.Work(_multiply_blocks, plan, head[M_SCRATCH], _work(batch, m, n, k))


def _work(batch: int, m: int, n: int, k: int) -> int:
    return contract.effort(batch * m * n * k, batch * (m * k + k * n + m * n))


# fmt: off
(D_ROWS, D_PAIRS, D_PANELS, D_TAIL, D_TILE) = range(5)
# fmt: on
D_HEADER = D_TILE + TILE_ARGS
D_ONE, D_TWO, D_COLUMN, D_PANEL = range(4)  # the tiles of one and two rows, and the first column


def _dot_products(
    char: str, m: int, n: int, k: int, a_row: int, b_column: int, biased: bool, relu: bool
) -> contract.Work:
    """C (m, n) where the rows of A and the columns of B are contiguous: two rows by up to 10 columns at a time."""
    lanes, most = simd.lanes(char), simd.max_columns(char)
    tile = [0] * TILE_ARGS
    tile[N3], tile[AR], tile[BK], tile[LDC] = (k - 1) // lanes, a_row, b_column, n
    tile[FLAGS] = simd.BIAS * biased | simd.RELU * relu
    count = -(-n // most)
    panels = []
    for p in range(count):
        first, end = n * p // count, n * (p + 1) // count
        panels += [simd.tile_address(char, simd.DOT, end - first, rows) for rows in (1, 2)] + [first]
    head = [m, -(-m // 2), count, k - tile[N3] * lanes]
    return contract.Work(_dots, np.array(head + tile + panels, np.int64), 0, _work(1, m, n, k))


@jit(parts=True)
def _dots(plan, a, b, c, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the (panel of columns, pair of rows) tasks."""
    pairs = plan[D_PAIRS]
    tasks = plan[D_PANELS] * pairs
    for task in range(tasks * part // parts, tasks * (part + 1) // parts):
        panel, row = D_HEADER + task // pairs * D_PANEL, task % pairs * 2
        column = plan[panel + D_COLUMN]
        call_tile(
            plan[panel + D_TWO] if row + 1 < plan[D_ROWS] else plan[panel + D_ONE],
            plan, D_TILE, a, row * plan[D_TILE + AR], b, column * plan[D_TILE + BK],
            c, row * plan[D_TILE + LDC] + column, bias, column, plan[D_TAIL], 1,
        )  # fmt: skip


@jit(parts=True)
def _multiply_blocks(plan, a, b, c, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body."""
    _multiply_share(plan, 0, a, b, c, bias, scratch, part * plan[M_SCRATCH], part, parts)


@inner
def _multiply_share(plan, at, a, b, c, bias, scratch, base, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the (batch, block of rows, group of panels) jobs; the plan of the product begins at `at`."""
    blocks, groups, depths = plan[at + M_BLOCKS], plan[at + M_GROUPS], plan[at + M_DEPTHS]
    rows, depth = plan[at + M_ROWS], plan[at + M_DEPTH]
    jobs = plan[at + M_BATCH] * blocks * groups
    for job in range(jobs * part // parts, jobs * (part + 1) // parts):
        batch, block, group = job // groups // blocks, job // groups % blocks, job % groups
        top, bottom = rows * block // blocks, rows * (block + 1) // blocks
        for d in range(depths):
            first, last = depth * d // depths, depth * (d + 1) // depths
            _block(plan, at, a, b, c, bias, scratch, base, batch, group, top, bottom, first, last)


@inner
def _block(plan, at, a, b, c, bias, scratch, base, batch, group, top, bottom, first, last):  # type: ignore[no-untyped-def]
    """C[top:bottom, the panels of a group] += A[top:bottom, first:last] @ B[first:last, those panels]."""
    more_rows = bottom - top - plan[at + M_ROWS] // plan[at + M_BLOCKS]
    more_depth = last - first - plan[at + M_DEPTH] // plan[at + M_DEPTHS]
    place = 0 if first == 0 else 2 if last == plan[at + M_DEPTH] else 1
    tile = at + M_TILE + TILE_ARGS * (3 * more_depth + place)
    left = batch * plan[at + M_A_BATCH] + top * plan[at + M_A_ROW] + first * plan[at + M_A_DEPTH]
    source = a
    if plan[at + M_PACK_A]:
        by_row = plan[at + M_PACK_A] == ROWS_PACKED
        runs, length = (bottom - top, last - first) if by_row else (last - first, bottom - top)
        step = plan[at + M_A_ROW] if by_row else plan[at + M_A_DEPTH]
        for run in range(runs):
            copy(scratch, base + run * plan[at + M_PACKED_ROW], a, left + run * step, length)
        source, left = scratch, base
    panels, groups = plan[at + M_PANELS], plan[at + M_GROUPS]
    for p in range(panels * group // groups, panels * (group + 1) // groups):
        panel = at + M_HEADER + (more_rows * panels + p) * PANEL
        column = plan[panel + COLUMN]
        right = batch * plan[at + M_B_BATCH] + first * plan[at + M_B_DEPTH] + column * plan[at + M_B_COLUMN]
        out = batch * plan[at + M_C_BATCH] + top * plan[at + M_COLUMNS] + column
        if plan[at + M_PACK_B]:
            packed = base + plan[at + M_SCRATCH_B]
            end = plan[panel + PANEL + COLUMN] if p + 1 < panels else plan[at + M_COLUMNS]
            _pack_panel(plan, at, b, right, last - first, end - column, scratch, packed, plan[tile + BK])
            tile_panel(plan, tile, panel, source, left, scratch, packed, c, out, bias, column)
        else:
            tile_panel(plan, tile, panel, source, left, b, right, c, out, bias, column)


@inner
def _pack_panel(plan, at, b, right, depth, columns, scratch, to, row):  # type: ignore[no-untyped-def]
    """Copy a (depth, columns) panel of B into scratch, rows `row` elements apart."""
    down, across = plan[at + M_B_DEPTH], plan[at + M_B_COLUMN]
    if across == 1:
        for d in range(depth):
            copy(scratch, to + d * row, b, right + d * down, columns)
    elif down == 1:
        transpose(columns, depth, b, right, across, scratch, to, row, plan[at + M_LANES])
    else:
        for d in range(depth):
            for j in range(columns):
                scratch[to + d * row + j] = b[right + d * down + j * across]


def column_sums(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(R, C) -> (C,): sums over the rows, in a tree of blocks."""
    x = memory.contiguous(x)
    rows, columns = x.shape
    if not contract.ENABLED or x.dtype.char not in "fd" or 0 in x.shape:
        total = x.sum(axis=0, dtype=np.float64).astype(x.dtype)
        if out is None:
            return total
        out[...] = total.reshape(out.shape)
        return out
    if rows == 1 and out is None:
        return x[0].copy()
    blocks = -(-rows // SUM_ROWS)
    if 1 < blocks <= SUM_ROWS and threads_for(x.size) == 1:
        if out is None:
            out = memory.empty((columns,), x.dtype)
        plans = _sums_of_sums(x.dtype.char, rows, columns)
        _sum_twice(*plans, x.reshape(-1), memory.empty((blocks * columns,), x.dtype), out.reshape(-1))
        return out
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


@lru_cache(4096)
def _sums_of_sums(char: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first arguments of `_sum_twice`."""
    first, second = (_column_sums(char, count, columns) for count in (rows, -(-rows // SUM_ROWS)))
    return first.plan, second.plan, _one(char)


@jit
def _sum_twice(plan, blocks_plan, one, x, partial, out):  # type: ignore[no-untyped-def]
    """The sums of the blocks and their sum: without threads to wait for, one call does both."""
    _sum_blocks(plan, one, x, partial, 0, 1)
    _sum_blocks(blocks_plan, one, partial, out, 0, 1)


@jit(parts=True)
def _sum_columns(plan, one, x, out, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body."""
    _sum_blocks(plan, one, x, out, part, parts)


@inner
def _sum_blocks(plan, one, x, out, part, parts):  # type: ignore[no-untyped-def]
    """For this part's share of (block of rows, panel), the sum of the block."""
    rows, columns, panels = plan[S_ROWS], plan[S_COLUMNS], plan[S_PANELS]
    blocks = (rows + SUM_ROWS - 1) // SUM_ROWS
    tasks = blocks * panels
    for task in range(tasks * part // parts, tasks * (part + 1) // parts):
        block, panel = task // panels, S_HEADER + task % panels * PANEL
        tile = S_TILE + (TILE_ARGS if block == blocks - 1 else 0)
        b, c = block * SUM_ROWS * columns + plan[panel + COLUMN], block * columns + plan[panel + COLUMN]
        call_tile(plan[panel + BIG], plan, tile, one, 0, x, b, out, c, one, 0, plan[panel + LANES], 1)
