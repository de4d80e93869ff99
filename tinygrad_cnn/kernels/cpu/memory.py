"""The buffer pool: aligned arrays that are reused as soon as nobody refers to them.

A fresh 10 MB activation costs more in page faults than in arithmetic, and a training step asks for the same sizes
again and again. A buffer is free when the pool holds its only reference: NumPy views keep their owner alive, so the
reference count of the owner says it all, and nothing needs to be handed back.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 4096  # bytes: below it NumPy's own allocator is faster than looking for a buffer
IDLE_LIMIT = 1 << 30  # bytes of unused buffers kept before the pool lets go of them


class Pool:
    """Buffers of raw bytes by size; safe to use from several threads."""

    def __init__(self) -> None:
        self._buffers: dict[int, list[tuple[np.ndarray, int]]] = {}  # size -> (bytes, offset of the aligned part)
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, nbytes: int) -> tuple[np.ndarray, int]:
        """A uint8 array that nobody uses, and the offset at which `nbytes` aligned bytes begin; contents arbitrary."""
        size = -(-nbytes // SMALL) * SMALL
        with self._lock:
            for entry in self._buffers.get(size, ()):
                if sys.getrefcount(entry[0]) == _FREE:
                    return entry
            if self._bytes + size > IDLE_LIMIT:
                self._trim()
            raw = np.empty(size + ALIGNMENT, np.uint8)
            entry = raw, -raw.ctypes.data % ALIGNMENT
            self._buffers.setdefault(size, []).append(entry)
            self._bytes += size
            return entry

    def trim(self) -> None:
        """Give every unused buffer back to the system."""
        with self._lock:
            self._trim()

    def _trim(self) -> None:
        for size, entries in list(self._buffers.items()):
            busy = [entry for entry in entries if sys.getrefcount(entry[0]) > _FREE]
            self._bytes -= size * (len(entries) - len(busy))
            if busy:
                self._buffers[size] = busy
            else:
                del self._buffers[size]


_FREE = 2  # what sys.getrefcount says of a buffer that only its entry refers to (the other is its own argument)
pool = Pool()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An uninitialised C-contiguous array, 64-byte aligned from 4 KiB on."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALL:
        return np.empty(shape, dtype)
    raw, offset = pool.take(nbytes)
    return np.ndarray(shape, dtype, raw, offset)


def empty_like(x: np.ndarray) -> np.ndarray:
    """An uninitialised array of x's shape, dtype and order of axes in memory (channels-last stays channels-last)."""
    if x.flags.c_contiguous:
        return empty(x.shape, x.dtype)
    order = sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis))
    base = empty(tuple(x.shape[axis] for axis in order), x.dtype)
    return base.transpose(np.argsort(order))


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """A C-contiguous array of zeros, 64-byte aligned from 4 KiB on."""
    out = empty(shape, dtype)
    out.fill(0)
    return out
