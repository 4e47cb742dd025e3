"""Rotary positions of sequences that mix texts and pictures.

A sequence is a list of segments: an ``int`` n is a text of n tokens, a pair ``(h, w)`` a picture of h rows and w columns of patches in
row-major order. Each scheme gives every token of the sequence a position with one coordinate an axis, (tokens, axes) float64; the first
text token stands at 0. x is the row (the first axis of two), y the column. L is the position of the last token before a picture, K that
of the first one after it, i = 1..h and j = 1..w count the picture's rows and columns. Which pair of a head turns with which axis is told
by an *allocation*, (d/2,) int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kexue_nb.positions import rotate_pairs

Segment = int | tuple[int, ...]
Picture = Callable[..., tuple[Tensor, float]]

TIE_STEPS = ("product", "smallest", "equivalent")


def rope_1d(segments: Sequence[Segment]) -> Tensor:
    """RoPE-1D on the flattened sequence, (tokens, 1): token n turns by R_n, and patch (i, j) stands at L + (i - 1) w + j.

    R_m^T R_n = R_(n-m) (RoPE, arXiv 2104.09864, equation 16); K - L = wh + 1.
    """
    return along_the_text(segments, lambda h, w: (torch.arange(1.0, h * w + 1, dtype=torch.float64)[:, None], h * w + 1), axes=1)


def rope_2d(segments: Sequence[Segment]) -> Tensor:
    """RoPE-2D on the page, (tokens, 2): a text is one row of the page, a picture h rows; x is the row, y the place in it, both from 1.

    R_(x,y) = diag(R_x, R_y), so R_(x,y)^T R_(x',y') = R_(x'-x, y'-y) (post 10040).
    """
    at, rows = [], 0
    for segment in segments:
        h, w = (1, segment) if isinstance(segment, int) else _sides(segment, 2)
        at.append(grid(h, w) + torch.tensor([rows, 0.0], dtype=torch.float64))
        rows += h
    return torch.cat(at)


def rope_tie(segments: Sequence[Segment], step: str = "product") -> Tensor:
    """RoPE-Tie, (tokens, 2): text token n at (n, n), patch (i, j) at (L + s i, L + t j) with (h + 1) s = (w + 1) t = K - L (post 10040).

    ``step``: ``"product"`` s = w + 1, t = h + 1, the post's integers; ``"smallest"`` these divided by gcd(h + 1, w + 1), the smallest
    integers; ``"equivalent"`` s = (wh + 1)/(h + 1), t = (wh + 1)/(w + 1), a picture as long as wh text tokens.
    """
    if step not in TIE_STEPS:
        raise ValueError(f"step={step!r}: give one of {', '.join(map(repr, TIE_STEPS))}")

    def picture(h: int, w: int) -> tuple[Tensor, float]:
        length = {"product": (h + 1) * (w + 1), "smallest": math.lcm(h + 1, w + 1), "equivalent": w * h + 1}[step]
        return grid(h, w) * torch.tensor([length / (h + 1), length / (w + 1)], dtype=torch.float64), length

    return along_the_text(segments, picture)


def rope_tv(segments: Sequence[Segment]) -> Tensor:
    """RoPE-TV, also RoPE-Tie-v2, (tokens, 2): text token n at (n, n), patch (i, j) at (L + b + i, L + c + j), K - L = wh + 1.

    b = (wh - h)/2 and c = (wh - w)/2 are what symmetry, 2b + h + 1 = 2c + w + 1 = K - L, asks for (post 10352, reconstructed from its
    conditions). Half-integers where h and w differ by an odd number.
    """

    def picture(h: int, w: int) -> tuple[Tensor, float]:
        return grid(h, w) + torch.tensor([(w * h - h) / 2, (w * h - w) / 2], dtype=torch.float64), w * h + 1

    return along_the_text(segments, picture)


def mrope(segments: Sequence[Segment]) -> Tensor:
    """M-RoPE, (tokens, 3), axes time, row, column: text token n at (n, n, n), patch (i, j) at (L + 1, L + i, L + j).

    A segment (f, h, w) is a video, its frame k at time L + k. The next token stands one above the largest coordinate so far:
    K - L = max(f, h, w) + 1 (Qwen2-VL, arXiv 2409.12191, section 2.1).
    """

    def picture(*sides: int) -> tuple[Tensor, float]:
        f, h, w = sides if len(sides) == 3 else (1, *sides)
        return grid(f, h, w), max(f, h, w) + 1

    return along_the_text(segments, picture, axes=3)


def grid(*sides: int) -> Tensor:
    """Coordinates 1..side of a grid's places, the last axis fastest: (product of the sides, number of sides) float64."""
    return torch.cartesian_prod(*(torch.arange(1.0, n + 1, dtype=torch.float64) for n in sides)).view(-1, len(sides))


