"""Ops that reduce dimensions to one number, softmax among them: it divides by such a number."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable
from ..dtypes import as_dtype, int64, is_float
from ..kernels import on, silent
from ..op import op
from .dims import array_of, dim_of, dims_of, numpy_names
from .elementwise import _floating, abs, cast, clamp, div, eq, exp, maximum, minimum, mul, ne, pow, sub, where
from .index import gather
from .shape import _flip, _part, _reshape, cat

# --------------------------------------------------------------------------------------------- spreading back


@op(view=True)
def _spread(g: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdim: bool) -> Any:
    """A reduced array, repeated over the reduced axes: the adjoint of a sum."""
    return np.broadcast_to(g if keepdim else np.expand_dims(g, axes), shape)


# ----------------------------------------------------------------------------------------------- sum and mean


@op
def _sum(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    if input.dtype.kind != "f":
        return np.sum(input, axis=axes, dtype=int64, keepdims=keepdim)
    return on(input).sum(input, axes, keepdim)


_sum.vjps(input=lambda g, input_shape, axes, keepdim: _spread(g, input_shape, axes, keepdim))
_spread.vjps(g=lambda v, axes, keepdim: _sum(v, axes=axes, keepdim=keepdim))


@numpy_names
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum over dim, an int or several, or over everything; 0 of nothing. Integers and bools add up to int64.

    >>> import tinygrad_cnn as tg
    >>> tg.ones(2, 3).sum(dim=1)
    tensor([3., 3.])
    """
    axes = dims_of("sum", dim, array_of("sum", input).ndim)
    return _sum(_in_dtype(input, dtype), axes=axes, keepdim=keepdim)


def _in_dtype(input: Any, dtype: Any) -> Any:
    return input if dtype is None or as_dtype(dtype) == input._array.dtype else cast(input, as_dtype(dtype))


def _floats(op: str, input: Any) -> np.ndarray:
    array = array_of(op, input)
    if not is_float(array.dtype):
        raise RuntimeError(f"{op} expects a floating-point tensor, got {array.dtype}; use .float()")
    return array


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


