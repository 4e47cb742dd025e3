# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Thinking about multimodality behind closed doors (2): autoregression
#
# [“闭门造车”之多模态思路浅谈（二）：自回归](https://kexue.fm/archives/10197) · 2024-07-08 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/representation/multimodal-autoregression.ipynb)
#
# **The point.** Let a next-token model draw pictures that are cut into patches of real numbers, nothing quantized, and two things break.
# *Loss*: squared error assumes one Gaussian of fixed width, and the less noise a patch has, the worse that is, without bound. Taking the
# patch apart into $T$ small noising steps repairs it: the cost falls like $T^{-1}$, or like $T^{-2}$ if a step's variance may depend on
# where the patch is. *Order*: the joint law has no favourite order of the patches, squared error has one. A small Transformer with four
# heads shows what that means for drawing (figure): squared error draws one prototype per class, or dust if its noise is added; a diffusion
# head draws digits. So do a mixture of Gaussians and a codebook with cross-entropy: these samples do not speak against codes. What codes
# cost is information, and whether the reader misses it depends on the question.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import scipy.cluster
import scipy.optimize
import scipy.stats
import sympy as sp
import torch
from sklearn.svm import SVC
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, diffusion, ledger, metrics, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLUE, GREEN, GREY, ORANGE, tile

# %%
nb = kexue_nb.notebook("multimodal-autoregression")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six bands of small digits, zero to nine, two of each. Real digits; the mean of squared error, where the two are the same smooth prototype; the mean plus noise, digits in a cloud of grey dots; a mixture of Gaussians with a floor; codes with cross-entropy; the diffusion head. The last three look much like the real ones and the two of a class differ. Beside each band stands its Fréchet distance."}}
seen1, digits0 = nb.recorded("E1b").result, data.pictures("digits8")
lowest = lambda arm: min(arm["taus"], key=lambda tau: min(np.mean(arm["taus"][tau]["fd_train"], axis=1)))
chosen = {"mean of squared error": ("mean", "0"), "mean + its noise": ("mean", "1")}
chosen |= {name: (name, lowest(seen1["arms"][name])) for name in ("mixture", "VQ 128", "diffusion")}
pair = [int((digits0.test_labels == c).nonzero()[j]) for j in range(2) for c in range(10)]
strips = {f"real\nFD {ledger.with_error(seen1['floor']['fd'], 2)}": digits0.test[pair, 0]}
for name, (arm, tau) in chosen.items():
    mine = seen1["arms"][arm]["taus"][tau]
    fd = mine["fd"][int(np.argmin(np.mean(mine["fd_train"], axis=1)))]
    strips[f"{name}\nFD {ledger.with_error(fd, 2)}"] = torch.tensor(seen1["arms"][arm]["shown"][tau]) / 8 - 1
figure, panels = plt.subplots(3, 2, figsize=(9.2, 3.9))
for axes, (name, strip) in zip(panels.T.flat, strips.items(), strict=True):
    axes.imshow(tile(strip, 10), cmap="Greys", vmin=-1, vmax=1)
    axes.set_axis_off()
    axes.set_title(name.replace("\n", ": "), fontsize=9, loc="left")
