"""What the tape promises: accumulation, freeing, versions, hooks, modes, custom Functions, any-order
gradients.
"""

from __future__ import annotations

import gc
import itertools
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import Function, enable_grad, grad, inference_mode, is_grad_enabled, no_grad
from tinygrad_cnn.testing.strategies import arrays, shapes


def leaf(*values: float, dtype: Any = tg.float64) -> Any:
    return tg.tensor(list(values) if len(values) != 1 else values[0], dtype=dtype, requires_grad=True)


def vector(n: int = 3, seed: int = 0) -> Any:
    return tg.tensor(np.random.default_rng(seed).standard_normal(n), requires_grad=True)


def check(x: Any, *expected: float) -> None:
    np.testing.assert_allclose(x.numpy(), expected if len(expected) > 1 else expected[0], rtol=1e-12)


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


# ------------------------------------------------------------------------------------------------- versions

IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "add_": lambda t: t.add_(1),
    "mul_": lambda t: t.mul_(2),
    "zero_": lambda t: t.zero_(),
    "copy_": lambda t: t.copy_(tg.ones(3, dtype=t.dtype)),
    "setitem": lambda t: t.__setitem__(0, 5.0),
    "setitem mask": lambda t: t.__setitem__(t > 0, 5.0),
    "view": lambda t: t[1:].fill_(2.0),
    "detached": lambda t: t.detach().add_(1),
    "detached view": lambda t: t.detach()[0].add_(1),
    "relu_": lambda t: t.relu_(),
    "clamp_": lambda t: t.clamp_(0, 1),
    "data": lambda t: setattr(t, "data", tg.zeros(3, dtype=t.dtype)),
}

SAVES: dict[str, Callable[[Any], Any]] = {
    "mul": lambda t: t * t,
    "exp": lambda t: t.exp(),
    "matmul": lambda t: t @ t,
    "div": lambda t: 1.0 / t,
    "max": lambda t: t.maximum(t * 0.5),
    "sin": lambda t: t.sin(),
}


@pytest.mark.parametrize("write", IN_PLACE)
@pytest.mark.parametrize("name", ["mul", "matmul", "div", "sin"])
@pytest.mark.parametrize("recorded", [False, True])
def test_every_write_after_a_save_is_noticed(write: str, name: str, recorded: bool) -> None:
    x = leaf(1.0, -2.0, 3.0)
    y = x * 2
    z = SAVES[name](y).sum()
    if recorded:
        IN_PLACE[write](y)
    else:
        with no_grad():
            IN_PLACE[write](y)
    with pytest.raises(RuntimeError, match=r"was changed in place: it is at version \d+, saved at version 0"):
        z.backward()
    assert x.grad is None


def test_the_message_names_the_op_and_the_versions() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y.sin()
    y.add_(1).mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \(2,\).*backward of 'sin'.*version 2, saved at version 0"):
        z.sum().backward()


def test_a_write_to_a_saved_output_is_noticed() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.mul_(2)
    with pytest.raises(RuntimeError, match="'exp'"):
        y.sum().backward()


def test_a_gradient_that_is_added_to_counts_as_written() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    y = leaf(1.0, 1.0)
    z = y * x.grad
    (x * x).sum().backward()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()


def test_a_write_to_what_nobody_saved_is_fine() -> None:
    x = leaf(1.0, 2.0)
    y = x + 1
    z = y * 2.0  # saves only the number
    y.mul_(5)
    z.sum().backward()
    check(x.grad, 2, 2)


def test_an_array_operand_may_be_changed_after_its_use() -> None:
    x, weights = leaf(1.0, 2.0), np.array([3.0, 4.0])
    y = (x * weights).sum()
    weights *= 100
    y.backward()
    check(x.grad, 3, 4)


# --------------------------------------------------------------------------------------------------- memory


def _shared(*tensors: Any) -> bool:
    return any(np.shares_memory(a._array, b._array) for a, b in itertools.combinations(tensors, 2))


