"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil

import pytest

import tinygrad_cnn
from tinygrad_cnn.op import Op

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS_TORCH = {"tinygrad_cnn.bench.side_torch"}  # run in another interpreter; it has no example
MODULES = sorted({m.name for m in pkgutil.walk_packages(tinygrad_cnn.__path__, "tinygrad_cnn.")} - NEEDS_TORCH)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    for key, value in vars(module).items():  # an op is an object with a docstring of its own
        if isinstance(value, Op) and value.__module__ == name and value.__doc__:
            parser = doctest.DocTestParser()
            tests.append(parser.get_doctest(inspect.getdoc(value) or "", {}, f"{name}.{key}", None, None))
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        for test in tests:
            runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()
