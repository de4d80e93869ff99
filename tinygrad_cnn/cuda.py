"""Whether there is a GPU to compute on: in this version never, so that scripts that ask go on with the CPU.

>>> import tinygrad_cnn as tg
>>> tg.device("cuda" if tg.cuda.is_available() else "cpu")
device(type='cpu')
"""

from __future__ import annotations


def is_available() -> bool:
    """Whether tensors can be on a GPU: False."""
    return False


def device_count() -> int:
    """The number of GPUs that tensors can be on: 0."""
    return 0
