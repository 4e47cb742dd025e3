# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first look at muP: how the best hyper-parameters move with width
#
# [初探MuP：超参数的跨模型尺度迁移规律](https://kexue.fm/archives/10770) · 2025-03-13 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/mup.ipynb)
#
# **The point.** A learning rate tuned on a narrow network fails on a wide one, because a step changes a wider network more. muP (the maximal update parametrisation) asks that forward signal, backward signal, loss decrease and feature change per step not depend on the width $d$. Counting powers of $d$
# then fixes initial variance and learning rate of every layer, for SGD, Adam and Muon. Loss decrease alone leaves one exponent free; feature change sets it. In our Transformers (width 64 to 1024, Shakespeare, 500 steps) the best rate falls 40-fold under the standard parametrisation (SP), where one rate serves all layers, and by a third of an octave (a factor of 1.3) under muP.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import scipy.integrate
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, mup, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("mup")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels. Left and middle: validation loss of transformers against log2 of the learning rate, one curve a width from 64 to 1024, minima starred. Under SP the minima move left by octaves as the width grows; under muP they lie within a third of an octave. Right: RMS change of the last hidden state and of the logits in five steps against the width: rising under SP, flat or falling slightly under muP."}}
curves, changes = nb.recorded("E6"), nb.recorded("E6b")
figure, first_panels = plt.subplots(1, 3, figsize=(9.2, 3.6))
left, middle, right = first_panels
CURVE_LOOKS = list(zip((SKY, BLUE, GREEN, ORANGE, PURPLE), ("-", "--", "-.", ":", (0, (5, 1))), "os^Dv", strict=True))
for axes, rule in ((left, "SP"), (middle, "muP")):
    for (w, rows), (color, style, marker) in zip(curves.result[rule].items(), CURVE_LOOKS, strict=True):
        rates, means = curves.config["grids"][rule][w], np.mean(rows, 1)
        axes.plot(rates, means, color=color, ls=style, marker=marker, ms=3, lw=1.4, label=f"d = {w}")
        axes.plot(*mup.best_rate(rates, means), "*", color=color, ms=11, mec=BLACK, mew=0.5)
    axes.set(xlabel="log₂ rate (stars: fitted minimum)", ylim=(1.75, 2.6), xlim=(-12.3, -3.7))
    axes.set_title({"SP": "SP: the best rate moves", "muP": "muP: it nearly stays"}[rule], fontsize=10)
left.set_ylabel("validation loss (nats a character)")
middle.legend(fontsize=7.5)
for rule, color, style in (("SP", ORANGE, "--"), ("muP", BLUE, "-")):
    for k, marker, name in ((-2, "o", "last state"), (-1, "^", "logits")):
        seen = [row[k] for row in changes.result[rule]]
        right.plot(changes.config["widths"], seen, color=color, ls=style, marker=marker, ms=4, label=f"{rule}, {name}")
