# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Muon, continued: why we chose to try it
#
# [Muon续集：为什么我们选择尝试Muon？](https://kexue.fm/archives/10739) · 2025-02-27 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/optimization/muon.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import math
import time

import numpy as np
import torch

import kexue_nb
from kexue_nb import data, metrics, muon, nn, optim, ranks, runtime, train

# %%
nb = kexue_nb.notebook("muon")

# %% tags=["hide-input"]
cpu = torch.device("cpu")
HIDDEN = ("wq", "wk", "wv", "wo", "w1", "w2")


def drawn_gradients(shapes, seed):
    """Normal matrices (out, in), float32, one for each shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def march(optimizer, params, gradients):
    """One update for each list of gradients."""
    for matrices in gradients:
        for p, G in zip(params, matrices, strict=True):
            p.grad = G.to(p.device)
        optimizer.step()


def relative_gap(ours, theirs, start):
    """Norm of the difference of two end points over the norm of the way."""
    total = lambda tensors: math.sqrt(sum(float(t.square().sum()) for t in tensors))
    return total([a - b for a, b in zip(ours, theirs, strict=True)]) / total([b - s for b, s in zip(theirs, start, strict=True)])


def parity(device, *, shapes, rules, steps, lr):
    """Muon against torch.optim.Muon over the same random gradients: rule -> gap of ours, and of StackedMuon in float32 and bfloat16."""
    start = [W.to(device) for W in drawn_gradients(shapes, 0)]
    gradients = [drawn_gradients(shapes, 1 + step) for step in range(steps)]
    table = {}
    for rule in rules:
        ends = {}
        for name, kind in (("torch", torch.optim.Muon), ("ours", muon.Muon)):
            params = [torch.nn.Parameter(W.clone()) for W in start]
            march(kind(params, lr=lr, adjust_lr_fn=rule), params, gradients)
            ends[name] = [p.detach() for p in params]
        for name, dtype in (("stacked, float32", None), ("stacked, bfloat16", torch.bfloat16)):
            params = [torch.nn.Parameter(W.T[None].clone()) for W in start]  # (1, d_in, d_out)
            groups = [{"params": [p], "multiplier": muon.shape_factor(rule, *s)} for p, s in zip(params, shapes, strict=True)]
            turned = [[G.T[None] for G in matrices] for matrices in gradients]
            march(optim.StackedMuon(groups, torch.tensor([lr]), weight_decay=0.1, dtype=dtype), params, turned)
            ends[name] = [p.detach()[0].T for p in params]
        table[rule] = {name: relative_gap(ends[name], ends["torch"], start) for name in ends if name != "torch"}
    return table


# %% tags=["hide-input"]
def finish(device):
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_a_step(device, optimizer, rounds):
    """Median seconds of one update."""
    times = []
    for _ in range(rounds + 2):
        finish(device)
        start = time.perf_counter()
        optimizer.step()
        finish(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def stopwatch_of_muons(device, *, d, layers, rounds):
    """Milliseconds of an update of all hidden matrices of a transformer, by torch.optim.Muon, Muon and AdamW, in turns; relative gap of one step."""
    shapes = [(d, d)] * (4 * layers) + [(4 * d, d), (d, 4 * d)] * layers
    gradients = [G.to(device) for G in drawn_gradients(shapes, 3)]
    kinds = {"torch.optim.Muon": torch.optim.Muon, "Muon": muon.Muon, "AdamW": torch.optim.AdamW}
    optimizers, after = {}, {}
    for name, kind in kinds.items():
        params = [torch.nn.Parameter(torch.zeros_like(G)) for G in gradients]
        optimizers[name] = kind(params, lr=1e-3) if name != "AdamW" else kind(params, lr=1e-3, fused=device.type == "cuda")
        march(optimizers[name], params, [gradients])
        after[name] = [p.detach().clone() for p in params]
    gap = relative_gap(after["Muon"], after["torch.optim.Muon"], [torch.zeros_like(G) for G in gradients])
    times = {name: [] for name in kinds}
    for _ in range(3):
        for name, optimizer in optimizers.items():
            times[name].append(1e3 * seconds_a_step(device, optimizer, rounds))
    flops = sum(muon.newton_schulz_flops(*shape) for shape in shapes)
    return {"ms": times, "gap": gap, "flops": flops, "parameters": sum(G.numel() for G in gradients)}


e2 = nb.run("E2", parity, shapes=[[64, 64], [128, 32], [32, 128], [64, 64]], rules=["original", "match_rms_adamw"], steps=20, lr=0.02)
e2b = nb.run(
    "E2b",
    stopwatch_of_muons,
    **nb.at_scale(
        cpu={"d": 64, "layers": 1, "rounds": 3}, gpu={"d": 512, "layers": 4, "rounds": 10}, full={"d": 1024, "layers": 8, "rounds": 20}
    ),
)


# %% tags=["hide-input"]
def language_model(device, seeds, shape):
    """The transformer of this notebook: rotary positions, output projections times 1/sqrt(2 depth), embeddings of deviation 0.02."""
    half = shape["d"] // shape["heads"] // 2
    rotary = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    model = nn.Transformer(nn.Init(seeds), **shape, rotary=rotary)
    with torch.no_grad():
        model.tokens.weight.mul_(0.02)
        for W in (model.wo, model.w2):
            W.mul_(1 / math.sqrt(2 * shape["depth"]))
    return model.to(device)


def split_parameters(model):
    """Hidden matrices, then the rest."""
    hidden = [getattr(model, name) for name in HIDDEN]
    return hidden, [p for p in model.parameters() if all(p is not W for W in hidden)]


def stacked_optimizer(arm, model, lr, rest_lr, decay, factor):
    """StackedAdam for all, or StackedMuon on the hidden matrices with updates of RMS ``factor`` times the rate."""
    hidden, rest = split_parameters(model)
    adam = {"betas": (0.9, 0.95), "weight_decay": decay}
    if arm == "AdamW":
        return optim.Together(optim.StackedAdam(hidden, lr, **adam), optim.StackedAdam(rest, rest_lr, **adam))
    groups = [{"params": [W], "multiplier": factor * math.sqrt(max(W.shape[-2:]))} for W in hidden]
    return optim.Together(optim.StackedMuon(groups, lr, weight_decay=decay), optim.StackedAdam(rest, rest_lr, **adam))


def step_rms(before, after, rate, decay):
    """RMS over all but the first axis of the step (without decay) over its rate; ``rate`` (R,)."""
    shaped = rate.view(-1, *[1] * (after.ndim - 1))
    return metrics.rms((((1 - shaped * decay) * before - after) / shaped).flatten(1))


# %% tags=["hide-input"]
def stacked_language(device, parts, arm, rates, *, seeds, shape, batch, steps, decay, factor, marks, rest=None):
    """Rates x seeds side by side. Held-out losses (rates, seeds), update RMS and norms at the marks, entropy of the spectra at the end."""
    model = language_model(device, list(seeds) * len(rates), shape)
    lr = torch.tensor(rates).repeat_interleave(len(seeds))
    rest_lr = lr if rest is None else torch.full_like(lr, rest)
    opt = stacked_optimizer(arm, model, lr, rest_lr, decay, factor)
    generators, held, seen, curve = [torch.Generator().manual_seed(seed) for seed in seeds], {}, {}, {}

    def draw(source, generators, count):
        drawn = [data.windows(source, count, shape["context"], g) for g in generators]
        return [torch.stack(t).repeat(len(rates), 1, 1).to(device) for t in zip(*drawn, strict=True)]

    loss = lambda x, y: nn.cross_entropy_per_run(model(x), y)

    @torch.no_grad()
    def held_out(part, batches):
        return torch.stack([loss(*draw(part, [torch.Generator().manual_seed(1000 + i)] * len(seeds), 32)) for i in range(batches)]).mean(0)

    def watch(step, losses):
        if step + 2 in marks:
            held.update({name: getattr(model, name).detach().clone() for name in HIDDEN})
        if step + 1 in marks:
            rate = lr.to(device) * optim.warmup_cosine(step, steps)
            seen[step + 1] = {
                name: step_rms(held[name], getattr(model, name).detach(), rate, decay).view(len(rates), -1) for name in HIDDEN
            }
            curve[step + 1] = finite(held_out(parts[1], 2)).view(len(rates), -1)

    train.fit_graphed(loss, lambda step: draw(parts[0], generators, batch), opt, steps, schedule=optim.warmup_cosine, watch=watch)
    valid, test = (finite(held_out(part, 8)).view(len(rates), -1) for part in parts[1:])
    return {
        "valid": valid,
        "test": test,
        "rms": {m: {k: torch.nan_to_num(v, 9.0) for k, v in row.items()} for m, row in seen.items()},
        "curve": curve,
        **spectra(model, len(rates)),
    }


def finite(losses):
    """Diverged runs get 9 nats."""
    return torch.where(torch.isfinite(losses), losses, 9.0).clamp(max=9.0)


def spectra(model, rates):
    """Entropy of the squared singular values and spectral norm, each a mean over layers: name -> (rates, seeds)."""
    found = {"entropy": {}, "norm": {}}
    for name in HIDDEN:
        W = torch.nan_to_num(getattr(model, name).detach().cpu())
        sigma = torch.linalg.svdvals(W)
        found["entropy"][name] = ranks.normalized_entropy(sigma.clamp_min(1e-12)).mean(1).view(rates, -1)
        found["norm"][name] = sigma[..., 0].mean(1).view(rates, -1)
    return found


CHARACTERS = data.encode_characters(data.shakespeare())


def tiny_grid(device, *, arms, rates, shape, **config):
    """Shakespeare by characters: arm name -> stacked_language; ``arms`` gives the optimizer, its decay and its update RMS."""
    ids, alphabet = CHARACTERS
    sizes = [int(0.9 * len(ids)), int(0.05 * len(ids))]
    parts = ids.split([*sizes, len(ids) - sum(sizes)])
    shape = {"vocabulary": len(alphabet)} | shape
    return {
        name: stacked_language(
            device, parts, arm["kind"], rates[name], shape=shape, decay=arm["decay"], factor=arm["factor"], rest=arm.get("rest"), **config
        )
        for name, arm in arms.items()
    }


# %% tags=["hide-input"]
def noisy_digits(share, seed):
    """Digits 8 x 8 in [0, 1], labels of the first 1,300 wrong with probability ``share``: train and test tensors."""
    images, labels = data.digits8x8()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    x, y = images[order].flatten(1) / 16, labels[order]
    wrong = torch.rand(1300, generator=generator) < share
    noisy = torch.where(wrong, torch.randint(10, (1300,), generator=generator), y[:1300])
    return x[:1300], noisy, x[1300:], y[1300:]


class DigitsNet(torch.nn.Module):
    """64 -> 64 -> 64 -> 64 -> 10 with ReLU for a stack of runs; the two inner matrices are Muon's. x (R, B, 64) -> (R, B, 10)."""

    def __init__(self, seeds):
        super().__init__()
        init = nn.Init(seeds)
        self.enter, self.inner, self.leave = (
            init.normal(64, 64, std=1 / 8),
            init.normal(2, 64, 64, std=1 / 8),
            init.normal(64, 10, std=1 / 8),
        )

    def forward(self, x):
        for W in (self.enter, *self.inner.unbind(1)):
            x = torch.bmm(x, W).relu()
        return torch.bmm(x, self.leave)


