# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Muon, continued: why we chose to try it
#
# [Muon续集：为什么我们选择尝试Muon？](https://kexue.fm/archives/10739) · 2025-02-27 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/muon.ipynb)
#
# **The point.** Which step lowers the loss most while it changes a layer's output least? Measured by the spectral norm: minus the *matrix sign* of the gradient, which moves all singular directions equally far. That is Muon. Weight decay and a factor that matches Adam's update size make it a drop-in for AdamW.
# In a language model of 101 million parameters (450 steps, each arm at its best learning rate) it reaches AdamW's loss with 0.56 of the steps and 0.66 of the time; with 354 million, and a second learning rate for AdamW, with half of the steps. Not all of the post survives: the iteration behind it, Newton-Schulz, never converges, the bound on the weights
# grows with the width once the factor is in, and the quoted cost, 52% of AdamW's compute, is not what the report's own laws say where they were fitted (44 to 49%).

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, distributed, ledger, metrics, muon, nn, optim, ranks, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("muon")


# %% tags=["hide-input"]
@torch.no_grad()
def worst(*differences):
    """The largest absolute entry of numbers, arrays and tensors."""
    return float(torch.cat([torch.as_tensor(d).double().flatten().cpu() for d in differences]).abs().max())


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, singular value after five Newton-Schulz steps against before, on a log axis: from 0.0015 on it lies in a band from 0.68 to 1.20 around 1, the exact matrix sign. Right, validation loss of a 101 million parameter model against steps: Muon's curve lies below AdamW's throughout and ends at 1.42 against 1.60; a dotted line at AdamW's final loss passes between the crosses of Muon's complete shorter runs of 0.5 and 0.7 of the steps."}}
hero_rows = {arm: nb.recorded(id).result["runs"][0] for arm, id in (("AdamW", "E7c"), ("Muon", "E7d"))}
hero_short = nb.recorded("E7e").result["runs"]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.5))
hero_x, hero_y = np.geomspace(1e-4, 1, 3000), np.geomspace(1e-4, 1, 3000)
for _ in range(5):
    hero_y = sum(k * hero_y**power for k, power in zip(optim.MUON_COEFFICIENTS, (1, 3, 5), strict=True))
