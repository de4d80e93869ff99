"""Two-dimensional convolution and its two gradients on channels-last memory, without im2col.

In channels-last memory the window of an output pixel is `kh` runs of `kw * C` neighbours, so a register tile reads it
in place. Letters: N images, H x W pixels, C channels, O output channels, P x Q output pixels, G groups.

- forward: a tile is pixels of one output row x output channels; it walks the window.
- input gradient: a forward convolution of the output gradient with flipped, transposed weights; with a stride, one
  for each phase of the input pixels, as only every stride-th tap reaches a pixel.
- weight gradient: a tile is taps x output channels; it walks the pixels of a block that fits the L2 cache.
- padding: a band of rows is copied with its zeros into scratch that stays in the L2 cache (under 1 % of the time).

Where they are faster, other files do the same work: conv_winograd and winograd_weights (3 x 3 and larger kernels),
conv_pixels (few output channels), conv_spread (the input gradient to few channels) and conv_depthwise.

Arrays have PyTorch's logical shapes (N, C, H, W) and (O, C/G, KH, KW); in memory activations are NHWC and weights
HWIO, seen through transposed views. Other layouts are converted on entry.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .. import launch, reference
from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import (
    contract,
    conv_depthwise,
    conv_pixel_grads,
    conv_pixels,
    conv_spread,
    conv_winograd,
    memory,
    simd,
    winograd_weights,
)
from .contract import COLUMN, PANEL, tile_panel
from .conv_shared import BAND_BYTES, HWIO, NCHW, NHWC, OIHW, TASKS, copy_row, is_far, layout, longer_rows
from .conv_weights import weight_grad
from .matmul import column_sums
from .pool import max_pool2d
from .simd import A1, A2, AK, AR, B1, B2, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS, clear, drain, transpose


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    spec: Conv2dSpec,
    relu: bool = False,
    kept: dict[Any, np.ndarray] | None = None,
) -> np.ndarray:
    """(N, C, H, W) * (O, C/G, KH, KW) + (O,) -> (N, O, P, Q), or its ReLU, in NHWC memory; all of one dtype.

    What is computed of w alone stays in `kept`, if there is one, for further calls with the same w.
    """
    if not contract.ENABLED or x.dtype.char not in "fd":
        y = reference.conv2d(x, w, bias, spec)
        return layout(reference.relu(y) if relu else y, NHWC).transpose(NCHW)
    shape, work, tiles, by_rows = _forward(x.dtype.char, x.shape, w.shape, bias is not None, spec, relu)
    x, w = layout(x, NHWC), layout(w, HWIO)
    if by_rows:
        return conv_depthwise.convolve(x, w, bias, spec.stride[0], relu).transpose(NCHW)
    y = memory.empty(shape, x.dtype)
    if tiles is not None and conv_winograd.convolve(tiles, x, w, y, bias, kept=kept):
        return y.transpose(NCHW)
    if work is not None:
        contract.run(work, x, w, y, bias)
    elif y.size:  # no channels: sums of nothing
        y[...] = 0 if bias is None else reference.relu(bias) if relu else bias
    return y.transpose(NCHW)


def conv2d_max_pool(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    spec: Conv2dSpec,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    out_hw: tuple[int, int],
    relu: bool,
    winners: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """max_pool2d of conv2d; where windows are 2 x 2 and apart, the map between them may never be written.

    Without `winners` their positions may be left out: None.
    """
    plan = None
    if contract.ENABLED and kernel == stride == (2, 2) and padding == (0, 0) and dilation == (1, 1):
        plan = _pool_plan(x.dtype.char, x.shape, w.shape, bias is not None, spec, out_hw, relu)
    if plan is not None:
        shape = (x.shape[0], *out_hw, w.shape[0])
        y, winner = memory.empty(shape, x.dtype), memory.empty(shape, np.uint8) if winners else NOBODY
        convolve: Any = conv_pixels.convolve if isinstance(plan, contract.Work) else conv_winograd.convolve
        if convolve(plan, layout(x, NHWC), layout(w, HWIO), y, bias, winner):
            return y.transpose(NCHW), winner.transpose(NCHW) if winners else None
    return max_pool2d(conv2d(x, w, bias, spec), kernel, stride, padding, dilation, out_hw, relu)


def conv2d_max_pool_grads(
    g: np.ndarray, winner: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], spec: Conv2dSpec
) -> tuple[np.ndarray, np.ndarray] | None:
    """The gradients (O, C/G, KH, KW) and (O,) of conv2d_max_pool's weight and bias, from g and winner (N, O, P, Q).

    None where max_pool2d_scatter and the convolution's own gradients are as fast.
    """
    if not contract.ENABLED or x.dtype.char not in "fd" or winner.dtype != np.uint8:
        return None
    found = conv_pixel_grads.find(x.dtype.char, x.shape, w_shape, spec, True)
    if found is None:
        return None
    grads = conv_pixel_grads.through_pool(found, layout(x, NHWC), layout(g, NHWC), layout(winner, NHWC), w_shape[2:])  # type: ignore[arg-type]
    return None if grads is None else (grads[0].transpose(OIHW), grads[1])


def conv2d_input_grad(g: np.ndarray, w: np.ndarray, input_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, O, P, Q), (O, C/G, KH, KW) -> (N, C, H, W), in NHWC memory: the transposed convolution of g."""
    if not contract.ENABLED or g.dtype.char not in "fd":
        return layout(reference.conv2d_input_grad(g, w, input_hw, spec), NHWC).transpose(NCHW)
    shape, work, tiles, by_rows, clears, spreads, turns = _input_grad(g.dtype.char, g.shape, w.shape, input_hw, spec)
    g = layout(g, NHWC)
    if by_rows:
        return conv_depthwise.input_grad(g, layout(w, HWIO), input_hw, spec.stride[0]).transpose(NCHW)
    x = memory.empty(shape, g.dtype)
    if tiles is not None:
        flipped = _flipped(w, input_hw, spec).reshape(*w.shape[2:], -1, shape[3])
        if conv_winograd.convolve(tiles, g, flipped, x):
            return x.transpose(NCHW)
    if clears:
        x.fill(0)
    if work is not None:
        weights = conv_spread.weights(w) if spreads else layout(w, HWIO) if turns else _flipped(w, input_hw, spec)
        contract.run(work, g, weights, x)
    return x.transpose(NCHW)


