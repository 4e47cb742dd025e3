"""Measures of attention distributions, and statistics with their errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def participation_ratio(p: Tensor) -> Tensor:
    """1 / sum p_i^2 over the last axis: the effective number of items that share the weight, between 1 and n."""
    return 1 / _distribution(p).square().sum(-1)


def renyi_entropy(p: Tensor, order: float) -> Tensor:
    """Renyi entropy log(sum p_i^order) / (1 - order) in nats over the last axis; Shannon's at order 1, min-entropy at inf."""
    _distribution(p)
    if not order >= 0:
        raise ValueError(f"order={order}: give a number >= 0 (1 is Shannon, math.inf the min-entropy)")
    if order == 1:
        return torch.special.entr(p).sum(-1)
    if math.isinf(order):
        return -p.amax(-1).log()
    if order == 0:
        return (p > 0).sum(-1).to(p.dtype).log()
    return torch.logsumexp(order * p.log(), -1) / (1 - order)  # in the log domain: high powers underflow


def _distribution(p: Tensor) -> Tensor:
    total = p.sum(-1)
    if p.numel() == 0 or bool((p < 0).any()) or not torch.allclose(total, torch.ones_like(total), atol=1e-3):
        raise ValueError("p must hold probabilities that sum to 1 over the last axis")
    return p


def mean_stderr(x: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and its standard error over ``axis`` (at least two draws), in float64."""
    x = x.double()
    if x.shape[axis] < 2:
        raise ValueError(f"{x.shape[axis]} draws along axis {axis}; a standard error needs at least 2")
    return x.mean(axis), x.std(axis) / math.sqrt(x.shape[axis])
