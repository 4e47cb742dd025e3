# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Higher-order muP: the spectral condition
#
# [高阶MuP：更简明但更高明的谱条件缩放](https://kexue.fm/archives/10795) · 2025-03-24 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/mup-spectral.ipynb)
#
# **The point.** muP is a table that says, layer type by layer type and optimizer by optimizer, how initial variance and learning rate must change with the width.
# The post replaces the table by one requirement: the spectral norms of every weight matrix *and of every update* shall be of the order
# $\sqrt{\text{fan-out}/\text{fan-in}}$. Three one-line formulas for the rates follow, and the table's entries are their limits. The upper bounds are theorems.
# The lower bounds rest on one measurable number, the *alignment*: here it gets its exact laws, and a test at four widths of a transformer.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, positions, runtime, train
from kexue_nb.plotting import BLUE, GREEN, ORANGE

# %%
nb = kexue_nb.notebook("mup-spectral")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels against the width on log axes: initial variance, and the learning rates of SGD, Adam and Muon, each for the input, hidden and output matrix. Every curve bends into a straight line whose slope is the exponent in the muP table: for example 1, 0 and minus 1 for SGD."}}
ds = np.geomspace(8, 4096, 100)
shapes_of = {"input 64 × d": (64 + 0 * ds, ds), "hidden d × d": (ds, ds), "output d × 10": (ds, 10 + 0 * ds)}
formulas = {
    "initial variance": lambda m, n: np.minimum(1, n / m) / m,
    "SGD rate": lambda m, n: n / m,
    "Adam rate": lambda m, n: 1 / m,
    "Muon rate": lambda m, n: np.sqrt(n / m),
}
table_entry = {"initial variance": "0 −1 −2", "SGD rate": "1 0 −1", "Adam rate": "0 −1 −1", "Muon rate": "½ 0 −½"}
figure, panels = plt.subplots(1, 4, figsize=(8.4, 3.1))
for axes, (name, formula) in zip(panels, formulas.items(), strict=True):
    entries = table_entry[name].split()
    for (shape, sides), exponent, color, style in zip(shapes_of.items(), entries, (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=True):
        axes.plot(ds, formula(*sides), color=color, ls=style, label=f"{shape}")
        axes.annotate(exponent, (ds[-1] * 1.1, formula(*sides)[-1]), fontsize=9, color=color, va="center", annotation_clip=False)
    axes.set(xscale="log", yscale="log", xlabel="width d (log axis)")
    axes.set_title(name, fontsize=10)
panels[0].set_ylabel("value (log axis)")
panels[0].legend(fontsize=7, loc="lower left")
figure.suptitle(
    "Four formulas in fan-in and fan-out; at the right end the exponents of the muP table",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)


# %%
def spectral_std(d_in, d_out):
    return math.sqrt(min(1, d_out / d_in) / d_in)


def spectral_rate(kind, d_in, d_out):
    return {"SGD": d_out / d_in, "Adam": 1 / d_in, "Muon": math.sqrt(d_out / d_in)}[kind]


# %%
def quick_norm(M, iterations=8):
    """Largest singular value by power iteration from M^T 1: tensor operations alone, so that a CUDA graph can hold it."""
    v = M.sum(-2)[..., None]
    for _ in range(iterations):
        v = M.mT @ (M @ v)
        v = v / (torch.linalg.vector_norm(v, dim=-2, keepdim=True) + 1e-30)
    return torch.linalg.vector_norm(M @ v, dim=(-2, -1))


# %%
class SpectralAdam(optim.StackedAdam):
    """SN(Adam): Adam's direction divided by its spectral norm."""

    def direction(self, p, state):
        phi = super().direction(p, state)
        return phi / quick_norm(phi)[..., None, None]


class MsignAdam(optim.StackedAdam):
    """msign(Adam): Adam's direction with its singular values set to 1, by Newton-Schulz in ``dtype``."""

    dtype = None

    def direction(self, p, state):
        return optim.newton_schulz(super().direction(p, state), dtype=self.dtype)


ADAM = {"betas": (0.9, 0.95), "eps": 1e-12}


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


def outputs(weights, x, phi=F.relu):
    """x_0, x_1, .., x_K of every run, each (runs, n, d_k), for rows x (n, d_0) or (runs, n, d_0); no phi after the last layer."""
    xs = [x.expand(len(weights[0]), *x.shape[-2:])]
    for W in weights[:-1]:
        xs.append(phi(xs[-1] @ W))
    return [*xs, xs[-1] @ weights[-1]]


# %%
def losses(weights, x, y, phi=F.relu):
    """Mean cross-entropy of each run on rows x with labels y."""
    z = outputs(weights, x, phi)[-1]
    return nn.cross_entropy_per_run(z, y.expand(z.shape[:-1]))


# %% [markdown]
# And the measures: the relative norm, the alignment, and an exact msign for gradients of low rank. (A batch of 64 rows gives a gradient of rank at most 64, so its polar factor
# needs only a small SVD at any width. At zero singular values an SVD would add arbitrary directions; they are cut off.)


# %%
def relative_norm(W, iterations=60):
    """sqrt(d_in/d_out) ||W||_2, the RMS-to-RMS operator norm, (..., d_in, d_out) -> (...), by power iteration."""
    return metrics.spectral_norm(W, iterations) / optim.spectral_multiplier(*W.shape[-2:])


def tightness(x, W):
    """The alignment of W with the rows of x: what metrics.alignment gives, by power iteration."""
    return metrics.rms((x @ W).flatten(-2)) / (metrics.rms(x.flatten(-2)) * relative_norm(W))


def compress(G, rank=72):
    """G = Q C P^T with Q, P orthonormal and C small, for a G of rank at most ``rank``: a batch of 64 rows gives no more."""
    noise = torch.randn(*G.shape[:-2], G.shape[-1], rank, dtype=G.dtype, device=G.device)
    Q = torch.linalg.qr(G @ noise).Q
    P, R = torch.linalg.qr((Q.mT @ G).mT)
    return Q, R.mT, P


class MsignDescent(optim.StackedSGD):
    """Muon without momentum: the exact matrix sign of a gradient of low rank."""

    def direction(self, p, state):
        Q, C, P = compress(super().direction(p, state))
        return Q @ optim.msign(C) @ P.mT


# %%
BASE = {"SGD": 0.05, "Adam": 0.02, "Muon": 0.02}
PHI = {"relu": F.relu, "tanh": torch.tanh, "GELU": F.gelu, "sigmoid": torch.sigmoid}


def scaling(rule, kind, shapes):
    """Initial deviations and learning rates of all layers; "standard" is fan-in initialisation and one rate for all."""
    if rule == "spectral":
        return [spectral_std(*s) for s in shapes], [BASE[kind] * spectral_rate(kind, *s) for s in shapes]
    return [1 / math.sqrt(m) for m, _ in shapes], [BASE[kind] / (64 if kind == "Adam" else 1)] * len(shapes)


def descent(kind, weights, rates):
    """SGD, Adam or msign descent, one rate a layer."""
    groups = [{"params": [W], "multiplier": rate} for W, rate in zip(weights, rates, strict=True)]
    make = {"SGD": optim.StackedSGD, "Adam": lambda *a: optim.StackedAdam(*a, **ADAM), "Muon": MsignDescent}[kind]
    return make(groups, torch.ones(len(weights[0])))


@torch.no_grad()
def look(weights, x, phi, start=None):
    """Relative norm and alignment, one a layer, of the weights or, given ``start``, of their change since then."""
    matrices = weights if start is None else [W - S for W, S in zip(weights, start, strict=True)]
    xs, norms = outputs(weights, x, phi)[:-1], [relative_norm(M) for M in matrices]
    reach = [metrics.rms((h @ M).flatten(1)) / metrics.rms(h.flatten(1)) for h, M in zip(xs, matrices, strict=True)]
    return [float(n.mean()) for n in norms], [float((r / n).mean()) for r, n in zip(reach, norms, strict=True)]


# %%
def few_steps(device, d, seeds, steps, rule, kind, activation):
    """Full-batch steps of a 64-d-d-d-10 network on 64 digits: losses, and for every layer changes, relative norms, alignments."""
    x, y = (t[:64] for t in digits(device))
    phi, shapes = PHI[activation], [(64, d), (d, d), (d, d), (d, 10)]
    stds, rates = scaling(rule, kind, shapes)
    gain = 2**0.5 if activation == "relu" else 1.0
    weights = network(seeds, shapes, [*(gain * s for s in stds[:3]), stds[3]], device)
    start, opt, seen = [W.detach().clone() for W in weights], descent(kind, weights, rates), {"loss": []}
    seen["norm 0"], seen["alignment 0"] = look(weights, x, phi)
    seen["rms 0"] = [float(metrics.rms(t.detach().flatten())) for t in outputs(weights, x, phi)[1:]]

    def step(t):
        loss = losses(weights, x, y, phi)
        seen["loss"].append(float(loss.detach().mean()))
        opt.zero_grad(set_to_none=True)
        loss.sum().backward()
        opt.step()
        if t + 1 in (1, steps):
            seen[f"norm {t + 1}"], seen[f"alignment {t + 1}"] = look(weights, x, phi, start)

    moved = train.coordinate_check(lambda: dict(enumerate(outputs(weights, x, phi)[1:])), step, steps)
    seen["features"] = [float(change[-1].mean()) for change in moved.values()]
    return seen | {"loss": [*seen["loss"], float(losses(weights, x, y, phi).detach().mean())]}


# %%
def spectral_check(device, *, widths, seeds, steps, cases):
    """few_steps for every case (rule, optimizer, activation): case -> what was seen -> one row a width."""
    table = {}
    for case in cases:
        rows = [few_steps(device, d, seeds, steps, *case) for d in widths]
        table[" ".join(case)] = {key: [row[key] for row in rows] for key in rows[0]}
    return table


# %%
e1_widths = nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024], full=[64, 128, 256, 512, 1024, 2048, 4096])
e1_cases = [[rule, kind, "relu"] for rule in ("standard", "spectral") for kind in BASE]
e1_cases += [["spectral", "Adam", activation] for activation in PHI if activation != "relu"]
e1 = nb.run(
    "E1",
    spectral_check,
    widths=e1_widths,
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3]),
    steps=5,
    cases=e1_cases,
)


