"""Compile kernels with Numba and keep the machine code on disk between runs.

Numba's own cache is keyed by the file of one kernel, so editing a helper in another file runs stale code,
and two processes that compile different signatures at once can store one under the other's name. Here one file
holds one compiled signature, its name hashes everything the code depends on, and it appears by an atomic rename.
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
import numpy as np
from llvmlite import ir
from llvmlite.binding import ffi
from numba.core import caching, cgutils, event, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.targetconfig import ConfigStack
from numba.extending import intrinsic, typeof_impl
from numba.np.ufunc.parallel import _launch_threads

from .pipeline import InnerCompiler, KernelCompiler, compile_into

#: Seconds of compiling after which a line on stderr says what the user is waiting for.
NOTICE_AFTER = 1.0


def jit(fn: Callable[..., Any] | None = None, *, parts: bool = False) -> Any:
    """Compile a module-level kernel on first use, without the GIL, cached on disk.

    Floating-point contraction (a * b + c as one FMA) is allowed; NaN, Inf and the order of sums are kept. Kernels
    cannot allocate, and count no references to their arrays: a view made in a loop was an atomic operation on a line
    that all threads wanted, 80 ns for each window of an average pool that itself takes 6.

    With `parts=True`, `fn(*args, p, parts)` computes share p of `parts` and returns nothing; the kernel made of
    it is called as `kernel(*args, parts)` and computes all shares in parallel. This compiles in a quarter of the
    time of a `prange` over the same shares: 0.45 s instead of 1.8 s for max-pool.
    """
    if fn is None:
        return lambda f: jit(f, parts=parts)
    if numba.config.DISABLE_JIT:
        return _all_parts(fn) if parts else np.errstate(all="ignore")(fn)  # machine code does not warn of overflow
    return Kernel(fn, parts)


def inner(fn: Callable[..., Any] | None = None, *, inline: bool = False, parts: bool = False) -> Any:
    """Compile a function that only kernels call, into each of them; `inline` also where LLVM would rather not.

    With `parts=True` it is as in `jit`: one of several passes over memory that a kernel makes in a row. To come back to
    Python in between takes 2 to 5 us.
    """
    if fn is None:
        return lambda f: inner(f, inline=inline, parts=parts)
    if parts:
        fn = _all_parts(fn)
    return fn if numba.config.DISABLE_JIT else _Inner(fn, inline)


class _Lazy:
    """A function of which Numba's dispatcher is made when it is first needed.

    To make one takes 0.1 ms, and importing tinygrad_cnn would make 160, after 10 ms of Numba's own preparations.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._made: Any = None
        self.__name__, self.__module__, self.__doc__ = fn.__name__, fn.__module__, fn.__doc__

    def _make(self) -> Any:
        raise NotImplementedError

    @property
    def dispatcher(self) -> Any:
        """The dispatcher, which also takes this object's place in its module."""
        if self._made is None:
            with global_compiler_lock:
                if self._made is None:
                    self._made = self._make()
            if self._fn.__globals__.get(self.__name__) is self:
                self._fn.__globals__[self.__name__] = self._made
        return self._made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # somebody only asks what this is
            raise AttributeError(name)
        return getattr(self.dispatcher, name)


class Kernel(_Lazy):
    """What `jit` makes of a function."""

    def __init__(self, fn: Callable[..., Any], parts: bool) -> None:
        super().__init__(fn)
        self._parts = parts

    def _make(self) -> Any:
        fn = self._fn
        kernel = _njit(_all_parts(fn) if self._parts else fn, pipeline_class=KernelCompiler, no_cfunc_wrapper=True)
        kernel._cache = KernelCache(fn)
        _ours[fn.__module__, fn.__qualname__] = fn
        return kernel

    def __call__(self, *args: Any) -> Any:
        return self.dispatcher(*args)


class _Inner(_Lazy):
    """What `inner` makes of a function, and the body of a kernel with parts."""

    def __init__(self, fn: Callable[..., Any], inline: bool = False) -> None:
        super().__init__(fn)
        self._inline = inline

    def _make(self) -> Any:
        wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        return _njit(self._fn, pipeline_class=InnerCompiler, forceinline=self._inline, **wrappers)


@typeof_impl.register(_Lazy)
def _type_of_lazy(value: _Lazy, context: Any) -> Any:
    return types.Dispatcher(value.dispatcher)


def _njit(fn: Callable[..., Any], **options: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, _nrt=False, **options)(fn)


