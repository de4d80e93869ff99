"""The Tensor itself: how it prints, converts and copies, and that in-place ops, views and versions do as PyTorch's.

The expected gradients of the in-place cases are those that PyTorch 2.13 gives for the same lines.
"""

from __future__ import annotations

import copy
import operator as op
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.testing import strategies as draw

A = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def leaf(values: Any = A) -> Any:
    return tg.tensor(values, dtype=tg.float64, requires_grad=True)


# ------------------------------------------------------------------------------------------------------------- in place

CASES: dict[str, tuple[Callable[[], Any], list[Any]]] = {}


def case(*expected: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """A function that returns tensors, and what PyTorch has in them."""

    def add(fn: Callable[[], Any]) -> Callable[[], Any]:
        CASES[fn.__name__] = fn, list(expected)
        return fn

    return add


@case([[6, 6, 6], [2, 2, 2]], [[6, 12, 18], [8, 10, 12]])
def a_view_of_a_computed_tensor_is_changed() -> Any:
    a = leaf()
    b = a * 2
    b[0].mul_(3)
    b.sum().backward()
    return a.grad, b


@case([[0, 144, 0], [0, 40, 0]], [12, 10])
def a_sibling_view_sees_the_change() -> Any:
    a = leaf()
    b = a * 2
    row, column = b[0], b[:, 1]
    row.mul_(3.0)
    (column * column).sum().backward()
    return a.grad, column


@case([[72, 144, 216], [0, 0, 0]], [6, 12, 18])
def a_view_sees_a_change_of_its_base() -> Any:
    a = leaf()
    b = a * 2
    row = b[0]
    b.mul_(3)
    (row * row).sum().backward()
    return a.grad, row


@case([[84, 156, 228], [288, 360, 432]])
def base_and_then_view_are_changed() -> Any:
    a = leaf()
    b = a * 2
    row = b[0]
    b.mul_(3)
    row.add_(1)
    (b * b).sum().backward()
    return (a.grad,)


@case(
    [[0, 1152, 2704, 4704], [32, 10240, 13872, 18144], [64, 28800, 35280, 42592]],
    [[192, 520, 1120, 120], [3328, 5032, 7200, 152], [13120, 16968, 21472, 184]],
)
def a_view_of_a_view_is_multiplied_by_what_needs_a_gradient() -> Any:
    a = leaf(np.arange(24.0).reshape(2, 3, 4))
    b = a * 2
    b[0].t()[1:].mul_(a[1].t()[:3])
    (b * b).sum().backward()
    return a.grad[0], a.grad[1]


@case([[0, 0, 0], [32, 40, 48]], [14, 16, 18])
def a_row_is_assigned() -> Any:
    a, c = leaf(), leaf([7.0, 8.0, 9.0])
    b = a * 2
    b[0] = c
    (b * b).sum().backward()
    return a.grad, c.grad


@case([[8, 0, 0], [32, 0, 0]], [[28], [32]])
def a_broadcast_value_is_assigned() -> Any:
    a, c = leaf(), leaf([[7.0], [8.0]])
    b = a * 2
    b[:, 1:] = c
    (b * b).sum().backward()
    return a.grad, c.grad


@case([[8, 16, 0], [0, 40, 48]], [14, 16])
def elements_are_assigned() -> Any:
    a, c = leaf(), leaf([7.0, 8.0])
    b = a * 2
    b[[0, 1], [2, 0]] = c
    (b * b).sum().backward()
    return a.grad, c.grad


@case([[24, 96, 216], [0, 0, 0]], 36)
def a_number_is_assigned_by_mask() -> Any:
    a, c = leaf(), leaf(2.0)
    b = a * 2
    b[b > 6] = c
    (b * b * b).sum().backward()
    return a.grad, c.grad


@case([[0, 0, 0], [160, 200, 240]])
def a_row_is_assigned_from_another() -> Any:
    a = leaf()
    b = a * 2
    b[0] = b[1] * 2
    (b * b).sum().backward()
    return (a.grad,)


@case([[32, 100, 216], [16, 50, 120]])
def a_plain_tensor_is_filled_row_by_row() -> Any:
    a, z = leaf(), tg.zeros(2, 3, dtype=tg.float64)
    z[0] = a[1]
    z[1] = a[0] * a[1]
    (z * z).sum().backward()
    return (a.grad,)


@case([[24, 36, 48], [140, 178, 216]])
def rows_are_updated_by_operators() -> Any:
    a = leaf()
    b = a * 2
    b[0] += a[1]
    b[1] *= 2
    (b * b).sum().backward()
    return (a.grad,)


@case([[0, 0, 0], [10, 12, 14]])
def a_leaf_is_changed_under_no_grad() -> Any:
    a = leaf()
    with tg.no_grad():
        a.add_(1)
        a[0] = 0
    (a * a).sum().backward()
    return (a.grad,)


@case([[4, 4, 4], [4, 4, 4]])
def what_backward_does_not_need_may_change() -> Any:
    a = leaf()
    b = a * 2
    c = b + 1
    b.add_(1)
    (c.sum() + b.sum()).backward()
    return (a.grad,)


@case([[0, 0, 0], [0, 0, 0]], [4, 8, 12])
def copy_overwrites_and_broadcasts() -> Any:
    a, b = leaf(), leaf([1.0, 2.0, 3.0])
    c = a * 1
    c.copy_(b)
    (c * c).sum().backward()
    return a.grad, b.grad


@case([[1, 1, 1], [1, 1, 1]])
def zero_forgets_the_past() -> Any:
    a = leaf()
    c = a * 2
    c.zero_()
    c.add_(a)
    c.sum().backward()
    return (a.grad,)


@case([[0, 4, 6], [8, 0, 0]])
def clamp_in_place_remembers_what_was() -> Any:
    a = leaf()
    c = (a * 1).clamp_(2, 4)
    (c * c).sum().backward()
    return (a.grad,)


@case([[2, 16, 24], [2, 40, 48]])
def a_column_gets_its_root() -> Any:
    a = leaf()
    b = a * 2
    b[:, 0].sqrt_()
    (b * b).sum().backward()
    return (a.grad,)


@case([[0, 8, 16], [24, 0, 40], [48, 56, 0]])
def a_diagonal_is_filled() -> Any:
    a = leaf(np.arange(9.0).reshape(3, 3))
    b = a * 2
    b.diagonal().fill_(0.0)
    (b * b).sum().backward()
    return (a.grad,)


@case([[3, 5, 7], [0, 0, 0]], True, True)
def a_view_of_a_plain_tensor_brings_a_gradient_into_it() -> Any:
    a, b = leaf(), tg.zeros(2, 3, dtype=tg.float64)
    row = b[0]
    row.add_(a[0])
    (b * b + b).sum().backward()
    return a.grad, b.requires_grad, row.requires_grad


@case([[41472, 2342400, 34992000], [106528, 950240, 12258864]])
def in_place_is_differentiable_twice() -> Any:
    a = leaf()
    b = a * a
    b[0].mul_(a[1])
    (g,) = tg.autograd.grad((b * b).sum(), a, create_graph=True)
    (g * g).sum().backward()
    return (a.grad,)


@case([[8, 16, 24], [0, 0, 0]])
def masked_fill_in_place() -> Any:
    a = leaf()
    b = a * 2
    b.masked_fill_(b > 6, 1.0)
    (b * b).sum().backward()
    return (a.grad,)


@case([[32, 64, 96], [128, 160, 192]], [[8, 16, 24], [32, 40, 48]])
def a_hook_belongs_to_the_tensor_as_it_is() -> Any:
    a = leaf()
    b = a * 2
    b.mul_(2)
    seen: list[Any] = []
    b.register_hook(lambda g: seen.append(g.clone()))
    (b * b).sum().backward()
    return a.grad, seen[0]


@pytest.mark.parametrize("name", CASES)
def test_in_place_gives_pytorchs_gradients(name: str) -> None:
    """Writes to tensors, views, bases and siblings, and the histories after them."""
    fn, expected = CASES[name]
    for found, value in zip(fn(), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy() if isinstance(found, tg.Tensor) else found, value, rtol=1e-12)


def saved(change: Callable[[Any], Any], op: Callable[[Any], Any] = lambda b: b * b) -> Callable[[], Any]:
    """Backward after a change of what it needs."""

    def run() -> Any:
        a = leaf()
        b = a * 2
        c = op(b)
        change(b)
        c.sum().backward()

    return run


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (lambda: leaf().add_(1), "leaf that requires grad"),
        (lambda: leaf()[0].add_(1), "view of a leaf"),
        (lambda: leaf().__setitem__(0, 1), "leaf that requires grad"),
        (saved(lambda b: b.add_(1)), r"'mul'.*at version 1, saved at version 0"),
        (saved(lambda b: b[0].zero_()), "changed in place"),
        (saved(lambda b: b.__setitem__((0, 0), 1)), "changed in place"),
        (saved(lambda b: b.detach().add_(1)), "changed in place"),
        (saved(lambda b: b.add_(1), lambda b: b[0] * b[0]), "changed in place"),
        (lambda: tg.ones(3).expand(2, 3).add_(1), "expanded"),
        (lambda: tg.tensor([1, 2]).mul_(2.5), "float32.*int64"),
        (lambda: tg.ones(3).add_(tg.ones(2, 3)), r"\(2, 3\).*\(3,\)"),
        (lambda: tg.ones(3).exp_().relu_().copy_(tg.ones(2)), r"\(2,\)|2.*3"),
        (lambda: (leaf() * 1)[0].detach_(), "view"),
    ],
)
def test_in_place_errors(run: Any, match: str) -> None:
    """Never a silently wrong gradient: the op and the versions are named, or the write is refused."""
    with pytest.raises((RuntimeError, ValueError), match=match):
        run()


def test_a_refused_write_changes_nothing() -> None:
    """Values and versions are as before the error."""
    for x, write in (
        (leaf(), lambda x: x.add_(1)),
        (tg.tensor(A), lambda x: x.add_(tg.ones(5, 2, 3))),
        (tg.tensor(A), lambda x: x.__setitem__(0, tg.ones(2))),
        (tg.tensor([[1, 2, 3], [4, 5, 6]]), lambda x: x.div_(2)),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            write(x)
        assert x.tolist() == A
        assert x._version.n == 0


def test_in_place_keeps_the_output_of_an_op_that_saved_it() -> None:
    """exp_ saved its own output: changing the tensor afterwards does not spoil it."""
    a = leaf()
    b = (a * 1).exp_()
    b.add_(1)
    b.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), np.exp(A))


@given(data=st.data())
def test_in_place_is_out_of_place_written_back(data: st.DataObject) -> None:
    """For every in-place op on any part of a tensor: value and gradient of the equivalent without writes."""
    name = data.draw(st.sampled_from(["add_", "sub_", "mul_", "div_", "copy_"]))
    shape = data.draw(draw.shapes(1, 3, 1, 3), "shape")
    key = data.draw(draw.index_exprs(shape, advanced=False), "key")
    rng = np.random.default_rng(0)
    a, place = leaf(rng.normal(size=shape)), np.arange(int(np.prod(shape))).reshape(shape)[key]
    other = leaf(rng.normal(size=np.shape(place)) + 3)
    b = a * 1
    getattr(b[key], name)(other)
    out_of_place = other * 1 if name == "copy_" else getattr(a[key], name[:-1])(other)
    spread = tg.zeros(a.numel(), dtype=tg.float64)
    inside = tg.zeros(a.numel(), dtype=tg.bool)
    index = tg.tensor(place).reshape(-1)
    inside[index] = True
    expected = tg.where(inside, spread.scatter_add(0, index, out_of_place.reshape(-1)), a.reshape(-1)).reshape(*shape)
    assert b.detach().tolist() == expected.detach().tolist()
    g = tg.tensor(rng.normal(size=shape))
    for found, wanted in zip(
        tg.autograd.grad(b, [a, other], g), tg.autograd.grad(expected, [a, other], g), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-15)


