"""New tensors and random numbers: values, dtypes, memory, reproducibility, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.testing import strategies as draw

# ----------------------------------------------------------------------------------------------------------- from data


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1, tg.int64, ()),
        (1.0, tg.float32, ()),
        (True, tg.bool, ()),
        ([1, 2.5], tg.float32, (2,)),
        ([1, True], tg.int64, (2,)),
        ([True, 2.5], tg.float32, (2,)),
        ([], tg.float32, (0,)),
        ([[]], tg.float32, (1, 0)),
        (((1, 2), (3, 4)), tg.int64, (2, 2)),
        (range(3), tg.int64, (3,)),
        (np.float64(3), tg.float64, ()),
        (np.int32(3), tg.int32, ()),
        ([np.float64(3)], tg.float64, (1,)),
        (np.ones((2, 1)), tg.float64, (2, 1)),
        ([np.ones(2, np.float32)], tg.float32, (1, 2)),
        (np.zeros((0, 3), np.uint8), tg.uint8, (0, 3)),
    ],
)
def test_tensor_finds_the_dtype_as_pytorch_does(data: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Python's numbers are float32, int64 and bool; NumPy's keep theirs."""
    x = tg.tensor(data)
    assert x.dtype == dtype
    assert x.shape == shape
    assert not x.requires_grad


