"""Picking by index and adding by index: values, gradients, duplicates, views, assignment, order, bad indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests.ops.agree import agree
from tinygrad_cnn import ops
from tinygrad_cnn.testing import gradcheck, gradgradcheck
from tinygrad_cnn.testing import strategies as draw


@given(data=st.data())
def test_a_basic_key_makes_a_view_and_an_array_a_copy(data: st.DataObject) -> None:
    """Down to 0-d: x[0] of a vector still looks into x."""
    shape = data.draw(draw.shapes(1, 3, 1, 3), "shape")
    x = tg.zeros(*shape)
    view = x[data.draw(draw.index_exprs(shape, advanced=False), "key")]
    assert isinstance(view, tg.Tensor)
    assert view._version is x._version
    view.fill_(1)
    assert x.sum().item() == view.numel()
    copy = x[np.arange(shape[0])]
    copy.fill_(5)
    assert x.max().item() <= 1


def test_an_element_of_a_vector_is_a_view() -> None:
    """NumPy would hand out a number."""
    x = tg.zeros(3)
    x[1].fill_(5)
    x[-1][...] = 7
    assert x.tolist() == [0, 5, 7]


def test_masks_of_several_dimensions_beside_other_keys() -> None:
    """A mask stands for as many dimensions as it has."""
    x, mask = tg.arange(12.0).reshape(2, 3, 2), tg.tensor([[True, False, True], [False, True, False]])
    assert x[mask, 1].tolist() == [1, 5, 9]
    assert x[mask, None, 1:].shape == (3, 1, 1)
    assert x.permute(2, 0, 1)[0, mask].tolist() == [0, 4, 8]
    assert x[None, ..., 0][0][mask].tolist() == [0, 4, 8]
    x[mask, 0] = tg.tensor([1.0, 2.0, 3.0])
    assert x[..., 0].tolist() == [[1, 2, 2], [6, 3, 10]]


def test_setitem_of_one_place_twice() -> None:
    """The last value stays and has the gradient; PyTorch gives it to both."""
    x, value = tg.zeros(3), tg.tensor([1.0, 2.0, 5.0], requires_grad=True)
    x[[1, 1, 0]] = value
    assert x.tolist() == [5, 2, 0]
    (g,) = tg.autograd.grad(x.sum(), value)
    assert g.tolist() == [0, 1, 1]


def test_setitem_without_a_graph() -> None:
    """Numbers, arrays and tensors of other dtypes are cast and written in place, and seen by all views."""
    x = tg.zeros(2, 3, dtype=tg.int64)
    row, before = x[0], x._version.n
    x[0] = 7.9
    x[:, 1:] = np.array([[1.0], [2.0]])
    x[1, [0, 2]] = tg.tensor([5, 6])
    x[x == 7] = -1
    assert x.tolist() == [[-1, 1, 1], [5, 2, 6]]
    assert row.tolist() == [-1, 1, 1]
    assert x._version.n == before + 4


def test_setitem_of_a_value_with_more_dimensions() -> None:
    """Leading dimensions of size 1 are dropped, as in PyTorch."""
    x, value = tg.zeros(2, 3), tg.ones(1, 1, 3, requires_grad=True)
    x[0] = value
    (g,) = tg.autograd.grad(x.sum(), value)
    assert g.shape == (1, 1, 3)


def test_ints_beside_arrays_are_picked_first() -> None:
    """As in PyTorch, where NumPy would move the dimension of the array to the front."""
    x = tg.arange(24.0).reshape(2, 3, 4)
    assert x[0, :, [1, 2]].tolist() == x[0][:, [1, 2]].tolist()
    assert x[0, :, [1, 2]].shape == (3, 2)
    x[1, :, [0, 2]] = tg.zeros(3, 2)
    assert x[1, :, 0].tolist() == [0, 0, 0]


def test_keys_that_mean_the_same() -> None:
    """0-d integer tensors are ints, and make views; bool scalars add a dimension; lists are arrays."""
    x = tg.arange(6.0).reshape(2, 3)
    assert x[tg.tensor(1)]._base is x
    assert x[np.int64(1), tg.tensor(-1)].item() == 5
    assert x[True].shape == (1, 2, 3)
    assert x[False].shape == (0, 2, 3)
    assert x[[]].shape == (0, 3)
    assert x[[1, 0], [0, -1]].tolist() == [3, 2]
    assert x[tg.tensor([True, False])].tolist() == [[0, 1, 2]]
    assert x[range(2)].shape == (2, 3)
    assert x[..., None, 0].shape == (2, 1)
    assert x[tg.tensor(1) :].tolist() == [[3, 4, 5]]


def test_an_index_changed_later_changes_nothing() -> None:
    """The backward uses the indices as they were."""
    x, i = tg.zeros(3, requires_grad=True), tg.tensor([0, 1])
    y = x[i]
    i[0] = 2
    (g,) = tg.autograd.grad(y.sum(), x)
    assert g.tolist() == [1, 1, 0]
    y = x.gather(0, i)
    i[0] = 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


# ------------------------------------------------------------------------------------------------------------- order


@given(data=st.data())
def test_sort(data: st.DataObject) -> None:
    """Up and down, stable, with the gradient at the place that each value came from."""
    shape = data.draw(draw.shapes(1, 3, 0, 4), "shape")
    axis = data.draw(st.integers(0, len(shape) - 1), "axis")
    x = data.draw(draw.distinct(shape))
    agree(lambda x: x.sort(axis).values, lambda x: np.sort(x, axis), x)
    agree(lambda x: x.sort(axis, descending=True)[0], lambda x: -np.sort(-x, axis), x)
    k = data.draw(st.integers(0, shape[axis]), "k")
    agree(lambda x: x.topk(k, axis).values, lambda x: -np.sort(-x, axis).take(range(k), axis), x)
    agree(lambda x: x.topk(k, axis, largest=False)[0], lambda x: np.sort(x, axis).take(range(k), axis), x)
    tied = data.draw(draw.tied(shape, values=3))
    t = tg.from_numpy(tied)
    np.testing.assert_array_equal(t.argsort(axis).numpy(), np.argsort(tied, axis, kind="stable"))
    np.testing.assert_array_equal(t.argsort(axis, descending=True).numpy(), np.argsort(-tied, axis, kind="stable"))


def test_nan_is_the_largest() -> None:
    """Last going up, first going down, as in PyTorch."""
    x = tg.tensor([1.0, math.nan, 0.0])
    assert x.argsort().tolist() == [2, 0, 1]
    assert x.sort(descending=True).indices.tolist() == [1, 0, 2]
    assert x.topk(1).indices.tolist() == [1]


def test_nonzero_and_one_hot() -> None:
    """int64 indices, and their opposite."""
    x = tg.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert x.nonzero().tolist() == [[0, 1], [1, 0]]
    assert [i.tolist() for i in x.nonzero(as_tuple=True)] == [[0, 1], [1, 0]]
    assert tg.tensor(5).nonzero().shape == (1, 0)
    assert tg.zeros(0, 2).nonzero().shape == (0, 2)
    labels = tg.tensor([2, 0])
    assert ops.one_hot(labels).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert ops.one_hot(labels, 4).shape == (2, 4)
    assert ops.one_hot(labels).dtype == tg.int64


def test_scalars() -> None:
    """0-d tensors count as one element along dim 0."""
    x, i = tg.tensor(2.0, requires_grad=True), tg.tensor([0, 0])
    assert x.gather(0, i).tolist() == [2, 2]
    assert x.gather(0, tg.tensor(0)).shape == ()
    assert x.index_select(0, tg.tensor([0])).shape == ()
    assert x.scatter_add(0, tg.tensor(0), tg.tensor(3.0)).item() == 5
    assert x.sort().values.item() == x.topk(1).values.item() == 2
    assert x[...].shape == x[()].shape == ()
    assert x[None].tolist() == [2]
    x.gather(0, i).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 2


def test_many_duplicates() -> None:
    """An embedding's gradient: 10,000 rows of 7 kinds add up exactly."""
    rng = np.random.default_rng(0)
    index, g = rng.integers(0, 7, 10_000), rng.integers(-4, 5, (10_000, 3)).astype(np.float32)
    table = tg.zeros(7, 3, requires_grad=True)
    expected = np.zeros((7, 3), np.float32)
    np.add.at(expected, index, g)
    for rows in (table[index], table.index_select(0, tg.from_numpy(index))):
        (grad,) = tg.autograd.grad(rows, table, tg.from_numpy(g))
        np.testing.assert_array_equal(grad.numpy(), expected)


