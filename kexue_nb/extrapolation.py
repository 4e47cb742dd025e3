"""Length extrapolation: a decoder whose attention reads positions by a scheme that may differ between training and test.

Shapes: R runs, B sequences, T positions, H heads, d_head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kexue_nb import nn, positions

NORMS = ("none", "key", "query", "cosine")


@dataclass(frozen=True)
class Scheme:
    """How a layer of attention reads positions; see :mod:`kexue_nb.positions` for the equations.

    ``frequencies`` (d_head/2,): angles a step, all 0 for no positions. A query sees its last ``window`` keys and the first ``sinks``
    (window None: all of its past). From the distance ``near`` on, distances are Leaky ReRoPE's with ``leak`` (inf: ReRoPE's), or with
    ``grouped`` Self-Extend's; with ``cached`` the query stands at min(i, sinks + window - 1), StreamingLLM's place in its cache. Logits
    are multiplied by ``temperature``, and for the query at i by max(log_floor, ln(i + 1)/ln log_base) where ``log_base`` is given.
    ``norm`` "key", "query" or "cosine" gives keys, queries or both unit length, without the 1/sqrt(d_head). ``slopes`` (H,): ALiBi,
    minus slope times distance.
    """

    frequencies: Tensor
    window: int | None = None
    sinks: int = 0
    near: int | None = None
    leak: float = math.inf
    grouped: bool = False
    cached: bool = False
    temperature: float = 1.0
    log_base: int | None = None
    log_floor: float = 1.0
    norm: str = "none"
    slopes: Tensor | None = None

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r}: give one of {', '.join(map(repr, NORMS))}")
        if self.cached and (self.window is None or self.near != self.window):
            raise ValueError(f"cached, with window={self.window} and near={self.near}: a cache needs a window, and near equal to it")

    def scaled(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (..., T, d_head) with norms, 1/sqrt(d_head) and temperatures carried by them."""
        q = F.normalize(q, dim=-1) if self.norm in ("query", "cosine") else q
        k = positions.key_normalised(k) if self.norm in ("key", "cosine") else k
        factor = self.temperature / (math.sqrt(q.shape[-1]) if self.norm == "none" else 1.0)
        if self.log_base is None:
            return q * factor, k
        seen = torch.arange(1, q.shape[-2] + 1, device=q.device)
        return q * (factor * positions.log_n_factor(seen, self.log_base, self.log_floor)).to(q.dtype)[:, None], k

    def logits(self, q: Tensor, k: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits (..., T, T) of :meth:`scaled` queries and keys at the positions ``at`` (default 0..T-1), not masked."""
        index = torch.arange(q.shape[-2], device=q.device)
        at = index if at is None else at
        logits = self._rotated(q, at) @ self._rotated(k, at).mT
        distance = index[:, None] - index
        if self.near is not None:
            if self.cached:
                query_at, key_at = index.clamp_max(self.sinks + self.window - 1), index
            else:
                query_at, key_at = positions.far_positions(index, self.near, self.leak, self.grouped)
            logits = torch.where(distance < self.near, logits, self._rotated(q, query_at) @ self._rotated(k, key_at).mT)
        if self.slopes is not None:
            logits = logits - self.slopes.to(logits.dtype)[:, None, None] * distance
        return logits

    def _rotated(self, x: Tensor, at: Tensor) -> Tensor:
        return positions.apply_rope(x, at, self.frequencies)

    def weights(self, q: Tensor, k: Tensor, at: Tensor | None = None) -> Tensor:
        """Attention weights (..., T, T) of queries and keys (..., T, d_head), softmax in float32 or better."""
        logits = self.logits(*self.scaled(q, k), at)
        logits = logits.masked_fill(~positions.visible(q.shape[-2], self.window, self.sinks, q.device), -math.inf)
        return torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), -1).to(q.dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None = None) -> Tensor:
        """Attention's output (..., T, d_head); by a fused kernel where one rotation does, otherwise from :meth:`weights`."""
        if self.near is not None or self.slopes is not None:
            return self.weights(q, k, at) @ v
        q, k = self.scaled(q, k)
        at = torch.arange(q.shape[-2], device=q.device) if at is None else at
        q, k = self._rotated(q, at), self._rotated(k, at)
        seen = None if self.window is None else positions.visible(q.shape[-2], self.window, self.sinks, q.device)
        four = (t.reshape(-1, *t.shape[-3:]) for t in (q, k, v))  # the fused kernels take no more axes
        return F.scaled_dot_product_attention(*four, attn_mask=seen, is_causal=seen is None, scale=1.0).view(v.shape)


class Decoder(torch.nn.Module):
    """A stack of causal pre-norm language models (see :mod:`kexue_nb.nn`) without positions of its own: schemes bring them.

    Ids (R, B, T) and one :class:`Scheme`, or one a layer, give logits (R, B, T, vocabulary). RMS norms with gains, GELU, no biases;
    matrices N(0, 1/d_in), embeddings N(0, 1).
    """

    def __init__(self, init: nn.Init, *, vocabulary: int, d: int, depth: int, heads: int):
        super().__init__()
        if d % (2 * heads):
            raise ValueError(f"width {d} is not a multiple of twice {heads} heads")
        self.depth, self.heads = depth, heads
        self.tokens = nn.Embedding(init, vocabulary, d)
        self.wq, self.wk, self.wv, self.wo = (init.normal(depth, d, d, std=1 / math.sqrt(d)) for _ in range(4))
        self.w1, self.w2 = init.normal(depth, d, 4 * d, std=1 / math.sqrt(d)), init.normal(depth, 4 * d, d, std=1 / math.sqrt(4 * d))
        self.gains = torch.nn.Parameter(torch.ones(init.runs, 2 * depth + 1, d))
        self.head = nn.Linear(init, d, vocabulary)

    def forward(
        self,
        ids: Tensor,
        schemes: Scheme | Sequence[Scheme],
        precision: torch.dtype = torch.float32,
        at: Tensor | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """``at``: positions (T,) in place of 0..T-1. ``watch(layer, weights)`` sees the attention weights (R, B, H, T, T) of each layer."""
        schemes = [schemes] * self.depth if isinstance(schemes, Scheme) else list(schemes)
        if len(schemes) != self.depth:
            raise ValueError(f"{len(schemes)} schemes for {self.depth} layers; give one, or one a layer")
        x = self.tokens(ids).to(precision)
        gains = self.gains.to(precision)[:, :, None, None, :].unbind(1)
        layers = zip(*(w.to(precision).unbind(1) for w in (self.wq, self.wk, self.wv, self.wo, self.w1, self.w2)), strict=True)
        for i, ((wq, wk, wv, wo, w1, w2), scheme) in enumerate(zip(layers, schemes, strict=True)):
            h = _normed(x, gains[2 * i])
            q, k, v = (_times(h, w).unflatten(-1, (self.heads, -1)).transpose(2, 3) for w in (wq, wk, wv))  # (R, B, H, T, d_head)
            if watch is not None:
                watch(i, scheme.weights(q, k, at))
            x = x + _times(scheme.attend(q, k, v, at).transpose(2, 3).flatten(-2), wo)
            x = x + _times(F.gelu(_times(_normed(x, gains[2 * i + 1]), w1)), w2)
        return self.head(_normed(x, gains[-1]))


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:]) * gain


