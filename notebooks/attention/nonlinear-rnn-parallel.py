# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Can a nonlinear RNN be computed in parallel? Fixed points, perturbation and Newton

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import copy
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, nn, optim, scan, train
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE

# %%
nb = kexue_nb.notebook("nonlinear-rnn-parallel")

# %% [markdown]
# ### The benchmark


# %% tags=["hide-input"]
def timed(call, device):
    """Median wall seconds of a call after its first (the first itself where that takes longer than a second), and its last result."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times, result = [], None
    while len(times) < 2 or (sum(times[1:]) < (0.06 if device.type == "cuda" else 0) and len(times) < 25):
        result = None  # frees the memory of the last one
        wait()
        start = time.perf_counter()
        result = call()
        wait()
        times.append(time.perf_counter() - start)
        if times[0] > 1:
            break
    return float(np.median(times[1:] or times)), result


def captured(call, device):
    """The call as one CUDA graph: (replay, result); on the CPU the call itself."""
    if device.type != "cuda":
        return call, call()
    torch.cuda.empty_cache()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result


def layer(cell, h, gain, device, seed=0):
    """torch.nn.GRU or RNN, h inputs and h states: recurrent blocks gain * orthogonal, input weights N(0, 1/h), no bias to start with."""
    module = torch.nn.GRU(h, h) if cell == "gru" else torch.nn.RNN(h, h)
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        blocks = [torch.linalg.qr(torch.randn(h, h, generator=generator, dtype=torch.float64))[0] for _ in range(len(p) // h)]
        p.data = torch.randn(p.shape, generator=generator) / math.sqrt(h) if p is module.weight_ih_l0 else 0 * p.data
        if p is module.weight_hh_l0:
            p.data = gain * torch.cat(blocks).float()
    return module.to(device)


def fused_loop(module, x):
    """The states step by step, one matrix product and one fused kernel a step (the GRU's is torch's own)."""
    cell, u, w, b = scan.from_module(module, x)
    if cell == "gru" and not x.is_cuda:
        return scan.run_loop(cell, u, w, b)
    state, states, zero = x.new_zeros(x.shape[1], w.shape[1]), [], torch.zeros_like(b)
    for step in u if cell == "gru" else u + b:
        if cell == "gru":
            state = torch.ops.aten._thnn_fused_gru_cell(step, state @ w.T, state, zero, b)[0]
        else:
            state = torch.tanh(torch.addmm(step, state, w.T))
        states.append(state)
    return torch.stack(states)


def block_of(h):
    return 8 if h < 16 else 16


def parallel(module, x, method="newton", **options):
    """States by parallel sweeps, and the Solution."""
    return scan.rnn(*scan.from_module(module, x), method=method, block=block_of(module.hidden_size), **options)


# %% tags=["hide-input"]
def contenders(module, x, sweeps, limits):
    """name -> (function that gives the states, whether it is captured as a graph), those whose limit of steps allows it."""
    everything = {
        "cudnn": (lambda: module(x)[0], False),
        "newton": (lambda: parallel(module, x, max_sweeps=60)[0], False),
        "quasi": (lambda: parallel(module, x, "quasi", max_sweeps=60)[0], False),
        "newton, graph": (lambda: parallel(module, x, sweeps=sweeps)[0], True),
        "loop, graph": (lambda: fused_loop(module, x), True),
        "loop": (lambda: fused_loop(module, x), False),
    }
    if module.hidden_size == 1:
        del everything["quasi"]  # the same as Newton
    if x[..., 0].numel() * module.hidden_size > 3e7:
        del everything["newton, graph"]  # no launch overhead to save, and twice the memory
    return {name: way for name, way in everything.items() if len(x) <= limits.get(name, math.inf)}


def relative(a, b):
    return float((a.double() - b).abs().max() / b.abs().max())


def measure(way, graph, leaves, cotangent, reference, device, both):
    """One row: seconds of the forward pass, or of it with the gradient of all weights; peak memory; errors against float64."""

    def call():
        with torch.set_grad_enabled(both):
            y = way()
            return torch.autograd.grad(y, leaves, cotangent) if both else y

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    replay, static = captured(call, device) if graph else (call, None)
    seconds, result = timed(replay, device)
    result = static if graph else result
    row = {"seconds": seconds}
    if device.type == "cuda":
        row["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if reference[both] is not None:
        mine = result[1] if both else result[:, : reference[0].shape[1]]
        error = relative(mine, reference[both])
        row["error"] = error if math.isfinite(error) else None
    return row


def float64_reference(module, x, cotangent, most):
    """States of two sequences and the gradient of the recurrent weight (up to ``most`` steps), by Newton in float64; cuDNN's distance."""
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        few = x[:, :2].double()
        states = parallel(exact, few, max_sweeps=200)[0]
        peer = relative(exact(few)[0], states) if len(x) <= most else None
    gradient = None
    if len(x) <= most:
        y = parallel(exact, x.double(), max_sweeps=200)[0]
        gradient = torch.autograd.grad(y, exact.weight_hh_l0, cotangent.double())[0]
    return (states, gradient), peer


