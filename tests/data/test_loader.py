"""DataLoader: every sample once, in batches of the right size, in an order that a seed fixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn import Generator
from tinygrad_cnn.data import DataLoader, Dataset, Subset, TensorDataset


def numbers(loader: DataLoader) -> list[list[int]]:
    return [batch.tolist() for (batch,) in loader]


class Pairs(Dataset):
    """A foreign dataset: samples one by one, nested, with leaves of several kinds."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return {"image": np.full((2, 3), i, np.float32), "label": (i, float(i))}


@given(
    n=st.integers(0, 40),
    batch_size=st.integers(1, 50),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    subset=st.booleans(),
)
def test_every_sample_comes_once(n: int, batch_size: int, shuffle: bool, drop_last: bool, subset: bool) -> None:
    dataset: Dataset = TensorDataset(np.arange(n))
    if subset:
        dataset = Subset(dataset, range(n - 1, -1, -1))
    loader = DataLoader(dataset, batch_size, shuffle, drop_last=drop_last)
    batches = numbers(loader)
    assert len(batches) == len(loader)
    seen = [i for batch in batches for i in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (n - n % batch_size if drop_last else n)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if not shuffle:
        assert seen == sorted(seen, reverse=subset)


@given(seed=st.integers(0, 2**32))
def test_a_generator_fixes_the_order_and_each_pass_has_another(seed: int) -> None:
    loaders = [
        DataLoader(TensorDataset(np.arange(100)), 7, shuffle=True, generator=Generator().manual_seed(seed))
        for _ in range(2)
    ]
    first = [numbers(loader) for loader in loaders]
    assert first[0] == first[1]
    second = [numbers(loader) for loader in loaders]
    assert second[0] == second[1]
    assert second[0] != first[0]  # equal by chance once in 100! passes


def test_two_passes_at_a_time_do_not_disturb_each_other() -> None:
    loader = DataLoader(TensorDataset(np.arange(6)), 2)
    assert [(a.tolist(), b.tolist()) for (a,), (b,) in zip(loader, loader, strict=True)][-1] == (
        [4, 5],
        [4, 5],
    )


@given(n=st.integers(1, 20), batch_size=st.integers(1, 8))
def test_a_foreign_dataset_is_collated(n: int, batch_size: int) -> None:
    batches = list(DataLoader(Pairs(n), batch_size))
    images = np.concatenate([batch["image"].numpy() for batch in batches])
    assert images.shape == (n, 2, 3)
    np.testing.assert_array_equal(images[:, 0, 0], np.arange(n))
    ints, floats = batches[0]["label"]
    assert (ints.dtype, floats.dtype) == (np.int64, np.float64)


def test_any_sequence_is_a_dataset() -> None:
    x, y = next(iter(DataLoader([(1.5, 3), (2.5, 4)], 2)))
    assert (x.tolist(), y.tolist()) == ([1.5, 2.5], [3, 4])


def test_a_sampler_sets_the_order() -> None:
    loader = DataLoader(TensorDataset(np.arange(10)), 2, sampler=[7, 7, -1])
    assert len(loader) == 2
    assert numbers(loader) == [[7, 7], [9]]
    with pytest.raises(IndexError, match="sample 10 is out of range for a dataset of 10"):
        list(DataLoader(TensorDataset(np.arange(10)), 2, sampler=[10]))


def test_what_pytorchs_scripts_say_about_workers_is_taken() -> None:
    """And changes nothing: batches are made in the calling process."""
    loader = DataLoader(TensorDataset(np.arange(5)), 2, num_workers=2, pin_memory=True)
    assert numbers(loader) == numbers(loader) == [[0, 1], [2, 3], [4]]


def test_collate_fn_gets_the_samples_of_a_batch() -> None:
    loader = DataLoader(TensorDataset(np.arange(5)), 2, collate_fn=lambda samples: [s[0].item() for s in samples])
    assert list(loader) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size of at least 1, got 0"),
        ({"batch_size": -3}, ValueError, "batch_size of at least 1, got -3"),
        ({"batch_size": 2.0}, TypeError, r"int batch_size, got 2\.0"),
        ({"batch_size": True}, TypeError, "int batch_size, got True"),
        ({"batch_size": None}, TypeError, "int batch_size, got None"),
        ({"num_workers": -1}, ValueError, "num_workers >= 0, got -1"),
        ({"num_workers": "2"}, TypeError, "an int for num_workers, got str"),
        ({"sampler": iter([1, 2])}, TypeError, "starts anew in each pass, got an iterator"),
        ({"sampler": (i for i in range(2))}, TypeError, "starts anew in each pass, got an iterator"),
        ({"generator": 3}, TypeError, "needs a tg.Generator, got 3"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "shuffle=True or a sampler, not both"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DataLoader(TensorDataset(np.arange(5)), **options)


def test_an_iterator_is_no_dataset() -> None:
    with pytest.raises(TypeError, match="needs a dataset with __len__ and __getitem__, got range_iterator"):
        DataLoader(iter(range(3)))
