"""GFLOP/s of the contraction kernels, in per cent of the machine's multiply-add peak.

    python -m tests.benchmarks.kernels [conv] [layers] [matmul] [linear] [overhead] [--threads N] [--best] [--json FILE]

The peak is what a loop of independent multiply-adds in registers reaches on as many threads; every row is the median
of several runs of at least 20 ms. Compare with other libraries only in separate processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_cnn import kernels
from tinygrad_cnn.kernels.cpu import contract, conv, simd
from tinygrad_cnn.kernels.cpu.matmul import linear, matmul
from tinygrad_cnn.kernels.spec import Conv2dSpec


def seconds(call: Callable[[], object], best: bool, runs: int = 7) -> float:
    """The median (or the best) time of a call, over runs of at least 20 ms; on one thread its processor time."""
    clock = time.thread_time if kernels.get_num_threads() == 1 else time.perf_counter
    call()
    start = clock()
    call()
    repeat = max(1, int(0.02 / (clock() - start)))
    times = []
    for _ in range(runs):
        start = clock()
        for _ in range(repeat):
            call()
        times.append((clock() - start) / repeat)
    return min(times) if best else statistics.median(times)


def peak(best: bool) -> float:
    """GFLOP/s of the widest tile on operands that stay in registers and the first cache line, on all threads."""
    parts, depth, rounds = kernels.get_num_threads(), 256, 4000
    vectors = 2
    rows, width = simd.max_rows(vectors), vectors * simd.lanes(np.float32)
    plan = np.zeros(simd.TILE_ARGS, np.int64)
    plan[simd.N1], plan[simd.N2], plan[simd.N3] = 1, rounds, depth
    zeros = np.zeros(parts * rows * width, np.float32)
    operand = np.zeros(width, np.float32)
    tile = simd.tile_address(np.float32, simd.OUTER, vectors, rows)
    call = lambda: kernels.launch(contract.run_tile, tile, plan, operand, zeros, work=1e9)
    return 2 * parts * rows * width * depth * rounds / seconds(call, best) / 1e9


Case = tuple[str, float, Callable[[], object]]


def conv_cases(
    n: int, c: int, hw: int, o: int, k: int, stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1
) -> Iterator[Case]:
    """Forward, input gradient and weight gradient of one convolution."""
    rng = np.random.default_rng(0)
    spec = Conv2dSpec((stride, stride), (pad,) * 4, (dilation, dilation), groups)
    x = rng.standard_normal((n, hw, hw, c), np.float32).transpose(0, 3, 1, 2)
    w = rng.standard_normal((k, k, c // groups, o), np.float32).transpose(3, 2, 0, 1)
    bias = np.zeros(o, np.float32)
    y = conv.conv2d(x, w, bias, spec)
    g = rng.standard_normal(y.transpose(0, 2, 3, 1).shape, np.float32).transpose(0, 3, 1, 2)
    flops = 2 * y.size * w[0].size
    name = f"{n}x{hw}x{hw}x{c}->{o} {k}x{k}"
    name += f" pad {pad}" * (pad > 0) + f" stride {stride}" * (stride > 1) + f" groups {groups}" * (groups > 1)
    yield f"forward {name}", flops, lambda: conv.conv2d(x, w, bias, spec)
    if c > 3:
        yield f"input gradient {name}", flops, lambda: conv.conv2d_input_grad(g, w, (hw, hw), spec)
    yield f"weight gradient {name}", flops, lambda: conv.conv2d_weight_grad(x, g, (k, k), spec)


def conv_grid() -> Iterator[Case]:
    """Common sizes: equal channels, padding that keeps the size."""
    for c, hw, n in [
        (16, 32, 64),
        (32, 28, 64),
        (32, 16, 64),
        (64, 32, 32),
        (64, 16, 64),
        (64, 8, 64),
        (128, 8, 64),
    ]:
        for k in (1, 3, 5):
            yield from conv_cases(n, c, hw, c, k, pad=k // 2)


def layers() -> Iterator[Case]:
    """The layers of LeNet-5, the MNIST CNN, and some with odd channels, strides, groups."""
    yield from conv_cases(128, 1, 28, 6, 5, pad=2)
    yield from conv_cases(128, 6, 14, 16, 5)
    yield from conv_cases(64, 1, 28, 32, 3)
    yield from conv_cases(64, 32, 26, 64, 3)
    yield from conv_cases(64, 3, 32, 16, 3, pad=1)
    yield from conv_cases(64, 24, 20, 40, 3, pad=1)
    yield from conv_cases(64, 32, 32, 64, 3, stride=2, pad=1)
    yield from conv_cases(64, 64, 16, 64, 3, pad=1, groups=64)
    yield from conv_cases(64, 64, 16, 64, 3, pad=1, groups=4)


def matmul_cases() -> Iterator[Case]:
    for size in (128, 192, 256, 384, 512, 768, 1024):
        a, b = (np.random.default_rng(i).standard_normal((size, size), np.float32) for i in range(2))
        yield f"matmul {size}", 2 * size**3, lambda a=a, b=b: matmul(a, b)
        yield f"matmul {size} A.T", 2 * size**3, lambda a=a, b=b: matmul(a.T, b)
        yield f"matmul {size} B.T", 2 * size**3, lambda a=a, b=b: matmul(a, b.T)


def linear_cases() -> Iterator[Case]:
    for inputs, outputs in [(400, 120), (9216, 128), (1600, 128)]:
        for n in (1, 32, 128, 512):
            rng = np.random.default_rng(0)
            x, w, g = (
                rng.standard_normal(shape, np.float32) for shape in [(n, inputs), (outputs, inputs), (n, outputs)]
            )
            bias, flops, name = (
                np.zeros(outputs, np.float32),
                2 * n * inputs * outputs,
                f"{n}x{inputs}->{outputs}",
            )
            yield f"linear {name}", flops, lambda x=x, w=w, bias=bias: linear(x, w, bias)
            yield f"linear dX {name}", flops, lambda g=g, w=w: matmul(g, w)
            yield f"linear dW {name}", flops, lambda g=g, x=x: matmul(g.T, x)


def overhead() -> Iterator[Case]:
    yield from conv_cases(1, 1, 28, 6, 5, pad=2)
    yield from conv_cases(1, 6, 14, 16, 5)
    yield from conv_cases(1, 1, 1, 1, 1)
    a = np.ones((1, 1), np.float32)
    yield "matmul 1", 2, lambda: matmul(a, a)


GROUPS = {
    "conv": conv_grid,
    "layers": layers,
    "matmul": matmul_cases,
    "linear": linear_cases,
    "overhead": overhead,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="which kernels; all by default")
    parser.add_argument("--threads", type=int, help="how many threads; all cores by default")
    parser.add_argument("--best", action="store_true", help="the best run instead of the median: on a busy machine")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        kernels.set_num_threads(options.threads)
    top = peak(options.best)
    print(f"peak {top:.0f} GFLOP/s on {kernels.get_num_threads()} threads")
    rows = []
    for group in options.groups or GROUPS:
        for name, flops, call in GROUPS[group]():
            time_taken = seconds(call, options.best)
            rate = flops / time_taken / 1e9
            rows.append({"name": name, "us": time_taken * 1e6, "gflops": rate, "peak": rate / top})
            print(
                f"{name:55s} {time_taken * 1e6:10.1f} us {rate:7.1f} GFLOP/s {100 * rate / top:5.1f} %",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"peak": top, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
