"""What was measured: rows, kept in a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

OURS = "ours"


@dataclass
class Row:
    """One case of one part: the measurements of each side, one a round, in seconds or (`unit` B) bytes."""

    part: str
    name: str
    unit: str = "s"
    sides: dict[str, list[float]] = field(default_factory=dict)
    #: Operations of the direct algorithm; Winograd's needs fewer and may pass the peak.
    flops: float = 0
    #: GFLOP/s of multiply-adds, measured beside this row.
    peak: float = 0
    #: How many times the multiply-adds of one thread all threads do, measured beside this row.
    scaling: float = 0
    #: Bytes read and written.
    traffic: float = 0

    def median(self, side: str = OURS) -> float:
        return statistics.median(self.sides[side])

    def rival(self) -> str | None:
        """The best side that is not ours: less time, less memory."""
        others = [side for side in self.sides if side != OURS]
        return min(others, key=self.median, default=None)

    def ratio(self) -> float | None:
        """How many times the best rival's value is ours."""
        rival = self.rival()
        return None if rival is None or OURS not in self.sides else self.median(rival) / self.median()

    def gflops(self, side: str = OURS) -> float:
        return self.flops / self.median(side) / 1e9


def load(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file; ValueError if it holds something else."""
    try:
        return [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no rows of this benchmark: {error}") from error


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """The old rows, each replaced by the new one of its name, and then the other new ones."""
    rows = {(row.part, row.name): row for row in old}
    rows.update({(row.part, row.name): row for row in new})
    return list(rows.values())


def save(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows to a file beside it first: an interrupt leaves the old rows or the new ones."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    os.replace(beside, path)


def machine() -> dict[str, str | int]:
    """The processor, and the versions of what runs on it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = next(iter(names), model)
    versions = {name: metadata.version(name) for name in ("numpy", "numba", "llvmlite")}
    return {"processor": model, "cores": os.cpu_count() or 1, "python": platform.python_version(), **versions}
