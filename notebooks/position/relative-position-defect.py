# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A theoretical defect of Transformers with relative position encoding, and its remedies
#
# [相对位置编码Transformer的一个理论缺陷与对策](https://kexue.fm/archives/9105) · 2022-06-07 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/position/relative-position-defect.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, positions, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE

# %%
nb = kexue_nb.notebook("relative-position-defect")


# %%
def attention_weights(b, rule, keys):
    """Weights a (..., n, n) from logits b, hidden entries at -1e4; ``keys`` (..., n, 1) is how many keys a query sees.

    "l1" is the softmax, "l2", "l4", .. divide by another norm of the row, "exp" by nothing.
    """
    if rule == "relu²/n":
        return F.relu(b).square() / keys
    if rule == "swish, l2":
        s = F.silu(b)
        return s * torch.rsqrt(s.square().sum(-1, keepdim=True) + 1e-12)
    if rule in ("exp", "exp/n"):
        return b.exp() if rule == "exp" else b.exp() / keys
    p = float(rule[1:])
    e = (b - b.amax(-1, keepdim=True).detach()).exp()
    return e / e.pow(p).sum(-1, keepdim=True).pow(1 / p)


# %%
NORMS = {"layer": lambda x: F.layer_norm(x, x.shape[-1:]), "rms": lambda x: F.rms_norm(x, x.shape[-1:])}
SHAPES = {  # the weight matrices of a layer, in units of the width d
    "attention": {"wq": (1, 1), "wk": (1, 1), "wv": (1, 1), "wo": (1, 1), "w1": (1, 4), "w2": (4, 1)},
    "gau": {"wu": (1, 2), "wv": (1, 2), "wo": (2, 1)},
}


