"""Outputs that are made again for backward: the same bits and errors as where they are kept, and less memory."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.autograd import grad, no_grad
from tinygrad_cnn.kernels import cpu
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.ops.conv import conv2d_max_pool, conv2d_relu
from tinygrad_cnn.ops.norm import batch_norm_or_relu

op = sys.modules["tinygrad_cnn.op"]  # as an attribute of the package it is the decorator

CONSUMERS: dict[str, Callable[[Any, Any], Any]] = {
    "conv": lambda y, w: F.conv2d(y, w, padding=1),
    "conv, ReLU": lambda y, w: conv2d_relu(y, w, None, 1, 1, 1, 1),
    "conv, pool": lambda y, w: conv2d_max_pool(y, w, None, 1, 1, 1, 1, (2, None, 0, 1, False), True),
    "two convs": lambda y, w: F.conv2d(y, w) * F.conv2d(y, w * 2),
    "itself": lambda y, w: F.conv2d(F.silu(y) * y, w),
    "a batch norm": lambda y, w: F.conv2d(F.batch_norm(y, None, None, training=True), w),
    "written over": lambda y, w: F.conv2d(y.mul_(w.mean()), w),
    "views": lambda y, w: F.conv2d(y.flatten(2).reshape(*y.shape), w) + F.conv2d(y[:, :], w),
}
WRITES: dict[str, Callable[[Any, list[Any]], Any]] = {
    "nothing": lambda y, norm: None,
    "y": lambda y, norm: y.mul_(2),
    "a view of y": lambda y, norm: y.detach()[0].zero_(),
    "y's data": lambda y, norm: setattr(y, "data", y.data * 2),
    "y's array": lambda y, norm: np.multiply(y.detach().numpy(), 2, out=y.detach().numpy()),
    "weight": lambda y, norm: [x.mul_(3) for x in norm[:1]],
    "bias": lambda y, norm: [x.mul_(3) for x in norm[1:]],
}


class Program(NamedTuple):
    seed: int
    dtype: Any
    affine: bool
    relu: bool
    consumer: str
    held: bool  # by the user, up to the end
    hooked: bool
    before: str  # what is written to before the consumer
    after: str  # and after it
    walk: str


programs = st.builds(
    Program,
    st.integers(0, 99),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(sorted(CONSUMERS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["nothing"] * 5 + sorted(WRITES)),
    st.sampled_from(["nothing"] * 5 + sorted(WRITES.keys() - {"y's array"})),  # of which no version tells
    st.sampled_from(["backward", "again", "weight", "freed", "create graph"]),
).filter(lambda p: p.consumer != "a batch norm" or "y" not in p.after)  # there y is what is made again of: see below


def leaves(p: Program) -> tuple[Any, Any, Any, list[Any]]:
    """An image, two weights, and those of the batch norm."""
    rng = np.random.default_rng(p.seed)
    x, v, w, *norm = (
        rng.normal(size=s).astype(p.dtype) for s in [(2, 2, 5, 4), (3, 2, 2, 2), (2, 3, 3, 2), (3,), (3,)]
    )
    x, v, w, *norm = (tg.from_numpy(a).requires_grad_() for a in (x, v, w, *norm[: 2 * p.affine]))
    return x, v, w, norm


def run(p: Program, bound: float) -> list[Any]:
    """The gradients of a program, or its error, with what has `bound` bytes made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "REBUILT", bound)
        x, v, w, norm = leaves(p)
        every = [x, v, w, *norm]
        c = F.conv2d(x, v)
        y = batch_norm_or_relu(c, None, None, *(norm or (None, None)), True, 0.1, 1e-5, p.relu)
        if p.hooked:
            y.register_hook(lambda g: g * 2)
        held = [y] if p.held else []
        with no_grad():
            WRITES[p.before](y, norm)
        losses = [(CONSUMERS[p.consumer](y, w) ** 2).sum(), (F.conv2d(y, w * 3) ** 2).sum()]
        with no_grad():
            WRITES[p.after](y, norm)
        del y
        try:
            return [g.numpy() for g in walked(p.walk, losses, every) if g is not None]
        except RuntimeError as error:
            return [str(error)]
        finally:
            del held


def walked(walk: str, losses: list[Any], every: list[Any]) -> list[Any]:
    if walk == "weight":
        return [*grad(losses[0], every[2]), *grad(losses[1], every[2])]
    if walk == "freed":  # the batch norm's node has nothing any more, and the second loss asks for nothing from it
        return [*grad(losses[0], every, allow_unused=True), *grad(losses[1], every[2])]
    if walk == "create graph":
        first = grad(losses[0] + losses[1], every, create_graph=True)
        sum((g * g).sum() for g in first).backward()
        return [*first, *(x.grad for x in every)]
    (losses[0] + losses[1]).backward(retain_graph=walk == "again")
    if walk == "again":
        losses[0].backward()
    return [x.grad for x in every]


