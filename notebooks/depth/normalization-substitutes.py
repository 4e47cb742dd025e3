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
# **The point.** Normalisation divides a token $x\in\mathbb R^d$ by its root mean square $\rho$: $y=x/\rho$. What could stand in for it, one channel at a time? The post keeps the diagonal of its Jacobian and solves for $y$:
# with $\rho$ held constant comes $\sqrt d\tanh\frac x{\rho\sqrt d}$, the "dynamic tanh" (DyT); with $\rho=x/y$ comes $\sqrt d\,x/\sqrt{x^2+C}$ ("DyISRU"), exact along a channel if $C$ is the energy of the others.
# Which map is best depends on the tokens: for Student-t tokens, in the limit of infinite width, it is of the second form; for tokens of two sizes no monotone function is. At the norms of a real network (MiniLM) and in a race of three-layer
# models the curve hardly matters. The post's other advice, to keep $\sqrt d$, helps at the best learning rate, but no more than the identity with slope 1 does; and it hurts at a high one.

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
import scipy.special
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, minilm, nn, norms, optim, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE

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
C_others, A_student = float(others.square().sum()), math.sqrt(2) * math.gamma(2.5) / math.gamma(2)  # of (5) and, at ν = 3, of (8)
from_norm, from_isru = (rows / metrics.rms(rows)[:, None])[:, 0], 2 * along / (along**2 + C_others).sqrt()
figure, (axes, right) = plt.subplots(1, 2, figsize=(8.2, 3.6))
axes.plot(along, from_norm, "o", ms=4, color=BLACK, label="RMSNorm, d = 4")
axes.plot(line, 2 * line / np.sqrt(line**2 + C_others), color=BLUE, label="√d x / √(x² + C): exact")
axes.plot(line, 2 * np.tanh(line / math.sqrt(C_others)), color=ORANGE, ls="--", label="√d tanh(x / ρ√d), ρ frozen")
axes.set(xlabel="x₁, the other coordinates fixed", ylabel="y₁")
axes.set_title("Along a coordinate RMSNorm is an ISRU", fontsize=9)
axes.legend(fontsize=8)
for scale, name, color, mark in ((shape_t, "Student-t tokens, ν = 3", BLUE, "o"), (two_scales, "tokens of scale 1 or 4", ORANGE, "s")):
    x = scale * pure
    right.plot(middles, given_input(x, x / metrics.rms(x)[:, None], edges), mark, ms=3.5, color=color, label=name)
right.plot(line, A_student * line / np.sqrt(line**2 + 3), color=BLUE, lw=1, label=f"{A_student:.3f} x / √(x² + 3)")
right.set(xlabel="x", ylabel="mean of y given x", ylim=(-2.1, 2.1))
right.set_title("The best map depends on the tokens", fontsize=9)
right.legend(fontsize=8, loc="lower right")
nb.show(figure)

# %% [markdown]
# ## The question
#
# A normalisation layer ties the channels of a token together: every output depends on every input. It costs a reduction over the width, it complicates quantization and fusion, and
# it seems to be needed. {cite}`zhu2025dyt` report that it is not: replace it by the element-wise *dynamic tanh*, $y=\gamma\tanh(\alpha x)+\beta$ with one learned scalar $\alpha$ a
# layer, and vision and language models reach the same quality. Why $\tanh$? They had looked at input-output plots of trained layers and seen an S.
#
# The post, after {cite}`stollenwerk2025dynamic`, looks for a reason: write down the gradient of normalisation, keep what an element-wise function can keep, and solve for
# the function. One way of closing the equation gives $\tanh$, another gives $x/\sqrt{x^2+C}$, which it calls the best there is. It ends in doubt whether anything element-wise can replace normalisation for good.
#
# We check the derivation, find out what exactly is approximated in it, answer "the best" in closed form, and try the candidates on the norm layers of a real network and in a small
# language model. [What depth does to Post-Norm](deepnet.ipynb) and [Pre-Norm against Post-Norm](prenorm-postnorm.ipynb) have notebooks of their own; so has
# [the scale of attention](../attention/attention-scale.ipynb), which returns at the end.
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
    holds=[
        ledger.less(
            "autograd through torch's own rms_norm, d = 384: largest difference",
            float((autograd - closed).abs().max()),
            1e-12,
            machine=True,
            method="float64",
        )
    ],
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


def dropped_share(p):
    """Squares of the off-diagonal entries over those of the diagonal, for the token p, by differentiation."""
    J = differentiated(rms_norm, x4[: len(p)]).doit().subs(dict(zip(x4, p, strict=False)))
    return sp.simplify(squares(off(J)) / squares(J - off(J)))


kept, dropped = autograd.diagonal(), autograd - torch.diag(autograd.diagonal())

