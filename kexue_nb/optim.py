"""Optimizers and schedules for stacks of runs that train side by side; the matrix sign and its Newton-Schulz iteration.

A *stack* is a list of parameters whose leading axis counts runs: run r owns slice r of each. Every run has a learning rate of
its own, so that a whole tuning grid trains in one pass. Matrices act on row vectors: W is (d_in, d_out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def msign(G: Tensor, tolerance: float | None = None) -> Tensor:
    """The matrix sign sum u_i v_i^T over the singular values above ``tolerance`` times the largest; (..., m, n) -> (..., m, n).

    The polar factor U V^T where G has full rank, and 0 for G = 0. The default tolerance is the usual numerical rank's, max(m, n)
    times the machine epsilon. Muon's exact direction (post 10592; arXiv 2502.16982, equation 1).
    """
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    tolerance = max(G.shape[-2:]) * torch.finfo(G.dtype).eps if tolerance is None else tolerance
    keep = (tolerance * S[..., :1] < S).to(G.dtype)
    return (U * keep[..., None, :]) @ Vh


def newton_schulz(
    G: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Approximate matrix sign by iterating X <- aX + b(XX^T)X + c(XX^T)^2 X from X = G/||G||_F; (..., m, n) -> (..., m, n).

    Only matrix products, in ``dtype`` (default: that of G). Muon's coefficients do not converge: singular values end between about 0.7
    and 1.2, fast. (15/8, -5/4, 3/8) converges to 1, slowly. Maps 0 to 0.
    """
    a, b, c = coefficients
    X = G.to(dtype or G.dtype)
    X = X / (torch.linalg.matrix_norm(X)[..., None, None] + 1e-7)
    wide = G.shape[-2] <= G.shape[-1]
    X = X if wide else X.mT
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return (X if wide else X.mT).to(G.dtype)


def spectral_multiplier(d_in: int, d_out: int) -> float:
    """sqrt(d_out/d_in), the spectral norm that keeps the RMS of xW at that of x (arXiv 2310.17813, condition 1)."""
    if d_in < 1 or d_out < 1:
        raise ValueError(f"shape ({d_in}, {d_out}): both sides must be at least 1")
    return math.sqrt(d_out / d_in)


