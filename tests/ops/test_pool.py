"""Pools: values, gradients of both orders, ties, NaN, conservation, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests import naive
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing.strategies import PoolConfig, pool_configs, tensors, tied


@st.composite
def problems(draw: st.DrawFn, kind: Any, values: Any) -> tuple[PoolConfig, Any]:
    """A pool and an image in any layout."""
    cfg = draw(pool_configs(kind))
    note(cfg)
    return cfg, draw(tensors(values(cfg.shape)))


def max_pool2d(cfg: PoolConfig) -> Any:
    return lambda x: F.max_pool2d(x, **cfg.options)


def windows(cfg: PoolConfig, *names: str) -> list[Any]:
    return [cfg.options[name] for name in names]


# ---------------------------------------------------------------------------------------------------- max


@given(problems("max", tied))
def test_max_pool2d_and_its_winners(problem: Any) -> None:
    """Values, shape and winners equal the plain loops on images full of ties: the first of equals wins."""
    cfg, x = problem
    y, index = F.max_pool2d(x, **cfg.options, return_indices=True)
    numbers = windows(cfg, "kernel_size", "stride", "padding", "dilation")
    expected, winners = naive.max_pool2d(x.numpy(), cfg.output, *numbers)
    np.testing.assert_array_equal(y.numpy(), expected)
    seen = np.isfinite(expected)  # a window that sees no cell has no winner
    np.testing.assert_array_equal(index.numpy()[seen], winners[seen])
    assert index.dtype == np.int64


@given(problems("max", tied))
def test_max_pool2d_gives_the_whole_gradient_to_the_first(problem: Any) -> None:
    """The input's gradient is the sum of the output's at each winner, and nothing is lost."""
    cfg, x = problem
    x = x.detach().requires_grad_()
    y = max_pool2d(cfg)(x)
    g = np.random.default_rng(0).integers(1, 5, y.shape).astype(np.float64)
    g[~np.isfinite(y.detach().numpy())] = 0
    (dx,) = tg.autograd.grad(y, x, tg.from_numpy(g))
    numbers = windows(cfg, "kernel_size", "stride", "padding", "dilation")
    _, winners = naive.max_pool2d(x.detach().numpy(), cfg.output, *numbers)
    expected = np.zeros(x.shape).reshape(*x.shape[:2], -1)
    for n, c, p, q in np.ndindex(*y.shape):
        expected[n, c, winners[n, c, p, q]] += g[n, c, p, q]
    np.testing.assert_array_equal(dx.numpy(), expected.reshape(x.shape))
    assert dx.sum().item() == g.sum()


@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(2, 0, 1), (3, 1, 1), (2, 1, 2), (3, 0, 2), (4, 2, 1)])
@pytest.mark.parametrize("windows", [2, 3])
def test_cells_that_no_window_sees_have_gradient_zero(kernel: int, padding: int, dilation: int, windows: int) -> None:
    """An image as long as its windows together, which padding moves and dilation spreads: some cells are left out."""
    size = kernel * windows
    x = tg.from_numpy(np.arange(2.0 * size * size).reshape(1, 2, size, size)).requires_grad_()
    y, index = F.max_pool2d(x, kernel, kernel, padding, dilation, return_indices=True)
    g = np.arange(1.0, 1 + y.numel()).reshape(1, 2, -1)
    junk = np.full(x.shape, np.nan)
    del junk  # so that memory which is never written shows
    (dx,) = tg.autograd.grad(y, x, tg.from_numpy(g.reshape(y.shape)))
    expected = np.zeros((2, size * size))
    for channel in range(2):
        np.add.at(expected[channel], index.numpy()[0, channel].ravel(), g[0, channel])
    np.testing.assert_array_equal(dx.numpy().reshape(2, -1), expected)


def test_nan_wins_and_padding_never_does() -> None:
    """NaN beats numbers and takes the gradient, the first NaN before others; -3 beats the zeros of no padding."""
    x = tg.full((1, 1, 4, 4), -3.0, requires_grad=True)
    with tg.no_grad():
        x[0, 0, 1, 1] = x[0, 0, 1, 2] = float("nan")
    y, index = F.max_pool2d(x, 3, padding=1, return_indices=True)
    assert y.isnan().tolist() == [[[[True, True], [False, False]]]]
    assert y[0, 0, 1].tolist() == [-3.0, -3.0]
    assert index[0, 0, 0].tolist() == [5, 6]
    y.sum().backward()
    assert x.grad is not None and x.grad.nonzero().tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 2, 0], [0, 0, 2, 2]
    ]  # fmt: skip


def test_a_window_without_a_cell() -> None:
    """Dilation can step over a small image: the window's value is -inf and nothing gets its gradient."""
    x = tg.ones(1, 1, 1, 1, requires_grad=True)
    y = F.max_pool2d(x, 2, 1, padding=1, dilation=2)
    assert y.tolist() == [[[[-np.inf]]]]
    y.backward(tg.ones(1, 1, 1, 1))
    assert x.grad is not None and x.grad.tolist() == [[[[0.0]]]]


