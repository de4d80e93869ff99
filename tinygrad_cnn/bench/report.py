"""Rows as text: a line while measuring, Markdown tables after it, and the summary in the README."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from .results import OURS, Row

BEGIN, END = "<!-- benchmark: written by python -m tinygrad_cnn bench --write-readme -->", "<!-- end of benchmark -->"


#: Parts whose rows the summary shows, in this order; of the others it gives medians and the worst.
SHOWN = (
    "training steps",
    "inference",
    "more threads",
    "memory that a step needs",
    "memory of the whole process",
    "startup",
    "machine",
)


def line(row: Row) -> str:
    """One row in one line."""
    parts = [f"{row.name}:", *(f"{side} {_value(row, side)}" for side in row.sides)]
    if OURS in row.sides:
        parts += [rate for rate in [_rate(row), _percent(row) and f"{_percent(row):.0f} % of the peak"] if rate]
    if (ratio := row.ratio()) is not None:
        parts.append(f"ratio {ratio:.2f}")
    if row.scaling:
        parts.append(f"of multiply-adds {row.scaling:.2f}")
    return "  ".join(parts)


def tables(rows: Sequence[Row]) -> str:
    """The summary, and every row of the parts that it summarises."""
    rest = [part for part in dict.fromkeys(row.part for row in rows) if part not in SHOWN]
    return summary(rows) + "".join("\n" + _table(part, rows) for part in rest)


def summary(rows: Sequence[Row]) -> str:
    """What the README shows: medians (lowest to highest round), and the ratio of the rival's to ours."""
    parts = [_table(part, rows) for part in SHOWN if any(row.part == part for row in rows)]
    kernels = [row for row in rows if row.peak]
    return "\n".join(parts + [_kernels(kernels)] * bool(kernels))


def _kernels(rows: Sequence[Row]) -> str:
    """A line for each part and pass: the median and the worst share of the peak, and the ratios to the rival."""
    lines = [
        "| kernels | cases | % of the peak: median | worst | ratio to the rival: median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for part in dict.fromkeys(row.part for row in rows):
        some = [row for row in rows if row.part == part]
        worst = min(some, key=_percent)
        cells = [
            part,
            str(len(some)),
            f"{statistics.median(map(_percent, some)):.0f}",
            f"{_percent(worst):.0f} ({worst.name})",
        ]
        rated = [(ratio, row) for row in some if (ratio := row.ratio()) is not None]
        if rated:
            least, slowest = min(rated, key=lambda pair: pair[0])
            cells += [f"{statistics.median(ratio for ratio, _ in rated):.2f}", f"{least:.2f} ({slowest.name})"]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table(part: str, rows: Sequence[Row]) -> str:
    """The rows of a part: ours, the best rival and the ratio, with a geometric mean where there are rivals.

    Rows of more threads have the ratio of multiply-adds as well.
    """
    rows = [row for row in rows if row.part == part and OURS in row.sides]
    rivals, rates, peaks = (any(map(has, rows)) for has in (Row.rival, _rate, _percent))
    scales = any(row.scaling for row in rows)
    head = [part, "ours"] + ["rate"] * rates + ["% of the peak"] * peaks + ["the best rival", "ratio"] * rivals
    head += ["ratio of multiply-adds"] * scales
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row.name, _value(row, OURS)] + [_rate(row)] * rates + [f"{_percent(row):.0f}"] * peaks
        if (rival := row.rival()) is not None:
            cells += [f"{_value(row, rival)} {rival}", f"{row.ratio():.2f}"]
        cells += [f"{row.scaling:.2f}" if row.scaling else ""] * scales
        lines.append(cells)
    ratios = [ratio for row in rows if (ratio := row.ratio()) is not None]
    if len(ratios) > 1:
        mean = f"{statistics.geometric_mean(ratios):.2f}"
        lines.append(["geometric mean", *[""] * (len(head) - 2 - scales), mean, *[""] * scales])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_readme(path: Path, rows: Sequence[Row]) -> None:
    """Replace what stands between the two markers; ValueError where there are none."""
    before, after = around(path)
    path.write_text(f"{before}{BEGIN}\n\n{summary(rows)}\n{END}{after}")


def around(path: Path) -> tuple[str, str]:
    """What stands before and after the two markers; ValueError where there are none."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} needs the lines {BEGIN!r} and {END!r} around the tables to replace")
    return before, after


def _percent(row: Row) -> float:
    """Of the multiply-add peak; 0 where no peak was measured."""
    return 100 * row.gflops() / row.peak if row.peak else 0


def _rate(row: Row) -> str:
    if row.traffic:
        return f"{row.traffic / row.median() / 1e9:.0f} GB/s"
    return f"{row.gflops():.0f} GFLOP/s" if row.flops else ""


def _value(row: Row, side: str) -> str:
    """The median with its unit, and the lowest and highest value in the same unit."""
    median, values = row.median(side), row.sides[side]
    units = {"MB": 2**20} if row.unit == "B" else {"s": 1, "ms": 1e-3, "us": 1e-6}
    unit, size = next((item for item in units.items() if median >= item[1]), list(units.items())[-1])
    number, low, high = (_three_digits(value / size) for value in (median, min(values), max(values)))
    return f"{number} {unit}" + f" ({low}-{high})" * (len(values) > 1)


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
