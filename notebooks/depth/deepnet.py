# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is really hard about training a 1,000-layer Transformer?
#
# [训练1000层的Transformer究竟有什么困难?](https://kexue.fm/archives/8978) · 2022-03-09 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/depth/deepnet.ipynb)
#
# **The point.**

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import gc
import math

import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, metrics, nn, optim, train
from kexue_nb import symbolic as sym

# %%
nb = kexue_nb.notebook("deepnet")

# %%
R, theta, phi = sp.symbols("R theta phi", positive=True)
polar = sp.Integral(R**3 * sp.exp(-(R**2) / 2), (R, 0, sp.oo)) * sp.Integral(
    sp.cos(theta) * sp.cos(theta - phi), (theta, phi - sp.pi / 2, sp.pi / 2)
)
nb.derivation("D11", "kernel", sym.identity("kernel", polar / sp.pi, (sp.sin(phi) + (sp.pi - phi) * sp.cos(phi)) / sp.pi))


# %%
def relu_kernel(rho):
    """E relu(u) relu(v) over E relu(u)^2 for standard normals u, v with correlation rho."""
    return ((1 - rho**2).sqrt() + (math.pi - rho.acos()) * rho) / math.pi


def correlation(K):
    """A Gram matrix (..., n, n) with its diagonal scaled to 1."""
    size = K.diagonal(dim1=-2, dim2=-1).sqrt()
    return (K / (size[..., None] * size[..., None, :])).clamp(-1, 1)


def mean_field(K, averaging, alpha, gain, depth, r, pre=False):
    """Token correlations (..., n, n) after the embedding, K, and after each sublayer, Post-LN or Pre-LN, for attention weights (n, n)."""
    c = 2 * r / (1 + r) ** 2
    yield K
    for _ in range(depth):
        for branch in (lambda C: averaging @ C @ averaging.mT, lambda C: c * relu_kernel(C)):
            K = alpha**2 * K + gain**4 * branch(correlation(K))
            K = K if pre else correlation(K)
            yield correlation(K)


# %% [markdown]
# ## The experiments
#
# All models below are decoders for characters of Shakespeare: ReLU feed-forward layers, no biases, LayerNorm without parameters, a norm after the embedding.

# %%
corpus, alphabet = data.encode_characters(data.shakespeare())


def scheme(name, N):
    """alpha (on the skip) and lambda (gain of v, o, W1, W2) for N layers, that is S = 2N sublayers; 'Pre-LN b' has lambda = S^b."""
    S = 2 * N
    if name.startswith("Pre-LN"):
        return 1.0, S ** float(name.removeprefix("Pre-LN") or 0)
    return {
        "Post-LN": (1.0, 1.0),
        "DeepNorm": (S**0.25, (4 * S) ** -0.25),
        "Adam rule": (S**0.5, S**-0.5),
        "LAMB rule": (1.0, S**-0.5),
        "alternative 2": (S**0.5, 1.0),
    }[name]


# %%
def decoder(names, seeds, N, shape):
    """A stack of decoders with N layers, a run for each name and seed; names are all Post-LN schemes or all Pre-LN."""
    pairs = torch.tensor([scheme(name, N) for name in names]).repeat_interleave(len(seeds), 0)
    return nn.Transformer(
        nn.Init(list(seeds) * len(names)),
        vocabulary=len(alphabet),
        depth=N,
        placement="pre" if names[0].startswith("Pre-LN") else "post",
        skip=pairs[:, 0],
        gain=pairs[:, 1],
        norm="layer",
        affine=False,
        activation="relu",
        spread="xavier",
        embedding_norm=True,
        position_std=0.5,
        **shape,
    )


def text_batches(device, seeds, arms, batch, context):
    """A function that draws the next (x, y), each (arms * seeds, batch, context): all arms read the same text."""
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]

    def draw(step):
        drawn = [data.windows(corpus, batch, context, g) for g in generators]
        return tuple(torch.stack(t).repeat(arms, 1, 1).to(device) for t in zip(*drawn, strict=True))

    return draw


# %% [markdown]
# ## E1: the exponents


