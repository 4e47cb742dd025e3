"""Optimizers and schedules for stacks of runs that train side by side.

A *stack* is a list of parameters whose leading axis counts runs: run r owns slice r of each. Every run has a learning rate of
its own, so that a whole tuning grid trains in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class StackedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay (AdamW, arXiv 1711.05101), one learning rate a run.

    ``params``: tensors of shape (runs, ...). ``lr``: tensor (runs,) of positive rates. ``weight_decay`` applies to tensors with
    at least three axes (matrices of a stack), not to gains and biases. Slice r evolves as under torch.optim.AdamW with lr[r].
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        params = list(params)
        lr = torch.as_tensor(lr, dtype=torch.float32)
        if lr.ndim != 1 or not bool((lr > 0).all()) or not bool(torch.isfinite(lr).all()):
            raise ValueError(f"lr must be a vector of positive rates, one a run; got {lr!r}")
        for p in params:
            if p.ndim < 1 or p.shape[0] != len(lr):
                raise ValueError(f"a parameter of shape {tuple(p.shape)} does not lead with the {len(lr)} runs that lr has rates for")
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas={betas}: both must lie in [0, 1)")
        super().__init__(params, {"betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.lr = lr.to(params[0].device)

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at ``factor`` times the learning rates (the schedule's value)."""
        for group in self.param_groups:
            (b1, b2), eps = group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["m"], state["v"], state["steps"] = torch.zeros_like(p), torch.zeros_like(p), 0
                state["steps"] += 1
                m, v = state["m"].lerp_(p.grad, 1 - b1), state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                rate = (factor * self.lr).view(-1, *[1] * (p.ndim - 1))
                if group["weight_decay"] and p.ndim >= 3:
                    p.mul_(1 - rate * group["weight_decay"])
                denominator = (v / (1 - b2 ** state["steps"])).sqrt_().add_(eps)
                p.sub_(rate / (1 - b1 ** state["steps"]) * m / denominator)


def warmup_cosine(step: int, steps: int, *, warmup: float = 0.1, final: float = 0.1) -> float:
    """Schedule value in (0, 1] at ``step`` of ``steps``: linear over the first ``warmup`` share, then a cosine down to ``final``."""
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not in 0..{steps - 1}")
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
