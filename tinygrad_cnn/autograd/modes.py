"""What a thread records: switches for blocks and functions."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Mode(threading.local):
    grad = True
    inference = False
    anomaly = False


mode = _Mode()


class _Setting:
    """A context manager that changes this thread's modes; as a decorator, around each call or step of a generator."""

    grad: bool | None = None  # None: as it is
    inference = False
    anomaly: bool | None = None

    def __new__(cls, fn: Any = None, **options: Any) -> Any:
        """`@no_grad` means `@no_grad()`."""
        return cls()(fn) if callable(fn) else super().__new__(cls)

    def __init__(self) -> None:
        self._before: list[tuple[bool, bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((mode.grad, mode.inference, mode.anomaly))
        if self.grad is not None:
            mode.grad = self.grad
            mode.inference = self.inference
        if self.anomaly is not None:
            mode.anomaly = self.anomaly

    def __exit__(self, *error: object) -> None:
        mode.grad, mode.inference, mode.anomaly = self._before.pop()

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._another():
                out = fn(*args, **kwargs)
            return self._stepwise(out) if is_generator else out  # type: ignore[arg-type, return-value]

        is_generator = inspect.isgeneratorfunction(fn)
        return inside

    def _another(self) -> _Setting:
        """One for each call: several threads may be inside."""
        another: _Setting = copy.copy(self)
        another._before = []
        return another

    def _stepwise(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The steps of a generator, each taken in this mode; what comes between them is not."""
        step: Callable[[], Any] = functools.partial(next, steps)
        try:
            while True:
                with self._another():
                    out = step()
                try:
                    step = functools.partial(steps.send, (yield out))
                except BaseException as error:  # also GeneratorExit: the generator's own `finally` runs in this mode
                    step = functools.partial(steps.throw, error)
        except StopIteration as end:
            return end.value


class no_grad(_Setting):
    """Compute without recording: `with no_grad():` or `@no_grad()`."""

    grad = False


class enable_grad(_Setting):
    """Record again inside a `no_grad` block."""

    grad = True


class inference_mode(_Setting):
    """`no_grad`, and a promise that nothing inside will be asked for a gradient; `enable_grad` if mode is False."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.grad, self.inference = not mode, bool(mode)


class set_grad_enabled:
    """Record ops or not, from here on, or in a `with` block, or in a function decorated with it; per thread."""

    __slots__ = ("_before", "_enabled")

    def __init__(self, mode: bool) -> None:
        self._before = is_grad_enabled()
        self._enabled = bool(mode)
        self.__enter__()

    def __enter__(self) -> None:
        mode.grad = self._enabled

    def __exit__(self, *error: object) -> None:
        mode.grad = self._before

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        mode.grad = self._before
        return (enable_grad if self._enabled else no_grad)()(fn)


def is_grad_enabled() -> bool:
    """Whether ops are recorded in this thread."""
    return mode.grad


class detect_anomaly(_Setting):
    """Name the forward call behind a failing backward or a NaN gradient; slow, for debugging."""

    anomaly = True