def conv2d_weight_grad(x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, KH, KW), in HWIO memory."""
    if not contract.ENABLED or x.dtype.char not in "fd":
        return layout(reference.conv2d_weight_grad(x, g, kernel_hw, spec), HWIO).transpose(OIHW)
    x_shape, w_shape = x.shape, (g.shape[1], x.shape[1] // spec.groups, *kernel_hw)
    x, g = layout(x, NHWC), layout(g, NHWC)
    if spec.groups > 1 and _walks_rows(x.dtype.char, x_shape, w_shape, spec):
        return conv_depthwise.weight_grad(x, g, kernel_hw[0], spec.stride[0]).transpose(OIHW)
    if (planes := conv_pixel_grads.find(x.dtype.char, x_shape, w_shape, spec, False)) is not None:
        grad = conv_pixel_grads.weights(planes, x, g, kernel_hw)
        if grad is not None:
            return grad.transpose(OIHW)
    plan = _tiles_of_weight_grad(x.dtype.char, x_shape, w_shape, spec)
    found = None if plan is None else winograd_weights.weight_grad(plan, x, g, kernel_hw)
    return (weight_grad(x, g, kernel_hw, spec) if found is None else found).transpose(OIHW)


def _walks_rows(char: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], spec: Conv2dSpec) -> bool:
    """Whether it is a depthwise convolution with its own kernels: those below read copies of its rows."""
    (n, c, *hw), (o, _, *kernel) = x_shape, w_shape
    return spec.groups > 1 and n > 0 and conv_depthwise.fits(char, c, o, (hw[0], hw[1]), (kernel[0], kernel[1]), spec)


def conv2d_bias_grad(g: np.ndarray) -> np.ndarray:
    """(N, O, P, Q) -> (O,): sums over images and pixels, in blocks."""
    if not contract.ENABLED or g.dtype.char not in "fd":
        return reference.conv2d_bias_grad(g)
    g = layout(g, NHWC)
    return column_sums(g.reshape(g.size // max(g.shape[3], 1), g.shape[3]))


# The plan of a walk over windows, which serves forward and input gradient: a header, then one phase after another.
# A phase is the output pixels at (y + row*y_row + column*y_column) and the windows they read.
# fmt: off
(TASKS_IN_ALL, BANDS, PHASES, GROUPS, SCRATCH, X_IMAGE, Y_IMAGE, HEIGHT, WIDTH, CHANNELS, GROUP_IN, GROUP_OUT, FLAT,
 CLEARS, TURN_LANES, HEADER) = range(16)
(OUT_ROWS, Y_AT, Y_ROW, X_ROW, X_COLUMN, W_AT, SPAN_ROWS, SPAN_COLUMNS, ROW_STEP,
 PADDED, A_ROW, N_PANELS, PANELS_AT, PANEL_SUMS, ROWS_AT, NEXT, PHASE) = range(17)
# fmt: on
#: After it for each number of rows of the kernel, from all to the fewest, the arguments of the tiles that sum over so
#: many; then the panels; then of each output row the rows of the kernel that meet the image: the first and the sums.
SUMS = 3 * TILE_ARGS
#: Products of a sum, beyond which rows of the kernel are summed apart. NumPy sums the input gradient tap by tap: to
#: that, the error of 5 x 5 x 16 products in one sum was 2.9 times as large.
FORWARD_SUM, GRADIENT_SUM = 256, 128
#: Products for each output up to which a panel of four vectors of weights leaves room in the L1 cache: with 128, wide
#: panels are slower (128 -> 128 channels, 1x1: 2942 us in panels of two, 3364 of four), with 64 or less faster.
FEW_PRODUCTS = 64
#: Weights of a 1x1 kernel up to which each thread transposes them for itself: another launch takes 2 us.
TURNED = 64 * 64
#: Bytes of output from which it goes around the caches: the next layer would not find it there anyway, and a cache
#: reads every line from memory that is written to it. With 5.3 MB an inference of the MNIST CNN takes 4 % less time so,
#: with 4 MB one of ResNet-20 the same, with 3.1 MB one of LeNet-5 27 % more (32 MB of L3 cache, shared with others).
STREAM_BYTES = 5 << 20
#: How many pixels of a 1x1 convolution ahead tiles ask for lines, at least. Between 128 channels on 34 MB, where memory
#: is slow, half of the calls take 4.6 ms with 64, 2.5 to 2.7 with 128, 256 and 512.
PIXELS_AHEAD = 256
#: In the place of the winners of a pool that nobody asks for.
NOBODY = np.empty(0, np.uint8)


class _Phase(NamedTuple):
    """Output pixels of a regular grid: where they lie, where their windows start, and the taps that reach them."""

    out: tuple[int, int]  # rows, columns
    at: tuple[int, int]  # the first pixel, in rows and columns of the output array
    step: tuple[int, int]  # from pixel to pixel
    origin: tuple[int, int]  # the first window's corner in the input; negative in the padding
    stride: tuple[int, int]
    taps: tuple[int, int]
    dilation: tuple[int, int]
    weights: int  # offset of the first tap in the weight array

    def reach(self, axis: int) -> int:
        """Rows or columns of the input from the first window's first tap to the last window's last."""
        return (self.out[axis] - 1) * self.stride[axis] + (self.taps[axis] - 1) * self.dilation[axis] + 1

    def padded(self, hw: tuple[int, int]) -> bool:
        return any(at < 0 or at + self.reach(axis) > hw[axis] for axis, at in enumerate(self.origin))


def _walk(
    char: str,
    n: int,
    x_shape: tuple[int, int, int],
    y_shape: tuple[int, int, int],
    groups: int,
    phases: list[_Phase],
    biased: bool,
    longest_sum: int,
    clears: bool = False,
    relu: bool = False,
    turns: bool = False,
) -> contract.Work | None:
    """The plan that computes every phase: x (N, H, W, C), weights (taps, C/G, O), y (N, P, Q, O).

    With `clears`, the only phase sets the pixels between its own to zero. With `turns`, weights are (O, C), for 1x1.
    """
    (h, w, c), (p, q, o) = x_shape, y_shape
    depthwise = groups == c == o
    group_in, group_out = (1, o) if depthwise else (c // groups, o // groups)
    itemsize = np.dtype(char).itemsize
    if not phases:
        return None
    body: list[int] = []
    scratch, work = turns * c * o, 0
    most = max(phase.reach(0) * max(w, phase.reach(1)) for phase in phases)
    bands = min(*(phase.out[0] for phase in phases), max(-(-most * c * itemsize // BAND_BYTES), -(-TASKS // n)))
    for phase in phases:
        padded, span = phase.padded((h, w)), (phase.taps[0] - 1) * phase.dilation[0] + 1
        columns = phase.reach(1) if padded else w
        if padded:
            rows = (-(-phase.out[0] // bands) - 1) * phase.stride[0] + span
            scratch = max(scratch, rows * columns * c)
        kind = _kind(char, phase, group_in, group_out, groups, depthwise)
        merged = phase.dilation[1] == 1 and groups == 1 and kind in (simd.OUTER, simd.K_PAIRS)
        tile = [0] * TILE_ARGS
        tile[N1], tile[N2] = phase.taps[0], phase.taps[1]
        tile[N3] = group_in
        if merged:
            tile[N2], tile[N3] = 1, phase.taps[1] * group_in
        elif simd.taps(kind) > 1:
            tile[N2] = 1
        tile[A1], tile[A2], tile[AK] = phase.dilation[0] * columns * c, phase.dilation[1] * c, 1
        tile[AR] = phase.stride[1] * c
        tile[B1], tile[B2], tile[BK] = phase.taps[1] * group_in * o, group_in * o, o
        if kind == simd.K_PAIRS:
            contract.in_pairs(tile)
        streams = not clears and group_out % simd.lanes(char) == 0 and n * p * q * o * itemsize >= STREAM_BYTES
        tile[LDC] = phase.step[1] * o
        tile[FLAGS] = simd.BIAS * biased | simd.RELU * relu | simd.STREAM * streams
        flat = not padded and phase.taps == (1, 1) and phase.stride[1] == groups == 1 and not depthwise
        far = flat and len(phases) == 1 and is_far(n * (h * w * c + p * q * o), itemsize)
        few = phase.taps[0] * phase.taps[1] * group_in <= FEW_PRODUCTS
        widths = contract.panel_widths(char, kind, phase.out[1], group_out, contract.WALK if few else 0.0)
        a_fetches = (
            contract.fetches(simd.max_rows(widths[-1], kind, far) * tile[AK], itemsize, len(widths)) if far else 0
        )
        panels = contract.panels(char, kind, phase.out[1], group_out, widths, fetches=(a_fetches, 0))
        if far and len(widths) > 1:  # each panel fetches a part of each row
            bands = phase.out[0]
        head = [0] * PHASE
        head[OUT_ROWS] = phase.out[0]
        head[Y_AT] = (phase.at[0] * q + phase.at[1]) * o
        head[Y_ROW] = phase.step[0] * q * o
        head[X_ROW], head[X_COLUMN], head[W_AT] = *phase.origin, phase.weights
        head[SPAN_ROWS], head[SPAN_COLUMNS], head[ROW_STEP] = span, columns, phase.stride[0]
        head[PADDED], head[A_ROW] = padded, phase.stride[0] * columns * c
        taps, terms = _rows_of_taps(phase, h), phase.taps[1] * group_in
        fewest = min(len(rows) for rows in taps)
        sums = [_row_sums(tile, rows, terms, longest_sum) for rows in range(phase.taps[0], fewest - 1, -1)]
        if far:  # a kernel of one row: one number of rows to sum
            ahead = -(-PIXELS_AHEAD // phase.out[1])
            sums = [contract.fetching(sums[0], len(widths), len(widths), phase.out[1], (c, 0), ahead)]
        by_row = [(rows.start, PHASE + (phase.taps[0] - len(rows)) * SUMS) for rows in taps]
        head[N_PANELS], head[PANELS_AT], head[PANEL_SUMS] = len(widths), PHASE + sum(map(len, sums)), far * SUMS
        head[ROWS_AT] = head[PANELS_AT] + len(panels)
        head[NEXT] = head[ROWS_AT] + 2 * len(by_row)
        body += chain(head, *sums, panels, *by_row)
        work += n * phase.out[0] * phase.out[1] * phase.taps[0] * phase.taps[1] * group_in * o
    header = [0] * HEADER
    header[TASKS_IN_ALL], header[BANDS], header[PHASES], header[SCRATCH] = n * bands, bands, len(phases), scratch
    header[GROUPS] = 1 if depthwise else groups
    header[X_IMAGE], header[Y_IMAGE] = h * w * c, p * q * o
    header[CLEARS], header[TURN_LANES] = clears * q * o, turns * simd.lanes(char)
    header[HEIGHT], header[WIDTH], header[CHANNELS] = h, w, c
    header[GROUP_IN], header[GROUP_OUT], header[FLAT] = group_in, group_out, depthwise
    plan = np.array(header + body, np.int64)
    work = work if depthwise else contract.effort(work, n * (h * w * c + p * q * o))
    return contract.Work(_walk_windows, plan, scratch, work)


def _rows_of_taps(phase: _Phase, height: int) -> list[range]:
    """For each row of output pixels the rows of the kernel that meet the image; one that does not where none does."""
    out, taps, step = list[range](), phase.taps[0], phase.dilation[0]
    for row in range(phase.out[0]):
        first = row * phase.stride[0] + phase.origin[0]
        begin = min(max(-(first // step), 0), taps - 1)
        out.append(range(begin, max(min(-((first - height) // step), taps), begin + 1)))
    return out


def _row_sums(tile: list[int], rows: int, terms: int, longest: int) -> list[int]:
    """The arguments of tiles that sum over rows of a kernel, each of so many terms, `longest` or one row at a time."""
    together = -(-rows // min(rows, -(-rows * terms // longest)))
    sums = -(-rows // together)
    first = [*tile[:N1], together, *tile[N1 + 1 :]]
    return contract.in_sums(first, sums, together * tile[A1], together * tile[B1], rows - (sums - 1) * together)


def _kind(char: str, phase: _Phase, channels: int, columns: int, groups: int, lanewise: bool) -> int:
    """A tile of pairs, or one that slides over the row, where that is a tenth faster than one load for each product."""
    taps, plain = phase.taps[1], int(lanewise)
    if groups == 1 and phase.dilation[1] == 1 and not lanewise:
        plain = contract.kind_of_sums(char, taps * channels, phase.out[1], columns)
    if taps not in simd.TAPS or phase.stride[1] != phase.dilation[1]:
        return plain  # else the next tap is not the next pixel
    kinds = (plain, 2 * simd.TAPS.index(taps) + lanewise)
    straight, sliding = (contract.cycles(char, kind, phase.out[1], columns) for kind in kinds)
    return kinds[sliding < 0.9 * straight]


@jit(parts=True)
def _walk_windows(plan, x, w, y, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the (image, band of rows) tasks.

    All phases of a band before the next: each writes every stride-th pixel of lines that are then still in the cache.
    """
    tasks, bands, base, w_at = plan[TASKS_IN_ALL], plan[BANDS], part * plan[SCRATCH], 0
    if plan[TURN_LANES]:
        c, o = plan[GROUP_IN], plan[GROUP_OUT]
        transpose(o, c, w, 0, c, scratch, base, o, plan[TURN_LANES])
        w, w_at = scratch, base
    for task in range(tasks * part // parts, tasks * (part + 1) // parts):
        n, band = task // bands, task % bands
        at = HEADER
        for _ in range(plan[PHASES]):
            top, bottom = plan[at + OUT_ROWS] * band // bands, plan[at + OUT_ROWS] * (band + 1) // bands
            _band(plan, at, x, w, w_at, y, bias, scratch, base, n, top, bottom)
            at += plan[at + NEXT]
    drain()


@inner
def _band(plan, at, x, w, w_at, y, bias, scratch, base, n, top, bottom):  # type: ignore[no-untyped-def]
    """A phase's output rows top..bottom of an image."""
    if plan[CLEARS]:
        _clear_band(plan, at, y, n, top, bottom)
    if plan[at + PADDED]:
        _copy_band(plan, at, x, n, top, bottom, scratch, base)
        _tile_band(plan, at, scratch, base, w, w_at, y, bias, n, top, bottom)
    else:
        row = top * plan[at + ROW_STEP] + plan[at + X_ROW]
        first = n * plan[X_IMAGE] + (row * plan[WIDTH] + plan[at + X_COLUMN]) * plan[CHANNELS]
        _tile_band(plan, at, x, first, w, w_at, y, bias, n, top, bottom)


@inner
def _clear_band(plan, at, y, n, top, bottom):  # type: ignore[no-untyped-def]
    """Zeros in the rows of y from the phase's row `top` (or the first) to its row `bottom` (or the last)."""
    first = plan[at + Y_AT] // plan[CLEARS] * plan[CLEARS]
    begin = first + top * plan[at + Y_ROW] if top > 0 else 0
    end = first + bottom * plan[at + Y_ROW] if bottom < plan[at + OUT_ROWS] else plan[Y_IMAGE]
    clear(y, n * plan[Y_IMAGE] + begin, end - begin)


@inner
def _copy_band(plan, at, x, n, top, bottom, scratch, base):  # type: ignore[no-untyped-def]
    """Copy the input rows under output rows top..bottom, with zeros where they leave the image."""
    channels, width = plan[CHANNELS], plan[WIDTH]
    first = top * plan[at + ROW_STEP] + plan[at + X_ROW]
    last = (bottom - 1) * plan[at + ROW_STEP] + plan[at + X_ROW] + plan[at + SPAN_ROWS]
    columns, left = plan[at + SPAN_COLUMNS], plan[at + X_COLUMN]
    source, to = n * plan[X_IMAGE], base
    for row in range(first, last):
        copy_row(x, source + row * width * channels, row, plan[HEIGHT], width, channels, left, columns, scratch, to)
        to += columns * channels


@inner
def _tile_band(plan, at, source, base, w, w_at, y, bias, n, top, bottom):  # type: ignore[no-untyped-def]
    """All tiles of output rows top..bottom; `base` is the first window's first element in source."""
    group_in, group_out, lanewise = plan[GROUP_IN], plan[GROUP_OUT], plan[FLAT]
    for group in range(plan[GROUPS]):
        for p in range(plan[at + N_PANELS]):
            panel = at + plan[at + PANELS_AT] + p * PANEL
            column = group * group_out + plan[panel + COLUMN]
            left = base + (column if lanewise else group * group_in)
            start = n * plan[Y_IMAGE] + plan[at + Y_AT] + column
            for row in range(top, bottom):
                taps = at + plan[at + ROWS_AT] + 2 * row
                begin, sums = plan[taps], at + plan[taps + 1] + p * plan[at + PANEL_SUMS]
                a = left + (row - top) * plan[at + A_ROW] + begin * plan[sums + A1]
                b = w_at + plan[at + W_AT] + column + begin * plan[sums + B1]
                c = start + row * plan[at + Y_ROW]
                tile_panel(plan, sums, panel, source, a, w, b, y, c, bias, column)


class _Forward(NamedTuple):
    shape: tuple[int, ...]  # of the output in memory
    work: contract.Work | None = None
    tiles: conv_winograd.Plan | None = None  # to try first
    by_rows: bool = False  # with conv_depthwise


@lru_cache(4096)
def _forward(
    char: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], biased: bool, spec: Conv2dSpec, relu: bool
) -> _Forward:
    (n, c, h, w), (o, _, kh, kw) = x_shape, w_shape
    p, q = spec.output_hw((h, w), (kh, kw))
    shape = (n, p, q, o)
    if _walks_rows(char, x_shape, w_shape, spec):
        return _Forward(shape, by_rows=True)
    if 0 in shape or c == 0:
        return _Forward(shape)
    tiles = _tiles(char, x_shape, w_shape, spec, relu)
    if (work := conv_pixels.find(char, x_shape, w_shape, biased, spec, relu)) is not None:
        return _Forward(shape, work, tiles)
    if (kh, kw, *spec.stride, *spec.padding) == (1, 1, 1, 1, 0, 0, 0, 0):
        n, h, w = longer_rows(n, h, w, _row_pixels(char, n * h * w, c, o))
        p, q = h, w
    top, _, left, _ = spec.padding
    phase = _Phase((p, q), (0, 0), (1, 1), (-top, -left), spec.stride, (kh, kw), spec.dilation, 0)
    work = _walk(char, n, (h, w, c), (p, q, o), spec.groups, [phase], biased, FORWARD_SUM, relu=relu)
    return _Forward(shape, work, tiles)


