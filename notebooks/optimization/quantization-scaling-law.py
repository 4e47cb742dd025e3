# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deriving scaling laws from the quantization hypothesis
#
# [基于量子化假设推导模型的尺度定律（Scaling Law）](https://kexue.fm/archives/9607) · 2023-05-18 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/quantization-scaling-law.ipynb)
#
# **The point.** Suppose that what a model can learn comes in indivisible skills, and that the $k$-th commonest is needed with frequency $\propto k^{-(\gamma+1)}$. Then the
# loss must fall like $N^{-\gamma}$ in the number $N$ of parameters and like $D^{-\gamma/(\gamma+1)}$ in the number $D$ of samples.
# The networks that the hypothesis was tested on show other exponents. One reason is that every experiment has a *finite* list of skills, which bends the fitted slopes: at the paper's 500 tasks it explains why they stop falling at small $\gamma$ (figure).
# In our own runs (200 tasks), where no constant is left to fit, it accounts only for 60% of the excess of the exponent in training steps at $\gamma=0.4$ and 23% at 0.6; the rest goes with rare skills that are learned sooner than their frequency allows.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import random
import re
from collections import Counter
from fractions import Fraction

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, optim, runtime
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED

# %%
nb = kexue_nb.notebook("quantization-scaling-law")


# %% tags=["hide-input"]
@torch.no_grad()
def worst(*differences):
    """The largest absolute entry of numbers, arrays and tensors."""
    return float(torch.cat([torch.as_tensor(d).double().flatten().cpu() for d in differences]).abs().max())


# %% tags=["hide-input"]
# The fitted exponents of the paper's networks, read off its Figure 10 (±0.003): gamma -> (alpha_N, alpha_S, alpha_D).
PAPER = {
    0.1: (0.229, 0.228, 0.275),
    0.2: (0.283, 0.267, 0.274),
    0.3: (0.339, 0.307, 0.297),
    0.4: (0.378, 0.346, 0.308),
    0.5: (0.454, 0.376, 0.335),
    0.7: (0.571, 0.468, 0.373),
    0.8: (0.608, 0.482, 0.404),
}
gammas = np.array(list(PAPER))
paper_fits = np.array(list(PAPER.values()))
infinite = np.stack([gammas, gammas / (gammas + 1), gammas / (gammas + 1)], 1)


def finite_list(gamma, K):
    """k^-(gamma+1) for k = 1..K, divided by its sum."""
    p = np.arange(1, K + 1.0) ** -(gamma + 1)
    return p / p.sum()


def unlearned_mass(p, needed):
    """Loss (a = 0, b = 1) of a model that has learned quantum k where needed[k] <= 1: the frequency of the others."""
    return float(p[needed > 1].sum())


def fitted_by_data(gamma, tau=20000, K=500):
    """alpha_D of one sharp threshold on a finite list, at the paper's sizes, fitted from the first loss below 0.95."""
    p, sizes = finite_list(gamma, K), (2 ** np.linspace(math.log2(1e4), math.log2(5e6), 25)).astype(int)
    losses = np.array([unlearned_mass(p, tau / (D * p)) for D in sizes])
    first = int(np.argmax(losses < 0.95))
    return -metrics.loglog_slope(sizes[first:], losses[first:]).slope


FIRST_SHARE = float(finite_list(0.4, 500)[0])


def fitted_by_steps(gamma, tau=300 * FIRST_SHARE, K=500):
    """alpha_S of the same, at the steps 500, 1000, .., 14500 of the authors' fit."""
    p, steps = finite_list(gamma, K), np.arange(500, 14501, 500)
    return -metrics.loglog_slope(steps, [unlearned_mass(p, tau / (S * p)) for S in steps]).slope


def fitted_by_parameters(gamma, price=2500, power=0.8, K=500):
    """alpha_N of the same where N parameters hold (N/price)^power quanta, at the paper's 20 widths (603 w + 2 parameters)."""
    p, N = finite_list(gamma, K), 603 * (2 ** np.linspace(math.log2(10), math.log2(300), 20)).astype(int) + 2
    held = np.minimum(np.floor((N / price) ** power).astype(int), K - 1)
    return -metrics.loglog_slope(N, [p[n:].sum() for n in held]).slope


rms_gap = lambda a, b: float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))
finite = np.array([[fitted_by_parameters(g), fitted_by_steps(g), fitted_by_data(g)] for g in gammas])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels, exponents for parameters, steps and data against gamma from 0.1 to 0.8. In each the dashed line of the infinite list starts far below the paper's measured points and meets them only at large gamma, while the solid line of the finite list of 500 tasks runs through the points, which never fall below 0.22."}}
figure, panels = plt.subplots(1, 3, figsize=(8.2, 3.3), sharey=True)
for i, (axes, name) in enumerate(zip(panels, ("parameters: α_N", "steps: α_S", "data: α_D"), strict=True)):
    axes.plot(gammas, infinite[:, i], color=GREY, ls="--", label="infinite list: " + ("γ" if i == 0 else "γ/(γ+1)"))
    axes.plot(gammas, finite[:, i], color=BLUE, ls="-", label=("list of 500, n ∝ N^0.8" if i == 0 else "list of 500"))
    axes.plot(gammas, paper_fits[:, i], "o", color=ORANGE, mec=BLACK, ms=6, label="networks (paper)")
    axes.set_title(name, fontsize=10)
    axes.set(xlabel="γ", ylim=(0, 0.85))
    axes.legend(fontsize=8, loc="upper left")
