"""Layers: each is its function with its own numbers and weights; what it starts with, shows and refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing.strategies import ConvConfig, conv_configs


def image(*shape: int, seed: int = 0) -> Any:
    return tg.from_numpy(np.random.default_rng(seed).normal(size=shape))


def equal(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


# -------------------------------------------------------------------------------------------- convolutions


@given(conv_configs(ndim=2, modes=("zeros", "reflect", "replicate", "circular")))
def test_conv2d_pads_in_every_mode(cfg: ConvConfig) -> None:
    """The layer is the function after an explicit pad in its mode; gradients too."""
    layer = nn.Conv2d(
        cfg.channels,
        cfg.out_channels,
        cfg.kernel,
        cfg.stride,
        cfg.flat_padding,
        cfg.dilation,
        cfg.groups,
        padding_mode=cfg.mode,
        dtype=tg.float64,
    )
    (top, bottom), (left, right) = cfg.padding
    x, twin = (image(*cfg.input_shape).requires_grad_() for _ in range(2))
    mode = "constant" if cfg.mode == "zeros" else cfg.mode
    padded = F.pad(twin, (left, right, top, bottom), mode=mode)
    expected = F.conv2d(padded, layer.weight, layer.bias, cfg.stride, 0, cfg.dilation, cfg.groups)
    y = layer(x)
    assert y.shape == cfg.output_shape
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    g = image(*y.shape, seed=1)
    y.backward(g)
    expected.backward(g)
    assert x.grad is not None and twin.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), twin.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_conv_transpose2d_reaches_a_given_size() -> None:
    """A strided convolution maps several sizes to one; output_size names the one to go back to."""
    down = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    up = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1)
    for size in (7, 8):
        x = tg.ones(1, 2, size, size)
        assert up(down(x), output_size=x.shape).shape == x.shape
    with pytest.raises(ValueError, match=r"between \(7, 7\) and \(8, 8\)"):
        up(down(tg.ones(1, 2, 7, 7)), output_size=(9, 9))


@pytest.mark.parametrize(
    ("make", "fan_in", "shape"),
    [
        (lambda: nn.Conv2d(8, 12, (3, 5), groups=4), 2 * 15, (12, 2, 3, 5)),
        (lambda: nn.ConvTranspose2d(8, 12, 3, groups=4), 3 * 9, (8, 3, 3, 3)),
        (lambda: nn.Linear(50, 40), 50, (40, 50)),
    ],
)
def test_weights_start_as_in_pytorch(make: Any, fan_in: int, shape: tuple[int, ...]) -> None:
    """Weight and bias are uniform in +-1/sqrt(fan_in), and fill that range."""
    tg.manual_seed(0)
    layer = make()
    assert layer.weight.shape == shape and layer.weight.dtype == np.float32
    bound = 1 / math.sqrt(fan_in)
    for p in layer.parameters():
        values = p.detach().numpy()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.7 * bound and values.std() == pytest.approx(bound / 3**0.5, rel=0.4)


def test_one_seed_gives_one_network() -> None:
    """manual_seed decides all weights; another seed gives others."""

    def weights(seed: int) -> Any:
        tg.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 4)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all((first[k] == again[k]).all() for k in first)
    assert all((first[k] != other[k]).any() for k in first)


def test_linear() -> None:
    """x W^T + b over the last dimension, with or without a bias."""
    layer = nn.Linear(3, 2, dtype=tg.float64)
    x = image(4, 5, 3)
    expected = x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-13)
    plain = nn.Linear(3, 2, bias=False)
    assert plain.bias is None and list(plain.state_dict()) == ["weight"]


# --------------------------------------------------------------------------------------------- batch norm


def test_batch_norm_learns_its_statistics() -> None:
    """In training the batch's, in evaluation the running ones, which each batch moves by momentum."""
    layer = nn.BatchNorm2d(3, momentum=0.25, dtype=tg.float64)
    x = image(4, 3, 5, 5) * 2 + 1
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy().mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * x.numpy().mean((0, 2, 3)))
    assert layer.num_batches_tracked.item() == 1
    before = layer.state_dict()["running_mean"].numpy().copy()
    layer.eval()
    mean, var = (b.reshape(3, 1, 1) for b in (layer.running_mean, layer.running_var))
    expected = (x - mean) / (var + layer.eps).sqrt()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(layer.running_mean.numpy(), before)


