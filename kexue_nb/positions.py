"""Rotary position embedding: frequencies, rotation, and the sum of cosines that bounds its base.

Pairs are the neighbouring coordinates (2i, 2i+1). Everything that decides a sign is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rope_frequencies(d: int, base: float = 10000.0, rotary_fraction: float = 1.0) -> Tensor:
    """Angles a step, (d/2,) float64: base^(-2i/(phi d)) on the first phi d/2 pairs, 0 (not rotated) on the rest.

    RoPE (arXiv 2104.09864, section 3.2.2), with ``rotary_fraction`` phi in (0, 1] as GPT-NeoX's ``rotary_pct``.
    Raises ValueError for an odd d, a base that does not exceed 1, or a fraction that is no whole number of pairs.
    """
    if d < 2 or d % 2:
        raise ValueError(f"d={d}: RoPE rotates pairs of coordinates; give an even d of at least 2")
    if not 1 < base < math.inf:
        raise ValueError(f"base={base}: give a finite number above 1")
    pairs = rotary_fraction * d / 2
    if not 0 < rotary_fraction <= 1 or abs(pairs - round(pairs)) > 1e-9 or round(pairs) < 1:
        raise ValueError(f"rotary_fraction={rotary_fraction} of {d // 2} pairs: give a fraction in (0, 1] that is a whole number of pairs")
    rotated = round(pairs)
    theta = torch.zeros(d // 2, dtype=torch.float64)
    theta[:rotated] = base ** (-torch.arange(rotated, dtype=torch.float64) / rotated)
    return theta


def apply_rope(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate pair i of ``x`` (..., n, d) by the angle positions * frequencies[..., i].

    ``positions`` (..., n), real; ``frequencies`` (..., d/2); their product must broadcast with ``x``'s pairs. The angle is computed in
    float64, the rotation in the dtype of ``x``. RoPE, arXiv 2104.09864 equation 34.
    """
    if x.shape[-1] != 2 * frequencies.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} coordinates and there are {frequencies.shape[-1]} frequencies; give half as many")
    angles = positions.double()[..., None] * frequencies.double()
    return rotate_pairs(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of ``x`` (..., d) by angles of which the cosines and sines (..., d/2) are given."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def cosine_sum(frequencies: Tensor, length: int) -> Tensor:
    """f(m) = sum_i cos(m theta_i) for m = 0..length-1, (length,) float64, on the device of ``frequencies`` (K,).

    One matrix product: with m = pB + q, cos(m theta) = cos(pB theta) cos(q theta) - sin(pB theta) sin(q theta), so the cost is
    2K length multiplications and only about 4K sqrt(length) cosines. Phases are good to about 1e-10 at m = 1e6.
    """
    if length < 1:
        raise ValueError(f"length={length}: give at least 1")
    block = math.isqrt(length - 1) + 1
    q = torch.arange(block, dtype=torch.float64, device=frequencies.device)
    p = torch.arange(-(-length // block), dtype=torch.float64, device=frequencies.device) * block
    fine, coarse = torch.outer(q, frequencies.double()), torch.outer(p, frequencies.double())
    left = torch.cat([coarse.cos(), -coarse.sin()], 1)
    right = torch.cat([fine.cos(), fine.sin()], 1)
    return (left @ right.T).flatten()[:length]


def first_violation(base: float, d: int, max_length: int, rotary_fraction: float = 1.0) -> int | None:
    """Smallest distance m < max_length with sum_i cos(m theta_i) < 0, or None: N(b) of arXiv 2405.14591 and of the post 10122."""
    negative = cosine_sum(rope_frequencies(d, base, rotary_fraction), max_length) < 0
    return int(negative.to(torch.uint8).argmax()) if bool(negative.any()) else None


def interpolated_frequencies(frequencies: Tensor, scale: float) -> Tensor:
    """theta_i / s: position interpolation, arXiv 2306.15595 equation 4 (positions m/s, written into the frequencies). ``scale`` s >= 1."""
    return frequencies / _at_least_one("scale", scale)


def ntk_base(base: float, scale: float, d: int) -> float:
    """b s^(d/(d-2)): the base whose lowest frequency of a head of size ``d`` is 1/s of the old one, the highest still 1 (NTK-aware).

    b'^(-(d-2)/d) = b^(-(d-2)/d) / s (reddit LocalLLaMA 14lz7j5; arXiv 2309.00071, definition 1).
    """
    if d < 4 or d % 2:
        raise ValueError(f"d={d}: the lowest frequency must differ from the highest; give an even d of at least 4")
    return base * _at_least_one("scale", scale) ** (d / (d - 2))


def ntk_frequencies(d: int, scale: float, base: float = 10000.0) -> Tensor:
    """NTK-aware frequencies (d/2,) float64: :func:`rope_frequencies` at :func:`ntk_base`."""
    return rope_frequencies(d, ntk_base(base, scale, d))


def dynamic_ntk_frequencies(d: int, length: int, trained: int, base: float = 10000.0, factor: float = 1.0) -> Tensor:
    """NTK-aware frequencies of a text of ``length`` tokens, unchanged up to ``trained``: s = factor n / L - (factor - 1), n >= L.

    With ``factor`` 1 the scale is n/L, as first proposed (reddit LocalLLaMA 14mrgpr); other factors are those of the transformers package.
    """
    n = max(_at_least_one("length", length), _at_least_one("trained", trained))
    return ntk_frequencies(d, factor * n / trained - (factor - 1), base)


def turns(frequencies: Tensor, length: int) -> Tensor:
    """r_i = L theta_i / (2 pi): how many turns each pair makes within ``length`` tokens (arXiv 2309.00071, equation 13)."""
    return length * frequencies / (2 * math.pi)


def ntk_by_parts_frequencies(
    d: int, scale: float, length: int, base: float = 10000.0, slow: float = 1.0, fast: float = 32.0, ramp: str = "turns"
) -> Tensor:
    """[gamma_i + (1 - gamma_i)/s] theta_i (d/2,) float64: pairs of many turns as trained, pairs of few interpolated (NTK-by-parts; YaRN).

    ``length`` is the training length, r_i the turns made in it. With ``ramp="turns"`` gamma = clip((r - slow)/(fast - slow), 0, 1)
    (arXiv 2309.00071, definition 2; Llama 3 with fast = 4). With ``"index"`` gamma falls linearly in the index i instead, from the
    pair with ``fast`` turns to the one with ``slow``; ``"index, rounded"`` rounds these two outwards to whole pairs, as YaRN's
    published code does.
    """
    theta = rope_frequencies(d, base)
    if not 0 < slow < fast:
        raise ValueError(f"slow={slow}, fast={fast}: give 0 < slow < fast")
    if ramp == "turns":
        kept = ((turns(theta, length) - slow) / (fast - slow)).clamp(0, 1)
    elif ramp in ("index", "index, rounded"):
        first, last = (d * math.log(length / (2 * math.pi * r)) / (2 * math.log(base)) for r in (fast, slow))
        if ramp == "index, rounded":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, d - 1)
        kept = 1 - ((torch.arange(d // 2, dtype=torch.float64) - first) / (last - first or 0.001)).clamp(0, 1)
    else:
        raise ValueError(f"ramp={ramp!r}: give 'turns', 'index' or 'index, rounded'")
    return kept * theta + (1 - kept) * interpolated_frequencies(theta, scale)


def yarn_temperature(scale: float) -> float:
    """(1 + 0.1 ln s)^2, the factor of YaRN on the logits; queries and keys get its root each (arXiv 2309.00071, equation 22)."""
    return (1 + 0.1 * math.log(_at_least_one("scale", scale))) ** 2


def log_n_factor(n: Tensor, trained: int, floor: float = 1.0) -> Tensor:
    """max(floor, ln n / ln L), the factor on the logits of a query that sees ``n`` keys (posts 8823, and 9708 for ``floor`` 1)."""
    if trained < 2:
        raise ValueError(f"trained={trained}: ln L must be positive; give at least 2")
    return (n.double().log() / math.log(trained)).clamp_min(floor)


def rerope_distance(distance: Tensor, window: int, leak: float = math.inf) -> Tensor:
    """r for r < w and w + (r - w)/k beyond: Leaky ReRoPE's distance with ``leak`` k, and min(r, w), ReRoPE's, with k = inf (post 9708)."""
    if not (window >= 1 and leak >= 1):
        raise ValueError(f"window={window}, leak={leak}: both must be at least 1")
    r = distance.double()
    return torch.where(r < window, r, window + (r - window) / leak)


def self_extend_distance(i: Tensor, j: Tensor, window: int, group: int) -> Tensor:
    """i - j below ``window``, else floor(i/G) + w - floor(w/G) - floor(j/G): integers only (Self-Extend, arXiv 2401.01325, section 3)."""
    if window < 1 or group < 1:
        raise ValueError(f"window={window}, group={group}: both must be at least 1")
    return torch.where(i - j < window, i - j, i // group + window - window // group - j // group)


def far_positions(at: Tensor, window: int, leak: float = math.inf, grouped: bool = False) -> tuple[Tensor, Tensor]:
    """Positions of queries and of keys ``at`` (n,) whose differences are the far branch of :func:`rerope_distance`, each (n,) float64.

    Leaky ReRoPE: (i - w)/k + w and j/k; ReRoPE: w and 0. With ``grouped`` those of :func:`self_extend_distance`, G = k. Logits of the two
    branches, chosen by i - j < w, are the two-pass form of post 9708.
    """
    at = at.double()
    if grouped:
        return (at / leak).floor() + window - window // leak, (at / leak).floor()
    return (at - window) / leak + window, at / leak


def least_leak(length: int, trained: int, window: int) -> float:
    """The least k with which no distance of Leaky ReRoPE in n = ``length`` tokens exceeds L - 1: (n - 1 - w)/(L - 1 - w), at least 1."""
    if not 1 <= window < trained - 1:
        raise ValueError(f"window={window}: give 1 <= window < {trained - 1}, less than the largest distance of training")
    return max(1.0, (length - 1 - window) / (trained - 1 - window))


def visible(n: int, window: int | None = None, sinks: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Which keys (columns) a query (row) sees, (n, n) bool: the past, of it the last ``window`` and the first ``sinks``.

    The window mask, and with sinks the Lambda-shaped one of LM-Infinite (arXiv 2308.16137) and StreamingLLM (arXiv 2309.17453).
    """
    at = torch.arange(n, device=device)
    distance = at[:, None] - at
    past = distance >= 0
    return past if window is None else past & ((distance < window) | (at < sinks))


def key_normalised(k: Tensor) -> Tensor:
    """Keys of unit length: the logit q.k/|k| replaces q.k/sqrt(d) (KeyNorm, post 9859)."""
    return torch.nn.functional.normalize(k, dim=-1)


def _at_least_one(name: str, value: float) -> float:
    if not 1 <= value < math.inf:
        raise ValueError(f"{name}={value}: give a finite number of at least 1")
    return value
