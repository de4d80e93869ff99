"""Devices: this version computes on the CPU only, and scripts that ask find that out."""

from __future__ import annotations

import tinygrad_cnn as tg


def test_a_script_that_asks_for_a_gpu_goes_on_with_the_cpu() -> None:
    """PyTorch's usual line at the start of a script."""
    device = tg.device("cuda" if tg.cuda.is_available() else "cpu")
    assert tg.cuda.device_count() == 0
    assert tg.nn.Linear(1, 1).to(device)(tg.ones(1, device=device)).device == "cpu"


def test_the_version_is_there_to_be_reported() -> None:
    assert tg.__version__.split(".")[0].isdigit()