def _times(x: Tensor, w: Tensor) -> Tensor:
    """x (R, ..., d_in) times the run's own w (R, d_in, d_out)."""
    return torch.bmm(x.flatten(1, -2), w).unflatten(1, x.shape[1:-1])


def tiled(tokens: Tensor, period: Tensor, length: int) -> Tensor:
    """The first ``period`` (...) of ``tokens`` (..., n) again and again, (..., length): token t is that at t mod period."""
    index = torch.arange(length, device=tokens.device) % period[..., None]
    return tokens.gather(-1, index)


def planted(
    ids: Tensor, pairs: int, names: int, values: int, first: int, tail: int | None, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Text ids (..., T) with ``pairs`` two-token notes (name, value) written over it, and each asked for once later.

    Notes and questions stand at random even places, all notes before all questions; with ``tail`` the questions lie in the last
    ``tail`` tokens and the notes before them. Names are ids first..first+names-1, distinct in a sequence; values follow them.
    Returns the ids, the places of the asking names (..., pairs), where the model must predict the value, and the distances
    (..., pairs) back to the notes' names.
    """
    shape, length = ids.shape[:-1], ids.shape[-1]
    device = ids.device

    def draw(count: int, chosen: int) -> Tensor:
        return torch.rand(*shape, count, generator=generator, device=device).topk(chosen, dim=-1).indices

    if tail is None:
        places = 2 * draw(length // 2, 2 * pairs).sort(-1).values
        notes, asked = places[..., :pairs], places[..., pairs:]
    else:
        notes, asked = 2 * draw((length - tail) // 2, pairs), length - tail + 2 * draw(tail // 2, pairs)
    name = first + draw(names, pairs)
    value = first + names + torch.randint(values, (*shape, pairs), generator=generator, device=device)
    order = draw(pairs, pairs)
    ids = ids.scatter(-1, notes, name).scatter(-1, notes + 1, value)
    ids = ids.scatter(-1, asked, name.gather(-1, order)).scatter(-1, asked + 1, value.gather(-1, order))
    return ids, asked, asked - notes.gather(-1, order)
