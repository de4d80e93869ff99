"""Activations as modules: a floating input of any shape, a result of that shape and dtype.

`inplace=True` overwrites the input. Numbers are checked when the module is made: TypeError or ValueError.

>>> import tinygrad_cnn as tg
>>> tg.nn.LeakyReLU(0.5)(tg.tensor([-2.0, 3.0]))
tensor([-1.,  3.])
"""

from __future__ import annotations

from typing import Any

from ..ops.arguments import integer, real
from ..ops.elementwise import check_approximate, check_beta
from . import functional as F
from .module import Module


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Any) -> Any:
        return F.tanh(input)


class Sigmoid(Module):
    """1 / (1 + exp(-input))."""

    def forward(self, input: Any) -> Any:
        return F.sigmoid(input)


class _Inplace(Module):
    """An activation that may overwrite its input."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        numbers = [f"{name}={self.__dict__[name]}" for name in self.shown]
        return ", ".join(numbers + ["inplace=True"] * self.inplace)

    shown: tuple[str, ...] = ()  # the attributes that the repr names


class ReLU(_Inplace):
    """max(input, 0); the gradient at 0 is 0."""

    def forward(self, input: Any) -> Any:
        return F.relu(input, self.inplace)


class ReLU6(_Inplace):
    """input limited to [0, 6]."""

    def forward(self, input: Any) -> Any:
        return F.relu6(input, self.inplace)


class SiLU(_Inplace):
    """input * sigmoid(input)."""

    def forward(self, input: Any) -> Any:
        return F.silu(input, self.inplace)


class LeakyReLU(_Inplace):
    """input where positive, negative_slope * input elsewhere."""

    shown = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = real("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, input: Any) -> Any:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class ELU(_Inplace):
    """input where positive, alpha * (exp(input) - 1) elsewhere; with alpha 1 its derivative has no jump."""

    shown = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = real("ELU", "alpha", alpha)

    def forward(self, input: Any) -> Any:
        return F.elu(input, self.alpha, self.inplace)


class Hardtanh(_Inplace):
    """input limited to [min_val, max_val]. Raises ValueError for limits that leave no room."""

    shown = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        if not max_val > min_val:
            raise ValueError(f"Hardtanh expects max_val > min_val, got {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Any) -> Any:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class GELU(Module):
    """input * Phi(input), Phi the normal distribution function; approximate="tanh" for the formula with tanh."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        check_approximate("GELU", approximate)
        self.approximate = approximate

    def forward(self, input: Any) -> Any:
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """log(1 + exp(beta * input)) / beta, and input itself where beta * input > threshold. ValueError for beta 0."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = check_beta("Softplus", beta)
        self.threshold = real("Softplus", "threshold", threshold)

    def forward(self, input: Any) -> Any:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongDim(Module):
    """A function along one dimension, which has to be named: a guess would be wrong for images or for sequences."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = integer(type(self).__name__, "dim", dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(input) divided by its sum along dim, of input's shape; IndexError for a dim that input has not.

    CrossEntropyLoss wants logits, not these.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.Softmax(dim=1)(tg.tensor([[0.0, 0.0], [9.0, 9.0]])).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    def forward(self, input: Any) -> Any:
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    """The logarithm of softmax along dim, accurate where softmax is near 0; what NLLLoss takes."""

    def forward(self, input: Any) -> Any:
        return F.log_softmax(input, self.dim)