right.set(xscale="log", yscale="log", xlabel="width d (log axis)", ylabel="RMS change, 5 steps (log axis)")
right.set_xticks(changes.config["widths"], [str(w) for w in changes.config["widths"]])
right.minorticks_off()
right.set_title("SP's changes grow", fontsize=10)
right.legend(fontsize=7.5)
figure.suptitle(
    f"Transformers on text, {len(curves.config['seeds'])} seeds: under muP the best rate of width 64 serves at 1024 (recorded)",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# Tuning a large model directly costs too much, so one tunes a narrow one and would like to carry its hyper-parameters over. Which of them survive a change of width, and how must the others move? muP {cite}`yang2022tp5` does not say which learning
# rate is best. It says how the best one changes with the width $d$. The post {cite}`su2025mup` re-derives its table with nothing but orders of magnitude: forward signal, backward signal, loss decrease per step and feature change
# per step shall all be independent of $d$. Count exponents, solve.
#
# The model of the whole notebook, in the row-vector convention of the book (a weight is fan-in × fan-out):
#
# $$Y_{in}=XW_{in},\qquad Y_0=Y_{in},\qquad Y_{k}=\varphi(Y_{k-1}W_k),\qquad Y_{out}=Y_K,\qquad Z=Y_{out}W_{out},$$
#
# with $X$ $(b,d_{in})$, $W_{in}$ $(d_{in},d)$, $W_k$ $(d,d)$, $W_{out}$ $(d,d_{out})$. The batch $b$, the depth $K$, $d_{in}$ and $d_{out}$ are constants, $\varphi$ is the activation; only $d$ grows. $A\sim d^p$ means that $A$ is of that exact order. "SP", the standard
# parametrisation, is deviation $\propto1/\sqrt{\text{fan-in}}$ everywhere and one learning rate. Three exponents are wanted per block: of the initial variance, of the learning rate, and, for the readout, $\mathrm{RMS}(W_{out})\sim d^{-s}$.
#
# The sequel, [the spectral condition](mup-spectral.ipynb), replaces the table by one condition on spectral norms. The matrix sign of Muon, msign, is explained in [Muon](muon.ipynb).
#
# ## Forward: fan-in initialisation
#
# Let the $x_i$ be independent with second moment $q$ and the $W_{ij}$ independent of them and each other, mean 0, variance $v$. In $y_j^2=(\sum_ix_iW_{ij})^2$ all cross terms vanish in the mean, so
# $\mathbb E[y_j^2]=d_{in}\,v\,q$: stable exactly for $v=1/d_{in}$. The check expands the square and takes the mean term by term; $x$ may even have a mean $\mu$.


# %%
v, q, mu, sigma, r = sp.symbols("v q mu sigma r", positive=True)


def mean_of(expression, moments):
    """Mean of a polynomial in independent variables, whose first and second moments are ``moments[symbol]``."""
    terms = sp.Poly(sp.expand(expression), *moments).terms()
    power = lambda x, k: 1 if k == 0 else moments[x][k - 1]
    return sp.expand(sum(c * sp.prod([power(x, k) for x, k in zip(moments, ks, strict=True)]) for ks, c in terms))


def mean_square(m):
    """E[(x_1 W_1 + .. + x_m W_m)^2]."""
    xs, ws = sp.symbols(f"x1:{m + 1}"), sp.symbols(f"w1:{m + 1}")
    return mean_of(sum(x * w for x, w in zip(xs, ws, strict=True)) ** 2, dict.fromkeys(xs, (mu, q)) | dict.fromkeys(ws, (0, v)))


def gauss(*shape, seed=0):
    """Standard normal float64 numbers, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# %%
uniform = torch.rand(200, 96, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1  # variance 1/3
skewed = gauss(200, 1, 96, seed=2).exp()
seen_square, square_error = (float(t) for t in metrics.mean_stderr((skewed @ uniform).square().mean((1, 2))))
nb.derivation(
    "D1",
    "E[y²] = d_in v E[x²] for independent weights of mean 0, whatever the mean of x: the signal is stable exactly at v = 1/d_in.",
    sym.enumeration("E[(Σ xᵢWᵢ)²] by expansion, d_in = 2..5", range(2, 6), mean_square, lambda m: m * v * q),
    sym.monte_carlo("uniform weights, log-normal inputs, 96 → 48", seen_square, square_error, 96 / 3 * math.exp(2), draws=200),
)

# %% tags=["hide-input"]
wide_x = gauss(64, 512, seed=3)
lecun = [
    float(metrics.rms((wide_x @ (gauss(512, 512, seed=s) / 512**0.5)).flatten()) / metrics.rms(wide_x.flatten())) for s in range(10, 20)
]
nb.claim(
    "C1",
    "With variance 1/d_in (LeCun), the RMS of Y = XW is that of X.",
    "verified",
    holds=[
        *[
            ledger.close(f"{name} ratio of ten draws, d = 512, batch 64", f(lecun), 1, abs=0.05, digits=3)
            for name, f in (("least", min), ("largest", max))
        ],
        ledger.close(
            "twice the variance gives √2",
            float(metrics.rms((wide_x @ (gauss(512, 512, seed=9) / 256**0.5)).flatten()) / metrics.rms(wide_x.flatten())),
            math.sqrt(2),
            rel=0.05,
            digits=3,
        ),
    ],
)

# %% [markdown]
# **With an activation.** Behind $\varphi$ the second moment is $c_\varphi=\mathbb E[\varphi(z)^2]$ for $z\sim N(0,1)$: a constant without a width in it. For ReLU it is exactly half, at every scale, which is Kaiming's factor
# $v=2/d_{in}$ {cite}`he2015delving`. For other activations $v=1/(c_\varphi d_{in})$. The constant then belongs to one scale of $z$ (tanh saturates), the exponent of $d_{in}$ does not.

# %%
z = sp.Symbol("z", real=True)
density = sp.exp(-(z**2) / (2 * sigma**2)) / sp.sqrt(2 * sp.pi * sigma**2)
quadrature = lambda phi, scale=1.0: scipy.integrate.quad(
    lambda u: phi(scale * u) ** 2 * math.exp(-u * u / 2) / math.sqrt(2 * math.pi), -12, 12, epsabs=1e-12
)[0]
silu = lambda u: u / (1 + math.exp(-u))
wide_z = gauss(4_000_000, seed=4)
constants = {"tanh": (quadrature(math.tanh), 0.394294, wide_z.tanh()), "SiLU": (quadrature(silu), 0.355776, F.silu(wide_z))}
nb.derivation(
    "D2",
    "Behind relu the second moment is σ²/2, so v = 2/d_in; behind another element-wise φ v = 1/(c_φ d_in), with a constant: 0.394294 for tanh, 0.355776 for SiLU.",
    sym.identity("E[relu(z)²], z ~ N(0, σ²)", sp.Integral(z**2 * density, (z, 0, sp.oo)), sigma**2 / 2),
    *[
        ledger.close(f"c_φ of {name}, by quadrature", seen, named, abs=1e-6, digits=7, method="quadrature")
        for name, (seen, named, _) in constants.items()
    ],
    *[
        sym.monte_carlo(
            f"c_φ of {name}, by sampling", *(float(t) for t in metrics.mean_stderr(phi.square())), named, sigmas=4, draws=len(phi)
        )
        for name, (_, named, phi) in constants.items()
    ],
    ledger.less("tanh at scale 2: E[tanh(2z)²]/4, no longer c_φ", quadrature(math.tanh, 2.0) / 4, 0.2, method="quadrature"),
)


# %% tags=["hide-input"]
def deep_gain(phi, variance, d, layers=12, draws=4):
    """RMS after ``layers`` random layers x <- phi(xW) W' of width d, over that at the start (before phi), mean over draws."""
    ratios = []
    for draw in range(draws):
        h = gauss(32, d, seed=draw)
        for layer in range(layers):
            h = phi(h) @ gauss(d, d, seed=1000 * d + 10 * layer + draw) * math.sqrt(variance / d)
        ratios.append(float(metrics.rms(h.flatten())))
    return float(np.mean(ratios))


deep = {
    (name, d): deep_gain(phi, c, d) for name, phi, c in (("relu, 2/d", F.relu, 2), ("tanh", torch.tanh, 1 / 0.394294)) for d in (96, 384)
}
nb.claim(
    "C2",
    "Kaiming's factor is exactly 2 for relu; another element-wise activation changes the constant, never the power of the width.",
    "verified",
    holds=[
        ledger.close("relu, v = 2/d: RMS after 12 layers, d = 384", deep["relu, 2/d", 384], 1, abs=0.15, digits=2),
        ledger.close("relu, v = 1/d: the same loses 2⁻⁶", deep_gain(F.relu, 1, 384) * 64, 1, abs=0.15, digits=2),
        *[ledger.close(f"tanh, v = 1/(c_φ d): RMS after 12 layers, d = {d}", deep["tanh", d], 1, abs=0.08, digits=2) for d in (96, 384)],
    ],
)

# %% [markdown]
# ## Backward, and the clash
#
# For $Y=\varphi(XW)$,
#
# $$G_W=\frac{\partial L}{\partial W}=X^\top\Bigl(\frac{\partial L}{\partial Y}\circ\varphi'(XW)\Bigr),\qquad \frac{\partial L}{\partial X}=\Bigl(\frac{\partial L}{\partial Y}\circ\varphi'(XW)\Bigr)W^\top .$$
#
# With $|\varphi'|$ bounded, to leading order $X^\top\partial L/\partial Y$ and $(\partial L/\partial Y)W^\top$. The second is the forward count with $W^\top$ in place of $W$: the backward signal is stable for $v=1/d_{out}$. Both at once only if
# fan-in and fan-out agree. Xavier's compromise $v=2/(d_{in}+d_{out})$ {cite}`glorot2010understanding` satisfies neither, but errs by at most a factor of 2 either way. Square blocks have no conflict, and the count below uses fan-in.

# %%
Xs, Ws = sp.Matrix(2, 2, sp.symbols("x1:5")), sp.Matrix(2, 2, sp.symbols("w1:5"))
gs = sp.Matrix(2, 2, sp.symbols("g1:5"))  # dL/dY
a2, a3 = sp.symbols("a2 a3")
phi_poly = lambda u: u + a2 * u**2 + a3 * u**3  # as general as two layers' worth of Taylor terms
slope_poly = lambda u: 1 + 2 * a2 * u + 3 * a3 * u**2
toy_loss = sum(g * y for g, y in zip(gs, (Xs * Ws).applyfunc(phi_poly), strict=True))
local = gs.multiply_elementwise((Xs * Ws).applyfunc(slope_poly))
Xn, Wn, target = gauss(7, 5, seed=20).requires_grad_(), gauss(5, 6, seed=21).requires_grad_(), gauss(7, 6, seed=22)
entry_gap, backward_gap = lambda a, b: float((a - b).detach().abs().max()), {}
for name, phi, slope in (("relu", F.relu, lambda u: (u > 0).double()), ("tanh", torch.tanh, lambda u: 1 - u.tanh() ** 2)):
    Y = phi(Xn @ Wn)
    Y.retain_grad()
    Xn.grad = Wn.grad = None
    ((Y - target) ** 2).sum().backward()
    signal = (Y.grad * slope(Xn @ Wn)).detach()
    backward_gap[f"{name}, ∂L/∂W"] = entry_gap(Wn.grad, Xn.detach().T @ signal)
    backward_gap[f"{name}, ∂L/∂X"] = entry_gap(Xn.grad, signal @ Wn.detach().T)
nb.derivation(
    "D3",
    "G_W = Xᵀ(∂L/∂Y ∘ φ′) and ∂L/∂X = (∂L/∂Y ∘ φ′)Wᵀ; the backward signal is stable at v = 1/d_out.",
    sym.identity("∂L/∂W, 2 × 2 × 2", [sp.Derivative(toy_loss, w) for w in Ws], list(Xs.T * local)),
    sym.identity("∂L/∂X, 2 × 2 × 2", [sp.Derivative(toy_loss, x) for x in Xs], list(local * Ws.T)),
    *[ledger.close(f"autograd, {name}: largest gap", gap, 0, abs=1e-12, digits=1, machine=True) for name, gap in backward_gap.items()],
    ledger.close("control: the largest gap of (1, 1) and (1, 3)", entry_gap(torch.ones(2), torch.tensor([1.0, 3.0])), 2, rel=1e-9),
)

# %% tags=["hide-input"]
xavier = lambda m, n: sp.Rational(2, m + n)
sides = [(2, 3), (3, 2), (4, 4), (2, 5), (5, 2)]
through = lambda count, variance: mean_square(count).subs(v, variance) / q  # E[y²]/E[x²] through ``count`` summands
big_xavier = gauss(200, 800, seed=23) * math.sqrt(2 / 1000)
nb.claim(
    "C3",
    "Where fan-in and fan-out differ, forward and backward stability exclude each other; Xavier's variance has forward gain 2d_in/(d_in + d_out) and backward gain 2d_out/(d_in + d_out).",
    "verified",
    holds=[
        sym.enumeration(
            "forward and backward gain at v = 2/(d_in + d_out)",
            sides,
            lambda s: (through(s[0], xavier(*s)), through(s[1], xavier(*s))),
            lambda s: (sp.Rational(2 * s[0], sum(s)), sp.Rational(2 * s[1], sum(s))),
        ),
        sym.enumeration(
            "backward gain where forward is stable", sides, lambda s: through(s[1], sp.Rational(1, s[0])), lambda s: sp.Rational(s[1], s[0])
        ),
        ledger.close(
            "200 × 800, forward, measured", float((gauss(500, 200, seed=24) @ big_xavier).square().mean()), 0.4, rel=0.05, digits=3
        ),
        ledger.close(
            "200 × 800, backward, measured", float((gauss(500, 800, seed=25) @ big_xavier.T).square().mean()), 1.6, rel=0.05, digits=3
        ),
    ],
)

# %% [markdown]
# ## Loss decrease of a step
#
# To first order a step $\Delta W=-\eta\,U$ changes the loss by $-\eta\langle G,U\rangle$. The three optimizers of the post are three choices of $U$, and the inner product becomes a norm each time:
#
# | | $U$ | $-\Delta L/\eta$ |
# |---|---|---|
# | SGD | $G$ | $\lVert G\rVert_F^2$ |
# | Adam, taken as SignSGD | $\mathrm{sign}(G)$ | $\lVert G\rVert_1=\sum\lvert G_{ij}\rvert$ |
# | Muon, taken as matrix sign descent | $\mathrm{msign}(G)=UV^\top$ | $\lVert G\rVert_*=\sum\sigma_i$ |
#
# If forward and backward signal both had entries of order one, then $\lVert G\rVert_F^2=\Theta(d_{in}d_{out})$: the same $\eta$ makes a wider model's step explode.


# %%
def network_loss(weights, x, y):
    """Cross-entropy of a tanh network, one run: the definition, for derivatives of the loss."""
    for W in weights[:-1]:
        x = torch.tanh(x @ W)
    return F.cross_entropy(x @ weights[-1], y)


small_x, small_y = gauss(30, 8, seed=30), torch.arange(30) % 4
small_net = [(gauss(m, n, seed=m + n) / m**0.5).requires_grad_() for m, n in ((8, 12), (12, 11), (11, 4))]
small_grads = torch.autograd.grad(network_loss(small_net, small_x, small_y), small_net)
small_dot = lambda f: sum(float((G * f(G)).sum()) for G in small_grads)
DIRECTIONS = {"SGD": lambda G: G, "Adam": torch.sign, "Muon": optim.msign}
NORMS = {
    "SGD": lambda G: float(G.square().sum()),
    "Adam": lambda G: float(G.abs().sum()),
    "Muon": lambda G: float(torch.linalg.matrix_norm(G, "nuc")),
}


def decrease(kind, eta):
    """(L(W - eta U) - L(W)) / eta for the direction U of an optimizer."""
    with torch.no_grad():
        moved = [W - eta * DIRECTIONS[kind](G) for W, G in zip(small_net, small_grads, strict=True)]
        return float(network_loss(moved, small_x, small_y) - network_loss(small_net, small_x, small_y)) / eta


# %%
w1, w2, xs, ys, eta = sp.symbols("w1 w2 x y eta", real=True)
scalar_loss = lambda u1, u2: (u2 * sp.tanh(u1 * xs) - ys) ** 2 / 2
g1, g2 = (sp.diff(scalar_loss(w1, w2), w) for w in (w1, w2))

# %%
first_order = sp.Derivative(scalar_loss(w1 - eta * g1, w2 - eta * g2), eta).doit().subs(eta, 0)
etas = [1e-3, 5e-4, 2.5e-4, 1.25e-4]
errors = [abs(decrease("SGD", e) + sum(map(NORMS["SGD"], small_grads))) for e in etas]
ideal_X, ideal_D = gauss(300, 16, 24, seed=31), gauss(300, 16, 40, seed=32)
ideal, ideal_error = (float(t) for t in metrics.mean_stderr((ideal_X.mT @ ideal_D).square().sum((1, 2))))
nb.derivation(
    "D4",
    "ΔL = −η⟨G, U⟩ to first order: −η‖G‖_F² for SGD; with signals of order one ‖G‖_F² = b d_in d_out in the mean.",
    sym.identity("two scalar layers, tanh: dL/dη at 0", first_order, -(g1**2) - g2**2),
    ledger.close("the error falls like η: log-log slope", metrics.loglog_slope(etas, errors).slope, 1, abs=0.02, digits=3),
    sym.monte_carlo("‖XᵀΔ‖_F², b = 16, 24 × 40, normal X and Δ", ideal, ideal_error, 16 * 24 * 40, draws=300),
)

# %%
nb.claim(
    "C4",
    "The loss decrease of a gradient step is η‖G‖_F² to first order, of a sign step η‖G‖₁, of a matrix sign step η‖G‖_*.",
    "verified",
    holds=[
        ledger.close(
            f"{kind}, extrapolated to η = 0",
            2 * decrease(kind, 1e-6) - decrease(kind, 2e-6),
            -sum(map(NORMS[kind], small_grads)),
            rel=1e-6,
            digits=5,
        )
        for kind in DIRECTIONS
    ],
)

# %% [markdown]
# ## The orders of the gradients
#
# Backpropagate from the loss. The readout's gradient $G_{out}=Y_{out}^\top\,\partial L/\partial Z$ has entries of order one. Everything below has passed $(\partial L/\partial Z)W_{out}^\top$, a sum over constantly many outputs, hence a factor
# $\mathrm{RMS}(W_{out})\sim d^{-s}$; from there down, fan-in initialisation passes the RMS on:
#
# $$\mathrm{RMS}(G_{out})\sim d^0,\qquad \mathrm{RMS}(G_k)\sim d^{-s},\qquad \mathrm{RMS}(G_{in})\sim d^{-s}.$$
#
# The post puts it as "$\partial Y_{out}/\partial Y_{in}$ and $\partial Y_{out}/\partial W_k$ have RMS $\Theta(1)$". As tensors they do not (for $K=1$ and $\varphi=\mathrm{id}$ the first is $W_1$, of RMS $d^{-1/2}$). What holds is that *contracting a
# signal with them* preserves its RMS.


# %%
def backprop(weights, x, signal, phi=torch.tanh, slope=lambda h: 1 - h**2):
    """Gradients of all layers from dL/dZ by the two formulas of D3, and the backward signals dL/dY_k, deepest first."""
    ys = [x]
    for W in weights[:-1]:
        ys.append(phi(ys[-1] @ W))
    grads, signals = [ys[-1].T @ signal], []
    for k in range(len(weights) - 2, -1, -1):
        signals.append(signal @ weights[k + 1].T)
        signal = signals[-1] * slope(ys[k + 1])
        grads.append(ys[k].T @ signal)
    return grads[::-1], signals


def body_signal(d, s, layers=3):
    """RMS of dL/dY_out and dL/dY_in of a linear body of width d for dL/dZ of RMS 1, and the RMS of one Jacobian, W_1."""
    body = [gauss(d, d, seed=d + k) / d**0.5 for k in range(layers)]
    readout = gauss(d, 10, seed=d + 50) * d**-s
    _, signals = backprop(
        [gauss(20, d, seed=d + 60), *body, readout], gauss(64, 20, seed=33), gauss(64, 10, seed=34), lambda h: h, torch.ones_like
    )
    return [float(metrics.rms(t.flatten())) for t in (signals[0], signals[-1], body[0])]


# %%
probs = torch.softmax(network_readout := torch.tanh(torch.tanh(small_x @ small_net[0]) @ small_net[1]) @ small_net[2], 1).detach()
dZ = (probs - F.one_hot(small_y, 4)) / 30
by_hand, _ = backprop([W.detach() for W in small_net], small_x, dZ)
body_widths = [64, 128, 256, 512]
bodies = {s: list(zip(*[body_signal(d, s) for d in body_widths], strict=True)) for s in (0.5, 1.0)}
body_slope = lambda s, k: metrics.loglog_slope(body_widths, bodies[s][k]).slope
nb.derivation(
    "D5",
    "Gradients by backpropagation; RMS(∂L/∂Y_out) ~ d^−s, the body passes it on, so RMS(G_k), RMS(G_in) ~ d^−s and RMS(G_out) ~ 1.",
    *[
        ledger.close(f"the formulas against autograd, W{k}: largest gap", entry_gap(a, b), 0, abs=1e-12, digits=1, machine=True)
        for k, (a, b) in enumerate(zip(by_hand, small_grads, strict=True))
    ],
    *[ledger.close(f"s = {s}: exponent of ∂L/∂Y_out", body_slope(s, 0), -s, abs=0.05, digits=2) for s in bodies],
    *[ledger.close(f"s = {s}: exponent of ∂L/∂Y_in", body_slope(s, 1), -s, abs=0.08, digits=2) for s in bodies],
    ledger.close("exponent of the RMS of one Jacobian, a tensor", body_slope(1.0, 2), -0.5, abs=0.02, digits=2),
)

# %% [markdown]
# ## Counting exponents
#
# Let every block's rate be $\eta_\bullet\sim d^{c_\bullet}$. A loss decrease is (rate) × (number of entries) × (a power of the RMS of the gradient). SymPy reads the exponent of $d$ off that product, as the limit of
# $d\,f'(d)/f(d)$, and solves for the $c$'s. SGD first: demand that each block's $\eta\lVert G\rVert_F^2$ be of order one.

# %%
d, d_in, d_out = sp.symbols("d d_in d_out", positive=True)
s, c_in, c_k, c_out = sp.symbols("s c_in c_k c_out", real=True)
exponent = lambda f: sp.simplify(sp.limit(sp.simplify(d * sp.diff(f, d) / f), d, sp.oo))
BLOCKS = ("in", "k", "out")
entries = {"in": d_in * d, "k": d * d, "out": d * d_out}
rate = {"in": d**c_in, "k": d**c_k, "out": d**c_out}
gradient_rms = {"in": d**-s, "k": d**-s, "out": d**0}  # D5
decrease_of = {
    "SGD": lambda block: rate[block] * entries[block] * gradient_rms[block] ** 2,
    "Adam": lambda block: rate[block] * entries[block] * gradient_rms[block],
    "Muon": lambda block: rate[block] * sp.sqrt(entries[block] * gradient_rms[block] ** 2),  # the Frobenius norm, see below
}
loss_system = {kind: [exponent(f(block)) for block in BLOCKS] for kind, f in decrease_of.items()}
unknowns = (c_in, c_k, c_out)
family_of = {kind: sp.solve(system, unknowns, dict=True)[0] for kind, system in loss_system.items()}

# %%
wanted = {"SGD": (2 * s - 1, 2 * s - 2, -1), "Adam": (s - 1, s - 2, -1), "Muon": (s - sp.Rational(1, 2), s - 1, -sp.Rational(1, 2))}

# %%
ranks_of = lambda system: sp.Matrix([[sp.diff(e, x) for x in (*unknowns, s)] for e in system]).rank()
nb.derivation(
    "D6",
    "SGD: loss decrease of order one in every block leaves s free: c_out = −1, c_k = 2s − 2, c_in = 2s − 1.",
    sym.enumeration("the solution, block by block", range(3), lambda i: family_of["SGD"][unknowns[i]], lambda i: wanted["SGD"][i]),
    ledger.close("the post's alternative s = 1/2: c_k", float(family_of["SGD"][c_k].subs(s, sp.Rational(1, 2))), -1, abs=1e-9),
)

# %%
nb.claim(
    "C8",
    "A loss decrease of order one does not determine the parametrisation: one exponent stays free.",
    "verified",
    holds=[
        *[
            ledger.close(f"{kind}: rank of the three equations in four unknowns", ranks_of(loss_system[kind]), 3, abs=0.5, method="rank")
            for kind in loss_system
        ],
        sym.enumeration(
            "the family as written, put into the loss equations, s = 1/2, 3/4, 1, 5/4 (first entry: SGD's c_k)",
            [(kind, sp.Rational(k, 4)) for kind in loss_system for k in (2, 3, 4, 5)],
            lambda c: (
                wanted["SGD"][1].subs(s, c[1]),
                *[e.subs(dict(zip(unknowns, wanted[c[0]], strict=True))).subs(s, c[1]) for e in loss_system[c[0]]],
            ),
            lambda c: (2 * c[1] - 2, 0, 0, 0),
        ),
    ],
)

# %% [markdown]
# ## Feature change decides
#
# The step changes the features by $\Delta Y_k=Y_{k-1}\Delta W_k$. Unlike the initial weights, $\Delta W_k$ is made of the very inputs it meets: $\langle y,\Delta W_{\cdot j}\rangle$ is a sum of $d$ terms of one sign rather than of random ones, so it is of the order $d$ and not
# $\sqrt d$. Hence $\mathrm{RMS}(\Delta Y_k)\sim d\;\mathrm{RMS}(\Delta W_k)$, and features move by order one exactly if
#
# $$\mathrm{RMS}(\Delta W_k)=\Theta(1/d).$$
#
# For SGD that is $c_k-s=-1$; with the family above **$s=1$**, and the rates are $(d,1,1/d)$ with readout variance $1/d^2$. In general a member of the family moves its features by $d^{1+c_k-s}=d^{\,s-1}$ a step: lazy below one, explosive above,
# while the loss decreases by order one in the first step of *all* of them.


# %%
def reach(d, correlated):
    """RMS(Y dW) over d RMS(Y) RMS(dW) for an update dW = Y^T D of the same Y, or of an independent one."""
    Y, D, other = gauss(16, d, seed=d), gauss(16, d, seed=d + 1), gauss(16, d, seed=d + 2)
    update = (Y if correlated else other).T @ D
    return float(metrics.rms((Y @ update).flatten()) / (d * metrics.rms(Y.flatten()) * metrics.rms(update.flatten())))


reach_widths = [128, 256, 512, 1024]
reach_slope = {c: metrics.loglog_slope(reach_widths, [reach(w, c) for w in reach_widths]).slope for c in (True, False)}
update_rms = {"SGD": rate["k"] * gradient_rms["k"], "Adam": rate["k"]}  # of the hidden block
feature_change = {kind: exponent(d * f) for kind, f in update_rms.items()}
solved = {kind: sp.solve([*loss_system[kind], feature_change[kind]], (*unknowns, s), dict=True)[0] for kind in update_rms}
nb.derivation(
    "D7",
    "RMS(ΔY_k) ~ d RMS(ΔW_k); within SGD's family the feature change per step is d^(s−1), so s = 1, the rates are (d, 1, 1/d) and the readout variance is 1/d².",
    sym.enumeration(
        "exponent of the feature change along the family",
        [sp.Rational(k, 4) for k in range(2, 6)],
        lambda value: feature_change["SGD"].subs(family_of["SGD"]).subs(s, value),
        lambda value: value - 1,
    ),
    sym.enumeration("the solution", range(4), lambda i: solved["SGD"][(*unknowns, s)[i]], lambda i: (1, 0, -1, 1)[i]),
    ledger.close("an update of its own inputs: exponent of RMS(YΔW)/(d RMS(Y) RMS(ΔW))", reach_slope[True], 0, abs=0.1, digits=2),
    ledger.close("an update of independent inputs", reach_slope[False], -0.5, abs=0.06, digits=2),
)

# %% [markdown]
# **Adam.** As SignSGD, $\Delta W=-\eta\,\mathrm{sign}(G)$, so $\Delta L\approx-\eta\lVert G\rVert_1$ with one power of the RMS instead of two, and $\mathrm{RMS}(\Delta W_k)=\eta_k$.

# %%
nb.derivation(
    "D8",
    "SignSGD: the loss leaves c = (s − 1, s − 2, −1); RMS(ΔW_k) = η_k = 1/d gives s = 1 and the rates (1, 1/d, 1/d).",
    sym.enumeration("the family", range(3), lambda i: family_of["Adam"][unknowns[i]], lambda i: wanted["Adam"][i]),
    sym.enumeration("the solution", range(4), lambda i: solved["Adam"][(*unknowns, s)[i]], lambda i: (0, -1, -1, 1)[i]),
    ledger.close("⟨G, sign G⟩ over Σ|G|", small_dot(torch.sign) / sum(map(NORMS["Adam"], small_grads)), 1, rel=1e-12),
)

# %% [markdown]
# **Muon.** $\Delta L\approx-\eta\lVert G\rVert_*$. The count has no handle on a nuclear norm, but $\lVert G\rVert_F\le\lVert G\rVert_*\le\sqrt{\operatorname{rank}G}\,\lVert G\rVert_F$, and the rank of a gradient is at most the batch: same order. So
# $c_{out}+\frac12=0$, $c_k+1-s=0$, $c_{in}+\frac12-s=0$.
#
# What about feature change? The post computes $\mathrm{RMS}(\mathrm{msign})=1/\sqrt d$, with which D7's condition would demand $s=\frac12$; it discards the condition for Muon, imports $s=1$ from SGD and Adam, and calls the gap open. **In the post's own limit, fixed batch and growing width, it closes.**
# $\lVert\mathrm{msign}(G)\rVert_F^2$ is the *rank* of $G$. Full rank gives $1/\sqrt d$; but the count treats the batch as a constant, a gradient then has rank at most $b$, and
#
# $$\mathrm{RMS}(\mathrm{msign}(G_k))=\frac{\sqrt{\operatorname{rank}G_k}}{d}\le\frac{\sqrt b}{d}\sim\frac1d .$$
#
# The condition of D7 then reads $c_k=0$ and SymPy finds $s=1$ with nothing imported. In practice a batch holds far more tokens than $d$, and the post's $1/\sqrt d$ can be nearer (E1b). Where the rank does grow with the width, it is the argument $\mathrm{RMS}(\Delta Y)\sim d\,\mathrm{RMS}(\Delta W)$ that fails, and the spectral form of the condition, $\lVert\Delta W_k\rVert_2=\Theta(1)$, covers both cases
# ([mup-spectral](mup-spectral.ipynb)).

# %%
s1, s2 = sp.symbols("sigma_1 sigma_2", positive=True)
msign_rms = {"full rank": d ** sp.Rational(-1, 2), "rank at most b": 1 / d}
muon_of = {
    name: sp.solve([*loss_system["Muon"], exponent(d * rate["k"] * f)], (*unknowns, s), dict=True)[0] for name, f in msign_rms.items()
}
muon_of["spectral"] = sp.solve([*loss_system["Muon"], exponent(rate["k"])], (*unknowns, s), dict=True)[0]  # ||msign||_2 = 1
low_rank, full_rank_G = gauss(96, 5, seed=40) @ gauss(5, 80, seed=41), gauss(80, 80, seed=42)
rms_msign = lambda G: float(metrics.rms(optim.msign(G, 1e-9).flatten()))
half = sp.Rational(1, 2)
# %%
nb.derivation(
    "D9",
    "Muon: c = (s − 1/2, s − 1, −1/2). RMS(msign G) = √rank/√(mn): at fixed batch it is ~1/d, and feature change gives s = 1 and (√d, 1, 1/√d), as does the spectral form; full rank would give s = 1/2.",
    sym.enumeration("the family", range(3), lambda i: family_of["Muon"][unknowns[i]], lambda i: wanted["Muon"][i]),
    sym.identity("two singular values: ‖G‖_*² − ‖G‖_F²", (s1 + s2) ** 2 - (s1**2 + s2**2), 2 * s1 * s2),
    sym.identity("and 2‖G‖_F² − ‖G‖_*² is a square", 2 * (s1**2 + s2**2) - (s1 + s2) ** 2, (s1 - s2) ** 2),
    *[
        sym.enumeration(
            f"solution, {name}", range(4), lambda i, name=name: muon_of[name][(*unknowns, s)[i]], lambda i, expected=expected: expected[i]
        )
        for name, expected in (
            ("rank at most b", (half, 0, -half, 1)),
            ("spectral", (half, 0, -half, 1)),
            ("full rank", (0, -half, -half, half)),
        )
    ],
    ledger.close("RMS(msign) of rank 5, 96 × 80", rms_msign(low_rank), math.sqrt(5 / (96 * 80)), rel=1e-9),
    ledger.close("of full rank, 80 × 80", rms_msign(full_rank_G), 1 / math.sqrt(80), rel=1e-9),
    ledger.close("⟨G, msign G⟩ over the nuclear norm", small_dot(optim.msign) / sum(map(NORMS["Muon"], small_grads)), 1, rel=1e-9),
)

# %% [markdown]
# ## The table
#
# | | $W_{in}$ var | $W_{in}$ rate | $W_k$ var | $W_k$ rate | $W_{out}$ var | $W_{out}$ rate |
# |---|---|---|---|---|---|---|
# | SGD | $1/d_{in}$ | $d$ | $1/d$ | 1 | $1/d^2$ | $1/d$ |
# | Adam | $1/d_{in}$ | 1 | $1/d$ | $1/d$ | $1/d^2$ | $1/d$ |
# | Muon | $1/d_{in}$ | $\sqrt d$ | $1/d$ | 1 | $1/d^2$ | $1/\sqrt d$ |
#
# In practice Muon serves the hidden matrices and Adam the rest: $\eta_{in}\propto1$, $\eta_{out}\propto1/d$, $\eta_k\propto1$. Moonlight's Muon has a factor $\sqrt{\max(n,m)}\propto\sqrt d$ built into its update {cite}`liu2025moonlight`; its $\eta_k$ must then fall like $1/\sqrt d$.
#
# The table has two consistency checks of its own: $W_{in}$ needs $\mathrm{RMS}(\Delta W_{in})\sim1$ (its inputs do not grow), and $W_{out}$ needs $\mathrm{RMS}(\Delta W_{out})\sim1/d$.

# %%
TABLE = {"SGD": (1, 0, -1), "Adam": (0, -1, -1), "Muon": (half, 0, -half)}
found = {"SGD": solved["SGD"], "Adam": solved["Adam"], "Muon": muon_of["rank at most b"]}

# %%
table_cells = [(kind, i) for kind in TABLE for i in range(3)]
update_exponent = {  # of RMS(dW) in the input and output blocks, SGD and Adam
    "SGD": lambda block: exponent(rate[block] * gradient_rms[block]),
    "Adam": lambda block: exponent(rate[block]),
}

# %%
code_shapes = {"in": lambda w: (64, w), "k": lambda w: (w, w), "out": lambda w: (w, 10)}
code_exponent = lambda f, block: math.log2(f(code_shapes[block](4096), code_shapes[block](64))) / 6
by_code = [
    *[
        ledger.close(
            f"{kind}, W_{block}: exponent by the code",
            code_exponent(lambda *p, k=kind: mup.rate_multiplier(k, *p), block),
            float(TABLE[kind][i]),
            abs=1e-9,
        )
        for kind in TABLE
        for i, block in enumerate(BLOCKS)
    ],
    *[
        ledger.close(
            f"readout deviation beside fan-in's, W_{block}, by the code", code_exponent(mup.deviation_multiplier, block), e, abs=1e-9
        )
        for block, e in (("in", 0), ("k", 0), ("out", -0.5))
    ],
]

# %%
nb.derivation(
    "D10",
    "The muP table: nine rates and three variances; with Moonlight's factor √max(n, m) the hidden rate of Muon is ∝ 1/√d.",
    sym.enumeration("nine rates, as solved", table_cells, lambda c: found[c[0]][unknowns[c[1]]], lambda c: TABLE[c[0]][c[1]]),
    sym.enumeration(
        "RMS(ΔW_in) ~ 1 and RMS(ΔW_out) ~ 1/d, SGD and Adam",
        [(kind, block) for kind in update_exponent for block in ("in", "out")],
        lambda c: update_exponent[c[0]](c[1]).subs(found[c[0]]),
        lambda c: 0 if c[1] == "in" else -1,
    ),
    sym.solves("Moonlight: η_k √d of order one", exponent(rate["k"] * sp.sqrt(d)), c_k, -half),
    *by_code,
)

# %% [markdown]
# ## One network, many parametrisations
#
# Write a weight as $W=d^{-a}w$ with $w$ trained, started at deviation $d^{-b}$, at rate $d^{-c}$. The network and its whole training do not change under
#
# $$(a,b,c)\to(a+\theta,\;b-\theta,\;c-k\theta),\qquad k=2\text{ for SGD},\quad k=1\text{ for Adam }(\epsilon=0)\text{ and Muon}:$$
#
# the gradient with respect to $w$ is $d^{-a}G$, which SGD passes on and the other two do not see. So the table is one representative of many. Our readout is $(0,1,1)$; $\theta=1$ gives $(1,0,0)$ for Adam and $(1,0,-1)$ for SGD, and that is how the authors' package `mup` writes it: a forward
# multiplier $1/d$, constant deviation, rate 1 or $d$.


# %%
def gauge_losses(kind, theta, k, steps=20, width=24):
    """Losses of a three-layer tanh net with readout W = width^-theta w, its start and rate gauged by theta and k."""
    scale = width**-theta
    shapes = ((8, width), (width, width), (width, 4))
    ws = [gauss(m, n, seed=50 + i) / m**0.5 for i, (m, n) in enumerate(shapes)]
    ws[2] = ws[2] / scale
    rates = [0.1 if kind == "SGD" else 0.01] * 2 + [(0.1 if kind == "SGD" else 0.01) * width ** (k * theta)]
    ws, moments, seen = [w.requires_grad_() for w in ws], [[0, 0] for _ in ws], []
    for t in range(1, steps + 1):
        loss = network_loss([ws[0], ws[1], scale * ws[2]], small_x, small_y)
        seen.append(float(loss.detach()))
        grads = torch.autograd.grad(loss, ws)
        for w, G, state, eta_w in zip(ws, grads, moments, rates, strict=True):
            state[:] = 0.9 * state[0] + 0.1 * G, 0.95 * state[1] + 0.05 * G**2
            adam = (state[0] / (1 - 0.9**t)) / (state[1] / (1 - 0.95**t)).sqrt()
            w.data -= eta_w * {"SGD": G, "Adam": adam, "Muon": optim.msign(G, 1e-9)}[kind]
    return np.array(seen)


gauge_gap = lambda kind, k: float(np.abs(gauge_losses(kind, 1.0, k) - gauge_losses(kind, 0.0, k)).max())
POWERS = {"SGD": 2, "Adam": 1, "Muon": 1}

# %%
m, w, eta = sp.symbols("m w eta", positive=True)
G = sp.Function("G")  # the gradient with respect to W
step_in_w = {"SGD": lambda g: g, "sign": sp.sign}
nb.derivation(
    "D11",
    "W = d^−a w: training is unchanged under (a, b, c) → (a + θ, b − θ, c − kθ), k = 2 for SGD and 1 for Adam and Muon.",
    sym.identity("SGD: W after a step of w at rate η/m²", m * (w - eta / m**2 * (m * G(m * w))), m * w - eta * G(m * w)),
    sym.identity(
        "sign descent, rate η/m",
        m * (w - eta / m * sp.sign(m * sp.Symbol("g", real=True))),
        m * w - eta * sp.sign(sp.Symbol("g", real=True)),
    ),
    *[
        ledger.close(f"{kind}: largest loss difference over 20 steps", gauge_gap(kind, k), 0, abs=1e-9, digits=1, machine=True)
        for kind, k in POWERS.items()
    ],
    *[ledger.more(f"{kind}, with the other k", gauge_gap(kind, 3 - k), 1e-3, digits=2, machine=True) for kind, k in POWERS.items()],
)

# %% [markdown]
# **Biases**, which the post leaves to the reader: a bias is a $(1,d)$ matrix fed by the constant 1, an input block with $d$ entries and a gradient of RMS $d^{-s}$. SGD's rate is $\propto d$, Adam's constant.

# %%
c_b = sp.Symbol("c_b", real=True)
bias_equation = {"SGD": exponent(d**c_b * d * d ** (-2 * s)), "Adam": exponent(d**c_b * d * d**-s)}
nb.derivation(
    "D12",
    "Biases are input blocks: rates ∝ d for SGD and ∝ 1 for Adam.",
    *[
        sym.solves(f"{kind}: loss decrease of order one", bias_equation[kind], c_b, {"SGD": 2 * s - 1, "Adam": s - 1}[kind])
        for kind in bias_equation
    ],
    *[
        ledger.close(f"{kind}, by the code, 64 → 512", mup.rate_multiplier(kind, (512,), (64,)), e, abs=1e-9)
        for kind, e in (("SGD", 8), ("Adam", 1))
    ],
)

# %%
nb.claim(
    "C10",
    "The exponents of SGD, Adam and Muon are those of the table.",
    "verified",
    holds=[
        sym.enumeration(
            "put into the three loss equations and the feature equation, every exponent vanishes (first entry: c_in)",
            list(TABLE),
            lambda kind: (
                TABLE[kind][0],
                *[
                    e.subs(dict(zip((*unknowns, s), (*TABLE[kind], 1), strict=True)))
                    for e in (*loss_system[kind], (feature_change | {"Muon": exponent(d * rate["k"] / d)})[kind])
                ],
            ),
            lambda kind: ({"SGD": 1, "Adam": 0, "Muon": half}[kind], 0, 0, 0, 0),
        ),
    ],
)

# %% [markdown]
# ## The algorithm
#
# The network of the first five experiments: $64\to d\to\dots\to d\to10$, no biases, ReLU behind every layer but the last. It is a *stack*: every tensor leads with an axis of runs, so that a
# whole tuning grid, all rates times all seeds of a width, trains in one pass.


# %%
def digits(device):
    """scikit-learn's digits as rows (1797, 64), standardised by one mean and one deviation, and their labels."""
    images, labels = data.digits8x8()
    x = images.flatten(1)
    return ((x - x.mean()) / x.std()).to(device), labels.to(device)


def network(seeds, shapes, stds, device, copies=1):
    """Gaussian weights (runs, d_in, d_out), one tensor a layer; the runs are the seeds, repeated ``copies`` times."""
    init = nn.Init(seeds)
    drawn = [init.normal(*shape, std=std).detach().to(device) for shape, std in zip(shapes, stds, strict=True)]
    return [torch.nn.Parameter(w.repeat(copies, 1, 1)) for w in drawn]


# %%
def outputs(weights, x):
    """X, Y_in, Y_1, .., Z of every run, each (runs, n, width), for rows x (n, 64) or (runs, n, 64)."""
    ys = [x.expand(len(weights[0]), *x.shape[-2:])]
    for W in weights[:-1]:
        ys.append(F.relu(ys[-1] @ W))
    return [*ys, ys[-1] @ weights[-1]]


def losses(weights, x, y):
    """Mean cross-entropy of each run on rows x with labels y."""
    z = outputs(weights, x)[-1]
    return nn.cross_entropy_per_run(z, y.expand(z.shape[:-1]))


# %% [markdown]
# The parametrisations. "SP" is the standard one: deviation $\sqrt{2/\text{fan-in}}$ behind a ReLU, $\sqrt{1/\text{fan-in}}$ otherwise, one rate for all layers. muP takes its multipliers from `kexue_nb.mup`,
# which reads them off the shapes, relative to a base width of 64: *there the two are the same network*.


# %%
BASE = 64


def shapes_of(d, hidden):
    """Shapes (fan-in, fan-out) of input, hidden and output layers."""
    return [(64, d), *[(d, d)] * hidden, (d, 10)]


def parametrise(rule, optimizer, d, hidden):
    """Initial deviation and rate multiplier of every layer under "SP" or "muP"."""
    shapes, base = shapes_of(d, hidden), shapes_of(BASE, hidden)
    stds = [math.sqrt((2 if 0 < k <= hidden else 1) / m) for k, (m, _) in enumerate(shapes)]
    if rule == "SP":
        return stds, [1.0] * len(shapes)
    stds = [std * mup.deviation_multiplier(*pair) for std, *pair in zip(stds, shapes, base, strict=True)]
    return stds, [mup.rate_multiplier(optimizer, *pair) for pair in zip(shapes, base, strict=True)]


# %%
ADAM = {"betas": (0.9, 0.95)}
MUON = {"momentum": 0.9, "nesterov": False}


def layerwise(optimizer, weights, rates):
    """One optimizer a layer, so that every run has a rate of its own in every layer: ``rates`` (runs, layers)."""
    make = {
        "SGD": optim.StackedSGD,
        "Adam": lambda *a: optim.StackedAdam(*a, **ADAM),
        "Muon": lambda *a: optim.StackedMuon(*a, **MUON),
    }[optimizer]
    return optim.Together(*[make([W], rates[:, k]) for k, W in enumerate(weights)])


# %% [markdown]
# ## E1: the orders of the gradient
#
# **Question.** Do gradients have the orders that D5 counts? **Set-up.** One gradient of the network with two hidden layers on a fixed batch of 64 digits, the readout at deviation $0.1\,d^{-s}$: small, so
# that the logits are near zero at every width and the softmax bends no slope. **Expected.** Exponents of the width for input, two hidden, and output layer under muP ($s=1$): RMS $(-1,-1,-1,0)$, squared Frobenius norm $(-1,0,0,1)$, sum of moduli $(0,1,1,1)$, nuclear norm
# $(-\frac12,0,0,\frac12)$.


# %%
def compress(G, rank=72):
    """G = Q C P^T with Q, P orthonormal and C small, for a G of rank at most ``rank``: a batch of 64 rows gives no more."""
    noise = torch.randn(*G.shape[:-2], G.shape[-1], rank, generator=torch.Generator().manual_seed(7)).to(G)
    Q = torch.linalg.qr(G @ noise).Q
    P, R = torch.linalg.qr((Q.mT @ G).mT)
    return Q, R.mT, P


# %%
def gradient_measures(G):
    """Norms of a gradient (runs, m, n) of rank at most 72, and of its sign, its matrix sign, and Muon's approximation to that."""
    sigma = torch.linalg.svdvals(compress(G)[1].double())
    sign, rank = G.sign(), (sigma > 1e-5 * sigma[:, :1]).double().sum(1)  # float32 rounding lies below
    muon = optim.newton_schulz(G)
    rows = {
        "RMS": metrics.rms(G.flatten(1)),
        "squared": G.square().sum((1, 2)),
        "moduli": G.abs().sum((1, 2)),
        "nuclear": sigma.sum(1),
        "nuclear / spectral": sigma.sum(1) / sigma[:, 0],
        "nuclear / Frobenius": sigma.sum(1) / sigma.square().sum(1).sqrt(),
        "stable rank": sigma.square().sum(1) / sigma[:, 0].square(),
        "spectral": sigma[:, 0],
        "sign spectral": metrics.spectral_norm(sign, 60),
        "msign RMS": (rank / G[0].numel()).sqrt(),
        "muon RMS": metrics.rms(muon.flatten(1)),
        "muon spectral": metrics.spectral_norm(muon, 60),
    }
    return {name: float(row.double().mean()) for name, row in rows.items()}


# %%
def gradient_orders(device, *, widths, seeds, exponents, batch):
    """Of the first gradient with readout deviation 0.1 d^-s: rule -> measure -> one row a width, one entry a layer."""
    x, y = (t[:batch] for t in digits(device))
    table = {}
    for rule, s in exponents.items():
        table[rule] = {}
        for d in widths:
            shapes = shapes_of(d, 2)
            weights = network(seeds, shapes, [1 / 8, math.sqrt(2 / d), math.sqrt(2 / d), 0.1 * d**-s], device)
            losses(weights, x, y).sum().backward()
            for name, row in zip_rows([gradient_measures(W.grad) for W in weights]).items():
                table[rule].setdefault(name, []).append(row)
    return table


def zip_rows(dicts):
    """Dictionaries with the same keys -> key -> the list of their values."""
    return {key: [one[key] for one in dicts] for key in dicts[0]}


# %%
e1_widths = nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024, 2048], full=[64, 128, 256, 512, 1024, 2048, 4096])
e1_seeds = nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=[0, 1, 2, 3, 4, 5])
e1 = nb.run("E1", gradient_orders, widths=e1_widths, seeds=e1_seeds, exponents={"muP": 1.0, "SP": 0.5}, batch=64)