@given(data=st.data())
def test_an_operator_of_integers_writes_into_the_tensor(data: st.DataObject) -> None:
    """`//=` and its kin change the storage that a view shows, as Python's name for the tensor stays the same."""
    change = data.draw(st.sampled_from([op.ifloordiv, op.imod, op.iand, op.ior, op.ixor, op.iadd, op.isub, op.imul]))
    dtype = data.draw(st.sampled_from([tg.int32, tg.int64]))
    array = data.draw(draw.arrays(data.draw(draw.shapes(1, 2, 1, 4)), dtype, low=0, high=9))
    key = data.draw(draw.index_exprs(array.shape, advanced=False))
    other = data.draw(st.integers(1, 9))
    base = tg.tensor(array)
    part = base[key]
    changed = change(part, other)
    expected = array.copy()
    expected[key] = change(expected[key], other)
    assert changed is part and base.dtype == dtype
    assert base.tolist() == expected.tolist()


def test_an_operator_that_makes_floats_of_integers_is_refused() -> None:
    """The tensor keeps its dtype and values."""
    x, flags = tg.arange(4), tg.tensor([True, False])
    with pytest.raises(RuntimeError, match=r"float32.*int64"):
        x //= 2.5
    with pytest.raises(RuntimeError, match=r"int64.*bool"):
        flags &= 3
    assert x.tolist() == [0, 1, 2, 3] and flags.tolist() == [True, False]
    flags ^= True
    assert flags.tolist() == [False, True]