def along_the_text(segments: Sequence[Segment], picture: Picture, axes: int = 2) -> Tensor:
    """Positions (tokens, axes) of any scheme that puts text token n at (n, .., n).

    ``picture(h, w)`` gives the patches' offsets from L, (hw, axes), and K - L: an offset L + beta_a + gamma_a i_a on axis a for RoPE-Tie
    (beta = 0) and RoPE-TV (gamma = 1).
    """
    at, last = [], -1.0
    for segment in segments:
        if isinstance(segment, int):
            at.append((last + torch.arange(1.0, segment + 1, dtype=torch.float64))[:, None].expand(-1, axes))
            last += segment
        else:
            offsets, length = picture(*_sides(segment, axes))
            at.append(last + offsets)
            last += length - 1
    return torch.cat(at)


def _sides(segment: tuple[int, ...], axes: int) -> tuple[int, ...]:
    allowed = (2, 3) if axes == 3 else (2,)
    if len(segment) not in allowed or min(segment) < 1:
        raise ValueError(f"segment {segment!r}: give a number of tokens, or {' or '.join(map(str, allowed))} sides of at least 1")
    return segment


def interleaved_axes(pairs: int, axes: int) -> Tensor:
    """Pair p turns with axis p mod axes: every axis gets high and low frequencies, (pairs,) int64."""
    return torch.arange(pairs) % axes


def section_axes(sections: Sequence[int]) -> Tensor:
    """The first ``sections[0]`` pairs turn with axis 0, the next ``sections[1]`` with axis 1, and so on: (sum of sections,) int64.

    Qwen2-VL's ``mrope_section`` [16, 24, 24]: the time axis gets the high frequencies, the column the low ones.
    """
    return torch.arange(len(sections)).repeat_interleave(torch.tensor(sections))


def interleaved_mrope_axes(sections: Sequence[int]) -> Tensor:
    """Qwen3-VL's allocation, (sum of sections,) int64: axes 0, 1, 2, 0, 1, 2, .. as long as axis a > 0 has pairs left, then axis 0.

    Pair p turns with axis p mod 3 where p < 3 ``sections[p mod 3]``, otherwise with time (MRoPE-I of arXiv 2510.23095).
    """
    pair = torch.arange(sum(sections))
    return torch.where(pair < 3 * torch.tensor(sections)[pair % 3], pair % 3, 0)


def axis_angles(positions: Tensor, frequencies: Tensor, allocation: Tensor) -> Tensor:
    """Angle of every pair, positions (..., n, axes) -> (..., n, d/2) float64: coordinate ``allocation[p]`` times ``frequencies[p]``."""
    if frequencies.shape != allocation.shape:
        raise ValueError(f"{tuple(frequencies.shape)} frequencies and an allocation of {tuple(allocation.shape)}; give one axis a pair")
    if int(allocation.max()) >= positions.shape[-1]:
        raise ValueError(f"the allocation names axis {int(allocation.max())}, positions have {positions.shape[-1]} axes")
    return positions.double()[..., allocation] * frequencies.double()


def apply_axis_rope(x: Tensor, positions: Tensor, frequencies: Tensor, allocation: Tensor) -> Tensor:
    """Rotate pair p of ``x`` (..., n, d) by positions[..., allocation[p]] * frequencies[p]; ``positions`` (..., n, axes).

    With text at (n, .., n) this is RoPE-1D whatever the allocation (post 10040); M-RoPE's section-wise rotation with
    :func:`section_axes`.
    """
    angles = axis_angles(positions, frequencies, allocation)
    return rotate_pairs(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))
