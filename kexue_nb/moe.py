"""Mixtures of experts, stacked (see :mod:`kexue_nb.nn`): who is chosen, what the chosen compute, and how the load is balanced.

The layer is ``y = gain * sum over the chosen i of rho_i e_i`` (https://kexue.fm/archives/10699): expert outputs e_i, weights rho_i that
the router predicts. Shapes: R runs, T tokens, n experts, k chosen, d width, c hidden units an expert, P chosen (token, expert) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue_nb import nn as stacked

GATES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": lambda s: s.softmax(-1), "sigmoid": torch.sigmoid, "relu": F.relu}


# Who is chosen


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """The k largest scores of each row: (..., n) -> bool (..., n). Which of equal scores wins is left open."""
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k={k}: choose between 1 and all {scores.shape[-1]} experts")
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(k, dim=-1).indices, True)


@dataclass(frozen=True)
class Routing:
    """What a router decided: ``weights`` rho (R, T, n), ``mask`` (R, T, n) of the chosen, and for top-k their indices (R, T, k)."""

    weights: Tensor
    mask: Tensor
    chosen: Tensor | None = None


def route(weights: Tensor, scores: Tensor, k: int | None) -> Routing:
    """Choose by ``scores`` (R, T, n): the k largest of each token, or with k None all that are positive."""
    if weights.shape != scores.shape or scores.ndim != 3:
        raise ValueError(f"weights {tuple(weights.shape)} and scores {tuple(scores.shape)}: both must be (runs, tokens, experts)")
    if k is None:
        return Routing(weights, scores > 0)
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k={k}: choose between 1 and all {scores.shape[-1]} experts, or None for those with a positive score")
    chosen = scores.topk(k, dim=-1).indices
    return Routing(weights, torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True), chosen)


# How the load is balanced


def expert_load(mask: Tensor) -> Tensor:
    """Share of the tokens that each expert gets: bool (..., T, n) -> (..., n). Its sum is the mean number of experts a token."""
    return mask.float().mean(-2)


def max_violation(load: Tensor) -> Tensor:
    """MaxVio, largest load over mean load minus 1 (arXiv 2408.15664): (..., n) -> (...); 0 is perfect balance."""
    return load.amax(-1) / load.mean(-1) - 1


def max_violation_floor(tokens: int, experts: int, k: int) -> float:
    """Mean MaxVio of a batch under perfect balance, when loads are independent Binomial(tokens, k/experts) counts."""
    if tokens < 1 or not 1 <= k <= experts:
        raise ValueError(f"{tokens} tokens, k={k} of {experts} experts: need at least one token and 1 <= k <= experts")
    below = scipy.stats.binom.cdf(np.arange(tokens), tokens, k / experts)
    return float((1 - below**experts).sum() / (tokens * k / experts) - 1)


@torch.no_grad()
def balance_(bias: Tensor, load: Tensor, rate: float) -> None:
    """One step of loss-free balancing, in place: b <- b - rate * sign(F - 1/n) with F = load / sum(load) (arXiv 2408.15664, algorithm 1).

    ``bias`` is added to the scores for the choice alone; ``bias`` and ``load`` are (..., n).
    """
    if bias.shape != load.shape:
        raise ValueError(f"bias {tuple(bias.shape)} and load {tuple(load.shape)} must have one shape")
    if not rate >= 0:
        raise ValueError(f"rate={rate}: give a number >= 0")
    bias.sub_(rate * (load * load.shape[-1] - load.sum(-1, keepdim=True)).sign())


# What the chosen compute


@dataclass(frozen=True)
class Pairs:
    """The chosen pairs in the order of run and expert: ``token`` (P,) in 0..RT-1, ``slot`` (P,) in (R, T, n), ``ends`` (Rn,) of the groups.

    For top-k, ``inverse`` (RT, k) says where the pairs of a token stand.
    """

    token: Tensor
    slot: Tensor
    ends: Tensor
    inverse: Tensor | None


def dispatch(routing: Routing) -> Pairs:
    """Sort the chosen pairs by expert. For top-k all shapes are known beforehand, so nothing waits for the device."""
    runs, tokens, n = routing.mask.shape
    device = routing.mask.device
    groups = torch.arange(runs * n, device=device)
    if routing.chosen is None:
        run, expert, at = routing.mask.transpose(1, 2).nonzero(as_tuple=True)  # in the order of run, expert, token
        token, group, inverse = run * tokens + at, run * n + expert, None
    else:
        k = routing.chosen.shape[-1]
        each = (routing.chosen + torch.arange(runs, device=device).view(-1, 1, 1) * n).flatten()
        order = each.argsort(stable=True)
        token, group = order // k, each[order]
        inverse = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=device)).view(-1, k)
    ends = torch.searchsorted(group, groups, right=True).to(torch.int32)
    return Pairs(token, token * n + group % n, ends, inverse)


def grouped_matmul(x: Tensor, w: Tensor, ends: Tensor, native: bool | None = None) -> Tensor:
    """Rows ends[g-1]..ends[g] of x times w[g]: (P, a), (G, a, b), int (G,) -> (P, b). Its cost grows with P, whatever G is.

    ``native``: torch's grouped kernel (default: on GPUs that have it for bfloat16); otherwise one product a group.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[1] or ends.shape != w.shape[:1]:
        raise ValueError(f"x {tuple(x.shape)}, w {tuple(w.shape)}, ends {tuple(ends.shape)}: give (P, a), (G, a, b) and (G,)")
    if _has_kernel(x, len(w)) if native is None else native:
        return F.grouped_mm(x, w, offs=ends) if hasattr(F, "grouped_mm") else torch._grouped_mm(x, w, offs=ends)
    stops = ends.tolist()
    if not stops or stops[-1] != len(x):
        raise ValueError(f"the groups end at {stops[-1:]}, but x has {len(x)} rows")
    return torch.cat([rows @ matrix for rows, matrix in zip(x.tensor_split(stops[:-1]), w.unbind(), strict=True)])


