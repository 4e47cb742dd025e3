# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A geometric reading of Mixture of Experts
#
# [MoE环游记：1、从几何意义出发](https://kexue.fm/archives/10699) · 2025-02-08 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/moe/moe-geometry.ipynb)
#
# **The point.** A feed-forward layer is exactly a sum of $n$ smaller ones, the experts. Which $k$ of them come closest to the whole is hard
# to say in general; for orthogonal outputs it is the $k$ longest, and from that rule the whole Mixture-of-Experts (MoE) layer follows, with
# a router that predicts lengths. In trained Transformers (characters of Shakespeare) the outputs are far from orthogonal, and yet keeping the
# 4 longest of 16 errs only 2.3% more than the best choice (median token), less than before training (figure). That "a mixture approximates its own dense version" holds in our
# small models and, in the larger ones, for ReLU routers only. For a wide layer on an H100 an eighth of the arithmetic takes half of the time.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import gc
import itertools
import math
import random
import time
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import kexue_nb
from kexue_nb import data, ledger, metrics, moe, nn, optim, records, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED

# %%
nb = kexue_nb.notebook("moe-geometry")
corpus, alphabet = data.encode_characters(data.shakespeare())
split = len(corpus) * 19 // 20  # the last twentieth is held out
RULES = {"random": GREY, "length": BLUE, "projection": GREEN, "greedy": PURPLE, "optimal": BLACK}
MARKS = {"random": ":", "length": "o-", "projection": "s--", "greedy": "^-.", "optimal": "-"}


# %% tags=["hide-input"]
@torch.no_grad()
def worst(*differences):
    """The largest absolute entry of numbers, arrays and tensors."""
    return float(torch.cat([torch.as_tensor(d).double().flatten().cpu() for d in differences]).abs().max())


