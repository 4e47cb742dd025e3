# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Mixture of Experts with a dynamic budget: harder tokens should get more experts
#
# [MoE环游记：4、难处应当多投入](https://kexue.fm/archives/10815) · 2025-03-28 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/moe/moe-dynamic-budget.ipynb)
#
# **The point.** TODO

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import gc
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import budget, data, ledger, moe, nn, optim, records, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("moe-dynamic-budget")
corpus, alphabet = data.encode_characters(data.shakespeare())
split = len(corpus) * 19 // 20  # the last twentieth is held out


# %%
def text_batches(device, seeds, copies, batch, context, offset=1000):
    """A function that draws the next (x, y), each (copies * seeds, batch, context): all copies of a seed read the same text."""
    generators = [torch.Generator().manual_seed(offset + seed) for seed in seeds]

    def draw(step):
        drawn = [data.windows(corpus[:split], batch, context, g) for g in generators]
        return tuple(torch.stack(t).to(device).repeat(copies, 1, 1) for t in zip(*drawn, strict=True))

    return draw


# %%
def held_out(device, count, context):
    """``count`` windows spread evenly over the held-out text: x and y, (count, context)."""
    text = corpus[split:]
    at = torch.linspace(0, len(text) - context - 1, count).long()[:, None] + torch.arange(context)
    return text[at].to(device), text[at + 1].to(device)


# %%
def by_rank(layer, counts):
    """A router for ``layer`` that gives each token as many experts, the best by rho + b, as ``counts(rho, chosen)`` (R, T) says."""

    def route(x):
        routing = moe.MoE.route(layer, x)
        rank = (routing.weights.detach() + layer.bias[:, None]).argsort(-1, descending=True).argsort(-1)
        return moe.Routing(routing.weights, rank < counts(routing.mask.sum(-1))[..., None])

    return route


def shuffled(counts):
    """The same numbers of experts, handed out to the tokens of a batch (R, T) at random."""
    order = torch.rand(counts.shape, generator=torch.Generator().manual_seed(5)).argsort(-1).to(counts.device)
    return counts.gather(-1, order)


# %%
def bigram_entropies():
    """Entropy in nats of the next character given the last one, in the training text: (V,)."""
    size, text = len(alphabet), corpus[:split]
    pairs = torch.bincount(text[:-1] * size + text[1:], minlength=size * size).double().view(size, size)
    return torch.special.entr(pairs / pairs.sum(1, keepdim=True).clamp_min(1)).sum(1)


# %%
def more_to_the_hard(k, more):
    """Experts by character (V,): k + more for a third of the text whose bigram entropy is high, k - more where it is low, else k."""
    share = torch.bincount(corpus[:split], minlength=len(alphabet)).double() / split
    order = bigram_entropies().argsort()
    low, high = share[order].cumsum(0), share[order.flip(0)].cumsum(0)
    easy = int((low <= 1 / 3).sum())
    hard = int((high - low[easy - 1]).abs().argmin()) + 1  # as much text as in the easy third, as nearly as characters allow
    table = torch.full((len(alphabet),), k)
    table[order[:easy]], table[order.flip(0)[:hard]] = k - more, k + more
    return table


def assign_(model, table):
    """From now on a token gets ``table`` (V,) of its character many experts, the best by rho + b, in every layer of the model."""

    def look_up(module, inputs):
        for layer in module.layers:
            layer.needed = table[inputs[0]].flatten(1)

    model.register_forward_pre_hook(look_up)
    for layer in model.layers:
        layer.route = by_rank(layer, lambda counts, layer=layer: layer.needed)


# %%
def build(cell, grid, shape, experts, k):
    """The stack of a cell, one run for each (rate, bias rate, seed) of ``grid``; threshold routing starts at the closed form's bias."""
    layer = {**experts, "k": k if cell["route"] == "top-k" else None, "gate": "sigmoid", "normalise": True, "router_std": 0.02}
    model = moe.Transformer(nn.Init([seed for _, _, seed in grid]), vocabulary=len(alphabet), moe=layer, **shape)
    if cell["route"] == "threshold":
        for layer in model.layers:
            layer.bias.fill_(budget.bias_for_budget(experts["experts"], k, 0.02 * math.sqrt(shape["d"])))
    return model


