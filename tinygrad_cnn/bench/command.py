"""Measure speed and memory on this machine: ours, NumPy's and, where there is one, PyTorch's.

Every side runs in processes of its own, which take turns on each case; a value is the median of all rounds. Nothing
else should run on the machine. PyTorch counts with the best of {NCHW, channels_last} x {eager, torch.compile}.

    python -m tinygrad_cnn bench machine convs --json bench.json
    python -m tinygrad_cnn bench steps --torch ../torch-env/bin/python --case 'ResNet-20*'
    python -m tinygrad_cnn bench report --json bench.json --write-readme README.md
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import convs, machine, matmuls, memory, report, startup, steps, threads
from .options import Options
from .results import Row, load, merge, save

#: Parts, and the seconds of timing that each case, side and round takes unless told otherwise.
PARTS: dict[str, tuple[Callable[[Options], Iterator[Row]], float]] = {
    "machine": (machine.measure, 0.2),
    "convs": (convs.measure, 0.05),
    "matmul": (matmuls.measure, 0.05),
    "steps": (steps.measure, 0.5),
    "threads": (threads.measure, 0.5),
    "startup": (startup.measure, 0),
    "memory": (memory.measure, 0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, "report", []], metavar="PART",
        help=f"{', '.join(PARTS)}; all by default. `report` measures nothing: what the JSON file holds",
    )  # fmt: skip
    parser.add_argument(
        "--case", nargs="+", default=[], metavar="PATTERN", help="only cases so named, such as 'LeNet*'"
    )
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has PyTorch; `none`: without it")
    parser.add_argument("--threads", type=count, default=os.cpu_count(), help="of each side; all cores by default")
    parser.add_argument("--seconds", type=duration, help="of timing, for each case, side and round")
    parser.add_argument("--rounds", type=count, default=3, help="how many turns each side takes")
    parser.add_argument("--quick", action="store_true", help="a few cases of each part")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the rows here; of those before only like-named go"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write all tables here")
    parser.add_argument(
        "--write-readme", type=Path, metavar="README", help="replace the summary between its two markers"
    )


def count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text}")
    return int(text)


def duration(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"a positive number, got {text}")
    return float(text)


def run(options: argparse.Namespace) -> None:
    """Measure, print and write; SystemExit, before anything is measured, for what would lose the measurements."""
    parts = [part for part in options.parts or PARTS if part != "report"]
    try:
        rows = _rows_so_far(options)
        torch = _torch(options.torch) if parts else None
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench: {error}") from error
    measured = 0
    for part in parts:
        measure, default = PARTS[part]
        seconds = default if options.seconds is None else options.seconds
        settings = Options(options.threads, seconds, options.rounds, options.quick, torch, tuple(options.case))
        print(f"{part}:", flush=True)
        for row in measure(settings):
            print("  " + report.line(row), flush=True)
            rows, measured = merge(rows, [row]), measured + 1
            if options.json:
                save(options.json, rows)
    if parts and options.case and not measured:
        raise SystemExit(f"bench: no case of {', '.join(parts)} is called {' or '.join(map(repr, options.case))}")
    print("\n" + report.summary(rows))
    if options.markdown:
        options.markdown.write_text(report.tables(rows))
    if options.write_readme:
        report.write_readme(options.write_readme, rows)


def _rows_so_far(options: argparse.Namespace) -> list[Row]:
    """Those of the JSON file; OSError or ValueError for a file that could not be written in the end."""
    rows = load(options.json) if options.json else []
    if options.write_readme:
        report.around(options.write_readme)
    for path in (options.json, options.markdown, options.write_readme):
        if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            raise PermissionError(f"{path} cannot be written")
    return rows


def _torch(chosen: str | None) -> str | None:
    """The interpreter that has PyTorch: the one named, else this one if it can. OSError, ValueError if it has none."""
    if chosen == "none":
        return None
    if chosen is None:
        return sys.executable if importlib.util.find_spec("torch") else None
    has = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    if subprocess.run([chosen, "-c", has], stdout=subprocess.DEVNULL).returncode:
        raise ValueError(f"{chosen} has no PyTorch; name an interpreter that has, or none: --torch none")
    return chosen
