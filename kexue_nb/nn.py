"""Building blocks, stacked: every parameter leads with an axis of runs, so that a grid of models trains in one pass.

A stack of one run is an ordinary model. Shapes: R runs, B sequences, T positions, H heads, d width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue_nb import positions


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
        return _matmul(x, self.weight.to(x.dtype))


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


ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
NORMS = {"rms": lambda x: F.rms_norm(x, x.shape[-1:]), "layer": lambda x: F.layer_norm(x, x.shape[-1:])}


class Transformer(nn.Module):
    """A stack of causal language models: ids (R, B, T) -> logits (R, B, T, vocabulary). No biases.

    The weights of all layers are stacked behind the runs: ``wq, wk, wv, wo`` (R, depth, d, d), ``w1`` (R, depth, d, width), ``w2``
    (R, depth, width, d), so that an optimizer sees few large tensors however deep the model is. A layer is an attention and a
    feed-forward sublayer. Where the norm stands is ``placement``:

    - ``"pre"``: skip * x + F(norm(x)), and a norm before the output layer;
    - ``"post"``: norm(skip * x + F(x)); with skip alpha and gain beta this is DeepNorm (arXiv 2203.00555, section 3).

    ``skip`` (R,), default 1, multiplies the residual. ``gain`` (R,), default 1, multiplies the initial wv, wo, w1 and w2, whose entries
    are N(0, 1/d_in) (``spread="fan-in"``) or N(0, 2/(d_in + d_out)) (``"xavier"``), as are those of wq and wk. ``norm`` is ``"rms"`` or
    ``"layer"``, with a learned gain a sublayer where ``affine``. ``embedding_norm`` norms the embeddings. Positions are learned,
    N(0, position_std^2), or, given ``rotary`` frequencies (d_head/2,) or (R, d_head/2), rotary. The attention logits of run r are
    ``scale[r] * q.k / sqrt(d_head)``, or where ``unit_norm[r]`` is true ``scale[r] * cos(q, k)``.
    """

    def __init__(
        self,
        init: Init,
        *,
        vocabulary: int,
        context: int,
        d: int,
        depth: int,
        heads: int,
        width: int | None = None,
        placement: str = "pre",
        norm: str = "rms",
        affine: bool = True,
        activation: str = "gelu",
        spread: str = "fan-in",
        skip: Tensor | None = None,
        gain: Tensor | None = None,
        embedding_norm: bool = False,
        position_std: float = 0.3,
        rotary: Tensor | None = None,
        scale: Tensor | None = None,
        unit_norm: Tensor | None = None,
    ):
        super().__init__()
        if d % heads:
            raise ValueError(f"width {d} is not a multiple of {heads} heads")
        choices = {
            "placement": (placement, ("pre", "post")),
            "norm": (norm, tuple(NORMS)),
            "activation": (activation, tuple(ACTIVATIONS)),
            "spread": (spread, ("fan-in", "xavier")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")
        for name, value in {"skip": skip, "gain": gain, "scale": scale, "unit_norm": unit_norm}.items():
            if value is not None and value.shape != (init.runs,):
                raise ValueError(f"{name} {tuple(value.shape)} must hold one entry for each of {init.runs} runs")
        self.context, self.heads, self.depth, self.placement, self.embedding_norm = context, heads, depth, placement, embedding_norm
        self.norm, self.activation = NORMS[norm], ACTIVATIONS[activation]
        width = 4 * d if width is None else width

        def weight(d_in: int, d_out: int, scaled: bool = True) -> nn.Parameter:
            std = math.sqrt(1 / d_in if spread == "fan-in" else 2 / (d_in + d_out))
            w = init.normal(depth, d_in, d_out, std=std)
            return w if gain is None or not scaled else nn.Parameter(w.detach() * gain.view(-1, 1, 1, 1))

        self.tokens = Embedding(init, vocabulary, d)
        self.positions = Embedding(init, context, d, std=position_std) if rotary is None else None
        self.wq, self.wk = weight(d, d, scaled=False), weight(d, d, scaled=False)
        self.wv, self.wo = weight(d, d), weight(d, d)
        self.w1, self.w2 = weight(d, width), weight(width, d)
        self.head = Linear(init, d, vocabulary)
        self.gains = nn.Parameter(torch.ones(init.runs, 2 * depth, d)) if affine else None
        self.final_gain = nn.Parameter(torch.ones(init.runs, d)) if affine and placement == "pre" else None
        self.register_buffer("skip", None if skip is None else skip.float().view(-1, 1, 1, 1))
        self.register_buffer("scale", None if scale is None else scale.float().view(-1, 1, 1, 1))
        unit = unit_norm is not None and bool(unit_norm.any())
        self.register_buffer("unit_norm", unit_norm.view(-1, 1, 1, 1, 1) if unit else None)
        angles = None
        if rotary is not None:  # (R or 1, 1, 1, context, d_head/2)
            angles = torch.arange(context, dtype=torch.float64)[:, None] * rotary.double().view(-1, 1, 1, 1, d // heads // 2)
        self.register_buffer("angles", angles)

    def forward(self, ids: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        x = deque(self.states(ids, precision), maxlen=1).pop()
        return self.head(self._normed(x, self.final_gain) if self.placement == "pre" else x)

    def states(self, ids: Tensor, precision: torch.dtype = torch.float32) -> Iterator[Tensor]:
        """The hidden state (R, B, T, d) after the embedding and after each sublayer; activations in ``precision``."""
        length = ids.shape[-1]
        if length > self.context:
            raise ValueError(f"{length} positions, but this model was built for a context of {self.context}")
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(length, device=ids.device).expand(ids.shape[0], 1, length))
        x = self.norm(x).to(precision) if self.embedding_norm else x.to(precision)
        yield x
        rotation = None
        if self.angles is not None:
            angles = self.angles[..., :length, :]
            rotation = angles.cos().to(precision), angles.sin().to(precision)
        layers = zip(*(w.to(precision).unbind(1) for w in (self.wq, self.wk, self.wv, self.wo, self.w1, self.w2)), strict=True)
        gains = iter([None] * (2 * self.depth) if self.gains is None else self.gains.unbind(1))
        for wq, wk, wv, wo, w1, w2 in layers:
            x = self._sublayer(x, lambda h, w=(wq, wk, wv, wo): self._attention(h, *w, rotation), next(gains))
            yield x
            x = self._sublayer(x, lambda h, w1=w1, w2=w2: _matmul(self.activation(_matmul(h, w1)), w2), next(gains))
            yield x

    def _sublayer(self, x: Tensor, branch: Callable[[Tensor], Tensor], gain: Tensor | None) -> Tensor:
        kept = x if self.skip is None else self.skip.to(x.dtype) * x
        if self.placement == "pre":
            return kept + branch(self._normed(x, gain))
        return self._normed(kept + branch(x), gain)

    def _normed(self, x: Tensor, gain: Tensor | None) -> Tensor:
        x = self.norm(x)
        return x if gain is None else x * gain.to(x.dtype)[:, None, None, :]

    def _attention(self, x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor, rotation: tuple | None) -> Tensor:
        runs, batch, length, d = x.shape
        q, k, v = (_matmul(x, w).view(runs, batch, length, self.heads, -1).transpose(2, 3) for w in (wq, wk, wv))  # (R, B, H, T, d_head)
        logit_scale = 1 / math.sqrt(q.shape[-1])
        if rotation is not None:
            q, k = positions.rotate_pairs(q, *rotation), positions.rotate_pairs(k, *rotation)
        if self.unit_norm is not None:
            q, k = (torch.where(self.unit_norm, F.normalize(t, dim=-1) / math.sqrt(logit_scale), t) for t in (q, k))
        if self.scale is not None:
            q = (self.scale[..., None] * q).to(x.dtype)
        y = F.scaled_dot_product_attention(*(t.flatten(0, 1) for t in (q, k, v)), is_causal=True, scale=logit_scale)
        return _matmul(y.transpose(1, 2).reshape(runs, batch, length, d), wo)


def _matmul(x: Tensor, w: Tensor) -> Tensor:
    """x (R, ..., d_in) times the run's own w (R, d_in, d_out)."""
    return torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), w).view(*x.shape[:-1], -1)


def cross_entropy_per_run(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each run: logits (R, ..., V), targets (R, ...) -> (R,)."""
    loss = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return loss.view(len(logits), -1).mean(1)