# %%
def gradient_norms(device, *, widths, seeds):
    """Of the first gradients of a 64-d-d-d-10 network with a small readout, and of their signs: norms and ranks, a row a width."""
    x, y = (t[:64] for t in digits(device))
    table = {}
    for d in widths:
        shapes = [(64, d), (d, d), (d, d), (d, 10)]
        weights = network(seeds, shapes, [*(math.sqrt(2 / m) for m, _ in shapes[:3]), 0.1 / d], device)
        losses(weights, x, y).sum().backward()
        for name in ("norm", "stable rank", "nuclear / norm", "sign norm", "sign stable rank"):
            table.setdefault(name, []).append([])
        for G in (W.grad for W in weights):
            sigma = torch.linalg.svdvals(compress(G)[1])
            sign_norm = metrics.spectral_norm(G.sign(), 60)
            table["norm"][-1].append(sigma[:, 0].mean())
            table["stable rank"][-1].append((sigma.square().sum(1) / sigma[:, 0].square()).mean())
            table["nuclear / norm"][-1].append((sigma.sum(1) / sigma[:, 0]).mean())
            table["sign norm"][-1].append(sign_norm.mean())
            table["sign stable rank"][-1].append((G.sign().square().sum((1, 2)) / sign_norm.square()).mean())
    return table


