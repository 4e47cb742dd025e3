# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import statistics
import time

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, runtime, simplex, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("softmax-alternatives")


# %%
def output_loss(name, x, target):
    """The loss of each example: logits x (..., V), class ids (...) -> (...)."""
    kind, _, number = name.partition(" ")
    pick = lambda p: p.gather(-1, target[..., None])[..., 0]
    if kind == "softmax":
        return -pick(torch.log_softmax(x, -1))
    if kind == "smoothed":  # cross-entropy against 0.9 of the one-hot and 0.1 of the uniform distribution
        logs = torch.log_softmax(x, -1)
        return -0.9 * pick(logs) - 0.1 * logs.mean(-1)
    if kind in ("entmax", "sparsemax"):
        return simplex.fenchel_young_loss(x, target, float(number or 2))
    if kind == "top":
        return simplex.topk_softmax_loss(x, target, int(number))
    if kind == "normal":
        return -pick(simplex.perturbed_argmax(x, "normal", int(number), log=True))
    p = pick(read_out(name, x))
    if kind == "p_t":
        return -p
    if kind == "eps":  # cross-entropy of sparsemax, eps = 0.01 added to every class
        return -((p + 0.01) / (1 + 0.01 * x.shape[-1])).log()
    return -p.log()


def read_out(name, x):
    """The probabilities (..., V) that go with a loss."""
    kind, _, number = name.partition(" ")
    if kind in ("entmax", "sparsemax", "eps"):
        return simplex.entmax(x, float(number or 2))
    if kind == "top":
        return simplex.topk_softmax(x, int(number))
    if kind == "Taylor":
        return simplex.taylor_softmax(x, int(number))
    if kind == "normal":
        return simplex.perturbed_argmax(x, "normal", int(number))
    return torch.softmax(x, -1)