# %% tags=["hide-input"] mystnb={"image": {"alt": "Relative squared error of five selection rules against the number of experts kept, recorded on Shakespeare, on a logarithmic axis; left the network before training, right after it. In both panels random selection is worst, ranking by length lies below it, and ranking by projection and greedy selection lie next to the optimum. All rules are far better after training."}}
made = records.load(nb.slug)
figure, panels = plt.subplots(1, 2, figsize=(8.0, 3.6), sharey=True)
for axes, state, title in zip(panels, ("start", "trained"), ("before training", "after training"), strict=True):
    for rule, color in RULES.items() if "E1" in made else ():
        counts, means = made["E1"].config["counts"], np.mean(made["E1"].result[state][rule], axis=(0, 1))
        axes.plot(counts, means, MARKS[rule], color=color, label=rule, ms=5)
    axes.set(xlabel="experts kept of 16", yscale="log")
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("‖y_K − y‖² / ‖y‖²")
panels[0].legend(fontsize=8)
figure.suptitle(
    "Keeping the longest vectors is good, keeping the largest projections better", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# A Mixture-of-Experts layer scores its experts, keeps the $k$ best, multiplies each output by its score and adds up. Why this shape, and
# why the multiplication? The usual story starts with the router. The post {cite}`su2025moegeometry` starts with a plain feed-forward
# layer: it *is* a sum of $n$ smaller ones, so the question becomes which $k$ of $n$ vectors approximate their sum best. The answer for
# orthogonal vectors, the longest ones, is then turned into an architecture. (In the figure, *projection* keeps the vectors with the largest
# inner product with the sum, *greedy* adds one vector at a time.)
#
# Notation. A token is a row $x\in\mathbb R^d$, $f$ an element-wise activation. $W^A\in\mathbb R^{d\times D}$ and
# $W^B\in\mathbb R^{D\times d}$ are cut into $n$ blocks of $c=D/n$ columns and rows, $v_i=f(xW^A_i)W^B_i$ and $S=\sum_iv_i$.
# $\lambda_i\in\{0,1\}$ keeps term $i$, $\gamma_i=1-\lambda_i$ drops it; $k$ terms are kept, $m=n-k$ dropped.
# $G_{ij}=\langle v_i,v_j\rangle$ is the Gram matrix. Later, $e_i$ is the direction of $v_i$ and $\rho=h(xW^R)$ are the $n$ weights that a
# router with matrix $W^R\in\mathbb R^{d\times n}$ predicts. (In other parts $\lambda,\gamma,\rho$ mean other things.)
#
# The post gives no experiment. Ours run on the characters of Shakespeare. The sequel, [a dynamic budget](moe-dynamic-budget.ipynb), lets the
# number of experts vary from token to token; [the spectral condition](../optimization/mup-spectral.ipynb) looks at the same two matrices from
# the side of their norms.
#
# ## A feed-forward layer is a sum of experts
#
# Because $f$ acts on each coordinate alone,
#
# $$f(xW^A)W^B=\sum_{i=1}^nf(xW^A_i)W^B_i=\sum_iv_i .$$
#
# Nothing is approximated. A gated layer $(f(xW^A)\odot xW^V)W^B$ splits in the same way. A bias inside $f$ goes with its columns; a bias
# on the output is added once, or $b^B/n$ an expert. An activation that mixes coordinates, such as a softmax over the hidden layer, does
# not split.

# %%
x2 = sp.Matrix(1, 2, sp.symbols("x1:3"))
A = sp.Matrix(2, 4, sp.symbols("a1:9"))
V = sp.Matrix(2, 4, sp.symbols("w1:9"))
B = sp.Matrix(4, 2, sp.symbols("b1:9"))
bias_a, bias_b = sp.Matrix(1, 4, sp.symbols("p1:5")), sp.Matrix(1, 2, sp.symbols("q1:3"))
bent = lambda M: M.applyfunc(lambda z: z**3 - 2 * z**2)  # any function of one coordinate would do
soft = lambda M: M.applyfunc(sp.exp) / sum(M.applyfunc(sp.exp))
halves = [slice(0, 2), slice(2, 4)]
sub_ffn = lambda i, f: f(x2 * A[:, halves[i]]) * B[halves[i], :]
sub_glu = lambda i: bent(x2 * A[:, halves[i]]).multiply_elementwise(x2 * V[:, halves[i]]) * B[halves[i], :]
sub_biased = lambda i: bent(x2 * A[:, halves[i]] + bias_a[:, halves[i]]) * B[halves[i], :] + bias_b / 2
glu = bent(x2 * A).multiply_elementwise(x2 * V) * B
point = {s: sp.Rational(j % 5 - 2, 3) for j, s in enumerate(sorted((x2 * A * B).free_symbols, key=str))}
mixed = (soft(x2 * A) * B - sub_ffn(0, soft) - sub_ffn(1, soft)).subs(point).norm()


# %%
def expert_outputs(x, WA, WB, n, f):
    """v_i = f(x W^A_i) W^B_i for all i: x (..., d), WA (d, D), WB (D, d) -> (..., n, d)."""
    hidden = f(x @ WA).unflatten(-1, (n, -1))
    return torch.einsum("...nc,ncd->...nd", hidden, WB.unflatten(0, (n, -1)))


def by_slices(x, WA, WB, n, f):
    """The same from the definition, one block of columns and rows after the other."""
    blocks = [slice(i * WA.shape[1] // n, (i + 1) * WA.shape[1] // n) for i in range(n)]
    return torch.stack([f(x @ WA[:, b]) @ WB[b] for b in blocks], -2)


gen = torch.Generator().manual_seed(1)
x64, WA64, WB64 = (torch.randn(s, generator=gen, dtype=torch.float64) for s in ((50, 6), (6, 24), (24, 6)))
split_errors = {
    n: (
        worst(expert_outputs(x64, WA64, WB64, n, F.gelu).sum(-2) - F.gelu(x64 @ WA64) @ WB64),
        worst(expert_outputs(x64, WA64, WB64, n, F.gelu) - by_slices(x64, WA64, WB64, n, F.gelu)),
    )
    for n in (1, 2, 4, 8)
}

# %% tags=["hide-input"]
nb.derivation(
    "D1",
    "A feed-forward layer, plain, gated or with biases, is exactly the sum of its blocks; with a softmax over the hidden layer it is not.",
    sym.identity("a cubic f, d = 2, D = 4, n = 2, multiplied out", (bent(x2 * A) * B).expand(), sub_ffn(0, bent) + sub_ffn(1, bent)),
    sym.identity("gated", glu.expand(), sub_glu(0) + sub_glu(1)),
    sym.identity("with biases, the output's shared out", (bent(x2 * A + bias_a) * B + bias_b).expand(), sub_biased(0) + sub_biased(1)),
    ledger.more("a softmax in place of f: norm of the difference at a point", float(mixed), 0.1),
    *[ledger.less(f"n = {n}: sum of blocks against the layer", e[0], 1e-12, machine=True, digits=1) for n, e in split_errors.items()],
    *[ledger.less(f"n = {n}: each block against its slices", e[1], 1e-12, machine=True, digits=1) for n, e in split_errors.items()],
)

# %% [markdown]
# ## Which $k$ of $n$?
#
# Keeping $k$ terms so that the sum changes least is the same as dropping $m=n-k$ terms whose own sum is shortest:
#
# $$\min_{\lambda\in\{0,1\}^n,\ \sum\lambda_i=k}\Bigl\|\sum_i\lambda_iv_i-\sum_iv_i\Bigr\|^2
# =\min_{\gamma\in\{0,1\}^n,\ \sum\gamma_i=n-k}\gamma^\top G\gamma .$$
#
# The post points to its earlier treatment of approximate matrix products {cite}`su2024cr`, where the same selection occurs. There the
# terms are matrices of rank one and $k$ of them have rank at most $k$; here they are vectors, and rank plays no part.

# %%
draw = random.Random(0)
vectors5 = [[draw.randint(-4, 4) for _ in range(3)] for _ in range(5)]
cases5 = [frozenset(K) for k in range(1, 5) for K in itertools.combinations(range(5), k)]


def keep_error(vectors, kept):
    """‖sum of the kept − sum of all‖², from the definition, exactly."""
    return sum((sum(v[j] for i, v in enumerate(vectors) if i in kept) - sum(v[j] for v in vectors)) ** 2 for j in range(len(vectors[0])))


def drop_form(vectors, dropped):
    gram = lambda a, b: sum(s * t for s, t in zip(vectors[a], vectors[b], strict=True))
    return sum(gram(a, b) for a in dropped for b in dropped)


def best(objective, k, n=5):
    """All sets of size k with the smallest objective."""
    sets = [frozenset(K) for K in itertools.combinations(range(n), k)]
    low = min(map(objective, sets))
    return {K for K in sets if objective(K) == low}


everyone = frozenset(range(5))
as_text = lambda sets: ", ".join(sorted("".join(map(str, sorted(K))) for K in sets))

# %% tags=["hide-input"]
nb.derivation(
    "D2",
    "The best k to keep are the complement of the n − k with the shortest sum, an objective γᵀGγ.",
    sym.enumeration(
        "both objectives, n = 5, every subset", cases5, lambda K: keep_error(vectors5, K), lambda K: drop_form(vectors5, everyone - K)
    ),
    sym.enumeration(
        "the minimisers are complements",
        range(1, 5),
        lambda k: as_text(best(lambda K: keep_error(vectors5, K), k)),
        lambda k: as_text({everyone - M for M in best(lambda M: drop_form(vectors5, M), 5 - k)}),
    ),
)

# %% [markdown]
# ### It is hard in general
#
# The post says that an exact solution is hard to find. It is NP-hard already for numbers, $d=1$. Take a subset-sum instance, positive
# integers $a_1,\dots,a_p$ and a target $t>0$. As vectors take the $a$'s, $p$ zeros and $-t$, and drop $p+1$ of these $2p+1$. There are
# only $p$ zeros, so at least one number is dropped. A sum of zero then needs $-t$ among the dropped, and with it some $a$'s that add up
# to $t$; zeros fill up the rest. So the smallest error is 0 exactly if the instance has a solution.


# %%
def solvable(a, t):
    return any(sum(x for x, b in zip(a, bits, strict=True) if b) == t for bits in itertools.product((0, 1), repeat=len(a)))


def smallest_error(a, t):
    """The optimum of the selection problem of the reduction, by brute force over the kept sets."""
    vectors = [[x] for x in a] + [[0]] * len(a) + [[-t]]
    return min(keep_error(vectors, set(K)) for K in itertools.combinations(range(len(vectors)), len(a)))


instances = [([draw.randint(1, 14) for _ in range(4)], draw.randint(1, 29)) for _ in range(200)]

# %% tags=["hide-input"]
nb.derivation(
    "D3",
    "Selecting k of n numbers so that their sum changes least is NP-hard: subset-sum is the case in which the error must be 0.",
    sym.enumeration(
        "error 0 exactly if solvable, 200 instances, p = 4", instances, lambda c: int(smallest_error(*c) == 0), lambda c: int(solvable(*c))
    ),
)
nb.claim(
    "C3",
    "The exact solution is hard to find.",
    "verified",
    holds=[
        sym.enumeration(
            "a second reduction, target half the sum (PARTITION), 40 instances of p = 4",
            [a for a, _ in instances[:40]],
            lambda a: int(smallest_error([2 * x for x in a], sum(a)) == 0),
            lambda a: int(solvable(a, Fraction(sum(a), 2))),
        ),
        ledger.more("sets to try for 8 of 256 experts", math.comb(256, 8), 4e14),
    ],
)

# %% [markdown]
# ### Orthogonal vectors: the longest win
#
# If the $v_i$ are orthogonal, $\gamma^\top G\gamma=\sum_i\gamma_i^2\|v_i\|^2=\sum_i\gamma_i\|v_i\|^2$, and dropping the shortest is best.
# For vectors that are not orthogonal the post keeps the rule as an approximation: a longer vector is harder to cancel.
#
# Here are the rule, two rivals that see the same inner products, and the optimum by trying all subsets. *Projection* ranks by
# $\langle v_i,S\rangle$; *greedy* adds one term at a time.


# %%
def keep_length(G, k):
    return moe.topk_mask(G.diagonal(dim1=-2, dim2=-1), k)


def keep_projection(G, k):
    return moe.topk_mask(G.sum(-1), k)


def keep_greedy(G, k):
    kept = torch.zeros_like(G[..., 0])
    for _ in range(k):
        gain = 2 * (G @ (1 - kept)[..., None])[..., 0] - G.diagonal(dim1=-2, dim2=-1)
        kept = kept + F.one_hot(gain.masked_fill(kept > 0, -math.inf).argmax(-1), kept.shape[-1])
    return kept > 0


# %%
def keep_optimal(G, k):
    n = G.shape[-1]
    kept = torch.tensor([[i in K for i in range(n)] for K in itertools.combinations(range(n), k)], device=G.device)
    pairs = ((~kept[:, :, None]) & (~kept[:, None])).flatten(1).to(G.dtype)  # which inner products a drop set adds up
    return kept[(pairs @ G.flatten(-2).mT).argmin(-2)] if G.ndim == 3 else keep_optimal(G.flatten(0, -3), k).view(*G.shape[:-1])


def error_of(G, kept):
    """‖y_K − y‖² = γᵀGγ: G (..., n, n), kept (..., n) -> (...)."""
    dropped = (~kept).to(G.dtype)
    return (dropped * (G @ dropped[..., None])[..., 0]).sum(-1)


keepers = {"length": keep_length, "projection": keep_projection, "greedy": keep_greedy, "optimal": keep_optimal}


# %%
def cayley(n, seed):
    """An exact orthogonal matrix (I − K)(I + K)⁻¹ of a random skew-symmetric rational K."""
    rng = random.Random(seed)
    K = sp.zeros(n)
    for i, j in itertools.combinations(range(n), 2):
        K[i, j] = sp.Rational(rng.randint(-3, 3), rng.randint(1, 3))
        K[j, i] = -K[i, j]
    return (sp.eye(n) - K) * (sp.eye(n) + K).inv()


frames = {seed: cayley(4, seed) for seed in range(4)}
lengths4 = {seed: random.Random(50 + seed).sample(range(1, 12), 4) for seed in frames}
lengthened = {s: [[lengths4[s][i] * x for x in frames[s].row(i)] for i in range(4)] for s in frames}
longest = lambda s, k: {frozenset(sorted(range(4), key=lambda i: -lengths4[s][i])[:k])}
gam, stretch = sp.symbols("gamma1:5"), sp.symbols("s1:5", positive=True)
dropped_sum = sum((gam[i] * stretch[i] * frames[0].row(i) for i in range(4)), sp.zeros(1, 4))
plane = torch.tensor([[3.0, 0.0], [-3.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
plane_gram = (plane @ plane.T)[None]

# %% tags=["hide-input"]
nb.derivation(
    "D4",
    "For orthogonal vectors the k longest are the best k; for others they need not be.",
    sym.identity(
        "‖Σγᵢvᵢ‖², v an exact orthogonal frame",
        (dropped_sum * dropped_sum.T)[0],
        sum(g**2 * s**2 for g, s in zip(gam, stretch, strict=True)),
    ),
    sym.enumeration(
        "brute force, four frames, k = 1, 2, 3",
        list(itertools.product(frames, (1, 2, 3))),
        lambda c: as_text(best(lambda K: keep_error(lengthened[c[0]], K), c[1], 4)),
        lambda c: as_text(longest(*c)),
    ),
    ledger.close(
        "(3,0), (−3,1), (2,0), k = 1: error of the longest", float(error_of(plane_gram, keep_length(plane_gram, 1))), 25, abs=1e-9
    ),
    ledger.close("and of the best", float(error_of(plane_gram, keep_optimal(plane_gram, 1))), 1, abs=1e-9),
)

# %% tags=["hide-input"]
gen = torch.Generator().manual_seed(2)
ortho = torch.linalg.qr(torch.randn(300, 16, 16, generator=gen, dtype=torch.float64))[0][:, :10] * torch.rand(
    300, 10, 1, generator=gen, dtype=torch.float64
)
ortho_gram = ortho @ ortho.mT
some = torch.randn(40, 7, 5, generator=gen, dtype=torch.float64)
some_gram = some @ some.mT
nb.claim(
    "C4",
    "If the vectors are orthogonal, the k longest are the exact solution: 300 random frames of ten vectors.",
    "verified",
    holds=[
        ledger.less(
            f"k = {k}: largest excess of the rule over the optimum",
            float((error_of(ortho_gram, keep_length(ortho_gram, k)) - error_of(ortho_gram, keep_optimal(ortho_gram, k))).max()),
            1e-12,
            machine=True,
            digits=1,
        )
        for k in (1, 3, 5, 8)
    ],
)
nb.claim(
    "C2",
    "Keeping and dropping are one problem: the optimum by inner products is that of the definition.",
    "verified",
    holds=[
        ledger.less(
            f"40 random sets of seven vectors, k = {k}: γᵀGγ of the chosen against the smallest ‖Σλv − S‖²",
            max(
                abs(
                    float(error_of(some_gram[j : j + 1], keep_optimal(some_gram[j : j + 1], k)))
                    - min(float((some[j, list(K)].sum(0) - some[j].sum(0)).square().sum()) for K in itertools.combinations(range(7), k))
                )
                for j in range(40)
            ),
            1e-10,
            machine=True,
            digits=1,
        )
        for k in (2, 5)
    ],
)

# %% [markdown]
# ### How wrong can the longest be?
#
# The post leaves this open. Write $G=\Lambda(I+E)\Lambda$ with the lengths in $\Lambda$ and the cosines in $E$, and let $\mu=\|E\|_2$.
# For every choice of $\gamma$, with $w=\Lambda\gamma$,
#
# $$(1-\mu)\sum_i\gamma_i\|v_i\|^2\le\gamma^\top G\gamma\le(1+\mu)\sum_i\gamma_i\|v_i\|^2 ,$$
#
# so for $\mu<1$ the rule is within the factor $(1+\mu)/(1-\mu)$ of the optimum. For $\mu\ge1$ this says nothing. Two more tools: the mean
# error of dropping $m$ terms *at random*,
#
# $$\mathbb E\,\gamma^\top G\gamma=\frac mn\sum_i\|v_i\|^2+\frac{m(m-1)}{n(n-1)}\Bigl(\|S\|^2-\sum_i\|v_i\|^2\Bigr),$$
#
# and the error of a set $K$ as $\|S\|^2-2\langle S,S_K\rangle+\|S_K\|^2$: to first order it is the *projection* $\langle v_i,S\rangle$
# that counts, not the length. For orthogonal vectors the two are one.

# %%
cos = sp.symbols("c12 c13 c23")
l3, g3 = sp.symbols("l1:4", positive=True), sp.symbols("g1:4")
E3 = sp.Matrix([[0, cos[0], cos[1]], [cos[0], 0, cos[2]], [cos[1], cos[2], 0]])
Lam, gam3 = sp.diag(*l3), sp.Matrix(g3)
gram_of_cosines = sp.Matrix(3, 3, lambda i, j: l3[i] * l3[j] * (1 if i == j else E3[i, j]))
gen = torch.Generator().manual_seed(3)
tame = F.normalize(torch.randn(10, 400, generator=gen, dtype=torch.float64), dim=1) * torch.exp(
    0.5 * torch.randn(10, 1, generator=gen, dtype=torch.float64)
)
tame_gram = tame @ tame.T
cosines = lambda G: G / (G.diagonal(dim1=-2, dim2=-1)[..., None] * G.diagonal(dim1=-2, dim2=-1)[..., None, :]).sqrt()
coherence = lambda G: torch.linalg.matrix_norm(cosines(G) - torch.eye(G.shape[-1], dtype=G.dtype, device=G.device), 2)
mu = float(coherence(tame_gram))
drops = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10))[1:], dtype=torch.float64)
share = ((drops @ tame_gram) * drops).sum(1) / (drops @ tame_gram.diagonal())
excess = {
    k: float(error_of(tame_gram, keep_length(tame_gram, k)) / error_of(tame_gram[None], keep_optimal(tame_gram[None], k)))
    for k in range(1, 10)
}
theta = sp.Symbol("theta", real=True)
pair = sp.Matrix([1, 0]), sp.Matrix([sp.cos(theta), sp.sin(theta)])

# %% tags=["hide-input"]
nb.derivation(
    "D5",
    "The longest are within (1 + μ)/(1 − μ) of the best, μ the spectral norm of the matrix of cosines, if μ < 1.",
    sym.identity(
        "γᵀGγ − Σγ²‖v‖² = wᵀEw with w = Λγ, n = 3",
        (gam3.T * gram_of_cosines * gam3)[0] - sum(g**2 * l**2 for g, l in zip(g3, l3, strict=True)),
        ((Lam * gam3).T * E3 * (Lam * gam3))[0],
    ),
    sym.identity("attained by two unit vectors at the angle θ", (pair[0] + pair[1]).dot(pair[0] + pair[1]) / 2, 1 + sp.cos(theta)),
    ledger.less("ten directions in R⁴⁰⁰, all 1023 drop sets: largest share", float(share.max()), 1 + mu, machine=True),
    ledger.more("smallest share", float(share.min()), 1 - mu, machine=True),
    ledger.less("largest ratio to the optimum, k = 1 .. 9", max(excess[k] for k in range(1, 10)), (1 + mu) / (1 - mu), machine=True),
    ledger.more("smallest", min(excess[k] for k in range(1, 10)), 1 - 1e-9, machine=True),
    ledger.less("μ", mu, 0.5, machine=True),
)

# %%
vectors6 = [[draw.randint(-3, 5) for _ in range(3)] for _ in range(6)]
square6 = sum(drop_form(vectors6, [i]) for i in range(6))
total6 = drop_form(vectors6, range(6))


def mean_drop(m):
    """E γᵀGγ over all sets of m of the six, exactly."""
    values = [drop_form(vectors6, M) for M in itertools.combinations(range(6), m)]
    return Fraction(sum(values), len(values))


def random_error(G, k):
    """The same by the formula: G (..., n, n) -> (...)."""
    n, square, total = G.shape[-1], G.diagonal(dim1=-2, dim2=-1).sum(-1), G.sum((-2, -1))
    m = n - k
    return m / n * square + m * (m - 1) / (n * (n - 1)) * (total - square)


gram6 = torch.tensor(vectors6, dtype=torch.float64) @ torch.tensor(vectors6, dtype=torch.float64).T
by_formula = lambda m: Fraction(m, 6) * square6 + Fraction(m * (m - 1), 30) * (total6 - square6)

# %% tags=["hide-input"]
nb.derivation(
    "D6",
    "Dropping m of n at random costs (m/n) Σ‖v‖² + m(m−1)/(n(n−1)) (‖S‖² − Σ‖v‖²) on average.",
    sym.enumeration("all sets of m of six vectors, m = 1 .. 6", range(1, 7), mean_drop, by_formula),
    *[ledger.close(f"random_error, k = {6 - m}", float(random_error(gram6, 6 - m)), float(mean_drop(m)), rel=1e-12) for m in (1, 3, 5)],
)

# %%
u, r = sp.Matrix(sp.symbols("u1:4")), sp.Matrix(sp.symbols("r1:4"))  # a new term; what is still missing, S − S_K
vecs = [sp.Matrix(sp.symbols(f"v{i}_x v{i}_y")) for i in range(3)]
whole, kept2 = vecs[0] + vecs[1] + vecs[2], vecs[0] + vecs[1]
same_order = [
    float((keep_length(ortho_gram, k) == keep(ortho_gram, k)).double().mean()) for k in (2, 5) for keep in (keep_projection, keep_greedy)
]

# %% tags=["hide-input"]
nb.derivation(
    "D7",
    "err(K) = ‖S‖² − 2⟨S, S_K⟩ + ‖S_K‖²; one more term lowers it by 2⟨v, S − S_K⟩ − ‖v‖². For orthogonal vectors "
    "projection, greedy and length agree.",
    sym.identity("err(K), n = 3, d = 2", (kept2 - whole).dot(kept2 - whole), whole.dot(whole) - 2 * whole.dot(kept2) + kept2.dot(kept2)),
    sym.identity("the gain of a term", r.dot(r) - (r - u).dot(r - u), 2 * u.dot(r) - u.dot(u)),
    *[ledger.close("share of equal choices, 300 orthogonal frames", s, 1, abs=1e-12) for s in same_order],
)

# %% [markdown]
# ## From a rule to a layer
#
# To keep the longest, one has to know the lengths, and to know them one has to compute every $v_i$: nothing is saved. So turn it round.
# Give each expert a *direction* $e_i=v_i/\|v_i\|$ and let a router predict the *length*, $\rho=h(xW^R)\ge0$, which costs $dn$
# multiplications. Now the order can be known before anything else is computed:
#
# $$y=\sum_{i\in\operatorname{argtop}_k\rho}\rho_i\,e_i .$$
#
# With $k=n$ this is the layer's own dense version. If the $e_i$ are orthonormal, the $k$ largest $\rho$ are its best $k$-term
# approximation, with squared error $\sum_{i\notin\text{top}}\rho_i^2$. In practice "normalised" means an RMS norm without gain,
# $\|e_i\|=\sqrt d$.

# %%
rho4 = {seed: [Fraction(random.Random(80 + seed).randint(1, 40), 7) + Fraction(i, 100) for i in range(4)] for seed in frames}
weighted = {
    s: [[sp.Rational(rho4[s][i].numerator, rho4[s][i].denominator) * x for x in frames[s].row(i)] for i in range(4)] for s in frames
}
top_set = lambda s, k: sorted(range(4), key=lambda i: -rho4[s][i])[:k]
tail_square = lambda s, k: sum(
    (sp.Rational(rho4[s][i].numerator, rho4[s][i].denominator) ** 2 for i in range(4) if i not in top_set(s, k)), sp.Integer(0)
)


# %%
def moe_forward(x, WA, WB, WR, k, h, f, normalise=True):
    """The layer of the post for one token x (d,): WA (n, d, c), WB (n, c, d), WR (d, n)."""
    rho = h(x @ WR)
    y = torch.zeros_like(x)
    for i in rho.topk(k).indices:
        v = f(x @ WA[i]) @ WB[i]
        y = y + rho[i] * (v / (v.square().mean() + 1e-6).sqrt() if normalise else v)  # v may be 0
    return y


# %% tags=["hide-input"]
nb.derivation(
    "D8",
    "y = Σ ρᵢeᵢ over the k largest ρ; for orthonormal directions this is the best k-term approximation of k = n, "
    "with squared error the sum of the other ρ².",
    sym.enumeration(
        "brute force: the smallest error, four exact frames, k = 1, 2, 3",
        list(itertools.product(frames, (1, 2, 3))),
        lambda c: min(sp.nsimplify(keep_error(weighted[c[0]], set(K))) for K in itertools.combinations(range(4), c[1])),
        lambda c: tail_square(*c),
    ),
    sym.enumeration(
        "and the set that attains it",
        list(itertools.product(frames, (1, 2, 3))),
        lambda c: as_text(best(lambda K: keep_error(weighted[c[0]], K), c[1], 4)),
        lambda c: as_text({frozenset(top_set(*c))}),
    ),
)

# %% [markdown]
# ### What is built instead
#
# Standard layers {cite}`jiang2024mixtral,deepseek2024v3` leave out the division:
#
# $$y=\sum_{i\in\operatorname{argtop}_k\rho}\rho_i\,v_i=\sum_{i\in\operatorname{argtop}_k\rho}(\rho_i\|v_i\|)\,e_i .$$
#
# Then the length of a term is $\rho_i\|v_i\|$ and the choice is made by $\rho_i$ alone; the two orders can differ. (Our softmax runs over
# all $n$ experts before the choice. Mixtral's runs over the $k$ chosen.)

# %%
rho_pair, norm_pair = (Fraction(6, 10), Fraction(5, 10)), (1, 2)
terms = [[rho_pair[0] * norm_pair[0], 0], [0, rho_pair[1] * norm_pair[1]]]  # orthogonal
first_by = lambda score: {max((0, 1), key=lambda i: score[i])}

# %% tags=["hide-input"]
nb.derivation(
    "D9",
    "Without the division the choice is not by the length of the terms: ρ = (0.6, 0.5), ‖v‖ = (1, 2).",
    ledger.close("squared error of the choice by ρ", float(keep_error(terms, first_by(rho_pair))), 1.0, abs=1e-12),
    ledger.close("by ρ‖v‖", float(keep_error(terms, first_by([a * b for a, b in zip(rho_pair, norm_pair, strict=True)]))), 0.36, abs=1e-12),
)

# %% [markdown]
# ### What the router learns
#
# For a chosen $i$, $\partial L/\partial\rho_i=\langle\partial L/\partial y,e_i\rangle$; for the others it is 0. Through the division
#
# $$\frac{\partial e}{\partial v}=\frac{I-ee^\top}{\|v\|}$$
#
# (times $\sqrt d$ for the RMS norm, with $e$ the unit vector on the right): no gradient reaches the length of $v$, so length can be
# learned through $\rho$ only. With $L=\frac12\|y-y^*\|^2$ and orthonormal $e$ the stationary value of a chosen weight is
# $\rho_i=\langle y^*,e_i\rangle$, the projection. This is the post's answer to why multiplying by $\rho$ teaches a router to rank: each
# step approximates the dense $\sum\rho_ie_i$. In the form without the division it finds an explanation in SparseMixer
# {cite}`liu2023sparsemixer` only.

# %%
v3 = sp.Matrix(sp.symbols("v1:4", real=True))
norm3 = sp.sqrt(v3.dot(v3))
unit3 = v3 / norm3
jacobian = sp.Matrix(3, 3, lambda i, j: sp.Derivative(unit3[i], v3[j]))
Q, goal = frames[0], sp.Matrix(1, 4, sp.symbols("t1:5"))
rho_s = sp.symbols("rho1:5", positive=True)
miss = sum((rho_s[i] * Q.row(i) for i in (0, 1, 2)), sp.zeros(1, 4)) - goal  # three of four chosen
loss_s = (miss * miss.T)[0] / 2
gen = torch.Generator().manual_seed(4)
v_probe = torch.randn(6, generator=gen, dtype=torch.float64)
rms_jacobian = torch.autograd.functional.jacobian(moe.unit_rms, v_probe)
e_probe = v_probe / v_probe.norm()
expected_jacobian = math.sqrt(6) / v_probe.norm() * (torch.eye(6, dtype=torch.float64) - torch.outer(e_probe, e_probe))
tiny = moe.MoE(nn.Init([0]), 6, 5, 7, k=2, gate="sigmoid", normalise=True, router_std=1.0).double()
x_tiny = torch.randn(1, 1, 6, generator=gen, dtype=torch.float64)
(tiny(x_tiny) * torch.randn(6, generator=gen, dtype=torch.float64)).sum().backward()
reached = (tiny.wr.grad[0].abs().sum(0) > 0).int()

# %% tags=["hide-input"]
nb.derivation(
    "D10",
    "∂e/∂v = (I − eeᵀ)/‖v‖ has no radial part; only the chosen get a gradient; a chosen weight is driven to the projection ⟨y*, e⟩.",
    sym.identity("Jacobian of v/‖v‖, d = 3", jacobian, (sp.eye(3) - unit3 * unit3.T) / norm3),
    ledger.less(
        "moe.unit_rms, d = 6, against √d (I − eeᵀ)/‖v‖", float((rms_jacobian - expected_jacobian).abs().max()), 1e-5, machine=True, digits=1
    ),
    ledger.less("radial part of its gradient", float((rms_jacobian @ v_probe).abs().max()), 1e-5, machine=True, digits=1),
    *[sym.solves(f"∂L/∂ρ{i + 1} = 0", sp.diff(loss_s, rho_s[i]), rho_s[i], (goal * Q.row(i).T)[0]) for i in (0, 1, 2)],
    ledger.close("Sigmoid, k = 2 of 7: logits that a gradient reaches", int(reached.sum()), 2, abs=0.5),
    ledger.close("of them chosen", int((reached.bool() & tiny.route(x_tiny).mask[0, 0]).sum()), 2, abs=0.5),
    ledger.close(
        "autograd against finite differences (1: agree)",
        float(torch.autograd.gradcheck(lambda x, *p: tiny(x), (x_tiny.requires_grad_(), tiny.wr, tiny.wa, tiny.wb))),
        1,
        abs=0.5,
    ),
)

# %% [markdown]
# ### What it costs
#
# In multiply-adds a token, the dense layer takes $2dD$, the mixture $2dD\,k/n+dn$: a ratio of
#
# $$\frac kn+\frac n{2D} .$$
#
# Computing all lengths first takes the whole $2dD$. The counts below are torch's own, of the code that the experiments run. Time is
# another matter (X5).


# %%
def flops_of(f):
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


T_c, d_c, c_c = 64, 16, 24
x_c = torch.randn(1, T_c, d_c, generator=torch.Generator().manual_seed(5))
grid_c = [(n, k) for n in (4, 8, 32) for k in (1, 2, 4)]
layer_c = {nk: moe.MoE(nn.Init([0]), d_c, c_c, nk[0], k=nk[1]) for nk in grid_c}
counted = {nk: flops_of(lambda nk=nk: layer_c[nk](x_c)) for nk in grid_c}
dense_w = {n: (torch.randn(d_c, n * c_c), torch.randn(n * c_c, d_c)) for n in (4, 8, 32)}
dense_count = {n: flops_of(lambda n=n: F.gelu(x_c[0] @ dense_w[n][0]) @ dense_w[n][1]) for n in dense_w}
all_lengths = {n: flops_of(lambda n=n: expert_outputs(x_c[0], *dense_w[n], n, F.gelu).norm(dim=-1)) for n in dense_w}
d_s, D_s, n_s, k_s = sp.symbols("d D n k", positive=True)

# %% tags=["hide-input"]
nb.derivation(
    "D11",
    "Per token the dense layer takes 2dD multiply-adds, the mixture 2dD k/n + dn.",
    sym.identity("their ratio", (2 * d_s * k_s * (D_s / n_s) + d_s * n_s) / (2 * d_s * D_s), k_s / n_s + n_s / (2 * D_s)),
    sym.enumeration(
        "the layer, counted (2 for a multiply-add), nine shapes",
        grid_c,
        counted.get,
        lambda nk: 2 * T_c * (2 * d_c * c_c * nk[1] + d_c * nk[0]),
    ),
    sym.enumeration("the dense layer, counted", dense_w, dense_count.get, lambda n: 2 * T_c * 2 * d_c * n * c_c),
)
nb.claim(
    "C7",
    "To know all lengths costs as much as the dense layer.",
    "verified",
    holds=[ledger.close(f"n = {n}: counted, all lengths over dense", all_lengths[n] / dense_count[n], 1, abs=1e-9) for n in dense_w],
)
nb.claim(
    "C8",
    "The mixture costs k/n of the dense layer, up to the router.",
    "verified",
    holds=[
        ledger.close(
            f"n = {n}, k = {k}: counted ratio less the router's n/(2D)", counted[n, k] / dense_count[n] - n / (2 * n * c_c), k / n, rel=1e-9
        )
        for n, k in grid_c
        if k < n
    ],
)

# %% [markdown]
# ### A second argument: sampling
#
# The post adds an argument from its earlier text. Draw $i_1,\dots,i_k$ independently with probabilities $p$ and estimate $S$ without bias
# by $\hat S=\frac1k\sum_sv_{i_s}/p_{i_s}$. Then
#
# $$\mathbb E\|\hat S-S\|^2=\frac1k\Bigl(\sum_i\frac{\|v_i\|^2}{p_i}-\|S\|^2\Bigr),$$
#
# least for $p_i\propto\|v_i\|$, where it is $\frac1k\bigl((\sum_i\|v_i\|)^2-\|S\|^2\bigr)$. The length decides again. But freedom from
# bias is dear: for $n$ orthogonal vectors of one length the relative error is $(n-1)/k$; simply keeping $k$ of them leaves $1-k/n$.

# %%
vectors4, k_draws = [(3, 0), (0, 4), (1, 1), (-2, 1)], 2
ps = [tuple(Fraction(w, 10) for w in row) for row in ((1, 4, 2, 3), (3, 4, 1, 2), (2, 2, 3, 3))]


def mean_square(p):
    """E‖Ŝ − S‖² over all n^k draws, exactly."""
    total = Fraction(0)
    for picks in itertools.product(range(4), repeat=k_draws):
        guess = [sum(Fraction(vectors4[i][j]) / p[i] for i in picks) / k_draws for j in (0, 1)]
        total += math.prod(p[i] for i in picks) * sum((g - sum(v[j] for v in vectors4)) ** 2 for j, g in enumerate(guess))
    return total


def sampling_error(squares, p, total, k):
    return (sum(s / q for s, q in zip(squares, p, strict=True)) - total) / k


squares4, total4 = [9, 16, 2, 5], sum(sum(v[j] for v in vectors4) ** 2 for j in (0, 1))
p3, k_sym, S2 = sp.symbols("p1:4", positive=True), sp.Symbol("k", positive=True), sp.Symbol("S2", positive=True)
objective = sampling_error([l**2 for l in l3], p3, S2, k_sym)
at_best = dict(zip(p3, [l / sum(l3) for l in l3], strict=True))
free = objective.subs(p3[2], 1 - p3[0] - p3[1])

# %% tags=["hide-input"]
nb.derivation(
    "D12",
    "Unbiased sampling has the error (1/k)(Σ‖v‖²/p − ‖S‖²), least for p ∝ ‖v‖; for n equal orthogonal vectors (n − 1)/k of ‖S‖².",
    sym.enumeration("all 16 draws, three p, exactly", ps, mean_square, lambda p: sampling_error(squares4, p, total4, k_draws)),
    *[
        sym.solves(
            f"stationary in p{i + 1} with p3 = 1 − p1 − p2", sp.diff(free, p3[i]).subs(p3[1 - i], at_best[p3[1 - i]]), p3[i], at_best[p3[i]]
        )
        for i in (0, 1)
    ],
    sym.identity("convex: second derivative", sp.Derivative(objective, (p3[0], 2)), 2 * l3[0] ** 2 / (k_sym * p3[0] ** 3)),
    sym.identity("the value there", objective.subs(at_best), (sum(l3) ** 2 - S2) / k_sym),
    sym.enumeration(
        "n orthogonal unit vectors, over ‖S‖² = n",
        list(itertools.product((2, 4, 16), (1, 2, 4))),
        lambda c: sampling_error([1] * c[0], [Fraction(1, c[0])] * c[0], Fraction(c[0]), c[1]) / c[0],
        lambda c: Fraction(c[0] - 1, c[1]),
    ),
)

# %% tags=["hide-input"]
gen = torch.Generator().manual_seed(6)
clouds = F.normalize(torch.randn(500, 16, 64, generator=gen, dtype=torch.float64), dim=-1) * torch.exp(
    0.5 * torch.randn(500, 16, 1, generator=gen, dtype=torch.float64)
)
cloud_gram = clouds @ clouds.mT
cloud_total, cloud_norms = cloud_gram.sum((-2, -1)), clouds.norm(dim=-1)
by_norm_sampling = (cloud_norms.sum(-1) ** 2 - cloud_total) / 4 / cloud_total
by_uniform_sampling = (16 * cloud_norms.square().sum(-1) - cloud_total) / 4 / cloud_total
by_longest = error_of(cloud_gram, keep_length(cloud_gram, 4)) / cloud_total
nb.claim(
    "C14",
    "Sampling in proportion to length has the least variance, a second reason for ranking by length: as a reason yes, as a method no.",
    "partly",
    holds=[
        ledger.less(
            "exact, four vectors, any of three other p: error of p ∝ ‖v‖ over theirs",
            max(
                float(sampling_error(squares4, [math.sqrt(s) / sum(map(math.sqrt, squares4)) for s in squares4], total4, 2))
                / float(mean_square(p))
                for p in ps
            ),
            1,
            margin=0.01,
        ),
        ledger.less(
            "500 frames, n = 16, k = 4: sampling by length over uniform sampling",
            float((by_norm_sampling / by_uniform_sampling).max()),
            1,
            machine=True,
        ),
    ],
    fails=[
        ledger.more(
            "relative error of sampling by length over that of keeping the longest",
            float(by_norm_sampling.mean() / by_longest.mean()),
            4,
            machine=True,
        )
    ],
)

# %% [markdown]
# ### Signed weights
#
# Lengths are not negative, so $h$ must not be either. With a signed $h$ the largest $\rho$ are not the longest terms: for orthonormal
# directions and $\rho=(1,-2)$, $k=1$, the rule keeps the shorter one. Softmax, sigmoid and ReLU all qualify; that a softmax adds up to
# one is no part of the argument.

# %% tags=["hide-input"]
signed = torch.randn(20000, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
left_of = lambda scores: float((signed.square() * ~moe.topk_mask(scores, 4)).sum(1).mean() / signed.square().sum(1).mean())
nb.claim(
    "C13",
    "h must not be negative: with signed weights the k largest are not the k longest.",
    "verified",
    holds=[
        ledger.close(
            "ρ = (1, −2), k = 1: squared error of the largest", float(keep_error([[1, 0], [0, -2]], first_by((1, -2)))), 4, abs=1e-12
        ),
        ledger.close("of the longest", float(keep_error([[1, 0], [0, -2]], first_by((1, 2)))), 1, abs=1e-12),
        ledger.more("normal ρ, 4 of 16: relative error by ρ over that by |ρ|", left_of(signed) / left_of(signed.abs()), 1.5, machine=True),
    ],
)

# %% [markdown]
# ## Experiments
#
# All networks are causal Transformers on the characters of Shakespeare; the last twentieth of the text is held out. Arms that are
# compared read the same text, start from the same seeds, and each has its own best learning rate, which lies inside the grid
# (chosen by the mean loss on the held-out text that is also reported). Four functions do the
# work: one trains a stack of runs, one measures a mixture on held-out text, one opens up a dense network (E1), one holds the clock (X5).
# First the layer itself: the package's stacked one, which sorts tokens by expert so that it computes the chosen ones only, against the
# ten lines above.


# %%
def text_batches(device, seeds, copies, batch, context, offset=1000):
    """A function that draws the next (x, y), each (copies * seeds, batch, context): all copies of a seed read the same text."""
    generators = [torch.Generator().manual_seed(offset + seed) for seed in seeds]

    def draw(step):
        drawn = [data.windows(corpus[:split], batch, context, g) for g in generators]
        return tuple(torch.stack(t).repeat(copies, 1, 1).to(device) for t in zip(*drawn, strict=True))

    return draw


# %%
def held_out(device, count, context):
    """``count`` windows spread evenly over the held-out text: x and y, (count, context)."""
    text = corpus[split:]
    at = torch.linspace(0, len(text) - context - 1, count).long()[:, None] + torch.arange(context)
    return text[at].to(device), text[at + 1].to(device)


@torch.no_grad()
def held_out_loss(model, runs, x, y, precision, rows=16):
    """Mean loss of each run, (runs,)."""
    parts = [
        nn.cross_entropy_per_run(model(a.expand(runs, -1, -1), precision), b.expand(runs, -1, -1)) * len(a)
        for a, b in zip(x.split(rows), y.split(rows), strict=True)
    ]
    return sum(parts) / len(x)


# %%
def build(cell, seeds, rates, shape, experts):
    """The stack of a cell, runs ordered by rate, then seed: a plain Transformer where the cell names a width, else a mixture."""
    init = nn.Init(list(seeds) * len(rates))
    if "width" in cell:
        return nn.Transformer(init, vocabulary=len(alphabet), width=cell["width"], **shape)
    layer = {**experts, "gate": cell["gate"], "normalise": cell["normalise"]}
    return moe.Transformer(init, vocabulary=len(alphabet), moe=layer, **shape)


# %%
def train_stack(device, cell, *, seeds, rates, shape, experts, steps, batch, bf16):
    """A trained stack of len(rates) * len(seeds) runs and its training losses (steps, runs)."""
    precision, history = torch.bfloat16 if bf16 else torch.float32, []
    model = build(cell, seeds, rates, shape, experts).to(device)
    if cell.get("matched"):
        model.match_output(text_batches(device, seeds, len(rates), batch, shape["context"], offset=2000)(0)[0], 0.5)
    learned = [p for name, p in model.named_parameters() if not (cell.get("frozen") and name.endswith("wr"))]
    optimizer = optim.StackedAdam(learned, torch.tensor(rates).repeat_interleave(len(seeds)).to(device))
    draw = text_batches(device, seeds, len(rates), batch, shape["context"])
    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)

    def watch(step, losses):
        history.append(losses)
        if cell.get("balance"):
            model.balance(cell["balance"])

    if "width" in cell or experts["method"] == "dense":
        train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine, watch=watch)
    else:
        train.fit(lambda step: loss(*draw(step)), optimizer, steps, schedule=optim.warmup_cosine, watch=watch)
    return model, torch.stack(history)


# %% [markdown]
# What is measured on a mixture, by layer: the *gap* $\|y_k-y_n\|^2/\|y_n\|^2$ to its own dense version, sums over tokens; the *overlap*
# of the $k$ largest $\rho$ with the $k$ largest $\rho\|v\|$; MaxVio, the largest load over the mean load minus 1; and the share of
# $\sum\rho$ that the $j$ largest hold.


# %%
@torch.no_grad()
def layer_inputs(model, ids, precision):
    """What each mixture of a model reads on ids (R, B, T): one (R, B*T, d) a layer."""
    seen = []
    handles = [layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1, 2))) for layer in model.layers]
    model(ids, precision)
    for handle in handles:
        handle.remove()
    return seen


