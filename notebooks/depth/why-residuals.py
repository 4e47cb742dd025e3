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
# **The point.** Good initialisation already keeps the signals of a deep plain network at size one. It has no dial left for the third thing that must
# not depend on the depth: the *sum* of what all layers do to the loss in one step. A residual branch with a multiplier $\varepsilon$ is such a dial,
# and in high dimension $\varepsilon=1/\sqrt N$ holds all three at once. We check each step, and add the worst direction (a closed form), the case
# where $1/\sqrt N$ fails (branches that end in a ReLU), and a counterexample to "deep plain nets train badly".

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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels over the number of layers. Left, recorded test accuracy on digits, every network at its best learning rate: residual networks stay near 0.96 up to 200 layers, the orthogonal tanh network lies between 0.94 and 0.83, plain tanh and plain ReLU networks fall towards chance. Right, log axes: the sum of the squared gradients grows in proportion to the depth for the plain linear network, is level for a residual network with multiplier one over root N and falls for one over N."}}
STYLE = {
    "plain ReLU": (ORANGE, "--", "o"),
    "plain tanh": (RED, (0, (3, 1, 1, 1)), "v"),
    "orthogonal tanh": (PURPLE, (0, (5, 1)), "D"),
    "orthogonal linear": (PURPLE, (0, (5, 1)), "D"),
    "residual 1": (BLACK, (0, (1, 1)), "x"),
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
    row = run.result[str(N)][arm]
    best = metrics.best_rows([arm] * len(row["loss"]), row["loss"])[arm]
    return run.config["rates"][best], row[what][best]


made = records.load(nb.slug)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6))
for arm in made["E3"].config["arms"][:5]:
    scores = np.array([at_best(made["E3"], N, arm)[1] for N in made["E3"].config["depths"]])
    left.errorbar(made["E3"].config["depths"], scores.mean(1), scores.std(1, ddof=1), capsize=2, **look(arm))
for arm in ("orthogonal linear", "residual N^-1/2", "residual 1/N"):
    rows = made["E1"].result[arm]
    right.plot([int(N) for N in rows], [np.median(row["SGD"]) for row in rows.values()], **look(arm))
left.set(xscale="log", xlabel="layers N (log axis)", ylabel="test accuracy, digits", ylim=(0, 1.02))
left.set_title("trained, best rate of seven", fontsize=10)
right.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel=r"$\sum\|g\|^2$ (log axis)")
right.set_title("before training: what one SGD step does", fontsize=10)
layer_ticks(left, made["E3"].config["depths"])
left.legend(loc="lower left", fontsize=7)
right.legend(loc="center right", fontsize=8)
heading(figure, "The residual multiplier holds the sum of all gradients; plain nets have no such dial")
nb.show(figure)

