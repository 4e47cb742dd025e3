"""The smallest a + b + c with N = ab + c: against the definition, against slow exact loops, and its errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kexue_nb import numbers
from kexue_nb.numbers import Decomposition, least_remainders, min_sum_decomposition


def by_definition(N):
    """All (a, b, c) with the smallest sum, a <= b, by trying every a and b."""
    triples = [(a, b, N - a * b) for a in range(N + 2) for b in range(a, N + 2) if a * b <= N]
    least = min(map(sum, triples))
    return [t for t in triples if sum(t) == least]


def by_products(X):
    """The smallest sum for every N up to X: N plus a running minimum of a + b - ab over all products ab."""
    gain = np.zeros(X + 1, dtype=np.int64)  # 0 is what a = b = 0 gives
    for a in range(1, math.isqrt(X) + 1):
        b = np.arange(a, X // a + 1)
        gain[a * a :: a] = np.minimum(gain[a * a :: a], a + b - a * b)
    return np.arange(X + 1) + np.minimum.accumulate(gain)


def by_scan(N):
    """All optimal a >= 1 for N < 2^62, by trying every a up to sqrt(N) with the largest b that fits."""
    a = np.arange(1, math.isqrt(N) + 1)
    total = N - (a - 1) * (N // a - 1) + 1
    return int(total.min()), a[total == total.min()].tolist()


def by_loop(N):
    """The smallest sum, one p = a + b after the other, in exact integers."""
    p = math.isqrt(4 * N)
    best = min(N, p + N - (p // 2) * (p - p // 2))
    while (p := p + 1) < best:
        a = (p - 1 - math.isqrt(p * p - 4 * N - 1)) // 2
        best = min(best, p + N - a * (p - a))
    return best


def certified(N):
    d = min_sum_decomposition(N)
    assert (d.product_sum, d.a * d.b + d.c) == (N, N)
    assert 0 <= d.a <= d.b
    assert d.c >= 0
    assert d.total == d.a + d.b + d.c
    assert {type(x) for x in (d.a, d.b, d.c)} == {int}
    return d


def allowance(N, total):
    """Whether total <= 2 sqrt(N) + 2 + sqrt(1 + 4 sqrt(N)), in integers: a lower bound for the roots to 30 digits will do."""
    scale = 10**30
    root = math.isqrt(N * scale**2)
    return total * scale <= 2 * root + 2 * scale + math.isqrt(scale**2 + 4 * root * scale)


def test_every_number_up_to_100_by_definition_and_all_optima():
    for N in range(101):
        optima = min_sum_decomposition(N, all_optima=True)
        assert sorted((d.a, d.b, d.c) for d in optima) == sorted(by_definition(N))
        assert [d.a + d.b for d in optima] == sorted({d.a + d.b for d in optima})
        assert certified(N) == optima[0]


def test_every_number_up_to_30000():
    assert [certified(N).total for N in range(30001)] == by_products(30000).tolist()


FAMILIES = [m * m * k + d for m in (10, 11, 1000, 10**5) for k in (1, 2) for d in (-1, 0, 1, 2)]
FAMILIES += [m * m + m + d for m in (10, 11, 1000, 10**5) for d in (-1, 0, 1)]
RECORDS = [6, 23, 53, 95, 175, 431, 539, 659, 1169, 1343, 2621, 29783, 89743, 225719, 278298, 956649, 6893369]


TIES = [221448662445, 793654068315]  # with several optima in one block


@pytest.mark.parametrize("N", FAMILIES + RECORDS + TIES)
def test_adversarial_numbers_against_the_scan_over_a(N):
    total, a = by_scan(N)
    assert certified(N).total == min(total, N)
    if total < N:
        assert [d.a for d in min_sum_decomposition(N, all_optima=True)] == a[::-1]


@given(st.integers(0, 10**11))
@example(130)
def test_random_numbers_against_the_scan_over_a(N):
    total, a = by_scan(N) if N else (0, [])
    optima = min_sum_decomposition(N, all_optima=True)
    assert optima[0].total == min(total, N)
    assert [d.a for d in optima if d.a] == (a[::-1] if total <= N else [])


@given(st.integers(10**15, 10**27) | st.integers(10**6, 10**13).map(lambda m: 2 * m * m))
def test_the_blocks_against_the_loop_and_the_bound(N):
    d = certified(N)
    assert d.total == by_loop(N)
    assert d.total**2 >= 4 * N
    assert allowance(N, d.total)


@given(st.integers(100, 10**52), st.integers(2, 10**9), st.integers(1, 40))
@example(10**50, 10**5, 40)
@example(2**190, 7, 1)
@example(2**190, 8, 1)  # p² - 4N just above 2^100
def test_least_remainders_against_exact_integers(N, offset, count):
    first = math.isqrt(4 * N) + offset
    if (first + count - 1) ** 2 - 4 * N >= 2**100:
        with pytest.raises(ValueError, match=r"p² - 4N < 2\^100"):
            least_remainders(N, first, count)
        return
    wanted = []
    for p in range(first, first + count):
        q = math.isqrt(p * p - 4 * N - 1) + 1
        q += (p - q) % 2
        wanted.append((q * q - p * p + 4 * N) // 4)
    assert least_remainders(N, first, count).tolist() == wanted


@given(st.integers(2**97, 2**100 - 1).flatmap(lambda D: st.tuples(st.just(D), st.integers(2, 2**20))))
def test_least_remainders_at_the_edge_of_float64(case):
    D, offset = case
    least = D // (2 * offset)  # so that p² - 4N is about D at this offset
    N = least * least // 4 + 1
    first = math.isqrt(4 * N) + offset
    if first * first - 4 * N < 2**100:
        q = math.isqrt(first * first - 4 * N - 1) + 1
        q += (first - q) % 2
        assert least_remainders(N, first, 1).tolist() == [(q * q - first * first + 4 * N) // 4]


def test_least_remainders_at_exact_squares():
    """Where p² - 4N is a square or one beside it, the rounding of the root decides, and the integers must put it right."""
    for q in (2**49 - 1, 2**49 + 2**20, 2**50 - 2**23 + 3, 2**40 + 1):
        for d in (0, 4, -4):
            for offset in range(160, 500):
                p = (q * q - offset * offset) // (2 * offset) + offset
                p += (p - q) % 2
                N = (p * p - q * q + d) // 4  # so p² - 4N = q² - d
                root = q if d >= 0 else q + 2
                assert p * p - 4 * N == q * q - d
                assert least_remainders(N, p, 1).tolist() == [(root * root - q * q + d) // 4]


@pytest.mark.parametrize("first", [20, 21])
def test_least_remainders_begins_above_2_sqrt_n(first):
    with pytest.raises(ValueError, match="22"):
        least_remainders(100, first, 5)
    assert least_remainders(100, 22, 2).tolist() == [4, 10]
    with pytest.raises(ValueError, match="count=0"):
        least_remainders(100, 22, 0)


def test_the_work_is_bounded(monkeypatch):
    """At most S - isqrt(4N) + 1 values of p are tried, with and without all optima."""
    tried = 0
    one, block = numbers._best_total, numbers.least_remainders
    monkeypatch.setattr(numbers, "_best_total", lambda N, p: count(1) or one(N, p))
    monkeypatch.setattr(numbers, "least_remainders", lambda N, p, n: count(n) or block(N, p, n))

    def count(n):
        nonlocal tried
        tried += n

    for N in [*range(3000), *FAMILIES, *RECORDS, 10**18 + 9, 3**40, 7**30]:
        tried = 0
        total = min_sum_decomposition(N, all_optima=False).total
        min_sum_decomposition(N, all_optima=True)
        assert tried <= 2 * max(0, total - math.isqrt(4 * N) + 1)
        assert allowance(N, total)


def test_huge_numbers_that_end_at_once():
    m = 10**400 + 7
    assert min_sum_decomposition(m * m) == Decomposition(m, m, 0)
    assert min_sum_decomposition(m * m + m) == Decomposition(m, m + 1, 0)
    assert min_sum_decomposition(m * m - 1) == Decomposition(m - 1, m + 1, 0)
    assert min_sum_decomposition(m * m + 1) == Decomposition(m, m, 1)
    u, v = 10**15 + 37, 10**15 + 91
    assert min_sum_decomposition(u * v) == Decomposition(u, v, 0)


def test_beyond_float64_the_exact_loop_goes_on():
    """Some hundred steps at 10^100 and 10^700, where no p² - 4N is below 2^100, and 2 sqrt(N) may exceed the largest float."""
    for m in (10**50, 10**350):
        for N in (m * m + m + 399, m * m + 250):
            d = certified(N)
            assert 2 * m + 100 < d.total == by_loop(N) <= 2 * m + 400


def test_the_example_of_the_post_and_some_more():
    assert min_sum_decomposition(130) == Decomposition(10, 13, 0)
    cases = {0: 0, 1: 1, 2: 2, 3: 3, 101: 21, 127: 24, 1000: 65, 9999: 200, 12345: 226, 99991: 634, 10**18 + 9: 2000000009}
    assert {N: min_sum_decomposition(N).total for N in cases} == cases
    assert min_sum_decomposition(4, all_optima=True) == (Decomposition(0, 0, 4), Decomposition(2, 2, 0))


@pytest.mark.parametrize("N", [130.0, 1.5, "130", None, Fraction(130), 1j, [130], np.float64(4)])
def test_what_is_no_integer_is_refused(N):
    with pytest.raises(TypeError, match="give an integer"):
        min_sum_decomposition(N)


@pytest.mark.parametrize("N", [-1, -(10**30), np.int64(-5)])
def test_negative_numbers_are_refused(N):
    with pytest.raises(ValueError, match="give N >= 0"):
        min_sum_decomposition(N)


@pytest.mark.parametrize("N", [np.int8(120), np.uint64(2**64 - 1), np.int64(2**62 + 5), True])
def test_other_integers(N):
    assert min_sum_decomposition(N) == min_sum_decomposition(int(N))