figure.suptitle("One small Transformer: the head decides what is drawn", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## The question
#
# A language model predicts the next token and is trained by cross-entropy. How should a model that reads *and* draws images learn? The
# usual answer quantizes images into a finite vocabulary. The post, an essay {cite}`su2024multimodal2`, refuses: whoever reads an image
# through a codebook has already lost part of it. It keeps patches of real numbers, cut from the image without loss, and asks what breaks in
# next-token prediction. Two things do: the *loss*, because squared error is a bad model of a patch, and the *order*, because an image has
# none.
#
# A first remedy, which the post also names, is to keep squared error and make the input milder: Emu2 {cite}`sun2024emu2` regresses on the
# latents of an image encoder. We follow the second, diffusion. An essay makes few checkable claims; this notebook turns them into
# measurements.
#
# Notation. $x_1,\dots,x_n\in\mathbb R^p$ are the patches of an image in some order, $x_{<k}$ those before $x_k$. Inside one patch
# $x^{(t)}=\bar\alpha_tx+\bar\beta_t\varepsilon$ is its noised state after $t$ of $T$ steps, with the letters of
# [ddpm-vae](../diffusion/ddpm-vae.ipynb): $\bar\alpha_t^2+\bar\beta_t^2=1$, one step is $x^{(t)}=\alpha_tx^{(t-1)}+\beta_t\varepsilon$, and
# $\varsigma=\bar\beta/\bar\alpha$ is the noise relative to the signal. $z_k$ is the Transformer's output from which $x_k$ is predicted, $K$
# the number of noise levels that a training step draws for one $z_k$. Entropy and KL are in nats (natural logarithms), $h(p)$ is the
# entropy of a density.
#
# Neighbours: [ddpm-bayes](../diffusion/ddpm-bayes.ipynb) has the reverse step, [ddim](../diffusion/ddim.ipynb) says why a prediction of the
# clean $x_0$ is enough, and [ddcm](../diffusion/ddcm.ipynb) is another way to turn an image into one-dimensional codes.
#
# ## What goes in: patches or codes
#
# Cutting an image of $w\times h$ pixels into $s\times t$ patches ($s$, $t$ mean this here only) is a re-indexing: with $a=w/s$, $b=h/t$ the value $(i,j,c)$ goes to patch $\lfloor i/a\rfloor t+\lfloor j/b\rfloor$, offset $((i\bmod a)\,b+j\bmod b)\cdot3+c$. Nothing is lost.


# %%
def patchify(pictures, s, t):
    """Pictures (..., w, h, c) cut into s x t patches, in raster order: (..., s t, w h c/(s t))."""
    w, h, c = pictures.shape[-3:]
    cut = pictures.reshape(*pictures.shape[:-3], s, w // s, t, h // t, c)
    return cut.swapaxes(-4, -3).reshape(*pictures.shape[:-3], s * t, -1)


def unpatchify(patches, s, t, w, h, c):
    """The inverse of ``patchify``: (..., s t, w h c/(s t)) -> (..., w, h, c)."""
    cut = patches.reshape(*patches.shape[:-2], s, t, w // s, h // t, c)
    return cut.swapaxes(-4, -3).reshape(*patches.shape[:-2], w, h, c)


# %%
w, h, s, t = 6, 8, 3, 2
numbers = np.arange(w * h * 3).reshape(w, h, 3)
cut = patchify(numbers, s, t)
where = list(itertools.product(range(w), range(h), range(3)))
place = lambda i, j, c: (i // 2 * t + j // 4, ((i % 2) * 4 + j % 4) * 3 + c)
nb.derivation(
    "D1",
    "Cutting an image into patches is a bijection with the index formula above.",
    sym.enumeration(
        "6 × 8 × 3 in 3 × 2 patches: the value at each place", where, lambda q: int(cut[place(*q)]), lambda q: (q[0] * h + q[1]) * 3 + q[2]
    ),
    sym.enumeration("back again", range(144), lambda q: int(unpatchify(cut, s, t, w, h, 3).flat[q]), lambda q: q),
)

# %% [markdown]
# A sequence of $m$ codes out of $M$ can name $M^m$ images and no more: $m\log_2M$ bits. TiTok {cite}`yu2024titok` uses 32 tokens out of 4096, which name fewer images than there are strings of 32 Chinese characters. The post adds that
# $32\times32$ tokens are hardly better. In bits they are 128 times short of the raw bytes. Whether that matters depends on what is asked of the image (E5).


# %%
names = lambda tokens, codes: (codes**tokens).bit_length() - 1  # bits, exact for powers of two
CASES = {"TiTok": (32, 4096), "32 × 32 tokens": (32 * 32, 4096), "raw bytes": (256 * 256 * 3, 256)}
nb.derivation(
    "D2",
    "32 codes out of 4096 are 384 bits, 32 × 32 are 12,288; a raw 256 × 256 image has 1,572,864.",
    sym.enumeration("bits", CASES, lambda k: names(*CASES[k]), {"TiTok": 384, "32 × 32 tokens": 12288, "raw bytes": 1572864}.get),
    sym.enumeration(
        "raw bits over bits of the code",
        list(CASES)[:2],
        lambda k: names(*CASES["raw bytes"]) // names(*CASES[k]),
        {"TiTok": 4096, "32 × 32 tokens": 128}.get,
    ),
)

# %%
nb.claim(
    "C3",
    "TiTok's codes name fewer images than there are strings of 32 characters from a table of more than 4096.",
    "verified",
    holds=[
        ledger.more(
            "32 log₂ 8105 (the general table of standard Chinese characters) against the bits of the codes",
            32 * math.log2(8105),
            names(32, 4096),
        ),
        sym.enumeration(
            "small enough to list: strings of 3 from alphabets of 2 to 5, those beyond the codes of 3 tokens out of 4",
            range(2, 6),
            lambda C: len(set(itertools.product(range(C), repeat=3)) - set(itertools.product(range(4), repeat=3))),
            lambda C: max(C**3 - 4**3, 0),
        ),
    ],
)

# %% [markdown]
# ## The loss: what squared error assumes
#
# For the next patch a regression trains $f(x_{<k})$ by squared error. That is maximum likelihood for a Gaussian of fixed variance:
#
# $$-\log\mathcal N(x;f,\sigma^2I_p)=\frac{\lVert x-f\rVert^2}{2\sigma^2}+\frac p2\log2\pi\sigma^2 .$$
#
# The best $f$ is the conditional mean, the best $\sigma^2$ the mean squared error per dimension. Whoever samples from this law adds that noise to the mean.

# %%
x1, x2, f1, f2, y1, y2 = sp.symbols("x1 x2 f1 f2 y1 y2", real=True)
sigma, weight, v = sp.symbols("sigma w v", positive=True)
bell = lambda x, m, v: sp.exp(-((x - m) ** 2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)
two_dims = -sp.expand_log(sp.log(bell(x1, f1, sigma**2) * bell(x2, f2, sigma**2)), force=True)
squared = (x1 - f1) ** 2 + (x2 - f2) ** 2
expected = weight * squared.subs({x1: y1, x2: y2}) + (1 - weight) * squared  # two possible patches
log_loss = sp.expand_log(-sp.log(bell(x1, f1, v)), force=True) * weight + sp.expand_log(-sp.log(bell(x2, f1, v)), force=True) * (1 - weight)
nb.derivation(
    "D4",
    "Squared error is the likelihood of a Gaussian of fixed variance; the best mean is E[x | x<], the best variance the mean squared error per dimension.",
    sym.identity("−log density, p = 2", two_dims, squared / (2 * sigma**2) + sp.log(2 * sp.pi * sigma**2)),
    sym.solves("best f, two possible patches", sp.diff(expected, f1), f1, weight * y1 + (1 - weight) * x1),
    sym.solves("best variance", sp.diff(log_loss, v), v, weight * (x1 - f1) ** 2 + (1 - weight) * (x2 - f1) ** 2),
)

# %% [markdown]
# How bad is that? Take a patch that is black or white, $x=\pm1$ with equal chance, plus camera noise $\mathcal N(0,s^2)$. The best Gaussian is $\mathcal N(0,1+s^2)$, and since a mixture of two has at most $\log2$ more entropy than its parts,
#
# $$\mathrm{KL}=h_{\text{Gauss}}-h(p)\;\ge\;\tfrac12\log\Bigl(1+\frac1{s^2}\Bigr)-\log2 ,$$
#
# with equality when the two do not overlap ($h_{\text{Gauss}}$ is the entropy of the Gaussian). It grows like $\log(1/s)$: *for patches without noise squared error is infinitely wrong*.


# %%
def two_point_density(x, s):
    """Density of ±1 with equal chance plus N(0, s²)."""
    return (np.exp(-((x - 1) ** 2) / (2 * s * s)) + np.exp(-((x + 1) ** 2) / (2 * s * s))) / (2 * s * math.sqrt(2 * math.pi))


def kl_to_gaussian(s, mean=0.0, variance=None):
    """KL from the two-point law to N(mean, variance), by the trapezoid rule; the variance is 1 + s² unless given."""
    x, variance = np.linspace(-1 - 12 * s, 1 + 12 * s, 40001), 1 + s * s if variance is None else variance
    p = two_point_density(x, s)
    q = -((x - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
    return float(np.trapezoid(p * (np.log(np.maximum(p, 1e-300)) - q), x))


# %%
s_ = sp.Symbol("s", positive=True)
bound = sp.log(1 + 1 / s_**2) / 2 - sp.log(2)
best = scipy.optimize.minimize(
    lambda u: kl_to_gaussian(0.3, u[0], math.exp(u[1])), [0.2, 0.5], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}
)
nb.derivation(
    "D5",
    "The best Gaussian for a noisy two-point patch costs at least ½ log(1 + 1/s²) − log 2 nats, with equality for separate modes, and log(1/s) − log 2 for small noise.",
    ledger.close("best variance at s = 0.3", math.exp(best.x[1]), 1.09, rel=1e-5, digits=6),
    ledger.close("KL at s = 0.1", kl_to_gaussian(0.1), float(bound.subs(s_, 0.1)), rel=1e-12, digits=12),
    ledger.close("at s = 0.2 the modes hardly overlap", kl_to_gaussian(0.2), float(bound.subs(s_, 0.2)), rel=1e-6, digits=8),
    ledger.more("at s = 0.6 the bound is not attained", kl_to_gaussian(0.6), float(bound.subs(s_, 0.6)), margin=0.05),
    sym.limit("bound − log(1/s)", bound - sp.log(1 / s_), s_, 0, -sp.log(2)),
)

# %% [markdown]
# ### Repair: noise the patch in small steps
#
# The post's idea is to lengthen the sequence. Instead of predicting the patch from the past in one jump, predict a slightly less noisy patch from a noisier one, $T$ times. For a small step the Gaussian *is* right. That this is a diffusion model, and that a diffusion
# model is autoregressive, is the same remark read twice: the joint law of the noised states factors from the noisy end,
#
# $$p(x_0,\dots,x_T)=p(x_T)\prod_tp(x_{t-1}\mid x_t),$$
#
# with a context of one token only, a "2-gram". For Gaussian data the one-token context shows as an inverse covariance with three diagonals.

# %%
A1, A2, A3, B1, B2, B3, S0 = sp.symbols("alpha1 alpha2 alpha3 beta1 beta2 beta3 s", positive=True)
push = sp.Matrix(
    [[S0, 0, 0, 0], [A1 * S0, B1, 0, 0], [A1 * A2 * S0, A2 * B1, B2, 0], [A1 * A2 * A3 * S0, A2 * A3 * B1, A3 * B2, B3]]
)  # of 4 normals
joint = push * push.T
band = sp.Matrix(4, 4, lambda i, j: 0)
for k, (A, B) in enumerate(((A1, B1), (A2, B2), (A3, B3))):  # the exponents (x_t - alpha x_{t-1})² / beta²
    band += (
        sp.Matrix(4, 4, lambda i, j, k=k, A=A, B=B: {(k, k): A**2, (k, k + 1): -A, (k + 1, k): -A, (k + 1, k + 1): 1}.get((i, j), 0)) / B**2
    )
band[0, 0] += 1 / S0**2
xs = sp.Matrix(sp.symbols("x0:4", real=True))
backward = xs[3] ** 2 / joint[3, 3] + sum(
    (xs[i] - joint[i, i + 1] / joint[i + 1, i + 1] * xs[i + 1]) ** 2 / (joint[i, i] - joint[i, i + 1] ** 2 / joint[i + 1, i + 1])
    for i in range(3)
)
nb.derivation(
    "D3",
    "The noising chain is autoregressive from its noisy end, with one token of context: p(x_T) Π p(x_{t−1} | x_t).",
    sym.identity("inverse covariance of (x₀, .., x₃) is tridiagonal", joint.inv(), band),
    sym.identity("exponents of the backward factorisation: their matrix", sp.hessian(backward, list(xs)) / 2, band),
)

# %% [markdown]
# How fast does the repair work? Take the two-point patch through levels $\sigma_0=0<\sigma_1<\dots<\sigma_T$, each state the one before plus noise of variance $\delta_t=\sigma_t^2-\sigma_{t-1}^2$. Going back, a state has come from one of *two* bells, white or black: far out it is clear which, in the middle
# it is not. With $v_a=s^2+\sigma_{t-1}^2$, exactly
#
# $$\begin{aligned}p(x_{t-1}\mid x_t)&=\sum_{c=\pm1}r_c\,\mathcal N(m_c,V),& \frac1V&=\frac1{v_a}+\frac1{\delta_t},\\
# m_c&=V\Bigl(\frac c{v_a}+\frac{x_t}{\delta_t}\Bigr),& r_\pm&=\mathrm{sigmoid}\Bigl(\pm\frac{2x_t}{s^2+\sigma_t^2}\Bigr).\end{aligned}$$
#
# Replace every step by a Gaussian with the right mean. The expected KLs of the steps add up, by the chain rule, to a bound on the KL of the samples. Four variances are in use:
#
# - **right**, $\operatorname{Var}(x_{t-1}\mid x_t)$ at every $x_t$. What remains is the third cumulant (the skewness), of order $\delta^{3/2}$: $\kappa_3^2$ costs $\delta^3$ per step, $O(T^{-2})$ in all;
# - **best constant**, one number per level, the mean squared error of that level. By D4 this is what squared error stands for; it is the optimal variance of Analytic-DPM {cite}`bao2022analytic`. It misses by a relative error of order $\delta$, which costs $\delta^2$ per step, $O(T^{-1})$ in all;
# - $\delta_t$, which needs no data: $O(T^{-1})$, with a larger constant;
# - $\delta_t\sigma_{t-1}^2/\sigma_t^2$, the variance given $x_t$ *and* $x_0$, which the diffusion head below samples with. Its last step has no noise, so its KL is infinite; without that step it is $O(T^{-1})$ too.


# %%
nodes, gauss = np.polynomial.hermite_e.hermegauss(60)
gauss = gauss / gauss.sum()


def chain_cost(s, sigmas, grid=401):
    """Total E KL of the reverse chain of the two-point law when every step is a Gaussian with the right mean.

    Four choices of its variance: the right one at every x_t; the best that does not depend on x_t; delta_t; and that given x_0 too, without
    the last step.
    """
    total = np.zeros(4)
    for low, high in itertools.pairwise(sigmas):
        delta, va, vb = high**2 - low**2, s * s + low**2, s * s + high**2
        V = 1 / (1 / va + 1 / delta)
        x = np.linspace(0, 1 + 10 * math.sqrt(vb), grid)  # the law is symmetric: twice the right half
        mean_over = lambda g, x=x, vb=vb: 2 * np.trapezoid(two_point_density(x, math.sqrt(vb)) * g, x)
        r, apart = 1 / (1 + np.exp(-2 * x / vb)), 2 * V / va  # weight of c = +1, distance of the two means
        variance = V + r * (1 - r) * apart**2
        entropy = -sum(w * (log_step(r, V, apart, c) @ gauss) for c, w in ((1, r), (-1, 1 - r)))
        cost = lambda q, var=variance, h=entropy, m=mean_over: m(0.5 * np.log(2 * np.pi * q) + var / (2 * q) - h)
        last = cost(delta * low**2 / high**2) if low else 0
        total += [cost(variance), cost(mean_over(variance)), cost(delta), last]
    return total


# %%
def log_step(r, V, apart, c):
    """log p(x_{k-1} | x_k) at the nodes around the mean of component c = ±1: (grid, nodes)."""
    y = math.sqrt(V) * nodes[None]
    mine, other = np.where(c == 1, r, 1 - r)[:, None], np.where(c == 1, 1 - r, r)[:, None]
    return np.log(mine * np.exp(-(y**2) / (2 * V)) + other * np.exp(-((y + c * apart) ** 2) / (2 * V))) - 0.5 * math.log(2 * math.pi * V)


Ts = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
geometric = lambda T, s=0.1, top=20: chain_cost(s, np.concatenate([[0], np.geomspace(1e-3, top, T)]))
chain = np.array([geometric(T) for T in Ts])
ratios = chain[:-1] / chain[1:]  # per doubling of T

# %% [markdown]
# The reverse step itself is checked against Bayes' rule by numbers, and the cost of one coarse step against a direct quadrature of its KL.


# %%
def reverse_by_bayes(s, low, high, xk, x):
    """p(x_{k-1} = x | x_k) from the forward chain: p(x_{k-1}) N(x_k; x_{k-1}, delta), normalised on the grid x."""
    p = two_point_density(x, math.hypot(s, low)) * np.exp(-((xk - x) ** 2) / (2 * (high**2 - low**2)))
    return p / np.trapezoid(p, x)


def kl_by_bayes(s, low, high, fixed=None):
    """E KL of one step from brute-force densities: to the Gaussian with the right mean and variance, or with the variance ``fixed``."""
    x, out = np.linspace(-8, 8, 6001), []
    heights = np.linspace(-6, 6, 241)
    for xk in heights:
        p = reverse_by_bayes(s, low, high, xk, x)
        mean = np.trapezoid(x * p, x)
        variance = np.trapezoid((x - mean) ** 2 * p, x) if fixed is None else fixed
        q = -((x - mean) ** 2) / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)
        out.append(np.trapezoid(p * (np.log(np.maximum(p, 1e-300)) - q), x))
    return np.trapezoid(two_point_density(heights, math.hypot(s, high)) * np.array(out), heights)


# %%
steps_tested = [(0.3, 0.2, 0.8), (0.1, 0.5, 1.0)]
one_step = {c: chain_cost(c[0], [c[1], c[2]]) for c in steps_tested}

# %%
SHEET = (1.614, 0.981, 0.444, 0.151, 0.0522, 0.0171, 5.24e-3, 1.50e-3)  # an independent calculation, T = 2 .. 256
nb.derivation(
    "D6",
    "The total cost of T Gaussian reverse steps falls like T⁻² with the right conditional variance and like T⁻¹ with δ.",
    *[
        ledger.close(f"one step {c}: right variance, against brute force", one_step[c][0], kl_by_bayes(*c), rel=1e-5, digits=6)
        for c in steps_tested
    ],
    *[
        ledger.close(f"one step {c}: {name}", one_step[c][k], kl_by_bayes(*c, fixed(*c[1:])), rel=1e-5, digits=6)
        for k, (name, fixed) in {
            2: ("variance δ", lambda low, high: high**2 - low**2),
            3: ("variance given x₀ too", lambda low, high: 1 / (1 / low**2 + 1 / (high**2 - low**2))),
        }.items()
        for c in steps_tested
    ],
    *[ledger.close(f"right variance, T = {T}", value, sheet, rel=0.005) for T, value, sheet in zip(Ts, chain[:, 0], SHEET, strict=False)],
    ledger.close("T = 2: the last jump is D5 again", chain[0, 0], kl_to_gaussian(0.1), rel=1e-3),
    ledger.close("right variance: cost ratio from T = 512 to 1024 (4 in the limit)", ratios[-1, 0], 4, rel=0.05),
    ledger.increasing("right variance: the ratio approaches it, T = 32 .. 1024", ratios[-5:, 0]),
    *[
        ledger.close(f"{name}: ratio from T = 512 to 1024 (2 in the limit)", ratios[-1, k], 2, rel=0.03)
        for k, name in ((2, "variance δ"), (3, "variance given x₀ too"))
    ],
)

# %%
one_jump = kl_to_gaussian(0.1)
by_search = scipy.optimize.minimize_scalar(
    lambda q: kl_by_bayes(0.3, 0.2, 0.8, q), bounds=(0.05, 0.9), method="bounded", options={"xatol": 1e-3}
)
few = {T: geometric(T) for T in (18, 20, 25)}
constants = {case: (lambda c: c[2] / c[1])(geometric(256, *case)) for case in ((0.1, 20), (0.1, 50), (0.3, 20))}
nb.claim(
    "X1",
    "The best constant variance has the rate T⁻¹ too and costs nine to eleven times less than δ (it depends on s and the levels); with δ fewer than 20 steps are worse than one jump.",
    "verified",
    holds=[
        ledger.close("one step: best constant, against a search by brute force", one_step[0.3, 0.2, 0.8][1], by_search.fun, rel=1e-4),
        ledger.close("best constant: ratio from T = 512 to 1024", ratios[-1, 1], 2, rel=0.03),
        *[
            ledger.close(f"δ over best constant, s = {s}, levels up to {top}, T = 256", value, 10.4, abs=1.6)
            for (s, top), value in constants.items()
        ],
        ledger.more("δ, T = 18, against one jump", few[18][2], one_jump),
        ledger.less("δ, T = 20", few[20][2], one_jump),
        ledger.close("δ, T = 25, by an independent calculation", few[25][2], 1.33, rel=0.005),
        ledger.less("best constant, already at T = 4", chain[1, 1], one_jump),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: the density of a patch that is minus one or plus one with small noise, two sharp peaks, and the best Gaussian, a low wide bell between them that is highest where the patch never is. Right: total KL of T Gaussian reverse steps against T on log axes, with guides of slope minus one and minus two and a dotted line for a single jump; the right variance follows slope minus two, the three others slope minus one, and the variance delta starts above the dotted line and crosses it near twenty steps."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5))
line = np.linspace(-2.5, 2.5, 801)
left.plot(line, two_point_density(line, 0.15), color=BLUE, label="patch: ±1 with noise 0.15")
left.plot(
    line, np.exp(-(line**2) / (2 * (1 + 0.15**2))) / math.sqrt(2 * math.pi * (1 + 0.15**2)), "--", color=ORANGE, label="best Gaussian"
)
left.set(xlabel="value", ylabel="density", title="one jump", ylim=(0, 1.9))
left.legend(fontsize=8, loc="upper center")
for column, label, color, style in (
    (3, "given x₀ too, no last step", GREY, ":v"),
    (2, "δ", ORANGE, "--s"),
    (1, "best constant", GREEN, "-.^"),
    (0, "right", BLUE, "-o"),
):
    right.plot(Ts, chain[:, column], style, color=color, ms=4, label=label)
right.axhline(one_jump, color=GREY, lw=1, ls=":")
right.annotate("one jump", (300, one_jump * 1.15), fontsize=8, color=GREY)
far = np.array([150, 1000])
for start, power in ((0.06, -1), (0.001, -2)):
    right.plot(far, start * (far / far[0]) ** power, color=GREY, lw=1)
    right.annotate(
        f"slope {power}".replace("-", "−"),
        (far[1], start / far[1] * far[0] * 1.2 if power == -1 else start * 0.1),
        fontsize=8,
        color=GREY,
        ha="right",
    )
right.set(
    xscale="log", yscale="log", xlabel="steps T", ylabel="total KL in nats", title="T small jumps, by their variance", ylim=(2e-5, 30)
)
right.legend(fontsize=8, loc="lower left")
figure.suptitle("A Gaussian is badly wrong for one jump and right for many small ones", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ### Predict the clean patch
#
# Training needs only the mean of a small step, and that mean is affine in $x_0$:
#
# $$\mathbb E[x_{t-1}\mid x_t,x_0]=\frac{\alpha_t\bar\beta_{t-1}^2x_t+\bar\alpha_{t-1}\beta_t^2x_0}{\bar\beta_t^2},\qquad\operatorname{Var}=\frac{\bar\beta_{t-1}^2\beta_t^2}{\bar\beta_t^2}.$$
#
# So $\mathbb E[x_0\mid x_t]$, which squared error delivers, is all that is needed, though $x_0$ given $x_t$ is nothing like a Gaussian. This is the precise content of the post's remark that the Gaussian happens to make everything fit.

# %%
at, ap, bp, xt, x0, xm, s2 = sp.symbols("alpha_t abar bbar x_t x_0 x_m s", positive=True)  # abar, bbar at t - 1
bt2 = 1 - at**2
Bt2 = at**2 * bp**2 + bt2  # bbar_t²
exponent = (xm - ap * x0) ** 2 / bp**2 + (xt - at * xm) ** 2 / bt2
kappa, gamma = at * bp**2 / Bt2, ap * bt2 / Bt2  # shares of x_t and of x_0 in the mean
D7_variance = bp**2 * bt2 / Bt2
nb.derivation(
    "D7",
    "The mean of the reverse step given x₀ is affine in x₀, its variance free of it.",
    sym.solves("mean: the peak of p(x_{t−1} | x_t, x₀)", sp.diff(exponent, xm), xm, kappa * xt + gamma * x0),
    sym.identity("variance: from the curvature", 2 / sp.diff(exponent, xm, 2), D7_variance),
)

# %% [markdown]
# One could also regress on the next level $x_{t-1}$ itself, as the lengthened sequence suggests. The post warns of "double sampling": $x_t$ and $x_{t-1}$ carry two draws of noise where one would do. The price is a formula. Rescale the target $x_{t-1}$
# to an unbiased target for $x_0$; its variance given $x_t$ is
#
# $$\operatorname{Var}(x_0\mid x_t)+\frac{\bar\beta_{t-1}^2\bar\beta_t^2}{\bar\alpha_{t-1}^2\beta_t^2}.$$
#
# The extra term blows up like $1/\beta_t^2$, so it is worst exactly where D6 wants to be: at many small steps.

# %%
a_t = at * ap  # abar_t
prior = sp.Matrix(
    [[ap**2 * s2**2 + bp**2, at * (ap**2 * s2**2 + bp**2)], [at * (ap**2 * s2**2 + bp**2), a_t**2 * s2**2 + Bt2]]
)  # of (x_{t-1}, x_t)
given = lambda C: C[0, 0] - C[0, 1] ** 2 / C[1, 1]
clean = sp.Matrix([[s2**2, a_t * s2**2], [a_t * s2**2, a_t**2 * s2**2 + Bt2]])  # of (x_0, x_t)
extra = bp**2 * Bt2 / (ap**2 * bt2)


def variances(t, T, xt, s=0.3):
    """Var(x_0 | x_t), Var(x_{t-1} | x_t) of the two-point law on the cosine schedule by quadrature, and abar, bbar at t - 1, alpha_t."""
    (a1, b1), (a, b) = ((math.cos(math.pi * k / (2 * T)), math.sin(math.pi * k / (2 * T))) for k in (t - 1, t))
    alpha, x, out = a / a1, np.linspace(-6, 6, 40001), []
    for share, noise, rest, spread in ((1.0, 0.0, a, b), (a1, b1, alpha, math.sqrt(1 - alpha**2))):
        p = two_point_density(x / share, math.hypot(s, noise / share)) * np.exp(-((xt - rest * x) ** 2) / (2 * spread**2))
        p = p / p.sum()
        out.append(float((p * x**2).sum() - (p * x).sum() ** 2))
    return *out, a1, b1, alpha


# %%
def both_sides(t, T, xt):
    """The variance of the rescaled next-level target, by quadrature and by the formula."""
    v0, v1, a1, b1, alpha = variances(t, T, xt)
    put = {ap: a1, bp: b1, at: alpha}
    return v1 / float(gamma.subs(put)) ** 2, v0 + float(extra.subs(put))


nb.derivation(
    "D8",
    "A regression on x_{t−1} in place of x₀ has the extra target variance b²_{t−1} b²_t / (a²_{t−1} β²_t).",
    sym.identity("Gaussian data", given(prior) / gamma**2, given(clean) + extra),
    *[
        ledger.close(f"two-point data, T = {T}, t = {t}, x_t = {x}: quadrature", *both_sides(t, T, x), rel=1e-6, digits=8)
        for T, t, x in ((10, 4, 0.3), (100, 50, -0.7))
    ],
    sym.limit("extra · β² as the step shrinks (α_t → 1)", extra * bt2, at, 1, bp**4 / ap**2),
)

# %% [markdown]
# In a training run this variance is gradient noise. We measure it by automatic differentiation, one gradient per draw, at the optimum of a model with one parameter, $\theta\,\mathbb E[x_0\mid x_t]$ at $\theta=1$.


# %%
def gradients(t, T, draws=400_000, s=0.3):
    """Per-draw gradients in theta for the target x_0 and for the rescaled x_{t-1}, and the predicted ratio of their variances."""
    rng = torch.Generator().manual_seed(21)
    normal = lambda: torch.randn(draws, generator=rng, dtype=torch.float64)
    (a1, b1), (a, b) = ((math.cos(math.pi * k / (2 * T)), math.sin(math.pi * k / (2 * T))) for k in (t - 1, t))
    alpha, x0 = a / a1, torch.where(normal() > 0, 1.0, -1.0) + s * normal()
    xm = a1 * x0 + b1 * normal()
    xt = alpha * xm + math.sqrt(1 - alpha**2) * normal()
    W = a**2 * s**2 + b**2
    peaks = torch.stack([c + a * s**2 / W * (xt - a * c) for c in (1.0, -1.0)])
    r = torch.sigmoid(2 * a * xt / W)
    best = r * peaks[0] + (1 - r) * peaks[1]
    V = s**2 * b**2 / W + r * (1 - r) * (peaks[0] - peaks[1]) ** 2  # Var(x_0 | x_t)
    put = {ap: a1, bp: b1, at: alpha}
    rescaled = (xm - float(kappa.subs(put)) * xt) / float(gamma.subs(put))
    theta = torch.ones(draws, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad((theta * best - target).square().sum(), theta)[0] for target in (x0, rescaled)]
    return *found, float((best**2 * (V + float(extra.subs(put)))).mean() / (best**2 * V).mean())


# %%
noise_of = {T: gradients(T // 2, T) for T in (8, 32, 128)}
ratio_of = {T: float(other.var() / first.var()) for T, (first, other, _) in noise_of.items()}

# %%
nb.claim(
    "C6",
    "Predicting the clean patch is better than predicting the next noise level: same mean gradient, less noise, by the factor of D8.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"T = {T}: variance ratio of the gradients, autograd over formula", ratio_of[T] / predicted, 1, rel=0.05, machine=True
            )
            for T, (_, _, predicted) in noise_of.items()
        ],
        ledger.increasing("variance ratio at T = 8, 32, 128", list(ratio_of.values()), machine=True),
        *[
            ledger.less(
                f"T = {T}: mean gradients differ by so many standard errors",
                abs(float((b - a).mean() / (b - a).std() * math.sqrt(len(a)))),
                4,
                digits=2,
                machine=True,
            )
            for T, (a, b, _) in noise_of.items()
        ],
    ],
)

# %% [markdown]
# ### What the longer sequence costs
#
# $n$ patches at $T$ levels are $N=nT$ tokens. Full causal attention looks at $N(N+1)/2$ pairs. The post's mask lets the token (patch $i$, level $t$) see only itself and the *clean* tokens of earlier patches: $Tn(n+1)/2$ pairs, fewer by a factor that tends to $T$. The third
# design, of DARL and MAR, takes the diffusion out of the Transformer: clean patches only, $n(n+1)/2$ pairs, and a small head that is called $nK$ times.


# %%
def noised_mask(n, T):
    """Which of the nT tokens a query may see: (nT, nT), token (patch i, level t) at index iT + t, the clean patch last (t = T - 1)."""
    patch, level = torch.arange(n * T) // T, torch.arange(n * T) % T
    itself = torch.eye(n * T, dtype=torch.bool)
    return itself | ((patch[None, :] < patch[:, None]) & (level[None, :] == T - 1))


# %%
n_, T_ = sp.symbols("n T", positive=True, integer=True)
k_ = sp.Symbol("k", integer=True)
full_pairs, mask_pairs = sp.Sum(k_, (k_, 1, n_ * T_)), T_ * sp.Sum(k_, (k_, 1, n_))  # the k-th token, the k-th patch
grid_nT = [(3, 3), (4, 2), (2, 5), (16, 8)]


def by_rule(n, T):
    """The rule in words, pair by pair: a token sees itself and the clean tokens of earlier patches."""
    tokens = [(i, t) for i in range(n) for t in range(T)]
    return torch.tensor([[(j, u) == (i, t) or (j < i and u == T - 1) for j, u in tokens] for i, t in tokens])


agree = lambda c: int((noised_mask(*c) == by_rule(*c)).sum())
count = lambda c: (agree(c), int(noised_mask(*c).sum()), c[0] * c[1] * (c[0] * c[1] + 1) // 2)

# %%
nb.derivation(
    "D9",
    "The mask leaves T n(n+1)/2 of N(N+1)/2 pairs, N = nT: a factor (nT+1)/(n+1), which tends to T.",
    sym.enumeration(
        "pairs that agree with the rule, pairs of the mask, pairs of full attention",
        grid_nT,
        count,
        lambda c: ((c[0] * c[1]) ** 2, c[1] * c[0] * (c[0] + 1) // 2, int(full_pairs.subs({n_: c[0], T_: c[1]}).doit())),
    ),
    sym.identity("ratio", full_pairs / mask_pairs, (n_ * T_ + 1) / (n_ + 1)),
    sym.limit("many patches", full_pairs.doit() / mask_pairs.doit(), n_, sp.oo, T_),
    ledger.close("n = 3, T = 3: pairs of the mask", int(noised_mask(3, 3).sum()), 18, abs=0.5),
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "A nine by nine attention mask for three patches at three noise levels. Rows are queries, columns keys, in the order noisy, medium, clean for each patch. Each token sees itself, the diagonal, and the clean columns of earlier patches: 18 filled squares, against the 45 on and below the diagonal of full causal attention, the rest of which is pale."}}
figure, axes = plt.subplots(figsize=(4.6, 4.1))
axes.imshow(np.where(noised_mask(3, 3), 1.0, 0.35 * np.tril(np.ones((9, 9)))), cmap="Blues", vmin=0, vmax=1.2)
tick = [f"{i + 1}{level}" for i in range(3) for level in ("noisy", "mid", "clean")]
axes.set_xticks(range(9), tick, rotation=60, fontsize=8)
axes.set_yticks(range(9), tick, fontsize=8)
axes.set(xlabel="key: what is seen", ylabel="query: who sees")
axes.grid(False)
axes.set_title("A token sees itself and the clean tokens\nof earlier patches: 18 of 45 pairs", fontsize=10)
nb.show(figure)

# %% [markdown]
# ### The order
#
# Think of a black border around a picture. Seen first it costs nothing; a digit is expensive whenever it comes. The chain rule holds for every permutation $o$ of the patches, $p(x)=\prod_kp(x_{o_k}\mid x_{o_{<k}})$: a perfect model does not care. For Gaussian data with covariance $C$ the conditional variances $v_k$ are the squared diagonal of the Cholesky factor of the permuted $C$, and
# $\prod_kv_k=\det C$ whatever the order. But squared error means *one shared* $\sigma$ for all places. Then the best loss is $\frac12\log(2\pi e\,\overline v)$ per dimension, with the arithmetic mean (AM) $\overline v$ in place of the geometric one (GM), and it exceeds the truth by
#
# $$\tfrac12\log\frac{\mathrm{AM}(v)}{\mathrm{GM}(v)}\ge0 .$$
#
# The geometric mean is the same for all orders, the arithmetic mean is not: *the joint law has no preferred order, squared error has.*


# %%
def conditional_variances(C, order):
    """Var(x_{o_k} | x_{o_1}, .., x_{o_{k-1}}) of a Gaussian with covariance C (n, n), in the order o: (n,)."""
    order = torch.as_tensor(order)
    return torch.linalg.cholesky(C[order][:, order]).diagonal().square()


# %% tags=["hide-input"]
def spiral(side):
    """Cells (i, j) of a square from its border inwards."""
    cells, (top, left, bottom, right) = [], (0, 0, side - 1, side - 1)
    while top <= bottom:
        ring = [(top, j) for j in range(left, right + 1)] + [(i, right) for i in range(top + 1, bottom + 1)]
        if top < bottom:
            ring += [(bottom, j) for j in range(right - 1, left - 1, -1)] + [(i, left) for i in range(bottom - 1, top, -1)]
        cells += ring
        top, left, bottom, right = top + 1, left + 1, bottom - 1, right - 1
    return cells


def scan_orders(side):
    """Orders of the side x side places of a square, each a list of raster indices."""
    cells = [(i, j) for i in range(side) for j in range(side)]
    step = lambda i, j: math.gcd(math.gcd(i, j), side)  # the coarsest grid of powers of two that holds the place
    by = {
        "raster": cells,
        "boustrophedon": sorted(cells, key=lambda c: (c[0], c[1] if c[0] % 2 == 0 else -c[1])),
        "zig-zag": sorted(cells, key=lambda c: (sum(c), c[0] if sum(c) % 2 else c[1])),
        "border first": spiral(side),
        "centre first": spiral(side)[::-1],
        "coarse to fine": sorted(cells, key=lambda c: (-step(*c), c)),
        "checkerboard": sorted(cells, key=lambda c: (sum(c) % 2, c)),
        "random": [cells[i] for i in torch.randperm(side * side, generator=torch.Generator().manual_seed(0))],
    }
    return {name: [i * side + j for i, j in order] for name, order in by.items()}


# %%
c11, c22, c33, c12, c13, c23 = sp.symbols("c11 c22 c33 c12 c13 c23", real=True)
C3 = sp.Matrix([[c11, c12, c13], [c12, c22, c23], [c13, c23, c33]])


def by_regression(C, order):
    """Conditional variances of SymPy's C in an order: what the regression on the variables before leaves unexplained."""
    left = [C[order[0], order[0]]]
    for k in range(1, len(order)):
        seen, i = list(order[:k]), [order[k]]
        left.append((C.extract(i, i) - C.extract(i, seen) * C.extract(seen, seen).inv() * C.extract(seen, i))[0])
    return left


tau_, vbar = sp.symbols("sigma2 v", positive=True)
C_test = sp.Matrix([[20, 9, -3, 4], [9, 15, 5, 1], [-3, 5, 10, 2], [4, 1, 2, 8]]) / 10
as_tensor = lambda C: torch.tensor([[float(x) for x in C.row(i)] for i in range(C.rows)], dtype=torch.float64)
four = [(0, 1, 2, 3), (3, 1, 0, 2), (2, 0, 3, 1)]
worst = [
    float((conditional_variances(as_tensor(C_test), o) - as_tensor(sp.Matrix([by_regression(C_test, o)]))[0]).abs().max()) for o in four
]

# %%
permutations = list(itertools.permutations(range(3)))
arithmetic = [float(conditional_variances(as_tensor(C_test), o).mean()) for o in four]
nb.derivation(
    "D10",
    "Σ log v is the same for every order; with one shared variance the best loss depends on the arithmetic mean of v, which is not.",
    *[sym.identity(f"order {o}: product of the variances", sp.prod(by_regression(C3, o)), C3.det()) for o in permutations],
    sym.solves("best shared variance", sp.diff(sp.log(2 * sp.pi * tau_) / 2 + vbar / (2 * tau_), tau_), tau_, vbar),
    *[
        ledger.close(f"Cholesky against regression, order {o}: largest gap", gap, 0, abs=1e-12, digits=1, machine=True)
        for o, gap in zip(four, worst, strict=True)
    ],
    ledger.more("the arithmetic means of two orders differ by", abs(arithmetic[0] - arithmetic[1]), 0.005),
)

# %% [markdown]
# ## The algorithm: one Transformer, four heads
#
# An image becomes a sequence of patches $x_1,\dots,x_n\in\mathbb R^p$. A causal Transformer reads the class and the patches before position $k$ and returns $z_k$; a head turns $z_k$ into a law
# for $x_k$. A token carries its patch, its own place and the place to be predicted *next*, so that any order can be learned.


# %%
class PatchTransformer(nn.Transformer):
    """A stack of causal Transformers on vectors: patches in the run's order (R, B, k, p) and labels (R, B) -> z (R, B, k+1, d), k < n.

    ``orders`` (R, n) holds each run's order of the places. With a ``book`` (codes, p) patches enter as the index of the nearest code.
    """

    def __init__(self, init, orders, *, p, d, depth, heads, book=None):
        super().__init__(init, vocabulary=d, context=d, d=d, depth=depth, heads=heads)
        self.tokens, self.positions = torch.nn.Identity(), None  # vectors in place of ids, places of our own
        self.register_buffer("orders", orders)
        self.register_buffer("book", book)
        self.inlet = nn.Linear(init, p, d) if book is None else nn.Embedding(init, len(book), d, std=0.5)
        self.classes = nn.Embedding(init, 10, d, std=0.5)
        self.own, self.following = (nn.Embedding(init, orders.shape[1], d, std=0.5) for _ in range(2))

    def forward(self, patches, labels):
        k = patches.shape[2]
        places = self.orders[:, None, : k + 1]
        x = self.classes(labels[:, :, None])
        if k:
            patches = patches if self.book is None else nearest(patches, self.book)
            x = torch.cat([x, self.inlet(patches) + self.own(places[..., :k])], 2)
        return super().forward(x + self.following(places))


# %% [markdown]
# **Mean.** Squared error. A sample is the prediction itself ($\tau=0$), or the prediction plus noise of the fitted standard deviation ($\tau=1$), which D4 says is the law that squared error assumes.


# %%
class Mean(torch.nn.Module):
    """f(z), trained by squared error; ``sigma`` (R,) is set to the root mean squared error once it is trained."""

    def __init__(self, init, d, p):
        super().__init__()
        self.out = nn.Linear(init, d, p)
        self.register_buffer("sigma", torch.zeros(init.runs))

    def loss(self, z, x, rng):
        return (self.out(z) - x).square().flatten(1).mean(1)

    def sample(self, z, rng, tau):
        f = self.out(z)  # (R, B, p)
        return f + tau * self.sigma.view(-1, 1, 1) * torch.randn(f.shape, generator=rng, device=f.device)


# %% [markdown]
# **Mixture.** Eight diagonal Gaussians, as in GIVT {cite}`tschannen2023givt`, with weights, means and standard deviations of their own. No deviation may fall below a *floor*: E2 shows why.


# %%
class Mixture(torch.nn.Module):
    """C diagonal Gaussians with deviations above ``floor``, trained by likelihood (nats per patch); ``tau`` scales a sample's noise."""

    def __init__(self, init, d, p, count, floor):
        super().__init__()
        self.count, self.p, self.floor = count, p, floor
        self.out = nn.Linear(init, d, count * (2 * p + 1))

    def parts(self, z):
        """Log weights (..., C), means and deviations (..., C, p)."""
        raw = self.out(z).unflatten(-1, (self.count, 2 * self.p + 1))
        return raw[..., 0].log_softmax(-1), raw[..., 1 : 1 + self.p], self.floor + (raw[..., 1 + self.p :] - 1).exp()

    def loss(self, z, x, rng):
        weights, means, stds = self.parts(z)
        each = -0.5 * ((x[..., None, :] - means) / stds).square() - stds.log() - 0.5 * math.log(2 * math.pi)
        return -(weights + each.sum(-1)).logsumexp(-1).flatten(1).mean(1)

    def sample(self, z, rng, tau):
        weights, means, stds = self.parts(z)
        which = draw(weights, rng)[..., None, None].expand(*z.shape[:2], 1, self.p)
        f, s = means.gather(2, which)[:, :, 0], stds.gather(2, which)[:, :, 0]
        return f + tau * s * torch.randn(f.shape, generator=rng, device=f.device)


# %%
def kmeans(points, codes, seed, rounds=20):
    """Codebook (codes, p) of points (N, p) by Lloyd's iteration from random points; an empty code stays where it is."""
    start = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:codes]
    book = points[start].clone()
    for _ in range(rounds):
        ids = nearest(points, book)
        total = torch.zeros_like(book).index_add_(0, ids, points)
        count = torch.bincount(ids, minlength=codes)[:, None]
        book = torch.where(count > 0, total / count.clamp_min(1), book)
    return book


# %% [markdown]
# **Codes.** Vector quantization (VQ): a patch becomes the index of the nearest of 128 codes, found by k-means, and the loss is the cross-entropy of a language model. This is what the post wants to do without.


# %%
class Codes(torch.nn.Module):
    """Logits over the codes of a ``book`` (codes, p); a sample is a code at temperature ``tau``, at 0 the likeliest."""

    def __init__(self, init, d, book):
        super().__init__()
        self.out = nn.Linear(init, d, len(book))
        self.register_buffer("book", book)

    def loss(self, z, x, rng):
        return nn.cross_entropy_per_run(self.out(z), nearest(x, self.book))

    def sample(self, z, rng, tau):
        return self.book[draw((self.out(z) / max(tau, 1e-4)).log_softmax(-1), rng)]


# %% [markdown]
# **Diffusion.** The post's second way, and MAR's {cite}`li2024mar`: a small network denoises $x_k$ given $z_k$. For one $z_k$ the loss draws $K$ noise levels, so the Transformer's work is shared. The network sees
# $x_k+\varsigma\varepsilon$ scaled to unit size and predicts $v=(\varepsilon-\varsigma x_k)/\sqrt{1+\varsigma^2}$ {cite}`salimans2022progressive`, a mixture of noise and clean patch that is well scaled at every level; MAR predicts $\varepsilon$. Level and $z_k$ enter by adaptive layer norm (adaLN
# {cite}`peebles2023dit`): they shift, scale and gate each block. MAR trains with 1000 levels and $K=4$, samples with 100 steps and scales their noise by $\tau=0.95$ where there is no guidance; we take 25 steps.


# %%
class Diffusion(torch.nn.Module):
    """Denoises a patch given z; K noise levels per patch in training, ``STEPS`` ancestral steps in sampling, their noise scaled by ``tau``."""

    def __init__(self, init, d, p, width, K):
        super().__init__()
        self.K, self.net = K, Denoiser(init, d, p, width)

    def loss(self, z, x, rng):
        know, x = (v.flatten(1, 2)[:, None].expand(-1, self.K, -1, -1).flatten(1, 2) for v in (self.net.know(z), x))  # (R, K B n, ..)
        sigma = levels(torch.rand(*x.shape[:2], 1, generator=rng, device=x.device))
        noise = torch.randn(x.shape, generator=rng, device=x.device)
        v = (noise - sigma * x) / (1 + sigma**2).sqrt()
        return (self.net(x + sigma * noise, sigma, know) - v).square().flatten(1).mean(1)

    def sample(self, z, rng, tau):
        know, grid = self.net.know(z), sampling_grid()
        x = float(grid[0]) * torch.randn(*z.shape[:2], self.net.p, generator=rng, device=z.device)
        noise = lambda step, x0: torch.randn(x0.shape, generator=rng, device=x0.device)
        return diffusion.endpoint(diffusion.ddpm(self.net.eps(know), grid, x, tau * diffusion.posterior_std(grid), noise))


# %% tags=["hide-input"]
BOX = 1 + 1 / 16  # dequantised patches lie within [-BOX, BOX]
BOUND, STEPS = 5.0, 25


def nearest(x, book):
    """Index of the nearest row of ``book`` (codes, p) to each vector of x (..., p)."""
    return (book.square().sum(1) - 2 * x @ book.T).argmin(-1)


def draw(log_weights, rng):
    """One index per row from log probabilities (..., C)."""
    return torch.multinomial(log_weights.exp().flatten(0, -2), 1, generator=rng).view(log_weights.shape[:-1])


def levels(t):
    """Noise levels of the cosine schedule at times t in [0, 1]: from exp(-BOUND/2) to exp(BOUND/2)."""
    return (-diffusion.cosine_log_snr(t.double(), BOUND) / 2).exp().float()


def sampling_grid():
    """STEPS noise levels, equal steps in time from 1 down, and 0: float64."""
    t = torch.arange(STEPS, 0, -1, dtype=torch.float64) / STEPS
    return torch.cat([(-diffusion.cosine_log_snr(t, BOUND) / 2).exp(), torch.zeros(1, dtype=torch.float64)])


class Denoiser(torch.nn.Module):
    """Two residual blocks with adaptive layer norm (arXiv 2212.09748): noised patches (R, N, p), levels (R, N, 1), known (R, N, width) -> v."""

    def __init__(self, init, d, p, width):
        super().__init__()
        self.p = p
        self.know, self.inlet, self.time = nn.Linear(init, d, width), nn.Linear(init, p, width), nn.Linear(init, 16, width)
        self.modulate = torch.nn.ModuleList(nn.Linear(init, width, 3 * width) for _ in range(2))
        self.up, self.down = (torch.nn.ModuleList(nn.Linear(init, width, width) for _ in range(2)) for _ in range(2))
        self.last, self.outlet = nn.Linear(init, width, 2 * width), nn.Linear(init, width, p)
        for layer in self.modulate:
            layer.weight.data[..., 2 * width :] = 0  # gates start closed
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.25), math.log(4.0), 8)))

    def forward(self, x, sigma, know):
        angles = sigma.log() * self.frequencies
        given = F.silu(know + self.time(torch.cat([angles.sin(), angles.cos()], -1)))
        norm, h = nn.NORMS["layer"], self.inlet(x / (1 + sigma**2).sqrt())
        for modulate, up, down in zip(self.modulate, self.up, self.down, strict=True):
            shift, scale, gate = modulate(given).chunk(3, -1)
            h = h + gate * down(F.silu(up(norm(h) * (1 + scale) + shift)))
        shift, scale = self.last(given).chunk(2, -1)
        return self.outlet(norm(h) * (1 + scale) + shift)

    def eps(self, know):
        """The noise predictor eps(x, sigma) of VE states, the predicted clean patch kept within the box."""

        def predict(x, sigma):
            s = float(sigma)
            v = self(x, torch.full((*x.shape[:2], 1), s, device=x.device), know)
            clean = ((x / math.sqrt(1 + s * s) - s * v) / math.sqrt(1 + s * s)).clamp(-BOX, BOX)
            return (x - clean) / s

        return predict


# %% [markdown]
# Sampling runs through the places in order; whatever the head, a sampled patch is kept within the range of the data.


# %%
def generate(model, head, labels, rng, tau, p):
    """Sample patches (R, B, n, p), back in raster order, for labels (B,)."""
    runs, n = model.orders.shape
    patches = torch.zeros(runs, len(labels), 0, p, device=labels.device)
    with torch.no_grad():
        for _ in range(n):
            z = model(patches, labels.expand(runs, -1))[:, :, -1]
            patches = torch.cat([patches, head.sample(z, rng, tau).clamp(-BOX, BOX)[:, :, None]], 2)
    return in_order(patches, model.orders.argsort(1))


def in_order(patches, orders):
    """Patches (R, B, n, p) rearranged by each run's order (R, n)."""
    return patches.gather(2, orders[:, None, :, None].expand_as(patches))


def dequantised(patches, rng, noise=0.0):
    """Patches with uniform noise that fills the 1/8 between two grey levels, and Gaussian noise of deviation ``noise``."""
    fill = (torch.rand(patches.shape, generator=rng, device=patches.device) - 0.5) / 8
    return patches + fill + (noise * torch.randn(patches.shape, generator=rng, device=patches.device) if noise else 0)


# %% tags=["hide-input"]
def build(arm, seeds, pictures, d, depth, heads, width):
    """The untrained stack of an arm, one run per seed: model, head. An arm is a dict of head, floor, noise, K, codes and order."""
    init, p = nn.Init(seeds), pictures.shape[-1]
    kind = arm["head"]
    book = kmeans(pictures.flatten(0, 1), arm["codes"], seed=0) if kind == "codes" else None
    orders = torch.tensor(scan_orders(4)[arm.get("order", "raster")]).expand(len(seeds), -1)
    model = PatchTransformer(init, orders, p=p, d=d, depth=depth, heads=heads, book=book)
    if kind == "mean":
        return model, Mean(init, d, p)
    if kind == "codes":
        return model, Codes(init, d, book)
    if kind == "diffusion":
        return model, Diffusion(init, d, p, width, arm["K"])
    return model, Mixture(init, d, p, {"gaussian": 1, "mixture": 8}[kind], arm["floor"])


def trained(device, arm, rates, seeds, train_patches, labels, size, steps, batch):
    """Train an arm at every rate with every seed in one stack, rate by rate; a seed has the same start and the same batches at every rate and with every head."""
    stack = list(seeds) * len(rates)
    model, head = (part.to(device) for part in build(arm, stack, train_patches.cpu(), **size))
    rng, noise = (torch.Generator(device).manual_seed(k) for k in (1, 8))  # of the batches, of the head

    def loss(step):
        rows = torch.randint(len(labels), (len(seeds), batch), generator=rng, device=device)
        x = dequantised(train_patches[rows], rng, arm.get("noise", 0.0)).repeat(len(rates), 1, 1, 1)
        x = in_order(x, model.orders)
        return head.loss(model(x[:, :, :-1], labels[rows].repeat(len(rates), 1)), x, noise)

    parameters = [*model.parameters(), *head.parameters()]
    optimizer = optim.StackedAdam(parameters, torch.tensor(rates).repeat_interleave(len(seeds)), weight_decay=0.02)
    train.fit(loss, optimizer, steps, schedule=lambda step, steps: optim.warmup_cosine(step, steps, final=0.02))
    if arm["head"] == "mean":
        head.sigma.copy_(test_loss(model, head, train_patches, labels).sqrt())
    return model, head


@torch.no_grad()
def test_loss(model, head, patches, labels):
    """The loss of each run (R,) on dequantised pictures (N, n, p)."""
    rng = torch.Generator(patches.device).manual_seed(2)
    x = in_order(dequantised(patches, rng).expand(len(model.orders), -1, -1, -1), model.orders)
    return head.loss(model(x[:, :, :-1], labels.expand(len(model.orders), -1)), x, rng)


# %% tags=["hide-input"]
def within_class(x, labels):
    """Total variance of pictures (N, ...) around the mean of their class."""
    parts = [x[labels == c].flatten(1) for c in labels.unique()]
    return float(sum((part - part.mean(0)).square().sum() for part in parts) / len(x))


def edges(x):
    """Root mean square difference of neighbouring pixels of pictures (..., h, w)."""
    return float(torch.cat([x.diff(dim=-1).flatten(), x.diff(dim=-2).flatten()]).square().mean().sqrt())


def quality(x, teacher):
    """How pictures x (N, 1, 8, 8), drawn for the labels of the test pictures, compare with those.

    FD to the test pictures, FD to the training pictures (by which arms are tuned), accuracy of the class, variance within a class over
    the real one, sliced Wasserstein-2 distance of the 2 x 2 patches, edges over the real ones.
    """
    real, labels = teacher.images.test, teacher.images.test_labels
    pieces = lambda y: patchify(y[:, 0, :, :, None], 4, 4).flatten(0, 1)
    grey = dequantised(real, torch.Generator(real.device).manual_seed(3))
    return {
        "fd": metrics.frechet(teacher.features(x), teacher.features(real)),
        "fd_train": metrics.frechet(teacher.features(x), teacher.features(teacher.images.train)),
        "accuracy": float((teacher.classifier(x).argmax(1) == labels).double().mean()),
        "spread": within_class(x, labels) / within_class(real, labels),
        "sw2": metrics.sliced_w2(pieces(x), pieces(grey), projections=64),
        "edges": edges(x) / edges(real),
    }


def real_sample(teacher, seed):
    """As many training pictures of each class as there are test pictures, in the order of the test labels."""
    rng, out = torch.Generator().manual_seed(seed), torch.empty_like(teacher.images.test)
    for c in range(10):
        mine = (teacher.images.train_labels == c).nonzero()[:, 0].cpu()
        places = teacher.images.test_labels == c
        out[places] = teacher.images.train[mine[torch.randperm(len(mine), generator=rng)[: int(places.sum())]].to(out.device)]
    return out


def study(device, arms, rates, seeds, size, steps, batch):
    """Train, sample and measure every arm: {arm: {"loss": (rates, seeds), "taus": {tau: {measure: (rates, seeds)}}, "shown": {tau: pictures}}}.

    Two pictures of each class are shown (the classes 0..9 twice) for the first seed at the rate whose FD to the training pictures is
    smallest, in the 17 grey levels 0..16; for tau = 0, 1 and the tau whose FD to the training pictures is smallest.
    """
    teacher = diffusion.teacher("digits8", device)
    images = teacher.images
    patches, test = (patchify(x[:, 0, :, :, None], 4, 4) for x in (images.train, images.test))
    first = [int((images.test_labels == c).nonzero()[j]) for j in range(2) for c in range(10)]
    floor = [quality(dequantised(real_sample(teacher, s), torch.Generator(device).manual_seed(10 + s)), teacher) for s in range(8)]
    out = {"floor": {k: [f[k] for f in floor] for k in floor[0]}, "arms": {}}
    table = lambda values: torch.tensor(values, dtype=torch.float64).view(len(rates), len(seeds)).tolist()
    for arm in arms:
        model, head = trained(device, arm, rates, seeds, patches, images.train_labels, size, steps, batch)
        mine = {"loss": table(test_loss(model, head, test, images.test_labels).tolist()), "taus": {}, "shown": {}}
        scores = {}
        for tau in arm["taus"]:
            x = unpatchify(generate(model, head, images.test_labels, torch.Generator(device).manual_seed(4), tau, 4), 4, 4, 8, 8, 1)[..., 0]
            rows = [quality(run[:, None], teacher) for run in x]
            mine["taus"][str(tau)] = {k: table([row[k] for row in rows]) for k in rows[0]}
            best = int(np.argmin(np.mean(mine["taus"][str(tau)]["fd_train"], axis=1)))
            scores[str(tau)] = min(np.mean(mine["taus"][str(tau)]["fd_train"], axis=1))
            mine["shown"][str(tau)] = ((x[best * len(seeds), first] + 1) * 8).round().clamp(0, 16).int().tolist()
        kept = {"0", "1", min(scores, key=scores.get, default="1")}
        mine["shown"] = {tau: pictures for tau, pictures in mine["shown"].items() if tau in kept}
        out["arms"][arm["name"]] = mine
    return out


def tuned(arm, tau=None):
    """(tau, rate index) of an arm with the smallest FD to the training pictures, at one tau where it is given."""
    table = {(t, i): np.mean(row) for t, m in arm["taus"].items() if tau in (None, t) for i, row in enumerate(m["fd_train"])}
    return min(table, key=table.get)


def step_seconds(device, Ks, size, batch, repeats):
    """Seconds of a training step with K noise levels per patch, for each K: the fastest of ``repeats``, taken in turns."""
    x = torch.rand(1, batch, 16, 4, generator=torch.Generator().manual_seed(5)).to(device)
    labels = torch.zeros(1, batch, dtype=torch.long, device=device)
    rng, steps, fastest = torch.Generator(device).manual_seed(6), {}, dict.fromkeys(map(str, Ks), math.inf)
    for K in Ks:
        model, head = (part.to(device) for part in build({"head": "diffusion", "K": K}, [0], x[0].cpu(), **size))
        optimizer = optim.StackedAdam([*model.parameters(), *head.parameters()], torch.tensor([1e-3]))
        steps[str(K)] = lambda m=model, h=head, o=optimizer: train.fit(lambda step: h.loss(m(x[:, :, :-1], labels), x, rng), o, 1)
    for _ in range(repeats):
        for K, step in steps.items():
            with runtime.Stopwatch(device) as watch:
                step()
            fastest[K] = min(fastest[K], watch.wall_s)
    return fastest


# %% [markdown]
# ### Is the code what the text says?
#
# Recorded numbers do not move when code breaks, so every part is tested here at tiny size: losses and samples of the heads against other formulas, causality and order of the Transformer, one whole training against a plain loop.


# %% tags=["hide-input"]
def seeded(k):
    return torch.Generator().manual_seed(k)


def largest(x):
    """The largest absolute entry, as a float."""
    return float(x.abs().max())


draws_z = torch.randn(2, 5, 3, 6, generator=seeded(31))  # (R, B, n, d)
draws_x = torch.rand(2, 5, 3, 4, generator=seeded(32)) * 2 - 1
wide_z = draws_z[:, :1, 0].expand(-1, 200_000, -1)
heads = {}
with torch.no_grad():
    mean_head = Mean(nn.Init([1, 2]), 6, 4)
    f = torch.einsum("rbnd,rdp->rbnp", draws_z, mean_head.out.weight)
    mean_head.sigma.copy_(torch.tensor([0.3, 0.7]))
    scatter = [mean_head.sample(wide_z, seeded(33), tau).std(1) for tau in (0, 1)]
    heads["mean: loss"] = largest(mean_head.loss(draws_z, draws_x, None) - ((f - draws_x) ** 2).mean((1, 2, 3)))
    heads["mean, τ = 1: deviation of a sample over sigma, minus 1"] = largest(scatter[1] / mean_head.sigma[:, None] - 1)
    heads["mean, τ = 0: deviation of a sample"] = largest(scatter[0])

    mix = Mixture(nn.Init([1, 2]), 6, 4, 3, 0.2)
    raw = torch.einsum("rbnd,rdp->rbnp", draws_z, mix.out.weight).unflatten(-1, (3, 9))
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=raw[..., 0]),
        torch.distributions.Independent(torch.distributions.Normal(raw[..., 1:5], 0.2 + torch.exp(raw[..., 5:] - 1)), 1),
    )
    drawn = mix.sample(wide_z, seeded(34), 1)
    centres = mix.sample(wide_z, seeded(34), 0)
    between = (law.mixture_distribution.probs[..., None] * (raw[..., 1:5] - law.mean[..., None, :]) ** 2).sum(-2)
    heads["mixture: loss"] = largest(mix.loss(draws_z, draws_x, None) + law.log_prob(draws_x).mean((1, 2)))
    heads["mixture: mean of samples"] = largest(drawn.mean(1) - law.mean[:, 0, 0])
    heads["mixture, τ = 1: variance of samples, relative"] = largest(drawn.var(1) / law.variance[:, 0, 0] - 1)
    heads["mixture, τ = 0: variance of samples, relative"] = largest(centres.var(1) / between[:, 0, 0] - 1)

    book = torch.rand(5, 4, generator=seeded(35)) * 2 - 1
    codes = Codes(nn.Init([1, 2]), 6, book)
    logits = torch.einsum("rbnd,rdp->rbnp", draws_z, codes.out.weight)
    brute = torch.tensor([[[min(range(5), key=lambda c: float((x - book[c]).norm())) for x in row] for row in run] for run in draws_x])
    by_hand = torch.stack([F.cross_entropy(logits[r].flatten(0, 1), brute[r].flatten()) for r in range(2)])
    shares = torch.stack([(codes.sample(wide_z, seeded(36), 0.8) == book[c]).all(-1).double().mean(1) for c in range(5)], 1)
    heads["codes: loss"] = largest(codes.loss(draws_z, draws_x, None) - by_hand)
    likeliest = codes.sample(draws_z[:, :, 0], seeded(37), 0) - book[logits[:, :, 0].argmax(-1)]
    heads["codes, τ = 0: a sample is the likeliest code"] = largest(likeliest)
    heads["codes, τ = 0.8: shares of the codes"] = largest(shares - (logits[:, 0, 0] / 0.8).softmax(-1))


# %% tags=["hide-input"]
class Oracle(torch.nn.Module):
    """Stands in for ``Denoiser`` and knows the clean patch: know = z is x itself. With ``normal``, it knows that x is N(0.1, 0.2²)."""

    p, eps, know = 4, Denoiser.eps, torch.nn.Identity()

    def __init__(self, normal=False):
        super().__init__()
        self.normal = normal

    def forward(self, x, sigma, know):
        clean = 0.1 + 0.04 / (0.04 + sigma**2) * (x - 0.1) if self.normal else know
        return ((x - clean) / sigma - sigma * clean) / (1 + sigma**2).sqrt()


class Nothing(Oracle):
    """Predicts v = 0."""

    def forward(self, x, sigma, know):
        return torch.zeros_like(x)


def with_net(net, K=3):
    head = Diffusion(nn.Init([1]), 4, 4, 8, K)
    head.net = net
    return head


ones = torch.ones(1, 300, 10, 4)
times = torch.linspace(0, 1, 11, dtype=torch.float64)
edge = math.atan(math.exp(-2.5))
normal_samples = {tau: with_net(Oracle(normal=True)).sample(torch.zeros(1, 50_000, 4), seeded(41), tau) for tau in (1, 0.5)}
grid = sampling_grid()
spread_of = dict.fromkeys(normal_samples, float(grid[0]) ** 2)  # variance of the chain around its mean, step by step
for (now, after), tau in itertools.product(itertools.pairwise(grid.tolist()), spread_of):
    keep = (after / now) ** 2
    spread_of[tau] = (keep + (1 - keep) * 0.04 / (0.04 + now**2)) ** 2 * spread_of[tau] + tau**2 * after**2 * (1 - keep)


class Spy(Oracle):
    """Counts the rows that it is given."""

    def forward(self, x, sigma, know):
        self.rows = x.shape[1]
        return super().forward(x, sigma, know)


def denoiser_by_hand(net, x, sigma, know):
    """``Denoiser.forward`` of one run, from its weights, row by row: x, know (N, ..), sigma (N,)."""
    w = {name: value[0] for name, value in net.named_parameters()}
    out = []
    for xi, si, ki in zip(x, sigma, know, strict=True):
        waves = [math.log(si) / 4 * 16 ** (k / 7) for k in range(8)]  # eight frequencies from 1/4 to 4 in equal ratio
        features = torch.tensor([math.sin(a) for a in waves] + [math.cos(a) for a in waves])
        u = ki + features @ w["time.weight"]
        u = u * torch.sigmoid(u)
        h = xi / math.sqrt(1 + si**2) @ w["inlet.weight"]
        norm = lambda v: (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()
        for k in range(2):
            shift, scale, gate = (u @ w[f"modulate.{k}.weight"]).view(3, -1)
            inner = (norm(h) * (1 + scale) + shift) @ w[f"up.{k}.weight"]
            h = h + gate * ((inner * torch.sigmoid(inner)) @ w[f"down.{k}.weight"])
        shift, scale = (u @ w["last.weight"]).view(2, -1)
        out.append((norm(h) * (1 + scale) + shift) @ w["outlet.weight"])
    return torch.stack(out)


net = Denoiser(nn.Init([7]), 6, 4, 8)
with torch.no_grad():
    for layer in net.modulate:  # open the gates
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=seeded(45)) / 3)
    net_x, net_sigma, net_z = (
        torch.randn(1, 9, 4, generator=seeded(46)),
        torch.linspace(0.1, 8, 9),
        torch.randn(1, 9, 6, generator=seeded(47)),
    )
    by_net = net(net_x, net_sigma[None, :, None], net.know(net_z))[0]
    net_gap = by_net - denoiser_by_hand(net, net_x[0], net_sigma.tolist(), net_z[0] @ net.know.weight[0])
    steered = [with_net(net).sample(z, seeded(48), 1) for z in (net_z, net_z + 1)]  # same noise, other z
