"""Pooling layers: what the functions compute, with arguments that are checked when the layer is made."""

from __future__ import annotations

from typing import Any

from ..ops.pool import divisor_of, max_pool2d_or_relu, output_hw_of, window_of
from . import functional as F
from .module import Module


class MaxPool2d(Module):
    """The largest value in each window: (N, C, H, W) -> (N, C, P, Q), without N as well.

    Arguments, sizes and errors as in `nn.functional.max_pool2d`: stride is kernel_size where left out.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.MaxPool2d(3, stride=2, padding=1)(tg.randn(4, 8, 32, 32)).shape
    (4, 8, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        window_of("MaxPool2d", kernel_size, stride, padding, dilation)
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Any) -> Any:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def _forward_relu(self, input: Any) -> Any:
        """The pool of relu(input)."""
        if self.return_indices:
            return self.forward(F.relu(input))
        return max_pool2d_or_relu(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, True
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window: (N, C, H, W) -> (N, C, P, Q), without N as well.

    Arguments, sizes and errors as in `nn.functional.avg_pool2d`: stride is kernel_size where left out.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.AvgPool2d(2)(tg.randn(4, 8, 32, 32)).shape
    (4, 8, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        window_of("AvgPool2d", kernel_size, stride, padding)
        self.divisor_override = divisor_of("AvgPool2d", divisor_override)

    def forward(self, input: Any) -> Any:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """The means of as many windows as wanted: (N, C, H, W) -> (N, C, P, Q), without N as well.

    Sizes and errors as in `nn.functional.adaptive_avg_pool2d`: output_size is P = Q or (P, Q), None keeps a size.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.AdaptiveAvgPool2d(1)(tg.randn(4, 8, 7, 7)).shape
    (4, 8, 1, 1)
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        output_hw_of("AdaptiveAvgPool2d", output_size)
        self.output_size = output_size

    def forward(self, input: Any) -> Any:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
