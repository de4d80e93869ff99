"""One function at one point: its values along directions, its gradients, and their comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import autograd
from ..autograd import Variable, no_grad
from ..tensor import Tensor
from . import slopes
from .report import GradcheckError, GradReport, name_of

KINKS = ("subgradient", "reject", "fail")
RTOL = {"polynomial": 1e-9, "smooth": 1e-7}
#: A smooth estimate whose last extrapolation moved it by more than this many rtol is not settled.
SETTLED = 100.0
#: Rounding allowed everywhere, in eps times the cotangent: where the terms of a gradient cancel, nothing else is left.
FLOOR = 64.0
#: How many estimates a check may spend on telling elements at kinks from their neighbours.
KINK_BUDGET = 48


@dataclasses.dataclass
class _Verdict:
    """What was found along one direction."""

    state: str  # ok, kink (inside the interval of the two sides), bad, unclear
    error: float = 0.0  # in tolerances
    tolerance: float = 0.0
    analytic: float = 0.0
    numeric: float | tuple[float, float] = 0.0
    bend: np.ndarray | None = None  # per output, right slope minus left where it has two, else 0

    @property
    def on_kink(self) -> bool:
        return self.bend is not None


Place: TypeAlias = tuple[int, int]  # elements from, to; counted through all inputs


class Check:
    """One function at one point: its values along directions, its gradients, and their comparison."""

    def __init__(
        self,
        fn: Callable[..., Any],
        inputs: Any,
        wrt: int | Sequence[int] | None,
        degree: int | None,
        kinks: str,
        rtol: float | None,
        atol: float | None,
        step: float | None,
        seed: int,
    ) -> None:
        if kinks not in KINKS:
            raise ValueError(f"kinks must be one of {', '.join(KINKS)}, got {kinks!r}")
        if degree not in (None, 1, 2):
            raise ValueError(f"degree must be 1, 2 or None (not such a polynomial), got {degree!r}")
        self.fn = fn
        self.name = name_of(fn)
        self.given = listed(inputs)
        self.wrt = _chosen(self.given, wrt)
        self.single = _single_tolerance(self.given, self.wrt, rtol, atol)
        self.inputs = [_double(x) for x in self.given] if self.single is not None else self.given
        self.kinks = kinks
        self.seed = seed
        self.degree = degree
        self.step = step
        kind = "polynomial" if degree else "smooth"
        self.rtol = RTOL[kind] if rtol is None or self.single is not None else rtol
        self.atol = 0.0 if atol is None or self.single is not None else atol
        self.shapes = [self.inputs[i].shape for i in self.wrt]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.worst = 0.0
        self.leaves, self.outputs = self._record(self.inputs)
        self._check_values(exact=rtol is None and atol is None)

    # ---- the function

    def _record(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        args = list(inputs)
        for i in self.wrt:
            args[i] = Tensor(args[i]._array.copy(order="K")).requires_grad_()
        return [args[i] for i in self.wrt], outputs_of(self.fn, self.fn(*args))

    def _check_values(self, exact: bool) -> None:
        floats = [out for out in self.outputs if out.dtype.kind == "f"]
        if not floats:
            raise TypeError(f"{self.name} returned no floating-point Tensor: there is nothing to differentiate")
        if exact and any(out.dtype != np.float64 for out in floats):
            raise TypeError(f"{self.name} returned {floats[0].dtype} from float64 inputs; pass rtol= to check it so")
        self.eps = max(float(np.finfo(out.dtype).eps) for out in floats)
        here = self._values(0.0, [np.zeros(shape) for shape in self.shapes])
        recorded = _flat([out._array for out in floats])
        scale = magnitude(np.append(recorded, [magnitude(x._array) for x in self.given if isinstance(x, Tensor)]))
        close = np.isclose(here, recorded, rtol=1e4 * self.eps, atol=1e4 * self.eps * scale, equal_nan=True)
        if here.shape != recorded.shape or not close.all():
            raise ValueError(
                f"{self.name} is not deterministic: two calls on the same inputs differ; freeze its random "
                "numbers and running statistics (check_module does that for a Module)"
            )

    def _values(self, t: float, direction: Sequence[np.ndarray]) -> np.ndarray:
        """All floating-point outputs at inputs + t * direction, as one float64 vector."""
        args = list(self.inputs)
        for i, u in zip(self.wrt, direction, strict=True):
            args[i] = Tensor(args[i]._array + t * u)
        with no_grad(), np.errstate(all="ignore"):  # a step may leave the domain: the result says so
            outputs = outputs_of(self.fn, self.fn(*args))
        return _flat([out._array for out in outputs if out.dtype.kind == "f"])

    def live_outputs(self) -> list[int]:
        """The outputs that a gradient can be asked of."""
        return [i for i, out in enumerate(self.outputs) if out.dtype.kind == "f" and out.requires_grad]

    def cotangents(self, projection: int, stream: int = 0) -> list[Any]:
        """A random cotangent per output; None for one that is not floating-point."""
        rng = np.random.default_rng([self.seed, projection, stream])
        return [
            Tensor(away_from_zero(rng, out.shape).astype(out.dtype)) if out.dtype.kind == "f" else None
            for out in self.outputs
        ]

    def vjp(self, cotangents: Sequence[Any]) -> list[np.ndarray]:
        """The tape's gradients of the inputs in question, zeros where there are none."""
        live = self.live_outputs()
        grads: Sequence[Any] = [None] * len(self.leaves)
        if live:
            grads = autograd.grad(
                [self.outputs[i] for i in live],
                self.leaves,
                [cotangents[i] for i in live],
                retain_graph=True,
                allow_unused=True,
            )
        for i, leaf, g in zip(self.wrt, self.leaves, grads, strict=True):
            if g is not None and (g.shape != leaf.shape or g.dtype != leaf.dtype):
                text = f"the gradient of input {i}, {leaf.dtype} {leaf.shape}, is {g.dtype} {g.shape}"
                raise GradcheckError(self.failed(text))
        return [np.zeros(x.shape) if g is None else g._array for x, g in zip(self.leaves, grads, strict=True)]

    # ---- the comparison

    def projections(self, count: int) -> GradReport:
        """Random directions against random cotangents."""
        unclear = ""
        for p in range(count):
            rng = np.random.default_rng([self.seed, p, 2])
            direction = [away_from_zero(rng, shape) for shape in self.shapes]
            cotangents = self.cotangents(p)
            v = _flat([c._array for c in cotangents if c is not None])
            verdict, place = self._examine(direction, v, self.vjp(cotangents), cotangents)
            if verdict.state == "bad":
                return self._located(verdict, place, direction, f"projection {p}")
            if verdict.state == "unclear":
                unclear = "no derivative could be measured here: the differences do not settle"
            if verdict.state == "kink" and self.kinks == "reject":
                unclear = "the point lies on a kink"
        if self.single is not None:
            report = self._compare_single()
            if report is not None:
                return report
        return GradReport("inconclusive" if unclear else "passed", self.name, self.worst, self.rtol, unclear)

    def _examine(
        self, direction: list[np.ndarray], v: np.ndarray, grads: list[np.ndarray], cotangents: Sequence[Any]
    ) -> tuple[_Verdict, Place]:
        """The verdict along the direction, refined where kinks are in it, and the elements it holds for."""
        whole = (0, sum(self.sizes))
        verdict = self._judge(direction, v, grads)
        if verdict.state in ("ok", "unclear") or self.kinks != "subgradient":
            return verdict, whole
        if not verdict.on_kink:
            return self._bisect(verdict, whole, direction, v, grads) or (_Verdict("kink"), whole)
        assert verdict.bend is not None
        smooth = np.where(verdict.bend != 0, 0.0, v)  # the outputs without a kink must agree to the last digit
        if smooth.any():
            masked = self.vjp(self._masked(cotangents, smooth))
            alone = self._judge(direction, smooth, masked)
            if alone.state == "bad" and not alone.on_kink:
                wrong = self._bisect(alone, whole, direction, smooth, masked)
                if wrong is not None:
                    return wrong
        probes = [(verdict, whole)]
        wrong = self._separate(verdict, whole, direction, v, grads, probes)
        if wrong is None and len(probes) < KINK_BUDGET:
            wrong = self._together(probes, direction, v, cotangents)
        return wrong or (_Verdict("kink"), whole)

    def _masked(self, cotangents: Sequence[Any], v: np.ndarray) -> list[Any]:
        parts, at = [], 0
        for c in cotangents:
            if c is not None:
                n = c.numel()
                c = Tensor(v[at : at + n].reshape(c.shape).astype(c.dtype))
                at += n
            parts.append(c)
        return parts

    def _separate(
        self,
        verdict: _Verdict,
        place: Place,
        direction: list[np.ndarray],
        v: np.ndarray,
        grads: list[np.ndarray],
        probes: list[tuple[_Verdict, Place]],
    ) -> tuple[_Verdict, Place] | None:
        """Halve the direction until elements at kinks stand alone; the first that is wrong by itself, or None.

        Kinks of several elements in one output can cancel, so that only a single element's verdict counts.
        """
        lo, hi = place
        if verdict.state in ("ok", "unclear") or hi - lo == 0:
            return None
        if hi - lo == 1:
            return (verdict, place) if verdict.state == "bad" else None
        if not verdict.on_kink:
            return self._bisect(verdict, place, direction, v, grads)
        middle = (lo + hi) // 2
        for half in ((lo, middle), (middle, hi)):
            if len(probes) >= KINK_BUDGET:
                return None
            found = self._judge(self._within(direction, *half), v, grads)
            probes.append((found, half))
            wrong = self._separate(found, half, direction, v, grads, probes)
            if wrong is not None:
                return wrong
        return None

    def _together(
        self,
        probes: list[tuple[_Verdict, Place]],
        direction: list[np.ndarray],
        v: np.ndarray,
        cotangents: Sequence[Any],
    ) -> tuple[_Verdict, Place] | None:
        """Judge the outputs that bend the same way in every probe along several elements at once.

        They are taken for convex (or concave), and any subgradient of a convex function lies between its
        one-sided derivatives in every direction: the gradients of tied maxima must not add up to more than
        one.
        """
        bends = [found.bend for found, _ in probes if found.bend is not None]
        up = np.any([bend > 0 for bend in bends], axis=0)
        down = np.any([bend < 0 for bend in bends], axis=0)
        chosen = np.where(up ^ down, v, 0.0)
        grads = self.vjp(self._masked(cotangents, chosen))
        for before, place in probes:
            if before.state == "bad":
                found = self._judge(self._within(direction, *place), chosen, grads)
                if found.state == "bad" and found.on_kink:
                    return found, place
        return None

    def _bisect(
        self,
        verdict: _Verdict,
        place: Place,
        direction: list[np.ndarray],
        v: np.ndarray,
        grads: list[np.ndarray],
    ) -> tuple[_Verdict, Place] | None:
        """Follow the larger error down to one element; None where it dissolves into kinks that cancelled."""
        lo, hi = place
        while hi - lo > 1:
            middle = (lo + hi) // 2
            halves = [(lo, middle), (middle, hi)]
            verdicts = [self._judge(self._within(direction, *half), v, grads) for half in halves]
            worse = int(verdicts[1].error > verdicts[0].error)
            if verdicts[worse].state != "bad":
                if any(found.state == "kink" for found in verdicts):
                    return None
                break  # spread thinly: no half is wrong beyond its own tolerance
            verdict, (lo, hi) = verdicts[worse], halves[worse]
        return verdict, (lo, hi)

    def _within(self, direction: Sequence[np.ndarray], lo: int, hi: int) -> list[np.ndarray]:
        """The direction with zeros outside elements lo to hi, counted through all inputs."""
        parts, at = [], 0
        for u in direction:
            part = np.zeros(u.size)
            part[max(lo - at, 0) : max(hi - at, 0)] = u.ravel()[max(lo - at, 0) : max(hi - at, 0)]
            parts.append(part.reshape(u.shape))
            at += u.size
        return parts

    def _judge(self, direction: list[np.ndarray], v: np.ndarray, grads: list[np.ndarray]) -> _Verdict:
        """Compare sum(grads * direction) with the slope of <v, fn> along the direction."""
        terms = _flat([np.asarray(g * u) for g, u in zip(grads, direction, strict=True)])
        reach = _flat([np.asarray(g * self.inputs[i]._array) for i, g in zip(self.wrt, grads, strict=True)])
        analytic = float(terms.sum())
        size = float(np.linalg.norm(terms))
        # rounding of the inputs themselves, which the differences divide by the step
        unit = self.eps * float(np.linalg.norm(np.where(terms == 0, 0.0, reach)))

        def line(t: float) -> np.ndarray:
            return self._values(t, direction)

        unclear = _Verdict("unclear", analytic=analytic)
        if self.degree:
            step = self.step or slopes.POLYNOMIAL_STEP
            slope = slopes.polynomial(line, step, self.eps)
            return self._verdict(slope, v, analytic, size, 8 * unit / step, 0.0, unclear)
        wrong: list[_Verdict] = []
        seen = 0.0
        for h in (self.step,) if self.step else slopes.STEPS:
            samples = slopes.Samples(line, h, self.eps)
            slope = samples.two_sided()
            seen = max(seen, float(np.linalg.norm(np.nan_to_num(v * (np.abs(slope.left) + slope.spread)))))
            found = self._verdict(slope, v, analytic, size, 8 * unit / h, seen, unclear)
            if found.state != "ok" or self.kinks != "subgradient":
                found = self._verdict(samples.one_sided(), v, analytic, size, 32 * unit / h, seen, unclear)
            if found.state in ("ok", "kink"):
                return found
            wrong += [found] if found.state == "bad" else []
            if len(wrong) == (1 if self.step else 2):  # at one step the differences may have settled by chance
                return wrong[-1]
        return unclear

    def _verdict(
        self,
        slope: slopes.Slope,
        v: np.ndarray,
        analytic: float,
        size: float,
        rounding: float,
        seen: float,
        unclear: _Verdict,
    ) -> _Verdict:
        """Compare at one step; `seen` is the largest slope or spread at any step: what a slope of 0 is small to."""
        with np.errstate(invalid="ignore", over="ignore"):
            left, right = v * slope.left, v * slope.right
            noise = float(np.linalg.norm(v * slope.noise)) + rounding
            spread = float(np.linalg.norm(v * slope.spread))
            size = max(size, float(np.linalg.norm(left)), float(np.linalg.norm(right)))
            floor = FLOOR * self.eps * float(np.linalg.norm(v))
            tolerance = self.atol + self.rtol * size + floor + noise + spread
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            return unclear
        if not np.isfinite(analytic):
            middle = float((left + right).sum() / 2)
            return _Verdict("bad", float("inf"), self.rtol * float(np.abs(left).sum()), analytic, middle)
        if spread > SETTLED * self.rtol * max(size, seen) + noise:
            return unclear
        gap = np.abs(slope.right - slope.left)
        kinked = gap > 1e-4 * (np.abs(slope.left) + np.abs(slope.right)) + 4 * (slope.spread + slope.noise)
        if kinked.any() and slope.left is not slope.right:
            low, high = float(np.minimum(left, right).sum()), float(np.maximum(left, right).sum())
            error = ratio(max(low - analytic, analytic - high, 0.0), tolerance)
            state = "bad" if error > 1 or self.kinks == "fail" else "kink"
            bend = np.where(kinked, slope.right - slope.left, 0.0)
            return _Verdict(state, error, tolerance, analytic, (low, high), bend)
        numeric = float((left + right).sum() / 2)
        error = ratio(abs(analytic - numeric), tolerance)
        if error <= 1:
            self.worst = max(self.worst, error)
        return _Verdict("ok" if error <= 1 else "bad", error, tolerance, analytic, numeric)

    def jacobian(self) -> GradReport:
        """Every element of the Jacobian: a column by differences of one input element, a row by one vjp."""
        outputs = [out for out in self.outputs if out.dtype.kind == "f"]
        total = sum(out.numel() for out in outputs)
        rows = []
        for j in range(total):
            v = np.zeros(total)
            v[j] = 1.0
            zeros = [None if c is None else c for c in self.cotangents(0)]
            rows.append(self.vjp(self._masked(zeros, v)))
        status, unclear = "passed", ""
        for at in range(sum(self.sizes)):
            direction = self._within([np.ones(shape) for shape in self.shapes], at, at + 1)
            for j in range(total):
                v = np.zeros(total)
                v[j] = 1.0
                verdict = self._judge(direction, v, rows[j])
                if verdict.state == "bad":
                    return self._located(verdict, (at, at + 1), direction, "Jacobian", self._output_index(j))
                if verdict.state == "unclear" or (verdict.state == "kink" and self.kinks == "reject"):
                    status, unclear = "inconclusive", "no derivative could be measured at an element"
        return GradReport(status, self.name, self.worst, self.rtol, unclear)

    def _output_index(self, j: int) -> tuple[int, ...]:
        for out in self.outputs:
            if out.dtype.kind != "f":
                continue
            if j < out.numel():
                return tuple(int(i) for i in np.unravel_index(j, out.shape))
            j -= out.numel()
        raise AssertionError(j)

    def _compare_single(self) -> GradReport | None:
        """The gradients in the dtype of the given inputs against those of float64, never against differences."""
        assert self.single is not None
        rtol, atol = self.single
        cotangents = self.cotangents(0)
        exact = self.vjp(cotangents)
        leaves, outputs = self._record(self.given)
        live = self.live_outputs()
        grads = autograd.grad(
            [outputs[i] for i in live],
            leaves,
            [cotangents[i].to(outputs[i].dtype) for i in live],
            allow_unused=True,
        )
        cotangent = max(magnitude(cotangents[i]._array) for i in live)
        for i, g, e in zip(self.wrt, grads, exact, strict=True):
            if g is None or e.size == 0:
                continue
            typical = float(np.sqrt(np.mean(np.square(e))))
            rounding = FLOOR * float(np.finfo(g.dtype).eps) * cotangent
            allowed = atol + rtol * np.maximum(np.abs(e), typical) + rounding
            excess = np.abs(g._array - e) / np.maximum(allowed, float(np.finfo(g.dtype).tiny))
            worst = np.unravel_index(int(np.argmax(np.where(np.isnan(excess), np.inf, excess))), excess.shape)
            self.worst = max(self.worst, float(excess[worst]))
            if not excess[worst] <= 1:
                return dataclasses.replace(
                    self.failed(f"the {g.dtype} gradient of input {i} differs from the float64 one"),
                    input=i,
                    index=tuple(int(k) for k in worst),
                    analytic=float(g._array[worst]),
                    numeric=float(e[worst]),
                    error=float(excess[worst]),
                    tolerance=float(allowed[worst]),
                )
        return None

    # ---- the report

    def failed(self, reason: str) -> GradReport:
        return GradReport("failed", self.name, reason=reason, configuration=self._configuration())

    def _located(
        self,
        verdict: _Verdict,
        place: Place,
        direction: list[np.ndarray],
        how: str,
        output: tuple[int, ...] | None = None,
    ) -> GradReport:
        lo, hi = place
        flat = _flat(direction)
        which, at = 0, lo
        while at >= self.sizes[which] and which + 1 < len(self.sizes):
            at -= self.sizes[which]
            which += 1
        unit = float(flat[lo]) if hi - lo == 1 else 1.0
        numeric = verdict.numeric
        scaled: float | tuple[float, float]
        if isinstance(numeric, tuple):
            low, high = sorted((numeric[0] / unit, numeric[1] / unit))
            scaled = (low, high)
        else:
            scaled = numeric / unit
        kink = isinstance(numeric, tuple) and self.kinks == "fail" and verdict.error <= 1
        reason = "the point lies on a kink" if kink else f"the gradient of input {self.wrt[which]} is wrong"
        if hi - lo > 1 and isinstance(numeric, tuple) and not kink:
            reason = f"the gradients of {hi - lo} elements at kinks do not fit together, from the one below on"
        elif hi - lo > 1 and not kink:
            reason += f" by a little in each of {hi - lo} elements, from the one named below on"
        return GradReport(
            "failed",
            self.name,
            verdict.error,
            verdict.tolerance / abs(unit),
            reason,
            self.wrt[which],
            tuple(int(i) for i in np.unravel_index(at, self.shapes[which])),
            output,
            verdict.analytic / unit,
            scaled,
            f"{how}, {self._configuration()}",
        )

    def _configuration(self) -> str:
        tolerance = f"rtol {self.rtol:g}, atol {self.atol:g}, seed {self.seed}, degree {self.degree}"
        lines = [tolerance, *(f"input {i}: {_described(x)}" for i, x in enumerate(self.given))]
        lines += [f"output {i}: {_described(out)}" for i, out in enumerate(self.outputs)]
        return "\n".join(lines)


