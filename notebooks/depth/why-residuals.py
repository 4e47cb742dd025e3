# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why residual connections? The view from DeepNet
#
# [为什么需要残差？一个来自DeepNet的视角](https://kexue.fm/archives/8994) · 2022-03-19 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/depth/why-residuals.ipynb)
#
# **The point.** Good initialisation keeps the signals of a deep plain network, one without skip connections, at size one, forward and backward. The post
# adds a third demand: what *all* $N$ layers together do to the loss in one optimiser step, the *increment*, must not grow with $N$ either. A plain net that
# holds both signals cannot meet it; a residual layer $y=x+\varepsilon f(x)$ can, with $\varepsilon=1/\sqrt N$ for SGD in high dimension. By the same count Adam
# asks for $1/N$, and branches that end in a ReLU break the $1/\sqrt N$. And what does a growing increment cost? In an orthogonal linear net of 100 layers only
# the learning rate, which falls like $1/N$: it still gets 94% of small handwritten digits right. Plain tanh nets have a *level* increment without any multiplier, and train
# worse, to 91% at best.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import contextlib
import itertools
import math
from collections import deque

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
nb = kexue_nb.notebook("why-residuals")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels over the number of layers. Left, recorded test accuracy on digits, every network at its best learning rate: residual networks stay near 0.96 up to 200 layers, the orthogonal linear network near 0.94 up to 100, the orthogonal tanh network falls from 0.92 to 0.9 at 100, plain tanh and plain ReLU networks fall towards chance. Right, log axes: the sum of the squared gradients grows in proportion to the depth for the plain linear network, is level for the orthogonal tanh network and for a residual network with multiplier one over root N, and falls for one over N."}}
STYLE = {
    "plain ReLU": (ORANGE, "--", "o"),
    "plain tanh": (RED, (0, (3, 1, 1, 1)), "v"),
    "orthogonal tanh": (PURPLE, (0, (5, 1)), "D"),
    "orthogonal linear": (BLACK, (0, (6, 2)), "h"),
    "residual 1": (GREY, (0, (1, 1)), "x"),
    "residual N^-1/2": (BLUE, "-", "s"),
    "residual 1/N": (GREEN, "-.", "^"),
    "ReLU-ended N^-1/2": (SKY, ":", "P"),
    "ReLU-ended 1/N": (GREY, (0, (1, 2)), "*"),
}
DISPLAY = {arm: arm.replace("N^-1/2", "$N^{-1/2}$").replace("1/N", "$1/N$") for arm in STYLE}
look = lambda arm: {"color": STYLE[arm][0], "ls": STYLE[arm][1], "marker": STYLE[arm][2], "ms": 5, "label": DISPLAY[arm]}
layer_ticks = lambda axes, depths: (axes.minorticks_off(), axes.set_xticks(depths, [str(n) for n in depths]))
heading = lambda figure, text: figure.suptitle(text, fontsize=11, fontweight="bold", x=0.01, ha="left")


def at_best(run, N, arm, what="accuracy"):
    """Rate and the seeds' values of an arm at depth N, at the rate of its smallest mean training loss; diverged runs count as 100."""
    row, grid = run.result[str(N)][arm], run.config["rates"]
    best = metrics.best_rows([arm] * len(row["loss"]), row["loss"])[arm]
    return (grid if isinstance(grid, list) else grid[str(N)][arm])[best], row[what][best]


made = records.load(nb.slug)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6))
for arm in ("plain ReLU", "plain tanh", "orthogonal tanh", "orthogonal linear", "residual N^-1/2", "residual 1/N"):
    run = made["E3c" if arm.startswith("orthogonal") else "E3"]
    scores = np.array([at_best(run, N, arm)[1] for N in run.config["depths"]])
    left.errorbar(run.config["depths"], scores.mean(1), scores.std(1, ddof=1), capsize=2, **look(arm))
for arm in ("orthogonal linear", "orthogonal tanh", "residual N^-1/2", "residual 1/N"):
    rows = made["E1"].result[arm]
    right.plot([int(N) for N in rows], [np.median(row["SGD"]) for row in rows.values()], **look(arm))
left.set(xscale="log", xlabel="layers N (log axis)", ylabel="test accuracy, digits", ylim=(-0.35, 1.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
left.set_title("trained, each at its best rate (bars: SD)", fontsize=10)
right.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel=r"$\sum\|g\|^2$ (log axis)")
right.set_title("before training: what one SGD step does", fontsize=10)
layer_ticks(left, made["E3"].config["depths"])
left.legend(loc="lower left", fontsize=7, ncols=2)
right.legend(loc="upper left", fontsize=7)
right.set_ylim(top=3e4)
heading(figure, "The plain linear net's increment grows, yet tanh and ReLU nets train worse")
nb.show(figure)

# %% [markdown]
# ## The question
#
# Residual connections {cite}`he2016deep` are usually explained by vanishing gradients. But careful initialisation, and normalisation, cure vanishing
# and exploding gradients without any residual. Deep plain networks are still said to train badly. So what does a residual add?
#
# The post {cite}`su2022residual` answers with an argument found on the way to DeepNet, which [the notebook on it](deepnet.ipynb) tells in full: one optimiser step moves *all*
# layers, and the moves add up. A deep network needs a stable forward signal, a stable backward signal, *and* gradients that shrink with the number of
# layers. Initialisation gives a plain network the first two and is then used up. With
#
# $$y=x+\varepsilon f(x;\theta)$$
#
# one small number does all three. How small? On the line $1/N$; in high dimension, the post argues, $1/\sqrt N$ is enough. That factor $\sqrt N$ is still
# debated under the names depth-muP and CompleteP.
#
# **Notation.** $N$ layers of width $d$, $K$ parameters in each ([for DeepNet](deepnet.ipynb) $K$ counts matrices). Rows are vectors, $y=xW$ with $W\in\mathbb R^{n\times m}$.
# $J_{ji}=\partial f_j/\partial x_i$, $v=\partial\mathcal L/\partial y$ is the backward signal, and it travels as $v(I+\varepsilon J)$. $t=\varepsilon^2N$ is the
# total branch energy: $t=1$ for $\varepsilon=N^{-1/2}$. $\rho$ is the cosine of two inputs. "Orthogonal" matrices are drawn uniformly (Haar's measure).
#
# ## The increment
#
# The loss around the present parameters, one step of gradient descent:
#
# $$\Delta\mathcal L\approx\langle\nabla\mathcal L,\Delta\theta\rangle=-\eta\,\lVert\nabla\mathcal L\rVert^2=-\eta\sum_{l\le N}\sum_{k\le K}g_{lk}^2=O(\eta NK)$$
#
# if every single gradient is $O(1)$. A larger $N$ then needs a smaller $\eta$, or gradients of size $O(1/\sqrt N)$. The check differentiates a loss with
# an arbitrary gradient and Hessian along the step, and counts.

# %%
eta, eps, t, N = sp.symbols("eta varepsilon t N", positive=True)


def loss_along(step, gradient):
    """The loss after minus before a step: any gradient, and a Hessian of unknown symbols."""
    n = len(gradient)
    hessian = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"h{min(i, j)}{max(i, j)}", real=True))
    g, s = sp.Matrix(gradient), sp.Matrix(step)
    return (g.T * s)[0] + (s.T * hessian * s)[0] / 2


def slope_at_zero(gradient):
    """d(loss)/d(eta) of the step -eta * gradient, at eta = 0."""
    return sp.diff(loss_along([-eta * g for g in gradient], gradient), eta).subs(eta, 0)


# %%
g4 = sp.symbols("g1:5", real=True)
of_size = lambda size: lambda case: sp.simplify(slope_at_zero([(-1) ** i * size(case[0]) for i in range(case[0] * case[1])]))
counts = [(1, 2), (2, 2), (3, 2), (4, 3), (9, 1)]
a_, b_ = sp.symbols("a b", real=True)
toy = (a_ * b_ - 1) ** 2 + a_**3  # a loss to take a finite step on, from (2, 1)
toy_gradient = [sp.diff(toy, x).subs({a_: 2, b_: 1}) for x in (a_, b_)]
toy_hessian = {f"h{i}{j}": sp.diff(toy, p, q).subs({a_: 2, b_: 1}) for i, p in enumerate((a_, b_)) for j, q in enumerate((a_, b_))}
toy_step = [-eta * g for g in toy_gradient]
toy_along = loss_along(toy_step, toy_gradient)
nb.derivation(
    "D1",
    "One gradient step changes the loss by −η‖∇L‖²: −ηNK if each of NK gradients is ±1, −ηK if each is ±1/√N.",
    sym.identity(
        "any gradient, any Hessian", sp.Subs(sp.Derivative(loss_along([-eta * g for g in g4], g4), eta), eta, 0), -sum(g**2 for g in g4)
    ),
    sym.series(
        "a finite step on (ab − 1)² + a³ leaves O(η³): the first order is off by O(η²)",
        toy.subs({a_: 2 + toy_step[0], b_: 1 + toy_step[1]}, simultaneous=True) - toy.subs({a_: 2, b_: 1}),
        toy_along.subs({x: toy_hessian[x.name] for x in toy_along.free_symbols if x != eta}),
        eta,
        order=3,
    ),
    sym.enumeration("gradients ±1, (N, K)", counts, of_size(lambda N: sp.Integer(1)), lambda c: sp.Integer(-c[0] * c[1])),
    sym.enumeration("gradients ±1/√N", counts, of_size(lambda N: 1 / sp.sqrt(N)), lambda c: sp.Integer(-c[1])),
)

# %% [markdown]
# ## A plain layer has one dial
#
# Let the entries of $W$ be independent with mean 0 and variance $s^2$, and independent of the input. Mixed products vanish in the mean, so
#
# $$\mathbb E\,y_j^2=s^2\sum_i x_i^2=n s^2\,\overline{x^2},\qquad\mathbb E\Bigl(\frac{\partial\mathcal L}{\partial x_i}\Bigr)^2=s^2\sum_j\Bigl(\frac{\partial\mathcal L}{\partial y_j}\Bigr)^2 .$$
#
# Forward stability asks for $s^2=1/n$, backward stability for $s^2=1/m$; Xavier {cite}`glorot2010understanding` takes $2/(n+m)$, the harmonic mean of
# the two. A ReLU in front halves the second moment, $\mathbb E\operatorname{relu}(z)^2=\frac12\mathbb E z^2$, so there it is $s^2=2/n$ {cite}`he2015delving`.

# %%
s2, q, n_, d_ = sp.symbols("s2 q n d", positive=True)
z = sp.Symbol("z", real=True)


def mean_over(polynomial, variance):
    """E of a polynomial of degree two in independent variables w.. with mean 0 and that variance."""
    variables = sorted((x for x in polynomial.free_symbols if x.name.startswith("w")), key=str)
    second = {2: variance, 0: 1}
    terms = sp.Poly(polynomial, *variables).terms()
    return sp.expand(sum(c * sp.prod([second.get(k, 0) for k in powers]) for powers, c in terms))


def second_moments(n, m):
    """Mean squares of the entries of x W and of delta W^T, entry by entry, for W (n, m) with entries of mean 0 and variance s2."""
    W = sp.Matrix(n, m, lambda i, j: sp.Symbol(f"w{i}{j}"))
    x, delta = sp.Matrix([sp.symbols(f"x1:{n + 1}")]), sp.Matrix([sp.symbols(f"d1:{m + 1}")])
    means = [[mean_over(sp.expand(y**2), s2) for y in row] for row in (x * W, delta * W.T)]
    return means, [[s2 * sum(y**2 for y in row)] * k for row, k in ((x, m), (delta, n))]


