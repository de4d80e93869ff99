"""Dropout: how much it drops, that backward uses the same mask, and what makes it repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(p: float) -> None:
    """A share p is zero, within five standard deviations, and the rest is scaled to keep the mean."""
    n = 100_000
    tg.manual_seed(0)
    y = F.dropout(tg.ones(n), p).numpy()
    assert abs((y == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)
    np.testing.assert_array_equal(np.unique(y), np.array([0, 1 / (1 - p)], np.float32))


def test_the_gradient_has_the_mask_of_the_output() -> None:
    """What was dropped gets no gradient, what was kept gets it scaled; also twice over."""
    x = tg.ones(4, 3, 20, 20).clone().requires_grad_()
    y = F.dropout(x, 0.3)
    g = y.detach() * 2
    (dx,) = tg.autograd.grad(y, x, g, create_graph=True)
    np.testing.assert_allclose(dx.detach().numpy(), g.numpy() / 0.7, rtol=1e-6)


def test_whole_channels() -> None:
    """dropout2d drops a channel of an item altogether or not at all."""
    tg.manual_seed(0)
    y = F.dropout2d(tg.ones(50, 8, 3, 3), 0.5).numpy().reshape(400, 9)
    assert (y.min(1) == y.max(1)).all()
    assert 150 < (y[:, 0] == 0).sum() < 250


def test_the_seed_makes_it_repeatable() -> None:
    """One seed, one sequence of masks, on any number of threads; the next call has another mask."""
    x, before = tg.ones(1 << 20), tg.get_num_threads()
    masks = []
    try:
        for threads in (1, 2):
            tg.set_num_threads(threads)
            tg.manual_seed(7)
            masks.append([F.dropout(x).numpy() for _ in range(2)])
    finally:
        tg.set_num_threads(before)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0][0] != masks[0][1]).any()


def test_nothing_is_dropped_outside_of_training() -> None:
    """Without training, or for p = 0, the input comes back itself; for p = 1 nothing is left."""
    x = tg.ones(5)
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert (F.dropout(x, 1.0) == 0).all()
    assert F.dropout(x, 1.0, inplace=True) is x and (x == 0).all()


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda: F.dropout(tg.ones(3), 1.5), ValueError, "1.5"),
        (lambda: F.dropout(tg.ones(3), -0.1), ValueError, "-0.1"),
        (lambda: F.dropout(tg.ones(3), float("nan")), ValueError, "nan"),
        (lambda: F.dropout(tg.tensor([1, 2])), TypeError, "int64"),
        (lambda: F.dropout2d(tg.ones(3)), ValueError, "(3,)"),
    ],
)
def test_errors_show_the_numbers(call: Any, error: type[Exception], part: str) -> None:
    """Each bad argument is a typed exception."""
    with pytest.raises(error) as caught:
        call()
    assert part in str(caught.value)
