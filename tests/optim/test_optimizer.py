"""What every optimizer does: refusals, groups, state_dicts, and parameters of any layout, dtype and size."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import optim

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "SGD momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda params: optim.Adam(params, lr=0.1),
    "AdamW amsgrad": lambda params: optim.AdamW(params, lr=0.1, amsgrad=True),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def parameter(*shape: int, seed: int = 0, dtype: Any = np.float32) -> tg.Tensor:
    array = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return tg.from_numpy(array).requires_grad_()


def give_gradients(params: list[tg.Tensor], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = tg.from_numpy(rng.normal(size=p.shape).astype(p.dtype))


def values(params: list[tg.Tensor]) -> list[Any]:
    return [p.detach().numpy().copy() for p in params]


def assert_same(a: list[Any], b: list[Any]) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


# ------------------------------------------------------------------------------------------------------------
# What cannot be optimized


@every_optimizer
@pytest.mark.parametrize(
    ("error", "match", "params"),
    [
        (ValueError, "empty", lambda: []),
        (ValueError, "empty", lambda: iter(())),
        (TypeError, "put it into a list", lambda: parameter(2)),
        (TypeError, "set", lambda: {parameter(2)}),
        (TypeError, "ndarray", lambda: [np.zeros(3)]),
        (TypeError, "int", lambda: [parameter(2), 3]),
        (TypeError, r"parameters\(\)", lambda: [("weight", parameter(2))]),
        (TypeError, "'params'", lambda: [{"weights": [parameter(2)]}]),
        (TypeError, "'params'", lambda: [{"params": [parameter(2)]}, parameter(2)]),
        (TypeError, "order", lambda: [{"params": {parameter(2)}}]),
        (ValueError, "not a leaf", lambda: [parameter(2) * 2]),
        (ValueError, "twice", lambda: [parameter(2)] * 2),
        (ValueError, "twice", lambda: [{"params": p} for p in [parameter(2)] * 2]),
        (ValueError, "lr", lambda: [{"params": parameter(2), "lr": -1.0}]),
    ],
)
def test_wrong_parameters_are_refused(
    make: Callable[[Any], optim.Optimizer], error: type[Exception], match: str, params: Callable[[], Any]
) -> None:
    with pytest.raises(error, match=match):
        make(params())


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("lr", lambda p: optim.SGD(p, lr=-0.1)),
        ("lr", lambda p: optim.SGD(p, lr=float("nan"))),
        ("momentum", lambda p: optim.SGD(p, momentum=-0.1)),
        ("weight_decay", lambda p: optim.SGD(p, weight_decay=-0.1)),
        ("nesterov", lambda p: optim.SGD(p, nesterov=True)),
        ("nesterov", lambda p: optim.SGD(p, nesterov=True, momentum=0.9, dampening=0.1)),
        ("lr", lambda p: optim.Adam(p, lr=-0.1)),
        ("eps", lambda p: optim.Adam(p, eps=-1e-8)),
        (r"betas\[0\]", lambda p: optim.Adam(p, betas=(1.0, 0.9))),
        (r"betas\[1\]", lambda p: optim.Adam(p, betas=(0.9, -0.1))),
        ("two numbers", lambda p: optim.Adam(p, betas=(0.9, 0.9, 0.9))),
        ("weight_decay", lambda p: optim.AdamW(p, weight_decay=-1.0)),
    ],
)
def test_values_out_of_range_are_refused(match: str, make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=match):
        make([parameter(2)])


@pytest.mark.parametrize("value", ["a", None, tg.tensor(0.1), [0.1]], ids=repr)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(optim.SGD, name) for name in ("lr", "momentum", "dampening", "weight_decay")]
    + [(kind, name) for kind in (optim.Adam, optim.AdamW) for name in ("lr", "eps", "weight_decay")],
)
def test_settings_are_numbers(kind: Any, name: str, value: Any) -> None:
    """Before the first step, by name; also in a group of its own."""
    with pytest.raises(TypeError, match=f"{name} must be a number, got {type(value).__name__}"):
        kind([parameter(2)], **{name: value})
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        kind([{"params": parameter(2), name: value}])


@pytest.mark.parametrize("betas", [0.9, None, ("a", 0.9), (0.9, None)], ids=repr)
def test_betas_are_two_numbers(betas: Any) -> None:
    with pytest.raises(TypeError, match=r"betas are two numbers|betas\[.\] must be a number"):
        optim.Adam([parameter(2)], betas=betas)


def test_a_refused_group_is_not_added() -> None:
    optimizer = optim.SGD([parameter(2)])
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": parameter(2), "lr": -1})
    assert len(optimizer.param_groups) == 1


@every_optimizer
def test_a_step_that_cannot_be_made_changes_nothing(make: Callable[[Any], optim.Optimizer]) -> None:
    params = [parameter(4), parameter(2, 3)]
    optimizer = make([{"params": p} for p in params])
    give_gradients(params, 1)
    before = values(params)
    params[1]._array.setflags(write=False)
    with pytest.raises(RuntimeError, match="read-only"):
        optimizer.step()
    assert_same(values(params), before)
    assert not optimizer.state
    assert [p._version.n for p in params] == [0, 0]


@every_optimizer
def test_a_parameter_may_be_cast_between_steps(make: Callable[[Any], optim.Optimizer]) -> None:
    """Its table is made anew: a float32 kernel on float64 memory changed half of the elements, to nonsense."""
    cast, same = (tg.nn.Linear(3, 2) for _ in range(2))
    for p, q in zip(cast.parameters(), same.parameters(), strict=True):
        q.detach().copy_(p.detach())
    optimizers = [make(cast.parameters()), make(same.parameters())]
    for step in range(3):
        give_gradients(list(cast.parameters()), step)
        for p, q in zip(cast.parameters(), same.parameters(), strict=True):
            assert p.grad is not None
            q.grad = p.grad.to(q.dtype)
        for optimizer in optimizers:
            optimizer.step()
        if step == 0:
            cast.double()
    for p, q in zip(cast.parameters(), same.parameters(), strict=True):
        assert p.dtype == tg.float64
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_an_expanded_parameter_is_refused() -> None:
    p = tg.zeros(1).expand(3).detach().requires_grad_()
    optimizer = optim.SGD([p])
    p.grad = tg.ones(3)
    with pytest.raises(RuntimeError, match="share memory"):
        optimizer.step()


# ------------------------------------------------------------------------------------------------------------
# The step


@every_optimizer
def test_a_parameter_without_gradient_is_left_alone(make: Callable[[Any], optim.Optimizer]) -> None:
    params = [parameter(3, seed=i) for i in range(3)]
    optimizer = make(params)
    give_gradients(params, 1)
    params[1].grad = None
    before = values(params)
    optimizer.step()
    after = values(params)
    assert (after[0] != before[0]).all()
    np.testing.assert_array_equal(after[1], before[1])
    assert params[1] not in optimizer.state
    assert [p._version.n for p in params] == [1, 0, 1]


@every_optimizer
def test_a_parameter_that_skips_steps_is_as_one_alone(make: Callable[[Any], optim.Optimizer]) -> None:
    """Its own step count and momentum go on where they were, whatever the others did in between."""
    together, alone = [parameter(5, seed=1), parameter(7, seed=2)], parameter(7, seed=2)
    optimizer, single = make(together), make([alone])
    for step in range(6):
        give_gradients(together, step)
        alone.grad = together[1].grad
        if step in (0, 3):
            together[1].grad = alone.grad = None
        optimizer.step()
        single.step()
    assert_same(values([together[1]]), values([alone]))


@every_optimizer
def test_several_groups_and_dtypes_are_as_several_optimizers(make: Callable[[Any], optim.Optimizer]) -> None:
    def params() -> list[tg.Tensor]:
        dtypes = (np.float32, np.float64, np.float32, np.float64)
        return [parameter(4, 3, seed=i, dtype=dtype) for i, dtype in enumerate(dtypes)]

    ours, others = params(), params()
    optimizer = make([{"params": ours[:3]}, {"params": ours[3:], "lr": 0.01}])
    singles = [make([{"params": p, "lr": lr}]) for p, lr in zip(others, (0.1, 0.1, 0.1, 0.01), strict=True)]
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(others, step)
        optimizer.step()
        for single in singles:
            single.step()
    assert_same(values(ours), values(others))
    assert [p.dtype for p in ours] == [tg.float32, tg.float64, tg.float32, tg.float64]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every second": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "unaligned": lambda a: np.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, a.size, 1).reshape(a.shape),
}


@every_optimizer
@pytest.mark.parametrize("of_gradient", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_layout_gives_the_same_values(
    make: Callable[[Any], optim.Optimizer], layout: Callable[[Any], Any], of_gradient: bool
) -> None:
    array = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    plain, other = tg.from_numpy(array.copy()).requires_grad_(), tg.from_numpy(layout(array)).requires_grad_()
    assert not (other._array.flags.c_contiguous and other._array.flags.aligned)
    one, two = make([plain]), make([other])
    for step in range(3):
        give_gradients([plain], step)
        assert plain.grad is not None
        other.grad = tg.from_numpy(layout(plain.grad.numpy())) if of_gradient else plain.grad
        one.step()
        two.step()
    assert_same(values([other]), values([plain]))


@every_optimizer
def test_empty_and_0d_parameters(make: Callable[[Any], optim.Optimizer]) -> None:
    params = [parameter(0, 3), parameter(), parameter(2)]
    optimizer = make(params)
    give_gradients(params, 0)
    before = params[1].item()
    optimizer.step()
    assert params[0].shape == (0, 3)
    assert params[1].item() != before


@every_optimizer
def test_the_number_of_threads_changes_no_bit(make: Callable[[Any], optim.Optimizer]) -> None:
    threads = tg.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            tg.set_num_threads(n)
            params = [parameter(301, 307), parameter(3), parameter(1009, seed=1)]
            optimizer = make(params)
            for step in range(2):
                give_gradients(params, step)
                optimizer.step()
            results.append(values(params))
    finally:
        tg.set_num_threads(threads)
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_backward_notices_that_a_step_changed_what_it_needs() -> None:
    w = parameter(3)
    loss = (w * w).sum()
    optimizer = optim.SGD([w], lr=0.1)
    give_gradients([w], 0)
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def momentum_step(p: tg.Tensor, optimizer: optim.Optimizer) -> Any:
    """The change that one step with a gradient of ones makes."""
    before = values([p])[0]
    p.grad = tg.ones(*p.shape)
    optimizer.step()
    return before - values([p])[0]


def test_data_and_state_may_be_replaced_between_steps() -> None:
    """The addresses of replaced arrays are looked up anew, of parameters and of state."""
    p = parameter(3)
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
    assert momentum_step(p, optimizer) == pytest.approx(1)
    p.data = tg.zeros(3)
    assert momentum_step(p, optimizer) == pytest.approx(1.5)
    optimizer.state[p]["momentum_buffer"] = tg.full((3,), 4.0)
    assert momentum_step(p, optimizer) == pytest.approx(3)
    optimizer.state[p]["momentum_buffer"].fill_(8)
    assert momentum_step(p, optimizer) == pytest.approx(5)
    optimizer.state.clear()
    assert momentum_step(p, optimizer) == pytest.approx(1)
    optimizer.state = {}
    assert momentum_step(p, optimizer) == pytest.approx(1)


def test_the_list_of_parameters_may_change_between_steps() -> None:
    params = [parameter(3), parameter(3, seed=1), parameter(3, seed=2)]
    give_gradients(params, 0)
    optimizer = optim.SGD(params[:1], lr=1.0)
    optimizer.step()
    for change in (lambda listed: listed.append(params[1]), lambda listed: listed.__setitem__(0, params[2])):
        change(optimizer.param_groups[0]["params"])
        before = values(params)
        optimizer.step()
        listed = optimizer.param_groups[0]["params"]
        for p, value in zip(params, before, strict=True):
            moved = any(p is q for q in listed)
            assert p.grad is not None
            np.testing.assert_allclose(values([p])[0], value - p.grad.numpy() if moved else value, rtol=1e-6)


def test_group_values_may_change_between_steps() -> None:
    p = parameter(3)
    optimizer = optim.SGD([p], lr=0.5)
    before = values([p])[0]
    p.grad = tg.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.step()
    optimizer.step()
    np.testing.assert_allclose(values([p])[0], before - 0.5 - 0.25 - 0.25 * 1.5, rtol=1e-6)
    extra = parameter(2)
    extra.grad = tg.ones(2)
    kept = values([extra])[0]
    optimizer.add_param_group({"params": extra, "lr": 1.0})
    optimizer.step()
    np.testing.assert_allclose(values([extra])[0], kept - 1, rtol=1e-6)


def test_step_returns_the_loss_of_its_closure() -> None:
    p = parameter(3)
    optimizer = optim.SGD([p], lr=0.1)

    def closure() -> tg.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tg.no_grad():  # the closure records all the same
        first, second = optimizer.step(closure), optimizer.step(closure)
    assert second.item() == pytest.approx(first.item() * 0.8**2, rel=1e-5)


def test_zero_grad_forgets_or_zeroes() -> None:
    p, q = parameter(3), parameter(3)
    optimizer = optim.SGD([p, q])
    give_gradients([p], 0)
    kept = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is kept
    assert kept is not None
    assert kept.tolist() == [0, 0, 0]
    assert q.grad is None
    optimizer.zero_grad()
    assert p.grad is None


def test_a_gradient_filled_with_zeros_leaves_its_graph() -> None:
    """After backward(create_graph=True), by the optimizer and by the module: the next one adds to plain zeros."""
    for cleared in ("optimizer", "module"):
        layer = tg.nn.Linear(2, 1)
        optimizer = optim.SGD(layer.parameters())
        (layer(tg.ones(1, 2)) ** 2).sum().backward(create_graph=True)
        assert layer.weight.grad.requires_grad
        (optimizer if cleared == "optimizer" else layer).zero_grad(set_to_none=False)
        assert not layer.weight.grad.requires_grad and layer.weight.grad.tolist() == [[0, 0]]


# ------------------------------------------------------------------------------------------------------------
# State


@every_optimizer
def test_a_loaded_optimizer_goes_on_where_the_other_stood(make: Callable[[Any], optim.Optimizer]) -> None:
    params = [parameter(3), parameter(2, 2, seed=1), parameter(4, seed=2)]
    optimizer = make(params)
    for step in range(3):
        give_gradients(params, step)
        params[1].grad = None
        optimizer.step()
    copies = [p.detach().clone().requires_grad_() for p in params]
    other = make([{"params": copies, "lr": 99.0}])
    other.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):
        for optimizer_, of in ((optimizer, params), (other, copies)):
            give_gradients(of, step)
            optimizer_.step()
    assert_same(values(copies), values(params))


def test_the_state_dict_has_pytorchs_form() -> None:
    params = [parameter(3), parameter(2, seed=1)]
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], weight_decay=0.1)
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups"]
    assert [group["params"] for group in state["param_groups"]] == [[0], [1]]
    assert {"lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}.items() <= state["param_groups"][
        1
    ].items()
    assert list(state["state"]) == [1]
    assert list(state["state"][1]) == ["step", "exp_avg", "exp_avg_sq"]
    assert state["state"][1]["step"].item() == 1
    assert state["state"][1]["step"].dtype == tg.float32


def test_a_state_dict_is_loaded_by_copy_and_in_the_parameters_dtype() -> None:
    p, q = parameter(3), parameter(3, dtype=np.float64)
    optimizer, other = optim.SGD([p], momentum=0.9), optim.SGD([q], momentum=0.9)
    give_gradients([p], 0)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    optimizer.state[p]["momentum_buffer"].fill_(7)
    assert other.state[q]["momentum_buffer"].dtype == tg.float64
    assert (other.state[q]["momentum_buffer"] != 7).all()


@pytest.mark.parametrize(
    ("error", "match", "spoil"),
    [
        (TypeError, "param_groups", lambda s: s.pop("param_groups")),
        (ValueError, "2 parameter groups", lambda s: s["param_groups"].append(s["param_groups"][0])),
        (ValueError, "3 parameters in group 0", lambda s: s["param_groups"][0]["params"].append(2)),
        (ValueError, r"\(5,\)", lambda s: s["state"][0].update(exp_avg=tg.zeros(5))),
        (ValueError, "parameter 9", lambda s: s["state"].update({9: {}})),
        (ValueError, "lr", lambda s: s["param_groups"][0].update(lr=-1)),
    ],
)
def test_a_state_dict_of_others_is_refused(
    error: type[Exception], match: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    params = [parameter(3), parameter(2, seed=1)]
    optimizer = optim.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    spoil(state)
    kept, groups = optimizer.state[params[0]]["exp_avg"], optimizer.param_groups
    with pytest.raises(error, match=match):
        optimizer.load_state_dict(state)
    assert optimizer.state[params[0]]["exp_avg"] is kept
    assert optimizer.param_groups is groups


@every_optimizer
def test_a_deep_copy_is_an_optimizer_of_its_own(make: Callable[[Any], optim.Optimizer]) -> None:
    """It must not keep the addresses of the original's memory."""
    params = [parameter(3)]
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.step()
    other = copy.deepcopy(optimizer)
    assert not other._plans
    theirs = other.param_groups[0]["params"]
    assert theirs[0] is not params[0]
    before = values(params)
    give_gradients(theirs, 1)
    other.step()
    assert_same(values(params), before)
    give_gradients(params, 1)
    optimizer.step()
    assert_same(values(params), values(theirs))


def test_the_repr_lists_the_groups() -> None:
    text = repr(optim.SGD([parameter(3)], lr=0.1))
    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0")
    assert "    lr: 0.1\n" in text


def test_an_optimizer_of_ones_own_overrides_step() -> None:
    class SignDescent(optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            with tg.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p -= group["lr"] * p.grad.sign()

    p = parameter(3)
    give_gradients([p], 0)
    before = values([p])[0]
    optimizer = SignDescent([p], {"lr": 0.5})
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    np.testing.assert_allclose(np.abs(values([p])[0] - before), 0.5, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
