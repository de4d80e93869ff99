"""Every draw is legal, the whole range is reached, and everything shrinks to the smallest case."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import layouts as memory
from tinygrad_cnn.testing.strategies import (
    ConvConfig,
    PoolConfig,
    arrays,
    broadcastable,
    conv_configs,
    distinct,
    index_exprs,
    integers32,
    labels,
    layouts,
    matmul_operands,
    pool_configs,
    shapes,
    tensors,
    tied,
)


def smallest(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool] = lambda _: True) -> Any:
    chosen = settings(max_examples=5000, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
    return find(strategy, condition, settings=chosen, random=random.Random(0))


def test_importing_testing_needs_no_hypothesis() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import tinygrad_cnn.testing"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(shapes(1, 3, 2, 4))
def test_shapes_keep_their_bounds(shape: tuple[int, ...]) -> None:
    assert 1 <= len(shape) <= 3
    assert all(2 <= n <= 4 for n in shape)


@given(broadcastable(3))
def test_broadcastable_shapes_broadcast(found: Any) -> None:
    np.broadcast_shapes(*found)


def test_broadcastable_reaches_what_matters() -> None:
    smallest(broadcastable(), lambda s: len(s[0]) != len(s[1]) and s[0] and s[1])
    smallest(broadcastable(), lambda s: len(s[0]) == len(s[1]) == 2 and s[0][0] == s[1][1] == 1 != s[0][1])
    smallest(broadcastable(), lambda s: 0 in np.broadcast_shapes(*s))


@given(matmul_operands())
def test_matmul_operands_multiply(found: Any) -> None:
    np.matmul(np.ones(found[0]), np.ones(found[1]))


@given(arrays(shapes()), arrays((3, 50)), arrays((2, 3), np.float32, low=1, high=3), arrays((4,), np.int64, layout="C"))
def test_arrays_hold_short_binary_fractions(a: Any, large: Any, single: Any, whole: Any) -> None:
    for x, low, high in ((a, -2, 2), (large, -2, 2), (single, 1, 3), (whole, -2, 2)):
        assert (x >= low).all()
        assert (x <= high).all()
        assert (x * 16 == np.round(x * 16)).all()
    assert (single.dtype, whole.dtype) == (np.float32, np.int64)


def test_arrays_shrink_to_one_and_zero() -> None:
    assert smallest(arrays((2, 2))).tolist() == [[1, 1], [1, 1]]
    assert smallest(arrays((3,)), lambda x: (x <= 0).any()).tolist() in ([0, 1, 1], [1, 0, 1], [1, 1, 0])
    assert smallest(arrays((2,), low=2, high=3)).tolist() == [2, 2]
    assert smallest(arrays((2,), np.int64)).tolist() == [0, 0]
    assert all(type(smallest(arrays((), dtype))) is np.ndarray for dtype in (np.int64, np.float32))


@given(distinct((3, 4)), distinct((30, 30)))
def test_distinct_values_keep_their_distance(a: np.ndarray, large: np.ndarray) -> None:
    for x in (a, large):
        assert np.diff(np.sort(x, axis=None)).min() == 2**-4
        assert np.abs(x).min() == 2**-5


@given(tied((3, 3)))
def test_tied_values_tie(x: np.ndarray) -> None:
    assert len(np.unique(x)) <= 2


@given(st.data(), st.sampled_from([1, 100, 2**20, 2**24]))
def test_sums_of_integers32_are_exact(data: st.DataObject, k: int) -> None:
    a, b = (data.draw(integers32((8,), k)) for _ in range(2))
    assert a.dtype == np.float32
    assert float(np.abs(a).max()) * float(np.abs(b).max()) * k <= 2**24
    assert (a == np.round(a)).all()


def test_integers32_refuses_what_cannot_be_exact() -> None:
    with pytest.raises(ValueError, match="has no exact float32 value"):
        smallest(integers32((2,), 2**25))


@given(labels(5, 3))
def test_labels(x: np.ndarray) -> None:
    assert x.dtype == np.int64
    assert x.shape == (5,)
    assert ((x >= 0) & (x < 3)).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4, 5), (0, 2)])
@pytest.mark.parametrize("name", memory.LAYOUTS)
def test_layouts_keep_the_numbers_in_new_memory(name: str, shape: tuple[int, ...]) -> None:
    x = np.arange(float(np.prod(shape))).reshape(shape)
    y = memory.LAYOUTS[name](x)
    np.testing.assert_array_equal(x, y)
    assert x.dtype == y.dtype
    assert not np.shares_memory(x, y)


def test_layouts_are_what_they_say() -> None:
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    made = {name: layout(x) for name, layout in memory.LAYOUTS.items()}
    assert made["C"].flags.c_contiguous
    assert made["F"].flags.f_contiguous
    assert made["channels-last"].transpose(0, 2, 3, 1).flags.c_contiguous
    assert not made["read-only"].flags.writeable
    assert all(s < 0 for s in made["reversed"].strides)
    assert made["strided"].strides[-1] == 16
    assert made["transposed"].strides[-2] == 8
    assert memory.broadcast(x).strides[0] == 0
    for name in memory.LAYOUTS:
        smallest(layouts(x), lambda y, name=name: y.strides == made[name].strides)
    assert smallest(layouts(x)).flags.c_contiguous


@given(tensors(arrays((2, 2), layout="C")))
def test_tensors(x: Any) -> None:
    assert isinstance(x, tg.Tensor)


# ---------------------------------------------------------------------------------------------- convolution and pools


@given(conv_configs(2))
def test_convolutions_have_the_size_they_were_drawn_for(c: ConvConfig) -> None:
    out = F.conv2d(
        tg.zeros(c.input_shape), tg.zeros(c.weight_shape), None, c.stride, c.flat_padding, c.dilation, c.groups
    )
    assert out.shape == c.output_shape


@given(conv_configs(2, transposed=True))
def test_transposed_convolutions_have_the_size_they_were_drawn_for(c: ConvConfig) -> None:
    pads = tuple(before for before, _ in c.padding)
    out = F.conv_transpose2d(
        tg.zeros(c.input_shape), tg.zeros(c.weight_shape), None, c.stride, pads, c.output_padding, c.groups, c.dilation
    )
    assert out.shape == c.output_shape


@given(conv_configs(modes=("zeros", "reflect", "replicate", "circular")))
def test_padding_modes_have_cells_to_copy(c: ConvConfig) -> None:
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[c.mode]
    for size, (before, after) in zip(c.size, c.padding, strict=True):
        assert size >= 1
        assert (
            max(before, after) < size
            or c.mode not in ("reflect", "circular")
            or max(before, after) <= size - (c.mode == "reflect")
        )
        assert np.pad(np.arange(size), (before, after), mode=mode).size == size + before + after


def test_convolutions_reach_what_matters() -> None:
    """Windows that do not tile, padding on one side, dilation, groups, one and three dimensions, mostly padding."""

    def remainder(c: ConvConfig) -> int:
        (k, s, d, size, pads) = (c.kernel[0], c.stride[0], c.dilation[0], c.size[0], sum(c.padding[0]))
        return (size + pads - (k - 1) * d - 1) % s

    for condition in (
        lambda c: remainder(c) == 2,
        lambda c: c.padding[0][0] != c.padding[0][1],
        lambda c: c.dilation[0] == 2 and c.kernel[0] == 3,
        lambda c: c.groups == 3 and c.channels == 6,
        lambda c: len(c.size) == 1,
        lambda c: len(c.size) == 3,
        lambda c: min(c.padding[0]) >= c.size[0],
    ):
        smallest(conv_configs(), condition)
    least = smallest(conv_configs(2))
    assert least.input_shape == least.weight_shape == least.output_shape == (1, 1, 1, 1)


@given(pool_configs("max"))
def test_max_pools_have_the_size_they_were_drawn_for(c: PoolConfig) -> None:
    assert F.max_pool2d(tg.zeros(c.shape), **c.options).shape[2:] == c.output


@given(pool_configs("avg"))
def test_average_pools_have_the_size_they_were_drawn_for(c: PoolConfig) -> None:
    assert F.avg_pool2d(tg.zeros(c.shape), **c.options).shape[2:] == c.output


@given(pool_configs("adaptive"))
def test_adaptive_pools_have_the_size_they_were_drawn_for(c: PoolConfig) -> None:
    assert F.adaptive_avg_pool2d(tg.zeros(c.shape), **c.options).shape[2:] == c.output


def test_pools_reach_what_matters() -> None:
    def over(c: PoolConfig) -> int:
        """By how much the last window hangs over the padded input."""
        o = {name: c.options[name][0] for name in ("kernel_size", "stride", "padding", "dilation")}
        end = (c.output[0] - 1) * o["stride"] + (o["kernel_size"] - 1) * o["dilation"] + 1
        return int(end - c.shape[2] - 2 * o["padding"])

    for condition in (
        lambda c: over(c) == 2,
        lambda c: over(c) == -2,
        lambda c: c.options["kernel_size"][0] < c.options["stride"][0],
        lambda c: c.options["padding"][0] == 1 and c.options["ceil_mode"],
    ):
        smallest(pool_configs("max"), condition)
    assert smallest(pool_configs("max")).shape == (1, 1, 1, 1)


# ----------------------------------------------------------------------------------------------------------- indexing


@given(st.data(), shapes(0, 4, 0, 4))
def test_index_expressions_are_legal(data: st.DataObject, shape: tuple[int, ...]) -> None:
    np.zeros(shape)[data.draw(index_exprs(shape))]


def test_index_expressions_reach_what_matters() -> None:
    def kinds(key: Any) -> set[str]:
        return {type(k).__name__ for k in (key if isinstance(key, tuple) else (key,))}

    for wanted in ({"int", "slice"}, {"ndarray", "slice"}, {"NoneType", "ellipsis"}, {"ndarray", "int", "ellipsis"}):
        smallest(index_exprs((2, 3, 4)), lambda key, wanted=wanted: wanted <= kinds(key))
    smallest(index_exprs((2, 3)), lambda key: isinstance(key, np.ndarray) and key.dtype == np.bool_)
    smallest(index_exprs((2, 3)), lambda key: isinstance(key, slice) and (key.step or 1) < 0)
