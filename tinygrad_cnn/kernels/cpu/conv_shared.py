"""What the convolution kernels share: memory layouts, sizes of blocks, and rows copied with their padding."""

from __future__ import annotations

import numpy as np

from ..compile import inner
from . import memory
from .simd import clear, copy

#: Bytes of input that a task copies or walks at a time: with the weights it has to stay in the L2 cache.
BAND_BYTES = 256 << 10
#: Tasks worth having, so that threads finish together.
TASKS = 16

#: Bytes of arrays that no cache holds for sure, and products for each pixel so few that memory decides the time. There
#: tiles ask for the lines ahead: processors see them coming less well than one would think. A 1x1 weight gradient of
#: 16 -> 32 channels, 24 MB aligned to cache lines, takes 390 us instead of 1050, a 3x3 one of 1 -> 32 channels, 13 MB,
#: 220 instead of 1020 in most runs, and 190 instead of 217 in the best. With 128 x 128 products it takes 30 % longer.
FAR_BYTES, FEW_PRODUCTS = 12 << 20, 64 * 64
LINE_BYTES = 64

#: Axes that take logical shapes to the order in memory, and back.
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
HWIO, OIHW = (2, 3, 1, 0), (3, 2, 0, 1)


def layout(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The C-contiguous array with these axes: x's own memory where it lies so, else a copy."""
    x = x.transpose(axes)
    return x if x.flags.c_contiguous else memory.copy(x)


def longer_rows(h: int, w: int) -> tuple[int, int]:
    """The same pixels in rows of 56 or more where possible: to a 1x1 kernel an image is a line of pixels."""
    times = next((d for d in range(1, h + 1) if h % d == 0 and d * w >= 56), h)
    return h // times, w * times


def is_far(elements: int, itemsize: int, products: int) -> bool:
    """Whether tiles should ask for lines ahead, by the elements of all arrays and the products for each pixel."""
    return elements * itemsize >= FAR_BYTES and products <= FEW_PRODUCTS


def lines(elements: int, itemsize: int) -> int:
    """Cache lines of neighbouring elements."""
    return -(-elements * itemsize // LINE_BYTES)


@inner
def copy_row(x, source, row, height, width, channels, left, columns, scratch, to):  # type: ignore[no-untyped-def]
    """Copy columns left..left+columns of an image row to scratch, with zeros outside of the image."""
    begin = min(max(-left, 0), columns)
    end = max(min(width - left, columns), begin)
    if row < 0 or row >= height:
        begin = end = columns
    clear(scratch, to, begin * channels)
    if end > begin:
        copy(scratch, to + begin * channels, x, source + (left + begin) * channels, (end - begin) * channels)
    clear(scratch, to + end * channels, (columns - end) * channels)