# %% tags=["hide-input"]
def case_rows(case, module, x, cotangent, device, limits, most, seen, late):
    """The rows of one (cell, h, steps): the sweeps that Newton needs, then seconds and errors of every contender, forward and with gradient."""
    reference, peer = float64_reference(module, x, cotangent, limits["float64"])
    with torch.no_grad():
        found = parallel(module, x, max_sweeps=60)[1]
    rows = [{"method": "sweeps", "sweeps": found.sweeps, "residual": float(found.residual), "peer": peer}]
    for name, (way, graph) in contenders(module, x, found.sweeps, limits).items():
        for both in (False, True):
            steps, key = len(x), (case["cell"], case["h"], name, both)
            if both and "loop" in name and steps > limits[name] // 10:
                continue
            row = {"method": name, "both": both, "seconds": None, "error": None, "memory_gb": None, "note": ""}
            predicted = seen[key][1] * steps / seen[key][0] if key in seen else 0.0
            if predicted > most[both] or late():
                row["note"] = f"left out: about {predicted:.0f} s"
            else:
                try:
                    row |= measure(way, graph, list(module.parameters()), cotangent, reference, device, both)
                    seen[key] = steps, row["seconds"]
                except (RuntimeError, ValueError) as error:
                    row["note"] = f"{type(error).__name__}: {str(error)[:160]}"
            rows.append(row)
    return [case | row for row in rows]


def speed(device, *, cases, batch, limits, most, budget):
    """Rows for each (cell, h, steps). A run predicted to take over ``most`` (forward, with gradient) seconds is left out, and so is
    everything once ``budget`` seconds are over. No TF32 anywhere."""
    rows, begun, seen = [], time.perf_counter(), {}
    late = lambda: time.perf_counter() - begun > budget
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for cell, h, steps in cases:
            module, case = layer(cell, h, 1.0, device), {"cell": cell, "h": h, "steps": steps}
            x, cotangent = (
                torch.randn(steps, batch, h, generator=torch.Generator(device=device).manual_seed(seed), device=device) for seed in (1, 2)
            )
            try:
                if not late():
                    rows += case_rows(case, module, x, cotangent, device, limits, most, seen, late)
            except (RuntimeError, ValueError) as error:
                rows.append(case | {"method": "failed", "note": f"{type(error).__name__}: {str(error)[:160]}"})
            del module, x, cotangent
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return {"rows": rows}


# %% tags=["hide-input"]
def pair(left, right):
    """Two affine maps in sequence, diagonal ones, as torch's associative scan wants it."""
    return left[0] * right[0], right[0] * left[1] + right[1]


def pair_dense(left, right):
    """The same for matrices."""
    return right[0] @ left[0], (right[0] @ left[1][..., None])[..., 0] + right[1]


