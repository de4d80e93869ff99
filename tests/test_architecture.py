"""Imports flow one way: user -> nn -> tensor -> ops -> kernels."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import tinygrad_cnn

ROOT = Path(tinygrad_cnn.__file__).parent
#: From the bottom up; a module may import its own layer and those before it. What is not named is the user's layer.
LAYERS = [
    {"kernels"},
    {"device", "dtypes"},
    {"autograd", "op"},
    {"ops", "inplace", "random"},  # dropout and fill_ are ops that draw and write
    {"printing", "tensor"},
    {"creation", "io"},
    {"nn"},
    {"optim", "data", "testing"},
]


def layer(module: str) -> int:
    return next((i for i, names in enumerate(LAYERS) if module in names), len(LAYERS))


def imported(path: Path) -> set[str]:
    """The package's top-level modules that a file imports when it is imported."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            names = [alias.name for alias in node.names] if base == [""] else [next(part for part in base if part)]
            found |= set(names)
    return found


def test_imports_never_point_back() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent != ROOT or path.name != "__init__.py"
        for name in imported(path)
        if layer(name) > layer(path.relative_to(ROOT).with_suffix("").parts[0])
    ]
    assert wrong == []


def test_kernels_import_nothing_of_the_rest_and_ops_no_tensor() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        assert imported(path) <= {"kernels"}, path
    for path in (ROOT / "ops").rglob("*.py"):
        assert not imported(path) & {"tensor", "nn"}, path


IMPORT = """
import sys
import numba
import tinygrad_cnn
from numba.np.ufunc import parallel

print(parallel._is_initialized, *sys.modules)
"""


def test_the_import_starts_no_thread_and_brings_only_what_training_needs() -> None:
    """It takes 48 ms beyond NumPy's and Numba's; Numba's array code alone would add 17, testing 5."""
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent), "TINYGRAD_CNN_CACHE_DIR": "/dev/null/nowhere"}
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True, env=environment, timeout=60
    )
    assert out.returncode == 0, out.stderr
    started, *modules = out.stdout.split()
    assert started == "False"
    extra = {"numba.np.arrayobj", "tinygrad_cnn.testing", "argparse", "hypothesis", "tqdm", "matplotlib", "pooch"}
    assert extra.isdisjoint(modules)
