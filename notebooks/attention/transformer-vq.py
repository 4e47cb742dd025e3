# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quantize the keys and attention becomes linear (Transformer-VQ)
#
# [VQ一下Key，Transformer的复杂度就变成线性了](https://kexue.fm/archives/9844) · 2023-11-09 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/attention/transformer-vq.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import re
import time
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import kexue_nb
from kexue_nb import data, ledger, metrics, minilm, nn, optim, runtime, vq
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("transformer-vq")

# %% [markdown]
# ### Recall: what a small codebook can and cannot hold


# %%
def recall_batch(generators, batch, K, values):
    """K pairs, K blanks, K questions: key ids, value ids (S, B, 3K) and answers (S, B, K), one slice a generator; K and ``values`` are blank."""
    rows = []
    for g in generators:
        shown, asked = (torch.rand(batch, K, generator=g).argsort(1) for _ in "ab")
        value = torch.randint(values, (batch, K), generator=g)
        answer = torch.zeros_like(value).scatter(1, shown, value).gather(1, asked)
        blank = torch.full_like(value, K)
        rows.append((torch.cat([shown, blank, asked], 1), torch.cat([value, 0 * blank + values, 0 * blank + values], 1), answer))
    return [torch.stack(x) for x in zip(*rows, strict=True)]


