"""Schedules against their closed forms, written out here, and against values that PyTorch gave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import optim
from tinygrad_cnn.optim import lr_scheduler

CLOSE = 1e-12


def make(lr: float = 0.1, groups: int = 1, kind: str = "sgd") -> optim.Optimizer:
    """An optimizer of which `step` has been called, so that schedulers do not warn."""
    params = [{"params": [tg.zeros(2, requires_grad=True)], "lr": lr * (i + 1)} for i in range(groups)]
    optimizer = optim.SGD(params, lr=lr, momentum=0.9) if kind == "sgd" else optim.Adam(params, lr=lr)
    optimizer.step()
    return optimizer


def rates(optimizer: optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    """The rate of the first group at epoch 0, 1, ..., steps."""
    seen = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        scheduler.step()
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@given(lr=st.floats(1e-4, 10), size=st.integers(1, 7), gamma=st.floats(0.1, 1.5))
def test_step_lr_is_a_staircase(lr: float, size: int, gamma: float) -> None:
    optimizer = make(lr)
    seen = rates(optimizer, lr_scheduler.StepLR(optimizer, size, gamma), 30)
    assert seen == pytest.approx([lr * gamma ** (t // size) for t in range(31)], rel=CLOSE)


@given(milestones=st.lists(st.integers(1, 30), max_size=5), gamma=st.floats(0.1, 1.5))
def test_multi_step_lr_counts_the_milestones_passed(milestones: list[int], gamma: float) -> None:
    optimizer = make(0.3)
    seen = rates(optimizer, lr_scheduler.MultiStepLR(optimizer, milestones, gamma), 31)
    expected = [0.3 * gamma ** sum(m <= t for m in milestones) for t in range(32)]
    assert seen == pytest.approx(expected, rel=CLOSE)


@given(lr=st.floats(1e-4, 10), gamma=st.floats(0.1, 1.5))
def test_exponential_lr_is_a_power(lr: float, gamma: float) -> None:
    optimizer = make(lr)
    seen = rates(optimizer, lr_scheduler.ExponentialLR(optimizer, gamma), 20)
    assert seen == pytest.approx([lr * gamma**t for t in range(21)], rel=CLOSE)


@given(lr=st.floats(1e-3, 10), T_max=st.integers(1, 200), share=st.floats(0, 0.9))
def test_cosine_annealing_is_a_cosine_there_and_back(lr: float, T_max: int, share: float) -> None:
    eta_min = lr * share
    optimizer = make(lr)
    seen = rates(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, T_max, eta_min), 3 * T_max)
    expected = [eta_min + (lr - eta_min) * (1 + math.cos(math.pi * t / T_max)) / 2 for t in range(3 * T_max + 1)]
    assert seen == pytest.approx(expected, rel=CLOSE, abs=lr * CLOSE)


def test_cosine_annealing_reaches_the_bottom_exactly() -> None:
    optimizer = make(0.1)
    assert rates(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 17, eta_min=0.003), 17)[-1] == 0.003


def one_cycle(t: int, total: int, values: tuple[float, ...], ends: tuple[float, ...], linear: bool) -> float:
    """Piecewise from values[0] to values[-1], the pieces ending at `ends`."""
    starts = (0.0, *ends)
    i = next((i for i, end in enumerate(ends) if t <= end), len(ends) - 1)
    share = (t - starts[i]) / (ends[i] - starts[i])
    if linear:
        return values[i] + (values[i + 1] - values[i]) * share
    return values[i + 1] + (values[i] - values[i + 1]) * (1 + math.cos(math.pi * share)) / 2


@given(
    total=st.integers(10, 200),
    pct_start=st.sampled_from([0.15, 0.25, 0.3, 0.45]),
    linear=st.booleans(),
    three_phase=st.booleans(),
    kind=st.sampled_from(["sgd", "adam"]),
)
def test_one_cycle_goes_up_and_down(total: int, pct_start: float, linear: bool, three_phase: bool, kind: str) -> None:
    optimizer = make(0.1, kind=kind)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=0.5,
        total_steps=total,
        pct_start=pct_start,
        anneal_strategy="linear" if linear else "cos",
        div_factor=20.0,
        final_div_factor=1e3,
        three_phase=three_phase,
    )
    start, peak, end, slow, fast = 0.5 / 20, 0.5, 0.5 / 20 / 1e3, 0.85, 0.95
    rise, last = pct_start * total, float(total - 1)
    if three_phase:
        ends: tuple[float, ...] = (rise - 1, 2 * rise - 2, last)
        lrs: tuple[float, ...] = (start, peak, start, end)
        momenta: tuple[float, ...] = (fast, slow, fast, fast)
    else:
        ends, lrs, momenta = (rise - 1, last), (start, peak, end), (fast, slow, fast)
    for t in range(total):
        group = optimizer.param_groups[0]
        momentum = group["momentum"] if kind == "sgd" else group["betas"][0]
        assert group["lr"] == pytest.approx(one_cycle(t, total, lrs, ends, linear), rel=CLOSE)
        assert momentum == pytest.approx(one_cycle(t, total, momenta, ends, linear), rel=CLOSE)
        scheduler.step()
    if kind == "adam":
        assert optimizer.param_groups[0]["betas"][1] == 0.999


# The values that PyTorch 2.13 gives for the same calls, last_epoch 0, 1, ... (printed with repr).
# fmt: off
PINNED: dict[str, tuple[Callable[[optim.Optimizer], Any], list[float]]] = {
    "multi_step": (
        lambda o: lr_scheduler.MultiStepLR(o, [2, 2, 4], 0.5),
        [0.1, 0.1, 0.025, 0.025, 0.0125, 0.0125],
    ),
    "cosine": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5, 0.001),
        [0.1, 0.0905463412215599, 0.06579634122155989, 0.035203658778440096, 0.010453658778440105, 0.001,
         0.010453658778440102, 0.03520365877844012, 0.06579634122155993, 0.09054634122155995],
    ),
    "one_cycle": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=10),
        [0.020000000000000018, 0.26, 0.5, 0.47524231600673683, 0.40587282697488153, 0.30563101096814466,
         0.19437098903185537, 0.09412917302511849, 0.024759683993263143, 2e-06],
    ),
    "one_cycle_linear_three_phase": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=10, anneal_strategy="linear", three_phase=True),
        [0.02, 0.26, 0.5, 0.26, 0.020000000000000018, 0.016000399999999998, 0.012000799999999999,
         0.0080012, 0.0040015999999999975, 1.9999999999985307e-06],
    ),
}
# fmt: on


@pytest.mark.parametrize("name", PINNED)
def test_the_values_are_those_of_pytorch(name: str) -> None:
    make_scheduler, expected = PINNED[name]
    optimizer = make(0.1)
    seen = rates(optimizer, make_scheduler(optimizer), len(expected) - 1)
    assert seen == pytest.approx(expected, rel=CLOSE)


def test_lambda_lr_has_a_function_for_each_group() -> None:
    optimizer = make(0.1, groups=2)
    scheduler = lr_scheduler.LambdaLR(optimizer, [lambda t: 0.5**t, lambda t: 1 / (t + 1)])
    for _ in range(3):
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.1 * 0.125, 0.2 * 0.25], rel=CLOSE)


def test_every_group_keeps_its_own_rate() -> None:
    optimizer = make(0.1, groups=3)
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    for _ in range(4):
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.001, 0.002, 0.003], rel=CLOSE)
    assert scheduler.base_lrs == pytest.approx([0.1, 0.2, 0.3])


def test_two_schedulers_act_on_one_optimizer() -> None:
    optimizer = make(1.0)
    first, second = lr_scheduler.StepLR(optimizer, 1, 0.5), lr_scheduler.StepLR(optimizer, 2, 0.1)
    for _ in range(4):
        first.step()
        second.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5**4 * 0.1**2, rel=CLOSE)


def test_a_rate_set_by_hand_persists() -> None:
    optimizer = make(1.0)
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.5)
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 10.0
    scheduler.step()
    assert scheduler.get_last_lr() == [5.0]


SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=20),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_loaded_schedule_goes_on_where_it_stood(name: str) -> None:
    optimizer = make()
    scheduler = SCHEDULERS[name](optimizer)
    rates(optimizer, scheduler, 7)
    resumed_optimizer = make()
    resumed = SCHEDULERS[name](resumed_optimizer)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.last_epoch == 7
    assert rates(resumed_optimizer, resumed, 10) == rates(optimizer, scheduler, 10)


def test_a_resumed_run_needs_the_initial_rates() -> None:
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(make(), 3, last_epoch=4)
    optimizer = make(0.1)
    lr_scheduler.CosineAnnealingLR(optimizer, 10)
    assert lr_scheduler.CosineAnnealingLR(optimizer, 10, last_epoch=4).last_epoch == 5


def test_a_callable_object_is_part_of_the_state() -> None:
    class Decay:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def __call__(self, epoch: int) -> float:
            return self.rate**epoch

    scheduler = lr_scheduler.LambdaLR(make(), Decay(0.5))
    other = lr_scheduler.LambdaLR(make(), Decay(0.9))
    other.load_state_dict(scheduler.state_dict())
    assert other.lr_lambdas[0].rate == 0.5


def test_stepping_before_the_optimizer_warns() -> None:
    optimizer = optim.SGD([tg.zeros(2, requires_grad=True)], lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match=r"optimizer\.step\(\) first"):
        scheduler.step()


@pytest.mark.parametrize(
    ("error", "make_scheduler"),
    [
        (TypeError, lambda o: lr_scheduler.StepLR("sgd", 3)),
        (TypeError, lambda o: lr_scheduler.OneCycleLR("sgd", 0.1, total_steps=3)),
        (TypeError, lambda o: lr_scheduler.LambdaLR("sgd", lambda t: 1.0)),
        (ValueError, lambda o: lr_scheduler.StepLR(o, 0)),
        (TypeError, lambda o: lr_scheduler.StepLR(o, 2.5)),
        (ValueError, lambda o: lr_scheduler.CosineAnnealingLR(o, 0)),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, 0.1)),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, 0.1, epochs=3)),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=0)),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, pct_start=1.5)),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, anneal_strategy="exp")),
        (ValueError, lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=10)),
        (ValueError, lambda o: lr_scheduler.LambdaLR(o, [])),
    ],
)
def test_wrong_arguments_raise_and_leave_the_optimizer_alone(
    error: type[Exception], make_scheduler: Callable[[optim.Optimizer], Any]
) -> None:
    optimizer = make(0.1)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with pytest.raises(error):
        make_scheduler(optimizer)
    assert before == {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}


def test_one_cycle_ends() -> None:
    scheduler = lr_scheduler.OneCycleLR(make(), 0.1, epochs=2, steps_per_epoch=5)
    assert scheduler.total_steps == 10
    for _ in range(10):
        scheduler.step()
    last = scheduler.get_last_lr()
    with pytest.raises(ValueError, match="10 steps"):
        scheduler.step()
    assert scheduler.last_epoch == 10
    assert scheduler.get_last_lr() == last
