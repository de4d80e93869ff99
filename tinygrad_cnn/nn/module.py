"""Module and Parameter: layers that know their weights, their children and their place in a network."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..autograd import RemovableHandle, no_grad
from ..device import check as check_device
from ..dtypes import is_float
from ..inplace import check_writable
from ..tensor import Tensor, _parse_to, clear_grad

Self = TypeVar("Self", bound="Module")
_OPTIONAL = "num_batches_tracked"  # the state of a batch norm made before PyTorch counted batches lacks it


class Parameter(Tensor):
    """A tensor that a Module trains: as its attribute it appears in `parameters()` and `state_dict()`.

    Shares the memory of `data`, a Tensor (an empty one if left out). Raises TypeError for another type, and
    RuntimeError for an integer tensor unless requires_grad=False. What is computed from it is a plain Tensor.

    >>> import tinygrad_cnn as tg
    >>> w = tg.nn.Parameter(tg.ones(2))
    >>> w.requires_grad, type(w * 2).__name__
    (True, 'Tensor')
    """

    __slots__ = ()

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        if data is None:
            data = Tensor(np.empty(0, np.float32))
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter expects a Tensor, got {type(data).__name__}; use tg.tensor()")
        super().__init__(data._array, data._version)
        self.requires_grad_(requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    def __reduce__(self) -> Any:
        # NumPy pickles in logical order; weights are kept in the order that the kernels read.
        axes = sorted(range(self.ndim), key=lambda axis: -self._array.strides[axis])
        return _rebuild, (self._array.transpose(axes), tuple(np.argsort(axes)), self._requires_grad)


def _rebuild(array: np.ndarray, axes: tuple[int, ...], requires_grad: bool) -> Parameter:
    return Parameter(Tensor(array.transpose(axes)), requires_grad)


class IncompatibleKeys(NamedTuple):
    """The keys that a state_dict lacked, and those that nothing in the module is called."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class _Held(UserDict[str, Any]):
    """The parameters, buffers or children of a module by name; what is written or deleted here is so there."""

    def __init__(self, module: Module, kind: str) -> None:
        self.data = module._held(kind)
        self._module, self._kind = module, kind

    def __setitem__(self, name: str, value: Any) -> None:
        if self._kind == "buffer":
            self._module.register_buffer(name, value, name not in self._module._non_persistent)
        else:
            getattr(self._module, f"register_{self._kind}")(name, value)
        self.data[name] = value

    def __delitem__(self, name: str) -> None:
        del self.data[name]
        delattr(self._module, name)

    def __or__(self, other: Any) -> Any:
        return self.data | dict(other)

    def copy(self) -> Any:
        """A dict of its own, whose changes are not the module's."""
        return dict(self.data)

    __copy__ = copy