# %%
class Recall(torch.nn.Module):
    """A stack of one-layer recall models, run r of kind ``arms[r]`` = (attention, codes, gradient)."""

    def __init__(self, arms, seeds, K, values, block, d=64, d_k=32, gamma=0.9):
        super().__init__()
        init, self.d_k = nn.Init(seeds), d_k
        self.keys, self.values = nn.Embedding(init, K + 1, d), nn.Embedding(init, values + 1, d)
        self.wq, self.wk, self.out = nn.Linear(init, d, d_k), nn.Linear(init, d, d_k), nn.Linear(init, d, values)
        self.heat = torch.nn.Parameter(torch.zeros(len(arms)))
        codes = torch.tensor([c for _, c, _ in arms])
        start = unit(init.normal(max(1, int(codes.max())), d_k).data, d_k)
        self.book = vq.EMACodebook(start, gamma, active=torch.arange(start.shape[1]) < codes.clamp_min(1)[:, None])
        self.register_buffer("quantized", (codes > 0)[:, None, None, None])
        mask, stop = zip(*[arm_masks(3 * K, block, window == "window", gradient) for window, _, gradient in arms], strict=True)
        self.register_buffer("mask", torch.stack(mask)[:, None])
        self.register_buffer("stop", torch.stack(stop)[:, None])

    def forward(self, key_ids, value_ids):
        """Logits (R, B, K, values) of the questions, and the commitment loss (R,); in training mode the codebook follows."""
        e = self.keys(key_ids)
        q = unit(self.wq(e), self.d_k) * self.heat.exp()[:, None, None, None]
        k = unit(self.wk(e), self.d_k)
        flat = k.flatten(1, 2)
        codes = self.book.nearest(flat)
        k_hat = vq.decode(codes, self.book.codes).view_as(k)
        if self.training:
            self.book.update(flat, codes)
        commitment = torch.where(self.quantized, k - k_hat, 0.0).square().sum(-1).mean((1, 2))
        k_hat = torch.where(self.quantized, vq.straight_through(k, k_hat), k)
        y = vq.masked_attention(q, k_hat, self.values(value_ids), self.mask, self.stop)
        return self.out(y[:, :, -(key_ids.shape[-1] // 3) :]), commitment


# %%
def unit(x, d):
    """Rows of RMS 1 times d^(-1/4): of length d^(1/4), so that a dot product of two is at most sqrt(d)."""
    return F.rms_norm(x, x.shape[-1:]) * d**-0.25


def arm_masks(n, block, window, gradient):
    """Additive mask (n, n), causal and where ``window`` without the blocks before the previous one; and the pairs without gradient."""
    i = torch.arange(n)
    apart = i[:, None] // block - i // block
    seen = (i[:, None] >= i) & ~((apart >= 2) & window)
    return torch.where(seen, 0.0, vq.NEVER), {"exact": apart < 0, "truncated": apart >= 2, "own block": apart >= 1}[gradient]


# %%
def recall(device, arms, rates, seeds, steps, batch, tests, K, values, block):
    """Train every arm at every rate with every seed in one pass: accuracy on fresh sequences, and how many codes the K keys use."""
    grid = [(arm, rate, i) for arm in arms for rate in rates for i in range(len(seeds))]
    model = Recall([a for a, _, _ in grid], [seeds[i] for _, _, i in grid], K, values, block).to(device)
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor([rate for _, rate, _ in grid]))
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    run = torch.tensor([i for _, _, i in grid], device=device)
    for _ in range(steps):
        keys, vals, answer = (x.to(device)[run] for x in recall_batch(generators, batch, K, values))
        logits, commitment = model(keys, vals)
        optimizer.zero_grad(set_to_none=True)
        (nn.cross_entropy_per_run(logits, answer) + 0.01 * commitment).sum().backward()
        optimizer.step()
    model.eval()
    right = torch.zeros(len(grid), device=device)
    with torch.no_grad():
        for _ in range(tests // batch):
            keys, vals, answer = (x.to(device)[run] for x in recall_batch(generators, batch, K, values))
            right += (model(keys, vals)[0].argmax(-1) == answer).float().mean((1, 2)) / (tests // batch)
        k = unit(model.wk(model.keys.weight[:, None, :K]), 32)[:, 0]
        used = [len(row.unique()) for row in model.book.nearest(k).cpu()]
    shape = (len(arms), len(rates), len(seeds))
    return {"accuracy": right.view(shape).tolist(), "used": torch.tensor(used).view(shape).tolist()}


# %%
E2_ARMS = [["all", 0, "exact"], ["window", 0, "exact"]]
E2_ARMS += [["all", c, g] for g in ("exact", "truncated") for c in (8, 16, 32, 64, 128)] + [["all", 64, "own block"]]
E2_LIVE = [["all", 0, "exact"], ["window", 0, "exact"], ["all", 16, "exact"], ["all", 64, "exact"], ["all", 64, "truncated"]]
E2_TASK = {"batch": 32, "K": 32, "values": 16, "block": 16}
e2 = nb.run(
    "E2",
    recall,
    arms=nb.at_scale(cpu=E2_LIVE, gpu=E2_ARMS, full=E2_ARMS),
    rates=nb.at_scale(cpu=[0.01], gpu=[0.003, 0.01], full=[0.001, 0.003, 0.01, 0.03]),
    seeds=nb.at_scale(cpu=[0], gpu=[10, 11, 0, 1], full=[10, 11, 0, 1, 2, 3]),
    steps=nb.at_scale(cpu=150, gpu=400, full=400),
    tests=nb.at_scale(cpu=128, gpu=512, full=1024),
    **E2_TASK,
)

# %% [markdown]
# ### A pretrained encoder with quantized keys


# %%
def sentences():
    """2,058 sentences of 40 to 200 characters out of the documentation of networkx, in the order of the files."""
    texts = re.findall(r'"""(.*?)"""', data.python_code(), re.S)
    found = [" ".join(p.split()) for text in texts for p in re.split(r"\n\s*\n", text)]
    plain = lambda p: 40 <= len(p) <= 200 and p[0].isupper() and p[-1] == "." and not any(x in p for x in ("`", ">>>", "::"))
    return list(dict.fromkeys(filter(plain, found)))


class Keys:
    """Hooks on the key projections of an encoder that keep the keys of real tokens, and with ``books[layer]`` (12, c, 32) quantize them."""

    def __init__(self, encoder, books=None):
        self.books, self.mask, self.kept = books, None, [[] for _ in range(minilm.LAYERS)]
        layers = [encoder.linears[f"{i}_attention_self_key"] for i in range(minilm.LAYERS)]
        self.hooks = [linear.register_forward_hook(self._hook(i)) for i, linear in enumerate(layers)]

    def _hook(self, layer):
        def replace(module, inputs, keys):
            heads = keys[self.mask].unflatten(-1, (minilm.HEADS, -1)).transpose(0, 1)  # (12, tokens, 32)
            self.kept[layer].append(heads)
            if self.books is not None:
                heads = vq.decode(vq.nearest_code(heads, self.books[layer]), self.books[layer])
                keys = keys.masked_scatter(self.mask[..., None], heads.transpose(0, 1).flatten(1))
            return keys

        return replace

    def keys(self):
        """The keys of each layer before quantization, (12, tokens, 32)."""
        return [torch.cat(kept, 1) for kept in self.kept]

    def remove(self):
        for hook in self.hooks:
            hook.remove()


# %%
@torch.no_grad()
def embed(encoder, texts, device, books=None, batch=64):
    """Unit sentence vectors (N, 384) of the encoder, its keys quantized by ``books`` where given, and its unquantized keys layer by layer."""
    watch, ids = Keys(encoder, books), sorted((minilm.tokenize(t) for t in texts), key=len)
    vectors = []
    for rows in (ids[i : i + batch] for i in range(0, len(ids), batch)):
        padded = torch.zeros(len(rows), len(rows[-1]), dtype=torch.long)
        for row, known in zip(padded, rows, strict=True):
            row[: len(known)] = torch.tensor(known)
        watch.mask = (torch.arange(padded.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]).to(device)
        x = encoder.states(padded.to(device), watch.mask)[-1] * watch.mask[..., None]
        vectors.append(F.normalize(x.sum(1) / watch.mask.sum(1, keepdim=True), dim=-1))
    watch.remove()
    return torch.cat(vectors), watch.keys()


# %%
def quantized_encoder(device, fit, test, sizes, seeds, steps):
    """all-MiniLM-L6-v2 with keys quantized to c codes a head, k-means on ``fit`` sentences, measured on the next ``test`` ones, a list a c."""
    encoder, texts = minilm.Encoder().to(device), sentences()
    texts = [texts[i] for i in torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))]
    exact, test_keys = embed(encoder, texts[fit : fit + test], device)
    fit_keys = embed(encoder, texts[:fit], device)[1]
    spread = sum(float((k - f.mean(1, keepdim=True)).square().sum()) for k, f in zip(test_keys, fit_keys, strict=True))
    out = {"cosine": [], "error": [], "neighbour": [], "spearman": [], "sizes": sizes, "tokens": fit_keys[0].shape[1]}
    pairs = np.triu_indices(test, 1)
    near = lambda x: (x @ x.T - 2 * torch.eye(len(x), device=device)).argmax(1)
    for c in sizes:
        rows = []
        for seed in seeds:
            books = [vq.kmeans(k, c, torch.Generator().manual_seed(seed), steps) for k in fit_keys]
            got, _ = embed(encoder, texts[fit : fit + test], device, books)
            lost = sum(float((k - vq.decode(vq.nearest_code(k, b), b)).square().sum()) for k, b in zip(test_keys, books, strict=True))
            similar = [(x @ x.T).cpu().numpy()[pairs] for x in (exact, got)]
            agree = float((near(exact) == near(got)).float().mean())
            rows.append([float((exact * got).sum(1).mean()), lost / spread, agree, float(scipy.stats.spearmanr(*similar)[0])])
        for name, column in zip(("cosine", "error", "neighbour", "spearman"), zip(*rows, strict=True), strict=True):
            out[name].append(list(column))
    return out


# %%
e3 = nb.run(
    "E3",
    quantized_encoder,
    fit=nb.at_scale(cpu=100, gpu=600, full=1400),
    test=nb.at_scale(cpu=60, gpu=300, full=600),
    sizes=nb.at_scale(cpu=[1, 16, 64, 256], gpu=[1, 4, 16, 64, 256], full=[1, 2, 4, 16, 64, 256, 1024]),
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2]),
    steps=10,
)

