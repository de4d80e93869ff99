"""Python threads, forked children and thread counts: the same numbers everywhere, and never an abort."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.compiler_lock import global_compiler_lock

import tinygrad_cnn as tg
from tinygrad_cnn import nn, random
from tinygrad_cnn.kernels.compile import _llvm_lock
from tinygrad_cnn.kernels.cpu import memory
from tinygrad_cnn.nn import functional as F


def net(seed: int = 0) -> nn.Sequential:
    """Each kind of convolution in odd sizes, so that work never divides evenly between threads."""
    tg.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 20, 3, padding=1, groups=20, bias=False),
        nn.Conv2d(20, 36, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(36, 20, 1),
        nn.Conv2d(20, 24, 5, stride=2, groups=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(144, 10),
    )


def batch(seed: int = 1, n: int = 33) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return (
        tg.from_numpy(rng.standard_normal((n, 3, 29, 31)).astype(np.float32)),
        tg.from_numpy(rng.integers(0, 10, n)),
    )


def train(steps: int = 3, optimizer: str = "sgd") -> list[bytes]:
    """The bits of the losses and of all weights after some steps."""
    model = net()
    x, y = batch()
    made = (
        tg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if optimizer == "sgd"
        else tg.optim.Adam(model.parameters())
    )
    bits = []
    for _ in range(steps):
        made.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        made.step()
        bits.append(loss.detach().numpy().tobytes())
    return bits + [value.detach().numpy().tobytes() for value in model.state_dict().values()]


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = tg.get_num_threads()
    yield
    tg.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_bits_for_every_thread_count(optimizer: str) -> None:
    runs = []
    for n in (1, 2, 3, 4):
        tg.set_num_threads(n)
        assert tg.get_num_threads() == n
        runs.append(train(optimizer=optimizer))
    assert runs[0] == runs[1] == runs[2] == runs[3]


SCRIPT = """
import hashlib, sys
import tinygrad_cnn as tg
from tests.test_threads_and_fork import train
from tinygrad_cnn.kernels import count_compiles

steps, threads = map(int, sys.argv[1:])
tg.set_num_threads(threads)
with count_compiles() as compiled:
    print(hashlib.sha256(b"".join(train(steps, "adam"))).hexdigest(), compiled.count)
"""


def start(script: str, *arguments: int, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> list[str]:
    """The words that a script printed; one that hangs is killed, and its threads' places are in the error."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler's signal
        pytest.fail(f"hangs: {process.communicate(timeout=30)[1]}")
    assert process.returncode == 0, f"exit status {process.returncode}: {err}"
    return out.split()


@pytest.mark.slow
def test_the_same_bits_after_200_steps_in_new_processes_with_a_cold_and_a_warm_cache(tmp_path: Path) -> None:
    expected = hashlib.sha256(b"".join(train(200, "adam"))).hexdigest()
    for threads in (1, 2, 3, 4):
        (digest, compiled) = finish(start(SCRIPT, 200, threads, TINYGRAD_CNN_CACHE_DIR=str(tmp_path)))
        assert digest == expected
        assert (int(compiled) > 0) == (threads == 1)


@pytest.mark.slow
def test_eight_processes_train_at_once_from_an_empty_cache(tmp_path: Path) -> None:
    processes = [start(SCRIPT, 2, 2, TINYGRAD_CNN_CACHE_DIR=str(tmp_path)) for _ in range(8)]
    assert len({finish(process, 1200)[0] for process in processes}) == 1
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".kernel"}
    assert finish(start(SCRIPT, 2, 1, TINYGRAD_CNN_CACHE_DIR=str(tmp_path)))[1] == "0"