# %%
normal = lambda z, variance: sp.exp(-(z**2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)
rectified = lambda power, variance: sp.Integral(z**power * normal(z, variance), (z, 0, sp.oo))
shapes = [(2, 2), (2, 3), (3, 2)]


def stable(n, m):
    """The variances that keep the mean square forward and backward, from :func:`second_moments` at entries ±1."""
    ones = lambda entry: entry.subs({x: 1 for x in entry.free_symbols if x != s2})
    return [sp.solve(ones(row[0]) - 1, s2)[0] for row in second_moments(n, m)[0]]


nb.derivation(
    "D2",
    "E y² = n s² E x² forward, E(∂L/∂x)² = m s² E(∂L/∂y)² backward; a ReLU halves: s² = 1/n, 1/m, 2/n, Xavier 2/(n + m).",
    *[sym.identity(f"forward, {n} × {m}", *(part[0] for part in second_moments(n, m))) for n, m in shapes],
    *[sym.identity(f"backward, {n} × {m}", *(part[1] for part in second_moments(n, m))) for n, m in shapes],
    sym.identity("E relu(z)² for z of variance q", rectified(2, q), q / 2),
    sym.solves("forward stable behind a ReLU, n inputs", n_ * s2 * rectified(2, q) - q, s2, 2 / n_),
    sym.enumeration("forward stable, (n, m)", shapes, lambda c: stable(*c)[0], lambda c: sp.Rational(1, c[0])),
    sym.enumeration("backward stable", shapes, lambda c: stable(*c)[1], lambda c: sp.Rational(1, c[1])),
    sym.enumeration(
        "Xavier: the harmonic mean", shapes, lambda c: 2 / sum(1 / variance for variance in stable(*c)), lambda c: sp.Rational(2, sum(c))
    ),
)

# %% [markdown]
# **Nothing is left for the depth.** Take the forward-stable $s^2=1/n$. The backward second moment is then multiplied by $m/n$ in each layer, and through widths
# $n_0,n_1,\dots,n_N$
#
# $$\prod_{l=1}^N\frac{n_l}{n_{l-1}}=\frac{n_N}{n_0}.$$
#
# That is sharper than the post's remark: not only the depth has dropped out, but all hidden widths as well. The ReLU's two halves cancel. The gradient
# of layer $l$, for one input, is the outer product $h_{l-1}^\top\delta_l$ with $\lVert g\rVert_F^2=\lVert h_{l-1}\rVert^2\lVert\delta_l\rVert^2$: the same
# in all layers of equal width, whatever $N$. Their sum grows like $N$, and no choice of $s$ can change that without breaking the forward pass.

# %%
half = rectified(2, q).doit() / q
chains = [(3, 5), (4, 2, 7), (1, 6, 6, 2), (5, 3, 8, 2, 9), (2, 7, 1, 8, 2, 8)]


def backward_through(widths, kept):
    """Factor of the mean square of the backward signal, layer by layer, if each layer's variance is set by the forward pass."""
    factor = sp.Integer(1)
    for n, m in itertools.pairwise(widths):
        (variance,) = sp.solve(n * s2 * kept - 1, s2)  # forward: an input entry's mean square is kept
        factor *= m * variance * kept
    return factor


h2, d3 = sp.Matrix([sp.symbols("h1:3", real=True)]), sp.Matrix([sp.symbols("d1:4", real=True)])
frobenius = lambda M: sum(x**2 for x in M)
W23 = sp.Matrix(2, 3, sp.symbols("w1:7"))
linear_loss = (h2 * W23 * d3.T)[0]
nb.derivation(
    "D3",
    "With the forward pass stable the backward factor of a net of widths n₀, …, n_N is n_N/n₀; ‖g‖² = ‖h‖²‖δ‖² for one input.",
    sym.enumeration("linear", chains, lambda c: backward_through(c, 1), lambda c: sp.Rational(c[-1], c[0])),
    sym.enumeration("ReLU", chains, lambda c: backward_through(c, half), lambda c: sp.Rational(c[-1], c[0])),
    sym.identity("the gradient of h W δᵀ, squared", frobenius([sp.Derivative(linear_loss, w) for w in W23]), frobenius(h2) * frobenius(d3)),
)

# %% [markdown]
# ### What "stable" hides
#
# For ReLU there are two catches, neither of which the post mentions. **Stable in the mean is not stable.** Given $h$, the entries of $hW$ are independent
# normals, so a He layer multiplies $\lVert h\rVert^2$ by $\frac2d\sum_j\operatorname{relu}(z_j)^2$ with fresh standard normal $z$, exactly. Its mean is 1, its
# variance $\frac4d(\frac32-\frac14)=\frac5d$. The logarithm is a random walk with a drift of about $-\frac5{2d}$ a layer: a *typical* network decays like
# $e^{-5N/(2d)}$ while the mean, kept up by rare draws, stays 1 {cite}`hanin2020products`. The exact drift, given that one unit or more is active (else the
# logarithm is $-\infty$), sums over the number $k$ of active ones:
#
# $$\mathbb E\log\frac{\lVert h_{l+1}\rVert^2}{\lVert h_l\rVert^2}=\frac1{2^d-1}\sum_{k\ge1}\binom dk\Bigl[\psi\bigl(\tfrac k2\bigr)+\log\tfrac4d\Bigr].$$
#
# **Angles die.** ReLU maps the cosine $\rho$ of two inputs to $\kappa(\rho)=\frac1\pi\bigl[\sqrt{1-\rho^2}+(\pi-\arccos\rho)\rho\bigr]$
# {cite}`cho2009kernel` ([derived here](deepnet.ipynb)), and
#
# $$\kappa(1-e)=1-e+\tfrac{2\sqrt2}{3\pi}e^{3/2}+\tfrac{\sqrt2}{30\pi}e^{5/2}+\cdots\quad\Longrightarrow\quad1-\rho_l\sim\frac{9\pi^2}{2\,l^2}.$$
#
# After 100 layers all inputs lie within a few degrees of one another. A plain ReLU net forgets *what it was shown*.

# %%
phi, depth = sp.symbols("phi l", positive=True)
kappa = lambda angle: (sp.sin(angle) + (sp.pi - angle) * sp.cos(angle)) / sp.pi  # of rho = cos(angle)
e_of = 1 - sp.cos(phi)
k_lead = 2 * sp.sqrt(2) / (3 * sp.pi)
expansion = 1 - e_of + k_lead * e_of ** sp.Rational(3, 2) + sp.sqrt(2) / (30 * sp.pi) * e_of ** sp.Rational(5, 2)
law = 9 * sp.pi**2 / (2 * depth**2)


def relu_cosine(rho):
    """kappa: the cosine of relu(u) and relu(v) for normals u, v of correlation rho, in the wide limit."""
    return (math.sqrt(max(0.0, 1 - rho * rho)) + (math.pi - math.acos(max(-1.0, min(1.0, rho)))) * rho) / math.pi


def drift(d):
    """E log of the factor of ||h||^2 in one He layer of width d, given that at least one unit is active."""
    k = range(1, d + 1)
    mean = mpmath.fsum(mpmath.binomial(d, i) * (mpmath.digamma(mpmath.mpf(i) / 2) + mpmath.log(mpmath.mpf(4) / d)) for i in k)
    return float(mean / (mpmath.mpf(2) ** d - 1))


# %%
rng = torch.Generator().manual_seed(nb.seed)
gaussian = lambda *shape, std=1.0: torch.randn(shape, generator=rng, dtype=torch.float64) * std
rho, plain_gap = 0.0, {}
for l in range(1, 1001):
    rho = relu_cosine(rho)
    plain_gap[l] = 1 - rho
d_walk = 16
h_in = gaussian(1, 1, d_walk).expand(24000, 1, d_walk)
h_out = torch.relu(torch.bmm(h_in, gaussian(24000, d_walk, d_walk, std=math.sqrt(2 / d_walk))))
step_logs = (h_out.square().sum((1, 2)) / h_in.square().sum((1, 2))).log()
step_logs = step_logs[step_logs.isfinite()]  # one unit or more is active
u, w = gaussian(2, 400000)
pair = torch.relu(torch.stack([u, 0.3 * u + math.sqrt(1 - 0.09) * w]))
pair_cosine = float((pair[0] * pair[1]).sum() / (pair[0].norm() * pair[1].norm()))

# %%
nb.derivation(
    "D4",
    "A He layer multiplies ‖h‖² by a factor of mean 1 and variance 5/d, so log‖h‖² drifts by about −5/(2d) a layer; and 1 − ρ_l ~ 9π²/(2l²).",
    sym.identity("E relu(z)⁴ = 3/2 for variance 1", rectified(4, q), 3 * q**2 / 2),
    sym.identity("variance of the factor", (2 / d_) ** 2 * d_ * (rectified(4, sp.Integer(1)) - rectified(2, sp.Integer(1)) ** 2), 5 / d_),
    *[ledger.close(f"exact drift times d, d = {d}", d * drift(d), -2.5, rel=4 / d, digits=5) for d in (32, 64, 256, 1024)],
    sym.monte_carlo(
        "E log of the factor, one layer, d = 16", *(float(m) for m in metrics.mean_stderr(step_logs)), drift(d_walk), draws=24000
    ),
    ledger.close("κ(0.3) from 400,000 pairs", pair_cosine, relu_cosine(0.3), abs=0.006, digits=3, machine=True),
    sym.series("κ(1 − e), e = 1 − cos φ", kappa(phi), expansion, phi, order=6),
    sym.identity("the law solves de/dl = −k e^(3/2)", sp.Derivative(law, depth), -k_lead * law ** sp.Rational(3, 2)),
    *[
        ledger.close(f"(1 − ρ_l) l² iterated to l = {l}", plain_gap[l] * l**2, value, abs=0.01, digits=4)
        for l, value in ((10, 12.85), (100, 35.77), (1000, 43.13))
    ],
    ledger.less("and it has not yet passed its limit 9π²/2", plain_gap[1000] * 1e6, 4.5 * math.pi**2, margin=0.5),
)

# %% [markdown]
# ## The residual
#
# Put a multiplier on a branch, $y=x+\varepsilon f(x;\theta)$:
#
# $$\frac{\partial y}{\partial x}=I+\varepsilon J,\qquad\frac{\partial\mathcal L}{\partial\theta}=\varepsilon\,\frac{\partial\mathcal L}{\partial y}\frac{\partial f}{\partial\theta}.$$
#
# Make $\varepsilon$ small and the layer is close to the identity in both directions, *and* the gradient of its parameters is small. The two dials that a
# plain net must set with one number are now separate.

# %%
x2, c2 = sp.Matrix([sp.symbols("x1:3", real=True)]), sp.Matrix([sp.symbols("c1:3", real=True)])
W22 = sp.Matrix(2, 2, sp.symbols("w1:5", real=True))
branch = (x2 * W22).applyfunc(sp.tanh)
residual_loss = ((x2 + eps * branch) * c2.T)[0]  # a loss with gradient c at the output
slopes = (x2 * W22).applyfunc(lambda z: 1 - sp.tanh(z) ** 2)
J22 = (W22 * sp.diag(*slopes)).T  # J_ji = d f_j / d x_i
nb.derivation(
    "D5",
    "With y = x + ε f the backward map is I + εJ, and the gradient of θ carries a factor ε.",
    sym.identity("∂L/∂x = c (I + εJ)", [sp.Derivative(residual_loss, x) for x in x2], list(c2 * (sp.eye(2) + eps * J22))),
    sym.identity(
        "∂L/∂W = ε xᵀ(c ⊙ φ′)",
        sp.Matrix(2, 2, [sp.Derivative(residual_loss, w) for w in W22]),
        eps * x2.T * sp.Matrix([[c * s for c, s in zip(c2, slopes, strict=True)]]),
    ),
)

# %% [markdown]
# **How small, on the line?** With $f(x)=x$ the growth is $(1+\varepsilon)^N$. For $\varepsilon=1/N$ that is below $e$ for every $N$; for
# $\varepsilon=1/\sqrt N$ it explodes:
#
# $$\Bigl(1+\frac1N\Bigr)^N\uparrow e,\qquad\Bigl(1+\frac1{\sqrt N}\Bigr)^N=\exp\Bigl(\sqrt N-\frac12+\frac1{3\sqrt N}-\cdots\Bigr).$$

# %%
small = sp.Symbol("u", positive=True)  # 1/sqrt N
line = [float((1 + sp.Rational(1, n)) ** n) for n in range(1, 51)]

# %%
nb.derivation(
    "D6",
    "On the line ε = 1/N keeps (1 + ε)^N below e, and ε = 1/√N lets it grow like exp(√N − ½).",
    ledger.increasing("(1 + 1/N)^N, N = 1 … 50", line),
    sym.limit("its limit", (1 + 1 / N) ** N, N, sp.oo, sp.E),
    sym.series(
        "u log (1 + u)^(1/u²), with u = 1/√N", sp.log(1 + small) / small, 1 - small / 2 + small**2 / 3 - small**3 / 4, small, order=4
    ),
)

# %%
nb.claim(
    "C6",
    "(1 + 1/N)^N stays below e and tends to it.",
    "verified",
    holds=[
        sym.identity(
            "log (1 + 1/N)^N − 1 = −N ∫₀^(1/N) u/(1 + u) du, negative for every N",
            -N * sp.Integral(small / (1 + small), (small, 0, 1 / N)),
            N * sp.log(1 + 1 / N) - 1,
        ),
        ledger.less("largest of N = 1 … 50", max(line), math.e, digits=6),
    ],
)
nb.claim(
    "C7",
    "On the line ε = 1/√N is not enough.",
    "verified",
    holds=[
        ledger.close(
            "1.1^100 over exp(√N − ½ + 1/(3√N) − 1/(4N)), N = 100", 1.1**100 / math.exp(10 - 0.5 + 1 / 30 - 1 / 400), 1, abs=3e-4, digits=6
        ),
        ledger.more("growth at N = 100", 1.1**100, 1e4, digits=6),
    ],
)

# %% [markdown]
# **In high dimension** a random branch hardly ever pushes along $v$:
#
# $$\lVert v(I+\varepsilon J)\rVert^2=\lVert v\rVert^2+2\varepsilon\,v\cdot vJ+\varepsilon^2\lVert vJ\rVert^2 .$$
#
# For $J$ with independent entries of mean 0 and variance $1/d$ the middle term has mean zero and standard deviation $\frac{2\varepsilon}{\sqrt d}\lVert v\rVert^2$, and the mean is
# *exactly* $(1+\varepsilon^2)\lVert v\rVert^2$. Over $N$ independent layers it is $(1+\varepsilon^2)^N\to e^t$, with fluctuations of the logarithm of about $2\sqrt{t/d}$. What grows
# is $\varepsilon^2N$ and not $\varepsilon N$; that is the whole difference between $1/\sqrt N$ and $1/N$. The post leaves it at "$O$": at
# $\varepsilon=N^{-1/2}$ the *norm* grows by $\sqrt e=1.6487$, forward and backward.


# %%
def residual_moments(d):
    """E ||v(I + eps J)||^2 and E (2 eps v.vJ)^2, entries of J of mean 0 and variance 1/d."""
    v, J = sp.Matrix([sp.symbols(f"v1:{d + 1}")]), sp.Matrix(d, d, lambda i, j: sp.Symbol(f"w{i}{j}"))
    moved = v * (sp.eye(d) + eps * J)
    cross = 2 * eps * (v * (v * J).T)[0]
    return [mean_over(sp.expand(p), sp.Rational(1, d)) for p in (frobenius(moved), cross**2)], frobenius(v)


# %% tags=["hide-input"]
v_walk = gaussian(1200, 1, 32)
walk_logs = -v_walk.square().sum((1, 2)).log()
for _ in range(32):  # t = 1
    v_walk = v_walk + 32**-0.5 * torch.bmm(v_walk, gaussian(1200, 32, 32, std=32**-0.5))
walk_logs = walk_logs + v_walk.square().sum((1, 2)).log()
nb.derivation(
    "D7",
    "E‖v(I + εJ)‖² = (1 + ε²)‖v‖² exactly; the cross term has variance 4ε²‖v‖⁴/d; over N layers the square grows by e^t.",
    *[sym.identity(f"mean, d = {d}", *(lambda m, size: (m[0], (1 + eps**2) * size))(*residual_moments(d))) for d in (1, 2, 3)],
    *[
        sym.identity(f"variance of the cross term, d = {d}", *(lambda m, size, d=d: (m[1], 4 * eps**2 * size**2 / d))(*residual_moments(d)))
        for d in (2, 3)
    ],
    sym.limit("N layers at ε² = t/N", (1 + t / N) ** N, N, sp.oo, sp.exp(t)),
    sym.limit("summed variance of the cross terms, times d", N * 4 * t / N * (1 + t / N) ** -2, N, sp.oo, 4 * t),
    ledger.close(
        "spread of log‖vP‖², d = N = 32, against 2√(t/d)",
        float(walk_logs.std()),
        2 / math.sqrt(32),
        rel=0.12,
        digits=3,
        machine=True,
        scope="1,200 draws",
    ),
)

# %% [markdown]
# ### The worst direction
#
# $\sqrt e$ is the growth of a *typical* $v$. Training makes the gradient anything but random, so what is the worst that can happen? The singular values of
#
# $$P=\prod_{l=1}^N(I+\varepsilon G_l),\qquad t=\varepsilon^2N\ \text{fixed},\ N\to\infty,\ \text{then}\ d\to\infty,$$
#
# are those of a multiplicative Brownian motion of matrices {cite}`biane1997free`, and free probability gives them in closed form. For one
# factor the normalised moments of $(I+\varepsilon G)(I+\varepsilon G)^\top$ are $m_k=1+k^2\varepsilon^2+O(\varepsilon^4)$ (up to $1/d$), so its
# $S$-transform is $1-\varepsilon^2(1+2z)+O(\varepsilon^4)$ for every $z$. These multiply, and over $N$ factors the $O(\varepsilon^4)=O(N^{-2})$ is lost:
#
# $$S(z)=e^{-t(1+2z)},\qquad x(z)=\frac{1+z}{z}\,e^{t(1+2z)},$$
#
# where $x(z)$ inverts the moment series $z=\sum_k m_kx^{-k}$. The edge of the spectrum is where $dx/dz=0$:
#
# $$\sigma_{\max}^2=\frac{1+z}{z}e^{t(1+2z)},\quad z=\frac{\sqrt{1+2/t}-1}{2},\qquad\sigma_{\min}^2=\frac1{\sigma_{\max}^2}.$$
#
# At $t=1$ this is $(2+\sqrt3)e^{\sqrt3}=21.09$: a stretch by 4.59 in the worst direction against 1.65 in a typical one, in the limit. So
# $\varepsilon=1/\sqrt N$ is safe even there, for products of independent Gaussian factors, at initialisation. The density comes for free: it is $\operatorname{Im}z/\pi$ in
# $\log\sigma^2$, at the complex $z$ with $x(z)$ real, that is $\arg\frac{1+z}{z}+2t\operatorname{Im}z=0$.

# %%
zeta = sp.Symbol("zeta", positive=True)
x_of = (1 + zeta) / zeta * sp.exp(t * (1 + 2 * zeta))
z_edge = (sp.sqrt(1 + 2 / t) - 1) / 2
even = {0: 1, 2: 1, 4: 3, 6: 15}  # E w^p of a standard normal


def trace_moment(d, k):
    """E tr[((I + eps G)(I + eps G)^T)^k] / d for normal entries of variance 1/d, exact."""
    G = sp.Matrix(d, d, lambda i, j: sp.Symbol(f"w{i}{j}"))
    M = (sp.eye(d) + eps * G) * (sp.eye(d) + eps * G).T
    terms = sp.Poly(sp.expand((M**k).trace()), *G).terms()
    return sp.expand(
        sum(c * sp.prod([even.get(p, 0) for p in powers]) * sp.Rational(1, d) ** (sum(powers) // 2) for powers, c in terms) / d
    )


rest, p_ = sp.symbols("C w", real=True)
psi = lambda w: w / (1 - w) + eps**2 * w * (1 + w) / (1 - w) ** 3  # sum of (1 + k^2 eps^2) w^k over k >= 1
chi = zeta / (1 + zeta) * (1 - eps**2 * (1 + 2 * zeta))  # z/(1+z) S(z), by the definition of S the inverse of psi


# %%
def edge(t):
    """Largest squared singular value of the infinite product at t = eps^2 N."""
    z = (math.sqrt(1 + 2 / t) - 1) / 2
    return (1 + z) / z * math.exp(t * (1 + 2 * z))


def density(t, points=2001):
    """log sigma^2 and its density b/pi, for a from end to end of the spectrum: b by bisection."""
    half_width = math.sqrt(1 + 2 / t) / 2
    a = -0.5 + half_width * np.cos(np.linspace(0, np.pi, points)[1:-1])
    low, high = np.zeros_like(a), np.full_like(a, np.pi / (2 * t))
    for _ in range(60):
        b = (low + high) / 2
        angle = np.arctan2(b, a) - np.arctan2(b, 1 + a) - 2 * t * b
        low, high = np.where(angle > 0, b, low), np.where(angle > 0, high, b)
    return np.log(np.hypot(1 + a, b) / np.hypot(a, b)) + t * (1 + 2 * a), b / np.pi


grids = {s: density(s) for s in (0.25, 1.0, 2.0)}
integral = lambda s, f: float(np.trapezoid(f(grids[s][0]) * grids[s][1], grids[s][0]) * np.sign(grids[s][0][-1] - grids[s][0][0]))

# %%
nb.derivation(
    "D8",
    "σ²_max = ((1 + z)/z) e^(t(1+2z)) with 2z + 1 = √(1 + 2/t), and σ²_min = 1/σ²_max; at t = 1 (2 + √3)e^√3.",
    sym.enumeration(
        "moments of one factor, coefficient of ε²: k² + k(k − 1)/d, (d, k)",
        [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)],
        lambda c: trace_moment(*c).coeff(eps, 2),
        lambda c: c[1] ** 2 + sp.Rational(c[1] * (c[1] - 1), c[0]),
    ),
    sym.enumeration(
        "Σ (1 + k²ε²) w^k, coefficient by coefficient",
        [1, 2, 3, 4],
        lambda k: sp.expand(sp.series(psi(p_), p_, 0, 6).removeO().coeff(p_, k)),
        lambda k: 1 + k**2 * eps**2,
    ),
    sym.series("ψ(χ(z)) = z for every z, to order ε²", psi(chi), zeta, eps, order=3),
    sym.limit("N of them, with any next term C/N²", (1 - t / N * (1 + 2 * zeta) + rest / N**2) ** N, N, sp.oo, sp.exp(-t * (1 + 2 * zeta))),
    sym.solves("stationary point of log x(z)", sp.Derivative(sp.log(x_of), zeta), zeta, z_edge),
    sym.identity("the other edge, at −1 − z", x_of.subs(zeta, -1 - zeta) * x_of, sp.Integer(1)),
    sym.numeric("t = 1", x_of.subs(zeta, z_edge).subs(t, 1), (2 + sp.sqrt(3)) * sp.exp(sp.sqrt(3)), digits=30),
    ledger.close("edge(1)", edge(1.0), float((2 + sp.sqrt(3)) * sp.exp(sp.sqrt(3))), rel=1e-12, digits=6),
    *[ledger.close(f"the density sums to 1, t = {s}", integral(s, np.ones_like), 1, abs=1e-3, digits=4) for s in grids],
    *[ledger.close(f"its mean of σ² is e^t, t = {s}", integral(s, np.exp), math.exp(s), rel=2e-3, digits=4) for s in grids],
)

# %% [markdown]
# ### Residuals keep angles
#
# A second reason for residuals, which the post does not mention. Two inputs with cosine $\rho$ get, from a branch of energy $\varepsilon^2$ that ends in a random
# linear map, outputs of cosine
#
# $$\rho\leftarrow\frac{\rho+\varepsilon^2\kappa(\rho)}{1+\varepsilon^2},\qquad\text{at }\varepsilon=N^{-1/2}:\quad\frac{d\rho}{ds}=\kappa(\rho)-\rho,\quad s\in[0,t].$$
#
# For $\varepsilon=N^{-1/2}$ orthogonal inputs end at $\rho\to0.2539$ for large $N$ ($0.2393$ at $N=10$); for $\varepsilon=1/N$ they stay orthogonal. A plain *ReLU* net
# brings all inputs together (D4).


# %%
def residual_cosine(N, energy):
    """The cosine of two orthogonal inputs after N residual layers with eps^2 = energy."""
    rho = 0.0
    for _ in range(N):
        rho = (rho + energy * relu_cosine(rho)) / (1 + energy)
    return rho


# %%
mp_kappa = lambda r: (mpmath.sqrt(1 - r * r) + (mpmath.pi - mpmath.acos(r)) * r) / mpmath.pi
travel_time = lambda end: mpmath.quad(lambda r: 1 / (mp_kappa(r) - r), [0, end])
end_cosine = float(mpmath.findroot(lambda end: travel_time(end) - 1, 0.25))
r_, K_ = sp.symbols("rho kappa", positive=True)
update = lambda energy: (r_ + energy * K_) / (1 + energy)
nb.derivation(
    "D9",
    "A residual branch moves the cosine by dρ/ds = κ(ρ) − ρ: from 0 to 0.2539 at ε = N^(−1/2), and not at all at ε = 1/N.",
    sym.limit("N times one update, ε² = 1/N", N * (update(1 / N) - r_), N, sp.oo, K_ - r_),
    sym.limit("N times one update, ε² = 1/N²", N * (update(1 / N**2) - r_), N, sp.oo, 0),
    *[
        ledger.close(f"iterated, N = {n}", residual_cosine(n, 1 / n), value, abs=6e-5, digits=4)
        for n, value in ((10, 0.2393), (100, 0.2523), (1000, 0.2537))
    ],
    ledger.close(
        "the equation's own solution against N = 20,000 layers", residual_cosine(20000, 1 / 20000), end_cosine, abs=2e-5, digits=5
    ),
    ledger.less("ε = 1/N, N = 1000", residual_cosine(1000, 1e-6), 4e-4, digits=2),
)

# %% [markdown]
# ### The hidden assumption
#
# All this used that the branch has *mean zero* over its weights. Let the branch end in its ReLU instead, $f(x)=\sqrt2\operatorname{relu}(xW)$ with entries
# $N(0,1/d)$. Its energy is the same, $\mathbb E\lVert f\rVert^2=\lVert x\rVert^2$, but every coordinate has a positive mean:
#
# $$\mathbb E f_j=\sqrt2\int_0^\infty z\,\frac{e^{-z^2d/2\lVert x\rVert^2}}{\sqrt{2\pi}\,\lVert x\rVert/\sqrt d}\,dz=\frac{\lVert x\rVert}{\sqrt{\pi d}} .$$
#
# All layers push in *one* direction, $(1,\dots,1)/\sqrt d$, and the argument of the line is back. With $r=\lVert x\rVert$, $p$ the component of $x$ along that
# direction and $a=1/\sqrt\pi$, in the wide limit
#
# $$p\leftarrow p+\varepsilon ar,\qquad r^2\leftarrow r^2+2\varepsilon a\,p\,r+\varepsilon^2r^2 .$$
#
# At leading order $r''=a^2r$ in the time $\varepsilon l$: $r=r_0\cosh(\varepsilon Na)$. For $\varepsilon=N^{-1/2}$ that explodes like $e^{\sqrt{N/\pi}}$. The next
# order gives the constant too:
#
# $$\log\frac{\lVert x_N\rVert}{\lVert x_0\rVert}=\sqrt{\frac N\pi}+\frac14-\frac3{4\pi}-\ln2+O(N^{-1/2}).$$
#
# At $\varepsilon=1/N$ it is the harmless $\cosh\frac1{\sqrt\pi}=1.16$.

# %%
a, tau, r = sp.symbols("a tau r", positive=True)
growth_square = lambda ratio: 1 + 2 * eps * a * ratio + eps**2  # of r^2 in a layer; ratio = p/r
steady = 1 - eps * (1 - a**2) / (4 * a)  # p/r of the growing solution
constant = sp.Rational(1, 4) - 3 * a**2 / 4


def pushed(N, epsilon):
    """r_N/r_0 of the two recursions, started at p = 0."""
    p, r, a = 0.0, 1.0, 1 / math.sqrt(math.pi)
    for _ in range(N):
        p, r = p + epsilon * a * r, math.sqrt(r * r + 2 * epsilon * a * p * r + epsilon**2 * r * r)
    return r


# %%
sharp = lambda N: math.exp(math.sqrt(N / math.pi) + 0.25 - 3 / (4 * math.pi)) / 2
miss = lambda N: math.log(pushed(N, N**-0.5) / sharp(N))
nb.derivation(
    "D10",
    "A branch that ends in a ReLU has mean ‖x‖/√(πd) in every coordinate; at ε = N^(−1/2) the norm grows like exp(√(N/π) + ¼ − 3/(4π))/2.",
    sym.identity("mean of √2 relu(z), z of variance r²/d", sp.sqrt(2) * rectified(1, r**2 / d_), r / sp.sqrt(sp.pi * d_)),
    sym.identity("r = cosh(aτ) solves r″ = a² r", sp.Derivative(sp.cosh(a * tau), (tau, 2)), a**2 * sp.cosh(a * tau)),
    sym.series("p/r of the growing solution stays as it is", steady * sp.sqrt(growth_square(steady)), steady + eps * a, eps, order=3),
    sym.series("log of its growth in a layer", sp.log(growth_square(steady)) / 2, a * eps + constant * eps**2, eps, order=3),
    *[
        ledger.close(
            f"log of the recursion minus the formula, its 1/√N removed by N = {n} and {4 * n}",
            2 * miss(4 * n) - miss(n),
            0,
            abs=0.5 / n,
            digits=2,
        )
        for n in (100, 2500)
    ],
    ledger.close("ε = 1/N, N = 10,000", pushed(10000, 1e-4), math.cosh(1 / math.sqrt(math.pi)), rel=1e-3, digits=4),
)

# %% [markdown]
# ## The algorithm in plain torch
#
# Every network below is one loop over layers. A leading axis of runs $R$ carries a whole grid of learning rates and seeds through it in one pass. An arm is
# a kind and a word: *plain ReLU*, *plain tanh*, *orthogonal tanh* and *linear* are $h\leftarrow\varphi(hW)$; *residual* is
# $h\leftarrow h+\varepsilon\operatorname{relu}(hW_1)W_2$, with a mean-zero linear end; *ReLU-ended* is $h\leftarrow h+\varepsilon\operatorname{relu}(hW)$. The word
# of the last two is $\varepsilon$. A residual layer has two matrices where the others have one.


# %%
def epsilon(arm, N):
    """The residual multiplier of an arm such as 'residual N^-1/2' at depth N."""
    return {"1": 1.0, "N^-1/2": N**-0.5, "1/N": 1 / N}[arm.split()[1]]


def activation(arm):
    """The activation of a plain arm such as 'orthogonal tanh'."""
    return {"ReLU": torch.relu, "tanh": torch.tanh, "linear": lambda z: z}[arm.split()[1]]


def layer(h, arm, matrices, N):
    """One of N layers: h (R, B, d) -> (R, B, d), with one matrix (R, d, d), or two in a residual layer."""
    if arm.startswith("residual"):
        W1, W2 = matrices
        return h + epsilon(arm, N) * torch.bmm(torch.relu(torch.bmm(h, W1)), W2)
    (W,) = matrices
    if arm.startswith("ReLU-ended"):
        return h + epsilon(arm, N) * torch.relu(torch.bmm(h, W))
    return activation(arm)(torch.bmm(h, W))


# %%
def orthogonal(G):
    """Haar-distributed orthogonal matrices from Gaussian ones (..., d, d): QR with the signs of R's diagonal taken back."""
    Q, R = torch.linalg.qr(G)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def draw_layers(arm, init, N, d):
    """The initial matrices of N layers: one tensor (R, N, d, d), or two for a residual arm. Entries N(0, 1/d), N(0, 2/d) next to a ReLU."""
    if arm.startswith("orthogonal"):
        return [orthogonal(init.normal(N, d, d).detach())]
    if arm.startswith("residual"):
        return [init.normal(N, d, d, std=math.sqrt(2 / d)).detach(), init.normal(N, d, d, std=math.sqrt(1 / d)).detach()]
    return [init.normal(N, d, d, std=math.sqrt((1 if arm == "plain tanh" else 2) / d)).detach()]


# %%
def states(h, arm, weights):
    """The states h_0, .., h_N, each (R, B, d), of a stack of networks with ``weights`` as :func:`draw_layers` gives them."""
    yield h
    N = weights[0].shape[1]
    for matrices in zip(*(W.unbind(1) for W in weights), strict=True):
        h = layer(h, arm, matrices, N)
        yield h


def last_state(h, arm, weights):
    """h_N of :func:`states`."""
    return deque(states(h, arm, weights), maxlen=1).pop()


# %% [markdown]
# The code is held against the formulas written out in numpy, one run at a time, and against the moments that each matrix should have.

# %% tags=["hide-input"]
rectify = lambda z: np.maximum(z, 0)
by_hand = {
    "plain ReLU": lambda h, W: rectify(h @ W[0]),
    "plain tanh": lambda h, W: np.tanh(h @ W[0]),
    "orthogonal tanh": lambda h, W: np.tanh(h @ W[0]),
    "orthogonal linear": lambda h, W: h @ W[0],
    "residual 1": lambda h, W: h + rectify(h @ W[0]) @ W[1],
    "residual N^-1/2": lambda h, W: h + rectify(h @ W[0]) @ W[1] / math.sqrt(3),
    "residual 1/N": lambda h, W: h + rectify(h @ W[0]) @ W[1] / 3,
    "ReLU-ended N^-1/2": lambda h, W: h + rectify(h @ W[0]) / math.sqrt(3),
    "ReLU-ended 1/N": lambda h, W: h + rectify(h @ W[0]) / 3,
}
moments = {"plain ReLU": [2], "plain tanh": [1], "orthogonal tanh": [1], "residual 1/N": [2, 1], "ReLU-ended N^-1/2": [2]}


def largest_difference(arm):
    """Between the stack of two runs, three layers of width 5, and the loop written out."""
    weights = [W.double() for W in draw_layers(arm, nn.Init([3, 4]), 3, 5)]
    h = gaussian(2, 7, 5)
    stacked, worst = last_state(h, arm, weights), 0.0
    for run in range(2):
        x = h[run].numpy()
        for l in range(3):
            x = by_hand[arm](x, [W[run, l].numpy() for W in weights])
        worst = max(worst, float(np.abs(x - stacked[run].numpy()).max()))
    return worst


def walk_by_hand(arm, N=3, d=5, seed=6):
    """The states of :func:`walk`, drawn in the same order, one matrix at a time."""
    init = nn.Init([seed])
    x = math.sqrt(d) * orthogonal(init.normal(d, d).detach())[0, :2].double().numpy()
    found = [x]
    for _ in range(N):
        x = by_hand[arm](x, [W[0, 0].double().numpy() for W in draw_layers(arm, init, 1, d)])
        found.append(x)
    return np.stack(found)


haar = orthogonal(gaussian(3000, 3, 3))
drawn = {arm: draw_layers(arm, nn.Init([0]), 20, 64) for arm in moments}

# %% tags=["hide-input"]
nb.claim(
    "X1",
    "The stacked networks are the formulas of the text, with matrices of the stated variance, orthogonal ones from the Haar measure.",
    "verified",
    holds=[
        ledger.less("largest difference to the loops, nine arms", max(largest_difference(arm) for arm in by_hand), 1e-12, machine=True),
        *[
            ledger.close(f"{arm}: d times the variance of matrix {i + 1}", 64 * float(W.var()), want, rel=0.02, digits=3, machine=True)
            for arm, wanted in moments.items()
            for i, (W, want) in enumerate(zip(drawn[arm], wanted, strict=True))
        ],
        ledger.less(
            "‖QQᵀ − I‖, largest of 3,000", float((haar @ haar.mT - torch.eye(3, dtype=haar.dtype)).abs().max()), 1e-12, machine=True
        ),
        sym.monte_carlo(
            "mean of Q₁₁: no preferred sign", *(float(m) for m in metrics.mean_stderr(haar[:, 0, 0])), 0.0, draws=3000, effect=0.1
        ),
        sym.monte_carlo("mean of Q₁₁²", *(float(m) for m in metrics.mean_stderr(haar[:, 0, 0] ** 2)), 1 / 3, draws=3000),
    ],
)


# %% tags=["hide-input"]
def end_to_end(widths, relu, draws=3000):
    """|dL/dx|^2 / |dL/dy|^2 per entry through a plain net of these widths with forward-stable variances, a draw of all weights each."""
    x = gaussian(draws, 1, widths[0]).requires_grad_()
    h = x
    for n, m in itertools.pairwise(widths):
        h = torch.bmm(torch.relu(h) if relu else h, gaussian(draws, n, m, std=math.sqrt((2 if relu else 1) / n)))
    v = gaussian(draws, 1, widths[-1])
    (back,) = torch.autograd.grad(h, x, v)
    return back.square().mean((1, 2)) / v.square().mean(), h.detach().square().mean((1, 2)) / x.detach().square().mean()


widths3 = (64, 32, 128, 16)
ratios3 = {relu: [metrics.mean_stderr(values) for values in end_to_end(widths3, relu)] for relu in (False, True)}
nb.claim(
    "C3",
    "If initialisation keeps the forward signal, the backward scale is fixed: the ratio of the last width to the first.",
    "verified",
    holds=[
        check
        for relu, (backward, forward) in ratios3.items()
        for check in (
            sym.monte_carlo(
                f"backward, {'ReLU' if relu else 'linear'}, widths 64-32-128-16", *(float(v) for v in backward), 16 / 64, draws=3000
            ),
            sym.monte_carlo("forward, the same net", *(float(v) for v in forward), 1.0, draws=3000),
        )
    ],
)

# %% [markdown]
# ## The experiments
#
# E1 measures the increment, E2 the signals at initialisation, E3 trains, E4 looks at alignment after training, E5 at the largest learning rate and
# warm-up. The recorded runs were made on a CPU, so the sizes are modest; they run on a GPU unchanged.
#
# ## E1: the increment
#
# **Question.** How does $\sum\lVert g\rVert^2$ (one SGD step) and $\sum\lVert g\rVert_1$ (one sign step, Adam's first) over all hidden matrices depend on $N$?
# **Set-up.** Width 64, 32 Gaussian inputs, labels of ten classes that are independent of the inputs, cross-entropy; medians over seeds. **Expected.** From
# D3 and D5: slope 1 for the plain linear net; for residuals $1+2\log_N\varepsilon$, so $0$ at $N^{-1/2}$ and $-1$ at $1/N$; for the one-norm $\frac12$ and $0$.
# For tanh the post makes no exception.


# %%
def random_task(init, d, batch, classes=10):
    """Inputs (R, batch, d) and a head (R, d, classes) for each run, and labels that know nothing of the inputs, (R, batch)."""
    x = init.normal(batch, d).detach().double()
    head = init.normal(d, classes, std=1 / math.sqrt(d)).detach().double()
    return x, head, (torch.arange(batch) % classes).expand(init.runs, batch)


def gradient_sums(device, arm, N, seeds, d, batch):
    """Squares, then moduli, of the gradients of all hidden matrices at initialisation, summed, and the mean ||h_N||: three (seeds,), float64."""
    init = nn.Init(seeds)
    x, head, y = (t.to(device) for t in random_task(init, d, batch))
    weights = [W.double().to(device).requires_grad_() for W in draw_layers(arm, init, N, d)]
    h = last_state(x, arm, weights)
    nn.cross_entropy_per_run(torch.bmm(h, head), y).sum().backward()
    squares, moduli = (sum(size(W.grad).sum((1, 2, 3)) for W in weights) for size in (torch.square, torch.abs))
    return squares, moduli, h.detach().norm(dim=-1).mean(1)


def increments(device, *, arms, depths, seeds, d, batch):
    """:func:`gradient_sums` of each arm and depth, as {"SGD": [..], "Adam": [..], "norm": [..]}; 1e300 where they overflow."""
    result = {}
    for arm, N in itertools.product(arms, depths):
        found = (s.nan_to_num(1e300, posinf=1e300) for s in gradient_sums(device, arm, N, seeds, d, batch))
        result.setdefault(arm, {})[str(N)] = dict(zip(("SGD", "Adam", "norm"), found, strict=True))
    return result


# %%
e1_arms = [a for a in STYLE if a != "ReLU-ended 1/N"]
e1_depths = nb.at_scale(cpu=[8, 16, 32, 64], gpu=[8, 16, 32, 64, 128, 256], full=[8, 16, 32, 64, 128, 256])
e1_seeds = nb.at_scale(cpu=list(range(16)), gpu=list(range(24)), full=list(range(24)))
e1 = nb.run("E1", increments, arms=e1_arms, depths=e1_depths, seeds=e1_seeds, d=64, batch=32)
e1_record = nb.recorded("E1")
recorded_on = lambda run: f"recorded: {run.device}, {run.date}"
medians = lambda result, arm, term: [float(np.median(row[term])) for row in result[arm].values()]
slope_of = lambda result, arm, term: metrics.loglog_slope([int(N) for N in result[arm]], medians(result, arm, term))
slopes = {(arm, term): slope_of(e1_record.result, arm, term) for arm in e1_arms for term in ("SGD", "Adam")}
live_slopes = {(arm, term): slope_of(e1, arm, term) for arm in e1_arms for term in ("SGD", "Adam")}
norms = {arm: medians(e1_record.result, arm, "norm") for arm in e1_arms}
fitted = lambda arm, term: f"{slopes[arm, term].slope:.2f}" if max(medians(e1_record.result, arm, term)) < 1e12 else "explodes"
at_size = lambda value: f"{value:.2g}" if value < 1e6 else "explodes"
nb.results(
    "E1",
    f"Exponents of the two increments in N, N = 8 to 256, and the last state's norm; medians of {len(e1_record.config['seeds'])} seeds ({recorded_on(e1_record)})",
    ["network", "SGD: Σ‖g‖²", "Adam: Σ‖g‖₁", "‖h_N‖ at N = 8", "at N = 256"],
    [[arm, fitted(arm, "SGD"), fitted(arm, "Adam"), at_size(norms[arm][0]), at_size(norms[arm][-1])] for arm in e1_arms],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Sum of squared gradients and sum of absolute gradients against the number of layers, log-log. Plain linear rises with slope one in both. Residual with multiplier one over root N and orthogonal tanh are level in the squares and rise with slope one half in the moduli. One over N falls with slope minus one in the squares and is level in the moduli. Plain ReLU and plain tanh bend down. The ReLU-ended residual rises steeply. Open markers of the live run lie on the recorded lines."}}
figure, panels = plt.subplots(1, 2, figsize=(7.8, 3.7))
for axes, term, name in zip(panels, ("SGD", "Adam"), (r"$\sum\|g\|^2$", r"$\sum\|g\|_1$"), strict=True):
    for arm in e1_arms:
        values = np.array(medians(e1_record.result, arm, term))
        seen = values < 1e12
        axes.plot(np.array(e1_record.config["depths"])[seen], values[seen], **look(arm))
        live = np.array(medians(e1, arm, term))
        axes.plot(np.array(e1_depths)[live < 1e12], live[live < 1e12], ls="", marker="o", ms=9, mfc="none", mec=STYLE[arm][0])
    axes.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel=name + " (log axis)")
    axes.set_ylim(3e-3 if term == "SGD" else 10, 1e6 if term == "SGD" else 1e9)
    axes.set_title({"SGD": "an SGD step", "Adam": "a sign step (Adam)"}[term], fontsize=10)
panels[1].legend(fontsize=7, loc="upper left", ncols=2)
heading(figure, "ε = N^(−1/2) levels the SGD increment, ε = 1/N Adam's (circles: live)")
nb.show(figure)


# %% tags=["hide-input"]
def real_decrease(arm, N, rate=1e-6):
    """Decrease of the loss in a real SGD step, and in a sign step, over its rate; plain loops on numpy-style matrices, float64, seed 5."""
    init = nn.Init([5])
    x, head, y = (t[0] for t in random_task(init, 16, 12))
    leaves = [W[0].double().requires_grad_() for W in draw_layers(arm, init, N, 16)]

    def loss(mats):
        h = x
        for l in range(N):
            if arm.startswith("residual"):
                h = h + (1 / N if arm.endswith("1/N") else N**-0.5) * (h @ mats[0][l]).clamp(min=0) @ mats[1][l]
            else:
                h = h @ mats[0][l] if arm.endswith("linear") else torch.tanh(h @ mats[0][l])
        return (torch.logsumexp(h @ head, 1) - (h @ head)[range(len(y)), y]).mean()

    start = loss(leaves)
    grads = torch.autograd.grad(start, leaves)
    after = lambda steps: loss([W - rate * s for W, s in zip(leaves, steps, strict=True)])
    return [float((start - after(steps)).detach() / rate) for steps in (grads, [g.sign() for g in grads])]


task_x, task_head, task_y = random_task(nn.Init(list(range(40))), 64, 32)
kept_norm = float(
    gradient_sums(torch.device("cpu"), "orthogonal linear", 4, list(range(40)), 64, 32)[2].mean() / task_x.norm(dim=-1).mean()
)
tested_arms = ("orthogonal linear", "orthogonal tanh", "residual N^-1/2", "residual 1/N")
first_order = {arm: [float(s[0]) for s in gradient_sums(torch.device("cpu"), arm, 6, [5], 16, 12)[:2]] for arm in tested_arms}
first_error = max(abs(real / first - 1) for arm in tested_arms for real, first in zip(real_decrease(arm, 6), first_order[arm], strict=True))
wide = [float(gradient_sums(torch.device("cpu"), "plain ReLU", n, list(range(8)), 256, 16)[0].median()) for n in (4, 8, 16)]
wide_slope = metrics.loglog_slope((4, 8, 16), wide).slope
relu_medians = medians(e1_record.result, "plain ReLU", "SGD")
relu_logs = np.array([np.median(np.log(row["SGD"])) - math.log(int(n)) for n, row in e1_record.result["plain ReLU"].items()])
relu_drift = float(np.polyfit(e1_record.config["depths"], relu_logs, 1)[0])
e1_scope = f"{len(e1_record.config['seeds'])} seeds, N = 8 to 256, d = 64, {recorded_on(e1_record)}"
predicted = {
    ("orthogonal linear", "SGD"): 1,
    ("orthogonal linear", "Adam"): 1,
    ("residual N^-1/2", "SGD"): 0,
    ("residual N^-1/2", "Adam"): 0.5,
    ("residual 1/N", "SGD"): -1,
    ("residual 1/N", "Adam"): 0,
}
farthest = lambda found: max(abs(found[key].slope - want) for key, want in predicted.items())
slope_checks = lambda keys, found, width, **more: [
    ledger.less(
        f"{arm}, {term}: slope minus {predicted[arm, term]:g}, modulus",
        abs(found[arm, term].slope - predicted[arm, term]),
        width,
        digits=2,
        **more,
    )
    for arm, term in keys
]

# %% tags=["hide-input"]
nb.experiment(
    "E1",
    "The first-order decrease of the loss in one step grows like N in a plain linear net, is level for ε = N^(−1/2) and falls like 1/N for ε = 1/N.",
    "verified",
    holds=[
        ledger.less(
            "real steps over the two sums, four arms: largest relative error",
            first_error,
            1e-3,
            digits=2,
            machine=True,
            scope="N = 6, d = 16",
        ),
        ledger.close("mean square of the inputs", float(task_x.square().mean()), 1, abs=0.02, digits=3, machine=True),
        ledger.close("64 times the mean square of the head", 64 * float(task_head.square().mean()), 1, abs=0.04, digits=3, machine=True),
        ledger.close("labels: classes in use", len(set(task_y[0].tolist())), 10, abs=0.5, digits=2),
        ledger.close("orthogonal linear: norm of the last state over that of the inputs", kept_norm, 1, rel=1e-5, digits=5, machine=True),
        ledger.less(
            "six slopes (three nets, SGD and Adam) minus the prediction, largest modulus", farthest(slopes), 0.08, digits=2, scope=e1_scope
        ),
        ledger.less("the same, live", farthest(live_slopes), 0.2, digits=2, machine=True, scope="cpu, 16 seeds, N = 8 to 64"),
    ],
)
nb.claim(
    "C1",
    "In a plain network the decrease of the loss in one step is proportional to the number of layers.",
    "partly",
    holds=[ledger.close("slope, orthogonal linear net", slopes["orthogonal linear", "SGD"].slope, 1, abs=0.1, digits=3, scope=e1_scope)],
    fails=[
        ledger.less("slope, orthogonal tanh net", slopes["orthogonal tanh", "SGD"].slope, 0.15, digits=2, scope=e1_scope),
        ledger.less("slope, Gaussian tanh net", slopes["plain tanh", "SGD"].slope, 0.15, digits=2, scope=e1_scope),
        ledger.less(
            "live: orthogonal tanh", live_slopes["orthogonal tanh", "SGD"].slope, 0.2, digits=2, machine=True, scope="cpu, 16 seeds"
        ),
    ],
)
nb.claim(
    "C2",
    "A plain He-initialised ReLU net follows the same law.",
    "partly",
    holds=[ledger.close("slope at d = 256 for N ≪ d, N = 4 to 16", wide_slope, 1, abs=0.25, digits=2, machine=True, scope="live, 8 seeds")],
    fails=[
        ledger.less(
            "d = 64: typical value at N = 256 over that at N = 8", relu_medians[-1] / relu_medians[0], 0.3, digits=2, scope=e1_scope
        ),
        ledger.close("drift a layer of log(Σ‖g‖²/N), against D4's at d = 64", relu_drift, drift(64), rel=0.15, digits=2, scope=e1_scope),
    ],
)
nb.claim(
    "C5",
    "In a residual net the gradients are proportional to ε; at ε = 1/√N their squares sum to a constant.",
    "verified",
    holds=[
        *slope_checks([k for k in predicted if k[0].startswith("residual")], slopes, 0.08, scope=e1_scope),
        ledger.more(
            "ε = 1 explodes: median of Σ‖g‖² at N = 32", medians(e1_record.result, "residual 1", "SGD")[2], 1e9, digits=2, scope=e1_scope
        ),
    ],
)

# %% [markdown]
# **What we saw.** The linear net and the residual nets have the exponents of the argument, for both optimisers. The post counts for SGD, and there $1/\sqrt N$
# is the answer. What Adam's first step does is a *sum of moduli*, which is level at $\varepsilon=1/N$, CompleteP's exponent
# {cite}`dey2025completep`; at $1/\sqrt N$ Adam's rate should itself fall like $1/\sqrt N$, as depth-muP has it {cite}`yang2023tp6`. ([One plane](deepnet.ipynb) shows
# both as lines.) Which of the two budgets training asks for, these sums at the first step do not say.
#
# Nonlinear plain nets do not follow. The typical gradient of a He-ReLU net *shrinks*, by the drift of D4: "every gradient is $O(1)$" holds in the mean and while
# $N\ll d$. And the tanh nets, without any multiplier, have the level SGD sum of $\varepsilon=N^{-1/2}$, and its Adam slope.
#
# ### How a tanh net does it
#
# With variance $1/d$, or orthogonal matrices, a tanh contracts. Its input has mean square $q_l=\lVert h_l\rVert^2/d$, and to leading order
#
# $$q_{l+1}=\mathbb E\tanh^2=q_l-2q_l^2,\quad q_l\to\frac1{2l},\qquad\lVert\delta_l\rVert^2=(1-2q_l)\lVert\delta_{l+1}\rVert^2,\quad\lVert\delta_l\rVert^2=\frac lN\lVert\delta_N\rVert^2 .$$
#
# So $\lVert g_l\rVert^2=\lVert h\rVert^2\lVert\delta\rVert^2=\frac d{2N}\lVert\delta_N\rVert^2$ in *every* layer: gradients of size $1/\sqrt N$, level in $l$. The
# price is the signal, which shrinks like $1/\sqrt{2N}$.

# %% tags=["hide-input"]
scale = sp.Symbol("s", positive=True)  # scale^2 = q
normal_mean = lambda polynomial: sp.Integral(polynomial * normal(z, sp.Integer(1)), (z, -sp.oo, sp.oo))
in_series = lambda f: sp.series(f, scale, 0, 5).removeO()
tanh_norms = metrics.loglog_slope([int(n) for n in e1_record.result["orthogonal tanh"]], norms["orthogonal tanh"]).slope
nb.claim(
    "X6",
    "A plain tanh net has gradients of size 1/√N in every layer and a level SGD sum, and pays with a signal that shrinks like 1/√(2N).",
    "verified",
    holds=[
        sym.identity("E tanh² to order q²", normal_mean(in_series(sp.tanh(scale * z) ** 2)), scale**2 - 2 * scale**4),
        sym.identity(
            "E (tanh′)² to order q", normal_mean(sp.series((1 - sp.tanh(scale * z) ** 2) ** 2, scale, 0, 4).removeO()), 1 - 2 * scale**2
        ),
        sym.identity("q = 1/(2l) solves dq/dl = −2q²", sp.Derivative(1 / (2 * depth), depth), -2 * (1 / (2 * depth)) ** 2),
        sym.enumeration(
            "the factors 1 − 2q_k from the top down to layer l multiply to l/N, (l, N)",
            [(1, 4), (3, 7), (5, 20)],
            lambda c: sp.prod([1 - 2 * sp.Rational(1, 2 * k) for k in range(c[0] + 1, c[1] + 1)]),
            lambda c: sp.Rational(*c),
        ),
        ledger.close(
            "norm at N = 256 over √(d/(2N))", norms["orthogonal tanh"][-1] / math.sqrt(64 / 512), 1, abs=0.15, digits=3, scope=e1_scope
        ),
        ledger.close("exponent of the norm", tanh_norms, -0.5, abs=0.08, digits=2, scope=e1_scope),
        ledger.less("exponent of Σ‖g‖², modulus", abs(slopes["orthogonal tanh", "SGD"].slope), 0.1, digits=2, scope=e1_scope),
        ledger.close("exponent of Σ‖g‖₁", slopes["orthogonal tanh", "Adam"].slope, 0.5, abs=0.1, digits=2, scope=e1_scope),
    ],
)

# %% [markdown]
# ### Are residuals the only way?
#
# "A plain network cannot tie its gradients to the depth" (C4) is true where both signals are held, the head is standard and the weights themselves are learned
# (D3). Give up one of these and it can: the tanh net lets its *signal* shrink; a *last layer* divided by $\sqrt N$ keeps all hidden signals and gives up the size
# of the logits; and $W=sV$ with $V$ learned leaves the function as it is and makes $V$'s gradient $s$ times that of $W$, which is no more than a learning rate of $s^2$.


# %% tags=["hide-input"]
def scaled_head(N, seeds=(0, 1, 2, 3)):
    """Median of the sum of squared gradients of the plain linear net with its head divided by sqrt(N)."""
    init = nn.Init(list(seeds))
    x, head, y = random_task(init, 64, 32)
    W = draw_layers("orthogonal linear", init, N, 64)[0].double().requires_grad_()
    nn.cross_entropy_per_run(torch.bmm(last_state(x, "orthogonal linear", [W]), head / math.sqrt(N)), y).sum().backward()
    return float(W.grad.square().sum((1, 2, 3)).median())


def reparametrised(s):
    """Squared gradient of V over that of W for W = s V, and the largest difference of the logits, three layers of width 8."""
    W = draw_layers("plain tanh", nn.Init([1]), 3, 8)[0].double()
    h, sums, outs = gaussian(1, 5, 8), [], []
    for scale in (1.0, s):
        V = (W / scale).requires_grad_()
        outs.append(last_state(h, "plain tanh", [scale * V]))
        outs[-1].square().sum().backward()
        sums.append(float(V.grad.square().sum()))
    return sums[1] / sums[0], float((outs[0] - outs[1]).detach().abs().max())


head_slope = metrics.loglog_slope((8, 16, 32, 64), [scaled_head(n) for n in (8, 16, 32, 64)]).slope
factor_of_s, moved_logits = reparametrised(0.25)
nb.claim(
    "C4",
    "A plain network cannot tie its gradients to the depth.",
    "partly",
    holds=[
        sym.enumeration(
            "both signals held: the backward factor of D3 knows no depth, widths 6 but at the ends",
            [(2, 6, 5), (3, 6, 6, 4), (3, 6, 6, 6, 7)],
            lambda c: backward_through(c, half),
            lambda c: sp.Rational(c[-1], c[0]),
        )
    ],
    fails=[
        ledger.less(
            "tanh, the signal given up: exponent of Σ‖g‖², modulus",
            abs(slopes["orthogonal tanh", "SGD"].slope),
            0.1,
            digits=2,
            scope=e1_scope,
        ),
        ledger.close("W = sV, s = ¼: squared gradient of V over that of W", factor_of_s, 1 / 16, rel=1e-6, digits=4),
        ledger.less("the outputs move by", moved_logits, 1e-12, machine=True),
        ledger.less(
            "last layer divided by √N: modulus of the slope of Σ‖g‖²", abs(head_slope), 0.15, digits=2, machine=True, scope="live, 4 seeds"
        ),
    ],
)

# %% [markdown]
# ## E2: growth, the worst direction, angles
#
# **Question.** Do D7 to D10 describe the networks of the last section? **Set-up.** Networks at initialisation, wide, each layer drawn as it comes; for
# the worst direction plain products $\prod(I+\varepsilon G_l)$. **Expected.** $\sqrt e$; the edge of D8; $44.4/l^2$; $e^{\sqrt{N/\pi}}$.


# %%
def walk(arm, init, N, d, rows, device):
    """h_0, .., h_N of one arm at initialisation, (R, rows, d), drawing each layer as it comes; h_0 has orthogonal rows of norm sqrt(d)."""
    h = (orthogonal(init.normal(d, d).detach())[:, :rows] * math.sqrt(d)).to(device)
    yield h
    for _ in range(N):
        h = layer(h, arm, [W[:, 0].to(device) for W in draw_layers(arm, init, 1, d)], N)
        yield h


def growth(device, *, arms, depths, seeds, d, rows):
    """||h_N|| / ||h_0||, averaged over rows: (depths, seeds) for each arm."""
    last = lambda arm, N: deque(walk(arm, nn.Init(seeds), N, d, rows, device), maxlen=1).pop().double()
    return {arm: torch.stack([(last(arm, N).norm(dim=-1) / math.sqrt(d)).mean(1) for N in depths]) for arm in arms}


def angles(device, *, arms, depth, seeds, d, rows):
    """1 - cosine of two different inputs, averaged over all pairs of rows and the seeds, after each layer: (depth + 1,) for each arm."""
    result = {}
    for arm in arms:
        result[arm] = []
        for h in walk(arm, nn.Init(seeds), depth, d, rows, device):
            u = F.normalize(h.double(), dim=-1)
            squares = (u.unsqueeze(1) - u.unsqueeze(2)).square().sum(-1)  # |u - v|^2 = 2 (1 - cos)
            result[arm].append(float(squares.sum() / (2 * len(seeds) * rows * (rows - 1))))
    return result


# %%
def products(device, *, ts, N, seeds, d, bins):
    """Squared singular values of (I + eps G_1) .. (I + eps G_N), eps^2 = t/N, entries of G N(0, 1/d): extremes, and a histogram of logs.

    For each t the largest and the smallest (seeds,), and how many of all lie in each of ``bins`` equal bins of log sigma^2 / log edge(t)
    between -1.2 and 1.2.
    """
    result = {}
    for t in ts:
        init = nn.Init(seeds)
        P = torch.eye(d, dtype=torch.float64, device=device).expand(len(seeds), d, d)
        for _ in range(N):
            P = P + math.sqrt(t / N) * torch.bmm(P, init.normal(d, d, std=1 / math.sqrt(d)).detach().double().to(device))
        squares = torch.linalg.svdvals(P).square().cpu()
        counts = torch.histc(squares.log() / math.log(edge(t)), bins, -1.2, 1.2)
        result[str(t)] = {"largest": squares[:, 0], "smallest": squares[:, -1], "counts": counts}
    return result


# %%
e2_width = nb.at_scale(cpu=200, gpu=512, full=512)
e2_depths = [25, 50, 100, 200, 400]
e2_arms = ["residual N^-1/2", "residual 1/N", "ReLU-ended N^-1/2"]
e2_seeds = [0, 1, 2]
e2 = nb.run("E2", growth, arms=e2_arms, depths=e2_depths, seeds=e2_seeds, d=e2_width, rows=8)
e2b = nb.run("E2b", products, ts=[0.25, 1.0, 2.0], N=100, seeds=e2_seeds, d=nb.at_scale(cpu=160, gpu=800, full=400), bins=48)
e2c = nb.run("E2c", angles, arms=["plain ReLU", *e2_arms], depth=nb.at_scale(cpu=60, gpu=200, full=200), seeds=e2_seeds, d=e2_width, rows=8)
e2_record, e2b_record, e2c_record = (nb.recorded(id) for id in ("E2", "E2b", "E2c"))
e2_mean = {arm: np.mean(e2_record.result[arm], 1) for arm in e2_arms}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, growth of the norm in 512 dimensions at multiplier one over root N, over the root of e, against the number of layers: within one or two per cent of one from 25 to 400 layers. Right, logarithm of the growth against the root of N: the ReLU-ended branch lies on the straight line of slope one over root pi, the branch with a linear end is flat at one half."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6))
ns = np.arange(10, 401)
left.errorbar(
    e2_depths,
    e2_mean["residual N^-1/2"] / math.exp(0.5),
    np.std(e2_record.result["residual N^-1/2"], 1, ddof=1) / math.exp(0.5),
    color=BLUE,
    marker="s",
    ms=5,
    capsize=2,
    label=f"d = {e2_record.config['d']}, recorded (bars: SD)",
)
left.axhline(1, color=GREY, lw=1, ls=":")
left.set(xlabel="layers N", ylabel=r"growth of the norm over $\sqrt{e}$", ylim=(0.9, 1.25))
left.set_title(r"$\varepsilon=N^{-1/2}$, linear end ($d=1$: $13{,}781$ at $N=100$)", fontsize=9)
left.legend(loc="upper right", fontsize=8)
roots = np.sqrt(ns)
right.plot(roots, roots / math.sqrt(math.pi) + 0.25 - 0.75 / math.pi - math.log(2), color=BLACK, lw=1, label="D10: $\\sqrt{N/\\pi}-0.68$")
for arm in ("ReLU-ended N^-1/2", "residual N^-1/2"):
    right.plot(np.sqrt(e2_depths), np.log(e2_mean[arm]), **{**look(arm), "ls": ""})
    right.plot(np.sqrt(e2_depths), np.log(np.mean(e2[arm], 1)), ls="", marker="o", ms=10, mfc="none", mec=STYLE[arm][0])
right.set(xlabel=r"$\sqrt{N}$", ylabel=r"$\log\|x_N\|/\|x_0\|$")
right.set_title("where the branch ends (circles: live)", fontsize=10)
right.legend(loc="upper left", fontsize=8)
heading(figure, "In high dimension 1/√N suffices, unless the branch ends in a ReLU")
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, histograms of the logarithm of the squared singular values of the product of 100 factors for t equal to 0.25, 1 and 2, filling the exact density curves and ending at the exact edges, 3.05 for t = 1. Right, log-log: one minus the cosine of two inputs against the layer. The plain ReLU net follows 44.4 over l squared; residual networks stay level near 0.75 and 1."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6))
for s, color, style in ((0.25, GREEN, "-."), (1.0, BLUE, "-"), (2.0, ORANGE, "--")):
    counts = np.array(e2b_record.result[str(s)]["counts"])
    bars = np.linspace(-1.2, 1.2, len(counts) + 1) * math.log(edge(s))
    left.stairs(counts / counts.sum() / np.diff(bars), bars, color=color, alpha=0.45, fill=True)
    left.plot(*grids[s], color=color, ls=style, label=f"t = {s:g}: edge {edge(s):.3g}")
    left.axvline(math.log(edge(s)), color=color, lw=1, ls=":")
left.set(xlabel=r"$\log\sigma^2$", ylabel="density")
left.set_title("singular values of the product", fontsize=10)
left.set_ylim(0, 0.52)
left.legend(fontsize=6, loc="upper center", ncols=3, handlelength=1.2, columnspacing=0.8)
for arm in ("plain ReLU", "residual N^-1/2", "residual 1/N"):
    right.plot(
        e2c_record.result[arm][1:] and range(1, len(e2c_record.result[arm])), e2c_record.result[arm][1:], **{**look(arm), "marker": ""}
    )
steps = np.arange(5, 201)
right.plot(steps, 4.5 * math.pi**2 / steps**2, color=BLACK, lw=1, ls=":", label=r"$9\pi^2/2l^2$")
right.set(xscale="log", yscale="log", xlabel="layer l (log axis)", ylabel=r"$1-\cos$ of two inputs (log axis)", ylim=(5e-4, 3))
right.set_title("angles", fontsize=10)
right.legend(fontsize=8, loc="lower left")
heading(figure, "Even the worst direction is bounded; the residual keeps inputs apart")
nb.show(figure)

# %% tags=["hide-input"]
e2_scope = f"d = {e2_record.config['d']}, {len(e2_record.config['seeds'])} seeds, {recorded_on(e2_record)}"
e2b_scope = f"d = {e2b_record.config['d']}, N = 100, 3 seeds, {recorded_on(e2b_record)}"
cpu = torch.device("cpu")
finite = {
    d: products(cpu, ts=[1.0], N=100, seeds=range(100, 100 + k), d=d, bins=2)["1.0"]["largest"]
    for d, k in ((25, 200), (50, 128), (100, 96))
}
finite[e2b_record.config["d"]] = torch.tensor(e2b_record.result["1.0"]["largest"], dtype=torch.float64)
top = {d: [float(m) for m in metrics.mean_stderr(values)] for d, values in finite.items()}
(_, extrapolated), spread = np.polyfit(
    [d ** (-2 / 3) for d in top], [m for m, _ in top.values()], 1, w=[1 / e for _, e in top.values()], cov="unscaled"
)
nb.results(
    "E2b",
    "The largest σ² at t = 1, N = 100, for finite width (mean ± s.e.), and a straight line in d^(−2/3) through them",
    ["d", "draws", "largest σ²"],
    [[d, len(finite[d]), f"≈{m:.2f} ± {e:.2f}"] for d, (m, e) in top.items()]
    + [["∞", "line", f"≈{extrapolated:.2f} ± {math.sqrt(spread[1, 1]):.2f}"], ["∞", "D8", f"{edge(1.0):.2f}"]],
)


def products_by_hand(t, N, seed, d):
    """The squared singular values of :func:`products`, largest first, as eigenvalues of P P^T from numpy's loop."""
    init, P = nn.Init([seed]), np.eye(d)
    for _ in range(N):
        P = P @ (np.eye(d) + math.sqrt(t / N) * init.normal(d, d, std=1 / math.sqrt(d)).detach().double().numpy()[0])
    return np.linalg.eigvalsh(P @ P.T)[::-1]


tiny_products = products(cpu, ts=[0.7], N=3, seeds=[8], d=6, bins=2)["0.7"]
tiny_wanted = products_by_hand(0.7, 3, 8, 6)
walk_error = max(
    float(np.abs(torch.cat(list(walk(arm, nn.Init([6]), 3, 5, 2, cpu))).double().numpy() - walk_by_hand(arm)).max())
    for arm in ("plain ReLU", "residual N^-1/2", "ReLU-ended N^-1/2")
)
e2c_scope = f"d = {e2c_record.config['d']}, {len(e2c_record.config['seeds'])} seeds, {recorded_on(e2c_record)}"
norm_slope = (math.log(e2_mean["ReLU-ended N^-1/2"][-1]) - math.log(e2_mean["ReLU-ended N^-1/2"][-2])) / (math.sqrt(400) - math.sqrt(200))
live_norms = {arm: np.mean(e2[arm], 1) for arm in e2_arms}
inside = lambda run, s: float(np.mean(run[str(s)]["largest"]))
plain_live = e2c["plain ReLU"]


def ks_distance(counts, s):
    """Largest difference of the distribution functions: the histogram's and the density's, at the bin edges."""
    counts = np.array(counts)
    bars = np.linspace(-1.2, 1.2, len(counts) + 1) * math.log(edge(s))
    order = np.argsort(grids[s][0])
    x, f = grids[s][0][order], grids[s][1][order]
    cumulative = np.concatenate([[0], np.cumsum(np.diff(x) * (f[1:] + f[:-1]) / 2)])
    return float(np.abs(np.interp(bars, x, cumulative) - np.concatenate([[0], np.cumsum(counts) / counts.sum()])).max())


# %% tags=["hide-input"]
nb.experiment(
    "E2",
    "Growth √e from 25 to 400 layers for a branch with a linear end, exp(√(N/π)) for one that ends in a ReLU.",
    "verified",
    holds=[
        ledger.less(
            "states against a loop, three nets of three layers, largest difference",
            walk_error,
            1e-5,
            digits=1,
            machine=True,
            scope="float32",
        ),
        ledger.less(
            "linear end, N = 25 to 400: growth over (1 + 1/N)^(N/2) minus 1, largest modulus",
            max(abs(g / (1 + 1 / n) ** (n / 2) - 1) for g, n in zip(e2_mean["residual N^-1/2"], e2_depths, strict=True)),
            0.03,
            digits=2,
            scope=e2_scope,
        ),
        ledger.less(
            "ReLU end: log of the growth minus D10's recursion, largest modulus",
            max(abs(math.log(g / pushed(n, n**-0.5))) for g, n in zip(e2_mean["ReLU-ended N^-1/2"], e2_depths, strict=True)),
            0.08,
            digits=2,
            scope=e2_scope,
        ),
        ledger.close(
            "slope of the log over √N from 200 to 400, against 1/√π", norm_slope, 1 / math.sqrt(math.pi), abs=0.02, digits=4, scope=e2_scope
        ),
        ledger.close(
            "live: linear end, N = 400",
            float(live_norms["residual N^-1/2"][-1]),
            math.exp(0.5),
            rel=0.12,
            digits=3,
            machine=True,
            scope="d = 200, 3 seeds",
        ),
        ledger.close(
            "live: ReLU end, N = 400, log",
            math.log(live_norms["ReLU-ended N^-1/2"][-1]),
            math.log(pushed(400, 0.05)),
            abs=0.3,
            digits=3,
            machine=True,
            scope="d = 200, 3 seeds",
        ),
        ledger.close(
            "live: ε = 1/N, N = 400", float(live_norms["residual 1/N"][-1]), 1, abs=0.03, digits=3, machine=True, scope="d = 200, 3 seeds"
        ),
    ],
)
nb.experiment(
    "E2b",
    "The singular values of ∏(I + εG) fill the density of D8 and end at its edges.",
    "verified",
    holds=[
        ledger.close("by hand, d = 6: largest σ²", float(tiny_products["largest"][0]), tiny_wanted[0], rel=1e-6, digits=5, machine=True),
        ledger.close("and the smallest", float(tiny_products["smallest"][0]), tiny_wanted[-1], rel=1e-6, digits=5, machine=True),
        sym.monte_carlo(
            "line in d^(−2/3) at d = ∞ against the edge, t = 1",
            float(extrapolated),
            math.sqrt(spread[1, 1]),
            edge(1.0),
            sigmas=3,
            draws=427,
            effect=2.5,
        ),
        *[
            ledger.close(f"σ²_max, t = {s}", inside(e2b_record.result, s), edge(s), rel=0.07, digits=4, scope=e2b_scope)
            for s in (0.25, 1.0, 2.0)
        ],
        ledger.less(
            "σ²_max σ²_min minus 1, largest modulus over t",
            max(abs(inside(e2b_record.result, s) * float(np.mean(e2b_record.result[str(s)]["smallest"])) - 1) for s in (0.25, 1.0, 2.0)),
            0.05,
            digits=2,
            scope=e2b_scope,
        ),
        ledger.less(
            "largest distance to the distribution of D8, over t",
            max(ks_distance(e2b_record.result[str(s)]["counts"], s) for s in (0.25, 1.0, 2.0)),
            0.01,
            digits=2,
            scope=e2b_scope,
        ),
        ledger.less(
            "live: the same",
            max(ks_distance(e2b[str(s)]["counts"], s) for s in (0.25, 1.0, 2.0)),
            0.03,
            digits=2,
            machine=True,
            scope="d = 160, 3 seeds",
        ),
        ledger.close("live: σ²_max, t = 1", inside(e2b, 1.0), edge(1.0), rel=0.2, digits=3, machine=True, scope="d = 160, 3 seeds"),
    ],
)
nb.experiment(
    "E2c",
    "A plain ReLU net turns all inputs into one direction, 1 − ρ → 44.4/l²; a residual net keeps them apart.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"plain ReLU, l = {l}: 1 − ρ over the iterated κ",
                e2c_record.result["plain ReLU"][l] / plain_gap[l],
                1,
                abs=0.12,
                digits=3,
                scope=e2c_scope,
            )
            for l in (10, 30)
        ],
        ledger.close(
            "residual, ε = N^(−1/2): 1 − ρ at the end",
            e2c_record.result["residual N^-1/2"][-1],
            1 - end_cosine,
            rel=0.03,
            digits=3,
            scope=e2c_scope,
        ),
        ledger.close(
            "live: plain ReLU, l = 30, over the iterated κ",
            plain_live[30] / plain_gap[30],
            1,
            abs=0.3,
            digits=2,
            machine=True,
            scope="d = 200, 3 seeds",
        ),
        ledger.close(
            "live: residual, ε = N^(−1/2)",
            e2c["residual N^-1/2"][-1],
            1 - end_cosine,
            rel=0.05,
            digits=3,
            machine=True,
            scope="d = 200, 3 seeds",
        ),
        ledger.close("live: residual, ε = 1/N", e2c["residual 1/N"][-1], 1, abs=0.03, digits=3, machine=True, scope="d = 200, 3 seeds"),
    ],
)
nb.claim(
    "C8",
    "In high dimension a layer multiplies the norm's square by 1 + O(ε²), so that N layers give a constant at ε = 1/√N.",
    "verified",
    holds=[
        ledger.close(
            "growth of the square at N = 400, against e",
            float(e2_mean["residual N^-1/2"][-1]) ** 2,
            math.e,
            rel=0.05,
            digits=4,
            scope=e2_scope,
        )
    ],
)

