"""Building blocks, stacked: every parameter leads with an axis of runs, so that a grid of models trains in one pass.

A stack of one run is an ordinary model. Shapes: R runs, B sequences, T positions, H heads, d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Init:
    """Draws the initial values of a stack: run r from ``seeds[r]``, so that runs of one seed start out equal."""

    def __init__(self, seeds: Sequence[int]):
        if not len(seeds):
            raise ValueError("seeds is empty; give one seed for each run")
        self.seeds = list(seeds)
        self._generators = {seed: torch.Generator().manual_seed(seed) for seed in self.seeds}

    @property
    def runs(self) -> int:
        """How many runs the stack has."""
        return len(self.seeds)

    def normal(self, *shape: int, std: float = 1.0) -> nn.Parameter:
        """A parameter (R, *shape) with entries N(0, std^2)."""
        draws = {seed: torch.randn(shape, generator=g) * std for seed, g in self._generators.items()}
        return nn.Parameter(torch.stack([draws[seed] for seed in self.seeds]))


class Linear(nn.Module):
    """x (R, ..., d_in) -> (R, ..., d_out), without bias; entries N(0, 1/d_in)."""

    def __init__(self, init: Init, d_in: int, d_out: int):
        super().__init__()
        self.weight = init.normal(d_in, d_out, std=1 / math.sqrt(d_in))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        return torch.bmm(rows, self.weight.to(x.dtype)).view(*x.shape[:-1], -1)


class Embedding(nn.Module):
    """Token ids (R, B, T) -> vectors (R, B, T, d); entries N(0, std^2)."""

    def __init__(self, init: Init, count: int, d: int, std: float = 1.0):
        super().__init__()
        self.weight = init.normal(count, d, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        runs, count, d = self.weight.shape
        if not ids.is_cuda and bool(((ids < 0) | (ids >= count)).any()):  # on a GPU the check would stall every step
            raise IndexError(f"ids must lie in 0..{count - 1}; got {int(ids.min())}..{int(ids.max())}")
        offset = torch.arange(runs, device=ids.device).view(-1, 1, 1) * count
        return F.embedding(ids + offset, self.weight.view(runs * count, d))


class RMSNorm(nn.Module):
    """x / rms(x) times a gain that starts at 1 (arXiv 1910.07467). x (R, ..., d)."""

    def __init__(self, init: Init, d: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(init.runs, d))

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain.to(x.dtype).view(x.shape[0], *[1] * (x.ndim - 2), -1)
        return F.rms_norm(x, (x.shape[-1],)) * gain


class Attention(nn.Module):
    """Causal multi-head self-attention with a logit scale for each run.

    The logits of run r are ``scale[r] * q.k / sqrt(d_head)``, or where ``unit_norm[r]`` is true ``scale[r] * cos(q, k)``.
    """

    def __init__(self, init: Init, d: int, heads: int, scale: Tensor, unit_norm: Tensor):
        super().__init__()
        if d % heads:
            raise ValueError(f"width {d} is not a multiple of {heads} heads")
        if scale.shape != (init.runs,) or unit_norm.shape != (init.runs,):
            raise ValueError(
                f"scale {tuple(scale.shape)} and unit_norm {tuple(unit_norm.shape)} must hold one entry for each of {init.runs} runs"
            )
        self.heads = heads
        self.qkv, self.out = Linear(init, d, 3 * d), Linear(init, d, d)
        self.register_buffer("scale", scale.float().view(-1, 1, 1, 1, 1))
        self.register_buffer("unit_norm", unit_norm.view(-1, 1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        runs, batch, length, d = x.shape
        q, k, v = self.qkv(x).view(runs, batch, length, 3, self.heads, d // self.heads).transpose(2, 4).unbind(3)  # (R, B, H, T, d_head)
        shrink = (d // self.heads) ** 0.25
        q, k = (torch.where(self.unit_norm, F.normalize(t, dim=-1), t / shrink) for t in (q, k))
        q, k, v = ((t.to(x.dtype)).flatten(0, 1) for t in (self.scale * q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return self.out(y.transpose(1, 2).reshape(runs, batch, length, d))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)) with a GELU layer of width 4 d."""

    def __init__(self, init: Init, d: int, heads: int, **attention):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(init, d), RMSNorm(init, d)
        self.attention = Attention(init, d, heads, **attention)
        self.up, self.down = Linear(init, d, 4 * d), Linear(init, 4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A stack of causal language models: ids (R, B, T) -> logits (R, B, T, vocabulary).

    Learned absolute positions up to ``context``; activations in ``precision``, parameters in float32. ``attention`` goes to
    :class:`Attention`: ``scale`` and ``unit_norm``, one entry for each run.
    """

    def __init__(self, init: Init, *, vocabulary: int, context: int, d: int, depth: int, heads: int, **attention):
        super().__init__()
        self.tokens, self.positions = Embedding(init, vocabulary, d), Embedding(init, context, d, std=0.3)
        self.blocks = nn.ModuleList(Block(init, d, heads, **attention) for _ in range(depth))
        self.norm, self.head = RMSNorm(init, d), Linear(init, d, vocabulary)

    def forward(self, ids: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        length, context = ids.shape[-1], self.positions.weight.shape[1]
        if length > context:
            raise ValueError(f"{length} positions, but this model was built for a context of {context}")
        place = torch.arange(length, device=ids.device).expand(ids.shape[0], 1, length)
        x = (self.tokens(ids) + self.positions(place)).to(precision)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def cross_entropy_per_run(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each run: logits (R, ..., V), targets (R, ...) -> (R,)."""
    loss = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return loss.view(len(logits), -1).mean(1)
