"""How Numba turns our kernels into machine code: everything once.

Numba optimises every function by itself, then cheaply together with what it calls (to see which reference counts go),
then thoroughly, and makes machine code of it even if only other functions call it. Kernels count no references, and
nobody but kernels calls what they call. So here functions are linked as they are, and optimised and translated in the
kernel: the first training step of the MNIST CNN takes 10 s with an empty kernel cache, 14.4 s in Numba's own way.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, compile_internal
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering


class _Library(JITCodeLibrary):
    """The machine code of a kernel."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


class _Linked(_Library):
    """A function that kernels call, before it is optimised."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class KernelCompiler(CompilerBase):
    """Compiles what Python calls."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        library = _Library(target_context.codegen(), "kernel")
        library.enable_object_caching()
        super().__init__(typing_context, target_context, library, *rest)

    def define_pipelines(self) -> list[Any]:
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


class InnerCompiler(CompilerBase):
    """Compiles what only kernels call."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing_context, target_context, _Linked(target_context.codegen(), "inner"), *rest)
        self.state.flags.no_compile = True

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Publish, NativeLowering)
        passes.finalize()
        return [passes]


@register_pass(mutates_CFG=False, analysis_only=False)
class _Publish(LoweringPass):
    """Tells the target of a function that kernels may call, which has no address."""

    _name = "publish"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        result, library = state.cr, state.library
        name = result.fndesc.qualname.rpartition(".")[2]
        function = _dynfunc.make_function(result.fndesc.lookup_module(), name, "", 0, result.env, (library,))
        state.targetctx.insert_user_function(function, result.fndesc, [library])
        state.cr = result._replace(cfunc=function)
        return True


def compile_into(context: Any, fn: Any, signature: Any, flags: Any) -> Any:
    """Compile fn, which returns nothing, for the library that is being made; returns how it is called there."""
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library = _Linked(context.codegen(), fn.__qualname__)
    result = compile_internal(
        context.typing_context, context, library, fn, signature.args, types.void, flags, locals={}
    )
    context.active_code_library.add_linking_library(library)
    return result.fndesc
