"""Records of the elementwise ops, at points away from kinks; what happens on those is in tests/ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import OpRecord
from tinygrad_cnn.testing import strategies as draw

erf = np.vectorize(math.erf, otypes=[np.float64])
Domain = Callable[[np.ndarray], Any]


def same(x: np.ndarray) -> np.ndarray:
    return x


def positive(x: np.ndarray) -> Any:
    """Values far from 0, where logarithms and roots have gradients that a difference can follow."""
    return np.abs(x) + 0.5


def sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


def off_integers(x: np.ndarray) -> Any:
    """Values at least 0.1 from integers and halves, where a step changes nothing."""
    return np.round(2 * x) / 2 + 0.25


@st.composite
def operands(d: st.DrawFn, *domains: Domain, params: tuple[Any, ...] = (), broadcast: bool = True) -> list[Any]:
    """An array per domain, broadcasting; no two of all their values are equal, so that no step crosses a = b."""
    n = len(domains)
    shapes = d(draw.broadcastable(n, max_dims=3, max_side=3)) if broadcast else [d(draw.shapes(0, 3, 0, 3))] * n
    sizes = [math.prod(shape) for shape in shapes]
    values = np.split(d(draw.distinct((sum(sizes),), layout="C")), np.cumsum(sizes)[:-1])  # in any order, also 0-d ones
    arrays = [x.reshape(shape) for x, shape in zip(values, shapes, strict=True)]
    return [*(d(draw.layouts(np.asarray(f(x)))) for f, x in zip(domains, arrays, strict=True)), *params]


@st.composite
def ties(d: st.DrawFn) -> list[Any]:
    """Two arrays of zeros and ones: any share of a tie is a gradient, as long as the shares are one together."""
    return [d(draw.tied(shape)) for shape in d(draw.broadcastable(2, max_dims=2, max_side=3))]


def unary(
    name: str, op: Any, ref: Any, domain: Domain = same, degree: int | None = None, params: tuple[Any, ...] = ()
) -> OpRecord:
    """An op of one tensor and parameters."""
    return OpRecord(name, op, ref, operands(domain, params=params), degree=degree)


def binary(
    name: str, op: Any, ref: Any, degree: int | None = None, domains: Any = (same, same), broadcast: bool = True
) -> OpRecord:
    """An op of two tensors that broadcast."""
    errors = [([np.ones(2), np.ones(3)], RuntimeError, "(2,) and (3,)")]
    return OpRecord(name, op, ref, operands(*domains, broadcast=broadcast), errors, degree)


def gelu_tanh(x: np.ndarray) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def clip(x: np.ndarray, low: Any = -np.inf, high: Any = np.inf) -> Any:
    return np.minimum(np.maximum(x, -np.inf if low is None else low), np.inf if high is None else high)


def signs(x: np.ndarray) -> Any:
    """A condition."""
    return x > 0


RECORDS = [
    unary("neg", tg.neg, np.negative, degree=1),
    unary("abs", tg.abs, np.abs),
    unary("sign", tg.sign, np.sign),
    unary("floor", tg.floor, np.floor, off_integers),
    unary("ceil", tg.ceil, np.ceil, off_integers),
    unary("round", tg.round, np.round, off_integers),
    unary("square", tg.square, np.square, degree=2),
    unary("exp", tg.exp, np.exp),
    unary("expm1", tg.expm1, np.expm1),
    unary("log", tg.log, np.log, positive),
    unary("log1p", tg.log1p, np.log1p, positive),
    unary("sqrt", tg.sqrt, np.sqrt, positive),
    unary("rsqrt", tg.rsqrt, lambda x: 1 / np.sqrt(x), positive),
    unary("reciprocal", tg.reciprocal, lambda x: 1 / x, positive),

    unary("sin", tg.sin, np.sin),
    unary("cos", tg.cos, np.cos),
    unary("tanh", tg.tanh, np.tanh),
    unary("sigmoid", tg.sigmoid, sigmoid),
    unary("erf", tg.erf, erf),
    unary("relu", tg.relu, lambda x: np.maximum(x, 0)),
    unary("leaky_relu", F.leaky_relu, lambda x, slope: np.where(x > 0, x, slope * x), params=(0.125,)),
    unary("elu", F.elu, lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)), params=(0.75,)),
    unary("gelu", F.gelu, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    unary("gelu tanh", lambda x: F.gelu(x, approximate="tanh"), gelu_tanh),
    unary("silu", F.silu, lambda x: x * sigmoid(x)),
    unary("softplus", F.softplus, lambda x, beta: np.log1p(np.exp(beta * x)) / beta, params=(2.0,)),
    unary("hardtanh", F.hardtanh, np.clip, params=(-0.5, 1.0)),
    unary("relu6", F.relu6, lambda x: np.clip(x, 0, 6), lambda x: 4 * x),
    unary("clamp", tg.clamp, clip, params=(-0.5, 1.0)),
    unary("clamp min", tg.clamp, clip, params=(0.25,)),
    unary("clamp max", tg.clamp, clip, params=(None, 0.25)),
    unary("clamp_min", lambda x, c: x.clamp_min(c), clip, params=(0.25,)),
    unary("clamp_max", lambda x, c: x.clamp_max(c), np.minimum, params=(0.25,)),
    OpRecord("clamp tensors", tg.clamp, clip, operands(same, same, same)),
    binary("add", tg.add, np.add, 1),
    binary("add alpha", lambda a, b: tg.add(a, b, alpha=2), lambda a, b: a + 2 * b, 1),
    unary("add number", lambda x, c: c + tg.add(x, c), lambda x, c: x + 2 * c, degree=1, params=(3,)),
    binary("sub", tg.sub, np.subtract, 1),
    binary("sub alpha", lambda a, b: tg.sub(a, b, alpha=-3), lambda a, b: a + 3 * b, 1),
    unary("sub from number", lambda x, c: tg.sub(c, x), lambda x, c: c - x, degree=1, params=(3,)),
    binary("mul", tg.mul, np.multiply, 2),
    unary("mul number", tg.mul, np.multiply, degree=1, params=(3,)),
    binary("div", tg.div, np.divide, domains=(same, positive)),
    unary("div number", tg.div, np.divide, degree=1, params=(3,)),
    unary("div into number", lambda x, c: tg.div(c, x), lambda x, c: c / x, positive, params=(2,)),
    binary("remainder", tg.remainder, np.mod, domains=(same, lambda b: b * b + 20)),
    unary("remainder number", tg.remainder, np.mod, lambda x: x * 0.96875 + 0.0146484375, params=(1.5,)),
    binary("pow", tg.pow, np.power, domains=(positive, same)),
    unary("pow 3", tg.pow, np.power, params=(3,)),
    unary("pow 0", tg.pow, lambda x, p: x**p, degree=1, params=(0,)),
    unary("pow -1.5", tg.pow, np.power, positive, params=(-1.5,)),
    unary("pow of number", lambda x, c: tg.pow(c, x), lambda x, c: c**x, params=(2,)),
    binary("maximum", tg.maximum, np.maximum),
    OpRecord("maximum of ties", tg.maximum, np.maximum, ties(), second=False),
    binary("minimum", tg.minimum, np.minimum),
    OpRecord("minimum of ties", tg.minimum, np.minimum, ties(), second=False),
    OpRecord("where", tg.where, np.where, operands(signs, same, same), degree=1),
    OpRecord(
        "where method", lambda x, c, y: x.where(c, y), lambda x, c, y: np.where(c, x, y),
        operands(same, signs, same), degree=1,
    ),
    OpRecord(
        "copy_", lambda x, y: x.clone().copy_(y), lambda x, y: y, operands(same, same, broadcast=False),
        [([np.ones(2), np.ones(3)], RuntimeError, "(3,)")], 1,
    ),
    unary("fill_", lambda x, c: x.clone().fill_(c), lambda x, c: np.full(x.shape, float(c)), degree=1, params=(3,)),
    unary("zero_", lambda x: x.clone().zero_(), np.zeros_like, degree=1),
]  # fmt: skip


def in_place(name: str) -> OpRecord:
    """The method on a copy of its tensor, from the record of the op."""
    base = next(record for record in RECORDS if record.name == name)
    domains = {"pow": (positive, same), "div": (same, positive), "remainder": (same, lambda b: b * b + 20)}
    written = operands(*domains.get(name, (same, same)), broadcast=False)
    op = lambda x, *rest: getattr(x.clone(), name + "_")(*rest)
    errors = [([np.ones((1, 2)), np.ones((3, 2))], RuntimeError, "(3, 2)")] if base.errors else ()
    inputs = written if base.errors else base.inputs
    return OpRecord(name + "_", op, base.ref, inputs, errors, base.degree)


RECORDS += map(
    in_place,
    ["add", "sub", "mul", "div", "remainder", "pow", "neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "clamp"],
)