panels[0].axhspan(0.6818, 1.2024, color=SKY, alpha=0.25)
panels[0].plot(hero_x, hero_y, color=ORANGE, ls="-", label="Muon: five Newton-Schulz steps")
panels[0].axhline(1, color=GREY, ls="--", label="exact matrix sign")
panels[0].set(xscale="log", xlabel="singular value of the gradient (log axis)", ylabel="singular value of the step", ylim=(0, 1.45))
for (arm, row), color, style in zip(hero_rows.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
    panels[1].plot(row["at"], row["curve"], color=color, ls=style, label=f"{arm}, rate {2 ** row['exponent']:.2g}")
panels[1].plot(
    [row["at"][-1] for row in hero_short],
    [row["curve"][-1] for row in hero_short],
    "x",
    color=RED,
    ms=8,
    label="Muon, complete runs of 0.3, 0.5, 0.7 of the steps",
)
panels[1].axhline(hero_rows["AdamW"]["curve"][-1], color=GREY, ls=":")
panels[1].set(xlabel="step (16,384 bytes each)", ylabel="validation loss, nats a byte", ylim=(1.3, 2.6))
for axes, title in zip(panels, ("All directions move (almost) equally far", "101M parameters: Muon ends lower"), strict=True):
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
nb.show(figure)

# %% [markdown]
# ## The question
#
# A good optimizer is steady and fast: each step should disturb the model as little as possible and lower the loss as much as possible. The post {cite}`su2025muon` writes this down literally. For a weight matrix
# $W\in\mathbb R^{n\times m}$ that acts on rows, $y=xW$, with gradient $G$, and a measure $\rho$ of how much a change disturbs the model,
#
# $$\min_{\Delta W}\;\Delta\mathcal L\quad\text{subject to}\quad\rho(\Delta W)\le\eta,\qquad\Delta\mathcal L\approx\operatorname{Tr}(G^\top\Delta W).$$
#
# Everything hinges on $\rho$. The Frobenius norm gives gradient descent, the largest entry gives SignSGD (Adam without memory), and the spectral norm, the one that bounds the change of the layer's *output*, gives
# $-\eta\,\mathrm{msign}(G)$, with $\mathrm{msign}(G)=UV^\top$ for $G=U\Sigma V^\top$: every non-zero singular value is set to one. That is Muon {cite}`jordan2024muon`.
#
# The Moonlight report {cite}`liu2025moonlight`, of which the post's author is one of the authors, adds two repairs and scales it up: weight decay, and a factor $0.2\sqrt{\max(n,m)}$ that makes Muon's
# updates as large as Adam's, so that Adam's rates can be kept. Its headline: AdamW's loss for 52% of the training compute.
#
# We derive each step, then train. Prerequisite: steepest descent in other norms, in [gradient flow](gradient-flow.ipynb). How rates should scale with the width is the subject of [muP](mup.ipynb) and [the spectral condition](mup-spectral.ipynb); the entropy of singular values returns in [effective rank](effective-rank.ipynb).
# Norms: $\lVert M\rVert_2=\sigma_1$ is the spectral norm, $\lVert M\rVert_*=\sum\sigma_i$ the nuclear norm; $\mathrm{RMS}(M)=\lVert M\rVert_F/\sqrt{nm}$.
#
# ## The least action
#
# To first order the loss changes by the inner product with the gradient. For $\mathcal L=\frac12\lVert XW-Y\rVert_F^2$ the slope along a direction $D$ is exactly $\operatorname{Tr}(G^\top D)+\varepsilon\lVert XD\rVert_F^2$:

# %%
matrix_of = lambda name, n=2, m=2: sp.Matrix(n, m, sp.symbols(f"{name}1:{n * m + 1}", real=True))
squares = lambda A: sum(a**2 for a in A)
eps = sp.Symbol("epsilon", real=True)
X2, Y2, W2, D2 = (matrix_of(name) for name in "xywd")
least_squares = lambda W: squares(X2 * W - Y2) / 2
G2 = sp.Matrix(2, 2, lambda i, j: sp.diff(least_squares(W2), W2[i, j]))  # the gradient, entry by entry

nb.derivation(
    "D1",
    "Least action: ΔL = Tr(GᵀΔW) to first order, minimised subject to ρ(ΔW) ≤ η.",
    sym.identity("dL(W + εD)/dε", sp.Derivative(least_squares(W2 + eps * D2), eps), (G2.T * D2).trace() + eps * squares(X2 * D2)),
    sym.identity(
        "G = Xᵀ(XW − Y)",
        sum(sp.Derivative(least_squares(W2), w) * d for w, d in zip(W2, D2, strict=True)),
        ((X2 * W2 - Y2).T * X2 * D2).trace(),
    ),
)

# %% [markdown]
# ## Three norms, three optimizers
#
# The most negative value of $\operatorname{Tr}(G^\top\Delta W)$ under $\rho(\Delta W)\le\eta$ is $-\eta$ times the *dual norm* of $G$:
#
# | $\rho(\Delta W)$ | steepest step | gain$/\eta$ |
# |---|---|---|
# | $\lVert\Delta W\rVert_F$ | $-\eta\,G/\lVert G\rVert_F$ | $\lVert G\rVert_F$ |
# | $\max_{ij}\lvert\Delta W_{ij}\rvert$ | $-\eta\,\mathrm{sign}(G)$ | $\sum\lvert G_{ij}\rvert$ |
# | $\lVert\Delta W\rVert_2$ | $-\eta\,\mathrm{msign}(G)$ | $\lVert G\rVert_*$ |
#
# The third row in two lines: with $G=\sum\sigma_iu_iv_i^\top$, $\operatorname{Tr}(G^\top\Delta W)=\sum\sigma_i\,u_i^\top\Delta W\,v_i\ge-\lVert\Delta W\rVert_2\sum\sigma_i$, with equality for $\Delta W=-\eta\sum u_iv_i^\top$. For $2\times2$, up to reflections, every
# matrix of spectral norm 1 is a rotation, $\mathrm{diag}(1,c)$ with $|c|\le1$, and a rotation; the trace becomes a sum of two cosines with the amplitudes $\frac12(\sigma_1+\sigma_2)(1+c)$ and $\frac12(\sigma_1-\sigma_2)(1-c)$, which never add up to more than $\sigma_1+\sigma_2$.
# The first row is *normalised* gradient descent: plain SGD solves the penalised problem, not this one.

# %%
s1, s2 = sp.symbols("sigma1 sigma2", positive=True)
alpha, beta_, c1 = sp.symbols("alpha beta c", real=True)
rotation = lambda t: sp.Matrix([[sp.cos(t), -sp.sin(t)], [sp.sin(t), sp.cos(t)]])
gain2 = (sp.diag(s1, s2) * rotation(alpha) * sp.diag(1, c1) * rotation(beta_)).trace()
amplitudes = (s1 + s2) * (1 + c1) / 2, (s1 - s2) * (1 - c1) / 2
cosines = amplitudes[0] * sp.cos(alpha + beta_) + amplitudes[1] * sp.cos(alpha - beta_)


def gauss(*shape, seed=0):
    """Standard normal float64 numbers, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# %% tags=["hide-input"]
inner = lambda A, B: (A * B).sum((-2, -1))
G64, rivals = gauss(6, 4, seed=1), gauss(10000, 6, 4, seed=2)
steepest = {  # name: norm, steepest direction, dual norm of G
    "Frobenius": (torch.linalg.matrix_norm, G64 / torch.linalg.matrix_norm(G64), float(G64.square().sum().sqrt())),
    "largest entry": (lambda M: M.abs().amax((-2, -1)), G64.sign(), float(G64.abs().sum())),
    "spectral": (lambda M: torch.linalg.matrix_norm(M, 2), optim.msign(G64), float(torch.linalg.svdvals(G64).sum())),
}
polar = G64.numpy() @ np.linalg.inv(scipy.linalg.sqrtm((G64.T @ G64).numpy()).real)
nb.derivation(
    "D2",
    "Steepest descent: −ηG/‖G‖_F under ‖·‖_F, −η sign(G) under the largest entry, −η msign(G) under ‖·‖₂, with gains ‖G‖_F, Σ|G|, ‖G‖_*.",
    sym.identity("2 × 2, all of spectral norm 1: Tr(diag(σ₁, σ₂)ΔW)", gain2, cosines),
    sym.identity("σ₁ + σ₂ minus the sum of the two amplitudes (σ₁ ≥ σ₂)", s1 + s2 - sum(amplitudes), s2 * (1 - c1)),
    *[
        ledger.close(f"{name}: gain of the steepest step", float(inner(G64, D) / norm(D)), dual, rel=1e-12, digits=8)
        for name, (norm, D, dual) in steepest.items()
    ],
    *[
        ledger.less(f"{name}: best of 10,000 random steps", float((inner(G64, rivals) / norm(rivals)).max()), dual)
        for name, (norm, _, dual) in steepest.items()
    ],
    ledger.close(
        "msign against G(GᵀG)^(−1/2): gap", float(np.abs(optim.msign(G64).numpy() - polar).max()), 0, abs=1e-10, digits=1, machine=True
    ),
)

# %% tags=["hide-input"]
angles = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)
turned = torch.stack([torch.stack([angles.cos(), -angles.sin()], -1), torch.stack([angles.sin(), angles.cos()], -1)], -2)  # (721, 2, 2)
contractions = torch.cat([turned @ torch.diag(torch.tensor([1.0, x], dtype=torch.float64)) for x in (-1, -0.5, 0, 0.5, 1)])


def best_by_grid(G):
    """Largest Tr(GᵀD) over a grid of all 2 × 2 matrices of spectral norm 1."""
    return max(float(torch.einsum("aij,bjk,ik->ab", contractions, turned[::4], G).max()) for G in (G, G.flip(0)))


reached = {name: float(inner(G64, G64) / norm(G64)) / dual for name, (norm, _, dual) in steepest.items()}
nb.claim(
    "C1",
    "Steepest descent under the spectral norm is the matrix sign.",
    "verified",
    holds=[
        ledger.close(
            f"2 × 2, best on a grid over the whole sphere, over the gain of msign, seed {seed}",
            best_by_grid(G) / float(inner(G, optim.msign(G))),
            1,
            abs=1e-3,
            digits=3,
        )
        for seed in (3, 4, 5)
        for G in [gauss(2, 2, seed=seed)]
    ],
)
nb.claim(
    "C2",
    "The gradient itself is the steepest direction for the Frobenius norm alone.",
    "verified",
    holds=[
        ledger.close("share of the possible gain that G reaches: Frobenius", reached["Frobenius"], 1, rel=1e-12),
        ledger.less("largest entry", reached["largest entry"], 0.6),
        ledger.less("spectral", reached["spectral"], 0.9),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels, one for each norm, over the plane of diagonal two by two matrices: a round disc for the Frobenius norm, and a square for both the largest entry and the spectral norm. The same gradient, mostly along the first axis, points up and right; the steepest step goes against it in the disc and into the lower left corner in the squares."}}
figure, panels = plt.subplots(1, 3, figsize=(8.2, 3.6), sharey=True)
g = np.array([2.0, 0.7])
circle = np.linspace(0, 2 * np.pi, 200)
corner = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1], [1, 1]])
balls = {"Frobenius": np.c_[np.cos(circle), np.sin(circle)], "largest entry": corner, "spectral": corner}
for axes, (name, ball) in zip(panels, balls.items(), strict=True):
    step = -g / np.linalg.norm(g) if name == "Frobenius" else -np.sign(g)
    axes.fill(*ball.T, color=SKY, alpha=0.25)
    axes.plot(*ball.T, color=BLUE, ls="-")
    axes.annotate("", xytext=(0, 0), xy=g / 1.6, arrowprops={"arrowstyle": "->", "color": GREY})
    axes.annotate("", xytext=(0, 0), xy=step, arrowprops={"arrowstyle": "->", "color": RED, "lw": 2})
    axes.text(0.5, 0.62, "gradient", color=GREY, fontsize=9)
    axes.text(-0.95, -0.05, "step", color=RED, fontsize=9)
    axes.set(aspect="equal", xlim=(-1.4, 1.5), ylim=(-1.4, 1.4), xlabel="first diagonal entry")
    axes.set_title(name, fontsize=10)
panels[0].set_ylabel("second diagonal entry")
figure.suptitle(
    "The round ball follows the gradient; both square balls move every direction equally far",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# ## Why the spectral norm?
#
# A layer $y=xW$ changes its output by $x\Delta W$, and $\lVert x\Delta W\rVert\le\rho(\Delta W)\lVert x\rVert$ should hold for whatever $x$ comes. By definition the spectral norm is the *smallest* $\rho$ for which it does; the Frobenius norm does too, but can be too large by
# $\sqrt{\min(n,m)}$: it forbids more than it needs to. Exactly: $\lVert M\rVert_F/\lVert M\rVert_2$ is 1 for $uv^\top$ and $\sqrt n$ for a rotation.

# %%
u3, v2 = sp.Matrix(sp.symbols("u1:4", real=True)), sp.Matrix(sp.symbols("v1:3", real=True))
dyad = u3 * v2.T  # one non-zero eigenvalue of MᵀM, its trace
r3 = sp.diag(rotation(alpha), 1) * sp.diag(1, rotation(beta_)) * sp.diag(rotation(c1), 1)
M57, rows57 = gauss(5, 7, seed=6), gauss(20000, 5, seed=7)
climbed = scipy.optimize.minimize(lambda x: -np.linalg.norm(x @ M57.numpy()) / np.linalg.norm(x), rows57[0].numpy(), tol=1e-14)
nb.derivation(
    "D3",
    "‖xΔW‖ ≤ ‖ΔW‖₂‖x‖, and no smaller ρ does; ‖·‖_F exceeds ‖·‖₂ by a factor between 1 (rank one) and √n (orthogonal).",
    sym.identity("rank one: (MᵀM)² = ‖M‖_F² MᵀM", (dyad.T * dyad) ** 2, squares(dyad) * dyad.T * dyad),
    sym.identity("a rotation of the space keeps every length", squares(sp.Matrix([[*u3]]) * r3), squares(u3)),
    sym.identity("and has ‖M‖_F² = 3", squares(r3), sp.Integer(3)),
    ledger.less(
        "gain of 20,000 random rows", float(((rows57 @ M57).norm(dim=1) / rows57.norm(dim=1)).max()), float(torch.linalg.svdvals(M57)[0])
    ),
    ledger.close("largest gain by climbing", -float(climbed.fun), float(torch.linalg.svdvals(M57)[0]), rel=1e-6, digits=6),
)

# %% [markdown]
# ## Weight decay keeps the norms bounded
#
# Moonlight's first repair. With $W_t=(1-\eta_t\lambda)W_{t-1}-\eta_t\Phi_t$ and $0\le\eta_t\lambda\le1$ the new matrix is a weighted mean of $W_{t-1}$ and $-\Phi_t/\lambda$, so for *any* norm
#
# $$\lVert W_t\rVert\le\max\bigl(\lVert W_{t-1}\rVert,\;\lVert\Phi_t\rVert/\lambda\bigr),$$
#
# and for Muon, where $\lVert\Phi_t\rVert_2=1$, $\lVert W_t\rVert_2\le\max(\lVert W_0\rVert_2,1/\lambda)$. One can say more: with $q_t=\prod_{s\le t}(1-\eta_s\lambda)$, the bound contracts, $\lVert W_t\rVert\le q_t\lVert W_0\rVert+(1-q_t)/\lambda$, and a constant gradient
# attains it: then $W_t\to-\mathrm{msign}(G)/\lambda$ exactly. Decay turns Muon into descent inside the ball $\lVert W\rVert_2\le1/\lambda$ {cite}`chen2025muon`.

# %%
lam, eta, b0, phi = sp.symbols("lambda eta b phi", positive=True)
share = eta * lam  # between 0 and 1


def bound_after(rates, decay, start):
    """The recursion w <- (1 - rate decay) w + rate, from ``start``, in fractions."""
    w = start
    for rate in rates:
        w = (1 - rate * decay) * w + rate
    return w


def contracted(rates, decay, start):
    q = sp.prod(1 - rate * decay for rate in rates)
    return q * start + (1 - q) / decay


# %% tags=["hide-input"]
R = sp.Rational
schedules = [([R(1, 10)] * k, R(1, 2), R(3)) for k in (1, 4, 9)] + [([R(1, i) for i in range(2, 9)], R(3, 4), R(1, 7))]
steps_w = sp.Symbol("t", positive=True)
constant = gauss(5, 3, seed=8)
W_end = gauss(5, 3, seed=9)
for _ in range(400):
    W_end = (1 - 0.1 * 0.5) * W_end - 0.1 * optim.msign(constant)
nb.derivation(
    "D4",
    "0 ≤ η_tλ ≤ 1: ‖W_t‖ ≤ max(‖W_(t−1)‖, ‖Φ_t‖/λ) in any norm; sharper ‖W_t‖ ≤ q_t‖W₀‖ + (1 − q_t)/λ, attained by a constant gradient.",
    sym.identity("the step is a weighted mean of b and φ/λ", (1 - share) * b0 + eta * phi, b0 + share * (phi / lam - b0)),
    sym.enumeration("the scalar recursion, constant and falling rates", schedules, lambda s: bound_after(*s), lambda s: contracted(*s)),
    sym.limit("its limit, ηλ = 1/3, λ = 2/5", R(2, 3) ** steps_w * b0 + (1 - R(2, 3) ** steps_w) / R(2, 5), steps_w, sp.oo, R(5, 2)),
    ledger.close(
        "constant gradient, 400 steps: gap of W to −msign(G)/λ",
        float((W_end + optim.msign(constant) / 0.5).abs().max()),
        0,
        abs=1e-8,
        digits=1,
        machine=True,
    ),
)


# %% tags=["hide-input"]
def norm_history(direction, decay, rate, steps=300, shape=(24, 16), seed=10):
    """Spectral norms of W under decay and random directions; a pull towards one gradient keeps them aligned."""
    W, pull, norms = 0.02 * gauss(*shape, seed=seed), gauss(*shape, seed=seed + 1), []
    for t in range(steps):
        W = (1 - rate * decay) * W - rate * direction(pull + 0.3 * gauss(*shape, seed=1000 + t))
        norms.append(float(torch.linalg.matrix_norm(W, 2)))
    return norms


exact_history = norm_history(optim.msign, 2.0, 0.05)
newton_history = norm_history(optim.newton_schulz, 2.0, 0.05)
nb.claim(
    "C3",
    "Decoupled decay bounds any norm: ‖W_t‖ ≤ max(‖W_(t−1)‖, ‖Φ_t‖/λ).",
    "verified",
    holds=[
        *[
            ledger.less(
                f"largest ‖W_t‖ / max(‖W_(t−1)‖, ‖Φ‖/λ) over 2,000 random steps with ηλ < 1, {name}",
                max(
                    float(norm((1 - k / 2001) * A - (k / 2001 / 0.7) * B) / max(norm(A), norm(B) / 0.7))
                    for k, (A, B) in enumerate(zip(gauss(2000, 4, 3, seed=11), gauss(2000, 4, 3, seed=12), strict=True), 1)
                ),
                1 + 1e-12,
            )
            for name, (norm, _, _) in steepest.items()
        ],
        ledger.more("its condition is needed: ηλ = 3, W = Φ = 1, λ = 1: |W_t| over the bound", abs((1 - 3) * 1 - 3 * 1) / 1, 4),
    ],
)

# %% [markdown]
# ### What the bound becomes in the code that is run
#
# The post derives $1/\lambda$ before it introduces the factor $0.2\sqrt{\max(n,m)}$, and does not come back to it. Two things change. Newton-Schulz does not return singular values of 1 but up to 1.2024 (below; bfloat16 rounds a little above), so the ball has radius $1.2024/\lambda$. And with the factor the update is
# that much longer, while the decay stays: the radius is $0.2\sqrt{\max(n,m)}\cdot1.2024/\lambda$, which *grows with the width*: 109 instead of 10 for a square matrix of 2048 at $\lambda=0.1$. On a constant gradient the optimizer as shipped goes there, given some $1/(\eta\lambda)$ steps. (No trained model here is run that long: in E7 this time is 2,500 steps at the peak rate, and a run has 450.)


# %%
def stationary_norm(shape, decay, rule, steps=160):
    """Spectral norm that muon.Muon reaches on a constant gradient, and that of one Newton-Schulz direction."""
    W, fixed = torch.nn.Parameter(torch.zeros(*shape)), gauss(*shape, seed=13).float()
    opt = muon.Muon([W], lr=0.05 / decay, weight_decay=decay, adjust_lr_fn=rule)
    W.grad = fixed
    for _ in range(steps):
        opt.step()
    image = muon.orthogonalize(fixed[None])[0].float()
    return float(torch.linalg.matrix_norm(W.detach(), 2)), float(torch.linalg.matrix_norm(image, 2))


# %% tags=["hide-input"]
reached_norms = {n: stationary_norm((n, n), 2.0, "match_rms_adamw") for n in (16, 64)}
plain_norm = stationary_norm((64, 64), 2.0, "original")
nb.derivation(
    "D5",
    "With Newton-Schulz the ball has radius 1.2024/λ, with the factor 0.2√max(n, m)·1.2024/λ.",
    ledger.close(
        "constant gradient, no factor, λ = 2: ‖W‖₂ over ‖NS(G)‖₂/λ",
        plain_norm[0] / (plain_norm[1] / 2),
        1,
        abs=0.01,
        digits=3,
        machine=True,
    ),
    *[
        ledger.close(
            f"with the factor, {n} × {n}: ‖W‖₂ λ / (0.2 √n ‖NS(G)‖₂)",
            norm * 2 / (0.2 * math.sqrt(n) * top),
            1,
            abs=0.01,
            digits=3,
            machine=True,
        )
        for n, (norm, top) in reached_norms.items()
    ],
    ledger.more("‖W‖₂ with Newton-Schulz over 1/λ, noisy gradients, λ = 2", max(newton_history) * 2, 1.05, machine=True),
    ledger.close("radius at n = m = 2048, λ = 0.1", 0.2 * math.sqrt(2048) * 1.202369 / 0.1, 109, abs=0.5, digits=3),
)
nb.claim(
    "C4",
    "‖W_t‖₂ ≤ max(‖W₀‖₂, 1/λ) for Muon.",
    "partly",
    holds=[ledger.less("exact matrix sign, 300 noisy steps, λ = 2: largest ‖W‖₂", max(exact_history), 0.5)],
    fails=[
        ledger.more("Newton-Schulz, as implemented: largest ‖W‖₂", max(newton_history), 0.5, machine=True),
        ledger.less("and its own bound 1.2024/λ", max(newton_history), 1.2024 / 2, machine=True),
        ledger.more("with the factor, 64 × 64, constant gradient", reached_norms[64][0], 0.75, machine=True),
    ],
)

# %% [markdown]
# ## The size of a matrix sign
#
# Moonlight's second repair. How large are the entries of $\Phi=\mathrm{msign}(M)=UV^\top$ of rank $r$? From the definition
#
# $$nm\,\mathrm{RMS}(\Phi)^2=\sum_{ij}\Bigl(\sum_kU_{ik}V_{jk}\Bigr)^2=\sum_{kl}\Bigl(\sum_iU_{ik}U_{il}\Bigr)\Bigl(\sum_jV_{jk}V_{jl}\Bigr)=\sum_{kl}\delta_{kl}=r .$$
#
# So $\mathrm{RMS}(\Phi)=\sqrt{r/(nm)}$, which is $\sqrt{1/\max(n,m)}$ at full rank: it depends on the shape. (The post and the report write the square of the sum over $k$ at once as a sum of squares. The cross terms do vanish, but by orthogonality, after the sum over $i$ and $j$.)

# %%
euler = sp.diag(rotation(alpha), 1) * sp.diag(1, rotation(c1)) * sp.diag(rotation(s1), 1)
U32, V22 = euler[:, :2], rotation(beta_)  # orthonormal columns: 3 x 2 and 2 x 2
dyad_of = lambda U, V, k: U[:, k] * V[:, k].T  # the k-th dyad, n x m
rms_of = lambda M: float(M.square().mean().sqrt())

# %% tags=["hide-input"]
shapes20 = [(n, m) for n in (1, 3, 8, 20) for m in (2, 5, 8, 30, 64)]
low_rank = gauss(20, 3, seed=14) @ gauss(3, 30, seed=15)
nb.derivation(
    "D6",
    "RMS(msign) = √(r/(nm)), at full rank √(1/max(n, m)).",
    sym.identity("3 × 2, rank 2: Σᵢⱼ(Σ_k U_ik V_jk)²", squares(U32 * V22.T), sp.Integer(2)),
    sym.identity("3 × 2: a dyad's own square", squares(dyad_of(U32, V22, 0)), sp.Integer(1)),
    sym.identity(
        "cross terms: Σᵢ Uᵢ₁Uᵢ₂ = 0 makes Σᵢⱼ of the two dyads' product vanish", sum(U32[i, 0] * U32[i, 1] for i in range(3)), sp.Integer(0)
    ),
    ledger.close(
        "20 shapes: largest relative gap to √(1/max(n, m))",
        max(abs(rms_of(optim.msign(gauss(n, m, seed=n + m))) * math.sqrt(max(n, m)) - 1) for n, m in shapes20),
        0,
        abs=1e-12,
        digits=1,
        machine=True,
    ),
    ledger.close("20 × 30 of rank 3", rms_of(optim.msign(low_rank)), math.sqrt(3 / 600), rel=1e-10, digits=6),
)
nb.claim(
    "C6",
    "RMS(msign(M)) = √(r/(nm)).",
    "verified",
    holds=[
        ledger.close(
            f"{n} × {m}, rank {r}, from msign = M(MᵀM)^(−1/2)",
            math.sqrt(float(inner(P, P)) / (n * m)),
            math.sqrt(r / (n * m)),
            rel=1e-9,
            digits=6,
        )
        for n, m, r in ((7, 7, 7), (12, 5, 5), (12, 8, 2))
        for M in [gauss(n, r, seed=n) @ gauss(r, m, seed=m)]
        for values, vectors in [torch.linalg.eigh(M.T @ M)]
        for P in [M @ (vectors[:, -r:] / values[-r:].sqrt()) @ vectors[:, -r:].T]
    ],
)

# %% [markdown]
# ### Matching Adam
#
# If Adam's updates have an RMS of about 0.2, dividing Muon's direction by its own RMS and multiplying by 0.2 lets both live at one learning rate. By D6 the division is a multiplication,
#
# $$W_t=W_{t-1}-\eta_t\Bigl(\frac{0.2}{\mathrm{RMS}(\Phi_t)}\Phi_t+\lambda W_{t-1}\Bigr)=W_{t-1}-\eta_t\bigl(0.2\sqrt{\max(n,m)}\,\Phi_t+\lambda W_{t-1}\bigr),$$
#
# if $\Phi_t$ has full rank and is an exact matrix sign. With Newton-Schulz the second form makes updates that are smaller, by a factor measured below (0.86 to 0.95 for Gaussian matrices): the matched RMS is 0.17 to 0.19, not 0.2.


# %% tags=["hide-input"]
def two_forms(direction, n, m):
    """RMS of the step 0.2 Φ/RMS(Φ) and largest gap of the step 0.2 √max Φ to it."""
    D = direction(gauss(n, m, seed=n * m))
    by_rms, by_shape = 0.2 * D / D.square().mean().sqrt(), 0.2 * math.sqrt(max(n, m)) * D
    return worst(by_rms - by_shape), rms_of(by_shape) / rms_of(by_rms)


gaussian_rms = {}  # RMS of Newton-Schulz of Gaussian matrices times √max
for n, m in ((256, 256), (512, 512), (256, 1024), (128, 2048)):
    gaussian_rms[n, m] = rms_of(optim.newton_schulz(gauss(n, m, seed=16).float())) * math.sqrt(max(n, m))
nb.derivation(
    "D7",
    "0.2 Φ/RMS(Φ) = 0.2 √max(n, m) Φ for an exact matrix sign of full rank; for Newton-Schulz they differ by its RMS.",
    *[
        ledger.close(f"exact, {n} × {m}: largest gap", two_forms(optim.msign, n, m)[0], 0, abs=1e-12, digits=1, machine=True)
        for n, m in ((30, 30), (20, 50))
    ],
    *[
        ledger.close(
            f"Newton-Schulz, {n} × {m}: size of the second form over the first, and RMS √max",
            two_forms(optim.newton_schulz, n, m)[1],
            rms_of(optim.newton_schulz(gauss(n, m, seed=n * m))) * math.sqrt(max(n, m)),
            rel=1e-9,
            digits=4,
        )
        for n, m in ((256, 256), (128, 512))
    ],
    ledger.less("it is below 1: 256 × 256", two_forms(optim.newton_schulz, 256, 256)[1], 0.95),
)

# %% [markdown]
# ## Where does 0.2 come from?
#
# The report measures Adam's update RMS as 0.2 to 0.4; the post gives no reason. There is one, in one line: suppose that late in training the gradient of an entry is mostly noise. If it is pure noise of variance $\sigma^2$, the first moment is a geometric average with weights
# $(1-\beta_1)\beta_1^k$, so its variance is $\sigma^2(1-\beta_1)^2/(1-\beta_1^2)$, and the second moment is $\sigma^2$:
#
# $$\mathrm{RMS}\approx\sqrt{\frac{1-\beta_1}{1+\beta_1}}=0.2294\quad(\beta_1=0.9).$$
#
# A mean of $x$ standard deviations raises it towards 1, in mean field to $\sqrt{(x^2+\frac{1-\beta_1}{1+\beta_1})/(x^2+1)}$. (The author gave this argument himself later.) **E6**: the real optimizer on noise, 2,000 entries, 2,400 steps.

# %%
b1, sg, xm = sp.symbols("beta1 sigma x", positive=True)
k = sp.Symbol("k", integer=True, nonnegative=True)
variance_of_m = sp.Sum(((1 - b1) * b1**k) ** 2 * sg**2, (k, 0, sp.oo))


def adam_rms(betas, mean=0.0, entries=2000, steps=2400, every=100):
    """RMS of torch.optim.AdamW's updates over the rate on gradients N(mean, 1): its mean over late steps and the standard error."""
    p = torch.nn.Parameter(torch.zeros(entries, dtype=torch.float64))
    opt = torch.optim.AdamW([p], lr=1.0, betas=betas, weight_decay=0.0)
    generator, seen = torch.Generator().manual_seed(17), []
    for step in range(steps):
        p.grad = mean + torch.randn(entries, generator=generator, dtype=torch.float64)
        before = p.detach().clone()
        opt.step()
        if step >= steps // 2 and step % every == 0:
            seen.append(rms_of(p.detach() - before))
    return [float(v) for v in metrics.mean_stderr(torch.tensor(seen))]


# %% tags=["hide-input"]
beta_cases = [(0.9, 0.999), (0.9, 0.95), (0.8, 0.99)]
noise_rms = {betas: adam_rms(betas) for betas in beta_cases}
drift_rms = {x: adam_rms((0.9, 0.999), mean=x) for x in (0.5, 2.0)}
noise_law = lambda b, x=0.0: math.sqrt((x**2 + (1 - b) / (1 + b)) / (x**2 + 1))
unit_sum = sp.Sum((1 - b1) * b1**k, (k, 0, sp.oo))
nb.derivation(
    "D8",
    "Adam's update RMS on pure noise is √((1 − β₁)/(1 + β₁)) = 0.2294 at β₁ = 0.9; with a mean of x deviations √((x² + (1 − β₁)/(1 + β₁))/(x² + 1)).",
    sym.identity("Var m/σ² at β₁ = 9/10", (variance_of_m / sg**2).subs(b1, R(9, 10)), R(1, 19)),
    sym.enumeration(
        "Var m = σ²(1 − β₁)/(1 + β₁), four β₁",
        [R(9, 10), R(1, 2), R(4, 5), R(19, 20)],
        lambda b: (variance_of_m / sg**2).subs(b1, b).doit(),
        lambda b: (1 - b) / (1 + b),
    ),
    ledger.close("√(1/19)", math.sqrt(1 / 19), 0.229416, abs=5e-7, digits=6),
    *[
        sym.monte_carlo(f"AdamW on N({x:g}, 1), β = (0.9, 0.999)", *drift_rms[x], noise_law(0.9, x), sigmas=8, draws=24000, effect=0.05)
        for x in drift_rms
    ],
)
nb.experiment(
    "E6",
    "AdamW on pure noise has update RMS √((1 − β₁)/(1 + β₁)), a little less at small β₂.",
    "verified",
    holds=[
        *[ledger.close(f"β = {betas}", noise_rms[betas][0], noise_law(betas[0]), rel=0.03, digits=3, machine=True) for betas in beta_cases],
        ledger.less("β₂ = 0.95 against 0.999", noise_rms[0.9, 0.95][0] / noise_rms[0.9, 0.999][0], 0.99, digits=3, machine=True),
    ],
)

# %% [markdown]
# ## Newton-Schulz does not converge
#
# Muon computes $\mathrm{msign}$ by five steps of $X\leftarrow aX+b(XX^\top)X+c(XX^\top)^2X$ from $X_0=M/\lVert M\rVert_F$. Each singular value moves on its own, by
#
# $$f(x)=ax+bx^3+cx^5,\qquad(a,b,c)=(3.4445,-4.7750,2.0315).$$
#
# The coefficients were chosen to be fast at 0, where $f'(0)=a$, not to converge: $f(1)=0.701$, and the fixed points nearest to 1, at 0.868 and 1.264, are both *repelling*. What does hold: the band $[0.6818,1.2024]$ between the two critical values is mapped into itself, and five steps bring every $x\ge0.0015$ to within $[0.680,1.2024]$.

# %%
na, nb_, nc = R("3.4445"), R("-4.7750"), R("2.0315")
xs = sp.Symbol("x", positive=True)
f = na * xs + nb_ * xs**3 + nc * xs**5
fixed_points = [sp.sqrt((-nb_ + sign * sp.sqrt(nb_**2 - 4 * nc * (na - 1))) / (2 * nc)) for sign in (-1, 1)]
critical = [sp.sqrt((-3 * nb_ + sign * sp.sqrt(9 * nb_**2 - 20 * na * nc)) / (10 * nc)) for sign in (-1, 1)]
top, bottom = (f.subs(xs, x) for x in critical)


def newton_map(x, steps, coefficients=optim.MUON_COEFFICIENTS):
    """f applied ``steps`` times to an array."""
    a, b, c = coefficients
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return x


fine = np.linspace(1.5005e-3, 1, 2_000_001)
image = newton_map(fine, 5)

# %% tags=["hide-input"]
inside = [bottom, critical[1], top]
extremes = [float(f.subs(xs, x)) for x in inside]
slopes = [float(sp.diff(f, xs).subs(xs, x)) for x in fixed_points]
low_end = np.geomspace(1e-5, 1e-2, 400001)
first_in_band = lambda steps: float(low_end[np.flatnonzero(newton_map(low_end, steps) < 0.680)[-1] + 1])
nb.derivation(
    "D9",
    "f(1) = 0.701; the fixed points 0.868 and 1.264 repel; [0.6818, 1.2024] is mapped into itself; five steps bring [0.0015, 1] into [0.680, 1.2024].",
    ledger.close("f(1)", float(newton_map(1.0, 1)), 0.701, abs=1e-12),
    *[sym.solves(f"fixed point {float(x):.6f}", sp.Eq(f, xs), xs, x) for x in fixed_points],
    *[sym.solves(f"critical point {float(x):.6f}", sp.diff(f, xs), xs, x) for x in critical],
    ledger.close("f′ at the lower fixed point", slopes[0], -1.5824, abs=1e-4, digits=5),
    ledger.close("f′ at the upper fixed point", slopes[1], 6.4735, abs=1e-4, digits=5),
    ledger.close("largest value of f on (0, 1)", float(top), 1.202369, abs=1e-6, digits=7),
    ledger.close("f at its local minimum", float(bottom), 0.681831, abs=1e-6, digits=6),
    ledger.more("f on the band, smallest (ends and critical point)", min(extremes), float(bottom) - 1e-12, digits=7),
    ledger.less("largest", max(extremes), float(top) + 1e-12, digits=7),
    ledger.close("f′(0)⁵", float(na**5), 484.9, abs=0.05),
    ledger.more("five steps on 2,000,001 points of [0.0015005, 1]: smallest", float(image.min()), 0.680, digits=5),
    ledger.less("largest", float(image.max()), 1.20237, digits=7),
    ledger.close("smallest x with everything above it in the band after 5 steps", first_in_band(5), 1.5005e-3, rel=1e-3, digits=4),
    ledger.close("after 6 steps", first_in_band(6), 4.356e-4, rel=1e-3, digits=4),
    *[
        ledger.close(f"RMS of NS₅ of a Gaussian {n} × {m}, times √max", gaussian_rms[n, m], seen, abs=0.01, digits=3, machine=True)
        for (n, m), seen in zip(gaussian_rms, (0.8987, 0.9389, 0.9534, 0.8562), strict=True)
    ],
)

# %% [markdown]
# **E1.** The map after one to six steps, and what other polynomials would do. The cubic $\frac32x-\frac12x^3$ and the quintic $\frac18(15x-10x^3+3x^5)$ converge to 1, but need 19 and 13 steps to lift $x=0.001$ above 0.99; Muon's needs six to be in its band, and stays there without ever converging.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Newton-Schulz image of a singular value against its start from 0.0001 to 1 on a log axis. Curves after one, two, three, five and six steps rise earlier and earlier; from about 0.0015 on the five-step curve oscillates inside a shaded band from 0.68 to 1.20 and does not settle at 1. A dashed line, the converging quintic after five steps, rises later and ends at one."}}
grid_x = np.geomspace(1e-4, 1, 4000)
figure, axes = plt.subplots(figsize=(7.4, 3.8))
axes.axhspan(float(bottom), float(top), color=SKY, alpha=0.25, label="invariant band [0.682, 1.202]")
for steps, color, style in ((1, GREY, ":"), (2, PURPLE, "-."), (3, GREEN, (0, (5, 1))), (5, BLUE, "-"), (6, ORANGE, (0, (3, 1, 1, 1)))):
    axes.plot(
        grid_x, newton_map(grid_x, steps), color=color, ls=style, lw=2.2 if steps == 5 else 1.3, label=f"{steps} step" + "s" * (steps > 1)
    )
axes.plot(grid_x, newton_map(grid_x, 5, (15 / 8, -5 / 4, 3 / 8)), color=BLACK, ls="--", lw=1.2, label="converging quintic, 5 steps")
axes.set(xscale="log", xlabel="singular value before (log axis)", ylabel="after", ylim=(0, 1.8))
axes.legend(fontsize=8, loc="upper left", ncols=2)
axes.set_title("Muon's iteration reaches a band around 1 fast, and never converges")
nb.show(figure)

# %% [markdown]
# <div class="kx-play" data-play="muon" role="group" aria-label="The Newton-Schulz map with coefficients to choose">
# <p><em class="kx-still">In the book on the web this is a figure to drag:</em> the map after any number of steps, with coefficients that
# you choose, and the path of one singular value. Try: lower a to 1.875, raise b to −1.25 and set c to 0.375. The map converges now, and
# small values are left behind. <span class="kx-still">The figure above is its still for Muon's coefficients.</span></p>
# </div>

# %% tags=["hide-input"]
polynomials = {"Muon's": optim.MUON_COEFFICIENTS, "cubic": (1.5, -0.5, 0.0), "quintic": (15 / 8, -5 / 4, 3 / 8)}
steps_to = lambda level, coefficients: next(s for s in range(60) if newton_map(1e-3, s, coefficients) >= level)
gallery = gauss(96, 128, seed=18)
gallery_sigma = torch.linalg.svdvals(gallery)
by_scalar = torch.from_numpy(newton_map((gallery_sigma / gallery_sigma.norm()).numpy(), 5))
images = {
    "float64": optim.newton_schulz(gallery),
    "float32": optim.newton_schulz(gallery.float()).double(),
    "bfloat16": muon.orthogonalize(gallery[None])[0].double(),
}
along = {
    name: (torch.linalg.svd(gallery, full_matrices=False).U.T @ M @ torch.linalg.svd(gallery, full_matrices=False).Vh.T).diagonal()
    for name, M in images.items()
}
nb.experiment(
    "E1",
    "Newton-Schulz moves each singular value by f alone; in bfloat16 up to a few percent. The converging polynomials need 19 and 13 steps where Muon's needs 6.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"96 × 128, {name}: largest gap of a singular value to f⁵",
                float((values - by_scalar).abs().max()),
                0,
                abs=tolerance,
                digits=1,
                machine=True,
            )
            for (name, values), tolerance in zip(along.items(), (1e-7, 1e-4, 0.06), strict=True)
        ],
        ledger.close(
            "bfloat16, the optimizer's own code, 512 singular values from 0.02 to 1: largest image",
            float(torch.linalg.svdvals(muon.orthogonalize(torch.diag(torch.linspace(0.02, 1, 512))[None])[0].float()).max()),
            1.2024,
            abs=0.01,
            digits=3,
            machine=True,
        ),
        ledger.close("steps of the cubic from 0.001 to 0.99", steps_to(0.99, polynomials["cubic"]), 19, abs=0.5),
        ledger.close("of the quintic", steps_to(0.99, polynomials["quintic"]), 13, abs=0.5),
        ledger.close("of Muon's polynomial to its band", steps_to(float(bottom), polynomials["Muon's"]), 6, abs=0.5),
        ledger.more(
            "spread of 100 further steps of Muon's polynomial from 0.9", float(np.std([newton_map(0.9, s) for s in range(20, 120)])), 0.1
        ),
    ],
)

