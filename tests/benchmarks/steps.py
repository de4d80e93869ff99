"""Time whole training steps and inference, ours against PyTorch's best mode.

    python tests/benchmarks/steps.py [--torch PYTHON] [--case lenet5:128 ...] [--seconds 1.0] [--rounds 5]

`--torch` names a Python interpreter that has PyTorch; without it only our own times are shown. Each side runs in a
process of its own; the processes take turns, so that both see the same machine. A step is zero_grad, forward,
cross-entropy, backward and Adam (PyTorch's fused one), on a batch that is in memory already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
from nets import INFER, NETS, SHAPES, TRAIN

TORCH_MODES = ["eager", "eager channels_last", "compile", "compile channels_last"]


def ours(kind: str, net: str, batch: int, mode: str) -> Callable[[], Any]:
    import numpy as np

    import tinygrad_cnn as tg

    tg.manual_seed(0)
    tg.set_num_threads(2)
    rng = np.random.default_rng(0)
    model = NETS[net](tg.nn)
    x = tg.from_numpy(rng.standard_normal((batch, *SHAPES[net]), np.float32))
    y = tg.from_numpy(rng.integers(0, 10, batch))
    return _step(kind, tg, model, x, y, tg.optim.Adam(model.parameters(), lr=1e-3))


def torch(kind: str, net: str, batch: int, mode: str) -> Callable[[], Any]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = NETS[net](torch.nn)
    x = torch.randn(batch, *SHAPES[net])
    y = torch.randint(0, 10, (batch,))
    if "channels_last" in mode:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    if "compile" in mode:
        model = torch.compile(model)
    return _step(kind, torch, model, x, y, optimizer)


def _step(kind: str, lib: Any, model: Any, x: Any, y: Any, optimizer: Any) -> Callable[[], Any]:
    loss_fn = lib.nn.CrossEntropyLoss()

    def train() -> None:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    def infer() -> Any:
        with lib.inference_mode():
            return model(x)

    if kind == "infer":
        model.eval()
    return train if kind == "train" else infer


def worker(side: str, mode: str) -> None:
    """Read {kind, net, batch, seconds} lines, answer each with the median milliseconds of a warm call."""
    steps: dict[tuple[str, str, int], Callable[[], Any]] = {}
    for line in sys.stdin:
        case = json.loads(line)
        key = (case["kind"], case["net"], case["batch"])
        if key not in steps:
            steps[key] = globals()[side](*key, mode)
            for _ in range(10):
                steps[key]()
        step, times, end = steps[key], [], time.perf_counter() + case["seconds"]
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(json.dumps(statistics.median(times) * 1e3), flush=True)


class Side:
    """One process of one library in one mode."""

    def __init__(self, python: str, side: str, mode: str) -> None:
        self.name = f"{side} {mode}".strip()
        command = [python, __file__, "--worker", side, "--mode", mode]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, case: dict[str, Any]) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()


def compare(cases: list[tuple[str, str, int]], torch_python: str | None, seconds: float, rounds: int) -> None:
    sides = [Side(sys.executable, "ours", "")]
    if torch_python:
        sides += [Side(torch_python, "torch", mode) for mode in TORCH_MODES]
    print("| case | ours ms (spread) | " + "PyTorch best ms (spread, mode) | ratio |" if torch_python else "|")
    print("|---|---|---|---|")
    for kind, net, batch in cases:
        case = {"kind": kind, "net": net, "batch": batch, "seconds": seconds}
        times: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                times[side.name].append(side.time(case))
        medians = {name: statistics.median(t) for name, t in times.items()}
        mine = medians.pop(sides[0].name)
        row = f"| {kind} {net} b{batch} | {mine:.3f} ({_spread(times[sides[0].name])}) |"
        if medians:
            best = min(medians, key=medians.__getitem__)
            row += f" {medians[best]:.3f} ({_spread(times[best])}, {best}) | {medians[best] / mine:.2f} |"
        print(row, flush=True)
    for side in sides:
        side.close()


def _spread(times: list[float]) -> str:
    return f"{min(times):.3f}-{max(times):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has PyTorch")
    parser.add_argument("--case", nargs="*", help="such as lenet5:128 or infer:lenet5:1; all by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="time per case, side and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.mode)
        return
    cases = [("train", *c) for c in TRAIN] + [("infer", *c) for c in INFER]
    if args.case:
        wanted = {tuple((c if c.count(":") == 2 else f"train:{c}").split(":")) for c in args.case}
        cases = [c for c in cases if (c[0], c[1], str(c[2])) in wanted]
    compare(cases, args.torch, args.seconds, args.rounds)


if __name__ == "__main__":
    main()
