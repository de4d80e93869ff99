"""Batch norm and layer norm: values, running statistics, gradients of both orders, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests import naive
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import gradcheck, gradgradcheck
from tinygrad_cnn.testing.strategies import arrays, distinct, tensors

EPS = 0.5  # large enough that batches of equal values stay well conditioned


@st.composite
def batches(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """(N, C), (N, C, L), (N, C, H, W) or more, at least two values a channel; weight and bias, or neither."""
    rest = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = draw(st.integers(2, 3)), draw(st.integers(1, 3)), *rest
    x = draw(tensors(distinct(shape)))
    return x, *_weights(draw, shape[1:2])


@st.composite
def items(draw: st.DrawFn) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """Tensors and the shape of their last dimensions, which layer norm takes together."""
    features = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    shape = *draw(st.lists(st.integers(1, 3), max_size=2)), *features
    x = draw(tensors(distinct(shape)))
    return x, *_weights(draw, features), features


def _weights(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, Any]:
    if draw(st.booleans()):
        return None, None
    return draw(tensors(arrays(shape))), draw(tensors(arrays(shape)))


def _of(x: Any, shape: tuple[int, ...], default: float) -> np.ndarray:
    return np.full(shape, default) if x is None else x.numpy()


def train(x: Any, weight: Any = None, bias: Any = None) -> Any:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)


def given_tensors(*xs: Any) -> list[Any]:
    return [x for x in xs if x is not None]


# ------------------------------------------------------------------------------------------------- batch norm


@given(batches())
def test_batch_norm_normalises_each_channel(problem: Any) -> None:
    """Training values equal the plain loops in any number of dimensions and any layout."""
    x, weight, bias = problem
    c = (x.shape[1],)
    expected = naive.batch_norm(x.numpy(), _of(weight, c, 1.0), _of(bias, c, 0.0), EPS)
    np.testing.assert_allclose(train(x, weight, bias).numpy(), expected, rtol=1e-11, atol=1e-11)


@given(batches())
def test_batch_norm_gradients(problem: Any) -> None:
    """The fused backward, and the composed one that gradients of gradients come from."""
    xs = given_tensors(*problem)
    gradcheck(train, xs)
    gradgradcheck(train, xs)


@given(batches())
def test_evaluation_is_an_affine_map(problem: Any) -> None:
    """(x - mean) / sqrt(var + eps) * weight + bias with the running statistics, and its gradients."""
    x, weight, bias = problem
    rng = np.random.default_rng(0)
    mean, var = (tg.from_numpy(rng.random(x.shape[1])) for _ in range(2))

    def fn(x: Any, weight: Any = None, bias: Any = None) -> Any:
        return F.batch_norm(x, mean, var, weight, bias, eps=EPS)

    shape = -1, *[1] * (x.ndim - 2)
    expected = (x - mean.reshape(shape)) / (var.reshape(shape) + EPS).sqrt()
    if weight is not None:
        expected = expected * weight.reshape(shape) + bias.reshape(shape)
    np.testing.assert_allclose(fn(x, weight, bias).numpy(), expected.numpy(), rtol=1e-11, atol=1e-11)
    gradcheck(fn, given_tensors(x, weight, bias), degree=2)
    gradgradcheck(fn, given_tensors(x, weight, bias))


def test_running_statistics_move_by_momentum() -> None:
    """running = (1 - m) * running + m * batch, with the unbiased variance, in place and guarded."""
    x = tg.from_numpy(np.random.default_rng(0).normal(3, 2, (4, 2, 3, 3)))
    mean, var = tg.zeros(2), tg.ones(2)
    F.batch_norm(x, mean, var, training=True, momentum=0.25)
    flat = x.numpy().transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(mean.numpy(), 0.25 * flat.mean(1), rtol=1e-6)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * flat.var(1, ddof=1), rtol=1e-6)
    assert mean.dtype == np.float32 and mean._version_number == 1


def test_a_shift_of_the_input_changes_nothing() -> None:
    """A large common offset cancels: the variance is not the difference of two large sums."""
    x = tg.from_numpy(np.random.default_rng(0).normal(size=(64, 2, 4, 4)).astype(np.float32))
    far = train(x + 4096.0)
    np.testing.assert_allclose(far.numpy(), train(x).numpy(), atol=1e-3)


def test_the_input_gradient_sums_to_zero() -> None:
    """The output does not depend on the mean, so nothing flows along it."""
    x = tg.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 2))).requires_grad_()
    train(x).backward(tg.from_numpy(np.random.default_rng(1).normal(size=x.shape)))
    assert x.grad is not None and x.grad.sum((0, 2)).abs().amax().item() < 1e-12


# ------------------------------------------------------------------------------------------------- layer norm


@given(items())
def test_layer_norm_normalises_each_item(problem: Any) -> None:
    """Values equal the plain loops over items of one or two dimensions."""
    x, weight, bias, features = problem
    y = F.layer_norm(x, features, weight, bias, EPS)
    expected = naive.layer_norm(x.numpy(), len(features), _of(weight, features, 1.0), _of(bias, features, 0.0), EPS)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-11)


@given(items())
def test_layer_norm_gradients(problem: Any) -> None:
    """The fused backward, and the composed one."""
    x, weight, bias, features = problem

    def fn(x: Any, weight: Any = None, bias: Any = None) -> Any:
        return F.layer_norm(x, features, weight, bias, EPS)

    gradcheck(fn, given_tensors(x, weight, bias))
    gradgradcheck(fn, given_tensors(x, weight, bias))


def test_empty_batches() -> None:
    """Layer norm of no items is no items; batch norm in evaluation too."""
    assert F.layer_norm(tg.ones(0, 3), 3).shape == (0, 3)
    assert F.batch_norm(tg.ones(0, 3, 2), tg.zeros(3), tg.ones(3)).shape == (0, 3, 2)


# ------------------------------------------------------------------------------------------------- errors

X, C = tg.ones(4, 3, 2), tg.ones(3)
ERRORS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("integers", lambda: F.batch_norm(X.long(), C, C), TypeError, ["int64"]),
    ("a vector", lambda: F.batch_norm(C, C, C), ValueError, ["1 dimensions"]),
    ("channels", lambda: F.batch_norm(X, C[:2], C), ValueError, ["expects 2", "num_features=3"]),
    ("weight", lambda: F.batch_norm(X, C, C, C[:2]), ValueError, ["weight", "(2,)"]),
    ("weight dtype", lambda: F.batch_norm(X, C, C, C.double()), TypeError, ["float64"]),
    ("no statistics", lambda: F.batch_norm(X, None, None), ValueError, ["running_mean", "training=True"]),
    ("half of them", lambda: F.batch_norm(X, C, None, training=True), ValueError, ["both"]),
    ("one value", lambda: F.batch_norm(X[:1, :, :1], C, C, training=True), ValueError, ["(1, 3, 1)", "eval"]),
    ("negative eps", lambda: F.batch_norm(X, C, C, eps=-1.0), ValueError, ["eps >= 0"]),
    ("features", lambda: F.layer_norm(X, (3,)), ValueError, ["(3,)", "(4, 3, 2)", "normalized_shape=(2,)"]),
    ("no features", lambda: F.layer_norm(X, ()), ValueError, ["normalized_shape"]),
    ("layer weight", lambda: F.layer_norm(X, 2, C), ValueError, ["weight", "(2,)", "(3,)"]),
    ("layer dtype", lambda: F.layer_norm(X, 2, X.double()[0, 0]), TypeError, ["float64"]),
    ("a word", lambda: F.layer_norm(X, "last"), TypeError, ["'last'"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "parts"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_show_the_numbers(call: Any, error: type[Exception], parts: list[str]) -> None:
    """Each bad argument is a typed exception with the shapes."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_an_error_leaves_the_statistics_alone() -> None:
    """Statistics are touched only once everything is known to fit."""
    mean, var = tg.zeros(3), tg.ones(3)
    with pytest.raises(ValueError, match="bias"):
        F.batch_norm(X, mean, var, C, C[:2], training=True)
    assert (mean == 0).all() and (var == 1).all()
