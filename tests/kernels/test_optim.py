"""The fused updates against the formulas in float64, for arrays scattered over memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import optim

from . import naive_more as naive


class Arrays:
    """Rows of arrays (parameters, gradients, states) and the table of their addresses."""

    def __init__(self, shapes: list[tuple[int, ...]], rows: int, dtype: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.rows = [[rng.standard_normal(s).astype(dtype) for s in shapes] for _ in range(rows)]
        for row in self.rows[3:]:
            for array in row:
                np.square(array, out=array)  # second moments are positive
        self.exact = [[array.astype(float) for array in row] for row in self.rows]
        self.table = np.empty((rows, len(shapes)), np.int64)
        for row, addresses in zip(self.rows, self.table, strict=True):
            optim.addresses(row, addresses)
        self.sizes = np.array([array.size for array in self.rows[0]], np.int64)

    def check(self) -> None:
        tolerance = 2e-5 if self.dtype == np.float32 else 1e-12
        for row, exact in zip(self.rows, self.exact, strict=True):
            for array, expected in zip(row, exact, strict=True):
                np.testing.assert_allclose(array, expected, rtol=tolerance, atol=tolerance)


shapes = st.lists(st.sampled_from([(), (1,), (7,), (16,), (3, 5), (4, 2, 3, 3), (33, 17)]), min_size=1, max_size=6)
dtypes = st.sampled_from("fd")
flags = st.booleans()


@given(shapes, dtypes, st.sampled_from([0.0, 0.9]), *[st.sampled_from([0.0, 0.1])] * 2, flags, flags)
def test_sgd(
    sizes: Any, dtype: str, momentum: float, decay: float, dampening: float, nesterov: bool, maximize: bool
) -> None:
    a = Arrays(sizes, 3, dtype, 0)
    for buffer in a.rows[2]:
        buffer.fill(np.nan)  # the first step must not read it
    for step in range(3):
        first = np.full(len(sizes), step == 0)
        optim.sgd(a.dtype, a.table, a.sizes, first, 0.1, momentum, dampening, decay, nesterov, maximize)
        for i, (p, g, buffer) in enumerate(zip(*a.exact, strict=True)):
            a.exact[0][i], a.exact[2][i] = naive.sgd(
                p, g, buffer, step == 0, 0.1, momentum, dampening, decay, nesterov, maximize
            )
    if not momentum:
        a.rows.pop()
        a.exact.pop()
    a.check()


@given(shapes, dtypes, st.sampled_from([0.0, 0.1]), flags, flags, flags)
def test_adam(sizes: Any, dtype: str, decay: float, decoupled: bool, amsgrad: bool, maximize: bool) -> None:
    a = Arrays(sizes, 5, dtype, 1)
    betas, eps = (0.8, 0.95), 1e-3
    for step in range(3):
        steps = np.arange(len(sizes)) + step + 1.0  # each parameter counts its own
        optim.adam(a.dtype, a.table, a.sizes, steps, 0.01, betas, eps, decay, decoupled, amsgrad, maximize)
        for i, state in enumerate(zip(*a.exact, strict=True)):
            p, m, v, top = naive.adam(*state, steps[i], 0.01, betas, eps, decay, decoupled, amsgrad, maximize)
            a.exact[0][i], a.exact[2][i], a.exact[3][i] = p, m, v
            a.exact[4][i] = top if amsgrad else state[4]
    a.check()


def test_a_size_of_zero_skips_a_parameter() -> None:
    a = Arrays([(5,), (6,), (7,)], 4, "f", 2)
    before = [row[1].copy() for row in a.rows]
    a.sizes[1] = 0
    a.table[1, 1] = 0  # not even a gradient
    optim.adam(a.dtype, a.table, a.sizes, np.ones(3), 0.01)
    for row, old in zip(a.rows, before, strict=True):
        np.testing.assert_array_equal(row[1], old)
    assert (a.rows[0][2] != a.exact[0][2]).all()


def test_addresses_are_numpys() -> None:
    base = np.zeros((6, 5, 4))
    arrays = [base, base[2:], base[::-1, 1:, ::2], base.transpose(2, 0, 1)[1], np.array(1.0), np.zeros(0)]
    out = np.zeros(len(arrays), np.int64)
    optim.addresses(arrays, out)
    assert out.tolist() == [a.ctypes.data for a in arrays]


def test_addresses_where_the_array_objects_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_OBJECTS_ARE_READABLE", False)
    test_addresses_are_numpys()


def test_nan_stays_in_its_element() -> None:
    a = Arrays([(40,)], 4, "f", 3)
    a.rows[1][0][7] = np.nan
    optim.adam(a.dtype, a.table, a.sizes, np.ones(1), 0.01)
    assert np.isnan(a.rows[0][0]).nonzero()[0].tolist() == [7]


@given(shapes, dtypes)
def test_same_bits_on_any_threads(sizes: Any, dtype: str) -> None:
    def compute() -> list[np.ndarray]:
        a, b = Arrays(sizes, 5, dtype, 4), Arrays(sizes, 3, dtype, 5)
        optim.adam(a.dtype, a.table, a.sizes, np.full(len(sizes), 2.0), 0.01, weight_decay=0.1, amsgrad=True)
        optim.sgd(b.dtype, b.table, b.sizes, np.zeros(len(sizes), bool), 0.01, 0.9, 0.1, 0.1, True)
        return [array for rows in (a.rows, b.rows) for row in rows for array in row]

    naive.same_bits_on_any_threads(compute)
