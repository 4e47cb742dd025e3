# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # BERT-whitening with hyper-parameters: there is always one that suits you
#
# [当BERT-whitening引入超参数:总有一款适合你](https://kexue.fm/archives/9079) · 2022-05-18 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/representation/bert-whitening.ipynb)
#
# **The point.** Whitening makes the mean of all sentence vectors zero and their covariance the identity. It lifts raw language-model vectors and harms
# those trained for similarity, so the post adds two knobs: $\beta$, how much of the mean goes, and $\gamma$, how much of the spectrum is flattened. With both
# at 0 only a rotation is left, which a cut to a third of the coordinates barely notices. Here both regimes show up *inside one encoder*: on the STS benchmark whitening
# gains 7 to 16 points in the layers of all-MiniLM-L6-v2 below the top and loses 2 at the top. And two exact facts explain much of the rest: with $\gamma=1$ the knob
# $\beta$ moves a single coordinate, and a LayerNorm at the end makes the covariance singular.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, minilm, similarity
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("bert-whitening")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of changes in points of Spearman correlation against unchanged vectors. Left, the post's table for five Chinese test sets: full whitening to 256 coordinates raises BERT on four of five sets by up to eight points and lowers SimBERT on three by up to nine, the rotation to 256 stays within about one point of zero. Right, seven layers of MiniLM on the STS benchmark with confidence intervals: whitening gains seven to sixteen points in layers zero to five and loses two in layer six, the rotation to 128 coordinates stays within about two points of zero."}}
SETS = ("ATEC", "BQ", "LCQMC", "PAWSX", "STS-B")
POST = {  # Spearman x 100, [raw, transformed with k = 768, with k = 256], as printed in the post
    ("BERT", 1): [(24.51, 27.00, 27.91), (38.81, 32.29, 37.67), (64.75, 64.75, 65.65), (15.12, 17.80, 15.34), (61.66, 69.45, 69.37)],
    ("BERT", 0): [(24.51, 24.51, 24.59), (38.81, 38.81, 38.99), (64.75, 64.75, 63.45), (15.12, 15.12, 14.59), (61.66, 61.66, 62.30)],
    ("SimBERT", 1): [(38.50, 23.64, 30.79), (48.54, 31.78, 40.01), (76.23, 75.05, 74.50), (15.10, 18.49, 15.64), (74.14, 73.37, 75.29)],
    ("SimBERT", 0): [(38.50, 38.50, 38.81), (48.54, 48.54, 48.66), (76.23, 76.23, 76.22), (15.10, 15.10, 14.88), (74.14, 74.14, 74.46)],
}
LAYERS = np.arange(7)
first_look = nb.recorded("E1")
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.7))
for model, shift, marker in (("BERT", 0.12, "o"), ("SimBERT", -0.12, "s")):
    for setting, color in ((1, ORANGE), (0, BLUE)):
        change = [c - a for a, _, c in POST[model, setting]]
        name = f"{model}, {'whitened' if setting else 'rotated only'}"
        left.plot(change, np.arange(5)[::-1] + shift, marker, color=color, label=name, mfc=color if model == "BERT" else "white")
left.axvline(0, color=GREY, lw=1)
left.set(yticks=range(5), yticklabels=SETS[::-1], xlabel="change against raw, points", ylim=(-0.5, 6.4))
left.legend(loc="upper left", fontsize=7.5, ncols=2)
left.set_title("The post: 768 → 256 coordinates", fontsize=10)
for i, (name, color, marker) in enumerate((("whitened", ORANGE, "o"), ("whitened, k = 128", RED, "^"), ("rotated, k = 128", BLUE, "s"))):
    value, low, high = np.array([row[name] for row in first_look.result["contrasts"]]).T
    change = value - np.array(first_look.result["raw"])[:, 0]
    at = LAYERS + 0.13 * (i - 1)
    right.errorbar(at, change, [change - low, high - change], fmt=marker, color=color, ms=5, lw=1.2, label=name)