# %% [markdown]
# ### A small language model


# %%
def toeplitz(b, n):
    """(..., w + 1) -> (..., n, n): b[i - j] where 0 <= i - j <= w, else 0; by a shear, whose gradient is cheap."""
    *lead, size = b.shape
    row = torch.cat([b[..., :1], b.new_zeros(*lead, 2 * n - size), b[..., 1:].flip(-1)], -1)
    return row[..., None, :].expand(*lead, n, 2 * n).flatten(-2)[..., : n * (2 * n - 1)].view(*lead, n, 2 * n - 1)[..., :n]


class GAULanguageModel(torch.nn.Module):
    """A stack of causal models of gated attention units; run r is of kind ``arms[r]`` = (attention, codes, gradient, bias)."""

    def __init__(self, arms, seeds, vocabulary, n, block, d, d_k, d_v, depth, gamma):
        super().__init__()
        init, R, self.d_k, self.depth = nn.Init(seeds), len(arms), d_k, depth
        self.tokens, self.head = nn.Embedding(init, vocabulary, d), nn.Linear(init, d, vocabulary)
        weight = lambda a, b: init.normal(depth, a, b, std=a**-0.5)
        self.wq, self.wk, self.wv, self.wg, self.wo = weight(d, d_k), weight(d, d_k), weight(d, d_v), weight(d, d_v), weight(d_v, d)
        self.bias = torch.nn.Parameter(torch.zeros(R, depth, block + 1))
        codes = torch.tensor([c for _, c, _, _ in arms])
        most = max(1, int(codes.max()))
        active = torch.arange(most) < codes.clamp_min(1)[:, None]
        self.books = torch.nn.ModuleList(vq.EMACodebook(unit(init.normal(most, d_k).data, d_k), gamma, active=active) for _ in range(depth))
        self.register_buffer("quantized", (codes > 0).view(-1, 1, 1, 1))
        self.register_buffer("biased", torch.tensor([float(b) for *_, b in arms]).view(-1, 1, 1))
        mask, stop = zip(*[arm_masks(n, block, window == "window", gradient) for window, _, gradient, _ in arms], strict=True)
        self.register_buffer("mask", torch.stack(mask))
        self.register_buffer("stop", torch.stack(stop)[:, None])

    def forward(self, ids, precision=torch.float32):
        """Logits (R, B, n, vocabulary) and commitment (R,); in training mode the codebooks follow."""
        x, commitment = self.tokens(ids).to(precision), 0
        norm = lambda x: F.rms_norm(x, x.shape[-1:])
        mul = lambda x, w: torch.bmm(x.flatten(1, 2), w.to(precision)).unflatten(1, x.shape[1:3])
        for i in range(self.depth):
            h = norm(x)
            q, k = (unit(mul(h, w[:, i]), self.d_k) for w in (self.wq, self.wk))
            v, g = (F.silu(mul(h, w[:, i])) for w in (self.wv, self.wg))
            flat, book = k.flatten(1, 2).float(), self.books[i]
            codes = book.nearest(flat)
            k_hat = vq.decode(codes, book.codes).view(k.shape)
            if self.training:
                book.update(flat, codes)
            commitment = commitment + (k.float() - k_hat).square().sum(-1).mean((1, 2)) * self.quantized.view(-1)
            k_hat = torch.where(self.quantized, vq.straight_through(k, k_hat.to(precision)), k)
            mask = (self.mask + self.biased * toeplitz(self.bias[:, i], ids.shape[-1]))[:, None].to(precision)
            x = x + mul(vq.masked_attention(q, k_hat, v, mask, self.stop) * g, self.wo[:, i])
        return self.head(norm(x)), commitment