# %%
nb.derivation(
    "D2",
    "The diagonal (1 − yᵢ²/d)/ρ drops a share of (1 − κ/d)/(d − 2 + κ/d), about 1/d, of the squared entries; but in operator norm the dropped part is as large as 1/ρ, and Jx = 0 is lost.",
    sym.enumeration("share of the squares, five tokens of width 3 and 4", points, dropped_share, lambda p: share(sp.Matrix(p))),
    ledger.close(
        "√share of a Gaussian token over 1/√d, d = 384", float(dropped.norm() / kept.norm()) * math.sqrt(384), 1, abs=0.01, machine=True
    ),
    ledger.close(
        "ρ × operator norm of the dropped part", float(rho_wide * torch.linalg.matrix_norm(dropped, 2)), 1, abs=0.02, machine=True
    ),
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
x = sp.Symbol("x", positive=True)
d, C, rho = sp.symbols("d C rho", positive=True)
dyt = sp.sqrt(d) * sp.tanh(x / (rho * sp.sqrt(d)))
separated = lambda n, end: mpmath.quad(lambda v: 1 / (1 - v**2 / n), [0, end])
nb.derivation(
    "D3",
    "Equation (1) with a constant ρ and y(0) = 0 has the solution √d tanh(x/(ρ√d)).",
    sym.identity("it solves dy/dx = (1 − y²/d)/ρ", sp.Derivative(dyt, x), (1 - dyt**2 / d) / rho),
    sym.numeric(
        "the separated integral, by quadrature",
        separated,
        lambda n, end: mpmath.sqrt(n) * mpmath.atanh(end / mpmath.sqrt(n)),
        at=[(4, mpmath.mpf(1)), (9, mpmath.mpf(2.5)), (16, mpmath.mpf(-3))],
        digits=15,
    ),
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
# That is RMSNorm, written differently, as {cite}`stollenwerk2025dynamic` observes: DyISRU is its element-wise counterpart. The second closure is exact along every coordinate line, the first along none. So the derivation of DyISRU contains **one** approximation: $C_i$, the energy of
# the other channels, is replaced by one number for all tokens and all channels. Everything that follows is about the price of that.
#
# LayerNorm has the same form. With $u$ the distance of $x_i$ from the mean of the *other* channels and $s^2$ their variance, $y_i=\sqrt{d-1}\;u/\sqrt{u^2+d\,s^2}$. The bound
# is therefore $\sqrt{d-1}$.
#
# How far apart are the two? Set $\alpha$ of tanh so that both have the same slope at 0, $\rho^2=C/d$. Then tanh lies above ISRU everywhere, by at most 7.4% of $\sqrt d$, at $x=1.62\sqrt C$: that is how far DyT overshoots an outlier. With
# $\alpha$ free the largest distance is 4.4%, with the amplitude free too 2.9%.

# %%
other = lambda x: [x[j] - sum(x[1:]) / sp.Integer(len(x) - 1) for j in range(1, len(x))]
distance = lambda x: x[0] - sum(x[1:]) / sp.Integer(len(x) - 1)
layer_form = lambda x: sp.sqrt(len(x) - 1) * distance(x) / sp.sqrt(distance(x) ** 2 + len(x) * rms(other(x)) ** 2)
exact = lambda x: sp.sqrt(len(x)) * x[0] / sp.sqrt(x[0] ** 2 + sum(v**2 for v in x[1:]))
equation_3 = lambda x, y, d: y / x * (1 - y**2 / d)
frozen = dyt.subs(rho, sp.sqrt(C / d))
tanh_over_isru = scipy.optimize.minimize_scalar(
    lambda u: u / math.sqrt(1 + u * u) - math.tanh(u), bounds=(0.5, 4), method="bounded", options={"xatol": 1e-9}
)
u = sp.Symbol("u", positive=True)
stationary = sp.nsolve(sp.diff(sp.tanh(u) - u / sp.sqrt(1 + u**2), u), u, 1.6)
grid = np.linspace(0, 60, 30_001)
entry_gap = lambda a, b: float((a - b).detach().abs().max())
gap = lambda p: float(np.abs((p[1] if len(p) > 1 else 1) * np.tanh(p[0] * grid) - grid / np.sqrt(1 + grid**2)).max())
best_rate, best_both = (
    scipy.optimize.minimize(gap, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}) for start in ([0.9], [0.9, 0.97])
)

# %% tags=["hide-input"]
nb.derivation(
    "D5",
    "With the other channels fixed RMSNorm is √d x/√(x² + C), C = Σ_{j≠i} x_j², exactly, so that DyISRU's only approximation is one C for all; tanh is not exact along any line.",
    *[sym.identity(f"(5), d = {n}", rms_norm(x4[:n])[0], exact(x4[:n])) for n in (2, 3, 4)],
    *[
        sym.identity(
            f"RMSNorm solves (3) along x₁, d = {n}", sp.Derivative(rms_norm(x4[:n])[0], x4[0]), equation_3(x4[0], rms_norm(x4[:n])[0], n)
        )
        for n in (2, 3)
    ],
    sym.identity("DyISRU solves (3)", sp.Derivative(dyisru, x), equation_3(x, dyisru, d)),
    sym.series("centre of tanh, ρ² = C/d", frozen, sp.sqrt(d / C) * (x - x**3 / (3 * C)), x, order=5),
    sym.series("centre of ISRU", dyisru, sp.sqrt(d / C) * (x - x**3 / (2 * C)), x, order=5),
    sym.limit("tail of ISRU: (√d − y) x²", (sp.sqrt(d) - dyisru) * x**2, x, sp.oo, sp.sqrt(d) * C / 2),
    sym.limit("tail of tanh: (√d − y) exp(2x/√C)", (sp.sqrt(d) - frozen) * sp.exp(2 * x / sp.sqrt(C)), x, sp.oo, 2 * sp.sqrt(d)),
    ledger.less("the dots of the first figure: RMSNorm against (5)", float((from_norm - from_isru).abs().max()), 1e-12, machine=True),
    ledger.more(
        "tanh does not solve (3): |residual| at x = √C, in units of the slope at 0",
        abs(float((sp.diff(frozen, x) - equation_3(x, frozen, d)).subs({x: 3, C: 9, d: 16}))) / math.sqrt(16 / 9),
        0.05,
    ),
    ledger.close("tanh above ISRU at most, in units of √d", -float(tanh_over_isru.fun), 0.07369, rel=1e-3),
    ledger.close("there u = x/√C is", float(tanh_over_isru.x), float(stationary), rel=1e-5),
    ledger.close("largest distance with the best α", best_rate.fun, 0.0444, rel=0.01, digits=3),
    ledger.close("and the best amplitude", best_both.fun, 0.0291, rel=0.01, digits=3),
)

# %%
nb.claim(
    "X2",
    "LayerNorm along a coordinate is an ISRU too: √(d−1) u/√(u² + d s²) with u the distance to the mean of the other channels, s² their variance.",
    "verified",
    holds=[sym.identity(f"d = {n}", layer_norm(x4[:n])[0], layer_form(x4[:n])) for n in (2, 3, 4)],
)

# %% [markdown]
# ## The best element-wise map
#
# The post calls DyISRU "the best". The best in which sense? If the element-wise map is to be as close as possible to the norm in the mean square, the best function of
# $x_i$ alone is the conditional mean,
#
# $$f^*(x)=\mathbb E\,[\,y_i\mid x_i=x\,],$$
#
# and it is a matter of the distribution of the tokens. (The gradient argument never mentions tokens.) Four cases can be solved.
#
# **Gaussian tokens.** If all $x_j\sim N(0,s^2)$ are independent, $C_i/s^2$ is $\chi^2$ with $d-1$ degrees of freedom, and the mean of (5) over it is a confluent hypergeometric function, Tricomi's
# $U$: with $k=\frac{d-1}2$ and $z=\frac{x^2}{2s^2}$
#
# $$f^*(x)=\sqrt d\,z^k\,U\bigl(k,k+\tfrac12,z\bigr)\qquad(x>0).\tag{6}$$
#
# No ISRU. But almost: $(x^2+s^2c)^{-1/2}$ is convex in $c$, and concave as a function of $1/c$, so Jensen's inequality bounds the mean from both sides by the ISRUs at $\mathbb E\chi^2=d-1$ and at
# $1/\mathbb E[1/\chi^2]=d-3$:
#
# $$\frac{\sqrt d\,x}{\sqrt{x^2+(d-1)s^2}}\;\le\;f^*(x)\;\le\;\frac{\sqrt d\,x}{\sqrt{x^2+(d-3)s^2}}\qquad(d>3,\ x>0).\tag{7}$$
#
# At $d=384$ the two differ by at most 0.26%. But this case decides nothing: such tokens all have nearly the same size, and a straight line is just as good.


# %%
def tricomi(d, x, s=1):
    """The best element-wise map (6) for d independent normal channels of standard deviation s, at x > 0."""
    k, z = mpmath.mpf(d - 1) / 2, mpmath.mpf(x) ** 2 / (2 * s**2)
    return mpmath.sqrt(d) * z**k * mpmath.hyperu(k, k + mpmath.mpf(1) / 2, z)


def by_quadrature(d, x, s=1):
    """The mean of (5) over C / s^2 ~ chi squared with d - 1 degrees of freedom."""
    k = mpmath.mpf(d - 1) / 2
    density = lambda c: c ** (k - 1) * mpmath.exp(-c / 2) / (mpmath.gamma(k) * 2**k)
    cuts = [0, d / 4, d, 2 * d, 4 * d, 40 * d]
    return mpmath.sqrt(d) * x * mpmath.quad(lambda c: density(c) / mpmath.sqrt(x**2 + s**2 * c), cuts)


isru_at = lambda d, x, C: math.sqrt(d) * x / math.sqrt(x * x + C)
tokens16 = torch.randn(200_000, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
tokens16[:, 0] = 2.0
seen16, error16 = (float(v) for v in metrics.mean_stderr((tokens16 / metrics.rms(tokens16)[:, None])[:, 0]))
ball = torch.randn(100, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ball = 0.7 * ball / metrics.rms(ball)[:, None]
one_size = entry_gap(F.rms_norm(ball, (8,), eps=0.0), ball / 0.7)
w, s, n = sp.symbols("w s n", positive=True)
concave = sp.sqrt(w / (x**2 * w + s**2))  # (x² + s² c)^(-1/2) as a function of w = 1/c
chi = x ** (n / 2 - 1) * sp.exp(-x / 2) / (2 ** (n / 2) * sp.gamma(n / 2))
places = [(dim, at) for dim in (4, 6, 16, 64, 384) for at in (0.1, 0.5, 1, 2, 5, 20)]

# %% [markdown]
# **Tokens of different size.** Now let the scale vary from token to token: $x\mid\tau\sim N(0,1/\tau)$ in every channel, $d$ large, so that $y=x\sqrt\tau$ and $f^*(x)=x\,\mathbb E[\sqrt\tau\mid x]$. With
# $\tau\sim\mathrm{Gamma}(a,\text{rate }b)$ the activations are Student-t with $\nu=2a$, the posterior of $\tau$ is $\mathrm{Gamma}(a+\frac12,\,b+\frac{x^2}2)$, and
#
# $$f^*(x)=A\,\frac x{\sqrt{x^2+2b}},\qquad A=\frac{\sqrt2\,\Gamma(a+1)}{\Gamma(a+\frac12)}.\tag{8}$$
#
# **In the limit of infinite width an ISRU, exactly**: here the post's function is the best there is. But look at the amplitude. It is not $\sqrt d$. In units where the typical scale is 1 ($b=\nu/2$) the constant is $C=\nu$ and
# $A^2=\nu+\frac12+O(1/\nu)$: both read off the *tail index* of the activations. At a finite width the best map saturates at an $A_d$ (exercise 1) with $1/A_d^2\approx1/\nu+1/d$: always below $\sqrt d$, and only $\sqrt{d/2}$
# at $\nu=d$. Even the error that remains is a formula, since $x^2/(x^2+\nu)$ has a beta distribution with mean $1/(1+\nu)$:
#
# $$\mathbb E(y-f^*)^2=1-\frac{A^2}{\nu+1},\tag{9}$$
#
# 12% of the mean square at $\nu=3$, about $\frac1{2\nu}$ for large $\nu$. That is the price of going element-wise, before any shape is chosen. (All this is for Student-t scales times Gaussian channels; real tokens are
# neither, X14.)
#
# **Tokens of two sizes.** With two scales, 1 and 4, small inputs mostly come from small tokens (slope 1) and large ones from large tokens (slope $\frac14$). In between $f^*$ *falls* (the figure at the
# top): no tanh, no ISRU, no monotone function is the best.
#
# **Tokens of one size.** If $\lVert x\rVert$ is the same for all, $y=x/\rho$ is linear, at any width. The S in the input-output plots of a norm is not made by normalising a token. It is made by mixing tokens
# of different size; channels of different size, in tokens of one size, leave the line straight.

# %%
tau, a, b, nu = sp.symbols("tau a b nu", positive=True)
prior, likelihood = tau ** (a - 1) * sp.exp(-b * tau), sp.sqrt(tau) * sp.exp(-tau * x**2 / 2)
posterior_mean = sp.Integral(sp.sqrt(tau) * prior * likelihood, (tau, 0, sp.oo)) / sp.Integral(prior * likelihood, (tau, 0, sp.oo))
amplitude = sp.sqrt(2) * sp.gamma(a + 1) / sp.gamma(a + sp.Rational(1, 2))
student = x * amplitude / sp.sqrt(x**2 + 2 * b)
A_of = lambda nu: float(mpmath.sqrt(2) * mpmath.gamma(nu / 2 + 1) / mpmath.gamma(nu / 2 + 0.5))
floor = lambda nu: 1 - A_of(nu) ** 2 / (nu + 1)
t_density = lambda v, nu: (
    mpmath.gamma((nu + 1) / 2) / mpmath.gamma(nu / 2) / mpmath.sqrt(nu * mpmath.pi) * (1 + v**2 / nu) ** (-(nu + 1) / 2)
)
explained_3 = (
    3 * float(mpmath.quad(lambda v: 2.25 * v**1.5 * mpmath.exp(-1.5 * v), [0, 1, 10, 60])) ** 2
)  # slope at 0: √τ over Gamma(2, 3/2)
explained = lambda nu: mpmath.quad(lambda v: (A_of(nu) * v) ** 2 / (v**2 + nu) * t_density(v, nu), [-mpmath.inf, 0, mpmath.inf])


def mixture(x, scales=(1.0, 4.0)):
    """f* for large d and tokens N(0, s^2), s one of ``scales`` with equal chances; x a float64 array."""
    weight = np.stack([np.exp(-((x / s) ** 2) / 2) / s for s in scales])
    return sum(wt * x / s for wt, s in zip(weight / weight.sum(0), scales, strict=True))


# %%
nb.derivation(
    "D6",
    "The best element-wise map E[yᵢ|xᵢ]: Tricomi's U for Gaussian tokens, between two ISRUs; for Student-t tokens, in the limit of infinite width, exactly an ISRU with amplitude √2 Γ(a+1)/Γ(a+½); linear for tokens of one norm.",
    sym.numeric("(6) against quadrature", tricomi, by_quadrature, at=[(4, 1), (4, 3), (16, 2), (7, 1.5, 2), (64, 3)], digits=8),
    sym.monte_carlo("(6) against tokens of width 16 with x₁ = 2", seen16, error16, float(tricomi(16, 2)), draws=200_000, effect=0.02),
    sym.identity("(8): posterior mean of √τ, times x", x * posterior_mean, student),
    ledger.close("the amplitude of the first figure against quadrature of (8)", A_student, math.sqrt(explained_3), rel=1e-8),
    ledger.close("A at ν = 3", float(amplitude.subs(a, sp.Rational(3, 2))), A_of(3), rel=1e-12),
    *[ledger.close(f"1 − E f*², ν = {k}", 1 - float(explained(k)), floor(k), rel=1e-8) for k in (3, 6, 20)],
    ledger.close("A² − ν at ν = 10⁵", A_of(1e5) ** 2 - 1e5, 0.5, abs=1e-4, digits=4),
    ledger.close("2ν × floor at ν = 10⁵", 2e5 * floor(1e5), 1, abs=1e-4, digits=4),
    ledger.less("100 tokens of RMS 0.7, width 8: largest |y − x/0.7|", one_size, 1e-12, machine=True, method="float64"),
    ledger.close("control: the largest gap of (1, 1) and (1, 3)", entry_gap(torch.ones(2), torch.tensor([1.0, 3.0])), 2, rel=1e-9),
)

# %% tags=["hide-input"]
nb.claim(
    "X3",
    "For Gaussian tokens the best element-wise map lies between the ISRUs with C = (d−1)s² and C = (d−3)s², which differ by 1/d.",
    "verified",
    holds=[
        sym.identity(
            "concave in 1/c: the second derivative is negative",
            sp.Derivative(concave, w, 2),
            -(s**2) * (4 * x**2 * w + s**2) / (4 * w ** sp.Rational(3, 2) * (x**2 * w + s**2) ** sp.Rational(5, 2)),
        ),
        sym.identity("E 1/χ² = 1/(n − 2), at n + 2", sp.Integral(chi.subs(n, n + 2) / x, (x, 0, sp.oo)), 1 / n),
        ledger.more(
            "f*/lower bound − 1, smallest of 30 places",
            min(float(tricomi(*p)) / isru_at(*p, p[0] - 1) for p in places) - 1,
            0,
            method="numeric, 15 digits",
        ),
        ledger.less(
            "f*/upper bound − 1, largest of 30 places",
            max(float(tricomi(*p)) / isru_at(*p, p[0] - 3) for p in places) - 1,
            0,
            method="numeric, 15 digits",
        ),
        ledger.close("the bounds at d = 384, x → 0, differ by", math.sqrt(383 / 381) - 1, 0.0026, abs=5e-5),
    ],
)

# %% [markdown]
# ## The family of clips
#
# Both functions are smooth versions of one: $\operatorname{clip}(x,-t,t)$. The *softcap* $t\tanh(x/t)$ that Gemma 2 puts on its logits {cite}`gemma2` is DyT with a fixed threshold; the threshold of (2) is $t=\rho\sqrt d$
# on the input, $\sqrt d$ on the output. Both lie furthest from the clip in its corner, by $t(1-\tanh1)=0.238\,t$ and $t(1-1/\sqrt2)=0.293\,t$.

# %%
T = sp.Symbol("t", positive=True)
softcap, isru_cap = T * sp.tanh(x / T), x / sp.sqrt(1 + x**2 / T**2)
from_clip = lambda f: float(np.abs(np.clip(grid, -3, 3) - f(grid)).max())
inside = lambda f: sp.Derivative(x - f, x)
nb.derivation(
    "D7",
    "softcap and ISRU differ most from the clip in its corner x = t, by t(1 − tanh 1) and t(1 − 1/√2).",
    sym.identity("x − softcap grows inside", inside(softcap), sp.tanh(x / T) ** 2),
    sym.identity("x − ISRU: derivative", inside(isru_cap), 1 - (1 + x**2 / T**2) ** sp.Rational(-3, 2)),
    sym.limit("outside the distance falls to 0: softcap", T - softcap, x, sp.oo, 0),
    sym.limit("and ISRU", T - isru_cap, x, sp.oo, 0),
    ledger.close("largest distance, t = 3, softcap", from_clip(lambda v: 3 * np.tanh(v / 3)), 3 * (1 - math.tanh(1)), rel=1e-6, digits=6),
    ledger.close(
        "largest distance, t = 3, ISRU", from_clip(lambda v: v / np.sqrt(1 + v**2 / 9)), 3 * (1 - 1 / math.sqrt(2)), rel=1e-6, digits=6
    ),
    ledger.close("in units of t, tanh", 1 - math.tanh(1), 0.238406, abs=1e-6, digits=6),
    ledger.close("in units of t, ISRU", 1 - 1 / math.sqrt(2), 0.292893, abs=1e-6, digits=6),
)
derivations_s = time.process_time() - started

# %% tags=["nbval-ignore-output", "hide-input"]
print(f"the derivations took {derivations_s:.1f} s of processor time")
nb.experiment(
    "E1",
    "D1 to D7 are checked by SymPy, mpmath and autograd in less than 20 seconds of processor time.",
    "verified",
    holds=[ledger.less("seconds of processor time, set-up of the checks included", derivations_s, 20, machine=True)],
)

# %% [markdown]
# ## The plug-in layers
#
# Five lines each. `gamma` and `beta` are learned vectors, `alpha` is a learned number. Plain DyT starts with $\alpha=\frac12$ and $\gamma=1$, so its outputs start out up to $\sqrt d$ times smaller than a
# norm's. The post's advice is to keep $\sqrt d$ in sight: $\gamma\sqrt d\,f(\alpha x/\sqrt d)$ with $\alpha$, the learned $1/\rho$, starting at 1. For a token of unit RMS that starts as a norm does.


# %%
class RMSNorm(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(d))

    def forward(self, x):  # (..., d)
        return self.gamma * x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


class DyT(torch.nn.Module):
    def __init__(self, d, alpha=0.5, amplitude=1.0):
        super().__init__()
        self.alpha, self.amplitude = torch.nn.Parameter(torch.tensor(alpha)), amplitude
        self.gamma, self.beta = torch.nn.Parameter(torch.ones(d)), torch.nn.Parameter(torch.zeros(d))

    def squash(self, u):
        return torch.tanh(u)

    def forward(self, x):
        return self.gamma * self.amplitude * self.squash(self.alpha * x / self.amplitude) + self.beta


class DyISRU(DyT):
    def squash(self, u):
        return u * torch.rsqrt(1 + u.square())  # C = (amplitude / alpha)^2


# %% [markdown]
# In training we use `kexue_nb.norms.Norm`, stacked layers that hold one layer for each run of a grid. They must agree with the five lines, in outputs and gradients.

# %%
batch = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(5))


def disagreement(plain, kind, **options):
    """Largest differences between one of the layers above and kexue_nb.norms.Norm, in outputs and in the gradients of all parameters."""
    layers, outputs = [norms.Norm(nn.Init([0, 1]), 8, kind, **options), plain(8, **options)], []
    for layer in layers:
        with torch.no_grad():
            for name, p in layer.named_parameters():
                p += 0.1 if name == "alpha" else 0.1 * torch.arange(1.0, 9.0).sqrt()
        outputs.append(layer(batch))
        (outputs[-1] ** 2 * batch).sum().backward()
    stacked, single = (dict(layer.named_parameters()) for layer in layers)
    gaps = {"outputs": entry_gap(outputs[0], outputs[1])}
    return gaps | {name: entry_gap(stacked[name].grad.sum(0), p.grad) / entry_gap(p.grad, 0) for name, p in single.items()}


# %%
layer_gap = {
    "RMSNorm": disagreement(RMSNorm, "rms"),
    "DyT": disagreement(DyT, "dyt"),
    "DyT, √d explicit": disagreement(DyT, "dyt", alpha=1.0, amplitude=math.sqrt(8)),
    "DyISRU": disagreement(DyISRU, "dyisru"),
    "DyISRU, √d explicit": disagreement(DyISRU, "dyisru", alpha=1.0, amplitude=math.sqrt(8)),
}
layer_gap = {f"{name}, {what}": gap for name, gaps in layer_gap.items() for what, gap in gaps.items()}
ode = DyT(1).double()
ode.alpha.data.fill_(1 / (1.3 * math.sqrt(16)))
ode.gamma.data.fill_(math.sqrt(16))
at = torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None].requires_grad_()

# %%
known = {
    "dyt": np.tanh,
    "dyisru": lambda u: u / np.sqrt(1 + u * u),
    "derf": scipy.special.erf,
    "clip": lambda u: np.clip(u, -1, 1),
    "identity": lambda u: u,
}


def kind_gap(kind):
    """Largest difference of a fresh layer with alpha = 0.7 and amplitude 2 from 2 f(0.7 x / 2), f by numpy and scipy."""
    layer = norms.Norm(nn.Init([0]), 1, kind, alpha=0.7, amplitude=2.0)
    return entry_gap(layer(at[None].float())[0], torch.from_numpy(2 * known[kind](0.35 * at.detach().numpy())))


(slopes,) = torch.autograd.grad(ode(at).sum(), at)
ode_gap = entry_gap(slopes, (1 - ode(at) ** 2 / 16) / 1.3)

# %%
nb.claim(
    "X4",
    "The plug-in layers agree with kexue_nb.norms, in their outputs and in the gradients of their parameters, and all kinds with their formulas.",
    "verified",
    holds=[
        *[ledger.less(f"{name}: largest difference", gap, 1e-5, machine=True, method="float32") for name, gap in layer_gap.items()],
        *[ledger.less(f"{kind} against numpy and scipy", kind_gap(kind), 1e-5, machine=True, method="float32") for kind in known],
    ],
)
nb.claim(
    "C4",
    "DyT is the post's solution with γ = √d and α = 1/(ρ√d).",
    "verified",
    holds=[
        ledger.less(
            "the DyT layer with these values: largest |dy/dx − (1 − y²/d)/ρ|, by autograd, d = 16, ρ = 1.3",
            ode_gap,
            1e-12,
            machine=True,
            method="float64",
        ),
    ],
)

# %% [markdown]
# ## Experiment: how close can an element-wise map come?
#
# We draw 4,000 tokens of width 512 with six laws of the token scale, normalise them, and fit $A\,g(\alpha x)$ with a line and four curves $g$. The measure is the normalised mean squared error
# $\mathbb E(y-f)^2/\mathbb Ey^2$, whose floor is that of $f^*$.
#
# One device makes this cheap for millions of entries. An odd map is $f(x)=g(|x|)\,x$; if $g$ hardly changes within a narrow bin of $\log|x|$, all that a fit needs to know of the data are the sums
# $\sum x^2$ and $\sum xy$ in each bin. From the same sums comes the best odd map of all: $g=\sum xy/\sum x^2$, bin by bin. No fit can beat it.


# %%
class Binned(NamedTuple):
    """Entries (x, y) in bins of log|x|: the bins' middles, and in each the count and the sums of x^2, x y and y^2; all (bins,)."""

    middle: torch.Tensor
    count: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor
    yy: torch.Tensor


def binned(x, y, bins=500):
    x, y = x.flatten().double(), y.flatten().double()
    size = x.abs().clamp_min(1e-5 * float(x.abs().max())).log()
    low, high = size.min(), size.max()
    index = ((size - low) / (high - low) * bins).long().clamp_max(bins - 1)
    middle = (low + (torch.arange(bins) + 0.5) / bins * (high - low)).exp()
    return Binned(middle, *(torch.bincount(index, v, minlength=bins) for v in (torch.ones_like(x), x * x, x * y, y * y)))


# %%
SHAPES = {
    "linear": norms.ELEMENTWISE["identity"],
    "tanh": torch.tanh,
    "ISRU": DyISRU(1).squash,
    "erf": torch.erf,
    "clip": norms.ELEMENTWISE["clip"],
}
ALPHAS = torch.logspace(-2, 1, 600, dtype=torch.float64)


# %%
class Fit(NamedTuple):
    error: float  # normalized mean squared error
    alpha: float
    amplitude: float


def fit_map(shape, s):
    """The best A g(alpha x) for the binned sums ``s``: alpha scanned, A by least squares."""
    alphas = ALPHAS / (s.xx.sum() / s.yy.sum()).sqrt()  # in units of the input's RMS over the output's
    g = SHAPES[shape](alphas[:, None] * s.middle) / s.middle  # (alphas, bins)
    xy, xx = g @ s.xy, g.square() @ s.xx
    best = int((xy**2 / xx).argmax())
    return Fit(float(1 - xy[best] ** 2 / xx[best] / s.yy.sum()), float(alphas[best]), float(xy[best] / xx[best]))


# %%
def best_map(s):
    """The error of the best odd map, free in every bin."""
    return float(1 - (s.xy**2 / s.xx.clamp_min(1e-300)).sum() / s.yy.sum())


def outlier_error(shape, fit, s, share=0.001):
    """The normalized error of a fit on the largest |x| alone, a ``share`` of all entries (to the bin)."""
    top = s.count.flip(0).cumsum(0).flip(0) <= share * s.count.sum()
    g = fit.amplitude * SHAPES[shape](fit.alpha * s.middle) / s.middle
    return float((g**2 * s.xx - 2 * g * s.xy + s.yy)[top].sum() / s.yy[top].sum())


# %%
def token_scales(law, count, generator):
    """Scales (count, 1) of tokens under a law of the study."""
    name, *numbers = law.split()
    size = (count, 1)
    uniform, normal = (draw(size, generator=generator, dtype=torch.float64) for draw in (torch.rand, torch.randn))
    if name == "Student":
        half = float(numbers[0]) / 2
        return torch.from_numpy(scipy.special.gammaincinv(half, uniform.numpy()) / half).rsqrt()
    if name == "lognormal":
        return (float(numbers[0]) * normal).exp()
    if name == "two":
        return torch.where(uniform < 0.5, 1.0, 4.0)
    return 0.2 + 1.6 * uniform if name == "uniform" else torch.ones(size)


def study(law, seed, width=512, count=4000):
    """Binned sums of ``count`` tokens of ``width`` normal channels times the law's scale, and of their RMSNorm."""
    generator = torch.Generator().manual_seed(seed)
    x = token_scales(law, count, generator) * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return binned(x, x / metrics.rms(x)[:, None])


# %% [markdown]
# What to expect: for Student-t tokens the fitted ISRU should have $A$ and $C$ of (8) and the error (9), at $d=512$ to about a percent; no shape should beat the best map; for one token size all should be lines.

# %%
LAWS = ["Student 3", "Student 6", "lognormal 0.5", "lognormal 1", "two", "uniform", "constant"]
e2_seeds = nb.at_scale(cpu=[0, 1, 2], gpu=range(6), full=range(6))
e2 = {law: [study(law, seed) for seed in e2_seeds] for law in LAWS}
e2_fits = {law: {shape: [fit_map(shape, s) for s in sums] for shape in SHAPES} for law, sums in e2.items()}
e2_best = {law: [best_map(s) for s in sums] for law, sums in e2.items()}
mean_error = lambda law, shape: float(np.mean([f.error for f in e2_fits[law][shape]]))
mean_best = lambda law: float(np.mean(e2_best[law]))

# %% [markdown]
# Before the table, the device itself: on one small sample the binned fit against a fit over all entries, and the best map against what is known:
# $f^*$ of the two-scale tokens by integration, and $\frac1{2d}$ for Gaussian tokens.

# %%
sample = torch.randn(200, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * torch.linspace(0.3, 3, 200)[:, None]
target = sample / metrics.rms(sample)[:, None]


def plain_error(shape, fit):
    """The normalized error of a fit, entry by entry, and that of the least-squares amplitude at 1.1 and 0.9 times its alpha."""
    errors = []
    for factor in (1.0, 1.1, 0.9):
        f = SHAPES[shape](factor * fit.alpha * sample)
        f = (f * target).sum() / f.square().sum() * f
        errors.append(float((target - f).square().mean() / target.square().mean()))
    return errors


sample_fits = {shape: fit_map(shape, binned(sample, target)) for shape in ("tanh", "ISRU", "erf", "clip")}
plain = {shape: plain_error(shape, fit) for shape, fit in sample_fits.items()}


# %%
drawn = {
    law: token_scales(law, 100_000, torch.Generator().manual_seed(13)) for law in ("Student 3", "lognormal 0.5", "lognormal 1", "uniform")
}
top = sample.abs() >= sample.abs().flatten().topk(1280).values.min()
top_fit = sample_fits["tanh"].amplitude * torch.tanh(sample_fits["tanh"].alpha * sample[top])
top_error = float((top_fit - target[top]).square().sum() / target[top].square().sum())
grid_x = np.linspace(-40, 40, 200_001)
density = sum(np.exp(-((grid_x / s) ** 2) / 2) / s for s in (1, 4)) / 2 / math.sqrt(2 * math.pi)
two_floor = 1 - float(np.sum(mixture(grid_x) ** 2 * density) * (grid_x[1] - grid_x[0]))
five = torch.tensor([1e-9, -2e-4, 0.02, 3.0, -10.0]), torch.tensor([1.0, -2.0, 3.0, 4.0, 5.0])
by_decade = binned(*five, bins=5)  # 1e-5 times the largest |x| up to that: decades from 1e-4 to 10
two_middles, two_means = middles.numpy(), given_input(two_scales * pure, F.rms_norm(two_scales * pure, (512,)), edges).numpy()

# %% tags=["hide-input"]
nb.claim(
    "X5",
    "The binned fit is the fit: its error is that over all entries, and no neighbouring α does better; the best map's error is that of the known optimum.",
    "verified",
    holds=[
        *[
            ledger.close(f"{shape}: error over all entries", plain[shape][0], fit.error, rel=0.002, machine=True, scope="12,800 entries")
            for shape, fit in sample_fits.items()
        ],
        *[
            ledger.more(f"{shape}: error at 0.9 and 1.1 α, the smaller one", min(plain[shape][1:]), plain[shape][0], machine=True)
            for shape in sample_fits
        ],
        *[
            ledger.close(f"five entries in decades: {name} of bin {k}", float(getattr(by_decade, name)[k]), value, rel=1e-6)
            for name, values in (
                ("middle", (10**-3.5, 10**-2.5, 10**-1.5, 10**-0.5, 10**0.5)),
                ("count", (2, None, 1, None, 2)),
                ("xx", (4e-8 + 1e-18, None, 4e-4, None, 109)),
                ("xy", (4e-4 + 1e-9, None, 0.06, None, -38)),
                ("yy", (5, None, 9, None, 41)),
            )
            for k, value in enumerate(values)
            if value is not None
        ],
        ledger.close(
            "two scales: error of the best map against integration of f*",
            mean_best("two"),
            two_floor,
            rel=0.02,
            digits=3,
            machine=True,
            scope="d = 512, 4,000 tokens",
        ),
        ledger.less(
            "mixture(x) against the mean of y in bins of x: largest difference",
            float(np.abs(two_means - mixture(two_middles)).max()),
            0.02,
            machine=True,
        ),
        ledger.close(
            "error on the largest tenth of the entries, tanh",
            outlier_error("tanh", sample_fits["tanh"], binned(sample, target), share=0.1),
            top_error,
            rel=0.05,
            machine=True,
            scope="12,800 entries",
        ),
        ledger.close("Student, ν = 3: mean of τ", float((drawn["Student 3"] ** -2).mean()), 1, abs=0.02, digits=3, machine=True),
        ledger.close("variance of τ", float((drawn["Student 3"] ** -2).var()), 2 / 3, rel=0.035, digits=3, machine=True),
        *[
            ledger.close(
                f"standard deviation of the log scale, lognormal {k}",
                float(drawn[f"lognormal {k}"].log().std()),
                float(k),
                rel=0.02,
                digits=3,
                machine=True,
                scope="100,000 tokens",
            )
            for k in ("0.5", "1")
        ],
        ledger.close("uniform scale: mean", float(drawn["uniform"].mean()), 1, abs=0.01, digits=3, machine=True, scope="100,000 tokens"),
        ledger.close(
            "uniform scale: standard deviation",
            float(drawn["uniform"].std()),
            1.6 / math.sqrt(12),
            rel=0.02,
            digits=3,
            machine=True,
            scope="100,000 tokens",
        ),
        ledger.close("Gaussian tokens: error of the best map times 2d", 1024 * mean_best("constant"), 1, abs=0.1, digits=3, machine=True),
    ],
)

# %% tags=["hide-input"]
percent = lambda e: f"{100 * e:.2f}"
nb.results(
    "E2",
    f"Error left by the best element-wise map of each shape, in % of the norm's output (d = 512, 4,000 tokens, mean of {len(list(e2_seeds))} draws)",
    ["token scale", "ISRU", "tanh", "erf", "clip", "linear", "best possible", "A and C of the ISRU"],
    [
        [
            law,
            *[percent(mean_error(law, shape)) for shape in ("ISRU", "tanh", "erf", "clip", "linear")],
            percent(mean_best(law)),
            "linear"
            if law == "constant"
            else ", ".join(
                f"{np.mean(column):.2f}" for column in zip(*[(f.amplitude, f.alpha**-2) for f in e2_fits[law]["ISRU"]], strict=True)
            ),
        ]
        for law in LAWS
    ],
)

# %% tags=["hide-input"]
varying = LAWS[:-1]
excess = {law: mean_error(law, "tanh") / mean_error(law, "ISRU") - 1 for law in varying}
nb.experiment(
    "E2",
    "For Student-t tokens the fitted ISRU has the amplitude and constant of (8) and the smallest possible error, (9); tanh leaves at most 6% more for any law.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"amplitude, ν = {k}",
                float(np.mean([f.amplitude for f in e2_fits[f"Student {k}"]["ISRU"]])),
                A_of(k),
                rel=0.03,
                machine=True,
            )
            for k in (3, 6)
        ],
        *[
            ledger.close(
                f"C = 1/α², ν = {k}", float(np.mean([f.alpha**-2 for f in e2_fits[f"Student {k}"]["ISRU"]])), k, rel=0.03, machine=True
            )
            for k in (3, 6)
        ],
        *[
            ledger.close(f"error, ν = {k}, against (9)", mean_error(f"Student {k}", "ISRU"), floor(k), rel=0.02, machine=True)
            for k in (3, 6)
        ],
        *[
            ledger.close(
                f"error over the best possible, ν = {k}",
                mean_error(f"Student {k}", "ISRU") / mean_best(f"Student {k}"),
                1,
                abs=0.005,
                machine=True,
            )
            for k in (3, 6)
        ],
        ledger.less("tanh against ISRU: largest excess error over the laws", max(excess.values()), 0.06, machine=True),
        ledger.more(
            "linear against ISRU, ν = 3: error ratio", mean_error("Student 3", "linear") / mean_error("Student 3", "ISRU"), 2, machine=True
        ),
    ],
)

