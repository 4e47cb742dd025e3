"""Training a stack of runs (see :mod:`kexue_nb.optim`): the loop, the same loop as one CUDA graph, and the coordinate check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kexue_nb import metrics
from kexue_nb.optim import Stacked, Together

Schedule = Callable[[int, int], float | Tensor]  # a factor on the rates: one for all runs, or (runs,) one for each
Watch = Callable[[int, Tensor], None]


def fit(
    loss: Callable[[int], Tensor],
    optimizer: Stacked | Together,
    steps: int,
    *,
    schedule: Schedule = lambda step, steps: 1.0,
    watch: Watch = lambda step, losses: None,
) -> Tensor:
    """Train for ``steps`` updates and return the losses of the last one, shape (runs,).

    ``loss(step)`` draws a batch and returns one loss a run; runs share no parameter, so the sum's gradient is each run's own.
    ``watch(step, losses)`` sees every step. Raises FloatingPointError where every run has diverged.
    """

    def advance(step: int) -> Tensor:
        losses = loss(step)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step(schedule(step, steps))
        return losses.detach()

    return _loop(advance, steps, watch)


def fit_graphed(
    loss: Callable[..., Tensor],
    batch: Callable[[int], tuple[Tensor, ...]],
    optimizer: Stacked | Together,
    steps: int,
    *,
    schedule: Schedule = lambda step, steps: 1.0,
    watch: Watch = lambda step, losses: None,
) -> Tensor:
    """:func:`fit` with the whole step (forward, backward, update) replayed as one CUDA graph: for models of many small kernels.

    ``batch(step)`` draws tensors of fixed shapes, ``loss(*batch)`` is made of tensor operations alone. On the CPU it is :func:`fit`.
    """
    drawn = batch(0)
    if not drawn[0].is_cuda:
        return fit(lambda step: loss(*(batch(step) if step else drawn)), optimizer, steps, schedule=schedule, watch=watch)
    held = [t.clone() for t in drawn]

    def once() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        losses = loss(*held)
        losses.sum().backward()
        optimizer.update()
        return losses.detach()

    optimizer.schedule(0.0)  # the warm-up that a capture needs moves no parameter
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            once()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = once()
    optimizer.reset()

    def advance(step: int) -> Tensor:
        if step:
            for kept, new in zip(held, batch(step), strict=True):
                kept.copy_(new)
        optimizer.schedule(schedule(step, steps))
        graph.replay()
        return losses.clone()

    return _loop(advance, steps, watch)


def _loop(advance: Callable[[int], Tensor], steps: int, watch: Watch) -> Tensor:
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1")
    for step in range(steps):
        losses = advance(step)
        watch(step, losses)
    if not bool(torch.isfinite(losses).any()):
        raise FloatingPointError(f"all {len(losses)} runs diverged within {steps} steps; lower the learning rates")
    return losses


def coordinate_check(features: Callable[[], Mapping[str, Tensor]], step: Callable[[int], None], steps: int) -> dict[str, Tensor]:
    """How far each feature has moved since the start, in RMS, after each of ``steps`` steps: name -> (steps, runs).

    ``features()`` gives named tensors (runs, ...) on a fixed probe batch, ``step(t)`` trains once. Width-free feature learning means that
    the result does not depend on the width (arXiv 2203.03466, section D.1, with RMS in place of the mean modulus).
    """
    with torch.no_grad():
        start = {name: x.clone() for name, x in features().items()}
    moved: dict[str, list[Tensor]] = {name: [] for name in start}
    for t in range(steps):
        step(t)
        with torch.no_grad():
            for name, x in features().items():
                moved[name].append(metrics.rms((x - start[name]).flatten(1)))
    return {name: torch.stack(rows) for name, rows in moved.items()}
