"""The buffer pool: aligned arrays that are reused as soon as nobody refers to them; and the order of axes in memory.

A fresh 10 MB activation costs more in page faults than in arithmetic, and a training step asks for the same sizes
again and again. A buffer is free when the pool holds its only reference: NumPy views keep their owner alive, so the
reference count of the owner says it all, and nothing needs to be handed back. What different sizes leave unused is
joined and cut again: a step of ResNet-20 holds 110 MB so, with a list of buffers for each size 122, and needs 104.

Kernels walk over C-contiguous memory. Images have the shape (N, C, H, W) and, normally, the memory of (N, H, W, C).
"""

from __future__ import annotations

import threading
from itertools import islice
from math import prod
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from .. import launch
from ..compile import inner, jit
from . import simd

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 4096  # bytes, a power of two: below it NumPy's own allocator is faster than looking for a buffer
IDLE_LIMIT = 1 << 30  # bytes of unused buffers kept: by that much the pool grows before it lets go of them
SWAP = 1 << 18  # bytes of float32 from which a copy that swaps axes is worth compiling a kernel
SEGMENT = 64 << 20  # bytes asked of the system at a time, for large buffers; the untouched ones take no memory yet
JOINED = 1 << 20  # bytes from which a buffer is large: made of unused neighbours, once there is more than a segment
SCAN = 64  # buffers of one size looked at per request, and 64 more where a cursor stands: 100,000 may be alive

CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)


#: Bytes, and the same as a memoryview: NumPy makes an array over the view in 0.13 us, over the other array in 0.29, and
#: refers to the other array in both cases.
_Buffer = tuple[np.ndarray, memoryview]


class _Size:
    """The buffers of one size and where to look for a free one next."""

    __slots__ = ("buffers", "cursor")

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []
        self.cursor = SCAN


class _Segment:
    """Memory from the system, and the buffers that its beginning is cut into, by address; the rest is untouched."""

    __slots__ = ("buffers", "memory", "used")

    def __init__(self, size: int) -> None:
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.memory, self.used = raw.data[start : start + size], 0
        self.buffers: list[_Buffer] = []


class _Place(NamedTuple):
    """Where a buffer fits: unused neighbours of a segment, from `first` to `end`, and what it grows by; or nowhere."""

    growth: int
    length: int
    segment: _Segment | None = None
    first: int = 0
    end: int = 0


class Pool:
    """Buffers of raw bytes by size; safe to use from several threads."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._segments: list[_Segment] = []
        self._lock = threading.Lock()
        self._bytes = 0
        self._in_use = 0  # when unused buffers were last looked for

    def array(self, shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> np.ndarray:
        """An array over a buffer that nobody uses, contents arbitrary; sizes round up to 4 KiB pages."""
        size = nbytes + SMALL - 1 & -SMALL
        with self._lock:  # until the array is made, another thread would take the buffer for a free one
            found = self._sizes.get(size)
            if found is not None:
                few = found.buffers if len(found.buffers) <= SCAN else islice(found.buffers, SCAN)
                for raw, view in few:  # the first free one: likely to be in the cache
                    if getrefcount(raw) == _FREE:
                        return ndarray(shape, dtype, view)
                if len(found.buffers) > SCAN:
                    found.cursor = found.cursor + SCAN if found.cursor + SCAN < len(found.buffers) else SCAN
                    for raw, view in islice(found.buffers, found.cursor, found.cursor + SCAN):
                        if getrefcount(raw) == _FREE:
                            found.cursor -= SCAN  # there may be more here
                            return ndarray(shape, dtype, view)
            return ndarray(shape, dtype, self._cut(size))

    def _cut(self, size: int) -> memoryview:
        """A new buffer: in the place of unused neighbours, what is left of them being another one, or of new memory."""
        place = self._place(size)
        if place.growth and self._bytes + place.growth > self._in_use + IDLE_LIMIT:
            self._trim()
            self._in_use = self._bytes
            place = self._place(size)
        segment, first, end = place.segment, place.first, place.end
        if segment is None:
            segment = _Segment(size if size < JOINED else max(size, SEGMENT))
            self._segments.append(segment)
        start = sum(len(view) for _, view in segment.buffers[:first])
        for buffer in segment.buffers[first:end]:
            self._forget(buffer)
        segment.used += place.growth
        self._bytes += place.growth
        parts = segment.memory[start : start + size], segment.memory[start + size : start + place.length]
        segment.buffers[first:end] = [self._buffer(part) for part in parts if len(part)]
        return segment.buffers[first][1]

    def _place(self, size: int) -> _Place:
        """Where a buffer takes the least new memory, and the fewest bytes of unused ones."""
        best, joins = _Place(size, size), self._bytes > SEGMENT
        for segment in self._segments if size >= JOINED else ():
            first = length = 0
            for i, (raw, view) in enumerate(segment.buffers):
                if not joins or getrefcount(raw) > _FREE:
                    first, length = i + 1, 0
                    continue
                length += len(view)
                if length >= size and (0, length) < best[:2]:
                    best = _Place(0, length, segment, first, i + 1)
            growth = size - length
            if 0 < growth <= len(segment.memory) - segment.used and (growth, size) <= best[:2]:
                best = _Place(growth, size, segment, first, len(segment.buffers))
        return best

    def _buffer(self, memory: memoryview) -> _Buffer:
        raw = np.frombuffer(memory, np.uint8)
        buffer = raw, raw.data
        self._sizes.setdefault(len(memory), _Size()).buffers.append(buffer)
        return buffer

    def _forget(self, buffer: _Buffer) -> None:
        """Take a buffer out of those of its size."""
        size = len(buffer[1])
        found = self._sizes[size]
        found.buffers = [other for other in found.buffers if other is not buffer]
        if not found.buffers:
            del self._sizes[size]

    def trim(self) -> None:
        """Give memory of which nothing is used back to the system."""
        with self._lock:
            self._trim()

    def _trim(self) -> None:
        kept = []
        for segment in self._segments:
            busy = False
            for raw, _ in segment.buffers:
                busy = busy or getrefcount(raw) > _FREE
            if busy:
                kept.append(segment)
            else:
                for buffer in segment.buffers:
                    self._forget(buffer)
                self._bytes -= segment.used
        self._segments = kept


def _references_to_an_unused_buffer() -> int:
    """What sys.getrefcount says in the loops above; not the same number in every version of Python."""
    one = np.empty(1, np.uint8)
    buffers = [(one, one.data)]
    del one
    for raw, _ in buffers:
        return getrefcount(raw)
    raise AssertionError


_FREE = _references_to_an_unused_buffer()
pool = Pool()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An uninitialised C-contiguous array, 64-byte aligned from 4 KiB on."""
    try:
        nbytes = prod(shape) * dtype.itemsize
    except (AttributeError, TypeError):  # no np.dtype; to look first takes 60 ns
        dtype = np.dtype(dtype)
        nbytes = prod(shape) * dtype.itemsize
    if nbytes < SMALL:
        return np.empty(shape, dtype)
    return pool.array(shape, dtype, nbytes)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """A C-contiguous array of zeros, 64-byte aligned from 4 KiB on."""
    out = empty(shape, dtype)
    out.fill(0)
    return out