# %% tags=["hide-input"]
each = lambda law, shape: [f.error for f in e2_fits[law][shape]]
peak, valley = 2.0, 2.9
nb.claim(
    "C6",
    "DyISRU is the best element-wise substitute.",
    "partly",
    holds=[
        ledger.close(
            "Student-t tokens, ν = 3: error of ISRU over that of the best map (exact for d → ∞, D6)",
            mean_error("Student 3", "ISRU") / mean_best("Student 3"),
            1,
            abs=0.005,
            machine=True,
        ),
    ],
    fails=[
        ledger.more(
            "two scales: error of ISRU over that of the best map", mean_error("two", "ISRU") / mean_best("two"), 1.25, machine=True
        ),
        ledger.more(
            f"two scales: f*({peak}) over f*({valley}), a best map that falls",
            float(mixture(np.array([peak]))[0] / mixture(np.array([valley]))[0]),
            1.1,
        ),
        ledger.more(
            "uniform scale: error of ISRU over that of the best map",
            mean_error("uniform", "ISRU") / mean_best("uniform"),
            1.05,
            machine=True,
        ),
    ],
)
BAR = 0.01  # a lead counts from 1% of the error on, here and in C8
leads = {law: [q / p - 1 for p, q in zip(each(law, "ISRU"), each(law, "tanh"), strict=True)] for law in varying}
at_outliers = {
    law: [
        outlier_error("tanh", t, s) / outlier_error("ISRU", i, s) - 1
        for i, t, s in zip(e2_fits[law]["ISRU"], e2_fits[law]["tanh"], e2[law], strict=True)
    ]
    for law in varying
}
clear = [law for law in varying if not law.startswith("Student")]
nb.claim(
    "C7",
    "On synthetic tokens the ISRU comes closer to normalization than tanh, above all at outliers.",
    "partly",
    holds=[
        *[ledger.more(f"{law}: smallest lead over the draws", min(leads[law]), BAR, digits=2, machine=True) for law in clear],
        *[
            ledger.more(f"{law}: on the largest 0.1% of the entries", min(at_outliers[law]), 3 * BAR, digits=2, machine=True)
            for law in clear
        ],
    ],
    fails=[
        ledger.less(f"{law}: largest lead over the draws", max(leads[law]), BAR, digits=2, machine=True)
        for law in varying
        if law not in clear
    ],
)