def scans(device, *, lengths, channels, dense, blocks, compiled):
    """Seconds of one linear scan: ours at several blocks, eager and as a graph; torch's; a cumulative sum as the yardstick of bandwidth."""
    from torch._higher_order_ops.associative_scan import associative_scan

    rows = []

    def enter(kind, name, steps, call, exact, graph=False):
        row = {"kind": kind, "method": name, "steps": steps, "seconds": None, "error": None, "note": ""}
        try:
            torch._dynamo.reset()
            replay, static = captured(call, device) if graph else (call, None)
            row["seconds"], result = timed(replay, device)
            error = relative(static if graph else result, exact) if exact is not None else None
            row["error"] = error if error is not None and math.isfinite(error) else None
        except Exception as error:
            row["note"] = f"{type(error).__name__}: {str(error)[:160]}"
        rows.append(row)

    for steps in lengths:
        for kind, h in (("diagonal", None), ("dense", dense)):
            if kind == "dense" and steps > 100_000:
                continue
            generator = torch.Generator(device=device).manual_seed(3)
            shape = (steps, channels) if h is None else (steps, 4, h)
            b = torch.randn(shape, generator=generator, device=device)
            a = torch.rand(shape if h is None else (*shape, h), generator=generator, device=device)
            a = a if h is None else (2 * a - 1) / h
            exact = scan.linear_scan(a.double(), b.double())
            for block in blocks:
                ours = lambda a=a, b=b, block=block: scan.linear_scan(a, b, block=block, check=False)
                enter(kind, f"ours, block {block}", steps, ours, exact)
                enter(kind, f"ours, block {block}, graph", steps, ours, exact, graph=True)
            combine = pair if h is None else pair_dense
            enter(
                kind,
                "torch, generic",
                steps,
                lambda a=a, b=b, f=combine: associative_scan(f, (a, b), dim=0, combine_mode="generic")[1],
                exact,
            )
            if compiled and h is None and steps == lengths[-1]:
                kernel = torch.compile(lambda a, b: associative_scan(pair, (a, b), dim=0, combine_mode="pointwise")[1])
                enter(kind, "torch, compiled", steps, lambda a=a, b=b, f=kernel: f(a, b), exact)
            enter(kind, "cumulative sum", steps, lambda b=b: b.cumsum(0), None)
            if steps <= 1000:
                loop = lambda a=a, b=b, h=h: sequential(a, b, h)
                enter(kind, "loop", steps, loop, exact)
    return {"rows": rows}


def sequential(a, b, h):
    x, out = torch.zeros_like(b[0]), []
    for A, c in zip(a, b, strict=True):
        x = (A * x if h is None else (A @ x[..., None])[..., 0]) + c
        out.append(x)
    return torch.stack(out)


# %% tags=["hide-input"]
def stress(device, *, cells, gains, h, steps, batch, limit):
    """For each (cell, gain): sweeps, residual and error of the three methods in float32, against cuDNN in float64; the Lyapunov exponent."""
    rows = []
    for cell, gain in [(cell, gain) for cell in cells for gain in gains]:
        module = layer(cell, h, gain, device)
        x = torch.randn(steps, batch, h, generator=torch.Generator(device=device).manual_seed(4), device=device)
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            exact = copy.deepcopy(module).double()(x.double())[0]
            kind, u, w, b = scan.from_module(module, x)
            few = slice(0, min(steps, 1000)), slice(0, 2)
            before = torch.cat([torch.zeros_like(exact[:1, :2]), exact[few][:-1]])
            _, d, c = scan.CELLS[kind].linearise(before, u[few].double(), w.double(), b.double())
            eye = torch.eye(h, dtype=torch.float64, device=device).expand(*before.shape, h)
            growth = scan.lyapunov_exponent(scan.Structured(d, c, w.double()).apply(eye).mT).mean()
            seconds, plain = timed(lambda module=module, x=x: module(x)[0], device)
            row = {"cell": cell, "gain": gain, "exponent": float(growth), "cudnn_s": seconds, "cudnn_error": relative(plain, exact)}
            for method in scan.METHODS:
                wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
                wait()
                start = time.perf_counter()
                found = scan.solve(kind, u, w, b, method=method, max_sweeps=limit, strict=False, block=block_of(h))
                wait()
                row[method] = {
                    "sweeps": found.sweeps,
                    "converged": found.converged,
                    "residual": float(found.residual),
                    "error": relative(found.states, exact),
                    "repaired": found.repaired,
                    "seconds": time.perf_counter() - start,
                }
        rows.append(row)
    return {"rows": rows}


# %% [markdown]
# ### Digits as sequences