class Module:
    """The base of all layers and networks.

    A subclass calls `super().__init__()`, assigns Parameters and Modules as attributes, and defines
    `forward`. Calling the module runs `forward` and the hooks. A ValueError, TypeError, RuntimeError or
    IndexError that leaves a child's forward says in its message which module it came from.

    >>> import tinygrad_cnn as tg
    >>> class Net(tg.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = tg.nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.fc(x).relu()
    >>> Net()(tg.ones(3, 4)).shape
    (3, 2)
    >>> Net()(tg.ones(3, 5))
    Traceback (most recent call last):
    RuntimeError: Linear 'fc' expects 4 features, got (3, 5): the input has 5; set in_features=5
    """

    training: bool

    def __init__(self) -> None:
        # The values are ordinary attributes, as fast to read as any; this says which of them are what.
        self._kinds: dict[str, str] = {}  # name -> "parameter", "buffer" or "module", in order of registration
        self._non_persistent: set[str] = set()
        self._forward_hooks: dict[int, Callable[..., Any]] = {}
        self._forward_pre_hooks: dict[int, Callable[..., Any]] = {}
        self.training = True

    # ------------------------------------------------------------------------------------------------ calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._forward_hooks or self._forward_pre_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            _name_place(error, self)
            raise
        except AttributeError:
            if "_kinds" in self.__dict__:
                raise
            raise AttributeError(
                f"{type(self).__name__} is called without Module.__init__(); call super().__init__() in its __init__"
            ) from None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(); define one")

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook in tuple(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        out = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, out)
            if changed is not None:
                out = changed
        return out

    def register_forward_pre_hook(self, hook: Callable[[Any, Any], Any]) -> RemovableHandle:
        """Call hook(module, args) before forward; what it returns, unless None, replaces args."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[[Any, Any, Any], Any]) -> RemovableHandle:
        """Call hook(module, args, output) after forward; what it returns, unless None, replaces the output."""
        return RemovableHandle(self._forward_hooks, hook)

    # --------------------------------------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        kind = "parameter" if isinstance(value, Parameter) else "module" if isinstance(value, Module) else None
        kinds = self.__dict__.get("_kinds")
        if kind is not None:
            if kinds is None:
                raise AttributeError(
                    f"{type(self).__name__} assigns the {kind} {name!r} before Module.__init__(); call "
                    "super().__init__() first"
                )
            if kinds.get(name) != kind:
                kinds.pop(name, None)
                kinds[name] = kind
                self._non_persistent.discard(name)
        elif kinds and value is not None and name in kinds:
            held = kinds[name]
            if held != "buffer" or not isinstance(value, Tensor):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a {held} and cannot become a {type(value).__name__}; "
                    f"assign a {'Tensor' if held == 'buffer' else held.title()} or None, or delete it first"
                )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._kinds.pop(name, None)
        self._non_persistent.discard(name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or None to say that there could be one of this name.

        Raises TypeError for another type, KeyError for a name that is empty, dotted or taken.
        """
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"parameter {name!r} must be a Parameter or None, got {type(param).__name__}")
        self._register("parameter", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained, such as a running mean; saved with the rest.

        Raises TypeError for another type, KeyError for a name that is empty, dotted or taken.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"buffer {name!r} must be a Tensor or None, got {type(tensor).__name__}")
        self._register("buffer", name, tensor)
        if not persistent:
            self._non_persistent.add(name)
        else:
            self._non_persistent.discard(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under a name.

        Raises TypeError for another type, KeyError for a name that is empty, dotted or taken.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"child {name!r} must be a Module or None, got {type(module).__name__}")
        self._register("module", name, module)

    register_module = add_module

    def _register(self, kind: str, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a {kind} must be a string, got {type(name).__name__}")
        if name == "" or "." in name:
            raise KeyError(f"the name of a {kind} must not be empty or contain a dot, got {name!r}")
        if self._kinds.get(name) != kind:
            if hasattr(self, name):
                raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")
            self._kinds[name] = kind
        object.__setattr__(self, name, value)

    def _held(self, kind: str) -> dict[str, Any]:
        values = self.__dict__
        return {name: values[name] for name, held in self._kinds.items() if held == kind}

    @property
    def _parameters(self) -> _Held:
        return _Held(self, "parameter")

    @property
    def _buffers(self) -> _Held:
        return _Held(self, "buffer")

    @property
    def _modules(self) -> _Held:
        return _Held(self, "module")

    # ----------------------------------------------------------------------------------------- what is inside

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted paths, parents first; each once unless told otherwise."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._held("module").items():
            if child is not None:
                yield from child.named_modules(memo, _join(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside with their names, each once."""
        seen = set()
        for name, child in self._held("module").items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly inside, each once."""
        return (child for _, child in self.named_children())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted paths; a shared one once, under its first path."""
        return self._named("parameter", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, with recurse, of all below it."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their dotted paths."""
        return self._named("buffer", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, with recurse, of all below it."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _named(self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen = set()
        inside = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in inside:
            for name, value in module._held(kind).items():
                if value is None or value in seen:
                    continue
                if remove_duplicate:
                    seen.add(value)
                yield _join(path, name), value

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; AttributeError where there is none."""
        module = self
        for name in target.split(".") if target else ():
            child = module.__dict__.get(name)
            if not isinstance(child, Module):
                raise AttributeError(f"{type(module).__name__} has no child {name!r} on the path {target!r}")
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path; AttributeError where there is none."""
        return self._get("parameter", target)  # type: ignore[no-any-return]

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path; AttributeError where there is none."""
        return self._get("buffer", target)  # type: ignore[no-any-return]

    def _get(self, kind: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._kinds.get(name) != kind:
            raise AttributeError(f"{type(module).__name__} has no {kind} {name!r} on the path {target!r}")
        return module.__dict__[name]

    # ---------------------------------------------------------------------------------------- saving, loading

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted path, sharing memory; detached unless keep_vars."""
        state: dict[str, Any] = {}
        for path, value in self._state(prefix):
            state[path] = value if keep_vars else value.detach()
        return state

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """What `state_dict` holds: shared values under each of their paths, so that any other module can load them."""
        for name, value in (self._held("parameter") | self._held("buffer")).items():
            if value is not None and name not in self._non_persistent:
                yield prefix + name, value
        for name, child in self._held("module").items():
            if child is not None:
                yield from child._state(f"{prefix}{name}.")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values in place into the parameters and buffers of the same paths.

        Returns the keys that did not match. Casts to the dtype that is there. A batch norm's `num_batches_tracked`
        may be missing, and stays as it is. Raises TypeError for what is no mapping, and RuntimeError, having changed
        nothing, for a shape that differs or, when strict, for a missing or unexpected key; it lists all of them.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict expects a dict, got {type(state_dict).__name__}")
        own = dict(self._state())
        missing = [key for key in own if key not in state_dict and key.rpartition(".")[2] != _OPTIONAL]
        unexpected = [key for key in state_dict if key not in own]
        problems = _mismatches(own, state_dict)
        if strict and missing:
            problems.append(f"missing keys: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected keys: {', '.join(unexpected)}")
        if problems:
            lines = "\n  ".join(problems)
            raise RuntimeError(f"the state_dict does not fit {type(self).__name__}:\n  {lines}")
        with no_grad():
            for value in own.values():
                check_writable(value)
            for key, value in own.items():
                if key in state_dict:
                    value.copy_(state_dict[key])
        return IncompatibleKeys(missing, unexpected)

    # ----------------------------------------------------------------------------------------- for all inside

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call fn on every module inside, children first, then on this one; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Set training mode, which Dropout and BatchNorm look at, here and in all modules below; returns self."""
        if not isinstance(mode, bool):
            raise ValueError(f"train() expects True or False, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Set evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Train the parameters of this module, or freeze them; returns self."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for p in self.parameters():
            clear_grad(p, set_to_none)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or cast the floating-point parameters and buffers to a dtype, in place; returns
        self.

        Raises TypeError for an integer dtype and RuntimeError for a device that is not there.
        """
        device, dtype, _ = _parse_to(*args, **kwargs)
        if device is not None:
            check_device(device)
        if dtype is not None and not is_float(dtype):
            raise TypeError(f"a module can be cast to floating-point dtypes only, got {dtype}")
        for _, value in [*self._named("parameter", "", True, True), *self._named("buffer", "", True, True)]:
            for x in (value, value.grad):
                if dtype is not None and x is not None and is_float(x.dtype) and x.dtype != dtype:
                    x._array = x._array.astype(dtype, order="K")
                    x._version.n += 1
        return self

    def float(self: Self) -> Self:
        """Cast to float32."""
        return self.to(np.float32)

    def double(self: Self) -> Self:
        """Cast to float64."""
        return self.to(np.float64)

    def cpu(self: Self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self: Self, device: int | None = None) -> Self:
        """Move to the GPU; RuntimeError where there is none."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    # ------------------------------------------------------------------------------------------------ showing

    def extra_repr(self) -> str:
        """What the repr says between the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}" for name, child in self._held("module").items()]
        return self._shown(lines)

    def _shown(self, lines: list[str]) -> str:
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n".join(([extra] if extra else []) + lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _mismatches(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """A line for each value that cannot be copied."""
    problems = []
    for key, value in own.items():
        given: Any = state.get(key, value)
        if not isinstance(given, Tensor | np.ndarray):
            problems.append(f"{key}: expected a Tensor, got {type(given).__name__}")
        elif tuple(given.shape) != value.shape:
            problems.append(f"{key}: the module has shape {value.shape}, the state_dict {tuple(given.shape)}")
    return problems


class _Place:
    """Where an error came from: its message, the innermost module, and the path to it from the outermost so far."""

    def __init__(self, message: str, module: Module) -> None:
        self.message = message
        self.kind = type(module).__name__
        self.path = ""
        self.innermost = self.outermost = module

    def enter(self, parent: Module) -> None:
        steps = (path for path, module in parent.named_modules() if module is self.outermost)
        self.path = _join(next(steps, ""), self.path)
        self.outermost = parent

    def text(self) -> str:
        """`linear expects ...` becomes `Linear 'fc1' expects ...`; other messages follow the name and a colon."""
        if not self.path:
            return self.message
        op, space, rest = self.message.partition(" ")
        word = op.rstrip(":").replace("_", "").lower()
        if self.kind.lower() in (word, f"{word}1d", f"{word}2d"):
            return f"{self.kind} {self.path!r}{':' * op.endswith(':')}{space}{rest}"
        return f"{self.kind} {self.path!r}: {self.message}"


def _name_place(error: Exception, module: Module) -> None:
    """Tell an error, on its way out through the calls of nested modules, one more step of the path it came from."""
    place = getattr(error, "_place", None)
    if place is not None and place.innermost is module:  # one exception object, raised again
        error.args = (place.message,)
        place = None
    if place is not None:
        place.enter(module)
        error.args = (place.text(),)
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error._place = _Place(error.args[0], module)  # type: ignore[attr-defined]
