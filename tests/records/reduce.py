"""Records of reductions, norms and softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import OpRecord
from tinygrad_cnn.testing import strategies as draw


@st.composite
def reductions(
    d: st.DrawFn,
    before: tuple[Any, ...] = (),
    after: tuple[Any, ...] = (),
    several: bool = True,
    least: int = 0,
    whole: bool = True,
    tied: bool = False,
) -> list[Any]:
    """[x, *before, dim, *after, keepdim]; no two elements have the same size, or many have the same value."""
    shape = d(draw.shapes(least // 2 if whole else 1, 3, least, 3))
    x = d(draw.tied(shape) if tied else draw.distinct(shape, layout="C").map(lambda x: x + 2.0**-6))
    x = d(draw.layouts(np.asarray(x)))
    n = len(shape)
    dims: list[Any] = [st.none()] if whole or not n else []
    if n:
        dims.append(st.integers(-n, n - 1))
    if n and several:
        dims.append(st.sets(st.integers(0, n - 1), min_size=1).map(lambda some: tuple(i - n for i in some)))
    dim = d(st.one_of(dims))
    return [x, *before, dim, *after, d(st.booleans()) if dim is not None else False]  # fmt: skip


def reduction(name: str, op: Any, ref: Any, degree: int | None = None, second: bool = True, **options: Any) -> OpRecord:
    """ref takes (x, axis, keepdims)."""
    skip = len(options.get("before", ()))
    errors = [([np.ones((2, 3)), *options.get("before", ()), 2], IndexError, "dim 2")]
    return OpRecord(
        name, op, lambda x, *rest: ref(x, rest[skip], rest[-1]), reductions(**options), errors, degree, second=second
    )


def numpy(fn: Any, **options: Any) -> Any:
    return lambda x, axis, keepdims: fn(x, axis=axis, keepdims=keepdims, **options)


def p_norm(p: float) -> Any:
    return lambda x, axis, keepdims: (np.abs(x) ** p).sum(axis, keepdims=keepdims) ** (1 / p)


def logsumexp(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x).sum(axis, keepdims=keepdims))


def extreme(value: Any, index: Any) -> Any:
    """The value alone, or along a dimension with its index."""

    def ref(x: np.ndarray, axis: int | None, keepdims: bool) -> Any:
        if axis is None:
            return value(x)
        return value(x, axis=axis, keepdims=keepdims), index(x, axis=axis, keepdims=keepdims)

    return ref


def amax(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return tg.amax(x, () if dim is None else dim, keepdim)


def amin(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return tg.amin(x, () if dim is None else dim, keepdim)


def log_softmax(x: np.ndarray, axis: int) -> Any:
    x = x - x.max(axis, keepdims=True, initial=-np.inf)
    return x - logsumexp(x, axis, True)


@st.composite
def along(d: st.DrawFn) -> list[Any]:
    shape = d(draw.shapes(1, 3, 0, 4))
    return [d(draw.arrays(shape)), d(st.integers(-len(shape), len(shape) - 1))]


@st.composite
def summed(d: st.DrawFn) -> list[Any]:
    """A tensor and a shape that expands to its shape."""
    small, _ = d(draw.broadcastable(2, max_dims=3, max_side=3))
    full = (*d(draw.shapes(0, 2, 0, 3)), *(d(st.integers(0, 3)) if n == 1 else n for n in small))
    return [d(draw.arrays(full)), *small]


def sum_to_size(x: np.ndarray, *small: int) -> Any:
    lead = x.ndim - len(small)
    return x.sum((*range(lead), *(i + lead for i, n in enumerate(small) if n == 1))).reshape(small)


def normalized_squares(x: np.ndarray, axis: int) -> Any:
    """Of 1 + x ** 2, far from the vector 0, where the direction is anything."""
    y = x * x + 1
    return y / np.sqrt((y * y).sum(axis, keepdims=True))


OUT_OF_RANGE = [([np.ones((2, 3)), 2], IndexError, "dim 2")]

RECORDS = [
    reduction("sum", tg.sum, numpy(np.sum), 1),
    reduction("mean", tg.mean, numpy(np.mean), 1, least=1),
    reduction("var", tg.var, numpy(np.var), 2, after=(False,), least=1),
    reduction("var unbiased", tg.var, numpy(np.var, ddof=1), 2, after=(True,), least=2),
    reduction("std", tg.std, numpy(np.std), after=(False,), least=2),
    reduction("std unbiased", tg.std, numpy(np.std, ddof=1), after=(None,), least=2),
    reduction("amax", amax, numpy(np.max), least=1),
    reduction("amax of ties", amax, numpy(np.max), least=1, tied=True, second=False),
    reduction("amin", amin, numpy(np.min), least=1),
    reduction("amin of ties", amin, numpy(np.min), least=1, tied=True, second=False),
    reduction("max", tg.max, extreme(np.max, np.argmax), several=False, least=1),
    reduction("min", tg.min, extreme(np.min, np.argmin), several=False, least=1),
    reduction("prod", tg.prod, numpy(np.prod), several=False),
    reduction("norm", tg.norm, p_norm(2), before=("fro",), least=1),
    reduction("norm 1", tg.norm, p_norm(1), before=(1,), least=1),
    reduction("norm 3", tg.norm, p_norm(3), before=(3,), least=1),
    reduction(
        "norm inf", tg.norm, lambda x, axis, keep: np.abs(x).max(axis, keepdims=keep), before=(math.inf,), least=1
    ),
    reduction("logsumexp", tg.logsumexp, logsumexp, least=1, whole=False),
    OpRecord("softmax", tg.softmax, lambda x, a: np.exp(x) / np.exp(x).sum(a, keepdims=True), along(), OUT_OF_RANGE),
    OpRecord("log_softmax", tg.log_softmax, log_softmax, along(), OUT_OF_RANGE),
    OpRecord(
        "normalize", lambda x, axis: F.normalize(x.square() + 1, dim=axis), normalized_squares, along(), OUT_OF_RANGE
    ),
    OpRecord("cumsum", tg.cumsum, np.cumsum, along(), OUT_OF_RANGE, 1),
    OpRecord(
        "sum_to_size", tg.Tensor.sum_to_size, sum_to_size, summed(),
        [([np.ones((2, 3)), 2, 2], RuntimeError, "(2, 2)")], 1,
    ),
]  # fmt: skip
