# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DDPM as Bayes' rule plus a denoiser: what the guess costs
#
# [生成扩散模型漫谈(三):DDPM = 贝叶斯 + 去噪](https://kexue.fm/archives/9164) · 2022-07-19 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/diffusion/ddpm-bayes.ipynb)
#
# **The point.** Bayes' rule turns the noising chain around once $x_0$ is known; DDPM puts a *guess* of $x_0$ in its place. This looks like an approximation twice
# over, and is not: for any data law the mean it gives is exact, and the covariance is too small by exactly $\gamma_t^2\operatorname{Cov}(x_0|x_t)$. The guess itself is
# poor for half of the chain (for digits at $t=1000$ a trained network's squared error is many times the variance of the data), and the sampler moves only a
# fraction $\rho_t$, about one per cent, of the way to it: literally the rule of the Lookahead optimizer. The two variances that the post derives for special
# data are the ends of an interval in which every data set lies.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import kexue_nb
from kexue_nb import diffusion, ledger, metrics
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, RED, tile

# %% tags=["hide-input"]
nb = kexue_nb.notebook("ddpm-bayes")
su, toy = diffusion.su_schedule(), diffusion.toy1d()


def reverse_kernel(t, x_t, schedule=su):
    """The exact p(x_{t-1} | x_t) of the toy data: weights (2,), means (2,) and the common variance of its two Gaussians."""
    a, b, A, B = (float(v) for v in (schedule.alpha[t], schedule.beta[t], schedule.bar_alpha[t - 1], schedule.bar_beta[t - 1]))
    prior = A**2 * toy.stds**2 + B**2  # variance of x_{t-1} in each component
    total = a**2 * prior + b**2
    center = A * toy.means[:, 0]
    weight = (toy.weights.log() - (x_t - a * center) ** 2 / (2 * total) - total.log() / 2).softmax(0)
    return weight, center + a * prior / total * (x_t - a * center), float((prior * b**2 / total)[0])


# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels with the exact density of x at t minus 1 given x at t, for a chain of 8 steps. Each compares it with Gaussians of the same mean and three widths. At t = 6 all agree. At t = 2, between the modes, the exact density has two humps, which no Gaussian follows. At t = 2, off the middle, it is skewed; the Gaussian with beta tilde is far too narrow there, too."}}
coarse, short = diffusion.exponential_schedule(8), diffusion.exponential_schedule(20)
figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.1))
for axes, (t, x) in zip(panels, ((6, 0.3), (2, 0.0), (2, 0.6)), strict=True):
    weight, means, variance = reverse_kernel(t, x, coarse)
    b, Bt, Bm, A = (float(v) for v in (coarse.beta[t], coarse.bar_beta[t], coarse.bar_beta[t - 1], coarse.bar_alpha[t - 1]))
    tilde, gamma = Bm * b / Bt, A * b**2 / Bt**2
    m = float(diffusion.mmse_1d(toy, coarse.sigma[t : t + 1])[0])
    center = float(weight @ means)
    grid = np.linspace(center - 4 * b, center + 4 * b, 400)
    normal = lambda g, mu, s: np.exp(-((g - mu) ** 2) / (2 * s * s)) / s / math.sqrt(2 * math.pi)
    exact = sum(float(w) * normal(grid, float(mu), math.sqrt(variance)) for w, mu in zip(weight, means, strict=True))
    axes.fill_between(grid, exact, color=GREY, alpha=0.4, lw=0)
    for s, name, color, style in ((tilde, "β̃", ORANGE, "--"), (b, "β", GREEN, ":"), (math.sqrt(tilde**2 + gamma**2 * m), "σ*", BLUE, "-")):
        axes.plot(grid, normal(grid, center, s), style, color=color, label=name)
    axes.set(title=f"t = {t} of 8, x_t = {x:g}", xlabel="x at t − 1", ylim=(0, None))
