# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deriving scaling laws from the quantization hypothesis
#
# [基于量子化假设推导模型的尺度定律（Scaling Law）](https://kexue.fm/archives/9607) · 2023-05-18 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/quantization-scaling-law.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, optim, runtime
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED

# %%
nb = kexue_nb.notebook("quantization-scaling-law")

# %% [markdown]
# ## A task made of quanta
#
# CORE


# %%
def zipf(gamma: float, tasks: int) -> torch.Tensor:
    """Frequencies p_k proportional to k^-(gamma+1) of a finite list, (tasks,), float64."""
    p = torch.arange(1, tasks + 1, dtype=torch.float64) ** -(gamma + 1)
    return p / p.sum()


def draw_triples(tasks: int, bits: int, seed: int) -> torch.Tensor:
    """One triple of bits for each task, all different, (tasks, 3)."""
    triples = torch.combinations(torch.arange(bits), 3)
    return triples[torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))[:tasks]]


def encode(task: torch.Tensor, bits: torch.Tensor, tasks: int) -> torch.Tensor:
    """Inputs (..., tasks + n + 1): the task one-hot, its bits (..., n), and a 1 for the bias."""
    one_hot = (task[..., None] == torch.arange(tasks, device=task.device)).float()
    return torch.cat([one_hot, bits.float(), torch.ones_like(one_hot[..., :1])], -1)


def parity(bits: torch.Tensor, triple: torch.Tensor) -> torch.Tensor:
    """Whether an odd number of the three bits is set: bits (..., n), triple (..., 3) -> (...), 0 or 1."""
    return bits.gather(-1, triple).sum(-1) % 2


# %% [markdown]
# The network has one hidden layer.


