"""Softmax and the fused cross-entropy against their definitions in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.compile import jit
from tinygrad_cnn.kernels.cpu.softmax import (
    cross_entropy,
    cross_entropy_grad,
    label_range,
    log_softmax,
    log_softmax_grad,
    softmax,
    softmax_grad,
)
from tinygrad_cnn.kernels.cpu.vector_math import exp_of_negative

from . import naive_more as naive


@st.composite
def matrices(draw: Any) -> np.ndarray:
    rows, classes = draw(st.integers(0, 20)), draw(st.sampled_from([1, 2, 3, 10, 16, 33, 100]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal((rows, classes)) * draw(st.sampled_from([0.1, 1, 30, 1000]))
    return naive.laid_out(x.astype(draw(st.sampled_from("fd"))), draw(st.sampled_from(naive.LAYOUTS)))


def close(got: np.ndarray, expected: np.ndarray, scale: Any = 1) -> None:
    unit = 1e-6 if got.dtype == np.float32 else 1e-14
    assert (np.abs(got - expected) <= unit * (np.abs(expected) + scale)).all()


def exact_log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(float) - x.astype(float).max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@given(matrices())
def test_softmax_and_log_softmax(x: np.ndarray) -> None:
    assert softmax(x).dtype == log_softmax(x).dtype == x.dtype
    close(softmax(x), np.exp(exact_log_softmax(x)), 1e-6)
    close(log_softmax(x), exact_log_softmax(x), 1 + np.abs(x))


@given(matrices())
def test_the_gradients(x: np.ndarray) -> None:
    g = np.random.default_rng(0).standard_normal(x.shape)
    log_p = exact_log_softmax(x)
    p = np.exp(log_p)
    up = g.astype(x.dtype)
    total = np.abs(g).sum(1, keepdims=True)
    close(softmax_grad(up, p.astype(x.dtype)), p * (up - (up * p).sum(1, keepdims=True, dtype=float)), total)
    expected = up - p * up.sum(1, keepdims=True, dtype=float)
    close(log_softmax_grad(up, log_p.astype(x.dtype)), expected, total * (1 + np.abs(log_p)))


def test_extreme_rows() -> None:
    x = np.array([[0, -np.inf, -2000], [1e30, 0, 0], [np.nan, 0, 0], [0, np.nan, 0]], np.float32)
    p, log_p = softmax(x), log_softmax(x)
    assert p[:2].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert log_p[0].tolist() == [0, -np.inf, -2000]
    assert np.isnan(p[2:]).all()
    assert np.isnan(log_p[2:]).all()


def test_the_highest_counts_wherever_it_stands() -> None:
    """Of 1 to 9 classes: the kernel looks at four at a time."""
    for classes in range(1, 10):
        own = np.eye(classes, dtype=np.float32)
        assert (softmax(1e4 * own) == own).all()
        assert (log_softmax(1e4 * own) == 1e4 * own - 1e4).all()
        assert (softmax(np.full((2, classes), 3e38, np.float32)) == np.float32(1 / classes)).all()


@given(matrices(), st.data())
def test_cross_entropy_and_its_gradient(x: np.ndarray, data: Any) -> None:
    rows, classes = x.shape
    rng = np.random.default_rng(0)
    ignore = data.draw(st.sampled_from([-100, 0, classes]))
    labels = np.where(rng.random(rows) < 0.2, ignore, rng.integers(0, classes, rows))
    weight = rng.random(classes).astype(x.dtype) if data.draw(st.booleans()) else None
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    loss, row_weight, lse = cross_entropy(x, labels, weight, ignore, smoothing)
    weights = np.ones(classes) if weight is None else weight.astype(float)
    expected, expected_weight, grad = naive.cross_entropy(x, labels, weights, ignore, smoothing)
    scale = 1 + np.abs(x).max(1, initial=0)
    assert loss.dtype == row_weight.dtype == x.dtype
    close(loss, expected, scale * (weights.sum() if smoothing else 1))
    close(row_weight, expected_weight)
    g = rng.standard_normal(rows).astype(x.dtype)
    dx = cross_entropy_grad(g, x, lse, labels, weight, ignore, smoothing)
    rounding = scale[:, None] if x.dtype == np.float64 else 0  # of lse, which is float64 for both
    close(dx, g[:, None] * grad, 10 + rounding)


def test_the_gradient_of_a_label_that_is_nearly_certain_keeps_its_digits() -> None:
    """It is the difference of two numbers that are alike to float32."""
    x, label = np.array([[9, 0, 0]], np.float32), np.array([0])
    dx = cross_entropy_grad(np.ones(1, np.float32), x, cross_entropy(x, label)[2], label)
    np.testing.assert_allclose(dx[0, 0], -2 / (math.exp(9) + 2), rtol=1e-6)


def test_label_range_leaves_the_ignored_out() -> None:
    labels = np.array([3, -100, 7, 5, -100])
    assert label_range(labels, -100) == (3, 7)
    assert label_range(labels, 7) == (-100, 5)
    assert label_range(labels[1:2], -100) == (0, -1)
    assert label_range(labels[:0], -100) == (0, -1)


@given(matrices())
def test_same_bits_on_any_threads(x: np.ndarray) -> None:
    labels = np.arange(len(x)) % x.shape[1]

    def compute() -> list[np.ndarray]:
        loss, weight, lse = cross_entropy(x, labels, None, -100, 0.1)
        dx = cross_entropy_grad(loss, x, lse, labels, None, -100, 0.1)
        y = softmax(x)
        return [loss, weight, lse, dx, y, softmax_grad(x, y), log_softmax_grad(x, y)]

    naive.same_bits_on_any_threads(compute)


@jit
def exponentials(x, y):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        y[i] = exp_of_negative(x[i])


def test_exponential_is_within_one_unit() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([-rng.random(10_000) * scale for scale in (1e-9, 1e-3, 1, 40, 708)])
    y = np.empty_like(x)
    exponentials(x, y)
    exact = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(y - exact) / np.spacing(y)) < 1
    special = np.array([0.0, -0.0, -709.0, -np.inf, np.nan])
    exponentials(special, special)
    np.testing.assert_array_equal(special, [1, 1, 0, 0, np.nan])