# %%
def language(device, arms, rates, tuning, seeds, steps, tuning_steps, batch, n, block, shape, tests, beta):
    """Bits per character of held-out Shakespeare: each arm's rate is chosen on ``tuning`` seeds, then fresh ``seeds`` are trained with it."""
    ids, alphabet = data.encode_characters(data.shakespeare())
    cut = len(ids) * 95 // 100
    train_ids, test_ids = ids[:cut].to(device), ids[cut:].to(device)
    precision = torch.bfloat16 if device.type == "cuda" and runtime.has_bf16() else torch.float32
    windows = lambda text, start: text[start[..., None] + torch.arange(n + 1, device=device)]  # (R, B, n + 1)
    check = torch.linspace(0, len(test_ids) - n - 2, tests, device=device).long().view(-1, batch)

    def train(grid, steps):
        model = GAULanguageModel([a for a, _, _ in grid], [s for _, _, s in grid], len(alphabet), n, block, **shape).to(device)
        optimizer = optim.StackedAdam(model.parameters(), torch.tensor([r for _, r, _ in grid]), betas=(0.9, 0.98))
        generators = {s: torch.Generator().manual_seed(s) for _, _, s in grid}
        for step in range(steps):
            starts = {s: torch.randint(cut - n - 1, (batch,), generator=g) for s, g in generators.items()}
            text = windows(train_ids, torch.stack([starts[s] for _, _, s in grid]).to(device))
            logits, commitment = model(text[..., :-1], precision)
            optimizer.zero_grad(set_to_none=True)
            (nn.cross_entropy_per_run(logits, text[..., 1:]) + beta * commitment).sum().backward()
            optimizer.step(min(1, (step + 1) / (0.05 * steps)) * (1 - step / steps))
        model.eval()
        with torch.no_grad():
            texts = [windows(test_ids, rows.expand(len(grid), -1)) for rows in check]
            losses = [nn.cross_entropy_per_run(model(t[..., :-1], precision)[0], t[..., 1:]) for t in texts]
        return (torch.stack(losses).mean(0) / math.log(2)).view(len(arms), -1).tolist()

    grid = train([(a, r, s) for a in arms for r in rates for s in tuning], tuning_steps)
    grid = [np.array(row).reshape(len(rates), -1).mean(1).tolist() for row in grid]
    best = [rates[int(np.argmin(row))] for row in grid]
    bits = train([(a, r, s) for a, r in zip(arms, best, strict=True) for s in seeds], steps)
    return {"grid": grid, "best": best, "bits": bits, "unigram": data.unigram_entropy(test_ids.cpu()) / math.log(2)}