spy = Spy()
with_net(spy).loss(draws_x[:1], draws_x[:1], seeded(43))
flat = torch.full((1, 4, 4), 0.4)
noised_flat = flat + 1.7 * torch.randn(1, 4, 4, generator=seeded(42))
with torch.no_grad():
    diff = {
        "loss of a net that knows the clean patch": float(with_net(Oracle()).loss(draws_x[:1], draws_x[:1], seeded(43))),
        "loss of v = 0 where |x| = 1, minus 1": float(with_net(Nothing()).loss(ones, ones, seeded(44))) - 1,
        "loss of v = 0 where x = 0, minus 1/2": float(with_net(Nothing()).loss(0 * ones, 0 * ones, seeded(44))) - 0.5,
        "eps of the net that knows a patch outside of the box: kept within": largest(
            Oracle().eps(5 * flat)(noised_flat, 1.7) - (noised_flat - 17 / 16) / 1.7
        ),
        "the network against its forward pass by hand": largest(net_gap),
        "eps of the net that knows": largest(Oracle().eps(flat)(noised_flat, 1.7) - (noised_flat - flat) / 1.7),
        "noise levels against tan(a + t(π/2 − 2a))": largest(
            levels(times).double() / torch.tan(edge + times * (math.pi / 2 - 2 * edge)) - 1
        ),
        "sampling grid against the noise levels": largest(
            grid - torch.cat([levels(times.new_tensor([i / 25 for i in range(25, 0, -1)])).double(), grid[-1:]])
        ),
    }