def test_momentum_none_is_the_mean_of_all_batches() -> None:
    """Each batch counts the same."""
    layer = nn.BatchNorm1d(2, momentum=None, dtype=tg.float64)
    batches = [image(5, 2, seed=s) for s in range(3)]
    for x in batches:
        layer(x)
    expected = np.mean([x.numpy().mean(0) for x in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean.numpy(), expected, rtol=1e-12)


def test_batch_norm_without_statistics_or_weights() -> None:
    """Without running statistics evaluation uses the batch's; without affine there is nothing to train."""
    layer = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    x = tg.randn(6, 3, 4)
    equal(layer.eval()(x), layer.train()(x))
    assert list(layer.parameters()) == [] and layer.state_dict() == {}


def test_reset() -> None:
    """reset_parameters forgets what was learned."""
    norm, item = nn.BatchNorm1d(3), nn.LayerNorm(3)
    fresh = {k: v.numpy().copy() for k, v in norm.state_dict().items()}
    norm(tg.randn(5, 3))
    with tg.no_grad():
        norm.weight.fill_(2.0)
        item.weight.fill_(2.0)
    norm.reset_parameters()
    item.reset_parameters()
    for key, value in norm.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), fresh[key])
    assert (item.weight == 1).all() and item.weight.requires_grad


def test_a_linear_layer_without_inputs_starts_at_0() -> None:
    """No bound follows from 0 inputs; whatever lies in the memory is no weight."""
    for _ in range(10):
        layer = nn.Linear(0, 1000)
        assert (layer.bias == 0).all() and layer(tg.ones(2, 0)).shape == (2, 1000)
        layer.bias.data.fill_(9.0)


# --------------------------------------------------------------------------------- layers that are functions

