"""Module: what is registered where, state, hooks, containers, and errors that say which layer they come "
"from."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import nn


class Block(nn.Module):
    """A child that is called by its parent, with a list of children that are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3)])

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(tg.ones(1))
        self.block = Block()
        self.register_buffer("steps", tg.zeros(2))
        self.register_buffer("cache", tg.zeros(3), persistent=False)
        self.register_parameter("missing", None)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Any) -> Any:
        return self.norm(self.block(x * self.scale))


KEYS = [
    "scale",
    "steps",
    "block.layers.0.weight",
    "block.layers.0.bias",
    "block.layers.1.weight",
    "block.layers.1.bias",
    "norm.weight",
    "norm.bias",
    "norm.running_mean",
    "norm.running_var",
    "norm.num_batches_tracked",
]


# --------------------------------------------------------------------------------------------- registration


def test_names() -> None:
    """Paths in PyTorch's order: a module's own before its children's, a shared one once."""
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [k for k in KEYS if k not in ("steps", *KEYS[-3:])]
    assert [name for name, _ in net.named_buffers()] == ["steps", "cache", *KEYS[-3:]]
    assert [name for name, _ in net.named_modules()] == [
        "", "block", "block.layers", "block.layers.0", "block.layers.1", "norm"
    ]  # fmt: skip
    assert [name for name, _ in net.named_children()] == ["block", "norm"]
    net.twin = net.block
    assert len(list(net.parameters())) == 7
    assert len(list(net.modules())) == 6 and len(list(net.named_modules(remove_duplicate=False))) == 10
    assert [name for name, _ in net.named_children()] == ["block", "norm"]
    assert "twin.layers.0.weight" in dict(net.named_parameters(remove_duplicate=False))
    assert len(list(net.parameters(recurse=False))) == 1


def test_attributes_change_kind_and_go() -> None:
    """Assigning decides what an attribute is; None keeps the kind; deleting forgets it."""
    net = Net()
    net.scale = None
    assert "scale" not in dict(net.named_parameters())
    net.scale = nn.Parameter(tg.zeros(1))
    assert "scale" in net.state_dict()
    net.steps = tg.ones(2)
    assert net.state_dict()["steps"].tolist() == [1.0, 1.0]
    net.block = nn.Identity()
    assert isinstance(net.get_submodule("block"), nn.Identity)
    del net.norm
    assert "norm" not in dict(net.named_children()) and not hasattr(net, "norm")
    net.later = 3
    net.later = nn.Parameter(tg.ones(1))
    assert "later" in dict(net.named_parameters())


def test_a_buffer_that_becomes_a_parameter_is_saved() -> None:
    """Not persistent is what the buffer was."""
    net = Net()
    net.cache = nn.Parameter(tg.ones(3))
    assert "cache" in net.state_dict()


def test_the_dicts_of_what_is_inside_write_through() -> None:
    """`_modules`, `_parameters` and `_buffers` are the module's own: code that swaps layers writes to them."""
    net, tanh, p = Net(), nn.Tanh(), nn.Parameter(tg.zeros(1))
    net._modules["norm"], net._parameters["scale"], net._buffers["cache"] = tanh, p, tg.ones(1)
    assert net.norm is tanh and net.scale is p and net.cache.tolist() == [1]
    assert "cache" not in net.state_dict()
    net._modules.update(extra=tanh)
    net._buffers.pop("steps")
    del net._parameters["missing"]
    assert net.extra is tanh and not hasattr(net, "steps") and not hasattr(net, "missing")
    assert list(net._modules) == ["block", "norm", "extra"] and net._modules["extra"] is tanh
    assert list(net._parameters | net._buffers) == ["scale", *net._buffers]
    for copied in (net._modules.copy(), copy.copy(net._modules), dict(net._modules), net._modules | {}):
        copied.clear()
    assert len(net._modules) == 3
    for held in (net._modules, net._parameters, net._buffers):
        with pytest.raises(TypeError, match="got int"):
            held["x"] = 3
    line = nn.Sequential(nn.ReLU())
    line(tg.zeros(1))
    line._modules["0"] = tanh
    assert line(tg.ones(1)).item() == pytest.approx(np.tanh(1), rel=1e-6)


def test_lookup_by_path() -> None:
    """get_* follow dotted paths and say which step is missing."""
    net = Net()
    assert net.get_submodule("block.layers.1") is net.block.layers[1]
    assert net.get_submodule("") is net
    assert net.get_parameter("block.layers.1.bias") is net.block.layers[1].bias
    assert net.get_buffer("norm.running_mean") is net.norm.running_mean
    for get, path in ((net.get_submodule, "block.x"), (net.get_parameter, "norm.running_mean"), (net.get_buffer, "y")):
        with pytest.raises(AttributeError, match=path.split(".")[-1]):
            get(path)