def test_versions_are_shared_by_views_and_detached_selves() -> None:
    """One counter per storage; a copy has its own."""
    a = tg.zeros(2, 3)
    views = [a[0], a.t(), a.view(6), a.detach(), a.expand(4, 2, 3), a[0][1:]]
    a.add_(1)
    a[0] = 2
    assert all(v._version.n == 2 for v in views)
    assert a.clone()._version.n == 0
    assert a[[0]]._version.n == 0
    with tg.no_grad():
        a.fill_(0)
    assert a._version.n == 3


# ------------------------------------------------------------------------------------------------------------- printing


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (lambda: tg.tensor(3), "tensor(3)"),
        (lambda: tg.tensor(-2.5), "tensor(-2.5000)"),
        (lambda: tg.tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (lambda: tg.tensor([1.5, -2.25]), "tensor([ 1.5000, -2.2500])"),
        (lambda: tg.tensor([1.0, 10000.0]), "tensor([1.0000e+00, 1.0000e+04])"),
        (lambda: tg.tensor([1e-5, 1.0]), "tensor([1.0000e-05, 1.0000e+00])"),
        (lambda: tg.tensor([float("nan"), -1.5]), "tensor([    nan, -1.5000])"),
        (lambda: tg.tensor([100.0, float("inf")]), "tensor([100.,  inf])"),
        (lambda: tg.tensor([0.0, 0.0]), "tensor([0., 0.])"),
        (lambda: tg.tensor([[1, 20], [300, -4]]), "tensor([[  1,  20],\n        [300,  -4]])"),
        (lambda: tg.tensor([True, False]), "tensor([ True, False])"),
        (lambda: tg.tensor([]), "tensor([])"),
        (lambda: tg.zeros(2, 0), "tensor([], size=(2, 0))"),
        (lambda: tg.zeros(0, dtype=tg.int64), "tensor([], dtype=int64)"),
        (lambda: tg.zeros(0, 3, dtype=tg.int64), "tensor([], size=(0, 3), dtype=int64)"),
        (lambda: tg.ones(1, dtype=tg.uint8), "tensor([1], dtype=uint8)"),
        (lambda: tg.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: tg.ones(1, requires_grad=True) * 2, "tensor([2.], grad_fn=<MulBackward>)"),
        (lambda: tg.arange(1001), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
        (
            lambda: tg.zeros(2, 2, 1),
            "tensor([[[0.],\n         [0.]],\n\n        [[0.],\n         [0.]]])",
        ),
        (
            lambda: tg.arange(2000).reshape(2, 1000),
            "tensor([[   0,    1,    2,  ...,  997,  998,  999],\n        [1000, 1001, 1002,  ..., 1997, 1998, 1999]])",
        ),
        (
            lambda: tg.arange(12) * 100.5,
            "tensor([   0.0000,  100.5000,  201.0000,  301.5000,  402.0000,  502.5000,\n"
            "         603.0000,  703.5000,  804.0000,  904.5000, 1005.0000, 1105.5000])",
        ),
        (
            lambda: tg.linspace(-1, 1, 8, dtype=tg.float64),
            "tensor([-1.0000, -0.7143, -0.4286, -0.1429,  0.1429,  0.4286,  0.7143,  1.0000],\n       dtype=float64)",
        ),
    ],
)
def test_repr_is_pytorchs(x: Any, text: str) -> None:
    """But for `torch.` before the dtype and the number of the backward node."""
    assert repr(x()) == text


