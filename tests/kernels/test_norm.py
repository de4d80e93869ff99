"""Batch norm and layer norm against their definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import elementwise, norm

from . import naive_more as naive

EPS = 1e-5


@st.composite
def batches(draw: Any) -> np.ndarray:
    """(N, C), (N, C, L) or (N, C, H, W), at least two samples a channel, any mean."""
    channels = draw(st.sampled_from([1, 3, 6, 16, 40, 300]))
    sizes = draw(st.lists(st.integers(1, 7), max_size=2))
    shape = (draw(st.integers(2, 9)), channels, *sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal(shape) + draw(st.sampled_from([0, 0, 30]))
    return naive.laid_out(x.astype(draw(st.sampled_from("fd"))), draw(st.sampled_from(naive.LAYOUTS)))


def close(got: np.ndarray, expected: np.ndarray, scale: Any, single: bool | None = None) -> None:
    single = got.dtype == np.float32 if single is None else single
    unit = 2e-6 if single else 1e-12
    np.testing.assert_array_less(np.abs(got - expected), unit * (np.abs(expected) + scale) + 1e-300)


@given(batches(), st.booleans())
def test_batch_norm_and_its_gradient(x: np.ndarray, affine: bool) -> None:
    rng = np.random.default_rng(0)
    channels, axes = x.shape[1], (0, *range(2, x.ndim))
    along = (channels, *[1] * (x.ndim - 2))
    weight, bias = (rng.standard_normal(channels).astype(x.dtype) if affine else None for _ in range(2))
    g = naive.laid_out(rng.standard_normal(x.shape).astype(x.dtype), "channels_last")
    w, b = (np.full(channels, v) if p is None else p for p, v in ((weight, 1), (bias, 0)))
    running = np.zeros(channels), np.ones(channels)
    y, mean, rstd, _ = norm.batch_norm_train(x, weight, bias, EPS, running=(*running, 0.25))
    dx, dweight, dbias = norm.batch_norm_train_grad(g, x, mean, rstd, weight)
    expected = naive.normalise(x, g, w.reshape(along), b.reshape(along), EPS, axes, axes)
    assert y.dtype == dx.dtype == dweight.dtype == dbias.dtype == x.dtype
    assert mean.dtype == rstd.dtype == np.float64
    single = x.dtype == np.float32
    close(mean, expected[1], 0.1 * np.abs(x).max(), single)
    close(rstd, expected[2], 0, single)
    close(running[0], 0.25 * expected[1], 0.1 * np.abs(x).max(), single)
    close(running[1], 0.75 + 0.25 * x.var(axes, np.float64, ddof=1), 1, single)
    reach = (1 + np.abs(x).max()) * expected[2].max()  # rounding of x and of the mean, in units of the deviation
    close(y, expected[0], reach * np.abs(w).max())
    close(dx, expected[3], reach * np.abs(w).max() * expected[2].max() * np.abs(g).sum(axes, keepdims=True))
    close(dweight, expected[4], reach * np.abs(g).sum())
    close(dbias, expected[5], np.abs(g).sum())


def test_variance_far_from_zero() -> None:
    """Sums in float32 are of what is left after the subtraction of a value near the mean, and of few rows."""
    for dtype, unit in ((np.float32, 1e-7), (np.float64, 1e-11)):
        x = (1e4 + np.random.default_rng(0).standard_normal((64, 3, 32, 32))).astype(dtype)
        x[0, 1, 0, 0] = 0  # an outlier at the very place where the shift is looked for
        _, mean, rstd, _ = norm.batch_norm_train(x, None, None, 0.0)
        deviation = x.astype(float).std((0, 2, 3))
        np.testing.assert_array_less(np.abs(mean - x.astype(float).mean((0, 2, 3))), unit * deviation)
        np.testing.assert_allclose(1 / rstd, deviation, rtol=10 * unit)


def test_equal_values_have_no_variance() -> None:
    """Rounding does not make the variance negative."""
    x = np.full((3, 2, 40, 40), 0.1, np.float32)
    rstd = norm.batch_norm_train(x, None, None, 1e-30)[2]
    assert (rstd > 1e6).all() and not np.isnan(rstd).any()


@given(batches())
def test_channel_affine(x: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    scale, shift = rng.standard_normal((2, x.shape[1])).astype(x.dtype)
    along = (x.shape[1], *[1] * (x.ndim - 2))
    center = rng.standard_normal(x.shape[1]).astype(x.dtype)
    expected = (x.astype(float) - center.reshape(along)) * scale.reshape(along) + shift.reshape(along)
    got = norm.channel_affine(x, center, scale, shift)
    assert got.dtype == x.dtype
    close(got, expected, 1 + np.abs(x))
    np.testing.assert_array_equal(norm.channel_affine(x, center, scale, shift, True), np.maximum(got, 0))
    np.testing.assert_array_equal(norm.channel_affine(x, center, scale, None), norm.channel_affine(x, center, scale, 0))


@given(batches(), st.booleans())
def test_the_relu_of_a_batch_norm(x: np.ndarray, affine: bool) -> None:
    """Bit by bit what the two functions one after the other give, forward and backward."""
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(x.shape[1]).astype(x.dtype) if affine else None for _ in range(2))
    g = naive.laid_out(rng.standard_normal(x.shape).astype(x.dtype), "channels_last")
    y, mean, rstd, shift = norm.batch_norm_train(x, weight, bias, EPS)
    fused, *statistics = norm.batch_norm_train(x, weight, bias, EPS, relu=True)
    assert fused.tobytes() == elementwise.relu(y).tobytes()
    for one, other in zip((mean, rstd, shift), statistics, strict=True):
        assert one.tobytes() == other.tobytes()
    scale = rstd if weight is None else rstd * weight
    assert norm.channel_affine(x, mean, scale, shift).tobytes() == y.tobytes()
    expected = norm.batch_norm_train_grad(elementwise.relu_grad(g, y), x, mean, rstd, weight)
    got = norm.batch_norm_train_grad(g, x, mean, rstd, weight, shift)
    mine = g.copy("K")
    over = norm.batch_norm_train_grad(mine, x, mean, rstd, weight, shift, own=True)
    for one, other, third in zip(got, expected, over, strict=True):
        assert one.tobytes() == other.tobytes() == third.tobytes()
    assert np.shares_memory(over[0], mine) or norm._samples(mine).base is not mine.base


@given(st.integers(1, 20), st.sampled_from([1, 2, 3, 4, 5, 7, 64, 100]), st.sampled_from("fd"), st.booleans())
def test_layer_norm_and_its_gradient(rows: int, features: int, dtype: str, affine: bool) -> None:
    rng = np.random.default_rng(rows)
    x, g = (rng.standard_normal((rows, features)) + 3).astype(dtype), rng.standard_normal((rows, features))
    g = g.astype(dtype)
    weight, bias = (rng.standard_normal(features).astype(dtype) if affine else None for _ in range(2))
    w, b = (np.full(features, v) if p is None else p for p, v in ((weight, 1), (bias, 0)))
    y, mean, rstd = norm.layer_norm(x, weight, bias, EPS)
    dx, dweight, dbias = norm.layer_norm_grad(g, x, mean, rstd, weight)
    expected = naive.normalise(x, g, w, b, EPS, (1,), (0,))
    reach = (1 + np.abs(x).max()) * expected[2].max()
    close(mean, expected[1], 1)
    close(rstd, expected[2], 1)
    close(y, expected[0], reach * np.abs(w).max())
    close(dx, expected[3], reach * np.abs(w).max() * expected[2].max() * np.abs(g).sum(1, keepdims=True))
    close(dweight, expected[4], reach * np.abs(g).sum())
    close(dbias, expected[5], np.abs(g).sum())


def test_nan_reaches_its_channel_alone() -> None:
    x = np.random.default_rng(0).standard_normal((4, 20, 3, 3)).astype(np.float32)
    x[2, 7, 1, 1] = np.nan
    y = norm.batch_norm_train(x, None, None, EPS)[0]
    assert np.isnan(y[:, 7]).all()
    assert np.isfinite(np.delete(y, 7, 1)).all()


@given(batches())
def test_same_bits_on_any_threads(x: np.ndarray) -> None:
    rows = np.ascontiguousarray(x.reshape(len(x), -1))

    def compute() -> list[np.ndarray]:
        y, mean, rstd, _ = norm.batch_norm_train(x, None, None, EPS)
        z, row_mean, row_rstd = norm.layer_norm(rows, None, None, EPS)
        return [
            *(y, mean, rstd, z, row_mean, row_rstd),
            *norm.batch_norm_train_grad(y, x, mean, rstd, None),
            *norm.layer_norm_grad(rows, rows, row_mean, row_rstd, None),
        ]

    naive.same_bits_on_any_threads(compute)


def test_same_bits_over_many_shards() -> None:
    x = naive.laid_out(np.random.default_rng(0).standard_normal((40, 10, 24, 24)), "channels_last")

    def compute() -> list[np.ndarray]:
        y, mean, rstd, _ = norm.batch_norm_train(x, None, None, EPS)
        return [y, mean, rstd, *norm.batch_norm_train_grad(y, x, mean, rstd, None)]

    naive.same_bits_on_any_threads(compute)
