"""Effective ranks: how many singular values of a matrix count.

Every measure here is a function of the singular values, given as (..., n) in any order, so that a stack of spectra is measured at once;
none changes when the matrix is multiplied by a number, and all are 0 for the zero matrix. ``torch.linalg.svdvals`` gives the spectrum.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

# name -> (order of the Hill number, power of the singular values): the chart of all ratios of norms and entropies in use.
MEASURES = {
    "stable rank": (math.inf, 2.0),  # ||M||_F^2 / ||M||_2^2
    "intrinsic dimension": (math.inf, 1.0),  # ||M||_* / ||M||_2
    "participation ratio": (2.0, 1.0),  # ||M||_*^2 / ||M||_F^2
    "entropy rank": (1.0, 1.0),  # exp of the entropy of s / sum s (Roy and Vetterli 2007)
    "participation ratio of squares": (2.0, 2.0),  # ||M||_F^4 / ||M||_4^4
    "entropy rank of squares": (1.0, 2.0),  # exp of the entropy of s^2 / sum s^2 (arXiv 2502.16982, section 2.2)
}


def hill_number(weights: Tensor, order: float) -> Tensor:
    """(sum p_i^order)^(1/(1 - order)) over the last axis, with p = weights / sum: the effective number of items, (..., n) -> (...).

    Order 0 counts the weights that are not 0, 1 is the exponential of the entropy, 2 is 1 / sum p^2, inf is 1 / max p (Hill 1973).
    The weights are >= 0; where all are 0, the number is 0.
    """
    if not weights.is_floating_point() or weights.ndim < 1 or weights.shape[-1] < 1:
        raise ValueError(f"weights of type {weights.dtype} and shape {tuple(weights.shape)}: give floating point numbers (..., n), n >= 1")
    if not order >= 0:
        raise ValueError(f"order={order}: give a number >= 0 (1 is the entropy, math.inf the largest weight alone)")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("weights must be finite and >= 0")
    top = weights.amax(-1, keepdim=True)
    t = weights / torch.where(top > 0, top, 1.0)  # in [0, 1], the largest 1: no power of it overflows
    total = t.sum(-1)
    if order == 0:
        number = (t > 0).sum(-1).to(t.dtype)
    elif order == 1:
        number = total * (torch.special.entr(t).sum(-1) / torch.where(total > 0, total, 1.0)).exp()
    elif math.isinf(order):
        number = total
    else:
        number = ((t**order).sum(-1).log() / (1 - order) - order / (1 - order) * total.log()).exp()
    return torch.where(top[..., 0] > 0, number, 0.0)


def effective_rank(sigma: Tensor, order: float, power: float = 1.0) -> Tensor:
    """Hill number of ``order`` of the singular values to the ``power``: (..., n) -> (...), between 1 and the rank.

    ``effective_rank(s, *MEASURES[name])`` is the measure of that name.
    """
    if not 0 < power < math.inf:
        raise ValueError(f"power={power}: give a positive number (1 for singular values, 2 for their squares)")
    hill_number(sigma, 0)  # refuses what is no spectrum
    top = sigma.amax(-1, keepdim=True)
    return hill_number((sigma / torch.where(top > 0, top, 1.0)) ** power, order)


def all_measures(sigma: Tensor) -> dict[str, Tensor]:
    """Every measure of :data:`MEASURES` of the spectra (..., n): name -> (...)."""
    return {name: effective_rank(sigma, *chart) for name, chart in MEASURES.items()}


def normalized_entropy(sigma: Tensor, power: float = 2.0) -> Tensor:
    """Entropy of sigma^power / sum, over log n: in [0, 1]; (..., n) -> (...), n >= 2. Power 2 is the "SVD entropy" of arXiv 2502.16982."""
    if sigma.shape[-1] < 2:
        raise ValueError(f"{sigma.shape[-1]} singular values: the entropy is normalized by log n, which needs n >= 2")
    return effective_rank(sigma, 1, power).clamp_min(1.0).log() / math.log(sigma.shape[-1])


def threshold_rank(sigma: Tensor, *, relative: float | None = None, absolute: float | None = None) -> Tensor:
    """How many singular values exceed ``relative`` times the largest, or ``absolute``; (..., n) -> (...), int64.

    ``relative = max(m, n) * finfo(dtype).eps`` is the rank of ``numpy.linalg.matrix_rank``.
    """
    if (relative is None) == (absolute is None):
        raise ValueError("give exactly one of relative= and absolute=")
    bound = relative if absolute is None else absolute
    if not 0 <= bound < (1 if absolute is None else math.inf):
        raise ValueError(f"threshold {bound}: give a relative one in [0, 1), or an absolute one >= 0")
    return (sigma > (bound if relative is None else bound * sigma.amax(-1, keepdim=True))).sum(-1)


def error_rank(sigma: Tensor, error: float) -> Tensor:
    """The smallest r whose best rank-r approximation has a relative Frobenius error <= ``error``; (..., n) -> (...), int64.

    By Eckart and Young that error is sqrt(sum_{i > r} s_i^2 / sum s_i^2).
    """
    if not 0 <= error < 1:
        raise ValueError(f"error={error}: give a relative error in [0, 1)")
    s = sigma.double().sort(-1).values.square()
    tail = s.cumsum(-1)  # what is lost when the k smallest are left out
    return sigma.shape[-1] - (tail <= error**2 * tail[..., -1:]).sum(-1)


@functools.cache
def noise_median(beta: float) -> float:
    """Median of the singular values of an m x n matrix of noise, m/n = beta <= 1, over (its standard deviation times sqrt(n)).

    The root of the median of the Marchenko-Pastur law, for m and n to infinity.
    """
    import scipy.integrate
    import scipy.optimize

    if not 0 < beta <= 1:
        raise ValueError(f"beta={beta}: give the shorter side over the longer, in (0, 1]")
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)

    def density(s: float) -> float:
        if s == 0:  # the lower edge at beta = 1
            return high / math.pi
        return math.sqrt(max(0.0, (high**2 - s * s) * (s * s - low**2))) / (math.pi * beta * s)

    def below(s: float) -> float:
        return scipy.integrate.quad(density, low, s)[0] - 0.5

    return float(scipy.optimize.brentq(below, low, high, xtol=1e-10))


def noise_threshold(m: int, n: int, noise: float) -> float:
    """The hard threshold for singular values of an m x n matrix with independent errors of standard deviation ``noise`` (arXiv 1305.5870).

    Of all thresholds it has the smallest mean square error as m, n grow with a fixed ratio and rank: lambda(beta) sqrt(max(m, n)) noise,
    where lambda(1) = 4/sqrt(3).
    """
    if min(m, n) < 1 or not noise >= 0:
        raise ValueError(f"an {m} x {n} matrix with noise {noise}: give positive sides and a deviation >= 0")
    beta = min(m, n) / max(m, n)
    lam = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta * beta + 14 * beta + 1)))
    return lam * math.sqrt(max(m, n)) * noise


def estimated_rank(sigma: Tensor, m: int, n: int) -> Tensor:
    """How many singular values of an m x n matrix stand out of unknown noise (arXiv 1305.5870): (..., min(m, n)) -> (...), int64.

    The noise is read off the median singular value: fewer than half of them may carry signal. An estimate of a rank, no effective rank.
    """
    if sigma.shape[-1] != min(m, n):
        raise ValueError(f"{sigma.shape[-1]} singular values of an {m} x {n} matrix, which has {min(m, n)}")
    ordered, k = sigma.sort(-1).values, min(m, n)
    median = (ordered[..., (k - 1) // 2] + ordered[..., k // 2]) / 2
    noise = median / (noise_median(k / max(m, n)) * math.sqrt(max(m, n)))
    return (sigma > noise_threshold(m, n, 1.0) * noise[..., None]).sum(-1)


def stable_rank_bounds(M: Tensor, squarings: int = 8) -> tuple[Tensor, Tensor]:
    """Bounds below and above of ||M||_F^2 / ||M||_2^2 by matrix products alone, (..., m, n) -> two of (...).

    With G the smaller Gram matrix and k = 2^squarings, tr G^(k+1) / tr G^k <= ||M||_2^2 <= (tr G^k)^(1/k). Power iteration gives the upper
    bound only. Computed in float64.
    """
    if squarings < 0 or M.ndim < 2:
        raise ValueError(f"squarings={squarings} for a tensor of shape {tuple(M.shape)}: give at least 0, and matrices (..., m, n)")
    M = M.double()
    gram = M @ M.mT if M.shape[-2] <= M.shape[-1] else M.mT @ M
    one = _trace(gram)
    G = gram / torch.where(one > 0, one, 1.0)[..., None, None]  # trace 1
    P, log_scale = G, torch.zeros_like(one)  # G^k = exp(log_scale) P, tr P = 1
    for _ in range(squarings):
        P = P @ P
        size = _trace(P)
        log_scale = 2 * log_scale + torch.where(size > 0, size, 1.0).log()
        P = P / torch.where(size > 0, size, 1.0)[..., None, None]
    above = (log_scale / 2**squarings).exp()  # of ||M||_2^2 / ||M||_F^2
    below = (G * P).sum((-2, -1))
    empty = one == 0
    return torch.where(empty, 0.0, 1 / above), torch.where(empty, 0.0, 1 / torch.where(empty, 1.0, below))


def _trace(A: Tensor) -> Tensor:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)