def _row_pixels(char: str, pixels: int, c: int, o: int) -> int:
    """How long rows of a 1x1 convolution may be: some of them lie in the L2 cache, next to what is asked for ahead."""
    far = is_far(pixels * (c + o), np.dtype(char).itemsize)
    return min(512, ((16 if far else 64) << 10) // c)


@lru_cache(4096)
def _tiles(
    char: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    spec: Conv2dSpec,
    relu: bool,
    pool: bool = False,
) -> conv_winograd.Plan | None:
    """The plan of the forward convolution (and a 2 x 2 max-pool) by tiles; None where direct wins."""
    (n, c, h, w), (o, _, kh, kw) = x_shape, w_shape
    out_hw, origin = spec.output_hw((h, w), (kh, kw)), (-spec.padding[0], -spec.padding[2])
    return conv_winograd.find(char, (n, h, w, c), o, (kh, kw), out_hw, origin, spec, relu, pool)


@lru_cache(4096)
def _tiles_of_weight_grad(
    char: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], spec: Conv2dSpec
) -> conv_winograd.Plan | None:
    """The plan of the weight gradient by tiles; None where direct wins."""
    (n, c, h, w), (o, _, kh, kw) = x_shape, w_shape
    out_hw, origin = spec.output_hw((h, w), (kh, kw)), (-spec.padding[0], -spec.padding[2])
    return winograd_weights.find(char, (n, h, w, c), o, (kh, kw), out_hw, origin, spec)


