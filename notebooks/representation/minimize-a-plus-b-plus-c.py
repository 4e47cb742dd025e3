# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The smallest a + b + c with N = ab + c
#
# [自然数集中 N = ab + c 时 a + b + c 的最小值](https://kexue.fm/archives/9775) · 2023-09-20 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/representation/minimize-a-plus-b-plus-c.ipynb)
#
# **The point.** Write a natural number as $N=ab+c$ with the smallest $a+b+c$. The obvious choice, $a$ and $b$ next to $\sqrt N$, is right
# for fewer than one number in ten up to 20,000, and ever more rarely. The post finds a scan of $O(\sqrt N)$ steps, then one of
# $O(N^{1/4})$. Here the second becomes a ten-line program that is proved exact for every $N$, stops early, and so takes about
# $1.2\,N^{1/6}$ steps on average (figure, right): some 120,000 for $N=10^{30}$, which numpy does in milliseconds. The post's scans miss a
# few small $N$ each (31 for the first, 3 for the last); all are listed, with the repair. Whether the worst case is really of order
# $N^{1/4}$ stays open: numbers up to $10^7$ cannot tell.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import inspect
import itertools
import math
import random
import time
from fractions import Fraction
from math import isqrt
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import scipy.stats
import sympy as sp

import kexue_nb
from kexue_nb import ledger, metrics, numbers
from kexue_nb import symbolic as sym
from kexue_nb.numbers import least_remainders, min_sum_decomposition
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("minimize-a-plus-b-plus-c")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: for N = 130 the sum a + b + c against a, with the largest b that fits: a saw-tooth between two smooth envelopes; the intuitive choice a = 11 lies on a tooth at 31, the optimum a = 10 at the bottom at 23. Right, both axes logarithmic: steps against N from ten to the 6 to ten to the 36. Three straight lines, the scan over a with slope one half, the fixed window with slope one quarter, and the early stop with slope one sixth, on which the measured medians lie, with a band over random N."}}
sizes = [10**e for e in range(6, 37, 3)]
draws = {size: random.Random(size) for size in sizes}
samples = {size: [draws[size].randrange(size // 10, size) for _ in range(40 if size <= 10**30 else 12)] for size in sizes}
excess = {size: [min_sum_decomposition(N).total - isqrt(4 * N) for N in samples[size]] for size in sizes}

figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.8))
a = np.arange(2, 41)
axes.plot(a, a + 130 // a + 130 % a, color=BLUE, marker=".", lw=1.2, label="best sum for this a")
fine = np.linspace(2, 40, 300)
axes.plot(fine, fine + 130 / fine, color=GREY, ls=":", label="N/a whole: {N/a} = 0")
axes.plot(fine, 2 * fine + 130 / fine - 1, color=GREY, ls="--", label="{N/a} close to one")
axes.plot([11], [31], "X", color=RED, ms=9, label="11·11 + 9: 31")
axes.plot([10], [23], "*", color=GREEN, ms=13, label="10·13 + 0: 23")
axes.set(xlabel="a", ylabel="a + b + c", ylim=(15, 92))
axes.set_title("N = 130", fontsize=10)
axes.legend(loc="upper center", fontsize=8)
logs = np.array([float(s) for s in sizes])
right.plot(logs, logs**0.5, color=ORANGE, ls="--", label="scan over a: √N")
right.plot(logs, 2 * logs**0.25, color=PURPLE, ls="-.", label="fixed window: 2 N^(1/4)")
right.plot(logs, 1.03 * logs ** (1 / 6), color=BLUE, label="early stop: 1.03 N^(1/6)")
low, middle, high = (np.array([np.quantile(excess[s], q) for s in sizes]) for q in (0.1, 0.5, 0.9))
right.fill_between(logs / 2, np.maximum(low, 0.5), high, color=SKY, alpha=0.4, lw=0)
right.plot(logs / 2, middle, "o", color=BLACK, ms=5, label="measured median")
right.set(xscale="log", yscale="log", xlabel="N", ylabel="steps")
right.set_title("Steps of three exact searches", fontsize=10)
right.legend(loc="upper left", fontsize=8)
figure.suptitle("Not the middle of the saw-tooth; and N^(1/6) steps find its bottom", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## The question
#
# A reader asked for an algorithm: given $N>100$, find natural numbers (zero allowed) with $N=ab+c$ and $a+b+c$ as small as possible. The post
# {cite}`su2023abc` drops the condition $N>100$ and tells a story in four acts: a wrong guess, a correct idea that is slow, a change of variables by
# another reader that is fast, and a cleaner change of variables. This notebook plays the acts again with the proofs filled in, and adds a fifth: when
# to stop, how the cost then behaves, and how to do it exactly for integers of any size.
#
# Notation. $N\ge0$; $a\le b$ and $c$ are natural numbers with $ab+c=N$; $S=a+b+c$ and $S^*(N)$ is its minimum; $p=a+b$ and $q=b-a$, of the same
# parity; $p_0=\lfloor2\sqrt N\rfloor$; $D_p=p^2-4N$; $\{t\}=t-\lfloor t\rfloor$.
#
# A word on zero: it counts as natural here, so that $S^*(1)=1$, $S^*(2)=2$, $S^*(3)=3$ (with $a=b=0$). If $a,b\ge1$ were asked, these three would be
# 2, 3 and 4, and no other value with $N\ge1$ would change.

# %% [markdown]
# ## One variable less
#
# Eliminating $c=N-ab\ge0$ leaves a product to be maximised:
#
# $$S=N-ab+a+b=N+1-(a-1)(b-1),\qquad ab\le N .$$
#
# If $a=0$, then $c=N$ and $S=N+b$, so $b=0$: one candidate with $S=N$. If $a=1$, then $S=N+1$ whatever $b$ is, which is never best.
#
# To have something to check against, we need the minimum for *every* $N$ up to some $X$, from the definition. A choice of $a$ and $b$ serves all
# $N\ge ab$, with $S-N=a+b-ab$. So sort the pairs by their product, as in a sieve, and take a running minimum:
#
# $$S^*(N)=N+\min_{ab\le N}\,(a+b-ab).$$


# %%
def sums_by_products(X):
    """S*(N) for N = 0..X, and the running minimum S*(N) - N: every pair a <= b with ab <= X is looked at."""
    gain = np.zeros(X + 1, dtype=np.int32)  # a = b = 0 gains nothing
    for a in range(1, isqrt(X) + 1):
        b = np.arange(a, X // a + 1, dtype=np.int32)
        gain[a * a :: a] = np.minimum(gain[a * a :: a], a + b - a * b)
    running = np.minimum.accumulate(gain)
    return np.arange(X + 1, dtype=np.int32) + running, running


def by_definition(N):
    """The minimum over all triples with ab + c = N."""
    return min(a + b + N - a * b for a in range(N + 1) for b in range(a, N + 1) if a * b <= N) if N else 0


least, running = sums_by_products(10**7)
print("S*(0), .., S*(20):", *least[:21])

# %% tags=["hide-input"]
N, a, b, x, y, p, q = sp.symbols("N a b x y p q", positive=True)
c = N - a * b
nb.derivation(
    "D1",
    "With c = N − ab, S = N + 1 − (a − 1)(b − 1) for ab ≤ N, and a = b = 0 gives N; hence S*(N) = N + the running minimum of a + b − ab over products.",
    sym.identity("a + b + c", a + b + c, N + 1 - (a - 1) * (b - 1)),
    sym.enumeration("the sieve against all triples, N ≤ 150", range(151), lambda n: int(least[n]), by_definition),
    sym.enumeration(
        "the largest (a − 1)(b − 1), ab ≤ N, 4 ≤ N ≤ 150",
        range(4, 151),
        lambda n: n + 1 - max((i - 1) * (j - 1) for i in range(1, n + 1) for j in range(i, n // i + 1)),
        by_definition,
    ),
)

# %% [markdown]
# ## First act: the guess
#
# $ab$ should be close to $N$, and $a$ close to $b$. The post shows both wishes in one formula, of squares with opposite signs,
#
# $$S=N-(\sqrt{ab}-1)^2+(\sqrt a-\sqrt b)^2+1$$
#
# (the $+1$ is missing there, without harm). So take $a=b=\lfloor\sqrt N\rfloor$, or $b$ one larger if that fits? For $N=130$ this gives $11\cdot11+9$,
# sum 31, or $11\cdot12>130$, which does not fit. But $10\cdot13+0$ has the sum 23.

# %%
table_N = np.arange(10**7 + 1, dtype=np.int32)
root = np.sqrt(table_N).astype(np.int32)  # exact: N is far below 2^52
square, pronic = table_N - root**2 + 2 * root, table_N - root * (root + 1) + 2 * root + 1
guess = np.where(root * (root + 1) <= table_N, np.minimum(square, pronic), square)
wrong = (guess != least)[1:]
wrong_up_to = {X: int(wrong[:X].sum()) for X in (100, 1000, 10**4, 2 * 10**4, 10**6, 10**7)}
surplus = (guess - least)[: 2 * 10**4 + 1]
print("wrong up to:", wrong_up_to)

# %% tags=["hide-input"]
printed = N - (sp.sqrt(a * b) - 1) ** 2 + (sp.sqrt(a) - sp.sqrt(b)) ** 2
nb.derivation(
    "D2",
    "S = N − (√(ab) − 1)² + (√a − √b)² + 1.",
    sym.identity("from a + b + c with c = N − ab", a + b + c, printed + 1),
)
nb.claim(
    "C3",
    "S = N − (√(ab) − 1)² + (√a − √b)², as printed.",
    "refuted",
    fails=[
        sym.identity("S minus the printed right side", a + b + c - printed, sp.Integer(1)),
        ledger.close("the printed side at N = 130, a = 10, b = 13", float(printed.subs({N: 130, a: 10, b: 13})), 22, abs=1e-9),
    ],
)
nb.claim(
    "C1",
    "For N = 130 the guess gives 31 (a = b = 11); the optimum is 23 (10, 13, 0).",
    "verified",
    holds=[
        ledger.close("the guess", int(guess[130]), 31, abs=0.5),
        ledger.close("all triples", by_definition(130), 10 + 13 + (130 - 10 * 13), abs=0.5),
    ],
)
nb.claim(
    "C2",
    "The guess is wrong for 46 of the first 100 numbers, 8,837 of 10,000, 18,161 of 20,000 and 9,897,315 of ten million.",
    "verified",
    holds=[
        sym.enumeration(
            "counts up to X",
            [100, 1000, 10**4, 2 * 10**4, 10**7],
            wrong_up_to.get,
            {100: 46, 1000: 729, 10**4: 8837, 2 * 10**4: 18161, 10**7: 9897315}.get,
        ),
        ledger.close("for 100 < N ≤ 10,000 (the question's range)", int(wrong[100 : 10**4].sum()), 8791, abs=0.5),
        sym.enumeration(
            "largest surplus up to 20,000, and where", [0, 1], lambda i: int([surplus.max(), surplus.argmax()][i]), [139, 19880].__getitem__
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The sum a + b + c at N = 130 for a from 5 to 11, with b the whole part of N over a, and the right side that the post prints. The printed points lie one below the sums at every a; the smallest sum is 23 at a = 10, where the post's formula gives 22."}}
figure, axes = plt.subplots(figsize=(7.2, 3.2))
sides = np.arange(5, 12)
by_sum = sides + 130 // sides + 130 % sides
by_print = [float(printed.subs({N: 130, a: int(x), b: 130 // int(x)})) for x in sides]
axes.plot(sides, by_sum, "o-", color=BLUE, label="a + b + c")
axes.plot(sides, by_print, "s--", color=ORANGE, label="printed right side")
axes.set(xlabel="a, with b = ⌊130/a⌋ and c the rest", ylabel="sum", xticks=sides)
axes.legend()
axes.set_title("The printed formula is one too small everywhere")
nb.show(figure)

# %% [markdown]
# ## Second act: given a
#
# For $a\ge2$ the sum falls as $b$ grows, so $b=\lfloor N/a\rfloor$, and with the fractional part of $N/a$
#
# $$S=(a-1)\{N/a\}+a+N/a .$$
#
# The fractional part jumps about between 0 and 1 and makes the saw-tooth of the first figure. At its two extremes, $S$ is $a+N/a$, smallest at
# $a=\sqrt N$, or (nearly) $2a+N/a-1$, smallest at $\sqrt{N/2}$.

# %% tags=["hide-input"]
m, rho = sp.symbols("m rho", positive=True)
given_a = lambda n, i: n - i * (n // i) + i + n // i
teeth = [(n, i) for n in range(4, 1200, 7) for i in range(2, isqrt(n) + 1)]
envelope = [(Fraction(i * i + n, i), given_a(n, i), Fraction(2 * i * i + n - i, i)) for n, i in teeth]
nb.derivation(
    "D3",
    "For a ≥ 2 the best b is ⌊N/a⌋, and S = (a − 1){N/a} + a + N/a; for a = 1 every b gives N + 1.",
    sym.identity("one more b changes S by 1 − a", (a + b + c).subs(b, b + 1) - (a + b + c), 1 - a),
    sym.identity("N = am + ρ, b = m, {N/a} = ρ/a", (a + b + c).subs({b: m, N: a * m + rho}), (a - 1) * rho / a + a + (a * m + rho) / a),
    sym.enumeration(
        "best b by trial, N ≤ 120",
        [(n, i) for n in range(4, 121) for i in range(2, n + 1)],
        lambda t: min(range(t[0] // t[1] + 2), key=lambda j: (t[1] + j + t[0] - t[1] * j) if t[1] * j <= t[0] else math.inf),
        lambda t: t[0] // t[1],
    ),
)
nb.derivation(
    "D4",
    "a + N/a has its minimum 2√N at √N; 2a + N/a − 1 has its minimum 2√(2N) − 1 at √(N/2).",
    sym.solves("stationary point of a + N/a", sp.Eq(sp.Derivative(a + N / a, a), 0), a, sp.sqrt(N)),
    sym.solves("stationary point of 2a + N/a − 1", sp.Eq(sp.Derivative(2 * a + N / a - 1, a), 0), a, sp.sqrt(N / 2)),
    sym.identity("a + N/a − 2√N is a square: that is the minimum", a + N / a - 2 * sp.sqrt(N), (sp.sqrt(a) - sp.sqrt(N / a)) ** 2),
    sym.identity("2a + N/a − 2√(2N) is a square", 2 * a + N / a - 2 * sp.sqrt(2 * N), (sp.sqrt(2 * a) - sp.sqrt(N / a)) ** 2),
)
nb.claim(
    "C3b",
    "The formula of D3, in exact fractions.",
    "verified",
    holds=[
        sym.enumeration(
            f"{len(teeth)} pairs (N, a)",
            teeth,
            lambda t: Fraction(given_a(*t)),
            lambda t: (t[1] - 1) * (Fraction(t[0], t[1]) % 1) + t[1] + Fraction(t[0], t[1]),
        )
    ],
)
nb.claim(
    "C4",
    "S lies between the two extremes, and both are reached: the lower where a divides N, the upper within 1 − 1/a where it divides N + 1.",
    "verified",
    holds=[
        ledger.close("share of the pairs between them", sum(u <= v < w for u, v, w in envelope) / len(envelope), 1, abs=1e-9),
        ledger.close(
            "pairs on the lower one, over those where a divides N",
            sum(u == v for u, v, _ in envelope) / sum(n % i == 0 for n, i in teeth),
            1,
            abs=1e-9,
        ),
        sym.enumeration(
            "a | N", [(i * k, i) for i in range(2, 20) for k in range(i, 40)], lambda t: given_a(*t), lambda t: t[1] + t[0] // t[1]
        ),
        sym.enumeration(
            "a | N + 1",
            [(i * k - 1, i) for i in range(2, 20) for k in range(i + 1, 40)],
            lambda t: 2 * t[1] + Fraction(t[0], t[1]) - 1 - given_a(*t),
            lambda t: 1 - Fraction(1, t[1]),
        ),
    ],
)

# %% [markdown]
# From the two extremes the post concludes that the best $a$ lies in $(\sqrt{N/2},\sqrt N]$: a scan of $0.29\sqrt N$ steps. The conclusion does not
# follow, since a smaller $a$ may have a luckier remainder. But it is nearly right. For $1\le a\le\sqrt{N/2}$
#
# $$S\ge a+\frac Na\ge\frac3{\sqrt2}\sqrt N=2.1213\sqrt N,$$
#
# and we shall see (D9) that $S^*\le2\sqrt N+2+\sqrt{1+4\sqrt N}$. The two cross at $N=92{,}455.4$, so from $92{,}456$ on the half range is proved
# sufficient; below, we try every number.


# %%
def scan(N, low=1):
    """The smallest S over low <= a <= sqrt(N), b = N // a, and the number of a tried."""
    candidates = range(low, isqrt(N) + 1)
    return min((a + N // a + N % a for a in candidates), default=math.inf), len(candidates)


def scan_all(X, shift=0):
    """The same for all N = 0..X at once, over sqrt(N/2) - shift < a <= sqrt(N)."""
    sums = np.full(X + 1, np.iinfo(np.int64).max)
    for a in range(1, isqrt(X) + 1):
        N = np.arange(a * a, min(2 * (a + shift) ** 2 - 1, X) + 1)  # a² <= N < 2 (a + shift)²
        sums[N] = np.minimum(sums[N], a + N // a + N % a)
    return sums


half, wider = (scan_all(120_000, shift) for shift in (0, 1))
missed = [int(n) for n in np.flatnonzero(half[1:] != least[1:120_001]) + 1]
still_missed = [int(n) for n in np.flatnonzero(wider[1:] != least[1:120_001]) + 1]
print("missed:", *missed)

# %% tags=["hide-input"]
EXCEPTIONS = [1, 2, 3, 8, 18, 19, 32, 33, 34, 98, 128, 129, 162, 163, 164, 200, 201, 202, 203, 512, 882, 883]
EXCEPTIONS += [968, 969, 970, 971, 2048, 2049, 2888, 2889, 2890]
s = sp.Symbol("s", positive=True)
crossing = (3 / sp.sqrt(2) - 2) * s - 2 - sp.sqrt(1 + 4 * s)
threshold = float(sp.nsolve(crossing, 300)) ** 2
whole = [scan(n)[0] if n else 0 for n in range(3001)]
nb.derivation(
    "D5",
    "Over all 1 ≤ a ≤ √N, with a = b = 0 beside it, the scan is exact; over √(N/2) < a ≤ √N alone it is for N ≥ 92,456.",
    sym.enumeration("whole range, N ≤ 3000", range(3001), lambda n: min(n, whole[n]), lambda n: int(least[n])),
    sym.identity("a + N/a at √(N/2)", sp.Limit(a + N / a, a, sp.sqrt(N / 2)), 3 / sp.sqrt(2) * sp.sqrt(N)),
    sym.identity("it falls up to √N", sp.Derivative(a + N / a, a), (a**2 - N) / a**2),
    ledger.close("the bounds cross at N", threshold, 92455.3636, abs=1e-3, digits=9, method="numeric, root"),
    ledger.less("their difference is convex in √N, negative at √N = 1", float(crossing.subs(s, 1)), 0),
    sym.identity("its second derivative, positive", sp.Derivative(crossing, (s, 2)), 4 * (1 + 4 * s) ** -sp.Rational(3, 2)),
    sym.limit("and positive in the end", crossing / s, s, sp.oo, 3 / sp.sqrt(2) - 2, side="-"),
)
nb.claim(
    "C5",
    "The scan over √(N/2) < a ≤ √N finds the optimum.",
    "refuted",
    fails=[
        sym.enumeration("all exceptions up to 120,000, in order", range(len(missed)), missed.__getitem__, EXCEPTIONS.__getitem__),
        ledger.close("their number; none is possible above 92,455 (D5)", len(missed), 31, abs=0.5),
        sym.enumeration("at N = 128 and 2888: S found", [128, 2888], lambda n: int(half[n]), {128: 25, 2888: 115}.get),
        sym.enumeration("and the optimum", [128, 2888], lambda n: int(least[n]), {128: 24, 2888: 114}.get),
    ],
)
nb.claim(
    "C6",
    "The scan costs O(√N): (1 − 1/√2)√N = 0.293 √N values of a on the half range, √N on the whole.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"values tried over √N, N = 10^{e} + 1", scan(10**e + 1, isqrt(10**e // 2) + 1)[1] / 10 ** (e / 2), 1 - 0.5**0.5, rel=0.01
            )
            for e in (6, 8, 10)
        ],
        ledger.close("whole range, N = 10^10 + 1", scan(10**10 + 1)[1] / 1e5, 1, rel=1e-3),
    ],
)
nb.claim(
    "X1",
    "The half range with one more a below, √(N/2) − 1 < a ≤ √N, is exact for every N ≥ 4 (for N = 1, 2, 3 it lacks a = b = 0).",
    "verified",
    holds=[
        sym.enumeration(
            "all exceptions up to 120,000; above, the half range is exact", range(3), still_missed.__getitem__, [1, 2, 3].__getitem__
        ),
        ledger.close("their number", len(still_missed), 3, abs=0.5),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "How far the sum found by the scan over the half range exceeds the optimum, against N on a log axis from 1 to 120,000: 28 dots between 1 and 2,890, all exactly one above the optimum, and none beyond; three crosses at 2, 3 and 8, for which the range is empty. A dashed line at 92,455 marks where the proof excludes further ones."}}
figure, axes = plt.subplots(figsize=(7.4, 2.8))
tried = np.array(missed)[half[missed] < 10**9]  # for 2, 3 and 8 no a lies in the range
axes.vlines(tried, 0, half[tried] - least[tried], color=BLUE, ls="-", lw=1)
axes.plot(tried, half[tried] - least[tried], "o", color=BLUE, ms=5, label="scan over √(N/2) < a ≤ √N")
axes.plot(
    sorted(set(missed) - set(tried)),
    [0] * (len(missed) - len(tried)),
    "x",
    color=RED,
    ms=7,
    mew=1.8,
    label="no a in that range, nothing found",
)
axes.axvline(threshold, color=GREY, ls="--", label="from here on exact, proved")
axes.set(xscale="log", xlim=(0.8, 1.3e5), xlabel="N (log axis)", ylabel="sum found less\nthe optimum", ylim=(-0.15, 2.2), yticks=[0, 1])
axes.legend(loc="upper right")
axes.set_title("The half range misses 31 numbers, the last of them 2,890")
nb.show(figure)

# %% [markdown]
# Most of the 31 exceptions lie at $N=2m^2$ or just after it, with the best $a=m=\sqrt{N/2}$ (or just below), which the half-open interval excludes
# by a hair. One more $a$ repairs it (X1).
#
# ## Third act: a product becomes a difference of squares
#
# The second half of the story is due to another reader. If $a$ and $b$ have the same parity, put $a=x-y$, $b=x+y$; then
#
# $$\begin{aligned}N+y^2&=x^2+c,\\S=2x+c&=N+y^2+1-(x-1)^2 .\end{aligned}$$
#
# For a given $x$, $y$ should be as small as $c\ge0$ allows. Below $\sqrt N$ that is $y=0$, and the best $x$ is $\lfloor\sqrt N\rfloor$. From
# $\sqrt N$ on it is $y=\lceil\sqrt{x^2-N}\,\rceil<\sqrt{x^2-N}+1$, hence
#
# $$S<2x+1+2\sqrt{x^2-N},$$
#
# which grows with $x$. At $x=\lceil\sqrt N\rceil$ it gives $S^*<2\sqrt N+3+2\sqrt{1+2\sqrt N}$; since $S\ge2x$, all $x$ above
# $\sqrt N+\frac32+\sqrt{1+2\sqrt N}$ are out. For opposite parity replace $x$ and $y$ by $x+\frac12$ and $y+\frac12$. Together about
# $2\sqrt2\,N^{1/4}$ candidates: far fewer than $\sqrt N$, because $\sqrt{x^2-N}$ grows so steeply above $\sqrt N$ that $S$ soon hits its ceiling.
#
# ## Fourth act: no halves
#
# With $p=a+b$ and $q=b-a$ both parities are one case:
#
# $$\begin{aligned}4c&=q^2-(p^2-4N)=q^2-D_p,\\4S&=4N+q^2+4-(p-2)^2 .\end{aligned}$$
#
# For a given $p$ the best $q$ is the smallest of $p$'s parity with $q^2\ge D_p$. Even this parity can be forgotten, because $a$ is a whole number
# anyway: the best $a$ is
#
# $$a=\begin{cases}\bigl\lfloor\frac12(p-\lceil\sqrt{D_p}\,\rceil)\bigr\rfloor&D_p>0\\\lfloor p/2\rfloor&D_p\le0\end{cases}$$
#
# by $\lfloor(p-s)/2\rfloor=\lfloor(p-\lceil s\rceil)/2\rfloor$, which holds for real $s$ and whole $p$.


# %%
def root_up(n):
    """The square root of n, rounded up; 0 for negative n."""
    return isqrt(n - 1) + 1 if n > 0 else 0


def a_of(p, N):
    """The best a for a + b = p."""
    return (p - root_up(p * p - 4 * N)) // 2


grid_N = np.arange(1001)
by_trial = {
    p: [(int(i)) for i in ((np.arange(p // 2 + 1) * (p - np.arange(p // 2 + 1))) <= grid_N[:, None]).sum(1) - 1] for p in range(130)
}


# %% tags=["hide-input"] mystnb={"image": {"alt": "The lattice of pairs a, b between 6 and 18 with the hyperbola ab = 130. Points on or below it are allowed. Straight diagonals show a + b = 22, 23 and 24. Numbers beside the upper points give their sums, 23 to 43. The pair 10, 13 lies exactly on the hyperbola and on the diagonal 23; the guess 11, 11 lies inside, nine units of c below the hyperbola, although its diagonal 22 is lower."}}
figure, axes = plt.subplots(figsize=(6.2, 4.6))
curve_a = np.linspace(7.2, 12.2, 200)
axes.plot(curve_a, 130 / curve_a, color=BLACK, ls="-", label="ab = 130")
for total, color, style in ((22, RED, ":"), (23, GREEN, "--"), (24, GREY, "-.")):
    axes.plot([7, 12.3], [total - 7, total - 12.3], color=color, ls=style, lw=1.3, label=f"a + b = {total}")
allowed_pairs = [(i, j) for i in range(7, 13) for j in range(i, 19) if i * j <= 130]
axes.plot(*zip(*allowed_pairs, strict=True), "o", color=SKY, ms=5, ls="none")
for i, j in allowed_pairs:
    if i * j >= 108:
        box = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.9}
        axes.annotate(
            str(i + j + 130 - i * j), (i, j), xytext=(-7, -6), textcoords="offset points", ha="right", va="top", fontsize=9, bbox=box
        )
axes.plot([10], [13], "*", color=GREEN, ms=15)
axes.plot([11], [11], "X", color=RED, ms=10)
axes.set(xlabel="a", ylabel="b", ylim=(9.6, 18.4), xlim=(6.6, 12.5))
axes.set_title("N = 130: the pair with the smallest sum lies on the hyperbola")
axes.legend(loc="upper right", fontsize=8)
nb.show(figure)


# %% tags=["hide-input"]
def bound(n):
    """D9's upper bound of S*."""
    return 2 * n**0.5 + 2 + (1 + 4 * n**0.5) ** 0.5


def used(value, n, offset, square):
    """Which share of its allowance sqrt(square) a sum uses, beyond 2 sqrt(n) + offset."""
    return (value - 2 * np.sqrt(n) - offset) / np.sqrt(square)


N_all = np.arange(1, 200_001)
pairs = [(i, j) for i in range(0, 330) for j in range(i, 330)]
by_parity = {}
for parity in (0, 1):
    sums = np.full(10_001, 10**9)
    for i, j in pairs:
        if (j - i) % 2 == parity and i * j <= 10_000:
            sums[i * j] = min(sums[i * j], i + j - i * j)
    by_parity[parity] = np.arange(10_001) + np.minimum.accumulate(sums)
n4 = np.arange(4, 10_001)
window_use = {k: used(v[4:], n4, 3, 4 * (1 + 2 * np.sqrt(n4))) for k, v in by_parity.items()}
over = least - 2 * np.sqrt(table_N)
d9_use = over[1:] / (2 + np.sqrt(1 + 4 * np.sqrt(table_N[1:])))
lower_end = lambda n: least[n:] ** 2 >= 4 * table_N[n:]

# %% tags=["hide-input"]
half_ = sp.Rational(1, 2)
even, odd = {a: x - y, b: x + y}, {a: x - y, b: x + y + 1}
nb.derivation(
    "D6",
    "Same parity: N + y² = x² + c and S = 2x + c; the best S is below 2√N + 3 + 2√(1 + 2√N).",
    sym.identity("c", c.subs(even), N + y**2 - x**2),
    sym.identity("S", (a + b + c).subs(even), N + y**2 + 1 - (x - 1) ** 2),
    sym.identity(
        "y = √(x² − N) + 1 gives the bound", (a + b + c).subs(even).subs(y, sp.sqrt(x**2 - N) + 1), 2 * x + 1 + 2 * sp.sqrt(x**2 - N)
    ),
    sym.identity(
        "x = √N + 1", (2 * x + 1 + 2 * sp.sqrt(x**2 - N)).subs(x, sp.sqrt(N) + 1), 2 * sp.sqrt(N) + 3 + 2 * sp.sqrt(1 + 2 * sp.sqrt(N))
    ),
    ledger.less("largest share of the last root used, 4 ≤ N ≤ 10,000", window_use[0].max(), 1, margin=1e-3),
)
nb.derivation(
    "D7",
    "Opposite parity: the same with x + ½, y + ½.",
    sym.identity("c", c.subs(odd), N + (y + half_) ** 2 - (x + half_) ** 2),
    sym.identity("S", (a + b + c).subs(odd), N + (y + half_) ** 2 + 1 - (x + half_ - 1) ** 2),
    ledger.less("largest share of the last root used, 4 ≤ N ≤ 10,000", window_use[1].max(), 1, margin=1e-3),
)
both = {a: (p - q) / 2, b: (p + q) / 2}
nb.derivation(
    "D8",
    "4c = q² − D_p and 4S = 4N + q² + 4 − (p − 2)²; the best a is ⌊(p − ⌈√D_p⌉)/2⌋ in both parities.",
    sym.identity("4c", 4 * c.subs(both), q**2 - (p**2 - 4 * N)),
    sym.identity("4S", 4 * (a + b + c).subs(both), 4 * N + q**2 + 4 - (p - 2) ** 2),
    sym.enumeration(
        "largest a ≤ p/2 with a(p − a) ≤ N by trial, all p < 130 and N ≤ 1000",
        range(130),
        lambda i: tuple(a_of(i, n) for n in range(1001)),
        lambda i: tuple(by_trial[i]),
    ),
    sym.enumeration(
        "smallest q of p's parity with q² ≥ D_p by trial, p ≤ 40, N ≤ 60",
        [(i, n) for i in range(41) for n in range(61)],
        lambda t: t[0] - 2 * a_of(*t),
        lambda t: next(j for j in itertools.count(t[0] % 2, 2) if j * j >= t[0] ** 2 - 4 * t[1]),
    ),
)

# %% [markdown]
# ### How far to go
#
# For $p=\lceil2\sqrt N\,\rceil<2\sqrt N+1$ we have $D_p<1+4\sqrt N$; with $q<\sqrt{D_p}+2$ this makes
# $c<\sqrt{D_p}+1$, and so
#
# $$2\sqrt N\le S^*<2\sqrt N+2+\sqrt{1+4\sqrt N}.$$
#
# This is the post's bound of complexity: since $S\ge p$, only the $p$ in this window matter, about $2N^{1/4}$ of them. (The lower end holds for
# $N\ge4$.) And below the window, for $p\le p_0$?
#
# $$\begin{aligned}S(p)&=N+p-\lfloor p^2/4\rfloor,\\S(p+1)-S(p)&=1-\lfloor(p+1)/2\rfloor\le0\quad(p\ge1),\end{aligned}$$
#
# so that the best up to $p_0$ is $p_0$ itself, or $p=0$, which is $a=b=0$.

# %% tags=["hide-input"]
side = np.arange(92)
total_ab, product_ab = np.add.outer(side, side), np.multiply.outer(side, side)


def below(n):
    """The smallest sum over all a, b with a + b <= p0."""
    allowed = (total_ab <= isqrt(4 * n)) & (product_ab <= n)
    return int((total_ab + n - product_ab)[allowed].min())


largest = lambda p: max(j * (p - j) for j in range(p + 1))
t = sp.Symbol("t", positive=True)
nb.derivation(
    "D9",
    "2√N ≤ S* for N ≥ 4, and S* < 2√N + 2 + √(1 + 4√N) for N ≥ 1.",
    sym.identity("D_p at p = 2√N + 1", (2 * sp.sqrt(N) + 1) ** 2 - 4 * N, 1 + 4 * sp.sqrt(N)),
    sym.identity("c at q = √D + 2", ((sp.sqrt(t) + 2) ** 2 - t) / 4, sp.sqrt(t) + 1),
    ledger.less("largest share of the allowance 2 + √(1 + 4√N) used, N ≤ 200,000", d9_use[:200_000].max(), 0.898),
    ledger.close("N there", int(d9_use[:200_000].argmax()) + 1, 89743, abs=0.5, digits=6),
    sym.limit("the bound's excess over N^(1/4)", (2 + sp.sqrt(1 + 4 * t**2)) / t, t, sp.oo, 2, side="-"),
    ledger.close("share of 4 ≤ N ≤ 10⁷ with S*² ≥ 4N, in integers", float(lower_end(4).mean()), 1, abs=1e-9),
    sym.identity(
        "N + p − p²/4 ≥ 2√N for p ≤ 2√N: the difference", N + p - p**2 / 4 - 2 * sp.sqrt(N), (sp.sqrt(N) - p / 2) * (sp.sqrt(N) + p / 2 - 2)
    ),
)
nb.derivation(
    "D10",
    "Up to p₀ = ⌊2√N⌋ the best sum is that of p₀, or N (a = b = 0).",
    sym.enumeration("⌊p²/4⌋ is the largest product with the sum p", range(91), largest, lambda i: i * i // 4),
    sym.enumeration("S(p + 1) − S(p) by trial", range(91), lambda i: 1 + largest(i) - largest(i + 1), lambda i: 1 - (i + 1) // 2),
    sym.enumeration("all a + b ≤ p₀ by trial, N ≤ 2000", range(2001), below, lambda n: min(n, isqrt(4 * n) + n - isqrt(4 * n) ** 2 // 4)),
)

# %% [markdown]
# ## The ten lines
#
# All pieces together. Start with $a=b=0$ and with $p_0$; go up with $p$; and stop when $p$ alone has reached the best sum so far. No window is
# computed, no case distinguished, and no floating-point number touched.


# %%
def smallest_sum(N):
    """(S, a, b, c) with N = ab + c and the smallest S = a + b + c; and how many p above p0 were tried."""
    p = first = isqrt(4 * N)
    best = (N, 0, 0, N)
    while p < best[0]:
        D = p * p - 4 * N
        a = (p - (isqrt(D - 1) + 1 if D > 0 else 0)) // 2
        c = N - a * (p - a)
        if p + c < best[0]:
            best = (p + c, a, p - a, c)
        p += 1
    return best, max(p - 1 - first, 0)


for n in (130, 9999, 12345, 10**18 + 9):
    print(f"{n}: S, a, b, c = {smallest_sum(n)[0]}")

# %% [markdown]
# Why it is right: for each $p$ it takes the best (D8); everything up to $p_0$ is covered by two candidates (D10); and the $p$ never reached have
# $S\ge p\ge$ best. Why it is fast: it ends at $p=S^*$ at the latest. When exactly? If the optimum found has $c>0$, the loop tries $p_0+1,\dots,S^*-1$; if
# it has $c=0$ and $p>p_0$, it must reach $p=S^*$ to see it. So
#
# $$\text{steps}=S^*-1-p_0,$$
#
# and one more if every optimum has $c=0$ and $p>p_0$ (none at all where $p_0\ge S^*$). The cost of a run can be read off the answer. The running
# minimum of D1 knows which case it is: a drop at $N$ means that no earlier product does as well.

# %%
first_p = np.sqrt(4 * table_N).astype(np.int32)  # exact again
drop = np.diff(running, prepend=1) < 0
steps = np.maximum(least - 1 - first_p + (drop & (least > first_p)), 0)
answers = [smallest_sum(n) for n in range(10**5 + 1)]
print("steps for N up to 10⁷: mean", round(float(steps.mean()), 3), "largest", int(steps.max()))

# %% tags=["hide-input"]
valid = lambda n, a, b, c: (a * b + c, min(a, b - a, c) >= 0)
nb.derivation(
    "D11",
    "The loop is exact for every N, with S* − 1 − p₀ steps, one more if every optimum has c = 0 and p > p₀: O(N^(1/4)) by D9.",
    sym.enumeration("S against the sieve, every N ≤ 10⁵", range(10**5 + 1), lambda n: answers[n][0][0], lambda n: int(least[n])),
    sym.enumeration("ab + c = N and 0 ≤ a ≤ b, c ≥ 0", range(10**5 + 1), lambda n: valid(n, *answers[n][0][1:]), lambda n: (n, True)),
    sym.enumeration("a + b + c = S", range(10**5 + 1), lambda n: sum(answers[n][0][1:]), lambda n: answers[n][0][0]),
    sym.enumeration("steps, every N ≤ 10⁵", range(10**5 + 1), lambda n: answers[n][1], lambda n: int(steps[n])),
    ledger.less("largest (steps − 2)/√(1 + 4√N), N ≤ 10⁷", float(((steps[1:] - 2) / np.sqrt(1 + 4 * np.sqrt(table_N[1:]))).max()), 1),
)
nb.claim(
    "C12",
    "For a perfect square N = m² ≥ 4, S* = 2m.",
    "verified",
    holds=[
        sym.enumeration("every m up to 3162", range(2, 3163), lambda i: int(least[i * i]), lambda i: 2 * i),
        sym.enumeration(
            "m = 10^j + 7, j up to 60: S and steps",
            range(60),
            lambda j: (smallest_sum((10**j + 7) ** 2)[0][0], smallest_sum((10**j + 7) ** 2)[1]),
            lambda j: (2 * 10**j + 14, 0),
        ),
    ],
)
nb.claim(
    "C7",
    "The identities of D6 to D8, in integers.",
    "verified",
    holds=[
        sym.enumeration(
            "S from (x, y) and from (p, q), all 0 ≤ a ≤ b ≤ 30, N = ab + 7",
            [(i, j) for i in range(31) for j in range(i, 31)],
            lambda t: 4 * (t[0] + t[1] + 7),
            lambda t: 4 * (t[0] * t[1] + 7) + (t[1] - t[0]) ** 2 + 4 - (t[0] + t[1] - 2) ** 2,
        )
    ],
)
x_use = {X: float(d9_use[:X].max()) for X in (10**4, 2 * 10**5, 10**7)}
nb.claim(
    "C8",
    "The bounds of D6, D7 and D9 hold for every N up to 200,000 (D9's up to 10⁷, where 0.909 of its allowance is used).",
    "verified",
    holds=[
        ledger.less(
            "S* against the bound of D6, D7: largest share, 4 ≤ N ≤ 200,000",
            used(least[4:200_001], np.arange(4, 200_001), 3, 4 * (1 + 2 * np.sqrt(np.arange(4, 200_001)))).max(),
            1,
            margin=0.1,
        ),
        *[ledger.less(f"share of D9's allowance used, N ≤ {X:,}", v, 1, margin=0.09) for X, v in x_use.items()],
    ],
)
nb.claim(
    "C11",
    "The window has O(N^(1/4)) values: about 2 N^(1/4) of p, and √2 times as many candidates (x, y).",
    "verified",
    holds=[
        *[
            ledger.close(
                f"values of p over N^(1/4), N = 10^{e}", (math.ceil(bound(10.0**e)) - 1 - isqrt(4 * 10**e)) / 10 ** (e / 4), 2, rel=0.05
            )
            for e in (12, 16, 20)
        ],
        sym.limit(
            "candidates (x, y) over N^(1/4), N = t⁴",
            2 * (sp.Rational(3, 2) + sp.sqrt(1 + 2 * t**2)) / t,
            t,
            sp.oo,
            2 * sp.sqrt(2),
            side="-",
        ),
    ],
)

# %% [markdown]
# ## Against brute force, as far as it goes
#
# Up to $10^5$ the loop has just been compared with the sieve for every $N$. Beyond, three more references, none of which knows $p$:
#
# - up to $10^{13}$: all $a\le\sqrt N$, one by one, as numpy arrays;
# - at $10^{12}$, $10^{15}$ and $10^{18}$: the sieve again, on *windows* of consecutive $N$. An optimum has $a+N/a\le S^*\le2\sqrt N+T$ with
#   $T=2+\sqrt{1+4\sqrt N}$, that is $(\sqrt N-a)^2\le aT$: only about $\sqrt2\,N^{3/8}$ values of $a$ are possible, and $c\le T+1$ says how far back to begin;
# - adversarial numbers: squares, twice squares, products of neighbours and their own neighbours, for $m=10^j$; and the record holders of E4 below.


# %%
def scan_large(N):
    """The smallest S over all a <= sqrt(N), and how many a attain it; N < 2^62."""
    a = np.arange(1, isqrt(N) + 1)
    sums = a + N // a + N % a
    return int(sums.min()), int((sums == sums.min()).sum())


def window(N0, count):
    """S*(N) for N = N0, .., N0 + count - 1 (N0 >= 100) from all pairs a <= b near sqrt(N) with ab in the window or just before it."""
    top = isqrt(N0 + count)
    T = isqrt(4 * top + 5) + 4
    start = N0 - T - 1
    a = np.arange(max(1, isqrt(start) - isqrt(top * T) - 3), top + 1)
    b = np.maximum(-(-start // a), a)
    gain = np.full(N0 + count - start, np.iinfo(np.int64).max)
    while len(a):
        inside = a * b < N0 + count
        a, b = a[inside], b[inside]
        np.minimum.at(gain, a * b - start, a + b - (a * b - start))
        b = b + 1
    return np.minimum.accumulate(gain)[N0 - start :] + np.arange(N0 - start, N0 + count - start)


# %% tags=["hide-input"]
anywhere = random.Random(5)
scanned = [anywhere.randrange(10 ** (e - 1), 10**e) for e, count in ((8, 60), (10, 40), (12, 12), (13, 4)) for _ in range(count)]
families = [k * m * m + d for m in (10, 10**2, 10**3, 10**4, 10**5, 10**6) for k in (1, 2) for d in (-1, 0, 1, 2)]
families += [m * m + m + d for m in (10, 10**2, 10**3, 10**4, 10**5, 10**6) for d in (-1, 0, 1)]
holders = [6, 23, 53, 95, 175, 431, 539, 659, 1169, 1343, 2621, 29783, 89743, 225719, 278298, 956649, 6893369]
scans = {n: scan_large(n) for n in scanned + families + holders}
places = {e: 10**e + 7 * 10 ** (e - 3) + 12345 for e in (6, 12, 15, 18)}
windows = {e: window(n, 1000) for e, n in places.items()}
twice = {2 * m * m: int(window(2 * m * m, 1)[0]) for m in (10**7, 10**8 + 1, 10**9, 1_500_000_001)}
solvers = {"ten lines": lambda n: smallest_sum(n)[0][0], "blocks": lambda n: min_sum_decomposition(n).total}
CLOSED = [
    (lambda m: m * m - 1, 0),
    (lambda m: m * m, 0),
    (lambda m: m * m + 1, 1),
    (lambda m: m * (m + 1), 1),
    (lambda m: m * (m + 1) + 1, 2),
]
closed = [(f(10**j), 2 * 10**j + d) for j in range(1, 61) for f, d in CLOSED]
nb.experiment(
    "E1",
    "Both programs against brute force: every N ≤ 10⁵, random N to 10¹³, windows of 1,000 numbers at 10¹², 10¹⁵, 10¹⁸, adversarial families.",
    "verified",
    holds=[
        *[
            check
            for name, solve in solvers.items()
            for check in (
                sym.enumeration(f"{name}: random up to 10¹³, families, records, all a", scans, solve, lambda n: min(n, scans[n][0])),
                *[
                    sym.enumeration(
                        f"{name}: window at 10^{e}",
                        range(1000),
                        lambda i, e=e, f=solve: f(places[e] + i),
                        lambda i, e=e: int(windows[e][i]),
                    )
                    for e in (12, 15, 18)
                ],
                sym.enumeration(f"{name}: 2m² up to 4.5e18", twice, solve, twice.get),
            )
        ],
        sym.enumeration("blocks: every N ≤ 10⁵, against the sieve", range(10**5 + 1), solvers["blocks"], lambda n: int(least[n])),
        sym.enumeration(
            "blocks: the number of optima, all a", scans, lambda n: len(min_sum_decomposition(n, all_optima=True)), lambda n: scans[n][1]
        ),
        sym.enumeration(
            "the window method against the sieve", range(1000), lambda i: int(windows[6][i]), lambda i: int(least[places[6] + i])
        ),
        sym.enumeration(
            "m² − 1, m², m² + 1, m² + m, m² + m + 1 at m = 10^j, j ≤ 60", closed, lambda t: solvers["blocks"](t[0]), lambda t: t[1]
        ),
        sym.enumeration(
            "ab + c = N, 0 ≤ a ≤ b, c ≥ 0, all of these",
            [*scans, *twice, *(n for n, _ in closed)],
            lambda n: valid(n, *(getattr(min_sum_decomposition(n), letter) for letter in "abc")),
            lambda n: (n, True),
        ),
    ],
)

# %% [markdown]
# ## The same in milliseconds
#
# The second name in that check, "blocks", is `kexue_nb.numbers.min_sum_decomposition`: the same search with numpy, thousands of $p$ at a time. The
# obstacle is that the numbers are too large: at $N=10^{30}$, $D_p$ reaches $10^{21}$, beyond 64-bit integers, and beyond the 53 bits to which float64
# is exact. The division of labour that gets around it: **floating point guesses, wrapped integers decide.**
#
# Put $p=p_0+j$, so that $D=(p_0^2-4N)+j(2p_0+j)$.
#
# *The guess.* Compute $D$ and its root in float64, and round up to the next number $\hat q$ of $p$'s parity. With $u=2^{-53}$ every operation has a
# relative error of at most $u$. The first term lies in $[-2p_0,0]$ and carries an error of $u$; for $j\ge2$ it is at most $D$ in size, because
# $D\ge2p_0(j-1)+j^2$. So the second is at most $2D$; it carries $3u$. With the rounding of the sum this makes less than $10uD$ for $D$ and less
# than $6u\sqrt D<2^{-50}\sqrt D$ for its root. While $D<2^{100}$ that is less than 1. All further steps of the rounding are exact, and a shift of
# less than 2 moves a rounding to steps of 2 by at most one step: $|\hat q-q|\le2$.
#
# *The decision.* The residual $R=\hat q^2-D$ is computed in 64-bit integers that wrap around, that is, modulo $2^{64}$. Its true size is at most
# $8q<2^{63}$, so the wrapped number *is* the true one, although neither $\hat q^2$ nor $D$ fits. If $R<0$ the guess was too small; if
# $R\ge4\hat q-4=\hat q^2-(\hat q-2)^2$ it was too large; one step repairs either. What remains is $4c$, exactly. So there is no filter and no
# survivor to confirm: every $c$ of the block is exact, and no winner can be dropped. The winning $p$ is finished with Python's integers.

# %%
print(inspect.getsource(least_remainders))

# %% [markdown]
# The rest of the program is the loop of ten lines with `least_remainders` for its body. The first 64 values of $p$ are done one by one (most small $N$
# end there, and numpy would be slower), and so is everything from $D\ge2^{100}$ on: then the search is still exact, at the speed of Python's integers.
# A typical search, of $N^{1/6}$ steps, reaches $D\approx4N^{2/3}$, which is $2^{100}$ at $N\approx2\cdot10^{44}$.

# %%
source = inspect.getsource(min_sum_decomposition)
print(source[source.index("    least = ") :])


# %% tags=["hide-input"]
def exact_remainder(N, p):
    """c for a + b = p by the definition of a: the largest with a(p - a) <= N, by bisection."""
    low, high = 0, p // 2 + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle * (p - middle) <= N else (low, middle)
    return N - low * (p - low)


pick = random.Random(8)
probes = []
for bits in (30, 60, 90, 120, 150, 180, 190):
    for _ in range(60):
        n = pick.getrandbits(bits) | 1 << (bits - 1)
        largest_j = min(10**8, (1 << 99) // (2 * isqrt(4 * n)))
        probes.append((n, isqrt(4 * n) + pick.randint(2, max(largest_j, 3))))
squares = []  # p² - 4N a square or 4 off one, just below 2^100, where the rounding of the root decides
for q_ in (2**49 - 1, 2**50 - 2**23 + 3):
    for j in range(160, 300):
        p_ = (q_ * q_ - j * j) // (2 * j) + j
        p_ += (p_ - q_) % 2
        squares += [((p_ * p_ - q_ * q_) // 4 + d, p_) for d in (-1, 0, 1)]


def misguessed(cases, limit):
    """How many remainders are wrong when float64 guesses up to D < limit."""
    with mock.patch.object(numbers, "_LIMIT", limit):
        return sum(int(least_remainders(n, p_, 1)[0]) != exact_remainder(n, p_) for n, p_ in cases)


beyond = [(1 << 200 | pick.getrandbits(200), 1 << 20) for _ in range(60)]
beyond = [(n, isqrt(4 * n) + j) for n, j in beyond]
same = [pick.randrange(10 ** (e - 1), 10**e) for e in range(6, 28, 3) for _ in range(12)] + [
    pick.randrange(10**29, 10**30) for _ in range(3)
]
slow = [m * (m + 1) + 399 + k for m in (10**28, 10**30, 10**32, 10**50, 10**200) for k in range(4)]
relative = []
for n, p_ in probes:
    j, p0 = p_ - isqrt(4 * n), isqrt(4 * n)
    guess_root = math.sqrt(float(p0 * p0 - 4 * n) + j * (float(2 * p0) + j))
    scale = 1 << 200
    exact_root = Fraction(isqrt((p_ * p_ - 4 * n) * scale * scale), scale)
    relative.append(float(abs(Fraction(guess_root) / exact_root - 1) * 2**53))

# %% tags=["hide-input"]
nb.claim(
    "X2",
    "Guess in float64, decide in wrapped 64-bit integers: every c is exact while D < 2¹⁰⁰, so the fast program drops no winner; above, it goes on one by one.",
    "verified",
    holds=[
        ledger.less("error of the root in units of 2^−53, 420 random (N, p)", max(relative), 6, digits=3),
        sym.enumeration(
            "c by bisection on a(p − a) ≤ N, D up to 2⁹⁹", probes, lambda t: int(least_remainders(*t, 1)[0]), lambda t: exact_remainder(*t)
        ),
        sym.enumeration(
            "the same where D is a square, or 4 off one, just below 2¹⁰⁰",
            squares,
            lambda t: int(least_remainders(*t, 1)[0]),
            lambda t: exact_remainder(*t),
        ),
        ledger.more("a limit is needed: wrong among 60 at D ≈ 2¹²²", misguessed(beyond, 1 << 140), 30),
        sym.enumeration("S of both programs, random N of 6 to 30 digits", same, solvers["blocks"], solvers["ten lines"]),
        sym.enumeration(
            "where D passes 2¹⁰⁰ or begins there: m² + m + 399 + k, m = 10²⁸ .. 10²⁰⁰", slow, solvers["blocks"], solvers["ten lines"]
        ),
        sym.identity("|R| ≤ (q + 2)² − (q − 2)² = 8q, as (q − 2)² < D ≤ q²", (q + 2) ** 2 - (q - 2) ** 2, 8 * q),
    ],
)


# %% tags=["nbval-ignore-output"]
def seconds(solve, N, repeats=5):
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        solve(N)
        times.append(time.perf_counter() - start)
    return min(times)


dice = random.Random(30)
typical = {
    e: sorted((dice.randrange(10 ** (e - 1), 10**e) for _ in range(5)), key=lambda n: min_sum_decomposition(n).total - isqrt(4 * n))[2]
    for e in (12, 18, 24, 30, 33, 36)
}
timing = {e: [seconds(min_sum_decomposition, n)] + [seconds(smallest_sum, n, 2)] * (e <= 33) for e, n in typical.items()}
for e, times in timing.items():
    shown = ", ".join(f"{name} ≈{1e3 * t:.2f} ms" for name, t in zip(("blocks", "ten lines"), times, strict=False))
    print(f"N ≈ 10^{e}: {min_sum_decomposition(typical[e]).total - isqrt(4 * typical[e]):>9,} steps, {shown}")

# %% tags=["hide-input"]
nb.claim(
    "X3",
    "N ≈ 10³⁰ takes milliseconds, N ≈ 10³⁶ about a hundredth of a second; the ten lines take many times longer.",
    "verified",
    holds=[
        ledger.less("seconds at 10³⁰, median N of five", timing[30][0], 0.03, machine=True, digits=2, scope="cpu"),
        ledger.more("ten lines over blocks at 10³³", timing[33][1] / timing[33][0], 5, machine=True, digits=2, scope="cpu"),
        ledger.less("seconds at 10³⁶", timing[36][0], 0.5, machine=True, digits=2, scope="cpu"),
    ],
)

# %% [markdown]
# ## The post's four algorithms, scored
#
# The two scans of the post with fixed windows, as we read them: first (x, y), with the candidates of $y=0$ below $\sqrt N$ and then
# $\sqrt N-\frac12<x\le\sqrt N+\frac32+\sqrt{1+2\sqrt N}$ in both parities; then (p, q). Both answer $2m$ at once for $N=m^2$. Written with doubled
# numbers, $X=2x$ or $2x+1$, both parities share one line.


# %%
def scan_xy(N, guarded=True):
    """The smallest S by the post's first fast algorithm."""
    m = isqrt(N)
    if m * m == N:
        return 2 * m
    sums = [2 * m + N - m * m] + [2 * m + 1 + N - m * (m + 1)] * (m * (m + 1) <= N)
    last = math.floor(math.sqrt(N) + 1.5 + math.sqrt(1 + 2 * math.sqrt(N)))
    for x in range((isqrt(4 * N) + 1) // 2, last + 1):
        for X in (2 * x, 2 * x + 1):
            D = X * X - 4 * N
            if D < 0 and not guarded:
                raise ValueError("root of a negative number")
            Y = root_up(D)
            Y += (Y - X) % 2
            sums.append(X + (Y * Y - D) // 4)
    return min(sums)


def scan_pq(N):
    """The smallest S by the post's second fast algorithm."""
    m, p0 = isqrt(N), isqrt(4 * N)
    if m * m == N:
        return 2 * m
    window = range(p0, math.floor(bound(N)) + 1)
    return min(p + N - a_of(p, N) * (p - a_of(p, N)) for p in window)


# %% tags=["hide-input"]
def raises(n):
    try:
        scan_xy(n, guarded=False)
    except ValueError:
        return True
    return False


xy_wrong = [n for n in range(1, 5001) if scan_xy(n) != least[n]]
pq_wrong = [n for n in range(1, 20_001) if scan_pq(n) != least[n]]
negative = [n for n in range(1, 5001) if raises(n)]
nb.claim(
    "C9",
    "The (x, y) algorithm finds the optimum. As printed its window begins at √N − ½, where x² − N may be negative; with y = 0 there it is right for N ≥ 4.",
    "partly",
    holds=[sym.enumeration("S for 4 ≤ N ≤ 5000, y = 0 for negative D", range(4, 5001), scan_xy, lambda n: int(least[n]))],
    fails=[
        ledger.close("N ≤ 5000 with a negative number under the root", len(negative), 2485, abs=0.5),
        sym.enumeration(
            "they are those with m < √N < m + ½ for an m",
            range(1, 5001),
            set(negative).__contains__,
            lambda n: 0 < n - isqrt(n) ** 2 <= isqrt(n),
        ),
        sym.enumeration("wrong at", range(3), xy_wrong.__getitem__, [1, 2, 3].__getitem__),
    ],
)
nb.claim(
    "C10",
    "The (p, q) algorithm finds the optimum: for all 4 ≤ N ≤ 20,000 it does; at N = 1, 2, 3 it gives 2, 3, 4, having no a = b = 0.",
    "partly",
    holds=[sym.enumeration("S for 4 ≤ N ≤ 20,000", range(4, 20_001), scan_pq, lambda n: int(least[n]))],
    fails=[sym.enumeration("S at N = 1, 2, 3", range(1, 4), scan_pq, lambda n: int(least[n]) + 1)],
)
rows = [
    ["a = b = ⌊√N⌋, or b one more", "1", f"{wrong_up_to[2 * 10**4]:,}", "the product is not what counts"],
    ["√(N/2) < a ≤ √N", "0.29 √N", f"{len(missed)} (none above 2,890)", "the lower end is too high by one"],
    ["(x, y)", "2.8 N^(1/4)", "3, and a negative root for every second N", "a = b = 0; the window's lower end"],
    ["(p, q)", "2 N^(1/4)", "3 (N = 1, 2, 3)", "a = b = 0"],
    ["ten lines, early stop", "≈ 1.2 N^(1/6) on average", "0", ""],
]
nb.results(
    "E2", "The post's algorithms and ours, N ≤ 20,000 (the third: 5,000)", ["algorithm", "candidates", "wrong N", "what it lacks"], rows
)
nb.experiment(
    "E2",
    "Of the post's four algorithms the guess misses nine numbers in ten up to 20,000; the other three miss 31, 3 and 3 numbers in all.",
    "verified",
    holds=[
        ledger.close("guess, wrong up to 20,000", wrong_up_to[2 * 10**4], 18161, abs=0.5, digits=5),
        ledger.close("half range, wrong", len(missed), 31, abs=0.5),
        ledger.close("(x, y), wrong", len(xy_wrong), 3, abs=0.5),
        ledger.close("(p, q), wrong", len(pq_wrong), 3, abs=0.5),
    ],
)

# %% [markdown]
# ## How long does it take? A law of large N
#
# The window has $2N^{1/4}$ values of $p$, but the first figure shows that the loop stops far earlier. Why? For $p=p_0+j$, $\sqrt{D_p}$ is about
# $2N^{1/4}\sqrt j$, and $q$ exceeds it by something between 0 and 2. If that is as good as uniform, $q-\sqrt{D_p}=2U_j$, then
# $c_j\approx2U_jN^{1/4}\sqrt j$. The best sum exceeds $2\sqrt N+T$ if $j+c_j>T$ for every $j<T$:
#
# $$\begin{aligned}P(S^*-2\sqrt N>T)&\approx\prod_{j<T}\Bigl(1-\frac{T-j}{2N^{1/4}\sqrt j}\Bigr)\\&\approx\exp\Bigl(-\int_0^T\frac{T-j}{2N^{1/4}\sqrt j}\,dj\Bigr)
# =\exp\Bigl(-\frac{2\,T^{3/2}}{3N^{1/4}}\Bigr).\end{aligned}$$
#
# So $(S^*-2\sqrt N)/N^{1/6}$ should follow a Weibull law of shape $\frac32$: survival $e^{-\frac23x^{3/2}}$, median $(\frac32\ln2)^{2/3}=1.026$, mean
# $(\frac32)^{2/3}\Gamma(\frac53)=1.183$. This is a heuristic for *random* $N$, and it can be tested.


# %%
def survival(x):
    """The limit law: the share of N with S* - 2 sqrt(N) > x N^(1/6)."""
    return np.exp(-2 / 3 * np.maximum(x, 0) ** 1.5)


def product(N, x, phases=50):
    """The product before the limit: c is a whole number, and p0 + j lies j - f above 2 sqrt(N); the mean over the phase f."""
    T, mean = x * N ** (1 / 6), 0.0
    for f in (np.arange(phases) + 0.5) / phases:
        above = np.arange(1, int(T + f) + 1) - f
        chance = (np.floor(T - above) + 1) / (2 * N**0.25 * np.sqrt(above))
        mean += float(np.prod(np.clip(1 - chance, 0, 1))) / phases
    return mean


scaled = {}
for e in (12, 15, 18):
    rng = random.Random(1)
    chosen = [rng.randrange(10 ** (e - 1), 10**e) for _ in range(2000)]
    scaled[e] = np.array([(min_sum_decomposition(n).total - 2 * math.sqrt(n)) / n ** (1 / 6) for n in chosen])
tests = {e: scipy.stats.kstest(x, lambda x: 1 - survival(x)) for e, x in scaled.items()}
for e, x in scaled.items():
    print(f"10^{e}: mean {x.mean():.3f}, median {np.median(x):.3f}, KS distance {tests[e].statistic:.4f}, p = {tests[e].pvalue:.2f}")

# %% tags=["hide-input"]
T, j, X = sp.symbols("T j X", positive=True)
wide = {e: (10**e + 10 ** (e - 2), 5 * 10**6) for e in (9, 12)}
tails = {}
for e, (start, count) in wide.items():
    values = window(start, count).astype(float)
    numbers_ = start + np.arange(count, dtype=float)
    values -= 2 * np.sqrt(numbers_)
    tails[e] = values / numbers_ ** (1 / 6)
at = [0.5, 1.0, 2.0, 3.0]
shares = {e: [float((x > v).mean()) for v in at] for e, x in tails.items()}
limits = [float(survival(np.float64(v))) for v in at]
finite = {e: [product(float(wide[e][0]), v) for v in at] for e in (9, 12)}
weibull = sp.exp(-sp.Rational(2, 3) * X ** sp.Rational(3, 2))
nb.derivation(
    "D12",
    "(S* − 2√N)/N^(1/6) tends to a Weibull law: survival exp(−⅔x^(3/2)), median ((3/2) ln 2)^(2/3), mean (3/2)^(2/3) Γ(5/3) (heuristic step: q − √D uniform).",
    sym.identity(
        "the integral",
        sp.Integral((T - j) / (2 * N ** sp.Rational(1, 4) * sp.sqrt(j)), (j, 0, T)),
        2 * T ** sp.Rational(3, 2) / (3 * N ** sp.Rational(1, 4)),
    ),
    sym.solves("median", sp.Eq(weibull, half_), X, (sp.Rational(3, 2) * sp.log(2)) ** sp.Rational(2, 3)),
    sym.numeric("mean", sp.Integral(weibull, (X, 0, sp.oo)), sp.Rational(3, 2) ** sp.Rational(2, 3) * sp.gamma(sp.Rational(5, 3))),
    *[
        ledger.less(
            f"product over limit, off by at most, N = 10^{e}",
            max(abs(product(10.0**e, v) / float(survival(np.float64(v))) - 1) for v in at),
            size,
            digits=2,
        )
        for e, size in ((12, 0.1), (18, 0.02), (24, 0.003))
    ],
)
nb.claim(
    "C13",
    "2,000 random N at each of 10¹², 10¹⁵, 10¹⁸ follow the Weibull law.",
    "verified",
    holds=[
        *[
            ledger.more(f"p-value of Kolmogorov and Smirnov, 10^{e}", t.pvalue, 0.01, digits=3, scope="2,000 N, seed 1")
            for e, t in tests.items()
        ],
        *[sym.monte_carlo(f"mean, 10^{e}", float(x.mean()), float(x.std() / 2000**0.5), 1.18293, draws=2000) for e, x in scaled.items()],
        ledger.less(
            "the test has power: p-value for the shape 2 instead of 3/2, 10^18",
            scipy.stats.kstest(scaled[18], lambda x: 1 - np.exp(-(math.gamma(1.5) ** 2) / 1.18293**2 * np.maximum(x, 0) ** 2)).pvalue,
            1e-6,
            digits=1,
        ),
    ],
)
nb.claim(
    "X4",
    "At finite N the product, with whole c and the phase of 2√N, is right where the limit law is still off: at 10⁹, for five million consecutive N.",
    "verified",
    holds=[
        *[
            ledger.close(f"share with x > {v:g}, against the product", share, want, rel=0.02)
            for v, share, want in zip(at, shares[9], finite[9], strict=True)
        ],
        ledger.more("the limit law is off, x > 3", limits[3] / shares[9][3] - 1, 0.15, digits=2),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: histograms of (S minus 2 root N) over N to the 1/6 for random N near ten to the 12, 15 and 18 as three step outlines that lie on the curve of the Weibull density, which rises from zero to a maximum near 0.7 and falls off by 4. Right: the share of N beyond x, on a logarithmic axis, against x to the 3/2: a straight line of slope minus two thirds; data at ten to the 12 follow it down to one in ten thousand and then scatter; data at ten to the 9 lie a little below it, on the product's curve."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.7))
bins = np.linspace(0, 4.5, 28)
for (e, values), color, style in zip(scaled.items(), (BLUE, ORANGE, GREEN), ("-", "--", ":"), strict=True):
    axes.hist(values, bins, density=True, histtype="step", color=color, ls=style, lw=1.5, label=f"2,000 N below 10^{e}")
grid = np.linspace(0, 4.5, 200)
axes.plot(grid, np.sqrt(grid) * survival(grid), color=BLACK, lw=2, ls="-", label="√x exp(−⅔ x^1.5)")
axes.set(xlabel="x = (S* − 2√N) / N^(1/6)", ylabel="density")
axes.set_title("The law", fontsize=10)
axes.legend(fontsize=8)
depth = np.linspace(0, 7, 60)
for (e, values), color, marker in zip(tails.items(), (PURPLE, BLUE), ("s", "o"), strict=True):
    share = np.array([(values > v).mean() for v in depth])
    right.plot(depth[share > 0] ** 1.5, share[share > 0], marker, color=color, ms=3.5, ls="none", label=f"5 million N from 1.01·10^{e}")
right.plot(depth**1.5, survival(depth), color=BLACK, lw=1.5, ls="-", label="limit: slope −2/3")
model = np.array([product(1.01e9, v, 20) for v in depth])
right.plot(depth[model > 1e-8] ** 1.5, model[model > 1e-8], color=PURPLE, lw=1.2, ls="--", label="product at 10^9")
right.set(yscale="log", ylim=(1e-7, 2), xlabel="x^1.5", ylabel="share of N beyond x")
right.set_title("Its tail", fontsize=10)
right.legend(fontsize=8)
figure.suptitle("The excess over 2√N follows a Weibull law on the scale N^(1/6)", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"]
nb.experiment(
    "E5",
    "The excess (S* − 2√N)/N^(1/6) of random N has the density √x exp(−⅔x^(3/2)), as far into the tail as five million consecutive N reach.",
    "verified",
    holds=[
        *[
            ledger.less(f"Kolmogorov–Smirnov distance, 10^{e}", t.statistic, 0.0365, digits=3, scope="2,000 N; 1% level")
            for e, t in tests.items()
        ],
        *[
            ledger.close(f"share beyond x = {v:g}, 10^12", share, want, rel=0.06)
            for v, share, want in zip(at, shares[12], finite[12], strict=True)
        ],
        *[
            ledger.close(
                f"share beyond x = {v:g}, 10^12, in logarithm",
                math.log(float((tails[12] > v).mean())),
                math.log(float(survival(np.float64(v)))),
                rel=0.05,
            )
            for v in (4.0, 4.5)
        ],
    ],
)
centres = [sum(samples[s_]) / len(samples[s_]) for s_ in sizes]
slope = metrics.loglog_slope(centres, [float(np.mean(excess[s_])) for s_ in sizes])
ratios = [float(np.median(excess[s_])) / float(c_) ** (1 / 6) for s_, c_ in zip(sizes, centres, strict=True)]
nb.experiment(
    "E3",
    "The number of steps grows like N^(1/6) for random N from 10⁶ to 10³⁶; at 10³⁰ the window would have 6.3·10⁷ values, the scan over a 10¹⁵.",
    "verified",
    holds=[
        ledger.close("slope of the mean, 11 sizes", slope.slope, 1 / 6, abs=3 * slope.stderr, scope="40 random N each (12 above 10³⁰)"),
        ledger.less("its 95% interval ends below 1/4", slope.interval()[1], 0.2),
        ledger.more("smallest median over N^(1/6)", min(ratios), 0.7),
        ledger.less("largest median over N^(1/6)", max(ratios), 1.5),
        ledger.close("median steps at 10³⁰", float(np.median(excess[10**30])), 8e4, rel=0.3),
        ledger.close("values of the window at 10³⁰", math.ceil(bound(1e30)) - 2e15, 6.32e7, rel=1e-2),
    ],
)

# %% [markdown]
# The phase matters: right after a square, or after a product of neighbours, the guess of the first act *is* optimal. Since $S^*(N)\le S^*(N-1)+1$ (add
# one to $c$) and the guess grows by exactly one from $m^2+r$ to $m^2+r+1$, it stays wrong once it is wrong, up to the next such point. So the guess is
# right on one run after each $m^2$ and each $m(m+1)$. The law of the excess says how long: about $1.183\,N^{1/6}$ numbers, and
# summed over $m\le\sqrt X$, twice each,
#
# $$2\sum_{m\le\sqrt X}1.183\,m^{1/3}\approx1.774\,X^{2/3}$$
#
# of the $N\le X$ have a right guess. (At $10^7$ it is still a quarter more: the phase 0 lengthens the run at finite $N$.)


# %%
def run_length(m, odd):
    """For how many r = 0, 1, .. the guess 2m + odd + r is optimal at N = m(m + odd) + r, by bisection."""
    low, high = 0, 4 * isqrt(m) + 8
    while high - low > 1:
        r = (low + high) // 2
        low, high = (r, high) if min_sum_decomposition(m * (m + odd) + r).total == 2 * m + odd + r else (low, r)
    return low + 1


# %%
def mean_run(N):
    """Its mean by the product, at phase 0."""
    length, r = 0.0, 0
    while r * r < 40 * N ** (1 / 3):
        j = np.arange(1, r)
        length += float(np.prod(1 - (r - j) / (2 * N**0.25 * np.sqrt(j))))
        r += 1
    return length


sizes_m = {10**5: 500, 10**9: 250}
runs = {M: [run_length(rng.randrange(M // 2, M), rng.randrange(2)) / (0.75 * M) ** (1 / 3) for _ in range(k)] for M, k in sizes_m.items()}
predicted = {M: mean_run((0.75 * M) ** 2) / (0.75 * M) ** (1 / 3) for M in sizes_m}
right_count = np.cumsum(~wrong)
marks = np.unique(np.geomspace(10, 10**7, 120).astype(int))
ends = np.flatnonzero(np.diff(wrong.astype(np.int8)) == -1) + 2  # the first right N of each run
print("mean run over N^(1/6):", {M: (round(float(np.mean(v)), 3), round(predicted[M], 3)) for M, v in runs.items()})

# %% tags=["hide-input"]
nb.claim(
    "X5",
    "The guess is right exactly on a run after each m² and each m(m + 1), of mean length about 1.183 N^(1/6): for about 1.774 X^(2/3) of the N ≤ X.",
    "verified",
    holds=[
        sym.enumeration(
            "every run begins at m² or m(m + 1), N ≤ 10⁷",
            range(len(ends)),
            lambda i: int(ends[i]),
            lambda i: isqrt(int(ends[i])) ** 2 + (isqrt(int(ends[i])) if isqrt(int(ends[i])) ** 2 != ends[i] else 0),
        ),
        ledger.close(
            "share of the m² and m(m + 1), 4 ≤ N ≤ 10⁷, where it is right",
            float(np.mean([not wrong[i * (i + h) - 1] for i in range(2, 3162) for h in (0, 1)])),
            1,
            abs=1e-9,
        ),
        *[
            sym.monte_carlo(
                f"mean run over N^(1/6), m about {M:.0e}, against the product",
                float(np.mean(v)),
                float(np.std(v) / len(v) ** 0.5),
                predicted[M],
                draws=len(v),
            )
            for M, v in runs.items()
        ],
        ledger.close("the product's mean, m = 7.5e8, against 1.18293", predicted[10**9], 1.18293, rel=0.05),
        ledger.close(
            "right up to 10⁷ over 1.774 X^(2/3); it falls with X", right_count[10**7 - 1] / (1.774 * 10 ** (14 / 3)), 1.247, abs=2e-3
        ),
        ledger.increasing("that ratio at 10⁷, 10⁶, 10⁵", [right_count[10**e - 1] / 10 ** (2 * e / 3) for e in (7, 6, 5)]),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of the numbers up to X for which the guess a = b = floor of root N is optimal, against X from ten to ten million, both axes logarithmic. It falls from 0.6 at X = 50 to one per cent at ten million, close to the line 1.774 X to the minus one third, which it approaches from above."}}
figure, axes = plt.subplots(figsize=(7.2, 3.3))
axes.plot(marks, right_count[marks - 1] / marks, color=BLUE, label="measured, every N up to X")
axes.plot(marks[marks > 30], 1.774 * marks[marks > 30] ** (-1 / 3), color=BLACK, ls="--", lw=1.3, label="1.774 X^(−1/3)")
axes.set(xscale="log", yscale="log", xlabel="X", ylabel="share of N ≤ X")
axes.set_title("The obvious answer is right ever more rarely")
axes.legend()
nb.show(figure)

# %% [markdown]
# ## The worst case: records
#
# Typical is $N^{1/6}$, proved is $N^{1/4}$; what do the worst $N$ do? If the excess were an independent draw from the law for every $N$, the largest
# up to $X$ would be about $X^{1/6}(\frac32\ln X)^{2/3}$. Here are all records of the number of steps up to ten million.

# %%
records = [int(n) for n in np.flatnonzero(np.diff(np.maximum.accumulate(steps)) > 0) + 1]
extreme = lambda n: n ** (1 / 6) * (1.5 * math.log(n)) ** (2 / 3)
meeting = scipy.optimize.brentq(lambda z: math.log(extreme(math.exp(z)) / (2 * math.exp(z / 4))), 12, 30)
print("records:", *[f"{n} ({steps[n]})" for n in records[:12]], "..", *[f"{n} ({steps[n]})" for n in records[-2:]])
print(f"the two envelopes meet at N ≈ {math.exp(meeting):.2g}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "S minus 2 root N against N from 100 to ten million, both axes logarithmic. The median follows N to the 1/6. The records, red dots, climb in clusters just below the proved bound of slope one quarter; the curve of the independent law, N to the 1/6 times a power of the logarithm, lies above the bound up to about ten to the 8."}}
edges = np.unique(np.geomspace(100, 10**7, 60).astype(int))
middle_, upper_ = (np.array([np.quantile(over[i:k], share) for i, k in itertools.pairwise(edges)]) for share in (0.5, 0.99))
centre_ = np.sqrt(edges[1:] * edges[:-1].astype(float))
curve = np.geomspace(100, 10**9, 100)
figure, axes = plt.subplots(figsize=(7.2, 4.2))
axes.plot(curve, bound(curve) - 2 * np.sqrt(curve), color=BLACK, ls="-", lw=1.6, label="proved: 2 + √(1 + 4√N)")
axes.plot(curve, [extreme(n) for n in curve], color=ORANGE, ls="--", label="N^(1/6) (1.5 ln N)^(2/3)")
kept = [n for n in records if n >= 100]
axes.plot(kept, over[kept], "o", color=RED, ms=4, label="records of the number of steps")
axes.plot(centre_, upper_, color=PURPLE, ls=":", label="99% of N lie below")
axes.plot(centre_, middle_, color=BLUE, ls="-", label="median")
axes.plot(curve, 1.026 * curve ** (1 / 6), color=GREY, ls=(0, (5, 1)), lw=1.2, label="1.026 N^(1/6)")
axes.set(xscale="log", yscale="log", xlabel="N", ylabel="S* − 2√N", ylim=(1, 400))
axes.set_title("Up to 10⁷ the worst numbers use up to 9/10 of what the bound allows")
axes.legend(loc="upper left", fontsize=8, ncol=2)
nb.show(figure)

# %% tags=["hide-input"]
COUNTED = {
    6: 1,
    23: 2,
    53: 3,
    95: 4,
    175: 5,
    431: 6,
    539: 7,
    659: 8,
    1169: 9,
    1343: 10,
    2621: 11,
    29783: 23,
    41471: 24,
    89743: 32,
    225719: 39,
    278298: 41,
}
nb.experiment(
    "E4",
    "Records of the number of steps up to 10⁷: 6 (1), 23 (2), 53 (3), 95 (4), 175 (5), .., 278,298 (41), .., 6,893,369 (94).",
    "verified",
    holds=[
        sym.enumeration(
            "by counting in the loop, the records up to 20,000",
            [n for n in records if n <= 20_000],
            lambda n: answers[n][1],
            lambda n: int(steps[n]),
        ),
        sym.enumeration(
            "16 of them, counted by the loop", COUNTED, lambda n: (n in records, smallest_sum(n)[1]), lambda n: (True, COUNTED[n])
        ),
        ledger.close("the last", records[-1], 6893369, abs=0.5, digits=8),
        ledger.close("its steps", smallest_sum(records[-1])[1], 94, abs=0.5),
    ],
)
nb.claim(
    "X6",
    "The worst case up to 10⁷ cannot tell N^(1/4) from N^(1/6)(ln N)^(2/3): records use 0.9 of the proved allowance, and the heuristic envelope lies above it up to about 10⁸.",
    "verified",
    holds=[
        *[ledger.more(f"allowance used by the record {n:,}", float(d9_use[n - 1]), 0.895) for n in (89743, 6893369)],
        ledger.close("log10 of where the envelopes meet", meeting / math.log(10), 8.0, abs=0.3),
        ledger.more("heuristic envelope over bound at the last record", extreme(6893369) / (bound(6893369.0) - 2 * 6893369**0.5), 1.05),
        ledger.less(
            "largest excess of 5 million N at 10¹² over the allowance",
            float(tails[12].max()) * 1.01e12 ** (1 / 6) / (bound(1.01e12) - 2 * 1.01e12**0.5),
            1 / 3,
        ),
    ],
)

# %% [markdown]
# In this range the records hug the proved bound, with a factor of 0.9, and one might believe in $N^{1/4}$. But the envelope of the heuristic law
# lies *above* the bound until $10^8$: in this range it could not show. At $10^{12}$ the worst of five million consecutive numbers uses less than a
# third of the allowance. We know of no proof either way, and of no reason why special $N$ should not do worse than random ones.
#
# ## Beyond the post
#
# ### Floating point breaks below $2^{53}$
#
# A program that asks `math.sqrt(N) == int(math.sqrt(N))` whether $N$ is a square, to answer $2\sqrt N$ at once, is wrong long before integers cease to
# be exact in float64.

# %%
big = 2**26 + 1
N_bad = big * big - 1
print(N_bad, "< 2^53:", N_bad < 2**53, "| math.sqrt:", math.sqrt(N_bad), "| c =", N_bad - int(math.sqrt(N_bad)) ** 2)
earlier = 0  # smaller m with the same failure
for start in range(2, big, 2**20):
    m_ = np.arange(start, min(start + 2**20, big), dtype=np.float64)
    earlier += int((np.sqrt(m_ * m_ - 1) == m_).sum())

# %% tags=["hide-input"]
nb.claim(
    "C14",
    "For N = (2²⁶ + 1)² − 1 < 2⁵³ a float test for squares answers a = b = 2²⁶ + 1, c = −1; right is 67108864 + 67108866 + 0 = 134217730.",
    "verified",
    holds=[
        ledger.close("c by floating point", N_bad - int(math.sqrt(N_bad)) ** 2, -1, abs=0.5),
        ledger.less("N over 2⁵³", N_bad / 2**53, 1),
        sym.enumeration(
            "the optimum: a, b, c, S",
            range(4),
            lambda i: (smallest_sum(N_bad)[0][1:] + smallest_sum(N_bad)[0][:1])[i],
            (67108864, 67108866, 0, 134217730).__getitem__,
        ),
        ledger.close("smaller m for which √(m² − 1) = m in float64 (all 2 ≤ m ≤ 2²⁶ tried)", earlier, 0, abs=0.5),
    ],
)

# %% [markdown]
# ### Fermat's factorisation with a safety net
#
# Going up with $p$ from $2\sqrt N$ until $D_p=p^2-4N$ is a square is Fermat's method of factoring: $c=0$ means $N=ab$. It may take very long; allowing a
# remainder turns it into a search that always ends soon. Where Fermat's method is at its best the two agree: if $N=uv$ with
# $(\sqrt v-\sqrt u)^2<1$, then $u+v=\lceil2\sqrt N\,\rceil$, no sum can be smaller (D9), and the first step finds the factors, however large they are
# (save for a rare tie, as at $10=2\cdot5+0=3\cdot3+1$).
#
# ### How many optima?
#
# The program can give them all (`all_optima=True`). For each $p$ there is at most one, so they differ in $p$. The sieve can count them too: the pairs
# $(a,b)$ that attain the running minimum since it last dropped.

# %%
multiplicity = np.zeros(10**6 + 1, dtype=np.int64)
multiplicity[0] = 1
for a_ in range(1, 1001):
    b_ = np.arange(a_, 10**6 // a_ + 1)
    multiplicity[a_ * b_] += a_ + b_ - a_ * b_ == running[a_ * b_]
since = np.maximum.accumulate(np.where(drop[: 10**6 + 1], np.arange(10**6 + 1), 0))  # where the minimum last dropped
total_ = np.cumsum(multiplicity)
optima = total_ - np.where(since > 0, total_[since - 1], 0)
first_with = {k: int(np.argmax(optima == k)) for k in range(1, int(optima.max()) + 1)}
unique = {X: float((optima[X // 10 : X] == 1).mean()) for X in (10**3, 10**4, 10**5, 10**6)}
print("first N with k optima:", first_with)
print("share with one optimum only:", {f"{X // 10:,} to {X:,}": round(v, 4) for X, v in unique.items()})

# %% tags=["hide-input"]
pairs_ = []
for digits in (6, 15, 30, 60):
    for _ in range(25):
        u_ = pick.randrange(10 ** (digits - 1), 10**digits)
        pairs_.append((u_, u_ + pick.randrange(isqrt(4 * u_) - 1)))
pairs_.append((10**15 + 37, 10**15 + 91))
pairs_ += [(i, k) for i in range(2, 80) for k in range(i, 120) if (i + k - 1) ** 2 < 4 * i * k]
nb.claim(
    "X7",
    "If N = uv ≥ 4 with (√v − √u)² < 1, then S* = u + v in at most one step, and (u, v, 0) is an optimum; for (10¹⁵ + 37)(10¹⁵ + 91), for instance.",
    "verified",
    holds=[
        sym.enumeration(
            "101 products of up to 120 digits, and all small ones: S, is (u, v, 0) among the optima, at most one step",
            pairs_,
            lambda t: (
                min_sum_decomposition(t[0] * t[1]).total,
                numbers.Decomposition(*t, 0) in min_sum_decomposition(t[0] * t[1], all_optima=True),
                smallest_sum(t[0] * t[1])[1] <= 1,
            ),
            lambda t: (sum(t), True, True),
        ),
        sym.identity("u + v − 2√(uv), the excess over 2√N", N + m - 2 * sp.sqrt(N * m), (sp.sqrt(m) - sp.sqrt(N)) ** 2),
    ],
)
nb.claim(
    "X8",
    "Most N have one optimum (0.90 of those up to 10⁶, ever more); 4 is the first with two, 52 with three, 175 with four, 2,628 with five, 86,279 with six.",
    "verified",
    holds=[
        sym.enumeration(
            "the program against the sieve's count, N ≤ 20,000",
            range(20_001),
            lambda n: len(min_sum_decomposition(n, all_optima=True)),
            lambda n: int(optima[n]),
        ),
        sym.enumeration("first N with k optima", range(1, 7), lambda k: first_with[k], {1: 0, 2: 4, 3: 52, 4: 175, 5: 2628, 6: 86279}.get),
        ledger.increasing("share with one optimum, by decade", list(unique.values())),
        ledger.close("share up to 10⁶", float((optima == 1).mean()), 0.90, abs=0.02),
    ],
)

# %% [markdown]
# ## The post's statements beside ours

# %% tags=["hide-input"]
nb.results(
    "C",
    "What the post says, and what was found here",
    ["statement", "post", "here", "why they differ"],
    [
        ["N = 130", "a = 10, b = 13, not 11 and 11", "23 against 31", ""],
        ["identity for S", "N − (√(ab) − 1)² + (√a − √b)²", "one more", "a slip without consequence"],
        ["best a in (√(N/2), √N]", "always", "from 2,891 on; 31 exceptions", "extremes of {N/a} do not bound the best a"],
        ["(x, y): window", "from √N − ½", "root of a negative number if m < √N < m + ½", "y = 0 is meant"],
        ["(p, q)", "always", "for N ≥ 4", "a = b = 0 is missing"],
        ["cost", "O(N^(1/4))", "proved; N^(1/6) on average with an early stop", "the post computes the whole window"],
    ],
)

# %% [markdown]
# ## What does not hold
#
# - **The identity** (C3) lacks a $+1$; nothing rests on it.
# - **The half range** (C5) misses 31 numbers, the largest 2,890. It is repaired by one more $a$ (X1), and proved from 92,456 on (D5).
# - **The (x, y) window** (C9) begins where $x^2-N$ can be negative: for every second number, whenever $m<\sqrt N<m+\frac12$ for a whole $m$. Read as
#   $y=0$ it is right. (The text of the window is our reading; the two candidates below $\sqrt N$ are needed.)
# - **N = 1, 2, 3** (C10): $a=b=0$ is better. The original question, $N>100$, is untouched.
#
# What survives is all that matters: the change of variables, the parity trick and the bound are right, and up to $10^7$ the bound
# $2N^{1/4}$ is close to sharp.
#
# ## Exercises
#
# 1. Make $c$ dearer: minimise $a+b+wc$ with a whole $w\ge1$. What changes in the ten lines? How should the number of steps grow with $w$?
# 2. $S^*(N+1)\le S^*(N)+1$, but how far can $S^*$ *fall* from one number to the next? Find the deepest fall up to $10^7$, and say what
#    the two numbers have in common.
# 3. Replace the stop of the ten lines by "until $c=0$". Which method is this, and how many steps does it take for $N=uv$?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# For a given $p$ the smallest $c$ is still best, and $p$ alone still bounds from below: only the sum changes. The chance of a hit at $j$ is now
# $(T-j)/(2wN^{1/4}\sqrt j)$, so $T$ grows like $w^{2/3}N^{1/6}$: for $w=8$ fourfold, up to the ceiling of the window.
# ```


# %% tags=["hide-cell"]
def weighted(N, w):
    """The smallest a + b + w c, and p - p0 at the end."""
    p = first = isqrt(4 * N)
    best = w * N
    while p < best:
        a = a_of(p, N)
        best = min(best, p + w * (N - a * (p - a)))
        p += 1
    return best, p - first


check_w = all(
    weighted(n, 3)[0] == min(i + j + 3 * (n - i * j) for i in range(n + 1) for j in range(i, n + 1) if i * j <= n) for n in range(1, 80)
)
some = [random.Random(9).randrange(10**14, 10**15) + 10**12 * i for i in range(200)]
print("w = 3 against all pairs, N < 80:", check_w)
print(
    "steps with w = 8 over w = 1:", round(float(np.mean([weighted(n, 8)[1] for n in some]) / np.mean([weighted(n, 1)[1] for n in some])), 2)
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# At 9,315,593 the sum is 6,194, one further 6,105: $9{,}315{,}594=3006\cdot3099$. A fall always ends at $c=0$: if an optimum of $N+1$ had $c>0$, taking
# one from $c$ would give $S^*(N)\le S^*(N+1)-1$.
# ```

# %% tags=["hide-cell"]
falls = least[:-1] - least[1:]
deepest = int(np.argmax(falls))
print(
    f"S*({deepest}) = {least[deepest]}, S*({deepest + 1}) = {least[deepest + 1]}: {min_sum_decomposition(deepest)}, {min_sum_decomposition(deepest + 1)}"
)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# Fermat's factorisation. It ends at $p=u+v$ for the factors closest to each other, after about $(\sqrt v-\sqrt u)^2$ steps: up to $N/2$ for twice a
# prime. With remainders allowed no number below $10^7$ takes more than 94.
# ```


# %% tags=["hide-cell"]
def fermat(N):
    """The closest factors of N, and the steps."""
    p = first = isqrt(4 * N - 1) + 1
    while a_of(p, N) * (p - a_of(p, N)) != N:
        p += 1
    return a_of(p, N), p - a_of(p, N), p - first


for n in (1009 * 1013, 499 * 2003, 101 * 9901):
    u_, v_, count_ = fermat(n)
    print(f"{n} = {u_} · {v_}: {count_} steps, (√v − √u)² = {(v_**0.5 - u_**0.5) ** 2:.1f}; the ten lines: {smallest_sum(n)[1]}")

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2023abc`. Fermat's method, and what became of it: {cite}`crandall2005primes`. The floating-point model behind the bound on the
# guess: {cite}`higham2002accuracy`.
