"""Ops that move elements: what they do to values and gradients, and which of them are views."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests.ops.agree import agree
from tinygrad_cnn import ops
from tinygrad_cnn.testing import adjoint_check
from tinygrad_cnn.testing import strategies as draw
from tinygrad_cnn.testing.layouts import channels_last

Pair = tuple[Callable[[Any], Any], Callable[[np.ndarray], Any]]


def is_view(fn: Callable[[Any], Any], array: np.ndarray) -> None:
    """What fn returns looks into the same memory, and shares its version."""
    x = tg.from_numpy(array)
    y = fn(x)
    assert y.numpy().size == 0 or np.shares_memory(y.numpy(), array)
    assert y._version is x._version


def dims_of(shape: tuple[int, ...]) -> st.SearchStrategy[int]:
    return st.integers(-len(shape), len(shape) - 1)


def signed(axis: int, ndim: int) -> st.SearchStrategy[int]:
    """Both names of an axis."""
    return st.sampled_from((axis, axis - ndim))


VIEWS = {  # name: the fewest dimensions
    "unsqueeze": 0,
    "squeeze": 0,
    "squeeze_dim": 1,
    "permute": 0,
    "t": 0,
    "expand": 0,
    "transpose": 1,
    "movedim": 1,
    "narrow": 1,
    "unbind": 1,
    "select": 1,
    "split": 1,
    "chunk": 1,
    "unflatten": 1,
    "diagonal": 2,
}


@st.composite
def view_ops(data: st.DrawFn, shape: tuple[int, ...], name: str | None = None) -> Pair:
    """An op that always makes a view of a tensor of that shape, and its NumPy spelling."""
    n = len(shape)
    if name is None:
        name = data(st.sampled_from([name for name, least in VIEWS.items() if n >= least]))
    axis = data(st.integers(0, max(n - 1, 0)))
    dim = data(signed(axis, max(n, 1)))
    size = shape[axis] if n else 1
    if name == "unsqueeze":
        at = data(st.integers(0, n))
        return lambda x: x.unsqueeze(at - n - 1), lambda x: np.expand_dims(x, at)
    if name == "squeeze":
        return lambda x: x.squeeze(), np.squeeze
    if name == "squeeze_dim":
        return lambda x: x.squeeze(dim), lambda x: x.squeeze(axis) if size == 1 else x
    if name == "permute":
        order = tuple(data(st.permutations(range(n))))
        return lambda x: x.permute(*(d - n for d in order)), lambda x: x.transpose(order)
    if name == "t":
        return (lambda x: x.t()) if n < 3 else (lambda x: x.T), lambda x: x.T
    if name == "expand":
        lead = data(draw.shapes(0, 2, 0, 3))
        full = tuple(data(st.integers(0, 3)) if side == 1 else side for side in shape)
        wanted = (*lead, *(-1 if a == b and data(st.booleans()) else a for a, b in zip(full, shape, strict=True)))
        return lambda x: x.expand(*wanted), lambda x: np.broadcast_to(x, (*lead, *full))
    if name == "transpose":
        other = data(dims_of(shape))
        return lambda x: x.transpose(dim, other), lambda x: np.swapaxes(x, dim, other)
    if name == "movedim":
        other = data(dims_of(shape))
        return lambda x: x.movedim(dim, other), lambda x: np.moveaxis(x, dim, other)
    if name == "narrow":
        start = data(st.integers(0, size))
        length = data(st.integers(0, size - start))
        return lambda x: x.narrow(dim, start, length), lambda x: x.take(range(start, start + length), axis)
    if name in ("unbind", "select") and size:
        i = data(st.integers(0, size - 1))
        take: Callable[[Any], Any] = lambda x: np.asarray(x.take(i, axis))
        return (lambda x: x.unbind(dim)[i], take) if name == "unbind" else (lambda x: x.select(dim, i - size), take)
    if name == "split":
        step = data(st.integers(1, 3))
        part = data(st.integers(0, max(math.ceil(size / step) - 1, 0)))
        return lambda x: x.split(step, dim)[part], lambda x: x.take(
            range(part * step, min(part * step + step, size)), axis
        )
    if name == "chunk":
        chunks = data(st.integers(1, 4))
        step = max(math.ceil(size / chunks), 1)
        return lambda x: x.chunk(chunks, dim)[0], lambda x: x.take(range(min(step, size)), axis)
    if name == "unflatten":
        return lambda x: x.unflatten(dim, (1, size)), lambda x: np.expand_dims(x, axis)
    if name == "diagonal":
        first, second = data(st.permutations(range(n)))[:2]
        offset = data(st.integers(-2, 2))
        return lambda x: x.diagonal(offset, first, second - n), lambda x: np.diagonal(x, offset, first, second)
    return lambda x: x.view(shape), lambda x: x


@pytest.mark.parametrize("name", VIEWS)
@given(data=st.data())
def test_views(name: str, data: st.DataObject) -> None:
    """Values and gradients in every layout, and the memory is the input's."""
    shape = data.draw(draw.shapes(VIEWS[name], 3, 0, 3), "shape")
    fn, reference = data.draw(view_ops(shape, name), "op")
    contiguous = np.asarray(np.random.default_rng(0).normal(size=shape))
    is_view(fn, contiguous)
    x = data.draw(draw.arrays(shape))
    agree(fn, reference, x, degree=1)
    adjoint_check(fn, tg.from_numpy(contiguous))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permute(order: tuple[int, ...]) -> None:
    """Also the orders that are not their own inverse."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    agree(lambda x: x.permute(order), lambda x: x.transpose(order), x, degree=1)


@given(data=st.data())
def test_views_of_views(data: st.DataObject) -> None:
    """A chain of views is a view, its gradient the chain of gradients."""
    shape = data.draw(draw.shapes(1, 3, 1, 3), "shape")
    first, first_reference = data.draw(view_ops(shape), "first")
    x = np.random.default_rng(0).normal(size=shape)
    second, second_reference = data.draw(view_ops(np.shape(first_reference(x))), "second")
    assert second(first(tg.from_numpy(x)))._base is not None
    agree(lambda x: second(first(x)), lambda x: second_reference(first_reference(x)), x, degree=1)


@st.composite
def reshapes(data: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Another shape for as many elements, with a -1 or without."""
    rest = math.prod(shape)
    sizes = []
    while rest > 1 and data(st.booleans()):
        factor = data(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        sizes.append(factor)
        rest //= factor
    sizes.append(rest)
    if rest and data(st.booleans()):
        sizes[data(st.integers(0, len(sizes) - 1))] = -1
    return tuple(sizes)


@given(data=st.data())
def test_reshape(data: st.DataObject) -> None:
    """In row-major order whatever the layout; a view of contiguous memory."""
    shape = data.draw(draw.shapes(0, 3, 0, 4), "shape")
    wanted = data.draw(reshapes(shape), "wanted")
    x = data.draw(draw.arrays(shape))
    full = np.empty(shape).reshape(wanted).shape
    agree(lambda x: x.reshape(*wanted), lambda x: x.reshape(full), x, degree=1)
    is_view(lambda x: x.reshape(wanted), np.zeros(shape))
    is_view(lambda x: x.view(wanted), np.zeros(shape))


@given(data=st.data())
def test_flatten(data: st.DataObject) -> None:
    """Any run of dimensions; a 0-d tensor becomes a vector."""
    shape = data.draw(draw.shapes(0, 4, 0, 3), "shape")
    n = max(len(shape), 1)
    start = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(start, n - 1))
    merged = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    x = data.draw(draw.arrays(shape))
    agree(lambda x: x.flatten(start, end - n), lambda x: x.reshape(merged), x, degree=1)


