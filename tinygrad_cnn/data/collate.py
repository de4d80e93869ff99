"""Samples into batches: the same nesting, each leaf stacked along a new first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..creation import from_numpy
from ..tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack the samples of a batch: numbers, arrays and tensors become a tensor, containers are walked into.

    Python floats give float64, ints int64 and bools bool, as in PyTorch; strings and bytes stay a list.
    Raises ValueError for an empty batch or samples of unequal shape or length, TypeError for anything else.

    >>> x, y = default_collate([(0.5, 1), (1.5, 2)])
    >>> y.tolist()
    [1, 2]
    """
    if len(batch) == 0:
        raise ValueError("default_collate needs at least one sample, got an empty batch")
    first = batch[0]
    if isinstance(first, Tensor):
        return from_numpy(_stack([sample.detach().numpy() for sample in batch]))
    if isinstance(first, np.ndarray | np.generic | bool | int | float):
        return from_numpy(_stack([np.asarray(sample) for sample in batch]))
    if isinstance(first, str | bytes):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        return _collate_sequences(first, batch)
    raise TypeError(
        "default_collate stacks tensors, arrays, numbers, strings, mappings and sequences, got "
        f"{type(first).__name__}; pass DataLoader(collate_fn=...) to make a batch of it"
    )


def _collate_sequences(first: Sequence[Any], batch: Sequence[Any]) -> Any:
    lengths = {len(sample) for sample in batch}
    if len(lengths) > 1:
        raise ValueError(f"samples of one batch have unequal lengths {sorted(lengths)}")
    parts = [default_collate(part) for part in zip(*batch, strict=True)]
    if hasattr(first, "_fields"):  # a named tuple stays one
        return type(first)(*parts)
    return tuple(parts) if isinstance(first, tuple) else parts


def _stack(arrays: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"samples of one batch have unequal shapes: {' and '.join(map(str, shapes[:3]))}")
    return np.stack(arrays)