PLAIN = Program(0, np.float32, True, True, "conv", False, False, "nothing", "nothing", "backward")


@given(programs)
@example(PLAIN)
@example(PLAIN._replace(before="y"))
@example(PLAIN._replace(before="weight", walk="weight"))
@example(PLAIN._replace(after="y"))
@example(PLAIN._replace(walk="freed"))
@example(PLAIN._replace(walk="create graph"))
def test_what_is_made_again_is_as_what_is_kept(p: Program) -> None:
    kept, made = run(p, 1 << 60), run(p, 0)
    assert len(kept) == len(made)
    for one, other in zip(kept, made, strict=True):
        assert one == other if isinstance(one, str) else one.tobytes() == other.tobytes(), p


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "REBUILT", 0)


def normalised(**options: Any) -> tuple[Any, Any, Any]:
    """A convolution's output and its batch norm, which can be made again, and a weight for the next convolution."""
    c = F.conv2d(tg.rand(2, 3, 6, 6), tg.rand(4, 3, 3, 3, requires_grad=True))
    options = {"weight": tg.rand(4, requires_grad=True), "training": True} | options
    return c, F.batch_norm(c, tg.zeros(4), tg.ones(4), **options), tg.rand(4, 4, 3, 3, requires_grad=True)


@pytest.mark.usefixtures("any_size")
def test_an_output_lives_no_longer_than_somebody_holds_it() -> None:
    c, y, w = normalised()
    seen = weakref.ref(y._array)
    z = F.conv2d(y, w)
    assert z.grad_fn.saved["input"].data(z.grad_fn) is y._array  # nothing is made as long as it is there
    del y
    assert seen() is None
    z.sum().backward()
    assert w.grad is not None
    seen = weakref.ref(c._array)
    del c
    assert seen() is None  # backward let go of it


@pytest.mark.usefixtures("any_size")
def test_a_write_to_what_an_output_is_made_of_is_noticed() -> None:
    c, y, w = normalised()
    z = F.conv2d(y, w).sum()
    with no_grad():
        c.add_(1)
    del y
    with pytest.raises(
        RuntimeError, match=r"shape \(2, 4, 4, 4\).*backward of 'batch_norm'.*version 1, saved at version 0"
    ):
        grad(z, w)


@pytest.mark.parametrize(
    "why",
    ["small", "quickly read", "evaluation", "no history", "input written to", "weight written to", "input an array"],
)
def test_where_it_cannot_be_made_again_or_is_not_worth_it_an_output_is_kept(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = tg.rand(4, requires_grad=True)
    c, y, w = normalised(weight=weight, training=why != "evaluation")
    monkeypatch.setattr(op, "REBUILT", y._array.nbytes + (why == "small"))
    with no_grad():
        if why == "input written to":
            c.add_(1)
        elif why == "weight written to":
            weight.add_(1)
        elif why == "input an array":  # which the user may write to
            c.detach().numpy()
    z = F.conv2d(y.detach() if why == "no history" else y, w[..., :1, :1] if why == "quickly read" else w).sum()
    seen = weakref.ref(y._array)
    del y
    assert seen() is not None
    grad(z, w)


@pytest.mark.parametrize("wanted", [True, False])
def test_one_pass_makes_it_again_where_a_gradient_needs_it(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "REBUILT", 0)
    made = []
    affine = cpu.channel_affine
    monkeypatch.setattr(cpu, "channel_affine", lambda *args: made.append(1) or affine(*args))
    c, y, w = normalised()
    z = F.conv2d(y, w).sum()
    del y
    grad(z, w if wanted else c)
    assert len(made) == wanted


def test_a_deep_network_holds_one_large_array_a_layer() -> None:
    """What is taken from the system for one step and more of a deep network: half of what each batch norm kept."""
    layers = [nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1) for i in range(12)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.BatchNorm2d(16), nn.ReLU())))
    x = tg.rand(16, 1, 32, 32)
    size = 16 * 16 * 32 * 32 * 4
    assert size >= op.REBUILT
    cpu.memory.pool.trim()
    before = cpu.memory.pool._bytes
    model(x).sum().backward()
    assert 12 * size < cpu.memory.pool._bytes - before < 17 * size
