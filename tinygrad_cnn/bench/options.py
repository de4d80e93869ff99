"""What the parts of the benchmark are told."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Options:
    """`seconds` of timing for each side, case and round; `torch` is an interpreter that has PyTorch, or None."""

    threads: int
    seconds: float
    rounds: int
    quick: bool
    torch: str | None
    patterns: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        return not self.patterns or any(fnmatchcase(name, pattern) for pattern in self.patterns)
