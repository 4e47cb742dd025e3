# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cache versus quality: from MHA, MQA and GQA to MLA
#
# [缓存与效果的极限拉扯：从MHA、MQA、GQA到MLA](https://kexue.fm/archives/10091) · 2024-05-13 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/attention/mha-to-mla.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import ast
import inspect
import itertools
import math
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, latent, ledger, metrics, minilm, nn, optim, positions, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("mha-to-mla")

# %% [markdown]
# ## Experiments
#
# ### E4: one decode step at sizes that fill the card


# %%
def decode_step(kind, heads, groups, batch, context, layers, pool, splits=1):
    """A decode step as a function without arguments: attention of one new token a sequence, in every layer, over a cache cut out of ``pool``."""
    normal = lambda *shape: torch.randn(shape, device=pool.device).to(pool.dtype)
    if kind == "MLA":  # d_k = d_v = 128, d_c = 512, d_r = 64
        caches = pool[: layers * batch * context * 576].view(layers, batch, context, 576)
        w_k, w_v = normal(layers, heads, 512, 128) / 512**0.5, normal(layers, heads, 512, 128) / 512**0.5
        q_c, q_r = normal(batch, heads, 1, 128), normal(batch, heads, 1, 64)
        return lambda: [latent.absorbed(q_c, q_r, *layer, splits) for layer in zip(caches, w_k, w_v, strict=True)]
    keys, values = pool[: 2 * layers * batch * groups * context * 128].view(2, layers, batch, groups, context, 128)
    q = normal(batch, heads, 1, 128)
    return lambda: [latent.attend(q, k, v, 128**-0.5, splits) for k, v in zip(keys, values, strict=True)]


def fused_step(kind, heads, groups, batch, context, layers, pool, as_queries):
    """The same by torch's fused kernels: ``enable_gqa``, or the heads of a group as if they were queries, which need no mask here."""
    normal = lambda *shape: torch.randn(shape, device=pool.device).to(pool.dtype)
    if kind == "MLA":  # the projections left out; a value is the whole row, of which the last 64 entries would be dropped
        keys = values = pool[: layers * batch * context * 576].view(layers, batch, 1, context, 576)
        scale, q = 192**-0.5, normal(batch, heads, 1, 576)
    else:
        keys, values = pool[: 2 * layers * batch * groups * context * 128].view(2, layers, batch, groups, context, 128)
        scale, q = 128**-0.5, normal(batch, heads, 1, 128)
    if as_queries:
        q = q.view(batch, keys.shape[2], -1, q.shape[-1])
    sdpa = lambda k, v: F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=not as_queries)
    return lambda: [sdpa(k, v) for k, v in zip(keys, values, strict=True)]


# %%
def timed(step, device, most=20):
    """Median and quartiles of the seconds of a step, replayed as a CUDA graph; None where the kernel refuses the sizes."""
    torch.cuda.empty_cache()
    try:
        replay = runtime.graphed(step, device)
        first = latent.seconds(replay, device, warmup=5 if device.type == "cuda" else 1, repeats=2)
        runs = latent.seconds(replay, device, warmup=0, repeats=max(5, min(most, int(0.6 / min(first)))))
    except RuntimeError:
        return None
    return [float(np.quantile(runs, q)) for q in (0.5, 0.25, 0.75)] + [len(runs)]


def machine_limits(pool, side):
    """Bytes a second of a big copy and of a big sum, operations a second of a big product of matrices (medians)."""
    half, a = len(pool) // 2, pool[: side * side].view(side, side)
    size, median = pool.element_size(), lambda step: float(np.median(latent.seconds(step, pool.device, warmup=3, repeats=10)))
    words, target = pool.view(torch.int16 if size == 2 else torch.int32), pool[side * side : 2 * side * side].view(side, side)
    copy = median(lambda: words[:half].copy_(words[half : 2 * half]))
    total = median(lambda: pool[: 2 * half].view(torch.float32).amax())
    product = median(lambda: torch.mm(a, a.mT, out=target))
    return {"copy": 2 * half * size / copy, "read": 2 * half * size / total, "product": 2 * side**3 / product}


