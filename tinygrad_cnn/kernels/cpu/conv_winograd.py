"""Convolutions at stride 1 with fewer multiplications: Winograd's F(2x2, 3x3), and larger kernels in pieces of 3 x 3.

Two neighbouring outputs of a filter of three taps share their inputs, and take 4 products instead of 6; in both
directions a tile of 2 x 2 outputs takes 16 instead of 36 (Lavin & Gray 2016, arXiv:1509.09308, section 4.1):

    Y = A' [(G w G') * (B' x B)] A        * element by element, summed over the channels

so each of the 16 planes is a matrix product of (tiles, C) and (C, O). A kernel of 5 x 5 is four pieces of up to three
taps a side, whose products add up before the last step: where a piece has fewer taps its last plane is zero, and 49
products do for 100. The gradients are the same formula read in other directions: dX convolves the output gradient
with the flipped kernel, and dW = G' [sum over tiles of (B' x B) * (A g A')] G.

Only 1, -1 and 1/2 occur in the three matrices, and sums are shorter than those of the direct form: the float32 error is
0.4 to 1.4 times that of NumPy's matrix product over unfolded windows. Infinities and NaN would spread to the other
outputs of their tile, so a result that is not finite is left to the direct kernels.

Letters: N images, C channels, O output channels, P x Q outputs, R x S pieces of the kernel, T tiles, K = R * S * C.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import get_num_threads, launch
from ..compile import inner, jit
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .conv_shared import copy_row
from .matmul import column_sums
from .simd import A1, A2, AK, AR, B1, B2, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS, clamp

#: The three matrices, and transposes of two of them: rows of (column, coefficient).
_INPUT = (((0, 1), (2, -1)), ((1, 1), (2, 1)), ((2, 1), (1, -1)), ((1, 1), (3, -1)))  # B'
_OUTPUT = (((0, 1), (1, 1), (2, 1)), ((1, 1), (2, -1), (3, -1)))  # A'
_GRAD = (((0, 1),), ((0, 1), (1, 1)), ((0, 1), (1, -1)), ((1, -1),))  # A
_KERNEL = (((0, 1),), ((0, 0.5), (1, 0.5), (2, 0.5)), ((0, 0.5), (1, -0.5), (2, 0.5)), ((2, 1),))  # G
_KERNEL_GRAD = (((0, 1), (1, 0.5), (2, 0.5)), ((1, 0.5), (2, -0.5)), ((1, 0.5), (2, 0.5), (3, 1)))  # G'

#: Bytes of transformed inputs and products of a block: with the transformed weights it has to stay in the L2 cache.
BLOCK_BYTES = 384 << 10
#: Products from which a sum is taken in parts: it halves the error of 5 x 5 kernels over 128 channels.
SUM_PRODUCTS = 128
#: Shares of the weight gradient, each with its own sums.
SHARDS = 4


def _transform(matrix: Any) -> Any:
    """The intrinsic that computes M s M' on vectors of neighbouring channels, for a matrix M of a few constants.

    s is read at `at + i * row + j * column`, the result written at `to + i * target_row + j * target_column`, last
    element first: a stride of 0 leaves the first row or column where the second would be outside of the image.
    """
    size = 1 + max(column for line in matrix for column, _ in line)

    def combine(builder: Any, line: Any, values: list[Any]) -> Any:
        total = None
        for column, factor in line:
            value = values[column]
            if abs(factor) != 1:
                value = builder.fmul(value, value.type([abs(factor)] * value.type.count))
            if total is None:
                total = value if factor > 0 else builder.fneg(value)
            else:
                total = builder.fadd(total, value) if factor > 0 else builder.fsub(total, value)
        return total

    def typing(
        typing_context: Any,
        source: Any,
        at: Any,
        row: Any,
        column: Any,
        target: Any,
        to: Any,
        target_row: Any,
        target_column: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            scalar = context.get_data_type(source.dtype)
            align = context.get_abi_sizeof(scalar)
            vector = ir.VectorType(scalar, simd.host().vector_bytes // align)

            def pointer(which: int, start: Any, i: int, j: int) -> Any:
                data = context.make_array(signature.args[which])(context, builder, values[which]).data
                down, across = values[which + 2], values[which + 3]
                offset = builder.add(builder.mul(down, simd.INT64(i)), builder.mul(across, simd.INT64(j)))
                return builder.gep(data, [builder.add(start, offset)], source_etype=scalar)

            grid = [
                [builder.load(pointer(0, values[1], i, j), typ=vector, align=align) for j in range(size)]
                for i in range(size)
            ]
            columns = [[combine(builder, line, list(c)) for line in matrix] for c in zip(*grid, strict=True)]
            for i in reversed(range(len(matrix))):
                for j in reversed(range(len(matrix))):
                    out = combine(builder, matrix[j], [c[i] for c in columns])
                    place = builder.bitcast(pointer(4, values[5], i, j), vector.as_pointer())
                    builder.store(out, place, align=align)
            return context.get_dummy_value()

        int64 = types.int64
        return types.none(source, int64, int64, int64, target, int64, int64, int64), codegen

    return intrinsic(typing)


@intrinsic
def _all_finite(typing_context: Any, x: Any, at: Any, count: Any) -> Any:
    """Whether `count` elements, a multiple of the vector, have no infinity and no NaN: times 0 they stay 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar = context.get_data_type(x.dtype)
        align = context.get_abi_sizeof(scalar)
        lanes = simd.host().vector_bytes // align
        vector = ir.VectorType(scalar, lanes)
        zero = vector([0.0] * lanes)
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        total = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, builder.udiv(values[2], simd.INT64(lanes))) as loop:
            place = builder.add(values[1], builder.mul(loop.index, simd.INT64(lanes)))
            value = builder.load(builder.gep(data, [place], source_etype=scalar), typ=vector, align=align)
            builder.store(builder.fadd(builder.load(total), builder.fmul(value, zero)), total)
        odd = builder.fcmp_unordered("uno", builder.load(total), zero)
        bits = builder.bitcast(odd, ir.IntType(lanes))
        return builder.icmp_unsigned("==", bits, ir.IntType(lanes)(0))

    return types.boolean(x, types.int64, types.int64), codegen