# %% [markdown]
# ISRU leads at four laws of six, by 1% to 4% of an error that no shape removes, and by more on the largest thousandth of the entries, as the paper says; for Student-t tokens, where it is the best map, its lead is
# too small to count. Going element-wise costs 7% to 23% of the mean square; the choice of the curve moves that in the second digit.
#
# ## Experiment: the norms of a real network
#
# `all-MiniLM-L6-v2` {cite}`wang2020minilm` is a BERT of six layers and width 384, Post-Norm, with 13 LayerNorms. We read it the opening of Hamlet, catch what goes into each LayerNorm, centre it (an element-wise map
# has no mean to subtract; we give it that for free) and fit as before. If (9) were the whole story, the error would be small wherever the amplitude is large.


# %%
def layer_inputs(texts, length=128):
    """What the 13 LayerNorms of the encoder get: thirteen tensors (tokens, 384), each token centred."""
    encoder, seen = minilm.Encoder(), []
    for norm in encoder.norms:
        norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, 1).double()))
    ids = torch.tensor([minilm.tokenize(text, length) for text in texts])
    with torch.no_grad():
        encoder.states(ids, torch.ones_like(ids))
    return [x - x.mean(-1, keepdim=True) for x in seen]


plays = data.shakespeare()
hamlet = plays.index("HAMLET, PRINCE OF DENMARK")
passages = [plays[hamlet + 1200 * i : hamlet + 1200 * (i + 1)] for i in range(nb.at_scale(cpu=12, gpu=32, full=32))]
inputs = layer_inputs(passages)
outputs = [x / metrics.rms(x)[:, None] for x in inputs]
NAMES = ["embedding", *[f"{part} {i}" for i in range(1, 7) for part in ("attention", "feed-forward")]]
BENT = [name for name in NAMES if name.startswith("feed")]  # "feed-forward 1" .. "feed-forward 6"

# %%
sums = {name: binned(x, y) for name, x, y in zip(NAMES, inputs, outputs, strict=True)}
real = {name: {shape: fit_map(shape, s) for shape in SHAPES} for name, s in sums.items()}
spread = {name: float(metrics.rms(x).std() / metrics.rms(x).mean()) for name, x in zip(NAMES, inputs, strict=True)}
largest = max(float(y.abs().max()) for y in outputs)
kappa = {name: y.pow(4).mean(1) / 384 for name, y in zip(NAMES, outputs, strict=True)}  # κ/d of each token
one_channel = {name: k > 0.98 for name, k in kappa.items()}  # tokens with 98% of Σy⁴ ≤ d² in one channel
held = {name: float(x.square().sum(1)[one_channel[name]].sum() / x.square().sum()) for name, x in zip(NAMES, inputs, strict=True)}
MASSIVE = [name for name in BENT if held[name] > 0.2]


def fed_forward(i):
    """What feed-forward norm i should get: the output of attention norm i plus the i-th feed-forward sublayer of it, centred."""
    encoder, k = minilm.Encoder(), 2 * i - 1
    a = outputs[k].float() * encoder.norms[k].weight + encoder.norms[k].bias
    inner = F.gelu(encoder.linears[f"{i - 1}_intermediate_dense"](a))
    x = a + encoder.linears[f"{i - 1}_output_dense"](inner)
    return (x - x.mean(-1, keepdim=True)).double()


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two scatter panels of output against input of a real LayerNorm. Left, feed-forward norm 2: a steep line of small inputs, and a few large inputs whose outputs lie at plus and minus the root of 383; the tanh and ISRU fits are S-shaped, nearly equal and saturate there. Right, attention norm 3: the cloud is a thin straight line."}}
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.7))
for axes, name in zip(panels, ("feed-forward 2", "attention 3"), strict=True):
    k = NAMES.index(name)
    xs, ys = inputs[k].flatten(), outputs[k].flatten()
    big = xs.abs().argsort(descending=True)[:1500]
    chosen = torch.cat([big, torch.arange(0, len(xs), max(1, len(xs) // 3000))])
    axes.plot(xs[chosen], ys[chosen], ".", ms=3, color=GREY, alpha=0.6, zorder=3, label="entries of 1,536 tokens (a part)")
    wide_x = torch.linspace(-float(xs.abs().max()), float(xs.abs().max()), 4000, dtype=torch.float64)
    for shape, color, style in (("ISRU", BLUE, "-"), ("tanh", ORANGE, "--"), ("linear", GREEN, ":")):
        fit = real[name][shape]
        axes.plot(wide_x, fit.amplitude * SHAPES[shape](fit.alpha * wide_x), color=color, ls=style, label=f"best {shape}")
    for bound in (-1, 1):
        axes.axhline(bound * math.sqrt(383), color=BLACK, lw=0.8, ls="-.")
    reach = 1.05 * float(xs.abs().max())
    axes.set(xlabel="centred input", ylim=(-25, 25), xlim=(-reach, reach))
panels[0].set_title("Feed-forward 2: an S that ends at ±√383", fontsize=9)
panels[1].set_title("Attention 3: a straight line", fontsize=9)
panels[0].set_ylabel("output, before gain and bias")
for bound, name in ((20.4, "√383"), (-22.6, "−√383")):
    panels[0].annotate(name, (panels[0].get_xlim()[0] * 0.97, bound), fontsize=8)
panels[0].set_xscale("symlog", linthresh=10)
panels[0].set_xlabel("centred input (log axis beyond ±10)")
panels[0].legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.12))
nb.show(figure)

# %% tags=["hide-input"]
thousand = lambda e: f"{1000 * e:.1f}"
lead = {name: real[name]["tanh"].error / real[name]["ISRU"].error - 1 for name in ["embedding", *BENT]}
nb.results(
    "E5",
    f"Error left by the best element-wise map at the LayerNorms of MiniLM, in ‰ ({len(passages)} passages of 128 tokens)",
    [
        "LayerNorm",
        "spread of the RMS",
        "linear",
        "tanh",
        "ISRU",
        "erf",
        "clip",
        "best odd map",
        "A of the ISRU",
        "A of tanh",
        "energy in one-channel tokens",
    ],
    [
        [
            name,
            f"{100 * spread[name]:.0f}%",
            *[thousand(real[name][s].error) for s in ("linear", "tanh", "ISRU", "erf", "clip")],
            thousand(best_map(sums[name])),
            *[f"{real[name][s].amplitude:.1f}" if name in ["embedding", *BENT] else "linear" for s in ("ISRU", "tanh")],
            f"{100 * held[name]:.0f}%",
        ]
        for name in NAMES
    ],
)


# %% [markdown]
# What the real plots add to the theory:
#
# - **Six of thirteen norms need an S**, those after feed-forward layers; the embedding's bends a little. After attention the RMS varies by 5% to 13% (26% in the last layer), and a line is as good as any S.
# - **No winner.** ISRU leads tanh by at most about 1%, and loses by 4% at the embedding and in the last layer. On the largest thousandth of the entries it leads at three of seven.
# - **The amplitude is $\sqrt d$ where one channel is the token.** In norms 1 to 3 one token a passage has a *massive* channel {cite}`sun2024massive`, $\kappa/d>0.98$, and these tokens hold a third to two thirds of
#   all energy. That is the case of D2 in which the diagonal Jacobian is the whole Jacobian. Elsewhere the fitted amplitude is another: 14 to 15 in norms 4 to 6, and 27 at the embedding, more than a LayerNorm can give. Nor
#   does it measure a tail: by (9) an amplitude of 14.5 would leave 2‰, not 142‰ (X14).


# %%
def others_energy(x):
    """C_i, the energy of the channels other than i, for tokens x (..., d)."""
    return x.square().sum(-1, keepdim=True) - x.square()


def with_constant(x, y, theta, constant):
    """Normalized error of sqrt(d) x / sqrt(x^2 + (1 - theta) constant(C) + theta C) as a stand-in for y, with C the energy of the others."""
    C = others_energy(x)
    f = math.sqrt(x.shape[-1]) * x / (x.square() + (1 - theta) * constant(C) + theta * C).sqrt()
    return float((f - y).square().sum() / y.square().sum())


CONSTANTS = {"mean": torch.mean, "mean of the channel": lambda C: C.mean(0), "harmonic mean": lambda C: 1 / (1 / C).mean()}
thetas = [0, 0.25, 0.5, 0.75, 0.9, 1.0]
layers = dict(zip(NAMES, zip(inputs, outputs, strict=True), strict=True))
by_constant = {name: {how: with_constant(x, y, 0, c) for how, c in CONSTANTS.items()} for name, (x, y) in layers.items()}
along_theta = [with_constant(*layers["feed-forward 1"], theta, torch.mean) for theta in thetas]
relative_spread = {name: float(others_energy(x).std() / others_energy(x).mean()) for name, x in zip(NAMES, inputs, strict=True)}

# %% tags=["hide-input"]
scope5 = f"MiniLM, {len(passages)} × 128 tokens"
nb.claim(
    "C5",
    "|yᵢ| ≤ √d for RMSNorm and √(d−1) for LayerNorm, reached exactly where one channel has all the energy.",
    "verified",
    holds=[
        sym.enumeration(
            "RMSNorm of a one-hot token, d = 2..4", (2, 3, 4), lambda n: rms_norm([sp.Integer(5), *[0] * (n - 1)])[0] ** 2, sp.Integer
        ),
        sym.enumeration(
            "LayerNorm of a one-hot token, d = 2..4",
            (2, 3, 4),
            lambda n: layer_norm([sp.Integer(5), *[0] * (n - 1)])[0] ** 2,
            lambda n: sp.Integer(n - 1),
        ),
        *[
            sym.identity(
                f"what is missing to d, any token, d = {n}",
                n - rms_norm(x4[:n])[0] ** 2,
                n * sum(v**2 for v in x4[1:n]) / length(x4[:n]) ** 2,
            )
            for n in (2, 3, 4)
        ],
        sym.identity(
            "LayerNorm, d = 4, as a sum of squares by X2",
            3 - layer_norm(x4)[0] ** 2,
            12 * rms(other(x4)) ** 2 / (distance(x4) ** 2 + 4 * rms(other(x4)) ** 2),
        ),
        ledger.less("MiniLM, 13 LayerNorms: largest |y|", largest, math.sqrt(383), digits=6, machine=True, scope=scope5),
        ledger.more("and it comes close", largest, 0.999 * math.sqrt(383), digits=6, machine=True, scope=scope5),
    ],
)
nb.experiment(
    "E5",
    "At the real LayerNorms after attention a straight line is as good as any of the shapes; after feed-forward layers an S leaves less than half of the error of a line.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"{name}: best of the four shapes saves, relative",
                1 - min(real[name][s].error for s in SHAPES) / real[name]["linear"].error,
                0.02,
                digits=2,
                machine=True,
                scope=scope5,
            )
            for name in NAMES
            if name.startswith("attention")
        ],
        *[
            ledger.more(
                f"{name}: error of a line over that of tanh",
                real[name]["linear"].error / real[name]["tanh"].error,
                2,
                digits=3,
                machine=True,
                scope=scope5,
            )
            for name in BENT
        ],
        ledger.less(
            "spread of the RMS after attention 1 to 5, at most",
            max(spread[f"attention {i}"] for i in range(1, 6)),
            0.2,
            machine=True,
            scope=scope5,
        ),
        ledger.more("spread of the RMS after feed-forward, at least", min(spread[name] for name in BENT), 0.3, machine=True, scope=scope5),
        *[
            ledger.close(
                f"what feed-forward norm {i} got, recomputed from attention norm {i}: relative difference",
                float((fed_forward(i) - inputs[NAMES.index(f"feed-forward {i}")]).norm() / fed_forward(i).norm()),
                0,
                abs=1e-4,
                digits=1,
                machine=True,
                scope=scope5,
            )
            for i in (1, 2, 3, 4, 5, 6)
        ],
    ],
)
nb.claim(
    "C8",
    "On the LayerNorms of a real network, too, the ISRU comes closer than tanh.",
    "not reproduced",
    fails=[
        ledger.less(
            "LayerNorms with a bent plot, of seven, at which it leads by 1% or more on the largest 0.1% of the entries",
            sum(
                outlier_error("tanh", real[name]["tanh"], sums[name]) / outlier_error("ISRU", real[name]["ISRU"], sums[name]) > 1 + BAR
                for name in lead
            ),
            5,
            scope=scope5,
        ),
        ledger.less(
            "LayerNorms with a bent plot, of seven, at which the ISRU leads by 1% or more",
            sum(v > BAR for v in lead.values()),
            3,
            scope=scope5,
        ),
        ledger.more(
            "lead of tanh at the embedding and at feed-forward 6, the smaller one",
            min(-lead["embedding"], -lead["feed-forward 6"]),
            0.02,
            digits=2,
            machine=True,
            scope=scope5,
        ),
    ],
)
nb.claim(
    "C9",
    "An explicit √d is meaningful: the fitted amplitude is √d.",
    "partly",
    holds=[
        ledger.close(
            "feed-forward norms with massive activations: 1, 2, 3; their number",
            sum(name in MASSIVE for name in BENT[:3]),
            3,
            abs=0.5,
            scope=scope5,
        ),
        *[
            ledger.close(
                f"amplitude of {shape} over √384, {name}",
                real[name][shape].amplitude / math.sqrt(384),
                1,
                rel=0.1,
                digits=3,
                machine=True,
                scope=scope5,
            )
            for name in MASSIVE
            for shape in ("ISRU", "tanh")
        ],
        *[
            ledger.close(
                f"√384 x/√(x² + C) with the best C, {name}: error over the free fit's",
                by_constant[name]["harmonic mean"] / real[name]["ISRU"].error,
                1,
                abs=0.03,
                digits=4,
                machine=True,
                scope=scope5,
            )
            for name in MASSIVE
        ],
    ],
    fails=[
        *[
            ledger.less(
                f"ISRU over √384, {name}", real[name]["ISRU"].amplitude / math.sqrt(384), 0.85, digits=3, machine=True, scope=scope5
            )
            for name in BENT
            if name not in MASSIVE
        ],
        ledger.more(
            "embedding: above √383, the most a LayerNorm gives",
            real["embedding"]["ISRU"].amplitude / math.sqrt(383),
            1.15,
            digits=3,
            machine=True,
            scope=scope5,
        ),
    ],
)
nb.claim(
    "X14",
    "Nor does the amplitude tell the tail there: the error that (9) gives for the fitted amplitude is far from the real one, for real tokens are no Student-t scale times Gaussian channels.",
    "verified",
    holds=[
        ledger.more(
            f"{name}: error over (9) at ν = A² − 1/2",
            real[name]["ISRU"].error / floor(real[name]["ISRU"].amplitude ** 2 - 0.5),
            10,
            digits=2,
            machine=True,
            scope=scope5,
        )
        for name in ("feed-forward 5", "feed-forward 6")
    ],
)

# %% [markdown]
# ### One constant for all tokens
#
# DyISRU's only approximation is the common $C$. So let us interpolate between it and RMSNorm: $C_i\to(1-\theta)\,\bar C+\theta\,C_i$, with the amplitude $\sqrt d$. And which constant is best? The obvious
# one, a running mean of $C_i$ as in BatchNorm, alike for all channels or one for each, leaves 8 to 13 times the error of the best where tokens are massive. The harmonic mean, which such tokens
# cannot dominate, comes within 2% of the free fit there. In the other norms the mean is worse by up to 85%, the harmonic mean by up to 65%.


