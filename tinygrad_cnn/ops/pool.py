"""Pooling: the largest, or the mean, of the window under each output pixel.

A max-pool remembers which cell won each window. Given the winners it is linear: its gradient scatters to
them, and the gradient of the scatter gathers from them. The mean over windows is linear, and its gradient op
is its adjoint.

Letters: N images, C channels, H x W input pixels, P x Q output pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..kernels import on
from ..op import op
from .arguments import check_floats, hashable, integer, pair


class Window(NamedTuple):
    """Where the windows of a pool lie: pairs of rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


# ---------------------------------------------------------------------------------------------------- maximum


@op(aux=("index",))
def _max_pool2d(input: Any, window: Window, out_hw: tuple[int, int], relu: bool) -> Any:
    """(N, C, H, W) -> (N, C, P, Q), perhaps with a ReLU, and the position of each winner in its window."""
    return on(input).max_pool2d(input, *window, out_hw, relu)


@op
def _max_pool2d_scatter(g: Any, index: Any, input_hw: tuple[int, int], window: Window) -> Any:
    """(N, C, P, Q) -> (N, C, H, W): every value to the winner of its window."""
    return on(g).max_pool2d_scatter(g, index, input_hw, *window)


@op
def _max_pool2d_gather(input: Any, index: Any, window: Window) -> Any:
    """(N, C, H, W) -> (N, C, P, Q): from every window the cell at its winner's place."""
    return on(input).max_pool2d_gather(input, index, *window)