# %%
E5_ARMS = [["all", 0, "exact", 1], ["window", 0, "exact", 1], *(["all", c, "truncated", 1] for c in (16, 64, 256))]
E5_ARMS += [["all", 64, "exact", 1], ["all", 64, "truncated", 0]]
E5_SMALL = {"d": 32, "d_k": 16, "d_v": 64, "depth": 2, "gamma": 0.99}
E5_FULL = {"d": 192, "d_k": 64, "d_v": 384, "depth": 4, "gamma": 0.99}
e5 = nb.run(
    "E5",
    language,
    arms=nb.at_scale(cpu=E5_ARMS[:3], gpu=E5_ARMS[:4], full=E5_ARMS),
    rates=nb.at_scale(cpu=[0.003], gpu=[0.002, 0.005], full=[0.001, 0.002, 0.004, 0.008]),
    tuning=[10],
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2]),
    steps=nb.at_scale(cpu=20, gpu=300, full=600),
    tuning_steps=nb.at_scale(cpu=2, gpu=150, full=250),
    batch=nb.at_scale(cpu=2, gpu=4, full=8),
    n=nb.at_scale(cpu=128, gpu=256, full=512),
    block=nb.at_scale(cpu=16, gpu=32, full=64),
    shape=nb.at_scale(cpu=E5_SMALL, gpu=E5_FULL, full=E5_FULL),
    tests=nb.at_scale(cpu=8, gpu=64, full=256),
    beta=1e-4,
)

# %% [markdown]
# ### Speed


