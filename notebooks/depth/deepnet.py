# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is really hard about training a 1,000-layer Transformer?
#
# [训练1000层的Transformer究竟有什么困难？](https://kexue.fm/archives/8978) · 2022-03-09 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/depth/deepnet.ipynb)
#
# **The point.** A deep Transformer with a LayerNorm after every residual sum (Post-LN) has gradients of healthy size and does not train. The post's
# reason, after Admin and DeepNet: one optimiser step moves all $2N$ sublayers of its $N$ layers, and the moves add up. From this it derives DeepNorm's
# two constants for SGD, and others for Adam and LAMB; for every scheme that scales anything the first step grows with the depth as predicted, to a few
# hundredths in the exponent. Two things it does not say. A plain Post-LN network of 50 or 1,000 layers hands every token almost the same vector before
# the first step, and so learns nothing but how frequent each character is. And its rule for Adam, which bounds the first step and little beyond, trains best at
# 1,000 layers in one set-up and fails earlier than DeepNorm in another.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import gc
import math

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, records, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("deepnet")
corpus, alphabet = data.encode_characters(data.shakespeare())
unigram, bigram = data.unigram_entropy(corpus), data.bigram_entropy(corpus)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: training loss of 1,000-layer decoders over 200 steps, recorded: plain Post-LN is stuck on the unigram line at 3.33 nats, Pre-LN reaches 2.66, DeepNorm 2.40 and the post's Adam rule 2.35. Right, log axis: how different two tokens are at initialisation against the layer, plain Post-LN falling along a straight line below one millionth within 64 layers, DeepNorm level."}}
STYLE = {
    "Post-LN": (ORANGE, "--", "o"),
    "DeepNorm": (BLUE, "-", "s"),
    "Adam rule": (GREEN, "-.", "^"),
    "LAMB rule": (PURPLE, (0, (5, 1)), "D"),
    "alternative 2": (SKY, ":", "v"),
    "Pre-LN": (BLACK, (0, (1, 1)), "x"),
    "Post-LN, long warm-up": (RED, (0, (3, 1, 1, 1)), "P"),
    "Pre-LN, small λ": (GREY, "-", "*"),
}
made = records.load(nb.slug)
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.7), gridspec_kw={"width_ratios": [1.25, 1]})
every = made["E5"].config["every"] if "E5" in made else 1
for (label, _, _), runs in zip(made["E5"].config["arms"], made["E5"].result["loss"], strict=True) if "E5" in made else ():
    if label in ("Post-LN", "Pre-LN", "DeepNorm", "Adam rule"):
        axes.plot((np.arange(len(runs[0])) + 0.5) * every, np.mean(runs, 0), color=STYLE[label][0], ls=STYLE[label][1], label=label)
for label in ("Post-LN", "DeepNorm") if "E2" in made else ():
    gap = np.mean(made["E2"].result[label]["difference"], 0)[::2]
    right.plot(np.arange(len(gap)), np.sqrt(2 * gap), color=STYLE[label][0], ls=STYLE[label][1], label=label)
axes.axhline(unigram, color=GREY, lw=1, ls=":")
axes.annotate("unigram entropy", (200, unigram), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=9, color=GREY)
axes.set(xlabel="training step", ylabel="loss (nats a character)", ylim=(2.2, 4.4))
axes.set_title("1,000 layers, trained", fontsize=10)
axes.legend(loc="upper right")
right.set(yscale="log", xlabel="layer", ylabel="relative difference of two tokens", ylim=(1e-6, 4))
right.set_title("64 layers, before training", fontsize=10)
right.legend(loc="lower left")
figure.suptitle("Post-LN does not explode: it is blind to which token it looks at", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## The question
#
# Residual connections and normalisation were supposed to have settled the old trouble of deep networks, gradients that vanish or explode. And indeed,
# in a deep Transformer with LayerNorm *after* each residual sum (Post-LN, that is Post-Norm with LayerNorm) no gradient is alarmingly large or small. It still does not train: at a few
# dozen layers the loss sticks. So what *is* the difficulty?
#
# The answer of Admin {cite}`liu2020admin` and DeepNet {cite}`wang2022deepnet`, which the post {cite}`su2022deepnet` re-derives: not the gradient but
# the *increment*. One optimiser step moves every sublayer at once, all by a similar amount; with $2N$ sublayers the moves add up, and the first steps
# throw the network far from its initialisation. The cures are a learning rate that starts at about $1/N$ (warm-up), or an initialisation for which each
# gradient is of order $1/\sqrt N$. The post's programme: compute how each gradient depends on two dials, and set the dials so that the *sum* stays of
# order one.
#
# Notation, for the whole notebook. $N$ layers make $S=2N$ sublayers (attention and feed-forward alternate). Rows are vectors: $xW$. A sublayer is
#
# $$x_{l+1}=\operatorname{LN}\bigl(\alpha x_l+F_l(x_l)\bigr)=\operatorname{LN}\bigl(x_l+F_l(x_l)/\alpha\bigr),$$
#
# with the skip weight $\alpha\ge1$, and $\lambda\le1$ multiplies the Xavier initialisation of the four *branch matrices*: values, attention output,
# and the two feed-forward matrices (the paper writes $\beta$ for $\lambda$). Queries and keys keep gain 1. $G=\partial\mathcal L/\partial W$, and
# $\eta$ is the learning rate. Plain Post-LN is $\alpha=\lambda=1$; DeepNorm is $\alpha=(2N)^{1/4}$, $\lambda=(8N)^{-1/4}$.
#
# The next notebooks go on from here: [why residuals](why-residuals.ipynb) asks the same of the residual connection itself,
# [Pre-Norm against Post-Norm](prenorm-postnorm.ipynb) compares the two placements, and [the shared embedding](shared-embedding.ipynb) applies the idea of
# a loss at initialisation to the output layer.

# %% [markdown]
# ## The increment
#
# Expand the loss around the present weights. A step $\Delta W=-\eta\,D$ in a direction $D$ changes it by $-\eta\sum_W\langle G,D\rangle+O(\eta^2)$.
# For the optimisers of interest
#
# $$\Delta\mathcal L\approx-\eta\sum_W\begin{cases}\|G\|_F^2&\text{SGD}\\\|G\|_1&\text{Adam}\\\|W\|_F\,\|G\|_1&\text{LAMB}\end{cases}$$
#
# Adam is represented by its first step, the sign of the gradient, and LAMB {cite}`you2020lamb` by the sign times the norm of the weights.
# ($\|\cdot\|_1$ is the sum of the absolute entries.) If every one of the $K$ matrices of each of the $N$ layers has a gradient of size $O(1)$, then
# $\Delta\mathcal L=O(\eta NK)$: that is the post's diagnosis. Here $K$ counts matrices; [the post on residuals](why-residuals.ipynb) counts parameters. We add a fourth optimiser,
# which the post could not know: Muon's direction is the polar factor of $G$, with $\langle G,UV^\top\rangle=\|G\|_*$, the nuclear norm.
#
# The check differentiates a loss with an arbitrary gradient and an arbitrary Hessian along each direction. In torch, the four terms are the function
# that all experiments will use; it is compared with real steps on a real loss, where the error of the first-order formula must halve with $\eta$.

# %%
eta, alpha, lam, S, N, M = sp.symbols("eta alpha lambda S N M", positive=True)
W, G = (sp.Matrix(2, 2, sp.symbols(f"{letter}1:5", real=True)) for letter in "wg")
hessian = sp.Matrix(4, 4, lambda i, j: sp.Symbol(f"h{min(i, j)}{max(i, j)}", real=True))
frobenius = lambda X: sp.sqrt(sum(x**2 for x in X))
one_norm = lambda X: sum(sp.Abs(x) for x in X)
sign = G.applyfunc(sp.sign)
directions = {"SGD": G, "Adam": sign, "LAMB": frobenius(W) * sign}
terms = {
    "SGD": lambda W, G: frobenius(G) ** 2,
    "Adam": lambda W, G: one_norm(G),
    "LAMB": lambda W, G: frobenius(W) * one_norm(G),
}


def change(step):
    """The loss after minus before a small step (2, 2): gradient G, any Hessian."""
    flat = step.reshape(4, 1)
    return (G.reshape(1, 4) * flat)[0] + (flat.T * hessian * flat)[0] / 2


slope_along = lambda direction: sp.Subs(sp.Derivative(change(-eta * direction), eta), eta, 0)


# %%
def first_order(W, G):
    """Minus the first-order change of the loss per unit of learning rate, for matrices W with gradients G, (..., m, n) -> (...)."""
    wide = (G if G.shape[-2] <= G.shape[-1] else G.mT).double()
    one_norm = G.abs().sum((-2, -1))
    return {
        "SGD": G.square().sum((-2, -1)),
        "Adam": one_norm,
        "LAMB": torch.linalg.matrix_norm(W) * one_norm,
        "Muon": torch.linalg.eigvalsh(wide @ wide.mT).clamp_min(0).sqrt().sum(-1),
    }


rng = torch.Generator().manual_seed(nb.seed)
gaussian = lambda *shape, std=1.0: torch.randn(shape, generator=rng, dtype=torch.float64) * std
x0, W0, answers = gaussian(12, 6), gaussian(6, 9, std=0.4), torch.arange(12) % 9
small_loss = lambda W: F.cross_entropy(F.layer_norm(torch.relu(x0 @ W), (9,)), answers)
G0 = torch.func.grad(small_loss)(W0)
steps0 = {"SGD": G0, "Adam": G0.sign(), "LAMB": W0.norm() * G0.sign(), "Muon": optim.msign(G0)}


def relative_error(name, eta):
    """Actual change of the loss over the predicted one, minus 1."""
    return float((small_loss(W0) - small_loss(W0 - eta * steps0[name])) / (eta * first_order(W0, G0)[name])) - 1


# %%
halving = {name: relative_error(name, 2e-5) / relative_error(name, 1e-5) for name in steps0}
nb.derivation(
    "D1",
    "To first order one step changes the loss by −η Σ‖G‖² (SGD), −η Σ‖G‖₁ (sign steps), −η Σ‖W‖‖G‖₁ (LAMB-like) and −η Σ‖G‖* (Muon).",
    *[sym.identity(f"derivative along the {name} direction", slope_along(D), -terms[name](W, G)) for name, D in directions.items()],
    *[
        ledger.close(f"{name}: real over predicted change, η = 1e-5", relative_error(name, 1e-5) + 1, 1, abs=2e-3, digits=3)
        for name in steps0
    ],
    *[ledger.close(f"{name}: the error halves with η", ratio, 2, abs=0.02, digits=3) for name, ratio in halving.items()],
)

# %% [markdown]
# ## Two tools
#
# **The size of a matrix.** To say how a gradient depends on "the size of $W$" one needs a number for it. Write $W=\lambda U$ with $U$ as orthogonal
# as possible: $\lambda=\arg\min_{\kappa>0}\|WW^\top/\kappa^2-I\|_F$. Setting the derivative to zero,
#
# $$\lambda^2=\frac{\operatorname{tr}(WW^\top)^2}{\operatorname{tr}WW^\top}=\frac{\sum_i\sigma_i^4}{\sum_i\sigma_i^2}.$$
#
# The post takes it that for a Xavier-initialised matrix {cite}`glorot2010understanding` this is the gain. That is the case for an orthogonal one. For
# a Gaussian $n\times m$ matrix with entries of variance $v$ the two traces have means $nmv$ and $nm(n+m+1)v^2$, so with Xavier's
# $v=2\,\mathrm{gain}^2/(n+m)$ the size is $\lambda\to\sqrt2\,\mathrm{gain}$, for *every* shape. And a Gaussian matrix is far from orthogonal: what
# remains of $\|WW^\top/\lambda^2-I\|_F^2$ is $n\cdot\frac n{n+m}$, half of its maximum for a square one. A constant changes no exponent, so the
# argument survives.

# %%
kappa, trace_2, trace_4, size, v = sp.symbols("kappa t_2 t_4 n v", positive=True)
distance = trace_4 / kappa**4 - 2 * trace_2 / kappa**2 + size  # |W W^T/kappa^2 - 1|_F^2 with t_2 = tr W W^T, t_4 = tr (W W^T)^2
optimum = sp.sqrt(trace_4 / trace_2)
gram_of = lambda n, m: sp.Matrix(n, m, lambda i, j: sp.Symbol(f"w{i}_{j}")) * sp.Matrix(n, m, lambda i, j: sp.Symbol(f"w{i}_{j}")).T


def gaussian_mean(polynomial):
    """E of a polynomial in independent N(0, v) variables named w*."""
    variables = sorted((s for s in polynomial.free_symbols if s.name.startswith("w")), key=str)
    moments = [1, 0, v, 0, 3 * v**2]
    return sp.expand(sum(c * sp.prod([moments[k] for k in powers]) for powers, c in sp.Poly(polynomial, *variables).terms()))


def magnitude(W):
    """The lambda of W (n, m) and what remains of |W W^T/lambda^2 - 1|_F^2 per row."""
    gram = W @ W.mT
    lam2 = gram.square().sum() / gram.trace()
    return float(lam2.sqrt()), float((gram / lam2 - torch.eye(len(W), dtype=W.dtype)).square().sum() / len(W))


# %%
shapes = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]
xavier_draws = {(n, m): magnitude(gaussian(n, m, std=math.sqrt(2 / (n + m)))) for n, m in ((256, 256), (256, 1024), (1024, 256))}
orthogonal = torch.linalg.qr(gaussian(64, 64))[0] * 0.3

# %%
nb.derivation(
    "D2",
    "The best orthogonal fit λU to W has λ² = tr(WWᵀ)²/tr WWᵀ; a Gaussian W has E tr WWᵀ = nmv and E tr(WWᵀ)² = nm(n + m + 1)v².",
    sym.solves("stationary point", sp.Derivative(distance, kappa), kappa, optimum),
    sym.identity("second derivative there", sp.Subs(sp.Derivative(distance, (kappa, 2)), kappa, optimum), 8 * trace_2**3 / trace_4**2),
    sym.enumeration("E tr WWᵀ", shapes, lambda c: gaussian_mean(sp.expand(gram_of(*c).trace())), lambda c: c[0] * c[1] * v),
    sym.enumeration(
        "E tr (WWᵀ)²",
        shapes,
        lambda c: gaussian_mean(sp.expand((gram_of(*c) ** 2).trace())),
        lambda c: sp.expand(c[0] * c[1] * (c[0] + c[1] + 1) * v**2),
    ),
    ledger.close("an orthogonal matrix times 0.3 has size 0.3", magnitude(orthogonal)[0], 0.3, rel=1e-12),
)

# %% tags=["hide-input"]
nb.claim(
    "X1",
    "The size of a Gaussian Xavier matrix of gain 1 is √2, not 1, for every shape, and n/(n + m) of its distance from orthogonality remains.",
    "verified",
    holds=[
        check
        for (n, m), (fit, rest) in xavier_draws.items()
        for check in (
            ledger.close(f"size, {n} × {m}", fit, math.sqrt(2), rel=0.01, digits=3, machine=True),
            ledger.close(f"distance left per row, {n} × {m}", rest, n / (n + m), rel=0.03, digits=3, machine=True),
        )
    ],
)

# %% [markdown]
# **The probe.** To see how large a gradient is, the post varies only the size of the matrix: with $W=\lambda U$, the chain rule gives the *magnitude
# probe* $\partial_\lambda\mathcal L(\lambda U)=\langle G,U\rangle$. One number instead of a matrix, and easy to read off a formula. Two warnings. It
# is a lower bound only, $|\langle G,U\rangle|\le\|G\|_F\|U\|_F$. And it is blind where the loss does not depend on the size: if $W$ feeds a LayerNorm
# without a residual, then $\langle G,W\rangle=0$ although $G\ne0$. Fortunately the gradient itself is as easy. For $z=x+\varphi(xW_1)W_2/\alpha$,
# with $h=\varphi(xW_1)$ and $\delta=\partial\mathcal L/\partial z$,
#
# $$G_2=\frac{h^\top\delta}\alpha\ \propto\ \frac{\lambda_1}\alpha,\qquad G_1=\frac{x^\top\bigl[(\delta W_2^\top)\odot\varphi'\bigr]}\alpha\ \propto\ \frac{\lambda_2}\alpha .$$

# %%
row, U3 = sp.Matrix([sp.symbols("x1:3", real=True)]), sp.Matrix(2, 3, sp.symbols("u1:7", real=True))
W3 = sp.Matrix(2, 3, sp.symbols("w1:7", real=True))
log_sum_exp = lambda A: sp.log(sum(sp.exp(y) for y in row * A))
gradient_at = sp.Matrix(2, 3, lambda i, j: sp.diff(log_sum_exp(W3), W3[i, j])).subs(dict(zip(W3, lam * U3, strict=True)))
z3 = sp.Matrix([sp.symbols("z1:4", real=True)])
centred = lambda z: z - sp.ones(1, z.cols) * sum(z) / z.cols
layer_norm_of = lambda z: centred(z) / sp.sqrt(sum(y**2 for y in centred(z)) / z.cols)

# %%
x1, W1, W2 = gaussian(5, 6), gaussian(6, 8), gaussian(8, 6)
probe_loss = lambda W1, W2: F.cross_entropy(F.layer_norm(x1 + torch.relu(x1 @ W1) @ W2 / 3.0, (6,), eps=0.0), torch.arange(5))
g1, g2 = torch.func.grad(probe_loss, argnums=(0, 1))(W1, W2)
hidden = torch.relu(x1 @ W1)
delta = torch.func.grad(lambda z: F.cross_entropy(F.layer_norm(z, (6,), eps=0.0), torch.arange(5)))(x1 + hidden @ W2 / 3.0)
formula_1, formula_2 = x1.T @ ((delta @ W2.T) * (x1 @ W1 > 0)) / 3.0, hidden.T @ delta / 3.0
blind = torch.func.grad(lambda W: F.cross_entropy(F.layer_norm(x1 @ W, (8,), eps=0.0), torch.arange(5)))(W1)
nb.derivation(
    "D3",
    "∂/∂λ L(λU) = ⟨G, U⟩; the probe vanishes for scale-invariant weights although G does not; G₂ = hᵀδ/α and G₁ = xᵀ[(δW₂ᵀ)⊙φ′]/α.",
    sym.identity(
        "probe of log-sum-exp", sp.Derivative(log_sum_exp(lam * U3), lam), sum(g * u for g, u in zip(gradient_at, U3, strict=True))
    ),
    sym.identity("LN(λz) does not depend on λ, d = 3", sp.diff(layer_norm_of(lam * z3), lam), sp.zeros(1, 3)),
    ledger.less("so ⟨G, W⟩ = 0 where W feeds LN", abs(float((blind * W1).sum())), 1e-14, machine=True),
    ledger.more("though ‖G‖ is not 0", float(blind.norm()), 0.1),
    *[
        ledger.less(f"formula of G{i} against autograd, largest difference", float((a - b).abs().max()), 1e-14, machine=True)
        for i, a, b in ((1, g1, formula_1), (2, g2, formula_2))
    ],
    *[ledger.more(f"size of G{i}", float(g.norm()), 0.05) for i, g in ((1, g1), (2, g2))],
)

# %% [markdown]
# ## The gradient of a sublayer
#
# **Feed-forward.** Let $\varphi$ be positively homogeneous, $\varphi(cu)=c\,\varphi(u)$ for $c>0$: ReLU exactly, GELU only roughly
# ($\varphi(2)-2\varphi(1)=0.27$). The sizes then come out of the branch as factors,
#
# $$z=x+\frac{\lambda_1\lambda_2}\alpha\,\varphi(xU_1)U_2,\qquad\frac{\partial z}{\partial\lambda_1}=\frac{\lambda_2}\alpha\,\varphi(xU_1)U_2=O\Bigl(\frac\lambda\alpha\Bigr),$$
#
# and the same for $\lambda_2$. With Xavier-Gaussian matrices of gain $\lambda$, width $rd$ and ReLU the branch has energy
# $\mathbb E\|F(x)\|^2=c_F\lambda^4\|x\|^2$ with $c_F=2r/(1+r)^2$: the product of two variances, times $\mathbb E\operatorname{relu}(s)^2=\frac12$.

# %%
x_, r, g_, d_ = sp.symbols("x r g d", positive=True)
density = sp.exp(-(x_**2) / 2) / sp.sqrt(2 * sp.pi)
half = sp.Integral(x_**2 * density, (x_, 0, sp.oo))  # E relu(s)^2 for a standard normal s
variance = 2 * g_**2 / (d_ + r * d_)
energy = r * d_ * (d_ * variance) * half * variance * d_ / d_  # |x|^2 = d: rd hidden units of variance d v, then d outputs, over d
relu_branch = sp.Symbol("l1", positive=True) * sp.Symbol("l2", positive=True) * sp.Symbol("f") / alpha
gelu = lambda y: y * mpmath.ncdf(y)


# %%
def xavier_branch(ratio, d=256):
    """Two Xavier matrices of gain 1, d -> ratio d -> d."""
    std = math.sqrt(2 / (d + ratio * d))
    return gaussian(d, ratio * d, std=std), gaussian(ratio * d, d, std=std)


def branch_energies(ratio, draws=12):
    """Forward and backward energy of the ReLU branch over that of its argument, means over draws of the matrices."""
    totals = []
    for _ in range(draws):
        (A, B), rows, back = xavier_branch(ratio), gaussian(32, 256), gaussian(32, 256)
        out, pull = torch.func.vjp(lambda x, A=A, B=B: torch.relu(x @ A) @ B, rows)
        totals.append([out.square().sum() / rows.square().sum(), pull(back)[0].square().sum() / back.square().sum()])
    return torch.tensor(totals).mean(0).tolist()


energies = {ratio: branch_energies(ratio) for ratio in (1, 2, 4)}
relu_rows = gaussian(4, 256)

# %%
nb.derivation(
    "D4",
    "For a positively homogeneous φ both feed-forward matrices have gradients O(λ/α); with ReLU and Xavier the branch energy is 2r/(1 + r)² gain⁴.",
    sym.identity("energy from the variances", energy, 2 * r / (1 + r) ** 2 * g_**4),
    *[
        ledger.close(f"measured, d = 256, r = {k}", e[0], 2 * k / (1 + k) ** 2, rel=0.08, digits=3, machine=True)
        for k, e in energies.items()
    ],
    ledger.less(
        "ReLU: φ(3u) − 3φ(u)",
        float((torch.relu(3 * relu_rows) - 3 * torch.relu(relu_rows)).abs().max()),
        1e-14,
        machine=True,
        method="float64",
    ),
    sym.numeric("GELU is not homogeneous: φ(2) − 2φ(1)", gelu(2) - 2 * gelu(1), sp.Float("0.2718105", 10), digits=6),
)

# %% [markdown]
# **Attention.** The softmax averages over tokens, and the sizes of $W_v$ and $W_o$ again come out as factors: with its weights $\sigma$,
# $z=x+\frac{\lambda_v\lambda_o}\alpha\,\sigma\,xU_vU_o$, and the gradients are $O(\lambda_o/\alpha)$ and $O(\lambda_v/\alpha)$. The post neglects the
# gradients of queries and keys (C3 will test it) and counts an average of tokens as large as one token. How true is that? With mean pairwise cosine
# $\rho$ the average of $n$ unit vectors has squared length
#
# $$m(\rho)=\frac{1+(n-1)\rho}n,$$
#
# which is $1/n$ for unrelated tokens and 1 for equal ones. The paper's lemma proves $m\le1$, an upper bound, and that is all an upper bound on the
# increment needs.

# %%
rho = sp.Symbol("rho", real=True)
gram = lambda n: sp.Matrix(n, n, lambda i, j: 1 if i == j else rho)
weights_of = lambda n: sp.ones(1, n) / n
value_output = lambda d: (
    sp.Matrix([sp.symbols(f"x1:{d + 1}")])
    * sp.Matrix(d, d, lambda i, j: sp.Symbol(f"wv{i}_{j}"))
    * sp.Matrix(d, d, lambda i, j: sp.Symbol(f"wo{i}_{j}"))
)
branch = lambda d: sp.expand(sum(y**2 for y in value_output(d)))
mix = torch.softmax(gaussian(5, 5), 1)
Wv, Wo = gaussian(6, 6), gaussian(6, 6)
attention_sum = lambda Wv, Wo: x1 + mix @ x1 @ Wv @ Wo / 3.0
attention_loss = lambda Wv, Wo: F.cross_entropy(F.layer_norm(attention_sum(Wv, Wo), (6,), eps=0.0), torch.arange(5))
gv, go = torch.func.grad(attention_loss, argnums=(0, 1))(Wv, Wo)
delta = torch.func.grad(lambda z: F.cross_entropy(F.layer_norm(z, (6,), eps=0.0), torch.arange(5)))(attention_sum(Wv, Wo))

# %%
nb.derivation(
    "D5",
    "Attention branch: G_v = (σx)ᵀδW_oᵀ/α = O(λ_o/α), G_o = (σxW_v)ᵀδ/α = O(λ_v/α); averaging n tokens of mean cosine ρ multiplies the energy by m = (1 + (n − 1)ρ)/n; W_v W_o by gain⁴.",
    sym.enumeration(
        "squared length of the average, n = 2..6",
        range(2, 7),
        lambda n: sp.expand((weights_of(n) * gram(n) * weights_of(n).T)[0]),
        lambda n: sp.expand((1 + (n - 1) * rho) / n),
    ),
    sym.enumeration(
        "E‖x W_v W_o‖² = gain⁴‖x‖², d = 1, 2, 3",
        (1, 2, 3),
        lambda d: gaussian_mean(branch(d)).subs(v, g_**2 / d).expand(),
        lambda d: sp.expand(g_**4 * sum(y**2 for y in sp.symbols(f"x1:{d + 1}"))),
    ),
    ledger.less("G_v against autograd", float((gv - (mix @ x1).T @ delta @ Wo.T / 3.0).abs().max() / gv.norm()), 1e-13, machine=True),
    ledger.less("G_o against autograd", float((go - (mix @ x1 @ Wv).T @ delta / 3.0).abs().max() / go.norm()), 1e-13, machine=True),
)