# %% tags=["hide-input"]
toy_orders = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
toy = PatchTransformer(nn.Init([3, 4]), toy_orders, p=2, d=8, depth=1, heads=2)
toy_x, toy_y = torch.randn(2, 3, 3, 2, generator=seeded(51)), torch.tensor([[1, 2, 3], [4, 5, 6]])
with torch.no_grad():
    z_before = toy(toy_x, toy_y)
    changed = toy_x.clone()
    changed[:, :, 1] += 1.0
    moved = (toy(changed, toy_y) - z_before).abs().amax((0, 1, 3))  # by position 0..3
    prefix = largest(toy(toy_x[:, :, :2], toy_y) - z_before[:, :, :3])
    other_class = (toy(toy_x, toy_y + 1) - z_before).abs().amax((0, 1, 3)).min()
    swapped = PatchTransformer(nn.Init([3, 4]), toy_orders[:, [0, 1, 3, 2]], p=2, d=8, depth=1, heads=2)
    next_place = (swapped(toy_x, toy_y) - z_before).abs().amax((0, 1, 3))  # the place to be predicted third is another

    by_hand = toy.classes.weight[torch.arange(2)[:, None], toy_y][:, :, None].repeat(1, 1, 4, 1)
    for r, j in itertools.product(range(2), range(4)):
        if j:  # the patch before, at its own place
            by_hand[r, :, j] = toy_x[r, :, j - 1] @ toy.inlet.weight[r] + toy.own.weight[r, toy_orders[r, j - 1]]
        by_hand[r, :, j] += toy.following.weight[r, toy_orders[r, j]]
    tokens_gap = largest(nn.Transformer.forward(toy, by_hand) - z_before)


