"""muP: how the initial values and learning rates of each tensor move with the width, and the best rate of a tuning grid.

A tensor acts on row vectors: its last axis is the fan-out, the axis before it the fan-in; a vector (a bias, a gain) has fan-in 1, as if fed
by the constant 1. Which of the two grows with the width says what kind of block it is (post 10770; arXiv 2203.03466, table 3). All
multipliers are relative to a *base* model, at whose width muP and the standard parametrisation coincide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

BLOCKS = {(False, False): "fixed", (False, True): "input", (True, True): "hidden", (True, False): "output"}
OPTIMIZERS = ("SGD", "Adam", "Muon")


def growth(shape: Sequence[int], base: Sequence[int]) -> tuple[float, float]:
    """Fan-in and fan-out of a tensor of ``shape``, each divided by that of its ``base`` shape.

    Raises ValueError for shapes of different lengths, without axes, with sides below 1, or where an axis before the last two differs.
    """
    shape, base = tuple(shape), tuple(base)
    if len(shape) != len(base) or not shape or min(*shape, *base) < 1:
        raise ValueError(f"shapes {shape} and {base}: give two of equally many axes, at least one, all sides at least 1")
    if shape[:-2] != base[:-2]:
        raise ValueError(f"shapes {shape} and {base}: only the last two axes, fan-in and fan-out, may grow with the width")
    (m, n), (base_m, base_n) = ((1, *s)[-2:] for s in (shape, base))
    return m / base_m, n / base_n


def block(shape: Sequence[int], base: Sequence[int]) -> str:
    """ "input", "hidden" or "output", as the fan-out, both sides, or the fan-in differ from those of the base; "fixed" where none does."""
    fan_in, fan_out = growth(shape, base)
    return BLOCKS[fan_in != 1, fan_out != 1]


def rate_multiplier(optimizer: str, shape: Sequence[int], base: Sequence[int]) -> float:
    """The learning rate of a tensor over that of the same tensor in the base model, for "SGD", "Adam" or "Muon".

    The three rows of the muP table in one formula each: fan-out over fan-in, one over fan-in, and the root of fan-out over fan-in.
    """
    fan_in, fan_out = growth(shape, base)
    rules = {"SGD": fan_out / fan_in, "Adam": 1 / fan_in, "Muon": math.sqrt(fan_out / fan_in)}
    if optimizer not in rules:
        raise ValueError(f"optimizer={optimizer!r}: give one of {', '.join(OPTIMIZERS)}")
    return rules[optimizer]


def deviation_multiplier(shape: Sequence[int], base: Sequence[int]) -> float:
    """The deviation of a tensor's initial values over that of fan-in initialisation (or of a vector with a constant deviation).

    1, but for output blocks: their deviation falls like 1/fan-in, a root faster than fan-in initialisation.
    """
    fan_in, _ = growth(shape, base)
    return 1 / math.sqrt(fan_in) if block(shape, base) == "output" else 1.0


def groups(stack: Mapping[str, Tensor], base: Mapping[str, Tensor], optimizer: str) -> list[dict]:
    """Parameter groups with their multipliers, for the optimizers of :mod:`kexue_nb.optim`: one group for each multiplier.

    ``stack`` holds the named parameters (runs, ...) of the model, ``base`` those of a model of the base width (of any number of runs).
    Raises ValueError where the two name different parameters.
    """
    made: dict[float, list[Tensor]] = {}
    for name, p in _paired(stack, base):
        made.setdefault(rate_multiplier(optimizer, p.shape[1:], base[name].shape[1:]), []).append(p)
    return [{"params": params, "multiplier": multiplier} for multiplier, params in made.items()]


def rescale(stack: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Turn fan-in initialisation into muP's, in place, by :func:`deviation_multiplier`. Arguments as in :func:`groups`; call it once."""
    for name, p in _paired(stack, base):
        p.data.mul_(deviation_multiplier(p.shape[1:], base[name].shape[1:]))


def _paired(stack: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    if not stack or set(stack) != set(base):
        different = sorted(set(stack) ^ set(base))
        raise ValueError(f"the model and its base must name the same parameters, at least one; they differ in {different}")
    return list(stack.items())


def best_rate(exponents: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Where a tuning curve is least, and its least value: the vertex of the parabola through its best point and the two beside it.

    ``exponents`` ascend (log2 of the rates); NaN twice where the best point is at the edge of the grid, so that no minimum was seen.
    Raises ValueError for fewer than three points, lists of different lengths, exponents that do not ascend, or losses that are not finite.
    """
    x, y = np.asarray(exponents, dtype=float), np.asarray(losses, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3 or not (np.diff(x) > 0).all() or not np.isfinite(y).all():
        raise ValueError(f"exponents {x.tolist()} and losses {y.tolist()}: give equally many, at least three, ascending exponents")
    i = int(np.argmin(y))
    if i in (0, len(x) - 1):
        return math.nan, math.nan
    left, right = (y[i] - y[i - 1]) / (x[i] - x[i - 1]), (y[i + 1] - y[i]) / (x[i + 1] - x[i])
    bend = (right - left) / (x[i + 1] - x[i - 1])
    if bend == 0:  # three equal losses
        return float(x[i]), float(y[i])
    slope = (left * (x[i + 1] - x[i]) + right * (x[i] - x[i - 1])) / (x[i + 1] - x[i - 1])
    return float(x[i] - slope / (2 * bend)), float(y[i] - slope**2 / (4 * bend))
