"""Modes: no_grad, enable_grad, inference_mode and set_grad_enabled."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad

from .tools import check, leaf


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


@pytest.mark.parametrize(("mode", "records"), [(no_grad, False), (enable_grad, True), (inference_mode, False)])
def test_a_decorated_generator_is_in_its_mode_at_each_step(mode: Any, records: bool) -> None:
    """What is sent, thrown and returned comes through; between the steps its caller's mode holds."""
    seen = []

    @mode()
    def steps(first: int) -> Generator[Any, Any, str]:
        try:
            sent = yield first, is_grad_enabled()
            try:
                yield sent, is_grad_enabled()
            except KeyError as error:
                yield error, is_grad_enabled()
        finally:
            seen.append(is_grad_enabled())
        return "end"

    for outer in (True, False):
        with tg.set_grad_enabled(outer):
            going, error = steps(1), KeyError("thrown")
            assert next(going) == (1, records) and is_grad_enabled() == outer
            assert going.send(2) == (2, records) and is_grad_enabled() == outer
            assert going.throw(error) == (error, records) and is_grad_enabled() == outer
            with pytest.raises(StopIteration) as end:
                next(going)
            assert end.value.value == "end" and is_grad_enabled() == outer
            closed = steps(1)
            next(closed)
            closed.close()
            assert seen == [records, records] and is_grad_enabled() == outer
            seen.clear()
    assert steps.__name__ == "steps"


def test_the_names_of_pytorchs_arguments() -> None:
    """`mode`, and inference_mode(False), which records, also as a decorator."""
    with tg.set_grad_enabled(mode=False):
        assert not is_grad_enabled()
        with inference_mode(mode=False):
            assert is_grad_enabled()
        assert inference_mode(False)(is_grad_enabled)()
    with inference_mode(True):
        assert not is_grad_enabled()


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
