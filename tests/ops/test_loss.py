"""Losses: values, gradients of both orders, laws, and what they refuse before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import gradcheck, gradgradcheck
from tinygrad_cnn.testing.strategies import arrays, tensors

IGNORE = 1  # an ignore_index that is a class as well
REDUCTIONS = ("none", "mean", "sum")


@st.composite
def classifications(draw: st.DrawFn) -> tuple[Any, Any, dict[str, Any]]:
    """Logits (N, C, d1, ...), labels (N, d1, ...), and cross_entropy's options."""
    n, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rest = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    logits = draw(tensors(arrays((n, classes, *rest), low=-8, high=8)))
    allowed = [-100, *range(classes)]
    size = n * int(np.prod(rest))
    labels = draw(st.lists(st.sampled_from(allowed[1:] + allowed[:1]), min_size=size, max_size=size))
    options = {
        "weight": None if draw(st.booleans()) else tg.from_numpy(0.5 + 0.25 * np.arange(classes)),
        "ignore_index": draw(st.sampled_from((-100, IGNORE))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.25))),
    }
    if options["ignore_index"] == IGNORE:
        labels = [IGNORE if label == -100 else label for label in labels]
    dtype = draw(st.sampled_from((np.int64, np.int32)))
    return logits, tg.from_numpy(np.array(labels, dtype).reshape(n, *rest)), options


# ---------------------------------------------------------------------------------------------- cross-entropy


@given(classifications())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_hot_probabilities_are_labels(reduction: str, problem: Any) -> None:
    """Probability targets of 0 and 1 give what the labels give, but for the weights in a mean; and gradients."""
    logits, labels, options = problem
    options |= {"weight": None, "ignore_index": -100, "reduction": reduction}
    labels = tg.from_numpy(np.abs(labels.numpy()) % logits.shape[1])
    p = F.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1).double()
    soft = F.cross_entropy(logits, p, **options)
    np.testing.assert_allclose(soft.numpy(), F.cross_entropy(logits, labels, **options).numpy(), rtol=1e-12, atol=1e-12)
    options["weight"] = tg.arange(logits.shape[1]).double() + 1
    fn = lambda x, p: F.cross_entropy(x, p, **options)
    gradcheck(fn, (logits, p * 0.5 + 0.25))
    gradgradcheck(fn, (logits, p * 0.5 + 0.25))


def test_the_logits_gradient_sums_to_zero() -> None:
    """Softmax ignores a common shift of the logits."""
    x = tg.from_numpy(np.random.default_rng(0).normal(size=(6, 5))).requires_grad_()
    loss = F.cross_entropy(x, tg.arange(6) % 5, label_smoothing=0.1, reduction="none")
    loss.backward(tg.from_numpy(np.random.default_rng(1).normal(size=6)))
    assert x.grad is not None and x.grad.sum(1).abs().amax().item() < 1e-12


def test_large_logits_do_not_overflow() -> None:
    """The loss of a certain and right answer is 0, of a certain and wrong one the distance."""
    x = tg.tensor([[1e4, 0.0], [1e4, 0.0]], requires_grad=True)
    loss = F.cross_entropy(x, tg.tensor([0, 1]), reduction="none")
    assert loss.tolist() == [0.0, 1e4]
    loss.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 0.0], [1.0, -1.0]]


def test_a_single_item_and_an_empty_batch() -> None:
    """(C,) with a 0-d label is one item; no items sum to 0 and have the mean NaN."""
    x = tg.tensor([1.0, 2.0, 3.0])
    one = F.cross_entropy(x, tg.tensor(2))
    assert one.shape == () and one.item() == pytest.approx(F.cross_entropy(x[None], tg.tensor([2])).item())
    assert F.cross_entropy(x, tg.tensor(2), reduction="none").shape == ()
    empty, labels = tg.ones(0, 3), tg.zeros(0, dtype=tg.int64)
    assert F.cross_entropy(empty, labels, reduction="sum").item() == 0
    assert F.cross_entropy(empty, labels).isnan().item()


def test_a_changed_target_is_noticed() -> None:
    """Labels are kept for backward under a version guard, like every tensor."""
    x, labels = tg.zeros(2, 3, requires_grad=True), tg.tensor([0, 1])
    loss = F.cross_entropy(x, labels)
    labels.fill_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_row_of_nan_stays_nan() -> None:
    """NaN logits give a NaN loss, in their own row only."""
    loss = F.cross_entropy(tg.tensor([[np.nan, 0.0], [0.0, 0.0]]), tg.tensor([0, 0]), reduction="none")
    assert loss.isnan().tolist() == [True, False]


# ------------------------------------------------------------------------------------------------- regression


@given(tensors(arrays((2, 3))), tensors(arrays((2, 3), low=0, high=1)), tensors(arrays((3,), low=0.5, high=2)))
def test_weighted_binary_cross_entropy(x: Any, t: Any, w: Any) -> None:
    """weight scales each loss, pos_weight the part of the positive answers."""
    p = 1 / (1 + np.exp(-x.numpy()))
    expected = -(w.numpy() * t.numpy() * np.log(p) + (1 - t.numpy()) * np.log(1 - p)) * t.numpy()
    loss = F.binary_cross_entropy_with_logits(x, t, weight=t, reduction="none", pos_weight=w)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_binary_cross_entropy_does_not_overflow() -> None:
    """As for the logits of cross_entropy."""
    x = tg.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, tg.tensor([1.0, 0.0, 0.0, 1.0]), reduction="none")
    assert loss.tolist() == [0.0, 0.0, 1e4, 1e4]
    loss.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0, 1.0, -1.0]


