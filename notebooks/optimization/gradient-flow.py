# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradient flow: the path to the minimum

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math

import matplotlib.pyplot as plt
import numpy as np
import scipy.integrate
import scipy.linalg
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import ledger, metrics, nn, optim, runtime
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, COLORS, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("gradient-flow")

# %% [markdown]
# E6TEXT


# %%
def gaussian(P):
    """Target N(0, P^-1): x (N, d) -> log density up to a constant (N,) and score (N, d)."""

    def target(x):
        score = -x @ P
        return 0.5 * (score * x).sum(-1), score

    return target


def two_wells(a, sigma):
    """Target 1/2 N(-a e_1, sigma^2 I) + 1/2 N(a e_1, sigma^2 I), as in gaussian."""

    def target(x):
        pull = a / sigma**2 * x[:, 0]
        score = -x / sigma**2
        score[:, 0] += a / sigma**2 * torch.tanh(pull)
        return -x.square().sum(-1) / (2 * sigma**2) + torch.logaddexp(pull, -pull), score

    return target


# %%
def langevin(target, x, h, generator):
    """One Euler-Maruyama step of dx = grad log p dt + sqrt(2) dw (ULA): x (N, d) -> (N, d)."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + h * target(x)[1] + math.sqrt(2 * h) * noise


def mala(target, x, at_x, h, generator):
    """The same step as a Metropolis proposal (Roberts and Tweedie 1996); ``at_x`` is target(x).

    Returns the new states, target of them, and the share of accepted proposals.
    """
    log_p, score = at_x
    step = h * score + math.sqrt(2 * h) * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    y = x + step
    log_p_y, score_y = target(y)
    forth, back = (step - h * score).square().sum(-1), (step + h * score_y).square().sum(-1)
    log_ratio = log_p_y - log_p + (forth - back) / (4 * h)
    accept = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype).log() < log_ratio
    kept = accept[:, None]
    return torch.where(kept, y, x), (torch.where(accept, log_p_y, log_p), torch.where(kept, score_y, score)), accept.to(x.dtype).mean()


# %%
def run_chains(target, x, h, marks, adjusted, generator, look):
    """Chains x (N, d) through the steps ``marks`` (increasing); look(x) at each mark, and the mean acceptance (1 for ULA)."""
    seen, accepted, at_x, step = [], torch.zeros((), device=x.device), target(x), 0
    for mark in marks:
        for _ in range(mark - step):
            if adjusted:
                x, at_x, share = mala(target, x, at_x, h, generator)
                accepted += share
            else:
                x = langevin(target, x, h, generator)
        step = mark
        seen.append(look(x))
    return seen, float(accepted) / step if adjusted else 1.0


def correlated(d, condition, seed):
    """Precision (d, d) float64 with eigenvalues spaced evenly in the logarithm from 1 to ``condition``, the eigenvalues, eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    values = condition ** torch.linspace(0, 1, d, dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    return (vectors * values) @ vectors.T, values, vectors


def bias_run(device, chains, condition, products, time, seed):
    """ULA and MALA on correlated Gaussians from exact samples: variances along (at most 16) eigenvectors over the exact ones.

    ``chains``: [[d, N], ...]; ``products``: h times the largest eigenvalue; every chain runs for ``time``.
    """
    rows = []
    for d, N in chains:
        P, values, vectors = correlated(d, condition, seed)
        pick = torch.linspace(0, d - 1, min(d, 16)).round().long()
        to_axes, small_P = vectors.to(device, torch.float32), P.to(device, torch.float32)
        spread = (values**-0.5).to(device, torch.float32)

        def ratios(x, to_axes=to_axes, values=values):
            return torch.stack([(part @ to_axes).square().double().mean(0) for part in x.chunk(8)]).mean(0).cpu() * values

        for adjusted in (False, True):
            for product in products:
                h = product / condition
                generator = torch.Generator(device).manual_seed(seed)
                x = torch.randn(N, d, generator=generator, device=device) * spread @ to_axes.T
                (ratio,), acceptance = run_chains(gaussian(small_P), x, h, [math.ceil(time / h)], adjusted, generator, ratios)
                w2 = float(((ratio.sqrt() - 1) ** 2 / values).sum().sqrt())
                rows.append({"d": d, "N": N, "method": "MALA" if adjusted else "ULA", "product": product, "h": h})
                rows[-1] |= {"values": values[pick].tolist(), "ratios": ratio[pick].tolist(), "W2": w2, "acceptance": acceptance}
    return {"rows": rows}


# %%
def escape_run(device, chains, a, sigma, steps, times, seed):
    """ULA and MALA on two wells, all chains started in the left one: the share of chains on the right at each of ``times``.

    ``chains``: [[d, N], ...]; ``steps``: the h. Also the mean variance of the coordinates 2..d at the end over the exact sigma^2.
    """
    rows = []
    for d, N in chains:
        for adjusted in (False, True):
            for h in steps:
                generator = torch.Generator(device).manual_seed(seed)
                x = sigma * torch.randn(N, d, generator=generator, device=device)
                x[:, 0] -= a
                marks = [round(t / h) for t in times]
                look = lambda x: torch.stack([(x[:, 0] > 0).double().mean(), x[:, 1:].square().mean().double()]).cpu()
                seen, acceptance = run_chains(two_wells(a, sigma), x, h, marks, adjusted, generator, look)
                rows.append({"d": d, "N": N, "method": "MALA" if adjusted else "ULA", "h": h, "acceptance": acceptance})
                rows[-1] |= {"right": [float(s[0]) for s in seen], "variance": float(seen[-1][1]) / sigma**2}
    return {"rows": rows}


# %%
def speed(arm, c):
    """r^2 f''(r) at r = e^c, the factor in v = r f''(r) grad r = r^2 f''(r) grad c; c are the classifier's logits."""
    if arm == "reverse KL":
        return torch.ones_like(c)
    if arm == "KL(p‖q)":
        return c.clamp(max=30).exp()
    if arm == "Hellinger":
        return 0.5 * (0.5 * c.clamp(max=30)).exp()
    if arm == "Jensen–Shannon":
        return 0.5 * torch.sigmoid(c)
    if arm == "non-saturating":
        return torch.sigmoid(-c)
    raise ValueError(f"arm {arm!r}: give reverse KL, KL(p‖q), Hellinger, Jensen–Shannon or non-saturating")


class Classifier(torch.nn.Module):
    """A stack of R networks 2-H-H-1: points (R, n, 2) -> logits (R, n), which learn log p/q from samples of both."""

    def __init__(self, init, hidden):
        super().__init__()
        sides = [(2, hidden), (hidden, hidden), (hidden, 1)]
        self.weights = torch.nn.ParameterList([init.normal(m, n, std=1 / math.sqrt(m)) for m, n in sides])
        self.biases = torch.nn.ParameterList([init.normal(1, n, std=0.0) for _, n in sides])

    def forward(self, x):
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, x, W)
            x = F.silu(x) if layer < 2 else x
        return x[..., 0]


