"""warmup: everything compiled before the first step, and nothing else changed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.cli import main
from tinygrad_cnn.nn import functional as F

command = importlib.import_module("tinygrad_cnn.warmup")

#: In a new process every kernel that a step needs is compiled or loaded from disk, and both go through the cache.
SCRIPT = """
import numpy as np
import tinygrad_cnn as tg
from tests.test_warmup import Net, batch, step
from tinygrad_cnn.kernels import compile as compiler

asked = []
load = compiler.KernelCache.load_overload
compiler.KernelCache.load_overload = lambda cache, *args: (asked.append(cache._fn.__name__), load(cache, *args))[1]
net = Net().double() if {double} else Net()
tg.warmup(net, (6, 3, 9, 11), train={train})
assert asked
print(len(asked))
asked.clear()
{use}
print(*asked)
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(5 * 3 * 4, 4)
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return self.fc(self.drop(F.max_pool2d(self.norm(self.conv(x)).relu(), 2)).flatten(1))


def batch(net: nn.Module) -> Any:
    return tg.ones(6, 3, 9, 11, dtype=next(net.parameters()).dtype)


def step(net: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    F.cross_entropy(net(batch(net)), tg.arange(6) % 4).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("double", "train", "use"),
    [
        (True, True, "for kind in (tg.optim.SGD, tg.optim.Adam): step(net, kind(net.parameters(), 0.1))"),
        (False, False, "with tg.inference_mode(): net.eval()(batch(net))"),
    ],
)
def test_after_it_a_step_needs_no_other_kernel(double: bool, train: bool, use: str) -> None:
    root = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(double=double, train=train, use=use)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=120,
    )
    assert out.returncode == 0, out.stderr
    first, rest = out.stdout.split("\n")[:2]
    assert int(first) >= 4
    assert rest == ""


def everything(net: Net) -> list[Any]:
    """All that may be seen of a model from outside, as bits."""
    values = [*net.parameters(), *net.buffers()]
    return [
        [value.detach().numpy().tobytes() for value in values],
        [value._version.n for value in values],
        [None if value.grad is None else value.grad.numpy().tobytes() for value in values],
        [module.training for module in net.modules()],
        [value.requires_grad for value in values],
        net.calls,
        tg.get_rng_state().numpy().tobytes(),
        tg.is_grad_enabled(),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("after_a_step", [True, False])
def test_it_changes_nothing(training: bool, after_a_step: bool) -> None:
    net, called = Net(), []
    net.fc.register_forward_hook(lambda *_: called.append("hook"))
    net.conv.register_forward_pre_hook(lambda *_: called.append("pre-hook"))
    net.fc.weight.register_hook(lambda grad: called.append("tensor's hook"))
    net.conv.weight.requires_grad_(False)
    if after_a_step:
        step(net, tg.optim.SGD(net.parameters(), 0.1))
    net.train(training)
    net.drop.training = not training
    called.clear()
    before = everything(net)
    tg.warmup(net, (6, 3, 9, 11))
    assert everything(net) == before
    assert called == []
    net(batch(net))
    assert len(called) == 2


def test_it_changes_nothing_when_the_model_raises() -> None:
    net = Net()
    before = everything(net)
    with pytest.raises(RuntimeError, match="Linear 'fc' expects 60 features"):
        tg.warmup(net, (6, 3, 9, 21))
    assert everything(net) == before


def test_outputs_that_are_no_logits() -> None:
    tg.warmup(nn.Conv2d(2, 3, 3), (1, 2, 5, 5))
    tg.warmup(nn.ReLU(), (4,))  # nothing to train
    tg.warmup(nn.Linear(3, 1), (4, 3), dtype=tg.float32, loss=lambda out: F.l1_loss(out, tg.zeros_like(out)))

    class Two(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x), x

    with pytest.raises(TypeError, match=r"the model returned a tuple; pass loss="):
        tg.warmup(Two(3, 2), (4, 3))
    tg.warmup(Two(3, 2), (4, 3), loss=lambda out: out[0].sum())


@pytest.mark.parametrize("shape", [(), (0, 3), (2, -1), (2.0, 3), 7.5, "28", None])
def test_a_shape_is_positive_ints(shape: Any) -> None:
    with pytest.raises(ValueError, match="input_shape is one positive int for each dimension"):
        tg.warmup(nn.ReLU(), shape)


def test_models_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"expects a Module, got type <class .*; if it makes one, call it"):
        tg.warmup(Net, (6, 3, 9, 11))  # type: ignore[arg-type]
    net = nn.Linear(2, 2)
    net.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"this Linear cannot be copied: .*lock"):
        tg.warmup(net, (1, 2))


@pytest.mark.parametrize("name", ["Net", "NET", "make", "Inside.make"])
def test_the_command_finds_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / f"nets_{name.lower().replace('.', '')}.py").write_text(
        "from tinygrad_cnn import nn\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
        "NET = Net()\n"
        "def make(): return Net()\n"
        "class Inside:\n    make = Net\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"nets_{name.lower().replace('.', '')}"
    main(["warmup", f"{module}:{name}", "--shape", "3,4"])
    main(["warmup", f"{module}:{name}", "--shape", "3,4", "--inference", "--dtype", "float64"])
    assert "kernels compiled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "named MODULE:NAME"),
        (["no_such_module:Net", "--shape", "1"], "No module named 'no_such_module'"),
        (["tests.test_warmup:Nothing", "--shape", "1"], "has no attribute 'Nothing'"),
        (["tests.test_warmup:Net"], "--shape 64,1,28,28, got None"),
        (["tests.test_warmup:Net", "--shape", "1x2"], "--shape 64,1,28,28, got 1x2"),
        (["tests.test_warmup:Net", "--shape", "1,3,4,40"], "Linear 'fc' expects 60 features"),
        (["tests.test_warmup:SCRIPT", "--shape", "1"], "'str' object is not callable"),
        (["builtins:dict", "--shape", "1"], "expects a Module, got dict"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=message):
        main(["warmup", *words])


def test_the_command_alone_compiles_standard_layers(capsys: Any) -> None:
    main(["warmup", "--inference"])
    assert "kernels compiled" in capsys.readouterr().out
    kinds = {type(module) for net, _ in command._standard_nets() for module in net.modules()}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Linear, nn.Dropout} <= kinds
    assert np.prod([shape for _, shape in command._standard_nets()], axis=1).max() < 1e6