# %% tags=["hide-input"]
over_fit = lambda name, how: by_constant[name][how] / real[name]["ISRU"].error
nb.results(
    "X6",
    "How far C varies, and the error of √d x/√(x² + C) with one constant over that of the freely fitted ISRU",
    ["LayerNorm", "spread of C", *CONSTANTS],
    [[name, f"{100 * relative_spread[name]:.0f}%", *[f"{over_fit(name, how):.2f}" for how in CONSTANTS]] for name in NAMES],
)
pair_x, pair_y = inputs[2][:40], outputs[2][:40]
squares_of = pair_x.numpy() ** 2
C_loops = np.array([[sum(row[:i]) + sum(row[i + 1 :]) for i in range(384)] for row in squares_of])
half_way = math.sqrt(384) * pair_x.numpy() / np.sqrt(squares_of + C_loops.mean() / 2 + C_loops / 2)
half_error = float(np.sum((half_way - pair_y.numpy()) ** 2) / np.sum(pair_y.numpy() ** 2))
nb.claim(
    "X6",
    "The price of one C: at the norms with massive activations the mean of C leaves more than 7 times the error of the best fit, the harmonic mean at most 2% more; a share θ of the token's own C removes the error steadily.",
    "verified",
    holds=[
        ledger.increasing("accuracy 1 − error as θ goes from 0 to 1", [1 - e for e in along_theta], machine=True, scope=scope5),
        ledger.less("error at θ = 1, where it is RMSNorm", along_theta[-1], 1e-12, machine=True, scope=scope5),
        ledger.close(
            "error at θ = 1/2 of 40 tokens, by loops", with_constant(pair_x, pair_y, 0.5, torch.mean), half_error, rel=1e-9, machine=True
        ),
        *[
            ledger.more(f"{how}, {name}: error over the fit's", over_fit(name, how), 7, digits=3, machine=True, scope=scope5)
            for name in MASSIVE
            for how in ("mean", "mean of the channel")
        ],
        *[
            ledger.close(f"harmonic mean, {name}", over_fit(name, "harmonic mean"), 1, abs=0.02, digits=4, machine=True, scope=scope5)
            for name in MASSIVE
        ],
        ledger.less(
            "spread of C after attention 2 to 5, at most",
            max(relative_spread[f"attention {i}"] for i in (2, 3, 4, 5)),
            0.2,
            digits=2,
            machine=True,
            scope=scope5,
        ),
        ledger.more("after feed-forward, at least", min(relative_spread[name] for name in BENT), 1, digits=2, machine=True, scope=scope5),
        ledger.close(
            "spread of C at feed-forward norm 1, by loops over 40 tokens",
            float(others_energy(pair_x).std() / others_energy(pair_x).mean()),
            float(C_loops.std(ddof=1) / C_loops.mean()),
            rel=1e-9,
            machine=True,
        ),
    ],
)

# %% [markdown]
# ### What is lost: $Jx=0$
#
# Double the input and RMSNorm does not notice; DyT does. With this goes a property of training that normalised networks have: the gradient of a weight matrix in front of a norm is orthogonal to the matrix, so that a
# plain gradient step can only lengthen it, longer weights turn more slowly, and the learning rate tunes itself {cite}`arora2019autotuning`. In front of DyT it is not.

# %%
weights = torch.randn(32, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64) / math.sqrt(32)
probe_x = torch.randn(64, 32, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
probe_y = torch.randn(64, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def before_norm(layer, scale=1.0):
    """cos(W, dL/dW) for the matrix W times ``scale`` in front of a layer, the norm of dL/dW, and the layer's outputs."""
    W = (scale * weights).requires_grad_()
    out = layer.double()(probe_x @ W)
    (G,) = torch.autograd.grad(((out - probe_y) ** 2).sum(), W)
    return float(F.cosine_similarity(W.detach().flatten(), G.flatten(), dim=0)), float(G.norm()), out.detach()


layers3 = {"RMSNorm": RMSNorm(32), "DyT": DyT(32), "DyISRU, √d": DyISRU(32, 1.0, math.sqrt(32))}
seen3 = {name: (before_norm(layer), before_norm(layer, 2.0)) for name, layer in layers3.items()}
moved_by = {name: float((one[2] - two[2]).norm() / one[2].norm()) for name, (one, two) in seen3.items()}

# %%
nb.claim(
    "X7",
    "Doubling W changes nothing behind RMSNorm and halves the gradient, which is orthogonal to W; behind DyT and DyISRU outputs move and the gradient has a part along W.",
    "verified",
    holds=[
        ledger.close("RMSNorm: change of the outputs", moved_by["RMSNorm"], 0, abs=1e-10, digits=1, machine=True),
        ledger.close("RMSNorm: gradient at 2W over that at W", seen3["RMSNorm"][1][1] / seen3["RMSNorm"][0][1], 0.5, rel=1e-9),
        ledger.close("RMSNorm: cos(W, ∂L/∂W)", seen3["RMSNorm"][0][0], 0, abs=1e-10, digits=1, machine=True),
        *[ledger.more(f"{name}: change of the outputs", moved_by[name], 0.3, digits=3) for name in ("DyT", "DyISRU, √d")],
        *[ledger.more(f"{name}: |cos(W, ∂L/∂W)|", abs(seen3[name][0][0]), 0.1, digits=3) for name in ("DyT", "DyISRU, √d")],
    ],
)

# %% [markdown]
# ## Two trainings
#
# ### A race of the substitutes
#
# A Pre-Norm language model on the characters of Shakespeare, three layers of width 32, every norm (two a layer and one before the head) replaced by a substitute; a learned scalar on the
# embedding, which the DyT paper needs for its language models, in every arm. Every arm has the same grid of learning rates and the same seeds, Adam with a warm-up and a cosine; the gradients of each run are clipped to norm 1 of
# their own. $\sqrt d$ explicit means
# $\gamma\sqrt d\,f(\alpha x/\sqrt d)$ with $\alpha$ starting at 1; the others start at $\alpha=\frac12$ with amplitude 1. That changes two things, slope and amplitude, so four controls change one at a time.
#
# Expected, if the post is right: the explicit $\sqrt d$ helps, and neither another amplitude nor the identity does as much; tanh and ISRU do not differ; nothing quite reaches the norm. Recorded on two CPU cores, which sets the sizes: 38,400 characters a run, one width, three seeds, or five.


# %%
# recorded before optim.Clipped took parameters of shape (R,), as it does now; that the two agree is part of X8
class ClippedRuns(optim.Clipped):
    """optim.Clipped for models that also have one number a run, such as the learned alpha: all gradients of a run scaled to norm ``bound``."""

    @torch.no_grad()
    def update(self) -> None:
        params = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.reshape(len(p), -1).square().sum(1) for p in params]).sum(0).sqrt()
        for p in params:
            p.grad.mul_((self.bound / norm).clamp(max=1.0).view(-1, *[1] * (p.ndim - 1)))
        optim.Together.update(self)


# %%
def race(device, *, arms, rates, seeds, clip, steps, batch, shape, budget):
    """Held-out loss in nats a character after training: arm -> (rates, seeds). An arm: name, kind, alpha, amplitude of kexue_nb.norms.

    ``clip`` bounds each run's gradient norm (None: no bound); the training text is cut to its first ``budget`` characters (None: all).
    """
    ids, alphabet = data.encode_characters(data.shakespeare())
    text, held_out = ids[: len(ids) * 9 // 10][:budget], ids[len(ids) * 9 // 10 :]
    lr = torch.tensor(rates).repeat_interleave(len(seeds)).to(device)
    losses = {}
    for name, kind, alpha, amplitude in arms:
        init = nn.Init(list(seeds) * len(rates))
        options = {"norm": kind, "alpha": alpha, "amplitude": amplitude, "embedding_scale": True}
        model = norms.Transformer(init, vocabulary=len(alphabet), **options, **shape).to(device)
        optimizer = ClippedRuns(math.inf if clip is None else clip, optim.StackedAdam(model.parameters(), lr, betas=(0.9, 0.95)))
        draw = drawing(text, batch, shape["context"], seeds, len(rates), device)
        loss = lambda x, y, model=model: nn.cross_entropy_per_run(model(x), y)
        train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine)
        losses[name] = held_out_loss(model, held_out, shape["context"]).view(len(rates), len(seeds))
    return losses


# %%
def drawing(text, batch, length, seeds, repeats, device):
    """A function step -> (x, y), each (repeats * seeds, batch, length): every seed has its own windows, equal for all rates and arms."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(step):
        drawn = [data.windows(text, batch, length, g) for g in generators]
        return tuple(torch.stack(t).repeat(repeats, 1, 1).to(device) for t in zip(*drawn, strict=True))

    return draw


@torch.no_grad()
def held_out_loss(model, text, length, windows=256):
    """Loss of each run (R,) on the same ``windows`` windows; a diverged run counts as 9.99."""
    x, y = (t.to(model.tokens.weight.device) for t in data.windows(text, windows, length, torch.Generator().manual_seed(12345)))
    runs = len(model.tokens.weight)
    parts = [
        nn.cross_entropy_per_run(model(a.expand(runs, -1, -1)), b.expand(runs, -1, -1))
        for a, b in zip(x.split(64), y.split(64), strict=True)
    ]
    return torch.stack(parts).mean(0).nan_to_num(nan=9.99).clamp_max(9.99)


# %%
race_shape = {"context": 32, "d": 32, "depth": 3, "heads": 4, "width": 128}
ALL_ARMS = [
    ["RMSNorm", "rms", None, None],
    ["DyT", "dyt", 0.5, 1.0],
    ["DyT, α = 1", "dyt", 1.0, 1.0],
    ["DyISRU", "dyisru", 0.5, 1.0],
    ["Derf", "derf", 0.5, 1.0],
    ["hardtanh", "clip", 0.5, 1.0],
    ["identity", "identity", 0.5, 1.0],
    ["DyT, √d", "dyt", 1.0, math.sqrt(32)],
    ["DyISRU, √d", "dyisru", 1.0, math.sqrt(32)],
]
named = lambda *names: [arm for arm in ALL_ARMS if arm[0] in names]
CONTROLS = [  # slope, amplitude or both?
    ["DyT, α = 1, A = 2", "dyt", 1.0, 2.0],
    ["DyT, α = 1, A = d", "dyt", 1.0, 32.0],
    ["DyT, α = 1/2, A = √d", "dyt", 0.5, math.sqrt(32)],
    ["identity, α = 1", "identity", 1.0, 1.0],
]
few, MORE_SEEDS = named("RMSNorm", "DyT", "identity", "DyT, √d"), named("RMSNorm", "DyT", "DyISRU", "DyT, √d")
GRID = [0.003, 0.01, 0.03, 0.1]
race_seeds, race_steps = nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2, 3], full=[0, 1, 2]), nb.at_scale(cpu=100, gpu=300, full=150)
race_config = {"seeds": race_seeds, "steps": race_steps, "batch": 8, "shape": race_shape}
live_arms, live_rates = named("RMSNorm", "DyT", "DyT, √d"), [0.01, 0.03]

# %%
e3 = nb.run(
    "E3",
    race,
    arms=nb.at_scale(cpu=live_arms, gpu=ALL_ARMS, full=ALL_ARMS),
    rates=nb.at_scale(cpu=live_rates, gpu=GRID, full=GRID),
    clip=1.0,
    budget=None,
    **race_config,
)

# %% tags=["nbval-ignore-output"]
if nb.scale != "cpu":  # only where there is time: without clipping, with few characters many times, controls, more seeds
    nb.run("E3b", race, arms=few, rates=GRID, clip=None, budget=None, **race_config)
    nb.run("E3c", race, arms=few, rates=[0.001, *GRID, 0.3], clip=1.0, budget=2000, **race_config)
    nb.run("E3d", race, arms=CONTROLS, rates=GRID, clip=1.0, budget=None, **race_config)
    nb.run("E3e", race, arms=MORE_SEEDS, rates=GRID, clip=1.0, budget=None, **(race_config | {"seeds": [3, 4]}))

# %% [markdown]
# ### Three treatments of the attention logits
#
# The post ends on the attention logits. Gemma 2 capped them softly (at 50, from memory); Gemma 3 dropped the cap and normalises queries and keys instead {cite}`gemma3`. The author's reading: a cap
# only moves the explosion elsewhere, before the cap. We train the small model without clipping at a high learning rate, three ways: plain logits, softcap at 10, and QK-norm with learned gains
# (positions are learned vectors; {cite}`henry2020qknorm` had L2 norms and one scale, the RMS norm with gains is a later variant). Expected: QK-norm holds the logits near 4, the cap does not. We watch
# the largest logit $|q\cdot k|/\sqrt{d_h}$ *before* the cap.


# %% tags=["hide-input"]
class Guarded(norms.Transformer):
    """A language model whose attention logits are left alone ("none"), capped ("softcap"), or those of normalized q and k ("QK-norm").

    ``seen`` holds, for each layer of the last pass, two (R,): the largest causal logit before the cap, and the share beyond ``cap``.
    """

    def __init__(self, init, *, guard, cap, d, depth, heads, **options):
        super().__init__(init, d=d, depth=depth, heads=heads, **options)
        self.guard, self.cap, self.seen = guard, cap, []
        count = 2 * depth if guard == "QK-norm" else 0
        self.head_norms = torch.nn.ModuleList(norms.Norm(init, d // heads, "rms") for _ in range(count))

    def states(self, ids, precision=torch.float32):
        self.seen = []
        yield from super().states(ids, precision)

    def _attention(self, x, wq, wk, wv, wo, rotation):
        q, k, v = (nn._matmul(x, w).unflatten(-1, (self.heads, -1)).transpose(2, 3) for w in (wq, wk, wv))  # (R, B, H, T, d_head)
        if self.guard == "QK-norm":
            q, k = self.head_norms[2 * len(self.seen)](q), self.head_norms[2 * len(self.seen) + 1](k)
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        causal = torch.ones(logits.shape[-2:], dtype=torch.bool, device=x.device).tril()
        size = logits.detach().abs()[..., causal].flatten(1)
        self.seen.append((size.amax(1), (size > self.cap).float().mean(1)))
        if self.guard == "softcap":
            logits = self.cap * torch.tanh(logits / self.cap)
        attended = logits.masked_fill(~causal, -torch.inf).softmax(-1) @ v
        return nn._matmul(attended.transpose(2, 3).flatten(-2), wo)


# %% tags=["hide-input"]
def logit_growth(device, *, guards, rates, seeds, steps, marks, batch, cap, shape):
    """For each guard: the largest logit before the cap and the share beyond it, (marks, rates, seeds), on a held-out batch; last losses."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    text, held_out = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    lr = torch.tensor(rates).repeat_interleave(len(seeds)).to(device)
    grid, found = (len(rates), len(seeds)), {}
    probe = data.windows(held_out, 16, shape["context"], torch.Generator().manual_seed(54321))[0].to(device).expand(len(lr), -1, -1)
    for guard in guards:
        model = Guarded(nn.Init(list(seeds) * len(rates)), guard=guard, cap=cap, vocabulary=len(alphabet), **shape).to(device)
        draw = drawing(text, batch, shape["context"], seeds, len(rates), device)
        rows = {"largest": [], "beyond": []}

        def watch(step, losses, model=model, rows=rows):
            if step + 1 in marks:
                with torch.no_grad():
                    model(probe)
                largest, beyond = (torch.stack(t) for t in zip(*model.seen, strict=True))
                rows["largest"].append(largest.amax(0).view(grid))
                rows["beyond"].append(beyond.mean(0).view(grid))

        loss = lambda step, model=model, draw=draw: (lambda x, y: nn.cross_entropy_per_run(model(x), y))(*draw(step))
        optimizer = optim.StackedAdam(model.parameters(), lr, betas=(0.9, 0.95))
        train.fit(loss, optimizer, steps, schedule=lambda step, steps: min(1.0, (step + 1) / 10), watch=watch)
        loss_now = held_out_loss(model, held_out, shape["context"], windows=128).view(grid)
        found[guard] = {name: torch.stack(row) for name, row in rows.items()} | {"loss": loss_now}
    return found


