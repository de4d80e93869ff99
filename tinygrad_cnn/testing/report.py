"""What a gradient check found: one report, readable by a person, with a reproducer that runs when pasted."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class GradReport:
    """The outcome of a check; true when it passed.

    `status` is "passed", "failed" or "inconclusive" (no derivative could be measured: NaN, a jump, a kink
    under `kinks="reject"`). `error` is the largest one seen, in units of the tolerance. After a failure
    `input` and `index` say where, `analytic` and `numeric` what the two sides are there, and `reproducer`
    is a script that fails again.
    """

    status: str
    name: str
    error: float = 0.0
    tolerance: float = 0.0
    reason: str = ""
    input: int | None = None
    index: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    analytic: float | None = None
    numeric: float | tuple[float, float] | None = None
    configuration: str = ""
    reproducer: str = ""

    def __bool__(self) -> bool:
        return self.status == "passed"

    def __str__(self) -> str:
        if self.status == "passed":
            return f"{self.name}: passed, largest error {self.error:.2g} tolerances"
        lines = [f"{self.name}: {self.status}: {self.reason}"]
        if self.index is not None:
            of = "" if self.output is None else f" (of output element {list(self.output)})"
            lines.append(f"  where       input {self.input}, element {list(self.index)}{of}")
        if self.analytic is not None:
            lines.append(f"  analytic    {self.analytic!r}")
        if isinstance(self.numeric, tuple):
            lines.append(f"  numeric     between {self.numeric[0]!r} and {self.numeric[1]!r} (a kink)")
        elif self.numeric is not None:
            lines.append(f"  numeric     {self.numeric!r}")
        if self.analytic is not None:
            lines.append(f"  error       {self.error:.3g} tolerances of {self.tolerance:.3g}")
        if self.configuration:
            lines.append("  setting     " + self.configuration.replace("\n", "\n              "))
        if self.reproducer:
            lines.append("  reproduce with:\n\n" + self.reproducer)
        return "\n".join(lines)


class GradcheckError(AssertionError):
    """A wrong gradient; `report` has the details."""

    def __init__(self, report: GradReport) -> None:
        super().__init__(str(report))
        self.report = report


def raised(report: GradReport, raise_exception: bool) -> GradReport:
    """The report, or a GradcheckError with it after a failure."""
    __tracebackhide__ = True  # pytest shows the caller's line, not ours
    if raise_exception and report.status == "failed":
        raise GradcheckError(report)
    return report


def name_of(fn: Any) -> str:
    """What to call fn in a report."""
    owner = getattr(fn, "__self__", None)
    if getattr(fn, "__name__", "") == "apply" and isinstance(owner, type):  # of a Function
        return owner.__name__
    for attribute in ("__name__", "name"):
        name = getattr(fn, attribute, None)
        if isinstance(name, str):
            return name
    inner = getattr(fn, "func", None)  # functools.partial
    return name_of(inner) if inner is not None else type(fn).__name__