class Network(torch.nn.Module):
    """A stack of R transformers whose attention weights and positions are chosen freely: ids (R, B, T) -> (R, B, T, classes).

    ``rule`` is that of :func:`attention_weights`. ``position``: "none", "rope", "bias" (learned, one number a head and offset, shared by the
    layers), "alibi", "ape" (learned absolute). ``shaw`` adds learned vectors of the offset to the values, ``toeplitz`` multiplies the
    weights by a learned Toeplitz matrix a layer and head, at first of ones (URPE). ``layer`` "attention" is attention and feed-forward, "gau"
    two gated attention units. ``gain`` (R,) multiplies the initial wv and wo. No biases, no gains in the norms.
    """

    def __init__(
        self,
        init,
        *,
        vocabulary,
        classes,
        length,
        d,
        depth,
        heads,
        rule="l1",
        position="none",
        causal=False,
        shaw=False,
        toeplitz=False,
        layer="attention",
        placement="post",
        norm="layer",
        gain=None,
    ):
        super().__init__()
        self.rule, self.position, self.causal, self.layer, self.placement = rule, position, causal, layer, placement
        self.heads, self.norm = heads, NORMS[norm]
        self.depth = depth * (2 if layer == "gau" else 1)
        self.tokens, self.head = nn.Embedding(init, vocabulary, d), nn.Linear(init, d, classes)
        self.absolute = nn.Embedding(init, length, d) if position == "ape" else None
        for name, (rows, columns) in SHAPES[layer].items():
            w = init.normal(self.depth, rows * d, columns * d, std=1 / math.sqrt(rows * d))
            scaled = gain is not None and name in ("wv", "wo")
            setattr(self, name, torch.nn.Parameter(w.detach() * gain.view(-1, 1, 1, 1)) if scaled else w)
        width = 64 if layer == "gau" else d // heads  # of a query
        if layer == "gau":
            self.wz = init.normal(self.depth, d, width, std=1 / math.sqrt(d))
            self.scales = torch.nn.Parameter(torch.ones(init.runs, self.depth, 2, width))
            self.shifts = torch.nn.Parameter(torch.zeros(init.runs, self.depth, 2, width))
        offsets = 2 * length - 1
        self.bias = init.normal(heads, offsets, std=0.5) if position == "bias" else None
        self.shaw = init.normal(self.depth, width, offsets, std=0.1) if shaw else None
        self.toeplitz = torch.nn.Parameter(torch.ones(init.runs, self.depth, heads, offsets)) if toeplitz else None
        at = torch.arange(length)
        self.register_buffer("offset", at[:, None] - at)  # i - j
        angles = at.double()[:, None] * positions.rope_frequencies(width)
        self.register_buffer("angles", angles if position == "rope" else None)
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes if position == "alibi" else None)

    def forward(self, ids, lengths=None, precision=torch.float32):
        return self.head(self.states(ids, lengths, precision)[-1])

    def states(self, ids, lengths=None, precision=torch.float32):
        """The hidden states (R, B, T, d) after the embedding and after every sublayer; ``lengths`` (R, B) hides the keys from there on."""
        T = ids.shape[-1]
        x = self.tokens(ids)
        if self.absolute is not None:
            x = x + self.absolute(torch.arange(T, device=ids.device).expand(ids.shape[0], 1, T))
        x = self.norm(x).to(precision) if self.placement == "post" else x.to(precision)
        visible = torch.ones(1, 1, 1, T, T, dtype=torch.bool, device=ids.device)
        if self.causal:
            visible = visible & (self.offset[:T, :T] >= 0)
        if lengths is not None:
            visible = visible & (torch.arange(T, device=ids.device) < lengths[..., None])[:, :, None, None, :]
        sublayers = (self.gau,) if self.layer == "gau" else (self.attention, self.feed_forward)
        states = [x]
        for layer in range(self.depth):
            for sublayer in sublayers:
                post = self.placement == "post"
                x = self.norm(x + sublayer(x, layer, visible)) if post else x + sublayer(self.norm(x), layer, visible)
                states.append(x)
        return states if self.placement == "post" else [*states, self.norm(x)]

    def by_offset(self, table, T):
        """The Toeplitz matrices c_ij = g(i - j) of tables of g, (..., 2 length - 1) -> (..., T, T)."""
        at = self.offset[:T, :T] + self.offset.shape[0] - 1
        return table.index_select(-1, at.flatten()).unflatten(-1, (T, T))

    def times(self, x, name, layer):
        return nn._matmul(x, getattr(self, name)[:, layer].to(x.dtype))

    def attention(self, x, layer, visible):
        """The attention sublayer: every head's weights times its values, through wo."""
        q, k, v = (self.times(x, name, layer).unflatten(-1, (self.heads, -1)).transpose(2, 3) for name in ("wq", "wk", "wv"))
        a = self.weights(q, k, layer, visible)  # (R, B, H, T, T)
        o = a.to(v.dtype) @ v
        if self.shaw is not None:
            o = o + torch.einsum("rbhij,rdij->rbhid", a, self.by_offset(self.shaw[:, layer], x.shape[2])).to(o.dtype)
        return self.times(o.transpose(2, 3).flatten(3), "wo", layer)

    def weights(self, q, k, layer, visible):
        """The weights a_ij (R, B, H, T, T) of queries and keys (R, B, H, T, width), in float32 or better."""
        T = q.shape[-2]
        if self.angles is not None:
            turn = self.angles[:T].cos().to(q.dtype), self.angles[:T].sin().to(q.dtype)
            q, k = positions.rotate_pairs(q, *turn), positions.rotate_pairs(k, *turn)
        b = (q @ k.mT / math.sqrt(q.shape[-1])).to(torch.promote_types(q.dtype, torch.float32))
        if self.bias is not None:
            b = b + self.by_offset(self.bias, T)[:, None]
        if self.slopes is not None:
            b = b - self.slopes[:, None, None] * self.offset[:T, :T].abs()
        a = attention_weights(b.masked_fill(~visible, -1e4), self.rule, visible.sum(-1, keepdim=True))
        if self.toeplitz is not None:
            a = a * self.by_offset(self.toeplitz[:, layer], T)[:, None]
        return a

    def feed_forward(self, x, layer, visible):
        return self.times(F.gelu(self.times(x, "w1", layer)), "w2", layer)

    def gau(self, x, layer, visible):
        """A gated attention unit, one head: u times the attended values, through wo."""
        u, v, z = (F.silu(self.times(x, name, layer)) for name in ("wu", "wv", "wz"))
        q, k = (
            (z * self.scales[:, layer, i, None, None].to(z.dtype) + self.shifts[:, layer, i, None, None].to(z.dtype))[:, :, None]
            for i in (0, 1)
        )
        a = self.weights(q, k, layer, visible)[:, :, 0]
        return self.times(u * (a.to(v.dtype) @ v), "wo", layer)


