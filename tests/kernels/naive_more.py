"""Slow, obvious versions in float64 of pooling, normalisation, cross-entropy and the optimizers; memory layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from tinygrad_cnn import kernels

LAYOUTS = ("C", "channels_last", "reversed", "strided", "transposed", "read_only")


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values in other memory."""
    if layout == "channels_last" and x.ndim >= 3:
        return np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, x.ndim - 1, *range(1, x.ndim - 1))
    if layout == "reversed" and x.ndim:
        return np.ascontiguousarray(x[::-1])[::-1]
    if layout == "strided" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "transposed":
        return np.ascontiguousarray(x.T).T
    x = np.ascontiguousarray(x)
    x.flags.writeable = layout != "read_only"
    return x


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Run every kernel in n parts, however small its work is."""
    before = kernels.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PARALLEL_WORK", 0)
        kernels.set_num_threads(n)
        try:
            yield
        finally:
            kernels.set_num_threads(before)


def same_bits_on_any_threads(compute) -> None:  # type: ignore[no-untyped-def]
    """compute() returns arrays; they must have the same bits in 1, 2, 3 and 4 parts."""
    results = []
    for n in (1, 2, 3, 4):
        with threads(n):
            results.append([np.asarray(a).tobytes() for a in compute()])
    assert all(r == results[0] for r in results[1:])


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in units of the last place of the correctly rounded result."""
    rounded = exact.astype(got.dtype)
    smallest = np.finfo(got.dtype).tiny
    unit = np.spacing(np.maximum(np.abs(rounded), smallest)).astype(np.float64)
    return float(np.max(np.abs(got.astype(np.float64) - exact) / unit, initial=0))


def cells(at: int, taps: int, stride: int, padding: int, dilation: int, size: int) -> list[tuple[int, int]]:
    """(tap, cell) of a window along one axis, without those in the padding."""
    places = [(i, at * stride - padding + i * dilation) for i in range(taps)]
    return [(i, place) for i, place in places if 0 <= place < size]


def max_pool2d(x, kernel, stride, padding, dilation, out_hw):  # type: ignore[no-untyped-def]
    y = np.full((*x.shape[:2], *out_hw), -np.inf)
    index = np.zeros(y.shape, int)
    for n, c, p, q in np.ndindex(y.shape):
        rows = cells(p, kernel[0], stride[0], padding[0], dilation[0], x.shape[2])
        columns = cells(q, kernel[1], stride[1], padding[1], dilation[1], x.shape[3])
        window = [(x[n, c, u, v], i * kernel[1] + j) for i, u in rows for j, v in columns]
        for k, (value, tap) in enumerate(window):
            best = y[n, c, p, q]
            if k == 0 or (not np.isnan(best) and (np.isnan(value) or value > best)):
                y[n, c, p, q], index[n, c, p, q] = value, tap
    return y, index


def max_pool2d_terms(g_shape, index, hw, kernel, stride, padding, dilation):  # type: ignore[no-untyped-def]
    """(output, input) pairs of indices: which cell won which window."""
    for n, c, p, q in np.ndindex(g_shape):
        i, j = divmod(int(index[n, c, p, q]), kernel[1])
        u = p * stride[0] - padding[0] + i * dilation[0]
        v = q * stride[1] - padding[1] + j * dilation[1]
        if 0 <= u < hw[0] and 0 <= v < hw[1]:
            yield (n, c, p, q), (n, c, u, v)


def avg_pool2d(x, kernel, stride, padding, out_hw, include_pad, divisor):  # type: ignore[no-untyped-def]
    y = np.zeros((*x.shape[:2], *out_hw))
    h, w = x.shape[2:]
    for p, q in np.ndindex(*out_hw):
        top, left = p * stride[0] - padding[0], q * stride[1] - padding[1]
        bottom, right = min(top + kernel[0], h + padding[0]), min(left + kernel[1], w + padding[1])
        window = x[:, :, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)].astype(float)
        size = (bottom - top) * (right - left) if include_pad else window[0, 0].size
        y[:, :, p, q] = window.sum((2, 3)) / (divisor or max(size, 1))
    return y


def adaptive_avg_pool2d(x, out_hw):  # type: ignore[no-untyped-def]
    y = np.zeros((*x.shape[:2], *out_hw))
    h, w = x.shape[2:]
    for p, q in np.ndindex(*out_hw):
        rows = slice(p * h // out_hw[0], -(-(p + 1) * h // out_hw[0]))
        columns = slice(q * w // out_hw[1], -(-(q + 1) * w // out_hw[1]))
        y[:, :, p, q] = x[:, :, rows, columns].astype(float).mean((2, 3))
    return y


def normalise(x, g, weight, bias, eps, axes, parameters):  # type: ignore[no-untyped-def]
    """y, mean, rstd, dx, dweight, dbias over `axes`; weight and bias are broadcast, their gradients summed."""
    x, g = x.astype(float), g.astype(float)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * rstd
    gw = g * weight
    dx = rstd * (gw - gw.mean(axes, keepdims=True) - xhat * (gw * xhat).mean(axes, keepdims=True))
    return xhat * weight + bias, mean.ravel(), rstd.ravel(), dx, (g * xhat).sum(parameters), g.sum(parameters)


def cross_entropy(x, labels, weight, ignore, smoothing):  # type: ignore[no-untyped-def]
    """Losses, row weights, and d losses[r] / d x[r], by the definition."""
    x = x.astype(float)
    loss, row_weight, grad = np.zeros(len(x)), np.zeros(len(x)), np.zeros(x.shape)
    for r, label in enumerate(labels):
        if label == ignore:
            continue
        target = smoothing / x.shape[1] * weight
        target[label] += (1 - smoothing) * weight[label]
        log_p = x[r] - x[r].max()
        log_p = log_p - np.log(np.exp(log_p).sum())
        loss[r], row_weight[r] = -(target * log_p).sum(), weight[label]
        grad[r] = target.sum() * np.exp(log_p) - target
    return loss, row_weight, grad


def sgd(p, g, buffer, first, lr, momentum, dampening, weight_decay, nesterov, maximize):  # type: ignore[no-untyped-def]
    """The update of torch.optim.SGD: the new parameter and momentum buffer."""
    d = (-g if maximize else g) + weight_decay * p
    if momentum:
        buffer = d if first else momentum * buffer + (1 - dampening) * d
        d = d + momentum * buffer if nesterov else buffer
    return p - lr * d, buffer


def adam(p, g, m, v, top, step, lr, betas, eps, weight_decay, decoupled, amsgrad, maximize):  # type: ignore[no-untyped-def]
    """The update of torch.optim.Adam and AdamW: the new parameter and state."""
    g = -g if maximize else g
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    top = np.maximum(top, v)
    denominator = np.sqrt((top if amsgrad else v) / (1 - betas[1] ** step)) + eps
    return p - lr / (1 - betas[0] ** step) * m / denominator, m, v, top