# %% tags=["hide-input"]
spread = lambda sigma, steps: float(np.sqrt(np.mean((newton_map(sigma / np.linalg.norm(sigma), steps) - 1) ** 2)))
gaussian_sigma = {(n, m): torch.linalg.svdvals(gauss(n, m, seed=19)).numpy() for n, m in ((256, 256), (256, 1024))}
wavers = [spread(gaussian_sigma[256, 256], steps) for steps in range(5, 11)]
steep = np.arange(1, 513) ** -1.5
share_in = lambda steps: float(np.mean(newton_map(steep / np.linalg.norm(steep), steps) > 0.68))
nb.claim(
    "C16",
    "More steps (N = 10 instead of 5) orthogonalise more accurately.",
    "partly",
    holds=[
        ledger.less("σᵢ ∝ i^(−1.5), 512: RMS of σ − 1 with 10 steps", spread(steep, 10), spread(steep, 5) / 3),
        ledger.more("share of its singular values in the band: 10 steps", share_in(10), 0.99),
        ledger.less("5 steps", share_in(5), 0.2),
        ledger.less("Gaussian 256 × 256: RMS of σ − 1 with 10 steps, over that with 5", wavers[5] / wavers[0], 1.0, digits=2, machine=True),
    ],
    fails=[
        ledger.more(
            "Gaussian 256 × 1024: RMS of σ − 1 with 10 steps, over that with 5",
            spread(gaussian_sigma[256, 1024], 10) / spread(gaussian_sigma[256, 1024], 5),
            1.3,
            digits=2,
            machine=True,
        ),
        ledger.more(
            "Gaussian 256 × 256, 5 to 10 steps: how often of five times one more step makes it less accurate",
            sum(b > a for a, b in zip(wavers, wavers[1:], strict=False)),
            1.5,
            digits=1,
        ),
    ],
)
nb.claim(
    "C19",
    "The iteration has a fixed point near 1.",
    "partly",
    holds=[ledger.less("distance of the nearest fixed point to 1", abs(float(fixed_points[0]) - 1), abs(float(bottom) - 1))],
    fails=[
        ledger.more("it repels, so that no value stays near it: |f′| there", abs(slopes[0]), 1.0),
        ledger.more("1 itself is moved: |f(1) − 1|", abs(float(newton_map(1.0, 1)) - 1), 0.1),
    ],
)

# %% [markdown]
# ## Which momentum?
#
# The report accumulates $M_t=\beta M_{t-1}+G_t$ and steps along $G_t+\beta M_t$ (Nesterov); Jordan's code and torch average, $m_t=\beta m_{t-1}+(1-\beta)G_t$, and step along $(1-\beta)G_t+\beta m_t$. The two directions differ by exactly the factor $1-\beta$, which the matrix sign removes.

# %%
bt, g1, g2, g3 = sp.symbols("beta g1:4")


def heavy_ball(gradients, b):
    M = 0
    for g in gradients:
        M = b * M + g
    return gradients[-1] + b * M


def averaged(gradients, b):
    M = 0
    for g in gradients:
        M = b * M + (1 - b) * g
    return (1 - b) * gradients[-1] + b * M


# %% tags=["hide-input"]
noise30 = gauss(30, 5, 4, seed=20)
nb.derivation(
    "D10",
    "The two momentum conventions differ by the factor 1 − β, which msign removes.",
    sym.identity("three steps", averaged([g1, g2, g3], bt), (1 - bt) * heavy_ball([g1, g2, g3], bt)),
    ledger.close(
        "30 steps: largest gap",
        float((averaged(list(noise30), 0.95) - 0.05 * heavy_ball(list(noise30), 0.95)).abs().max()),
        0,
        abs=1e-14,
        digits=1,
        machine=True,
    ),
    ledger.close(
        "their matrix signs: largest gap",
        float((optim.msign(averaged(list(noise30), 0.95)) - optim.msign(heavy_ball(list(noise30), 0.95))).abs().max()),
        0,
        abs=1e-12,
        digits=1,
        machine=True,
    ),
)

# %% [markdown]
# ## Entropy of a spectrum, and a law of scaling
#
# The report compares trained matrices by $H(\sigma)=-\frac1{\log n}\sum p_i\log p_i$ with $p_i=\sigma_i^2/\sum_j\sigma_j^2$, $n$ the number of singular values; $n^H$ is the entropy rank $\mathrm{eH}_2$ of [effective rank](effective-rank.ipynb). A Gaussian $n\times m$ matrix, $n\le m$, has
# $H\approx1-\frac{n}{2m\log n}$ (Page's formula): the line to hold trained matrices against.

# %% tags=["hide-input"]
page = lambda n, m: 1 - n / (2 * m) / math.log(n)
entropy_of = lambda M: float(ranks.normalized_entropy(torch.linalg.svdvals(M)))
by_definition = lambda s: -sum(p * math.log(p) for p in (s**2 / np.sum(s**2)).tolist()) / math.log(len(s))
some_sigma = np.array([3.0, 2.0, 0.5, 0.1])
gaussian_entropy = {
    (n, m): float(np.mean([entropy_of(gauss(n, m, seed=seed)) for seed in range(3)])) for n, m in ((64, 64), (64, 256), (256, 256))
}
nb.derivation(
    "D11",
    "H ∈ [0, 1], n^H is the entropy rank with γ = 2, and a Gaussian matrix has H ≈ 1 − n/(2m log n).",
    ledger.close(
        "H by its definition", float(ranks.normalized_entropy(torch.from_numpy(some_sigma))), by_definition(some_sigma), rel=1e-12, digits=6
    ),
    ledger.close(
        "n^H and the entropy rank",
        4 ** by_definition(some_sigma),
        float(ranks.effective_rank(torch.from_numpy(some_sigma), 1, 2)),
        rel=1e-10,
        digits=6,
    ),
    *[ledger.close(f"Gaussian {n} × {m}, three draws", H, page(n, m), abs=3e-3) for (n, m), H in gaussian_entropy.items()],
)

# %% [markdown]
# The headline number comes from two fitted laws (report, Table 3), with $C$ in PFLOP/s-days: $L_{\text{Muon}}=2.506\,C^{-0.052}$ and $L_{\text{AdamW}}=2.608\,C^{-0.054}$. Equal loss means
#
# $$\frac{C_M}{C_A}=\Bigl(\frac{2.506}{2.608}\Bigr)^{1/0.052}C_A^{\,0.054/0.052-1}=0.464\,C_A^{\,0.0385}.$$
#
# So the ratio *grows* with compute. It is 0.464 at $C_A=1$ and reaches the quoted 0.52 at 18, outside the range of 0.25 to 4.1 over which the laws were fitted; inside it is 0.44 to 0.49. (Compute is $6ND$ operations for $N$ parameters and $D$ tokens; one PFLOP/s-day is $8.64\cdot10^{19}$.)

# %%
CM, CA = sp.symbols("C_M C_A", positive=True)
k_m, k_a, e_m, e_a = R("2.506"), R("2.608"), R("0.052"), R("0.054")
ratio_law = (k_m / k_a) ** (1 / e_m) * CA ** (e_a / e_m - 1)
ratio_at = lambda C, em=0.052, ea=0.054: (2.506 / 2.608) ** (1 / em) * C ** (ea / em - 1)
report_models = [(399e6, 8.92e9), (545e6, 14.04e9), (822e6, 20.76e9), (1.1e9, 28.54e9), (1.5e9, 38.91e9)]  # report, Table 2: N, D
petaflop_days = [6 * N * D / (1e15 * 86400) for N, D in report_models]

# %% tags=["hide-input"]
corners = [ratio_at(10, em, ea) for em in (0.0515, 0.0525) for ea in (0.0535, 0.0545)]
rounding = [ratio_at(10, em, 0.054) for em in (0.0525, 0.0515)], [ratio_at(10, 0.052, ea) for ea in (0.0535, 0.0545)]
quoted_at = scipy.optimize.brentq(lambda log_c: ratio_at(math.exp(log_c)) - 0.519, -3, 10)
nb.derivation(
    "D12",
    "Equal loss: C_M/C_A = 0.4643 C_A^0.03846.",
    sym.solves("L_Muon(C_M) = L_AdamW(C_A)", sp.Eq(sp.log(k_m) - e_m * sp.log(CM), sp.log(k_a) - e_a * sp.log(CA)), CM, ratio_law * CA),
    ledger.close("factor", float(ratio_law.subs(CA, 1)), 0.4643, abs=5e-5),
    ledger.close("exponent", float(e_a / e_m - 1), 0.03846, abs=5e-6),
    ledger.close("at 10 PFLOP/s-days", ratio_at(10), 0.507, abs=5e-4, digits=3),
    ledger.close("smallest compute of the fitted models, 6 · 399M · 8.92B", petaflop_days[0], 0.247, abs=5e-4, digits=3),
    ledger.close("largest, 6 · 1.5B · 38.91B", petaflop_days[-1], 4.053, abs=5e-3, digits=4),
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Ratio of Muon's to AdamW's compute at equal loss against AdamW's compute on a log axis, a line rising slowly from about 0.43 at 0.1 to 0.56 at 100. The fitted range from 0.25 to 4.1 is shaded; a band of rounding around the line spans several hundredths; a dashed horizontal line at 0.52 meets the rising line at 18, outside the shaded range."}}
compute = np.geomspace(0.1, 100, 200)
figure, axes = plt.subplots(figsize=(7.2, 3.4))
edges = np.array([ratio_at(compute, em, ea) for em in (0.0515, 0.0525) for ea in (0.0535, 0.0545)])
axes.axvspan(min(petaflop_days), max(petaflop_days), color=SKY, alpha=0.25, label="compute of the fitted models (6ND)")
axes.fill_between(compute, edges.min(0), edges.max(0), color=GREY, alpha=0.3, label="rounding of the two exponents")
axes.plot(compute, ratio_at(compute), color=BLUE, ls="-", label="Muon's compute over AdamW's")
axes.axhline(0.519, color=RED, ls="--", lw=1.2, label="quoted: 0.52")
axes.set(xscale="log", xlabel="AdamW's compute, PFLOP/s-days (log axis)", ylabel="ratio at equal loss")
axes.legend(fontsize=8, loc="upper left")
axes.set_title("Where the laws were fitted, the ratio is below 0.5")
nb.show(figure)

# %% [markdown]
# ## The algorithm
#
# All of Muon with Moonlight's two repairs, short enough to read aloud:


# %%
def newton_schulz(M, steps=5, a=3.4445, b=-4.7750, c=2.0315):
    """Approximate matrix sign of M (n, m)."""
    X = M / M.norm()
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


def muon_step(W, G, M, rate, decay=0.1, beta=0.95):
    """One step on W (n, m) with gradient G; returns the new W and the new momentum M."""
    M = beta * M + (1 - beta) * G
    Phi = newton_schulz((1 - beta) * G + beta * M)
    return (1 - rate * decay) * W - rate * 0.2 * math.sqrt(max(W.shape)) * Phi, M


# %% [markdown]
# [`kexue_nb.muon.Muon`](https://github.com/kexue-nb/kexue-nb/blob/main/kexue_nb/muon.py) is the optimizer to take along: names, defaults, `state_dict` and the order of the bfloat16 operations are those of `torch.optim.Muon`, but all matrices of one shape (or its transpose) go
# through Newton-Schulz as one stack. The small grids below train many runs side by side with `optim.StackedMuon`, the same step for stacks of runs; the large model uses `muon.Muon`. **E2**: do they agree with torch, step by step, for both shape rules? **E2b**: is it as fast? All that is trained in this notebook is defined and started in the hidden cells that follow.

# %% tags=["hide-input"]
cpu = torch.device("cpu")
HIDDEN = ("wq", "wk", "wv", "wo", "w1", "w2")


def drawn_gradients(shapes, seed):
    """Normal matrices (out, in), float32, one for each shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def march(optimizer, params, gradients):
    """One update for each list of gradients."""
    for matrices in gradients:
        for p, G in zip(params, matrices, strict=True):
            p.grad = G.to(p.device)
        optimizer.step()


def relative_gap(ours, theirs, start):
    """Norm of the difference of two end points over the norm of the way."""
    total = lambda tensors: math.sqrt(sum(float(t.square().sum()) for t in tensors))
    return total([a - b for a, b in zip(ours, theirs, strict=True)]) / total([b - s for b, s in zip(theirs, start, strict=True)])


def parity(device, *, shapes, rules, steps, lr):
    """Muon against torch.optim.Muon over the same random gradients: rule -> gap of ours, and of StackedMuon in float32 and bfloat16."""
    start = [W.to(device) for W in drawn_gradients(shapes, 0)]
    gradients = [drawn_gradients(shapes, 1 + step) for step in range(steps)]
    table = {}
    for rule in rules:
        ends = {}
        for name, kind in (("torch", torch.optim.Muon), ("ours", muon.Muon)):
            params = [torch.nn.Parameter(W.clone()) for W in start]
            march(kind(params, lr=lr, adjust_lr_fn=rule), params, gradients)
            ends[name] = [p.detach() for p in params]
        for name, dtype in (("stacked, float32", None), ("stacked, bfloat16", torch.bfloat16)):
            params = [torch.nn.Parameter(W.T[None].clone()) for W in start]  # (1, d_in, d_out)
            groups = [{"params": [p], "multiplier": muon.shape_factor(rule, *s)} for p, s in zip(params, shapes, strict=True)]
            turned = [[G.T[None] for G in matrices] for matrices in gradients]
            march(optim.StackedMuon(groups, torch.tensor([lr]), weight_decay=0.1, dtype=dtype), params, turned)
            ends[name] = [p.detach()[0].T for p in params]
        table[rule] = {name: relative_gap(ends[name], ends["torch"], start) for name in ends if name != "torch"}
    return table


# %% tags=["hide-input"]
def finish(device):
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_a_step(device, optimizer, rounds):
    """Median seconds of one update."""
    times = []
    for _ in range(rounds + 2):
        finish(device)
        start = time.perf_counter()
        optimizer.step()
        finish(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def stopwatch_of_muons(device, *, d, layers, rounds):
    """Milliseconds of an update of all hidden matrices of a transformer, by torch.optim.Muon, Muon and AdamW, in turns; relative gap of one step."""
    shapes = [(d, d)] * (4 * layers) + [(4 * d, d), (d, 4 * d)] * layers
    gradients = [G.to(device) for G in drawn_gradients(shapes, 3)]
    kinds = {"torch.optim.Muon": torch.optim.Muon, "Muon": muon.Muon, "AdamW": torch.optim.AdamW}
    optimizers, after = {}, {}
    for name, kind in kinds.items():
        params = [torch.nn.Parameter(torch.zeros_like(G)) for G in gradients]
        optimizers[name] = kind(params, lr=1e-3) if name != "AdamW" else kind(params, lr=1e-3, fused=device.type == "cuda")
        march(optimizers[name], params, [gradients])
        after[name] = [p.detach().clone() for p in params]
    gap = relative_gap(after["Muon"], after["torch.optim.Muon"], [torch.zeros_like(G) for G in gradients])
    times = {name: [] for name in kinds}
    for _ in range(3):
        for name, optimizer in optimizers.items():
            times[name].append(1e3 * seconds_a_step(device, optimizer, rounds))
    flops = sum(muon.newton_schulz_flops(*shape) for shape in shapes)
    return {"ms": times, "gap": gap, "flops": flops, "parameters": sum(G.numel() for G in gradients)}


e2 = nb.run("E2", parity, shapes=[[64, 64], [128, 32], [32, 128], [64, 64]], rules=["original", "match_rms_adamw"], steps=20, lr=0.02)
e2b = nb.run(
    "E2b",
    stopwatch_of_muons,
    **nb.at_scale(
        cpu={"d": 64, "layers": 1, "rounds": 3}, gpu={"d": 512, "layers": 4, "rounds": 10}, full={"d": 1024, "layers": 8, "rounds": 20}
    ),
)


# %% tags=["hide-input"]
def language_model(device, seeds, shape):
    """The transformer of this notebook: rotary positions, output projections times 1/sqrt(2 depth), embeddings of deviation 0.02."""
    half = shape["d"] // shape["heads"] // 2
    rotary = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    model = nn.Transformer(nn.Init(seeds), **shape, rotary=rotary)
    with torch.no_grad():
        model.tokens.weight.mul_(0.02)
        for W in (model.wo, model.w2):
            W.mul_(1 / math.sqrt(2 * shape["depth"]))
    return model.to(device)


def split_parameters(model):
    """Hidden matrices, then the rest."""
    hidden = [getattr(model, name) for name in HIDDEN]
    return hidden, [p for p in model.parameters() if all(p is not W for W in hidden)]


def stacked_optimizer(arm, model, lr, rest_lr, decay, factor):
    """StackedAdam for all, or StackedMuon on the hidden matrices with updates of RMS ``factor`` times the rate."""
    hidden, rest = split_parameters(model)
    adam = {"betas": (0.9, 0.95), "weight_decay": decay}
    if arm == "AdamW":
        return optim.Together(optim.StackedAdam(hidden, lr, **adam), optim.StackedAdam(rest, rest_lr, **adam))
    groups = [{"params": [W], "multiplier": factor * math.sqrt(max(W.shape[-2:]))} for W in hidden]
    return optim.Together(optim.StackedMuon(groups, lr, weight_decay=decay), optim.StackedAdam(rest, rest_lr, **adam))


def step_rms(before, after, rate, decay):
    """RMS over all but the first axis of the step (without decay) over its rate; ``rate`` (R,)."""
    shaped = rate.view(-1, *[1] * (after.ndim - 1))
    return metrics.rms((((1 - shaped * decay) * before - after) / shaped).flatten(1))


# %% tags=["hide-input"]
def stacked_language(device, parts, arm, rates, *, seeds, shape, batch, steps, decay, factor, marks, rest=None):
    """Rates x seeds side by side. Held-out losses (rates, seeds), update RMS and norms at the marks, entropy of the spectra at the end."""
    model = language_model(device, list(seeds) * len(rates), shape)
    lr = torch.tensor(rates).repeat_interleave(len(seeds))
    rest_lr = lr if rest is None else torch.full_like(lr, rest)
    opt = stacked_optimizer(arm, model, lr, rest_lr, decay, factor)
    generators, held, seen, curve = [torch.Generator().manual_seed(seed) for seed in seeds], {}, {}, {}

    def draw(source, generators, count):
        drawn = [data.windows(source, count, shape["context"], g) for g in generators]
        return [torch.stack(t).repeat(len(rates), 1, 1).to(device) for t in zip(*drawn, strict=True)]

    loss = lambda x, y: nn.cross_entropy_per_run(model(x), y)

    @torch.no_grad()
    def held_out(part, batches):
        return torch.stack([loss(*draw(part, [torch.Generator().manual_seed(1000 + i)] * len(seeds), 32)) for i in range(batches)]).mean(0)

    def watch(step, losses):
        if step + 2 in marks:
            held.update({name: getattr(model, name).detach().clone() for name in HIDDEN})
        if step + 1 in marks:
            rate = lr.to(device) * optim.warmup_cosine(step, steps)
            seen[step + 1] = {
                name: step_rms(held[name], getattr(model, name).detach(), rate, decay).view(len(rates), -1) for name in HIDDEN
            }
            curve[step + 1] = finite(held_out(parts[1], 2)).view(len(rates), -1)

    train.fit_graphed(loss, lambda step: draw(parts[0], generators, batch), opt, steps, schedule=optim.warmup_cosine, watch=watch)
    valid, test = (finite(held_out(part, 8)).view(len(rates), -1) for part in parts[1:])
    return {
        "valid": valid,
        "test": test,
        "rms": {m: {k: torch.nan_to_num(v, 9.0) for k, v in row.items()} for m, row in seen.items()},
        "curve": curve,
        **spectra(model, len(rates)),
    }


def finite(losses):
    """Diverged runs get 9 nats."""
    return torch.where(torch.isfinite(losses), losses, 9.0).clamp(max=9.0)


def spectra(model, rates):
    """Entropy of the squared singular values and spectral norm, each a mean over layers: name -> (rates, seeds)."""
    found = {"entropy": {}, "norm": {}}
    for name in HIDDEN:
        W = torch.nan_to_num(getattr(model, name).detach().cpu())
        sigma = torch.linalg.svdvals(W)
        found["entropy"][name] = ranks.normalized_entropy(sigma.clamp_min(1e-12)).mean(1).view(rates, -1)
        found["norm"][name] = sigma[..., 0].mean(1).view(rates, -1)
    return found


CHARACTERS = data.encode_characters(data.shakespeare())


def tiny_grid(device, *, arms, rates, shape, **config):
    """Shakespeare by characters: arm name -> stacked_language; ``arms`` gives the optimizer, its decay and its update RMS."""
    ids, alphabet = CHARACTERS
    sizes = [int(0.9 * len(ids)), int(0.05 * len(ids))]
    parts = ids.split([*sizes, len(ids) - sum(sizes)])
    shape = {"vocabulary": len(alphabet)} | shape
    return {
        name: stacked_language(
            device, parts, arm["kind"], rates[name], shape=shape, decay=arm["decay"], factor=arm["factor"], rest=arm.get("rest"), **config
        )
        for name, arm in arms.items()
    }


# %% tags=["hide-input"]
def noisy_digits(share, seed):
    """Digits 8 x 8 in [0, 1], labels of the first 1,300 wrong with probability ``share``: train and test tensors."""
    images, labels = data.digits8x8()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    x, y = images[order].flatten(1) / 16, labels[order]
    wrong = torch.rand(1300, generator=generator) < share
    noisy = torch.where(wrong, torch.randint(10, (1300,), generator=generator), y[:1300])
    return x[:1300], noisy, x[1300:], y[1300:]


class DigitsNet(torch.nn.Module):
    """64 -> 64 -> 64 -> 64 -> 10 with ReLU for a stack of runs; the two inner matrices are Muon's. x (R, B, 64) -> (R, B, 10)."""

    def __init__(self, seeds):
        super().__init__()
        init = nn.Init(seeds)
        self.enter, self.inner, self.leave = (
            init.normal(64, 64, std=1 / 8),
            init.normal(2, 64, 64, std=1 / 8),
            init.normal(64, 10, std=1 / 8),
        )

    def forward(self, x):
        for W in (self.enter, *self.inner.unbind(1)):
            x = torch.bmm(x, W).relu()
        return torch.bmm(x, self.leave)


def decay_runs(device, *, decays, seeds, steps, marks, lr, share):
    """Muon with several decays: spectral norms of the first inner matrix (marks, seeds), test loss and accuracy."""
    table = {}
    sets = [noisy_digits(share, seed) for seed in seeds]
    x, y, test_x, test_y = (torch.stack(t).to(device) for t in zip(*sets, strict=True))
    for decay in decays:
        net = DigitsNet(seeds).to(device)
        rate = torch.full((len(seeds),), lr)
        inner = optim.StackedMuon([net.inner], rate, weight_decay=decay)
        opt = optim.Together(inner, optim.StackedAdam([net.enter, net.leave], rate / 10))
        generator, norms = torch.Generator().manual_seed(7), {}

        def draw(step, generator=generator):
            rows = torch.randint(1300, (len(seeds), 64), generator=generator).to(device)
            return x.gather(1, rows[..., None].expand(-1, -1, 64)), y.gather(1, rows)

        def watch(step, losses, net=net, norms=norms):
            if step + 1 in marks:
                norms[step + 1] = torch.linalg.svdvals(net.inner.detach()[:, 0].cpu())[:, 0]

        train.fit_graphed(lambda x, y, net=net: nn.cross_entropy_per_run(net(x), y), draw, opt, steps, watch=watch)
        with torch.no_grad():
            logits = net(test_x)
            table[str(decay)] = {
                "norm": norms,
                "loss": nn.cross_entropy_per_run(logits, test_y),
                "accuracy": (logits.argmax(-1) == test_y).float().mean(1),
            }
    return table


# %% tags=["hide-input"]
def corpus():
    """Bytes of three texts (plays, a newspaper in Chinese, Python), of each the first 90% to train, then 5% to choose by, 5% to report."""
    parts = [[], [], []]
    for text in (data.shakespeare(), data.chinese_news(), data.python_code()):
        raw = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        sizes = [int(0.9 * len(raw)), int(0.05 * len(raw))]
        for part, piece in zip(parts, raw.split([*sizes, len(raw) - sum(sizes)]), strict=True):
            part.append(piece)
    return [torch.cat(pieces) for pieces in parts]


BYTES = corpus()


def plain_optimizers(arm, model, rate, decay):
    """torch.optim.AdamW for all, or Muon on the hidden matrices with AdamW's update size; gains do not decay."""
    hidden, rest = split_parameters(model)
    gains = [p for p in rest if p is model.gains or p is model.final_gain]
    matrices = [p for p in rest if all(p is not g for g in gains)]
    matrices += hidden if arm == "AdamW" else []
    groups = [{"params": matrices, "weight_decay": decay}, {"params": gains, "weight_decay": 0.0}]
    found = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=model.wq.is_cuda)]
    return found if arm == "AdamW" else [*found, muon.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")]


def cut(part, starts, length):
    """Windows of bytes and their targets, int64: starts (B,) -> two (1, B, length)."""
    at = starts[:, None] + torch.arange(length, device=part.device)
    return part[at].long()[None], part[at + 1].long()[None]


def model_loss(model, x, y, precision):
    """Mean cross-entropy in nats a byte."""
    return nn.cross_entropy_per_run(model(x, precision), y).sum()


@torch.no_grad()
def held_out_loss(model, part, count, batch, precision):
    """Mean loss over ``count`` fixed windows of ``part``."""
    length = model.context
    starts = torch.randint(len(part) - length, (count,), generator=torch.Generator().manual_seed(99)).to(part.device)
    return float(torch.stack([model_loss(model, *cut(part, some, length), precision) for some in starts.split(batch)]).mean())


# %% tags=["hide-input"]
def train_once(parts, model, arm, rate, seed, *, steps, batch, marks, decay, clip, bf16):
    """Train in place. Curve of the validation loss, seconds of training so far and update RMS at ``marks`` points; losses at the end."""
    precision = torch.bfloat16 if bf16 else torch.float32
    device, length = parts[0].device, model.context
    optimizers, params = plain_optimizers(arm, model, rate, decay), list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(parts[0]) - length, (steps, batch), generator=generator).to(device)
    points = [round(steps * (i + 1) / marks) for i in range(marks)]
    curve, seconds, rms, spent = [], [], {name: [] for name in HIDDEN}, 0.0
    finish(device)
    clock = time.perf_counter()
    for step in range(steps):
        now = rate * optim.warmup_cosine(step, steps)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = now
        model_loss(model, *cut(parts[0], starts[step], length), precision).backward()
        torch.nn.utils.clip_grad_norm_(params, clip)
        if step + 1 in points:
            finish(device)
            spent += time.perf_counter() - clock
            before = {name: getattr(model, name).detach().clone() for name in HIDDEN}
            finish(device)
            clock = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        if step + 1 in points:
            finish(device)
            spent += time.perf_counter() - clock
            for name in HIDDEN:
                moved = step_rms(before[name], getattr(model, name).detach(), torch.tensor([now], device=device), decay)
                rms[name].append(torch.nan_to_num(moved, 9.0).item())
            curve.append(held_out_loss(model, parts[1], 2 * batch, batch, precision))
            seconds.append(spent)
            finish(device)
            clock = time.perf_counter()
    loss = {name: held_out_loss(model, part, 16 * batch, batch, precision) for name, part in zip(("valid", "test"), parts[1:], strict=True)}
    return {"at": points, "curve": curve, "seconds": seconds, "rms": rms, **loss}