class Counter:
    """A head whose k-th sample is the number k / unit."""

    def __init__(self, unit=10):
        self.k, self.unit = -1, unit

    def sample(self, z, rng, tau):
        self.k += 1
        return torch.full((*z.shape[:2], 2), self.k / self.unit)


in_box = generate(toy, Counter(1), torch.tensor([0, 1]), None, 1, 2)  # samples 0, 1, 2, 3
placed = (generate(toy, Counter(), torch.tensor([0, 1]), None, 1, 2)[:, 0, :, 0] * 10).round().int().tolist()
filled = dequantised(torch.zeros(200_000), seeded(52))
noisy = dequantised(torch.zeros(200_000), seeded(52), 0.25)


# %% tags=["hide-input"]
def by_loop(arm, rate, seed, turn, patches, labels, size, steps, batch):
    """``trained`` for one run, by torch.optim.AdamW and a spelled-out schedule; its seed is number ``turn`` of two in the batches."""
    model, head = build(arm, [seed], patches, **size)
    parameters = [*model.parameters(), *head.parameters()]
    groups = [{"params": [p for p in parameters if (p.ndim >= 3) == decayed], "weight_decay": 0.02 * decayed} for decayed in (True, False)]
    optimizer, rng = torch.optim.AdamW(groups, lr=rate), seeded(1)
    order = scan_orders(4)[arm["order"]]
    for step in range(steps):
        rows = torch.randint(len(labels), (2, batch), generator=rng)
        x = patches[rows] + (torch.rand(2, batch, 16, 4, generator=rng) - 0.5) / 8
        x = x + arm["noise"] * torch.randn(x.shape, generator=rng)
        x = x[turn : turn + 1][:, :, order]
        warm = max(1, round(0.1 * steps))
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = rate * ((step + 1) / warm if step < warm else cosine)
        optimizer.zero_grad()
        ((head.out(model(x[:, :, :-1], labels[rows[turn]][None])) - x) ** 2).mean().backward()
        optimizer.step()
    return [p.detach() for p in parameters]


small_size = {"d": 8, "depth": 1, "heads": 2, "width": 8}
arm_tested = {"head": "mean", "order": "zig-zag", "noise": 0.25}
some = data.pictures("digits8")
some_patches, some_labels = patchify(some.train[:40, 0, :, :, None], 4, 4), some.train_labels[:40]
stacked = trained(torch.device("cpu"), arm_tested, [1e-2, 3e-2], [5, 6], some_patches, some_labels, small_size, 6, 7)
loops = [
    by_loop(arm_tested, rate, seed, turn, some_patches, some_labels, small_size, 6, 7)
    for rate in (1e-2, 3e-2)
    for turn, seed in enumerate((5, 6))
]
apart = [
    (p.data[r] - q[0]).flatten()
    for r, loop in enumerate(loops)
    for p, q in zip([*stacked[0].parameters(), *stacked[1].parameters()], loop, strict=True)
]
with torch.no_grad():
    ordered = dequantised(some_patches, seeded(2))[:, scan_orders(4)["zig-zag"]]
    predicted = stacked[1].out(stacked[0](ordered[:, :-1].expand(4, -1, -1, -1), some_labels.expand(4, -1)))
    root = (predicted - ordered).square().mean((1, 2, 3)).sqrt()

tiny = {"rates": [1e-3, 3e-2], "seeds": [5, 6], "size": small_size, "steps": 4, "batch": 4}
tiny_arm = {"name": "toy", "head": "mean", "order": "zig-zag", "taus": [1]}
tiny_study = study(torch.device("cpu"), [tiny_arm], **tiny)["arms"]["toy"]

teacher8 = diffusion.teacher("digits8")
fake = real_sample(teacher8, 0)
rows_of = {tuple(x.flatten().tolist()): int(c) for x, c in zip(teacher8.images.train, teacher8.images.train_labels, strict=True)}
matched = [rows_of.get(tuple(x.flatten().tolist())) == int(c) for x, c in zip(fake, teacher8.images.test_labels, strict=True)]
blurred = F.avg_pool2d(fake, 3, 1, 1)
cut_train, cut_test = (patchify(x[:, 0, :, :, None], 4, 4) for x in (some.train, some.test))
tiny_model, tiny_head = trained(torch.device("cpu"), tiny_arm, [1e-3, 3e-2], [5, 6], cut_train, some.train_labels, small_size, 4, 4)
tiny_patches = generate(tiny_model, tiny_head, some.test_labels, seeded(4), 1, 4)
tiny_x = unpatchify(tiny_patches, 4, 4, 8, 8, 1)[..., 0]
tiny_loss = test_loss(tiny_model, tiny_head, cut_test, some.test_labels)
tiny_fd = [[quality(tiny_x[2 * i + j][:, None], teacher8)["fd"] for j in range(2)] for i in range(2)]
tiny_best = int(np.argmin(np.mean(tiny_study["taus"]["1"]["fd_train"], axis=1)))
ones_first = int((some.test_labels == 1).nonzero()[0])
shown_gap = torch.tensor(tiny_study["shown"]["1"][1]) / 8 - 1 - tiny_x[2 * tiny_best, ones_first].clamp(-1, 1)
toy_table = {"0": {"fd": [[1, 1], [5, 5]], "fd_train": [[4, 4], [3, 3]]}, "1": {"fd": [[2, 2], [6, 6]], "fd_train": [[9, 0], [2, 1]]}}
normals = torch.randn(60, 3, generator=seeded(62), dtype=torch.float64)
normals = normals - normals.mean(0)
measures = {
    name: quality(x, teacher8)
    for name, x in (("real", fake), ("blurred", blurred), ("test", teacher8.images.test), ("wrong class", fake.flip(0)))
}
square = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
pair_pictures, pair_labels = torch.tensor([[[0.0]], [[2.0]], [[5.0]]]), torch.tensor([0, 0, 1])
named_orders = scan_orders(4)
points = torch.rand(400, 2, generator=seeded(61))
lloyd = scipy.cluster.vq.kmeans2(
    points.numpy().astype("float64"),
    points[torch.randperm(400, generator=seeded(3))[:6]].numpy().astype("float64"),
    iter=20,
    minit="matrix",
)[0]

# %% tags=["hide-input"]
nb.claim(
    "X2",
    "The heads' losses are the likelihoods and errors of the text, and their samples have its laws.",
    "verified",
    holds=[
        *[
            ledger.close(f"{what}: gap", heads[what], 0, abs=1e-5, digits=1, machine=True)
            for what in (
                "mean: loss",
                "mixture: loss",
                "codes: loss",
                "mean, τ = 0: deviation of a sample",
                "codes, τ = 0: a sample is the likeliest code",
            )
        ],
        *[
            ledger.close(f"{what}: gap, 200,000 draws", heads[what], 0, abs=0.02, digits=2, machine=True)
            for what in heads
            if "loss" not in what and "likeliest" not in what and what != "mean, τ = 0: deviation of a sample"
        ],
        *[ledger.close(what, value, 0, abs=0.02 if "v = 0" in what else 1e-4, digits=2, machine=True) for what, value in diff.items()],
        ledger.close("control: the largest entry of (0, −1)", largest(torch.tensor([0.0, -1.0])), 1, abs=1e-12),
        ledger.close("first of the sampling levels, e^2.5", float(grid[0]), math.exp(2.5), rel=1e-9),
        ledger.close("rows that the network sees: K = 3, 5 pictures of 3 patches", spy.rows, 3 * 5 * 3, abs=0.5),
        ledger.more("another z and the same noise: a sample moves by", float((steered[1] - steered[0]).abs().mean()), 0.02, machine=True),
        ledger.close(
            "25 steps from the exact denoiser of N(0.1, 0.2²): mean", float(normal_samples[1].mean()), 0.1, abs=0.01, machine=True
        ),
        *[
            ledger.close(
                f"τ = {tau}: their deviation against the recursion of the 25 steps",
                float(normal_samples[tau].std()),
                math.sqrt(spread_of[tau]),
                rel=0.01,
                machine=True,
            )
            for tau in spread_of
        ],
        ledger.close("uniform filling: variance times 12 · 8²", float(filled.var()) * 12 * 64, 1, abs=0.02, machine=True),
        ledger.close("with noise 0.25: deviation", float((noisy - filled).std()), 0.25, abs=0.005, machine=True),
    ],
)
nb.claim(
    "X3",
    "The Transformer is causal in the order of the run and knows the place to predict; sampling puts patches where they belong; training is AdamW on each run.",
    "verified",
    holds=[
        ledger.less("second patch changed: z of the first two positions moves by", float(moved[:2].max()), 1e-6, digits=1, machine=True),
        ledger.more("of the later ones by", float(moved[2:].min()), 1e-3, digits=2, machine=True),
        ledger.less("z against that of tokens put together one by one", tokens_gap, 1e-5, digits=1, machine=True),
        ledger.less("a prefix gives the same z", prefix, 1e-5, digits=1, machine=True),
        ledger.more("another class moves every position by", float(other_class), 1e-3, digits=2, machine=True),
        ledger.less("another third place: z of the first two moves by", float(next_place[:2].max()), 1e-6, digits=1, machine=True),
        ledger.more("z of the third by", float(next_place[2]), 1e-3, digits=2, machine=True),
        sym.enumeration(
            "the k-th sample lies at the k-th place, two orders",
            (0, 1),
            lambda r: tuple(placed[r]),
            lambda r: ((1, 3, 0, 2), (0, 1, 2, 3))[r],
        ),
        ledger.close("sampled patches are kept within the box", float(in_box.max()), 17 / 16, rel=1e-6),
        ledger.less(
            "two rates, two seeds, six steps, noised patches: parameters against torch.optim.AdamW",
            largest(torch.cat(apart)),
            1e-4,
            digits=1,
            machine=True,
        ),
        ledger.less(
            "study: losses, rate by rate and seed by seed",
            largest(torch.tensor(tiny_study["loss"]).flatten() - tiny_loss),
            1e-4,
            digits=1,
            machine=True,
        ),
        ledger.less(
            "study: FD likewise, relative",
            largest(torch.tensor(tiny_study["taus"]["1"]["fd"]) / torch.tensor(tiny_fd) - 1),
            1e-3,
            digits=1,
            machine=True,
        ),
        ledger.less(
            "study: the picture shown is the best rate's (within half a grey level)",
            largest(shown_gap),
            0.07,
            digits=1,
            machine=True,
        ),
        ledger.less("fitted sigma against the root mean squared error", largest(stacked[1].sigma - root), 1e-5, digits=1, machine=True),
    ],
)
nb.claim(
    "X4",
    "Measures and helpers: real samples have the test set's classes, blur is seen by edges, FD and SW2, orders and codebooks are what their names say.",
    "verified",
    holds=[
        ledger.close("share of real_sample that are training pictures of the right class", float(np.mean(matched)), 1, abs=1e-9),
        ledger.close("edges of a 2 × 2 picture: √((1 + 4 + 9 + 0)/4)", edges(square[None]), math.sqrt(14 / 4), rel=1e-6),
        ledger.close("variance within classes of 0, 2 | 5", within_class(pair_pictures, pair_labels), 2 / 3, rel=1e-6),
        ledger.less("edges of blurred pictures", measures["blurred"]["edges"], 0.7, machine=True),
        ledger.less("spread of blurred pictures", measures["blurred"]["spread"], 0.8, machine=True),
        ledger.more("FD of blurred pictures", measures["blurred"]["fd"], 1, machine=True),
        ledger.more(
            "SW2 of blurred pictures over that of real ones", measures["blurred"]["sw2"] / measures["real"]["sw2"], 3, machine=True
        ),
        ledger.close("spread of the test pictures themselves", measures["test"]["spread"], 1, rel=1e-5, machine=True),
        ledger.close("FD of the test pictures themselves", measures["test"]["fd"], 0, abs=1e-3, digits=1, machine=True),
        ledger.more("accuracy of real pictures", measures["real"]["accuracy"], 0.95, machine=True),
        ledger.less("accuracy of pictures in the wrong order", measures["wrong class"]["accuracy"], 0.3, machine=True),
        ledger.more("FD of the test pictures to the training pictures", measures["test"]["fd_train"], 0.01, machine=True),
        ledger.close(
            "Fréchet distance of x and 2x + (1, 2, 2): 9 + tr Cov(x)",
            metrics.frechet(normals, 2 * normals + torch.tensor([1.0, 2.0, 2.0])),
            9 + float(normals.var(0).sum()),
            rel=1e-6,
        ),
        sym.enumeration(
            "rate and τ are chosen by the FD to the training pictures",
            (None, "0"),
            lambda tau: tuned({"taus": toy_table}, tau),
            {None: ("1", 1), "0": ("0", 1)}.get,
        ),
        sym.enumeration(
            "4 × 4 orders",
            ["boustrophedon", "zig-zag", "border first", "centre first", "coarse to fine", "checkerboard"],
            lambda name: tuple(named_orders[name]),
            {
                "boustrophedon": (0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12),
                "zig-zag": (0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15),
                "border first": (0, 1, 2, 3, 7, 11, 15, 14, 13, 12, 8, 4, 5, 6, 10, 9),
                "centre first": (9, 10, 6, 5, 4, 8, 12, 13, 14, 15, 11, 7, 3, 2, 1, 0),
                "coarse to fine": (0, 2, 8, 10, 1, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15),
                "checkerboard": (0, 2, 5, 7, 8, 10, 13, 15, 1, 3, 4, 6, 9, 11, 12, 14),
            }.get,
        ),
        ledger.less(
            "k-means against SciPy's from the same start: largest gap",
            largest(kmeans(points, 6, 3) - torch.from_numpy(lloyd)),
            1e-4,
            digits=1,
            machine=True,
        ),
    ],
)

# %% [markdown]
# ## Experiments
#
# Data: scikit-learn's digits, 8 × 8 in 17 grey levels, 1200 to train and 597 to test; $4\times4$ patches of $2\times2$ pixels, uniform noise fills the steps between grey levels. For the labels of the test pictures 597 pictures are drawn.
#
# - *FD* is the Fréchet distance to the test pictures in the 32 features of a small classifier (accuracy 0.99): that of two Gaussians with the samples' means and covariances. *Floor*: the same measure for 597 training pictures with the same classes.
# - *Spread* is the variance within a class over the real one, *SW2* the sliced Wasserstein-2 distance of the patches, *edges* the difference of neighbouring pixels over the real one.
# - In E1 every arm has the same three learning rates, three seeds and grid of $\tau$, and the best is found by the FD to the *training* pictures. E1b to E4 train longer at the middle rate, which was the best of E1 for every head, and choose $\tau$ in the same way. Three seeds are few: "better" means that the difference exceeds its standard error by the 97.5% quantile of Student's $t$, 2.8 (paired, 4.3).
# - *Recorded* runs come from a CPU and are as small as that demands (width 48, two layers; 150 steps in E1, 300 in the others); *live* runs are smaller (width 32; 20, 90 and 25 steps in E1, E1b and E2 to E4). Nothing here is trained to its end.


# %% tags=["hide-input"]
def attention_costs(device, n, T, K, d, batch, repeats):
    """Seconds of forward and backward of two layers on three designs, the fastest of ``repeats``, and the error of the masked design.

    "full": all nT tokens, causal; "mask": the same tokens under ``noised_mask``; "split": n clean tokens and a head at K levels per patch.
    """
    rng = torch.Generator().manual_seed(7)
    weights = [
        [(torch.randn(a, b, generator=rng) / math.sqrt(a)).to(device) for a, b in [(d, d)] * 4 + [(d, 4 * d), (4 * d, d)]] for _ in range(2)
    ]
    x = torch.randn(batch, n * T, d, generator=rng).to(device).requires_grad_(True)
    masks = {"full": torch.ones(n * T, n * T, dtype=torch.bool).tril().to(device), "mask": noised_mask(n, T).to(device)}
    masks["split"] = masks["full"][:n, :n]
    head = Denoiser(nn.Init([0]), d, d, d).to(device)

    def forward(name):
        clean = x[:, T - 1 :: T]  # (batch, n, d)
        h = two_layers(clean if name == "split" else x, weights, masks[name])
        if name != "split":
            return h
        tokens, know = (v.flatten(0, 1)[None].repeat(1, K, 1) for v in (clean, h))
        return head(tokens, torch.ones_like(tokens[..., :1]), head.know(know))  # (1, batch n K, d)

    fastest = dict.fromkeys(masks, math.inf)
    for _, name in itertools.product(range(repeats), masks):
        with runtime.Stopwatch(device) as watch:
            forward(name).square().mean().backward()
        fastest[name] = min(fastest[name], watch.wall_s)
    # at the clean level the masked design sees what a causal Transformer on clean patches sees
    gap = (forward("mask")[:, T - 1 :: T] - two_layers(x[:, T - 1 :: T], weights, masks["split"])).abs().max()
    rows = {"layers": sum(w.numel() for w in weights[0]), "head calls": forward("split").shape[1] / batch}
    return {"seconds": fastest, "gap": float(gap.detach()), **rows}


