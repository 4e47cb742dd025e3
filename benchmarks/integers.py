"""Whole numbers and cosines: the smallest a + b + c, and the first distance at which a RoPE base fails."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.paired import Case, Row
from kexue_nb.numbers import min_sum_decomposition
from kexue_nb.positions import first_violation, rope_frequencies


def all_a(N: int) -> int:
    """The smallest a + b + c by trying every a up to the root of N; for a >= 2 the best b is the largest."""
    a = np.arange(1, int(N**0.5) + 1)
    return int((a + N // a + N % a).min())


def decompositions(device: torch.device) -> Iterator[Case]:
    """N = 10^8 to 10^14, not close to a square."""
    for digits in (8, 10, 12, 14):
        N = 7 * 10**digits + 12345
        yield Case(
            float(N), lambda N=N: min_sum_decomposition(N).total, {"every a, numpy": lambda N=N: all_a(N)}, label=f"N = 7e{digits} + 12345"
        )


def plain_scan(base: float, d: int, length: int) -> int:
    """The first distance with a negative sum of cosines, each cosine computed, in blocks of 2^14 distances; -1 where there is none."""
    theta = rope_frequencies(d, base)
    for start in range(0, length, 2**14):
        m = torch.arange(start, min(start + 2**14, length), dtype=torch.float64)
        negative = torch.outer(m, theta.double()).cos().sum(1) < 0
        if bool(negative.any()):
            return start + int(negative.to(torch.uint8).argmax())
    return -1


def bases(device: torch.device) -> Iterator[Case]:
    """Bases that are good up to the length, so that both must look at every distance; heads of 128."""
    for length, base in ((2**14, 1e6), (2**17, 1e7), (2**20, 1e9)):

        def ours(length=length, base=base):
            found = first_violation(base, 128, length)
            return -1 if found is None else found

        def peer(length=length, base=base):
            return plain_scan(base, 128, length)

        yield Case(float(length), ours, {"every cosine, torch": peer}, operations=2 * 128 * length, moved=8 * length, precision="float64")


ROWS = [
    Row(
        "a-plus-b-plus-c",
        "The smallest a + b + c with N = ab + c",
        "N",
        0.0,
        decompositions,
        "Ours tries a + b upward from 2√N and stops after about N^(1/6) values, numpy at a time; trying every a takes √N.",
        devices=("cpu",),
    ),
    Row(
        "rope-base",
        "Is a RoPE base good up to a length?",
        "distances",
        0.0,
        bases,
        "One matrix product of sines and cosines of √L coarse and √L fine distances replaces 64 cosines a distance.",
        devices=("cpu",),
    ),
]
