"""What a convolution is, in hashable numbers; every device's kernels take the same."""

from __future__ import annotations

from typing import NamedTuple


class Conv2dSpec(NamedTuple):
    """Stride, padding (top, bottom, left, right), dilation and groups of a 2-D convolution."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_hw(self, input_hw: tuple[int, int], kernel_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output; raises ValueError when the window does not fit the padded input."""
        top, bottom, left, right = self.padding
        room = (
            input_hw[0] + top + bottom - self.dilation[0] * (kernel_hw[0] - 1) - 1,
            input_hw[1] + left + right - self.dilation[1] * (kernel_hw[1] - 1) - 1,
        )
        if min(room) < 0:
            raise ValueError(
                f"a {kernel_hw} kernel with dilation {self.dilation} does not fit an input of {input_hw} "
                f"with padding {self.padding}: it needs {tuple(max(0, -r) for r in room)} more rows and columns"
            )
        return room[0] // self.stride[0] + 1, room[1] // self.stride[1] + 1
