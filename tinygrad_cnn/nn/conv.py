"""Convolution layers: one base that holds the numbers and the weights, and what each of the two does with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..creation import empty
from ..ops.arguments import hashable, integer, pair
from ..ops.conv import conv2d_max_pool, conv2d_of_kept, conv2d_relu, output_padding_of, padding_of
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter


class _Conv(Module):
    """What a convolution and its transpose have in common."""

    transposed = False
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels = integer(name, "in_channels", in_channels, 0)
        self.out_channels = integer(name, "out_channels", out_channels, 0)
        self.groups = integer(name, "groups", groups, 1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{name} expects channels divisible by groups, got in_channels={in_channels}, "
                f"out_channels={out_channels} and groups={groups}"
            )
        self.kernel_size = pair(name, "kernel_size", hashable(kernel_size), 1)
        self.stride = pair(name, "stride", hashable(stride), 1)
        self.dilation = pair(name, "dilation", hashable(dilation), 1)
        self.padding: Any = (0, 0)
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        # The kernels read weights as (KH, KW, C, O) in memory; seen from outside they are (O, C, KH, KW).
        memory = empty(*self.kernel_size, second // self.groups, first, device=device, dtype=dtype)
        self.weight = Parameter(memory.permute(3, 2, 0, 1))
        self.register_parameter(
            "bias", Parameter(empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: uniform in +-1/sqrt(fan_in), bias too."""
        if self.weight.numel() == 0:
            return
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        defaults = {"padding": (0, 0), "dilation": (1, 1), "output_padding": (0, 0), "groups": 1}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class Conv2d(_Conv):
    """Convolution of images: (N, in_channels, H, W) -> (N, out_channels, P, Q), without N as well.

    Arguments and errors as in `nn.functional.conv2d`; weight (out_channels, in_channels/groups, rows,
    columns) and bias start uniform in +-1/sqrt(in_channels/groups * rows * columns). padding_mode "reflect",
    "replicate" or "circular" fills the padding from the image itself.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.Conv2d(3, 8, 3, stride=2, padding=1)(tg.randn(4, 3, 32, 32)).shape
    (4, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"Conv2d expects padding_mode 'zeros', 'reflect', 'replicate' or 'circular', got {padding_mode!r}"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        padding = hashable(padding)
        top, bottom, left, right = padding_of("Conv2d", padding, self.kernel_size, self.stride, self.dilation)
        self.padding = (padding, padding) if isinstance(padding, int) else padding
        self._pad = left, right, top, bottom

    def forward(self, input: Any) -> Any:
        return self._convolved(input, F.conv2d)

    def _forward_relu(self, input: Any) -> Any:
        return self._convolved(input, conv2d_relu)

    def _forward_pooled(self, input: Any, pool: tuple[Any, ...], relu: bool) -> Any:
        """The max-pool of the output, or of its ReLU."""
        return self._convolved(input, conv2d_max_pool, None, None, pool, relu)

    def _scaled(self, scale: np.ndarray, shift: np.ndarray) -> tuple[Tensor, Tensor]:
        """The weight and bias for which the output is this one's times scale plus shift, one for each channel."""
        weight = self.weight._array
        shift = shift if self.bias is None else shift + self.bias._array * scale
        scaled = weight * scale.astype(weight.dtype)[:, None, None, None]
        return Tensor(scaled), Tensor(shift.astype(weight.dtype))

    def _forward_with(self, input: Any, weight: Tensor, bias: Tensor, kept: dict[Any, Any], relu: bool) -> Any:
        """The output for other parameters, to which nobody writes, or its ReLU."""
        return self._convolved(input, conv2d_of_kept, weight, bias, relu, kept)

    def _convolved(self, input: Any, conv2d: Any, weight: Any = None, bias: Any = None, *more: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._pad, mode=self.padding_mode), 0
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups, *more)


class ConvTranspose2d(_Conv):
    """Transposed convolution, which enlarges images: (N, in_channels, H, W) -> (N, out_channels, P, Q).

    Arguments and errors as in `nn.functional.conv_transpose2d`; weight (in_channels, out_channels/groups,
    rows, columns) and bias start uniform in +-1/sqrt(out_channels/groups * rows * columns), as in PyTorch.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.ConvTranspose2d(8, 3, 2, stride=2)(tg.randn(4, 8, 5, 5)).shape
    (4, 3, 10, 10)
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"ConvTranspose2d expects padding_mode 'zeros', got {padding_mode!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.padding = pair("ConvTranspose2d", "padding", hashable(padding), 0)
        self.output_padding = output_padding_of("ConvTranspose2d", hashable(output_padding), self.stride, self.dilation)

    def forward(self, input: Any, output_size: Any = None) -> Any:
        """output_size (P, Q) chooses among the sizes that a strided convolution maps to input's size."""
        extra = self.output_padding if output_size is None else self._padding_for(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _padding_for(self, input: Any, output_size: Any) -> tuple[int, int]:
        """The output padding that gives output_size; ValueError where none does."""
        wanted = tuple(output_size)[-2:]
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        extra = [w - n for w, n in zip(wanted, least, strict=True)]
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
            raise ValueError(
                f"ConvTranspose2d expects output_size between {tuple(least)} and {tuple(most)} for an input "
                f"of {input.shape}, got {wanted}"
            )
        return extra[0], extra[1]
