"""Modules that hold modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import index as as_index
from typing import Any

from ..autograd.modes import mode
from ..tensor import Tensor
from .activation import ReLU
from .conv import Conv2d
from .linear import Linear
from .module import Module, _name_place
from .norm import BatchNorm1d, BatchNorm2d
from .pool import MaxPool2d


class _Numbered(Module):
    """Children called "0", "1", ... in order."""

    def __len__(self) -> int:
        return len(self._held("module"))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._held("module").values())

    def __getitem__(self, index: Any) -> Any:
        children = list(self)
        return self._of(children[index]) if isinstance(index, slice) else children[self._at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(self._held("module"))[self._at(index)], module)

    def __delitem__(self, index: Any) -> None:
        children = list(self)
        del children[index if isinstance(index, slice) else self._at(index)]
        self._replace(children)

    def append(self, module: Module) -> Any:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; returns self."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at index; returns self."""
        children = list(self)
        if not -len(children) <= index <= len(children):
            raise IndexError(f"insert at {index} is out of range for {len(children)} modules")
        children.insert(index, module)
        self._replace(children)
        return self

    def _at(self, index: Any) -> int:
        at = as_index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"index {at} is out of range for a {type(self).__name__} of {len(self)} modules")
        return at % len(self)

    def _of(self, children: list[Any]) -> Any:
        return type(self)(*children)

    def _replace(self, children: list[Any]) -> None:
        """Number these modules from 0."""
        for name in list(self._held("module")):
            delattr(self, name)
        for child in children:
            self.append(child)


class Sequential(_Numbered):
    """Modules called one after the other; from modules, or from a dict of named ones.

    >>> import tinygrad_cnn as tg
    >>> net = tg.nn.Sequential(tg.nn.Linear(4, 8), tg.nn.ReLU(), tg.nn.Linear(8, 2))
    >>> net(tg.ones(3, 4)).shape
    (3, 2)
    """

    _steps: list[Any] | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0] if len(args) == 1 and isinstance(args[0], Mapping) else None
        for name, module in named.items() if named is not None else enumerate(args):
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        steps = self._steps
        if steps is None:
            self._steps = steps = _steps(list(self))
        for step in steps:
            input = step(input)
        return input

    # The steps are found once, and forgotten when a child comes, goes or is replaced.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "_steps":
            self._steps = None

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._steps = None

    def _register(self, kind: str, name: str, value: Any) -> None:
        super()._register(kind, name, value)
        self._steps = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_steps": None}


class _WithReLU:
    """Two neighbours of which one is a ReLU; what they compute takes one pass over memory less than their calls.

    `owner`, the other one, knows how: `_forward_relu`. Hooks and changed forwards are looked for at every call, and
    get both calls.
    """

    owners = (Conv2d, Linear, BatchNorm1d, BatchNorm2d, MaxPool2d)

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second
        self.owner = first if type(second) is ReLU else second

    def __call__(self, input: Any) -> Any:
        first, second, owner = self.first, self.second, self.owner
        if (
            type(input) is not Tensor
            or not (_is_plain(first) and _is_plain(second))
            or (first is not owner and first.inplace)  # somebody may look at the input afterwards
        ):
            return second(first(input))
        try:
            return owner._forward_relu(input)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            _name_place(error, owner)
            raise


class _WithPool:
    """A convolution and the max-pool after it, which may have a ReLU: the map between them need not be written."""

    def __init__(self, conv: Any, after: Any) -> None:
        self.conv, self.after = conv, after
        self.relu = isinstance(after, _WithReLU)
        self.plain = (conv, after.first, after.second) if self.relu else (conv, after)

    def __call__(self, input: Any) -> Any:
        conv, pool = self.conv, self.plain[-1]
        if type(input) is not Tensor or pool.return_indices or not all(map(_is_plain, self.plain)):
            return self.after(conv(input))
        sizes = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
        try:
            return conv._forward_pooled(input, sizes, self.relu)
        except (ValueError, TypeError, RuntimeError, IndexError):
            return self.after(conv(input))  # the same error, from the module that it is about


