"""Property-test the gradients of your own ops: the checks here, hypothesis strategies in
`testing.strategies`.
"""

from .gradcheck import adjoint_check as adjoint_check
from .gradcheck import gradcheck as gradcheck
from .gradcheck import gradgradcheck as gradgradcheck
from .report import GradcheckError as GradcheckError
from .report import GradReport as GradReport
