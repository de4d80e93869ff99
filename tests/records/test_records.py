"""Every differentiable public op has a record, and every record holds: values, gradients, backends and errors."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests.records import elementwise, index, layers, reduce, shape
from tinygrad_cnn.nn import functional as F

ALL = [record for family in (elementwise, reduce, shape, index, layers) for record in family.RECORDS]
RECORDS = {record.name: record for record in ALL}

#: Ops of which nothing flows back: their results are integers, bools or constant between jumps.
FLAT = """
all any argmax argmin argsort bitwise_and bitwise_not bitwise_or bitwise_xor eq floor_divide ge gt isfinite isinf isnan
le logical_and logical_not logical_or logical_xor lt ne nonzero one_hot
""".split()  # noqa: SIM905
#: What else a Tensor has: its properties, its memory, its history, casts, tensors like it, answers of Python's types,
#: random numbers in its place, and flat ops in place.
NOT_OPS = """
shape dtype ndim device itemsize nbytes is_cuda size dim numel nelement element_size stride is_contiguous tolist item
is_floating_point numpy to type float double long int bool type_as cpu cuda data grad grad_fn is_leaf requires_grad
requires_grad_ backward detach detach_ retain_grad retains_grad register_hook new_zeros new_ones new_full new_tensor
new_empty allclose equal normal_ uniform_ floor_divide_ bitwise_and_ bitwise_or_ bitwise_xor_
""".split()  # noqa: SIM905


def public_ops() -> dict[str, Any]:
    """By name, what tinygrad_cnn and nn.functional export from ops, and all that Tensor has beside NOT_OPS."""
    found: dict[str, Any] = {}
    for namespace in (tg, F):
        for name, value in vars(namespace).items():
            module = getattr(value, "__module__", None) or ""
            if not name.startswith("_") and module.startswith(("tinygrad_cnn.ops", "tinygrad_cnn.nn.functional")):
                found[name] = value
    names = {name for name in vars(tg.Tensor) if not name.startswith("_")} | {"__getitem__"}
    return found | {name: inspect.getattr_static(tg.Tensor, name) for name in names.difference(NOT_OPS)}


def _is_of_the_package(op: Any) -> bool:
    return str(op.__module__).startswith(("tinygrad_cnn.ops", "tinygrad_cnn.nn"))


def test_every_differentiable_op_has_a_record() -> None:
    """Under one of its names; a new op has to come with its record, or be named as flat or no op."""
    ops = public_ops()
    names = {*FLAT, *NOT_OPS, *(record.name.split()[0] for record in ALL)}
    known = {id(value) for name, value in ops.items() if name in names}
    known.add(id(tg.Tensor.__getitem__))
    assert sorted(name for name, value in ops.items() if id(value) not in known) == []
    assert len(RECORDS) == len(ALL)
    assert sorted({record.name.split()[0] for record in ALL} - {*ops, "getitem", "setitem"}) == []


@pytest.mark.parametrize("name", FLAT)
def test_nothing_flows_back_through_a_flat_op(name: str) -> None:
    """Its output asks for no gradient where its inputs do; a few refuse floats altogether."""
    op = public_ops()[name]
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    try:
        out = op(x, x) if name in dir(tg.ops.elementwise) and not name.startswith(("is", "logical_not")) else op(x)
    except (TypeError, RuntimeError):
        assert name.startswith("bitwise") or name == "one_hot"
    else:
        assert not out.requires_grad


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
def test_record(name: str, data: st.DataObject) -> None:
    """The value is the reference's in both dtypes, both gradients are the function's, and all backends agree."""
    record = RECORDS[name]
    record.check(data.draw(record.inputs, "inputs"))


@pytest.mark.parametrize("name", [r.name for r in ALL if _is_of_the_package(r.op)])
@given(data=st.data())
@settings(max_examples=5)
def test_what_is_no_tensor_is_refused(name: str, data: st.DataObject) -> None:
    """A word in the place of any tensor is a TypeError that names its type."""
    record = RECORDS[name]
    inputs = data.draw(record.inputs, "inputs")
    for i, x in enumerate(inputs):
        if isinstance(x, np.ndarray):
            wrong = [tg.from_numpy(y) if isinstance(y, np.ndarray) else y for y in inputs]
            with pytest.raises(TypeError, match="str"):
                record.op(*wrong[:i], "word", *wrong[i + 1 :])


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record.errors])
def test_bad_arguments(name: str) -> None:
    """Each is refused with its type and its numbers."""
    RECORDS[name].check_errors()
