# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train short, test long
#
# TODO

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import copy
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.extrapolation import Decoder, Scheme, planted, tiled
from kexue_nb.positions import (
    dynamic_ntk_frequencies,
    interpolated_frequencies,
    least_leak,
    ntk_by_parts_frequencies,
    ntk_frequencies,
    rope_frequencies,
    yarn_temperature,
)

# %%
nb = kexue_nb.notebook("length-extrapolation")


# %%
def corrected_scale(s, trained, d, base=1e4):
    """The scale to give to NTK-aware RoPE so that the first pair with less than one turn in training is interpolated by s in full."""
    critical = d / 2 * math.log(trained / (2 * math.pi)) / math.log(base)  # its index, not rounded
    return s ** ((d - 2) / (2 * critical))


# %%
def rescaled(p, n, trained, d, base):
    """Methods that change the frequencies: name -> scheme for n tokens; p holds the parameters of the one that is wanted."""
    s, theta = max(1.0, n / trained), rope_frequencies(d, base)
    by_parts = lambda fast, s=s: ntk_by_parts_frequencies(d, s, trained, base, fast=fast)
    return {
        "RoPE": lambda: Scheme(theta),
        "RoPE, log n": lambda: Scheme(theta, log_base=trained),
        "PI": lambda: Scheme(interpolated_frequencies(theta, s)),
        "PI, fixed": lambda: Scheme(interpolated_frequencies(theta, p[0])),
        "NTK-aware, fixed": lambda: Scheme(ntk_frequencies(d, p[0], base)),
        "dynamic NTK": lambda: Scheme(dynamic_ntk_frequencies(d, n, trained, base, factor=p[0])),
        "NTK, corrected": lambda: Scheme(ntk_frequencies(d, corrected_scale(s, trained, d, base), base)),
        "NTK-by-parts": lambda: Scheme(by_parts(p[0])),
        "NTK-by-parts, log n": lambda: Scheme(by_parts(p[0]), log_base=trained),
        "YaRN": lambda: Scheme(by_parts(p[0]), temperature=yarn_temperature(s)),
        "YaRN, fixed": lambda: Scheme(by_parts(p[0], p[1]), temperature=yarn_temperature(p[1])),
    }


# %%
def rewired(p, n, trained, theta):
    """Methods that change distances or what is seen; p[0] is their window as a share of the training length."""
    window = round(p[0] * trained)
    leak = least_leak(n, trained, min(window, trained - 2))
    return {
        "window": lambda: Scheme(theta, window=window),
        "LM-Infinite": lambda: Scheme(theta, window=window, sinks=4, near=trained - 1),
        "StreamingLLM": lambda: Scheme(theta, window=window - 4, sinks=4, near=window - 4, cached=True),
        "ReRoPE": lambda: Scheme(theta, near=window),
        "ReRoPE, log n": lambda: Scheme(theta, near=window, log_base=trained),
        "Leaky ReRoPE": lambda: Scheme(theta, near=window, leak=1 + p[1] * (leak - 1)),
        "Self-Extend": lambda: Scheme(theta, near=window, leak=math.ceil(leak), grouped=True),
    }


REWIRED = tuple(rewired([1.0], 2, 8, torch.ones(1)))


def reading(method, n, trained, d, device, base=1e4):
    """The scheme [name, parameters..] for a text of n tokens by a model with heads of size d that was trained on `trained` with RoPE."""
    name, *p = method
    made = (rewired(p, n, trained, rope_frequencies(d, base)) if name in REWIRED else rescaled(p, n, trained, d, base))[name]()
    return replace(made, frequencies=made.frequencies.to(device))


