"""Reverse-mode automatic differentiation: the tape, the switches that turn it off, and ops of the user's own."""

from __future__ import annotations

from .function import Function as Function
from .function import once_differentiable as once_differentiable
from .modes import detect_anomaly as detect_anomaly
from .modes import enable_grad as enable_grad
from .modes import inference_mode as inference_mode
from .modes import is_grad_enabled as is_grad_enabled
from .modes import no_grad as no_grad
from .modes import set_grad_enabled as set_grad_enabled
from .tape import Node as Node
from .tape import RemovableHandle as RemovableHandle
from .tape import Variable as Variable
from .tape import backward as backward
from .tape import grad as grad
from .tape import register_hook as register_hook
