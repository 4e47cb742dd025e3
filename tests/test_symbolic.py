"""Every check is green on a true formula, red on a near miss, and refuses what could not have failed."""

import itertools
import math
import signal
import threading
import time
from contextlib import nullcontext, suppress
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb import symbolic as sym
from kexue_nb.ledger import VacuousCheck

x, y = sp.symbols("x y")
a, t = sp.symbols("a t", positive=True)
z = sp.symbols("z", negative=True)
n, k = sp.symbols("n k", integer=True, positive=True)
W = sp.LambertW(a)

# (definition, formula in (sign, constant, exponent), the right constant and exponent)
FORMULAS = {
    "polynomial": ((x + 1) ** 3, lambda s, c, p: x**p + s * c * x**2 + 3 * x + 1, 3, 3),
    "derivative": (sp.Derivative(sp.exp(-(x**2) / 2), x), lambda s, c, p: -s * x**p * sp.exp(-(x**2) / c), 2, 1),
    "integral": (sp.Integral(t * sp.exp(-a * t), (t, 0, sp.oo)), lambda s, c, p: s * c * a**-p, 1, 2),
    "sum": (sp.Sum(k**2, (k, 1, n)), lambda s, c, p: n**p * (n + s) * (2 * n + 1) / c, 6, 1),
    "trigonometric": (sp.cos(2 * x), lambda s, c, p: s * (c * sp.cos(x) ** p - 1), 2, 2),
    "exponential": (sp.sinh(x), lambda s, c, p: (sp.exp(x) - s * sp.exp(-x) ** p) / c, 2, 1),
    "gamma": (sp.gamma(x + 1), lambda s, c, p: s * (x + c) ** p * sp.gamma(x), 0, 1),
    "lambert": (W * sp.exp(W), lambda s, c, p: s * c * a**p, 1, 1),
    "matrix": (
        sp.rot_axis3(x) * sp.rot_axis3(y),
        lambda s, c, p: sp.rot_axis3(s * (c * x + y**p)),
        1,
        1,
    ),
    "list": ([sp.Derivative(x**3, x), sp.Derivative(y, x)], lambda s, c, p: [s * c * x**p, 0], 3, 2),
}
NEAR_MISSES = {"true": (1, 0, 0), "flipped sign": (-1, 0, 0), "changed constant": (1, 1, 0), "changed exponent": (1, 0, 1)}


def variant(formula, constant, exponent, miss):
    sign, up, higher = NEAR_MISSES[miss]
    return formula(sign, constant + up, exponent + higher)


@pytest.mark.parametrize("miss", NEAR_MISSES)
@pytest.mark.parametrize("name", FORMULAS)
def test_identity(name, miss):
    lhs, *rest = FORMULAS[name]
    check = sym.identity(name, lhs, variant(*rest, miss))
    assert check.passed is (miss == "true")
    assert (check.what, check.method, check.scope) == (name, "simplify", "exact")


@pytest.mark.parametrize("miss", NEAR_MISSES)
@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"matrix", "list", "sum"}))
def test_numeric_over_a_box(name, miss):
    lhs, *rest = FORMULAS[name]
    rhs = variant(*rest, miss)
    box = dict.fromkeys(rhs.free_symbols | lhs.free_symbols, (0.5, 2.5))
    check = sym.numeric(name, lhs, rhs, at=box, digits=25, points=4)
    assert check.passed is (miss == "true")
    assert (check.method, check.tolerance) == ("numeric, 25 digits, 4 points", "1e-25 relative")


@pytest.mark.parametrize(
    ("lhs", "formula", "constant", "exponent", "at", "order"),
    [
        (sp.sin(x), lambda s, c, p: x - s * x**p / c, 6, 3, 0, 5),
        (sp.log(1 + x), lambda s, c, p: x - s * x**p / c, 2, 2, 0, 3),
        (sp.Integral(sp.exp(-(t**2)), (t, 0, x)), lambda s, c, p: x - s * x**p / c, 3, 3, 0, 4),
        (sp.sqrt(x), lambda s, c, p: 1 + (x - 1) / 2 - s * (x - 1) ** p / c, 8, 2, 1, 3),
        (sp.cos(x) / x, lambda s, c, p: 1 / x - s * x**p / c, 2, 1, 0, 2),
    ],
)
@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_series(lhs, formula, constant, exponent, at, order, miss):
    check = sym.series("s", lhs, variant(formula, constant, exponent, miss), x, at=at, order=order)
    assert check.passed is (miss == "true")
    assert f"terms below order {order}" in (check.tolerance, check.scope)