def test_parameter() -> None:
    """A Parameter is a leaf that requires grad, and what is computed from it is a plain Tensor."""
    p = nn.Parameter(tg.ones(2))
    assert p.requires_grad and p.is_leaf and isinstance(p, tg.Tensor)
    assert type(p * 2) is tg.Tensor and type(p.detach()) is tg.Tensor and type(p[0]) is tg.Tensor
    assert repr(p) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
    assert not nn.Parameter(tg.ones(2), requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="ndarray"):
        nn.Parameter(np.ones(2))
    with pytest.raises(RuntimeError, match="int64"):
        nn.Parameter(tg.tensor([1]))


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        (lambda net: net.unknown, AttributeError, "'Net' object has no attribute 'unknown'"),
        (lambda net: setattr(net, "scale", tg.ones(1)), TypeError, "Parameter"),
        (lambda net: setattr(net, "block", 3), TypeError, "Module"),
        (lambda net: setattr(net, "steps", 3), TypeError, "Tensor"),
        (lambda net: net.register_buffer("scale", tg.ones(1)), KeyError, "scale"),
        (lambda net: net.register_buffer("a.b", tg.ones(1)), KeyError, "a.b"),
        (lambda net: net.register_buffer("a", 1), TypeError, "int"),
        (lambda net: net.register_parameter("", nn.Parameter(tg.ones(1))), KeyError, "empty"),
        (lambda net: net.register_parameter("a", tg.ones(1)), TypeError, "Parameter"),
        (lambda net: net.register_parameter(3, None), TypeError, "string"),
        (lambda net: net.add_module("forward", nn.Identity()), KeyError, "forward"),
        (lambda net: net.add_module("a", "b"), TypeError, "str"),
        (lambda net: net.train(1), ValueError, "1"),
        (lambda net: net.to(tg.int64), TypeError, "int64"),
        (lambda net: net.cuda(), RuntimeError, "cuda"),
        (lambda net: nn.Module()(1), NotImplementedError, "forward"),
    ],
)
def test_wrong_use(change: Any, error: type[Exception], part: str) -> None:
    """Each mistake is a typed exception that names the thing."""
    with pytest.raises(error) as caught:
        change(Net())
    assert part in str(caught.value)


def test_init_comes_first() -> None:
    """A child assigned before super().__init__() is a mistake that says what to do."""

    class Early(nn.Module):
        def __init__(self) -> None:
            self.fc = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"Early .*'fc'.*super\(\).__init__\(\)"):
        Early()


# ---------------------------------------------------------------------------------------------------- state


def test_state_dict_round_trip() -> None:
    """Every key in order; values copied in place, so that other holders of the parameters see them."""
    ours, theirs = Net(), Net()
    theirs(tg.randn(8, 4))
    state = theirs.state_dict()
    assert list(state) == KEYS
    weight = ours.block.layers[0].weight
    result = ours.load_state_dict(state)
    assert repr(result) == "<All keys matched successfully>"
    assert ours.block.layers[0].weight is weight
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key].numpy())
        assert not value.requires_grad and value.numpy() is not state[key].numpy()


def test_loading_refuses_and_changes_nothing() -> None:
    """All problems are listed, and not one value is written."""
    net = Net()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    state = {k: tg.full_like(v, 7) for k, v in net.state_dict().items()}
    del state["scale"]
    state["extra"] = tg.ones(1)
    state["norm.bias"] = tg.ones(4)
    state["norm.weight"] = "gone"
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    for part in ("Net", "missing keys: scale", "unexpected keys: extra", "norm.bias", "(3,)", "(4,)", "str"):
        assert part in str(caught.value)
    with pytest.raises(RuntimeError, match=r"norm\.bias"):
        net.load_state_dict(state, strict=False)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    with pytest.raises(TypeError, match="list"):
        net.load_state_dict([])


def test_loading_part_of_a_state() -> None:
    """Not strict: what fits is copied and cast, the rest is named."""
    net = Net()
    missing, unexpected = net.load_state_dict({"scale": np.array([2.5]), "x": tg.ones(1)}, strict=False)
    assert net.scale.item() == 2.5 and net.scale.dtype == np.float32
    assert missing == KEYS[1:-1] and unexpected == ["x"]