# %% tags=["hide-input"]
W1, W2 = (W[0, 0].double() for W in draw_layers("residual 1", nn.Init([9]), 1, 256))
at_x, v_rows = gaussian(400, 256), gaussian(400, 256)
branch_rows = (v_rows @ W2.T * (at_x @ W1 > 0)) @ W1.T  # v J^T of f = relu(x W1) W2 at each x
cosines = F.cosine_similarity(v_rows, branch_rows, dim=1)
chained = torch.autograd.grad((torch.relu((leaf := at_x.clone().requires_grad_()) @ W1) @ W2 * v_rows).sum(), leaf)[0]
nb.claim(
    "C9",
    "A backward signal v and its branch part vJ are nearly orthogonal in high dimension (at initialisation).",
    "verified",
    holds=[
        ledger.less(
            "the product of matrices against autograd, largest relative difference",
            float((chained - branch_rows).norm() / chained.norm()),
            1e-10,
            machine=True,
        ),
        sym.monte_carlo("mean cosine, d = 256", *(float(m) for m in metrics.mean_stderr(cosines)), 0.0, draws=400, effect=0.05),
        ledger.close("√d times its standard deviation", 16 * float(cosines.std()), 1, abs=0.15, digits=2, machine=True),
    ],
)

# %% [markdown]
# **What we saw.** The laws of growth hold to a few per cent, the ReLU-ended one with its constant. The largest $\sigma^2$ is low by 2 to 5 %, and more for smaller $d$,
# as the edge of a random spectrum is: the table extrapolates in $d^{-2/3}$. The branches of Transformers and of pre-activation ResNets end in a linear map, as
# $1/\sqrt N$ needs.

