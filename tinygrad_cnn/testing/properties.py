"""Hypothesis tests of gradients: of a record, of an op by a decorator, and the profiles that they run under."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from .records import OpRecord
from .report import name_of


def property_test_gradients(
    op: Callable[..., Any], inputs: Any, *, max_examples: int | None = None, **options: Any
) -> Callable[[Any], Any]:
    """Make of a test a property test of op's gradients over the inputs that a hypothesis strategy draws.

    `inputs` and the options (`ref`, `degree`, `second`, ...) are those of an `OpRecord`. For each example the
    record's checks run first, then the test with `inputs`, what was drawn, for anything else that is to hold.
    `max_examples` is the profile's unless given; hypothesis's `@settings` is on the test already. Raises
    TypeError for a test without the argument `inputs`.

        @property_test_gradients(tg.square, arrays((2, 3)), degree=2)
        def test_square(inputs):
            assert (tg.square(tg.tensor(inputs)) >= 0).all()
    """
    options = {"name": name_of(op), "ref": None, **options}
    record = OpRecord(op=op, inputs=inputs, **options)

    def decorate(test: Callable[..., Any]) -> Any:
        if "inputs" not in inspect.signature(test).parameters:
            raise TypeError(f"{test.__name__} needs an argument `inputs`: what the strategy draws")

        @functools.wraps(test)
        def checked(*args: Any, inputs: Any, **kwargs: Any) -> None:
            record.check(inputs)
            test(*args, inputs=inputs, **kwargs)

        return _drawing(record, checked, max_examples)

    return decorate


def property_test(record: OpRecord) -> Callable[[], None]:
    """The hypothesis test that all of a record's inputs pass its checks."""

    def check(inputs: Any) -> None:
        record.check(inputs)

    check.__name__ = "test_" + re.sub(r"\W+", "_", record.name)  # hypothesis keeps failures by it
    test: Callable[[], None] = _drawing(record, check)
    return test


def _drawing(record: OpRecord, test: Callable[..., Any], max_examples: int | None = None) -> Any:
    """`test` with `inputs` drawn. No deadline: the first example may compile kernels for seconds."""
    from hypothesis import HealthCheck, given, settings

    chosen = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    drawn: Any = (chosen if max_examples is None else settings(chosen, max_examples=max_examples))(
        given(inputs=record.inputs)(test)
    )
    drawn.record = record
    return drawn


def register_profiles() -> None:
    """Register hypothesis profiles: "dev" draws 25 examples, "ci" 100, the same ones each time, "nightly" 1,000.

    None has a deadline, as a first example may compile kernels. For a conftest.py:

    >>> from hypothesis import settings
    >>> from tinygrad_cnn.testing import register_profiles
    >>> register_profiles()
    >>> settings.get_profile("nightly").max_examples
    1000
    """
    from hypothesis import HealthCheck, settings

    base = settings(settings.get_profile("default"), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("dev", base, max_examples=25)
    settings.register_profile("ci", base, max_examples=100, derandomize=True, database=None)
    settings.register_profile("nightly", base, max_examples=1000)
