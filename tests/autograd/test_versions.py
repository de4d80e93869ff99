"""Versions: a tensor that was saved and then written to is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import no_grad

from .tools import check, leaf

IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "add_": lambda t: t.add_(1),
    "mul_": lambda t: t.mul_(2),
    "zero_": lambda t: t.zero_(),
    "copy_": lambda t: t.copy_(tg.ones(3, dtype=t.dtype)),
    "setitem": lambda t: t.__setitem__(0, 5.0),
    "setitem mask": lambda t: t.__setitem__(t > 0, 5.0),
    "view": lambda t: t[1:].fill_(2.0),
    "detached": lambda t: t.detach().add_(1),
    "detached view": lambda t: t.detach()[0].add_(1),
    "relu_": lambda t: t.relu_(),
    "clamp_": lambda t: t.clamp_(0, 1),
    "data": lambda t: setattr(t, "data", tg.zeros(3, dtype=t.dtype)),
}

SAVES: dict[str, Callable[[Any], Any]] = {
    "mul": lambda t: t * t,
    "exp": lambda t: t.exp(),
    "matmul": lambda t: t @ t,
    "div": lambda t: 1.0 / t,
    "max": lambda t: t.maximum(t * 0.5),
    "sin": lambda t: t.sin(),
}


@pytest.mark.parametrize("write", IN_PLACE)
@pytest.mark.parametrize("name", ["mul", "matmul", "div", "sin"])
@pytest.mark.parametrize("recorded", [False, True])
def test_every_write_after_a_save_is_noticed(write: str, name: str, recorded: bool) -> None:
    x = leaf(1.0, -2.0, 3.0)
    y = x * 2
    z = SAVES[name](y).sum()
    if recorded:
        IN_PLACE[write](y)
    else:
        with no_grad():
            IN_PLACE[write](y)
    with pytest.raises(RuntimeError, match=r"was changed in place: it is at version \d+, saved at version 0"):
        z.backward()
    assert x.grad is None


def test_the_message_names_the_op_and_the_versions() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y.sin()
    y.add_(1).mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \(2,\).*backward of 'sin'.*version 2, saved at version 0"):
        z.sum().backward()


def test_a_write_to_a_saved_output_is_noticed() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.mul_(2)
    with pytest.raises(RuntimeError, match="'exp'"):
        y.sum().backward()


def test_a_gradient_that_is_added_to_counts_as_written() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    y = leaf(1.0, 1.0)
    z = y * x.grad
    (x * x).sum().backward()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()


def test_a_write_to_what_nobody_saved_is_fine() -> None:
    x = leaf(1.0, 2.0)
    y = x + 1
    z = y * 2.0  # saves only the number
    y.mul_(5)
    z.sum().backward()
    check(x.grad, 2, 2)


def test_an_array_operand_may_be_changed_after_its_use() -> None:
    x, weights = leaf(1.0, 2.0), np.array([3.0, 4.0])
    y = (x * weights).sum()
    weights *= 100
    y.backward()
    check(x.grad, 3, 4)