@op
def _mean(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return on(input).mean(input, axes, keepdim)


_mean.vjps(
    input=lambda g, input_shape, axes, keepdim: _spread(
        div(g, float(_count(input_shape, axes))), input_shape, axes, keepdim
    )
)


@numpy_names
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean over dim, an int or several, or over everything; NaN of nothing. RuntimeError for integers."""
    input = _in_dtype(input, dtype)
    axes = dims_of("mean", dim, _floats("mean", input).ndim)
    return _mean(input, axes=axes, keepdim=keepdim)


# --------------------------------------------------------------------------------------------------- variance


def _var_of(x: np.ndarray, axes: tuple[int, ...], correction: float, keepdim: bool) -> Any:
    centred = x - on(x).mean(x, axes, True)
    total = on(x).sum(np.square(centred), axes, keepdim)
    return total * x.dtype.type(_one_over(_count(x.shape, axes) - correction))


def _one_over(freedom: float) -> float:
    return 1 / freedom if freedom > 0 else math.inf


def _var_vjp(g: Any, input: Any, axes: tuple[int, ...], correction: float, keepdim: bool) -> Any:
    """g * 2 (x - mean) / (n - correction)"""
    shape = input._array.shape
    g = _spread(mul(g, 2 * _one_over(_count(shape, axes) - correction)), shape, axes, keepdim)
    return mul(g, sub(input, _mean(input, axes=axes, keepdim=True)))


@op
@silent
def _var(input: Any, axes: tuple[int, ...], correction: float, keepdim: bool) -> Any:
    return _var_of(input, axes, correction, keepdim)


_var.vjps(input=lambda g, input, axes, correction, keepdim: _var_vjp(g, input, axes, correction, keepdim))


@op
@silent
def _std(input: Any, axes: tuple[int, ...], correction: float, keepdim: bool) -> Any:
    return np.sqrt(_var_of(input, axes, correction, keepdim))


def _half_over(g: Any, out: Any) -> Any:
    """g / (2 out), and 0 where out is 0."""
    flat = eq(out, 0.0)
    return where(flat, 0.0, div(g, mul(where(flat, 1.0, out), 2.0)))


_std.vjps(
    input=lambda g, input, out, axes, correction, keepdim: _var_vjp(
        _half_over(g, out), input, axes, correction, keepdim
    )
)


def _spread_args(op: str, input: Any, dim: Any, unbiased: Any, correction: Any) -> dict[str, Any]:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise TypeError(f"{op}: give unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return {"axes": dims_of(op, dim, _floats(op, input).ndim), "correction": correction}


@numpy_names
def var(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    """The sum of squared deviations from the mean over (n - correction); correction is 1, or 0 for unbiased=False.

    NaN for a single element with correction 1. RuntimeError for integers.
    """
    return _var(input, keepdim=keepdim, **_spread_args("var", input, dim, unbiased, correction))


@numpy_names
def std(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    """The square root of `var`; its gradient at 0 is 0, as in PyTorch."""
    return _std(input, keepdim=keepdim, **_spread_args("std", input, dim, unbiased, correction))


# ---------------------------------------------------------------------------------------------------- product


@op
@silent
def _prod(input: Any, axis: int) -> Any:
    return np.multiply.reduce(input, axis, dtype=None if is_float(input.dtype) else int64)


def _others(x: Any, axis: int) -> Any:
    """For each element the product of all others along the axis, by products of pairs: right for any number of zeros.

    With pairs (a, b) and the products O of all other pairs, a receives O*b and b receives O*a.
    """
    n = x._array.shape[axis]
    if n < 2:
        return Variable.new(np.ones_like(x._array))
    half = n // 2
    a, b, rest = _part(x, axis, 0, half), _part(x, axis, half, 2 * half), _part(x, axis, 2 * half, n)
    others = _others(cat([mul(a, b), rest], axis), axis)
    pairs = _part(others, axis, 0, half)
    return cat([mul(pairs, b), mul(pairs, a), _part(others, axis, half, half + n % 2)], axis)


_prod.vjps(input=lambda g, input, axis: mul(_spread(g, input._array.shape, (axis,), False), _others(input, axis)))


@numpy_names
def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product over one dimension, or over everything; 1 of nothing. Integers multiply to int64."""
    input = _in_dtype(input, dtype)
    ndim = array_of("prod", input).ndim
    if dim is None or ndim == 0:
        if dim is not None:
            dim_of("prod", dim, ndim)
        return _prod(_reshape(input, (-1,)), axis=0)
    axis = dim_of("prod", dim, ndim)
    out = _prod(input, axis=axis)
    return out.unsqueeze(axis) if keepdim else out


# --------------------------------------------------------------------------------------- largest and smallest


class Extreme(NamedTuple):
    """What `max` and `min` along a dimension return."""

    values: Any
    indices: Any


def _extreme_index(op: str, pick: Any, input: Any, dim: Any) -> tuple[np.ndarray, int]:
    """The index of the first extreme element along dim, kept as a dimension of size 1."""
    array = array_of(op, input)
    axis = dim_of(op, dim, array.ndim)
    if array.ndim == 0:
        return np.zeros((), int64), 0
    if array.shape[axis] == 0:
        raise IndexError(f"{op}: dimension {axis} of shape {array.shape} has no element to choose from")
    return np.asarray(pick(array, axis=axis, keepdims=True)), axis


def _extreme(op: str, pick: Any, input: Any, dim: Any, keepdim: bool) -> Any:
    if dim is None:
        if array_of(op, input).size == 0:
            raise RuntimeError(f"{op}: a tensor of shape {input._array.shape} has no element; give a dim of some size")
        flat = _reshape(input, (-1,))
        return flat[int(pick(flat._array))].clone()
    index, axis = _extreme_index(op, pick, input, dim)
    indices = Variable.new(index)
    values = gather(input, axis, indices)
    if not keepdim and index.ndim:
        values, indices = values.squeeze(axis), indices.squeeze(axis)
    return Extreme(values, indices)


@numpy_names
def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest element, or (values, indices) along dim; with a tensor for dim or other, `maximum`.

    NaN counts as the largest; of equal elements the first in row-major order is chosen and receives the
    gradient. Raises RuntimeError or IndexError where there is nothing to choose from.
    """
    if isinstance(dim, Variable) or other is not None:
        return maximum(input, dim if other is None else other)
    return _extreme("max", np.argmax, input, dim, keepdim)


@numpy_names
def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest element, or (values, indices) along dim; with a tensor for dim or other, `minimum`.

    NaN counts as the smallest; of equal elements the first in row-major order is chosen and receives the
    gradient. Raises RuntimeError or IndexError where there is nothing to choose from.
    """
    if isinstance(dim, Variable) or other is not None:
        return minimum(input, dim if other is None else other)
    return _extreme("min", np.argmin, input, dim, keepdim)


def _arg(op: str, pick: Any, input: Any, dim: Any, keepdim: bool) -> Any:
    if dim is None:
        array = array_of(op, input)
        if array.size == 0:
            raise IndexError(f"{op}: a tensor of shape {array.shape} has no element to choose from")
        return Variable.new(np.full((1,) * array.ndim if keepdim else (), pick(array), int64))
    index, axis = _extreme_index(op, pick, input, dim)
    return Variable.new(index if keepdim or not index.ndim else index.squeeze(axis))


@numpy_names
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index, int64, of the first largest element along dim, or in the flattened tensor; NaN is the largest."""
    return _arg("argmax", np.argmax, input, dim, keepdim)


@numpy_names
def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index, int64, of the first smallest element along dim, or in the flattened tensor; NaN is the smallest."""
    return _arg("argmin", np.argmin, input, dim, keepdim)


def _shared(g: Any, input: Any, out: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    """g in equal parts to all elements that are equal to the result."""
    shape = input._array.shape
    ties = cast(eq(input, _spread(out, shape, axes, keepdim)), g._array.dtype)
    return mul(_spread(div(g, _sum(ties, axes=axes, keepdim=keepdim)), shape, axes, keepdim), ties)


@op
def _amax(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return np.max(input, axes, keepdims=keepdim)


@op
def _amin(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return np.min(input, axes, keepdims=keepdim)


_amax.vjps(input=lambda g, input, out, axes, keepdim: _shared(g, input, out, axes, keepdim))
_amin.vjps(input=lambda g, input, out, axes, keepdim: _shared(g, input, out, axes, keepdim))


def _extreme_axes(op: str, input: Any, dim: Any) -> tuple[int, ...]:
    shape = array_of(op, input).shape
    axes = dims_of(op, dim, len(shape))
    if _count(shape, axes) == 0:
        raise IndexError(f"{op}: dimensions {axes} of shape {shape} have no element to choose from")
    return axes


@numpy_names
def amax(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest elements over dim, an int or several, or all; NaN wins; ties share the gradient."""
    return _amax(input, axes=_extreme_axes("amax", input, dim), keepdim=keepdim)


@numpy_names
def amin(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The smallest elements over dim, an int or several, or all; NaN wins; ties share the gradient."""
    return _amin(input, axes=_extreme_axes("amin", input, dim), keepdim=keepdim)


# ------------------------------------------------------------------------------------------------------ norms


@op
@silent
def _norm2(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return np.sqrt(on(input).sum(np.square(input), axes, keepdim))


def _norm2_vjp(g: Any, input: Any, out: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    """g x / |x|, and 0 where the norm is 0."""
    zero = eq(out, 0.0)
    scale = where(zero, 0.0, div(g, where(zero, 1.0, out)))
    return mul(_spread(scale, input._array.shape, axes, keepdim), input)


_norm2.vjps(input=lambda g, input, out, axes, keepdim: _norm2_vjp(g, input, out, axes, keepdim))


def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Any:
    """The p-norm of the elements over dim, an int or several, or all: (sum of |x| ** p) ** (1 / p).

    p is a number, inf, -inf or "fro", which is 2; 0 counts the elements that are not 0. The gradient where
    the norm is 0 is 0. Raises RuntimeError for integers and ValueError for another name.
    """
    axes = dims_of("norm", dim, _floats("norm", input).ndim)
    if isinstance(p, str) and p not in ("fro", "inf", "-inf"):
        raise ValueError(f"norm: p must be a number, inf, -inf or 'fro', got {p!r}")
    order = 2.0 if p == "fro" else float(p)
    if order == 2:
        return _norm2(input, axes=axes, keepdim=keepdim)
    if order == 0:
        return _sum(cast(ne(input, 0.0), input._array.dtype), axes=axes, keepdim=keepdim)
    size = abs(input)
    if order == 1:
        return _sum(size, axes=axes, keepdim=keepdim)
    if math.isinf(order):
        return (amax if order > 0 else amin)(size, axes, keepdim)
    zero = eq(size, 0.0)
    total = _sum(
        where(zero, 0.0 if order > 0 else math.inf, pow(where(zero, 1.0, size), order)),
        axes=axes,
        keepdim=keepdim,
    )
    flat = eq(total, 0.0)
    return where(flat, 0.0, pow(where(flat, 1.0, total), 1 / order))


def normalize(input: Any, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """input / max(norm(input, p, dim), eps): vectors of p-norm 1 along dim, an int or several; 0 where input is.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.normalize(tg.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return div(input, clamp(norm(input, p, dim, True), min=eps))


# ------------------------------------------------------------------------------------ log-sum-exp and softmax


@op
@silent
def _logsumexp(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    k = on(input)
    input = _floating(input)
    top = np.maximum.reduce(input, axes, keepdims=True)
    top = np.where(np.isfinite(top), top, input.dtype.type(0))
    out = np.log(k.sum(k.exp(input - top), axes, True)) + top
    return out if keepdim else out.squeeze(axes)


def _logsumexp_vjp(g: Any, input: Any, out: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    """g softmax(x), which is 0 in a row of -inf."""
    shape = input._array.shape
    out = where(eq(out, -math.inf), 0.0, out)
    return mul(_spread(g, shape, axes, keepdim), exp(sub(input, _spread(out, shape, axes, keepdim))))


_logsumexp.vjps(input=lambda g, input, out, axes, keepdim: _logsumexp_vjp(g, input, out, axes, keepdim))


@numpy_names
def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """log of the sum of exp over dim, an int or several, without overflow; -inf for nothing but -inf."""
    shape = array_of("logsumexp", input).shape
    axes = dims_of("logsumexp", dim, len(shape))
    if _count(shape, axes) == 0:
        return sum(input, axes, keepdim) - math.inf
    return _logsumexp(input, axes=axes, keepdim=keepdim)


@op
def _softmax(input: Any, axis: int) -> Any:
    return _by_row(on(input).softmax, input, axis)


def _by_row(kernel: Any, x: np.ndarray, axis: int) -> np.ndarray:
    """A kernel on rows (R, C), applied along any axis."""
    last = np.moveaxis(x, axis, -1)
    out = kernel(last.reshape(-1, last.shape[-1]) if last.size else last.reshape(0, last.shape[-1]))
    return np.moveaxis(out.reshape(last.shape), -1, axis)


def _softmax_vjp(g: Any, out: Any, axis: int) -> Any:
    """out * (g - sum(g * out))"""
    weighted = mul(g, out)
    return sub(weighted, mul(out, _sum(weighted, axes=(axis,), keepdim=True)))


_softmax.vjps(input=lambda g, out, axis: _softmax_vjp(g, out, axis))


@op
def _log_softmax(input: Any, axis: int) -> Any:
    return _by_row(on(input).log_softmax, input, axis)


_log_softmax.vjps(input=lambda g, out, axis: sub(g, mul(exp(out), _sum(g, axes=(axis,), keepdim=True))))


@numpy_names
def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """exp(input) over its sum along dim, without overflow; NaN for nothing but -inf. RuntimeError for integers."""
    return _normalised("softmax", _softmax, input, dim, dtype)


@numpy_names
def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """The logarithm of softmax along dim, accurate where softmax is near 0. RuntimeError for integers."""
    return _normalised("log_softmax", _log_softmax, input, dim, dtype)


def _normalised(name: str, op: Any, input: Any, dim: int, dtype: Any) -> Any:
    array_of(name, input)
    input = _in_dtype(input, dtype)
    array = _floats(name, input)
    axis = dim_of(name, dim, array.ndim)
    if array.ndim:
        return op(input, axis=axis)
    return op(_reshape(input, (1,)), axis=0).reshape(())


# ------------------------------------------------------------------------------------------ running and truth


@op
@silent
def _cumsum(input: Any, axis: int) -> Any:
    return np.cumsum(input, axis, dtype=None if is_float(input.dtype) else int64)


_cumsum.vjps(input=lambda g, axis: _flip(_cumsum(_flip(g, axes=(axis,)), axis=axis), axes=(axis,)))


@numpy_names
def cumsum(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """out[i] = input[0] + ... + input[i] along dim; integers and bools add up to int64."""
    input = _in_dtype(input, dtype)
    array = array_of("cumsum", input)
    axis = dim_of("cumsum", dim, array.ndim)
    if array.ndim == 0:
        return _sum(input, axes=(), keepdim=False)
    return _cumsum(input, axis=axis)


@op
def _any(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return np.any(input, axis=axes, keepdims=keepdim)


@op
def _all(input: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return np.all(input, axis=axes, keepdims=keepdim)


@numpy_names
def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether some element over dim, an int or several, or all, is not 0: a bool tensor; False of nothing."""
    return _any(input, axes=dims_of("any", dim, array_of("any", input).ndim), keepdim=keepdim)


@numpy_names
def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether every element over dim, an int or several, or all, is not 0: a bool tensor; True of nothing."""
    return _all(input, axes=dims_of("all", dim, array_of("all", input).ndim), keepdim=keepdim)