# %%
@torch.no_grad()
def layer_measures(layer, x):
    """Gap, overlap and MaxVio (R,), and the share of the weight that the j largest hold (R, n), of one layer on x (R, T, d)."""
    routing = layer.route(x)
    rho, n = routing.weights, routing.weights.shape[-1]
    gates = rho.permute(2, 0, 1)[..., None]  # (n, R, T, 1)
    y_n, y_k, length = torch.zeros_like(x), torch.zeros_like(x), []
    for i in range(n):
        v = layer.activation(x @ layer.wa[:, i].to(x.dtype)) @ layer.wb[:, i].to(x.dtype)
        term = (gates[i] * (moe.unit_rms(v) if layer.normalise else v)).to(x.dtype)
        y_n, y_k = y_n + term, y_k + term * routing.mask[..., i : i + 1]
        length.append(v.float().norm(dim=-1))
    by_length = moe.topk_mask(rho * torch.stack(length, -1), layer.k)
    positive = routing.mask & (rho > 0)  # a ReLU router may have fewer than k positive weights; the rest are ties
    gap = (y_k - y_n).float().square().sum((1, 2)) / y_n.float().square().sum((1, 2))
    overlap = (positive & by_length).sum((1, 2)) / positive.sum((1, 2))
    kept = rho.sort(-1, descending=True).values.cumsum(-1)
    return gap, overlap, moe.max_violation(moe.expert_load(routing.mask)), kept.sum(1) / kept[..., -1:].sum(1)