def _has_kernel(x: Tensor, groups: int) -> bool:
    known = hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")
    return known and x.is_cuda and x.dtype == torch.bfloat16 and groups < 1024 and torch.cuda.get_device_capability(x.device)[0] == 9


def unit_rms(v: Tensor) -> Tensor:
    """v / sqrt(mean v^2 + 1e-6) over the last axis: a vector's direction, at length sqrt(d)."""
    return F.rms_norm(v, v.shape[-1:], eps=1e-6)


def grouped_experts(
    x: Tensor, routing: Routing, wa: Tensor, wb: Tensor, activation: Callable[[Tensor], Tensor], normalise: bool = False
) -> Tensor:
    """sum over the chosen i of rho_i e_i with e_i = f(x wa_i) wb_i, or its :func:`unit_rms`: x (R, T, d) -> (R, T, d).

    ``wa`` is (R, n, d, c), ``wb`` (R, n, c, d). Tokens are sorted by expert, so that the cost is that of the chosen pairs alone.
    """
    pairs = dispatch(routing)
    rows = x.flatten(0, 1).index_select(0, pairs.token)
    v = grouped_matmul(activation(grouped_matmul(rows, wa.flatten(0, 1), pairs.ends)), wb.flatten(0, 1), pairs.ends)
    rho = routing.weights.flatten().index_select(0, pairs.slot).to(v.dtype)
    terms = rho[:, None] * (unit_rms(v) if normalise else v)
    if pairs.inverse is None:
        return torch.zeros_like(x).flatten(0, 1).index_add(0, pairs.token, terms).view_as(x)
    return terms.index_select(0, pairs.inverse.flatten()).view(*pairs.inverse.shape, -1).sum(1).view_as(x)


def dense_experts(
    x: Tensor, routing: Routing, wa: Tensor, wb: Tensor, activation: Callable[[Tensor], Tensor], normalise: bool = False
) -> Tensor:
    """The same sum as :func:`grouped_experts` at the cost of all experts: everything is computed, then masked.

    For narrow models, where many small kernels cost more than the arithmetic, and for k = n.
    """
    runs, n, d, c = wa.shape
    gates = (routing.weights * routing.mask).to(x.dtype)[..., None]  # (R, T, n, 1)
    hidden = activation(torch.bmm(x, wa.transpose(1, 2).reshape(runs, d, n * c))).unflatten(-1, (n, c))
    if not normalise:  # the block form of a feed-forward layer, read backwards
        return torch.bmm((gates * hidden).flatten(2), wb.reshape(runs, n * c, d))
    return (gates.transpose(1, 2) * unit_rms(hidden.transpose(1, 2) @ wb)).sum(1)


EXPERTS = {"grouped": grouped_experts, "dense": dense_experts}


