"""What the tests of the tape share."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import Function


def leaf(*values: float, dtype: Any = tg.float64) -> Any:
    return tg.tensor(list(values) if len(values) != 1 else values[0], dtype=dtype, requires_grad=True)


def vector(n: int = 3, seed: int = 0) -> Any:
    return tg.tensor(np.random.default_rng(seed).standard_normal(n), requires_grad=True)


def check(x: Any, *expected: float) -> None:
    np.testing.assert_allclose(x.numpy(), expected if len(expected) > 1 else expected[0], rtol=1e-12)


class Identity(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


class Twice(Function):
    """Returns the one gradient for both inputs."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        return x + y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g, g
