"""Training: a step of a transformer, a mixture-of-experts layer, and a grid of small models as one stack."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.paired import Case, Row, Work
from kexue_nb import moe, nn, optim, train

Gradients = Callable[[], Mapping[str, Tensor]]


def apart(a: Tensor, b: Tensor) -> float:
    """|a - b| / |a| in float32 where the tensors are, without a copy to the host."""
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).norm() / a.norm().clamp(min=1e-30))


# A step of a transformer


class Encoder(torch.nn.Module):
    """A causal language model of torch.nn's layers, before the norm and without biases: ids (B, T) -> logits (B, T, vocabulary)."""

    def __init__(self, *, vocabulary: int, context: int, d: int, depth: int, heads: int):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(
            d, heads, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        )
        self.tokens, self.positions = torch.nn.Embedding(vocabulary, d), torch.nn.Embedding(context, d)
        self.encoder = torch.nn.TransformerEncoder(layer, depth, torch.nn.LayerNorm(d, bias=False), enable_nested_tensor=False)
        self.head = torch.nn.Linear(d, vocabulary, bias=False)
        self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(context))
        for p in self.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=d**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.tokens(ids) + self.positions.weight, mask=self.mask, is_causal=True))


def as_stack(encoder: Encoder, read: Callable[[torch.nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """``read`` of each parameter, under the name and in the layout that it has in a kexue_nb.nn.Transformer of one run."""
    layers = encoder.encoder.layers
    projections = zip(*(read(layer.self_attn.in_proj_weight).mT.chunk(3, dim=-1) for layer in layers), strict=True)
    lists = dict(zip(("wq", "wk", "wv"), projections, strict=True)) | {
        "wo": [read(layer.self_attn.out_proj.weight).mT for layer in layers],
        "w1": [read(layer.linear1.weight).mT for layer in layers],
        "w2": [read(layer.linear2.weight).mT for layer in layers],
        "gains": [read(norm.weight) for layer in layers for norm in (layer.norm1, layer.norm2)],
    }
    single = {
        "final_gain": read(encoder.encoder.norm.weight),
        "tokens.weight": read(encoder.tokens.weight),
        "positions.weight": read(encoder.positions.weight),
        "head.weight": read(encoder.head.weight).mT,
    }
    return {name: torch.stack(list(tensors))[None] for name, tensors in lists.items()} | {name: t[None] for name, t in single.items()}


def like(encoder: Encoder, **shape) -> nn.Transformer:
    """Our transformer with the weights of ``encoder``: the same function."""
    model = nn.Transformer(nn.Init([0]), **shape, norm="layer")
    values = as_stack(encoder, lambda p: p.detach())
    model.load_state_dict(values)
    return model


def model_operations(model: nn.Transformer, tokens: int, context: int) -> float:
    """Model FLOPs of a training step, of all runs: 6 for each weight that multiplies and each token, and those of causal attention.

    An embedding is looked up and does not count. Attention multiplies each query with (context + 1)/2 keys and values on average, forward
    and twice that backward.
    """
    runs, depth, d = model.wq.shape[:3]
    weights = sum(p.numel() for p in (model.wq, model.wk, model.wv, model.wo, model.w1, model.w2, model.head.weight))
    return 6 * tokens * (weights + runs * depth * d * (context + 1))


def training_step(model: torch.nn.Module, loss: Callable[[], Tensor], gradients: Gradients) -> Work:
    """Forward, backward and fused AdamW; the answer is the loss, and how to read the gradients of the last call."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> tuple[Tensor, Gradients]:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach(), gradients

    return step


def our_step(model: nn.Transformer, ids: Tensor, precision: torch.dtype, compiled: bool = False) -> Work:
    """A step of our transformer of one run, activations in ``precision``."""
    inputs, targets = (t[None].contiguous() for t in (ids[:, :-1], ids[:, 1:]))

    def loss() -> Tensor:
        return nn.cross_entropy_per_run(model(inputs, precision), targets).sum()

    return training_step(
        model, torch.compile(loss, dynamic=False) if compiled else loss, lambda: {name: p.grad for name, p in model.named_parameters()}
    )


def torch_step(model: Encoder, ids: Tensor, precision: torch.dtype, compiled: bool = False) -> Work:
    """A step of torch's layers, under autocast where ``precision`` is not float32."""
    inputs, targets = (t.contiguous() for t in (ids[:, :-1], ids[:, 1:]))

    def loss() -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return training_step(model, torch.compile(loss, dynamic=False) if compiled else loss, lambda: as_stack(model, lambda p: p.grad))


def step_distance(ours: tuple[Tensor, Gradients], theirs: tuple[Tensor, Gradients]) -> float:
    """The largest relative distance of the losses and of the gradients of each parameter."""
    theirs_by_name = theirs[1]()
    return max(apart(ours[0], theirs[0]), *(apart(g, theirs_by_name[name]) for name, g in ours[1]().items()))


def transformer_case(d: int, batch: int, device: torch.device, precision: torch.dtype, compiled: bool, **shape) -> Case:
    """Equal weights and tokens for every entry; where ``compiled``, a copy of each model is also run compiled, its loss included.

    The bytes are those of weights and Adam's state, read and written once.
    """
    torch.manual_seed(d)
    shape = {"d": d, **shape}
    encoder = Encoder(**shape).to(device)
    model = like(encoder, **shape).to(device)
    ids = torch.randint(shape["vocabulary"], (batch, shape["context"] + 1), generator=torch.Generator().manual_seed(1)).to(device)
    ours, peers = our_step(model, ids, precision), {"torch.nn.TransformerEncoder": torch_step(encoder, ids, precision)}
    if compiled:
        torch.compiler.reset()
        peers["torch.nn.TransformerEncoder, compiled"] = torch_step(copy.deepcopy(encoder), ids, precision, compiled=True)
        peers["ours, compiled"] = our_step(copy.deepcopy(model), ids, precision, compiled=True)
    count = sum(p.numel() for p in model.parameters())
    return Case(
        count,
        ours,
        peers,
        operations=model_operations(model, batch * shape["context"], shape["context"]),
        moved=6 * 4 * count,
        precision="bfloat16" if device.type == "cuda" else "float32",
        distance=step_distance,
        label=f"width {d}, {count / 1e6:.3g} million parameters, {batch * shape['context']} tokens",
    )


def transformer_steps(device: torch.device) -> Iterator[Case]:
    """Four layers in bfloat16 on a GPU, also compiled; two layers in float32 on a CPU."""
    if device.type == "cuda":
        for d in (512, 1024, 2048):
            yield transformer_case(d, 16, device, torch.bfloat16, True, vocabulary=4096, context=1024, depth=4, heads=d // 64)
    else:
        for d in (64, 128, 256):
            yield transformer_case(d, 4, device, torch.float32, False, vocabulary=256, context=128, depth=2, heads=d // 32)


# A mixture-of-experts layer


def expert_loop(layer: moe.MoE, x: Tensor) -> Tensor:
    """The layer of one run as it is defined, one expert after the other on the tokens that chose it: x (1, T, d) -> (1, T, d)."""
    tokens = x[0]
    rho, chosen = (tokens.float() @ layer.wr[0].float()).softmax(-1).topk(layer.k)
    y = torch.zeros_like(tokens)
    for i, (wa, wb) in enumerate(zip(layer.wa[0].unbind(), layer.wb[0].unbind(), strict=True)):
        token, place = torch.where(chosen == i)
        e = F.gelu(tokens.index_select(0, token) @ wa) @ wb
        y.index_add_(0, token, rho[token, place, None].to(e.dtype) * e)
    return (layer.gain[:, None, None] * y).to(x.dtype)


def moe_case(tokens: int, d: int, width: int, experts: int, k: int, device: torch.device, precision: torch.dtype) -> Case:
    """Weights, input and gradient of the output in ``precision``. The dense layer has k times the width of an expert.

    Fewest operations: the chosen experts' products and the router's, three times each (forward, and both gradients). Fewest bytes: input,
    output and their gradients, the weights and their gradients, each once.
    """
    generator = torch.Generator(device).manual_seed(tokens)
    x, upstream = (torch.randn(1, tokens, d, generator=generator, device=device).to(precision) for _ in range(2))
    x.requires_grad_()
    layer = moe.MoE(nn.Init([0]), d, width, experts, k=k).to(device, precision)
    torch.manual_seed(0)
    feed_forward = torch.nn.Sequential(
        torch.nn.Linear(d, k * width, bias=False), torch.nn.GELU(), torch.nn.Linear(k * width, d, bias=False)
    ).to(device, precision)
    weights = [layer.wa, layer.wb, layer.wr]

    def both_ways(forward: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> list[Tensor]:
        y = forward(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *parameters], upstream)]

    def dense() -> Tensor:
        return both_ways(feed_forward, list(feed_forward.parameters()))[0]

    def distance(ours: list[Tensor], theirs: list[Tensor] | Tensor) -> float:
        """Output and gradients against the loop; only the shape of the output against the dense layer, which is another function."""
        if isinstance(theirs, Tensor):
            return 0.0 if ours[0].shape == theirs.shape else float("inf")
        return max(apart(a, b) for a, b in zip(ours, theirs, strict=True))

    size = x.element_size()
    return Case(
        tokens,
        lambda: both_ways(layer, weights),
        {"loop over experts": lambda: both_ways(lambda x: expert_loop(layer, x), weights), "dense layer (another function)": dense},
        operations=6 * tokens * (2 * k * d * width + d * experts),
        moved=size * (4 * tokens * d + 2 * sum(w.numel() for w in weights)),
        precision="bfloat16" if device.type == "cuda" else "float32",
        distance=distance,
    )


def moe_layers(device: torch.device) -> Iterator[Case]:
    """8 of 64 experts in bfloat16 on a GPU, 2 of 16 in float32 on a CPU."""
    if device.type == "cuda":
        for tokens in (4096, 16384, 65536):
            yield moe_case(tokens, 2048, 1024, 64, 8, device, torch.bfloat16)
    else:
        for tokens in (256, 1024, 4096):
            yield moe_case(tokens, 128, 128, 16, 2, device, torch.float32)


# A grid of small models

SMALL = {"vocabulary": 64, "context": 32, "d": 32, "depth": 2, "heads": 2}
STEPS, SEQUENCES = 5, 4


def grid_case(runs: int, device: torch.device) -> Case:
    """Attention scales and learning rates on a grid, ``STEPS`` steps a call on the same tokens; the answer is the last losses.

    Both go on training from call to call. The operations are the model FLOPs, the bytes those of weights and Adam's state, in and out once.
    """
    scales, rates = torch.linspace(0.5, 4, runs), torch.logspace(-3, -2, runs)
    shape = (STEPS, 1, SEQUENCES, SMALL["context"] + 1)
    ids = torch.randint(SMALL["vocabulary"], shape, generator=torch.Generator().manual_seed(1)).to(device)

    def made(scale: Tensor) -> nn.Transformer:
        return nn.Transformer(nn.Init([0] * len(scale)), **SMALL, scale=scale).to(device)

    def losses(model: nn.Transformer, step: int) -> Tensor:
        batch = ids[step].expand(len(model.wq), -1, -1)
        return nn.cross_entropy_per_run(model(batch[..., :-1]), batch[..., 1:])

    stack = made(scales)
    together = optim.StackedAdam(stack.parameters(), rates)
    models = [made(scale[None]) for scale in scales]
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
        for model, rate in zip(models, rates.tolist(), strict=True)
    ]

    def ours() -> Tensor:
        return train.fit(lambda step: losses(stack, step), together, STEPS)

    def one_after_another() -> Tensor:
        last = []
        for model, optimizer in zip(models, optimizers, strict=True):
            for step in range(STEPS):
                optimizer.zero_grad(set_to_none=True)
                loss = losses(model, step)
                loss.sum().backward()
                optimizer.step()
            last.append(loss.detach())
        return torch.cat(last)

    return Case(
        runs,
        ours,
        {"one after another, fused AdamW": one_after_another},
        operations=STEPS * model_operations(stack, SEQUENCES * SMALL["context"], SMALL["context"]),
        moved=6 * 4 * sum(p.numel() for p in stack.parameters()),
    )


def grids(device: torch.device) -> Iterator[Case]:
    """2 to 32 runs on a GPU, 2 to 8 on a CPU."""
    for runs in (2, 8, 32) if device.type == "cuda" else (2, 4, 8):
        yield grid_case(runs, device)


ROWS = [
    Row(
        "transformer-step",
        "A training step of a transformer",
        "parameters",
        0.05,
        transformer_steps,
        "The share of the bound is the model-FLOPs utilisation. The same products bound all entries; they differ in "
        "what stands between them. In bfloat16 ours keeps the residual stream in bfloat16, where autocast leaves torch's in float32; torch "
        "multiplies by queries, keys and values at once, where ours takes three products and a separate one for each "
        "norm's gain. Compilation fuses norms, activations, casts and the loss, which counts the less "
        "the wider the model. Checked are the loss and the gradient of every parameter, so the tolerance is that of bfloat16.",
    ),
    Row(
        "moe-layer",
        "A mixture-of-experts layer, forward and backward",
        "tokens",
        0.02,
        moe_layers,
        "Ours sorts the chosen pairs by expert once and has one grouped product for all experts (one product an expert on a CPU); the loop "
        "gathers and scatters expert by expert and asks the device each time how many tokens there are. The dense layer spends the same "
        "operations on k experts' width, without router, gather or scatter and with fewer weights to read; its lead is the price of "
        "sparsity. It is another function, so that only the shape of its output is compared.",
    ),
    Row(
        "stacked-training",
        f"A grid of small transformers, {STEPS} training steps of each",
        "runs",
        1e-4,
        grids,
        "A stack does the arithmetic of all runs in as many kernels as one run has, and a small kernel costs its launch; one after another "
        "pays for the launches once a run, though its fused AdamW has fewer of them than ours. Wider models fill the device by themselves, "
        "and the gain goes. Neither side is replayed as a CUDA graph (kexue_nb.train.fit_graphed), which saves launches on both.",
    ),
]
