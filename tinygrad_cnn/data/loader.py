"""Mini-batches of a dataset: in-memory data by one fancy index per tensor, anything else sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..ops.arguments import integer
from ..random import Generator, stream_of
from .datasets import Indices, _as_indices, fetch


class DataLoader:
    """Iterate over a dataset in batches; each iteration starts anew, with `shuffle` in a new order.

    `generator` makes the order reproducible; without it the order comes from `tg.manual_seed`'s generator.
    `sampler` is an iterable of sample numbers, used instead of `shuffle`. `collate_fn` gets the list of
    samples of a batch. Batches are made in the calling process: `num_workers` and `pin_memory` change nothing.

    Raises TypeError or ValueError for arguments of the wrong type or range, before any batch.

    >>> from tinygrad_cnn.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(np.arange(5)), batch_size=2)
    >>> [batch.tolist() for batch, in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Iterable[int] | None = None,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        generator: Generator | None = None,
    ) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(f"DataLoader needs a dataset with __len__ and __getitem__, got {type(dataset).__name__}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
            raise TypeError(f"DataLoader needs an int batch_size, got {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"DataLoader needs a batch_size of at least 1, got {batch_size}")
        if shuffle and sampler is not None:
            raise ValueError("DataLoader takes shuffle=True or a sampler, not both: the sampler sets the order")
        if isinstance(sampler, Iterator):
            raise TypeError(
                f"DataLoader needs a sampler that starts anew in each pass, got an iterator, {type(sampler).__name__}; "
                "use a list"
            )
        integer("DataLoader", "num_workers", num_workers, 0)
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(
                f"DataLoader needs a tg.Generator, got {generator!r}; tg.Generator().manual_seed(n) makes one"
            )
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        self.collate_fn = collate_fn
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self.generator = generator

    def __len__(self) -> int:
        """The number of batches of one iteration."""
        count = len(self.dataset if self.sampler is None else self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = self._order()
        stop = len(order) - len(order) % self.batch_size if self.drop_last else len(order)
        for start in range(0, stop, self.batch_size):
            yield self._batch(order[start : start + self.batch_size])

    def _order(self) -> Indices:
        if self.sampler is not None:
            return _as_indices(list(self.sampler), len(self.dataset))
        if self.shuffle:
            return stream_of(self.generator).permutation(len(self.dataset))
        return np.arange(len(self.dataset))

    def _batch(self, indices: Indices) -> Any:
        if self.collate_fn is None:
            return fetch(self.dataset, indices)
        return self.collate_fn([self.dataset[i] for i in indices.tolist()])
