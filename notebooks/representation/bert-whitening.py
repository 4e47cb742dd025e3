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
# [当BERT-whitening引入超参数：总有一款适合你](https://kexue.fm/archives/9079) · 2022-05-18 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/representation/bert-whitening.ipynb)
#
# **The point.** Whitening makes the mean of sentence vectors zero and their covariance the identity. It can lift the vectors of a raw
# language model and harm those of one trained for similarity, so the post adds two knobs: $\beta$, how much of the mean goes, and $\gamma$,
# how much of the spectrum is flattened. With both at 0 only a rotation is left, after which two thirds of the coordinates may be cut at
# little cost. Here both regimes show up *inside one encoder* (figure, right): on the STS benchmark whitening gains 7 to 16 points in the
# layers of all-MiniLM-L6-v2 below the top and loses 2 at the top. The cut costs the top layer 0.1 point, but only if the rotation was
# fitted to the test's own sentences: fitted to other texts it costs 1.2 to 1.6, as a random projection does.
#
# *Points* are hundredths of Spearman's correlation between the cosines of pairs and human scores, *raw* vectors are untransformed ones. *Recorded* results were made once, at full size; *live* ones are made by this page as it runs.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time
import types

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import kexue_nb
from kexue_nb import data, ledger, metrics, minilm, similarity
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("bert-whitening")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of changes in points of Spearman correlation against unchanged vectors. Left, the post's table for five Chinese test sets: full whitening to 256 coordinates raises BERT on four of five sets by up to eight points, lowers SimBERT on three by up to nine and raises it on two by up to one, the rotation to 256 stays within about one point of zero. Right, seven layers of MiniLM on the STS benchmark with confidence intervals: whitening gains seven to sixteen points in layers zero to five and loses two in layer six, the rotation to 128 coordinates stays within about two points of zero."}}
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
        name = f"{model}, {'whitened' if setting else 'rotated'}"
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
right.set(xlabel="layer of MiniLM (6: its output)", ylabel="change against raw, points", ylim=(-5, 25))
right.legend(fontsize=8, loc="upper right")
right.set_title("Here: STS-B test, 95% intervals (recorded)", fontsize=10)
figure.suptitle(
    "Whitening gains or loses with model and data set; the rotation stays near zero", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# Average the token vectors of a sentence in a pretrained language model, compare sentences by the cosine, and the result is poor. The vectors lie in a narrow cone: their
# mean is as long as their deviations from it, and a few directions hold most of the variance, so that the cosine hears little else. BERT-whitening
# ([post 8069](https://kexue.fm/archives/8069), {cite}`su2021whitening`) removes both with one linear map, learned from unlabelled sentences, and cuts the vectors to their first $k$ coordinates on the way. It did as well as a trained flow.
#
# But what if the encoder has been trained so that its cosine *means* similarity? Then its large directions may carry what was learned, and flattening them may destroy it: SimBERT lost up to 15 points in a survey of Chinese models
# ([post 8321](https://kexue.fm/archives/8321)). The post {cite}`su2022whitening` turns the map into a family with plain whitening at one end and the identity at the other, and asks which member suits which encoder.
# Read as statistics, $\gamma$ is how strongly one believes that meaning is isotropic: a prior, to be weighed against what the encoder has learned.
#
# Notation. $x_i$ is a row vector, $i=1,\dots,N$; $\mu$ the mean; $\Sigma_\beta=\frac1N\sum_i(x_i-\beta\mu)^\top(x_i-\beta\mu)=U\Lambda U^\top$ with eigenvalues
# $\lambda_1\ge\dots\ge\lambda_d\ge0$ the second moment about $\beta\mu$; $c=1-\beta$. The family:
#
# $$\tilde x=(x-\beta\mu)\,U\,\Lambda^{-\gamma/2},\qquad\text{of which the first }k\text{ coordinates are kept.}$$
#
# $d$ is the length of the vectors. The spectrum returns in [effective-rank](../optimization/effective-rank.ipynb), the geometry of
# embeddings in [shared-embedding](../depth/shared-embedding.ipynb); [attention-scale](../attention/attention-scale.ipynb) has cosines of
# random vectors.
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
    ledger.close("control: the largest entry of (0, −1)", largest(torch.tensor([0.0, -1.0])), 1, abs=1e-12),
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
# with $x_\perp$ the coordinates cut off. This is the case for the free lunch: the eigenvalues of sentence vectors fall fast. It speaks of the sample that was fitted, and of inner products, not of scores.

# %% tags=["hide-input"]
v = sp.Matrix([[sp.cos(phi), sp.sin(phi)]])
kept, cut = of_toy(0.4, 0)[:, :3], of_toy(0.4, 0)[:, 3:]
centred_toy = toy - 0.4 * toy.mean(0)
left_by = lambda Q: float((centred_toy.square().sum() - (centred_toy @ Q).square().sum()) / len(toy))
others = [left_by(torch.linalg.qr(gauss(8, 3, seed=s))[0]) for s in range(200)]
lost_product = (centred_toy @ centred_toy.T - kept @ kept.T).abs() / (cut.norm(dim=1)[:, None] * cut.norm(dim=1))
of_two = ~torch.eye(300, dtype=torch.bool)
tail = float(fit(toy, 0.4)[1][3:].sum())
nb.derivation(
    "D4",
    "At γ = 0 the mean squared loss of the cut is the eigenvalue tail, the smallest possible; an inner product loses at most ‖x_⊥‖‖y_⊥‖.",
    sym.identity("2 × 2: what direction φ leaves, over λ₂", Sigma2.trace() - (v * Sigma2 * v.T)[0] - l2, (l1 - l2) * sp.sin(t - phi) ** 2),
    ledger.close("300 × 8, k = 3, β = 0.4: mean squared loss", float(cut.square().sum(1).mean()), tail, rel=1e-9),
    ledger.more("least loss of 200 random subspaces", min(others), tail, digits=4),
    ledger.less("largest loss of an inner product of two rows, over the bound", float(lost_product[of_two].max()), 1, digits=6),
    ledger.close(
        "and of a row with itself, which attains it: largest gap", largest(lost_product.diagonal() - 1), 0, abs=1e-9, digits=1, machine=True
    ),
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
# $a=u\Sigma_1^{-1}\mu^\top$ and $a'=v\Sigma_1^{-1}\mu^\top$,
#
# $$(x-\beta\mu)\Sigma_\beta^{-1}(y-\beta\mu)^\top=u\Sigma_1^{-1}v^\top+1-\frac{(1-ca)(1-ca')}{1+c^2m^2}.$$
#
# It looks better in whitened coordinates. Let $s=a/m$ be the coordinate of $x$ along the whitened mean $\mu\Sigma_1^{-1/2}/m$. Then the whole effect of $\beta$ is
#
# $$s\;\longmapsto\;\frac{s+cm}{\sqrt{1+c^2m^2}},$$
#
# all other coordinates stay as they are. If the whitened mean is long, $cm\to\infty$, that one coordinate becomes the constant 1, whatever $c\ne0$ is. All of this needs an invertible $\Sigma_1$,
# which no encoder here has; D9 shows what is left of it, and it is the limit just taken.

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
# **D7: what whitening forgets.** At $\beta=\gamma=1$ and $k=d$ the inner product is the Mahalanobis one, so no invertible map $x\mapsto xA+t$ in front of it changes anything. Whitening forgets every
# linear layer that a trainer may have put at the end: a first reason to expect harm. For $\gamma<1$ only rotations and scalings pass unnoticed (and shifts if $\beta=1$). Proof: the inner product is
# $u\Sigma^{-\gamma}v^\top$, after the map $uA(A^\top\Sigma A)^{-\gamma}A^\top v^\top$. With the polar form $\Sigma^{1/2}A=SQ$,
#
# $$\Sigma^{1/2}\,A(A^\top\Sigma A)^{-\gamma}A^\top\,\Sigma^{1/2}=S^{2-2\gamma},$$
#
# and equal cosines ask for $S^{2-2\gamma}\propto\Sigma^{1-\gamma}$. At $\gamma=1$ that is no condition; otherwise $S^2=\Sigma^{1/2}AA^\top\Sigma^{1/2}\propto\Sigma$, so $AA^\top\propto I$.

# %% tags=["hide-input"]
A3, b3 = sp.Matrix([[2, 1, 0], [0, 1, -3], [1, 0, 1]]), sp.Matrix([[5, -7, 2]])


def cosine_squared(X, i, j):
    """Signed square of the whitened cosine of two rows, exact."""
    P, u = moment(X, 1).inv(), lambda i: X[i, :] - mean_of(X)
    dot = (u(i) * P * u(j).T)[0]
    return sp.sign(dot) * dot**2 / ((u(i) * P * u(i).T)[0] * (u(j) * P * u(j).T)[0])


A8, shift8 = torch.eye(8, dtype=torch.float64) + 0.5 * gauss(8, 8, seed=3), gauss(8, seed=4)
Q8 = torch.linalg.qr(gauss(8, 8, seed=5))[0]
again = lambda X, b, gam: gram(transform(X, *fit(X, b), b, gam, 8))
change = lambda X, b, gam: largest(again(X, b, gam) - again(toy, b, gam))
pairs5 = [(i, j) for i in range(5) for j in range(i)]


def power(M, p):
    """M^p of a symmetric positive definite matrix."""
    size, axes = torch.linalg.eigh(M)
    return axes * size**p @ axes.T


Sigma8 = second_moment(toy - toy.mean(0))
root8 = power(Sigma8, 0.5)
polar_gap = lambda gam: largest(root8 @ A8 @ power(A8.T @ Sigma8 @ A8, -gam) @ A8.T @ root8 - power(root8 @ A8 @ A8.T @ root8, 1 - gam))
nb.derivation(
    "D7",
    "At β = γ = 1, k = d, whitened cosines are invariant under any invertible x → xA + b; at γ < 1 under rotations and scalings only (and shifts, if β = 1).",
    sym.enumeration(
        "exact: ten pairs of five rows, integer A",
        pairs5,
        lambda p: cosine_squared(points * A3 + sp.ones(5, 1) * b3, *p),
        lambda p: cosine_squared(points, *p),
    ),
    ledger.close("300 × 8, γ = 1: largest change under A and b", change(toy @ A8 + shift8, 1, 1), 0, abs=1e-9, digits=1, machine=True),
    ledger.close("β = 1, γ = 0.5: under 3Q and b", change(3 * toy @ Q8 + shift8, 1, 0.5), 0, abs=1e-9, digits=1, machine=True),
    *[
        ledger.close(f"γ = {g}: largest entry of Σ^½ A (AᵀΣA)^(−γ) Aᵀ Σ^½ − S^(2−2γ)", polar_gap(g), 0, abs=1e-9, digits=1, machine=True)
        for g in (0.3, 0.5)
    ],
    ledger.more("β = 1, γ = 0.5: under A", change(toy @ A8, 1, 0.5), 0.05, digits=2),
    ledger.more("β = 0, γ = 0.5: under a shift", change(toy + shift8, 0, 0.5), 0.05, digits=2),
)

# %% [markdown]
# <div class="kx-play" data-play="bert-whitening" role="group" aria-label="A cloud in the plane, centred and flattened">
# <p><em class="kx-still">In the book on the web this is a figure to drag:</em> a cloud of 150 made-up vectors in the plane, before and
# after centring by β and flattening by γ, with the cosines of all pairs. Try: raise β alone, then γ alone, then both. Each removes one
# reason for which all cosines are large. <span class="kx-still">At β = γ = 1 the cloud is round and the cosines spread over the whole
# range.</span></p>
# </div>

# %% [markdown]
# ## Two ways in which "full" whitening goes wrong
#
# **D8: too few sentences.** Whiten $N\le d+1$ vectors in general position on themselves and all cosines are equal: $-\frac1{N-1}$. With the thin SVD $PSQ^\top$ of the centred rows the whitened Gram matrix is
# $N\,PP^\top$, $N$ times a projector; for $N\le d+1$ it projects on everything that is orthogonal to the constant vector. All that was learned is gone.
#
# It does not stop there. For any $N$ the Gram matrix is $N$ times a projector $\Pi=PP^\top$ of rank $d$, and $\Pi^2=\Pi$ says, exactly,
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
        ledger.close(f"normal rows, d = 200, N = {N}: RMS cosine", seen, math.sqrt((1 - 200 / N) / 200), rel=0.015, digits=3)
        for N, seen in rms_cosine.items()
    ],
)

