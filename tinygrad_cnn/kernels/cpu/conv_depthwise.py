"""Depthwise convolutions of 3 x 3 or 5 x 5 taps with the padding that keeps the size, at a stride of one or two.

Each channel has its own kernel, so there are a hundredth of the products of other convolutions to the same memory: what
counts is to read each line of it once. Arrays are channels-last, and their channels fill vectors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .. import launch
from ..compile import jit
from ..spec import Conv2dSpec
from . import contract, memory, simd
from .matmul import column_sums

if contract.ENABLED:
    from .depthwise_rows import gather_row, spread_row, sum_rows

#: Shares of the weight gradient, each with its own sums.
SHARDS = 8
#: Bytes of rows whose products make one sum, in registers, before it is added to those in memory; while the L1 cache
#: holds them, the next are fetched. At a stride of two, 64 images of 64 x 32 x 32 take 300 us, by four rows a sum 345.
SUM_BYTES = 16 << 10


@lru_cache(4096)
def fits(char: str, c: int, o: int, hw: tuple[int, int], kernel_hw: tuple[int, int], spec: Conv2dSpec) -> bool:
    """Whether these kernels do for images of this size; the sums of a weight gradient are to fit the registers."""
    k = kernel_hw[0]
    return (
        c % simd.lanes(char) == 0
        and k in (3, 5)
        and k * k + k + 2 <= simd.host().registers
        and (kernel_hw[1], o) == (k, c)
        and hw[1] >= k
        and spec.stride in ((1, 1), (2, 2))
        and spec._replace(stride=(1, 1)) == Conv2dSpec(padding=(k // 2,) * 4, groups=c)
    )


def convolve(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, stride: int, relu: bool = False) -> np.ndarray:
    """(N, P, Q, C) from (N, H, W, C), (K, K, 1, C) and (C,), all C-contiguous."""
    (n, *hwc), k = x.shape, w.shape[0]
    y = memory.empty((n, *(-(-size // stride) for size in hwc[:2]), hwc[2]), x.dtype)
    w, zeros = contract.flat(w), memory.zeros((hwc[1] * hwc[2],), x.dtype)
    biases = zeros if bias is None else memory.contiguous(bias)
    launch(
        _gather, contract.flat(x), tuple(hwc), simd.lanes(x.dtype), zeros, w, biases, int(bias is not None), int(relu),
        y.reshape(-1), n, (0,) * k, (0,) * stride, work=y.size * k * k,
    )  # fmt: skip
    return y


@jit(parts=True)
def _gather(x, shape, lanes, zeros, w, bias, biased, relu, y, n, size, stride, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the output rows of all images."""
    h, w_in, c = shape
    p, q = -(-h // len(stride)), -(-w_in // len(stride))
    for row in range(n * p * part // parts, n * p * (part + 1) // parts):
        at, to = row // p * h * w_in * c, row * q * c
        for channel in range(0, c, lanes):
            gather_row(x, at, shape, zeros, w, bias, biased, relu, y, to, row % p, channel, size, stride)


def input_grad(g: np.ndarray, w: np.ndarray, hw: tuple[int, int], stride: int) -> np.ndarray:
    """(N, H, W, C) from (N, P, Q, C) and (K, K, 1, C), all C-contiguous."""
    if stride == 1:
        return convolve(g, np.ascontiguousarray(w[::-1, ::-1]), None, 1)
    (n, _, q, c), k = g.shape, w.shape[0]
    x, zeros = memory.empty((n, *hw, c), g.dtype), memory.zeros((q * c,), g.dtype)
    launch(
        _spread, contract.flat(g), (*hw, c), simd.lanes(g.dtype), zeros, contract.flat(w), x.reshape(-1), n,
        (0,) * k, (0,) * stride, work=g.size * k * k,
    )  # fmt: skip
    return x


@jit(parts=True)
def _spread(g, shape, lanes, zeros, w, x, n, size, stride, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the input rows of all images."""
    h, w_in, c = shape
    p, q = -(-h // len(stride)), -(-w_in // len(stride))
    for row in range(n * h * part // parts, n * h * (part + 1) // parts):
        for channel in range(0, c, lanes):
            at, to = row // h * p * q * c, row * w_in * c
            spread_row(g, at, shape, zeros, w, x, to, row % h, channel, size, stride)


def weight_grad(x: np.ndarray, g: np.ndarray, k: int, stride: int) -> np.ndarray:
    """(K, K, 1, C) from (N, H, W, C) and (N, P, Q, C), all C-contiguous."""
    (n, *hwc), (_, p, q, c) = x.shape, g.shape
    bands = -(-p // max(1, SUM_BYTES // ((stride * hwc[1] + q) * c * x.itemsize)))
    sums = memory.zeros((min(SHARDS, n * bands), k * k * c), x.dtype)
    zeros = memory.zeros((hwc[1] * c,), x.dtype)
    launch(
        _sum, contract.flat(x), tuple(hwc), simd.lanes(x.dtype), zeros, contract.flat(g), sums.reshape(-1), len(sums),
        n, bands, (0,) * k, (0,) * stride, work=g.size * k * k,
    )  # fmt: skip
    return column_sums(sums).reshape(k, k, 1, c)


@jit(parts=True)
def _sum(x, shape, lanes, zeros, g, sums, shards, n, bands, size, stride, part, parts):  # type: ignore[no-untyped-def]
    """This part's share of the shards, each the sum over its share of the bands of rows of all images."""
    h, w_in, c = shape
    p, q = -(-h // len(stride)), -(-w_in // len(stride))
    for shard in range(shards * part // parts, shards * (part + 1) // parts):
        to = sums.size // shards * shard
        for block in range(n * bands * shard // shards, n * bands * (shard + 1) // shards):
            image, band = block // bands, block % bands
            top, bottom = p * band // bands, p * (band + 1) // bands
            at, at_g = image * h * w_in * c, image * p * q * c
            for channel in range(0, c, lanes):
                sum_rows(x, at, shape, zeros, g, at_g, sums, to, top, bottom - top, channel, size, stride)
