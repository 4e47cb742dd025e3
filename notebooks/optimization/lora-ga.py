# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # LoRA-GA: aligning LoRA's first step with full fine-tuning

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math

import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, lora, nn, optim, runtime, train

# %%
nb = kexue_nb.notebook("lora-ga")

# %% [markdown]
# ## The experiments
#
# Four of them share a small network on digits, the last fine-tunes a transformer. All go through one function: a method's adapters, for every learning rate and every seed of a
# grid, train side by side through a leading axis of runs.


# %%
def fine_tune(loss, base, starts, rates, seeds, draw, steps, *, optimizer="Adam", pro=False, look=None, **schedule):
    """Train one method at all rates and seeds in one pass; run k has rate k // len(seeds) and seed k % len(seeds).

    base: name -> (..., n, m); starts: one dict name -> lora.Start a seed, None for full fine-tuning; loss(weights, *batch) -> (R,).
    Returns the function that gives the trained matrices, name -> (R, ..., n, m), and the losses (steps, R).
    """
    lr = torch.tensor(rates).repeat_interleave(len(seeds))
    spread = lambda tensors: torch.stack(tensors).repeat(len(rates), *[1] * tensors[0].ndim)  # (seeds, ...) -> (R, ...)
    make = {"Adam": optim.StackedAdam, "SGD": optim.StackedSGD}[optimizer]
    if starts is None:
        weights = {name: torch.nn.Parameter(spread([W] * len(seeds))) for name, W in base.items()}
        layers, opt, merged = {}, make(list(weights.values()), lr), lambda: weights
    else:
        pair = lambda name: (spread([s[name].A for s in starts]), spread([s[name].B for s in starts]))
        layers = {name: lora.LoRALinear(W, *pair(name), starts[0][name].scale) for name, W in base.items()}
        A, B = ([getattr(layer, side) for layer in layers.values()] for side in "AB")
        opt = make([{"params": A}, {"params": B, "multiplier": next(iter(starts[0].values())).ratio}], lr)
        opt = lora.LoRAPro(layers.values(), opt) if pro else opt
        merged = lambda: {name: layer.weight() for name, layer in layers.items()}
    history = []

    def watch(step, losses):
        history.append(losses)
        if look:
            look(step + 1, merged, layers)

    if look:
        look(0, merged, layers)
    train.fit_graphed(lambda *batch: loss(merged(), *batch), draw, opt, steps, watch=watch, **schedule)
    return merged, torch.stack(history)


def starts_of(method, base, gradients, seeds, rank, **recipe):
    """One dict name -> lora.Start for each seed, from its own gradients and random numbers; None for full fine-tuning."""
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    each = lambda G, g: {name: lora.start(method, W, G[name], rank, g, **recipe) for name, W in base.items()}
    return None if method == "full" else [each(G, g) for G, g in zip(gradients, draws, strict=True)]


def gradients_of(loss, base, *batch):
    """The full gradient of the mean loss of one batch, name -> (..., n, m); batch tensors without the axis of runs."""
    weights = {name: W[None].clone().requires_grad_() for name, W in base.items()}
    loss(weights, *(t[None] for t in batch)).sum().backward()
    return {name: W.grad[0] for name, W in weights.items()}


def captured_by(loss, merged, layers, *batch):
    """Captured energy of the current full gradient by the current adapters, name -> (R, ...); ``batch`` with the axis of runs."""
    weights = {name: W.detach().requires_grad_() for name, W in merged().items()}
    loss(weights, *batch).sum().backward()
    return {name: lora.captured_energy(weights[name].grad, layer.A.detach(), layer.B.detach()) for name, layer in layers.items()}


# %% [markdown]
# **The digits network.** 5,000 MNIST digits, pooled to 14 × 14. A network 196 → 256 → 256 → 10 learns 2,500 upright ones; the task is 1,500 others turned by 90°. The adapters sit on
# both hidden matrices, the output layer stays.