class _WithNorm:
    """A convolution and the batch norm after it, which may have a ReLU: one convolution, of weights times the scale.

    Only where no graph is recorded and the statistics are fixed. Sums are rounded in another order than apart. The
    scaled weights are kept for the next call, unless somebody could write to what they are made of unseen.
    """

    _kept: tuple[list[Any], tuple[Tensor, Tensor, dict[Any, Any]]] | None = None  # the dict is for the kernels

    def __init__(self, conv: Any, after: Any) -> None:
        self.conv, self.after = conv, after
        self.relu = isinstance(after, _WithReLU)
        self.plain = (conv, after.first, after.second) if self.relu else (conv, after)

    def __call__(self, input: Any) -> Any:
        conv, norm = self.conv, self.plain[1]
        if (
            mode.grad
            or norm.training
            or norm.running_mean is None
            or type(input) is not Tensor
            or input._array.ndim != 4  # a batch norm takes batches alone
            or input._array.size < conv.weight._array.size  # the weights may be scaled at every call
            or not all(map(_is_plain, self.plain))
            or norm.num_features != conv.out_channels
            or norm.running_mean._array.dtype != conv.weight._array.dtype
        ):
            return self.after(conv(input))
        try:
            return conv._forward_with(input, *self._scaled(), self.relu)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            _name_place(error, conv)
            raise

    def _scaled(self) -> tuple[Tensor, Tensor, dict[Any, Any]]:
        conv, norm, kept = self.conv, self.plain[1], self._kept
        state, exposed = [norm.eps], False
        for part in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            version = None if part is None else part._version
            state.append(version)
            if version is not None:
                state.append(version.n)
                exposed = exposed or version.exposed
        if kept is None or exposed or kept[0] != state:
            self._kept = kept = state, (*conv._scaled(*norm._fixed_affine()), {})
        return kept[1]


_FORWARDS: dict[type, Any] = {kind: kind.forward for kind in (*_WithReLU.owners, ReLU)}


def _is_plain(module: Any) -> bool:
    """Whether a call of the module is its class's forward and nothing else."""
    kind = type(module)
    return (
        kind.forward is _FORWARDS[kind]
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _steps(modules: list[Any]) -> list[Any]:
    """What is called one after the other, a convolution and its batch norm or its pool as one."""
    steps: list[Any] = []
    for step in _pairs(modules):
        owner = step.owner if isinstance(step, _WithReLU) else step
        both = {BatchNorm2d: _WithNorm, MaxPool2d: _WithPool}.get(type(owner))
        if both is not None and steps and type(steps[-1]) is Conv2d:
            steps[-1] = both(steps[-1], step)
        else:
            steps.append(step)
    return steps


def _pairs(modules: list[Any]) -> list[Any]:
    """The modules, with a ReLU and the max-pool after it, or else what is before it, as one."""
    steps: list[Any] = []
    kinds = [type(module) for module in modules]
    at = 0
    while at < len(modules):
        kind, following, later = (*kinds[at : at + 3], None, None, None)[:3]
        after_conv = at > 0 and kinds[at - 1] is Conv2d
        pool = kind is ReLU and following is MaxPool2d and (after_conv or not modules[at].inplace)
        relu = (
            kind in _WithReLU.owners
            and kind is not MaxPool2d
            and following is ReLU
            and (later is not MaxPool2d or (modules[at + 1].inplace and kind is not Conv2d))
        )
        if pool or relu:
            steps.append(_WithReLU(modules[at], modules[at + 1]))
        else:
            steps.append(modules[at])
        at += 1 + (pool or relu)
    return steps


class ModuleList(_Numbered):
    """A list of modules whose parameters count; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _of(self, children: list[Any]) -> Any:
        return type(self)(children)

    def __repr__(self) -> str:
        lines, at = [], 0
        for text, same in groupby(repr(child) for child in self):
            n = len(list(same))
            lines.append(f"({at}): {text}" if n == 1 else f"({at}-{at + n - 1}): {n} x {text}")
            at += n
        return self._shown(lines)


class ModuleDict(Module):
    """Modules by name, whose parameters count; it has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        return self._held("module")[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._held("module"):
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._held("module"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._held("module"))

    def __contains__(self, key: object) -> bool:
        return key in self._held("module")

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._held("module").keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._held("module").values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._held("module").items()

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add or replace modules."""
        for name, module in modules.items():
            self[name] = module