def matrix_entropies(model):
    """Mean over every third layer of the entropy of the squared singular values, from the eigenvalues of Gram matrices: name -> number."""
    found = {}
    for name in HIDDEN:
        W = torch.nan_to_num(getattr(model, name).detach()[0, ::3])
        gram = W @ W.mT if W.shape[-2] <= W.shape[-1] else W.mT @ W
        found[name] = float(ranks.normalized_entropy(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()).mean())
    return found


def language_runs(device, *, arm, exponents, seeds, shares, extend, entropy, shape, steps, **config):
    """A transformer on bytes: for each seed, share of the steps and rate 2^exponent one run with its whole schedule.

    Where the best rate of the first seed lies at an edge of the grid, the grid grows by one there, at most ``extend`` times.
    """
    parts, shape = [part.to(device) for part in BYTES], {"vocabulary": 256} | shape
    exponents, runs, small = sorted(exponents), [], {"d": 64, "depth": 1, "heads": 2}
    train_once(parts, language_model(device, [0], shape | small), arm, 1e-3, 0, steps=3, **config | {"marks": 1})  # warms the machine up
    for seed in seeds:
        model = language_model(device, [seed], shape)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        begin = matrix_entropies(model) if entropy else {}

        def run(exponent, share, seed=seed, model=model, start=start, begin=begin):
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(start[name])
            row = train_once(parts, model, arm, 2.0**exponent, seed, steps=round(share * steps), **config)
            row["valid"], row["test"] = (min(row[k], 9.0) if math.isfinite(row[k]) else 9.0 for k in ("valid", "test"))
            row["curve"] = [min(v, 9.0) if math.isfinite(v) else 9.0 for v in row["curve"]]
            return (
                row
                | {"exponent": exponent, "share": share, "seed": seed}
                | ({"entropy": matrix_entropies(model), "start": begin} if entropy else {})
            )

        for share in shares:
            rows = {e: run(e, share) for e in exponents}
            for _ in range(extend):
                best = min(rows, key=lambda e: rows[e]["valid"])
                if len(rows) > 1 and best in (min(rows), max(rows)):
                    new = best - 1 if best == min(rows) else best + 1
                    rows[new] = run(new, share)
            runs += [rows[e] for e in sorted(rows)]
    parameters = sum(p.numel() for p in model.parameters())
    return {"runs": runs, "parameters": parameters, "train bytes": len(parts[0])}


# %% tags=["hide-input"]
def shared_optimizer(arm, model, rate, rest, decay, clip, bf16):
    """AdamW or Muon (matched to AdamW's update size) on the hidden matrices at ``rate``, AdamW on the rest at ``rest``, after clipping."""
    hidden, others = split_parameters(model)
    gains = [p for p in others if p is model.gains or p is model.final_gain]
    others = [{"params": [p for p in others if all(p is not g for g in gains)], "weight_decay": decay}, {"params": gains}]
    adam = optim.StackedAdam(others, torch.tensor([rest]), betas=(0.9, 0.95))
    if arm == "AdamW":
        inner = optim.StackedAdam(hidden, torch.tensor([rate]), betas=(0.9, 0.95), weight_decay=decay)
    else:
        groups = [{"params": [W], "multiplier": 0.2 * math.sqrt(max(W.shape[-2:]))} for W in hidden]
        precision = torch.bfloat16 if bf16 else None
        inner = optim.StackedMuon(groups, torch.tensor([rate]), weight_decay=decay, dtype=precision)
    return optim.Clipped(clip, inner, adam)


def train_together(world, model, parts, row, *, steps, batch, marks, decay, clip, bf16):
    """Train in place, each process on its share of every batch. Validation losses at ``marks`` points, losses at the end, seconds a step."""
    precision, length = torch.bfloat16 if bf16 else torch.float32, model.context
    optimizer = shared_optimizer(row["arm"], model, 2.0 ** row["exponent"], 2.0 ** row["rest"], decay, clip, bf16)
    parallel = world.parallel(model)
    generator = torch.Generator().manual_seed(row["seed"])
    starts = torch.randint(len(parts[0]) - length, (steps, batch), generator=generator).to(world.device)
    points = [round(steps * (i + 1) / marks) for i in range(marks)]
    curve, clock = [], [[]]

    def loss(step):
        x, y = cut(parts[0], world.share(starts[step]), length)
        return nn.cross_entropy_per_run(parallel(x, precision), y)

    def watch(step, losses):
        clock[-1].append(time.perf_counter())  # the losses have been brought to the host: the last step has ended
        if step + 1 in points:
            curve.append(held_out_loss(model, parts[1], 2 * batch, batch, precision))
            clock.append([time.perf_counter()])

    distributed.fit(loss, optimizer, steps, world=world, module=parallel, schedule=optim.warmup_cosine, watch=watch)
    ends = {name: held_out_loss(model, part, 16 * batch, batch, precision) for name, part in zip(("valid", "test"), parts[1:], strict=True)}
    return {"at": points, "curve": curve, "step_s": float(np.median(np.concatenate([np.diff(times) for times in clock])))} | ends


# %% tags=["hide-input"]
def shared_runs(world, parts, runs, shape, steps, config):
    """What each process does for :func:`big_runs`."""
    parts, small = [part.to(world.device) for part in parts], shape | {"d": 64, "depth": 1, "heads": 2}
    trained = lambda model, row, steps, marks: train_together(world, model, parts, row, steps=steps, **config | {"marks": marks})
    trained(language_model(world.device, [0], small), runs[0], 3, 1)  # warms the machine up
    model = start = None
    rows = []
    for row in sorted(runs, key=lambda row: row["seed"]):
        if start is None or row["seed"] != rows[-1]["seed"]:
            model = language_model(world.device, [row["seed"]], shape)
            start = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        found = trained(model, row, round(row["share"] * steps), config["marks"])
        rows.append(row | {k: v if k in ("at", "step_s") else finite(torch.tensor(v)).tolist() for k, v in found.items()})
    memory = torch.cuda.max_memory_allocated() / 1e9 if world.device.type == "cuda" else 0.0
    parameters = sum(p.numel() for p in model.parameters())
    return {"runs": rows, "parameters": parameters, "processes": world.size, "gb of each process": world.gather(memory)}


def big_runs(device, *, processes, runs, shape, steps, **config):
    """A transformer on bytes, trained by several processes together, one a GPU.

    ``runs``: dicts with the arm, the exponents of 2 of the rate of the hidden matrices (``exponent``) and of the ``rest``, the share of the
    steps and the seed.
    """
    return distributed.launch(shared_runs, processes, BYTES, runs, {"vocabulary": 256} | shape, steps, config, device=device)


# %% tags=["hide-input"]
octaves = lambda low, high: [2.0**e for e in range(low, high + 1)]
tiny_shape = nb.at_scale(
    cpu={"shape": {"context": 32, "d": 32, "depth": 1, "heads": 2}, "batch": 8, "steps": 40, "marks": [20, 40]},
    gpu={"shape": {"context": 64, "d": 64, "depth": 2, "heads": 4}, "batch": 16, "steps": 300, "marks": [30, 100, 200, 300]},
    full={"shape": {"context": 64, "d": 64, "depth": 2, "heads": 4}, "batch": 16, "steps": 300, "marks": [30, 100, 200, 300]},
)
tiny_seeds = nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2], full=[0, 1, 2, 3])
tiny_rates = nb.at_scale(cpu=octaves(-7, -5), gpu=octaves(-10, -4), full=octaves(-10, -4))
decays = nb.at_scale(cpu={"AdamW": (0.1,)}, gpu={"AdamW": (0.0, 0.1)}, full={"AdamW": (0.0, 0.1, 0.3)}) | {
    "Muon": nb.at_scale(cpu=(0.1,), gpu=(0.1,), full=(0.0, 0.1))
}
e3_arms = {f"{kind}, decay {decay:g}": {"kind": kind, "decay": decay, "factor": 0.2} for kind in decays for decay in decays[kind]}
e5 = nb.run(
    "E5",
    decay_runs,
    lr=0.02,
    share=0.2,
    decays=nb.at_scale(cpu=[0.5, 2.0], gpu=[0.0, 0.1, 0.5, 1.0, 2.0], full=[0.0, 0.1, 0.5, 1.0, 2.0]),
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=300, gpu=3000, full=3000),
    marks=nb.at_scale(cpu=[100, 200, 300], gpu=[200, 800, 1400, 2000, 2600, 3000], full=[200, 800, 1400, 2000, 2600, 3000]),
)
e3 = nb.run("E3", tiny_grid, arms=e3_arms, rates=dict.fromkeys(e3_arms, tiny_rates), seeds=tiny_seeds, **tiny_shape)

# %% tags=["hide-input"]
big = {"decay": 0.1, "clip": 1.0, "bf16": nb.scale != "cpu" and runtime.has_bf16()} | nb.at_scale(
    cpu={"shape": {"context": 32, "d": 32, "depth": 1, "heads": 2}, "batch": 8, "steps": 24, "marks": 4},
    gpu={"shape": {"context": 256, "d": 256, "depth": 4, "heads": 4}, "batch": 16, "steps": 300, "marks": 10},
    full={"shape": {"context": 512, "d": 1024, "depth": 8, "heads": 16}, "batch": 32, "steps": 450, "marks": 18},
)
tuning = {"seeds": [0], "shares": [1.0], "entropy": False, "extend": nb.at_scale(cpu=0, gpu=0, full=1)} | big
adam_grid = nb.at_scale(cpu=[-8.0, -7.0, -6.0], gpu=[-11.0, -10.0, -9.0, -8.0], full=[-12.0, -11.0, -10.0, -9.0])
muon_grid = nb.at_scale(cpu=[-7.0, -6.0, -5.0], gpu=[-10.0, -9.0, -8.0, -7.0], full=[-10.0, -9.0, -8.0, -7.0])
best_exponent = lambda result: min(result["runs"], key=lambda row: row["valid"])["exponent"]
e7 = nb.run("E7", language_runs, arm="AdamW", exponents=adam_grid, **tuning)
e7b = nb.run("E7b", language_runs, arm="Muon", exponents=muon_grid, **tuning)

# %% tags=["hide-input"]
fresh = nb.at_scale(cpu=[1], gpu=[1], full=[1, 2])
again = {"shares": [1.0], "extend": 0, "seeds": fresh, "entropy": True} | big
e7c = nb.run("E7c", language_runs, arm="AdamW", exponents=[best_exponent(e7)], **again)
e7d = nb.run("E7d", language_runs, arm="Muon", exponents=[best_exponent(e7b)], **again)
short = {"extend": 0, "entropy": False, "arm": "Muon", "exponents": [best_exponent(e7b)]} | big
short_shares = nb.at_scale(cpu=[0.5], gpu=[0.5, 0.75], full=[0.3, 0.5, 0.7])
e7e = nb.run("E7e", language_runs, seeds=fresh[:1], shares=short_shares, **short)

# %% tags=["hide-input"]
factors = nb.at_scale(cpu=[0.2, 0.8], gpu=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6], full=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
e4_rates = nb.at_scale(cpu=octaves(-7, -7), gpu=octaves(-9, -7), full=octaves(-10, -7))
e4_arms = {f"{factor:g}": {"kind": "Muon", "decay": 0.1, "factor": factor} for factor in factors}
e4 = nb.run("E4", tiny_grid, arms=e4_arms, rates=dict.fromkeys(e4_arms, e4_rates), seeds=tiny_seeds[:3], **tiny_shape)
long_arms = {f"decay {decay:g}": {"kind": "Muon", "decay": decay, "factor": 0.2} for decay in (0.0, 0.1)}
long_shape = tiny_shape | nb.at_scale(
    cpu={"steps": 20, "marks": [10, 20]},
    gpu={"steps": 1000, "marks": [200, 500, 1000]},
    full={"steps": 3000, "marks": [300, 600, 1200, 2000, 3000]},
)
long_rates = nb.at_scale(cpu=octaves(-7, -7), gpu=octaves(-7, -6), full=octaves(-8, -6))
e5b = nb.run("E5b", tiny_grid, arms=long_arms, rates=dict.fromkeys(long_arms, long_rates), seeds=tiny_seeds[:3], **long_shape)
e7f = nb.run("E7f", language_runs, seeds=[2], shares=short_shares, **short)

# %% tags=["hide-input"]
shared = {"processes": nb.at_scale(cpu=1, gpu=1, full=max(1, min(2, torch.cuda.device_count())))} | big
shared |= nb.at_scale(
    cpu={},
    gpu={"shape": {"context": 256, "d": 512, "depth": 6, "heads": 8}, "marks": 5},
    full={"shape": {"context": 512, "d": 1280, "depth": 18, "heads": 20}, "batch": 64, "steps": 400, "marks": 8},
)
one_run = lambda arm, exponent, rest=None, seed=0, share=1.0: {
    "arm": arm,
    "exponent": float(exponent),
    "rest": float(exponent if rest is None else rest),
    "seed": seed,
    "share": share,
}
lowest = lambda result: min(result["runs"], key=lambda row: row["valid"])
adam8 = nb.at_scale(cpu=[-8, -7], gpu=[-12, -11, -10], full=[-12, -11, -10])
muon8 = nb.at_scale(cpu=[-7, -6], gpu=[-9, -8, -7], full=[-9, -8, -7])
e8 = nb.run("E8", big_runs, runs=[one_run("AdamW", e) for e in adam8], **shared)
e8b = nb.run("E8b", big_runs, runs=[one_run("Muon", e) for e in muon8], **shared)
best_adam8, best_muon8 = (int(lowest(result)["exponent"]) for result in (e8, e8b))
e8c = nb.run(
    "E8c", big_runs, runs=[one_run("AdamW", best_adam8, rest) for rest in nb.at_scale(cpu=[-6], gpu=[-8], full=[-9, -8])], **shared
)
best_rest8 = int(min((lowest(e8), lowest(e8c)), key=lambda row: row["valid"])["rest"])
final8 = [one_run("AdamW", best_adam8, best_rest8, 1), one_run("Muon", best_muon8, seed=1), one_run("Muon", best_muon8, seed=1, share=0.5)]
e8d = nb.run("E8d", big_runs, runs=final8, **shared)


