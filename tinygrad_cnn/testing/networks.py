"""Random small networks and inputs for them; needs hypothesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import nn, random
from ..tensor import Tensor

_Shape = tuple[int, ...]


class Residual(nn.Module):
    """input + body(input), for a body that keeps the shape."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input: Any) -> Any:
        return input + self.body(input)


@st.composite
def modules(draw: st.DrawFn, max_depth: int = 4) -> tuple[nn.Sequential, Tensor]:
    """A network of up to `max_depth` parts in training mode, and a float32 input of fitting shape.

    Parts are convolutions, batch norms, ReLUs, pools, blocks of these in the order that a Sequential fuses, residual
    blocks, and Sequentials of up to `max_depth - 1` parts; at the end a Linear layer or none. Shrinks to no layers.
    """
    state, seed = random.get_rng_state(), draw(st.integers(0, 2**16 - 1))
    shape = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 6)), draw(st.integers(2, 6))
    try:
        random.manual_seed(seed)
        layers, out = _layers(draw, shape, max_depth)
        if draw(st.booleans()):
            layers += [nn.Flatten(), nn.Linear(math.prod(out[1:]), draw(st.integers(1, 4)))]
            layers += [nn.ReLU(inplace=draw(st.booleans()))] if draw(st.booleans()) else []
        net = nn.Sequential(*layers)
    finally:
        random.set_rng_state(state)
    numbers = np.random.default_rng(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after some training
            for name, low in (("running_mean", -1.0), ("running_var", 0.5), ("weight", 0.5), ("bias", -1.0)):
                array = getattr(layer, name)._array
                array[...] = numbers.uniform(low, 1.5, array.shape)
    return net, Tensor(numbers.normal(size=shape).astype(np.float32))


def _layers(draw: st.DrawFn, shape: _Shape, depth: int) -> tuple[list[nn.Module], _Shape]:
    found: list[nn.Module] = []
    for _ in range(draw(st.integers(0, depth))):
        kinds = ["conv", "relu", "norm", "block", "residual"] + ["pool"] * (min(shape[2:]) > 1)
        kind = draw(st.sampled_from(kinds + ["nested"] * (depth > 1)))
        if kind == "nested":
            inner, shape = _layers(draw, shape, depth - 1)
            found.append(nn.Sequential(*inner))
        elif kind == "residual":
            body = [*_block(draw, shape, keeps=True)[0]]
            found.append(Residual(nn.Sequential(*body)))
        elif kind == "relu":
            found.append(nn.ReLU())
        elif kind == "norm":
            found += _norm(shape)
        elif kind == "pool":
            pool, shape = _pool(draw, shape)
            found.append(pool)
        else:
            more, shape = _block(draw, shape) if kind == "block" else _conv(draw, shape)
            found += more
    return found, shape


def _block(draw: st.DrawFn, shape: _Shape, keeps: bool = False) -> tuple[list[nn.Module], _Shape]:
    """A convolution, and perhaps a batch norm, a ReLU and a pool."""
    layers, shape = _conv(draw, shape, keeps)
    layers += _norm(shape) if draw(st.booleans()) else []
    layers += [nn.ReLU(inplace=draw(st.booleans()))] if draw(st.booleans()) else []
    if not keeps and min(shape[2:]) > 1 and draw(st.booleans()):
        pool, shape = _pool(draw, shape)
        layers.append(pool)
    return layers, shape


def _conv(draw: st.DrawFn, shape: _Shape, keeps: bool = False) -> tuple[list[nn.Module], _Shape]:
    n, c, h, w = shape
    kernel = draw(st.sampled_from((1, 3))) if keeps else draw(st.integers(1, min(h, w, 3)))
    padding = kernel // 2 if keeps else draw(st.integers(0, kernel // 2))
    stride = 1 if keeps else draw(st.integers(1, 2))
    groups = draw(st.sampled_from((1, c)))
    out = c if keeps else groups * draw(st.integers(1, 4 if groups == 1 else 1))
    layer = nn.Conv2d(c, out, kernel, stride, padding, groups=groups, bias=draw(st.booleans()))
    return [layer], (n, out, *((side + 2 * padding - kernel) // stride + 1 for side in (h, w)))


def _pool(draw: st.DrawFn, shape: _Shape) -> tuple[nn.Module, _Shape]:
    kind = draw(st.sampled_from((nn.MaxPool2d, nn.AvgPool2d)))
    return kind(2), (*shape[:2], *(side // 2 for side in shape[2:]))


def _norm(shape: _Shape) -> list[nn.Module]:
    """A batch norm, where there are enough values for one that can be differentiated numerically."""
    return [nn.BatchNorm2d(shape[1])] if shape[0] * math.prod(shape[2:]) >= 8 else []