def test_a_state_that_did_not_count_batches() -> None:
    """Old checkpoints lack the count, which stays what it is; all else must be there."""
    net = Net()
    state = {k: tg.full_like(v, 2) for k, v in net.state_dict().items()}
    net.norm.num_batches_tracked.fill_(5)
    del state["norm.num_batches_tracked"]
    assert net.load_state_dict(state).missing_keys == []
    assert net.norm.num_batches_tracked.item() == 5 and net.norm.running_mean.tolist() == [2, 2, 2]
    del state["norm.running_mean"]
    with pytest.raises(RuntimeError, match=r"missing keys: norm\.running_mean$"):
        net.load_state_dict(state)


def test_a_shared_child_is_saved_under_both_names() -> None:
    """As in PyTorch, so that a network without the sharing can load it."""
    net = nn.Module()
    net.a = net.b = nn.Linear(1, 1)
    assert list(net.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_apart(copied: Any) -> None:
    """A copy has equal values, its own memory in the same order, the same sharing, and trains."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    net.append(net[0])
    twin = copied(net)
    assert twin[0] is twin[3] and twin[0] is not net[0]
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
        assert a.stride() == b.stride() and b.requires_grad and type(b) is nn.Parameter
    with tg.no_grad():
        twin[0].weight.fill_(0.0)
    assert (net[0].weight != 0).any()
    twin[1](twin[0](tg.ones(1, 2, 5, 5))).sum().backward()
    assert twin[0].bias.grad is not None and net[0].bias.grad is None


def test_to_casts_in_place() -> None:
    """Parameters, their gradients and float buffers change dtype; counters do not; identities stay."""
    net = Net()
    net(tg.randn(5, 4)).sum().backward()
    weight = net.norm.weight
    assert net.double() is net and net.norm.weight is weight
    assert weight.dtype == weight.grad.dtype == net.norm.running_var.dtype == np.float64
    assert net.norm.num_batches_tracked.dtype == np.int64
    assert net(tg.randn(5, 4).double()).dtype == np.float64
    assert net.float().scale.dtype == np.float32
    conv = nn.Conv2d(2, 3, 3)
    stride = conv.weight.stride()
    assert conv.to(tg.float64).weight.stride() == stride


def test_a_cast_between_forward_and_backward_is_noticed() -> None:
    """The saved weights are gone, which backward says instead of mixing dtypes."""
    net = nn.Linear(2, 2)
    y = net(tg.ones(1, 2, requires_grad=True))
    net.double()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_modes() -> None:
    """train, eval, requires_grad_, apply and zero_grad reach every module and return it."""
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())
    net.requires_grad_()
    net(tg.randn(5, 4)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    seen: list[Any] = []
    assert net.apply(seen.append) is net
    assert seen[-1] is net and set(seen) == set(net.modules())


def test_a_module_dies_with_its_last_reference() -> None:
    """No cycles: memory goes without the garbage collector, after training and after an error too."""
    gc.disable()
    try:
        net = Net()
        net(tg.randn(5, 4)).sum().backward()
        with pytest.raises(RuntimeError):
            net(tg.randn(5, 3))
        seen = weakref.ref(net)
        del net
        assert seen() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------- hooks


def test_hooks() -> None:
    """Hooks see and may replace arguments and outputs, in order, until they are removed."""
    layer = nn.Identity()
    seen: list[Any] = []
    first = layer.register_forward_pre_hook(lambda m, args: seen.append((m, args)))
    second = layer.register_forward_pre_hook(lambda m, args: args[0] + 1)
    third = layer.register_forward_hook(lambda m, args, out: out * 10)
    x = tg.ones(1)
    assert layer(x).item() == 20
    assert seen == [(layer, (x,))]
    second.remove()
    third.remove()
    assert layer(x).item() == 1
    first.remove()
    with layer.register_forward_hook(lambda m, args, out: out - 1):
        assert layer(x).item() == 0
    assert layer(x) is x


# --------------------------------------------------------------------------------------------------- errors


def test_a_call_before_init_says_so() -> None:
    """Only then: an AttributeError of forward is the user's."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            pass

        def forward(self, x: Any) -> Any:
            return x.unknown

    with pytest.raises(AttributeError, match=r"Bare is called without Module.__init__\(\); call super"):
        Bare()(1)
    bare = Bare()
    nn.Module.__init__(bare)
    with pytest.raises(AttributeError, match="'int' object has no attribute 'unknown'"):
        bare(1)


def test_errors_name_the_layer() -> None:
    """The path of the module is in the message itself, however deep, through lists and sequences."""
    net = Net()
    with pytest.raises(RuntimeError) as caught:
        net(tg.ones(2, 5))
    assert str(caught.value) == (
        "Linear 'block.layers.0' expects 4 features, got (2, 5): the input has 5; set in_features=5"
    )
    outer = nn.Sequential(OrderedDict(features=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())))
    with pytest.raises(ValueError, match=r"^Conv2d 'features.0' expects 3 input channels, got input \(1, 1, 9, 9\)"):
        outer(tg.ones(1, 1, 9, 9))
    with pytest.raises(ValueError, match=r"^BatchNorm1d 'norm' expects an input of \(N, C\)"):
        nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(3)))(tg.ones(3))
    with pytest.raises(ValueError, match=r"^BatchNorm1d 'norm' expects 3 channels"):
        nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(3)))(tg.ones(4, 2))
    with pytest.raises(ValueError, match=r"^conv2d expects 3"):
        nn.Conv2d(3, 8, 3)(tg.ones(1, 1, 9, 9))