# %% tags=["hide-input"]
e2_full, e2b_full = (nb.recorded(id) for id in ("E2", "E2b"))
plain_W, plain_M = gauss(6, 4, seed=30), torch.zeros(6, 4, dtype=torch.float64)
ours_W = torch.nn.Parameter(plain_W.float())
ours_muon = muon.Muon([ours_W], lr=0.01, adjust_lr_fn="match_rms_adamw")
first_W = plain_W.clone()
for t in range(5):
    ours_W.grad = gauss(6, 4, seed=31 + t).float()
    ours_muon.step()
    plain_W, plain_M = muon_step(plain_W, gauss(6, 4, seed=31 + t), plain_M, 0.01)
fast = {name: float(np.median(times)) for name, times in e2b_full.result["ms"].items()}
print(
    f"{e2b_full.device}: one update of {e2b_full.result['parameters'] / 1e6:.0f}M parameters in 48 matrices:",
    {k: f"≈{v:.1f} ms" for k, v in fast.items()},
)
nb.experiment(
    "E2",
    "muon.Muon follows torch.optim.Muon step by step to rounding, for both shape rules, and is not slower.",
    "verified",
    holds=[
        ledger.close(
            "the ten lines above in float64 against muon.Muon: gap over the way, 5 steps",
            relative_gap([ours_W.detach()], [plain_W], [first_W]),
            0,
            abs=0.02,
            digits=1,
            machine=True,
        ),
        *[ledger.close(f"{rule}, 20 steps, CPU: gap over the way", e2[rule]["ours"], 0, abs=1e-6, digits=1, machine=True) for rule in e2],
        *[ledger.close(f"{rule}, 20 steps, GPU", row["ours"], 0, abs=0.02, digits=1, machine=True) for rule, row in e2_full.result.items()],
        *[
            ledger.less(f"{rule}: StackedMuon in {kind}: gap to torch", e2[rule][f"stacked, {kind}"], 0.02, digits=2, machine=True)
            for rule in e2
            for kind in ("float32", "bfloat16")
        ],
        ledger.less(
            "H100: time of an update over torch.optim.Muon's",
            fast["Muon"] / fast["torch.optim.Muon"],
            1.0,
            digits=2,
            machine=True,
            scope=e2b_full.provenance,
        ),
        ledger.less(
            "live, small matrices: time over torch.optim.Muon's",
            min(e2b["ms"]["Muon"]) / min(e2b["ms"]["torch.optim.Muon"]),
            2.0,
            digits=1,
            machine=True,
        ),
        ledger.less("one step on 48 matrices of width 1024, H100: gap", e2b_full.result["gap"], 0.02, digits=1, machine=True),
    ],
)

# %% [markdown]
# A third of the time of `torch.optim.Muon`, which takes the 48 matrices one by one; here they go through in two stacks. (Where the time goes was not profiled.) AdamW's fused kernel is still six times faster: Newton-Schulz is the price of Muon, and it is paid once a step, however many tokens the step has.

# %% [markdown]
# ### Is the code around the experiments right?
#
# A recorded number does not move when the code that made it breaks. So the code is run here, tiny, against second versions that share none of its parts: plain loops, `torch.optim.AdamW`, `torch.optim.Muon` on one matrix at a time, an SVD.


# %% tags=["hide-input"]
class OneByOne:
    """AdamW, and torch.optim.Muon on separate matrices (out, in) that mirror stacks (1, layers, in, out)."""

    def __init__(self, arm, model, decay, decays, factor=0.2):
        hidden, rest = split_parameters(model)
        self.stacks = hidden if arm == "Muon" else []
        self.single = [[torch.nn.Parameter(W.T.clone()) for W in stack.detach()[0]] for stack in self.stacks]
        adam = rest if arm == "Muon" else hidden + rest
        groups = [
            {"params": [p for p in adam if decays(p)], "weight_decay": decay},
            {"params": [p for p in adam if not decays(p)], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
        flat = [W for row in self.single for W in row]
        self.muon = torch.optim.Muon(flat, lr=1.0, weight_decay=decay, adjust_lr_fn="match_rms_adamw") if flat else None

    def step(self, rate):
        for optimizer in (self.adam, *([self.muon] if self.muon else [])):
            for group in optimizer.param_groups:
                group["lr"] = rate
            if optimizer is self.muon:
                for stack, row in zip(self.stacks, self.single, strict=True):
                    for W, G in zip(row, stack.grad[0], strict=True):
                        W.grad = G.T.clone()
            optimizer.step()
        with torch.no_grad():
            for stack, row in zip(self.stacks, self.single, strict=True):
                stack.copy_(torch.stack([W.T for W in row])[None])


def plain_rate(step, steps):
    """Linear over the first tenth, then half a cosine down to a tenth."""
    rise = max(1, round(steps / 10))
    return (step + 1) / rise if step < rise else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def rms_by_hand(before, after, rate, decay):
    return {name: math.sqrt(float(((before[name] * (1 - rate * decay) - after[name]) / rate).square().mean())) for name in HIDDEN}


snapshot = lambda model: {name: getattr(model, name).detach().clone() for name in HIDDEN}

# %% tags=["hide-input"]
small_shape = {"vocabulary": 84, "context": 12, "d": 16, "depth": 2, "heads": 2}
toy_parts = torch.randint(84, (4000,), generator=torch.Generator().manual_seed(40)).split([3000, 500, 500])
toy_rates, toy_seeds, toy_steps = [2.0**-6, 2.0**-8], [3, 4], 6


def by_hand_stacked(arm, rate, seed, turn, decay=0.3):
    """One run of stacked_language in plain loops: losses, update RMS at the last step, entropy and norm of w1."""
    model = language_model(cpu, [seed], small_shape)
    opt, generator = OneByOne(arm, model, decay, lambda p: p.ndim >= 3), torch.Generator().manual_seed(seed)
    for step in range(toy_steps):
        before = snapshot(model)
        x, y = data.windows(toy_parts[0], 3, 12, generator)
        model.zero_grad()
        F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten()).backward()
        opt.step(rate * plain_rate(step, toy_steps))
    rms = rms_by_hand(before, snapshot(model), rate * plain_rate(toy_steps - 1, toy_steps), decay)
    losses = []
    for part in toy_parts[1:]:
        drawn = [
            [data.windows(part, 32, 12, g) for _ in range(turn + 1)][turn]
            for i in range(8)
            for g in [torch.Generator().manual_seed(1000 + i)]
        ]
        with torch.no_grad():
            losses.append(np.mean([float(F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten())) for x, y in drawn]))
    sigmas = [np.linalg.svd(W.numpy(), compute_uv=False) for W in model.w1.detach()[0]]
    return {
        "valid": losses[0],
        "test": losses[1],
        "w1": rms["w1"],
        "wo": rms["wo"],
        "entropy": np.mean([by_definition(s) for s in sigmas]),
        "norm": np.mean([s[0] for s in sigmas]),
    }


stacked_gaps = {}
for arm in ("AdamW", "Muon"):
    ran = stacked_language(
        cpu, toy_parts, arm, toy_rates, seeds=toy_seeds, shape=small_shape, batch=3, steps=toy_steps, decay=0.3, factor=0.2, marks=[3, 6]
    )
    hands = [[by_hand_stacked(arm, rate, seed, turn) for turn, seed in enumerate(toy_seeds)] for rate in toy_rates]
    views = {
        "valid": ran["valid"],
        "test": ran["test"],
        "w1": ran["rms"][6]["w1"],
        "wo": ran["rms"][6]["wo"],
        "entropy": ran["entropy"]["w1"],
        "norm": ran["norm"]["w1"],
    }
    for what, ours in views.items():
        theirs = torch.tensor([[cell[what] for cell in row] for row in hands])
        stacked_gaps[arm, what] = worst(ours / theirs - 1)
last_curve = {
    factor: stacked_language(
        cpu,
        toy_parts,
        "Muon",
        toy_rates[:1],
        seeds=[3],
        shape=small_shape,
        batch=3,
        steps=3,
        decay=0.1,
        factor=factor,
        marks=[2],
        rest=2.0**-9,
    )
    for factor in (0.2, 0.8)
}

# %% tags=["hide-input"]
byte_parts = [torch.randint(256, (n,), generator=torch.Generator().manual_seed(41), dtype=torch.uint8) for n in (3000, 500, 400)]
byte_shape = {"vocabulary": 256, "context": 10, "d": 16, "depth": 4, "heads": 2}
once_setup = {"batch": 4, "marks": 3, "decay": 0.2, "bf16": False}


def by_hand_once(arm, clip, rate, seed, steps):
    """train_once in plain loops, with a clip written out."""
    model = language_model(cpu, [seed], byte_shape)
    gains = (model.gains, model.final_gain)
    opt = OneByOne(arm, model, once_setup["decay"], lambda p: all(p is not g for g in gains))
    starts = torch.randint(2990, (steps, 4), generator=torch.Generator().manual_seed(seed))
    window = lambda part, s: (part[s : s + 10].long(), part[s + 1 : s + 11].long())

    def mean_loss(part, starts):
        x, y = (torch.stack(t) for t in zip(*(window(part, int(s)) for s in starts), strict=True))
        return F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten())

    fixed = lambda part, count: torch.randint(len(part) - 10, (count,), generator=torch.Generator().manual_seed(99))
    curve, rms = [], []
    for step in range(steps):
        model.zero_grad()
        mean_loss(byte_parts[0], starts[step]).backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, clip / norm)
        before, now = snapshot(model), rate * plain_rate(step, steps)
        opt.step(now)
        if (step + 1) % (steps // 3) == 0:
            rms.append(rms_by_hand(before, snapshot(model), now, once_setup["decay"])["wv"])
            with torch.no_grad():
                curve.append(float(mean_loss(byte_parts[1], fixed(byte_parts[1], 8))))
    with torch.no_grad():
        ends = [float(mean_loss(part, fixed(part, 64))) for part in byte_parts[1:]]
    sigmas = [np.linalg.svd(W.numpy(), compute_uv=False) for W in (model.wv.detach()[0, 0], model.wv.detach()[0, 3])]
    return [*curve, *rms, *ends, np.mean([by_definition(s) for s in sigmas])]


once_gaps = {}
for arm, clip in (("AdamW", 0.3), ("AdamW", 1e-7), ("Muon", 0.3)):  # below Adam's epsilon a clip shows in the size of the updates
    model = language_model(cpu, [5], byte_shape)
    row = train_once(byte_parts, model, arm, 0.01, 5, steps=6, clip=clip, **once_setup)
    ours = [*row["curve"], *row["rms"]["wv"], row["valid"], row["test"], matrix_entropies(model)["wv"]]
    once_gaps[arm, clip] = worst(np.array(ours) / np.array(by_hand_once(arm, clip, 0.01, 5, 6)) - 1)
    assert row["at"] == [2, 4, 6]

alone = distributed.World(0, 1, cpu)
together_setup = once_setup | {"steps": 6, "clip": 0.3}
together_gaps, moved_rest = {}, {}
for arm in ("AdamW", "Muon"):
    row = {"arm": arm, "exponent": -7.0, "rest": -7.0, "seed": 5}
    ours = train_together(alone, language_model(cpu, [5], byte_shape), byte_parts, row, **together_setup)
    theirs = train_once(byte_parts, language_model(cpu, [5], byte_shape), arm, 2.0**-7, 5, **together_setup)
    sides = [[*found["curve"], found["valid"], found["test"]] for found in (ours, theirs)]
    together_gaps[arm] = worst(np.divide(*sides) - 1)
for rest in (-9.0, -6.0):
    model = language_model(cpu, [5], byte_shape)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    row = {"arm": "Muon", "exponent": -7.0, "rest": rest, "seed": 5}
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a single step has no time from step to step
        train_together(alone, model, byte_parts, row, **together_setup | {"steps": 1, "marks": 1, "decay": 0.0})
    moved_rest[rest] = {name: float((p.detach() - start[name]).norm()) for name, p in model.named_parameters()}
rest_ratios = {name: moved_rest[-6.0][name] / moved_rest[-9.0][name] for name in moved_rest[-6.0]}

# %% tags=["hide-input"]
tiny_big = {"decay": 0.1, "clip": 1.0, "bf16": False, "shape": {"context": 16, "d": 16, "depth": 1, "heads": 2}, "batch": 2, "marks": 1}
grown = language_runs(cpu, arm="AdamW", exponents=[-12.0, -11.0], seeds=[7], shares=[1.0], extend=2, entropy=False, steps=8, **tiny_big)[
    "runs"
]
shared = language_runs(cpu, arm="Muon", exponents=[-8.0], seeds=[7, 8], shares=[0.5, 1.0], extend=0, entropy=True, steps=8, **tiny_big)[
    "runs"
]
(diverged,) = language_runs(cpu, arm="AdamW", exponents=[20.0], seeds=[7], shares=[1.0], extend=0, entropy=False, steps=8, **tiny_big)[
    "runs"
]
repeat = language_model(cpu, [8], {"vocabulary": 256} | tiny_big["shape"])
repeated = train_once(BYTES, repeat, "Muon", 2.0**-8, 8, steps=8, **{k: v for k, v in tiny_big.items() if k != "shape"})
texts = [text.encode() for text in (data.shakespeare(), data.chinese_news(), data.python_code())]
rebuilt_text = b"".join(bytes(part[start : start + 4].tolist()) for part, start in ((BYTES[0], 0), (BYTES[1], 0), (BYTES[2], 0)))
first_cut = [int(0.9 * len(t)) for t in texts]
digit_marks = decay_runs(cpu, decays=[0.5], seeds=[3, 4], steps=3, marks=[1, 3], lr=0.02, share=0.2)["0.5"]


def by_hand_digits(seed, row, steps=3):
    """decay_runs for one seed by torch.optim.Muon and Adam: norms after 1 and 3 steps, test loss, accuracy."""
    x, y, test_x, test_y = noisy_digits(0.2, seed)
    net = DigitsNet([seed])
    inner = [torch.nn.Parameter(W.T.clone()) for W in net.inner.detach()[0]]
    ends = [net.enter, net.leave]
    opt = torch.optim.Muon(inner, lr=0.02, weight_decay=0.5), torch.optim.Adam(ends, lr=0.002)
    forward = lambda x: ((x @ net.enter[0]).relu() @ inner[0].T).relu() @ inner[1].T
    generator, norms = torch.Generator().manual_seed(7), []
    for _ in range(steps):
        rows = torch.randint(1300, (2, 64), generator=generator)[row]
        for o in opt:
            o.zero_grad()
        F.cross_entropy(forward(x[rows]).relu() @ net.leave[0], y[rows]).backward()
        for o in opt:
            o.step()
        norms.append(float(torch.linalg.matrix_norm(inner[0].detach(), 2)))
    logits = (forward(test_x).relu() @ net.leave[0]).detach()
    return [norms[0], norms[2], float(F.cross_entropy(logits, test_y)), float((logits.argmax(1) == test_y).double().mean())]


digit_gap = worst(
    *(
        float(ours) / theirs - 1
        for row, seed in enumerate((3, 4))
        for ours, theirs in zip(
            (digit_marks["norm"][1][row], digit_marks["norm"][3][row], digit_marks["loss"][row], digit_marks["accuracy"][row]),
            by_hand_digits(seed, row),
            strict=True,
        )
    )
)
shuffled = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:1300]
wrong_share = float((noisy_digits(0.2, 0)[1] != data.digits8x8()[1][shuffled]).double().mean())

deep_model = language_model(cpu, [9], {"vocabulary": 84, "context": 12, "d": 64, "depth": 3, "heads": 2})
deviation = lambda p: float(p.detach().std())
grid_setup = {"seeds": [3], "batch": 2, "steps": 2, "marks": [2]}
by_grid = tiny_grid(
    cpu,
    arms={"an arm": {"kind": "Muon", "decay": 0.3, "factor": 0.7}},
    rates={"an arm": [0.01]},
    shape={k: v for k, v in small_shape.items() if k != "vocabulary"},
    **grid_setup,
)["an arm"]
letters = CHARACTERS[0]
nine, five = int(0.9 * len(letters)), int(0.05 * len(letters))
direct = stacked_language(
    cpu,
    [letters[:nine], letters[nine : nine + five], letters[nine + five :]],
    "Muon",
    [0.01],
    shape=small_shape,
    decay=0.3,
    factor=0.7,
    **grid_setup,
)

# %% tags=["hide-input"]
nb.claim(
    "X1",
    "The code of the recorded runs agrees with plain loops, torch's own optimizers on single matrices, and SVDs.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"stacked_language, {arm}, two rates, two seeds: {what}, largest relative gap",
                gap,
                0,
                abs=0.02 if arm == "Muon" else 1e-3,
                digits=1,
                machine=True,
            )
            for (arm, what), gap in stacked_gaps.items()
        ],
        ledger.close("worst, the helper of these checks, of (0, −2) and 1", worst(torch.tensor([0.0, -2.0]), 1.0), 2, abs=1e-12),
        ledger.close(
            "update RMS of w1 at factor 0.8 over 0.2, the rest at its own rate",
            float(last_curve[0.8]["rms"][2]["w1"] / last_curve[0.2]["rms"][2]["w1"]),
            4,
            rel=0.1,
            digits=2,
            machine=True,
        ),
        *[
            ledger.close(
                f"train_once, {arm}, clip {clip:g}: curve, update RMS, losses, entropy: largest relative gap",
                gap,
                0,
                abs=0.02 if arm == "Muon" else 1e-3,
                digits=1,
                machine=True,
            )
            for (arm, clip), gap in once_gaps.items()
        ],
        *[
            ledger.close(
                f"train_together against train_once, {arm}: curve and losses: largest relative gap",
                gap,
                0,
                abs=0.01 if arm == "Muon" else 1e-3,
                digits=1,
                machine=True,
            )
            for arm, gap in together_gaps.items()
        ],
        *[
            ledger.close(
                f"train_together: one step of {what} at a rest rate 8 times as high", ratio, expected, rel=1e-3, digits=4, machine=True
            )
            for what, ratio, expected in (
                ("the embeddings", rest_ratios["tokens.weight"], 8),
                ("the output layer", rest_ratios["head.weight"], 8),
                ("w1, a hidden matrix", rest_ratios["w1"], 1),
            )
        ],
        sym.enumeration(
            "a grid whose best is at its upper edge grows there", [0, 1, 2, 3], lambda i: int(grown[i]["exponent"]), lambda i: i - 12
        ),
        sym.enumeration(
            "shares of the steps", [0, 1, 2, 3], lambda i: shared[i]["at"][-1] * 10 + shared[i]["seed"], lambda i: [47, 87, 48, 88][i]
        ),
        ledger.close(
            "every run starts afresh: second share, second seed against a single run",
            shared[3]["valid"],
            repeated["valid"],
            rel=1e-4,
            digits=4,
            machine=True,
        ),
        ledger.close("and its curve", shared[3]["curve"][0], repeated["curve"][0], rel=1e-4, digits=4, machine=True),
        *[
            ledger.close(f"a run that diverges counts as 9: {what}", loss, 9, abs=1e-9)
            for what, loss in (("valid", diverged["valid"]), ("test", diverged["test"]), ("curve", diverged["curve"][0]))
        ],
        ledger.close(
            "its entropy of w2, by an SVD",
            shared[3]["entropy"]["w2"],
            by_definition(np.linalg.svd(repeat.w2.detach()[0, 0].numpy(), compute_uv=False)),
            rel=1e-3,
            digits=4,
            machine=True,
        ),
        ledger.close("decay_runs, two seeds: norms, loss, accuracy: largest relative gap", digit_gap, 0, abs=0.03, digits=1, machine=True),
        ledger.close("the model: deviation of the embeddings", deviation(deep_model.tokens.weight), 0.02, rel=0.05, digits=2),
        *[
            ledger.close(
                f"deviation of {name} times √(fan-in)",
                deviation(getattr(deep_model, name)) * math.sqrt(fan_in),
                expected,
                rel=0.05,
                digits=2,
            )
            for name, fan_in, expected in (("wq", 64, 1), ("w1", 64, 1), ("wo", 64, 1 / math.sqrt(6)), ("w2", 256, 1 / math.sqrt(6)))
        ],
        ledger.close(
            "slowest rotation over the fastest: 10000^(−15/16)",
            float(deep_model.angles[..., 1, -1] / deep_model.angles[..., 1, 0]),
            10000 ** (-15 / 16),
            rel=1e-6,
        ),
        ledger.close(
            "tiny_grid hands the arm's settings on: update RMS of wk",
            float(by_grid["rms"][2]["wk"]),
            float(direct["rms"][2]["wk"]),
            rel=1e-5,
            machine=True,
        ),
        ledger.close("and the three parts of the text: test loss", float(by_grid["test"]), float(direct["test"]), rel=1e-5, machine=True),
        ledger.close(
            "relative_gap of 1 and 2, from 0",
            relative_gap([torch.tensor([1.0, 0.0])], [torch.tensor([2.0, 0.0])], [torch.zeros(2)]),
            0.5,
            rel=1e-6,
        ),
        ledger.close("share of wrong labels (0.9 · 0.2)", wrong_share, 0.18, abs=0.03, digits=2),
        sym.enumeration(
            "bytes: train, valid and test are all there",
            [0, 1, 2],
            lambda i: len(BYTES[i]),
            lambda i: sum([[int(0.9 * len(t)), int(0.05 * len(t)), len(t) - int(0.9 * len(t)) - int(0.05 * len(t))][i] for t in texts]),
        ),
        ledger.close("the second part begins where the first text was cut: first byte", int(BYTES[1][0]), texts[0][first_cut[0]], abs=0.5),
        ledger.close(
            "and its second piece where the second was", int(BYTES[1][int(0.05 * len(texts[0]))]), texts[1][first_cut[1]], abs=0.5
        ),
    ],
)
# %% [markdown]
# ## E3: at Adam's rates, on a small model
#
# Does matching the RMS let Muon take over Adam's learning rate? A Transformer of width 64 (2 layers, rotary positions, 109 thousand parameters) reads Shakespeare by characters: 300 steps of 16 × 64 characters. AdamW with decay 0, 0.1 and 0.3, Muon with 0 and 0.1, seven rates an octave apart, four seeds.
# In both arms *one* rate serves all parameters; in Muon's arm embeddings, gains and the output layer stay with AdamW. The rate is chosen on one held-out part of the text, the loss is reported on another ("better" below means by 2.5 standard errors, or 2.8 with three seeds: the t quantiles of two such samples). We expect Muon below AdamW at AdamW's own best rate.


