"""The buffer pool: aligned arrays that are reused as soon as nobody refers to them; and the order of axes in memory.

A fresh 10 MB activation costs more in page faults than in arithmetic, and a training step asks for the same sizes
again and again. A buffer is free when the pool holds its only reference: NumPy views keep their owner alive, so the
reference count of the owner says it all, and nothing needs to be handed back. Large buffers may lie over each other, of
which one at a time is in use: what the first step divides one way and then another, later ones find as they need it.
A step of the BN CNN (batch 64) holds 17 MB so, with a list of buffers for each size 31, and needs 16.

Kernels walk over C-contiguous memory. Images have the shape (N, C, H, W) and, normally, the memory of (N, H, W, C).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from itertools import islice
from math import prod
from sys import getrefcount
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy import ndarray

from .. import launch
from ..compile import inner, jit
from . import simd

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 4096  # bytes, a power of two: below it NumPy's own allocator is faster than looking for a buffer
IDLE_LIMIT = 1 << 30  # bytes of unused buffers kept: by that much the pool grows before it lets go of them
SWAP = 1 << 18  # bytes of float32 from which a copy that swaps axes is worth compiling a kernel
SEGMENT = 128 << 20  # bytes asked of the system at a time, for large buffers; the untouched ones take no memory yet
LARGE = 1 << 18  # bytes from which buffers share a segment
CROWD = 1 << 8  # buffers of one segment: when there are more, the unused ones are forgotten
SCAN = 64  # buffers of one size looked at per request, and 64 more where a cursor stands: 100,000 may be alive

CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)


#: Bytes, the same as a memoryview, and the buffers that lie over them. NumPy makes an array over the view in 0.13 us,
#: over the other array in 0.29, and refers to the other array in both cases.
_Buffer = tuple[np.ndarray, memoryview, list["_Buffer"]]


class _Size:
    """The buffers of one size and where to look for a free one next."""

    __slots__ = ("buffers", "cursor")

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []
        self.cursor = SCAN


class _Segment:
    """Memory from the system, the buffers in its used beginning, and where each of them starts."""

    __slots__ = ("buffers", "memory", "used")

    def __init__(self, size: int) -> None:
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.memory, self.used = raw.data[start : start + size], 0
        self.buffers: list[tuple[int, _Buffer]] = []


class _Place(NamedTuple):
    """Room for a buffer: what the used part of memory grows by, and how many unused bytes there are together."""

    growth: int
    room: int
    segment: _Segment | None = None
    start: int = 0


class Pool:
    """Buffers of raw bytes by size; safe to use from several threads, in signal handlers and in finalizers.

    An interrupt may leave any line: buffers are told of each other before requests can find them, and are no longer
    found before they are forgotten.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._segments: list[_Segment] = []
        self.lock = threading.RLock()
        self._inside = False  # whether the lock's holder is at work, and a handler's request came in between
        self._bytes = 0
        self._in_use = 0  # when unused buffers were last looked for

    def array(self, shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> np.ndarray:
        """An array over a buffer that nobody uses, contents arbitrary; sizes round up to 4 KiB pages."""
        size = nbytes + SMALL - 1 & -SMALL
        with self.lock:  # until the array is made, another thread would take the buffer for a free one
            if self._inside:
                return ndarray(shape, dtype, _Segment(size).memory)
            self._inside = True
            try:
                found = self._sizes.get(size)
                if found is not None:
                    few = found.buffers if len(found.buffers) <= SCAN else islice(found.buffers, SCAN)
                    for raw, view, over in few:  # the first free one: likely to be in the cache
                        if getrefcount(raw) == _FREE and not (over and _any_used(over)):
                            return ndarray(shape, dtype, view)
                    if len(found.buffers) > SCAN:
                        found.cursor = found.cursor + SCAN if found.cursor + SCAN < len(found.buffers) else SCAN
                        for raw, view, over in islice(found.buffers, found.cursor, found.cursor + SCAN):
                            if getrefcount(raw) == _FREE and not (over and _any_used(over)):
                                found.cursor -= SCAN  # there may be more here
                                return ndarray(shape, dtype, view)
                    raw = None  # type: ignore[assignment]  # a reference more, and it looks used
                return ndarray(shape, dtype, self._new(size))
            finally:
                self._inside = False

    def _new(self, size: int) -> memoryview:
        """A new buffer, over unused ones or in new memory."""
        place = self._place(size)
        if place.growth and self._bytes + place.growth > self._in_use + IDLE_LIMIT:
            self._trim()
            self._in_use = self._bytes
            place = self._place(size)
        segment, start = place.segment, place.start
        if segment is None:
            segment = _Segment(size if size < LARGE else max(size, SEGMENT))
            self._segments.append(segment)
        elif len(segment.buffers) >= CROWD:
            self._forget_unused(segment)
        segment.used += place.growth
        self._bytes += place.growth
        raw = np.frombuffer(segment.memory[start : start + size], np.uint8)
        over = [other for at, other in segment.buffers if at < start + size and start < at + len(other[1])]
        buffer: _Buffer = raw, raw.data, over
        for other in over:
            other[2].append(buffer)
        segment.buffers.append((start, buffer))
        self._sizes.setdefault(size, _Size()).buffers.append(buffer)
        return buffer[1]

    def _place(self, size: int) -> _Place:
        """Where a buffer takes the least new memory, and the fewest unused bytes."""
        best = _Place(size, size)
        for segment in self._segments if size >= LARGE else ():
            busy = [(at, at + len(view)) for at, (raw, view, _) in segment.buffers if getrefcount(raw) > _FREE]
            start = 0
            for at, end in [*sorted(busy), (segment.used, 0)]:
                if at - start >= size and (0, at - start) < best[:2]:
                    best = _Place(0, at - start, segment, start)
                start = max(start, end)
            growth = start + size - segment.used
            if growth > 0 and start + size <= len(segment.memory) and (growth, size) <= best[:2]:
                best = _Place(growth, size, segment, start)
        return best

    def _forget_unused(self, segment: _Segment) -> None:
        """Take a segment's unused buffers out of all lists."""
        kept = [(at, buffer) for at, buffer in segment.buffers if _any_used((buffer,))]
        gone = {id(buffer) for _, buffer in segment.buffers} - {id(buffer) for _, buffer in kept}
        for size in self._sizes.keys() & {len(view) for _, (_, view, _) in segment.buffers}:
            found = self._sizes[size]
            found.buffers = [buffer for buffer in found.buffers if id(buffer) not in gone]
            if not found.buffers:
                del self._sizes[size]
        for _, (_, _, over) in segment.buffers:
            over[:] = [buffer for buffer in over if id(buffer) not in gone]
        segment.buffers = kept

    def trim(self) -> None:
        """Give memory of which nothing is used back to the system."""
        with self.lock:
            if not self._inside:
                self._trim()

    def _trim(self) -> None:
        for segment in self._segments:
            self._forget_unused(segment)
        self._segments = [segment for segment in self._segments if segment.buffers]
        self._bytes = sum(segment.used for segment in self._segments)


def _any_used(buffers: Iterable[_Buffer]) -> bool:
    """Whether an array lies over one of the buffers."""
    for raw, _, _ in buffers:  # noqa: SIM110  `any` would make a generator, which takes three times as long
        if getrefcount(raw) > _FREE:
            return True
    return False


def _references_to_an_unused_buffer() -> int:
    """What sys.getrefcount says in the loops above; not the same number in every version of Python."""
    one = np.empty(1, np.uint8)
    buffers: list[_Buffer] = [(one, one.data, [])]
    del one
    for raw, _, _ in buffers:
        return getrefcount(raw)
    raise AssertionError


_FREE = _references_to_an_unused_buffer()
pool = Pool()

if hasattr(os, "register_at_fork"):  # else a child would wait for ever for a thread that it does not have
    os.register_at_fork(
        before=lambda: pool.lock.acquire(),
        after_in_parent=lambda: pool.lock.release(),
        after_in_child=lambda: pool.lock.release(),
    )


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
    swapped = _swapped(x) if x.nbytes >= SWAP and x.dtype == np.float32 and not numba.config.DISABLE_JIT else None
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
