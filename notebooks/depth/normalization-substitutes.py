# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Looking for a replacement of normalization through gradient approximation
#
# [通过梯度近似寻找Normalization的替代品](https://kexue.fm/archives/10831) · 2025-04-02 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/depth/normalization-substitutes.ipynb)
#
# @@POINT@@

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time
from typing import NamedTuple

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.integrate
import scipy.optimize
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, minilm, nn, optim, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, COLORS, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("normalization-substitutes")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: the first coordinate of RMSNorm against the first coordinate of the input, the others fixed. Dots computed by RMSNorm lie exactly on the curve x over the root of x squared plus a constant; the tanh of DyT saturates earlier. Right: the mean output given the input. For Student-t tokens dots lie on the same kind of curve, with an amplitude of 1.88; for tokens of two scales the mean rises, falls and rises again, which no squashing function does."}}
def given_input(x, y, edges):
    """Mean of y in the bins of x between ``edges``."""
    index = torch.bucketize(x.flatten(), edges)
    total, count = (torch.zeros(len(edges) + 1, dtype=x.dtype).index_add_(0, index, v) for v in (y.flatten(), torch.ones_like(y.flatten())))
    return (total / count)[1:-1]


with torch.random.fork_rng():
    torch.manual_seed(1)
    shape_t = torch.distributions.Gamma(torch.tensor(1.5, dtype=torch.float64), 1.5).sample((4000, 1)).rsqrt()
    two_scales = torch.where(torch.rand(4000, 1) < 0.5, 1.0, 4.0)
    pure = torch.randn(4000, 512, dtype=torch.float64)
edges = torch.linspace(-8, 8, 65, dtype=torch.float64)
middles, line = (edges[1:] + edges[:-1]) / 2, np.linspace(-8, 8, 400)
others = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
along = torch.linspace(-8, 8, 33, dtype=torch.float64)
rows = torch.cat([along[:, None], others.expand(33, 3)], 1)
figure, (axes, right) = plt.subplots(1, 2, figsize=(8.2, 3.6))
axes.plot(along, (rows / metrics.rms(rows)[:, None])[:, 0], "o", ms=4, color=BLACK, label="RMSNorm, d = 4")
axes.plot(line, 2 * line / np.sqrt(line**2 + 5.25), color=BLUE, label="√d x / √(x² + C): exact")
axes.plot(line, 2 * np.tanh(line / math.sqrt(5.25)), color=ORANGE, ls="--", label="√d tanh(x / ρ√d), ρ frozen")
axes.set(xlabel="x₁, the other coordinates fixed", ylabel="y₁")
axes.set_title("Along a coordinate RMSNorm is DyISRU,", fontsize=10)
axes.legend(fontsize=8)
for scale, name, color, mark in ((shape_t, "Student-t tokens, ν = 3", BLUE, "o"), (two_scales, "tokens of scale 1 or 4", ORANGE, "s")):
    x = scale * pure
    right.plot(middles, given_input(x, x / metrics.rms(x)[:, None], edges), mark, ms=3.5, color=color, label=name)
right.plot(line, 1.87997 * line / np.sqrt(line**2 + 3), color=BLUE, lw=1, label="1.880 x / √(x² + 3)")
right.set(xlabel="x", ylabel="mean of y given x", ylim=(-2.1, 2.1))
right.set_title("but the best element-wise map depends on the tokens", fontsize=10)
right.legend(fontsize=8, loc="lower right")
nb.show(figure)