# %%
HIDDEN = -100  # a target that the loss skips


def zeros_and_marks(lengths, T, first, last):
    """The probe: n tokens 0 and the targets 0 .. n - 1, where asked between the marks 1 = [CLS] and 2 = [SEP].

    lengths (R, B) -> ids and targets (R, B, T), and how many ids count (R, B).
    """
    first, last = int(first), int(last)
    n, at = lengths[..., None], torch.arange(T, device=lengths.device) - first
    ids = (at < 0).long() + 2 * last * (at == n).long()
    targets = at.expand(ids.shape).masked_fill((at < 0) | (at >= n), HIDDEN)
    return ids, targets, lengths + first + last


def masked_loss(logits, targets):
    """Mean cross-entropy of each run over the targets that are not hidden: (R, B, T, V), (R, B, T) -> (R,)."""
    loss = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), ignore_index=HIDDEN, reduction="none")
    return loss.view(len(logits), -1).sum(1) / (targets != HIDDEN).flatten(1).sum(1)


# %%
def probe_arm(device, *, first, last, rates, seeds, train_on, test_on, batch, steps, shape, **options):
    """Train one arm at every rate and seed on counting; loss (rate, seed), accuracy (rate, seed, length) and guesses for the last length."""
    runs = len(rates) * len(seeds)
    T = max(*train_on, *test_on) + first + last
    kind = {"vocabulary": 3, "classes": max(*train_on, *test_on), "length": T} | shape | options
    model = Network(nn.Init(seeds * len(rates)), **kind).to(device)
    optimizer = optim.Clipped(1.0, optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds))))
    generators = [torch.Generator().manual_seed(100 + s) for s in seeds]
    known = torch.tensor(train_on)

    def draw(step):
        drawn = torch.stack([known[torch.randint(len(known), (batch,), generator=g)] for g in generators])
        return (drawn.repeat(len(rates), 1).to(device),)

    def loss(lengths):
        ids, targets, total = zeros_and_marks(lengths, T, first, last)
        return masked_loss(model(ids, total), targets)

    train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine)
    lengths = torch.tensor(test_on, device=device).expand(runs, -1)
    ids, targets, total = zeros_and_marks(lengths, T, first, last)
    with torch.no_grad():
        logits = model(ids, total)
        losses = masked_loss(logits, targets).nan_to_num(99.0, posinf=99.0)
        guess = logits.argmax(-1)
        right = (guess == targets).sum(-1) / lengths  # (R, lengths)
    grid = lambda t: t.unflatten(0, (len(rates), len(seeds)))
    return {"loss": grid(losses), "accuracy": grid(right), "guess": grid(guess[:, -1, first : first + test_on[-1]])}


def probe(device, *, arms, rates, tuning, seeds, **common):
    """Every arm at its best rate, chosen by the mean loss of the ``tuning`` seeds: loss of all, and of ``seeds`` at that rate the rest."""
    found = {}
    for name, arm in arms.items():
        out = probe_arm(device, rates=rates, seeds=[*tuning, *seeds], **({"first": False, "last": False} | arm), **common)
        tuned = out["loss"][:, : len(tuning)].mean(1)
        best = int(tuned.argmin())
        at = {key: value[best, len(tuning) :] for key, value in out.items()}
        found[name] = {"rate": rates[best], "tuning": tuned, "loss": at["loss"], "accuracy": at["accuracy"], "guess": at["guess"][0]}
    return found


