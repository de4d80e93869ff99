"""Batch norm and layer norm: values, running statistics, gradients of both orders, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F

EPS = 0.5  # large enough that batches of equal values stay well conditioned


def train(x: Any, weight: Any = None, bias: Any = None) -> Any:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)


# ------------------------------------------------------------------------------------------------- batch norm


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