# %%
def measure(device, cell, *, windows, **config):
    """Train a cell and measure it on held-out text; every entry (rates, seeds), or (rates, seeds, depth), as lists."""
    model, history = train_stack(device, cell, **config)
    rates, seeds, context = len(config["rates"]), len(config["seeds"]), config["shape"]["context"]
    precision = torch.bfloat16 if config["bf16"] else torch.float32
    x, y = held_out(device, windows, context)
    grid = lambda t: t.float().view(rates, seeds, *t.shape[1:]).cpu()
    tidy = lambda t: t.nan_to_num(9.0).clamp(max=9.0)
    out = {"loss": grid(tidy(held_out_loss(model, rates * seeds, x, y, precision))), "train": grid(tidy(history[-20:].mean(0)))}
    if "width" not in cell:
        probe = layer_inputs(model, x[:: max(1, windows // 16)].expand(rates * seeds, -1, -1), precision)
        rows = [layer_measures(layer, t) for layer, t in zip(model.layers, probe, strict=True)]
        for i, name in enumerate(("gap", "overlap", "violation")):
            out[name] = grid(torch.stack([row[i] for row in rows], 1).nan_to_num(9.0))
        out["share"] = grid(torch.stack([row[3] for row in rows]).mean(0).nan_to_num(0.0))
        for layer in model.layers:
            layer.k, layer.method = config["experts"]["experts"], "dense"
        out["dense loss"] = grid(tidy(held_out_loss(model, rates * seeds, x, y, precision)))
    return out


# %%
def six_kinds(device, *, cells, **config):
    """``measure`` for each cell, by name."""
    torch.set_float32_matmul_precision("high")
    result = {}
    for cell in cells:
        result[cell["name"]] = measure(device, cell, **config)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result


# %% [markdown]
# A recorded number does not move when the code behind it breaks, so the code is held against plain versions: layer, measures, loss and
# five steps of training.

# %% tags=["hide-input"]
cpu = torch.device("cpu")
small_shape = {"context": 12, "d": 16, "depth": 2, "heads": 2}
small_experts = {"width": 6, "experts": 8, "k": 3, "method": "grouped"}
ACT = {"softmax": lambda s: s.softmax(-1), "sigmoid": torch.sigmoid, "relu": F.relu}


def layer_check(kind, unit, k=3, n=7):
    """Largest difference of a stacked layer to moe_forward, and of layer_measures to loops over tokens, on 2 runs of 20 tokens."""
    layer = moe.MoE(nn.Init([5, 6]), 6, 5, n, k=k, gate=kind, normalise=unit, router_std=1.0).double()
    x = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    wa, wb, wr = layer.wa.detach(), layer.wb.detach(), layer.wr.detach()
    y_k, y_n = (
        torch.stack([torch.stack([moe_forward(t, wa[r], wb[r], wr[r], count, ACT[kind], F.gelu, unit) for t in x[r]]) for r in (0, 1)])
        for count in (k, n)
    )
    with torch.no_grad():
        out, got = layer(x), layer_measures(layer, x)
    rho = ACT[kind](x @ wr)
    length = torch.stack([(F.gelu(x @ wa[:, i]) @ wb[:, i]).norm(dim=-1) for i in range(n)], -1)
    chosen = [{i for i in rho[0, t].topk(k).indices.tolist() if rho[0, t, i] > 0} for t in range(20)]
    longest = [set((rho * length)[0, t].topk(k).indices.tolist()) for t in range(20)]
    counts = torch.bincount(rho[0].topk(k).indices.flatten(), minlength=n).double()
    return worst(out - y_k), worst(
        got[0] - (y_k - y_n).square().sum((1, 2)) / y_n.square().sum((1, 2)),
        got[1][0] - sum(len(a & b) for a, b in zip(chosen, longest, strict=True)) / sum(map(len, chosen)),
        got[2][0] - float(counts.max() / counts.mean() - 1),
        got[3][:, k - 1] - rho.topk(k).values.sum((1, 2)) / rho.sum((1, 2)),
    )


checked = {(kind, unit): layer_check(kind, unit) for kind, unit in itertools.product(ACT, (False, True))}


# %% tags=["hide-input"]
def plain_training(cell, seed, rate, steps, batch):
    """Losses and the held-out loss of one run by torch.optim.Adam on a model of its own, the grouped layer replaced by the masked one."""
    model = build(cell, [seed], [rate], small_shape, {**small_experts, "method": "dense"})
    generator = torch.Generator().manual_seed(1000 + seed)
    if cell.get("matched"):
        for depth in range(2):
            ids = data.windows(corpus[:split], batch, 12, torch.Generator().manual_seed(2000 + seed))[0]
            states = list(model.states(ids[None]))
            with torch.no_grad():
                model.layers[depth].gain.mul_(0.5 / (states[2 * depth + 2] - states[2 * depth + 1]).square().mean().sqrt())
    frozen = [layer.wr for layer in model.layers] if cell.get("frozen") else []
    optimizer = torch.optim.Adam([p for p in model.parameters() if all(p is not q for q in frozen)], lr=rate)
    losses = []
    for step in range(steps):
        x, y = data.windows(corpus[:split], batch, 12, generator)
        loss = F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * optim.warmup_cosine(step, steps)
        optimizer.step()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for layer in model.layers if cell.get("balance") else ():
                share = layer.load[0] / layer.load.sum()
                layer.bias[0] -= cell["balance"] * torch.sign(share - 1 / 8)
    return losses, model


def training_gap(cell):
    """Largest difference of losses, run 2 of the stack (rate 5e-3, seed 0) to plain_training, and of the held-out loss to cross_entropy."""
    common = {"seeds": [0, 3], "rates": [1e-3, 5e-3], "shape": small_shape, "experts": small_experts, "steps": 5, "batch": 4, "bf16": False}
    stack, history = train_stack(cpu, cell, **common)
    losses, alone = plain_training(cell, 0, 5e-3, 5, 4)
    x, y = held_out(cpu, 10, 12)
    with torch.no_grad():
        by_hand = float(F.cross_entropy(alone(x[None])[0].flatten(0, 1), y.flatten()))
    return (
        worst(*(a - b for a, b in zip(losses, history[:, 2].tolist(), strict=True))),
        abs(by_hand - float(held_out_loss(stack, 4, x, y, torch.float32)[2])),
    )


training_gaps = {
    "matched, balanced": training_gap({"gate": "sigmoid", "normalise": True, "matched": True, "balance": 0.01}),
    "frozen router": training_gap({"gate": "softmax", "normalise": False, "frozen": True}),
    "ReLU": training_gap({"gate": "relu", "normalise": True, "matched": True}),
}
small_run = {"seeds": [0, 3], "rates": [1e-3, 5e-3], "shape": small_shape, "experts": small_experts, "steps": 5, "batch": 4, "bf16": False}
said = measure(cpu, {"gate": "sigmoid", "normalise": True, "matched": True}, windows=10, **small_run)
alone = plain_training({"gate": "sigmoid", "normalise": True, "matched": True}, 0, 5e-3, 5, 4)[1]
first, last = held_out(cpu, 10, 12)
with torch.no_grad():
    alone_gap = layer_measures(alone.layers[1], layer_inputs(alone, first[None], torch.float32)[1])[0]
    for layer in alone.layers:
        layer.k = 8
    alone_dense = F.cross_entropy(alone(first[None])[0].flatten(0, 1), last.flatten())
said_error = abs(float(said["gap"][1, 0, 1]) - float(alone_gap)), abs(float(said["dense loss"][1, 0]) - float(alone_dense))
x_a, y_a = text_batches(cpu, [0, 3], 2, 4, 12)(0)
far = corpus[split:]

# %% tags=["hide-input"]
nb.claim(
    "X1",
    "The stacked layer is that of the text, forward, and its training is the plain one: router frozen or not, "
    "gains matched, biases balanced, one text for all arms.",
    "verified",
    holds=[
        *[
            ledger.less(f"{kind}, {'unit' if unit else 'raw'} outputs: layer against moe_forward", e, 1e-5, machine=True, digits=1)
            for (kind, unit), (e, _) in checked.items()
        ],
        ledger.close("worst, the helper of these checks, of (0, −2) and 1", worst(torch.tensor([0.0, -2.0]), 1.0), 2, abs=1e-12),
        ledger.less(
            "gap, overlap, MaxVio and share against loops, six kinds", max(m for _, m in checked.values()), 1e-5, machine=True, digits=1
        ),
        *[
            ledger.less(f"{name}: losses of five steps, stack against torch.optim.Adam", g[0], 1e-3, machine=True, digits=1)
            for name, g in training_gaps.items()
        ],
        *[ledger.less(f"{name}: held-out loss", g[1], 2e-3, machine=True, digits=1) for name, g in training_gaps.items()],
        ledger.less("measure: gap of one run and layer, against that model alone", said_error[0], 1e-4, machine=True, digits=1),
        ledger.less("measure: its loss with k = n", said_error[1], 1e-4, machine=True, digits=1),
        ledger.close(
            "held-out windows: ends that are the text's", int((first[0] == far[:12]).all()) + int((last[-1] == far[-12:]).all()), 2, abs=0.5
        ),
        ledger.close("share of targets that are the next character", float((y_a[:, :, :-1] == x_a[:, :, 1:]).float().mean()), 1, abs=1e-9),
        ledger.close("share of text that two copies of a seed share", float((x_a[:2] == x_a[2:]).float().mean()), 1, abs=1e-9),
        ledger.less("that two seeds share", float((x_a[0] == x_a[1]).float().mean()), 0.3, machine=True),
        ledger.close("held-out text, share of the corpus", len(far) / len(corpus), 0.05, abs=1e-4),
    ],
)

# %% [markdown]
# ### E1. Which experts does a trained dense layer consist of?
#
# Train a plain Transformer, cut each feed-forward layer into 16 blocks and compare the rules with the optimum over all subsets, on
# held-out tokens, before and after training. Expected: by C4 the rule suffers where cosines are large.


# %%
@torch.no_grad()
def blocks_of(model, ids, n):
    """Inputs (R, tokens, d) and block outputs v (R, tokens, n, d) of every feed-forward layer of a plain Transformer on ids (B, T)."""
    states = list(model.states(ids.expand(model.w1.shape[0], -1, -1)))
    for layer, state in enumerate(states[1::2]):
        x = (model.norm(state) * model.gains[:, 2 * layer + 1, None, None]).flatten(1, 2)
        yield (
            x,
            torch.stack(
                [expert_outputs(t, a, b, n, model.activation) for t, a, b in zip(x, model.w1[:, layer], model.w2[:, layer], strict=True)]
            ),
        )


# %%
def geometry(v, counts):
    """Errors relative to ‖y‖² by rule and count, and what the Gram matrix looks like: v (tokens, n, d)."""
    G = v @ v.mT
    total, square = G.sum((-2, -1)), G.diagonal(dim1=-2, dim2=-1)
    relative = {rule: [error_of(G, keep(G, k)) / total for k in counts] for rule, keep in keepers.items()}
    relative["random"] = [random_error(G, k) / total for k in counts]
    out = {rule: torch.stack([e.mean() for e in rows]) for rule, rows in relative.items()}
    ratio = torch.stack([a / b for a, b in zip(relative["length"], relative["optimal"], strict=True)])
    off = cosines(G)[:, ~torch.eye(v.shape[1], dtype=torch.bool, device=v.device)]
    lengths = square.sqrt()
    out |= {
        "ratio": ratio.median(1).values,
        "exact": (ratio < 1 + 1e-5).float().mean(1),
        "cosine": off.abs().mean(),
        "mean cosine": off.mean(),
    }
    out |= {"spread": (lengths.amax(1) / lengths.amin(1)).median(), "together": (total / square.sum(1)).mean(), "mu": coherence(G).median()}
    return out | {"cosines": cosines(G).mean(0)}


# %%
def linear_ranking(fit, test, counts):
    """Errors when a linear map of x, fitted by least squares, predicts the lengths or the projections that rank the blocks."""
    (x, v), (x_test, v_test) = fit, test
    one = lambda t: torch.cat([t, torch.ones_like(t[:, :1])], 1)
    G, G_test = v @ v.mT, v_test @ v_test.mT
    targets = {"predicted length": G.diagonal(dim1=-2, dim2=-1).sqrt(), "predicted projection": G.sum(-1)}
    result = {}
    for name, target in targets.items():
        guess = one(x_test) @ torch.linalg.lstsq(one(x), target).solution
        result[name] = torch.stack([(error_of(G_test, moe.topk_mask(guess, k)) / G_test.sum((-2, -1))).mean() for k in counts])
    return result


# %%
def which_experts(device, *, seeds, rate, shape, width, steps, batch, blocks, counts, windows):
    """Rules of selection on a plain Transformer before ("start") and after training: name -> (seeds, depth, ...)."""
    torch.set_float32_matmul_precision("high")
    model = build({"width": width}, seeds, [rate], shape, {}).to(device)
    draw = text_batches(device, seeds, 1, batch, shape["context"])
    x, y = held_out(device, windows, shape["context"])
    result, per_layer = {}, lambda rows: {name: torch.stack([r[name] for r in rows]) for name in rows[0]}
    for state in ("start", "trained"):
        if state == "trained":
            optimizer = optim.StackedAdam(model.parameters(), torch.full((len(seeds),), rate).to(device))
            loss = lambda a, b: nn.cross_entropy_per_run(model(a), b)
            train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine)
        test = [(t.double(), v.double()) for t, v in blocks_of(model, x, blocks)]
        fit = [
            (t.double(), v.double())
            for t, v in blocks_of(model, text_batches(device, [0], 1, 4 * windows, shape["context"], 3000)(0)[0][0], blocks)
        ]
        rows = []
        for a, b in zip(fit, test, strict=True):
            each = [geometry(b[1][r], counts) | linear_ranking((a[0][r], a[1][r]), (b[0][r], b[1][r]), counts) for r in range(len(seeds))]
            rows.append(per_layer(each))
        result[state] = {name: value.transpose(0, 1) for name, value in per_layer(rows).items()}
        result[state]["cosines"] = result[state]["cosines"][0]  # of one seed
    return result | {"loss": held_out_loss(model, len(seeds), x, y, torch.float32)}


# %%
e1 = nb.run(
    "E1",
    which_experts,
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    rate=3e-3,
    shape=nb.at_scale(
        cpu={"context": 32, "d": 32, "depth": 2, "heads": 2},
        gpu={"context": 64, "d": 128, "depth": 4, "heads": 4},
        full={"context": 128, "d": 256, "depth": 4, "heads": 8},
    ),
    width=nb.at_scale(cpu=256, gpu=512, full=1024),
    steps=nb.at_scale(cpu=250, gpu=600, full=1500),
    batch=nb.at_scale(cpu=16, gpu=32, full=32),
    blocks=16,
    counts=[2, 4, 8],
    windows=nb.at_scale(cpu=8, gpu=8, full=8),
)

# %% [markdown]
# ### E2, E3. Six kinds of mixture
#
# Three activations of the router, each with raw experts $v_i$ and with unit experts $e_i$ (RMS 1). One trap first. At the start the six
# layers have outputs of very different size, by a factor of 11; a layer that starts almost silent learns late, for no reason of geometry.
# So each layer has one scalar gain, and in the *matched* arms the gains are set on one batch before the first step so that every mixture
# puts out an RMS of 0.5. E2 trains small models from both starts; E3 trains larger ones, matched, with load balancing as a further arm.
# Baselines: a plain layer with all $nc$ hidden units, one with $kc$, and a router that is not trained.

# %%
kinds = [
    (f"{gate.title() if gate != 'relu' else 'ReLU'}, {'unit' if unit else 'raw'}", gate, unit) for gate in ACT for unit in (False, True)
]
matched = [{"name": name, "gate": gate, "normalise": unit, "matched": True} for name, gate, unit in kinds]
unmatched = [{"name": f"{name}, unmatched", "gate": gate, "normalise": unit} for name, gate, unit in kinds]
frozen = [{"name": "Softmax, unit, frozen router", "gate": "softmax", "normalise": True, "matched": True, "frozen": True}]
balanced = [{**cell, "name": cell["name"] + ", balanced", "balance": 1e-3} for cell in matched if cell["normalise"]]
tiny_shape = {"context": 32, "d": 32, "depth": 1, "heads": 2}
plain_cells = lambda n, c, k: [{"name": "dense, all units", "width": n * c}, {"name": "dense, active units", "width": k * c}]

# %%
e2 = nb.run(
    "E2",
    six_kinds,
    cells=nb.at_scale(
        cpu=[*matched[3:], *plain_cells(16, 16, 4)[:1]],
        gpu=[*matched, *plain_cells(16, 32, 4)],
        full=[*matched, *unmatched, *frozen, *plain_cells(16, 32, 4)],
    ),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    rates=nb.at_scale(cpu=[5e-3], gpu=[3e-3], full=[3e-3, 1e-2, 3e-2, 1e-1]),
    shape=nb.at_scale(
        cpu=tiny_shape,
        gpu={**tiny_shape, "d": 64, "depth": 2, "heads": 4, "context": 64},
        full={**tiny_shape, "d": 64, "depth": 2, "heads": 4, "context": 64},
    ),
    experts=nb.at_scale(
        cpu={"width": 16, "experts": 16, "k": 4, "method": "grouped"},
        gpu={"width": 32, "experts": 16, "k": 4, "method": "dense"},
        full={"width": 32, "experts": 16, "k": 4, "method": "dense"},
    ),
    steps=nb.at_scale(cpu=60, gpu=300, full=1000),
    batch=16,
    bf16=False,
    windows=nb.at_scale(cpu=32, gpu=256, full=512),
)

# %%
wide = {"context": 128, "d": 256, "depth": 4, "heads": 8}
e3 = nb.run(
    "E3",
    six_kinds,
    cells=nb.at_scale(cpu=[balanced[1]], gpu=[matched[1], matched[5]], full=[*matched, *balanced, *plain_cells(32, 128, 4)]),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1], full=[0, 1, 2]),
    rates=nb.at_scale(cpu=[3e-3], gpu=[3e-3], full=[1e-3, 3e-3, 1e-2]),
    shape=nb.at_scale(cpu={**tiny_shape, "depth": 2}, gpu={**wide, "depth": 2}, full=wide),
    experts=nb.at_scale(
        cpu={"width": 8, "experts": 16, "k": 2, "method": "dense"},
        gpu={"width": 64, "experts": 16, "k": 4, "method": "dense"},
        full={"width": 128, "experts": 32, "k": 4, "method": "grouped"},
    ),
    steps=nb.at_scale(cpu=40, gpu=200, full=1000),
    batch=nb.at_scale(cpu=8, gpu=16, full=32),
    bf16=nb.at_scale(cpu=False, gpu=False, full=True),
    windows=nb.at_scale(cpu=32, gpu=64, full=128),
)

