"""Dropout layers."""

from __future__ import annotations

from typing import Any

from ..ops.arguments import real
from . import functional as F
from .module import Module


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = real(type(self).__name__, "a probability p", p, 0, 1)
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """When training, each element is zero with probability p and divided by 1 - p otherwise.

    See `nn.functional.dropout`; when evaluating, the input itself. Raises ValueError for p outside [0, 1].

    >>> import tinygrad_cnn as tg
    >>> dropout = tg.nn.Dropout(0.25)
    >>> dropout.eval()(tg.ones(3))
    tensor([1., 1., 1.])
    """

    def forward(self, input: Any) -> Any:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """When training, each channel is zero with probability p and divided by 1 - p otherwise."""

    def forward(self, input: Any) -> Any:
        return F.dropout2d(input, self.p, self.training, self.inplace)
