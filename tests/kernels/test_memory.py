"""The buffer pool: alignment, reuse, safety in threads, bounded growth; and orders of axes."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import memory

from . import naive_more as naive


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> memory.Pool:
    """A pool of its own in the place of the process's."""
    monkeypatch.setattr(memory, "pool", memory.Pool())
    return memory.pool


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
def test_large_arrays_are_aligned(pool: memory.Pool, dtype: type) -> None:
    for n in (4096, 5001, 100_000):
        x = memory.empty((3, n), dtype)
        assert address(x) % memory.ALIGNMENT == 0
        assert x.flags.carray
        assert (x.shape, x.dtype) == ((3, n), dtype)
        x.fill(1)  # inside the buffer, or a sanitizer and the next test would know


def test_a_free_buffer_is_taken_again_and_a_busy_one_is_not(pool: memory.Pool) -> None:
    a = memory.empty((2000,))
    where = address(a)
    b = memory.empty((2000,))
    assert address(b) != where
    del a
    assert address(memory.empty((1999,))) == where  # the same 4 KiB page count


def test_a_view_keeps_its_buffer_busy(pool: memory.Pool) -> None:
    views = [
        lambda x: x[5:],
        lambda x: x.reshape(20, 100).T[3:],
        lambda x: x.view(np.uint8)[7:],
        lambda x: np.asarray(memoryview(x)),
        lambda x: np.lib.stride_tricks.as_strided(x, (5,), (4,)),
    ]
    for view in views:
        x = memory.empty((2000,))
        x.fill(3)
        held = view(x)
        expected = held.copy()
        del x
        for _ in range(3):
            memory.empty((2000,)).fill(9)
        np.testing.assert_array_equal(held, expected)


def test_no_growth_over_a_thousand_steps(pool: memory.Pool) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1000, 3000, 30)
    after_two = 0
    for step in range(1000):
        alive = [memory.empty((int(n),)) for n in sizes]
        for i in rng.permutation(len(alive))[:20]:
            alive[i] = memory.empty((int(sizes[i]),))
        if step == 2:
            after_two = pool._bytes
    assert 0 < pool._bytes <= 1.2 * after_two


def test_many_live_buffers_stay_cheap_and_are_found_again(pool: memory.Pool) -> None:
    alive = [memory.empty((1500,)) for _ in range(5000)]
    looked = memory.SCAN
    before = pool._bytes
    for _ in range(4):
        del alive[::2]
        alive += [memory.empty((1500,)) for _ in range(5000 - len(alive))]
    assert pool._bytes <= before * (1 + 4 * 2 / looked)  # each miss moves the cursor past `SCAN` busy ones
    assert len({address(x) for x in alive}) == len(alive)


