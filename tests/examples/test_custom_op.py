"""The example of an operator of one's own: its gradient passes, the planted bug does not, and it removes noise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import tinygrad_cnn as tg


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "custom_op.py"
    spec = importlib.util.spec_from_file_location("custom_op", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_story_from_start_to_end(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    example.main(["--steps", "3"])
    printed = capsys.readouterr().out
    assert "total_variation: passed" in printed
    assert "forgetful_total_variation: failed" in printed
    assert "reproduce with" in printed


def test_the_planted_bug_is_found_in_the_last_row(example: ModuleType) -> None:
    report = example.check_a_wrong_gradient()
    assert report.status == "failed"
    assert report.index is not None
    assert report.index[1] == 4


def test_the_noise_goes(example: ModuleType) -> None:
    before, after = example.remove_noise(60)
    assert after < before / 2


def test_the_operator_refuses_what_it_cannot_do(example: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        example.total_variation(tg.zeros(3, 3))
    with pytest.raises(ValueError, match="int64"):
        example.total_variation(tg.zeros(1, 3, 3, dtype=tg.int64))
    x = tg.ones(1, 3, 3, requires_grad=True)
    (dx,) = tg.autograd.grad(example.total_variation(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