# %%
def muon_update(device, *, widths, seeds, batches):
    """RMS of Muon's update (five Newton-Schulz steps on the first gradient) of the second hidden layer: batch -> one row a width, one entry a seed."""
    x, y = digits(device)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(device)
    table = {}
    for batch in batches:
        table[str(batch)] = []
        for d in widths:
            stds, _ = parametrise("muP", "Muon", d, 2)
            weights = network(seeds, shapes_of(d, 2), stds, device)
            losses(weights, x[order[:batch]], y[order[:batch]]).sum().backward()
            table[str(batch)].append(metrics.rms(optim.newton_schulz(weights[2].grad).flatten(1)))
    return table


# %%
e1b_widths = nb.at_scale(cpu=[32, 64, 128, 256], gpu=[64, 128, 256, 512, 1024], full=[32, 64, 128, 256, 512, 1024, 2048, 4096])
e1b = nb.run(
    "E1b",
    muon_update,
    widths=e1b_widths,
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1], full=[0, 1, 2, 3]),
    batches=nb.at_scale(cpu=[4, 1797], gpu=[4, 16, 64, 256, 1797], full=[4, 16, 64, 256, 1797]),
)

# %% tags=["hide-input"]
e1_record, e1b_record = nb.recorded("E1"), nb.recorded("E1b")
e1_full = e1_record.config["widths"]
e1_scope = f"full, widths 64 to {e1_full[-1]}, {len(e1_record.config['seeds'])} seeds"
LAYERS = ("input", "hidden 1", "hidden 2", "output")
PREDICTED = {
    "muP": {"RMS": (-1, -1, -1, 0), "squared": (-1, 0, 0, 1), "moduli": (0, 1, 1, 1), "nuclear": (-0.5, 0, 0, 0.5)},
    "SP": {"RMS": (-0.5, -0.5, -0.5, 0), "squared": (0, 1, 1, 1), "moduli": (0.5, 1.5, 1.5, 1), "nuclear": (0, 0.5, 0.5, 0.5)},
}


def slopes_of(widths, rows):
    """Log-log slope against the width, one for each column of ``rows``."""
    return [metrics.loglog_slope(widths, [row[k] for row in rows]).slope for k in range(len(rows[0]))]


def width_axis(axes, widths, every=1):
    """A logarithmic axis of widths, labelled at every ``every``-th of them."""
    axes.set(xscale="log", xlabel="width d (log axis)")
    axes.set_xticks(widths[::every], [str(w) for w in widths[::every]])
    axes.minorticks_off()


slopes_table = lambda result, widths: {
    rule: {key: slopes_of(widths, rows) for key, rows in found.items()} for rule, found in result.items()
}
e1_live, e1_recorded = slopes_table(e1, e1_widths), slopes_table(e1_record.result, e1_full)
WIDTH_LOOKS = [
    (SKY, "-", "o"),
    (BLUE, "--", "s"),
    (GREEN, "-.", "^"),
    (ORANGE, ":", "D"),
    (PURPLE, (0, (5, 1)), "v"),
    (BLACK, "-", "P"),
    (RED, "--", "X"),
]
misfit = lambda slopes, rule, key: max(abs(a - b) for a, b in zip(slopes[rule][key], PREDICTED[rule][key], strict=True))
vector = lambda xs: ", ".join(f"{x:.2f}".replace("-", "−") for x in xs)
MEASURES = {"RMS": "RMS", "squared": "‖G‖_F²", "moduli": "Σ|G|", "nuclear": "‖G‖_*"}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels against the width on log axes under muP: squared Frobenius norm, sum of moduli, and nuclear norm of the first gradient, one line a layer with live dots on it. Each line is parallel to a thin grey guide of the predicted slope: minus one, zero, zero, one for the squared norm; zero, one, one, one for the sum of moduli; minus a half, zero, zero, a half for the nuclear norm."}}
figure, panels = plt.subplots(1, 3, figsize=(8.6, 3.4))
norm_panels = dict(zip(("squared", "moduli", "nuclear"), panels, strict=True))
for axes, key in zip(panels, ("squared", "moduli", "nuclear"), strict=True):
    for k, (color, style) in enumerate(((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))):
        values = [row[k] for row in e1_record.result["muP"][key]]
        axes.plot(e1_full, values, color=color, ls=style, label=LAYERS[k])
        axes.plot(e1_widths, [row[k] for row in e1["muP"][key]], "o", color=color, ms=3.5)
        guide = values[-1] * (np.array(e1_full) / e1_full[-1]) ** PREDICTED["muP"][key][k]
        axes.plot(e1_full, guide * 1.25, color=GREY, lw=0.8, ls="-")
    axes.set_yscale("log")
    width_axis(axes, e1_full, 2)
    axes.set_title(MEASURES[key], fontsize=10)
panels[0].set_ylabel("value (log axis)")
panels[0].legend(fontsize=7.5, loc="center left")
figure.suptitle(
    "The gradients' norms follow the counted powers of the width (grey: predicted; dots: live)",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
e1_rows = [[rule, MEASURES[key], vector(PREDICTED[rule][key]), vector(e1_recorded[rule][key])] for rule in PREDICTED for key in MEASURES]
numbers_in = lambda cell: [float(x) for x in cell.replace("−", "-").split(", ")]
nb.results(
    "E1",
    f"Width exponents of the first gradient by layer (input, hidden, hidden, output); {e1_record.provenance}",
    ["parametrisation", "quantity", "predicted", "recorded"],
    e1_rows,
)
nb.experiment(
    "E1",
    "RMS, squared Frobenius norm, sum of moduli and nuclear norm of the gradients follow the counted powers of the width, under muP and under SP.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"{rule}, {MEASURES[key]}: largest distance of an exponent from the count, recorded",
                misfit(e1_recorded, rule, key),
                0.1,
                scope=e1_scope,
            )
            for rule in PREDICTED
            for key in MEASURES
        ],
        *[
            ledger.less(f"{rule}, {MEASURES[key]}: the same, live", misfit(e1_live, rule, key), 0.2, machine=True)
            for rule in PREDICTED
            for key in MEASURES
        ],
    ],
)

# %% tags=["hide-input"]
muon_rows = e1b_record.result
muon_full, muon_batches = e1b_record.config["widths"], e1b_record.config["batches"]
muon_seeds = range(len(e1b_record.config["seeds"]))


def muon_exponent(batch, low, high=math.inf):
    """Exponent of the RMS of Muon's update over the recorded widths from ``low`` to ``high``, one a seed."""
    kept = [i for i, w in enumerate(muon_full) if low <= w <= high]
    return [metrics.loglog_slope([muon_full[i] for i in kept], [muon_rows[batch][i][j] for i in kept]).slope for j in muon_seeds]


muon_slope = {batch: muon_exponent(batch, 8 * int(batch)) for batch in ("4", "16", "64")}  # widths of at least eight times the batch
muon_live = {batch: metrics.loglog_slope(e1b_widths, np.mean(rows, 1)).slope for batch, rows in e1b.items()}
t_half = lambda xs, level=0.975: float(scipy.stats.t.ppf(level, len(xs) - 1) * np.std(xs, ddof=1) / math.sqrt(len(xs)))
e1b_scope = f"full, widths from 8 × the batch to {muon_full[-1]}, {len(e1b_record.config['seeds'])} seeds"
e1b_narrow = f"full, widths 32 to 256, {len(e1b_record.config['seeds'])} seeds"
nb.claim(
    "C6",
    "Under muP the RMS of the gradients has the exponents −1 in all blocks but the readout, 0 there.",
    "verified",
    holds=[
        ledger.close(f"{layer}, recorded", slope, PREDICTED["muP"]["RMS"][k], abs=0.1, digits=2, scope=e1_scope)
        for k, (layer, slope) in enumerate(zip(LAYERS, e1_recorded["muP"]["RMS"], strict=True))
    ],
)
nb.claim(
    "C7",
    "Under muP ‖G‖_F² has the exponents (−1, 0, 0, 1), Σ|G| (0, 1, 1, 1), ‖G‖_* (−1/2, 0, 0, 1/2).",
    "verified",
    holds=[
        ledger.close(f"{MEASURES[key]}, {layer}, recorded", slope, PREDICTED["muP"][key][k], abs=0.1, digits=2, scope=e1_scope)
        for key in ("squared", "moduli", "nuclear")
        for k, (layer, slope) in enumerate(zip(LAYERS, e1_recorded["muP"][key], strict=True))
    ],
)
nuclear_slopes = e1_recorded["muP"]["nuclear / Frobenius"]
over_frobenius = [value for row in e1_record.result["muP"]["nuclear / Frobenius"] for value in row]
nb.claim(
    "C12",
    "Gradients have so small an effective rank that ‖G‖_* ≈ ‖G‖_F.",
    "partly",
    holds=[
        ledger.less("same order: largest exponent of ‖G‖_*/‖G‖_F, recorded", max(map(abs, nuclear_slopes)), 0.1, scope=e1_scope),
        ledger.less(
            "largest stable rank ‖G‖_F²/‖G‖₂², batch 64, recorded",
            max(v for row in e1_record.result["muP"]["stable rank"] for v in row),
            6,
            scope=e1_scope,
        ),
    ],
    fails=[ledger.more("not equal: smallest ‖G‖_*/‖G‖_F, recorded", min(over_frobenius), 2, digits=3, scope=e1_scope)],
)