# %%
def first_order(W, G):
    """Minus the first-order change of the loss per unit of learning rate, for matrices W with gradients G, (..., m, n) -> (...)."""
    wide = (G if G.shape[-2] <= G.shape[-1] else G.mT).double()
    one_norm = G.abs().sum((-2, -1))
    return {
        "SGD": G.square().sum((-2, -1)),
        "Adam": one_norm,
        "LAMB": torch.linalg.matrix_norm(W) * one_norm,
        "Muon": torch.linalg.eigvalsh(wide @ wide.mT).clamp_min(0).sqrt().sum(-1),
    }


def first_step(device, *, schemes, depths, seeds, shape, batch):
    """The four first-order terms summed over v, o, W1, W2, and the squared gradient of q and k: (schemes, seeds) each, for each depth."""
    x, y = text_batches(device, seeds, len(schemes), batch, shape["context"])(0)
    result = {}
    for N in depths:
        model = decoder(schemes, seeds, N, shape).to(device)
        nn.cross_entropy_per_run(model(x), y).sum().backward()
        terms = [first_order(W.detach(), W.grad) for W in (model.wv, model.wo, model.w1, model.w2)]
        row = {name: sum(term[name].sum(1) for term in terms) for name in terms[0]}
        row["qk"] = sum(W.grad.square().sum((1, 2, 3)) for W in (model.wq, model.wk))
        result[str(N)] = {name: values.view(len(schemes), len(seeds)) for name, values in row.items()}
    return result


# %%
post_schemes = ["Post-LN", "DeepNorm", "Adam rule", "LAMB rule", "alternative 2"]
pre_schemes = ["Pre-LN", "Pre-LN -0.125", "Pre-LN -0.25", "Pre-LN -0.375", "Pre-LN -0.5"]
small = {"d": 32, "heads": 2, "width": 64, "context": 32}
e1_depths = nb.at_scale(cpu=[4, 8, 16, 32], gpu=[8, 16, 32, 64, 128], full=[8, 16, 32, 64, 128, 256])
e1_seeds = nb.at_scale(cpu=[0, 1, 2], gpu=list(range(8)), full=list(range(16)))
e1 = nb.run("E1", first_step, schemes=post_schemes, depths=e1_depths, seeds=e1_seeds, shape=small, batch=8)
e1b = nb.run("E1b", first_step, schemes=pre_schemes, depths=e1_depths, seeds=e1_seeds, shape=small, batch=8)

# %% [markdown]
# ## E2: layer by layer


# %%
def difference(x):
    """1 - mean cosine of two tokens of a sequence: x (..., n, d) -> (...)."""
    u = F.normalize(x, dim=-1)
    return (u - u.mean(-2, keepdim=True)).square().sum((-2, -1)) / (x.shape[-2] - 1)


def layer_picture(device, *, schemes, depth, seeds, shape, batch):
    """For each scheme, means over the batch: W2's gradient norm by layer, and by sublayer 1 - mean token cosine, cosine with the start, theory."""
    x, y = text_batches(device, seeds, 1, batch, shape["context"])(0)
    averaging = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.float64, device=device).tril()
    averaging = averaging / averaging.sum(1, keepdim=True)
    result = {}
    for name in schemes:
        model = decoder([name], seeds, depth, shape).to(device)
        nn.cross_entropy_per_run(model(x), y).sum().backward()
        with torch.no_grad():
            states = list(model.states(x))
        unit = F.normalize(states[0].double(), dim=-1)
        theory = mean_field(unit @ unit.mT, averaging, *scheme(name, depth), depth, shape["width"] / shape["d"], name.startswith("Pre-LN"))
        off_diagonal = x.shape[-1] * (x.shape[-1] - 1)
        result[name] = {
            "gradient": model.w2.grad.square().sum((2, 3)).sqrt(),
            "difference": torch.stack([difference(s).mean(1) for s in states], 1),
            "kept": torch.stack([F.cosine_similarity(states[0], s, dim=-1).mean((1, 2)) for s in states], 1),
            "theory": torch.stack([((1 - K).sum((-2, -1)) / off_diagonal).mean(1) for K in theory], 1),
        }
    return result


# %%
wide = {"d": nb.at_scale(cpu=64, gpu=128, full=256), "heads": 4, "width": nb.at_scale(cpu=128, gpu=256, full=512), "context": 32}
e2 = nb.run(
    "E2",
    layer_picture,
    schemes=nb.at_scale(cpu=["Post-LN", "DeepNorm", "Pre-LN"], gpu=[*post_schemes, "Pre-LN"], full=[*post_schemes, "Pre-LN"]),
    depth=nb.at_scale(cpu=32, gpu=64, full=64),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=[0, 1, 2, 3]),
    shape=wide,
    batch=nb.at_scale(cpu=4, gpu=8, full=8),
)