def two_layers(x, weights, mask, heads=4):
    """Two pre-norm Transformer layers on x (B, N, d) under a boolean mask (N, N)."""
    norm = nn.NORMS["rms"]
    for wq, wk, wv, wo, w1, w2 in weights:
        q, k, v = ((norm(x) @ w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (wq, wk, wv))
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2) @ wo
        x = x + F.gelu(norm(x) @ w1) @ w2
    return x


def costs(device, Ks, size, batch, repeats, design):
    """Training steps against K (``step_seconds``), and the three designs of the post's section on efficiency (``attention_costs``)."""
    return {"steps": step_seconds(device, Ks, size, batch, repeats), **attention_costs(device, **design, repeats=repeats)}


# %% tags=["hide-input"]
SIZE = nb.at_scale(
    cpu={"d": 32, "depth": 2, "heads": 4, "width": 32},
    gpu={"d": 96, "depth": 2, "heads": 6, "width": 96},
    full={"d": 48, "depth": 2, "heads": 4, "width": 48},
)
SEEDS = [0, 1, 2]
SHORT = nb.at_scale(  # of the grid of rates, E1
    cpu={"seeds": SEEDS, "steps": 20, "batch": 48},
    gpu={"seeds": SEEDS, "steps": 300, "batch": 64},
    full={"seeds": SEEDS, "steps": 150, "batch": 48},
)
LONG = nb.at_scale(  # of E1b to E4, at the rate that is best in E1
    cpu={"seeds": SEEDS, "steps": 90, "batch": 48},
    gpu={"seeds": SEEDS, "steps": 600, "batch": 64},
    full={"seeds": SEEDS, "steps": 300, "batch": 48},
)
BRIEF = nb.at_scale(cpu={"seeds": SEEDS, "steps": 25, "batch": 48}, gpu=LONG, full=LONG)  # E2 to E4
RATES = nb.at_scale(cpu=[1e-3, 8e-3], gpu=[3e-3, 9e-3, 27e-3], full=[6e-3, 18e-3, 54e-3])
RATE = nb.at_scale(cpu=[8e-3], gpu=[9e-3], full=[18e-3])  # the middle one
TAUS = [0, 0.8, 1]  # one grid for all heads
ARMS = {
    "mean": {"head": "mean", "taus": TAUS},
    "VQ 128": {"head": "codes", "codes": 128, "taus": TAUS},
    "diffusion": {"head": "diffusion", "K": 4, "taus": TAUS},
    "mixture": {"head": "mixture", "floor": 0.2, "taus": TAUS},
}
SHARP = {"noise 0": {"floor": 0.001}, "noise 0.25": {"floor": 0.001, "noise": 0.25}, "floor 0.4": {"floor": 0.4}}
SHARP = {name: {"head": "mixture", "taus": TAUS, **arm} for name, arm in SHARP.items()}
LEVELS = {"K = 1": {"head": "diffusion", "K": 1, "taus": [0.8]}}
ORDERS = {order: {"head": "mean", "order": order, "taus": []} for order in ("border first", "random")}
only = lambda arms, *names: [{"name": name, **arms[name]} for name in names or arms]
LIVE1 = [dict(arm, taus=[0, 1] if arm["name"] == "mean" else [0.8]) for arm in only(ARMS, "mean", "VQ 128", "diffusion")]
silent = lambda arms: [dict(arm, taus=[]) for arm in arms]  # train and take the loss, draw nothing

# %% tags=["hide-input"]
e1 = nb.run("E1", study, arms=nb.at_scale(cpu=silent(only(ARMS, "mean")), gpu=only(ARMS), full=only(ARMS)), rates=RATES, size=SIZE, **SHORT)
e1b = nb.run("E1b", study, arms=nb.at_scale(cpu=LIVE1, gpu=only(ARMS), full=only(ARMS)), rates=RATE, size=SIZE, **LONG)
e3 = nb.run("E3", study, arms=nb.at_scale(cpu=silent(only(LEVELS)), gpu=only(LEVELS), full=only(LEVELS)), rates=RATE, size=SIZE, **BRIEF)
e4 = nb.run("E4", study, arms=only(ORDERS), rates=RATE, size=SIZE, **BRIEF)
LIVE2 = silent(only(SHARP, "noise 0", "floor 0.4"))
e2 = nb.run("E2", study, arms=nb.at_scale(cpu=LIVE2, gpu=only(SHARP), full=only(SHARP)), rates=RATE, size=SIZE, **BRIEF)
DESIGN = nb.at_scale(cpu={"batch": 8}, gpu={"batch": 64}, full={"batch": 16}) | {"n": 16, "T": 8, "K": 4, "d": 96}
e6 = nb.run("E6", costs, Ks=[1, 2, 4, 8], size=SIZE, batch=LONG["batch"], repeats=nb.at_scale(cpu=7, gpu=30, full=25), design=DESIGN)

# %% tags=["hide-input"]
REC = {id: nb.recorded(id) for id in ("E1", "E1b", "E2", "E3", "E4")}
SE = {id: f"{run.provenance}; digits, 3 seeds" for id, run in REC.items()}
GRID, R1, R2, R3, R4 = (run.result["arms"] for run in REC.values())
FLOOR = REC["E1"].result["floor"]
LIVE = "live, cpu, 3 seeds, width 32"
T4, T2 = (float(scipy.stats.t.ppf(0.975, freedom)) for freedom in (4, 2))  # three seeds against three, three pairs


def at_best(arm, measure, tau=None):
    """One number a seed: a measure at the arm's best rate (and tau)."""
    t, i = tuned(arm, tau)
    return arm["taus"][t][measure][i]


CURVES = {"mean, τ = 0": ("mean", "0"), "mean + its noise, τ = 1": ("mean", "1"), "mean, tuned τ": ("mean", None)}
CURVES |= {"mixture, floor 0.2": ("mixture", None), "VQ 128": ("VQ 128", None), "diffusion, K = 4": ("diffusion", None)}
mean_of = lambda values: float(np.mean(values))
apart_by = lambda a, b: (
    abs(mean_of(a) - mean_of(b)) / math.hypot(*(np.std(v, ddof=1) / math.sqrt(len(v)) for v in (a, b)))
)  # standard errors

# %% [markdown]
# ### E1: four heads
#
# First the learning rates, in short runs.

# %% tags=["hide-input"]
rows = []
for name, arm in GRID.items():
    fds = [min(np.mean(m["fd_train"][i]) for m in arm["taus"].values()) for i in range(3)]
    t, i = tuned(arm)
    rows.append([name, *[f"≈{fd:.2f}" for fd in fds], t, *["≈" + ledger.with_error(at_best(arm, k), 2) for k in ("fd", "accuracy")]])
nb.results(
    "E1",
    f"{REC['E1'].config['steps']} steps. FD to the training pictures at the best τ for each rate, then the best rate and τ. Recorded: {REC['E1'].provenance}.",
    ["head", *[f"rate {rate:g}" for rate in REC["E1"].config["rates"]], "best τ", "FD", "accuracy"],
    rows,
)
nb.experiment(
    "E1",
    "The middle rate of three is the best for every head; after 150 steps codes with cross-entropy draw far better than all others, between which nothing is resolved.",
    "verified",
    holds=[
        *[
            ledger.more(
                f"{name}: FD to the training pictures, the better of the outer rates over the middle one",
                min(x[0] for x in lows[::2]) / lows[1][0],
                1.05,
                machine=True,
                scope=SE["E1"],
            )
            for name, lows in {
                name: [[min(np.mean(m["fd_train"][i]) for m in arm["taus"].values())] for i in range(3)] for name, arm in GRID.items()
            }.items()
        ],
        *[
            ledger.better(f"FD: {name} over VQ 128", at_best(GRID[name], "fd"), at_best(GRID["VQ 128"], "fd"), sigmas=T4, scope=SE["E1"])
            for name in ("mean", "mixture", "diffusion")
        ],
        ledger.less(
            "FD: mean + noise and diffusion differ by so many standard errors",
            apart_by(at_best(GRID["mean"], "fd"), at_best(GRID["diffusion"], "fd")),
            T4,
            machine=True,
            scope=SE["E1"],
        ),
        ledger.more(
            "live, 20 steps: test loss of the mean at the lower rate over the higher",
            mean_of(e1["arms"]["mean"]["loss"][0]) / mean_of(e1["arms"]["mean"]["loss"][1]),
            1.05,
            machine=True,
            scope=LIVE,
        ),
    ],
)

# %% [markdown]
# What do the heads draw after twice as many steps? The table gives mean ± standard error.

# %% tags=["hide-input"]
rows = []
for name, (arm, tau) in CURVES.items():
    t, i = tuned(R1[arm], tau)
    cell = lambda k, arm=arm, tau=tau: "≈" + ledger.with_error(at_best(R1[arm], k, tau), 2)
    rows.append([name, t, *[cell(k) for k in ("fd", "accuracy", "spread", "sw2", "edges")]])
rows.append(["real pictures (floor)", "", *["≈" + ledger.with_error(FLOOR[k], 2) for k in ("fd", "accuracy", "spread", "sw2", "edges")]])
nb.results(
    "E1b",
    f"Digits, 597 pictures, rate {REC['E1b'].config['rates'][0]:g}, {REC['E1b'].config['steps']} steps. Recorded: {REC['E1b'].provenance}.",
    ["head", "τ", "FD", "accuracy", "spread", "SW2", "edges"],
    rows,
)

# %% [markdown]
# The mean alone is recognised and never varies: one prototype per class, so accuracy is no measure of drawing. With its noise the pictures vary, but the patches are wrong: their SW2 is about twice that of any other head. FD separates less. A part of the noise ($\tau=0.8$) helps the mean; the
# mixture draws best at its centres ($\tau=0$), where only the choice among its eight Gaussians is random; codes, mixture and diffusion head lie close together, and three seeds do not put them in an order. In the law of single patches the diffusion head is first, but its pictures vary less than real ones. At half the steps
# (E1) it had been no better than the noisy mean: it starts late. These tables say what a small budget buys, not what the heads can reach.

# %% tags=["hide-input"]
live1 = e1b["arms"]
nb.experiment(
    "E1b",
    "After 300 steps squared error draws prototypes or wrong patches; codes, mixture and diffusion head draw digits, the diffusion head with the best patches; FD does not separate the three.",
    "partly",
    holds=[
        *[
            ledger.better(
                f"FD: mean without noise over {name}", at_best(R1["mean"], "fd", "0"), at_best(R1[name], "fd"), sigmas=T4, scope=SE["E1b"]
            )
            for name in ("mixture", "VQ 128", "diffusion")
        ],
        *[
            ledger.better(
                f"SW2 of patches: mean + noise over {name}",
                at_best(R1["mean"], "sw2", "1"),
                at_best(R1[name], "sw2"),
                sigmas=T4,
                scope=SE["E1b"],
            )
            for name in ("mixture", "VQ 128", "diffusion")
        ],
        ledger.better(
            "SW2 of patches: VQ 128 over diffusion",
            at_best(R1["VQ 128"], "sw2"),
            at_best(R1["diffusion"], "sw2"),
            sigmas=T4,
            scope=SE["E1b"],
        ),
        ledger.better(
            "SW2 of patches: mixture over diffusion",
            at_best(R1["mixture"], "sw2"),
            at_best(R1["diffusion"], "sw2"),
            sigmas=T4,
            scope=SE["E1b"],
        ),
        ledger.better(
            "spread: real pictures over diffusion", FLOOR["spread"], at_best(R1["diffusion"], "spread"), sigmas=T4, scope=SE["E1b"]
        ),
        ledger.less(
            "live: spread of the mean without noise", mean_of(at_best(live1["mean"], "spread", "0")), 0.05, machine=True, scope=LIVE
        ),
        ledger.more("live: spread of the mean with noise", mean_of(at_best(live1["mean"], "spread", "1")), 0.3, machine=True, scope=LIVE),
        ledger.less(
            "live: SW2, diffusion over mean + noise",
            mean_of(at_best(live1["diffusion"], "sw2")) / mean_of(at_best(live1["mean"], "sw2", "1")),
            0.85,
            machine=True,
            scope=LIVE,
        ),
        ledger.less(
            "live: FD, VQ 128 over mean + noise",
            mean_of(at_best(live1["VQ 128"], "fd")) / mean_of(at_best(live1["mean"], "fd", "1")),
            0.8,
            machine=True,
            scope=LIVE,
        ),
    ],
    fails=[
        ledger.less(
            f"not resolved: FD of diffusion and {name} differ by so many standard errors",
            apart_by(at_best(R1["diffusion"], "fd"), at_best(R1[name], "fd", tau)),
            T4,
            machine=True,
            scope=SE["E1b"],
        )
        for name, tau in (("mixture", None), ("VQ 128", None), ("mean", None), ("mean", "1"))
    ],
)
linear_fit = np.polynomial.Polynomial.fit([0.0, 1.0, 2.0, 3.0], [1.0, -1.0, 2.0, 0.5], 1).convert().coef
gauss_fit = scipy.optimize.minimize(
    lambda u: -np.sum(-0.5 * ((np.array([1.0, -1.0, 2.0, 0.5]) - u[0] - u[1] * np.arange(4)) / math.exp(u[2])) ** 2 - u[2]),
    [0, 0, 0],
    tol=1e-12,
).x
nb.claim(
    "C1",
    "Squared error is the likelihood of a Gaussian of fixed variance.",
    "verified",
    holds=[
        ledger.close(
            "slope of a regression: by Gaussian likelihood over by least squares",
            float(gauss_fit[1] / linear_fit[1]),
            1,
            abs=1e-3,
            digits=3,
        ),
        ledger.close(
            "fitted variance over the mean squared error",
            math.exp(2 * gauss_fit[2]) / np.mean((np.array([1.0, -1.0, 2.0, 0.5]) - linear_fit[0] - linear_fit[1] * np.arange(4)) ** 2),
            1,
            abs=1e-3,
            digits=3,
        ),
    ],
)
nb.claim(
    "C2",
    "Samples of the squared-error model are averages without its noise and noisy with it.",
    "verified",
    holds=[
        ledger.better(
            "without noise, worse than with: FD", at_best(R1["mean"], "fd", "0"), at_best(R1["mean"], "fd", "1"), sigmas=T4, scope=SE["E1b"]
        ),
        ledger.better(
            "with noise: edges over those of the samples without",
            at_best(R1["mean"], "edges", "1"),
            at_best(R1["mean"], "edges", "0"),
            sigmas=T4,
            scope=SE["E1b"],
        ),
        ledger.better(
            "with noise: SW2 of the patches over that of the diffusion head",
            at_best(R1["mean"], "sw2", "1"),
            at_best(R1["diffusion"], "sw2"),
            sigmas=T4,
            scope=SE["E1b"],
        ),
    ],
)

# %% [markdown]
# ### E2: why likelihood heads fail, and what repairs them
#
# A mixture head names its own deviations. Where the background is constant it names tiny ones, and the likelihood of those places drowns everything else. The post's "wonder of noise" can be had in one knob: train on patches with Gaussian noise. The plain alternative is a *floor*
# under the deviation. All arms: mixture of 8, one learning rate (untuned), each at its best $\tau$ of the same grid, which lets the arm trained on noise leave some of it away.

# %% tags=["hide-input"]
knobs = {"nothing": R2["noise 0"], "noise 0.25 in training": R2["noise 0.25"], "floor 0.2": R1["mixture"], "floor 0.4": R2["floor 0.4"]}
knob = lambda name, measure: at_best(knobs[name], measure)
knob_loss = lambda name: knobs[name]["loss"][0]
rows = [
    [
        name,
        tuned(knobs[name])[0],
        *["≈" + ledger.with_error(v, 2) for v in (*(knob(name, k) for k in ("fd", "accuracy", "sw2")), knob_loss(name))],
    ]
    for name in knobs
]
nb.results(
    "E2",
    f"Mixture head. Recorded: {REC['E2'].provenance}.",
    ["against sharp Gaussians", "τ", "FD", "accuracy", "SW2", "test NLL, nats per patch"],
    rows,
)

# %% tags=["hide-input"]
nb.experiment(
    "E2",
    "A mixture head without a floor has the best likelihood and unusable samples; noise in training repairs much of that, and so does a floor.",
    "partly",
    holds=[
        *[
            ledger.better(f"test NLL: {name} over nothing", knob_loss(name), knob_loss("nothing"), sigmas=T4, scope=SE["E2"])
            for name in list(knobs)[1:]
        ],
        *[
            ledger.better(f"FD: nothing over {name}", knob("nothing", "fd"), knob(name, "fd"), sigmas=T4, scope=SE["E2"])
            for name in list(knobs)[1:]
        ],
        *[
            ledger.better(f"accuracy: {name} over nothing", knob(name, "accuracy"), knob("nothing", "accuracy"), sigmas=T4, scope=SE["E2"])
            for name in list(knobs)[1:]
        ],
        ledger.more(
            "live, 25 steps: NLL of floor 0.4 over nothing",
            mean_of(e2["arms"]["floor 0.4"]["loss"][0]) - mean_of(e2["arms"]["noise 0"]["loss"][0]),
            0.3,
            machine=True,
            scope=LIVE,
        ),
    ],
    fails=[
        ledger.less(
            "single patches do not show it: SW2 of nothing and floor 0.4 differ by so many standard errors",
            apart_by(knob("nothing", "sw2"), knob("floor 0.4", "sw2")),
            T4,
            machine=True,
            scope=SE["E2"],
        ),
        ledger.less(
            "FD of noise 0.25 and floor 0.4 differ by so many standard errors: not resolved",
            apart_by(knob("noise 0.25 in training", "fd"), knob("floor 0.4", "fd")),
            T4,
            machine=True,
            scope=SE["E2"],
        ),
    ],
)
nb.claim(
    "C5",
    "Noising makes squared error a proper loss for the law of a patch.",
    "verified",
    holds=[
        ledger.less("total KL of 1024 steps with the best constant variances, over one jump (D6)", chain[-1, 1] / one_jump, 0.01),
        ledger.better(
            "digits: SW2 of the patches after one jump (mean + noise) over that after 25 small ones (diffusion head)",
            at_best(R1["mean"], "sw2", "1"),
            at_best(R1["diffusion"], "sw2"),
            sigmas=T4,
            scope=SE["E1b"],
        ),
    ],
)