# %% [markdown]
# **Muon's update.** E1b measures the RMS of Muon's update of a hidden layer, five Newton-Schulz steps on the first gradient, at batches from 4 to all 1797 digits. Where the width is at least eight times the batch, the update falls like $1/d$, as
# the rank says. At batches of 256 and 1797 and widths up to 256 it falls much more slowly, nearer the post's $1/\sqrt d$; it steepens beyond, for 1797 even below $d=1797$, which we did not explain. Momentum, which would mix the gradients of several batches and raise the rank, is left out.

# %% tags=["hide-input"] mystnb={"image": {"alt": "RMS of Muon's update times the width, against the width, for batches 4, 16, 64, 256 and 1797. The lines for 4, 16 and 64 are flat beyond width 256; those for 256 and 1797 rise up to a width of about 512 and then bend towards the level. A dotted guide shows the slope one half that an RMS of one over root d would have, far steeper."}}
figure, axes = plt.subplots(figsize=(7.2, 3.6))
for (batch, rows), (color, style, marker) in zip(muon_rows.items(), WIDTH_LOOKS, strict=False):
    axes.plot(muon_full, np.mean(rows, 1) * np.array(muon_full), color=color, ls=style, marker=marker, ms=4, label=f"batch {batch}")
for batch, rows in e1b.items():
    axes.plot(e1b_widths, np.mean(rows, 1) * np.array(e1b_widths), "x", color=BLACK, ms=5, label="live" if batch == "4" else None)
axes.plot(muon_full, np.sqrt(muon_full), color=GREY, ls=":", lw=1.4, label="if the RMS were 1/√d")
axes.set(yscale="log", ylabel="d × RMS of the update (log axis)")
axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
width_axis(axes, muon_full)
axes.set_title("Muon's update falls like 1/d where the width far exceeds the batch", fontsize=11)
axes.legend(fontsize=7.5, ncols=2)
nb.show(figure)

# %% tags=["hide-input"]
muon_cell = lambda *args: f"{np.mean(muon_exponent(*args)):.2f}".replace("-", "−")
nb.results(
    "E1b",
    f"Width exponent of the RMS of Muon's update by batch and range of widths (−1 by the rank, −1/2 by the post); {e1b_record.provenance}",
    ["batch", f"{muon_full[0]} to {muon_full[-1]}", "32 to 256", f"512 to {muon_full[-1]}"],
    [[b, muon_cell(b, 0), muon_cell(b, 32, 256), muon_cell(b, 512)] for b in map(str, muon_batches)],
)
nb.experiment(
    "E1b",
    "Where the width is at least eight times the batch, the RMS of Muon's first update of a hidden layer falls like 1/d, as for SGD and Adam; for batches of 256 and more and widths up to 256 it falls more slowly.",
    "verified",
    holds=[
        *[
            ledger.close(f"batch {batch}: exponent, recorded", float(np.mean(muon_slope[batch])), -1, abs=0.06, digits=2, scope=e1b_scope)
            for batch in muon_slope
        ],
        *[
            ledger.more(f"batch {batch}: exponent, recorded", float(np.mean(muon_exponent(batch, 32, 256))), -0.8, scope=e1b_narrow)
            for batch in ("256", "1797")
        ],
        ledger.more("batch 1797: exponent, live", muon_live["1797"], -0.8, digits=2, machine=True),
        *[
            ledger.close(f"batch {batch}: exponent, live", slope, -1, abs=0.1, digits=2, machine=True)
            for batch, slope in muon_live.items()
            if batch == "4"
        ],
    ],
)


def hidden_update(kind, width, steps=4):
    """RMS of the change of the second hidden matrix under muP in a few full-batch steps on 64 digits."""
    x, y = (t[:64] for t in digits(torch.device("cpu")))
    stds, multipliers = parametrise("muP", kind, width, 2)
    weights = network([0, 1], shapes_of(width, 2), stds, torch.device("cpu"))
    before = weights[2].detach().clone()
    opt = layerwise(kind, weights, {"SGD": 0.05, "Adam": 0.02 / 64}[kind] * torch.tensor([multipliers] * 2))
    for _ in range(steps):
        opt.zero_grad()
        losses(weights, x, y).sum().backward()
        opt.step()
    return float((weights[2].detach() - before).square().mean().sqrt())


nb.claim(
    "C11",
    "RMS(ΔW_k) = Θ(1/d) holds for SGD and Adam but not for Muon, whose update has RMS 1/√d.",
    "partly",
    holds=[
        ledger.close(
            "SGD, η_k constant: exponent of RMS(ΔW_k) = η_k RMS(G_k), recorded",
            e1_recorded["muP"]["RMS"][1],
            -1,
            abs=0.1,
            digits=2,
            scope=e1_scope,
        ),
        *[
            ledger.close(
                f"{kind} under muP: exponent of RMS(ΔW₂), four steps, live",
                metrics.loglog_slope(e1_widths[:3], [hidden_update(kind, w) for w in e1_widths[:3]]).slope,
                -1,
                abs=0.12,
                digits=2,
                machine=True,
            )
            for kind in ("SGD", "Adam")
        ],
        *[
            ledger.close(
                f"msign of full rank, {n} × {n}: RMS times √n", rms_msign(gauss(n, n, seed=n)) * math.sqrt(n), 1, rel=1e-6, digits=6
            )
            for n in (32, 128)
        ],
    ],
    fails=[
        ledger.less(
            f"Muon at batch {batch}: exponent of RMS(ΔW_k), −1/2 claimed, recorded",
            float(np.mean(muon_slope[batch])),
            -0.85,
            digits=2,
            scope=e1b_scope,
        )
        for batch in muon_slope
    ],
)

# %% [markdown]
# ## E2: the coordinate check
#
# **Question.** With the table put in, does the network's change in a few steps depend on its width? **Set-up.** Five full-batch steps on 64 digits, at fixed base rates, with SGD, Adam and Muon (heavy ball 0.9, five Newton-Schulz steps). **Measured.**
# The RMS change of every layer's output, the loss decrease of the first step, and the RMS of the logits at the start.

# %%
RATES = {"SGD": 0.05, "Adam": 0.02 / 64, "Muon": 0.02}


def few_steps(device, d, seeds, steps, rule, optimizer):
    """Changes of Y_in, Y_1, Y_2, Z after ``steps`` full-batch steps, the losses, and the RMS of Z at the start: means over the seeds."""
    x, y = (t[:64] for t in digits(device))
    stds, multipliers = parametrise(rule, optimizer, d, 2)
    weights = network(seeds, shapes_of(d, 2), stds, device)
    opt = layerwise(optimizer, weights, RATES[optimizer] * torch.tensor([multipliers] * len(seeds)))
    seen = {"start": float(metrics.rms(outputs(weights, x)[-1].detach().flatten(1)).mean()), "loss": []}

    def step(t):
        loss = losses(weights, x, y)
        seen["loss"].append(float(loss.detach().mean()))
        opt.zero_grad()
        loss.sum().backward()
        opt.step()

    moved = train.coordinate_check(lambda: dict(enumerate(outputs(weights, x)[1:])), step, steps)
    seen["loss"].append(float(losses(weights, x, y).detach().mean()))
    return seen | {"changes": [float(rows[-1].mean()) for rows in moved.values()]}


# %%
def check_widths(device, *, widths, seeds, steps, cases):
    """few_steps for every case (rule, optimizer) and width: "rule optimizer" -> what was seen -> one row a width."""
    return {" ".join(case): zip_rows([few_steps(device, d, seeds, steps, *case) for d in widths]) for case in cases}


# %%
e2_widths = nb.at_scale(cpu=[64, 128, 256, 384], gpu=[64, 128, 256, 512, 1024], full=[64, 128, 256, 512, 1024, 2048, 4096])
e2_cases = [[rule, optimizer] for rule in ("SP", "muP") for optimizer in mup.OPTIMIZERS]
e2_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
e2 = nb.run("E2", check_widths, widths=e2_widths, seeds=e2_seeds, steps=5, cases=e2_cases)

# %% tags=["hide-input"]
e2_record = nb.recorded("E2")
e2_full = e2_record.config["widths"]
e2_scope = f"full, widths 64 to {e2_full[-1]}, {len(e2_record.config['seeds'])} seeds"
e2_slopes = {case: slopes_of(e2_full, found["changes"]) for case, found in e2_record.result.items()}
e2_slopes_live = {case: slopes_of(e2_widths, found["changes"]) for case, found in e2.items()}
first_decrease = lambda found: [row[0] - row[1] for row in found["loss"]]
decrease_ratio = lambda case, wide, narrow: (first_decrease(e2_record.result[case])[e2_full.index(w)] for w in (wide, narrow))
grown = lambda case, wide, narrow: np.divide(*decrease_ratio(case, wide, narrow))


def start_rms_of(width, seeds):
    """RMS of the logits at the start under muP, over seeds and 64 digits."""
    weights = network(seeds, shapes_of(width, 2), parametrise("muP", "Adam", width, 2)[0], torch.device("cpu"))
    return float(metrics.rms(outputs(weights, digits(torch.device("cpu"))[0][:64])[-1].detach().flatten()))


start_live = [start_rms_of(w, range(16)) for w in e2_widths]
start_slope = metrics.loglog_slope(e2_full, e2_record.result["muP Adam"]["start"])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six panels of the RMS change of each layer after five steps against the width, rows SP and muP, columns SGD, Adam and Muon, log axes. In the top row the lines fan out: Adam's hidden and output lines rise steeply, SGD's and Muon's input lines fall and output lines rise. In the bottom row the hidden lines are flat, the output line falls slightly."}}
figure, panels = plt.subplots(2, 3, figsize=(8.4, 5), sharex=True, sharey=True)
for row, rule in zip(panels, ("SP", "muP"), strict=True):
    for axes, optimizer in zip(row, mup.OPTIMIZERS, strict=True):
        case = f"{rule} {optimizer}"
        for k, (color, style) in enumerate(((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))):
            axes.plot(e2_full, [r[k] for r in e2_record.result[case]["changes"]], color=color, ls=style, label=("Y_in", "Y₁", "Y₂", "Z")[k])
            axes.plot(e2_widths, [r[k] for r in e2[case]["changes"]], "o", color=color, ms=3.5)
        axes.set_yscale("log")
        width_axis(axes, e2_full, 2)
        axes.set_title(case.replace(" ", ", "), fontsize=10)
for axes in panels[:, 0]:
    axes.set_ylabel("RMS change, 5 steps")
for axes in panels[0]:
    axes.set_xlabel("")
panels[1, 0].legend(fontsize=8, loc="lower left", ncols=2)
figure.suptitle(
    "The coordinate check: under muP the features move alike at every width (dots: live)", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# **What we saw.** Under muP the features' exponents are at most 0.06 in size over a factor of 64, for all three optimizers. In SP Adam's features and logits grow and the input layer of SGD and Muon is starved; Muon's later features depend on the width only weakly. The logits' change *does* fall under muP, with an exponent of $-0.15$ for SGD and $-0.17$ for Adam, a halving
# over the range. Most of it comes with the starting logits (C15): live, with Adam and the readout started at a tenth of its size, the fall is much weaker.


# %% tags=["hide-input"]
def logit_change(width, scale, steps=5, seeds=(0, 1, 2, 3)):
    """RMS change of Z in a few Adam steps under muP, its readout started at ``scale`` times its deviation."""
    x, y = (t[:64] for t in digits(torch.device("cpu")))
    stds, multipliers = parametrise("muP", "Adam", width, 2)
    weights = network(seeds, shapes_of(width, 2), [*stds[:-1], stds[-1] * scale], torch.device("cpu"))
    opt = layerwise("Adam", weights, RATES["Adam"] * torch.tensor([multipliers] * len(seeds)))
    before = outputs(weights, x)[-1].detach()
    for _ in range(steps):
        opt.zero_grad()
        losses(weights, x, y).sum().backward()
        opt.step()
    return float((outputs(weights, x)[-1].detach() - before).square().mean().sqrt())


logit_slope = {c: metrics.loglog_slope(e2_widths[:3], [logit_change(w, c) for w in e2_widths[:3]]).slope for c in (1.0, 0.1)}
nb.results(
    "E2",
    f"Width exponents of the RMS change in five steps; {e2_record.provenance}",
    ["case", "Y_in, Y₁, Y₂, Z"],
    [[case, vector(slopes)] for case, slopes in e2_slopes.items()],
)
nb.experiment(
    "E2",
    "Coordinate check: under muP the change of the hidden features in five steps does not depend on the width, for SGD, Adam and Muon, and that of the logits falls slightly; under SP at least one hidden layer's does.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"muP {kind}: largest exponent over Y_in, Y₁, Y₂, recorded",
                max(map(abs, e2_slopes[f"muP {kind}"][:3])),
                0.15,
                digits=2,
                scope=e2_scope,
            )
            for kind in mup.OPTIMIZERS
        ],
        *[
            ledger.less(f"muP {kind}: the same, live", max(map(abs, e2_slopes_live[f"muP {kind}"][:3])), 0.25, digits=2, machine=True)
            for kind in mup.OPTIMIZERS
        ],
        *[
            ledger.more(
                f"SP {kind}: largest exponent in size over Y_in, Y₁, Y₂, recorded",
                max(map(abs, e2_slopes[f"SP {kind}"][:3])),
                0.3,
                digits=2,
                scope=e2_scope,
            )
            for kind in mup.OPTIMIZERS
        ],
        *[
            ledger.close(f"muP {kind}: exponent of Z, recorded", e2_slopes[f"muP {kind}"][3], -0.11, abs=0.08, digits=2, scope=e2_scope)
            for kind in mup.OPTIMIZERS
        ],
        ledger.more(
            "muP Adam, readout started at a tenth: exponent of Z, less that of the full readout, live",
            logit_slope[0.1] - logit_slope[1.0],
            0.1,
            digits=2,
            machine=True,
        ),
        ledger.more("SP Adam: exponent of Z, live", e2_slopes_live["SP Adam"][3], 0.6, digits=2, machine=True),
    ],
)
nb.claim(
    "C5",
    "One learning rate cannot serve all widths: in SP the loss decrease of a step grows with the width, for SGD and Adam until the step overshoots.",
    "verified",
    holds=[
        *[
            ledger.more(
                f"SP {kind}: first loss decrease at d = 1024 over that at 64, recorded",
                grown(f"SP {kind}", 1024, 64),
                2.5,
                digits=3,
                scope=e2_scope,
            )
            for kind in mup.OPTIMIZERS
        ],
        ledger.less(
            "SP SGD at d = 4096: the step that served at 64 raises the loss",
            first_decrease(e2_record.result["SP SGD"])[-1],
            0,
            digits=3,
            scope=e2_scope,
        ),
        ledger.less("SP Adam: at d = 4096 over that at 2048", grown("SP Adam", 4096, 2048), 1, digits=2, scope=e2_scope),
        *[
            ledger.less(
                f"muP {kind}: largest over smallest first decrease, all widths, recorded",
                max(first_decrease(e2_record.result[f"muP {kind}"])) / min(first_decrease(e2_record.result[f"muP {kind}"])),
                2,
                digits=2,
                scope=e2_scope,
            )
            for kind in mup.OPTIMIZERS
        ],
    ],
)
nb.claim(
    "C15",
    "At the start of training the output is of order one, as every other layer.",
    "refuted",
    fails=[
        ledger.close(
            "exponent of RMS(Z) at the start under muP: −1/2, recorded", start_slope.slope, -0.5, abs=0.06, digits=2, scope=e2_scope
        ),
        ledger.close("the same, live, 16 seeds", metrics.loglog_slope(e2_widths, start_live).slope, -0.5, abs=0.1, digits=2, machine=True),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "RMS of the output at the start against the width, log axes, under muP. Recorded points from width 64 to 4,096 and live points up to 384 fall together along a line of slope minus one half, from the level of a horizontal line, drawn for an output that does not depend on the width, to about a ninth of it."}}
figure, axes = plt.subplots(figsize=(7.2, 3.3))
start_full = np.array(e2_record.result["muP Adam"]["start"])
axes.plot(e2_full, start_full, "o-", color=BLUE, label="recorded")
axes.plot(e2_widths, start_live, "x", color=BLACK, ms=8, mew=1.8, label="live, 16 seeds")
axes.plot(e2_full, start_full[0] * np.sqrt(e2_full[0] / np.array(e2_full)), color=GREY, ls="--", label="slope −1/2")
axes.axhline(start_full[0], color=ORANGE, ls=":", label="of order one in the width")
axes.set(xscale="log", yscale="log", xlabel="width d (log axis)", ylabel="RMS of the output (log axis)")
axes.set_xticks(e2_full, [f"{d:,}" for d in e2_full])
axes.legend(fontsize=8)
axes.set_yticks([0.1, 0.2, 0.4], ["0.1", "0.2", "0.4"])
axes.minorticks_off()
axes.set_title("Under muP the output starts smaller in wider networks")
nb.show(figure)

# %% [markdown]
# ## E3: the one-parameter family
#
# **Question.** D6 leaves $s$ free: do all members of the family decrease the loss alike, and does only $s=1$ move the features at every width? **Set-up.** SGD with readout deviation $\propto d^{-s}$ and rates $\propto(d^{2s-1},d^{2s-2},d^{-1})$, relative to $d=64$, ten
# full-batch steps. **Expected.** Feature change $\propto d^{s-1}$, loss decrease free of $d$.


# %% tags=["hide-input"]
def family(device, *, widths, seeds, exponents, rate, readout, steps):
    """Per s: RMS change of the last hidden layer in one step and in all, and the loss decrease; one row a width, one entry a seed."""
    x, y = (t[:64] for t in digits(device))
    table = {}
    for s in exponents:
        rows = []
        for d in widths:
            r, shapes = d / BASE, shapes_of(d, 2)
            weights = network(seeds, shapes, [1 / 8, math.sqrt(2 / d), math.sqrt(2 / d), readout / 8 * r**-s], device)
            multipliers = [r ** (2 * s - 1), r ** (2 * s - 2), r ** (2 * s - 2), r**-1]
            opt = layerwise("SGD", weights, rate * torch.tensor([multipliers] * len(seeds)))
            seen = []

            def step(t, weights=weights, opt=opt, seen=seen):
                seen.append(losses(weights, x, y))
                opt.zero_grad()
                seen[-1].sum().backward()
                opt.step()

            moved = train.coordinate_check(lambda weights=weights: {"Y": outputs(weights, x)[-2]}, step, steps)["Y"]
            seen.append(losses(weights, x, y))
            rows.append(
                {"first": moved[0], "all": moved[-1], "decrease": (seen[0] - seen[-1]).detach(), "step": (seen[0] - seen[1]).detach()}
            )
        table[str(s)] = zip_rows(rows)
    return table


# %%
e3_widths = nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024, 2048], full=[64, 128, 256, 512, 1024, 2048, 4096])
e3_seeds = nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2, 3], full=[0, 1, 2, 3, 4, 5])
e3 = nb.run("E3", family, widths=e3_widths, seeds=e3_seeds, exponents=[0.5, 0.75, 1.0, 1.25], rate=0.05, readout=0.3, steps=10)

# %% tags=["hide-input"]
e3_record = nb.recorded("E3")
e3_full = e3_record.config["widths"]
e3_scope = f"full, widths 64 to {e3_full[-1]}, {len(e3_record.config['seeds'])} seeds"


