"""Datasets: the same sample alone and in a batch, splits that partition, files that are what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn import Generator, Tensor, from_numpy
from tinygrad_cnn.data import (
    MNIST,
    Compose,
    DataLoader,
    Dataset,
    FashionMNIST,
    Normalize,
    Subset,
    SyntheticDigits,
    TensorDataset,
    ToTensor,
    random_split,
    write_idx,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", LABELS)
    return tmp_path


@given(n=st.integers(1, 40), picks=st.lists(st.integers(-1000, 1000), max_size=8))
def test_a_batch_is_its_samples_stacked(n: int, picks: list[int]) -> None:
    rows = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    dataset = TensorDataset(from_numpy(rows), np.arange(n))
    numbers = np.array([pick % (2 * n) - n for pick in picks], np.int64)
    x, y = dataset[numbers]
    np.testing.assert_array_equal(x.numpy(), rows[numbers])
    np.testing.assert_array_equal(y.numpy(), np.arange(n)[numbers])
    for i, number in enumerate(numbers.tolist()):
        np.testing.assert_array_equal(dataset[number][0].numpy(), x.numpy()[i])
    np.testing.assert_array_equal(dataset[1:n:2][1].numpy(), np.arange(n)[1:n:2])


@pytest.mark.parametrize("index", [5, -6, [0, 5], np.array([-6])])
def test_a_sample_out_of_range_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError, match=r"sample -?\d is out of range for a dataset of 5"):
        TensorDataset(np.zeros(5))[index]


@pytest.mark.parametrize("index", [0.5, "3", [[0, 1]], np.array([True, False])])
def test_an_index_of_another_kind_is_a_type_error(index: Any) -> None:
    with pytest.raises(TypeError, match="a dataset takes an int, a slice or a 1-d list"):
        TensorDataset(np.zeros(5))[index]


def test_tensors_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal length, got lengths \[3, 4, 3\]"):
        TensorDataset(np.zeros(3), np.zeros((4, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="0-d"):
        TensorDataset(np.ones(()))
    with pytest.raises(TypeError, match="at least one"):
        TensorDataset()
    with pytest.raises(TypeError, match="got list"):
        TensorDataset([1, 2])  # type: ignore[arg-type]


class Doubles(TensorDataset):
    """A subclass with a `__getitem__` of its own, which batches must not bypass."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)[0].numpy() * 2


def test_a_batch_goes_through_a_getitem_of_ones_own() -> None:
    batch = Doubles(np.arange(5)).get_batch(np.array([1, 3]))
    np.testing.assert_array_equal(batch.numpy(), [2, 6])


def test_dataset_names_the_methods_a_subclass_must_have() -> None:
    with pytest.raises(NotImplementedError, match="Dataset must define __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="Dataset must define __len__"):
        len(Dataset())


@given(data=st.data(), n=st.integers(1, 30))
def test_a_subset_of_a_subset(data: st.DataObject, n: int) -> None:
    outer = data.draw(st.lists(st.integers(0, n - 1), min_size=1))
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1))
    subset = Subset(Subset(TensorDataset(np.arange(n) * 10), outer), inner)
    expected = [outer[i] * 10 for i in inner]
    assert [subset[i][0].item() for i in range(len(subset))] == expected
    assert subset[:][0].tolist() == expected
    assert subset.get_batch(np.arange(len(subset)))[0].tolist() == expected


def test_a_subset_of_any_sequence_and_one_out_of_range() -> None:
    assert Subset([5, 6, 7], [2, 0])[[0, 1]].tolist() == [7, 5]
    with pytest.raises(IndexError, match="sample 3 is out of range for a dataset of 3"):
        Subset([5, 6, 7], [0, 3])


@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5), seed=st.integers(0, 2**32))
def test_a_random_split_is_a_partition(lengths: list[int], seed: int) -> None:
    dataset = TensorDataset(np.arange(sum(lengths)))
    parts = random_split(dataset, lengths, Generator().manual_seed(seed))
    assert [len(part) for part in parts] == lengths
    assert sorted(i for part in parts for i in part.indices) == list(range(sum(lengths)))
    again = random_split(dataset, lengths, Generator().manual_seed(seed))
    assert [part.indices.tolist() for part in parts] == [part.indices.tolist() for part in again]


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=5), n=st.integers(0, 50))
def test_a_random_split_by_fractions_gives_everything_away(weights: list[int], n: int) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    parts = random_split(TensorDataset(np.arange(n)), fractions)
    assert sorted(i for part in parts for i in part.indices) == list(range(n))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - n * fraction) < 2


@pytest.mark.parametrize("lengths", [[3, 3], [0.5, 0.4], [-1, 8], [], [0.5, 6.5]])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="random_split needs"):
        random_split(TensorDataset(np.arange(7)), lengths)


def test_a_split_needs_a_generator_of_ours() -> None:
    with pytest.raises(TypeError, match=r"expected a Generator or None, got Generator Generator\(PCG64\)"):
        random_split(TensorDataset(np.arange(7)), [3, 4], generator=np.random.default_rng(0))  # type: ignore[arg-type]


