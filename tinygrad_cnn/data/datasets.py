"""Datasets in memory: a sample by its number, and a whole batch by an array of numbers."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..creation import from_numpy
from ..random import Generator, stream_of
from ..tensor import Tensor
from .collate import default_collate
from .idx import read_idx

Indices = npt.NDArray[np.int64]


class Dataset:
    """Base class of map-style datasets: a subclass has `__len__` and `__getitem__(i)`.

    `get_batch(indices)` returns the samples at an int64 array of numbers, collated; a subclass that can do it
    at once overrides it. A class that defines `__getitem__` alone gets the sample-by-sample version, so that
    a batch never bypasses a `__getitem__` of one's own.

    >>> class Squares(Dataset):
    ...     def __len__(self): return 10
    ...     def __getitem__(self, i): return i * i
    >>> Squares().get_batch(np.array([2, 3])).tolist()
    [4, 9]
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__getitem__" in cls.__dict__ and "get_batch" not in cls.__dict__:
            cls.get_batch = Dataset.get_batch  # type: ignore[method-assign]  # undo an inherited fast path

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    def get_batch(self, indices: Indices) -> Any:
        return default_collate([self[i] for i in indices.tolist()])


class TensorDataset(Dataset):
    """Samples along the first axis of one or more tensors (or NumPy arrays) of equal length.

    An int gives a tuple of one row of each; a slice, list, array or tensor of numbers a tuple of batches.

    >>> dataset = TensorDataset(np.arange(6).reshape(3, 2), np.array([7, 8, 9]))
    >>> [part.tolist() for part in dataset[[0, 2]]]
    [[[0, 1], [4, 5]], [7, 9]]
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor | npt.NDArray[Any]) -> None:
        if not tensors:
            raise TypeError("TensorDataset needs at least one tensor")
        for tensor in tensors:
            if not isinstance(tensor, Tensor | np.ndarray):
                raise TypeError(f"TensorDataset expects tensors or NumPy arrays, got {type(tensor).__name__}")
            if tensor.ndim == 0:
                raise ValueError("TensorDataset needs tensors with a first axis to count samples along, got a 0-d one")
        lengths = [tensor.shape[0] for tensor in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"TensorDataset needs tensors of equal length, got lengths {lengths}")
        self.tensors = tuple(t if isinstance(t, Tensor) else from_numpy(t) for t in tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        position = _position(index, len(self))
        return tuple(tensor[position] for tensor in self.tensors)

    def get_batch(self, indices: Indices) -> tuple[Tensor, ...]:
        return self[indices]


class Subset(Dataset):
    """The samples of `dataset` at `indices`, in that order; raises IndexError for one outside the dataset.

    >>> Subset(TensorDataset(np.arange(5) * 10), [3, 1])[0][0].item()
    30
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | Indices) -> None:
        self.dataset = dataset
        self.indices: Indices = _as_indices(indices, len(dataset))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.indices[_position(index, len(self))]
        return fetch(self.dataset, chosen) if isinstance(chosen, np.ndarray) else self.dataset[int(chosen)]

    def get_batch(self, indices: Indices) -> Any:
        return fetch(self.dataset, self.indices[indices])


def fetch(dataset: Any, indices: Indices) -> Any:
    """The batch of a dataset at an array of numbers; any object with `__getitem__(int)` will do."""
    if isinstance(dataset, Dataset):
        return dataset.get_batch(indices)
    return default_collate([dataset[i] for i in indices.tolist()])


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None) -> list[Subset]:
    """Split a dataset at random into subsets that share no sample and together hold all of them.

    `lengths` are counts that add up to `len(dataset)`, or fractions that add up to 1 (each rounded down, what
    is left given one by one to the first ones). Raises ValueError where they do not add up.

    >>> train, valid = random_split(TensorDataset(np.arange(10)), [0.8, 0.2])
    >>> len(train), len(valid)
    (8, 2)
    """
    counts = _counts(lengths, len(dataset))
    order = stream_of(generator).permutation(len(dataset))
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]