# -------------------------------------------------------------------------------------------------- means


def test_none_keeps_the_size() -> None:
    """output_size (None, 2) pools the columns alone."""
    assert F.adaptive_avg_pool2d(tg.ones(1, 2, 5, 6), (None, 2)).shape == (1, 2, 5, 2)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
        lambda x: F.adaptive_avg_pool2d(x, 3),
    ],
)
def test_one_image_or_none(pool: Any) -> None:
    """(C, H, W) gives what the batch gives for its image; an empty batch gives an empty batch."""
    x = tg.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 7, 7)))
    np.testing.assert_array_equal(pool(x[1]).numpy(), pool(x)[1].numpy())
    assert pool(x[:0]).shape == (0, *pool(x).shape[1:])


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_every_size_has_its_number_of_windows(ceil_mode: bool) -> None:
    """Windows start a stride apart while they fit; with ceil_mode one more may hang over, if it starts inside."""
    for size, kernel, stride, dilation in np.ndindex(9, 4, 4, 2):
        size, kernel, stride, dilation = size + 1, kernel + 1, stride + 1, dilation + 1
        for padding in range(kernel // 2 + 1):
            end = size + padding
            starts = list(range(-padding, end - dilation * (kernel - 1), stride))
            covered = bool(starts) and starts[-1] + dilation * (kernel - 1) == end - 1
            if ceil_mode and starts and not covered and starts[-1] + stride < size:
                starts.append(starts[-1] + stride)
            if starts:
                numbers = (kernel, 1), (stride, 1), (padding, 0), (dilation, 1)
                y = F.max_pool2d(tg.ones(1, size, 1), *numbers, ceil_mode)
                assert y.shape == (1, len(starts), 1), (size, kernel, stride, dilation, padding)


# ------------------------------------------------------------------------------------------------- errors

X = tg.ones(2, 3, 6, 6)
ERRORS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("not a tensor", lambda: F.max_pool2d(X.numpy(), 2), TypeError, ["max_pool2d", "ndarray"]),
    ("integers", lambda: F.max_pool2d(X.long(), 2), TypeError, ["int64", ".float()"]),
    ("a matrix", lambda: F.avg_pool2d(X[0, 0], 2), ValueError, ["(6, 6)", "unsqueeze"]),
    ("kernel 0", lambda: F.max_pool2d(X, 0), ValueError, ["kernel_size >= 1"]),
    ("kernel 'a'", lambda: F.avg_pool2d(X, "a"), TypeError, ["kernel_size", "'a'"]),
    ("stride 0", lambda: F.avg_pool2d(X, 2, 0), ValueError, ["stride >= 1"]),
    ("padding", lambda: F.max_pool2d(X, 3, padding=2), ValueError, ["half", "(3, 3)", "(2, 2)"]),
    ("avg padding", lambda: F.avg_pool2d(X, 3, padding=2), ValueError, ["half", "(3, 3)", "(2, 2)"]),
    ("too large", lambda: F.max_pool2d(X, 7), ValueError, ["(7, 7)", "(2, 3, 6, 6)"]),
    ("dilation", lambda: F.max_pool2d(X, 3, dilation=3), ValueError, ["(3, 3)", "dilation (3, 3)"]),
    ("divisor 0", lambda: F.avg_pool2d(X, 2, divisor_override=0), ValueError, ["divisor_override >= 1"]),
    ("no pixels", lambda: F.adaptive_avg_pool2d(X[:, :, :0], 1), ValueError, ["(2, 3, 0, 6)"]),
    ("output 0", lambda: F.adaptive_avg_pool2d(X, 0), ValueError, ["output_size >= 1"]),
    ("three sizes", lambda: F.adaptive_avg_pool2d(X, (1, 2, 3)), ValueError, ["output_size", "3"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "parts"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_show_the_numbers(call: Any, error: type[Exception], parts: list[str]) -> None:
    """Each bad argument is a typed exception with the shapes and the rule."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