# %%
e4_marks = nb.at_scale(cpu=[1, 25, 50, 75], gpu=[1, 25, 50, 75, 100, 125, 150], full=[1, 25, 50, 75, 100, 125, 150])
e4 = nb.run(
    "E4",
    logit_growth,
    guards=["none", "softcap", "QK-norm"],
    rates=nb.at_scale(cpu=[0.03], gpu=[0.003, 0.01, 0.03], full=[0.003, 0.01, 0.03]),
    seeds=[0, 1, 2],
    steps=e4_marks[-1],
    marks=e4_marks,
    batch=8,
    cap=10.0,
    shape={"context": 32, "d": 64, "depth": 2, "heads": 4},
)

# %% [markdown]
# ### Is the code right?
#
# A recorded number does not move when the code breaks, so the code is tested here at tiny size: whole races by `torch.optim.Adam` and `clip_grad_norm_`, one run at a time; the attention by loops over heads and positions.


# %% tags=["hide-input"]
def reference_model(arm, seed, vocabulary):
    return norms.Transformer(
        nn.Init([seed]), vocabulary=vocabulary, norm=arm[1], alpha=arm[2], amplitude=arm[3], embedding_scale=True, **tiny_shape
    )


def reference_run(model, text, held_out, *, rate, seed, clip, factor, windows, batch=3, steps=5, after=lambda step: None):
    """One run with torch's own optimizer and clipping: the held-out loss."""
    adam = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * factor(step)
        start = torch.randint(len(text) - 8, (batch, 1), generator=generator)
        x, y = (text[start + torch.arange(8) + shift] for shift in (0, 1))
        adam.zero_grad()
        F.cross_entropy(model(x[None])[0].flatten(0, 1), y.flatten()).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        adam.step()
        after(step)
    start = torch.randint(len(held_out) - 8, (windows, 1), generator=torch.Generator().manual_seed(12345)) + torch.arange(8)
    with torch.no_grad():
        return float(F.cross_entropy(model(held_out[start][None])[0].flatten(0, 1), held_out[start + 1].flatten()))


def logits_by_hand(model, ids, arm):
    """The model of a race, run 0, on ids (T,) from its parameters alone: every norm, residual and head written out."""
    _, kind, _, amplitude = arm
    weight = lambda key: getattr(model, key)[0]

    def norm(k, x):
        layer = model.norms[k]
        if kind == "rms":
            return layer.gamma[0] * x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
        return layer.gamma[0] * amplitude * torch.tanh(layer.alpha[0] * x / amplitude) + layer.beta[0]

    x = model.embedding_scale[0] * (model.tokens.weight[0, ids] + model.positions.weight[0, : len(ids)])
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in range(model.depth):
        q, k, v = (norm(2 * layer, x) @ weight(key)[layer] for key in ("wq", "wk", "wv"))
        heads = []
        for q_h, k_h, v_h in zip(*(t.split(x.shape[1] // model.heads, 1) for t in (q, k, v)), strict=True):
            heads.append((q_h @ k_h.T / q_h.shape[1] ** 0.5).masked_fill(future, -torch.inf).softmax(1) @ v_h)
        x = x + torch.cat(heads, 1) @ weight("wo")[layer]
        u = norm(2 * layer + 1, x) @ weight("w1")[layer]
        x = x + (u * (1 + torch.erf(u / 2**0.5)) / 2) @ weight("w2")[layer]
    return norm(-1, x) @ model.head.weight[0]


tiny_shape = {"context": 8, "d": 16, "depth": 2, "heads": 2}
characters = data.encode_characters(data.shakespeare())[0]
cut = int(0.9 * len(characters))
tiny_arms, cpu = [["A", "dyt", 0.7, 2.0], ["B", "rms", None, None]], torch.device("cpu")
cosine = lambda step: optim.warmup_cosine(step, 5)
race_gap, hand_gap, stepped = {}, {}, []
for kind in (ClippedRuns, optim.Clipped):
    p = [torch.nn.Parameter(torch.linspace(-1, 1, 2 * n).view(2, *shape)) for n, shape in ((1, ()), (3, (3,)), (4, (2, 2)))]
    stepper = kind(0.5, optim.StackedSGD(p, torch.tensor([0.1, 0.2])))
    sum((q**2).sum() for q in p).backward()
    stepper.step()
    stepped.append(torch.cat([q.detach().flatten() for q in p]))
for arm in tiny_arms:
    model = reference_model(arm, 3, 84)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6))
        ours = model(characters[None, None, :8])[0, 0]
        hand_gap[arm[1]] = entry_gap(ours, logits_by_hand(model, characters[:8], arm))
        model.tokens.weight *= 1e-5  # so small that ε under the first root counts
        model.positions.weight *= 1e-5
        quiet = model(characters[None, None, :8])[0, 0]
        hand_gap[f"{arm[1]}, small embeddings"] = entry_gap(quiet, logits_by_hand(model, characters[:8], arm))
for clip, budget in ((0.5, None), (None, 60)):
    ran = race(cpu, arms=tiny_arms, rates=[0.01, 0.05], seeds=[3, 4], clip=clip, steps=5, batch=3, shape=tiny_shape, budget=budget)
    text = characters[: cut if budget is None else budget]
    theirs = {
        arm[0]: [
            [
                reference_run(
                    reference_model(arm, seed, 84), text, characters[cut:], rate=rate, seed=seed, clip=clip, factor=cosine, windows=256
                )
                for seed in (3, 4)
            ]
            for rate in (0.01, 0.05)
        ]
        for arm in tiny_arms
    }
    race_gap |= {(clip, budget, name): entry_gap(ran[name], torch.tensor(rows)) for name, rows in theirs.items()}

# %% tags=["hide-input"]
toy = {
    guard: Guarded(nn.Init([5]), guard=guard, cap=1.5, vocabulary=84, context=8, d=16, depth=1, heads=2)
    for guard in ("none", "softcap", "QK-norm")
}
toy_ids = characters[1000:1016].view(1, 2, 8)


def attended_by_loops(model, x):
    """The first attention sublayer on x (B, T, d), head by head and position by position; and all causal logits before the cap."""
    wq, wk, wv, wo = (getattr(model, name)[0, 0] for name in ("wq", "wk", "wv", "wo"))
    out, logits = torch.zeros(2, 8, 16), []
    for b, t, h in ((b, t, h) for b in range(2) for t in range(8) for h in range(2)):
        head = slice(8 * h, 8 * h + 8)
        q, keys = (x[b, t] @ wq)[head], [(x[b, s] @ wk)[head] for s in range(t + 1)]
        if model.guard == "QK-norm":
            unit = lambda v, norm: norm.gamma[0] * v / (v.square().mean() + 1e-7).sqrt()
            q, keys = unit(q, model.head_norms[0]), [unit(k, model.head_norms[1]) for k in keys]
        row = torch.stack([q @ k / 8**0.5 for k in keys])
        logits.append(row)
        row = model.cap * torch.tanh(row / model.cap) if model.guard == "softcap" else row
        values = torch.stack([(x[b, s] @ wv)[head] for s in range(t + 1)])
        out[b, t, head] = row.softmax(0) @ values
    return out @ wo, torch.cat(logits)


loop_gap, seen_gap = {}, {}
for guard, model in toy.items():
    with torch.no_grad():
        for k, norm in enumerate(model.head_norms):
            norm.gamma += torch.linspace(0, 1 + k, 8)
        model.wq *= 2
        before, after, _ = model.states(toy_ids)
        by_hand, all_logits = attended_by_loops(model, model.norms[0](before)[0])
    loop_gap[guard] = entry_gap((after - before)[0], by_hand)
    mine = [float(all_logits.abs().max()), float((all_logits.abs() > 1.5).float().mean())]
    seen_gap |= {
        (guard, what): entry_gap(a, b) for what, a, b in zip(("largest logit", "share beyond the cap"), model.seen[0], mine, strict=True)
    }

grown = logit_growth(cpu, guards=["softcap"], rates=[0.01, 0.05], seeds=[3, 4], steps=4, marks=[2, 4], batch=3, cap=1.5, shape=tiny_shape)[
    "softcap"
]
probe_at = torch.randint(len(characters) - cut - 8, (16, 1), generator=torch.Generator().manual_seed(54321)) + torch.arange(8)
growth_gap = []
for (i, rate), (j, seed) in ((a, b) for a in enumerate((0.01, 0.05)) for b in enumerate((3, 4))):
    single = Guarded(nn.Init([seed]), guard="softcap", cap=1.5, vocabulary=84, **tiny_shape)
    rows = []

    def look(step, single=single, rows=rows):
        with torch.no_grad():
            single(characters[cut:][probe_at][None])
        rows.append((max(float(m) for m, _ in single.seen), np.mean([float(s) for _, s in single.seen])))

    warm = lambda step: min(1.0, (step + 1) / 10)
    loss = reference_run(
        single, characters[:cut], characters[cut:], rate=rate, seed=seed, clip=None, factor=warm, windows=128, steps=4, after=look
    )
    theirs = [rows[1][0], rows[3][0], rows[1][1], rows[3][1], loss]
    ours = [float(v) for v in (*grown["largest"][:, i, j], *grown["beyond"][:, i, j], grown["loss"][i, j])]
    growth_gap += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]

# %% tags=["hide-input"]
nb.claim(
    "X8",
    "The code of both trainings agrees with references at tiny size: whole runs by torch's Adam and clipping, attention and its logits by loops.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"race, clip {clip}, budget {budget}: arm {name}, 2 rates, 2 seeds: largest difference",
                gap,
                2e-4,
                digits=1,
                machine=True,
                method="float32",
            )
            for (clip, budget, name), gap in race_gap.items()
        ],
        ledger.less("a step clipped by ClippedRuns and by optim.Clipped", entry_gap(stepped[0], stepped[1]), 1e-6, digits=1, machine=True),
        *[
            ledger.less(
                f"logits of a race's model by hand, {kind}: largest difference", gap, 1e-4, digits=1, machine=True, method="float32"
            )
            for kind, gap in hand_gap.items()
        ],
        *[
            ledger.close(f"{arm[0]}: amplitude² over the width", arm[3] ** 2 / run.config["shape"]["d"], 1, rel=1e-4)
            for run in (nb.recorded("E3"), nb.recorded("E3b"), nb.recorded("E3c"))
            for arm in run.config["arms"]
            if arm[0].endswith(", √d")
        ],
        *[
            ledger.close(f"{arm[0]}: the same in this notebook", arm[3] ** 2 / race_shape["d"], 1, rel=1e-9)
            for arm in ALL_ARMS
            if arm[0].endswith(", √d")
        ],
        *[
            ledger.less(f"attention by loops, {guard}: largest difference", gap, 1e-4, digits=1, machine=True, method="float32")
            for guard, gap in loop_gap.items()
        ],
        *[
            ledger.less(f"{what}, {guard}: difference", gap, 1e-4, digits=1, machine=True, method="float32")
            for (guard, what), gap in seen_gap.items()
        ],
        ledger.less(
            "logit_growth: logits, shares and losses of four runs, largest difference",
            max(growth_gap),
            2e-3,
            digits=1,
            machine=True,
            method="float32",
        ),
    ],
)

# %% [markdown]
# ## What the race shows


# %%
def tuned(rows):
    """The losses (one a seed) of an arm at its best learning rate, and that rate's place in the grid."""
    best = metrics.best_rows(["arm"] * len(rows), rows)["arm"]
    return rows[best], best


main, unclipped, repeated, controls, more = (nb.recorded(id) for id in ("E3", "E3b", "E3c", "E3d", "E3e"))
clipped = {  # the controls, and two more seeds for four arms, belong to the same race
    arm: [[*a, *b] for a, b in zip(rows, more.result.get(arm, [[]] * len(rows)), strict=True)]
    for arm, rows in (main.result | controls.result).items()
}
races = {"E3": clipped, "E3b": unclipped.result, "E3c": repeated.result}
best = {id: {arm: tuned(rows)[0] for arm, rows in race.items()} for id, race in races.items()}
inner = [0 < tuned(rows)[1] < len(rows) - 1 for race in races.values() for rows in race.values()]
mean = lambda id, arm: float(np.mean(best[id][arm]))


def behind(a, b):
    """95% interval (Student's t) of the mean of a - b over equal seeds, which share start and data."""
    common = min(len(a), len(b))
    return scipy.stats.ttest_rel(a[:common], b[:common]).confidence_interval(0.95)


lag = lambda id, worse, better: behind(best[id][worse], best[id][better])
half_width = lambda rows: float(np.diff(scipy.stats.ttest_1samp(rows, 0).confidence_interval(0.95))[0]) / 2

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: held-out loss of thirteen arms at their best learning rate with wide error bars; RMSNorm is lowest, all arms of slope 1 with an amplitude of 2 or more, the identity among them, come next, plain DyT and its relatives are higher. Right: loss against the learning rate; all minima lie inside the grid, and at the highest rate RMSNorm is lowest, DyT with root of d highest."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
ordered = sorted(best["E3"], key=lambda arm: np.mean(best["E3"][arm]))
for i, arm in enumerate(ordered):
    wide_one = arm.endswith(", √d") or arm in ("DyT, α = 1, A = 2", "DyT, α = 1, A = d", "identity, α = 1")
    color = BLACK if arm == "RMSNorm" else BLUE if wide_one else ORANGE
    axes.errorbar(
        np.mean(best["E3"][arm]),
        i,
        xerr=half_width(best["E3"][arm]),
        fmt="o",
        color=color,
        capsize=3,
    )
axes.set_yticks(range(len(ordered)), ordered)
axes.set_xlabel("held-out loss, nats (95%, 3 or 5 seeds)")
axes.set_title("Slope 1 and no early bend is what helps", fontsize=10)
for arm, color, style in (("RMSNorm", BLACK, "-"), ("DyT", ORANGE, "--"), ("identity", GREY, ":"), ("DyT, √d", BLUE, "-.")):
    rows = np.array(clipped[arm])
    right.errorbar(
        main.config["rates"],
        rows.mean(1),
        rows.std(1, ddof=1) / math.sqrt(rows.shape[1]),
        color=color,
        ls=style,
        label=f"{arm}, recorded",
        capsize=2,
    )