class Identity(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


class Twice(Function):
    """Returns the one gradient for both inputs."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        return x + y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g, g


PASSES_ON: dict[str, Callable[[Any, Any], Any]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a + a + b": lambda a, b: a + a + b,
    "views": lambda a, b: a.reshape(3, 1).squeeze(1) + b[...],
    "parts": lambda a, b: tg.cat([a[:1], b[1:]]) + tg.cat([b[:1], a[1:]]),
    "identity": lambda a, b: Identity.apply(a) + Identity.apply(Identity.apply(b)),
    "twice": lambda a, b: Twice.apply(a, b),
    "clone": lambda a, b: a.clone() + b.clone(),
    "cat": lambda a, b: tg.cat([a, b]),
    "stack": lambda a, b: tg.stack([a, b]),
    "where": lambda a, b: tg.where(a > b, a, b),
    "expand": lambda a, b: a.expand(2, 3) + b.unsqueeze(0),
    "float": lambda a, b: a.float().double() + b.double(),
    "unbind": lambda a, b: sum(a.unbind(0)) + b,
}


@pytest.mark.parametrize("name", PASSES_ON)
def test_gradients_share_memory_with_nothing(name: str) -> None:
    a, b = vector(), vector(seed=1)
    out = PASSES_ON[name](a, b)
    v = tg.tensor(np.arange(1.0, 1 + out.numel()).reshape(out.shape))
    before = v.numpy().copy()
    out.backward(v, retain_graph=True)
    assert not _shared(a.grad, b.grad, a, b, out, v)
    assert a.grad.numpy().flags.writeable
    first = a.grad.numpy().copy()
    a.grad.zero_()
    b.grad.mul_(-5)
    np.testing.assert_array_equal(v.numpy(), before)
    a.grad = b.grad = None
    out.backward(v, retain_graph=True)
    np.testing.assert_array_equal(a.grad.numpy(), first)
    got = grad(out, [a, b], v)
    assert not _shared(*got, a, b, out, v)


def test_the_given_gradient_is_not_taken_over() -> None:
    x = leaf(1.0, 2.0)
    for v in (tg.ones(2, dtype=tg.float64), tg.ones(2, dtype=tg.float64, requires_grad=True)):
        for fn in (lambda x: x, lambda x: x + 0, lambda x: x.reshape(2, 1).squeeze(1)):
            x.grad = None
            tg.autograd.backward([fn(x), fn(x)], [v, v])
            assert x.grad is not v
            assert not _shared(x.grad, v)
            assert not x.grad.requires_grad
            check(x.grad, 2, 2)
            check(v.detach(), 1, 1)


def test_a_gradient_of_another_dtype_leaves_no_history() -> None:
    x, v = leaf(1.0, 2.0), tg.ones(2, requires_grad=True)
    (x + 0).backward(v * 3)
    check(x.grad, 3, 3)
    assert not x.grad.requires_grad


def test_two_roots_with_one_gradient_do_not_add_into_it() -> None:
    x = leaf(1.0, 2.0)
    y = x * 1
    v = tg.ones(2, dtype=tg.float64, requires_grad=True)
    tg.autograd.backward([y, y, y], [v, v, v])
    check(v.detach(), 1, 1)
    check(x.grad, 3, 3)


def test_a_hook_that_keeps_the_gradient_keeps_its_values() -> None:
    kept: list[Any] = []
    for keep in (lambda g: g, lambda g: g.detach(), lambda g: g.numpy(), lambda g: g.data, lambda g: g[...].numpy()):
        x = vector()
        y = x * 1.0
        y.register_hook(lambda g, keep=keep: kept.append(keep(g)))
        (y + y + y).sum().backward()
        (x * 2).sum().backward()
        np.testing.assert_array_equal(np.asarray(kept[-1]), [3, 3, 3])
        check(x.grad, 5, 5, 5)


def test_a_hook_that_changes_what_it_kept_changes_no_gradient_of_another() -> None:
    kept: list[Any] = []
    x, y = vector(), vector(seed=1)
    z = x + y
    z.register_hook(kept.append)
    (z * 1.0).sum().backward()
    kept[0].mul_(100)
    check(x.grad, 1, 1, 1)
    check(y.grad, 1, 1, 1)


def test_a_function_may_return_a_buffer_that_it_uses_again() -> None:
    buffer = np.empty(3)

    class Buffered(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            np.multiply(g.numpy(), 2, out=buffer)
            return tg.from_numpy(buffer)

    x, y = vector(), vector(seed=1)
    (Buffered.apply(x) + Buffered.apply(y) * 3).sum().backward()
    check(x.grad, 2, 2, 2)
    check(y.grad, 6, 6, 6)
    Buffered.apply(x).sum().backward()
    check(x.grad, 4, 4, 4)


def test_a_function_may_return_one_tensor_again_and_again() -> None:
    kept = leaf(1.0, 2.0).detach() * 1  # its memory never goes out to NumPy here, where it would be left alone anyway

    class Constant(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return kept

    x = leaf(0.0, 0.0)
    y = x * 1
    (Constant.apply(y) + Constant.apply(y)).sum().backward()
    assert kept.tolist() == [1, 2]
    check(x.grad, 2, 4)


def test_a_weight_may_be_returned_for_a_gradient() -> None:
    w = leaf(1.0, 2.0)

    class Weighted(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return (x * w.detach()).sum()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return w

    x = leaf(0.0, 0.0)
    (Weighted.apply(x) + Weighted.apply(x)).backward()
    y = leaf(0.0, 0.0)
    y.register_hook(lambda g: w)
    (y * 2).sum().backward()
    check(x.grad, 2, 4)
    check(y.grad, 1, 2)
    check(w.detach(), 1, 2)
    assert not _shared(w, x.grad, y.grad)


def test_a_function_may_return_memory_of_a_saved_tensor() -> None:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x * x).sum() * 0.5

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return tg.from_numpy(x.numpy().reshape(3, 1).reshape(3)) if g.item() == 1 else x

    x = vector()
    before = x.detach().numpy().copy()
    Square.apply(x).backward()
    Square.apply(x).backward()
    assert not _shared(x, x.grad)
    np.testing.assert_array_equal(x.detach().numpy(), before)
    np.testing.assert_array_equal(x.grad.numpy(), 2 * before)


# ---------------------------------------------------------------------------------------------------- hooks


def test_a_hook_sees_the_whole_gradient_once_and_may_replace_it() -> None:
    seen = []
    x = leaf(2.0)
    y = x * 3
    y.register_hook(lambda g: seen.append(g.item()))
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.item()))
    (y * y + y).backward()
    assert seen == [13, 130]
    check(x.grad, 390)


def test_a_hook_on_a_leaf_runs_before_the_gradient_is_added() -> None:
    x = leaf(2.0)
    x.register_hook(lambda g: g * 2)
    (x * x).backward()
    (x * x).backward()
    check(x.grad, 16)
    check(grad(x * 1, x)[0], 2)


def test_a_hook_can_be_removed_twice_and_as_a_context() -> None:
    x = leaf(1.0)
    first = x.register_hook(lambda g: g * 2)
    first.remove()
    second = x.register_hook(lambda g: g * 3)
    first.remove()  # does not remove the second one
    (x * 1).backward()
    check(x.grad, 3)
    second.remove()
    with x.register_hook(lambda g: g * 100):
        pass
    (x * 1).backward()
    check(x.grad, 4)


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (1.0, TypeError, "must return a Tensor or None, got float"),
        (tg.ones(3, dtype=tg.float64), RuntimeError, r"of \(3,\) in the place of one of \(2,\)"),
        (tg.ones(2), RuntimeError, "of float32 in the place of one of float64"),
    ],
)
def test_what_a_hook_returns_is_checked(result: Any, error: Any, words: str) -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: result)
    with pytest.raises(error, match=words):
        y.sum().backward()
    assert x.grad is None


def test_hooks_need_a_gradient_to_come() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        tg.ones(2).register_hook(lambda g: g)
    with pytest.raises(RuntimeError, match="requires grad"):
        tg.ones(2).retain_grad()


def test_retain_grad_fills_the_gradient_of_a_computed_tensor() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    assert y.retains_grad
    (y * y).backward()
    check(y.grad, 12)
    check(x.grad, 36)
    x.retain_grad()  # a leaf has one anyway


def test_retain_grad_sees_what_hooks_made_of_it() -> None:
    for order in (0, 1):
        x = leaf(2.0)
        y = x * 3
        steps = [y.retain_grad, lambda y=y: y.register_hook(lambda g: g * 10)]
        for step in steps if order else reversed(steps):
            step()
        y.backward()
        check(y.grad, 10)
        check(x.grad, 30)


def test_retain_grad_follows_its_tensor_through_writes() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    y.mul_(5)
    (y * 2).backward()
    check(y.grad, 2)
    check(x.grad, 30)


def test_retain_grad_follows_a_view_of_what_was_written_to() -> None:
    x = leaf(1.0, 2.0)
    y = x.reshape(2, 1)
    y.retain_grad()
    with no_grad():
        x.mul_(2)
    (y * 3).sum().backward()
    check(y.grad, [3], [3])


def test_retaining_a_gradient_does_not_keep_its_tensor_alive() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    z = y * y
    gone = weakref.ref(y)
    del y
    assert gone() is None
    z.backward()
    check(x.grad, 36)


# ----------------------------------------------------------------------------------------------------- grad


def test_grad_leaves_dot_grad_alone() -> None:
    x = leaf(2.0)
    y = x * x
    (dy, dx) = grad(y * 3, [y, x])
    check(dy, 3)
    check(dx, 12)
    assert x.grad is None
    assert y.grad is None


def test_grad_of_unused_inputs() -> None:
    x, y = leaf(2.0), leaf(3.0)
    with pytest.raises(RuntimeError, match="do not depend on input 1; pass allow_unused=True"):
        grad(x * 2, [x, y])
    dx, dy = grad(x * 2, [x, y], allow_unused=True)
    assert dy is None
    check(dx, 2)


def test_grad_of_one_input_named_twice() -> None:
    x = leaf(2.0)
    first, second = grad(x * x, [x, x])
    check(first, 4)
    check(second, 4)


def test_grad_outputs_weigh_the_outputs() -> None:
    x = leaf(1.0, 2.0)
    y, z = x * 2, (x * x).sum()
    (dx,) = grad([y, z], x, [tg.tensor([1.0, 10.0], dtype=tg.float64), None])
    check(dx, 4, 24)


@pytest.mark.parametrize(
    ("error", "match", "value"),
    [
        (TypeError, "got float", 1.0),
        (TypeError, "got ndarray", np.zeros((2, 3))),
        (RuntimeError, r"shape \(3, 2\) does not fit a tensor of shape \(2, 3\)", tg.zeros(3, 2)),
        (RuntimeError, r"float32 does not fit a tensor of float64", tg.zeros(2, 3)),
        (RuntimeError, "int64", tg.zeros(2, 3, dtype=tg.int64)),
    ],
)
def test_only_a_gradient_of_the_tensors_kind_can_be_assigned(error: type[Exception], match: str, value: Any) -> None:
    x = tg.zeros(2, 3, dtype=tg.float64, requires_grad=True)
    x.grad = kept = tg.ones(2, 3, dtype=tg.float64)
    with pytest.raises(error, match=match):
        x.grad = value
    assert x.grad is kept
    x.grad = None
    assert x.grad is None


def test_wrong_calls_of_backward_and_grad() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    with pytest.raises(RuntimeError, match=r"shape \(2,\): only a scalar's is taken to be 1"):
        y.backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), the tensor \(2,\)"):
        y.backward(tg.ones(3, dtype=tg.float64))
    with pytest.raises(TypeError, match="expected a Tensor or a sequence of Tensors, got float"):
        y.backward(1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a gradient must be a Tensor, got float"):
        tg.autograd.backward([y], [1.0])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected a Tensor, got str"):
        grad(y.sum(), "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 gradients for 2 tensors"):
        tg.autograd.backward([y, y], [tg.ones(2)])
    with pytest.raises(RuntimeError, match="does not require grad"):
        tg.ones(1).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad(y.sum(), tg.ones(2))
    assert x.grad is None


def test_integers_and_booleans_have_no_gradient() -> None:
    x = leaf(1.5, 2.5)
    for cut in (x.long(), x.int(), x.bool(), x > 1, x.argmax(), x.to(tg.uint8)):
        assert not cut.requires_grad
    (x * x.long().double()).sum().backward()  # the cast is a constant
    check(x.grad, 1, 2)
    with pytest.raises(RuntimeError, match="only floating-point tensors can require grad"):
        tg.ones(2, dtype=tg.int64, requires_grad=True)


# ----------------------------------------------------------------------------------- gradients of gradients

CLOSED_FORMS: dict[str, tuple[Callable[[Any], Any], list[Callable[[float], float]]]] = {
    "x^5": (lambda x: x**5, [lambda x: 5 * x**4, lambda x: 20 * x**3, lambda x: 60 * x**2]),
    "exp": (lambda x: x.exp(), [math.exp] * 3),
    "log": (lambda x: x.log(), [lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3]),
    "sin": (lambda x: x.sin(), [math.cos, lambda x: -math.sin(x), lambda x: -math.cos(x)]),
    "1/x": (lambda x: 1 / x, [lambda x: -1 / x**2, lambda x: 2 / x**3, lambda x: -6 / x**4]),
    "sqrt": (
        lambda x: x.sqrt(),
        [lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5, lambda x: 0.375 * x**-2.5],
    ),
    "tanh": (
        lambda x: x.tanh(),
        [
            lambda x: 1 - math.tanh(x) ** 2,
            lambda x: -2 * math.tanh(x) * (1 - math.tanh(x) ** 2),
            lambda x: (6 * math.tanh(x) ** 2 - 2) * (1 - math.tanh(x) ** 2),
        ],
    ),
    "x * exp(x)": (
        lambda x: x * x.exp(),
        [lambda x: (x + 1) * math.exp(x), lambda x: (x + 2) * math.exp(x), lambda x: (x + 3) * math.exp(x)],
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("at", [0.5, 1.25])
def test_derivatives_to_the_third_order(name: str, at: float) -> None:
    fn, expected = CLOSED_FORMS[name]
    x = leaf(at)
    y = fn(x)
    for derivative in expected:
        (y,) = grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(derivative(at), rel=1e-12)


def test_dot_grad_can_be_differentiated() -> None:
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    assert x.grad.requires_grad
    (x.grad * 1.0).backward()
    assert x.grad.item() == pytest.approx(12 + 12)
    x.grad = None  # ends the cycle x -> grad -> graph -> x


def test_a_gradient_penalty_trains_as_its_formula_says() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (dx,) = grad((w * x * x).sum(), x, create_graph=True)  # 2 w x
    (dx * dx).sum().backward()
    check(w.grad, 8 * 3 * 1, 8 * 4 * 4)
    check(x.grad, 8 * 9 * 1, 8 * 16 * 2)


def test_without_create_graph_gradients_have_no_history() -> None:
    x = leaf(2.0)
    (dx,) = grad(x * x, x)
    assert not dx.requires_grad


def test_a_hessian_vector_product() -> None:
    x = vector(4)
    v = tg.tensor([1.0, -1.0, 2.0, 0.5], dtype=tg.float64)
    (g,) = grad((x**4).sum() + x[0] * x[3], x, create_graph=True)
    (hv,) = grad(g, x, v)
    expected = 12 * x.detach().numpy() ** 2 * v.numpy()
    expected[[0, 3]] += v.numpy()[[3, 0]]
    np.testing.assert_allclose(hv.numpy(), expected)


# ---------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(("mode", "records"), [(no_grad, False), (enable_grad, True), (inference_mode, False)])
def test_a_mode_as_context_and_decorator(mode: Any, records: bool) -> None:
    x = leaf(1.0)

    @mode()
    def f() -> bool:
        return bool((x * 2).requires_grad)

    @mode
    def g() -> bool:
        """Doc."""
        return is_grad_enabled()

    for outer in (True, False):
        with tg.set_grad_enabled(outer):
            assert f() == g() == records
            with mode():
                assert is_grad_enabled() == records
            assert is_grad_enabled() == outer
    assert is_grad_enabled()
    assert (g.__name__, g.__doc__) == ("g", "Doc.")


def test_modes_nest_and_survive_errors() -> None:
    outer = no_grad()
    with outer:
        with enable_grad():
            with outer:
                assert not is_grad_enabled()
            assert is_grad_enabled()
        assert not is_grad_enabled()

    @enable_grad()
    def fails() -> None:
        raise ZeroDivisionError

    with outer:
        with pytest.raises(ZeroDivisionError):
            fails()
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_set_grad_enabled_is_a_statement_a_context_and_a_decorator() -> None:
    tg.set_grad_enabled(False)
    assert not is_grad_enabled()
    tg.set_grad_enabled(True)
    assert is_grad_enabled()

    @tg.set_grad_enabled(False)
    def f() -> bool:
        return is_grad_enabled()

    assert is_grad_enabled()
    assert not f()
    with tg.set_grad_enabled(False):
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_modes_belong_to_their_thread() -> None:
    """Two threads, one with gradients off, are in one decorated function at once; the first to enter leaves first."""
    inside = {name: threading.Event() for name in "ab"}
    leave = {name: threading.Event() for name in "ab"}
    after: dict[str, bool] = {}

    @enable_grad()
    def wait(name: str) -> None:
        inside[name].set()
        leave[name].wait(10)

    def work(name: str, grad_enabled: bool) -> None:
        tg.set_grad_enabled(grad_enabled)
        wait(name)
        after[name] = is_grad_enabled()

    threads = {name: threading.Thread(target=work, args=(name, name == "a")) for name in "ab"}
    for name in "ab":
        threads[name].start()
        inside[name].wait(10)
    for name in "ab":
        leave[name].set()
        threads[name].join()
    assert after == {"a": True, "b": False}
    assert is_grad_enabled()


def test_nothing_is_recorded_under_no_grad() -> None:
    x = leaf(1.0, 2.0)
    with no_grad():
        y = x * 2
        x += 1
    assert not y.requires_grad
    check(x.detach(), 2, 3)
    (x * y).sum().backward()
    check(x.grad, 2, 4)


# ----------------------------------------------------------------------------------------- custom Functions


class Cube(Function):
    """Saves its input."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * x * g


class Exp(Function):
    """Saves its output."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (out,) = ctx.saved_tensors
        return g * out


class SinCos(Function):
    """Two outputs, both saved."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        sin, cos = x.sin(), x.cos()
        ctx.save_for_backward(sin, cos)
        return sin, cos

    @staticmethod
    def backward(ctx: Any, g_sin: Any, g_cos: Any) -> Any:
        sin, cos = ctx.saved_tensors
        return g_sin * cos - g_cos * sin


@pytest.mark.parametrize(
    ("fn", "plain"),
    [
        (Cube.apply, lambda x: x**3),
        (Exp.apply, lambda x: x.exp()),
        (lambda x: SinCos.apply(x)[0], lambda x: x.sin()),
        (lambda x: SinCos.apply(x)[1], lambda x: x.cos()),
        (lambda x: SinCos.apply(x)[0] * SinCos.apply(x)[1], lambda x: x.sin() * x.cos()),
        (lambda x: (lambda s, c: s * c + s)(*SinCos.apply(x)), lambda x: x.sin() * x.cos() + x.sin()),
        (lambda x: Exp.apply(Cube.apply(x)) * x, lambda x: (x**3).exp() * x),
    ],
)
def test_a_function_differentiates_to_any_order_as_its_formula_does(fn: Any, plain: Any) -> None:
    x = vector() * 0.5
    x = x.detach().requires_grad_()
    a, b = fn(x), plain(x)
    for _ in range(3):
        (a,) = grad(a.sum(), x, create_graph=True)
        (b,) = grad(b.sum(), x, create_graph=True)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9)


