"""Where a tensor lives."""

from __future__ import annotations

from typing import Any


class device:
    """`device("cpu")`, or `device("cuda", index)` as PyTorch spells it; compares equal to its string."""

    __slots__ = ("index", "type")
    index: int | None
    type: str

    def __init__(self, type: Any, index: int | None = None) -> None:
        if isinstance(type, device):
            type, index = str(type), None
        if not isinstance(type, str):
            raise TypeError(f"a device is a string such as 'cpu', got {type.__class__.__name__}")
        name, _, number = type.partition(":")
        if name not in ("cpu", "cuda") or (number and not number.isdigit()):
            raise RuntimeError(f"unknown device {type!r}; use 'cpu' or 'cuda'")
        self.type = name
        self.index = int(number) if number else index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return (
            f"device(type={self.type!r})" if self.index is None else f"device(type={self.type!r}, index={self.index})"
        )

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, device | str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))


_CPU = device("cpu")


def of(array: Any) -> device:
    """The device of an array."""
    return _CPU


def check(where: Any) -> device:
    """The device meant by `where`; RuntimeError when this machine or this version does not have it."""
    found = device(where)
    if found.type != "cpu":
        raise RuntimeError(f"device {str(found)!r} is not available: this version computes on 'cpu' only")
    return found