# %% [markdown]
# **LayerNorm.** Between a gradient at the output and one at layer $l$ lie many LayerNorms. With $\hat z=(z-\bar z)/\sigma_z$,
#
# $$\frac{\partial\operatorname{LN}}{\partial z}=\frac1{\sigma_z}\Bigl(I-\frac{\mathbf 1\mathbf 1^\top}d-\frac{\hat z^\top\hat z}d\Bigr),$$
#
# a projection divided by $\sigma_z$: it loses two directions and shrinks by $\sigma_z$. Why do $S$ of them not kill the gradient? Because a branch
# adds as much backward energy as forward energy. Take $z=x+F(x)/\alpha$ with forward energy $\sigma_z^2=1+c\lambda^4/\alpha^2$: the branch transports
# $1+c'\lambda^4/\alpha^2$ times the backward energy, with $c'=c$ for a ReLU branch with $d_{in}=d_{out}$. The factors cancel. Nor does the projection
# cost anything: the sublayer is homogeneous of degree 0 in $x$, so by Euler the gradient is already orthogonal to $x$. So far the post is right that
# Post-LN gradients are healthy.
#
# The sum of all branch weights squared, $S(\lambda^2/\alpha)^2$, says how far the whole network is from the identity at the start: $S^{-1/2}$ for the
# post's SGD constants, a quarter of it for the paper's, $S^{-2}$ and $S^{-1}$ for the two rules that follow. All tend to 0.


# %%
def layer_norm_jacobian(d):
    """The Jacobian of LN by definition, the formula, and the standard deviation: z a symbolic row of length d."""
    z = sp.Matrix([sp.symbols(f"z1:{d + 1}", real=True)])
    sigma = sp.sqrt(sum(y**2 for y in centred(z)) / d)
    z_hat = layer_norm_of(z)
    definition = sp.Matrix(d, d, lambda i, j: sp.Derivative(z_hat[i], z[j]))
    return z, sigma, definition, (sp.eye(d) - sp.ones(d, d) / d - z_hat.T * z_hat / d) / sigma


jacobians = {d: layer_norm_jacobian(d) for d in (3, 4)}
norm0 = lambda z: F.layer_norm(z, z.shape[-1:], eps=0.0)
(Wa, Wb), rows, back = xavier_branch(4), gaussian(32, 256), gaussian(32, 256)
_, pull = torch.func.vjp(lambda x: norm0(1.7 * x + torch.relu(x @ Wa) @ Wb), rows)
sublayer_gradient = pull(back)[0]
cosine_with_x = F.cosine_similarity(sublayer_gradient, rows, dim=-1).abs().max()
with_eps = lambda x, f, a, eps: F.layer_norm(a * x + f, x.shape[-1:], eps=eps)
branch_weight = lambda a, g: S * (g**2 / a) ** 2

# %%
z4, sigma4, _, formula4 = jacobians[4]
point4 = dict(zip(z4, (1, 2, 4, 9), strict=True))
power = lambda p: S ** sp.Rational(p)
nb.derivation(
    "D6",
    "∂LN/∂z = (I − 11ᵀ/d − ẑᵀẑ/d)/σ, of norm 1/σ; a ReLU branch has equal forward and backward energy; the gradient of a Post-LN sublayer is orthogonal to x.",
    *[sym.identity(f"Jacobian, d = {d}", definition, formula) for d, (_, _, definition, formula) in jacobians.items()],
    *[
        ledger.close(f"backward energy of the ReLU branch, r = {k}", e[1], 2 * k / (1 + k) ** 2, rel=0.08, digits=3, machine=True)
        for k, e in energies.items()
    ],
    ledger.less("Euler: cosine of gradient and x", float(cosine_with_x), 1e-12, machine=True, method="float64"),
    ledger.more("whose norm is not 0", float(sublayer_gradient.norm()), 1, machine=True),
    ledger.less(
        "LN(αx + F) with eps is LN(x + F/α) with eps/α²",
        float((with_eps(rows, back, 3.0, 0.5) - with_eps(rows, back / 3, 1.0, 0.5 / 9)).abs().max()),
        1e-12,
        machine=True,
        method="float64",
    ),
    sym.identity("Σ branch weights², post's SGD", sp.log(branch_weight(power("1/4"), power("-1/4"))), -sp.log(S) / 2),
    sym.identity("paper", sp.log(branch_weight(power("1/4"), (4 * S) ** sp.Rational(-1, 4)) * 4), -sp.log(S) / 2),
    sym.identity("Adam rule", sp.log(branch_weight(power("1/2"), power("-1/2"))), -2 * sp.log(S)),
    sym.identity("LAMB rule", sp.log(branch_weight(sp.Integer(1), power("-1/2"))), -sp.log(S)),
)


# %% tags=["hide-input"]
def spectral_norm_of_jacobian(z):
    return float(torch.linalg.matrix_norm(torch.func.jacrev(lambda y: F.layer_norm(y, y.shape, eps=0.0))(z), 2))


jacobian_rows = [gaussian(d, std=s) + 1 for d, s in ((4, 1.0), (16, 0.3), (64, 5.0))]
nb.claim(
    "C11",
    "The Jacobian of LayerNorm has operator norm √d/‖x − mean‖.",
    "verified",
    holds=[
        ledger.close(
            f"largest singular value of torch's Jacobian, d = {len(z)}",
            spectral_norm_of_jacobian(z),
            math.sqrt(len(z)) / float((z - z.mean()).norm()),
            rel=1e-10,
        )
        for z in jacobian_rows
    ],
)
# %% [markdown]
# ## The budgets
#
# Collect: every branch matrix has size $\propto\lambda$ and a gradient of size $\propto\lambda/\alpha$, and there are of the order of $S$ of them.
# The first-order change of the loss stays $O(\eta)$ when
#
# $$\text{SGD: }\ S\,(\lambda/\alpha)^2=1,\qquad\text{Adam: }\ S\,\lambda/\alpha=1,\qquad\text{LAMB: }\ S\,\lambda^2/\alpha=1 .$$
#
# One equation, two dials; a second condition is needed. Look at how fast a matrix moves relative to its size. For SGD a step is $\eta\lambda/\alpha$
# against $\lambda$, so the relative step is $\eta/\alpha$. With $\alpha=1$, $\lambda=S^{-1/2}$ ("alternative 1") it is as large as in a shallow
# network, and the small matrices soon leave their initialisation; with $\alpha=S^{1/2}$, $\lambda=1$ ("alternative 2") they hardly move. The post
# settles in the middle, $\alpha=1/\lambda$.
#
# | optimiser | budget | chosen $\alpha$ | chosen $\lambda$ | relative step |
# |---|---|---|---|---|
# | SGD | $\lambda/\alpha=S^{-1/2}$ | $S^{1/4}$ | $S^{-1/4}$ | $\eta/\alpha$ |
# | Adam | $\lambda/\alpha=S^{-1}$ | $S^{1/2}$ | $S^{-1/2}$ | $\eta\sqrt d/\lambda$ |
# | LAMB | $\lambda^2/\alpha=S^{-1}$ | $1$ | $S^{-1/2}$ | $\eta$, up to a constant |
#
# So the paper derives for SGD and trains with Adam: the post's correction. Note the last column: for Adam the relative step *grows* when $\lambda$
# shrinks. We come back to that. For any choice $\alpha=S^a$, $\lambda=S^{-b}$ the change of the loss scales as
#
# $$S^{1-2a-2b}\ (\text{SGD}),\qquad S^{1-a-b}\ (\text{Adam, Muon}),\qquad S^{1-a-2b}\ (\text{LAMB}),$$
#
# which gives a table of predicted exponents, to be measured in E1. The check lets the norms of D1 scale their arguments.

# %%
a, b = sp.symbols("a b", positive=True)
growth = {name: S * sp.simplify(term(lam * W, lam / alpha * G) / term(W, G)) for name, term in terms.items()}
log_S = lambda expression: sp.expand_log(sp.log(expression), force=True) / sp.log(S)
exponent = {name: log_S(total.subs({alpha: S**a, lam: S**-b})) for name, total in growth.items()}
quarter, half_power = S ** sp.Rational(1, 4), sp.sqrt(S)
W_xavier = {g: gaussian(64, 64, std=g / 8) for g in (0.2, 0.05)}
relative_sign_step = {g: 64 / float(w.norm()) for g, w in W_xavier.items()}  # the norm of a matrix of signs is 64
nuclear = lambda G: float((optim.msign(G) * G).sum())

# %%
nb.derivation(
    "D7",
    "Budgets: S(λ/α)² (SGD), Sλ/α (Adam), Sλ²/α (LAMB); with α = S^a, λ = S^−b the loss changes as S^(1−2a−2b), S^(1−a−b), S^(1−a−2b).",
    sym.identity("SGD exponent", exponent["SGD"], 1 - 2 * a - 2 * b),
    sym.identity("Adam exponent", exponent["Adam"], 1 - a - b),
    sym.identity("LAMB exponent", exponent["LAMB"], 1 - a - 2 * b),
    sym.solves("SGD, α = 1/λ", growth["SGD"].subs(lam, 1 / alpha) - 1, alpha, quarter),
    sym.solves("Adam, α = 1/λ", growth["Adam"].subs(lam, 1 / alpha) - 1, alpha, half_power),
    sym.solves("LAMB, α = 1", growth["LAMB"].subs(alpha, 1) - 1, lam, 1 / half_power),
    sym.solves("SGD, alternative 1: α = 1", growth["SGD"].subs(alpha, 1) - 1, lam, 1 / half_power),
    sym.solves("SGD, alternative 2: λ = 1", growth["SGD"].subs(lam, 1) - 1, alpha, half_power),
    ledger.close("Muon scales as Adam: nuclear norm of 3G over that of G", nuclear(3 * G0) / nuclear(G0), 3, rel=1e-9),
    *[
        ledger.close(f"Adam's relative step over √d/λ, d = 64, λ = {g}", step / (8 / g), 1, abs=0.03, digits=3, machine=True)
        for g, step in relative_sign_step.items()
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Plane of the exponent a of alpha and the exponent b of one over lambda. Three straight lines: the SGD budget a plus b equals one half, the Adam budget a plus b equals one, the LAMB budget a plus two b equals one. Points mark Post-LN at the origin, DeepNorm at one quarter, one quarter on the SGD line, the Adam rule at one half, one half, the LAMB rule at zero, one half on both the SGD and the LAMB line, and alternative 2 at one half, zero on the SGD line."}}
figure, axes = plt.subplots(figsize=(7.2, 4.2))
line = np.linspace(0, 1, 50)
axes.plot(line, 0.5 - line, color=BLUE, ls="-", label="SGD: a + b = 1/2")
axes.plot(line, 1 - line, color=GREEN, ls="-.", label="Adam and Muon: a + b = 1")
axes.plot(line, (1 - line) / 2, color=PURPLE, ls="--", label="LAMB: a + 2b = 1")
places = {
    "Post-LN": (0, 0),
    "DeepNorm": (0.25, 0.25),
    "Adam rule": (0.5, 0.5),
    "LAMB rule,\nalternative 1": (0, 0.5),
    "alternative 2": (0.5, 0),
}
for name, (at_a, at_b) in places.items():
    axes.plot(at_a, at_b, "o", color=BLACK, ms=7, zorder=3, clip_on=False)
    axes.annotate(name, (at_a, at_b), xytext=(9, 6), textcoords="offset points", fontsize=9.5)
axes.set(xlim=(0, 1.0), ylim=(0, 0.8), xlabel="a, with skip weight α = S^a", ylabel="b, with initial size λ = S^(−b)")
axes.set_title("On or above its line an optimiser's first step stays bounded at any depth")
axes.legend(loc="upper right")
nb.show(figure)

# %% [markdown]
# <div class="kx-play" data-play="deepnet" role="group" aria-label="Skip weight and initial size as dials: the budgets of three optimisers">
# <p><em class="kx-still">In the book on the web this is a figure to drag:</em> drag the point in the plane of the two exponents and see the
# first step of each optimiser at any depth. Try: from the origin (plain Post-LN) go to DeepNorm at (¼, ¼). SGD's line becomes flat, Adam's
# does not; and the tokens, of which a later section speaks, stay apart. <span class="kx-still">The figure above shows the plane.</span></p>
# </div>

# %% [markdown]
# ## The paper's theorem, and its table
#
# The paper argues on a scalar model in which a sublayer has just two numbers, $v$ and $w$:
#
# $$f(x)=\frac{\alpha+vw}{\sqrt{\alpha^2+v^2w^2}}\,x,\qquad\frac{\partial f}{\partial v}=\frac{\alpha w(\alpha-vw)}{(\alpha^2+v^2w^2)^{3/2}}\,x\approx\frac w\alpha\,x .$$
#
# It bounds the change of the output by $\|\Delta F\|\le\sum_{i=1}^{2N}\frac{\sqrt{v_i^2+w_i^2}}\alpha\|\Delta\theta_i\|$. Under SGD $\Delta\theta$ is
# itself of order $\sqrt{v^2+w^2}/\alpha$, hence the condition
#
# $$2N\,\frac{v^2+w^2}{\alpha^2}=1 .$$
#
# The choice $\alpha=(2N)^{1/4}$, $v=w=\beta=(8N)^{-1/4}$ satisfies it. Note where the factor 2 went: the paper's symmetry is $\sqrt2\,\beta=1/\alpha$
# (both matrices counted), the post's is $\lambda=1/\alpha$.

# %%
v_, w_, beta, xi = sp.symbols("v w beta xi", positive=True)
scalar = (alpha + v_ * w_) / sp.sqrt(alpha**2 + v_**2 * w_**2) * xi
three_halves = sp.Rational(3, 2)
encoder_only = sp.Sum((v_**2 + w_**2) / alpha**2, (sp.Symbol("i"), 1, 2 * N)).subs({v_: beta, w_: beta}).doit()
nb.derivation(
    "D8",
    "Scalar model: ∂f/∂v = αw(α − vw)/(α² + v²w²)^(3/2) x, and 2N(v² + w²)/α² = 1 at α = (2N)^(1/4), v = w = (8N)^(−1/4).",
    sym.identity("∂f/∂v", sp.Derivative(scalar, v_), alpha * w_ * (alpha - v_ * w_) / (alpha**2 + v_**2 * w_**2) ** three_halves * xi),
    sym.limit("it tends to (w/α) x for large α", sp.diff(scalar, v_) * alpha / (w_ * xi), alpha, sp.oo, 1),
    sym.limit("and ∂f/∂x to 1", sp.diff(scalar, xi), alpha, sp.oo, 1),
    sym.solves("β from the condition", encoder_only.subs(alpha, (2 * N) ** sp.Rational(1, 4)) - 1, beta, (8 * N) ** sp.Rational(-1, 4)),
    sym.solves("α from √2 β = 1/α", encoder_only.subs(beta, 1 / (sp.sqrt(2) * alpha)) - 1, alpha, (2 * N) ** sp.Rational(1, 4)),
)

# %% [markdown]
# **Encoder and decoder.** With $N$ encoder layers ($2N$ sublayers) and $M$ decoder layers ($3M$, one in three a cross-attention) the encoder's change
# reaches the output through $M$ cross-attentions, each with weight $v_dw_d/\alpha_d$:
#
# $$\|\Delta F\|\le\sum_{j=1}^M\frac{v_{d}w_{d}}{\alpha_d}\ \sum_{i=1}^{2N}\frac{\sqrt{v_e^2+w_e^2}}{\alpha_e}\|\Delta\theta_{ei}\|+\sum_{j=1}^{3M}\frac{\sqrt{v_d^2+w_d^2}}{\alpha_d}\|\Delta\theta_{dj}\| .$$
#
# The decoder's own term asks for $3M\cdot2\beta_d^2/\alpha_d^2=1$. Then $M\beta_d^2/\alpha_d=M^{1/4}/(2\cdot3^{3/4})$, and the encoder's term becomes
# $(N^4M/27)^{1/4}\,(v_e^2+w_e^2)/\alpha_e^2=1$. Splitting it symmetrically gives the odd-looking constants of the paper's table in closed form:
# $0.81=27^{-1/16}$ and $0.87=27^{1/16}/\sqrt2$.
#
# | architecture | encoder $\alpha$ | encoder $\beta$ | decoder $\alpha$ | decoder $\beta$ |
# |---|---|---|---|---|
# | encoder only | $(2N)^{1/4}$ | $(8N)^{-1/4}$ | | |
# | decoder only | | | $(2M)^{1/4}$ | $(8M)^{-1/4}$ |
# | both | $27^{-1/16}(N^4M)^{1/16}$ | $\frac{27^{1/16}}{\sqrt2}(N^4M)^{-1/16}$ | $(3M)^{1/4}$ | $(12M)^{-1/4}$ |

# %%
alpha_e, alpha_d, beta_e, beta_d = sp.symbols("alpha_e alpha_d beta_e beta_d", positive=True)
i_, j_ = sp.symbols("i j", integer=True, positive=True)
decoder_term = sp.Sum(2 * beta_d**2 / alpha_d**2, (j_, 1, 3 * M)).doit()
attenuation = sp.Sum(beta_d**2 / alpha_d, (j_, 1, M)).doit()
encoder_term = attenuation * sp.Sum(2 * beta_e**2 / alpha_e**2, (i_, 1, 2 * N)).doit()
table_d = {alpha_d: (3 * M) ** sp.Rational(1, 4), beta_d: (12 * M) ** sp.Rational(-1, 4)}
sixteenth = (N**4 * M / 27) ** sp.Rational(1, 16)
one_over = 1 / (sp.sqrt(2) * sixteenth)

# %%
nb.derivation(
    "D9",
    "Encoder-decoder: α_d = (3M)^(1/4), β_d = (12M)^(−1/4), α_e = 27^(−1/16)(N⁴M)^(1/16), β_e = 27^(1/16)/√2 (N⁴M)^(−1/16) meet both conditions exactly.",
    sym.solves("decoder: β_d", decoder_term.subs(alpha_d, table_d[alpha_d]) - 1, beta_d, table_d[beta_d]),
    sym.solves("decoder: α_d, with √2 β_d = 1/α_d", decoder_term.subs(beta_d, 1 / (sp.sqrt(2) * alpha_d)) - 1, alpha_d, table_d[alpha_d]),
    sym.identity("attenuation", sp.log(attenuation.subs(table_d)), sp.log(M) / 4 - sp.log(2) - sp.Rational(3, 4) * sp.log(3)),
    sym.solves(
        "encoder: α_e, with √2 β_e = 1/α_e", encoder_term.subs(table_d).subs(beta_e, 1 / (sp.sqrt(2) * alpha_e)) - 1, alpha_e, sixteenth
    ),
    sym.solves("encoder: β_e", encoder_term.subs({**table_d, alpha_e: sixteenth}) - 1, beta_e, one_over),
    ledger.close("α_e at N = M = 1, printed as 0.81", float(sixteenth.subs({N: 1, M: 1})), 0.81, abs=0.005, digits=5),
    ledger.close("β_e at N = M = 1, printed as 0.87", float(one_over.subs({N: 1, M: 1})), 0.87, abs=0.005, digits=5),
)

# %% tags=["hide-input"]
paper_beta = (8 * N) ** sp.Rational(-1, 4)
paper_alpha = (2 * N) ** sp.Rational(1, 4)
nb.claim(
    "C8",
    "The choice λ = 1/α = (2N)^(−1/4) is the one that DeepNet makes.",
    "refuted",
    fails=[
        sym.identity("log β of the paper, against log 1/α", sp.log(paper_beta), sp.log(1 / paper_alpha) - sp.log(2) / 2),
        ledger.close("post's λ over the paper's β at N = 1000", 2000**-0.25 / float(paper_beta.subs(N, 1000)), math.sqrt(2), rel=1e-12),
    ],
)
nb.claim(
    "C9",
    "DeepNet's ratio is λ/α = (4N)^(−1/2).",
    "verified",
    holds=[sym.identity("log of β/α", sp.log(paper_beta / paper_alpha), -sp.log(4 * N) / 2)],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The post's lambda, (2N) to the power minus one quarter, and the paper's beta, (8N) to the same power, against the number of layers from 6 to 1,000 on log axes: two parallel lines, the paper's lower by the factor root two at every depth."}}
figure, axes = plt.subplots(figsize=(7.2, 3.2))
depth_axis = np.array([6, 12, 25, 50, 100, 200, 500, 1000])
axes.plot(
    depth_axis,
    [float((1 / paper_alpha).subs(N, int(n))) for n in depth_axis],
    "s--",
    color=ORANGE,
    label="the post: λ = 1/α = $(2N)^{-1/4}$",
)
axes.plot(depth_axis, [float(paper_beta.subs(N, int(n))) for n in depth_axis], "o-", color=BLUE, label="the paper: β = $(8N)^{-1/4}$")
axes.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="scale of the branch (log axis)")
axes.set_xticks(depth_axis, [f"{n:,}" for n in depth_axis])
axes.set_yticks([0.1, 0.2, 0.3, 0.5], ["0.1", "0.2", "0.3", "0.5"])
axes.minorticks_off()
axes.legend()
axes.set_title("Same exponent, another constant: the paper's is smaller by √2")
nb.show(figure)

# %% [markdown]
# C8 is a matter of $\sqrt2$, and no exponent depends on it. It is entered because a reader who codes from the post gets other constants than one who
# codes from the paper.
#
# ### Where the scalar proof breaks
#
# The scalar model is too small for what it is to show. (i) At plain Post-LN, $\alpha=v=w=1$, it has $\partial f/\partial v=0$: it predicts *no*
# update at all, because in one dimension $x$ and $F(x)$ are parallel and the norm undoes every change. (ii) The proof takes each sublayer's factor
# $(\alpha+vw)/\sqrt{\alpha^2+v^2w^2}$ as 1, but there are $S$ of them: at DeepNorm's values their product is $\exp(S^{1/4}/2+o(1))$, a factor 28 at
# $N=1000$.
#
# In $d$ dimensions both faults vanish. $F(x)$ is nearly orthogonal to $x$, the norm is kept, and only the part of $\partial z/\partial v$ orthogonal
# to $z$ counts:
#
# $$\Bigl\|\frac{\partial f}{\partial(v,w)}\Bigr\|=\sqrt d\;\frac{\alpha\sqrt{v^2+w^2}}{\alpha^2+v^2w^2},$$
#
# which is $\sqrt{d/2}$ rather than 0 for plain Post-LN, and tends to $\sqrt d\,\sqrt{v^2+w^2}/\alpha$ for large $\alpha$. The conclusion stands; the
# proof needs high dimension. ([Why residuals](why-residuals.ipynb) returns to this point.)

# %%
q = sp.Symbol("q", positive=True)  # S^(-1/4)
factor = (scalar / xi).subs({v_: beta, w_: beta})
log_gain = sp.log(factor.subs({beta: q / sp.sqrt(2), alpha: 1 / q})) / q**4  # DeepNorm: alpha = 1/q, beta^2 = (4S)^(-1/2) = q^2/2
z_plane = sp.Matrix([alpha, v_ * w_])  # alpha x + F(x) in the plane of two orthogonal vectors of length sqrt(d)
f_plane = sp.sqrt(d_) * z_plane / sp.sqrt(z_plane.dot(z_plane))
squared = sum(sp.Derivative(f_plane[k], s) ** 2 for k in (0, 1) for s in (v_, w_))
exact_gain = 2000 * math.log((2000**0.25 + 8000**-0.5) / math.hypot(2000**0.25, 8000**-0.5))

# %%
nb.derivation(
    "D10",
    "The scalar model has ∂f/∂v = 0 at α = v = w = 1, and gain exp(S^(1/4)/2 + o(1)) over S sublayers; with F ⟂ x the gradient is √d α√(v² + w²)/(α² + v²w²).",
    sym.solves("∂f/∂v vanishes at v = 1 for α = w = 1", sp.diff(scalar, v_).subs({alpha: 1, w_: 1}), v_, sp.Integer(1)),
    sym.series("log of the gain in q = S^(−1/4)", log_gain, 1 / (2 * q) - q**2 / 4, q, order=3),
    ledger.close("gain of the scalar model at N = 1000", math.exp(exact_gain), 28.2, abs=0.1),
    sym.identity("squared norm in the plane", squared, d_ * alpha**2 * (v_**2 + w_**2) / (alpha**2 + v_**2 * w_**2) ** 2),
    sym.identity("plain Post-LN: d/2", sp.Subs(squared, (alpha, v_, w_), (1, 1, 1)), d_ / 2),
    sym.limit("large α: over √(v² + w²)/α, squared", squared.doit() * alpha**2 / (d_ * (v_**2 + w_**2)), alpha, sp.oo, 1),
)
# %% [markdown]
# ## The algorithm in plain torch
#
# A Post-LN network of any $\alpha$, short enough to read aloud. DeepNorm differs from plain Post-LN in two numbers only: the `alpha` of the loop, and
# the `gain` with which the branch matrices are drawn.


# %%
def attention(x, wq, wk, wv, wo, heads, causal):
    """Multi-head self-attention of x (..., n, d) with square matrices (d, d)."""
    split = lambda t: t.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (..., heads, n, d / heads)
    q, k, v = split(x @ wq), split(x @ wk), split(x @ wv)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2) @ wo


def post_norm(x, layers, alpha, heads=1, causal=True, eps=1e-5):
    """The hidden states (..., n, d) before the first and after every sublayer; layers: one tuple (wq, wk, wv, wo, w1, w2) for each layer."""
    norm = lambda z: (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + eps).sqrt()
    yield x
    for wq, wk, wv, wo, w1, w2 in layers:
        x = norm(alpha * x + attention(x, wq, wk, wv, wo, heads, causal))
        yield x
        x = norm(alpha * x + torch.relu(x @ w1) @ w2)
        yield x


# %%
def xavier_layers(depth, d, width, gain):
    """Matrices for post_norm: queries and keys with gain 1, the four branch matrices with ``gain``."""
    draw = lambda d_in, d_out, g: gaussian(d_in, d_out, std=g * math.sqrt(2 / (d_in + d_out)))
    square, ff = ((d, d, 1), (d, d, 1), (d, d, gain), (d, d, gain)), ((d, width, gain), (width, d, gain))
    return [tuple(draw(*shape) for shape in square + ff) for _ in range(depth)]


# %% [markdown]
# It is compared with PyTorch's own `TransformerEncoderLayer`. That has no $\alpha$, but needs none: since
# $\operatorname{LN}(\alpha x+F)=\operatorname{LN}(x+F/\alpha)$, dividing $W_o$ and $W_2$ by $\alpha$ gives the same function. This says more than it
# seems. **DeepNorm is plain Post-LN with a smaller initialisation** (by $\lambda$ in $W_v,W_1$ and by $\lambda/\alpha$ in $W_o,W_2$) **and other
# learning rates**: a step $-\eta D$ on $W_o$ is a step $-\eta D/\alpha$ on $\tilde W_o=W_o/\alpha$, whose gradient is $\alpha G$. For SGD the rate of
# $\tilde W_o,\tilde W_2$ is $\eta/\alpha^2$; for Adam it is $\eta/\alpha$. All five points in the plane above are Post-LN, with three numbers chosen
# differently. X2 trains both forms in float64, and they stay together.

# %%
depth, d, width, heads, alpha_test = 3, 16, 32, 2, 2.3
layers = xavier_layers(depth, d, width, 0.7)
tokens = norm0(gaussian(4, 10, d))


def torch_layer(weights, alpha):
    """PyTorch's post-norm layer with these matrices, the output ones divided by alpha."""
    wq, wk, wv, wo, w1, w2 = weights
    layer = torch.nn.TransformerEncoderLayer(
        d, heads, width, dropout=0.0, batch_first=True, bias=False, dtype=torch.float64, layer_norm_eps=1e-5 / alpha**2
    )
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([wq, wk, wv], 1).T)
        layer.self_attn.out_proj.weight.copy_(wo.T / alpha)
        layer.linear1.weight.copy_(w1.T)
        layer.linear2.weight.copy_(w2.T / alpha)
    return layer