X = tg.from_numpy(np.linspace(-3, 3, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6))
SAME: list[tuple[Any, Any]] = [
    (nn.ReLU(), F.relu),
    (nn.ReLU6(), F.relu6),
    (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    (nn.ELU(0.5), lambda x: F.elu(x, 0.5)),
    (nn.GELU(), F.gelu),
    (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    (nn.SiLU(), F.silu),
    (nn.Softplus(2, 3), lambda x: F.softplus(x, 2, 3)),
    (nn.Tanh(), F.tanh),
    (nn.Sigmoid(), F.sigmoid),
    (nn.Hardtanh(-2, 1), lambda x: F.hardtanh(x, -2, 1)),
    (nn.Softmax(1), lambda x: F.softmax(x, 1)),
    (nn.LogSoftmax(dim=-1), lambda x: F.log_softmax(x, -1)),
    (nn.MaxPool2d(3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1)),
    (nn.MaxPool2d(2, dilation=2, ceil_mode=True), lambda x: F.max_pool2d(x, 2, None, 0, 2, True)),
    (nn.AvgPool2d(3, 2, 1, True, False), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
    (nn.AvgPool2d(2, divisor_override=3), lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
    (nn.AdaptiveAvgPool2d((2, None)), lambda x: F.adaptive_avg_pool2d(x, (2, None))),
    (nn.Flatten(), lambda x: x.flatten(1)),
    (nn.Flatten(0, 1), lambda x: x.flatten(0, 1)),
    (nn.Unflatten(1, (2, 2)), lambda x: x.unflatten(1, (2, 2))),
    (nn.Identity(3, unused=True), lambda x: x),
    (nn.Dropout(0.5).eval(), lambda x: x),
    (nn.Dropout2d(0.5).eval(), lambda x: x),
]


@pytest.mark.parametrize(("layer", "function"), SAME, ids=[type(m).__name__ for m, _ in SAME])
def test_layers_pass_their_numbers_on(layer: Any, function: Any) -> None:
    """The layer gives what the function gives for the same numbers."""
    equal(layer(X), function(X))
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    "make", [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Hardtanh, nn.Dropout, nn.Dropout2d]
)
def test_inplace_overwrites_the_input(make: Any) -> None:
    """inplace=True gives the same numbers in the input's own memory, and the same gradients."""
    results = []
    for inplace in (False, True):
        tg.manual_seed(0)
        x = X.clone().requires_grad_()
        y = x * 1.0
        z = make(inplace=inplace)(y)
        assert (z is y) == inplace
        (g,) = tg.autograd.grad((z * z).sum(), x)
        results.append((z, g))
    equal(results[0][0], results[1][0])
    equal(results[0][1], results[1][1])
    assert "inplace=True" in repr(make(inplace=True))


def test_dropout_drops_in_training_only() -> None:
    """train() and eval() switch it."""
    layer = nn.Dropout(0.5)
    x = tg.ones(100)
    assert (layer(x) == 0).any() and layer.eval()(x) is x


def test_max_pool2d_returns_indices() -> None:
    """As a layer too."""
    y, index = nn.MaxPool2d(2, return_indices=True)(X)
    equal(X.flatten(2).gather(2, index.flatten(2)).reshape(y.shape), y)


LABELS, P = tg.tensor([0, 3]), tg.from_numpy(np.random.default_rng(0).random((2, 4)))
LOGITS, WEIGHT = X[:, :, 0, 0], tg.from_numpy(np.array([1.0, 2.0, 3.0, 4.0]))
LOSSES: list[tuple[Any, Any, Any]] = [
    (nn.CrossEntropyLoss(), F.cross_entropy, LABELS),
    (
        nn.CrossEntropyLoss(WEIGHT, ignore_index=0, reduction="sum", label_smoothing=0.1),
        lambda x, t: F.cross_entropy(x, t, WEIGHT, ignore_index=0, reduction="sum", label_smoothing=0.1),
        LABELS,
    ),
    (
        nn.NLLLoss(WEIGHT, ignore_index=3, reduction="none"),
        lambda x, t: F.nll_loss(x, t, WEIGHT, ignore_index=3, reduction="none"),
        LABELS,
    ),
    (nn.MSELoss(reduction="sum"), lambda x, t: F.mse_loss(x, t, reduction="sum"), P),
    (nn.L1Loss(), F.l1_loss, P),
    (nn.SmoothL1Loss(beta=0.5), lambda x, t: F.smooth_l1_loss(x, t, beta=0.5), P),
    (
        nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT, reduction="none"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, WEIGHT, reduction="none", pos_weight=WEIGHT),
        P,
    ),
]


@pytest.mark.parametrize(("layer", "function", "target"), LOSSES, ids=[type(m).__name__ for m, _, _ in LOSSES])
def test_losses_pass_their_numbers_on(layer: Any, function: Any, target: Any) -> None:
    """The loss gives what the function gives for the same numbers."""
    equal(layer(LOGITS, target), function(LOGITS, target))


def test_a_loss_casts_its_weight() -> None:
    """Class weights are buffers."""
    loss = nn.CrossEntropyLoss(WEIGHT).float()
    assert loss(LOGITS.float(), LABELS).dtype == np.float32 and list(loss.state_dict()) == ["weight"]


# ------------------------------------------------------------------------------------------ repr and errors


@pytest.mark.parametrize(
    ("layer", "call", "arguments", "error"),
    [
        (nn.MaxPool2d, lambda *a, **k: F.max_pool2d(X, *a, **k), {"kernel_size": 0}, ValueError),
        (nn.MaxPool2d, lambda *a, **k: F.max_pool2d(X, *a, **k), {"kernel_size": 2, "padding": 2}, ValueError),
        (nn.MaxPool2d, lambda *a, **k: F.max_pool2d(X, *a, **k), {"kernel_size": "2"}, TypeError),
        (nn.MaxPool2d, lambda *a, **k: F.max_pool2d(X, *a, **k), {"kernel_size": [2, 2], "stride": 0}, ValueError),
        (nn.AvgPool2d, lambda *a, **k: F.avg_pool2d(X, *a, **k), {"kernel_size": -1}, ValueError),
        (nn.AvgPool2d, lambda *a, **k: F.avg_pool2d(X, *a, **k), {"kernel_size": 2, "divisor_override": 0}, ValueError),
        (nn.AdaptiveAvgPool2d, lambda *a, **k: F.adaptive_avg_pool2d(X, *a, **k), {"output_size": "x"}, TypeError),
        (nn.AdaptiveAvgPool2d, lambda *a, **k: F.adaptive_avg_pool2d(X, *a, **k), {"output_size": -1}, ValueError),
        (nn.LayerNorm, lambda *a, **k: F.layer_norm(X, *a, **k), {"normalized_shape": 0}, ValueError),
        (nn.LayerNorm, lambda *a, **k: F.layer_norm(X, *a, **k), {"normalized_shape": 6, "eps": -1}, ValueError),
        (nn.CrossEntropyLoss, lambda **k: F.cross_entropy(LOGITS, LABELS, **k), {"label_smoothing": 2}, ValueError),
        (nn.CrossEntropyLoss, lambda **k: F.cross_entropy(LOGITS, LABELS, **k), {"ignore_index": "a"}, TypeError),
        (nn.NLLLoss, lambda **k: F.nll_loss(LOGITS, LABELS, **k), {"ignore_index": 1.5}, TypeError),
        (nn.SmoothL1Loss, lambda **k: F.smooth_l1_loss(P, P, **k), {"beta": -1}, ValueError),
        (nn.GELU, lambda **k: F.gelu(X, **k), {"approximate": "x"}, ValueError),
        (nn.LeakyReLU, lambda **k: F.leaky_relu(X, **k), {"negative_slope": "a"}, TypeError),
        (nn.ELU, lambda **k: F.elu(X, **k), {"alpha": "a"}, TypeError),
        (nn.Softplus, lambda **k: F.softplus(X, **k), {"beta": 0}, ValueError),
        (nn.Dropout, lambda **k: F.dropout(X, **k), {"p": "a"}, TypeError),
        (nn.Dropout2d, lambda **k: F.dropout2d(X, **k), {"p": 1.5}, ValueError),
    ],
)
def test_a_layer_refuses_what_its_function_would(layer: Any, call: Any, arguments: Any, error: Any) -> None:
    """When it is made and not when it is first called, in the same words."""
    with pytest.raises(error) as refused:
        layer(**arguments)
    with pytest.raises(error) as later:
        call(**arguments)
    words = str(refused.value).removeprefix(layer.__name__)
    assert str(later.value).endswith(words) and " expects " in words


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            nn.Conv2d(2, 4, 3, padding="same", dilation=2, groups=2, bias=False, padding_mode="reflect"),
            "Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), groups=2, bias=False, "
            "padding_mode=reflect)",
        ),
        (
            nn.ConvTranspose2d(2, 2, 2, 2, output_padding=1),
            "ConvTranspose2d(2, 2, kernel_size=(2, 2), stride=(2, 2), output_padding=(1, 1))",
        ),
        (nn.BatchNorm2d(3), "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"),
        (nn.LayerNorm([2, 3]), "LayerNorm((2, 3), eps=1e-05, elementwise_affine=True, bias=True)"),
        (nn.MaxPool2d(2), "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"),
        (nn.AvgPool2d(2), "AvgPool2d(kernel_size=2, stride=2, padding=0)"),
        (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d(output_size=1)"),
        (nn.LeakyReLU(0.1, inplace=True), "LeakyReLU(negative_slope=0.1, inplace=True)"),
        (nn.Softmax(1), "Softmax(dim=1)"),
        (nn.Dropout(), "Dropout(p=0.5, inplace=False)"),
        (nn.Flatten(), "Flatten(start_dim=1, end_dim=-1)"),
        (nn.Unflatten(1, (2, 3)), "Unflatten(dim=1, unflattened_size=(2, 3))"),
        (nn.Softplus(), "Softplus(beta=1.0, threshold=20.0)"),
        (nn.GELU(), "GELU(approximate='none')"),
        (nn.CrossEntropyLoss(), "CrossEntropyLoss()"),
    ],
)
def test_repr(layer: Any, text: str) -> None:
    """As PyTorch shows the layer."""
    assert repr(layer) == text


