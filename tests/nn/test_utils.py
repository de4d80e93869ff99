"""Clipping gradients, and parameters as one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.nn import utils


def parameters(*gradients: Any) -> list[Any]:
    """Parameters with these gradients, and one without any."""
    found = [nn.Parameter(tg.zeros(len(g))) for g in gradients]
    for p, g in zip(found, gradients, strict=True):
        p.grad = tg.tensor(g)
    return [*found, nn.Parameter(tg.zeros(1))]


@pytest.mark.parametrize(("order", "norm"), [(2.0, 13.0), (1.0, 19.0), (float("inf"), 12.0)])
def test_clip_grad_norm(order: float, norm: float) -> None:
    """The common norm is returned and then at most the limit; a smaller one is left alone."""
    ps = parameters([3.0, -4.0], [12.0])
    assert utils.clip_grad_norm_(ps, 100.0, order).item() == norm
    assert ps[1].grad.tolist() == [12.0]
    assert utils.clip_grad_norm_(iter(ps), norm / 2, order).item() == norm
    np.testing.assert_allclose(ps[0].grad.numpy(), [1.5, -2.0], rtol=1e-6)
    assert utils.clip_grad_norm_(ps[1], 3.0).item() == pytest.approx(6.0)
    assert utils.clip_grad_norm_([], 1.0).item() == 0.0


def test_clip_grad_norm_of_nan() -> None:
    """NaN spreads, as in PyTorch, or is refused before any change."""
    ps = parameters([1.0], [float("nan")])
    with pytest.raises(RuntimeError, match="nan"):
        utils.clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)
    assert ps[0].grad.tolist() == [1.0]
    assert np.isnan(utils.clip_grad_norm_(ps, 1.0).item())
    assert np.isnan(ps[0].grad.item())


def test_clip_grad_value() -> None:
    """Every element ends up within the limits."""
    ps = parameters([3.0, -0.5], [-12.0])
    utils.clip_grad_value_(ps, 1.0)
    assert [p.grad.tolist() for p in ps[:2]] == [[1.0, -0.5], [-1.0]]


def test_vector_round_trip() -> None:
    """All elements in order, and back in place; gradients flow through the vector."""
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Linear(2, 3))
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (sum(p.numel() for p in net.parameters()),)
    (g,) = tg.autograd.grad((vector * vector).sum(), net[1].bias)
    np.testing.assert_allclose(g.numpy(), 2 * net[1].bias.detach().numpy())
    utils.vector_to_parameters(tg.arange(19.0), net.parameters())
    assert net[0].weight.flatten().tolist() == list(range(8)) and net[1].bias.tolist() == [16, 17, 18]
    with pytest.raises(ValueError, match="19 elements"):
        utils.vector_to_parameters(tg.zeros(18), net.parameters())
    with pytest.raises(TypeError, match="list"):
        utils.vector_to_parameters([1.0], net.parameters())
    assert net[1].bias.tolist() == [16, 17, 18]