def logistic_loss(logits_p, logits_q):
    """Mean logistic loss of each run: logits (R, n) at samples of p, label 1, and of q, label 0 -> (R,)."""
    return 0.5 * (F.softplus(-logits_p).mean(1) + F.softplus(logits_q).mean(1))


# %%
def ring(shape, radius, std, generator, device):
    """Samples (*shape, 2) of eight Gaussians on a circle."""
    angle = torch.randint(8, shape, generator=generator, device=device) * (math.pi / 4)
    centre = radius * torch.stack([angle.cos(), angle.sin()], -1)
    return centre + std * torch.randn((*shape, 2), generator=generator, device=device)


def ring_score(x, radius, std):
    """Gradient of log p of the ring at x (..., 2)."""
    angle = torch.arange(8, device=x.device) * (math.pi / 4)
    centres = radius * torch.stack([angle.cos(), angle.sin()], -1)
    weights = torch.softmax((x @ centres.T) / std**2, -1)  # the |x|^2 and |centre|^2 terms are common to all eight
    return (weights @ centres - x) / std**2


def displaced(x, v, eta, cap):
    """x + eta v, no row moved farther than ``cap``; eta broadcasts over runs."""
    step = eta * v
    return x + step * (cap / step.norm(dim=-1, keepdim=True).clamp_min(cap))


