"""Philox against its published vectors, the distributions made of it, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels import jit
from tinygrad_cnn.kernels.cpu import random

from . import naive_more as naive

# The known-answer tests of philox4x32-10 that come with the paper's Random123 library: counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@jit
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    return random.philox(c0, c1, c2, c3, k0, k1)


def philox(*words: int) -> list[int]:
    return [int(w) for w in _philox(*map(np.uint64, words))]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_known_answers(counter: str, key: str, output: str) -> None:
    words = [int(word, 16) for word in f"{counter} {key}".split()]
    assert [f"{word:08x}" for word in philox(*words)] == output.split()


@given(st.integers(0, 3000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_every_word_is_where_the_key_says(n: int, seed: int, call: int) -> None:
    words = random.words(n, seed, call)
    low = 2**32 - 1
    for e in {0, n // 2, n // 3, n - 1} - {-1, n}:
        block = 256 * (e // 1024) + e % 256
        expected = philox(block, 0, call & low, call >> 32, seed & low, seed >> 32)
        assert words[e] == expected[e // 256 % 4]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments(dtype: str) -> None:
    u = random.uniform((400, 500), np.dtype(dtype), 1, 2, -3, 5).astype(float)
    assert (u >= -3).all()
    assert (u < 5).all()
    assert u.mean() == pytest.approx(1, abs=0.03)
    assert u.var() == pytest.approx(64 / 12, rel=0.02)
    z = random.normal((401, 499), np.dtype(dtype), 1, 2).astype(float)
    assert [z.mean(), (z**2).mean(), (z**3).mean(), (z**4).mean()] == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_uniform_never_reaches_the_upper_end() -> None:
    x = random.uniform((1 << 20,), np.dtype("f"), 0, 0, 1000, 1000.0001)
    assert x.max() < np.float32(1000.0001)
    assert x.min() >= 1000


def test_integers_are_equally_likely() -> None:
    n = random.integers((100_000,), -3, 7, 5, 6)
    assert n.dtype == np.int64
    counts = np.bincount(n + 3, minlength=10)
    assert counts.size == 10
    assert (np.abs(counts - 10_000) < 500).all()


def test_seeds_and_calls_differ() -> None:
    streams = [random.words(1000, seed, call).tobytes() for seed in (0, 1, 2**40) for call in (0, 1, 2**40)]
    assert len(set(streams)) == len(streams)


@given(
    st.sampled_from([(5,), (33, 64), (4, 17, 9, 8), (2, 3, 4, 5)]),
    st.sampled_from(naive.LAYOUTS),
    st.sampled_from("fd"),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_dropout_keeps_and_scales(shape: tuple[int, ...], layout: str, dtype: str, p: float) -> None:
    x = naive.laid_out((np.random.default_rng(0).random(shape) + 1).astype(dtype), layout)
    y, mask = random.dropout(x, p, 3, 4)
    scale = x.dtype.type(1 / (1 - p) if p < 1 else 0)
    np.testing.assert_array_equal(y, np.where(mask, x * scale, 0))
    np.testing.assert_array_equal(random.dropout_grad(x, mask, p), y)
    if p in (0.0, 1.0):
        assert (mask == (p == 0)).all()
    assert (random.dropout(x, p, 3, 4)[1] == mask).all()


def test_dropout_keeps_the_right_share() -> None:
    _, mask = random.dropout(np.ones((64, 5000), np.float32), 0.3, 7, 8)
    assert mask.mean() == pytest.approx(0.7, abs=0.005)
    assert mask.mean(0).std() == pytest.approx((0.21 / 64) ** 0.5, rel=0.1)


def test_a_dropped_nan_is_zero() -> None:
    x = np.full(5000, np.nan, np.float32)
    y, mask = random.dropout(x, 0.5, 0, 0)
    assert (y[~mask] == 0).all()
    assert np.isnan(y[mask]).all()


@given(st.integers(1, 5000))
def test_same_bits_on_any_threads(n: int) -> None:
    x = np.ones(n, np.float32)

    def compute() -> list[Any]:
        return [random.words(n, 1, 2), *random.dropout(x, 0.4, 1, 2), random.normal((n,), np.dtype("f"), 1, 2)]

    naive.same_bits_on_any_threads(compute)
