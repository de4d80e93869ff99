"""The training examples, run on a few hundred digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.data import SyntheticDigits, write_idx

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the four MNIST files: 1280 synthetic digits to train, 200 to test."""
    folder = tmp_path_factory.mktemp("mnist")
    for part, count, train in (("train", 1280, True), ("t10k", 200, False)):
        digits = SyntheticDigits(count, train=train)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", digits.data.numpy())
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", digits.targets.numpy().astype(np.uint8))
    return folder


def test_mnist_learns_and_saves_what_it_learned(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two epochs of 40 steps read most digits; the file holds the weights; one line an epoch without a terminal."""
    example = load("mnist")
    out = tmp_path / "model.safetensors"
    arguments = ["--root", str(root), "--epochs", "2", "--batch-size", "32", "--out", str(out)]
    share = example.main(arguments)
    assert share > 0.7  # chance is 0.1
    printed = capsys.readouterr().out
    assert printed.count("epoch ") == 2
    assert f"test accuracy {share:.2%}" in printed
    model = example.Net()
    model.load_state_dict(tg.load(out))
    _, test = example.datasets(str(root))
    assert example.accuracy(model, tg.data.DataLoader(test, 100)) == share


def test_mnist_repeats_itself(root: Path) -> None:
    """The same seed gives the same accuracy, another seed another network."""
    example = load("mnist")
    arguments = ["--root", str(root), "--batch-size", "128", "--lr", "0.0005"]
    first, again, other = (example.main([*arguments, "--seed", seed]) for seed in ("1", "1", "2"))
    assert first == again != other


@pytest.mark.parametrize("name", ["mnist", "lenet"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """A folder is never left aside for built-in digits."""
    with pytest.raises(FileNotFoundError, match="train-images"):
        load(name).main(["--root", str(tmp_path)])


def test_mnist_refuses_a_folder_that_is_not_there_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load("mnist").main(["--out", str(tmp_path / "nosuch" / "model.safetensors")])
    assert "--out: there is no folder" in capsys.readouterr().err


def test_lenet_describes_its_layers_and_learns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share = load("lenet").main(["--root", str(root), "--epochs", "10"])
    assert share > 0.6
    printed = capsys.readouterr().out
    assert "6x28x28" in printed
    assert "61,706" in printed