# %% tags=["hide-input"]
def digit_sequences(device):
    """The 8x8 digits pixel by pixel, (64, N, 1) in 0..1, and their labels, shuffled: 1,200 to train, 200 to choose by, 397 to report."""
    images, labels = data.digits8x8()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = (images.flatten(1)[order] / 16).T[..., None].to(device), labels[order].to(device)
    return [(x[:, part], y[part]) for part in (slice(0, 1200), slice(1200, 1400), slice(1400, None))]


# %%
class SweepRNN(torch.nn.Module):
    """A stack of R small RNNs y_t = tanh(y_{t-1} Q + u_t) P on sequences x (T, B, 1), rows as vectors; logits (R, B, 10) from the last y."""

    def __init__(self, seeds, d=32):
        super().__init__()
        init = nn.Init(seeds)
        spread = torch.linspace(0.5, 0.99, d).expand(init.runs, d)
        orthogonal = torch.linalg.qr(init.normal(d, d).detach().double())[0].float()
        self.rate = torch.nn.Parameter(torch.log(spread / (1 - spread)))  # lambda = sigmoid(rate)
        self.P = torch.nn.Parameter(orthogonal)
        self.Q = torch.nn.Parameter(spread[..., None] * orthogonal.mT)  # so that Q P = diag(lambda)
        self.w, self.b = init.normal(1, d), torch.nn.Parameter(torch.zeros(init.runs, d))
        self.head, self.bias = init.normal(d, 10, std=d**-0.5), torch.nn.Parameter(torch.zeros(init.runs, 10))

    def inputs(self, x):
        return x[:, None] * self.w[:, :1] + self.b[:, None]  # (T, R, B, d)

    def readout(self, y):
        return y @ self.head + self.bias[:, None]


# %%
def serial(model, u):
    """The exact recurrence, one step after the other: y (T, R, B, d)."""
    y, states = torch.zeros_like(u[0]), []
    for step in u:
        y = torch.tanh(y @ model.Q + step) @ model.P
        states.append(y)
    return torch.stack(states)


def constant_scan(decay, b):
    """y_t = decay * y_{t-1} + b_t by doubling: after k rounds y_t holds the last 2^k terms of its sum."""
    shift = 1
    while shift < len(b):
        b = b + decay * F.pad(b[:-shift], (0, 0) * (b.ndim - 1) + (shift, 0))
        decay, shift = decay * decay, 2 * shift
    return b


def delayed(y):
    """y_{t-1}, with zero in front."""
    return F.pad(y[:-1], (0, 0) * (y.ndim - 1) + (1, 0))


def sweep(model, u, y):
    """One sweep of the post's iteration with the constant transition lambda: a linear RNN driven by the iterate before."""
    decay, before = torch.sigmoid(model.rate)[:, None], delayed(y)
    return constant_scan(decay, torch.tanh(before @ model.Q + u) @ model.P - decay * before)


def sweeps_of(model, u, count):
    """``count`` sweeps from y = 0."""
    y = torch.zeros_like(u)
    for _ in range(count):
        y = sweep(model, u, y)
    return y


# %%
class Stack(SweepRNN):
    """The rival: layers h + tanh(scan((1 - lambda) h) W1) W2 of their own weights, each one linear RNN and one small MLP."""

    def __init__(self, seeds, layers, d=32):
        super().__init__(seeds, d)
        init = nn.Init([seed + 1000 for seed in seeds])
        del self.P, self.Q, self.rate
        self.rates = torch.nn.Parameter(torch.logit(torch.linspace(0.5, 0.99, d)).expand(init.runs, layers, d).clone())
        self.w1, self.w2 = init.normal(layers, d, d, std=d**-0.5), init.normal(layers, d, d, std=d**-0.5)

    def states(self, u):
        for rate, w1, w2 in zip(self.rates.unbind(1), self.w1.unbind(1), self.w2.unbind(1), strict=True):
            decay = torch.sigmoid(rate)[:, None]
            u = u + torch.tanh(constant_scan(decay, (1 - decay) * u) @ w1) @ w2
        return u


ARMS = {
    **{f"N = {n}": (SweepRNN, lambda model, u, n=n: sweeps_of(model, u, n)) for n in (1, 2, 3, 5)},
    "serial": (SweepRNN, serial),
    "3 layers": (lambda seeds: Stack(seeds, 3), lambda model, u: model.states(u)),
}


