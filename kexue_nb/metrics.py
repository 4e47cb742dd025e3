"""Measures of attention distributions and of matrices, and statistics with their errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
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


def best_rows(labels: Sequence[Hashable], values: Sequence[Sequence[float]], *, largest: bool = False) -> dict[Hashable, int]:
    """For each label, in order of appearance, the index of its row (one number a seed) with the smallest mean, or the largest.

    The choice of a tuning grid: rows that share a label are one arm at several learning rates.
    """
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels for {len(values)} rows")
    means = np.array([np.mean(row) for row in values])
    if not np.isfinite(means).all():
        raise ValueError("a row's mean is not finite; give diverged runs a number before they are compared")
    rows: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    return {label: (max if largest else min)(mine, key=means.__getitem__) for label, mine in rows.items()}


def rms(x: Tensor) -> Tensor:
    """Root mean square over the last axis."""
    return x.square().mean(-1).sqrt()


def spectral_norm(W: Tensor, iterations: int | None = None) -> Tensor:
    """Largest singular value, (..., m, n) -> (...): exact by SVD, or with ``iterations`` of power iteration, which never exceeds it.

    The power iteration starts from fixed random vectors, so it repeats itself.
    """
    if iterations is None:
        return torch.linalg.matrix_norm(W, 2)
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: give at least 1, or None for the exact norm")
    v = torch.randn(W.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(W)
    for _ in range(iterations):
        v = W.mT @ (W @ v)
        v = v / (torch.linalg.vector_norm(v, dim=-2, keepdim=True) + torch.finfo(W.dtype).tiny)
    return torch.linalg.vector_norm(W @ v, dim=(-2, -1))


def stable_rank(W: Tensor) -> Tensor:
    """||W||_F^2 / ||W||_2^2, between 1 and the rank; (..., m, n) -> (...)."""
    return W.square().sum((-2, -1)) / spectral_norm(W).square()


def alignment(x: Tensor, W: Tensor) -> Tensor:
    """How tight ||xW|| <= ||x|| ||W||_2 is: rms(xW) / (sqrt(d_in/d_out) rms(x) ||W||_2), in [0, 1], 1 where it is attained.

    ``x`` (..., n, d_in), its RMS taken over all n rows; ``W`` (..., d_in, d_out).
    """
    d_in, d_out = W.shape[-2:]
    if x.shape[-1] != d_in:
        raise ValueError(f"x has rows of {x.shape[-1]} and W takes rows of {d_in}")
    return rms((x @ W).flatten(-2)) / (math.sqrt(d_in / d_out) * rms(x.flatten(-2)) * spectral_norm(W))


@dataclass(frozen=True)
class Slope:
    """A fitted power law y = coefficient * x^slope, the standard error of its slope, and how many points were fitted."""

    slope: float
    stderr: float
    coefficient: float
    points: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the slope from Student's t with points - 2 degrees of freedom."""
        half = float(scipy.stats.t.ppf((1 + level) / 2, self.points - 2)) * self.stderr
        return self.slope - half, self.slope + half


def loglog_slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Least-squares power law through the points (x, y), all positive, at least three distinct x."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < 3:
        raise ValueError(f"x of shape {x.shape} and y of shape {y.shape}: give two equally long lists with at least three distinct x")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("x and y must be positive and finite: their logarithms are fitted")
    u, v = np.log(x), np.log(y)
    du = u - u.mean()
    slope = float(du @ v / (du @ du))
    residual = v - v.mean() - slope * du
    stderr = math.sqrt(residual @ residual / (len(x) - 2) / (du @ du))
    return Slope(slope, stderr, math.exp(v.mean() - slope * u.mean()), len(x))


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to feature rows (N, k) and (M, k): |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)).

    The square that "FID" reports, in whatever feature space the rows live in. Both samples need more rows than features.
    """
    a, b = a.double(), b.double()
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) <= a.shape[1]:
        raise ValueError(f"features of shape {tuple(a.shape)} and {tuple(b.shape)}: give two samples of more rows than their common width")
    A, B = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)


def w2_1d(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-2 distance of two samples on the line, over the last axis: the RMS difference of their quantiles.

    Samples of different sizes are compared at the quantile levels of the larger one.
    """
    a, b = a.double().sort(-1).values, b.double().sort(-1).values
    if a.shape[-1] != b.shape[-1]:
        n = max(a.shape[-1], b.shape[-1])
        a, b = (x if x.shape[-1] == n else _quantiles(x, n) for x in (a, b))
    return (a - b).square().mean(-1).sqrt()


def _quantiles(ordered: Tensor, n: int) -> Tensor:
    m = ordered.shape[-1]
    at = ((torch.arange(n, dtype=torch.float64, device=ordered.device) + 0.5) / n * m - 0.5).clamp(0, m - 1)
    low = at.floor().long()
    high = (low + 1).clamp_max(m - 1)
    return ordered[..., low] + (at - low) * (ordered[..., high] - ordered[..., low])


def sliced_w2(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> float:
    """Root mean square over random directions of the Wasserstein-2 distance of the projections; a and b are (N, ...) and (M, ...)."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"samples of {a.shape[1]} and {b.shape[1]} dimensions, {len(a)} and {len(b)} rows: give two samples of equal dimension"
        )
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64).to(a.device)
    directions = directions / directions.norm(dim=0)
    return float(w2_1d((a @ directions).T, (b @ directions).T).square().mean().sqrt())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two samples (N, ...) and (M, ...), without the pairs of a row with itself.

    Zero in the mean only for equal laws (Szekely and Rizzo 2013); an unbiased estimate, so it can be slightly negative.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"samples of shape {tuple(a.shape)} and {tuple(b.shape)}: give two samples of equal dimension, two rows or more")
    within = sum(float(torch.cdist(x, x).sum()) / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * float(torch.cdist(a, b).mean()) - within
