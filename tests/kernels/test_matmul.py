"""Matrix products against plain loops and float64, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn import kernels
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.kernels.cpu.matmul import SUM_ROWS, column_sums, linear, linear_grads, matmul

from . import naive

LAYOUTS = ["C", "transposed", "strided", "reversed", "broadcast", "read_only"]


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another place in memory (broadcast: the first row everywhere)."""
    if layout == "transposed":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "strided":
        wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1]), x.dtype)
        wide[..., ::3] = x
        return wide[..., ::3]
    if layout == "reversed":
        return x[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "broadcast" and x.shape[0]:
        return np.broadcast_to(x[:1], x.shape)
    x = x.copy()
    x.flags.writeable = layout != "read_only"
    return x


def check(actual: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    size = np.matmul(np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
    assert actual.shape == exact.shape and actual.dtype == a.dtype
    # any order of summation errs by at most k eps of the sum of the absolute values; in practice far less
    bound = np.finfo(a.dtype).eps * (2 + np.sqrt(a.shape[-1])) * size
    assert (np.abs(actual - exact) <= bound).all(), np.abs(actual - exact).max()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 150), st.one_of(st.integers(0, 40), st.sampled_from([512, 513, 1030])), st.integers(0, 150),
    st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from("fd"), st.integers(0, 4), st.integers(0, 99),
)  # fmt: skip
def test_matmul(m: int, k: int, n: int, left: str, right: str, dtype: str, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = (batch,) if batch else ()
    a = laid_out(rng.standard_normal((*batches, m, k)).astype(dtype), left)
    b = laid_out(rng.standard_normal((*batches, k, n)).astype(dtype), right)
    c = matmul(a, b)
    check(c, a, b)
    assert c.flags.c_contiguous


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 150), st.integers(1, 30), st.sampled_from("fd"), st.booleans())
def test_linear_of_a_few_rows(m: int, k: int, n: int, dtype: str, biased: bool) -> None:
    rng = np.random.default_rng(k)
    x, w, bias = (rng.standard_normal(shape).astype(dtype) for shape in [(m, k), (n, k), (n,)])
    y = linear(x, w, bias if biased else None)
    np.testing.assert_array_equal(linear(x, w, bias if biased else None, relu=True), reference.relu(y))
    x = np.hstack([x, np.full((m, 1), biased, dtype)])
    check(y, x, np.hstack([w, bias[:, None]]).T)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 70), st.one_of(st.integers(0, 40), st.sampled_from([513, 1030])), st.integers(0, 70),
    st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from("fd"), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_linear(m: int, k: int, n: int, left: str, right: str, dtype: str, biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = laid_out(rng.standard_normal((m, k)).astype(dtype), left)
    w = laid_out(rng.standard_normal((n, k)).astype(dtype), right)
    bias = rng.standard_normal(n).astype(dtype) if biased else None
    y = linear(x, w, bias)
    np.testing.assert_array_equal(linear(x, w, bias, relu=True), reference.relu(y))
    if biased:
        assert bias is not None
        x = np.hstack([x, np.ones((m, 1), dtype)])
        w = np.hstack([w, bias[:, None]])
    check(y, x, w.T)


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(st.integers(1, 700), st.integers(1, 4).map(lambda n: n * SUM_ROWS)),  # blocks of which the last is whole
    st.integers(1, 70), st.sampled_from("fd"), st.integers(0, 99),
)  # fmt: skip
def test_column_sums(rows: int, columns: int, dtype: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)
    check(column_sums(x)[None], np.ones((1, rows), dtype), x)


def test_column_sums_of_many_rows_stay_accurate() -> None:
    x = np.random.default_rng(0).random((1_000_000, 3), np.float32)
    exact = x.sum(0, dtype=np.float64)
    assert (np.abs(column_sums(x) - exact) / exact).max() < 5e-7


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(
        st.tuples(st.integers(0, 40), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
        st.tuples(st.one_of(st.integers(0, 40), st.sampled_from([128, 400, 800])), st.just("C"), st.just("C")),
    ),
    st.integers(0, 90), st.integers(0, 40),
    st.sampled_from("fd"), st.booleans(),
    st.one_of(st.just((True, True, True)), st.tuples(st.booleans(), st.booleans(), st.booleans())), st.integers(0, 99),
)  # fmt: skip
def test_linear_grads(
    batch: tuple[int, str, str], inputs: int, outputs: int, dtype: str, relu: bool, wanted: tuple[bool, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, *layouts = batch
    g, y = (laid_out(rng.standard_normal((rows, outputs)).astype(dtype), layouts[0]) for _ in range(2))
    x = laid_out(rng.standard_normal((rows, inputs)).astype(dtype), layouts[1])
    w = laid_out(rng.standard_normal((outputs, inputs)).astype(dtype), layouts[1])
    dx, dw, db = linear_grads(g, x if wanted[1] else None, w if wanted[0] else None, wanted, y if relu else None)
    passed = np.where(y <= 0, 0, g) if relu else g
    if wanted[0]:
        assert dx is not None
        check(dx, passed, w)
    if wanted[1]:
        assert dw is not None
        check(dw, passed.T, x)
    if wanted[2]:
        assert db is not None
        check(db[None], np.ones((1, rows), dtype), passed)


def test_plain_loops_agree() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((15, 7)), rng.standard_normal((7, 19))
    np.testing.assert_allclose(matmul(a, b), naive.matmul(a, b), rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def parts_of_any_size() -> Iterator[Callable[[int], None]]:
    before = kernels.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PARALLEL_WORK", 0)
        yield kernels.set_num_threads
    kernels.set_num_threads(before)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 1100), st.integers(1, 150), st.sampled_from(LAYOUTS), st.integers(0, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_the_bits_do_not_depend_on_the_number_of_parts(
    parts_of_any_size: Callable[[int], None], m: int, k: int, n: int, right: str, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = (batch,) if batch else ()
    a = rng.standard_normal((*batches, m, k)).astype(np.float32)
    b = laid_out(rng.standard_normal((*batches, k, n)).astype(np.float32), right)
    parts_of_any_size(1)
    first = matmul(a, b)
    for parts in (2, 3, 4):
        parts_of_any_size(parts)
        np.testing.assert_array_equal(matmul(a, b), first)


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(st.integers(1, 5), st.integers(6, 500)), st.integers(1, 300), st.integers(1, 60), st.integers(1, 700),
    st.integers(0, 99),
)  # fmt: skip
def test_the_bits_of_a_layers_gradients_do_not_depend_on_the_number_of_parts(
    parts_of_any_size: Callable[[int], None], rows: int, inputs: int, outputs: int, more: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    g, x, w = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, outputs), (rows, inputs), (outputs, inputs))
    )
    many = rng.standard_normal((more, outputs)).astype(np.float32)
    parts_of_any_size(1)
    first = (*linear_grads(g, x, w, (True, True, True), g), column_sums(many))
    for parts in (2, 3, 4):
        parts_of_any_size(parts)
        for one, other in zip(first, (*linear_grads(g, x, w, (True, True, True), g), column_sums(many)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_other_dtypes_are_numpys() -> None:
    a = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(matmul(a, a.T), a @ a.T)