# %% tags=["hide-input"]
def interval(sample):
    """Half the width of a 95% confidence interval of a mean, by Student's t."""
    sample = np.asarray(sample, dtype=float)
    return float(scipy.stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample)))


r3 = nb.recorded("E3")
full3, rates3 = r3.result, next(iter(r3.config["rates"].values()))
mean3 = {arm: np.array(row["valid"]).mean(1) for arm, row in full3.items()}
best3 = {arm: int(row.argmin()) for arm, row in mean3.items()}
adam3, muon3 = (min((arm for arm in full3 if arm.startswith(kind)), key=lambda arm: mean3[arm].min()) for kind in ("AdamW", "Muon"))
test3 = {arm: np.array(row["test"]) for arm, row in full3.items()}
same3 = test3[muon3][best3[adam3]]  # Muon at AdamW's best rate
entropy3 = {arm: np.array([full3[arm]["entropy"][name] for name in HIDDEN]).mean(2) for arm in (adam3, muon3)}  # (6, rates)
start3 = np.array([page(64, 64)] * 4 + [page(64, 256)] * 2)
gain3 = {"same rate": float((test3[adam3][best3[adam3]] - same3).mean())}
gain3["own rates"] = float((test3[adam3][best3[adam3]] - test3[muon3][best3[muon3]]).mean())
kept3 = worst(entropy3[muon3] - start3[:, None])  # over six matrices and seven rates

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels against the learning rate on a log axis. Left, validation loss: three AdamW curves that almost coincide fall to 2.14 at rate 0.008 and rise again; two Muon curves start above them, cross them at 0.004 and fall on to 2.01 and 1.99, near 0.02 and 0.03; the one without decay then rises again. Right, mean singular value entropy: AdamW's falls from 0.91 to 0.61 as the rate grows, Muon's stays at the Gaussian value 0.91 throughout."}}
figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.7))
looks = dict(zip(full3, ((BLUE, ":", "v"), (BLUE, "-", "o"), (GREEN, "--", "^"), (PURPLE, ":", "s"), (ORANGE, "-", "D")), strict=True))
for arm, (color, style, marker) in looks.items():
    values = np.array(full3[arm]["valid"])
    panels[0].errorbar(
        rates3, values.mean(1), yerr=[interval(v) for v in values], color=color, ls=style, marker=marker, ms=4, lw=1.4, label=arm
    )
for arm, color, marker in ((adam3, BLUE, "o"), (muon3, ORANGE, "D")):
    panels[1].plot(rates3, entropy3[arm].mean(0), color=color, marker=marker, ms=4, ls="-", label=arm)
panels[1].axhline(start3.mean(), color=GREY, ls="--", label="Gaussian (the start)")
for axes, title, label in (
    (panels[0], "Behind at low rates, Muon is ahead at high ones", "validation loss, nats a character"),
    (panels[1], "AdamW's spectra narrow, Muon's do not", "entropy H, mean of the hidden matrices"),
):
    axes.set(xscale="log", xlabel="learning rate (log axis)", ylabel=label)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
nb.show(figure)

# %% tags=["hide-input"]
octaves_apart = lambda a, b: abs(math.log2(a / b))
later3 = [full3[adam3]["rms"][m][name][best3[adam3]] for m in ("200", "300") for name in HIDDEN]
muon_later3 = [full3[muon3]["rms"][m][name][best3[adam3]] for m in ("200", "300") for name in HIDDEN]
live3 = {arm: np.array(row["valid"]).mean(1) for arm, row in e3.items()}
nb.experiment(
    "E3",
    "Small model: at AdamW's tuned rate and decay, RMS-matched Muon is better; its own best rate is four times higher, and at low rates it is worse.",
    "verified",
    holds=[
        ledger.better(
            "test loss at AdamW's best rate, AdamW over Muon", test3[adam3][best3[adam3]], same3, sigmas=2.5, scope=r3.provenance
        ),
        ledger.better("each at its own best rate", test3[adam3][best3[adam3]], test3[muon3][best3[muon3]], sigmas=2.5, scope=r3.provenance),
        ledger.close("mean gain at AdamW's best rate", gain3["same rate"], 0.036, abs=0.01, digits=2, machine=True),
        ledger.close("mean gain, each at its own best rate", gain3["own rates"], 0.155, abs=0.01, digits=3, machine=True),
        ledger.close(
            "AdamW's arm here has the lowest validation loss of all its 21 settings: gap",
            float(mean3[adam3].min() - min(row.min() for arm, row in mean3.items() if arm.startswith("AdamW"))),
            0,
            abs=1e-12,
        ),
        ledger.more(
            "the test losses are not those the rate was chosen by: smallest largest gap of the five arms",
            min(float(np.abs(test3[arm] - np.array(full3[arm]["valid"])).max()) for arm in full3),
            1e-3,
            digits=1,
            machine=True,
        ),
        ledger.close(
            "error bars: interval of 1, 2, 4, 9 against scipy's t interval",
            interval([1, 2, 4, 9]),
            float(np.ptp(scipy.stats.t.interval(0.95, 3, 4.0, scipy.stats.sem([1, 2, 4, 9]))) / 2),
            rel=1e-9,
        ),
        ledger.close("best rate of AdamW lies inside the grid: index", best3[adam3], 3, abs=2.5, digits=1),
        ledger.close("of Muon", best3[muon3], 5, abs=0.5, digits=1),
        ledger.close("octaves between the best rates", octaves_apart(rates3[best3[muon3]], rates3[best3[adam3]]), 2, abs=0.5),
        ledger.better("at the lowest rate, Muon over AdamW", test3[muon3][0], test3[adam3][0], sigmas=2.5, scope=r3.provenance),
        ledger.less(
            "live, at the highest rate of the small grid: Muon over AdamW",
            live3["Muon, decay 0.1"][-1] / live3["AdamW, decay 0.1"][-1],
            1,
            digits=3,
            machine=True,
        ),
    ],
)

# %% [markdown]
# At AdamW's tuned setting Muon is better by 0.04 nats, at its own rate by 0.15; one octave below AdamW's best rate its lead is gone. **Entropy.** AdamW's singular spectra narrow as the rate grows. Muon's stay within 0.03 of a Gaussian matrix at every rate, matrix by matrix: keys end a little below, `wo` a little above.

# %% [markdown]
# ## E4: how large should an update be?
#
# The report's Table 8 asks which update RMS is best at AdamW's rate: 0.2 and 0.4. The same question here: the factor 0.2 becomes 0.05 to 1.6, while the product of rate and decay stays; at four rates, three seeds.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Validation loss against the product of learning rate and update RMS on a log axis. Four falling curves, for rates from 0.001 to 0.008; the two for the highest rates have their minimum near a product of 0.003 and rise after it, the other two fall up to the end of the grid of factors. A star marks the setting of the post, factor 0.2 at AdamW's best rate, one point left of the minimum."}}
r4 = nb.recorded("E4")
factors4, rates4 = [float(name) for name in r4.result], next(iter(r4.config["rates"].values()))
valid4 = np.array([np.array(row["valid"]).mean(1) for row in r4.result.values()])  # (factors, rates)
best4 = [factors4[i] for i in valid4.argmin(0)]
products4 = np.outer(factors4, rates4)  # size of a hidden step
same_step4 = [float(valid4[:, i][np.isclose(products4[:, i], 0.2 * rates4[-1])][0]) for i in range(len(rates4))]  # rising rates
figure, axes = plt.subplots(figsize=(7.2, 3.5))
for i, (color, style, marker) in enumerate(zip((BLUE, ORANGE, GREEN, PURPLE), ("-", "--", "-.", ":"), "oDsv", strict=True)):
    axes.plot(
        products4[:, i],
        valid4[:, i],
        color=color,
        ls=style,
        marker=marker,
        ms=4,
        label=f"rate {rates4[i]:.2g}: best factor {best4[i]:g}",
    )
axes.plot(0.2 * rates4[-1], valid4[factors4.index(0.2), -1], "*", color=RED, ms=13, label="factor 0.2 at AdamW's best rate")
axes.set(xscale="log", xlabel="rate × update RMS (log axis)", ylabel="validation loss, nats a character")
axes.legend(fontsize=8)
axes.set_title("The lower the rate, the higher the best factor")
nb.show(figure)

# %% tags=["hide-input"]
in_errors = lambda a, b: float((np.mean(a) - np.mean(b)) / math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)))
test4 = {factor: np.array(row["test"])[-1] for factor, row in zip(factors4, r4.result.values(), strict=True)}  # at AdamW's best rate
nb.experiment(
    "E4",
    "At AdamW's best rate update RMS of 0.4 and 0.8 are best, and not told apart; the lower the rate, the higher the best factor.",
    "verified",
    holds=[
        ledger.close("best factor at AdamW's best rate", best4[-1], 0.4, abs=0.05),
        ledger.less(
            "but 0.8 over 0.4, test loss in standard errors", abs(in_errors(test4[0.8], test4[0.4])), 2.8, digits=1, scope=r4.provenance
        ),
        ledger.increasing("at one size of hidden step (rate × RMS = 0.0016): loss as the rate of the rest falls", same_step4[::-1]),
        ledger.more("over the four rates it changes by", same_step4[0] - same_step4[-1], 0.08, digits=2, machine=True),
        ledger.increasing("best factor at rates 2⁻⁷, 2⁻⁸, 2⁻⁹ (the grid ends at 1.6)", best4[3:0:-1]),
        ledger.better("test loss, factor 0.05 over 0.4", test4[0.05], test4[0.4], sigmas=2.8, scope=r4.provenance),
        ledger.better("factor 1.6 over 0.4", test4[1.6], test4[0.4], sigmas=2.8, scope=r4.provenance),
    ],
)
nb.claim(
    "C9",
    "An update RMS of 0.2 to 0.4 is best (report, Table 8).",
    "partly",
    holds=[
        ledger.close("best factor at AdamW's tuned rate (0.8 is not told apart)", best4[-1], 0.4, abs=0.05, scope=r4.provenance),
        ledger.better("0.05 is worse, as in the report: over 0.4", test4[0.05], test4[0.4], sigmas=2.8, scope=r4.provenance),
    ],
    fails=[
        ledger.better("0.2 over 0.4: not among the best here", test4[0.2], test4[0.4], sigmas=2.8, scope=r4.provenance),
        ledger.more("at half of that rate the best is", best4[-2], 0.6, scope=r4.provenance),
        ledger.less(
            "validation loss at 0.8, over 0.2 (in the report 0.8 is worse by 0.22)",
            float(valid4[4, -1] / valid4[2, -1]),
            1,
            scope=r4.provenance,
        ),
    ],
)

# %% [markdown]
# Three seeds do not separate 0.4 from 0.8, and 0.2 is worse on the test part (by 5 standard errors; on the validation part by 2.5, short of our 2.8). The curves do not collapse: at one size of the hidden step the loss falls by a tenth of a nat as the rate of embeddings, output layer and gains (and with it the decay) grows eightfold. **A fast rate for the rest is worth something on its own**: remember this for E7.

# %% [markdown]
# ## E5: the norms under decay
#
# Digits with a fifth of the labels redrawn, $64\to64\to64\to64\to10$, Muon by the rule "original" (factor 1 for square matrices) at rate 0.02 on the two inner matrices, 3,000 steps, five decays, four seeds. The bound of the post is $1/\lambda$; D5 says $1.2024/\lambda$. The live run is a short one.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Spectral norm of a weight matrix against the step (log axis) for five decays. Without decay it grows from 3.5 to 15. Crosses mark a short live run for decays 0.5 and 2. With decay 0.1, 0.5, 1 and 2 it stays near 4.5, 1.4, 0.8 and 0.42, each below its dashed bound one over decay; only for decay 2 the first point, 0.51, lies above the dashed line at 0.5 and below the dotted one at 0.60."}}
r5 = nb.recorded("E5")
norms5 = {float(decay): {int(m): np.array(v) for m, v in row["norm"].items()} for decay, row in r5.result.items()}
figure, axes = plt.subplots(figsize=(7.2, 3.9))
for (decay, row), color, marker in zip(norms5.items(), (BLACK, BLUE, GREEN, ORANGE, PURPLE), "osD^v", strict=True):
    axes.plot(list(row), [v.mean() for v in row.values()], color=color, marker=marker, ms=5, ls="-", label=f"λ = {decay:g}")
    if decay:
        axes.axhline(1 / decay, color=color, ls="--", lw=1)
        axes.axhline(1.2024 / decay, color=color, ls=":", lw=1)
for decay, row in e5.items():
    axes.plot(
        [int(m) for m in row["norm"]],
        [v[0] for v in row["norm"].values()],
        "x",
        color=RED,
        ms=5,
        label="live, short (λ = 0.5, 2)" if decay == "0.5" else None,
    )
axes.plot([], [], color=GREY, ls="--", lw=1, label="1/λ")
axes.plot([], [], color=GREY, ls=":", lw=1, label="1.2024/λ")
axes.set(yscale="log", xlabel="step", ylabel="‖W‖₂ (log axis)", ylim=(0.3, 22))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
axes.set_title("Decay holds the norm; at λ = 2 it first rises just above 1/λ")
nb.show(figure)

# %% tags=["hide-input"]
last5 = {decay: row[3000] for decay, row in norms5.items()}
net5 = DigitsNet(r5.config["seeds"]).inner.detach()[:, 0]
forgotten = (1 - r5.config["lr"] * 2) ** 200  # q_t of D4 at step 200, λ = 2
contracted5 = forgotten * torch.linalg.svdvals(net5)[:, 0].numpy() + (1 - forgotten) / 2
top5 = {decay: max(v.mean() for v in row.values()) for decay, row in norms5.items()}
accuracy5 = {float(decay): row["accuracy"] for decay, row in r5.result.items()}
nb.experiment(
    "E5",
    "Without decay the spectral norm keeps growing; with decay it stays under 1.2024/λ, but not under 1/λ.",
    "verified",
    holds=[
        ledger.increasing("no decay: mean norm at the six marks", [v.mean() for v in norms5[0.0].values()], machine=True),
        *[
            ledger.less(
                f"λ = {decay:g}: largest norm of four seeds times λ", max(v.max() for v in row.values()) * decay, 1.2024, machine=True
            )
            for decay, row in norms5.items()
            if decay
        ],
        ledger.more("λ = 2, step 200: mean norm times λ", norms5[2.0][200].mean() * 2, 1.0, machine=True, scope=r5.provenance),
        ledger.more(
            "the same over the contracted bound q‖W₀‖₂ + (1 − q)/λ of D4, which knows that the start is forgotten",
            float((norms5[2.0][200] / contracted5).mean()),
            1.0,
            machine=True,
            scope=r5.provenance,
        ),
        ledger.better("test accuracy with noisy labels, λ = 1 over 0", accuracy5[1.0], accuracy5[0.0], sigmas=2.5, scope=r5.provenance),
        ledger.less("live, λ = 2: norm at the last mark times λ", float(list(e5["2.0"]["norm"].values())[-1][0]) * 2, 1.2024, machine=True),
    ],
)
nb.claim(
    "C5",
    "In practice the bound 1/λ is loose.",
    "partly",
    holds=[
        ledger.less(f"λ = {decay:g}: largest mean norm over 1/λ", top5[decay] * decay, bound, digits=2, machine=True, scope=r5.provenance)
        for decay, bound in ((0.1, 0.6), (0.5, 0.8), (1.0, 0.95))
    ],
    fails=[ledger.more("λ = 2: it is tight, at step 200 exceeded by a percent", top5[2.0] * 2, 1.0, machine=True, scope=r5.provenance)],
)

# %% [markdown]
# At $\lambda=2$ the norm passes $1/\lambda$ by 1%, not by the 20% that are allowed, and only at the first mark. The post's $\max(\lVert W_0\rVert_2,1/\lambda)$ is about 2 here and holds; what is exceeded is the contracted bound of D4, in which the start is forgotten.
#
# **C11.** The report's vanilla Muon is ahead of Muon with decay at first (by 0.023 at step 24,000 of its 800M model) and behind later (by 0.017 at 66,000). **E5b** looks for the same on the small language model: 3,000 steps, decay 0 and 0.1, three rates, three seeds with common batches.

# %% tags=["hide-input"]
r5b = nb.recorded("E5b")
lead5b = {
    int(m): np.array(r5b.result["decay 0.1"]["curve"][m]) - np.array(r5b.result["decay 0"]["curve"][m])
    for m in r5b.result["decay 0"]["curve"]
}
end5b = np.array(r5b.result["decay 0.1"]["test"]) - np.array(r5b.result["decay 0"]["test"])
by_seed = {mark: v.mean(0) for mark, v in lead5b.items()} | {"test": end5b.mean(0)}  # three seeds, a mean over three rates each
lead_of = {mark: (float(v.mean()), interval(v)) for mark, v in by_seed.items()}
change5b = by_seed[3000] - by_seed[1200]
grown5b = [float(np.mean(r5b.result["decay 0"]["norm"][name][-1]) / np.mean(r5b.result["decay 0.1"]["norm"][name][-1])) for name in HIDDEN]
print("lead of no decay (nats, mean of three seeds ± 95%):", {mark: f"{mean:.3f} ± {half:.3f}" for mark, (mean, half) in lead_of.items()})
nb.claim(
    "C11",
    "Without weight decay Muon's weights grow too large and its early lead shrinks.",
    "partly",
    holds=[
        ledger.more(
            "E5: spectral norm without decay, last over first mark", last5[0.0].mean() / norms5[0.0][200].mean(), 3, digits=2, machine=True
        ),
        ledger.more(
            "E5b, highest rate, at the end: norm without decay over with it, smallest of six kinds of matrices",
            min(grown5b),
            1.4,
            digits=2,
            machine=True,
            scope=r5b.provenance,
        ),
        ledger.more(
            "E5b, step 1,200: lead of no decay less its interval",
            lead_of[1200][0] - lead_of[1200][1],
            0.0,
            digits=2,
            machine=True,
            scope=r5b.provenance,
        ),
        ledger.close("that lead, over nine runs at once", lead_of[1200][0], float(lead5b[1200].mean()), rel=1e-9, digits=2, machine=True),
        ledger.less(
            "lead at the end less that at step 1,200, plus the interval of this change (validation)",
            float(change5b.mean() + interval(change5b)),
            0.0,
            digits=2,
            machine=True,
            scope=r5b.provenance,
        ),
        ledger.more(
            "the test part is not the validation part: largest gap of the two leads at the end",
            float(np.abs(end5b - np.array(r5b.result["decay 0.1"]["valid"]) + np.array(r5b.result["decay 0"]["valid"])).max()),
            1e-3,
            digits=1,
            machine=True,
        ),
    ],
    fails=[
        ledger.less("it is no early lead: at step 300 over that at 1,200", lead_of[300][0] / lead_of[1200][0], 0.5, digits=1, machine=True),
        *[
            ledger.less(
                f"it does not turn beyond its error, {part}: |lead at the end| over its interval",
                abs(lead_of[mark][0]) / lead_of[mark][1],
                1.0,
                digits=2,
                machine=True,
                scope=r5b.provenance,
            )
            for mark, part in ((3000, "validation"), ("test", "test"))
        ],
    ],
)