# %% [markdown]
# The likelihood prefers the model whose digits are hardest to recognise. It is not the worst in everything: the law of its single patches is fine, the pictures are not. Between noise and floor nothing is resolved.
#
# ### E3: several noise levels for one $z$
#
# The Transformer's pass is the expensive part of a large model, its head is small; so MAR draws $K=4$ noise levels for every $z_k$. Same starts, same batches, same number of Transformer steps, same learning rate, $\tau=0.8$:

# %% tags=["hide-input"]
step_ratio = {K: e6["steps"][K] / e6["steps"]["1"] for K in ("2", "4", "8")}
levels_of = {"1": R3["K = 1"], "4": R1["diffusion"]}
by_K = {K: {m: arm["taus"]["0.8"][m][0] for m in ("fd", "accuracy")} | {"loss": arm["loss"][0]} for K, arm in levels_of.items()}
rows = [
    [f"K = {K}", *["≈" + ledger.with_error(v[m], 3) for m in ("fd", "accuracy", "loss")], f"≈{e6['steps'][K] / e6['steps']['1']:.2f}"]
    for K, v in by_K.items()
]
nb.results(
    "E3",
    f"Diffusion head, {REC['E3'].config['steps']} steps. Recorded: {REC['E3'].provenance}. Time of a step: live, width {SIZE['width']}, on this machine.",
    ["levels", "FD", "accuracy", "test loss", "time of a step over K = 1"],
    rows,
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels, FD and test loss of the diffusion head with one and with four noise levels for each output of the Transformer; each of three seeds is a line between two dots. In FD two lines fall and one rises; in test loss all fall, one of them hardly; the means fall in both."}}
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.1))
for axes, m, label in zip(panels, ("fd", "loss"), ("FD to test digits", "test loss"), strict=True):
    for i, pair in enumerate(zip(by_K["1"][m], by_K["4"][m], strict=True)):
        axes.plot([0, 1], pair, "o-", color=BLUE, lw=1.2, ms=5, label=None if i else "one seed")
    axes.plot([0, 1], [mean_of(by_K[K][m]) for K in ("1", "4")], "_--", color=ORANGE, ms=22, mew=2, label="mean")
    axes.set_xticks([0, 1], ["K = 1", "K = 4"])
    axes.set(xlim=(-0.4, 1.4), ylabel=label)
    axes.grid(axis="x", visible=False)
panels[0].legend(fontsize=8)
figure.suptitle("Four noise levels for one output: better on average, not resolved", x=0.01, ha="left", weight="bold", fontsize=11)
nb.show(figure)

# %% tags=["hide-input"]
gain = {m: [a - b for a, b in zip(by_K["1"][m], by_K["4"][m], strict=True)] for m in ("fd", "loss")}
paired = {m: mean_of(v) / (np.std(v, ddof=1) / math.sqrt(3)) for m, v in gain.items()}
nb.experiment(
    "E3",
    "At equal Transformer steps K = 4 beats K = 1.",
    "not reproduced",
    holds=[
        ledger.less(
            "live, K = 1, 25 steps: test loss over 1/2, that of v = 0 for patches of no variance",
            mean_of(e3["arms"]["K = 1"]["loss"][0]) / 0.5,
            1.5,
            machine=True,
            scope=LIVE,
        ),
        ledger.less("time of a step: K = 4 over K = 1", step_ratio["4"], 3, machine=True, scope="this machine, width 32"),
    ],
    fails=[
        ledger.less(f"gain in {what}, seed by seed, in standard errors: not resolved", paired[m], T2, machine=True, scope=SE["E3"])
        for m, what in (("fd", "FD"), ("loss", "test loss"))
    ],
)

# %% [markdown]
# On average $K=4$ is better in both measures, but three pairs do not resolve it; and our head is not small beside two layers of the same width, so that a step takes markedly longer. In MAR's proportions (exercise 2) the price would be 1.5.
#
# ### E4: which order?
#
# First exactly, for Gaussians: the covariance of the digits' 64 pixels (plus $0.01\,I$), and a stationary field with covariance $e^{-r/4}$ on $16\times16$. One geometric mean for all orders; the arithmetic mean is the squared error that a perfect linear model would reach.

# %%
pixels = data.digits8x8()[0].double().flatten(1) / 8 - 1
C_digits = torch.cov(pixels.T) + 0.01 * torch.eye(64, dtype=torch.float64)
sites = torch.tensor([(i, j) for i in range(16) for j in range(16)], dtype=torch.float64)
C_field = torch.exp(-(sites[:, None] - sites[None]).norm(dim=-1) / 4)
v_digits = {name: conditional_variances(C_digits, order) for name, order in scan_orders(8).items()}
v_field = {name: conditional_variances(C_field, order) for name, order in scan_orders(16).items()}
AM = {name: float(v.mean()) for name, v in v_digits.items()}
AM_field = {name: float(v.mean()) for name, v in v_field.items()}
GM = {name: float(v.log().mean().exp()) for name, v in v_digits.items()}
last_pixel = float(1 / torch.linalg.inv(C_digits)[63, 63])  # the variance of one pixel given all others

# %% [markdown]
# One random order proves nothing, so here are two thousand of them for the digits and two hundred for the field. And *why* does border first win on digits? The border is nearly constant; if that were all, its lead should vanish without the border. Three controls: the inner $6\times6$
# pixels only; only the pixels whose variance is at least 0.05; all pixels scaled to unit variance.


# %%
def random_means(C, count, seed=0):
    """Arithmetic mean of the conditional variances in ``count`` random orders: (count,)."""
    rng = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(C), generator=rng) for _ in range(count)])
    return torch.linalg.cholesky(C[orders[:, :, None], orders[:, None, :]]).diagonal(dim1=1, dim2=2).square().mean(1)


def by_order(C, side, keep=None):
    """Arithmetic mean for every scan order; with ``keep``, of those pixels alone, in the order in which the scan meets them."""
    orders = scan_orders(side).items()
    return {name: float(conditional_variances(C, [k for k in o if keep is None or k in keep]).mean()) for name, o in orders}


