"""Tensor: an array with a history. Its operators and methods are the ops of `ops/`, bound here by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import autograd, ops
from . import device as devices
from .autograd.tape import Variable, edge_to
from .dtypes import as_dtype, bool_, check_holds, float32, float64, int32, int64, is_float
from .inplace import assign, overwritten, write
from .ops.dims import numbers_of
from .printing import tensor_repr
from .random import Generator, stream_of


def _in_place(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place form of an op: compute out of place, then overwrite."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return write(self, fn(self, *args, **kwargs))  # type: ignore[no-any-return]

    name = getattr(fn, "__name__", None) or fn.name  # type: ignore[attr-defined]
    method.__name__ = f"{name}_"
    method.__doc__ = f"In-place `{name}`; raises RuntimeError on a leaf that requires grad."
    return method


def _reflected(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The operator with its operands exchanged, for `2 - x`."""
    return lambda self, other: fn(other, self)


def _or_other(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`==` and `!=`, which Python answers by identity for None, strings and the like, as it does in PyTorch."""
    compared = Variable | np.ndarray | np.generic | bool | int | float
    return lambda self, other: fn(self, other) if isinstance(other, compared) else NotImplemented


class Tensor(Variable, result=True):
    """An n-dimensional array that can record what is computed from it.

    Made by `tg.tensor`, `tg.zeros`, `tg.from_numpy` and the like. `dtype` is a NumPy dtype (float32 by default),
    `shape` a tuple of ints, `grad` a Tensor of the same shape and dtype once `backward()` has run.

    >>> import tinygrad_cnn as tg
    >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ()
    __array_ufunc__ = None  # ndarray * tensor is the tensor's business

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def device(self) -> devices.device:
        return devices.of(self._array)

    @property
    def requires_grad(self) -> bool:
        return edge_to(self) is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made this tensor."""
        return not isinstance(edge_to(self), autograd.Node)

    @property
    def grad_fn(self) -> autograd.Node | None:
        edge = edge_to(self)
        return edge if isinstance(edge, autograd.Node) else None

    @property
    def data(self) -> Tensor:
        """The same storage outside the graph; writes to it are not guarded."""
        self._version.exposed = True
        return over_foreign(self._array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(f"cannot set data of {value.shape} {value.dtype} on a tensor of {self.shape} {self.dtype}")
        self._array = value._array
        self._version.n += 1
        self._version.exposed = value._version.exposed = True

    @property
    def grad(self) -> Tensor | None:
        """What `backward()` added up here, or None.

        Assigning raises TypeError for anything but a Tensor or None, RuntimeError for another shape or dtype.
        """
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"a gradient is a Tensor or None, got {type(value).__name__}; use tg.tensor()")
            if value.shape != self.shape:
                raise RuntimeError(f"a gradient of shape {value.shape} does not fit a tensor of shape {self.shape}")
            if value.dtype != self.dtype:
                raise RuntimeError(
                    f"a gradient of dtype {value.dtype} does not fit a tensor of {self.dtype}; use .to({self.dtype})"
                )
        self._grad = value

    @property
    def T(self) -> Any:
        return self.permute(*range(self.ndim - 1, -1, -1))

    @property
    def mT(self) -> Any:
        return self.transpose(-2, -1)

    @property
    def itemsize(self) -> int:
        return self._array.itemsize

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self._array.size

    nelement = numel

    def element_size(self) -> int:
        return self._array.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Steps between elements along each dimension, in elements."""
        strides = tuple(s // self._array.itemsize for s in self._array.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        return self._array.flags.c_contiguous

    def is_floating_point(self) -> bool:
        return bool(is_float(self.dtype))

    # ------------------------------------------------------------------------------------------------ to and from

    def numpy(self) -> np.ndarray:
        """The array itself, sharing memory; RuntimeError for a tensor that requires grad (use `detach()` first)."""
        if self.requires_grad:
            raise RuntimeError("numpy() on a tensor that requires grad would lose its history; use detach().numpy()")
        self._version.exposed = True
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.numpy().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def tolist(self) -> Any:
        return self._array.tolist()

    def item(self) -> Any:
        """The only element as a Python number; RuntimeError when there are more or none."""
        if self._array.size != 1:
            raise RuntimeError(f"item() needs a tensor of one element, got shape {self.shape}")
        return self._array.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if is_float(self.dtype):
            raise TypeError(f"only an integer tensor can be an index, got {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise RuntimeError(f"the truth of a tensor of shape {self.shape} is ambiguous; use any() or all()")
        return bool(self._array.item())

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value: Any) -> bool:
        return bool((self._array == (value._array if isinstance(value, Tensor) else value)).any())

    def __repr__(self) -> str:
        return tensor_repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else format(repr(self), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise RuntimeError("only leaf tensors can be deep-copied; use detach().clone()")
        copied = type(self).__new__(type(self))
        Variable.__init__(copied, self._array.copy(order="K"))
        copied._requires_grad = self._requires_grad
        copied.grad = None if self.grad is None else self.grad.detach().clone()
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise RuntimeError("only leaf tensors can be pickled; use detach()")
        return _rebuild, (type(self), self._array, self._requires_grad)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """This tensor in another dtype or on another device: `to(dtype)`, `to(device)`, `to(other)`.

        Returns the tensor itself when nothing changes. Raises RuntimeError for a device that is not there.
        """
        device, dtype, copy = _parse_to(*args, **kwargs)
        if device is not None:
            devices.check(device)
        if dtype is None or dtype == self.dtype:
            return self.clone() if copy else self
        return ops.cast(self, dtype)

    def type(self, dtype: Any) -> Any:
        return self.to(as_dtype(dtype))

    def float(self) -> Any:
        return self.to(float32)

    def double(self) -> Any:
        return self.to(float64)

    def long(self) -> Any:
        return self.to(int64)

    def int(self) -> Any:
        return self.to(int32)

    def bool(self) -> Any:
        return self.to(bool_)

    def type_as(self, other: Tensor) -> Any:
        return self.to(other.dtype)

    def cpu(self) -> Any:
        return self.to("cpu")

    def cuda(self) -> Any:
        return self.to("cuda")

    # --------------------------------------------------------------------------------------------------- the tape

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: Any = None,
        create_graph: Any = False,
        inputs: Any = None,
    ) -> None:
        """Add the gradient of this tensor into the `.grad` of every leaf it depends on (or only of `inputs`).

        `gradient` has this tensor's shape and may be left out for a single element. Raises RuntimeError when there is
        no graph, the graph was freed by an earlier backward, or a tensor it needs was changed in place.
        """
        autograd.backward(self, gradient, retain_graph, create_graph, inputs)

    def detach(self) -> Any:
        """The same storage outside the graph; in-place writes through it are seen by the graph's version checks."""
        return Variable.new(self._array, self._version)

    def detach_(self) -> Tensor:
        """Leave the graph; RuntimeError for a view, whose history is its base's."""
        if self._view is not None:
            raise RuntimeError("a view cannot be detached in place; use detach()")
        self._node = None
        self._requires_grad = False
        return self

    def requires_grad_(self, requires_grad: Any = True) -> Tensor:
        """Ask for gradients of this leaf; RuntimeError for an integer tensor, or when turned off on a computed one."""
        if requires_grad and not is_float(self.dtype):
            raise RuntimeError(f"only floating-point tensors can require grad, got {self.dtype}; use .float()")
        if not requires_grad and self._node is not None:
            raise RuntimeError("requires_grad can only be turned off on a leaf; use detach()")
        if self._node is None:
            self._requires_grad = bool(requires_grad)
        return self

    def retain_grad(self) -> None:
        """Fill `.grad` of this computed tensor as well during backward."""
        edge = edge_to(self)
        if edge is None:
            raise RuntimeError("retain_grad() needs a tensor that requires grad")
        if isinstance(edge, autograd.Node):
            edge.retain = _weak(self)

    @property
    def retains_grad(self) -> Any:
        edge = edge_to(self)
        return isinstance(edge, autograd.Node) and edge.retain is not None

    register_hook = autograd.register_hook

    @property
    def _base(self) -> Any:
        return None if self._view is None else self._view.base

    @property
    def _version_number(self) -> Any:
        return self._version.n

    # ------------------------------------------------------------------------------------------------- arithmetic

    __add__ = add = ops.add
    __sub__ = sub = ops.sub
    __mul__ = mul = multiply = ops.mul
    __truediv__ = div = divide = true_divide = ops.div
    __floordiv__ = floor_divide = ops.floor_divide
    __mod__ = remainder = ops.remainder
    __pow__ = pow = ops.pow
    __matmul__ = matmul = ops.matmul
    __radd__ = _reflected(ops.add)
    __rsub__ = _reflected(ops.sub)
    __rmul__ = _reflected(ops.mul)
    __rtruediv__ = _reflected(ops.div)
    __rfloordiv__ = _reflected(ops.floor_divide)
    __rmod__ = _reflected(ops.remainder)
    __rpow__ = _reflected(ops.pow)
    __rmatmul__ = _reflected(ops.matmul)
    __neg__ = neg = ops.neg
    __abs__ = abs = ops.abs
    __invert__ = bitwise_not = ops.bitwise_not
    __and__ = __rand__ = bitwise_and = ops.bitwise_and
    __or__ = __ror__ = bitwise_or = ops.bitwise_or
    __xor__ = __rxor__ = bitwise_xor = ops.bitwise_xor
    logical_not = ops.logical_not
    logical_and = ops.logical_and
    logical_or = ops.logical_or
    logical_xor = ops.logical_xor
    eq = ops.eq
    ne = ops.ne
    __eq__ = _or_other(ops.eq)
    __ne__ = _or_other(ops.ne)
    __lt__ = lt = ops.lt
    __le__ = le = ops.le
    __gt__ = gt = ops.gt
    __ge__ = ge = ops.ge
    __hash__ = Variable.__hash__

    exp = ops.exp
    log = ops.log
    expm1 = ops.expm1
    log1p = ops.log1p
    sqrt = ops.sqrt
    rsqrt = ops.rsqrt
    sign = ops.sign
    floor = ops.floor
    ceil = ops.ceil
    round = ops.round
    sin = ops.sin
    cos = ops.cos
    tanh = ops.tanh
    sigmoid = ops.sigmoid
    erf = ops.erf
    relu = ops.relu
    reciprocal = ops.reciprocal
    square = ops.square
    clamp = clip = ops.clamp
    maximum = ops.maximum
    minimum = ops.minimum
    equal = ops.equal
    allclose = ops.allclose
    isnan = ops.isnan
    isinf = ops.isinf
    isfinite = ops.isfinite

    def clamp_min(self, min: Any) -> Any:
        return ops.clamp(self, min)

    def clamp_max(self, max: Any) -> Any:
        return ops.clamp(self, max=max)

    def where(self, condition: Tensor, other: Any) -> Any:
        return ops.where(condition, self, other)

    # ------------------------------------------------------------------------------------------------- reductions

    sum = ops.sum
    mean = ops.mean
    var = ops.var
    std = ops.std
    prod = ops.prod
    max = ops.max
    min = ops.min
    amax = ops.amax
    amin = ops.amin
    argmax = ops.argmax
    argmin = ops.argmin
    norm = ops.norm
    logsumexp = ops.logsumexp
    cumsum = ops.cumsum
    any = ops.any
    all = ops.all
    softmax = ops.softmax
    log_softmax = ops.log_softmax
    sum_to_size = ops.sum_to_size

    # ------------------------------------------------------------------------------------------ shape and indexing

    clone = ops.clone
    contiguous = ops.contiguous
    reshape = ops.reshape
    view = ops.view
    flatten = ops.flatten
    unflatten = ops.unflatten
    squeeze = ops.squeeze
    unsqueeze = ops.unsqueeze
    transpose = swapaxes = ops.transpose
    t = ops.t
    permute = ops.permute
    movedim = ops.movedim
    expand = ops.expand
    broadcast_to = ops.broadcast_to
    repeat = ops.repeat
    flip = ops.flip
    roll = ops.roll
    split = ops.split
    chunk = ops.chunk
    unbind = ops.unbind
    narrow = ops.narrow
    select = ops.select
    diagonal = ops.diagonal
    tril = ops.tril
    triu = ops.triu
    gather = ops.gather
    scatter_add = ops.scatter_add
    index_select = ops.index_select
    masked_fill = ops.masked_fill
    masked_select = ops.masked_select
    take_along_dim = ops.take_along_dim
    sort = ops.sort
    argsort = ops.argsort
    topk = ops.topk
    nonzero = ops.nonzero
    outer = ops.outer
    mm = ops.mm
    bmm = ops.bmm
    dot = ops.dot
    __getitem__ = ops.getitem

    __setitem__ = assign

    def view_as(self, other: Tensor) -> Any:
        return self.view(*other.shape)

    def reshape_as(self, other: Tensor) -> Any:
        return self.reshape(*other.shape)

    def expand_as(self, other: Tensor) -> Any:
        return self.expand(*other.shape)

    # --------------------------------------------------------------------------------------------------- in place

    add_ = _in_place(ops.add)
    sub_ = _in_place(ops.sub)
    mul_ = _in_place(ops.mul)
    div_ = _in_place(ops.div)
    floor_divide_ = _in_place(ops.floor_divide)
    remainder_ = _in_place(ops.remainder)
    pow_ = _in_place(ops.pow)
    bitwise_and_ = _in_place(ops.bitwise_and)
    bitwise_or_ = _in_place(ops.bitwise_or)
    bitwise_xor_ = _in_place(ops.bitwise_xor)
    neg_ = _in_place(ops.neg)
    exp_ = _in_place(ops.exp)
    log_ = _in_place(ops.log)
    sqrt_ = _in_place(ops.sqrt)
    tanh_ = _in_place(ops.tanh)
    sigmoid_ = _in_place(ops.sigmoid)
    relu_ = _in_place(ops.relu)
    clamp_ = _in_place(ops.clamp)
    masked_fill_ = _in_place(ops.masked_fill)
    scatter_add_ = _in_place(ops.scatter_add)
    __iadd__ = add_
    __isub__ = sub_
    __imul__ = mul_
    __itruediv__ = div_
    __ifloordiv__ = floor_divide_
    __imod__ = remainder_
    __ipow__ = pow_
    __iand__ = bitwise_and_
    __ior__ = bitwise_or_
    __ixor__ = bitwise_xor_

    def copy_(self, other: Any) -> Tensor:
        """Overwrite this tensor with other, broadcast and cast to its shape and dtype."""
        return self._overwrite("copy_", other)

    def fill_(self, value: Any) -> Tensor:
        """Overwrite every element; RuntimeError for a number beyond an integer dtype's range."""
        return self._overwrite("fill_", value)

    def _overwrite(self, op: str, value: Any) -> Tensor:
        array = numbers_of(op, value)
        if not isinstance(value, Variable):  # a tensor is cast, as `to` does it
            check_holds(self.dtype, array)
        return write(self, overwritten(self, value))  # type: ignore[no-any-return]

    def zero_(self) -> Tensor:
        return self.copy_(0)

    def normal_(self, mean: Any = 0.0, std: Any = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Overwrite by random numbers of this mean and standard deviation; RuntimeError for an integer tensor."""
        return self._overwrite_floats(stream_of(generator).normal(mean, std, self.shape))

    def uniform_(self, low: Any = 0.0, high: Any = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Overwrite by random numbers, uniform in [low, high); RuntimeError for an integer tensor."""
        return self._overwrite_floats(stream_of(generator).uniform(low, high, self.shape))

    def _overwrite_floats(self, values: np.ndarray) -> Tensor:
        if not is_float(self.dtype):
            raise RuntimeError(f"a tensor of {self.dtype} cannot hold random fractions; use .float() or tg.randint()")
        return write(self, overwritten(self, values))  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------- new tensors like this one

    def new_zeros(self, *size: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.zeros(_size(size), self.dtype if dtype is None else as_dtype(dtype)))

    def new_ones(self, *size: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.ones(_size(size), self.dtype if dtype is None else as_dtype(dtype)))

    def new_full(self, size: Sequence[Any], fill_value: Any, dtype: Any = None) -> Tensor:
        value, found = numbers_of("new_full", fill_value), self.dtype if dtype is None else as_dtype(dtype)
        check_holds(found, value)
        return Tensor(np.full(_size(size), value, found))

    def new_tensor(self, data: Any, dtype: Any = None) -> Tensor:
        values, found = numbers_of("new_tensor", data), self.dtype if dtype is None else as_dtype(dtype)
        check_holds(found, values)
        return Tensor(np.array(values, found))

    def new_empty(self, *size: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.empty(_size(size), self.dtype if dtype is None else as_dtype(dtype)))


def _size(size: Sequence[Any]) -> tuple[Any, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else tuple(size)


def over_foreign(array: np.ndarray) -> Tensor:
    """A tensor over memory that others hold too: no gradient may be added into it."""
    x = Tensor(array)
    x._version.exposed = True
    return x


def clear_grad(x: Tensor, set_to_none: bool) -> None:
    """Forget x's gradient, or overwrite it with zeros, outside the graph that made it."""
    if set_to_none:
        x._grad = None
    elif x._grad is not None:
        if x._grad.requires_grad:
            x._grad = x._grad.detach()
        x._grad._array.fill(0)
        x._grad._version.n += 1


def _rebuild(cls: type[Tensor], array: np.ndarray, requires_grad: bool) -> Tensor:
    x = cls.__new__(cls)
    Variable.__init__(x, array)
    x._requires_grad = requires_grad
    return x


def _weak(x: Tensor) -> Any:
    import weakref

    return weakref.ref(x)


def _parse_to(
    *args: Any, device: Any = None, dtype: Any = None, copy: bool = False, non_blocking: bool = False
) -> tuple[Any, Any, bool]:
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, devices.device) or (isinstance(arg, str) and arg.split(":")[0] in ("cpu", "cuda")):
            device = arg
        elif isinstance(arg, bool):
            continue  # PyTorch's non_blocking
        elif arg is not None:
            dtype = arg
    return device, None if dtype is None else as_dtype(dtype), copy