panels[0].set_ylabel("fitted exponent")
figure.suptitle(
    "A finite list, its constants fitted, comes nearer than the infinite one", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# Losses of large models fall as power laws: of the number $N$ of parameters, of the number $D$ of samples, of the number $S$ of steps
# {cite}`kaplan2020scaling,hoffmann2022chinchilla`. Why a power, and what sets the exponents? The post {cite}`su2023quantization` retells an answer of
# Michaud and others {cite}`michaud2023quantization`.
#
# Think of a perfect model as a list of *quanta*: skills that are either there or not. Sort them by how often a sample needs them. A finite model has the first $n$. On a sample whose
# quantum it has, it loses $a$; on the others $b>a$. So its loss is $a$ plus $(b-a)$ times the frequency of everything that it lacks, and if the frequencies
# have a power-law tail, so has the loss. Three resources then enter through one number, $n$.
#
# Four questions are left to us. Do the asymptotics hold, with which constants? What changes when the list is finite, as in every experiment? Do networks
# behave so? Are the frequencies of real text of this kind? ([muP](mup.ipynb) and [its spectral form](mup-spectral.ipynb) ask how to *choose* hyper-parameters as models grow, which is assumed done here.)
#
# Notation. $p_k=k^{-\gamma-1}/Z$ with $Z=\zeta(\gamma+1)$ for an infinite list, $\gamma>0$ (the paper calls $\gamma$ $\alpha$, and in its code `alpha` is $\gamma+1$); $\tau$ the samples that a quantum needs, $C$
# its price in parameters, $B$ the batch size, $s=\gamma/(\gamma+1)$, $K$ the length of a finite list. Losses of networks are in bits, as in the paper.
#
# ## The loss of $n$ quanta
#
# $$L(n)=a\sum_{k\le n}p_k+b\sum_{k>n}p_k=a+(b-a)\sum_{k>n}p_k .$$
#
# Why the *first* $n$? The post says: they cover most samples. As an optimisation: among all sets of $n$ quanta the loss is least for the $n$ largest
# $p_k(b_k-a_k)$. That is the order of frequency when the gain $b_k-a_k$ is constant, as in the post, or falls with $k$. It is not in general.


# %%
def loss_of(learned, p, a, b):
    """The definition: every quantum k costs a_k if learned, otherwise b_k, weighted by its frequency."""
    return sum(q * (a[k] if k in learned else b[k]) for k, q in enumerate(p))


def random_quanta(seed, count=7):
    draw = random.Random(seed)
    p = [Fraction(draw.randint(1, 99)) for _ in range(count)]
    a = [Fraction(draw.randint(0, 20), 7) for _ in range(count)]
    return [q / sum(p) for q in p], a, [x + Fraction(draw.randint(1, 40), 9) for x in a]


def least_loss(case):
    p, a, b = random_quanta(case)
    return min(loss_of(chosen, p, a, b) for chosen in itertools.combinations(range(7), 1 + case % 5))


def greedy_loss(case):
    p, a, b = random_quanta(case)
    return loss_of(sorted(range(7), key=lambda k: -p[k] * (b[k] - a[k]))[: 1 + case % 5], p, a, b)


# %%
a, b, n, gamma = sp.symbols("a b n gamma", positive=True)
q = sp.symbols("p1:5", positive=True)
frequencies = [*q, 1 - sum(q)]
two_quanta = {0: Fraction(6, 10), 1: Fraction(4, 10)}  # gains 1 and 3: rarer, but worth more
lost_by = lambda kept: loss_of([kept], [two_quanta[0], two_quanta[1]], [0, 0], [1, 3])
nb.derivation(
    "D1",
    "L = aΣ_{k≤n}p_k + bΣ_{k>n}p_k = a + (b−a)Σ_{k>n}p_k; the best n quanta are those of largest p_k(b_k − a_k), the commonest ones where the gain is constant.",
    *[
        sym.identity(f"five quanta, n = {m}", loss_of(range(m), frequencies, [a] * 5, [b] * 5), a + (b - a) * sum(frequencies[m:]))
        for m in (1, 2, 4)
    ],
    sym.enumeration("greedy choice against all subsets, 200 random lists of seven", range(200), greedy_loss, least_loss),
    sym.enumeration("keep the commoner or the rarer of two", [0, 1], lost_by, lambda kept: Fraction([12, 6][kept], 10)),
)

# %% tags=["hide-input"]
common_first = lambda n, p: sum(sorted(p, reverse=True)[:n])
nb.claim(
    "C1",
    "A model with the first n quanta loses a + (b − a) times the frequency of the rest.",
    "verified",
    holds=[
        sym.enumeration(
            "constant a = 1/3, b = 2: least loss over all subsets of 40 random lists",
            [(seed, m) for seed in range(10) for m in (1, 2, 4, 6)],
            lambda c: min(
                loss_of(s, random_quanta(c[0])[0], [Fraction(1, 3)] * 7, [Fraction(2)] * 7) for s in itertools.combinations(range(7), c[1])
            ),
            lambda c: Fraction(1, 3) + Fraction(5, 3) * (1 - common_first(c[1], random_quanta(c[0])[0])),
        )
    ],
)

# %% [markdown]
# ## The tail of a power law
#
# With $p_k\propto k^{-\gamma-1}$ the sum is a Hurwitz zeta function. The post replaces it by an integral from $n$, which is right to leading order. The Euler-Maclaurin formula gives the rest:
#
# $$\sum_{k>n}k^{-\gamma-1}=\frac{n^{-\gamma}}{\gamma}-\frac{n^{-\gamma-1}}2+\frac{(\gamma+1)n^{-\gamma-2}}{12}-\frac{(\gamma+1)(\gamma+2)(\gamma+3)n^{-\gamma-4}}{720}+O(n^{-\gamma-6}).$$
#
# So $L\approx a+\frac{b-a}{\gamma Z}n^{-\gamma}$, too large by the factor $1+\frac{\gamma}{2n}$. Integrating from $n+\tfrac12$ instead absorbs that error: $(n+\tfrac12)^{-\gamma}/\gamma$ is
# right to $O(n^{-2})$.
#
# The check starts from what a tail is: a function that vanishes at infinity and loses $n^{-\gamma-1}$ from $n-1$ to $n$.


# %%
def tail_expansion(n, gamma):
    """Four terms of the sum of k^-(gamma+1) over k > n."""
    third = (gamma + 1) * n ** (-gamma - 2) / 12
    return n**-gamma / gamma - n ** (-gamma - 1) / 2 + third - (gamma + 1) * (gamma + 2) * (gamma + 3) * n ** (-gamma - 4) / 720


def tail(n, gamma):
    """The same from the definition: all minus the first n (mpmath)."""
    return mpmath.zeta(gamma + 1) - mpmath.fsum(mpmath.mpf(k) ** (-gamma - 1) for k in range(1, n + 1))


def next_coefficient(n, gamma):
    with mpmath.workdps(40):
        gamma = mpmath.mpf(gamma)
        return float((tail(n, gamma) - tail_expansion(mpmath.mpf(n), gamma)) * n ** (gamma + 6))


midpoint_error = lambda n, g: float((mpmath.mpf(n) + 0.5) ** -g / g / tail(n, g) - 1)

# %% tags=["hide-input"]
h = sp.Symbol("h", positive=True)
expansion_step = lambda g: sp.expand(
    sum(
        c * (sp.series((1 - h) ** (-g - j), h, 0, 9).removeO() - 1) * h ** (j - 1)
        for j, c in ((0, 1 / g), (1, -sp.Rational(1, 2)), (2, (g + 1) / 12), (4, -(g + 1) * (g + 2) * (g + 3) / 720))
    )
)
product = lambda g: math.prod(g + i for i in range(1, 6))
nb.derivation(
    "D2",
    "Σ_{k>n} k^(−γ−1) = n^(−γ)/γ − n^(−γ−1)/2 + (γ+1)n^(−γ−2)/12 − (γ+1)(γ+2)(γ+3)n^(−γ−4)/720 + …; the form (n+½)^(−γ)/γ is right to O(n⁻²).",
    sym.series("the terms drop by n^(−γ−1) from n − 1 to n = 1/h, times n^(γ+1)", expansion_step(gamma), 1 + 0 * h, h, order=6),
    *[
        ledger.close(f"γ = {g}: coefficient of the next term", next_coefficient(100, g), product(g) / 30240, rel=2e-3, digits=4)
        for g in (0.1, 0.3, 1.0)
    ],
    *[
        ledger.close(f"γ = {g}: (midpoint form / tail − 1) n²", midpoint_error(1000, g) * 1e6, g * (g + 1) / 24, rel=0.01, digits=3)
        for g in (0.3, 1.0)
    ],
)

# %% tags=["hide-input"]
leading_error = lambda n, g: float(mpmath.mpf(n) ** -g / g / mpmath.zeta(g + 1, n + 1) - 1)
nb.claim(
    "C2",
    "The loss is asymptotically a + (b − a)n^(−γ)/(γZ): the ratio tends to 1 with the error γ/(2n).",
    "verified",
    holds=[
        ledger.close(
            f"γ = {g}, n = {n}: error of the leading term over γ/(2n)",
            leading_error(n, g) / (g / (2 * n)),
            1,
            abs=0.02 if n > 10 else 0.08,
            digits=4,
        )
        for g in (0.1, 0.5, 1.0)
        for n in (10, 100, 1000, 10000)
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: tail of the list against n on log axes for gamma one half; the exact sum, the leading term and the midpoint form lie on each other except below n = 3. Right: relative errors: the leading term's falls like one over n, that of the midpoint form like one over n squared, that of four terms like n to the minus 6."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.3))
ns = np.unique(np.geomspace(1, 1000, 25).round().astype(int))
exact_tail = np.array([float(mpmath.zeta(1.5, int(m) + 1)) for m in ns])
axes.plot(ns, exact_tail, "o", color=BLACK, ms=4, label="exact sum")
axes.plot(ns, ns**-0.5 / 0.5, color=ORANGE, ls="--", label="leading term")
axes.plot(ns, (ns + 0.5) ** -0.5 / 0.5, color=BLUE, label="from n + ½")
axes.set(xscale="log", yscale="log", xlabel="n", ylabel="Σ over k > n")
axes.set_title("γ = ½", fontsize=10)
axes.legend(fontsize=8)
right.plot(ns, np.abs(ns**-0.5 / 0.5 / exact_tail - 1), color=ORANGE, ls="--", label="leading term ~ 1/n")
right.plot(ns, np.abs((ns + 0.5) ** -0.5 / 0.5 / exact_tail - 1), color=BLUE, label="from n + ½ ~ 1/n²")
right.plot(
    ns[:10],
    np.abs([float(tail_expansion(mpmath.mpf(int(m)), mpmath.mpf("0.5")) / tail(int(m), mpmath.mpf("0.5")) - 1) for m in ns[:10]]),
    color=GREEN,
    ls="-.",
    label="four terms ~ n⁻⁶",
)
right.set(xscale="log", yscale="log", xlabel="n", ylabel="relative error", ylim=(1e-9, 1))
right.legend(fontsize=8)
figure.suptitle("The integral from n is γ/(2n) off, the one from n + ½ hardly at all", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## Three resources, one number
#
# **Parameters.** If each quantum costs $C$ parameters, $n=N/C$, and $L-a\propto N^{-\gamma}$.
#
# **Data.** If a quantum needs $\tau$ samples, the last one learned has $Dp_n=\tau$:
# $n=\bigl(\frac{D}{\tau Z}\bigr)^{1/(\gamma+1)}$, hence $L-a\approx\frac{b-a}{\gamma}Z^{-1/(\gamma+1)}\tau^{s}D^{-s}$.
#
# **Steps.** $SB$ samples are seen in $S$ steps, so $D$ becomes $SB$ and the exponent stays $s=\gamma/(\gamma+1)$.
#
# Each law supposes that the other two resources are unlimited. The post says so for the steps only. No joint law $L(N,D)$ follows from any of this.

# %%
N, C, D, S, B, tau, Z = sp.symbols("N C D S B tau Z", positive=True)
s = gamma / (gamma + 1)
loss_n = (b - a) * n**-gamma / (gamma * Z)  # L - a
log_slope = lambda f, x: -x * sp.Derivative(sp.log(f), x)
last_by_data = (D / (tau * Z)) ** (1 / (gamma + 1))
last_by_steps = last_by_data.subs(D, S * B)
law_d = (b - a) / gamma * Z ** (-1 / (gamma + 1)) * tau**s * D**-s
tidy = lambda f: sp.powsimp(sp.expand_power_base(sp.simplify(f)), force=True)
log_ratio = lambda f, g: sp.expand_log(sp.log(f), force=True) - sp.expand_log(sp.log(g), force=True)
gap = b - a

# %% tags=["hide-input"]
law_n = (b - a) * C**gamma * N**-gamma / (gamma * Z)
nb.derivation(
    "D3",
    "n = N/C gives L − a ≈ (b−a)C^γ N^(−γ)/(γZ): α_N = γ.",
    sym.identity("substitute n = N/C", loss_n.subs(n, N / C), law_n),
    sym.identity("local exponent in N", log_slope(loss_n.subs(n, N / C) / gap, N), gamma),
)
nb.derivation(
    "D4",
    "Dp_n = τ gives n = (D/(τZ))^(1/(γ+1)) and L − a ≈ (b−a)/γ · Z^(−1/(γ+1)) τ^s D^(−s): α_D = γ/(γ+1).",
    sym.solves("the last quantum learned", sp.Eq(D * n ** (-gamma - 1) / Z, tau), n, last_by_data),
    sym.identity("constant and power (logarithms of both sides)", log_ratio(loss_n.subs(n, last_by_data) / gap, law_d / gap), 0 * D),
    sym.identity("local exponent in D", log_slope(loss_n.subs(n, last_by_data) / gap, D), gamma / (gamma + 1)),
)
nb.derivation(
    "D5",
    "SBp_n = τ gives the same law in SB: α_S = γ/(γ+1).",
    sym.solves("the last quantum learned", sp.Eq(S * B * n ** (-gamma - 1) / Z, tau), n, last_by_steps),
    sym.identity(
        "constant and power (logarithms of both sides)", log_ratio(loss_n.subs(n, last_by_steps) / gap, law_d.subs(D, S * B) / gap), 0 * S
    ),
    sym.identity("local exponent in S", log_slope(loss_n.subs(n, last_by_steps) / gap, S), gamma / (gamma + 1)),
)

# %% [markdown]
# ## Samples come at random
#
# Fix the number of samples, and the number that concern quantum $k$ is random, about Poisson with mean $\lambda=Dp_k$. Let a quantum be learned if and only if at least $\tau$ of its samples
# occurred. The chance that it is not is $e^{-\lambda}\sum_{j<\tau}\lambda^j/j!$, and turning the sum over $k$ into an integral over $\lambda$, with
# $k^{-\gamma-1}dk\propto\lambda^{s-1}d\lambda$, gives Gamma functions:
#
# $$L-a\approx\frac{b-a}{\gamma}Z^{-1/(\gamma+1)}\,\frac{\Gamma(\tau+s)}{\Gamma(\tau)}\,D^{-s}.$$
#
# It is the sharp law with $\tau^s$ replaced by $\Gamma(\tau+s)/\Gamma(\tau)$. The exponent is the same, the constant smaller, by 11% at $\tau=1$ and $\gamma=\frac12$. For $\tau=1$ a model memorises whatever it has seen once: Hutter's learning curve {cite}`hutter2021learning`.


# %%
def random_counts(gamma, tau, D, ranks=300_000):
    """Sum over k of p_k P(Poisson(D p_k) < tau) from the definition, beyond ``ranks`` to second order in D p_k."""
    Z, k = float(mpmath.zeta(gamma + 1)), np.arange(1, ranks + 1.0)
    p = k ** -(gamma + 1) / Z
    rest = float(mpmath.zeta(gamma + 1, ranks + 1)) / Z
    if tau == 1:  # exp(-x) = 1 - x + x^2/2 - ..
        rest += sum((-D) ** j * float(mpmath.zeta((j + 1) * (gamma + 1), ranks + 1)) / Z ** (j + 1) / math.factorial(j) for j in (1, 2))
    return float((p * scipy.stats.poisson.cdf(tau - 1, D * p)).sum()) + rest


def gamma_law(gamma, tau, D):
    """The asymptotic formula, b - a = 1."""
    s, Z = gamma / (gamma + 1), float(mpmath.zeta(gamma + 1))
    return Z ** (-1 / (gamma + 1)) / gamma * math.gamma(tau + s) / math.gamma(tau) * D**-s


# %% tags=["hide-input"]
x = sp.Symbol("lambda", positive=True)
k_of = (D / (Z * x)) ** (1 / (gamma + 1))
g_sym = sp.Symbol("s", positive=True)
nb.derivation(
    "D6",
    "With Poisson counts L − a ≈ (b−a)/γ · Z^(−1/(γ+1)) Γ(τ+s)/Γ(τ) D^(−s).",
    sym.identity(
        "change of variables: p_k |dk/dλ| = (D/Z)^(−s)/(Z(γ+1)) λ^(s−1)",
        -(k_of ** (-gamma - 1)) * sp.Derivative(k_of, x) / Z / x ** (s - 1),
        (D / Z) ** (-s) / (Z * (gamma + 1)),
    ),
    *[
        sym.identity(
            f"Σ_(j<{t}) ∫ λ^(s−1) e^(−λ) λ^j/j! dλ = Γ({t}+s)/(sΓ({t}))",
            sum(sp.Integral(x ** (g_sym - 1 + j) * sp.exp(-x), (x, 0, sp.oo)) / sp.factorial(j) for j in range(t)),
            sp.gamma(t + g_sym) / (g_sym * sp.gamma(t)),
        )
        for t in (1, 2, 3, 4)
    ],
    *[
        ledger.close(
            f"direct sum over the formula, γ = {g}, τ = {t}", random_counts(g, t, 3e4) / gamma_law(g, t, 3e4), 1, abs=1e-6, digits=7
        )
        for g in (0.3, 0.5, 1.0)
        for t in (1, 3, 10)
    ],
    *[
        ledger.close(f"random over sharp counts at γ = ½, τ = {t}", math.gamma(t + 1 / 3) / math.gamma(t) / t ** (1 / 3), r, abs=1e-4)
        for t, r in ((1, 0.8930), (3, 0.9631), (10, 0.9889))
    ],
)


# %% tags=["hide-input"]
def sampled_exponent(gamma, tau, K=20000, draws=200):
    """Exponent of the mean unlearned mass over simulated data sets between D = 1000 and 16000 (multinomial counts, not Poisson)."""
    rng = np.random.default_rng(7)
    k = np.arange(1, K + 1.0)
    p = np.append(k ** -(gamma + 1) / float(mpmath.zeta(gamma + 1)), 0)
    p[-1] = 1 - p.sum()  # everything rarer, never learned
    sizes = [1000, 2000, 4000, 8000, 16000]
    losses = [np.mean([p[:-1][rng.multinomial(D, p)[:-1] < tau].sum() + p[-1] for _ in range(draws // 10)]) for D in sizes]
    return -metrics.loglog_slope(sizes, losses).slope


sharp_number = lambda g, D, tau=10: int((D / (tau * float(mpmath.zeta(g + 1)))) ** (1 / (g + 1)))
sharp_exponent = lambda g: (
    -metrics.loglog_slope(
        [2.0**j * 1e6 for j in range(6)], [float(mpmath.zeta(g + 1, sharp_number(g, 2.0**j * 1e6) + 1)) for j in range(6)]
    ).slope
)
step_exponent = lambda g: (
    -metrics.loglog_slope(
        [2**j * 10**5 for j in range(6)], [float(mpmath.zeta(g + 1, sharp_number(g, 64 * 2**j * 10**5) + 1)) for j in range(6)]
    ).slope
)
nb.claim(
    "C3",
    "α_N = γ where every quantum costs the same number of parameters.",
    "verified",
    holds=[
        ledger.close(
            f"γ = {g}: exponent of the exact loss at N/C = 1000, 2000, .., 16000",
            -metrics.loglog_slope([1000 * 2**j for j in range(5)], [float(mpmath.zeta(g + 1, 1000 * 2**j + 1)) for j in range(5)]).slope,
            g,
            rel=2e-3,
        )
        for g in (0.1, 0.5, 1.0)
    ],
)
nb.claim(
    "C4",
    "α_D = γ/(γ+1), with a sharp threshold as with random counts.",
    "verified",
    holds=[
        *[
            ledger.close(f"γ = {g}, sharp: fitted exponent of the exact loss", sharp_exponent(g), g / (g + 1), rel=0.01, digits=3)
            for g in (0.3, 0.5, 1.0)
        ],
        *[
            ledger.close(
                f"γ = {g}, simulated data sets, τ = 3", sampled_exponent(g, 3), g / (g + 1), rel=0.05, digits=3, method="monte carlo"
            )
            for g in (0.5, 1.0)
        ],
    ],
)
nb.claim(
    "C5",
    "α_S = γ/(γ+1), and S and B enter only through SB.",
    "verified",
    holds=[
        sym.identity(
            "d ln L/d ln S = d ln L/d ln B",
            log_slope(loss_n.subs(n, last_by_steps) / gap, S),
            log_slope(loss_n.subs(n, last_by_steps) / gap, B),
        ),
        *[
            ledger.close(f"γ = {g}: fitted exponent of the exact loss in S at B = 64", step_exponent(g), g / (g + 1), rel=0.01, digits=3)
            for g in (0.4, 0.8)
        ],
    ],
)

# %% [markdown]
# ## The list ends
#
# Let there be only $K$ quanta. The tail is then $n^{-\gamma}-K^{-\gamma}$ up to a constant, and the slope that a ruler finds in a log-log plot is not $\gamma$ but
#
# $$-\frac{d\ln L}{d\ln n}=\gamma\,\frac{n^{-\gamma}}{n^{-\gamma}-K^{-\gamma}}>\gamma ,$$
#
# which grows without bound as $n\to K$, where the loss drops to its floor. This is the post's picture of emergence (it writes "Emergency" once): at the very end of the list the curve falls off a cliff.
# The post also offers another reading, an infinite list of which people can only tell the first $K$ apart; the formula is the same.
#
# For a small $\gamma$ the correction is nowhere small. As $\gamma\to0$ the exponent becomes $1/\ln(K/n)$: with $K=500$ and twenty tasks learned, 0.31: no slope can fall below that there.

# %%
K = sp.Symbol("K", positive=True)
finite_tail = n**-gamma - K**-gamma
finite_exponent = gamma * n**-gamma / finite_tail
ended = lambda n, g, K: float(mpmath.zeta(g + 1, n + 1) - mpmath.zeta(g + 1, K + 1))
ruler = lambda n, g, K: -math.log(ended(n + 1, g, K) / ended(n - 1, g, K)) / math.log((n + 1) / (n - 1))
by_formula = lambda n, g, K: g * n**-g / (n**-g - K**-g)
nb.derivation(
    "D7",
    "With K quanta the local exponent is γn^(−γ)/(n^(−γ) − K^(−γ)) > γ and diverges as n → K; for γ → 0 it is 1/ln(K/n).",
    sym.identity("local exponent", log_slope(sp.Integral(x ** (-gamma - 1), (x, n, K)), n), finite_exponent),
    sym.limit("n → K (γ = ½, K = 500)", finite_exponent.subs({gamma: sp.Rational(1, 2), K: 500}), n, 500, sp.oo, side="-"),
    sym.limit("γ → 0", finite_exponent.subs({n: 20, K: 500}), gamma, 0, 1 / sp.log(25)),
    sym.limit("K → ∞ gives γ back", finite_exponent.subs({n: 20, gamma: 1}), K, sp.oo, 1),
    *[
        ledger.close(f"n = 20, K = 500, γ = {g}: discrete sums", ruler(20, g, 500), v, rel=0.03, digits=3)
        for g, v in ((0.1, 0.363), (0.4, 0.552), (0.8, 0.866))
    ],
)

# %% tags=["hide-input"]
nb.claim(
    "C9",
    "A finite list (or an infinite one of which only K can be told apart) makes the loss drop to its floor at the end: 'emergence' as finiteness.",
    "verified",
    holds=[
        ledger.increasing(
            "γ = 0.4, K = 500: exponent of the discrete sums at n = 10, 50, 100, 250, 400, 490",
            [ruler(m, 0.4, 500) for m in (10, 50, 100, 250, 400, 490)],
        ),
        ledger.more("the last of them, over γ", ruler(490, 0.4, 500) / 0.4, 50),
        ledger.close("while at K = 10⁹, n = 1000, it is γ to 1%", ruler(1000, 0.8, 10**9) / 0.8, 1, abs=0.01),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of the local exponent against the number n of learned quanta on a log axis. Left, gamma = 0.4: curves for K = 50, 500, 5000 and a million start above the dashed line at 0.4 and blow up as n reaches K; only a million stays near. Right, K = 500: curves for gamma 0.1, 0.4 and 0.8; each exceeds its dashed gamma, and for gamma 0.1 by a factor of three or more everywhere."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.3), sharey=True)
for length, color, style in ((50, PURPLE, ":"), (500, BLUE, "-"), (5000, GREEN, "-."), (10**6, ORANGE, "--")):
    at = np.geomspace(1, 0.97 * length, 200)
    axes.plot(at, by_formula(at, 0.4, length), color=color, ls=style, label=f"K = {length:,}")
axes.axhline(0.4, color=GREY, ls="--", lw=1)
axes.set(xscale="log", xlim=(1, 1e4), ylim=(0, 1.6), xlabel="learned quanta n", ylabel="−d ln L / d ln n")
axes.set_title("γ = 0.4", fontsize=10)
axes.legend(fontsize=8)
for g, color, style in ((0.1, ORANGE, "--"), (0.4, BLUE, "-"), (0.8, GREEN, "-.")):
    at = np.geomspace(1, 480, 200)
    right.plot(at, by_formula(at, g, 500), color=color, ls=style, label=f"γ = {g}")
    right.axhline(g, color=color, ls=":", lw=1)
right.set(xscale="log", xlabel="learned quanta n")
right.set_title("K = 500 (dotted: γ)", fontsize=10)
right.legend(fontsize=8, loc="upper left")
figure.suptitle("With a few hundred quanta the fitted slope exceeds γ (integral form)", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## Variations
#
# **Losses that depend on the rank.** An unlearned quantum may cost about $-\ln$ of its own frequency, $b_k=c_0+c_1\ln k$. The power stays, a logarithm comes in:
# $\int_n^\infty k^{-\gamma-1}(c_0+c_1\ln k)\,dk=n^{-\gamma}\bigl[\tfrac{c_0}\gamma+c_1\bigl(\tfrac{\ln n}\gamma+\tfrac1{\gamma^2}\bigr)\bigr]$.
#
# **Exponential frequencies.** $p_k\propto e^{-ck}$ has the tail $e^{-cn}$. Parameters would buy an exponential decay, data the power $D^{-1}$: not what is observed.
#
# **Spending a budget.** If, beyond the hypothesis, the two losses simply add, $L=A_1N^{-\gamma}+A_2D^{-s}$, and training costs $F=6ND$ operations, then
# $N^*\propto F^{1/(\gamma+2)}$, $D^*\propto F^{(\gamma+1)/(\gamma+2)}$ and $L\propto F^{-\gamma/(\gamma+2)}$: *most compute goes to data*, because data has the weaker exponent.

# %% tags=["hide-input"]
c0, c1, A1, A2, budget, c = sp.symbols("c_0 c_1 A_1 A_2 F c", positive=True)
log_tail = n**-gamma * (c0 / gamma + c1 * (sp.log(n) / gamma + 1 / gamma**2))
nb.derivation(
    "D8",
    "Losses c₀ + c₁ ln k leave the power n^(−γ) and multiply it by c₀/γ + c₁(ln n/γ + 1/γ²).",
    sym.identity("derivative of the tail", -sp.Derivative(log_tail, n), n ** (-gamma - 1) * (c0 + c1 * sp.log(n))),
    sym.limit("it vanishes at infinity (γ = ½)", log_tail.subs({gamma: sp.Rational(1, 2), c0: 1, c1: 1}), n, sp.oo, 0),
)
ratio = Fraction(3, 5)
geometric = lambda m: sum((1 - ratio) * ratio ** (k - 1) for k in range(1, m + 1))
last_exponential = sp.log(D * (sp.exp(c) - 1) / tau) / c  # D p_n = tau with p_n = (e^c - 1) e^(-cn)
nb.derivation(
    "D9",
    "For p_k ∝ e^(−ck) the tail is e^(−cn): the local exponent in n is cn, without bound, and that in D is 1.",
    sym.enumeration("tail of a geometric list, e^(−c) = 3/5", range(1, 8), lambda m: 1 - geometric(m), lambda m: ratio**m),
    sym.solves("last quantum by data", sp.Eq(D * (sp.exp(c) - 1) * sp.exp(-c * n), tau), n, last_exponential),
    sym.identity("local exponent in D", log_slope(sp.exp(-c * last_exponential), D), sp.Integer(1)),
    sym.identity("local exponent in n", log_slope(sp.exp(-c * n), n), c * n),
)
best_N = (gamma * A1 / (s * A2)) ** (1 / (gamma + s)) * (budget / 6) ** (s / (gamma + s))
joint = A1 * N**-gamma + A2 * (budget / (6 * N)) ** -s
nb.derivation(
    "D10",
    "If the two losses add and F = 6ND: N* ∝ F^(1/(γ+2)), D* ∝ F^((γ+1)/(γ+2)), L ∝ F^(−γ/(γ+2)).",
    *[
        sym.solves(
            f"the slope of L along F = 6ND vanishes at N*, γ = {g}",
            sp.Eq(sp.Derivative(joint.subs(gamma, g), N), 0),
            N,
            best_N.subs(gamma, g),
        )
        for g in (1, sp.Rational(1, 2))
    ],
    sym.identity("exponent of N*", -log_slope(best_N, budget), 1 / (gamma + 2)),
    sym.identity("exponent of D*", -log_slope(budget / (6 * best_N), budget), (gamma + 1) / (gamma + 2)),
    sym.identity("exponent of the parameters' term", log_slope(A1 * best_N**-gamma, budget), gamma / (gamma + 2)),
    sym.identity("exponent of the data's term", log_slope(A2 * (budget / (6 * best_N)) ** -s, budget), gamma / (gamma + 2)),
)

# %% tags=["hide-input"]
stretched = lambda n: mpmath.quad(lambda k: mpmath.exp(-mpmath.sqrt(k)), [n, 4 * n, 16 * n, mpmath.inf])
stretched_exponent = lambda n: n * math.exp(-math.sqrt(n)) / float(stretched(n))
stretched_rate = lambda n: math.exp(-math.sqrt(n)) / float(stretched(n))
harmonic = lambda m: float(mpmath.harmonic(m))
zipf_loss = lambda n, K: 1 - harmonic(n) / harmonic(K)
zipf_ruler = lambda n, K: -math.log(zipf_loss(1.01 * n, K) / zipf_loss(n, K)) / math.log(1.01)
nb.claim(
    "C7",
    "An exponential list has no tail worth the name: no power law in the parameters.",
    "verified",
    holds=[
        ledger.more("γ = 0.1 keeps over half of its mass beyond rank 100", float(mpmath.zeta(1.1, 101) / mpmath.zeta(1.1)), 0.5),
        ledger.less("p_k ∝ (3/5)^k keeps less than 10⁻²⁰ there", float(1 - geometric(100)), 1e-20),
    ],
)
nb.claim(
    "C8",
    "Read as an argument: frequencies are non-negative and fall, so they are exponential or power laws; the tail must be heavy, so power laws.",
    "refuted",
    fails=[
        ledger.increasing(
            "e^(−√k) falls, too; its local exponent at n = 10, 100, 1000, 10⁴ grows (no power law)",
            [stretched_exponent(10.0**j) for j in range(1, 5)],
        ),
        ledger.increasing(
            "and its rate at n = 10⁴, 1000, 100, 10 is no constant (no exponential)", [stretched_rate(10.0**j) for j in (4, 3, 2, 1)]
        ),
    ],
)
nb.claim(
    "C17",
    "The hypothesis is Zipf's law: frequency by a power of the rank. (Zipf's own 1/rank is the excluded boundary γ = 0, where the loss is a logarithm.)",
    "partly",
    holds=[
        ledger.close(f"γζ(γ+1) at γ = {g}: Z diverges like 1/γ", g * float(mpmath.zeta(1 + g)), 1, abs=0.6 * g + 1e-9, digits=5)
        for g in (0.05, 0.01, 0.001)
    ],
    fails=[
        *[
            ledger.close(f"1/rank, K = {K_:,}, n = {m}: loss 1 − H_n/H_K", zipf_loss(m, K_), v, abs=1e-4)
            for K_, values in ((10**4, (0.7007, 0.4700, 0.2352)), (10**6, (0.7965, 0.6396, 0.4799)))
            for m, v in zip((10, 100, 1000), values, strict=True)
        ],
        ledger.close("local exponent at n = 100, K = 10⁶, against 1/ln(K/n)", zipf_ruler(100, 10**6), 1 / math.log(1e4), rel=0.01),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels for the tails of three falling lists from rank 10 to 10,000 on log axes. Left, the local exponent: flat for a power law, rising in proportion to the rank for an exponential, rising like its root for the exponential of minus root k. Right, the rate: flat for the exponential, falling for the two others. The third list is flat in neither panel: its exponent grows from 1.2 to 50."}}
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.3))
ranks_axis = np.geomspace(10, 1e4, 13)
tails = {
    "power law, γ = 1": (np.ones(13), 1 / ranks_axis, BLUE, "-"),
    "$(3/5)^k$": (math.log(5 / 3) * ranks_axis, np.full(13, math.log(5 / 3)), GREEN, "-."),
    "$e^{-\\sqrt{k}}$": ([stretched_exponent(n) for n in ranks_axis], [stretched_rate(n) for n in ranks_axis], ORANGE, "--"),
}
for name, (local_exponents, tail_rates, color, style) in tails.items():
    panels[0].plot(ranks_axis, local_exponents, color=color, ls=style, label=name)
    panels[1].plot(ranks_axis, tail_rates, color=color, ls=style, label=name)
panels[0].set(ylabel="local exponent of the tail (log axis)", title="A power law would be flat")
panels[1].set(ylabel="rate of the tail (log axis)", title="An exponential would be flat")
for axes in panels:
    axes.set(xscale="log", yscale="log", xlabel="rank n (log axis)")
panels[0].legend(fontsize=8)
figure.suptitle("$e^{-\\sqrt{k}}$ falls, too, and is neither", x=0.01, ha="left", weight="bold", fontsize=11)
nb.show(figure)

# %% [markdown]
# C8 is better called an assumption. The post hedges (nothing else seems to fit); read as an argument it fails, since monotone lists that are neither exponential nor power laws are legion.
#
# ## "Parameters matter more"
#
# Since $\gamma>\gamma/(\gamma+1)$, the post reads off that parameters matter more than data. The inequality is exact. Two things stand against the reading. Published pairs of exponents do not obey the relation (below), and
# D10: the resource with the *weaker* exponent is the one that needs more of the budget.

# %% tags=["hide-input"]
# (alpha_N, alpha_D). The recommendation model's pair as its paper has it; the authors' scatter swaps its two entries.
PUBLISHED = {
    "PTB": (0.81, 0.34), "WikiText-2": (1.01, 0.22), "WikiText-103": (0.74, 0.56), "ImageNet": (0.75, 0.61), "CIFAR10": (0.66, 0.53),
    "CIFAR100": (0.70, 0.51), "DTD": (0.40, 1.16), "Aircraft": (1.10, 0.83), "UCF101": (0.93, 0.54), "Kaplan": (0.076, 0.095),
    "Hoffmann": (0.34, 0.28), "NMT Ru": (0.11, 0.38), "NMT De": (0.13, 0.35), "NMT Zh": (0.12, 0.43), "acoustic": (0.016, 0.019),
    "recommendation": (4.0, 0.1),
}  # fmt: skip
as_drawn = PUBLISHED | {"recommendation": PUBLISHED["recommendation"][::-1]}
obey = lambda table: sum(d < p for p, d in table.values())
near = lambda table: sum(abs(d / (p / (1 + p)) - 1) < 0.2 for p, d in table.values())
order = np.array([[math.log(p), math.log(d)] for p, d in PUBLISHED.values()])
nb.claim(
    "C6",
    "γ > γ/(γ+1), so parameters matter more than data.",
    "partly",
    holds=[
        sym.identity("the excess γ − γ/(γ+1) is γ²/(γ+1) > 0", gamma - gamma / (gamma + 1), gamma**2 / (gamma + 1)),
        ledger.close(
            "share of published pairs with α_D < α_N", obey(PUBLISHED) / len(PUBLISHED), 10 / 16, abs=1e-9, scope="16 published pairs"
        ),
        ledger.close(
            "with the swapped pair as drawn by the authors", obey(as_drawn) / len(as_drawn), 9 / 16, abs=1e-9, scope="16 published pairs"
        ),
    ],
    fails=[
        ledger.less("pairs within 20% of α_D = α_N/(1 + α_N), of 16", near(PUBLISHED), 3, scope="16 published pairs"),
        ledger.more(
            "share of an optimal budget's growth that goes to data, γ = 0.34",
            float(log_slope(budget / (6 * best_N), budget).doit().subs(gamma, 0.34) * -1),
            0.5,
            margin=0.05,
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Scatter of published exponents on log axes, parameters to the right, data upwards, with two guides: equality and y = x/(1+x). Language and image results lie below equality, translation, texture and acoustic results above it; only Hoffmann's and UCF101's lie on the predicted curve."}}
figure, axes = plt.subplots(figsize=(6.4, 4.2))
line = np.geomspace(0.01, 6, 100)
axes.plot(line, line / (1 + line), color=BLUE, label="α_D = α_N/(1+α_N): the hypothesis")
axes.plot(line, line, color=GREY, ls="--", label="α_D = α_N")
for name, (p_, d_) in PUBLISHED.items():
    obeys = d_ < p_
    axes.plot(p_, d_, "o" if obeys else "s", color=GREEN if obeys else RED, ms=6)
    if name in ("PTB", "WikiText-2", "DTD", "Kaplan", "Hoffmann", "NMT Zh", "acoustic", "recommendation", "Aircraft", "UCF101"):
        left = name in ("DTD", "recommendation", "Hoffmann")
        axes.annotate(
            name, (p_, d_), xytext=(-7 if left else 7, -3), textcoords="offset points", fontsize=8, ha="right" if left else "left"
        )
axes.set(xscale="log", yscale="log", xlim=(0.01, 6), ylim=(0.012, 3), xlabel="α_N (parameters)", ylabel="α_D (data)")
axes.set_title("Published exponents scatter far around the predicted relation")
axes.legend(fontsize=8, loc="lower right")
nb.show(figure)

# %% [markdown]
# ## E1: the exact model at the paper's size
#
# The paper {cite}`michaud2023quantization` trains small networks on $K=500$ tasks of frequency $\propto k^{-\gamma-1}$ and fits exponents for $N$, $S$ and $D$ at several $\gamma$; seven of them, read off its Figure 10, are the points of our first figure. Now put in their place the
# *hypothesis itself*, with $K=500$ and the same fits over the same ranges: quantum $k$ is learned from $\tau=20{,}000$ samples on; from the step on at which its share of samples equals what the first task of $\gamma=0.4$ sees in 300 steps; and, for the parameters, from $N=2500\,k^{1/0.8}$ on.
#
# How honest is this? The constants were chosen by looking at the points: one each for data and steps, two for parameters. The points are smooth: a straight line in $\gamma$, with two constants, fits all three resources to 0.008, three times closer (table). So the shape proves little, and
# the gain over the infinite list lies at small $\gamma$: for $\gamma\ge0.4$ the finite list's $\alpha_D$ is hardly nearer.
#
# For the parameters every power gets its best price. A power near 0.7 is best, but the linear price ($C\approx24{,}000$, at which the smallest nets hold nothing and the largest seven tasks) still comes to a third of the infinite list's distance. The
# paper's slopes alone are thin evidence against a constant price. The paper has one more $\gamma$, which we did not read off.


# %%
def best_price(power):
    """The price C of n = (N/C)^power whose fits come closest to the paper's, and their RMS distance."""
    gap_of = lambda c: rms_gap(paper_fits[:, 0], [fitted_by_parameters(g, price=c, power=power) for g in gammas])
    best = min(np.geomspace(100, 30000, 50), key=gap_of)
    return float(best), gap_of(best)


prices = {power: best_price(power) for power in (0.65, 0.7, 0.8, 0.9, 1.0)}
plain_gap = [rms_gap(paper_fits[:, i], infinite[:, i]) for i in range(3)]
line_gap = [rms_gap(paper_fits[:, i], np.polyval(np.polyfit(gammas, paper_fits[:, i], 1), gammas)) for i in range(3)]
large_gap = [[rms_gap(paper_fits[3:, i], model[3:, i]) for model in (finite, infinite)] for i in range(3)]
finite_gap = [rms_gap(paper_fits[:, i], finite[:, i]) for i in range(3)]
tau_gap = {t: rms_gap(paper_fits[:, 2], [fitted_by_data(g, tau=t) for g in gammas]) for t in (10000, 20000, 40000)}

# %% tags=["hide-input"]
nb.results(
    "E1",
    "Exponents fitted to the paper's networks, and by the same fits to the hypothesis with 500 tasks.",
    ["γ", "α_N paper", "α_N finite list", "α_S paper", "α_S finite list", "α_D paper", "α_D finite list", "γ/(γ+1)"],
    [
        [g, *[f"{v:.3f}" for pair in zip(paper_fits[i], finite[i], strict=True) for v in pair], f"{g / (g + 1):.3f}"]
        for i, g in enumerate(gammas)
    ]
    + [
        ["RMS distance to the paper", *[x for gap_ in finite_gap for x in ("", f"{gap_:.3f}")], ""],
        ["the same of the infinite list", *[x for gap_ in plain_gap for x in ("", f"{gap_:.3f}")], ""],
        ["of a straight line in γ (2 constants)", *[x for gap_ in line_gap for x in ("", f"{gap_:.3f}")], ""],
        ["γ ≥ 0.4 only: finite list", *[x for gap_ in large_gap for x in ("", f"{gap_[0]:.3f}")], ""],
        ["γ ≥ 0.4 only: infinite list", *[x for gap_ in large_gap for x in ("", f"{gap_[1]:.3f}")], ""],
        *[
            [f"best price for n = (N/C)^{power}: C = {c:,.0f}", "", f"{gap_:.3f}", "", "", "", "", ""]
            for power, (c, gap_) in prices.items()
        ],
    ],
)


# %% tags=["hide-input"]
def explicit_fit(g, N_needed, at, first=None):
    """The same exponent by explicit loops and scipy's regression: quantum k is learned from the resource N_needed(k, p_k) on."""
    weights = [k ** -(g + 1) for k in range(1, 501)]
    total, losses = sum(weights), []
    for R in at:
        losses.append(sum(w / total for k, w in enumerate(weights, 1) if N_needed(k, w / total) > R))
    keep = [i for i, v in enumerate(losses) if first is None or min(losses[: i + 1]) < first]
    return -scipy.stats.linregress([math.log(at[i]) for i in keep], [math.log(losses[i]) for i in keep]).slope


data_sizes = [int(2 ** (math.log2(1e4) + i * (math.log2(5e6) - math.log2(1e4)) / 24)) for i in range(25)]
widths_paper = [int(2 ** (math.log2(10) + i * math.log2(30) / 19)) for i in range(20)]
first_share = 1 / sum(k**-1.4 for k in range(1, 501))
loops = {
    "α_N": lambda g: explicit_fit(g, lambda k, p: 2500 * k ** (1 / 0.8), [603 * w + 2 for w in widths_paper]),
    "α_S": lambda g: explicit_fit(g, lambda k, p: 300 * first_share / p, list(range(500, 14501, 500))),
    "α_D": lambda g: explicit_fit(g, lambda k, p: 20000 / p, data_sizes, first=0.95),
}
nb.experiment(
    "E1",
    "The hypothesis itself with 500 tasks, fitted as the paper fits its networks, comes nearer to the paper's exponents than the infinite list (but a straight line in γ comes nearer still).",
    "partly",
    holds=[
        *[
            ledger.close(f"{name}, γ = {gammas[j]}: explicit loops", loop(float(gammas[j])), finite[j, i], rel=1e-6)
            for i, (name, loop) in enumerate(loops.items())
            for j in (0, 3)
        ],
        *[
            ledger.less(f"{name}: RMS distance over that of the infinite list", finite_gap[i] / plain_gap[i], 0.4)
            for i, name in enumerate(loops)
        ],
        *[
            ledger.close(f"{name}: RMS distance of the infinite list (the points read off the figure)", plain_gap[i], v, abs=6e-4, digits=4)
            for i, (name, v) in enumerate(zip(loops, (0.1077, 0.0799, 0.0872), strict=True))
        ],
    ],
    fails=[
        *[
            ledger.less(f"{name}: a straight line's distance over the finite list's", line_gap[i] / finite_gap[i], 0.5)
            for i, name in enumerate(loops)
        ],
        ledger.more("α_D, γ ≥ 0.4: the finite list's distance over the infinite list's", large_gap[2][0] / large_gap[2][1], 0.7),
    ],
)
nb.claim(
    "C14",
    "One sharp threshold on 500 tasks reproduces the paper's α_D and α_S, and α_N with the sub-linear capacity n = (N/2500)^0.8: to 0.026 (constants fitted). The best power of N is near 0.7; a constant price is twice as far off.",
    "verified",
    holds=[
        *[
            ledger.close(f"α_D at γ = {g}", finite[i, 2], v, abs=1.5e-3)
            for i, (g, v) in enumerate(zip(gammas, (0.256, 0.285, 0.303, 0.327, 0.365, 0.399, 0.431), strict=True))
        ],
        *[ledger.less(f"{name}: RMS distance", gap_, 0.026) for name, gap_ in zip(loops, finite_gap, strict=True)],
        *[ledger.less(f"α_D with τ = {t:,}: still nearer than the infinite list", v, 0.5 * plain_gap[2]) for t, v in tau_gap.items()],
        ledger.more("α_N with the best constant price over power 0.7: RMS distance", prices[1.0][1] / prices[0.7][1], 1.5),
        ledger.less("power 0.7 over its neighbours 0.65 and 0.8", prices[0.7][1] / min(prices[0.65][1], prices[0.8][1]), 1),
        ledger.less("yet that constant price is nearer than the infinite list", prices[1.0][1] / plain_gap[0], 0.4),
    ],
)
excess_of = lambda i, rows: [paper_fits[j, i] / infinite[j, i] for j in rows]
small_g, large_g = (0, 1), (3, 4, 5, 6)
nb.claim(
    "C13",
    "The networks of the paper follow α_N = γ and α_S = α_D = γ/(γ+1).",
    "partly",
    holds=[
        ledger.less("γ ≥ 0.4, α_D: largest relative distance", max(abs(r - 1) for r in excess_of(2, large_g)), 0.1),
    ],
    fails=[
        ledger.more("γ ≥ 0.4, α_S: largest relative distance (same 10%)", max(abs(r - 1) for r in excess_of(1, large_g)), 0.1),
        ledger.more("γ ≥ 0.4, α_N (same 10%)", max(abs(r - 1) for r in excess_of(0, large_g)), 0.1),
        ledger.more("γ ≤ 0.2: smallest ratio of fit to law", min(r for i in range(3) for r in excess_of(i, small_g)), 1.35),
        ledger.more("and the largest", max(r for i in range(3) for r in excess_of(i, small_g)), 2.8),
    ],
)
counted = {0.1: 0.88, 0.2: 0.77, 0.3: 0.74, 0.4: 0.68, 0.5: 0.68, 0.7: 0.62, 0.8: 0.58}
at_045 = scipy.optimize.brentq(lambda m: by_formula(m, 0.4, 500) / 1.4 - 0.45, 1, 490)
nb.claim(
    "C12",
    "The paper's mean loss against steps has the slope −0.45 at γ = 0.4 where theory says −0.286: the finite list explains the direction; the size it gives at some 40 tasks learned, a number that the paper does not report.",
    "partly",
    holds=[
        ledger.increasing("local exponent in steps at n = 1, 10, 40, 100", [by_formula(m, 0.4, 500) / 1.4 for m in (1, 10, 40, 100)]),
        ledger.more("already at n = 1", by_formula(1, 0.4, 500) / 1.4, 0.4 / 1.4),
    ],
    fails=[ledger.close("the size is 0.45 only near n", at_045, 40, rel=0.1, digits=3)],
)
nb.claim(
    "C15",
    "The number of learned tasks grows as D^(1/(1+γ)) (paper, Figure 9, slopes ±0.01): within 8%, with a trend in γ.",
    "partly",
    holds=[
        ledger.less(
            "largest relative distance of the seven slopes from 1/(1+γ)",
            max(abs(v * (1 + g) - 1) for g, v in counted.items()),
            0.1,
            scope="seven slopes read off a figure",
        ),
        ledger.more(
            "while the loss exponent α_D at γ = 0.1 exceeds its law by a factor",
            paper_fits[0, 2] / infinite[0, 2],
            2,
            scope="read off a figure",
        ),
    ],
    fails=[
        ledger.less(
            "γ ≤ 0.4: largest slope minus law, in reading errors", max((counted[g] - 1 / (1 + g)) / 0.01 for g in (0.1, 0.2, 0.3, 0.4)), -2
        ),
        ledger.more("γ ≥ 0.5: the least", min((counted[g] - 1 / (1 + g)) / 0.01 for g in (0.5, 0.7, 0.8)), 1),
    ],
)
# %% [markdown]
# ## Multitask sparse parity
#
# An experiment in which quanta are built in. There are $K$ tasks. An input is a task's one-hot name and $n$ random bits; the answer is the parity of three of the bits, a different
# triple for each task. No task helps with another, and a network either knows a triple or is at chance: 1 bit lost. Tasks come with frequency $p_k\propto k^{-\gamma-1}$.


# %%
def zipf(gamma: float, tasks: int) -> torch.Tensor:
    """Frequencies p_k proportional to k^-(gamma+1) of a finite list, (tasks,), float64."""
    p = torch.arange(1, tasks + 1, dtype=torch.float64) ** -(gamma + 1)
    return p / p.sum()


def draw_triples(tasks: int, bits: int, seed: int) -> torch.Tensor:
    """One triple of bits for each task, all different, (tasks, 3)."""
    triples = torch.combinations(torch.arange(bits), 3)
    return triples[torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))[:tasks]]


def encode(task: torch.Tensor, bits: torch.Tensor, tasks: int) -> torch.Tensor:
    """Inputs (..., tasks + n + 1): the task one-hot, its bits (..., n), and a 1 for the bias."""
    one_hot = (task[..., None] == torch.arange(tasks, device=task.device)).float()
    return torch.cat([one_hot, bits.float(), torch.ones_like(one_hot[..., :1])], -1)


def parity(bits: torch.Tensor, triple: torch.Tensor) -> torch.Tensor:
    """Whether an odd number of the three bits is set: bits (..., n), triple (..., 3) -> (...), 0 or 1."""
    return bits.gather(-1, triple).sum(-1) % 2


# %% [markdown]
# The network has one hidden layer of ReLUs and two logits, as in the paper. Many of them train side by side: run $r$ owns slice $r$ of every tensor, narrow networks are padded with dead
# units (zero weights in and out, whose gradients are zero and stay so).


# %%
def draw_networks(widths: list[int], seeds: list[int], inputs: int) -> list[torch.Tensor]:
    """One-hidden-layer networks, run r with widths[r] units and torch's default initial law, padded with dead units to a common width.

    Hidden weights (R, inputs, w), the last input being the constant of the bias; output weights (R, w, 2) and biases (R, 1, 2).
    """
    top = max(widths)
    hidden, out, bias = torch.zeros(len(widths), inputs, top), torch.zeros(len(widths), top, 2), torch.zeros(len(widths), 1, 2)
    for r, (width, seed) in enumerate(zip(widths, seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        uniform = lambda *shape, fan_in, g=generator: (2 * torch.rand(*shape, generator=g) - 1) / math.sqrt(fan_in)
        hidden[r, :, :width] = uniform(inputs, width, fan_in=inputs - 1)
        out[r, :width] = uniform(width, 2, fan_in=width)
        bias[r] = uniform(1, 2, fan_in=width)
    return [hidden, out, bias]


def bits_lost(network: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in bits of every example: x (B, inputs) for all runs or (R, B, inputs), y (R, B) -> (R, B)."""
    hidden, out, bias = network
    z = torch.baddbmm(bias, torch.bmm(x.expand(len(hidden), -1, -1), hidden).relu(), out)
    return F.softplus((1 - 2 * y) * (z[..., 1] - z[..., 0])) / math.log(2)


# %% [markdown]
# Examples are fresh at every step, or drawn from a data set of $D$ of them. Then Adam at a constant rate, one pass for all widths, sizes, rates and seeds of a sweep.


# %%
def draw_tasks(p: torch.Tensor, shape: tuple[int, ...], bits: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tasks of frequency p, (*shape,), and their random bits, (*shape, bits), on the generator's device."""
    u = torch.rand(shape, generator=generator, device=generator.device)
    task = torch.searchsorted(p.cumsum(0).float(), u).clamp_max(len(p) - 1)
    return task, torch.randint(2, (*shape, bits), generator=generator, device=generator.device, dtype=torch.uint8)


def online(p, triples, seed_of_run, bits, batch, generator):
    """Fresh examples: all runs see the same inputs (B, inputs), each through the triples of its seed, triples (seeds, tasks, 3)."""
    task, drawn = draw_tasks(p, (batch,), bits, generator)
    return encode(task, drawn, len(p)), parity(drawn.expand(len(triples), -1, -1), triples[:, task])[seed_of_run]


def stored(data_sets, triples, seed_of_run, size_of_run, batch, generator):
    """Examples drawn with replacement from the first size_of_run[r] of the data set of run r's seed; data_sets: (seeds, N), (seeds, N, bits)."""
    u = torch.rand((len(seed_of_run), batch), generator=generator, device=generator.device, dtype=torch.float64)
    row, seed = (u * size_of_run[:, None]).long(), seed_of_run[:, None]
    task, drawn = (part[seed, row] for part in data_sets)
    return encode(task, drawn, triples.shape[1]), parity(drawn, triples[seed, task])


# %% tags=["hide-input"]
def parity_sweep(device, *, gammas, **config) -> dict:
    """``parity_runs`` for each gamma: {"arms", "marks", "sweeps": {gamma: its curves}}."""
    arms = [list(a) for a in itertools.product(config["widths"], config["sizes"], config["rates"], config["seeds"])]
    return {"arms": arms, "marks": config["marks"], "sweeps": {str(g): parity_runs(device, g, arms, **config) for g in gammas}}


def parity_runs(device, gamma, arms, *, tasks, bits, rates, seeds, batch, steps, marks, tests, **sweep) -> dict:
    """Train the arms (width, size, rate, seed) in one pass with Adam at constant rates, TF32 products; size 0: fresh examples.

    Every task is tested on ``tests`` examples at the steps ``marks``; ``summary`` says what comes back.
    """
    torch.set_float32_matmul_precision("high")
    widths, sizes, lr, seed_list = ([arm[i] for arm in arms] for i in range(4))
    p, generator = zipf(gamma, tasks).to(device), torch.Generator(device).manual_seed(1000 + round(100 * gamma))
    triples = torch.stack([draw_triples(tasks, bits, seed) for seed in seeds]).to(device)
    seed_of_run, size_of_run = (torch.tensor(v, device=device) for v in ([seeds.index(s) for s in seed_list], sizes))
    if any(sizes):
        data_sets = draw_tasks(p, (len(seeds), max(sizes)), bits, generator)
        draw = lambda: stored(data_sets, triples, seed_of_run, size_of_run, batch, generator)
    else:
        draw = lambda: online(p, triples, seed_of_run, bits, batch, generator)
    network = [w.to(device).requires_grad_() for w in draw_networks(widths, seed_list, tasks + bits + 1)]
    optimizer = optim.StackedAdam(network, torch.tensor(lr))

    def step():
        optimizer.zero_grad(set_to_none=True)
        bits_lost(network, *draw()).mean(1).sum().backward()
        optimizer.update()

    test_task = torch.arange(tasks, device=device).repeat_interleave(tests)
    test_bits = torch.randint(2, (len(test_task), bits), generator=generator, device=device, dtype=torch.uint8)
    test_y = parity(test_bits.expand(len(seeds), -1, -1), triples[:, test_task])[seed_of_run]
    test_x, advance, rows = encode(test_task, test_bits, tasks), runtime.graphed(step, device, generator), []
    for t in range(steps + 1):
        if t in marks:
            with torch.no_grad():
                rows.append(bits_lost(network, test_x, test_y).view(len(arms), tasks, tests).mean(-1).cpu())
        if t < steps:
            advance()
    return summary(torch.stack(rows).double(), p.cpu(), marks, len(rates) * len(seeds))


# %% tags=["hide-input"]
def summary(by_task: torch.Tensor, p: torch.Tensor, marks: list[int], last: int) -> dict:
    """The curves to keep of the losses by_task (marks, R, tasks) in bits; p (tasks,) are the frequencies.

    Mean losses and numbers of tasks below half a bit, both (marks, R); what the unlearned tasks lose on average at a run's best mark (R,); the
    mark at which each task of the ``last`` runs first falls below half a bit (last, tasks), 0 for never; all losses (marks, tasks) of the last run.
    """
    loss, learned = by_task @ p, by_task < 0.5
    best = loss.argmin(0)
    at_best = by_task[best, torch.arange(len(best))]
    missing = (at_best >= 0.5).double() * p
    first = torch.where(learned.any(0), torch.tensor(marks)[learned.double().argmax(0)], 0)
    return {
        "loss": loss.tolist(),
        "learned": learned.sum(-1).tolist(),
        "unlearned": ((at_best * missing).sum(-1) / missing.sum(-1).clamp_min(1e-12)).tolist(),
        "crossing": first[-last:].tolist(),
        "tasks": by_task[:, -1].tolist(),
    }


# %% tags=["hide-input"]
def log_marks(steps: int, count: int) -> list[int]:
    """0 and ``count`` steps up to ``steps``, evenly spaced on a log axis from 20."""
    return sorted({0, *(round(20 * (steps / 20) ** (i / (count - 1))) for i in range(count))})


small = {"gammas": [0.5], "tasks": 16, "bits": 16, "seeds": [1, 2, 3], "tests": 100}
large = {"gammas": [0.4, 0.6], "tasks": 200, "bits": 64, "seeds": [1, 2, 3], "tests": 50}
widths_large = [8, 12, 18, 28, 43, 67, 104, 161, 250]
rates = [1e-3, 3e-3, 1e-2]
config_n = nb.at_scale(
    cpu=small | {"widths": [4, 8, 16, 32, 64], "sizes": [0], "rates": [5e-3], "batch": 384, "steps": 1500, "marks": log_marks(1500, 24)},
    gpu=large | {"widths": widths_large[::2], "sizes": [0], "rates": [3e-3], "batch": 2048, "steps": 8000, "marks": log_marks(8000, 40)},
    full=large | {"widths": widths_large, "sizes": [0], "rates": rates, "batch": 4096, "steps": 24000, "marks": log_marks(24000, 60)},
)
config_s = nb.at_scale(
    cpu=small | {"widths": [128], "sizes": [0], "rates": [3e-3], "batch": 768, "steps": 2500, "marks": log_marks(2500, 48)},
    gpu=large | {"widths": [256], "sizes": [0], "rates": [3e-3], "batch": 4096, "steps": 8000, "marks": log_marks(8000, 60)},
    full=large | {"widths": [512], "sizes": [0], "rates": rates, "batch": 4096, "steps": 26000, "marks": log_marks(26000, 90)},
)
sizes_large = [8000 * 2**i for i in range(9)]
config_d = nb.at_scale(
    cpu=small
    | {"widths": [96], "sizes": [800, 1600, 3200, 6400, 12800], "rates": [3e-3], "batch": 256, "steps": 1300, "marks": log_marks(1300, 24)},
    gpu=large | {"widths": [128], "sizes": sizes_large[:7:2], "rates": [3e-3], "batch": 2048, "steps": 6000, "marks": log_marks(6000, 40)},
    full=large | {"widths": [256], "sizes": sizes_large, "rates": rates[:2], "batch": 4096, "steps": 22000, "marks": log_marks(22000, 70)},
)

# %% [markdown]
# ### E2, live, and E3, recorded
#
# Three sweeps: widths and one long run with fresh examples, and data sets of growing size. The live scale (E2) has 16 tasks of 16 bits, $\gamma=\frac12$, three seeds (a seed draws triples and initial weights; the
# data sweep also its data). The recorded scale (E3) is the paper's setting reduced: 200 tasks of 64 bits, $\gamma=0.4$ and $0.6$, nine widths from 8 to 250, one of 512 for the steps, and one of 256 for nine data sets from 8,000 to 2 million; batches of 4,096; 24,000, 26,000 and 22,000 steps.
#
# At the recorded scale the learning rate is
# chosen for each width or size by the least mean loss over the seeds, among 0.001, 0.003 and 0.01 (0.01 not for data); the live runs have one rate. Runs of the widths and the data sets count at their least *test* loss, as the paper's data runs do: it flatters all a little.
#
# We expect: tasks switch one after another, in order of rank; time to learn $\propto1/p_k$; and, by D7, every fitted exponent above its infinite-list value.

# %% tags=["nbval-ignore-output"]
by_width = nb.run("E2N", parity_sweep, **config_n)
by_step = nb.run("E2S", parity_sweep, **config_s)
by_data = nb.run("E2D", parity_sweep, **config_d)

# %% [markdown]
# **Fitting an exponent.** A least-squares line through logarithms; for the interval, resample both the points of the fit and the seeds (whole seeds, all their points
# together), fit again, and take the middle 95%. It covers the luck of initial weights, triples and data, and of where the points fell *within the stated range*. It does not cover the choice
# of that range, and neighbours on one training curve are not independent, so for $S$ it is too narrow. On synthetic power laws (X1) the "95%" covers 94 to 97% with the recorded sweeps' points and three seeds, 88% with four points (live data): read it as such.


# %%
def bootstrap_slope(x, y, draws=2000, seed=0):
    """-slope of ln(mean over seeds of y) against ln x, y (points, seeds), and its 95% bootstrap interval over points and seeds."""
    rng, x, y = np.random.default_rng(seed), np.log(np.asarray(x, float)), np.asarray(y, float)
    point = rng.integers(len(x), size=(draws, len(x)))
    chosen = rng.integers(y.shape[1], size=(draws, 1, y.shape[1]))
    u, v = x[point], np.log(y[point[..., None], chosen].mean(-1))
    u = u - u.mean(1, keepdims=True)
    kept = np.array([len(set(row)) >= 3 for row in point])
    slopes = -(u * v).sum(1)[kept] / (u**2).sum(1)[kept]
    middle = -metrics.loglog_slope(np.exp(x), y.mean(1)).slope
    return middle, *np.quantile(slopes, [0.025, 0.975])


def tuned(sweep, gamma, axis):
    """Of every width (axis 0) or size (axis 1) the runs at its best rate: values, least losses (values, seeds), run numbers (values, seeds)."""
    arms, losses = sweep["arms"], np.array(sweep["sweeps"][gamma]["loss"]).min(0)
    best = metrics.best_rows([v for v, _ in groups(arms, axis)], [losses[rows] for _, rows in groups(arms, axis)])
    rows = [list(groups(arms, axis))[i][1] for i in best.values()]
    return np.array(list(best)), losses[rows], np.array(rows)


def groups(arms, axis):
    """(width or size, run numbers of its seeds) for each pair of it and a rate."""
    keys = dict.fromkeys((arm[axis], arm[2]) for arm in arms)
    return [(value, [r for r, arm in enumerate(arms) if (arm[axis], arm[2]) == (value, rate)]) for value, rate in keys]


# %% tags=["hide-input"]
def exponents(by_width, by_step, by_data, gamma, tasks, bits):
    """The three fits: name -> (exponent, low, high), and the points that they were fitted to: name -> (x, y (points, seeds))."""
    widths, lost, _ = tuned(by_width, gamma, 0)
    points = {"α_N": ((tasks + bits + 3) * widths + 2, lost)}
    best_rate = tuned(by_step, gamma, 0)[2][0]
    marks, curve = np.array(by_step["marks"]), np.array(by_step["sweeps"][gamma]["loss"])[:, best_rate]
    inside = (curve.mean(1) > 0.1) & (curve.mean(1) < 0.9)
    points["α_S"] = (marks[inside], curve[inside])
    if by_data is not None:
        sizes, lost, _ = tuned(by_data, gamma, 1)
        inside = lost.mean(1) < 0.9
        points["α_D"] = (sizes[inside], lost[inside])
    return {name: bootstrap_slope(*xy) for name, xy in points.items()}, points


def first_times(by_step, gamma):
    """Steps at which the tasks fall below half a bit, (seeds, tasks), 0 for never, at the best rate of the widest runs."""
    sweep, rows = by_step["sweeps"][gamma], tuned(by_step, gamma, 0)[2][0]
    return np.array(sweep["crossing"])[rows - (len(by_step["arms"]) - len(sweep["crossing"]))]


def time_slope(times, gamma, within=math.inf):
    """Slope of ln T against ln p over ranks 1, 2, .. up to the first that a seed has not learned by step ``within``, with a bootstrap interval.

    Later ranks are left out even where learned: of those only the quick ones are seen.
    """
    in_time = ((times > 0) & (times <= within)).all(0)
    learned = np.arange(len(in_time) if in_time.all() else int(np.argmin(in_time)))
    rank = np.arange(1, times.shape[1] + 1.0)
    return tuple(-v for v in np.array(bootstrap_slope(rank[learned] ** -(gamma + 1), times[:, learned].T))[[0, 2, 1]])


live_fit, live_points = exponents(by_width, by_step, by_data, "0.5", 16, 16)
full = {key: nb.recorded(key).result for key in ("E2N", "E2S", "E2D")}
full_fit, full_points = {}, {}
for g in ("0.4", "0.6"):
    full_fit[g], full_points[g] = exponents(full["E2N"], full["E2S"], full.get("E2D"), g, 200, 64)
times = {"0.5": first_times(by_step, "0.5"), **{g: first_times(full["E2S"], g) for g in full_fit}}
times_fit = {g: time_slope(t, float(g)) for g, t in times.items()}
early_fit = {g: time_slope(times[g], float(g), within=13000) for g in full_fit}
# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Two stacked panels over training steps on a log axis, for one live run. Top: the mean loss falls smoothly from one bit to about 0.12. Bottom: a map of losses, one row a task sorted by frequency: each row stays at one bit or above and then falls, the commonest first and fast, the middle ranks over a decade, the rarest not at all."}}
figure, (axes, below) = plt.subplots(2, 1, figsize=(7, 4.8), sharex=True, height_ratios=(1, 1.5))
marks_s, run = np.array(by_step["marks"])[1:], np.array(by_step["sweeps"]["0.5"]["tasks"])[1:]
axes.plot(marks_s, np.array(by_step["sweeps"]["0.5"]["loss"])[1:], color=BLUE, ls="-", lw=1.2)
axes.set(ylabel="mean loss (bits)", ylim=(0, 1.1), xscale="log")
mesh = below.pcolormesh(marks_s, np.arange(1, 17), run.T.clip(0, 1.2), cmap="viridis", shading="nearest")
below.set(xlabel="steps", ylabel="rank of the task")
below.invert_yaxis()
below.grid(False)
figure.colorbar(mesh, ax=below, label="loss of the task (bits)", pad=0.01, extend="max")
axes.set_title("Commoner tasks switch first, the mean glides")
nb.show(figure)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Two log-log panels of the step at which a task is learned against its frequency. Left live, 16 tasks, three seeds: points fall along a line somewhat flatter than the guide of slope minus 1 through the commonest task. Right recorded, 200 tasks, gamma 0.4 and 0.6: a longer band below the guide that ends at a dotted line, the end of the run."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
panel_of = ((axes, "0.5", BLUE, "o"), (right, "0.4", BLUE, "o"), (right, "0.6", ORANGE, "s"))
for panel, g, color, marker in panel_of:
    p_of = finite_list(float(g), times[g].shape[1])
    for row in times[g]:
        panel.plot(p_of[row > 0], row[row > 0], marker, color=color, ms=3.5, alpha=0.7)
    panel.plot([], [], marker, color=color, label=f"γ = {g}: slope {times_fit[g][0]:.2f} [{times_fit[g][1]:.2f}, {times_fit[g][2]:.2f}]")
for panel, title in ((axes, "live: 16 tasks"), (right, "recorded: 200 tasks")):
    g0 = "0.5" if panel is axes else "0.4"
    first, last_step = finite_list(float(g0), times[g0].shape[1])[0], (by_step if panel is axes else full["E2S"])["marks"][-1]
    span = np.array([2e-3 if panel is right else 1e-2, first])
    panel.plot(span, times[g0][:, 0].mean() * first / span, color=GREY, ls="--", label=f"T₁p₁/p, γ = {g0}")
    panel.axhline(last_step, color=GREY, ls=":", lw=1)
    panel.set(xscale="log", yscale="log", xlabel="frequency p of the task")
    panel.set_title(title, fontsize=10)
    panel.legend(fontsize=8, loc="upper right")
axes.set_ylabel("steps until half a bit")
figure.suptitle("Rarer tasks come later, but sooner than 1/p (dotted: end of the run)", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Three log-log panels of loss against parameters, steps and data size. Live points (16 tasks, gamma one half) and recorded points (200 tasks, gamma 0.4 and 0.6) with error bars over seeds: all fall nearly straight, for seven data sets, nine widths and two decades of steps; exponents from 0.38 to 0.62 in the legends."}}
figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.5), sharey=True)
sets = [
    ("live, γ = 0.5", live_points, live_fit, GREY, "o"),
    ("γ = 0.4", full_points["0.4"], full_fit["0.4"], BLUE, "s"),
    ("γ = 0.6", full_points["0.6"], full_fit["0.6"], ORANGE, "^"),
]
for axes, name, what in zip(panels, ("α_N", "α_S", "α_D"), ("parameters N", "steps S", "samples D"), strict=True):
    for label, points, fits, color, marker in sets:
        if name not in points:
            continue
        at, values = points[name]
        axes.errorbar(
            at,
            values.mean(1),
            values.std(1, ddof=1) / math.sqrt(values.shape[1]),
            color=color,
            marker=marker,
            ms=4,
            lw=0.8,
            ls=":",
            capsize=2,
            label=f"{label}: {fits[name][0]:.2f}",
        )
    axes.set(xscale="log", yscale="log", xlabel=what, ylim=(0.04, 1.1))
    axes.xaxis.set_minor_formatter(plt.NullFormatter())
    axes.set_title(name, fontsize=10)
    axes.legend(fontsize=7.5, loc="lower left")
panels[0].set_ylabel("loss (bits)")
figure.suptitle(
    "All three slopes exceed γ/(γ+1); that of the parameters is below γ at 0.6",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# What the hypothesis with the finite list predicts for *our* sweeps needs no constant from a loss curve: take $\tau$ from the first tasks alone. For the steps, task $k$ is to be learned at $T_1p_1/p_k$, with $T_1$ the measured time of
# the commonest task. Two more questions can be put to the networks directly: how many tasks does a width hold, and how many does a data set teach?


# %%
def sharp_by_steps(times, points, gamma, K):
    """alpha_S of tasks learned at T_1 p_1 / p_k, at the steps of the measured fit."""
    p, steps = finite_list(gamma, K), points["α_S"][0]
    losses = np.array([unlearned_mass(p, times[:, 0].mean() * p[0] / (p * S)) for S in steps])
    usable = losses > 0
    return -metrics.loglog_slope(steps[usable], losses[usable]).slope


def tasks_held(sweep, gamma, axis):
    """(values, seeds) of how many tasks are below half a bit at the best mark of the best rate, for each width or size."""
    values, _, rows = tuned(sweep, gamma, axis)
    curves, counts = np.array(sweep["sweeps"][gamma]["loss"]), np.array(sweep["sweeps"][gamma]["learned"])
    return values, counts[curves.argmin(0), np.arange(curves.shape[1])][rows]


# %% tags=["hide-input"]
sharp_s = {
    "0.5": sharp_by_steps(times["0.5"], live_points, 0.5, 16),
    **{g: sharp_by_steps(times[g], full_points[g], float(g), 200) for g in full_fit},
}
held = {g: tasks_held(full["E2N"], g, 0) for g in full_fit}
held_by_data = {g: tasks_held(full["E2D"], g, 1) for g in full_fit if "E2D" in full}
count_fit = lambda x, counts, least=1: [
    -v for v in np.array(bootstrap_slope(x[counts.min(1) >= least], counts[counts.min(1) >= least]))[[0, 2, 1]]
]
capacity = {g: count_fit(267.0 * w + 2, c) for g, (w, c) in held.items()}
learned_by_data = {g: count_fit(sizes.astype(float), c) for g, (sizes, c) in held_by_data.items()}
fresh_runs = [r for r, arm in enumerate(full["E2N"]["arms"]) if arm[0] == 250 and arm[2] == 3e-3]
fresh_cost = {g: np.array(full["E2N"]["sweeps"][g]["unlearned"])[fresh_runs] for g in full_fit}
unlearned_cost = {g: np.array(full["E2D"]["sweeps"][g]["unlearned"])[tuned(full["E2D"], g, 1)[2]] for g in held_by_data}
# %% [markdown]
# ### The code against references
#
# Recorded numbers stay where they are when code breaks. So the task, the network, the loss, the sampling, the update and the bookkeeping are each compared with something independent, at tiny size.


# %% tags=["hide-input"]
def reference_run(gamma, arm, seeds, tasks, bits, batch, steps, marks, tests):
    """parity_runs for one arm by torch.nn, torch.optim.Adam and F.cross_entropy; the same generator, used by every arm alike."""
    width, size, rate, seed = arm
    p, generator = zipf(gamma, tasks), torch.Generator().manual_seed(1000 + round(100 * gamma))
    triples = [draw_triples(tasks, bits, s) for s in seeds]
    hidden, out, bias = draw_networks([width], [seed], tasks + bits + 1)
    first, second = torch.nn.Linear(tasks + bits, width), torch.nn.Linear(width, 2)
    for layer, weight, offset in ((first, hidden[0, :-1].T, hidden[0, -1]), (second, out[0].T, bias[0, 0])):
        layer.weight.data, layer.bias.data = weight.contiguous(), offset.clone()
    net = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    opt = torch.optim.Adam(net.parameters(), lr=rate)
    answer = lambda task, drawn: torch.tensor([int(drawn[i][triples[seeds.index(seed)][k]].sum()) % 2 for i, k in enumerate(task)])
    lost = lambda task, drawn: (
        F.cross_entropy(net(torch.cat([F.one_hot(task, tasks), drawn], 1).float()), answer(task, drawn), reduction="none") / math.log(2)
    )
    edges = p.cumsum(0).float()
    pick = lambda *shape: ((torch.rand(shape, generator=generator)[..., None] > edges).sum(-1)).clamp_max(tasks - 1)
    flips = lambda *shape: torch.randint(2, shape, generator=generator, dtype=torch.uint8)
    if size:
        most = 40
        store = pick(len(seeds), most), flips(len(seeds), most, bits)
    test_task = torch.arange(tasks).repeat_interleave(tests)
    test_bits, rows = flips(len(test_task), bits), []
    for t in range(steps + 1):
        if t in marks:
            with torch.no_grad():
                rows.append([float(lost(test_task, test_bits)[test_task == k].mean()) for k in range(tasks)])
        if t == steps:
            return rows
        if size:
            u = torch.rand((8, batch), generator=generator, dtype=torch.float64)[
                [20, 40].index(size) * 4 + [0.03, 0.01].index(rate) * 2 + seeds.index(seed)
            ]
            row = (u * size).long()
            task, drawn = store[0][seeds.index(seed)][row], store[1][seeds.index(seed)][row]
        else:
            task, drawn = pick(batch), flips(batch, bits)
        opt.zero_grad()
        lost(task, drawn).mean().backward()
        opt.step()


def largest_gap(widths, sizes):
    """Largest difference of all test losses between parity_sweep and the reference, both runs of the largest width and size, and of every mean."""
    kwargs = {"tasks": 3, "bits": 6, "batch": 20, "steps": 5, "marks": [0, 2, 5], "tests": 7, "seeds": [4, 5]}
    ours = parity_sweep(torch.device("cpu"), gammas=[0.5], widths=widths, sizes=sizes, rates=[0.03, 0.01], **kwargs)
    theirs = [reference_run(0.5, arm, **kwargs) for arm in ours["arms"]]
    weights = [k**-1.5 / sum(j**-1.5 for j in (1, 2, 3)) for k in (1, 2, 3)]
    means = [[sum(w * v for w, v in zip(weights, row, strict=True)) for row in rows] for rows in theirs]
    sweep = ours["sweeps"]["0.5"]
    return worst(np.array(sweep["loss"]).T - means, np.array(sweep["tasks"]) - theirs[-1])


# %% tags=["hide-input"]
toy = torch.ones(4, 3, 2, dtype=torch.float64)  # (marks, runs, tasks): run 0 learns task 0 at mark 1, run 1 task 1 at mark 3, run 2 nothing
toy[1:, 0, 0], toy[3, 1, 1], toy[2:, 2] = 0.45, 0.1, 1.5
toy[1, 2], toy[3, 0, 1] = torch.tensor([0.6, 0.9], dtype=torch.float64), 0.55
toy_summary = summary(toy, torch.tensor([0.75, 0.25], dtype=torch.float64), [0, 10, 20, 30], 3)
six = torch.tensor(list(itertools.product((0, 1), repeat=6)), dtype=torch.uint8)
drawn_tasks, drawn_bits = draw_tasks(zipf(0.5, 5), (100_000,), 4, torch.Generator().manual_seed(3))
shares = torch.bincount(drawn_tasks, minlength=5) / 1e5
by_hand = [k**-1.5 / sum(j**-1.5 for j in range(1, 6)) for k in range(1, 6)]
store = torch.arange(12).view(2, 6) % 3, torch.stack([torch.zeros(6, 4), torch.ones(6, 4)]).to(torch.uint8)
xs, ys = stored(
    store,
    torch.tensor([[[0, 1, 2]] * 3, [[0, 1, 2]] * 3]),
    torch.tensor([0, 1, 1]),
    torch.tensor([1, 1, 6]),
    500,
    torch.Generator().manual_seed(4),
)
unit_y = torch.rand(300, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()


def interval_coverage(points, seeds, trials=300):
    """Share of bootstrap intervals, of a power law's points and seeds with independent noise, that contain its exponent 0.4."""
    rng, x = np.random.default_rng(1), np.geomspace(1, 100, points)
    hits = 0
    for trial in range(trials):
        y = 3 * x[:, None] ** -0.4 * np.exp(0.1 * rng.standard_normal((points, 1)) + 0.1 * rng.standard_normal((points, seeds)))
        _, low, high = bootstrap_slope(x, y, draws=300, seed=trial)
        hits += low < 0.4 < high
    return hits / trials


made_times = np.tile(5 * np.arange(1, 10.0) ** (1.5 * 0.8), (2, 1))
made_times[1, 6], made_times[:, 8] = 0, 1.0
noisy_slope = time_slope(made_times * np.exp(0.2 * np.random.default_rng(3).standard_normal((2, 9))), 0.5)
kinked = np.tile(5 * np.arange(1, 10.0) ** (1.5 * 0.8), (2, 1))
kinked[:, 4:] = 500


def sharp_by_loops(g):
    """alpha_S of tasks learned from T_1 p_1 / p_k on, task by task, by scipy's regression."""
    weights = [k ** -(float(g) + 1) for k in range(1, 201)]
    when = [float(np.mean([row[0] for row in times[g]])) * weights[0] / w for w in weights]
    at = [int(S) for S in full_points[g]["α_S"][0]]
    lost = [sum(w for w, T in zip(weights, when, strict=True) if T > S) for S in at]
    return -scipy.stats.linregress([math.log(S) for S in at], [math.log(v) for v in lost]).slope


choice = {
    "arms": [[w, 0, r, s] for w in (4, 8) for r in (0.1, 0.2) for s in (1, 2)],
    "sweeps": {"g": {"loss": [[9] * 8, [5, 7, 3, 4, 1, 2, 8, 9]], "learned": [[0] * 8, [1, 2, 3, 4, 5, 6, 7, 8]]}},
}
nb.claim(
    "X1",
    "The experiment's code agrees with references: torch.nn with torch.optim.Adam, parities by loops, frequencies by counts, the curves by hand, the fit's interval by its coverage.",
    "verified",
    holds=[
        ledger.close("worst, the helper of these checks, of (0, −2) and 1", worst(torch.tensor([0.0, -2.0]), 1.0), 2, abs=1e-12),
        ledger.close(
            "fresh examples, two widths and seeds: largest gap of a test loss",
            largest_gap([5, 9], [0]),
            0,
            abs=2e-4,
            digits=1,
            machine=True,
        ),
        ledger.close(
            "count_fit leaves out a size at which a seed holds no task: exponent of 1, 2, 4, 8 tasks at 1, 2, 4, 8",
            count_fit(np.array([0.5, 1, 2, 4, 8]), np.array([[0, 3], [1, 1], [2, 2], [4, 4], [8, 8]]))[0],
            1,
            abs=1e-9,
        ),
        ledger.close("two data sets, two seeds: largest gap", largest_gap([6], [20, 40]), 0, abs=2e-4, digits=1, machine=True),
        sym.enumeration(
            "parity of bits 1, 3, 4 of all 64 strings",
            range(64),
            lambda i: int(parity(six[i], torch.tensor([1, 3, 4]))),
            lambda i: sum((i >> (5 - j)) & 1 for j in (1, 3, 4)) % 2,
        ),
        ledger.close(
            "distinct triples among 200 of 64 bits", len({tuple(sorted(row)) for row in draw_triples(200, 64, 1).tolist()}), 200, abs=0.5
        ),
        ledger.less(
            "largest deviation of 100,000 tasks' shares from k^−1.5",
            max(abs(float(u) - v) for u, v in zip(shares, by_hand, strict=True)),
            0.007,
            digits=2,
        ),
        ledger.close("their bits' mean", float(drawn_bits.float().mean()), 0.5, abs=0.005),
        ledger.close(
            "a data set of one example repeats it (rows 0 and 1)", float((xs[:2, :, :3] - xs[:2, :1, :3]).abs().sum() + 1), 1, abs=1e-6
        ),
        ledger.close(
            "each run draws from its own seed's set: bits 0 and 1",
            float(xs[0, :, 3:7].sum() + 1 - xs[1:, :, 3:7].mean()),
            0,
            abs=1e-6,
            digits=1,
        ),
        ledger.close("a set of six is drawn from evenly (share of task 2)", float(xs[2, :, 2].mean()), 1 / 3, abs=0.08, machine=True),
        ledger.close("parity of three ones", float(ys[1:].float().mean() - ys[0].float().mean()), 1, abs=1e-9),
        sym.enumeration(
            "summary: first marks below half a bit",
            range(6),
            lambda i: int(np.array(toy_summary["crossing"])[i // 2, i % 2]),
            lambda i: [10, 0, 0, 30, 0, 0][i],
        ),
        ledger.close("summary: mean loss of run 0 at the end", toy_summary["loss"][3][0], 0.75 * 0.45 + 0.25 * 0.55, abs=1e-12),
        ledger.close(
            "summary: what run 2, stopped at its best mark, loses on what it has not learned",
            toy_summary["unlearned"][2],
            0.75 * 0.6 + 0.25 * 0.9,
            abs=1e-9,
        ),
        ledger.close("summary: learned tasks at the last mark", sum(toy_summary["learned"][3]), 2, abs=1e-9),
        sym.enumeration(
            "best rate per width: runs chosen", range(4), lambda i: int(tuned(choice, "g", 0)[2].ravel()[i]), lambda i: [2, 3, 4, 5][i]
        ),
        sym.enumeration(
            "and what they have learned", range(4), lambda i: int(tasks_held(choice, "g", 0)[1].ravel()[i]), lambda i: [3, 4, 5, 6][i]
        ),
        sym.enumeration(
            "parameters of the live widths, counted on torch.nn",
            range(5),
            lambda i: int(live_points["α_N"][0][i]),
            lambda i: sum(p.numel() for layer in (torch.nn.Linear(32, 4 * 2**i), torch.nn.Linear(4 * 2**i, 2)) for p in layer.parameters()),
        ),
        *[
            ledger.close(
                f"initial {name}: largest entry over torch's bound", float(part.abs().max()) * math.sqrt(fan), 1, abs=0.03, digits=2
            )
            for name, part, fan in zip(("hidden weights", "output weights"), draw_networks([400], [1], 33), (32, 400), strict=False)
        ],
        ledger.close(
            "times 5 p^(−0.8) of 9 tasks, the 7th never, the 9th odd: slope of ln T", time_slope(made_times, 0.5)[0], -0.8, rel=1e-9
        ),
        ledger.less("the same with noise: lower minus upper end of the interval", noisy_slope[1] - noisy_slope[2], -0.01, digits=2),
        ledger.close("of the first 4 only, where T ≤ 100: slope", time_slope(kinked, 0.5, within=100)[0], -0.8, rel=1e-9),
        *[ledger.close(f"γ = {g}: α_S at T₁p₁/p by explicit loops", sharp_by_loops(g), sharp_s[g], rel=1e-9) for g in full_fit],
        ledger.close("widths of the fit of learned tasks in N, γ = 0.4", int((held["0.4"][1].min(1) >= 1).sum()), 9, abs=0.1),
        ledger.close("exact power law: exponent", bootstrap_slope([1, 2, 5, 9], np.array([[1, 2, 5, 9]] * 2).T ** -0.7)[0], 0.7, rel=1e-9),
        *[
            ledger.close(
                f"95% intervals of {points} points, {seeds} seeds cover the exponent in",
                interval_coverage(points, seeds),
                v,
                abs=0.03,
                digits=2,
                method="monte carlo",
            )
            for points, seeds, v in ((12, 8, 0.93), (9, 3, 0.94), (7, 3, 0.97), (4, 3, 0.88))
        ],
    ],
)

# %% [markdown]
# ### What the sweeps show
#
# Tasks switch in order of their frequency, at a time near $1/p_k$, while the mean glides. The exponents of steps and data lie above $\gamma/(\gamma+1)=0.33$, as D7 predicts. That of the parameters is the least certain: at the smallest
# widths luck decides whether the first task is found at all; the interval contains $\gamma=0.5$ and overlaps that of $\alpha_D$. So "$\alpha_N>\alpha_D$" and "$\alpha_N>\gamma$" are not settled by three seeds of sixteen tasks.
#
# One thing contradicts the hypothesis. An unlearned task may cost more than the one bit of a coin toss. While a net learns others this happens for a while with fresh data, too (yellow in the map above). But at the best moment to stop it happens with stored data only: the recorded nets of some 250 units at the rate 0.003, with some twenty tasks learned, lose at most 1.00 bits on the others with fresh examples, at least 1.07 with two million stored ones.

# %% tags=["hide-input", "nbval-ignore-output"]
text_ci = lambda fit: f"≈{fit[0]:.2f} [≈{fit[1]:.2f}, ≈{fit[2]:.2f}]"
fit_ranges = {"α_N": "widths 4 to 64", "α_S": "0.1 < L < 0.9", "α_D": "L < 0.9"}
nb.results(
    "E2",
    "Exponents of the live sweeps (16 tasks, γ = 0.5, 3 seeds) with 95% bootstrap intervals over seeds and points of the fit.",
    ["", "fitted over", "points", "exponent [interval]", "infinite list", "tasks switching at T₁p₁/p", "paper, 500 tasks"],
    [
        [
            name,
            fit_ranges[name],
            len(live_points[name][0]),
            text_ci(live_fit[name]),
            f"{infinite[4, i]:.2f}",
            f"≈{sharp_s['0.5']:.2f}" if name == "α_S" else "",
            f"{PAPER[0.5][i]:.2f}",
        ]
        for i, name in enumerate(fit_ranges)
    ]
    + [
        [
            "ln T against ln p",
            "ranks before the first one missed",
            int(np.argmin((times["0.5"] > 0).all(0))),
            text_ci(times_fit["0.5"]),
            "−1",
            "−1",
            "−0.81 (γ = 0.4)",
        ]
    ],
)

# %% tags=["hide-input"]
last_run = np.array(by_step["sweeps"]["0.5"]["tasks"])
mean_curve = np.array(by_step["sweeps"]["0.5"]["loss"])[:, -1]
marks_all = np.array(by_step["marks"])
passes = lambda curve, level: marks_all[int(np.argmax(curve < level))]
switching = [passes(last_run[:, k], 0.2) / passes(last_run[:, k], 0.8) for k in range(16) if last_run[-1, k] < 0.2]
rank_of = {g: [scipy.stats.spearmanr(np.nonzero(row > 0)[0], row[row > 0]).statistic for row in t] for g, t in times.items()}
nb.claim(
    "C10",
    "Single tasks switch sharply while the mean loss falls smoothly.",
    "verified",
    holds=[
        ledger.less(
            "median factor in steps from 0.8 to 0.2 bits of a task", float(np.median(switching)), 3, machine=True, scope="cpu, one run"
        ),
        ledger.more(
            "the same factor of the mean loss",
            float(passes(mean_curve, 0.2) / passes(mean_curve, 0.8)),
            5,
            machine=True,
            scope="cpu, one run",
        ),
    ],
)
nb.claim(
    "C11",
    "The time to learn a task goes as 1/p: the paper fits −0.81 to its networks.",
    "partly",
    holds=[
        *[
            ledger.less(
                f"γ = {g}: slope of ln T against ln p",
                times_fit[g][0],
                -0.65,
                machine=g == "0.5",
                scope="cpu, 3 seeds" if g == "0.5" else "H100, 3 seeds",
            )
            for g in times
        ],
        *[
            ledger.more(f"γ = {g}", times_fit[g][0], -1.25, machine=g == "0.5", scope="cpu, 3 seeds" if g == "0.5" else "H100, 3 seeds")
            for g in times
        ],
    ],
    fails=[
        *[
            ledger.more(
                f"γ = {g}: lower end, ranks learned in the first half of the run", early_fit[g][1], -1, margin=0.05, scope="H100, 3 seeds"
            )
            for g in early_fit
        ],
        *[
            ledger.more(f"γ = {g}: lower end, all ranks before the first one missed", times_fit[g][1], -1, scope="H100, 3 seeds")
            for g in early_fit
        ],
    ],
)
lost_at = np.array(by_data["sweeps"]["0.5"]["unlearned"]).reshape(5, 3)
nb.experiment(
    "E2",
    "16 tasks on a CPU: tasks are learned in order of frequency, α_S and α_D exceed the values of the infinite list as the end of the list predicts, and training on a fixed set breaks 'an unlearned quantum still costs b'.",
    "partly",
    holds=[
        *[
            ledger.more(f"Spearman(rank, time), seed {i + 1}", r, 0.8, machine=True, scope="cpu, 3 seeds")
            for i, r in enumerate(rank_of["0.5"])
        ],
        ledger.more("α_S over 1/3", live_fit["α_S"][0], 1 / 3, margin=0.1, digits=2, machine=True, scope="cpu, 3 seeds"),
        ledger.more("α_D over 1/3", live_fit["α_D"][0], 1 / 3, digits=2, machine=True, scope="cpu, 3 seeds"),
        ledger.more(
            "least loss falls with the width: first over last",
            float(np.ravel(live_points["α_N"][1].mean(1))[0] / live_points["α_N"][1].mean(1)[-1]),
            2.5,
            machine=True,
            scope="cpu, 3 seeds",
        ),
    ],
    fails=[
        ledger.less(
            "lower end of α_N's interval does not exceed γ = 0.5", live_fit["α_N"][1], 0.5, digits=2, machine=True, scope="cpu, 3 seeds"
        ),
        ledger.more(
            "D = 1600: bits that an unlearned task costs at the best stop, least of three seeds",
            float(lost_at[1].min()),
            1.1,
            digits=3,
            machine=True,
            scope="cpu, 3 seeds",
        ),
    ],
)

# %% [markdown]
# **Steps.** With 200 tasks and no constant fitted, tasks switching at $T_1p_1/p_k$ would give $\alpha_S=0.38$ and 0.41 at $\gamma=0.4$ and 0.6. Measured are 0.44 and 0.52; the infinite list has 0.29 and 0.375. The end of the list explains 60% and 23% of the excess. The rest goes with late tasks that come sooner than $1/p_k$ would have it, also among the ranks learned in the first half of the run, where the cut at its end plays no part.
#
# **Data.** $\alpha_D$ exceeds $\gamma/(\gamma+1)$ at 0.4; at 0.6 the interval just reaches it. The number of learned tasks grows about as $D^{1/(1+\gamma)}$.
#
# **Parameters.** $\alpha_N$ agrees with $\gamma$ at 0.4 and lies below it at 0.6, as the paper's do for large $\gamma$. Two effects multiply: over 1 to 19 tasks the loss falls like $n^{-0.47}$ and $n^{-0.57}$ (the end steepens it, small $n$ flattens it), and $n$ grows like $N^{0.82}$ and $N^{0.77}$; the products are 0.38 and 0.44. This does *not* refute a constant price per quantum: at width 250 a third to a half more tasks were learned in the second half of the run than in the first, so these are tasks learned in 24,000 steps, not capacities.
#
# The best rate for widths and steps is nearly always the smallest of the grid, $10^{-3}$ (the paper's): the optimum may lie lower.

# %% tags=["hide-input", "nbval-ignore-output"]
theory = {"α_N": lambda g: g, "α_S": lambda g: g / (g + 1), "α_D": lambda g: g / (g + 1)}
shown = lambda fits, k: text_ci(fits[k]).replace("≈", "") if k in fits else "not recorded"
rows_e3 = [
    [k, shown(full_fit["0.4"], k), f"{theory[k](0.4):.2f}", f"{PAPER[0.4][i]:.2f}", shown(full_fit["0.6"], k), f"{theory[k](0.6):.2f}"]
    for i, k in enumerate(theory)
]
rows_e3 += [
    ["α_S, tasks switching at T₁p₁/p", f"{sharp_s['0.4']:.2f}", "", "", f"{sharp_s['0.6']:.2f}", ""],
    ["ln T against ln p", shown(times_fit, "0.4"), "−1", "−0.81", shown(times_fit, "0.6"), "−1"],
    ["tasks learned in 24,000 steps against N", shown(capacity, "0.4"), "1", "", shown(capacity, "0.6"), "1"],
    ["tasks learned against D", shown(learned_by_data, "0.4"), f"{1 / 1.4:.2f}", "0.68", shown(learned_by_data, "0.6"), f"{1 / 1.6:.2f}"],
]
nb.results(
    "E3",
    "Recorded exponents with 95% bootstrap intervals (over seeds and points of the fit), beside the infinite list's and the paper's (500 tasks of 100 bits).",
    ["", "γ = 0.4", "theory", "paper, γ = 0.4", "γ = 0.6", "theory"],
    rows_e3,
)

# %% tags=["hide-input"]
scope3 = "H100, 200 tasks, 3 seeds"
best_rates = [full[key]["arms"][r][2] for key in ("E2N", "E2S") for g in full_fit for r in tuned(full[key], g, 0)[2][:, 0]]
law = {g: float(g) / (float(g) + 1) for g in full_fit}
explained = {g: (sharp_s[g] - law[g]) / (full_fit[g]["α_S"][0] - law[g]) for g in full_fit}
curve_marks = np.array(full["E2N"]["marks"])
half_run = int(np.argmin(np.abs(curve_marks - 12000)))
grown = {}
for g in full_fit:
    widest = tuned(full["E2N"], g, 0)[2][-1]
    counts_w = np.array(full["E2N"]["sweeps"][g]["learned"])[:, widest].mean(1)
    grown[g] = counts_w[-1] / counts_w[half_run]
least_stored = min(float(unlearned_cost[g][2:].min()) for g in unlearned_cost)
nb.experiment(
    "E3",
    "200 tasks on a GPU: tasks are learned in order of frequency; α_S and α_D exceed γ/(γ+1) as the end of the list predicts, with no constant fitted; α_N is γ; an unlearned task costs one bit.",
    "partly",
    holds=[
        *[ledger.more(f"γ = {g}: least Spearman(rank, time) of three seeds", min(rank_of[g]), 0.85, scope=scope3) for g in full_fit],
        *[
            ledger.more(f"γ = {g}: lower end of α_S over γ/(γ+1)", full_fit[g]["α_S"][1], law[g], margin=0.05, scope=scope3)
            for g in full_fit
        ],
        ledger.more("γ = 0.4: lower end of α_D over γ/(γ+1)", full_fit["0.4"]["α_D"][1], law["0.4"], margin=0.02, scope=scope3),
        ledger.more("γ = 0.6: α_D over γ/(γ+1)", full_fit["0.6"]["α_D"][0], law["0.6"], margin=0.02, scope=scope3),
        ledger.less("γ = 0.4: lower end of α_N", full_fit["0.4"]["α_N"][1], 0.4, scope=scope3),
        ledger.more("γ = 0.4: upper end of α_N", full_fit["0.4"]["α_N"][2], 0.4, scope=scope3),
        *[
            ledger.close(
                f"γ = {g}: exponent of learned tasks in D over 1/(1+γ)",
                learned_by_data[g][0] * (1 + float(g)),
                1,
                abs=0.2,
                digits=2,
                scope=scope3,
            )
            for g in full_fit
        ],
        *[
            ledger.less(
                f"γ = {g}: largest loss on unlearned tasks, fresh examples, width 250, rate 0.003",
                float(fresh_cost[g].max()),
                1.02,
                digits=3,
                scope=scope3,
            )
            for g in full_fit
        ],
    ],
    fails=[
        *[
            ledger.less(
                f"γ = {g}: α_S of the finite list, against the measured interval's lower end",
                sharp_s[g],
                full_fit[g]["α_S"][1],
                margin=0.03,
                scope=scope3,
            )
            for g in full_fit
        ],
        ledger.close(
            "γ = 0.4: share of α_S's excess that the end of the list explains", explained["0.4"], 0.60, abs=0.03, digits=2, scope=scope3
        ),
        ledger.close("γ = 0.6: the same", explained["0.6"], 0.23, abs=0.03, digits=2, scope=scope3),
        ledger.less("γ = 0.6: the lower end of α_D is not above γ/(γ+1)", full_fit["0.6"]["α_D"][1], law["0.6"], digits=4, scope=scope3),
        ledger.less("γ = 0.6: upper end of α_N (γ is not inside)", full_fit["0.6"]["α_N"][2], 0.6, scope=scope3),
        *[
            ledger.less(
                f"γ = {g}: upper end of the exponent of learned tasks in N (capacity at a constant price has 1)",
                capacity[g][2],
                1,
                digits=4,
                scope=scope3,
            )
            for g in full_fit
        ],
        *[
            ledger.more(f"γ = {g}: but width 250 is not saturated, tasks learned by the end over half-time", grown[g], 1.3, scope=scope3)
            for g in full_fit
        ],
        ledger.more("stored data, D ≥ 32,000: least loss of a run on its unlearned tasks", least_stored, 1.02, digits=3, scope=scope3),
        *[
            ledger.more(f"γ = {g}: two million stored examples, the same", float(unlearned_cost[g][-1].min()), 1.05, digits=3, scope=scope3)
            for g in full_fit
        ],
        ledger.more(
            "share of widths whose best rate is the smallest of the grid", best_rates.count(1e-3) / len(best_rates), 0.5, scope=scope3
        ),
    ],
)


# %% [markdown]
# ## E4: is real text of this kind?
#
# The hypothesis needs $p_k\propto k^{-\gamma-1}$ with $\gamma>0$: strictly *steeper* than Zipf's own $1/k$. At $\gamma=0$ the sum diverges; with $K$ quanta $L=1-H_n/H_K$, a logarithm (C17). We count words and pairs of neighbouring
# words (runs of letters and underscores) in two fixed texts: Shakespeare, and the Python sources of networkx.


# %%
def rank_slope(counts, lo, hi):
    """Slope of ln count against ln rank at 40 ranks spaced evenly on a log axis."""
    ordered = np.array(sorted(counts.values(), reverse=True), float)
    ranks = np.unique(np.geomspace(lo, min(hi, len(ordered)), 40).round().astype(int))
    return metrics.loglog_slope(ranks, ordered[ranks - 1]).slope


def missing_mass(counts, sizes):
    """Expected frequency of what a sample of D tokens has not shown: sum of p (1 - p)^D."""
    p = np.array(list(counts.values()), float)
    p /= p.sum()
    return np.array([(p * np.exp(D * np.log1p(-p))).sum() for D in sizes])


# %%
ranges = {"ranks 10–1000": (10, 1000), "100–5000": (100, 5000), "1000–14000": (1000, 14000)}
sample_sizes = np.geomspace(100, 1e5, 7)
words, slopes, missing = {}, {}, {}
for name, text in {"Shakespeare": data.shakespeare(), "Python": data.python_code()}.items():
    tokens = words[name] = re.findall(r"[A-Za-z_]+", text)
    for what, counts in (("words", Counter(tokens)), ("pairs", Counter(itertools.pairwise(tokens)))):
        slopes[name, what] = [rank_slope(counts, *r) for r in ranges.values()]
    missing[name] = missing_mass(Counter(tokens), sample_sizes)
drift = {name: -np.diff(np.log(m)) / np.diff(np.log(sample_sizes)) for name, m in missing.items()}
sheet = {"words": ("−0.97", "−1.12", "−1.28"), "pairs": ("−0.73", "−0.76", "−0.85")}
nb.results(
    "E4",
    "Slope of frequency against rank. The hypothesis needs less than −1. Last column: earlier count over CPython's standard library (its last range up to rank 20,000), not rerun.",
    ["", "range", "Shakespeare", "networkx sources", "standard library"],
    [
        [what, r, *[f"{slopes[name, what][i]:.2f}" for name in words], sheet[what][i]]
        for what in ("words", "pairs")
        for i, r in enumerate(ranges)
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: frequency against rank on log axes for words and pairs of words in Shakespeare and in Python sources; curves bend downwards: words cross the slope minus 1 around rank 100, pairs stay flatter. Right: the local exponent of the missing mass against sample size rises steadily from 0.2 to above 0.6 for both texts, with no plateau."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.5))
for name, color in (("Shakespeare", BLUE), ("Python", ORANGE)):
    for what, counts, style in (("words", Counter(words[name]), "-"), ("pairs", Counter(itertools.pairwise(words[name])), "--")):
        f = np.array(sorted(counts.values(), reverse=True), float)
        at = np.unique(np.geomspace(1, len(f), 80).astype(int))
        axes.plot(at, f[at - 1] / f.sum(), color=color, ls=style, lw=1.4, label=f"{name}, {what}")
    right.plot(np.sqrt(sample_sizes[1:] * sample_sizes[:-1]), drift[name], color=color, marker="o", ls="-", label=name)
axes.plot([10, 1e4], [3e-2, 3e-5], color=GREY, ls=":", label="1/rank")
axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="frequency")
axes.legend(fontsize=7.5)
right.set(xscale="log", xlabel="tokens seen D", ylabel="−d ln(missing mass)/d ln D", ylim=(0, 0.9))
right.legend(fontsize=8)
figure.suptitle(
    "Counted frequencies have no single γ; pairs of words stay flatter than 1/rank", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
flat = {w: 1.0 / k for k, w in enumerate(range(20000), 1)}
ideal = {w: 9e5 * v for w, v in enumerate(finite_list(0.5, 20000))}  # an exact γ = 1/2, finite as every count is
null_drift = (lambda m: float(np.log(m[-2] / m[-1]) / np.log(m[0] / m[1])))(missing_mass(ideal, sample_sizes))
mass = lambda D: sum(p * (1 - p) ** D for p in finite_list(0.5, 20000))
brute = lambda tokens, D: sum(c / len(tokens) * (1 - c / len(tokens)) ** D for c in Counter(tokens).values())
nb.experiment(
    "E4",
    "The frequencies of words and pairs of words follow a power law with γ > 0.",
    "partly",
    holds=[
        *[
            ledger.less(f"{name}, words: both slopes beyond rank 100 (γ > 0 needs < −1)", max(slopes[name, "words"][1:]), -1)
            for name in words
        ],
        ledger.close("the fit reads −1 on an exact 1/rank list", rank_slope(flat, 10, 1000), -1, abs=1e-6),
        ledger.close(
            "growth of the local exponent of an exact power law, last interval over first, by loops",
            null_drift,
            math.log(mass(sample_sizes[5]) / mass(sample_sizes[6])) / math.log(mass(sample_sizes[0]) / mass(sample_sizes[1])),
            rel=1e-9,
        ),
        ledger.close(
            "missing mass of the Python tokens at D = 1000 by brute force",
            float(missing_mass(Counter(words["Python"]), [1000])[0]),
            brute(words["Python"], 1000),
            rel=1e-9,
        ),
    ],
    fails=[
        *[
            ledger.more(f"{name}, pairs: steepest of the three slopes (γ > 0 needs < −1)", min(slopes[name, "pairs"]), -1, margin=0.1)
            for name in words
        ],
        *[
            ledger.increasing(f"{name}, words: slopes steepen with the rank, no power law", [-v for v in slopes[name, "words"]])
            for name in words
        ],
        *[
            ledger.close(
                f"{name}: first local exponent, from its two masses",
                drift[name][0],
                math.log(missing[name][0] / missing[name][1]) / math.log(sample_sizes[1] / sample_sizes[0]),
                abs=1e-9,
            )
            for name in words
        ],
        *[
            ledger.more(
                f"{name}: growth of the missing mass's local exponent over that of an exact power law of equal size",
                drift[name][-1] / drift[name][0] / null_drift,
                1.5,
            )
            for name in words
        ],
    ],
)
nb.claim(
    "C16",
    "Language models behave so: the paper quotes α_N = 0.083 for Pythia, γ = 0.237 ± 0.2 from the frequencies of gradient clusters, and step exponents 0.037 to 0.060.",
    "partly",
    holds=[ledger.less("distance of α_N from γ in its own error bars", abs(0.083 - 0.237) / 0.2, 1, scope="quoted numbers, nothing rerun")],
    fails=[
        ledger.less(
            "largest step exponent over γ/(γ+1) at γ = 0.237",
            max(0.037, 0.052, 0.049, 0.060) / (0.237 / 1.237),
            0.5,
            scope="quoted numbers, nothing rerun",
        ),
        ledger.less(
            "and over that at γ = α_N = 0.083",
            max(0.037, 0.052, 0.049, 0.060) / (0.083 / 1.083),
            0.8,
            scope="quoted numbers, nothing rerun",
        ),
    ],
)

# %% [markdown]
# Counting other texts than the standard library leaves the picture as it was: word slopes cross $-1$ and go on falling, pairs stay above $-1$. (A missing mass counted in a finite text drifts even for an exact power law; the check compares with one.) An $n$-gram is of course not a quantum; this only says that the frequencies one can count do not deliver the law.
#
# ## Beyond the post
#
# **An exactly solvable version.** Nam and others {cite}`nam2024solvable` replace the network by a linear combination of the tasks' parities, each with a product of two weights as its coefficient. Under gradient flow a task's strength then follows a sigmoid in time: one parameter gives both the sharp switch and the
# waiting time $\propto1/p_k$. Check: with $r=uv$, $u=v$, $\dot r=2p\,r(1-r)$, so that all tasks share one curve in $p_kt$.

# %% tags=["hide-input"]
r0, t_, p_s, u_, v_ = sp.symbols("r_0 t p u v", positive=True)
strength = r0 * sp.exp(2 * p_s * t_) / (1 - r0 + r0 * sp.exp(2 * p_s * t_))
half_time = sp.log((1 - r0) / r0) / (2 * p_s)
nb.claim(
    "X2",
    "In the two-layer linear model (loss p(1 − uv)²/2, u = v) a task's strength is logistic in pt: it is half learned at ln((1−r₀)/r₀)/(2p), the inverse law of C11.",
    "verified",
    holds=[
        sym.identity(
            "du/dt = −∂/∂u of p(1 − uv)²/2 is p v (1 − uv), so p u (1 − u²) at v = u",
            -sp.Derivative(p_s * (1 - u_ * v_) ** 2 / 2, u_),
            p_s * v_ * (1 - u_ * v_),
        ),
        sym.identity(
            "gradient flow of r = u²: dr/dt = 2u du/dt, du/dt = p u (1 − r)",
            sp.Derivative(strength, t_),
            2 * p_s * strength * (1 - strength),
        ),
        sym.identity("half learned", strength.subs(t_, half_time), sp.Rational(1, 2) + 0 * r0),
        sym.identity("slope of ln T in ln p", p_s * sp.Derivative(sp.log(half_time.subs(r0, sp.Rational(1, 100))), p_s), sp.Integer(-1)),
    ],
)

# %% [markdown]
# **The paper's own excess** comes in part from the end of the list (C12, C14, E3). **The constant for random counts** is D6, **the optimal budget** D10.
#
# **What a threshold in samples looks like.** The authors remark in a comment that the samples a task needs come out smaller for larger $\gamma$, which the hypothesis does not foresee: a quantum's $\tau$ should be its own. In our data sweep an unlearned task is not neutral either (E3).
#
# ## What does not hold
#
# - **"Non-negative and decreasing, so exponential or power"** (C8). A stretched exponential is neither. Zipf is assumed.
# - **"Parameters matter more"** (C6). As a statement about exponents it is right; as advice it is not, if losses add (D10): the weaker exponent is where the budget has to go. And of 16 published pairs only two lie within 20% of $\alpha_N/(1+\alpha_N)$.
# - **"An unlearned quantum costs $b$"** (E2, E3). Not when data are stored: unlearned tasks then cost more than guessing.
# - **The exponents** (C13, E3). For $\gamma\le0.2$ the laws are 1.4 to 3 times too small, and the end of the list explains most of it (C14). For $\gamma\ge0.4$ only $\alpha_D$ is within 10% of its law; the measured $\alpha_N$ is up to 24% below its own.
# - **The end of the list as the whole explanation** (E3). With nothing fitted it gives $\alpha_S$ 0.38 and 0.41 for 0.44 and 0.52.
# - **$T_k\propto1/p_k$** (C11). The measured powers are $-0.89$ and $-0.86$, their intervals below 1 in size.
# - **The authors' scatter of published exponents** takes the recommendation model's data exponent for its parameter exponent and the other way round; the point then lies outside the drawn axes.
#
# ## Exercises
#
# 1. How many tasks would an experiment need for a fitted slope to read $\gamma=0.1$ to 10% when 20 tasks are learned?
# 2. Two quanta are needed *together* for a sample ($b\to a$ only if both are learned). What is the loss of a list whose samples each need quantum $k$ and quantum 1? And one whose samples need two independent draws from the list?
# 3. For $\tau=1$ and $\gamma\to\infty$ the law D6 tends to $L\propto D^{-1}$. Show that $\Gamma(\tau+s)/(\Gamma(\tau)\tau^s)$, the ratio of random to sharp counts, is least at $\tau=1$, and find where in $s$.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $n^{-\gamma}/(n^{-\gamma}-K^{-\gamma})=1.1$ gives $(n/K)^{\gamma}=1/11$, so $K=11^{1/\gamma}n=11^{10}\cdot20\approx5\cdot10^{11}$. No experiment with a finite list of tasks measures a small $\gamma$ as a slope.
# ```

# %% tags=["hide-cell"]
needed_K = scipy.optimize.brentq(lambda log_k: by_formula(20, 0.1, math.exp(log_k)) - 0.11, math.log(100), 60)
nb.claim(
    "X3",
    "Exercise 1: a slope within 10% of γ = 0.1 at n = 20 takes K = 20·11¹⁰ ≈ 5·10¹¹ tasks.",
    "verified",
    holds=[ledger.close("K, by root finding", math.exp(needed_K), 20 * 11.0**10, rel=1e-6)],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# With quantum 1 always needed, nothing is learned until it is, and then everything is as before: the same power. With two independent draws, a sample is served with probability $(1-T)^2$, $T$ the tail, so the loss is $1-(1-T)^2=2T-T^2$: the same exponent, twice the constant, and a curve that starts flatter.
# ```

# %% tags=["hide-cell"]
T_ = lambda n, g: float(mpmath.zeta(g + 1, n + 1) / mpmath.zeta(g + 1))
simulated_pairs = np.random.default_rng(2).zipf(1.5, size=(200_000, 2))  # p_k ∝ k^(-1.5): γ = 1/2
nb.claim(
    "X4",
    "Exercise 2: if a sample needs two independent quanta the loss is 2T − T², the same power with twice the constant.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"n = {m}: simulated samples",
                float((simulated_pairs > m).any(1).mean()),
                2 * T_(m, 0.5) - T_(m, 0.5) ** 2,
                abs=0.006,
                digits=3,
                method="monte carlo",
            )
            for m in (10, 100, 1000)
        ],
        ledger.close("loss over 2T at n = 10⁶", (2 * T_(10**6, 0.5) - T_(10**6, 0.5) ** 2) / (2 * T_(10**6, 0.5)), 1, abs=1e-3),
    ],
)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# The ratio rises with $\tau$ towards 1 (Wendel's inequality; the table of D6 shows it), so the smallest is at $\tau=1$, where it is $\Gamma(1+s)$. That has its minimum at $s=0.4616$, with the value 0.8856: random counts never gain more than 11.5%.
# ```

# %% tags=["hide-cell"]
gain = lambda tau, s: math.gamma(tau + s) / math.gamma(tau) / tau**s
lowest = scipy.optimize.minimize_scalar(lambda s: gain(1, s), bounds=(0.01, 0.99), method="bounded")
nb.claim(
    "X5",
    "Exercise 3: random counts lower the constant most at τ = 1 and s = 0.4616, to 0.8856.",
    "verified",
    holds=[
        ledger.close("where", float(lowest.x), 0.4616, abs=1e-3),
        ledger.close("how far", float(lowest.fun), 0.8856, abs=1e-4),
        ledger.increasing("ratio at s = 0.4616, τ = 1, 2, 5, 20", [gain(t, 0.4616) for t in (1, 2, 5, 20)]),
    ],
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2023quantization`. The quantization hypothesis: {cite}`michaud2023quantization`; earlier, learning curves under a power law: {cite}`hutter2021learning`; later, a solvable version: {cite}`nam2024solvable`. Scaling laws: {cite}`kaplan2020scaling`, {cite}`hoffmann2022chinchilla`; published exponents as collected by the paper, from
# {cite}`rosenfeld2020constructive`, {cite}`gordon2021nmt`, {cite}`droppo2021acoustic` and {cite}`ardalani2022recommendation`.