# %%
e2_widths = nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024, 2048], full=[64, 128, 256, 512, 1024, 2048, 4096])
e2 = nb.run("E2", gradient_norms, widths=e2_widths, seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=list(range(8))))


# %%
def sign_norms(device, *, sizes, batches, draws, iterations):
    """||sign(U V^T)||_2 / n for Gaussian U, V of shape (n, B): n -> one row a batch size B, one entry a draw."""
    generator = torch.Generator(device=device).manual_seed(0)
    table = {}
    for n in sizes:
        for B in batches:
            U, V = torch.randn(2, draws, n, B, generator=generator, device=device)
            table.setdefault(str(n), []).append(metrics.spectral_norm((U @ V.mT).sign(), iterations) / n)
    return table


# %%
sign_batches = nb.at_scale(
    cpu=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048],
    gpu=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
    full=[2**k for k in range(15)],
)
x_sign = nb.run(
    "X3",
    sign_norms,
    sizes=nb.at_scale(cpu=[512], gpu=[512, 2048], full=[512, 2048, 8192]),
    batches=sign_batches,
    draws=nb.at_scale(cpu=2, gpu=4, full=4),
    iterations=nb.at_scale(cpu=150, gpu=300, full=400),
)


# %%
def bottleneck_scaling(rule, shapes):
    """Deviations and Adam rates of a 64-d-r-d-10 network under three readings of its two middle matrices."""
    d = shapes[0][1]
    stds, rates = [spectral_std(*s) for s in shapes], [spectral_rate("Adam", *s) for s in shapes]
    if rule == "hidden":  # both as if they were d x d
        stds[1:3], rates[1:3] = [1 / math.sqrt(d)] * 2, [1 / d] * 2
    if rule == "fixed":  # an output and an input matrix whose narrow side is the constant 16
        stds[1:3], rates[1:3] = [4 / d, 1 / 4], [1 / d, 1 / 16]
    return stds, rates