def test_mnist_reads_samples_and_batches(root: Path) -> None:
    dataset = MNIST(root)
    assert len(dataset) == 12
    assert dataset.data.shape == (12, 28, 28)
    assert dataset.data.dtype == np.uint8
    assert dataset.targets.dtype == np.int64
    expected = ((IMAGES[:, None] / 255 - 0.1307) / 0.3081).astype(np.float32)
    images, labels = dataset[[11, 2]]
    assert images.shape == (2, 1, 28, 28)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.numpy(), expected[[11, 2]], rtol=0, atol=1e-6)
    assert labels.tolist() == [1, 2]
    image, label = dataset[-1]
    np.testing.assert_array_equal(image.numpy(), images.numpy()[0])
    assert type(label) is int
    assert label == 1


def test_mnist_files_may_be_unpacked_or_where_torchvision_puts_them(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (root / "train-images-idx3-ubyte.gz").rename(raw / "train-images-idx3-ubyte.gz")
    (root / "train-labels-idx1-ubyte.gz").unlink()
    write_idx(root / "train-labels-idx1-ubyte", LABELS)
    np.testing.assert_array_equal(MNIST(root).data.numpy(), IMAGES)


def test_a_transform_replaces_the_normalisation(root: Path) -> None:
    shapes = []

    def transform(image: Tensor) -> Tensor:
        shapes.append(image.shape)
        return image

    dataset = MNIST(root, transform=transform)
    np.testing.assert_allclose(dataset[3][0].numpy()[0], IMAGES[3] / 255, rtol=1e-6)
    np.testing.assert_allclose(dataset[1:3][0].numpy()[:, 0], IMAGES[1:3] / 255, rtol=1e-6)
    assert shapes == [(1, 28, 28)] * 3


@given(picks=st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_a_transform_gets_one_image_unless_it_takes_batches(picks: list[int]) -> None:
    """The same from a loader, by one call or image by image; ours take batches, and a Compose if all of it does."""
    seen = []

    class Scale:
        takes_batches = True

        def __call__(self, image: Tensor) -> Tensor:
            seen.append(image.shape)
            return image * 2

    def centre(image: Tensor) -> Tensor:
        return image - image.mean()

    digits = {
        name: SyntheticDigits(8, transform=transform)
        for name, transform in {
            "flat": lambda image: image.flatten(),
            "centred": centre,
            "ours": Compose([ToTensor(), Normalize((0.5,), (0.5,)), Scale()]),
            "mixed": Compose([Scale(), centre]),
        }.items()
    }
    batch = {name: next(iter(DataLoader(part, len(picks), sampler=picks)))[0] for name, part in digits.items()}
    assert seen == [(len(picks), 1, 28, 28), *[(1, 28, 28)] * len(picks)]
    assert batch["flat"].shape == (len(picks), 784)
    for name, part in digits.items():
        images = np.stack([part[i][0].numpy() for i in picks])
        np.testing.assert_array_equal(batch[name].numpy(), images)
    assert DataLoader(digits["flat"], 3).dataset[[1, 2]][1].dtype == np.int64


def test_replaced_data_and_targets_are_used(root: Path) -> None:
    dataset = MNIST(root)
    keep = np.flatnonzero(LABELS > 6)
    dataset.data, dataset.targets = from_numpy(IMAGES[keep]), from_numpy(LABELS[keep].astype(np.int64))
    assert len(dataset) == 3
    assert dataset[:][1].tolist() == [7, 8, 9]


def test_missing_mnist_files_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\.gz.*download=True"):
        MNIST(root, train=False)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-images-idx3-ubyte.gz",
            np.zeros((12, 8, 8), np.uint8),
            r"expected images \(N, 28, 28\).*\(12, 8, 8\)",
        ),
        ("train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8), r"each of the 12 images, got \(11,\)"),
        ("train-labels-idx1-ubyte.gz", np.full(12, 10, np.uint8), "labels from 0 to 9, got 10"),
    ],
)
def test_mnist_files_that_do_not_belong_together(root: Path, name: str, array: np.ndarray, message: str) -> None:
    write_idx(root / name, array)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        MNIST(root)


def test_fashion_mnist_has_its_own_classes_and_folder(root: Path) -> None:
    assert FashionMNIST(root).classes[int(LABELS[9])] == "Ankle boot"
    with pytest.raises(FileNotFoundError, match=r"FashionMNIST.raw"):
        FashionMNIST(root, train=False)


def test_a_download_without_pooch_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"needs pooch \(pip install 'tinygrad_cnn\[data\]'\)"):
        MNIST(root, train=False, download=True)


def test_a_download_asks_for_the_file_by_its_checksum(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Pooch:
        @staticmethod
        def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
            asked.append((url, known_hash))
            write_idx(path / fname, IMAGES if "images" in fname else LABELS)
            return str(path / fname)

    monkeypatch.setitem(sys.modules, "pooch", Pooch)  # type: ignore[arg-type]
    assert len(MNIST(root, train=False, download=True)) == 12
    assert [url.rsplit("/", 1)[1] for url, _ in asked] == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]
    assert asked[0][1] == "md5:9fb629c4189551a2d022fa330f9573f3"
