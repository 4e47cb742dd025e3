"""The smallest a + b + c with N = ab + c in natural numbers (0 included), exactly and for integers of any size.

With p = a + b only one value of c is worth trying for each p, so the search runs over p alone, upward from 2 sqrt(N), and stops when p
itself exceeds the best sum so far. The notebook ``minimize-a-plus-b-plus-c`` proves each step.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, overload

import numpy as np

_ALONE = 64  # so many values of p are tried one by one before numpy takes over
_LARGEST_BLOCK = 1 << 14
_LIMIT = 1 << 100  # above this p² - 4N float64 no longer guesses q well enough
_WORD = 1 << 64


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Natural numbers a <= b and c; ``product_sum`` is the N = ab + c that they make, ``total`` is a + b + c."""

    a: int
    b: int
    c: int

    @property
    def total(self) -> int:
        return self.a + self.b + self.c

    @property
    def product_sum(self) -> int:
        return self.a * self.b + self.c


@overload
def min_sum_decomposition(N: SupportsIndex, *, all_optima: Literal[False] = False) -> Decomposition: ...
@overload
def min_sum_decomposition(N: SupportsIndex, *, all_optima: Literal[True]) -> tuple[Decomposition, ...]: ...


def min_sum_decomposition(N: SupportsIndex, *, all_optima: bool = False) -> Decomposition | tuple[Decomposition, ...]:
    """The natural numbers a <= b and c with N = ab + c and the smallest a + b + c; among several, those with the smallest a + b.

    With ``all_optima`` all of them, in the order of a + b. N is any integer (a Python int of any size, a numpy integer, True as 1);
    everything that decides is exact. Source: the post https://kexue.fm/archives/9775, whose last algorithm this completes (a = b = 0
    included) and stops early.

    The number of p tried is at most S - isqrt(4N) + 1 <= 2 N^(1/4) + O(1), with S the answer (proved), and about 1.2 N^(1/6) on average
    (measured). While p² - 4N < 2^100, which is the whole search for most N below 10^44, numpy tries thousands of p at a time: 10^30
    takes milliseconds, 10^36 some hundredths of a second. Above, each p costs about a microsecond; an N close to a square or to the
    product of two close factors stays instant at any size. Memory is constant.

    Raises TypeError where N is not an integer (130.0 is not), ValueError where it is negative.
    """
    try:
        N = operator.index(N)
    except TypeError:
        raise TypeError(f"N={N!r} is a {type(N).__name__}; give an integer") from None
    if N < 0:
        raise ValueError(f"N={N} is negative; a, b and c are natural numbers, so give N >= 0")
    least = math.isqrt(4 * N)  # for p up to here the best are p = 0 and p = least
    best, sums = N, {0}
    p, block = least, 256
    while p <= best:
        if p <= least + _ALONE or (p + block) ** 2 - 4 * N >= _LIMIT:
            total, winners, tried = _best_total(N, p), [p], 1
        else:
            tried = min(block, best - p + 1)
            totals = least_remainders(N, p, tried) + np.arange(tried)
            total = p + int(totals.min())
            winners = [p + int(i) for i in np.flatnonzero(totals == totals.min())]
            block = min(2 * block, _LARGEST_BLOCK)
        if total < best:
            best, sums = total, set()
        if total == best:
            sums.update(winners)
        p += tried
    optima = tuple(_with_sum(N, p) for p in sorted(sums))
    return optima if all_optima else optima[0]


def _largest_a(N: int, p: int) -> int:
    """The best a for a + b = p: the largest a <= p/2 with a(p - a) <= N, which leaves the smallest c."""
    discriminant = p * p - 4 * N
    root = math.isqrt(discriminant - 1) + 1 if discriminant > 0 else 0  # rounded up
    return (p - root) // 2


def _best_total(N: int, p: int) -> int:
    a = _largest_a(N, p)
    return p + N - a * (p - a)


def _with_sum(N: int, p: int) -> Decomposition:
    a = _largest_a(N, p)
    return Decomposition(a, p - a, N - a * (p - a))


def least_remainders(N: int, first: int, count: int) -> np.ndarray:
    """The smallest c with N = ab + c and a + b = p, for p = first, .., first + count - 1: (count,) int64, exact.

    With q = b - a, 4c = q² - D where D = p² - 4N, and q is the smallest number of p's parity with q² >= D. float64 guesses q from
    sqrt(D); the guess is at most one step of 2 off while D < 2^100. The residual q² - D of the guess is smaller than 2^63 in size
    there, so that 64-bit integers, which wrap around, hold it exactly; it says whether to step, and where to.
    Raises ValueError outside isqrt(4N) + 2 <= first and D < 2^100.
    """
    least = math.isqrt(4 * N)
    last = first + count - 1
    if count < 1 or first < least + 2 or last * last - 4 * N >= _LIMIT:
        raise ValueError(f"first={first}, count={count}: give p from isqrt(4N) + 2 = {least + 2} on, with p² - 4N < 2^100")
    j = np.arange(first - least, first - least + count, dtype=np.uint64)
    x = j.astype(np.float64)
    odd = ((j + np.uint64(least & 1)) & np.uint64(1)).astype(np.float64)
    # p = least + j, so D = (least² - 4N) + j (2 least + j)
    root = np.sqrt(float(least * least - 4 * N) + x * (float(2 * least) + x))
    q = (2 * np.ceil((root - odd) / 2) + odd).astype(np.uint64)
    D = np.uint64((least * least - 4 * N) % _WORD) + j * (np.uint64(2 * least % _WORD) + j)
    residual, q = (q * q - D).view(np.int64), q.view(np.int64)
    residual += np.where(residual < 0, 4 * q + 4, np.where(residual >= 4 * q - 4, 4 - 4 * q, 0))
    return residual >> 2