def decay_runs(device, *, decays, seeds, steps, marks, lr, share):
    """Muon with several decays: spectral norms of the first inner matrix (marks, seeds), test loss and accuracy."""
    table = {}
    sets = [noisy_digits(share, seed) for seed in seeds]
    x, y, test_x, test_y = (torch.stack(t).to(device) for t in zip(*sets, strict=True))
    for decay in decays:
        net = DigitsNet(seeds).to(device)
        rate = torch.full((len(seeds),), lr)
        inner = optim.StackedMuon([net.inner], rate, weight_decay=decay)
        opt = optim.Together(inner, optim.StackedAdam([net.enter, net.leave], rate / 10))
        generator, norms = torch.Generator().manual_seed(7), {}

        def draw(step, generator=generator):
            rows = torch.randint(1300, (len(seeds), 64), generator=generator).to(device)
            return x.gather(1, rows[..., None].expand(-1, -1, 64)), y.gather(1, rows)

        def watch(step, losses, net=net, norms=norms):
            if step + 1 in marks:
                norms[step + 1] = torch.linalg.svdvals(net.inner.detach()[:, 0].cpu())[:, 0]

        train.fit_graphed(lambda x, y, net=net: nn.cross_entropy_per_run(net(x), y), draw, opt, steps, watch=watch)
        with torch.no_grad():
            logits = net(test_x)
            table[str(decay)] = {
                "norm": norms,
                "loss": nn.cross_entropy_per_run(logits, test_y),
                "accuracy": (logits.argmax(-1) == test_y).float().mean(1),
            }
    return table


# %% tags=["hide-input"]
def corpus():
    """Bytes of three texts (plays, a newspaper in Chinese, Python), of each the first 90% to train, then 5% to choose by, 5% to report."""
    parts = [[], [], []]
    for text in (data.shakespeare(), data.chinese_news(), data.python_code()):
        raw = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        sizes = [int(0.9 * len(raw)), int(0.05 * len(raw))]
        for part, piece in zip(parts, raw.split([*sizes, len(raw) - sum(sizes)]), strict=True):
            part.append(piece)
    return [torch.cat(pieces) for pieces in parts]


BYTES = corpus()


def plain_optimizers(arm, model, rate, decay):
    """torch.optim.AdamW for all, or Muon on the hidden matrices with AdamW's update size; gains do not decay."""
    hidden, rest = split_parameters(model)
    gains = [p for p in rest if p is model.gains or p is model.final_gain]
    matrices = [p for p in rest if all(p is not g for g in gains)]
    matrices += hidden if arm == "AdamW" else []
    groups = [{"params": matrices, "weight_decay": decay}, {"params": gains, "weight_decay": 0.0}]
    found = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=model.wq.is_cuda)]
    return found if arm == "AdamW" else [*found, muon.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")]


def cut(part, starts, length):
    """Windows of bytes and their targets, int64: starts (B,) -> two (1, B, length)."""
    at = starts[:, None] + torch.arange(length, device=part.device)
    return part[at].long()[None], part[at + 1].long()[None]


def model_loss(model, x, y, precision):
    """Mean cross-entropy in nats a byte."""
    return nn.cross_entropy_per_run(model(x, precision), y).sum()


@torch.no_grad()
def held_out_loss(model, part, count, batch, precision):
    """Mean loss over ``count`` fixed windows of ``part``."""
    length = model.context
    starts = torch.randint(len(part) - length, (count,), generator=torch.Generator().manual_seed(99)).to(part.device)
    return float(torch.stack([model_loss(model, *cut(part, some, length), precision) for some in starts.split(batch)]).mean())


# %% tags=["hide-input"]
def train_once(parts, model, arm, rate, seed, *, steps, batch, marks, decay, clip, bf16):
    """Train in place. Curve of the validation loss, seconds of training so far and update RMS at ``marks`` points; losses at the end."""
    precision = torch.bfloat16 if bf16 else torch.float32
    device, length = parts[0].device, model.context
    optimizers, params = plain_optimizers(arm, model, rate, decay), list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(parts[0]) - length, (steps, batch), generator=generator).to(device)
    points = [round(steps * (i + 1) / marks) for i in range(marks)]
    curve, seconds, rms, spent = [], [], {name: [] for name in HIDDEN}, 0.0
    finish(device)
    clock = time.perf_counter()
    for step in range(steps):
        now = rate * optim.warmup_cosine(step, steps)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = now
        model_loss(model, *cut(parts[0], starts[step], length), precision).backward()
        torch.nn.utils.clip_grad_norm_(params, clip)
        if step + 1 in points:
            finish(device)
            spent += time.perf_counter() - clock
            before = {name: getattr(model, name).detach().clone() for name in HIDDEN}
            finish(device)
            clock = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        if step + 1 in points:
            finish(device)
            spent += time.perf_counter() - clock
            for name in HIDDEN:
                moved = step_rms(before[name], getattr(model, name).detach(), torch.tensor([now], device=device), decay)
                rms[name].append(torch.nan_to_num(moved, 9.0).item())
            curve.append(held_out_loss(model, parts[1], 2 * batch, batch, precision))
            seconds.append(spent)
            finish(device)
            clock = time.perf_counter()
    loss = {name: held_out_loss(model, part, 16 * batch, batch, precision) for name, part in zip(("valid", "test"), parts[1:], strict=True)}
    return {"at": points, "curve": curve, "seconds": seconds, "rms": rms, **loss}


