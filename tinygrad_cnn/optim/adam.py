"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from .optimizer import Group, Optimizer, check_range
from .table import Table


class Adam(Optimizer):
    """Steps of a size that adapts to each weight (Kingma and Ba, 2015, algorithm 1).

    m and v are running averages of grad and grad**2, weighted by betas; p -= lr * m' / (sqrt(v') + eps) with
    both corrected for their start at 0. `weight_decay` adds weight_decay * p to the gradient (see AdamW),
    `amsgrad` divides by the largest v so far (Reddi et al., 2018), `maximize` climbs. `foreach` and `fused`
    are PyTorch's and change nothing: the update is always one kernel. Raises ValueError for values out of
    range.
    """

    _counts = True
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check(self, group: Group) -> None:
        for name in ("lr", "eps", "weight_decay"):
            check_range(group, name, 0)
        if not isinstance(group["betas"], tuple | list):
            raise TypeError(f"betas are two numbers, got {group['betas']!r}")
        if len(group["betas"]) != 2:
            raise ValueError(f"betas are two numbers, got {group['betas']}")
        for i, beta in enumerate(group["betas"]):
            check_range({f"betas[{i}]": beta}, f"betas[{i}]", 0, 1)

    def _buffers(self, group: Group) -> tuple[str, ...]:
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def _update(self, group: Group, table: Table) -> None:
        table.kernels.adam(
            table.dtype,
            table.addresses,
            table.sizes,
            table.steps,
            group["lr"],
            group["betas"],
            group["eps"],
            group["weight_decay"],
            self._decoupled,
            group["amsgrad"],
            group["maximize"],
        )


class AdamW(Adam):
    """Adam whose weight decay acts on the weight itself: p *= 1 - lr * weight_decay.

    Loshchilov and Hutter, 2019. Arguments and errors are those of Adam.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