def judge(x, fresh, radius):
    """Per run: sliced W2 to fresh samples of the target, and the smallest share of the eight modes times 8. x (R, N, 2)."""
    mode = torch.round(torch.atan2(x[..., 1], x[..., 0]) / (math.pi / 4)).long() % 8
    shares = F.one_hot(mode, 8).double().mean(1)
    return [metrics.sliced_w2(one, fresh, 64) for one in x], (8 * shares.amin(1)).tolist()


# %% tags=["hide-input"]
def particle_run(device, arms, etas, rates, seeds, particles, hidden, batch, steps, fits, radius, std, start, cap, marks):
    """Flows of particles with log p/q from a classifier: ``fits`` Adam steps of it (rates ``rates``), then one particle step ``eta``.

    Every arm with every eta, rate and seed, in one stack; the arm "Langevin" takes the exact score and noise instead. Returns for each
    arm the sliced W2 to the target and 8 times the smallest mode share at ``marks``, and of its best cell the final points.
    """
    cells = [(arm, eta, rate) for arm in arms for eta in etas for rate in (rates if arm != "Langevin" else rates[:1])]
    learned = [cell for cell in cells if cell[0] != "Langevin"]
    R, S = len(learned) * len(seeds), len(seeds)
    rng, fixed = torch.Generator(device).manual_seed(1), torch.Generator().manual_seed(2)
    net = Classifier(nn.Init([seed for _ in learned for seed in seeds]), hidden).to(device)
    adam = optim.StackedAdam(net.parameters(), torch.tensor([rate for _, _, rate in learned for _ in seeds]))
    begin = torch.stack([torch.randn(particles, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    begin = (0.5 * begin + torch.tensor([start, 0.0])).to(device)
    x = begin.repeat(len(cells), 1, 1)
    step_sizes = torch.tensor([eta for _, eta, _ in cells for _ in seeds], device=device)[:, None, None]
    names = [arm for arm, _, _ in learned]
    slices = [(arm, slice(names.index(arm) * S, (len(names) - names[::-1].index(arm)) * S)) for arm in dict.fromkeys(names)]

    def advance():
        for _ in range(fits):
            pick = torch.randint(particles, (R, batch, 1), generator=rng, device=device).expand(-1, -1, 2)
            logits = net(torch.cat([ring((R, batch), radius, std, rng, device), x[:R].gather(1, pick)], 1))
            loss = logistic_loss(logits[:, :batch], logits[:, batch:])
            for p, g in zip(net.parameters(), torch.autograd.grad(loss.sum(), list(net.parameters())), strict=True):
                p.grad = g
            adam.update()
        at = x[:R].clone().requires_grad_()
        c = net(at)
        (slope,) = torch.autograd.grad(c.sum(), at)
        with torch.no_grad():
            factor = torch.cat([speed(arm, c[rows]) for arm, rows in slices])
            moved = displaced(at, factor[..., None] * slope, step_sizes[:R], cap)
            noise = torch.randn(x[R:].shape, generator=rng, device=device)
            walked = x[R:] + step_sizes[R:] * ring_score(x[R:], radius, std) + (2 * step_sizes[R:]).sqrt() * noise
            x.copy_(torch.cat([moved.detach(), walked]))

    go = runtime.graphed(advance, device, rng)
    fresh = ring((particles,), radius, std, fixed, torch.device("cpu")).to(device)
    again = ring((particles,), radius, std, fixed, torch.device("cpu")).to(device)
    distance, coverage = [], []
    for step in range(steps + 1):
        if step in marks:
            one, two = judge(x, fresh, radius)
            distance.append(one)
            coverage.append(two)
        if step < steps:
            go()
    shape = (len(marks), len(cells), S)
    distance, coverage = (np.nan_to_num(np.array(v), nan=99.0).reshape(shape) for v in (distance, coverage))
    best = {arm: min((i for i, c in enumerate(cells) if c[0] == arm), key=lambda i: distance[-1, i].mean()) for arm in arms}
    return {
        "cells": [list(cell) for cell in cells],
        "final": distance[-1].mean(1).tolist(),
        "best": {arm: list(cells[i]) for arm, i in best.items()},
        "distance": {arm: distance[:, i].tolist() for arm, i in best.items()},
        "coverage": {arm: coverage[:, i].tolist() for arm, i in best.items()},
        "points": {arm: x[i * S][:300].round(decimals=3).tolist() for arm, i in best.items()},
        "floor": metrics.sliced_w2(again, fresh, 64),
    }


# %% tags=["nbval-ignore-output"]
bias = nb.run(
    "E6",
    bias_run,
    **nb.at_scale(
        cpu={"chains": [[2, 20000], [32, 4000]], "condition": 16.0, "products": [0.2, 0.5, 1.0], "time": 4.0, "seed": 0},
        gpu={
            "chains": [[2, 1000000], [32, 100000], [256, 10000]],
            "condition": 16.0,
            "products": [0.1, 0.2, 0.5, 1.0, 1.5],
            "time": 5.0,
            "seed": 0,
        },
        full={
            "chains": [[2, 10000000], [32, 1500000], [256, 200000]],
            "condition": 16.0,
            "products": [0.1, 0.2, 0.5, 1.0, 1.5],
            "time": 5.0,
            "seed": 0,
        },
    ),
)
escape = nb.run(
    "E6b",
    escape_run,
    **nb.at_scale(
        cpu={"chains": [[2, 10000]], "a": 2.0, "sigma": 0.7, "steps": [0.1, 0.4], "times": [10.0, 20.0, 40.0], "seed": 0},
        gpu={
            "chains": [[2, 400000], [32, 100000], [256, 10000]],
            "a": 2.0,
            "sigma": 0.7,
            "steps": [0.02, 0.05, 0.1, 0.2, 0.4],
            "times": [5.0, 10.0, 20.0, 30.0, 40.0],
            "seed": 0,
        },
        full={
            "chains": [[2, 4000000], [32, 500000], [256, 100000]],
            "a": 2.0,
            "sigma": 0.7,
            "steps": [0.02, 0.05, 0.1, 0.2, 0.4],
            "times": [5.0, 10.0, 20.0, 30.0, 40.0],
            "seed": 0,
        },
    ),
)

# %% tags=["nbval-ignore-output"]
ARMS = ["reverse KL", "KL(p‖q)", "Hellinger", "Jensen–Shannon", "non-saturating", "Langevin"]
GEOMETRY = {"radius": 2.0, "std": 0.3, "start": 1.0, "cap": 0.1}
flows = nb.run(
    "E6c",
    particle_run,
    arms=ARMS,
    **GEOMETRY,
    **nb.at_scale(
        cpu={
            "etas": [0.02],
            "rates": [0.01],
            "seeds": [0, 1],
            "particles": 500,
            "hidden": 32,
            "batch": 128,
            "steps": 60,
            "fits": 8,
            "marks": [0, 20, 60],
        },
        gpu={
            "etas": [2.0**k for k in range(-7, -1)],
            "rates": [0.001, 0.004],
            "seeds": [0, 1],
            "particles": 2000,
            "hidden": 64,
            "batch": 256,
            "steps": 300,
            "fits": 10,
            "marks": [0, 30, 100, 300],
        },
        full={
            "etas": [2.0**k for k in range(-7, 4)],
            "rates": [0.001, 0.004],
            "seeds": [0, 1, 2],
            "particles": 4096,
            "hidden": 128,
            "batch": 512,
            "steps": 500,
            "fits": 12,
            "marks": [0, 25, 50, 100, 200, 350, 500],
        },
    ),
)