# %% [markdown]
# ## The question
#
# A normalization layer ties the channels of a token together: every output depends on every input. It costs a reduction over the width, it complicates quantization and fusion, and
# it seems to be needed. {cite}`zhu2025dyt` report that it is not: replace it by the element-wise *dynamic tanh*, $y=\gamma\tanh(\alpha x)+\beta$ with one learned scalar $\alpha$ a
# layer, and vision and language models end where they did. Why $\tanh$? They had looked at input-output plots of trained layers and seen an S.
#
# The post, after {cite}`stollenwerk2025dynamic`, looks for a reason: write down the gradient of normalization, keep what an element-wise function can keep, and solve for
# the function. One way of closing the equation gives $\tanh$, another gives $x/\sqrt{x^2+C}$, which it calls the best there is. It ends in doubt whether anything element-wise can replace normalization for good.
#
# We check the derivation, find out what exactly is approximated in it, answer "the best" in closed form, and try the candidates on the norm layers of a real network and in a small
# language model. What Pre-Norm and Post-Norm do to depth is the matter of {doc}`deepnet <deepnet>`; the scale of attention, which returns at the end, that of
# {doc}`attention-scale <../attention/attention-scale>`.
#
# Notation: one token $x\in\mathbb R^d$ with $\rho=\lVert x\rVert_{RMS}$, its norm $y=\operatorname{RMSNorm}(x)=x/\rho$, and $C$ the constant of the second solution. In
# {cite}`stollenwerk2025dynamic` $C$ is the number of channels and $\beta$ the constant. LayerNorm is RMSNorm of the centred token.
#
# ## The Jacobian
#
# To first order $\lVert x+\Delta x\rVert\approx\lVert x\rVert\,(1+x\cdot\Delta x/\lVert x\rVert^2)$, so that
#
# $$\frac{\partial y}{\partial x}=\frac1\rho\Bigl(I-\frac{yy^\top}d\Bigr).$$
#
# It is a projector over $\rho$: the direction of $x$ itself is killed ($Jx=0$, because $y$ does not change when $x$ is scaled), all others are divided by $\rho$. For LayerNorm the mean's
# direction is killed too: $\frac1\sigma(I-\frac{\mathbf 1\mathbf 1^\top}d-\frac{yy^\top}d)$.


# %%
def rms(x):
    return sp.sqrt(sum(v**2 for v in x) / sp.Integer(len(x)))


def rms_norm(x):
    return sp.Matrix([v / rms(x) for v in x])


def layer_norm(x):
    return rms_norm([v - sum(x) / sp.Integer(len(x)) for v in x])


def differentiated(norm, x):
    """The Jacobian of a norm, left for the check to differentiate."""
    return sp.Matrix(len(x), len(x), lambda i, j: sp.Derivative(norm(x)[i], x[j]))


def jacobian(x):
    y = rms_norm(x)
    return (sp.eye(len(x)) - y * y.T / len(x)) / rms(x)


# %%
started = time.process_time()
x4 = sp.symbols("x1:5", real=True)
h4, t = sp.symbols("h1:5", real=True), sp.Symbol("t", real=True)
length = lambda v: sp.sqrt(sum(a**2 for a in v))
moved = length([a + t * b for a, b in zip(x4[:3], h4, strict=False)])
dotted = sum(a * b for a, b in zip(x4[:3], h4, strict=False))
centred = sp.Matrix([x4[0], x4[1], -x4[0] - x4[1]])  # a centred token of width 3, for LayerNorm's closed form
at_centred = dict(zip(x4[:3], centred, strict=True))
layer_jacobian = jacobian(list(centred)) - sp.ones(3, 3) / 3 / rms(list(centred))
points = [(1, 2, 2), (3, 0, 4), (2, 3, 6), (1, 4, 8), (1, 2, 2, 4)]
spectrum = lambda p: differentiated(rms_norm, x4[: len(p)]).doit().subs(dict(zip(x4, p, strict=False))).eigenvals()

# %%
nb.derivation(
    "D1",
    "RMSNorm has the Jacobian (I − yyᵀ/d)/ρ: it kills x, divides the other d − 1 directions by ρ, and has the trace (d − 1)/ρ.",
    sym.series("‖x + tΔx‖ to first order, d = 3", moved, length(x4[:3]) * (1 + t * dotted / length(x4[:3]) ** 2), t, order=2),
    *[sym.identity(f"RMSNorm, d = {d}", differentiated(rms_norm, x4[:d]), jacobian(x4[:d])) for d in (2, 3, 4)],
    sym.identity("Jx = 0, d = 3", differentiated(rms_norm, x4[:3]) * sp.Matrix(x4[:3]), sp.zeros(3, 1)),
    sym.identity("trace, d = 4", differentiated(rms_norm, x4).trace(), 3 / rms(x4)),
    sym.enumeration("eigenvalues", points, lambda p: str(spectrum(p)), lambda p: str({1 / rms(p): len(p) - 1, sp.Integer(0): 1})),
    sym.identity("LayerNorm, d = 3", differentiated(layer_norm, x4[:3]).doit().subs(at_centred), layer_jacobian),
)

