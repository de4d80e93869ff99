"""check_module, check_backends, assert_max_compiles and OpRecord: right things pass, and each kind of fault is seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import kernels, nn
from tinygrad_cnn.autograd import Function
from tinygrad_cnn.kernels.cpu import contract
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import GradcheckError, OpRecord, assert_max_compiles, check_backends, check_module, gradcheck
from tinygrad_cnn.testing.strategies import arrays, conv_configs, integers32


class WrongScale(Function):
    """x * scale, with a gradient of scale that leaves the last element out."""

    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any) -> Any:
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, scale = ctx.saved_tensors
        total = (g * x).sum(0)
        total[-1] = 0.0
        return g * scale, total


class Scale(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(tg.rand(4) + 0.5)
        self.wrong = wrong

    def forward(self, x: Any) -> Any:
        return WrongScale.apply(x, self.scale) if self.wrong else x * self.scale


def model(wrong: bool = False) -> nn.Sequential:
    tg.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.25), Scale(wrong)
    )


# -------------------------------------------------------------------------------------------------------------- modules


def test_every_parameter_and_input_of_a_model_is_checked() -> None:
    net = model()
    x = tg.rand(3, 1, 4, 4)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    state = tg.random.get_rng_state()
    report = check_module(net, x)
    assert report
    assert list(report.rows) == ["0.weight", "0.bias", "1.weight", "1.bias", "6.scale", "input 0"]
    assert report.shapes["0.weight"] == (4, 1, 3, 3)
    assert str(report).count("passed") == 6
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert all(p.dtype == tg.float32 and p.grad is None for p in net.parameters())
    assert str(tg.random.get_rng_state()) == str(state)


def test_the_wrong_parameter_of_a_model_is_named() -> None:
    report = check_module(model(wrong=True), tg.rand(3, 1, 4, 4), raise_exception=False)
    assert [name for name, row in report.rows.items() if row.status == "failed"] == ["6.scale"]
    assert report.rows["6.scale"].index == (3,)
    assert not report
    with pytest.raises(GradcheckError, match=r"Sequential\.6\.scale"):
        check_module(model(wrong=True), tg.rand(3, 1, 4, 4))


def test_a_model_with_a_loss_and_labels() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    labels = tg.tensor([0, 3])
    assert check_module(net, tg.rand(2, 3), loss=lambda out: F.cross_entropy(out, labels))


def test_a_weight_that_two_layers_share() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    report = check_module(net, tg.rand(2, 3))
    assert list(report.rows) == ["0.weight", "0.bias", "2.bias", "input 0"]


def test_a_function_of_ones_own_is_named_by_its_class() -> None:
    report = gradcheck(WrongScale.apply, [tg.rand(2, 4).double(), tg.rand(4).double()], raise_exception=False)
    assert report.status == "failed" and report.name == "WrongScale"


def test_gradcheck_takes_a_module() -> None:
    net = nn.Linear(3, 2).double()
    assert gradcheck(net, tg.rand(4, 3, dtype=tg.float64), degree=1)


# ------------------------------------------------------------------------------------------------------------- backends


@given(st.data(), conv_configs(2))
def test_convolution_agrees_between_backends_to_the_bit_on_whole_numbers(data: st.DataObject, c: Any) -> None:
    terms = int(np.prod(c.weight_shape)) * int(np.prod(c.output_shape))
    x, w = (tg.from_numpy(data.draw(integers32(shape, terms))) for shape in (c.input_shape, c.weight_shape))
    fn = lambda x, w: F.conv2d(x, w, None, c.stride, c.flat_padding, c.dilation, c.groups)
    assert check_backends(fn, [x, w])


@pytest.mark.parametrize("dtype", [tg.float32, tg.float64])
def test_backends_agree_within_rounding_on_other_numbers(dtype: Any) -> None:
    tg.manual_seed(0)
    x, w, b = tg.randn(5, 7, 9, 8, dtype=dtype), tg.randn(6, 7, 3, 3, dtype=dtype), tg.randn(6, dtype=dtype)
    assert check_backends(lambda x, w, b: F.conv2d(x, w, b, padding=1).relu(), [x, w, b])
    assert check_backends(lambda a, b: a @ b, [tg.randn(33, 65, dtype=dtype), tg.randn(65, 17, dtype=dtype)])


def test_a_difference_between_backends_is_told() -> None:
    x = tg.ones(3, 4)
    threads = lambda x: x * float(kernels.get_num_threads())
    with pytest.raises(GradcheckError, match=r"output 0 on the backend 'parallel' differs from that on 'serial'"):
        check_backends(threads, x, ["serial", "parallel"])
    reference = lambda x: x + (1e-6 if contract.ENABLED else 0.0)  # whole numbers must agree exactly
    assert check_backends(reference, x, ["reference", "reference"])
    report = check_backends(reference, x, raise_exception=False)
    assert "'serial' differs from that on 'reference'" in report.reason
    assert "12 elements in all" in report.reason
    with pytest.raises(ValueError, match="unknown backend 'gpu'; there are reference, serial, parallel"):
        check_backends(reference, x, "gpu")


def test_backends_leave_the_settings_as_they_were() -> None:
    before = kernels.get_num_threads(), kernels.PARALLEL_WORK, contract.ENABLED
    with pytest.raises(ZeroDivisionError):
        check_backends(lambda x: x * (1 / 0), tg.ones(2))
    assert (kernels.get_num_threads(), kernels.PARALLEL_WORK, contract.ENABLED) == before


# ------------------------------------------------------------------------------------------------------------- compiles


def test_compiles_are_counted() -> None:
    kernel = numba.njit(lambda x: x + 1)
    with assert_max_compiles(1) as compiled:
        kernel(1)
        kernel(2)
    assert compiled.count == 1
    with pytest.raises(AssertionError, match="1 kernels were compiled"), assert_max_compiles(0):
        kernel(1.0)


# -------------------------------------------------------------------------------------------------------------- records


RATIO = OpRecord(
    "ratio",
    lambda a, b: tg.div(a, b),
    lambda a, b: a / b,
    st.tuples(arrays((2, 3)), arrays((2, 3), low=1, high=2)).map(list),
    errors=[((np.ones(2), "x"), TypeError, "str")],
)


@given(RATIO.inputs)
def test_a_record_checks_its_op(inputs: list[Any]) -> None:
    RATIO.check(inputs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ref": lambda a, b: a / b + 1e-9}, "ratio"),
        ({"ref": lambda a, b: (a / b)[0]}, r"shape \(2, 3\), reference \(3,\)"),
        ({"op": lambda a, b: (a / b).double()}, "float64 from float32"),
        ({"op": lambda a, b: a / b.detach()}, "gradient of input 1 is wrong"),
        ({"degree": 2}, "gradient of input"),
    ],
)
def test_a_record_sees_what_is_wrong(change: dict[str, Any], words: str) -> None:
    record = dataclasses.replace(RATIO, **change)
    inputs = [np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[1.5, 2, 1], [1, 2, 1]])]
    with pytest.raises(AssertionError, match=words):
        record.check(inputs)


def test_a_record_checks_errors() -> None:
    bad = dataclasses.replace(RATIO, op=lambda a, b: tg.tensor(a) @ b, errors=[(([1.0], 3), ValueError, "shape")])
    with pytest.raises((AssertionError, TypeError)):
        bad.check_errors()
    accepts = dataclasses.replace(RATIO, op=lambda a, b: a, errors=[((1, 2), ValueError, "no")])
    with pytest.raises(AssertionError, match="ratio accepts"):
        accepts.check_errors()