def test_errors_of_ones_own() -> None:
    """A user's message is prefixed; other kinds of exceptions, and those without a message, pass untouched."""

    class Picky(nn.Module):
        def forward(self, error: Exception) -> Any:
            raise error

    net = nn.Sequential(Picky())
    with pytest.raises(IndexError, match=r"^Picky '0': too far$"):
        net(IndexError("too far"))
    for error in (ValueError(), ValueError("two", 2), KeyError("k"), ZeroDivisionError("z")):
        args = error.args
        with pytest.raises(type(error)) as caught:
            net(error)
        assert caught.value is error and error.args == args


def test_an_exception_that_is_raised_twice_has_one_path() -> None:
    """A message kept as an object does not grow; raised elsewhere it names that place."""

    class Picky(nn.Module):
        error = ValueError("no")

        def forward(self, x: Any) -> Any:
            raise self.error

    net = nn.Sequential(nn.Sequential(Picky()))
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^Picky '0.0': no$"):
            net(1)
    with pytest.raises(ValueError, match=r"^Picky '0': no$"):
        net[0](1)
    with pytest.raises(ValueError, match=r"^no$"):
        net[0][0](1)


def test_a_layer_that_is_not_registered_keeps_the_message() -> None:
    """A child in a plain list has no path from its parent; the part below it is named."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = [nn.Sequential(nn.Linear(2, 2))]

        def forward(self, x: Any) -> Any:
            return self.plain[0](x)

    with pytest.raises(RuntimeError, match=r"^Linear '0' expects 2"):
        Hidden()(tg.ones(1, 3))


# ----------------------------------------------------------------------------------------------- containers


def test_sequential() -> None:
    """Indexing, slicing, changing and naming; the numbers stay consecutive."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    net.append(nn.Linear(3, 1))
    assert len(net) == 3 and isinstance(net[-1], nn.Linear) and len(net[:2]) == 2
    assert net[:2][0] is net[0]
    net.insert(1, nn.Identity())
    assert [type(m).__name__ for m in net] == ["Linear", "Identity", "ReLU", "Linear"]
    del net[1]
    net[1] = nn.Tanh()
    assert list(dict(net.named_children())) == ["0", "1", "2"] and isinstance(net[1], nn.Tanh)
    assert list(net.extend([nn.ReLU()]).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    del net[1:]
    assert len(net) == 1
    for bad in (lambda: net[1], lambda: net.insert(5, nn.ReLU()), lambda: net.__delitem__(-2)):
        with pytest.raises(IndexError):
            bad()
    named = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.ReLU()))
    assert named(tg.ones(1, 2)).shape == (1, 2) and named[0] is named.a
    with pytest.raises(TypeError):
        nn.Sequential(nn.ReLU(), 3)


def test_module_list_and_dict() -> None:
    """They hold, name and count modules, and are not called."""
    modules = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    assert len(modules) == 3 and len(list(modules.parameters())) == 6
    assert isinstance(modules[1:], nn.ModuleList) and len(modules[1:]) == 2
    with pytest.raises(NotImplementedError):
        modules(1)
    named = nn.ModuleDict({"a": nn.Linear(1, 1)})
    named["b"] = nn.ReLU()
    assert list(named) == ["a", "b"] == list(named.keys()) and "a" in named and len(named) == 2
    assert list(named.values()) == [m for _, m in named.items()] == [named["a"], named["b"]]
    del named["a"]
    assert list(named) == ["b"]
    with pytest.raises(KeyError):
        del named["a"]


def test_repr() -> None:
    """As PyTorch shows modules: one line a child, equal neighbours of a list together."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2, bias=False), nn.ModuleList([nn.Linear(1, 2), nn.Linear(1, 2), nn.ReLU()])
    )
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=False)\n"
        "  (1): ModuleList(\n"
        "    (0-1): 2 x Linear(in_features=1, out_features=2, bias=True)\n"
        "    (2): ReLU()\n"
        "  )\n"
        ")"
    )
