"""equal and allclose: NumPy's answers, and an error where PyTorch has one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.testing import strategies as draw


@given(data=st.data())
def test_equal_and_allclose_are_numpys(data: st.DataObject) -> None:
    """Over shapes that broadcast or not, with and without a difference in one element, NaN among the values."""
    shape = data.draw(draw.shapes(0, 3, 1, 3))
    a = data.draw(draw.arrays(shape, tg.float32))
    b = a.copy()
    if data.draw(st.booleans()):
        b.flat[data.draw(st.integers(0, a.size - 1))] += data.draw(st.sampled_from([1e-7, 1e-4, np.nan]))
    x, y, nan = tg.tensor(a), tg.tensor(b), data.draw(st.booleans())
    assert tg.equal(x, y) is x.equal(y) is np.array_equal(a, b)
    assert tg.allclose(x, y, equal_nan=nan) is np.allclose(a, b, equal_nan=nan)
    assert x.allclose(y, 1e-3, 1e-3, nan) is np.allclose(a, b, 1e-3, 1e-3, nan)
    assert not tg.equal(x, tg.stack([x, x])) and x.allclose(tg.stack([x, x]))


def test_equal_and_allclose_where_types_or_shapes_differ() -> None:
    x = tg.ones(2, requires_grad=True)
    assert tg.equal(x, x.long())
    with pytest.raises(RuntimeError, match="float32 and int64 differ"):
        tg.allclose(x, x.long())
    with pytest.raises(RuntimeError, match=r"\(2,\) and \(3,\) do not broadcast"):
        tg.allclose(x, tg.ones(3))
    for fn in (tg.equal, tg.allclose):
        with pytest.raises(TypeError, match=f"{fn.__name__} expects a Tensor, got int"):
            fn(x, 1)
