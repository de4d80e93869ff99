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

#: Bytes of arrays that no cache holds for sure. There tiles of 1x1 kernels, and weight gradients of so few products for
#: each pixel, ask for the lines ahead: processors see them coming less well than one would think. Each line is asked
#: for once, in step with the products. A 1x1 weight gradient between 128 channels, 34 MB, takes 2.8 ms instead of 3.2
#: where memory is fast and 3.0 instead of 5.6 where it is slow, a forward pass 2.3 instead of 2.4, 2.6 instead of 5.8.
FAR_BYTES, FEW_PRODUCTS = 8 << 20, 64 * 64

#: Axes that take logical shapes to the order in memory, and back.
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
HWIO, OIHW = (2, 3, 1, 0), (3, 2, 0, 1)


def layout(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The C-contiguous array with these axes: x's own memory where it lies so, else a copy."""
    x = x.transpose(axes)
    return x if x.flags.c_contiguous else memory.copy(x)


def longer_rows(n: int, h: int, w: int, most: int = 512) -> tuple[int, int, int]:
    """The same pixels in rows of up to `most` while TASKS are left: to a 1x1 kernel images are a line of pixels.

    In rows of 56 or more in any case where possible; small images are joined while half the TASKS are left.
    """
    times = [d for d in range(1, h + 1) if h % d == 0] + [h * d for d in range(2, 2 * n // TASKS + 1) if n % d == 0]
    least = next((d for d in times if d * w >= 56), h)
    d = max([least] + [d for d in times if d * w <= most and n * h >= TASKS * d])
    return (n, h // d, w * d) if d <= h else (n * h // d, 1, w * d)


def is_far(elements: int, itemsize: int) -> bool:
    """Whether tiles should ask for lines ahead, by the elements of all arrays."""
    return elements * itemsize >= FAR_BYTES


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