def seed_slopes(widths, rows):
    """Log-log slope against the width of each seed."""
    return [metrics.loglog_slope(widths, [row[i] for row in rows]).slope for i in range(len(rows[0]))]


e3_slopes = {s: {key: seed_slopes(e3_full, rows) for key, rows in found.items()} for s, found in e3_record.result.items()}
e3_slopes_live = {s: {key: float(np.mean(seed_slopes(e3_widths, rows))) for key, rows in found.items()} for s, found in e3.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels against the width on log axes, four lines each for s equal to 0.5, 0.75, 1 and 1.25. Top, feature change of the first step: lines fan out with slopes close to minus a half, minus a quarter, zero and a quarter. Bottom, loss decrease of the same step: the four lines lie on each other and are flat."}}
figure, family_panels = plt.subplots(2, 1, figsize=(7.2, 5.4), sharex=True, height_ratios=(2, 1))
top, bottom = family_panels
for (s_text, found), color, style, marker in zip(
    e3_record.result.items(), (BLUE, ORANGE, GREEN, PURPLE), ("-", "--", "-.", ":"), "os^D", strict=True
):
    middle = np.mean(found["first"], 1)
    top.plot(e3_full, middle, color=color, ls=style, marker=marker, ms=4, label=f"s = {s_text}")
    top.annotate(
        f"{np.mean(e3_slopes[s_text]['first']):.2f}".replace("-", "−"),
        (e3_full[-1], middle[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=8,
        color=color,
        va="center",
        annotation_clip=False,
    )
    bottom.plot(e3_full, np.mean(found["step"], 1), color=color, ls=style, marker=marker, ms=4)
    top.plot(e3_widths, np.mean(e3[s_text]["first"], 1), "x", color=BLACK, ms=5, label="live" if s_text == "1.25" else None)
    bottom.plot(e3_widths, np.mean(e3[s_text]["step"], 1), "x", color=BLACK, ms=5)
top.set(yscale="log", ylabel="RMS change of Y₂")
top.legend(ncols=3, loc="lower left", fontsize=8)
bottom.set(ylabel="loss decrease")
bottom.set_ylim(0, 1.6 * bottom.get_ylim()[1])
width_axis(bottom, e3_full)
top.set_title("One step of SGD: the losses of the family agree, the features do not")
nb.show(figure)

# %% [markdown]
# **What we saw.** In the first step the exponents of the feature change are $s-1$ to within 0.01, those of the loss decrease zero within 0.02. Over ten steps that still holds for $s\le1$, but not for $s=1.25$: its features pull away with exponent 0.48 and its loss decrease, too, grows, with 0.23. The count is one of a single step. The end $s=\frac12$ is the lazy one, where a wide network trains like a linear model in its features at the start; $s$ is a dial between the two regimes.

# %% tags=["hide-input"]
nb.experiment(
    "E3",
    "In one step all members of the one-parameter family decrease the loss alike at every width, and the features move like d^(s−1); over ten steps the loss still agrees for s ≤ 1, but not for s = 1.25.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"s = {s}: exponent of the feature change in a step, recorded",
                float(np.mean(found["first"])),
                float(s) - 1,
                abs=0.05,
                digits=2,
                scope=e3_scope,
            )
            for s, found in e3_slopes.items()
        ],
        *[
            ledger.close(
                f"s = {s}: exponent of the loss decrease, recorded", float(np.mean(found["step"])), 0, abs=0.05, digits=2, scope=e3_scope
            )
            for s, found in e3_slopes.items()
        ],
        *[
            ledger.close(
                f"s = {s}: the same over ten steps", float(np.mean(e3_slopes[s]["decrease"])), 0, abs=0.05, digits=2, scope=e3_scope
            )
            for s in ("0.5", "0.75", "1.0")
        ],
        ledger.more("s = 1.25: the same over ten steps", float(np.mean(e3_slopes["1.25"]["decrease"])), 0.15, digits=2, scope=e3_scope),
        *[
            ledger.close(f"s = {s}: exponent of the feature change, live", found["first"], float(s) - 1, abs=0.15, digits=2, machine=True)
            for s, found in e3_slopes_live.items()
        ],
    ],
)
nb.claim(
    "C9",
    "The readout variance 1/d² follows from the demand on the feature change: s = 1 is the only member whose features move alike at every width.",
    "verified",
    holds=[
        ledger.less(
            "s = 1: |exponent| over ten steps, recorded", abs(float(np.mean(e3_slopes["1.0"]["all"]))), 0.15, digits=2, scope=e3_scope
        ),
        *[
            ledger.more(
                f"s = {s}: |exponent| over ten steps, recorded", abs(float(np.mean(e3_slopes[s]["all"]))), 0.15, digits=2, scope=e3_scope
            )
            for s in ("0.5", "0.75", "1.25")
        ],
        ledger.more(
            "95% lower bound of the exponent's distance from 0, nearest rival (s = 0.75), one step",
            abs(float(np.mean(e3_slopes["0.75"]["first"]))) - t_half(e3_slopes["0.75"]["first"]),
            0.1,
            digits=2,
            scope=e3_scope,
        ),
    ],
)

# %% [markdown]
# ## E4: does the best learning rate transfer? Adam on digits
#
# **Question.** The one that muP exists for. **Set-up.** One hidden layer, batches of 64, constant rate; the loss is the mean over the last fifth of the training. Every width gets the whole grid of rates, with all seeds, in one stack, under SP and under muP. The two share their base
# network; a set of constants for the layers is chosen *there*, too (E4b), on other seeds, and both parametrisations are run with these constants as well. The rate carried from $d=64$ is the vertex of a parabola through the mean losses there; losses at it are interpolated between the tried rates.


# %%
def finite(values, cap=9.0):
    """Values with divergence written as ``cap``: a record holds finite numbers."""
    return values.nan_to_num(nan=cap, posinf=cap).clamp(max=cap)


def tuning_grid(device, optimizer, d, hidden, stds, rates, seeds, *, steps, batch, tail):
    """Mean training loss of the last ``tail`` steps, (rows of ``rates``, seeds): all rows (one rate a layer) and seeds in one stack."""
    x, y = digits(device)
    weights = network(seeds, shapes_of(d, hidden), stds, device, copies=len(rates))
    opt = layerwise(optimizer, weights, torch.tensor(rates).repeat_interleave(len(seeds), 0))
    drawn = [torch.randint(len(x), (steps, batch), generator=torch.Generator().manual_seed(1000 + seed)) for seed in seeds]
    rows = torch.stack(drawn, 1).to(device)  # (steps, seeds, batch)
    total = torch.zeros(len(rates) * len(seeds), device=device)

    def examples(step):
        chosen = rows[step].repeat(len(rates), 1)
        return x[chosen], y[chosen]

    def watch(step, found):
        if step >= steps - tail:
            total.add_(found / tail)

    train.fit_graphed(lambda x, y: losses(weights, x, y), examples, opt, steps, watch=watch)
    return finite(total).view(len(rates), len(seeds))


# %%
def constants_at_base(device, *, exponents, factors, seeds, **training):
    """Grid over rate, input factor and readout factor at the base width (rates relative to the hidden one), and its best point."""
    stds, _ = parametrise("SP", "Adam", BASE, 1)
    points = list(itertools.product(exponents, factors, factors))
    rates = [[2.0 ** (e + a), 2.0**e, 2.0 ** (e + b)] for e, a, b in points]
    found = tuning_grid(device, "Adam", BASE, 1, stds, rates, seeds, **training).mean(1)
    best = {f"{a} {b}": float(found[[i for i, p in enumerate(points) if p[1:] == (a, b)]].min()) for a in factors for b in factors}
    return {"best": list(points[int(found.argmin())]), "least": best}


# %%
def transfer(device, *, optimizer, arms, widths, hidden, seeds, **training):
    """Tuning curves: arm -> width -> (rates, seeds). An arm gives its rule, octaves on input and readout rate, and exponents by width."""
    table = {}
    for name, arm in arms.items():
        table[name] = {}
        for d in widths:
            stds, multipliers = arm_rule(arm["rule"], optimizer, d, hidden)
            octaves = [arm["input"], *[0] * hidden, arm["readout"]]
            rates = [[2.0 ** (e + o) * m for o, m in zip(octaves, multipliers, strict=True)] for e in arm["exponents"][str(d)]]
            table[name][str(d)] = tuning_grid(device, optimizer, d, hidden, stds, rates, seeds, **training)
    return table


FACTORS = {
    "√(out/in)": lambda m, n: math.sqrt(n / m),
    "√max(1, out/in)": lambda m, n: math.sqrt(max(1, n / m)),
    "0.2√max(in, out)": lambda m, n: 0.2 * math.sqrt(max(m, n)),
}


def arm_rule(rule, optimizer, d, hidden):
    """Deviations and rate multipliers: "SP", "muP", or muP's deviations with one of the absolute shape factors in use for Muon."""
    if rule in FACTORS:
        return parametrise("muP", optimizer, d, hidden)[0], [FACTORS[rule](m, n) for m, n in shapes_of(d, hidden)]
    return parametrise(rule, optimizer, d, hidden)


# %%
octave_range = lambda low, high, step=1.0: [low + step * i for i in range(round((high - low) / step) + 1)]
e4_training = nb.at_scale(
    cpu={"steps": 50, "batch": 64, "tail": 10}, gpu={"steps": 100, "batch": 64, "tail": 20}, full={"steps": 100, "batch": 64, "tail": 20}
)
e4b = nb.run(
    "E4b",
    constants_at_base,
    exponents=nb.at_scale(cpu=octave_range(-8, -6), gpu=octave_range(-10, -5), full=octave_range(-11, -4)),
    factors=nb.at_scale(cpu=[-2, 0, 2], gpu=[-4, -2, 0, 2, 4], full=[-4, -3, -2, -1, 0, 1, 2, 3, 4, 5]),
    seeds=nb.at_scale(cpu=[100], gpu=[100, 101], full=[100, 101, 102, 103]),
    **e4_training,
)

# %%
e4_widths = nb.at_scale(cpu=[32, 64, 128, 256], gpu=[32, 64, 128, 256, 512, 1024], full=[32, 64, 128, 256, 512, 1024, 2048])
e4_grids = {
    "SP": nb.at_scale(
        cpu={str(d): octave_range(-10, -5) for d in e4_widths},
        gpu={str(d): octave_range(-12, -5) for d in e4_widths},
        full={str(d): octave_range(-13, -4) if d < 512 else octave_range(-15, -6) for d in e4_widths},
    ),
    "muP": nb.at_scale(
        cpu={str(d): octave_range(-9, -5) for d in e4_widths},
        gpu={str(d): octave_range(-10, -4) for d in e4_widths},
        full={str(d): octave_range(-11, -3) for d in e4_widths},
    ),
}
e4_arms = {rule: {"rule": rule, "input": 0, "readout": 0, "exponents": e4_grids[rule]} for rule in ("SP", "muP")}
if nb.scale != "cpu":
    _, best_input, best_readout = e4b["best"]
    e4_arms |= {
        f"{rule}, tuned": {"rule": rule, "input": best_input, "readout": best_readout, "exponents": e4_grids[rule]}
        for rule in ("SP", "muP")
    }
e4_seeds = nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3, 4, 5])
e4 = nb.run("E4", transfer, optimizer="Adam", arms=e4_arms, widths=e4_widths, hidden=1, seeds=e4_seeds, **e4_training)


# %% tags=["hide-input"]
def optima(found, exponents):
    """width -> log2 of the best rate of each seed, by a parabola (NaN where it is at the grid's edge)."""
    return {int(w): [mup.best_rate(exponents[w], [row[i] for row in rows])[0] for i in range(len(rows[0]))] for w, rows in found.items()}


def drift(found):
    """Octaves by which the best rate moves per doubling of the width: one least-squares slope a seed, NaN optima left out."""
    slopes = []
    for i in range(len(next(iter(found.values())))):
        points = [(math.log2(w), o[i]) for w, o in found.items() if math.isfinite(o[i])]
        slopes.append(float(np.polyfit(*zip(*points, strict=True), 1)[0]))
    return slopes


def carried(record, arm, base):
    """Best exponent at the base width (vertex of the parabola through the mean losses); width -> losses (seeds) there, and at each width's best.

    Between two tried rates log loss is interpolated; beyond a width's grid its last rate stands in.
    """
    exponents, found = record["exponents"][arm], record["result"][arm]
    at = mup.best_rate(exponents[base], np.mean(found[base], 1))[0]
    best = {w: rows[metrics.best_rows([0] * len(rows), rows)[0]] for w, rows in found.items()}
    between = lambda w, losses: float(np.exp(np.interp(at, exponents[w], np.log(losses))))
    return at, {w: [between(w, losses) for losses in zip(*rows, strict=True)] for w, rows in found.items()}, best


spread = lambda found: max(np.nanmean(o) for o in found.values()) - min(np.nanmean(o) for o in found.values())
apart = lambda what, a, b, scope: ledger.better(what, a, b, sigmas=float(scipy.stats.t.ppf(0.975, len(a) - 1)), scope=scope)  # Student's t
standard_errors = lambda a, b: float((np.mean(a) - np.mean(b)) / math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)))
with_interval = lambda xs: f"{np.mean(xs):+.2f} ± {t_half(xs):.2f}".replace("-", "−")

# %% tags=["hide-input"]
e4_record, e4b_record = nb.recorded("E4"), nb.recorded("E4b")
e4_full = e4_record.config["widths"]
e4_scope = f"full, widths {e4_full[0]} to {e4_full[-1]}, {len(e4_record.config['seeds'])} seeds"
e4_runs = {"result": e4_record.result, "exponents": {name: arm["exponents"] for name, arm in e4_record.config["arms"].items()}}
e4_optima = {arm: optima(e4_runs["result"][arm], e4_runs["exponents"][arm]) for arm in e4_runs["result"]}
e4_drift = {arm: drift(found) for arm, found in e4_optima.items()}
e4_carried = {arm: carried(e4_runs, arm, "64") for arm in e4_runs["result"]}
e4_live = {rule: optima(e4[rule], e4_grids[rule]) for rule in ("SP", "muP")}
widest = str(e4_full[-1])
E4_LOOKS = {"SP": (ORANGE, "--", "s"), "muP": (BLUE, "-", "o"), "SP, tuned": (PURPLE, ":", "D"), "muP, tuned": (GREEN, "-.", "^")}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels. Top: training loss against log2 of the rate, one curve a width from 32 to 2048; under SP the minima move left as the width grows, under muP the curves lie on each other. Bottom left: best rate against the width; SP falls by several octaves, muP is flat, with and without tuned constants. Bottom right: loss at the carried rate against the width; SP's rises at large widths, muP's falls and levels off, lowest with tuned constants."}}
figure, panels = plt.subplots(2, 2, figsize=(8.4, 6.6))
transfer_panels = panels
for axes, rule in zip(panels[0], ("SP", "muP"), strict=True):
    for (w, rows), (color, style, marker) in zip(e4_runs["result"][rule].items(), WIDTH_LOOKS, strict=True):
        axes.plot(e4_runs["exponents"][rule][w], np.mean(rows, 1), color=color, ls=style, marker=marker, ms=3.5, lw=1.3, label=f"d = {w}")
    axes.set(yscale="log", ylim=(0.015, 3), xlabel="log₂ of the rate")
    axes.set_title({"SP": "SP: minima move left", "muP": "muP: minima stay"}[rule], fontsize=10)
panels[0, 0].set_ylabel("training loss (log axis)")
panels[0, 1].legend(fontsize=7, ncols=2, loc="upper center")
for arm, (color, style, marker) in E4_LOOKS.items():
    panels[1, 0].plot(e4_full, [np.nanmean(o) for o in e4_optima[arm].values()], color=color, ls=style, marker=marker, ms=4, label=arm)
    panels[1, 1].plot(e4_full, [np.mean(v) for v in e4_carried[arm][1].values()], color=color, ls=style, marker=marker, ms=4, label=arm)
panels[1, 1].plot(e4_full, [np.mean(v) for v in e4_carried["SP"][2].values()], color=GREY, ls="-", lw=1, label="SP, re-tuned at each width")
for rule in ("SP", "muP"):
    panels[1, 0].plot(e4_widths, [np.nanmean(o) for o in e4_live[rule].values()], "x", color=E4_LOOKS[rule][0], ms=6)
for axes in panels[1]:
    width_axis(axes, e4_full, 2)