modules = torch.nn.Sequential(*[torch_layer(weights, alpha_test) for weights in layers])
mask = torch.nn.Transformer.generate_square_subsequent_mask(10, dtype=torch.float64)
ours, theirs = list(post_norm(tokens, layers, alpha_test, heads))[-1], tokens
for module in modules:
    theirs = module(theirs, src_mask=mask, is_causal=True)
entry_gap = lambda a, b: float((a - b).detach().abs().max())

# %%
readout, labels = gaussian(d, 7), torch.arange(40) % 7


def train_form(optimizer, folded, rate, power, steps=4):
    """Losses of a few steps: alpha in the loop, or folded into wo and w2, whose rate is then divided by alpha**power."""
    shrink = alpha_test if folded else 1.0
    divisors = (1.0, 1.0, 1.0, shrink, 1.0, shrink)  # wq, wk, wv, wo, w1, w2
    network = [[(w / by).requires_grad_() for w, by in zip(weights, divisors, strict=True)] for weights in layers]
    groups = [{"params": [w], "lr": rate / by**power} for weights in network for w, by in zip(weights, divisors, strict=True)]
    step, losses = optimizer(groups), []
    for _ in range(steps):
        states = post_norm(tokens, network, 1.0 if folded else alpha_test, heads, eps=1e-5 / shrink**2)
        loss = F.cross_entropy((list(states)[-1] @ readout).flatten(0, 1), labels)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    return losses


sgd, adam = torch.optim.SGD, lambda groups: torch.optim.Adam(groups, eps=1e-30)
forms = {
    name: [train_form(opt, folded, rate, power) for folded in (False, True)]
    for name, opt, rate, power in (("SGD", sgd, 0.3, 2), ("Adam", adam, 0.01, 1))
}

# %%
nb.claim(
    "X2",
    "DeepNorm is Post-LN with W_o and W_2 divided by α at the start, and rates η/α² (SGD) or η/α (Adam) for these two matrices.",
    "verified",
    holds=[
        ledger.less(
            "three layers against torch's TransformerEncoderLayer with W_o/α, W_2/α",
            entry_gap(ours, theirs),
            1e-12,
            machine=True,
            method="float64",
        ),
        *[
            ledger.less(
                f"{name}: largest difference of the losses of four steps",
                max(abs(p - f) for p, f in zip(*pair, strict=True)),
                1e-10,
                machine=True,
                method="float64",
            )
            for name, pair in forms.items()
        ],
        *[ledger.more(f"{name}: the losses do move", pair[0][0] - pair[0][-1], 0.01) for name, pair in forms.items()],
    ],
)

# %% [markdown]
# ## What happens before the first step
#
# So far everything was about the *change*. The following is not in the post, nor in the paper: at a depth of twenty to thirty layers plain Post-LN is
# lost before any step is taken.
#
# Attention averages, and averaging makes tokens alike. Let $\rho$ be the cosine of two tokens, and let each of the $n$ tokens attend to all with
# equal weight, so that every token receives the same vector, of energy $m(\rho)$ (D5). The branch is nearly orthogonal to the skip, so energies and
# inner products add:
#
# $$\rho\ \leftarrow\ \frac{\alpha^2\rho+\lambda^4m}{\alpha^2+\lambda^4m},\qquad1-\rho\ \leftarrow\ \frac{\alpha^2}{\alpha^2+\lambda^4m}\,(1-\rho).$$
#
# A feed-forward sublayer keeps what ReLU keeps of a cosine {cite}`cho2009kernel`,
# $\kappa(\rho)=\frac1\pi\bigl[\sqrt{1-\rho^2}+(\pi-\arccos\rho)\rho\bigr]$:
#
# $$\rho\ \leftarrow\ \frac{\alpha^2\rho+c_F\lambda^4\kappa(\rho)}{\alpha^2+c_F\lambda^4},\qquad\kappa(1-e)=1-e+\frac{2\sqrt2}{3\pi}e^{3/2}+\cdots,$$
#
# to leading order nothing: the $e^{3/2}$ is a slow collapse of its own, $1-\rho\sim(2/kN)^2$ with
# $k=\frac{c_F}{1+c_F}\cdot\frac{2\sqrt2}{3\pi}$, polynomial where that of attention is exponential. For plain Post-LN $m\to1$, and each layer **halves** the difference between tokens: $1-\rho\sim2^{-N}$. Two tokens differ
# by $\sqrt{2(1-\rho)}$ of their length: a hundredth after 17 layers, and less than float32 resolves after 50. All positions then carry one vector,
# and the network can learn which characters are frequent and nothing else. For DeepNorm, where $m\le1$, the product of all the factors is at least
# $\exp\bigl(-1/(8\sqrt{2N})\bigr)$: the tokens stay as they were. (That attention loses rank with depth is known {cite}`dong2021attention`, and its
# effect on Post-LN and Pre-LN gradients too {cite}`noci2022signal`; the post predates the second.)
#
# For real attention the averaging has a causal mask. The same argument then runs over the matrix $K$ of all inner products (no longer a count), with the rows of weights
# in a matrix $A$: $K\leftarrow\alpha^2K+\lambda^4AKA^\top$ and $K\leftarrow\alpha^2K+c_F\lambda^4\kappa(K)$, scaled to a unit diagonal after each
# (for Pre-LN: not scaled). That is the function below. It needs no fit.
#
# "Plain Post-LN" means Xavier-initialised throughout. The objection is at hand: BERT-large is Post-LN with 24 layers, unscaled, and trains. But its
# matrices are drawn with standard deviation 0.02, for $W_v,W_o$ with $d=1024$ a gain of 0.64, so that attention weighs $0.64^4=0.17$. In the recursion
# its tokens still differ by 25% after 24 layers, against 0.1% with Xavier's sizes (X9): its initialisation is small where it matters.


# %%
def relu_kernel(rho):
    """E relu(u) relu(v) over E relu(u)^2 for standard normals u, v with correlation rho."""
    return ((1 - rho**2).sqrt() + (math.pi - rho.acos()) * rho) / math.pi


def correlation(K):
    """A Gram matrix (..., n, n) with its diagonal scaled to 1."""
    size = K.diagonal(dim1=-2, dim2=-1).sqrt()
    return (K / (size[..., None] * size[..., None, :])).clamp(-1, 1)


def mean_field(K, averaging, alpha, gain, depth, r, pre=False):
    """Token correlations (..., n, n) after the embedding, K, and after each sublayer, Post-LN or Pre-LN, for attention weights (n, n)."""
    c = 2 * r / (1 + r) ** 2
    yield K
    for _ in range(depth):
        for branch in (lambda C: averaging @ C @ averaging.mT, lambda C: c * relu_kernel(C)):
            K = alpha**2 * K + gain**4 * branch(correlation(K))
            K = K if pre else correlation(K)
            yield correlation(K)


# %%
R, theta, phi = sp.symbols("R theta phi", positive=True)
radial = sp.Integral(R**3 * sp.exp(-(R**2) / 2), (R, 0, sp.oo)) / (2 * sp.pi)
angular = sp.Integral(sp.cos(theta) * sp.cos(theta - phi), (theta, phi - sp.pi / 2, sp.pi / 2))  # both cosines positive
kernel = (sp.sin(phi) + (sp.pi - phi) * sp.cos(phi)) / sp.pi  # rho = cos phi
e_, m_ = sp.symbols("e m", positive=True)
attended = (alpha**2 * (1 - e_) + lam**4 * m_) / (alpha**2 + lam**4 * m_)
plain = attended.subs({alpha: 1, lam: 1, m_: ((1 + (N - 1) * (1 - e_)) / N)})
deepnorm_loss = N * sp.log(1 + lam**4 / alpha**2).subs({lam: paper_beta, alpha: paper_alpha})


# %%
def scalar_recursion(rho, n, alpha, lam, depth, r):
    """rho of Post-LN with uniform attention to all n tokens, after each sublayer, in plain floats: the two formulas of the text."""
    c_F = 2 * r / (1 + r) ** 2
    for _ in range(depth):
        m = (1 + (n - 1) * rho) / n
        rho = (alpha**2 * rho + lam**4 * m) / (alpha**2 + lam**4 * m)
        yield rho
        kappa = (math.sqrt(1 - rho**2) + (math.pi - math.acos(rho)) * rho) / math.pi
        rho = (alpha**2 * rho + c_F * lam**4 * kappa) / (alpha**2 + c_F * lam**4)
        yield rho


def gap_after(depth, attention, feed_forward, n, r):
    """1 - rho after ``depth`` layers with alpha = 1 and lambda**4 = attention for W_v, W_o, feed_forward for W_1, W_2; unrelated tokens at first."""
    rho, c = 0.0, 2 * r / (1 + r) ** 2 * feed_forward
    for _ in range(depth):
        averaged = attention * (1 + (n - 1) * rho) / n
        rho = (rho + averaged) / (1 + averaged)
        rho = (rho + c / math.pi * (math.sqrt(1 - rho**2) + (math.pi - math.acos(rho)) * rho)) / (1 + c)
    return 1 - rho


# %%
def mean_cosine(x):
    """Mean cosine of two different tokens of each sequence (..., n, d), pair by pair."""
    cosines = F.cosine_similarity(x.unsqueeze(-2), x.unsqueeze(-3), dim=-1)
    n = x.shape[-2]
    return (cosines.sum((-2, -1)) - n) / (n * (n - 1))


def measured_cosines(draws, d=256, n=32, depth=12, r=4):
    """Mean token cosine of plain Post-LN after each sublayer with uniform attention to all tokens (wq = 0): mean over draws."""
    rows = []
    for _ in range(draws):
        network = [(0 * w[0], *w[1:]) for w in xavier_layers(depth, d, r * d, 1.0)]
        rows.append(torch.stack([mean_cosine(x).mean() for x in post_norm(norm0(gaussian(4, n, d)), network, 1.0, causal=False)]))
    return torch.stack(rows).mean(0)


# %%
uniform = torch.full((32, 32), 1 / 32, dtype=torch.float64)
start = torch.eye(32, dtype=torch.float64)
off_diagonal = lambda K: float((K.sum() - len(K)) / (len(K) * (len(K) - 1)))
theory_plain = [off_diagonal(K) for K in mean_field(start, uniform, 1.0, 1.0, 12, 4)]
recursion_error = {
    (a_, l_): entry_gap(
        torch.tensor(list(scalar_recursion(0.0, 32, a_, l_, 12, 4)), dtype=torch.float64),
        torch.tensor([off_diagonal(t) for t in mean_field(start, uniform, a_, l_, 12, 4)][1:], dtype=torch.float64),
    )
    for a_, l_ in ((1.0, 1.0), (1.3, 0.7))
}
measured_plain = measured_cosines(3)

# %% tags=["hide-input"]
nb.derivation(
    "D11",
    "Uniform attention multiplies 1 − ρ by α²/(α² + λ⁴m), ½ a layer for plain Post-LN near ρ = 1; ReLU takes a part of order (1 − ρ)^(3/2) only; DeepNorm loses exp(−1/(8√(2N))) in all.",
    sym.identity("the kernel of ReLU, in polar coordinates, over E relu² = ½", radial * angular * 2, kernel),
    sym.series(
        "κ(1 − e), with e = 1 − cos φ",
        kernel,
        1 - (1 - sp.cos(phi)) + 2 * sp.sqrt(2) / (3 * sp.pi) * (phi**2 / 2) ** three_halves,
        phi,
        order=4,
    ),
    ledger.close(
        "relu_kernel at cos 1",
        float(relu_kernel(torch.tensor(math.cos(1.0), dtype=torch.float64))),
        float(kernel.subs(phi, 1.0)),
        rel=1e-12,
    ),
    sym.identity("attention: factor of 1 − ρ", (1 - attended) / e_, alpha**2 / (alpha**2 + lam**4 * m_)),
    sym.limit("plain Post-LN at ρ → 1: one half", (1 - plain) / e_, e_, 0, sp.Rational(1, 2)),
    sym.limit("DeepNorm: −log of the product, times 8√(2N)", deepnorm_loss * 8 * sp.sqrt(2 * N), N, sp.oo, 1),
    *[
        ledger.less(f"matrix recursion against the two formulas, 12 layers, α, λ = {pair}", error, 1e-12, machine=True, method="float64")
        for pair, error in recursion_error.items()
    ],
    *[
        ledger.close(
            f"measured ρ, sublayer {t}",
            float(measured_plain[t]),
            theory_plain[t],
            abs=0.04,
            digits=3,
            machine=True,
            scope="d = 256, n = 32, 3 draws",
        )
        for t in (2, 4, 8, 12, 16)
    ],
    ledger.close(
        "log₂ of 1 − ρ after 12 layers, measured",
        math.log2(1 - float(measured_plain[24])),
        math.log2(1 - theory_plain[24]),
        abs=0.7,
        digits=3,
        machine=True,
        scope="d = 256, n = 32, 3 draws",
    ),
)

# %% tags=["hide-input"]
bert = (0.02 / math.sqrt(2 / 2048)) ** 4, (0.02 / math.sqrt(2 / 5120)) ** 4  # gains to the fourth: d = 1024, width 4096
relu_rate = (4 / 9) / (1 + 4 / 9) * 2 * math.sqrt(2) / (3 * math.pi)  # r = 2
nb.claim(
    "X9",
    "Where attention is small the tokens still collapse, through ReLU alone and like N^(−2); and attention is small in an initialisation like BERT-large's.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"this recursion over the one above, {layers_} layers", gap_after(layers_, 1.0, 1.0, 32, 4) / (1 - rho_), 1, rel=1e-6
            )
            for layers_, rho_ in (
                (3, list(scalar_recursion(0.0, 32, 1.0, 1.0, 3, 4))[-1]),
                (9, list(scalar_recursion(0.0, 32, 1.0, 1.0, 9, 4))[-1]),
            )
        ],
        ledger.close(
            "ReLU alone, r = 2: (1 − ρ)(kN/2)² at N = 20,000",
            gap_after(20000, 0.0, 1.0, 32, 2) * (relu_rate * 1e4) ** 2,
            1,
            abs=0.01,
            digits=3,
        ),
        ledger.close("W_v, W_o at S^(−1/2), r = 2 (E4b): 1 − ρ at N = 64", gap_after(64, 128.0**-2, 1.0, 64, 2), 0.06, abs=0.001, digits=2),
        ledger.close("and at N = 1000", gap_after(1000, 2000.0**-2, 1.0, 64, 2), 4.4e-4, rel=0.02, digits=2),
        ledger.close("gain of W_v, W_o with standard deviation 0.02, d = 1024", bert[0] ** 0.25, 0.64, abs=1e-9, digits=3),
        ledger.close(
            "its difference of two tokens after 24 layers, n = 512", math.sqrt(2 * gap_after(24, *bert, 512, 4)), 0.25, abs=0.005, digits=2
        ),
        ledger.close("with Xavier's sizes", math.sqrt(2 * gap_after(24, 1.0, 1.0, 512, 4)), 1.1e-3, rel=0.02, digits=2),
    ],
)

# %% [markdown]
# **The causal mask slows the collapse.** Write $D_j$ for the difference of token $j$ to the first token, which sees only itself. In a causal average
# $\bar D_j=\frac1j\sum_{i\le j}D_i$, so the matrix of averages is triangular with $\frac1j$ on its diagonal, and one attention sublayer maps the
# covariance $C$ of the differences to $\frac12(C+ACA^\top)$. Its eigenvalues are $\frac12(1+\frac1{ij})$ for $i,j\ge2$: the slowest is $\frac58$ a
# layer instead of $\frac12$. A decoder of 32 tokens needs 80 layers, not 50, before float32 no longer resolves the difference. It gets there all the
# same, and long before that the difference is too small to be learned from: at the depths of the experiments, 24 and 50, it is 2% and $10^{-4}$.

# %%
causal = torch.ones(32, 32, dtype=torch.float64).tril()
causal = causal / causal.sum(1, keepdim=True)
collapse = {
    name: [float((1 - K).sum()) / (32 * 31) for K in mean_field(start, averaging, 1.0, 1.0, 85, 2)][::2]  # after each layer
    for name, averaging in (("all", uniform), ("causal", causal))
}
layers_to_float32 = {name: next(l for l, gap in enumerate(gaps) if math.sqrt(2 * gap) < 2**-23) for name, gaps in collapse.items()}


def covariance_map(n):
    """The map C -> (C + A C A^T)/2 as a matrix, for the tokens 2..n of a causal average."""
    A = sp.Matrix(n - 1, n - 1, lambda i, j: sp.Rational(1, i + 2) if j <= i else 0)
    size = (n - 1) ** 2
    return (sp.eye(size) + sp.kronecker_product(A, A)) / 2


# %% tags=["hide-input"]
nb.claim(
    "X3",
    "With a causal mask 1 − ρ of plain Post-LN falls by 5/8 a layer in the end, not 1/2; float32 no longer resolves the difference of 32 tokens after 50 layers without the mask, 80 with it.",
    "verified",
    holds=[
        sym.enumeration(
            "largest eigenvalue and their sum, n = 2..4 tokens",
            (2, 3, 4),
            lambda n: (max(covariance_map(n).eigenvals()), covariance_map(n).trace()),
            lambda n: (sp.Rational(5, 8), sum((1 + sp.Rational(1, i * j)) / 2 for i in range(2, n + 1) for j in range(2, n + 1))),
        ),
        ledger.close(
            "decay in layers 55 to 60 of the full recursion, a layer",
            (collapse["causal"][60] / collapse["causal"][55]) ** 0.2,
            5 / 8,
            abs=0.03,
            digits=3,
            scope="float64",
        ),
        ledger.close(
            "without the mask, layers 20 to 25",
            (collapse["all"][25] / collapse["all"][20]) ** 0.2,
            0.5,
            abs=0.01,
            digits=3,
            scope="float64",
        ),
        ledger.close("layers until √(2(1 − ρ)) < 2⁻²³, without the mask", layers_to_float32["all"], 50, abs=1, digits=2),
        ledger.close("and with it", layers_to_float32["causal"], 80, abs=1, digits=2),
        ledger.close(
            "layers until it is 1%, without the mask",
            next(l for l, gap in enumerate(collapse["all"]) if math.sqrt(2 * gap) < 0.01),
            17,
            abs=0.5,
            digits=2,
        ),
        ledger.close(
            "difference √(2(1 − ρ)) after 24 layers, with the mask", math.sqrt(2 * collapse["causal"][24]), 0.02, rel=0.1, digits=2
        ),
        ledger.close("after 50 layers", math.sqrt(2 * collapse["causal"][50]), 1e-4, rel=0.1, digits=2),
    ],
)

# %% [markdown]
# ## Pre-LN
#
# For $x+F(\operatorname{LN}(x))$ the post says: the same with $\alpha=1$, and compute $\lambda$ again. The budget would ask for $\lambda=S^{-1/2}$.
# But Pre-LN rescales itself. Its branches see normalised inputs, so the stream grows, $\|x_t\|^2\propto1+c\lambda^4t$, and a later branch, small
# against the stream, matters less: the backward energy at sublayer $t$ is proportional to $1/(1+c\lambda^4t)$ ([shown here](prenorm-postnorm.ipynb)). Each
# squared gradient is $\lambda^2$ times that:
#
# $$\sum_t\|G_t\|^2\ \propto\ \int_0^S\frac{\lambda^2\,dt}{1+c\lambda^4t}=\frac{\ln(1+c\lambda^4S)}{c\lambda^2} .$$
#
# At $\lambda=1$ this is already as small as $O(\log S)$: no rescaling is needed, which is Admin's explanation of why Pre-LN trains. And it is *not
# monotone* in $\lambda$. With $u=c\lambda^4S$ it is largest where $\ln(1+u)=2u/(1+u)$, at $u=3.92$. A mild shrinking of the initialisation makes the
# first steps of a deep Pre-LN network *larger*; only $\lambda=S^{-1/2}$ brings them to $O(1)$. The check differentiates the law, and measures it on a
# Pre-LN network without attention, token by token.

# %%
c_, t_, u_ = sp.symbols("c t u", positive=True)
pre_law = sp.log(1 + c_ * lam**4 * S) / (c_ * lam**2)
peak = mpmath.findroot(lambda u: mpmath.log(1 + u) - 2 * u / (1 + u), 4)
in_u = (sp.log(1 + u_) / sp.sqrt(u_)) * sp.sqrt(S / c_)  # the law with lam^2 = sqrt(u/(c S))


def token_gradients(gain, sublayers=64, d=128, rows=48):
    """Sum over ReLU sublayers (r = 1) of a Pre-LN network of |dL/dW2|^2 for single tokens, L a random linear function of the last norm."""
    x, mats = norm0(gaussian(rows, d)), [[w * gain for w in xavier_branch(1, d)] for _ in range(sublayers)]
    streams, hiddens = [], []
    for A, B in mats:
        hidden = torch.relu(norm0(x) @ A)
        x = (x + hidden @ B).requires_grad_()
        streams.append(x)
        hiddens.append(hidden.detach())
    deltas = torch.autograd.grad((norm0(x) * gaussian(rows, d)).sum(), streams)
    return float(sum((h.square().sum(1) * g.square().sum(1)).mean() for h, g in zip(hiddens, deltas, strict=True))), float(
        x.detach().square().mean()
    )


gains = {p: 64.0**p for p in (0, -1 / 8, -1 / 4, -1 / 2)}
token_sums = {p: np.mean([token_gradients(g) for _ in range(3)], axis=0) for p, g in gains.items()}
law_at = lambda gain, sublayers=64, c=0.5: math.log(1 + c * gain**4 * sublayers) / (c * gain**2)

# %% tags=["hide-input"]
saved = rng.get_state()
quick = token_gradients(0.7, sublayers=3, d=6, rows=2)[0]
rng.set_state(saved)  # the same draws once more, and autograd for every W2
stream, pairs = gaussian(2, 6), [[(w * 0.7).requires_grad_() for w in xavier_branch(1, 6)] for _ in range(3)]
stream = norm0(stream)
for A, B in pairs:
    stream = stream + torch.relu(norm0(stream) @ A) @ B
token_losses = (norm0(stream) * gaussian(2, 6)).sum(1)
explicit = [torch.autograd.grad(token_loss, [B for _, B in pairs], retain_graph=True) for token_loss in token_losses]
rng.set_state(saved)
explicit = sum(float(g.square().sum()) for grads in explicit for g in grads) / 2