# %%
def bottleneck(device, *, widths, seeds, steps, rate, images, cases):
    """Loss decrease and RMS feature changes after full-batch Adam steps: (rule, "16" or "root d") -> one row a width."""
    x, y = (t[:images] for t in digits(device))
    table = {}
    for rule, narrow in cases:
        for d in widths:
            r = 16 if narrow == "16" else math.isqrt(d)
            shapes = [(64, d), (d, r), (r, d), (d, 10)]
            stds, rates = bottleneck_scaling(rule, shapes)
            weights = network(seeds, shapes, [*(2**0.5 * s for s in stds[:3]), stds[3]], device)
            start, first = [t.detach() for t in outputs(weights, x)], losses(weights, x, y).detach()
            train.fit(lambda step, w=weights: losses(w, x, y), descent("Adam", weights, [rate * c for c in rates]), steps)
            with torch.no_grad():
                moved = [metrics.rms((a - b).flatten(1)).mean() for a, b in zip(outputs(weights, x), start, strict=True)][1:]
                table.setdefault(f"{rule}, r = {narrow}", []).append({"features": moved, "decrease": first - losses(weights, x, y)})
    return table


# %%
e4_widths = nb.at_scale(cpu=[128, 256, 512, 1024, 2048], gpu=[128, 512, 2048, 8192], full=[2**k for k in range(7, 16)])
e4_cases = [["spectral", "16"], ["hidden", "16"], ["spectral", "root d"], ["hidden", "root d"], ["fixed", "root d"]]
e4 = nb.run(
    "E4",
    bottleneck,
    widths=e4_widths,
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2], full=list(range(8))),
    steps=20,
    rate=0.1,
    images=nb.at_scale(cpu=128, gpu=512, full=512),
    cases=e4_cases,
)


# %% tags=["hide-input"]
def long_run(device, *, widths, seeds, steps, marks, rate, batch):
    """Minibatch Adam by the spectral rule on digits: width -> for every mark the alignments of W_t - W_0 and of W_out, RMS(x_K), loss."""
    x, y = digits(device)
    table = {}
    for d in widths:
        shapes = [(64, d), (d, d), (d, d), (d, 10)]
        stds = [spectral_std(*s) for s in shapes]
        weights = network(seeds, shapes, [*(2**0.5 * s for s in stds[:3]), stds[3]], device)
        opt = descent("Adam", weights, [rate * spectral_rate("Adam", *s) for s in shapes])
        generator, start, rows = torch.Generator(device=device).manual_seed(0), [W.detach().clone() for W in weights], []

        def draw(step, generator=generator):
            at = torch.randint(len(x), (batch,), generator=generator, device=device)
            return x[at], y[at]

        @torch.no_grad()
        def watch(step, loss, weights=weights, start=start, rows=rows):
            if step + 1 in marks:
                xs, changes = outputs(weights, x[:64]), look(weights, x[:64], F.relu, start)[1]
                rows.append(
                    [
                        *changes,
                        *map(float, (tightness(xs[3], weights[3]).mean(), metrics.rms(xs[4].flatten()), losses(weights, x, y).mean())),
                    ]
                )

        train.fit_graphed(lambda x, y, w=weights: losses(w, x, y), draw, opt, steps, watch=watch)
        table[str(d)] = rows
    return table


# %%
e5_marks = nb.at_scale(cpu=[1, 3, 10, 30, 100], gpu=[1, 3, 10, 30, 100, 400], full=[1, 3, 10, 30, 100, 400, 2000])
e5 = nb.run(
    "E5",
    long_run,
    widths=nb.at_scale(cpu=[64, 128, 256, 512], gpu=[64, 128, 256, 512, 1024], full=[64, 128, 256, 512, 1024, 2048, 4096]),
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3]),
    steps=max(e5_marks),
    marks=e5_marks,
    rate=0.05,
    batch=64,
)


