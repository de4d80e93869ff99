"""Slow, obvious loops: what layers and losses must agree with. All in float64, one number at a time.

Convolution itself has its loops in `tests/kernels/naive.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

Pair = tuple[int, int]


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> np.ndarray:
    """Every input pixel adds its own multiple of the kernel to the output, which is cropped at the end."""
    (n, c, h, width), (_, o, kh, kw) = x.shape, w.shape
    rows = (h - 1) * stride[0] + dilation[0] * (kh - 1) + 1 + output_padding[0]
    columns = (width - 1) * stride[1] + dilation[1] * (kw - 1) + 1 + output_padding[1]
    y = np.zeros((n, o * groups, rows, columns))
    for image, channel, i, j, out, k, m in np.ndindex(n, c, h, width, o, kh, kw):
        group = channel // (c // groups)
        at = i * stride[0] + k * dilation[0], j * stride[1] + m * dilation[1]
        y[image, group * o + out, at[0], at[1]] += x[image, channel, i, j] * w[channel, out, k, m]
    return y[:, :, padding[0] : rows - padding[0], padding[1] : columns - padding[1]]


def max_pool2d(
    x: np.ndarray, out_hw: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[np.ndarray, np.ndarray]:
    """The largest cell of each window, NaN above all and the first of equals, and its place row * W + column."""
    n, c, h, w = x.shape
    y = np.full((n, c, *out_hw), -np.inf)
    index = np.zeros(y.shape, np.int64)
    for at in np.ndindex(*y.shape):
        found = False
        for i, j in np.ndindex(*kernel):
            row = at[2] * stride[0] - padding[0] + i * dilation[0]
            column = at[3] * stride[1] - padding[1] + j * dilation[1]
            if not (0 <= row < h and 0 <= column < w):
                continue
            v = x[at[0], at[1], row, column]
            if not found or v > y[at] or (np.isnan(v) and not np.isnan(y[at])):
                found, y[at], index[at] = True, v, row * w + column
    return y, index


def avg_pool2d(
    x: np.ndarray,
    out_hw: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
) -> np.ndarray:
    """The sum of each window's cells, divided by how many cells count: those of the image or of its padding."""
    n, c, h, w = x.shape
    y = np.zeros((n, c, *out_hw))
    for at in np.ndindex(*y.shape):
        inside = counted = 0
        for i, j in np.ndindex(*kernel):
            row, column = at[2] * stride[0] - padding[0] + i, at[3] * stride[1] - padding[1] + j
            if row < h + padding[0] and column < w + padding[1]:
                counted += 1
            if 0 <= row < h and 0 <= column < w:
                inside += 1
                y[at] += x[at[0], at[1], row, column]
        y[at] /= divisor_override or (counted if count_include_pad else inside)
    return y


def adaptive_avg_pool2d(x: np.ndarray, out_hw: Pair) -> np.ndarray:
    n, c, h, w = x.shape
    y = np.zeros((n, c, *out_hw))
    for i, j in np.ndindex(*out_hw):
        rows = slice(math.floor(i * h / out_hw[0]), math.ceil((i + 1) * h / out_hw[0]))
        columns = slice(math.floor(j * w / out_hw[1]), math.ceil((j + 1) * w / out_hw[1]))
        y[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return y


def normalised(values: np.ndarray, eps: float) -> np.ndarray:
    """Values centred and scaled to unit variance."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return np.array([(v - mean) / math.sqrt(variance + eps) for v in values])


def batch_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        y[:, c] = normalised(x[:, c].ravel(), eps).reshape(y[:, c].shape) * weight[c] + bias[c]
    return y


def layer_norm(x: np.ndarray, dims: int, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Over the last `dims` dimensions."""
    y = np.empty(x.shape)
    for at in np.ndindex(*x.shape[: x.ndim - dims]):
        y[at] = normalised(x[at].ravel(), eps).reshape(weight.shape) * weight + bias
    return y


def class_items(x: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Of (N, C, d1, ...): the place (n, d1, ...) and the C numbers of each item."""
    moved = np.moveaxis(x, 1, -1)
    for at in np.ndindex(*moved.shape[:-1]):
        yield at, moved[at]


def cross_entropy(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, ignore_index: int, label_smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each item, and its weight in the mean."""
    losses, weights = np.zeros(labels.shape), np.zeros(labels.shape)
    for at, item in class_items(logits):
        if labels[at] == ignore_index:
            continue
        log_p = [v - max(item) - math.log(sum(math.exp(u - max(item)) for u in item)) for v in item]
        smooth = -sum(w * v for w, v in zip(weight, log_p, strict=True)) / len(item)
        own = -weight[labels[at]] * log_p[labels[at]]
        losses[at] = (1 - label_smoothing) * own + label_smoothing * smooth
        weights[at] = weight[labels[at]]
    return losses, weights