# %% [markdown]
# ## The question
#
# Residual connections {cite}`he2016deep` are usually explained by vanishing gradients. But careful initialisation, and normalisation, cure vanishing
# and exploding gradients without any residual. Still a deep plain network trains badly. So what is it that a residual adds?
#
# The post {cite}`su2022residual` answers with an argument found on the way to DeepNet, which `deepnet` tells in full: one optimiser step moves *all*
# layers, and the moves add up. A deep network needs a stable forward signal, a stable backward signal, *and* gradients that shrink with the number of
# layers. A plain network can have the first two; its initialisation is then used up. With
#
# $$y=x+\varepsilon f(x;\theta)$$
#
# one small number does all three. How small? On the line $1/N$; in high dimension, the post argues, $1/\sqrt N$ is enough. That factor $\sqrt N$ is still
# debated under the names depth-muP and CompleteP, and here is its shortest derivation.
#
# **Notation.** $N$ layers, $K$ parameters in each (in `deepnet` $K$ counts matrices). Rows are vectors, $y=xW$ with $W\in\mathbb R^{n\times m}$. $J=\partial f/\partial x$,
# $v=\partial\mathcal L/\partial y$ is the backward signal, and it travels as $v(I+\varepsilon J)$ ($J$ transposed as needed). $t=\varepsilon^2N$ is the
# total branch energy: $t=1$ for $\varepsilon=N^{-1/2}$. $\rho$ is the cosine of two inputs.
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
nb.derivation(
    "D1",
    "One gradient step changes the loss by −η‖∇L‖²: −ηNK if each of NK gradients is ±1, −ηK if each is ±1/√N.",
    sym.identity(
        "any gradient, any Hessian", sp.Subs(sp.Derivative(loss_along([-eta * g for g in g4], g4), eta), eta, 0), -sum(g**2 for g in g4)
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
s2, q = sp.symbols("s2 q", positive=True)
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
nb.derivation(
    "D2",
    "E y² = n s² E x² forward, E(∂L/∂x)² = m s² E(∂L/∂y)² backward; a ReLU halves: s² = 1/n, 1/m, 2/n, Xavier 2/(n + m).",
    *[sym.identity(f"forward, {n} × {m}", *(part[0] for part in second_moments(n, m))) for n, m in shapes],
    *[sym.identity(f"backward, {n} × {m}", *(part[1] for part in second_moments(n, m))) for n, m in shapes],
    sym.identity("E relu(z)² for z of variance q", rectified(2, q), q / 2),
    sym.solves("forward stable behind a ReLU", N * s2 * rectified(2, q) - q, s2, 2 / N),
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
# $e^{-5N/(2d)}$ while the mean, kept up by rare draws, stays 1 {cite}`hanin2020products`. The exact drift sums over the number $k$ of active units:
#
# $$\mathbb E\log\frac{\lVert h_{l+1}\rVert^2}{\lVert h_l\rVert^2}=\sum_{k}\binom dk2^{-d}\Bigl[\psi\bigl(\tfrac k2\bigr)+\log\tfrac4d\Bigr].$$
#
# **Angles die.** ReLU maps the cosine $\rho$ of two inputs to $\kappa(\rho)=\frac1\pi\bigl[\sqrt{1-\rho^2}+(\pi-\arccos\rho)\rho\bigr]$
# {cite}`cho2009kernel` (derived in `deepnet`), and
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
d_walk = 32
h_in = gaussian(1, 1, d_walk).expand(6000, 1, d_walk)
h_out = torch.relu(torch.bmm(h_in, gaussian(6000, d_walk, d_walk, std=math.sqrt(2 / d_walk))))
step_logs = (h_out.square().sum((1, 2)) / h_in.square().sum((1, 2))).log()
u, w = gaussian(2, 400000)
pair = torch.relu(torch.stack([u, 0.3 * u + math.sqrt(1 - 0.09) * w]))
pair_cosine = float((pair[0] * pair[1]).sum() / (pair[0].norm() * pair[1].norm()))

# %%
nb.derivation(
    "D4",
    "A He layer multiplies ‖h‖² by a factor of mean 1 and variance 5/d, so log‖h‖² drifts by about −5/(2d) a layer; and 1 − ρ_l ~ 9π²/(2l²).",
    sym.identity("E relu(z)⁴ = 3/2 for variance 1", rectified(4, q), 3 * q**2 / 2),
    sym.identity(
        "variance of the factor", (2 / depth) ** 2 * depth * (rectified(4, sp.Integer(1)) - rectified(2, sp.Integer(1)) ** 2), 5 / depth
    ),
    *[ledger.close(f"exact drift times d, d = {d}", d * drift(d), -2.5, rel=4 / d, digits=5) for d in (32, 64, 256, 1024)],
    sym.monte_carlo(
        "E log of the factor, one layer, d = 32", *(float(m) for m in metrics.mean_stderr(step_logs)), drift(d_walk), draws=6000
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
J22 = W22 * sp.diag(*slopes)  # d f_j / d x_i
nb.derivation(
    "D5",
    "With y = x + ε f the backward map is I + εJ, and the gradient of θ carries a factor ε.",
    sym.identity("∂L/∂x = c (I + εJ)ᵀ", [sp.Derivative(residual_loss, x) for x in x2], list(c2 * (sp.eye(2) + eps * J22).T)),
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
        sym.enumeration(
            "N ∫₀^(1/N) (1/(1 + u) − 1) du = N log(1 + 1/N) − 1, an integrand that is negative for every N",
            [1, 2, 5, 9],
            lambda n: sp.simplify(sp.integrate(1 / (1 + small) - 1, (small, 0, sp.Rational(1, n))) * n),
            lambda n: sp.simplify(n * sp.log(1 + sp.Rational(1, n)) - 1),
        ),
        ledger.less("largest of N = 1 … 50", max(line), math.e, digits=6),
    ],
)
nb.claim(
    "C7",
    "On the line ε = 1/√N is not enough.",
    "verified",
    holds=[
        ledger.close("1.1^100 over exp(√N − ½ + 1/(3√N)), N = 100", 1.1**100 / math.exp(10 - 0.5 + 1 / 30), 1, abs=3e-3, digits=5),
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
)

# %% [markdown]
# ### The worst direction
#
# $\sqrt e$ is the growth of a *typical* $v$. The gradient is not random for ever, so what is the worst that can happen? The singular values of
#
# $$P=\prod_{l=1}^N(I+\varepsilon G_l),\qquad t=\varepsilon^2N\ \text{fixed},\ N\to\infty,\ \text{then}\ d\to\infty,$$
#
# are those of a multiplicative Brownian motion of matrices {cite}`biane1997free,gudowska2003infinite`, and free probability gives them in closed form. One
# factor has normalised moments of $(I+\varepsilon G)(I+\varepsilon G)^\top$ equal to $1+\varepsilon^2$ and $1+4\varepsilon^2+2\varepsilon^4$ (up to $1/d$), so its
# $S$-transform is $1-\varepsilon^2(1+2z)+\cdots$. These multiply:
#
# $$S(z)=e^{-t(1+2z)},\qquad x(z)=\frac{1+z}{z}\,e^{t(1+2z)},$$
#
# where $x(z)$ inverts the moment series $z=\sum_k m_kx^{-k}$. The edge of the spectrum is where $dx/dz=0$:
#
# $$\sigma_{\max}^2=\frac{1+z}{z}e^{t(1+2z)},\quad z=\frac{\sqrt{1+2/t}-1}{2},\qquad\sigma_{\min}^2=\frac1{\sigma_{\max}^2}.$$
#
# At $t=1$ this is $(2+\sqrt3)e^{\sqrt3}=21.09$: a stretch by 4.59 in the worst direction against 1.65 in a typical one, at any depth. So
# $\varepsilon=1/\sqrt N$ is safe even there, at initialisation. The density comes for free: at complex $z=a+ib$ with $x(z)$ real, that is
# $\arg\frac{1+z}{z}+2tb=0$, the density of $\log\sigma^2$ is $b/\pi$.

# %%
zeta = sp.Symbol("zeta", positive=True)
x_of = (1 + zeta) / zeta * sp.exp(t * (1 + 2 * zeta))
z_edge = (sp.sqrt(1 + 2 / t) - 1) / 2
fourth = {0: 1, 2: 1, 4: 3}


def trace_moment(d, k):
    """E tr[((I + eps G)(I + eps G)^T)^k] / d for normal entries of variance 1/d, exact."""
    G = sp.Matrix(d, d, lambda i, j: sp.Symbol(f"w{i}{j}"))
    M = (sp.eye(d) + eps * G) * (sp.eye(d) + eps * G).T
    terms = sp.Poly(sp.expand((M**k).trace()), *G).terms()
    return sp.expand(
        sum(c * sp.prod([fourth.get(p, 0) for p in powers]) * sp.Rational(1, d) ** (sum(powers) // 2) for powers, c in terms) / d
    )


m1, m2 = sp.symbols("m1 m2", positive=True)
first_order_S = 1 / m1 - zeta * (m2 - m1**2) / m1**3  # S(z) = (1+z)/z * chi(z), chi the inverse series of m1 w + m2 w^2 + ..
one_factor = first_order_S.subs({m1: 1 + eps**2, m2: 1 + 4 * eps**2 + 2 * eps**4})


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
chi = sp.series(zeta / (1 + zeta) * first_order_S, zeta, 0, 3).removeO()
nb.derivation(
    "D8",
    "σ²_max = ((1 + z)/z) e^(t(1+2z)) with 2z + 1 = √(1 + 2/t), and σ²_min = 1/σ²_max; at t = 1 (2 + √3)e^√3.",
    sym.enumeration(
        "moments of one factor at finite d, (d, power)",
        [(1, 1), (2, 1), (1, 2), (2, 2)],
        lambda c: trace_moment(*c),
        lambda c: 1 + eps**2 if c[1] == 1 else 1 + (4 + sp.Rational(2, c[0])) * eps**2 + (2 + sp.Rational(1, c[0])) * eps**4,
    ),
    sym.series("χ inverts the moment series", m1 * chi + m2 * chi**2, zeta, zeta, order=3),
    sym.series("S-transform of one factor", one_factor, 1 - eps**2 * (1 + 2 * zeta), eps, order=3),
    sym.limit("N of them", (1 - t / N * (1 + 2 * zeta)) ** N, N, sp.oo, sp.exp(-t * (1 + 2 * zeta))),
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
# Orthogonal inputs end at $\rho=0.2539$ for $\varepsilon=N^{-1/2}$, at any depth; for $\varepsilon=1/N$ they stay orthogonal. A plain net brings *all* inputs together (D4).


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
a, p, tau, ratio, r = sp.symbols("a p tau c r", positive=True)
d_ = sp.Symbol("d", positive=True)
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
nb.derivation(
    "D10",
    "A branch that ends in a ReLU has mean ‖x‖/√(πd) in every coordinate; at ε = N^(−1/2) the norm grows like exp(√(N/π) + ¼ − 3/(4π))/2.",
    sym.identity("mean of √2 relu(z), z of variance r²/d", sp.sqrt(2) * rectified(1, r**2 / d_), r / sp.sqrt(sp.pi * d_)),
    sym.identity("r = cosh(aτ) solves r″ = a² r", sp.Derivative(sp.cosh(a * tau), (tau, 2)), a**2 * sp.cosh(a * tau)),
    sym.series("p/r of the growing solution stays as it is", steady * sp.sqrt(growth_square(steady)), steady + eps * a, eps, order=3),
    sym.series("log of its growth in a layer", sp.log(growth_square(steady)) / 2, a * eps + constant * eps**2, eps, order=3),
    *[
        ledger.close(
            f"log of the recursion at N = {n} minus the formula",
            math.log(pushed(n, n**-0.5) / sharp(n)),
            0,
            abs=0.6 / math.sqrt(n),
            digits=2,
        )
        for n in (100, 10000, 100000)
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
# **Set-up.** Width 64, 32 Gaussian inputs, ten random labels, cross-entropy; medians over seeds. **Expected.** From D3 and D5: slope 1 for the
# plain linear net; for residuals $1+2\log_N\varepsilon$, so $0$ at $N^{-1/2}$ and $-1$ at $1/N$; for the one-norm $\frac12$ and $0$.


# %%
def random_task(init, d, batch, classes=10):
    """Inputs (R, batch, d) and a head (R, d, classes) for each run, and labels that know nothing of the inputs, (R, batch)."""
    x = init.normal(batch, d).detach().double()
    head = init.normal(d, classes, std=1 / math.sqrt(d)).detach().double()
    return x, head, (torch.arange(batch) % classes).expand(init.runs, batch)


def gradient_sums(device, arm, N, seeds, d, batch):
    """Sum of the squares, and of the moduli, of the gradients of all hidden matrices at initialisation: two tensors (seeds,), float64."""
    init = nn.Init(seeds)
    x, head, y = (t.to(device) for t in random_task(init, d, batch))
    weights = [W.double().to(device).requires_grad_() for W in draw_layers(arm, init, N, d)]
    nn.cross_entropy_per_run(torch.bmm(last_state(x, arm, weights), head), y).sum().backward()
    return sum(W.grad.square().sum((1, 2, 3)) for W in weights), sum(W.grad.abs().sum((1, 2, 3)) for W in weights)


def increments(device, *, arms, depths, seeds, d, batch):
    """For each arm and depth the two sums of :func:`gradient_sums`, as {"SGD": [..], "Adam": [..]}; 1e300 where they overflow."""
    result = {}
    for arm in arms:
        for N in depths:
            pair = gradient_sums(device, arm, N, seeds, d, batch)
            squares, moduli = (s.nan_to_num(1e300, posinf=1e300) for s in pair)
            result.setdefault(arm, {})[str(N)] = {"SGD": squares, "Adam": moduli}
    return result


# %%
e1_arms = ["orthogonal linear", "plain ReLU", "residual 1", "residual N^-1/2", "residual 1/N", "ReLU-ended N^-1/2"]
e1_depths = nb.at_scale(cpu=[8, 16, 32, 64], gpu=[8, 16, 32, 64, 128, 256], full=[8, 16, 32, 64, 128, 256])
e1_seeds = nb.at_scale(cpu=list(range(6)), gpu=list(range(24)), full=list(range(24)))
e1 = nb.run("E1", increments, arms=e1_arms, depths=e1_depths, seeds=e1_seeds, d=64, batch=32)
e1_record = nb.recorded("E1")
recorded_on = lambda run: f"recorded: {run.device}, {run.date}"
medians = lambda result, arm, term: [float(np.median(row[term])) for row in result[arm].values()]
slope_of = lambda result, arm, term: metrics.loglog_slope([int(N) for N in result[arm]], medians(result, arm, term))
slopes = {(arm, term): slope_of(e1_record.result, arm, term) for arm in e1_arms for term in ("SGD", "Adam")}
live_slopes = {(arm, term): slope_of(e1, arm, term) for arm in e1_arms for term in ("SGD", "Adam")}
print(f"E1 {recorded_on(e1_record)}, {len(e1_record.config['seeds'])} seeds")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Sum of squared gradients and sum of absolute gradients against the number of layers, log-log. Plain linear rises with slope one in both. Residual with multiplier one over root N is level in the squares and rises with slope one half in the moduli. One over N falls with slope minus one in the squares and is level in the moduli. Plain ReLU bends down. The ReLU-ended residual rises steeply. Open markers of the live run lie on the recorded lines."}}
figure, panels = plt.subplots(1, 2, figsize=(7.8, 3.7))
for axes, term, name in zip(panels, ("SGD", "Adam"), (r"$\sum\|g\|^2$", r"$\sum\|g\|_1$"), strict=True):
    for arm in e1_arms:
        values = np.array(medians(e1_record.result, arm, term))
        seen = values < 1e12
        axes.plot(np.array(e1_record.config["depths"])[seen], values[seen], **look(arm))
        live = np.array(medians(e1, arm, term))
        axes.plot(np.array(e1_depths)[live < 1e12], live[live < 1e12], ls="", marker="o", ms=9, mfc="none", mec=STYLE[arm][0])
    axes.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel=name + " (log axis)")
    axes.set_ylim(3e-3 if term == "SGD" else 30, 1e6)
    axes.set_title({"SGD": "an SGD step", "Adam": "a sign step (Adam)"}[term], fontsize=10)
panels[0].legend(fontsize=7, loc="upper left")
heading(figure, "ε = N^(−1/2) levels the SGD increment, ε = 1/N that of Adam (lines recorded, circles live)")
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
                h = h @ mats[0][l]
        return (torch.logsumexp(h @ head, 1) - (h @ head)[range(len(y)), y]).mean()

    start = loss(leaves)
    grads = torch.autograd.grad(start, leaves)
    after = lambda steps: loss([W - rate * s for W, s in zip(leaves, steps, strict=True)])
    return [float((start - after(steps)).detach() / rate) for steps in (grads, [g.sign() for g in grads])]


task_x, task_head, task_y = random_task(nn.Init(list(range(40))), 64, 32)
tested_arms = ("orthogonal linear", "residual N^-1/2", "residual 1/N")
first_order = {arm: [float(s[0]) for s in gradient_sums(torch.device("cpu"), arm, 6, [5], 16, 12)] for arm in tested_arms}
first_error = max(abs(real / first - 1) for arm in tested_arms for real, first in zip(real_decrease(arm, 6), first_order[arm], strict=True))
wide = [float(gradient_sums(torch.device("cpu"), "plain ReLU", n, list(range(6)), 256, 16)[0].median()) for n in (4, 8, 16)]
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
            "real steps over the two sums, three arms: largest relative error",
            first_error,
            1e-3,
            digits=2,
            machine=True,
            scope="N = 6, d = 16",
        ),
        ledger.close("mean square of the inputs", float(task_x.square().mean()), 1, abs=0.02, digits=3, machine=True),
        ledger.close("64 times the mean square of the head", 64 * float(task_head.square().mean()), 1, abs=0.04, digits=3, machine=True),
        ledger.close("labels: classes in use", len(set(task_y[0].tolist())), 10, abs=0.5, digits=2),
        *slope_checks(predicted, slopes, 0.12, scope=e1_scope),
        *slope_checks(predicted, live_slopes, 0.25, machine=True, scope="cpu, 6 seeds, N = 8 to 64"),
    ],
)
nb.claim(
    "C1",
    "In a plain network the decrease of the loss in one step is proportional to the number of layers.",
    "verified",
    holds=[ledger.close("slope, orthogonal linear net", slopes["orthogonal linear", "SGD"].slope, 1, abs=0.1, digits=3, scope=e1_scope)],
)
nb.claim(
    "C2",
    "A plain He-initialised ReLU net follows the same law.",
    "partly",
    holds=[ledger.close("slope at d = 256 for N ≪ d, N = 4 to 16", wide_slope, 1, abs=0.4, digits=2, machine=True, scope="live, 6 seeds")],
    fails=[
        ledger.less(
            "d = 64: typical value at N = 256 over that at N = 8", relu_medians[-1] / relu_medians[0], 0.3, digits=2, scope=e1_scope
        ),
        ledger.close("drift a layer of log(Σ‖g‖²/N), against −5/(2d)", relu_drift, -5 / 128, rel=0.35, digits=2, scope=e1_scope),
    ],
)
nb.claim(
    "C5",
    "In a residual net the gradients are proportional to ε; at ε = 1/√N their squares sum to a constant.",
    "verified",
    holds=[
        *slope_checks([k for k in predicted if k[0].startswith("residual")], slopes, 0.12, scope=e1_scope),
        ledger.more(
            "ε = 1 explodes: median of Σ‖g‖² at N = 32", medians(e1_record.result, "residual 1", "SGD")[2], 1e9, digits=2, scope=e1_scope
        ),
    ],
)

# %% [markdown]
# **What we saw.** The exponents are those of the argument, for both optimisers. The post counts for SGD, and there $1/\sqrt N$ is the answer. It
# does not draw the other consequence: what Adam's first step does is a *sum of moduli*, which is level at $\varepsilon=1/N$, CompleteP's exponent
# {cite}`dey2025completep`; at $1/\sqrt N$ Adam's rate should itself fall like $1/\sqrt N$, as depth-muP has it {cite}`yang2023tp6`. (`deepnet` draws both as
# lines in one plane.)
#
# The He-ReLU net is the surprise: its typical gradient *shrinks*, by the drift of D4. "Every gradient is $O(1)$" holds in the mean and while $N\ll d$.
#
# ### Are residuals the only way?
#
# "A plain network cannot tie its gradients to the depth" (C4) is true at a fixed parametrisation. Two ways around it: write $W=sV$ and learn $V$; the
# forward pass is untouched and $V$'s gradient is $s$ times that of $W$, which is no more than a learning rate of $s^2$. Or shrink the *last* layer by
# $1/\sqrt N$: every hidden gradient shrinks with it, at initialisation.


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
    "A plain network cannot make its gradients depend on the depth without giving up the stable forward signal.",
    "partly",
    holds=[
        sym.enumeration(
            "the backward factor of D3 knows no depth: widths 6 throughout but the ends",
            [(2, 6, 5), (3, 6, 6, 4), (3, 6, 6, 6, 7)],
            lambda c: backward_through(c, half),
            lambda c: sp.Rational(c[-1], c[0]),
        )
    ],
    fails=[
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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, growth against the number of layers at multiplier one over root N on a log axis: in one dimension it rises without bound beyond ten to the eight at 400 layers, in 512 dimensions it stays at 1.65, the root of e. Right, logarithm of the growth against the root of N: the ReLU-ended branch lies on the straight line of slope one over root pi, the branch with a linear end is flat at one half."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6))
ns = np.arange(10, 401)
left.plot(ns, (1 + ns**-0.5) ** ns, color=ORANGE, ls="--", label="one dimension, $(1+N^{-1/2})^N$")
left.errorbar(
    e2_depths,
    e2_mean["residual N^-1/2"],
    np.std(e2_record.result["residual N^-1/2"], 1, ddof=1),
    color=BLUE,
    marker="s",
    ms=5,
    label=f"d = {e2_record.config['d']}, recorded",
)
left.axhline(math.exp(0.5), color=GREY, lw=1, ls=":")
left.annotate(r"$\sqrt{e}=1.65$", (400, math.exp(0.5)), xytext=(0, 6), textcoords="offset points", ha="right", color=GREY)
left.set(yscale="log", xlabel="layers N", ylabel="growth of the norm (log axis)", ylim=(0.7, 1e9))
left.set_title(r"$\varepsilon=N^{-1/2}$", fontsize=10)
left.legend(loc="upper left", fontsize=8)
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
left.legend(fontsize=8, loc="upper right")
for arm in ("plain ReLU", "residual N^-1/2", "residual 1/N"):
    right.plot(
        e2c_record.result[arm][1:] and range(1, len(e2c_record.result[arm])), e2c_record.result[arm][1:], **{**look(arm), "marker": ""}
    )
steps = np.arange(5, 201)
right.plot(steps, 4.5 * math.pi**2 / steps**2, color=BLACK, lw=1, ls=":", label=r"$9\pi^2/2l^2$")
right.set(xscale="log", yscale="log", xlabel="layer l (log axis)", ylabel=r"$1-\cos$ of two inputs (log axis)", ylim=(5e-4, 3))
right.set_title("angles", fontsize=10)
right.legend(fontsize=8, loc="lower left")
heading(figure, "Even the worst direction is bounded, and the residual keeps inputs apart")
nb.show(figure)

# %% tags=["hide-input"]
e2_scope = f"d = {e2_record.config['d']}, {len(e2_record.config['seeds'])} seeds, {recorded_on(e2_record)}"
e2b_scope = f"d = {e2b_record.config['d']}, N = 100, 3 seeds, {recorded_on(e2b_record)}"
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
    "Growth √e at any depth for a branch with a linear end, exp(√(N/π)) for one that ends in a ReLU.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"linear end, N = {n}: growth against (1 + 1/N)^(N/2)",
                float(e2_mean["residual N^-1/2"][i]),
                (1 + 1 / n) ** (n / 2),
                rel=0.05,
                digits=4,
                scope=e2_scope,
            )
            for i, n in enumerate(e2_depths)
        ],
        *[
            ledger.close(
                f"ReLU end, N = {n}: log of the growth against D10's recursion",
                math.log(e2_mean["ReLU-ended N^-1/2"][i]),
                math.log(pushed(n, n**-0.5)),
                abs=0.12,
                digits=4,
                scope=e2_scope,
            )
            for i, n in enumerate(e2_depths)
        ],
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
        *[
            ledger.close(f"σ²_max, t = {s}", inside(e2b_record.result, s), edge(s), rel=0.07, digits=4, scope=e2b_scope)
            for s in (0.25, 1.0, 2.0)
        ],
        *[
            ledger.close(
                f"σ²_max σ²_min, t = {s}",
                inside(e2b_record.result, s) * float(np.mean(e2b_record.result[str(s)]["smallest"])),
                1,
                abs=0.08,
                digits=3,
                scope=e2b_scope,
            )
            for s in (0.25, 1.0, 2.0)
        ],
        *[
            ledger.less(
                f"largest distance to the distribution of D8, t = {s}",
                ks_distance(e2b_record.result[str(s)]["counts"], s),
                0.01,
                digits=2,
                scope=e2b_scope,
            )
            for s in (0.25, 1.0, 2.0)
        ],
        *[
            ledger.less(
                f"live: the same, t = {s}", ks_distance(e2b[str(s)]["counts"], s), 0.04, digits=2, machine=True, scope="d = 160, 3 seeds"
            )
            for s in (0.25, 1.0, 2.0)
        ],
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
            "l = 100: a finite width is slower, by a factor",
            e2c_record.result["plain ReLU"][100] / plain_gap[100],
            1.5,
            abs=0.45,
            digits=3,
            scope=e2c_scope,
        ),
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
            rel=0.06,
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
# **What we saw.** The laws of growth hold to a few per cent, the ReLU-ended one with its constant. Angles follow the wide limit to $l=30$; at $l=100$ a width of 512
# is no longer wide, and they close more slowly, by a factor of about 1.5. The design of Transformer and ResNet branches, which end in a
# linear map, is what makes $1/\sqrt N$ work.

# %% [markdown]
# ## E3: does it train?
#
# **Question.** Is the deep plain net as bad as the argument says, and does $\varepsilon$ decide? **Set-up.** Handwritten digits ($8\times8$ pixels, 1,400 to
# train, 397 to test), width 64, input map and head trained too, Adam, 80 steps of 64, no warm-up, no normalisation, no biases. *Every* arm tries the
# same seven rates, a factor of four apart, on three seeds, in one stacked pass; its best is the rate of least training loss. (A residual layer has two matrices, a plain one
# has one: depth is compared, not parameters.) **Expected.** Plain ReLU worst, for it does not even see its input (D4). Orthogonal tanh better than
# Gaussian: its signal and its angles survive. Residuals best.


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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: test accuracy against the learning rate for seven networks of 100 layers, log axis. The residual networks reach about 0.96 over a wide range of rates, orthogonal tanh peaks near 0.9 at a small rate, plain tanh near 0.4, plain ReLU stays at chance. Right: the best rate of each network against the depth; that of the residual with one over N is the same at all depths, those of plain tanh and orthogonal tanh fall."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.8), gridspec_kw={"width_ratios": [1.5, 1]})
for arm in e3_arms:
    scores = np.array(e3_record.result["100"][arm]["accuracy"])
    left.errorbar(rates, scores.mean(1), scores.std(1, ddof=1), capsize=2, **look(arm))
    right.plot(e3_record.config["depths"], [best_of(n, arm) for n in e3_record.config["depths"]], **look(arm))
left.axhline(logistic_score, color=GREY, lw=1, ls=":")
left.annotate("logistic regression", (1e-5, logistic_score), xytext=(0, 3), textcoords="offset points", fontsize=8, color=GREY)
left.set(xscale="log", xlabel="learning rate of Adam (log axis)", ylabel="test accuracy", ylim=(0, 1.08))
left.set_title("N = 100", fontsize=10)
left.legend(fontsize=7, loc="center right")
right.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="best rate (log axis)", ylim=(1e-5, 5e-2))
right.set_title("best of seven rates", fontsize=10)
layer_ticks(right, e3_record.config["depths"])
heading(figure, "At 100 layers orthogonality rescues a plain net in part, a residual wholly")
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
                h = torch.tanh(h @ hidden[0][l])
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


stack_errors = [stack_against_reference(arm, w) for arm, w in (("residual N^-1/2", 0), ("ReLU-ended 1/N", 0), ("orthogonal tanh", 0.5))]
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
picked = batches(torch.device("cpu"), task[0], task[1], [0, 1], [1, 2], 50, 2)(1)
nb.claim(
    "X2",
    "The stacked training loop is Adam on the plain network run by run; features, batches and scores are what the text says.",
    "verified",
    holds=[
        *[
            ledger.less("logits after six steps against torch.optim.Adam, relative", e, 2e-3, digits=1, machine=True, scope="float32")
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
        ledger.more("and the two seeds different ones", float((picked[0][0] - picked[0][1]).abs().max()), 1, digits=1, machine=True),
    ],
)

# %% tags=["hide-input"]
interior = [e3_record.config["rates"].index(best_of(n, arm)) for n in (25, 50, 100, 200) for arm in e3_arms if arm != "ReLU-ended N^-1/2"]
trained_gap = lambda N, a, b, where: ledger.better(
    f"accuracy at N = {N}: {a} minus {b}", recorded_score(N, a), recorded_score(N, b), scope=where
)
live_loss = {arm: e3["50"][arm]["loss"][0] if nb.scale == "cpu" else at_best(e3_record, 50, arm, "loss")[1] for arm in e3_arms}
live_gap = lambda a, b: ledger.better(
    f"live, N = 50, training loss: {a} minus {b}", live_loss[a], live_loss[b], scope="3 fresh seeds, rates of the recorded run"
)
nb.experiment(
    "E3",
    "Tuned and at 100 layers: plain ReLU fails, plain tanh learns a little, orthogonal tanh much, residual nets all there is to learn.",
    "verified",
    holds=[
        *[trained_gap(100, a, b, e3_scope) for b, a in itertools.pairwise(e3_arms[:4])],
        *[
            ledger.more(f"{arm}: accuracy at N = 100", float(np.mean(recorded_score(100, arm))), 0.93, digits=3, scope=e3_scope)
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
nb.claim(
    "C11",
    "A deep plain feed-forward net necessarily trains badly.",
    "refuted",
    fails=[
        ledger.more(
            "orthogonal tanh, 100 plain layers: worst of 3 seeds, test accuracy (chance 0.1)",
            min(recorded_score(100, "orthogonal tanh")),
            0.7,
            digits=3,
            scope=e3_scope,
        ),
        ledger.more(
            "live, 50 layers: worst of 3 seeds",
            float(min(live_score["orthogonal tanh"])),
            0.7,
            digits=3,
            machine=True,
            scope="3 fresh seeds",
        ),
    ],
)
steady_rates = {arm: [best_of(n, arm) for n in e3_record.config["depths"]] for arm in e3_arms[:5]}
nb.claim(
    "X5",
    "Under Adam the best rate at ε = 1/N does not depend on the depth; at 1/√N, and in plain nets, it falls.",
    "verified",
    holds=[
        ledger.close(
            "ε = 1/N: largest over smallest best rate, N = 25 to 200",
            max(steady_rates["residual 1/N"]) / min(steady_rates["residual 1/N"]),
            1,
            abs=0.1,
            digits=2,
            scope=e3_scope,
        ),
        *[
            ledger.more(
                f"{arm}: best rate at N = 25 over that at N = 200 (the grid's factor is 4)",
                steady_rates[arm][0] / steady_rates[arm][-1],
                3,
                digits=2,
                scope=e3_scope,
            )
            for arm in ("residual N^-1/2", "orthogonal tanh", "plain tanh")
        ],
        ledger.more(
            "training loss at the highest rate, N = 200 over N = 25: ε = 1/√N",
            float(
                np.mean(e3_record.result["200"]["residual N^-1/2"]["loss"][-1])
                / np.mean(e3_record.result["25"]["residual N^-1/2"]["loss"][-1])
            ),
            5,
            digits=2,
            scope=e3_scope,
        ),
        ledger.less(
            "the same, ε = 1/N",
            float(
                np.mean(e3_record.result["200"]["residual 1/N"]["loss"][-1]) / np.mean(e3_record.result["25"]["residual 1/N"]["loss"][-1])
            ),
            1.5,
            digits=2,
            scope=e3_scope,
        ),
    ],
)
nb.claim(
    "X3",
    "It is true in degree: a residual net trains better, and the plain one falls behind as it gets deeper.",
    "verified",
    holds=[
        trained_gap(100, "residual N^-1/2", "orthogonal tanh", e3_scope),
        trained_gap(200, "residual 1/N", "orthogonal tanh", e3_scope),
        ledger.more(
            "orthogonal tanh: training loss at N = 200 over that at N = 25",
            float(
                np.mean(at_best(e3_record, 200, "orthogonal tanh", "loss")[1])
                / np.mean(at_best(e3_record, 25, "orthogonal tanh", "loss")[1])
            ),
            3,
            digits=2,
            scope=e3_scope,
        ),
        ledger.less(
            "residual 1/N: the same ratio",
            float(np.mean(at_best(e3_record, 200, "residual 1/N", "loss")[1]) / np.mean(at_best(e3_record, 25, "residual 1/N", "loss")[1])),
            1.3,
            digits=2,
            scope=e3_scope,
        ),
    ],
)

# %% [markdown]
# **What we saw.** The order is the expected one. "Necessarily" is too strong: a plain tanh net of 100 layers with orthogonal matrices learns most of the
# task in 80 steps; dynamical isometry has trained plain nets of 10,000 layers {cite}`xiao2018dynamical`, and kernel shaping does it for ReLU-like nets
# {cite}`martens2021dks,zhang2022deep`. But it needs a small rate and loses with depth, just as an increment that grows with $N$ predicts. Depth buys nothing on this
# task: the logistic regression does as well. The experiment is about whether depth *hurts*.
#
# The ReLU-ended branch with $1/\sqrt N$ starts from exploding activations (D10), and Adam, whose steps do not see the size of a gradient, pulls it back some way, best at
# the highest rate of the grid (so this one arm may be under-tuned at 100 and 200 layers). At $1/N$ it does as well as the rest.
#
# And the right panel shows what E1 foretold for Adam: at $\varepsilon=1/N$ the best rate is the same at all four depths.
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
    check
    for n, arm, row in cases
    for check in (
        ledger.less(
            f"{arm}, N = {n}: mean cosine before, modulus",
            abs(float(np.mean(row["cosine before"]))),
            0.02,
            digits=2,
            machine=machine,
            scope=scope,
        ),
        ledger.better(f"{arm}, N = {n}: cosine after minus before", row["cosine after"], row["cosine before"], sigmas=3, scope=scope),
        ledger.better(f"{arm}, N = {n}: norm ratio after minus before", row["ratio after"], row["ratio before"], scope=scope),
    )
]
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
# **What we saw.** The random picture is a picture of the start. Training finds directions in which the layers agree, and the smaller $\varepsilon$ is the
# more they do; the signal then grows by a moderate factor more. What keeps that in bounds is the budget $N\varepsilon$ of the coherent sum, the one-dimensional argument: at
# $\varepsilon=1/N$ it is at most $e$ if branches stay of norm one, at $1/\sqrt N$ nothing but a short training forbids $e^{\sqrt N}$.
#
# ## E5: warm-up treats the symptom
#
# **Question.** The post holds that warm-up, the usual remedy for a large first step {cite}`goyal2017accurate`, treats the symptom. What would the disease be? If the increment grows like $N$, so does
# the curvature along the gradient, and the largest rate at which gradient descent still descends falls like $1/N$, at *every* step. **Set-up.** The
# task of E1 at width 32, 16 inputs; the rate up to which the loss falls in each of 20 steps, on a grid a factor 1.7 apart; the same after 20 steps of linear warm-up (E5b).
# Beside it the largest eigenvalue of the Hessian by power iteration. And in E3b, E3 with a warm-up over half of the steps, every rate tuned again. **Expected.** Slope $-1$ for the
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
def sharpness(arm, N, iterations=25):
    """Largest eigenvalue of the Hessian over the hidden matrices at initialisation, E5's task, seed 0: power iteration, float64."""
    init = nn.Init([0])
    x, head, y = random_task(init, 32, 16)
    weights = [W.double().requires_grad_() for W in draw_layers(arm, init, N, 32)]
    z = torch.bmm(last_state(x, arm, weights), head)[0]
    gradient = torch.autograd.grad(F.cross_entropy(z, y[0]), weights, create_graph=True)
    direction = [torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=W.dtype) for W in weights]
    for _ in range(iterations):
        size_ = math.sqrt(sum(float(u.square().sum()) for u in direction))
        direction = [u / size_ for u in direction]
        direction = torch.autograd.grad(sum((g * u).sum() for g, u in zip(gradient, direction, strict=True)), weights, retain_graph=True)
    return math.sqrt(sum(float(u.square().sum()) for u in direction))


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
curvature = {arm: [sharpness(arm, n) for n in (8, 16, 32)] for arm in e5_arms}
curvature_slope = {arm: metrics.loglog_slope((8, 16, 32), values).slope for arm, values in curvature.items()}
centre = lambda values: np.exp(np.mean(np.log(np.array(values)), 1))
rate_slope = lambda result, depths: {arm: metrics.loglog_slope(depths, centre(values)).slope for arm, values in result.items()}
e5_slopes, e5b_slopes = rate_slope(e5_record.result, e5_record.config["depths"]), rate_slope(e5b_record.result, e5b_record.config["depths"])
live5, live5b = rate_slope(e5, e5_depths), rate_slope(e5b, e5b_depths)
gain = centre(e5b_record.result["orthogonal linear"]) / centre(e5_record.result["orthogonal linear"])[: len(e5b_record.config["depths"])]
warm_score = lambda arm: at_best(e3b_record, 50, arm)[1]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left, log-log: the largest usable learning rate of gradient descent against the number of layers. The plain linear net falls with slope minus one, and with warm-up along a parallel line several times higher; the residual with one over root N is level, that with one over N rises. Right: test accuracy of four networks of 50 layers without and with warm-up, each at its best rate: the residual network without warm-up lies above the plain networks with it."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.7))
for arm in e5_arms:
    left.plot(e5_record.config["depths"], centre(e5_record.result[arm]), **look(arm))
for arm in e5_arms[:2]:
    left.plot(
        e5b_record.config["depths"],
        centre(e5b_record.result[arm]),
        **{**look(arm), "mfc": "none", "lw": 1, "label": DISPLAY[arm] + ", warm-up"},
    )
left.set(xscale="log", yscale="log", xlabel="layers N (log axis)", ylabel="largest usable rate (log axis)", ylim=(1e-2, 3e4))
left.set_title("gradient descent", fontsize=10)
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
right.set_title("Adam; hatched: with warm-up", fontsize=10)
heading(figure, "Warm-up raises the line, its slope stays")
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
        *[
            ledger.close(f"rate found by the stack over that of a loop, seed {s}, warm-up {w}", a / b, 1, abs=1e-3, digits=3)
            for w in (0, 5)
            for s, a, b in zip((1, 4), code_rates[w], hand_rates[w], strict=True)
        ],
        ledger.close("the same for a single step", one_step_code / one_step_hand, 1, abs=1e-3, digits=3),
        ledger.less("which ends inside the grid", one_step_hand, hand_grid[-1], margin=1.0, digits=3),
        *slope5(e5_slopes, "recorded", 0.25, scope=e5_scope),
        *slope5(live5, "live", 0.5, machine=True, scope="cpu, N = 8 to 32"),
        *slope5(
            {arm: -slope for arm, slope in curvature_slope.items()},
            "largest eigenvalue of the Hessian, sign changed",
            0.35,
            machine=True,
            scope="live, N = 8 to 32",
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
        ledger.less("residual, ε = N^(−1/2): modulus of the slope", abs(e5b_slopes["residual N^-1/2"]), 0.3, digits=2, scope=e5_scope),
        ledger.less("live: slope with warm-up", live5b["orthogonal linear"], -0.5, digits=2, machine=True, scope="cpu, N = 8 to 32"),
    ],
)
nb.experiment(
    "E3b",
    "Trained with a warm-up over half of the steps and tuned again, the plain nets of 50 layers gain nothing and stay behind a residual net without one.",
    "verified",
    holds=[
        *[
            ledger.better(
                f"residual, no warm-up, minus {arm} with it: accuracy",
                recorded_score(50, "residual N^-1/2"),
                warm_score(arm),
                scope=f"3 seeds, {recorded_on(e3b_record)}",
            )
            for arm in e3_arms[:3]
        ],
        *[
            ledger.less(
                f"{arm}: gain of accuracy by warm-up, modulus",
                abs(float(np.mean(warm_score(arm)) - np.mean(recorded_score(50, arm)))),
                0.06,
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
    "Warm-up treats the symptom: it softens the first steps and leaves the cause, a curvature that grows with the depth.",
    "verified",
    holds=[
        ledger.close(
            "largest eigenvalue of the Hessian, plain linear net: slope",
            curvature_slope["orthogonal linear"],
            1,
            abs=0.35,
            digits=2,
            machine=True,
            scope="live, N = 8 to 32",
        ),
        ledger.close("largest usable rate, plain linear: slope", e5_slopes["orthogonal linear"], -1, abs=0.25, digits=3, scope=e5_scope),
        ledger.less("the same behind a warm-up of 20 steps", e5b_slopes["orthogonal linear"], -0.7, digits=3, scope=e5_scope),
        ledger.less(
            "residual, ε = N^(−1/2), no warm-up: modulus of the slope", abs(e5_slopes["residual N^-1/2"]), 0.25, digits=2, scope=e5_scope
        ),
    ],
)

# %% [markdown]
# **What we saw.** C12 holds, in a sharper form. Warm-up is not useless: gradient descent first moves to a flatter place, and the plain linear net then bears a rate several
# times higher, at every depth. But the factor hardly depends on the depth, so the $1/N$ is still there; the residual multiplier removes it. With Adam on the
# digits warm-up changes next to nothing: after tuning, the three plain nets end where they ended without it, to within the spread of the seeds.
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
            "linear orthogonal; He-ReLU only for N ≪ d",
        ],
        ["the same, residual, ε = 1/√N", "0", f"{slopes['residual N^-1/2', 'SGD'].slope:.2f}", "Adam's: ½, see E1"],
        ["the same, residual, ε = 1/N", "−1 (implied)", plain_number(slopes["residual 1/N", "SGD"].slope), "Adam's: 0"],
        ["(1 + 1/N)^N", "below e", "below e, increasing", "proved"],
        ["(1 + ε)^N on the line, ε = 1/√N, N = 100", "unbounded", "13,781", "exp(√N − ½ + …)"],
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
            "deep plain nets",
            "necessarily train badly",
            f"accuracy {np.mean(recorded_score(100, 'orthogonal tanh')):.2f} at 100 layers",
            "orthogonal tanh",
        ],
    ],
)

# %% [markdown]
# ## Beyond the post
#
# - **The worst direction** at $\varepsilon=1/\sqrt N$ is bounded too, by $\sqrt{(2+\sqrt3)e^{\sqrt3}}=4.59$ (D8); for general $t$ the formula is closed.
# - **A second reason for residuals**: they keep inputs apart (D9). A plain ReLU net is blind before it is unstable, just as plain Post-LN in `deepnet` is
#   blind to its tokens.
# - **Adam changes the answer.** Its budget is $N\varepsilon=1$: CompleteP's $1/N$ with a rate that does not depend on depth {cite}`dey2025completep`, or $1/\sqrt N$ with
#   a rate like $1/\sqrt N$ {cite}`yang2023tp6`. Stable ResNet {cite}`hayou2021stable` came to $1/\sqrt N$ from the kernel side, Fixup {cite}`zhang2019fixup` to a scaled
#   initialisation without normalisation.
# - **Plain nets can be repaired**: orthogonal matrices (E3), or activations shaped so that the angles survive {cite}`martens2021dks,zhang2022deep`.
#
# ## What does not hold
#
# - **"A deep plain net necessarily trains badly"** (C11): orthogonal tanh nets of 100 layers train. Less well, and at smaller rates, than residual nets.
# - **"All gradients of a plain net are $O(1)$"** (C2) is a statement about means. A He-ReLU net of 256 layers and width 64 has a typical gradient far below that.
# - **"$1/\sqrt N$ is enough"** (C10) needs a branch of mean zero, so one that ends in a random linear map. And it is about the start: training aligns layers (E4).
# - **"A plain net cannot tie its gradients to the depth"** (C4): a small last layer does, at initialisation.
# - The post derives for SGD. For Adam its criterion gives $1/N$.
#
# What survives: the argument. Every exponent in it is found again, and C12, the remark on warm-up that it makes in passing, is right.
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
def repaired(fix, N=100, d=200, draws=4):
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
# $\log\sigma_{\max}^2\approx2\sqrt{2t}$ for small $t$ (twice the edge of a semicircle), and $\sigma_{\max}^2\approx2e\,t\,e^t$ for large $t$: the typical growth $e^t$ times a factor linear in $t$.
# ```

# %% tags=["hide-cell"]
log_edge = sp.log((1 + z_edge) / z_edge) + t * (1 + 2 * z_edge)
print(sp.limit(log_edge / sp.sqrt(t), t, 0), float((log_edge - t - sp.log(2 * sp.E * t)).subs(t, 10**4).evalf(30)) < 1e-4)

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# Each gradient carries $\varepsilon$: $1-2p$ for SGD, $1-p$ for Adam; $-\frac12$ and $\frac14$ at $p=\frac34$.
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
            "centred", fixed["centre"], math.exp((1 - 1 / math.pi) / 2), rel=0.05, digits=3, machine=True, scope="d = 200, N = 100, 4 draws"
        ),
        ledger.close("signs", fixed["signs"], math.exp(0.5), rel=0.05, digits=3, machine=True, scope="d = 200, N = 100, 4 draws"),
        sym.limit("small t", log_edge / sp.sqrt(t), t, 0, 2 * sp.sqrt(2)),
        sym.limit("large t", sp.simplify((1 + z_edge) / z_edge) / t * sp.exp(t * (sp.sqrt(1 + 2 / t) - 1)), t, sp.oo, 2 * sp.E),
        *[
            ledger.close(f"{name}, p = ¾: slope", slope, want, abs=0.24, digits=2, machine=True, scope="6 seeds, N = 8 to 64")
            for name, slope, want in zip(("SGD", "Adam"), power_slopes, (-0.5, 0.25), strict=True)
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
# The post: {cite}`su2022residual`; its prerequisite: {cite}`su2022deepnet`, after {cite}`wang2022deepnet`. Residual networks: {cite}`he2016deep`. Initialisation:
# {cite}`glorot2010understanding`, {cite}`he2015delving`. Products of random matrices: {cite}`hanin2020products`, {cite}`biane1997free`, {cite}`gudowska2003infinite`. The ReLU kernel:
# {cite}`cho2009kernel`. Plain nets that train: {cite}`xiao2018dynamical`, {cite}`martens2021dks`, {cite}`zhang2022deep`. Scaled residuals: {cite}`zhang2019fixup`,
# {cite}`hayou2021stable`, {cite}`yang2023tp6`, {cite}`dey2025completep`. Warm-up: {cite}`goyal2017accurate`.
