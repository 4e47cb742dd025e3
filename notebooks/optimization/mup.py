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
# **The point.** POINT

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, mup, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE

# %%
nb = kexue_nb.notebook("mup")

# %% [markdown]
# ## The algorithm
#
# The network of the first five experiments: $64\to d\to\dots\to d\to10$, no biases, relu behind every layer but the last. It is a *stack*: every tensor leads with an axis of runs, so that a
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
# The parametrisations. "SP" is the standard one: deviation $\sqrt{2/\text{fan-in}}$ behind a relu, $\sqrt{1/\text{fan-in}}$ otherwise, one rate for all layers. muP takes its multipliers from `kexue_nb.mup`,
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


e1b_widths = nb.at_scale(cpu=[32, 64, 128, 256], gpu=[64, 128, 256, 512, 1024], full=[32, 64, 128, 256, 512, 1024, 2048, 4096])
e1b = nb.run(
    "E1b",
    muon_update,
    widths=e1b_widths,
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1], full=[0, 1, 2, 3]),
    batches=nb.at_scale(cpu=[4, 1797], gpu=[4, 16, 64, 256, 1797], full=[4, 16, 64, 256, 1797]),
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


def check_widths(device, *, widths, seeds, steps, cases):
    """few_steps for every case (rule, optimizer) and width: "rule optimizer" -> what was seen -> one row a width."""
    return {" ".join(case): zip_rows([few_steps(device, d, seeds, steps, *case) for d in widths]) for case in cases}


# %%
e2_widths = nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024], full=[64, 128, 256, 512, 1024, 2048, 4096])
e2_cases = [[rule, optimizer] for rule in ("SP", "muP") for optimizer in mup.OPTIMIZERS]
e2_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
e2 = nb.run("E2", check_widths, widths=e2_widths, seeds=e2_seeds, steps=5, cases=e2_cases)

# %% [markdown]
# ## E3: the one-parameter family
#
# **Question.** D6 leaves $s$ free: do all members of the family decrease the loss alike, and does only $s=1$ move the features at every width? **Set-up.** SGD with readout deviation $\propto d^{-s}$ and rates $\propto(d^{2s-1},d^{2s-2},d^{-1})$, relative to $d=64$, ten
# full-batch steps. **Expected.** Feature change $\propto d^{s-1}$, loss decrease free of $d$.


# %%
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

# %% [markdown]
# ## E4: does the best learning rate transfer? Adam on digits
#
# **Question.** The one that muP exists for. **Set-up.** One hidden layer, batches of 64, constant rate; the loss is the mean over the last fifth of the training. Every width gets the whole grid of rates, with all seeds, in one stack, under SP and under muP. The two share their base
# network; what each layer's own constant should be *there* is tuned too (E4b), on other seeds, and both parametrisations are run with these constants as well.


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

# %% [markdown]
# ## E6: does it transfer on a transformer?
#
# **Question.** The same on real text, with attention, norms and embeddings. **Set-up.** Character-level transformers on Shakespeare's plays: 2 layers, heads of fixed size (so that the attention's scale, a function of the head size, is the same in both parametrisations), AdamW without decay, warm-up and cosine. Every width
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
        cpu={"32": octave_range(-7, -4), "128": octave_range(-9, -6)},
        gpu={str(d): octave_range(-10, -5) for d in (64, 128, 256, 512)},
        full={"64": octave_range(-9, -4), "128": octave_range(-9, -4), "256": octave_range(-10, -5)}
        | {"512": octave_range(-11, -5), "1024": octave_range(-12, -5)},
    ),
    "muP": nb.at_scale(
        cpu={str(d): octave_range(-7, -4) for d in (32, 128)},
        gpu={str(d): octave_range(-9, -4) for d in (64, 128, 256, 512)},
        full={str(d): octave_range(-9, -4) for d in (64, 128, 256, 512, 1024)},
    ),
}
e6_training = nb.at_scale(cpu={"batch": 8, "steps": 40}, gpu={"batch": 32, "steps": 300}, full={"batch": 32, "steps": 500})
e6_seeds = nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3])
bf16 = nb.scale != "cpu" and runtime.has_bf16()
e6 = nb.run("E6", language_transfer, grids=e6_grids, seeds=e6_seeds, shape=e6_shape, bf16=bf16, **e6_training)
e6b_widths = nb.at_scale(cpu=[32, 64, 128, 256], gpu=[64, 128, 256, 512], full=[64, 128, 256, 512, 1024])
e6b_seeds = nb.at_scale(cpu=[0, 1], gpu=[0, 1], full=[0, 1, 2, 3])
e6b = nb.run("E6b", language_check, widths=e6b_widths, seeds=e6b_seeds, shape=e6_shape, exponent=-8.0, batch=8, steps=5)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()
