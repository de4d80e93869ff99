"""The pytest plugin: it collects records as tests, and runs gradient tests alone with `--gradcheck=fast|full`.

pytest finds it where tinygrad_cnn is installed; `-p no:tinygrad_cnn.testing.plugin` leaves it out.
"""

from __future__ import annotations

from typing import Any

import pytest

from .properties import property_test, register_profiles
from .records import OpRecord

#: Examples of each gradient test that does not say how many it wants.
EXAMPLES = {"fast": 10, "full": 1000}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("tinygrad_cnn").addoption(
        "--gradcheck",
        choices=list(EXAMPLES),
        help="run the gradient tests alone (OpRecords, @property_test_gradients and what is marked `gradcheck`), "
        + " or ".join(f"{level}: {n} examples each" for level, n in EXAMPLES.items()),
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gradcheck: a test of gradients, one that --gradcheck=fast|full runs")
    level = config.getoption("--gradcheck")
    if level is not None:
        from hypothesis import settings

        register_profiles()
        base = settings.get_profile("ci" if level == "fast" else "nightly")
        settings.register_profile("gradcheck", base, max_examples=EXAMPLES[level])
        settings.load_profile("gradcheck")


def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Any:
    """Two tests of a record in a test module: its checks, and its errors if it names some."""
    if not isinstance(obj, OpRecord):
        return None
    tests = {name: property_test(obj)} | ({f"{name}.errors": obj.check_errors} if obj.errors else {})
    return [pytest.Function.from_parent(collector, name=key, callobj=test) for key, test in tests.items()]


def pytest_itemcollected(item: Any) -> None:
    test = getattr(item, "obj", None)
    if isinstance(getattr(test, "record", None) or getattr(test, "__self__", None), OpRecord):
        item.add_marker("gradcheck")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--gradcheck") is not None:
        others = [item for item in items if item.get_closest_marker("gradcheck") is None]
        items[:] = [item for item in items if item.get_closest_marker("gradcheck") is not None]
        config.hook.pytest_deselected(items=others)
