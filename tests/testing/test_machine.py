"""Random programs give what a slow autograd of single elements gives: values, gradients and refusals."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import tinygrad_cnn as tg
from tests.plain_autograd import PlainTape
from tinygrad_cnn.testing.strategies import AutogradMachine

pytestmark = pytest.mark.gradcheck


class Machine(AutogradMachine):
    reference = PlainTape


def run(programs: int, steps: int) -> None:
    chosen = settings(max_examples=programs, stateful_step_count=steps, deadline=None, database=None)
    run_state_machine_as_test(Machine, settings=chosen)


def test_a_few_hundred_programs() -> None:
    run(200, 20)


@pytest.mark.slow
def test_ten_thousand_programs() -> None:
    run(10_000, 20)


# What the programs found, each as a test of its own.


def test_a_view_of_a_view_taken_under_no_grad_is_not_written_to() -> None:
    x = tg.ones(3, requires_grad=True)
    with tg.no_grad():
        part = x[:2][:1]
    with pytest.raises(RuntimeError, match="a view taken under no_grad"):
        part.mul_(x[:1])
    base = tg.ones(3)
    first, second = base[:1], base[1:]
    first.mul_(x[:1])  # base has a history now, which second has not looked up yet
    with tg.no_grad():
        part = second[:1]
    with pytest.raises(RuntimeError, match="a view taken under no_grad"):
        part.add_(1)


def test_a_dimension_of_one_more_is_no_repetition() -> None:
    x = tg.zeros(3)
    x.expand(1, 3).add_(1)
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="an expanded tensor"):
        x.expand(2, 3).add_(1)


def test_a_gradient_of_a_changed_view_is_one_of_its_base() -> None:
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    base = x * 2
    part = base[:2]
    part.mul_(3)
    base.retain_grad()
    part.backward(tg.ones(2))
    assert base.grad is not None and base.grad.tolist() == [1, 1, 0]
    assert x.grad is not None and x.grad.tolist() == [6, 6, 0]


def test_a_write_through_a_reshaped_view_has_its_gradient_whatever_the_layout_of_the_cotangent() -> None:
    x, c = tg.ones(2, 3, requires_grad=True), tg.arange(1.0, 7.0).reshape(2, 3)
    base = x * c
    base.reshape(-1).mul_(c.reshape(-1))
    base.permute(1, 0).backward(tg.ones(3, 2))  # column-major: a mask like it has no flat view
    assert x.grad is not None and x.grad.tolist() == (c * c).tolist()
    y = tg.ones(1, 2, 2, 2, requires_grad=True)
    image = (y * 2).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels-last
    image.permute(0, 2, 3, 1).reshape(-1)[::2].fill_(0)
    image.sum().backward()
    assert y.grad is not None and y.grad[0, :, 0, 0].tolist() == [0, 2]
