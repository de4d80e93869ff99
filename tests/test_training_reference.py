"""Whole training runs against float64 NumPy that was written out by hand and shares nothing with the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import tinygrad_cnn as tg
import tinygrad_cnn.nn.functional as F
from tinygrad_cnn import nn, optim
from tinygrad_cnn.data import SyntheticDigits

BATCH = 32

# ------------------------------------------------------------------------------------------------------------
# The reference: conv 3x3 - relu - pool 2 - conv 3x3 - relu - pool 2 - linear, cross-entropy. Arrays are NCHW.


def conv(x: Any, w: Any, b: Any) -> Any:
    windows = sliding_window_view(x, w.shape[2:], axis=(2, 3))  # (N, C, OH, OW, KH, KW)
    return np.einsum("nchwkl,ockl->nohw", windows, w, optimize=True) + b[:, None, None]


def conv_grads(x: Any, w: Any, g: Any) -> tuple[Any, Any, Any]:
    """The gradients of input, weight and bias."""
    kh, kw = w.shape[2:]
    windows = sliding_window_view(x, (kh, kw), axis=(2, 3))
    dw = np.einsum("nchwkl,nohw->ockl", windows, g, optimize=True)
    padded = np.pad(g, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    dx = np.einsum(
        "nohwkl,ockl->nchw", sliding_window_view(padded, (kh, kw), axis=(2, 3)), w[:, :, ::-1, ::-1], optimize=True
    )
    return dx, dw, g.sum((0, 2, 3))


def pool(x: Any) -> tuple[Any, Any]:
    """The largest of each 2x2 square, and which of the four it was (the first one on a tie)."""
    n, c, h, w = x.shape
    squares = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    squares = squares.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    return squares.max(-1), squares.argmax(-1)


def pool_grad(x: Any, winner: Any, g: Any) -> Any:
    dx = np.zeros_like(x)
    n, c, i, j = np.indices(winner.shape)
    dx[n, c, 2 * i + winner // 2, 2 * j + winner % 2] = g
    return dx


def loss_and_grads(params: list[Any], x: Any, labels: Any) -> tuple[float, list[Any]]:
    """The mean cross-entropy of a batch and its gradients, in the order of the parameters."""
    w1, b1, w2, b2, w3, b3 = params
    z1 = conv(x, w1, b1)
    a1 = np.maximum(z1, 0)
    p1, winner1 = pool(a1)
    z2 = conv(p1, w2, b2)
    a2 = np.maximum(z2, 0)
    p2, winner2 = pool(a2)
    features = p2.reshape(len(x), -1)
    logits = features @ w3.T + b3
    logits -= logits.max(1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(x))
    loss = -log_probabilities[rows, labels].mean()

    g = np.exp(log_probabilities)
    g[rows, labels] -= 1
    g /= len(x)
    dw3, db3 = g.T @ features, g.sum(0)
    g = pool_grad(a2, winner2, (g @ w3).reshape(p2.shape)) * (z2 > 0)
    g, dw2, db2 = conv_grads(p1, w2, g)
    g = pool_grad(a1, winner1, g) * (z1 > 0)
    _, dw1, db1 = conv_grads(x, w1, g)
    return float(loss), [dw1, db1, dw2, db2, dw3, db3]


def sgd(params: list[Any], lr: float, momentum: float) -> Any:
    buffers = [np.zeros_like(p) for p in params]

    def step(grads: list[Any]) -> None:
        for p, buffer, g in zip(params, buffers, grads, strict=True):
            buffer[...] = momentum * buffer + g
            p -= lr * buffer

    return step


def adam(params: list[Any], lr: float) -> Any:
    means, squares = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    t = 0

    def step(grads: list[Any]) -> None:
        nonlocal t
        t += 1
        for p, m, v, g in zip(params, means, squares, grads, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g**2
            p -= lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return step


# ------------------------------------------------------------------------------------------------------------
# The same start and the same batches for both


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Digits of 14 x 14 pixels in [0, 1], and their labels."""
    digits = SyntheticDigits(1024)
    images = digits.data.numpy()[:, None, ::2, ::2].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(images), digits.targets.numpy()