def test_composed() -> None:
    """Indexing inside a formula, twice differentiable."""
    i = tg.tensor([[0, 2], [1, 1]])

    def fn(x: Any) -> Any:
        y = x[1:] * x[:-1]
        y[0, i[0]] = x[0, :2] ** 2
        return y.gather(1, i).sum(0) * x.topk(2, 1).values[0]

    x = tg.from_numpy(np.random.default_rng(0).normal(size=(3, 4)))
    gradcheck(fn, x)
    gradgradcheck(fn, x)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda x, i: x[3], IndexError, "3.*size 2|3.*out of"),
        (lambda x, i: x[0, 0, 0], IndexError, "too many|3"),
        (lambda x, i: x[tg.tensor([0, 5])], IndexError, "5.*size 2"),
        (lambda x, i: x[tg.tensor([True, False, True])], IndexError, "3"),
        (lambda x, i: x[1.5], IndexError, "float64"),
        (lambda x, i: x[tg.tensor([1.0])], IndexError, "float32"),
        (lambda x, i: x[tg.tensor([1], dtype=tg.uint8)], IndexError, "uint8"),
        (lambda x, i: x["a"], TypeError, "'a'"),
        (lambda x, i: x[[0, 1], [0, 1, 2]], IndexError, r"\(2,\).*\(3,\)"),
        (lambda x, i: x.gather(0, i), IndexError, "index 5 is out of range for dimension 0 of size 2"),
        (lambda x, i: x.gather(1, -i), IndexError, "index -1"),
        (lambda x, i: x.gather(1, i - i + 3), IndexError, "index 3 is out of range for dimension 1 of size 3"),
        (lambda x, i: x.scatter_add(0, i - i + 2, x), IndexError, "index 2 is out of range"),
        (lambda x, i: x.gather(0, i.float()), TypeError, "float32"),
        (lambda x, i: x.gather(0, i[0]), RuntimeError, r"\(3,\).*\(2, 3\)"),
        (lambda x, i: x.gather(1, tg.zeros(3, 1).long()), RuntimeError, r"\(3, 1\)"),
        (lambda x, i: x.scatter_add(0, i, x), IndexError, "5"),
        (lambda x, i: x.scatter_add(0, i * 0, x[:, :1]), RuntimeError, r"larger src than \(2, 1\)"),
        (lambda x, i: x.scatter_add(0, i * 0, x.double()), RuntimeError, "float64"),
        (lambda x, i: x.index_select(0, i[0]), IndexError, "5"),
        (lambda x, i: x.index_select(0, i), IndexError, r"vector, got shape \(1, 3\)"),
        (lambda x, i: x.index_select(2, i[0]), IndexError, "dim 2"),
        (lambda x, i: x.take_along_dim(i, 0), IndexError, "5"),
        (lambda x, i: x.take_along_dim(i[0], 0), RuntimeError, r"\(3,\)"),
        (lambda x, i: x.masked_fill(x, 1), RuntimeError, "bool"),
        (lambda x, i: x.masked_fill(x[:, :2] > 0, 1), RuntimeError, r"\(2, 2\)"),
        (lambda x, i: x.masked_fill(x > 0, x), RuntimeError, "0-d"),
        (lambda x, i: i.masked_fill(i > 0, 0.5), RuntimeError, "0.5 is not a value of dtype int64"),
        (lambda x, i: x.masked_select(x[:, :2] > 0), RuntimeError, r"\(2, 2\)"),
        (lambda x, i: x.topk(4), RuntimeError, "k=4.*3"),
        (lambda x, i: ops.one_hot(i, 5), IndexError, r"\[1, 5\]"),
        (lambda x, i: ops.one_hot(-i), IndexError, "-5"),
        (lambda x, i: ops.one_hot(x), TypeError, "float32"),
        (lambda x, i: ops.one_hot(i[:0]), RuntimeError, "num_classes"),
        (lambda x, i: x.__setitem__(0, tg.zeros(2)), (RuntimeError, ValueError), r"\(2,\).*\(3,\)"),
        (lambda x, i: x.__setitem__(5, 1), IndexError, "5"),
        (lambda x, i: x.__setitem__((slice(None), [7]), 1), IndexError, "7"),
    ],
)
def test_errors(fn: Any, error: Any, match: str) -> None:
    """Typed, naming the index and the size, before anything is written."""
    x = tg.zeros(2, 3)
    with pytest.raises(error, match=match):
        fn(x, tg.tensor([[1, 5, 1]]))
    assert not x.any()
    assert x._version.n == 0


@pytest.mark.parametrize("key", [0, [0, 1], ..., tg.tensor([True, False, True])])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_value_that_does_not_fit_is_refused(key: Any, requires_grad: bool) -> None:
    """Before anything is written, with both shapes, by `x[key] = value` and by `copy_`."""
    x, value = tg.zeros(3, 4), tg.ones(5, requires_grad=requires_grad)
    fit = str(x[key].shape).replace("(", r"\(").replace(")", r"\)")
    for write in (lambda: x.__setitem__(key, value), lambda: x[key].copy_(value)):
        with pytest.raises(RuntimeError, match=rf"a value of shape \(5,\) does not broadcast to the shape {fit}"):
            write()
    assert x._version.n == 0 and not x.any()