def test_smooth_l1_has_its_slope_at_infinity() -> None:
    x = tg.tensor([np.inf, -np.inf, 1e30, 1.0, -0.5, np.nan], requires_grad=True)
    loss = F.smooth_l1_loss(x, tg.zeros(6), reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(loss.detach().numpy(), np.float32([np.inf, np.inf, 1e30, 0.5, 0.125, np.nan]))
    np.testing.assert_array_equal(x.grad.numpy(), np.float32([1, -1, 1, 1, -0.5, np.nan]))


def test_smooth_l1_without_beta_is_l1() -> None:
    """beta 0 leaves no squared part."""
    x, t = tg.tensor([1.0, -2.0]), tg.tensor([0.5, 2.0])
    assert F.smooth_l1_loss(x, t, beta=0.0).item() == F.l1_loss(x, t).item()


# ------------------------------------------------------------------------------------------------- errors

X, T = tg.ones(4, 3), tg.tensor([0, 1, 2, 1])
ERRORS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("label 3 of 3", lambda: F.cross_entropy(X, T + 1), IndexError, ["[0, 3)", "(4, 3)", "got 3"]),
    ("label -1", lambda: F.cross_entropy(X, T - 1), IndexError, ["[0, 3)", "got -1"]),
    ("nll label", lambda: F.nll_loss(X, T + 1), IndexError, ["nll_loss", "[0, 3)", "got 3"]),
    ("fewer labels", lambda: F.cross_entropy(X, T[:3]), ValueError, ["(4,)", "(3,)"]),
    ("a column", lambda: F.cross_entropy(X, T[:, None]), ValueError, ["(4,)", "(4, 1)"]),
    ("soft shape", lambda: F.cross_entropy(X, X[:, :2]), ValueError, ["(4, 3)", "(4, 2)", ".long()"]),
    ("bool labels", lambda: F.cross_entropy(X, T > 1), TypeError, ["bool", ".long()"]),
    ("array labels", lambda: F.cross_entropy(X, T.numpy()), TypeError, ["ndarray"]),
    ("int logits", lambda: F.cross_entropy(T, T[0]), TypeError, ["int64"]),
    ("soft dtype", lambda: F.cross_entropy(X, X.double()), TypeError, ["float64"]),
    ("weight shape", lambda: F.cross_entropy(X, T, X[0, :2]), ValueError, ["(3,)", "(2,)"]),
    ("weight dtype", lambda: F.cross_entropy(X, T, X[0].double()), TypeError, ["float64"]),
    ("no classes", lambda: F.cross_entropy(X[:, :0], T), ValueError, ["one class", "(4, 0)"]),
    ("a number", lambda: F.cross_entropy(X[0, 0], T), ValueError, ["got a number"]),
    ("smoothing", lambda: F.cross_entropy(X, T, label_smoothing=1.5), ValueError, ["[0, 1]", "1.5"]),
    ("reduction", lambda: F.cross_entropy(X, T, reduction="avg"), ValueError, ["'avg'"]),
    ("mse broadcast", lambda: F.mse_loss(X, X[0]), ValueError, ["(4, 3)", "(3,)"]),
    ("mse column", lambda: F.mse_loss(X[:, 0], X[:, :1]), ValueError, ["(4,)", "(4, 1)"]),
    ("l1 broadcast", lambda: F.l1_loss(X, X[:1]), ValueError, ["l1_loss", "(1, 3)"]),
    ("smooth broadcast", lambda: F.smooth_l1_loss(X, X[:1]), ValueError, ["smooth_l1_loss", "(1, 3)"]),
    ("mse dtype", lambda: F.mse_loss(X, X.double()), TypeError, ["float64"]),
    ("mse ints", lambda: F.mse_loss(T, T), TypeError, ["int64"]),
    ("beta", lambda: F.smooth_l1_loss(X, X, beta=-1.0), ValueError, ["beta >= 0"]),
    ("bce broadcast", lambda: F.binary_cross_entropy_with_logits(X, X[0]), ValueError, ["(3,)"]),
    ("bce weight", lambda: F.binary_cross_entropy_with_logits(X, X, X[:, 0]), ValueError, ["weight", "(4,)"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "parts"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_show_the_numbers(call: Any, error: type[Exception], parts: list[str]) -> None:
    """Each bad argument is a typed exception with the shapes, classes and values."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.binary_cross_entropy_with_logits])
def test_a_target_that_is_no_tensor_is_named(loss: Any) -> None:
    """Arrays and numbers would broadcast, None would fail inside."""
    for target in (None, 1.0, np.ones(3, np.float32)):
        with pytest.raises(TypeError, match="expects a Tensor as target"):
            loss(tg.ones(3), target)


@pytest.mark.parametrize("ignored", [1.5, None, "x"], ids=repr)
def test_ignore_index_is_an_int(ignored: Any) -> None:
    """A float would be cut off."""
    for loss in (F.nll_loss, F.cross_entropy):
        with pytest.raises(TypeError, match="expects an int for ignore_index"):
            loss(tg.zeros(2, 3), tg.tensor([0, 1]), ignore_index=ignored)