# %% [markdown]
# No decay leads in the middle (step 1,200 is the peak of five marks, picked after seeing them) and the lead is gone at the end. Whether it *turns*, as in the report, three seeds do not resolve. That the grown weights *cause* the loss of the lead was not tested.

# %% [markdown]
# ## E7: 101 million parameters
#
# Now a language model of a size that people call one: 101 million parameters (8 layers of width 1024, 16 heads, rotary positions, RMS norm, context 512, bfloat16 activations, attention by `scaled_dot_product_attention`). It reads bytes: Shakespeare, a newspaper in Chinese, Python code, 13 MB to train on, of which a run sees 7.4 million
# in random windows, half an epoch, so nothing is over-fitted. 450 steps of 32 × 512 bytes, 45 of warm-up, cosine to a tenth, decay 0.1, gradients clipped at 1, AdamW's β = (0.9, 0.95).
#
# Both arms get the same tuning: four rates an octave apart (one rate for all parameters of an arm, decay not tuned), chosen on held-out text; then two fresh seeds. (Curves average 64 windows of the validation part, the choice 512 of them, the reported loss 512 windows of the test part: hence 1.60, 1.58 and 1.55 for one run of AdamW.) Because a run that is stopped early has not had its falling rate, "how many steps does Muon need?"
# is answered by *whole* schedules of 0.3, 0.5 and 0.7 of the length, at the rate tuned for the full length.

# %% tags=["hide-input"]
r7 = {id: nb.recorded(id) for id in ("E7", "E7b", "E7c", "E7d", "E7e", "E7f")}
rows7 = {id: run.result["runs"] for id, run in r7.items()}
tuned7 = {"AdamW": rows7["E7"], "Muon": rows7["E7b"]}
chosen7 = {arm: min(rows, key=lambda row: row["valid"]) for arm, rows in tuned7.items()}
final7 = {"AdamW": [chosen7["AdamW"], *rows7["E7c"]], "Muon": [chosen7["Muon"], *rows7["E7d"]]}
test7 = {arm: [row["test"] for row in rows] for arm, rows in final7.items()}
batch_bytes = r7["E7"].config["batch"] * r7["E7"].config["shape"]["context"]


def needed_share(seed):
    """Share of the steps at which Muon's whole schedule ends at AdamW's final test loss: linear in the logarithm of the share."""
    goal = next(row["test"] for row in final7["AdamW"] if row["seed"] == seed)
    points = sorted((row["share"], row["test"]) for row in [*rows7["E7e"], *rows7["E7f"], *final7["Muon"]] if row["seed"] == seed)
    shares, losses = np.array(points).T
    return float(np.exp(np.interp(-goal, -losses, np.log(shares))))


shares7 = {seed: needed_share(seed) for seed in (1, 2)}
clock7 = {arm: [np.array(row["seconds"]) for row in rows] for arm, rows in final7.items()}
step_seconds = {arm: float(np.mean([seconds[-1] for seconds in clocks])) / 450 for arm, clocks in clock7.items()}


def bracket(seed):
    """How far AdamW's loss lies from Muon's at half of the steps towards that at 0.7, as a fraction."""
    half, seven = (
        next(row["test"] for row in [*rows7["E7e"], *rows7["E7f"]] if (row["seed"], row["share"]) == (seed, x)) for x in (0.5, 0.7)
    )
    return (half - next(row["test"] for row in rows7["E7c"] if row["seed"] == seed)) / (half - seven)


share7 = float(np.mean(list(shares7.values())))
time7 = share7 * step_seconds["Muon"] / step_seconds["AdamW"]
train_flops = 6 * r7["E7"].result["parameters"] * batch_bytes
flops7 = share7 * (1 + e2b_full.result["flops"] / train_flops)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, validation loss against megabytes read: Muon's three curves lie below AdamW's three from the start, ending at 1.42 against 1.60; crosses at 0.3, 0.5 and 0.7 of the length mark Muon's shorter schedules, and a dashed line at AdamW's final loss meets them between 0.5 and 0.7. Right, the same against seconds of training: Muon is still below everywhere, but its curve ends at 20 seconds against 17."}}
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.8), sharey=True)
for arm, color, style in (("AdamW", BLUE, "-"), ("Muon", ORANGE, "--")):
    for i, row in enumerate(final7[arm]):
        label = f"{arm}, rate {2 ** row['exponent']:.2g}" if i == 0 else None
        panels[0].plot(np.array(row["at"]) * batch_bytes / 1e6, row["curve"], color=color, ls=style, lw=1.2, label=label)
        panels[1].plot(clock7[arm][i], row["curve"], color=color, ls=style, lw=1.2, label=label)
for k, row in enumerate([*rows7["E7e"], *rows7["E7f"]]):
    label = "Muon, complete runs of 0.3, 0.5, 0.7" if k == 0 else None
    panels[0].plot(row["at"][-1] * batch_bytes / 1e6, row["curve"][-1], "x", color=RED, ms=8, label=label)
    panels[1].plot(row["seconds"][-1], row["curve"][-1], "x", color=RED, ms=8)
for axes, label in zip(panels, ("bytes read, millions", "seconds of training on one H100"), strict=True):
    axes.axhline(np.mean([row["curve"][-1] for row in final7["AdamW"]]), color=GREY, ls=":", lw=1.2)
    axes.set(xlabel=label, ylim=(1.3, 2.6))
panels[0].set_ylabel("validation loss, nats a byte")
panels[0].legend(fontsize=8)
figure.suptitle(
    f"101M parameters, 450 steps: Muon's arm needs {share7:.2f} of AdamW's steps, {time7:.2f} of its time",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, validation loss against the learning rate on a log axis, four rates each: AdamW has its minimum 1.577 at 0.0005 and rises steeply to 1.87 at 0.002; Muon lies lower at every rate, with a flat minimum of 1.391 at 0.004. Right, update RMS over the rate against the step for six kinds of matrices: AdamW's lines run between 0.11 and 0.33 and settle at 0.2 to 0.23, Muon's rise from 0.1 to between 0.16 and 0.19; dashed lines at 0.2 and at 0.229."}}
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6))
for arm, color, marker, style in (("AdamW", BLUE, "o", "-"), ("Muon", ORANGE, "D", "--")):
    panels[0].plot(
        [2 ** row["exponent"] for row in tuned7[arm]],
        [row["valid"] for row in tuned7[arm]],
        color=color,
        marker=marker,
        ls=style,
        label=arm,
    )
    row = final7[arm][1]
    for i, name in enumerate(HIDDEN):
        panels[1].plot(row["at"], row["rms"][name], color=color, ls=style, lw=1, label=arm if i == 0 else None)
panels[1].axhline(0.2, color=GREY, ls="--", lw=1, label="0.2")
panels[1].axhline(math.sqrt(1 / 19), color=RED, ls=":", lw=1.4, label="√(1/19) = 0.229")
panels[0].set(xscale="log", xlabel="learning rate (log axis)", ylabel="validation loss, nats a byte")
panels[0].set_xticks([2.0**e for e in range(-12, -6)], [f"{1e3 * 2.0**e:.2g}e-3" for e in range(-12, -6)], fontsize=8)
panels[0].minorticks_off()
panels[1].set(xlabel="step", ylabel="update RMS / rate", ylim=(0, 0.4))
for axes, title in zip(panels, ("One rate an arm, the best inside the grid", "Muon's updates are a fifth smaller"), strict=True):
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
inside = {arm: [row["exponent"] for row in rows].index(chosen7[arm]["exponent"]) for arm, rows in tuned7.items()}
at_rate = {arm: {row["exponent"]: row["test"] for row in rows} for arm, rows in tuned7.items()}
early7 = np.array([[row["rms"][name][i] for name in HIDDEN] for row in final7["AdamW"] for i in range(1, 9)])
half_way = lambda arm: np.array([[row["rms"][name][i] for name in HIDDEN] for row in final7[arm] for i in range(9, 18)])
print(
    {arm: ledger.with_error(test7[arm], 4) for arm in test7},
    "| shares",
    {s: round(x, 3) for s, x in shares7.items()},
    "| seconds a step",
    {a: f"≈{x:.4f}" for a, x in step_seconds.items()},
)
nb.experiment(
    "E7",
    "101M parameters, 450 steps, one tuned rate an arm, decay 0.1: Muon's arm is 0.16 nats lower after equal bytes; it reaches AdamW's loss with 0.56 of the steps, about 0.66 of the time and 0.7 of the FLOPs.",
    "verified",
    holds=[
        ledger.more("parameters", r7["E7"].result["parameters"], 1e8, digits=4),
        ledger.better(
            "test loss, three seeds each, AdamW over Muon", test7["AdamW"], test7["Muon"], sigmas=2.8, scope=r7["E7c"].provenance
        ),
        ledger.close("difference", float(np.mean(test7["AdamW"]) - np.mean(test7["Muon"])), 0.156, abs=0.01, digits=3, machine=True),
        *[
            ledger.more(f"{arm}: rates of the grid below and above the best one, the fewer", min(i, 3 - i), 0.5, digits=1)
            for arm, i in inside.items()
        ],
        *[
            ledger.close(
                f"the fresh seeds of {arm} ran at the best exponent", rows[1]["exponent"], chosen7[arm]["exponent"], abs=0.1, digits=2
            )
            for arm, rows in final7.items()
        ],
        ledger.close("share of the steps, mean of two seeds", share7, 0.56, abs=0.02, digits=2, machine=True),
        *[
            ledger.close(
                f"seed {seed}: by hand, on a logarithmic scale from 0.5 to 0.7",
                shares7[seed],
                0.5 * 1.4 ** bracket(seed),
                rel=1e-6,
                digits=3,
                machine=True,
            )
            for seed in shares7
        ],
        ledger.more(
            "AdamW's loss lies between the two: smallest distance to an end, as a fraction",
            min(min(bracket(seed), 1 - bracket(seed)) for seed in shares7),
            0.1,
            digits=1,
            machine=True,
        ),
        ledger.close(
            "seconds of a whole run, Muon over AdamW", clock7["Muon"][0][-1] / clock7["AdamW"][0][-1], 1.18, abs=0.03, machine=True
        ),
        ledger.close("share of the time", time7, 0.66, abs=0.02, digits=2, machine=True),
        ledger.close(
            "share of the FLOPs, Newton-Schulz counted (attention's scores not)", flops7, 0.704, abs=0.006, digits=3, machine=True
        ),
        ledger.less("training set, bytes read over bytes there", 450 * batch_bytes / r7["E7"].result["train bytes"], 0.6, digits=2),
    ],
)

# %% [markdown]
# ### E8: 354 million parameters, and a fairer AdamW
#
# Two doubts are left. Is 101 million too small? And E7 gave embeddings, gains and output layer AdamW's one rate in AdamW's arm but eight times that in Muon's, because Muon's best rate is higher: how much of the lead is theirs? So the same again with 18 layers of width 1280, trained by two GPUs that share each batch of 64 × 512 bytes, 400 steps, one epoch;
# and AdamW is given a second rate for the rest. Each arm's rate is chosen among three with seed 0, then AdamW's rate for the rest among 1, 4 and 8 times its own; a fresh seed decides, with a complete Muon run of half the steps beside it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, validation loss against the step for a model of 354 million parameters: Muon's curve lies below AdamW's from the start and ends at 1.29 against 1.54; the complete Muon run of half the steps ends at 1.55. Right, validation loss of the tuning runs against the learning rate on a log axis: AdamW's three points are lowest at 0.0005, 1.548, two diamonds below or on it mark a higher rate for the rest, 1.520 at best; Muon's three lie near 1.3, lowest at 0.004."}}
r8 = {id: nb.recorded(id) for id in ("E8", "E8b", "E8c", "E8d")}
rows8 = {id: run.result["runs"] for id, run in r8.items()}
adam_final8, muon_final8, muon_half8 = rows8["E8d"]
adam_curve8 = [*rows8["E8"], *rows8["E8c"]]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.7))
for row, color, style, label in (
    (adam_final8, BLUE, "-", "AdamW, two rates"),
    (muon_final8, ORANGE, "--", "Muon"),
    (muon_half8, RED, ":", "Muon, half of the steps"),
):
    panels[0].plot(row["at"], row["curve"], color=color, ls=style, marker="o", ms=3, lw=1.4, label=label)
for rows, color, marker, style, label in (
    (rows8["E8"], BLUE, "o", "-", "AdamW, one rate"),
    (rows8["E8c"], GREEN, "d", "", "AdamW, rest 4 and 8 times as fast"),
    (rows8["E8b"], ORANGE, "D", "--", "Muon"),
):
    panels[1].plot(
        [2 ** row["exponent"] for row in rows], [row["valid"] for row in rows], color=color, marker=marker, ls=style, label=label
    )
panels[0].set(xlabel="step", ylabel="validation loss, nats a byte", ylim=(1.2, 2.6))
panels[1].set(xscale="log", xlabel="learning rate of the hidden matrices (log axis)", ylabel="validation loss, nats a byte")
panels[1].set_xticks([2.0**e for e in range(-12, -6)], [f"{1e3 * 2.0**e:.2g}e-3" for e in range(-12, -6)], fontsize=8)
panels[1].minorticks_off()
for axes, title in zip(panels, ("354M parameters, fresh seed", "A faster rest helps AdamW a little"), strict=True):
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
bytes8 = r8["E8d"].config["batch"] * r8["E8d"].config["shape"]["context"]
lead8 = adam_final8["test"] - muon_final8["test"]
own8 = min(rows8["E8"], key=lambda row: row["valid"])
rest8 = min(rows8["E8c"], key=lambda row: row["valid"])
muon8_best = min(rows8["E8b"], key=lambda row: row["valid"])
step8 = muon_final8["step_s"] / adam_final8["step_s"]
at8 = lambda rows, row: sum(other["exponent"] < row["exponent"] for other in rows)
gb8 = max(r8["E8d"].result["gb of each process"])  # the record's own peak is that of the process that waits
scope8 = f"{r8['E8d'].result['processes']} × {r8['E8d'].device}, torch {r8['E8d'].torch}, {r8['E8d'].date}, {r8['E8d'].wall_s:.0f} s, {gb8:.0f} GB each, one fresh seed"
nb.experiment(
    "E8",
    "354M parameters on two GPUs: with half of the steps Muon is where AdamW ends, 0.60 of its time, although AdamW has a tuned rate of its own for embeddings and output layer.",
    "verified",
    holds=[
        ledger.more("parameters", r8["E8d"].result["parameters"], 3.5e8, digits=4),
        ledger.close("processes of the record, one a GPU", r8["E8d"].result["processes"], 2, abs=0.5),
        ledger.close("test loss of AdamW less that of Muon, equal bytes", lead8, 0.216, abs=0.002, digits=3, scope=scope8),
        ledger.more(
            "that lead over the largest difference between two seeds of an arm in E7",
            lead8 / max(np.ptp(values) for values in test7.values()),
            5,
            digits=2,
            scope=scope8,
        ),
        ledger.close(
            "test loss of Muon's run of half the steps less AdamW's whole one",
            muon_half8["test"] - adam_final8["test"],
            0,
            abs=0.004,
            scope=scope8,
        ),
        ledger.close("steps of that run over AdamW's", muon_half8["at"][-1] / adam_final8["at"][-1], 0.5, abs=1e-9),
        ledger.close("seconds a step, Muon over AdamW", step8, 1.206, abs=0.02, digits=3, scope=scope8),
        ledger.close("its share of AdamW's time", 0.5 * step8, 0.603, abs=0.01, digits=3, scope=scope8),
        *[
            ledger.close(f"{arm}: rates of the grid below the best one, of three", at8(rows, best), 1, abs=0.1)
            for arm, rows, best in (("AdamW", rows8["E8"], own8), ("Muon", rows8["E8b"], muon8_best))
        ],
        ledger.more(
            "a faster rest helps AdamW: validation loss at one rate less that at two", own8["valid"] - rest8["valid"], 0.02, digits=2
        ),
        ledger.less(
            "by this much of Muon's lead over one rate",
            (own8["valid"] - rest8["valid"]) / (own8["valid"] - muon8_best["valid"]),
            0.2,
            digits=2,
        ),
        ledger.close("rate of the rest over AdamW's own, best of 1, 4, 8", 2 ** (rest8["rest"] - rest8["exponent"]), 4, abs=0.1),
        *[
            ledger.close(f"the fresh run of {row['arm']} has the chosen {name}", row[name], best[name], abs=0.1)
            for row, best in ((adam_final8, rest8), (muon_final8, muon8_best))
            for name in ("exponent", "rest")
        ],
        ledger.close("bytes read over bytes there", 400 * bytes8 / r7["E7"].result["train bytes"], 1.0, abs=0.01, digits=3),
    ],
)

# %% [markdown]
# The faster rest is worth 0.03 nats, a ninth of Muon's lead: what E7 left open was not its reason. And the lead does not shrink from 101 to 354 million parameters; half of the steps are enough here. One fresh seed, one epoch of 13 MB, decay not tuned: a second point, no law.

# %% [markdown]
# ### What this says about 52%
#
# Counted as the report counts, in tokens times model size, Muon's arm needed 0.55 and 0.57 of AdamW's steps in our two seeds. This supports a saving; it does not confirm the number 0.52:
#
# - **One rate for everything.** Muon's arm trains its embeddings, output layer and gains at its own best rate, eight times AdamW's; AdamW's arm never had a fast rate for these with a slow one for the rest. E4 shows that this matters. The share is that of "Muon with a fast rest" against "AdamW with a slow rest". E8 gives AdamW a rate of its own for the rest: a ninth of the lead goes. The decay was not tuned in either.
# - **The law does not reach here.** At our compute, 1/5000 of the smallest fitted model's, the report's laws give 0.32, not 0.52: that 0.56 is near the quoted number is no agreement with them.
# - **Short runs.** 450 steps, 0.07 bytes a parameter; AdamW is behind from the first fifty. Muon's shorter schedules were not tuned again, which makes 0.56 rather too high than too low.
# - **The clock.** Newton-Schulz costs $5(4n^2m+2n^3)$ a matrix, whatever the batch: a quarter of a step's FLOPs at 16 thousand tokens, nothing at the millions of tokens of the report's batches.
#
# "Reuse AdamW's rate" was not tested at AdamW's own best rate, $2^{-11}$, where Muon was not run. At the two rates that the grids share, 2 and 4 times as high, Muon is better than AdamW there and than AdamW at its best; at the first of them it gives away 0.065 of the 0.16 nats. The small model (E3) did run both at AdamW's best rate: Muon leads by 0.04, and an octave below no more.

# %% tags=["hide-input"]
nb.claim(
    "C12",
    "Muon needs about 52% of AdamW's training FLOPs (report, from its fitted laws).",
    "partly",
    holds=[
        ledger.close("the laws give the quoted 0.519, at C_A =", math.exp(quoted_at), 18.1, abs=0.1, digits=3),
        ledger.less(
            "E7, counted as the report counts: share of the steps (a saving of a quarter was asked for)",
            share7,
            0.75,
            digits=2,
            machine=True,
            scope=r7["E7e"].provenance,
        ),
    ],
    fails=[
        ledger.less("that is outside the fitted models: their largest C_A by 6ND, over it", max(petaflop_days) / math.exp(quoted_at), 0.5),
        ledger.less("inside, the laws promise more: ratio at the largest", ratio_at(max(petaflop_days)), 0.5, digits=3),
        ledger.less("and at the smallest", ratio_at(min(petaflop_days)), 0.45, digits=3),
        ledger.more(
            "E7: share of the steps over what the laws give at its compute",
            share7 / ratio_at(450 * train_flops / 8.64e19),
            1.5,
            digits=2,
            machine=True,
            scope=r7["E7e"].provenance,
        ),
        ledger.more("E7, Newton-Schulz counted: share of the FLOPs", flops7, 0.6, digits=2, machine=True, scope=r7["E7e"].provenance),
        ledger.more("E7: share of the time", time7, 0.6, digits=2, machine=True, scope=r7["E7e"].provenance),
        ledger.more(
            "spread of the ratio at C_A = 10 from the rounding of the exponents alone", max(corners) - min(corners), 0.03, digits=2
        ),
    ],
)
nb.claim(
    "C7",
    "Adam's update RMS is 0.2 to 0.4 in training.",
    "partly",
    holds=[
        ledger.close(
            "E7, second half of training: mean over matrices, layers and seeds",
            half_way("AdamW").mean(),
            math.sqrt(1 / 19),
            rel=0.1,
            digits=3,
            machine=True,
            scope=r7["E7c"].provenance,
        ),
        ledger.less("largest of the six kinds", half_way("AdamW").max(), 0.40, digits=3, machine=True),
        ledger.close(
            "E3, steps 200 and 300 at the best rate: mean",
            float(np.mean(later3)),
            math.sqrt(1 / 19),
            rel=0.1,
            digits=3,
            machine=True,
            scope=r3.provenance,
        ),
    ],
    fails=[
        ledger.less(
            "E7, second half: smallest of the six kinds", half_way("AdamW").min(), 0.18, digits=3, machine=True, scope=r7["E7c"].provenance
        ),
        ledger.less("between steps 50 and 225", early7.min(), 0.15, digits=3, machine=True),
    ],
)
nb.claim(
    "C8",
    "RMS-matched Muon can take AdamW's learning rate and decay over directly, and is close to its own best with them.",
    "partly",
    holds=[
        ledger.better(
            "E3: AdamW at its best rate over Muon at the same", test3[adam3][best3[adam3]], same3, sigmas=2.5, scope=r3.provenance
        ),
        *[
            ledger.less(
                f"E7, rate 2^{e:g}, above AdamW's best: test loss, Muon less AdamW",
                at_rate["Muon"][e] - at_rate["AdamW"][e],
                -0.1,
                digits=3,
                machine=True,
            )
            for e in (-10.0, -9.0)
        ],
        ledger.less(
            "E7: Muon at 2^−10, twice AdamW's best rate (where Muon was not run), less AdamW's best",
            at_rate["Muon"][-10.0] - min(at_rate["AdamW"].values()),
            -0.05,
            digits=3,
            machine=True,
        ),
    ],
    fails=[
        ledger.close(
            "E7: octaves from AdamW's best rate to Muon's", chosen7["Muon"]["exponent"] - chosen7["AdamW"]["exponent"], 3, abs=0.5
        ),
        ledger.less(
            "E3, an octave below AdamW's best rate: Muon's lead, test",
            float((test3[adam3] - test3[muon3])[best3[adam3] - 1].mean()),
            0.0,
            digits=2,
            machine=True,
            scope=r3.provenance,
        ),
        ledger.close(
            "E7, second half: mean update RMS, Muon's over AdamW's (matched would be 1)",
            half_way("Muon").mean() / half_way("AdamW").mean(),
            0.79,
            abs=0.06,
            digits=2,
            machine=True,
            scope=r7["E7d"].provenance,
        ),
        ledger.close("E3: octaves", octaves_apart(rates3[best3[muon3]], rates3[best3[adam3]]), 2, abs=0.5),
        ledger.more(
            "E7: test loss given away at 2^−10 against Muon's best",
            at_rate["Muon"][-10.0] - at_rate["Muon"][-8.0],
            0.05,
            digits=2,
            machine=True,
        ),
    ],
)

