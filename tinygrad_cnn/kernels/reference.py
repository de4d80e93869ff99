"""The readable NumPy versions of the kernels: the oracle of the tests, and what runs under NUMBA_DISABLE_JIT=1.

Shapes: N images, C channels, H x W pixels, O output channels, K x L kernel, G groups; P x Q output pixels.
"""

from __future__ import annotations

import numpy as np

from .spec import Conv2dSpec


def conv2d(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, spec: Conv2dSpec) -> np.ndarray:
    """(N, C, H, W) * (O, C/G, K, L) -> (N, O, P, Q)."""
    windows = _windows(_pad(x, spec), w.shape[2:], spec)  # (N, C, P, Q, K, L)
    n, c, p, q, k, l = windows.shape
    g = spec.groups
    windows = windows.reshape(n, g, c // g, p, q, k, l)
    o = w.shape[0]
    w = w.reshape(g, o // g, c // g, k, l)
    y = np.einsum("ngcpqkl,gockl->ngopq", windows, w, optimize=True).reshape(n, o, p, q)
    return y if bias is None else y + bias[:, None, None]


def conv2d_input_grad(g: np.ndarray, w: np.ndarray, input_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, O, P, Q), (O, C/G, K, L) -> (N, C, H, W): each output pixel's gradient goes back to its window."""
    n, o, p, q = g.shape
    _, c, k, l = w.shape
    groups = spec.groups
    parts = np.einsum(
        "ngopq,gockl->ngcpqkl",
        g.reshape(n, groups, o // groups, p, q),
        w.reshape(groups, o // groups, c, k, l),
        optimize=True,
    ).reshape(n, groups * c, p, q, k, l)
    top, bottom, left, right = spec.padding
    x = np.zeros((n, groups * c, input_hw[0] + top + bottom, input_hw[1] + left + right), g.dtype)
    for i in range(k):
        for j in range(l):
            y0, x0 = i * spec.dilation[0], j * spec.dilation[1]
            x[
                :,
                :,
                y0 : y0 + p * spec.stride[0] : spec.stride[0],
                x0 : x0 + q * spec.stride[1] : spec.stride[1],
            ][:, :, :p, :q] += parts[..., i, j]
    return x[:, :, top : top + input_hw[0], left : left + input_hw[1]]


def conv2d_weight_grad(x: np.ndarray, g: np.ndarray, kernel_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, K, L): every window times the gradient of its output pixel."""
    windows = _windows(_pad(x, spec), kernel_hw, spec)
    n, c, p, q, k, l = windows.shape
    groups = spec.groups
    windows = windows.reshape(n, groups, c // groups, p, q, k, l)
    o = g.shape[1]
    g = g.reshape(n, groups, o // groups, p, q)
    w = np.einsum("ngcpqkl,ngopq->gockl", windows, g, optimize=True)
    return w.reshape(o, c // groups, k, l)


def conv2d_bias_grad(g: np.ndarray) -> np.ndarray:
    """(N, O, P, Q) -> (O,)."""
    return g.sum(axis=(0, 2, 3), dtype=np.float64).astype(g.dtype)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, K) @ (K, N), or batches of them."""
    return np.matmul(a, b)


def linear(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(B, I), (O, I), (O,) -> (B, O)."""
    y = np.matmul(x, w.T)
    return y if bias is None else y + bias


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0); NaN stays NaN."""
    return np.where(x <= 0, x.dtype.type(0), x)


def _pad(x: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    top, bottom, left, right = spec.padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _windows(x: np.ndarray, kernel_hw: tuple[int, int], spec: Conv2dSpec) -> np.ndarray:
    """(N, C, H, W) -> (N, C, P, Q, K, L), a view; x is padded already."""
    spec._replace(padding=(0, 0, 0, 0)).output_hw(x.shape[2:], kernel_hw)  # or an error with the numbers
    span = tuple(d * (k - 1) + 1 for d, k in zip(spec.dilation, kernel_hw, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return windows[:, :, :: spec.stride[0], :: spec.stride[1], :: spec.dilation[0], :: spec.dilation[1]]
