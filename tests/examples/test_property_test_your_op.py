"""The example's record passes as pytest runs it, and its planted bug is found at the smallest input that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLE = README.parent / "examples" / "property_test_your_op.py"


@pytest.fixture
def examples_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))


@pytest.mark.usefixtures("examples_importable")
def test_the_right_op_passes_and_the_wrong_one_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    import property_test_your_op as example  # type: ignore[import-not-found]

    example.main()
    printed = capsys.readouterr().out
    assert "moving_sum: every example passed" in printed
    assert "Overwriting: failed: the gradient of input 0 is wrong" in printed
    smallest = re.findall(r"input (\d): float64 (\(.*\))", printed)  # two windows of two taps, one apart
    assert smallest == [("0", "(1, 3)"), ("1", "(2,)")]
    assert printed.split("With the planted bug:\n\n")[1] in README.read_text(), "the README shows another report"
    script = printed.split("reproduce with:")[1]
    with pytest.raises(AssertionError, match="gradient of input 0 is wrong"):
        exec(script, {})


def test_pytest_collects_the_record_and_the_decorated_test(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "-v", "-n0", "-p", "tinygrad_cnn.testing.plugin", "--gradcheck=fast", str(EXAMPLE)
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(["*::MOVING_SUM *", "*::MOVING_SUM*errors *", "*::test_weights_of_one_tap_*"])