def start() -> list[Any]:
    """Weights of the scale of PyTorch's, rounded to float32 so that both sides start from the same numbers."""
    rng = np.random.default_rng(7)
    shapes = [((8, 1, 3, 3), 9), ((8,), 9), ((16, 8, 3, 3), 72), ((16,), 72), ((10, 64), 64), ((10,), 64)]
    return [rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(fan_in**0.5) for shape, fan_in in shapes]


def batches(data: tuple[Any, Any], steps: int) -> Any:
    order = np.random.default_rng(3)
    for _ in range(steps):
        rows = order.choice(len(data[0]), BATCH, replace=False)
        yield data[0][rows], data[1][rows]


def reference_losses(data: tuple[Any, Any], steps: int, optimizer: Any, **options: float) -> list[float]:
    params = [p.astype(np.float64) for p in start()]
    step = optimizer(params, **options)
    losses = []
    for x, labels in batches(data, steps):
        loss, grads = loss_and_grads(params, x.astype(np.float64), labels)
        step(grads)
        losses.append(loss)
    return losses


def our_losses(data: tuple[Any, Any], steps: int, optimizer: Any, **options: float) -> tuple[list[float], list[Any]]:
    """The losses, and the parameters after the last step."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    with tg.no_grad():
        for p, value in zip(model.parameters(), start(), strict=True):
            p.copy_(tg.from_numpy(value))
    update = optimizer(model.parameters(), **options)
    losses = []
    for x, labels in batches(data, steps):
        loss = F.cross_entropy(model(tg.from_numpy(x)), tg.from_numpy(labels))
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    return losses, [p.detach().numpy().copy() for p in model.parameters()]


def test_100_steps_of_sgd_follow_the_reference(data: tuple[Any, Any]) -> None:
    expected = reference_losses(data, 100, sgd, lr=0.05, momentum=0.9)
    losses, _ = our_losses(data, 100, optim.SGD, lr=0.05, momentum=0.9)
    assert expected[-1] < 0.5 * expected[0]  # it learns: the losses are worth comparing
    np.testing.assert_allclose(losses, expected, rtol=1e-5)  # 7e-7 here


def test_50_steps_of_adam_follow_the_reference(data: tuple[Any, Any]) -> None:
    expected = reference_losses(data, 50, adam, lr=0.01)
    losses, _ = our_losses(data, 50, optim.Adam, lr=0.01)
    assert expected[-1] < 0.6 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)  # 7e-7 here


def test_the_same_bits_twice_and_for_any_number_of_threads(data: tuple[Any, Any]) -> None:
    threads = tg.get_num_threads()
    try:
        runs = []
        for n in (1, 1, 2, 3):
            tg.set_num_threads(n)
            runs.append(our_losses(data, 10, optim.SGD, lr=0.05, momentum=0.9))
    finally:
        tg.set_num_threads(threads)
    for losses, params in runs[1:]:
        assert losses == runs[0][0]
        for p, first in zip(params, runs[0][1], strict=True):
            np.testing.assert_array_equal(p, first)


TWO_STEPS = """
import json
import numpy as np
import tinygrad_cnn as tg
from tinygrad_cnn import nn

tg.manual_seed(0)
rng = np.random.default_rng(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(),  # 72 x 72 pixels: large enough to be copied by a kernel
    nn.Conv2d(16, 8, 3, 2, groups=4), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 1), nn.GELU(), nn.AvgPool2d(4),
    nn.ConvTranspose2d(16, 4, 2, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
    nn.LayerNorm(64), nn.Linear(64, 16), nn.Dropout(0.2), nn.Sigmoid(), nn.Linear(16, 10),
)
x = tg.from_numpy(rng.standard_normal((1, 3, 72, 72), np.float32))
optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
numbers = []
for _ in range(2):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), tg.tensor([3]))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    numbers += [loss.item(), *(p.grad.square().sum().item() for p in model.parameters())]
print(json.dumps(numbers))
"""


def test_without_compilation_a_net_computes_the_same() -> None:
    runs = []
    for disabled in ("0", "1"):
        command, variables = [sys.executable, "-c", TWO_STEPS], os.environ | {"NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-5, atol=1e-10)
