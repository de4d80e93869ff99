"""The story of convolution is true in every number, and ends with a network that reads digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "from_scratch.py"
    spec = importlib.util.spec_from_file_location("from_scratch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_story_from_start_to_end(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = example.main(["--quick"])
    printed = capsys.readouterr().out
    assert "3,000,000,000 weights" in printed
    assert "10 x (3 x 3 x 3 + 1) = 280 weights" in printed
    assert "28 x 28  ->  24 x 24  ->  20 x 20" in printed
    assert "5258" in printed
    assert f"{accuracy:.1%}" in printed
    assert accuracy > 0.4  # after 24 steps; guessing gives 0.1


def test_how_many_windows_read_each_pixel(example: ModuleType) -> None:
    reached = [1, 2, 3, 3, 2, 1]
    np.testing.assert_array_equal(example.windows_of_each_pixel(6), np.outer(reached, reached))
    np.testing.assert_array_equal(example.windows_of_each_pixel(6, padding=2), np.full((6, 6), 9))


def test_the_pictures(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main(["--quick", "--plot", str(tmp_path / "pictures")])
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["edge.png", "filters.png", "windows.png"]
    assert all((tmp_path / "pictures" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [(("a\nb", "c"), "    a     c\n    b"), (("a\nb\nc", "d"), "    a\n    b     d\n    c")],
)
def test_blocks_of_text_beside_each_other(example: ModuleType, blocks: tuple[str, ...], expected: str) -> None:
    assert example.beside(*blocks) == expected