# ---- the arguments


def listed(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, Variable | np.ndarray) else list(inputs)


def _chosen(inputs: list[Any], wrt: int | Sequence[int] | None) -> list[int]:
    if wrt is None:
        chosen = [i for i, x in enumerate(inputs) if isinstance(x, Variable) and x._array.dtype.kind == "f"]
        if not chosen:
            kinds = ", ".join(_described(x) for x in inputs) or "none"
            hint = "; use tg.from_numpy()" if any(isinstance(x, np.ndarray) for x in inputs) else ""
            raise TypeError(f"a gradient check needs at least one floating-point Tensor input, got {kinds}{hint}")
        return chosen
    chosen = [wrt] if isinstance(wrt, int) else list(wrt)
    check_wrt(inputs, chosen)
    return chosen


def check_wrt(inputs: list[Any], chosen: list[int]) -> None:
    for i in chosen:
        if not 0 <= i < len(inputs):
            raise IndexError(f"wrt names input {i} of {len(inputs)}")
        if not isinstance(inputs[i], Variable) or inputs[i]._array.dtype.kind != "f":
            raise TypeError(f"input {i} is {_described(inputs[i])}; only a floating-point Tensor has a gradient")


def _single_tolerance(
    inputs: list[Any], wrt: list[int], rtol: float | None, atol: float | None
) -> tuple[float, float] | None:
    """(rtol, atol) of the comparison with float64 when an input is in a smaller dtype, else None."""
    small = [i for i in wrt if inputs[i].dtype != np.float64]
    if not small:
        return None
    if rtol is None and atol is None:
        raise TypeError(
            f"input {small[0]} is {_described(inputs[small[0]])}: differences need float64 inputs, use "
            ".double(); or pass rtol= (such as 1e-4) to compare the float32 gradient with the float64 one"
        )
    return rtol or 0.0, atol or 0.0


def _double(x: Any) -> Any:
    if isinstance(x, Variable) and x._array.dtype.kind == "f":
        return Tensor(x._array.astype(np.float64))
    return x


def outputs_of(fn: Any, result: Any) -> list[Any]:
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    for out in outputs:
        if not isinstance(out, Variable):
            raise TypeError(f"{name_of(fn)} must return a Tensor or a tuple of Tensors, got {type(out).__name__}")
    return outputs


def _described(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f"ndarray {x.dtype} {x.shape}"
    if not isinstance(x, Variable):
        return repr(x)
    array = x._array
    steps = "" if array.flags.c_contiguous else f", strides {tuple(s // array.itemsize for s in array.strides)}"
    return f"{array.dtype} {array.shape}{steps}"


# ---- numbers


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers moved away from 0, at most 2.5, on a grid of 1/64 so that x + h * u is often exact."""
    normal = rng.standard_normal(shape)
    size = np.minimum(0.25 + np.abs(normal), 2.5)
    return np.asarray(np.copysign(np.round(size * 64) / 64, normal))


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])


def magnitude(x: np.ndarray) -> float:
    """The largest finite absolute value, 0 if there is none."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def ratio(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    return error / tolerance if tolerance > 0 else float("inf")