# %% [markdown]
# ## E3: does it train?
#
# **Question.** Are deep plain nets bad, and is it the increment that makes them so? **Set-up.** Handwritten digits ($8\times8$ pixels, 1,400 to
# train, 397 to test), width 64, input map and head trained too, Adam, 80 steps of 64, no warm-up, no normalisation, no biases. *Every* arm of E3 tries the
# same seven learning rates, a factor of four apart, on three seeds; its best is the rate of least training loss. E3c adds the orthogonal linear net and
# $\varepsilon=1$, on three fresh seeds, with rates a factor of two apart around each optimum (four apart for $\varepsilon=1$). (A residual layer has two matrices, a plain one
# has one: depth is compared, not parameters.) We call a net *bad* if at its best rate it stays behind logistic regression.
#
# **Expected.** Plain ReLU worst, for it does not even see its input (D4). By E1 the tanh nets have no growing increment: what they lose, they lose by their
# signal. The post's own mechanism is tested by the orthogonal *linear* net: signals and angles intact, both increments $\propto N$. It should need a rate
# $\propto1/N$; can it then learn?


# %%
def digits_task(seed=0):
    """Digits: features (1797, 64) standardised and scaled to norm 8, labels, and how many of the rows are for training."""
    images, labels = data.digits8x8()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, n = images.flatten(1)[order], 1400
    x = (x - x[:n].mean(0)) / (x[:n].std(0) + 1e-6)
    return 8 * F.normalize(x, dim=1), labels[order], n