def test_format() -> None:
    """A 0-d tensor formats as its number."""
    assert f"{tg.tensor(0.12345):.3f}" == "0.123"
    assert f"{tg.ones(2)}" == "tensor([1., 1.])"


# --------------------------------------------------------------------------------------------------- to Python and back


def test_to_python() -> None:
    """item, tolist, float, int, bool, index, len, iteration, in."""
    x = tg.tensor([[1, 2], [3, 4]])
    assert x.tolist() == [[1, 2], [3, 4]]
    assert [row.tolist() for row in x] == x.tolist()
    assert len(x) == 2
    assert 3 in x
    assert 5 not in x
    assert float(tg.tensor([2.5])) == 2.5
    assert int(tg.tensor(2.7)) == 2
    assert list(range(3))[tg.tensor(1)] == 1
    assert bool(tg.tensor([[True]]))
    assert type(tg.tensor(2.5).item()) is float
    assert type(tg.tensor(2).item()) is int


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda x: x.item(), RuntimeError, r"\(2,\)"),
        (lambda x: float(x), RuntimeError, "one element"),
        (lambda x: bool(x), RuntimeError, "ambiguous"),
        (lambda x: len(x[0]), TypeError, "0-d"),
        (lambda x: iter(x[0]), TypeError, "0-d"),
        (lambda x: [1, 2][x[0]], TypeError, "integer"),
        (lambda x: x.numpy(), RuntimeError, "detach"),
        (lambda x: np.asarray(x), RuntimeError, "detach"),
        (lambda x: x.long().requires_grad_(), RuntimeError, "int64"),
        (lambda x: (x * 2).requires_grad_(False), RuntimeError, "leaf"),
        (lambda x: x.detach().retain_grad(), RuntimeError, "requires grad"),
        (lambda x: x.to("cuda"), RuntimeError, "cuda"),
        (lambda x: x.to("float16"), TypeError, "float16"),
        (lambda x: setattr(x, "data", tg.ones(3)), ValueError, r"\(3,\)"),
        (lambda x: copy.deepcopy(x * 2), RuntimeError, "leaf"),
        (lambda x: pickle.dumps(x * 2), RuntimeError, "leaf"),
    ],
)
def test_conversion_errors(fn: Any, error: type[Exception], match: str) -> None:
    """Typed, and saying what to do."""
    with pytest.raises(error, match=match):
        fn(tg.ones(2, requires_grad=True))


def test_attributes() -> None:
    """Shape, strides in elements, sizes."""
    x = tg.zeros(2, 3, 4, dtype=tg.float64)
    assert x.shape == x.size() == (2, 3, 4)
    assert x.size(-1) == 4
    assert x.ndim == x.dim() == 3
    assert x.numel() == x.nelement() == 24
    assert x.stride() == (12, 4, 1)
    assert x.permute(2, 0, 1).stride() == (1, 12, 4)
    assert x.T.shape == (4, 3, 2)
    assert x.mT.shape == (2, 4, 3)
    assert x.element_size() == x.itemsize == 8
    assert x.nbytes == 192
    assert str(x.device) == "cpu"
    assert not x.is_cuda
    assert x.is_floating_point()
    assert x.is_contiguous()
    assert not x.T.is_contiguous()


