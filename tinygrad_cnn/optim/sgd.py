"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Group, Optimizer, check_number, check_range
from .table import Table


class SGD(Optimizer):
    """Gradient descent, with momentum as PyTorch defines it: the learning rate is not part of the buffer.

    With d = grad + weight_decay * p: buffer = momentum * buffer + (1 - dampening) * d (in the first step d),
    then p -= lr * buffer, or with `nesterov` p -= lr * (d + momentum * buffer). `maximize` climbs. `foreach`
    and `fused` are PyTorch's and change nothing: the update is always one kernel. Raises ValueError for
    values out of range.

    >>> import tinygrad_cnn as tg
    >>> w = tg.tensor([3.0], requires_grad=True)
    >>> optimizer = tg.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([2.4000], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check(self, group: Group) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            check_range(group, name, 0)
        check_number(group, "dampening")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "nesterov needs a positive momentum and no dampening, got momentum "
                f"{group['momentum']} and dampening {group['dampening']}"
            )

    def _buffers(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _update(self, group: Group, table: Table) -> None:
        table.kernels.sgd(
            table.dtype,
            table.addresses,
            table.sizes,
            table.first,
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )
