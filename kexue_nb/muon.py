"""Muon as a plain torch optimizer, and the pieces that the notebook ``muon`` looks at one by one.

Matrices are (out, in), as torch.nn.Linear keeps them; leading axes, if any, count independent matrices. Muon was proposed by Jordan et al.
(2024, https://kellerjordan.github.io/posts/muon/); weight decay and the matched update size are those of arXiv 2502.16982 and of the post
https://kexue.fm/archives/10739.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kexue_nb.optim import MUON_COEFFICIENTS

RULES = ("original", "match_rms_adamw", "spectral")


def shape_factor(rule: str, rows: int, columns: int) -> float:
    """What the learning rate of a (rows, columns) = (out, in) matrix is multiplied by.

    ``"original"`` sqrt(max(1, rows/columns)) (Jordan's code), ``"match_rms_adamw"`` 0.2 sqrt(max(rows, columns)) (arXiv 2502.16982,
    section 2.2), ``"spectral"`` sqrt(rows/columns) (arXiv 2310.17813). Raises ValueError for another rule or an empty matrix.
    """
    if rule not in RULES:
        raise ValueError(f"adjust_lr_fn={rule!r}: give one of {', '.join(map(repr, RULES))}")
    if rows < 1 or columns < 1:
        raise ValueError(f"a matrix of shape ({rows}, {columns}): both sides must be at least 1")
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns) if rule == "original" else rows / columns)


def orthogonalize(
    stack: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Newton-Schulz of a stack (k, m, n), in ``dtype`` and in the order of operations of torch.optim.Muon, all matrices at once.

    X = G/max(||G||_F, eps), then ``steps`` times X <- aX + (bA + cA^2)X with A = XX^T; tall matrices are turned on their side first. The
    result is in ``dtype``. :func:`kexue_nb.optim.newton_schulz` is the same map in another rounding order. Raises ValueError for another
    number of axes.
    """
    if stack.ndim != 3:
        raise ValueError(f"a tensor of shape {tuple(stack.shape)}: give a stack (k, m, n); one matrix is G[None]")
    a, b, c = coefficients
    X = stack.to(dtype)
    tall = stack.shape[-2] > stack.shape[-1]
    X = X.mT if tall else X
    X = X / torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        A = torch.bmm(X, X.mT)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon, step by step, with all matrices of one shape orthogonalised together.

    The momentum buffer is B <- momentum B + (1 - momentum) G, the direction is the Newton-Schulz image of B (or with ``nesterov`` of
    (1 - momentum) G + momentum B), and W <- (1 - lr weight_decay) W - lr shape_factor direction. ``params``: matrices (..., out, in), or
    groups of them with options of their own; the rest of a model (embeddings, output layer, gains, biases) belongs to AdamW. Names,
    defaults and ``state_dict`` are torch's, so that either optimizer goes on where the other stopped; ``adjust_lr_fn`` also takes
    ``"spectral"``.
    Raises ValueError for settings out of range, for vectors, and for complex or sparse tensors.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )
        for group in self.param_groups:
            _check(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; returns what ``closure``, called first with gradients on, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict, params: list[Tensor]) -> None:
        gradients, momentum = [p.grad for p in params], group["momentum"]
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad, memory_format=torch.preserve_format)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        wanted = torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers
        directions = _orthogonalized(wanted, group["ns_steps"], group["ns_coefficients"], group["eps"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for p, direction in zip(params, directions, strict=True):
            p.add_(direction, alpha=-group["lr"] * shape_factor(group["adjust_lr_fn"] or "original", *p.shape[-2:]))


def _check(group: dict) -> None:
    for name, low in (("lr", 0.0), ("weight_decay", 0.0), ("momentum", 0.0), ("ns_steps", 1), ("eps", 0.0)):
        if not low <= group[name] < math.inf:
            raise ValueError(f"{name}={group[name]}: give a finite number, at least {low}")
    if not group["momentum"] < 1:
        raise ValueError(f"momentum={group['momentum']}: give a number below 1, the share of the old buffer that is kept")
    if group["adjust_lr_fn"] not in (None, *RULES):
        raise ValueError(f"adjust_lr_fn={group['adjust_lr_fn']!r}: give None or one of {', '.join(map(repr, RULES))}")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError(f"ns_coefficients={group['ns_coefficients']}: give three, those of X, X^3 and X^5")
    for p in group["params"]:
        if p.ndim < 2 or p.is_complex() or p.is_sparse:
            kind = "complex " if p.is_complex() else "sparse " if p.is_sparse else ""
            raise ValueError(
                f"Muon takes real dense matrices (..., out, in); got a {kind}tensor of shape {tuple(p.shape)}; give it to AdamW"
            )


def _orthogonalized(matrices: list[Tensor], steps: int, coefficients: tuple[float, float, float], eps: float) -> list[Tensor]:
    """:func:`orthogonalize` of each tensor (..., m, n), one stack for all that have the same two sides, in either order."""
    flat, places = {}, []
    for M in matrices:
        stack = M.reshape(-1, *M.shape[-2:]).bfloat16()
        tall = M.shape[-2] > M.shape[-1]
        stack = stack.mT if tall else stack
        bucket = flat.setdefault((stack.shape[1:], M.device), [])
        places.append((bucket, sum(len(other) for other in bucket), len(stack), tall))
        bucket.append(stack)
    done = {id(bucket): orthogonalize(torch.cat(bucket), steps, coefficients, eps) for bucket in flat.values()}
    images = []
    for M, (bucket, first, count, tall) in zip(matrices, places, strict=True):
        image = done[id(bucket)][first : first + count]
        images.append((image.mT if tall else image).reshape(M.shape))
    return images


def schatten_direction(G: Tensor, p: float) -> Tensor:
    """The D with Schatten p-norm 1 and the largest tr(G^T D), p > 1: U diag(s^(q-1)) V^T / ||s||_q^(q-1) with 1/p + 1/q = 1; (..., m, n).

    Steepest descent under that norm goes along -D: p = 2 is the normalised gradient, p = inf the matrix sign (Muon). Raises ValueError for
    p <= 1 (at p = 1 only the top singular pair is left).
    """
    if not p > 1:
        raise ValueError(f"p={p}: give a number above 1, or math.inf")
    q = 1.0 if math.isinf(p) else p / (p - 1)
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    s = s / s[..., :1]
    keep = s > max(G.shape[-2:]) * torch.finfo(G.dtype).eps
    powers = torch.where(keep, s ** (q - 1), 0)
    norm = (torch.where(keep, s, 0) ** q).sum(-1, keepdim=True) ** (1 - 1 / q)
    return (U * (powers / norm)[..., None, :]) @ Vh


def newton_schulz_flops(rows: int, columns: int, steps: int = 5) -> int:
    """Floating-point operations of :func:`orthogonalize` for one matrix with sides n <= m: ``steps`` times 4 n^2 m + 2 n^3."""
    n, m = sorted((rows, columns))
    return steps * (4 * n * n * m + 2 * n**3)