def _counts(lengths: Sequence[int | float], total: int) -> list[int]:
    if len(lengths) == 0 or min(lengths) < 0:
        raise ValueError(f"random_split needs lengths of at least 0, got {list(lengths)}")
    if math.isclose(sum(lengths), 1) and max(lengths) <= 1:
        counts = [math.floor(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
        return counts
    if not all(isinstance(length, int | np.integer) for length in lengths):
        raise ValueError(f"random_split needs fractions that add up to 1, got {list(lengths)} with sum {sum(lengths)}")
    if sum(lengths) != total:
        raise ValueError(
            f"random_split needs lengths that add up to the {total} samples of the dataset, "
            f"got {list(lengths)} with sum {sum(lengths)}"
        )
    return [int(length) for length in lengths]


def _position(index: Any, length: int) -> int | Indices:
    """An index expression as a non-negative int or an array of them; IndexError outside [-length, length)."""
    if isinstance(index, int | np.integer):
        if not -length <= index < length:
            raise IndexError(f"sample {index} is out of range for a dataset of {length}")
        return int(index) % length
    if isinstance(index, slice):
        return np.arange(length)[index]
    return _as_indices(index, length)


def _as_indices(index: Any, length: int) -> Indices:
    indices = np.asarray(index)
    if indices.size == 0:
        return np.zeros(0, np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise TypeError(f"a dataset takes an int, a slice or a 1-d list, array or tensor of ints, got {index!r:.80}")
    low, high = int(indices.min()), int(indices.max())
    if low < -length or high >= length:
        raise IndexError(f"sample {low if low < -length else high} is out of range for a dataset of {length}")
    return np.where(indices < 0, indices + length, indices).astype(np.int64)


class ImageDataset(Dataset):
    """Grey images with labels: `data` (N, H, W) uint8 and `targets` (N,) int64, both of the arrays' memory.

    A sample is (image, label): a float32 tensor (1, H, W) and an int; a batch (N, 1, H, W) and (N,) int64.
    `transform` is called with each image in [0, 1], or once with a batch of them if its `takes_batches` is true,
    as that of the transforms here is; None normalises by the dataset's `mean` and `std`.
    """

    classes: Sequence[str] = tuple("0123456789")
    mean = 0.1307
    std = 0.3081

    def __init__(
        self,
        data: npt.NDArray[np.uint8],
        targets: npt.NDArray[np.int64],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.data = from_numpy(data)
        self.targets = from_numpy(targets)
        self.transform = transform

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __getitem__(self, index: Any) -> Any:
        position = _position(index, len(self))
        if isinstance(position, np.ndarray):
            return self.get_batch(position)
        return self._image(self.data.numpy()[position, None]), int(self.targets.numpy()[position])

    def get_batch(self, indices: Indices) -> Any:
        if self.transform is not None and not getattr(self.transform, "takes_batches", False):
            return super().get_batch(indices)
        # (n, H, W) -> (n, 1, H, W)
        return self._image(self.data.numpy()[indices][:, None]), from_numpy(self.targets.numpy()[indices])

    def _image(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        image = pixels.astype(np.float32)
        if self.transform is not None:
            image /= np.float32(255)
            return self.transform(from_numpy(image))
        # (pixel / 255 - mean) / std with one multiplication and one addition, in place
        image *= np.float32(1 / (255 * self.std))
        image -= np.float32(self.mean / self.std)
        return from_numpy(image)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, transform={self.transform})"


class MNIST(ImageDataset):
    """The MNIST digits, 60,000 to train and 10,000 to test, normalised by mean 0.1307 and std 0.3081.

    `root` or `root/MNIST/raw` holds the four IDX files, gzip'd or not. With `download=True` missing files are
    fetched into `root`, which needs the `data` extra. Raises FileNotFoundError for a missing file and
    ValueError for a damaged one. `transform` and the form of samples and batches: see `ImageDataset`.

    >>> MNIST("data/mnist", train=False)[0][0].shape  # doctest: +SKIP
    (1, 28, 28)
    """

    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        download: bool = False,
    ) -> None:
        part = "train" if train else "t10k"
        images, labels = (
            self._find(Path(root), f"{part}-{kind}-ubyte.gz", download) for kind in ("images-idx3", "labels-idx1")
        )
        data, targets = read_idx(images), read_idx(labels)
        self._check(images, data, labels, targets)
        super().__init__(data, targets.astype(np.int64), transform)
        self.train = train

    def _find(self, root: Path, name: str, download: bool) -> Path:
        folders = [root, root / type(self).__name__ / "raw"]
        for path in (folder / n for folder in folders for n in (name, name.removesuffix(".gz"))):
            if path.is_file():
                return path
        if download:
            return self._download(root, name)
        raise FileNotFoundError(
            f"{name} (gzip'd or not) is neither in {folders[0]} nor in {folders[1]}; put it there or pass download=True"
        )

    def _download(self, root: Path, name: str) -> Path:
        try:
            pooch = importlib.import_module("pooch")
        except ImportError as error:
            raise ImportError(
                f"downloading {name} needs pooch (pip install 'tinygrad_cnn[data]'); or put the file into {root}"
            ) from error
        return Path(pooch.retrieve(self.url + name, known_hash=f"md5:{self.md5[name]}", fname=name, path=root))

    def _check(self, images: Path, data: npt.NDArray[Any], labels: Path, targets: npt.NDArray[Any]) -> None:
        if data.dtype != np.uint8 or data.shape[1:] != (28, 28):
            raise ValueError(f"{images}: expected images (N, 28, 28) of uint8, got {data.shape} of {data.dtype}")
        if targets.dtype != np.uint8 or targets.shape != data.shape[:1]:
            raise ValueError(
                f"{labels}: expected one uint8 label for each of the {len(data)} images, "
                f"got {targets.shape} of {targets.dtype}"
            )
        if targets.size and targets.max() >= len(self.classes):
            raise ValueError(f"{labels}: expected labels from 0 to {len(self.classes) - 1}, got {targets.max()}")


class FashionMNIST(MNIST):
    """Zalando's Fashion-MNIST: files, sizes and use as `MNIST`, normalised by mean 0.2860 and std 0.3530."""

    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mean = 0.2860
    std = 0.3530
    url = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