# %%
def digits_task(device):
    """(batch tensors by name, base matrices, loss) of the digits task; the network is trained here, always on the CPU from one seed."""
    images, labels = data.mnist5000()
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    small = F.avg_pool2d(images[order, None].float(), 2)[:, 0]  # (5000, 14, 14)
    small, labels = (small - small.mean()) / small.std(), labels[order]
    turned = torch.rot90(small, 1, (1, 2)).flatten(1)
    draws = torch.Generator().manual_seed(1)
    W = [torch.nn.Parameter(torch.randn(1, n, m, generator=draws) * math.sqrt(2 / n)) for n, m in ((196, 256), (256, 256), (256, 10))]
    opt = optim.StackedAdam(W, torch.tensor([1e-3]))
    for _ in range(400):
        rows = torch.randint(2500, (128,), generator=draws)
        losses = digits_loss(W[2], {"first": W[0], "second": W[1]}, small[None, rows].flatten(2), labels[None, rows])
        opt.zero_grad()
        losses.sum().backward()
        opt.step()
    W = [w.detach().to(device) for w in W]
    cut = {"upright": slice(0, 2500), "train": slice(2500, 4000), "valid": slice(4000, 4500), "test": slice(4500, 5000)}
    parts = {name: ((small.flatten(1) if name == "upright" else turned)[at].to(device), labels[at].to(device)) for name, at in cut.items()}
    return parts, {"first": W[0][0], "second": W[1][0]}, lambda weights, x, y: digits_loss(W[2], weights, x, y)


def digits_logits(head, weights, x):
    """(R, B, 196) -> (R, B, 10)."""
    return (x @ weights["first"]).relu().matmul(weights["second"]).relu() @ head


def digits_loss(head, weights, x, y):
    """Mean cross-entropy of each run, (R,)."""
    return nn.cross_entropy_per_run(digits_logits(head, weights, x), y)


def digit_draws(parts, seeds, rates, batch):
    """draw(step) of fine_tune: the same rows for all runs of one seed."""
    draws = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    x, y = parts["train"]

    def draw(step):
        rows = torch.stack([torch.randint(len(x), (batch,), generator=g) for g in draws]).repeat(len(rates), 1).to(x.device)
        return x[rows], y[rows]

    return draw


def digit_gradients(parts, base, loss, seeds, samples):
    """One full gradient a seed, from ``samples`` random training images."""
    picks = [
        torch.randperm(1500, generator=torch.Generator().manual_seed(2000 + seed))[:samples].to(parts["train"][0].device) for seed in seeds
    ]
    return [gradients_of(loss, base, *(t[rows] for t in parts["train"])) for rows in picks]


def digits_finetuning(device, *, methods, optimizers, rates, seeds, steps, batch, rank, samples):
    """Every method at every rate and seed: loss on three sets, test accuracy, loss of steps 20 to 40 and the curve; lists (rates, seeds)."""
    torch.set_float32_matmul_precision("highest")
    parts, base, loss = digits_task(device)
    gradients, result = digit_gradients(parts, base, loss, seeds, samples), {}
    for optimizer in optimizers:
        for method in methods:
            grid = rates[optimizer]
            draw = digit_draws(parts, seeds, grid, batch)
            starts = starts_of(method, base, gradients, seeds, rank, scale=math.sqrt(rank) if method == "rsLoRA" else 1.0, gain=1.0)
            merged, history = fine_tune(loss, base, starts, grid, seeds, draw, steps, optimizer=optimizer, pro=method == "LoRA-Pro")
            runs, row = len(grid) * len(seeds), {}
            with torch.no_grad():
                for name in ("train", "valid", "test"):
                    x, y = (t.expand(runs, *t.shape) for t in parts[name])
                    row[name] = loss(merged(), x, y)
            row["early"] = history[20:40].mean(0)
            row = {name: torch.nan_to_num(t, nan=99.0, posinf=99.0).clamp(max=99).view(len(grid), -1).tolist() for name, t in row.items()}
            smooth = (
                torch.nan_to_num(history, nan=99.0).clamp(max=99).view(-1, 5, len(grid), len(seeds)).mean((1, 3)).T
            )  # (rates, steps / 5)
            result.setdefault(optimizer, {})[method] = row | {"curve": smooth.tolist()}
    return result


def alignment_along(device, *, methods, rate, seeds, steps, batch, rank, samples, marks):
    """Captured energy of the current gradient of all training images, at the marks: method -> matrix -> (marks, seeds)."""
    torch.set_float32_matmul_precision("highest")
    parts, base, loss = digits_task(device)
    gradients, result = digit_gradients(parts, base, loss, seeds, samples), {}
    probe = [t.expand(len(seeds), *t.shape) for t in parts["train"]]
    for method in methods:
        rows = {"first": [], "second": []}

        def look(step, merged, layers, rows=rows):
            if step in marks:
                for name, share in captured_by(loss, merged, layers, *probe).items():
                    rows[name].append(share.tolist())

        draw = digit_draws(parts, seeds, [rate], batch)
        starts = starts_of(method, base, gradients, seeds, rank, scale=1.0, gain=1.0)
        fine_tune(loss, base, starts, [rate], seeds, draw, steps, pro=method == "LoRA-Pro", look=look)
        result[method] = rows
    return result


