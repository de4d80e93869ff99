"""How weights start: ranges and moments, orthogonality, and that nothing is recorded."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.nn import init

N = 4000  # fan_in of the matrix below


def weight() -> Any:
    return nn.Parameter(tg.empty(60, N))


@pytest.mark.parametrize(
    ("fill", "mean", "std", "bound"),
    [
        (lambda w: init.uniform_(w, -1, 3), 1, 4 / math.sqrt(12), 3),
        (lambda w: init.normal_(w, 2, 0.5), 2, 0.5, math.inf),
        (lambda w: init.trunc_normal_(w, 0, 1, -1, 1), 0, 0.5396, 1),
        (lambda w: init.constant_(w, 0.5), 0.5, 0, 0.5),
        (init.zeros_, 0, 0, 0),
        (init.ones_, 1, 0, 1),
        (init.xavier_uniform_, 0, math.sqrt(2 / (N + 60)), math.sqrt(6 / (N + 60))),
        (lambda w: init.xavier_normal_(w, 2), 0, 2 * math.sqrt(2 / (N + 60)), math.inf),
        (init.kaiming_uniform_, 0, math.sqrt(2 / N), math.sqrt(6 / N)),
        (lambda w: init.kaiming_uniform_(w, math.sqrt(5)), 0, math.sqrt(1 / (3 * N)), 1 / math.sqrt(N)),
        (lambda w: init.kaiming_normal_(w, mode="fan_out"), 0, math.sqrt(2 / 60), math.inf),
        (lambda w: init.kaiming_normal_(w, nonlinearity="tanh"), 0, 5 / 3 / math.sqrt(N), math.inf),
    ],
)
def test_moments(fill: Any, mean: float, std: float, bound: float) -> None:
    """Mean and deviation within 1 %, every value within the bound, the tensor itself filled and still a leaf."""
    w = weight()
    tg.manual_seed(0)
    assert fill(w) is w and w.is_leaf and w.requires_grad
    values = w.detach().numpy().astype(np.float64)
    assert values.mean() == pytest.approx(mean, abs=0.01 * (std + 1e-9))
    assert values.std() == pytest.approx(std, rel=0.01, abs=1e-9)
    assert np.abs(values).max() <= bound * (1 + 1e-6)


def test_eye_and_orthogonal() -> None:
    """Orthonormal rows or columns, times the gain; dimensions after the first count as one."""
    np.testing.assert_array_equal(init.eye_(tg.empty(2, 3)).numpy(), np.eye(2, 3))
    for shape in ((3, 5), (5, 3), (2, 2, 3)):
        w = init.orthogonal_(tg.empty(*shape, dtype=tg.float64), gain=2).numpy().reshape(shape[0], -1)
        product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_the_layout_does_not_matter() -> None:
    """One seed gives the same weights whatever their order in memory; a generator of one's own works too."""
    a, b = tg.empty(3, 4, 5), tg.empty(5, 4, 3).permute(2, 1, 0)
    tg.manual_seed(3)
    init.normal_(a)
    init.normal_(b, generator=tg.Generator().manual_seed(3))
    np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: init.xavier_uniform_(tg.empty(3)), "(3,)"),
        (lambda: init.eye_(tg.empty(3)), "(3,)"),
        (lambda: init.orthogonal_(tg.empty(3)), "(3,)"),
        (lambda: init.kaiming_normal_(tg.empty(3, 3), mode="in"), "'in'"),
        (lambda: init.kaiming_normal_(tg.empty(3, 3), nonlinearity="step"), "'step'"),
        (lambda: init.trunc_normal_(tg.empty(3), a=50, b=51), "50"),
    ],
)
def test_errors(call: Any, part: str) -> None:
    """What cannot be filled so is a ValueError that shows it."""
    with pytest.raises(ValueError, match=re.escape(part)):
        call()
