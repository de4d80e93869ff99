"""Fully connected layers, and the layer that does nothing."""

from __future__ import annotations

import math
from typing import Any

from ..creation import empty
from ..ops.arguments import integer
from ..ops.matmul import linear_relu
from . import functional as F
from . import init
from .module import Module, Parameter


class Identity(Module):
    """Gives back its input; takes any arguments and ignores them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """input @ weight.T + bias: (..., in_features) -> (..., out_features).

    weight (out_features, in_features) and bias (out_features,) start uniform in +-1/sqrt(in_features). Raises
    RuntimeError for an input of another size.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.Linear(20, 30)(tg.randn(128, 20)).shape
    (128, 30)
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = integer("Linear", "in_features", in_features, 0)
        self.out_features = integer("Linear", "out_features", out_features, 0)
        self.weight = Parameter(empty(self.out_features, self.in_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(empty(self.out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        if self.weight.numel():
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Any) -> Any:
        return F.linear(input, self.weight, self.bias)

    def _forward_relu(self, input: Any) -> Any:
        return linear_relu(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