# %% [markdown]
# ## E3: encoder and decoder


# %%
def constants(name, N, M):
    """alpha and lambda of the encoder (N layers), then of the decoder (M layers)."""
    depth = N**4 * M
    return {
        "Post-LN": (1.0, 1.0, 1.0, 1.0),
        "DeepNet": (27 ** (-1 / 16) * depth ** (1 / 16), 27 ** (1 / 16) / 2**0.5 * depth ** (-1 / 16), (3 * M) ** 0.25, (12 * M) ** -0.25),
        "encoder-only constants": (*scheme("DeepNorm", N), *scheme("DeepNorm", M)),
    }[name]


def attend(x, memory, wq, wk, wv, wo, heads, causal=False):
    """Multi-head attention of x (R, B, T, d) to memory (R, B, T', d)."""
    q, k, v = ((t @ w[:, None]).unflatten(-1, (heads, -1)).transpose(2, 3) for t, w in ((x, wq), (memory, wk), (memory, wv)))
    y = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), is_causal=causal)
    return y.transpose(1, 2).reshape(x.shape) @ wo[:, None]


# %%
def encode_decode(weights, x, y, alpha_e, alpha_d, heads):
    """Last decoder state (R, B, T, d) of a Post-LN encoder-decoder for embedded source x and target y; matrices (R, depth, d_in, d_out)."""
    norm = lambda z: F.layer_norm(z, z.shape[-1:])
    feed_forward = lambda z, w1, w2: F.relu(z @ w1[:, None]) @ w2[:, None]
    layers = lambda side: zip(*(w.unbind(1) for w in weights[side]), strict=True)
    for w in layers("encoder"):
        x = norm(alpha_e * x + attend(x, x, *w[:4], heads))
        x = norm(alpha_e * x + feed_forward(x, *w[4:]))
    for w in layers("decoder"):
        y = norm(alpha_d * y + attend(y, y, *w[:4], heads, causal=True))
        y = norm(alpha_d * y + attend(y, x, *w[4:8], heads))
        y = norm(alpha_d * y + feed_forward(y, *w[8:]))
    return y


def draw_matrices(init, depth, roles, gain, d, width, device):
    """Xavier-normal matrices (R, depth, d_in, d_out) for the roles q k v o 1 2, those other than q and k times the gain of their run."""
    sizes = {"1": (d, width), "2": (width, d)}
    drawn = [init.normal(depth, *sizes.get(role, (d, d)), std=math.sqrt(2 / sum(sizes.get(role, (d, d))))).detach() for role in roles]
    scaled = [w if role in "qk" else w * gain.view(-1, 1, 1, 1) for role, w in zip(roles, drawn, strict=True)]
    return [torch.nn.Parameter(w.to(device)) for w in scaled]


# %%
def encoder_decoder(device, *, schemes, depths, seeds, rate, d, width, heads, vocabulary, length, batch):
    """For N = M layers: the RMS change of the output under one SGD step, and the squared gradients of the branch matrices of each side."""
    init, result, roles = nn.Init(list(seeds) * len(schemes)), {}, {"encoder": "qkvo12", "decoder": "qkvoqkvo12"}
    source, target, answer = torch.stack(
        [torch.randint(vocabulary, (3, batch, length), generator=torch.Generator().manual_seed(seed)) for seed in init.seeds], 1
    ).to(device)
    fixed = [
        init.normal(vocabulary, d),
        init.normal(vocabulary, d),
        init.normal(d, vocabulary, std=d**-0.5),
        init.normal(1, length, d, std=0.5),
    ]
    source_table, target_table, head, places = (t.detach().to(device) for t in fixed)
    runs = torch.arange(init.runs, device=device).view(-1, 1, 1)
    x, y = (F.layer_norm(table[runs, ids] + places, (d,)) for table, ids in ((source_table, source), (target_table, target)))
    for N in depths:
        alpha_e, gain_e, alpha_d, gain_d = torch.tensor([constants(s, N, N) for s in schemes]).repeat_interleave(len(seeds), 0).unbind(1)
        gains, alphas = {"encoder": gain_e, "decoder": gain_d}, [a.view(-1, 1, 1, 1).to(device) for a in (alpha_e, alpha_d)]
        weights = {side: draw_matrices(init, N, roles[side], gains[side], d, width, device) for side in roles}
        before = encode_decode(weights, x, y, *alphas, heads)
        nn.cross_entropy_per_run(before @ head[:, None], answer).sum().backward()
        row = {
            s: sum(w.grad.square().sum((1, 2, 3)) for w, role in zip(weights[s], roles[s], strict=True) if role not in "qk") for s in roles
        }
        optim.StackedSGD([*weights["encoder"], *weights["decoder"]], torch.full((init.runs,), rate)).step()
        with torch.no_grad():
            row["moved"] = metrics.rms((encode_decode(weights, x, y, *alphas, heads) - before).flatten(1))
        result[str(N)] = {name: values.view(len(schemes), len(seeds)) for name, values in row.items()}
    return result