# %% tags=["hide-input"]
nb.derivation(
    "D12",
    "Pre-LN: Σ‖G‖² ∝ ln(1 + cλ⁴S)/(cλ²), which is O(log S) at λ = 1, largest at cλ⁴S = 3.92, and O(1) at λ = S^(−1/2).",
    sym.identity("the integral", sp.Integral(lam**2 / (1 + c_ * lam**4 * t_), (t_, 0, S)), pre_law),
    sym.identity(
        "its derivative in u vanishes where ln(1 + u) = 2u/(1 + u)",
        sp.Derivative(in_u, u_),
        sp.sqrt(S / c_) * (2 * u_ / (1 + u_) - sp.log(1 + u_)) / (2 * u_**three_halves),
    ),
    sym.identity("the law in u", sp.Subs(pre_law, lam, (u_ / (c_ * S)) ** sp.Rational(1, 4)), in_u),
    ledger.close("root of that equation", float(peak), 3.92, abs=0.005),
    sym.limit("λ = 1: over log S", pre_law.subs(lam, 1) * c_ / sp.log(S), S, sp.oo, 1),
    sym.limit("λ = S^(−1/2)", pre_law.subs(lam, 1 / sp.sqrt(S)), S, sp.oo, 1),
    ledger.close("Σ‖G‖² of single tokens by its formula over autograd, 3 sublayers", quick / explicit, 1, rel=1e-9),
    ledger.close("energy of the stream after 64 sublayers, r = 1, λ = 1", token_sums[0][1], 1 + 64 / 2, rel=0.1, digits=3, machine=True),
    *[
        ledger.close(
            f"Σ‖G‖² at λ = S^{p:g} over that at λ = 1: measured over law",
            float(token_sums[p][0] / token_sums[0][0]) / (law_at(gains[p]) / law_at(1.0)),
            1,
            abs=0.2,
            digits=3,
            machine=True,
            scope="S = 64, d = 128",
        )
        for p in gains
        if p
    ],
)
# %% [markdown]
# ## The experiments
#
# E1 to E3 measure networks at initialisation, E4 and E5 train them; E4b separates the two causes of failure, increments and equal tokens; E6 follows
# the first steps.
#
# All decoders below read characters of Shakespeare. ReLU, no biases, a LayerNorm without parameters after the embedding and in every sublayer,
# Xavier-normal matrices. The shared model holds the weights of all layers of all runs in one tensor for each role, so that schemes, learning rates
# and seeds train side by side. `scheme` is the whole difference between the arms:

# %%
print(f"{len(corpus):,} characters, {len(alphabet)} distinct; unigram entropy {unigram:.3f}, bigram entropy {bigram:.3f} nats")


def scheme(name, N):
    """alpha (on the skip) and lambda (gain of v, o, W1, W2) for N layers, that is S = 2N sublayers; 'Pre-LN b' has lambda = S^b."""
    S = 2 * N
    if name.startswith("Pre-LN"):
        return 1.0, S ** float(name.removeprefix("Pre-LN") or 0)
    return {
        "Post-LN": (1.0, 1.0),
        "DeepNorm": (S**0.25, (4 * S) ** -0.25),
        "Adam rule": (S**0.5, S**-0.5),
        "LAMB rule": (1.0, S**-0.5),
        "alternative 2": (S**0.5, 1.0),
    }[name]


# %%
def decoder(names, seeds, N, shape):
    """A stack of decoders with N layers, a run for each name and seed; names are all Post-LN schemes or all Pre-LN."""
    pairs = torch.tensor([scheme(name, N) for name in names]).repeat_interleave(len(seeds), 0)
    return nn.Transformer(
        nn.Init(list(seeds) * len(names)),
        vocabulary=len(alphabet),
        depth=N,
        placement="pre" if names[0].startswith("Pre-LN") else "post",
        skip=pairs[:, 0],
        gain=pairs[:, 1],
        norm="layer",
        affine=False,
        activation="relu",
        spread="xavier",
        embedding_norm=True,
        position_std=0.5,
        **shape,
    )


# %%
def text_batches(device, seeds, arms, batch, context):
    """A function that draws the next (x, y), each (arms * seeds, batch, context): all arms read the same text."""
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]

    def draw(step):
        drawn = [data.windows(corpus, batch, context, g) for g in generators]
        return tuple(torch.stack(t).repeat(arms, 1, 1).to(device) for t in zip(*drawn, strict=True))

    return draw


# %% [markdown]
# Before it is used it is checked: the stacked model against the twenty lines above, the sizes of its matrices, and the five schemes against the
# budgets that they claim to meet.

# %% tags=["hide-input"]
cpu = torch.device("cpu")
post_schemes = ["Post-LN", "DeepNorm", "Adam rule", "LAMB rule", "alternative 2"]
pre_schemes = ["Pre-LN", "Pre-LN -0.125", "Pre-LN -0.25", "Pre-LN -0.375", "Pre-LN -0.5"]
small = {"d": 32, "heads": 2, "width": 64, "context": 32}
stack = decoder(post_schemes, [3, 4], 6, small)
text_x, text_y = text_batches(cpu, [3, 4], 5, 4, 32)(0)


def unstacked(model, run):
    """The last hidden state of one run of a post-norm stack by post_norm in float64, its name and its matrices."""
    name = post_schemes[run // 2]
    matrices = [getattr(model, role)[run].detach().double() for role in ("wq", "wk", "wv", "wo", "w1", "w2")]
    x = model.tokens.weight[run].double()[text_x[run]] + model.positions.weight[run].double()
    return list(post_norm(norm0(x), list(zip(*matrices, strict=True)), scheme(name, 6)[0], 2))[-1].detach()


with torch.no_grad():
    last_states = list(stack.states(text_x))[-1]
model_error = entry_gap(torch.stack([unstacked(stack, run) for run in range(10)]), last_states)
xavier_std = {"wq": 1 / 32**0.5, "wk": 1 / 32**0.5, "wv": 1 / 32**0.5, "wo": 1 / 32**0.5, "w1": (2 / 96) ** 0.5, "w2": (2 / 96) ** 0.5}
size_ratios = [
    float(getattr(stack, role)[2 * i].detach().std()) / (std * (1 if role in ("wq", "wk") else scheme(name, 6)[1]))
    for i, name in enumerate(post_schemes)
    for role, std in xavier_std.items()
]
budget_of = {  # each scheme: the quantities that must be 1 at every depth
    "DeepNorm": lambda S, a, g: (S * 2 * g**2 / a**2, math.sqrt(2) * g * a),
    "Adam rule": lambda S, a, g: (S * g / a, g * a),
    "LAMB rule": lambda S, a, g: (S * g**2 / a, a),
    "alternative 2": lambda S, a, g: (S * g**2 / a**2, g),
    "Post-LN": lambda S, a, g: (a, g),
    "Pre-LN": lambda S, a, g: (a, g),
    "Pre-LN -0.25": lambda S, a, g: (a, S * g**4),
    "Pre-LN -0.5": lambda S, a, g: (a, S * g**2),
}
budgets = [value for name, ones in budget_of.items() for n in (6, 50, 1000) for value in ones(2 * n, *scheme(name, n))]
nb.claim(
    "X4",
    "The stacked model is the network of the text: same states, Xavier sizes times λ for v, o, W1, W2 only, each scheme on its budget, one text for all arms.",
    "verified",
    holds=[
        ledger.close("control: the largest gap of (1, 1) and (1, 3)", entry_gap(torch.ones(2), torch.tensor([1.0, 3.0])), 2, rel=1e-9),
        ledger.less("largest difference of the last states of ten runs to post_norm", model_error, 2e-4, machine=True, scope="float32"),
        ledger.close(
            "smallest ratio of a matrix's standard deviation to gain × Xavier", min(size_ratios), 1, abs=0.04, digits=3, machine=True
        ),
        ledger.close("and the largest", max(size_ratios), 1, abs=0.04, digits=3, machine=True),
        ledger.less(
            "largest deviation from 1 of the budgets of the schemes, N = 6, 50, 1000", max(abs(x - 1) for x in budgets), 1e-12, machine=True
        ),
        ledger.close(
            "share of targets that are the next character", float((text_y[:, :, :-1] == text_x[:, :, 1:]).float().mean()), 1, abs=1e-9
        ),
        ledger.less(
            "share of characters that two seeds share", float((text_x[0] == text_x[1]).float().mean()), 0.3, digits=2, machine=True
        ),
        ledger.close(
            "share of characters that all arms share", float((text_x.view(5, 2, 4, 32) == text_x[:2]).float().mean()), 1, abs=1e-9
        ),
    ],
)

# %% [markdown]
# ## E1: the exponents
#
# **Question.** Do the fifteen exponents of D7 hold on a real Transformer? **Set-up.** Width 32, two heads, 8 sequences of 32 characters; the
# first-order terms summed over the four branch matrices of all layers, at initialisation, no training. Each point is the geometric mean over seeds.
# **Expected.** Straight lines in the log-log plane with the predicted slopes; for plain Post-LN, whose tokens collapse, less clean ones.


# %%
def first_step(device, *, schemes, depths, seeds, shape, batch):
    """The four first-order terms summed over v, o, W1, W2, and the squared gradient of q and k: (schemes, seeds) each, for each depth."""
    x, y = text_batches(device, seeds, len(schemes), batch, shape["context"])(0)
    result = {}
    for N in depths:
        model = decoder(schemes, seeds, N, shape).to(device)
        nn.cross_entropy_per_run(model(x), y).sum().backward()
        terms = [first_order(W.detach(), W.grad) for W in (model.wv, model.wo, model.w1, model.w2)]
        row = {name: sum(term[name].sum(1) for term in terms) for name in terms[0]}
        row["qk"] = sum(W.grad.square().sum((1, 2, 3)) for W in (model.wq, model.wk))
        result[str(N)] = {name: values.view(len(schemes), len(seeds)) for name, values in row.items()}
    return result


# %%
e1_depths = nb.at_scale(cpu=[4, 8, 16, 32], gpu=[8, 16, 32, 64, 128], full=[8, 16, 32, 64, 128, 256])
e1_seeds = nb.at_scale(cpu=[0, 1, 2], gpu=list(range(8)), full=list(range(16)))
e1 = nb.run("E1", first_step, schemes=post_schemes, depths=e1_depths, seeds=e1_seeds, shape=small, batch=8)
e1b = nb.run("E1b", first_step, schemes=pre_schemes, depths=e1_depths, seeds=e1_seeds, shape=small, batch=8)
e1_record, e1b_record = nb.recorded("E1"), nb.recorded("E1b")
at_exponents = {"Post-LN": (0, 0), "DeepNorm": (0.25, 0.25), "Adam rule": (0.5, 0.5), "LAMB rule": (0, 0.5), "alternative 2": (0.5, 0)}


def geometric(run, term, index):
    """Geometric mean over seeds of one term of one scheme, an entry a depth."""
    return [float(np.exp(np.mean(np.log(row[term][index])))) for row in run.values()]


def slope_of(run, term, index):
    return metrics.loglog_slope([int(N) for N in run], geometric(run, term, index)).slope


def predicted(term, name):
    """The exponent of D7; Muon has Adam's."""
    return float(exponent["Adam" if term == "Muon" else term].subs(dict(zip((a, b), at_exponents[name], strict=True))))


four = ("SGD", "Adam", "LAMB", "Muon")
measured_slopes = {(term, name): slope_of(e1_record.result, term, i) for term in four for i, name in enumerate(post_schemes)}
live_slopes = {(term, name): slope_of(e1, term, i) for term in four for i, name in enumerate(post_schemes)}

# %% tags=["hide-input"]
nb.results(
    "E1",
    f"Exponent of the first-order change of the loss in the number of layers, predicted / measured (recorded, {len(e1_record.config['seeds'])} seeds, N = {min(map(int, e1_record.result))} to {max(map(int, e1_record.result))}); {e1_record.provenance}",
    ["scheme", "α, λ", *four],
    [
        [
            name,
            f"S^{at_exponents[name][0]:g}, S^{-at_exponents[name][1]:g}",
            *(f"{predicted(t, name):+.2f} / {round(measured_slopes[t, name], 2) + 0.0:+.2f}" for t in four),
        ]
        for name in post_schemes
    ],
)
# %% tags=["hide-input"] mystnb={"image": {"alt": "Three log-log panels of the first-order change of the loss against the number of layers, for SGD, Adam and LAMB. In each the five schemes lie on straight lines. Plain Post-LN rises in all three. DeepNorm is flat for SGD and rises like the square root of N for Adam. The Adam rule is flat for Adam, the LAMB rule is flat for SGD and LAMB."}}
figure, panels = plt.subplots(1, 3, figsize=(7.8, 4.0))
for axes, term in zip(panels, ("SGD", "Adam", "LAMB"), strict=True):
    depths, ends = [int(n) for n in e1_record.result], []
    for i, name in enumerate(post_schemes):
        color, dash, marker = STYLE[name]
        values = geometric(e1_record.result, term, i)
        axes.plot(depths, values, color=color, ls=dash, label=name)
        axes.plot([int(n) for n in e1], geometric(e1, term, i), marker, color=color, ms=4)
        ends.append((values[-1], f"{predicted(term, name):g}", color))
    axes.set(xscale="log", yscale="log", xlabel="layers N (log axis)", xlim=(3, 600))
    low, high = np.log(axes.get_ylim())
    floor = -1.0
    for value, text, color in sorted(ends):  # numbers at the right edge, at least 4% of the height apart
        floor = max((math.log(value) - low) / (high - low), floor + 0.04)
        axes.annotate(text, (depths[-1] * 1.08, floor), xycoords=("data", "axes fraction"), va="center", fontsize=8, color=color)
    axes.set_title({"SGD": "SGD: Σ‖G‖²", "Adam": "Adam: Σ‖G‖₁", "LAMB": "LAMB: Σ‖W‖‖G‖₁"}[term], fontsize=10)
panels[0].set_ylabel("first-order change of the loss over η")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=5, fontsize=8)
figure.suptitle("Each rule is flat for its own optimiser (numbers: predicted exponents)", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# Lines are the recorded run, markers the live one.
#
# The claims behind the table get evidence of their own kind. For C1 no gradient is used at all: the loss of the plain float64 network is evaluated
# before and after a tiny SGD step of all branch matrices. For C2 one role of matrix is doubled in all layers of a DeepNorm network and the gradients
# are compared.


# %%
def real_decrease(alpha_of, gain_of, N, draws=4, d=16, rate=1e-7):
    """Mean logs of (loss before - loss after one SGD step of the branch matrices) / rate, and of their squared gradients; float64, N layers."""
    logs = []
    for _ in range(draws):
        network = [[w.requires_grad_() for w in weights] for weights in xavier_layers(N, d, 2 * d, gain_of(N))]
        x, head, targets = norm0(gaussian(4, 12, d)), gaussian(d, 20, std=d**-0.5), torch.arange(48) % 20
        loss = lambda net, x=x, head=head, targets=targets, N=N: F.cross_entropy(
            (list(post_norm(x, net, alpha_of(N), 2))[-1] @ head).flatten(0, 1), targets
        )
        before = loss(network)
        before.backward()
        with torch.no_grad():
            moved = [(*weights[:2], *(w - rate * w.grad for w in weights[2:])) for weights in network]
            squared = sum(float(w.grad.square().sum()) for weights in network for w in weights[2:])
            logs.append([math.log(float(before - loss(moved)) / rate), math.log(squared)])
    return np.mean(logs, 0)


step_depths = (4, 8, 16, 32)
decreases = {
    "plain": np.array([real_decrease(lambda N: 1.0, lambda N: 1.0, N) for N in step_depths]),
    "DeepNorm": np.array([real_decrease(lambda N: (2 * N) ** 0.25, lambda N: (8 * N) ** -0.25, N) for N in step_depths]),
}
plain_real, deep_real = (metrics.loglog_slope(step_depths, np.exp(logs[:, 0])).slope for logs in decreases.values())
real_over_squared = entry_gap(*torch.from_numpy(np.stack(list(decreases.values()))).unbind(-1))


# %%
def branch_gradients(doubled, N=32):
    """Gradient norms of the four branch roles of a DeepNorm decoder, with one role (or the skip) doubled in all layers."""
    model = decoder(["DeepNorm"], [0], N, small)
    x, y = text_batches(cpu, [0], 1, 8, 32)(0)
    with torch.no_grad():
        for name in doubled:
            getattr(model, name).mul_(2)
    nn.cross_entropy_per_run(model(x), y).sum().backward()
    return {role: float(getattr(model, role).grad.norm()) for role in ("wv", "wo", "w1", "w2")}


base = branch_gradients([])
responses = {name: {r: g / base[r] for r, g in branch_gradients([name]).items()} for name in ("wv", "wo", "w1", "w2", "skip")}
partner = {"wv": "wo", "wo": "wv", "w1": "w2", "w2": "w1"}
expected_response = {name: {r: 2.0 if partner.get(name) == r else 0.5 if name == "skip" else 1.0 for r in base} for name in responses}


# %% tags=["hide-input"]
def plain_gradients(seed, N, batch, context, name="DeepNorm"):
    """States and gradients of a Post-LN decoder by post_norm and autograd in float64: the states, [(matrices, gradients)] by layer."""
    alpha = {"DeepNorm": (2 * N) ** 0.25, "Post-LN": 1.0}[name]
    model, (x, y) = decoder([name], [seed], N, small), text_batches(cpu, [seed], 1, batch, context)(0)
    table, places, head = (t.detach()[0].double() for t in (model.tokens.weight, model.positions.weight, model.head.weight))
    network = [
        [getattr(model, role)[0, l].detach().double().requires_grad_() for role in ("wq", "wk", "wv", "wo", "w1", "w2")] for l in range(N)
    ]
    states = list(post_norm(norm0(table[x[0]] + places), network, alpha, 2))
    F.cross_entropy((states[-1] @ head).flatten(0, 1), y.flatten()).backward()
    return [s.detach() for s in states], [[(w.detach(), w.grad) for w in weights] for weights in network]


plain_states, plain_pairs = plain_gradients(4, 3, 4, 32)
branches = [pair for weights in plain_pairs for pair in weights[2:]]
by_definition = {
    "SGD": sum(float((G * G).sum()) for _, G in branches),
    "Adam": sum(float((G * G.sign()).sum()) for _, G in branches),
    "LAMB": sum(float((W * W).sum().sqrt() * (G * G.sign()).sum()) for W, G in branches),
    "Muon": sum(float(torch.linalg.svdvals(G).sum()) for _, G in branches),
    "qk": sum(float((G * G).sum()) for weights in plain_pairs for _, G in weights[:2]),
}
one_row = first_step(cpu, schemes=["DeepNorm"], depths=[3], seeds=[4], shape=small, batch=4)["3"]
e1_scope = f"full, {len(e1_record.config['seeds'])} seeds"
clean = [name for name in post_schemes if name != "Post-LN"]
nb.experiment(
    "E1",
    "The first-order change of the loss at initialisation follows the predicted power of the depth for the four schemes with α or λ and three optimisers, and Muon follows Adam's.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"{term}: this code over autograd on the plain network", float(one_row[term]) / value, 1, abs=1e-3, digits=4, machine=True
            )
            for term, value in by_definition.items()
        ],
        *[
            ledger.close(
                f"{term}, {name}, recorded", measured_slopes[term, name], predicted(term, name), abs=0.06, digits=2, scope=e1_scope
            )
            for name in clean
            for term in four
        ],
        *[
            ledger.less(
                f"{term}, {name}, live: distance to the prediction",
                abs(live_slopes[term, name] - predicted(term, name)),
                0.2,
                digits=2,
                machine=True,
                scope="cpu, 3 seeds",
            )
            for name in clean
            for term in four
        ],
    ],
)

# %% tags=["hide-input"]
arithmetic = [float(np.mean(row["SGD"][0])) for row in e1_record.result.values()]
arithmetic_slope = metrics.loglog_slope([int(n) for n in e1_record.result], arithmetic).slope
nb.claim(
    "C1",
    "In a plain Post-LN Transformer the first step changes the loss by an amount proportional to the number of layers.",
    "partly",
    holds=[
        ledger.close(
            "slope of the real decrease of the loss, float64, N = 4 to 32",
            plain_real,
            1,
            abs=0.4,
            digits=2,
            machine=True,
            scope="4 draws, d = 16",
        ),
        ledger.less(
            "real decrease against Σ‖G‖², largest difference of the logs",
            real_over_squared,
            0.02,
            digits=2,
            machine=True,
            scope="4 draws, d = 16",
        ),
        ledger.less("the same for DeepNorm, distance to 0", abs(deep_real), 0.25, digits=2, machine=True, scope="4 draws, d = 16"),
        ledger.close("slope of Σ‖G‖², recorded to N = 256", measured_slopes["SGD", "Post-LN"], 1, abs=0.35, digits=3, scope=e1_scope),
    ],
    fails=[
        ledger.more("its arithmetic mean over seeds grows faster: exponent", arithmetic_slope, 1.3, digits=2, scope=e1_scope),
        *[
            ledger.less(f"{term}: it grows more slowly: exponent", measured_slopes[term, "Post-LN"], 0.9, digits=2, scope=e1_scope)
            for term in ("Adam", "LAMB", "Muon")
        ],
    ],
)
nb.claim(
    "C2",
    "The gradient of each branch matrix is O(λ/α): proportional to the size of its partner and to 1/α.",
    "verified",
    holds=[
        ledger.close(
            f"‖G({r})‖ when {name.replace('skip', 'α')} doubles",
            responses[name][r],
            expected_response[name][r],
            rel=0.08,
            digits=3,
            machine=True,
            scope="DeepNorm, N = 32",
        )
        for name in responses
        for r in base
    ],
)
share = lambda run, i: [float(np.mean(np.array(row["qk"][i]) / (np.array(row["qk"][i]) + np.array(row["SGD"][i])))) for row in run.values()]
shares = {name: share(e1_record.result, i) for i, name in enumerate(post_schemes)}
nb.claim(
    "C3",
    "The gradients of queries and keys can be neglected (tested at initialisation).",
    "verified",
    holds=[
        ledger.close(
            "share by this code over autograd on the plain network, N = 3",
            share({"3": {name: values.tolist() for name, values in one_row.items()}}, 0)[0]
            * (by_definition["qk"] + by_definition["SGD"])
            / by_definition["qk"],
            1,
            abs=2e-3,
            digits=3,
            machine=True,
        ),
        *[
            ledger.less(f"largest share of Σ‖G‖² over all depths, {name}", max(values), 0.1, digits=2, scope=e1_scope)
            for name, values in shares.items()
        ],
    ],
)
plain_terms = {term: measured_slopes[term, "Post-LN"] for term in ("SGD", "Adam", "LAMB")}
nb.claim(
    "C4",
    "Each optimiser has its own exponents: 1 − 2a − 2b for SGD, 1 − a − b for Adam, 1 − a − 2b for LAMB.",
    "verified",
    holds=[
        ledger.less(
            "largest distance of the twelve recorded exponents with α or λ from D7",
            max(abs(measured_slopes[t, n] - predicted(t, n)) for t in ("SGD", "Adam", "LAMB") for n in clean),
            0.06,
            digits=2,
            scope=e1_scope,
        ),
        *[
            ledger.close(f"plain Post-LN, {term}: collapsed tokens, less exact", slope, 1, abs=0.35, digits=2, scope=e1_scope)
            for term, slope in plain_terms.items()
        ],
    ],
)
nb.claim(
    "X5",
    "A Muon step has Adam's exponent in every scheme with α or λ: DeepNorm leaves it growing like √N.",
    "verified",
    holds=[
        ledger.close(f"{name}, recorded", measured_slopes["Muon", name], slope, abs=0.1, digits=2, scope=e1_scope)
        for name, slope in (("DeepNorm", 0.5), ("Adam rule", 0.0), ("LAMB rule", 0.5), ("alternative 2", 0.5))
    ],
)

# %% [markdown]
# **What we saw.** The law holds to a few hundredths in all schemes that scale anything. Plain Post-LN is noisier and, for the sign step, grows more
# slowly than $N$: as the tokens collapse its gradients concentrate in few directions, which lowers the one-norm of a matrix at a given Frobenius
# norm. (For Muon, whose norm sees the rank directly, even more.) Its seeds also differ widely: the arithmetic mean, ruled by a few of the draws,
# grows faster still.
#
# ### E1b: Pre-LN
#
# The same measurement for Pre-LN with $\lambda=S^{-b}$, against the law of D12: logarithmic growth at $\lambda=1$, a *larger* first step for mild
# shrinking, $O(1)$ at $S^{-1/2}$.

