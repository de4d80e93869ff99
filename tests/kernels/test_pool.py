"""Pooling kernels against loops, over drawn windows, layouts and thread counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import elementwise, pool

from . import naive_more as naive


class Case(NamedTuple):
    """A pool and its input; `ties` draws from three values."""

    shape: tuple[int, int, int, int]
    window: tuple[Any, ...]  # kernel, stride, padding, dilation
    out_hw: tuple[int, int]
    dtype: str
    layout: str
    ties: bool
    seed: int

    def images(self, shape: tuple[int, ...], layout: str | None = None) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        x = rng.integers(-1, 2, shape) if self.ties else rng.integers(-64, 65, shape) / 8
        return naive.laid_out(x.astype(self.dtype), layout or self.layout)


@st.composite
def cases(draw: Any, dilations: bool = True) -> Case:
    """Output size and remainder are drawn, the input size follows; the last window may hang over the edge."""
    axes = []
    for _ in range(2):
        kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        dilation = draw(st.integers(1, 3)) if dilations else 1
        span = (kernel - 1) * dilation + 1
        padding = draw(st.integers(0, kernel // 2))
        out = draw(st.integers(1, 5))
        full = (out - 1) * stride + span + draw(st.integers(0, stride - 1))  # padded size of whole windows
        size = max(full - 2 * padding, 1)
        room = size + 2 * padding - span
        out = max(room, 0) // stride + 1
        if draw(st.booleans()) and out * stride < size + padding:  # ceil_mode: it starts inside, and hangs over
            out += 1
        axes.append((kernel, stride, padding, dilation, out, size))
    (kh, sh, ph, dh, p, h), (kw, sw, pw, dw, q, w) = axes
    shape = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 6, 16, 17])), h, w
    return Case(
        shape,
        ((kh, kw), (sh, sw), (ph, pw), (dh, dw)),
        (p, q),
        draw(st.sampled_from("fd")),
        draw(st.sampled_from(naive.LAYOUTS)),
        draw(st.booleans()),
        draw(st.integers(0, 2**16)),
    )


NO_CELL = [  # windows with nothing but padding in them: by row, and by column
    Case((1, 3, 1, 1), ((2, 2), (1, 1), (1, 1), (3, 3)), (1, 1), "f", "C", False, 0),
    Case((1, 3, 4, 2), ((1, 2), (1, 1), (0, 1), (1, 3)), (4, 1), "f", "C", False, 0),
]

#: The first tap inside the image is the second: padding and dilation of 2.
FAR = Case((1, 3, 9, 9), ((4, 4), (1, 1), (2, 2), (2, 2)), (7, 7), "f", "C", False, 0)


@given(cases())
@example(FAR)
@example(NO_CELL[0])
@example(NO_CELL[1])
def test_max_pool_gives_maxima_and_their_places(case: Case) -> None:
    x = case.images(case.shape)
    if case.ties:  # among them NaN, before and after numbers
        x = naive.laid_out(
            np.where(np.arange(x.size).reshape(x.shape) % 7 == 3, np.nan, x).astype(x.dtype), case.layout
        )
    y, index = pool.max_pool2d(x, *case.window, case.out_hw)
    expected, places = naive.max_pool2d(x, *case.window, case.out_hw)
    assert y.dtype == x.dtype
    assert index.dtype == np.uint8
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(index, places)


@given(cases())
@example(NO_CELL[0])
@example(NO_CELL[1])
def test_scatter_and_gather_follow_the_places(case: Case) -> None:
    x = case.images(case.shape)
    y, index = pool.max_pool2d(x, *case.window, case.out_hw)
    g = case.images(y.shape)
    dx, back = np.zeros(case.shape), np.zeros(y.shape)
    for at_y, at_x in naive.max_pool2d_terms(y.shape, index, case.shape[2:], *case.window):
        dx[at_x] += g[at_y]
        back[at_y] = x[at_x]
    got = pool.max_pool2d_scatter(g, naive.laid_out(index, case.layout), case.shape[2:], *case.window)
    np.testing.assert_array_equal(got, dx)
    np.testing.assert_array_equal(pool.max_pool2d_gather(x, index, *case.window), back)


def test_nan_wins_and_the_first_of_equals() -> None:
    x = np.array([[1, 1, np.nan, 7], [1, 1, 9, np.nan]], np.float32).reshape(1, 1, 2, 4)
    y, index = pool.max_pool2d(x, (2, 2), (2, 2), (0, 0), (1, 1), (1, 2))
    assert y[0, 0, 0, 0] == 1
    assert np.isnan(y[0, 0, 0, 1])
    assert index.ravel().tolist() == [0, 0]
    lowest = np.full((1, 1, 2, 2), -np.inf, np.float32)
    y, index = pool.max_pool2d(lowest, (2, 2), (2, 2), (1, 1), (1, 1), (2, 2))
    assert np.isneginf(y).all()
    assert index.ravel().tolist() == [3, 2, 1, 0]  # the only cell of each window that is not padding


@given(cases())
@example(NO_CELL[0])
@example(NO_CELL[1])
def test_the_pool_of_a_relu(case: Case) -> None:
    """Bit by bit what the two functions one after the other give, forward and backward."""
    x = case.images(case.shape)
    odd = np.resize([0, 0, 0, np.nan, -0.0, np.inf, -np.inf, 0], x.shape) if case.ties else np.zeros(x.shape)
    x = naive.laid_out((x + odd).astype(x.dtype), case.layout)
    y, index = pool.max_pool2d(x, *case.window, case.out_hw, relu=True)
    expected, places = pool.max_pool2d(elementwise.relu(x), *case.window, case.out_hw)
    assert y.tobytes() == expected.tobytes()
    g = case.images(y.shape)
    dx = pool.max_pool2d_scatter(g, index, case.shape[2:], *case.window)
    unfused = elementwise.relu_grad(pool.max_pool2d_scatter(g, places, case.shape[2:], *case.window), x)
    np.testing.assert_array_equal(dx, unfused)
    v = case.images(case.shape)
    back = pool.max_pool2d_gather(v, index, *case.window)
    np.testing.assert_array_equal(back, pool.max_pool2d_gather(elementwise.relu_grad(v, x), places, *case.window))


def test_windows_of_more_than_255_taps_have_wide_indices() -> None:
    x = np.zeros((1, 2, 20, 20), np.float32)
    x[0, :, 17, 13] = 1
    y, index = pool.max_pool2d(x, (20, 20), (1, 1), (0, 0), (1, 1), (1, 1))
    assert index.dtype == np.int32
    assert index.ravel().tolist() == [17 * 20 + 13] * 2
    dx = pool.max_pool2d_scatter(y, index, (20, 20), (20, 20), (1, 1), (0, 0), (1, 1))
    np.testing.assert_array_equal(dx, x)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    tolerance = 1e-6 if got.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=10 * tolerance)


@given(cases(dilations=False), st.booleans(), st.sampled_from([None, 3]))
def test_avg_pool_is_the_mean_of_each_window_and_its_gradient_the_adjoint(
    case: Case, include_pad: bool, divisor: int | None
) -> None:
    x, window = case.images(case.shape), case.window[:3]
    y = pool.avg_pool2d(x, *window, case.out_hw, include_pad, divisor)
    assert y.dtype == x.dtype
    close(y, naive.avg_pool2d(x, *window, case.out_hw, include_pad, divisor))
    g = case.images(y.shape)
    dx = pool.avg_pool2d_grad(g, case.shape[2:], *window, include_pad, divisor)
    inner = np.vdot(naive.avg_pool2d(x, *window, case.out_hw, include_pad, divisor), g)
    assert np.vdot(dx.astype(float), x) == pytest.approx(inner, rel=1e-5, abs=1e-4)


@given(cases(dilations=False))
def test_adaptive_avg_pool_and_its_adjoint(case: Case) -> None:
    x = case.images(case.shape)
    expected = naive.adaptive_avg_pool2d(x, case.out_hw)
    close(pool.adaptive_avg_pool2d(x, case.out_hw), expected)
    g = case.images(expected.shape)
    dx = pool.adaptive_avg_pool2d_grad(g, case.shape[2:])
    assert np.vdot(dx.astype(float), x) == pytest.approx(np.vdot(expected, g), rel=1e-5, abs=1e-4)


@given(cases())
def test_same_bits_on_any_threads(case: Case) -> None:
    x = case.images(case.shape)
    kernel, stride, padding, _ = case.window

    def compute() -> list[np.ndarray]:
        y, index = pool.max_pool2d(x, *case.window, case.out_hw)
        mean = pool.avg_pool2d(x, kernel, stride, padding, case.out_hw)
        return [
            y,
            index,
            pool.max_pool2d_scatter(mean, index, x.shape[2:], *case.window),
            pool.max_pool2d_gather(x, index, *case.window),
            mean,
            pool.avg_pool2d_grad(mean, x.shape[2:], kernel, stride, padding),
        ]

    naive.same_bits_on_any_threads(compute)
