"""Sums over drawn axes and layouts, their accuracy, and the way back from a broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import reduce

from . import naive_more as naive


@st.composite
def arrays(draw: Any) -> np.ndarray:
    """Up to four axes, some of size 1 or 0, some long enough for several shards; or three that NumPy does not get."""
    sizes, large = st.sampled_from([0, 1, 1, 2, 3, 5, 8, 33, 64]), st.sampled_from([12, 33, 64])
    shape = draw(st.one_of(st.lists(sizes, max_size=4), st.tuples(large, large, large)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal(shape).astype(draw(st.sampled_from("fd")))
    return naive.laid_out(x, draw(st.sampled_from(naive.LAYOUTS)))


@given(arrays(), st.data())
def test_sum_and_mean_over_any_axes(x: np.ndarray, data: Any) -> None:
    axes = data.draw(st.sampled_from([None, *subsets(x.ndim)]))
    keepdims = data.draw(st.booleans())
    exact = np.sum(x.astype(float), axis=axes, keepdims=keepdims)
    bound = np.sum(np.abs(x.astype(float)), axis=axes, keepdims=keepdims)
    unit = 3e-7 if x.dtype == np.float32 else 1e-15
    got = reduce.sum(x, axes, keepdims)
    assert got.dtype == x.dtype
    assert got.shape == exact.shape
    assert (np.abs(got - exact) <= unit * bound).all()
    count = x.size // max(exact.size, 1)
    if count:
        mean = reduce.mean(x, axes, keepdims)
        assert (np.abs(mean - exact / count) <= unit * bound / count).all()


def subsets(n: int) -> list[tuple[int, ...]]:
    return [tuple(i for i in range(n) if mask >> i & 1) for mask in range(2**n)]


def test_mean_of_nothing_is_nan() -> None:
    assert np.isnan(reduce.mean(np.zeros((0, 3), np.float32), (0,))).all()
    assert np.isnan(reduce.mean(np.zeros(0, np.float32)))


@pytest.mark.parametrize("shape", [(10_000_000,), (2_500_000, 4)])
def test_ten_million_numbers_lose_nothing(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, np.float32)
    for axes in subsets(len(shape))[1:]:
        exact = x.sum(axis=axes, dtype=np.float64)
        assert np.max(np.abs(reduce.sum(x, axes) / exact - 1)) < 3e-7


@given(arrays(), st.data())
def test_sum_to_undoes_a_broadcast(x: np.ndarray, data: Any) -> None:
    shape = tuple(1 if data.draw(st.booleans()) else n for n in x.shape)
    shape = shape[data.draw(st.integers(0, len(shape))) :]
    got = reduce.sum_to(x, shape)
    assert got.shape == shape
    assert got.dtype == x.dtype
    g = np.random.default_rng(0).standard_normal(shape)
    there = np.vdot(np.broadcast_to(g, x.shape), x.astype(float))
    assert np.vdot(g, got) == pytest.approx(there, rel=1e-5, abs=1e-4)


def test_nan_and_infinity_survive() -> None:
    x = np.ones((300, 8), np.float32)
    x[17, 3], x[290, 5] = np.nan, np.inf
    total = reduce.sum(x, (0,))
    assert np.isnan(total[3])
    assert total[5] == np.inf
    assert (np.delete(total, [3, 5]) == 300).all()


@given(st.sampled_from([(40, 17, 20, 20), (3, 5, 64, 64), (2, 70_000), (70_000, 3)]), st.sampled_from("fd"))
def test_same_bits_on_any_threads(shape: tuple[int, ...], dtype: str) -> None:
    x = naive.laid_out(np.random.default_rng(0).standard_normal(shape).astype(dtype), "channels_last")
    naive.same_bits_on_any_threads(lambda: [reduce.sum(x, axes) for axes in subsets(x.ndim)])