# %% [markdown]
# ### X5. Time against arithmetic
#
# The layer alone, against the plain layer with all hidden units and against one with as many as are active, forward and backward, median
# of repeated calls. The same $x$, tokens drawn at random; the router is at its start, so loads are nearly even.


# %%
def clock(f, device, repeats):
    """Median seconds of a call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    f()
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        f()
        wait()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def both(f, device, repeats):
    """Seconds of f forward, and of f forward and backward."""
    with torch.no_grad():
        forward = clock(f, device, repeats)
    return [forward, clock(lambda: f().float().square().mean().backward(), device, repeats)]


# %%
def plain_layer(x, units):
    """f(x W^A) W^B with fresh weights of so many hidden units, ready to be called."""
    shapes, generator = ((x.shape[-1], units), (units, x.shape[-1])), torch.Generator().manual_seed(1)
    WA, WB = (torch.randn(s, generator=generator).div(s[0] ** 0.5).to(x).detach().requires_grad_() for s in shapes)
    return lambda: F.gelu(x[0] @ WA) @ WB


# %%
def layer_times(device, *, sizes, ks, repeats, bf16):
    """Times of the mixture at each k, of the masked layer, of the plain layer with n*c and with k*c hidden units."""
    result, dtype = {}, torch.bfloat16 if bf16 else torch.float32
    for name, (tokens, d, c, n) in sizes.items():
        x = torch.randn(1, tokens, d, generator=torch.Generator().manual_seed(0)).to(device, dtype).requires_grad_()
        layer = moe.MoE(nn.Init([0]), d, c, n, k=1, router_std=d**-0.5).to(device, dtype)
        times = {"dense": both(plain_layer(x, n * c), device, repeats), "grouped": []}
        times["active"] = [both(plain_layer(x, k * c), device, repeats) for k in ks]
        for layer.k in ks:
            times["grouped"].append(both(lambda layer=layer, x=x: layer(x), device, repeats))
        layer.method = "dense"
        times["masked"] = both(lambda layer=layer, x=x: layer(x), device, repeats)
        result[name] = times
    return result


# %%
live_ks, live_experts = nb.at_scale(cpu=[1, 4, 16], gpu=[1, 4, 16, 32], full=[1, 2, 4, 8, 16, 32]), nb.at_scale(cpu=16, gpu=32, full=32)
x5 = nb.run(
    "X5",
    layer_times,
    sizes=nb.at_scale(
        cpu={"wide": [1024, 64, 64, 16]},
        gpu={"narrow": [4096, 256, 128, 32], "wide": [4096, 1024, 512, 32]},
        full={"narrow": [16384, 256, 128, 32], "wide": [16384, 2048, 1024, 32]},
    ),
    ks=live_ks,
    repeats=nb.at_scale(cpu=7, gpu=10, full=30),
    bf16=nb.at_scale(cpu=False, gpu=False, full=True),
)

# %% [markdown]
# ## What the experiments say
#
# ### The blocks of a dense layer
#
# Before training the blocks are nearly orthogonal on average: $\|S\|^2$ is $\sum\|v_i\|^2$. Training turns them towards each other,
# $\|S\|^2$ becomes several times that sum, and D5's premise $\mu<1$ is lost. One would expect the rule to suffer, and it gets better, with
# two things that go with training: lengths have spread, so that a few terms carry much of the sum, and terms that lean the same way are easier to stand in for
# (exercise 3). Ranking by projection is better than ranking by length, most visibly before training; greedy selection is all but optimal.
# A linear map of $x$ is enough of a router to predict either ranking (X2).

# %% tags=["hide-input"]
r1, r2, r3, rx = (nb.recorded(id) for id in ("E1", "E2", "E3", "X5"))
at4 = r1.config["counts"].index(len(r1.result["trained"]["cosines"][0]) // 4)  # k = n/4


def by_seed(state, name, column=at4):
    """Mean over layers of one number of E1, one entry a seed; columns are the counts k."""
    table = np.array(r1.result[state][name])
    return (table[..., column] if table.ndim == 3 else table).mean(1)


def paired(a, b):
    """Mean difference a − b of paired runs in its standard errors."""
    difference = np.asarray(a) - np.asarray(b)
    return float(difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference))))


def tuned(record):
    """Each cell's measures at the learning rate with the best mean held-out loss: name -> measure -> one row a seed."""
    best_of = {name: metrics.best_rows([name] * len(m["loss"]), m["loss"])[name] for name, m in record.result.items()}
    return {name: {key: np.array(m[key][best_of[name]]) for key in m} for name, m in record.result.items()}


