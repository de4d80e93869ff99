"""Hooks, and gradients that computed tensors retain."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import grad, no_grad

from .tools import check, leaf


def test_a_hook_sees_the_whole_gradient_once_and_may_replace_it() -> None:
    seen = []
    x = leaf(2.0)
    y = x * 3
    y.register_hook(lambda g: seen.append(g.item()))
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.item()))
    (y * y + y).backward()
    assert seen == [13, 130]
    check(x.grad, 390)


def test_a_hook_on_a_leaf_runs_before_the_gradient_is_added() -> None:
    x = leaf(2.0)
    x.register_hook(lambda g: g * 2)
    (x * x).backward()
    (x * x).backward()
    check(x.grad, 16)
    check(grad(x * 1, x)[0], 2)


def test_a_hook_can_be_removed_twice_and_as_a_context() -> None:
    x = leaf(1.0)
    first = x.register_hook(lambda g: g * 2)
    first.remove()
    second = x.register_hook(lambda g: g * 3)
    first.remove()  # does not remove the second one
    (x * 1).backward()
    check(x.grad, 3)
    second.remove()
    with x.register_hook(lambda g: g * 100):
        pass
    (x * 1).backward()
    check(x.grad, 4)


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (1.0, TypeError, "must return a Tensor or None, got float"),
        (tg.ones(3, dtype=tg.float64), RuntimeError, r"of \(3,\) in the place of one of \(2,\)"),
        (tg.ones(2), RuntimeError, "of float32 in the place of one of float64"),
    ],
)
def test_what_a_hook_returns_is_checked(result: Any, error: Any, words: str) -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: result)
    with pytest.raises(error, match=words):
        y.sum().backward()
    assert x.grad is None


def test_hooks_need_a_gradient_to_come() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        tg.ones(2).register_hook(lambda g: g)
    with pytest.raises(RuntimeError, match="requires grad"):
        tg.ones(2).retain_grad()


def test_retain_grad_fills_the_gradient_of_a_computed_tensor() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    assert y.retains_grad
    (y * y).backward()
    check(y.grad, 12)
    check(x.grad, 36)
    x.retain_grad()  # a leaf has one anyway


def test_retain_grad_sees_what_hooks_made_of_it() -> None:
    for order in (0, 1):
        x = leaf(2.0)
        y = x * 3
        steps = [y.retain_grad, lambda y=y: y.register_hook(lambda g: g * 10)]
        for step in steps if order else reversed(steps):
            step()
        y.backward()
        check(y.grad, 10)
        check(x.grad, 30)


def test_a_kept_gradient_is_not_the_retained_one() -> None:
    """What a later hook keeps stays when a second backward, or its owner, changes the retained gradient."""
    x, kept = leaf(2.0, 3.0), []
    y = x * 3
    y.register_hook(lambda g: kept.append(g))
    z = y + x
    z.retain_grad()
    for _ in range(2):
        (z * 2).sum().backward(retain_graph=True)
    z.grad.zero_()
    assert [g.tolist() for g in kept] == [[2, 2], [2, 2]]


def test_retain_grad_follows_its_tensor_through_writes() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    y.mul_(5)
    (y * 2).backward()
    check(y.grad, 2)
    check(x.grad, 30)


def test_retain_grad_follows_a_view_of_what_was_written_to() -> None:
    x = leaf(1.0, 2.0)
    y = x.reshape(2, 1)
    y.retain_grad()
    with no_grad():
        x.mul_(2)
    (y * 3).sum().backward()
    check(y.grad, [3], [3])


def test_retaining_a_gradient_does_not_keep_its_tensor_alive() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    z = y * y
    gone = weakref.ref(y)
    del y
    assert gone() is None
    z.backward()
    check(x.grad, 36)
