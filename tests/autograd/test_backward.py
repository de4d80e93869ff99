"""Backward: gradients add up, graphs are freed, and anomaly mode names the call."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import Function, grad
from tinygrad_cnn.testing.strategies import arrays, shapes

from .tools import check, leaf

# --------------------------------------------------------------------------------------------- accumulation


def test_gradients_add_up_over_uses_and_over_calls() -> None:
    x = leaf(3.0)
    (x * x + x).backward()
    check(x.grad, 7)
    (x * 2).backward()
    check(x.grad, 9)


def test_a_diamond_runs_each_node_once() -> None:
    runs = []

    class Count(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            runs.append(g.item())
            return g * 2

    x = leaf(1.0)
    y = Count.apply(x)
    for _ in range(20):  # 2**20 paths
        y = y + y
    y.backward()
    assert runs == [2.0**20]
    check(x.grad, 2.0**21)


def test_a_tensor_used_by_a_short_and_a_long_path_waits_for_both() -> None:
    x = leaf(2.0)
    y = x * x
    z = y.exp().log().exp().log() + y
    z.backward()
    check(x.grad, 8)


def test_several_roots_at_once_one_of_them_below_another() -> None:
    x = leaf(2.0)
    y = x * x
    z = y * 3
    tg.autograd.backward([z, y, x, y])
    check(x.grad, 12 + 4 + 1 + 4)


def test_a_root_may_be_a_leaf() -> None:
    x = leaf(1.0, 2.0)
    x.backward(tg.tensor([3.0, 4.0], dtype=tg.float64))
    check(x.grad, 3, 4)


def test_unused_inputs_keep_no_gradient() -> None:
    x, y = leaf(1.0), leaf(2.0)
    (x * 2).backward()
    assert y.grad is None


def test_backward_for_chosen_inputs_leaves_the_others_alone() -> None:
    x, y = leaf(2.0), leaf(3.0)
    z = x * y
    (z * z).backward(inputs=[x, x])
    check(x.grad, 2 * 6 * 3)
    assert y.grad is None
    w = x * y
    (w * 2).backward(inputs=w)
    check(w.grad, 2)


def test_each_input_gets_the_shape_and_the_dtype_of_its_own() -> None:
    x, y = tg.ones(2, 1, requires_grad=True), tg.ones(3, dtype=tg.float64, requires_grad=True)
    (x * y).sum().backward()
    assert (x.grad.shape, x.grad.dtype) == ((2, 1), tg.float32)
    assert (y.grad.shape, y.grad.dtype) == ((3,), tg.float64)


@given(st.data())
def test_the_gradient_lies_in_memory_as_its_leaf_does(data: st.DataObject) -> None:
    x = tg.from_numpy(data.draw(arrays(shapes(1, 4, 1, 3)))).requires_grad_()
    fn = data.draw(st.sampled_from([lambda x: x, lambda x: x * 2, lambda x: x.T.exp(), lambda x: x.flip(0)]))
    weight = tg.from_numpy(np.arange(1.0, x.numel() + 1))
    (fn(x).reshape(-1) * weight).sum().backward()
    like = np.empty_like(x.detach().numpy())  # gaps and reversals of the leaf are not copied
    for n, a, b in zip(x.shape, x.grad.numpy().strides, like.strides, strict=True):
        assert n == 1 or a == b


# ------------------------------------------------------------------------------------------- freeing graphs


def test_a_second_backward_says_what_to_do() -> None:
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"backward of 'mul' needs were freed .* pass retain_graph=True"):
        y.backward()
    check(x.grad, 4)


def test_a_graph_that_saved_nothing_can_be_walked_again() -> None:
    x = leaf(2.0)
    y = x + 1
    y.backward()
    y.backward()
    check(x.grad, 2)


def test_retain_graph_and_create_graph_keep_it() -> None:
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward(create_graph=True)
    y.backward()
    check(x.grad.detach(), 12)
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()


def test_grad_frees_only_what_it_walked() -> None:
    x, y = leaf(2.0), leaf(3.0)
    a, b = x * x, y * y
    z = a * b
    (dx,) = grad(z, x)
    check(dx, 36)
    check(grad(b, y)[0], 6)  # b's node was not run
    with pytest.raises(RuntimeError, match="freed"):
        grad(a, x)


def test_only_the_needed_part_runs() -> None:
    runs = []

    class Spy(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, name: str) -> Any:
            ctx.name = name
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            runs.append(ctx.name)
            return g, None

    x, y = leaf(2.0), leaf(3.0)
    below = Spy.apply(x, "below")
    z = Spy.apply(below * 2, "on the way") * Spy.apply(y, "beside")
    grad(z, below)
    assert runs == ["on the way"]


def test_what_was_saved_is_freed_while_backward_runs() -> None:
    x = tg.ones(1000, requires_grad=True)
    y = x * 2
    kept = weakref.ref(y)
    z = (y * y).sum()
    version = y._version
    del y
    assert kept() is None  # only its array is saved
    z.backward()
    gc.disable()
    try:
        assert version.n == 0
        assert z.grad_fn.edges[0].saved is None
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------- anomaly


def test_anomaly_names_the_forward_call() -> None:
    x = leaf(0.0, 1.0)
    with tg.autograd.detect_anomaly():
        y = (x * 0).sqrt()  # written here
        with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="'sqrt' returned NaN") as error:
            (y * 0).sum().backward()
    assert "written here" in "".join(error.value.__notes__)
    assert x.grad is None