# %% tags=["hide-input"]
entropy7 = {arm: {name: [row["entropy"][name] for row in rows[1:]] for name in HIDDEN} for arm, rows in final7.items()}
start7 = {name: np.mean([row["start"][name] for row in final7["Muon"][1:]]) for name in HIDDEN}
higher7 = [name for name in HIDDEN if min(entropy7["Muon"][name]) > max(entropy7["AdamW"][name])]
lead3 = lambda at: dict(zip(HIDDEN, (entropy3[muon3][:, at] - entropy3[adam3][:, best3[adam3]]).tolist(), strict=True))
higher3, higher3_own = lead3(best3[adam3]), lead3(best3[muon3])  # both at AdamW's best rate; each at its own
arms7 = ("AdamW", "Muon")
gap7 = {name: float(np.mean(entropy7["Muon"][name]) - np.mean(entropy7["AdamW"][name])) for name in HIDDEN}
nb.results(
    "C13",
    "Entropy of the singular spectra, 101M parameters, each arm at its best rate (mean of two seeds, every third layer)",
    ["matrix", "start", *arms7],
    [[name, f"{start7[name]:.3f}", *(f"{np.mean(entropy7[arm][name]):.3f}" for arm in arms7)] for name in HIDDEN],
)
nb.claim(
    "C13",
    "Matrices trained with Muon have a higher SVD entropy than those trained with AdamW (report: in all six groups).",
    "partly",
    holds=[
        *[
            ledger.more(f"E3, {name}, both at AdamW's best rate: Muon less AdamW", gap, 0.01, digits=2, machine=True, scope=r3.provenance)
            for name, gap in higher3.items()
        ],
        ledger.more("E3, each at its own best rate, smallest of the six", min(higher3_own.values()), 0.01, digits=2, machine=True),
        ledger.close(
            "E3, wo at AdamW's best rate, straight from the record",
            higher3["wo"],
            float(np.mean(full3["Muon, decay 0.1"]["entropy"]["wo"][3]) - np.mean(full3["AdamW, decay 0.1"]["entropy"]["wo"][3])),
            abs=1e-9,
            digits=2,
            machine=True,
        ),
        ledger.less("E3: largest distance of Muon's to the Gaussian's, six matrices, seven rates", kept3, 0.03, digits=1, machine=True),
        *[
            ledger.close(f"E7, start of {name}: Page's formula for {n} × {m}", start7[name], page(n, m), abs=3e-3, digits=3, machine=True)
            for name, n, m in (("wq", 1024, 1024), ("w2", 1024, 4096))
        ],
        ledger.more(
            "E7, each at its best rate: w2",
            gap7["w2"],
            0.05,
            digits=2,
            machine=True,
            scope=r7["E7d"].provenance,
        ),
    ],
    fails=[
        ledger.less(
            "E7, each at its best rate: groups of six in which Muon's is higher in both seeds",
            len(higher7),
            3.5,
            digits=1,
            scope=r7["E7d"].provenance,
        ),
        ledger.less(
            "queries: Muon less AdamW",
            gap7["wq"],
            -0.01,
            digits=2,
            machine=True,
        ),
    ],
)

# %% [markdown]
# Higher in `wo` and `w2`, lower in the other four. In the small model (E3) the report's finding holds in all six, both at one rate and with each arm at its own best: the choice of rates does not explain the difference. Model, text, length and batch differ too, and no run here tells them apart.

# %% [markdown]
# ## The report's numbers beside ours
#
# What the report {cite}`liu2025moonlight` measured is far beyond one GPU: models up to 16B parameters, 5.7T tokens. Its tables can still be read with a pencil. Below, claims that follow from its own numbers.

# %% tags=["hide-input"]
one_rate = {"H × H": rms_of(optim.msign(gauss(48, 48, seed=60))), "H × 4H": rms_of(optim.msign(gauss(48, 192, seed=61)))}
table_1 = {
    "0.2 √H for all": (2.812, 3.586e-2, 2.52e-2),
    "adjusted rate": (2.789, 3.496e-2, 4.89e-2),
}
nb.claim(
    "C10",
    "One rate for all shapes, without the factor √max, is unsuitable.",
    "verified",
    holds=[
        ledger.close("msign of H × H against H × 4H: ratio of RMS", one_rate["H × H"] / one_rate["H × 4H"], 2, rel=1e-9),
        ledger.close(
            "report, Table 1: RMS of the MLP's matrices, adjusted over one rate",
            table_1["adjusted rate"][2] / table_1["0.2 √H for all"][2],
            2,
            rel=0.05,
            digits=3,
            scope="numbers of the report",
        ),
        ledger.less(
            "validation loss, adjusted, against one rate",
            table_1["adjusted rate"][0],
            table_1["0.2 √H for all"][0],
            margin=0.02,
            scope="numbers of the report",
        ),
    ],
)
table_6 = {  # pretraining / fine-tuning: MMLU, HumanEval, MBPP, GSM8K
    "Muon/Muon": (55.7, 57.3, 55.6, 68.0),
    "AdamW/Muon": (55.3, 53.7, 55.5, 62.1),
    "Muon/AdamW": (50.2, 52.4, 55.2, 64.9),
    "AdamW/AdamW": (52.0, 53.1, 55.2, 64.6),
}
sft = {name: float(np.mean(row)) for name, row in table_6.items()}
wins = {name: sum(all(row[i] >= other[i] for other in table_6.values()) for i in range(4)) for name, row in table_6.items()}
nb.claim(
    "C14",
    "Fine-tuning with Muon helps a model pretrained with Muon; with a mismatch there is no clear advantage (one model of each kind).",
    "verified",
    holds=[
        ledger.close("rows of Table 6 in which Muon/Muon is best", wins["Muon/Muon"], 4, abs=0.5, scope="numbers of the report"),
        *[
            ledger.close(f"{name}: mean of the four", sft[name], mean, abs=0.01, digits=4, scope="numbers of the report")
            for name, mean in zip(sft, (59.15, 56.65, 55.68, 56.23), strict=True)
        ],
        ledger.less(
            "mismatched pairs: spread of the means around AdamW/AdamW",
            max(abs(sft[name] - sft["AdamW/AdamW"]) for name in ("AdamW/Muon", "Muon/AdamW")),
            1.0,
            digits=2,
            scope="numbers of the report",
        ),
    ],
)

# %% tags=["hide-input"]
moonlight_a = {
    "MMLU": 60.2,
    "MMLU-pro": 26.8,
    "BBH": 45.3,
    "TriviaQA": 57.4,
    "HumanEval": 29.3,
    "MBPP": 49.2,
    "GSM8K": 43.8,
    "MATH": 16.1,
    "CMath": 57.8,
    "C-Eval": 57.2,
    "CMMLU": 58.2,
}
moonlight = {
    "MMLU": 60.4,
    "MMLU-pro": 28.1,
    "BBH": 43.2,
    "TriviaQA": 58.1,
    "HumanEval": 37.2,
    "MBPP": 52.9,
    "GSM8K": 45.0,
    "MATH": 19.8,
    "CMath": 60.2,
    "C-Eval": 59.9,
    "CMMLU": 58.8,
}
better_on = [name for name in moonlight if moonlight[name] > moonlight_a[name]]
nb.claim(
    "C15",
    "At 1.2T tokens Moonlight (Muon) is ahead of Moonlight-A (AdamW) on the benchmarks.",
    "verified",
    holds=[
        ledger.close("benchmarks of Table 4 on which it is ahead, of 11", len(better_on), 10, abs=0.5, scope="numbers of the report"),
        ledger.less(
            "one-sided sign test",
            float(scipy.stats.binomtest(len(better_on), 11, alternative="greater").pvalue),
            0.01,
            digits=3,
            scope="numbers of the report; one model each, and benchmarks are not independent coins",
        ),
        ledger.close(
            "mean lead over the eleven, points",
            float(np.mean([moonlight[name] - moonlight_a[name] for name in moonlight])),
            2.03,
            abs=0.01,
            digits=3,
            scope="numbers of the report",
        ),
        ledger.close("12/2048", float(scipy.stats.binomtest(10, 11, alternative="greater").pvalue), 12 / 2048, rel=1e-9, digits=3),
    ],
)
adam_bytes, muon_bytes = (
    4 + 4,
    4 + 2 + 4,
)  # a parameter, ZeRO-1: gradients and parameters in float32; Muon also gathers its momentum in bfloat16
nb.claim(
    "C17",
    "Distributed Muon sends at most 1.25 times the bytes of distributed AdamW (by the report's own count, not measured here).",
    "verified",
    holds=[
        ledger.close(
            "(4 + 2 + 4)/(4 + 4), by the report's count of bytes",
            muon_bytes / adam_bytes,
            1.25,
            rel=1e-9,
            scope="arithmetic; nothing was measured",
        )
    ],
)
nb.claim(
    "C18",
    "The report's laws for the optimal size and data satisfy C = 6ND.",
    "verified",
    holds=[
        ledger.close(
            "6 · 0.0483359 · 3.4480927 (Table 9, the two factors)",
            6 * 0.0483359 * 3.4480927,
            1,
            abs=1e-6,
            digits=8,
            scope="numbers of the report",
        ),
        ledger.close("sum of the two exponents", 0.5112684 + 0.4887316, 1, abs=1e-9, digits=8, scope="numbers of the report"),
    ],
)

# %% tags=["hide-input"]
nb.results(
    "E7",
    "The report's numbers beside ours",
    ["question", "report (Moonlight)", "here"],
    [
        [
            "AdamW's loss, share of its compute (6ND)",
            f"0.52 (quoted), 0.44 to 0.49 (its laws, fitted range), {ratio_at(450 * train_flops / 8.64e19):.2f} (its laws, our compute)",
            f"≈{share7:.2f} at {450 * train_flops / 8.64e19:.1g} PFLOP/s-days, two seeds",
        ],
        ["the same in seconds", "not given", f"≈{time7:.2f}"],
        [
            "the share of its steps with 354M parameters, AdamW with a second rate",
            "0.52 of the compute (quoted)",
            f"half of the steps: ≈{muon_half8['test']:.3f} against ≈{adam_final8['test']:.3f} (one seed); ≈{0.5 * step8:.2f} of the time",
        ],
        ["AdamW's update RMS", "0.2 to 0.4", f"≈{half_way('AdamW').mean():.2f} (second half; theory 0.229)"],
        ["Muon's matched RMS", "0.2", f"≈{half_way('Muon').mean():.2f}"],
        [
            "best update RMS at AdamW's rate",
            "0.2, 0.4 (Table 8)",
            f"0.4 and 0.8, not told apart, of {', '.join(f'{x:g}' for x in factors4)}",
        ],
        [
            "lead of no decay, before and at the end",
            "0.023, −0.017",
            f"≈{lead_of[1200][0]:.3f} ± {lead_of[1200][1]:.3f}, ≈{lead_of['test'][0]:.3f} ± {lead_of['test'][1]:.3f}",
        ],
        [
            "groups with higher entropy under Muon",
            "6 of 6",
            f"{sum(v > 0 for v in higher3_own.values())} of 6 (small), {len(higher7)} of 6 (101M), both at best rates",
        ],
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **Between SGD and Muon.** Under the Schatten norm $\lVert\sigma(\Delta W)\rVert_p$ the steepest direction is $U\,\mathrm{diag}(\sigma_i^{\,q-1})V^\top/\lVert\sigma\rVert_q^{q-1}$ with $\frac1p+\frac1q=1$: one parameter leads from the normalised gradient ($p=2$) to the matrix sign ($p=\infty$).
# [`muon.schatten_direction`](https://github.com/kexue-nb/kexue-nb/blob/main/kexue_nb/muon.py) computes it; which $p$ trains best is open in the post, and here.

# %% tags=["hide-input"]
schatten_norm = lambda M, p: float(torch.linalg.svdvals(M).norm(p))
dual_of = lambda p: 1.0 if math.isinf(p) else p / (p - 1)
conditioned = [float(np.divide(*torch.linalg.svdvals(muon.schatten_direction(G64, p))[[0, -1]].numpy())) for p in (2, 4, 16, math.inf)]
nb.claim(
    "X2",
    "Steepest descent in Schatten norms leads from normalised SGD (p = 2) to Muon (p = ∞); the gain is the dual norm.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"gain at p = {p}", float(inner(G64, muon.schatten_direction(G64, p))), schatten_norm(G64, dual_of(p)), rel=1e-10, digits=6
            )
            for p in (1.5, 3, 8)
        ],
        ledger.less(
            "p = 3: best of 10,000 random steps of norm 1, over the gain",
            max(float(inner(G64, M)) / schatten_norm(M, 3) for M in rivals[:2000]) / schatten_norm(G64, 1.5),
            1,
        ),
        ledger.increasing("σ₁/σ₄ of the direction at p = ∞, 16, 4, 2", conditioned[::-1]),
        ledger.close("p = ∞: σ₁/σ₄", conditioned[-1], 1, rel=1e-10),
    ],
)

# %% [markdown]
# **Later evidence on the size of the gain.** {cite}`wen2025fantastic` tune eleven optimizers with equal care and find matrix-based ones ahead of a tuned AdamW by a factor of 1.4 at 0.1B parameters, falling to 1.1 at 1.2B. {cite}`essential2025practical` report 10 to 15% fewer tokens, and a batch that can grow further. (Both as
# we read them; they decide no verdict here.) The instability that the report itself admits, attention logits above 100, was later met by clipping query and key weights in Kimi K2 {cite}`kimi2025k2`. Decay as a constraint $\lVert W\rVert_2\le1/\lambda$ is worked out in {cite}`chen2025muon`; the view of optimizers as norms in
# {cite}`bernstein2024old`.
#
# **A batch smaller than the matrix.** The gradient of a layer that saw $T$ tokens has rank at most $T$. With fewer tokens than $\min(n,m)$ the matched RMS falls short by $\sqrt{r/\min(n,m)}$ (exercise 1): another reason why the 0.2 of the formula is not the 0.2 of the optimizer.
#
# ## What does not hold
#
# - **"$\lVert W\rVert_2\le1/\lambda$"** (C4, C5) is the bound for an exact matrix sign without the factor. In the code that is run the radius is $0.2\sqrt{\max(n,m)}\cdot1.2024/\lambda$ and grows with the width (shown on constant gradients, not on a trained model). Without the factor, at $\lambda=2$, a trained matrix passes $1/\lambda$ by 1%.
# - **"An update RMS of 0.2"** is about 0.16 to 0.19 with five Newton-Schulz steps (D9, E7): the iteration has no attracting fixed point near 1 (C19), and more steps make a Gaussian $256\times1024$ matrix worse, while a square one wavers (C16).
# - **"Adam's update RMS is 0.2 to 0.4"** (C7): at the end it is $\sqrt{(1-\beta_1)/(1+\beta_1)}=0.23$ to within a tenth on average; on the way, in the larger model, it is as low as 0.11.
# - **"Take AdamW's rate"** (C8). At AdamW's own best rate it was tried on the small model only: it works, by a small margin. Muon's best rate was 4 and 8 times higher, and the best factor at AdamW's rate is 0.4 or 0.8 rather than 0.2 (C9).
# - **"52% of the FLOPs"** (C12). By the report's own laws 0.52 lies outside the range that was fitted (inside: 0.44 to 0.49), and the rounding of the exponents moves it by several hundredths. Our 101M model: 0.56 of the steps, 0.66 of the time, with a faster rate for embeddings and output layer in Muon's arm that was not given to AdamW's. With 354M, and AdamW given it (E8): 0.50 of the steps, 0.60 of the time.
# - **"Without decay the early lead turns"** (C11): the lead vanishes; that it turns, three seeds do not resolve.
# - **"Higher entropy everywhere"** (C13): in six of six groups on the small model, in two of six at 101M, both at each arm's best rate. Why is open.
# - **A gap in the derivation** (D6): the post and the report drop the cross terms of the squared sum without a word. They vanish, by orthogonality.
#
# ## Exercises
#
# 1. *Too few tokens.* A $64\times64$ layer sees $T$ independent tokens. What is the RMS of the exact $0.2\sqrt{64}\,\mathrm{msign}(G)$ for $T=16$ and for $T=256$?
# 2. *A polynomial that converges.* Find all odd quintics with $f(1)=1$ and $f'(1)=f''(1)=0$. What is the slope at 0, and what does that cost?
# 3. *Matching another Adam.* Which $\beta_1$ gives updates of RMS 0.4 on pure noise?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# The gradient $\sum_tx_t^\top\delta_t$ has rank $\min(T,64)$. By D6 the RMS is $0.2\sqrt{64}\sqrt{r/64^2}=0.2\sqrt{r/64}$: 0.1 for 16 tokens, 0.2 for 256. (Newton-Schulz leaves zero singular values at zero, so it agrees up to its own factor.)
# ```

# %% tags=["hide-cell"]
few_tokens = lambda T: gauss(T, 64, seed=70).T @ gauss(T, 64, seed=71)
nb.claim(
    "X3",
    "Exercise 1: with T tokens the matched RMS of a 64 × 64 layer is 0.2 √(min(T, 64)/64).",
    "verified",
    holds=[
        ledger.close(f"T = {T}", 0.2 * 8 * rms_of(optim.msign(few_tokens(T))), expected, rel=1e-6, digits=4)
        for T, expected in ((16, 0.1), (256, 0.2))
    ],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Three linear equations for three coefficients: $\frac18(15x-10x^3+3x^5)$ is the only one. Its slope at 0 is 1.875 instead of 3.4445, so a small singular value needs $\log3.4445/\log1.875=2$ times as many steps.
# ```

# %% tags=["hide-cell"]
qa, qb, qc = sp.symbols("a b c")
quintic = qa * xs + qb * xs**3 + qc * xs**5
conditions = [quintic.subs(xs, 1) - 1, sp.diff(quintic, xs).subs(xs, 1), sp.diff(quintic, xs, 2).subs(xs, 1)]
only = sp.solve(conditions, [qa, qb, qc], dict=True)
nb.claim(
    "X4",
    "Exercise 2: (15x − 10x³ + 3x⁵)/8 is the only odd quintic that touches 1 to second order; its slope at 0 costs twice the steps.",
    "verified",
    holds=[
        ledger.close("solutions", len(only), 1, abs=0.5),
        *[
            ledger.close(f"coefficient {name}", float(only[0][symbol]), value, rel=1e-12)
            for name, symbol, value in (("a", qa, 15 / 8), ("b", qb, -5 / 4), ("c", qc, 3 / 8))
        ],
        ledger.close(
            "steps for a small singular value, over Muon's",
            math.log(optim.MUON_COEFFICIENTS[0]) / math.log(float(only[0][qa])),
            2,
            abs=0.05,
            digits=3,
        ),
    ],
)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# $(1-\beta_1)/(1+\beta_1)=0.16$ gives $\beta_1=0.84/1.16=0.724$.
# ```

# %% tags=["hide-cell"]
seen_rms = adam_rms((0.84 / 1.16, 0.999))
print("Adam on noise at β₁ = 0.724: RMS", round(seen_rms[0], 2))

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2025muon`. Muon: {cite}`jordan2024muon`; Moonlight: {cite}`liu2025moonlight`. Norms and optimizers: {cite}`bernstein2024old`, {cite}`chen2025muon`. Later comparisons: {cite}`wen2025fantastic`, {cite}`essential2025practical`, {cite}`kimi2025k2`. Entropy of random matrices: {cite}`page1993average`.