@lru_cache(4096)
def _pool_plan(
    char: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    biased: bool,
    spec: Conv2dSpec,
    out_hw: tuple[int, int],
    relu: bool,
) -> conv_winograd.Plan | contract.Work | None:
    """The plan of a convolution and its max-pool over 2 x 2 pixels in one pass."""
    p, q = spec.output_hw((x_shape[2], x_shape[3]), (w_shape[2], w_shape[3]))
    if char not in "fd" or out_hw != (p // 2, q // 2):
        return None
    tiles = _tiles(char, x_shape, w_shape, spec, relu, True)
    return tiles or conv_pixels.find(char, x_shape, w_shape, biased, spec, relu, True)


@lru_cache(4096)
def _tiles_of_input_grad(
    char: str,
    g_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    input_hw: tuple[int, int],
    spec: Conv2dSpec,
    spreads: bool = False,
) -> conv_winograd.Plan | None:
    """The plan of the input gradient as a convolution of g, by tiles; None where direct wins."""
    (n, o, p, q), (_, c, kh, kw) = g_shape, w_shape
    origin = (spec.padding[0] - (kh - 1) * spec.dilation[0], spec.padding[2] - (kw - 1) * spec.dilation[1])
    x_shape, channels = (n, p, q, o), c * spec.groups
    return conv_winograd.find(char, x_shape, channels, (kh, kw), input_hw, origin, spec, False, False, spreads)


class _InputGrad(NamedTuple):
    shape: tuple[int, ...]  # of dX in memory
    work: contract.Work | None = None
    tiles: conv_winograd.Plan | None = None  # to try first
    by_rows: bool = False  # with conv_depthwise
    clears: bool = False  # the work does not write all of it
    spreads: bool = False  # it takes conv_spread's weights
    turns: bool = False  # it takes the weights as they are


@lru_cache(4096)
def _input_grad(
    char: str,
    g_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    input_hw: tuple[int, int],
    spec: Conv2dSpec,
) -> _InputGrad:
    (n, o, p, q), (_, c, kh, kw) = g_shape, w_shape
    shape = (n, *input_hw, c * spec.groups)
    if 0 in shape or 0 in g_shape:
        return _InputGrad(shape, clears=True)
    if _walks_rows(char, (n, o, *input_hw), w_shape, spec):
        return _InputGrad(shape, by_rows=True)
    if one := (kh, kw, *spec.stride, *spec.padding) == (1, 1, 1, 1, 0, 0, 0, 0):
        n, p, q = longer_rows(n, p, q, _row_pixels(char, n * p * q, o, c))
        input_hw = p, q
    rows = _phases(input_hw[0], spec.padding[0], spec.stride[0], spec.dilation[0], kh)
    columns = _phases(input_hw[1], spec.padding[2], spec.stride[1], spec.dilation[1], kw)
    spreads = _spread_wins(char, n, (p, q), (kh, kw), c, o, (rows, columns), spec)
    tiles = _tiles_of_input_grad(char, g_shape, w_shape, input_hw, spec, spreads)
    if spreads:
        work = conv_spread.find(char, (n, p, q, o), (kh, kw), c, input_hw, spec)
        return _InputGrad(shape, work, tiles, spreads=True)
    phases, weights = [], 0
    for r in rows:
        for s in columns:
            taps = (len(r.taps), len(s.taps))
            phases.append(
                _Phase(
                    (r.pixels, s.pixels), (r.at, s.at), spec.stride, (r.origin, s.origin), (1, 1), taps,
                    (r.dilation, s.dilation), weights,
                )
            )  # fmt: skip
            weights += taps[0] * taps[1] * o * c
    covers = sum(r.pixels for r in rows) == input_hw[0] and sum(s.pixels for s in columns) == input_hw[1]
    alone = not covers and len(phases) == 1
    x_shape = (*input_hw, c * spec.groups)
    turns = one and spec.groups == 1 and o * c <= TURNED
    gather = _walk(char, n, (p, q, o), x_shape, spec.groups, phases, False, GRADIENT_SUM, alone, turns=turns)
    return _InputGrad(shape, gather, tiles, clears=not (covers or alone), turns=turns)


def _spread_wins(
    char: str,
    n: int,
    pq: tuple[int, int],
    kernel_hw: tuple[int, int],
    c: int,
    o: int,
    axes: tuple[tuple[_Axis, ...], tuple[_Axis, ...]],
    spec: Conv2dSpec,
) -> bool:
    """Whether spreading fills the vectors so much better that it is faster than gathering; its tasks are whole images.

    It walks an image for each row of the kernel, and these weights for each column of it, so if they are not near it
    only pays with far fewer products: of 24 channels, 112 x 112 images take 6140 us instead of 5550, 20 x 20 ones 1280
    instead of 1390, and between 100 channels it is 3 % faster on some runs and 40 % slower on others.
    """
    if spec.groups > 1 or spec.dilation[1] > 1 or (n < 8 and n * pq[0] * pq[1] * o > 100_000):
        return False
    gather = sum(
        r.pixels * len(r.taps) * len(s.taps) * o * contract.cycles(char, simd.OUTER, s.pixels, c)
        for r in axes[0]
        for s in axes[1]
    )
    itemsize = np.dtype(char).itemsize
    image, weights = pq[0] * pq[1] * spec.stride[0] * spec.stride[1] * c * itemsize, kernel_hw[1] * c * o * itemsize
    near = image <= 2 * BAND_BYTES and weights <= BAND_BYTES // 4
    return conv_spread.cycles(char, pq, kernel_hw, c, o) < (1.05 if near else 0.6) * gather


class _Axis(NamedTuple):
    """Along one axis, the input pixels that the same taps reach, and the output pixels these taps bring."""

    pixels: int
    at: int
    origin: int
    taps: tuple[int, ...]  # kernel positions, in the order of the output pixels
    dilation: int


@lru_cache(4096)
def _phases(size: int, before: int, stride: int, dilation: int, kernel: int) -> tuple[_Axis, ...]:
    """Input pixel i gets tap k from output pixel (i + before - k*dilation) / stride, where that is whole."""
    out = []
    for at in range(min(stride, size)):
        taps = [k for k in range(kernel) if (at + before - k * dilation) % stride == 0]
        if taps:
            outputs = [(at + before - k * dilation) // stride for k in reversed(taps)]  # ascending
            step = outputs[1] - outputs[0] if len(outputs) > 1 else 1
            out.append(_Axis(-(-(size - at) // stride), at, outputs[0], tuple(reversed(taps)), step))
    return tuple(out)


def _flipped(w: np.ndarray, input_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(O, C/G, KH, KW) -> for each phase (taps, O/G, G, C/G), taps in the order of the phase, one after another."""
    o, c, kh, kw = w.shape
    groups = spec.groups
    flat = memory.empty((w.size,), w.dtype)
    if groups == 1:
        order = _tap_order(input_hw, (kh, kw), spec)
        taps = contract.flat(layout(w, HWIO))
        launch(_transpose_taps, taps, flat, order, c, o, simd.lanes(w.dtype), work=len(order) * c * o)
        return flat[: len(order) * c * o]
    # (KH, KW, O/G, G, C/G)
    grouped = w.reshape(groups, o // groups, c, kh, kw).transpose(3, 4, 1, 0, 2)
    end = 0
    for rows, columns in _tap_slices(input_hw, (kh, kw), spec):
        taps = grouped[rows, columns]
        begin, end = end, end + taps.size
        np.copyto(flat[begin:end].reshape(taps.shape), taps)
    return flat[:end]


@jit(parts=True)
def _transpose_taps(w, out, order, c, o, lanes, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the taps: out[i] = w[order[i]] transposed, (C, O) -> (O, C)."""
    for i in range(order.size * part // parts, order.size * (part + 1) // parts):
        transpose(c, o, w, order[i] * c * o, o, out, i * c * o, c, lanes)


@lru_cache(4096)
def _tap_order(input_hw: tuple[int, int], kernel_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """The taps of all phases, as numbers of rows of (KH * KW, ...)."""
    numbers = np.arange(kernel_hw[0] * kernel_hw[1]).reshape(kernel_hw)
    slices = _tap_slices(input_hw, kernel_hw, spec)
    return np.concatenate([numbers[rows, columns].reshape(-1) for rows, columns in slices])


@lru_cache(4096)
def _tap_slices(input_hw: tuple[int, int], kernel_hw: tuple[int, int], spec: Conv2dSpec) -> list[tuple[slice, slice]]:
    rows, columns = (
        [_backwards(axis.taps) for axis in _phases(size, before, stride, dilation, kernel)]
        for size, before, stride, dilation, kernel in zip(
            input_hw, spec.padding[::2], spec.stride, spec.dilation, kernel_hw, strict=True
        )
    )
    return [(r, c) for r in rows for c in columns]


def _backwards(taps: tuple[int, ...]) -> slice:
    """The slice that takes these evenly spaced, descending positions."""
    step = taps[1] - taps[0] if len(taps) > 1 else -1
    stop = taps[-1] + step
    return slice(taps[0], stop if stop >= 0 else None, step)
