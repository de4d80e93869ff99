"""grad(), and gradients of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import grad

from .tools import check, leaf, vector

# ----------------------------------------------------------------------------------------------------- grad


def test_grad_leaves_dot_grad_alone() -> None:
    x = leaf(2.0)
    y = x * x
    (dy, dx) = grad(y * 3, [y, x])
    check(dy, 3)
    check(dx, 12)
    assert x.grad is None
    assert y.grad is None


def test_grad_of_unused_inputs() -> None:
    x, y = leaf(2.0), leaf(3.0)
    with pytest.raises(RuntimeError, match="do not depend on input 1; pass allow_unused=True"):
        grad(x * 2, [x, y])
    dx, dy = grad(x * 2, [x, y], allow_unused=True)
    assert dy is None
    check(dx, 2)


def test_grad_of_one_input_named_twice() -> None:
    x = leaf(2.0)
    first, second = grad(x * x, [x, x])
    check(first, 4)
    check(second, 4)


def test_grad_outputs_weigh_the_outputs() -> None:
    x = leaf(1.0, 2.0)
    y, z = x * 2, (x * x).sum()
    (dx,) = grad([y, z], x, [tg.tensor([1.0, 10.0], dtype=tg.float64), None])
    check(dx, 4, 24)


@pytest.mark.parametrize(
    ("error", "match", "value"),
    [
        (TypeError, "got float", 1.0),
        (TypeError, "got ndarray", np.zeros((2, 3))),
        (RuntimeError, r"shape \(3, 2\) does not fit a tensor of shape \(2, 3\)", tg.zeros(3, 2)),
        (RuntimeError, r"float32 does not fit a tensor of float64", tg.zeros(2, 3)),
        (RuntimeError, "int64", tg.zeros(2, 3, dtype=tg.int64)),
    ],
)
def test_only_a_gradient_of_the_tensors_kind_can_be_assigned(error: type[Exception], match: str, value: Any) -> None:
    x = tg.zeros(2, 3, dtype=tg.float64, requires_grad=True)
    x.grad = kept = tg.ones(2, 3, dtype=tg.float64)
    with pytest.raises(error, match=match):
        x.grad = value
    assert x.grad is kept
    x.grad = None
    assert x.grad is None


def test_wrong_calls_of_backward_and_grad() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    with pytest.raises(RuntimeError, match=r"shape \(2,\): only a scalar's is taken to be 1"):
        y.backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), the tensor \(2,\)"):
        y.backward(tg.ones(3, dtype=tg.float64))
    with pytest.raises(TypeError, match="expected a Tensor or a sequence of Tensors, got float"):
        y.backward(1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a gradient must be a Tensor, got float"):
        tg.autograd.backward([y], [1.0])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected a Tensor, got str"):
        grad(y.sum(), "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 gradients for 2 tensors"):
        tg.autograd.backward([y, y], [tg.ones(2)])
    with pytest.raises(RuntimeError, match="does not require grad"):
        tg.ones(1).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad(y.sum(), tg.ones(2))
    assert x.grad is None


def test_integers_and_booleans_have_no_gradient() -> None:
    x = leaf(1.5, 2.5)
    for cut in (x.long(), x.int(), x.bool(), x > 1, x.argmax(), x.to(tg.uint8)):
        assert not cut.requires_grad
    (x * x.long().double()).sum().backward()  # the cast is a constant
    check(x.grad, 1, 2)
    with pytest.raises(RuntimeError, match="only floating-point tensors can require grad"):
        tg.ones(2, dtype=tg.int64, requires_grad=True)


# ----------------------------------------------------------------------------------- gradients of gradients

CLOSED_FORMS: dict[str, tuple[Callable[[Any], Any], list[Callable[[float], float]]]] = {
    "x^5": (lambda x: x**5, [lambda x: 5 * x**4, lambda x: 20 * x**3, lambda x: 60 * x**2]),
    "exp": (lambda x: x.exp(), [math.exp] * 3),
    "log": (lambda x: x.log(), [lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3]),
    "sin": (lambda x: x.sin(), [math.cos, lambda x: -math.sin(x), lambda x: -math.cos(x)]),
    "1/x": (lambda x: 1 / x, [lambda x: -1 / x**2, lambda x: 2 / x**3, lambda x: -6 / x**4]),
    "sqrt": (
        lambda x: x.sqrt(),
        [lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5, lambda x: 0.375 * x**-2.5],
    ),
    "tanh": (
        lambda x: x.tanh(),
        [
            lambda x: 1 - math.tanh(x) ** 2,
            lambda x: -2 * math.tanh(x) * (1 - math.tanh(x) ** 2),
            lambda x: (6 * math.tanh(x) ** 2 - 2) * (1 - math.tanh(x) ** 2),
        ],
    ),
    "x * exp(x)": (
        lambda x: x * x.exp(),
        [lambda x: (x + 1) * math.exp(x), lambda x: (x + 2) * math.exp(x), lambda x: (x + 3) * math.exp(x)],
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("at", [0.5, 1.25])
def test_derivatives_to_the_third_order(name: str, at: float) -> None:
    fn, expected = CLOSED_FORMS[name]
    x = leaf(at)
    y = fn(x)
    for derivative in expected:
        (y,) = grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(derivative(at), rel=1e-12)


def test_dot_grad_can_be_differentiated() -> None:
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    assert x.grad.requires_grad
    (x.grad * 1.0).backward()
    assert x.grad.item() == pytest.approx(12 + 12)
    x.grad = None  # ends the cycle x -> grad -> graph -> x


def test_a_gradient_penalty_trains_as_its_formula_says() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (dx,) = grad((w * x * x).sum(), x, create_graph=True)  # 2 w x
    (dx * dx).sum().backward()
    check(w.grad, 8 * 3 * 1, 8 * 4 * 4)
    check(x.grad, 8 * 9 * 1, 8 * 16 * 2)


def test_without_create_graph_gradients_have_no_history() -> None:
    x = leaf(2.0)
    (dx,) = grad(x * x, x)
    assert not dx.requires_grad


def test_a_hessian_vector_product() -> None:
    x = vector(4)
    v = tg.tensor([1.0, -1.0, 2.0, 0.5], dtype=tg.float64)
    (g,) = grad((x**4).sum() + x[0] * x[3], x, create_graph=True)
    (hv,) = grad(g, x, v)
    expected = 12 * x.detach().numpy() ** 2 * v.numpy()
    expected[[0, 3]] += v.numpy()[[3, 0]]
    np.testing.assert_allclose(hv.numpy(), expected)
