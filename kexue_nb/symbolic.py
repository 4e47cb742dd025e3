"""Checks of formulas with SymPy and mpmath, each named by its strength.

``identity``     exact: both sides agree after simplification
``series``       exact up to the stated order
``limit``        exact limit
``solves``       exact: the solution, substituted, satisfies the equation
``enumeration``  exact arithmetic over all listed cases
``numeric``      to so many digits at so many points: evidence, never a proof
``monte_carlo``  within so many standard errors: evidence, never a proof

Each returns a :class:`kexue_nb.ledger.Check` and refuses (VacuousCheck) what could not have failed. Write the side that is
the definition unevaluated (``sp.Derivative``, ``sp.Integral``, ``sp.Sum``, ``sp.Limit``): the check evaluates it.
A check that takes longer than its ``seconds`` raises CheckTimeout.
"""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction

import mpmath
import sympy as sp

from kexue_nb.ledger import Check, VacuousCheck

Side = sp.Expr | sp.MatrixBase
_UNEVALUATED = (sp.Derivative, sp.Integral, sp.Sum, sp.Product, sp.Limit)


class CheckTimeout(TimeoutError):
    """A check ran past its time limit."""


@contextmanager
def deadline(seconds: float, what: str):
    """Stop the body with CheckTimeout after ``seconds`` of processor time, so that a busy machine fails no check.

    On POSIX, in the main thread; elsewhere the body just runs.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum, frame):
        raise CheckTimeout(f"{what}: cut off after {seconds:g} s; give simpler sides, or a larger seconds=")

    previous = signal.signal(signal.SIGPROF, stop)
    # The signal comes again: an except clause inside SymPy may swallow the first.
    outer, _ = signal.setitimer(signal.ITIMER_PROF, seconds, 0.25)
    start = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        if outer:
            signal.setitimer(signal.ITIMER_PROF, max(1e-3, outer - (time.process_time() - start)), 0.25)


def _entries(side: Side | Iterable) -> list[sp.Expr]:
    if isinstance(side, sp.MatrixBase):
        return list(side)
    if isinstance(side, (list, tuple)):
        return [sp.sympify(x) for x in side]
    return [sp.sympify(side)]


def _pairs(what: str, lhs: Side, rhs: Side) -> list[tuple[sp.Expr, sp.Expr]]:
    if isinstance(lhs, sp.MatrixBase) and isinstance(rhs, sp.MatrixBase) and lhs.shape != rhs.shape:
        raise ValueError(f"{what}: the sides have the shapes {lhs.shape} and {rhs.shape}; they must match")
    left, right = _entries(lhs), _entries(rhs)
    if len(left) != len(right):
        raise ValueError(f"{what}: the sides have {len(left)} and {len(right)} entries; they must match")
    if lhs is rhs or all(a == b for a, b in zip(left, right, strict=True)):
        raise VacuousCheck(f"{what}: both sides are the same expression; start one side from the definition, unevaluated")
    if not any(x.free_symbols or x.has(*_UNEVALUATED) for x in left + right):
        raise VacuousCheck(f"{what}: no free symbol and nothing to evaluate; use enumeration() or numeric() for plain numbers")
    return list(zip(left, right, strict=True))


def _text(expression, limit: int = 90) -> str:
    text = str(expression)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _nonzero_somewhere(difference: sp.Expr) -> bool:
    """Cheap refutation: a finite value clearly off zero at one of three fixed points."""
    symbols = sorted(difference.free_symbols, key=str)
    for shift in (sp.Rational(1, 7), sp.Rational(3, 11), sp.Rational(5, 13)):
        point = {x: _sample(x, shift + sp.Rational(i, 17)) for i, x in enumerate(symbols)}
        value = difference.subs(point).evalf(30)
        if value.is_number and value.is_finite and abs(value) > 1e-12:
            return True
    return False


def _sample(symbol: sp.Symbol, value: sp.Rational):
    if symbol.is_integer:
        return sp.Integer(2 + int(17 * value) % 5)
    return -value if symbol.is_negative else value


def identity(what: str, lhs: Side, rhs: Side, *, seconds: float = 20) -> Check:
    """Exact equality: ``lhs - rhs`` simplifies to zero (entry by entry for matrices and lists)."""
    pairs = _pairs(what, lhs, rhs)
    with deadline(seconds, what):
        for left, right in pairs:
            difference = (left - right).doit()
            zero = difference == 0 or (not _nonzero_somewhere(difference) and _vanishes(difference))
            if not zero:
                return Check(what, "simplify", False, _text(right), _text(sp.simplify(left.doit())))
    shown = _text(pairs[0][1]) if len(pairs) == 1 else f"{len(pairs)} entries"
    return Check(what, "simplify", True, shown, "difference simplifies to 0")


def _vanishes(difference: sp.Expr) -> bool:
    steps = (sp.expand, sp.simplify, sp.expand_func, lambda e: e.rewrite(sp.exp), _use_lambert)
    return any(result == 0 or sp.simplify(result) == 0 for result in (step(difference) for step in steps))


def _use_lambert(expression: sp.Expr) -> sp.Expr:
    """W(z) exp(W(z)) = z, which SymPy does not apply by itself."""
    swaps = {sp.exp(w): w.args[0] / w for w in expression.atoms(sp.LambertW)}
    return sp.expand(expression, power_exp=True).subs(swaps)


def series(what: str, lhs: sp.Expr, rhs: sp.Expr, x: sp.Symbol, *, order: int, at=0, seconds: float = 20) -> Check:
    """The Taylor expansions of both sides in ``x`` around ``at`` agree below ``(x - at)**order``."""
    ((left, right),) = _pairs(what, lhs, rhs)
    if order < 1:
        raise ValueError(f"{what}: order={order}; give at least 1")
    with deadline(seconds, what):
        a, b = (sp.series(side.doit(), x, at, order).removeO() for side in (left, right))
        if a == 0 and b == 0:
            raise VacuousCheck(f"{what}: both sides vanish below order {order}; raise the order")
        passed = sp.simplify(a - b) == 0
    return Check(what, "series", passed, _text(b), _text(a), scope=f"terms below order {order}")


def limit(what: str, expression: sp.Expr, x: sp.Symbol, to, expected, *, side: str = "+", seconds: float = 20) -> Check:
    """``expression`` tends to ``expected`` as ``x`` goes to ``to`` (from ``side``, where that matters)."""
    expression, expected = sp.sympify(expression), sp.sympify(expected)
    if x not in expression.free_symbols:
        raise VacuousCheck(f"{what}: {x} does not occur in the expression, so its limit is the expression itself")
    with deadline(seconds, what):
        value = sp.limit(expression.doit(), x, to, side)
        passed = value == expected or sp.simplify(value - expected) == 0
    return Check(what, "limit", bool(passed), _text(expected), _text(value))


def solves(what: str, equation: sp.Eq | sp.Expr, unknown: sp.Symbol, solution: sp.Expr, *, seconds: float = 20) -> Check:
    """``solution``, put in for ``unknown``, satisfies ``equation`` (an Eq, or an expression that must vanish)."""
    residual = equation.lhs - equation.rhs if isinstance(equation, sp.Eq) else sp.sympify(equation)
    with deadline(seconds, what):
        if unknown not in residual.doit().free_symbols:
            raise VacuousCheck(f"{what}: {unknown} does not occur in the equation")
        if sp.simplify(residual.doit()) == 0:
            raise VacuousCheck(f"{what}: the equation holds for every {unknown}")
        rest = residual.doit().subs(unknown, solution)
        passed = rest == 0 or (not _nonzero_somewhere(rest) and _vanishes(rest))
    return Check(
        what, "solve and substitute", passed, f"{unknown} = {_text(solution)}", "residual 0" if passed else f"residual {_text(rest)}"
    )


def enumeration(what: str, cases: Iterable, value: Callable, expected: Callable, *, seconds: float = 20) -> Check:
    """``value(case) == expected(case)`` in exact arithmetic (int, Fraction, SymPy) for every case."""
    seen, count = set(), 0
    with deadline(seconds, what):
        for case in cases:
            got, want = value(case), expected(case)
            if _inexact(got) or _inexact(want):
                raise TypeError(f"{what}: case {case!r} gave a floating-point number; enumeration is exact, use numeric()")
            count += 1
            seen.add(want)
            if got != want:
                return Check(what, "enumeration", False, f"{_text(want)} at {case!r}", _text(got), scope=f"{count} cases")
    if count < 2 or len(seen) < 2:
        raise VacuousCheck(f"{what}: {count} cases with {len(seen)} distinct expected values; vary the cases")
    return Check(what, "enumeration", True, "equality in every case", f"{count} of {count} equal", scope=f"{count} cases")


def _inexact(value) -> bool:
    if isinstance(value, sp.Basic):
        return value.has(sp.Float)
    return not isinstance(value, (int, Fraction, sp.MatrixBase, str, tuple))


def numeric(
    what: str,
    lhs: Side | Callable,
    rhs: Side | Callable,
    *,
    at: Mapping[sp.Symbol, tuple[float, float]] | Sequence[tuple] | None = None,
    digits: int = 20,
    points: int = 20,
    seed: int = 0,
    seconds: float = 20,
) -> Check:
    """Both sides agree to ``digits`` significant digits.

    ``lhs`` and ``rhs`` are SymPy expressions with ``at`` a box ``{symbol: (low, high)}``, from which ``points`` rational points are
    drawn with ``seed``; or Python functions with ``at`` the list of their argument tuples; or, with ``at`` None, two constants.
    All arithmetic is mpmath's with 15 guard digits. Refuses sides that do not change over the points, and values below the tolerance.
    """
    if points < 1:
        raise ValueError(f"{what}: points={points}; give at least 1")
    if digits < 3:
        raise VacuousCheck(f"{what}: {digits} digits prove nothing; ask for at least 3")
    with deadline(seconds, what), mpmath.workdps(digits + 15):
        rows = _evaluate(what, lhs, rhs, at, digits, points, seed)
        if len(rows) > 1 and len({mpmath.nstr(b, digits) for _, b in rows}) == 1:
            raise VacuousCheck(f"{what}: the right side is the same at every point, so the free symbols are not exercised")
        worst = mpmath.mpf(0)
        for a, b in rows:
            if not (mpmath.isfinite(a) and mpmath.isfinite(b)):
                raise ValueError(f"{what}: a side is {a if not mpmath.isfinite(a) else b} at a point; a check needs finite numbers")
            scale = max(abs(a), abs(b))
            if scale < mpmath.mpf(10) ** -digits:
                raise VacuousCheck(f"{what}: both sides are below the tolerance 1e-{digits} at a point; choose other points")
            worst = max(worst, abs(a - b) / scale)
        passed = worst <= mpmath.mpf(10) ** -digits
        shown = mpmath.nstr(rows[-1][0], min(digits, 15))
        wanted = mpmath.nstr(rows[-1][1], min(digits, 15))
    plural = "s" if len(rows) > 1 else ""
    return Check(
        what, f"numeric, {digits} digits, {len(rows)} point{plural}", bool(passed), wanted, shown, f"1e-{digits} relative", "numeric"
    )


def _evaluate(what, lhs, rhs, at, digits, points, seed) -> list[tuple]:
    if lhs is rhs:
        raise VacuousCheck(f"{what}: both sides are the same object")
    if callable(lhs) and callable(rhs) and not isinstance(lhs, sp.Basic):
        if not at:
            raise VacuousCheck(f"{what}: no points; give at= a list of argument tuples")
        return [(mpmath.mpmathify(lhs(*p)), mpmath.mpmathify(rhs(*p))) for p in at]
    if at is None:
        if not isinstance(lhs, sp.Basic) and lhs == rhs:
            raise VacuousCheck(f"{what}: two equal literals")
        return [(_value(lhs, {}, digits), _value(rhs, {}, digits))]
    free = set().union(*(sp.sympify(side).free_symbols for side in (lhs, rhs)))
    if not free:
        raise VacuousCheck(f"{what}: neither side has a free symbol; leave at= out for a constant")
    if free - set(at):
        raise ValueError(f"{what}: no range for {', '.join(sorted(map(str, free - set(at))))} in at=")
    draw = random.Random(seed)
    box = {x: (sp.Rational(str(low)), sp.Rational(str(high))) for x, (low, high) in at.items()}
    rows = []
    for _ in range(points):
        point = {x: low + (high - low) * sp.Rational(draw.randrange(1, 9973), 9973) for x, (low, high) in box.items()}
        rows.append((_value(lhs, point, digits), _value(rhs, point, digits)))
    return rows


def _value(side, point: dict, digits: int):
    if isinstance(side, sp.Basic):
        return mpmath.mpmathify(sp.N(side.subs(point).doit(), digits + 15))
    return mpmath.mpmathify(side)


def monte_carlo(
    what: str,
    estimate: float,
    stderr: float,
    expected: float,
    *,
    sigmas: float = 4,
    draws: int,
    effect: float | None = None,
) -> Check:
    """``|estimate - expected| <= sigmas * stderr``.

    ``effect`` (default ``|expected|``) is the size that the check must be able to see: refused where ``sigmas * stderr`` reaches it.
    """
    for name, value in {"estimate": estimate, "stderr": stderr, "expected": expected}.items():
        if not math.isfinite(value):
            raise ValueError(f"{what}: {name} is {value}; give finite numbers")
    effect = abs(expected) if effect is None else effect
    if not 0 < sigmas * stderr < effect:
        raise VacuousCheck(
            f"{what}: {sigmas:g} standard errors are {sigmas * stderr:.3g}, the effect is {effect:.3g}; take more draws, "
            "or say in effect= what difference the check must see"
        )
    passed = abs(estimate - expected) <= sigmas * stderr
    return Check(
        what,
        f"monte carlo, {sigmas:g} sigma",
        bool(passed),
        f"≈{expected:.5g}",
        f"≈{estimate:.5g} ± ≈{stderr:.2g}",
        f"{sigmas:g} standard errors",
        f"{draws} draws",
    )
