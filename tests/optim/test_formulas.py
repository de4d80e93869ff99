"""SGD, Adam and AdamW against PyTorch's documented algorithms, written as plain float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import optim

STEPS = 5


class ReferenceSGD:
    """One parameter, changed as the algorithm of torch.optim.SGD's documentation says."""

    def __init__(self, p: Any, **options: Any) -> None:
        self.p, self.o, self.buffer = p, options, None

    def step(self, g: Any) -> None:
        o, p = self.o, self.p
        g = (-g if o["maximize"] else g) + o["weight_decay"] * p
        if o["momentum"]:
            if self.buffer is None:
                self.buffer = g.copy()
            else:
                self.buffer = o["momentum"] * self.buffer + (1 - o["dampening"]) * g
            g = g + o["momentum"] * self.buffer if o["nesterov"] else self.buffer
        self.p = p - o["lr"] * g


class ReferenceAdam:
    """One parameter, changed as the algorithms of torch.optim.Adam's and AdamW's documentation say."""

    def __init__(self, p: Any, decoupled: bool, **options: Any) -> None:
        self.p, self.o, self.decoupled = p, options, decoupled
        self.m = self.v = self.highest = np.zeros_like(p)
        self.t = 0

    def step(self, g: Any) -> None:
        o, p = self.o, self.p
        beta1, beta2 = o["betas"]
        self.t += 1
        g = -g if o["maximize"] else g
        if self.decoupled:
            p = p - o["lr"] * o["weight_decay"] * p
        else:
            g = g + o["weight_decay"] * p
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        self.highest = np.maximum(self.highest, self.v)
        v = (self.highest if o["amsgrad"] else self.v) / (1 - beta2**self.t)
        self.p = p - o["lr"] * self.m / (1 - beta1**self.t) / (np.sqrt(v) + o["eps"])


@st.composite
def sgd_options(draw: st.DrawFn) -> dict[str, Any]:
    momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    return {
        "lr": draw(st.floats(0, 1)),
        "momentum": momentum,
        "dampening": 0.0 if nesterov else draw(st.sampled_from([0.0, 0.25, 1.0])),
        "weight_decay": draw(st.sampled_from([0.0, 0.1])),
        "nesterov": nesterov,
        "maximize": draw(st.booleans()),
    }


adam_options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.1),
        "betas": st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999])),
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)

shapes = st.lists(st.lists(st.integers(0, 7), max_size=4).map(tuple), min_size=1, max_size=5)
dtypes = st.sampled_from([np.float32, np.float64])


def check(make: Any, reference: Any, shapes: list[tuple[int, ...]], dtype: Any, seed: int) -> None:
    """Some steps of one optimizer over all shapes beside one reference for each."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    references = [reference(array.astype(np.float64)) for array in arrays]
    params = [tg.from_numpy(array).requires_grad_() for array in arrays]
    optimizer = make(params)
    for _ in range(STEPS):
        for p, one in zip(params, references, strict=True):
            # away from 0, where Adam divides rounding errors by rounding errors
            grad = np.array(rng.choice([-1.0, 1.0], p.shape) * rng.uniform(1, 2, p.shape), dtype)
            p.grad = tg.from_numpy(grad)
            one.step(grad.astype(np.float64))
        optimizer.step()
    # float32: some 10 roundings a step on numbers of the size of 10, float64 in proportion
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for p, one in zip(params, references, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.detach().numpy(), one.p, rtol=tolerance, atol=tolerance)


@given(options=sgd_options(), shapes=shapes, dtype=dtypes, seed=st.integers(0, 2**32 - 1))
def test_sgd(options: dict[str, Any], shapes: list[tuple[int, ...]], dtype: Any, seed: int) -> None:
    check(lambda p: optim.SGD(p, **options), lambda p: ReferenceSGD(p, **options), shapes, dtype, seed)


@given(
    options=adam_options,
    decoupled=st.booleans(),
    shapes=shapes,
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_adam(options: dict[str, Any], decoupled: bool, shapes: list[tuple[int, ...]], dtype: Any, seed: int) -> None:
    kind = optim.AdamW if decoupled else optim.Adam
    check(lambda p: kind(p, **options), lambda p: ReferenceAdam(p, decoupled, **options), shapes, dtype, seed)


# Ten steps of PyTorch 2.13 in float64 from p = [1, -2, 0.5] with grad = p**2 - t in step t = 0, 1, ...
PYTORCH: dict[str, tuple[Any, list[float]]] = {
    "sgd": (
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1),
        [3.282862339087506, -29.665294688678355, 3.4572157230868106],
    ),
    "sgd nesterov maximize": (
        lambda p: optim.SGD(p, lr=0.01, momentum=0.8, nesterov=True, maximize=True),
        [-0.07575097186555159, -2.1463355022160657, -0.8059967303301038],
    ),
    "adam": (
        lambda p: optim.Adam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
        [1.2457896782004014, -2.230258210064956, 0.8636233831398696],
    ),
    "adam amsgrad": (
        lambda p: optim.Adam(p, lr=0.05, eps=1e-3, amsgrad=True, maximize=True),
        [0.8146746755784625, -1.8359995187381037, 0.1683261352455165],
    ),
    "adamw": (
        lambda p: optim.AdamW(p, lr=0.05, weight_decay=0.2),
        [1.1229627350702518, -2.061461123101919, 0.7793968110938263],
    ),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_the_values_are_those_of_pytorch(name: str) -> None:
    make, expected = PYTORCH[name]
    p = tg.tensor([1.0, -2.0, 0.5], dtype=tg.float64, requires_grad=True)
    optimizer = make([p])
    for t in range(10):
        p.grad = p.detach() ** 2 - t
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_the_defaults_are_those_of_pytorch() -> None:
    p = [tg.zeros(1, requires_grad=True)]
    sgd = {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    adam = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
    }
    assert optim.SGD(p).defaults == sgd
    assert optim.Adam(p).defaults == adam
    assert optim.AdamW(p).defaults == adam | {"weight_decay": 1e-2}