# %%
def remember_quantiles(model, k):
    """Every call of a layer leaves in ``layer.quantile`` (R, n) the bias of that batch's quantiles. Returns the handles of the hooks."""

    @torch.no_grad()
    def remember(layer, inputs, output):
        layer.quantile = budget.quantile_bias(layer.route(inputs[0].flatten(1, -2)).weights, k)

    return [layer.register_forward_hook(remember) for layer in model.layers]


@torch.no_grad()
def adjust_(layer, rule, k, alpha):
    """One step of a bias rule on a layer, alpha (R, 1); the average of the quantile rule moves by 100 alpha."""
    if rule == "loss-free":
        layer.bias.sub_(alpha * (layer.load * layer.load.shape[-1] - layer.load.sum(-1, keepdim=True)).sign())
    elif rule == "quantile":
        layer.bias.add_(100 * alpha * (layer.quantile - layer.bias))
    elif rule != "none":
        budget.steer_(layer.bias, layer.load, k, alpha, rule)


# %%
def train_stack(device, cell, *, seeds, rates, alphas, shape, experts, k, steps, batch, bf16):
    """A trained stack, runs ordered by rate, bias rate, seed, and the loads of its layers at every step (steps, R, depth, n)."""
    grid = [(rate, alpha, seed) for rate in rates for alpha in alphas for seed in seeds]
    copies, precision, loads = len(rates) * len(alphas), torch.bfloat16 if bf16 else torch.float32, []
    model = build(cell, grid, shape, experts, k).to(device)
    if cell["route"] in ("hard", "easy"):
        assign_(model, more_to_the_hard(k, {"hard": k // 2, "easy": -k // 2}[cell["route"]]).to(device))
    model.match_output(text_batches(device, seeds, copies, batch, shape["context"], offset=2000)(0)[0], 0.5)
    handles = remember_quantiles(model, k) if cell["rule"] == "quantile" else []
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor([rate for rate, _, _ in grid]).to(device))
    alpha = torch.tensor([[alpha] for _, alpha, _ in grid]).to(device)
    draw, loss = text_batches(device, seeds, copies, batch, shape["context"]), lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)

    def watch(step, losses):
        loads.append(torch.stack([layer.load for layer in model.layers], 1))
        for layer in model.layers:
            adjust_(layer, cell["rule"], k, alpha)

    if experts["method"] == "dense":
        train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine, watch=watch)
    else:
        train.fit(lambda step: loss(*draw(step)), optimizer, steps, schedule=optim.warmup_cosine, watch=watch)
    for handle in handles:
        handle.remove()
    return model, torch.stack(loads)