# %%
def decode_benchmark(device, *, cases, layers, gib, dtype, splits, side, limit_gib):
    """Seconds of a decode step for each case (kind, heads, groups, batch, context), and what the machine can do at most."""
    dtype = getattr(torch, dtype)
    pool = torch.empty(int(gib * 2**30) // dtype.itemsize, dtype=dtype, device=device)
    for part in pool.split(2**28):
        part.normal_()
    machine = machine_limits(pool[: min(len(pool), int(limit_gib * 2**30) // dtype.itemsize)], side)
    for part in pool[: 4 * side * side].split(2**28):
        part.normal_()
    rows = []
    for case in cases:
        ours = {s: timed(decode_step(*case, layers, pool, s), device) for s in splits if not case[-1] % s}
        best = min((s for s in ours if ours[s]), key=lambda s: ours[s][0])
        peers = [timed(fused_step(*case, layers, pool, how), device) for how in ((False, True) if case[0] != "MLA" else (True,))]
        rows.append({"case": case, "splits": best, "seconds": ours[best], "unsplit": ours[splits[0]], "peers": peers})
    return {"machine": machine, "rows": rows}


# %%
GRID = [["GQA", 32, 32], ["GQA", 32, 8], ["GQA", 32, 1], ["MLA", 32, 1], ["GQA", 128, 1], ["MLA", 128, 1]]  # kind, h, g
e4_cells = nb.at_scale(cpu=[(1, 1024), (2, 512)], gpu=[(2, 4096), (8, 1024)], full=[(32, 4096), (8, 16384), (128, 1024)])
e4_cases = [
    [*kind, *cell] for kind in nb.at_scale(cpu=[["GQA", 8, 8], ["GQA", 8, 2], ["MLA", 8, 1]], gpu=GRID, full=GRID) for cell in e4_cells
]
e4_cases += nb.at_scale(cpu=[], gpu=[], full=[["GQA", 32, 8, 128, 4096], ["GQA", 32, 1, 1024, 4096], ["MLA", 32, 1, 455, 4096]])
e4 = nb.run(
    "E4",
    decode_benchmark,
    cases=e4_cases,
    layers=nb.at_scale(cpu=1, gpu=32, full=32),
    gib=nb.at_scale(cpu=1 / 64, gpu=4, full=64),
    dtype=nb.at_scale(cpu="float32", gpu="float16", full="bfloat16"),
    splits=nb.at_scale(cpu=[1, 8], gpu=[1, 8, 32], full=[1, 8, 32]),
    side=nb.at_scale(cpu=512, gpu=4096, full=8192),
    limit_gib=nb.at_scale(cpu=1 / 64, gpu=2, full=8),
)

# %% [markdown]
# ### E5: when to switch forms


# %%
def form_switch(device, *, heads, cached, queries, dtype):
    """Seconds of both forms of MLA (sizes of DeepSeek-V2) for the last m of ``cached`` tokens: form -> [median, quartiles, runs] for each m."""
    normal = lambda *shape: torch.randn(shape, device=device).to(getattr(torch, dtype))
    rows, w_k, w_v = normal(1, cached, 576), normal(heads, 512, 128) / 512**0.5, normal(heads, 512, 128) / 512**0.5
    found = {"absorbed": [], "expanded": []}
    for m in queries:
        q_c, q_r = normal(1, heads, m, 128), normal(1, heads, m, 64)
        found["absorbed"].append(timed(lambda q=(q_c, q_r): latent.absorbed(*q, rows, w_k, w_v), device))
        found["expanded"].append(timed(lambda q=(q_c, q_r): latent.expanded(*q, rows[..., :512], rows[..., 512:], w_k, w_v), device))
    return found


# %%
e5_queries = nb.at_scale(
    cpu=[1, 32, 128, 256, 512], gpu=[1, 16, 64, 128, 192, 256, 512, 1024], full=[1, 4, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512, 1024]
)
e5 = nb.run(
    "E5",
    form_switch,
    heads=nb.at_scale(cpu=2, gpu=32, full=128),
    cached=nb.at_scale(cpu=512, gpu=2048, full=2048),
    queries=e5_queries,
    dtype=nb.at_scale(cpu="float32", gpu="float16", full="bfloat16"),
)

# %% [markdown]
# ### E6: quality at equal cache


# %%
def quality(device, *, arms, rates, seeds, d, depth, length, batch, steps, bf16, windows):
    """Losses on held-out text (nats a character), arm -> {"choose", "report", "last"}, each (rates, seeds), of small language models."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    ids, split = ids.to(device), [int(share * len(ids)) for share in (0.9, 0.95, 1)]
    at, precision = torch.arange(length + 1, device=device), torch.bfloat16 if bf16 else torch.float32
    rate = torch.tensor(rates).repeat_interleave(len(seeds))
    torch.cuda.empty_cache()
    found = {}
    for name, sizes in arms.items():
        shape = (latent.Latent if "latent" in sizes else latent.Groups)(d=d, **sizes)
        model = latent.Decoder(nn.Init(list(seeds) * len(rates)), shape, vocabulary=len(alphabet), depth=depth).to(device)
        generator = torch.Generator(device=device).manual_seed(50_000)  # every arm and rate reads the same text

        def draw(step, generator=generator):
            start = torch.randint(split[0] - length, (len(seeds), batch, 1), generator=generator, device=device)
            return (ids[start + at].repeat(len(rates), 1, 1),)

        loss = lambda text, model=model: nn.cross_entropy_per_run(model(text[..., :-1], precision), text[..., 1:])
        adam = optim.StackedAdam(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
        last = train.fit_graphed(loss, draw, adam, steps, schedule=optim.warmup_cosine)
        held = [held_out(model, ids[a:b], length, windows, precision) for a, b in itertools.pairwise(split)]
        found[name] = dict(zip(("choose", "report", "last"), (t.view(len(rates), len(seeds)) for t in (*held, last)), strict=True))
    return found


# %%
@torch.no_grad()
def held_out(model, ids, length, windows, precision, chunk=16):
    """Mean loss (runs,) over ``windows`` windows of a text, evenly spaced, in the second half of each window: at least length/2 tokens seen."""
    runs, half = len(model.tokens.weight), length // 2
    starts = torch.linspace(0, len(ids) - length - 1, windows, device=ids.device).long()
    total = torch.zeros(runs, device=ids.device)
    for some in starts.split(chunk):
        text = ids[some[:, None] + torch.arange(length + 1, device=ids.device)].expand(runs, -1, -1)
        logits = model(text[..., :-1], precision)[..., half:, :]
        total += len(some) * nn.cross_entropy_per_run(logits, text[..., 1 + half :])
    return total / windows


# %%
def arms_of(heads, head):
    """Six layers of attention: MHA, then GQA and MQA with its heads, then MQA, MHA and MLA at the cache of GQA-2, which is 4 d_k."""
    return {
        "MHA": {"heads": heads, "groups": heads, "head": head},
        "GQA-2": {"heads": heads, "groups": 2, "head": head},
        "MQA": {"heads": heads, "groups": 1, "head": head},
        "MQA, heads twice as wide": {"heads": heads, "groups": 1, "head": 2 * head},
        "MHA, thin heads": {"heads": heads, "groups": heads, "head": 2 * head // heads},
        "MLA": {"heads": heads, "head": head, "latent": 7 * head // 2, "rope": head // 2},
    }


e6_sizes = nb.at_scale(
    cpu={"d": 32, "depth": 1, "length": 32, "batch": 8, "steps": 60, "windows": 64},
    gpu={"d": 128, "depth": 3, "length": 128, "batch": 12, "steps": 500, "windows": 256},
    full={"d": 256, "depth": 4, "length": 256, "batch": 12, "steps": 1200, "windows": 512},
)
e6 = nb.run(
    "E6",
    quality,
    arms=nb.at_scale(cpu={name: arms_of(4, 8)[name] for name in ("MHA", "MQA", "MLA")}, gpu=arms_of(8, 16), full=arms_of(8, 32)),
    rates=nb.at_scale(cpu=[1e-2], gpu=[2e-3, 4e-3, 8e-3], full=[1e-3, 2e-3, 4e-3, 8e-3]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
    **e6_sizes,
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
