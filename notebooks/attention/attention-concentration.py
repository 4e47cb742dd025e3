# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Can attention really concentrate? A sparsity measure for attention mechanisms

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, runtime, train
from kexue_nb import linear_attention as la
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("attention-concentration")


# %% [markdown]
# ## E1


# %%
def monte_carlo_S(weights, n, draws, generator):
    """Mean of S, its standard error and the share of all-zero rows; weights: (draws, n) normals -> weights of the same shape."""
    S = []
    for chunk in torch.arange(draws).split(max(1, 2**23 // n)):
        eps = torch.randn(len(chunk), n, generator=generator, device=generator.device)
        S.append(la.l1_l2_ratio(weights(eps)).cpu())
    S = torch.cat(S)
    mean, error = metrics.mean_stderr(S[~S.isnan()])
    return {"S": mean, "error": error, "zero_rows": S.isnan().double().mean()}


def finite_n(device, *, gammas, sizes, draws, ts, n, draws_ts, seed):
    """S of exp(gamma eps) for each n and gamma, and of t + eps and relu(t + eps)^2 for each t, by simulation."""
    generator = torch.Generator(device=device).manual_seed(seed)
    result = {}
    for size, count in zip(sizes, draws, strict=True):
        rows = [monte_carlo_S(lambda eps, g=g: torch.softmax(g * eps, 1), size, count, generator) for g in gammas]
        result[f"exp {size}"] = {key: [row[key] for row in rows] for key in rows[0]}
    for name, f in {"identity": lambda x: x, "relu²": lambda x: F.relu(x).square()}.items():
        rows = [monte_carlo_S(lambda eps, t=t, f=f: f(t + eps), n, draws_ts, generator) for t in ts]
        result[name] = {key: [row[key] for row in rows] for key in rows[0]}
    return result


# %%
e1_few = [0.5, 1, 1.5, 2, 3, 4, 10]
e1_gammas = nb.at_scale(cpu=e1_few, gpu=e1_few, full=[0.25 * i for i in range(1, 25)] + [8, 10])
e1_ts = nb.at_scale(cpu=[-2, -1, 0, 1, 2.5], gpu=[-2, -1, 0, 1, 2.5], full=[-4 + 0.25 * i for i in range(33)])
e1 = nb.run(
    "E1",
    finite_n,
    gammas=e1_gammas,
    sizes=nb.at_scale(cpu=[128, 1024, 16384], gpu=[128, 1024, 16384], full=[128, 1024, 16384, 131072]),
    draws=nb.at_scale(cpu=[2000, 800, 60], gpu=[20000, 20000, 2000], full=[100000, 50000, 10000, 2000]),
    ts=e1_ts,
    n=4096,
    draws_ts=nb.at_scale(cpu=200, gpu=2000, full=20000),
    seed=1,
)

# %% [markdown]
# ## E2


# %%
def kernel(mechanism, q, k, scale):
    """Every query against every key, q (..., B, d), k (..., K, d) -> (..., B, K): scaled dot products, or those of the feature maps."""
    phi = la.FEATURE_MAPS.get(mechanism)
    return phi(q) @ phi(k).mT if phi else scale * (q @ k.mT)


def weigh(mechanism, s, bias, count):
    """Attention weights of kernel values s (..., n).

    exp(bias) multiplies each key's share: the log of a decay, or -inf for a hidden key; count: how many keys the query sees.
    """
    if mechanism == "softmax":
        return torch.softmax(s + bias, -1)
    a = (F.relu(s).square() if mechanism == "relu²" else s) * bias.exp()
    power = {"identity": 0.5, "relu²": 1.0}.get(mechanism)  # signed terms add up like their square root
    return a / a.sum(-1, keepdim=True).clamp_min(1e-6) if power is None else a / count**power


# %%
class Recall(torch.nn.Module):
    """One layer of attention over stored (key, value) pairs, a stack of runs; arm (mechanism, decays) owns ``each`` runs in a row.

    decays: the initial lambda of every head, which is then learned; or [] for none.
    """

    def __init__(self, arms, rates, seeds, *, key_ids, value_ids, d, heads, width=64):
        super().__init__()
        self.arms, self.each = arms, len(rates) * len(seeds)
        init = nn.Init(list(seeds) * len(rates) * len(arms))
        self.keys = init.normal(heads, key_ids, d // heads)
        self.queries = torch.nn.Parameter(self.keys.detach().clone())  # a key starts as its own query
        self.values = init.normal(value_ids, width)
        self.readout = init.normal(heads * width, value_ids, std=1 / math.sqrt(heads * width))
        self.log_scale = torch.nn.Parameter(torch.full((init.runs, heads), -0.5 * math.log(d // heads)))
        start = torch.logit(torch.tensor([list(decays) or [0.5] * heads for _, decays in arms], dtype=torch.float32))
        self.decay_logit = torch.nn.Parameter(start.repeat_interleave(self.each, 0))
        self.register_buffer("decays", torch.tensor([float(bool(d)) for _, d in arms]).repeat_interleave(self.each)[:, None])

    def log_decay(self):
        """log lambda of each run and head (R, H); 0 where there is no decay."""
        return self.decays * F.logsigmoid(self.decay_logit)

    def weights(self, keys, target):
        """Attention of the query keys[target] on keys (R, B, n); target (R, B) -> (R, H, B, n)."""
        n = keys.shape[-1]
        distance = torch.arange(n - 1, -1, -1, device=keys.device)
        bias = self.log_decay()[..., None, None] * distance  # (R, H, 1, n)
        asked = keys.gather(-1, target[..., None])  # (R, B, 1)
        q = self.queries.gather(2, asked[:, None].expand(-1, self.queries.shape[1], -1, self.queries.shape[-1]))
        scale = self.log_scale.exp()[..., None, None]
        out = []
        for (mechanism, _), at in zip(self.arms, torch.arange(len(keys)).split(self.each), strict=True):
            mine = slice(int(at[0]), int(at[-1]) + 1)
            s = kernel(mechanism, q[mine], self.keys[mine], scale[mine])  # against all K keys
            s = s.gather(-1, keys[mine, None].expand(-1, s.shape[1], -1, -1))  # those of the sequence
            out.append(weigh(mechanism, s, bias[mine], n))
        return torch.cat(out)

    def forward(self, keys, values, target):
        a = self.weights(keys, target)
        share = a.new_zeros(*a.shape[:-1], self.readout.shape[-1]).scatter_add(
            -1, values[:, None].expand_as(a), a
        )  # weight on each value id
        read = share @ self.values[:, None]  # the sum of weight times value vector, (R, H, B, width)
        return 4 * read.transpose(1, 2).flatten(2) @ self.readout, a


# %%
def draw(runs, seeds, batch, generator, *, pairs, key_ids, value_ids, reach):
    """A batch for each seed, shared by that seed's runs; the target is one of the last ``reach`` pairs."""
    keys, values, _, _ = data.associative_recall((len(seeds), batch), pairs, key_ids, value_ids, generator)
    target = pairs - 1 - torch.randint(reach, (len(seeds), batch), generator=generator, device=generator.device)
    answer = values.gather(-1, target[..., None])[..., 0]
    return tuple(t.repeat(runs // len(seeds), *[1] * (t.ndim - 1)) for t in (keys, values, target, answer))


def measure(model, batches, bins):
    """Accuracy, S, weight on the target, share of zero rows, each (R,), and accuracy by distance of the target (R, bins)."""
    sums, hits, seen = 0, 0, 0
    for keys, values, target, answer in batches:
        logits, a = model(keys, values, target)
        right = (logits.argmax(-1) == answer).double()  # (R, B)
        S = la.l1_l2_ratio(a).double()  # (R, H, B)
        total = a.abs().sum(-1)
        on_target = a.abs().gather(-1, target[:, None, :, None].expand(-1, a.shape[1], -1, 1))[..., 0] / total.clamp_min(1e-12)
        zero = total == 0
        columns = [right.mean(1), S.nan_to_num().sum((1, 2)) / (~zero).sum((1, 2)), on_target.mean((1, 2)), zero.double().mean((1, 2))]
        sums = sums + torch.stack(columns) / len(batches)
        which = torch.bucketize(keys.shape[-1] - 1 - target, bins, right=True) - 1
        one = F.one_hot(which, len(bins)).double()  # (R, B, bins)
        hits, seen = hits + (one * right[..., None]).sum(1), seen + one.sum(1)
    return [*sums, hits / seen.clamp_min(1)]


# %%
def train_recall(device, n, d, *, arms, rates, seeds, heads, reach, steps, batch, value_ids, tests, bins):
    """Accuracy on validation and test data, S, target weight, zero rows, decays: (arms, rates, seeds) each. reach 0: targets anywhere."""
    task = {"pairs": n, "key_ids": max(256, 2 * n), "value_ids": value_ids}
    model = Recall(arms, rates, seeds, d=d, heads=heads, key_ids=task["key_ids"], value_ids=value_ids).to(device)
    runs, reach = len(arms) * len(rates) * len(seeds), reach or n
    generator = torch.Generator(device=device).manual_seed(1000 + n)
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)).repeat(len(arms)))
    some = lambda size, reach: draw(runs, seeds, size, generator, reach=reach, **task)
    loss = lambda keys, values, target, answer: nn.cross_entropy_per_run(model(keys, values, target)[0], answer)
    train.fit_graphed(loss, lambda step: some(batch, reach), optimizer, steps, schedule=optim.warmup_cosine)
    with torch.no_grad():
        edges = torch.tensor(bins, device=device)
        valid, test = (measure(model, [some(64, span) for _ in range(tests)], edges) for span in (reach, n))
        found = {"valid": valid[0]} | dict(zip(("accuracy", "S", "target", "zero", "by_distance"), test, strict=True))
        found["decay"] = model.log_decay().exp()
    return {key: t.view(len(arms), len(rates), len(seeds), *t.shape[1:]) for key, t in found.items()}


def recall(device, *, sizes, **config):
    """train_recall for each (n, d)."""
    torch.set_float32_matmul_precision("high")
    return {f"{n} {d}": train_recall(device, n, d, **config) for n, d in sizes}


# %%
e2_arms = [["softmax", []], ["relu²", []], ["identity", []], ["elu+1", []], ["relu", []], ["exp", []]]
e2_live_sizes = [[8, 16], [32, 16], [128, 16], [128, 64]]
e2 = nb.run(
    "E2",
    recall,
    arms=e2_arms,
    rates=nb.at_scale(cpu=[0.1], gpu=[0.03, 0.1], full=[0.003, 0.01, 0.03, 0.1, 0.3]),
    seeds=[0, 1, 2],
    sizes=nb.at_scale(
        cpu=e2_live_sizes,
        gpu=[[8, 16], [32, 16], [128, 16], [128, 64], [512, 16], [512, 64]],
        full=[[8, 16], [32, 16], [32, 64]] + [[n, d] for n in (128, 512, 1024) for d in (16, 32, 64, 128)],
    ),
    heads=1,
    reach=0,
    steps=nb.at_scale(cpu=120, gpu=600, full=1500),
    batch=nb.at_scale(cpu=32, gpu=64, full=128),
    value_ids=64,
    tests=nb.at_scale(cpu=4, gpu=16, full=32),
    bins=[0],
)

# %% [markdown]
# ## E3

# %%
retnet = [1 - 2.0 ** (-5 - h) for h in range(4)]
e3_arms = [["softmax", []], ["softmax", retnet], ["identity", []], ["identity", retnet], ["elu+1", []], ["elu+1", retnet]]
e3_setting = {
    "arms": e3_arms,
    "rates": nb.at_scale(cpu=[0.1], gpu=[0.03, 0.1], full=[0.003, 0.01, 0.03, 0.1, 0.3]),
    "seeds": [0, 1, 2],
    "sizes": [[64, 16]],
    "heads": 4,
    "steps": nb.at_scale(cpu=80, gpu=600, full=2000),
    "batch": nb.at_scale(cpu=32, gpu=64, full=128),
    "value_ids": 64,
    "tests": nb.at_scale(cpu=8, gpu=32, full=128),
    "bins": [0, 1, 2, 4, 8, 16, 32],
}
e3a = nb.run("E3a", recall, reach=8, **e3_setting)
e3b = nb.run("E3b", recall, reach=64, **e3_setting)

# %% [markdown]
# ## E4


# %%
def capacity(device, *, cases, d_keys, spread, seed):
    """Best weight that any non-negative query can give to each of n keys, sorted: one list for each feature map and (n, m)."""
    result = {}
    for n, m in cases:
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(n, m, generator=generator, dtype=torch.float64)
        x = torch.randn(n, d_keys, generator=generator, dtype=torch.float64)
        directions = spread * torch.randn(m, d_keys, generator=generator, dtype=torch.float64)
        maps = {name: phi(gaussian) for name, phi in la.FEATURE_MAPS.items()}
        maps["random features"] = la.positive_random_features(x, directions)
        for name, features in maps.items():
            result[f"{name} {n} {m}"] = la.best_weights(features).sort(descending=True).values
    return result


e4_cases = [[64, 16], [256, 16], [256, 64], [1024, 64]]
e4 = nb.run("E4", capacity, cases=e4_cases, d_keys=4, spread=3.0, seed=0)

# %% [markdown]
# ## E5


# %%
class Reader(nn.Transformer):
    """nn.Transformer with the weights of ``weigh``; ``watch``, where given, sees those of each layer, (R, B, H, T, T)."""

    def __init__(self, mechanism, init, **shape):
        super().__init__(init, **shape)
        self.mechanism, self.watch = mechanism, None

    def _attention(self, x, wq, wk, wv, wo, rotation):
        heads = lambda w: nn._matmul(x, w).unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (R, B, H, T, d_head)
        q, k, v = heads(wq), heads(wk), heads(wv)
        at = torch.arange(x.shape[2], device=x.device)
        hidden = torch.zeros(len(at), len(at), device=x.device).masked_fill(at > at[:, None], -math.inf)
        s = kernel(self.mechanism, q, k, 1 / math.sqrt(q.shape[-1])).float()
        a = weigh(self.mechanism, s, hidden, at[:, None] + 1)
        if self.watch is not None:
            self.watch(a)
        return nn._matmul((a.to(x.dtype) @ v).transpose(2, 3).flatten(3), wo)


def concentration(a):
    """N_eff of each row of causal weights (R, B, H, T, T), and the largest share |a|/sum|a|; NaN for zero rows; (R, B, H, T) each."""
    a = a.float().abs()
    return la.effective_tokens(a), a.amax(-1) / a.sum(-1)


# %%
def read_weights(model, x, precision):
    """What the heads do on x: for each layer N_eff and largest weight, means over sequences (layers, R, H, T), and by head the 10%, 50%
    and 90% quantiles of N_eff over the visible keys in the second half (layers, R, H, 3) and the share of zero rows (layers, R, H).

    Zero rows are left out of means and quantiles.
    """
    found = []

    def watch(a):
        N, top = concentration(a)
        T = a.shape[-1]
        share = (N / torch.arange(1, T + 1, device=a.device))[..., T // 2 :].transpose(1, 2).flatten(2)  # (R, H, B T/2)
        levels = torch.tensor([0.1, 0.5, 0.9], device=a.device)
        quantiles = share.nanquantile(levels, dim=-1).movedim(0, -1)
        found.append((N.nanmean(1), top.nanmean(1), quantiles, N.isnan().float().mean((1, 3))))

    model.watch = watch
    model(x, precision)
    model.watch = None
    return [torch.stack(t).cpu() for t in zip(*found, strict=True)]


def train_reader(mechanism, device, parts, vocabulary, *, rates, seeds, d, depth, heads, context, batch, steps, tests, points, bf16):
    """Validation and test loss (rates, seeds), and what the heads do on test text (layers, rates, seeds, ...)."""
    precision = torch.bfloat16 if bf16 else torch.float32
    init = nn.Init(list(seeds) * len(rates))
    model = Reader(mechanism, init, vocabulary=vocabulary, context=context, d=d, depth=depth, heads=heads).to(device)
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)))
    generator = torch.Generator(device=device).manual_seed(0)

    def windows(part):
        start = torch.randint(len(part) - context, (len(seeds), batch, 1), generator=generator, device=device)
        at = start + torch.arange(context, device=device)
        return part[at].repeat(len(rates), 1, 1), part[at + 1].repeat(len(rates), 1, 1)

    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)
    train.fit_graphed(loss, lambda step: windows(parts["train"]), optimizer, steps, schedule=optim.warmup_cosine)
    with torch.no_grad():
        losses = {name: torch.stack([loss(*windows(parts[name])) for _ in range(tests)]).mean(0) for name in ("valid", "test")}
        N, top, quantiles, zero = read_weights(model, windows(parts["test"])[0], precision)
    second_half = lambda t: t[..., context // 2 :].nanmean(-1)
    by_run = {"share": second_half(N / torch.arange(1, context + 1)), "top": second_half(top), "quantiles": quantiles, "zero": zero}
    by_run["curve"] = N[..., [p - 1 for p in points]].nanmean(2)  # (layers, R, points)
    split = lambda t, axis: t.nan_to_num().unflatten(axis, (len(rates), len(seeds)))
    return {k: split(t, 0) for k, t in losses.items()} | {k: split(t, 1) for k, t in by_run.items()}


def language_model(device, *, mechanisms, **config):
    """Character models on Shakespeare: train_reader for each mechanism."""
    torch.set_float32_matmul_precision("high")
    ids, alphabet = data.encode_characters(data.shakespeare())
    ids, hold = ids.to(device), 200_000
    parts = {"train": ids[: -2 * hold], "valid": ids[-2 * hold : -hold], "test": ids[-hold:]}
    return {mechanism: train_reader(mechanism, device, parts, len(alphabet), **config) for mechanism in mechanisms}


# %%
e5_shape = nb.at_scale(
    cpu={"d": 32, "depth": 2, "heads": 2, "context": 64, "batch": 8, "steps": 60, "tests": 4, "points": [1, 4, 16, 64]},
    gpu={"d": 128, "depth": 3, "heads": 4, "context": 128, "batch": 16, "steps": 400, "tests": 4, "points": [1, 4, 16, 64, 128]},
    full={"d": 256, "depth": 4, "heads": 4, "context": 256, "batch": 16, "steps": 1500, "tests": 16, "points": [2**i for i in range(9)]},
)
e5 = nb.run(
    "E5",
    language_model,
    mechanisms=["softmax", "elu+1", "relu²"],
    rates=nb.at_scale(cpu=[1e-2], gpu=[2e-3, 4e-3], full=[5e-4, 1e-3, 2e-3, 4e-3]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2]),
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
    **e5_shape,
)

# %%
nb.ledger()