@pytest.mark.parametrize(
    ("make", "error", "part"),
    [
        (lambda: nn.Conv2d(3, 8, 0), ValueError, "kernel_size >= 1"),
        (lambda: nn.Conv2d(3, 8, 3, groups=2), ValueError, "in_channels=3"),
        (lambda: nn.Conv2d(-1, 8, 3), ValueError, "in_channels >= 0"),
        (lambda: nn.Conv2d(3.5, 8, 3), TypeError, "3.5"),
        (lambda: nn.Conv2d(3, 8, 3, padding="same", stride=2), ValueError, "same"),
        (lambda: nn.Conv2d(3, 8, 3, padding_mode="wrap"), ValueError, "'wrap'"),
        (lambda: nn.ConvTranspose2d(3, 8, 3, padding_mode="reflect"), ValueError, "'reflect'"),
        (lambda: nn.Linear(3, "4"), TypeError, "'4'"),
        (lambda: nn.BatchNorm2d(0), ValueError, "num_features >= 1"),
        (lambda: nn.BatchNorm2d(3)(tg.ones(2, 3)), ValueError, "(N, C, H, W)"),
        (lambda: nn.Dropout(2), ValueError, "2"),
        (lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "eps >= 0"),
        (lambda: nn.BatchNorm1d(3, momentum="a"), TypeError, "momentum"),
        (lambda: nn.ConvTranspose2d(3, 8, 3, output_padding=1), ValueError, "(1, 1), stride (1, 1)"),
        (lambda: nn.Flatten("x"), TypeError, "start_dim"),
        (lambda: nn.Softmax("a"), TypeError, "'a'"),
        (lambda: nn.Unflatten(1, 5), TypeError, "(2, 3), got 5"),
        (lambda: nn.Hardtanh(1, 1), ValueError, "max_val > min_val"),
        (lambda: nn.MSELoss(reduction="avg"), ValueError, "'avg'"),
        (lambda: nn.CrossEntropyLoss("weight"), TypeError, "str"),
        (lambda: nn.Conv2d(1, 1, 1, device="cuda"), RuntimeError, "cuda"),
    ],
)
def test_wrong_arguments(make: Any, error: type[Exception], part: str) -> None:
    """Each is a typed exception when the layer is made, not when it is used, where that can be known."""
    with pytest.raises(error) as caught:
        make()
    assert part in str(caught.value)
