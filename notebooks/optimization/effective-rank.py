# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Effective rank of a matrix
#
# [矩阵的有效秩（Effective Rank）](https://kexue.fm/archives/10847) · 2025-04-10 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/effective-rank.ipynb)
#
# **The point.** TODO

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import time

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.optimize
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, ranks, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("effective-rank")

# %% [markdown]
# ### E4 and E5

# %%
HIDDEN = ("wq", "wk", "wv", "wo", "w1", "w2")
ARMS = ("AdamW", "Muon")


def spectrum(M):
    """Singular values (..., n) of float matrices (..., m, n), largest first, from the smaller Gram matrix in float64: errors of 1e-8 sigma_1."""
    M = torch.nan_to_num(M.detach().double(), nan=0.0, posinf=0.0, neginf=0.0)
    gram = M @ M.mT if M.shape[-2] <= M.shape[-1] else M.mT @ M
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(-1)


def measured(M):
    """Averages over the layers of (runs, layers, m, n): measure -> (runs,)."""
    s = spectrum(M)
    counts = {"threshold rank": ranks.threshold_rank(s, relative=0.01), "error rank": ranks.error_rank(s, 0.1)}
    counts["stand out of noise"] = ranks.estimated_rank(s, *M.shape[-2:])
    seen = ranks.all_measures(s) | counts | {"normalized entropy": ranks.normalized_entropy(s)}
    return {name: x.double().mean(1).tolist() for name, x in seen.items()}


# %%
def gradient_ranks(device, *, widths, seeds, batch, steps):
    """Measures of the hidden d x d gradient of a 64-d-d-10 ReLU network on digits, before and after ``steps`` of Adam: width -> [first, last]."""
    pixels, labels = data.digits8x8()
    x_all, table = pixels.flatten(1) - pixels.flatten(1).mean(0), {}
    x_all = (x_all / x_all.std()).to(device)
    for d in widths:
        init = nn.Init(seeds)
        layers = torch.nn.ModuleList([nn.Linear(init, 64, d), nn.Linear(init, d, d), nn.Linear(init, d, 10)]).to(device)
        opt = optim.StackedAdam([layer.weight for layer in layers], torch.full((len(seeds),), 0.1 / d))
        generators, seen = [torch.Generator().manual_seed(seed) for seed in seeds], []
        for step in range(steps + 1):
            drawn = torch.stack([torch.randint(len(labels), (batch,), generator=g) for g in generators])
            h = x_all[drawn.to(device)]
            for layer in layers[:2]:
                h = F.relu(math.sqrt(2) * layer(h))
            opt.zero_grad()
            nn.cross_entropy_per_run(layers[2](h), labels[drawn].to(device)).sum().backward()
            if step in (0, steps):
                seen.append(measured(layers[1].weight.grad[:, None]))
            opt.step()
        table[d] = seen
    return table


# %%
def language_optimizer(arm, model, lr, dtype=None):
    """Hidden matrices by the arm, the rest by AdamW, all at one rate: Muon's step is scaled to the size of AdamW's (arXiv 2502.16982)."""
    hidden = [getattr(model, name) for name in HIDDEN]
    rest = [p for p in model.parameters() if all(p is not W for W in hidden)]
    adam = {"betas": (0.9, 0.95), "weight_decay": 0.1}
    if arm == "AdamW":
        return optim.StackedAdam(hidden + rest, lr, **adam)
    groups = [{"params": [W], "multiplier": 0.2 * math.sqrt(max(W.shape[-2:]))} for W in hidden]
    return optim.Together(optim.StackedMuon(groups, lr, weight_decay=0.1, dtype=dtype), optim.StackedAdam(rest, lr, **adam))


