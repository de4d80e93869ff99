"""The compiler's wrapper: kernels in parts on every threading layer, and the cache on disk between processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary

from tinygrad_cnn import cli, kernels
from tinygrad_cnn.kernels import compile as compiler

USE = """
import numpy as np
from tinygrad_cnn.kernels import count_compiles
from tinygrad_cnn.kernels.cpu import elementwise
from tinygrad_cnn.kernels.cpu.softmax import label_range

with count_compiles() as total:
    low, high = label_range(np.array([4, 9, 6]), -100)
    empty = label_range(np.array([-100]), -100)
print(low, high, *empty, total.count)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the kernels alone: imported in no time, and free to edit."""
    target = tmp_path / "source" / "tinygrad_cnn" / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__", "cuda"))
    (target.parent / "__init__.py").touch()
    (target / "cpu" / "__init__.py").write_text("")
    return tmp_path / "source"


def start(script: str, package: Path, cache: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "TINYGRAD_CNN_"))}
    environment |= {"PYTHONPATH": str(package), "TINYGRAD_CNN_CACHE_DIR": str(cache)} | variables
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", script],
        env=environment,
        cwd=package,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[list[int], str]:
    """The numbers that a script printed, and its stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [int(word) for word in out.split()], err


def run(script: str, package: Path, cache: Path, **variables: str) -> tuple[list[int], str]:
    return finish(start(script, package, cache, **variables))


