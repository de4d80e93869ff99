"""Compile the kernels of a model, or of standard CNNs, and keep them on disk for the runs to come.

python -m tinygrad_cnn warmup
python -m tinygrad_cnn warmup my_package.nets:Net --shape 64,3,32,32
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import nn, optim
from .autograd import enable_grad, inference_mode
from .creation import zeros
from .dtypes import is_float
from .kernels import cache_dir, count_compiles
from .nn import functional as F
from .random import get_rng_state, set_rng_state
from .tensor import Tensor

if TYPE_CHECKING:
    import argparse

Loss = Callable[[Any], Tensor]


def warmup(
    model: nn.Module, input_shape: Sequence[int], *, dtype: Any = None, loss: Loss | None = None, train: bool = True
) -> int:
    """Compile every kernel of a training step and of inference now, so that the first step does not wait.

    Runs one step each of SGD and Adam on a copy of the model, without its hooks, on zeros of `input_shape` (batch
    included) and `dtype` (the parameters' if left out); with train=False, inference alone. The model, its gradients
    and the random numbers to come stay as they are. `loss` maps the model's output to a scalar; left out, it is the
    cross-entropy of (N, classes) and the mean square of other shapes. Returns the number of kernels compiled: 0 where
    all were on disk. Raises TypeError for anything but a Module and for a model that cannot be copied, ValueError for
    a shape that is not made of positive ints, and what the model raises for an input that does not fit.

    >>> import tinygrad_cnn as tg
    >>> net = tg.nn.Sequential(tg.nn.Flatten(), tg.nn.Linear(12, 10))
    >>> compiled = tg.warmup(net, (8, 3, 2, 2))
    >>> tg.warmup(net, (8, 3, 2, 2))
    0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"warmup expects a Module, got {type(model).__name__} {model!r}; if it makes one, call it")
    twin = _copy_without_hooks(model)
    x = zeros(*_checked_shape(input_shape), dtype=_input_dtype(twin) if dtype is None else dtype)
    state = get_rng_state()
    try:
        with count_compiles() as compiled:
            if train:
                _train_step(twin, x, _default_loss if loss is None else loss)
            with inference_mode():
                twin.eval()(x)
    finally:
        set_rng_state(state)
    return compiled.count


def _copy_without_hooks(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for module in model.modules():  # a hook may print, count, or hold what cannot be copied
        memo[id(module._forward_hooks)] = {}
        memo[id(module._forward_pre_hooks)] = {}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(
            f"warmup runs a copy of the model, and this {type(model).__name__} cannot be copied: {error}"
        ) from error


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not sizes or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(f"input_shape is one positive int for each dimension, the batch first, got {shape!r}")
    return sizes


def _input_dtype(model: nn.Module) -> np.dtype[Any]:
    return next((p.dtype for p in model.parameters() if is_float(p.dtype)), np.dtype(np.float32))


def _default_loss(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model returned a {type(output).__name__}; pass loss=, a function of that which returns a scalar"
        )
    if output.ndim == 2:
        return F.cross_entropy(output, zeros(len(output), dtype=np.int64))  # type: ignore[no-any-return]
    return output.square().mean()  # type: ignore[no-any-return]


def _train_step(model: nn.Module, x: Tensor, loss: Loss) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    with enable_grad():
        value = loss(model.train()(x))
        if parameters:
            value.backward()
            optim.SGD(parameters, momentum=0.9).step()
            optim.Adam(parameters).step()


# --------------------------------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `python -m tinygrad_cnn warmup` accepts."""
    parser.add_argument(
        "model", nargs="?", metavar="MODULE:NAME", help="a Module, or what makes one (default: two standard CNNs)"
    )
    parser.add_argument("--shape", metavar="N,C,H,W", help="the shape of the input, such as 64,1,28,28")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of the model and its input (default: as made)")
    parser.add_argument("--inference", action="store_true", help="leave out the training step")


def run(options: argparse.Namespace) -> None:
    """Compile, and say how many kernels that were and where they are."""
    start = time.perf_counter()
    try:
        cases = [(_found(options.model), _parsed(options.shape))] if options.model else _standard_nets()
        compiled, folder = 0, cache_dir()
        for model, shape in cases:
            if options.dtype is not None:
                model.to(np.dtype(options.dtype))
            compiled += warmup(model, shape, train=not options.inference)
    except (TypeError, ValueError, RuntimeError, IndexError, ImportError, AttributeError, OSError) as error:
        raise SystemExit(f"warmup: {error}") from error
    print(f"{compiled} kernels compiled, {time.perf_counter() - start:.1f} s; they are kept in {folder}")


def _found(name: str) -> nn.Module:
    """The model called `package.module:name`; a class or function is called."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"a model is named MODULE:NAME, such as my_package.nets:Net, got {name!r}")
    sys.path.insert(0, "")
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found if isinstance(found, nn.Module) else found()  # type: ignore[operator]


def _parsed(shape: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in str(shape).split(","))
    except ValueError:
        raise ValueError(f"a model needs the shape of its input, such as --shape 64,1,28,28, got {shape}") from None


def _standard_nets() -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Between them the layers that most CNNs are made of, for grey and for colour images."""
    grey = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 64, 3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Dropout(), nn.Linear(2304, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    colour = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(48, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    return [(grey, (64, 1, 28, 28)), (colour, (64, 3, 32, 32))]
