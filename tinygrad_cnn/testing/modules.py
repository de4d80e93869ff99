"""Check every parameter of somebody's model at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import random
from ..autograd import Variable
from ..nn import Module
from ..tensor import Tensor
from .gradcheck import gradcheck
from .report import GradcheckError, GradReport


@dataclasses.dataclass(frozen=True)
class ModuleReport:
    """One `GradReport` per parameter and floating-point input, by name; true when all passed, prints as a table."""

    rows: dict[str, GradReport]
    shapes: dict[str, tuple[int, ...]]

    def __bool__(self) -> bool:
        return all(self.rows.values())

    def __str__(self) -> str:
        width = max(len("parameter"), *map(len, self.rows))
        lines = [f"{'parameter':{width}}  {'shape':18}  {'status':12}  error in tolerances"]
        for name, row in self.rows.items():
            lines.append(f"{name:{width}}  {self.shapes[name]!s:18}  {row.status:12}  {row.error:.2g}")
        return "\n".join(lines)


def check_module(
    module: Module,
    *inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    seed: int = 0,
    raise_exception: bool = True,
) -> ModuleReport:
    """Check the gradient of every parameter and floating-point input of a module at these inputs.

    Works on a float64 copy; the module keeps its values, mode, running statistics and gradients. Dropout
    draws the same mask in every run. `loss` makes of the output what is differentiated, by default the
    output itself. Returns a table; raises GradcheckError for the first wrong gradient unless
    `raise_exception=False`.

    >>> import tinygrad_cnn as tg
    >>> from tinygrad_cnn.testing import check_module
    >>> print(check_module(tg.nn.Linear(2, 1), tg.ones(3, 2)))  # doctest: +ELLIPSIS
    parameter  shape               status        error in tolerances
    weight     (1, 2)              passed        ...
    bias       (1,)                passed        ...
    input 0    (3, 2)              passed        ...
    """
    fn, values, names = _as_function(module, inputs, loss)
    rows: dict[str, GradReport] = {}
    state = random.get_rng_state()
    try:
        for i, name in names.items():
            row = gradcheck(fn, values, wrt=i, seed=seed, invariants=False, raise_exception=False)
            rows[name] = dataclasses.replace(row, name=f"{type(module).__name__}.{name}", reproducer="")
    finally:
        random.set_rng_state(state)
    report = ModuleReport(rows, {name: values[i].shape for i, name in names.items()})
    for row in rows.values():
        if raise_exception and row.status == "failed":
            raise GradcheckError(row)
    return report


def _as_function(
    module: Module, inputs: tuple[Any, ...], loss: Callable[[Any], Any] | None
) -> tuple[Callable[..., Any], list[Any], dict[int, str]]:
    """A pure function of the parameters and the inputs, their values in float64, and the names of the float ones."""
    model = copy.deepcopy(module).double()
    parameters = dict(model.named_parameters())
    state = random.get_rng_state()
    places = [  # all of them: two layers may share a weight
        [(owner, name) for owner in model.modules() for name, value in vars(owner).items() if value is p]
        for p in parameters.values()
    ]
    buffers = {id(b): (b, b._array.copy()) for b in model.buffers()}

    def fn(*args: Any) -> Any:
        random.set_rng_state(state)
        for buffer, value in buffers.values():
            buffer._array[...] = value
        for at, value in zip(places, args, strict=False):
            for owner, name in at:
                owner.__dict__[name] = value
        out = model(*args[len(places) :])
        return out if loss is None else loss(out)

    fn.__name__ = type(module).__name__
    doubled = [
        Tensor(x._array.astype(np.float64)) if isinstance(x, Variable) and x._array.dtype.kind == "f" else x
        for x in inputs
    ]
    names = dict(enumerate(parameters))
    for i, x in enumerate(doubled, len(places)):
        if isinstance(x, Variable) and x._array.dtype.kind == "f":
            names[i] = f"input {i - len(places)}"
    return fn, [*(p.detach() for p in parameters.values()), *doubled], names
