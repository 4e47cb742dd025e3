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
