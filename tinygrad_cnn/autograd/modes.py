"""What a thread records: switches for blocks and functions."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Mode(threading.local):
    grad = True
    inference = False
    anomaly = False


mode = _Mode()


class _Setting:
    """A context manager that changes this thread's modes; as a decorator it does so around each call."""

    grad: bool | None = None  # None: as it is
    inference = False
    anomaly: bool | None = None

    def __new__(cls, fn: Any = None) -> Any:
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
            with type(self)():  # another one for each call: several threads may be inside
                return fn(*args, **kwargs)

        return inside


class no_grad(_Setting):
    """Compute without recording: `with no_grad():` or `@no_grad()`."""

    grad = False


class enable_grad(_Setting):
    """Record again inside a `no_grad` block."""

    grad = True


class inference_mode(_Setting):
    """`no_grad`, and a promise that nothing computed inside will be asked for a gradient."""

    grad = False
    inference = True


class set_grad_enabled:
    """Record ops or not, from here on, or in a `with` block, or in a function decorated with it; per thread."""

    __slots__ = ("_before", "_enabled")

    def __init__(self, enabled: bool) -> None:
        self._before = mode.grad
        self._enabled = mode.grad = bool(enabled)

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