t2, t3 = tuned(r2), tuned(r3)
SURE2, SURE3 = (scipy.stats.t.ppf(0.975, len(r.config["seeds"]) - 1) for r in (r2, r3))  # standard errors: 3.2 with 4 seeds, 4.3 with 3
scope1 = f"full, {len(r1.config['seeds'])} seeds"
scope2, scope3 = f"full, {len(r2.config['seeds'])} seeds, rate tuned", f"full, {len(r3.config['seeds'])} seeds, rate tuned"
live1 = {state: {name: float(np.mean(e1[state][name], axis=(0, 1))[1]) for name in RULES} for state in ("start", "trained")}

# %% tags=["hide-input"]
check_model = build({"width": 64}, [0, 1], [1e-3], small_shape, {})
ids_c = held_out(cpu, 5, 12)[0]
with torch.no_grad():
    walked = list(check_model.states(ids_c.expand(2, -1, -1)))
    pieces = list(blocks_of(check_model, ids_c, 8))
    branch = [(after - before).flatten(1, 2) for before, after in zip(walked[1::2], walked[2::2], strict=True)]
    split_gap = worst(*(v.sum(2) - b for (_, v), b in zip(pieces, branch, strict=True)))
    v_c = pieces[1][1][0, :24].double()  # 24 tokens of one layer: loops in place of Gram matrices
    gramless, k_c = {name: [] for name in RULES}, 3
    for token in v_c:
        S_c = token.sum(0)
        left = lambda K, token=token, S_c=S_c: float((token[list(K)].sum(0) - S_c).square().sum() / S_c.square().sum())
        every = [left(K) for K in itertools.combinations(range(8), k_c)]
        gramless["length"].append(left(token.norm(dim=1).topk(k_c).indices.tolist()))
        gramless["projection"].append(left((token @ S_c).topk(k_c).indices.tolist()))
        gramless["optimal"].append(min(every))
        K = []
        for _ in range(k_c):
            K.append(min((i for i in range(8) if i not in K), key=lambda i, K=K, left=left: left([*K, i])))
        gramless["greedy"].append(left(K))
        gramless["random"].append(sum(every) / len(every))
    got_c = geometry(v_c, [k_c])
    rule_gap = worst(*(float(got_c[name][0]) - np.mean(rows) for name, rows in gramless.items()))
    ratio_gap = abs(
        float(got_c["ratio"][0])
        - float(torch.tensor([a / b for a, b in zip(gramless["length"], gramless["optimal"], strict=True)]).median())
    )
    cosine_c = F.cosine_similarity(v_c[:, :, None], v_c[:, None], dim=-1)
    shape_gap = worst(
        got_c["cosines"] - cosine_c.mean(0),
        got_c["together"] - (v_c.sum(1).square().sum(1) / v_c.square().sum((1, 2))).mean(),
        got_c["mu"] - torch.linalg.eigvalsh(cosine_c - torch.eye(8)).abs().amax(1).median(),
        got_c["cosine"] - (cosine_c.abs().sum() - 24 * 8) / (24 * 56),
    )
    few = (pieces[1][0][0, :12].double(), v_c[:12])  # fewer tokens than coordinates: least squares hits every target
    exact_fit = linear_ranking(few, few, [k_c])
    few_c = geometry(few[1], [k_c])
    fit_gap = worst(*(exact_fit["predicted " + name][0] - few_c[name][0] for name in ("length", "projection")))