# %%
wide = torch.randn(384, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
autograd = torch.autograd.functional.jacobian(lambda x: F.rms_norm(x, (384,), eps=0.0), wide)
rho_wide, y_wide = metrics.rms(wide), wide / metrics.rms(wide)
closed = (torch.eye(384, dtype=torch.float64) - torch.outer(y_wide, y_wide) / 384) / rho_wide
nb.claim(
    "C1",
    "The Jacobian of RMSNorm is (I − yyᵀ/d)/ρ.",
    "verified",
    holds=[ledger.less("autograd through torch's own rms_norm, d = 384: largest difference", float((autograd - closed).abs().max()), 1e-12, machine=True, method="float64")],
)

# %% [markdown]
# ## Keeping the diagonal
#
# An element-wise map $f(x)=[f(x_1),\dots,f(x_d)]$ has a diagonal Jacobian. The nearest diagonal matrix, in the Frobenius norm, is the diagonal:
#
# $$\frac{dy_i}{dx_i}=\frac1\rho\Bigl(1-\frac{y_i^2}d\Bigr).\tag{1}$$
#
# What is thrown away? The off-diagonal part of $-yy^\top/(d\rho)$. With the kurtosis $\kappa=\frac1d\sum y_i^4$ its size is known exactly,
#
# $$\frac{\lVert\text{dropped}\rVert_F^2}{\lVert\text{kept}\rVert_F^2}=\frac{1-\kappa/d}{d-2+\kappa/d}\approx\frac1d,$$
#
# and that looks harmless. But all of it acts in one direction, and there it is as large as what is kept: its operator norm is about $1/\rho$, and with it goes $Jx=0$. An element-wise map cannot be
# scale-invariant. The other end is $\kappa=d$, one channel with all the energy: nothing at all is dropped. Keep that in mind for the real network below.

# %%
off = lambda J: J - sp.diag(*J.diagonal())
squares = lambda J: sum(v**2 for v in J)
kurtosis = lambda x: sum(v**4 for v in rms_norm(x)) / len(x)
share = lambda x: (1 - kurtosis(x) / len(x)) / (len(x) - 2 + kurtosis(x) / len(x))
kept, dropped = autograd.diagonal(), autograd - torch.diag(autograd.diagonal())
nb.derivation(
    "D2",
    "The diagonal (1 − yᵢ²/d)/ρ drops a share of (1 − κ/d)/(d − 2 + κ/d), about 1/d, of the squared entries; but in operator norm the dropped part is as large as 1/ρ, and Jx = 0 is lost.",
    *[
        sym.identity(f"share of the squares, d = {d}", squares(off(J)) / squares(J - off(J)), share(x4[:d]))
        for d in (2, 3, 4)
        for J in [differentiated(rms_norm, x4[:d]).doit()]
    ],
    ledger.close("√share of a Gaussian token over 1/√d, d = 384", float(dropped.norm() / kept.norm()) * math.sqrt(384), 1, abs=0.01, machine=True),
    ledger.close("ρ × operator norm of the dropped part", float(rho_wide * torch.linalg.matrix_norm(dropped, 2)), 1, abs=0.02, machine=True),
    ledger.close("‖Jx‖", float((autograd @ wide).norm()), 0, abs=1e-10, digits=1, machine=True),
    ledger.more("ρ‖diag(J)x‖/‖x‖", float(rho_wide * (kept * wide).norm() / wide.norm()), 0.95, machine=True),
)

# %% [markdown]
# ## First closure: a constant $\rho$ gives tanh
#
# Equation (1) is no differential equation yet, for $\rho$ depends on all channels. Take it to be a constant; then the variables separate, and with $y(0)=0$
#
# $$\int_0^y\frac{dv}{1-v^2/d}=\sqrt d\,\operatorname{artanh}\frac y{\sqrt d}=\frac x\rho\quad\Longrightarrow\quad y=\sqrt d\,\tanh\frac x{\rho\sqrt d}.\tag{2}$$
#
# With $\sqrt d$ inside $\gamma$ and $1/(\rho\sqrt d)$ called $\alpha$ that is DyT.

# %%
x, y, v = sp.symbols("x y v", positive=True)
d, C, rho = sp.symbols("d C rho", positive=True)
dyt = sp.sqrt(d) * sp.tanh(x / (rho * sp.sqrt(d)))
separated = sp.Integral(1 / (1 - v**2 / d), (v, 0, y))
nb.derivation(
    "D3",
    "Equation (1) with a constant ρ and y(0) = 0 has the solution √d tanh(x/(ρ√d)).",
    sym.identity("it solves dy/dx = (1 − y²/d)/ρ", sp.Derivative(dyt, x), (1 - dyt**2 / d) / rho),
    sym.numeric("the separated integral", separated, sp.sqrt(d) * sp.atanh(y / sp.sqrt(d)), at={y: (0.1, 1.9), d: (4, 9)}, digits=15, points=5),
    sym.limit("y(0)", dyt, x, 0, 0),
    sym.limit("slope at 0", dyt / x, x, 0, 1 / rho),
)

# %%
march = lambda slope, y0, x0, x1: float(scipy.integrate.solve_ivp(slope, (x0, x1), [y0], rtol=1e-11, atol=1e-12).y[0, -1])
ends = [(16, 0.7, 3.0), (16, 2.0, 9.0), (4, 1.3, 2.5)]  # d, rho, x
nb.claim(
    "C2",
    "√d tanh(x/(ρ√d)) is the solution of dy/dx = (1 − y²/d)/ρ through the origin.",
    "verified",
    holds=[
        ledger.close(
            f"Runge-Kutta from 0 to x = {e}, d = {n}, ρ = {r}",
            march(lambda _, y, n=n, r=r: (1 - y**2 / n) / r, 0.0, 0.0, e),
            float(dyt.subs({d: n, rho: r, x: e})),
            rel=1e-8,
            digits=7,
        )
        for n, r, e in ends
    ],
)

# %% [markdown]
# Look again at what was held constant. Along the coordinate $x_i$ the quotient rule gives
#
# $$\frac{d}{dx_i}\frac{x_i}\rho=\frac1\rho-\frac{x_i}{\rho^2}\frac{d\rho}{dx_i},\qquad\frac{x_i}{\rho^2}\frac{d\rho}{dx_i}=\frac1\rho\,\frac{y_i^2}d .$$
#
# **The term $y_i^2/d$ that bends the curve *is* the change of $\rho$.** A $\rho$ that is really constant gives the straight line $x/\rho$. Equation (2) lets $\rho$ vary in one place and
# freezes it in the other; tanh is the result of half an approximation. This does not make it a bad function. It says that the derivation does not single it out.

# %%
along_x = rms_norm([x, *sp.symbols("c2:5", positive=True)])  # a token of width 4 along its first coordinate
rho_x = x / along_x[0]
nb.claim(
    "X1",
    "The term −yᵢ²/(dρ) of the diagonal is the derivative of ρ itself: a ρ constant throughout leaves dy/dx = 1/ρ, a straight line.",
    "verified",
    holds=[
        sym.identity("(x/ρ²) dρ/dx = y²/(dρ), d = 4", x / rho_x**2 * sp.Derivative(rho_x, x), along_x[0] ** 2 / 4 / rho_x),
        sym.identity("1/ρ less that is the diagonal", sp.Derivative(along_x[0], x), 1 / rho_x - x / rho_x**2 * sp.diff(rho_x, x)),
    ],
)

# %% [markdown]
# ## Second closure: $\rho=x_i/y_i$ gives DyISRU
#
# There is a better use of the definition. Since $y_i=x_i/\rho$, put $\rho=x_i/y_i$ and no $\rho$ is left:
#
# $$\frac{dy}{dx}=\frac yx\Bigl(1-\frac{y^2}d\Bigr).\tag{3}$$
#
# A Bernoulli equation: $u=y^{-2}$ makes it linear, $u'=-\frac2x\bigl(u-\frac1d\bigr)$, so $u=\frac1d+\frac{C}{d\,x^2}$ and
#
# $$y=\frac{\sqrt d\,x}{\sqrt{x^2+C}},\tag{4}$$
#
# the *inverse square root unit* (ISRU, {cite}`carlile2017isru`), here with a learned constant: DyISRU. Every $C$ passes through the origin, because the equation is singular there; the
# initial condition that fixed tanh fixes nothing here. The slope at 0 is $\sqrt{d/C}$, $C=0$ is the sign function, and $C<0$ is the branch above $\sqrt d$, which no norm reaches.

# %%
dyisru = sp.sqrt(d) * x / sp.sqrt(x**2 + C)
Y, U = sp.Function("Y", positive=True), sp.Function("U")
equation = Y(x) / x * (1 - Y(x) ** 2 / d)
inserted = sp.Derivative(Y(x) ** -2, x).doit().subs(sp.Derivative(Y(x), x), equation)
linear = sp.dsolve(sp.Eq(U(x).diff(x), -2 / x * (U(x) - 1 / d)), U(x)).rhs.subs(sp.Symbol("C1"), C / d)
c, beyond = sp.symbols("c s", positive=True)
above = dyisru.subs(C, -c).subs(x, sp.sqrt(c + beyond))
nb.derivation(
    "D4",
    "With ρ = x/y equation (1) is Bernoulli's; its solutions are √d x/√(x² + C), all of them through the origin, with the slope √(d/C).",
    sym.identity("u = y⁻² obeys u' = −(2/x)(u − 1/d)", inserted, -2 / x * (Y(x) ** -2 - 1 / d)),
    sym.identity("the linear equation, solved by SymPy: 1/u = y²", 1 / linear, dyisru**2),
    sym.identity("DyISRU solves (3)", sp.Derivative(dyisru, x), dyisru / x * (1 - dyisru**2 / d)),
    sym.limit("slope at 0", dyisru / x, x, 0, sp.sqrt(d / C)),
    sym.limit("C → 0: the sign", dyisru, C, 0, sp.sqrt(d)),
    sym.identity("C = −c < 0: y² − d = dc/(x² − c) > 0", above**2 - d, d * c / beyond),
)

# %%
nb.claim(
    "C3",
    "√d x/√(x² + C) solves dy/dx = (y/x)(1 − y²/d) for every C.",
    "verified",
    holds=[
        ledger.close(
            f"Runge-Kutta from x = {a} to {e}, d = {n}, C = {k}",
            march(lambda s, y, n=n: y / s * (1 - y**2 / n), math.sqrt(n) * a / math.sqrt(a * a + k), a, e),
            math.sqrt(n) * e / math.sqrt(e * e + k),
            rel=1e-8,
            digits=7,
        )
        for n, k, a, e in ((16, 3.0, 0.5, 6.0), (16, 40.0, 0.5, 6.0), (9, 0.2, 0.1, 2.0), (9, -0.04, 0.3, 2.0))
    ],
)

# %% [markdown]
# ## What DyISRU really assumes
#
# Equation (4) is no approximation at all as long as the other channels stand still:
#
# $$y_i=\frac{\sqrt d\,x_i}{\sqrt{x_i^2+C_i}},\qquad C_i=\sum_{j\ne i}x_j^2 .\tag{5}$$
#
# That is RMSNorm, written differently. The second closure is exact along every coordinate line, the first along none. So the derivation of DyISRU contains **one** approximation: $C_i$, the energy of
# the other channels, is replaced by one number for all tokens and all channels. Everything that follows is about the price of that.
#
# LayerNorm has the same form. With $u$ the distance of $x_i$ from the mean of the *other* channels and $s^2$ their variance, $y_i=\sqrt{d-1}\;u/\sqrt{u^2+d\,s^2}$. The bound
# is therefore $\sqrt{d-1}$.

# %%
other = lambda x: [x[j] - sum(x[1:]) / sp.Integer(len(x) - 1) for j in range(1, len(x))]
distance = lambda x: x[0] - sum(x[1:]) / sp.Integer(len(x) - 1)
layer_form = lambda x: sp.sqrt(len(x) - 1) * distance(x) / sp.sqrt(distance(x) ** 2 + len(x) * rms(other(x)) ** 2)
exact = lambda x: sp.sqrt(len(x)) * x[0] / sp.sqrt(x[0] ** 2 + sum(v**2 for v in x[1:]))
frozen = dyt.subs(rho, sp.sqrt(C / d))
tanh_over_isru = scipy.optimize.minimize_scalar(lambda u: u / math.sqrt(1 + u * u) - math.tanh(u), bounds=(0.5, 4), method="bounded", options={"xatol": 1e-9})
u = sp.Symbol("u", positive=True)
stationary = sp.nsolve(sp.diff(sp.tanh(u) - u / sp.sqrt(1 + u**2), u), u, 1.6)
grid = np.linspace(0, 60, 30_001)
gap = lambda p: float(np.abs((p[1] if len(p) > 1 else 1) * np.tanh(p[0] * grid) - grid / np.sqrt(1 + grid**2)).max())
best_rate, best_both = (scipy.optimize.minimize(gap, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}) for start in ([0.9], [0.9, 0.97]))

