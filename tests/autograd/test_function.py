"""Custom Functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import Function, grad, no_grad

from .tools import Identity, check, leaf, vector


class Cube(Function):
    """Saves its input."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * x * g


class Exp(Function):
    """Saves its output."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (out,) = ctx.saved_tensors
        return g * out


class SinCos(Function):
    """Two outputs, both saved."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        sin, cos = x.sin(), x.cos()
        ctx.save_for_backward(sin, cos)
        return sin, cos

    @staticmethod
    def backward(ctx: Any, g_sin: Any, g_cos: Any) -> Any:
        sin, cos = ctx.saved_tensors
        return g_sin * cos - g_cos * sin


@pytest.mark.parametrize(
    ("fn", "plain"),
    [
        (Cube.apply, lambda x: x**3),
        (Exp.apply, lambda x: x.exp()),
        (lambda x: SinCos.apply(x)[0], lambda x: x.sin()),
        (lambda x: SinCos.apply(x)[1], lambda x: x.cos()),
        (lambda x: SinCos.apply(x)[0] * SinCos.apply(x)[1], lambda x: x.sin() * x.cos()),
        (lambda x: (lambda s, c: s * c + s)(*SinCos.apply(x)), lambda x: x.sin() * x.cos() + x.sin()),
        (lambda x: Exp.apply(Cube.apply(x)) * x, lambda x: (x**3).exp() * x),
    ],
)
def test_a_function_differentiates_to_any_order_as_its_formula_does(fn: Any, plain: Any) -> None:
    x = vector() * 0.5
    x = x.detach().requires_grad_()
    a, b = fn(x), plain(x)
    for _ in range(3):
        (a,) = grad(a.sum(), x, create_graph=True)
        (b,) = grad(b.sum(), x, create_graph=True)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9)


def test_saved_inputs_and_outputs_are_guarded() -> None:
    for fn in (Cube.apply, Exp.apply):
        x = leaf(1.0, 2.0)
        y = x * 1
        z = fn(y)
        (z if fn == Exp.apply else y).mul_(2)
        with pytest.raises(RuntimeError, match="changed in place"):
            z.sum().backward()


def test_saved_tensors_are_freed_with_the_graph() -> None:
    x = leaf(1.0)
    y = Cube.apply(x)
    y.backward()
    with pytest.raises(RuntimeError, match="'Cube' were freed; pass retain_graph=True"):
        y.backward()


def test_missing_gradients_arrive_as_zeros_or_none() -> None:
    got: list[Any] = []

    class Two(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, materialize: bool) -> Any:
            ctx.set_materialize_grads(materialize)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            got.append((g, h))
            return h * 2, None

    x = leaf(1.0, 2.0)
    Two.apply(x, True)[1].sum().backward()
    check(got[0][0], 0, 0)
    Two.apply(x, False)[1].sum().backward()
    assert got[1][0] is None
    check(x.grad, 4, 4)


def test_outputs_without_gradient() -> None:
    class Sorted(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            order = tg.tensor(np.argsort(x.detach().numpy()))
            bound = x.detach() * 0
            ctx.save_for_backward(order)
            ctx.mark_non_differentiable(bound)
            return x[order], order, bound

        @staticmethod
        def backward(ctx: Any, g: Any, *_: Any) -> Any:
            (order,) = ctx.saved_tensors
            out = np.empty_like(g.numpy())
            out[order.numpy()] = g.numpy()
            return tg.tensor(out)

    x = leaf(3.0, 1.0, 2.0)
    values, order, bound = Sorted.apply(x)
    assert [t.requires_grad for t in (values, order, bound)] == [True, False, False]
    values.backward(tg.tensor([1.0, 2.0, 3.0], dtype=tg.float64))
    check(x.grad, 3, 1, 2)


def test_needs_input_grad_and_none_gradients() -> None:
    needs = []

    class Mul(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any, scale: float) -> Any:
            needs.append(ctx.needs_input_grad)
            ctx.save_for_backward(x, y)
            ctx.scale = scale
            return x * y * scale

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            _, y = ctx.saved_tensors
            return g * y * ctx.scale, None, None

    x, y = leaf(2.0), leaf(3.0)
    Mul.apply(x, y, 2.0).backward()
    Mul.apply(x, y.detach(), 2.0).backward()
    assert needs == [(True, True, False), (True, False, False)]
    check(x.grad, 12)
    assert y.grad is None
    with no_grad():
        assert not Mul.apply(x, y, 1.0).requires_grad


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (lambda g: (g, g), RuntimeError, "Bad.backward returned 2 gradients for the 1 arguments"),
        (lambda g: (), RuntimeError, "returned 0 gradients"),
        (lambda g: 1.0, TypeError, "Bad.backward returned float for argument 0, not a Tensor"),
        (lambda g: g.sum(), RuntimeError, r"gradient of shape \(\) for input 0 of shape \(2,\)"),
        (lambda g: g.reshape(2, 1), RuntimeError, r"shape \(2, 1\) for input 0"),
    ],
)
def test_what_a_backward_returns_is_checked(returned: Any, error: Any, words: str) -> None:
    class Bad(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return returned(g)

    x = leaf(1.0, 2.0)
    with pytest.raises(error, match=words):
        Bad.apply(x).sum().backward()
    assert x.grad is None


def test_extra_nones_are_ignored_and_gradients_are_cast() -> None:
    class Loose(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g.float(), None, None

    x = leaf(1.0, 2.0)
    Loose.apply(x).sum().backward()
    assert x.grad.dtype == tg.float64


def test_forward_must_return_tensors() -> None:
    class Bad(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.sum().item()

    with pytest.raises(TypeError, match=r"Bad\.forward must return Tensors, got float"):
        Bad.apply(leaf(1.0))
    with pytest.raises(NotImplementedError, match="define a static forward"):
        Function.apply(leaf(1.0))


def test_a_failed_walk_leaves_nothing_behind_in_a_function() -> None:
    x = leaf(1.0)
    y, z = SinCos.apply(x)
    handle = y.register_hook(lambda g: 1 / 0)
    total = z * 1 + y
    with pytest.raises(ZeroDivisionError):
        total.backward(retain_graph=True)
    handle.remove()
    x.grad = None
    total.backward()
    assert x.grad.item() == pytest.approx(math.cos(1) - math.sin(1))


def test_an_input_that_is_returned_cannot_be_written_to() -> None:
    x = leaf(1.0, 2.0)
    for base in (x, x * 2):
        y = Identity.apply(base)
        with pytest.raises(RuntimeError, match="cannot be changed in place"):
            y.add_(1)
    base = x * 2
    y = Identity.apply(base)
    base.mul_(3)
    with pytest.raises(RuntimeError, match="Identity returned its input"):
        y.sum()


def test_once_differentiable_gives_the_first_gradient_and_refuses_the_second() -> None:
    """A backward in NumPy is no constant for create_graph: asking for its gradient raises."""

    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @tg.autograd.once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return tg.from_numpy(2 * x.numpy() * g.numpy())

    x = tg.tensor([1.0, 3.0], requires_grad=True)
    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 6]
    (dx,) = tg.autograd.grad(Square.apply(x).sum(), x, create_graph=True)
    assert dx.tolist() == [2, 6]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