def _all_parts(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function that hands its arguments and `parts` to `_for_each_part` of fn."""
    arguments = ", ".join(fn.__code__.co_varnames[: fn.__code__.co_argcount - 2])
    scope: dict[str, Any] = {"for_each_part": _for_each_part, "part": fn if numba.config.DISABLE_JIT else _Inner(fn)}
    exec(f"def {fn.__name__}({arguments}, parts):\n    for_each_part(part, ({arguments},), parts)\n", scope)
    every_part: Callable[..., Any] = scope[fn.__name__]
    every_part.__module__, every_part.__qualname__ = fn.__module__, fn.__qualname__
    return every_part


def _for_each_part(part: Callable[..., Any], args: tuple[Any, ...], parts: int) -> None:
    """`part(*args, p, parts)` for each p; here in plain Python, replaced below by a parallel region."""
    with np.errstate(all="ignore"):
        for p in range(parts):
            part(*args, p, parts)


def _for_each_part_typing(typing_context: Any, part: Any, args: Any, parts: Any) -> Any:
    """Numba's typing and code generation of `_for_each_part`.

    The arguments go by address to one small function, which the threading layer (or, for one part, the caller)
    runs over a range of p. The machine code of `part` is generated once; parfors generate it two or three times.
    """
    int64, byte, void = ir.IntType(64), ir.IntType(8), ir.VoidType()
    addresses = byte.as_pointer().as_pointer()
    share_type = ir.FunctionType(void, [addresses, int64.as_pointer(), int64.as_pointer(), byte.as_pointer()])
    part_signature = types.void(*args.types, types.intp, types.intp)

    def share(context: Any, builder: Any) -> ir.Function:
        """Runs dims[0] parts from the one whose number is where[1], on the tuple at where[0]; *data is `parts`."""
        compiled = compile_into(context, part.dispatcher.py_func, part_signature, ConfigStack().top().copy())
        function = ir.Function(builder.module, share_type, name=builder.module.get_unique_name("share"))
        function.linkage = "internal"
        body = ir.IRBuilder(function.append_basic_block())
        where, dims, _, data = function.args
        tuple_type = context.get_value_type(args)
        packed = body.load(body.bitcast(body.load(where), tuple_type.as_pointer()))
        values = cgutils.unpack_tuple(body, packed)
        first = body.ptrtoint(body.load(body.gep(where, [int64(1)])), int64)
        total = body.load(body.bitcast(data, int64.as_pointer()))
        callee = context.declare_function(builder.module, compiled)
        with cgutils.for_range(body, body.load(dims)) as loop:
            context.call_conv.call_function(
                body, callee, types.void, part_signature.args, [*values, body.add(first, loop.index), total]
            )
        body.ret_void()
        return function

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _launch_threads()
        function = share(context, builder)
        total = cgutils.alloca_once_value(builder, values[2])
        where = cgutils.alloca_once(builder, byte.as_pointer(), size=2)
        packed = cgutils.alloca_once_value(builder, values[1])
        builder.store(builder.bitcast(packed, byte.as_pointer()), where)
        builder.store(byte.as_pointer()(None), builder.gep(where, [int64(1)]))  # the layer adds p times 1 to it
        steps = cgutils.alloca_once(builder, int64, size=2)
        builder.store(int64(0), steps)
        builder.store(int64(1), builder.gep(steps, [int64(1)]))
        run = [where, total, steps, builder.bitcast(total, byte.as_pointer())]
        with builder.if_else(builder.icmp_signed("==", values[2], int64(1))) as (one, many):
            with one:
                builder.call(function, run)
            with many:
                threads = builder.call(_declare(builder, "get_num_threads", int64, []), [])
                fewer = builder.icmp_signed("<", values[2], threads)
                threads = builder.select(fewer, values[2], threads)
                parameters = [byte.as_pointer(), *share_type.args, int64, int64, int64]
                parallel_for = _declare(builder, "numba_parallel_for", void, parameters)
                address = builder.bitcast(function, byte.as_pointer())
                builder.call(parallel_for, [address, *run, int64(0), int64(2), threads])
        return context.get_dummy_value()

    return types.void(part, args, types.intp), codegen


def _declare(builder: Any, name: str, result: ir.Type, parameters: list[ir.Type]) -> ir.Function:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)


if not numba.config.DISABLE_JIT:
    _for_each_part = intrinsic(_for_each_part_typing)


def cache_dir() -> Path:
    """The folder of compiled kernels: `TINYGRAD_CNN_CACHE_DIR`, or `tinygrad_cnn` in the user's caches.

    Raises FileNotFoundError where the user has no home, such as a mere number in a container.
    """
    if chosen := os.environ.get("TINYGRAD_CNN_CACHE_DIR"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder") from error
    return base / "tinygrad_cnn"


@cache
def _folder() -> Path | None:
    """This version's subfolder, or None (with one warning) where there can be none, or others may write in it."""
    try:
        folder = cache_dir() / _SOURCES
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
            raise PermissionError(f"other users can write in {folder}, and files from it run as you")
    except OSError as error:
        _warn_not_cached(error)
        return None
    return folder


def _warn_not_cached(error: OSError) -> None:
    """Say once why the next process will compile again."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels are not cached: {error}; set TINYGRAD_CNN_CACHE_DIR to a writable folder of your own",
            RuntimeWarning,
            stacklevel=2,
        )


_warned = False


def hash_of_sources(folder: Path) -> str:
    """One hash over all kernel sources in the folder and the versions that turn them into code."""
    digest = hashlib.sha256(f"{sys.version}{numba.__version__}{llvmlite.__version__}".encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_SOURCES = hash_of_sources(Path(__file__).parent)  # on import: what changes later is not what this process compiles


class KernelCache(caching._Cache):
    """Numba's cache interface over one file per kernel and signature; anything unreadable is a miss."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._stem = f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"  # several modules have a kernel `_tiles`
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(_folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for path in (_folder() or Path()).glob(f"{self._stem}-*.kernel"):
            path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        _launch_threads()  # kernels with parts refer to its symbols
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            payload = path.read_bytes()
            if hashlib.sha256(payload[32:]).digest() != payload[:32]:
                return None  # cut short or damaged: compile anew and overwrite
            return numba.core.compiler.CompileResult._rebuild(target_context, *pickle.loads(payload[32:]))
        except Exception:  # whatever is wrong with the file, compiling mends it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        payload = numba.core.serialize.dumps(data._reduce())
        try:
            file = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115  renamed below
            try:
                with file:
                    file.write(hashlib.sha256(payload).digest() + payload)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        except OSError as error:
            _warn_not_cached(error)

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = _folder() if self._enabled else None
        if folder is None:
            return None
        key = f"{self._fn.__module__}.{self._fn.__qualname__}{sig}{codegen.magic_tuple()}{_file_hash(self._fn)}"
        return folder / f"{self._stem}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"


def _file_hash(fn: Callable[..., Any]) -> str:
    """A hash over the kernel's file, which may lie outside of this package, or over its code where it has none."""
    path = Path(fn.__code__.co_filename)
    return hashlib.sha256(path.read_bytes() if path.is_file() else fn.__code__.co_code).hexdigest()


_ours: dict[tuple[str, str], Callable[..., Any]] = {}


class _Notice(event.Listener):
    """Prints "compiling ..." once a kernel of ours has kept the user waiting for NOTICE_AFTER seconds."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer | None] = []  # one for each compilation under way, the outermost first

    def on_start(self, event: Any) -> None:
        fn = event.data["dispatcher"].py_func
        kernel = _ours.get((fn.__module__, fn.__qualname__))
        timer = None
        if kernel is not None and not any(self._timers):  # the helpers that a kernel calls are compiled inside it
            name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__.strip('_')}"
            text = f"tinygrad_cnn: compiling {name}, cached for next time"
            timer = threading.Timer(NOTICE_AFTER, print, (text,), {"file": sys.stderr, "flush": True})
            timer.daemon = True
            timer.start()
        self._timers.append(timer)

    def on_end(self, event: Any) -> None:
        if (timer := self._timers.pop()) is not None:
            timer.cancel()


event.register("numba:compile", _Notice())

_llvm_lock = getattr(getattr(ffi.lib, "_lock", None), "_lock", global_compiler_lock)  # it has no public name


def _before_fork() -> None:
    """Wait until no other thread compiles or loads: the child would wait for its locks for ever."""
    global_compiler_lock.acquire()
    _llvm_lock.acquire()


def _after_fork() -> None:
    _llvm_lock.release()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


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
        start = self._starts.pop()
        if not self._starts:  # the helpers that a kernel calls are compiled inside it
            self._total.count += 1
            self._total.seconds += time.perf_counter() - start


@contextlib.contextmanager
def count_compiles() -> Iterator[CompileCount]:
    """Count the kernels that Numba compiles inside the block; those loaded from the cache do not count."""
    total = CompileCount()
    with event.install_listener("numba:compile", _Counter(total)):
        yield total
