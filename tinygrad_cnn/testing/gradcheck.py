"""Is the gradient right? The tape's answer against differences of the function itself.

One random direction through all inputs at once costs a few forward passes, however many elements there are,
and a bug in any element shows in it: with cotangents and directions away from 0 and a step that leaves only
rounding (degree <= 2), a gradient that is wrong by 1e-8 of its size is found. Only after a mismatch is the
direction bisected to one element.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import autograd
from ..tensor import Tensor
from .check import Check, away_from_zero, check_wrt, listed, outputs_of, ratio
from .invariants import broken_invariant
from .report import GradcheckError, GradReport, name_of, raised
from .reproduce import reproducer


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    wrt: int | Sequence[int] | None = None,
    degree: int | None = None,
    projections: int = 2,
    full: bool = False,
    kinks: str = "subgradient",
    rtol: float | None = None,
    atol: float | None = None,
    step: float | None = None,
    seed: int = 0,
    invariants: bool = True,
    raise_exception: bool = True,
) -> GradReport:
    """Check the gradient of fn at the inputs, a Tensor or a sequence in which other values pass through.

    `wrt` picks the inputs to differentiate, by default every floating-point one. `degree` 1 or 2 says that
    fn is a polynomial of that degree in them together, which allows the strictest test. `full` compares the
    whole Jacobian instead of `projections` random ones. At a kink `kinks="subgradient"` accepts what lies
    between the one-sided derivatives, "reject" calls the point inconclusive, "fail" fails. float32 inputs
    need an explicit `rtol`: the float64 gradient is checked as usual and the float32 one compared with it
    at that tolerance. `invariants` adds what must hold besides: nothing mutated, no memory shared, the same
    result twice, in any layout, for any thread count and any subset of inputs that require grad.

    Raises GradcheckError (an AssertionError with a `report`) for a wrong gradient unless
    `raise_exception=False`, and TypeError or ValueError for what cannot be checked: no float input, an
    output that is not a Tensor, a function that answers differently each time.

    >>> import tinygrad_cnn as tg
    >>> from tinygrad_cnn.testing import gradcheck
    >>> x = tg.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=tg.float64)
    >>> bool(gradcheck(lambda x: x @ x, x, degree=2))
    True
    """
    __tracebackhide__ = True
    check = Check(fn, inputs, wrt, degree, kinks, rtol, atol, step, seed)
    try:
        report = check.jacobian() if full else check.projections(projections)
    except GradcheckError as error:
        report = error.report
    if report.status != "failed" and invariants:
        broken = broken_invariant(fn, check.inputs, check.wrt, check.cotangents(0), seed)
        if broken is not None:
            report = check.failed(broken)
    options = _spelled(locals())
    return raised(_reproducible(report, "gradcheck", fn, check.given, options), raise_exception)


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    wrt: int | Sequence[int] | None = None,
    degree: int | None = None,
    projections: int = 2,
    full: bool = False,
    kinks: str = "subgradient",
    rtol: float | None = None,
    atol: float | None = None,
    step: float | None = None,
    seed: int = 0,
    invariants: bool = False,
    raise_exception: bool = True,
) -> GradReport:
    """Check the second gradient of fn: `gradcheck` of (x, v) -> vjp(x, v), the vector-Jacobian product itself.

    `grad_outputs` are the cotangents v, one Tensor per output that has a gradient; random ones when left
    out. The numeric side differentiates the first-order backward as training runs it, the analytic side
    what `create_graph=True` records, so that a fused backward and its composed form are compared as well.
    Raises as `gradcheck` does.
    """
    __tracebackhide__ = True
    check = Check(fn, inputs, wrt, degree, kinks, rtol, atol, step, seed)
    live = check.live_outputs()
    if grad_outputs is None:
        drawn = check.cotangents(0, stream=1)
        cotangents = [drawn[i] for i in live]
    else:
        cotangents = listed(grad_outputs)
        if len(cotangents) != len(live):
            raise ValueError(f"got {len(cotangents)} grad_outputs for {len(live)} outputs that have a gradient")
    count = len(check.given)

    def vjp(*args: Any) -> tuple[Any, ...]:
        xs, vs = list(args[:count]), args[count:]
        create_graph = autograd.is_grad_enabled()
        with autograd.enable_grad():
            for i in check.wrt:
                x = xs[i] if xs[i].requires_grad else xs[i].detach().requires_grad_()
                xs[i] = x[...]  # a tensor of its own: one that is given twice has two partial derivatives
            outputs = outputs_of(fn, fn(*xs))
            varied = [xs[i] for i in check.wrt]
            grads = autograd.grad([outputs[i] for i in live], varied, vs, create_graph=create_graph, allow_unused=True)
            return tuple(x * 0.0 if g is None else g for x, g in zip(varied, grads, strict=True))

    vjp.__name__ = f"vjp of {check.name}"
    if not live:
        raise ValueError(f"no output of {check.name} has a gradient, so there is no second one")
    report = gradcheck(
        vjp,
        [*check.given, *cotangents],
        wrt=(*check.wrt, *range(count, count + len(cotangents))),
        degree=degree,
        projections=projections,
        full=full,
        kinks=kinks,
        rtol=rtol,
        atol=atol,
        step=step,
        seed=seed,
        invariants=invariants,
        raise_exception=False,
    )
    options = _spelled(locals())
    return raised(_reproducible(report, "gradgradcheck", fn, check.given, options), raise_exception)


def adjoint_check(
    fn: Callable[..., Any], x: Any, *, wrt: int = 0, seed: int = 0, raise_exception: bool = True
) -> GradReport:
    """Check that backward is the adjoint of a linear fn: <A u, y> == <u, A^T y> for random u and y, in any dtype.

    `x` holds all inputs; fn is linear (or affine) in input `wrt` and has one output. No differences are
    taken, so the test is as sharp as the arithmetic. Raises GradcheckError when the sides differ or fn is
    not linear.

    >>> import tinygrad_cnn as tg
    >>> from tinygrad_cnn.testing import adjoint_check
    >>> bool(adjoint_check(lambda x: x.flip(0).cumsum(0), tg.ones(4)))
    True
    """
    given = listed(x)
    check_wrt(given, [wrt])
    rng = np.random.default_rng([seed, 7])
    array = given[wrt]._array

    def apply(value: np.ndarray) -> tuple[Any, Any]:
        args = [*given]
        args[wrt] = Tensor(value.astype(array.dtype)).requires_grad_()
        (out,) = outputs_of(fn, fn(*args))
        return args[wrt], out

    u, u2 = (away_from_zero(rng, array.shape) for _ in range(2))
    leaf, at_zero = apply(np.zeros(array.shape))
    zero = at_zero._array.astype(np.float64)
    at_u, at_u2, at_both = (apply(value)[1]._array - zero for value in (u, u2, u + 2 * u2))
    y = away_from_zero(rng, zero.shape)
    adjoint = None
    if at_zero.requires_grad:
        (adjoint,) = autograd.grad(at_zero, leaf, Tensor(y.astype(at_zero.dtype)), allow_unused=True)
    back = np.zeros(array.shape) if adjoint is None else adjoint._array.astype(np.float64)
    left, right = float(np.vdot(at_u, y)), float(np.vdot(u, back))

    unit = 64 * float(np.finfo(at_zero.dtype).eps) * np.sqrt(max(u.size, zero.size, 1))
    tolerance = unit * float(sum(np.linalg.norm((a * b).ravel()) for a, b in ((at_u, y), (u, back), (zero, y))))
    bend = np.abs(at_both - at_u - 2 * at_u2).max(initial=0)
    report = GradReport("passed", name_of(fn), ratio(abs(left - right), tolerance), tolerance)
    if not bend <= unit * (np.abs(at_u) + np.abs(at_u2) + np.abs(zero)).max(initial=0):
        report = dataclasses.replace(report, status="failed", reason=f"it is not linear in input {wrt}")
    elif not abs(left - right) <= tolerance:
        reason = f"the backward of input {wrt} is not the adjoint: <A u, y> is not <u, A^T y>"
        report = dataclasses.replace(report, status="failed", reason=reason, input=wrt, analytic=right, numeric=left)
    options = _spelled({"seed": seed, "wrt": wrt or None})
    return raised(_reproducible(report, "adjoint_check", fn, given, options), raise_exception)


_DEFAULTS = {"projections": 2, "full": False, "kinks": "subgradient", "seed": 0}
_OPTIONS = ("wrt", "degree", "projections", "full", "kinks", "rtol", "atol", "step", "seed")


def _spelled(options: dict[str, Any]) -> str:
    """The options that are not the defaults, as source text."""
    given = [(k, options[k]) for k in _OPTIONS if options.get(k) is not None and options[k] != _DEFAULTS.get(k)]
    return "".join(f", {k}={v!r}" for k, v in given)


def _reproducible(report: GradReport, check: str, fn: Any, inputs: Sequence[Any], options: str) -> GradReport:
    if report.status != "failed":
        return report
    return dataclasses.replace(report, reproducer=reproducer(check, fn, inputs, options))
