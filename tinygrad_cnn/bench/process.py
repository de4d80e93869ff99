"""The sides of the benchmark, each in a process of its own, and how they take turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .results import Row

#: PyTorch's modes; the best of them counts.
TORCH_MODES = ("eager", "eager channels_last", "compile", "compile channels_last")

#: Between two turns: the threads of the side that just ran spin for a moment before they sleep.
PAUSE = 0.02

#: Runs the worker in an interpreter that may lack our package and what it needs: an empty package of its name.
_FOREIGN = """
import sys, types
for name, folder in (("tinygrad_cnn", sys.argv[1]), ("tinygrad_cnn.bench", sys.argv[1] + "/bench")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from tinygrad_cnn.bench.worker import main
main(sys.argv[2:])
"""


class Side:
    """One library in one mode, in a process that waits for cases; `torch` is the interpreter that has PyTorch."""

    def __init__(self, name: str, mode: str, threads: int, torch: str | None = None) -> None:
        self.name = f"{name} {mode}".strip()
        command = [sys.executable, "-m", f"{__package__}.worker"]
        if name == "torch":
            assert torch is not None
            command = [torch, "-c", _FOREIGN, str(Path(__file__).parents[1])]
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": str(threads),
            "OPENBLAS_THREAD_TIMEOUT": "22",  # spin for 2**22 cycles after a product, not for 0.1 s into our turn
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else a pool of processes that outlives the compilation
        }
        self._process = subprocess.Popen(
            [*command, name, mode, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answers.readline()  # importing a library takes seconds of a core that another side needs

    def ask(self, case: dict[str, Any], what: str = "seconds", seconds: float = 0.0) -> float:
        """The seconds of a call, the bytes by which it lets the process grow (`growth`), or the process's `peak`.

        Raises RuntimeError if the side fails.
        """
        try:
            print(json.dumps({"case": case, "what": what, "seconds": seconds}), file=self._requests, flush=True)
            return float(json.loads(self._answers.readline()))
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise RuntimeError(f"the process of {self.name} ended at {case}; its error is above") from error

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it may have died with a request unread
            self._requests.close()  # the worker's loop ends
        self._answers.close()
        self._process.wait()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()  # it may be in the middle of a case
        self.close()


def take_turns(sides: Sequence[Side], case: dict[str, Any], row: Row, seconds: float, rounds: int) -> Row:
    """Let each side do the case, `rounds` times in turn, and put the times into the row."""
    for _ in range(rounds):
        for side in sides:
            row.sides.setdefault(side.name, []).append(side.ask(case, seconds=seconds))
            time.sleep(PAUSE)
    return row
