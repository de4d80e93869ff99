"""The table of addresses that a fused update walks: one call for all parameters, wherever each one lies.

Parameters and their state keep their memory from step to step, so their addresses are looked up once.
Gradients are new arrays each time: a step refreshes their row, and checks on the way that all else is what it
was. For LeNet-5 (10 parameters) that takes 7 us.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..kernels import on
from ..tensor import Tensor

Array: TypeAlias = npt.NDArray[Any]

_NOTHING = np.empty(0)  # the gradient of a parameter that has none
_UNBOUND: dict[str, Any] = {}  # the state of a parameter before its first gradient


class Table:
    """The parameters of one group and dtype: a column for each: its address, its gradient, its state."""

    def __init__(self, params: list[Tensor], names: tuple[str, ...], counts: bool) -> None:
        self.names = names  # of the state arrays, which have the parameter's shape
        self.counts = counts  # whether the state has the number of steps as well
        self.dtype = params[0].dtype
        self.columns = [_Column(i, p) for i, p in enumerate(params)]
        self.active: list[_Column] = []  # those with a gradient in this step
        self.addresses = np.zeros((2 + len(names), len(params)), np.int64)
        self.sizes = np.zeros(len(params), np.int64)  # 0 for a parameter without gradient
        self.first = np.zeros(len(params), np.bool_)  # whether the state is new
        self.steps = np.zeros(len(params), np.float32)
        self._whole = False  # whether `sizes` has all parameters in it
        self._gradients: list[Array] = []

    def gather(self) -> bool:
        """Collect the gradients; raises, before anything changes, what `Optimizer.step` says.

        False where a parameter was cast to another dtype, and belongs into another table.
        """
        gradients: list[Array] = []
        active = []
        for column in self.columns:
            p = column.param
            if p._grad is None:
                gradients.append(_NOTHING)
                continue
            if p._array is not column.array:
                column.look()
                if column.dtype != self.dtype:
                    return False
            array = p._grad._array
            if array.strides != column.strides:
                array = _conform(array, column)
            gradients.append(array)
            active.append(column)
        self._gradients = gradients
        self.active = active
        return True

    def bind(self, state: dict[Any, dict[str, Any]]) -> None:
        """Bring addresses, sizes and counts up to date; makes the state of parameters that are new to it."""
        for column in self.active:
            if column.memory is not column.array:
                np.copyto(column.memory, column.array)
            if not column.is_bound(state):
                self._bind(column, state)
        if len(self.active) < len(self.columns):
            active = [column.i for column in self.active]
            self.sizes.fill(0)
            self.sizes[active] = [column.memory.size for column in self.active]
            self.steps[active] += 1
            self._whole = False
        else:
            if not self._whole:
                self.sizes[:] = [column.memory.size for column in self.columns]
                self._whole = True
            self.steps += 1
        self.kernels.addresses(self._gradients, self.addresses[1])

    @property
    def kernels(self) -> Any:
        """The kernel set of the device that the parameters are on."""
        return on(self._gradients[0])

    def written(self) -> None:
        """After the kernel: tell everybody that the parameters changed, and let go of the gradients."""
        for column in self.active:
            if column.memory is not column.array:
                np.copyto(column.array, column.memory)
            column.param._version.n += 1
        self.first.fill(False)
        self._gradients = []

    def _bind(self, column: _Column, state: dict[Any, dict[str, Any]]) -> None:
        """Look up where a parameter and its state lie."""
        i, arrays = column.i, [column.memory]
        column.held = []
        if self.names or self.counts:
            entry = state.setdefault(column.param, {})
            if self.counts:
                self.steps[i] = entry.get("step", 0)
                column.hold(entry, "step", self.steps[i : i + 1].reshape(()))
            for name in self.names:
                self.first[i] = entry.get(name) is None
                arrays.append(column.state_array(name, entry.get(name)))
                column.hold(entry, name, arrays[-1])
        column.entry = state.get(column.param)
        found = np.empty(len(arrays), np.int64)
        self.kernels.addresses(arrays, found)
        self.addresses[0, i], self.addresses[2:, i] = found[0], found[1:]
        self.sizes[i] = column.memory.size


class _Column:
    """A parameter: its array, the dense memory in which a kernel changes it (mostly the same), its state."""

    __slots__ = ("array", "dtype", "entry", "held", "i", "memory", "param", "shape", "strides")

    def __init__(self, i: int, param: Tensor) -> None:
        self.i = i
        self.param = param
        self.array: Array = _NOTHING  # until `look`
        self.memory = _NOTHING
        self.strides: tuple[int, ...] = ()
        self.shape: tuple[int, ...] = ()
        self.dtype = param.dtype
        self.entry: dict[str, Any] | None = _UNBOUND
        self.held: list[tuple[str, Array]] = []  # the arrays of the state whose addresses are known

    def look(self) -> None:
        """Find out how the parameter's array lies in memory; RuntimeError where it cannot be written to."""
        array = self.param._array
        expanded = any(s == 0 and n > 1 for s, n in zip(array.strides, array.shape, strict=True))
        if expanded and array.size:
            raise RuntimeError(
                f"a parameter of shape {array.shape} is expanded: elements share memory; optimize a clone()"
            )
        if not array.flags.writeable:
            raise RuntimeError(f"a parameter of shape {array.shape} is read-only; optimize a clone() of it")
        self.array = array
        self.memory = array if _is_dense(array) else like(array)
        self.shape, self.strides, self.dtype = array.shape, self.memory.strides, array.dtype
        self.entry = _UNBOUND

    def is_bound(self, state: dict[Any, dict[str, Any]]) -> bool:
        """Whether the state is still made of the arrays whose addresses are known."""
        entry = state.get(self.param)
        if entry is not self.entry:
            return False
        for name, array in self.held:  # noqa: SIM110  all() takes three times as long
            if entry[name]._array is not array:  # type: ignore[index]  # held is empty where entry is None
                return False
        return True

    def hold(self, entry: dict[str, Any], name: str, array: Array) -> None:
        """Make array the state's entry of that name, if it is not, and watch that it stays so."""
        held = entry.get(name)
        if held is None or getattr(held, "_array", None) is not array:
            entry[name] = Tensor(array)
        self.held.append((name, array))

    def state_array(self, name: str, value: Tensor | None) -> Array:
        """The state's array in the parameter's order of memory: as it is, copied, or new and zero."""
        if value is not None and value._array.strides == self.strides and value.dtype == self.dtype:
            return value._array
        array = like(self.memory)
        if value is None:
            array.fill(0)
        elif value.shape == self.shape:
            np.copyto(array, value._array)
        else:
            raise ValueError(f"the state {name!r} has shape {value.shape}, its parameter {self.shape}")
        return array


def like(array: Array) -> Array:
    """A dense array of the same shape, dtype and order of axes in memory."""
    return np.empty_like(array, order="K", subok=False)


def _conform(gradient: Array, column: _Column) -> Array:
    """The gradient in the parameter's order of memory."""
    array = like(column.memory)
    np.copyto(array, gradient)
    return array


def _is_dense(array: Array) -> bool:
    """Whether the elements fill one stretch of memory, in whichever order of axes."""
    expected = array.itemsize
    for stride, n in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return array.flags.aligned