# %%
pre_powers = [float(name.removeprefix("Pre-LN") or 0) for name in pre_schemes]
pre_sums = {p: geometric(e1b_record.result, "SGD", i) for i, p in enumerate(pre_powers)}
pre_depths = [int(n) for n in e1b_record.result]
growth_of = {p: sums[-1] / sums[0] for p, sums in pre_sums.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Sum of squared gradients of a Pre-LN network at initialisation against the number of layers, log axes, one line for each initial size from lambda equal to one down to S to the minus one half. The line of S to the minus one eighth lies above that of lambda equal to one at large depth, the line of S to the minus one half is nearly flat and lowest."}}
figure, axes = plt.subplots()
for (p, sums), color, dash, i in zip(
    pre_sums.items(), (BLACK, ORANGE, GREEN, PURPLE, BLUE), ("-", "--", "-.", ":", (0, (5, 1))), range(5), strict=True
):
    axes.plot(pre_depths, sums, color=color, ls=dash, label=f"λ = S^({p:g})" if p else "λ = 1")
    axes.plot([int(n) for n in e1b], geometric(e1b, "SGD", i), "o", ms=4, color=color)
axes.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="Σ‖G‖² at initialisation")
axes.set_title("Pre-LN: mild shrinking makes the first step larger")
axes.legend(loc="upper left", ncol=2, title="lines recorded, dots live", title_fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
fit_law = lambda c: np.array(
    [[math.log(math.log1p(c * (2 * n) ** (1 + 4 * p)) / (c * (2 * n) ** (2 * p))) for n in pre_depths] for p in pre_sums]
)
logs = np.log(np.array(list(pre_sums.values())))
misfit = {c: float((logs - fit_law(c)).std()) for c in np.geomspace(0.02, 1, 60)}
best_c = min(misfit, key=misfit.get)
of_seed = lambda index, depth: np.log(e1b_record.result[depth]["SGD"][index])
deepest = str(max(pre_depths))
nb.experiment(
    "E1b",
    "The squared gradients of Pre-LN follow ln(1 + cλ⁴S)/(cλ²): logarithmic in the depth at λ = 1, larger at λ = S^(−1/8) than at 1, constant at λ = S^(−1/2).",
    "verified",
    holds=[
        ledger.less(
            "rms misfit of the law with one c and one factor, in log, 30 recorded points", misfit[best_c], 0.2, digits=2, scope=e1_scope
        ),
        ledger.better("log Σ‖G‖² at λ = S^(−1/8) over λ = 1, N = 256", of_seed(1, deepest), of_seed(0, deepest), sigmas=3, scope=e1_scope),
        ledger.close(
            "exponent at λ = S^(−1/2)", metrics.loglog_slope(pre_depths, pre_sums[-0.5]).slope, 0, abs=0.05, digits=2, scope=e1_scope
        ),
        ledger.less("growth at λ = 1 from N = 8 to 256, a factor 32 in depth", growth_of[0.0], 4.5, digits=3, scope=e1_scope),
        ledger.less(
            "λ = 1, two constants each: misfit of the logarithm over that of the best power of N",
            min(float((logs[0] - fit_law(c)[0]).std()) for c in misfit)
            / float((logs[0] - np.polyval(np.polyfit(np.log(pre_depths), logs[0], 1), np.log(pre_depths))).std()),
            0.8,
            digits=2,
            scope=e1_scope,
        ),
    ],
)
nb.claim(
    "C13",
    "For Pre-LN the analysis gives the same conclusion with α = 1: the initialisation has to be scaled down with the depth.",
    "partly",
    holds=[
        ledger.close(
            "λ = S^(−1/2) makes Σ‖G‖² independent of the depth: exponent",
            metrics.loglog_slope(pre_depths, pre_sums[-0.5]).slope,
            0,
            abs=0.05,
            digits=2,
            scope=e1_scope,
        )
    ],
    fails=[
        ledger.less(
            "without any scaling it grows less than Post-LN's: exponent against 1",
            metrics.loglog_slope(pre_depths, pre_sums[0.0]).slope,
            0.5,
            digits=2,
            scope=e1_scope,
        ),
        ledger.more(
            "and a quarter of the scaling, λ = S^(−1/8), makes it larger at N = 256: ratio",
            pre_sums[-0.125][-1] / pre_sums[0.0][-1],
            1.5,
            digits=3,
            scope=e1_scope,
        ),
    ],
)

# %% [markdown]
# ## E2: layer by layer
#
# **Question.** What do the three kinds of network look like inside, at initialisation? **Measured** after every sublayer: $1-\rho$, the mean over
# pairs of tokens; the cosine with the embedding; and the norm of $\partial\mathcal L/\partial W_2$ in every layer. **Expected:** the token
# differences as the recursion of D11 gives them, with the causal mask and no free constant; gradients level for DeepNorm, falling for Pre-LN.


# %%
def difference(x):
    """1 - mean cosine of two tokens of a sequence: x (..., n, d) -> (...)."""
    u = F.normalize(x, dim=-1)
    return (u - u.mean(-2, keepdim=True)).square().sum((-2, -1)) / (x.shape[-2] - 1)


# %%
def layer_picture(device, *, schemes, depth, seeds, shape, batch):
    """For each scheme, means over the batch: W2's gradient norm by layer, and by sublayer 1 - mean token cosine, cosine with the start, theory."""
    x, y = text_batches(device, seeds, 1, batch, shape["context"])(0)
    averaging = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.float64, device=device).tril()
    averaging = averaging / averaging.sum(1, keepdim=True)
    result = {}
    for name in schemes:
        model = decoder([name], seeds, depth, shape).to(device)
        nn.cross_entropy_per_run(model(x), y).sum().backward()
        with torch.no_grad():
            states = list(model.states(x))
        unit = F.normalize(states[0].double(), dim=-1)
        theory = mean_field(unit @ unit.mT, averaging, *scheme(name, depth), depth, shape["width"] / shape["d"], name.startswith("Pre-LN"))
        off_diagonal = x.shape[-1] * (x.shape[-1] - 1)
        result[name] = {
            "gradient": model.w2.grad.square().sum((2, 3)).sqrt(),
            "difference": torch.stack([difference(s).mean(1) for s in states], 1),
            "kept": torch.stack([F.cosine_similarity(states[0], s, dim=-1).mean((1, 2)) for s in states], 1),
            "theory": torch.stack([((1 - K).sum((-2, -1)) / off_diagonal).mean(1) for K in theory], 1),
        }
    return result


# %%
wide = {"d": nb.at_scale(cpu=64, gpu=128, full=256), "heads": 4, "width": nb.at_scale(cpu=128, gpu=256, full=512), "context": 32}
e2 = nb.run(
    "E2",
    layer_picture,
    schemes=nb.at_scale(cpu=["Post-LN", "DeepNorm", "Pre-LN"], gpu=[*post_schemes, "Pre-LN"], full=[*post_schemes, "Pre-LN"]),
    depth=nb.at_scale(cpu=32, gpu=64, full=64),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=[0, 1, 2, 3]),
    shape=wide,
    batch=nb.at_scale(cpu=4, gpu=8, full=8),
)
e2_record = nb.recorded("E2")
mean_of = lambda run, name, what: np.mean(run[name][what], 0)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, on a logarithmic axis, one minus the mean token cosine against the sublayer: plain Post-LN falls along a straight line from 1 to ten to the minus eleven after 128 sublayers, close to the theory line; Pre-LN falls slowly to 0.1, DeepNorm stays at 1; the theory lines pass through the measured dots. Right: gradient norm of W2 by layer: Post-LN around 2, Pre-LN falling from 1.7 to 0.3, DeepNorm level at 0.12."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.8))
for name in ("Post-LN", "Pre-LN", "DeepNorm"):
    color, dash, marker = STYLE[name]
    values, theory = (mean_of(e2_record.result, name, what) for what in ("difference", "theory"))
    axes.plot(np.arange(len(theory)), theory, color=color, ls=dash)
    axes.plot(np.arange(len(values))[::8], values[::8], marker, color=color, ms=4.5, label=name)
    if name in e2:
        axes.plot(np.arange(0, 65, 8), mean_of(e2, name, "difference")[::8], marker, color=color, ms=8, mfc="none")
    right.plot(np.arange(1, 65), mean_of(e2_record.result, name, "gradient"), color=color, ls=dash, label=name)
axes.set(yscale="log", xlabel="sublayer", ylabel="1 − mean cosine of two tokens")
axes.legend(loc="lower left", fontsize=9)
axes.set_title("tokens (lines: theory, no fit; open: live)", fontsize=9.5)
right.set(yscale="log", xlabel="layer", ylabel="‖∂L/∂W₂‖ (log axis)", ylim=(0.05, 12))
right.legend(loc="upper right", fontsize=8)
right.set_title("gradients", fontsize=10)
figure.suptitle("Plain Post-LN: gradients of healthy size, tokens that are all alike", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"]
probe_state = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
one_picture = layer_picture(cpu, schemes=["DeepNorm"], depth=3, seeds=[4], shape=small, batch=4)["DeepNorm"]
picture_by_definition = {
    "gradient": [float(weights[5][1].norm()) for weights in plain_pairs],
    "difference": [float((1 - mean_cosine(x)).mean()) for x in plain_states],
    "kept": [float(F.cosine_similarity(x, plain_states[0], dim=-1).mean()) for x in plain_states],
}
theory_by_sequence = [
    [1 - off_diagonal(K) for K in mean_field(F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).mT, causal, 6**0.25, 24**-0.25, 3, 2)]
    for x in plain_states[0]
]
picture_by_definition["theory"] = np.mean(theory_by_sequence, 0)
picture_error = {
    what: entry_gap(one_picture[what][0] / torch.tensor(np.array(values)), 1) for what, values in picture_by_definition.items()
}
bits_off = lambda run, name: entry_gap(*(torch.from_numpy(np.log2(mean_of(run, name, what))) for what in ("difference", "theory")))
w2 = {name: mean_of(e2_record.result, name, "gradient") for name in e2_record.result}
e2_scope = f"full, d = {e2_record.config['shape']['d']}, {len(e2_record.config['seeds'])} seeds"
nb.experiment(
    "E2",
    "At initialisation the causal recursion predicts the token differences of every scheme; W₂'s gradients are level over the layers for DeepNorm and fall for Pre-LN.",
    "verified",
    holds=[
        ledger.less(
            "1 − mean cosine against all pairs, explicitly",
            float((difference(probe_state) - (1 - mean_cosine(probe_state))).abs().max()),
            1e-12,
            machine=True,
            method="float64",
        ),
        *[
            ledger.less(f"{what}: largest relative distance to autograd on the plain network", error, 1e-3, digits=2, machine=True)
            for what, error in picture_error.items()
        ],
        ledger.less(
            "Post-LN: largest distance to theory in bits, over 35 bits of decay, recorded",
            bits_off(e2_record.result, "Post-LN"),
            2.5,
            digits=2,
            scope=e2_scope,
        ),
        *[
            ledger.less(f"{name}: the same", bits_off(e2_record.result, name), 0.5, digits=2, scope=e2_scope)
            for name in ("DeepNorm", "Adam rule", "LAMB rule", "alternative 2", "Pre-LN")
        ],
        ledger.less("Post-LN, live", bits_off(e2, "Post-LN"), 2.5, digits=2, machine=True, scope="cpu, d = 64, 2 seeds"),
        *[
            ledger.less(f"{name}, live", bits_off(e2, name), 0.5, digits=2, machine=True, scope="cpu, d = 64, 2 seeds")
            for name in ("DeepNorm", "Pre-LN")
        ],
        ledger.less(
            "DeepNorm: largest over smallest gradient of 64 layers",
            float(w2["DeepNorm"].max() / w2["DeepNorm"].min()),
            1.2,
            digits=3,
            scope=e2_scope,
        ),
        ledger.more("Pre-LN: first layer over last", float(w2["Pre-LN"][0] / w2["Pre-LN"][-1]), 4, digits=3, scope=e2_scope),
    ],
)

# %% tags=["hide-input"]
with torch.no_grad():
    deep_states = list(decoder(["DeepNorm"], [0], 100, {"d": 64, "heads": 2, "width": 128, "context": 32}).states(text_x[:1]))
kept = float(F.cosine_similarity(deep_states[0], deep_states[-1], dim=-1).mean())
nb.claim(
    "C10",
    "At initialisation a deep DeepNorm network is close to the identity.",
    "verified",
    holds=[
        ledger.more("cosine of first and last state, N = 100, d = 64, live", kept, 0.99, digits=4, machine=True, scope="1 seed"),
        ledger.more(
            "the same, N = 64, d = 256, recorded", float(mean_of(e2_record.result, "DeepNorm", "kept")[-1]), 0.99, digits=4, scope=e2_scope
        ),
        ledger.close(
            "Σ branch weights² at N = 1000",
            2000 * scheme("DeepNorm", 1000)[1] ** 4 / scheme("DeepNorm", 1000)[0] ** 2,
            2000**-0.5 / 4,
            rel=1e-9,
            digits=3,
        ),
    ],
)
qk = {name: [float(np.mean(row["qk"][i])) for row in e1_record.result.values()] for i, name in enumerate(post_schemes)}
nb.claim(
    "C12",
    "What makes a deep Post-LN network hard to train is not its gradients, which are of healthy size, but the increment of all layers together.",
    "partly",
    holds=[
        ledger.less(
            "plain Post-LN, N = 64: largest over smallest gradient norm of W₂",
            float(w2["Post-LN"].max() / w2["Post-LN"].min()),
            4,
            digits=2,
            scope=e2_scope,
        ),
        ledger.more("and its increment does grow: exponent of Σ‖G‖²", measured_slopes["SGD", "Post-LN"], 0.8, digits=2, scope=e1_scope),
    ],
    fails=[
        ledger.less(
            "but the gradient that must tell tokens apart does vanish: ‖G_q‖² + ‖G_k‖² at N = 64 over N = 8",
            qk["Post-LN"][3] / qk["Post-LN"][0],
            1e-6,
            digits=2,
            scope=e1_scope,
        ),
        ledger.more("for DeepNorm it does not: the same ratio", qk["DeepNorm"][3] / qk["DeepNorm"][0], 0.2, digits=2, scope=e1_scope),
    ],
)

# %% [markdown]
# "Gradients are fine, increments explode" is half of the story: the *norms* are fine. But a plain
# Post-LN network of 64 layers hands every token the same vector up to $10^{-5}$, so the gradients of queries and keys, which act on differences
# between tokens, are $10^{-9}$ of what they are with 8 layers. None of the rates that we tried mends that (E4, E5).
# The unigram entropy itself proves nothing, though: a network whose first steps were too large ends there as well, DeepNorm among them, at 0.01 with
# 50 layers. What separates the two causes is that plain Post-LN stays there at *small* rates too (E4), and the direct test of E4b.
#
# ## E3: encoder and decoder
#
# **Question.** The paper's Figure 5: after one SGD step, is the change of a DeepNet encoder-decoder's output independent of the depth? And is the
# encoder's share as its bound says? **Set-up.** Width 64, feed-forward 128, two heads, $N=M$ layers, random tokens, one step with $\eta=0.1$; a third
# arm takes the encoder-only constants for both sides. **Expected.** The bound adds the $M$ cross-attentions coherently on the way forward, and bounds
# the encoder's gradient without their factor, which makes its term constant. Coherent both ways, the encoder's squared gradient would grow as
# $N^{1/4}$. In high dimension they add like random vectors, energy by energy:
# $M(\beta_d^2/\alpha_d)^2\cdot2N(\beta_e/\alpha_e)^2\propto N^{-3/4}$ (and $N^{-1/2}$ for the third arm).


# %%
def constants(name, N, M):
    """alpha and lambda of the encoder (N layers), then of the decoder (M layers)."""
    depth = N**4 * M
    return {
        "Post-LN": (1.0, 1.0, 1.0, 1.0),
        "DeepNet": (27 ** (-1 / 16) * depth ** (1 / 16), 27 ** (1 / 16) / 2**0.5 * depth ** (-1 / 16), (3 * M) ** 0.25, (12 * M) ** -0.25),
        "encoder-only constants": (*scheme("DeepNorm", N), *scheme("DeepNorm", M)),
    }[name]


def attend(x, memory, wq, wk, wv, wo, heads, causal=False):
    """Multi-head attention of x (R, B, T, d) to memory (R, B, T', d)."""
    q, k, v = ((t @ w[:, None]).unflatten(-1, (heads, -1)).transpose(2, 3) for t, w in ((x, wq), (memory, wk), (memory, wv)))
    y = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), is_causal=causal)
    return y.transpose(1, 2).reshape(x.shape) @ wo[:, None]


# %%
def encode_decode(weights, x, y, alpha_e, alpha_d, heads):
    """Last decoder state (R, B, T, d) of a Post-LN encoder-decoder for embedded source x and target y; matrices (R, depth, d_in, d_out)."""
    norm = lambda z: F.layer_norm(z, z.shape[-1:])
    feed_forward = lambda z, w1, w2: F.relu(z @ w1[:, None]) @ w2[:, None]
    layers = lambda side: zip(*(w.unbind(1) for w in weights[side]), strict=True)
    for w in layers("encoder"):
        x = norm(alpha_e * x + attend(x, x, *w[:4], heads))
        x = norm(alpha_e * x + feed_forward(x, *w[4:]))
    for w in layers("decoder"):
        y = norm(alpha_d * y + attend(y, y, *w[:4], heads, causal=True))
        y = norm(alpha_d * y + attend(y, x, *w[4:8], heads))
        y = norm(alpha_d * y + feed_forward(y, *w[8:]))
    return y


def draw_matrices(init, depth, roles, gain, d, width, device):
    """Xavier-normal matrices (R, depth, d_in, d_out) for the roles q k v o 1 2, those other than q and k times the gain of their run."""
    sizes = {"1": (d, width), "2": (width, d)}
    drawn = [init.normal(depth, *sizes.get(role, (d, d)), std=math.sqrt(2 / sum(sizes.get(role, (d, d))))).detach() for role in roles]
    scaled = [w if role in "qk" else w * gain.view(-1, 1, 1, 1) for role, w in zip(roles, drawn, strict=True)]
    return [torch.nn.Parameter(w.to(device)) for w in scaled]


# %% tags=["hide-input"]
def encoder_decoder(device, *, schemes, depths, seeds, rate, d, width, heads, vocabulary, length, batch):
    """For N = M layers: the RMS change of the output under one SGD step, and the squared gradients of the branch matrices of each side."""
    init, result, roles = nn.Init(list(seeds) * len(schemes)), {}, {"encoder": "qkvo12", "decoder": "qkvoqkvo12"}
    source, target, answer = torch.stack(
        [torch.randint(vocabulary, (3, batch, length), generator=torch.Generator().manual_seed(seed)) for seed in init.seeds], 1
    ).to(device)
    fixed = [
        init.normal(vocabulary, d),
        init.normal(vocabulary, d),
        init.normal(d, vocabulary, std=d**-0.5),
        init.normal(1, length, d, std=0.5),
    ]
    source_table, target_table, head, places = (t.detach().to(device) for t in fixed)
    runs = torch.arange(init.runs, device=device).view(-1, 1, 1)
    x, y = (F.layer_norm(table[runs, ids] + places, (d,)) for table, ids in ((source_table, source), (target_table, target)))
    for N in depths:
        alpha_e, gain_e, alpha_d, gain_d = torch.tensor([constants(s, N, N) for s in schemes]).repeat_interleave(len(seeds), 0).unbind(1)
        gains, alphas = {"encoder": gain_e, "decoder": gain_d}, [a.view(-1, 1, 1, 1).to(device) for a in (alpha_e, alpha_d)]
        weights = {side: draw_matrices(init, N, roles[side], gains[side], d, width, device) for side in roles}
        before = encode_decode(weights, x, y, *alphas, heads)
        nn.cross_entropy_per_run(before @ head[:, None], answer).sum().backward()
        row = {
            s: sum(w.grad.square().sum((1, 2, 3)) for w, role in zip(weights[s], roles[s], strict=True) if role not in "qk") for s in roles
        }
        optim.StackedSGD([*weights["encoder"], *weights["decoder"]], torch.full((init.runs,), rate)).step()
        with torch.no_grad():
            row["moved"] = metrics.rms((encode_decode(weights, x, y, *alphas, heads) - before).flatten(1))
        result[str(N)] = {name: values.view(len(schemes), len(seeds)) for name, values in row.items()}
    return result


# %%
e3 = nb.run(
    "E3",
    encoder_decoder,
    schemes=["Post-LN", "DeepNet", "encoder-only constants"],
    depths=nb.at_scale(cpu=[4, 8, 16], gpu=[4, 8, 16, 32, 64], full=[4, 8, 16, 32, 64, 128]),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=list(range(8))),
    rate=0.1,
    **{"d": 64, "width": 128, "heads": 2, "vocabulary": 64, "length": 16, "batch": 8},
)
e3_record = nb.recorded("E3")

# %% tags=["hide-input"]
e3_arms, e3_depths = e3_record.config["schemes"], [int(n) for n in e3_record.result]
e3_means = {(arm, what): geometric(e3_record.result, what, i) for i, arm in enumerate(e3_arms) for what in ("moved", "encoder", "decoder")}
e3_slopes = {key: metrics.loglog_slope(e3_depths, values).slope for key, values in e3_means.items()}
e3_live = {what: geometric(e3, what, 1) for what in ("moved", "encoder", "decoder")}
nb.results(
    "E3",
    f"Encoder-decoder, N = M = {', '.join(map(str, e3_depths))}: geometric mean over {len(e3_record.config['seeds'])} seeds; {e3_record.provenance}",
    ["arm", "RMS change of the output after one SGD step", "its exponent", "encoder Σ‖G‖², exponent", "decoder Σ‖G‖², exponent"],
    [
        [
            arm,
            ", ".join(f"{y:.2g}" for y in e3_means[arm, "moved"]),
            *(f"{round(e3_slopes[arm, what], 2) + 0.0:+.2f}" for what in ("moved", "encoder", "decoder")),
        ]
        for arm in e3_arms
    ],
)


# %% tags=["hide-input"]
def torch_twin(weights, alphas, d, width, heads):
    """Run 0 of an encoder-decoder as PyTorch's own layers in float64, the output matrices divided by alpha; returns encoder, decoder."""
    sides = []
    for side, kind, alpha in (
        ("encoder", torch.nn.TransformerEncoderLayer, alphas[0]),
        ("decoder", torch.nn.TransformerDecoderLayer, alphas[1]),
    ):
        modules = []
        for matrices in zip(*(w.detach()[0].double().unbind(0) for w in weights[side]), strict=True):
            layer = kind(d, heads, width, dropout=0.0, batch_first=True, bias=False, dtype=torch.float64, layer_norm_eps=1e-5 / alpha**2)
            *attentions, w1, w2 = matrices
            with torch.no_grad():
                for block, at in zip((layer.self_attn, getattr(layer, "multihead_attn", None)), (0, 4), strict=True):
                    if block is not None:
                        wq, wk, wv, wo = attentions[at : at + 4]
                        block.in_proj_weight.copy_(torch.cat([wq, wk, wv], 1).T)
                        block.out_proj.weight.copy_(wo.T / alpha)
                layer.linear1.weight.copy_(w1.T)
                layer.linear2.weight.copy_(w2.T / alpha)
            modules.append(layer)
        sides.append(torch.nn.ModuleList(modules))
    return sides


def twin_state(twin, x, y):
    mask = torch.nn.Transformer.generate_square_subsequent_mask(y.shape[1], dtype=torch.float64)
    for layer in twin[0]:
        x = layer(x)
    for layer in twin[1]:
        y = layer(y, x, tgt_mask=mask, tgt_is_causal=True)
    return y


def twin_experiment(arm, seed, N, rate, d, width, heads, vocabulary, length, batch):
    """What encoder_decoder returns for one arm and seed, computed with PyTorch's layers and autograd."""
    init = nn.Init([seed])
    source, target, answer = torch.randint(vocabulary, (3, batch, length), generator=torch.Generator().manual_seed(seed))
    tables = [init.normal(*shape)[0].detach().double() for shape in ((vocabulary, d), (vocabulary, d), (d, vocabulary), (1, length, d))]
    x, y = (norm0(table[ids] + 0.5 * tables[3]) for table, ids in ((tables[0], source), (tables[1], target)))
    a_e, b_e, a_d, b_d = {
        "Post-LN": (1.0, 1.0, 1.0, 1.0),
        "DeepNet": (27 ** (-1 / 16) * N ** (5 / 16), 27 ** (1 / 16) / 2**0.5 * N ** (-5 / 16), (3 * N) ** 0.25, (12 * N) ** -0.25),
        "encoder-only constants": ((2 * N) ** 0.25, (8 * N) ** -0.25, (2 * N) ** 0.25, (8 * N) ** -0.25),
    }[arm]
    weights = {
        side: draw_matrices(init, N, roles, torch.tensor([gain]), d, width, cpu)
        for side, roles, gain in (("encoder", "qkvo12", b_e), ("decoder", "qkvoqkvo12", b_d))
    }
    twin = torch_twin(weights, (a_e, a_d), d, width, heads)
    before = twin_state(twin, x, y)
    F.cross_entropy((before @ tables[2] / d**0.5).flatten(0, 1), answer.flatten()).backward()
    energy = {}
    for side, layers_of, alpha in (("encoder", twin[0], a_e), ("decoder", twin[1], a_d)):
        names = dict(layers_of.named_parameters())
        outputs = [p for n, p in names.items() if "out_proj" in n or "linear2" in n]
        values = [p.grad[2 * d :] for n, p in names.items() if "in_proj" in n] + [p.grad for n, p in names.items() if "linear1" in n]
        energy[side] = float(sum(g.square().sum() for g in values) + sum((p.grad / alpha).square().sum() for p in outputs))
        with torch.no_grad():
            for n, p in names.items():
                if "norm" not in n:
                    p.sub_(rate * p.grad / (alpha**2 if any(p is o for o in outputs) else 1.0))
    with torch.no_grad():
        moved = float((twin_state(twin, x, y) - before).square().mean().sqrt())
    return {"moved": moved, **energy}