# %%
def flash(q, k, v, width, force):
    """Causal scaled_dot_product_attention without 1/sqrt(d): q, k (B, H, n, d_k), v (B, H, n, d_v).

    The flash kernels take one head size, up to 256, for queries, keys and values. Wider values go through in slices of ``width``, as heads of
    their own with the same queries and keys; narrower queries and keys are padded with zeros to ``width``.
    """
    heads, parts = q.shape[1], v.shape[-1] // width
    if parts > 1:
        q, k = (t[:, :, None].expand(-1, -1, parts, -1, -1).flatten(1, 2) for t in (q, k))
        v = v.unflatten(-1, (parts, width)).movedim(-2, 2).flatten(1, 2)
    q, k = (F.pad(t, (0, width - t.shape[-1])) if t.shape[-1] < width else t for t in (q, k))
    with sdpa_kernel(force):
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    return y.unflatten(1, (heads, parts)).movedim(2, 3).flatten(3) if parts > 1 else y


def plain(q, k, v):
    """The same with all scores in memory."""
    n = q.shape[-2]
    scores = (q @ k.mT).masked_fill_(torch.ones(n, n, dtype=torch.bool, device=q.device).triu_(1), -math.inf)
    return torch.softmax(scores, -1) @ v


# %%
class Units(torch.nn.Module):
    """``depth`` residual attention units of width d: x (B, n, d) -> (B, n, d); every attention of the comparison runs inside the same weights."""

    def __init__(self, d, heads, d_k, d_v, gated, depth, generator):
        super().__init__()
        draw = lambda a, b: torch.nn.Parameter(torch.randn(a, b, generator=generator) / math.sqrt(a))
        self.heads, self.sizes, self.gated = heads, (heads * d_k, heads * d_k, heads * d_v, heads * d_v * gated), gated
        self.into = torch.nn.ParameterList([draw(d, sum(self.sizes)) for _ in range(depth)])
        self.out = torch.nn.ParameterList([draw(heads * d_v, d) for _ in range(depth)])

    def forward(self, x, attend):
        for into, out in zip(self.into, self.out, strict=True):
            q, k, v, g = (F.rms_norm(x, x.shape[-1:]) @ into).split(self.sizes, -1)
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, F.silu(v)))
            y = attend(unit(q, q.shape[-1]), unit(k, k.shape[-1]), v).transpose(1, 2).flatten(2)
            x = x + (y * F.silu(g) if self.gated else y) @ out
        return x


# %%
def clock(step, device, repeats):
    """Milliseconds of each of ``repeats`` calls after two to warm up, by CUDA events or the processor's clock; and the peak GB they added."""
    for _ in range(2):
        step()
    times, events = [], []
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(repeats):
            events.append([torch.cuda.Event(enable_timing=True) for _ in "ab"])
            events[-1][0].record()
            step()
            events[-1][1].record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in events], (torch.cuda.max_memory_allocated() - before) / 1e9
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times, 0.0


# %%
def attentions(shape, codebook, blocks, widths, force):
    """Name -> function of (q, k, v), all of them causal attention over the same heads."""
    book = codebook.detach()
    out = {f"VQ, l = {l}": lambda q, k, v, l=l: vq.vq_attention(q, k, v, book, block=l) for l in blocks}
    bias = torch.linspace(1, 0, blocks[0] + 1, device=book.device, requires_grad=True)
    out["VQ with bias"] = lambda q, k, v: vq.vq_attention(q, k, v, book, block=blocks[0], bias=bias)
    out["VQ exact"] = lambda q, k, v: vq.vq_attention(q, k, v, book, block=blocks[0], gradient="exact")
    out |= {f"flash, {w}": lambda q, k, v, w=w: flash(q, k, v, w, force) for w in widths}
    if len(widths) == 1:
        out["cudnn"] = lambda q, k, v: flash(q, k, v, widths[0], [SDPBackend.CUDNN_ATTENTION])
    return out | {"plain": plain}