if contract.ENABLED:
    _input_planes, _output_pixels, _grad_planes = _transform(_INPUT), _transform(_OUTPUT), _transform(_GRAD)
    _kernel_planes, _kernel_sums = _transform(_KERNEL), _transform(_KERNEL_GRAD)


# fmt: off
(IMAGES, HEIGHT, WIDTH, CHANNELS, OUT_ROWS, OUT_COLUMNS, OUT_CHANNELS, TOP, LEFT, PIECE_ROWS, PIECE_COLUMNS,
 WHOLE_ROWS, WHOLE_COLUMNS, TILE_ROWS, TILE_COLUMNS, BLOCKS, BANDS, BLOCK_IMAGES, MOST_ROWS, SPAN, V_ROW, V_PLANE,
 M_PLANE, BAND, V_AT, M_AT, SCRATCH, SHARD_COUNT, PANELS, LANE_COUNT, RELU, TILE) = range(32)
# fmt: on
HEADER = TILE + 15 * TILE_ARGS


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
    biased: bool,
    relu: bool,
    sums: bool,
) -> Plan | None:
    """The plan for x (N, H, W, C), or None where the direct kernels are as fast.

    `origin` is the first window's corner in x, negative in the padding. With `sums` it is for the weight gradient.
    """
    (n, h, w, c), (kh, kw), (p, q) = x_shape, kernel_hw, out_hw
    lanes, itemsize = simd.lanes(char), np.dtype(char).itemsize
    tile_rows, tile_columns = -(-p // 2), -(-q // 2)
    if c % lanes or o % lanes or not _pays(n * tile_rows * tile_columns, c, o, kernel_hw, lanes):
        return None
    pieces, whole = (-(-kh // 3), -(-kw // 3)), (kh // 3, kw // 3)
    depth = pieces[0] * pieces[1] * c
    v_row = depth + lanes  # a row of planes never starts where another one ends its way through the cache
    tiles = max(16, BLOCK_BYTES // (16 * (v_row + o) * itemsize))
    bands = max(1, -(-tile_rows * tile_columns // tiles))
    bands = min(bands, tile_rows)
    block_images = 1 if bands > 1 else max(1, min(tiles // (tile_rows * tile_columns), -(-n // 8)))
    blocks = -(-n // block_images) * bands
    sizes = _block_sizes(n, tile_rows, tile_columns, bands, block_images)
    most = max(sizes)
    line = 64 // itemsize
    v_plane, m_plane = (((most * row + line - 1) // line | 1) * line for row in (v_row, o))
    span = 2 * tile_columns + 3 * pieces[1] - 1
    band_rows = 2 * -(-tile_rows // bands) + 3 * pieces[0] - 1
    band = (band_rows * span * max(c, o if sums else 0) + line) // line * line
    head = {
        IMAGES: n, HEIGHT: h, WIDTH: w, CHANNELS: c, OUT_ROWS: p, OUT_COLUMNS: q, OUT_CHANNELS: o, TOP: origin[0],
        LEFT: origin[1], PIECE_ROWS: pieces[0], PIECE_COLUMNS: pieces[1], WHOLE_ROWS: whole[0],
        WHOLE_COLUMNS: whole[1], TILE_ROWS: tile_rows, TILE_COLUMNS: tile_columns, BLOCKS: blocks, BANDS: bands,
        BLOCK_IMAGES: block_images, MOST_ROWS: -(-tile_rows // bands) * block_images, SPAN: span, V_ROW: v_row,
        V_PLANE: v_plane, M_PLANE: m_plane, BAND: band,
        V_AT: band, M_AT: band + 16 * v_plane, SCRATCH: band + 16 * (v_plane + m_plane),
        SHARD_COUNT: min(SHARDS, blocks), LANE_COUNT: lanes, RELU: relu,
    }  # fmt: skip
    tile_args, panels = (_sum_tiles if sums else _product_tiles)(char, c, o, pieces, whole, v_row, sizes, biased)
    head[PANELS] = len(panels[0]) // PANEL
    numbers = np.array([head[i] for i in range(TILE)] + tile_args + [i for p in panels for i in p], np.int64)
    products = n * tile_rows * tile_columns * 16 * depth * o
    return Plan(numbers, head[SCRATCH], products, pieces)


def _pays(tiles: int, c: int, o: int, kernel_hw: tuple[int, int], lanes: int) -> bool:
    """Whether fewer products outweigh the transforms, by estimated cycles; 9 of 10 to be sure.

    A vector through a transform is some 35 cycles, through that of the weights 8 a plane, and the launches cost as
    much as 60,000 (measured with AVX-512). With a single vector of channels products are too short: 0.7 to 1.2 times
    the direct kernels' speed.
    """
    if min(kernel_hw) < 3 or min(c, o) < 2 * lanes:
        return False
    pieces = [-(-k // 3) for k in kernel_hw]
    planes = [3 * piece + k // 3 for piece, k in zip(pieces, kernel_hw, strict=True)]
    product = c * o / (2 * lanes) * 1.1
    tile = planes[0] * planes[1] * product + 35 * (pieces[0] * pieces[1] * c + o) / lanes
    weights = pieces[0] * pieces[1] * 16 * c * o / lanes * 8
    return tiles * tile + weights + 60_000 < 0.9 * tiles * 4 * kernel_hw[0] * kernel_hw[1] * product


def _block_sizes(n: int, tile_rows: int, tile_columns: int, bands: int, block_images: int) -> tuple[int, int]:
    """The tiles of the smaller and of the larger blocks."""
    if bands > 1:
        return tile_rows // bands * tile_columns, -(-tile_rows // bands) * tile_columns
    last = n - (-(-n // block_images) - 1) * block_images
    return last * tile_rows * tile_columns, block_images * tile_rows * tile_columns


def _product_tiles(
    char: str, c: int, o: int, pieces: Any, whole: Any, v_row: int, sizes: tuple[int, int], biased: bool
) -> tuple[list[int], list[list[int]]]:
    """(tiles, K) @ (K, O): tile arguments for planes with all pieces, all down, all across, neither, and with bias."""
    arguments: list[int] = []
    sums: list[list[int]] = []
    for rows, columns in [(r, s) for r in (pieces[0], whole[0]) for s in (pieces[1], whole[1])]:
        tile = [0] * TILE_ARGS
        tile[N1], tile[N2], tile[N3] = rows, columns, c
        if columns == pieces[1]:
            tile[N2], tile[N3] = 1, columns * c
        tile[A1], tile[A2], tile[AK], tile[AR] = pieces[1] * c, c, 1, v_row
        tile[B1], tile[B2], tile[BK], tile[LDC] = pieces[1] * c * o, c * o, o, o
        sums.append(tile)
    sums.append([*sums[0][:FLAGS], simd.BIAS * biased, 0, 0, 0])
    for tile in sums:
        depth = tile[N1] * tile[N2] * tile[N3]
        parts = 1 if depth < SUM_PRODUCTS else max(2, depth // SUM_PRODUCTS)
        if depth == tile[N3] or tile[N3] == tile[A1]:  # one row, or rows that are neighbours
            parts = next(n for n in range(parts, 0, -1) if depth % n == 0)
            tile[N1], tile[N3] = 1, depth // parts
            arguments += contract.in_sums(tile, parts, tile[N3], tile[N3] * o)
        else:
            parts = 1 if parts == 1 else tile[N1]
            tile[N1] //= parts
            arguments += contract.in_sums(tile, parts, tile[A1], tile[B1])
    widths = contract.panel_widths(char, simd.OUTER, sizes[1], o)
    return arguments, [contract.panels(char, simd.OUTER, size, o, widths) for size in sizes]


def _sum_tiles(
    char: str, c: int, o: int, pieces: Any, whole: Any, v_row: int, sizes: tuple[int, int], biased: bool
) -> tuple[list[int], list[list[int]]]:
    """(C, tiles) @ (tiles, O): tile arguments for the smaller and the larger blocks, to begin sums and to go on."""
    arguments: list[int] = []
    for size in sizes:
        for flags in (0, simd.ADD):
            tile = [0] * TILE_ARGS
            tile[N1], tile[N2], tile[N3] = 1, 1, size
            tile[AK], tile[AR], tile[BK], tile[LDC], tile[FLAGS] = v_row, 1, o, o, flags
            arguments += tile
    return arguments + [0] * (11 * TILE_ARGS), [contract.panels(char, simd.OUTER, c, o)]


def convolve(plan: Plan, x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None = None) -> bool:
    """y (N, P, Q, O) from x (N, H, W, C) and w (KH, KW, C, O), all C-contiguous; False if y is not finite."""
    planes = _transformed(plan, w)
    threads = get_num_threads()
    scratch = memory.empty((threads * plan.scratch,), x.dtype)
    finite = np.ones(threads, np.bool_)
    bias = contract._empty(x.dtype.char) if bias is None else memory.contiguous(bias)
    arrays = (contract.flat(x), planes, y.reshape(-1), bias, scratch, finite)
    launch(_convolve, plan.numbers, *arrays, work=plan.work, threads=threads)
    return bool(finite.all())


def _transformed(plan: Plan, w: np.ndarray) -> np.ndarray:
    """(KH, KW, C, O) -> (16, K, O), flat."""
    kh, kw, c, o = w.shape
    rows, columns = plan.pieces
    if (kh, kw) != (3 * rows, 3 * columns):
        w, taps = memory.zeros((3 * rows, 3 * columns, c, o), w.dtype), w
        w[:kh, :kw] = taps
    planes = memory.empty((16 * rows * columns * c * o,), w.dtype)
    launch(_transform_kernel, contract.flat(w), planes, rows, columns, c * o, simd.lanes(w.dtype), work=planes.size)
    return planes


@jit(parts=True)
def _transform_kernel(w, planes, rows, columns, size, lanes, part, parts):  # type: ignore[no-untyped-def]
    """Each part takes its share of the (C, O) matrix, of every piece."""
    vectors = size // lanes
    plane = rows * columns * size
    for r in range(rows):
        for s in range(columns):
            source, target = (r * 9 * columns + s * 3) * size, (r * columns + s) * size
            for v in range(vectors * part // parts, vectors * (part + 1) // parts):
                at, to = source + v * lanes, target + v * lanes
                _kernel_planes(w, at, 3 * columns * size, size, planes, to, 4 * plane, plane)


@jit(parts=True)
def _convolve(plan, x, u, y, bias, scratch, finite, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the blocks."""
    blocks = plan[BLOCKS]
    base = part * plan[SCRATCH]
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        n, images, top, bottom = _block(plan, block)
        _to_planes(plan, x, n, images, top, bottom, scratch, base)
        small = (bottom - top) * images < plan[MOST_ROWS]
        for plane in range(16):
            _multiply(plan, plane, small, u, bias, scratch, base)
        _from_planes(plan, n, images, top, bottom, scratch, base, y)
        row, rows = plan[OUT_COLUMNS] * plan[OUT_CHANNELS], plan[OUT_ROWS]
        at = (n * rows + 2 * top) * row
        count = ((n + images - 1) * rows + min(2 * bottom, rows)) * row - at
        if not _all_finite(y, at, count):
            finite[part] = False
        if plan[RELU]:
            clamp(y, at, count)


@inner
def _block(plan, block):  # type: ignore[no-untyped-def]
    """A block's first image, number of images, first row of tiles and the row after the last."""
    bands, rows = plan[BANDS], plan[TILE_ROWS]
    n, band = block // bands * plan[BLOCK_IMAGES], block % bands
    images = min(plan[BLOCK_IMAGES], plan[IMAGES] - n)
    return n, images, rows * band // bands, rows * (band + 1) // bands


@inner
def _to_planes(plan, x, n, images, top, bottom, scratch, base):  # type: ignore[no-untyped-def]
    """V[plane, tile, piece, channel]: the transformed inputs of a block."""
    channels, width, span, lanes = plan[CHANNELS], plan[WIDTH], plan[SPAN], plan[LANE_COUNT]
    rows, columns, plane = plan[PIECE_ROWS], plan[PIECE_COLUMNS], plan[V_PLANE]
    tile = base + plan[V_AT]
    for image in range(n, n + images):
        first = 2 * top + plan[TOP]
        for row in range(2 * (bottom - top) + 3 * rows - 1):
            source = (image * plan[HEIGHT] + first + row) * width * channels
            to = base + row * span * channels
            copy_row(x, source, first + row, plan[HEIGHT], width, channels, plan[LEFT], span, scratch, to)
        for i in range(bottom - top):
            for j in range(plan[TILE_COLUMNS]):
                for r in range(rows):
                    for s in range(columns):
                        at = base + ((2 * i + 3 * r) * span + 2 * j + 3 * s) * channels
                        to = tile + (r * columns + s) * channels
                        for k in range(0, channels, lanes):
                            _input_planes(scratch, at + k, span * channels, channels, scratch, to + k, 4 * plane, plane)
                tile += plan[V_ROW]


@inner
def _multiply(plan, plane, small, u, bias, scratch, base):  # type: ignore[no-untyped-def]
    """M[plane] = V[plane] @ U[plane]: (tiles, K) @ (K, O). Plane (1, 1) has the bias: it reaches all four outputs."""
    k = plan[PIECE_ROWS] * plan[PIECE_COLUMNS] * plan[CHANNELS]
    kind = 4 if plane == 5 else (2 if plane >= 12 else 0) + (1 if plane % 4 == 3 else 0)
    tile = TILE + 3 * TILE_ARGS * kind
    for p in range(plan[PANELS]):
        panel = HEADER + (p + (0 if small else plan[PANELS])) * PANEL
        a = base + plan[V_AT] + plane * plan[V_PLANE]
        b = plane * k * plan[OUT_CHANNELS] + plan[panel + COLUMN]
        c = base + plan[M_AT] + plane * plan[M_PLANE] + plan[panel + COLUMN]
        tile_panel(plan, tile, panel, scratch, a, u, b, scratch, c, bias, plan[panel + COLUMN])


@inner
def _from_planes(plan, n, images, top, bottom, scratch, base, y):  # type: ignore[no-untyped-def]
    """The block's output pixels."""
    channels, columns, rows, lanes = plan[OUT_CHANNELS], plan[OUT_COLUMNS], plan[OUT_ROWS], plan[LANE_COUNT]
    plane = plan[M_PLANE]
    at = base + plan[M_AT]
    for image in range(n, n + images):
        for i in range(top, bottom):
            down = columns * channels if 2 * i + 1 < rows else 0
            for j in range(plan[TILE_COLUMNS]):
                across = channels if 2 * j + 1 < columns else 0
                to = ((image * rows + 2 * i) * columns + 2 * j) * channels
                for k in range(0, channels, lanes):
                    _output_pixels(scratch, at + k, 4 * plane, plane, y, to + k, down, across)
                at += channels


def weight_grad(plan: Plan, x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int]) -> np.ndarray | None:
    """(KH, KW, C, O) from x (N, H, W, C) and g (N, P, Q, O), all C-contiguous; None if it is not finite."""
    (rows, columns), c, o = plan.pieces, x.shape[3], g.shape[3]
    shards = int(plan.numbers[SHARD_COUNT])
    threads = get_num_threads()
    scratch = memory.empty((threads * plan.scratch,), x.dtype)
    sums = memory.empty((shards * 16 * rows * columns * c * o,), x.dtype)
    launch(
        _sum_planes, plan.numbers, contract.flat(x), contract.flat(g), sums, scratch, work=plan.work, threads=threads
    )
    if shards > 1:
        sums = column_sums(sums.reshape(shards, -1))
    taps = memory.empty((3 * rows, 3 * columns, c, o), x.dtype)
    launch(_to_taps, sums, taps.reshape(-1), rows, columns, c * o, simd.lanes(x.dtype), work=sums.size)
    w = np.ascontiguousarray(taps[: kernel_hw[0], : kernel_hw[1]])
    return w if np.isfinite(w).all() else None


@jit(parts=True)
def _sum_planes(plan, x, g, sums, scratch, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the shards, each over its own blocks."""
    shards, blocks = plan[SHARD_COUNT], plan[BLOCKS]
    base = part * plan[SCRATCH]
    for shard in range(shards * part // parts, shards * (part + 1) // parts):
        first, last = blocks * shard // shards, blocks * (shard + 1) // shards
        for block in range(first, last):
            n, images, top, bottom = _block(plan, block)
            _to_planes(plan, x, n, images, top, bottom, scratch, base)
            _grads_to_planes(plan, g, n, images, top, bottom, scratch, base)
            small = (bottom - top) * images < plan[MOST_ROWS]
            tile = TILE + TILE_ARGS * ((0 if small else 2) + (1 if block > first else 0))
            _add_products(plan, tile, shard, sums, scratch, base)


@inner
def _grads_to_planes(plan, g, n, images, top, bottom, scratch, base):  # type: ignore[no-untyped-def]
    """The transformed output gradients of a block, in the place of M[plane, tile, output channel]."""
    channels, width, span = plan[OUT_CHANNELS], plan[OUT_COLUMNS], 2 * plan[TILE_COLUMNS]
    plane = plan[M_PLANE]
    to = base + plan[M_AT]
    for image in range(n, n + images):
        for row in range(2 * (bottom - top)):
            source = (image * plan[OUT_ROWS] + 2 * top + row) * width * channels
            at = base + row * span * channels
            copy_row(g, source, 2 * top + row, plan[OUT_ROWS], width, channels, 0, span, scratch, at)
        for i in range(bottom - top):
            for j in range(plan[TILE_COLUMNS]):
                at = base + (2 * i * span + 2 * j) * channels
                for k in range(0, channels, plan[LANE_COUNT]):
                    _grad_planes(scratch, at + k, span * channels, channels, scratch, to + k, 4 * plane, plane)
                to += channels


@inner
def _add_products(plan, tile, shard, sums, scratch, base):  # type: ignore[no-untyped-def]
    """sums[shard, plane, piece] += V[plane, :, piece]' @ M[plane], but for planes that no tap of the piece needs."""
    rows, columns = plan[PIECE_ROWS], plan[PIECE_COLUMNS]
    channels, size = plan[CHANNELS], plan[CHANNELS] * plan[OUT_CHANNELS]
    for plane in range(16):
        for r in range(plan[WHOLE_ROWS] if plane >= 12 else rows):
            for s in range(plan[WHOLE_COLUMNS] if plane % 4 == 3 else columns):
                piece = r * columns + s
                for p in range(plan[PANELS]):
                    panel = HEADER + p * PANEL
                    column = plan[panel + COLUMN]
                    a = base + plan[V_AT] + plane * plan[V_PLANE] + piece * channels
                    b = base + plan[M_AT] + plane * plan[M_PLANE] + column
                    c = ((shard * 16 + plane) * rows * columns + piece) * size + column
                    tile_panel(plan, tile, panel, scratch, a, scratch, b, sums, c, scratch, 0)


@jit(parts=True)
def _to_taps(sums, taps, rows, columns, size, lanes, part, parts):  # type: ignore[no-untyped-def]
    """Each part takes its share of the (C, O) matrix, of every piece."""
    vectors = size // lanes
    plane = rows * columns * size
    for piece in range(rows * columns):
        target = (piece // columns * 9 * columns + piece % columns * 3) * size
        for v in range(vectors * part // parts, vectors * (part + 1) // parts):
            at, to = piece * size + v * lanes, target + v * lanes
            _kernel_sums(sums, at, 4 * plane, plane, taps, to, 3 * columns * size, size)