# %%
@torch.no_grad()
def read(model, x, y, precision, rows=16):
    """For every run and token of the windows x, y (count, context): loss and entropy (R, N), experts and output lengths (R, depth, N)."""
    runs, losses, entropies, counts, lengths = len(model.layers[0].gain), [], [], [], []

    def look(layer, inputs, output):
        counts.append(layer.route(inputs[0].flatten(1, 2)).mask.sum(-1))
        lengths.append(output.float().flatten(1, 2).norm(dim=-1))

    handles = [layer.register_forward_hook(look) for layer in model.layers]
    for a, b in zip(x.split(rows), y.split(rows), strict=True):
        log_p = model(a.expand(runs, -1, -1), precision).float().flatten(1, 2).log_softmax(-1)
        losses.append(-log_p.gather(-1, b.flatten().expand(runs, -1)[..., None])[..., 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    for handle in handles:
        handle.remove()
    by_layer = lambda parts: torch.stack([torch.cat(parts[i :: len(model.layers)], 1) for i in range(len(model.layers))], 1)
    return torch.cat(losses, 1), torch.cat(entropies, 1), by_layer(counts), by_layer(lengths)


# %%
def ranks(v):
    """Ranks over the last axis, ties at their mean rank, less the mean of all: float64."""
    ordered, v = v.double().sort(-1).values, v.double()
    low, high = torch.searchsorted(ordered, v), torch.searchsorted(ordered, v, right=True)
    return (low + high - v.shape[-1]).double() / 2


def spearman(a, b):
    """Rank correlation over the last axis: (..., N), (..., N) -> (...)."""
    a, b = ranks(a.contiguous()), ranks(b.contiguous())
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def by_tenths(values, t):
    """Mean of values (..., N) over each tenth of the tokens in the order of t (..., N): (..., 10)."""
    tenth = ((ranks(t.contiguous()) / t.shape[-1] + 0.5) * 10).long().clamp(0, 9)
    return torch.stack([(values * (tenth == i)).double().sum(-1) / (tenth == i).sum(-1) for i in range(10)], -1)


# %%
CLASSES = ("space", "line break", "first letter", "later letter", "other")


def character_classes(x):
    """Class in CLASSES of every character of the windows (count, context), flat; -1 at the start of a window, where it is not known."""
    letter = torch.tensor([c.isalpha() for c in alphabet], device=x.device)[x]
    kind = torch.full_like(x, 4)
    kind[x == alphabet.index(" ")], kind[x == alphabet.index("\n")] = 0, 1
    kind[:, 1:] = torch.where(letter[:, 1:], 2 + letter[:, :-1].long(), kind[:, 1:])
    kind[:, 0] = -1
    return kind.flatten()


# %%
def over_steps(loads):
    """Budget and MaxVio by step, loads (steps, R, depth, n): mean and s.d. of early and late steps, means over layers, (R,) each."""
    steps, total, violation = len(loads), loads.sum(-1), moe.max_violation(loads)
    parts = {"early": slice(min(20, steps // 8), steps // 4), "late": slice(3 * steps // 4, steps)}
    result = {"start": total[0].mean(-1)}
    for when, part in parts.items():
        for what, series in (("budget", total[part]), ("violation", violation[part])):
            result[f"{when} {what}"], result[f"{when} {what} sd"] = series.mean((0, 2)), series.std(0).mean(-1)
    return result


# %%
@torch.no_grad()
def who_gets_more(x, loss, entropy, counts, lengths):
    """How many experts tokens get, and how that goes with their difficulty and with the length of the output: (S, N), (S, depth, N)."""
    kind, known = character_classes(x), bigram_entropies().to(x.device)[x.flatten()]
    mean = lambda t: torch.stack([t[..., kind == c].double().mean(-1) for c in range(len(CLASSES))], -1)
    against = {"loss": loss[:, None], "entropy": entropy[:, None], "bigram entropy": known, "output length": lengths}
    against = {name: t.expand_as(counts) for name, t in against.items()}
    return {
        "spread": counts.double().std(-1),
        "none": (counts == 0).double().mean(-1),
        "most": counts.amax(-1),
        **{f"K and {name}": spearman(counts, t) for name, t in against.items()},
        **{f"K by tenths of {name}": by_tenths(counts, against[name]) for name in ("loss", "output length")},
        "K by class": mean(counts),
        "loss by class": mean(loss),
    }


# %%
@torch.no_grad()
def other_allocations(model, k, x, y, precision):
    """Losses (R, N) of a threshold model when its numbers of experts are shuffled over the tokens, and when each token gets k."""
    for layer in model.layers:
        layer.route = by_rank(layer, shuffled)
    given = read(model, x, y, precision)[0]
    for layer in model.layers:
        del layer.route
        layer.k = k
    fixed = read(model, x, y, precision)[0]
    for layer in model.layers:
        layer.k = None
    return given, fixed


@torch.no_grad()
def quantile_distance(model, k, x, precision):
    """RMS over experts of b minus the bias of the quantiles on x (count, context), by layer: (R, depth)."""
    handles = remember_quantiles(model, k)
    model(x.expand(len(model.layers[0].gain), -1, -1), precision)
    for handle in handles:
        handle.remove()
    return torch.stack([(layer.bias - layer.quantile).square().mean(-1).sqrt() for layer in model.layers], -1)


# %%
def finite(result):
    """The same measures with 9 in place of what is not a number (diverged runs, correlations without variance) or is infinite."""
    clean = lambda t: t.nan_to_num(9.0, 9.0, -9.0) if torch.is_tensor(t) and t.is_floating_point() else t
    return {name: clean(t) for name, t in result.items()}


def best_setting(losses, late, k):
    """Index of the smallest of the losses (G,) among settings whose late budget (G,) is within 5 % of k, or of all where none is."""
    within = (late - k).abs() <= 0.05 * k
    return int(torch.where(within | ~within.any(), losses, math.inf).argmin())


# %%
def measure(device, cell, *, windows, every, **config):
    """Train a cell and measure it: entries (settings, seeds), settings ordered by rate, bias rate; or those of the best setting."""
    model, loads = train_stack(device, cell, **config)
    k, seeds, precision = config["k"], len(config["seeds"]), torch.bfloat16 if config["bf16"] else torch.float32
    x, y = held_out(device, windows, config["shape"]["context"])
    halves = torch.arange(windows, device=device).repeat_interleave(x.shape[1]) % 2 == 0  # one half tunes, the other is reported
    settings = lambda t: t.double().view(-1, seeds, *t.shape[1:])
    tidy = lambda t: settings(t.nan_to_num(9.0).clamp(max=9.0))  # a diverged run counts 9 nats
    loss, entropy, counts, lengths = read(model, x, y, precision)
    result = {"tune": tidy(loss[:, halves].mean(1)), "loss": tidy(loss[:, ~halves].mean(1))}
    result |= {name: settings(t) for name, t in over_steps(loads).items()}
    best = best_setting(result["tune"].mean(1), result["late budget"].mean(1), k)
    keep = slice(best * seeds, (best + 1) * seeds)
    result |= {"best": best, "K": counts[keep].double().mean(-1)}
    result |= {"curve": loads[::every, keep].sum(-1).mean(2).T, "violation curve": moe.max_violation(loads[::every, keep]).mean(2).T}
    if cell["route"] == "threshold":
        given, fixed = other_allocations(model, k, x, y, precision)
        result |= {"shuffled": given[keep][:, ~halves].mean(1), "fixed": fixed[keep][:, ~halves].mean(1)}
        result |= {"distance": quantile_distance(model, k, x[:: max(1, windows // 64)], precision)[keep]}
        result |= who_gets_more(x, loss[keep], entropy[keep], counts[keep], lengths[keep])
    return finite(result)


# %%
def all_rules(device, *, cells, **config):
    """``measure`` for each cell, by name."""
    torch.set_float32_matmul_precision("high")
    result = {}
    for cell in cells:
        result[cell["name"]] = measure(device, cell, **config)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result


# %%
def cell(name, route="threshold", rule=None):
    """One arm of a comparison, as plain data."""
    return {"name": name, "route": route, "rule": rule or name}


top_k_cells = [cell("top-k", "top-k", "none"), cell("loss-free top-k", "top-k", "loss-free")]
by_hand_cells = [cell("more to the hard", "hard", "loss-free"), cell("more to the easy", "easy", "loss-free")]
rule_cells = [cell(name) for name in ("two-term", "one-sided", "simplified", "simplified RMS", "quantile")]

# %%
e4 = nb.run(
    "E4",
    all_rules,
    cells=nb.at_scale(
        cpu=[rule_cells[0]], gpu=[top_k_cells[1], rule_cells[0], by_hand_cells[0]], full=[top_k_cells[1], *rule_cells, *by_hand_cells]
    ),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1], full=[0, 1, 2]),
    rates=nb.at_scale(cpu=[3e-3], gpu=[3e-3], full=[1e-3, 3e-3, 1e-2]),
    alphas=[1e-3],
    shape=nb.at_scale(
        cpu={"context": 32, "d": 32, "depth": 2, "heads": 2},
        gpu={"context": 128, "d": 256, "depth": 2, "heads": 8},
        full={"context": 128, "d": 256, "depth": 4, "heads": 8},
    ),
    experts=nb.at_scale(
        cpu={"width": 8, "experts": 16, "method": "grouped"},
        gpu={"width": 64, "experts": 32, "method": "dense"},
        full={"width": 128, "experts": 32, "method": "grouped"},
    ),
    k=4,
    steps=nb.at_scale(cpu=30, gpu=200, full=400),
    batch=nb.at_scale(cpu=8, gpu=16, full=32),
    bf16=nb.at_scale(cpu=False, gpu=False, full=True),
    windows=nb.at_scale(cpu=32, gpu=128, full=512),
    every=nb.at_scale(cpu=1, gpu=4, full=4),
)


# %%
class Teacher:
    """32 types of tokens; type t is the sum of |S_t| = 1 + t mod 7 of 16 functions tanh(u W1) W2, times |S_t|^power and one constant.

    One teacher for each seed. The constant makes the mean square 1.
    """

    def __init__(self, device, seeds, power, types=32, functions=16):
        draws = [torch.Generator().manual_seed(4000 + seed) for seed in seeds]
        normal = lambda *shape: torch.stack([torch.randn(shape, generator=g) for g in draws]).to(device)
        self.w1, self.w2 = normal(functions, 8, 24) * 1.5 / math.sqrt(8), normal(functions, 24, 16) / math.sqrt(24)
        self.need = (1 + torch.arange(types) % 7).to(device)
        order = torch.stack([torch.rand(types, functions, generator=g).argsort(-1).argsort(-1) for g in draws]).to(device)
        self.uses = (order < self.need[:, None]).float()  # (S, types, functions)
        self.size, self.generators, self.device, self.types = self.need**power, [torch.Generator() for _ in seeds], device, types
        self.size = self.size / self.sample(4096, 5000)[2].square().mean().sqrt()

    def outputs(self, types, u):
        """Targets (S, B, 16) for types (S, B) and u (S, B, 8)."""
        hidden = torch.tanh(torch.einsum("sbi,sfih->sbfh", u, self.w1))
        terms = torch.einsum("sbfh,sfho->sbfo", hidden, self.w2)
        uses = self.uses.gather(1, types[..., None].expand(-1, -1, self.uses.shape[-1]))
        return self.size[types][..., None] * (uses[..., None] * terms).sum(2)

    def sample(self, count, offset=None):
        """Types (S, B), u (S, B, 8) and targets (S, B, 16); ``offset`` starts the generators anew."""
        for i, g in enumerate(self.generators):
            if offset is not None:
                g.manual_seed(offset + i)
        types = torch.stack([torch.randint(self.types, (count,), generator=g) for g in self.generators]).to(self.device)
        u = torch.stack([torch.randn(count, 8, generator=g) for g in self.generators]).to(self.device)
        return types, u, self.outputs(types, u)


# %%
class Student(torch.nn.Module):
    """A stack: type embedding + linear map of u, RMS norm, one mixture of experts, linear map of its output alone (no residual path)."""

    def __init__(self, init, d, k, width, experts, types=32):
        super().__init__()
        self.tokens, self.reader = nn.Embedding(init, types, d), nn.Linear(init, 8, d)
        self.layers = torch.nn.ModuleList(
            [moe.MoE(init, d, width, experts, k=k, gate="sigmoid", normalise=True, router_std=0.02, method="dense")]
        )
        self.head = nn.Linear(init, d, 16)

    def forward(self, types, u):
        x = self.tokens(types[:, None])[:, 0] + self.reader(u)
        return self.head(self.layers[0](F.rms_norm(x, x.shape[-1:])))


# %%
def train_student(device, cell, *, seeds, rates, powers, alpha, d, experts, k, steps, batch):
    """A trained stack, runs ordered by power, rate, seed; its teachers; and the loads at every step (steps, R, 1, n)."""
    teachers = [Teacher(device, seeds, power) for power in powers]
    grid = [(rate, seed) for _ in powers for rate in rates for seed in seeds]
    model = Student(nn.Init([seed for _, seed in grid]), d, k if cell["route"] == "top-k" else None, **experts).to(device)
    layer, loads = model.layers[0], []
    layer.needed = torch.zeros(len(grid), batch, dtype=torch.int64, device=device)
    if cell["route"] == "threshold":
        layer.bias.fill_(budget.bias_for_budget(experts["experts"], k, 0.02 * math.sqrt(d)))
    if cell["route"] == "needed":
        layer.route = by_rank(layer, lambda counts: layer.needed)
    handles = remember_quantiles(model, k) if cell["rule"] == "quantile" else []
    for teacher in teachers:
        teacher.sample(0, 6000)

    def draw(step, count=batch):
        drawn = [[t.repeat(len(rates), *[1] * (t.ndim - 1)) for t in teacher.sample(count)] for teacher in teachers]
        return tuple(torch.cat(t) for t in zip(*drawn, strict=True))

    def loss(types, u, y):
        layer.needed = teachers[0].need[types]
        return (model(types, u) - y).square().mean((1, 2))

    def watch(step, losses):
        loads.append(layer.load[:, None].clone())
        adjust_(layer, cell["rule"], k, torch.full((len(grid), 1), alpha, device=device))

    optimizer = optim.StackedAdam(model.parameters(), torch.tensor([rate for rate, _ in grid]).to(device))
    train.fit_graphed(loss, draw, optimizer, steps, schedule=optim.warmup_cosine, watch=watch)
    for handle in handles:
        handle.remove()
    return model, loss, draw, torch.stack(loads)


# %%
def who_needs_more(model, types, u, y):
    """Of every run: mean experts of the tokens that need 1..7 (R, 7), their s.d. (R,), rank correlations with need and with length of y."""
    x = model.tokens(types[:, None])[:, 0] + model.reader(u)
    counts = model.layers[0].route(F.rms_norm(x, x.shape[-1:])).mask.sum(-1).double()
    need, length = (1 + types % 7).double(), y.double().norm(dim=-1)
    by_need = [(counts * (need == j)).sum(1) / (need == j).sum(1) for j in range(1, 8)]
    return {
        "K by need": torch.stack(by_need, -1),
        "spread": counts.std(-1),
        "K and need": spearman(counts, need),
        "K and length": spearman(counts, length),
        "need and length": spearman(need, length),
    }


# %%
def measure_student(device, cell, *, test, **config):
    """Train a cell and measure it on fresh tokens: entries (powers, rates, seeds, ...)."""
    model, loss, draw, loads = train_student(device, cell, **config)
    layer, shape = model.layers[0], (len(config["powers"]), len(config["rates"]), len(config["seeds"]))
    grid = lambda t: t.double().view(*shape, *t.shape[1:])
    with torch.no_grad():
        result = {"tune": grid(loss(*draw(0, test)))}
        types, u, y = draw(0, test)
        result |= {"loss": grid(loss(types, u, y))} | {name: grid(t) for name, t in over_steps(loads).items()}
        if cell["route"] == "threshold":
            result |= {name: grid(t) for name, t in who_needs_more(model, types, u, y).items()}
            layer.route = by_rank(layer, shuffled)
            result["shuffled"] = grid(loss(types, u, y))
            del layer.route
            layer.k = config["k"]
            result["fixed"] = grid(loss(types, u, y))
    return finite(result)


# %%
def needs(device, *, cells, **config):
    """``measure_student`` for each cell, by name."""
    torch.set_float32_matmul_precision("high")
    return {cell["name"]: measure_student(device, cell, **config) for cell in cells}


# %%
student_cells = [top_k_cells[1], rule_cells[0], rule_cells[2], rule_cells[4], cell("as needed", "needed", "loss-free")]
e3 = nb.run(
    "E3",
    needs,
    cells=nb.at_scale(cpu=[rule_cells[0]], gpu=student_cells, full=student_cells),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1], full=[0, 1, 2, 3]),
    rates=nb.at_scale(cpu=[1e-2], gpu=[5e-3], full=[1e-2, 3e-2, 1e-1]),
    powers=nb.at_scale(cpu=[0.0, -1.0], gpu=[0.0, -0.5, -1.0], full=[0.0, -0.5, -1.0]),
    alpha=nb.at_scale(cpu=2e-3, gpu=1e-3, full=1e-3),
    d=nb.at_scale(cpu=32, gpu=64, full=64),
    experts=nb.at_scale(cpu={"width": 16, "experts": 16}, gpu={"width": 32, "experts": 16}, full={"width": 32, "experts": 16}),
    k=4,
    steps=nb.at_scale(cpu=250, gpu=1000, full=1000),
    batch=nb.at_scale(cpu=256, gpu=512, full=512),
    test=nb.at_scale(cpu=1024, gpu=8192, full=8192),
)

# %%
e2 = nb.run(
    "E2",
    all_rules,
    cells=nb.at_scale(
        cpu=[top_k_cells[1], *rule_cells[:3]], gpu=[*top_k_cells, *rule_cells], full=[*top_k_cells, *rule_cells, *by_hand_cells]
    ),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    rates=nb.at_scale(cpu=[5e-3], gpu=[3e-3], full=[1e-2, 3e-2, 1e-1]),
    alphas=nb.at_scale(cpu=[2e-3], gpu=[1e-3], full=[3e-4, 1e-3, 3e-3]),
    shape=nb.at_scale(
        cpu={"context": 32, "d": 32, "depth": 1, "heads": 2},
        gpu={"context": 64, "d": 64, "depth": 2, "heads": 4},
        full={"context": 64, "d": 64, "depth": 2, "heads": 4},
    ),
    experts=nb.at_scale(
        cpu={"width": 16, "experts": 16, "method": "dense"},
        gpu={"width": 32, "experts": 16, "method": "dense"},
        full={"width": 32, "experts": 16, "method": "dense"},
    ),
    k=4,
    steps=nb.at_scale(cpu=80, gpu=400, full=500),
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    bf16=False,
    windows=nb.at_scale(cpu=64, gpu=256, full=1024),
    every=nb.at_scale(cpu=2, gpu=8, full=5),
)


# %%
nb.ledger()
