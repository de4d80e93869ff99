"""Convolution in two dimensions.

    y[n, o, p, q] = bias[o] + sum over c, i, j of w[o, c, i, j] * x[n, c, p*stride + i*dilation - top, ...]

is linear in x and in w. Its two gradients are linear ops of their own, and each of the three is a vjp of the
others: no derivative of any order leaves this file. The transposed convolution is the gradient with respect
to the input.

Letters: N images, C channels, H x W pixels, O output channels, P x Q output pixels, K x L kernel, G groups.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from ..autograd import Variable
from ..autograd.modes import mode
from ..kernels import on
from ..kernels.spec import Conv2dSpec
from ..op import op
from .arguments import check_floats, check_tensors, hashable, integer, pair
from .elementwise import _relu_grad
from .pool import Window, _max_plan, _max_pool2d_scatter
from .shape import pad

#: Pixels of a side, padding included, beyond which a size is taken for a mistake instead of being waited for.
LONGEST_SIDE = 1 << 24


@op
def _conv2d(input: Any, weight: Any, bias: Any, spec: Conv2dSpec) -> Any:
    """(N, C, H, W), (O, C/G, K, L), (O,) -> (N, O, P, Q)."""
    return on(input).conv2d(input, weight, bias, spec)


@op
def _conv2d_input_grad(g: Any, weight: Any, input_hw: tuple[int, int], spec: Conv2dSpec) -> Any:
    """(N, O, P, Q), (O, C/G, K, L) -> (N, C, H, W)."""
    return on(g).conv2d_input_grad(g, weight, input_hw, spec)


@op
def _conv2d_weight_grad(input: Any, g: Any, kernel_hw: tuple[int, int], spec: Conv2dSpec) -> Any:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, K, L)."""
    return on(input).conv2d_weight_grad(input, g, kernel_hw, spec)


@op
def _conv2d_bias_grad(g: Any) -> Any:
    """(N, O, P, Q) -> (O,)."""
    return on(g).conv2d_bias_grad(g)


_conv2d.vjps(
    input=lambda g, input_shape, weight, spec: _conv2d_input_grad(g, weight, input_hw=input_shape[2:], spec=spec),
    weight=lambda g, input, weight_shape, spec: _conv2d_weight_grad(input, g, kernel_hw=weight_shape[2:], spec=spec),
    bias=lambda g: _conv2d_bias_grad(g),
)


@_conv2d.kernel_vjp
def _conv2d_grads(
    g: Any, wanted: Any, input_later: Any, weight: Any, input_shape: Any, weight_shape: Any, spec: Any
) -> Any:
    kernels = on(g)  # the weight first: an input that was made for it has gone when the gradient of its size comes
    dw = kernels.conv2d_weight_grad(input_later(), g, weight_shape[2:], spec) if wanted[1] else None
    dx = kernels.conv2d_input_grad(g, weight, input_shape[2:], spec) if wanted[0] else None
    return dx, dw, kernels.conv2d_bias_grad(g) if wanted[2] else None


@op
def _conv2d_relu(input: Any, weight: Any, bias: Any, spec: Conv2dSpec) -> Any:
    """The ReLU of _conv2d, in the same pass over memory; its gradient passes where the output is not 0."""
    return on(input).conv2d(input, weight, bias, spec, relu=True)


_conv2d_relu.vjps(
    input=lambda g, out, input_shape, weight, spec: _conv2d_input_grad(
        _relu_grad(g, out), weight, input_hw=input_shape[2:], spec=spec
    ),
    weight=lambda g, out, input, weight_shape, spec: _conv2d_weight_grad(
        input, _relu_grad(g, out), kernel_hw=weight_shape[2:], spec=spec
    ),
    bias=lambda g, out: _conv2d_bias_grad(_relu_grad(g, out)),
)


@_conv2d_relu.kernel_vjp
def _conv2d_relu_grads(
    g: Any,
    wanted: Any,
    out: Any,
    input_later: Any,
    weight: Any,
    input_shape: Any,
    weight_shape: Any,
    spec: Any,
    own: bool,
) -> Any:
    return _conv2d_grads(on(g).relu_grad(g, out, own), wanted, input_later, weight, input_shape, weight_shape, spec)


@op(aux=("index",))
def _conv2d_max_pool(
    input: Any, weight: Any, bias: Any, spec: Conv2dSpec, window: Window, out_hw: tuple[int, int], relu: bool
) -> Any:
    """The max-pool of _conv2d, perhaps with a ReLU, and, for gradients, the position of each winner in its window."""
    return on(input).conv2d_max_pool(input, weight, bias, spec, *window, out_hw, relu, mode.grad)


