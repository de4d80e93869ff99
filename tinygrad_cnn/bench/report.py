"""Rows as text: a line while measuring, Markdown tables after it, and the summary in the README."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from .results import OURS, Row

BEGIN, END = "<!-- benchmark: written by python -m tinygrad_cnn bench --write-readme -->", "<!-- end of benchmark -->"


def line(row: Row) -> str:
    """One row in one line."""
    parts = [f"{row.name}:"]
    parts += [f"{side} {_value(row, side)} ({_spread(row, side)})" for side in row.sides]
    if row.flops and OURS in row.sides:
        parts.append(f"{row.gflops():.0f} GFLOP/s")
        if row.peak:
            parts.append(f"{_percent(row):.0f} % of the peak")
    if (ratio := row.ratio()) is not None:
        parts.append(f"ratio {ratio:.2f}")
    return "  ".join(parts)


def tables(rows: Sequence[Row]) -> str:
    """Every row, a table for each part."""
    parts = dict.fromkeys(row.part for row in rows)
    return summary(rows) + "".join(
        f"\n### {part}\n\n" + _table([row for row in rows if row.part == part]) for part in parts
    )


def summary(rows: Sequence[Row]) -> str:
    """What the README shows: training steps and inference in full, the kernels in a few numbers."""
    text = ""
    for part in ("machine", "steps", "startup", "memory"):
        if some := [row for row in rows if row.part == part]:
            text += _table(some) + "\n"
    kernels = [row for row in rows if row.peak]
    if kernels:
        text += _kernels(kernels) + "\n"
    return text


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


def _table(rows: Sequence[Row]) -> str:
    """Ours, the best rival and the ratio; with a geometric mean where there are rivals."""
    rivals = any(row.rival() for row in rows)
    rates = any(row.flops for row in rows)
    head = ["", "ours"] + ["GFLOP/s", "% of the peak"] * rates + ["the best rival", "ratio"] * rivals
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row.name, f"{_value(row, OURS)} ({_spread(row, OURS)})"]
        if rates:
            cells += [f"{row.gflops():.0f}" if row.flops else "", f"{_percent(row):.0f}" if row.peak else ""]
        if (rival := row.rival()) is not None:
            cells += [f"{_value(row, rival)} ({_spread(row, rival)}, {rival})", f"{row.ratio():.2f}"]
        lines.append(cells)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    ratios = [ratio for row in rows if (ratio := row.ratio()) is not None]
    return text + (f"\nGeometric mean of the ratios: {statistics.geometric_mean(ratios):.2f}\n" if ratios else "")


def write_readme(path: Path, rows: Sequence[Row]) -> None:
    """Replace what stands between the two markers; ValueError where there are none."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} needs the lines {BEGIN!r} and {END!r} around the tables to replace")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{summary(rows)}\n{END}{rest.partition(END)[2]}")


def _percent(row: Row) -> float:
    return 100 * row.gflops() / row.peak


def _value(row: Row, side: str) -> str:
    return _format(row.median(side), row.unit)


def _spread(row: Row, side: str) -> str:
    return f"{_format(min(row.sides[side]), row.unit)}-{_format(max(row.sides[side]), row.unit)}"


def _format(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**20:.1f} MB"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3f} ms" if value >= 1e-4 else f"{value * 1e6:.1f} us"