# %%
def architecture(arm, full, trained, d, heads, depth):
    """The schemes of all layers of a trained variant, ``full`` being that of its layers with full RoPE attention."""
    nowhere, span = torch.zeros_like(full.frequencies), max(4, trained // 8)
    local = Scheme(rope_frequencies(d).to(nowhere.device), window=span)
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1, device=nowhere.device) / heads)
    return {
        "RoPE": lambda: [full] * depth,
        "RoPE, other base": lambda: [full] * depth,
        "random positions": lambda: [full] * depth,
        "log n": lambda: [replace(full, log_base=trained, log_floor=0.0)] * depth,
        "ReRoPE": lambda: [replace(full, near=trained // 4)] * depth,
        "KeyNorm": lambda: [replace(full, norm="key")] * depth,
        "QueryNorm": lambda: [replace(full, norm="query")] * depth,
        "CosA": lambda: [replace(full, norm="cosine", temperature=full.temperature * 4 * math.log(trained / 2))] * depth,
        "NoPE": lambda: [replace(full, frequencies=nowhere)] * depth,
        "ALiBi": lambda: [replace(full, frequencies=nowhere, slopes=slopes)] * depth,
        "HWFA": lambda: [local] * (depth - 1) + [Scheme(nowhere, log_base=trained, log_floor=0.0)],
        "HWFA2": lambda: [full if i == depth // 2 else local for i in range(depth)],
    }[arm]()


# %%
def copies(sequences, low, high, length, vocabulary, generator):
    """Random tokens of a period in low..high: (1, sequences, length + 1), and where the next token is a copy (1, sequences, length)."""
    device = generator.device
    period = torch.randint(low, high + 1, (1, sequences), generator=generator, device=device)
    ids = tiled(torch.randint(vocabulary, (1, sequences, high), generator=generator, device=device), period, length + 1)
    return ids, torch.arange(1, length + 1, device=device) >= period[..., None]


def losses(model, ids, schemes, precision=torch.float32, at=None):
    """Cross-entropy of every next token (R, B, T) of ids (R, B, T + 1)."""
    logits = model(ids[..., :-1], schemes, precision, at=at).float()
    return F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none").view(ids[..., 1:].shape)


def random_positions(count, reach, generator):
    """``count`` places of 0..reach-1 in increasing order."""
    return torch.rand(reach, generator=generator, device=generator.device).topk(count).indices.sort().values


# %%
def train_copier(arm, device, *, length, d, heads, depth, rates, seeds, steps, batch, reach):
    """A stack of decoders, rates x seeds, that learn to continue periodic text of `length` tokens; arm: [architecture, base]."""
    name, base = arm
    model = Decoder(nn.Init(list(seeds) * len(rates)), vocabulary=16, d=d, depth=depth, heads=heads).to(device)
    runs, generator = len(rates) * len(seeds), torch.Generator(device=device).manual_seed(50_000)
    schemes = architecture(name, reading(["RoPE"], length, length, d // heads, device, base), length, d // heads, heads, depth)

    def batch_of(step):
        ids, scored = copies(batch, length // 8, 3 * length // 4, length, 16, generator)
        at = torch.arange(length, device=device)
        return ids, scored.float(), random_positions(length, reach, generator) if name == "random positions" else at

    def loss(ids, scored, at):
        nll = losses(model, ids.expand(runs, -1, -1), schemes, at=at if name == "random positions" else None)
        return (nll * scored).sum((1, 2)) / scored.sum()

    rate = torch.tensor(rates).repeat_interleave(len(seeds))
    optimizer = optim.StackedAdam(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = lambda step, steps: optim.warmup_cosine(step, steps, final=0.02)
    train.fit_graphed(loss, batch_of, optimizer, steps, schedule=schedule)
    return model


# %%
@torch.no_grad()
def copying(model, schemes, length, period, sequences, seed, tail=16):
    """Share of the last 16 tokens of periodic text that are predicted: (runs,)."""
    device = model.tokens.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    ids, _ = copies(sequences, period, period, length, 16, generator)
    runs, right = len(model.tokens.weight), []
    for part in ids.split(max(1, 2**15 // length), 1):
        guess = model(part[..., :-1].expand(runs, -1, -1), schemes)[:, :, -tail:].argmax(-1)
        right.append((guess == part[..., -tail:]).float())
    return torch.cat(right, 1).mean((1, 2))


def keep_rows(model, rows):
    """A decoder that holds the runs ``rows`` of a stack."""
    kept = copy.deepcopy(model)
    for p in kept.parameters():
        p.data = p.data[rows].clone()
    return kept


# %%
def copy_tests(model, arm, method, seed, *, length, d, heads, depth, multiples, sequences):
    """Accuracy (multiples, short and long period, seeds) of an architecture [name, base] with a method."""
    table = []
    for n in (length * m for m in multiples):
        schemes = architecture(
            arm[0], reading(method, n, length, d // heads, model.tokens.weight.device, arm[1]), length, d // heads, heads, depth
        )
        table.append(torch.stack([copying(model, schemes, n, period, sequences, seed) for period in (3 * length // 8, int(0.45 * n))]))
    return torch.stack(table)


def copy_experiment(device, *, length, d, heads, depth, arms, rates, seeds, steps, batch, multiples, methods, also, sequences):
    """E1: every architecture trained at every rate and seed; then, at multiples of the training length, every method on plain RoPE."""
    shape, chosen, models = {"length": length, "d": d, "heads": heads, "depth": depth}, [], {}
    test = lambda arm, method, seed=61_000: copy_tests(models[arm[0]], arm, method, seed, **shape, multiples=multiples, sequences=sequences)
    for arm in arms:
        common = {**shape, "rates": rates, "seeds": seeds, "steps": steps, "batch": batch, "reach": length * max(multiples)}
        model = models[arm[0]] = train_copier(arm, device, **common)
        at_home = copy_tests(model, arm, ["RoPE"], 60_000, **shape, multiples=[1], sequences=4 * sequences)
        chosen.append(at_home.mean((0, 1)).view(len(rates), len(seeds)))
        best = int(chosen[-1].mean(1).argmax())
        models[arm[0]] = keep_rows(model, slice(best * len(seeds), (best + 1) * len(seeds)))
    by_name = {arm[0]: arm for arm in arms}
    result = {"at training length": torch.stack(chosen), "direct": [test(arm, ["RoPE"]) for arm in arms]}
    result |= {key: [test(arms[0], m, seed) for m in methods] for key, seed in (("post hoc", 61_000), ("choice", 62_000))}
    return result | {"also": [test(by_name[arm], method) for arm, method in also]}


# %% tags=["hide-input"]
METHODS = [
    *(["window", w] for w in (0.5, 1.0)),
    *(["LM-Infinite", w] for w in (0.5, 1.0)),
    *(["StreamingLLM", w] for w in (0.5, 1.0)),
    ["PI"],
    *(["PI, fixed", s] for s in (4.0, 16.0)),
    *(["NTK-aware, fixed", s] for s in (4.0, 16.0, 64.0)),
    *(["dynamic NTK", f] for f in (1.0, 2.0, 4.0)),
    ["NTK, corrected"],
    *(["NTK-by-parts", r] for r in (2, 4, 8, 32)),
    *(["YaRN", r] for r in (2, 4, 8, 32)),
    *(["YaRN, fixed", 8, s] for s in (4.0, 16.0)),
    *(["NTK-by-parts, log n", r] for r in (2, 4, 8, 32)),
    ["RoPE"],
    ["RoPE, log n"],
    *(["ReRoPE", w] for w in (0.25, 0.5, 0.75, 0.9, 1.0)),
    *(["ReRoPE, log n", w] for w in (0.25, 0.5, 0.75)),
    *(["Leaky ReRoPE", w, m] for w in (0.25, 0.5) for m in (1, 2)),
    *(["Self-Extend", w] for w in (0.25, 0.5, 0.75)),
]
ALSO = [
    ["KeyNorm", ["ReRoPE", 0.25]],
    ["KeyNorm", ["YaRN", 4]],
    ["KeyNorm", ["dynamic NTK", 1.0]],
    ["HWFA2", ["ReRoPE", 0.25]],
    ["log n", ["ReRoPE", 0.25]],
]
ARMS = ["RoPE", "KeyNorm", "QueryNorm", "CosA", "HWFA", "HWFA2", "log n", "ReRoPE", "NoPE", "ALiBi", "random positions"]
LIVE = [["window", 1.0], ["PI"], ["dynamic NTK", 1.0], ["YaRN", 4], ["RoPE"], ["ReRoPE", 0.25], ["ReRoPE", 1.0], ["Leaky ReRoPE", 0.25, 1]]

# %%
e1 = nb.run(
    "E1",
    copy_experiment,
    d=64,
    heads=2,
    depth=2,
    length=nb.at_scale(cpu=32, gpu=64, full=64),
    arms=nb.at_scale(cpu=[["RoPE", 1e4]], gpu=[[a, 1e4] for a in ARMS[:6]], full=[*([a, 1e4] for a in ARMS), ["RoPE, other base", 50.0]]),
    rates=nb.at_scale(cpu=[1e-2], gpu=[5e-3, 1e-2], full=[2e-3, 4e-3, 8e-3, 1.6e-2]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=220, gpu=400, full=800),
    batch=nb.at_scale(cpu=32, gpu=48, full=48),
    multiples=nb.at_scale(cpu=[1, 2, 4, 8], gpu=[1, 2, 4, 8, 16], full=[1, 2, 4, 8, 16]),
    methods=nb.at_scale(cpu=LIVE, gpu=METHODS, full=METHODS),
    also=nb.at_scale(cpu=[], gpu=ALSO[:4], full=ALSO),
    sequences=nb.at_scale(cpu=12, gpu=32, full=64),
)


# %%
def train_reader(arm, device, ids, alphabet, *, length, d, heads, depth, rates, seeds, steps, batch, bf16):
    """A stack of character models, rates x seeds, on text of which half is periodic and all carries notes that are asked for."""
    pairs, names, values = notes_for(length)
    model = Decoder(nn.Init(list(seeds) * len(rates)), vocabulary=alphabet + names + values, d=d, depth=depth, heads=heads).to(device)
    generator = torch.Generator(device=device).manual_seed(70_000)
    schemes = architecture(arm, reading(["RoPE"], length, length, d // heads, device), length, d // heads, heads, depth)
    precision, every_rate = torch.bfloat16 if bf16 else torch.float32, lambda t: t.repeat(len(rates), 1, 1)

    def batch_of(step):
        start = torch.randint(len(ids) - length, (len(seeds), batch, 1), generator=generator, device=device)
        text = ids[start + torch.arange(length + 1, device=device)]
        period = torch.randint(length // 16, length // 2 + 1, (len(seeds), batch // 2), generator=generator, device=device)
        text = torch.cat([tiled(text[:, : batch // 2], period, length + 1), text[:, batch // 2 :]], 1)
        text, asked, _ = planted(text, pairs, names, values, alphabet, None, generator)
        return every_rate(text), every_rate(asked)

    def loss(text, asked):
        nll = losses(model, text, schemes, precision)
        return nll.mean((1, 2)) + nll.gather(-1, asked).mean((1, 2))

    rate = torch.tensor(rates).repeat_interleave(len(seeds))
    optimizer = optim.StackedAdam(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
    train.fit_graphed(loss, batch_of, optimizer, steps, schedule=optim.warmup_cosine)
    return model


# %%
@torch.no_grad()
def scored(model, ids, schemes, asked=None, bins=0, tail=128):
    """Losses of the last ``tail`` tokens of ids (B, n + 1): (runs, B); their accuracy; with ``bins`` the mean loss in so many stretches.

    With ``asked`` (B, pairs) loss and accuracy are those of the tokens after these places.
    """
    runs, rows, size = len(model.tokens.weight), [], max(1, 2**13 // (ids.shape[-1] - 1))
    for part in range(0, len(ids), size):
        text = ids[part : part + size].expand(runs, -1, -1)
        logits, target = model(text[..., :-1], schemes).float(), text[..., 1:]
        nll = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
        right = (logits.argmax(-1) == target).float()
        if asked is None:
            nll_tail, right = nll[..., -tail:], right[..., -tail:]
        else:
            where = asked[part : part + size].expand(runs, -1, -1)
            nll_tail, right = nll.gather(-1, where), right.gather(-1, where)
        row = [nll_tail.mean(-1), right.mean(-1)]
        rows.append(torch.stack([*row, *nll.unflatten(-1, (bins, -1)).mean(-1).unbind(-1)] if bins else row, -1))
    return torch.cat(rows, 1)  # (runs, B, 2 + bins)


# %%
def read_tests(model, schemes_of, text, notes, *, length, multiples, bins):
    """Results of the methods on the same last tokens with contexts of multiples of the training length.

    Rows: loss of plain text, loss and accuracy of text of period `length`, accuracy on the notes; each (multiples, halves, seeds): the first
    half of the sequences is for choices, the second for reports. And the loss by stretches at the longest context (bins, seeds).
    """
    halves = lambda x: torch.stack([h.mean(1) for h in x.tensor_split(2, 1)])  # (runs, B) -> (2, runs)
    plain, repeated, repeated_right, noted = [], [], [], []
    for n in (length * m for m in multiples):
        schemes = schemes_of(n)
        last = scored(model, text[:, -(n + 1) :], schemes, bins=bins if n == length * max(multiples) else 0)
        periods = torch.full(text.shape[:1], length, device=text.device)
        again = scored(model, tiled(text[:, :length], periods, n + 1), schemes)
        asked = scored(model, notes[n][0], schemes, notes[n][1])
        plain.append(halves(last[..., 0]))
        repeated.append(halves(again[..., 0]))
        repeated_right.append(halves(again[..., 1]))
        noted.append(halves(asked[..., 1]))
    curve = last[:, -(len(text) // 2) :, 2:].mean(1).T
    names = ("plain", "repeated", "repeated right", "noted")
    return {k: torch.stack(v) for k, v in zip(names, (plain, repeated, repeated_right, noted), strict=True)} | {"by position": curve}


# %%
@torch.no_grad()
def masses(model, schemes, text, length):
    """Mean attention of the queries from `length` on: to token 0, and in ten octaves of the distance; (layers, 11, runs)."""
    found = []

    def watch(layer, weights):  # (R, B, H, T, T)
        n = weights.shape[-1]
        at = torch.arange(n, device=weights.device)
        octave = (at[:, None] - at).clamp_min(0).float().add(1).log2().floor().clamp_max(9)
        mean = weights.mean((1, 2))[:, length:]
        found.append(torch.stack([mean[..., 0].mean(1), *((mean * (octave[length:] == o)).sum(-1).mean(1) for o in range(10))]))

    for part in text[:, -(2 * length) :].split(2):
        model(part.expand(len(model.tokens.weight), -1, -1), schemes, watch=watch)
    return torch.stack(found).unflatten(0, (-1, model.depth)).mean(0)


# %%
def held_out(device, length, multiples, sequences):
    """The characters to train on, their number, text (sequences, n + 1) from the last tenth, and its notes by context length."""
    characters, letters = data.encode_characters(data.shakespeare())
    characters, split, longest = characters.to(device), int(0.9 * len(characters)), length * max(multiples)
    generator = torch.Generator(device=device).manual_seed(71_000)
    start = torch.randint(split, len(characters) - longest - 1, (sequences, 1), generator=generator, device=device)
    text, notes = characters[start + torch.arange(longest + 1, device=device)], {}
    for n in (length * m for m in multiples):
        ids, asked, _ = planted(text[:, -(n + 1) : -1], *notes_for(length), len(letters), length // 4, generator)
        notes[n] = F.pad(ids, (0, 1)), asked  # what comes after the last token is not scored
    return characters[:split], len(letters), text, notes


def text_experiment(device, *, shape, arms, methods, also, rates, seeds, steps, batch, multiples, sequences, bins, fine, bf16):
    """E2 to E5: character models trained on `length` characters and read with up to max(multiples) times as many."""
    length, d, heads, depth = (shape[key] for key in ("length", "d", "heads", "depth"))
    characters, letters, text, notes = held_out(device, length, multiples, sequences)
    schemes = lambda arm, m, n: architecture(arm, reading(m, n, length, d // heads, device), length, d // heads, heads, depth)
    tests = {"length": length, "multiples": multiples, "bins": bins}
    test = lambda arm, method: read_tests(models[arm], lambda n: schemes(arm, method, n), text, notes, **tests)
    chosen, models = [], {}
    for arm in arms:
        model = train_reader(arm, device, characters, letters, **shape, rates=rates, seeds=seeds, steps=steps, batch=batch, bf16=bf16)
        chosen.append(text_loss(model, schemes(arm, ["RoPE"], length), text, notes[length]).view(len(rates), len(seeds)))
        best = int(chosen[-1].mean(1).argmin())
        models[arm] = keep_rows(model, slice(best * len(seeds), (best + 1) * len(seeds)))
    result = {"at training length": torch.stack(chosen), "direct": [test(arm, ["RoPE"]) for arm in arms]}
    result |= {"post hoc": [test("RoPE", method) for method in methods], "also": [test(arm, method) for arm, method in also]}
    result["fine"] = fine_lengths(models["RoPE"], lambda m, n: schemes("RoPE", m, n), text, length, **fine)
    mass = {m[0]: masses(models["RoPE"], schemes("RoPE", m, 2 * length), text, length) for m in (["RoPE"], ["ReRoPE", 0.25])}
    return result | {"mass": mass}


# %%
def notes_for(length):
    """Notes in a text, names and values that they use."""
    return (8, 32, 16) if length >= 128 else (2, 8, 4)


@torch.no_grad()
def text_loss(model, schemes, text, note):
    """What training minimizes, on plain text and notes of the training length: (runs,). A model that diverged gets 100."""
    length = note[0].shape[-1] - 1
    plain, noted = scored(model, text[:, -(length + 1) :], schemes)[..., 0], scored(model, note[0], schemes, note[1])[..., 0]
    return (plain + noted).mean(1).nan_to_num(100.0)


@torch.no_grad()
def fine_lengths(model, schemes_of, text, length, shares, scales):
    """E3: loss of the last tokens with contexts of `shares` of the training length, bases fixed for the scales: (scales, shares, runs)."""
    lengths = [int(length * share) for share in shares]
    return [[scored(model, text[:, -(n + 1) :], schemes_of(["NTK-aware, fixed", s], n))[..., 0].mean(1) for n in lengths] for s in scales]


# %%
e5 = nb.run(
    "E5",
    text_experiment,
    shape=nb.at_scale(
        cpu={"length": 32, "d": 48, "heads": 2, "depth": 2},
        gpu={"length": 128, "d": 128, "heads": 2, "depth": 4},
        full={"length": 256, "d": 256, "heads": 4, "depth": 4},
    ),
    arms=nb.at_scale(cpu=["RoPE"], gpu=["RoPE", "KeyNorm"], full=["RoPE", "KeyNorm", "HWFA", "HWFA2", "ReRoPE", "ALiBi"]),
    methods=nb.at_scale(cpu=LIVE, gpu=METHODS, full=METHODS),
    also=nb.at_scale(cpu=[], gpu=[], full=ALSO[:4]),
    rates=nb.at_scale(cpu=[1e-2], gpu=[2e-3, 4e-3], full=[1e-3, 2e-3, 4e-3]),
    seeds=[0, 1, 2],
    steps=nb.at_scale(cpu=150, gpu=600, full=1000),
    batch=nb.at_scale(cpu=16, gpu=16, full=24),
    multiples=nb.at_scale(cpu=[1, 2, 4, 8], gpu=[1, 2, 4, 8, 16], full=[1, 2, 4, 8, 16]),
    sequences=nb.at_scale(cpu=12, gpu=8, full=16),
    bins=nb.at_scale(cpu=8, gpu=16, full=16),
    fine={"shares": [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8], "scales": nb.at_scale(cpu=[1, 4], gpu=[1, 4, 8], full=[1, 2, 4, 8, 16])},
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
)