panels[1, 0].set(ylabel="log₂ of the best rate")
panels[1, 0].set_title("SP's best rate falls (crosses: live)", fontsize=10)
panels[1, 1].set(ylabel="training loss (log axis)", yscale="log", ylim=(0.015, 1.0))
panels[1, 1].set_title("loss at the rate that is best at d = 64", fontsize=10)
panels[1, 0].legend(fontsize=7.5)
panels[1, 1].legend(fontsize=7.5, loc="upper left", ncols=2)
figure.suptitle("Digits, Adam: SP's best rate moves with the width, muP's does not", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"]
at_base, sp_carried, sp_best = e4_carried["SP"]
mup_carried, tuned_carried, tuned_sp_best = e4_carried["muP"][1], e4_carried["muP, tuned"][1], e4_carried["SP, tuned"][2]
e4_rows = [
    [arm, with_interval(e4_drift[arm]), ledger.with_error(e4_carried[arm][1][widest], 4), ledger.with_error(e4_carried[arm][2][widest], 4)]
    for arm in E4_LOOKS
]
nb.results(
    "E4",
    f"Training loss at d = {widest} (mean ± standard error over seeds) and octaves of the best rate per doubling (95% interval); {e4_record.provenance}",
    ["arm", "octaves per doubling", "at the rate best for d = 64", "re-tuned at this width"],
    e4_rows,
)
mean_loss = lambda arm, w, e: float(np.mean(e4_runs["result"][arm][w][e4_runs["exponents"][arm][w].index(e)]))
sp_over_mup = {e: mean_loss("SP", widest, e) / mean_loss("muP", widest, e) for e in (-7, -6)}
print(
    f"at d = 64 two tried rates tie: loss {mean_loss('SP', '64', -7):.4f} at 2^−7, {mean_loss('SP', '64', -6):.4f} at 2^−6; "
    f"at d = {widest} SP over muP is {sp_over_mup[-7]:.1f} at the former, {sp_over_mup[-6]:.1f} at the latter"
)
best_exponent, best_input, best_readout = e4b_record.result["best"]
print(
    f"constants at d = 64 (E4b, recorded): hidden rate 2^{best_exponent:g}, input ×2^{best_input:g}, readout ×2^{best_readout:g}; "
    f"loss {min(e4b_record.result['least'].values()):.4f}, with all constants equal {e4b_record.result['least']['0 0']:.4f}"
)

# %% [markdown]
# **What we saw.** SP's best rate falls by half an octave per doubling and muP's stays, with the constants of the layers equal or tuned. At width 2048 the rate of width 64 leaves SP at nearly twice muP's loss; how much exactly hangs on the rate, for at width 64 two tried rates an octave apart tie, and the ratio is 1.2 at one and 3 at the other.
#
# The lower right panel holds a warning: SP *re-tuned* goes lower than muP with equal constants.
# The tuned constants close most of that gap for muP, at widths from 128 on; at 32 they gain nothing, and at 64 no more than the scatter. They are not identified, either: the runner-up lies in the opposite corner of the grid. Single seeds scatter by an octave where the curves are flat; the intervals are over seeds.

# %% tags=["hide-input"]
sp_upper, mup_reach = np.mean(e4_drift["SP"]) + t_half(e4_drift["SP"]), abs(np.mean(e4_drift["muP"])) + t_half(e4_drift["muP"])
nb.experiment(
    "E4",
    "Adam on digits: over a factor of 64 in width SP's best rate falls by about half an octave per doubling, muP's stays within an octave; a rate tuned at d = 64 costs SP at d = 2048 much more than muP.",
    "verified",
    holds=[
        ledger.less("SP: octaves per doubling, upper end of the 95% interval, recorded", float(sp_upper), -0.4, digits=2, scope=e4_scope),
        ledger.less("muP: the same, larger end in size, recorded", float(mup_reach), 0.15, digits=2, scope=e4_scope),
        ledger.more("SP: range of the best rate in octaves, recorded", spread(e4_optima["SP"]), 3, digits=2, scope=e4_scope),
        ledger.less("muP: range of the best rate in octaves, recorded", spread(e4_optima["muP"]), 1, digits=2, scope=e4_scope),
        apart(f"loss at d = {widest} and the rate of d = 64: SP above muP", sp_carried[widest], mup_carried[widest], scope=e4_scope),
        apart(f"SP at d = {widest}: the rate of d = 64 above re-tuned", sp_carried[widest], sp_best[widest], scope=e4_scope),
        ledger.less(
            f"muP at d = {widest}: loss at the rate of d = 64 over the best",
            float(np.mean(mup_carried[widest]) / np.mean(e4_carried["muP"][2][widest])),
            1.1,
            digits=3,
            scope=e4_scope,
        ),
        ledger.less("SP: octaves per doubling, live", float(np.mean(drift(e4_live["SP"]))), -0.25, digits=2, machine=True),
        ledger.less("muP: octaves per doubling in size, live", abs(float(np.mean(drift(e4_live["muP"])))), 0.25, digits=2, machine=True),
    ],
)
nb.experiment(
    "E4b",
    "At the base width one rate for all layers is not the best choice; the layers' own constants, found there, carry over to every width.",
    "partly",
    holds=[
        *[
            apart(
                f"muP at d = {w}, re-tuned: loss with equal constants above that with tuned ones",
                e4_carried["muP"][2][w],
                e4_carried["muP, tuned"][2][w],
                scope=e4_scope,
            )
            for w in map(str, e4_full)
            if int(w) > BASE
        ],
        apart(f"muP at d = {widest}, rate of d = 64: the same", mup_carried[widest], tuned_carried[widest], scope=e4_scope),
        ledger.less(
            "muP, tuned: octaves per doubling in size",
            abs(np.mean(e4_drift["muP, tuned"])) + t_half(e4_drift["muP, tuned"]),
            0.25,
            digits=2,
            scope=e4_scope,
        ),
    ],
    fails=[
        ledger.less(
            "d = 64, seeds that did not choose them: gain in standard errors (2.57 wanted)",
            standard_errors(e4_carried["muP"][2]["64"], e4_carried["muP, tuned"][2]["64"]),
            2.57,
            digits=3,
            scope=e4_scope,
        ),
        ledger.less(
            "d = 32: the same",
            standard_errors(e4_carried["muP"][2]["32"], e4_carried["muP, tuned"][2]["32"]),
            0,
            digits=2,
            scope=e4_scope,
        ),
        ledger.less(
            "not identified: loss at input and readout × 2⁻⁴ over the best of the grid",
            e4b_record.result["least"]["-4 -4"] / min(e4b_record.result["least"].values()),
            1.05,
            digits=3,
            scope="full, 4 seeds",
        ),
        ledger.more(
            f"SP at d = {widest}, re-tuned: loss with these constants over that with equal ones",
            float(np.mean(tuned_sp_best[widest]) / np.mean(sp_best[widest])),
            1.2,
            digits=3,
            scope=e4_scope,
        ),
    ],
)

# %% [markdown]
# ## E5: does it transfer for Muon?
#
# **Question.** Which of the shape factors in use keeps Muon's best rate in place? **Set-up.** As E4, with Muon on all matrices, and muP's initial deviations. **Expected.** $\sqrt{d_{out}/d_{in}}$ transfers, Moonlight's
# $0.2\sqrt{\max(d_{in},d_{out})}$ needs $\eta\propto1/\sqrt d$ in the hidden layer.

# %%
e5_widths = nb.at_scale(cpu=[32, 64, 128], gpu=[32, 64, 128, 256, 512], full=[32, 64, 128, 256, 512, 1024])
e5_arms = {
    rule: {"rule": rule, "input": 0, "readout": 0, "exponents": {str(d): nb.at_scale(cpu=cpu, gpu=gpu, full=full) for d in e5_widths}}
    for rule, cpu, gpu, full in (
        ("√(out/in)", octave_range(-7, -3), octave_range(-8, -2), octave_range(-8, -2)),
        ("√max(1, out/in)", octave_range(-7, -3), octave_range(-8, -2), octave_range(-9, -3)),
        ("0.2√max(in, out)", octave_range(-8, -4), octave_range(-9, -3), octave_range(-11, -4)),
    )
    if nb.scale != "cpu" or rule != "√max(1, out/in)"
}
e5_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
e5 = nb.run("E5", transfer, optimizer="Muon", arms=e5_arms, widths=e5_widths, hidden=1, seeds=e5_seeds, **e4_training)

# %% tags=["hide-input"]
e5_record = nb.recorded("E5")
e5_full = e5_record.config["widths"]
e5_scope = f"full, widths {e5_full[0]} to {e5_full[-1]}, {len(e5_record.config['seeds'])} seeds"
e5_optima = {arm: optima(e5_record.result[arm], e5_record.config["arms"][arm]["exponents"]) for arm in e5_record.result}
e5_drift = {arm: drift(found) for arm, found in e5_optima.items()}
e5_live = {
    arm: drift({w: [mup.best_rate(e5_arms[arm]["exponents"][str(w)], np.mean(e5[arm][str(w)], 1))[0]] for w in e5_widths})[0] for arm in e5
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Log2 of Muon's best rate against the width for three shape factors. The square root of out over in gives a nearly flat line; the square root of the larger of one and out over in falls a little; 0.2 times the square root of the larger side falls along the dotted guide of slope minus one half."}}
figure, axes = plt.subplots(figsize=(7.2, 3.8))
muon_axes, muon_bars = axes, {}
for (arm, found), (color, style, marker) in zip(
    e5_optima.items(), ((BLUE, "-", "o"), (GREEN, "-.", "^"), (ORANGE, "--", "s")), strict=True
):
    middle, error = [np.nanmean(o) for o in found.values()], [t_half(o) for o in found.values()]
    muon_bars[arm] = axes.errorbar(
        e5_full, middle, error, color=color, ls=style, marker=marker, ms=4, capsize=3, label=f"{arm}: {with_interval(e5_drift[arm])}"
    )
moonlight = [np.nanmean(o) for o in e5_optima["0.2√max(in, out)"].values()]
axes.plot(
    e5_full, np.mean(moonlight) - 0.5 * (np.log2(e5_full) - np.mean(np.log2(e5_full))), color=GREY, ls=":", lw=1.4, label="slope −1/2"
)
width_axis(axes, e5_full)
axes.set(ylabel="log₂ of the best rate")
axes.set_title("Muon's best rate: half an octave a doubling between the factors")
axes.legend(fontsize=8, title="shape factor: octaves per doubling, 95% interval", title_fontsize=8)
nb.show(figure)

# %% [markdown]
# **What we saw.** The difference between Moonlight's factor and $\sqrt{d_{out}/d_{in}}$ is half an octave per doubling, as counted. The latter drifts a little itself, 0.08 octaves, and the former by more than its $-\frac12$; both lie outside their intervals, and we did not look for the cause. The factors sit on all matrices here, not on the hidden one alone. $\sqrt{\max(1,d_{out}/d_{in})}$ lies between.

# %% tags=["hide-input"]
e5_check = lambda arm, expected, abs: ledger.close(
    f"{arm}: octaves per doubling, recorded", float(np.mean(e5_drift[arm])), expected, abs=abs, digits=2, scope=e5_scope
)
nb.experiment(
    "E5",
    "Muon on digits: with √(out/in) the best rate moves by less than 0.12 octaves per doubling; with 0.2√max(in, out) by half an octave more.",
    "verified",
    holds=[
        e5_check("√(out/in)", 0, 0.12),
        ledger.close(
            "the difference of the two, recorded",
            float(np.mean(e5_drift["0.2√max(in, out)"]) - np.mean(e5_drift["√(out/in)"])),
            -0.5,
            abs=0.06,
            digits=3,
            scope=e5_scope,
        ),
        ledger.less(
            "0.2√max(in, out): upper end of the 95% interval",
            float(np.mean(e5_drift["0.2√max(in, out)"]) + t_half(e5_drift["0.2√max(in, out)"])),
            -0.3,
            digits=2,
            scope=e5_scope,
        ),
        ledger.less(
            "0.2√max(in, out) less √(out/in): octaves per doubling, live",
            e5_live["0.2√max(in, out)"] - e5_live["√(out/in)"],
            -0.2,
            digits=2,
            machine=True,
        ),
    ],
)
nb.claim(
    "C14",
    "Muon with Moonlight's factor √max(n, m) needs η_k ∝ 1/√d.",
    "partly",
    holds=[
        ledger.close(
            "octaves per doubling beyond those of √(out/in), recorded",
            float(np.mean(e5_drift["0.2√max(in, out)"]) - np.mean(e5_drift["√(out/in)"])),
            -0.5,
            abs=0.06,
            digits=3,
            scope=e5_scope,
        ),
        *[
            ledger.close(
                f"relative norm of the update of a square matrix, {n} over 64",
                float(torch.linalg.svdvals(FACTORS["0.2√max(in, out)"](n, n) * optim.msign(gauss(n, n, seed=n)))[0])
                / float(torch.linalg.svdvals(FACTORS["0.2√max(in, out)"](64, 64) * optim.msign(gauss(64, 64, seed=64)))[0]),
                math.sqrt(n / 64),
                rel=1e-6,
            )
            for n in (128, 256)
        ],
    ],
    fails=[
        ledger.less(
            "factor on all matrices: octaves per doubling, upper end of the 95% interval, beyond −1/2",
            float(np.mean(e5_drift["0.2√max(in, out)"]) + t_half(e5_drift["0.2√max(in, out)"])),
            -0.5,
            digits=3,
            scope=e5_scope,
        ),
    ],
)

# %% [markdown]
# ## E6: does it transfer on a Transformer?
#
# **Question.** The same on real text, with attention, norms and embeddings. **Set-up.** Character-level Transformers on Shakespeare's plays: 2 layers, heads of fixed size (so that the attention's scale, a function of the head size, is the same in both parametrisations), AdamW without decay, warm-up and cosine. Every width
# trains its whole grid, rates times seeds, as one stack, in one CUDA graph. **E6b** is the coordinate check of the same models.


# %%
def language_model(rule, d, seeds, shape, device, copies=1):
    """A stack of transformers of width d by the rule, the seeds repeated ``copies`` times, and its Adam groups."""
    make = lambda d, seeds: nn.Transformer(
        nn.Init(seeds), d=d, heads=d // shape["head"], **{k: shape[k] for k in ("vocabulary", "context", "depth")}
    )
    model, base = make(d, seeds), dict(make(shape["base"], [0]).named_parameters())
    if rule == "muP":
        mup.rescale(dict(model.named_parameters()), base)
    model = model.to(device)
    for p in model.parameters():
        p.data = p.data.repeat(copies, *[1] * (p.ndim - 1))
    if rule == "SP":
        return model, [{"params": list(model.parameters())}]
    return model, mup.groups(dict(model.named_parameters()), base, "Adam")


def plays():
    """Character ids of Shakespeare's plays, nine tenths to train and the rest to validate, and the size of the alphabet."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    cut = int(0.9 * len(ids))
    return (ids[:cut], ids[cut:]), len(alphabet)


# %%
def language_grid(device, parts, rule, d, exponents, seeds, shape, *, batch, steps, bf16):
    """Validation loss (rates, seeds) after training: the whole grid of one width in one stack. All runs see the same validation windows."""
    precision = torch.bfloat16 if bf16 else torch.float32
    model, groups = language_model(rule, d, seeds, shape, device, copies=len(exponents))
    opt = optim.StackedAdam(groups, (2.0 ** torch.tensor(exponents)).repeat_interleave(len(seeds)), **ADAM)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)

    def draw(step):
        drawn = [data.windows(parts[0], batch, shape["context"], g) for g in generators]
        return [torch.stack(t).to(device).repeat(len(exponents), 1, 1) for t in zip(*drawn, strict=True)]

    train.fit_graphed(loss, draw, opt, steps, schedule=optim.warmup_cosine)
    held_out, valid = torch.Generator().manual_seed(999), 0.0
    with torch.no_grad():
        for _ in range(16):
            x, y = (t.to(device).expand(len(opt.lr), -1, -1) for t in data.windows(parts[1], batch, shape["context"], held_out))
            valid = valid + loss(x, y.contiguous()) / 16
    return finite(valid).view(len(exponents), len(seeds))


# %%
def language_transfer(device, *, grids, seeds, shape, **training):
    """Tuning curves of transformers: rule -> width -> (rates, seeds)."""
    parts, vocabulary = plays()
    table = {}
    for rule, widths in grids.items():
        table[rule] = {}
        for d, exponents in widths.items():
            table[rule][d] = language_grid(device, parts, rule, int(d), exponents, seeds, shape | {"vocabulary": vocabulary}, **training)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return table


# %%
def language_check(device, *, widths, seeds, shape, exponent, batch, steps):
    """Coordinate check of the transformers at one rate: rule -> RMS changes of the states and logits, one row a width."""
    parts, vocabulary = plays()
    table = {}
    for rule in ("SP", "muP"):
        rows = []
        for d in widths:
            model, groups = language_model(rule, d, seeds, shape | {"vocabulary": vocabulary}, device)
            opt = optim.StackedAdam(groups, 2.0 ** torch.full((len(seeds),), exponent), **ADAM)
            x, y = (
                t.to(device).expand(len(seeds), -1, -1)
                for t in data.windows(parts[0], batch, shape["context"], torch.Generator().manual_seed(3))
            )

            def step(t, model=model, opt=opt, x=x, y=y):
                opt.zero_grad()
                nn.cross_entropy_per_run(model(x), y.contiguous()).sum().backward()
                opt.step()

            look = lambda model=model, x=x: {**{str(k): h.detach() for k, h in enumerate(model.states(x))}, "logits": model(x).detach()}
            moved = train.coordinate_check(look, step, steps)
            rows.append([float(changes[-1].mean()) for changes in moved.values()])
        table[rule] = rows
    return table


# %%
e6_shape = nb.at_scale(
    cpu={"depth": 2, "head": 16, "context": 32, "base": 32},
    gpu={"depth": 2, "head": 32, "context": 64, "base": 64},
    full={"depth": 2, "head": 32, "context": 64, "base": 64},
)
e6_grids = {
    "SP": nb.at_scale(
        cpu={"128": octave_range(-9, -5)},
        gpu={str(d): octave_range(-10, -5) for d in (64, 128, 256, 512)},
        full={"64": octave_range(-9, -4), "128": octave_range(-9, -4), "256": octave_range(-10, -5)}
        | {"512": octave_range(-11, -6), "1024": octave_range(-12, -7)},
    ),
    "muP": nb.at_scale(
        cpu={"128": octave_range(-7, -3)},
        gpu={str(d): octave_range(-9, -4) for d in (64, 128, 256, 512)},
        full={str(d): octave_range(-9, -4) for d in (64, 128, 256, 512, 1024)},
    ),
}
e6_training = nb.at_scale(cpu={"batch": 8, "steps": 30}, gpu={"batch": 32, "steps": 300}, full={"batch": 32, "steps": 500})
e6_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
bf16 = nb.scale != "cpu" and runtime.has_bf16()
e6 = nb.run("E6", language_transfer, grids=e6_grids, seeds=e6_seeds, shape=e6_shape, bf16=bf16, **e6_training)
e6b_widths = nb.at_scale(cpu=[32, 64, 128, 256], gpu=[64, 128, 256, 512], full=[64, 128, 256, 512, 1024])
e6b_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
e6b = nb.run("E6b", language_check, widths=e6b_widths, seeds=e6b_seeds, shape=e6_shape, exponent=-8.0, batch=8, steps=5)

# %% tags=["hide-input"]
e6_record, e6b_record = nb.recorded("E6"), nb.recorded("E6b")
e6_full = [int(w) for w in e6_record.result["muP"]]
e6_base = str(e6_record.config["shape"]["base"])
e6_scope = f"full, widths {e6_full[0]} to {e6_full[-1]}, {len(e6_record.config['seeds'])} seeds, {e6_record.config['steps']} steps"
e6_runs = {"result": e6_record.result, "exponents": e6_record.config["grids"]}
e6_optima = {rule: optima(e6_runs["result"][rule], e6_runs["exponents"][rule]) for rule in ("SP", "muP")}
e6_drift = {rule: drift(found) for rule, found in e6_optima.items()}
e6_carried = {rule: carried(e6_runs, rule, e6_base) for rule in ("SP", "muP")}
e6b_slopes = {rule: slopes_of(e6b_record.config["widths"], rows) for rule, rows in e6b_record.result.items()}
e6b_live = {rule: slopes_of(e6b_widths, rows) for rule, rows in e6b.items()}
e6_live = {rule: {w: mup.best_rate(e6_grids[rule][w], np.mean(rows, 1))[0] for w, rows in found.items()} for rule, found in e6.items()}

# %% [markdown]
# SP's grid at widths 512 and 1024 ends below the rate that is best at width 64 ($2^{-5.4}$); its last rate stands in for it below, to SP's advantage.

# %% tags=["hide-input"]
e6_widest = str(e6_full[-1])
nb.results(
    "E6",
    f"Validation loss at d = {e6_widest} (mean ± standard error over seeds) and octaves of the best rate per doubling (95% interval); {e6_record.provenance}",
    ["arm", "octaves per doubling", f"at the rate best for d = {e6_base}", "re-tuned at this width"],
    [
        [
            rule,
            with_interval(e6_drift[rule]),
            ledger.with_error(e6_carried[rule][1][e6_widest], 4),
            ledger.with_error(e6_carried[rule][2][e6_widest], 4),
        ]
        for rule in ("SP", "muP")
    ],
)
e6_line = lambda rule: ", ".join(f"{w}: {np.nanmean(o):.2f}" for w, o in e6_optima[rule].items()).replace("-", "−")
print(f"log₂ of the best rate by width, mean over seeds. SP {e6_line('SP')}; muP {e6_line('muP')}")

# %% [markdown]
# **What we saw.** The figure on the first screen. SP loses more than an octave per doubling, twice what the digits lose. muP's best rate falls too, by 0.08 octaves a doubling, a small drift that its interval separates from zero. Under muP the mean loss falls at every doubling, at the carried rate too, though the last doubling gains no more than the scatter.
# Under SP, re-tuned at each width, 256 is no better than 128 and 1024 is worse; its grid is an octave coarse beside a cliff. The coordinate check (E6b): the states' changes hold still under muP and the logits' fall slightly; under SP everything behind the embedding grows, the embedding does not.

# %% tags=["hide-input"]
sp6_upper, mup6_reach = np.mean(e6_drift["SP"]) + t_half(e6_drift["SP"]), abs(np.mean(e6_drift["muP"])) + t_half(e6_drift["muP"])
nb.experiment(
    "E6",
    "Transformers on text: over a factor of 16 in width SP's best rate falls by more than an octave per doubling, muP's by less than a fifth of one; at width 1024 the rate of width 64 costs muP about 0.01 nats, and SP half a nat at a third of that rate already.",
    "verified",
    holds=[
        ledger.less("SP: octaves per doubling, upper end of the 95% interval, recorded", float(sp6_upper), -1, digits=2, scope=e6_scope),
        ledger.less("muP: the same, larger end in size, recorded", float(mup6_reach), 0.2, digits=2, scope=e6_scope),
        ledger.less("muP: range of the best rate in octaves, recorded", spread(e6_optima["muP"]), 0.6, digits=2, scope=e6_scope),
        ledger.more("SP: range of the best rate in octaves, recorded", spread(e6_optima["SP"]), 4, digits=2, scope=e6_scope),
        apart(
            f"loss at d = {e6_widest}, at the rate of d = {e6_base} (SP: at 2^−7): SP above muP",
            e6_carried["SP"][1][e6_widest],
            e6_carried["muP"][1][e6_widest],
            scope=e6_scope,
        ),
        ledger.less(
            f"muP at d = {e6_widest}: mean loss at the carried rate above that at the best one",
            float(np.mean(e6_carried["muP"][1][e6_widest]) - np.mean(e6_carried["muP"][2][e6_widest])),
            0.03,
            digits=2,
            scope=e6_scope,
        ),
        ledger.more(
            f"SP at d = {e6_widest}: the same",
            float(np.mean(e6_carried["SP"][1][e6_widest]) - np.mean(e6_carried["SP"][2][e6_widest])),
            0.3,
            digits=2,
            scope=e6_scope,
        ),
        ledger.more(
            "d = 128: octaves of muP's best rate above SP's, live", e6_live["muP"]["128"] - e6_live["SP"]["128"], 1, digits=2, machine=True
        ),
        *[
            ledger.increasing(f"muP, {name}: minus the mean loss, by width", [-float(np.mean(v)) for v in found.values()], machine=True)
            for name, found in (("carried rate", e6_carried["muP"][1]), ("re-tuned", e6_carried["muP"][2]))
        ],
        *[
            apart(f"muP re-tuned: d = {a} above {b}", e6_carried["muP"][2][a], e6_carried["muP"][2][b], scope=e6_scope)
            for a, b in (("64", "128"), ("128", "256"), ("128", "1024"))
        ],
        ledger.less(
            "muP: octaves per doubling, upper end of the interval",
            float(np.mean(e6_drift["muP"]) + t_half(e6_drift["muP"])),
            0,
            scope=e6_scope,
        ),
    ],
)
nb.results(
    "E6b",
    f"Width exponents of the RMS change in five steps; {e6b_record.provenance}",
    ["parametrisation", "embedding, the states behind it, logits"],
    [[rule, vector(slopes)] for rule, slopes in e6b_slopes.items()],
)
nb.experiment(
    "E6b",
    "Coordinate check of the transformers: under muP no hidden state's change depends on the width and the logits' falls slightly; under SP all behind the embedding grow, the embedding's does not.",
    "verified",
    holds=[
        ledger.less(
            "muP: largest exponent of a state's change, recorded", max(map(abs, e6b_slopes["muP"][:-1])), 0.12, digits=2, scope=e6_scope
        ),
        ledger.less("muP: the same, live", max(map(abs, e6b_live["muP"][:-1])), 0.15, digits=2, machine=True),
        ledger.close("muP: exponent of the logits' change, recorded", e6b_slopes["muP"][-1], -0.1, abs=0.05, digits=2, scope=e6_scope),
        ledger.close("SP: exponent of the embedding's change, recorded", e6b_slopes["SP"][0], 0, abs=0.1, digits=2, scope=e6_scope),
        ledger.more(
            "SP: smallest exponent behind the embedding, logits included, recorded",
            min(e6b_slopes["SP"][1:]),
            0.3,
            digits=2,
            scope=e6_scope,
        ),
        ledger.more("SP: the same, live", min(e6b_live["SP"][1:-1]), 0.3, digits=2, machine=True),
    ],
)
nb.claim(
    "C13",
    "The best learning rate transfers across widths in muP and does not in SP.",
    "verified",
    holds=[
        *[
            apart(f"{what}: octaves per doubling, muP above SP", e["muP"], e["SP"], scope=scope)
            for what, e, scope in (("digits", e4_drift, e4_scope), ("transformer", e6_drift, e6_scope))
        ],
        *[
            ledger.less(
                f"{what}: loss given away by muP's carried rate at d = {w}, over that given away by SP's",
                float((np.mean(c["muP"][1][w]) - np.mean(c["muP"][2][w])) / (np.mean(c["SP"][1][w]) - np.mean(c["SP"][2][w]))),
                0.25,
                digits=2,
                scope=scope,
            )
            for what, c, w, scope in (("digits", e4_carried, widest, e4_scope), ("transformer", e6_carried, e6_widest, e6_scope))
        ],
    ],
)

# %% [markdown]
# ## Is the code what it says?
#
# A recorded number does not move when code breaks, so the code around the experiments is checked here, live and small, against other code: plain loops with torch's own optimizers, one run at a time, and closed forms.

# %% tags=["hide-input"]
cpu = torch.device("cpu")
torch_adam = lambda groups: torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.95))
relative_gap = lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.abs(np.asarray(b))))


def reference_weights(seed, d, hidden, stds):
    """The weights that a stack draws for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(m, n, generator=generator) * std).requires_grad_() for (m, n), std in zip(shapes_of(d, hidden), stds, strict=True)]