# %% [markdown]
# **D9: LayerNorm makes $\Sigma$ singular.** A LayerNorm ends in $y=w\odot z+b$ with $\sum_jz_j=0$. Therefore
#
# $$\sum_j\frac{y_j}{w_j}=\sum_j\frac{b_j}{w_j}$$
#
# for *every* token, whatever it says, and for every average of tokens. The direction $1/w$ has no variance at all: $\operatorname{rank}\Sigma_1\le d-1$. BERT is a Post-Norm network: every layer ends like this. Full
# whitening of computed vectors divides the rounding noise of that direction by its own size (X2 has the factor).
#
# A second consequence completes D6. Along $1/w$ the mean of the vectors is not zero and nothing varies, so for $\beta\ne1$ this coordinate of $x-\beta\mu$ is a constant, which whitening normalises to $\pm1$: then
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
# its tokens after that layer; layer 0 is the embedding's output. The model was tuned for similarity end to end, but the loss saw only layer 6. So depth stands in for tuning here: the lower layers, whose
# cosines no loss has asked for, play the part of raw BERT. They are not an untuned model.
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


# %%
def fit_sets(device, layer):
    """Full whitening of one layer on STS-B test, fitted to the sentences of its test set or of dev and test, all or distinct ones: scores."""
    dev, test = load("stsb-dev"), load("stsb-test")
    x, y = (vectors(texts, device)[layer] for texts in (test.left, test.right))
    out = {"raw": spearman(F.cosine_similarity(x, y).cpu().numpy(), test.score.numpy())}
    for name, parts in (("test", [test]), ("dev and test", [dev, test])):
        texts = [text for p in parts for side in (p.left, p.right) for text in side]
        for kind, kept in (("all", texts), ("distinct", sorted(set(texts)))):
            out[f"{name}, {kind}"] = spearman(cosines(vectors(kept, device)[layer], x, y, 1, 1, 384), test.score.numpy())
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
cpu = torch.device("cpu")
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
        cpu=[400, 800, 1600, 2400], gpu=[400, 600, 1000, 2000, 4000, 6000], full=[400, 500, 600, 800, 1200, 2000, 4000, 6000]
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
    nb.run("E1d", fit_sets, layer=6)
E1 = nb.recorded("E1").result

# %% [markdown]
# Whether this code does what it says is checked at the end: there the same functions run on small sets and are compared, number by number, with other code (X1, X7).

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
    "Below the top whitening gains on sentences; on words only when cut to k = 128", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# Both regimes are there. On sentences the six lower layers gain from flattening the spectrum: centring alone brings one to six points, whitening seven to sixteen, and its intervals are far from zero. The top layer
# loses. Its mean is no trouble: it holds 2% of the mean squared norm, against 36% to 60% below, and removing it changes nothing (82.03 to 82.06).
#
# How much the top layer loses depends on which of the test's own sentences count (E1d, recorded). Fitted to the distinct ones of dev and test, as everywhere on this page, whitening scores 79.70; to all of them, repetitions
# included, 79.09; to the test set alone 78.98 (distinct) and 78.07 (all). Our reading: a repeated sentence weighs more than it should, and fewer sentences are closer to D8.
#
# Words behave differently. A gain of full whitening is resolved only in layer 5. *Centring* gains five to nine points, and whitening on top of it helps only when cut to 128 coordinates. With 353 pairs the intervals are ten points wide: whether
# whitening harms the top layer cannot be told from WordSim-353, on the benchmark's 1,379 pairs it can. Tables of such differences without intervals, the post's among them, deserve that caution.