def test_view_refuses_a_copy_and_reshape_makes_one() -> None:
    """The result of reshape then has its own memory."""
    x = tg.zeros(2, 3).t()
    with pytest.raises(RuntimeError, match=r"\(3, 2\).*cannot be seen as \(6,\)"):
        x.view(6)
    y = x.reshape(6)
    y[0] = 1
    assert x[0, 0].item() == 0
    assert x.view(3, 2, 1).shape == (3, 2, 1)


@given(n=st.integers(2, 3), c=st.integers(2, 4), rank=st.sampled_from([3, 4]))
def test_view_of_channels_last_memory_is_a_copy_in_logical_order(n: int, c: int, rank: int) -> None:
    """What convolutions and pools return, and their weights: the flattening line of PyTorch's CNN tutorial."""
    shape = (n, c, 3, 2)[-rank:]
    x = np.random.default_rng(0).normal(size=shape)
    lay_out = lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3)
    agree(lambda x: lay_out(x).view(len(x), -1), lambda x: x.reshape(len(x), -1), x, degree=1)
    weight = tg.nn.Conv2d(c, n, (2, 3)).weight
    assert weight.view(n, -1).tolist() == weight.reshape(n, -1).tolist()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_view_copied_refuses_changes_in_place(recorded: bool, requires_grad: bool) -> None:
    """They would be lost, so do those of its own views; copies of it are free."""
    x = tg.from_numpy(channels_last(np.ones((2, 3, 4, 5)))).requires_grad_(requires_grad)
    with tg.set_grad_enabled(recorded):
        y = x.view(2, -1)
        for change in (lambda: y.zero_(), lambda: y[0].add_(1), lambda: y[0][:2].mul_(2), lambda: setitem(y, 0)):
            with pytest.raises(RuntimeError, match=r"view\(\) copied a tensor of shape \(2, 3, 4, 5\)"):
                change()
        assert bool((y.clone().zero_() == 0).all()) and bool((y == 1).all())


