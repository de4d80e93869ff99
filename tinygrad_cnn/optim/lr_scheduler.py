"""Learning rates that follow a schedule: each sets `group["lr"]` of its optimizer anew on every `step()`.

As in PyTorch, a scheduler steps once when it is made (that is epoch 0) and then after each `optimizer.step()`
or epoch. Where it can, it changes the rate that it finds instead of computing it from the base rate, so
several schedulers can act on one optimizer and a rate set by hand persists.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from .optimizer import Optimizer


class LRScheduler:
    """Base class: a subclass says in `get_lr` what the rate of each parameter group is at `last_epoch`.

    `last_epoch` is -1 for a fresh run. To resume, load the optimizer's state first (its groups then hold
    `initial_lr`, else KeyError) and pass the number of the last finished epoch. Raises TypeError for an
    optimizer that is none.
    """

    #: What `state_dict` leaves out.
    _not_saved: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        _check_optimizer(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"'initial_lr' is missing in param_groups[{i}]: to resume with last_epoch={last_epoch}, "
                    "load the optimizer's state_dict before making the scheduler"
                )
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._last_lr: list[float] = []
        self.step()

    def get_lr(self) -> list[float]:
        """The rate of each group at `last_epoch`."""
        raise NotImplementedError("a scheduler defines get_lr()")

    def get_last_lr(self) -> list[float]:
        """The rate that the last step gave each group."""
        return self._last_lr

    def step(self) -> None:
        """Go to the next epoch (or batch): set the rate of every group."""
        if self._step_count == 1 and not self.optimizer._has_stepped():
            warnings.warn(
                "lr_scheduler.step() came before the first optimizer.step(): this skips the first value of "
                "the schedule; call optimizer.step() first",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self._current()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, which has a state_dict of its own."""
        return {key: value for key, value in self.__dict__.items() if key not in self._not_saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the scheduler stood that gave this state."""
        self.__dict__.update(state_dict)

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class LambdaLR(LRScheduler):
    """The initial rate times `lr_lambda(epoch)`; a list of functions has one for each group, else ValueError.

    Functions are not part of the state_dict; of a callable object its attributes are.
    """

    _not_saved = ("optimizer", "lr_lambdas")

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        self.lr_lambdas = _per_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * fn(self.last_epoch) for lr, fn in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        objects = [None if isinstance(fn, FunctionType) else dict(vars(fn)) for fn in self.lr_lambdas]
        return super().state_dict() | {"lr_lambdas": objects}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for fn, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                vars(fn).update(attributes)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "lr_lambdas"})


class StepLR(LRScheduler):
    """Multiplies the rate by gamma every step_size epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = _positive_int("step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        due = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [lr * self.gamma for lr in self._current()] if due else self._current()


class MultiStepLR(LRScheduler):
    """Multiplies the rate by gamma at each of the milestones; one that is named twice counts twice."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        times = bisect_right(self.milestones, self.last_epoch) - bisect_left(self.milestones, self.last_epoch)
        return [lr * self.gamma**times for lr in self._current()] if times else self._current()


class ExponentialLR(LRScheduler):
    """Multiplies the rate by gamma every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.gamma for lr in self._current()] if self.last_epoch > 0 else self._current()


class CosineAnnealingLR(LRScheduler):
    """From the initial rate down to eta_min along half a cosine in T_max epochs, and up again in as many.

    eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2: Loshchilov and Hutter, 2016, eq. 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = _positive_int("T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._step_count == 1:
            return self._current()
        height, before = self._height(self.last_epoch), self._height(self.last_epoch - 1)
        if (self.last_epoch - 1) % (2 * self.T_max) == self.T_max:  # `before` is 0: leave the bottom from base_lr
            return [
                lr + (base - self.eta_min) * height / 2 for lr, base in zip(self._current(), self.base_lrs, strict=True)
            ]
        return [self.eta_min + (lr - self.eta_min) * (height / before) for lr in self._current()]

    def _height(self, epoch: int) -> float:
        return 1 + math.cos(math.pi * epoch / self.T_max)


class _Phase(NamedTuple):
    """A stretch of the one-cycle schedule; the values are keys of the parameter group."""

    end: float
    lr: tuple[str, str]
    momentum: tuple[str, str]


class OneCycleLR(LRScheduler):
    """Up to max_lr and down again over the whole run, momentum (or beta1) the other way.

    Starts at max_lr / div_factor, peaks after pct_start of total_steps (or epochs * steps_per_epoch) and ends
    at the starting rate / final_div_factor; with three_phase it first returns to the starting rate as fast as
    it rose (Smith and Topin, 2017). Step it after every batch. Raises ValueError for arguments out of range
    and for a step beyond the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start is a share of the schedule between 0 and 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError("the optimizer has neither momentum nor betas; pass cycle_momentum=False")
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.pct_start = pct_start
        self.three_phase = three_phase
        max_lrs = _per_group("max_lr", optimizer, max_lr)
        base_momenta = _per_group("base_momentum", optimizer, base_momentum)
        max_momenta = _per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, peak, low, high in zip(optimizer.param_groups, max_lrs, base_momenta, max_momenta, strict=True):
                start = peak / div_factor
                group.update(initial_lr=start, max_lr=peak, min_lr=start / final_div_factor)
                if cycle_momentum:
                    group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)

    def step(self) -> None:
        if self.last_epoch >= self.total_steps:
            raise ValueError(f"the schedule has {self.total_steps} steps, all of which are done")
        super().step()

    def get_lr(self) -> list[float]:
        start, phase = 0.0, self._phases()[0]
        for following in self._phases()[1:]:
            if self.last_epoch > phase.end:
                start, phase = phase.end, following
        share = (self.last_epoch - start) / (phase.end - start) if phase.end > start else 1.0
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                _set_momentum(group, self._between(group, phase.momentum, share))
        return [self._between(group, phase.lr, share) for group in self.optimizer.param_groups]

    def _phases(self) -> list[_Phase]:
        rise = self.pct_start * self.total_steps
        up = _Phase(rise - 1, ("initial_lr", "max_lr"), ("max_momentum", "base_momentum"))
        last = self.total_steps - 1
        if not self.three_phase:
            return [up, _Phase(last, ("max_lr", "min_lr"), ("base_momentum", "max_momentum"))]
        return [
            up,
            _Phase(2 * rise - 2, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum")),
            _Phase(last, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
        ]

    def _between(self, group: dict[str, Any], keys: tuple[str, str], share: float) -> float:
        """The value after `share` of the way from the first to the second."""
        start, end = (float(group[key]) for key in keys)
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a scheduler expects an Optimizer, got {type(optimizer).__name__}")


def _positive_int(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return _positive_int("total_steps", total_steps)
    if epochs is None or steps_per_epoch is None:
        raise ValueError("OneCycleLR needs total_steps, or both epochs and steps_per_epoch")
    return _positive_int("epochs", epochs) * _positive_int("steps_per_epoch", steps_per_epoch)


def _per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group: the same for all, or a list of the right length."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{name} has {len(value)} values for {groups} parameter groups")
    return list(value)
