"""A Sequential takes a ReLU and its neighbour in one pass: the same numbers, gradients, hooks and errors as apart."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.testing import gradcheck, gradgradcheck
from tinygrad_cnn.testing.strategies import distinct, tensors

CHAINS: dict[str, Any] = {
    "batch norm, ReLU": lambda: [nn.BatchNorm2d(3), nn.ReLU()],
    "batch norm without weights": lambda: [nn.BatchNorm2d(3, affine=False), nn.ReLU(inplace=True)],
    "ReLU, pool": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
    "overlapping pool": lambda: [nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "all three": lambda: [nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)],
    "convolution, ReLU": lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()],
    "reflected convolution": lambda: [nn.Conv2d(3, 2, 3, 2, 1, padding_mode="reflect", bias=False), nn.ReLU(True)],
    "convolution, pool": lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)],
    "convolution, ReLU, pool": lambda: [nn.Conv2d(3, 4, (2, 3), padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)],
    "overlapping pool of a convolution": lambda: [nn.Conv2d(3, 4, 1, groups=1), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)],
    "linear, ReLU": lambda: [nn.Flatten(0, 2), nn.Linear(4, 3), nn.ReLU()],
    "in place": lambda: [nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2)],
}
SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan])


def apart(modules: list[Any], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def drawn(modules: list[Any], seed: int) -> None:
    """Weights, biases and statistics that are not all alike."""
    rng = np.random.default_rng(seed)
    for module in modules:
        for value in (*module.parameters(), *module.buffers()):
            if value.ndim:
                value.detach().copy_(tg.from_numpy(rng.random(value.shape)) + 0.5)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("training", [True, False])
@given(st.integers(0, 99), st.sampled_from([np.float32, np.float64]), st.lists(SPECIAL, max_size=3))
def test_a_sequential_is_its_modules_one_after_the_other(
    chain: str, training: bool, seed: int, dtype: Any, special: list[float]
) -> None:
    """The same bits of results, gradients and running statistics; with ties, zeros, infinities and NaN."""
    modules = CHAINS[chain]()
    drawn(modules, seed)
    twins = copy.deepcopy(modules)
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (2, 3, 6, 4)).astype(dtype)
    values.reshape(-1)[rng.permutation(values.size)[: len(special)]] = special
    results = []
    for run, layers in ((nn.Sequential(*modules), modules), (lambda x: apart(twins, x), twins)):
        for layer in layers:
            layer.to(dtype).train(training)
        x = tg.from_numpy(values.copy()).requires_grad_()
        y = run(x * 1.0)
        y.backward(tg.from_numpy(np.random.default_rng(seed).normal(size=y.shape).astype(dtype)))
        state = [v for layer in layers for v in layer.state_dict().values()]
        results.append([y.detach(), x.grad, *(p.grad for layer in layers for p in layer.parameters()), *state])
        with tg.no_grad():
            results[-1].append(run(x * 1.0))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
        np.testing.assert_array_equal(np.signbit(one.numpy()), np.signbit(other.numpy()))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("training", [True, False])
@given(tensors(distinct((2, 3, 4, 4))), st.integers(0, 99))
def test_gradients_of_both_orders(chain: str, training: bool, x: Any, seed: int) -> None:
    """By finite differences; a gradient of a gradient takes the composed rules."""
    modules = CHAINS[chain]()
    drawn(modules, seed)
    net = nn.Sequential(*modules).double().train(training)
    places = [(m, name) for m in net for name, value in vars(m).items() if isinstance(value, nn.Parameter)]

    def call(x: Any, *values: Any) -> Any:
        for (module, name), value in zip(places, values, strict=True):
            module.__dict__[name] = value
        return net(x)

    inputs = [x, *(getattr(module, name).detach() for module, name in places)]
    gradcheck(call, inputs)
    gradgradcheck(call, inputs)


def steps(net: Any) -> list[str]:
    """Which modules the calls of a net's forward take together."""
    net(tg.ones(2, 3, 4, 4))
    return [type(step).__name__ for step in net._steps]