@pytest.mark.parametrize("tiny", [sp.Rational(1, 10**15), x / 10**20])
def test_no_difference_is_too_small(tiny):
    assert not sym.identity("i", (x + 1) ** 2 + tiny, x**2 + 2 * x + 1).passed
    assert not sym.solves("s", sp.Eq(y + x, 2 * x), y, x + tiny).passed


@pytest.mark.parametrize(
    ("difference", "found"),
    [
        (x - y, True),
        (sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, False),
        (x / 10**15, False),
        (sp.sin(sp.pi * n * (n + 1) / 2), False),
        (sp.log(z**2) / 2 - sp.log(-z), False),
        (sp.Function("f")(x), False),
    ],
)
def test_cheap_refutation_samples_within_the_assumptions(difference, found):
    assert sym._nonzero_somewhere(difference) is found


def test_series_says_how_far_it_reaches_in_its_scope():
    check = sym.series("s", sp.exp(x), 1 + x, x, order=2)
    assert (check.scope, check.tolerance) == ("terms below order 2", "")


def test_series_looks_no_further_than_its_order():
    assert sym.series("s", sp.exp(x), 1 + x + x**2, x, order=2).passed
    assert not sym.series("s", sp.exp(x), 1 + x + x**2, x, order=3).passed


@pytest.mark.parametrize(
    ("expression", "to", "formula", "constant", "exponent"),
    [
        ((1 + a / x) ** x, sp.oo, lambda s, c, p: sp.exp(s * c * a**p), 1, 1),
        (sp.sin(a * x) / x, 0, lambda s, c, p: s * c * a**p, 1, 1),
        ((1 - sp.cos(3 * x)) / x**2, 0, lambda s, c, p: s * sp.Rational(c, 2) ** p, 9, 1),
        (sp.Derivative(sp.tanh(a * x), x), 0, lambda s, c, p: s * c * a**p, 1, 1),
    ],
)
@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_limit(expression, to, formula, constant, exponent, miss):
    check = sym.limit("l", expression, x, to, variant(formula, constant, exponent, miss))
    assert check.passed is (miss == "true")
    assert check.method == "limit"


@pytest.mark.parametrize(("side", "value"), [("+", sp.oo), ("-", -sp.oo)])
def test_limit_from_one_side(side, value):
    assert sym.limit("l", 1 / x, x, 0, value, side=side).passed
    assert not sym.limit("l", 1 / x, x, 0, -value, side=side).passed
    assert not sym.limit("l", 1 / x, x, 0, 1, side=side).passed


@pytest.mark.parametrize(
    ("equation", "formula", "constant", "exponent"),
    [
        (sp.Eq(x**2, 4 * a**2), lambda s, c, p: s * c * a**p + (1 - s), 2, 1),
        (sp.Eq(x * sp.exp(x), a), lambda s, c, p: s * c * W**p, 1, 1),
        (sp.Derivative(x**2 - 6 * a * x, x), lambda s, c, p: s * c * a**p, 3, 1),
        (sp.exp(2 * x) - a, lambda s, c, p: s * sp.log(a) ** p / c, 2, 1),
    ],
)
@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_solves(equation, formula, constant, exponent, miss):
    check = sym.solves("s", equation, x, variant(formula, constant, exponent, miss))
    assert check.passed is (miss == "true")
    assert check.method == "solve and substitute"
    assert check.expected.startswith("x = ")
    assert (check.measured == "residual 0") is check.passed


def test_lambert_step_is_what_decides():
    power = sp.exp(2 * W + y)
    assert sp.simplify(sym._use_lambert(power - sp.exp(y) * a**2 / W**2)) == 0
    assert sp.simplify(sym._use_lambert(power - sp.exp(y) * a**2 / W)) != 0
    assert sym.solves("stationary point", sp.Eq((x - 1) * sp.exp(x - 1), a), x, 1 + W).passed
    assert not sym.solves("stationary point", sp.Eq((x - 1) * sp.exp(x - 1), a), x, 1 - W).passed


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        (lambda m: Fraction(m * (m + 1), 2), True),
        (lambda m: sp.Integer(m) * (m + 1) / 2, True),
        (lambda m: m * (m - 1) // 2, False),
        (lambda m: m * (m + 1) // 2 + (m == 9), False),
    ],
)
def test_enumeration(value, passed):
    check = sym.enumeration("triangle", range(1, 10), value, lambda m: sum(range(m + 1)))
    assert check.passed is passed
    assert check.scope == ("9 cases" if passed or value(1) == 1 else "1 cases")


