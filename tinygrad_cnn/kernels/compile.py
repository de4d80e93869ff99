"""Compile kernels with Numba and keep the machine code on disk between runs.

Numba's own cache is keyed by the file of one kernel, so editing a helper in another file runs stale code, and
two processes that compile different signatures at once can store one under the other's name. Here one file holds
one compiled signature, its name is a hash of everything the code depends on, and it appears by an atomic rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching, event

#: Seconds of compiling after which a line on stderr says what the user is waiting for.
NOTICE_AFTER = 1.0


def jit(fn: Callable[..., Any] | None = None, *, parallel: bool = False) -> Any:
    """Compile a module-level kernel on first use, without the GIL, cached on disk.

    Floating-point contraction (a * b + c as one FMA) is allowed; NaN, Inf and the order of sums are kept.
    """
    if fn is None:
        return lambda f: jit(f, parallel=parallel)
    kernel = numba.njit(nogil=True, parallel=parallel, error_model="numpy", fastmath={"contract"})(fn)
    if not numba.config.DISABLE_JIT:
        kernel._cache = KernelCache(fn)
        _ours[fn.__qualname__] = fn
    return kernel


def cache_dir() -> Path:
    """The folder of compiled kernels: `TINYGRAD_CNN_CACHE_DIR`, or `tinygrad_cnn` in the user's cache folder."""
    if chosen := os.environ.get("TINYGRAD_CNN_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinygrad_cnn"


@cache
def _folder() -> Path | None:
    """This version's private subfolder, or None (with one warning) where it cannot be written or is not ours."""
    folder = cache_dir() / _source_hash()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(
            f"compiled kernels are not cached: {error}; set TINYGRAD_CNN_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


@cache
def _source_hash() -> str:
    """One hash over all kernel sources and the versions that turn them into code."""
    digest = hashlib.sha256(f"{sys.version}{numba.__version__}{llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class KernelCache(caching._Cache):
    """Numba's cache interface over one file per kernel and signature; anything unreadable is a miss."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(_folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for path in (_folder() or Path()).glob(f"{self._fn.__name__}-*.kernel"):
            path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            payload = path.read_bytes()
            if hashlib.sha256(payload[32:]).digest() != payload[:32]:
                return None  # cut short or damaged: compile anew and overwrite
            return numba.core.compiler.CompileResult._rebuild(target_context, *pickle.loads(payload[32:]))
        except Exception:  # a cache never stops a program: whatever is wrong with the file, compiling mends it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        payload = numba.core.serialize.dumps(data._reduce())
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(file.name, path)
        except OSError as error:
            warnings.warn(f"could not cache a compiled kernel: {error}", RuntimeWarning, stacklevel=2)

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = _folder() if self._enabled else None
        if folder is None:
            return None
        key = f"{self._fn.__module__}.{self._fn.__qualname__}{sig}{codegen.magic_tuple()}"
        return folder / f"{self._fn.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"


_ours: dict[str, Callable[..., Any]] = {}


class _Notice(event.Listener):
    """Prints "compiling ..." once a kernel of ours has kept the user waiting for NOTICE_AFTER seconds."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def on_start(self, event: Any) -> None:
        name = event.data["dispatcher"].py_func.__qualname__
        text = f"tinygrad_cnn: compiling {name.strip('_')}, cached for next time" if name in _ours else ""
        timer = threading.Timer(NOTICE_AFTER, lambda: text and print(text, file=sys.stderr, flush=True))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def on_end(self, event: Any) -> None:
        self._timers.pop().cancel()


event.register("numba:compile", _Notice())


class CompileCount:
    """What `count_compiles` yields: the number of kernels compiled so far and the seconds that took."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class _Counter(event.Listener):
    def __init__(self, total: CompileCount) -> None:
        self._total = total
        self._starts: list[float] = []

    def on_start(self, event: Any) -> None:
        self._starts.append(time.perf_counter())

    def on_end(self, event: Any) -> None:
        self._total.count += 1
        self._total.seconds += time.perf_counter() - self._starts.pop()


@contextlib.contextmanager
def count_compiles() -> Iterator[CompileCount]:
    """Count the kernels that Numba compiles inside the block; those loaded from the cache do not count."""
    total = CompileCount()
    with event.install_listener("numba:compile", _Counter(total)):
        yield total