# %%
nb.derivation(
    "D5",
    "With the other channels fixed RMSNorm is √d x/√(x² + C), C = Σ_{j≠i} x_j², exactly, so that DyISRU's only approximation is one C for all; tanh is not exact along any line.",
    *[sym.identity(f"(5), d = {n}", rms_norm(x4[:n])[0], exact(x4[:n])) for n in (2, 3, 4)],
    *[sym.identity(f"RMSNorm solves (3) along x₁, d = {n}", sp.Derivative(rms_norm(x4[:n])[0], x4[0]), sp.diff(exact(x4[:n]), x4[0])) for n in (2, 3)],
    sym.series("centre of tanh, ρ² = C/d", frozen, sp.sqrt(d / C) * (x - x**3 / (3 * C)), x, order=5),
    sym.series("centre of ISRU", dyisru, sp.sqrt(d / C) * (x - x**3 / (2 * C)), x, order=5),
    sym.limit("tail of ISRU: (√d − y) x²", (sp.sqrt(d) - dyisru) * x**2, x, sp.oo, sp.sqrt(d) * C / 2),
    sym.limit("tail of tanh: (√d − y) exp(2x/√C)", (sp.sqrt(d) - frozen) * sp.exp(2 * x / sp.sqrt(C)), x, sp.oo, 2 * sp.sqrt(d)),
    ledger.close("tanh above ISRU at most, in units of √d", -float(tanh_over_isru.fun), 0.07369, rel=1e-3),
    ledger.close("there u = x/√C is", float(tanh_over_isru.x), float(stationary), rel=1e-5),
    ledger.close("largest distance with the best α", best_rate.fun, 0.0444, rel=0.01, digits=3),
    ledger.close("and the best amplitude", best_both.fun, 0.0291, rel=0.01, digits=3),
)
nb.claim(
    "X2",
    "LayerNorm along a coordinate is an ISRU too: √(d−1) u/√(u² + d s²) with u the distance to the mean of the other channels, s² their variance.",
    "verified",
    holds=[sym.identity(f"d = {n}", layer_norm(x4[:n])[0], layer_form(x4[:n])) for n in (2, 3, 4)],
)
