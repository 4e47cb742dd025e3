"""Rotary positions against plain loops, complex multiplication and a sum of cosines term by term."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb.positions import apply_rope, cosine_sum, first_violation, rope_frequencies


@given(st.integers(1, 40), st.floats(1.1, 1e9))
def test_frequencies_against_the_formula(pairs, base):
    theta = rope_frequencies(2 * pairs, base)
    assert theta.tolist() == pytest.approx([base ** (-2 * i / (2 * pairs)) for i in range(pairs)], rel=1e-12)


def test_a_fraction_of_the_pairs_rotates_with_its_own_spacing():
    theta = rope_frequencies(16, 1e4, rotary_fraction=0.5)
    assert theta.tolist() == pytest.approx([1, 0.1, 0.01, 0.001, 0, 0, 0, 0], rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 8), (2, 6, 8), (2, 3, 6, 8)])
def test_rotation_is_multiplication_by_a_phase(shape):
    torch.manual_seed(0)
    x, at, theta = torch.randn(shape, dtype=torch.float64), torch.tensor([0, 1, 5, -3, 0.25, 1e5], dtype=torch.float64), rope_frequencies(8)
    wanted = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones(6, 4, dtype=torch.float64), torch.outer(at, theta))
    torch.testing.assert_close(apply_rope(x, at, theta), torch.view_as_real(wanted).flatten(-2), rtol=1e-9, atol=1e-9)


def test_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    q, k, theta = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64), rope_frequencies(8, 50.0)

    def at(t, n):
        return apply_rope(t, torch.tensor([float(n)]), theta)

    products = [float((at(q, n + 7) * at(k, n)).sum()) for n in (0, 3, 100)]
    assert products == pytest.approx([products[0]] * 3, rel=1e-10)
    assert products[0] != pytest.approx(float((at(q, 0) * at(k, 7)).sum()), rel=1e-3)


def test_frequencies_may_differ_from_run_to_run():
    x = torch.ones(2, 3, 1, 5, 4, dtype=torch.float64)
    thetas = torch.stack([rope_frequencies(4, 10.0), rope_frequencies(4, 100.0)])
    turned = apply_rope(x, torch.arange(5), thetas.view(2, 1, 1, 1, 2))
    for r in range(2):
        torch.testing.assert_close(turned[r], apply_rope(x[r], torch.arange(5), thetas[r]))


def test_single_precision_positions_far_out_keep_their_phase():
    x = torch.tensor([[1.0, 0.0]])
    turned = apply_rope(x, torch.tensor([1_000_003]), torch.tensor([1.0]))
    assert turned.tolist()[0] == pytest.approx([math.cos(1_000_003), math.sin(1_000_003)], abs=1e-6)


@given(st.integers(1, 300), st.integers(1, 9), st.floats(1.5, 1e6), st.sampled_from([1.0, "half"]))
def test_cosine_sum_against_a_loop(length, pairs, base, fraction):
    d = 4 * pairs
    theta = rope_frequencies(d, base, 0.5 if fraction == "half" else 1.0)
    wanted = [math.fsum(math.cos(m * t) for t in theta.tolist()) for m in range(length)]
    got = cosine_sum(theta, length)
    assert got.shape == (length,)
    assert got.tolist() == pytest.approx(wanted, abs=1e-10)


def test_cosine_sum_far_out():
    theta, m = rope_frequencies(128, 1e6), 999_983
    assert float(cosine_sum(theta, m + 1)[m]) == pytest.approx(math.fsum(math.cos(m * t) for t in theta.tolist()), abs=1e-8)


@pytest.mark.parametrize(("base", "d", "first"), [(1e4, 128, 1707), (5e5, 128, 18438), (100, 128, 59), (1e4, 64, 725)])
def test_first_violations(base, d, first):
    assert first_violation(base, d, first) is None
    assert first_violation(base, d, first + 1) == first
    assert first_violation(base, d, 4 * first) == first


def test_half_of_the_pairs_never_violates():
    assert first_violation(2.0, 8, 3000, rotary_fraction=0.5) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rope_frequencies(7), "d=7: RoPE rotates pairs"),
        (lambda: rope_frequencies(0), "d=0"),
        (lambda: rope_frequencies(8, 1.0), "base=1.0: give a finite number above 1"),
        (lambda: rope_frequencies(8, math.inf), "base=inf"),
        (lambda: rope_frequencies(8, math.nan), "base=nan"),
        (lambda: rope_frequencies(8, 10, 0.3), "rotary_fraction=0.3 of 4 pairs"),
        (lambda: rope_frequencies(8, 10, 1.5), "rotary_fraction=1.5"),
        (lambda: rope_frequencies(8, 10, 0.0), "rotary_fraction=0.0"),
        (lambda: cosine_sum(rope_frequencies(8), 0), "length=0"),
        (lambda: apply_rope(torch.ones(3, 6), torch.arange(3), rope_frequencies(8)), "x has 6 coordinates and there are 4 frequencies"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