# %%
def arm_optimizer(arm, weights, lr, dtype=None):
    """The optimizer of one arm for matrices (runs, .., d_in, d_out); each rate is lr times the spectral rule, or in "standard Adam" lr."""
    kind = "Adam" if arm in ("Adam", "standard Adam") else "Muon"
    factor = lambda shape: 1.0 if arm == "standard Adam" else spectral_rate(kind, *shape)
    groups = [{"params": [W], "multiplier": factor(W.shape[-2:])} for W in weights]
    if arm.startswith("Muon"):
        momentum = {"momentum": 0.9, "nesterov": False} if arm == "Muon 0.9" else {"momentum": 0.95, "nesterov": True}
        return optim.StackedMuon(groups, lr, dtype=dtype, **momentum)
    made = {"SN(Adam)": SpectralAdam, "msign(Adam)": MsignAdam}.get(arm, optim.StackedAdam)(groups, lr, **ADAM)
    made.dtype = dtype
    return made


def finite(values, cap=9.0):
    """Values with divergence written as ``cap``: a record holds finite numbers."""
    return values.nan_to_num(nan=cap, posinf=cap).clamp(max=cap)


def minibatches(seeds, copies, count, steps, batch, device):
    """Row numbers (runs, steps, batch), drawn by each seed, for the seeds repeated ``copies`` times."""
    drawn = [torch.randint(count, (steps, batch), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).repeat(copies, 1, 1).to(device)


# %%
def rate_transfer(device, *, arms, widths, seeds, steps, batch, tail):
    """Mean training loss of the last ``tail`` steps of 64-d-d-10 networks on digits: arm -> width -> (rates, seeds)."""
    x, y = digits(device)
    table = {}
    for arm, exponents in arms.items():
        lr = (2.0 ** torch.tensor(exponents)).repeat_interleave(len(seeds))
        rows = minibatches(seeds, len(exponents), len(x), steps, batch, device)
        table[arm] = {}
        for d in widths:
            shapes = [(64, d), (d, d), (d, 10)]
            last = 1 / math.sqrt(d) if arm == "standard Adam" else spectral_std(d, 10)
            weights = network(seeds, shapes, [*(2**0.5 * spectral_std(*s) for s in shapes[:2]), last], device, len(exponents))
            total = torch.zeros(len(lr), device=device)

            def watch(step, losses, total=total):
                if step >= steps - tail:
                    total.add_(losses / tail)

            loss = lambda step, w=weights, rows=rows: losses(w, x[rows[:, step]], y[rows[:, step]])
            train.fit(loss, arm_optimizer(arm, weights, lr), steps, watch=watch)
            table[arm][str(d)] = finite(total).view(len(exponents), len(seeds))
    return table


# %%
e7_arms = nb.at_scale(
    cpu={"standard Adam": [-11, -9, -8, -7, -6, -5, -4], "Adam": [-3, -2, -1, 0, 1, 2], "SN(Adam)": [-6, -5, -4, -3, -2, -1]},
    gpu={"standard Adam": list(range(-13, -3)), "Adam": list(range(-4, 4)), "SN(Adam)": list(range(-7, 1))},
    full={"standard Adam": list(range(-17, -3)), "Adam": list(range(-4, 5)), "SN(Adam)": list(range(-8, 1))},
)
e7 = nb.run(
    "E7",
    rate_transfer,
    arms={arm: [float(e) for e in exponents] for arm, exponents in e7_arms.items()},
    widths=nb.at_scale(cpu=[32, 64, 128, 256], gpu=[32, 64, 128, 256, 512, 1024], full=[32, 64, 128, 256, 512, 1024, 2048, 4096]),
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=60, gpu=100, full=100),
    batch=64,
    tail=20,
)