right.axhline(0, color=GREY, lw=1)
right.set(xlabel="layer of MiniLM (6 is trained for similarity)", ylabel="change against raw, points", ylim=(-5, 25))
right.legend(fontsize=8, loc="upper right")
right.set_title("Here: STS-B test, 95% intervals (recorded)", fontsize=10)
figure.suptitle(
    "Whitening helps raw vectors and harms tuned ones; a rotation is nearly free", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# Average the token vectors of a sentence in a pretrained language model, compare sentences by the cosine, and the result is poor. The vectors lie in a narrow cone: their
# mean is as long as their deviations from it, and a few directions hold most of the variance, so that the cosine hears little else. BERT-whitening {cite}`su2021whitening`
# removes both with one linear map, learned from unlabelled sentences, and cuts the vectors to their first $k$ coordinates on the way. It did as well as a trained flow.
#
# But what if the encoder has been trained so that its cosine *means* similarity? Then its mean and its large directions carry what was learned, and the map destroys it.
# The post {cite}`su2022whitening` turns the map into a family with plain whitening at one end and the identity at the other, and asks which member suits which encoder.
# Read as statistics, $\gamma$ is how strongly one believes that meaning is isotropic: a prior, to be weighed against what the encoder has learned.
#
# Notation. $x_i$ is a row vector, $i=1,\dots,N$; $\mu$ the mean; $\Sigma_\beta=\frac1N\sum_i(x_i-\beta\mu)^\top(x_i-\beta\mu)=U\Lambda U^\top$ with eigenvalues
# $\lambda_1\ge\dots\ge\lambda_d\ge0$ the second moment about $\beta\mu$; $c=1-\beta$. The family:
#
# $$\tilde x=(x-\beta\mu)\,U\,\Lambda^{-\gamma/2},\qquad\text{of which the first }k\text{ coordinates are kept.}$$
#
# A score is 100 times Spearman's correlation between the cosines of pairs and what people say about them. The spectrum returns in `effective-rank`, the geometry of embeddings
# in `shared-embedding`; {doc}`../attention/attention-scale` has cosines of random vectors.
#
# ## The algorithm
#
# Three lines. Eigenvalues at the level of rounding are dropped: why that is not pedantry is D9.


# %%
def fit(X, beta):
    """Mean (d,), eigenvalues (d,) in descending order and eigenvectors (d, d) of the second moment about beta mu, of rows X (N, d)."""
    mu = X.mean(0)
    Z = X - beta * mu
    lam, U = torch.linalg.eigh(Z.T @ Z / len(Z))
    return mu, lam.flip(0), U.flip(1)


def spread(lam, gamma):
    """lam^(-gamma/2) (d,), and 0 where lam is rounding: below a billionth of the largest."""
    real = lam > 1e-9 * lam[0]
    return torch.where(real, lam.clamp_min(lam[0] * 1e-12) ** (-gamma / 2), 0.0)


def transform(x, mu, lam, U, beta, gamma, k):
    """The k whitened coordinates (..., k) of rows x (..., d)."""
    return ((x - beta * mu) @ U * spread(lam, gamma))[..., :k]


# %% [markdown]
# ## Both ends of the family
#
# **D1.** With $\beta=\gamma=1$ and $W=U\Lambda^{-1/2}$ the second moment of the new vectors is $W^\top\Sigma W=I$, and $WW^\top=\Sigma^{-1}$: a cosine of whitened vectors is a
# cosine in the Mahalanobis inner product $u\Sigma^{-1}v^\top$. Nothing else about $U$ matters, neither its signs nor its order.

# %% tags=["hide-input"]
t, phi = sp.symbols("theta phi", real=True)
l1, l2 = sp.symbols("lambda1 lambda2", positive=True)
beta = sp.Symbol("beta", real=True)
turn = lambda a: sp.Matrix([[sp.cos(a), -sp.sin(a)], [sp.sin(a), sp.cos(a)]])
Sigma2 = turn(t) * sp.diag(l1, l2) * turn(t).T
W2 = turn(t) * sp.diag(l1 ** sp.Rational(-1, 2), l2 ** sp.Rational(-1, 2))


def gauss(*shape, seed=0):
    """Standard normal float64 numbers, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(T):
    """Cosines of all pairs of rows (N, k): (N, N)."""
    T = F.normalize(T)
    return T @ T.T


toy = gauss(300, 8) * torch.linspace(3, 0.2, 8) @ torch.linalg.qr(gauss(8, 8, seed=1))[0] + 2 * gauss(8, seed=2)
second_moment = lambda T: T.T @ T / len(T)
largest = lambda M: float(M.abs().max())
of_toy = lambda b, gam, k=8: transform(toy, *fit(toy, b), b, gam, k)
nb.derivation(
    "D1",
    "β = γ = 1 whitens: with W = UΛ^(−1/2), WᵀΣW = I and WWᵀ = Σ⁻¹; for any β and γ the second moment becomes Λ^(1−γ).",
    sym.identity("WᵀΣW, 2 × 2", W2.T * Sigma2 * W2, sp.eye(2)),
    sym.identity("WWᵀΣ, 2 × 2", W2 * W2.T * Sigma2, sp.eye(2)),
    ledger.close(
        "300 × 8, largest entry of second moment − I",
        largest(second_moment(of_toy(1, 1)) - torch.eye(8)),
        0,
        abs=1e-10,
        digits=1,
        machine=True,
    ),
    ledger.close("and largest mean", largest(of_toy(1, 1).mean(0)), 0, abs=1e-10, digits=1, machine=True),
    ledger.close(
        "β = 0.3, γ = 0.4: largest entry of second moment − diag λ^0.6",
        largest(second_moment(of_toy(0.3, 0.4)) - torch.diag(fit(toy, 0.3)[1] ** 0.6)),
        0,
        abs=1e-10,
        digits=1,
        machine=True,
    ),
)

# %% [markdown]
# **D2.** The knob $\beta$ changes the second moment by a matrix of rank one. With $x-\beta\mu=(x-\mu)+c\mu$ the cross terms have mean zero:
#
# $$\Sigma_\beta=\Sigma_1+(1-\beta)^2\mu^\top\mu .$$

# %% tags=["hide-input"]
rows = sp.Matrix(3, 2, sp.symbols("x1:7", real=True))


def mean_of(X):
    return sp.ones(1, X.rows) * X / X.rows


def moment(X, b):
    """The second moment about b times the mean, from its definition."""
    Z = X - b * sp.ones(X.rows, 1) * mean_of(X)
    return Z.T * Z / X.rows


nb.derivation(
    "D2",
    "Σ_β = Σ₁ + (1−β)² μᵀμ.",
    sym.identity(
        "three symbolic rows in the plane", moment(rows, beta), moment(rows, 1) + (1 - beta) ** 2 * mean_of(rows).T * mean_of(rows)
    ),
)

# %% [markdown]
# **D3.** With $\beta=\gamma=0$ the map is the rotation $x\mapsto xU$. Inner products, and so cosines, do not change as long as $k=d$.

# %% tags=["hide-input"]
x, y = sp.Matrix([sp.symbols("x1:3", real=True)]), sp.Matrix([sp.symbols("y1:3", real=True)])
raw_gram = gram(toy)
moved = {setting: largest(gram(of_toy(*setting)) - raw_gram) for setting in ((0, 0), (0, 0.1), (0.1, 0))}
nb.derivation(
    "D3",
    "β = γ = 0, k = d: cosines are unchanged; not so for γ > 0 or β > 0.",
    sym.identity("⟨xU, yU⟩ in the plane", (x * turn(t) * (y * turn(t)).T)[0], (x * y.T)[0]),
    ledger.close("300 × 8: largest change of a cosine at β = γ = 0", moved[0, 0], 0, abs=1e-12, digits=1, machine=True),
    ledger.more("at γ = 0.1", moved[0, 0.1], 0.01, digits=2),
    ledger.more("at β = 0.1", moved[0.1, 0], 0.01, digits=2),
)

# %% [markdown]
# **D4: what the cut costs.** At $\gamma=0$ keeping $k$ coordinates is an (uncentred, for $\beta=0$) PCA. By Eckart and Young no other subspace of dimension $k$ leaves less:
#
# $$\frac1N\sum_i\lVert(x_i-\beta\mu)U_{[:,k:]}\rVert^2=\sum_{j>k}\lambda_j,\qquad
# \bigl|\langle x,y\rangle-\langle x_{[:k]},y_{[:k]}\rangle\bigr|\le\lVert x_\perp\rVert\lVert y_\perp\rVert ,$$
#
# with $x_\perp$ the coordinates cut off. The free lunch of the post is this line: the eigenvalues of sentence vectors fall fast.

# %% tags=["hide-input"]
v = sp.Matrix([[sp.cos(phi), sp.sin(phi)]])
kept, cut = of_toy(0.4, 0)[:, :3], of_toy(0.4, 0)[:, 3:]
centred_toy = toy - 0.4 * toy.mean(0)
left_by = lambda Q: float((centred_toy.square().sum() - (centred_toy @ Q).square().sum()) / len(toy))
others = [left_by(torch.linalg.qr(gauss(8, 3, seed=s))[0]) for s in range(200)]
lost_product = (centred_toy @ centred_toy.T - kept @ kept.T).abs() / (cut.norm(dim=1)[:, None] * cut.norm(dim=1))
tail = float(fit(toy, 0.4)[1][3:].sum())
nb.derivation(
    "D4",
    "At γ = 0 the mean squared loss of the cut is the eigenvalue tail, the smallest possible; an inner product loses at most ‖x_⊥‖‖y_⊥‖.",
    sym.identity("2 × 2: what direction φ leaves, over λ₂", Sigma2.trace() - (v * Sigma2 * v.T)[0] - l2, (l1 - l2) * sp.sin(t - phi) ** 2),
    ledger.close("300 × 8, k = 3, β = 0.4: mean squared loss", float(cut.square().sum(1).mean()), tail, rel=1e-9),
    ledger.more("least loss of 200 random subspaces", min(others), tail, digits=4),
    ledger.less("largest loss of an inner product over the bound, all pairs", float(lost_product.max()), 1 + 1e-9, digits=6),
)

# %% [markdown]
# ## What each knob does
#
# **D5.** The post describes two parts: a rotation that makes the components "as independent as possible", and a rescaling. The coordinates of $(x-\beta\mu)U$ have *second moment*
# $\Lambda$, but their *covariance* is
#
# $$U^\top\Sigma_1U=\Lambda-(1-\beta)^2(\mu U)^\top(\mu U),$$
#
# which is diagonal only for $\beta=1$ (or if $\mu$ is an eigenvector). So for $\beta=0$ the components remain correlated.
#
# The second part turns the spectrum into $\Lambda^{1-\gamma}$. Take $q_j\propto\lambda_j^{1-\gamma}$ as probabilities. Their entropy $H$ obeys
#
# $$\frac{dH}{d\gamma}=(1-\gamma)\operatorname{Var}_q(\log\lambda)\ge0\quad(\gamma\le1),$$
#
# so the effective rank $e^H$ {cite}`roy2007effective` grows steadily from that of $\Lambda$ at $\gamma=0$ to $d$ at $\gamma=1$. That is what "isotropy prior" means in numbers.

# %% tags=["hide-input"]
Z, s = sp.Function("Z"), sp.Symbol("s", positive=True)  # Z(s) = sum of lambda_j^s with s = 1 - gamma, so that H = log Z - s Z'/Z
spectrum3 = [mpmath.mpf(v) for v in ("2.5", "0.7", "0.1")]


def shares(gam):
    powers = [v ** (1 - gam) for v in spectrum3]
    return [p / sum(powers) for p in powers]


def entropy_rise(gam):
    """(1 - gamma) times the variance of log lambda under q."""
    q, logs = shares(gam), [mpmath.log(v) for v in spectrum3]
    mean = sum(p * a for p, a in zip(q, logs, strict=True))
    return (1 - gam) * sum(p * (a - mean) ** 2 for p, a in zip(q, logs, strict=True))


cov_of = lambda b: torch.cov(of_toy(b, 0).T, correction=0)
off = lambda C: largest(C - torch.diag(C.diagonal()))
nb.derivation(
    "D5",
    "The coordinates (x−βμ)U have covariance Λ − (1−β)²(μU)ᵀ(μU), diagonal only at β = 1; and dH/dγ = (1−γ) Var_q(log λ).",
    sym.identity(
        "three rows in the plane, turned by θ: their covariance",
        moment((rows - beta * sp.ones(3, 1) * mean_of(rows)) * turn(t), 1),
        turn(t).T * moment(rows, beta) * turn(t) - (1 - beta) ** 2 * (mean_of(rows) * turn(t)).T * (mean_of(rows) * turn(t)),
    ),
    ledger.more("300 × 8: largest covariance of two coordinates, β = 0", off(cov_of(0)), 0.05, digits=2),
    ledger.close("the same, β = 1", off(cov_of(1)), 0, abs=1e-12, digits=1, machine=True),
    sym.identity(
        "dH/ds for H = log Z − s Z′/Z, where Z″/Z − (Z′/Z)² is the variance",
        sp.Derivative(sp.log(Z(s)) - s * Z(s).diff(s) / Z(s), s),
        -s * (Z(s).diff(s, 2) / Z(s) - (Z(s).diff(s) / Z(s)) ** 2),
    ),
    sym.numeric(
        "dH/dγ from −Σ q log q, λ = 2.5, 0.7, 0.1",
        lambda gam: mpmath.diff(lambda at: -sum(p * mpmath.log(p) for p in shares(at)), gam),
        entropy_rise,
        at=[(mpmath.mpf(j) / 8,) for j in (0, 1, 2, 3, 4, 6, 10)],
        digits=12,
    ),
)

# %% [markdown]
# **D6: at $\gamma=1$ the knob $\beta$ moves one coordinate out of $d$.** By Sherman and Morrison, with $u=x-\mu$, $v=y-\mu$, $m^2=\mu\Sigma_1^{-1}\mu^\top$,
# $a=u\Sigma_1^{-1}\mu^\top$ and $b=v\Sigma_1^{-1}\mu^\top$,
#
# $$(x-\beta\mu)\Sigma_\beta^{-1}(y-\beta\mu)^\top=u\Sigma_1^{-1}v^\top+1-\frac{(1-ca)(1-cb)}{1+c^2m^2}.$$
#
# It looks better in whitened coordinates. Let $s=a/m$ be the coordinate of $x$ along the whitened mean $\mu\Sigma_1^{-1/2}/m$. Then the whole effect of $\beta$ is
#
# $$s\;\longmapsto\;\frac{s+cm}{\sqrt{1+c^2m^2}},$$
#
# all other coordinates stay as they are. In a narrow cone $m$ is large (70 to 150 in the lower layers below): for $\beta=0$ that one coordinate becomes the constant 1. So "whitening without
# centring" *is* whitening, less one coordinate, with $1/d$ added to every cosine.

# %% tags=["hide-input"]
points = sp.Matrix([[1, 2, 0], [3, -1, 2], [0, 1, 1], [2, 2, -3], [-1, 4, 1]])
mu5, inverse1, inverse_b = mean_of(points), moment(points, 1).inv(), moment(points, beta).inv()
c, m_sq = 1 - beta, (mu5 * inverse1 * mu5.T)[0]
along = lambda i: ((points[i, :] - mu5) * inverse1 * mu5.T)[0]
whitened_product = lambda i, j: ((points[i, :] - beta * mu5) * inverse_b * (points[j, :] - beta * mu5).T)[0]
centred_product = lambda i, j: ((points[i, :] - mu5) * inverse1 * (points[j, :] - mu5).T)[0]
s1, s2, m = sp.symbols("s1 s2 m", positive=True)
cs = sp.Symbol("c", real=True)
moved_coordinate = lambda s: (s + cs * m) / sp.sqrt(1 + cs**2 * m**2)
nb.derivation(
    "D6",
    "At γ = 1, k = d, β acts on one whitened coordinate: s → (s + cm)/√(1 + c²m²); the mean squared norm stays d.",
    *[
        sym.identity(
            f"Sherman-Morrison, rows {i} and {j} of five rational ones",
            whitened_product(i, j),
            centred_product(i, j) + 1 - (1 - c * along(i)) * (1 - c * along(j)) / (1 + c**2 * m_sq),
        )
        for i, j in ((0, 1), (2, 2))
    ],
    sym.identity(
        "the correction is that of one coordinate",
        s1 * s2 + 1 - (1 - cs * m * s1) * (1 - cs * m * s2) / (1 + cs**2 * m**2),
        moved_coordinate(s1) * moved_coordinate(s2),
    ),
    sym.identity("mean squared norm", sum(whitened_product(i, i) for i in range(5)) / 5, sp.Integer(3)),
    sym.limit("a long mean makes it the constant 1", moved_coordinate(s1).subs(cs, 1), m, sp.oo, sp.Integer(1)),
)

# %% [markdown]
# **D7: who else could have undone it.** At $\beta=\gamma=1$ and $k=d$ the cosine is Mahalanobis', so no invertible map $x\mapsto xA+b$ in front of it changes anything. Whitening forgets every
# linear layer that a trainer may have put at the end: a first reason to expect harm. For $\gamma<1$ only rotations and scalings pass unnoticed (and shifts if $\beta=1$).

# %% tags=["hide-input"]
A3, b3 = sp.Matrix([[2, 1, 0], [0, 1, -3], [1, 0, 1]]), sp.Matrix([[5, -7, 2]])


def cosine_squared(X, i, j):
    """Signed square of the whitened cosine of two rows, exact."""
    P, u = moment(X, 1).inv(), lambda i: X[i, :] - mean_of(X)
    dot = (u(i) * P * u(j).T)[0]
    return sp.sign(dot) * dot**2 / ((u(i) * P * u(i).T)[0] * (u(j) * P * u(j).T)[0])


A8, b8 = torch.eye(8, dtype=torch.float64) + 0.5 * gauss(8, 8, seed=3), gauss(8, seed=4)
Q8 = torch.linalg.qr(gauss(8, 8, seed=5))[0]
again = lambda X, b, gam: gram(transform(X, *fit(X, b), b, gam, 8))
change = lambda X, b, gam: largest(again(X, b, gam) - again(toy, b, gam))
pairs5 = [(i, j) for i in range(5) for j in range(i)]
nb.derivation(
    "D7",
    "At β = γ = 1, k = d, whitened cosines are invariant under any invertible x → xA + b; at γ < 1 under rotations and scalings only (and shifts, if β = 1).",
    sym.enumeration(
        "exact: ten pairs of five rows, integer A",
        pairs5,
        lambda p: cosine_squared(points * A3 + sp.ones(5, 1) * b3, *p),
        lambda p: cosine_squared(points, *p),
    ),
    ledger.close("300 × 8, γ = 1: largest change under A and b", change(toy @ A8 + b8, 1, 1), 0, abs=1e-9, digits=1, machine=True),
    ledger.close("β = 1, γ = 0.5: under 3Q and b", change(3 * toy @ Q8 + b8, 1, 0.5), 0, abs=1e-9, digits=1, machine=True),
    ledger.more("β = 1, γ = 0.5: under A", change(toy @ A8, 1, 0.5), 0.05, digits=2),
    ledger.more("β = 0, γ = 0.5: under a shift", change(toy + b8, 0, 0.5), 0.05, digits=2),
)

# %% [markdown]
# ## Two ways in which "full" whitening goes wrong
#
# **D8: too few sentences.** Whiten $N\le d+1$ vectors in general position on themselves and all cosines are equal: $-\frac1{N-1}$. With the thin SVD $PSQ^\top$ of the centred rows the whitened Gram matrix is
# $N\,PP^\top$, $N$ times a projector; for $N\le d+1$ it projects on everything that is orthogonal to the constant vector. All that was learned is gone.
#
# It does not stop there. For any $N$ the Gram matrix is $N$ times a projector $H$ of rank $d$, and $H^2=H$ says, exactly,
#
# $$\sum_j\langle\tilde x_i,\tilde x_j\rangle^2=N\lVert\tilde x_i\rVert^2 .$$
#
# With squared norms near $d$ the root mean square of the cosines is close to $\sqrt{(1-d/N)/d}$: all of them shrink, those of similar sentences too, until $N\gg d$.


# %%
def self_whitened(X, d=None):
    """Whitened on themselves with beta = gamma = 1: (N, d)."""
    return transform(X, *fit(X, 1), 1, 1, d)


def off_diagonal(T):
    G = gram(T)
    return G[~torch.eye(len(G), dtype=torch.bool)]


def exact_cosines(N):
    """The distinct whitened cosines of N integer points in N - 1 dimensions."""
    X = sp.Matrix(N, N - 1, lambda i, j: (i + 1) ** (j + 1))
    P, Z = moment(X, 1).inv(), X - sp.ones(N, 1) * mean_of(X)
    G = Z * P * Z.T
    return tuple(sorted({sp.nsimplify(G[i, j] / sp.sqrt(G[i, i] * G[j, j])) for i in range(N) for j in range(i)}))


# %% tags=["hide-input"]
collapse = {(N, d): off_diagonal(self_whitened(gauss(N, d, seed=N))) for N, d in ((4, 5), (6, 5), (10, 40))}
bigger = self_whitened(gauss(90, 40, seed=7))
squares = ((bigger @ bigger.T).square().sum(1) / (90 * bigger.square().sum(1)) - 1).abs()
rms_cosine = {N: float(off_diagonal(self_whitened(gauss(N, 200, seed=N))).square().mean().sqrt()) for N in (220, 400, 1600)}
nb.derivation(
    "D8",
    "Whitening N ≤ d + 1 points on themselves makes all cosines −1/(N−1); for any N, Σ_j⟨x̃_i, x̃_j⟩² = N‖x̃_i‖², so cosines have RMS near √((1 − d/N)/d).",
    sym.enumeration("exact, N = d + 1", [2, 3, 4, 5], exact_cosines, lambda N: (-sp.Rational(1, N - 1),)),
    *[
        ledger.close(f"N = {N}, d = {d}: largest |cosine + 1/(N−1)|", largest(G + 1 / (N - 1)), 0, abs=1e-12, digits=1, machine=True)
        for (N, d), G in collapse.items()
    ],
    ledger.close("N = 90, d = 40: worst relative error of the sum rule", float(squares.max()), 0, abs=1e-10, digits=1, machine=True),
    *[
        ledger.close(f"normal rows, d = 200, N = {N}: RMS cosine", seen, math.sqrt((1 - 200 / N) / 200), rel=0.05, digits=3)
        for N, seen in rms_cosine.items()
    ],
)

# %% [markdown]
# **D9: LayerNorm makes $\Sigma$ singular.** A LayerNorm ends in $y=w\odot z+b$ with $\sum_jz_j=0$. Therefore
#
# $$\sum_j\frac{y_j}{w_j}=\sum_j\frac{b_j}{w_j}$$
#
# for *every* token, whatever it says, and for every average of tokens. The direction $1/w$ has no variance at all: $\operatorname{rank}\Sigma_1\le d-1$. BERT is a post-norm network: every layer ends like this. Full
# whitening in float32 divides the rounding noise of that direction by its own size and makes it as loud as all others.
#
# A second consequence needs D6. Along $1/w$ the mean of the vectors is not zero and nothing varies, so for $\beta\ne1$ this coordinate of $x-\beta\mu$ is a constant, which whitening normalises to $\pm1$: then
# *all* $\beta\ne1$ give the same cosines, $(\langle\tilde x,\tilde y\rangle+1)/\sqrt{(\lVert\tilde x\rVert^2+1)(\lVert\tilde y\rVert^2+1)}$ with $\tilde x$ the vectors of $\beta=1$. We shall see this on the real encoder.

# %% tags=["hide-input"]
token, gain, bias = (sp.symbols(f"{name}1:4", real=True) for name in ("h", "w", "b"))
centre = sum(token) / 3
deviation = sp.sqrt(sum((h - centre) ** 2 for h in token) / 3)
normed = [w * (h - centre) / deviation + b for h, w, b in zip(token, gain, bias, strict=True)]
invariant = sum(y / w for y, w in zip(normed, gain, strict=True))
nb.derivation(
    "D9",
    "The output of a LayerNorm with gain w and bias b satisfies Σ y_j/w_j = Σ b_j/w_j for every token, so the covariance of mean-pooled vectors is singular.",
    sym.identity("d = 3, any token", invariant, sum(b / w for b, w in zip(bias, gain, strict=True))),
)

# %% [markdown]
# ## Experiments
#
# **The encoder** is all-MiniLM-L6-v2 {cite}`reimers2019sbert,wang2020minilm` with its real weights, in plain torch (`kexue_nb.minilm`): six layers, $d=384$. The vector of a text in layer $l$ is the mean over all
# its tokens after that layer; layer 0 is the embedding's output. Only layer 6 was trained to make its cosine mean something. The lower layers were left to themselves, and will play the part of raw BERT.
#
# **The data.** Live: WordSim-353 {cite}`finkelstein2002wordsim` and SimLex-999 {cite}`hill2015simlex`, pairs of words with human scores, which ship in gensim's wheel. Recorded: the STS benchmark {cite}`cer2017sts`. This book does not contain it. Name a folder with
# its `sts-dev.csv` and `sts-test.csv` in the environment variable `KEXUE_STSB`, or leave it to `kexue_nb.similarity.sts_benchmark` to fetch it by name. Nothing here is trained and there is no learning rate; uncertainty comes from the pairs. So every
# difference carries a 95% interval from a *paired* bootstrap: draw the pairs anew with replacement, score both methods on the same draw.
#
# Scores first. Cosines of one coordinate are $\pm1$ to rounding, hence the shared ranks and the ten decimals. For all $k$ at once, three running sums suffice.


# %%
def ranks(x):
    """Ranks over the last axis, ties shared, centred, of length 1 (0 where all are equal). Ten decimals count."""
    r = scipy.stats.rankdata(np.round(x, 10), axis=-1)
    r = r - r.mean(-1, keepdims=True)
    length = np.linalg.norm(r, axis=-1, keepdims=True)
    return np.divide(r, length, out=np.zeros_like(r), where=length > 1e-9)


def spearman(cosines, human):
    """100 times Spearman's correlation of cosines (..., P) with human scores (P,), shape (...)."""
    return 100 * ranks(cosines) @ ranks(human)


def cosines_of_all_k(x, y):
    """Cosines of the first k coordinates of rows x, y (P, d), for k = 1..d: (d, P)."""
    dot, xx, yy = ((p * q).cumsum(1) for p, q in ((x, y), (x, x), (y, y)))
    return (dot / (xx * yy).sqrt().clamp_min(1e-300)).T.cpu().numpy()


def bootstrap(cosines, human, draws, seed=0):
    """Spearman's correlation of every row of cosines (M, P) on the same ``draws`` resamples of the pairs: (M, draws)."""
    pick = np.random.default_rng(seed).integers(len(human), size=(draws, len(human)))
    h = ranks(human[pick])
    return 100 * np.stack([(ranks(c[pick]) * h).sum(-1) for c in cosines])


# %%
def load(name):
    """The pairs called wordsim353, simlex999, stsb-dev or stsb-test."""
    return similarity.sts_benchmark(name.removeprefix("stsb-")) if name.startswith("stsb-") else similarity.word_pairs(name)


def common_words(n):
    """The first n words of three letters or more in the encoder's vocabulary, which is sorted by frequency."""
    return [w for w in minilm.vocabulary() if w.isascii() and w.isalpha() and len(w) >= 3][:n]


def sample_of(words, *pairs):
    """What the transform is fitted to: that many common words, or, with 0, the distinct texts of the pairs."""
    return common_words(words) if words else list(dict.fromkeys(text for p in pairs for text in p.texts))


KNOWN = {}


def vectors(texts, device, max_length=64):
    """Mean-pooled vectors of every layer, (7, N, 384) in float64; what was encoded once is kept."""
    new = [t for t in dict.fromkeys(texts) if (t, max_length) not in KNOWN]
    if new:
        fresh = minilm.embed(new, max_length=max_length, batch=128).transpose(0, 1)  # (N, 7, 384)
        KNOWN.update({(t, max_length): v for t, v in zip(new, fresh, strict=True)})
    return torch.stack([KNOWN[t, max_length] for t in texts], 1).to(device, torch.float64)


# %%
def sweep(X, x, y, human, betas, gammas):
    """Scores for every beta, gamma and k, (betas, gammas, d), of pairs x, y (P, d); the transform is fitted to the rows X."""
    found = []
    for beta in betas:
        mu, lam, U = fit(X, beta)
        both = [((z - beta * mu) @ U, z) for z in (x, y)]
        found.append([spearman(cosines_of_all_k(*(z * spread(lam, gamma) for z, _ in both)), human) for gamma in gammas])
    return np.array(found)


def cosines(X, x, y, beta, gamma, k):
    """Cosines (P,) of the pairs x, y after the transform fitted to X."""
    model = fit(X, beta)
    return F.cosine_similarity(*(transform(z, *model, beta, gamma, k) for z in (x, y))).cpu().numpy()


SETTINGS = {"whitened": (1, 1, 384), "whitened, k = 128": (1, 1, 128), "rotated, k = 128": (0, 0, 128), "centred": (1, 0, 384)}


# %% [markdown]
# The study of one pair of sets: sweep both, choose on the first, and compare on the second. The other experiments (baselines, sample sizes, domains, news) follow the same pattern; their code is folded.


# %% tags=["hide-input"]
def study(device, tune, test, words, betas, gammas, ks, draws):
    """All layers: sweep both sets, tune on ``tune``, and on ``test`` compare settings with raw vectors (95% bootstrap intervals).

    The transform is fitted to that many common ``words``, or, with 0, to the distinct texts of both sets. Scores to two decimals.
    """
    pairs = {name: load(name) for name in (tune, test)}
    human = {name: p.score.numpy() for name, p in pairs.items()}
    X = vectors(sample_of(words, *pairs.values()), device)
    sides = {name: [vectors(texts, device) for texts in (p.left, p.right)] for name, p in pairs.items()}
    out = {"rows": X.shape[1], "raw": [], "curves": [], "grid": [], "chosen": [], "contrasts": [], "spectrum": [], "mean_share": []}
    for layer in range(len(X)):
        scores = {name: sweep(X[layer], *(s[layer] for s in sides[name]), human[name], betas, gammas) for name in pairs}
        b, g, k = np.unravel_index(scores[tune].argmax(), scores[tune].shape)
        chosen = {"beta": betas[b], "gamma": gammas[g], "k": int(k) + 1, "tune": scores[tune][b, g, k], "best": scores[test].max()}
        x, y = (s[layer] for s in sides[test])
        rows = [F.cosine_similarity(x, y).cpu().numpy()]
        for setting in (*SETTINGS.values(), (betas[b], gammas[g], int(k) + 1)):
            rows.append(cosines(X[layer], x, y, *setting))
        point, spun = spearman(np.array(rows), human[test]), bootstrap(rows, human[test], draws)
        low, high = np.quantile(spun - spun[:1], [0.025, 0.975], axis=1)
        corners = [(0, 0), (-1, 0), (-1, len(gammas) // 2), (-1, -1)]
        mu, lam, _ = fit(X[layer], 1)
        out["raw"].append([point[0], *np.quantile(spun[0], [0.025, 0.975])])
        out["curves"].append([scores[test][i, j] for i, j in corners])
        out["grid"].append(scores[test][..., [k - 1 for k in ks]])
        out["chosen"].append(chosen)
        out["contrasts"].append({name: [point[i], low[i], high[i]] for i, name in enumerate((*SETTINGS, "tuned"), 1)})
        out["spectrum"].append(lam / lam.sum())
        out["mean_share"].append(mu @ mu / (mu @ mu + lam.sum()))
    return rounded(out)


def rounded(value):
    """Arrays as lists; scores to two decimals, what is below 1 to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value if isinstance(value, int | str) else float(f"{value:.4g}") if abs(value) < 1 else round(value, 2)


# %%
TOP, SOFT = (0, 1, 2, 3, 5, 10, 20), (0.001, 0.01, 0.03, 0.1, 0.3, 1)


def baselines(device, test, words, ks, seeds):
    """Other ways to k coordinates, and softer ways to whiten, in every layer: scores on ``test``; fitted as in study."""
    pairs = load(test)
    human = pairs.score.numpy()
    X = vectors(common_words(words) if words else sample_of(0, load("stsb-dev"), pairs), device)
    x, y = (vectors(texts, device) for texts in (pairs.left, pairs.right))
    out = {"random": [], "first": [], "rotated": [], "top_removed": [], "soft": []}
    for layer in range(len(X)):
        a, b = x[layer], y[layer]
        mu, lam, U = fit(X[layer], 0)
        draws = [
            torch.randn(a.shape[1], max(ks), generator=torch.Generator().manual_seed(s), dtype=a.dtype).to(device) for s in range(seeds)
        ]
        score = lambda p, q: spearman(cosines_of_all_k(p, q), human)
        out["random"].append([score(a @ R, b @ R)[[k - 1 for k in ks]] for R in draws])
        out["first"].append(score(a, b)[[k - 1 for k in ks]])
        out["rotated"].append(score(a @ U, b @ U)[[k - 1 for k in ks]])
        mu, lam, U = fit(X[layer], 1)
        a, b = (a - mu) @ U, (b - mu) @ U
        out["top_removed"].append([score(a[:, r:], b[:, r:])[-1] for r in TOP])
        out["soft"].append([score(*(z * (lam + e * lam[0]).clamp_min(1e-6 * lam[0]).rsqrt() for z in (a, b)))[-1] for e in SOFT])
    return rounded(out)


# %%
def sample_sizes(device, test, layers, sizes, seeds, pool):
    """Scores on ``test`` of whitened vectors, k = 384 and 128, fitted to random words: (layers, sizes, seeds, 2); and fitted to its own words."""
    pairs = load(test)
    human, X = pairs.score.numpy(), vectors(common_words(pool), device)
    x, y, own = (vectors(texts, device) for texts in (pairs.left, pairs.right, pairs.texts))
    at = lambda X, layer: sweep(X[layer], x[layer], y[layer], human, [1.0], [1.0])[0, 0, [383, 127]]
    picks = [[np.random.default_rng(s).permutation(pool)[:n] for s in range(seeds)] for n in sizes]
    scores = [[[at(X[:, pick], layer) for pick in row] for row in picks] for layer in layers]
    return rounded({"scores": np.array(scores), "own": np.array([at(own, layer) for layer in layers]), "own_rows": own.shape[1]})


# %%
DOMAIN_SETTINGS = ("whitened", "whitened, k = 128", "rotated, k = 128")


def domains(device, test, words, lines, layers, draws):
    """Whitening fitted to other texts: the evaluated ones, common ``words``, ``lines`` of Shakespeare. [score, low, high] against raw."""
    pairs = load(test)
    human = pairs.score.numpy()
    other = [line.strip() for line in data.shakespeare().split("\n") if len(line.split()) >= 6]
    own = sample_of(0, load("stsb-dev"), pairs) if test == "stsb-test" else pairs.texts
    samples = {"evaluated": own, "words": common_words(words), "Shakespeare": other[:: len(other) // lines][:lines]}
    x, y = (vectors(texts, device) for texts in (pairs.left, pairs.right))
    out = {"raw": [], **{name: [] for name in samples}}
    for layer in layers:
        rows = [F.cosine_similarity(x[layer], y[layer]).cpu().numpy()]
        for sample in samples.values():
            X = vectors(sample, device)[layer]
            rows += [cosines(X, x[layer], y[layer], *SETTINGS[s]) for s in DOMAIN_SETTINGS]
        point, spun = spearman(np.array(rows), human), bootstrap(rows, human, draws)
        low, high = np.quantile(spun - spun[:1], [0.025, 0.975], axis=1)
        out["raw"].append(point[0])
        for i, name in enumerate(samples):
            at = range(1 + i * len(DOMAIN_SETTINGS), 1 + (i + 1) * len(DOMAIN_SETTINGS))
            out[name].append([[point[j], low[j], high[j]] for j in at])
    return rounded(out)


# %% tags=["hide-input"]
def news(device, background, max_length, k, draws):
    """Lee's 50 news texts, all pairs, in every layer: scores of raw, centred, rotated and whitened vectors, fitted to these and background texts.

    With the 95% interval of the difference from raw; the pairs share texts, so that the bootstrap resamples texts. And, for
    k = 8, 16, .., up to ``k``, the scores of rotated and whitened vectors.
    """
    pairs, others = similarity.lee_news()
    texts, human, upper = pairs.texts, np.eye(50), np.triu_indices(50, 1)
    human[upper] = pairs.score
    human = np.maximum(human, human.T)
    X = vectors([*texts, *others[:background]], device, max_length)
    settings = {"centred": (1, 0, 384), "rotated": (0, 0, k), "whitened": (1, 1, k)}
    out = {"rows": X.shape[1], "raw": [], "by_k": [], **{name: [] for name in settings}}
    picks = np.random.default_rng(0).integers(50, size=(draws, 50))
    for layer in range(len(X)):
        T = [X[layer, :50], *(transform(X[layer, :50], *fit(X[layer], s[0]), *s) for s in settings.values())]
        grams = [gram(t).cpu().numpy() for t in T]
        cuts = [[gram(t[:, : 2**i]).cpu().numpy() for i in range(3, int(math.log2(k)) + 1)] for t in T[2:]]
        out["by_k"].append([[spearman(G[upper], human[upper]) for G in row] for row in cuts])
        point = [spearman(G[upper], human[upper]) for G in grams]
        spun = np.array([[spearman(G[i, j], human[i, j]) for i, j in resampled(picks)] for G in grams])
        low, high = np.quantile(spun - spun[:1], [0.025, 0.975], axis=1)
        out["raw"].append(point[0])
        for i, name in enumerate(settings, 1):
            out[name].append([point[i], low[i], high[i]])
    return rounded(out)


def resampled(picks):
    """Index pairs of resampled texts, without the pairs of a text with itself."""
    i, j = np.triu_indices(picks.shape[1], 1)
    for pick in picks:
        keep = pick[i] != pick[j]
        yield pick[i[keep]], pick[j[keep]]


# %% [markdown]
# Now run them. E1 needs the STS benchmark and is recorded; all else also runs here, at a smaller size.


# %%
betas, gammas = (list(np.linspace(0, 1, nb.at_scale(cpu=5, gpu=9, full=9))) for _ in range(2))
grid = {"betas": [0.0, 0.5, 1.0] if nb.scale == "cpu" else betas, "gammas": gammas, "ks": [16, 32, 64, 96, 128, 192, 256, 320, 384]}
words, draws = nb.at_scale(cpu=3000, gpu=6000, full=6000), nb.at_scale(cpu=500, gpu=1000, full=1000)
E2 = nb.run("E2", study, tune="simlex999", test="wordsim353", words=words, draws=draws, **grid)

# %%
E1b = nb.run(
    "E1b",
    baselines,
    test=nb.at_scale(cpu="wordsim353", gpu="wordsim353", full="stsb-test"),
    words=nb.at_scale(cpu=3000, gpu=6000, full=0),
    ks=[16, 32, 64, 128, 256],
    seeds=nb.at_scale(cpu=4, gpu=10, full=20),
)
E2b = nb.run(
    "E2b",
    sample_sizes,
    test="wordsim353",
    layers=[1, 6],
    sizes=nb.at_scale(
        cpu=[400, 800, 1600, 3000], gpu=[400, 600, 1000, 2000, 4000, 6000], full=[400, 500, 600, 800, 1200, 2000, 4000, 6000]
    ),
    seeds=nb.at_scale(cpu=3, gpu=5, full=10),
    pool=words,
)

# %%
E1c = nb.run(
    "E1c",
    domains,
    test=nb.at_scale(cpu="wordsim353", gpu="wordsim353", full="stsb-test"),
    words=words,
    lines=nb.at_scale(cpu=500, gpu=3000, full=5000),
    layers=[0, 1, 2, 3, 4, 5, 6],
    draws=draws,
)
E3 = nb.run(
    "E3",
    news,
    background=nb.at_scale(cpu=150, gpu=300, full=300),
    max_length=nb.at_scale(cpu=64, gpu=128, full=128),
    k=128,
    draws=nb.at_scale(cpu=100, gpu=500, full=1000),
)

# %%
if nb.scale == "full":
    nb.run("E1", study, tune="stsb-dev", test="stsb-test", words=0, draws=draws, **grid)
E1 = nb.recorded("E1").result

# %% [markdown]
# ### Does the code do what it says?
#
# Everything below rests on these functions. Each is compared here with something written differently: ranks with SciPy's, the sweep with one setting after the other, the vectors with the encoder's token states, whitening with scikit-learn's PCA.

# %% tags=["hide-input"]
cpu = torch.device("cpu")
toy_x, toy_y = gauss(60, 8, seed=11) + toy[:60], gauss(60, 8, seed=12) + toy[:60]
toy_human = np.round((toy_x[:, :3] * toy_y[:, :3]).sum(1).numpy(), 0)  # with ties
toy_sweep = sweep(toy, toy_x, toy_y, toy_human, [0.0, 0.5, 1.0], [0.0, 0.5, 1.0])


def by_hand(b, gam, k):
    """One score of the sweep with numpy's SVD, loops over the pairs and SciPy's Spearman."""
    X = toy.numpy()
    mu = X.mean(0)
    _, size, axes = np.linalg.svd(X - b * mu, full_matrices=False)
    W = axes.T * (size**2 / len(X)) ** (-gam / 2)
    cos = lambda p, q: p[:k] @ q[:k] / math.sqrt((p[:k] @ p[:k]) * (q[:k] @ q[:k]))
    found = [cos((p - b * mu) @ W, (q - b * mu) @ W) for p, q in zip(toy_x.numpy(), toy_y.numpy(), strict=True)]
    return 100 * scipy.stats.spearmanr(np.round(found, 10), toy_human).statistic


settings = [(i, j, k) for i in range(3) for j in range(3) for k in (1, 3, 8)]
sweep_gap = max(abs(toy_sweep[i, j, k - 1] - by_hand(i / 2, j / 2, k)) for i, j, k in settings)
cos_gap = np.abs(
    cosines(toy, toy_x, toy_y, 0.5, 1, 3) - cosines_of_all_k(*(transform(z, *fit(toy, 0.5), 0.5, 1, 8) for z in (toy_x, toy_y)))[2]
).max()
toy_cos = np.stack([cosines(toy, toy_x, toy_y, b, 0, 8) for b in (0, 0, 1)])
spun = bootstrap(toy_cos, toy_human, 4000)
singles = np.array([np.delete(np.arange(60), i) for i in range(60)])
jackknife = np.array([[spearman(row[keep], toy_human[keep]) for keep in singles] for row in toy_cos])
jack = math.sqrt(59 / 60 * ((d := jackknife[2] - jackknife[0]) - d.mean()).__pow__(2).sum())
sample_text = "A plain check, of one sentence."
with torch.no_grad():
    states = minilm.Encoder().states(torch.tensor([minilm.tokenize(sample_text)]))
    cut_states = minilm.Encoder().states(torch.tensor([[*minilm.tokenize(20 * sample_text)[:15], 102]]))  # 102 is [SEP]
pooled_gap = max(largest(s[0].mean(0) - v) for s, v in zip(states, vectors([sample_text, "another"], cpu)[:, 0], strict=True))
cut_gap = max(largest(s[0].mean(0) - v) for s, v in zip(cut_states, vectors([20 * sample_text], cpu, 16)[:, 0], strict=True))

# %% tags=["hide-input"]
from sklearn.decomposition import PCA

some_words = vectors(common_words(1000), cpu)
peer = torch.tensor(PCA(n_components=128, whiten=True, svd_solver="full").fit_transform(some_words[1].numpy()))
ours = transform(some_words[1], *fit(some_words[1], 1), 1, 1, 128)
signs = (peer * ours).sum(0).sign()
peer_gap = largest(ours * signs - peer * math.sqrt(1000 / 999))
triangle = np.array([1.0, 3.0, 3.0, 2.0, 5.0])
nb.claim(
    "X1",
    "The code agrees with other code: scikit-learn's PCA(whiten=True), SciPy's Spearman, numpy's SVD pair by pair, the encoder's states; the bootstrap with the jackknife.",
    "verified",
    holds=[
        ledger.close(
            "1,000 words, layer 1, 128 coordinates: largest gap to PCA(whiten=True), up to signs and √(N/(N−1))",
            peer_gap,
            0,
            abs=1e-9,
            digits=1,
            machine=True,
        ),
        ledger.close("27 settings of the sweep: largest gap to SVD, loops and SciPy", sweep_gap, 0, abs=1e-9, digits=1, machine=True),
        ledger.close("one setting against the sweep's running sums: largest gap", cos_gap, 0, abs=1e-12, digits=1, machine=True),
        ledger.close(
            "Spearman with ties, by SciPy",
            spearman(triangle, triangle[::-1].copy()),
            100 * scipy.stats.spearmanr(triangle, triangle[::-1]).statistic,
            rel=1e-12,
        ),
        ledger.close("vectors against the mean of the states, float32", pooled_gap, 0, abs=1e-5, digits=1, machine=True),
        ledger.close("the same for a long text cut to 16 tokens", cut_gap, 0, abs=1e-5, digits=1, machine=True),
        sym.enumeration(
            "the most common words of three letters or more",
            range(6),
            lambda i: common_words(9)[i],
            ["the", "and", "was", "for", "with", "that"].__getitem__,
        ),
        ledger.close("bootstrap: the same rows give the same draws", float(np.abs(spun[0] - spun[1]).max()), 0, abs=1e-12, digits=1),
        ledger.close(
            "standard error of a paired difference, over the jackknife's", float((spun[2] - spun[0]).std()) / jack, 1, abs=0.25, digits=2
        ),
    ],
)

# %% tags=["hide-input"]
picked = {name: load(name) for name in ("wordsim353", "simlex999")}
of_set = {name: [vectors(side, cpu) for side in (p.left, p.right)] for name, p in picked.items()}
W3000, human353 = vectors(common_words(words), cpu), picked["wordsim353"].score.numpy()


def peer_cosines(X, x, y, b, gam, k):
    """Cosines after the transform, with numpy's covariance, D2 and SciPy's eigenvectors."""
    X, x, y = (v.numpy() for v in (X, x, y))
    mu = X.mean(0)
    lam, axes = scipy.linalg.eigh(np.cov(X.T, bias=True) + (1 - b) ** 2 * np.outer(mu, mu))
    p, q = ((v - b * mu) @ (axes[:, ::-1][:, :k] * lam[::-1][:k] ** (-gam / 2)) for v in (x, y))
    return (p * q).sum(1) / np.sqrt((p * p).sum(1) * (q * q).sum(1))


def peer(cosine, name="wordsim353"):
    return 100 * scipy.stats.spearmanr(np.round(cosine, 10), picked[name].score.numpy()).statistic


def peer_score(X, layer, b, gam, k, name="wordsim353"):
    return peer(peer_cosines(X[layer], *(side[layer] for side in of_set[name]), b, gam, k), name)


def peer_interval(cosine, raw, draws):
    """The paired bootstrap with SciPy, draw by draw: 2.5% and 97.5% of the difference."""
    picks = np.random.default_rng(0).integers(353, size=(draws, 353))
    score = lambda c, pick: 100 * scipy.stats.spearmanr(np.round(c[pick], 10), human353[pick]).statistic
    return np.quantile([score(cosine, pick) - score(raw, pick) for pick in picks], [0.025, 0.975])


# %% tags=["hide-input"]
wx, wy = of_set["wordsim353"]
raw_cosine = F.cosine_similarity(wx[1], wy[1]).numpy()
seen = E2["contrasts"][1]
pairs_of_numbers = {
    "study: raw": (E2["raw"][1][0], peer(raw_cosine)),
    "study: whitened": (seen["whitened"][0], peer_score(W3000, 1, 1, 1, 383)),
    "study: whitened, k = 128": (seen["whitened, k = 128"][0], peer_score(W3000, 1, 1, 1, 128)),
    "study: rotated, k = 128": (seen["rotated, k = 128"][0], peer_score(W3000, 1, 0, 0, 128)),
    "study: centred": (seen["centred"][0], peer_score(W3000, 1, 1, 0, 384)),
    "study: curve, β = 1, γ = ½, k = 50": (E2["curves"][1][2][49], peer_score(W3000, 1, 1, 0.5, 50)),
    "study: grid, β = ½, γ = ¾, k = 96": (E2["grid"][1][1][3][3], peer_score(W3000, 1, 0.5, 0.75, 96)),
    "study: share of the mean, layer 6": (E2["mean_share"][6], float(W3000[6].mean(0).square().sum() / W3000[6].square().sum(1).mean())),
    "study: third eigenvalue's share, layer 6": (
        E2["spectrum"][6][2],
        PCA(n_components=3).fit(W3000[6].numpy()).explained_variance_ratio_[2],
    ),
    **{
        f"study: {end} end, whitened, k = 128": v
        for end, *v in zip(
            ("lower", "upper"),
            seen["whitened, k = 128"][1:],
            peer_interval(peer_cosines(W3000[1], wx[1], wy[1], 1, 1, 128), raw_cosine, draws),
            strict=True,
        )
    },
}
for l in (1, 6):
    best = E2["chosen"][l]
    setting = (best["beta"], best["gamma"], best["k"])
    pairs_of_numbers[f"study: chosen, layer {l}, on SimLex"] = (best["tune"], peer_score(W3000, l, *setting, "simlex999"))
    pairs_of_numbers[f"study: chosen, layer {l}, on WordSim"] = (E2["contrasts"][l]["tuned"][0], peer_score(W3000, l, *setting))
    rivals = sweep(W3000[l], *(side[l] for side in of_set["simlex999"]), picked["simlex999"].score.numpy(), [0.0, 0.5, 1.0], gammas)
    pairs_of_numbers[f"study: nothing better on SimLex, layer {l}"] = (best["tune"], rivals.max())
verse = [line.strip() for line in data.shakespeare().splitlines() if len(line.split()) > 5]
lines_500 = [verse[i * (len(verse) // 500)] for i in range(500)]
random128 = torch.randn(384, 256, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:, :128]
cov6, mean6 = torch.cov(W3000[6].T, correction=0), W3000[6].mean(0)
soft_metric = torch.tensor(np.linalg.inv(cov6.numpy() + 0.1 * np.linalg.norm(cov6.numpy(), 2) * np.eye(384)))
inner = lambda p, q: ((p - mean6) @ soft_metric * (q - mean6)).sum(1)
pcs = PCA(n_components=3).fit(W3000[6].numpy())
without = [v.numpy() - mean6.numpy() - (v.numpy() - mean6.numpy()) @ pcs.components_.T @ pcs.components_ for v in (wx[6], wy[6])]
pairs_of_numbers |= {
    "baselines: second random projection, k = 128": (
        E1b["random"][6][1][3],
        peer(F.cosine_similarity(wx[6] @ random128, wy[6] @ random128).numpy()),
    ),
    "baselines: first 32 coordinates": (E1b["first"][6][1], peer(F.cosine_similarity(wx[6][:, :32], wy[6][:, :32]).numpy())),
    "baselines: rotated, k = 64": (E1b["rotated"][6][2], peer_score(W3000, 6, 0, 0, 64)),
    "baselines: three directions removed": (
        E1b["top_removed"][6][TOP.index(3)],
        peer(F.cosine_similarity(*map(torch.tensor, without)).numpy()),
    ),
    "baselines: floor of 0.1, by a matrix inverse": (
        E1b["soft"][6][SOFT.index(0.1)],
        peer((inner(wx[6], wy[6]) / (inner(wx[6], wx[6]) * inner(wy[6], wy[6])).sqrt()).numpy()),
    ),
    "sample_sizes: layer 6, 1,600 words, third draw, k = 128": (
        E2b["scores"][1][2][2][1],
        peer_score(W3000[:, np.random.default_rng(2).permutation(3000)[:1600]], 6, 1, 1, 128),
    ),
    "sample_sizes: layer 1, own words, k = 128": (E2b["own"][0][1], peer_score(vectors(picked["wordsim353"].texts, cpu), 1, 1, 1, 128)),
    "domains: layer 3, Shakespeare, whitened, k = 128": (E1c["Shakespeare"][3][1][0], peer_score(vectors(lines_500, cpu), 3, 1, 1, 128)),
    "domains: layer 3, words, rotated": (E1c["words"][3][2][0], peer_score(W3000, 3, 0, 0, 128)),
}

# %% tags=["hide-input"]
lee_pairs, lee_others = similarity.lee_news()
lx, ly, lX = (vectors(t, cpu, 64)[6] for t in (lee_pairs.left, lee_pairs.right, [*lee_pairs.texts, *lee_others[:150]]))
lee_human = lee_pairs.score.numpy()
lee_peer = lambda cosine: 100 * scipy.stats.spearmanr(np.round(cosine, 10), lee_human).statistic
pairs_of_numbers |= {
    "news: raw": (E3["raw"][6], lee_peer(F.cosine_similarity(lx, ly).numpy())),
    "news: centred": (E3["centred"][6][0], lee_peer(peer_cosines(lX, lx, ly, 1, 0, 199))),
    "news: rotated, k = 128": (E3["rotated"][6][0], lee_peer(peer_cosines(lX, lx, ly, 0, 0, 128))),
    "news: whitened, k = 128": (E3["whitened"][6][0], lee_peer(peer_cosines(lX, lx, ly, 1, 1, 128))),
    "news: whitened, k = 16": (E3["by_k"][6][1][1], lee_peer(peer_cosines(lX, lx, ly, 1, 1, 16))),
}
lee_matrix = {"human": lee_human, "raw": F.cosine_similarity(lx, ly).numpy(), "whitened": peer_cosines(lX, lx, ly, 1, 1, 128)}
lee_matrix = {name: scipy.spatial.distance.squareform(v) for name, v in lee_matrix.items()}


def lee_draw(pick):
    """Whitened minus raw score on resampled texts, pair by pair."""
    kept = [(pick[a], pick[b]) for b in range(50) for a in range(b) if pick[a] != pick[b]]
    human, raw, whitened = ([round(M[i, j], 10) for i, j in kept] for M in lee_matrix.values())
    return 100 * (scipy.stats.spearmanr(whitened, human).statistic - scipy.stats.spearmanr(raw, human).statistic)


lee_ends = np.quantile([lee_draw(pick) for pick in np.random.default_rng(0).integers(50, size=(100, 50))], [0.025, 0.975])
pairs_of_numbers |= {f"news: {end} end, whitened": v for end, *v in zip(("lower", "upper"), E3["whitened"][6][1:], lee_ends, strict=True)}
drawn_pairs = [(i.tolist(), j.tolist()) for i, j in resampled(np.array([[3, 1, 3], [2, 2, 2], [0, 4, 1]]))]
nb.claim(
    "X7",
    "What the experiments return, here and so in the recordings, is what other code finds: D2 with numpy's covariance, SciPy draw by draw, matrix inverses, scikit-learn.",
    "verified",
    holds=[
        *[
            ledger.close(name, got, want, abs=0.006 if abs(want) > 1 else 5e-5 if "share" in name else 0.006, digits=4, machine=True)
            for name, (got, want) in pairs_of_numbers.items()
        ],
        sym.enumeration(
            "news: resampled pairs are of distinct texts",
            range(3),
            lambda i: tuple(map(tuple, drawn_pairs[i])),
            [((3, 1), (1, 3)), ((), ()), ((0, 0, 4), (4, 1, 1))].__getitem__,
        ),
    ],
)

# %% [markdown]
# ## E1: seven layers on the STS benchmark
#
# *Question.* Which layers gain from which member of the family? *Set-up.* The transform is fitted to the distinct sentences of the development and test sets, without labels (the papers' "target" setting).
# 81 pairs $(\beta,\gamma)$, every $k$ from 1 to 384. *Expectation.* Layers 0 to 5 behave like raw BERT, layer 6 like SimBERT.
#
# The live counterpart, with the same functions, is WordSim-353 with the transform fitted to the 3,000 most common words (6,000 recorded): E2, on the right.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Forest plot in two panels, change of the score against raw vectors for layers zero to six with 95 percent intervals. Left, recorded on the STS benchmark: full whitening gains between seven and sixteen points in layers zero to five and loses about two in layer six; centring alone gains between one and six; the rotation to 128 coordinates stays within about two points. Right, live on WordSim-353: intervals are about ten points wide; whitening to 128 coordinates and centring alone gain in layers zero to five, full whitening does not clearly."}}
run1, run2, live2 = nb.recorded("E1"), nb.recorded("E2"), E2
NAMES = {"whitened": (ORANGE, "o"), "whitened, k = 128": (RED, "^"), "centred": (GREEN, "v"), "rotated, k = 128": (BLUE, "s")}


def differences(result, name):
    """Score minus raw (7,), and its 95% interval."""
    value, low, high = np.array([row[name] for row in result["contrasts"]]).T
    return value - np.array(result["raw"])[:, 0], low, high


figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.9), sharey=True)
for axes, result, title in zip(panels, (E1, live2), ("STS-B test, recorded", "WordSim-353, live"), strict=True):
    for i, (name, (color, marker)) in enumerate(NAMES.items()):
        change, low, high = differences(result, name)
        axes.errorbar(LAYERS + 0.15 * (i - 1.5), change, [change - low, high - change], fmt=marker, color=color, ms=4.5, lw=1.1, label=name)
    axes.axhline(0, color=GREY, lw=1)
    axes.set(xlabel="layer", xticks=LAYERS)
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("score minus raw score, points")
panels[0].legend(fontsize=8)
figure.suptitle(
    "Below the top whitening helps sentences; words want centring more than whitening", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# Both regimes are there. On sentences the six lower layers gain from flattening the spectrum: centring alone brings one to six points, whitening seven to sixteen, and its intervals are far from zero. The top layer
# loses. It has been centred by its training (2% of the mean squared norm sit in the mean, against 36% to 60% below), so that $\beta$ hardly matters there.
#
# On words the story is another one. *Centring* does most of it, and full whitening on top of it takes the gain back. The cut to 128 coordinates protects from that. With 353 pairs the intervals are ten points wide: whether
# whitening harms the top layer cannot be told from WordSim-353, on the benchmark's 1,379 pairs it can. Tables of such differences without intervals, the post's among them, deserve that caution.

# %% tags=["hide-input"]
STS = f"STS-B test, 1,379 pairs, recorded ({run1.device})"
WORDS = f"WordSim-353, fitted to {E2['rows']:,} words, live"
gain1, low1, high1 = differences(E1, "whitened")
cut1, cutlow1, cuthigh1 = differences(E1, "rotated, k = 128")
gain2, low2, high2 = differences(E2, "whitened")
wc2, wclow2, _ = differences(E2, "whitened, k = 128")
centre2, centrelow2, _ = differences(E2, "centred")
raw1 = np.array(E1["raw"])
nb.experiment(
    "E1",
    "STS-B, seven layers, 81 (β, γ), all k: full whitening gains in layers 0 to 5 and loses at the top, with 95% intervals off zero; the encoder's raw top layer scores what its authors report (82.03).",
    "verified",
    holds=[
        ledger.close("raw score of layer 6 against the published one", raw1[6, 0], 82.03, abs=0.02, digits=4, scope=STS),
        ledger.more("smallest lower end, whitened − raw, layers 0 to 5", low1[:6].min(), 4, digits=3, scope=STS),
        ledger.less("upper end, whitened − raw, layer 6", high1[6], -1, digits=3, scope=STS),
        ledger.less("share of the mean in layer 6", E1["mean_share"][6], 0.05, digits=2, scope=STS),
        ledger.more("smallest share of the mean below", min(E1["mean_share"][:6]), 0.3, digits=2, scope=STS),
    ],
)
nb.experiment(
    "E2",
    "WordSim-353: whitening to 128 coordinates and centring alone gain in layers 0 to 5; full whitening adds nothing to centring; at the top no difference is resolved.",
    "partly",
    holds=[
        ledger.more("mean gain of layers 0 to 5, whitened, k = 128", wc2[:6].mean(), 4, digits=3, machine=True, scope=WORDS),
        ledger.more("layers with a lower end above 0", int((wclow2[:6] > 0).sum()), 3.5, digits=1, machine=True, scope=WORDS),
        ledger.more("mean gain of layers 0 to 5, centred", centre2[:6].mean(), 3.5, digits=3, machine=True, scope=WORDS),
        ledger.more(
            "centred over whitened in full, mean of layers 0 to 4", (centre2 - gain2)[:5].mean(), 3, digits=3, machine=True, scope=WORDS
        ),
        ledger.close("raw score of layer 6, recorded", run2.result["raw"][6][0], E2["raw"][6][0], abs=0.05, digits=4, scope=WORDS),
    ],
    fails=[
        ledger.more("upper end, whitened − raw, layer 6: harm is not resolved", high2[6], 0, digits=2, machine=True, scope=WORDS),
        ledger.less("its lower end", low2[6], 0, digits=2, machine=True, scope=WORDS),
    ],
)
nb.claim(
    "C6",
    "One model shows both regimes: full whitening gains 5 points or more in layers 0 to 4 and loses 2 or more in layer 6 (STS-B).",
    "verified",
    holds=[
        ledger.more("smallest gain of layers 0 to 4", gain1[:5].min(), 5, digits=3, scope=STS),
        ledger.less("gain of layer 6", gain1[6], -2, digits=3, scope=STS),
    ],
)

# %% [markdown]
# ### Every $k$
#
# How many coordinates? All of them were tried.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels of the score against the number of kept coordinates k on a log axis: layers 1 and 6, on STS-B above and WordSim-353 below. In layer 1 of STS-B plain whitening rises to about 70 near full dimension while the rotation stays near 56; in layer 6 the rotation reaches the raw score of 82 at about 128 coordinates and whitening peaks below it. On words whitening peaks between 64 and 128 coordinates and falls by ten points towards full dimension. Dots show random projections."}}
curve_names = ("rotated: β = γ = 0", "centred: β = 1, γ = 0", "half: β = 1, γ = ½", "whitened: β = γ = 1")
base1 = nb.recorded("E1b").result
figure, panels = plt.subplots(2, 2, figsize=(8.2, 5.6), sharex=True)
for row, (result, baseline, name) in enumerate(((E1, base1, "STS-B (recorded)"), (E2, E1b, "WordSim-353 (live)"))):
    for axes, layer in zip(panels[row], (1, 6), strict=True):
        for curve, label, color, style in zip(
            result["curves"][layer], curve_names, (BLUE, GREEN, PURPLE, ORANGE), ("-", "--", "-.", ":"), strict=True
        ):
            axes.plot(np.arange(1, 385), curve, color=color, ls=style, label=label)
        drawn = np.array(baseline["random"][layer])
        axes.errorbar(
            (16, 32, 64, 128, 256), drawn.mean(0), drawn.std(0), fmt="o", color=BLACK, ms=3.5, lw=1, label="random projection ± s.d."
        )
        axes.axhline(result["raw"][layer][0], color=GREY, lw=1)
        axes.annotate("raw", (1.1, result["raw"][layer][0]), fontsize=8, color=GREY, va="bottom")
        axes.set(xscale="log")
        axes.set_title(f"{name}, layer {layer}", fontsize=10)
panels[0, 1].legend(fontsize=7.5, loc="lower right")
for axes in panels[1]:
    axes.set_xlabel("kept coordinates k (log axis)")
for axes in panels[:, 0]:
    axes.set_ylabel("score")
figure.suptitle(
    "Plain whitening must be cut on words; the rotation saturates near k = 128 at the top",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# **Is the lunch free, and is it PCA that pays?** A random projection to 128 coordinates, which knows nothing, costs the top layer a point and a half; so do the first 128 raw coordinates. The rotation costs a tenth of a point. The gap to
# "doing nothing clever" is what PCA is worth. And with a *sharp* cut it is worth less than nothing: at $k=16$ random directions beat the best 16 by three points in layer 6 and by more in layer 0. D4 says that the leading eigenvectors keep
# inner products best in the mean square; they do so by keeping the directions in which sentences vary most, and those need not be the ones that people judge by. On words it is the other way round: there the rotation beats random
# directions by eight points and more at every $k$ (lower row). Which of the two one meets is a property of the data, not of the encoder.

# %% tags=["hide-input"]
tails = {k: np.array([np.sum(s[k:]) for s in E1["spectrum"]]) for k in (16, 128)}
z_words = vectors(word_pairs_texts := load("wordsim353").texts, cpu)[6]
model0 = fit(vectors(common_words(E2["rows"]), cpu)[6], 0)
turned = transform(z_words, *model0, 0, 0, 384)
own0 = fit(z_words, 0)
gram_loss = float((z_words @ z_words.T - (lambda T: T @ T.T)(transform(z_words, *own0, 0, 0, 128))).square().sum().sqrt())
random1 = np.array(base1["random"])  # (layers, seeds, ks)
first1, rotated1 = np.array(base1["first"]), np.array(base1["rotated"])
nb.claim(
    "C1",
    "β = γ = 1 is plain whitening, β = γ = 0 leaves cosines unchanged.",
    "verified",
    holds=[
        ledger.close(
            "437 words, layer 6: largest change of a cosine under the rotation",
            largest(gram(turned) - gram(z_words)),
            0,
            abs=1e-10,
            digits=1,
            machine=True,
        ),
        *[
            ledger.close(
                f"common words, layer {l}: second moment − I after plain whitening",
                largest(second_moment(self_whitened(vectors(common_words(2000), cpu)[l], r)) - torch.eye(r)),
                0,
                abs=1e-9,
                digits=1,
                machine=True,
            )
            for l, r in ((1, 383), (6, 381))
        ],
    ],
)
nb.claim(
    "C2",
    "With β = γ = 0 the cut keeps the Gram matrix up to the eigenvalue tail: its error is √(Σ_{j>k} (Nλ_j)²) in Frobenius norm.",
    "verified",
    holds=[
        ledger.close(
            "437 words, layer 6, k = 128: error over the tail",
            gram_loss / float((437 * own0[1][128:]).square().sum().sqrt()),
            1,
            abs=1e-9,
            digits=9,
            machine=True,
        ),
    ],
)
nb.experiment(
    "E1b",
    "What the rotation is worth: at k = 128 it beats a random projection by over a point in layer 6, where that loses 1.5; at k = 16 random directions beat it in layers 0, 1 and 6. On words it beats them by over 4 points.",
    "verified",
    holds=[
        ledger.more(
            "layer 6, k = 128: rotation − mean of random projections",
            rotated1[6, 3] - random1[6, :, 3].mean(),
            1,
            digits=3,
            scope=STS + ", 20 draws",
        ),
        ledger.more(
            "the same in standard deviations of a draw",
            (rotated1[6, 3] - random1[6, :, 3].mean()) / random1[6, :, 3].std(),
            3,
            digits=2,
            scope=STS,
        ),
        ledger.more("layer 6, k = 128: rotation − first raw coordinates", rotated1[6, 3] - first1[6, 3], 1, digits=3, scope=STS),
        *[
            ledger.more(
                f"layer {l}, k = 16: mean of random projections − rotated, in standard errors",
                (random1[l, :, 0].mean() - rotated1[l, 0]) / (random1[l, :, 0].std() / math.sqrt(19)),
                3,
                digits=3,
                scope=STS + ", 20 draws",
            )
            for l in (0, 1, 6)
        ],
        *[
            ledger.more(
                f"on words, live, layer {l}, k = 128: rotated − mean of random projections",
                E1b["rotated"][l][3] - float(np.mean(E1b["random"][l], 0)[3]),
                4,
                digits=3,
                machine=True,
                scope=WORDS,
            )
            for l in (1, 6)
        ],
        ledger.close(
            "live, tiny: a square random projection by QR changes nothing",
            float(
                np.abs(
                    spearman(cosines_of_all_k(toy_x @ Q8, toy_y @ Q8)[-1], toy_human)
                    - spearman(cosines_of_all_k(toy_x, toy_y)[-1], toy_human)
                )
            ),
            0,
            abs=1e-9,
            digits=1,
            machine=True,
        ),
    ],
)
nb.claim(
    "C7",
    "Free lunch: at β = γ = 0 a cut to d/3 changes the score by at most 1.5 points in every layer, and by at most 0.5 in the top layer (STS-B).",
    "partly",
    holds=[
        ledger.less("top layer: |change|", abs(cut1[6]), 0.5, digits=2, scope=STS),
        ledger.more("largest loss of any layer", cut1.min(), -2.5, digits=3, scope=STS),
    ],
    fails=[
        ledger.less("layer 0 loses more than 1.5", cut1[0], -1.5, digits=3, scope=STS),
        ledger.more("layers 3 and 4 gain more than 1.5", cut1[3:5].min(), 1.5, digits=3, scope=STS),
    ],
)

# %% [markdown]
# ### E4: the whole map
#
# Score over $(\gamma,k)$ at both ends of $\beta$. The question that the title answers with "always one that suits you" is whether the ridge is where you can find it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six panels. The first four are heat maps of the score on STS-B over gamma, from zero to one, and k, from 16 to 384, for layers 1 and 6 with beta 0 and 1. In layer 1 scores rise from about 56 at gamma zero to 70 at gamma one and many coordinates, alike for both beta at gamma one. In layer 6 scores fall from 82 at gamma zero to 80 at gamma one and drop sharply below 64 coordinates. The fifth panel shows the score against gamma for all layers at beta one, the sixth the effective rank against gamma, rising from between 55 and 185 to 383."}}
gammas1, ks1 = np.linspace(0, 1, 9), run1.config["ks"]
grid1 = np.array(E1["grid"])  # (layers, betas, gammas, ks)
figure, panels = plt.subplots(2, 3, figsize=(8.6, 5.6), width_ratios=(1, 1, 1.1))
for row, layer in enumerate((1, 6)):
    span = (grid1[layer][..., 2:].min(), grid1[layer].max())
    for axes, b in zip(panels[row], (0, -1), strict=False):
        image = axes.imshow(grid1[layer, b].T, origin="lower", aspect="auto", cmap="cividis", vmin=span[0], vmax=span[1])
        axes.set(xticks=(0, 4, 8), xticklabels=("0", "½", "1"), yticks=range(len(ks1)), yticklabels=ks1)
        axes.grid(False)
        axes.set_title(f"layer {layer}, β = {'0' if b == 0 else '1'}", fontsize=10)
        top = np.unravel_index(grid1[layer, b].argmax(), grid1[layer, b].shape)
        axes.plot(*top, "*", color="white", mec=BLACK, ms=12)
    figure.colorbar(image, ax=panels[row, 1], label="score")
    panels[row, 0].set_ylabel("k")
for axes in panels[1, :2]:
    axes.set_xlabel("γ")
spectra1 = np.clip(np.array(E1["spectrum"]), 1e-12, None)
erank = np.array(
    [
        [float(metrics.renyi_entropy((lambda p: p / p.sum())(torch.tensor(s[s > 1e-9 * s[0]]) ** (1 - gam)), 1).exp()) for gam in gammas1]
        for s in spectra1
    ]
)
for layer in LAYERS:
    look = {
        "color": (GREY, BLUE, SKY, GREEN, PURPLE, RED, ORANGE)[layer],
        "ls": ("-", "--", ":", "-", "--", ":", "-")[layer],
        "lw": 1.5 + 0.8 * (layer == 6),
    }
    panels[0, 2].plot(gammas1, grid1[layer, -1, :, -1] - grid1[layer, -1, 0, -1], label=f"layer {layer}", **look)
    panels[1, 2].plot(gammas1, erank[layer], **look)
panels[0, 2].legend(fontsize=7, ncols=2, loc="upper left")
panels[0, 2].set(ylim=(-4, 24))
panels[0, 2].set_title("k = d, β = 1: gain on γ = 0", fontsize=10)
panels[1, 2].set_title("effective rank of Λ^(1−γ)", fontsize=10)
panels[1, 2].set(xlabel="γ")
figure.suptitle(
    "More isotropy, more score below; less at the top (STS-B, recorded; stars: best)", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
at_full = grid1[:, -1, :, -1]  # beta = 1, k = d: (layers, gammas)
free = {l: gammas1[at_full[l] >= at_full[l].max() - 0.5] for l in LAYERS}
beta_range = {which: np.ptp(grid1[:, :, j, -1], axis=1) for j, which in ((0, "γ = 0"), (-1, "γ = 1"))}
E2grid = np.array(E2["grid"])
nb.experiment(
    "E4",
    "Along γ (β = 1, k = d) the score rises to its best between γ = ½ and 1 in layers 0 to 5 and is best at γ = ⅛ in layer 6; the effective rank rises in every layer.",
    "verified",
    holds=[
        ledger.more("smallest best γ of layers 0 to 5", float(min(gammas1[at_full[:6].argmax(1)])), 0.49, digits=3, scope=STS),
        ledger.close("best γ of layer 6", float(gammas1[at_full[6].argmax()]), 0.125, abs=0.01, digits=3, scope=STS),
        ledger.more("smallest rise of the effective rank in a step of γ", float(np.diff(erank, axis=1).min()), 0, digits=3, scope=STS),
        ledger.less("effective rank of layer 1 at γ = 0, over that of layer 6", erank[1, 0] / erank[6, 0], 0.9, digits=2, scope=STS),
        ledger.close("effective rank at γ = 1, layer 0", erank[0, -1], 383, abs=0.01, digits=4, scope=STS),
    ],
)
nb.claim(
    "C8",
    "At γ = 1, k = d the score does not depend on β (within 0.1 point); at γ = 0 it does, by more than a point in layers 4 and 5 (STS-B). On words it moves by some tenths even at γ = 1.",
    "partly",
    holds=[
        ledger.less("γ = 1: largest range over nine β, all layers", beta_range["γ = 1"].max(), 0.1, digits=2, scope=STS),
        ledger.more("γ = 0: smallest range in layers 4 and 5", beta_range["γ = 0"][4:6].min(), 1, digits=3, scope=STS),
        ledger.more(
            "γ = 0, live on words: smallest range in layers 0 to 5",
            float(np.ptp(E2grid[:6, :, 0, -1], axis=1).min()),
            3,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
        ledger.less(
            "γ = 1, live on words: largest range",
            float(np.ptp(E2grid[:, :, -1, -1], axis=1).max()),
            1.5,
            digits=2,
            machine=True,
            scope=WORDS,
        ),
    ],
    fails=[
        ledger.more(
            "γ = 1, live on words: largest range",
            float(np.ptp(E2grid[:, :, -1, -1], axis=1).max()),
            0.15,
            digits=2,
            machine=True,
            scope=WORDS,
        )
    ],
)

# %% [markdown]
# ### D6 and D9 on the real encoder
#
# C8 says $\beta$ does nothing at $\gamma=1$; D6 and D9 together say more: any two $\beta\ne1$ agree exactly, and $\beta=1$ differs from them by the constant 1 in every inner product. Checked on word vectors, with the null direction that LayerNorm leaves.

# %% mystnb={"image": {"alt": "Eigenvalues of the covariance of word vectors in layers 1 and 6, divided by the largest, against their index from 1 to 384, on a log axis. Layer 1 falls by four orders of magnitude smoothly and its last value drops to ten to the minus fifteen; layer 6 falls more slowly and its last three values drop to ten to the minus seventeen. The drops are marked as the exact null directions of LayerNorm."}}
X_words = vectors(common_words(E2["rows"]), cpu)
norms = minilm.Encoder().norms  # norms[2 l] ends layer l
gains, biases = ([getattr(norms[2 * l], part).double() for l in LAYERS] for part in ("weight", "bias"))
along_null = [X_words[l] @ (1 / gains[l]) for l in LAYERS]  # sum_j y_j / w_j for every word
model1 = [fit(X_words[l], 1) for l in LAYERS]
rank1 = [int((lam > 1e-9 * lam[0]).sum()) for _, lam, _ in model1]

figure, axes = plt.subplots(figsize=(7, 3.4))
for l, color, style in ((1, BLUE, "-"), (6, ORANGE, "--")):
    lam = (model1[l][1] / model1[l][1][0]).abs().clamp_min(1e-18)
    axes.plot(np.arange(1, 385), lam, color=color, ls=style, label=f"layer {l}: rank {rank1[l]}")
    axes.plot(np.arange(rank1[l] + 1, 385), lam[rank1[l] :], "x", color=color, ms=7)
axes.set(yscale="log", xlabel="index of the eigenvalue", ylabel="eigenvalue / largest (log axis)")
axes.annotate("null directions: only rounding", (383, 1e-15), (215, 1e-13), fontsize=9, arrowprops={"arrowstyle": "->", "color": GREY})
axes.legend()
axes.set_title("Every covariance after a LayerNorm has exact null directions")
nb.show(figure)

# %% tags=["hide-input"]
null_std = [float(v.std() / v.mean().abs()) for v in along_null]
null_mean = [float(v.mean() / (b / w).sum()) for v, w, b in zip(along_null, gains, biases, strict=True)]
direction = [F.normalize(1 / w, dim=0) for w in gains]
with_null = [abs(float(U[:, -1] @ n)) for (_, _, U), n in zip(model1[:6], direction, strict=False)]
dead = (gains[6].abs() < 1e-8).nonzero()[:, 0]
dead_share = float(model1[6][2][dead, -3:].square().sum() / 3)
base_T = transform(z1 := vectors(load("wordsim353").texts, cpu)[1], *model1[1], 1, 1, 384)
plus_one = (base_T @ base_T.T + 1) / ((base_T.square().sum(1) + 1)[:, None] * (base_T.square().sum(1) + 1)).sqrt()
by_beta = {b: gram(transform(z1, *fit(X_words[1], b), b, 1, 384)) for b in (0, 0.5, 0.9)}
m_length = [float((transform(torch.zeros(1, 384, dtype=torch.float64), *model1[l], 1, 1, 384)).norm()) for l in LAYERS]
nb.claim(
    "X2",
    "MiniLM: Σ y_j/w_j is the same number for every text in layers 0 to 5 and spans the one null direction of Σ₁; layer 6 has three dead gains (below 10⁻⁸), so rank 381. At γ = 1 all β ≠ 1 agree, and are plain whitening with 1 added to each inner product.",
    "verified",
    holds=[
        ledger.close(
            "relative spread of Σ y_j/w_j over words, worst of layers 0 to 5", max(null_std[:6]), 0, abs=1e-5, digits=1, machine=True
        ),
        ledger.close(
            "its mean over Σ b_j/w_j, worst of layers 0 to 5",
            max(null_mean[:6], key=lambda v: abs(v - 1)),
            1,
            abs=1e-5,
            digits=6,
            machine=True,
        ),
        ledger.close(
            "|cosine| of 1/w with the last eigenvector, least of layers 0 to 5", min(with_null), 1, abs=1e-6, digits=6, machine=True
        ),
        sym.enumeration("ranks", LAYERS.tolist(), lambda l: rank1[l], lambda l: 381 if l == 6 else 383),
        sym.enumeration("gains below 10⁻⁸", LAYERS.tolist(), lambda l: int((gains[l].abs() < 1e-8).sum()), lambda l: 3 if l == 6 else 0),
        ledger.close(
            "share of the three null directions of layer 6 in the dead coordinates", dead_share, 1, abs=1e-6, digits=6, machine=True
        ),
        ledger.close(
            "layer 1, γ = 1: largest gap between cosines at β = 0, 0.5 and 0.9",
            max(largest(by_beta[0] - by_beta[b]) for b in (0.5, 0.9)),
            0,
            abs=1e-4,
            digits=1,
            machine=True,
        ),
        ledger.close("and to plain whitening plus 1", largest(by_beta[0] - plus_one), 0, abs=1e-4, digits=1, machine=True),
        ledger.more("which is not plain whitening", largest(by_beta[0] - gram(base_T)), 1e-3, digits=1, machine=True),
        ledger.more("length m of the whitened mean, least of layers 0 to 5", min(m_length[:6]), 60, digits=3, machine=True),
        ledger.less("and largest", max(m_length[:6]), 160, digits=4, machine=True),
    ],
)

# %% [markdown]
# (In layer 6 three gains are smaller than $10^{-8}$: three coordinates of this public model are constants. They are its three null directions; the sum over the others is then free, so that LayerNorm adds no fourth.)
#
# ### E2b: how many sentences does whitening need?
#
# D8 warns against $N$ near $d$. So fit to $N$ random words and watch WordSim-353. Full whitening needs some ten times as many words as dimensions; cut to 128 coordinates, 400 words will do.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: histograms of cosines between word vectors of layer 1 whitened on themselves for N over d of 0.5, 1.05, 2 and 8. At 0.5 all cosines equal minus one over N minus 1, a spike; with growing N the histogram widens to a bell. Right: WordSim-353 score against the number of words that the transform was fitted to, from 400 to 6000 on a log axis; full whitening climbs from about 28 to 65 in layer 1 and from 37 to 71 in layer 6, whitening to 128 coordinates is flat near 73."}}
run2b = nb.recorded("E2b")
sizes2b, scores2b = run2b.config["sizes"], np.array(run2b.result["scores"])  # (layers, sizes, seeds, [full, 128])
live2b, live_sizes = np.array(E2b["scores"]), [400, 800, 1600, 3000]
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.7))
bins = np.linspace(-0.25, 0.25, 101)
for ratio, color, style in ((0.5, GREY, ":"), (1.05, RED, "-."), (2, ORANGE, "--"), (8, BLUE, "-")):
    pick = np.random.default_rng(5).permutation(E2["rows"])[: int(ratio * 383)]
    cosine = off_diagonal(self_whitened(X_words[1][pick]))[:40_000]
    left.hist(cosine.numpy(), bins, histtype="step", density=True, color=color, ls=style, lw=1.6, label=f"N/d = {ratio}")
left.set(yscale="log", ylim=(0.05, 300), xlabel="cosine of two words, whitened on themselves", ylabel="density (log axis)")
left.legend(fontsize=8)
left.set_title("layer 1", fontsize=10)
for i, (layer, color) in enumerate(((1, BLUE), (6, ORANGE))):
    for j, (name, style) in enumerate((("k = d", "-"), ("k = 128", "--"))):
        right.errorbar(
            sizes2b,
            scores2b[i, :, :, j].mean(1),
            scores2b[i, :, :, j].std(1),
            color=color,
            ls=style,
            lw=1.4,
            label=f"layer {layer}, {name}",
        )
        right.plot(live_sizes, live2b[i, :, :, j].mean(1), "o", color=color, mfc="white", ms=5)
right.set(xscale="log", xlabel="words N that it is fitted to (log axis)", ylabel="WordSim-353")
right.set_xticks([400, 1000, 2000, 6000], ["400", "1000", "2000", "6000"])
right.minorticks_off()
right.legend(fontsize=8, loc="lower right")
right.set_title("lines recorded, circles live", fontsize=10)
figure.suptitle(
    "Near N = d all cosines are equal; full whitening wants N ≫ d, the cut one does not", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
few = self_whitened(X_words[1][:200])
own = np.array(E2b["own"])
nb.claim(
    "C12",
    "Whitening fitted to N ≤ d + 1 points gives constant cosines: 200 words of layer 1.",
    "verified",
    holds=[
        ledger.close("mean cosine times −(N − 1)", float(off_diagonal(few).mean()) * -199, 1, abs=1e-6, digits=6, machine=True),
        ledger.close(
            "standard deviation of the cosines times (N − 1)", float(off_diagonal(few).std()) * 199, 0, abs=1e-6, digits=1, machine=True
        ),
    ],
)
nb.experiment(
    "E2b",
    "Fitted to the 437 evaluated words themselves, full whitening loses over 20 points in both layers; from 400 to 3,000 random words it gains over 20, with k = 128 less than 5.",
    "verified",
    holds=[
        ledger.less("own words, layer 1: score − raw", own[0, 0] - E2["raw"][1][0], -20, digits=3, machine=True, scope=WORDS),
        ledger.less("own words, layer 6: score − raw", own[1, 0] - E2["raw"][6][0], -20, digits=3, machine=True, scope=WORDS),
        ledger.more("own words, layer 1, k = 128 against k = d", own[0, 1] - own[0, 0], 15, digits=3, machine=True, scope=WORDS),
        *[
            ledger.better(
                f"layer {l}, k = d: 3,000 words over 400, plus 20 points",
                live2b[i, -1, :, 0] - 20,
                live2b[i, 0, :, 0],
                scope=WORDS + ", 3 draws",
            )
            for i, l in enumerate((1, 6))
        ],
        ledger.less(
            "k = 128: largest mean gain from 400 to 3,000 words",
            float((live2b[:, -1, :, 1] - live2b[:, 0, :, 1]).mean(1).max()),
            5,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
        ledger.increasing(
            "recorded, layer 1, k = d: means over 8 sizes",
            scores2b[0, :, :, 0].mean(1).tolist(),
            scope=f"recorded, 10 draws ({run2b.device})",
        ),
    ],
)

# %% [markdown]
# ### E1c: fitted to what?
#
# The papers fit to the sentences of the test set (no labels, but one must have them). In practice the transform is fitted beforehand to something else. Here: the benchmark's own sentences, 6,000 single words, 5,000 lines of Shakespeare.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels, change of the STS-B score against raw vectors for layers 0 to 6 with 95 percent intervals, for transforms fitted to the benchmark's own sentences, to single words and to lines of Shakespeare. Left, full whitening: own sentences gain up to fourteen points, words lose up to thirty-three, Shakespeare gains in layers 0 and 1 and loses up to twenty-two in layer 3. Right, rotation to 128 coordinates: all three stay between minus seven and plus eight."}}
run1c = nb.recorded("E1c")
fitted = ("evaluated", "words", "Shakespeare")
labels = {"evaluated": "the test's own sentences", "words": "6,000 words", "Shakespeare": "5,000 lines of Shakespeare"}
domain = {name: np.array(run1c.result[name]) for name in fitted}  # (layers, settings, [score, low, high])
raw1c = np.array(run1c.result["raw"])
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.6))
for axes, j, title in ((panels[0], 0, "whitened, k = d"), (panels[1], 2, "rotated, k = 128")):
    for i, (name, color, marker) in enumerate(zip(fitted, (BLUE, RED, GREEN), ("o", "^", "s"), strict=True)):
        value, low, high = domain[name][:, j].T
        change = value - raw1c
        axes.errorbar(
            LAYERS + 0.15 * (i - 1), change, [change - low, high - change], fmt=marker, color=color, ms=4.5, lw=1.1, label=labels[name]
        )
    axes.axhline(0, color=GREY, lw=1)
    axes.set(xlabel="layer")
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("STS-B: score − raw, points")
panels[0].legend(fontsize=8, loc="lower right")
figure.suptitle(
    "Fitted to other texts, full whitening can ruin what it was meant to mend", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
fit_gain = {name: domain[name][:, :, 0] - raw1c[:, None] for name in fitted}
live_own = np.array(E1c["evaluated"])[:, 0, 0] - np.array(E1c["raw"])
live_other = np.array(E1c["words"])[:, 0, 0] - np.array(E1c["raw"])
nb.experiment(
    "E1c",
    "STS-B, layers 0 to 5: fitted to its own sentences full whitening gains in every layer, fitted to single words it loses over 10 points in every layer; fitted to Shakespeare it gains in layer 1 and loses in layer 3.",
    "verified",
    holds=[
        ledger.more("own sentences: least lower end, layers 0 to 5", domain["evaluated"][:6, 0, 1].min(), 4, digits=3, scope=STS),
        ledger.less("words: largest upper end, layers 0 to 5", domain["words"][:6, 0, 2].max(), -10, digits=3, scope=STS),
        ledger.more("Shakespeare, layer 1: lower end", domain["Shakespeare"][1, 0, 1], 0, digits=3, scope=STS),
        ledger.less("Shakespeare, layer 3: upper end", domain["Shakespeare"][3, 0, 2], -10, digits=3, scope=STS),
        ledger.close(
            "the same fit as in E1, layer 1",
            domain["evaluated"][1, 0, 0],
            E1["contrasts"][1]["whitened"][0],
            abs=0.011,
            digits=4,
            scope=STS,
        ),
        ledger.less(
            "live, WordSim-353 on its own 437 words (too few): mean change, layers 0 to 5",
            float(live_own[:6].mean()),
            float(live_other[:6].mean()),
            margin=10,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
    ],
)

# %% [markdown]
# $\lambda_j^{-1/2}$ is largest where the fitted sample varies least. If the test's sentences do vary there (single words say nothing about the directions of syntax and length), those directions are blown up and drown the rest. At $\gamma=0$ nothing is divided: the losses stay below seven points, and cutting by the words' axes even gains.
#
# ### E3: news texts
#
# Lee's 50 news texts {cite}`lee2005empirical`, all 1,225 pairs compared by people. 350 texts to fit to (these and 300 others of the same kind); the pairs share texts, so the bootstrap resamples *texts*.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: change of the score on Lee's news texts against raw vectors for layers 0 to 6 with 95 percent intervals: whitening to 128 coordinates loses sixteen to thirty-four points in every layer, the rotation stays at zero, centring alone is positive below the top but its intervals, up to thirty points wide, contain zero. Right: scores of layers 4 and 6 against k from 8 to 128: the rotation is nearly flat near 42 and 50, whitening falls from about 36 and 40 at k = 8 to 17."}}
run3 = nb.recorded("E3")
lee = {name: np.array(run3.result[name]) for name in ("centred", "rotated", "whitened")}
lee_raw, lee_k = np.array(run3.result["raw"]), np.array(run3.result["by_k"])  # by_k: (layers, [rotated, whitened], ks)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.5))
for i, (name, color, marker) in enumerate((("centred", GREEN, "v"), ("rotated", BLUE, "s"), ("whitened", RED, "^"))):
    value, low, high = lee[name].T
    change = value - lee_raw
    left.errorbar(
        LAYERS + 0.15 * (i - 1),
        change,
        [change - low, high - change],
        fmt=marker,
        color=color,
        ms=4.5,
        lw=1.1,
        label=name + (", k = 128" if i else ""),
    )
left.axhline(0, color=GREY, lw=1)
left.set(xlabel="layer", ylabel="score − raw, points", ylim=(-48, 40))
left.legend(fontsize=8, loc="upper right")
for j, (name, color, style) in enumerate((("rotated", BLUE, "-"), ("whitened", RED, "--"))):
    for layer, width in ((6, 2), (4, 1)):
        right.plot(
            [8, 16, 32, 64, 128], lee_k[layer, j], color=color, ls=style, lw=width, marker="o", ms=3.5, label=f"{name}, layer {layer}"
        )
right.set(xscale="log", xlabel="k (log axis)", ylabel="score")
right.set_xticks([8, 16, 32, 64, 128], ["8", "16", "32", "64", "128"])
right.minorticks_off()
right.legend(fontsize=8)
figure.suptitle(
    "News: whitening loses in every layer, at the top even with 44 texts a coordinate", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
NEWS = f"50 texts, 350 to fit to, recorded ({run3.device})"
live3 = {name: np.array(E3[name]) for name in ("centred", "rotated", "whitened")}
nb.experiment(
    "E3",
    "News: whitening to 128 coordinates from 350 texts loses in every layer, at the top already to 8; the rotation costs nothing; what centring alone does is not resolved by 50 texts.",
    "partly",
    holds=[
        ledger.less("whitened: largest upper end of the seven intervals", lee["whitened"][:, 2].max(), 0, digits=3, scope=NEWS),
        ledger.more("layer 6, k = 8: rotated − whitened", lee_k[6, 0, 0] - lee_k[6, 1, 0], 5, digits=3, scope=NEWS),
        ledger.more("rotated: largest loss", (lee["rotated"][:, 0] - lee_raw).min(), -1, digits=2, scope=NEWS),
        ledger.less(
            "live, 200 texts of 64 tokens: whitened − raw, layer 6",
            live3["whitened"][6, 0] - E3["raw"][6],
            -10,
            digits=3,
            machine=True,
            scope="live",
        ),
        ledger.more("live: rotated − raw, layer 6", live3["rotated"][6, 0] - E3["raw"][6], -3, digits=2, machine=True, scope="live"),
    ],
    fails=[
        ledger.less("centred: largest lower end of the seven intervals", lee["centred"][:, 1].max(), 0, digits=3, scope=NEWS),
        ledger.more("centred: smallest upper end", lee["centred"][:, 2].min(), 0, digits=2, scope=NEWS),
    ],
)

# %% [markdown]
# ### Before and after, pair by pair

# %% mystnb={"image": {"alt": "Two scatter plots of the cosine of 353 word pairs in layer 1 against the human score from 0 to 10. Before whitening the cosines crowd between about 0.6 and 0.9 with a weak trend; after whitening to 128 coordinates they spread from about minus 0.2 to 0.7 and rise with the human score."}}
judged = load("wordsim353")
zx, zy = (vectors(side, cpu)[1] for side in (judged.left, judged.right))
before, after = F.cosine_similarity(zx, zy).numpy(), cosines(X_words[1], zx, zy, 1, 1, 128)
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.4))
for axes, cosine, name in zip(panels, (before, after), ("raw", "whitened, k = 128"), strict=True):
    axes.plot(judged.score, cosine, ".", color=BLUE, ms=4, alpha=0.7)
    axes.set(xlabel="human score", ylabel="cosine")
    axes.set_title(f"{name}: {spearman(cosine, judged.score.numpy()):.0f} points", fontsize=10)
figure.suptitle("In the cone all words look alike; whitening opens it (layer 1, live)", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## "Always one that suits you"
#
# With labels one may choose $(\beta,\gamma,k)$. On the set where it is chosen it cannot lose: $(0,0,d)$, the raw vectors, is among the candidates, so the title is true there by construction, like all selection from a list that contains the status
# quo. What counts is a set that was not looked at. Below, chosen on STS-B dev among 31,104 candidates, scored on STS-B test; and chosen on SimLex-999, scored on WordSim-353.

# %% tags=["hide-input"]
chosen1, chosen2 = E1["chosen"], run2.result["chosen"]
tuned1, tunedlow1, tunedhigh1 = differences(E1, "tuned")
tuned2, tunedlow2, _ = differences(run2.result, "tuned")
regret1 = np.array([c["best"] for c in chosen1]) - (tuned1 + raw1[:, 0])
regret2 = np.array([c["best"] for c in chosen2]) - (tuned2 + np.array(run2.result["raw"])[:, 0])
nb.results(
    "C9",
    "Chosen on one set, scored on another: β, γ, k; score (gain on raw with 95% interval); and how far below the best in hindsight",
    ["layer", "chosen on STS-B dev", "STS-B test", "below the best", "chosen on SimLex", "WordSim-353", "below the best"],
    [
        [
            l,
            f"{a['beta']:g}, {a['gamma']:g}, {a['k']}",
            f"{raw1[l, 0] + tuned1[l]:.2f} ({tuned1[l]:+.1f}; {tunedlow1[l]:+.1f} to {tunedhigh1[l]:+.1f})",
            f"{regret1[l]:.1f}",
            f"{b['beta']:g}, {b['gamma']:g}, {b['k']}",
            f"{run2.result['raw'][l][0] + tuned2[l]:.2f} ({tuned2[l]:+.1f})",
            f"{regret2[l]:.1f}",
        ]
        for l, (a, b) in enumerate(zip(chosen1, chosen2, strict=True))
    ],
)
nb.claim(
    "C9",
    "Chosen on labelled validation data, the transform is never worse than raw vectors by more than 0.1 point on the test data.",
    "partly",
    holds=[
        ledger.more("STS-B, dev to test: least change, seven layers", tuned1.min(), -0.1, digits=2, scope=STS),
        ledger.more("STS-B: layers 0 to 5, least lower end", tunedlow1[:6].min(), 2, digits=3, scope=STS),
    ],
    fails=[
        ledger.less("SimLex to WordSim: change at the top layer", tuned2[6], -0.1, digits=2, scope=f"recorded ({run2.device})"),
        ledger.more(
            "SimLex to WordSim, layer 0: points below the best in hindsight", regret2[0], 5, digits=2, scope=f"recorded ({run2.device})"
        ),
    ],
)

# %% [markdown]
# ## The post's and the papers' numbers beside ours
#
# The table that carries the post is drawn in the first figure. It was made with Chinese BERT and SimBERT on five Chinese sets, with weights and data that this book does not have, so that its cells stand as quoted. Two things can be checked: whether it
# agrees with itself and with D3, and whether our two regimes look like its two models.

# %% tags=["hide-input"]
cell = lambda model, setting: [tuple(round(100 * v) for v in row) for row in POST[model, setting]]  # whole hundredths of a point
flat = [row for model in ("BERT", "SimBERT") for row in cell(model, 0)]
change0 = [(row[2] - row[0]) / 100 for row in flat]
sim = cell("SimBERT", 1)
nb.claim(
    "C3",
    "The post's table: with β = γ = 0 and k = 768 all ten cells equal the untransformed score (as D3 demands); with k = 256 six of ten rise and four fall.",
    "verified",
    holds=[
        sym.enumeration("k = 768 against raw, ten cells, hundredths of a point", range(10), lambda i: flat[i][1], lambda i: flat[i][0]),
        sym.enumeration("cells that rise, fall", (1, -1), lambda sign: sum(sign * v > 0 for v in change0), {1: 6, -1: 4}.get),
        sym.enumeration(
            "raw scores stand alike in both blocks",
            [(m, i) for m in ("BERT", "SimBERT") for i in range(5)],
            lambda p: cell(p[0], 1)[p[1]][0],
            lambda p: cell(p[0], 0)[p[1]][0],
        ),
    ],
)
nb.claim(
    "C3b",
    "The scores of the post's table.",
    "not checkable",
    reason="The Chinese BERT and SimBERT weights and the five Chinese test sets would decide it; none is to be had here.",
)
nb.claim(
    "C4",
    "β = γ = 0 with k = 256 is almost a free lunch (the post's ten cells).",
    "partly",
    holds=[
        ledger.less("|mean change|", abs(float(np.mean(change0))), 0.2, digits=2, method="arithmetic"),
        ledger.close("mean change", float(np.mean(change0)), -0.041, abs=0.0005, digits=2, method="arithmetic"),
    ],
    fails=[
        ledger.less("BERT on LCQMC", min(change0), -1.2, digits=3, method="arithmetic"),
        ledger.less("next largest loss", sorted(change0)[1], -0.5, digits=2, method="arithmetic"),
    ],
)
nb.claim(
    "C5",
    "With SimBERT whitening loses on ATEC, BQ and LCQMC, at k = 768 and at 256: six of six.",
    "verified",
    holds=[
        sym.enumeration(
            "SimBERT, β = γ = 1: how many of the two whitened scores lie below raw",
            range(5),
            lambda i: sum(v < sim[i][0] for v in sim[i][1:]),
            [2, 2, 2, 0, 1].__getitem__,
        ),
    ],
)

# %% tags=["hide-input"]
score_of = lambda l, name: f"{E1['contrasts'][l][name][0]:.2f}"
mean_post = lambda model, setting, j: f"{np.mean([row[j] for row in POST[model, setting]]):.2f}"
rows_ours = [
    [
        f"all-MiniLM-L6-v2, layer {l}, STS-B test (ours)",
        f"{raw1[l, 0]:.2f}",
        score_of(l, "whitened"),
        score_of(l, "whitened, k = 128"),
        score_of(l, "rotated, k = 128"),
        "recorded; d = 384, a third is 128",
    ]
    for l in (1, 4, 6)
]
rows_post = [
    [
        f"Chinese {model}, mean of five sets (post)",
        mean_post(model, 1, 0),
        mean_post(model, 1, 1),
        mean_post(model, 1, 2),
        mean_post(model, 0, 2),
        "quoted; d = 768, a third is 256",
    ]
    for model in ("BERT", "SimBERT")
]
nb.results(
    "E1",
    "Spearman × 100: raw, whitened (β = γ = 1), the same cut to a third, rotated (β = γ = 0) and cut to a third",
    ["encoder and set", "raw", "whitened", "whitened, d/3", "rotated, d/3", "source"],
    [
        *rows_post,
        [
            "BERT-base, first-last average, STS-B test (parent paper)",
            "59.04",
            "71.34 (unconfirmed)",
            "71.43",
            "",
            "quoted; fitted to the target",
        ],
        ["the same in a PyTorch re-implementation", "59.04", "", "71.43", "", "its README; fitted to the target"],
        ["the same, fitted to NLI", "59.04", "63.65", "64.96", "", "its README; the paper: 68.19, 67.51 (unconfirmed)"],
        ["SBERT-base-nli (re-implementation)", "", "", "80.74", "", "its README; fitted to the target"],
        *rows_ours,
    ],
)
wc1, wclow1, wchigh1 = differences(E1, "whitened, k = 128")
nb.claim(
    "C10",
    "Parent paper: raw BERT-base on STS-B gains from 59.04 to 71.43 by whitening to a third of the coordinates, fitted to the target's sentences, and less when fitted to other sentences.",
    "partly",
    holds=[
        ledger.close(
            "our six raw-like layers: mean gain against the paper's", float(wc1[:6].mean()), 71.43 - 59.04, abs=3, digits=3, scope=STS
        ),
        ledger.less(
            "fitted to Shakespeare: mean gain of layers 0 to 5 at k = 128",
            float(fit_gain["Shakespeare"][:6, 1].mean()),
            float(wc1[:6].mean()),
            margin=5,
            digits=3,
            scope=STS,
        ),
    ],
    fails=[
        ledger.less("fitted to words in full, layer 1: no gain but a loss", fit_gain["words"][1, 0], -20, digits=3, scope=STS),
        ledger.less(
            "re-implementation, NLI, full: gain over raw in points, less than half of the target's",
            63.65 - 59.04,
            (71.43 - 59.04) / 2,
            digits=3,
            method="arithmetic",
        ),
    ],
)

# %% [markdown]
# On the raw-like side the agreement is close, in the raw score (55 to 66 here, 59 there) and in the gain. For SimBERT the mean over five sets falls by six points with full whitening, for our top layer by two; the rotation costs next to nothing in both. The one
# discrepancy in print is the fit to NLI: the re-implementation's numbers are several points below those that the paper gives, and E1c shows why one should not expect such numbers to agree: what the map was fitted to decides its sign.
#
# Memory and speed of the parent paper's retrieval test (299,364 vectors of Quora questions; FAISS): 0.8564 "GB" at $d=768$, 0.2854 at 256, 0.7488 and 0.1910 ms a query. The memory is arithmetic, four bytes a number, in GiB and with the last digit cut off.

# %% tags=["nbval-ignore-output", "hide-input"]
gib = lambda d: 299_364 * d * 4 / 2**30
store, ask = gauss(60_000, 384, seed=20).float(), gauss(384, seed=21).float()
small_store, small_ask = store[:, :128].contiguous(), ask[:128].contiguous()


def milliseconds(M, v, repeats=25):
    """Fastest of the repeats of a search by brute force."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        (M @ v).argmax()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


slow, fast = milliseconds(store, ask), milliseconds(small_store, small_ask)
nb.claim(
    "C11",
    "A third of the coordinates takes a third of the memory and at most about half of the search time (the source: 3.0 and 3.9 times).",
    "verified",
    holds=[
        ledger.close("299,364 float32 vectors of 768, GiB", gib(768), 0.8564, abs=0.0001),
        ledger.close("of 256, GiB", gib(256), 0.2854, abs=0.0001),
        ledger.more(
            "brute force over 60,000 vectors, time at d = 384 over that at 128",
            slow / fast,
            1.5,
            digits=2,
            machine=True,
            scope="this machine",
        ),
        ledger.close("ratio of the source's times", 0.7488 / 0.1910, 3.9, abs=0.05, digits=3, method="arithmetic"),
    ],
)
nb.claim(
    "C11b",
    "MRR@10 in that retrieval test: 0.5531 raw, 0.6104 whitened, 0.5957 whitened to 256.",
    "not checkable",
    reason="The 400,000 Quora question pairs and BERT-base would decide it; this book has neither.",
)

# %% [markdown]
# ## Beyond the post
#
# - **Softer whitening.** $\gamma$ flattens by a power. Adding a floor, $(\lambda_j+\epsilon\lambda_1)^{-1/2}$ ("soft ZCA", {cite}`diera2024softzca`), or removing the top $r$ directions and leaving the rest
#   ("all but the top", {cite}`mu2018allbutthetop`) are the same idea with another shape. On STS-B none of the three families wins everywhere: their best members lie within a point of one another in every layer (below).
# - **Train instead of transform.** SimCSE {cite}`gao2021simcse` shows that contrastive training flattens the spectrum by itself. The top layer here is an example: centred and with the largest effective rank, without any map.
# - **Layers.** WhiteningBERT {cite}`huang2021whiteningbert` averages first and last layers before whitening. Exercise 3.
# - **Not for classification.** {cite}`forooghi2024whitening` find that whitening harms classifiers on top of language models: D7 again. A linear classifier can undo a linear map, but not with a penalty on its weights, and not a cut.

# %% tags=["hide-input"]
top_removed, soft = np.array(base1["top_removed"]), np.array(base1["soft"])
family = {
    "γ (β = 1, k = d)": at_full.max(1),
    "soft ZCA": soft.max(1),
    "all but the top": top_removed.max(1),
}
nb.results(
    "E1b",
    "STS-B test: the best member of three one-parameter families with centring, k = d (best in hindsight for all three: 9, 6 and 7 members)",
    ["layer", "raw", "centred", *family],
    [[l, f"{raw1[l, 0]:.2f}", f"{top_removed[l, 0]:.2f}", *(f"{best[l]:.2f}" for best in family.values())] for l in LAYERS],
)
best_three = np.array(list(family.values()))
nb.claim(
    "X3",
    "Three ways to soften whitening (a power γ, a floor ε, removing r top directions) are about equally good at their best: within a point of one another in every layer of STS-B.",
    "verified",
    holds=[
        ledger.less("largest spread of the three bests", float(np.ptp(best_three, axis=0).max()), 1, digits=3, scope=STS),
        ledger.more(
            "least gain over centring alone, layers 0 to 5",
            float((best_three.min(0) - top_removed[:, 0])[:6].min()),
            3,
            digits=3,
            scope=STS,
        ),
        ledger.close(
            "removing nothing is centring, layer 1", top_removed[1, 0], E1["contrasts"][1]["centred"][0], abs=0.011, digits=4, scope=STS
        ),
        ledger.close(
            "live, toy: a floor of 10⁶ λ₁ is centring",
            live_soft := spearman(
                F.cosine_similarity(
                    *((z - toy.mean(0)) @ fit(toy, 1)[2] * (fit(toy, 1)[1] + 1e6 * fit(toy, 1)[1][0]).rsqrt() for z in (toy_x, toy_y))
                ).numpy(),
                toy_human,
            ),
            float(toy_sweep[2, 0, -1]),
            abs=1e-6,
            digits=4,
        ),
    ],
)

# %% [markdown]
# ## What does not hold
#
# - **"As independent as possible"** (D5): the rotated components are uncorrelated only for $\beta=1$.
# - **"A free lunch"** (C4, C7): on average, yes. But the post's own table has a loss of 1.3 points, and here the cut to a third moves the layers below the top by up to two points, in both directions. It is free where the encoder was trained. And of the
#   lunch, a good part is had by any projection: a random one loses 1.5 points where PCA loses 0.1, and at $k=16$ it is the better one (E1b).
# - **"Always one that suits you"** (C9) is true by construction on the set where one chooses. It survives the step to a similar set (dev to test), and does not survive the step to another notion of similarity (SimLex to WordSim).
# - **Whitening of a tuned encoder is not doomed to lose much**: at the top of MiniLM it costs 2.3 points in full and 1.0 after the cut, and the re-implementation's table has whitened SBERT at 80.74. How much harm SimBERT takes (15 points on ATEC) is that model's.
# - **Words and news** (E2, E3): on words centring does it; on news whitening loses in all layers. With 350 texts for 384 dimensions D8 has its part in that, but not all of it: the loss is there at $k=8$, with 44 texts a coordinate. The large directions of news carry the topic.
# - **The data that a whitening is fitted to** is a hyper-parameter that the title leaves out, and the most powerful (E1c).
# - The post's colouring marks a cell as better (BERT, LCQMC, $k=768$: 64.75) that equals the untransformed score to all printed digits.
#
# ## Exercises
#
# 1. Take $\gamma=2$. What does the transform do to the spectrum, and does the effective rank keep growing? Check on layer 1.
# 2. Repair D8: with the shrunk covariance $(1-\rho)\Sigma+\rho\,\frac{\operatorname{tr}\Sigma}dI$ of Ledoit and Wolf, can one whiten with the 437 evaluated words only?
# 3. WhiteningBERT's pooling: whiten the average of layers 1 and 6. Does the mixture beat both?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $\Lambda^{1-\gamma}=\Lambda^{-1}$: the order is reversed, what varied least now dominates. By D5 $dH/d\gamma<0$ for $\gamma>1$: the effective rank falls again, and noise rules.
# ```

# %% tags=["hide-cell"]
spectrum_words = model1[1][1][: rank1[1]]
rank_at = lambda gam: float(metrics.renyi_entropy((lambda p: p / p.sum())(spectrum_words ** (1 - gam)), 1).exp())
exercise1 = {gam: float(sweep(X_words[1], zx, zy, judged.score.numpy(), [1.0], [gam])[0, 0, -1]) for gam in (0.0, 1.0, 2.0)}
nb.claim(
    "X4",
    "Exercise 1: at γ = 2 the effective rank is below that of γ = 1, and the score of layer 1 collapses.",
    "verified",
    holds=[
        ledger.less("effective rank at γ = 2", rank_at(2), rank_at(1), margin=100, digits=3, machine=True),
        ledger.close("effective rank at γ = 1", rank_at(1), 383, abs=1e-6, digits=4, machine=True),
        ledger.less("score at γ = 2", exercise1[2.0], exercise1[1.0], margin=15, digits=3, machine=True, scope=WORDS),
    ],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Yes, in part: the floor keeps the directions that were never seen from being blown up. Full whitening with the sample covariance loses more than twenty points, with the shrunk one it ends near raw. It is soft ZCA with a floor chosen from the data.
# ```

# %% tags=["hide-cell"]
from sklearn.covariance import LedoitWolf

own_words = vectors(judged.texts, cpu)[1]
shrunk = LedoitWolf().fit(own_words.numpy())
size, axes_of = np.linalg.eigh(shrunk.covariance_)
softened = [torch.tensor((z - own_words.mean(0)).numpy() @ axes_of / np.sqrt(size)) for z in (zx, zy)]
repaired = float(spearman(F.cosine_similarity(*softened).numpy(), judged.score.numpy()))
nb.claim(
    "X5",
    "Exercise 2: with Ledoit and Wolf's covariance the 437 evaluated words suffice: at least 15 points above whitening with the sample covariance (layer 1).",
    "verified",
    holds=[ledger.more("gain over the sample covariance", repaired - own[0, 0], 15, digits=3, machine=True, scope=WORDS)],
)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# It seems so: by about two points over the better of the two. Against layer 1 the 95% interval of the difference just includes zero, so 353 pairs do not settle it.
# ```

# %% tags=["hide-cell"]
mixed = lambda v: (v[1] + v[6]) / 2
sides = [vectors(side, cpu) for side in (judged.left, judged.right)]
three = [cosines(X_words[l], *(v[l] for v in sides), 1, 1, 128) for l in (1, 6)] + [cosines(mixed(X_words), *map(mixed, sides), 1, 1, 128)]
scored, spun3 = spearman(np.array(three), human353), bootstrap(three, human353, 1000)
low3 = np.quantile(spun3[2] - spun3[:2], 0.025, axis=1)
nb.claim(
    "X6",
    "Exercise 3: the average of layers 1 and 6, whitened to 128 coordinates, scores over a point more than either (WordSim-353), which 353 pairs do not resolve against layer 1.",
    "partly",
    holds=[ledger.more("mixture − the better layer", float(scored[2] - scored[:2].max()), 1, digits=2, machine=True, scope=WORDS)],
    fails=[ledger.less("lower end of the interval against layer 1", float(low3[0]), 0.5, digits=2, machine=True, scope=WORDS)],
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2022whitening`; the method: {cite}`su2021whitening`; the flow that it replaced: {cite}`li2020bertflow`. Data: {cite}`cer2017sts,finkelstein2002wordsim,hill2015simlex,lee2005empirical`. Shrinkage: {cite}`ledoit2004well`.