@given(
    st.integers(0, 99),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["bias", "no bias", "reflect", "grouped"]),
    st.booleans(),
    st.booleans(),
)
def test_a_convolution_takes_the_batch_norm_in_where_nothing_is_recorded(
    seed: int, dtype: Any, kind: str, relu: bool, affine: bool
) -> None:
    """The same numbers but for rounding, in evaluation without gradients; else the batch norm itself."""
    options: dict[str, Any] = {"bias": {}, "no bias": {"bias": False}, "reflect": {"padding_mode": "reflect"}}
    conv = nn.Conv2d(4, 6, 3, padding=1, **options.get(kind, {"groups": 2}))
    modules = [conv, nn.BatchNorm2d(6, affine=affine), *([nn.ReLU()] if relu else [])]
    drawn(modules, seed)
    net = nn.Sequential(*modules).to(dtype).eval()
    x = tg.randn(3, 4, 9, 8, dtype=dtype)
    apart_ = apart(modules, x).detach().numpy()
    np.testing.assert_array_equal(net(x).detach().numpy(), apart_)
    with tg.no_grad():
        taken_in = net(x).numpy()
        np.testing.assert_allclose(taken_in, apart_, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-5)
        seen = []
        handle = net[1].register_forward_hook(lambda module, args, out: seen.append(out))
        np.testing.assert_array_equal(net(x).numpy(), apart_)
        handle.remove()
        assert len(seen) == 1
        net.train()
        net(x)
    assert net[1].num_batches_tracked.item() == 1


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "nothing": lambda conv, norm: None,
    "in place": lambda conv, norm: conv.weight.mul_(2.0),
    "conv bias": lambda conv, norm: conv.bias.add_(1.0),
    "scale": lambda conv, norm: norm.weight.fill_(3.0),
    "shift": lambda conv, norm: norm.bias.fill_(3.0),
    "mean": lambda conv, norm: norm.running_mean.fill_(0.5),
    "variance": lambda conv, norm: norm.running_var.fill_(0.5),
    "eps": lambda conv, norm: setattr(norm, "eps", 1.0),
    "a view": lambda conv, norm: conv.weight[0].fill_(1.0),
    "detached": lambda conv, norm: conv.weight.detach().fill_(1.0),
    "data": lambda conv, norm: setattr(conv.weight, "data", tg.ones(*conv.weight.shape)),
    "another parameter": lambda conv, norm: setattr(conv, "weight", nn.Parameter(tg.ones(*conv.weight.shape))),
    "no bias": lambda conv, norm: setattr(conv, "bias", None),
    "loaded": lambda conv, norm: conv.load_state_dict(
        nn.Conv2d(conv.in_channels, conv.out_channels, 3, bias=conv.bias is not None).state_dict()
    ),
}


@given(
    st.lists(st.sampled_from(list(CHANGES)), max_size=3),
    st.sampled_from([(2, 3, 6), (32, 32, 15)]),  # the second goes by tiles, which keep their weights too
    st.integers(0, 99),
    st.booleans(),
    st.booleans(),
)
def test_the_scaled_weights_follow_every_change(
    names: list[str], sizes: tuple[int, int, int], seed: int, shares: bool, trains: bool
) -> None:
    """They are kept from call to call, and made anew when anything changed, seen by the version counters or not."""
    before, after, side = sizes
    conv, norm = modules = [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after)]
    drawn(modules, seed)
    net = nn.Sequential(*modules).eval()
    x = tg.randn(4, before, side, side)
    shared = conv.weight.detach().numpy() if shares else None
    with tg.no_grad():
        net(x)
        for name in names:
            if conv.bias is not None or "bias" not in name:
                CHANGES[name](conv, norm)
            if shared is not None:
                shared[...] += 1
            if trains:
                net.train()(x)
                net.eval()
            expected = apart(modules, x).numpy()
            np.testing.assert_allclose(net(x).numpy(), expected, rtol=1e-4, atol=1e-5 * (1 + np.abs(expected).max()))
            kept = net._steps[0]._kept[1][0]
            net(x)
            exposed = any(part._version.exposed for part in [*net.parameters(), *net.buffers()])
            assert (net._steps[0]._kept[1][0] is kept) is not exposed


def test_weights_given_by_another_tensor_follow_it() -> None:
    """`p.data = other` shares memory that `other` writes to without p's version."""
    modules = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)]
    net, x, other = nn.Sequential(*modules).eval(), tg.randn(4, 2, 6, 6), tg.ones(3, 2, 3, 3)
    modules[0].weight.data = other
    with tg.no_grad():
        net(x)
        other.fill_(2.0)
        np.testing.assert_allclose(net(x).numpy(), apart(modules, x).numpy(), rtol=1e-4, atol=1e-5)


def test_what_goes_together() -> None:
    """A ReLU goes with the pool after it, else with what is before it; others stay alone."""
    bn, relu, pool = nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)
    assert steps(nn.Sequential(bn, relu)) == ["_WithReLU"]
    assert steps(nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Linear(4, 4), relu)) == ["_WithReLU", "_WithReLU"]
    for active in (relu, nn.ReLU(True)):
        assert steps(nn.Sequential(nn.Conv2d(3, 3, 1), active, pool)) == ["_WithPool"]
    assert steps(nn.Sequential(nn.Conv2d(3, 3, 1), pool, relu)) == ["_WithPool", "ReLU"]
    assert steps(nn.Sequential(nn.Conv2d(3, 3, 1), bn, relu, nn.Conv2d(3, 3, 1), bn)) == ["_WithNorm", "_WithNorm"]
    assert steps(nn.Sequential(bn, relu, pool)) == ["BatchNorm2d", "_WithReLU"]
    assert steps(nn.Sequential(bn, nn.ReLU(True), pool)) == ["_WithReLU", "MaxPool2d"]
    assert steps(nn.Sequential(relu, bn, pool)) == ["ReLU", "BatchNorm2d", "MaxPool2d"]

    class Mine(nn.ReLU):
        pass

    assert steps(nn.Sequential(bn, Mine(), pool)) == ["BatchNorm2d", "Mine", "MaxPool2d"]


