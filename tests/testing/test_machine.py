"""Random programs give what a slow autograd of single elements gives: values, gradients and refusals."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.plain_autograd import PlainTape
from tinygrad_cnn.testing.strategies import AutogradMachine


class Machine(AutogradMachine):
    reference = PlainTape


def run(programs: int, steps: int) -> None:
    chosen = settings(max_examples=programs, stateful_step_count=steps, deadline=None, database=None)
    run_state_machine_as_test(Machine, settings=chosen)


def test_a_few_hundred_programs() -> None:
    run(300, 20)


@pytest.mark.slow
def test_ten_thousand_programs() -> None:
    run(10_000, 20)
