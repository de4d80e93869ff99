"""The seeded bugs fit the sources as they are, and one of them is noticed from end to end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutation import score

BUGS = score.bugs()
PACKAGE = score.ROOT / "tinygrad_cnn"


def test_there_are_enough_bugs_of_every_family() -> None:
    counts = Counter(name for bug in BUGS for name in bug.families)
    assert len(BUGS) >= 100
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert min(counts[name] for name in score.FAMILIES) >= 3, counts


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_every_bug_can_be_put_in(bug: score.Bug) -> None:
    """Whoever changes a line that a bug stands in changes the bug as well."""
    source = (PACKAGE / bug.file).read_text()
    changed = bug.applied(source)
    assert changed != source
    compile(changed, bug.file, "exec")
    with pytest.raises(ValueError, match="not once"):
        bug.applied(source + source)


def test_a_bug_is_noticed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bug = next(bug for bug in BUGS if bug.name == "sub: sign of other's gradient")
    copy, tests = score.Copy(tmp_path), ["tests/records/test_records.py::test_record[sub]"]
    result = copy.check(bug, tests)
    assert result.state == "caught"
    assert result.by == f"{tests[0]}: tinygrad_cnn.testing.report.GradcheckError"
    assert copy.run(tests).state == "passed"


def test_machine_code_of_what_a_bug_may_reach_is_not_used_again() -> None:
    of_pools, of_tiles = (score._reached(PACKAGE / "kernels", stem) for stem in ("pool", "simd"))
    assert "pool" in of_pools and "reduce" not in of_pools
    assert {"simd", "contract", "matmul", "conv", "conv_weights", "memory"} <= of_tiles