@pytest.mark.parametrize("which", [0, 1])
def test_hooks_and_changed_forwards_are_called(which: int) -> None:
    """Whatever is put on a module after the first call is seen by the next."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    x = tg.randn(2, 3, 4, 4)
    expected = net(x).detach().numpy()
    seen = []
    handles = [
        net[which].register_forward_pre_hook(lambda module, args: seen.append("before")),
        net[which].register_forward_hook(lambda module, args, out: seen.append("after")),
    ]
    np.testing.assert_array_equal(net(x).detach().numpy(), expected)
    assert seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    net(x)
    assert seen == ["before", "after"]
    net[which].forward = lambda x: x * 0.0
    assert (net(x) == 0).all()
    del net[which].forward
    np.testing.assert_array_equal(net(x).detach().numpy(), expected)


def test_a_changed_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the class gets another forward."""
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    net(tg.ones(1, 1, 2, 2))
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x + 5.0)
    assert net(tg.ones(1, 1, 2, 2)).item() == 6.0


def test_children_come_go_and_are_replaced() -> None:
    """The steps follow the children in every way of changing them."""
    x = tg.tensor([[[[-1.0, -2.0], [-3.0, -4.0]]]])
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    assert net(x).item() == 0
    net[0] = nn.Identity()
    assert net(x).item() == -1
    net.append(nn.ReLU())
    assert net(x).item() == 0
    del net[2]
    assert net(x).item() == -1
    setattr(net, "1", nn.AvgPool2d(2))
    assert net(x).item() == -2.5
    net.insert(0, nn.ReLU())
    assert net(x).item() == 0
    twin = pickle.loads(pickle.dumps(net))
    twin[0] = nn.Identity()
    assert twin(x).item() == -2.5 and net(x).item() == 0


def test_a_pickle_does_not_know_whether_the_net_was_called() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    before = pickle.dumps(net)
    with tg.no_grad():
        net(tg.randn(8, 3, 9, 9))
    assert pickle.dumps(net) == before


@pytest.mark.parametrize("recorded", [True, False])
def test_a_batch_norm_refuses_an_image_without_a_batch(recorded: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    with tg.set_grad_enabled(recorded), pytest.raises(ValueError, match="BatchNorm2d"):
        net(tg.randn(1, 8, 8))


def test_an_inplace_relu_overwrites_its_input() -> None:
    """As apart: the input is what a user holds."""
    x = tg.tensor([[[[-1.0, 2.0], [3.0, 4.0]]]])
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    assert net(x).item() == 4 and x[0, 0, 0, 0].item() == -1
    net[0].inplace = True
    assert net(x).item() == 4 and x[0, 0, 0, 0].item() == 0


def test_indices_stay_those_of_the_relu() -> None:
    """A pool that returns indices sees the ReLU's zeros as ties."""
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    y, index = net(tg.tensor([[[[-3.0, -1.0], [-2.0, -4.0]]]]))
    assert y.item() == 0 and index.item() == 0


@pytest.mark.parametrize(
    ("net", "x", "message"),
    [
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), tg.ones(2, 4, 2, 2), "BatchNorm2d '0.0' expects 3 channels"),
        (
            nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
            tg.ones(4, 3),
            r"BatchNorm2d '0.0' expects an input of \(N, C, H",
        ),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3)), tg.ones(1, 1, 2, 2), "MaxPool2d '0.1': a window of"),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), tg.ones(1, 1, 2, 2).long(), "MaxPool2d '0.1' expects"),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), np.ones((1, 1, 2, 2)), "ReLU '0.0' expects a Tensor"),
    ],
)
def test_errors_name_the_module(net: Any, x: Any, message: str) -> None:
    """The path leads to the module that refuses."""
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        nn.Sequential(net)(x)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        nn.Sequential(nn.Sequential(*[copy.copy(m) for m in net])).apply(_watch)(x)


def _watch(module: Any) -> None:
    """A hook that does nothing, so that each module is called by itself."""
    module.register_forward_hook(lambda module, args, out: None)


def test_the_graph_of_a_fused_pair_keeps_its_input_alone() -> None:
    """Neither the map before the ReLU nor the mask is kept; writing into the result does no harm."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    x = tg.randn(2, 3, 4, 4).requires_grad_()
    y = net(x)
    expected = tg.autograd.grad(y.sum(), x, retain_graph=True)[0].numpy()
    y.add_(1.0)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), expected)