def test_buffers_in_use_do_not_count_against_the_limit(pool: memory.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs more than the limit finds its buffers again in the next one."""
    monkeypatch.setattr(memory, "IDLE_LIMIT", 1 << 20)
    busy = [memory.empty((1 << 18,)) for _ in range(4)]
    for _ in range(2):
        memory.empty((2000,))
        memory.empty((4000,))
        assert pool._bytes == sum(x.nbytes for x in busy) + 2 * 4096 + 4 * 4096  # in pages


def test_unused_buffers_go_back_above_the_limit(pool: memory.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "IDLE_LIMIT", 1 << 20)
    held = memory.empty((5000,))
    for n in range(10_000, 100_000, 5000):
        memory.empty((n,))
    assert pool._bytes <= (1 << 20) + 400_000
    held.fill(1)
    pool.trim()
    assert pool._bytes == 5 * 4096
    del held
    pool.trim()
    assert pool._bytes == 0
    assert not pool._sizes


def test_large_buffers_lie_over_unused_ones(pool: memory.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What several smaller arrays leave serves a larger one, and what that leaves a smaller one; other memory stays."""
    monkeypatch.setattr(memory, "SEGMENT", 32 << 20)
    mega = 1 << 20
    arrays = [memory.empty((n * mega,), np.uint8) for n in (1, 2, 3, 5, 2, 6)]
    for mark, x in enumerate(arrays):
        x.fill(mark)
    before, where = pool._bytes, address(arrays[1])
    del arrays[1:4], x
    joined = memory.empty((9 * mega,), np.uint8)
    assert address(joined) == where
    joined.fill(9)
    assert address(memory.empty((mega,), np.uint8)) == where + 9 * mega
    assert pool._bytes == before
    assert [x.min() for x in arrays] == [x.max() for x in arrays] == [0, 4, 5]
    del joined
    assert address(memory.empty((5 * mega,), np.uint8)) == where + 5 * mega  # the buffer from before is still there


@given(st.data())
def test_live_arrays_never_overlap_and_nothing_is_lost(data: st.DataObject) -> None:
    """Any sequence of requests and releases, in pages, with large buffers of 4 pages and segments of 20."""
    sizes = {"SEGMENT": 20, "LARGE": 4, "IDLE_LIMIT": data.draw(st.integers(8, 200), "limit")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "CROWD", data.draw(st.integers(1, 20), "crowd"))
        for name, pages in sizes.items():
            patch.setattr(memory, name, pages * memory.SMALL)
        pool, live = memory.Pool(), dict[int, np.ndarray]()
        for mark in range(data.draw(st.integers(1, 40), "requests")):
            for old in data.draw(st.lists(st.sampled_from([0, *live]), max_size=3), "released"):
                live.pop(old, None)
            size = data.draw(st.integers(1, 30), "pages") * memory.SMALL - data.draw(st.sampled_from([0, 8, 16]))
            array = live[mark] = pool.array((size // 8,), np.dtype(np.int64), size)
            array.fill(mark)
            assert array.nbytes == size
            assert address(array) % memory.ALIGNMENT == 0
            del array
            assert all((x == number).all() for number, x in live.items())
            assert pool._bytes == sum(segment.used for segment in pool._segments)
            assert pool._bytes >= sum(x.nbytes for x in live.values())
            listed = {id(buffer) for found in pool._sizes.values() for buffer in found.buffers}
            assert listed == {id(buffer) for segment in pool._segments for _, buffer in segment.buffers}
        live.clear()
        pool.trim()
        assert (pool._bytes, pool._sizes, pool._segments) == (0, {}, [])


@given(st.lists(st.tuples(st.integers(4, 12), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_same_step_again_makes_no_buffers(step: list[tuple[int, int]]) -> None:
    """Requests of so many pages, of which as many are in use as the other number says: later steps find them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "LARGE", 4 * memory.SMALL)
        pool, before = memory.Pool(), set[int]()
        for _ in range(12):
            live: list[np.ndarray] = []
            for pages, kept in step:
                del live[: max(0, len(live) - kept)]
                live.append(pool.array((pages * memory.SMALL,), np.dtype(np.uint8), pages * memory.SMALL))
            live.clear()
            made = {id(buffer) for segment in pool._segments for _, buffer in segment.buffers}
            if made == before:
                return
            before = made
        raise AssertionError(f"after 12 steps there were still new buffers, {len(made)} by then")


@given(st.data())
def test_interrupts_and_signal_handlers_at_any_line_leave_live_arrays_alone(data: st.DataObject) -> None:
    """Ctrl-C in a notebook, or a handler that saves a checkpoint, comes between any two lines of the pool."""
    live: list[tuple[int, np.ndarray]] = []

    def request(pool: memory.Pool, pages: int, mark: int) -> None:
        array = pool.array((pages * memory.SMALL,), np.dtype(np.uint8), pages * memory.SMALL)
        array.fill(mark)
        live.append((mark, array))

    def interrupt(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != memory.__file__ or frame.f_code.co_name == "__init__":
            return None
        nonlocal left
        left -= event == "line"
        if event == "line" and left == 0:
            if handled:
                request(pool, pages, mark + 100)
            else:
                raise KeyboardInterrupt
        return interrupt

    sizes = {"SEGMENT": 20, "LARGE": 4, "IDLE_LIMIT": data.draw(st.integers(8, 60), "limit")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "CROWD", data.draw(st.integers(1, 10), "crowd"))
        for name, size in sizes.items():
            patch.setattr(memory, name, size * memory.SMALL)
        pool = memory.Pool()
        for mark in range(data.draw(st.integers(1, 25), "requests")):
            del live[: data.draw(st.integers(0, 3), "released")]
            pages, left, handled = data.draw(st.tuples(st.integers(1, 30), st.integers(0, 60), st.booleans()))
            before = sys.gettrace()
            sys.settrace(interrupt)
            try:
                request(pool, pages, mark)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            assert all((array == number).all() for number, array in live)


def test_threads_never_share_a_buffer(pool: memory.Pool) -> None:
    wrong = []

    def work(mark: int) -> None:
        for i in range(400):
            x = memory.empty((1024 + i % 3,))
            x.fill(mark)
            y = memory.empty((1024 + i % 3,))
            y.fill(-mark)
            if (x != mark).any():
                wrong.append(mark)

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@given(st.sampled_from([(), (0,), (7,), (3, 50), (2, 3, 4, 5), (4, 20, 9, 7), (2, 3, 4, 5, 6)]), st.data())
def test_layout_helpers(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(data.draw(st.sampled_from("fd")))
    x = naive.laid_out(x, data.draw(st.sampled_from(naive.LAYOUTS)))
    if data.draw(st.booleans()) and x.ndim:
        x = np.broadcast_to(x[:1], x.shape) if x.shape[0] else x
    like = memory.empty_like(x, np.int64)
    assert (like.shape, like.dtype) == (x.shape, np.int64)
    order = memory.axis_order(x)
    flat = memory.flat(x, order)
    assert flat.flags.carray
    np.testing.assert_array_equal(flat, x.transpose(order).ravel() if order else x.ravel())
    np.testing.assert_array_equal(memory.copy(x), x)
    assert memory.contiguous(x).flags.carray
    np.testing.assert_array_equal(memory.contiguous(x), x)
    if x.ndim == 4:
        assert memory.nhwc(x).flags.carray
        np.testing.assert_array_equal(memory.nchw(memory.nhwc(x)), x)


@pytest.mark.parametrize("shape", [(3, 40, 24, 24), (2, 35, 37, 53), (70, 32, 8, 8), (40, 6, 40, 40), (40, 3, 43, 40)])
def test_large_copies_between_the_orders(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    last = naive.laid_out(x, "channels_last")
    assert x.nbytes >= memory.SWAP

    def copies() -> list[np.ndarray]:
        return [memory.copy(last), memory.nhwc(x)]

    first, base = copies()
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(base, x.transpose(0, 2, 3, 1))
    assert first.flags.carray
    assert base.flags.carray
    naive.same_bits_on_any_threads(copies)


def test_dense_arrays_keep_their_order() -> None:
    x = np.zeros((2, 3, 5, 4))
    for order in [(0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 2, 1), (1, 0, 2, 3)]:
        seen = x.transpose(order)
        assert memory.empty_like(seen).strides == seen.strides


def test_channels_last_memory_is_not_copied() -> None:
    x = naive.laid_out(np.zeros((2, 5, 4, 3), np.float32), "channels_last")
    assert np.shares_memory(memory.nhwc(x), x)
    assert memory.axis_order(x) == memory.CHANNELS_LAST
    single = np.zeros((2, 1, 4, 3), np.float32)
    assert np.shares_memory(memory.nhwc(single), single)
    pooled = np.zeros((2, 5, 1, 1), np.float32)
    assert np.shares_memory(memory.nhwc(pooled), pooled)