# %%
def generalised_muon(device, *, arms, seeds, d, steps, batch):
    """MNIST at 14 x 14, networks 196-d-d-d-10: arm -> losses on 4,000 training, 500 validation, 500 test images, (rates, seeds) each."""
    images, labels = data.mnist5000()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = F.avg_pool2d(images[order, None].float(), 2).flatten(1)
    x, y = ((x - x.mean()) / x.std()).to(device), labels[order].to(device)
    parts, table = {"train": slice(0, 4000), "valid": slice(4000, 4500), "test": slice(4500, 5000)}, {}
    shapes = [(196, d), (d, d), (d, d), (d, 10)]
    stds = [*(2**0.5 * spectral_std(*s) for s in shapes[:3]), spectral_std(d, 10)]
    for arm, exponents in arms.items():
        lr = (2.0 ** torch.tensor(exponents)).repeat_interleave(len(seeds))
        weights = network(seeds, shapes, stds, device, len(exponents))
        rows = minibatches(seeds, len(exponents), 4000, steps, batch, device)
        loss = lambda step, w=weights, rows=rows: losses(w, x[rows[:, step]], y[rows[:, step]])
        train.fit(loss, arm_optimizer(arm, weights, lr), steps, schedule=lambda step, steps: 1 - step / steps)
        with torch.no_grad():
            finals = {part: losses(weights, x[at], y[at]) for part, at in parts.items()}
        table[arm] = {part: finite(final).view(len(exponents), len(seeds)) for part, final in finals.items()}
    return table


# %%
halves = lambda low, high: [low + k / 2 for k in range(int(2 * (high - low)) + 1)]
e6_arms = nb.at_scale(
    cpu={"Adam": [-1, 0, 1], "SN(Adam)": [-4, -3, -2], "Muon": [-5, -4, -3], "Muon 0.9": [-5, -4, -3], "msign(Adam)": [-5, -4, -3]},
    gpu={"Adam": halves(-3, 3), "SN(Adam)": halves(-6, 0), **{arm: halves(-8, -2) for arm in ("Muon", "Muon 0.9", "msign(Adam)")}},
    full={"Adam": halves(-4, 4), "SN(Adam)": halves(-7, 1), **{arm: halves(-9, -1) for arm in ("Muon", "Muon 0.9", "msign(Adam)")}},
)
e6 = nb.run(
    "E6",
    generalised_muon,
    arms={arm: [float(e) for e in exponents] for arm, exponents in e6_arms.items()},
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2, 3], full=list(range(16))),
    d=nb.at_scale(cpu=64, gpu=128, full=128),
    steps=nb.at_scale(cpu=100, gpu=200, full=200),
    batch=128,
)
# %%
HIDDEN = ("wq", "wk", "wv", "wo", "w1", "w2")


def sublayer_inputs(model, ids):
    """The rows that every matrix multiplies, rebuilt from the hidden states: name -> one (runs, n, d_in) a layer. Pre-norm, rotary positions."""
    states, rows, place = list(model.states(ids)), {}, torch.arange(ids.shape[-1], device=ids.device)
    heads = lambda t: t.unflatten(-1, (model.heads, -1)).transpose(-2, -3)  # (runs, batch, heads, T, d_head)
    normed = lambda x, gain: F.rms_norm(x, x.shape[-1:]) * gain[:, None, None]
    times = lambda x, W: x @ W[:, None]
    for l in range(model.depth):
        h = normed(states[2 * l], model.gains[:, 2 * l])
        q, k, v = (heads(times(h, W[:, l])) for W in (model.wq, model.wk, model.wv))
        q, k = (positions.apply_rope(t, place, model.angles[0, 0, 0, 1]) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-2, -3).flatten(-2)
        g = normed(states[2 * l + 1], model.gains[:, 2 * l + 1])
        here = {"wq": h, "wk": h, "wv": h, "wo": mixed, "w1": g, "w2": F.gelu(times(g, model.w1[:, l]))}
        for name, x in here.items():
            rows.setdefault(name, []).append(x.flatten(1, 2))
    return rows | {"head": [normed(states[-1], model.final_gain).flatten(1, 2)]}


# %%
@torch.no_grad()
def spectral_state(model, start, ids):
    """Averaged over layers, (runs,) each: relative norms of W and of W - start, alignment of W - start with its present input."""
    inputs, seen = sublayer_inputs(model, ids), {}
    for name, first in start.items():
        W = model.head.weight[:, None] if name == "head" else getattr(model, name)  # (runs, layers, d_in, d_out)
        delta, x = W - first, torch.stack(inputs[name], 1)
        change = relative_norm(delta, 24)
        reach = metrics.rms((x @ delta).flatten(-2)) / metrics.rms(x.flatten(-2))
        seen[name] = [finite(t.mean(1), 1e6).tolist() for t in (relative_norm(W, 24), change, reach / change)]
    return seen


