"""No gradient shares memory with another tensor, whoever returned or kept it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.autograd import Function, grad

from .tools import Identity, Twice, check, leaf, vector


def _shared(*tensors: Any) -> bool:
    return any(np.shares_memory(a._array, b._array) for a, b in itertools.combinations(tensors, 2))


PASSES_ON: dict[str, Callable[[Any, Any], Any]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a + a + b": lambda a, b: a + a + b,
    "views": lambda a, b: a.reshape(3, 1).squeeze(1) + b[...],
    "parts": lambda a, b: tg.cat([a[:1], b[1:]]) + tg.cat([b[:1], a[1:]]),
    "identity": lambda a, b: Identity.apply(a) + Identity.apply(Identity.apply(b)),
    "twice": lambda a, b: Twice.apply(a, b),
    "clone": lambda a, b: a.clone() + b.clone(),
    "cat": lambda a, b: tg.cat([a, b]),
    "stack": lambda a, b: tg.stack([a, b]),
    "where": lambda a, b: tg.where(a > b, a, b),
    "expand": lambda a, b: a.expand(2, 3) + b.unsqueeze(0),
    "float": lambda a, b: a.float().double() + b.double(),
    "unbind": lambda a, b: sum(a.unbind(0)) + b,
}


@pytest.mark.parametrize("name", PASSES_ON)
def test_gradients_share_memory_with_nothing(name: str) -> None:
    a, b = vector(), vector(seed=1)
    out = PASSES_ON[name](a, b)
    v = tg.tensor(np.arange(1.0, 1 + out.numel()).reshape(out.shape))
    before = v.numpy().copy()
    out.backward(v, retain_graph=True)
    assert not _shared(a.grad, b.grad, a, b, out, v)
    assert a.grad.numpy().flags.writeable
    first = a.grad.numpy().copy()
    a.grad.zero_()
    b.grad.mul_(-5)
    np.testing.assert_array_equal(v.numpy(), before)
    a.grad = b.grad = None
    out.backward(v, retain_graph=True)
    np.testing.assert_array_equal(a.grad.numpy(), first)
    got = grad(out, [a, b], v)
    assert not _shared(*got, a, b, out, v)


def test_the_given_gradient_is_not_taken_over() -> None:
    x = leaf(1.0, 2.0)
    for v in (tg.ones(2, dtype=tg.float64), tg.ones(2, dtype=tg.float64, requires_grad=True)):
        for fn in (lambda x: x, lambda x: x + 0, lambda x: x.reshape(2, 1).squeeze(1)):
            x.grad = None
            tg.autograd.backward([fn(x), fn(x)], [v, v])
            assert x.grad is not v
            assert not _shared(x.grad, v)
            assert not x.grad.requires_grad
            check(x.grad, 2, 2)
            check(v.detach(), 1, 1)


def test_a_gradient_of_another_dtype_leaves_no_history() -> None:
    x, v = leaf(1.0, 2.0), tg.ones(2, requires_grad=True)
    (x + 0).backward(v * 3)
    check(x.grad, 3, 3)
    assert not x.grad.requires_grad


def test_two_roots_with_one_gradient_do_not_add_into_it() -> None:
    x = leaf(1.0, 2.0)
    y = x * 1
    v = tg.ones(2, dtype=tg.float64, requires_grad=True)
    tg.autograd.backward([y, y, y], [v, v, v])
    check(v.detach(), 1, 1)
    check(x.grad, 3, 3)


def test_a_hook_that_keeps_the_gradient_keeps_its_values() -> None:
    kept: list[Any] = []
    for keep in (lambda g: g, lambda g: g.detach(), lambda g: g.numpy(), lambda g: g.data, lambda g: g[...].numpy()):
        x = vector()
        y = x * 1.0
        y.register_hook(lambda g, keep=keep: kept.append(keep(g)))
        (y + y + y).sum().backward()
        (x * 2).sum().backward()
        np.testing.assert_array_equal(np.asarray(kept[-1]), [3, 3, 3])
        check(x.grad, 5, 5, 5)


def test_a_hook_that_changes_what_it_kept_changes_no_gradient_of_another() -> None:
    kept: list[Any] = []
    x, y = vector(), vector(seed=1)
    z = x + y
    z.register_hook(kept.append)
    (z * 1.0).sum().backward()
    kept[0].mul_(100)
    check(x.grad, 1, 1, 1)
    check(y.grad, 1, 1, 1)


def test_a_function_may_return_a_buffer_that_it_uses_again() -> None:
    buffer = np.empty(3)

    class Buffered(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            np.multiply(g.numpy(), 2, out=buffer)
            return tg.from_numpy(buffer)

    x, y = vector(), vector(seed=1)
    (Buffered.apply(x) + Buffered.apply(y) * 3).sum().backward()
    check(x.grad, 2, 2, 2)
    check(y.grad, 6, 6, 6)
    Buffered.apply(x).sum().backward()
    check(x.grad, 4, 4, 4)


def test_a_function_may_return_one_tensor_again_and_again() -> None:
    kept = leaf(1.0, 2.0).detach() * 1  # its memory never goes out to NumPy here, where it would be left alone anyway

    class Constant(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return kept

    x = leaf(0.0, 0.0)
    y = x * 1
    (Constant.apply(y) + Constant.apply(y)).sum().backward()
    assert kept.tolist() == [1, 2]
    check(x.grad, 2, 4)


def test_a_weight_may_be_returned_for_a_gradient() -> None:
    w = leaf(1.0, 2.0)

    class Weighted(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return (x * w.detach()).sum()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return w

    x = leaf(0.0, 0.0)
    (Weighted.apply(x) + Weighted.apply(x)).backward()
    y = leaf(0.0, 0.0)
    y.register_hook(lambda g: w)
    (y * 2).sum().backward()
    check(x.grad, 2, 4)
    check(y.grad, 1, 2)
    check(w.detach(), 1, 2)
    assert not _shared(w, x.grad, y.grad)


def test_a_function_may_return_memory_of_a_saved_tensor() -> None:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x * x).sum() * 0.5

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return tg.from_numpy(x.numpy().reshape(3, 1).reshape(3)) if g.item() == 1 else x

    x = vector()
    before = x.detach().numpy().copy()
    Square.apply(x).backward()
    Square.apply(x).backward()
    assert not _shared(x, x.grad)
    np.testing.assert_array_equal(x.detach().numpy(), before)
    np.testing.assert_array_equal(x.grad.numpy(), 2 * before)


OVERWRITERS: dict[str, Callable[[], Any]] = {
    "relu": nn.ReLU,
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm and relu": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
    "convolution and relu": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
}


@pytest.mark.parametrize("size", [2, 6])  # below and above what the pool takes
@pytest.mark.parametrize("name", OVERWRITERS)
def test_a_gradient_that_somebody_has_is_not_written_over(name: str, size: int) -> None:
    tg.manual_seed(0)
    module = OVERWRITERS[name]()
    x = tg.randn(8, 4, size, size).requires_grad_()
    v = tg.randn(8, 4, size, size)
    given = v.numpy().copy()

    def gradient(watch: Callable[[Any], Any]) -> tuple[Any, np.ndarray]:
        y = module(x)
        watch(y)
        x.grad = None
        (y * v).sum().backward()
        return y, x.grad.numpy()

    _, expected = gradient(lambda y: None)
    for keep in (lambda g: g, lambda g: g.detach(), lambda g: g.numpy(), lambda g: g[1:]):
        held: list[Any] = []
        _, got = gradient(lambda y, keep=keep, held=held: y.register_hook(lambda g: held.append(keep(g))))
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.asarray(held[0]), given[-len(held[0]) :])
    y, got = gradient(lambda y: y.retain_grad())
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(y.grad.numpy(), given)

    y = module(x)
    for _ in range(2):
        x.grad = None
        y.backward(v, retain_graph=True)
        np.testing.assert_array_equal(x.grad.numpy(), expected)
    for got, right in zip(grad((y * v).sum(), [y, x], retain_graph=True), [given, expected], strict=True):
        np.testing.assert_array_equal(got.numpy(), right)
    np.testing.assert_array_equal(v.numpy(), given)
    other = leaf(1.0, dtype=tg.float32)
    z = module(x) * 1 + module(x) * 1 + other  # one gradient for three
    x.grad = None
    (z * v).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * expected, rtol=1e-6)
    np.testing.assert_allclose(other.grad.item(), given.sum(), rtol=1e-4)