def setitem(x: Any, key: Any) -> None:
    x[key] = 2.0


COPIES = {"flip": 1, "roll": 1, "roll_all": 0, "repeat": 0, "clone": 0, "contiguous": 0, "tril": 2, "triu": 2, "pad": 0}


@st.composite
def copying_ops(data: st.DrawFn, shape: tuple[int, ...], name: str) -> Pair:
    """An op that copies, and its NumPy spelling."""
    n = len(shape)
    axes = tuple(data(st.sets(st.integers(0, n - 1), min_size=1))) if n else ()
    if name == "flip":
        return lambda x: x.flip(*(a - n for a in axes)), lambda x: np.flip(x, axes)
    if name == "roll":
        shifts = tuple(data(st.integers(-4, 4)) for _ in axes)
        return lambda x: x.roll(shifts, axes), lambda x: np.roll(x, shifts, axes)
    if name == "roll_all":
        shift = data(st.integers(-4, 4))
        return lambda x: x.roll(shift), lambda x: np.roll(x, shift)
    if name == "repeat":
        times = (*data(draw.shapes(0, 2, 0, 2)), *(data(st.integers(0, 3)) for _ in shape))
        return lambda x: x.repeat(*times), lambda x: np.tile(x, times)
    if name in ("tril", "triu"):
        k = data(st.integers(-3, 3))
        return lambda x: getattr(x, name)(k), lambda x: getattr(np, name)(x, k)
    if name == "pad":
        widths = [(data(st.integers(-(n // 2), 2)), data(st.integers(-((n + 1) // 2), 2))) for n in shape]
        value = data(st.sampled_from((0.0, 1.5)))
        numbers = [w for pair in reversed(widths) for w in pair]
        return lambda x: ops.pad(x, numbers, value=value), lambda x: padded(x, widths, value)
    return (lambda x: x.clone()) if name == "clone" else (lambda x: x.contiguous()), lambda x: x


def padded(x: np.ndarray, widths: list[tuple[int, int]], value: float) -> np.ndarray:
    """np.pad, with negative widths cutting away."""
    keep = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, widths, strict=True))
    rest = [(max(b, 0), max(a, 0)) for b, a in widths]
    return np.pad(x[(*keep, ...)], rest, constant_values=value) if rest else x


@pytest.mark.parametrize("name", COPIES)
@given(data=st.data())
def test_copies(name: str, data: st.DataObject) -> None:
    """Values and gradients in every layout, in memory of their own."""
    shape = data.draw(draw.shapes(COPIES[name], 3, 0, 3), "shape")
    fn, reference = data.draw(copying_ops(shape, name), "op")
    x = data.draw(draw.arrays(shape))
    agree(fn, reference, x, degree=1)
    if name != "contiguous":
        assert not np.shares_memory(fn(tg.from_numpy(x)).numpy(), x)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@given(data=st.data())
def test_pad_modes(mode: str, numpy_mode: Any, data: st.DataObject) -> None:
    """Every mode's gradient adds up at the source of each copy: the adjoint of the padding."""
    shape = data.draw(draw.shapes(1, 3, 1, 4), "shape")
    most = {"reflect": lambda n: n - 1, "replicate": lambda n: 3, "circular": lambda n: n}[mode]
    widths = [(data.draw(st.integers(0, most(n))), data.draw(st.integers(0, most(n)))) for n in shape]
    numbers = [w for pair in reversed(widths) for w in pair]
    x = data.draw(draw.arrays(shape))
    fn: Callable[[Any], Any] = lambda x: ops.pad(x, numbers, mode=mode)
    agree(fn, lambda x: np.pad(x, widths, mode=numpy_mode), x, degree=1)
    adjoint_check(fn, tg.from_numpy(np.asarray(x, order="C")))


@given(data=st.data())
def test_cat(data: st.DataObject) -> None:
    """Any number of tensors, empty ones too, along any dim."""
    shape = data.draw(draw.shapes(1, 3, 0, 3), "shape")
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3), "sizes")
    xs = [data.draw(draw.arrays((*shape[:axis], n, *shape[axis + 1 :]))) for n in sizes]
    agree(lambda *xs: tg.cat(xs, axis - len(shape)), lambda *xs: np.concatenate(xs, axis), *xs, degree=1)


@given(data=st.data())
def test_stack(data: st.DataObject) -> None:
    """Along a new dimension at any place."""
    shape = data.draw(draw.shapes(0, 3, 0, 3), "shape")
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    xs = [data.draw(draw.arrays(shape)) for _ in range(data.draw(st.integers(1, 3)))]
    agree(lambda *xs: tg.stack(xs, axis), lambda *xs: np.stack(xs, axis), *xs, degree=1)


def test_parts_put_together_again() -> None:
    """cat of split, chunk and unbind is the tensor."""
    x = tg.arange(24.0).reshape(2, 3, 4)
    for dim in range(3):
        assert (tg.cat(x.split(2, dim), dim) == x).all()
        assert (tg.cat(x.chunk(3, dim), dim) == x).all()
        assert (tg.stack(x.unbind(dim), dim) == x).all()
    assert [p.shape[2] for p in x.split([1, 0, 3], 2)] == [1, 0, 3]
    assert [p.shape[0] for p in tg.zeros(5).chunk(4)] == [2, 2, 1]
    assert [p.shape[0] for p in tg.zeros(0).split(2)] == [0]


def test_clone_keeps_the_order_of_axes() -> None:
    """A channels-last image stays one; contiguous() makes it row-major, once."""
    x = tg.zeros(2, 4, 4, 3).permute(0, 3, 1, 2)
    assert x.clone().stride() == x.stride()
    assert x.contiguous().is_contiguous()
    y = tg.zeros(2, 3)
    assert y.contiguous() is y
    assert y.clone()._version is not y._version


def test_an_expanded_tensor_takes_no_memory() -> None:
    """Strides of 0, which is also what the gradient of a sum is."""
    x = tg.ones(1, 3, requires_grad=True)
    assert x.expand(1000, 3).stride() == (0, 1)
    assert x.expand(-1, 3) is x
    (g,) = tg.autograd.grad(x.expand(1000, 3).sum(), x)
    assert g.tolist() == [[1000.0] * 3]


def test_empty_cat_parts_are_left_out() -> None:
    """PyTorch lets a 1-d tensor without elements join anything."""
    x = tg.ones(2, 3)
    assert tg.cat([tg.zeros(0), x]).shape == (2, 3)
    assert tg.cat([tg.zeros(0), tg.zeros(0)]).shape == (0,)


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda x: x.reshape(4), RuntimeError, r"6 elements.*\(4,\)"),
        (lambda x: x.reshape(-1, -1), RuntimeError, "one -1"),
        (lambda x: x.reshape(-2, 3), RuntimeError, "negative"),
        (lambda x: x[:0].reshape(-1, 0), RuntimeError, "write it out"),
        (lambda x: x.view(5), RuntimeError, r"\(5,\)"),
        (lambda x: x.flatten(1, 0), RuntimeError, "start_dim 1"),
        (lambda x: x.unflatten(1, (2, 2)), RuntimeError, r"\(2, 2\)"),
        (lambda x: x.squeeze(2), IndexError, "dim 2"),
        (lambda x: x.unsqueeze(3), IndexError, "dim 3.*3 dimensions"),
        (lambda x: x.transpose(0, 2), IndexError, "dim 2"),
        (lambda x: x[None].t(), RuntimeError, "at most 2"),
        (lambda x: x.permute(0), RuntimeError, "each of the 2"),
        (lambda x: x.permute(0, 0), RuntimeError, "each of the 2"),
        (lambda x: x.movedim((0, 1), 0), RuntimeError, "2 source dims"),
        (lambda x: x.expand(3), RuntimeError, r"\(2, 3\).*\(3,\)"),
        (lambda x: x.expand(4, 3), RuntimeError, r"\(4, 3\)"),
        (lambda x: x.expand(-1, 2, 3), RuntimeError, r"\(-1, 2, 3\)"),
        (lambda x: x.repeat(2), RuntimeError, r"\(2,\)"),
        (lambda x: x.repeat(2, -1), RuntimeError, "non-negative"),
        (lambda x: x.flip(0, 0), RuntimeError, "more than once"),
        (lambda x: x.roll((1, 2)), RuntimeError, "2 shifts"),
        (lambda x: x.roll((), ()), RuntimeError, "shift"),
        (lambda x: x.roll(1, (0, 1)), RuntimeError, "1 shifts for 2 dims"),
        (lambda x: x.split(0), ValueError, ">= 1, got 0"),
        (lambda x: x.split([1, 2]), RuntimeError, r"\[1, 2\].*2"),
        (lambda x: x.chunk(0), ValueError, "got 0"),
        (lambda x: tg.tensor(1.0).split(1), RuntimeError, "0-d"),
        (lambda x: tg.tensor(1.0).unbind(), RuntimeError, "0-d"),
        (lambda x: x.narrow(0, 1, 2), RuntimeError, "start 1 . length 2.*size 2"),
        (lambda x: x.narrow(0, 3, 0), IndexError, "start 3"),
        (lambda x: x.select(0, 2), IndexError, "index 2.*size 2"),
        (lambda x: x.diagonal(0, 1, 1), RuntimeError, "same dimension"),
        (lambda x: x[0].tril(), RuntimeError, r"\(3,\)"),
        (lambda x: tg.cat([]), RuntimeError, "empty"),
        (lambda x: tg.cat(x), TypeError, "sequence"),
        (lambda x: tg.cat([x, 3]), TypeError, "int"),
        (lambda x: tg.cat([x, x[:, :2]]), RuntimeError, r"tensor 1 has \(2, 2\)"),
        (lambda x: tg.cat([x[0, 0]]), RuntimeError, "stack"),
        (lambda x: tg.stack([x, x[0]]), RuntimeError, r"tensor 1 has shape \(3,\)"),
        (lambda x: ops.pad(x, (1,)), ValueError, r"\(1,\)"),
        (lambda x: ops.pad(x, (1,) * 6), ValueError, "at most 2"),
        (lambda x: ops.pad(x, (3, 0), mode="reflect"), ValueError, r"\(3, 0\).*size 3"),
        (lambda x: ops.pad(x, (0, 4), mode="circular"), ValueError, r"\(0, 4\)"),
        (lambda x: ops.pad(x, 1), TypeError, "sequence of widths"),
        (lambda x: ops.pad(x, (-2, -2)), ValueError, r"\(-2, -2\)"),
        (lambda x: ops.pad(x, (1, 1), mode="mirror"), ValueError, "'mirror'"),
        (lambda x: ops.pad(x, (1, 1), mode="reflect", value=1.0), ValueError, "value=1.0"),
    ],
)
def test_errors(fn: Any, error: type[Exception], match: str) -> None:
    """Typed, with the numbers."""
    with pytest.raises(error, match=match):
        fn(tg.ones(2, 3))


def test_sizes_and_dims_can_be_given_by_pytorchs_names() -> None:
    """The same as by position; not both."""
    x = tg.arange(6.0).reshape(2, 3)
    assert x.reshape(shape=(3, 2)).shape == x.view(size=(3, 2)).shape == x.permute(dims=(1, 0)).shape == (3, 2)
    assert x.expand(size=(4, 2, 3)).shape == tg.zeros(size=(4, 2, 3)).shape == tg.rand(size=(4, 2, 3)).shape
    assert tg.flip(x, dims=(0,)).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert x.repeat(repeats=(2, 1)).shape == tg.randint(high=5, size=(4, 3)).shape == (4, 3)
    with pytest.raises(TypeError, match="given twice"):
        x.reshape(3, 2, shape=(3, 2))
