"""The input gradient of a convolution with few channels: each output pixel's gradient is spread over its window.

One vector holds a row of the window, kw * C neighbours, where the gather form (a forward convolution of the output
gradient) would fill only C of its lanes: LeNet's second layer, 6 channels and 5 x 5 taps, is 3 times faster this way.
A tile is the pixels of one output column: their windows' rows never overlap, so a tile may load, add and store.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..compile import inner, jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .contract import COLUMN, PANEL, tile_panel
from .conv_shared import copy_row
from .simd import AK, AR, BK, FLAGS, LDC, N1, N2, N3, TILE_ARGS, clear

# fmt: off
(IMAGES, X_IMAGE, G_IMAGE, TARGET, PADDED, KERNEL_ROWS, ROW_DOWN, W_ROW, COLUMNS_OUT, STEP, G_COLUMN, ACROSS,
 HEIGHT, WIDTH, TOP, LEFT, CHANNELS, TARGET_HEIGHT, TARGET_WIDTH, PANELS, TILE) = range(21)
# fmt: on
HEADER = TILE + TILE_ARGS


def weights(w: np.ndarray) -> np.ndarray:
    """(O, C, KH, KW) -> (KH, O, KW, C): for every row of the window and output channel, what it spreads."""
    out = memory.empty((w.shape[2], w.shape[0], w.shape[3], w.shape[1]), w.dtype)
    np.copyto(out, w.transpose(2, 0, 3, 1))
    return out


@lru_cache(4096)
def find(
    char: str, g_shape: tuple[int, ...], kernel_hw: tuple[int, int], c: int, input_hw: tuple[int, int], spec: Conv2dSpec
) -> contract.Work:
    """The work that writes dX (N, H, W, C) from g (N, P, Q, O) and `weights`; no groups, no dilation along rows."""
    (n, p, q, o), (kh, kw), (h, w) = g_shape, kernel_hw, input_hw
    (sy, sx), dy, (top, _, left, _) = spec.stride, spec.dilation[0], spec.padding
    padded = any(spec.padding)
    reach = ((p - 1) * sy + (kh - 1) * dy + 1, (q - 1) * sx + kw) if padded else input_hw
    run = kw * c
    panels = contract.panels(char, simd.OUTER, p, run)
    head = {
        IMAGES: n, X_IMAGE: h * w * c, G_IMAGE: p * q * o, TARGET: reach[0] * reach[1] * c, PADDED: padded,
        KERNEL_ROWS: kh, ROW_DOWN: dy * reach[1] * c, W_ROW: o * run, COLUMNS_OUT: q, STEP: -(-kw // sx),
        G_COLUMN: o, ACROSS: sx * c, HEIGHT: h, WIDTH: w, TOP: top, LEFT: left, CHANNELS: c,
        TARGET_HEIGHT: reach[0], TARGET_WIDTH: reach[1], PANELS: len(panels) // PANEL,
    }  # fmt: skip
    tile = [0] * TILE_ARGS
    tile[N1], tile[N2], tile[N3] = 1, 1, o
    tile[AK], tile[AR], tile[BK], tile[LDC] = 1, q * o, run, sy * reach[1] * c
    tile[FLAGS] = simd.ADD
    plan = np.array([head[i] for i in range(TILE)] + tile + panels, np.int64)
    return contract.Work(
        _spread, plan, head[TARGET] if padded else 0, contract.effort(n * p * q * kh * run * o, n * h * w * c)
    )


def cycles(char: str, pq: tuple[int, int], kernel_hw: tuple[int, int], c: int, o: int) -> float:
    """Estimated cycles for one image; five for a load and a store fit what 18 shapes take."""
    (p, q), (kh, kw) = pq, kernel_hw
    loads_and_stores = 5 * p * -(-kw * c // simd.lanes(char))
    return q * kh * (o * contract.cycles(char, simd.OUTER, p, kw * c) + loads_and_stores)


@jit(parts=True)
def _spread(plan, g, w, x, bias, scratch, part, parts):  # type: ignore[no-untyped-def]
    """Body: this part's share of the images."""
    size = plan[TARGET]
    for n in range(plan[IMAGES] * part // parts, plan[IMAGES] * (part + 1) // parts):
        at = n * plan[X_IMAGE]
        if plan[PADDED]:
            clear(scratch, part * size, size)
            _tiles(plan, g, n * plan[G_IMAGE], w, scratch, part * size)
            _crop(plan, scratch, part * size, x, at)
        else:
            clear(x, at, size)
            _tiles(plan, g, n * plan[G_IMAGE], w, x, at)


@inner
def _tiles(plan, g, at_g, w, x, at_x):  # type: ignore[no-untyped-def]
    """Add every column of output pixels to the image at x."""
    columns, step = plan[COLUMNS_OUT], plan[STEP]
    for row in range(plan[KERNEL_ROWS]):
        for first in range(min(step, columns)):
            # one after another where their windows are apart: a load that overlaps recent stores waits for them
            for column in range(first, columns, step):
                for p in range(plan[PANELS]):
                    panel = HEADER + p * PANEL
                    a = at_g + column * plan[G_COLUMN]
                    b = row * plan[W_ROW] + plan[panel + COLUMN]
                    c = at_x + row * plan[ROW_DOWN] + column * plan[ACROSS] + plan[panel + COLUMN]
                    tile_panel(plan, TILE, panel, g, a, w, b, x, c, w, 0)


@inner
def _crop(plan, padded, base, x, at):  # type: ignore[no-untyped-def]
    """Copy the image out of its padded form; what no window reaches is zero."""
    channels, columns, width = plan[CHANNELS], plan[WIDTH], plan[TARGET_WIDTH]
    for y in range(plan[HEIGHT]):
        row = y + plan[TOP]
        source = base + row * width * channels
        copy_row(padded, source, row, plan[TARGET_HEIGHT], width, channels, plan[LEFT], columns, x, at)
        at += columns * channels