def test_to() -> None:
    """The same tensor when nothing changes, else a copy with a history."""
    x = tg.ones(2, requires_grad=True)
    assert x.to(tg.float32) is x.to("cpu") is x.float() is x.cpu() is x
    assert x.to(tg.float64).dtype == x.to("cpu", tg.float64).dtype == x.to(tg.ones(1).double()).dtype == tg.float64
    assert x.to(tg.float32, copy=True) is not x
    assert x.double().requires_grad
    assert (x.long().dtype, x.int().dtype, x.bool().dtype) == (tg.int64, tg.int32, tg.bool)
    assert x.type(tg.float64).type_as(x).dtype == tg.float32
    assert x.new_zeros(2, 3).shape == (2, 3)
    assert x.new_ones((2,), dtype=tg.int64).dtype == tg.int64
    assert x.double().new_full((2,), 3).dtype == tg.float64
    assert x.new_tensor([1, 2]).dtype == tg.float32


def test_copies_of_leaves() -> None:
    """deepcopy and pickle keep values, layout, requires_grad; memory is not shared."""
    x = tg.zeros(2, 3, requires_grad=True)
    (x * 2).sum().backward()
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.tolist() == x.tolist()
        assert twin.requires_grad
        assert twin.is_leaf
        assert not np.shares_memory(twin.detach().numpy(), x.detach().numpy())
    twin = copy.deepcopy(x)
    assert twin.grad is not None
    assert twin.grad is not x.grad
    assert twin.grad.tolist() == [[2.0] * 3] * 2


def test_data_and_detach_share_memory() -> None:
    """detach() is guarded by versions; .data is not, as in PyTorch."""
    a = leaf()
    a.data.mul_(2)
    (a * a).sum().backward()
    assert a.grad.tolist() == [[4, 8, 12], [16, 20, 24]]
    b = a * 2
    b.detach()[0] = 0
    assert b[0].tolist() == [0, 0, 0]
    a.data = tg.zeros(2, 3, dtype=tg.float64)
    assert a.sum().item() == 0


def test_retain_grad() -> None:
    """A computed tensor has a gradient of its own when asked for."""
    a = leaf()
    b = a * 2
    assert not b.retains_grad
    b.retain_grad()
    assert b.retains_grad
    (b * b).sum().backward()
    assert b.grad is not None
    assert b.grad.tolist() == [[4, 8, 12], [16, 20, 24]]


def test_tensors_are_hashable_and_compare_by_element() -> None:
    """Sets and dictionaries hold them by identity."""
    a, b = tg.ones(2), tg.ones(2)
    assert len({a, b, a}) == 2
    assert (a == b).tolist() == [True, True]
    assert (a != 1).any().item() is False


@pytest.mark.parametrize("value", [None, "x", 1j], ids=str)
def test_only_numbers_are_written(value: Any) -> None:
    """None would become NaN; nothing is written."""
    x = tg.zeros(2, 3)
    writes: list[Callable[[], Any]] = [
        lambda: x.fill_(value),
        lambda: x.copy_(value),
        lambda: x.__setitem__(0, value),
        lambda: x.masked_fill_(x == 0, value),
        lambda: x.new_full((2,), value),
        lambda: tg.full_like(x, value),
    ]
    for write in writes:
        with pytest.raises(TypeError, match=f"expects numbers, got {type(value).__name__}"):
            write()
    assert x.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_tensor_is_not_none_nor_a_string() -> None:
    """Plain False and True, as in PyTorch; the ordering comparisons raise."""
    x = tg.ones(2)
    others: list[Any] = [None, "x", [1.0, 1.0]]
    for other in others:
        assert (x == other) is False
        assert (x != other) is True
        with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
            x < other  # noqa: B015
    assert (np.ones(2) == x).tolist() == (x == 1).tolist() == [True, True]


def test_clamp_on_one_side_and_new_empty() -> None:
    x = tg.tensor([-1.0, 0.5, 2.0])
    assert x.clamp_min(0).tolist() == [0, 0.5, 2] and x.clamp_max(max=1).tolist() == [-1, 0.5, 1]
    assert x.new_empty(2, 3).shape == x.new_empty((2, 3)).shape == (2, 3)
    assert x.new_empty(2).dtype == tg.float32 and x.new_empty(2, dtype=tg.int64).dtype == tg.int64