# %%
def language_model(device, arm, rates, shape, seeds, base):
    """A stack over rates and seeds, its readout by the arm's rule (written relative to the width ``base``), and its first matrices."""
    model = nn.Transformer(nn.Init(seeds), **shape).to(device)
    with torch.no_grad():
        for p in model.parameters():
            p.data = p.data.repeat(len(rates), *[1] * (p.ndim - 1))
        if arm != "standard Adam":
            model.head.weight.mul_(math.sqrt(base / shape["d"]))
    start = {name: getattr(model, name).detach().clone() for name in HIDDEN}
    return model, start | {"head": model.head.weight.detach()[:, None].clone()}


def language_optimizer(arm, model, lr, rest_lr, base, dtype):
    """Hidden matrices by the arm at rate lr; embeddings, gains and head by Adam at rate rest_lr.

    Adam's rule 1/d_in is written relative to the width ``base``: there the spectral and the standard rule are the same.
    """
    hidden, head = [getattr(model, name) for name in HIDDEN], model.head.weight
    rest = [p for p in model.parameters() if all(p is not W for W in (*hidden, head))]
    down = 1.0 if arm == "standard Adam" else base / head.shape[1]
    adam = optim.StackedAdam([{"params": rest}, {"params": [head], "multiplier": down}], rest_lr, **ADAM)
    if arm in ("Adam", "standard Adam"):
        return optim.Together(optim.StackedAdam([{"params": hidden, "multiplier": down}], lr, **ADAM), adam)
    return optim.Together(arm_optimizer(arm, hidden, lr, dtype), adam)


# %% tags=["hide-input"]
def language_run(device, parts, arm, rates, shape, *, seeds, batch, steps, marks, base, bf16):
    """One arm at one width: validation loss (rates, seeds), the spectral state at the marks for the first seed, seconds a step."""
    model, start = language_model(device, arm, rates, shape, seeds, base)
    precision, dtype = (torch.bfloat16, torch.bfloat16) if bf16 else (torch.float32, None)
    lr, rest_lr = (2.0 ** torch.tensor(rates).T).repeat_interleave(len(seeds), 1)
    generators, states, clock = [torch.Generator().manual_seed(seed) for seed in seeds], {}, []

    def draw(source, generators):
        drawn = [data.windows(source, batch, shape["context"], g) for g in generators]
        return [torch.stack(t).repeat(len(rates), 1, 1).to(device) for t in zip(*drawn, strict=True)]

    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)
    probe = draw(parts[1], [torch.Generator().manual_seed(999) for _ in seeds])[0][:, :1]

    def watch(step, losses):
        if step + 1 in marks:
            losses.sum().item()  # waits for the device
            clock.append(time.perf_counter())
            seen = spectral_state(model, start, probe)
            states[step + 1] = {name: [row[:: len(seeds)] for row in rows] for name, rows in seen.items()}
            clock.append(time.perf_counter())

    opt = language_optimizer(arm, model, lr, rest_lr, base, dtype)
    train.fit_graphed(loss, lambda step: draw(parts[0], generators), opt, steps, schedule=optim.warmup_cosine, watch=watch)
    with torch.no_grad():
        valid = [loss(*draw(parts[1], [torch.Generator().manual_seed(1000 + i) for _ in seeds])) for i in range(8)]
    seconds = (clock[-2] - clock[-3]) / (marks[-1] - marks[-2])
    return {"loss": finite(torch.stack(valid).mean(0)).view(len(rates), -1), "state": states, "seconds": seconds}


