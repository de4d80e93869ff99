"""default_collate: leaves become tensors, containers keep their form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tinygrad_cnn import from_numpy
from tinygrad_cnn.data import default_collate


class Sample(NamedTuple):
    x: float
    name: str


def test_named_tuples_lists_tensors_and_strings_keep_their_form() -> None:
    batch = default_collate([Sample(0.5, "a"), Sample(1.5, "b")])
    assert isinstance(batch, Sample)
    assert (batch.x.tolist(), batch.name) == ([0.5, 1.5], ["a", "b"])
    rows = default_collate([[from_numpy(np.ones(3, np.float32))], [from_numpy(np.zeros(3, np.float32))]])
    assert isinstance(rows, list)
    assert rows[0].tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (True, np.bool_),
        (3, np.int64),
        (0.5, np.float64),
        (np.float32(2), np.float32),
        (np.uint8(1), np.uint8),
    ],
)
def test_the_dtype_of_numbers(leaf: Any, dtype: type) -> None:
    assert default_collate([leaf, leaf]).dtype == dtype


def test_samples_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"unequal shapes: \(2,\) and \(3,\)"):
        default_collate([np.zeros(3), np.zeros(2)])
    with pytest.raises(ValueError, match=r"unequal lengths \[1, 2\]"):
        default_collate([(1, 2), (3,)])
    with pytest.raises(ValueError, match="empty batch"):
        default_collate([])
    with pytest.raises(TypeError, match=r"got set; pass DataLoader\(collate_fn"):
        default_collate([{1}, {2}])
