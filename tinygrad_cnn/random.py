"""Random numbers: one stream for arrays made by NumPy, and keys for kernels that count instead of keeping a stream."""

from __future__ import annotations

import os
import threading
from operator import index
from typing import Any

import numpy as np

from . import device as devices
from .autograd import Variable

_STATE_WORDS = 13  # Philox: counter 4, key 2, buffer 4, position, spare flag, spare value


_lock = threading.RLock()  # of all generators; a signal handler may draw as well


def _system_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1


class Generator:
    """A source of random numbers that `manual_seed` makes repeatable; a fresh one is seeded by the system.

    >>> import tinygrad_cnn as tg
    >>> g = tg.Generator().manual_seed(7)
    >>> a = tg.rand(3, generator=g)
    >>> bool((a == tg.rand(3, generator=g.manual_seed(7))).all())
    True
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = devices.check(device)
        self._seed = _system_seed()
        self._calls = 0
        self._stream: np.random.Generator | None = None

    def manual_seed(self, seed: int) -> Generator:
        """Start again from this seed, -2**63 to 2**64 - 1; returns the generator. ValueError outside.

        TypeError for anything but an int; the generator then goes on as before.
        """
        try:
            seed = index(seed)
        except TypeError:
            raise TypeError(f"a seed is an int, got {type(seed).__name__} {seed!r}") from None
        if not -(1 << 63) <= seed < 1 << 64:
            raise ValueError(f"a seed lies between -2**63 and 2**64 - 1, got {seed}")
        with _lock:
            self._seed = seed % (1 << 64)
            self._calls = 0
            self._stream = None
        return self

    def seed(self) -> int:
        """Start again from a seed that the system chooses, and return it."""
        self.manual_seed(_system_seed())
        return self._seed

    def initial_seed(self) -> int:
        """The seed that the numbers started from."""
        return self._seed

    @property
    def numpy(self) -> np.random.Generator:
        """The stream, as NumPy's generator."""
        if self._stream is None:
            self._stream = np.random.Generator(np.random.Philox(self._seed))
        return self._stream

    def next_key(self) -> tuple[int, int]:
        """(seed, number of the call): with an element's place, the key of a counter-based number."""
        with _lock:
            self._calls += 1
            return self._seed, self._calls - 1

    def get_state(self) -> Any:
        """All that the next numbers depend on, as a uint8 tensor."""
        state: Any = self.numpy.bit_generator.state
        words = [
            self._seed,
            self._calls,
            *state["state"]["counter"],
            *state["state"]["key"],
            *state["buffer"],
            state["buffer_pos"],
            state["has_uint32"],
            state["uinteger"],
        ]
        return Variable.new(np.array(words, np.uint64).view(np.uint8))

    def set_state(self, new_state: Any) -> None:
        """Continue where `get_state` was called. TypeError or ValueError for anything else."""
        array = new_state._array if isinstance(new_state, Variable) else np.asarray(new_state)
        if array.dtype != np.uint8:
            raise TypeError(f"a generator's state is a uint8 tensor, got {array.dtype}")
        if array.shape != ((2 + _STATE_WORDS) * 8,):
            raise ValueError(f"a generator's state has shape {((2 + _STATE_WORDS) * 8,)}, got {array.shape}")
        words = np.ascontiguousarray(array).view(np.uint64)
        self.manual_seed(int(words[0]))
        self._calls = int(words[1])
        self.numpy.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": words[2:6].copy(), "key": words[6:8].copy()},
            "buffer": words[8:12].copy(),
            "buffer_pos": int(words[12]),
            "has_uint32": int(words[13]),
            "uinteger": int(words[14]),
        }


#: Where random numbers come from when no generator is named.
default_generator = Generator()


def _before_fork() -> None:
    """Wait until no other thread draws: the child would wait for its locks for ever."""
    _lock.acquire()
    default_generator.numpy.bit_generator.lock.acquire()


def _after_fork() -> None:
    default_generator.numpy.bit_generator.lock.release()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def stream_of(generator: Generator | None) -> np.random.Generator:
    """NumPy's generator of a Generator, the default one's for None; TypeError for anything else."""
    if not isinstance(generator, Generator | None):
        raise TypeError(
            f"expected a Generator or None, got {type(generator).__name__} {generator!r}; use tg.Generator()"
        )
    return (default_generator if generator is None else generator).numpy


def manual_seed(seed: int) -> Generator:
    """Make everything random that follows repeatable; returns the default generator."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator by the system, and return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """The state of the default generator, as a uint8 tensor."""
    return default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    """Put the default generator back into a state from `get_rng_state`."""
    default_generator.set_state(new_state)