def matrix_entropies(model):
    """Mean over every third layer of the entropy of the squared singular values, from the eigenvalues of Gram matrices: name -> number."""
    found = {}
    for name in HIDDEN:
        W = torch.nan_to_num(getattr(model, name).detach()[0, ::3])
        gram = W @ W.mT if W.shape[-2] <= W.shape[-1] else W.mT @ W
        found[name] = float(ranks.normalized_entropy(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()).mean())
    return found


def language_runs(device, *, arm, exponents, seeds, shares, extend, entropy, shape, steps, **config):
    """A transformer on bytes: for each seed, share of the steps and rate 2^exponent one run with its whole schedule.

    Where the best rate of the first seed lies at an edge of the grid, the grid grows by one there, at most ``extend`` times.
    """
    parts, shape = [part.to(device) for part in BYTES], {"vocabulary": 256} | shape
    exponents, runs, small = sorted(exponents), [], {"d": 64, "depth": 1, "heads": 2}
    train_once(parts, language_model(device, [0], shape | small), arm, 1e-3, 0, steps=3, **config | {"marks": 1})  # warms the machine up
    for seed in seeds:
        model = language_model(device, [seed], shape)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        begin = matrix_entropies(model) if entropy else {}

        def run(exponent, share, seed=seed, model=model, start=start, begin=begin):
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(start[name])
            row = train_once(parts, model, arm, 2.0**exponent, seed, steps=round(share * steps), **config)
            row["valid"], row["test"] = (min(row[k], 9.0) if math.isfinite(row[k]) else 9.0 for k in ("valid", "test"))
            row["curve"] = [min(v, 9.0) if math.isfinite(v) else 9.0 for v in row["curve"]]
            return (
                row
                | {"exponent": exponent, "share": share, "seed": seed}
                | ({"entropy": matrix_entropies(model), "start": begin} if entropy else {})
            )

        for share in shares:
            rows = {e: run(e, share) for e in exponents}
            for _ in range(extend):
                best = min(rows, key=lambda e: rows[e]["valid"])
                if len(rows) > 1 and best in (min(rows), max(rows)):
                    new = best - 1 if best == min(rows) else best + 1
                    rows[new] = run(new, share)
            runs += [rows[e] for e in sorted(rows)]
    parameters = sum(p.numel() for p in model.parameters())
    return {"runs": runs, "parameters": parameters, "train bytes": len(parts[0])}