def reference_loss(weights, x, y):
    for W in weights[:-1]:
        x = (x @ W).clamp_min(0)
    return F.cross_entropy(x @ weights[-1], y)


def reference_training(optimizer, weights, rates, batches):
    """Losses before each step of one run under torch's SGD or Adam, or Muon written out."""
    momentum, seen = [torch.zeros_like(W) for W in weights], []
    groups = [{"params": [W], "lr": rate} for W, rate in zip(weights, rates, strict=True)]
    opt = torch_adam(groups) if optimizer == "Adam" else torch.optim.SGD(groups, lr=1.0)
    for x, y in batches:
        loss = reference_loss(weights, x, y)
        seen.append(float(loss.detach()))
        opt.zero_grad()
        loss.backward()
        if optimizer == "Muon":
            for W, M in zip(weights, momentum, strict=True):
                M.mul_(0.9).add_(W.grad)
                W.grad = optim.newton_schulz(M)
        opt.step()
    return seen


# %% tags=["hide-input"]
DIGITS_X, DIGITS_Y = digits(cpu)
fixed = [(DIGITS_X[:64], DIGITS_Y[:64])] * 4
muP_stds, muP_multipliers = [1 / 8, math.sqrt(2 / 128), math.sqrt(2 / 128), math.sqrt(1 / 128) * math.sqrt(1 / 2)], None
MULTIPLIERS_128 = {"SGD": (2, 1, 1, 0.5), "Adam": (1, 0.5, 0.5, 0.5), "Muon": (2**0.5, 1, 1, 0.5**0.5)}
check_gap, change_gap = {}, {}
for kind in mup.OPTIMIZERS:
    for rule in ("SP", "muP"):
        stds = muP_stds if rule == "muP" else [*muP_stds[:3], math.sqrt(1 / 128)]
        weights = reference_weights(5, 128, 2, stds)
        hidden_states = lambda ws: [
            h.detach() for h in itertools.accumulate(ws[:-1], lambda h, W: (h @ W).clamp_min(0), initial=DIGITS_X[:64])
        ][1:]
        logits_of = lambda ws, states=hidden_states: (states(ws)[-1] @ ws[-1]).detach()
        begin, begin_logits = hidden_states(weights), logits_of(weights)
        rates_128 = [RATES[kind] * f for f in (MULTIPLIERS_128[kind] if rule == "muP" else (1, 1, 1, 1))]
        theirs = reference_training(kind, weights, rates_128, fixed)
        ours = few_steps(cpu, 128, [5], 4, rule, kind)
        check_gap[f"{rule} {kind}"] = relative_gap(ours["loss"][:4], theirs)
        moved = [float((a - b).square().mean().sqrt()) for a, b in zip(hidden_states(weights), begin, strict=True)]
        moved.append(float((logits_of(weights) - begin_logits).square().mean().sqrt()))
        change_gap[f"{rule} {kind}"] = relative_gap(ours["changes"], moved)
start_rms = float(
    (hidden_states(reference_weights(5, 128, 2, muP_stds))[-1] @ reference_weights(5, 128, 2, muP_stds)[-1]).detach().square().mean().sqrt()
)
start_gap = relative_gap([few_steps(cpu, 128, [5], 1, "muP", "SGD")["start"]], [start_rms])

# %% tags=["hide-input"]
# E3, by hand at d = 128 = 2 · 64 and s = 0.75: readout 0.3/8 · 2^-s, rates 0.05 (2^(2s-1), 2^(2s-2), 2^(2s-2), 2^-1)
family_ours = family(cpu, widths=[128], seeds=[6], exponents=[0.75], rate=0.05, readout=0.3, steps=3)["0.75"]
family_net = reference_weights(6, 128, 2, [1 / 8, 1 / 8, 1 / 8, 0.3 / 8 * 2**-0.75])
family_begin = hidden_states(family_net)[-1]
family_losses = reference_training("SGD", family_net, [0.05 * 2**0.5, 0.05 * 2**-0.5, 0.05 * 2**-0.5, 0.025], fixed[:1])
family_first = float((hidden_states(family_net)[-1] - family_begin).square().mean().sqrt())
family_losses += reference_training("SGD", family_net, [0.05 * 2**0.5, 0.05 * 2**-0.5, 0.05 * 2**-0.5, 0.025], fixed[:2])
family_all = float((hidden_states(family_net)[-1] - family_begin).square().mean().sqrt())
family_end = float(reference_loss(family_net, *fixed[0]).detach())
family_gap = relative_gap(
    [float(family_ours[k][0][0]) for k in ("first", "all", "step", "decrease")],
    [family_first, family_all, family_losses[0] - family_losses[1], family_losses[0] - family_end],
)


# E4 and E5: one run of a grid, the batches drawn as a seed draws them
def reference_tail(optimizer, d, stds, rates, seed, steps, batch, tail):
    drawn = torch.randint(len(DIGITS_X), (steps, batch), generator=torch.Generator().manual_seed(1000 + seed))
    seen = reference_training(optimizer, reference_weights(seed, d, 1, stds), rates, [(DIGITS_X[i], DIGITS_Y[i]) for i in drawn])
    return float(np.mean(seen[-tail:]))


small_training = {"steps": 6, "batch": 16, "tail": 2}
two_arms = {
    "SP": {"rule": "SP", "input": -2, "readout": 1, "exponents": {"32": [-7.0, -5.0], "128": [-6.0, -5.0]}},
    "muP": {"rule": "muP", "input": -1, "readout": 2, "exponents": {"32": [-7.0, -5.0], "128": [-6.0, -5.0]}},
}
arms_ours = transfer(cpu, optimizer="Adam", arms=two_arms, widths=[32, 128], hidden=1, seeds=[3, 4], **small_training)
arms_gap = {}
for arm, (input_octaves, readout_octaves) in (("SP", (-2, 1)), ("muP", (-1, 2))):
    for w in (32, 128):
        down = 64 / w if arm == "muP" else 1
        stds = [1 / 8, math.sqrt(2 / w), math.sqrt(1 / w * down)]
        for row, e in enumerate(two_arms[arm]["exponents"][str(w)]):
            rates = [2.0 ** (e + input_octaves), 2.0**e * down, 2.0 ** (e + readout_octaves) * down]
            theirs = [reference_tail("Adam", w, stds, rates, seed, **small_training) for seed in (3, 4)]
            arms_gap[arm, w, e] = relative_gap(arms_ours[arm][str(w)][row].tolist(), theirs)
muon_arms = {rule: {"rule": rule, "input": 0, "readout": 0, "exponents": {"128": [-5.0, -4.0]}} for rule in FACTORS}
muon_ours = transfer(cpu, optimizer="Muon", arms=muon_arms, widths=[128], hidden=1, seeds=[3], **small_training)
muon_factors = {  # of the shapes 64 × 128, 128 × 128, 128 × 10
    "√(out/in)": (math.sqrt(2), 1, math.sqrt(10 / 128)),
    "√max(1, out/in)": (math.sqrt(2), 1, 1),
    "0.2√max(in, out)": (0.2 * math.sqrt(128),) * 3,
}
muon_stds = [1 / 8, math.sqrt(2 / 128), math.sqrt(1 / 256)]
muon_gap = {
    rule: relative_gap(
        [float(v) for v in muon_ours[rule]["128"][:, 0]],
        [reference_tail("Muon", 128, muon_stds, [2.0**e * f for f in factors], 3, **small_training) for e in (-5.0, -4.0)],
    )
    for rule, factors in muon_factors.items()
}
tuned_small = constants_at_base(cpu, exponents=[-7.0, -5.0], factors=[-1, 2], seeds=[3], **small_training)
tuned_points = {
    (e, a, b): reference_tail("Adam", 64, [1 / 8, math.sqrt(2 / 64), 1 / 8], [2.0 ** (e + a), 2.0**e, 2.0 ** (e + b)], 3, **small_training)
    for e in (-7.0, -5.0)
    for a in (-1, 2)
    for b in (-1, 2)
}

# %% tags=["hide-input"]
# E1: a gradient of known singular values
u_basis, v_basis = torch.linalg.qr(gauss(90, 12, seed=70)).Q, torch.linalg.qr(gauss(70, 12, seed=71)).Q
known = torch.linspace(1, 4, 12, dtype=torch.float64)
G_known = ((u_basis * known) @ v_basis.T).float()[None]
measured_known = gradient_measures(G_known)
expected_known = {
    "RMS": math.sqrt(float(known.square().sum()) / 6300),
    "squared": float(known.square().sum()),
    "moduli": float(G_known.abs().sum()),
    "nuclear": float(known.sum()),
    "nuclear / spectral": float(known.sum()) / 4,
    "nuclear / Frobenius": float(known.sum() / known.norm()),
    "stable rank": float(known.square().sum()) / 16,
    "spectral": 4,
    "sign spectral": float(torch.linalg.svdvals(G_known[0].sign())[0]),
    "msign RMS": math.sqrt(12 / 6300),
    "muon RMS": float(optim.newton_schulz(G_known[0]).norm()) / math.sqrt(6300),
    "muon spectral": float(torch.linalg.svdvals(optim.newton_schulz(G_known[0]))[0]),
}
# and the first gradient itself, for both readout exponents
orders_small = gradient_orders(cpu, widths=[96], seeds=[7], exponents={"muP": 1.0, "SP": 0.5}, batch=20)
order_gap = {}
for rule, s_value in (("muP", 1.0), ("SP", 0.5)):
    net = reference_weights(7, 96, 2, [1 / 8, math.sqrt(2 / 96), math.sqrt(2 / 96), 0.1 * 96**-s_value])
    reference_loss(net, DIGITS_X[:20], DIGITS_Y[:20]).backward()
    for key, norm in (("squared", NORMS["SGD"]), ("moduli", NORMS["Adam"]), ("nuclear", NORMS["Muon"])):
        order_gap[rule, key] = relative_gap(orders_small[rule][key][0], [norm(W.grad.double()) for W in net])
update_net = reference_weights(7, 128, 2, muP_stds)
chosen_rows = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:24]
reference_loss(update_net, DIGITS_X[chosen_rows], DIGITS_Y[chosen_rows]).backward()
update_gap = relative_gap(
    muon_update(cpu, widths=[128], seeds=[7], batches=[24])["24"][0].tolist(),
    [float(optim.newton_schulz(update_net[2].grad).square().mean().sqrt())],
)

# %% tags=["hide-input"]
# E6: one run of a small stack of transformers
toy_shape = {"depth": 2, "head": 8, "context": 12, "base": 16}
toy_text = tuple(torch.randint(30, (3000,), generator=torch.Generator().manual_seed(9)).split([2500, 500]))


def reference_language(rule, d, e, seed, steps, batch):
    """Validation loss of one transformer under torch.optim.Adam, and the changes of its states and logits in the first step on one batch."""
    model = nn.Transformer(nn.Init([seed]), d=d, heads=d // 8, vocabulary=30, context=12, depth=2)
    down = 16 / d if rule == "muP" else 1.0
    model.head.weight.data *= math.sqrt(down)
    narrow = [model.wq, model.wk, model.wv, model.wo, model.w1, model.w2, model.head.weight]
    others = [p for p in model.parameters() if all(p is not q for q in narrow)]
    opt = torch_adam([{"params": narrow}, {"params": others}])
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group, factor in zip(opt.param_groups, (down, 1.0), strict=True):
            group["lr"] = 2.0**e * factor * optim.warmup_cosine(step, steps)
        x, y = data.windows(toy_text[0], batch, 12, generator)
        opt.zero_grad()
        F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten()).backward()
        opt.step()
    held_out = torch.Generator().manual_seed(999)
    with torch.no_grad():
        drawn = [data.windows(toy_text[1], batch, 12, held_out) for _ in range(16)]
        return float(np.mean([float(F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten())) for x, y in drawn]))


language_gap = {}
for rule in ("SP", "muP"):
    ran = language_grid(cpu, toy_text, rule, 32, [-7.0, -5.0], [3, 4], toy_shape | {"vocabulary": 30}, batch=4, steps=4, bf16=False)
    theirs = [[reference_language(rule, 32, e, seed, 4, 4) for seed in (3, 4)] for e in (-7.0, -5.0)]
    language_gap[rule] = relative_gap(ran.tolist(), theirs)
plays_ids, _ = data.encode_characters(data.shakespeare())
parts_found, alphabet_size = plays()
probe_shape = {"depth": 1, "head": 8, "context": 8, "base": 16}
probe_ours = language_check(cpu, widths=[32], seeds=[3], shape=probe_shape, exponent=-8.0, batch=2, steps=2)
probe_gap = {}
for rule in ("SP", "muP"):
    model = nn.Transformer(nn.Init([3]), d=32, heads=4, vocabulary=alphabet_size, context=8, depth=1)
    down = 0.5 if rule == "muP" else 1.0
    model.head.weight.data *= math.sqrt(down)
    narrow = [model.wq, model.wk, model.wv, model.wo, model.w1, model.w2, model.head.weight]
    others = [p for p in model.parameters() if all(p is not q for q in narrow)]
    opt = torch_adam([{"params": narrow, "lr": 2.0**-8 * down}, {"params": others, "lr": 2.0**-8}])
    x, y = data.windows(parts_found[0], 2, 8, torch.Generator().manual_seed(3))
    snap = lambda model=model, x=x: [*[h.detach().clone() for h in model.states(x[None])], model(x[None]).detach()]
    begin = snap()
    for _ in range(2):
        opt.zero_grad()
        F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten()).backward()
        opt.step()
    probe_gap[rule] = relative_gap(probe_ours[rule][0], [float((a - b).square().mean().sqrt()) for a, b in zip(snap(), begin, strict=True)])

# %% tags=["hide-input"]
zero = lambda what, gap, tolerance=2e-3: ledger.close(what, gap, 0, abs=tolerance, digits=1, machine=True)
drawn_net = network([0, 1], shapes_of(256, 2), [0.1, 0.2, 0.3, 0.4], cpu, copies=3)
nb.claim(
    "X1",
    "The code of the experiments agrees with plain loops under torch's optimizers and with closed forms.",
    "verified",
    holds=[
        *[
            zero(f"coordinate check, {case}, d = 128: losses of four steps, largest relative gap", gap, 1e-4)
            for case, gap in check_gap.items()
        ],
        *[zero(f"the same, {case}: RMS changes of the hidden layers and the logits", gap, 0.01) for case, gap in change_gap.items()],
        zero("RMS of the logits at the start", start_gap, 1e-5),
        zero("the family, d = 128, s = 0.75: changes and decreases", family_gap),
        *[
            zero(f"tuning grid, {arm}, d = {w}, rate 2^{e:g}, two seeds: largest relative gap", gap, 1e-3)
            for (arm, w, e), gap in arms_gap.items()
        ],
        *[zero(f"tuning grid, Muon, {rule}", gap, 5e-3) for rule, gap in muon_gap.items()],
        ledger.close(
            "constants at the base: the best of the grid",
            tuned_points[tuple(tuned_small["best"])],
            min(tuned_points.values()),
            rel=1e-4,
            machine=True,
        ),
        *[
            ledger.close(
                f"least loss at octaves {a}, {b}",
                tuned_small["least"][f"{a} {b}"],
                min(tuned_points[e, a, b] for e in (-7.0, -5.0)),
                rel=1e-3,
                machine=True,
            )
            for a in (-1, 2)
            for b in (-1, 2)
        ],
        *[
            ledger.close(f"a gradient of known singular values: {name}", measured_known[name], value, rel=2e-3, machine=True)
            for name, value in expected_known.items()
        ],
        *[zero(f"first gradient, {rule}: {MEASURES[key]} of four layers", gap, 1e-4) for (rule, key), gap in order_gap.items()],
        zero("RMS of Muon's update", update_gap, 1e-3),
        *[zero(f"transformer, {rule}, two rates, two seeds: validation loss", gap, 1e-4) for rule, gap in language_gap.items()],
        *[zero(f"coordinate check of the transformer, {rule}: changes in two steps", gap, 0.01) for rule, gap in probe_gap.items()],
        *[
            ledger.close(f"deviation of layer {k}, as drawn", float(W.detach().std()), 0.1 * (k + 1), rel=0.03, digits=2)
            for k, W in enumerate(drawn_net)
        ],
        *[zero(f"the copies of a seed are the same, W{k}", entry_gap(W[:2], W[4:]), 1e-12) for k, W in enumerate(drawn_net)],
        ledger.more("and the seeds differ", entry_gap(drawn_net[0][0], drawn_net[0][1]), 0.1, digits=2),
        ledger.close("characters to train on, of all", len(parts_found[0]) / len(plays_ids), 0.9, abs=1e-6),
        zero("validation text: the last tenth", float((parts_found[1] != plays_ids[len(parts_found[0]) :]).sum()), 0.5),
        ledger.close("size of the alphabet", alphabet_size, len(set(data.shakespeare())), abs=0.5),
        ledger.close("divergence is written as 9", float(finite(torch.tensor([float("nan"), float("inf"), 1.0])).sum()), 19, abs=1e-6),
    ],
)