tiny = {"rate": 0.1, "d": 16, "width": 24, "heads": 2, "vocabulary": 11, "length": 5, "batch": 3}
ours_tiny = encoder_decoder(cpu, schemes=e3_arms, depths=[3], seeds=[7, 8], **tiny)["3"]
twin_tiny = [[twin_experiment(arm, seed, 3, **tiny) for seed in (7, 8)] for arm in e3_arms]
twin_error = {
    (arm, what, seed): abs(float(ours_tiny[what][i, j]) / twin_tiny[i][j][what] - 1)
    for i, arm in enumerate(e3_arms)
    for what in ("moved", "encoder", "decoder")
    for j, seed in enumerate((7, 8))
}
test_matrices = draw_matrices(nn.Init([1, 2]), 4, "qkvo12", torch.tensor([0.3, 0.5]), 32, 64, cpu)
matrix_sizes = [
    float(w[i].detach().std()) / (math.sqrt(2 / sum(w.shape[-2:])) * (1 if role in "qk" else (0.3, 0.5)[i]))
    for w, role in zip(test_matrices, "qkvo12", strict=True)
    for i in (0, 1)
]

# %% tags=["hide-input"]
e3_scope = f"full, {len(e3_record.config['seeds'])} seeds, N = M to {max(e3_depths)}"
nb.experiment(
    "E3",
    "After one SGD step the output of a DeepNet encoder-decoder has moved by the same amount at every depth; plain Post-LN's has moved by about its own size.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"{arm}, {what}, seed {seed}: this stack against PyTorch's layers, N = M = 3, relative error",
                error,
                1e-3,
                digits=2,
                machine=True,
                scope="float32",
            )
            for (arm, what, seed), error in twin_error.items()
        ],
        ledger.less(
            "largest deviation of a matrix's standard deviation from gain × Xavier",
            max(abs(s - 1) for s in matrix_sizes),
            0.05,
            digits=2,
            machine=True,
        ),
        ledger.close("DeepNet: exponent of the change, recorded", e3_slopes["DeepNet", "moved"], 0, abs=0.1, digits=2, scope=e3_scope),
        ledger.less(
            "DeepNet, live: largest change over smallest",
            max(e3_live["moved"]) / min(e3_live["moved"]),
            1.6,
            digits=2,
            machine=True,
            scope="cpu, 2 seeds",
        ),
        ledger.more(
            "plain Post-LN: smallest change, recorded (an output is of RMS 1)",
            min(e3_means["Post-LN", "moved"]),
            0.7,
            digits=2,
            scope=e3_scope,
        ),
        ledger.less("and the largest (the bound is 2)", max(e3_means["Post-LN", "moved"]), 1.3, digits=2, scope=e3_scope),
    ],
)
a_d, a_e, cross = (3 * M) ** sp.Rational(1, 4), (N**4 * M / 27) ** sp.Rational(1, 16), sp.Symbol("C", positive=True)
b_d, b_e = (12 * M) ** sp.Rational(-1, 4), 1 / (sp.sqrt(2) * (N**4 * M / 27) ** sp.Rational(1, 16))
encoder_energy = 2 * N * (b_e / a_e) ** 2 * cross
in_N = lambda expression: N * sp.Derivative(sp.expand_log(sp.log(expression.subs(M, N)), force=True), N)  # exponent of N at M = N
nb.claim(
    "X6",
    "At initialisation, N = M, the M cross-attentions add incoherently: the encoder's squared gradient falls like N^(−3/4), where a coherent sum has it rise like N^(1/4).",
    "verified",
    holds=[
        sym.identity(
            "exponent for an incoherent sum, M = N",
            in_N(encoder_energy.subs(cross, sp.Sum((b_d**2 / a_d) ** 2, (j_, 1, M)).doit())),
            sp.Rational(-3, 4),
        ),
        sym.identity(
            "exponent for a coherent sum", in_N(encoder_energy.subs(cross, sp.Sum(b_d**2 / a_d, (j_, 1, M)).doit() ** 2)), sp.Rational(1, 4)
        ),
        sym.identity(
            "exponent of the paper's encoder term, coherent once: its gradient is bounded without the factor",
            in_N(sp.sqrt(encoder_energy.subs(cross, 1) ** 2) * sp.Sum(b_d**2 / a_d, (j_, 1, M)).doit()),
            sp.Integer(0),
        ),
        ledger.close("recorded exponent, DeepNet's encoder", e3_slopes["DeepNet", "encoder"], -0.75, abs=0.06, digits=2, scope=e3_scope),
        ledger.close(
            "encoder-only constants on both sides: −1/2",
            e3_slopes["encoder-only constants", "encoder"],
            -0.5,
            abs=0.06,
            digits=2,
            scope=e3_scope,
        ),
        ledger.close("DeepNet's decoder: 0", e3_slopes["DeepNet", "decoder"], 0, abs=0.05, digits=2, scope=e3_scope),
        ledger.less(
            "the simpler constants are as flat: exponent of the change",
            abs(e3_slopes["encoder-only constants", "moved"]),
            0.1,
            digits=2,
            scope=e3_scope,
        ),
    ],
)
cases = [(n, m) for n in (6, 50, 500) for m in (1, 6, 100)]
met = lambda n, m, a_e, b_e, a_d, b_d: (
    3 * m * 2 * b_d**2 / a_d**2,
    m * b_d**2 / a_d * 2 * n * 2 * b_e**2 / a_e**2,
    2**0.5 * b_e * a_e,
    2**0.5 * b_d * a_d,
)
nb.claim(
    "C7",
    "The rows of the paper's table satisfy their conditions.",
    "verified",
    holds=[
        ledger.less(
            "encoder-decoder, nine pairs (N, M): largest deviation from 1",
            max(abs(y - 1) for n, m in cases for y in met(n, m, *constants("DeepNet", n, m))),
            1e-12,
            machine=True,
        ),
        ledger.close("decoder only, M = 1000: α", scheme("DeepNorm", 1000)[0], 6.68740, abs=5e-6, digits=7),
        ledger.close("and β", scheme("DeepNorm", 1000)[1], 0.105737, abs=5e-7, digits=7),
        ledger.close(
            "encoder, N = M = 6: α with the printed 0.81", 0.81 * 6 ** (5 / 16), constants("DeepNet", 6, 6)[0], rel=0.006, digits=5
        ),
        ledger.close("and β with the printed 0.87", 0.87 * 6 ** (-5 / 16), constants("DeepNet", 6, 6)[1], rel=0.002, digits=5),
    ],
)

# %% [markdown]
# The change is as flat as the theorem promises. But the encoder's part of it dies out: at initialisation, with $N=M$, the $M$ cross-attentions do not
# add up. The encoder's special exponents, $(N^4M)^{1/16}$, guard against a coherence that is not seen here, and the plain encoder-only constants do
# as well.
#
# ## E4: training, 24 and 50 layers
#
# **Question.** Does any of this decide whether a network trains? **Set-up.** Character model under Adam (0.9, 0.98), linear warm-up, then a constant
# rate. Recorded: $N=50$, width 64, 16 sequences of 64 characters, 600 steps; every arm tries six rates on one seed, and the best of them runs on four
# fresh seeds. Live: $N=24$, one rate, one seed (its end is the open marker). Arms: plain Post-LN, the same with warm-up over the whole run, DeepNorm, the post's Adam and LAMB
# rules (all trained with Adam), Pre-LN, and Pre-LN with $\lambda=S^{-1/2}$. **Expected**, by D11: Post-LN becomes a unigram model whatever the rate;
# loss 3.33.


# %%
def train_stack(device, arms, seeds, depth, shape, batch, steps):
    """Losses (steps, arms, seeds) of one stack of decoders under Adam; an arm is [scheme, learning rate, steps of linear warm-up]."""
    names, rates, warmup = zip(*arms, strict=True)
    model = decoder(names, seeds, depth, shape).to(device)
    per_run = lambda values: torch.tensor(values, dtype=torch.float32).repeat_interleave(len(seeds)).to(device)
    rise, history = per_run(warmup), []
    train.fit_graphed(
        lambda x, y: nn.cross_entropy_per_run(model(x), y),
        text_batches(device, seeds, len(arms), batch, shape["context"]),
        optim.StackedAdam(model.parameters(), per_run(rates), betas=(0.9, 0.98)),
        steps,
        schedule=lambda step, steps: ((step + 1) / rise).clamp(max=1),
        watch=lambda step, losses: history.append(losses),
    )
    return torch.stack(history).view(steps, len(arms), len(seeds)).cpu()