# %%
def same_answers(device, dtype, shape, n, c, blocks, widths, force):
    """Every timed attention on one input against the definition in float32 (keys of the codebook): RMS errors over RMS, output and gradients."""
    g = torch.Generator().manual_seed(7)
    draw = lambda d: torch.randn(1, shape["heads"], n, d, generator=g).to(device)
    q, k = (unit(draw(shape["d_k"]), shape["d_k"]).to(dtype) for _ in "qk")
    v, grad = (draw(shape["d_v"]).to(dtype) for _ in "vg")
    book = k[:, :, :: max(1, n // c)][:, :, :c]
    k_hat = vq.decode(vq.nearest_code(k, book), book)  # so that every method sees the same keys
    gap = lambda a, b: float((a.float() - b).square().mean().sqrt() / b.square().mean().sqrt())

    def outcome(attend, kind):
        leaves = [t.detach().to(kind).requires_grad_() for t in (q, k_hat, v)]
        y = attend(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(kind))]

    wide = lambda gradient: lambda q, k, v: vq.dense_vq_attention(q, k, v, book.float(), block=blocks[0], gradient=gradient)
    wanted = {gradient: outcome(wide(gradient), torch.float32) for gradient in vq.GRADIENTS}
    errors = {}
    for name, attend in attentions(shape, book, blocks[:1], widths, force).items():
        if name != "VQ with bias" and name != "cudnn":
            reference = wanted["truncated" if name.startswith("VQ, ") else "exact"]
            errors[name] = [gap(a, b) for a, b in zip(outcome(attend, dtype), reference, strict=True)]
    return errors


# %%
def operands(device, dtype, shape, batch, n):
    """Random q, k (batch, H, n, d_k), v (batch, H, n, d_v) that want gradients; memory is laid out as a projection leaves it, token by token."""
    g = torch.Generator(device).manual_seed(n)
    draw = lambda d: torch.randn(batch, n, shape["heads"], d, generator=g, device=device, dtype=dtype).transpose(1, 2)
    q, k, v = (draw(shape[s]) for s in ("d_k", "d_k", "d_v"))
    return [t.detach().requires_grad_() for t in (unit(q, shape["d_k"]), unit(k, shape["d_k"]), v)]


# %%
def throughput(device, shapes, lengths, tokens, c, blocks, depth, repeats, check, plain_up_to, singles, limit):
    """Milliseconds for ``tokens`` tokens, as sequences of each length: attention alone and in a model, forward and with the backward pass.

    Returns {shape: {"errors", "op", "model"}}; "op" and "model" hold {method: {"forward" or "both": [[n, GB, ms, ms, ..]]}}. What would start
    after ``limit`` seconds is left out, and so is what runs out of memory. Where ``singles``, "VQ exact" is timed with its backward pass on one
    sequence of each length, and flash beside it. ``depth`` 0 leaves out the model and all but the first VQ and flash.
    """
    cuda, began = device.type == "cuda", time.perf_counter()
    dtype = (torch.bfloat16 if runtime.has_bf16() else torch.float16) if cuda else torch.float32
    force = SDPBackend.FLASH_ATTENTION if not cuda or runtime.has_bf16() else SDPBackend.EFFICIENT_ATTENTION
    force = [force] if cuda else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    out = {}

    def measure(rows, n, step, repeats=repeats):
        if time.perf_counter() - began > limit:
            return
        try:
            ms, gb = clock(step, device, repeats)
            rows.append([n, gb, *ms])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in str(error) and "kernel" not in str(error):
                raise
            if cuda:
                torch.cuda.empty_cache()

    for title, shape in shapes.items():
        widths = shape["widths"]
        torch.set_float32_matmul_precision("highest")
        out[title] = {"errors": same_answers(device, dtype, shape, check, min(c, check), blocks, widths, force), "op": {}, "model": {}}
        torch.set_float32_matmul_precision("high")  # TF32, for the exact gradient's float32 sums
        g = torch.Generator().manual_seed(0)
        sizes = {key: shape[key] for key in ("d", "heads", "d_k", "d_v", "gated")}
        units = Units(**sizes, depth=depth, generator=g).to(device, dtype)
        out[title]["parameters"] = sum(p.numel() for p in units.parameters())
        book = unit(torch.randn(shape["heads"], c, shape["d_k"], generator=g), shape["d_k"]).to(device, dtype)
        methods = attentions(shape, book, blocks, widths, force)
        first = (f"VQ, l = {blocks[0]}", f"flash, {widths[0]}")
        jobs = [(n, name, name, max(1, tokens // n)) for n in lengths for name in methods if name not in ("VQ exact", "plain")]
        jobs = [job for job in jobs if depth or job[1] in first]
        jobs += [(n, "plain", "plain", max(1, tokens // n)) for n in lengths if n <= plain_up_to]
        if singles and shape["heads"] == 1:
            jobs += [(n, name, f"{name}, one sequence", 1) for n in lengths for name in ("VQ exact", first[1])]
        for n, name, label, batch in jobs:
            once = label != name
            q, k, v = operands(device, dtype, shape, batch, n)
            y_grad, attend = torch.randn_like(v), methods[name]

            def forward(q=q, k=k, v=v, attend=attend):
                with torch.no_grad():
                    attend(q, k, v)

            def both(q=q, k=k, v=v, attend=attend, y_grad=y_grad):
                torch.autograd.grad(attend(q, k, v), (q, k, v), y_grad)

            rows = out[title]["op"].setdefault(label, {"forward": [], "both": []})
            if not once:
                measure(rows["forward"], n, forward)
            measure(rows["both"], n, both, 2 if once else repeats)
            del q, k, v, y_grad, forward, both
        fastest = {}  # of the block lengths and slice widths, at the middle length
        for family in ("VQ, l", "flash"):
            rows = {
                name: rows["both"] for name, rows in out[title]["op"].items() if name.startswith(family) and "one" not in name and depth
            }
            rows = {name: float(np.median(r[len(lengths) // 2][2:])) for name, r in rows.items() if len(r) > len(lengths) // 2}
            fastest[family] = min(rows, key=rows.get, default=first[family == "flash"])
        out[title]["fastest"] = list(fastest.values())
        for n in lengths if depth else []:
            x = torch.randn(max(1, tokens // n), n, shape["d"], generator=torch.Generator().manual_seed(n)).to(device, dtype)
            for name in dict.fromkeys([*fastest.values(), first[0]]):

                def forward(x=x, attend=methods[name], units=units):
                    with torch.no_grad():
                        units(x, attend)

                def both(x=x, attend=methods[name], units=units):
                    torch.autograd.grad(units(x, attend).square().mean(), list(units.parameters()))

                rows = out[title]["model"].setdefault(name, {"forward": [], "both": []})
                measure(rows["forward"], n, forward)
                measure(rows["both"], n, both)
    torch.set_float32_matmul_precision("highest")
    return out


# %%
E4_PAPER = {"d": 768, "heads": 1, "d_k": 128, "d_v": 1536, "gated": True, "widths": [128, 256]}
E4_HEADS = {"d": 1024, "heads": 8, "d_k": 128, "d_v": 128, "gated": False, "widths": [128]}
E4_SHAPES = {"one wide head": E4_PAPER, "eight heads": E4_HEADS}
E4_SMALL = {"one wide head": {"d": 64, "heads": 1, "d_k": 64, "d_v": 128, "gated": True, "widths": [128]}}
e4 = nb.run(
    "E4",
    throughput,
    shapes=nb.at_scale(cpu=E4_SMALL, gpu=E4_SHAPES, full=E4_SHAPES),
    lengths=nb.at_scale(cpu=[512, 1024, 2048, 4096], gpu=[2**i for i in range(11, 15)], full=[2**i for i in range(11, 18)]),
    tokens=nb.at_scale(cpu=1, gpu=2**14, full=2**17),
    c=nb.at_scale(cpu=128, gpu=512, full=512),
    blocks=nb.at_scale(cpu=[128], gpu=[512, 256], full=[512, 256, 1024]),
    depth=nb.at_scale(cpu=0, gpu=2, full=2),
    repeats=nb.at_scale(cpu=3, gpu=5, full=7),
    check=nb.at_scale(cpu=512, gpu=2048, full=4096),
    plain_up_to=nb.at_scale(cpu=0, gpu=4096, full=8192),
    singles=nb.at_scale(cpu=False, gpu=False, full=True),
    limit=nb.at_scale(cpu=60, gpu=60, full=140),
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