class Stacked(torch.optim.Optimizer):
    """Descent on a stack with one learning rate a run: p <- (1 - rate * weight_decay) p - multiplier * rate * direction.

    ``params``: tensors (runs, ...), or groups ``{"params": [...], "multiplier": m}``. ``lr``: (runs,) positive rates; the rate of a step is
    ``lr`` times the schedule's factor. The multiplier is for the step alone: decay does not see it, as in torch.optim.Muon.
    ``weight_decay`` applies to tensors with at least three axes (matrices of a stack), not to gains and biases. Subclasses give
    :meth:`direction`. ``schedule`` and ``update`` are the two halves of ``step``; ``update`` holds tensor operations only, so that a CUDA
    graph can capture it.
    """

    def __init__(self, params: Iterable, lr: Tensor, *, weight_decay: float = 0.0):
        lr = torch.as_tensor(lr, dtype=torch.float32)
        if lr.ndim != 1 or not bool((lr > 0).all()) or not bool(torch.isfinite(lr).all()):
            raise ValueError(f"lr must be a vector of positive rates, one a run; got {lr!r}")
        super().__init__(params, {"multiplier": 1.0, "weight_decay": weight_decay})
        for group in self.param_groups:
            if not 0 < group["multiplier"] < math.inf:
                raise ValueError(f"multiplier={group['multiplier']}: give a positive number")
            for p in group["params"]:
                if p.ndim < 1 or p.shape[0] != len(lr):
                    raise ValueError(f"a parameter of shape {tuple(p.shape)} does not lead with the {len(lr)} runs that lr has rates for")
        device = self.param_groups[0]["params"][0].device
        self.lr, self.rate = lr.to(device), lr.to(device, copy=True)

    def direction(self, p: Tensor, state: dict) -> Tensor:
        """The step of parameter ``p`` before its rate, from ``p.grad``; ``state`` keeps its tensors from step to step."""
        raise NotImplementedError

    def schedule(self, factor: float) -> None:
        """Set the rates of the next updates to ``factor`` times the learning rates."""
        self.rate.copy_(self.lr).mul_(factor)

    @torch.no_grad()
    def update(self) -> None:
        """One update at the scheduled rates."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                rate = self.rate.view(-1, *[1] * (p.ndim - 1))
                if group["weight_decay"] and p.ndim >= 3:
                    p.mul_(1 - rate * group["weight_decay"])
                p.sub_(group["multiplier"] * rate * self.direction(p, self.state[p]))

    def step(self, factor: float = 1.0) -> None:
        """One update at ``factor`` times the learning rates (the schedule's value)."""
        self.schedule(factor)
        self.update()

    def reset(self) -> None:
        """Forget all steps: zero every state tensor in place."""
        for state in self.state.values():
            for tensor in state.values():
                tensor.zero_()


class StackedSGD(Stacked):
    """Gradient descent; slice r evolves as under torch.optim.SGD with lr[r]."""

    def direction(self, p: Tensor, state: dict) -> Tensor:
        return p.grad


class StackedAdam(Stacked):
    """Adam with decoupled weight decay (AdamW, arXiv 1711.05101); slice r evolves as under torch.optim.AdamW with lr[r]."""

    def __init__(
        self,
        params: Iterable,
        lr: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas={betas}: both must lie in [0, 1)")
        super().__init__(params, lr, weight_decay=weight_decay)
        self.betas, self.eps = betas, eps

    def direction(self, p: Tensor, state: dict) -> Tensor:
        b1, b2 = self.betas
        if not state:
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] = torch.zeros((), dtype=torch.float64, device=p.device)
        t = state["step"].add_(1)
        m, v = state["m"].lerp_(p.grad, 1 - b1), state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
        return m / (1 - b1**t) / (v / (1 - b2**t)).sqrt_().add_(self.eps)


class StackedMuon(Stacked):
    """Muon: the matrix sign of the momentum by Newton-Schulz (Jordan et al. 2024; arXiv 2502.16982), for matrices (runs, ..., m, n).

    Slice r evolves as under torch.optim.Muon with lr[r] and its ``adjust_lr_fn`` as the group's ``multiplier``. ``steps`` and ``dtype``
    go to :func:`newton_schulz`.
    """

    def __init__(
        self,
        params: Iterable,
        lr: Tensor,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        dtype: torch.dtype | None = None,
        weight_decay: float = 0.0,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: it must lie in [0, 1)")
        super().__init__(params, lr, weight_decay=weight_decay)
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 3:
                    raise ValueError(f"Muon takes stacks of matrices (runs, ..., m, n); got {tuple(p.shape)}; give it to StackedAdam")
        self.momentum, self.nesterov, self.iterations, self.dtype = momentum, nesterov, steps, dtype

    def direction(self, p: Tensor, state: dict) -> Tensor:
        if not state:
            state["m"] = torch.zeros_like(p)
        m = state["m"].lerp_(p.grad, 1 - self.momentum)
        return newton_schulz(p.grad.lerp(m, self.momentum) if self.nesterov else m, self.iterations, dtype=self.dtype)


class Together:
    """Several optimizers that step as one, each on its own parameters."""

    def __init__(self, *optimizers: Stacked):
        if not optimizers:
            raise ValueError("no optimizer given")
        self.optimizers = optimizers

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def schedule(self, factor: float) -> None:
        for optimizer in self.optimizers:
            optimizer.schedule(factor)

    def update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.update()

    def step(self, factor: float = 1.0) -> None:
        self.schedule(factor)
        self.update()

    def reset(self) -> None:
        for optimizer in self.optimizers:
            optimizer.reset()


class Clipped(Together):
    """Optimizers that step as one, the gradient of each run first scaled down to the norm ``bound`` over all its parameters.

    ``bound``: one positive number, or (runs,) one for each run; infinity leaves a run as it is. A run's gradient evolves as under
    torch.nn.utils.clip_grad_norm_.
    """

    def __init__(self, bound: float | Tensor, *optimizers: Stacked):
        super().__init__(*optimizers)
        lr = optimizers[0].lr
        bound = torch.as_tensor(bound, dtype=torch.float32, device=lr.device)
        if bound.shape not in ((), lr.shape) or not bool((bound > 0).all()):
            raise ValueError(f"bound={bound.tolist()}: give a positive number, or one for each of {len(lr)} runs")
        self.bound = bound.expand_as(lr)

    @torch.no_grad()
    def update(self) -> None:
        params = (p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in params if p.grad is not None]
        norm = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in gradients]).sum(0).sqrt()
        factor = (self.bound / norm).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
        super().update()


def warmup_cosine(step: int, steps: int, *, warmup: float = 0.1, final: float = 0.1) -> float:
    """Schedule value in (0, 1] at ``step`` of ``steps``: linear over the first ``warmup`` share, then a cosine down to ``final``."""
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not in 0..{steps - 1}")
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
