"""The mutation score: how many of the seeded bugs in `bugs/` the gradient suite sees.

    python -m tests.mutation.score                    # all of them, some 25 minutes on one core
    python -m tests.mutation.score --only 'conv*'     # by name
    python -m tests.mutation.score --jobs 2 --keep results.json

Each bug is put into a copy of the tree in a temporary folder, never into the tree itself, and the tests of its file's
family run there until one fails. First the same tests have to pass in the copy as it is. Exit status 1 below 98 %.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tinygrad_cnn.kernels import cache_dir
from tinygrad_cnn.kernels.compile import hash_of_sources

ROOT = Path(__file__).parents[2]
LEAST = 0.98
LIMIT = 300  # seconds for the tests of one bug
OPTIONS = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no"]
WITHOUT = "without a bug:"

RECORDS = "tests/records/test_records.py::test_record"
LAWS = "tests/testing/test_laws.py::test_"
FUSED = ("tests/testing/test_networks.py", "tests/nn/test_fusion.py")
TAPE = ("tests/testing/test_machine.py", "tests/autograd")


class Family(NamedTuple):
    """What looks at a file: records by module and name, laws, other tests, and for kernels the tests of their own."""

    records: tuple[str, ...] = ()  # "module: pattern ..."
    laws: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()


FAMILIES = {
    "elementwise": Family(("elementwise: *",), (), (), ("elementwise",)),
    "in place": Family(("elementwise: *_", "index: *_ setitem*"), (), TAPE),
    "autograd": Family(("elementwise: add mul maximum exp tanh", "shape: T select expand"), (), TAPE),
    "reduce": Family(("reduce: *",), ("gradients_of_softmax_sum_to_zero",), (), ("reduce",)),
    "shape": Family(("shape: *",), ("padding_is_to_pad*", "every_padding_mode*", "nearest_upsampling*")),
    "index": Family(("index: *", "shape: diagonal tri* narrow select split*"), ()),
    "matmul": Family(
        ("layers: matmul outer linear",), ("a_batch_of_rows*", "a_kernel_of_one*"), FUSED, ("matmul", "simd"),
    ),
    "conv": Family(
        ("layers: conv*",),
        ("groups*", "depthwise*", "stride*", "dilation*", "padding_is*", "a_batch_is_its_parts", "a_kernel_of_one*",
         "the_order_of*", "accumulated*"),
        FUSED, ("conv", "conv_pixels", "conv_winograd", "conv_depthwise"),
    ),
    "pool": Family(("layers: *pool*",), ("max_pools*", "disjoint*", "gradients_are_linear*"), FUSED, ("pool",)),
    "norm": Family(("layers: *norm*",), ("batch_norm*",), (*FUSED, "tests/autograd/test_rebuilt.py"), ("norm",)),
    "loss": Family(
        ("layers: *entropy* *loss", "reduce: *softmax"), ("gradients_of_softmax*", "cross_entropy*"), (), ("softmax",),
    ),
    "dropout": Family(("layers: dropout*",), (), (), ("random",)),
}  # fmt: skip
#: The families that look at a file, by the first pattern that fits it.
FILES = {
    "ops/index.py": ("index", "in place"),
    "ops/*.py": ("{stem}",),
    "inplace.py": ("in place",),
    "autograd/*.py": ("autograd",),
    "op.py": ("autograd",),
    "kernels/cpu/vector_math.py": ("elementwise", "loss"),
    "kernels/cpu/softmax.py": ("loss",),
    "kernels/cpu/strips.py": ("norm",),
    "kernels/cpu/simd.py": ("matmul", "conv"),
    "kernels/cpu/con[tv]*.py": ("conv",),
    "kernels/cpu/winograd*.py": ("conv",),
    "kernels/cpu/depthwise*.py": ("conv",),
    "kernels/cpu/random.py": ("dropout",),
    "kernels/cpu/*.py": ("{stem}",),
}
#: What a list of bugs should not do: code that does not even run is no bug worth finding.
BROKEN = re.compile(
    r"(Import|ModuleNotFound|Name|UnboundLocal|Attribute|Type|Syntax|Indentation)Error|numba\.core\.errors"
)


class Bug(NamedTuple):
    name: str
    file: str  # below tinygrad_cnn
    old: str
    new: str

    @property
    def families(self) -> list[str]:
        names = next(names for pattern, names in FILES.items() if fnmatch.fnmatch(self.file, pattern))
        return [name.format(stem=Path(self.file).stem) for name in names]

    def applied(self, source: str) -> str:
        """The source with the bug; ValueError unless its old text occurs exactly once."""
        if (found := source.count(self.old)) != 1:
            raise ValueError(f"{self.name!r}: the old text occurs {found} times in {self.file}, not once")
        return source.replace(self.old, self.new)


class Result(NamedTuple):
    state: str  # caught or missed, without a bug passed or failed; or what went wrong
    by: str  # the first test that failed, and how
    seconds: float


def bugs() -> list[Bug]:
    """All of them, in the order of the files of the list."""
    return [
        Bug(entry["name"], file, entry["old"], entry["new"])
        for path in sorted(Path(__file__).parent.glob("bugs/*.toml"))
        for file, entries in tomllib.loads(path.read_text()).items()
        for entry in entries
    ]


def tests_of(bug: Bug) -> list[str]:
    """The pytest arguments for a bug: the records of its families, laws, and the property tests of its kernels."""
    return suite(bug.families, bug.file.startswith("kernels"))


def suite(names: Sequence[str], kernels: bool) -> list[str]:
    """The pytest arguments for families, with the tests of their kernels or without."""
    families = [FAMILIES[name] for name in names]
    found = [f"tests/kernels/test_{name}.py" for family in families for name in family.kernels if kernels]
    found += [f"{RECORDS}[{name}]" for family in families for some in family.records for name in _records(some)]
    found += [LAWS + law for law in _laws() if any(fnmatch.fnmatch(law, p) for family in families for p in family.laws)]
    return list(dict.fromkeys(found + [test for family in families for test in family.tests]))


def _records(patterns: str) -> list[str]:
    module, _, names = patterns.partition(":")
    records = importlib.import_module(f"tests.records.{module}").RECORDS
    return [r.name for r in records if any(fnmatch.fnmatchcase(r.name, pattern) for pattern in names.split())]


def _laws() -> list[str]:
    tree = ast.parse((ROOT / "tests/testing/test_laws.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name.removeprefix("test_") for name in names if name.startswith("test_")]


# ------------------------------------------------------------------------------------------------------- a copy


class Copy:
    """The tree in a folder of its own, in which one bug at a time is put and tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tinygrad_cnn", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.kernels = folder / "tinygrad_cnn" / "kernels"

    def check(self, bug: Bug, tests: Sequence[str] | None = None) -> Result:
        """Whether the tests of the bug's families (or these) fail where the bug is."""
        with self._with(bug):
            result = self.run(tests or tests_of(bug), seeded=bug.file)
        found = {"passed": "missed", "failed": "broken" if BROKEN.search(result.by) else "caught"}
        return result._replace(state=found.get(result.state, result.state))

    def run(self, tests: Sequence[str], seeded: str = "") -> Result:
        """Run tests in the copy until one fails."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as own:
            cache = cache_dir()
            if seeded.startswith("kernels"):
                cache = Path(own)
                self._seed(Path(seeded).stem, cache / hash_of_sources(self.kernels))
            environment = os.environ | {
                "PYTHONPATH": str(self.folder),
                "HYPOTHESIS_PROFILE": "mutation",
                "TINYGRAD_CNN_CACHE_DIR": str(cache),
                "COLUMNS": "1000",  # pytest cuts the summary to it
            }
            command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
            try:
                done = subprocess.run(
                    command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT
                )
            except subprocess.TimeoutExpired:
                return Result(f"not done in {LIMIT} s", "", time.perf_counter() - start)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - ([\w.]*).*)?$", done.stdout, re.MULTILINE)
        by = ": ".join(filter(None, failed.groups())) if failed else done.stdout[-300:] if done.returncode else ""
        state = {0: "passed", 1: "failed"}.get(done.returncode, f"pytest ended with {done.returncode}")
        return Result(state, by, time.perf_counter() - start)

    @contextlib.contextmanager
    def _with(self, bug: Bug) -> Iterator[None]:
        path = self.folder / "tinygrad_cnn" / bug.file
        source = path.read_text()
        self._write(path, bug.applied(source))
        try:
            yield
        finally:
            self._write(path, source)

    def _write(self, path: Path, source: str) -> None:
        path.write_text(source)
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)  # it knows seconds and size alone

    def _seed(self, stem: str, folder: Path) -> None:
        """Give a changed set of kernels the machine code of those that the change cannot reach."""
        folder.mkdir(mode=0o700, parents=True)
        reached = _reached(self.kernels, stem)
        base = cache_dir() / hash_of_sources(ROOT / "tinygrad_cnn" / "kernels")
        for path in base.glob("*.kernel"):
            if path.name.partition(".")[0] not in reached:
                shutil.copy(path, folder)


def _reached(kernels: Path, stem: str) -> set[str]:
    """The module and those that import from it, directly or not."""
    uses = {path.stem: _imported(path) for path in kernels.rglob("*.py") if path.stem != "__init__"}
    reached = {stem}
    while more := {name for name, used in uses.items() if used & reached} - reached:
        reached |= more
    return reached


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
    return found


# ---------------------------------------------------------------------------------------------------- the score


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="bugs whose name or file fits")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="a file of results, to go on from after a stop")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more bugs after that time")
    options = parser.parse_args(arguments)
    chosen = [b for b in bugs() if any(fnmatch.fnmatch(text, options.only) for text in (b.name, b.file))]
    end = time.monotonic() + options.seconds
    results, printing = _kept(options.keep), threading.Lock()
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for i in range(options.jobs):
            copies.put(Copy(Path(folder) / str(i)))

        def work(name: str, task: Callable[[Copy], Result]) -> None:
            if name in results or time.monotonic() > end:
                return
            copy = copies.get()
            try:
                results[name] = task(copy)
            finally:
                copies.put(copy)
            with printing:
                print(
                    f"{results[name].seconds:6.1f} s  {results[name].state:6}  {name}  {results[name].by}", flush=True
                )
                if options.keep:
                    options.keep.write_text(json.dumps([_tree(), results]))

        families = dict.fromkeys(name for bug in chosen for name in bug.families)
        whole = {f"{WITHOUT} {name}": lambda copy, n=name: copy.run(suite([n], True)) for name in families}
        seeded = {bug.name: lambda copy, b=bug: copy.check(b) for bug in chosen}
        for tasks in (whole, seeded):  # without bugs first: that compiles the kernels that most bugs share
            list(pool.map(work, tasks, tasks.values()))
    return _report(chosen, results)


def _tree() -> str:
    """A hash of all sources: results of another tree are worth nothing."""
    digest = hashlib.sha256()
    for folder in ("tinygrad_cnn", "tests"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if path.suffix in (".py", ".toml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _kept(path: Path | None) -> dict[str, Result]:
    if path is None or not path.exists():
        return {}
    tree, results = json.loads(path.read_text())
    return {name: Result(*result) for name, result in results.items()} if tree == _tree() else {}


def _report(chosen: Sequence[Bug], results: dict[str, Result]) -> int:
    """Print the score by families and what was missed; 1 unless it is high enough."""
    done = [bug for bug in chosen if bug.name in results]
    caught = [bug for bug in done if results[bug.name].state == "caught"]
    print(f"\n{'family':24}  caught  of  seconds")
    for family in dict.fromkeys(_family(bug) for bug in done):
        some = [bug for bug in done if _family(bug) == family]
        seconds = sum(results[bug.name].seconds for bug in some)
        print(f"{family:24}  {sum(bug in caught for bug in some):6}  {len(some):2}  {seconds:7.0f}")
    for bug in done:
        if bug not in caught:
            print(f"{results[bug.name].state}: {bug.name} ({bug.file})  {results[bug.name].by}")
    failing = [name for name, result in results.items() if name.startswith(WITHOUT) and result.state != "passed"]
    for name in failing:
        print(f"fails {name}: {results[name].by}")
    total = sum(result.seconds for result in results.values())
    score = len(caught) / max(len(done), 1)
    left = f", {len(chosen) - len(done)} not run" if len(done) < len(chosen) else ""
    print(f"score: {len(caught)} of {len(done)} bugs, {score:.1%}{left}, {total:.0f} s")
    return int(score < LEAST or bool(failing))


def _family(bug: Bug) -> str:
    return f"{'kernels: ' if bug.file.startswith('kernels') else ''}{bug.families[0]}"


if __name__ == "__main__":
    sys.exit(main())