# %% tags=["hide-input"]
# The statistics and the figures: small numbers worked out by hand, and the drawn lines against the record.
line_of = lambda axes, label: next(line for line in axes.get_lines() if line.get_label() == label).get_ydata()
hand = {"exponents": {"a": {"64": [-3.0, -2.0, -1.0], "128": [-3.0, -2.0, -1.0], "256": [-9.0, -8.0, -7.0]}}}
hand["result"] = {
    "a": {
        "64": [[2.0, 4.0], [1.0, 1.0], [2.0, 2.0]],
        "128": [[4.0, 8.0], [1.0, 2.0], [16.0, 32.0]],
        "256": [[5.0, 5.0], [7.0, 7.0], [6.0, 8.0]],
    }
}
hand_at, hand_carried, hand_best = carried(hand, "a", "64")  # means 3, 1, 2: vertex at -2 + 1/6
hand_apart = [apart("hand", [top_value - 1, top_value, top_value + 1], [-1.0, 0.0, 1.0], scope="hand").passed for top_value in (3.0, 4.0)]
recorded_column = max(abs(x - y) for row in e1_rows for x, y in zip(numbers_in(row[2]), numbers_in(row[3]), strict=True))
slope_of_line = lambda line: metrics.loglog_slope(line.get_xdata(), line.get_ydata()).slope
guides = {key: [line for line in axes.get_lines() if line.get_color() == GREY] for key, axes in norm_panels.items()}
moonlight_guide = line_of(muon_axes, "slope −1/2")
bar = lambda arm: muon_bars[arm][2][0].get_segments()[0]
seeds_at_32 = e5_optima["√(out/in)"][32]
star_x = [float(line.get_xdata()[0]) for line in first_panels[0].get_lines() if line.get_marker() == "*"]
nb.claim(
    "X7",
    "The statistics behind tables and figures give the numbers worked out by hand, and the figures draw the record.",
    "verified",
    holds=[
        ledger.close("half of a 95% interval, seeds 1, 2, 3: 4.3027/√3", t_half([1.0, 2.0, 3.0]), 2.48414, abs=1e-4),
        ledger.close("relative gap of (1, 3, 2) and (1, 2, 2)", relative_gap([1, 3, 2], [1, 2, 2]), 0.5, rel=1e-9),
        ledger.close(
            "misfit of exponents of which the second is 2 off",
            misfit({"muP": {"RMS": [x + 2 * (k == 1) for k, x in enumerate(PREDICTED["muP"]["RMS"])]}}, "muP", "RMS"),
            2,
            rel=1e-9,
        ),
        ledger.close("range of mean optima 2, 5, 1", spread({64: [1, 3], 128: [5, math.nan], 256: [0, 2]}), 4, abs=1e-9),
        sym.enumeration(
            "apart: 3.67 standard errors of 3 seeds do not suffice, 4.9 do", range(2), lambda i: int(hand_apart[i]), lambda i: i
        ),
        ledger.close("drift of 1, 0, none and of 0, 2, 4: sum", sum(drift({2: [1, 0], 4: [0, 2], 8: [math.nan, 4]})), 1, abs=1e-9),
        ledger.close("carried rate: vertex", hand_at, -2 + 1 / 6, abs=1e-9),
        ledger.close("loss there, a sixth of the way from 1 to 16", hand_carried["128"][0], 16 ** (1 / 6), abs=1e-9),
        ledger.close("the second seed's", hand_carried["128"][1], 2 * 16 ** (1 / 6), abs=1e-9),
        ledger.close("beyond the grid: its last rate", hand_carried["256"][1], 8, abs=1e-9),
        ledger.close("re-tuned: the least mean", sum(hand_best["128"]), 3, abs=1e-9),
        ledger.close("three standard errors", standard_errors([3.0, 5.0], [0.0, 2.0]), 3 / math.sqrt(2), abs=1e-9),
        ledger.more("E1's table: largest distance of the recorded column from the count", recorded_column, 0.03, digits=2),
        ledger.less("and below", recorded_column, 0.1, digits=2),
        *[
            ledger.more(
                f"E4's table, {row[0]}: carried over re-tuned loss", float(row[2].split()[0]) / float(row[3].split()[0]), 0.99, digits=2
            )
            for row in e4_rows
        ],
        ledger.more("E4's table, SP: the same", float(e4_rows[0][2].split()[0]) / float(e4_rows[0][3].split()[0]), 2, digits=2),
        zero(
            "first figure: SP's last state and logits as recorded",
            relative_gap(
                [*line_of(right, "SP, last state"), *line_of(right, "SP, logits")], [r[k] for k in (-2, -1) for r in changes.result["SP"]]
            ),
            1e-9,
        ),
        zero(
            "first figure: SP's stars at the fitted minima",
            relative_gap(
                star_x, [mup.best_rate(curves.config["grids"]["SP"][w], np.mean(v, 1))[0] for w, v in curves.result["SP"].items()]
            ),
            1e-9,
        ),
        *[
            ledger.close(
                f"guides of {MEASURES[key]}, {LAYERS[k]}: slope",
                slope_of_line(line),
                PREDICTED["muP"][key][k],
                abs=1e-9,
                digits=2,
                machine=True,
            )
            for key in guides
            for k, line in enumerate(guides[key])
        ],
        zero(
            "figure of E3: loss decreases as recorded",
            relative_gap(family_panels[1].get_lines()[0].get_ydata(), np.mean(e3_record.result["0.5"]["step"], 1)),
            1e-9,
        ),
        zero(
            "figure of E4: SP re-tuned is the least mean of the recorded curve",
            relative_gap(
                line_of(transfer_panels[1, 1], "SP, re-tuned at each width"),
                [min(np.mean(rows, 1)) for rows in e4_record.result["SP"].values()],
            ),
            1e-9,
        ),
        ledger.close(
            "figure of E5: fall of the guide over five doublings", float(moonlight_guide[-1] - moonlight_guide[0]), -2.5, abs=1e-9
        ),
        ledger.close(
            "figure of E5: length of the first error bar over the seeds' deviation, 2 · 3.1824/√4",
            float(bar("√(out/in)")[1][1] - bar("√(out/in)")[0][1]) / float(np.std(seeds_at_32, ddof=1)),
            3.1824,
            abs=1e-3,
        ),
    ],
)

# %% [markdown]
# ## The paper's numbers beside ours
#
# The paper's experiments are far beyond ours in size; what can be set side by side is the effect. Its headline numbers stand in its abstract; a small experiment cannot confirm or deny them.

# %% tags=["hide-input"]
nb.results(
    "C13",
    "Transfer across widths: the paper and this notebook",
    ["", "paper", "here"],
    [
        [
            "networks",
            "proxies of 13M and 40M parameters for BERT-large and GPT-3 6.7B (abstract)",
            f"Pre-Norm Transformers on Shakespeare, widths {e6_full[0]} to {e6_full[-1]}; digits networks, widths {e4_full[0]} to {e4_full[-1]}",
        ],
        [
            "SP",
            "no number in the abstract",
            f"{with_interval(e6_drift['SP'])} and {with_interval(e4_drift['SP'])} octaves per doubling",
        ],
        [
            "muP",
            "“many optimal HPs remain stable” (abstract)",
            f"{with_interval(e6_drift['muP'])} and {with_interval(e4_drift['muP'])} octaves per doubling",
        ],
        [
            "headline",
            "13M proxy: better than published BERT-large (350M), tuning cost one pre-training; 40M proxy: better than published GPT-3 6.7B, tuning cost 7% (abstract)",
            "out of reach",
        ],
    ],
)
nb.claim(
    "C16",
    "Rates carried from a 13M model beat published BERT-large at the cost of one pre-training, and from a 40M model published GPT-3 6.7B at 7% of its pre-training cost (abstract of the paper).",
    "not checkable",
    reason="pre-training BERT-large and GPT-3 6.7B to their published losses would decide it; that is thousands of times the compute of this notebook",
)

# %% [markdown]
# ## Beyond the post
#
# **The authors' package.** `kexue_nb.mup` takes its multipliers from shapes, as the package `mup` does. The package keeps the readout's deviation constant and divides its output by the width instead (D11 with $\theta=1$), so its multipliers look different: at width 512 against base 64, Adam 1, 1/8, 1 for input, hidden, readout,
# and SGD 8, 1, 8, with a forward factor 1/8. The tests of `kexue_nb` (`tests/test_mup.py`) install the package and compare: initial functions, every parameter's rate, six training steps with Adam and SGD, biases and norm gains included, and its own coordinate check. All agree to rounding.

# %% tags=["hide-input"]
wide_shapes, base_shapes = {"input": (64, 512), "bias": (512,), "hidden": (512, 512), "readout": (512, 10)}, {}
base_shapes = {"input": (64, 64), "bias": (64,), "hidden": (64, 64), "readout": (64, 10)}
package = {"Adam": {"input": 1, "bias": 1, "hidden": 1 / 8, "readout": 1}, "SGD": {"input": 8, "bias": 8, "hidden": 1, "readout": 8}}
gauge_of = lambda kind, name: 8 ** POWERS[kind] if name == "readout" else 1
nb.claim(
    "X2",
    "The rates of the package mup (1, 1, 1/8, 1 for Adam and 8, 8, 1, 8 for SGD at width 512, base 64) are the table in another gauge.",
    "verified",
    holds=[
        ledger.close(
            f"{kind}, {name}", mup.rate_multiplier(kind, wide_shapes[name], base_shapes[name]) * gauge_of(kind, name), value, rel=1e-12
        )
        for kind, rates in package.items()
        for name, value in rates.items()
    ]
    + [
        ledger.close(
            "readout: forward factor 1/8 times deviation √8 beside fan-in's",
            math.sqrt(8) / 8,
            mup.deviation_multiplier((512, 10), (64, 10)),
            rel=1e-12,
        )
    ],
)

# %% [markdown]
# **Transfer is not optimality.** muP promises that the best rate stays, not that the resulting loss is the best to be had. On the digits with all constants equal, SP re-tuned at
# width 2048 reaches a third of muP's loss. With constants chosen at width 64 (E4b: input rate halved, readout rate × 16) muP closes most of the gap, while SP gets worse with them. On the Transformers the order is the reverse: at 1024 SP, re-tuned, is worse than at 128 and worse than muP.

# %% tags=["hide-input"]
best_at = lambda runs, arm, w: runs[arm][2][w]
nb.claim(
    "X3",
    "At every width a network in muP, its rate re-tuned, ends below one in SP, its rate re-tuned.",
    "partly",
    holds=[
        apart(
            f"transformer, d = {e6_widest}: SP re-tuned lies above muP re-tuned",
            best_at(e6_carried, "SP", e6_widest),
            best_at(e6_carried, "muP", e6_widest),
            scope=e6_scope,
        ),
        apart(
            "transformer: SP re-tuned at d = 1024 lies above SP re-tuned at 128",
            best_at(e6_carried, "SP", "1024"),
            best_at(e6_carried, "SP", "128"),
            scope=e6_scope,
        ),
    ],
    fails=[
        apart(
            f"digits, d = {widest}, equal constants: muP re-tuned lies above SP re-tuned",
            best_at(e4_carried, "muP", widest),
            best_at(e4_carried, "SP", widest),
            scope=e4_scope,
        ),
        apart(
            f"digits, d = {widest}: and above muP at the rate and constants of d = 64",
            best_at(e4_carried, "muP", widest),
            e4_carried["muP, tuned"][1][widest],
            scope=e4_scope,
        ),
    ],
)

# %% [markdown]
# **What the count leaves out.** Adam's $\epsilon$ breaks the scale invariance unless it falls with the gradient (exercise 1). Decoupled weight decay multiplies the rate, so that hidden matrices of a wider muP model decay more slowly (exercise 2). Depth, batch size, training length, norms and residual branches are outside; for depth
# there is {cite}`yang2023tp6`, and [DeepNet](../depth/deepnet.ipynb) in this book.
#
# {cite}`everett2024scaling` find that other parametrisations, SP included, transfer too once every layer has its own exponent; {cite}`kosson2025weightdecay` find that in practical language models the alignment assumed in D7 holds only early in training and that independent weight decay carries much of the transfer
# afterwards. Our runs have no decay and are short: they cannot decide that. The theory behind muP is {cite}`yang2021tp4`; [mup-spectral](mup-spectral.ipynb) has its shortest form.
#
# ## What does not hold
#
# - **Order one in every layer at the start**, which the count takes for granted (C15). The logits are not: under muP they start at $d^{-1/2}$, since the readout does not know its inputs yet. A transient; [mup-spectral](mup-spectral.ipynb) follows it.
# - **"$\partial Y_{out}/\partial W_k$ has RMS $\Theta(1)$"** (D5). Contracting with these Jacobians preserves the RMS; as tensors they shrink.
# - **"With signals of order one $\lVert G\rVert_F^2\sim d^2$ in a hidden layer"** (D4) is the idealised case: in SP the backward signal is $d^{-1/2}$ already, and the measured exponent is 1 (E1).
# - **"Muon does not satisfy $\mathrm{RMS}(\Delta W)=\Theta(1/d)$"** (C11). In the limit that the post itself takes, $d\to\infty$ at fixed batch, it does: the rank of a gradient is at most the batch, and $s=1$ follows without SGD and Adam (D9). Measured for batches up to an eighth of the width; at larger batches the update falls more slowly (E1b).
# - **"$\lVert G\rVert_*\approx\lVert G\rVert_F$"** (C12): same order, but two to four times as large at a batch of 64.
# - **Free of $d$ for all of training** (E3). The family's count is of one step: over ten, $s=1.25$ decreases the loss more the wider the network.
# - **$\eta\propto1/\sqrt d$ with Moonlight's factor** (C14): on all matrices the measured exponent is a little beyond $-\frac12$.
# - **"Transfer"** (X3) is of the rate, not of the best loss.
#
# ## Exercises
#
# 1. *Adam's $\epsilon$.* How must $\epsilon$ scale with the width, block by block, for Adam to stay scale-invariant under muP? What happens in a wide network if it does not?
# 2. *Weight decay.* AdamW multiplies $W$ by $1-\eta\lambda$ a step. Under muP at 64 times the base width, how much of the base model's decay is left in a hidden matrix, and which $\lambda$ restores it?
# 3. *Normalised SGD*, $U=G/\lVert G\rVert_F$: derive its row of the table.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $\epsilon$ stands beside $\sqrt v\sim\mathrm{RMS}(G)$: it must be $\propto1/d$ in input and hidden blocks and constant in the readout. A constant $\epsilon$ outweighs the gradient at some width, and from there on the first blocks learn like $1/d$.
# ```


# %% tags=["hide-cell"]
def first_step(width, eps):
    """RMS of Adam's first update over its rate in the last hidden layer, at a given epsilon."""
    weights = network([0], shapes_of(width, 2), parametrise("muP", "Adam", width, 2)[0], cpu)
    before = weights[2].detach().clone()
    losses(weights, DIGITS_X[:64], DIGITS_Y[:64]).sum().backward()
    optim.StackedAdam([weights[2]], [1.0], **ADAM, eps=eps).step()
    touched = weights[2].grad != 0  # dead units do not move in either case
    return float((weights[2].detach() - before)[touched].square().mean().sqrt())


eps_widths = [64, 128, 256, 512]
scaled_eps = [first_step(w, 0.02 * 64 / w) for w in eps_widths]
fixed_eps = [first_step(w, 0.02) for w in eps_widths]
nb.claim(
    "X4",
    "Exercise 1: with ε ∝ 1/d Adam's first hidden update does not depend on the width; with a constant ε that matters it shrinks towards 1/d.",
    "verified",
    holds=[
        ledger.close("ε ∝ 1/d: exponent", metrics.loglog_slope(eps_widths, scaled_eps).slope, 0, abs=0.12, digits=2, machine=True),
        ledger.less("constant ε: exponent", metrics.loglog_slope(eps_widths, fixed_eps).slope, -0.7, digits=2, machine=True),
    ],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# The hidden rate is $\eta/64$, so $T$ steps leave $e^{-\eta\lambda T/64}$ instead of $e^{-\eta\lambda T}$: 1/64 of the exponent. $\lambda\propto d$ restores it, which is what "independent" decay, $W\leftarrow(1-\lambda')W$ with $\lambda'$ apart from the rate, does by itself.
# ```


# %% tags=["hide-cell"]
def log_shrink(width, decay, steps=50):
    """Logarithm of what AdamW leaves of a hidden matrix without gradients, at muP's rate for the width."""
    W = torch.nn.Parameter(torch.ones(1, 4, 4))
    opt = optim.StackedAdam([W], [2.0**-6 * mup.rate_multiplier("Adam", (width, width), (64, 64))], weight_decay=decay)
    for _ in range(steps):
        W.grad = torch.zeros_like(W)
        opt.step()
    return math.log(float(W.detach().mean()))


nb.claim(
    "X5",
    "Exercise 2: at 64 times the base width a hidden matrix keeps 1/64 of the decay exponent; a decay 64 times as large restores it.",
    "verified",
    holds=[
        ledger.close(
            "50 steps at d = 64: log of (1 − ηλ)⁵⁰",
            log_shrink(64, 0.1),
            50 * math.log1p(-(2.0**-6) * 0.1),
            rel=1e-3,
            digits=3,
            machine=True,
        ),
        ledger.close(
            "decay exponent at d = 4096 over that at 64",
            log_shrink(4096, 0.1) / log_shrink(64, 0.1),
            1 / 64,
            rel=0.02,
            digits=3,
            machine=True,
        ),
        ledger.close("with 64 times the decay", log_shrink(4096, 6.4) / log_shrink(64, 0.1), 1, rel=0.02, digits=3, machine=True),
    ],
)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# $\Delta L=-\eta\lVert G\rVert_F$ gives Muon's three loss equations, and $\mathrm{RMS}(U_k)=1/d$ exactly, whatever the rank: $c_k=0$, $s=1$. Muon's row of the table, with the element-wise condition intact.
# ```

# %% tags=["hide-cell"]
normalised = sp.solve([*loss_system["Muon"], exponent(d * rate["k"] / d)], (*unknowns, s), dict=True)[0]
nb.claim(
    "X6",
    "Exercise 3: normalised SGD has Muon's row, rates (√d, 1, 1/√d).",
    "verified",
    holds=[
        sym.enumeration("the solution", range(4), lambda i: normalised[(*unknowns, s)[i]], lambda i: (half, 0, -half, 1)[i]),
        ledger.close(
            "RMS of G/‖G‖_F times √(entries)", float(metrics.rms((low_rank / low_rank.norm()).flatten())) * math.sqrt(96 * 80), 1, rel=1e-9
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
# The post: {cite}`su2025mup`. muP: {cite}`yang2021tp4`, {cite}`yang2022tp5`. Initialisation: {cite}`glorot2010understanding`, {cite}`he2015delving`. Muon: {cite}`jordan2024muon`, {cite}`liu2025moonlight`. Later: {cite}`yang2023spectral`, {cite}`yang2023tp6`, {cite}`everett2024scaling`, {cite}`kosson2025weightdecay`.