# %%
plain = {"position": "none"}
ARMS = {  # name: options, and whether the theory says that it can pass
    "none": (plain, False),
    "RoPE": ({"position": "rope"}, False),
    "bias": ({"position": "bias"}, False),
    "ALiBi": ({"position": "alibi"}, False),
    "none, causal": (plain | {"causal": True}, False),
    "RoPE, causal": ({"position": "rope", "causal": True}, False),
    "absolute": ({"position": "ape"}, True),
    "Shaw": ({"shaw": True}, True),
    "none, URPE": (plain | {"toeplitz": True}, True),
    "RoPE, URPE": ({"position": "rope", "toeplitz": True}, True),
    "bias, URPE": ({"position": "bias", "toeplitz": True}, True),
    "RoPE, exp": ({"position": "rope", "rule": "exp"}, True),
    "RoPE, exp/n": ({"position": "rope", "rule": "exp/n"}, True),
    "RoPE, relu²/n": ({"position": "rope", "rule": "relu²/n"}, True),
    "bias, exp": ({"position": "bias", "rule": "exp"}, True),
    "bias, exp/n": ({"position": "bias", "rule": "exp/n"}, True),
    "bias, relu²/n": ({"position": "bias", "rule": "relu²/n"}, True),
    "RoPE, l2": ({"position": "rope", "rule": "l2"}, True),
    "RoPE, l4": ({"position": "rope", "rule": "l4"}, True),
    "bias, l2": ({"position": "bias", "rule": "l2"}, True),
    "none, causal, l2": (plain | {"causal": True, "rule": "l2"}, True),
    "RoPE, swish, l2": ({"position": "rope", "rule": "swish, l2"}, True),
    "bias, swish, l2": ({"position": "bias", "rule": "swish, l2"}, True),
    "none, causal, exp/n": (plain | {"causal": True, "rule": "exp/n"}, True),
    "ALiBi, causal, l2": ({"position": "alibi", "causal": True, "rule": "l2"}, True),
    "ALiBi, l2": ({"position": "alibi", "rule": "l2"}, False),
    "ALiBi, exp/n": ({"position": "alibi", "rule": "exp/n"}, False),
    "RoPE, CLS + SEP": ({"position": "rope", "first": True, "last": True}, True),
    "RoPE, CLS": ({"position": "rope", "first": True}, True),
    "bias, CLS + SEP": ({"position": "bias", "first": True, "last": True}, True),
    "ALiBi, CLS + SEP": ({"position": "alibi", "first": True, "last": True}, True),
    "none, CLS + SEP": (plain | {"first": True, "last": True}, False),
    "RoPE, causal, CLS": ({"position": "rope", "causal": True, "first": True}, True),
    "none, causal, CLS": (plain | {"causal": True, "first": True}, True),
}
LENGTH_ARMS = [
    "absolute",
    "Shaw",
    "RoPE, URPE",
    "bias, URPE",
    "RoPE, CLS + SEP",
    "RoPE, CLS",
    "RoPE, causal, CLS",
    "none, causal, CLS",
    "RoPE, l2",
    "none, causal, l2",
    "RoPE, exp/n",
    "RoPE, exp",
    "RoPE, relu²/n",
    "RoPE",
]
powers = lambda low, high: [2.0**k for k in range(low, high + 1)]
arm = lambda names: {name: ARMS[name][0] for name in names}


# %%
def evaluated(model, ids, targets, precision, chunk=16):
    """Mean loss of every run on the windows ids, targets (B, T), the targets chosen by HIDDEN: (R,)."""
    runs, total, count = len(model.tokens.weight), 0.0, 0
    with torch.no_grad():
        for x, y in zip(ids.split(chunk), targets.split(chunk), strict=True):
            here = int((y != HIDDEN).sum())
            total = total + here * masked_loss(model(x.expand(runs, -1, -1), precision=precision), y.expand(runs, -1, -1))
            count += here
    return (total / count).nan_to_num(99.0, posinf=99.0)


def prepared(ids, following, masked, mark):
    """Input and targets of masked or causal language modelling: ``masked`` says which ids become ``mark``, or is None for causal."""
    if masked is None:
        return ids, following
    return torch.where(masked, mark, ids), torch.where(masked, ids, HIDDEN)