# %% tags=["hide-input"]
STS = f"STS-B test, 1,379 pairs, recorded ({run1.device})"
WORDS = f"WordSim-353, fitted to {E2['rows']:,} words, live"
gain1, low1, high1 = differences(E1, "whitened")
cut1, cutlow1, cuthigh1 = differences(E1, "rotated, k = 128")
gain2, low2, high2 = differences(E2, "whitened")
words2 = run2.result  # recorded
wc2, wclow2, _ = differences(E2, "whitened, k = 128")
centre2, _, _ = differences(E2, "centred")
centrelow2, wordslow2 = differences(words2, "centred")[1], differences(words2, "whitened, k = 128")[1]
fulllow2, fullhigh2 = differences(words2, "whitened")[1:]
fits = nb.recorded("E1d").result
raw1 = np.array(E1["raw"])
WORDS6 = f"WordSim-353, fitted to 6,000 words, recorded ({run2.device})"
nb.experiment(
    "E1",
    "STS-B, seven layers, 81 (β, γ), all k: full whitening gains in layers 0 to 5 and loses at the top, with 95% intervals off zero; the raw top layer scores 82.03, the value listed for this model on the MTEB benchmark (unconfirmed).",
    "verified",
    holds=[
        ledger.close("raw score of layer 6 against the listed one", raw1[6, 0], 82.03, abs=0.02, digits=4, scope=STS),
        ledger.more("smallest lower end, whitened − raw, layers 0 to 5", low1[:6].min(), 0, digits=3, scope=STS),
        ledger.less("upper end, whitened − raw, layer 6", high1[6], 0, digits=3, scope=STS),
        ledger.less("centred − raw, layer 6: lower end", differences(E1, "centred")[1][6], 0, digits=2, scope=STS),
        ledger.more("and upper end: no change is resolved", differences(E1, "centred")[2][6], 0, digits=2, scope=STS),
        ledger.less(
            "share of the mean in layer 6, over the least below", E1["mean_share"][6] / min(E1["mean_share"][:6]), 0.1, digits=2, scope=STS
        ),
    ],
)
nb.experiment(
    "E1d",
    "Layer 6, full whitening: the loss is between 2 and 4 points, whichever of the test's own sentences it is fitted to, and largest for the test set alone.",
    "verified",
    holds=[
        ledger.close(
            "dev and test, distinct: as in E1",
            fits["dev and test, distinct"],
            E1["contrasts"][6]["whitened"][0],
            abs=0.011,
            digits=4,
            scope=STS,
        ),
        *[
            ledger.less(f"{name}: score − raw", value - fits["raw"], -2, digits=3, scope=STS)
            for name, value in fits.items()
            if name != "raw"
        ],
        ledger.less(
            "test alone, distinct, against dev and test, distinct",
            fits["test, distinct"],
            fits["dev and test, distinct"],
            digits=4,
            scope=STS,
        ),
    ],
)
nb.experiment(
    "E2",
    "On words as on sentences whitening to 128 coordinates gains in layers 0 to 5, and full whitening loses at the top (WordSim-353).",
    "partly",
    holds=[
        ledger.more("whitened, k = 128: smallest lower end, layers 0 to 5", wordslow2[:6].min(), 0, digits=3, scope=WORDS6),
        ledger.more("centred: smallest lower end, layers 0 to 5", centrelow2[:6].min(), 0, digits=3, scope=WORDS6),
        ledger.more("live: smallest gain, whitened, k = 128, layers 0 to 5", wc2[:6].min(), 0, digits=3, machine=True, scope=WORDS),
        ledger.more("live: smallest gain, centred, layers 0 to 5", centre2[:6].min(), 0, digits=3, machine=True, scope=WORDS),
        ledger.more(
            "live: whitened, k = 128, over centred, mean of layers 0 to 5",
            (wc2 - centre2)[:6].mean(),
            0,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
        ledger.close("raw score of layer 6, live and recorded", words2["raw"][6][0], E2["raw"][6][0], abs=0.05, digits=4, scope=WORDS),
    ],
    fails=[
        ledger.more("upper end, whitened − raw, layer 6: a loss is not resolved", fullhigh2[6], 0, digits=2, scope=WORDS6),
        sym.enumeration(
            "layers 0 to 5: is a gain of full whitening resolved?", range(6), lambda l: bool(fulllow2[l] > 0), lambda l: l == 5
        ),
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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels of the score minus the raw score against the number of kept coordinates k, from 32 to 384 on a log axis: layers 1 and 6, on STS-B above and WordSim-353 below. In layer 1 of STS-B plain whitening rises to about 14 points near full dimension while the rotation climbs to zero; in layer 6 the rotation reaches zero at about 128 coordinates and whitening peaks a point below it. On words whitening peaks between 64 and 128 coordinates and falls by ten points towards full dimension. Dots show random projections, below the rotation except in layer 1 of STS-B at 32."}}
curve_names = ("rotated: β = γ = 0", "centred: β = 1, γ = 0", "half: β = 1, γ = ½", "whitened: β = γ = 1")
base1 = nb.recorded("E1b").result
figure, panels = plt.subplots(2, 2, figsize=(8.2, 5.6), sharex=True, sharey="row")
for row, (result, baseline, name) in enumerate(((E1, base1, "STS-B (recorded)"), (E2, E1b, "WordSim-353 (live)"))):
    for axes, layer in zip(panels[row], (1, 6), strict=True):
        raw = result["raw"][layer][0]
        for curve, label, color, style in zip(
            result["curves"][layer], curve_names, (BLUE, GREEN, PURPLE, ORANGE), ("-", "--", "-.", ":"), strict=True
        ):
            axes.plot(np.arange(32, 385), np.array(curve)[31:] - raw, color=color, ls=style, label=label)
        drawn = np.array(baseline["random"][layer])[:, 1:] - raw
        axes.errorbar((32, 64, 128, 256), drawn.mean(0), drawn.std(0), fmt="o", color=BLACK, ms=3.5, lw=1, label="random projection ± s.d.")
        axes.axhline(0, color=GREY, lw=1)
        axes.set(xscale="log")
        axes.set_xticks([32, 64, 128, 256, 384], ["32", "64", "128", "256", "384"])
        axes.minorticks_off()
        axes.set_title(f"{name}, layer {layer}", fontsize=10)
panels[0, 1].legend(fontsize=7.5, loc="upper right")
for axes in panels[1]:
    axes.set_xlabel("kept coordinates k (log axis)")
for axes in panels[:, 0]:
    axes.set_ylabel("score − raw, points")
figure.suptitle(
    "Plain whitening must be cut on words; the rotation saturates near k = 128 at the top",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# **Is the lunch free, and is it PCA that pays?** Much of the saving comes with any projection: a random one to 128 coordinates, which knows nothing, costs the top layer a point and a half; so do the first 128 raw coordinates. The rotation
# costs a tenth of a point. But this rotation has seen the test's sentences. Fitted to single words it costs 1.6 points and fitted to Shakespeare 1.2 (E1c): no better than random. The limit of the free lunch is the fit set.
#
# And with a *sharp* cut PCA can do harm. The table has rotation minus random projection: at $k=16$ random directions win in layers 0, 1 and 6, and elsewhere nothing is resolved at three standard errors. D4 says that the leading eigenvectors keep
# inner products best in the mean square; they do so by keeping the directions in which sentences vary most, and those need not be the ones that people judge by. On words the rotation wins
# in every layer from $k=32$ on, by 3 to 19 points.

# %% tags=["hide-input"]
z_words = vectors(load("wordsim353").texts, cpu)[6]
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
edge = rotated1 - random1.mean(1)  # rotation minus the mean random projection, (layers, ks)
edge_error = random1.std(1, ddof=1) / math.sqrt(20)
edge_words = np.array(E1b["rotated"]) - np.mean(E1b["random"], 1)
cuts = nb.recorded("E1b").config["ks"]
nb.results(
    "E1b",
    "Rotated to k coordinates (β = γ = 0) minus a random projection to k: STS-B test (± standard error of 20 projections), and WordSim-353 (mean of 4, live)",
    ["layer", *(f"STS-B, {k}" for k in cuts), *(f"words, {k}" for k in cuts)],
    [
        [
            l,
            *(f"{a:.1f} ± {e:.1f}" for a, e in zip(edge[l], edge_error[l], strict=True)),
            *(ledger.number(a, 2, machine=True) for a in edge_words[l]),
        ]
        for l in LAYERS
    ],
)
other_fits = {name: np.array(nb.recorded("E1c").result[name])[6, 2] for name in ("words", "Shakespeare")}  # rotated, k = 128
random_loss = float(random1[6, :, 3].mean() - raw1[6, 0])
verdict16 = lambda l: int(np.sign(edge[l, 0]) * (abs(edge[l, 0]) > 3 * edge_error[l, 0]))
nb.experiment(
    "E1b",
    "What the rotation is worth against a random projection: at k = 128 and 256 it wins in layers 1 to 6 of STS-B, at k = 16 it loses in layers 0, 1 and 6; on words it wins in every layer from k = 32 on.",
    "verified",
    holds=[
        ledger.more(
            "k = 128, 256, layers 1 to 6: least difference in standard errors",
            (edge / edge_error)[1:, 3:].min(),
            3,
            digits=3,
            scope=STS + ", 20 draws",
        ),
        ledger.more("layer 6, k = 128: rotation − first raw coordinates", rotated1[6, 3] - first1[6, 3], 0, digits=3, scope=STS),
        sym.enumeration(
            "k = 16: sign of the difference, 0 within 3 standard errors", LAYERS.tolist(), verdict16, [-1, -1, 0, 0, 0, 0, -1].__getitem__
        ),
        ledger.more(
            "words, live, k = 32 to 256: least difference of all layers",
            float(edge_words[:, 1:].min()),
            0,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
    ],
)
nb.claim(
    "C7",
    "Free lunch: at β = γ = 0 a cut to d/3 changes the score by at most 1.5 points in every layer, and costs at most 0.5 in the top layer (STS-B).",
    "partly",
    holds=[
        ledger.more("top layer, fitted to the test's own sentences: change", cut1[6], -0.5, digits=2, scope=STS),
        ledger.less("layers 1, 2, 5: largest |change|", float(np.abs(cut1[[1, 2, 5]]).max()), 1.5, digits=3, scope=STS),
    ],
    fails=[
        ledger.less("layer 0 loses more than 1.5", cut1[0], -1.5, digits=3, scope=STS),
        ledger.more("layers 3 and 4 change by more than 1.5", cut1[3:5].min(), 1.5, digits=3, scope=STS),
        *[
            ledger.less(f"top layer, fitted to {name}: upper end of the change", high, -0.5, digits=3, scope=STS)
            for name, (_, _, high) in other_fits.items()
        ],
        *[
            ledger.close(
                f"top layer, fitted to {name}: change, against a random projection's",
                value - raw1[6, 0],
                random_loss,
                abs=0.5,
                digits=3,
                scope=STS,
            )
            for name, (value, _, _) in other_fits.items()
        ],
    ],
)

# %% [markdown]
# ### E4: the whole map
#
# Score over $(\gamma,k)$ at both ends of $\beta$. The question that the title answers with "always one that suits you" is whether the ridge is where you can find it. Along $\gamma$ at $k=d$ (last column) the best is at the end of the grid, $\gamma=1$, in layers 0 and 1, inside in layers 2 to 5, and in layer 6 nothing is to be gained: the curve is flat up to $\gamma=\frac18$ (82.06 and 82.09, not told apart by 1,379 pairs) and falls from there.

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
        [float(metrics.renyi_entropy((lambda p: p / p.sum())(torch.tensor(v[v > 1e-9 * v[0]]) ** (1 - gam)), 1).exp()) for gam in gammas1]
        for v in spectra1
    ]
)
for layer in LAYERS:
    look = {
        "color": (BLACK, GREY, SKY, BLUE, PURPLE, RED, ORANGE)[layer],
        "ls": ("-", "--", ":", "-", "--", ":", "-")[layer],
        "lw": 1.5 + 0.8 * (layer == 6),
    }
    panels[0, 2].plot(gammas1, grid1[layer, -1, :, -1] - grid1[layer, -1, 0, -1], label=f"layer {layer}", **look)
    panels[1, 2].plot(gammas1, erank[layer], **look)
panels[0, 2].legend(fontsize=7, ncols=2, loc="upper left")
panels[0, 2].set(ylim=(-4, 24))
panels[0, 2].set_title("k = d, β = 1", fontsize=10)
panels[0, 2].set_ylabel("score − score at γ = 0")
panels[1, 2].set_title("spectrum Λ^(1−γ)", fontsize=10)
panels[1, 2].set_ylabel("effective rank")
panels[1, 2].set(xlabel="γ")
figure.suptitle(
    "Below the top γ = ½ and more pays; at the top it only costs (STS-B, recorded; stars: best)",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
at_full = grid1[:, -1, :, -1]  # beta = 1, k = d: (layers, gammas)
beta_range = {which: np.ptp(grid1[:, :, j, -1], axis=1) for j, which in ((0, "γ = 0"), (-1, "γ = 1"))}
E2grid = np.array(E2["grid"])
half_spectrum = np.sqrt(spectra1[1][:383])
nb.experiment(
    "E4",
    "Along γ (β = 1, k = d) the score rises up to γ = ½ in layers 0 to 5 and is still above that of γ = 0 at γ = 1; in layer 6 it falls from γ = ⅛ on. The effective rank rises in every layer.",
    "verified",
    holds=[
        ledger.more(
            "layers 0 to 5: least step of the score up to γ = ½", float(np.diff(at_full[:6, :5], axis=1).min()), 0, digits=2, scope=STS
        ),
        ledger.more("layers 0 to 5: least gain of γ = 1 on γ = 0", float((at_full[:6, -1] - at_full[:6, 0]).min()), 0, digits=3, scope=STS),
        ledger.less("layer 6: largest step from γ = ⅛ on", float(np.diff(at_full[6, 1:]).max()), 0, digits=2, scope=STS),
        sym.enumeration("best γ, in eighths", LAYERS.tolist(), lambda l: int(at_full[l].argmax()), [8, 8, 7, 6, 6, 4, 1].__getitem__),
        ledger.more("smallest rise of the effective rank in a step of γ", float(np.diff(erank, axis=1).min()), 0, digits=3, scope=STS),
        ledger.close("effective rank at γ = 1, layer 0", erank[0, -1], 383, abs=0.01, digits=4, scope=STS),
        ledger.close(
            "effective rank at γ = ½, layer 1, by SciPy's entropy of √λ",
            erank[1, 4],
            math.exp(scipy.stats.entropy(half_spectrum)),
            rel=1e-9,
            digits=4,
            scope=STS,
        ),
    ],
)
nb.claim(
    "C8",
    "At γ = 1, k = d the knob β moves the score by at most 0.1 point, at γ = 0 by more than a point in layers 4 and 5.",
    "partly",
    holds=[
        ledger.less("STS-B, γ = 1: largest range over nine β, all layers", beta_range["γ = 1"].max(), 0.1, digits=2, scope=STS),
        ledger.more("STS-B, γ = 0: smallest range in layers 4 and 5", beta_range["γ = 0"][4:6].min(), 1, digits=3, scope=STS),
        ledger.more(
            "words, γ = 0: smallest range in layers 4 and 5",
            float(np.ptp(np.array(words2["grid"])[4:6, :, 0, -1], axis=1).min()),
            1,
            digits=3,
            scope=WORDS6,
        ),
    ],
    fails=[
        ledger.more(
            "words, γ = 1: largest range", float(np.ptp(np.array(words2["grid"])[:, :, -1, -1], axis=1).max()), 0.1, digits=2, scope=WORDS6
        ),
        ledger.more(
            "words, γ = 1: largest range, live", float(np.ptp(E2grid[:, :, -1, -1], axis=1).max()), 0.1, digits=2, machine=True, scope=WORDS
        ),
    ],
)

# %% [markdown]
# ### D6 and D9 on the real encoder
#
# At $\gamma=1$ the knob $\beta$ moves the score by hundredths of a point on sentences, by up to three tenths on words. D6 and D9 say why so little: any two $\beta\ne1$ agree exactly, and $\beta=1$ differs from them by the constant 1 in every inner product. Checked on word vectors, with the null direction that LayerNorm leaves.

# %% mystnb={"image": {"alt": "Eigenvalues of the covariance of word vectors in layers 1 and 6, divided by the largest, against their index from 1 to 384, on a log axis. Layer 1 falls by four orders of magnitude smoothly and its last value drops to ten to the minus fifteen; layer 6 falls more slowly and its last three values drop to ten to the minus seventeen. The drops are marked as the exact null directions of LayerNorm."}}
X_words = vectors(common_words(E2["rows"]), cpu)
norms = minilm.Encoder().norms  # norms[2 l] ends layer l
gains, biases = ([getattr(norms[2 * l], part).double() for l in LAYERS] for part in ("weight", "bias"))
along_null = [X_words[l] @ (1 / gains[l]) for l in LAYERS]  # sum_j y_j / w_j for every word
model1 = [fit(X_words[l], 1) for l in LAYERS]
rank1 = [int((lam > 1e-9 * lam[0]).sum()) for _, lam, _ in model1]

figure, axes = plt.subplots(figsize=(7, 3.4))
for l, color, style in ((1, BLUE, "-"), (6, ORANGE, "--")):
    lam = (model1[l][1] / model1[l][1][0]).abs().clamp_min(1e-18)  # eigh may return 0 or a negative number there
    axes.plot(np.arange(1, 385), lam, color=color, ls=style, label=f"layer {l}: rank {rank1[l]}")
    axes.plot(np.arange(rank1[l] + 1, 385), lam[rank1[l] :], "x", color=color, ms=7)
axes.set(yscale="log", xlabel="index of the eigenvalue", ylabel="eigenvalue / largest (log axis)")
axes.annotate(
    "null directions: only rounding\n(drawn at 1e-18 where smaller)",
    (383, 1e-15),
    (215, 1e-13),
    fontsize=9,
    arrowprops={"arrowstyle": "->", "color": GREY},
)
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


def gap_to_plus_one(l):
    """Layer l, beta = 0: largest difference of a cosine of 437 words from plain whitening with 1 added to each inner product."""
    z = vectors(load("wordsim353").texts, cpu)[l]
    T = F.pad(transform(z, *model1[l], 1, 1, 384), (0, 1), value=1.0)  # one more coordinate, always 1
    return largest(gram(transform(z, *fit(X_words[l], 0), 0, 1, 384)) - gram(T))


amplified = [float((lam[0] / lam[-1].abs().clamp_min(1e-300)).sqrt()) for _, lam, _ in model1[:6]]
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
        ledger.close("the same, worst of layers 0 to 5", max(map(gap_to_plus_one, range(6))), 0, abs=1e-4, digits=1, machine=True),
        ledger.more(
            "without the threshold: factor of the null direction over that of the first, least of layers 0 to 5",
            min(amplified),
            1e5,
            digits=1,
            machine=True,
        ),
    ],
)

# %% [markdown]
# (In layer 6 three gains are smaller than $10^{-8}$: three coordinates of this public model are constants. They are its three null directions; the sum over the others is then free, so that LayerNorm adds no fourth.)
#
# ### E2b: how many sentences does whitening need?
#
# D8 warns against $N$ near $d$. So fit to $N$ random words and watch WordSim-353. In layer 1 full whitening is within a point of its best only from some ten times as many words as dimensions; cut to 128 coordinates, 400 words come within two points.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: histograms of cosines between word vectors of layer 1 whitened on themselves for N over d of 0.5, 1.05, 2 and 8. At 0.5 all cosines equal minus one over N minus 1, a spike; with growing N the histogram widens to a bell. Right: WordSim-353 score against the number of words that the transform was fitted to, from 400 to 6000 on a log axis; full whitening climbs from about 28 to 65 in layer 1 and from 37 to 71 in layer 6, whitening to 128 coordinates is flat near 73."}}
run2b = nb.recorded("E2b")
sizes2b, scores2b = run2b.config["sizes"], np.array(run2b.result["scores"])  # (layers, sizes, seeds, [full, 128])
live2b, live_sizes = np.array(E2b["scores"]), [400, 800, 1600, 2400]
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
    "Up to N = d + 1 all cosines are equal; full whitening wants N ≫ d, the cut one does not",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
few = self_whitened(X_words[1][:200])
own = np.array(E2b["own"])
own_high = float(np.array(E1c["evaluated"])[:, 0, 2].max())  # E1c fits WordSim-353 to its own words, with intervals
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
    "Fitted to the 437 evaluated words themselves, full whitening loses in every layer; from 400 to 4,000 random words it gains over 20 points, with k = 128 less than 5.",
    "verified",
    holds=[
        ledger.less("own words: largest upper end of score − raw, seven layers", own_high, 0, digits=3, machine=True, scope=WORDS),
        ledger.more(
            "own words, layers 1 and 6: least gain of k = 128 on k = d",
            float((own[:, 1] - own[:, 0]).min()),
            0,
            digits=3,
            machine=True,
            scope=WORDS,
        ),
        *[
            ledger.better(f"layer {l}, k = d: 2,400 words over 400", live2b[i, -1, :, 0], live2b[i, 0, :, 0], scope=WORDS + ", 3 draws")
            for i, l in enumerate((1, 6))
        ],
        *[
            ledger.better(
                f"recorded, layer {l}, k = d: 4,000 words over 400, less 20 points",
                scores2b[i, sizes2b.index(4000), :, 0] - 20,
                scores2b[i, 0, :, 0],
                scope=f"recorded, 10 draws ({run2b.device})",
            )
            for i, l in enumerate((1, 6))
        ],
        ledger.less(
            "k = 128: largest mean gain from 400 to 2,400 words",
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
#
# *Expectation.* $\lambda_j^{-1/2}$ is largest where the fitted sample varies least. If the test's sentences do vary there (single words say nothing about the directions of syntax and length), those directions are blown up and drown the rest.
# A cut to $k=128$ throws them away. At $\gamma=0$ nothing is divided.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels with one scale, change of the STS-B score against raw vectors for layers 0 to 6 with 95 percent intervals, for transforms fitted to the benchmark's own sentences, to single words and to lines of Shakespeare. Left, full whitening: own sentences gain up to sixteen points, words lose up to thirty-three, Shakespeare gains in layers 0 and 1 and loses up to twenty-two in layer 3. Middle, whitening to 128 coordinates: own sentences gain ten to fifteen below the top, the others gain up to ten in layers 0 to 2 and lie between minus eight and plus three above. Right, rotation to 128: all three stay between minus six and plus eight."}}
run1c = nb.recorded("E1c")
fitted = ("evaluated", "words", "Shakespeare")
labels = {"evaluated": "the test's own sentences", "words": "6,000 words", "Shakespeare": "5,000 lines of Shakespeare"}
domain = {name: np.array(run1c.result[name]) for name in fitted}  # (layers, settings, [score, low, high])
raw1c = np.array(run1c.result["raw"])
figure, panels = plt.subplots(1, 3, figsize=(8.6, 3.6), sharey=True)
for axes, j, title in zip(panels, range(3), ("whitened, k = d", "whitened, k = 128", "rotated, k = 128"), strict=True):
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
    "Fitted to other texts, full whitening can ruin what it was meant to mend; cut, it mostly gains",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
fit_gain = {name: domain[name][:, :, 0] - raw1c[:, None] for name in fitted}
others = ("words", "Shakespeare")
nb.experiment(
    "E1c",
    "STS-B: below the top, full whitening gains in every layer when fitted to its own sentences and loses in every layer when fitted to single words; fitted to Shakespeare it gains in layers 0 and 1 and loses in 3 to 5, and cut to 128 gains on average. At the top the rotation to 128 loses with both foreign fits.",
    "verified",
    holds=[
        ledger.more("own sentences: least lower end, layers 0 to 5", domain["evaluated"][:6, 0, 1].min(), 0, digits=3, scope=STS),
        ledger.less("words: largest upper end, layers 0 to 5", domain["words"][:6, 0, 2].max(), 0, digits=3, scope=STS),
        ledger.more("Shakespeare, layers 0 and 1: least lower end", domain["Shakespeare"][:2, 0, 1].min(), 0, digits=3, scope=STS),
        ledger.less("Shakespeare, layers 3 to 5: largest upper end", domain["Shakespeare"][3:6, 0, 2].max(), 0, digits=3, scope=STS),
        ledger.more("Shakespeare, k = 128: mean change, layers 0 to 5", fit_gain["Shakespeare"][:6, 1].mean(), 0, digits=3, scope=STS),
        ledger.less(
            "rotated, k = 128, layer 6, words and Shakespeare: largest upper end",
            max(domain[name][6, 2, 2] for name in others),
            0,
            digits=3,
            scope=STS,
        ),
        ledger.close(
            "the same fit as in E1, layer 1",
            domain["evaluated"][1, 0, 0],
            E1["contrasts"][1]["whitened"][0],
            abs=0.011,
            digits=4,
            scope=STS,
        ),
    ],
)

# %% [markdown]
# So it is: in full, words ruin every layer below the top. Cut to 128 coordinates, whitening fitted to Shakespeare gains 4 points on average below the top (12 with the test's own sentences). The rotation loses 6.2 at most, and cutting by the words' axes even gains.
# At the top every fit to other texts costs 1.2 points or more, the rotation included: there the lunch is not free.
#
# ### E3: news texts
#
# Lee's 50 news texts {cite}`lee2005empirical`, all 1,225 pairs compared by people. The transform is fitted to 350 texts, these and 300 others of the same kind, cut to 128 tokens: fewer texts than dimensions, so that at most 349 directions have variance and D8 is near. The pairs share texts, so the bootstrap resamples *texts*.

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
left.set_title("change, 95% intervals (recorded)", fontsize=10)
left.legend(fontsize=8, loc="upper right")
for j, (name, color, style) in enumerate((("rotated", BLUE, "-"), ("whitened", RED, "--"))):
    for layer, width in ((6, 2), (4, 1)):
        right.plot(
            [8, 16, 32, 64, 128], lee_k[layer, j], color=color, ls=style, lw=width, marker="o", ms=3.5, label=f"{name}, layer {layer}"
        )
right.set(xscale="log", xlabel="k (log axis)", ylabel="score")
right.set_title("layers 4 and 6", fontsize=10)
right.set_xticks([8, 16, 32, 64, 128], ["8", "16", "32", "64", "128"])
right.minorticks_off()
right.legend(fontsize=8)
figure.suptitle(
    "News: whitening to 128 coordinates loses in every layer, the rotation next to nothing",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
NEWS = f"50 texts, 350 to fit to, recorded ({run3.device})"
live3 = {name: np.array(E3[name]) for name in ("centred", "rotated", "whitened")}
news_pairs, news_others = similarity.lee_news()
L = vectors([*news_pairs.texts, *news_others[:150]], cpu, 64)[6]
texts_of = {t: i for i, t in enumerate(news_pairs.texts)}
said = np.eye(50)
for a, b, v in zip(news_pairs.left, news_pairs.right, news_pairs.score, strict=True):
    said[texts_of[a], texts_of[b]] = said[texts_of[b], texts_of[a]] = v
eight = [gram(transform(L[:50], *fit(L, 1), 1, gam, 8)).numpy() for gam in (0, 1)]
again50 = list(resampled(np.random.default_rng(0).integers(50, size=(200, 50))))
flattening = np.array([np.subtract(*(spearman(G[ij], said[ij]) for G in eight[::-1])) for ij in again50])
nb.experiment(
    "E3",
    "News: whitening to 128 coordinates, from 350 texts, loses in every layer; no loss of the rotation is resolved, and none by centring, by 50 texts.",
    "verified",
    holds=[
        ledger.less("whitened: largest upper end of the seven intervals", lee["whitened"][:, 2].max(), 0, digits=3, scope=NEWS),
        ledger.more("rotated: smallest upper end", lee["rotated"][:, 2].min(), 0, digits=2, scope=NEWS),
        ledger.less("centred: largest lower end", lee["centred"][:, 1].max(), 0, digits=3, scope=NEWS),
        ledger.more("centred: smallest upper end", lee["centred"][:, 2].min(), 0, digits=2, scope=NEWS),
        ledger.less(
            "live, 200 texts of 64 tokens: largest upper end of whitened − raw",
            live3["whitened"][:, 2].max(),
            0,
            digits=3,
            machine=True,
            scope="live",
        ),
        ledger.less(
            "live, layer 6, β = 1, k = 8: γ = 1 against γ = 0, 97.5% point",
            float(np.quantile(flattening, 0.975)),
            0,
            digits=2,
            machine=True,
            scope="live, 25 texts a coordinate",
        ),
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
tuned2, tunedlow2, tunedhigh2 = differences(run2.result, "tuned")
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
            f"{run2.result['raw'][l][0] + tuned2[l]:.2f} ({tuned2[l]:+.1f}; {tunedlow2[l]:+.1f} to {tunedhigh2[l]:+.1f})",
            f"{regret2[l]:.1f}",
        ]
        for l, (a, b) in enumerate(zip(chosen1, chosen2, strict=True))
    ],
)
nb.claim(
    "C9",
    "Chosen on labelled validation data, the transform is never worse than raw vectors by more than 0.1 point on the test data (STS-B, dev to test).",
    "verified",
    holds=[
        ledger.more("least change, seven layers", tuned1.min(), -0.1, digits=2, scope=STS),
        ledger.more("least lower end, seven layers", tunedlow1.min(), 0, digits=2, scope=STS),
    ],
)
nb.claim(
    "C9b",
    "The same from SimLex to WordSim, another notion of similarity: a gain in layers 1 to 5; in layer 0 and at the top 353 pairs do not resolve the sign.",
    "verified",
    holds=[
        ledger.more("layers 1 to 5: least lower end", tunedlow2[1:6].min(), 0, digits=3, scope=WORDS6),
        sym.enumeration(
            "does the interval contain 0?", LAYERS.tolist(), lambda l: bool(tunedlow2[l] < 0 < tunedhigh2[l]), lambda l: l in (0, 6)
        ),
    ],
)

# %% [markdown]
# ## The post's and the papers' numbers beside ours
#
# The table that carries the post is drawn in the first figure. It was made with Chinese BERT and SimBERT on five Chinese sets, with weights and data that this book does not have, so that its cells stand as quoted. Two things can be checked: whether it
# agrees with itself and with D3, and whether our layers look like its two models.

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
    reason="The Chinese BERT and SimBERT weights and the five Chinese test sets would decide it; we have none of them.",
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
        ledger.less("BERT on LCQMC loses a point", min(change0), -1, digits=3, method="arithmetic"),
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
        sym.enumeration(
            "sum over the five sets of whitened − raw, hundredths of a point: k = 768 and 256",
            [(m, j) for m in ("BERT", "SimBERT") for j in (1, 2)],
            lambda p: sum(row[p[1]] - row[0] for row in cell(p[0], 1)),
            {("BERT", 1): 644, ("BERT", 2): 1109, ("SimBERT", 1): -3018, ("SimBERT", 2): -1628}.get,
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
        f"Chinese {model}, pooling {pooling}, mean of five sets (post)",
        mean_post(model, 1, 0),
        mean_post(model, 1, 1),
        mean_post(model, 1, 2),
        mean_post(model, 0, 2),
        "quoted; d = 768, a third is 256",
    ]
    for model, pooling in (("BERT", "P4"), ("SimBERT", "P1"))
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
            "71.34",
            "71.43",
            "",
            "quoted; fitted to the target",
        ],
        ["the same in a PyTorch re-implementation", "59.04", "", "71.43", "", "its README; fitted to the target"],
        ["the same, fitted to NLI", "59.04", "63.65", "64.96", "", "its README; the paper: 68.19, 67.51"],
        ["SBERT-base-nli (re-implementation)", "not given", "", "80.74", "", "its README; fitted to the target"],
        ["the same, fitted to NLI", "not given", "76.53", "76.78", "", "its README"],
        *rows_ours,
    ],
)
nb.claim(
    "C10",
    "Parent paper: BERT-base on STS-B rises from 59.04 to 71.43 by whitening to 256 coordinates fitted to the target's sentences, and less (68.19 in full) when fitted to NLI.",
    "not checkable",
    reason="BERT-base and the NLI sentences would decide it; we have neither. The re-implementation's README, which agrees on 59.04 and 71.43, prints 63.65 and 64.96 for NLI.",
)

# %% [markdown]
# P1 and P4 are two of post 8321's four poolings (averages of the first and last layers or of the last, the [CLS] vector, the pooler's output); which is which we could not check. The mean of SimBERT over five sets falls by six points with full whitening, our top layer by two;
# the rotation costs little in both. What SimBERT loses depends on the set: 15 points on ATEC, 0.8 on STS-B, and on PAWSX it gains 3.4.
#
# Two discrepancies in print. Fitted to NLI, the re-implementation is several points below what the paper gives (63.65 against 68.19 in full); we cannot say why. And the target's own sentences are not always the best: in its README BERT-base cut to 256 has
# 67.57 on SICK-R fitted to NLI, 62.23 fitted to the target, and on STS-15 74.83 against 74.59.
#
# Memory and speed of the parent paper's retrieval test (299,364 vectors of Quora questions; FAISS): 0.8564 "GB" at $d=768$, 0.2854 at 256, 0.7488 and 0.1910 ms a query. The memory is arithmetic, four bytes a number, in GiB and with the last digit cut off.
# The re-implementation's script, which measured this, searches an inverted file (FAISS IVF, 5 of 1,024 cells a query); ours is brute force, so only the ratio of the times is comparable; and a clock on a busy machine is a poor judge, so what decides here is the count of operations.

# %% tags=["nbval-ignore-output", "hide-input"]
gib = lambda d: 299_364 * d * 4 / 2**30
store, ask = gauss(60_000, 384, seed=20).float(), gauss(384, seed=21).float()
small_store, small_ask = store[:, :128].contiguous(), ask[:128].contiguous()


def milliseconds(stores, queries, rounds=40):
    """Time of a search by brute force in each store: the fastest of ``rounds``, the stores taken in turn."""
    best = [math.inf] * len(stores)
    for _ in range(rounds):
        for i, (M, v) in enumerate(zip(stores, queries, strict=True)):
            start = time.perf_counter()
            (M @ v).argmax()
            best[i] = min(best[i], 1000 * (time.perf_counter() - start))
    return best


def operations(M, v):
    """Of the products in a search, as torch issues them."""
    with FlopCounterMode(display=False) as count:
        M @ v[:, None]
    return count.get_total_flops()


slow, fast = milliseconds([store, small_store], [ask, small_ask])
nb.claim(
    "C11",
    "A third of the coordinates takes a third of the memory and of the multiplications of a search by brute force, and less time (the source: 3.0 times less memory, 3.9 times less time).",
    "verified",
    holds=[
        sym.enumeration(
            "299,364 float32 vectors, ten-thousandths of a GiB, cut off",
            (768, 256),
            lambda d: math.floor(1e4 * gib(d)),
            {768: 8564, 256: 2854}.get,
        ),
        ledger.close("numbers stored: ours at d = 384 over those at 128", store.numel() / small_store.numel(), 3, abs=1e-9),
        ledger.close(
            "operations of a search, counted by torch: d = 384 over 128",
            operations(store, ask) / operations(small_store, small_ask),
            3,
            abs=1e-9,
        ),
        ledger.more(
            "brute force over 60,000 vectors, time at d = 384 over that at 128",
            slow / fast,
            1.25,
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
# - **Softer whitening.** $\gamma$ flattens by a power. Adding a floor, $(\lambda_j+\epsilon\lambda_1)^{-1/2}$ ("soft ZCA", {cite}`diera2024softzca`; there $\epsilon$ is absolute, here in units of $\lambda_1$), or removing the top $r$ directions and leaving the rest
#   ("all but the top", {cite}`mu2018allbutthetop`) are the same idea with another shape. On STS-B none of the three families wins everywhere: their best members, chosen in hindsight, lie within 0.8 points of one another in every layer (below), which is less than the width of the intervals in E1.
# - **Train instead of transform.** SimCSE {cite}`gao2021simcse` shows that contrastive training flattens the spectrum by itself. The top layer here fits that: it is centred and has the largest effective rank, without any map.
# - **Layers.** WhiteningBERT {cite}`huang2021whiteningbert` averages first and last layers before whitening. Exercise 3.
# - **Not for classification.** {cite}`forooghi2024whitening` find that whitening harms classifiers on top of language models. Our reading, not theirs: a linear classifier can undo a linear map, but not under a penalty on its weights, and not a cut.

# %% tags=["hide-input"]
top_removed, soft = np.array(base1["top_removed"]), np.array(base1["soft"])
family = {
    "γ (β = 1, k = d)": at_full.max(1),
    "soft ZCA": soft.max(1),
    "all but the top": top_removed.max(1),
}
nb.results(
    "X3",
    "STS-B test: the best member of three one-parameter families with centring, k = d (best in hindsight for all three: 9, 6 and 7 members)",
    ["layer", "raw", "centred", *family],
    [[l, f"{raw1[l, 0]:.2f}", f"{top_removed[l, 0]:.2f}", *(f"{best[l]:.2f}" for best in family.values())] for l in LAYERS],
)
best_three = np.array(list(family.values()))
nb.claim(
    "X3",
    "Three ways to soften whitening (a power γ, a floor ε, removing r top directions), each at its best, differ by less than the half-width of the interval of whitening in every layer of STS-B, and beat centring in layers 0 to 5.",
    "verified",
    holds=[
        ledger.less(
            "spread of the three bests over the half-width of E1's interval, largest",
            float((np.ptp(best_three, axis=0) / ((high1 - low1) / 2)).max()),
            1,
            digits=2,
            scope=STS,
        ),
        ledger.more(
            "least gain over centring alone, layers 0 to 5",
            float((best_three.min(0) - top_removed[:, 0])[:6].min()),
            0,
            digits=3,
            scope=STS,
        ),
        ledger.close(
            "removing nothing is centring, layer 1", top_removed[1, 0], E1["contrasts"][1]["centred"][0], abs=0.011, digits=4, scope=STS
        ),
    ],
)

# %% [markdown]
# ## What does not hold
#
# - **"As independent as possible"** (D5): the rotated components are uncorrelated only for $\beta=1$.
# - **"A free lunch"** (C4, C7): on average over the post's table, yes. But that table has a loss of 1.3 points, and here the cut to a third moves the layers below the top by up to two points, in both directions. At the top it is free only for a rotation
#   fitted to the test's own sentences: −0.1 (interval −0.6 to 0.4), against −1.6 (−2.3 to −1.1) fitted to words and −1.2 (−1.8 to −0.7) to Shakespeare. A random projection, fitted to nothing, loses 1.5. At $k=16$ the rotation does worse than random (E1b).
# - **"Always one that suits you"** (C9) is true by construction on the set where one chooses. It survives the step from dev to test, with intervals above 0 in all layers. From SimLex to WordSim five layers gain, two are unresolved.
# - **Whitening of a tuned encoder need not lose much**: at the top of MiniLM 2.3 points in full and 1.0 after the cut. How much depends on the data: SimBERT loses 15 points on ATEC and gains on PAWSX.
# - **Words and news** (E2, E3): on words full whitening adds nothing to centring in six of seven layers; on news it loses in all layers. With 350 texts for 384 dimensions D8 has its part in that, but not all of it: live, at the top, flattening loses also at $k=8$ with 25 texts a coordinate.
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
# In part: the floor keeps the directions that were never seen from being blown up. Full whitening with the sample covariance loses more than twenty points, with the shrunk one a few: the repair prevents the ruin, but raw vectors remain better. It is soft ZCA with a floor chosen from the data.
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
    "Exercise 2: with Ledoit and Wolf's covariance of the 437 evaluated words whitening does far better than with their sample covariance, and still not better than raw vectors (layer 1).",
    "verified",
    holds=[
        ledger.more("gain over the sample covariance", repaired, own[0, 0], margin=15, digits=3, machine=True, scope=WORDS),
        ledger.less("score, against raw vectors", repaired, E2["raw"][1][0], digits=3, machine=True, scope=WORDS),
    ],
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
scored, spun3 = spearman(np.array(three), judged.score.numpy()), bootstrap(three, judged.score.numpy(), 1000)
low3, high3 = np.quantile(spun3[2] - spun3[:2], [0.025, 0.975], axis=1)
normal3 = scored[2] - scored[:2] - 1.96 * (spun3[2] - spun3[:2]).std(1)
nb.claim(
    "X6",
    "Exercise 3: the average of layers 1 and 6, whitened to 128 coordinates, scores more than either (WordSim-353); against layer 1 the interval contains 0.",
    "verified",
    holds=[
        ledger.more("mixture − the better layer", float(scored[2] - scored[:2].max()), 0, digits=2, machine=True, scope=WORDS),
        ledger.less("lower end of the interval against layer 1", float(low3[0]), 0, digits=2, machine=True, scope=WORDS),
        ledger.more("upper end", float(high3[0]), 0, digits=2, machine=True, scope=WORDS),
        ledger.close(
            "lower ends against a normal approximation: largest gap",
            largest(torch.tensor(low3 - normal3)),
            0,
            abs=1,
            digits=2,
            machine=True,
            scope=WORDS,
        ),
    ],
)

# %% [markdown]
# ## Does the code do what it says?
#
# Each function is compared with something written differently: ranks with SciPy's, the sweep with one setting after the other, vectors with the encoder's token states, whitening with scikit-learn's PCA (X1). Then the recorded functions themselves,
# not copies of them, run on the first 60 and 90 pairs, 20 coordinates of two layers, and without rounding, and every number that they return is found again (X7).

# %% tags=["hide-input"]
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
sweep_gap = largest(torch.tensor([toy_sweep[i, j, k - 1] - by_hand(i / 2, j / 2, k) for i, j, k in settings]))
cos_gap = largest(
    torch.from_numpy(
        cosines(toy, toy_x, toy_y, 0.5, 1, 3) - cosines_of_all_k(*(transform(z, *fit(toy, 0.5), 0.5, 1, 8) for z in (toy_x, toy_y)))[2]
    )
)
toy_cos = np.stack([cosines(toy, toy_x, toy_y, b, 0, 8) for b in (0, 0, 1)])
spun = bootstrap(toy_cos, toy_human, 4000)
singles = np.array([np.delete(np.arange(60), i) for i in range(60)])
jackknife = np.array([[spearman(row[keep], toy_human[keep]) for keep in singles] for row in toy_cos])
jack = math.sqrt(59 / 60 * ((d := jackknife[2] - jackknife[0]) - d.mean()).__pow__(2).sum())
sample_text = "A plain check, of one sentence."
with torch.no_grad():
    states = minilm.Encoder().states(torch.tensor([minilm.tokenize(sample_text)]))
    cut_states = minilm.Encoder().states(torch.tensor([[*minilm.tokenize(20 * sample_text)[:15], 102]]))  # 102 is [SEP]
pooled_gap = largest(torch.stack([s[0].mean(0) for s in states]) - vectors([sample_text, "another"], cpu)[:, 0])
cut_gap = largest(torch.stack([s[0].mean(0) for s in cut_states]) - vectors([20 * sample_text], cpu, 16)[:, 0])

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
        ledger.close("bootstrap: the same rows give the same draws", largest(torch.from_numpy(spun[0] - spun[1])), 0, abs=1e-12, digits=1),
        ledger.close(
            "standard error of a paired difference, over the jackknife's", float((spun[2] - spun[0]).std()) / jack, 1, abs=0.25, digits=2
        ),
    ],
)

# %% tags=["hide-input"]
CUTS, GRID3 = [2, 6, 20], [0.0, 0.5, 1.0]
first_pairs = lambda p, n: similarity.Pairs(p.left[:n], p.right[:n], p.score[:n])
few_pairs = {
    "stsb-dev": first_pairs(load("simlex999"), 90),
    "stsb-test": first_pairs(load("wordsim353"), 60),
}  # under the names that are asked for
few_vectors = lambda texts, device=cpu, max_length=64: vectors(texts, device, max_length)[[1, 6], :, :20]
few_settings = {"whitened": (1, 1, 20), "whitened, k = 128": (1, 1, 6), "rotated, k = 128": (0, 0, 6), "centred": (1, 0, 20)}


def small(function, **config):
    """A recorded function, its code as it is, in a small world and without rounding."""
    world = {"vectors": few_vectors, "load": few_pairs.__getitem__, "SETTINGS": few_settings, "TOP": (0, 1, 3, 10), "rounded": dict}
    return types.FunctionType(function.__code__, globals() | world)(cpu, **config)


def peer_cosines(X, x, y, b, gam, k):
    """Cosines after the transform, with numpy's covariance, D2 and SciPy's eigenvectors."""
    X, x, y = (v.numpy() for v in (X, x, y))
    mu = X.mean(0)
    lam, axes = scipy.linalg.eigh(np.cov(X.T, bias=True) + (1 - b) ** 2 * np.outer(mu, mu))
    p, q = ((v - b * mu) @ (axes[:, ::-1][:, :k] * lam[::-1][:k] ** (-gam / 2)) for v in (x, y))
    return (p * q).sum(1) / np.sqrt((p * p).sum(1) * (q * q).sum(1))


def peer(cosine, human):
    """SciPy's Spearman times 100, and 0 for cosines that are all equal (k = 1, without centring)."""
    cosine = np.round(cosine, 10)
    return 100 * scipy.stats.spearmanr(cosine, human).statistic if np.ptp(cosine) else 0.0


def peer_ends(cosine, raw, human, draws):
    """The paired bootstrap with SciPy, draw by draw: 2.5% and 97.5% of the difference from raw."""
    picks = np.random.default_rng(0).integers(len(human), size=(draws, len(human)))
    return np.quantile([peer(cosine[p], human[p]) - peer(raw[p], human[p]) for p in picks], [0.025, 0.975]).tolist()


# %% tags=["hide-input"]
gaps = {}


def compare(name, got, want):
    """Note the largest gap between two arrays of one shape."""
    got, want = (
        np.array([np.asarray(v, dtype=float) for v in side]) if isinstance(side, list) else np.asarray(side) for side in (got, want)
    )
    assert got.shape == want.shape, f"{name}: shapes {got.shape} and {want.shape}"
    gaps[name] = float(np.max([gaps.get(name, 0.0), np.abs(got - want).max()]))  # a NaN stays


for wrong_by in ([0.0, 1.0], [0.0, 0.0]):
    compare("control", wrong_by, [0.0, 0.0])
control = gaps.pop("control")
said_by = {name: p.score.numpy() for name, p in few_pairs.items()}
all_few = sorted({t for p in few_pairs.values() for t in (*p.left, *p.right)})  # fitted to, in another order
tiny = small(study, tune="stsb-dev", test="stsb-test", words=0, betas=GRID3, gammas=GRID3, ks=CUTS, draws=40)
for i in (0, 1):
    X = few_vectors(all_few)[i]
    side = {name: [few_vectors(texts)[i] for texts in (p.left, p.right)] for name, p in few_pairs.items()}
    settings = [(b, g, k) for b in GRID3 for g in GRID3 for k in range(1, 21)]
    table = {n: np.reshape([peer(peer_cosines(X, *side[n], *c), said_by[n]) for c in settings], (3, 3, 20)) for n in few_pairs}
    b, g, k = np.unravel_index(table["stsb-dev"].argmax(), (3, 3, 20))
    rows = [peer_cosines(X, *side["stsb-test"], *c) for c in ((0, 0, 20), *few_settings.values(), (GRID3[b], GRID3[g], k + 1))]
    human = said_by["stsb-test"]
    compare("study: raw", tiny["raw"][i][0], peer(rows[0], human))
    compare(
        "study: curves at four corners, every k",
        np.array(tiny["curves"][i]),
        np.stack([table["stsb-test"][c] for c in ((0, 0), (2, 0), (2, 1), (2, 2))]),
    )
    compare("study: grid", tiny["grid"][i], table["stsb-test"][:, :, [1, 5, 19]])
    chosen = [GRID3[b], GRID3[g], k + 1, table["stsb-dev"].max(), table["stsb-test"].max()]
    compare("study: chosen, its score, best in hindsight", [float(v) for v in tiny["chosen"][i].values()], chosen)
    want = [[peer(c, human), *peer_ends(c, rows[0], human, 40)] for c in rows[1:]]
    compare("study: contrasts with intervals", np.array(list(tiny["contrasts"][i].values())), np.array(want))
    size = np.linalg.eigvalsh(np.cov(X.numpy().T, bias=True))[::-1]
    compare("study: spectrum", tiny["spectrum"][i].numpy(), size / size.sum())
    compare("study: share of the mean", float(tiny["mean_share"][i]), float(X.mean(0).square().sum() / X.square().sum(1).mean()))

# %% tags=["hide-input"]
verse = [line.strip() for line in data.shakespeare().splitlines() if len(line.split()) > 5]
lines_500 = [verse[i * (len(verse) // 500)] for i in range(500)]
tiny = small(baselines, test="stsb-test", words=0, ks=CUTS, seeds=3)
foreign = small(domains, test="stsb-test", words=300, lines=500, layers=[0, 1], draws=40)
fitted_to = {"evaluated": all_few, "words": common_words(300), "Shakespeare": lines_500}
for i in (0, 1):
    X, (x, y) = few_vectors(all_few)[i], (few_vectors(texts)[i] for texts in (few_pairs["stsb-test"].left, few_pairs["stsb-test"].right))
    plain = lambda p, q: peer((p * q).sum(1) / np.sqrt((p * p).sum(1) * (q * q).sum(1)), human)
    throw = [torch.randn(20, 20, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(3)]
    compare(
        "baselines: random projections",
        tiny["random"][i],
        np.array([[plain(*((v @ M[:, :k]).numpy() for v in (x, y))) for k in CUTS] for M in throw]),
    )
    compare("baselines: first coordinates", tiny["first"][i], np.array([plain(x[:, :k].numpy(), y[:, :k].numpy()) for k in CUTS]))
    compare("baselines: rotated", tiny["rotated"][i], np.array([peer(peer_cosines(X, x, y, 0, 0, k), human) for k in CUTS]))
    mean, cov = X.numpy().mean(0), np.cov(X.numpy().T, bias=True)
    u, v = x.numpy() - mean, y.numpy() - mean
    for j, r in enumerate((0, 1, 3, 10)):
        P = np.eye(20) if r == 0 else np.eye(20) - (lambda a: a.T @ a)(PCA(n_components=r).fit(X.numpy()).components_)
        compare("baselines: top directions removed", tiny["top_removed"][i][j], plain(u @ P, v @ P))
    for j, e in enumerate(SOFT):
        half = np.linalg.cholesky(np.linalg.inv(cov + e * np.linalg.norm(cov, 2) * np.eye(20)))
        compare("baselines: floors, by a matrix inverse", tiny["soft"][i][j], plain(u @ half, v @ half))
    raw = peer_cosines(X, x, y, 0, 0, 20)
    compare("domains: raw", foreign["raw"][i], peer(raw, human))
    for name, texts in fitted_to.items():
        found = [peer_cosines(few_vectors(texts)[i], x, y, *few_settings[s]) for s in DOMAIN_SETTINGS]
        want = [[peer(c, human), *peer_ends(c, raw, human, 40)] for c in found]
        compare(f"domains: {name}, with intervals", np.array(foreign[name][i]), np.array(want))
    alone = [t for p in (few_pairs["stsb-test"],) for t in (*p.left, *p.right)]
    twice = [t for p in few_pairs.values() for t in (*p.left, *p.right)]
    sets = {
        "raw": raw,
        **{
            n: peer_cosines(few_vectors(t)[i], x, y, 1, 1, 20)
            for n, t in (
                ("test, all", alone),
                ("test, distinct", sorted(set(alone))),
                ("dev and test, all", twice),
                ("dev and test, distinct", all_few),
            )
        },
    }
    for name, got in small(fit_sets, layer=i).items():
        compare("fit_sets: five scores", float(got), peer(sets[name], human))

# %% tags=["hide-input"]
tiny = small(news, background=150, max_length=64, k=16, draws=20)
lee_pairs, lee_others = similarity.lee_news()
fit_texts = [*lee_pairs.texts, *lee_others[:150]]


def lee_draw(pick, matrices):
    """Score minus raw score on resampled texts, pair by pair."""
    kept = [(pick[a], pick[b]) for b in range(50) for a in range(b) if pick[a] != pick[b]]
    human, raw, other = ([M[i, j] for i, j in kept] for M in matrices)
    return peer(other, human) - peer(raw, human)


for i in (0, 1):
    X, x, y = (few_vectors(t)[i] for t in (fit_texts, lee_pairs.left, lee_pairs.right))
    lee_human = lee_pairs.score.numpy()
    at = {
        name: peer_cosines(X, x, y, *c)
        for name, c in {"raw": (0, 0, 20), "centred": (1, 0, 20), "rotated": (0, 0, 16), "whitened": (1, 1, 16)}.items()
    }
    full = {name: scipy.spatial.distance.squareform(v) for name, v in {**at, "human": lee_human}.items()}
    compare("news: raw", tiny["raw"][i], peer(at["raw"], lee_human))
    for name in ("centred", "rotated", "whitened"):
        spun20 = [lee_draw(p, [full[n] for n in ("human", "raw", name)]) for p in np.random.default_rng(0).integers(50, size=(20, 50))]
        compare(f"news: {name}, with interval", tiny[name][i], [peer(at[name], lee_human), *np.quantile(spun20, [0.025, 0.975])])
    want = [[peer(peer_cosines(X, x, y, b, b, k), lee_human) for k in (8, 16)] for b in (0, 1)]
    compare("news: by k, rotated and whitened", np.array(tiny["by_k"][i]), np.array(want))

# %% tags=["hide-input"]
word_X, word_sides = vectors(common_words(words), cpu), [vectors(side, cpu) for side in (judged.left, judged.right)]
of_layer = lambda X, l, *c: peer(peer_cosines(X[l], *(v[l] for v in word_sides), *c), judged.score.numpy())
word_cov = np.cov(word_X[1].numpy().T, bias=True)
softly = np.linalg.cholesky(np.linalg.inv(word_cov + SOFT[0] * np.linalg.norm(word_cov, 2) * np.eye(384)))
u, v = ((side[1] - word_X[1].mean(0)).numpy() @ softly for side in word_sides)
spots = {
    "study, 384 coordinates: layer 1, whitened, k = 128": (E2["contrasts"][1]["whitened, k = 128"][0], of_layer(word_X, 1, 1, 1, 128)),
    "study: layer 6, whitened in full": (E2["contrasts"][6]["whitened"][0], of_layer(word_X, 6, 1, 1, 381)),
    "sample_sizes: layer 6, 1,600 words, third draw, k = 128": (
        E2b["scores"][1][2][2][1],
        of_layer(word_X[:, np.random.default_rng(2).permutation(words)[:1600]], 6, 1, 1, 128),
    ),
    "sample_sizes: layer 1, own words, k = d": (E2b["own"][0][0], of_layer(vectors(judged.texts, cpu), 1, 1, 1, 383)),
}
if nb.scale != "full":  # there E1b is about sentences
    spots["baselines, 384 coordinates: layer 1, smallest floor"] = (
        E1b["soft"][1][0],
        peer((u * v).sum(1) / np.sqrt((u * u).sum(1) * (v * v).sum(1)), judged.score.numpy()),
    )
drawn_pairs = [(i.tolist(), j.tolist()) for i, j in resampled(np.array([[3, 1, 3], [2, 2, 2], [0, 4, 1]]))]
nb.claim(
    "X7",
    "The recorded functions, run live on small sets, return what other code finds: D2 with numpy's covariance, SciPy draw by draw, matrix inverses, scikit-learn.",
    "verified",
    holds=[
        *[ledger.close(f"{name}: largest gap", gap, 0, abs=1e-6, digits=1, machine=True) for name, gap in gaps.items()],
        ledger.close("control: the largest gap of (0, 1) and then (0, 0) to (0, 0)", control, 1, abs=1e-12),
        *[ledger.close(name, got, want, abs=0.006, digits=4, machine=True) for name, (got, want) in spots.items()],
        sym.enumeration(
            "news: resampled pairs are of distinct texts",
            range(3),
            lambda i: tuple(map(tuple, drawn_pairs[i])),
            [((3, 1), (1, 3)), ((), ()), ((0, 0, 4), (4, 1, 1))].__getitem__,
        ),
        sym.enumeration(
            "rounding",
            [12.3456, 0.00123456, 3, "x"],
            lambda v: str(rounded([v])[0]),
            {12.3456: "12.35", 0.00123456: "0.001235", 3: "3", "x": "x"}.get,
        ),
        sym.enumeration(
            "number of texts fitted to",
            ["study", "news"],
            {
                "study": int(small(study, tune="stsb-dev", test="stsb-test", words=0, betas=[1], gammas=[0], ks=[2], draws=2)["rows"]),
                "news": int(tiny["rows"]),
            }.get,
            {"study": len(all_few), "news": 200}.get,
        ),
    ],
)
# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2022whitening`; the method: 你可能不需要BERT-flow:一个线性变换媲美BERT-flow ([post 8069](https://kexue.fm/archives/8069), 2021-01-11) and {cite}`su2021whitening`; the Chinese survey: 无监督语义相似度哪家强?我们做了个比较全面的评测 ([post 8321](https://kexue.fm/archives/8321), 2021-04-11); the re-implementation: autoliuweijie/BERT-whitening-pytorch on GitHub; the flow that it replaced: {cite}`li2020bertflow`. Data: {cite}`cer2017sts,finkelstein2002wordsim,hill2015simlex,lee2005empirical`. Shrinkage: {cite}`ledoit2004well`.