def test_enumeration_names_the_case():
    check = sym.enumeration("square", [1, 2, 3], lambda m: m**2, lambda m: m**2 if m < 3 else 10)
    assert (check.expected, check.measured) == ("10 at 3", "9")


@pytest.mark.parametrize("shift", [0, mpmath.mpf(10) ** -14, mpmath.mpf(10) ** -16])
def test_numeric_with_callables(shift):
    check = sym.numeric("sine", mpmath.sin, lambda z: mpmath.cos(mpmath.pi / 2 - z) * (1 + shift), at=[(1,), (2,)], digits=15)
    assert check.passed is (shift < 1e-15)
    assert check.method == "numeric, 15 digits, 2 points"


@pytest.mark.parametrize(
    ("lhs", "rhs", "passed"),
    [
        (sp.zeta(2), sp.pi**2 / 6, True),
        (sp.Sum(1 / k**2, (k, 1, sp.oo)), -(sp.pi**2) / 6, False),
        (sp.Integral(sp.exp(-(x**2)), (x, -sp.oo, sp.oo)), sp.sqrt(sp.pi), True),
        (sp.sqrt(2), sp.Float("1.41421356237", 30), False),
        (sp.Rational(1, 3), mpmath.mpf("0.3333"), False),
        (3, sp.Integer(4), False),
    ],
)
def test_numeric_with_constants(lhs, rhs, passed):
    check = sym.numeric("c", lhs, rhs, digits=12)
    assert check.passed is passed
    assert check.method == "numeric, 12 digits, 1 point"


def test_numeric_with_one_side_zero_misses():
    for lhs, rhs in ((0, 1), (1, 0)):
        assert not sym.numeric("c", sp.Integer(lhs), sp.Integer(rhs), digits=12).passed


@pytest.mark.parametrize("wrong", range(3))
def test_numeric_is_decided_by_its_worst_point(wrong):
    check = sym.numeric("c", lambda z: z**2 + (z == wrong + 1), lambda z: z * z, at=[(1,), (2,), (3,)])
    assert not check.passed


def test_numeric_repeats_itself():
    def run(seed):
        return sym.numeric("c", (x + 1) ** 2, x**2 + 2 * x + 1, at={x: (0, 1)}, points=3, seed=seed)

    assert run(1) == run(1) != run(2)


@given(st.floats(-10, 10), st.floats(1e-3, 1), st.floats(-10, 10), st.floats(1, 5))
def test_monte_carlo_is_a_distance_in_standard_errors(estimate, stderr, expected, sigmas):
    check = sym.monte_carlo("m", estimate, stderr, expected, sigmas=sigmas, draws=9, effect=100)
    assert check.passed is (abs(estimate - expected) <= sigmas * stderr)
    assert (check.method, check.scope) == (f"monte carlo, {sigmas:g} sigma", "9 draws")


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.one_of(st.none(), st.floats(1e-6, 10)))
def test_monte_carlo_refuses_an_error_as_wide_as_the_effect(stderr, expected, effect):
    size = expected if effect is None else effect
    if 4 * stderr < size:
        assert sym.monte_carlo("m", expected, stderr, expected, draws=9, effect=effect).passed
    else:
        with pytest.raises(VacuousCheck, match=r"4 standard errors are .*, the effect is"):
            sym.monte_carlo("m", expected, stderr, expected, draws=9, effect=effect)


def same(z):
    return z