def language_run(device, parts, arm, exponents, seeds, shape, *, batch, steps, marks, bf16):
    """Train every rate 2^exponent with every seed: validation loss (rates, seeds) and, at the marks, all measures of three kinds of matrix."""
    model = nn.Transformer(nn.Init(seeds), affine=False, **shape).to(device)
    for p in model.parameters():
        p.data = p.data.repeat(len(exponents), *[1] * (p.ndim - 1))
    start = {name: getattr(model, name).detach().clone() for name in HIDDEN}
    precision, dtype = (torch.bfloat16, torch.bfloat16) if bf16 else (torch.float32, None)
    lr = (2.0 ** torch.tensor(exponents)).repeat_interleave(len(seeds))
    generators, seen = [torch.Generator().manual_seed(seed) for seed in seeds], {}

    def draw(step):
        drawn = [data.windows(parts[0], batch, shape["context"], g) for g in generators]
        return tuple(torch.stack(t).repeat(len(exponents), 1, 1).to(device) for t in zip(*drawn, strict=True))

    def look(step, losses=None):
        if step + 1 in marks:
            weights = {name: getattr(model, name) for name in HIDDEN}
            seen[step + 1] = {"weight": {name: measured(W) for name, W in weights.items()}}
            if step >= 0:
                seen[step + 1]["change"] = {name: measured(W - start[name]) for name, W in weights.items()}
                seen[step + 1]["gradient"] = {name: measured(W.grad) for name, W in weights.items()}

    look(-1)
    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)
    opt = language_optimizer(arm, model, lr, dtype)
    train.fit_graphed(loss, draw, opt, steps, schedule=optim.warmup_cosine, watch=look)
    held_out, valid = torch.Generator().manual_seed(1234), 0.0
    with torch.no_grad():
        for _ in range(16):
            x, y = (t.expand(len(lr), -1, -1).to(device) for t in data.windows(parts[1], batch, shape["context"], held_out))
            valid = valid + loss(x, y) / 16
        ends = {name: (getattr(model, name), getattr(model, name) - start[name]) for name in HIDDEN}
        spectra = {name: [spectrum(M).mean((0, 1)).tolist() for M in pair] for name, pair in ends.items()}
    valid = torch.nan_to_num(valid, nan=99.0, posinf=99.0).view(len(exponents), -1)
    return {"loss": valid.tolist(), "seen": seen, "spectra": spectra}


def language_ranks(device, *, exponents, tuning_seeds, seeds, marks, shape, **config):
    """Per arm: a grid of rates on the tuning seeds, then fresh seeds at the rate of the lowest validation loss, with all marks."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    parts, shape = ids.split([int(0.9 * len(ids)), len(ids) - int(0.9 * len(ids))]), shape | {"vocabulary": len(alphabet)}
    result = {}
    for arm in ARMS:
        grid = language_run(device, parts, arm, exponents, tuning_seeds, shape, marks=marks[-1:], **config)
        means = [sum(row) / len(row) for row in grid["loss"]]
        best = exponents[means.index(min(means))]
        fresh = language_run(device, parts, arm, [best], seeds, shape, marks=marks, **config)
        ends = grid["seen"][marks[-1]]
        entropy = {kind: {name: row["normalized entropy"] for name, row in ends[kind].items()} for kind in ("weight", "change")}
        result[arm] = {"grid": grid["loss"], "grid_entropy": entropy, "best": best, **fresh}
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result


# %%
e5_shape = nb.at_scale(
    cpu={"context": 32, "d": 48, "depth": 2, "heads": 2},
    gpu={"context": 128, "d": 128, "depth": 3, "heads": 4},
    full={"context": 128, "d": 256, "depth": 4, "heads": 4},
)
e5_plan = nb.at_scale(
    cpu={"exponents": [-8.0, -7.0, -6.0, -5.0], "batch": 4, "steps": 120, "marks": [0, 1, 10, 40, 120]},
    gpu={"exponents": [float(e) for e in range(-10, -3)], "batch": 8, "steps": 600, "marks": [0, 1, 10, 50, 200, 600]},
    full={"exponents": [float(e) for e in range(-12, -4)], "batch": 8, "steps": 2000, "marks": [0, 1, 3, 10, 30, 100, 300, 1000, 2000]},
)
e5_seeds = {"tuning_seeds": [0, 1, 2], "seeds": nb.at_scale(cpu=[10, 11, 12], gpu=[10, 11, 12], full=[10, 11, 12, 13])}
bf16 = nb.scale != "cpu" and runtime.has_bf16()
e4 = nb.run("E4", gradient_ranks, widths=[64, 128, 256, 512], seeds=list(range(8)), batch=64, steps=50)
e5 = nb.run("E5", language_ranks, shape=e5_shape, bf16=bf16, **e5_plan, **e5_seeds)


# %%
nb.ledger()