LAYER = """
import faulthandler, multiprocessing
import numba
from tests import test_threads_and_fork as tests

faulthandler.enable()
tests.test_eight_python_threads_at_once_get_what_each_gets_alone()
print(numba.threading_layer())
if "fork" in multiprocessing.get_all_start_methods():  # children of the other methods start anew
    tests.test_a_child_process_computes_after_its_parent_did("fork")
    tests.test_a_child_that_is_forked_while_a_kernel_runs_does_not_hang()
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_threads_and_children_on_every_threading_layer(layer: str) -> None:
    pool = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}[layer]
    pytest.importorskip(f"numba.np.ufunc.{pool}", reason=f"this build of Numba has no {layer}", exc_type=ImportError)
    assert finish(start(LAYER, NUMBA_THREADING_LAYER=layer))[0] == layer


@pytest.mark.parametrize("n", [0, -1])
def test_a_thread_count_must_be_positive(n: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        tg.set_num_threads(n)
    with pytest.raises(TypeError, match="expects an int"):
        tg.set_num_threads(2.0)  # type: ignore[arg-type]


def _gradients(seed: int) -> list[np.ndarray]:
    """Forward and backward of a network without randomness."""
    rng = np.random.default_rng(seed)
    x, y = batch(seed, 17)
    w = tg.from_numpy(rng.standard_normal((16, 3, 3, 3)).astype(np.float32)).requires_grad_()
    v = tg.from_numpy(rng.standard_normal((10, 16)).astype(np.float32)).requires_grad_()
    x.requires_grad_()
    out = F.linear(F.max_pool2d(F.conv2d(x, w).relu(), 3).mean((2, 3)), v)
    F.cross_entropy(out, y).backward()
    return [t.grad.numpy() for t in (x, w, v)]


def test_eight_python_threads_at_once_get_what_each_gets_alone() -> None:
    expected = [_gradients(seed) for seed in range(8)]
    start = threading.Barrier(8)

    def work(seed: int) -> list[list[np.ndarray]]:
        start.wait(30)
        return [_gradients(seed) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for alone, together in zip(expected, pool.map(work, range(8)), strict=True):
            for run in together:
                for a, b in zip(alone, run, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_threads_that_share_a_weight_add_all_their_gradients() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # without a lock, one run in ten loses a gradient then
    try:
        for _ in range(20):
            w = tg.ones(50_000, requires_grad=True)
            start = threading.Barrier(8)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(_accumulate, [w] * 8, [start] * 8))
            np.testing.assert_array_equal(w.grad.numpy(), np.full(50_000, 400.0, np.float32))
    finally:
        sys.setswitchinterval(before)


def _accumulate(w: Any, start: threading.Barrier) -> None:
    start.wait(30)
    for _ in range(25):
        (w * 2.0).sum().backward()


def _child(connection: Any) -> None:
    connection.send(train(2))
    connection.close()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_computes_after_its_parent_did(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} does not exist on this system")
    expected = train(2)  # the parent has used its threads
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender,))
    child.start()
    sender.close()
    try:
        assert receiver.poll(120), "the child hangs"
        assert receiver.recv() == expected
    finally:
        child.join(10)
        if child.is_alive():
            child.kill()
    assert child.exitcode == 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="fork does not exist on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_while_a_kernel_runs_does_not_hang() -> None:
    """The lock of the parallel region may be held by another thread at that moment."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            _gradients(0)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(8):
            time.sleep(0.003)
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_child_gradients, args=(sender,))
            child.start()
            sender.close()
            arrived = receiver.poll(60)
            child.join(10)
            if child.is_alive():
                child.kill()
            assert arrived
            assert child.exitcode == 0
    finally:
        stop.set()
        thread.join()


def _compiles() -> None:
    with global_compiler_lock, _llvm_lock:
        pass


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="fork does not exist on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("lock", "use"),
    [
        (memory.pool.lock, lambda: tg.ones(5000) * 2.0),
        (random._lock, lambda: F.dropout(tg.ones(5))),
        (random.default_generator.numpy.bit_generator.lock, lambda: tg.randn(5)),
        (global_compiler_lock, _compiles),
        (_llvm_lock, _compiles),
    ],
    ids=["allocates", "drops", "draws", "compiles", "loads"],
)
def test_a_child_that_is_forked_while_a_thread_holds_a_lock_does_not_hang(lock: Any, use: Callable[[], Any]) -> None:
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.1)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join(5)
    child.kill()
    thread.join()
    assert child.exitcode == 0


def _child_gradients(connection: Any) -> None:
    connection.send(len(_gradients(0)))
    connection.close()