# %% tags=["hide-input"]
def train_arm(name, device, rates, seeds, checkpoints, batch):
    """Train one arm for all rates and seeds at once; the stack of models, and validation and test accuracies (checkpoints, rates, seeds)."""
    kind, states = ARMS[name]
    grid = [(rate, seed) for rate in rates for seed in seeds]
    model = kind([seed for _, seed in grid]).to(device)
    (x, labels), *held_out = digit_sequences(device)
    generator = torch.Generator(device=device).manual_seed(5)

    def draw(step):
        at = torch.randint(len(labels), (batch,), generator=generator, device=device)
        return x[:, at], labels[at]

    def loss(inputs, targets):
        logits = model.readout(states(model, model.inputs(inputs))[-1])
        return nn.cross_entropy_per_run(logits, targets.expand(len(grid), -1))

    scores = []

    def watch(step, losses):
        if step + 1 in checkpoints:
            with torch.no_grad():
                right = [model.readout(states(model, model.inputs(xs))[-1]).argmax(-1) == ys for xs, ys in held_out]
            scores.append([r.float().mean(-1).view(len(rates), len(seeds)).tolist() for r in right])

    optimizer = optim.Clipped(1.0, optim.StackedAdam(list(model.parameters()), torch.tensor([rate for rate, _ in grid])))
    train.fit_graphed(loss, draw, optimizer, max(checkpoints), watch=watch)
    return model, [s[0] for s in scores], [s[1] for s in scores]


def sweep_networks(device, *, arms, rates, seeds, checkpoints, batch):
    """Accuracies of each arm: name -> validation and test, (checkpoints, rates, seeds) each."""
    torch.set_float32_matmul_precision("high")
    out = {}
    for name in arms:
        _, validation, test = train_arm(name, device, rates, seeds, checkpoints, batch)
        out[name] = {"validation": validation, "test": test}
    torch.set_float32_matmul_precision("highest")
    return out


# %% tags=["hide-input"]
def transient(device, *, seeds, rate, steps, batch):
    """Train the exact RNN, then run the same weights with N sweeps in float64: largest error of a logit over 50 test sequences, (seeds, N)."""
    model, _, test = train_arm("serial", device, [rate], seeds, [steps], batch)
    model = model.double()
    x = digit_sequences(device)[2][0][:, :50].double()
    with torch.no_grad():
        u, errors = model.inputs(x), []
        exact, y = model.readout(serial(model, u)[-1]), torch.zeros_like(u)
        for _ in range(len(u)):
            y = sweep(model, u, y)
            errors.append((model.readout(y[-1]) - exact).abs().amax((1, 2)))
    return {"errors": torch.stack(errors, 1), "accuracy": test[0][0], "largest_lambda": torch.sigmoid(model.rate).amax(1)}


# %% tags=["hide-input"]
def warm_starts(device, *, h, count, epochs, batch, rate, seed):
    """Train a GRU on the digits with parallel sweeps and scanned gradients in float64: sweeps from zero and from last epoch's states."""
    (x, labels), _, (x_test, y_test) = digit_sequences(device)
    x, labels, x_test = x[:, :count].double(), labels[:count], x_test.double()
    torch.manual_seed(seed)
    module, head = torch.nn.GRU(1, h).double().to(device), torch.nn.Linear(h, 10).double().to(device)
    weights = [*module.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, rate)
    kept, generator = torch.zeros(*x.shape[:2], h, dtype=torch.float64, device=device), torch.Generator().manual_seed(seed)
    out = {"cold": [], "warm": [], "gradient_error": [], "accuracy": []}
    for epoch in range(epochs):
        counts, worst = [], 0.0
        for at in torch.randperm(len(labels), generator=generator).to(device).split(batch):
            u = scan.from_module(module, x[:, at])
            cold = scan.solve(*(t.detach() if torch.is_tensor(t) else t for t in u))
            states, found = scan.rnn(*u, guess=kept[:, at] if epoch else None)
            loss = F.cross_entropy(head(states[-1]), labels[at])
            gradients = torch.autograd.grad(loss, weights)
            if not counts:
                plain = F.cross_entropy(head(scan.run_loop(*scan.from_module(module, x[:, at]))[-1]), labels[at])
                pairs = zip(gradients, torch.autograd.grad(plain, weights), strict=True)
                worst = max(float((g - p).abs().max() / p.abs().max()) for g, p in pairs)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            kept[:, at] = states.detach()
            counts.append((cold.sweeps, found.sweeps))
        with torch.no_grad():
            right = head(module(x_test)[0][-1]).argmax(-1) == y_test
        for name, value in zip(out, (*np.mean(counts, 0).tolist(), worst, float(right.double().mean())), strict=True):
            out[name].append(value)
    return out


