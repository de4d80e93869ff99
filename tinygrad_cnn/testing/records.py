"""An op and what is to be true of it, in one value; generic tests run over all records."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Variable, no_grad
from ..tensor import Tensor
from .backends import check_backends
from .check import listed, magnitude, outputs_of
from .gradcheck import gradcheck, gradgradcheck
from .layouts import recast
from .report import GradReport

#: A small value may be the difference of numbers as large as the inputs, and have this many of their roundings.
ROUNDING = 16.0


@dataclasses.dataclass(frozen=True)
class OpRecord:
    """An op, its float64 reference on arrays, and a hypothesis strategy of its inputs.

    `op` takes Tensors and `ref` arrays; `inputs` draws the list of their arguments, arrays and anything
    else as it is, or the only argument. Without a reference (None) the op's own float64 value stands in.
    `errors` are cases (arguments, exception type, words of the message). `degree` and `kinks` are
    gradcheck's, `rtol` and `rtol32` how close the value is to the reference in float64 and float32; an op
    without second gradients says `second=False`.

    pytest collects every record of a test module by itself:

        # test_ops.py
        SQUARE = OpRecord("square", tg.square, np.square, arrays((2, 3)), degree=2)
    """

    name: str
    op: Callable[..., Any]
    ref: Callable[..., Any] | None
    inputs: Any
    errors: Sequence[tuple[Sequence[Any], type[Exception], str]] = ()
    degree: int | None = None
    kinks: str = "subgradient"
    rtol: float = 1e-12
    rtol32: float = 1e-5
    second: bool = True  # whether second gradients exist

    def check(self, inputs: Any, *, seed: int = 0) -> None:
        """Value and gradient in float64 and float32, second gradient, invariants and backends at these inputs.

        Raises AssertionError.
        """
        __tracebackhide__ = True
        inputs = listed(inputs)
        self.check_value(inputs)
        args = _tensors(inputs)
        options: dict[str, Any] = {"degree": self.degree, "kinks": self.kinks, "seed": seed}
        _aim("first gradient", gradcheck(self.op, args, **options))
        single = _tensors(inputs, np.float32)
        gradcheck(self.op, single, rtol=10 * self.rtol32, projections=1, invariants=False, **options)
        if self.second:
            _aim("second gradient", gradgradcheck(self.op, args, **options))
        check_backends(self.op, args, seed=seed)

    def check_value(self, inputs: Any) -> None:
        """The op's value against the reference's, in float64 and in float32, each in the memory layout of the inputs.

        Where the op returns a tuple, the reference returns one too.
        """
        __tracebackhide__ = True
        inputs = listed(inputs)
        reference = self._values(inputs, np.float64) if self.ref is None else self.ref(*inputs)
        expected = [np.asarray(x) for x in (reference if isinstance(reference, tuple) else [reference])]
        largest = max([magnitude(x) for x in inputs if isinstance(x, np.ndarray)], default=0.0)
        for dtype, rtol in ((np.float64, self.rtol), (np.float32, self.rtol32)):
            values = self._values(inputs, dtype)
            assert len(values) == len(expected), f"{self.name}: {len(values)} outputs, reference {len(expected)}"
            for value, wanted in zip(values, expected, strict=True):
                self._compare(value, wanted, dtype, rtol, ROUNDING * float(np.finfo(dtype).eps) * largest)

    def _values(self, inputs: Sequence[Any], dtype: Any) -> tuple[np.ndarray, ...]:
        with no_grad():
            return tuple(out._array for out in outputs_of(self.op, self.op(*_tensors(inputs, dtype))))

    def _compare(self, value: np.ndarray, expected: np.ndarray, dtype: Any, rtol: float, rounding: float) -> None:
        __tracebackhide__ = True
        assert value.shape == expected.shape, f"{self.name}: shape {value.shape}, reference {expected.shape}"
        if expected.dtype.kind == "f":
            assert value.dtype == dtype, f"{self.name}: {value.dtype} from {np.dtype(dtype)}"
        np.testing.assert_allclose(
            value, expected, rtol=rtol, atol=rtol * magnitude(expected) + rounding, err_msg=self.name
        )

    def check_errors(self) -> None:
        """Every case of `errors` raises its exception, and the message has its words."""
        for inputs, error, words in self.errors:
            message = None
            try:
                self.op(*_tensors(inputs))
            except error as problem:
                message = str(problem)
            if message is None:
                raise AssertionError(f"{self.name} accepts {inputs!r}")
            if words not in message:
                raise AssertionError(f"{self.name}: {message!r} does not say {words!r}")


def _aim(label: str, report: GradReport) -> None:
    """Inside a hypothesis test, let it climb to the largest error."""
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None and hypothesis.currently_in_test_context() and 0 < report.error < math.inf:
        hypothesis.target(math.log10(report.error), label=label)


def _tensors(inputs: Sequence[Any], dtype: Any = None) -> list[Any]:
    """Arrays as Tensors, floating-point ones in the dtype; the rest as it is."""

    def convert(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return Tensor(recast(x, dtype) if dtype is not None and x.dtype.kind == "f" else x)
        return x

    return [x if isinstance(x, Variable) else convert(x) for x in inputs]
