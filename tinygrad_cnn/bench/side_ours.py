"""What our side of the benchmark runs: a case, a dict of plain values, becomes a function that does its work once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import tinygrad_cnn as tg

from .. import kernels
from ..kernels import cpu
from ..kernels.cpu import contract, simd
from ..kernels.spec import Conv2dSpec
from .nets import NETS, SHAPES, inference, step
from .side_numpy import layer, matrices

Work = Callable[[], Any]


def set_threads(threads: int) -> None:
    tg.set_num_threads(threads)


def train(case: dict[str, Any], mode: str) -> Work:
    return step(tg, *_net(case))


def infer(case: dict[str, Any], mode: str) -> Work:
    model, x, _ = _net(case)
    return inference(tg, model, x)


def _net(case: dict[str, Any]) -> tuple[tg.nn.Module, tg.Tensor, tg.Tensor]:
    tg.manual_seed(0)
    rng = np.random.default_rng(0)
    model = NETS[case["net"]](tg.nn)
    x = tg.from_numpy(rng.standard_normal((case["batch"], *SHAPES[case["net"]]), np.float32))
    return model, x, tg.from_numpy(rng.integers(0, 10, case["batch"]))


def release() -> None:
    """Give unused buffers back to the system."""
    cpu.memory.pool.trim()


def conv(case: dict[str, Any], mode: str) -> Work:
    """One pass of a convolution, on channels-last arrays."""
    n, c, h, o, k, groups = (case[key] for key in ("n", "c", "h", "o", "k", "groups"))
    rng = np.random.default_rng(0)
    spec = Conv2dSpec((case["stride"],) * 2, (case["padding"],) * 4, (case["dilation"],) * 2, groups)
    p, q = spec.output_hw((h, h), (k, k))
    x, w, g = map(cpu.memory.empty, ((n, h, h, c), (k, k, c // groups, o), (n, p, q, o)), (np.float32,) * 3)
    for array in (x, w, g):  # as ops make them, from the beginning of a cache line on
        rng.standard_normal(dtype=np.float32, out=array)
    x, w, g = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), g.transpose(0, 3, 1, 2)
    bias = np.zeros(o, np.float32)
    passes = {
        "forward": lambda: cpu.conv2d(x, w, bias, spec),
        "input gradient": lambda: cpu.conv2d_input_grad(g, w, (h, h), spec),
        "weight gradient": lambda: cpu.conv2d_weight_grad(x, g, (k, k), spec),
    }
    return passes[case["pass"]]


def matmul(case: dict[str, Any], mode: str) -> Work:
    a, b = matrices(case)
    return lambda: cpu.matmul(a, b)


def linear(case: dict[str, Any], mode: str) -> Work:
    x, w, bias, g = layer(case)
    if case["backward"]:
        return lambda: cpu.linear_grads(g, x, w, (True, True, True))
    return lambda: cpu.linear(x, w, bias)


def fma(case: dict[str, Any], mode: str) -> Work:
    """About `flops` operations: multiply-adds that do not wait for each other, on operands in registers and the first
    cache line. With 0 of them: the cost of a kernel's launch, or of a parallel region if `parallel`.
    """
    threads, vectors, depth = case["threads"], 2, 256
    rows, width = simd.max_rows(vectors), vectors * simd.lanes(np.float32)
    plan = np.zeros(simd.TILE_ARGS, np.int64)
    plan[simd.N1] = 1
    plan[simd.N2] = max(1, case["flops"] // (2 * threads * rows * width * depth))  # a tile's loops run at least once
    plan[simd.N3] = depth if case["flops"] else 1
    zeros, operand = np.zeros(threads * rows * width, np.float32), np.zeros(width, np.float32)
    tile = simd.tile_address(np.float32, simd.OUTER, vectors, rows)
    work = 1e9 if case["parallel"] else 0
    return lambda: kernels.launch(contract.run_tile, tile, plan, operand, zeros, work=work, threads=threads)


def copy(case: dict[str, Any], mode: str) -> Work:
    """Copy `bytes` bytes, too many for the caches, on as many threads."""
    threads = case["threads"]
    source = np.split(np.ones(case["bytes"] // threads * threads, np.uint8), threads)
    target = np.split(np.ones(case["bytes"] // threads * threads, np.uint8), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, target, source))
