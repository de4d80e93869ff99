"""The race to 99 % on MNIST, run on a few hundred digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.data import SyntheticDigits


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "fast_mnist.py"
    spec = importlib.util.spec_from_file_location("fast_mnist", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_without_data_files(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of 36 steps on 1,536 synthetic digits, a sixth of them held out; the mean is that of the lines."""
    monkeypatch.setattr(
        example, "SyntheticDigits", lambda train, transform: SyntheticDigits(1536, train, transform=transform)
    )
    mean = example.main(["--epochs", "4", "--seeds", "2", "--validate"])
    printed = capsys.readouterr().out
    assert mean > 0.6  # chance is 0.1
    assert printed.count("seed ") == 2
    assert f"mean of 2: accuracy {mean:.3%}" in printed


def test_held_out_images_are_not_trained_on(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        example, "SyntheticDigits", lambda train, transform: SyntheticDigits(60, train, transform=transform)
    )
    data, test = example.datasets(None, validate=True)
    assert sorted([*data.indices.tolist(), *test.indices.tolist()]) == list(range(60))
    assert not set(data.indices.tolist()) & set(test.indices.tolist())


def test_shifted_images_keep_their_pixels(example: ModuleType) -> None:
    """Each image is the old one, moved by up to 2 pixels, with zeros at the edge; not all by the same way."""
    images = np.zeros((50, 1, 9, 9), np.float32)
    images[:, 0, 4, 4] = np.arange(1, 51)
    tg.manual_seed(0)
    shifted = example.RandomShift(2)(tg.from_numpy(images)).numpy()
    n, _, rows, columns = np.nonzero(shifted)
    np.testing.assert_array_equal(n, np.arange(50))
    np.testing.assert_array_equal(shifted[n, 0, rows, columns], np.arange(1, 51))
    assert set(rows) == set(columns) == {2, 3, 4, 5, 6}
