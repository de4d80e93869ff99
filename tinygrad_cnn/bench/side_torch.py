"""What PyTorch runs of the benchmark, in each of its modes; the interpreter may lack our package and Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .nets import NETS, SHAPES, inference, step

Work = Callable[[], Any]


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def train(case: dict[str, Any], mode: str) -> Work:
    return step(torch, *_net(case, mode))


def infer(case: dict[str, Any], mode: str) -> Work:
    model, x, _ = _net(case, mode)
    return inference(torch, model, x)


def _net(case: dict[str, Any], mode: str) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model = NETS[case["net"]](torch.nn)
    x = _in_memory(torch.randn(case["batch"], *SHAPES[case["net"]]), mode)
    if "channels_last" in mode:
        model = model.to(memory_format=torch.channels_last)
    if "compile" in mode:  # fullgraph: an error instead of a silent return to eager mode
        model = torch.compile(model, dynamic=False, fullgraph=True)
    return model, x, torch.randint(0, 10, (case["batch"],))


def _in_memory(x: Any, mode: str) -> Any:
    return x.contiguous(memory_format=torch.channels_last) if "channels_last" in mode else x


def release() -> None:
    """PyTorch keeps no unused memory on a CPU."""


def conv(case: dict[str, Any], mode: str) -> Work:
    """One pass of a convolution."""
    n, c, h, o, k, groups = (case[key] for key in ("n", "c", "h", "o", "k", "groups"))
    stride, padding, dilation = ([case[key]] * 2 for key in ("stride", "padding", "dilation"))
    x, w = (_in_memory(torch.randn(shape), mode) for shape in [(n, c, h, h), (o, c // groups, k, k)])
    bias = torch.zeros(o)
    y = torch.conv2d(x, w, bias, stride, padding, dilation, groups)
    g = _in_memory(torch.randn(y.shape), mode)

    def gradient(mask: list[bool]) -> Any:
        rest = (None, stride, padding, dilation, False, [0, 0], groups, mask)
        return torch.ops.aten.convolution_backward(g, x, w, *rest)

    passes = {
        "forward": lambda: torch.conv2d(x, w, bias, stride, padding, dilation, groups),
        "input gradient": lambda: gradient([True, False, False]),
        "weight gradient": lambda: gradient([False, True, False]),
    }
    return passes[case["pass"]]
