"""Losses as modules: what the functions compute, with the numbers given once.

Each takes (input, target) and a keyword reduction: "mean" (the default) and "sum" return a number, "none" the losses
of the elements or items. Arguments are checked when the module is made, shapes and dtypes when it is called: ValueError
and TypeError, as the functions have them.
"""

from __future__ import annotations

from typing import Any

from ..ops.arguments import integer, real
from ..ops.loss import check_reduction
from ..tensor import Tensor
from . import functional as F
from .module import Module


class _Loss(Module):
    """A loss and how it is reduced; weights are buffers, so that they move and are cast with the rest."""

    def __init__(self, reduction: str, **weights: Tensor | None) -> None:
        super().__init__()
        check_reduction(type(self).__name__, reduction)
        self.reduction = reduction
        for name, weight in weights.items():
            self.register_buffer(name, weight)


class MSELoss(_Loss):
    """The mean of (input - target) ** 2; input and target of one shape.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.MSELoss()(tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
    tensor(2.5000)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """The mean of |input - target|; input and target of one shape.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.L1Loss(reduction="sum")(tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
    tensor(3.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        return F.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """Squared below beta, absolute above; input and target of one shape. See `nn.functional.smooth_l1_loss`.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.SmoothL1Loss(reduction="none")(tg.tensor([0.5, 3.0]), tg.tensor([0.0, 0.0]))
    tensor([0.1250, 2.5000])
    """

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = real("SmoothL1Loss", "beta", beta, 0)

    def forward(self, input: Any, target: Any) -> Any:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class NLLLoss(_Loss):
    """The mean of -input at the labels, input being log-probabilities (N, C); see `nn.functional.nll_loss`.

    Shapes and arguments as in CrossEntropyLoss, with class labels only.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.NLLLoss()(tg.tensor([[-0.1, -2.3]]), tg.tensor([1]))
    tensor(2.3000)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight)
        self.ignore_index = integer(type(self).__name__, "ignore_index", ignore_index)

    def forward(self, input: Any, target: Any) -> Any:
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(_Loss):
    """Classification from logits: -log(softmax(input)) of the right class; see `nn.functional.cross_entropy`.

    input (N, C), (C,) or (N, C, d1, ...), floating and without a softmax; target integer labels (N,), () or (N, d1,
    ...) in [0, C), or probabilities of input's shape. weight (C,) scales the classes, labels equal to ignore_index do
    not count, and label_smoothing in [0, 1] is the share of a target that goes evenly to all classes. Raises
    IndexError for a label out of range.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.CrossEntropyLoss()(tg.tensor([[0.0, 0.0], [9.0, 0.0]]), tg.tensor([1, 0]))
    tensor(0.3466)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, weight=weight)
        self.ignore_index = integer(type(self).__name__, "ignore_index", ignore_index)
        self.label_smoothing = real("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)

    def forward(self, input: Any, target: Any) -> Any:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class BCEWithLogitsLoss(_Loss):
    """Yes or no from logits: input and target, in [0, 1], of one shape; weight and pos_weight broadcast to it.

    See `nn.functional.binary_cross_entropy_with_logits`.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.BCEWithLogitsLoss()(tg.tensor([0.0, 0.0]), tg.tensor([1.0, 0.0]))
    tensor(0.6931)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean", pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(reduction, weight=weight, pos_weight=pos_weight)

    def forward(self, input: Any, target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
