"""Random networks: every gradient is right, and what a Sequential computes in one pass is what its layers compute."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, find, given, settings

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.nn import containers
from tinygrad_cnn.testing import check_module
from tinygrad_cnn.testing.networks import Residual
from tinygrad_cnn.testing.strategies import modules


@settings(max_examples=8)
@given(modules())
def test_every_gradient_of_a_random_network(drawn: Any) -> None:
    net, x = drawn
    check_module(net, x)
    check_module(net.eval(), x)


def layer_by_layer(module: nn.Module, x: Any) -> Any:
    """What the network computes, each layer called on its own."""
    if isinstance(module, Residual):
        return x + layer_by_layer(module.body, x)
    if not isinstance(module, nn.Sequential):
        return module(x)
    for child in module:
        x = layer_by_layer(child, x)
    return x


@given(modules())
def test_fused_layers_are_their_layers(drawn: Any) -> None:
    net, x = drawn
    for training in (True, False):
        net.train(training)
        apart = copy.deepcopy(net)
        results = []
        for model, call in ((net, net), (apart, lambda x, apart=apart: layer_by_layer(apart, x))):
            model.zero_grad()
            leaf = x.clone().requires_grad_()
            out = call(leaf)
            out.backward(tg.tensor(np.random.default_rng(0).normal(size=out.shape).astype(np.float32)))
            results.append([out.detach(), leaf.grad, *(p.grad for p in model.parameters()), *model.buffers()])
        for ours, expected in zip(*results, strict=True):
            np.testing.assert_array_equal(ours.numpy(), expected.numpy())
        with tg.no_grad():  # sums are rounded in another order there
            scale = max(1.0, np.abs(results[1][0].numpy()).max())
            np.testing.assert_allclose(net(x).numpy(), layer_by_layer(apart, x).numpy(), rtol=1e-4, atol=1e-4 * scale)


def test_networks_reach_what_matters() -> None:
    def steps(net: nn.Sequential) -> set[str]:
        return {type(step).__name__ for step in containers._steps(list(net))}

    chosen = settings(
        max_examples=800,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for condition in (
        lambda net: "_WithNorm" in steps(net),
        lambda net: {"_WithReLU", "Residual"} <= steps(net),
        lambda net: any(isinstance(m, nn.Sequential) and "_WithReLU" in steps(m) for m in net),
        lambda net: any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in net.modules()),
    ):
        find(
            modules(), lambda drawn, condition=condition: condition(drawn[0]), settings=chosen, random=random.Random(0)
        )
