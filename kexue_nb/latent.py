"""Attention by what it caches: groups of heads (MHA, GQA, MQA) or one latent for all heads (MLA), stacked (see :mod:`kexue_nb.nn`).

Sources: MQA arXiv 1911.02150, GQA arXiv 2305.13245, MLA arXiv 2405.04434 section 2.1, and the post https://kexue.fm/archives/10091.
Shapes: R runs, B sequences, T new tokens, n cached tokens, h heads, g groups, d width. Head s uses group floor(s g / h), s from 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue_nb import nn as stacked
from kexue_nb import positions

# Accounting


def _positive(shape: Groups | Latent) -> None:
    for name, value in vars(shape).items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}={value!r}: sizes are whole numbers of at least 1")


@dataclass(frozen=True)
class Groups:
    """``heads`` query heads of size ``head`` on ``groups`` key and value heads: g = h is MHA, g = 1 MQA, between them GQA.

    Raises ValueError unless all sizes are positive and ``groups`` divides ``heads``.
    """

    d: int
    heads: int
    groups: int
    head: int

    def __post_init__(self):
        _positive(self)
        if self.heads % self.groups:
            raise ValueError(f"{self.groups} groups of {self.heads} heads: give a number of groups that divides the number of heads")

    @property
    def cache(self) -> int:
        """Cached elements a token and layer: a key and a value for each group, 2 g d_k."""
        return 2 * self.groups * self.head

    @property
    def parameters(self) -> int:
        """Weights of one layer: W_q and W_o are d x h d_k, W_k and W_v d x g d_k."""
        return 2 * self.d * self.heads * self.head + 2 * self.d * self.groups * self.head

    @property
    def flops(self) -> int:
        """Floating-point operations of one query token on one cached token: scores and values, a multiplication and an addition each."""
        return 4 * self.heads * self.head


@dataclass(frozen=True)
class Latent:
    """MLA: keys and values of all heads are linear maps of one latent, beside one rotary key that the heads share.

    ``head`` is d_k = d_v, ``latent`` d_c, ``rope`` d_r, ``query_latent`` d_c' (None: queries straight from x). Raises ValueError unless
    all sizes are positive and ``rope`` is even.
    """

    d: int
    heads: int
    head: int
    latent: int
    rope: int
    query_latent: int | None = None

    def __post_init__(self):
        _positive(self)
        if self.rope % 2:
            raise ValueError(f"rope={self.rope}: rotations act on pairs; give an even size")

    @property
    def cache(self) -> int:
        """Cached elements a token and layer: the latent and the rotary key, d_c + d_r, whatever the number of heads."""
        return self.latent + self.rope

    @property
    def parameters(self) -> int:
        """Weights of one layer, the gains of its two norms not counted."""
        query = self.heads * (self.head + self.rope)
        queries = self.d * query if self.query_latent is None else self.d * self.query_latent + self.query_latent * query
        return queries + self.d * self.cache + 2 * self.latent * self.heads * self.head + self.heads * self.head * self.d

    @property
    def flops(self) -> int:
        """As for :class:`Groups`, in the absorbed form: scores over d_c + d_r, values over d_c."""
        return 2 * self.heads * (2 * self.latent + self.rope)

    @property
    def expanded_flops(self) -> int:
        """The same with the keys and values of every head at hand: scores over d_k + d_r, values over d_k."""
        return 2 * self.heads * (2 * self.head + self.rope)

    @property
    def expansion_flops(self) -> int:
        """What it costs to make the keys and values of every head out of one cached latent."""
        return 4 * self.latent * self.heads * self.head


Shape = Groups | Latent


@dataclass(frozen=True)
class Model:
    """A language model as its cache sees it: ``layers`` attention layers of one ``shape``; ``source`` says where the sizes stand."""

    layers: int
    shape: Shape
    source: str

    @property
    def elements(self) -> int:
        """Cached elements a token."""
        return self.layers * self.shape.cache

    def bytes(self, tokens: int = 1, bits: int = 16) -> Fraction:
        """Bytes of the cache of ``tokens`` tokens, exactly, at ``bits`` bits an element."""
        if tokens < 1 or bits < 1:
            raise ValueError(f"tokens={tokens}, bits={bits}: both must be at least 1")
        return Fraction(self.elements * tokens * bits, 8)


MODELS = {
    "LLaMA-2 7B": Model(32, Groups(4096, 32, 32, 128), "arXiv 2307.09288"),
    "LLaMA-2 70B": Model(80, Groups(8192, 64, 8, 128), "arXiv 2307.09288"),
    "LLaMA-3 8B": Model(32, Groups(4096, 32, 8, 128), "arXiv 2407.21783, table 3"),
    "DeepSeek 67B": Model(95, Groups(8192, 64, 8, 128), "arXiv 2401.02954, table 2"),
    "DeepSeek-V2": Model(60, Latent(5120, 128, 128, 512, 64, 1536), "arXiv 2405.04434, section 3.1.2"),
    "DeepSeek-V2-Lite": Model(27, Latent(2048, 16, 128, 512, 64), "arXiv 2405.04434, appendix B"),
    "DeepSeek-V3": Model(61, Latent(7168, 128, 128, 512, 64, 1536), "arXiv 2412.19437, section 4.2"),
}


def roofline(flops: float, bytes: float, peak: float, bandwidth: float) -> float:
    """Least seconds for so many operations and bytes at ``peak`` operations and ``bandwidth`` bytes a second: the larger of the two."""
    if min(flops, bytes) < 0 or min(peak, bandwidth) <= 0:
        raise ValueError(f"flops={flops}, bytes={bytes}, peak={peak}, bandwidth={bandwidth}: give work >= 0 and speeds > 0")
    return max(flops / peak, bytes / bandwidth)


def seconds(step: Callable[[], object], device: torch.device, *, warmup: int = 5, repeats: int = 20) -> list[float]:
    """Seconds of each of ``repeats`` calls of ``step`` after ``warmup`` others: CUDA events on a GPU, the wall clock elsewhere."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"warmup={warmup}, repeats={repeats}: give at least 0 and at least 1")
    for _ in range(warmup):
        step()
    if device.type != "cuda":
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
        return found
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        start.record()
        step()
        end.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1000 for start, end in marks]


