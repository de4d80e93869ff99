"""Memory: a graph dies with its last tensor, by reference counting alone; long chains work; training does not grow."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.autograd import Function, Node, Variable
from tinygrad_cnn.kernels.cpu import memory
from tinygrad_cnn.nn import functional as F


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> int:
    """How many tensors and nodes exist."""
    # type(x), not isinstance: a weak proxy whose object has died raises when it is asked for its class
    return sum(issubclass(type(x), (Variable, Node)) for x in gc.get_objects())


class Scale(Function):
    """Saves an input and both outputs."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        a, b = x * 2, x * 3
        ctx.save_for_backward(x, a, b)
        return a, b

    @staticmethod
    def backward(ctx: Any, g: Any, h: Any) -> Any:
        return g * 2 + h * 3


def _views(x: Any) -> Any:
    y = (x * 1).reshape(-1)
    y[::2].mul_(2)
    y[1:] += y[:-1].detach()
    return (y * y).sum()


def _hooked(x: Any) -> Any:
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    return (y * y.exp()).sum()


def _second_order(x: Any) -> Any:
    (g,) = tg.autograd.grad((x**3).sum(), x, create_graph=True)
    return (g * g).sum()


def _network(x: Any) -> Any:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    return F.cross_entropy(model(x.reshape(2, 1, 6, 6)), tg.tensor([0, 2]))


GRAPHS: dict[str, Callable[[Any], Any]] = {
    "elementwise": lambda x: ((x * 2).exp().sigmoid() + x.tanh()).sum(),
    "saved outputs": lambda x: x.exp().sqrt().softmax(0).sum(),
    "views and writes": _views,
    "hooks": _hooked,
    "a Function": lambda x: (lambda a, b: (a * b).sum())(*Scale.apply(x)),
    "second order": _second_order,
    "a network": _network,
}


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("backward", [False, True])
def test_no_tensor_is_left_when_the_loss_goes(name: str, backward: bool) -> None:
    x = tg.rand(72, requires_grad=True)
    GRAPHS[name](x)  # what is made once and kept, such as compiled kernels
    before = alive()
    loss = GRAPHS[name](x)
    if backward:
        loss.backward()
        x.grad = None
    assert alive() > before
    del loss
    assert alive() == before


@pytest.mark.usefixtures("no_gc")
def test_a_failed_backward_leaves_nothing() -> None:
    x = tg.rand(4, requires_grad=True)
    before = alive()
    y = x * 2
    y.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (y * y).sum().backward()
    del y
    assert alive() == before


@pytest.mark.parametrize("kind", ["add", "mul", "view", "function", "in place"])
def test_a_chain_of_100_000_ops_runs_backward_and_is_deleted(kind: str) -> None:
    class Step(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g

    steps: dict[str, Callable[[Any], Any]] = {
        "add": lambda x: x + 1.0,
        "mul": lambda x: x * 1.0,
        "view": lambda x: x[...],
        "function": Step.apply,
        "in place": lambda x: x.add_(1.0),
    }
    x = tg.ones(1, requires_grad=True)
    for walked in (True, False):
        y = x * 1.0
        for _ in range(100_000 if kind == "mul" else 20_000):
            y = steps[kind](y)
        if walked:
            y.backward()
            assert x.grad.item() == 1.0
        del y


def test_a_chain_of_graphs_of_gradients_is_deleted() -> None:
    x = tg.ones(1, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0 + x * 0.0
    (g,) = tg.autograd.grad(y, x, create_graph=True)
    assert g.item() == 1.0
    del g, y


def test_a_wide_graph_is_as_quick_as_a_long_one() -> None:
    x = tg.ones(1, requires_grad=True)
    total = x * 0.0
    for _ in range(30_000):
        total = total + x
    total.backward()
    assert x.grad.item() == 30_000.0


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's count of resident pages")
def test_ten_thousand_training_steps_grow_memory_by_at_most_a_megabyte() -> None:
    tg.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    optimizer = tg.optim.Adam(model.parameters())
    x, y = tg.randn(2, 1, 4, 4), tg.tensor([0, 1])

    def steps(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    steps(500)
    gc.collect()
    gc.disable()  # a cycle per step would show
    try:
        before = resident()
        steps(10_000)
        assert resident() - before <= 1 << 20
    finally:
        gc.enable()


def test_a_steady_step_takes_no_new_buffer_from_the_system() -> None:
    tg.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, 10))
    optimizer = tg.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = tg.randn(16, 3, 16, 16), tg.from_numpy(np.arange(16) % 10)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    tracemalloc.start()
    try:
        step()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 16 * 16 * 14 * 14 * 4 / 2  # less than half of the first activation
    assert memory.pool is not None
