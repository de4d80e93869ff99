"""Ops on one element at a time, with broadcasting. Each forward stands above its vjp rules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import Variable
from ..dtypes import as_dtype, bool_, float32, int64, result_type
from ..kernels import on, silent
from ..op import op
from .arguments import check_floats, integer, real
from .dims import array_of

TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands in their common dtype; a Python number that fits stays one, NumPy treats it as weak too."""
    if type(a) is np.ndarray and (
        (type(b) is np.ndarray and b.dtype == a.dtype) or (type(b) in (float, int) and a.dtype.kind == "f")
    ):
        return a, b
    dtype = result_type(a, b)
    return _in_dtype(a, dtype), _in_dtype(b, dtype)


def _in_dtype(x: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(x, np.ndarray):
        return x if x.dtype == dtype else x.astype(dtype)
    return dtype.type(x)


def _float_pair(a: Any, b: Any) -> tuple[Any, Any]:
    """As `_pair`, with integers turned to float32."""
    a, b = _pair(a, b)
    if a.dtype.kind != "f":
        return _in_dtype(a, float32), _in_dtype(b, float32)
    return a, b


def _floating(x: np.ndarray) -> np.ndarray:
    """A float array as it is, integers as float32."""
    return x if x.dtype.kind == "f" else x.astype(float32)


# --------------------------------------------------------------------------------------------------------- arithmetic


@op(broadcasts=True)
def _add(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return on(a).binary(np.add, a, b)


_add.vjps(a=lambda g: g, b=lambda g: g)


def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input + alpha * other, broadcast."""
    return _add(input, other if alpha == 1 else mul(other, alpha))


@op(broadcasts=True)
def _sub(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return on(a).binary(np.subtract, a, b)


_sub.vjps(a=lambda g: g, b=lambda g: neg(g))


def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha * other, broadcast."""
    return _sub(input, other if alpha == 1 else mul(other, alpha))


@op(broadcasts=True)
def mul(input: Any, other: Any) -> Any:
    """input * other, broadcast."""
    a, b = _pair(input, other)
    return on(a).binary(np.multiply, a, b)


mul.vjps(input=lambda g, other: mul(g, other), other=lambda g, input: mul(g, input))


@op(broadcasts=True)
def div(input: Any, other: Any) -> Any:
    """input / other, broadcast; integers divide to float32."""
    a, b = _float_pair(input, other)
    return on(a).binary(np.divide, a, b)


div.vjps(
    input=lambda g, other: div(g, other),
    other=lambda g, input, other: neg(div(mul(g, div(input, other)), other)),
)


def _divisible(op: str, input: Any, other: Any) -> tuple[Any, Any]:
    a, b = _numbers(op, *_pair(input, other))
    if getattr(b, "dtype", float32).kind != "f" and not np.all(b):
        raise RuntimeError(f"{op}: an integer tensor of shape {np.shape(a)} is divided by 0")
    return a, b


def _numbers(op: str, a: Any, b: Any) -> tuple[Any, Any]:
    """The pair; RuntimeError for two bools, of which NumPy would make int8."""
    if getattr(a, "dtype", None) == bool_:
        raise RuntimeError(f"{op} of two bool tensors is not defined; use .long() on one")
    return a, b


@op(broadcasts=True)
@silent
def floor_divide(input: Any, other: Any) -> Any:
    """The largest integer not above input / other; no gradient. RuntimeError for bools and for an integer by 0."""
    return np.floor_divide(*_divisible("floor_divide", input, other))


@op(broadcasts=True)
@silent
def remainder(input: Any, other: Any) -> Any:
    """input - floor(input / other) * other: the sign is the divisor's. RuntimeError for bools, integers by 0."""
    return np.remainder(*_divisible("remainder", input, other))


remainder.vjps(input=lambda g: g, other=lambda g, input, other: neg(mul(g, floor_divide(input, other))))


@op(broadcasts=True)
def _pow(base: Any, exponent: Any) -> Any:
    a, b = _numbers("pow", *_pair(base, exponent))
    return on(a).binary(np.power, a, b)


def _pow_base(g: Any, base: Any, exponent: Any) -> Any:
    if not isinstance(exponent, Variable):
        return mul(g, mul(_pow(base, exponent - 1), exponent)) if exponent != 0 else mul(g, 0.0)
    zero = eq(exponent, 0)
    return where(zero, 0.0, mul(g, mul(exponent, _pow(base, sub(where(zero, 1.0, exponent), 1.0)))))


def _pow_exponent(g: Any, base: Any, exponent: Any, out: Any) -> Any:
    flat = logical_and(eq(base, 0), ge(exponent, 0))  # 0 ** e stays what it is near e
    return mul(g, where(flat, 0.0, mul(out, log(where(flat, 1.0, base)))))


_pow.vjps(base=_pow_base, exponent=_pow_exponent)


def pow(input: Any, exponent: Any) -> Any:
    """input ** exponent, broadcast; the gradient of 0 ** 0 is 0 for the base and for the exponent."""
    if not isinstance(input, Variable):
        array_of("pow", exponent if isinstance(input, int | float) else input)
        input = Variable.new(np.asarray(input, result_type(input, exponent._array)))
    return _pow(input, exponent)


@op
def neg(input: Any) -> Any:
    """-input."""
    return on(input).unary(np.negative, input)


neg.vjps(input=lambda g: neg(g))


@op
def abs(input: Any) -> Any:
    """|input|; the gradient at 0 is 0."""
    return on(input).unary(np.absolute, input)


abs.vjps(input=lambda g, input: mul(g, sign(input)))


@op
def sign(input: Any) -> Any:
    """-1, 0 or 1; the gradient is 0."""
    return np.sign(input, dtype=input.dtype)


sign.vjps(input=lambda g: where(False, g, 0.0))


@op
def floor(input: Any) -> Any:
    """The largest integer not above input, in its dtype; the gradient is 0."""
    return np.floor(input) if input.dtype.kind == "f" else input.copy()


floor.vjps(input=lambda g: where(False, g, 0.0))


@op
def ceil(input: Any) -> Any:
    """The smallest integer not below input, in its dtype; the gradient is 0."""
    return np.ceil(input) if input.dtype.kind == "f" else input.copy()


ceil.vjps(input=lambda g: where(False, g, 0.0))


@op
def _round(input: Any, decimals: int) -> Any:
    return input.round(decimals)


_round.vjps(input=lambda g: where(False, g, 0.0))


def round(input: Any, *, decimals: int = 0) -> Any:
    """The nearest number of that many decimals, of two the even one, in input's dtype; the gradient is 0."""
    return _round(input, decimals=integer("round", "decimals", decimals))


@op
@silent
def cast(input: Any, dtype: Any) -> Any:
    """input in another dtype."""
    return input.astype(as_dtype(dtype), order="K")


cast.vjps(input=lambda g: g)  # the tape casts every gradient to the dtype of its input


# -------------------------------------------------------------------------------------------------------- comparisons


def _without_gradient(name: str, ufunc: Any, doc: str) -> Any:
    def forward(input: Any, other: Any) -> Any:
        a, b = _pair(input, other)
        return ufunc(a, b)

    forward.__name__ = name
    forward.__doc__ = f"{doc}, elementwise and broadcast."
    return op(forward, broadcasts=True)


eq = _without_gradient("eq", np.equal, "input == other")
ne = _without_gradient("ne", np.not_equal, "input != other")
lt = _without_gradient("lt", np.less, "input < other")
le = _without_gradient("le", np.less_equal, "input <= other")
gt = _without_gradient("gt", np.greater, "input > other")
ge = _without_gradient("ge", np.greater_equal, "input >= other")
logical_and = _without_gradient("logical_and", np.logical_and, "Both are non-zero")
logical_or = _without_gradient("logical_or", np.logical_or, "Either is non-zero")
logical_xor = _without_gradient("logical_xor", np.logical_xor, "One of both is non-zero")
bitwise_and = _without_gradient("bitwise_and", np.bitwise_and, "The common bits of two integers or bools")
bitwise_or = _without_gradient("bitwise_or", np.bitwise_or, "The bits of either of two integers or bools")
bitwise_xor = _without_gradient(
    "bitwise_xor", np.bitwise_xor, "The bits of one, but not both, of two integers or bools"
)


@op
def bitwise_not(input: Any) -> Any:
    """Every bit of an integer flipped, or not of a bool."""
    return np.invert(input)


@op
def logical_not(input: Any) -> Any:
    """Whether each element is zero."""
    return np.logical_not(input)


@op
def isnan(input: Any) -> Any:
    """Whether each element is NaN."""
    return np.isnan(input)


@op
def isinf(input: Any) -> Any:
    """Whether each element is infinite."""
    return np.isinf(input)


@op
def isfinite(input: Any) -> Any:
    """Whether each element is neither NaN nor infinite."""
    return np.isfinite(input)


# ------------------------------------------------------------------------------------------------ choosing and bounds


@op(broadcasts=True)
def where(condition: Any, input: Any, other: Any) -> Any:
    """input where condition, a bool tensor, holds, other elsewhere; all three broadcast. TypeError for no bools."""
    if not isinstance(condition, bool) and getattr(condition, "dtype", None) != bool_:
        found = getattr(condition, "dtype", type(condition).__name__)
        raise TypeError(f"where expects a bool tensor as condition, got {found}; use condition != 0")
    a, b = _pair(input, other)
    return on(a).where(condition, a, b)


where.vjps(
    input=lambda g, condition: where(condition, g, 0.0),
    other=lambda g, condition: where(condition, 0.0, g),
)


@op(broadcasts=True)
def maximum(input: Any, other: Any) -> Any:
    """The larger of two; NaN wins, and equal elements share the gradient."""
    a, b = _pair(input, other)
    return on(a).binary(np.maximum, a, b)


maximum.vjps(
    input=lambda g, input, other: mul(g, _share(gt(input, other), eq(input, other))),
    other=lambda g, input, other: mul(g, _share(lt(input, other), eq(input, other))),
)


@op(broadcasts=True)
def minimum(input: Any, other: Any) -> Any:
    """The smaller of two; NaN wins, and equal elements share the gradient."""
    a, b = _pair(input, other)
    return on(a).binary(np.minimum, a, b)


minimum.vjps(
    input=lambda g, input, other: mul(g, _share(lt(input, other), eq(input, other))),
    other=lambda g, input, other: mul(g, _share(gt(input, other), eq(input, other))),
)


def _share(wins: Any, ties: Any) -> Any:
    return where(ties, 0.5, where(wins, 1.0, 0.0))


@op(broadcasts=True)
def _clamp(input: Any, min: Any, max: Any) -> Any:
    out = input
    if min is not None:
        out = np.asarray(np.maximum(*_pair(out, min)))  # of 0-d arrays NumPy makes a number, which is weak
    if max is not None:
        out = np.minimum(*_pair(out, max))
    return out


def _exceeds(input: Any, min: Any, max: Any) -> Any:
    """Where the result is max: the input or min lies above it."""
    if max is None:
        return False
    return gt(input, max) if min is None else logical_or(gt(input, max), gt(min, max))


def _limited(input: Any, min: Any, max: Any) -> Any:
    """Where the result is a limit and not the input."""
    above = _exceeds(input, min, max)
    return above if min is None else logical_or(lt(input, min), above)


_clamp.vjps(
    input=lambda g, input, min, max: where(_limited(input, min, max), 0.0, g),
    min=lambda g, input, min, max: where(_exceeds(input, min, max), 0.0, where(lt(input, min), g, 0.0)),
    max=lambda g, input, min, max: where(_exceeds(input, min, max), g, 0.0),
)


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """input limited to [min, max], either of which may be left out; max wins where min > max.

    The gradient passes inside the limits and on them. Raises ValueError without any limit.
    """
    if min is None and max is None:
        raise ValueError("clamp needs min, max or both")
    return _clamp(input, min, max)


# ------------------------------------------------------------------------------------------------ elementary functions


@op
def exp(input: Any) -> Any:
    """e ** input."""
    return on(input).exp(_floating(input))


exp.vjps(input=lambda g, out: mul(g, out))


@op
def log(input: Any) -> Any:
    """The natural logarithm: -inf at 0 and NaN below."""
    return on(input).log(_floating(input))


log.vjps(input=lambda g, input: div(g, input))


@op
def sqrt(input: Any) -> Any:
    """The square root: NaN below 0."""
    return on(input).unary(np.sqrt, _floating(input))


sqrt.vjps(input=lambda g, out: div(g, mul(out, 2.0)))


@op
@silent
def rsqrt(input: Any) -> Any:
    """1 / sqrt(input)."""
    return on(input).unary(np.reciprocal, np.sqrt(_floating(input)))


rsqrt.vjps(input=lambda g, out: mul(mul(g, -0.5), mul(out, mul(out, out))))


@op
def reciprocal(input: Any) -> Any:
    """1 / input."""
    return on(input).unary(np.reciprocal, _floating(input))


reciprocal.vjps(input=lambda g, out: neg(mul(g, mul(out, out))))


@op
def square(input: Any) -> Any:
    """input * input; bools become int64."""
    return on(input).unary(np.square, input if input.dtype != bool_ else input.astype(int64))


square.vjps(input=lambda g, input: mul(g, mul(input, 2.0)))


@op
def sin(input: Any) -> Any:
    """The sine of an angle in radians."""
    return on(input).unary(np.sin, _floating(input))


sin.vjps(input=lambda g, input: mul(g, cos(input)))


@op
def cos(input: Any) -> Any:
    """The cosine of an angle in radians."""
    return on(input).unary(np.cos, _floating(input))


cos.vjps(input=lambda g, input: neg(mul(g, sin(input))))


@op
def erf(input: Any) -> Any:
    """The error function, 2 / sqrt(pi) * integral of exp(-t^2) from 0 to input."""
    return on(input).erf(_floating(input))


erf.vjps(input=lambda g, input: mul(g, mul(exp(neg(mul(input, input))), TWO_OVER_SQRT_PI)))


# -------------------------------------------------------------------------------------------------------- activations


@op
def tanh(input: Any) -> Any:
    """The hyperbolic tangent."""
    return on(input).tanh(_floating(input))


tanh.vjps(input=lambda g, out: mul(g, sub(1.0, mul(out, out))))


@op
def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-input)), without overflow."""
    return on(input).sigmoid(_floating(input))


sigmoid.vjps(input=lambda g, out: mul(g, mul(out, sub(1.0, out))))


@op
def _relu(input: Any) -> Any:
    return on(input).relu(input)


@op
def _relu_grad(g: Any, out: Any) -> Any:
    return on(g).relu_grad(g, out)


_relu.vjps(input=lambda g, out: _relu_grad(g, out))
_relu.kernel_vjp(lambda g, wanted, out, own: (on(g).relu_grad(g, out, own),))
_relu_grad.vjps(g=lambda g, out: _relu_grad(g, out))  # linear in g; constant in out, which only says where


def relu(input: Any, inplace: bool = False) -> Any:
    """max(input, 0); the gradient at 0 is 0."""
    array_of("relu", input)
    return input.relu_() if inplace else _relu(input)


@op
def _leaky_relu(input: Any, negative_slope: float) -> Any:
    return on(input).leaky_relu(input, negative_slope)


@op
def _leaky_relu_grad(g: Any, input: Any, negative_slope: float) -> Any:
    return on(g).leaky_relu_grad(g, input, negative_slope)


_leaky_relu.vjps(input=lambda g, input, negative_slope: _leaky_relu_grad(g, input, negative_slope))
_leaky_relu_grad.vjps(g=lambda g, input, negative_slope: _leaky_relu_grad(g, input, negative_slope))  # linear in g


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Any:
    """As `nn.functional.leaky_relu`, out of place."""
    check_floats("leaky_relu", input)
    real("leaky_relu", "negative_slope", negative_slope)
    return _leaky_relu(input, negative_slope)


def elu(input: Any, alpha: float = 1.0) -> Any:
    """As `nn.functional.elu`, out of place."""
    real("elu", "alpha", alpha)
    positive = gt(input, 0)
    return where(positive, input, mul(expm1(where(positive, 0.0, input)), alpha))


@op
def expm1(input: Any) -> Any:
    """exp(input) - 1, accurate near 0."""
    return on(input).expm1(_floating(input))


expm1.vjps(input=lambda g, out: mul(g, add(out, 1.0)))


@op
def log1p(input: Any) -> Any:
    """log(1 + input), accurate near 0."""
    return on(input).unary(np.log1p, _floating(input))


log1p.vjps(input=lambda g, input: div(g, add(input, 1.0)))


@op
def _gelu(input: Any) -> Any:
    return on(input).gelu(_floating(input))


@op
def _gelu_grad(g: Any, input: Any) -> Any:
    return on(g).gelu_grad(g, input)


def _gelu_second(input: Any) -> Any:
    """The density of the normal distribution times (2 - input ** 2)."""
    squared = square(clamp(input, -40.0, 40.0))  # beyond, it is 0, and not 0 * inf
    return mul(exp(mul(squared, -0.5)), mul(sub(2.0, squared), 1 / math.sqrt(2 * math.pi)))


_gelu.vjps(input=lambda g, input: _gelu_grad(g, input))
_gelu_grad.vjps(
    g=lambda gg, input: _gelu_grad(gg, input),
    input=lambda gg, g, input: mul(mul(gg, g), _gelu_second(input)),
)


def gelu(input: Any, approximate: str = "none") -> Any:
    """input * Phi(input), Phi the normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    `approximate="tanh"` takes the paper's formula with tanh. Raises ValueError for another value.
    """
    check_approximate("gelu", approximate)
    if approximate == "none":
        return _gelu(input)
    return _gated(input, math.sqrt(8 / math.pi), math.sqrt(8 / math.pi) * 0.044715)


def check_approximate(name: str, approximate: Any) -> None:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"{name} expects approximate 'none' or 'tanh', got {approximate!r}")


def silu(input: Any) -> Any:
    """As `nn.functional.silu`, out of place."""
    return _gated(input, 1.0, 0.0)


@op
def _gated(input: Any, linear: float, cubic: float) -> Any:
    """input * sigmoid(linear * input + cubic * input ** 3)"""
    return on(input).gated(_floating(input), linear, cubic)


@op
def _gated_grad(g: Any, input: Any, linear: float, cubic: float) -> Any:
    return on(g).gated_grad(g, input, linear, cubic)


def _gated_second(x: Any, linear: float, cubic: float) -> Any:
    """s (1 - s) (2 p + x p' + x p ** 2 (1 - 2 s)), s the sigmoid and p the derivative of its argument."""
    x = clamp(x, -1000.0, 1000.0)  # beyond, it is 0, and not 0 * inf
    squared = square(x)
    s = sigmoid(mul(x, add(mul(squared, cubic), linear)))
    p = add(mul(squared, 3 * cubic), linear)
    bend = add(add(mul(p, 2.0), mul(squared, 6 * cubic)), mul(mul(x, square(p)), sub(1.0, mul(s, 2.0))))
    return mul(mul(s, sub(1.0, s)), bend)


_gated.vjps(input=lambda g, input, linear, cubic: _gated_grad(g, input, linear, cubic))
_gated_grad.vjps(
    g=lambda gg, input, linear, cubic: _gated_grad(gg, input, linear, cubic),
    input=lambda gg, g, input, linear, cubic: mul(mul(gg, g), _gated_second(input, linear, cubic)),
)


@op
@silent
def _softplus(input: Any) -> Any:
    return np.logaddexp(input, input.dtype.type(0))


_softplus.vjps(input=lambda g, input: mul(g, sigmoid(input)))


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * input)) / beta, and input itself where beta * input > threshold."""
    if check_beta("softplus", beta) == 1.0:
        return where(gt(input, threshold), input, _softplus(input))
    scaled = mul(input, beta)
    return where(gt(scaled, threshold), input, div(_softplus(scaled), beta))


def check_beta(name: str, beta: Any) -> Any:
    if real(name, "beta", beta) == 0:
        raise ValueError(f"{name} expects a beta other than 0, by which it divides")
    return beta


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """As `nn.functional.hardtanh`, out of place."""
    inside = logical_and(gt(input, min_val), lt(input, max_val))
    return where(inside, input, clamp(input, min_val, max_val).detach())
