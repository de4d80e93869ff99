"""What all optimizers share: parameter groups, state, checkpoints, and the step, a fused update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from numbers import Real
from operator import is_
from typing import Any, TypeAlias

import numpy as np

from ..autograd import enable_grad
from ..tensor import Tensor, clear_grad
from .table import Table, like

Group: TypeAlias = dict[str, Any]


class Optimizer:
    """Base class: holds parameters in groups and changes them in `step()` along their gradients.

    `params` is an iterable of leaf tensors, or of dicts `{"params": [...], "lr": ...}`, one for each group,
    whose other entries override `defaults`. Raises TypeError for anything but tensors, and for settings that are no
    numbers, and ValueError for no parameters, computed tensors, duplicates and values out of range. A subclass of
    yours overrides `step`.
    """

    _counts = False  # whether the kernel needs the number of steps of each parameter

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, Tensor | set | str | Mapping):
            raise TypeError(
                f"an optimizer expects a list or an iterator of tensors, or a list of dicts, got one "
                f"{type(params).__name__}; put it into a list"
            )
        self.defaults = defaults
        self.state: dict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._steps = 0
        self._plans: list[_Plan] = []
        groups = list(params)
        if not groups:
            raise ValueError("an optimizer needs parameters, got an empty list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Optimize more parameters, with values of their own for what the group names."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f"a parameter group is a dict with a key 'params', got {param_group!r}")
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError("a set of parameters has no fixed order; use a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for i, p in enumerate(params):
            _check_parameter(p, f"{i} of group {len(self.param_groups)}")
            if id(p) in known:
                raise ValueError(f"parameter {i} of group {len(self.param_groups)}, of shape {p.shape}, is there twice")
            known.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; returns the loss that `closure` computes, if given.

        Raises RuntimeError, before any parameter changes, for a parameter that cannot be written to.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group, table in self._gathered():
            if table.active:
                table.bind(self.state)
                self._update(group, table)
                table.written()
        self._steps += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or overwrite them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                clear_grad(p, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter and the groups, parameters given by number; shares the tensors."""
        numbers = {p: i for i, p in enumerate(self._parameters())}
        return {
            "state": {numbers.get(p, p): dict(entry) for p, entry in self.state.items()},
            "param_groups": [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where the optimizer stood that gave this state; its tensors are copied.

        Raises TypeError or ValueError, before anything changes, when the state is of other groups or shapes.
        """
        groups = self._loaded_groups(state_dict)
        state: dict[Any, dict[str, Any]] = defaultdict(dict)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = dict(zip(numbers, self._parameters(), strict=True))
        for number, entry in state_dict["state"].items():
            p = parameters.get(number)
            if p is None:
                raise ValueError(f"the state_dict has state for parameter {number!r}, which is in none of its groups")
            state[p] = {name: _loaded_value(p, number, name, value) for name, value in entry.items()}
        self.param_groups = groups
        self.state = state

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": []}  # addresses must not travel into a copy

    # ------------------------------------------------------------------------- what a fused optimizer defines

    def _update(self, group: Group, table: Table) -> None:
        """Run the kernel over the table."""
        raise NotImplementedError("an optimizer defines step()")

    def _buffers(self, group: Group) -> tuple[str, ...]:
        """The names of the state arrays, of the parameter's shape, that the kernel of this group needs."""
        return ()

    def _check(self, group: Group) -> None:
        """Raise ValueError for values out of range, TypeError for those of another type."""

    # --------------------------------------------------------------------------------------------------------

    def _parameters(self) -> Iterable[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def _has_stepped(self) -> bool:
        """Whether `step` ran; also True where a subclass has a step that we know nothing of."""
        return self._steps > 0 or type(self).step is not Optimizer.step

    def _gathered(self) -> list[tuple[Group, Table]]:
        """The tables of all groups, with this step's gradients."""
        work = [(group, table) for i, group in enumerate(self.param_groups) for table in self._tables(i, group)]
        if all(table.gather() for _, table in work):
            return work
        self._plans.clear()
        return self._gathered()

    def _tables(self, i: int, group: Group) -> list[Table]:
        """The group's tables, made anew only when it has got other parameters or needs other state."""
        params, names = group["params"], self._buffers(group)
        if i < len(self._plans):
            plan = self._plans[i]
            if plan.names == names and len(plan.params) == len(params) and all(map(is_, plan.params, params)):
                return plan.tables
        del self._plans[i:]
        self._plans.append(_Plan(params, names, self._counts))
        return self._plans[i].tables

    def _loaded_groups(self, state_dict: Mapping[str, Any]) -> list[Group]:
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise TypeError("an optimizer's state_dict is a dict with the keys 'state' and 'param_groups'")
        loaded = state_dict["param_groups"]
        if len(loaded) != len(self.param_groups):
            raise ValueError(
                f"the state_dict has {len(loaded)} parameter groups, the optimizer {len(self.param_groups)}"
            )
        groups = []
        for i, (group, other) in enumerate(zip(self.param_groups, loaded, strict=True)):
            if len(group["params"]) != len(other["params"]):
                raise ValueError(
                    f"the state_dict has {len(other['params'])} parameters in group {i}, the optimizer has "
                    f"{len(group['params'])}"
                )
            groups.append({**self.defaults, **other, "params": group["params"]})
            self._check(groups[-1])
        return groups


class _Plan:
    """The tables of one group, one for each dtype, and what they were made from."""

    def __init__(self, params: list[Tensor], names: tuple[str, ...], counts: bool) -> None:
        self.params = list(params)
        self.names = names
        floats = [p for p in params if p.is_floating_point()]  # an integer tensor never has a gradient
        dtypes = dict.fromkeys(p.dtype for p in floats)
        self.tables = [Table([p for p in floats if p.dtype == dtype], names, counts) for dtype in dtypes]


def _check_parameter(p: Any, which: str) -> None:
    if isinstance(p, tuple) and len(p) == 2 and isinstance(p[1], Tensor):
        raise TypeError(f"parameter {which} is a (name, tensor) pair; pass parameters(), not named_parameters()")
    if not isinstance(p, Tensor):
        raise TypeError(f"an optimizer changes Tensors, but parameter {which} is a {type(p).__name__}")
    if not p.is_leaf:
        raise ValueError(
            f"parameter {which}, of shape {p.shape}, was computed from other tensors: it is not a leaf; "
            "optimize those, or detach() it"
        )


def _loaded_value(p: Tensor, number: Any, name: str, value: Any) -> Any:
    """A copy of one entry of a parameter's state, in the parameter's dtype and memory order."""
    if name == "step":
        return Tensor(np.array(value, np.float32))
    if not isinstance(value, Tensor):
        return value
    if value.shape != p.shape:
        raise ValueError(
            f"the state_dict has {name!r} of shape {value.shape} for parameter {number} of shape {p.shape}"
        )
    copied = like(p._array)
    np.copyto(copied, value._array, casting="same_kind")
    return Tensor(copied)


def check_number(group: Group, name: str) -> None:
    """Raise TypeError unless group[name] is a number."""
    if not isinstance(group[name], Real):
        raise TypeError(f"{name} must be a number, got {type(group[name]).__name__} {group[name]!r:.80}")


def check_range(group: Group, name: str, low: float, high: float = float("inf")) -> None:
    """Raise ValueError unless low <= group[name] < high, TypeError for what is no number."""
    check_number(group, name)
    if not low <= group[name] < high:
        bound = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
        raise ValueError(f"{name} must be {bound}, got {group[name]}")