_max_pool2d.vjps(
    input=lambda g, input_shape, index, window: _max_pool2d_scatter(
        g, index=index, input_hw=input_shape[2:], window=window
    )
)
_max_pool2d.kernel_vjp(
    lambda g, wanted, input_shape, index, window: (on(g).max_pool2d_scatter(g, index, input_shape[2:], *window),)
)
_max_pool2d_scatter.vjps(g=lambda v, index, window: _max_pool2d_gather(v, index=index, window=window))
_max_pool2d_gather.vjps(
    input=lambda g, input_shape, index, window: _max_pool2d_scatter(
        g, index=index, input_hw=input_shape[2:], window=window
    )
)


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value in each window.

    On a tie the first in row-major order wins, and takes the whole gradient.
    input (N, C, H, W) or (C, H, W) of a floating dtype; returns (N, C, P, Q) or (C, P, Q) with P = (H +
    2*padding - dilation*(kernel - 1) - 1) // stride + 1, rounded up with ceil_mode, and Q likewise. The other
    arguments are ints or pairs; stride is kernel_size where left out. NaN wins over numbers, and padded cells
    never win: a window with nothing else in it gives -inf. With return_indices also the int64 positions row*W
    + column.

    Raises ValueError for padding above half of kernel_size or a window that does not fit, TypeError for other
    dtypes.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.max_pool2d(tg.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    out = max_pool2d_or_relu(input, kernel_size, stride, padding, dilation, ceil_mode, False)
    if not return_indices:
        return out
    window, out_hw = _max_plan(input._array.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return out, _winners(input, window=window, out_hw=out_hw)


def max_pool2d_or_relu(
    input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, relu: bool
) -> Any:
    """max_pool2d, or with `relu` that of relu(input), for which no pass over memory is needed."""
    check_floats("max_pool2d", input)
    window, out_hw = _max_plan(input._array.shape, kernel_size, stride, padding, dilation, ceil_mode)
    if input._array.ndim == 3:
        return _max_pool2d(input.unsqueeze(0), window, out_hw, relu).squeeze(0)
    return _max_pool2d(input, window, out_hw, relu)


def _max_plan(
    x: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, tuple[int, int]]:
    sizes = hashable(kernel_size), hashable(stride), hashable(padding), hashable(dilation)
    return _plan("max_pool2d", x, *sizes, bool(ceil_mode))


@op
def _winners(input: Any, window: Window, out_hw: tuple[int, int]) -> Any:
    """The positions row*W + column of the winners: int64 (..., C, P, Q)."""
    h, w = input.shape[-2:]
    _, taps = on(input).max_pool2d(input.reshape(-1, 1, h, w), *window, out_hw)
    i, j = np.divmod(taps.astype(np.int64), window.kernel[1])
    rows = np.arange(out_hw[0])[:, None] * window.stride[0] - window.padding[0] + i * window.dilation[0]
    columns = np.arange(out_hw[1]) * window.stride[1] - window.padding[1] + j * window.dilation[1]
    return (rows * w + columns).reshape(*input.shape[:-2], *out_hw)


# ------------------------------------------------------------------------------------------------------- mean


@op
def _avg_pool2d(input: Any, window: Window, out_hw: tuple[int, int], include_pad: bool, divisor: int | None) -> Any:
    """(N, C, H, W) -> (N, C, P, Q)."""
    return on(input).avg_pool2d(input, *window[:3], out_hw, include_pad, divisor)


@op
def _avg_pool2d_grad(g: Any, input_hw: tuple[int, int], window: Window, include_pad: bool, divisor: int | None) -> Any:
    """(N, C, P, Q) -> (N, C, H, W)."""
    return on(g).avg_pool2d_grad(g, input_hw, *window[:3], include_pad, divisor)


_avg_pool2d.vjps(
    input=lambda g, input_shape, window, include_pad, divisor: _avg_pool2d_grad(
        g, input_hw=input_shape[2:], window=window, include_pad=include_pad, divisor=divisor
    )
)
_avg_pool2d_grad.vjps(
    g=lambda v, g_shape, window, include_pad, divisor: _avg_pool2d(
        v, window=window, out_hw=g_shape[2:], include_pad=include_pad, divisor=divisor
    )
)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of each window.

    input (N, C, H, W) or (C, H, W) of a floating dtype; returns (N, C, P, Q) or (C, P, Q) with P = (H +
    2*padding - kernel) // stride + 1, rounded up with ceil_mode, and Q likewise. The sizes are ints or pairs;
    stride is kernel_size where left out. Padded cells count as zeros, or not at all without
    count_include_pad; cells beyond the padding, which ceil_mode may reach, never count. divisor_override
    replaces the number of cells.

    Raises ValueError for padding above half of kernel_size or a window that does not fit, TypeError for other
    dtypes.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.avg_pool2d(tg.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    name = "avg_pool2d"
    check_floats(name, input)
    window, out_hw = _plan(
        name,
        input._array.shape,
        hashable(kernel_size),
        hashable(stride),
        hashable(padding),
        1,
        bool(ceil_mode),
    )
    divisor_override = divisor_of(name, divisor_override)
    single = input._array.ndim == 3
    out = _avg_pool2d(
        input.unsqueeze(0) if single else input,
        window=window,
        out_hw=out_hw,
        include_pad=bool(count_include_pad),
        divisor=divisor_override,
    )
    return out.squeeze(0) if single else out


@op
def _adaptive_avg_pool2d(input: Any, out_hw: tuple[int, int]) -> Any:
    """(N, C, H, W) -> (N, C, P, Q)."""
    return on(input).adaptive_avg_pool2d(input, out_hw)


@op
def _adaptive_avg_pool2d_grad(g: Any, input_hw: tuple[int, int]) -> Any:
    """(N, C, P, Q) -> (N, C, H, W)."""
    return on(g).adaptive_avg_pool2d_grad(g, input_hw)


_adaptive_avg_pool2d.vjps(input=lambda g, input_shape: _adaptive_avg_pool2d_grad(g, input_hw=input_shape[2:]))
_adaptive_avg_pool2d_grad.vjps(g=lambda v, g_shape: _adaptive_avg_pool2d(v, out_hw=g_shape[2:]))


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """The means of P x Q windows that cover the image: window i spans rows floor(i*H/P) to ceil((i + 1)*H/P).

    input (N, C, H, W) or (C, H, W) of a floating dtype; output_size P = Q or (P, Q), where None keeps the
    size; returns (N, C, P, Q) or (C, P, Q). Raises ValueError for an image or an output without pixels,
    TypeError for other dtypes.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.adaptive_avg_pool2d(tg.arange(16.0).reshape(1, 4, 4), 1).tolist()
    [[[7.5]]]
    """
    name = "adaptive_avg_pool2d"
    check_floats(name, input)
    shape = input._array.shape
    _check_image(name, shape)
    if 0 in shape[-2:]:
        raise ValueError(f"{name} expects an image of at least 1 x 1, got {shape}")
    out_hw = output_hw_of(name, output_size, shape[-2:])
    if len(shape) == 3:
        return _adaptive_avg_pool2d(input.unsqueeze(0), out_hw=out_hw).squeeze(0)
    return _adaptive_avg_pool2d(input, out_hw=out_hw)


# -------------------------------------------------------------------------------------------------- arguments


def divisor_of(name: str, divisor: Any) -> int | None:
    """divisor_override from what the user wrote, or an error."""
    return None if divisor is None else integer(name, "divisor_override", divisor, 1)


def output_hw_of(name: str, output_size: Any, image_hw: tuple[int, ...] = (1, 1)) -> tuple[int, int]:
    """The output size of an adaptive pool from what the user wrote, or an error."""
    sizes = hashable(output_size)
    sizes = sizes if isinstance(sizes, tuple) else (sizes, sizes)
    return pair(name, "output_size", tuple(image_hw[i % 2] if n is None else n for i, n in enumerate(sizes)), 1)


@lru_cache(4096, typed=True)
def _plan(
    name: str, x: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, tuple[int, int]]:
    """The windows and the output size of a pool, or an error."""
    _check_image(name, x)
    window = window_of(name, kernel, stride, padding, dilation)
    return window, _output_hw(name, x, window, ceil_mode)


def window_of(name: str, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Window:
    """The windows from what the user wrote; TypeError or ValueError, also where PyTorch would refuse the padding."""
    kernels = pair(name, "kernel_size", hashable(kernel), 1)
    stride = hashable(stride)
    pads = pair(name, "padding", hashable(padding), 0)
    if any(p > k // 2 for p, k in zip(pads, kernels, strict=True)):
        raise ValueError(
            f"{name} expects padding of at most half of kernel_size {kernels}, got {pads}; use pad() for more"
        )
    return Window(
        kernels,
        kernels if stride is None or stride == () else pair(name, "stride", stride, 1),
        pads,
        pair(name, "dilation", hashable(dilation), 1),
    )


def _check_image(name: str, x: tuple[int, ...]) -> None:
    if len(x) not in (3, 4):
        hint = "; add the channels with unsqueeze(-3)" if len(x) == 2 else ""
        raise ValueError(f"{name} expects an input of (N, C, H, W) or (C, H, W), got {len(x)} dimensions: {x}{hint}")


def _output_hw(name: str, x: tuple[int, ...], window: Window, ceil_mode: bool) -> tuple[int, int]:
    """How many windows there are; ValueError when there are none."""
    sizes = []
    for size, kernel, stride, padding, dilation in zip(x[-2:], *window, strict=True):
        span = dilation * (kernel - 1) + 1
        room = size + 2 * padding - span
        count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        if ceil_mode and (count - 1) * stride >= size + padding:
            count -= 1  # the last window would start beyond the image and its padding
        sizes.append(count)
    if min(sizes) < 1:
        raise ValueError(
            f"{name}: a window of {window.kernel} with dilation {window.dilation} does not fit the input {x} "
            f"with padding {window.padding}; use a smaller kernel_size or more padding"
        )
    return sizes[0], sizes[1]