def language_transfer(device, *, arms, seeds, depth, head, context, **config):
    """Shakespeare transformers: arm -> width -> language_run; ``arms`` gives [[rate of the hidden matrices, of the rest], ..], powers of 2."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    parts, table = ids.split([int(0.9 * len(ids)), len(ids) - int(0.9 * len(ids))]), {}
    for arm, widths in arms.items():
        table[arm] = {}
        for d, rates in widths.items():
            shape = {"vocabulary": len(alphabet), "context": context, "d": int(d), "depth": depth, "heads": int(d) // head}
            shape["rotary"] = positions.rope_frequencies(head)
            table[arm][d] = language_run(device, parts, arm, rates, shape, seeds=seeds[d], **config)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return table


# %% tags=["hide-input"]
def grid(low, high, gap=0.0):
    """Pairs of exponents [hidden, rest], in steps of one octave, the rest ``gap`` octaves below."""
    return [[float(e), e - gap] for e in range(low, high + 1)]


e8_arms = nb.at_scale(
    cpu={
        "standard Adam": {"32": grid(-8, -5), "64": grid(-9, -6)},
        "Adam": {"32": grid(-8, -5), "64": grid(-8, -5)},
        "Muon": {"32": grid(-6, -3, 1), "64": grid(-6, -3, 1)},
    },
    gpu={
        "standard Adam": {"128": grid(-11, -6), "256": grid(-11, -6), "512": grid(-12, -7)},
        "Adam": {"128": grid(-10, -5), "256": grid(-10, -5), "512": grid(-10, -5)},
        "Muon": {"128": grid(-7, -2, 1), "256": grid(-7, -2, 1), "512": grid(-7, -2, 1)},
    },
    full={
        "standard Adam": {"256": grid(-11, -5), "512": grid(-12, -6), "1024": grid(-13, -7), "2048": grid(-13, -8)},
        "Adam": {"256": grid(-11, -5), "512": grid(-11, -5), "1024": grid(-11, -5), "2048": grid(-11, -6)},
        "Muon": {"256": grid(-8, -2, 1), "512": grid(-8, -2, 1), "1024": grid(-8, -2, 1), "2048": grid(-7, -2, 1)},
    },
)
e8_widths = list(e8_arms["Adam"])
e8_seeds = {d: nb.at_scale(cpu=[0], gpu=[0], full=[0] if d == "2048" else [0, 1]) for d in e8_widths}
e8_shape = nb.at_scale(
    cpu={"depth": 2, "head": 16, "context": 32, "batch": 8, "steps": 40, "marks": [1, 10, 40], "base": 32},
    gpu={"depth": 4, "head": 64, "context": 256, "batch": 8, "steps": 200, "marks": [1, 10, 50, 200], "base": 128},
    full={"depth": 4, "head": 64, "context": 256, "batch": 8, "steps": 400, "marks": [1, 10, 40, 100, 400], "base": 256},
)
bf16 = nb.scale != "cpu" and runtime.has_bf16()
e8 = nb.run("E8", language_transfer, arms=e8_arms, seeds=e8_seeds, bf16=bf16, **e8_shape)


# %% tags=["hide-input"]
def tuned(low, high, gaps):
    """Pairs of exponents in steps of half an octave, at several distances between the two rates."""
    return [[e, e - gap] for gap in gaps for e in halves(low, high)]


e6b_width = nb.at_scale(cpu="32", gpu="128", full="256")
e6b_arms = nb.at_scale(
    cpu={"Muon 0.9": [[-5.0, -6.0], [-4.0, -5.0]], "msign(Adam)": [[-5.0, -6.0], [-4.0, -5.0]]},
    gpu={"Adam": tuned(-9, -6, (0,)), **{arm: tuned(-6, -3, (1,)) for arm in ("SN(Adam)", "Muon", "Muon 0.9", "msign(Adam)")}},
    full={
        "Adam": tuned(-9.5, -6.5, (-1, 0, 1)),
        "SN(Adam)": tuned(-5.5, -2.5, (1, 2, 3)),
        **{arm: tuned(-6.5, -3.5, (0, 1, 2)) for arm in ("Muon", "Muon 0.9", "msign(Adam)")},
    },
)
e6b = nb.run(
    "E6b",
    language_transfer,
    arms={arm: {e6b_width: rates} for arm, rates in e6b_arms.items()},
    seeds={e6b_width: nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2], full=[0, 1, 2])},
    bf16=bf16,
    **{
        **e8_shape,
        "base": int(e6b_width),
        "steps": nb.at_scale(cpu=30, gpu=200, full=300),
        "marks": nb.at_scale(cpu=[1, 10, 30], gpu=[1, 200], full=[1, 300]),
    },
)

# %% [markdown]
# ## The ledger

# %%
nb.claim("X9", "placeholder until the text is written", "verified", holds=[ledger.less("one below two", 1, 2)])
nb.ledger()