panels[0].legend(fontsize=9)
panels[0].set_ylabel("density (grey: exact)")
figure.suptitle("The mean is exact; the width is what the guess of x₀ gets wrong", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## The question
#
# The noising chain $p(x_t|x_{t-1})=\mathcal N(\alpha_tx_{t-1},\beta_t^2I)$ is given. To generate, one has to run it backwards, and Bayes' rule says how:
#
# $$p(x_{t-1}|x_t)=\frac{p(x_t|x_{t-1})\,p(x_{t-1})}{p(x_t)} .$$
#
# But the marginals $p(x_t)=\int p(x_t|x_0)\tilde p(x_0)\,dx_0$ contain the data law, which is what we are after. The post {cite}`su2022ddpmbayes`
# conditions everything on $x_0$, where Bayes' rule can be computed, and then replaces $x_0$ by a prediction; three lines later stands DDPM
# {cite}`ho2020ddpm`, loss and sampler. What does the replacement cost? On data whose posterior is known in closed form we can say it in numbers, and then look
# at a trained network.
#
# Notation as in {doc}`ddpm-vae <ddpm-vae>`: $\bar\alpha_t=\alpha_1\cdots\alpha_t$, $\bar\beta_t^2=1-\bar\alpha_t^2$, $\tilde\beta_t=\bar\beta_{t-1}\beta_t/\bar\beta_t$,
# $\gamma_t=\bar\alpha_{t-1}\beta_t^2/\bar\beta_t^2$, $m_t$ the mean over dimensions of $\operatorname{Var}(x_0|x_t)$, averaged over $x_t$. New here:
# $\bar\mu(x_t)$, the prediction of $x_0$; $\tilde\mu(x_t,x_0)$, the mean of $p(x_{t-1}|x_t,x_0)$; $\rho_t=\beta_t^2/\bar\beta_t^2$. From here on $\epsilon_\theta$
# predicts the *accumulated* noise $\varepsilon$ in $x_t=\bar\alpha_tx_0+\bar\beta_t\varepsilon$.
#
# ## Bayes' rule with $x_0$ known
#
# Two facts about the chain are needed: its marginal given $x_0$, and that $x_t$ depends on $x_{t-1}$ alone. Then
#
# $$p(x_{t-1}|x_t,x_0)=\frac{p(x_t|x_{t-1})\,p(x_{t-1}|x_0)}{p(x_t|x_0)},$$
#
# and all three factors are Gaussians that we know.

# %%
a, A, v, m = sp.symbols("alpha_t alphabar v m", positive=True)  # A is ᾱ_{t−1}
b2, B2, Bt2 = 1 - a**2, 1 - A**2, 1 - a**2 * A**2  # β_t², β̄²_{t−1}, β̄_t²
xt, x, x0, e, net, noise = sp.symbols("x_t x x_0 eps eps_theta z", real=True)


def log_normal(y, mean, variance):
    return -((y - mean) ** 2) / (2 * variance) - sp.log(2 * sp.pi * variance) / 2


def quadratic(y, mean, variance):
    return (y - mean) ** 2 / variance


at = {a: sp.Rational(9, 10), A: sp.Rational(3, 5), x0: sp.Rational(7, 10), xt: sp.Rational(2, 5)}
joint = sp.exp(log_normal(xt, a * x, b2) + log_normal(x, A * x0, B2)).subs(at)
by_integral = float(sp.Integral(joint, (x, -sp.oo, sp.oo)).evalf())

# %%
nb.derivation(
    "D1",
    "Given x_0 the marginal is N(ᾱ_t x_0, β̄_t²): one more step keeps the form.",
    sym.identity("variance after the step", a**2 * B2 + b2, Bt2),
    ledger.close(
        "the step as an integral, at one point",
        by_integral,
        float(sp.exp(log_normal(xt, a * A * x0, Bt2)).subs(at)),
        rel=1e-12,
        method="numeric, 12 digits",
    ),
)


# %%
def bayes_mean(t, x_t, mixture, points=20001):
    """E[x_{t-1} | x_t] from the marginal p(x_{t-1}) by quadrature: Bayes' rule without x_0."""
    y = torch.linspace(-6, 6, points, dtype=torch.float64)
    marginal = mixture.log_density(y[:, None] / su.bar_alpha[t - 1], su.sigma[t - 1])
    weight = (marginal - (x_t - su.alpha[t] * y) ** 2 / (2 * su.beta[t] ** 2)).softmax(0)
    return float(weight @ y), float(weight @ y**2 - (weight @ y) ** 2)


single = lambda mean, std: diffusion.GaussianMixture(*(torch.tensor(z, dtype=torch.float64) for z in ([[mean]], [std], [1.0])))
at_100 = {
    name: bayes_mean(100, 0.5, law)[0] for name, law in {"toy": toy, "N(0, 1)": single(0.0, 1.0), "a point at 0": single(0.0, 0.0)}.items()
}

# %%
nb.derivation(
    "D2",
    "Without x_0 Bayes' rule needs the data law: one chain, three data laws, three reverse means. With x_0 it does not.",
    ledger.more("reverse mean at t = 100, x_t = 0.5: toy over N(0, 1)", at_100["toy"] - at_100["N(0, 1)"], 0.004),
    ledger.more("N(0, 1) over a point at 0", at_100["N(0, 1)"] - at_100["a point at 0"], 0.004),
    sym.identity(
        "with x_0: the precision of x_{t−1} depends on the schedule alone",
        sp.diff(log_normal(xt, a * x, b2) + log_normal(x, A * x0, B2) - log_normal(xt, a * A * x0, Bt2), x, 2),
        -Bt2 / (B2 * b2),
    ),
)

# %% [markdown]
# Completing the square in $x_{t-1}$ is all the work there is. The coefficient of $\Vert x_{t-1}\Vert^2$ is
# $\frac{\alpha_t^2}{\beta_t^2}+\frac1{\bar\beta_{t-1}^2}=\frac{\bar\beta_t^2}{\bar\beta_{t-1}^2\beta_t^2}$, the linear term
# $-2\bigl(\frac{\alpha_t}{\beta_t^2}x_t+\frac{\bar\alpha_{t-1}}{\bar\beta_{t-1}^2}x_0\bigr)$, so
#
# $$p(x_{t-1}|x_t,x_0)=\mathcal N\bigl(\tilde\mu(x_t,x_0),\,\tilde\beta_t^2I\bigr),$$
#
# $$\tilde\mu=\frac{\alpha_t\bar\beta_{t-1}^2}{\bar\beta_t^2}x_t+\frac{\bar\alpha_{t-1}\beta_t^2}{\bar\beta_t^2}x_0 .$$

# %%
on_xt, on_x0, tilde2 = a * B2 / Bt2, A * b2 / Bt2, B2 * b2 / Bt2
mu_tilde = on_xt * xt + on_x0 * x0
exponent = -2 * (log_normal(xt, a * x, b2) + log_normal(x, A * x0, B2) - log_normal(xt, a * A * x0, Bt2))

# %%
nb.derivation(
    "D3",
    "p(x_{t−1}|x_t, x_0) is N(μ̃, β̃²).",
    sym.identity("coefficient of x²", sp.diff(exponent, x, 2) / 2, Bt2 / (B2 * b2)),
    sym.identity("linear term", sp.diff(exponent, x).subs(x, 0), -2 * (a / b2 * xt + A / B2 * x0)),
    sym.identity(
        "the quadratic form, term by term",
        quadratic(xt, a * x, b2) + quadratic(x, A * x0, B2) - quadratic(xt, a * A * x0, Bt2),
        quadratic(x, mu_tilde, tilde2),
    ),
    ledger.close(
        "the whole density at a point, constants and all",
        float(sp.exp(-exponent / 2).subs(at | {x: 0.5})),
        float(sp.exp(log_normal(x, mu_tilde, tilde2)).subs(at | {x: 0.5})),
        rel=1e-12,
        method="numeric, 12 digits",
    ),
)

# %%
nb.claim(
    "C1",
    "Bayes' rule with x_0 gives the mean μ̃ and the variance β̃².",
    "verified",
    holds=[
        sym.solves("the mean is where the derivative vanishes", sp.Eq(sp.diff(exponent, x), 0), x, mu_tilde),
        ledger.close(
            "the helper's β̃ at t = 300, in the posts' units",
            float((diffusion.posterior_std(su.nodes()) / (1 + su.nodes()[1:] ** 2).sqrt())[700]),
            math.sqrt(float(tilde2.subs({a: float(su.alpha[300]), A: float(su.bar_alpha[299])}))),
            rel=1e-8,
        ),
    ],
)

# %% [markdown]
# ## A denoiser takes the place of $x_0$
#
# $x_0$ is what we do not have when we generate. So train a denoiser $\bar\mu(x_t)$ with $\Vert x_0-\bar\mu(x_t)\Vert^2$, and use
# $p(x_{t-1}|x_t)\approx p(x_{t-1}|x_t,x_0=\bar\mu(x_t))$. Written through the noise, $\bar\mu(x_t)=\frac1{\bar\alpha_t}(x_t-\bar\beta_t\epsilon_\theta(x_t,t))$,
# the loss is
#
# $$\Vert x_0-\bar\mu(x_t)\Vert^2=\frac{\bar\beta_t^2}{\bar\alpha_t^2}\Vert\varepsilon-\epsilon_\theta(\bar\alpha_tx_0+\bar\beta_t\varepsilon,\,t)\Vert^2 ,$$
#
# DDPM's loss up to the weight; and since $\frac{\alpha_t\bar\beta_{t-1}^2}{\bar\beta_t^2}+\frac{\bar\alpha_{t-1}\beta_t^2}{\bar\alpha_t\bar\beta_t^2}=\frac1{\alpha_t}$, the sampler is DDPM's:
#
# $$x_{t-1}=\frac1{\alpha_t}\Bigl(x_t-\frac{\beta_t^2}{\bar\beta_t}\epsilon_\theta(x_t,t)\Bigr)+\tilde\beta_t\,z,\qquad z\sim\mathcal N(0,I).$$

# %%
Bt = sp.sqrt(Bt2)
guess = (xt - Bt * net) / (a * A)

# %%
nb.derivation(
    "D4",
    "Through the noise, the denoiser's loss is β̄²/ᾱ² times DDPM's.",
    sym.identity("squared error of the guess", (x0 - guess.subs(xt, a * A * x0 + Bt * e)) ** 2, Bt2 / (a * A) ** 2 * (e - net) ** 2),
)

# %%
sampler_mean = (xt - b2 / Bt * net) / a

# %%
nb.derivation(
    "D5",
    "The guess in μ̃ gives DDPM's sampling step.",
    sym.identity("the two coefficients of x_t", on_xt + on_x0 / (a * A), 1 / a),
    sym.identity("μ̃(x_t, μ̄)", mu_tilde.subs(x0, guess), sampler_mean),
)

# %%
draw = torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
one = torch.tensor([float(su.sigma[300]), float(su.sigma[299])], dtype=torch.float64)
stepped = diffusion.to_vp(diffusion.endpoint(diffusion.ddpm(toy.eps, one, diffusion.from_vp(draw, one[0]), torch.zeros(1), None)), one[1])
by_hand = (draw - su.beta[300] ** 2 / su.bar_beta[300] * toy.eps(diffusion.from_vp(draw, one[0]), one[0])) / su.alpha[300]

# %%
nb.claim(
    "C2",
    "The sampling step derived this way is DDPM's.",
    "verified",
    holds=[
        sym.identity("coefficient of the noise prediction", sp.diff(mu_tilde.subs(x0, guess), net), -b2 / (a * Bt)),
        ledger.less("the helper's ddpm step at t = 300 against this formula", float((stepped - by_hand).abs().max()), 1e-9, digits=2),
    ],
)

# %%
one_step_net = sp.sqrt(b2) / Bt * net  # what post 2 calls eps_theta

# %%
nb.claim(
    "C4",
    "This sampler, that of post 2 (ddpm-vae) and that of the paper are the same map.",
    "verified",
    holds=[sym.identity("post 2's mean with ε_θ rescaled by β/β̄", (xt - sp.sqrt(b2) * one_step_net) / a, mu_tilde.subs(x0, guess))],
)

# %% [markdown]
# ### The weight that is dropped
#
# $\bar\beta_t^2/\bar\alpha_t^2$, the squared noise level $\sigma_t^2$ of the sibling notebooks' code, spans nine decades. Dropping it is not cosmetic:
# {doc}`ddpm-vae <ddpm-vae>` (E3) trains with and without it. And the denoiser's loss and the divergence of post 2 differ by more than a constant: the ratio of their weights,
# $\bar\beta_t^2\bar\beta_{t-1}^2/(\bar\alpha_{t-1}^2\beta_t^2)$, depends on $t$. For an unlimited network all weights give the same minimiser.

# %%
TABLE = {  # t: β̄²/ᾱ², coefficient of x_t, of x_0, ρ
    1: (2.00004e-5, 0, 1, 1),
    2: (6.00028e-5, 0.333331, 0.666669, 0.666676),
    10: (1.10068e-3, 0.818176, 0.181824, 0.181905),
    100: (0.106352, 0.980175, 0.0198001, 0.0208056),
    300: (1.47147, 0.992906, 0.00642960, 0.0100775),
    500: (11.3468, 0.994102, 0.00311233, 0.0108813),
    700: (137.390, 0.992873, 0.00120722, 0.0141019),
    1000: (23799, 0.989949, 1.30962e-4, 0.0200008),
}
numeric = {k: sp.lambdify((a, A), f) for k, f in {"weight": Bt2 / (a * A) ** 2, "x_t": on_xt, "x_0": on_x0, "rho": b2 / Bt2}.items()}
row = lambda t: [float(f(float(su.alpha[t]), float(su.bar_alpha[t - 1]))) for f in numeric.values()]
near = lambda name, column, ts, rel=2e-5: [
    ledger.close(f"{name}, t = {t}", row(t)[column], TABLE[t][column], rel=rel, digits=6) for t in ts
]

# %%
nb.claim(
    "C5",
    "The dropped weight spans nine decades.",
    "verified",
    holds=[*near("weight", 0, TABLE), ledger.more("decades from t = 1 to 1000", math.log10(row(1000)[0] / row(1)[0]), 9)],
)
nb.claim(
    "C6",
    "The coefficients of μ̃: near 1 on x_t, small on x_0, except in the last ten steps.",
    "verified",
    holds=[*near("on x_t", 1, (2, 10, 100, 300, 500, 700, 1000)), *near("on x_0", 2, TABLE)],
)

# %%
star_weight = (b2 / (a * Bt)) ** 2 / tilde2  # post 2's weight with σ = β̃

# %%
nb.claim(
    "C15",
    "The denoiser is reached directly here; its loss is that of post 2 up to a weight that depends on t.",
    "verified",
    holds=[
        sym.identity("ratio of the two weights", Bt2 / (a * A) ** 2 / star_weight, Bt2 * (1 / A**2 - 1) / b2),
        ledger.more(
            "the ratio at t = 1000 over that at t = 100",
            math.exp(
                2 * sum(s * math.log(float(su.bar_beta[t]) * float(su.sigma[t - 1]) / float(su.beta[t])) for t, s in ((1000, 1), (100, -1)))
            ),
            1e5,
            digits=2,
        ),
    ],
)

# %% [markdown]
# ## Where Bayes' rule needs no guess
#
# For two data laws the marginals are known and Bayes' rule applies without $x_0$. If all data is one point $x_*$, knowing $x_t$ adds nothing about $x_0$:
# $p(x_{t-1}|x_t)=p(x_{t-1}|x_t,x_*)$, with variance $\tilde\beta_t^2$ (the post takes $x_*=0$; another point moves the mean by $\gamma_tx_*$). If the data is
# $\mathcal N(0,I)$, every $x_t$ is, and
#
# $$p(x_{t-1}|x_t)=\mathcal N(\alpha_tx_t,\beta_t^2I).$$

# %%
reverse_normal = -2 * (log_normal(xt, a * x, b2) + log_normal(x, 0, sp.Integer(1)) - log_normal(xt, 0, sp.Integer(1)))
star = sp.Symbol("x_star", real=True)

# %%
nb.derivation(
    "D6",
    "A single data point x_*: variance β̃², mean μ̃(x_t, x_*), which for x_* ≠ 0 is shifted by γ x_*.",
    sym.identity(
        "unconditional Bayes with p(x_t) = p(x_t|x_*)",
        sp.diff(exponent.subs(x0, star), x),
        sp.diff(quadratic(x, on_xt * xt + on_x0 * star, tilde2), x),
    ),
    ledger.close(
        "shift of the mean between points at 0.3 and at 0, t = 100, by quadrature",
        bayes_mean(100, 0.5, single(0.3, 0.0))[0] - at_100["a point at 0"],
        0.3 * float(su.bar_alpha[99] * su.beta[100] ** 2 / su.bar_beta[100] ** 2),
        rel=1e-6,
    ),
)
nb.derivation(
    "D7",
    "Standard normal data: N(α x_t, β²).",
    sym.identity("unconditional Bayes with p(x_t) = N(0, 1)", reverse_normal, -2 * log_normal(x, a * xt, b2)),
)

# %%
kernels = {name: bayes_mean(100, 0.5, law) for name, law in {"point": single(0.3, 0.0), "normal": single(0.0, 1.0)}.items()}

# %%
nb.claim(
    "C3",
    "A point mass needs β̃_t, standard normal data β_t.",
    "verified",
    holds=[
        ledger.close(
            "point at 0.3, t = 100, by quadrature: variance",
            kernels["point"][1],
            float((su.bar_beta[99] * su.beta[100] / su.bar_beta[100]) ** 2),
            rel=1e-6,
        ),
        ledger.close("its mean at x_t = 0.5", kernels["point"][0], row(100)[1] * 0.5 + row(100)[2] * 0.3, rel=1e-6),
        ledger.close("normal data: variance", kernels["normal"][1], float(su.beta[100] ** 2), rel=1e-6),
        ledger.close("its mean", kernels["normal"][0], 0.5 * float(su.alpha[100]), rel=1e-6),
    ],
)

# %% [markdown]
# ## What the guess costs
#
# $\tilde\mu$ is linear in $x_0$, and the covariance of $p(x_{t-1}|x_t,x_0)$ does not depend on $x_0$. So the laws of total expectation and total
# covariance give, for *any* data law,
#
# $$\mathbb E[x_{t-1}|x_t]=\tilde\mu\bigl(x_t,\mathbb E[x_0|x_t]\bigr),$$
#
# $$\operatorname{Cov}(x_{t-1}|x_t)=\tilde\beta_t^2I+\gamma_t^2\operatorname{Cov}(x_0|x_t).$$
#
# A perfect denoiser makes DDPM's mean exact; only the width is wrong, and by a known amount. The best single number for the variance is
# $\sigma_t^{*2}=\tilde\beta_t^2+\gamma_t^2m_t$ {cite}`bao2022analytic`. D6 and D7 are the cases $m_t=0$ and $m_t=\bar\beta_t^2$. And since
#
# $$\beta_t^2-\sigma_t^{*2}=\gamma_t^2(\bar\beta_t^2-m_t),$$
#
# the two variances of the post are *bounds* whenever the data has second moment at most 1 about its mean.

# %%
gamma = A * b2 / Bt2
m_gauss = 1 / (1 / v + (a * A) ** 2 / Bt2)  # Var(x_0 | x_t), data N(0, v)
by_precision = 1 / (a**2 / b2 + 1 / (A**2 * v + B2))  # Var(x_{t-1} | x_t) from its own marginal

# %%
nb.derivation(
    "D8",
    "With the posterior mean as the guess, DDPM's mean is exact; the covariance lacks γ² Cov(x_0|x_t).",
    sym.identity("Gaussian data: total variance is the variance by Bayes", tilde2 + gamma**2 * m_gauss, by_precision),
    sym.identity("Gaussian data: the mean", mu_tilde.subs(x0, m_gauss * a * A / Bt2 * xt), by_precision * a / b2 * xt),
    sym.identity("the gap to β²", b2 - (tilde2 + gamma**2 * m), gamma**2 * (Bt2 - m)),
)

# %%
grid = [(t, z) for t in (2, 20, 100, 300, 700) for z in (-1.2, -0.3, 0.0, 0.5, 1.0)]


def defects(t, z):
    """Quadrature of Bayes' rule minus D8's mean and variance, toy data."""
    state = torch.tensor([[z / float(su.bar_alpha[t])]], dtype=torch.float64)
    guess, variance = float(toy.denoise(state, su.sigma[t])), float(toy.posterior_variance(state, su.sigma[t]))
    _, on_x, on_0, _ = row(t)
    mean, second = bayes_mean(t, z, toy)
    tilde_sq = float(su.bar_beta[t - 1] * su.beta[t] / su.bar_beta[t]) ** 2
    return mean - (on_x * z + on_0 * guess), second - (tilde_sq + on_0**2 * variance)


worst = np.abs([defects(t, z) for t, z in grid]).max(0)

# %%
nb.claim(
    "C16",
    "On the toy data the mean is exact and the variance defect is γ² Var(x_0|x_t).",
    "verified",
    holds=[
        ledger.less("largest error of the mean, 25 points (t, x_t)", worst[0], 1e-10, digits=2, method="numeric, quadrature"),
        ledger.less("largest error of the variance", worst[1], 1e-10, digits=2, method="numeric, quadrature"),
        ledger.more(
            "for scale: the defect itself at t = 300, x_t = 0, over β̃²",
            (row(300)[2] ** 2 * float(toy.posterior_variance(torch.zeros(1, 1, dtype=torch.float64), su.sigma[300])))
            / float(su.bar_beta[299] * su.beta[300] / su.bar_beta[300]) ** 2,
            0.003,
            digits=2,
        ),
    ],
)

# %%
m_toy = diffusion.mmse_1d(toy, su.sigma[1:])
tilde_t = su.bar_beta[:-1] * su.beta[1:] / su.bar_beta[1:]
star_t = tilde_t**2 + (su.bar_alpha[:-1] * su.beta[1:] ** 2 / su.bar_beta[1:] ** 2) ** 2 * m_toy
wide = single(0.0, 1.5)

# %%
nb.claim(
    "C10",
    "β̃² <= σ*² always; σ*² <= β² if and only if m_t <= β̄_t², as for data of variance at most 1.",
    "verified",
    holds=[
        ledger.more("smallest σ*² − β̃² over t >= 2, toy", float((star_t - tilde_t**2)[1:].min()), 0, digits=2),
        ledger.more("smallest β² − σ*², toy", float((su.beta[1:] ** 2 - star_t).min()), 0, digits=2),
        ledger.less(
            "β² − σ*² at t = 20 for data N(0, 1.5²), over β²", 1 - bayes_mean(20, 0.5, wide)[1] / float(su.beta[20]) ** 2, 0, digits=2
        ),
    ],
)

# %%
SIX = {
    1: (0.99952, 0),
    2: (0.99904, 0.33334),
    5: (0.99762, 0.66670),
    10: (0.99534, 0.81826),
    20: (0.99134, 0.90494),
    50: (0.98583, 0.96126),
    100: (0.99051, 0.98116),
    200: (0.99806, 0.99190),
    300: (0.99905, 0.99590),
    500: (0.99973, 0.99911),
}

# %%
nb.claim(
    "C11",
    "For smooth data β is nearly right and β̃ badly wrong in the last fifty steps.",
    "verified",
    holds=[ledger.close(f"σ*²/β², t = {t}", float(star_t[t - 1] / su.beta[t] ** 2), w[0], abs=1e-4, digits=5) for t, w in SIX.items()]
    + [
        ledger.close(f"β̃²/β², t = {t}", float(tilde_t[t - 1] ** 2 / su.beta[t] ** 2), w[1], abs=1e-4, digits=5)
        for t, w in SIX.items()
        if t > 1
    ],
)

# %% [markdown]
# No single number is right at every $x_t$, even in one dimension: between the modes, where the next step decides between them, the reverse kernel is *wider* than
# $\beta_t$.

# %%
spread = {(t, z): bayes_mean(t, z * float(su.bar_alpha[t]), toy)[1] / float(su.beta[t]) ** 2 for t in (20, 50) for z in (0.0, 0.8, 1.5)}
nb.claim(
    "C13",
    "No scalar variance is exact: on the toy Var(x_{t−1}|x_t)/β² at t = 50 runs from 0.985 to 1.137.",
    "verified",
    holds=[
        ledger.close("t = 50, x_t = 0", spread[50, 0.0], 1.1370, abs=2e-4),
        ledger.close("t = 50, far from the middle", spread[50, 1.5], 0.9854, abs=2e-4),
        ledger.close("t = 20, x_t = 0", spread[20, 0.0], 1.1229, abs=2e-4),
        ledger.close("t = 20, far from the middle", spread[20, 1.5], 0.9913, abs=2e-4),
    ],
)

# %% [markdown]
# ## A corrector with a small step
#
# The post reads the sampler as predictor and corrector: predict far ahead, move a little. In the rescaled state $y_t=x_t/\bar\alpha_t$ this is exact,
#
# $$\mathbb E\,y_{t-1}=(1-\rho_t)\,y_t+\rho_t\,\bar\mu(x_t),\qquad\rho_t=\frac{\beta_t^2}{\bar\beta_t^2},$$
#
# which is the slow-weight rule of Lookahead {cite}`zhang2019lookahead`, to which the post compares it: slow weights move by a fraction of the way to where the fast ones have
# run ahead. The fraction is smallest in the middle of the chain. For $\bar\alpha_t=e^{-5t^2/T^2}$ and large $T$, with $u=10t^2/T^2$,
# $\rho\propto\sqrt u/(1-e^{-u})$, least where $e^u=1+2u$: at $t=0.354\,T$.

# %%
u = sp.Symbol("u", positive=True)
rho_shape = sp.sqrt(u) / (1 - sp.exp(-u))
optimum = float(sp.nsolve(sp.exp(u) - 1 - 2 * u, u, 1.2))
rho = (su.beta[1:] / su.bar_beta[1:]) ** 2

# %%
nb.derivation(
    "D9",
    "In y = x/ᾱ the mean step is Lookahead's rule with step size ρ = β²/β̄², least at t = 0.354 T.",
    sym.identity("weight of y_t", on_xt * (a * A) / A, 1 - b2 / Bt2),
    sym.identity("the two weights add up to one, as in an average", on_xt * (a * A) / A + on_x0 / A, 1),
    sym.identity(
        "ρ is stationary where e^u = 1 + 2u",
        sp.diff(rho_shape, u),
        (sp.exp(u) - 1 - 2 * u) * sp.exp(-u) / (2 * sp.sqrt(u) * (1 - sp.exp(-u)) ** 2),
    ),
    ledger.close("its place t/T", math.sqrt(optimum / 10), 0.35446, abs=1e-5, digits=5),
)
nb.claim(
    "C7",
    "The corrector takes small steps: ρ is about 1% in the middle; but 1, 2/3, 0.18 at t = 1, 2, 10.",
    "verified",
    holds=[
        *near("ρ", 3, TABLE),
        ledger.close("smallest ρ", float(rho.min()), 0.00988474, rel=1e-5, digits=6),
        ledger.close("at t", 1 + int(rho.argmin()), 353, abs=0.5),
        ledger.close("theory for the closed form, over T", optimum**0.5 / 10**0.5 * 1000, 354.5, abs=0.1),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The step size rho against t, both axes logarithmic: a straight fall from 1 at t = 1 to a flat minimum of 0.0099 at t = 353, then a slight rise to 0.02 at t = 1000."}}
figure, axes = plt.subplots(figsize=(6.6, 3.2))
axes.plot(np.arange(1, 1001), rho, color=BLUE)
axes.plot([353], [float(rho.min())], "o", color=ORANGE, mec=BLACK)
axes.annotate("0.0099 at t = 353", (353, float(rho.min())), xytext=(0, 14), textcoords="offset points", ha="center", fontsize=9)
axes.set(xscale="log", yscale="log", xlabel="step t", ylabel="ρ, share of the way to the guess")
axes.set_title("The corrector trusts its predictor by one per cent in the middle")
nb.show(figure)

# %% [markdown]
# ## Experiments
#
# ### E1. The kernel itself
#
# How far is the exact reverse kernel from a Gaussian, on average over $x_t$? With the best variance the divergence of step $t$ is
# $\frac12\log2\pi e\sigma_t^{*2}-h(x_{t-1}|x_t)$, and the conditional entropy follows from three one-dimensional ones.


# %%
def marginal_entropy(schedule, t, points=4001):
    """h(x_t) of the toy data, in nats."""
    A, s = float(schedule.bar_alpha[t]), float(schedule.sigma[t])
    z = torch.linspace(-14, 14, points * 4, dtype=torch.float64)[:, None] * max(s, 0.3)
    log_p = toy.log_density(z, s)
    return float(-torch.trapezoid(log_p.exp() * log_p, z[:, 0])) + math.log(A)


def kernel_divergences(T):
    """Mean KL(exact kernel || Gaussian) of each step for σ*, β and β̃ (σ* at t = 1): three arrays (T,)."""
    s = diffusion.exponential_schedule(T)
    h = np.array([marginal_entropy(s, t) for t in range(T + 1)])
    inner = h[:-1] - h[1:] + 0.5 * np.log(2 * math.pi * math.e * s.beta[1:].numpy() ** 2)
    tilde_sq = (s.bar_beta[:-1] * s.beta[1:] / s.bar_beta[1:]).numpy() ** 2
    gamma_t = (s.bar_alpha[:-1] * s.beta[1:] ** 2 / s.bar_beta[1:] ** 2).numpy()
    star_sq = tilde_sq + gamma_t**2 * diffusion.mmse_1d(toy, s.sigma[1:]).numpy()
    cost = lambda q: 0.5 * np.log(2 * math.pi * q) + star_sq / (2 * q) - inner
    with np.errstate(divide="ignore", invalid="ignore"):
        return cost(star_sq), cost(s.beta[1:].numpy() ** 2), np.where(tilde_sq > 0, cost(np.maximum(tilde_sq, 1e-300)), cost(star_sq))


kl = {T: kernel_divergences(T) for T in (20, 100)}


# %%
def kernel_kl_directly(t, schedule, points=801):
    """The same for one step from the exact two-component kernel, by quadrature over x_t and x_{t-1}."""
    total = 0.0
    zs = torch.linspace(-3.5, 3.5, points, dtype=torch.float64)
    p_now = toy.log_density(zs[:, None] / schedule.bar_alpha[t], schedule.sigma[t]).exp() / schedule.bar_alpha[t]
    star = kl_variance(schedule, t)
    for z, p in zip(zs.tolist(), p_now.tolist(), strict=True):
        weight, means, variance = reverse_kernel(t, z, schedule)
        y = float(weight @ means) + torch.linspace(-8, 8, 401, dtype=torch.float64) * math.sqrt(variance) * 1.5
        density = (weight * torch.exp(-((y[:, None] - means) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)).sum(1)
        gauss = -((y - float(weight @ means)) ** 2) / (2 * star) - 0.5 * math.log(2 * math.pi * star)
        total += p * float(torch.trapezoid(density * (density.clamp_min(1e-300).log() - gauss), y))
    return total * float(zs[1] - zs[0])


def kl_variance(schedule, t):
    """σ*² of one step, from D8."""
    a_, A_ = float(schedule.alpha[t]), float(schedule.bar_alpha[t - 1])
    value = sp.lambdify((a, A, m), tilde2 + gamma**2 * m)
    return float(value(a_, A_, float(diffusion.mmse_1d(toy, schedule.sigma[t : t + 1])[0])))


# %%
nb.experiment(
    "E1",
    "The exact kernel is nearly Gaussian at T = 100 and not at T = 20; with σ* the sum of divergences is a third smaller than with β and far smaller than with β̃.",
    "verified",
    holds=[
        *[
            ledger.close(f"T = {T}, sum over steps, {name}", float(k.sum()), w, rel=1e-3, digits=5)
            for T, values in ((20, (0.1805949, 0.2856225, 0.6226)), (100, (0.0334661, 0.0698472, 1.0405)))
            for k, w, name in zip(kl[T], values, ("σ*", "β", "β̃ (σ* at t = 1)"), strict=True)
        ],
        ledger.close("T = 20, largest step with σ*", float(kl[20][0].max()), 0.0824, rel=5e-3),
        ledger.close("at t", 1 + int(kl[20][0].argmax()), 2, abs=0.5),
        ledger.close("that step again, from the two-component kernel", kernel_kl_directly(2, short), float(kl[20][0][1]), rel=2e-3),
        ledger.close("T = 100, largest step", float(kl[100][0].max()), 0.00331, rel=5e-3),
    ],
)

# %% [markdown]
# ### E2. Bayes' rule by simulation
#
# 200,000 chains, step by step; then ordinary regression of $x_{t-1}$ on $(x_t,x_0)$, and on $x_t$ alone.


# %%
def simulate(t, chains=200_000):
    """x_0, x_{t-1}, x_t of independent chains, each of t steps."""
    g = torch.Generator().manual_seed(20 + t)
    start = toy.sample(chains, g)[:, 0]
    now = start
    for k in range(1, t + 1):
        before, now = now, su.alpha[k] * now + su.beta[k] * torch.randn(chains, dtype=torch.float64, generator=g)
    return start, before, now


checks = []

# %%
for t in (2, 10, 100):
    start, before, now = simulate(t)
    X = torch.stack([now, start], 1)
    inverse = torch.linalg.inv(X.T @ X)
    coefficient = inverse @ (X.T @ before)
    residual = (before - X @ coefficient).var()
    error = (residual * inverse.diagonal()).sqrt()
    checks += [
        sym.monte_carlo(f"t = {t}, coefficient of {n}", float(c), float(s), row(t)[i], draws=200_000)
        for i, n, c, s in ((1, "x_t", coefficient[0], error[0]), (2, "x_0", coefficient[1], error[1]))
    ]
    checks.append(
        sym.monte_carlo(
            f"t = {t}, residual variance",
            float(residual),
            float(residual) * math.sqrt(2 / 200_000),
            float(tilde_t[t - 1] ** 2),
            draws=200_000,
        )
    )
guess = toy.denoise(now[:, None] / su.bar_alpha[100], su.sigma[100])[:, 0]
alone = torch.stack([now, guess], 1)  # by D8 the mean given x_t is linear in these two
alone = (before - alone @ torch.linalg.lstsq(alone, before[:, None]).solution[:, 0]).var()

# %%
nb.experiment(
    "E2",
    "Simulated chains regress as Bayes' rule says: coefficients, residual variance; without x_0 the residual grows by γ² m.",
    "verified",
    holds=[
        *checks,
        ledger.close(
            "t = 100: what the residual gains without x_0, over γ² m",
            float((alone - residual) / (star_t[99] - tilde_t[99] ** 2)),
            1,
            abs=0.2,
            machine=True,
            scope="200,000 chains",
        ),
    ],
)

# %% [markdown]
# ### How good is the guess?
#
# On the toy the error $m_t$ of the *best* guess is known: for more than half of the chain it is nearly the whole variance of the data. A network is worse than
# that. It predicts the noise, and turning its output into $x_0$ multiplies its error by $\bar\beta_t/\bar\alpha_t$, up to 154. (Predicting $x_0$ or a mixture mends it
# {cite}`salimans2022progressive`.) For digits and MNIST the error of the guess at $t=1000$ is many times what the mean image, a constant, would achieve. The
# sampler does not care: what it uses is $\rho_t\bar\mu$.


# %%
LEVELS = [1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]


def guesses(device, name, draws):
    """Of a teacher on its test pictures, at each of LEVELS: per-pixel eps loss, and 1 − mean of eps_theta², averaged over draws."""
    teacher, sigmas = diffusion.teacher(name, device), diffusion.su_schedule().sigma[LEVELS]
    test, loss, power = teacher.images.test, [], []
    for seed in range(draws):
        loss.append(diffusion.denoising_loss(teacher.eps, test, sigmas, seed=30 + seed).tolist())
        generator = torch.Generator(test.device).manual_seed(60 + seed)
        with torch.no_grad():
            power.append(
                [
                    1
                    - float(
                        teacher.eps(test + s * torch.randn(test.shape, generator=generator, device=test.device), s).double().square().mean()
                    )
                    for s in sigmas.tolist()
                ]
            )
    return {"loss": np.mean(loss, 0).tolist(), "one_minus_power": np.mean(power, 0).tolist(), "variance": float(test.var(0).mean())}


# %% tags=["hide-input"]
def few_steps(device, name, seeds, samples, counts):
    """FD, SW2 and total variance of samples for S steps and four noises: none (DDIM), β̃, β, σ* from the loss; no noise in the last step."""
    teacher, s = diffusion.teacher(name, device), diffusion.su_schedule()
    train, test = teacher.images.train, teacher.images.test
    f_test, half = teacher.features(test), len(train) // 2
    out = {
        "floor": [
            metrics.frechet(teacher.features(train[:half]), f_test),
            metrics.sliced_w2(train[:half], test),
            float(test.flatten(1).var(0).sum()),
        ]
    }
    for S in counts:
        nodes = s.nodes(diffusion.linear_taus(1000, S))
        loss = diffusion.denoising_loss(teacher.eps, train, nodes[:-1], seed=7)
        mmse = (nodes[:-1] ** 2 * loss).clamp_max(float(train.var(0).mean()))
        last = torch.arange(S) < S - 1
        stds = {
            "none": 0,
            "tilde": diffusion.posterior_std(nodes) * last,
            "beta": diffusion.forward_std(nodes) * last,
            "star": diffusion.optimal_std(nodes, mmse) * last,
        }
        for kind, std in stds.items():
            rows = []
            for seed in seeds:
                generator = torch.Generator(device).manual_seed(500 + seed)
                z = torch.randn(samples, *test.shape[1:], generator=generator, device=device)
                start = diffusion.from_vp(z, nodes[0])
                noise = diffusion.gaussian(generator)
                x = diffusion.endpoint(
                    diffusion.euler(teacher.eps, nodes, start) if kind == "none" else diffusion.ddpm(teacher.eps, nodes, start, std, noise)
                )
                rows.append([metrics.frechet(teacher.features(x), f_test), metrics.sliced_w2(x, test), float(x.flatten(1).var(0).sum())])
            out[f"{kind} {S}"] = rows
    return out


# %%
e3 = nb.run(
    "E3",
    guesses,
    **nb.at_scale(cpu={"name": "digits8", "draws": 1}, gpu={"name": "digits8", "draws": 4}, full={"name": "digits8", "draws": 20}),
)
e4 = nb.run(
    "E4",
    few_steps,
    **nb.at_scale(
        cpu={"name": "digits8", "seeds": [0], "samples": 200, "counts": [5, 10]},
        gpu={"name": "digits8", "seeds": [0, 1, 2], "samples": 1000, "counts": [5, 10, 20, 50]},
        full={"name": "digits8", "seeds": [0, 1, 2, 3, 4], "samples": 4000, "counts": [5, 10, 20, 50]},
    ),
)
if nb.scale == "full":
    e6 = nb.run("E6", guesses, name="mnist28", draws=5)
    e6b = nb.run("E6b", few_steps, name="mnist28", seeds=[0, 1, 2], samples=4000, counts=[5, 10, 20, 50])

# %% tags=["hide-input"]
r3, r4, r6, r6b = (nb.recorded(k).result for k in ("E3", "E4", "E6", "E6b"))
SCD, SCM = "full, digits, 5 seeds of 4,000", "full, MNIST, 3 seeds of 4,000"
level2 = (su.sigma[LEVELS] ** 2).numpy()
error_of = {name: level2 * np.array(rec["loss"]) / rec["variance"] for name, rec in (("digits", r3), ("MNIST", r6))}
best_of_toy = (m_toy / toy.variance)[torch.tensor(LEVELS) - 1].numpy()

# %% tags=["hide-input"] mystnb={"image": {"alt": "Mean squared error of the guess of x_0 over the variance of the data against t, logarithmic vertical axis. The exact curve of the toy rises from 0.0016 at t = 10 to 1 beyond t = 700. The curves of the digits and MNIST networks follow it up to about t = 500 and then rise above one, to more than ten at t = 1000."}}
figure, axes = plt.subplots(figsize=(7, 3.8))
axes.plot(np.arange(1, 1001), m_toy / toy.variance, color=BLUE, label="toy, exact posterior")
for (name, values), color, style in zip(error_of.items(), (GREEN, ORANGE), ("o-", "s--"), strict=True):
    axes.plot(LEVELS, values, style, color=color, ms=4, label=f"{name}, network")
axes.axhline(1, color=BLACK, lw=1)
axes.annotate("no better than the mean picture", (40, 1.15), fontsize=9)
axes.set(yscale="log", xlabel="step t (1000 is pure noise)", ylabel="MSE of the guess / variance of the data", ylim=(5e-4, 60))
axes.set_title("For half of the chain the guess knows almost nothing")
axes.legend(fontsize=9, loc="lower right")
nb.show(figure)

# %% tags=["hide-input"]
EIGHT = {
    1000: 0.99997,
    800: 0.99892,
    600: 0.98164,
    500: 0.94337,
    400: 0.85324,
    300: 0.67301,
    200: 0.37087,
    100: 0.07018,
    50: 0.02349,
    20: 0.00560,
    10: 0.00158,
}
at_level = lambda name, t: float(error_of[name][LEVELS.index(t)])
nb.claim(
    "C8",
    "The prediction of x_0 is poor during a long first stretch of sampling: toy 94% of the variance at t = 500; digits and MNIST networks worse than a constant from t = 700 on.",
    "verified",
    holds=[ledger.close(f"toy, exact, t = {t}", float(m_toy[t - 1] / toy.variance), w, abs=1e-4, digits=5) for t, w in EIGHT.items()]
    + [
        ledger.more(f"{name}, t = {t}: MSE over variance", at_level(name, t), w, scope="full, test pictures")
        for name, t, w in (("digits", 700, 1.0), ("digits", 1000, 10), ("MNIST", 1000, 3))
    ]
    + [
        ledger.more("digits, t = 500", at_level("digits", 500), 0.7, scope="full, test pictures"),
        ledger.less("digits, t = 100", at_level("digits", 100), 0.12, scope="full, test pictures"),
    ],
)
z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
jump = toy.denoise(z[:, None] / su.bar_alpha[1000], su.sigma[1000])[:, 0]
weight = torch.exp(-(z**2) / 2)
jump_std = float(((weight * jump**2).sum() / weight.sum()).sqrt())
one_step = diffusion.endpoint(
    diffusion.euler(
        diffusion.teacher("digits8", nb.device).eps,
        su.nodes(torch.tensor([1000])),
        diffusion.from_vp(torch.randn(400, 1, 8, 8, generator=torch.Generator(nb.device).manual_seed(5), device=nb.device), su.sigma[1000]),
    )
)
pictures = diffusion.teacher("digits8", nb.device)
one_fd = metrics.frechet(pictures.features(one_step), pictures.features(pictures.images.test))
nb.claim(
    "C9",
    "With an exact prediction one step would do, hence the corrector: one jump from x_T gives a near point on the toy, and a blur on digits.",
    "verified",
    holds=[
        ledger.close("toy: standard deviation of the output of one jump", jump_std, 0.0044, abs=2e-4, digits=2),
        ledger.close("that of the data", math.sqrt(toy.variance), 0.8246, abs=1e-4),
        ledger.more(
            "digits: FD of one jump, over ten deterministic steps",
            one_fd / np.mean([row[0] for row in r4["none 10"]]),
            8,
            machine=True,
            scope="400 samples",
        ),
    ],
)

# %% tags=["hide-input"]
index = torch.tensor(LEVELS) - 1
gamma_sq = ((su.bar_alpha[:-1] * su.beta[1:] ** 2 / su.bar_beta[1:] ** 2) ** 2)[index].numpy()
share = {
    name: (tilde_t[index].numpy() ** 2 + gamma_sq * level2 * np.clip(rec["loss"], 0, None)) / su.beta[1:][index].numpy() ** 2
    for name, rec in (("digits", r3), ("MNIST", r6))
}
nb.claim(
    "C12",
    "Real pictures lie between the two bounds: at t = 1 σ*²/β² is 0.74 for digits and 0.18 for MNIST, whose black borders are nearly a point mass.",
    "verified",
    holds=[
        *[
            ledger.more(
                f"{name}, t = {t}: σ*² − β̃² over β²",
                float(share[name][LEVELS.index(t)] - (tilde_t[t - 1] / su.beta[t]) ** 2),
                0,
                digits=2,
                scope="full, test pictures",
            )
            for name in share
            for t in (1, 2, 5, 20, 100)
        ],
        *[
            ledger.less(f"{name}, t = {t}: σ*²/β²", float(share[name][LEVELS.index(t)]), 1, scope="full, test pictures")
            for name in share
            for t in (1, 2, 5, 20, 100)
        ],
        ledger.close("digits, t = 1", float(share["digits"][0]), 0.74, abs=0.03, scope="full, test pictures"),
        ledger.close("MNIST, t = 1", float(share["MNIST"][0]), 0.18, abs=0.02, scope="full, test pictures"),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Squared ratio of reverse variances to beta squared against t from 1 to 1000, logarithmic t. The toy's exact curve stays above 0.98. The digits network starts at 0.74, the MNIST network at 0.18; both join one by t = 100. The lower bound, beta tilde squared, starts at 0."}}
figure, axes = plt.subplots(figsize=(7, 3.6))
axes.plot(np.arange(1, 1001), star_t / su.beta[1:] ** 2, color=BLUE, label="toy, exact")
axes.plot(LEVELS, share["digits"], "o-", color=GREEN, ms=4, label="digits")
axes.plot(LEVELS, share["MNIST"], "s--", color=ORANGE, ms=4, label="MNIST")
axes.plot(np.arange(1, 1001), (tilde_t / su.beta[1:]) ** 2, ":", color=RED, label="β̃²/β², lower bound")
axes.axhline(1, color=BLACK, lw=1)
axes.set(xscale="log", xlabel="step t", ylabel="σ*²/β²", ylim=(-0.03, 1.08))
axes.set_title("Smooth data hug the upper bound, pictures lie between")
axes.legend(fontsize=9, loc="lower right")
nb.show(figure)

# %% [markdown]
# ### E3. Two estimates of the same error
#
# The loss at level $t$ gives $m_t=\sigma_t^2L_t$. Analytic-DPM {cite}`bao2022analytic` uses that at the optimum $L_t=1-\frac1d\mathbb E\Vert\epsilon^*\Vert^2$, which needs no data at sampling time. The two agree
# in the middle of the chain and part at its start, where everything is divided by $\bar\alpha_t^2$.

# %% tags=["hide-input"]
probe = torch.randn(50_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(41))
probe0 = toy.sample(50_000, torch.Generator().manual_seed(42))
power = float(toy.eps(probe0 + su.sigma[200] * probe, su.sigma[200]).square().mean())
loss200 = float((toy.eps(probe0 + su.sigma[200] * probe, su.sigma[200]) - probe).square().mean())
fit_ratio = np.array(r3["one_minus_power"]) / np.array(r3["loss"])
nb.experiment(
    "E3",
    "On a trained network the two estimates of m_t agree in the middle of the chain only; at the optimum they are equal.",
    "verified",
    holds=[
        ledger.close(
            "toy, exact predictor, t = 200: σ² L over m",
            float(su.sigma[200] ** 2) * loss200 / float(m_toy[199]),
            1,
            abs=0.02,
            machine=True,
            scope="50,000 draws",
        ),
        ledger.close("toy, t = 200: (1 − power) over L", (1 - power) / loss200, 1, abs=0.02, machine=True, scope="50,000 draws"),
        *[
            ledger.close(
                f"digits, t = {t}: ratio of the estimates", float(fit_ratio[LEVELS.index(t)]), 1, abs=0.2, scope="full, test pictures"
            )
            for t in (2, 5, 10, 20)
        ],
        ledger.more("digits, t = 1000", float(fit_ratio[-1]), 5, scope="full, test pictures"),
        ledger.close(
            "live: loss at t = 100 over the recorded one",
            e3["loss"][LEVELS.index(100)] / r3["loss"][LEVELS.index(100)],
            1,
            abs=0.1,
            machine=True,
            scope="cpu",
        ),
    ],
)

# %% [markdown]
# The ratio is not 1 between $t=50$ and 300 either: on *test* pictures a network that has begun to memorise 1,200 training pictures is more confident than it should be. An estimator that never looks
# at the data cannot see that.
#
# ### E4, E6. Which variance for few steps?
#
# DDIM's zero ({doc}`ddim <ddim>`), $\tilde\beta$, $\beta$ and $\sigma^*$ from the loss, on the same starts; the last step adds no noise, as in the paper's algorithm.

# %% tags=["hide-input"]
pick = lambda rec, kind, S, j: [r_[j] for r_ in rec[f"{kind} {S}"]]
kinds = {"none": "none (DDIM)", "tilde": "β̃", "beta": "β", "star": "σ*"}
for id_, rec, what in (("E4", r4, "digits"), ("E6b", r6b, "MNIST")):
    nb.results(
        id_ if id_ == "E4" else "E6",
        f"FD / SW2 on {what}, mean ± s.e. ({nb.recorded(id_).device}); real training against test pictures {rec['floor'][0]:.3f} / {rec['floor'][1]:.3f}",
        ["steps", *kinds.values()],
        [[S, *(f"{ledger.with_error(pick(rec, k_, S, 0))} / {np.mean(pick(rec, k_, S, 1)):.3f}" for k_ in kinds)] for S in (5, 10, 20, 50)],
    )
with mock.patch.object(diffusion, "optimal_std", side_effect=diffusion.optimal_std) as spy:
    few_steps(nb.device, "digits8", [0], 40, [4])
grid_used, mmse_used = spy.call_args.args
guess_error = []  # the same by hand: the mean squared error of the guess of x_0 on the training pictures
for level_ in grid_used[:-1].tolist():
    train_ = pictures.images.train
    noised = train_ + level_ * torch.randn(train_.shape, generator=torch.Generator(nb.device).manual_seed(77), device=nb.device)
    with torch.no_grad():
        guess_error.append(float((noised - level_ * pictures.eps(noised, level_) - train_).square().mean()))
nb.experiment(
    "E4",
    "Digits: no noise is best at 5 and 10 steps; σ* is at least as good as β̃ in SW2 at every S; at 50 steps all meet.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"mmse given to σ*, step {i + 1} of 4, over the squared error of the guess",
                float(mmse_used[i]) / min(guess_error[i], float(train_.var(0).mean())),
                1,
                abs=0.1,
                machine=True,
                scope="1,200 pictures",
            )
            for i in range(4)
        ],
        *[ledger.better(f"SW2, {S} steps: β̃ over none", pick(r4, "tilde", S, 1), pick(r4, "none", S, 1), scope=SCD) for S in (5, 10, 20)],
        *[ledger.better(f"FD, {S} steps: σ* over none", pick(r4, "star", S, 0), pick(r4, "none", S, 0), scope=SCD) for S in (5, 10)],
        *[
            ledger.less(
                f"SW2, {S} steps: mean of σ* over mean of β̃",
                np.mean(pick(r4, "star", S, 1)) / np.mean(pick(r4, "tilde", S, 1)),
                1,
                scope=SCD,
            )
            for S in (5, 10, 20, 50)
        ],
        ledger.less(
            "FD, 50 steps: worst over best of the four",
            max(np.mean(pick(r4, k_, 50, 0)) for k_ in kinds) / min(np.mean(pick(r4, k_, 50, 0)) for k_ in kinds),
            1.25,
            scope=SCD,
        ),
        ledger.more(
            "live: SW2 of β̃ over none, 10 steps", e4["tilde 10"][0][1] / e4["none 10"][0][1], 1.05, machine=True, scope="cpu, 200 samples"
        ),
    ],
)
nb.experiment(
    "E6",
    "MNIST: the same at 5 steps, and the reverse at 50, where every noise beats none in FD.",
    "verified",
    holds=[
        *[
            ledger.better(f"FD, 5 steps: {kinds[k_]} over none", pick(r6b, k_, 5, 0), pick(r6b, "none", 5, 0), scope=SCM)
            for k_ in ("tilde", "beta", "star")
        ],
        *[
            ledger.better(f"FD, 50 steps: none over {kinds[k_]}", pick(r6b, "none", 50, 0), pick(r6b, k_, 50, 0), scope=SCM)
            for k_ in ("tilde", "beta", "star")
        ],
    ],
)
nb.claim(
    "C14",
    "The two special variances are the two options (the post only names them): interchangeable with many steps on our data, not in DDIM's Table 1.",
    "partly",
    holds=[
        ledger.close(
            "MNIST, 50 steps: FD of β̃ over β",
            np.mean(pick(r6b, "tilde", 50, 0)) / np.mean(pick(r6b, "beta", 50, 0)),
            1,
            abs=0.15,
            scope=SCM,
        )
    ],
    fails=[
        ledger.more("DDIM's paper, CIFAR-10, 1000 steps: FID of β̃ over β", 4.73 / 3.17, 1.4),
        ledger.less("at 100 steps", 5.78 / 9.99, 0.6),
        ledger.better("MNIST, 5 steps, FD: β over β̃", pick(r6b, "beta", 5, 0), pick(r6b, "tilde", 5, 0), scope=SCM),
    ],
)

# %% [markdown]
# ### E5. Predictor and corrector at work


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of eleven pictures along one sampling path. Above, the state, pure noise until about t = 300. Below, the predicted digit: a blurred average for the first half of the path, then a definite digit that changes little."}}
mnist = diffusion.teacher("mnist28", nb.device)
strip_nodes = su.nodes(diffusion.linear_taus(1000, 100))
source = torch.Generator(nb.device).manual_seed(12)
states, guesses_ = [], []
current = diffusion.from_vp(torch.randn(1, 1, 28, 28, generator=source, device=nb.device), strip_nodes[0])
with torch.no_grad():
    for i, state_ in enumerate(
        diffusion.ddpm(mnist.eps, strip_nodes, current, diffusion.posterior_std(strip_nodes), diffusion.gaussian(source))
    ):
        if i % 10 == 0 and i < 100:
            states.append(diffusion.to_vp(state_, strip_nodes[i])[0, 0].cpu())
            guesses_.append((state_ - strip_nodes[i] * mnist.eps(state_, strip_nodes[i]))[0, 0].cpu())
figure, axes = plt.subplots(figsize=(8, 2.3))
axes.imshow(tile(torch.cat([torch.stack(states) / 2, torch.stack(guesses_)]), 10), cmap="gray")
axes.grid(False)
axes.set(xticks=[14.5 + 30 * i for i in range(10)], xticklabels=[str(1000 - 100 * i) for i in range(10)], xlabel="t")
axes.set(yticks=[14.5, 44.5], yticklabels=["state x_t", "guess of x₀"])
axes.set_title("The guess settles long before the state does")
nb.show(figure)
drift = [float((a_ - b_).square().mean().sqrt()) for a_, b_ in zip(guesses_, guesses_[1:], strict=False)]
nb.experiment(
    "E5",
    "Along a path the guess changes most in the first half and settles in the second.",
    "verified",
    holds=[
        ledger.less(
            "change of the guess from t = 200 to 100, over that from 1000 to 600 (RMS)",
            drift[-1] / float((guesses_[0] - guesses_[4]).square().mean().sqrt()),
            0.6,
            machine=True,
            scope="one path",
        )
    ],
)

# %% [markdown]
# ## What does not hold
#
# Little, and nothing in the algebra.
#
# - "The substitution fixes the variance to $\tilde\beta^2$" is only formal: it is the right variance where $m_t=0$, and the post's own second example needs $\beta^2$ (D7, D8).
# - The two variances as *options* (C14): bounds of an interval (C10), in which real data lies well inside (C12); and data of larger variance leaves it.
# - "An exact prediction would need one step" (C9) does not mean that a better network needs fewer steps: the exact posterior mean is what the toy used.
#
# ## Exercises
#
# 1. Data uniform on $[-1,1]$: where in the interval between the bounds does $\sigma_1^{*2}/\beta_1^2$ lie? And for data on two points?
# 2. Rewrite one DDPM step as Lookahead with two "slow" updates. What is the learning rate of the fast weights?
# 3. The mean of the reverse step is exact. Is the *mode*?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# At the upper bound up to the share of points near an end: smooth data always. Two points: at the lower bound, exponentially close, since $x_1$ reveals $x_0$.
# ```

# %% tags=["hide-cell"]
uniform = diffusion.GaussianMixture(
    torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None],
    torch.full((201,), 0.01, dtype=torch.float64),
    torch.full((201,), 1 / 201, dtype=torch.float64),
)
points = diffusion.GaussianMixture(
    torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
)
for name, law in (("uniform", uniform), ("two points", points)):
    ratio_ = float(diffusion.mmse_1d(law, su.sigma[1:2])[0] / su.beta[1] ** 2)
    print(f"{name}: σ*²/β² at t = 1 is {ratio_:.4f}")

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# $y\leftarrow y+\rho(\bar\mu-y)$: the fast weights jump to $\bar\mu$, one step of gradient descent with rate 1 on $\frac12\Vert y-\bar\mu\Vert^2$.
# ```
#
# ```{admonition} Solution 3
# :class: dropdown
# No: between the modes of the toy the kernel has two humps (first figure, middle) and its mean lies between them.
# ```

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2022ddpmbayes`. DDPM: {cite}`ho2020ddpm`. Analytic variances: {cite}`bao2022analytic`; learned ones: {cite}`nichol2021improved`. Lookahead: {cite}`zhang2019lookahead`. Other
# parametrisations: {cite}`salimans2022progressive`.
