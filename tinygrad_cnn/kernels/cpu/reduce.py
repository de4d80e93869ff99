"""Sums over any axes, accumulated in float64 or pairwise; means; sums back to a broadcast shape.

NumPy adds the rows of a float32 (rows, channels) matrix one after the other, which loses three digits over the
pixels of a batch; the kernel here adds them in many float64 lanes, over shards fixed by the size, not by threads.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .. import launch, silent
from ..compile import jit
from .memory import axis_order, contiguous, empty

LANES = 256  # accumulators of a shard: enough to hide the latency of loading and storing them
SHARD = 1 << 15  # elements that are worth a shard of their own
MAX_SHARDS = 64


class _Plan(NamedTuple):
    """A sum as (outer, summed, inner) over C-contiguous memory, and how the result is seen from outside."""

    order: tuple[int, ...] | None  # of the input's axes in memory
    outer: int
    summed: int
    inner: int
    lanes: int
    shards: int
    shape: tuple[int, ...]  # of the result, axes in memory order, summed axes as 1
    back: tuple[int, ...]  # the transposition to logical order
    final: tuple[int, ...]  # the result's logical shape
    tail: tuple[int, ...]  # innermost axes to sum first, where the summed axes are not neighbours


@lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], order: tuple[int, ...] | None, axes: tuple[int, ...], keepdims: bool) -> _Plan:
    memory = order or tuple(range(len(shape)))
    summed = [axis in axes for axis in memory]
    sizes = [shape[axis] for axis in memory]
    runs: list[list[int]] = []  # (is summed, size): axes of size 1 belong to any run
    for is_summed, size in zip(summed, sizes, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][0] == is_summed:
            runs[-1][1] *= size
        else:
            runs.append([is_summed, size])
    tail: tuple[int, ...] = ()
    if len(runs) > 1 and runs[-1][0] and any(is_summed for is_summed, _ in runs[:-1]):
        first = len(memory)  # (..., summed, kept, summed): NumPy sums the innermost run, pairwise
        while first and (summed[first - 1] or sizes[first - 1] == 1):
            first -= 1
        tail = tuple(range(first, len(memory)))
        sizes[first:] = [1] * len(tail)
        runs.pop()
    outer, middle, inner = 1, 1, 1
    where = [i for i, (is_summed, _) in enumerate(runs) if is_summed]
    if len(where) > 1:
        middle = 0  # NumPy's turn
    elif where:
        (i,) = where
        outer = math.prod(size for _, size in runs[:i])
        middle = runs[i][1]
        inner = math.prod(size for _, size in runs[i + 1 :])
    else:
        inner = math.prod(sizes)
    rows = max(1, min(middle, LANES // max(inner, 1)))
    shards = max(1, min(MAX_SHARDS // max(outer, 1), middle * inner // SHARD))
    kept = tuple(1 if s else n for s, n in zip(summed, sizes, strict=True))
    back = tuple(int(i) for i in np.argsort(memory))
    final = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    if not keepdims:
        final = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    return _Plan(order, outer, middle, inner, rows * inner, shards, kept, back, final, tail)


def sum(x: np.ndarray, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> np.ndarray:
    """The sum over the axes (non-negative; None for all) of a float array, in its dtype; 0 over nothing."""
    return _scaled_sum(x, axes, keepdims, None)


def mean(x: np.ndarray, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> np.ndarray:
    """The mean over the axes (non-negative; None for all) of a float array; NaN over nothing."""
    n = x.size if axes is None else math.prod(x.shape[axis] for axis in axes)
    return _scaled_sum(x, axes, keepdims, n)


def sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x summed over the axes along which an array of the given shape would be broadcast to x's; x itself if none."""
    if x.shape == shape:
        return x
    new = x.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(x.shape) if i < new or (shape[i - new] == 1 and n != 1))
    if not axes:
        return x.reshape(shape)
    return sum(x, axes).reshape(shape)


@silent
def _scaled_sum(x: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool, divisor: int | None) -> np.ndarray:
    if axes is None:
        axes = tuple(range(x.ndim))
    plan = _plan(x.shape, axis_order(x), axes, keepdims)
    base = contiguous(x if plan.order is None else x.transpose(plan.order))
    if plan.tail and x.size:
        base = np.add.reduce(base.reshape(*base.shape[: plan.tail[0]], -1), axis=-1)
    if plan.summed == 0 or x.size == 0:
        total = np.add.reduce(x, axis=axes, dtype=np.float64, keepdims=True)
        total = total.transpose(plan.order) if plan.order else total
    elif plan.inner == 1 and plan.summed < 1 << 16:
        total = np.add.reduce(base.reshape(plan.outer, plan.summed), axis=1)  # pairwise, 28 GB/s in one thread
    elif x.size < 2048:
        total = np.add.reduce(base.reshape(plan.outer, plan.summed, plan.inner), axis=1, dtype=np.float64)
    else:
        partial = empty((plan.outer * plan.shards, plan.lanes), np.float64)
        alone = plan.shards == 1
        total = empty((plan.outer * plan.inner if alone else 0,), x.dtype)
        sizes = plan.summed, plan.inner, plan.shards, divisor or 1
        launch(_sum_middle, base.reshape(-1), sizes, partial, total, work=base.size)
        if alone:
            return total.reshape(plan.shape).transpose(plan.back).reshape(plan.final)
        total = np.add.reduce(partial.reshape(plan.outer, -1, plan.inner), axis=1)
    if divisor is not None:
        total = np.true_divide(total, divisor) if divisor else total * np.nan
    return total.astype(x.dtype, copy=False).reshape(plan.shape).transpose(plan.back).reshape(plan.final)


@jit(parts=True)
def _sum_middle(x, sizes, partial, total, p, parts):
    """(outer, summed, inner) -> float64 partial sums (outer * shards, lanes), where lanes are whole rows of `inner`.

    One shard's are added up, as NumPy does those of several, and divided: total (outer * inner).
    """
    summed, inner, shards, divisor = sizes
    tasks, lanes = partial.shape
    block = summed * inner
    groups = block // lanes
    for task in range(p * tasks // parts, (p + 1) * tasks // parts):
        outer = task // shards
        shard = task - outer * shards
        lo, hi = shard * groups // shards, (shard + 1) * groups // shards
        acc = partial[task]
        for j in range(lanes):
            acc[j] = 0.0
        share = x[outer * block + lo * lanes : outer * block + hi * lanes]
        fours = (hi - lo) // 4
        for i in range(fours):
            rows = share[4 * i * lanes : 4 * (i + 1) * lanes]
            a, b, c, d = rows[:lanes], rows[lanes : 2 * lanes], rows[2 * lanes : 3 * lanes], rows[3 * lanes :]
            for j in range(lanes):
                first = np.float64(a[j]) + np.float64(b[j])
                second = np.float64(c[j]) + np.float64(d[j])
                acc[j] += first + second
        for i in range(4 * fours, hi - lo):
            row = share[i * lanes : (i + 1) * lanes]
            for j in range(lanes):
                acc[j] += np.float64(row[j])
        if shard == shards - 1:
            rest = x[outer * block + groups * lanes : (outer + 1) * block]
            for j in range(rest.size):
                acc[j] += np.float64(rest[j])
        if shards == 1:
            for i in range(inner, lanes, inner):
                for j in range(inner):
                    acc[j] += acc[i + j]
            for j in range(inner):
                total[outer * inner + j] = acc[j] / divisor
