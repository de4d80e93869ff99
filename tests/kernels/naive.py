"""Slow, obvious loops: what the kernels and their references must agree with."""

from __future__ import annotations

import numpy as np

from tinygrad_cnn.kernels.spec import Conv2dSpec


def conv2d_terms(x_shape, w_shape, spec: Conv2dSpec):  # type: ignore[no-untyped-def]
    """Every product of a convolution, as index tuples of y, x and w: y[...] += x[...] * w[...]."""
    (n, _, h, w), (o, c_group, kh, kw) = x_shape, w_shape
    p, q = spec.output_hw((h, w), (kh, kw))
    for i, j, y, z, ky, kx, k in np.ndindex(n, o, p, q, kh, kw, c_group):
        row = y * spec.stride[0] - spec.padding[0] + ky * spec.dilation[0]
        column = z * spec.stride[1] - spec.padding[2] + kx * spec.dilation[1]
        if 0 <= row < h and 0 <= column < w:
            channel = j // (o // spec.groups) * c_group + k
            yield (i, j, y, z), (i, channel, row, column), (j, k, ky, kx)


def conv2d(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, spec: Conv2dSpec) -> np.ndarray:
    y = np.zeros((x.shape[0], w.shape[0], *spec.output_hw(x.shape[2:], w.shape[2:])))
    for at_y, at_x, at_w in conv2d_terms(x.shape, w.shape, spec):
        y[at_y] += float(x[at_x]) * float(w[at_w])
    return y if bias is None else y + bias[:, None, None]


def conv2d_input_grad(g: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], spec: Conv2dSpec) -> np.ndarray:
    dx = np.zeros(x_shape)
    for at_y, at_x, at_w in conv2d_terms(x_shape, w.shape, spec):
        dx[at_x] += float(g[at_y]) * float(w[at_w])
    return dx


def conv2d_weight_grad(x: np.ndarray, g: np.ndarray, w_shape: tuple[int, ...], spec: Conv2dSpec) -> np.ndarray:
    dw = np.zeros(w_shape)
    for at_y, at_x, at_w in conv2d_terms(x.shape, w_shape, spec):
        dw[at_w] += float(x[at_x]) * float(g[at_y])
    return dw


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    c = np.zeros((a.shape[0], b.shape[1]))
    for i, j, k in np.ndindex(a.shape[0], b.shape[1], a.shape[1]):
        c[i, j] += float(a[i, k]) * float(b[k, j])
    return c
