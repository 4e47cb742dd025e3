"""One training loop, for a stack of runs (see :mod:`kexue_nb.optim`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kexue_nb.optim import StackedAdam


def fit(
    loss: Callable[[int], Tensor],
    optimizer: StackedAdam,
    steps: int,
    *,
    schedule: Callable[[int, int], float] = lambda step, steps: 1.0,
    watch: Callable[[int, Tensor], None] = lambda step, losses: None,
) -> Tensor:
    """Train for ``steps`` updates and return the losses of the last one, shape (runs,).

    ``loss(step)`` draws a batch and returns one loss a run; runs share no parameter, so the sum's gradient is each run's own.
    ``watch(step, losses)`` sees every step. Raises FloatingPointError where every run has diverged.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1")
    losses = torch.empty(0)
    for step in range(steps):
        losses = loss(step)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step(schedule(step, steps))
        losses = losses.detach()
        watch(step, losses)
    if not bool(torch.isfinite(losses).any()):
        raise FloatingPointError(f"all {len(losses)} runs diverged within {steps} steps; lower the learning rates")
    return losses