# %%
e3 = nb.run(
    "E3",
    encoder_decoder,
    schemes=["Post-LN", "DeepNet", "encoder-only constants"],
    depths=nb.at_scale(cpu=[4, 8, 16], gpu=[4, 8, 16, 32, 64], full=[4, 8, 16, 32, 64, 128]),
    seeds=nb.at_scale(cpu=[0, 1], gpu=[0, 1, 2, 3], full=list(range(8))),
    rate=0.1,
    **{"d": 64, "width": 128, "heads": 2, "vocabulary": 64, "length": 16, "batch": 8},
)

# %% [markdown]
# ## E4: training


# %%
def train_stack(device, arms, seeds, depth, shape, batch, steps):
    """Losses (steps, arms, seeds) of one stack of decoders under Adam; an arm is [scheme, learning rate, steps of linear warm-up]."""
    names, rates, warmup = zip(*arms, strict=True)
    model = decoder(names, seeds, depth, shape).to(device)
    per_run = lambda values: torch.tensor(values, dtype=torch.float32).repeat_interleave(len(seeds)).to(device)
    rise, history = per_run(warmup), []
    train.fit_graphed(
        lambda x, y: nn.cross_entropy_per_run(model(x), y),
        text_batches(device, seeds, len(arms), batch, shape["context"]),
        optim.StackedAdam(model.parameters(), per_run(rates), betas=(0.9, 0.98)),
        steps,
        schedule=lambda step, steps: ((step + 1) / rise).clamp(max=1),
        watch=lambda step, losses: history.append(losses),
    )
    return torch.stack(history).view(steps, len(arms), len(seeds)).cpu()