def test_tensor_of_tensors() -> None:
    """Nested lists may hold tensors, whose dtype counts; a tensor is copied and detached."""
    assert tg.tensor([tg.tensor(1), tg.tensor(2)]).tolist() == [1, 2]
    assert tg.tensor([[tg.tensor(1.0, dtype=tg.float64)]]).dtype == tg.float64
    assert tg.tensor([tg.ones(2), tg.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    x = tg.ones(2, requires_grad=True)
    y = tg.tensor(x * 2)
    assert not y.requires_grad
    assert y.tolist() == [2, 2]
    losses = tg.tensor([x.sum(), (x * 2).sum()])
    assert not losses.requires_grad and losses.dtype == tg.float32
    assert losses.tolist() == [2, 4]
    assert tg.tensor([(x[0], 3.0), (x[1], 4.0)]).tolist() == [[1, 3], [1, 4]]


@given(data=st.data())
def test_tensor_copies_and_from_numpy_shares(data: st.DataObject) -> None:
    """In any layout and dtype; a list of lists gives the same numbers."""
    shape = data.draw(draw.shapes(0, 3, 0, 3))
    dtype = data.draw(st.sampled_from([tg.float32, tg.float64, tg.int64, tg.int32, tg.uint8, tg.bool]))
    array = data.draw(draw.arrays(shape, dtype, low=0, high=2))
    copied, shared = tg.tensor(array), tg.from_numpy(array)
    assert copied.dtype == shared.dtype == dtype
    np.testing.assert_array_equal(copied.numpy(), array)
    np.testing.assert_array_equal(shared.numpy(), array)
    assert copied.is_contiguous()
    if array.size:
        assert np.shares_memory(shared.numpy(), array)
        assert not np.shares_memory(copied.numpy(), array)
        np.testing.assert_array_equal(tg.tensor(array.tolist(), dtype=dtype).numpy(), array)


def test_dtype_and_requires_grad_keywords() -> None:
    """`dtype` converts, as PyTorch truncates; `requires_grad` needs floats."""
    assert tg.tensor([1.7, -2.7], dtype=tg.int64).tolist() == [1, -2]
    assert tg.tensor(0.1, dtype=tg.float64).item() == 0.1  # not by way of float32
    assert tg.tensor(2, dtype=float).dtype == tg.float32
    assert tg.tensor([1, 2], dtype="double").dtype == tg.float64
    assert tg.tensor(np.ones(2, np.float16), dtype=tg.float32).dtype == tg.float32
    assert tg.ones(2, requires_grad=True).is_leaf
    with pytest.raises(RuntimeError, match="int64"):
        tg.tensor([1], requires_grad=True)
    with pytest.raises(TypeError, match="float16 is not supported; use one of"):
        tg.zeros(2, dtype=np.float16)


def test_as_tensor() -> None:
    """Itself, shared memory, or a copy: the cheapest that will do."""
    x, array = tg.ones(2), np.ones(2)
    assert tg.as_tensor(x) is x
    assert tg.as_tensor(x, dtype=tg.float64).dtype == tg.float64
    assert np.shares_memory(tg.as_tensor(array).numpy(), array)
    assert tg.as_tensor(array, dtype=tg.float32).dtype == tg.float32
    assert tg.as_tensor([1.0]).dtype == tg.float32


def test_interchange() -> None:
    """NumPy and DLPack both ways, sharing memory."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for x in (tg.from_numpy(array), tg.from_dlpack(array)):
        x[0, 0] = 5
        assert array[0, 0] == 5
        array[0, 0] = 0
        assert x[0, 0].item() == 0
        assert np.shares_memory(np.from_dlpack(x), array)
        assert np.shares_memory(np.asarray(x), array)
        assert np.asarray(x, np.float64).dtype == np.float64
        assert not np.shares_memory(np.array(x), array)
    assert np.shares_memory(tg.from_dlpack(tg.from_numpy(array)).numpy(), array)


def test_a_read_only_array_stays_so() -> None:
    """Reading is fine, writing raises before it happens."""
    array = np.zeros(2)
    array.flags.writeable = False
    x = tg.from_numpy(array)
    assert (x + 1).tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="read-only"):
        x.add_(1)
    assert array.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda: tg.tensor([[1, 2], [3]]), ValueError, "ragged"),
        (lambda: tg.tensor([[1, 2], 3]), ValueError, "ragged"),
        (lambda: tg.tensor("abc"), TypeError, "'abc'"),
        (lambda: tg.tensor([["a"]]), TypeError, "'a'"),
        (lambda: tg.tensor(None), TypeError, "None"),
        (lambda: tg.tensor(1j), TypeError, "complex"),
        (lambda: tg.tensor({}), TypeError, "dict"),
        (lambda: tg.tensor(2**70), (TypeError, ValueError), "1180591620717411303424"),
        (lambda: tg.tensor(np.ones(2, np.float16)), TypeError, "float16.*astype"),
        (lambda: tg.from_numpy(np.ones(2, np.complex64)), TypeError, "complex64"),
        (lambda: tg.from_numpy(np.ones(2, ">f4")), TypeError, ">f4"),
        (lambda: tg.from_numpy([1.0]), TypeError, "list"),
        (lambda: tg.zeros(-1), ValueError, "-1"),
        (lambda: tg.zeros(2.5), TypeError, r"sizes are ints, as in \(2, 3\), got \(2.5,\)"),
        (lambda: tg.zeros("a"), TypeError, "sizes are ints"),
        (lambda: tg.tensor([300, 1], dtype=tg.uint8), RuntimeError, "uint8 cannot hold all of 1 to 300"),
        (lambda: tg.tensor(np.array([-1]), dtype=tg.uint8), RuntimeError, "uint8 cannot hold"),
        (lambda: tg.zeros(2, dtype="half"), TypeError, "float16"),
        (lambda: tg.zeros(2, device="tpu"), RuntimeError, "'tpu'"),
        (lambda: tg.ones(2, device="cuda"), RuntimeError, "cuda"),
        (lambda: tg.full((2,), "a"), TypeError, "'a'"),
        (lambda: tg.full((2,), [1, 2]), TypeError, r"\(2,\)"),
        (lambda: tg.arange(1, 5, 0), ValueError, "step 0"),
        (lambda: tg.arange(5, 1), ValueError, "from 5 to 1"),
        (lambda: tg.linspace(0, 1, -1), ValueError, "-1"),
        (lambda: tg.eye(-1), ValueError, "-1"),
        (lambda: tg.rand(2, dtype=tg.int64), TypeError, "int64"),
        (lambda: tg.randint(5, 5, (2,)), ValueError, r"\[5, 5\)"),
        (lambda: tg.randint(5), TypeError, "randint"),
        (lambda: tg.bernoulli(tg.tensor([0.5, 1.5])), ValueError, "1.5"),
        (lambda: tg.zeros_like(3), TypeError, "int"),  # type: ignore[arg-type]
        (lambda: tg.manual_seed(2**65), ValueError, "seed"),
    ],
)
def test_errors(fn: Any, error: Any, match: str) -> None:
    """Typed, with the value."""
    with pytest.raises(error, match=match):
        fn()


# ------------------------------------------------------------------------------------------------- filled and counted


@given(data=st.data())
def test_what_an_integer_dtype_cannot_hold_is_refused(data: st.DataObject) -> None:
    """Wherever a number is written or fills a tensor: the number itself, without a fraction, or an error."""
    dtype = data.draw(st.sampled_from([tg.uint8, tg.int32, tg.int64]))
    limits = np.iinfo(dtype)
    near = [limits.min, limits.max, 0]
    value = data.draw(st.sampled_from(near).flatmap(lambda n: st.integers(max(n - 2, -(2**63)), n + 2)))
    if data.draw(st.booleans()) and float(value) == value:
        value = float(value)
    x = tg.zeros(2, 2, dtype=dtype)
    ways: list[Any] = [
        lambda: x.__setitem__(0, value),
        lambda: x.__setitem__((x == 0), value),
        lambda: x.__setitem__(1, [value, value]),
        lambda: x.fill_(value),
        lambda: x.copy_(np.array([value])),
        lambda: tg.full((2,), value, dtype=dtype),
        lambda: tg.full_like(x, value),
        lambda: x.new_full((2,), value),
        lambda: x.new_tensor([value]),
        lambda: tg.tensor([value], dtype=dtype),
    ]
    for way in ways:
        x.zero_()
        if limits.min <= value <= limits.max:
            out = way()
            assert value in (x if out is None else out).reshape(-1).tolist()
        else:
            with pytest.raises(RuntimeError, match=f"{dtype} cannot hold {value}: its numbers are".replace("+", ".")):
                way()
            assert x.tolist() == [[0, 0], [0, 0]]


def test_fractions_are_cut_off_and_tensors_cast() -> None:
    """As PyTorch does both; NaN is no integer."""
    x = tg.zeros(2, dtype=tg.uint8)
    x[0], x[1] = 255.9, tg.tensor(300)
    assert x.tolist() == [255, 44]
    assert x.copy_(tg.tensor([300, 301])).tolist() == [44, 45]
    with pytest.raises(RuntimeError, match="cannot hold nan"):
        x[0] = math.nan
    with pytest.raises(RuntimeError, match="cannot hold all of -3 to 4"):
        x[:] = [-3, 4]
    x[tg.tensor([False, False])] = []
    assert x.tolist() == [44, 45]


def test_filled() -> None:
    """Sizes as numbers or as one sequence; `*_like` keeps shape and dtype."""
    assert tg.zeros(2, 3).shape == tg.zeros((2, 3)).shape == tg.zeros([2, 3]).shape == (2, 3)
    assert tg.zeros(()).shape == tg.ones(()).shape == ()
    assert tg.empty(0, 2).shape == (0, 2)
    assert tg.full((2,), 3).dtype == tg.int64
    assert tg.full((2,), True).dtype == tg.bool
    assert tg.full((2,), 3.0).dtype == tg.float32
    assert tg.full((2, 2), math.nan).isnan().all()
    assert tg.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    x = tg.ones(2, 3, dtype=tg.float64, requires_grad=True)
    for like in (tg.zeros_like(x), tg.ones_like(x), tg.full_like(x, 2), tg.empty_like(x), tg.rand_like(x)):
        assert like.shape == x.shape
        assert like.dtype == x.dtype
        assert not like.requires_grad
    assert tg.zeros_like(x, dtype=tg.int64).dtype == tg.int64
    assert tg.randint_like(x, 3).dtype == tg.float64


@given(
    start=st.integers(-20, 20),
    end=st.integers(-20, 20),
    step=st.integers(1, 7),
    scale=st.sampled_from([1, 0.5, 0.125]),
)
def test_arange(start: int, end: int, step: int, scale: float) -> None:
    """Python's range, for floats too, up and down."""
    step = step if start <= end else -step
    expected = [i * scale for i in range(start, end, step)]
    x = tg.arange(start * scale, end * scale, step * scale)
    assert x.tolist() == expected
    assert x.dtype == (tg.int64 if scale == 1 else tg.float32)


def test_counted() -> None:
    """The spellings and dtypes of PyTorch."""
    assert tg.arange(3).tolist() == [0, 1, 2]
    assert tg.arange(3.0).dtype == tg.float32
    assert tg.arange(0, 1, 0.1).shape == (10,)
    assert tg.arange(tg.tensor(3)).tolist() == [0, 1, 2]
    assert tg.arange(3, dtype=tg.float64).dtype == tg.float64
    assert tg.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert tg.linspace(3, -3, 1).tolist() == [3]
    assert tg.linspace(0, 1, 0).shape == (0,)


# -------------------------------------------------------------------------------------------------------------- random


def everything(generator: tg.Generator | None = None) -> list[Any]:
    """One of each kind of random number."""
    return [
        x.tolist()
        for x in (
            tg.rand(3, generator=generator),
            tg.randn(2, 2, generator=generator),
            tg.randint(0, 100, (5,), generator=generator),
            tg.randperm(10, generator=generator),
            tg.bernoulli(tg.full((8,), 0.5), generator=generator),
            tg.rand(3, dtype=tg.float64, generator=generator),
        )
    ]


def test_manual_seed_repeats_everything() -> None:
    """The default generator and one's own; -1 and 2**64 - 1 are seeds too, and different seeds differ."""
    assert tg.manual_seed(0) is tg.default_generator
    first, key = everything(), tg.default_generator.next_key()
    tg.manual_seed(0)
    assert everything() == first
    assert tg.default_generator.next_key() == key == (0, 0)
    assert tg.default_generator.next_key() == (0, 1)
    assert everything() != first
    g = tg.Generator().manual_seed(7)
    own = everything(g)
    assert own != first
    assert everything(tg.Generator().manual_seed(7)) == own
    assert g.initial_seed() == 7
    assert everything(g.manual_seed(-1)) == everything(g.manual_seed(2**64 - 1))
    assert tg.initial_seed() == 0


def test_a_fresh_generator_is_not_repeatable() -> None:
    """Two generators that nobody seeded differ."""
    assert everything(tg.Generator()) != everything(tg.Generator())
    g = tg.Generator()
    assert g.seed() == g.initial_seed()


def test_the_state_of_a_generator() -> None:
    """Saved and restored in the middle of the stream, for the default generator by functions."""
    g = tg.Generator().manual_seed(3)
    tg.rand(3, generator=g)
    tg.randint(0, 7, (3,), generator=g, dtype=tg.int32)
    g.next_key()
    state = g.get_state()
    assert state.dtype == tg.uint8
    expected, key = everything(g), g.next_key()
    other = tg.Generator()
    other.set_state(state)
    assert (everything(other), other.next_key()) == (expected, key)
    state = tg.get_rng_state()
    expected = everything()
    tg.set_rng_state(state)
    assert everything() == expected
    with pytest.raises(ValueError, match=r"\(3,\)"):
        g.set_state(state[:3])
    with pytest.raises(TypeError, match="float32"):
        g.set_state(tg.ones(3))


@given(data=st.data())
def test_random_numbers_are_written_into_a_tensor(data: st.DataObject) -> None:
    """normal_ and uniform_ draw what nn.init draws, into any part of a tensor; gradients of the old values are 0."""
    shape = data.draw(draw.shapes(1, 3, 1, 3))
    dtype = data.draw(st.sampled_from([tg.float32, tg.float64]))
    seed = data.draw(st.integers(0, 99))
    for name, a, b in (("normal_", 3.0, 0.5), ("uniform_", -1.0, 2.0)):
        x, y = tg.zeros(*shape, dtype=dtype), tg.zeros(*shape, dtype=dtype)
        assert getattr(x[0], name)(a, b, generator=tg.Generator().manual_seed(seed)).shape == shape[1:]
        getattr(tg.nn.init, name)(y[0], a, b, tg.Generator().manual_seed(seed))
        assert x.tolist() == y.tolist() and (x[0] != 0).all() and (x[1:] == 0).all()
        w = tg.ones(*shape, dtype=dtype, requires_grad=True)
        (getattr(w * 1, name)() * 2).sum().backward()
        assert w.grad is None or (w.grad == 0).all()
        with pytest.raises(RuntimeError, match="int64"):
            getattr(tg.zeros(2, dtype=tg.int64), name)()
        with pytest.raises(RuntimeError, match="leaf that requires grad"):
            getattr(w, name)()


def test_random_numbers_have_their_distribution() -> None:
    """Means and spreads of 100,000 numbers, within six standard errors."""
    tg.manual_seed(0)
    n = 100_000
    u, z, i = tg.rand(n), tg.randn(n), tg.randint(-2, 3, (n,))
    assert 0 <= u.min().item() <= u.max().item() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=6 * (1 / 12 / n) ** 0.5)
    assert z.mean().item() == pytest.approx(0, abs=6 / n**0.5)
    assert z.var().item() == pytest.approx(1, abs=6 * (2 / n) ** 0.5)
    assert np.bincount(i.numpy() + 2) == pytest.approx([n / 5] * 5, rel=0.05)
    assert tg.randperm(1000).sort().values.tolist() == list(range(1000))
    assert tg.bernoulli(tg.full((n,), 0.25)).mean().item() == pytest.approx(0.25, abs=0.01)
    assert tg.bernoulli(tg.tensor([0.0, 1.0])).tolist() == [0, 1]
    assert tg.rand(2, 3, requires_grad=True).requires_grad
    assert tg.randn((2, 3)).shape == tg.randint(3, (2, 3)).shape == (2, 3)


@pytest.mark.parametrize("seed", [1.5, "7", None])
def test_a_seed_that_is_no_int_leaves_the_generator_as_it_was(seed: Any) -> None:
    """The error comes from manual_seed, not from the next random number."""
    g = tg.Generator().manual_seed(3)
    with pytest.raises(TypeError, match="a seed is an int"):
        g.manual_seed(seed)
    assert tg.rand(2, generator=g).tolist() == tg.rand(2, generator=tg.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tg.as_tensor(tg.ones(2), device="cuda"), RuntimeError, "not available"),
        (lambda: tg.as_tensor(np.ones(2), device="cuda"), RuntimeError, "not available"),
        (lambda: tg.from_dlpack(None), TypeError, "expects an object with __dlpack__, got NoneType"),
        (lambda: tg.rand(2, generator=3), TypeError, "expected a Generator or None, got int 3"),
        (lambda: tg.nn.init.normal_(tg.ones(2), generator=3), TypeError, "expected a Generator or None, got int 3"),
        (lambda: tg.ones(2).normal_(generator=3), TypeError, "expected a Generator or None, got int 3"),
        (lambda: tg.bernoulli(np.ones(2)), TypeError, "bernoulli expects a Tensor, got ndarray"),
        (lambda: tg.arange(0, math.inf), ValueError, "expects finite numbers"),
        (lambda: tg.arange(0, math.nan), ValueError, "expects finite numbers"),
        (lambda: tg.randint(1.5, (2,)), TypeError, "expects an int for high, got float 1.5"),
        (lambda: tg.randint(-1, 5, (2,), dtype=tg.uint8), ValueError, "uint8 does not hold all of"),
        (lambda: tg.randint(0, 300, (2,), dtype=tg.uint8), ValueError, "uint8 does not hold all of"),
        (lambda: tg.randint(0, 2**70, (2,)), ValueError, "int64 does not hold all of"),
    ],
)
def test_arguments_of_no_meaning_are_refused(make: Any, error: type[Exception], message: str) -> None:
    """None of them is ignored, wrapped around or an error of NumPy's."""
    with pytest.raises(error, match=message):
        make()