def _unpooled(g: Any, index: Any, x: tuple[int, ...], w: tuple[int, ...], spec: Conv2dSpec, window: Window) -> Any:
    """The gradient of what was pooled."""
    return _max_pool2d_scatter(g, index=index, input_hw=spec.output_hw(x[2:], w[2:]), window=window)  # type: ignore[arg-type]


_conv2d_max_pool.vjps(
    input=lambda g, index, input_shape, weight_shape, weight, spec, window: _conv2d_input_grad(
        _unpooled(g, index, input_shape, weight_shape, spec, window), weight, input_hw=input_shape[2:], spec=spec
    ),
    weight=lambda g, index, input_shape, weight_shape, input, spec, window: _conv2d_weight_grad(
        input, _unpooled(g, index, input_shape, weight_shape, spec, window), kernel_hw=weight_shape[2:], spec=spec
    ),
    bias=lambda g, index, input_shape, weight_shape, spec, window: _conv2d_bias_grad(
        _unpooled(g, index, input_shape, weight_shape, spec, window)
    ),
)


@_conv2d_max_pool.kernel_vjp
def _conv2d_max_pool_grads(
    g: Any,
    wanted: Any,
    index: Any,
    input_later: Any,
    weight: Any,
    input_shape: Any,
    weight_shape: Any,
    spec: Any,
    window: Any,
) -> Any:
    hw = spec.output_hw(input_shape[2:], weight_shape[2:])
    halved = window == ((2, 2), (2, 2), (0, 0), (1, 1)) and g.shape[2:] == (hw[0] // 2, hw[1] // 2)
    if wanted[1] and not wanted[0] and halved:
        input = input_later()
        grads = on(g).conv2d_max_pool_grads(g, index, input, weight_shape, spec)
        if grads is not None:
            return None, grads[0], grads[1] if wanted[2] else None

        def input_later() -> Any:
            return input

    g = on(g).max_pool2d_scatter(g, index, hw, *window)
    return _conv2d_grads(g, wanted, input_later, weight, input_shape, weight_shape, spec)


def _is_pointwise(input: Any, weight: Any, *rest: Any) -> bool:
    """Made again, a depthwise net's inputs of 1x1 convolutions take 1.1 ms of a step of 30, those of its others 0.1."""
    return weight._array.shape[2:] == (1, 1)  # type: ignore[no-any-return]


for _each in (_conv2d, _conv2d_relu, _conv2d_max_pool):
    _each.keep_inputs_where(_is_pointwise)

_conv2d_input_grad.vjps(
    g=lambda v, weight, spec: _conv2d(v, weight, None, spec=spec),
    weight=lambda v, g, weight_shape, spec: _conv2d_weight_grad(v, g, kernel_hw=weight_shape[2:], spec=spec),
)
_conv2d_weight_grad.vjps(
    input=lambda v, g, input_shape, spec: _conv2d_input_grad(g, v, input_hw=input_shape[2:], spec=spec),
    g=lambda v, input, spec: _conv2d(input, v, None, spec=spec),
)
_conv2d_bias_grad.vjps(g=lambda v, g_shape: v.reshape(1, -1, 1, 1).expand(*g_shape))


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolve images with kernels (cross-correlation, as everywhere in deep learning).

    input (N, C, H, W) or (C, H, W), weight (O, C/groups, K, L), bias (O,) or None, all of one floating dtype;
    returns (N, O, P, Q) or (O, P, Q) with P = (H + top + bottom - dilation*(K - 1) - 1) // stride + 1, and Q
    likewise. stride and dilation are ints or pairs. padding is an int, a pair (rows, columns), (top, bottom,
    left, right), "valid" for none, or "same" for P = H (stride 1 only; an odd row goes to the bottom, an odd
    column to the right).

    Raises ValueError, with the numbers, for shapes that do not fit together, and TypeError for dtypes that
    differ.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.conv2d(tg.ones(1, 3, 6, 6), tg.ones(8, 3, 3, 3)).shape
    (1, 8, 4, 4)
    """
    return _convolve(_conv2d, input, weight, bias, stride, padding, dilation, groups)


def conv2d_relu(input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """relu(conv2d(...)), for which the ReLU takes no pass over memory of its own."""
    return _convolve(_conv2d_relu, input, weight, bias, stride, padding, dilation, groups)


def conv2d_of_kept(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
    kept: dict[Any, Any],
) -> Any:
    """conv2d(...), or its ReLU, which records nothing; `kept`, at first empty, holds what the kernels make of weight.

    Nobody may write to weight as long as it is called with the same `kept`.
    """

    def convolution(input: Any, weight: Any, bias: Any, spec: Conv2dSpec) -> Any:
        x = input._array
        return Variable.new(on(x).conv2d(x, weight._array, bias._array, spec, relu, kept))

    return _convolve(convolution, input, weight, bias, stride, padding, dilation, groups)


def conv2d_max_pool(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    pool: tuple[Any, ...],
    relu: bool,
) -> Any:
    """max_pool2d(conv2d(...), *pool), or that of its ReLU; pool: kernel_size, stride, padding, dilation, ceil_mode."""
    return _convolve(_conv2d_max_pool, input, weight, bias, stride, padding, dilation, groups, pool, relu)


def _convolve(
    convolution: Any,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    pool: tuple[Any, ...] = (),
    relu: bool = False,
) -> Any:
    if not isinstance(weight, Variable):  # else the call alone takes 0.3 us
        check_tensors("conv2d", weight=weight)
    check_floats("conv2d", input, weight, bias)
    params = _parameters(
        input._array.shape,
        weight._array.shape,
        None if bias is None else bias._array.shape,
        hashable(stride),
        hashable(padding),
        hashable(dilation),
        groups,
        relu,
        *pool,
    )
    if input._array.ndim == 3:
        return convolution(input.unsqueeze(0), weight, bias, *params).squeeze(0)
    return convolution(input, weight, bias, *params)


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transposed convolution: what conv2d with this weight does to gradients, used to enlarge images.

    input (N, C, H, W) or (C, H, W), weight (C, O/groups, K, L), bias (O,) or None, all of one floating dtype;
    returns (N, O, P, Q) or (O, P, Q) with P = (H - 1)*stride - 2*padding + dilation*(K - 1) + output_padding
    + 1, and Q likewise. output_padding must be smaller than stride or dilation.

    Raises ValueError, with the numbers, for shapes that do not fit together, and TypeError for dtypes that
    differ.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.conv_transpose2d(tg.ones(1, 8, 4, 4), tg.ones(8, 3, 2, 2), stride=2).shape
    (1, 3, 8, 8)
    """
    check_tensors("conv_transpose2d", weight=weight)
    check_floats("conv_transpose2d", input, weight, bias)
    plan = _transpose_plan(
        input._array.shape,
        weight._array.shape,
        None if bias is None else bias._array.shape,
        hashable(stride),
        hashable(padding),
        hashable(output_padding),
        groups,
        hashable(dilation),
    )
    single = input._array.ndim == 3
    out = _conv2d_input_grad(input.unsqueeze(0) if single else input, weight, input_hw=plan.hw, spec=plan.spec)
    if plan.beyond != (0, 0):
        out = pad(out, (0, plan.beyond[1], 0, plan.beyond[0]))
    if bias is not None:
        out = out + bias.reshape(-1, 1, 1)
    return out.squeeze(0) if single else out


# -------------------------------------------------------------------------------------------------- arguments


@lru_cache(4096, typed=True)
def _parameters(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    relu: bool,
    *pool: Any,
) -> tuple[Any, ...]:
    """What a convolution, or with `pool` that and its max-pool, takes beside tensors; or an error."""
    spec = _conv_spec(x, w, b, stride, padding, dilation, groups)
    if not pool:
        return (spec,)
    return spec, *_max_plan((w[0], *spec.output_hw(x[-2:], w[2:])), *pool), relu  # type: ignore[arg-type]


def _conv_spec(
    x: tuple[int, ...], w: tuple[int, ...], b: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Conv2dSpec:
    """The numbers of a convolution from what the user wrote, or an error."""
    name = "conv2d"
    _check_ranks(name, x, w, "(out_channels, in_channels/groups, rows, columns)")
    groups = integer(name, "groups", groups, 1)
    if x[-3] != w[1] * groups:
        raise ValueError(
            f"{name} expects {w[1] * groups} input channels, got input {x}: a weight of {w} with "
            f"groups={groups} takes {w[1]} * {groups} channels; set in_channels={x[-3]}"
        )
    if w[0] % groups:
        raise ValueError(f"{name} expects out_channels divisible by groups, got {w[0]} and groups={groups}")
    if b is not None and b != (w[0],):
        raise ValueError(f"{name} expects a bias of shape {(w[0],)}, one per output channel, got {b}")
    strides = pair(name, "stride", stride, 1)
    dilations = pair(name, "dilation", dilation, 1)
    spec = Conv2dSpec(strides, padding_of(name, padding, w[2:], strides, dilations), dilations, groups)
    try:
        spec.output_hw(x[-2:], w[2:])  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    top, bottom, left, right = spec.padding
    _check_sides(name, "a padded input", (x[-2] + top + bottom, x[-1] + left + right))
    return spec


def _check_sides(name: str, what: str, sides: tuple[int, ...]) -> None:
    if max(sides) > LONGEST_SIDE:
        raise ValueError(
            f"{name} expects {what} of at most {LONGEST_SIDE} pixels a side, got {sides[0]} x {sides[1]}: "
            f"check padding and stride"
        )


def _check_ranks(name: str, x: tuple[int, ...], w: tuple[int, ...], meaning: str) -> None:
    if len(x) not in (3, 4):
        hint = "; add the channels with unsqueeze(-3)" if len(x) == 2 else ""
        raise ValueError(f"{name} expects an input of (N, C, H, W) or (C, H, W), got {len(x)} dimensions: {x}{hint}")
    if len(w) != 4:
        raise ValueError(f"{name} expects a weight of {meaning}, got {len(w)} dimensions: {w}")
    if 0 in w[2:]:
        raise ValueError(f"{name} expects a kernel of at least one pixel, got a weight of {w}")


def padding_of(
    name: str, padding: Any, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from what the user wrote, or an error."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}; give the padding as numbers")
        rows, columns = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    if isinstance(padding, str):
        raise ValueError(f"{name} expects padding 'same', 'valid' or numbers, got {padding!r}")
    if isinstance(padding, tuple) and len(padding) == 4:
        top, bottom, left, right = (integer(name, "padding", p, 0) for p in padding)
        return top, bottom, left, right
    rows, columns = pair(name, "padding", padding, 0)
    return rows, rows, columns, columns


def output_padding_of(name: str, value: Any, stride: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns added to a transposed convolution from what the user wrote, or an error."""
    extra = pair(name, "output_padding", value, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(
            f"{name} expects output_padding smaller than stride or dilation, got output_padding {extra}, stride "
            f"{stride} and dilation {dilation}"
        )
    return extra


class _TransposePlan(NamedTuple):
    """The convolution that is transposed, the size of its input, and the rows and columns that no window reaches."""

    spec: Conv2dSpec
    hw: tuple[int, int]
    beyond: tuple[int, int]


@lru_cache(4096, typed=True)
def _transpose_plan(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> _TransposePlan:
    """The numbers of a transposed convolution from what the user wrote, or an error."""
    name = "conv_transpose2d"
    _check_ranks(name, x, w, "(in_channels, out_channels/groups, rows, columns)")
    groups = integer(name, "groups", groups, 1)
    if x[-3] != w[0]:
        raise ValueError(
            f"{name} expects {w[0]} input channels, as its weight of {w} has, got input {x}; set in_channels={x[-3]}"
        )
    if w[0] % groups:
        raise ValueError(f"{name} expects in_channels divisible by groups, got {w[0]} and groups={groups}")
    if b is not None and b != (w[1] * groups,):
        raise ValueError(f"{name} expects a bias of shape {(w[1] * groups,)}, one per output channel, got {b}")
    strides = pair(name, "stride", stride, 1)
    dilations = pair(name, "dilation", dilation, 1)
    pads = pair(name, "padding", padding, 0)
    extra = output_padding_of(name, output_padding, strides, dilations)
    sizes = []
    for axis in (0, 1):
        reach = (x[axis - 2] - 1) * strides[axis] + dilations[axis] * (w[axis + 2] - 1) + 1
        sizes.append(reach - 2 * pads[axis] + extra[axis])
    if min(sizes) < 1:
        raise ValueError(
            f"{name} expects an output of at least 1 x 1, got {sizes[0]} x {sizes[1]} from input {x}, "
            f"kernel {w[2:]} and padding {pads}; use less padding or more output_padding"
        )
    _check_sides(name, "an output", (sizes[0] + 2 * pads[0], sizes[1] + 2 * pads[1]))
    # Output padding takes back padding at the bottom and right; what exceeds it lies beyond every window.
    beyond = [min(max(e - p, 0), size) for e, p, size in zip(extra, pads, sizes, strict=True)]
    bottom, right = max(pads[0] - extra[0], 0), max(pads[1] - extra[1], 0)
    spec = Conv2dSpec(strides, (pads[0], bottom, pads[1], right), dilations, groups)
    return _TransposePlan(spec, (sizes[0] - beyond[0], sizes[1] - beyond[1]), (beyond[0], beyond[1]))