def draw_network(arm, init, N, d):
    """All matrices of a classifier: input map (R, 64, d), hidden layers as :func:`draw_layers` gives them, head (R, d, 10)."""
    return [init.normal(64, d, std=1 / 8).detach(), *draw_layers(arm, init, N, d), init.normal(d, 10, std=1 / math.sqrt(d)).detach()]


def logits(x, arm, network):
    """Features x (R, B, 64) -> (R, B, 10)."""
    first, *hidden, head = network
    return torch.bmm(last_state(torch.bmm(x, first), arm, hidden), head)


def batches(device, x, y, seeds, rates, batch, steps):
    """A function of the step that gives (rates * seeds, batch, 64) features and their labels: every arm and rate sees the same ones."""
    draws = [torch.randint(len(x), (steps, batch), generator=torch.Generator().manual_seed(1000 + seed)) for seed in seeds]
    picks = torch.stack(draws).repeat(len(rates), 1, 1)  # run = rate * seeds + seed
    return lambda step: (x[picks[:, step]].to(device), y[picks[:, step]].to(device))


# %%
def train_arm(device, arm, N, rates, seeds, d, batch, steps, warmup):
    """Train one arm at all rates and seeds in one pass under Adam, ``warmup`` being a share of the steps; the network and the task."""
    x, y, n = digits_task()
    network = draw_network(arm, nn.Init(seeds), N, d)
    network = [W.repeat(len(rates), *[1] * (W.ndim - 1)).to(device).requires_grad_() for W in network]
    rise = max(1, round(warmup * steps))
    with contextlib.suppress(FloatingPointError):  # every run has diverged: the score will say so
        train.fit_graphed(
            lambda x, y: nn.cross_entropy_per_run(logits(x, arm, network), y),
            batches(device, x[:n], y[:n], seeds, rates, batch, steps),
            optim.StackedAdam(network, torch.tensor(rates).repeat_interleave(len(seeds))),
            steps,
            schedule=lambda step, steps: min(1.0, (step + 1) / rise),
        )
    return network, x, y, n


# %%
@torch.no_grad()
def score(network, arm, x, y, n):
    """Training loss (clipped at 100, where it also counts as diverged) and test accuracy of each run."""
    device = network[0].device
    z = logits(x.to(device).expand(len(network[0]), *x.shape), arm, network)
    labels = y.to(device).expand(len(z), -1)
    loss = nn.cross_entropy_per_run(z[:, :n], labels[:, :n]).nan_to_num(100.0).clamp(max=100.0)
    return loss, (z[:, n:].argmax(-1) == labels[:, n:]).float().mean(1)


# %%
def trained(device, *, arms, depths, rates, seeds, d, batch, steps, warmup):
    """Training loss and test accuracy, both (rates, seeds), of each depth and arm; ``rates`` is one list, or one for each [depth][arm]."""
    result = {}
    for N in depths:
        for arm in arms:
            mine = rates if isinstance(rates, list) else rates[str(N)][arm]
            network, x, y, n = train_arm(device, arm, N, mine, seeds, d, batch, steps, warmup)
            loss, accuracy = score(network, arm, x, y, n)
            shape = len(mine), len(seeds)
            result.setdefault(str(N), {})[arm] = {"loss": loss.view(shape), "accuracy": accuracy.view(shape)}
    return result


# %%
e3_arms = ["plain ReLU", "plain tanh", "orthogonal tanh", "residual N^-1/2", "residual 1/N", "ReLU-ended N^-1/2", "ReLU-ended 1/N"]
rates = [1e-5 * 4**k for k in range(7)]
size = {"d": 64, "batch": 64, "steps": 80}
e3_depths = nb.at_scale(cpu=[50], gpu=[25, 50, 100, 200], full=[25, 50, 100, 200])
best_of = lambda N, arm: at_best(nb.recorded("E3"), N, arm)[0]
e3_rates = nb.at_scale(cpu={"50": {arm: [best_of(50, arm)] for arm in e3_arms}} if nb.scale == "cpu" else None, gpu=rates, full=rates)
e3_seeds = nb.at_scale(cpu=[10, 11, 12], gpu=[0, 1, 2], full=[0, 1, 2])
e3 = nb.run("E3", trained, arms=e3_arms, depths=e3_depths, rates=e3_rates, seeds=e3_seeds, warmup=0, **size)
e3_record = nb.recorded("E3")
e3_scope = f"3 seeds, seven rates, {recorded_on(e3_record)}"
live_score = {arm: at_best(nb.recorded("E3"), 50, arm)[1] if nb.scale != "cpu" else e3["50"][arm]["accuracy"][0] for arm in e3_arms}
recorded_score = lambda N, arm: at_best(e3_record, N, arm)[1]