# %%
e3 = nb.run(
    "E3",
    sweep_networks,
    arms=nb.at_scale(cpu=["N = 1", "N = 3"], gpu=list(ARMS), full=list(ARMS)),
    rates=nb.at_scale(cpu=[3e-3], gpu=[3e-3, 1e-2], full=[1e-3, 3e-3, 1e-2, 3e-2]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=list(range(5))),
    checkpoints=nb.at_scale(cpu=[60], gpu=[280], full=[280, 840]),
    batch=nb.at_scale(cpu=25, gpu=100, full=100),
)
e2 = nb.run(
    "E2",
    transient,
    seeds=[0, 1, 2],
    rate=3e-3,
    steps=nb.at_scale(cpu=60, gpu=280, full=280),
    batch=nb.at_scale(cpu=25, gpu=100, full=100),
)
e5 = nb.run(
    "E5",
    warm_starts,
    h=nb.at_scale(cpu=8, gpu=16, full=16),
    count=nb.at_scale(cpu=200, gpu=1200, full=1200),
    epochs=nb.at_scale(cpu=3, gpu=8, full=20),
    batch=100,
    rate=1e-2,
    seed=0,
)

# %%
E4_CELLS = [("gru", 1), ("gru", 4), ("gru", 16), ("gru", 64), ("tanh", 1), ("tanh", 16), ("tanh", 64)]
e4_cases = nb.at_scale(
    cpu=[("gru", 1, 200), ("gru", 4, 200), ("tanh", 4, 200), ("gru", 1, 2000)],
    gpu=[(c, h, t) for t in (1000, 10_000) for c in ("gru", "tanh") for h in (1, 4, 16)],
    full=[(c, h, t) for t in (1000, 10_000) for c, h in E4_CELLS]
    + [(c, h, t) for t in (100_000, 1_000_000) for c, h in E4_CELLS if h in (1, 16)]
    + [(c, h, 100_000) for c, h in E4_CELLS if h in (4, 64)],
)
e4 = nb.run(
    "E4",
    speed,
    cases=e4_cases,
    batch=nb.at_scale(cpu=2, gpu=16, full=16),
    limits={"loop": nb.at_scale(cpu=200, gpu=1000, full=1000), "loop, graph": 10_000, "newton, graph": 100_000, "float64": 10_000},
    most=[15.0, 10.0],
    budget=nb.at_scale(cpu=20.0, gpu=120.0, full=108.0),
)
e8 = nb.run(
    "E8",
    stress,
    cells=["gru", "tanh"],
    gains=nb.at_scale(cpu=[1.0, 2.0], gpu=[0.5, 1.0, 2.0, 3.0], full=[0.5, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0]),
    h=nb.at_scale(cpu=4, gpu=16, full=16),
    steps=nb.at_scale(cpu=256, gpu=5000, full=10_000),
    batch=nb.at_scale(cpu=2, gpu=16, full=16),
    limit=200,
)
e7 = nb.run(
    "E7",
    scans,
    lengths=nb.at_scale(cpu=[100, 1000], gpu=[1000, 100_000], full=[1000, 10_000, 100_000, 1_000_000]),
    channels=nb.at_scale(cpu=4, gpu=64, full=64),
    dense=nb.at_scale(cpu=3, gpu=8, full=8),
    blocks=nb.at_scale(cpu=[4], gpu=[4, 8, 16], full=[4, 8, 16, 32]),
    compiled=nb.at_scale(cpu=False, gpu=False, full=True),
)