# %% tags=["hide-input"]
octaves = lambda low, high: [2.0**e for e in range(low, high + 1)]
tiny_shape = nb.at_scale(
    cpu={"shape": {"context": 32, "d": 32, "depth": 1, "heads": 2}, "batch": 8, "steps": 60, "marks": [20, 60]},
    gpu={"shape": {"context": 64, "d": 64, "depth": 2, "heads": 4}, "batch": 16, "steps": 300, "marks": [30, 100, 200, 300]},
    full={"shape": {"context": 64, "d": 64, "depth": 2, "heads": 4}, "batch": 16, "steps": 300, "marks": [30, 100, 200, 300]},
)
tiny_seeds = nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2], full=[0, 1, 2, 3])
tiny_rates = nb.at_scale(cpu=octaves(-8, -5), gpu=octaves(-10, -4), full=octaves(-10, -4))
decays = nb.at_scale(cpu={"AdamW": (0.1,)}, gpu={"AdamW": (0.0, 0.1)}, full={"AdamW": (0.0, 0.1, 0.3)}) | {
    "Muon": nb.at_scale(cpu=(0.1,), gpu=(0.1,), full=(0.0, 0.1))
}
e3_arms = {f"{kind}, decay {decay:g}": {"kind": kind, "decay": decay, "factor": 0.2} for kind in decays for decay in decays[kind]}
e5 = nb.run(
    "E5",
    decay_runs,
    lr=0.02,
    share=0.2,
    decays=nb.at_scale(cpu=[0.0, 0.5, 2.0], gpu=[0.0, 0.1, 0.5, 1.0, 2.0], full=[0.0, 0.1, 0.5, 1.0, 2.0]),
    seeds=nb.at_scale(cpu=[0], gpu=[0, 1], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=400, gpu=3000, full=3000),
    marks=nb.at_scale(cpu=[100, 200, 400], gpu=[200, 800, 1400, 2000, 2600, 3000], full=[200, 800, 1400, 2000, 2600, 3000]),
)
e3 = nb.run("E3", tiny_grid, arms=e3_arms, rates=dict.fromkeys(e3_arms, tiny_rates), seeds=tiny_seeds, **tiny_shape)