# %% tags=["hide-input"]
nb.claim(
    "C1",
    "A feed-forward layer is a sum of n smaller ones: in a Transformer, what the sublayer adds to the residual "
    "stream is the sum of eight blocks.",
    "verified",
    holds=[
        ledger.less("two runs, two layers, 60 characters: largest difference", split_gap, 1e-4, machine=True, digits=1, scope="float32")
    ],
)
nb.experiment(
    "E1",
    "Training makes the blocks less orthogonal, they add up; and yet ranking them by length comes closer to the optimum.",
    "verified",
    holds=[
        ledger.more("‖S‖²/Σ‖v‖², trained, least of the seeds", min(by_seed("trained", "together")), 1.3, scope=scope1),
        ledger.close("before training, mean", float(np.mean(by_seed("start", "together"))), 1, abs=0.1, scope=scope1),
        ledger.more("coherence μ, trained, median over tokens, least of the seeds", min(by_seed("trained", "mu")), 1, scope=scope1),
        ledger.more(
            "mean |cos|, trained less untrained, in standard errors",
            paired(by_seed("trained", "cosine"), by_seed("start", "cosine")),
            3,
            scope=scope1,
        ),
        ledger.more(
            "error at k = n/4, untrained less trained, in standard errors",
            paired(by_seed("start", "length"), by_seed("trained", "length")),
            3,
            scope=scope1,
        ),
        ledger.more(
            "its ratio to the optimum, untrained less trained",
            paired(by_seed("start", "ratio"), by_seed("trained", "ratio")),
            3,
            scope=scope1,
        ),
        ledger.more(
            "spread of lengths, trained less untrained", paired(by_seed("trained", "spread"), by_seed("start", "spread")), 2, scope=scope1
        ),
        ledger.less(
            "live: error of the longest, trained over untrained",
            live1["trained"]["length"] / live1["start"]["length"],
            0.9,
            machine=True,
            scope="cpu, 1 seed",
        ),
        ledger.less("the code: rules against loops over subsets, 24 tokens", rule_gap, 1e-9, machine=True, digits=1),
        ledger.less("ratio", ratio_gap, 1e-6, machine=True, digits=1),
        ledger.less("cosines, ‖S‖²/Σ‖v‖², μ", shape_gap, 1e-6, machine=True, digits=1),
    ],
)
nb.claim(
    "C5",
    "For vectors that are not orthogonal the longest are a usable approximation.",
    "verified",
    holds=[
        ledger.less(
            "trained, k = n/4: median error over the optimum's, mean of seeds",
            float(np.mean(by_seed("trained", "ratio"))),
            1.25,
            scope=scope1,
        ),
        ledger.less(
            "mean error over that of random dropping",
            float(np.mean(by_seed("trained", "length") / by_seed("trained", "random"))),
            0.75,
            scope=scope1,
        ),
        ledger.less(
            "live: over random dropping", live1["trained"]["length"] / live1["trained"]["random"], 0.85, machine=True, scope="cpu, 1 seed"
        ),
    ],
)
nb.claim(
    "C6",
    "Because longer vectors are harder to cancel, length is what to rank by: it is good, the projection ⟨v, S⟩ is a few percent better.",
    "partly",
    holds=[
        ledger.less(
            "trained, k = n/4: error by length over random",
            float(np.mean(by_seed("trained", "length") / by_seed("trained", "random"))),
            0.75,
            scope=scope1,
        )
    ],
    fails=[
        ledger.more(
            "error by length less error by projection, trained, in standard errors",
            paired(by_seed("trained", "length"), by_seed("trained", "projection")),
            2,
            scope=scope1,
        ),
        ledger.more("untrained", paired(by_seed("start", "length"), by_seed("start", "projection")), 3, scope=scope1),
        ledger.close(
            "trained: error by projection over error by length",
            float(np.mean(by_seed("trained", "projection") / by_seed("trained", "length"))),
            0.96,
            abs=0.02,
            scope=scope1,
        ),
        ledger.less(
            "live, untrained: projection over length",
            live1["start"]["projection"] / live1["start"]["length"],
            0.97,
            machine=True,
            scope="cpu, 1 seed",
        ),
    ],
)
nb.claim(
    "X2",
    "A linear map of x, fitted by least squares, ranks the blocks of a frozen layer nearly as well as their true lengths do. To predict "
    "projections instead does not help.",
    "verified",
    holds=[
        ledger.less(
            "error by predicted over error by true length, trained",
            float(np.mean(by_seed("trained", "predicted length") / by_seed("trained", "length"))),
            1.15,
            scope=scope1,
        ),
        ledger.less(
            "over random",
            float(np.mean(by_seed("trained", "predicted length") / by_seed("trained", "random"))),
            0.75,
            scope=scope1,
        ),
        ledger.more(
            "error by predicted projection less by predicted length, in standard errors",
            paired(by_seed("trained", "predicted projection"), by_seed("trained", "predicted length")),
            3.2,
            scope=scope1,
        ),
        ledger.less("the code: a fit with fewer tokens than coordinates ranks as the truth does", fit_gap, 1e-9, machine=True, digits=1),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two matrices of mean cosines between the sixteen blocks of one feed-forward layer, recorded. Before training all entries off the diagonal are near zero; after training they are positive throughout."}}
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.3))
for axes, state, title in zip(panels, ("start", "trained"), ("before training", "after training"), strict=True):
    picture = axes.imshow(np.array(r1.result[state]["cosines"][-1]), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.grid(False)
    axes.set(xlabel="block", ylabel="block")
    axes.set_title(title, fontsize=10)
figure.colorbar(picture, ax=panels, label="mean cosine of two blocks, last layer")
figure.suptitle("Training turns the blocks towards each other", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Ratio of the error of the longest to the optimal error against the coherence mu for random frames of eight vectors in 3 to 200 dimensions. All points lie between one and the bound (1 + mu)/(1 - mu), most of them far below it; the bound goes to infinity at mu = 1, beyond which ratios go on, mostly below two."}}
gen = torch.Generator().manual_seed(9)
dims = [3 + 197 * j // 299 for j in range(300)]
directions = [F.pad(F.normalize(torch.randn(8, dim, generator=gen, dtype=torch.float64), dim=-1), (0, 200 - dim)) for dim in dims]
leaning = torch.stack(directions) * torch.exp(0.5 * torch.randn(300, 8, 1, generator=gen, dtype=torch.float64))
leaning_gram = leaning @ leaning.mT
mus, excesses = (
    coherence(leaning_gram).numpy(),
    (error_of(leaning_gram, keep_length(leaning_gram, 2)) / error_of(leaning_gram, keep_optimal(leaning_gram, 2))).numpy(),
)
figure, axes = plt.subplots(figsize=(7.0, 3.4))
axes.scatter(mus, excesses, s=10, color=BLUE, label="eight random vectors in R³ to R²⁰⁰, k = 2")
below_one = np.linspace(0.05, 0.98, 200)
axes.plot(below_one, (1 + below_one) / (1 - below_one), color=ORANGE, ls="--", label="(1 + μ)/(1 − μ)")
axes.axvline(1, color=GREY, lw=1, ls=":")
axes.set(ylim=(0.9, 8), yscale="log", xlabel="coherence μ", ylabel="error of the longest / optimal error")
axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
axes.minorticks_off()
axes.set_title("The bound is loose where it holds; beyond μ = 1 there is none")
axes.legend(loc="upper right")
nb.show(figure)

# %% [markdown]
# ### E4. Three vectors in the plane
#
# Dropping a *single* term costs its squared length, whatever the others are: for $k=n-1$ the rule is always exact (X4). The smallest case
# in which it can fail keeps one of three. Take $v_1=(1,0)$ and $v_{2,3}=r(\cos\theta,\pm\sin\theta)$ with $r<1$. Keeping the longest
# leaves $4r^2\cos^2\theta$, keeping one of the others $1+2r\cos\theta+r^2$, so the rule is wrong exactly if
#
# $$r\cos\theta<\tfrac14\bigl(1-\sqrt{5+4r^2}\bigr):$$
#
# the short vectors have to point backwards, together, and then not cancel against $v_1$ but be most of what is there.

# %%
rr, th, proj = sp.symbols("r theta u", real=True)
w1, w2, w3 = sp.Matrix([1, 0]), sp.Matrix([rr * sp.cos(th), rr * sp.sin(th)]), sp.Matrix([rr * sp.cos(th), -rr * sp.sin(th)])
advantage = (w2 + w3).dot(w2 + w3) - (w1 + w3).dot(w1 + w3)  # positive: the rule is wrong
border = (1 - sp.sqrt(5 + 4 * rr**2)) / 4
angles, ratios = np.linspace(0, math.pi, 181), np.linspace(0.02, 0.99, 98)
angle_grid, ratio_grid = (torch.from_numpy(t) for t in np.meshgrid(angles, ratios))
three = torch.stack(
    [
        torch.stack([torch.ones_like(angle_grid), torch.zeros_like(angle_grid)], -1),
        torch.stack([ratio_grid * angle_grid.cos(), ratio_grid * angle_grid.sin()], -1),
        torch.stack([ratio_grid * angle_grid.cos(), -ratio_grid * angle_grid.sin()], -1),
    ],
    -2,
)
three_gram = three @ three.mT
lost = error_of(three_gram, keep_length(three_gram, 1)) - error_of(three_gram, keep_optimal(three_gram, 1))
predicted_wrong = ratio_grid * angle_grid.cos() < (1 - (5 + 4 * ratio_grid**2).sqrt()) / 4

# %% tags=["hide-input"]
nb.experiment(
    "E4",
    "Three vectors in the plane, one kept: the longest is wrong exactly if r cos θ < (1 − √(5 + 4r²))/4.",
    "verified",
    holds=[
        sym.solves("the border", sp.expand(advantage).subs(sp.sin(th) ** 2, 1 - sp.cos(th) ** 2).subs(sp.cos(th), proj / rr), proj, border),
        ledger.close(
            "181 × 98 cases by brute force: share in which the border is right",
            float(((lost > 1e-12) == predicted_wrong).double().mean()),
            1,
            abs=1e-9,
        ),
        ledger.close("share of the map in which the rule is wrong", float((lost > 1e-12).double().mean()), 0.183, abs=0.001),
    ],
)
one_out = [
    float((error_of(g, keep_length(g, g.shape[-1] - 1)) - error_of(g, keep_optimal(g, g.shape[-1] - 1))).max())
    for g in (some_gram, cloud_gram, leaning_gram)
]
nb.claim(
    "X4",
    "Dropping one term is always done right by the rule: the error is the squared length of that term.",
    "verified",
    holds=[
        ledger.less(f"{name}: largest excess over the optimum at k = n − 1", e, 1e-9, machine=True, digits=1)
        for name, e in zip(("40 sets in R⁵", "500 frames in R⁶⁴", "300 frames in R³ to R²⁰⁰"), one_out, strict=True)
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Map over the angle theta of the two short vectors and their length ratio r of what keeping the longest of three vectors loses against the best. It is zero except in a corner at large angles and ratios near one, bounded by the analytic curve."}}
figure, axes = plt.subplots(figsize=(6.8, 3.5))
picture = axes.pcolormesh(np.degrees(angles), ratios, lost.numpy(), cmap="viridis", shading="nearest")
edge = (1 - np.sqrt(5 + 4 * ratios**2)) / 4 / ratios
axes.plot(np.degrees(np.arccos(np.clip(edge, -1, 1)))[edge > -1], ratios[edge > -1], color=ORANGE, label="r cos θ = (1 − √(5 + 4r²))/4")
axes.grid(False)
axes.set(xlabel="angle θ of the two shorter vectors (degrees)", ylabel="length ratio r")
axes.set_title("The longest of three is wrong in one corner only")
axes.legend(loc="lower left")
figure.colorbar(picture, ax=axes, label="excess error")
nb.show(figure)

# %% [markdown]
# ### Six kinds of mixture
#
# Is what the $k$ experts leave out a small part of the dense version? In the small models, with every trained router, yes. In the larger
# ones only with a ReLU: softmax and sigmoid leave about half of their weight outside, no training signal has shaped that sum, and with
# $k=n$ in all layers the loss is clearly *worse* (last table). So "top-$k$ approximates the dense model" is a statement about a router that
# puts its weight on few experts, not about every $h$. (From E2 to E3 width, depth, $n$ and the share $k/n$, from a quarter to an eighth, all
# change; which of them matters is not separated. A ReLU may give fewer than $k$ experts a positive weight, and then nothing is left out.)
#
# The small mixtures end *below* the plain layer with all units, the larger ones do not. The routers without competition tend to end
# below the softmax, by 0.01 to 0.04 nats where it is resolved (C12 and the last table).
#
# At the start the six layers put out vectors of very different size, so that unmatched arms differ in more than their geometry: whether a
# softmax or a sigmoid mixture is seen to gain by the division depends on it (X3).

# %% tags=["hide-input"]
start_shape = {"context": 64, "d": 64, "depth": 1, "heads": 4}
with torch.no_grad():
    start_rms, unmatched_ids = {}, held_out(cpu, 8, 64)[0]
    for cell in unmatched[:6]:
        stack = build(cell, [0], [1e-3], start_shape, {"width": 32, "experts": 16, "k": 4, "method": "grouped"})
        walked = list(stack.states(unmatched_ids[None]))
        before_rms = float((walked[2] - walked[1]).square().mean().sqrt())
        stack.match_output(unmatched_ids[None], 0.5)
        walked = list(stack.states(unmatched_ids[None]))
        start_rms[cell["name"].removesuffix(", unmatched")] = (before_rms, float((walked[2] - walked[1]).square().mean().sqrt()))
loudest = max(w[0] for w in start_rms.values()) / min(w[0] for w in start_rms.values())
names2 = [name for name, _, _ in kinds]

# %% tags=["hide-input"]
nb.claim(
    "X3",
    "The scale at the start confounds: unmatched, the six layers begin 11 times apart in size. From matched starts a Softmax mixture is seen to "
    "gain by the division and a Sigmoid mixture is not; unmatched it is the other way round. A ReLU mixture gains from both.",
    "verified",
    holds=[
        *[
            ledger.close(f"sure: Student's 97.5 % for {n} seeds, by a printed table", sure, {3: 4.303, 4: 3.182}[n], abs=5e-4)
            for sure, n in ((SURE2, len(r2.config["seeds"])), (SURE3, len(r3.config["seeds"])))
        ],
        ledger.close("largest over smallest output RMS at the start", loudest, 11.2, rel=0.15, machine=True),
        *[ledger.close(f"{name}: matched", w[1], 0.5, abs=1e-4, machine=True) for name, w in start_rms.items()],
        *[
            (ledger.more if seen else ledger.less)(
                f"{kind}, {suffix or ', matched'}: raw less unit, in standard errors".replace(", ,", ","),
                paired(t2[f"{kind}, raw{suffix}"]["loss"], t2[f"{kind}, unit{suffix}"]["loss"]),
                SURE2 if seen else 2,
                scope=scope2,
            )
            for suffix, kinds_seen in (("", ("Softmax", "ReLU")), (", unmatched", ("Sigmoid", "ReLU")))
            for kind in ("Softmax", "Sigmoid", "ReLU")
            for seen in [kind in kinds_seen]
        ],
    ],
)
active = t2["dense, active units"]["loss"]
nb.experiment(
    "E2",
    "Small models: all three mixtures with unit experts beat the plain layer of the same arithmetic.",
    "verified",
    holds=[
        *[
            ledger.more(f"plain, active units, less {name}, in standard errors", paired(active, t2[name]["loss"]), SURE2, scope=scope2)
            for name in names2
            if "unit" in name
        ],
        *[
            ledger.less(
                f"live, {name}: training loss after 60 steps",
                float(np.mean(m["train"])),
                data.unigram_entropy(corpus),
                machine=True,
                scope="cpu, 2 seeds",
            )
            for name, m in e2.items()
        ],
    ],
)

# %% tags=["hide-input"]
nb.claim(
    "C9",
    "A mixture with normalised experts approximates its own dense version: for orthonormal directions surely, in "
    "trained networks depending on the router's activation.",
    "partly",
    holds=[
        *[
            ledger.less(
                f"small models, {kind}, unit: gap ‖y_k − y_n‖²/‖y_n‖², mean over seeds and layers",
                float(t2[f"{kind}, unit"]["gap"].mean()),
                0.05,
                scope=scope2,
            )
            for kind in ("Softmax", "Sigmoid", "ReLU")
        ],
        ledger.less("larger models, ReLU, unit", float(t3["ReLU, unit"]["gap"].mean()), 0.05, scope=scope3),
    ],
    fails=[
        *[
            ledger.less(
                f"larger models, {kind}, unit: share of Σρ that the k chosen hold",
                float(t3[f"{kind}, unit"]["share"].mean(0)[r3.config["experts"]["k"] - 1]),
                0.6,
                scope=scope3,
            )
            for kind in ("Softmax", "Sigmoid")
        ],
        ledger.more("larger models, Softmax, unit: gap", float(t3["Softmax, unit"]["gap"].mean()), 0.2, scope=scope3),
        ledger.more("Sigmoid, unit", float(t3["Sigmoid, unit"]["gap"].mean()), 0.1, scope=scope3),
        *[
            ledger.more(
                f"{kind}, unit: loss with k = n less loss with k, nats",
                float((t3[f"{kind}, unit"]["dense loss"] - t3[f"{kind}, unit"]["loss"]).mean()),
                0.05,
                scope=scope3,
            )
            for kind in ("Softmax", "Sigmoid")
        ],
        ledger.more(
            "live, Sigmoid, unit, 60 steps: gap", float(np.mean(e2["Sigmoid, unit"]["gap"])), 0.2, machine=True, scope="cpu, 2 seeds"
        ),
    ],
)
nb.claim(
    "C10",
    "Without the division experts are chosen by something that is not the length of their term.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"{kind}, raw: share of the k largest ρ among the k largest ρ‖v‖",
                float(t3[f"{kind}, raw"]["overlap"].mean()),
                0.9,
                scope=scope3,
            )
            for kind in ("Softmax", "Sigmoid")
        ],
        ledger.less("live, ReLU, raw, 60 steps", float(np.mean(e2["ReLU, raw"]["overlap"])), 0.99, machine=True, scope="cpu, 2 seeds"),
    ],
)
nb.claim(
    "C11",
    "Dividing by the length makes the geometry clear; the post promises no better loss. From matched starts ReLU and Softmax gain by it in "
    "the small models, Sigmoid in the larger ones; the rest is not resolved.",
    "partly",
    holds=[
        *[
            ledger.more(
                f"small, {kind}: raw less unit, in standard errors",
                paired(t2[f"{kind}, raw"]["loss"], t2[f"{kind}, unit"]["loss"]),
                SURE2,
                scope=scope2,
            )
            for kind in ("ReLU", "Softmax")
        ],
        ledger.more("larger, Sigmoid", paired(t3["Sigmoid, raw"]["loss"], t3["Sigmoid, unit"]["loss"]), SURE3, scope=scope3),
    ],
    fails=[
        ledger.less("small, Sigmoid", paired(t2["Sigmoid, raw"]["loss"], t2["Sigmoid, unit"]["loss"]), 2, scope=scope2),
        ledger.less("larger, Softmax", paired(t3["Softmax, raw"]["loss"], t3["Softmax, unit"]["loss"]), 2, scope=scope3),
    ],
)
nb.claim(
    "C12",
    "Activations that do not normalise over the experts sometimes work better than a Softmax: ReLU in three of four comparisons; with three "
    "or four seeds Sigmoid is resolved in one. That competition is the reason is not tested.",
    "partly",
    holds=[
        ledger.more(
            f"{label}: Softmax less {kind}, {experts}, in standard errors",
            paired(t[f"Softmax, {experts}"]["loss"], t[f"{kind}, {experts}"]["loss"]),
            sure,
            scope=scope,
        )
        for label, t, kind, experts, sure, scope in (
            ("E2", t2, "ReLU", "unit", SURE2, scope2),
            ("E2", t2, "ReLU", "raw", SURE2, scope2),
            ("E3", t3, "ReLU", "raw", SURE3, scope3),
            ("E2", t2, "Sigmoid", "raw", SURE2, scope2),
        )
    ],
    fails=[ledger.less("E3: Softmax less Sigmoid, raw", paired(t3["Softmax, raw"]["loss"], t3["Sigmoid, raw"]["loss"]), 2, scope=scope3)],
)

# %% [markdown]
# Does multiplying by $\rho$ teach the router (C15)? Yes, as far as it is asked: a frozen router does worse, and a chosen weight goes to
# its projection. But an expert that is not chosen learns nothing, and the dense optimum can stay out of reach. Two orthonormal experts,
# $k=1$, target $y^*=(\tfrac12,1)$, $\rho=(0.6,0.4)$ at the start: gradient descent takes $\rho_1$ to $\tfrac12$, which is still above
# 0.4, and the better expert is never tried. (A Softmax router is a little wider awake: its denominator carries gradient to the logits of
# experts that were not chosen.)


# %%
def descend(rho, goal, steps=400, rate=0.1):
    """Gradient descent on ½‖ρ_i e_i − y*‖² with the largest of ρ chosen and orthonormal e: autograd through topk."""
    rho, goal = torch.tensor(rho, dtype=torch.float64, requires_grad=True), torch.tensor(goal, dtype=torch.float64)
    for _ in range(steps):
        y = torch.where(moe.topk_mask(rho.detach(), 1), rho, 0.0)
        (grad,) = torch.autograd.grad((y - goal).square().sum() / 2, rho)
        rho = (rho - rate * grad).detach().requires_grad_()
    return rho.detach()


stuck, lucky = descend([0.6, 0.4], [0.5, 1.0]), descend([0.6, 0.8], [0.5, 1.0])
softmax_layer = moe.MoE(nn.Init([0]), 6, 5, 7, k=2, gate="softmax", normalise=True, router_std=1.0).double()
(softmax_layer(x_tiny.detach()) * torch.linspace(-1, 1, 6, dtype=torch.float64)).sum().backward()

# %% tags=["hide-input"]
nb.claim(
    "C15",
    "Multiplying by ρ needs no explanation by a learned choice: each step approximates the dense sum. Chosen "
    "weights do go to their projections; experts that are never chosen stay as they are.",
    "partly",
    holds=[
        ledger.close("started at (0.6, 0.8): the chosen weight ends at ⟨y*, e₂⟩", float(lucky[1]), 1.0, abs=1e-9),
        ledger.more(
            "frozen less trained router, Softmax, unit: loss in standard errors",
            paired(t2["Softmax, unit, frozen router"]["loss"], t2["Softmax, unit"]["loss"]),
            2,
            scope=scope2,
        ),
    ],
    fails=[
        ledger.close("started at (0.6, 0.4): the other weight is where it was", float(stuck[1]), 0.4, abs=1e-12),
        ledger.close(
            "squared error that is left, against 0.25 for the better expert", float((stuck[0] - 0.5) ** 2 + 1.0**2), 1.0, abs=1e-9
        ),
        ledger.close(
            "logits that a gradient reaches, Softmax, k = 2 of 7", int((softmax_layer.wr.grad[0].abs().sum(0) > 0).sum()), 7, abs=0.5
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Held-out loss of the six kinds of mixture in the small models above that of the dense model of the same seed, recorded, from matched and unmatched starts, with standard errors, beside two horizontal lines for the plain layer with all and with the active hidden units. The raw Softmax mixture is worst; from matched starts both Sigmoid mixtures and the unit ReLU mixture are best, from unmatched starts the raw Sigmoid and the unit Softmax lose their place."}}
figure, axes = plt.subplots(figsize=(7.6, 3.6))
for i, name in enumerate(names2):
    for offset, suffix, color, mark in ((-0.12, "", BLUE, "o"), (0.12, ", unmatched", ORANGE, "s")):
        losses = t2[name + suffix]["loss"] - t2["dense, all units"]["loss"]
        error = losses.std(ddof=1) / math.sqrt(len(losses))
        label = ("matched start", "unmatched start")[bool(suffix)] if i == 0 else None
        axes.errorbar(i + offset, losses.mean(), error, fmt=mark, color=color, capsize=2, label=label)
axes.axhline((active - t2["dense, all units"]["loss"]).mean(), color=GREY, ls=":", lw=1.2, label="dense, active units")
axes.axhline(0, color=GREY, lw=1.2, label="dense, all units")
axes.set_xticks(range(6), [name.replace(", ", "\n") for name in names2])
axes.set_ylabel("held-out loss above the dense layer (nats)")
axes.set_title("Whether Softmax or Sigmoid gains by the division depends on the start")
axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of the total router weight that the j largest weights hold against j, for Softmax, Sigmoid and ReLU routers with unit experts in the larger models, recorded. ReLU holds nearly everything within k = 4; Softmax and Sigmoid about half, and both go on rising to the last expert."}}
figure, axes = plt.subplots(figsize=(6.8, 3.4))
for kind, color, mark in (("ReLU", BLUE, "o-"), ("Softmax", GREEN, "s--"), ("Sigmoid", RED, "^-.")):
    share_row = t3[f"{kind}, unit"]["share"].mean(0)
    axes.plot(
        np.arange(1, len(share_row) + 1),
        share_row,
        mark,
        color=color,
        ms=4,
        label=f"{kind}; gap to the dense version {t3[f'{kind}, unit']['gap'].mean():.2f}",
    )
axes.axvline(r3.config["experts"]["k"], color=GREY, lw=1, ls=":")
axes.set(xlabel="number j of largest weights", ylabel="share of Σρ in the j largest", ylim=(0, 1.03))
axes.set_title("What a Softmax or Sigmoid router leaves out is not small")
axes.legend(fontsize=8, loc="lower right")
nb.show(figure)

# %% [markdown]
# ### Larger models, and the load
#
# Nothing so far asks the experts to be used evenly, and they are not. Loss-free balancing {cite}`wang2024lossfree` adds a bias to the
# scores for the choice alone and moves it against the load, $b\leftarrow b-\eta_b\operatorname{sign}(F-\frac1n)$ with $F$ the shares of
# the load. Even perfect balance leaves a MaxVio above 0 in a batch of $T$ tokens, whose loads are binomial counts:
# `moe.max_violation_floor`.
#
# With $\eta_b=10^{-3}$ this brings MaxVio of softmax and sigmoid routers down to a fraction (X6). For a ReLU router the number says little:
# where fewer than $k$ weights are positive, the chosen include ties of weight zero, which count as load and contribute nothing.

# %% tags=["hide-input"]
probe_tokens = 16 * r3.config["shape"]["context"]
floor3 = moe.max_violation_floor(probe_tokens, r3.config["experts"]["experts"], r3.config["experts"]["k"])
nb.experiment(
    "E3",
    "Larger models: a ReLU mixture with unit experts beats the plain layer of the same arithmetic; what is left out is least for ReLU, most "
    "for Softmax.",
    "verified",
    holds=[
        ledger.more(
            "plain, active units, less ReLU, unit, in standard errors",
            paired(t3["dense, active units"]["loss"], t3["ReLU, unit"]["loss"]),
            SURE3,
            scope=scope3,
        ),
        *[
            ledger.more(
                f"gap: {a}, unit, over {b}, unit", float(t3[f"{a}, unit"]["gap"].mean() / t3[f"{b}, unit"]["gap"].mean()), 1.5, scope=scope3
            )
            for a, b in (("Sigmoid", "ReLU"), ("Softmax", "Sigmoid"))
        ],
        *[
            ledger.less(f"live, {name}: training loss after 40 steps", float(np.mean(m["train"])), 3.7, machine=True, scope="cpu, 2 seeds")
            for name, m in e3.items()
        ],
    ],
)
over_unbalanced = {
    kind: float(t3[f"{kind}, unit, balanced"]["violation"].mean() / t3[f"{kind}, unit"]["violation"].mean())
    for kind in ("Softmax", "Sigmoid")
}
nb.claim(
    "X6",
    "Without balancing the load is uneven; loss-free balancing lowers MaxVio of Softmax and Sigmoid routers without a gradient.",
    "verified",
    holds=[
        *[
            ledger.more(f"{kind}, unit: MaxVio without balancing", float(t3[f"{kind}, unit"]["violation"].mean()), 1, scope=scope3)
            for kind in over_unbalanced
        ],
        *[ledger.less(f"{kind}, unit: with over without", ratio, 0.5, scope=scope3) for kind, ratio in over_unbalanced.items()],
        ledger.less(f"floor, {probe_tokens} tokens", floor3, 0.3),
    ],
)

# %% [markdown]
# ### Time
#
# Arithmetic falls to $k/n$; time does not fall as far. Sorting, gathering and scattering tokens moves memory that the plain layer does
# not move, and the grouped product runs below the speed of one large product. On the H100 the time of the wide layer ($d=2048$, 32 experts
# of 1024 units, 16,384 tokens, bfloat16) is a straight line in $k$ with an offset of about two experts, and about three times that of a
# plain layer with as many active units. So it pays up to $k=8$ of 32; the narrow one ($d=256$) never does: at every $k$ the plain layer with
# *all* units is faster. This is one implementation, on top of torch's grouped product.

# %% tags=["hide-input"]
wide_x, narrow_x, ks_x = rx.result["wide"], rx.result["narrow"], rx.config["ks"]
relative = lambda row, i: [t[i] / row["dense"][i] for t in row["grouped"]]
four = ks_x.index(4)
arithmetic = lambda k, n, c: (2 * c * k + n) / (2 * n * c)  # D11, over that of the dense layer
_, _, c_x, n_x = rx.config["sizes"]["wide"]
nb.claim(
    "X5",
    "The time of the grouped layer is affine in the number of chosen experts, above the line of the arithmetic.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"the line of the arithmetic against counts, n = {n}, k = {k}",
                arithmetic(k, n, c_c),
                counted[n, k] / dense_count[n],
                rel=1e-9,
            )
            for n, k in ((8, 1), (32, 4))
        ],
        ledger.increasing("wide layer, forward and backward: time over k", relative(wide_x, 1), scope="full"),
        ledger.close(
            "offset of the straight line, forward and backward, in experts",
            float(np.divide(*np.polyfit(ks_x, relative(wide_x, 1), 1)[::-1])),
            2,
            abs=0.5,
            scope="full",
        ),
        ledger.more("correlation of time and k", float(np.corrcoef(ks_x, relative(wide_x, 1))[0, 1]), 0.999, scope="full"),
        ledger.less("k = 4: time over that of the dense layer, forward and backward", relative(wide_x, 1)[four], 0.6, scope="full"),
        ledger.more("its time over its arithmetic", relative(wide_x, 1)[four] / arithmetic(4, n_x, c_x), 1, scope="full"),
        ledger.more("narrow layer: least time over k, over that of the dense layer", min(relative(narrow_x, 1)), 1, scope="full"),
        ledger.close(
            "wide layer: time over that of the plain layer with k·c units, mean over k",
            float(np.mean([g[1] / a[1] for g, a in zip(wide_x["grouped"], wide_x["active"], strict=True)])),
            3,
            rel=0.2,
            scope="full",
        ),
        ledger.less(
            "k = 4: time over that of computing all experts and masking",
            wide_x["grouped"][four][1] / wide_x["masked"][1],
            0.8,
            scope="full",
        ),
        ledger.more("the code: clock of a call that sleeps 20 ms", clock(lambda: time.sleep(0.02), cpu, 3), 0.0199, machine=True),
        ledger.close(
            "operations of the plain layer on 10 tokens, d = 6, 8 units, against 4·10·6·8",
            flops_of(lambda: plain_layer(torch.ones(1, 10, 6), 8)()),
            4 * 10 * 6 * 8,
            abs=0.5,
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Time of the grouped mixture over the time of the dense layer against the share k/n of chosen experts, log-log, recorded, for a narrow and a wide layer, forward and backward, beside the line of the arithmetic. The wide layer runs parallel to the line, three to seven times above it, and reaches the dense layer between a quarter and a half of the experts; the narrow one lies above the dense layer throughout."}}
figure, axes = plt.subplots(figsize=(7.0, 3.6))
share_x = np.array(ks_x) / rx.config["sizes"]["wide"][3]
axes.plot(share_x, [arithmetic(k, n_x, c_x) for k in ks_x], color=GREY, ls=":", label="arithmetic, k/n + n/(2D), wide")
for row, name, color, mark in ((wide_x, "wide", BLUE, "o"), (narrow_x, "narrow", ORANGE, "s")):
    axes.plot(share_x, relative(row, 1), mark + "-", color=color, label=f"{name}, forward and backward")
    axes.plot(share_x, relative(row, 0), mark + "--", color=color, ms=4, mfc="white", label=f"{name}, forward")
axes.plot(np.array(live_ks) / live_experts, relative(x5["wide"], 1), "^", color=GREEN, label="live, forward and backward (other sizes)")
axes.axhline(1, color=BLACK, lw=0.8)
axes.set(xscale="log", yscale="log", xlabel="share of experts chosen, k/n", ylabel="time / time of the dense layer")
axes.set_title("An eighth of the arithmetic takes half of the time, if the layer is wide")
axes.legend(fontsize=8)
nb.show(figure)

# %% [markdown]
# ## Numbers side by side
#
# The post prints no measurements, so there is no column of the author's to compare with. The last two columns show what its reading
# predicts: a small gap, and an overlap of 1.

# %% tags=["hide-input"]
rows_out = []
for label, t in (("small", t2), ("large", t3)):
    for name, m in t.items():
        cells_out = (
            ["–"] * 4
            if "gap" not in m
            else [f"{m['dense loss'].mean():.3f}", f"{m['violation'].mean():.2f}", f"{m['gap'].mean():.3f}", f"{m['overlap'].mean():.2f}"]
        )
        rows_out.append([label, name, ledger.with_error(m["loss"].tolist()), *cells_out])
nb.results(
    "E2",
    "Held-out loss (nats a character, mean ± s.e. over seeds, rate tuned) and geometry, recorded",
    ["model", "layer", "loss", "loss with k = n", "MaxVio", "gap to k = n", "overlap"],
    rows_out,
)

# %% [markdown]
# ## Beyond the post
#
# - **A bound** (D5) says when the rule is nearly optimal; its premise $\mu<1$ fails in trained networks, and the rule does well all the
#   same.
# - **Projections** (D7, C6). What the best set wants is $\langle v_i,S\rangle$, the share of the sum that an expert carries, not its length;
#   in the layer of the post the two are one as long as directions are orthogonal. The gain is a few percent, and a linear router does not
#   get it (X2): lengths are easier to predict.
# - **The scale at the start** (X3) is a confounder of every comparison of routers or of normalised with raw experts.
# - **The load.** A rule that keeps the longest has no reason to keep all experts busy; the post leaves this to its sequels.
#
# ## What does not hold
#
# - **"Guaranteed to approximate the dense model"** (C9) is a theorem for orthonormal directions. In the larger models a softmax router's
#   terms left out are no small remainder, and a sigmoid's are not negligible.
# - **Gradients through the choice** (C15): an expert that is never chosen does not learn, and the dense optimum can stay out of reach.
#
# ## Exercises
#
# 1. Show that for $k=n-1$ the rule is exact without orthogonality, and find four vectors in the plane for which it is wrong at $k=2$ by
#   more than a factor of ten.
# 2. Mixtral's softmax runs over the $k$ chosen logits. Is this the same layer as ours up to a factor that depends on the token? What does
#   the division by the chosen mass do to the length of $y$?
# 3. With equal lengths and all cosines equal to $c>0$, what is the error of keeping $k$ of $n$ relative to $\|S\|^2$? Compare with
#   orthogonal vectors.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# One term dropped is one length lost. For $k=2$ of four, take two long opposite vectors and two shorter ones that point the same way: the
# long pair cancels, the rule keeps it, and the whole sum is lost.
# ```

# %% tags=["hide-cell"]
foil = torch.tensor([[3.0, 0.0], [-3.0, 0.1], [0.0, 2.0], [0.1, 2.0]], dtype=torch.float64)
foil_gram = (foil @ foil.T)[None]
lost_all, lost_little = (float(error_of(foil_gram, keep(foil_gram, 2))) for keep in (keep_length, keep_optimal))
print(f"error of the longest {lost_all:.2f}, of the best {lost_little:.2f}")

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Yes: $\operatorname{softmax}$ over the chosen is $\rho_i/\sum_{j\in\text{top}}\rho_j$, the same choice and the same proportions. The
# factor sets the sum of the weights to 1, so the length of $y$ can no longer tell how much the layer has to say about a token.
# ```

# %% tags=["hide-cell"]
logits_x = torch.randn(5, 8, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
top_x = logits_x.topk(3)
full_x = logits_x.softmax(-1).gather(1, top_x.indices)
same = torch.allclose(top_x.values.softmax(-1), full_x / full_x.sum(1, keepdim=True), rtol=1e-12)
print("equal after division by the chosen mass:", same)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# $m(1+(m-1)c)$ over $n(1+(n-1)c)$ with $m=n-k$: near $(m/n)^2$ for large $n$, where orthogonal vectors leave $m/n$. Vectors that lean the
# same way are easier to represent by a few, which is what E1 shows.
# ```

# %% tags=["hide-cell"]
equal = torch.eye(16, dtype=torch.float64) * 0.7 + 0.3
by_mean, by_hand = float(random_error(equal, 4) / equal.sum()), 12 * (1 + 11 * 0.3) / (16 * (1 + 15 * 0.3))
print(f"n = 16, k = 4, c = 0.3: {by_mean:.4f}, formula {by_hand:.4f}, orthogonal {12 / 16}")

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2025moegeometry`; its earlier text on sampling and selection: {cite}`su2024cr`. Standard layers:
# {cite}`jiang2024mixtral`, {cite}`deepseek2024v3`. Routers and gradients: {cite}`liu2023sparsemixer`. Balance: {cite}`wang2024lossfree`.