# %%
shuffled, shuffled_field = random_means(C_digits, 2000), random_means(C_field, 200)
inside = torch.tensor([i * 8 + j for i in range(1, 7) for j in range(1, 7)])
scale = C_digits.diagonal().sqrt()
lively = {k for k in range(64) if float(pixels[:, k].var()) >= 0.05}
controls = {
    "inner 6 × 6": by_order(C_digits[inside][:, inside], 6),
    f"{len(lively)} pixels of variance ≥ 0.05": by_order(C_digits, 8, lively),
    "unit variances": by_order(C_digits / scale[:, None] / scale, 8),
}
nb.results(
    "E4",
    f"Arithmetic means for pixels, exact. Random orders: digits {float(shuffled.mean()):.4f} ± {float(shuffled.std()):.4f} (2000, standard deviation), field {float(shuffled_field.mean()):.4f} ± {float(shuffled_field.std()):.4f} (200).",
    ["order", "digits", *controls, "field"],
    [[name, *[f"{means[name]:.4f}" for means in (AM, *controls.values(), AM_field)]] for name in AM],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four small maps of the 8 by 8 pixels of digits, coloured by the variance of a pixel given those before it, for the orders raster, border first, centre first and random, with the path drawn from a round dot to a square. Scan orders leave small variances almost everywhere; centre first and random start with large ones. The titles give the arithmetic means, 0.148, 0.143, 0.161 and 0.157."}}
figure, panels = plt.subplots(1, 4, figsize=(9.4, 2.7))
for axes, name in zip(panels, ("raster", "border first", "centre first", "random"), strict=True):
    order = scan_orders(8)[name]
    shown = np.zeros(64)
    shown[order] = v_digits[name].numpy()
    picture = axes.imshow(shown.reshape(8, 8), cmap="Blues", vmin=0, vmax=0.6)
    axes.plot([k % 8 for k in order], [k // 8 for k in order], color=ORANGE, lw=0.8, alpha=0.9)
    for k, marker in ((order[0], "o"), (order[-1], "s")):
        axes.plot(k % 8, k // 8, marker, color=ORANGE, ms=6, mec="black")
    axes.set_title(f"{name}: mean {AM[name]:.3f}", fontsize=9)
    axes.axis("off")
figure.colorbar(picture, ax=panels, label="Var(pixel | earlier)", shrink=0.8)
figure.suptitle(
    "The product of these variances is the same for every order, their mean is not (from ● to ■)",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# Line-by-line scans beat random, coarse-to-fine and checkerboard orders on both. The spirals depend on the data. On digits border first is best and centre first worse than most random orders; on the stationary field centre first is best, by very little, and border first worse than raster. The controls
# say what helps border first: its lead over the best line scan shrinks to nothing on the inner pixels, stays when only lively pixels are kept, and turns into a deficit at unit variances. So it is the variance that grows from the rim inwards, not the constant pixels alone. We believe that an order
# gains by predicting the loud pixels last, when most is known.
#
# For patches, and given the class as our models are, the same calculation predicts the squared error of a linear model of $2\times2$ patches. Does the order of the predictions survive in trained Transformers?


# %%
def patch_error(C, order, p=4):
    """Mean conditional variance of a coordinate when patches of p coordinates come in an order; C (np, np) holds patch after patch."""
    at = torch.tensor([p * k + i for k in order for i in range(p)])
    C, total = C[at][:, at], 0.0
    for k in range(len(order)):
        now, past = slice(p * k, p * (k + 1)), slice(0, p * k)
        total += float((C[now, now] - C[now, past] @ torch.linalg.solve(C[past, past], C[past, now])).trace())
    return total / len(C)


digits = data.pictures("digits8")
pieces = patchify(digits.train[:, 0, :, :, None], 4, 4).double()
rest = (pieces - torch.stack([pieces[digits.train_labels == c].mean(0) for c in range(10)])[digits.train_labels]).flatten(1)
C_patches = rest.T @ rest / len(rest) + torch.eye(64, dtype=torch.float64) / 768  # with the variance of the uniform filling
linear = {name: patch_error(C_patches, order) for name, order in scan_orders(4).items()}
one_by_one = float(conditional_variances(C_patches, range(64)).mean())
learned = {"raster": R1["mean"]["loss"][0]} | {name: R4[name]["loss"][0] for name in ORDERS}

# %% tags=["hide-input"]
rows = [[name, f"{linear[name]:.4f}", "≈" + ledger.with_error(learned[name], 4) if name in learned else ""] for name in AM]
nb.results(
    "E4",
    f"Squared error per number, 2 × 2 patches given the class, by order. Trained at one rate, recorded: {REC['E4'].provenance}.",
    ["order", "linear model, exact", "trained Transformer, test"],
    rows,
)

# %% tags=["hide-input"]
lead = lambda means: means["border first"] / min(v for k, v in means.items() if k != "border first")
inner, wide, unit = controls.values()
line = scan_orders(4)["zig-zag"]
filled_in = torch.cat([rest, math.sqrt(len(rest) / 768) * torch.eye(64, dtype=torch.float64)]).view(
    -1, 16, 4
)  # rows of second moment C_patches
left_over = 0.0
for k, place in enumerate(line):  # regressions on the pictures themselves
    now = filled_in[:, place]
    past = filled_in[:, line[:k]].flatten(1)
    left_over += float((now - past @ torch.linalg.lstsq(past, now).solution if k else now).square().sum())
regressed = left_over / len(rest) / 64
random_rng = torch.Generator().manual_seed(0)
for _ in range(2000):
    permuted = torch.randperm(64, generator=random_rng)
again = float(shuffled[-1]), float(conditional_variances(C_digits, permuted).mean())

# %% tags=["hide-input"]
nb.experiment(
    "E4",
    "Under a shared variance line scans beat random, coarse-to-fine and checkerboard orders; whether border or centre comes first helps or hurts by the data; trained Transformers agree that a random order is worse than raster.",
    "verified",
    holds=[
        ledger.close("digits, raster: arithmetic mean, by an independent calculation", AM["raster"], 0.14809, rel=1e-4, digits=5),
        ledger.close("field, raster: likewise", AM_field["raster"], 0.28083, rel=1e-4, digits=5),
        ledger.close("digits: geometric mean, likewise", GM["raster"], 0.08553, rel=1e-3),
        *[
            ledger.less(
                f"{where}: largest mean of the line scans over the smallest of random orders, coarse to fine, checkerboard",
                max(means[k] for k in ("raster", "boustrophedon", "zig-zag")),
                min(means["coarse to fine"], means["checkerboard"], float(random.min())),
            )
            for where, means, random in (("digits", AM, shuffled), ("field", AM_field, shuffled_field))
        ],
        ledger.close("the last of the random orders, against the mean for that order", *again, rel=1e-9),
        ledger.less("digits: border first over the best other order", lead(AM), 0.98),
        ledger.more("digits: share of random orders better than centre first", float((shuffled < AM["centre first"]).double().mean()), 0.9),
        ledger.more("field: border first over raster", AM_field["border first"] / AM_field["raster"], 1.01),
        ledger.close("inner 6 × 6: no lead of border first", lead(inner), 1, abs=0.01),
        ledger.less("lively pixels alone: it stays", lead(wide), 0.98),
        ledger.more("unit variances: it is gone", lead(unit), 1.01),
        ledger.close("patches of one pixel: patch_error against Cholesky", patch_error(C_patches, range(64), p=1), one_by_one, rel=1e-9),
        ledger.close("patch_error against regressions on the data, zig-zag", patch_error(C_patches, line), regressed, rel=1e-6),
        ledger.close(
            "variance added to a pixel, over that of uniform filling",
            float((C_patches - rest.T @ rest / len(rest)).diagonal().mean() / filled.double().var()),
            1,
            abs=0.02,
            machine=True,
        ),
        ledger.increasing("linear model, patches: border first, raster, random", [linear[k] for k in ("border first", "raster", "random")]),
        ledger.better("trained, test MSE: random over raster", learned["random"], learned["raster"], sigmas=T4, scope=SE["E4"]),
        ledger.less(
            "live, 25 steps: the larger test MSE over the variance of a pixel",
            max(mean_of(e4["arms"][name]["loss"][0]) for name in ORDERS) / float(pieces.var()),
            0.8,
            machine=True,
            scope=LIVE,
        ),
    ],
)
nb.claim(
    "C9",
    "All orders are equivalent for an unlimited model and not for a limited one: the sum of log variances is one number, the mean of the variances is not.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"{name}: geometric mean against det^(1/64)",
                GM[name],
                float(torch.linalg.slogdet(C_digits).logabsdet.div(64).exp()),
                rel=1e-9,
            )
            for name in ("raster", "random", "centre first")
        ],
        ledger.close("raster: the last variance is that given all other pixels", float(v_digits["raster"][-1]), last_pixel, rel=1e-9),
        ledger.more(
            "½ log(AM/GM): centre first over border first, nats per pixel", 0.5 * math.log(AM["centre first"] / AM["border first"]), 0.05
        ),
    ],
)

# %% [markdown]
# ### E5: what does quantization cost the reader?
#
# The post's reason against codes is understanding. So: quantize the digits by k-means, at several sizes of patch and codebook, and ask two things of the reconstruction. Which digit is it (a support vector machine, trained and tested on reconstructions)? And which grey level has each pixel
# (share of variance recovered)?


# %%
def understanding(side, codes, seed):
    """Accuracy of the class, and share of the pixels' variance, from pictures in side x side patches of k-means codes (0: as they are)."""
    train_x, test_x = (patchify(x[:, 0, :, :, None], side, side) for x in (digits.train, digits.test))
    seen = [train_x, test_x]
    if codes:
        codebook = kmeans(train_x.flatten(0, 1), codes, seed)
        seen = [codebook[nearest(x, codebook)] for x in seen]
    reader = SVC(C=10).fit(seen[0].flatten(1).numpy(), digits.train_labels.numpy())
    right = torch.from_numpy(reader.predict(seen[1].flatten(1).numpy())) == digits.test_labels
    lost = (seen[1] - test_x).square().sum() / (test_x - train_x.mean(0)).square().sum()
    return float(right.double().mean()), 1 - float(lost)


BOOKS = {4: (2, 4, 8, 32, 128, 512), 2: (8, 64, 512), 1: (64, 512)}  # tokens per side: sizes of the codebook
read = {(side, codes): [understanding(side, codes, seed) for seed in range(2)] for side, sizes in BOOKS.items() for codes in sizes}
bits = {key: key[0] ** 2 * math.log2(key[1]) for key in read}
accuracy = {key: mean_of([r[0] for r in runs]) for key, runs in read.items()}
recovered = {key: mean_of([r[1] for r in runs]) for key, runs in read.items()}
raw_accuracy = understanding(4, 0, 0)[0]
raw_bits = 64 * math.log2(17)
every = torch.cat([patchify(x[:, 0, :, :, None], 4, 4) for x in (digits.train, digits.test)])
codebook, index = every.flatten(0, 1).unique(dim=0, return_inverse=True)  # one code for every patch that occurs
lossless_bits = 16 * math.log2(len(codebook))
restored = unpatchify(codebook[index].view(every.shape), 4, 4, 8, 8, 1)[..., 0]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels against bits per image, for 16 tokens of 2 by 2 pixels, 4 tokens of 4 by 4, and one token for the whole digit. Left, accuracy of the class: the single token reaches 0.97 at 9 bits, four tokens 0.98 at 36 bits, sixteen tokens need 80 bits for the same. Right, recovered variance of the pixels: it rises with the bits on all three curves and reaches one only with a code for every patch that occurs, at 211 bits."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.4), sharex=True)
for (side, sizes), color, style in zip(BOOKS.items(), (BLUE, ORANGE, GREEN), ("-o", "--s", "-.^"), strict=True):
    at = [bits[side, c] for c in sizes]
    left.plot(at, [accuracy[side, c] for c in sizes], style, color=color, ms=4, label=f"{side * side} token{'s' if side > 1 else ''}")
    right.plot(at, [recovered[side, c] for c in sizes], style, color=color, ms=4)
for axes, value in ((left, raw_accuracy), (right, 1.0)):
    axes.axhline(value, color=GREY, lw=1, ls=":")
right.plot(lossless_bits, 1.0, "*", color=BLUE, ms=9)
right.annotate("a code for\nevery patch", (240, 0.78), fontsize=8, color=BLUE, ha="right")
left.annotate("raw pixels (262 bits)", (60, raw_accuracy + 0.006), fontsize=8, color=GREY)
left.set(xscale="log", xlabel="bits per image", ylabel="accuracy", title="which digit?")
right.set(xscale="log", xlabel="bits per image", ylabel="share of variance", title="which grey level?")
left.legend(fontsize=8)
figure.suptitle(
    "What a code must keep depends on the question: a class needs few bits, grey levels many",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
scope5 = "digits, k-means, 2 seeds"
nb.experiment(
    "E5",
    "The class of a digit can be read from few bits if the code is good, one token of 9 bits beats sixteen of 3; grey levels need many more, and sixteen tokens of 13.2 bits keep these pictures exactly.",
    "verified",
    holds=[
        ledger.more("16 tokens of 5 bits: accuracy", accuracy[4, 32], 0.96, machine=True, scope=scope5),
        ledger.less("16 tokens of 2 bits", accuracy[4, 4], 0.9, machine=True, scope=scope5),
        ledger.more("1 token of 9 bits over 16 tokens of 3", accuracy[1, 512] - accuracy[4, 8], 0.015, machine=True, scope=scope5),
        ledger.increasing("recovered variance, 16 tokens, 2 to 512 codes", [recovered[4, c] for c in BOOKS[4]], machine=True, scope=scope5),
        ledger.less("recovered variance at 144 bits", recovered[4, 512], 0.985, machine=True, scope=scope5),
        ledger.close("raw pixels: recovered", understanding(4, 0, 0)[1], 1, abs=1e-9),
        ledger.close(
            "codes for all patches: largest error of a pixel", largest(restored - torch.cat([digits.train, digits.test])[:, 0]), 0, abs=1e-9
        ),
        ledger.less("their bits over those of raw pixels", lossless_bits / raw_bits, 0.85),
        ledger.close("bits per token", lossless_bits / 16, 13.17, abs=0.05),
        ledger.close("16 tokens of 512 codes, bits: counted", bits[4, 512], len((511).__format__("b")) * 16, abs=1e-9),
    ],
)
nb.claim(
    "C4",
    "32 × 32 tokens out of 4096 are still 128 times short of the raw bytes of a 256 × 256 image; whether that hardly helps is a judgement, which arithmetic does not decide.",
    "verified",
    holds=[
        ledger.close(
            "bits of the array over bits of the indices",
            np.zeros((256, 256, 3), np.uint8).nbytes * 8 / sum((4096 - 1).bit_length() for _ in range(32 * 32)),
            names(*CASES["raw bytes"]) / names(*CASES["32 × 32 tokens"]),
            abs=1e-9,
        )
    ],
)

# %% [markdown]
# Two cautions. A class has 3.3 bits, and 512 codes for 1200 whole pictures are nearly a list of the training pictures, so that nine bits suffice says little. And raw pixels are themselves a code, of 17 levels: what is lost is lost by a *short* code, not by being discrete.
#
# ### E6: what the designs cost
#
# Time of a forward and backward pass of two layers at $n=16$ patches, $T=8$ levels, width $d=96$, and what multiplications alone predict: a token costs $12d^2$ per layer in its matrices, a pair $2d$ in attention, a call of the head about $15d^2$. Per layer, full attention costs about $nT\cdot d\,nT$, the matrices
# $nT\cdot12d^2$: *what decides is $nT$ against $12d$*.

# %% tags=["nbval-ignore-output", "hide-input"]
head_weights = lambda d: sum(v.numel() for v in Denoiser(nn.Init([0]), d, d, d).parameters())


def work(n, T, K, d):
    """Multiplications of two layers for an image of n patches at T levels in the three designs, and of the head alone."""
    tokens = {"full": n * T, "mask": n * T, "split": n}
    pairs = {"full": n * T * (n * T + 1) // 2, "mask": T * n * (n + 1) // 2, "split": n * (n + 1) // 2}
    head = n * K * head_weights(d)
    return {k: 2 * (12 * d**2 * tokens[k] + 2 * d * pairs[k]) + (head if k == "split" else 0) for k in pairs} | {"head": head}, pairs


d6, n6, T6, K6 = DESIGN["d"], DESIGN["n"], DESIGN["T"], DESIGN["K"]
(work6, pairs6), (all8, _) = work(n6, T6, K6, d6), work(n6, T6, T6, d6)
rows = [[k, pairs6[k], f"{work6[k] / 1e6:.1f}", f"≈{1000 * e6['seconds'][k]:.1f}"] for k in ("full", "mask", "split")]
rows.append(["split, K = 8", pairs6["split"], f"{all8['split'] / 1e6:.1f}", ""])
nb.results(
    "E6",
    f"n = {n6}, T = {T6}, K = {K6}, width {d6}, batch {DESIGN['batch']}, on this machine",
    ["design", "attention pairs", "10⁶ multiplications per image", "ms"],
    rows,
)
long6, pairs_long = work(256, 100, 4, 768)  # an image of 256 tokens at 100 levels
attention_share = 2 * 2 * 768 * pairs_long["full"] / long6["full"]

# %% tags=["hide-input"]
nb.experiment(
    "E6",
    "The mask saves attention pairs only: almost nothing where nT is far below 12d, a factor of 3.7 at n = 256, T = 100, d = 768. Taking the diffusion out of the Transformer saves its matrices too; with as many head calls as there were levels little of that is left for a head as wide as the Transformer.",
    "verified",
    holds=[
        ledger.close("pairs, full over mask", pairs6["full"] / int(noised_mask(n6, T6).sum()), (n6 * T6 + 1) / (n6 + 1), rel=1e-9),
        ledger.close("weights of a layer over d²", e6["layers"] / d6**2, 12, abs=1e-9),
        ledger.close("calls of the head per image", e6["head calls"], n6 * K6, abs=0.5),
        ledger.more(
            "time of the mask over full", e6["seconds"]["mask"] / e6["seconds"]["full"], 0.6, machine=True, scope="this machine, dense code"
        ),
        ledger.less("multiplications, full over mask", work6["full"] / work6["mask"], 1.15),
        ledger.close("n = 256, T = 100, d = 768: full over mask", long6["full"] / long6["mask"], 3.7, rel=0.01),
        ledger.close("attention's share of the full design there", attention_share, 0.74, abs=0.01),
        ledger.close("K = 4: head's share of the split design", work6["head"] / work6["split"], 0.71, abs=0.01),
        ledger.close("K = 4: mask over split", work6["mask"] / work6["split"], 2.29, abs=0.05),
        ledger.close("K = T = 8: mask over split", all8["mask"] / all8["split"], 1.35, abs=0.02),
        ledger.close("K = T = 8: full over split", all8["full"] / all8["split"], 1.48, abs=0.02),
    ],
)
nb.claim(
    "C7",
    "The noised sequence is T times longer, with a sparse mask; that leaves the Transformer's work on clean patches what it was.",
    "verified",
    holds=[
        sym.enumeration(
            "tokens over patches, and pairs per level",
            [(3, 3), (16, 8)],
            lambda c: (noised_mask(*c).shape[0] // c[0], int(noised_mask(*c).sum()) // c[1]),
            lambda c: (c[1], c[0] * (c[0] + 1) // 2),
        ),
        ledger.less(
            "clean tokens under the mask against a causal Transformer on clean patches: largest gap",
            e6["gap"],
            1e-4,
            digits=1,
            machine=True,
        ),
    ],
)
nb.claim(
    "C8",
    "Splitting the diffusion off is cheaper than noising the sequence, and four noise levels cost less than three times one (head as wide as the Transformer).",
    "verified",
    holds=[
        ledger.more("multiplications: noised sequence, masked, over split at K = T = 8", all8["mask"] / all8["split"], 1.2),
        ledger.less("time of a training step: K = 4 over K = 1", step_ratio["4"], 3, machine=True, scope="this machine, width 32"),
    ],
)

# %% [markdown]
# ## The paper's numbers beside ours
#
# MAR's experiments are ImageNet at 256 × 256 with 208 to 943 million parameters; ours are digits with a hundred thousand. What can be compared is the pattern. The first three rows are from the README of MAR's code, the ablation rows from table 1 of the paper (one token a step; with several, MAR's default, the diffusion head has 1.98 with guidance and 3.50 without);
# no verdict rests on them. Their FID is measured with a classifier of photographs, our FD with one of digits: across, only orders can be compared.

# %% tags=["hide-input"]
ours = lambda arm: "≈" + ledger.with_error(at_best(R1[arm], "fd"), 2)
nb.results(
    "C11",
    f"FID of MAR (ImageNet, 256 × 256; with guidance unless said otherwise) and our FD (digits, recorded: {REC['E1b'].provenance}; real pictures {mean_of(FLOOR['fd']):.2f})",
    ["model", "cross-entropy on codes", "diffusion head"],
    [
        ["MAR-B, 208M, IS 281.7", "", "2.31"],
        ["MAR-L, 479M, IS 296.0", "", "1.78"],
        ["MAR-H, 943M, IS 303.7", "", "1.55"],
        ["raster, causal", "4.92", "4.69"],
        ["random order, causal", "4.36", "4.07"],
        ["random order, bidirectional", "3.50", "1.84"],
        ["raster, causal, no guidance", "19.58", "19.23"],
        ["random order, bidirectional, no guidance", "8.75", "3.43"],
        ["ours, raster, causal, 4 × 4 tokens", ours("VQ 128"), ours("diffusion")],
    ],
)
nb.claim(
    "C11",
    "MAR's released models reach FID 1.55 to 2.31 with a residual MLP as head; head and order matter together.",
    "not checkable",
    reason="Needs ImageNet, a KL autoencoder and 32 H100 for a day or more; the FIDs are the authors' own, read in their README. The ablation is the paper's table 1.",
)
nb.claim(
    "C12",
    "DARL: squared error alone already learns strong representations; a denoising patch decoder adds generation.",
    "not checkable",
    reason="Would need a pre-training on ImageNet and linear probes; our digits are too easy to separate representations.",
)
nb.claim(
    "C10",
    "No listed order matches how people look; an image is a solution of Maxwell's equations; a world model is wanted; images need human values.",
    "not checkable",
    reason="Philosophy: no experiment on a data set would decide it.",
)

# %% [markdown]
# In that table causal raster order, our setting, is where the two heads are closest. The gap opens when the context becomes bidirectional and the order random, which is outside of this notebook.
#
# ## Beyond the post
#
# - **Two rates** (D6, X1). "Small steps are Gaussian" is true at rate $T^{-1}$ with one variance per level, which is what squared error stands for, and at $T^{-2}$ if the variance may depend on the state. With $\delta$ a chain of fewer than twenty steps is worse than one jump.
# - **A constant for double sampling** (D8): $\bar\beta_{t-1}^2\bar\beta_t^2/(\bar\alpha_{t-1}^2\beta_t^2)$, and C6 measures it as noise of the gradient.
# - **Squared error has a favourite order** (D10): AM/GM. It asks for many easy places, and pays for surprises at the rate of a square, not of a logarithm.
# - **When a mask pays** (E6): where $nT$ is not small beside $12d$.
# - **Around the post.** GIVT {cite}`tschannen2023givt` (mixtures of Gaussians) and VAR {cite}`tian2024var` (an order of scales in place of places) came before it. After it, Fluid {cite}`fan2024fluid` scales the split design and finds continuous tokens and random order best; Transfusion
#   {cite}`zhou2024transfusion` diffuses whole images inside a language model; randomised order also helps models of codes {cite}`yu2024rar`.
#
# ## What does not hold
#
# - **That codes are a poor way to draw** (E1). Here a codebook with cross-entropy is not worse than the diffusion head. This is a small case: digits nearly black and white, little training. MAR's table has the two nearly equal in the setting that we copy.
# - **That a short code cannot be read** (E5). The class survives; the grey levels survive only a long code. The case for lossless input is a case about questions not known in advance.
# - **That a sparse mask makes the long sequence efficient** (E6). It removes attention pairs; where $nT\ll12d$ most of the work is elsewhere.
# - **That likelihood cannot draw** (E2). A floor under the deviations repairs most of what noise repairs.
#
# **Limits of this notebook.** One data set of tiny pictures, three seeds, a short training at sizes for two CPU cores; E2 to E4 at one learning rate. MAR's numbers are ImageNet's; nothing here speaks of large models.
#
# ## Exercises
#
# 1. Let a patch take $M$ equally likely values far apart in one dimension, with variance $\nu$ between them and noise $s$. What does the best Gaussian cost?
# 2. MAR-B's head has 6 blocks of width 1024 on a $z$ of width 768 and patches of 16 numbers; the model has 208 million parameters. How much more does a training step with $K=4$ cost than with $K=1$, if every token passes through both parts once?
# 3. A stationary Markov sequence of 9 values has correlation $\rho$ between neighbours. Compare the arithmetic mean of the conditional variances for left-to-right and for "every fourth, then every second, then the rest".

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $\frac12\log\bigl(1+\nu/s^2\bigr)-\log M$: the Gaussian has variance $\nu+s^2$, the law has entropy $\log M$ plus that of the noise.
# ```

# %% tags=["hide-cell"]
values = np.array([-1.5, -0.5, 0.5, 1.5])
fine = np.linspace(-3, 3, 60001)
four_values = np.mean([np.exp(-((fine - v) ** 2) / (2 * 0.05**2)) / (0.05 * math.sqrt(2 * math.pi)) for v in values], axis=0)
gaussian4 = -(fine**2) / (2 * (1.25 + 0.05**2)) - 0.5 * math.log(2 * math.pi * (1.25 + 0.05**2))
kl4 = float(np.trapezoid(four_values * (np.log(np.maximum(four_values, 1e-300)) - gaussian4), fine))
nb.claim(
    "X5",
    "Exercise 1: M separate values cost ½ log(1 + ν/s²) − log M.",
    "verified",
    holds=[ledger.close("four values, s = 0.05", kl4, 0.5 * math.log(1 + values.var() / 0.05**2) - math.log(4), rel=1e-6, digits=7)],
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Count the weights of the head: a block has $w^2$ twice and $3w^2$ for its shift, scale and gate. About 36 million, a sixth of the model; a step with $K=4$ costs 1.5 times as much, not four times.
# ```

# %% tags=["hide-cell"]
width6, latent6, out6 = 1024, 768, 16
blocks6 = 6 * (5 * width6**2 + 7 * width6)  # with biases and the layer norm's gain and bias
rest6 = (
    (256 * width6 + width6**2 + 2 * width6)
    + (latent6 + 1) * width6
    + (out6 + 1) * width6
    + 2 * (width6**2 + width6)
    + 2 * out6 * (width6 + 1)
)
head6 = blocks6 + rest6
print(f"head: {head6 / 1e6:.1f}M of 208M; K = 4 over K = 1: {(208e6 + 3 * head6) / 208e6:.2f}")

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# Left to right: $1$ once and $1-\rho^2$ eight times. Coarse to fine: places 0, 4, 8 give $1$ and twice $1-\rho^8$; a place in the middle of two neighbours at distance $m$ has variance $(1-\rho^{2m})/(1+\rho^{2m})$, with $m=2$ twice and $m=1$ four times. At $\rho=0.9$ the means are
# 0.28 and 0.33: the long jumps cost more than the interpolations save, and with one shared variance the scan wins, as in E4.
# ```

# %% tags=["hide-cell"]
rho9 = 0.9
C_markov = torch.tensor([[rho9 ** abs(i - j) for j in range(9)] for i in range(9)], dtype=torch.float64)
scan9 = conditional_variances(C_markov, range(9))
fine9 = conditional_variances(C_markov, [0, 4, 8, 2, 6, 1, 3, 5, 7])
middle = lambda m: (1 - rho9 ** (2 * m)) / (1 + rho9 ** (2 * m))
nb.claim(
    "X6",
    "Exercise 3: for a Markov sequence the scan has the smaller arithmetic mean.",
    "verified",
    holds=[
        ledger.close("scan", float(scan9.mean()), (1 + 8 * (1 - rho9**2)) / 9, rel=1e-9),
        ledger.close("coarse to fine", float(fine9.mean()), (1 + 2 * (1 - rho9**8) + 2 * middle(2) + 4 * middle(1)) / 9, rel=1e-9),
        ledger.close("scan, as the solution says", float(scan9.mean()), 0.28, abs=0.005),
        ledger.close("coarse to fine, likewise", float(fine9.mean()), 0.33, abs=0.005),
    ],
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2024multimodal2`. MAR: {cite}`li2024mar`; DARL: {cite}`li2024darl`; TiTok: {cite}`yu2024titok`; GIVT: {cite}`tschannen2023givt`; VAR: {cite}`tian2024var`; Emu2: {cite}`sun2024emu2`. Quantized autoencoders: {cite}`oord2017vqvae`. Denoising diffusion: {cite}`ho2020ddpm`; adaptive layer norm: {cite}`peebles2023dit`.
