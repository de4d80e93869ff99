"""Batch norm and layer norm: one pass for the sums, one for the result, forward and backward.

Shapes in memory: M samples (images times pixels) x C channels, or R rows x F features. A batch norm walks over rows of
lanes, as many whole samples as fill whole strips of vectors. Its sums are float64 over shards fixed by the size.
"""

from __future__ import annotations

import math

import numpy as np

from .. import launch
from ..compile import inner, jit
from .memory import CHANNELS_FIRST, CHANNELS_LAST, contiguous, empty
from .reduce import MAX_SHARDS, SHARD
from .strips import STRIP, add_moments, add_products, multiply_add, store_affine, store_affine_grad

_ROWS = 64  # that a strip adds in the dtype of x before they join a float64 sum
_CENTER_SAMPLES = 128  # whose mean x is shifted by: it keeps the squares small, even where one of them is an outlier
_BLOCK = 1 << 13  # elements that stay in the first-level cache while strip after strip walks over them


def batch_norm_train(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    relu: bool = False,
    running: tuple[np.ndarray, np.ndarray, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N, C, ...) -> (x - mean) * rstd * weight + bias, or its ReLU; mean, rstd and shift (C,).

    mean and rstd = 1 / sqrt(variance + eps) are float64, the variance is the biased one: rstd ** -2 - eps. With the
    rounding of x's dtype, the result is channel_affine(x, mean, rstd * weight, shift). The first two of `running`, mean
    and unbiased variance (C,) of earlier batches, move towards this one's by the share that is the third.
    """
    base = _samples(x).reshape(-1)
    channels = x.shape[1]
    lanes = _lanes(3, channels, x.dtype)
    partial = _partial(x.size, lanes.shape[1])
    mean, rstd = np.empty((2, channels))
    weight, bias = _vector(weight, 1, channels, x.dtype), _vector(bias, 0, channels, x.dtype)
    held = running or (lanes[0, :0], lanes[0, :0], 0.0)
    launch(_statistics, base, lanes, partial, eps, weight, bias, mean, rstd, *held, work=2 * x.size)
    return _affine(x, base, lanes, relu), mean, rstd, lanes[2, :channels].copy()


def batch_norm_train_grad(
    g: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    weight: np.ndarray | None,
    shift: np.ndarray | None = None,
    own: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of batch_norm_train with respect to x (N, C, ...), weight (C,) and bias (C,).

    With the shift that batch_norm_train returned, they are the gradients of its ReLU. With `own` the first may be
    written over g.
    """
    samples = _samples(g)
    up, base = samples.reshape(-1), _samples(x).reshape(-1)
    channels = len(mean)
    lanes = _lanes(5, channels, x.dtype)
    floor = _floor(x.dtype, shift is not None)
    weight, shift = _vector(weight, 1, channels, x.dtype), _vector(shift, 0, channels, x.dtype)
    partial = _partial(x.size, lanes.shape[1])
    dweight, dbias = np.empty((2, channels), x.dtype)
    dx = samples if own else empty(samples.shape, x.dtype)
    vectors = mean, rstd, weight, shift, dweight, dbias
    launch(_gradients, base, up, lanes, floor, partial, *vectors, dx.reshape(-1), work=3 * x.size)
    return _like(dx, x), dweight, dbias


def channel_affine(
    x: np.ndarray, center: np.ndarray, scale: np.ndarray, shift: np.ndarray | None, relu: bool = False
) -> np.ndarray:
    """((N, C, ...) - center) * scale + shift, or its ReLU: batch norm with fixed statistics (C,)."""
    channels = len(center)
    lanes = _lanes(3, channels, x.dtype)
    whole = lanes.reshape(3, -1, channels)
    whole[0], whole[1], whole[2] = center, scale, 0 if shift is None else shift
    return _affine(x, _samples(x).reshape(-1), lanes, relu)


def _samples(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> C-contiguous (N, ..., C): a view of channels-last memory, else a copy."""
    if x.ndim == 2:
        return contiguous(x)
    return contiguous(x.transpose(CHANNELS_LAST if x.ndim == 4 else (0, 2, 1)))


def _like(base: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(N, ..., C) -> the (N, C, ...) view."""
    if x.ndim == 2:
        return base
    return base.transpose(CHANNELS_FIRST if x.ndim == 4 else (0, 2, 1))


def _lanes(count: int, channels: int, dtype: np.dtype) -> np.ndarray:
    """Constants of the lanes, a row for each: center, scale and shift, and in a gradient slope and level."""
    return np.empty((count, math.lcm(channels, STRIP // dtype.itemsize)), dtype)


def _floor(dtype: np.dtype, relu: bool) -> np.floating:
    """What the strips take for ReLU: NaN is none."""
    return dtype.type(0 if relu else np.nan)


def _partial(size: int, lanes: int) -> np.ndarray:
    """Two float64 sums for each lane of each shard."""
    return empty((max(1, min(MAX_SHARDS, size // max(SHARD, 8 * lanes))), 2, lanes), np.float64)


def _affine(x: np.ndarray, base: np.ndarray, lanes: np.ndarray, relu: bool) -> np.ndarray:
    y = empty(tuple(x.shape[axis] for axis in (0, *range(2, x.ndim), 1)), x.dtype)
    launch(_affine_kernel, base, lanes, _floor(x.dtype, relu), y.reshape(-1), work=2 * x.size)
    return _like(y, x)


@jit
def _statistics(
    x, lanes, partial, eps, weight, bias, mean, rstd, running_mean, running_variance, momentum, parts
):  # fmt: skip
    """mean and rstd, the constants of the lanes, and the running statistics where they are not empty."""
    channels, samples = mean.size, x.size // mean.size
    _center(x, channels, lanes, partial[0, 0])
    _moments(x, lanes, channels, partial, parts)
    _add_shards(partial, channels)
    for c in range(channels):
        offset = partial[0, 0, c] / samples
        variance = partial[0, 1, c] / samples - offset * offset
        mean[c] = np.float64(lanes[0, c]) + offset
        variance = 0.0 if variance < 0.0 else variance
        rstd[c] = np.inf if eps + variance == 0.0 else 1 / math.sqrt(eps + variance)
        if running_mean.size > 0:
            unbiased = variance * samples / (samples - 1)
            running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c]
            running_variance[c] = (1 - momentum) * running_variance[c] + momentum * unbiased
    _fill(mean, rstd, weight, bias, lanes)
    for j in range(lanes.shape[1]):  # the mean loses digits in a lane: what they are worth goes into the shift
        c = j % channels
        lanes[2, j] = bias[c] + (np.float64(lanes[0, j]) - mean[c]) * rstd[c] * weight[c]


@jit
def _gradients(x, g, lanes, floor, partial, mean, rstd, weight, shift, dweight, dbias, dx, parts):
    """The gradients of weight and bias, and with them that of x."""
    _fill(mean, rstd, weight, shift, lanes)
    _products(x, g, lanes, mean.size, floor, partial, parts)
    _slopes(partial, x.size // mean.size, mean, rstd, weight, dweight, dbias, lanes)
    _store_gradient(x, g, lanes, floor, dx, parts)


@inner
def _center(x, channels, lanes, total):
    samples = min(x.size // channels, _CENTER_SAMPLES)
    total[:channels] = 0.0
    for i in range(samples):
        for c in range(channels):
            total[c] += x[i * channels + c]
    for c in range(channels):
        lanes[0, c] = total[c] / samples
    _repeat(lanes[0], channels)


@inner
def _repeat(row, channels):
    for j in range(channels, row.size):
        row[j] = row[j - channels]


@inner
def _add_shards(partial, channels):
    """Add the sums of all shards up in the first one."""
    for shard in range(1, len(partial)):
        for which in range(2):
            for c in range(channels):
                partial[0, which, c] += partial[shard, which, c]


@inner
def _fill(mean, rstd, weight, shift, lanes):
    for c in range(mean.size):
        lanes[0, c] = mean[c]
        lanes[1, c] = rstd[c] * weight[c]
        lanes[2, c] = shift[c]
    for k in range(3):
        _repeat(lanes[k], mean.size)


@inner
def _slopes(partial, samples, mean, rstd, weight, dweight, dbias, lanes):
    """The sums over all shards as gradients of weight and bias, and as the two constants of dx."""
    _add_shards(partial, mean.size)
    for c in range(mean.size):
        total, product = partial[0, 0, c], partial[0, 1, c]
        rounded = mean[c] - np.float64(lanes[0, c])
        product -= rounded * total
        scale = rstd[c] * weight[c]
        slope = -scale * rstd[c] * rstd[c] * product / samples
        lanes[3, c] = slope
        lanes[4, c] = -scale * total / samples - rounded * slope
        dweight[c] = product * rstd[c]
        dbias[c] = total
    for k in range(3, 5):
        _repeat(lanes[k], mean.size)


@inner
def _fold(partial, channels):
    """Add the sums of each channel's lanes up in its first one."""
    for which in range(2):
        row = partial[which]
        for j in range(channels, row.size):
            row[j % channels] += row[j]


@inner(parts=True)
def _moments(x, lanes, channels, partial, p, parts):
    """For each lane and shard the sums of d = x - center and of d * d."""
    shards, center = len(partial), lanes[0]
    groups = x.size // center.size
    for shard in range(p * shards // parts, (p + 1) * shards // parts):
        total, squares = partial[shard, 0], partial[shard, 1]
        total[:] = 0.0
        squares[:] = 0.0
        last = (shard + 1) * groups // shards
        for first in range(shard * groups // shards, last, _ROWS):
            rows, at = min(_ROWS, last - first), first * center.size
            for lane in range(0, center.size, STRIP // x.itemsize):
                add_moments(x, center, total, squares, at + lane, center.size, rows, lane)
        if shard == shards - 1:
            rest = x[groups * center.size :]
            for j in range(rest.size):
                d = np.float64(rest[j]) - np.float64(center[j])
                total[j] += d
                squares[j] += d * d
        _fold(partial[shard], channels)


@inner(parts=True)
def _products(x, g, lanes, channels, floor, partial, p, parts):
    """For each lane and shard the sums of g and of g * d, where the ReLU, if any, lets the gradient pass."""
    shards, center, scale, shift = len(partial), lanes[0], lanes[1], lanes[2]
    groups = x.size // center.size
    for shard in range(p * shards // parts, (p + 1) * shards // parts):
        total, product = partial[shard, 0], partial[shard, 1]
        total[:] = 0.0
        product[:] = 0.0
        last = (shard + 1) * groups // shards
        for first in range(shard * groups // shards, last, _ROWS):
            rows, at = min(_ROWS, last - first), first * center.size
            for lane in range(0, center.size, STRIP // x.itemsize):
                add_products(
                    x, g, center, scale, shift, total, product, floor, at + lane, center.size, rows, lane
                )  # fmt: skip
        if shard == shards - 1:
            rest, up = x[groups * center.size :], g[groups * center.size :]
            for j in range(rest.size):
                d = rest[j] - center[j]
                value = 0.0 if multiply_add(d, scale[j], shift[j]) <= floor else np.float64(up[j])
                total[j] += value
                product[j] += value * np.float64(d)
        _fold(partial[shard], channels)


@jit(parts=True)
def _affine_kernel(x, lanes, floor, y, p, parts):
    center, scale, shift = lanes[0], lanes[1], lanes[2]
    groups, block = x.size // center.size, max(1, _BLOCK // center.size)
    start, last = p * groups // parts, (p + 1) * groups // parts
    for i in range((last - start + block - 1) // block - 1, -1, -1):  # the sums left the end of x in the cache
        first = start + i * block
        rows, at = min(block, last - first), first * center.size
        for lane in range(0, center.size, STRIP // x.itemsize):
            store_affine(x, center, scale, shift, y, floor, at + lane, center.size, rows, lane)
    if p == parts - 1:
        rest, out = x[groups * center.size :], y[groups * center.size :]
        for j in range(rest.size):
            value = multiply_add(rest[j] - center[j], scale[j], shift[j])
            out[j] = floor if value <= floor else value


@inner(parts=True)
def _store_gradient(x, g, lanes, floor, dx, p, parts):
    center, scale, shift, slope, level = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    groups, block = x.size // center.size, max(1, _BLOCK // center.size)
    start, last = p * groups // parts, (p + 1) * groups // parts
    for i in range((last - start + block - 1) // block - 1, -1, -1):  # the sums left the end of x in the cache
        first = start + i * block
        rows, at = min(block, last - first), first * center.size
        for lane in range(0, center.size, STRIP // x.itemsize):
            store_affine_grad(
                x, g, center, scale, shift, slope, level, dx, floor, at + lane, center.size, rows, lane
            )  # fmt: skip
    if p == parts - 1:
        rest, up, out = x[groups * center.size :], g[groups * center.size :], dx[groups * center.size :]
        for j in range(rest.size):
            d = rest[j] - center[j]
            value = up[j]
            if multiply_add(d, scale[j], shift[j]) <= floor:
                value = x.dtype.type(0)
            out[j] = multiply_add(value, scale[j], multiply_add(d, slope[j], level[j]))


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R, F) -> (x - mean) * rstd * weight + bias with each row's own statistics, and these in float64 (R,)."""
    rows, features = x.shape
    y, mean, rstd = empty(x.shape, x.dtype), empty((rows,), np.float64), empty((rows,), np.float64)
    scale, shift = _vector(weight, 1, features, x.dtype), _vector(bias, 0, features, x.dtype)
    launch(_layer_norm, contiguous(x), scale, shift, eps, y, mean, rstd, work=4 * x.size)
    return y, mean, rstd


def _vector(values: np.ndarray | None, default: int, size: int, dtype: np.dtype) -> np.ndarray:
    return np.full(size, default, dtype) if values is None else contiguous(values)


@jit(parts=True)
def _layer_norm(x, weight, bias, eps, y, mean, rstd, p, parts):
    rows, features = x.shape
    for i in range(p * rows // parts, (p + 1) * rows // parts):
        row, out = x[i], y[i]
        center = np.float64(row[0])
        a, b, c, d = 0.0, 0.0, 0.0, 0.0  # four chains of additions at once
        aa, bb, cc, dd = 0.0, 0.0, 0.0, 0.0
        for j in range(0, features - 3, 4):
            v0, v1 = np.float64(row[j]) - center, np.float64(row[j + 1]) - center
            v2, v3 = np.float64(row[j + 2]) - center, np.float64(row[j + 3]) - center
            a, b, c, d = a + v0, b + v1, c + v2, d + v3
            aa, bb, cc, dd = aa + v0 * v0, bb + v1 * v1, cc + v2 * v2, dd + v3 * v3
        for j in range(features - features % 4, features):
            v0 = np.float64(row[j]) - center
            a, aa = a + v0, aa + v0 * v0
        offset = ((a + b) + (c + d)) / features
        variance = ((aa + bb) + (cc + dd)) / features - offset * offset
        mean[i] = center + offset
        rstd[i] = 1 / math.sqrt(variance + eps)
        shift, scale = x.dtype.type(mean[i]), x.dtype.type(rstd[i])
        for j in range(features):
            out[j] = (row[j] - shift) * scale * weight[j] + bias[j]


def layer_norm_grad(
    g: np.ndarray, x: np.ndarray, mean: np.ndarray, rstd: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of layer_norm with respect to x (R, F), weight (F,) and bias (F,)."""
    dx = empty(x.shape, x.dtype)
    features = x.shape[1]
    partial = empty((max(1, min(MAX_SHARDS, x.size // SHARD)), 2, features), np.float64)
    scale = _vector(weight, 1, features, x.dtype)
    launch(_layer_norm_grad, contiguous(g), contiguous(x), mean, rstd, scale, dx, partial, work=6 * x.size)
    dweight, dbias = np.add.reduce(partial, axis=0).astype(x.dtype)
    return dx, dweight, dbias


@jit(parts=True)
def _layer_norm_grad(g, x, mean, rstd, weight, dx, partial, p, parts):
    rows, features = x.shape
    shards = len(partial)
    for shard in range(p * shards // parts, (p + 1) * shards // parts):
        dweight, dbias = partial[shard, 0], partial[shard, 1]
        for j in range(features):
            dweight[j] = 0.0
            dbias[j] = 0.0
        for i in range(shard * rows // shards, (shard + 1) * rows // shards):
            row, up, out, m, r = x[i], g[i], dx[i], mean[i], rstd[i]
            for j in range(features):
                dbias[j] += np.float64(up[j])
                dweight[j] += np.float64(up[j]) * ((np.float64(row[j]) - m) * r)
            a, b, c, d = 0.0, 0.0, 0.0, 0.0  # two chains each for the sums of g w and of g w xhat
            for j in range(0, features - 1, 2):
                v0 = np.float64(up[j]) * np.float64(weight[j])
                v1 = np.float64(up[j + 1]) * np.float64(weight[j + 1])
                a, b = a + v0, b + v1
                c += v0 * (np.float64(row[j]) - m)
                d += v1 * (np.float64(row[j + 1]) - m)
            if features % 2 == 1:
                v0 = np.float64(up[features - 1]) * np.float64(weight[features - 1])
                a += v0
                c += v0 * (np.float64(row[features - 1]) - m)
            level, slope = (a + b) / features, (c + d) * r * r / features
            for j in range(features):
                v = np.float64(up[j]) * np.float64(weight[j]) - level - (np.float64(row[j]) - m) * slope
                out[j] = r * v