# %%
e3c_arms = ["orthogonal linear", "orthogonal tanh", "residual 1", "residual N^-1/2", "residual 1/N"]
fine = {
    "orthogonal linear": [2e-5 * 2**k for k in range(6)],
    "orthogonal tanh": [8e-5 * 2**k for k in range(6)],
    "residual 1": [16e-5 * 4**k for k in range(4)],
    "residual N^-1/2": [32e-5 * 2**k for k in range(5)],
    "residual 1/N": [64e-5 * 2**k for k in range(5)],
}
e3c_depths = nb.at_scale(cpu=[25], gpu=[25, 50, 100], full=[25, 50, 100])
e3c_live = {"orthogonal linear": [16e-5], "residual 1": [256e-5]}
e3c_rates = nb.at_scale(cpu={"25": e3c_live}, gpu={str(n): fine for n in e3c_depths}, full={str(n): fine for n in e3c_depths})
run_arms = list(e3c_rates["25"]) if nb.scale == "cpu" else e3c_arms
e3c_seeds = nb.at_scale(cpu=[10, 11, 12], gpu=[3, 4, 5], full=[3, 4, 5])
e3c = nb.run("E3c", trained, arms=run_arms, depths=e3c_depths, rates=e3c_rates, seeds=e3c_seeds, warmup=0, **size)

# %%
e3c_record = nb.recorded("E3c")
e3c_scope = f"3 seeds, rates ×2 apart, {recorded_on(e3c_record)}"
fine_score = lambda N, arm: at_best(e3c_record, N, arm)[1]
fine_depths = e3c_record.config["depths"]


def best_each(N, arm):
    """The best rate of each seed by itself in E3c: how far the choice of a rate is a matter of the seed."""
    losses = np.array(e3c_record.result[str(N)][arm]["loss"])
    return np.array(e3c_record.config["rates"][str(N)][arm])[losses.argmin(0)]


rate_line = lambda arm: metrics.loglog_slope(np.repeat(fine_depths, 3), np.concatenate([best_each(n, arm) for n in fine_depths]))
rate_slopes = {arm: rate_line(arm).slope for arm in e3c_arms if arm != "residual 1"}

# %% tags=["hide-input"]
from sklearn.linear_model import LogisticRegression

features, digit, n_train = digits_task()
logistic = LogisticRegression(max_iter=300).fit(features[:n_train].numpy(), digit[:n_train].numpy())
logistic_score = float(logistic.score(features[n_train:].numpy(), digit[n_train:].numpy()))
nb.results(
    "E3",
    f"100 layers on digits, each network at its best of seven rates; mean ± s.e. of 3 seeds ({recorded_on(e3_record)}). Logistic regression: {ledger.number(logistic_score, 3, machine=True)}.",
    ["network", "best rate", "training loss", "test accuracy", "accuracy at N = 200"],
    [
        [
            arm,
            f"{at_best(e3_record, 100, arm)[0]:.2g}",
            ledger.with_error(at_best(e3_record, 100, arm, "loss")[1]),
            ledger.with_error(recorded_score(100, arm)),
            ledger.with_error(recorded_score(200, arm)),
        ]
        for arm in e3_arms
    ],
)

nb.results(
    "E3c",
    f"E3c, 100 layers, finer grid; mean ± s.e. of 3 fresh seeds ({recorded_on(e3c_record)}). The exponent is that of each seed's own best rate over N = 25, 50, 100.",
    ["network", "best rate", "training loss", "test accuracy", "exponent of the best rate"],
    [
        [
            arm,
            f"{at_best(e3c_record, 100, arm)[0]:.2g}",
            ledger.with_error(at_best(e3c_record, 100, arm, "loss")[1]),
            ledger.with_error(fine_score(100, arm)),
            f"{rate_slopes[arm]:.2f} ± {rate_line(arm).stderr:.2f}" if arm in rate_slopes else "diverges",
        ]
        for arm in e3c_arms
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: test accuracy against the learning rate for eight networks of 100 layers, log axis. The residual networks reach about 0.96 over a wide range of rates; the orthogonal linear network reaches about 0.93 and orthogonal tanh about 0.9, both at small rates; plain tanh peaks near 0.5, plain ReLU stays at chance. Right: the best rate of four networks against the depth: it falls with slope minus one for the orthogonal linear network and is level for the residual network with one over N."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.8), gridspec_kw={"width_ratios": [1.5, 1]})
for arm in [*e3_arms, "orthogonal linear"]:
    run = e3c_record if arm == "orthogonal linear" else e3_record
    scores = np.array(run.result["100"][arm]["accuracy"])
    left.errorbar(fine[arm] if run is e3c_record else rates, scores.mean(1), scores.std(1, ddof=1), capsize=2, **look(arm))
for arm in rate_slopes:
    each = np.array([best_each(n, arm) for n in fine_depths])
    middle = np.exp(np.log(each).mean(1))
    right.errorbar(fine_depths, middle, np.maximum([middle - each.min(1), each.max(1) - middle], 0), capsize=3, **look(arm))
left.axhline(logistic_score, color=GREY, lw=1, ls=":")
left.annotate("logistic regression", (1e-5, logistic_score), xytext=(0, 3), textcoords="offset points", fontsize=8, color=GREY)
left.set(xscale="log", xlabel="learning rate of Adam (log axis)", ylabel="test accuracy", ylim=(0, 1.08))
left.set_title("N = 100 (bars: SD of 3 seeds)", fontsize=10)
left.set_xlim(7e-6, 3)
left.legend(fontsize=6, loc="center right")
right.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="best rate (log axis)", ylim=(1e-5, 2e-2))
right.set_title("best rate (bars: range)", fontsize=10)
layer_ticks(right, fine_depths)
right.legend(fontsize=6, loc="lower left")
heading(figure, "The plain linear net pays in rate, ∝ 1/N; at ε = 1/N the rate is level")
nb.show(figure)


# %% tags=["hide-input"]
def reference_logits(arm, N, rate, seed, steps, warmup, d=16, batch=12):
    """Logits on the first 20 digits after training one network with torch.optim.Adam, the layers written out."""
    x, y, n = digits_task()
    leaves = [W[0].clone().requires_grad_() for W in draw_network(arm, nn.Init([seed]), N, d)]
    first, *hidden, head = leaves
    picks = torch.randint(n, (steps, batch), generator=torch.Generator().manual_seed(1000 + seed))

    def forward(h):
        h = h @ first
        for l in range(N):
            if arm.startswith("residual"):
                h = h + (h @ hidden[0][l]).clamp(min=0) @ hidden[1][l] / math.sqrt(N)
            elif arm.startswith("ReLU-ended"):
                h = h + (h @ hidden[0][l]).clamp(min=0) / N
            else:
                h = h @ hidden[0][l] if arm.endswith("linear") else torch.tanh(h @ hidden[0][l])
        return h @ head

    optimizer = torch.optim.Adam(leaves)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / max(1, warmup * steps))
        optimizer.zero_grad()
        F.cross_entropy(forward(x[picks[step]]), y[picks[step]]).backward()
        optimizer.step()
    return forward(x[:20]).detach()


def stack_against_reference(arm, warmup):
    """Largest difference of run (rate 1, seed 1) of a stack of two rates and two seeds to the reference, over the latter's size."""
    network, x, _, _ = train_arm(torch.device("cpu"), arm, 4, [1e-3, 4e-3], [5, 7], 16, 12, 6, warmup)
    stacked = logits(x[:20].expand(4, 20, 64), arm, network).detach()
    wanted = {1: reference_logits(arm, 4, 1e-3, 7, 6, warmup), 2: reference_logits(arm, 4, 4e-3, 5, 6, warmup)}
    return max(float((stacked[run] - want).abs().max() / want.abs().max()) for run, want in wanted.items())


stack_errors = [
    stack_against_reference(arm, w)
    for arm, w in (("residual N^-1/2", 0), ("ReLU-ended 1/N", 0), ("orthogonal tanh", 0.5), ("orthogonal linear", 0))
]
raw = data.digits8x8()[0].flatten(1).double().numpy()
shuffle = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).numpy()
standard = (raw[shuffle] - raw[shuffle[:1400]].mean(0)) / (raw[shuffle[:1400]].std(0, ddof=1) + 1e-6)
standard *= 8 / np.linalg.norm(standard, axis=1, keepdims=True)
net, *task = train_arm(torch.device("cpu"), "plain tanh", 2, [1e-2], [0, 1], 16, 32, 15, 0)
z_net = logits(task[0].expand(2, -1, 64), "plain tanh", net).detach().double().numpy()
labels_np = task[1].numpy()
by_loop = [
    (
        np.mean([math.log(np.exp(z[i] - z[i].max()).sum()) + z[i].max() - z[i][labels_np[i]] for i in range(1400)]),
        np.mean([z[i].argmax() == labels_np[i] for i in range(1400, 1797)]),
    )
    for z in z_net
]
scored = score(net, "plain tanh", *task)
first_map, *_, last_map = draw_network("plain tanh", nn.Init(list(range(10))), 1, 64)
toy_row = {"loss": [[1, 9, 9], [3, 3, 3], [4, 4, 4]], "accuracy": [[0.2] * 3, [0.5] * 3, [0.9] * 3]}
toy_run = type("Run", (), {"result": {"7": {"net": toy_row}}, "config": {"rates": {"7": {"net": [0.1, 0.2, 0.4]}}}})
picked = batches(torch.device("cpu"), task[0], task[1], [0, 1], [1, 2], 50, 2)(1)
nb.claim(
    "X2",
    "The stacked training loop is Adam on the plain network run by run; features, batches and scores are what the text says.",
    "verified",
    holds=[
        *[
            ledger.less("logits after six steps against torch.optim.Adam, relative", e, 1e-5, digits=1, machine=True, scope="float32")
            for e in stack_errors
        ],
        ledger.less(
            "features against numpy's", float(np.abs(standard - task[0].numpy()).max()), 1e-4, digits=1, machine=True, scope="float32"
        ),
        *[
            ledger.close(f"run {i}: training loss against a loop", float(scored[0][i]), by_loop[i][0], rel=1e-4, digits=4, machine=True)
            for i in range(2)
        ],
        *[
            ledger.close(f"run {i}: test accuracy against a loop", float(scored[1][i]), by_loop[i][1], abs=1e-6, digits=4, machine=True)
            for i in range(2)
        ],
        ledger.less(
            "all rates see the same batches: largest difference", float((picked[0][:2] - picked[0][2:]).abs().max()), 1e-9, digits=1
        ),
        ledger.close("64 times the variance of the input map", 64 * float(first_map.var()), 1, abs=0.04, digits=3, machine=True),
        ledger.close("64 times the variance of the head", 64 * float(last_map.var()), 1, abs=0.08, digits=3, machine=True),
        ledger.close("the best rate is that of the least mean training loss", at_best(toy_run, 7, "net")[0], 0.2, abs=0.05, digits=2),
        ledger.close("and its accuracy is what counts", at_best(toy_run, 7, "net")[1][0], 0.5, abs=0.05, digits=2),
        ledger.more("and the two seeds different ones", float((picked[0][0] - picked[0][1]).abs().max()), 1, digits=1, machine=True),
    ],
)

# %% tags=["hide-input"]
interior = [e3_record.config["rates"].index(best_of(n, arm)) for n in (25, 50, 100, 200) for arm in e3_arms if arm != "ReLU-ended N^-1/2"]
trained_gap = lambda N, a, b: ledger.better(
    f"accuracy at N = {N}: {a} minus {b}", recorded_score(N, a), recorded_score(N, b), sigmas=2.8, scope=e3_scope
)
fine_gap = lambda N, a, b: ledger.better(
    f"N = {N}, finer grid: {a} minus {b}", fine_score(N, a), fine_score(N, b), sigmas=2.8, scope=e3c_scope
)
fine_index = [fine[arm].index(at_best(e3c_record, n, arm)[0]) / (len(fine[arm]) - 1) for n in fine_depths for arm in rate_slopes]
live_loss = {arm: e3["50"][arm]["loss"][0] if nb.scale == "cpu" else at_best(e3_record, 50, arm, "loss")[1] for arm in e3_arms}
live_gap = lambda a, b: ledger.better(
    f"live, N = 50, training loss: {a} minus {b}", live_loss[a], live_loss[b], scope="3 fresh seeds, rates of the recorded run"
)
nb.experiment(
    "E3",
    "Tuned and at 100 layers: plain ReLU fails, plain tanh learns a little, orthogonal tanh much, and residual nets match logistic regression.",
    "verified",
    holds=[
        *[trained_gap(100, a, b) for b, a in itertools.pairwise(e3_arms[:4])],
        *[
            ledger.more(
                f"{arm}, N = 100: accuracy minus that of logistic regression",
                float(np.mean(recorded_score(100, arm))) - logistic_score,
                -0.02,
                digits=2,
                machine=True,
                scope=e3_scope,
            )
            for arm in e3_arms[3:5]
        ],
        *[live_gap(a, b) for a, b in itertools.pairwise(e3_arms[1:4])],
        *[
            ledger.more(f"live, N = 50: {arm}", float(np.mean(live_score[arm])), 0.92, digits=3, machine=True, scope="3 seeds")
            for arm in e3_arms[3:5]
        ],
        ledger.more(
            "lowest index of a best rate (0 and 6 are the edges), all depths and arms but ReLU-ended at 1/√N",
            min(interior),
            0.5,
            digits=1,
            scope=e3_scope,
        ),
        ledger.less("and the highest", max(interior), 5.5, digits=1, scope=e3_scope),
    ],
)
e3c_now = e3c["25"] if nb.scale == "cpu" else None
live_linear = e3c_now["orthogonal linear"]["accuracy"][0] if e3c_now else fine_score(25, "orthogonal linear")
live_one = e3c_now["residual 1"]["loss"][0] if e3c_now else at_best(e3c_record, 25, "residual 1", "loss")[1]
behind = lambda score: logistic_score - float(np.mean(score))
nb.experiment(
    "E3c",
    "An orthogonal linear net of 100 layers trains, at a rate ∝ 1/N; a residual net with ε = 1 does not, at any of four rates.",
    "verified",
    holds=[
        ledger.less(
            "orthogonal linear, N = 100: logistic regression minus its accuracy",
            behind(fine_score(100, "orthogonal linear")),
            0.05,
            digits=2,
            machine=True,
            scope=e3c_scope,
        ),
        ledger.close("exponent of its best rate", rate_slopes["orthogonal linear"], -1, abs=0.2, digits=2, scope=e3c_scope),
        ledger.more(
            "ε = 1, N = 100: least training loss of all rates and seeds",
            float(np.min(e3c_record.result["100"]["residual 1"]["loss"])),
            10,
            digits=3,
            scope=e3c_scope,
        ),
        ledger.more("lowest best rate within its grid (0 and 1 are the edges), four arms", min(fine_index), 0.1, digits=2, scope=e3c_scope),
        ledger.less("and the highest", max(fine_index), 0.9, digits=2, scope=e3c_scope),
        ledger.more(
            "live, N = 25: orthogonal linear, accuracy", float(np.mean(live_linear)), 0.85, digits=2, machine=True, scope="3 fresh seeds"
        ),
        ledger.more(
            "live, N = 25: ε = 1, training loss", float(np.mean(live_one)), 1, digits=2, machine=True, scope="3 fresh seeds, one rate"
        ),
    ],
)
nb.claim(
    "C11",
    "A deep plain feed-forward net trains badly: at its best rate it stays behind logistic regression.",
    "partly",
    holds=[
        *[
            ledger.more(
                f"{arm}, N = 100: logistic regression minus its accuracy",
                behind(recorded_score(100, arm)),
                0.3,
                digits=2,
                machine=True,
                scope=e3_scope,
            )
            for arm in ("plain ReLU", "plain tanh")
        ],
        ledger.more(
            "orthogonal tanh, N = 100, finer grid: the same",
            behind(fine_score(100, "orthogonal tanh")),
            0.02,
            digits=2,
            machine=True,
            scope=e3c_scope,
        ),
        fine_gap(100, "residual N^-1/2", "orthogonal tanh"),
    ],
    fails=[
        ledger.less(
            "orthogonal linear, N = 100: logistic regression minus its accuracy",
            behind(fine_score(100, "orthogonal linear")),
            0.05,
            digits=2,
            machine=True,
            scope=e3c_scope,
        ),
        ledger.more(
            "orthogonal tanh, 100 layers, finer grid: worst of 3 seeds (chance 0.1)",
            min(fine_score(100, "orthogonal tanh")),
            0.8,
            digits=3,
            scope=e3c_scope,
        ),
    ],
)
nb.claim(
    "X5",
    "Under Adam the exponent of the best rate agrees with the sum of moduli in linear and residual nets (−1; −½ at ε = 1/√N; 0 at 1/N), in the orthogonal tanh net it does not.",
    "verified",
    holds=[
        ledger.close(
            "orthogonal linear: exponent of the best rate", rate_slopes["orthogonal linear"], -1, abs=0.2, digits=2, scope=e3c_scope
        ),
        ledger.close("ε = 1/√N", rate_slopes["residual N^-1/2"], -0.5, abs=0.25, digits=2, scope=e3c_scope),
        ledger.less("ε = 1/N, modulus", abs(rate_slopes["residual 1/N"]), 0.25, digits=2, scope=e3c_scope),
        ledger.less(
            "orthogonal tanh, where the sum of moduli asks for −½", rate_slopes["orthogonal tanh"], -0.8, digits=2, scope=e3c_scope
        ),
    ],
)
nb.claim(
    "X3",
    "C11 is true in degree: at 100 layers a residual net trains better than every plain one, and orthogonal tanh falls behind as it gets deeper.",
    "verified",
    holds=[
        *[fine_gap(100, "residual 1/N", arm) for arm in ("orthogonal tanh", "orthogonal linear")],
        *[trained_gap(100, "residual 1/N", arm) for arm in ("plain ReLU", "plain tanh")],
        ledger.better(
            "orthogonal tanh: training loss at N = 100 minus that at N = 25, finer grid",
            at_best(e3c_record, 100, "orthogonal tanh", "loss")[1],
            at_best(e3c_record, 25, "orthogonal tanh", "loss")[1],
            sigmas=2.8,
            scope=e3c_scope,
        ),
        ledger.less(
            "residual 1/N: the ratio of the two",
            float(
                np.mean(at_best(e3c_record, 100, "residual 1/N", "loss")[1]) / np.mean(at_best(e3c_record, 25, "residual 1/N", "loss")[1])
            ),
            1.3,
            digits=2,
            scope=e3c_scope,
        ),
    ],
)

