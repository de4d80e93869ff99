"""A script that repeats a failed check: the function, its inputs and the call, as source text."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from ..autograd import Variable

#: Arrays up to this many elements are written out; larger ones go to a file.
WRITTEN_OUT = 128
#: What `repr` spells so that it can be pasted.
PLAIN = (int, float, str, bool, tuple, type(None))


def reproducer(check: str, fn: Any, inputs: Sequence[Any], options: str) -> str:
    """Source text that imports, rebuilds the inputs and calls the check."""
    imports = {"import numpy as np", "import tinygrad_cnn as tg", f"from tinygrad_cnn.testing import {check}"}
    lines = [_function(fn, imports), *_inputs(inputs)]
    lines.append(f"{check}(fn, inputs{options})")
    return "\n".join([*sorted(imports), "", *lines])


def _inputs(inputs: Sequence[Any]) -> list[str]:
    arrays = {f"a{i}": x._array for i, x in enumerate(inputs) if isinstance(x, Variable)}
    large = {name: x for name, x in arrays.items() if x.size > WRITTEN_OUT}
    lines = []
    if large:
        with tempfile.NamedTemporaryFile(suffix=".npz", prefix="gradcheck-", delete=False) as file:
            np.savez_compressed(file, **large)  # type: ignore[arg-type]
        lines += [f"with np.load({Path(file.name).as_posix()!r}) as file:", "    saved = dict(file)"]
    parts = []
    for i, x in enumerate(inputs):
        name = f"a{i}"
        if not isinstance(x, Variable):
            parts.append(repr(x))
        elif name in large:
            parts.append(f"tg.from_numpy(saved[{name!r}])")
        else:
            parts.append(_tensor(x._array))
    inner = "".join(f"    {part},\n" for part in parts)
    return [*lines, f"inputs = [\n{inner}]"]


def _tensor(x: np.ndarray) -> str:
    values = repr(x.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    made = f"np.array({values}, np.{x.dtype.name})"
    if x.size == 0:
        made += f".reshape({x.shape})"
    return f"tg.from_numpy({made})"


def _function(fn: Any, imports: set[str]) -> str:
    """`fn = ...`: imported by name, taken from its source, or left open where neither works."""
    if (expression := _expression(fn, imports)) is not None:
        return f"fn = {expression}"
    if inspect.isfunction(fn) and (text := _source(fn, imports)) is not None:
        return text
    return f"fn = ...  # put the function under test here: {fn!r}"


def _expression(fn: Any, imports: set[str]) -> str | None:
    if isinstance(fn, functools.partial):
        inner = _expression(fn.func, imports)
        if inner is None:
            return None
        words = [*map(repr, fn.args), *(f"{k}={v!r}" for k, v in fn.keywords.items())]
        imports.add("import functools")
        return f"functools.partial({', '.join([inner, *words])})"
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type) and (name := _imported(owner, imports)):  # Function.apply
        return f"{name}.{fn.__name__}"
    return _imported(fn, imports)


def _imported(thing: Any, imports: set[str]) -> str | None:
    """The name under which the thing's module has it, after adding the import."""
    module = getattr(thing, "__module__", None) or getattr(getattr(thing, "forward", None), "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "name", None)
    if not module or not name or not str(name).isidentifier():
        return None
    if getattr(sys.modules.get(module), name, None) is not thing:
        return None
    if module == "__main__":  # a script: pasted beside it, its file's name is importable
        module = Path(getattr(sys.modules[module], "__file__", None) or "").stem
        if not module.isidentifier():
            return None
    imports.add(f"from {module} import {name}")
    return str(name)


def _source(fn: Callable[..., Any], imports: set[str]) -> str | None:
    """The function's text, with the modules, functions and plain values that it refers to; None if one is neither."""
    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        return None
    names: dict[str, Any] = {}
    variables = inspect.getclosurevars(fn)
    names |= {**variables.globals, **variables.nonlocals}
    lines = []
    for name, value in names.items():
        if isinstance(value, ModuleType):
            imports.add(f"import {value.__name__} as {name}")
        elif imported := _imported(value, imports):
            if imported != name:
                lines.append(f"{name} = {imported}")
        elif isinstance(value, PLAIN):
            lines.append(f"{name} = {value!r}")
        else:
            return None
    if fn.__name__ != "<lambda>":
        return "\n".join([*lines, text.rstrip(), f"fn = {fn.__name__}"])
    expression = _lambda(text, fn)
    return None if expression is None else "\n".join([*lines, f"fn = {expression}"])


def _lambda(text: str, fn: Callable[..., Any]) -> str | None:
    """The text of the lambda among those of its statement that compiles to fn's code."""
    for attempt in (text, f"({text.strip().rstrip(',')})", "_" + text.strip().rstrip(",") + ")"):
        try:
            tree = ast.parse(attempt)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Lambda) and _shape(_code(node)) == _shape(fn.__code__):
                if not all(isinstance(value, PLAIN) for value in fn.__defaults__ or ()):
                    return None
                node.args.defaults = [ast.parse(repr(value), mode="eval").body for value in fn.__defaults__ or ()]
                return ast.unparse(node)
    return None


def _code(node: ast.Lambda) -> CodeType:
    """What the lambda compiles to, with defaults left out."""
    bare = ast.parse(ast.unparse(node), mode="eval")
    assert isinstance(bare.body, ast.Lambda)
    bare.body.args.defaults = []
    constants = compile(bare, "lambda", "eval").co_consts
    return next(constant for constant in constants if isinstance(constant, CodeType))


def _shape(code: CodeType) -> tuple[Any, ...]:
    """What tells lambdas apart, wherever they stand: their names and constants."""
    plain = [constant for constant in code.co_consts if not isinstance(constant, CodeType)]
    return code.co_varnames, {*code.co_names, *code.co_freevars}, plain
