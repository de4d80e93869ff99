"""Records and decorated tests under pytest: what is collected, how often it runs, and what --gradcheck leaves out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

import tinygrad_cnn as tg
from tinygrad_cnn.testing import property_test_gradients
from tinygrad_cnn.testing.strategies import arrays

CONFTEST = "pytest_plugins = ['tinygrad_cnn.testing.plugin']"
TESTS = """
import dataclasses, pytest
import numpy as np, tinygrad_cnn as tg
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad_cnn.testing import OpRecord, property_test_gradients
from tinygrad_cnn.testing.strategies import arrays

SQUARE = OpRecord("square, again", tg.square, np.square, arrays((2,)), errors=[(["x"], TypeError, "str")], degree=2)
WRONG = dataclasses.replace(SQUARE, op=lambda x: x * x.detach(), errors=[(["x"], AttributeError, "no such words")])
seen = {"decorated": 0, "marked": 0}

@pytest.fixture(scope="module")
def four():
    return 4

class TestMethods:
    @property_test_gradients(tg.exp, arrays((2,)))
    @pytest.mark.parametrize("n", [2])
    def test_decorated(self, inputs, n, four):
        seen["decorated"] += 1
        assert inputs.shape == (n,) and four == 4

@pytest.mark.gradcheck
@given(st.integers())
def test_marked(n):
    seen["marked"] += 1

def test_plain():
    print("counts", seen)
"""


def test_records_are_collected_and_a_wrong_gradient_fails(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-v", "-s", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*::SQUARE PASSED*",
            "*::SQUARE*errors PASSED*",
            "*::WRONG FAILED*",
            "*::WRONG*errors FAILED*",
            "*gradient of input 0 is wrong*",
            "*gradcheck(fn, inputs, degree=2)*",
            "*counts {'decorated': 100, 'marked': 100}",
        ]
    )


def test_gradcheck_runs_gradient_tests_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    path = pytester.makepyfile(TESTS + "\ndef teardown_module():\n    print('counts', seen)\n")
    fast = pytester.runpytest_subprocess("--gradcheck=fast", "-s", "-k", "not WRONG", "-p", "no:cacheprovider", path)
    fast.assert_outcomes(passed=4, deselected=3)
    fast.stdout.fnmatch_lines(["*counts {'decorated': 10, 'marked': 10}"])
    full = pytester.runpytest_subprocess("--gradcheck=full", "-s", "-k", "marked", "-p", "no:cacheprovider", path)
    full.stdout.fnmatch_lines(["*counts {'decorated': 0, 'marked': 1000}"])


def test_the_profiles() -> None:
    profiles = {name: settings.get_profile(name) for name in ("dev", "ci", "nightly")}
    assert [p.max_examples for p in profiles.values()] == [25, 100, 1000]
    assert all(p.deadline is None for p in profiles.values())
    assert [p.derandomize for p in profiles.values()] == [False, True, False]


def test_a_decorated_test_runs_the_number_of_examples_it_asks_for() -> None:
    count = 0

    @property_test_gradients(tg.exp, arrays((2,)), max_examples=7)
    def test(inputs: Any) -> None:
        nonlocal count
        count += 1

    test()
    assert count == 7


def test_a_decorated_test_needs_its_inputs() -> None:
    with pytest.raises(TypeError, match="test_without needs an argument `inputs`"):

        @property_test_gradients(tg.exp, arrays((2,)))
        def test_without() -> None: ...


def test_a_decorated_test_sees_a_wrong_gradient_and_what_the_test_itself_says() -> None:
    @property_test_gradients(lambda x: x * x.detach(), arrays((2,)))
    def test_wrong(inputs: Any) -> None: ...

    with pytest.raises(AssertionError, match="gradient of input 0 is wrong"):
        test_wrong()

    @property_test_gradients(tg.exp, arrays((2,)))
    def test_more(inputs: Any) -> None:
        assert (inputs < 1).all(), "of one's own"

    with pytest.raises(AssertionError, match="of one's own"):
        test_more()