# %% [markdown]
# **What we saw.** Three different things go by "trains badly".
#
# *Increment:* the linear net has the growing one. It trains, at 25, 50 and 100 layers alike, and its best rate halves with each doubling of the depth, as a sum
# of moduli $\propto N$ asks; on this task, which a linear map all but solves, it pays with nothing else. With $\varepsilon=1$ nothing trains beyond 25 layers:
# there $\varepsilon$ does decide.
#
# *Signal:* the tanh nets have a level SGD sum (X6). The norm of their signal falls like $1/\sqrt{2N}$, and the Gaussian one loses its angles too; orthogonal
# matrices help a good deal. (The best rate of orthogonal tanh also falls like $1/N$, where its sum of moduli asks for $N^{-1/2}$: the count at the first step
# does not explain that net.)
#
# *Blindness:* the plain ReLU net does not see its input. Its training loss at $N=100$ is below $\ln10=2.30$ although its accuracy is chance; we did not look into why.
# So the order of E3 does not test the post's argument; E3c and E5 do.
#
# Dynamical isometry has trained plain nets of 10,000 layers {cite}`xiao2018dynamical`, and tailored Leaky ReLUs do without it {cite}`zhang2022deep`. Depth buys nothing on
# this task; the experiment is about whether depth *hurts*. The ReLU-ended branch with $1/\sqrt N$ starts from exploding activations (D10), and Adam, whose steps do
# not see the size of a gradient, pulls it back some way, best at the highest rate of the grid (so this one arm may be under-tuned at 100 and 200 layers).
#
# ## E4: after training
#
# **Question.** "$v$ and $vJ$ are nearly orthogonal" is true of random matrices. And of trained ones? **Set-up.** The two residual arms at their
# best rates; $\lVert v_0\rVert/\lVert v_N\rVert$ of the backward signal, and the mean cosine of $v$ and $vJ_l$, before and after 80 steps.
# **Expected.** $\sqrt e$ and 0 before.


# %%
def backward_signal(network, arm, x, y):
    """The backward signal on its way from h_N to h_0: mean ||v_0|| / ||v_N|| and mean cosine of v and its branch part v J, each (R,).

    v_l = dL/dh_l, a row for each sample; below a residual layer it is v_l (I + eps J), so v_l J points along v_{l-1} - v_l.
    """
    first, *hidden, head = network
    h = list(states(torch.bmm(x, first).detach().requires_grad_(), arm, hidden))
    loss = nn.cross_entropy_per_run(torch.bmm(h[-1], head), y).sum()
    v = [g.double() for g in torch.autograd.grad(loss, h)]
    ratio = (v[0].norm(dim=-1) / v[-1].norm(dim=-1)).mean(-1)
    cosine = [F.cosine_similarity(above, below - above, dim=-1).mean(-1) for below, above in itertools.pairwise(v)]
    return ratio, torch.stack(cosine).mean(0)


# %%
def alignment(device, *, arms, depths, rates, seeds, rows, **common):
    """:func:`backward_signal` before and after training at one rate, ``rates`` [depth][arm]: four lists (seeds,) for each depth and arm."""
    result = {}
    for N in depths:
        for arm in arms:
            trained_network, x, y, _ = train_arm(device, arm, N, [rates[str(N)][arm]], seeds, **common)
            fresh = [W.to(device).requires_grad_() for W in draw_network(arm, nn.Init(seeds), N, common["d"])]
            sample = x[:rows].to(device).expand(len(seeds), rows, -1), y[:rows].to(device).expand(len(seeds), rows)
            pairs = [backward_signal(network, arm, *sample) for network in (fresh, trained_network)]
            names = "ratio before", "cosine before", "ratio after", "cosine after"
            result.setdefault(str(N), {})[arm] = dict(zip(names, (value for pair in pairs for value in pair), strict=True))
    return result


# %%
e4_arms = ["residual N^-1/2", "residual 1/N"]
e4_depths = nb.at_scale(cpu=[25], gpu=[50, 200], full=[50, 200])
e4_rates = {str(n): {arm: best_of(n, arm) for arm in e4_arms} for n in e4_depths}
e4_seeds = nb.at_scale(cpu=[10, 11, 12], gpu=[0, 1, 2], full=[0, 1, 2])
e4 = nb.run("E4", alignment, arms=e4_arms, depths=e4_depths, rates=e4_rates, seeds=e4_seeds, rows=256, warmup=0, **size)
e4_record = nb.recorded("E4")
nb.results(
    "E4",
    f"The backward signal before and after training; mean ± s.e. of 3 seeds ({recorded_on(e4_record)})",
    ["network", "N", "‖v₀‖/‖v_N‖ before", "after", "cos(v, vJ) before", "after"],
    [
        [arm, n, *(ledger.with_error(row[name]) for name in ("ratio before", "ratio after", "cosine before", "cosine after"))]
        for n, rows in e4_record.result.items()
        for arm, row in rows.items()
    ],
)


# %% tags=["hide-input"]
def signal_by_matrices(seed, N=3, d=16, rows=9):
    """Mean norm ratio and mean cosine of the 1/sqrt(N) residual net from explicit Jacobians, float64."""
    first, W1, W2, head = (W[0].double() for W in draw_network("residual N^-1/2", nn.Init([seed]), N, d))
    x, y, _ = digits_task()
    found = []
    for i in range(rows):
        h, jacobians = x[i].double() @ first, []
        for l in range(N):
            pre = h @ W1[l]
            jacobians.append(W2[l].T @ torch.diag((pre > 0).double()) @ W1[l].T)  # row v -> v J
            h = h + pre.clamp(min=0) @ W2[l] / math.sqrt(N)
        p = torch.softmax(h @ head, 0)
        p[y[i]] -= 1
        v = head @ p
        end, cosine = v.norm(), []
        for J in reversed(jacobians):
            cosine.append(F.cosine_similarity(v, v @ J, dim=0))
            v = v + v @ J / math.sqrt(N)
        found.append([float(v.norm() / end), float(sum(cosine) / N)])
    return np.mean(found, 0)


tiny_net = [W.requires_grad_() for W in draw_network("residual N^-1/2", nn.Init([2, 3]), 3, 16)]
tiny_rows = features[:9].expand(2, 9, 64), digit[:9].expand(2, 9)
signal_error = max(
    abs(float(got[run]) - want)
    for run in range(2)
    for got, want in zip(backward_signal(tiny_net, "residual N^-1/2", *tiny_rows), signal_by_matrices(2 + run), strict=True)
)
e4_scope = f"3 seeds, best rates of E3, {recorded_on(e4_record)}"
every_e4 = [(n, arm, row) for n, rows in e4_record.result.items() for arm, row in rows.items()]
live_e4 = [(n, arm, row) for n, rows in e4.items() for arm, row in rows.items()]
grown = lambda cases, scope, machine: [
    ledger.less(
        "mean cosine before, largest modulus",
        max(abs(float(np.mean(row["cosine before"]))) for _, _, row in cases),
        0.02,
        digits=2,
        machine=machine,
        scope=scope,
    ),
    *[
        ledger.better(f"{arm}, N = {n}: cosine after minus before", row["cosine after"], row["cosine before"], sigmas=3, scope=scope)
        for n, arm, row in cases
    ],
    ledger.more(
        "norm ratio after over that before, smallest of all nets and seeds",
        min(b / a for _, _, row in cases for a, b in zip(row["ratio before"], row["ratio after"], strict=True)),
        1.3,
        digits=3,
        machine=machine,
        scope=scope,
    ),
]
coherent = {(n, arm): epsilon(arm, int(n)) * int(n) * np.array(row["cosine after"]) for n, arm, row in every_e4}
nb.experiment(
    "E4",
    "At initialisation the branch part is orthogonal to the signal; training aligns the two, and the backward signal grows beyond √e.",
    "verified",
    holds=[
        ledger.less("ratio and cosine against explicit Jacobians, N = 3", signal_error, 1e-4, digits=1, machine=True),
        *grown(every_e4, e4_scope, False),
        ledger.close(
            "ε = N^(−1/2), N = 200: ratio before, against √e",
            float(np.mean(e4_record.result["200"]["residual N^-1/2"]["ratio before"])),
            math.exp(0.5),
            rel=0.06,
            digits=3,
            scope=e4_scope,
        ),
        *[
            ledger.better(
                f"N = {n}: N ε cos after training, 1/√N minus 1/N",
                coherent[n, "residual N^-1/2"],
                coherent[n, "residual 1/N"],
                sigmas=2.8,
                scope=e4_scope,
            )
            for n in e4_record.result
        ],
        *grown(live_e4, "live, N = 25, 3 seeds", True),
    ],
)
nb.claim(
    "C10",
    "In high dimension ε = 1/√N is basically enough.",
    "partly",
    holds=[
        ledger.less(
            "linear end: growth at N = 400 over √e", float(e2_mean["residual N^-1/2"][-1]) / math.exp(0.5), 1.05, digits=3, scope=e2_scope
        ),
        ledger.less(
            "worst direction of 100 layers, σ_max, t = 1", math.sqrt(inside(e2b_record.result, 1.0)), 4.7, digits=3, scope=e2b_scope
        ),
        ledger.less(
            "after training, N = 200: norm ratio",
            float(np.mean(e4_record.result["200"]["residual N^-1/2"]["ratio after"])),
            10,
            digits=2,
            scope=e4_scope,
        ),
    ],
    fails=[
        ledger.more(
            "a branch that ends in a ReLU: growth at N = 400", float(e2_mean["ReLU-ended N^-1/2"][-1]), 2e4, digits=3, scope=e2_scope
        ),
        ledger.better(
            "training ends the orthogonality: cosine at N = 50 after minus before",
            e4_record.result["50"]["residual N^-1/2"]["cosine after"],
            e4_record.result["50"]["residual N^-1/2"]["cosine before"],
            sigmas=3,
            scope=e4_scope,
        ),
    ],
)

# %% [markdown]
# **What we saw.** The random picture is a picture of the start. Training finds directions in which the layers agree, and the signal then grows by a moderate
# factor more. The cosine is larger at $1/N$, whose best rate here is four times that at $1/\sqrt N$, but what enters the growth is the coherent sum $N\varepsilon\cos$, and that
# is larger at $1/\sqrt N$ (E4 compares them at both depths). The argument of the line bounds it by $N\varepsilon$, which is 1 at $1/N$ and
# $\sqrt N$ at $1/\sqrt N$; the 80 steps of this run stay far below either bound.
#
# ## E5: warm-up treats the symptom
#
# **Question.** The post holds that warm-up, the usual remedy for a large first step {cite}`goyal2017accurate`, treats the symptom. What would the disease be? If the increment grows like $N$, so does
# the curvature along the gradient, and the largest rate at which gradient descent still descends falls like $1/N$. **Set-up.** The
# task of E1 at width 32, 16 inputs; the rate up to which the loss falls in each of 20 steps, on a grid a factor 1.7 apart; the same after 20 steps of linear warm-up (E5b).
# Beside it the largest eigenvalue of the Hessian, before and after the warm-up. And in E3b, E3 with a warm-up over half of the steps, every rate tuned again. **Expected.** Slope $-1$ for the
# plain linear net, $0$ at $1/\sqrt N$, $+1$ at $1/N$. Warm-up may shift the lines; the slope should stay.


# %%
def usable_rate(device, arm, N, rates, seeds, d, batch, steps, warmup):
    """The rate up to which, from the smallest on, gradient descent lowers the loss in each of ``steps`` steps; (seeds,), 0 for none.

    Before them ``warmup`` steps, which need not lower the loss, raise the rate linearly.
    """
    init, history = nn.Init(seeds), []
    task, layers = random_task(init, d, batch), draw_layers(arm, init, N, d)
    x, head, y, *weights = (t.repeat(len(rates), *[1] * (t.ndim - 1)).to(device) for t in (*task, *layers))
    weights = [W.double().requires_grad_() for W in weights]
    with contextlib.suppress(FloatingPointError):  # too fast for every run
        train.fit_graphed(
            lambda x, y: nn.cross_entropy_per_run(torch.bmm(last_state(x, arm, weights), head), y),
            lambda step: (x, y),
            optim.StackedSGD(weights, torch.tensor(rates).repeat_interleave(len(seeds))),
            warmup + steps + 1,
            schedule=lambda step, steps: min(1.0, (step + 1) / (warmup + 1)),
            watch=lambda step, losses: history.append(losses),
        )
    falls = (torch.stack(history).diff(dim=0)[warmup:] < 0).all(0).view(len(rates), len(seeds))
    good = falls.cumprod(0).sum(0)  # how many rates, from the smallest, do
    return torch.tensor([0.0, *rates], dtype=torch.float64)[good.cpu()]


# %%
def usable_rates(device, *, arms, depths, **common):
    """:func:`usable_rate` of each arm at each depth, (depths, seeds)."""
    return {arm: torch.stack([usable_rate(device, arm, N, **common) for N in depths]) for arm in arms}


# %%
e5_arms = ["orthogonal linear", "residual N^-1/2", "residual 1/N"]
e5_shape = {"seeds": [0, 1, 2], "d": 32, "batch": 16, "steps": 20}
e5_rates = [2e-3 * 1.7**k for k in range(23)]
e5_depths = nb.at_scale(cpu=[8, 16, 32], gpu=[8, 16, 32, 64, 128], full=[8, 16, 32, 64, 128])
e5b_depths = nb.at_scale(cpu=[8, 16, 32], gpu=[8, 16, 32, 64], full=[8, 16, 32, 64])
live_grid = nb.at_scale(cpu=e5_rates[6:21], gpu=e5_rates, full=e5_rates)
e5 = nb.run("E5", usable_rates, arms=e5_arms, depths=e5_depths, warmup=0, rates=live_grid, **e5_shape)
e5b = nb.run("E5b", usable_rates, arms=e5_arms[:2], depths=e5b_depths, warmup=20, rates=live_grid, **e5_shape)
e3b_depth = nb.at_scale(cpu=25, gpu=50, full=50)
e3b_arms = nb.at_scale(cpu=["orthogonal tanh", "residual N^-1/2"], gpu=e3_arms[:4], full=e3_arms[:4])
e3b_rates = nb.at_scale(cpu={"25": {arm: [best_of(25, arm), 4 * best_of(25, arm)] for arm in e3_arms}}, gpu=rates, full=rates)
e3b = nb.run("E3b", trained, arms=e3b_arms, depths=[e3b_depth], rates=e3b_rates, seeds=e3_seeds, warmup=0.5, **size)
e4_live_score = score(
    *train_arm(nb.device, "residual N^-1/2", 25, [best_of(25, "residual N^-1/2")], [10, 11, 12], warmup=0, **size)[:1],
    "residual N^-1/2",
    *digits_task(),
)[1].tolist()
e5_record, e5b_record, e3b_record = (nb.recorded(id) for id in ("E5", "E5b", "E3b"))


# %% tags=["hide-input"]
def sharpness(arm, N, seeds=(0, 1, 2), warm=None, d=32, batch=16, iterations=25):
    """Largest eigenvalue in modulus of the Hessian over the hidden matrices on E5's task, (seeds,); power iteration in float64.

    At initialisation or, with rates (seeds,) in ``warm``, after 20 steps of linear warm-up towards them.
    """
    init = nn.Init(list(seeds))
    x, head, y = random_task(init, d, batch)
    weights = [W.double().requires_grad_() for W in draw_layers(arm, init, N, d)]
    per_run = lambda t: t.sum((1, 2, 3)).view(-1, 1, 1, 1)

    def gradient(create_graph=False):
        z = torch.bmm(last_state(x, arm, weights), head)
        return torch.autograd.grad(
            F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="sum") / batch, weights, create_graph=create_graph
        )

    for step in range(20 if warm is not None else 0):
        rate = torch.tensor(warm, dtype=torch.float64).view(-1, 1, 1, 1) * (step + 1) / 21
        weights = [(W - rate * g).detach().requires_grad_() for W, g in zip(weights, gradient(), strict=True)]
    slope, noise = gradient(create_graph=True), torch.Generator().manual_seed(1)
    direction = [torch.randn(W.shape, generator=noise, dtype=W.dtype) for W in weights]
    for _ in range(iterations):
        length = sum(per_run(u.square()) for u in direction).sqrt()
        direction = [u / length for u in direction]
        along = sum((g * u).sum() for g, u in zip(slope, direction, strict=True))
        direction = torch.autograd.grad(along, weights, retain_graph=True)
    return sum(per_run(u.square()) for u in direction).sqrt().flatten()


def sharpness_by_hessian(seed, N=2, d=2, batch=3):
    """The same of one plain linear net from the whole matrix of second derivatives."""
    init = nn.Init([seed])
    x, head, y = (t[0] for t in random_task(init, d, batch))
    W = draw_layers("orthogonal linear", init, N, d)[0][0].double().flatten()
    loss = lambda w: F.cross_entropy(x @ w.view(N, d, d)[0] @ w.view(N, d, d)[1] @ head, y)
    return float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, W)).abs().max())


def falls_by_hand(N, rate, seed, steps, warmup, d=8):
    """Whether gradient descent on the plain linear net, written out, lowers the loss in each of the steps after the warm-up."""
    init = nn.Init([seed])
    x, head, y = (t[0] for t in random_task(init, d, 6))
    W = draw_layers("orthogonal linear", init, N, d)[0][0].double()
    history = []
    for step in range(warmup + steps + 1):
        leaf, h = W.clone().requires_grad_(), x
        for l in range(N):
            h = h @ leaf[l]
        loss = F.cross_entropy(h @ head, y)
        loss.backward()
        history.append(float(loss.detach()))
        W = W - rate * min(1.0, (step + 1) / (warmup + 1)) * leaf.grad
    return all(b < a for a, b in itertools.pairwise(history[warmup:]))


hand_grid = [0.02 * 1.7**k for k in range(16)]
hand_rates = {
    w: [max([0.0, *itertools.takewhile(lambda r, s=seed, w=w: falls_by_hand(3, r, s, 8, w), hand_grid)]) for seed in (1, 4)] for w in (0, 5)
}
code_rates = {w: usable_rate(torch.device("cpu"), "orthogonal linear", 3, hand_grid, [1, 4], 8, 6, 8, w).tolist() for w in (0, 5)}
one_step_hand = max(itertools.takewhile(lambda r: falls_by_hand(3, r, 1, 1, 0), hand_grid))
one_step_code = float(usable_rate(torch.device("cpu"), "orthogonal linear", 3, hand_grid, [1], 8, 6, 1, 0)[0])
curvature = {arm: [float(sharpness(arm, n).log().mean().exp()) for n in (8, 16, 32)] for arm in e5_arms}
warm_rates = dict(zip(e5b_record.config["depths"], e5b_record.result["orthogonal linear"], strict=True))
curvature["after warm-up"] = [float(sharpness("orthogonal linear", n, warm=warm_rates[n]).log().mean().exp()) for n in (8, 16, 32)]
curvature_slope = {arm: metrics.loglog_slope((8, 16, 32), values).slope for arm, values in curvature.items()}
flatter = max(b / a for a, b in zip(curvature["orthogonal linear"], curvature["after warm-up"], strict=True))
tiny_sharpness = sharpness("orthogonal linear", 2, (3, 4), d=2, batch=3, iterations=400).tolist()
centre = lambda values: np.exp(np.mean(np.log(np.array(values)), 1))
rate_slope = lambda result, depths: {arm: metrics.loglog_slope(depths, centre(values)).slope for arm, values in result.items()}
e5_slopes, e5b_slopes = rate_slope(e5_record.result, e5_record.config["depths"]), rate_slope(e5b_record.result, e5b_record.config["depths"])
live5, live5b = rate_slope(e5, e5_depths), rate_slope(e5b, e5b_depths)
gain = centre(e5b_record.result["orthogonal linear"]) / centre(e5_record.result["orthogonal linear"])[: len(e5b_record.config["depths"])]
warm_score = lambda arm: at_best(e3b_record, 50, arm)[1]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, log-log: the largest usable learning rate of gradient descent against the number of layers. The plain linear net falls with slope minus one, and with warm-up along a parallel line several times higher; the residual with one over root N is level, that with one over N rises. Right: test accuracy of four networks of 50 layers without and with warm-up, each at its best rate: the residual network without warm-up lies above the plain networks with it."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.7))