for arm, color in (("RMSNorm", BLACK), ("DyT", ORANGE), ("DyT, √d", BLUE)):
    right.plot(live_rates, np.mean(e3[arm], 1) if nb.scale == "cpu" else [math.nan] * 2, "s", mfc="none", color=color, label=f"{arm}, live")
right.set(xscale="log", xlabel="learning rate (log axis)", ylim=(2.58, 3.5), ylabel="held-out loss, nats (± 1 s.e.)")
right.set_title("At a high rate √d mostly fails", fontsize=10)
right.legend(fontsize=6, loc="upper left")
nb.show(figure)

# %% [markdown]
# - **The advice holds, but not because of $\sqrt d$.** DyT with $\sqrt d$ closes most of plain DyT's gap to RMSNorm with clipping, about half of it without (a gap of 0.018 nats stays, and is resolved). The controls say why: amplitude 2 does as well, amplitude $d=32$ too, and so does the *identity* with slope 1, which has
#   no amplitude. Slope $\frac12$ costs 0.03 nats, amplitude 1 (a bend inside the bulk of the channels) 0.04. What helps is to start as a norm does on a token of unit RMS: slope 1, nothing bent. One width cannot tell more.
# - **And it has a price**: at a rate of 0.1 most runs with $\sqrt d$ fail and plain DyT does not.
# - **tanh or ISRU?** No difference, as little as in the fits.
# - **The identity does not fail**, with clipping or without, where the paper's vision transformers do. Three layers are too few to need a norm for stability.
# - **What the norm buys.** At 0.1 RMSNorm has the lowest loss of all. One step of the grid above its own best rate it loses a third of what plain DyT loses; $\sqrt d$, whose best rate is lower, loses less still.
# - **Does the sign depend on the data?** On 2,000 characters read 19 times plain DyT is in front of RMSNorm in the mean, but three seeds do not resolve it (X13). {cite}`verma2026dyt` reports a change of sign for GPT-2 models.

# %%
slow = live_rates.index(0.01) if nb.scale == "cpu" else GRID.index(0.01)
live_slow = {arm: e3[arm][slow] for arm in ("RMSNorm", "DyT", "DyT, √d")}
seeds_rates = "rate tuned, 95% interval over equal seeds"
e3_scope = (
    f"recorded on a CPU, {main.config['steps']} steps, clipped, 3 seeds, 5 for {', '.join(arm[0] for arm in MORE_SEEDS)}, {seeds_rates}"
)
b_scope = f"recorded on a CPU, {unclipped.config['steps']} steps, no clipping, 3 seeds, {seeds_rates}"
passes = repeated.config["steps"] * 256 // repeated.config["budget"]
c_scope = f"recorded on a CPU, {repeated.config['budget']} characters {passes} times, 3 seeds, {seeds_rates}"
live_scope, top_rate = "cpu, 3 seeds, 100 steps", GRID.index(0.1)
closed = lambda id: (mean(id, "DyT") - mean(id, "DyT, √d")) / (mean(id, "DyT") - mean(id, "RMSNorm"))


def above_best(arm, steps=1):
    """Losses, one a seed, ``steps`` grid places above the arm's best rate, less those at its best; race E3."""
    rows, (_, k) = clipped[arm], tuned(clipped[arm])
    return [high - low for high, low in zip(rows[k + steps], rows[k], strict=True)]


# %% tags=["hide-input"]
nb.claim(
    "C10",
    "Keep √d explicit and learn 1/ρ: γ√d f(αx/√d) trains better than the plain γ f(αx).",
    "partly",
    holds=[
        *[
            ledger.more(f"{arm} less {arm} with √d, lower end", lag("E3", arm, f"{arm}, √d").low, 0, digits=2, scope=e3_scope)
            for arm in ("DyT", "DyISRU")
        ],
        ledger.better("DyT over DyT with √d at rate 0.01, live", live_slow["DyT"], live_slow["DyT, √d"], scope=live_scope),
        ledger.more(
            "the same slope, amplitude 1: DyT with α = 1 less DyT with √d, lower end",
            lag("E3", "DyT, α = 1", "DyT, √d").low,
            0,
            digits=2,
            scope=e3_scope,
        ),
    ],
    fails=[
        ledger.more(
            "at rate 0.1 it is the other way round: mean loss of DyT with √d less that of plain DyT",
            np.mean(clipped["DyT, √d"][top_rate]) - np.mean(clipped["DyT"][top_rate]),
            0.1,
            digits=3,
            scope=e3_scope,
        ),
        *[
            ledger.close(
                f"and √d is nothing special: mean loss of {arm} over that of DyT with √d",
                mean("E3", arm) / mean("E3", "DyT, √d"),
                1,
                abs=0.004,
                digits=5,
                scope=e3_scope,
            )
            for arm in ("DyT, α = 1, A = 2", "DyT, α = 1, A = d", "identity, α = 1")
        ],
    ],
)
nb.experiment(
    "E3",
    "With every arm's rate tuned, plain DyT and DyISRU end behind RMSNorm; the explicit √d closes more than half of the gap, as do slope 1 with amplitude 2 and slope 1 with no bend at all; ISRU and tanh do not differ.",
    "verified",
    holds=[
        *[
            ledger.more(f"{arm} less RMSNorm, lower end", lag("E3", arm, "RMSNorm").low, 0, digits=2, scope=e3_scope)
            for arm in ("DyT", "DyISRU")
        ],
        ledger.more("DyT less RMSNorm, no clipping, lower end", lag("E3b", "DyT", "RMSNorm").low, 0, digits=2, scope=b_scope),
        *[
            ledger.more(f"slope 1/2 less slope 1, {what}: mean loss", mean("E3", half) - mean("E3", one), 0.015, digits=2, scope=e3_scope)
            for what, half, one in (("amplitude √d", "DyT, α = 1/2, A = √d", "DyT, √d"), ("identity", "identity", "identity, α = 1"))
        ],
        ledger.more("share of DyT's gap that √d closes", closed("E3"), 0.5, digits=2, scope=e3_scope),
        ledger.more("no clipping", closed("E3b"), 0.5, digits=2, scope=b_scope),
        ledger.less(
            "half-width of the interval of DyISRU with √d less DyT with √d",
            np.diff(lag("E3", "DyISRU, √d", "DyT, √d"))[0] / 2,
            0.02,
            digits=2,
            scope=e3_scope,
        ),
        ledger.less("its lower end", lag("E3", "DyISRU, √d", "DyT, √d").low, 0, digits=2, scope=e3_scope),
        ledger.less("identity less plain DyT, mean", mean("E3", "identity") - mean("E3", "DyT"), 0.01, digits=2, scope=e3_scope),
        ledger.less(
            "seeds 0, 1, 2 stand first in the joined rows: largest difference from E3",
            float(np.max([np.abs(np.array(clipped[arm])[:, :3] - np.array(rows)) for arm, rows in main.result.items()])),
            1e-9,
        ),
        *[
            ledger.less(
                f"{id} was run with the same rates, steps and clipping: fields that differ",
                sum(run.config[key] != main.config[key] for key in ("rates", "steps", "clip", "batch", "shape", "budget")),
                1,
            )
            for id, run in (("E3d", controls), ("E3e", more))
        ],
        ledger.close("share of all arms and races whose best rate lies inside the grid", float(np.mean(inner)), 1, abs=1e-9),
        ledger.better("DyT over RMSNorm at rate 0.01, live", live_slow["DyT"], live_slow["RMSNorm"], scope=live_scope),
    ],
)

# %% tags=["hide-input"]
nb.claim(
    "C11",
    "DyT matches normalization; an identity in place of tanh fails.",
    "partly",
    holds=[
        ledger.less(
            "with √d and clipping no difference is resolved: DyT with √d less RMSNorm, lower end",
            lag("E3", "DyT, √d", "RMSNorm").low,
            0,
            digits=2,
            scope=e3_scope,
        )
    ],
    fails=[
        ledger.more("DyT with √d less RMSNorm, no clipping, lower end", lag("E3b", "DyT, √d", "RMSNorm").low, 0, digits=2, scope=b_scope),
        ledger.more("plain DyT less RMSNorm, lower end", lag("E3", "DyT", "RMSNorm").low, 0, digits=2, scope=e3_scope),
        ledger.more("the same, no clipping", lag("E3b", "DyT", "RMSNorm").low, 0, digits=2, scope=b_scope),
        *[
            ledger.less(f"identity less plain DyT, mean, {how}", mean(id, "identity") - mean(id, "DyT"), 0.01, digits=2, scope=scope)
            for id, how, scope in (("E3", "clipped", e3_scope), ("E3b", "not clipped", b_scope))
        ],
    ],
)
nb.claim(
    "X11",
    "RMSNorm bears a high learning rate: at 0.1 it has the lowest loss of all arms, and one step above its own best rate it loses less than plain DyT.",
    "partly",
    holds=[
        *[
            ledger.more(
                f"at 0.1, the next arm's mean loss less RMSNorm's, {how}",
                min(np.mean(rows[top_rate]) for arm, rows in races[id].items() if arm != "RMSNorm")
                - np.mean(races[id]["RMSNorm"][top_rate]),
                0.02,
                digits=2,
                scope=scope,
            )
            for id, how, scope in (("E3", "clipped", e3_scope), ("E3b", "not clipped", b_scope))
        ],
        ledger.close("no step above its best RMSNorm loses", float(np.sum(np.abs(above_best("RMSNorm", 0)))), 0, abs=1e-9),
        ledger.close(
            "one step above: from the mean losses at 0.03 and 0.1",
            np.mean(above_best("RMSNorm")),
            np.diff(np.mean(clipped["RMSNorm"], 1))[-1],
            rel=1e-6,
            scope=e3_scope,
        ),
        ledger.more(
            "DyT's loss of a step less RMSNorm's, mean",
            np.mean(above_best("DyT")) - np.mean(above_best("RMSNorm")),
            0.02,
            digits=2,
            scope=e3_scope,
        ),
    ],
    fails=[
        ledger.more(
            "but DyT with √d, whose best rate is lower, loses less by its step: RMSNorm's loss less its, lower end",
            behind(above_best("RMSNorm"), above_best("DyT, √d")).low,
            0,
            digits=2,
            scope=e3_scope,
        )
    ],
)
nb.claim(
    "X13",
    "The sign of DyT's effect depends on the data: on fresh text plain DyT ends behind RMSNorm, on few characters read many times in front of it.",
    "partly",
    holds=[
        ledger.more("fresh text: DyT less RMSNorm, lower end", lag("E3", "DyT", "RMSNorm").low, 0, digits=2, scope=e3_scope),
        ledger.less("repeated text: the mean is negative", mean("E3c", "DyT") - mean("E3c", "RMSNorm"), 0, digits=2, scope=c_scope),
    ],
    fails=[ledger.more("but not resolved: DyT less RMSNorm, upper end", lag("E3c", "DyT", "RMSNorm").high, 0, digits=2, scope=c_scope)],
)
nb.claim(
    "C14",
    "Element-wise maps will not fully replace normalization.",
    "partly",
    holds=[
        ledger.more("plain DyT less RMSNorm, clipped, lower end", lag("E3", "DyT", "RMSNorm").low, 0, digits=2, scope=e3_scope),
        ledger.more("not clipped", lag("E3b", "DyT", "RMSNorm").low, 0, digits=2, scope=b_scope),
        ledger.more("DyT with √d less RMSNorm, not clipped, lower end", lag("E3b", "DyT, √d", "RMSNorm").low, 0, digits=2, scope=b_scope),
    ],
    fails=[
        ledger.less("clipped, no difference is resolved: lower end", lag("E3", "DyT, √d", "RMSNorm").low, 0, digits=2, scope=e3_scope),
        ledger.less("repeated text: plain DyT less RMSNorm, lower end", lag("E3c", "DyT", "RMSNorm").low, 0, digits=2, scope=c_scope),
    ],
)
# %% tags=["hide-input"]
show = lambda id, arm: ledger.number(mean(id, arm)) + " ± " + f"{np.std(best[id][arm], ddof=1) / math.sqrt(len(best[id][arm])):.3f}"
nb.results(
    "C11",
    "The DyT paper beside our race (held-out loss, best rate, ± standard error; smaller is better)",
    ["", "normalization", "DyT", "DyT, √d", "identity", "source"],
    [
        ["LLaMA 7B, loss", "1.59", "1.60", "", "", "paper, 200B tokens"],
        ["LLaMA 70B, loss", "1.45", "1.45", "", "", "paper, 200B tokens"],
        ["ViT-B, accuracy %", "82.3", "82.5", "", "fails", "paper, ImageNet"],
        ["fresh text, clipped", *[show("E3", arm) for arm in ("RMSNorm", "DyT", "DyT, √d", "identity")], "E3, recorded"],
        ["fresh text, not clipped", *[show("E3b", arm) for arm in ("RMSNorm", "DyT", "DyT, √d", "identity")], "E3b, recorded"],
        ["2,000 characters, 19 times", *[show("E3c", arm) for arm in ("RMSNorm", "DyT", "DyT, √d", "identity")], "E3c, recorded"],
    ],
)

# %% [markdown]
# ## What the caps show

# %%
caps = nb.recorded("E4")
guards = ["none", "softcap", "QK-norm"]
highest = caps.config["rates"].index(0.03)
final = {guard: caps.result[guard]["largest"][-1] for guard in guards}  # (rates, seeds)
live_final = {guard: e4[guard]["largest"][-1][0] for guard in guards}
bound = math.sqrt(64 / 4)  # of QK-norm's logits while its gains are 1
e4_scope = f"recorded on a CPU, 3 seeds, {caps.config['steps']} steps"

# %% tags=["hide-input"] mystnb={"image": {"alt": "Largest attention logit before the cap against the training step on a log axis, at learning rate 0.03. Without a guard and with softcap it grows from 5 to about a hundred and beyond, softcap no lower than none. With QK-norm it stays near 4. Live runs with fewer steps and the same seeds lie on the recorded curves."}}
figure, axes = plt.subplots()
for guard, color, style in zip(guards, (BLACK, ORANGE, BLUE), ("-", "--", "-."), strict=True):
    rows = np.array([mark[highest] for mark in caps.result[guard]["largest"]])
    axes.errorbar(
        caps.config["marks"],
        rows.mean(1),
        2 * rows.std(1, ddof=1) / math.sqrt(rows.shape[1]),
        color=color,
        ls=style,
        capsize=2,
        label=f"{guard}, recorded",
    )
    axes.plot(
        e4_marks, [np.mean(mark[-1]) for mark in e4[guard]["largest"]], "o", mfc="none", color=color, label=f"{guard}, live, same seeds"
    )
