"""Matrix products: every case comes down to one product of matrices, or of batches of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import Variable
from ..kernels import on
from ..op import op
from .dims import array_of
from .elementwise import _relu_grad
from .reduce import _sum
from .shape import _permute, _reshape


@op(broadcasts=True)
def _matmul(input: Any, other: Any) -> Any:
    """(M, K) @ (K, N), or (..., M, K) @ (..., K, N) with the leading dimensions broadcast."""
    if input.ndim == other.ndim == 2:
        return on(input).matmul(input, other)
    batch = np.broadcast_shapes(input.shape[:-2], other.shape[:-2])
    count = math.prod(batch)  # not -1, which is any number where M, K or N is 0
    # (..., M, K) -> (B, M, K)
    a, b = (np.broadcast_to(x, batch + x.shape[-2:]).reshape(count, *x.shape[-2:]) for x in (input, other))
    return on(input).matmul(a, b).reshape(*batch, input.shape[-2], other.shape[-1])


def _swap(x: Any) -> Any:
    """The matrices transposed."""
    order = tuple(range(x.ndim))
    return _permute(x, (*order[:-2], order[-1], order[-2]))


_matmul.vjps(
    input=lambda g, other: _matmul(g, _swap(other)),
    other=lambda g, input: _matmul(_swap(input), g),
)


def matmul(input: Any, other: Any) -> Any:
    """The matrix product: (..., M, K) @ (..., K, N), leading dimensions broadcast.

    A vector on the left is a row, on the right a column, and its dimension goes away again; two vectors give
    their dot product. Raises RuntimeError when the dtypes differ or the shapes do not fit.

    >>> import tinygrad_cnn as tg
    >>> (tg.ones(5, 2, 3) @ tg.ones(3, 4)).shape
    (5, 2, 4)
    """
    input, other = (Variable.new(x) if isinstance(x, np.ndarray) else x for x in (input, other))
    a, b = array_of("matmul", input).shape, array_of("matmul", other).shape
    if input._array.dtype != other._array.dtype:
        raise RuntimeError(f"matmul: dtypes {input._array.dtype} and {other._array.dtype} differ; cast one with .to()")
    if not a or not b:
        raise RuntimeError(f"matmul: shapes {a} and {b}: a 0-d tensor has no rows or columns; use *")
    if a[-1] != b[-2 if len(b) > 1 else 0]:
        raise RuntimeError(f"matmul: {a} @ {b}: the {a[-1]} columns of the first meet {b[-2:][0]} rows of the second")
    if len(a) == 1:
        input = _reshape(input, (1, *a))
    if len(b) == 1:
        other = _reshape(other, (*b, 1))
    if len(a) > 2 and len(b) <= 2:  # (..., M, K) -> (...*M, K): one product, and no sum over batches in backward
        out = _reshape(_matmul(_reshape(input, (math.prod(a[:-1]), a[-1])), other), (*a[:-1], other._array.shape[1]))
    else:
        _check_batches(a, b)
        out = _matmul(input, other)
    if len(a) > 1 and len(b) > 1:
        return out
    shape = out._array.shape
    rows = shape[-2:-1] if len(a) > 1 else ()
    columns = shape[-1:] if len(b) > 1 else ()
    return _reshape(out, (*shape[:-2], *rows, *columns))


def mm(input: Any, mat2: Any) -> Any:
    """(M, K) @ (K, N); RuntimeError for anything but matrices, where `matmul` takes more."""
    _check_ranks("mm", input, mat2, 2)
    return matmul(input, mat2)


def bmm(input: Any, mat2: Any) -> Any:
    """(B, M, K) @ (B, K, N); RuntimeError for other numbers of dimensions and for batches of two sizes."""
    _check_ranks("bmm", input, mat2, 3)
    a, b = input.shape, mat2.shape
    if a[0] != b[0]:
        raise RuntimeError(f"bmm: {a} @ {b}: batches of {a[0]} and {b[0]} matrices; matmul broadcasts a batch of 1")
    return matmul(input, mat2)


def dot(input: Any, tensor: Any) -> Any:
    """The sum of the products of two vectors of one length; RuntimeError for anything else."""
    _check_ranks("dot", input, tensor, 1)
    return matmul(input, tensor)


def _check_ranks(op: str, a: Any, b: Any, ndim: int) -> None:
    if array_of(op, a).ndim != ndim or array_of(op, b).ndim != ndim:
        raise RuntimeError(f"{op} expects two tensors of {ndim} dimensions, got {a.shape} and {b.shape}; use matmul")


def _check_batches(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise RuntimeError(
            f"matmul: {a} @ {b}: the leading dimensions {a[:-2]} and {b[:-2]} do not broadcast"
        ) from None


@op
def _linear(input: Any, weight: Any, bias: Any) -> Any:
    """(B, I), (O, I), (O,) -> (B, O)"""
    return on(input).linear(input, weight, bias)


_linear.vjps(
    input=lambda g, weight: _matmul(g, weight),
    weight=lambda g, input: _matmul(_swap(g), input),
    bias=lambda g: _sum(g, axes=(0,), keepdim=False),
)


@_linear.kernel_vjp
def _linear_grads(g: Any, wanted: Any, input: Any, weight: Any) -> Any:
    return on(g).linear_grads(g, input, weight, wanted)


@op
def _linear_relu(input: Any, weight: Any, bias: Any) -> Any:
    """The ReLU of _linear, in the same pass over memory; its gradient passes where the output is not 0."""
    return on(input).linear(input, weight, bias, relu=True)


_linear_relu.vjps(
    input=lambda g, out, weight: _matmul(_relu_grad(g, out), weight),
    weight=lambda g, out, input: _matmul(_swap(_relu_grad(g, out)), input),
    bias=lambda g, out: _sum(_relu_grad(g, out), axes=(0,), keepdim=False),
)


@_linear_relu.kernel_vjp
def _linear_relu_grads(g: Any, wanted: Any, out: Any, input: Any, weight: Any) -> Any:
    return on(g).linear_grads(g, input, weight, wanted, out)


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """input @ weight.T + bias: (..., I), (O, I), (O,) or None -> (..., O).

    Raises RuntimeError when the shapes do not fit or the dtypes differ.
    """
    return _multiply(_linear, input, weight, bias)


def linear_relu(input: Any, weight: Any, bias: Any) -> Any:
    """relu(linear(...)), for which the ReLU takes no pass over memory of its own."""
    return _multiply(_linear_relu, input, weight, bias)


def _multiply(product: Any, input: Any, weight: Any, bias: Any) -> Any:
    x, w = array_of("linear", input), array_of("linear", weight)
    b = None if bias is None else array_of("linear", bias)
    if w.ndim != 2 or x.ndim == 0:
        raise RuntimeError(f"linear expects an input of (..., in) and a weight of (out, in), got {x.shape}, {w.shape}")
    if x.shape[-1] != w.shape[1]:
        raise RuntimeError(
            f"linear expects {w.shape[1]} features, got {x.shape}: the input has {x.shape[-1]}; "
            f"set in_features={x.shape[-1]}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise RuntimeError(f"linear: a bias of shape {b.shape} does not fit {w.shape[0]} output features")
    if x.dtype != w.dtype or (b is not None and b.dtype != x.dtype):
        raise RuntimeError(
            f"linear: dtypes differ: input {x.dtype}, weight {w.dtype}, bias {None if b is None else b.dtype}; "
            f"use .to(tg.{w.dtype}) on the input"
        )
    if x.ndim == 2:
        return product(input, weight, bias)
    rows = _reshape(input, (math.prod(x.shape[:-1]), x.shape[-1]))
    return _reshape(product(rows, weight, bias), (*x.shape[:-1], w.shape[0]))


def outer(input: Any, vec2: Any) -> Any:
    """out[i, j] = input[i] * vec2[j]; RuntimeError unless both are vectors."""
    a, b = array_of("outer", input).shape, array_of("outer", vec2).shape
    if len(a) != 1 or len(b) != 1:
        raise RuntimeError(f"outer expects two vectors, got shapes {a} and {b}")
    return _reshape(input, (*a, 1)) * vec2
