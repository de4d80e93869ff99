"""Batch norm and layer norm: one pass for the sums, one for the result, forward and backward.

Shapes in memory: M samples (images times pixels) x C channels, or R rows x F features. Sums are accumulated in float64
lanes over shards fixed by the size; a lane is one channel of one of the rows that fit into LANES.
"""

from __future__ import annotations

import math

import numpy as np

from .. import launch
from ..compile import jit
from .memory import CHANNELS_FIRST, CHANNELS_LAST, contiguous, empty
from .reduce import LANES, MAX_SHARDS, SHARD


def batch_norm_train(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, C, ...) -> (x - mean) * rstd * weight + bias, and the float64 mean and 1 / sqrt(variance + eps) (C,).

    The variance is the biased one: rstd ** -2 - eps.
    """
    base = _samples(x)
    samples, channels = x.size // x.shape[1], x.shape[1]
    center = base.reshape(-1)[:channels].astype(np.float64)  # any value near the mean keeps the squares small
    total, squares = _pair_sums(base, base, center, samples, True)
    offset = total / samples
    mean = center + offset
    rstd = 1 / np.sqrt(squares / samples - offset * offset + eps)
    scale = rstd if weight is None else rstd * weight
    return _affine(x, base, mean, scale, 0.0 if bias is None else bias), mean, rstd


def batch_norm_train_grad(
    g: np.ndarray, x: np.ndarray, mean: np.ndarray, rstd: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of batch_norm_train with respect to x (N, C, ...), weight (C,) and bias (C,)."""
    up, base = _samples(g), _samples(x)
    samples = x.size // x.shape[1]
    total, product = _pair_sums(up, base, mean, samples, False)
    scale = rstd if weight is None else rstd * weight
    slope = -scale * rstd * rstd * product / samples
    dx = empty(base.shape, x.dtype)
    lanes = [_to_lanes(v, x.dtype, samples) for v in (scale, slope, mean, -scale * total / samples)]
    launch(_affine_of_two, up.reshape(-1), base.reshape(-1), *lanes, dx.reshape(-1), work=2 * x.size)
    return _like(dx, x), (product * rstd).astype(x.dtype), total.astype(x.dtype)


def channel_affine(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(N, C, ...) * scale (C,) + shift (C,): batch norm with fixed statistics."""
    return _affine(x, _samples(x), np.zeros(len(scale)), scale, shift)


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


def _rows_in_lanes(samples: int, channels: int) -> int:
    return max(1, min(samples, LANES // channels))


def _to_lanes(values: np.ndarray, dtype: np.dtype, samples: int) -> np.ndarray:
    """(C,) -> (rows * C,): repeated for each of the samples that a vector loop takes at once."""
    rows = _rows_in_lanes(samples, len(values))
    lanes = np.empty((rows, len(values)), dtype)
    lanes[:] = values
    return lanes.reshape(-1)


def _affine(
    x: np.ndarray, base: np.ndarray, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray | float
) -> np.ndarray:
    y = empty(base.shape, x.dtype)
    samples = x.size // len(mean)
    lanes = [_to_lanes(v, x.dtype, samples) for v in (mean, scale, np.broadcast_to(shift, mean.shape))]
    launch(_affine_of_one, base.reshape(-1), *lanes, y.reshape(-1), work=x.size)
    return _like(y, x)


def _pair_sums(
    g: np.ndarray, x: np.ndarray, center: np.ndarray, samples: int, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, in float64: sum(g) and sum(g * (x - center)); with `same`, x - center takes the place of g."""
    channels = len(center)
    lanes = _to_lanes(center, center.dtype, samples)
    shards = max(1, min(MAX_SHARDS, x.size // SHARD))
    partial = empty((shards, 2, lanes.size), np.float64)
    launch(_pair_sums_kernel, g.reshape(-1), x.reshape(-1), lanes, same, partial, work=2 * x.size)
    first, second = np.add.reduce(partial.reshape(shards, 2, -1, channels), axis=(0, 2))
    return first, second


@jit(parts=True)
def _pair_sums_kernel(g, x, center, same, partial, p, parts):
    shards, lanes = len(partial), center.size
    groups = x.size // lanes
    for shard in range(p * shards // parts, (p + 1) * shards // parts):
        first, second = partial[shard, 0], partial[shard, 1]
        for j in range(lanes):
            first[j] = 0.0
            second[j] = 0.0
        last = (shard + 1) * groups // shards
        for i in range(shard * groups // shards, last + (1 if shard == shards - 1 else 0)):
            row, up = x[i * lanes : (i + 1) * lanes], g[i * lanes : (i + 1) * lanes]  # the last may be short
            if same:
                for j in range(row.size):
                    d = np.float64(row[j]) - center[j]
                    first[j] += d
                    second[j] += d * d
            else:
                for j in range(row.size):
                    first[j] += np.float64(up[j])
                    second[j] += np.float64(up[j]) * (np.float64(row[j]) - center[j])


@jit(parts=True)
def _affine_of_one(x, center, scale, shift, y, p, parts):
    """(x - center) * scale + shift, lane by lane."""
    lanes = center.size
    groups = (x.size + lanes - 1) // lanes
    for i in range(p * groups // parts, (p + 1) * groups // parts):
        row, out = x[i * lanes : (i + 1) * lanes], y[i * lanes : (i + 1) * lanes]
        for j in range(row.size):
            out[j] = (row[j] - center[j]) * scale[j] + shift[j]


@jit(parts=True)
def _affine_of_two(g, x, scale, slope, center, shift, y, p, parts):
    """g * scale + (x - center) * slope + shift, lane by lane."""
    lanes = center.size
    groups = (x.size + lanes - 1) // lanes
    for i in range(p * groups // parts, (p + 1) * groups // parts):
        row, up = x[i * lanes : (i + 1) * lanes], g[i * lanes : (i + 1) * lanes]
        out = y[i * lanes : (i + 1) * lanes]
        for j in range(row.size):
            out[j] = up[j] * scale[j] + (row[j] - center[j]) * slope[j] + shift[j]


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