def empty_like(x: np.ndarray, dtype: Any = None) -> np.ndarray:
    """An uninitialised array of x's shape and order of axes in memory (channels-last stays channels-last)."""
    order = axis_order(x)
    dtype = x.dtype if dtype is None else dtype
    if order is None:
        return empty(x.shape, dtype)
    base = empty(tuple(x.shape[axis] for axis in order), dtype)
    return base.transpose(CHANNELS_FIRST if order == CHANNELS_LAST else np.argsort(order))


def axis_order(x: np.ndarray) -> tuple[int, ...] | None:
    """The axes from the outermost to the innermost in memory; None for the logical order."""
    if x.flags.c_contiguous:
        return None
    if x.ndim == 4 and (x.transpose(CHANNELS_LAST).flags.c_contiguous or 0 in x.strides):
        return CHANNELS_LAST
    if 0 in x.strides:
        return None
    order = tuple(sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis)))
    return None if order == tuple(range(x.ndim)) else order


def flat(x: np.ndarray, order: tuple[int, ...] | None = None) -> np.ndarray:
    """The elements as a 1-D array in the given order of axes: a view if x lies so in memory, else a copy.

    Read-only and unaligned arrays are copied too: to Numba each would be another type, and compile all kernels anew.
    """
    if order is not None:
        x = x.transpose(order)
    return x.reshape(-1) if x.flags.carray else copy(x).reshape(-1)


def nhwc(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> C-contiguous (N, H, W, C): a view of channels-last memory, else a copy."""
    base = x.transpose(CHANNELS_LAST)
    return base if base.flags.carray else copy(base)


def nchw(base: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> the (N, C, H, W) view."""
    return base.transpose(CHANNELS_FIRST)


def contiguous(x: np.ndarray) -> np.ndarray:
    """x in C order, aligned and writable: itself, else a copy."""
    return x if x.flags.carray else copy(x)


def copy(x: np.ndarray) -> np.ndarray:
    """A C-contiguous copy; of images in the other order of axes by squares of vectors, NumPy takes 3 times as long."""
    out = empty(x.shape, x.dtype)
    swapped = _swapped(x) if x.nbytes >= SWAP and x.dtype == np.float32 else None
    if swapped is None:
        np.copyto(out, x)
    else:
        launch(_swap, swapped, out.reshape(-1), simd.lanes(x.dtype), work=2 * x.size)
    return out


def _swapped(x: np.ndarray) -> np.ndarray | None:
    """The C-contiguous (images, rows, columns) that x shows as (images, columns, rows), two axes in one; or None."""
    if x.ndim == 4:
        for order in (CHANNELS_LAST, CHANNELS_FIRST):
            base = x.transpose(order)
            if base.flags.carray:
                n, a, b, c = base.shape
                rows, columns = (a * b, c) if order == CHANNELS_LAST else (a, b * c)
                return base.reshape(n, rows, columns)
    return None


@jit(parts=True)
def _swap(x, y, lanes, p, parts):
    images, rows, columns = x.shape
    source = x.reshape(-1)
    width = 4 * lanes
    bands = (columns + width - 1) // width
    for task in range(p * images * bands // parts, (p + 1) * images * bands // parts):
        image = task // bands
        first = (task - image * bands) * width
        at, to = image * rows * columns + first, image * rows * columns + first * rows
        if rows == 3:
            _interleave(source, at, columns, y, to, min(width, columns - first))
        else:
            simd.transpose(rows, min(width, columns - first), source, at, columns, y, to, rows, lanes)


@inner
def _interleave(x, at, row, y, to, count):
    """Three planes, as of colours, to pixels: LLVM makes vectors of it where it knows the number (93 us -> 18)."""
    red, green, blue = x[at : at + count], x[at + row : at + row + count], x[at + 2 * row : at + 2 * row + count]
    pixels = y[to : to + 3 * count]
    for i in range(count):
        pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2] = red[i], green[i], blue[i]