axes.axhline(10, color=GREY, lw=1, ls=":")
axes.annotate("cap", (1, 10.6), color=GREY, fontsize=9)
axes.set(yscale="log", xlabel="training step", ylabel="largest |q·k|/√d_h before the cap (log axis)")
axes.set_title("The cap hides the growth of the logits; QK-norm prevents it")
axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
nb.claim(
    "C13",
    "A softcap does not stop the explosion of the attention logits, it moves it in front of the cap; normalizing q and k stops it.",
    "verified",
    holds=[
        ledger.better(
            "log of the largest logit at rate 0.03, softcap over QK-norm, live",
            np.log(live_final["softcap"]),
            np.log(live_final["QK-norm"]),
            sigmas=5,
            scope="cpu, 3 seeds",
        ),
        ledger.more(
            "its ratio, live",
            np.mean(live_final["softcap"]) / np.mean(live_final["QK-norm"]),
            10,
            digits=3,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.more(
            "its ratio, recorded", np.mean(final["softcap"][highest]) / np.mean(final["QK-norm"][highest]), 10, digits=3, scope=e4_scope
        ),
        ledger.more(
            "softcap over none, live",
            np.mean(live_final["softcap"]) / np.mean(live_final["none"]),
            0.7,
            digits=3,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.more(
            "softcap over none, recorded",
            np.mean(final["softcap"][highest]) / np.mean(final["none"][highest]),
            0.8,
            digits=3,
            scope=e4_scope,
        ),
        ledger.more(
            "share of the logits beyond the cap at the end, softcap, live",
            np.mean(e4["softcap"]["beyond"][-1]),
            0.1,
            digits=2,
            machine=True,
            scope="cpu, 3 seeds",
        ),
    ],
)
nb.experiment(
    "E4",
    "At a learning rate of 0.03 the logits before the cap grow past 50 with and without a softcap and stay below 10 with QK-norm; more slowly at smaller rates.",
    "verified",
    holds=[
        *[
            ledger.more(
                f"largest logit, {guard}, smallest of three seeds, live",
                min(live_final[guard]),
                20,
                digits=3,
                machine=True,
                scope="cpu, 3 seeds",
            )
            for guard in ("none", "softcap")
        ],
        ledger.less(
            "largest logit, QK-norm, largest of three seeds, live",
            max(live_final["QK-norm"]),
            10,
            digits=3,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        *[
            ledger.more(f"largest logit, {guard}, recorded mean", np.mean(final[guard][highest]), 50, digits=3, scope=e4_scope)
            for guard in ("none", "softcap")
        ],
        ledger.less("largest logit, QK-norm, recorded mean", np.mean(final["QK-norm"][highest]), 10, digits=3, scope=e4_scope),
        *[
            ledger.less(
                f"recorded mean losses at rate {rate}: largest less smallest",
                float(np.ptp([np.mean(caps.result[guard]["loss"][k]) for guard in guards])),
                0.03,
                digits=2,
                scope=e4_scope,
            )
            for k, rate in enumerate(caps.config["rates"])
        ],
        ledger.increasing("softcap, recorded: largest logit over the rates", [np.mean(row) for row in final["softcap"]], scope=e4_scope),
    ],
)

# %% [markdown]
# Two remarks. *QK-norm's number is a theorem*: with unit gains $|q\cdot k|/\sqrt{d_h}\le\sqrt{d_h}$, which is 4 here, and only the learned gains can raise it. And *why does the cap not push back?* The loss acts on a
# logit $s$ through $1-\tanh^2(s/t)$. Beyond the cap that is small: neither the wish for a larger logit nor the one for a smaller gets through, and whatever else moves $W_q$ and $W_k$ (with Adam, a step
# of fixed size) carries the logits on. At this size the loss does not suffer: at each rate the recorded means end within 0.03 nats of each other (E4).

# %%
gate = softcap.diff(x)
q_or_k = torch.randn(500, 2, 16, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
unit = q_or_k / metrics.rms(q_or_k)[..., None]
nb.claim(
    "X9",
    "With unit gains QK-norm bounds the logits by √d_h; a softcap passes the share 1 − tanh²(s/t) of the gradient, below 1% from s = 3t on.",
    "verified",
    holds=[
        ledger.less("500 random pairs, d_h = 16", float((unit[:, 0] * unit[:, 1]).sum(1).abs().max()) / 4, 4),
        ledger.close("q = k attains it", float((unit[:, 0] ** 2).sum(1).max()) / 4, 4, rel=1e-9),
        sym.identity("gradient through the cap", sp.Derivative(softcap, x), 1 - sp.tanh(x / T) ** 2),
        ledger.less("at s = 3t", float(gate.subs({x: 3, T: 1})), 0.01),
    ],
)

# %% [markdown]
# ## Is it faster?
#
# That was a reason for DyT in its first version; the later one says that against a compiled normalisation there is no gain. Both sides would have to be compiled, on a GPU; two uncompiled layers on a CPU compare Python, not
# the two ideas.

# %% tags=["hide-input"]
nb.claim(
    "C12",
    "Without the reduction over channels DyT is faster than normalization.",
    "not checkable",
    reason="It needs DyT and RMSNorm as compiled kernels, forward and backward, inside a large model on a GPU; the paper's later version withdraws the claim for compiled normalization.",
)

# %% [markdown]
# ## The paper's numbers beside ours
#
# {cite}`zhu2025dyt` tuned DyT's initial $\alpha$ for LLaMA-like models of four widths, separately for the norms in front of attention and elsewhere (their Table 11). If $\alpha=1/(\rho\sqrt d)$ is what it is
# about, it should fall like $d^{-1/2}$. (That width law is our inference, not the post's.) Both fall: before attention with a slope of $-0.73$, which four widths cannot tell from $-\frac12$, elsewhere with one of $-1.43$, which they can.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Tuned initial alpha of DyT against the width on log axes, from the paper's table: before attention 1, 1, 0.8, 0.2; elsewhere 1, 0.5, 0.2, 0.05 for widths 1024 to 8192. A line of slope minus one half falls more slowly than both."}}
widths, tuned_alpha = [1024, 2048, 4096, 8192], {"before attention": [1.0, 1.0, 0.8, 0.2], "elsewhere": [1.0, 0.5, 0.2, 0.05]}
fitted = {name: metrics.loglog_slope(widths, values) for name, values in tuned_alpha.items()}
figure, axes = plt.subplots(figsize=(6.4, 3.4))
for (name, values), color, mark in zip(tuned_alpha.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
    axes.plot(widths, values, mark, color=color, label=f"{name}: slope {fitted[name].slope:.2f}")
axes.plot(widths, [1.0 * (w / 1024) ** -0.5 for w in widths], ":", color=BLACK, label="slope −1/2")
axes.set(xscale="log", yscale="log", xlabel="width d (log axis)", ylabel="tuned initial α (log axis)")
axes.set_xticks(widths, [str(w) for w in widths])
axes.minorticks_off()
axes.set_title("Away from attention α falls faster than d^(−1/2)")
axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
nb.claim(
    "X10",
    "The paper's tuned α falls with the width: elsewhere than before attention faster than d^(−1/2), before attention not distinguishably so.",
    "verified",
    holds=[
        ledger.less(
            "slope elsewhere, upper end of the 95% interval",
            fitted["elsewhere"].interval()[1],
            -0.5,
            digits=3,
            scope="four widths of Table 11",
        ),
        ledger.more(
            "slope before attention, upper end: −1/2 is not excluded",
            fitted["before attention"].interval()[1],
            -0.5,
            digits=3,
            scope="four widths of Table 11",
        ),
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **The best map, solved** (D6): in the limit of infinite width an ISRU for Student-t tokens; between two ISRUs for Gaussian ones (X3); a straight line for tokens of one norm; no monotone function for tokens of two sizes.
#
# **The hidden assumption, measured** (X6): the energy $C_i$ of the other channels varies by 10% to 50% in front of the norms after attention and by 110% to 700% after feed-forward layers, which is why the first need no S and the
# second do.
#
# **Later work.** {cite}`stollenwerk2025dynamic`, in its published version, already calls DyISRU the exact element-wise counterpart of a norm, our (5). {cite}`chen2025derf` search for better curves and settle on
# $\operatorname{erf}(\alpha x+s)$, with gains that they ascribe to generalisation. On synthetic tokens erf is further from a norm than tanh, on the real norms sometimes nearer: closeness to a norm is not what makes a substitute good.
# {cite}`verma2026dyt` finds the sign of DyT's effect to depend on the regime: at 64M parameters the loss is 27% better at 1M tokens and 19% worse at 118M; at 3.78B parameters DyT is 1.7% better; and a *larger* $\alpha$, that is
# more saturation, reduces the penalty where data are plentiful. That speaks against saturation as the cause of the penalty.
#
# ## What does not hold
#
# - **"The best element-wise substitute"** (C6) is true for Student-t tokens in the limit of infinite width. For tokens of two sizes it leaves a third more error than the best map.
# - **"ISRU is closer to normalisation than tanh"** (C7, C8) holds for four of six synthetic laws, by 1% to 4% of the error; on the LayerNorms of MiniLM neither leads.
# - **"The amplitude is $\sqrt d$"** (C9) where one channel is the token, in three norms of MiniLM; elsewhere not.
# - **"DyT matches normalisation"** (C11): plain DyT does not in our race; with $\sqrt d$ and clipping no difference is resolved; and the identity does not fail in it.
# - **"Keep $\sqrt d$"** (C10) helps at the best learning rate and below, but an amplitude of 2 or the identity with slope 1 helps as much; at a rate of 0.1 it is among the worst arms.
#
# A constant $\rho$ throughout gives a straight line (X1). The post offers it as an approximation and then betters it; it is no error.
#
# ## Exercises
#
# 1. For Student-t tokens of *finite* width $d$ (normal channels times one random scale a token), $y_i=\sqrt d\,x_i/\sqrt{x_i^2+S}$ with $S=\sum_{j\ne i}x_j^2$. Show that $f^*(x)\to A_d=\sqrt d\,\mathbb E\sqrt B$ for
#    $x\to\infty$, with $B\sim\mathrm{Beta}(a+\frac12,\frac{d-1}2)$, and that $A_d\to A$ of (8). Where is $A_d$ for $\nu=d$?
# 2. In which unit of the input is the best $\alpha$ of DyT the same for all widths: if all channels have RMS 1, or if the token has length 1? What does the answer say about Table 11?
# 3. LayerNorm at $d=2$ is a function you know. Which, and what does its element-wise substitute have to do with it?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# Given $x_i=x$, $\tau\sim\mathrm{Gamma}(a+\frac12,b+\frac{x^2}2)$, so $S/(x^2+2b)=R$ is a ratio of $\chi^2_{d-1}$ and $\chi^2_{2a+1}$ and does not depend on $x$: $f^*=\sqrt d\,x\,\mathbb E(x^2+(x^2+2b)R)^{-1/2}$. For $x\to\infty$ this
# is $\sqrt d\,\mathbb E(1+R)^{-1/2}$, and $1/(1+R)$ is the beta variable. $A_d=\sqrt d\,\frac{\Gamma(a+1)\,\Gamma(a+\frac d2)}{\Gamma(a+\frac12)\,\Gamma(a+\frac{d+1}2)}$, and $\sqrt d\,\Gamma(z)/\Gamma(z+\frac12)\to\sqrt2$ with $z=a+\frac d2$. To leading order $A_d^2=\frac{\nu d}{\nu+d}$, the harmonic sum of
# $\nu$ and $d$: at $\nu=d$ it is $\frac d2$.
# ```

# %% tags=["hide-cell"]
A_finite = lambda nu, dim: (
    math.sqrt(dim)
    * math.exp(math.lgamma(nu / 2 + 1) + math.lgamma((nu + dim) / 2) - math.lgamma((nu + 1) / 2) - math.lgamma((nu + dim + 1) / 2))
)


def met_at(x):
    """y of 400,000 Student-t tokens, ν = 3 and d = 8, in the channel in which they have the value x: mean and standard error."""
    generator = torch.Generator().manual_seed(12)
    chi = scipy.special.gammaincinv(2.0, torch.rand(400_000, generator=generator, dtype=torch.float64).numpy())
    tau_x = torch.from_numpy(chi) / (1.5 + x**2 / 2)
    others = torch.randn(400_000, 7, generator=generator, dtype=torch.float64) / tau_x.sqrt()[:, None]
    return [float(v) for v in metrics.mean_stderr(x * math.sqrt(8) / (x**2 + others.square().sum(1)).sqrt())]


by_beta = scipy.stats.beta(2, 3.5).expect(lambda B: math.sqrt(8 / (1 + (1 + 3) * (1 / B - 1))))  # the solution's mean over R, x = 1
nb.claim(
    "X12",
    "Exercise 1: at width d the best map for Student-t tokens saturates at A_d, which tends to A; 1/A_d² ≈ 1/ν + 1/d, so that A_d < √d always.",
    "verified",
    holds=[
        sym.monte_carlo(
            "ν = 3, d = 8: mean of y at x = 200",
            *met_at(200),
            A_finite(3, 8),
            draws=400_000,
            effect=abs(A_finite(3, 8) - A_of(3)),
        ),
        sym.monte_carlo("and at x = 1, against the integral over R", *met_at(1), by_beta, draws=400_000),
        *[
            ledger.close(f"1/A_d² over 1/ν + 1/d, d = 384, ν = {k:g}", A_finite(k, 384) ** -2 / (1 / k + 1 / 384), 1, abs=0.01, digits=5)
            for k in (100, 2000, 1e5)
        ],
        ledger.close("A_d at ν = d − 1/2, d = 384, over √(d/2)", A_finite(383.5, 384) / math.sqrt(192), 1, abs=0.002, digits=5),
        ledger.less("largest A_d over √d, ν from 1 to 10⁶", max(A_finite(10**k, 384) for k in range(7)) / math.sqrt(384), 1, digits=6),
        ledger.close("A_d over A at ν = 3, d = 10⁵", A_finite(3, 1e5) / A_of(3), 1, abs=1e-4, digits=5),
    ],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# $\alpha=1/(\rho\sqrt d)=1/\lVert x\rVert$. For tokens of length 1 it is 1 at every width; for channels of RMS 1 it falls like $d^{-1/2}$. Elsewhere than before attention Table 11 falls faster: the activations in front
# of these norms must grow with the width as well, about like $d^{0.9}$, or the optimum is not where the norm's slope is. Before attention four widths do not decide.
# ```

# %% tags=["hide-cell"]
print({name: [round(-0.5 - v, 2) for v in (fit.slope, *fit.interval()[::-1])] for name, fit in fitted.items()})

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# $y=\pm1$, the sign of $x_1-x_2$: the variance of the one other channel is 0, so $C=0$ in X2. The element-wise substitute of a comparison of two numbers is a threshold at a fixed place: it cannot know what it is compared with.
# ```

# %% tags=["hide-cell"]
print(F.layer_norm(torch.tensor([[3.0, 1.0], [-2.0, 7.0], [0.5, 0.4]]), (2,), eps=0.0))

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2025normalization`. DyT: {cite}`zhu2025dyt`; DyISRU: {cite}`stollenwerk2025dynamic`, {cite}`carlile2017isru`. Later: {cite}`chen2025derf`, {cite}`verma2026dyt`. Massive activations: {cite}`sun2024massive`. Softcap and QK-norm: {cite}`gemma2`, {cite}`gemma3`, {cite}`henry2020qknorm`.