def windows_and_masks(text, batch, n, generator, share):
    """Windows, their successors, and for share > 0 which ids are masked: (batch, n) each."""
    x, y = data.windows(text, batch, n, generator)
    return x, y, torch.rand(batch, n, generator=generator) < share


# %%
def train_texts(
    device, text, held_out, vocabulary, rates, gains, seeds, *, share, lengths, batch, n, steps, windows, shape, bf16, **options
):
    """Train language models, one a (gain, rate, seed) of three equally long lists; held-out loss at every length, (length, run).

    ``share`` of the ids is masked, 0 for causal models. The loss at another length than n is that of the last n/2 positions."""
    distinct = sorted(set(seeds))
    kind = {"vocabulary": vocabulary + 1, "classes": vocabulary, "length": max(lengths)} | shape | options
    model = Network(nn.Init(seeds), gain=torch.tensor(gains), **kind).to(device)
    optimizer = optim.Clipped(1.0, optim.StackedAdam(model.parameters(), torch.tensor(rates), betas=(0.9, 0.98)))
    generators = {s: torch.Generator().manual_seed(200 + s) for s in distinct}
    rows = torch.tensor([distinct.index(s) for s in seeds])
    precision = torch.bfloat16 if bf16 and device.type == "cuda" and runtime.has_bf16() else torch.float32

    def draw(step):
        drawn = zip(*(windows_and_masks(text, batch, n, g, share) for g in generators.values()), strict=True)
        x, y, masked = (torch.stack(parts) for parts in drawn)
        pair = prepared(x, y, masked if share else None, vocabulary)
        return tuple(t[rows].to(device) for t in pair)

    train.fit_graphed(
        lambda ids, targets: masked_loss(model(ids, precision=precision), targets), draw, optimizer, steps, schedule=optim.warmup_cosine
    )
    losses = []
    for m in lengths:
        x, y, masked = windows_and_masks(held_out, windows, m, torch.Generator().manual_seed(999), share)
        ids, targets = prepared(x, y, masked if share else None, vocabulary)
        if not share:
            targets[:, : m - n // 2] = HIDDEN
        losses.append(evaluated(model, ids.to(device), targets.to(device), precision))
    return torch.stack(losses)


# %%
def languages(device, *, arms, rates, tuning, seeds, characters, **common):
    """For every arm and gain the rate with the best held-out loss of the ``tuning`` seed, and there the losses of ``seeds`` at every length."""
    ids, alphabet = data.encode_characters(data.shakespeare()[:characters])
    text, held_out = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    found = {}
    for name, arm in arms.items():
        gains = arm["gains"]
        options = {key: value for key, value in arm.items() if key != "gains"} | common
        grid = [(g, r) for g in gains for r in rates]
        every = train_texts(
            device, text, held_out, len(alphabet), [r for _, r in grid], [g for g, _ in grid], [tuning] * len(grid), **options
        )
        tuned = every[0].view(len(gains), len(rates))
        best = [rates[int(i)] for i in tuned.argmin(1)]
        runs = [(g, r, s) for g, r in zip(gains, best, strict=True) for s in seeds]
        final = train_texts(
            device, text, held_out, len(alphabet), [r for _, r, _ in runs], [g for g, _, _ in runs], [s for *_, s in runs], **options
        )
        found[name] = {"rates": best, "tuning": tuned, "loss": final.view(len(final), len(gains), len(seeds))}
    return found


# %%
def even_tokens(ids, marks):
    """Targets of the two tasks of the paper for ids (R, B, T) that begin with ``marks`` special ids: the index, and the token at 2i."""
    n = ids.shape[-1] - marks
    at = torch.arange(n, device=ids.device)
    index = at.expand(*ids.shape[:-1], n)
    even = ids.index_select(-1, marks + (2 * at + 1).clamp(max=n - 1)).masked_fill(2 * at + 1 >= n, HIDDEN)
    return index, even


def tasks(device, *, arms, rates, tuning, seeds, vocabulary, n, batch, steps, shape):
    """The paper's two tasks on random tokens, every arm at its best rate: loss and accuracy of ``seeds``, {task: {arm: ..}}."""
    found = {"index": {}, "even": {}}
    for task, (name, arm) in [(t, a) for t in found for a in arms.items()]:
        marks = int(arm.get("first", False))
        options = {key: value for key, value in arm.items() if key != "first"}
        every = [*tuning, *seeds]
        kind = {"vocabulary": vocabulary + 1, "classes": max(vocabulary, n), "length": n + marks} | shape | options
        model = Network(nn.Init(every * len(rates)), **kind).to(device)
        optimizer = optim.Clipped(1.0, optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(every))))
        generators = [torch.Generator().manual_seed(300 + s) for s in every]

        def draw(step, generators=generators, marks=marks):
            drawn = torch.stack([torch.randint(vocabulary, (batch, n), generator=g) for g in generators]).repeat(len(rates), 1, 1)
            return (F.pad(drawn, (marks, 0), value=vocabulary).to(device),)

        def targets_of(ids, task=task, marks=marks):
            return F.pad(even_tokens(ids, marks)[task == "even"], (marks, 0), value=HIDDEN)

        train.fit_graphed(
            lambda ids, model=model, targets_of=targets_of: masked_loss(model(ids), targets_of(ids)),
            draw,
            optimizer,
            steps,
            schedule=optim.warmup_cosine,
        )
        with torch.no_grad():
            (ids,) = draw(steps)
            targets, logits = targets_of(ids), model(ids)
            losses = masked_loss(logits, targets).nan_to_num(99.0, posinf=99.0).view(len(rates), -1)
            right = ((logits.argmax(-1) == targets).flatten(1).sum(1) / (targets != HIDDEN).flatten(1).sum(1)).view(len(rates), -1)
        tuned = losses[:, : len(tuning)].mean(1)
        best = int(tuned.argmin())
        found[task][name] = {
            "rate": rates[best],
            "tuning": tuned,
            "loss": losses[best, len(tuning) :],
            "accuracy": right[best, len(tuning) :],
        }
    return found


