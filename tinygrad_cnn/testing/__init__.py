"""Property-test the gradients of your own ops: the checks are here, hypothesis strategies in `testing.strategies`."""

from .backends import check_backends as check_backends
from .compiles import assert_max_compiles as assert_max_compiles
from .gradcheck import adjoint_check as adjoint_check
from .gradcheck import gradcheck as gradcheck
from .gradcheck import gradgradcheck as gradgradcheck
from .modules import ModuleReport as ModuleReport
from .modules import check_module as check_module
from .properties import property_test as property_test
from .properties import property_test_gradients as property_test_gradients
from .properties import register_profiles as register_profiles
from .records import OpRecord as OpRecord
from .report import GradcheckError as GradcheckError
from .report import GradReport as GradReport