class MoE(nn.Module):
    """A stack of mixture-of-experts layers, x (R, ..., d) -> (R, ..., d): y = gain * sum over the chosen i of rho_i e_i.

    rho = h(x wr) with h ``gate`` of :data:`GATES`; e_i = f(x wa_i) wb_i, of RMS 1 where ``normalise``. Chosen are the k largest of
    rho + bias, or with ``k`` None those with rho + bias > 0; ``scores`` names another gate for the choice. k, method and bias may be
    changed between calls; ``bias`` (R, n) is a buffer that no gradient reaches. ``load`` (R, n) is that of the last call.

    ``wa`` (R, n, d, c) and ``wb`` (R, n, c, d) have entries N(0, 1/d_in), ``wr`` (R, d, n) N(0, router_std^2), ``gain`` (R,) is 1.
    ``method`` is ``"grouped"`` or ``"dense"``: same result, other cost.
    """

    def __init__(
        self,
        init: stacked.Init,
        d: int,
        width: int,
        experts: int,
        *,
        k: int | None,
        gate: str = "softmax",
        scores: str | None = None,
        normalise: bool = False,
        activation: str = "gelu",
        router_std: float = 0.02,
        method: str = "grouped",
    ):
        super().__init__()
        if k is not None and not 1 <= k <= experts:
            raise ValueError(f"k={k}: choose between 1 and all {experts} experts, or None for a threshold")
        choices = {
            "gate": (gate, GATES),
            "scores": (scores or gate, GATES),
            "activation": (activation, stacked.ACTIVATIONS),
            "method": (method, EXPERTS),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")
        self.k, self.normalise, self.method = k, normalise, method
        self.gate, self.scores = GATES[gate], None if scores is None else GATES[scores]
        self.activation = stacked.ACTIVATIONS[activation]
        self.wa = init.normal(experts, d, width, std=d**-0.5)
        self.wb = init.normal(experts, width, d, std=width**-0.5)
        self.wr = init.normal(d, experts, std=router_std)
        self.gain = nn.Parameter(torch.ones(init.runs))
        self.register_buffer("bias", torch.zeros(init.runs, experts))
        self.load: Tensor | None = None

    def route(self, x: Tensor) -> Routing:
        """Weights and choice for x (R, T, d); logits at least in float32."""
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = torch.bmm(x.to(wide), self.wr.to(wide))
        weights = self.gate(logits)
        scores = weights if self.scores is None else self.scores(logits)
        return route(weights, scores.detach() + self.bias[:, None], self.k)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        routing = self.route(tokens)
        self.load = expert_load(routing.mask)
        y = EXPERTS[self.method](tokens, routing, self.wa.to(x.dtype), self.wb.to(x.dtype), self.activation, self.normalise)
        return (self.gain.to(x.dtype).view(-1, 1, 1) * y).view_as(x)


class Transformer(stacked.Transformer):
    """:class:`kexue_nb.nn.Transformer` with a mixture of experts, ``layers[l]``, for every feed-forward sublayer.

    ``moe`` holds the arguments of :class:`MoE` behind the width: ``{"width": c, "experts": n, "k": k, ..}``. ``options`` are those of the
    plain Transformer, ``width`` and ``activation`` aside.
    """

    def __init__(self, init: stacked.Init, *, d: int, depth: int, moe: dict, **options):
        if clash := {"width", "activation"} & set(options):
            raise ValueError(f"{min(clash)} belongs to the experts: give it in moe=")
        super().__init__(init, d=d, depth=depth, width=1, **options)
        del self.w1, self.w2
        self.layers = nn.ModuleList(MoE(init, d, **moe) for _ in range(depth))

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
        matrices = zip(*(w.to(precision).unbind(1) for w in (self.wq, self.wk, self.wv, self.wo)), strict=True)
        gains = iter([None] * (2 * self.depth) if self.gains is None else self.gains.unbind(1))
        for own, layer in zip(matrices, self.layers, strict=True):
            x = self._sublayer(x, lambda h, own=own: self._attention(h, *own, rotation), next(gains))
            yield x
            x = self._sublayer(x, layer, next(gains))
            yield x

    @torch.no_grad()
    def match_output(self, ids: Tensor, rms: float) -> None:
        """Set every layer's gain so that its output on ``ids`` (R, B, T) has the given RMS in each run, from the first layer up."""
        for layer in self.layers:
            seen: list[Tensor] = []
            handle = layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
            self(ids)
            handle.remove()
            layer.gain.mul_(rms / seen[0].flatten(1).square().mean(1).sqrt())

    def balance(self, rate: float) -> None:
        """One step of :func:`balance_` in every layer, by the loads of the last call: after the optimizer's step."""
        for layer in self.layers:
            if layer.load is None:
                raise ValueError("no load yet: call the model before balancing it")
            balance_(layer.bias, layer.load, rate)