def train_decoders(device, arms, seeds, *, every, stack, steps, **common):
    """Mean loss over each ``every`` steps, (arms, seeds, steps / every); at most ``stack`` arms at once, Pre-LN in stacks of their own."""
    curves = {}
    for pre in (False, True):
        mine = [i for i, arm in enumerate(arms) if arm[0].startswith("Pre-LN") == pre]
        for part in (mine[i : i + stack] for i in range(0, len(mine), stack)):
            losses = train_stack(device, [arms[i] for i in part], seeds, steps=steps, **common).nan_to_num(99.0).clamp(max=99.0)
            curves |= dict(zip(part, losses.view(steps // every, every, len(part), len(seeds)).mean(1).permute(1, 2, 0), strict=True))
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
    return torch.stack([curves[i] for i in range(len(arms))])


# %%
def tuned_decoders(device, *, arms, rates, tuning_seed, seeds, stack, **common):
    """Each arm [label, scheme, warm-up] at every learning rate on one seed, then the best rate of each arm on fresh seeds."""
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it: twice as fast here
    grid = [[name, rate, warmup] for _, name, warmup in arms for rate in rates]
    tuning = torch.zeros(len(arms), 1, 2)
    if len(rates) > 1:
        tuning = train_decoders(device, grid, [tuning_seed], stack=stack, **common).view(len(arms), len(rates), -1)
    best = [rates[i] for i in tuning[:, :, -2:].mean(2).argmin(1).tolist()]
    final = [[name, rate, warmup] for (_, name, warmup), rate in zip(arms, best, strict=True)]
    loss = train_decoders(device, final, seeds, stack=max(1, stack // len(seeds)), **common)
    return {"tuning": tuning, "best rate": best, "loss": loss}


# %%
arms = lambda long, short: [
    ["Post-LN", "Post-LN", short],
    ["Post-LN, long warm-up", "Post-LN", long],
    ["DeepNorm", "DeepNorm", short],
    ["Adam rule", "Adam rule", short],
    ["LAMB rule", "LAMB rule", short],
    ["Pre-LN", "Pre-LN", short],
    ["Pre-LN, small λ", "Pre-LN -0.5", short],
]
medium = {"d": 64, "heads": 4, "width": 128, "context": 64}
e4 = nb.run(
    "E4",
    tuned_decoders,
    arms=nb.at_scale(
        cpu=[["Post-LN", "Post-LN", 15], ["DeepNorm", "DeepNorm", 15], ["Pre-LN", "Pre-LN", 15]], gpu=arms(200, 40), full=arms(600, 60)
    ),
    rates=nb.at_scale(cpu=[3e-3], gpu=[1e-3, 3e-3], full=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
    tuning_seed=0,
    seeds=nb.at_scale(cpu=[1], gpu=[1, 2], full=[1, 2, 3, 4]),
    depth=nb.at_scale(cpu=24, gpu=24, full=50),
    shape=nb.at_scale(cpu=small, gpu=medium, full=medium),
    batch=16,
    steps=nb.at_scale(cpu=60, gpu=200, full=600),
    every=nb.at_scale(cpu=5, gpu=10, full=10),
    stack=nb.at_scale(cpu=8, gpu=16, full=32),
)

# %% [markdown]
# ## E5: 1,000 layers

# %%
e5 = nb.run(
    "E5",
    tuned_decoders,
    arms=nb.at_scale(cpu=[["Post-LN", "Post-LN", 8], ["DeepNorm", "DeepNorm", 8]], gpu=arms(100, 20), full=arms(200, 40)),
    rates=nb.at_scale(cpu=[5e-3], gpu=[1e-3], full=[2e-4, 6e-4, 2e-3, 6e-3]),
    tuning_seed=0,
    seeds=nb.at_scale(cpu=[1], gpu=[1], full=[1, 2, 3]),
    depth=nb.at_scale(cpu=100, gpu=200, full=1000),
    shape=nb.at_scale(cpu={"d": 32, "heads": 2, "width": 64, "context": 16}, gpu=medium, full=medium),
    batch=nb.at_scale(cpu=8, gpu=16, full=16),
    steps=nb.at_scale(cpu=40, gpu=100, full=200),
    every=nb.at_scale(cpu=5, gpu=10, full=10),
    stack=nb.at_scale(cpu=8, gpu=8, full=15),
)

# %% [markdown]
# ## E6: several steps


# %%
def finite_steps(device, *, schemes, depths, seeds, rates, steps, shape, batch):
    """RMS change of the last hidden state on a probe batch after each step of training the matrices: (schemes, seeds, steps) each."""
    result = {}
    for name, rate in rates.items():
        for N in depths:
            model, draw = decoder(schemes, seeds, N, shape).to(device), text_batches(device, seeds, len(schemes), batch, shape["context"])
            (probe, _), optimizer = (
                draw(0),
                {"SGD": optim.StackedSGD, "Adam": optim.StackedAdam}[name](
                    [model.wq, model.wk, model.wv, model.wo, model.w1, model.w2], torch.full((len(schemes) * len(seeds),), rate)
                ),
            )
            last = lambda model=model, probe=probe: {"F": list(model.states(probe))[-1]}

            def step(t, model=model, draw=draw, optimizer=optimizer):
                x, y = draw(t)
                optimizer.zero_grad()
                nn.cross_entropy_per_run(model(x), y).sum().backward()
                optimizer.step()

            moved = train.coordinate_check(last, step, steps[name])["F"]
            result[f"{name}, N = {N}"] = moved.T.reshape(len(schemes), len(seeds), -1)
    return result


# %%
e6 = nb.run(
    "E6",
    finite_steps,
    schemes=nb.at_scale(cpu=post_schemes[:4], gpu=post_schemes, full=post_schemes),
    depths=nb.at_scale(cpu=[6, 12, 24], gpu=[6, 12, 24, 48, 96], full=[6, 12, 24, 48, 96, 192]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=list(range(8))),
    rates={"SGD": 0.1, "Adam": 1e-3},
    steps=nb.at_scale(cpu={"SGD": 1, "Adam": 1}, gpu={"SGD": 1, "Adam": 20}, full={"SGD": 10, "Adam": 20}),
    shape=small,
    batch=8,
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