# %% tags=["hide-input"]
big = {"decay": 0.1, "clip": 1.0, "bf16": nb.scale != "cpu" and runtime.has_bf16()} | nb.at_scale(
    cpu={"shape": {"context": 32, "d": 32, "depth": 1, "heads": 2}, "batch": 8, "steps": 40, "marks": 4},
    gpu={"shape": {"context": 256, "d": 256, "depth": 4, "heads": 4}, "batch": 16, "steps": 300, "marks": 10},
    full={"shape": {"context": 512, "d": 1024, "depth": 8, "heads": 16}, "batch": 32, "steps": 450, "marks": 18},
)
tuning = {"seeds": [0], "shares": [1.0], "entropy": False, "extend": nb.at_scale(cpu=0, gpu=0, full=1)} | big
adam_grid = nb.at_scale(cpu=[-8.0, -7.0, -6.0], gpu=[-11.0, -10.0, -9.0, -8.0], full=[-12.0, -11.0, -10.0, -9.0])
muon_grid = nb.at_scale(cpu=[-7.0, -6.0, -5.0], gpu=[-10.0, -9.0, -8.0, -7.0], full=[-10.0, -9.0, -8.0, -7.0])
best_exponent = lambda result: min(result["runs"], key=lambda row: row["valid"])["exponent"]
e7 = nb.run("E7", language_runs, arm="AdamW", exponents=adam_grid, **tuning)
e7b = nb.run("E7b", language_runs, arm="Muon", exponents=muon_grid, **tuning)

# %% tags=["hide-input"]
fresh = nb.at_scale(cpu=[1], gpu=[1], full=[1, 2])
again = {"shares": [1.0], "extend": 0, "seeds": fresh, "entropy": True} | big
e7c = nb.run("E7c", language_runs, arm="AdamW", exponents=[best_exponent(e7)], **again)
e7d = nb.run("E7d", language_runs, arm="Muon", exponents=[best_exponent(e7b)], **again)
short = {"extend": 0, "entropy": False, "arm": "Muon", "exponents": [best_exponent(e7b)]} | big
short_shares = nb.at_scale(cpu=[0.5], gpu=[0.5, 0.75], full=[0.3, 0.5, 0.7])
e7e = nb.run("E7e", language_runs, seeds=fresh[:1], shares=short_shares, **short)

# %% tags=["hide-input"]
factors = nb.at_scale(cpu=[0.1, 0.4, 1.6], gpu=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6], full=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
e4_rates = nb.at_scale(cpu=octaves(-8, -7), gpu=octaves(-9, -7), full=octaves(-10, -7))
e4_arms = {f"{factor:g}": {"kind": "Muon", "decay": 0.1, "factor": factor} for factor in factors}
e4 = nb.run("E4", tiny_grid, arms=e4_arms, rates=dict.fromkeys(e4_arms, e4_rates), seeds=tiny_seeds[:3], **tiny_shape)
long_arms = {f"decay {decay:g}": {"kind": "Muon", "decay": decay, "factor": 0.2} for decay in (0.0, 0.1)}
long_shape = tiny_shape | nb.at_scale(
    cpu={"steps": 80, "marks": [40, 80]},
    gpu={"steps": 1000, "marks": [200, 500, 1000]},
    full={"steps": 3000, "marks": [300, 600, 1200, 2000, 3000]},
)
long_rates = nb.at_scale(cpu=octaves(-7, -7), gpu=octaves(-7, -6), full=octaves(-8, -6))
e5b = nb.run("E5b", tiny_grid, arms=long_arms, rates=dict.fromkeys(long_arms, long_rates), seeds=tiny_seeds[:3], **long_shape)
e7f = nb.run("E7f", language_runs, seeds=[2], shares=short_shares, **short)

# %%
nb.ledger()