# Attention over a cache


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, splits: int = 1) -> Tensor:
    """Causal attention of the last m tokens on n: q (..., h, m, d_k), k (..., g, n, d_k), v (..., g, n, d_v) -> (..., h, m, d_v).

    Query i sees the keys 0 .. n - m + i. The h/g heads of a group are rows of one product with its keys: nothing is copied h/g times.
    ``splits`` cuts the sum over values into so many partial sums, which keeps a GPU busy where sequences are few and long; it must
    divide n. Raises ValueError for heads that g does not divide, m > n, and such splits.
    """
    heads, m, (groups, n) = q.shape[-3], q.shape[-2], k.shape[-3:-1]
    if heads % groups or m > n or v.shape[-3:-1] != k.shape[-3:-1]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: g must divide h, k and v share g and n, and m <= n")
    if splits < 1 or n % splits:
        raise ValueError(f"splits={splits}: give a divisor of the {n} cached tokens")
    rows = (q * scale).unflatten(-3, (groups, heads // groups)).flatten(-3, -2)  # (..., g, h/g m, d_k)
    scores = rows @ k.mT
    if m > 1:
        hidden = torch.ones(m, n, dtype=torch.bool, device=q.device).triu(n - m + 1)
        scores = scores.masked_fill(hidden.repeat(heads // groups, 1), -math.inf)
    weights = scores.softmax(-1)
    parts = weights.unflatten(-1, (splits, -1)).transpose(-3, -2)  # (..., g, splits, h/g m, n/splits)
    y = (parts @ v.unflatten(-2, (splits, -1))).sum(-3)
    return y.unflatten(-2, (heads // groups, m)).flatten(-4, -3)


def expanded(q_c: Tensor, q_r: Tensor, c: Tensor, k_r: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """MLA as MHA: every head makes its keys and values out of the latent. -> (..., B, h, m, d_v).

    ``q_c`` (..., B, h, m, d_k), ``q_r`` (..., B, h, m, d_r) and ``k_r`` (..., B, n, d_r) already rotated, ``c`` (..., B, n, d_c), ``w_k``
    (..., h, d_c, d_k), ``w_v`` (..., h, d_c, d_v). Scores are scaled by 1/sqrt(d_k + d_r). arXiv 2405.04434, equations 10, 11, 16, 17.
    """
    return attend(torch.cat([q_c, q_r], -1), *_heads(c, k_r, w_k, w_v), _scale(q_c, q_r))


def absorbed(q_c: Tensor, q_r: Tensor, cached: Tensor, w_k: Tensor, w_v: Tensor, splits: int = 1) -> Tensor:
    """MLA as MQA, the same numbers: w_k moves into the queries, w_v behind the sum, and all heads share the key [c, k_r] and its part c.

    ``cached`` (..., B, n, d_c + d_r) holds c and k_r side by side, so that neither is copied; all else is as in :func:`expanded`.
    """
    q = torch.cat([torch.einsum("...bhmk,...hck->...bhmc", q_c, w_k), q_r], -1)
    shared = cached[..., None, :, :]
    y = attend(q, shared, shared[..., : w_k.shape[-2]], _scale(q_c, q_r), splits)
    return torch.einsum("...bhmc,...hcv->...bhmv", y, w_v)


def _heads(c: Tensor, k_r: Tensor, w_k: Tensor, w_v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (..., B, h, n, d_k + d_r) and values (..., B, h, n, d_v) of every head."""
    k, v = (torch.einsum("...bnc,...hck->...bhnk", c, w) for w in (w_k, w_v))
    return torch.cat([k, k_r[..., None, :, :].expand(*k.shape[:-1], -1)], -1), v


def _scale(q_c: Tensor, q_r: Tensor) -> float:
    return 1 / math.sqrt(q_c.shape[-1] + q_r.shape[-1])


class Cache:
    """Room for ``capacity`` tokens, filled from the front: named tensors (..., capacity, size), made at the first :meth:`append`."""

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: give at least 1 token")
        self.capacity, self.length, self._rows = capacity, 0, {}

    def append(self, **new: Tensor) -> tuple[Tensor, ...]:
        """Add tokens, each tensor (..., T, size), and return everything so far, (..., n, size), in the order of the names given."""
        tokens = next(iter(new.values())).shape[-2]
        if self.length + tokens > self.capacity:
            raise ValueError(f"{self.length} tokens and {tokens} new ones in a cache of {self.capacity}; make a larger one")
        end = self.length + tokens
        for name, x in new.items():
            if name not in self._rows:
                self._rows[name] = x.new_empty(*x.shape[:-2], self.capacity, x.shape[-1])
            self._rows[name][..., self.length : end, :] = x
        self.length = end
        return tuple(self._rows[name][..., :end, :] for name in new)

    @property
    def elements(self) -> int:
        """Elements of all tensors, whether filled or not."""
        return sum(t.numel() for t in self._rows.values())


# Layers, stacked


class GroupedAttention(nn.Module):
    """MHA, GQA and MQA: x (R, B, T, d) -> (R, B, T, d), causal; entries N(0, 1/d_in); rotary with ``frequencies`` (head/2,)."""

    def __init__(self, init: stacked.Init, shape: Groups, frequencies: Tensor | None = None):
        super().__init__()
        self.shape = shape
        self.query = stacked.Linear(init, shape.d, shape.heads * shape.head)
        self.key = stacked.Linear(init, shape.d, shape.groups * shape.head)
        self.value = stacked.Linear(init, shape.d, shape.groups * shape.head)
        self.output = stacked.Linear(init, shape.heads * shape.head, shape.d)
        self.register_buffer("frequencies", _frequencies(frequencies, shape.head))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """With a ``cache`` x continues what is in it, and is added to it."""
        q, k, v = (f(x).unflatten(-1, (-1, self.shape.head)).transpose(-3, -2) for f in (self.query, self.key, self.value))
        q, k = (_rotate(t, cache, self.frequencies) for t in (q, k))
        scale = 1 / math.sqrt(self.shape.head)
        if cache is None:
            repeat = self.shape.heads // self.shape.groups
            k, v = (t.repeat_interleave(repeat, -3) for t in (k, v))
            y = _causal(q, k, v, scale)
        else:
            y = attend(q, *cache.append(k=k, v=v), scale)
        return self.output(y.transpose(-3, -2).flatten(-2))


class LatentAttention(nn.Module):
    """MLA: x (R, B, T, d) -> (R, B, T, d), causal; entries N(0, 1/d_in); rotary part with ``frequencies`` (rope/2,).

    The latents are normalised (RMS, learned gain) before the head maps, as in arXiv 2405.04434, section 3.1.2: what is cached is the
    normalised latent, so the norm does not stand in the way of absorption.
    """

    def __init__(self, init: stacked.Init, shape: Latent, frequencies: Tensor):
        super().__init__()
        self.shape = shape
        h, head = shape.heads, shape.head
        self.query_down = None if shape.query_latent is None else stacked.Linear(init, shape.d, shape.query_latent)
        self.query = stacked.Linear(init, shape.query_latent or shape.d, h * (head + shape.rope))
        self.down = stacked.Linear(init, shape.d, shape.latent + shape.rope)
        self.key_up = init.normal(h, shape.latent, head, std=1 / math.sqrt(shape.latent))
        self.value_up = init.normal(h, shape.latent, head, std=1 / math.sqrt(shape.latent))
        self.output = stacked.Linear(init, h * head, shape.d)
        self.gain = nn.Parameter(torch.ones(init.runs, shape.latent))
        self.query_gain = None if shape.query_latent is None else nn.Parameter(torch.ones(init.runs, shape.query_latent))
        self.register_buffer("frequencies", _frequencies(frequencies, shape.rope))

    def forward(self, x: Tensor, cache: Cache | None = None, absorb: bool = False) -> Tensor:
        """With a ``cache`` x continues what is in it, and is added to it. ``absorb`` chooses the form; the result is the same."""
        shape = self.shape
        c_q = x if self.query_down is None else _normed(self.query_down(x), self.query_gain)
        q = self.query(c_q).unflatten(-1, (shape.heads, -1)).transpose(-3, -2)  # (R, B, h, T, d_k + d_r)
        q_c, q_r = q.split([shape.head, shape.rope], -1)
        c, k_r = self.down(x).split([shape.latent, shape.rope], -1)
        q_r, k_r = (_rotate(t, cache, self.frequencies) for t in (q_r, k_r))
        cached = torch.cat([_normed(c, self.gain), k_r], -1)
        if cache is not None:
            (cached,) = cache.append(latent=cached)
        w_k, w_v = self.key_up.to(x.dtype), self.value_up.to(x.dtype)  # (R, h, d_c, d_k)
        if absorb:
            y = absorbed(q_c, q_r, cached, w_k, w_v)
        else:
            c, k_r = cached.split([shape.latent, shape.rope], -1)
            if cache is not None:
                y = expanded(q_c, q_r, c, k_r, w_k, w_v)
            else:  # training: the same by a fused kernel
                y = _causal(torch.cat([q_c, q_r], -1), *_heads(c, k_r, w_k, w_v), _scale(q_c, q_r))
        return self.output(y.transpose(-3, -2).flatten(-2))


def _frequencies(frequencies: Tensor | None, size: int) -> Tensor | None:
    if frequencies is not None and frequencies.shape != (size // 2,):
        raise ValueError(f"frequencies {tuple(frequencies.shape)}: a rotary part of size {size} takes ({size // 2},)")
    return frequencies


def _rotate(x: Tensor, cache: Cache | None, frequencies: Tensor | None) -> Tensor:
    """x (..., T, size) at its positions, which go on from what is in the cache."""
    if frequencies is None:
        return x
    start = 0 if cache is None else cache.length
    return positions.apply_rope(x, torch.arange(start, start + x.shape[-2], device=x.device), frequencies)


def _normed(c: Tensor, gain: Tensor) -> Tensor:
    """c (R, ..., size) over its RMS, times the run's gain (R, size)."""
    return F.rms_norm(c, c.shape[-1:], eps=1e-6) * gain.to(c.dtype).view(len(gain), *[1] * (c.ndim - 2), -1)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal self-attention of q, k (R, B, h, T, d_k) and v (R, B, h, T, d_v) by torch's fused kernels, which want d_v = d_k."""
    size = v.shape[-1]
    v = F.pad(v, (0, q.shape[-1] - size))
    y = F.scaled_dot_product_attention(*(t.flatten(0, 1) for t in (q, k, v)), is_causal=True, scale=scale)
    return y.unflatten(0, q.shape[:2])[..., :size]


class Decoder(nn.Module):
    """A stack of causal language models, ids (R, B, T) -> logits (R, B, T, vocabulary), whose layers attend by ``shape``.

    Pre-norm (RMS) around attention and a feed-forward layer (gelu, 4 d), rotary positions, no biases. ``base`` is RoPE's.
    """

    def __init__(self, init: stacked.Init, shape: Shape, *, vocabulary: int, depth: int, base: float = 10000.0):
        super().__init__()
        rotary = positions.rope_frequencies(shape.rope if isinstance(shape, Latent) else shape.head, base)
        layer = LatentAttention if isinstance(shape, Latent) else GroupedAttention
        self.tokens = stacked.Embedding(init, vocabulary, shape.d)
        self.attention = nn.ModuleList(layer(init, shape, rotary) for _ in range(depth))
        self.up = nn.ModuleList(stacked.Linear(init, shape.d, 4 * shape.d) for _ in range(depth))
        self.down = nn.ModuleList(stacked.Linear(init, 4 * shape.d, shape.d) for _ in range(depth))
        self.head = stacked.Linear(init, shape.d, vocabulary)

    def forward(self, ids: Tensor, precision: torch.dtype = torch.float32, caches: list[Cache] | None = None, **form) -> Tensor:
        """Activations in ``precision``; ``caches``, one a layer, and ``form`` go to the attention layers."""
        norm = stacked.NORMS["rms"]
        x = self.tokens(ids).to(precision)
        for attention, up, down, cache in zip(self.attention, self.up, self.down, caches or [None] * len(self.up), strict=True):
            x = x + attention(norm(x), cache, **form)
            x = x + down(F.gelu(up(norm(x))))
        return self.head(norm(x))