# %% [markdown]
# **The real task.** A byte-level transformer reads Shakespeare, then is fine-tuned on Python: the algorithms of networkx. Adapters of rank 8 on all linear layers ($W_q,W_k,W_v,W_o,W_1,W_2$ of
# every block); embeddings and output layer are frozen, for full fine-tuning too. The sources are cut into 40 blocks, every ninth of ten for validation, every tenth for
# the test. Rates are chosen by the validation loss of the tuning seeds; if the best is at an end of the grid, the grid grows. Then fresh seeds train at the chosen rate, and their test loss is reported.

# %%
LINEAR = ("wq", "wk", "wv", "wo", "w1", "w2")
BYTES = "\n" + "".join(chr(i) for i in range(32, 127))


def byte_ids(text):
    """Ids of newline and printable ASCII, everything else dropped, (n,) int64."""
    raw = torch.tensor(list(text.encode("ascii", "ignore")))
    return torch.where(raw == 10, 0, raw - 31)[(raw == 10) | ((raw >= 32) & (raw < 127))]


def blocks(ids, count=40):
    """Every ninth of ten blocks is validation, every tenth test, the others training."""
    cut = ids.split(-(-len(ids) // count))
    pick = lambda keep: torch.cat([b for i, b in enumerate(cut) if keep(i % 10)])
    return {"train": pick(lambda i: i < 8), "valid": pick(lambda i: i == 8), "test": pick(lambda i: i == 9)}


class CodeTask:
    """The pre-trained transformer and the texts of the real task, on one device."""

    def __init__(self, device, shape, pretrain, bf16):
        torch.set_float32_matmul_precision("high")
        self.device, self.context, self.precision = device, shape["context"], torch.bfloat16 if bf16 else torch.float32
        self.code, plays = blocks(byte_ids(data.python_code())), blocks(byte_ids(data.shakespeare()))
        frequencies = 10000.0 ** -(torch.arange(shape["d"] // shape["heads"] // 2) * 2 * shape["heads"] / shape["d"])
        self.model = nn.Transformer(nn.Init([0]), affine=False, rotary=frequencies, vocabulary=len(BYTES), **shape).to(device)
        opt = optim.StackedAdam(self.model.parameters(), torch.tensor([pretrain["rate"]]))
        draws = torch.Generator().manual_seed(0)
        draw = lambda step: tuple(t[None].to(device) for t in data.windows(plays["train"], pretrain["batch"], self.context, draws))
        whole = lambda x, y: nn.cross_entropy_per_run(self.model(x, self.precision), y)
        train.fit_graphed(whole, draw, opt, pretrain["steps"], schedule=optim.warmup_cosine)
        self.model.requires_grad_(False)
        self.base = {name: getattr(self.model, name)[0] for name in LINEAR}  # (depth, n, m)
        self.kept = {}  # starts that cost a decomposition
        start = {name: W[None] for name, W in self.base.items()}
        self.plays_loss = float(self.evaluate(start, plays["valid"])[0])
        self.zero_shot = float(self.evaluate(start, self.code["test"])[0])

    def loss(self, weights, x, y, precision=None):
        """Cross-entropy of each run (R,) with its own linear layers; x, y (R, B, T)."""
        frozen = {name: getattr(self.model, name).weight.repeat(len(x), 1, 1) for name in ("tokens", "head")}
        values = {f"{name}.weight": w for name, w in frozen.items()} | dict(weights)
        return nn.cross_entropy_per_run(torch.func.functional_call(self.model, values, (x, precision or self.precision)), y)

    @torch.no_grad()
    def evaluate(self, weights, ids, chunks=4, batch=16):
        """Mean loss of each run on ``chunks * batch`` fixed windows of ``ids``."""
        draws, runs, total = torch.Generator().manual_seed(1234), len(next(iter(weights.values()))), 0.0
        for _ in range(chunks):
            x, y = (t.expand(runs, -1, -1).to(self.device) for t in data.windows(ids, batch, self.context, draws))
            total = total + self.loss(weights, x, y) / chunks
        return torch.nan_to_num(total, nan=99.0, posinf=99.0)

    def windows(self, count, seed):
        """``count`` windows of the training code, (count, T) and targets."""
        drawn = data.windows(self.code["train"], count, self.context, torch.Generator().manual_seed(seed))
        return tuple(t.to(self.device) for t in drawn)

    def gradient(self, samples, seed):
        """The full gradient from ``samples`` windows of training code, in chunks of at most 64."""
        parts = list(zip(*(t.split(64) for t in self.windows(samples, seed)), strict=True))
        grads = [gradients_of(lambda w, x, y: self.loss(w, x, y, torch.float32), self.base, *part) for part in parts]
        return {name: sum(g[name] * len(p[0]) / samples for g, p in zip(grads, parts, strict=True)) for name in self.base}

    def starts(self, method, seeds, rank, samples):
        """starts_of with the gradients of each seed, decompositions kept: PiSSA's for all seeds, LoRA-GA's for LoRA-Pro."""
        if method == "full":
            return None
        rows = []
        for seed in seeds:
            key = ("PiSSA", 0) if method == "PiSSA" else ("LoRA-GA" if method == "LoRA-Pro" else method, seed)
            if key not in self.kept:
                G = self.gradient(samples, 2000 + seed) if method in lora.FROM_GRADIENT else self.base
                self.kept[key] = starts_of(method, self.base, [G], [seed], rank)[0]
            rows.append(self.kept[key])
        return rows


def code_runs(task, method, exponents, seeds, *, batch, steps, rank, samples, marks=(), full_marks=()):
    """One pass over a grid: validation and test loss (rates, seeds), curves, validation loss and captured energy at marks."""
    rates, seen = [2.0**e for e in exponents], {"valid": [], "captured": []}
    starts, pro = task.starts(method, seeds, rank, samples), method == "LoRA-Pro"
    draws = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    probe = [t.expand(len(seeds), *t.shape) for t in task.windows(16, 4321)]

    def draw(step):
        drawn = [data.windows(task.code["train"], batch, task.context, g) for g in draws]
        return tuple(torch.stack(t).repeat(len(rates), 1, 1).to(task.device) for t in zip(*drawn, strict=True))

    def look(step, merged, layers):
        if step in marks:
            seen["valid"].append(task.evaluate({n: W.detach() for n, W in merged().items()}, task.code["valid"], chunks=2).tolist())
        if step in full_marks and layers:
            shares = captured_by(task.loss, merged, layers, *probe)
            seen["captured"].append(torch.stack([s.mean(1) for s in shares.values()]).mean(0).tolist())

    schedule = lambda step, steps: optim.warmup_cosine(step, steps, warmup=0.03, final=0.0)
    look = look if marks else None
    merged, history = fine_tune(task.loss, task.base, starts, rates, seeds, draw, steps, pro=pro, look=look, schedule=schedule)
    with torch.no_grad():
        ends = {name: task.evaluate(merged(), task.code[name]).view(len(rates), -1).tolist() for name in ("valid", "test")}
    history = torch.nan_to_num(history, nan=99.0).clamp(max=99).view(-1, 10, len(rates), len(seeds)).mean((1, 3))
    return ends | {"curve": history.T.tolist(), "marks": seen}


def code_finetuning(device, *, shape, pretrain, methods, tuning_seeds, seeds, marks, full_marks, sample_counts, probe, bf16, **config):
    """Per method: a grid on the tuning seeds, grown until the best rate is inside, then fresh seeds at the best rate."""
    task = CodeTask(device, shape, pretrain, bf16)
    result = {"plays": task.plays_loss, "zero shot": task.zero_shot, "bytes": {k: len(v) for k, v in task.code.items()}, "methods": {}}
    result["parameters"] = {"linear": sum(W.numel() for W in task.base.values()), "all": sum(p.numel() for p in task.model.parameters())}
    reference, share = task.gradient(probe, 4322), {}
    for count in sample_counts:
        G = task.gradient(count, 5000)
        pairs = {name: lora.lora_ga_init(G[name], config["rank"]) for name in G}
        share[count] = {
            k: float(torch.stack([lora.captured_energy(M[n], *pairs[n]).mean() for n in G]).mean())
            for k, M in (("own", G), ("fresh", reference))
        }
    result["samples"] = share
    for method, exponents in methods.items():
        grid, exponents = code_runs(task, method, exponents, tuning_seeds, **config), list(exponents)
        lowest = lambda: min(range(len(exponents)), key=lambda i: sum(grid["valid"][i]))  # noqa: B023
        for _ in range(3):
            if 0 < lowest() < len(exponents) - 1:
                break
            below = lowest() == 0
            more = [exponents[0] - 2, exponents[0] - 1] if below else [exponents[-1] + 1, exponents[-1] + 2]
            extra = code_runs(task, method, more, tuning_seeds, **config)
            exponents = more + exponents if below else exponents + more
            for key in ("valid", "test", "curve"):
                grid[key] = extra[key] + grid[key] if below else grid[key] + extra[key]
        best = lowest()
        fresh = code_runs(task, method, [exponents[best]], seeds, marks=marks, full_marks=full_marks, **config)
        result["methods"][method] = {"exponents": exponents, "best": exponents[best], "grid": grid, "fresh": fresh}
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result


# %% tags=["nbval-ignore-output"]
DIGIT_METHODS = nb.at_scale(
    cpu=["full", "LoRA", "random pair", "LoRA-GA", "GA-sign"],
    gpu=["full", "LoRA", "rsLoRA", "LoRA+", "PiSSA", "random pair", "LoRA-GA", "LoRA-GA in peft", "GA-sign", "sign-fit", "LoRA-Pro"],
    full=["full", "LoRA", "rsLoRA", "LoRA+", "PiSSA", "random pair", "LoRA-GA", "LoRA-GA in peft", "GA-sign", "sign-fit", "LoRA-Pro"],
)
all_rates = {"Adam": [0.0003 * 2.0**k for k in range(9)], "SGD": [0.003 * 2.0**k for k in range(10)]}
e3 = nb.run(
    "E3",
    digits_finetuning,
    methods=DIGIT_METHODS,
    optimizers=nb.at_scale(cpu=["Adam"], gpu=["Adam", "SGD"], full=["Adam", "SGD"]),
    rates=nb.at_scale(cpu={"Adam": [0.0048, 0.0096, 0.0192]}, gpu=all_rates, full=all_rates),
    seeds=list(range(nb.at_scale(cpu=2, gpu=4, full=8))),
    steps=150,
    batch=64,
    rank=4,
    samples=256,
)
e4 = nb.run(
    "E4",
    alignment_along,
    methods=nb.at_scale(
        cpu=["LoRA", "LoRA-GA"], gpu=["LoRA", "LoRA-GA"], full=["LoRA", "PiSSA", "random pair", "LoRA-GA", "GA-sign", "LoRA-Pro"]
    ),
    rate=0.01,
    seeds=list(range(nb.at_scale(cpu=3, gpu=4, full=8))),
    steps=150,
    batch=64,
    rank=4,
    samples=256,
    marks=[0, 1, 2, 5, 10, 20, 50, 100, 150],
)

# %% tags=["nbval-ignore-output"]
exponents5 = lambda low, high: [float(e) for e in range(low, high + 1)]
all_methods = {"full": exponents5(-14, -7), "LoRA": exponents5(-12, -5), "rsLoRA": exponents5(-13, -6), "LoRA+": exponents5(-15, -8)}
all_methods |= {name: exponents5(-13, -6) for name in ("PiSSA", "random pair", "LoRA-GA", "GA-sign", "sign-fit", "LoRA-Pro")}
all_methods |= {"LoRA-GA in peft": exponents5(-12, -5)}
e5 = nb.run(
    "E5",
    code_finetuning,
    shape=nb.at_scale(
        cpu={"context": 32, "d": 32, "depth": 2, "heads": 2},
        gpu={"context": 128, "d": 128, "depth": 3, "heads": 4},
        full={"context": 256, "d": 384, "depth": 6, "heads": 6},
    ),
    pretrain=nb.at_scale(
        cpu={"steps": 150, "batch": 16, "rate": 0.01},
        gpu={"steps": 800, "batch": 32, "rate": 0.003},
        full={"steps": 1500, "batch": 64, "rate": 0.002},
    ),
    methods=nb.at_scale(cpu={"LoRA": [-8.0, -7.0, -6.0], "LoRA-GA": [-9.0, -8.0, -7.0]}, gpu=all_methods, full=all_methods),
    tuning_seeds=[0, 1],
    seeds=nb.at_scale(cpu=[10, 11], gpu=[10, 11, 12], full=[10, 11, 12, 13, 14]),
    steps=nb.at_scale(cpu=30, gpu=150, full=300),
    batch=nb.at_scale(cpu=4, gpu=4, full=8),
    rank=nb.at_scale(cpu=4, gpu=8, full=8),
    samples=nb.at_scale(cpu=8, gpu=32, full=32),
    marks=nb.at_scale(cpu=[0, 10, 30], gpu=[0, 10, 50, 150], full=[0, 10, 20, 40, 60, 80, 100, 125, 150, 175, 200, 225, 250, 275, 300]),
    full_marks=nb.at_scale(cpu=[0, 10, 30], gpu=[0, 10, 50, 150], full=[0, 1, 3, 10, 30, 100, 300]),
    sample_counts=nb.at_scale(cpu=[1, 8], gpu=[1, 8, 32], full=[1, 4, 8, 32, 128]),
    probe=nb.at_scale(cpu=32, gpu=128, full=256),
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
)