# %%
SMALL = {"d": 32, "depth": 2, "heads": 2}
LIVE_ARMS = ["RoPE", "absolute", "RoPE, URPE", "RoPE, exp/n", "RoPE, l2", "ALiBi, l2", "RoPE, CLS + SEP", "none, CLS + SEP"]
e1 = nb.run(
    "E1",
    probe,
    arms=arm(nb.at_scale(cpu=LIVE_ARMS, gpu=list(ARMS), full=list(ARMS))),
    rates=nb.at_scale(cpu=[2.0**-8], gpu=powers(-9, -6), full=powers(-11, -5)),
    tuning=nb.at_scale(cpu=[0], gpu=[0], full=[0, 1, 2]),
    seeds=nb.at_scale(cpu=[1, 2, 3], gpu=[1, 2, 3], full=[3, 4, 5, 6, 7]),
    train_on=[32],
    test_on=[32],
    batch=1,
    steps=nb.at_scale(cpu=200, gpu=400, full=800),
    shape=SMALL,
)

# %%
LIVE_LENGTH_ARMS = ["absolute", "RoPE, CLS + SEP", "RoPE, l2"]
HELD_OUT = nb.at_scale(cpu=[7, 11], gpu=[13, 20, 27], full=[13, 20, 27])
all_lengths = nb.at_scale(cpu=list(range(4, 17)), gpu=list(range(8, 33)), full=list(range(8, 33)))
e2 = nb.run(
    "E2",
    probe,
    arms=arm(nb.at_scale(cpu=LIVE_LENGTH_ARMS, gpu=LENGTH_ARMS, full=LENGTH_ARMS)),
    rates=nb.at_scale(cpu=[2.0**-8], gpu=powers(-9, -6), full=powers(-11, -5)),
    tuning=nb.at_scale(cpu=[0], gpu=[0], full=[0, 1]),
    seeds=nb.at_scale(cpu=[1, 2, 3], gpu=[1, 2, 3], full=[2, 3, 4, 5, 6]),
    train_on=[n for n in all_lengths if n not in HELD_OUT],
    test_on=all_lengths,
    batch=nb.at_scale(cpu=4, gpu=8, full=8),
    steps=nb.at_scale(cpu=250, gpu=600, full=1200),
    shape=SMALL,
)