# %%
def train_decoders(device, arms, seeds, *, every, stack, steps, **common):
    """Mean loss over each ``every`` steps, (arms, seeds, steps / every); at most ``stack`` arms at once, Pre-LN in stacks of their own."""
    curves = {}
    for pre in (False, True):
        mine = [i for i, arm in enumerate(arms) if arm[0].startswith("Pre-LN") == pre]
        for part in (mine[i : i + stack] for i in range(0, len(mine), stack)):
            losses = train_stack(device, [arms[i] for i in part], seeds, steps=steps, **common).nan_to_num(99.0).clamp(max=99.0)
            curves |= dict(zip(part, losses.view(steps // every, every, len(part), len(seeds)).mean(1).permute(1, 2, 0), strict=True))
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
    return torch.stack([curves[i] for i in range(len(arms))])


def tuned_decoders(device, *, arms, rates, tuning_seed, seeds, stack, **common):
    """Each arm [label, scheme, warm-up] at every learning rate on one seed, then the best rate of each arm on fresh seeds."""
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it: twice as fast here
    grid = [[name, rate, warmup] for _, name, warmup in arms for rate in rates]
    tuning = torch.zeros(len(arms), 1, 2)
    if len(rates) > 1:
        tuning = train_decoders(device, grid, [tuning_seed], stack=stack, **common).view(len(arms), len(rates), -1)
    best = [rates[i] for i in tuning[:, :, -2:].mean(2).argmin(1).tolist()]
    final = [[name, rate, warmup] for (_, name, warmup), rate in zip(arms, best, strict=True)]
    loss = train_decoders(device, final, seeds, stack=max(1, stack // len(seeds)), **common)
    return {"tuning": tuning, "best rate": best, "loss": loss}


# %%
arms = lambda long, short: [
    ["Post-LN", "Post-LN", short],
    ["Post-LN, long warm-up", "Post-LN", long],
    ["DeepNorm", "DeepNorm", short],
    ["Adam rule", "Adam rule", short],
    ["LAMB rule", "LAMB rule", short],
    ["Pre-LN", "Pre-LN", short],
    ["Pre-LN, small λ", "Pre-LN -0.5", short],
]
three_arms = [["Post-LN", "Post-LN", 10], ["DeepNorm", "DeepNorm", 10], ["Pre-LN", "Pre-LN", 10]]
medium = {"d": 64, "heads": 4, "width": 128, "context": 64}
e4_full, e5_full = arms(600, 60), arms(200, 40)

# %%
e4 = nb.run(
    "E4",
    tuned_decoders,
    arms=nb.at_scale(cpu=three_arms, gpu=arms(200, 40), full=e4_full),
    rates=nb.at_scale(cpu=[5e-3], gpu=[1e-3, 3e-3], full=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
    tuning_seed=0,
    seeds=nb.at_scale(cpu=[1], gpu=[1, 2], full=[1, 2, 3, 4]),
    depth=nb.at_scale(cpu=24, gpu=24, full=50),
    shape=nb.at_scale(cpu=small, gpu=medium, full=medium),
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    **nb.at_scale(
        cpu={"steps": 60, "every": 5, "stack": 8},
        gpu={"steps": 200, "every": 10, "stack": 16},
        full={"steps": 600, "every": 10, "stack": 32},
    ),
)


# %% [markdown]
# The training loop is checked against an independent one, five steps of `torch.optim.Adam` on the plain network in float64, before anything is read
# off it.
# %% tags=["hide-input"]
def reference_losses(seed, N, rates, batch):
    """Losses of DeepNorm under torch.optim.Adam with the given rate at each step, float64, on the text of that seed."""
    model = decoder(["DeepNorm"], [seed], N, small)
    leaf = lambda w: w.detach()[0].double().requires_grad_()
    table, places, head = leaf(model.tokens.weight), leaf(model.positions.weight), leaf(model.head.weight)
    network = [[leaf(getattr(model, role)[:, l]) for role in ("wq", "wk", "wv", "wo", "w1", "w2")] for l in range(N)]
    optimizer, draw, losses = (
        torch.optim.Adam([table, places, head, *(w for weights in network for w in weights)], betas=(0.9, 0.98)),
        text_batches(cpu, [seed], 1, batch, 32),
        [],
    )
    for step, rate in enumerate(rates):
        x, y = (t[0] for t in draw(step))
        last = list(post_norm(norm0(table[x] + places), network, (2 * N) ** 0.25, 2))[-1]
        loss = F.cross_entropy((last @ head).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


loop = train_stack(cpu, [["DeepNorm", 0.02, 4], ["LAMB rule", 1e-3, 1]], [5, 6], depth=3, shape=small, batch=4, steps=5)
reference_loop = reference_losses(6, 3, [0.005, 0.01, 0.015, 0.02, 0.02], 4)
loop_error = entry_gap(loop[:, 0, 1], torch.tensor(reference_loop))
choice = tuned_decoders(
    cpu,
    arms=[["one", "DeepNorm", 2], ["two", "Pre-LN", 2]],
    rates=[1e-6, 1e-2],
    tuning_seed=0,
    seeds=[1],
    **{"depth": 1, "shape": small, "batch": 4, "steps": 12, "every": 3, "stack": 3},
)

direct = train_stack(cpu, [["DeepNorm", 1e-2, 2]], [0], depth=1, shape=small, batch=4, steps=12)[:, 0, 0].view(4, 3).mean(1)
tuning_error = entry_gap(choice["tuning"][0, 1], direct)
mixed_arms = [["Pre-LN", 1e-2, 2], ["DeepNorm", 1e-3, 1], ["Pre-LN -0.5", 1e-3, 1], ["LAMB rule", 1e-2, 3]]
brief = {"depth": 1, "shape": small, "batch": 2}
together = train_decoders(cpu, mixed_arms, [3], every=2, stack=3, steps=4, **brief)[:, 0]
alone = torch.stack([train_stack(cpu, [arm], [3], steps=4, **brief)[:, 0, 0].view(2, 2).mean(1) for arm in mixed_arms])
order_error = entry_gap(together, alone)
poisoned = train_decoders(cpu, [["DeepNorm", 1e38, 1], ["DeepNorm", 1e-3, 1]], [3], every=2, stack=3, steps=4, **brief)[0, 0, -1]
direct = train_stack(cpu, [["DeepNorm", 1e-2, 2]], [1], depth=1, shape=small, batch=4, steps=12)[:, 0, 0].view(4, 3).mean(1)
final_error = entry_gap(choice["loss"][0, 0], direct)
asked, true_decoders = [], train_decoders


def made_up(device, arms, seeds, **common):
    """In place of train_decoders: curves of four buckets that cross, the rate 0.001 leads at first and 0.01 in the end."""
    asked.append([arms, list(seeds)])
    return torch.tensor([[[1.0, 1.0, 4.0, 4.0] if rate == 1e-3 else [4.0, 4.0, 1.0, 1.0]] * len(seeds) for _, rate, _ in arms])


train_decoders = made_up
crossed = tuned_decoders(cpu, arms=[["one", "DeepNorm", 7]], rates=[1e-3, 1e-2], tuning_seed=0, seeds=[1, 2], stack=3)["best rate"]
train_decoders = true_decoders
as_asked = asked == [[[["DeepNorm", 1e-3, 7], ["DeepNorm", 1e-2, 7]], [0]], [[["DeepNorm", 1e-2, 7]], [1, 2]]]

# %% tags=["hide-input"]
e4_record = nb.recorded("E4")


def final_losses(record):
    """Mean loss of the last 20 steps: {label: one number a fresh seed}, {label: [one number a rate]}, {label: best rate}."""
    labels = [label for label, _, _ in record.config["arms"]]
    last = {label: np.mean(np.array(runs)[:, -2:], 1) for label, runs in zip(labels, record.result["loss"], strict=True)}
    grid = {label: np.mean(np.array(rows)[:, -2:], 1) for label, rows in zip(labels, record.result["tuning"], strict=True)}
    return last, grid, dict(zip(labels, record.result["best rate"], strict=True))


def arms_as_written(record, full):
    """A check: the arms of a record are those of the text, each label names its scheme, and "long" means the whole run."""
    same = record.config["arms"] == full
    named = all(label.split(",")[0] == name.split(" -")[0] for label, name, _ in full)
    long = {label: warmup for label, _, warmup in full}["Post-LN, long warm-up"] == record.config["steps"]
    return ledger.close(
        "arms: as recorded, labels name their schemes, long warm-up is the whole run (3: all)", same + named + long, 3, abs=1e-9
    )


def draw_training(record, live, live_arms, live_every, curves_title, suptitle):
    """Left: mean training curves at the best rates (and the live run); right: final loss against the learning rate."""
    figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 4.0), sharey=True)
    _, grid, _ = final_losses(record)
    for (label, _, _), runs in zip(record.config["arms"], record.result["loss"], strict=True):
        color, dash, marker = STYLE[label]
        every = record.config["every"]
        axes.plot(np.arange(len(runs[0])) * every + every / 2, np.mean(runs, 0), color=color, ls=dash, lw=1.5)
        axes.plot([], [], color=color, ls=dash, marker=marker, ms=4, label=label)
        right.plot(record.config["rates"], grid[label], color=color, ls=dash, marker=marker, ms=4, lw=1.2)
    for (label, _, _), runs in zip(live_arms, live["loss"], strict=True):
        axes.plot((len(runs[0]) - 0.5) * live_every, runs[0][-1], STYLE[label][2], color=STYLE[label][0], ms=7, mfc="none", mew=1.5)
    for side in (axes, right):
        side.axhline(unigram, color=GREY, lw=1, ls=":")
        side.axhline(bigram, color=GREY, lw=1, ls=":")
    for level, name in ((unigram, "unigram\nentropy"), (bigram, "bigram\nentropy")):
        right.annotate(name, (1.02, level), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY, annotation_clip=False)
    axes.set(xlabel="step", ylabel="loss (nats a character)", ylim=(1.85, 5))
    right.set(xscale="log", xlabel="learning rate (log axis), one seed")
    right.set_xticks(record.config["rates"], [f"{rate:g}" for rate in record.config["rates"]], fontsize=8)
    right.minorticks_off()
    axes.legend(fontsize=8.5, loc="upper right", handlelength=2.6, labelspacing=0.3)
    axes.set_title(curves_title, fontsize=10)
    right.set_title("final loss by learning rate", fontsize=10)
    figure.suptitle(suptitle, fontsize=11, fontweight="bold", x=0.01, ha="left")
    nb.show(figure)


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: training curves of 50-layer decoders over 600 steps, each arm at its best learning rate: plain Post-LN with short and with long warm-up stays on the unigram line at 3.33, DeepNorm, the post's two rules and the two Pre-LN arms fall to between 2.0 and 2.15; open markers show where the live 24-layer run ends, with Post-LN above the others. Right: final loss against the learning rate: Post-LN lies on the unigram line at all six rates, the others are lowest at 0.003 and the Post-LN family fails at 0.01."}}
draw_training(
    e4_record,
    e4,
    three_arms,
    5,
    "N = 50 (open: live, N = 24)",
    "At no learning rate does 50-layer Post-LN get beyond letter frequencies",
)

# %% tags=["hide-input"]
e4_last, e4_grid, e4_best = final_losses(e4_record)
e4_scope = f"full, N = {e4_record.config['depth']}, {len(e4_record.config['seeds'])} seeds, rate tuned for each arm"
live_last = {label: float(np.mean(runs[0][-3:])) for (label, _, _), runs in zip(three_arms, e4["loss"], strict=True)}
trained = [label for label in e4_last if not label.startswith("Post-LN")]
nb.results(
    "E4",
    f"N = 50: mean loss of the last 20 of 600 steps, best of six rates, {len(e4_record.config['seeds'])} fresh seeds ± standard deviation; {e4_record.provenance}",
    ["arm", "best rate", "loss", "below the unigram entropy"],
    [
        [label, f"{e4_best[label]:g}", f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}", f"{unigram - np.mean(x):.2f}"]
        for label, x in e4_last.items()
    ],
)
nb.experiment(
    "E4",
    "Plain Post-LN of 24 or 50 layers stays at the unigram entropy at every learning rate tried, with short or long warm-up, for 600 steps; DeepNorm, the post's rules and Pre-LN train.",
    "verified",
    holds=[
        ledger.less(
            "the training loop against torch.optim.Adam on the plain network, five losses",
            loop_error,
            2e-5,
            machine=True,
            scope="float32 against float64",
        ),
        ledger.less("four arms trained together against each alone", order_error, 1e-4, machine=True),
        ledger.less("the tuner's grid: first arm, second rate, against that run alone", tuning_error, 1e-4, machine=True),
        ledger.less("its final runs: first arm, fresh seed, against that run alone", final_error, 1e-4, machine=True),
        ledger.close("its choice where the curves cross: the end counts", crossed[0], 1e-2, rel=1e-6),
        ledger.close("tuning on one seed, the best rate on the fresh ones, one warm-up (1: as asked)", float(as_asked), 1, abs=1e-9),
        ledger.close("a run that turns into NaN counts as a loss of", float(poisoned), 99, abs=1e-6),
        arms_as_written(e4_record, e4_full),
        ledger.close("the tuner's choice of 1e-6 and 1e-2", float(np.mean(choice["best rate"])), 1e-2, rel=1e-6),
        *[
            ledger.less(
                f"{label}: largest distance to the unigram entropy over the seeds",
                float(np.abs(e4_last[label] - unigram).max()),
                0.1,
                digits=2,
                scope=e4_scope,
            )
            for label in ("Post-LN", "Post-LN, long warm-up")
        ],
        ledger.less(
            "Post-LN at all six rates, short and long warm-up: largest distance",
            float(max(np.abs(e4_grid[label] - unigram).max() for label in ("Post-LN", "Post-LN, long warm-up"))),
            0.1,
            digits=2,
            scope="full, N = 50, 1 seed",
        ),
        *[
            ledger.more(f"{label}: below the unigram entropy by", unigram - float(e4_last[label].max()), 1.0, digits=3, scope=e4_scope)
            for label in trained
        ],
        *[
            ledger.less(
                f"{label} at 0.01: the same plateau, distance",
                abs(float(e4_grid[label][4]) - unigram),
                0.02,
                digits=1,
                scope="full, N = 50, 1 seed",
            )
            for label in ("DeepNorm", "LAMB rule")
        ],
        ledger.less(
            "Post-LN, live: distance to the unigram entropy",
            abs(live_last["Post-LN"] - unigram),
            0.12,
            digits=2,
            machine=True,
            scope="cpu, N = 24, 1 seed",
        ),
        ledger.more(
            "DeepNorm, live: below it by", unigram - live_last["DeepNorm"], 0.25, digits=2, machine=True, scope="cpu, N = 24, 1 seed"
        ),
    ],
)

# %% [markdown]
# **What we saw.** Post-LN ends at the unigram entropy at all six rates, down to $10^{-4}$. That plateau alone does not name the cause. DeepNorm and the
# LAMB rule end on it too, at 0.01 (right panel): increments that are too large, the post's case, have the same symptom. But those arms leave it at
# smaller rates, and Post-LN does not.

# %% [markdown]
# ### E4b: increments or equal tokens?
#
# Two explanations are now on the table for the failure of plain Post-LN: its first steps are too large (the post), or its tokens are equal before the
# first step (D11). A small rate and a long warm-up did not help, which speaks for the second. Here is the direct test. What halves the differences of
# tokens is the *attention*; ReLU is slower, like $N^{-2}$ (X9). So take plain Post-LN, $\alpha=1$, and shrink to $S^{-1/2}$ either $W_v,W_o$ alone or
# $W_1,W_2$ alone. In both cases half of the matrices keep gradients of order 1, so the increment still grows with the depth. **Expected:** by the post's
# account both fail; by D11 shrinking the attention saves the network at 50 layers and shrinking the feed-forward part does not.


# %%
def shrunk_decoder(arms, seeds, N, shape):
    """Plain Post-LN decoders; an arm names the roles of matrices that are scaled by S^(-1/2), such as "wv wo"."""
    model = decoder(["Post-LN"] * len(arms), seeds, N, shape)
    with torch.no_grad():
        for i, roles in enumerate(arms):
            for role in roles.split():
                getattr(model, role)[i * len(seeds) : (i + 1) * len(seeds)] *= (2 * N) ** -0.5
    return model


# %% tags=["hide-input"]
def which_half(device, *, arms, rates, seeds, depth, depths, shape, batch, steps, every, warmup):
    """Training losses (arms, rates, seeds, steps / every); at initialisation for each of ``depths`` the sum of the squared branch gradients
    and 1 - mean token cosine of the last state, (arms, seeds) each."""
    torch.set_float32_matmul_precision("high")
    result, grid = {}, [roles for roles in arms for _ in rates]
    x, y = text_batches(device, seeds, len(arms), batch, shape["context"])(0)
    for N in depths:
        model = shrunk_decoder(arms, seeds, N, shape).to(device)
        nn.cross_entropy_per_run(model(x), y).sum().backward()
        energy = sum(W.grad.square().sum((1, 2, 3)) for W in (model.wv, model.wo, model.w1, model.w2))
        with torch.no_grad():
            last = list(model.states(x))[-1]
        row = {"energy": energy, "difference": difference(last).mean(1)}
        result[f"N = {N}"] = {name: values.view(len(arms), len(seeds)) for name, values in row.items()}
    model, history = shrunk_decoder(grid, seeds, depth, shape).to(device), []
    train.fit_graphed(
        lambda x, y: nn.cross_entropy_per_run(model(x), y),
        text_batches(device, seeds, len(grid), batch, shape["context"]),
        optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat(len(arms)).repeat_interleave(len(seeds)), betas=(0.9, 0.98)),
        steps,
        schedule=lambda step, steps: min(1.0, (step + 1) / warmup),
        watch=lambda step, losses: history.append(losses),
    )
    losses = torch.stack(history).view(steps // every, every, len(arms), len(rates), len(seeds)).mean(1).permute(1, 2, 3, 0)
    return result | {"loss": losses.nan_to_num(99.0).clamp(max=99.0).cpu()}


# %%
halves = ["", "wv wo", "w1 w2"]
e4b = nb.run(
    "E4b",
    which_half,
    arms=halves,
    rates=nb.at_scale(cpu=[3e-3], gpu=[1e-3, 3e-3], full=[3e-4, 1e-3, 3e-3, 1e-2]),
    seeds=nb.at_scale(cpu=[1], gpu=[1, 2], full=[1, 2, 3]),
    depth=nb.at_scale(cpu=16, gpu=24, full=50),
    depths=nb.at_scale(cpu=[6, 12, 24], gpu=[8, 16, 32, 64], full=[8, 16, 32, 64, 128, 256]),
    shape=nb.at_scale(cpu=small, gpu=medium, full=medium),
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    **nb.at_scale(
        cpu={"steps": 100, "every": 10, "warmup": 10},
        gpu={"steps": 200, "every": 10, "warmup": 40},
        full={"steps": 300, "every": 10, "warmup": 40},
    ),
)

# %% tags=["hide-input"]
e4b_record = nb.recorded("E4b")
half_names = {"": "plain Post-LN", "wv wo": "W_v, W_o shrunk", "w1 w2": "W₁, W₂ shrunk"}
half_depths = [int(name.removeprefix("N = ")) for name in e4b_record.result if name != "loss"]
half_last = {arm: np.array(rows)[:, :, -2:].mean(2) for arm, rows in zip(halves, e4b_record.result["loss"], strict=True)}  # (rates, seeds)
best_row = lambda losses: losses[losses.mean(1).argmin()]
half_best = {arm: best_row(losses) for arm, losses in half_last.items()}
half_energy = {
    arm: [float(np.exp(np.mean(np.log(e4b_record.result[f"N = {n}"]["energy"][i])))) for n in half_depths] for i, arm in enumerate(halves)
}
half_tokens = {arm: [float(np.mean(e4b_record.result[f"N = {n}"]["difference"][i])) for n in half_depths] for i, arm in enumerate(halves)}
half_slopes = {arm: metrics.loglog_slope(half_depths, values).slope for arm, values in half_energy.items()}
at_64 = half_depths.index(64)
nb.results(
    "E4b",
    f"Which half of Post-LN must shrink? N = {e4b_record.config['depth']}, best of {len(e4b_record.config['rates'])} rates, {len(e4b_record.config['seeds'])} seeds ± standard deviation; {e4b_record.provenance}",
    ["arm", "exponent of Σ‖G‖² in N, at initialisation", "1 − mean token cosine, N = 64", "loss"],
    [
        [
            half_names[arm],
            f"{half_slopes[arm]:+.2f}",
            f"{half_tokens[arm][at_64]:.1g}",
            f"{half_best[arm].mean():.3f} ± {half_best[arm].std(ddof=1):.3f}",
        ]
        for arm in halves
    ],
)
whole = dict(decoder(["Post-LN"] * 3, [3, 4], 5, small).named_parameters())
part = dict(shrunk_decoder(halves, [3, 4], 5, small).named_parameters())
factor_error = {
    role: entry_gap(
        (part[role] / whole[role]).flatten(1).mean(1),
        torch.tensor([10**-0.5 if role in half.split() else 1.0 for half in halves]).repeat_interleave(2),
    )
    for role in ("wq", "wk", "wv", "wo", "w1", "w2")
}
half_run = {"rates": [1e-3], "seeds": [4], "depth": 1, "depths": [3], "shape": small, "batch": 4, "steps": 2, "every": 2, "warmup": 1}
one_half = which_half(cpu, arms=[""], **half_run)["N = 3"]
half_states, half_pairs = plain_gradients(4, 3, 4, 32, "Post-LN")
half_reference = {
    "energy": sum(float((G * G).sum()) for weights in half_pairs for _, G in weights[2:]),
    "difference": 1 - float(mean_cosine(half_states[-1]).mean()),
}
both = which_half(
    cpu, arms=["wv wo", ""], rates=[1e-3, 1e-2], seeds=[1, 2], depth=2, depths=[], shape=small, batch=4, steps=4, every=2, warmup=3
)
plain_again = train_stack(cpu, [["Post-LN", 1e-3, 3], ["Post-LN", 1e-2, 3]], [1, 2], depth=2, shape=small, batch=4, steps=4)
half_error = entry_gap(both["loss"][1], plain_again.view(2, 2, 2, 2).mean(1).permute(1, 2, 0))
deepnorm_64 = decoder(["DeepNorm"], e4b_record.config["seeds"], 64, e4b_record.config["shape"])
x, y = text_batches(cpu, e4b_record.config["seeds"], 1, e4b_record.config["batch"], e4b_record.config["shape"]["context"])(0)
nn.cross_entropy_per_run(deepnorm_64(x), y).sum().backward()
squared_64 = sum(W.grad.square().sum((1, 2, 3)) for W in (deepnorm_64.wv, deepnorm_64.wo, deepnorm_64.w1, deepnorm_64.w2))
deepnorm_energy = float(squared_64.log().mean().exp())
del deepnorm_64
live_half = {arm: float(np.mean(e4b["loss"][i][0][0][-2:])) for i, arm in enumerate(halves)}

# %% tags=["hide-input"]
half_scope = f"full, N = {e4b_record.config['depth']}, {len(e4b_record.config['seeds'])} seeds, rate tuned"
nb.experiment(
    "E4b",
    "Plain Post-LN of 50 layers trains once the attention branch alone is shrunk, although its increment still grows with the depth; with the feed-forward branch shrunk it does not.",
    "verified",
    holds=[
        ledger.less("its plain arm, two rates and seeds, against E4's loop", half_error, 1e-4, machine=True),
        *[
            ledger.less(f"largest error of the factors, three arms, two seeds, {role}", error, 1e-5, machine=True)
            for role, error in factor_error.items()
        ],
        *[
            ledger.close(
                f"{what}: this code over autograd on the plain network", float(one_half[what]) / value, 1, abs=2e-3, digits=3, machine=True
            )
            for what, value in half_reference.items()
        ],
        ledger.close(
            "the best rate is that of the lowest mean over seeds, on a made-up grid",
            best_row(np.array([[1.0, 1.0, 9.0], [2.0, 3.0, 2.0]]))[1],
            3,
            abs=1e-9,
        ),
        ledger.more(
            "attention shrunk: below the unigram entropy by, recorded",
            unigram - float(half_best["wv wo"].max()),
            0.6,
            digits=3,
            scope=half_scope,
        ),
        *[
            ledger.less(
                f"{half_names[arm]}: distance to the unigram entropy at every rate, recorded",
                float(np.abs(half_last[arm].mean(1) - unigram).max()),
                0.1,
                digits=2,
                scope=half_scope,
            )
            for arm in ("", "w1 w2")
        ],
        ledger.more("attention shrunk: exponent of Σ‖G‖², recorded", half_slopes["wv wo"], 0.5, digits=2, scope=half_scope),
        ledger.more(
            "attention shrunk: its recorded Σ‖G‖² at N = 64 over DeepNorm's at the same shape, batch and seeds, computed live",
            half_energy["wv wo"][at_64] / deepnorm_energy,
            100,
            digits=2,
            machine=True,
            scope=f"{len(e4b_record.config['seeds'])} seeds",
        ),
        ledger.more(
            "attention shrunk, rate 0.001: below the unigram entropy by, every seed",
            unigram - float(half_last["wv wo"][e4b_record.config["rates"].index(1e-3)].max()),
            0.6,
            digits=3,
            scope=half_scope,
        ),
        ledger.less(
            "rate 0.003: distance to it, every seed",
            float(np.abs(half_last["wv wo"][e4b_record.config["rates"].index(3e-3)] - unigram).max()),
            0.1,
            digits=2,
            scope=half_scope,
        ),
        ledger.close("where DeepNorm is at its best (E4)", e4_best["DeepNorm"], 3e-3, rel=1e-6, digits=1, scope=e4_scope),
        ledger.more(
            "attention shrunk, live: below plain Post-LN by",
            live_half[""] - live_half["wv wo"],
            0.2,
            digits=2,
            machine=True,
            scope="cpu, N = 16, 1 seed",
        ),
        ledger.less(
            "feed-forward shrunk, live: distance to plain Post-LN",
            abs(live_half[""] - live_half["w1 w2"]),
            0.1,
            digits=2,
            machine=True,
            scope="cpu, N = 16, 1 seed",
        ),
    ],
)

# %% [markdown]
# **What we saw.** With only $W_v,W_o$ shrunk the network trains, though at 64 layers its squared gradients are more than a hundred times those of
# DeepNorm of the same shape, and grow with the depth. With only $W_1,W_2$ shrunk nothing changes. So equal tokens are what stops plain Post-LN here.
# The increment has its say too: this network trains at rates up to $10^{-3}$ and fails at $3\cdot10^{-3}$, where DeepNorm is at its best, and it then
# ends on the unigram plateau, the very symptom of equal tokens. *The increment sets the rate; the tokens decide whether there is anything to learn.*
# (For the other two arms $1-\rho$ stays at $10^{-7}$ from 64 layers on: the rounding noise of TF32.)

# %% [markdown]
# ## E5: 1,000 layers
#
# **Question.** The title's: a decoder of 1,000 layers, 2,000 sublayers, on one GPU. **Set-up.** As E4 with $N=1000$ (32.8 million weights in the
# layers), four rates, 200 steps, three fresh seeds. E5c extends the grid for the one arm whose best rate is its last, the Adam rule. One step is tens
# of thousands of small kernels; captured as one CUDA graph, a whole stack of runs takes a fraction of a second. Live: $N=64$, width 32, 40 steps, one
# rate.

# %%
two_arms = [["Post-LN", "Post-LN", 8], ["DeepNorm", "DeepNorm", 8]]
e5 = nb.run(
    "E5",
    tuned_decoders,
    arms=nb.at_scale(cpu=two_arms, gpu=arms(100, 20), full=e5_full),
    rates=nb.at_scale(cpu=[5e-3], gpu=[1e-3], full=[2e-4, 6e-4, 2e-3, 6e-3]),
    tuning_seed=0,
    seeds=nb.at_scale(cpu=[1], gpu=[1], full=[1, 2, 3]),
    depth=nb.at_scale(cpu=64, gpu=200, full=1000),
    shape=nb.at_scale(cpu={**small, "context": 16}, gpu=medium, full=medium),
    batch=nb.at_scale(cpu=6, gpu=16, full=16),
    **nb.at_scale(
        cpu={"steps": 40, "every": 5, "stack": 8},
        gpu={"steps": 100, "every": 10, "stack": 8},
        full={"steps": 200, "every": 10, "stack": 15},
    ),
)

# %%
e5c = nb.run(
    "E5c",
    tuned_decoders,
    arms=[["Adam rule", "Adam rule", nb.at_scale(cpu=8, gpu=20, full=40)]],
    rates=nb.at_scale(cpu=[5e-3], gpu=[2e-3], full=[6e-3, 2e-2]),
    tuning_seed=0,
    seeds=nb.at_scale(cpu=[1], gpu=[1], full=[1, 2, 3]),
    depth=nb.at_scale(cpu=4, gpu=200, full=1000),
    shape=nb.at_scale(cpu=small, gpu=medium, full=medium),
    batch=nb.at_scale(cpu=4, gpu=16, full=16),
    **nb.at_scale(
        cpu={"steps": 10, "every": 5, "stack": 8},
        gpu={"steps": 100, "every": 10, "stack": 8},
        full={"steps": 200, "every": 10, "stack": 15},
    ),
)
e5_record, e5c_record = nb.recorded("E5"), nb.recorded("E5c")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels for decoders of 1,000 layers. Left: training curves over 200 steps at each arm's best learning rate: plain Post-LN stays on the unigram line, the other arms fall below the bigram line. Right: final loss against the learning rate for each arm; Post-LN lies on or above the unigram line at every rate."}}
draw_training(
    e5_record,
    e5,
    two_arms,
    5,
    "N = 1000 (open: live, N = 64)",
    "1,000 layers: the Adam rule takes the largest rate and ends lowest",
)

# %% tags=["hide-input"]
e5_last, e5_grid, e5_best = final_losses(e5_record)
e5_scope = f"full, N = {e5_record.config['depth']}, {len(e5_record.config['seeds'])} seeds, rate tuned for each arm"
live5 = {label: float(np.mean(runs[0][-2:])) for (label, _, _), runs in zip(two_arms, e5["loss"], strict=True)}
nb.results(
    "E5",
    f"N = 1000: mean loss of the last 20 of 200 steps, best of four rates, {len(e5_record.config['seeds'])} fresh seeds ± standard deviation; {e5_record.provenance}",
    ["arm", "best rate", "loss", "below the unigram entropy"],
    [
        [label, f"{e5_best[label]:g}", f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}", f"{unigram - np.mean(x):.2f}"]
        for label, x in e5_last.items()
    ],
)

# %% tags=["hide-input"]
post_arms = ("Post-LN", "Post-LN, long warm-up")
others = [label for label in e5_last if label not in post_arms]
nb.experiment(
    "E5",
    "A decoder of 1,000 layers trains on one GPU with DeepNorm, with the post's rules and with Pre-LN; plain Post-LN stays at the unigram entropy at every rate and warm-up tried.",
    "verified",
    holds=[
        arms_as_written(e5_record, e5_full),
        *[
            ledger.less(
                f"{label}: largest distance to the unigram entropy over the seeds",
                float(np.abs(e5_last[label] - unigram).max()),
                0.1,
                digits=2,
                scope=e5_scope,
            )
            for label in post_arms
        ],
        ledger.less(
            "Post-LN at all four rates and both warm-ups: largest distance",
            float(max(np.abs(e5_grid[label] - unigram).max() for label in post_arms)),
            0.1,
            digits=2,
            scope="full, N = 1000, 1 seed",
        ),
        *[
            ledger.more(f"{label}: below the unigram entropy by", unigram - float(e5_last[label].max()), 0.6, digits=3, scope=e5_scope)
            for label in others
        ],
        ledger.less(
            "Post-LN, live: distance to the unigram entropy",
            abs(live5["Post-LN"] - unigram),
            0.25,
            digits=2,
            machine=True,
            scope="cpu, N = 64, 1 seed",
        ),
        ledger.more(
            "DeepNorm, live: below Post-LN by",
            live5["Post-LN"] - live5["DeepNorm"],
            0.1,
            digits=2,
            machine=True,
            scope="cpu, N = 64, 1 seed",
        ),
    ],
)
extended = np.mean(np.array(e5c_record.result["tuning"])[0][:, -2:], 1)  # at 0.006 and 0.02
nb.experiment(
    "E5c",
    "At 1,000 layers the best rate of the Adam rule, the last of E5's grid, is interior: the next rate fails.",
    "verified",
    holds=[
        ledger.more(
            "final loss at 0.02 over that at 0.006", float(extended[1] - extended[0]), 0.5, digits=2, scope="full, N = 1000, 1 seed"
        ),
        ledger.close(
            "the three fresh seeds once more, over E5's",
            float(np.mean(final_losses(e5c_record)[0]["Adam rule"]) / np.mean(e5_last["Adam rule"])),
            1,
            abs=0.01,
            digits=4,
            scope=e5_scope,
        ),
        ledger.less(
            "live: the loss falls, last over first",
            e5c["loss"][0][0][-1] / e5c["loss"][0][0][0],
            1,
            digits=2,
            machine=True,
            scope="cpu, N = 4",
        ),
    ],
)
paired = {
    "N = 1000: DeepNorm's loss over the Adam rule's": (e5_last["DeepNorm"] - e5_last["Adam rule"], 0.03, e5_scope),
    "N = 1000: the small-λ Pre-LN's over the Adam rule's": (e5_last["Pre-LN, small λ"] - e5_last["Adam rule"], 0.04, e5_scope),
    "N = 1000: the LAMB rule's over DeepNorm's": (e5_last["LAMB rule"] - e5_last["DeepNorm"], 0.01, e5_scope),
    "N = 1000: Pre-LN's over DeepNorm's": (e5_last["Pre-LN"] - e5_last["DeepNorm"], 0.1, e5_scope),
    "N = 50: the Adam rule's over DeepNorm's": (e4_last["Adam rule"] - e4_last["DeepNorm"], 0.03, e4_scope),
    "N = 50: the Adam rule's over the LAMB rule's": (e4_last["Adam rule"] - e4_last["LAMB rule"], 0.01, e4_scope),
}
nb.claim(
    "X7",
    "At 1,000 layers, with 40 steps of warm-up, the post's Adam rule trains best of all arms, and at the largest rate; at 50 layers it was the slowest of the three scaled Post-LN rules.",
    "verified",
    holds=[
        *[
            ledger.more(f"{what}: smallest difference of runs of one seed and text", float(x.min()), bound, digits=2, scope=scope)
            for what, (x, bound, scope) in paired.items()
        ],
        ledger.close(
            "best rate of the Adam rule over that of the LAMB rule, N = 1000",
            e5_best["Adam rule"] / e5_best["LAMB rule"],
            10,
            rel=0.01,
            digits=2,
            scope=e5_scope,
        ),
        ledger.more(
            "and over the largest of all other arms",
            e5_best["Adam rule"] / max(rate for label, rate in e5_best.items() if label != "Adam rule"),
            2.5,
            digits=2,
            scope=e5_scope,
        ),
        ledger.close("over the LAMB rule's, N = 50", e4_best["Adam rule"] / e4_best["LAMB rule"], 1, rel=0.01, digits=2, scope=e4_scope),
    ],
)

# %% [markdown]
# **What we saw.** Plain Post-LN does not diverge. It sits at the unigram entropy, at every rate and both warm-ups tried, as D11 expects. The arms
# that train come in an order that the budgets suggest: the Adam rule, whose first Adam step does not grow with the depth, takes ten times the rate of
# the LAMB rule and three times that of DeepNorm, and ends lowest. At 50 layers that advantage does not exist yet, and its tiny initial branches are a
# handicap. Unscaled Pre-LN trains at every rate of the grid and learns slowest; with $\lambda=S^{-1/2}$ it is level with DeepNorm.

# %% [markdown]
# ### E5b: does the largest rate follow the budget?
#
# If the first step were all that matters, the largest rate that still trains would go as the budgets say: under Adam the first step of DeepNorm and
# of the LAMB rule grows like $\eta\sqrt N$, that of the Adam rule like $\eta$. **Expected:** from $N=24$ to $N=384$ the largest rate of the first two
# falls by a factor of 4, that of the Adam rule stays. **Set-up.** A grid of factor 2, two seeds, 100 steps, a warm-up of 20 and half the batch of E5.
# "Trains" means that the seed ends 0.3 below the unigram entropy.


# %%
def rate_by_depth(device, *, schemes, rates, depths, seeds, warmup, **common):
    """Mean loss over each ``every`` steps, (schemes, rates, seeds, steps / every), for each depth."""
    torch.set_float32_matmul_precision("high")
    grid = [[name, rate, warmup] for name in schemes for rate in rates]
    curves = {f"N = {N}": train_decoders(device, grid, seeds, depth=N, **common) for N in depths}
    return {name: losses.view(len(schemes), len(rates), len(seeds), -1) for name, losses in curves.items()}


# %%
e5b = nb.run(
    "E5b",
    rate_by_depth,
    schemes=["DeepNorm", "Adam rule", "LAMB rule"],
    rates=nb.at_scale(cpu=[3e-3, 3e-2], gpu=[1e-3, 2e-3, 4e-3, 8e-3], full=[3e-4, 6e-4, 1.2e-3, 2.4e-3, 4.8e-3, 9.6e-3, 1.92e-2]),
    depths=nb.at_scale(cpu=[2, 8], gpu=[24, 96], full=[24, 96, 384]),
    seeds=nb.at_scale(cpu=[0], gpu=[0], full=[0, 1]),
    shape=nb.at_scale(cpu=small, gpu=medium, full=medium),
    batch=8,
    **nb.at_scale(
        cpu={"steps": 10, "every": 5, "warmup": 3, "stack": 8},
        gpu={"steps": 100, "every": 10, "warmup": 20, "stack": 12},
        full={"steps": 100, "every": 10, "warmup": 20, "stack": 21},
    ),
)
# %% tags=["hide-input"]
e5b_record = nb.recorded("E5b")
e5b_arms, e5b_rates, e5b_depths = (e5b_record.config[key] for key in ("schemes", "rates", "depths"))
by_seed = {n: np.array(e5b_record.result[f"N = {n}"])[..., -2:].mean(3) for n in e5b_depths}  # (schemes, rates, seeds)


def trains_at(losses, level):
    """For losses (schemes, rates, seeds): the largest rate of each scheme and seed that ends below ``level``, 0 where none does."""
    return [[max((r for r, x in zip(e5b_rates, runs, strict=True) if x < level), default=0.0) for runs in arm.T] for arm in losses]


largest = {n: np.array(trains_at(by_seed[n], unigram - 0.3)) for n in e5b_depths}  # (schemes, seeds)
deep_n = e5b_depths[-1]
with np.errstate(divide="ignore"):
    ratios = largest[e5b_depths[0]] / largest[deep_n]
nb.results(
    "E5b",
    f"Largest learning rate that trains, seed {' / seed '.join(map(str, e5b_record.config['seeds']))}, by depth; {e5b_record.provenance}",
    ["arm", *(f"N = {n}" for n in e5b_depths), f"N = {e5b_depths[0]} over N = {deep_n}", "expected"],
    [
        [
            arm,
            *(" / ".join(f"{rate:g}" if rate else "none" for rate in largest[n][i]) for n in e5b_depths),
            " / ".join(f"{x:g}" if np.isfinite(x) else "no rate left" for x in ratios[i]),
            "1" if arm == "Adam rule" else "4",
        ]
        for i, arm in enumerate(e5b_arms)
    ],
)

# %% tags=["hide-input"]
e5b_scope = f"full, {len(e5b_record.config['seeds'])} seeds, a grid of factor 2"
grid_test = {"depths": [2], "seeds": [1, 2], "warmup": 3, "shape": small, "batch": 4, "steps": 4, "every": 2, "stack": 3}
small_grid = rate_by_depth(cpu, schemes=["DeepNorm", "Adam rule"], rates=[1e-3, 1e-2], **grid_test)["N = 2"]
one_arm = train_stack(cpu, [["Adam rule", 1e-3, 3]], [1, 2], depth=2, shape=small, batch=4, steps=4)
grid_error = entry_gap(small_grid[1, 0], one_arm[:, 0].view(2, 2, 2).mean(1).T)


def outgrown(name, N, rate, warmup, d=64):
    """Steps of Adam, each of the rate then in force (linear warm-up), until a branch matrix has moved by its initial entries."""
    moved = np.cumsum([rate * min(1, (t + 1) / warmup) for t in range(1000)])
    return int(np.argmax(moved >= scheme(name, N)[1] / d**0.5)) + 1


deepnorm, lamb, adam_rule = (ratios[e5b_arms.index(name)] for name in ("DeepNorm", "LAMB rule", "Adam rule"))
nb.experiment(
    "E5b",
    "The largest rate that trains falls like N^(−1/2) for DeepNorm and the LAMB rule and does not change for the Adam rule.",
    "partly",
    holds=[
        ledger.less("the grid of schemes, rates and seeds against one arm alone", grid_error, 1e-4, machine=True),
        ledger.close(
            "the reading of a made-up grid: the largest of two rates that train, one, none",
            100 * np.array(trains_at(np.array([[[1.0, 5.0, 5.0], [1.0, 1.0, 5.0], *[[5.0, 5.0, 5.0]] * (len(e5b_rates) - 2)]]), 3.0)).sum(),
            100 * (e5b_rates[1] + e5b_rates[1]),
            rel=1e-9,
            digits=3,
        ),
        *[
            ledger.more(
                f"{name}, seed {seed}: largest rate at N = 24 over N = 384 (expected 4)",
                float(ratio),
                1.5,
                digits=2,
                scope="full, 1 seed, a grid of factor 2",
            )
            for name, pair in (("DeepNorm", deepnorm), ("LAMB rule", lamb))
            for seed, ratio in zip(e5b_record.config["seeds"], pair, strict=True)
        ],
    ],
    fails=[
        ledger.more(
            "Adam rule, seed 0: the same ratio (expected 1)", float(adam_rule[0]), 4, digits=2, scope="full, 1 seed, a grid of factor 2"
        ),
        ledger.less(
            "Adam rule, seed 1: largest rate that trains at N = 384",
            float(largest[deep_n][e5b_arms.index("Adam rule"), 1]),
            1e-9,
            digits=1,
            scope="full, 1 seed, a grid of factor 2",
        ),
        ledger.more(
            "the exponent is not known: LAMB rule, ratio of seed 1 over that of seed 0",
            float(lamb[1] / lamb[0]),
            4,
            digits=2,
            scope=e5b_scope,
        ),
        *[
            ledger.close(
                f"steps until Adam at 0.0012, warm-up of 20, has moved by the initial entries, N = 384: {name}",
                outgrown(name, deep_n, 1.2e-3, 20),
                steps,
                abs=0.5,
                digits=2,
            )
            for name, steps in (("Adam rule", 12), ("DeepNorm", 24))
        ],
    ],
)

# %% [markdown]
# **What we saw.** With two seeds the ratio is known to a factor of 4; only the sign of the trend is. For all three arms the largest rate falls with the
# depth, on each seed: for DeepNorm and the LAMB rule as expected in sign, for the Adam rule against the expectation (at $N=24$ it still trains at the
# last rate of the grid, so its ratio is at least 8). Seed 0 of the Adam rule trains at $N=384$ up to 0.0024, seed 1 nowhere. Near the limit the two
# seeds of DeepNorm part as well (2.72 and 3.36 at 0.0048).
#
# Why the Adam rule fails here and not in E5, where $\lambda$ is smaller still and three seeds train at 0.006, we do not know. E5b has half of E5's warm-up and
# half of its batch, and the two are confounded. We suspect the warm-up: at 0.0012 the steps add up to the initial entries after 12 steps, well inside it,
# against 24 for DeepNorm, and the budget is a statement about initial matrices (E6 measures what follows). So the lead of the Adam rule in E5 is real, and it
# is not robust.

# %% [markdown]
# ## E6: the first steps
#
# **Question.** C5 and C6, and how long the guarantee of the initialisation lasts. **Measured:** the RMS change of the last hidden state (itself of RMS
# one) on a probe batch, after each of the first steps of SGD ($\eta=0.1$) and of Adam ($\eta=10^{-3}$), layers' matrices only. **Expected:** after one
# SGD step no dependence on $N$ for DeepNorm; after one Adam step growth like $\sqrt N$ for DeepNorm and none for the Adam rule. But Adam moves every
# entry by $\eta$ a step, and the entries start at $\lambda/\sqrt d$: after some $\lambda/(\eta\sqrt d)$ steps the matrices have outgrown their
# initialisation.


# %%
def finite_steps(device, *, schemes, depths, seeds, rates, steps, shape, batch):
    """RMS change of the last hidden state on a probe batch after each step of training the matrices: (schemes, seeds, steps) each."""
    result = {}
    for name, rate in rates.items():
        for N in depths:
            model, draw = decoder(schemes, seeds, N, shape).to(device), text_batches(device, seeds, len(schemes), batch, shape["context"])
            (probe, _), optimizer = (
                draw(0),
                {"SGD": optim.StackedSGD, "Adam": optim.StackedAdam}[name](
                    [model.wq, model.wk, model.wv, model.wo, model.w1, model.w2], torch.full((len(schemes) * len(seeds),), rate)
                ),
            )
            last = lambda model=model, probe=probe: {"F": list(model.states(probe))[-1]}

            def step(t, model=model, draw=draw, optimizer=optimizer):
                x, y = draw(t)
                optimizer.zero_grad()
                nn.cross_entropy_per_run(model(x), y).sum().backward()
                optimizer.step()

            moved = train.coordinate_check(last, step, steps[name])["F"]
            result[f"{name}, N = {N}"] = moved.T.reshape(len(schemes), len(seeds), -1)
    return result


# %%
e6 = nb.run(
    "E6",
    finite_steps,
    schemes=nb.at_scale(cpu=post_schemes[:4], gpu=post_schemes, full=post_schemes),
    depths=nb.at_scale(cpu=[6, 12, 24], gpu=[6, 12, 24, 48, 96], full=[6, 12, 24, 48, 96, 192]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=list(range(8))),
    rates={"SGD": 0.1, "Adam": 1e-3},
    steps=nb.at_scale(cpu={"SGD": 1, "Adam": 1}, gpu={"SGD": 1, "Adam": 20}, full={"SGD": 10, "Adam": 20}),
    shape=small,
    batch=8,
)


# %% tags=["hide-input"]
def reference_moves(name, steps):
    """RMS change of the last state after each step of torch's optimiser, DeepNorm, N = 3, seed 4, on the plain network in float64."""
    model, draw = decoder(["DeepNorm"], [4], 3, small), text_batches(cpu, [4], 1, 4, 32)
    table, places, head = (t.detach()[0].double() for t in (model.tokens.weight, model.positions.weight, model.head.weight))
    network = [
        [getattr(model, role)[0, l].detach().double().requires_grad_() for role in ("wq", "wk", "wv", "wo", "w1", "w2")] for l in range(3)
    ]
    parameters = [w for weights in network for w in weights]
    optimizer = {"SGD": lambda: torch.optim.SGD(parameters, 0.1), "Adam": lambda: torch.optim.Adam(parameters, 1e-3)}[name]()
    last = lambda ids: list(post_norm(norm0(table[ids] + places), network, 6**0.25, 2))[-1]
    probe, moved = draw(0)[0][0], []
    before = last(probe).detach()
    for t in range(steps):
        x, y = (tensor[0] for tensor in draw(t + 1))
        optimizer.zero_grad()
        F.cross_entropy((last(x) @ head).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
        moved.append(float((last(probe).detach() - before).square().mean().sqrt()))
    return moved


check_e6 = finite_steps(
    cpu,
    schemes=["Adam rule", "DeepNorm"],
    depths=[3],
    seeds=[3, 4],
    rates={"SGD": 0.1, "Adam": 1e-3},
    steps={"SGD": 2, "Adam": 3},
    shape=small,
    batch=4,
)
e6_record = nb.recorded("E6")
e6_depths, e6_schemes = e6_record.config["depths"], e6_record.config["schemes"]


def moved_after(run, optimizer, index, step=0):
    """Geometric mean over seeds of the change after ``step + 1`` steps, an entry a depth."""
    return [float(np.exp(np.mean(np.log(np.array(values[index])[:, step])))) for name, values in run.items() if name.startswith(optimizer)]


moves = {(o, name): moved_after(e6_record.result, o, i) for o in ("SGD", "Adam") for i, name in enumerate(e6_schemes)}
move_slopes = {key: metrics.loglog_slope(e6_depths, values).slope for key, values in moves.items()}
live_moves = {(o, name): moved_after(e6, o, i) for o in ("SGD", "Adam") for i, name in enumerate(post_schemes[:4])}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two log-log panels of the RMS change of the output against the number of layers. Left, after one SGD step: plain Post-LN is saturated near 1 at all depths, DeepNorm and the LAMB rule are level at 0.01 and 0.02, the Adam rule falls like one over N. Right, after one Adam step: DeepNorm and the LAMB rule rise like the square root of N, the Adam rule is level at 0.014, plain Post-LN is saturated."}}
figure, panels = plt.subplots(1, 2, figsize=(7.8, 3.8))
for axes, o, title in zip(panels, ("SGD", "Adam"), ("one SGD step, η = 0.1", "one Adam step, η = 0.001"), strict=True):
    for name in ("Post-LN", "DeepNorm", "Adam rule", "LAMB rule"):
        color, dash, marker = STYLE[name]
        axes.plot(e6_depths, moves[o, name], color=color, ls=dash, label=f"{name} ({move_slopes[o, name] + 0.0:+.2f})")
        axes.plot([6, 12, 24][: len(live_moves[o, name])], live_moves[o, name], marker, color=color, ms=5)
    axes.set(xscale="log", yscale="log", ylim=(5e-5 if o == "SGD" else 5e-3, 30 if o == "SGD" else 8), xlabel="layers N (log axis)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="upper right", title="measured exponent", title_fontsize=8, ncol=2)
panels[0].set_ylabel("RMS change of the last state")
figure.suptitle(
    "DeepNorm is flat under SGD; under Adam it is the post's Adam rule that is flat", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
e6_scope = f"full, {len(e6_record.config['seeds'])} seeds, N = {min(e6_depths)} to {max(e6_depths)}"
index_of = {name: i for i, name in enumerate(e6_schemes)}


def beyond_linear(run, index, steps=20):
    """The change after ``steps`` steps of Adam over ``steps`` times that after one, an entry a depth."""
    return np.array(moved_after(run, "Adam", index, steps - 1)) / (steps * np.array(moved_after(run, "Adam", index)))


after_20 = beyond_linear(e6_record.result, index_of["Adam rule"])
squares = {"SGD, N = 6": [[[1.0]]], "Adam, N = 6": [[[3.0 * t**2 for t in range(1, 31)]] * 2]}
nb.experiment(
    "E6",
    "One SGD step moves a DeepNorm network equally far at all depths, one Adam step in proportion to √N; with the post's Adam rule an Adam step moves it equally far.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"{o}, step {t + 1}: this code over the plain network in float64",
                float(check_e6[f"{o}, N = 3"][1, 1, t]) / value,
                1,
                abs=5e-3,
                digits=3,
                machine=True,
            )
            for o, steps in (("SGD", 2), ("Adam", 3))
            for t, value in enumerate(reference_moves(o, steps))
        ],
        ledger.close("exponent, DeepNorm, SGD", move_slopes["SGD", "DeepNorm"], 0, abs=0.1, digits=2, scope=e6_scope),
        ledger.close("exponent, DeepNorm, Adam", move_slopes["Adam", "DeepNorm"], 0.5, abs=0.06, digits=2, scope=e6_scope),
        ledger.close("exponent, Adam rule, Adam", move_slopes["Adam", "Adam rule"], 0, abs=0.05, digits=2, scope=e6_scope),
        ledger.more(
            "live: DeepNorm after one Adam step, N = 24 over N = 6",
            live_moves["Adam", "DeepNorm"][-1] / live_moves["Adam", "DeepNorm"][0],
            1.6,
            digits=2,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.close(
            "live: the Adam rule, the same",
            live_moves["Adam", "Adam rule"][-1] / live_moves["Adam", "Adam rule"][0],
            1,
            abs=0.25,
            digits=2,
            machine=True,
            scope="cpu, 3 seeds",
        ),
    ],
)
nb.claim(
    "C5",
    "With DeepNorm the change of the output after an SGD step does not depend on the depth; without it, it is not small.",
    "verified",
    holds=[
        ledger.less(
            "DeepNorm: largest over smallest, recorded",
            max(moves["SGD", "DeepNorm"]) / min(moves["SGD", "DeepNorm"]),
            1.4,
            digits=2,
            scope=e6_scope,
        ),
        ledger.less(
            "DeepNorm: largest over smallest, live",
            max(live_moves["SGD", "DeepNorm"]) / min(live_moves["SGD", "DeepNorm"]),
            2,
            digits=2,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.more(
            "plain Post-LN: smallest, recorded (two unrelated states differ by 1.4)",
            min(moves["SGD", "Post-LN"]),
            0.5,
            digits=2,
            scope=e6_scope,
        ),
    ],
)
nb.claim(
    "C6",
    "The derivation for SGD carries over to Adam (the paper), so that DeepNorm bounds the update.",
    "partly",
    holds=[
        ledger.more(
            "DeepNorm does train under Adam at N = 1000: below the unigram entropy by",
            unigram - float(e5_last["DeepNorm"].max()),
            0.6,
            digits=3,
            scope=e5_scope,
        ),
        ledger.more(
            "and on both seeds of E5b at N = 384, up to a rate of",
            float(largest[deep_n][e5b_arms.index("DeepNorm")].min()),
            2e-3,
            digits=2,
            scope=e5b_scope,
        ),
        ledger.less(
            "where the Adam rule does so up to a rate of (0: at none)",
            float(largest[deep_n][e5b_arms.index("Adam rule")].min()),
            1e-9,
            digits=1,
            scope=e5b_scope,
        ),
    ],
    fails=[
        ledger.more(
            "but its update under Adam grows at initialisation: exponent", move_slopes["Adam", "DeepNorm"], 0.4, digits=2, scope=e6_scope
        ),
        ledger.less(
            "the post's correction removes it: exponent of the Adam rule",
            abs(move_slopes["Adam", "Adam rule"]),
            0.05,
            digits=2,
            scope=e6_scope,
        ),
        ledger.better(
            "and trains to a lower loss at N = 1000, each at its best rate",
            e5_last["DeepNorm"],
            e5_last["Adam rule"],
            sigmas=2,
            scope=e5_scope,
        ),
    ],
)
nb.claim(
    "X8",
    "The guarantee of the initialisation is short-lived under Adam: matrices start with entries λ/√d and move by η a step, so the deeper the network the sooner its updates grow.",
    "verified",
    holds=[
        ledger.less(
            "Adam rule, N = 6: change after 20 steps over 20 times that after one; matrices last 51 steps",
            float(after_20[0]),
            1.5,
            digits=3,
            scope=e6_scope,
        ),
        ledger.close("the same of a change that grows like t²: 20", float(beyond_linear(squares, 0)[0]), 20, rel=1e-9),
        ledger.more("N = 192: the same; they last 9 steps", float(after_20[-1]), 3, digits=3, scope=e6_scope),
        ledger.increasing("over the six depths", after_20, scope=e6_scope),
        ledger.close("λ/(η√d) for N = 192, in steps", scheme("Adam rule", 192)[1] / (1e-3 * 32**0.5), 9.0, abs=0.05, digits=2),
    ],
)
# %% [markdown]
# **What we saw.** The exponents of E1 are those of real steps. And the guarantee is indeed a guarantee for the *start*: with the Adam rule the
# matrices are so small that at $N=192$ nine steps of Adam outgrow them, after which each step moves the output more, four times more by step 20. What
# the rule buys is a gentle start: a warm-up built into the initialisation.
#
# ## The paper's numbers beside ours
#
# The paper's experiments are translation models of up to 1,000 layers trained on many GPUs; ours are character models of a few minutes. Only the
# pattern can be compared. BLEU scores below are as the paper prints them.

# %% tags=["hide-input"]
nb.claim(
    "C14",
    "A 200-layer model of 3.2 billion parameters beats the 48-layer model of 12 billion by 5 BLEU: depth pays.",
    "not checkable",
    reason="Flores-101, all 7,482 directions: 13.6 (M2M-100, 48 layers, 12B) against 18.6 (DeepNet, 200 layers, 3.2B), as the paper prints them. The two were trained on different data (DeepNet on its own 12 billion sentence pairs), so the numbers do not isolate the depth. It would take both depths at equal size on one corpus, far beyond one GPU.",
)
opus = {12: (27.5, 21.4, 24.5), 48: (31.4, 24.0, 27.7), 200: (33.2, 29.0, 31.1), 1000: (33.9, 30.2, 32.1)}
per_decade = [(opus[q][2] - opus[p][2]) / math.log10(q / p) for p, q in ((12, 48), (48, 200), (200, 1000))]
nb.claim(
    "C15",
    "On OPUS-100 quality grows with the logarithm of the depth up to 1,000 layers.",
    "partly",
    holds=[
        ledger.increasing(
            "average BLEU at 12, 48, 200, 1000 layers", [row[2] for row in opus.values()], method="the paper's table", scope="quoted"
        ),
        ledger.close(
            "gain of 1,000 layers over the 48-layer baseline, stated as 4.4",
            opus[1000][2] - opus[48][2],
            4.4,
            abs=0.051,
            digits=2,
            method="the paper's table",
            scope="quoted",
        ),
        ledger.less(
            "largest distance of an average to the mean of its two columns",
            max(abs((x + y) / 2 - z) for x, y, z in opus.values()),
            0.051,
            digits=2,
            method="the paper's table",
            scope="quoted",
        ),
    ],
    fails=[
        *[
            ledger.close(f"BLEU per factor ten, {span} layers", got, gain, abs=0.05, digits=2, method="the paper's table", scope="quoted")
            for span, got, gain in zip(("12 to 48", "48 to 200", "200 to 1,000"), per_decade, (5.3, 5.5, 1.4), strict=True)
        ],
        ledger.less(
            "BLEU per factor ten from 200 to 1,000 over that from 48 to 200: no single logarithm",
            per_decade[2] / per_decade[1],
            0.3,
            digits=2,
            method="the paper's table",
            scope="quoted",
        ),
    ],
)
losses = lambda table, label: f"{np.mean(table[label]):.2f}"
billions = (100 * (4 + 8) + 100 * (8 + 8)) * 1024**2 / 1e9  # square matrices of an encoder and of a decoder layer
torch_layers = [kind(64, 2, 256, bias=False) for kind in (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)]
counted = sum(100 * sum(p.numel() for p in layer.parameters() if p.ndim == 2) * 16**2 / 1e9 for layer in torch_layers)
nb.claim(
    "X11",
    "The 200-layer model with d = 1024 has 2.94 billion weights in its matrices, without embeddings (the paper: 3.2 billion).",
    "verified",
    holds=[
        ledger.close("from d² a layer, in billions", billions, 2.94, abs=0.005, digits=3),
        ledger.close("counted in PyTorch's layers of width 64, scaled", counted, billions, rel=1e-9, digits=3),
    ],
)
nb.results(
    "C",
    "Numbers of the post and the paper, and ours",
    ["quantity", "post or paper", "here", "why they differ"],
    [
        ["encoder constant of α", "0.81", f"{27 ** (-1 / 16):.4f}", "27^(−1/16), rounded"],
        ["encoder constant of β", "0.87", f"{27 ** (1 / 16) / 2**0.5:.4f}", "27^(1/16)/√2, rounded"],
        [
            "λ of DeepNorm, 1,000 layers",
            "post (2N)^(−1/4) = 0.1495",
            f"paper (8N)^(−1/4) = {scheme('DeepNorm', 1000)[1]:.4f}",
            "√2: two matrices counted, or one",
        ],
        ["sublayers of the deepest model", "2,500 (500 + 500 layers)", "2,000 (decoder only)", "no encoder here"],
        [
            "parameters of the 200-layer model, d = 1024",
            "3.2 billion",
            f"{billions:.2f} billion",
            "without embeddings",
        ],
        [
            "DeepNet, WMT-17 En-De, 6 / 18 / 50 / 100 layers a side",
            "27.8 / 28.8 / 29.0 / 28.9 BLEU",
            f"loss {losses(e4_last, 'DeepNorm')} at 50, {losses(e5_last, 'DeepNorm')} at 1,000",
            "another task; fewer steps at 1,000",
        ],
        ["DLCL, NormFormer at 100 layers a side", "27.5 BLEU, diverged", "not run", ""],
        [
            "Post-LN where the paper calls it diverged",
            "18 layers and more (unconfirmed row)",
            f"loss {losses(e4_last, 'Post-LN')} at 50, {losses(e5_last, 'Post-LN')} at 1,000",
            "does not diverge: unigram entropy 3.33",
        ],
        [
            "OPUS-100 average, 12 / 48 / 200 / 1,000 layers",
            "24.5 / 27.7 / 31.1 / 32.1",
            f"per factor ten in depth {per_decade[0]:.1f}, {per_decade[1]:.1f}, {per_decade[2]:.1f}",
            "no single logarithm",
        ],
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **One plane for later rules.** In the plane of budgets above, depth-μP's branch factor $1/\sqrt L$ {cite}`yang2023tp6` has the exponents of
# alternative 2, $(\frac12,0)$, together with a rate that falls with depth; CompleteP's $1/L$ {cite}`dey2025completep` is the point $(1,0)$: on the
# Adam line $a+b=1$, like the post's rule $(\frac12,\frac12)$. Both keep the first Adam step independent of the depth (exercise 1 measures it). They
# differ in what comes after: the post's matrices outgrow their initialisation within a few steps (X8, E5b), CompleteP's start at $\lambda=1$ and do
# not. That CompleteP's learning rates transfer over depth is its authors' finding; we have not trained it.
#
# **A fixed constraint costs.** BranchNorm {cite}`liu2023branchnorm` starts from DeepNorm's $\alpha$ and anneals it away during training, because a
# network held near the identity is under-trained. By X2 that is a change of the learning rates of $W_o$ and $W_2$ on the way.
#
# **Claims depend on the set-up.** DeepNet's table has Admin diverge at 50 layers a side (a row that we have not been able to confirm). The authors of
# Admin's later implementation, [admin-torch](https://github.com/microsoft/admin-torch), report both outcomes on WMT-17: at the regular batch DeepNet's
# initialisation fails where the original Admin trains, at a batch sixteen times larger it is the other way round. We have not repeated either.
#
# ## What does not hold
#
# - **"Not the gradient but the increment"** (C12) is half of it. Xavier-initialised Post-LN of 50 or 1,000 layers fails at every rate and both warm-ups
#   tried: its tokens are equal before the first step (D11, E2). Shrinking the attention branch alone cures it at 50 layers (E4b); deeper down ReLU
#   takes over (X9).
# - **"Derived for SGD, used with Adam"** (C6): at initialisation the post is right, DeepNorm's updates under Adam grow like $\sqrt N$. It trains all
#   the same, at a rate that falls with the depth, and in E5b more reliably than the post's rule.
# - **"$\lambda=1/\alpha$ is DeepNet's choice"** (C8): there is a $\sqrt2$ between them.
# - **The scalar proof** (D10) predicts no update for plain Post-LN and a gain of 28 at 1,000 layers; it needs high dimension. The paper's appendix
#   also prints $\beta>1$ among its assumptions, where its own $\beta=(8N)^{-1/4}$ is below 1.
# - **The encoder's exponents** (X6) answer to a coherent sum of the cross-attentions, which does not occur at initialisation with $N=M$; the
#   encoder-only constants do as well there.
# - **"Xavier is nearly orthogonal"** (X1): its size is $\sqrt2$ times the gain and half of the distance remains. The exponents do not depend on it.
# - **"The same for Pre-LN"** (C13): Pre-LN is already logarithmic, and a timid rescaling makes its first steps larger.
# - **"BLEU grows like the logarithm of depth"** (C15): from 200 to 1,000 layers by a quarter of the slope before.
#
# What survives: every exponent of the post, for the four scaled schemes, at initialisation.
#
# ## Exercises
#
# 1. Put CompleteP's $\alpha=S,\ \lambda=1$ into the table of exponents. Measure its exponents for Adam and SGD on the network of E1.
# 2. A *parallel* block adds attention and feed-forward branch in one residual sum, so there are $N$ sublayers with four branch matrices each. Which
#    $\alpha$ and $\beta$ meet the budget of D8, with the symmetry "sum of the squares $=1/\alpha^2$"?
# 3. At which depth does plain Post-LN with a causal mask bring two tokens within 1% of their length, for contexts of 8, 32 and 128 tokens? Why does a
#    longer context collapse more slowly at first?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# With $a=1,\ b=0$: $1-2a=-1$ for SGD, $1-a=0$ for Adam and for LAMB. Measured from 8 to 32 layers, three seeds, SGD's is still a little above $-1$.
# ```

# %% tags=["hide-cell"]
complete = {"SGD": [], "Adam": []}
for layers_count in (8, 16, 32):
    model, (x, y) = decoder(["Post-LN"], [0, 1, 2], layers_count, small), text_batches(cpu, [0, 1, 2], 1, 8, 32)(0)
    model.skip.fill_(2.0 * layers_count)
    nn.cross_entropy_per_run(model(x), y).sum().backward()
    four_terms = [first_order(W.detach(), W.grad) for W in (model.wv, model.wo, model.w1, model.w2)]
    for name, values in complete.items():
        values.append(float(sum(term[name].sum(1) for term in four_terms).log().mean().exp()))
complete_slopes = {name: metrics.loglog_slope((8, 16, 32), values).slope for name, values in complete.items()}
print({name: f"≈{slope:.2f}" for name, slope in complete_slopes.items()})

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# $N\cdot4\beta^2/\alpha^2=1$ and $2\beta=1/\alpha$ give $\alpha=N^{1/4}$ and $\beta=\frac12N^{-1/4}$.
# ```

# %% tags=["hide-cell"]
parallel = sp.solve([N * 4 * beta**2 / alpha**2 - 1, 2 * beta - 1 / alpha], [alpha, beta], dict=True)
print([{str(k): str(v) for k, v in root.items()} for root in parallel])

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# After 25, 28 and 32 layers: the first tokens average over few, so their differences to the first token last, and the later tokens inherit them. (Of
# the slowest mode, $D_j\propto j-1$, a long context holds more.)
# ```

# %% tags=["hide-cell"]
within_1_percent = {}
for n_tokens in (8, 32, 128):
    A = torch.ones(n_tokens, n_tokens, dtype=torch.float64).tril()
    states = mean_field(torch.eye(n_tokens, dtype=torch.float64), A / A.sum(1, keepdim=True), 1.0, 1.0, 60, 4)
    gaps = [float((1 - K).sum()) / (n_tokens * (n_tokens - 1)) for K in states][::2]
    within_1_percent[n_tokens] = next(l for l, gap in enumerate(gaps) if math.sqrt(2 * gap) < 0.01)
    print(n_tokens, "tokens:", within_1_percent[n_tokens], "layers")

# %% tags=["hide-input"]
nb.claim(
    "X10",
    "The solutions of exercises 1 and 3: CompleteP's exponents are −1 and 0; two tokens are within 1% after 25, 28, 32 layers.",
    "verified",
    holds=[
        *[
            ledger.close(f"exercise 1: {name}", complete_slopes[name], slope, abs=0.2, digits=2, machine=True, scope="3 seeds, N = 8 to 32")
            for name, slope in (("SGD", -1), ("Adam", 0))
        ],
        *[
            ledger.close(f"exercise 3: layers for {n_tokens} tokens", within_1_percent[n_tokens], count, abs=0.5, digits=2)
            for n_tokens, count in ((8, 25), (32, 28), (128, 32))
        ],
    ],
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2022deepnet`. DeepNet: {cite}`wang2022deepnet`. Admin: {cite}`liu2020admin`. Pre-LN and Post-LN at initialisation:
# {cite}`xiong2020layer`. LAMB: {cite}`you2020lamb`. Xavier initialisation: {cite}`glorot2010understanding`. The ReLU kernel: {cite}`cho2009kernel`.
# Rank collapse: {cite}`dong2021attention`, {cite}`noci2022signal`.
