"""Softmax over the last axis of a matrix, and the cross-entropy that is fused with it.

Shapes: R rows, C classes.
"""

from __future__ import annotations

import math

import numpy as np

from .. import launch
from ..compile import inner, jit
from .memory import contiguous, empty
from .vector_math import exp_of_negative

EXP_WORK = 8  # an exponential costs about as much as 8 multiply-adds


def softmax(x: np.ndarray) -> np.ndarray:
    """(R, C) -> e ** x, each row divided by its sum."""
    return _forward(x, False)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """(R, C) -> x - log(sum(e ** x)), row by row, without overflow."""
    return _forward(x, True)


def _forward(x: np.ndarray, logarithm: bool) -> np.ndarray:
    y = empty(x.shape, x.dtype)
    launch(_softmax, contiguous(x), y, logarithm, work=EXP_WORK * x.size)
    return y


@jit(parts=True)
def _softmax(x, y, logarithm, p, parts):
    rows, classes = x.shape
    for row in range(p * rows // parts, (p + 1) * rows // parts):
        logits, out = x[row], y[row]
        highest = _highest(logits)
        for k in range(classes):
            out[k] = exp_of_negative(np.float64(logits[k]) - highest)
        total = _sum(out)
        if logarithm:
            shift = highest + math.log(total)
            for k in range(classes):
                out[k] = np.float64(logits[k]) - shift
        else:
            scale = 1 / total
            for k in range(classes):
                out[k] = np.float64(out[k]) * scale


@inner
def _highest(logits):
    """The maximum in float64, NaN aside: it comes back with the exponentials. Four at once, as in _sum."""
    lowest = logits.dtype.type(-np.inf)
    h0, h1, h2, h3 = lowest, lowest, lowest, lowest
    whole = logits.size // 4 * 4
    for k in range(0, whole, 4):
        v0, v1, v2, v3 = logits[k], logits[k + 1], logits[k + 2], logits[k + 3]
        h0, h1 = v0 if v0 > h0 else h0, v1 if v1 > h1 else h1
        h2, h3 = v2 if v2 > h2 else h2, v3 if v3 > h3 else h3
    for k in range(whole, logits.size):
        h0 = logits[k] if logits[k] > h0 else h0
    return np.float64(max(h0, h1, h2, h3))


@inner
def _sum(x):
    """The sum in float64, in four parts that need not wait for each other: 1000 x 1000 softmax 2.5 -> 1.1 ms."""
    s0 = s1 = s2 = s3 = 0.0
    whole = x.size // 4 * 4
    for k in range(0, whole, 4):
        s0 += np.float64(x[k])
        s1 += np.float64(x[k + 1])
        s2 += np.float64(x[k + 2])
        s3 += np.float64(x[k + 3])
    for k in range(whole, x.size):
        s0 += np.float64(x[k])
    return s0 + s1 + (s2 + s3)


def softmax_grad(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y * (g - sum(g * y)), row by row, from softmax's output y."""
    return _backward(g, y, False)


def log_softmax_grad(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """g - e ** y * sum(g), row by row, from log_softmax's output y."""
    return _backward(g, y, True)


def _backward(g: np.ndarray, y: np.ndarray, logarithm: bool) -> np.ndarray:
    dx = empty(y.shape, y.dtype)
    launch(_softmax_grad, contiguous(g), contiguous(y), dx, logarithm, work=EXP_WORK * y.size)
    return dx


@jit(parts=True)
def _softmax_grad(g, y, dx, logarithm, p, parts):
    rows, classes = y.shape
    for row in range(p * rows // parts, (p + 1) * rows // parts):
        up, out, down = g[row], y[row], dx[row]
        total = 0.0
        for k in range(classes):
            total += np.float64(up[k]) * (1.0 if logarithm else np.float64(out[k]))
        if logarithm:
            for k in range(classes):
                down[k] = np.float64(up[k]) - exp_of_negative(np.float64(out[k])) * total
        else:
            for k in range(classes):
                down[k] = np.float64(out[k]) * (np.float64(up[k]) - total)


def cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The losses of the rows (R,), their weights (R,), and log(sum(e ** logits)) in float64 (R,) for the gradient.

    Logits are (R, C), labels (R,) int64 in [0, C) or ignore_index, class weights (C,). A mean is the sum of the losses
    divided by the sum of the weights; an ignored row has neither.
    """
    rows = len(logits)
    loss, row_weight, lse = empty((rows,), logits.dtype), empty((rows,), logits.dtype), empty((rows,), np.float64)
    arguments = contiguous(logits), contiguous(labels), _weights(weight, logits), ignore_index, label_smoothing
    launch(_cross_entropy, *arguments, loss, row_weight, lse, work=EXP_WORK * logits.size)
    return loss, row_weight, lse


def totals(loss: np.ndarray, row_weight: np.ndarray) -> tuple[float, float]:
    """The sums of the losses and of the weights, in float64."""
    return _totals(loss, row_weight)  # type: ignore[no-any-return]


@jit
def _totals(loss, row_weight):
    total = weight = 0.0
    for row in range(loss.size):
        total += np.float64(loss[row])
        weight += np.float64(row_weight[row])
    return total, weight


def _weights(weight: np.ndarray | None, logits: np.ndarray) -> np.ndarray:
    """The class weights for a kernel: none at all is an empty array."""
    return np.empty(0, logits.dtype) if weight is None else contiguous(weight)


@jit(parts=True)
def _cross_entropy(logits, labels, weight, ignore, smoothing, loss, row_weight, lse, p, parts):
    rows, classes = logits.shape
    for row in range(p * rows // parts, (p + 1) * rows // parts):
        x, label = logits[row], labels[row]
        highest = _highest(x)
        total = 0.0
        for k in range(classes):
            total += exp_of_negative(np.float64(x[k]) - highest)
        shift = highest + math.log(total)
        lse[row] = shift
        if label == ignore:
            loss[row] = 0
            row_weight[row] = 0
            continue
        own = np.float64(weight[label]) if weight.size > 0 else 1.0
        row_weight[row] = own
        nll = own * (shift - np.float64(x[label]))
        if smoothing > 0:
            others = 0.0
            for k in range(classes):
                scale = np.float64(weight[k]) if weight.size > 0 else 1.0
                others += scale * (shift - np.float64(x[k]))
            nll = (1 - smoothing) * nll + smoothing / classes * others
        loss[row] = nll


def cross_entropy_grad(
    g: np.ndarray,
    logits: np.ndarray,
    lse: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> np.ndarray:
    """The gradient of sum(g * loss) with respect to the logits (R, C), for g (R,) and the forward's arguments."""
    dx = empty(logits.shape, logits.dtype)
    arguments = contiguous(labels), _weights(weight, logits), ignore_index, label_smoothing
    launch(_cross_entropy_grad, contiguous(g), contiguous(logits), lse, *arguments, dx, work=EXP_WORK * logits.size)
    return dx


@jit(parts=True)
def _cross_entropy_grad(g, logits, lse, labels, weight, ignore, smoothing, dx, p, parts):
    rows, classes = logits.shape
    every = 0.0  # the sum of the class weights, of which each class has its share under smoothing
    for k in range(classes):
        every += np.float64(weight[k]) if weight.size > 0 else 1.0
    for row in range(p * rows // parts, (p + 1) * rows // parts):
        x, label, out, up = logits[row], labels[row], dx[row], np.float64(g[row])
        if label == ignore:
            for k in range(classes):
                out[k] = 0
            continue
        own = (1 - smoothing) * (np.float64(weight[label]) if weight.size > 0 else 1.0)
        share = smoothing / classes
        scale = up * (own + share * every)
        for k in range(classes):
            out[k] = scale * exp_of_negative(np.float64(x[k]) - lse[row])
        if smoothing > 0:
            for k in range(classes):
                out[k] -= up * share * (np.float64(weight[k]) if weight.size > 0 else 1.0)
            own += share * (np.float64(weight[label]) if weight.size > 0 else 1.0)
        # of a label that is nearly certain little is left: in float64, as rounding the first term would show
        out[label] = scale * exp_of_negative(np.float64(x[label]) - lse[row]) - up * own


def label_range(labels: np.ndarray, ignore_index: int) -> tuple[int, int]:
    """The lowest and the highest label other than ignore_index; (0, -1) if there is none."""
    return _label_range(contiguous(labels), ignore_index)


@jit
def _label_range(labels, ignore):
    lowest, highest = np.int64(0), np.int64(-1)
    first = True
    for label in labels:
        if label != ignore:
            lowest = label if first else min(lowest, label)
            highest = label if first else max(highest, label)
            first = False
    return lowest, highest