def band(axes, run, arm, **style):
    """The seeds' geometric mean over the depths, and bars over their range."""
    each, middle = np.array(run.result[arm]), centre(run.result[arm])
    axes.errorbar(
        run.config["depths"], middle, [np.maximum(middle - each.min(1), 0), np.maximum(each.max(1) - middle, 0)], capsize=2, **style
    )


for arm in e5_arms:
    band(left, e5_record, arm, **look(arm))
for arm in e5_arms[:2]:
    band(left, e5b_record, arm, **{**look(arm), "mfc": "none", "lw": 1, "label": DISPLAY[arm] + ", warm-up"})
left.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="largest usable rate (log axis)", ylim=(1e-2, 3e4))
left.set_title("gradient descent (bars: the seeds' range)", fontsize=10)
layer_ticks(left, e5_record.config["depths"])
left.legend(fontsize=7, loc="upper left")
for i, arm in enumerate(e3_arms[:4]):
    for offset, values, fill in ((-0.17, recorded_score(50, arm), STYLE[arm][0]), (0.17, warm_score(arm), "none")):
        right.bar(
            i + offset,
            np.mean(values),
            0.32,
            yerr=np.std(values, ddof=1),
            color=fill,
            edgecolor=STYLE[arm][0],
            capsize=2,
            hatch=None if fill != "none" else "///",
        )
right.set_xticks(range(4), [DISPLAY[arm].replace(" ", "\n") for arm in e3_arms[:4]], fontsize=8)
right.set(ylabel="test accuracy, N = 50", ylim=(0, 1.02))
right.set_title("Adam; hatched: with warm-up (bars: SD)", fontsize=10)
heading(figure, "Warm-up raises the usable rate but not its slope")
nb.show(figure)

# %% tags=["hide-input"]
e5_scope = f"3 seeds, d = 32, {recorded_on(e5_record)}"
want5 = {"orthogonal linear": -1, "residual N^-1/2": 0, "residual 1/N": 1}
slope5 = lambda found, name, width, **more: [
    ledger.less(f"{name}, {arm}: slope minus {want5[arm]}, modulus", abs(found[arm] - want5[arm]), width, digits=2, **more) for arm in found
]
nb.experiment(
    "E5",
    "The largest rate at which gradient descent descends falls like 1/N in the plain linear net, is level at ε = N^(−1/2) and grows like N at 1/N.",
    "verified",
    holds=[
        ledger.less(
            "rate found by the stack over that of a loop, with and without warm-up, two seeds: largest modulus of the logarithm",
            max(abs(math.log(a / b)) for w in (0, 5) for a, b in zip(code_rates[w], hand_rates[w], strict=True)),
            1e-3,
            digits=2,
        ),
        ledger.close("the same for a single step", one_step_code / one_step_hand, 1, abs=1e-3, digits=3),
        ledger.less("which ends inside the grid", one_step_hand, hand_grid[-1], margin=1.0, digits=3),
        *[
            ledger.close(
                f"power iteration against the whole Hessian, seed {s}", got, sharpness_by_hessian(s), rel=1e-3, digits=4, machine=True
            )
            for s, got in zip((3, 4), tiny_sharpness, strict=True)
        ],
        *slope5(e5_slopes, "recorded", 0.2, scope=e5_scope),
        ledger.less(
            "live: the three slopes minus the prediction, largest modulus",
            max(abs(live5[arm] - want5[arm]) for arm in e5_arms),
            0.3,
            digits=2,
            machine=True,
            scope="cpu, N = 8 to 32",
        ),
        *slope5(
            {arm: -curvature_slope[arm] for arm in e5_arms},
            "largest eigenvalue of the Hessian, sign changed",
            0.3,
            machine=True,
            scope="live, 3 seeds, N = 8 to 32",
        ),
    ],
)
nb.experiment(
    "E5b",
    "A linear warm-up raises the usable rate of the plain net by a factor and leaves its 1/N.",
    "verified",
    holds=[
        ledger.more("gain of the plain linear net, smallest over the depths", float(min(gain)), 1.5, digits=2, scope=e5_scope),
        ledger.less("slope with warm-up", e5b_slopes["orthogonal linear"], -0.7, digits=2, scope=e5_scope),
        ledger.less(
            "residual, ε = N^(−1/2): modulus of the slope (0 within the grid)",
            round(abs(e5b_slopes["residual N^-1/2"]), 3),
            0.2,
            digits=2,
            scope=e5_scope,
        ),
        ledger.less("live: slope with warm-up", live5b["orthogonal linear"], -0.5, digits=2, machine=True, scope="cpu, N = 8 to 32"),
    ],
)
nb.experiment(
    "E3b",
    "Trained with a warm-up over half of the steps and tuned again, the plain nets of 50 layers show no gain that 3 seeds resolve, and stay behind a residual net without one.",
    "verified",
    holds=[
        *[
            ledger.better(
                f"residual, no warm-up, minus {arm} with it: accuracy",
                recorded_score(50, "residual N^-1/2"),
                warm_score(arm),
                sigmas=2.8,
                scope=f"3 seeds, {recorded_on(e3b_record)}",
            )
            for arm in e3_arms[:3]
        ],
        *[
            ledger.less(
                f"{arm}: gain of accuracy by warm-up over its standard error, modulus",
                abs(float(np.mean(warm_score(arm)) - np.mean(recorded_score(50, arm))))
                / math.sqrt((np.var(warm_score(arm), ddof=1) + np.var(recorded_score(50, arm), ddof=1)) / 3),
                2.8,
                digits=2,
                scope=f"3 seeds, {recorded_on(e3b_record)}",
            )
            for arm in e3_arms[:3]
        ],
        ledger.more(
            "live, N = 25: residual without warm-up minus orthogonal tanh with it, the better of two rates",
            float(np.mean(e4_live_score) - max(np.mean(row) for row in e3b["25"]["orthogonal tanh"]["accuracy"])),
            0.0,
            digits=2,
            machine=True,
            scope="3 fresh seeds",
        ),
    ],
)
nb.claim(
    "C12",
    "Warm-up treats the symptom and leaves the cause, a curvature that grows with the depth.",
    "partly",
    holds=[
        ledger.close(
            "largest eigenvalue of the Hessian, plain linear net: slope",
            curvature_slope["orthogonal linear"],
            1,
            abs=0.3,
            digits=2,
            machine=True,
            scope="live, 3 seeds, N = 8 to 32",
        ),
        ledger.close(
            "the same after the warm-up",
            curvature_slope["after warm-up"],
            1,
            abs=0.5,
            digits=2,
            machine=True,
            scope="live, 3 seeds, N = 8 to 32",
        ),
        ledger.less(
            "largest usable rate behind a warm-up of 20 steps: slope", e5b_slopes["orthogonal linear"], -0.7, digits=3, scope=e5_scope
        ),
        ledger.less(
            "residual, ε = N^(−1/2), no warm-up: modulus of the slope", abs(e5_slopes["residual N^-1/2"]), 0.2, digits=2, scope=e5_scope
        ),
    ],
    fails=[
        ledger.less(
            "curvature after the warm-up over that before, largest over the depths",
            flatter,
            0.7,
            digits=2,
            machine=True,
            scope="live, 3 seeds",
        ),
        ledger.more(
            "usable rate with warm-up over that without, smallest over the depths", float(min(gain)), 1.5, digits=2, scope=e5_scope
        ),
    ],
)

# %% [markdown]
# **What we saw.** Warm-up does treat the cause, by a factor: gradient descent first moves to a place where the largest eigenvalue of the Hessian is tens of times
# smaller, and the plain linear net then bears a rate about five times higher. But the factor hardly depends on the depth, so the $1/N$ is still there; the residual multiplier removes it. With Adam on the
# digits we resolve no gain of the three plain nets by warm-up.
#
# ## The paper's numbers beside ours
#
# The post is an argument without experiments; its numbers are bounds and exponents.

# %% tags=["hide-input"]
plain_number = lambda value, digits=3: f"{value:.{digits}g}"
nb.results(
    "C",
    "What the post states, and what we find",
    ["quantity", "post", "here", "remark"],
    [
        [
            "exponent of the SGD increment, plain net",
            "1",
            plain_number(slopes["orthogonal linear", "SGD"].slope),
            "orthogonal linear; He-ReLU only for N ≪ d; tanh: 0",
        ],
        ["the same, residual, ε = 1/√N", "0", f"{slopes['residual N^-1/2', 'SGD'].slope:.2f}", "Adam's: ½, see E1"],
        ["the same, residual, ε = 1/N", "−1 (implied)", plain_number(slopes["residual 1/N", "SGD"].slope), "Adam's: 0"],
        ["(1 + 1/N)^N", "below e", "below e", "for every N (C6)"],
        ["(1 + ε)^N on the line, ε = 1/√N, N = 100", "unbounded", f"{1.1**100:,.0f}", "exp(√N − ½ + …)"],
        ["growth of the norm, ε = 1/√N, N = 400", "O(1)", plain_number(float(e2_mean["residual N^-1/2"][-1]), 4), "√e = 1.6487"],
        [
            "the same in the worst direction",
            "not discussed",
            plain_number(math.sqrt(inside(e2b_record.result, 1.0))),
            "√((2 + √3)e^√3) = 4.593 in the limit",
        ],
        [
            "the same, branch ending in a ReLU",
            "not discussed",
            plain_number(float(e2_mean["ReLU-ended N^-1/2"][-1])),
            "½ exp(√(N/π) + ¼ − 3/(4π))",
        ],
        [
            "deep plain nets, 100 layers, accuracy",
            "train badly",
            f"{np.mean(fine_score(100, 'orthogonal linear')):.2f}; {np.mean(fine_score(100, 'orthogonal tanh')):.2f}",
            "orthogonal linear; orthogonal tanh",
        ],
    ],
)

# %% [markdown]
# ## Beyond the post
#
# - **The worst direction** at $\varepsilon=1/\sqrt N$ is bounded too, by $\sqrt{(2+\sqrt3)e^{\sqrt3}}=4.59$ (D8); for general $t$ the formula is closed.
# - **A second reason for residuals**: they keep inputs apart (D9). A plain ReLU net is blind before it is unstable, just as [a plain Post-LN Transformer](deepnet.ipynb) is
#   blind to its tokens.
# - **Adam changes the answer.** Counted by its first step, its budget is $N\varepsilon=1$ where SGD's is $N\varepsilon^2=1$: CompleteP's $1/N$ with a rate that does not depend on depth {cite}`dey2025completep`, or $1/\sqrt N$ with
#   a rate like $1/\sqrt N$ {cite}`yang2023tp6`. Stable ResNet {cite}`hayou2021stable` came to $1/\sqrt N$ from the kernel side, Fixup {cite}`zhang2019fixup` to a scaled
#   initialisation without normalisation.
# - **Plain nets can be repaired** in part: orthogonal matrices (E3), or Leaky ReLUs shaped so that the angles survive {cite}`zhang2022deep`.
# - **Plain tanh nets** have the post's $1/\sqrt N$ gradients by themselves (X6).
#
# ## What does not hold
#
# - **"In a plain net the increment is proportional to $N$"** (C1) is so for linear nets. He-ReLU nets have a typical gradient that decays (C2), tanh nets a level
#   sum (X6): what is bad about these is the signal, not the increment.
# - **"Deep plain nets train badly"** (C11): an orthogonal linear net of 100 layers does not, at a rate $\propto1/N$, and an orthogonal tanh net is bad only by degrees.
# - **"$1/\sqrt N$ is enough"** (C10) needs a branch of mean zero, so one that ends in a random linear map. And it is about the start: training aligns layers (E4).
# - **"A plain net cannot tie its gradients to the depth"** (C4) needs both signals held, a standard head and plain weights.
# - **"Warm-up treats the symptom"** (C12): it also lowers the curvature, by a factor that does not depend on the depth.
# - The count is for SGD. By the same count Adam asks for $1/N$; that is a matter of scope, not an error.
#
# What survives: the argument for what it is about, nets whose signals are held. There its exponents are found again, at the start (E1), in the usable rate of
# gradient descent (E5) and in the best rate of Adam (E3c).
#
# ## Exercises
#
# 1. Repair the ReLU-ended branch without a second matrix: subtract the mean over the coordinates, $f-\overline f$; or give each coordinate of each layer a
#    fixed random sign. What is $\lVert x_N\rVert/\lVert x_0\rVert$ at $\varepsilon=N^{-1/2}$ in either case?
# 2. How does $\sigma_{\max}^2$ of D8 behave for $t\to0$ and for $t\to\infty$?
# 3. For $\varepsilon=N^{-p}$, which exponents have the SGD and the Adam increment? Measure $p=\frac34$.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# Signs make the mean zero and keep the energy: $\sqrt e$. Centring removes the common direction *and* its energy, a share $1/\pi$: $e^{(1-1/\pi)/2}=1.406$.
# ```


# %% tags=["hide-cell"]
def repaired(fix, N=100, d=128, draws=32):
    """Mean growth of the norm over draws for a ReLU-ended branch of that fix, eps = N^-1/2."""
    x = gaussian(draws, 1, d)
    start = x.norm(dim=-1)
    for _ in range(N):
        f = torch.relu(torch.bmm(x, gaussian(draws, d, d, std=math.sqrt(2 / d))))
        x = x + (f - f.mean(-1, keepdim=True) if fix == "centre" else f * gaussian(d).sign()) / math.sqrt(N)
    return float((x.norm(dim=-1) / start).mean())


fixed = {fix: repaired(fix) for fix in ("centre", "signs")}
print({fix: f"≈{value:.2f}" for fix, value in fixed.items()})

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# $\log\sigma_{\max}^2\approx2\sqrt{2t}$ for small $t$ (the edge of a semicircle of variance $2t$), and $\sigma_{\max}^2\approx2e\,t\,e^t$ for large $t$: the typical growth $e^t$ times a factor linear in $t$.
# ```

# %% tags=["hide-cell"]
log_edge = sp.log((1 + z_edge) / z_edge) + t * (1 + 2 * z_edge)
print(sp.limit(log_edge / sp.sqrt(t), t, 0), float((log_edge - t - sp.log(2 * sp.E * t)).subs(t, 10**4).evalf(30)) < 1e-4)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# Each gradient carries $\varepsilon$: $1-2p$ for SGD, $1-p$ for Adam; $-\frac12$ and $\frac14$ at $p=\frac34$ (at these depths the growth $e^t$, $t=N^{-1/2}$, still bends the lines).
# ```


# %% tags=["hide-cell"]
def power_sums(N, p, d=48, seeds=(0, 1, 2, 3, 4, 5)):
    """Medians of the two gradient sums of a residual net with eps = N^-p."""
    init = nn.Init(list(seeds))
    x, head, y = random_task(init, d, 16)
    W1, W2 = (W.double().requires_grad_() for W in draw_layers("residual 1", init, N, d))
    h = x
    for l in range(N):
        h = h + N**-p * torch.bmm(torch.relu(torch.bmm(h, W1[:, l])), W2[:, l])
    nn.cross_entropy_per_run(torch.bmm(h, head), y).sum().backward()
    return [float(sum(s(W.grad).sum((1, 2, 3)) for W in (W1, W2)).median()) for s in (torch.square, torch.abs)]


summed = lambda N, p: N * N ** (-2 * p) * (1 + N ** (-2 * p)) ** (N - 1)  # mean of the squares: each layer eps^2, N - 1 others grow
expected_slope = metrics.loglog_slope((8, 16, 32, 64), [summed(n, 0.75) for n in (8, 16, 32, 64)]).slope
same_sums = gradient_sums(torch.device("cpu"), "residual N^-1/2", 8, list(range(6)), 48, 16)
same_error = max(abs(a / float(b.median()) - 1) for a, b in zip(power_sums(8, 0.5), same_sums, strict=False))
power_rows = [power_sums(n, 0.75) for n in (8, 16, 32, 64)]
power_slopes = [metrics.loglog_slope((8, 16, 32, 64), column).slope for column in zip(*power_rows, strict=True)]
print([f"≈{slope:.2f}" for slope in power_slopes])

# %% tags=["hide-input"]
nb.claim(
    "X4",
    "The solutions of the exercises: 1.406 and √e; 2√(2t) and 2e t e^t; −½ and ¼.",
    "verified",
    holds=[
        ledger.close(
            "centred",
            fixed["centre"],
            math.exp((1 - 1 / math.pi) / 2),
            rel=0.05,
            digits=3,
            machine=True,
            scope="d = 128, N = 100, 32 draws",
        ),
        ledger.close("signs", fixed["signs"], math.exp(0.5), rel=0.05, digits=3, machine=True, scope="d = 128, N = 100, 32 draws"),
        sym.limit("small t", log_edge / sp.sqrt(t), t, 0, 2 * sp.sqrt(2)),
        sym.limit("large t", sp.simplify((1 + z_edge) / z_edge) / t * sp.exp(t * (sp.sqrt(1 + 2 / t) - 1)), t, sp.oo, 2 * sp.E),
        ledger.less("p = ½ against E1's sums, relative", same_error, 1e-6, digits=1, machine=True),
        ledger.close(
            "SGD, p = ¾: slope, against −½ and the growth (1 + ε²)^(N − 1) at these N",
            power_slopes[0],
            expected_slope,
            abs=0.15,
            digits=2,
            machine=True,
            scope="6 seeds, N = 8 to 64",
        ),
        ledger.close(
            "Adam, p = ¾: slope", power_slopes[1], (1 + expected_slope) / 2, abs=0.1, digits=2, machine=True, scope="6 seeds, N = 8 to 64"
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
# The post: {cite}`su2022residual`; its prerequisite: {cite}`su2022deepnet`, after {cite}`wang2022deepnet`. Residual networks: {cite}`he2016deep`. Initialisation:
# {cite}`glorot2010understanding`, {cite}`he2015delving`. Products of random matrices: {cite}`hanin2020products`, {cite}`biane1997free`. The ReLU kernel:
# {cite}`cho2009kernel`. Plain nets that train: {cite}`xiao2018dynamical`, {cite}`zhang2022deep`. Scaled residuals: {cite}`zhang2019fixup`,
# {cite}`hayou2021stable`, {cite}`yang2023tp6`, {cite}`dey2025completep`. Warm-up: {cite}`goyal2017accurate`.