# %%
text_shape = nb.at_scale(
    cpu={"d": 48, "depth": 2, "heads": 2}, gpu={"d": 96, "depth": 2, "heads": 3}, full={"d": 128, "depth": 4, "heads": 4}
)
text_n = nb.at_scale(cpu=32, gpu=64, full=64)
attention = lambda rule, *gains: {"layer": "attention", "rule": rule, "gains": list(gains)}
gau = lambda rule, *gains: {"layer": "gau", "rule": rule, "gains": list(gains)}
two = {"attention, l1": attention("l1", 1.0), "attention, l2": attention("l2", 1.0)}
text_arms = {"attention, l1": attention("l1", 1.0, 0.3), "attention, l2": attention("l2", 1.0, 0.3)}
text_arms |= {f"GAU, {rule}": gau(rule, 1.0) for rule in ("l1", "l2", "relu²/n")}
text_common = {
    "tuning": 0,
    "seeds": nb.at_scale(cpu=[1, 2, 3], gpu=[1, 2, 3], full=[1, 2, 3, 4]),
    "characters": nb.at_scale(cpu=500_000, gpu=2_000_000, full=10_000_000),
    "position": "rope",
    "bf16": nb.at_scale(cpu=False, gpu=False, full=True),
}
e3 = nb.run(
    "E3",
    languages,
    arms=nb.at_scale(cpu=two, gpu=text_arms, full=text_arms),
    rates=nb.at_scale(cpu=[2.0**-8], gpu=powers(-10, -7), full=powers(-11, -6)),
    share=0,
    causal=True,
    placement="pre",
    norm="rms",
    lengths=[text_n, 2 * text_n, 4 * text_n],
    n=text_n,
    batch=nb.at_scale(cpu=8, gpu=16, full=32),
    steps=nb.at_scale(cpu=100, gpu=300, full=700),
    windows=nb.at_scale(cpu=64, gpu=128, full=256),
    shape=text_shape,
    **text_common,
)

# %%
masked_n = nb.at_scale(cpu=32, gpu=64, full=128)
three_gains = [1.0, masked_n**-0.25, masked_n**-0.5]
masked_arms = {
    f"{name}, {rule}": make(rule, *three_gains) for name, make in (("attention", attention), ("GAU", gau)) for rule in ("l1", "l2")
}
e4 = nb.run(
    "E4",
    languages,
    arms=nb.at_scale(cpu=two, gpu=masked_arms, full=masked_arms),
    rates=nb.at_scale(cpu=[2.0**-8], gpu=powers(-10, -8), full=powers(-12, -8)),
    share=0.15,
    placement="post",
    norm="layer",
    lengths=[masked_n],
    n=masked_n,
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    steps=nb.at_scale(cpu=100, gpu=300, full=700),
    windows=nb.at_scale(cpu=64, gpu=128, full=256),
    shape=nb.at_scale(
        cpu={"d": 48, "depth": 2, "heads": 2}, gpu={"d": 96, "depth": 2, "heads": 3}, full={"d": 192, "depth": 4, "heads": 3}
    ),
    **text_common,
)

# %%
task_arms = arm(["none", "bias", "bias, URPE", "absolute"]) | {"bias, CLS": {"position": "bias", "first": True}}
e5 = nb.run(
    "E5",
    tasks,
    arms=nb.at_scale(cpu={name: task_arms[name] for name in ("bias", "bias, URPE")}, gpu=task_arms, full=task_arms),
    rates=nb.at_scale(cpu=[2.0**-7], gpu=powers(-9, -7), full=powers(-10, -6)),
    tuning=[0],
    seeds=[1, 2, 3],
    vocabulary=nb.at_scale(cpu=6, gpu=10, full=10),
    n=nb.at_scale(cpu=8, gpu=16, full=32),
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    steps=nb.at_scale(cpu=120, gpu=600, full=1200),
    shape=nb.at_scale(cpu=SMALL, gpu=SMALL, full={"d": 64, "depth": 2, "heads": 4}),
)
