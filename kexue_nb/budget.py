"""A budget of experts that tokens share: all experts above a threshold, whose mean number a token is steered (kexue.fm/archives/10815).

Chosen are the experts with rho_i + b_i > 0 (:class:`kexue_nb.moe.MoE` with ``k=None``). The bias b, which no gradient reaches, has two
goals: equal loads, and a sum of the loads, the mean number of experts a token, of k. A rule maps ``load`` (..., n), the share of the
tokens that each expert gets (:func:`kexue_nb.moe.expert_load`), to the direction (..., n) that is subtracted from b.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy.special
import torch
from torch import Tensor


def unit_rms(v: Tensor) -> Tensor:
    """v / sqrt(mean v^2) over the last axis; 0 stays 0."""
    size = v.square().mean(-1, keepdim=True).sqrt()
    return v / size.clamp_min(torch.finfo(v.dtype).tiny)


def _imbalance(load: Tensor) -> Tensor:
    """A positive multiple of F - 1/n, F = load / sum(load)."""
    return load * load.shape[-1] - load.sum(-1, keepdim=True)


def two_term(load: Tensor, k: float) -> Tensor:
    """sign(F - 1/n) less its mean, plus sign(sum(load) - k) (equation 4 of the post)."""
    tilt = _imbalance(load).sign()
    return tilt - tilt.mean(-1, keepdim=True) + (load.sum(-1, keepdim=True) - k).sign()


def two_term_rms(load: Tensor, k: float) -> Tensor:
    """(F - 1/n) / RMS(F - 1/n), plus sign(sum(load) - k)."""
    return unit_rms(_imbalance(load)) + (load.sum(-1, keepdim=True) - k).sign()


def one_sided(load: Tensor, k: float) -> Tensor:
    """:func:`two_term` that answers an excess of the budget alone (equation 5)."""
    tilt = _imbalance(load).sign()
    return tilt - tilt.mean(-1, keepdim=True) + (load.sum(-1, keepdim=True) - k).clamp_min(0).sign()


def simplified(load: Tensor, k: float) -> Tensor:
    """sign(load - k/n) (equation 6)."""
    return (load - k / load.shape[-1]).sign()


def simplified_rms(load: Tensor, k: float) -> Tensor:
    """(load - k/n) / RMS(load - k/n) (equation 7, its norm read as a root mean square)."""
    return unit_rms(load - k / load.shape[-1])


RULES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "two-term": two_term,
    "two-term RMS": two_term_rms,
    "one-sided": one_sided,
    "simplified": simplified,
    "simplified RMS": simplified_rms,
}


@torch.no_grad()
def steer_(bias: Tensor, load: Tensor, k: float, rate: float | Tensor, rule: str = "two-term") -> None:
    """One step of a rule of :data:`RULES`, in place: b <- b - rate * direction. After the optimizer's step, with b in float32.

    ``bias`` and ``load`` are (..., n); ``rate`` is a number, or a tensor that broadcasts against them, such as (R, 1).
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: give one of {', '.join(map(repr, RULES))}")
    if bias.shape != load.shape:
        raise ValueError(f"bias {tuple(bias.shape)} and load {tuple(load.shape)} must have one shape")
    if not 0 < k <= load.shape[-1]:
        raise ValueError(f"k={k}: a budget lies above 0 and is at most {load.shape[-1]}, the number of experts")
    bias.sub_(rate * RULES[rule](load, k))


def bias_for_budget(experts: int, k: float, logit_std: float) -> float:
    """The bias at which k of ``experts`` pass on average, when scores are the sigmoid of logits N(0, logit_std^2).

    -sigmoid(logit_std * Phi^-1(1 - k/n)). A router of entries N(0, s^2) on inputs of RMS 1 has logit_std = s sqrt(d).
    """
    if not 0 < k <= experts:
        raise ValueError(f"k={k}: a budget lies above 0 and is at most {experts}, the number of experts")
    if not 0 < logit_std < math.inf:
        raise ValueError(f"logit_std={logit_std}: give a positive number")
    return -float(scipy.special.expit(logit_std * scipy.special.ndtri(1 - k / experts)))


def quantile_bias(scores: Tensor, k: float) -> Tensor:
    """The bias at which each expert passes the share k/n of these tokens: scores (..., T, n) -> (..., n).

    Minus the middle between the m-th and the next largest score of the expert, m = T k/n rounded: the fixed point of all rules.
    """
    tokens, n = scores.shape[-2:]
    m = round(tokens * k / n)
    if not 0 < m < tokens:
        raise ValueError(
            f"k={k} of {n} experts leaves {m} of {tokens} tokens to an expert; need at least one, and one that it does not get"
        )
    return -scores.sort(dim=-2, descending=True).values[..., m - 1 : m + 1, :].mean(-2)
