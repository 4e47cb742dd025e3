"""Rules of a shared budget: against exact rational arithmetic, their fixed point, the bias to start from."""

import itertools
import math
from fractions import Fraction

import pytest
import scipy.optimize
import scipy.stats
import torch

from kexue_nb import budget, moe

LOADS = [
    [Fraction(9, 10), Fraction(1, 2), Fraction(3, 10), Fraction(3, 10)],
    [Fraction(1, 4)] * 4,
    [Fraction(1, 8), Fraction(1, 4), Fraction(3, 8), Fraction(1, 4)],
    [Fraction(1, 8), Fraction(0), Fraction(1, 8), Fraction(1, 2)],
]


def sign(z):
    return (z > 0) - (z < 0)


def by_hand(name, load, k):
    n, total = len(load), sum(load)
    gap = [x / total - Fraction(1, n) for x in load]
    tilt = [sign(g) for g in gap]
    level = [t - Fraction(sum(tilt), n) for t in tilt]

    def scaled(v):
        return [float(x) / math.sqrt(sum(float(y) ** 2 for y in v) / n) if any(v) else 0.0 for x in v]

    own = [x - Fraction(k) / n for x in load]
    return {
        "two-term": [x + sign(total - k) for x in level],
        "one-sided": [x + sign(max(total - k, 0)) for x in level],
        "simplified": [sign(x) for x in own],
        "two-term RMS": [x + sign(total - k) for x in scaled(gap)],
        "simplified RMS": scaled(own),
    }[name]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("load", LOADS, ids=str)
@pytest.mark.parametrize("name", budget.RULES)
def test_rules_against_exact_arithmetic(name, load, k):
    direction = budget.RULES[name](torch.tensor([[float(x) for x in load]] * 2, dtype=torch.float64), k)
    expected = torch.tensor([float(x) for x in by_hand(name, load, k)], dtype=torch.float64).expand(2, -1)
    torch.testing.assert_close(direction, expected)


@pytest.mark.parametrize("name", budget.RULES)
def test_a_step_goes_against_the_direction_and_stops_at_the_goal(name):
    load, bias = torch.tensor([[0.75, 0.25, 0.0, 0.5], [0.25] * 4]), torch.full((2, 4), -0.5)
    budget.steer_(bias, load, 1, torch.tensor([[0.1], [0.2]]), name)
    torch.testing.assert_close(bias[0], -0.5 - 0.1 * budget.RULES[name](load[:1], 1)[0])
    assert torch.equal(bias[1], torch.full((4,), -0.5))  # balanced, and on budget


def test_what_is_refused():
    bias, load = torch.zeros(2, 4), torch.rand(2, 4)
    with pytest.raises(ValueError, match="rule='threes': give one of 'two-term'"):
        budget.steer_(bias, load, 1, 0.1, "threes")
    with pytest.raises(ValueError, match="one shape"):
        budget.steer_(bias, load[:1], 1, 0.1)
    with pytest.raises(ValueError, match="k=5: a budget lies above 0"):
        budget.steer_(bias, load, 5, 0.1)
    with pytest.raises(ValueError, match="k=0: a budget lies above 0"):
        budget.bias_for_budget(4, 0, 1.0)
    with pytest.raises(ValueError, match="logit_std=-1"):
        budget.bias_for_budget(4, 1, -1)
    with pytest.raises(ValueError, match="leaves 0 of 3 tokens"):
        budget.quantile_bias(torch.rand(3, 16), 1)


@pytest.mark.parametrize(("n", "k", "std"), [(32, 4, 0.192), (16, 4, 1.0), (8, 7, 0.5), (64, 6, 2.0)])
def test_the_bias_to_start_from(n, k, std):
    def excess(b):
        return n * scipy.stats.norm.sf(math.log(-b / (1 + b)) / std) - k

    assert budget.bias_for_budget(n, k, std) == pytest.approx(scipy.optimize.brentq(excess, -1 + 1e-9, -1e-9, xtol=1e-13), abs=1e-9)


def test_everyone_passes_at_a_budget_of_all():
    assert budget.bias_for_budget(8, 8, 0.3) == 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_quantiles_give_every_expert_its_share(k):
    scores = torch.rand(3, 64, 4, generator=torch.Generator().manual_seed(k))
    bias = budget.quantile_bias(scores, k)
    torch.testing.assert_close(moe.expert_load(scores + bias[:, None] > 0), torch.full((3, 4), k / 4))


@pytest.mark.parametrize("name", ["two-term", "two-term RMS", "simplified", "simplified RMS"])
def test_rules_lead_to_the_quantiles(name):
    g = torch.Generator().manual_seed(4)
    middle, bias = torch.linspace(-0.5, 0.5, 8), torch.full((8,), -0.5)
    for _ in range(600):
        scores = torch.sigmoid(middle + 0.3 * torch.randn(512, 8, generator=g))
        budget.steer_(bias, moe.expert_load(scores + bias > 0), 2, 2e-3, name)
    goal = -torch.sigmoid(middle + 0.3 * torch.special.ndtri(torch.tensor(0.75)))
    torch.testing.assert_close(bias, goal, atol=0.02, rtol=0)


def test_the_one_sided_rule_never_raises_the_mean():
    g, bias = torch.Generator().manual_seed(5), torch.full((8,), -0.5)
    means = []
    for _ in range(200):
        budget.steer_(bias, torch.rand(8, generator=g), 4, 1e-3, "one-sided")
        means.append(float(bias.mean()))
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(means))
    assert means[-1] < -0.55