def test_the_second_process_compiles_nothing(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (*numbers, compiled), _ = run(USE, package, cache)
    assert numbers == [4, 9, 0, -1]
    assert compiled == 1
    assert run(USE, package, cache)[0] == [4, 9, 0, -1, 0]
    (path,) = cache.rglob("*.kernel")
    if hasattr(os, "getuid"):
        assert path.parent.stat().st_mode & 0o077 == 0  # the files are pickles: nobody else may write them


SIGMOID = """
import numpy as np
from tinygrad_cnn.kernels import count_compiles
from tinygrad_cnn.kernels.cpu import elementwise

with count_compiles() as total:
    half = elementwise.sigmoid(np.zeros(3))[0]
print(int(100 * half), total.count)
"""


def test_an_edit_of_a_helper_in_another_file_compiles_anew(package: Path, tmp_path: Path) -> None:
    assert run(SIGMOID, package, tmp_path / "cache")[0] == [50, 1]
    helper = package / "tinygrad_cnn/kernels/cpu/vector_math.py"
    helper.write_text(helper.read_text().replace("return s * _power", "return 3.0 * s * _power"))
    assert run(SIGMOID, package, tmp_path / "cache")[0] == [25, 1]


def test_a_damaged_file_is_compiled_anew_and_mended(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(USE, package, cache)
    (path,) = cache.rglob("*.kernel")
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for damaged in (b"", good[: len(good) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        (*numbers, compiled), err = run(USE, package, cache)
        assert numbers == [4, 9, 0, -1]
        assert compiled > 0
        assert "Traceback" not in err
        assert path.read_bytes() != damaged
    assert run(USE, package, cache)[0][-1] == 0


def test_a_folder_that_cannot_be_written_gives_one_warning(package: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    numbers, err = run(USE + "elementwise.relu(np.ones(5000))", package, blocked)
    assert numbers[:4] == [4, 9, 0, -1]
    assert err.count("RuntimeWarning: compiled kernels are not cached") == 1
    assert "TINYGRAD_CNN_CACHE_DIR" in err


READ_ONLY = """
import tempfile

def refuse(**options):
    raise PermissionError("read-only file system")

tempfile.NamedTemporaryFile = refuse
"""


def test_a_folder_that_can_only_be_read_is_read(package: Path, tmp_path: Path) -> None:
    """The image of a container, say; root may write anywhere, so the refusal is made up."""
    cache = tmp_path / "cache"
    script = READ_ONLY + USE + "elementwise.relu(np.ones(5000))"
    (*numbers, compiled), err = run(script, package, cache)
    assert (numbers, compiled) == ([4, 9, 0, -1], 1)
    assert err.count("RuntimeWarning: compiled kernels are not cached: read-only file system") == 1  # for two kernels
    run(USE, package, cache)
    (*numbers, compiled), err = run(READ_ONLY + USE, package, cache)
    assert (numbers, compiled) == ([4, 9, 0, -1], 0)
    assert "Warning" not in err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are a Unix thing")
@pytest.mark.parametrize("shared", ["mode", "owner"])
def test_a_folder_that_others_may_write_is_not_trusted(shared: str, package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(USE, package, cache)
    (path,) = cache.rglob("*.kernel")
    setting = ""
    if shared == "mode":
        path.parent.chmod(0o770)
    else:  # seen by another user
        setting = "import os\nos.getuid = lambda: 4711\n"
        if os.getuid() == 0:
            os.chown(path.parent, 4712, -1)
    (*numbers, compiled), err = run(setting + USE, package, cache)
    assert (numbers, compiled) == ([4, 9, 0, -1], 1)
    assert err.count("RuntimeWarning: compiled kernels are not cached: other users can write in") == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_roots_is_trusted(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(USE, package, cache)
    (*_, compiled), err = run("import os\nos.getuid = lambda: 4711\n" + USE, package, cache)
    assert compiled == 0
    assert "Warning" not in err


def test_eight_processes_cold_at_once(package: Path, tmp_path: Path) -> None:
    processes = [start(USE, package, tmp_path / "cache") for _ in range(8)]
    for numbers, err in [finish(process) for process in processes]:
        assert numbers[:4] == [4, 9, 0, -1]
        assert "Warning" not in err
    folder = next((tmp_path / "cache").iterdir())
    assert [path.suffix for path in folder.iterdir()] == [".kernel"]  # one file, and nothing temporary


PARTS = """
import os, sys
import numpy as np
from tinygrad_cnn import kernels
from tinygrad_cnn.kernels import jit, launch, set_num_threads

@jit(parts=True)
def count(out, step, p, parts):
    out[p] += step + parts

for parts in (1, 2, 3, 7):
    out = np.zeros(8, np.int64)
    count(out, 1, parts)
    assert out.tolist() == [1 + parts] * parts + [0] * (8 - parts), out
out = np.zeros(8, np.int64)
set_num_threads(5)
launch(count, out, 1, work=1e9)
assert out.tolist() == [6] * 5 + [0] * 3, out
if hasattr(os, "fork") and "fork" in sys.argv:
    pid = os.fork()
    if pid == 0:
        launch(count, out, 1, work=1e9)
        os._exit(0 if out[0] == 8 else 1)
    assert os.waitpid(pid, 0)[1] == 0
print(0)
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue", "disabled"])
def test_every_part_runs_once_cold_and_from_the_cache(layer: str, package: Path, tmp_path: Path) -> None:
    if layer == "disabled":
        variables = {"NUMBA_DISABLE_JIT": "1"}
    else:
        variables = {"NUMBA_THREADING_LAYER": layer}
        try:
            __import__(f"numba.np.ufunc.{layer}pool" if layer == "omp" else "numba.np.ufunc.workqueue")
        except ImportError:
            pytest.skip(f"this build of Numba has no {layer}")
    for _ in range(2):
        assert run(PARTS, package, tmp_path / "cache", **variables)[0] == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child by fork is a Unix thing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forks in threaded processes
def test_a_forked_child_computes(package: Path, tmp_path: Path) -> None:
    script = PARTS.replace('"fork" in sys.argv', "True")
    assert run(script, package, tmp_path / "cache")[0] == [0]


def test_a_notice_names_the_kernel(package: Path, tmp_path: Path) -> None:
    script = "from tinygrad_cnn.kernels import compile\ncompile.NOTICE_AFTER = 0.01\n" + USE
    _, err = run(script, package, tmp_path / "cache")
    assert "tinygrad_cnn: compiling" in err
    assert "label_range, cached for next time" in err
    _, err = run(script, package, tmp_path / "cache")
    assert "compiling" not in err


@kernels.jit(parts=True)
def shares(out, sizes: Sequence[int], p, parts):  # type: ignore[no-untyped-def]
    lo, hi = p * out.size // parts, (p + 1) * out.size // parts
    for i in range(lo, hi):
        out[i] = p


def test_a_region_runs_in_one_part_while_another_holds_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    out, sizes = np.zeros(100), np.zeros(1)
    monkeypatch.setattr(kernels, "_threads", 4)
    kernels.launch(shares, out, sizes, work=1e9)
    assert set(out) == {0, 1, 2, 3}
    with kernels._region:
        kernels.launch(shares, out, sizes, work=1e9)
    assert set(out) == {0}


@kernels.jit(parts=True)
def with_memory_of_its_own(out, p, parts):  # type: ignore[no-untyped-def]
    out[p] = np.empty(3).size


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain Python allocates")
def test_a_kernel_cannot_allocate() -> None:
    """Numba's reference counts are off: with them each view made in a loop is an atomic operation."""
    with pytest.raises(numba.core.errors.TypingError, match="empty"):
        with_memory_of_its_own(np.zeros(2), 2)


def test_a_user_without_a_home_gets_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("TINYGRAD_CNN_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compiler, "_warned", False)
    with pytest.warns(RuntimeWarning, match="not cached: this user has no home folder; set TINYGRAD_CNN_CACHE_DIR"):
        assert compiler._folder.__wrapped__() is None
    with pytest.raises(SystemExit, match="warmup: this user has no home folder"):
        cli.main(["warmup"])


def test_folder_of_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGRAD_CNN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    assert compiler.cache_dir() == Path("/somewhere/tinygrad_cnn")
    monkeypatch.setattr(compiler.sys, "platform", "darwin")
    assert compiler.cache_dir() == Path.home() / "Library" / "Caches" / "tinygrad_cnn"
    monkeypatch.setenv("TINYGRAD_CNN_CACHE_DIR", "/mine")
    assert compiler.cache_dir() == Path("/mine")


@compiler.inner
def _twice(x):  # type: ignore[no-untyped-def]
    return x + x


@compiler.jit(parts=True)
def _double(x, part, parts):  # type: ignore[no-untyped-def]
    for i in range(x.size * part // parts, x.size * (part + 1) // parts):
        x[i] = _twice(x[i])


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_what_a_kernel_calls_becomes_machine_code_in_the_kernel_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba makes machine code of each function, and of a kernel's body once more: half as much time again."""
    libraries = []
    finalize = JITCodeLibrary._finalize_specific
    monkeypatch.setattr(
        JITCodeLibrary, "_finalize_specific", lambda self: (libraries.append(self.name), finalize(self))
    )
    _double._cache.disable()
    x = np.arange(5)
    _double(x, 2)
    np.testing.assert_array_equal(x, [0, 2, 4, 6, 8])
    assert [name for name in libraries if name != "nrt"] == ["kernel"]  # nrt is Numba's own, once in a process


def _sum_of(x):  # type: ignore[no-untyped-def]
    return _twice(x[0]) + x[1]


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_dispatcher_is_made_on_first_use_and_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel called by its name in its module pays for that once; what held it before still works."""
    kernel = compiler.jit(_sum_of)
    monkeypatch.setitem(globals(), "_sum_of", kernel)
    assert _sum_of(np.array([1, 3])) == 5
    assert _sum_of is kernel.dispatcher and _sum_of is not kernel
    assert kernel(np.array([2, 3])) == 7