def test_saved_inputs_and_outputs_are_guarded() -> None:
    for fn in (Cube.apply, Exp.apply):
        x = leaf(1.0, 2.0)
        y = x * 1
        z = fn(y)
        (z if fn == Exp.apply else y).mul_(2)
        with pytest.raises(RuntimeError, match="changed in place"):
            z.sum().backward()


def test_saved_tensors_are_freed_with_the_graph() -> None:
    x = leaf(1.0)
    y = Cube.apply(x)
    y.backward()
    with pytest.raises(RuntimeError, match="'Cube' were freed; pass retain_graph=True"):
        y.backward()


def test_missing_gradients_arrive_as_zeros_or_none() -> None:
    got: list[Any] = []

    class Two(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, materialize: bool) -> Any:
            ctx.set_materialize_grads(materialize)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            got.append((g, h))
            return h * 2, None

    x = leaf(1.0, 2.0)
    Two.apply(x, True)[1].sum().backward()
    check(got[0][0], 0, 0)
    Two.apply(x, False)[1].sum().backward()
    assert got[1][0] is None
    check(x.grad, 4, 4)


def test_outputs_without_gradient() -> None:
    class Sorted(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            order = tg.tensor(np.argsort(x.detach().numpy()))
            bound = x.detach() * 0
            ctx.save_for_backward(order)
            ctx.mark_non_differentiable(bound)
            return x[order], order, bound

        @staticmethod
        def backward(ctx: Any, g: Any, *_: Any) -> Any:
            (order,) = ctx.saved_tensors
            out = np.empty_like(g.numpy())
            out[order.numpy()] = g.numpy()
            return tg.tensor(out)

    x = leaf(3.0, 1.0, 2.0)
    values, order, bound = Sorted.apply(x)
    assert [t.requires_grad for t in (values, order, bound)] == [True, False, False]
    values.backward(tg.tensor([1.0, 2.0, 3.0], dtype=tg.float64))
    check(x.grad, 3, 1, 2)


def test_needs_input_grad_and_none_gradients() -> None:
    needs = []

    class Mul(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any, scale: float) -> Any:
            needs.append(ctx.needs_input_grad)
            ctx.save_for_backward(x, y)
            ctx.scale = scale
            return x * y * scale

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            _, y = ctx.saved_tensors
            return g * y * ctx.scale, None, None

    x, y = leaf(2.0), leaf(3.0)
    Mul.apply(x, y, 2.0).backward()
    Mul.apply(x, y.detach(), 2.0).backward()
    assert needs == [(True, True, False), (True, False, False)]
    check(x.grad, 12)
    assert y.grad is None
    with no_grad():
        assert not Mul.apply(x, y, 1.0).requires_grad


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (lambda g: (g, g), RuntimeError, "Bad.backward returned 2 gradients for the 1 arguments"),
        (lambda g: (), RuntimeError, "returned 0 gradients"),
        (lambda g: 1.0, TypeError, "Bad.backward returned float for argument 0, not a Tensor"),
        (lambda g: g.sum(), RuntimeError, r"gradient of shape \(\) for input 0 of shape \(2,\)"),
        (lambda g: g.reshape(2, 1), RuntimeError, r"shape \(2, 1\) for input 0"),
    ],
)
def test_what_a_backward_returns_is_checked(returned: Any, error: Any, words: str) -> None:
    class Bad(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return returned(g)

    x = leaf(1.0, 2.0)
    with pytest.raises(error, match=words):
        Bad.apply(x).sum().backward()
    assert x.grad is None


def test_extra_nones_are_ignored_and_gradients_are_cast() -> None:
    class Loose(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g.float(), None, None

    x = leaf(1.0, 2.0)
    Loose.apply(x).sum().backward()
    assert x.grad.dtype == tg.float64


def test_forward_must_return_tensors() -> None:
    class Bad(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.sum().item()

    with pytest.raises(TypeError, match=r"Bad\.forward must return Tensors, got float"):
        Bad.apply(leaf(1.0))
    with pytest.raises(NotImplementedError, match="define a static forward"):
        Function.apply(leaf(1.0))


def test_a_failed_walk_leaves_nothing_behind_in_a_function() -> None:
    x = leaf(1.0)
    y, z = SinCos.apply(x)
    handle = y.register_hook(lambda g: 1 / 0)
    total = z * 1 + y
    with pytest.raises(ZeroDivisionError):
        total.backward(retain_graph=True)
    handle.remove()
    x.grad = None
    total.backward()
    assert x.grad.item() == pytest.approx(math.cos(1) - math.sin(1))


def test_an_input_that_is_returned_cannot_be_written_to() -> None:
    x = leaf(1.0, 2.0)
    for base in (x, x * 2):
        y = Identity.apply(base)
        with pytest.raises(RuntimeError, match="cannot be changed in place"):
            y.add_(1)
    base = x * 2
    y = Identity.apply(base)
    base.mul_(3)
    with pytest.raises(RuntimeError, match="Identity returned its input"):
        y.sum()


# -------------------------------------------------------------------------------------------------- anomaly


def test_anomaly_names_the_forward_call() -> None:
    x = leaf(0.0, 1.0)
    with tg.autograd.detect_anomaly():
        y = (x * 0).sqrt()  # written here
        with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="'sqrt' returned NaN") as error:
            (y * 0).sum().backward()
    assert "written here" in "".join(error.value.__notes__)
    assert x.grad is None


# --------------------------------------------------------------------- random programs against a plain tape


class Scalar:
    """The slow, obvious reverse mode: a number, its parents and the slopes towards them."""

    def __init__(self, value: float, parents: tuple[tuple[Scalar, float], ...] = ()) -> None:
        self.value = value
        self.parents = parents
        self.grad = 0.0

    def backward(self) -> None:
        order: list[Scalar] = []
        seen: set[int] = set()

        def visit(x: Scalar) -> None:
            if id(x) not in seen:
                seen.add(id(x))
                for parent, _ in x.parents:
                    visit(parent)
                order.append(x)

        visit(self)
        self.grad = 1.0
        for x in reversed(order):
            for parent, slope in x.parents:
                parent.grad += slope * x.grad


def _add(a: Scalar, b: Scalar) -> Scalar:
    return Scalar(a.value + b.value, ((a, 1.0), (b, 1.0)))


def _mul(a: Scalar, b: Scalar) -> Scalar:
    return Scalar(a.value * b.value, ((a, b.value), (b, a.value)))


def _tanh(a: Scalar) -> Scalar:
    t = math.tanh(a.value)
    return Scalar(t, ((a, 1 - t * t),))


N = 3
OPS: list[str] = ["add", "sub", "mul", "tanh", "sum", "flip", "slice", "scale", "detach", "reuse", "stack", "custom"]


def _run(program: list[tuple[str, int, int]], xs: list[Any], ys: list[list[Scalar]]) -> tuple[Any, Scalar]:
    """Run a program on vectors of N: on tensors xs and, element by element, on Scalars ys."""
    for name, i, j in program:
        a, b = xs[i % len(xs)], xs[j % len(xs)]
        c, d = ys[i % len(ys)], ys[j % len(ys)]
        if name == "add":
            new, old = a + b, [_add(p, q) for p, q in zip(c, d, strict=True)]
        elif name == "sub":
            new, old = a - b, [_add(p, _mul(q, Scalar(-1.0))) for p, q in zip(c, d, strict=True)]
        elif name == "mul":
            new, old = a * b * 0.5, [_mul(_mul(p, q), Scalar(0.5)) for p, q in zip(c, d, strict=True)]
        elif name == "tanh":
            new, old = a.tanh(), [_tanh(p) for p in c]
        elif name == "sum":
            total = Scalar(0.0)
            for p in c:
                total = _add(total, p)
            new, old = a.sum() + b * 0.0, [_add(total, _mul(q, Scalar(0.0))) for q in d]
        elif name == "flip":
            new, old = a.flip(0), c[::-1]
        elif name == "slice":
            new, old = tg.cat([a[:1], b[1:]]), [c[0], *d[1:]]
        elif name == "scale":
            new, old = a[:1] * b, [_mul(c[0], q) for q in d]
        elif name == "detach":
            new, old = a.detach() + b, [_add(Scalar(p.value), q) for p, q in zip(c, d, strict=True)]
        elif name == "reuse":
            new, old = a + a + a, [_add(_add(p, p), p) for p in c]
        elif name == "stack":
            new, old = (
                tg.stack([a, b, a])[1:].mean(0),
                [_mul(_add(p, q), Scalar(0.5)) for p, q in zip(d, c, strict=True)],
            )
        else:
            new, old = Identity.apply(a) + Twice.apply(a, b), [_add(p, _add(p, q)) for p, q in zip(c, d, strict=True)]
        xs.append(new)
        ys.append(old)
    last = Scalar(0.0)
    for p in ys[-1]:
        last = _add(last, p)
    return xs[-1].sum(), last


programs = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


@given(programs, arrays((2, N), layout="C"), st.integers(0, 2))
def test_random_programs_match_a_plain_tape(program: Any, values: np.ndarray, backwards: int) -> None:
    leaves = [tg.tensor(row, requires_grad=True) for row in values]
    scalars = [[Scalar(v) for v in row] for row in values]
    out, last = _run(program, list(leaves), list(scalars))
    assert out.item() == pytest.approx(last.value, rel=1e-9, abs=1e-9)
    last.backward()
    if not out.requires_grad:
        return
    expected = np.array([[s.grad for s in row] for row in scalars])
    got = grad(out, leaves, retain_graph=True, allow_unused=True)
    for _ in range(backwards):
        out.backward(retain_graph=True)
    out.backward()
    for x, g, e in zip(leaves, got, expected, strict=True):
        if g is None:
            assert x.grad is None
            assert not e.any()
            continue
        np.testing.assert_allclose(g.numpy(), e, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(x.grad.numpy(), (backwards + 1) * e, rtol=1e-9, atol=1e-9)


@given(programs, arrays((2, N), layout="C"))
def test_random_programs_have_the_same_gradient_with_a_graph_of_it(program: Any, values: np.ndarray) -> None:
    leaves = [tg.tensor(row, requires_grad=True) for row in values]
    scalars = [[Scalar(v) for v in row] for row in values]
    out, _ = _run(program, list(leaves), list(scalars))
    if not out.requires_grad:
        return
    plain = grad(out, leaves, retain_graph=True, allow_unused=True)
    graph = grad(out, leaves, create_graph=True, allow_unused=True)
    for a, b in zip(plain, graph, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.numpy(), b.detach().numpy())


def test_once_differentiable_gives_the_first_gradient_and_refuses_the_second() -> None:
    """A backward in NumPy is no constant for create_graph: asking for its gradient raises."""

    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @tg.autograd.once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return tg.from_numpy(2 * x.numpy() * g.numpy())

    x = tg.tensor([1.0, 3.0], requires_grad=True)
    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 6]
    (dx,) = tg.autograd.grad(Square.apply(x).sum(), x, create_graph=True)
    assert dx.tolist() == [2, 6]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