# %%
def patches(h):
    """The 3 x 3 patches at stride 2 of pictures (..., side, side, c): (..., side^2 / 4, 9 c), row and column 0 padded with zeros."""
    lead, (side, _, c) = h.shape[:-3], h.shape[-3:]
    h = F.pad(h, (0, 0, 1, 0, 1, 0)).unfold(-3, 3, 2).unfold(-3, 3, 2)  # (..., side/2, side/2, c, 3, 3)
    return h.reshape(*lead, side * side // 4, 9 * c)


def network(init, kind, side, device):
    """Stacked weights, biases, and the map from pictures (R, B, 1, side, side) to logits (R, B, 10): 64-64-10, or two convolutions."""
    sizes = {"mlp": [(side**2, 64), (64, 64), (64, 10)], "cnn": [(9, 16), (144, 32), (2 * side**2, 10)]}[kind]
    weights = [torch.nn.Parameter(init.normal(a, b, std=math.sqrt(2 / a)).to(device)) for a, b in sizes]
    biases = [torch.nn.Parameter(torch.zeros(init.runs, 1, b, device=device)) for _, b in sizes]
    layer = lambda h, i: torch.baddbmm(biases[i], h, weights[i])

    def forward(x):
        R, B = x.shape[:2]
        if kind == "mlp":
            return layer(F.relu(layer(F.relu(layer(x.flatten(2), 0)), 1)), 2)
        h = F.relu(layer(patches(x.flatten(2).view(R, B, side, side, 1)).flatten(1, 2), 0))
        h = F.relu(layer(patches(h.view(R, B, side // 2, side // 2, 16)).flatten(1, 2), 1))
        return layer(h.view(R, B, -1), 2)

    return weights + biases, forward


# %%
def scores(name, forward, x, y, runs):
    """Accuracy, calibration error, mean support and logit spread of each run on pictures x (N, ...): (R,) each."""
    with torch.no_grad():
        logits = torch.cat([forward(part.expand(runs, *part.shape)) for part in x.split(250)], 1).nan_to_num()
        p = torch.cat([read_out(name, part) for part in logits.split(100, 1)], 1)
    return {
        "accuracy": (p.argmax(-1) == y).double().mean(1),
        "calibration": simplex.calibration_error(p, y.expand(len(p), -1)),
        "support": (p > 1e-7).double().sum(-1).mean(1),
        "spread": (logits.amax(-1) - logits.amin(-1)).double().mean(1),
    }


def shuffled(x, y, seeds, arms, batch, generator):
    """A function of the step that draws (arms * seeds, batch, ...) pictures and labels, each seed in an order of its own, no repeats an epoch."""
    per_epoch, order = len(x) // batch, []

    def draw(step):
        if step % per_epoch == 0:
            order[:] = [torch.stack([torch.randperm(len(x), generator=generator) for _ in seeds]).to(x.device)]
        place = order[0][:, (step % per_epoch) * batch :][:, :batch]
        return x[place].repeat(arms, *[1] * x.ndim), y[place].repeat(arms, 1)

    return draw


# %%
def classifiers(device, name, d, *, kind, rates, seeds, epochs, batch, marks, valid):
    """Train a stack under one loss: test scores, accuracy on ``valid`` held-out training pictures, accuracy after the epochs ``marks``."""
    x, y = d.train[:-valid], d.train_labels[:-valid]
    init, per_epoch = nn.Init(list(seeds) * len(rates)), len(x) // batch
    params, forward = network(init, kind, x.shape[-1], device)
    curve = {}

    def watch(step, _):
        if step + 1 in [mark * per_epoch for mark in marks]:
            curve[str((step + 1) // per_epoch)] = scores(name, forward, d.test, d.test_labels, init.runs)["accuracy"]

    draw = shuffled(x, y, seeds, len(rates), batch, torch.Generator().manual_seed(1000))
    optimizer = optim.StackedAdam(params, torch.tensor(rates).repeat_interleave(len(seeds)))
    loss = lambda pixels, target: output_loss(name, forward(pixels), target).mean(1)
    train.fit_graphed(loss, draw, optimizer, epochs * per_epoch, watch=watch)
    found = scores(name, forward, d.test, d.test_labels, init.runs) | curve
    found |= {"valid": scores(name, forward, d.train[-valid:], d.train_labels[-valid:], init.runs)["accuracy"]}
    found |= {"train spread": scores(name, forward, x[:500], y[:500], init.runs)["spread"]}
    return {key: value.view(len(rates), len(seeds)) for key, value in found.items()}


def output_losses(device, *, pictures, losses, **setting):
    """:func:`classifiers` for each loss."""
    d = data.pictures(pictures).to(device)
    return {name: classifiers(device, name, d, **setting) for name in losses}


# %%
e1_losses = ["softmax", "smoothed", "entmax 1.25", "entmax 1.5", "sparsemax", "top 2", "top 5", "Taylor 2", "normal 32", "p_t", "eps"]
e1_setting = nb.at_scale(
    cpu={"rates": [3e-3], "seeds": [0, 1, 2], "epochs": 6},
    gpu={"rates": [1e-3, 3e-3, 1e-2], "seeds": [0, 1, 2], "epochs": 30},
    full={"rates": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], "seeds": list(range(10)), "epochs": 30},
)
e1_marks = [m for m in (1, 3, 10, 30) if m <= e1_setting["epochs"]]
digits = {"pictures": "digits8", "kind": "mlp", "losses": e1_losses, "batch": 100, "valid": 200, "marks": e1_marks}
e1 = nb.run("E1", output_losses, **digits, **e1_setting)

# %%
e1b_setting = nb.at_scale(
    cpu={"pictures": "digits8", "losses": ["softmax", "sparsemax"], "rates": [1e-2], "seeds": [0, 1, 2], "epochs": 4, "marks": [1, 3]},
    gpu={"pictures": "mnist28", "losses": e1_losses, "rates": [1e-3, 3e-3], "seeds": [0, 1, 2], "epochs": 10, "marks": [1, 3, 10]},
    full={
        "pictures": "mnist28",
        "losses": e1_losses,
        "rates": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        "seeds": list(range(8)),
        "epochs": 20,
        "marks": [1, 3, 10, 20],
    },
)
e1b = nb.run("E1b", output_losses, kind="cnn", batch=125, valid=nb.at_scale(cpu=200, gpu=500, full=500), **e1b_setting)


# %%
def word_scores(name, model, ids, starts, precision):
    """Top-1 and top-10 accuracy, mean p_t, share of words with p_t = 0 and mean support of each run, (R,) each, on windows of ids."""
    found = []
    with torch.no_grad():
        for start in starts.split(8):
            window = ids[start[:, None] + torch.arange(model.context + 1, device=ids.device)]
            runs = model.head.weight.shape[0]
            x, target = window[:, :-1].expand(runs, -1, -1), window[:, 1:].expand(runs, -1, -1)
            logits = model(x, precision).float().nan_to_num()
            p = read_out(name, logits)
            p_t = p.gather(-1, target[..., None])[..., 0]
            rank = (logits > logits.gather(-1, target[..., None])).sum(-1)
            rows = [(rank < 1).float(), (rank < 10).float(), p_t, (p_t == 0).float(), (p > 0).float().sum(-1)]
            found.append(torch.stack([row.mean((1, 2)) for row in rows]))
    return dict(zip(("top-1", "top-10", "p_t", "zero", "support"), torch.stack(found).mean(0), strict=True))


# %%
def word_model(name, train_ids, held, vocabulary, *, shape, rates, seeds, steps, batch, starts, precision, start=None, stream=1):
    """Train a stack of next-word models under one loss, from ``start`` (the weights of one run a seed) where given: the model and its scores."""
    model = nn.Transformer(nn.Init(list(seeds) * len(rates)), vocabulary=vocabulary, **shape).to(train_ids.device)
    if start is not None:
        with torch.no_grad():
            for p, q in zip(model.parameters(), start, strict=True):
                p.copy_(q.repeat(len(rates), *[1] * (q.ndim - 1)))
    generator = torch.Generator(device=train_ids.device).manual_seed(stream)
    reach = torch.arange(model.context + 1, device=train_ids.device)

    def loss(step):
        begin = torch.randint(len(train_ids) - len(reach), (len(seeds), batch, 1), generator=generator, device=reach.device)
        window = train_ids[begin + reach].repeat(len(rates), 1, 1)
        return output_loss(name, model(window[..., :-1], precision).float(), window[..., 1:]).mean((1, 2))

    optimizer = optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)), betas=(0.9, 0.95))
    train.fit(loss, optimizer, steps, schedule=optim.warmup_cosine)
    found = {part: word_scores(name, model, text, starts, precision) for part, text in held.items()}
    return model, {part: {k: v.view(len(rates), len(seeds)) for k, v in row.items()} for part, row in found.items()}


def next_word(device, *, vocabulary, losses, rates, tune_rates, seeds, steps, tune_steps, shape, batch, windows, bf16):
    """Next-word models on Shakespeare from scratch under each loss, then the softmax model fine-tuned under each of them."""
    torch.set_float32_matmul_precision("high")
    ids = data.encode_words(data.shakespeare(), vocabulary)[0].to(device)
    cut = len(ids) // 20
    text = ids[: -2 * cut], {"valid": ids[-2 * cut : -cut], "test": ids[-cut:]}, vocabulary
    starts = torch.linspace(0, cut - shape["context"] - 2, windows, device=device).long()
    common = {"shape": shape, "seeds": seeds, "batch": batch, "starts": starts, "precision": torch.bfloat16 if bf16 else torch.float32}
    result = {"scratch": {}, "tuned": {}}
    for name in losses:
        model, result["scratch"][name] = word_model(name, *text, rates=rates, steps=steps, **common)
        if name == "softmax":
            best = int(result["scratch"][name]["valid"]["top-1"].mean(1).argmax()) * len(seeds)
            start = [p.detach()[best : best + len(seeds)].clone() for p in model.parameters()]
        del model
    for name in losses:
        result["tuned"][name] = word_model(name, *text, rates=tune_rates, steps=tune_steps, start=start, stream=2, **common)[1]
    torch.set_float32_matmul_precision("highest")
    return result


# %%
e1c_shape = nb.at_scale(
    cpu={"d": 32, "depth": 1, "heads": 2, "context": 16},
    gpu={"d": 128, "depth": 2, "heads": 4, "context": 32},
    full={"d": 256, "depth": 2, "heads": 4, "context": 32},
)
e1c_setting = nb.at_scale(
    cpu={"vocabulary": 256, "rates": [1e-2], "tune_rates": [3e-3], "seeds": [0, 1, 2], "steps": 60, "tune_steps": 20, "batch": 8, "windows": 32},
    gpu={"vocabulary": 2048, "rates": [1e-3, 3e-3], "tune_rates": [1e-3], "seeds": [0, 1, 2], "steps": 300, "tune_steps": 100, "batch": 16, "windows": 64},
    full={"vocabulary": 4096, "rates": [3e-4, 1e-3, 3e-3, 1e-2], "tune_rates": [1e-4, 3e-4, 1e-3, 3e-3], "seeds": [0, 1, 2, 3, 4], "steps": 1000, "tune_steps": 200, "batch": 32, "windows": 256},
)  # fmt: skip
e1c_losses = nb.at_scale(cpu=["softmax", "sparsemax", "top 10"], gpu=["softmax", "entmax 1.5", "sparsemax", "top 10"],
    full=["softmax", "entmax 1.5", "sparsemax", "top 10", "top 50"])  # fmt: skip
e1c = nb.run("E1c", next_word, losses=e1c_losses, shape=e1c_shape, bf16=nb.scale != "cpu" and runtime.has_bf16(), **e1c_setting)


# %%
def attention_map(name, s):
    """Attention weights (..., n) from scores: softmax, softmax with the factor log n / log 16, or entmax."""
    kind, _, number = name.partition(" ")
    if kind == "softmax":
        return torch.softmax(s * (math.log(s.shape[-1]) / math.log(16) if number else 1), -1)
    return simplex.entmax(s, float(number or 2))


def look_up(name, tables, task):
    """The logits over values (R, B, values) of one attention head, and its weights (R, B, n): softmax(q.k/sqrt d) or another map."""
    Eq, Ek, Ev = tables
    keys, values, target, _ = task
    d = Eq.shape[-1]
    q = Eq.gather(1, keys.gather(2, target[..., None]).expand(-1, -1, d))
    p = attention_map(name, (q @ Ek.mT / math.sqrt(d)).gather(2, keys))
    mixture = torch.zeros(*p.shape[:2], Ev.shape[1], device=p.device).scatter_add(2, values, p)
    return mixture @ Ev, p


# %%
def recall_stack(device, name, *, rates, seeds, steps, lengths, batch, tests, key_ids, value_ids, d):
    """Train one map at n = 16: {map: {"valid" or a length: {accuracy, weight, support}}}, (rates, seeds) each; softmax is read in two ways."""
    init = nn.Init(list(seeds) * len(rates))
    shapes = ((key_ids, d), (key_ids, d), (value_ids, value_ids))
    tables = [torch.nn.Parameter(init.normal(*shape).to(device)) for shape in shapes]

    def draw(pairs, size, generator):
        task = data.associative_recall((len(seeds), size), pairs, key_ids, value_ids, generator)
        return tuple(t.repeat(len(rates), *[1] * (t.ndim - 1)) for t in task)

    def tested(reader, n, seed):
        with torch.no_grad():
            task = draw(n, tests, torch.Generator(device=device).manual_seed(seed))
            logits, p = look_up(reader, tables, task)
        rows = (logits.argmax(-1) == task[3]).double(), p.gather(2, task[2][..., None])[..., 0], (p > 0).double().sum(-1)
        return {k: v.mean(1).view(len(rates), len(seeds)) for k, v in zip(("accuracy", "weight", "support"), rows, strict=True)}

    loss = lambda *task: nn.cross_entropy_per_run(look_up(name, tables, task)[0], task[3])
    generator = torch.Generator(device=device).manual_seed(10_000)
    optimizer = optim.Clipped(1.0, optim.StackedAdam(tables, torch.tensor(rates).repeat_interleave(len(seeds))))
    train.fit_graphed(loss, lambda step: draw(16, batch, generator), optimizer, steps, schedule=optim.warmup_cosine)
    parts = {"valid": (16, 20_000)} | {str(n): (n, 30_000 + n) for n in lengths}
    readers = [name, "softmax log-n"] if name == "softmax" else [name]
    return {reader: {part: tested(reader, *at) for part, at in parts.items()} for reader in readers}


def sparse_recall(device, *, maps, steps, key_ids=1024, value_ids=32, d=16, **setting):
    """:func:`recall_stack` for every map and number of steps: {steps: {map: ...}}."""
    sizes = {"key_ids": key_ids, "value_ids": value_ids, "d": d}
    result = {str(count): {} for count in steps}
    for count, name in itertools.product(steps, maps):
        result[str(count)] |= recall_stack(device, name, steps=count, **sizes, **setting)
    return result


# %%
e2_setting = nb.at_scale(
    cpu={"rates": [3e-2], "seeds": [0, 1, 2], "steps": [300], "tests": 64},
    gpu={"rates": [1e-2, 3e-2, 1e-1], "seeds": [0, 1, 2], "steps": [800], "tests": 128},
    full={"rates": [3e-3, 1e-2, 3e-2, 1e-1, 3e-1], "seeds": list(range(8)), "steps": [800, 3200], "tests": 256},
)
e2_maps = nb.at_scale(
    cpu=["softmax", "entmax 1.5", "sparsemax"],
    gpu=["softmax", "entmax 1.5", "sparsemax"],
    full=["softmax", "entmax 1.25", "entmax 1.5", "sparsemax"],
)
e2 = nb.run("E2", sparse_recall, maps=e2_maps, lengths=[16, 64, 256, 1024], batch=nb.at_scale(cpu=32, gpu=64, full=64), **e2_setting)


# %%
def contestants():
    """The maps to be timed: {name: (map, this package's method)}, those of the package entmax only where it is installed."""
    ours = {
        f"{label} {method}": lambda x, alpha=alpha, method=method: simplex.entmax(x, alpha, -1, method)
        for label, alpha in (("sparsemax", 2.0), ("entmax 1.5", 1.5), ("entmax 1.25", 1.25))
        for method in ("auto", "sort", "bisect")
        if (alpha, method) != (1.25, "sort")
    }
    try:
        import entmax
    except ImportError:
        return ours | {"softmax": lambda x: torch.softmax(x, -1)}
    peers = {
        "sparsemax peer sort": lambda x: entmax.sparsemax(x),
        "sparsemax peer bisect": lambda x: entmax.sparsemax_bisect(x),
        "entmax 1.5 peer sort": lambda x: entmax.entmax15(x),
        "entmax 1.5 peer bisect": lambda x: entmax.entmax_bisect(x, 1.5),
        "entmax 1.25 peer bisect": lambda x: entmax.entmax_bisect(x, 1.25),
    }
    return ours | peers | {"softmax": lambda x: torch.softmax(x, -1)}


def timed(function, x, weights):
    """Milliseconds of one forward and backward pass, and the result."""
    leaf = x.clone().requires_grad_()
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    begin = time.perf_counter()
    p = function(leaf)
    p.backward(weights)
    wait()
    return 1000 * (time.perf_counter() - begin), p.detach()


def cost(device, *, shapes, spreads, repeats):
    """Milliseconds of each map at each shape, the fastest of ``repeats`` taken in turn, and its largest error against float64 there."""
    result, orders = {"ms": {}, "error": {}}, {"sparsemax": 2.0, "entmax 1.5": 1.5, "entmax 1.25": 1.25}
    for shape, spread in itertools.product(shapes, spreads):
        x = (spread * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(device)
        weights = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device)
        exact = {label: simplex.entmax(x.double(), alpha, -1, "newton") for label, alpha in orders.items()}
        at, times, errors = f"{shape[0]} x {shape[1]}, spread {spread:g}", {}, {}
        for turn in range(repeats + 1):
            for name, function in contestants().items():
                ms, p = timed(function, x, weights)
                times.setdefault(name, []).append(ms)
                label = next((label for label in orders if name.startswith(label)), None)
                if turn == 0 and label:
                    errors[name] = float((p - exact[label]).abs().max())
        result["ms"][at] = {name: min(row[1:]) for name, row in times.items()}
        result["error"][at] = errors
    return result


# %%
e4_setting = nb.at_scale(
    cpu={"shapes": [[64, 10], [4096, 16], [64, 1000], [64, 5000]], "spreads": [1.0], "repeats": 3},
    gpu={"shapes": [[64, 1000], [64, 10000]], "spreads": [1.0], "repeats": 5},
    full={"shapes": [[64, 10], [65536, 16], [8192, 256], [64, 1000], [64, 10000], [64, 131072]], "spreads": [0.1, 1.0, 3.0], "repeats": 15},
)
e4 = nb.run("E4", cost, **e4_setting)