REFUSALS = {
    "identity, one object": (lambda: sym.identity("w", x, x), VacuousCheck, "the same expression"),
    "identity, equal lists": (lambda: sym.identity("w", [x, y], [x, y]), VacuousCheck, "the same expression"),
    "identity, nothing": (lambda: sym.identity("w", [], []), VacuousCheck, "the same expression"),
    "identity, numbers": (lambda: sym.identity("w", sp.sqrt(8), 2 * sp.sqrt(3)), VacuousCheck, "no free symbol"),
    "identity, lengths": (lambda: sym.identity("w", [x, y], [x]), ValueError, "2 and 1 entries"),
    "series, one object": (lambda: sym.series("w", x, x, x, order=2), VacuousCheck, "the same expression"),
    "series, zeros": (lambda: sym.series("w", x**3, sp.sin(x) ** 4, x, order=3), VacuousCheck, "vanish below order 3"),
    "series, order": (lambda: sym.series("w", x, sp.sin(x), x, order=0), ValueError, "order=0"),
    "limit": (lambda: sym.limit("w", y, x, 0, y), VacuousCheck, "x does not occur"),
    "solves, absent": (lambda: sym.solves("w", sp.Eq(y, a), x, a), VacuousCheck, "x does not occur in the equation"),
    "solves, truth": (lambda: sym.solves("w", sp.Eq(x, x), x, a), VacuousCheck, "x does not occur in the equation"),
    "solves, cancels": (lambda: sym.solves("w", sp.Eq(sp.Derivative(x, x), 1), x, a), VacuousCheck, "x does not occur in the equation"),
    "enumeration, none": (lambda: sym.enumeration("w", [], same, same), VacuousCheck, "0 cases with 0 distinct"),
    "enumeration, one": (lambda: sym.enumeration("w", [1], same, same), VacuousCheck, "1 cases with 1 distinct"),
    "enumeration, alike": (lambda: sym.enumeration("w", [1, 2], lambda m: 0, lambda m: 0), VacuousCheck, "2 cases with 1 distinct"),
    "enumeration, float": (lambda: sym.enumeration("w", [1.5, 2], same, same), TypeError, "case 1.5 gave a float"),
    "enumeration, float wanted": (lambda: sym.enumeration("w", [1, 2], same, float), TypeError, "case 1 gave a float"),
    "numeric, digits": (lambda: sym.numeric("w", sp.pi, sp.E, digits=2), VacuousCheck, "2 digits prove nothing"),
    "numeric, one object": (lambda: sym.numeric("w", mpmath.sin, mpmath.sin, at=[(1,)]), VacuousCheck, "the same object"),
    "numeric, no points": (lambda: sym.numeric("w", mpmath.sin, mpmath.cos, at=[]), VacuousCheck, "no points"),
    "numeric, literals": (lambda: sym.numeric("w", 0.1, 0.1 + 0), VacuousCheck, "equal literals|same object"),
    "numeric, no symbol": (lambda: sym.numeric("w", sp.pi, sp.E, at={x: (0, 1)}), VacuousCheck, "neither side has a free symbol"),
    "numeric, no range": (lambda: sym.numeric("w", x, y, at={x: (0, 1)}), ValueError, "no range for y"),
    "numeric, tiny": (lambda: sym.numeric("w", x * 1e-30, x * 2e-30, at={x: (1, 2)}), VacuousCheck, "below the tolerance 1e-20"),
    "numeric, constant": (
        lambda: sym.numeric("w", sp.sin(x) ** 2 + sp.cos(x) ** 2, sp.Integer(1), at={x: (0, 1)}),
        VacuousCheck,
        "same at every point",
    ),
    "numeric, point box": (lambda: sym.numeric("w", x + x**2, x * (1 + x), at={x: (1, 1)}), VacuousCheck, "same at every point"),
    "monte carlo, zero": (lambda: sym.monte_carlo("w", 0, 0.1, 0, draws=9), VacuousCheck, "the effect is 0"),
    "monte carlo, sure": (lambda: sym.monte_carlo("w", 1, 0, 1, draws=9), VacuousCheck, "standard errors are 0"),
    "monte carlo, negative": (lambda: sym.monte_carlo("w", 1, -0.1, 1, draws=9), VacuousCheck, "standard errors are -0.4"),
    "monte carlo, sigmas": (lambda: sym.monte_carlo("w", 1, 0.1, 1, draws=9, sigmas=0), VacuousCheck, "0 standard errors"),
    "monte carlo, nan": (lambda: sym.monte_carlo("w", math.nan, 0.1, 1, draws=9), ValueError, "estimate is nan"),
    "monte carlo, wide": (lambda: sym.monte_carlo("w", 1, math.inf, 1, draws=9), ValueError, "stderr is inf"),
    "monte carlo, far": (lambda: sym.monte_carlo("w", 1, 0.1, -math.inf, draws=9), ValueError, "expected is -inf"),
    "monte carlo, effect": (lambda: sym.monte_carlo("w", 1, 0.1, 1, draws=9, effect=math.nan), VacuousCheck, "the effect is nan"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    call, error, message = REFUSALS[name]
    with pytest.raises(error, match=f"w: .*({message})"):
        call()


class Slow(sp.Function):
    """A function whose evaluation takes ``pause`` seconds of pure Python, and then gets nowhere."""

    pause = 3.0

    def doit(self, **hints):
        start = time.process_time()
        while time.process_time() - start < self.pause:
            pass
        return self


SLOW = {
    "identity": lambda s: sym.identity("w", Slow(x), y, seconds=s),
    "series": lambda s: sym.series("w", Slow(x), x, x, order=2, seconds=s),
    "limit": lambda s: sym.limit("w", Slow(x), x, 0, 1, seconds=s),
    "enumeration": lambda s: sym.enumeration("w", itertools.count(), same, same, seconds=s),
    "numeric": lambda s: sym.numeric("w", Slow(x), x, at={x: (0, 1)}, seconds=s),
    "numeric with callables": lambda s: sym.numeric("w", lambda z: sum(z for _ in itertools.count()), mpmath.sin, at=[(1,)], seconds=s),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_long_check_is_cut_off(name):
    handler, start = signal.getsignal(signal.SIGPROF), time.process_time()
    with pytest.raises(sym.CheckTimeout, match=r"w: cut off after 0.3 s"):
        SLOW[name](0.3)
    assert time.process_time() - start < 2
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert signal.getsignal(signal.SIGPROF) is handler


def test_solves_is_cut_off_too(monkeypatch):
    monkeypatch.setattr(Slow, "pause", 1.0)
    start = time.process_time()
    with pytest.raises(sym.CheckTimeout, match=r"w: cut off after 0.2 s"):
        sym.solves("w", sp.Eq(Slow(x), y), x, y, seconds=0.2)
    assert time.process_time() - start < 0.9


def test_a_deadline_that_was_swallowed_comes_again():
    def swallowing(case):
        start = time.process_time()
        for guard in (suppress(Exception), nullcontext()):
            with guard:
                while time.process_time() - start < 0.8:
                    pass
        return case

    with pytest.raises(sym.CheckTimeout):
        sym.enumeration("w", [1, 2], swallowing, same, seconds=0.2)


def test_a_deadline_leaves_nothing_behind_and_threads_run_on():
    handler = signal.getsignal(signal.SIGPROF)
    assert sym.identity("w", (x + 1) ** 2, x**2 + 2 * x + 1, seconds=5).passed
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert signal.getsignal(signal.SIGPROF) is handler
    found = []
    thread = threading.Thread(target=lambda: found.append(sym.identity("w", (x + 1) ** 2, x**2 + 2 * x + 1)))
    thread.start()
    thread.join()
    assert found[0].passed


@pytest.mark.parametrize("value", [mpmath.nan, mpmath.inf])
def test_numeric_is_not_green_on_what_is_no_number(value):
    for sides in ((lambda z: value, mpmath.sin), (mpmath.sin, lambda z: value if z == 1 else mpmath.cos(z))):
        try:
            passed = sym.numeric("w", *sides, at=[(1,), (2,)]).passed
        except ValueError:
            passed = False
        assert not passed


def test_numeric_needs_points():
    with pytest.raises(ValueError, match=r"w: .*0"):
        sym.numeric("w", x + x**2, x * (1 + x), at={x: (0, 1)}, points=0)


@pytest.mark.parametrize("inexact", [np.float32, sp.Float, complex, mpmath.mpf])
def test_enumeration_is_exact(inexact):
    with pytest.raises(TypeError, match="case 1 gave"):
        sym.enumeration("w", [1, 2], inexact, inexact)


def test_identity_compares_shapes():
    with pytest.raises(ValueError, match="w: "):
        sym.identity("w", sp.Matrix([[(x + 1) ** 2, x]]), sp.Matrix([x**2 + 2 * x + 1, x]))


def test_solves_refuses_an_equation_that_anything_solves():
    with pytest.raises(VacuousCheck, match="w: "):
        sym.solves("w", sp.Eq(sp.sin(x) ** 2 + sp.cos(x) ** 2, 1), x, sp.Integer(7))


def test_an_inner_deadline_keeps_the_outer_one():
    def nested():
        start = time.process_time()
        with sym.deadline(0.4, "outer"):
            with sym.deadline(0.2, "inner"):
                pass
            while time.process_time() - start < 1.2:
                pass

    with pytest.raises(sym.CheckTimeout, match="outer"):
        nested()


def test_points_are_drawn_between_the_ends_of_the_range():
    assert sym.numeric("w", sp.Abs(x - 5), x - 5, at={x: (5, 6)}).passed
    assert not sym.numeric("w", sp.Abs(x - 5), x - 5, at={x: (4, 6)}, points=20).passed