# %%
def draw_networks(widths: list[int], seeds: list[int], inputs: int) -> list[torch.Tensor]:
    """One-hidden-layer networks, run r with widths[r] units and torch's default initial law, padded with dead units to a common width.

    Hidden weights (R, inputs, w), the last input being the constant of the bias; output weights (R, w, 2) and biases (R, 1, 2).
    """
    top = max(widths)
    hidden, out, bias = torch.zeros(len(widths), inputs, top), torch.zeros(len(widths), top, 2), torch.zeros(len(widths), 1, 2)
    for r, (width, seed) in enumerate(zip(widths, seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        uniform = lambda *shape, fan_in, g=generator: (2 * torch.rand(*shape, generator=g) - 1) / math.sqrt(fan_in)
        hidden[r, :, :width] = uniform(inputs, width, fan_in=inputs - 1)
        out[r, :width] = uniform(width, 2, fan_in=width)
        bias[r] = uniform(1, 2, fan_in=width)
    return [hidden, out, bias]


def bits_lost(network: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in bits of every example: x (B, inputs) for all runs or (R, B, inputs), y (R, B) -> (R, B)."""
    hidden, out, bias = network
    z = torch.baddbmm(bias, torch.bmm(x.expand(len(hidden), -1, -1), hidden).relu(), out)
    return F.softplus((1 - 2 * y) * (z[..., 1] - z[..., 0])) / math.log(2)


# %%
def draw_tasks(p: torch.Tensor, shape: tuple[int, ...], bits: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tasks of frequency p, (*shape,), and their random bits, (*shape, bits), on the generator's device."""
    u = torch.rand(shape, generator=generator, device=generator.device)
    task = torch.searchsorted(p.cumsum(0).float(), u).clamp_max(len(p) - 1)
    return task, torch.randint(2, (*shape, bits), generator=generator, device=generator.device, dtype=torch.uint8)


def online(p, triples, seed_of_run, bits, batch, generator):
    """Fresh examples: all runs see the same inputs (B, inputs), each through the triples of its seed, triples (seeds, tasks, 3)."""
    task, drawn = draw_tasks(p, (batch,), bits, generator)
    return encode(task, drawn, len(p)), parity(drawn.expand(len(triples), -1, -1), triples[:, task])[seed_of_run]


def stored(data_sets, triples, seed_of_run, size_of_run, batch, generator):
    """Examples drawn with replacement from the first size_of_run[r] of the data set of run r's seed; data_sets: (seeds, N), (seeds, N, bits)."""
    u = torch.rand((len(seed_of_run), batch), generator=generator, device=generator.device, dtype=torch.float64)
    row, seed = (u * size_of_run[:, None]).long(), seed_of_run[:, None]
    task, drawn = (part[seed, row] for part in data_sets)
    return encode(task, drawn, triples.shape[1]), parity(drawn, triples[seed, task])


# %% tags=["hide-input"]
def parity_sweep(device, *, gammas, **config) -> dict:
    """``parity_runs`` for each gamma: {"arms", "marks", "sweeps": {gamma: its curves}}."""
    arms = [list(a) for a in itertools.product(config["widths"], config["sizes"], config["rates"], config["seeds"])]
    return {"arms": arms, "marks": config["marks"], "sweeps": {str(g): parity_runs(device, g, arms, **config) for g in gammas}}


def parity_runs(device, gamma, arms, *, tasks, bits, rates, seeds, batch, steps, marks, tests, **sweep) -> dict:
    """Train the arms (width, size, rate, seed) in one pass with Adam at constant rates, TF32 products; size 0: fresh examples.

    Every task is tested on ``tests`` examples at the steps ``marks``; ``summary`` says what comes back.
    """
    torch.set_float32_matmul_precision("high")
    widths, sizes, lr, seed_list = ([arm[i] for arm in arms] for i in range(4))
    p, generator = zipf(gamma, tasks).to(device), torch.Generator(device).manual_seed(1000 + round(100 * gamma))
    triples = torch.stack([draw_triples(tasks, bits, seed) for seed in seeds]).to(device)
    seed_of_run, size_of_run = (torch.tensor(v, device=device) for v in ([seeds.index(s) for s in seed_list], sizes))
    if any(sizes):
        data_sets = draw_tasks(p, (len(seeds), max(sizes)), bits, generator)
        draw = lambda: stored(data_sets, triples, seed_of_run, size_of_run, batch, generator)
    else:
        draw = lambda: online(p, triples, seed_of_run, bits, batch, generator)
    network = [w.to(device).requires_grad_() for w in draw_networks(widths, seed_list, tasks + bits + 1)]
    optimizer = optim.StackedAdam(network, torch.tensor(lr))

    def step():
        optimizer.zero_grad(set_to_none=True)
        bits_lost(network, *draw()).mean(1).sum().backward()
        optimizer.update()

    test_task = torch.arange(tasks, device=device).repeat_interleave(tests)
    test_bits = torch.randint(2, (len(test_task), bits), generator=generator, device=device, dtype=torch.uint8)
    test_y = parity(test_bits.expand(len(seeds), -1, -1), triples[:, test_task])[seed_of_run]
    test_x, advance, rows = encode(test_task, test_bits, tasks), runtime.graphed(step, device, generator), []
    for t in range(steps + 1):
        if t in marks:
            with torch.no_grad():
                rows.append(bits_lost(network, test_x, test_y).view(len(arms), tasks, tests).mean(-1).cpu())
        if t < steps:
            advance()
    return summary(torch.stack(rows).double(), p.cpu(), marks, len(rates) * len(seeds))


# %% tags=["hide-input"]
def summary(by_task: torch.Tensor, p: torch.Tensor, marks: list[int], last: int) -> dict:
    """The curves to keep of the losses by_task (marks, R, tasks) in bits; p (tasks,) are the frequencies.

    Mean losses and numbers of tasks below half a bit, both (marks, R); what the unlearned tasks lose on average at a run's best mark (R,); the
    mark at which each task of the ``last`` runs first falls below half a bit (last, tasks), 0 for never; all losses (marks, tasks) of the last run.
    """
    loss, learned = by_task @ p, by_task < 0.5
    best = loss.argmin(0)
    at_best = by_task[best, torch.arange(len(best))]
    missing = (at_best >= 0.5).double() * p
    first = torch.where(learned.any(0), torch.tensor(marks)[learned.double().argmax(0)], 0)
    return {
        "loss": loss.tolist(),
        "learned": learned.sum(-1).tolist(),
        "unlearned": ((at_best * missing).sum(-1) / missing.sum(-1).clamp_min(1e-12)).tolist(),
        "crossing": first[-last:].tolist(),
        "tasks": by_task[:, -1].tolist(),
    }


# %%
def log_marks(steps: int, count: int) -> list[int]:
    """0 and ``count`` steps up to ``steps``, evenly spaced on a log axis from 20."""
    return sorted({0, *(round(20 * (steps / 20) ** (i / (count - 1))) for i in range(count))})


small = {"gammas": [0.5], "tasks": 16, "bits": 16, "seeds": [1, 2, 3], "tests": 100}
large = {"gammas": [0.4, 0.6], "tasks": 200, "bits": 64, "seeds": [1, 2, 3], "tests": 50}
widths_large = [8, 12, 18, 28, 43, 67, 104, 161, 250]
rates = [1e-3, 3e-3, 1e-2]
config_n = nb.at_scale(
    cpu=small | {"widths": [4, 8, 16, 32, 64], "sizes": [0], "rates": [5e-3], "batch": 384, "steps": 2000, "marks": log_marks(2000, 24)},
    gpu=large | {"widths": widths_large[::2], "sizes": [0], "rates": [3e-3], "batch": 2048, "steps": 8000, "marks": log_marks(8000, 40)},
    full=large | {"widths": widths_large, "sizes": [0], "rates": rates, "batch": 4096, "steps": 24000, "marks": log_marks(24000, 60)},
)
config_s = nb.at_scale(
    cpu=small | {"widths": [128], "sizes": [0], "rates": [3e-3], "batch": 768, "steps": 2500, "marks": log_marks(2500, 48)},
    gpu=large | {"widths": [256], "sizes": [0], "rates": [3e-3], "batch": 4096, "steps": 8000, "marks": log_marks(8000, 60)},
    full=large | {"widths": [512], "sizes": [0], "rates": rates, "batch": 4096, "steps": 26000, "marks": log_marks(26000, 90)},
)
sizes_large = [8000 * 2**i for i in range(9)]
config_d = nb.at_scale(
    cpu=small
    | {"widths": [96], "sizes": [800, 1600, 3200, 6400, 12800], "rates": [3e-3], "batch": 256, "steps": 1300, "marks": log_marks(1300, 24)},
    gpu=large | {"widths": [128], "sizes": sizes_large[:7:2], "rates": [3e-3], "batch": 2048, "steps": 6000, "marks": log_marks(6000, 40)},
    full=large
    | {"widths": [256], "sizes": sizes_large, "rates": [1e-3, 3e-3], "batch": 4096, "steps": 22000, "marks": log_marks(22000, 70)},
)

# %% tags=["nbval-ignore-output"]
by_width = nb.run("E2N", parity_sweep, **config_n)
by_step = nb.run("E2S", parity_sweep, **config_s)
by_data = nb.run("E2D", parity_sweep, **config_d)
# %% [markdown]
# ## The question
#
# The question with its intuition, the notation, and where this notebook sits among the others.
#
# ## The derivation
#
# Prose and formula first, then the check of just that step, starting from the definition.

# %%
x, a = sp.symbols("x a", positive=True)
nb.derivation("D1", "The derivative of x^a is a x^(a-1).", sym.identity("power rule", sp.Derivative(x**a, x), a * x ** (a - 1)))

# %% [markdown]
# ## The algorithm
#
# ## Experiments
#
# ## The paper's numbers beside ours
#
# ## Beyond the post
#
# ## What does not hold
#
# ## Exercises
#
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
