"""Laws of the effective ranks, peers for those that have one, and the two-sided bounds of the stable rank."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb import metrics, ranks

entries = st.just(0.0) | st.floats(1e-3, 1e3)
spectra = st.lists(entries, min_size=1, max_size=9).filter(any).map(lambda s: torch.tensor(s, dtype=torch.float64))
ORDERS = [0, 0.3, 1, 1.7, 2, 6, math.inf]


def gauss(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(spectra, st.floats(0.05, 8).filter(lambda q: abs(q - 1) > 1e-3))
def test_hill_number_by_its_definition(w, order):
    p = [x / math.fsum(w.tolist()) for x in w.tolist() if x]
    assert ranks.hill_number(w, order).item() == pytest.approx(math.fsum(x**order for x in p) ** (1 / (1 - order)), rel=1e-9)


@given(spectra)
def test_hill_numbers_of_named_orders_against_scipy_and_the_entropies_of_attention(w):
    p = w / w.sum()
    assert ranks.hill_number(w, 0).item() == np.count_nonzero(w)
    assert ranks.hill_number(w, 1).item() == pytest.approx(math.exp(scipy.stats.entropy(w.numpy())))
    assert ranks.hill_number(w, math.inf).item() == pytest.approx((w.sum() / w.max()).item())
    for order in ORDERS:
        assert ranks.hill_number(w, order).item() == pytest.approx(metrics.renyi_entropy(p, order).exp().item())


@given(spectra, st.sampled_from([1.0, 2.0, 0.5]))
def test_effective_ranks_never_increase_with_the_order_and_lie_between_1_and_the_rank(s, power):
    values = [ranks.effective_rank(s, order, power).item() for order in ORDERS]
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(values))
    assert values[0] == np.count_nonzero(s)
    assert values[-1] >= 1 - 1e-12


@given(spectra, st.integers(-200, 200))
def test_they_do_not_change_with_scale(s, exponent):
    seen, scaled = (ranks.all_measures(t) for t in (s, s * 2.0**exponent))
    for name in ranks.MEASURES:
        assert scaled[name].item() == pytest.approx(seen[name].item(), rel=1e-12)
    assert ranks.threshold_rank(s, relative=0.1) == ranks.threshold_rank(s * 2.0**exponent, relative=0.1)


def test_measures_are_the_ratios_of_norms_that_they_are_named_after():
    M = gauss(3, 6, 9)
    s = torch.linalg.svdvals(M)
    nuclear, frobenius, spectral = (torch.linalg.matrix_norm(M, p) for p in ("nuc", "fro", 2))
    schatten = (s**4).sum(-1)
    wanted = {
        "stable rank": frobenius**2 / spectral**2,
        "intrinsic dimension": nuclear / spectral,
        "participation ratio": nuclear**2 / frobenius**2,
        "entropy rank": torch.tensor(np.exp(scipy.stats.entropy(s.numpy(), axis=-1))),
        "participation ratio of squares": frobenius**4 / schatten,
        "entropy rank of squares": torch.tensor(np.exp(scipy.stats.entropy(s.numpy() ** 2, axis=-1))),
    }
    seen = ranks.all_measures(s)
    assert seen.keys() == wanted.keys() == ranks.MEASURES.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(seen[name], value)
    torch.testing.assert_close(seen["stable rank"], metrics.stable_rank(M))
    torch.testing.assert_close(ranks.normalized_entropy(s), seen["entropy rank of squares"].log() / math.log(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_types_and_the_zero_matrix(dtype):
    s = torch.tensor([[3.0, 1, 1], [0, 0, 0], [2, 2, 2]], dtype=dtype)
    for name, value in ranks.all_measures(s).items():
        assert value.dtype == dtype
        assert value[1] == 0, name
        assert value[2].item() == pytest.approx(3, rel=1e-6), name
        assert value[0].item() == pytest.approx(ranks.effective_rank(s[0], *ranks.MEASURES[name]).item())
    assert ranks.normalized_entropy(s).tolist() == pytest.approx([ranks.normalized_entropy(s[0]).item(), 0, 1], abs=1e-6)
    assert ranks.threshold_rank(s, relative=0.5).tolist() == [1, 0, 3]
    assert ranks.error_rank(s, 0.1).tolist() == [3, 0, 3]


def test_threshold_rank_is_numpys():
    M = gauss(40, 5) @ gauss(5, 30, seed=1) + 1e-9 * gauss(40, 30, seed=2)
    s = torch.linalg.svdvals(M)
    for tolerance in (1e-16, 1e-8, 1e-3):
        assert ranks.threshold_rank(s, relative=tolerance) == np.linalg.matrix_rank(M.numpy(), rtol=tolerance)
        assert ranks.threshold_rank(s, absolute=tolerance) == np.linalg.matrix_rank(M.numpy(), tol=tolerance)
    assert ranks.threshold_rank(s, relative=40 * torch.finfo(s.dtype).eps) == np.linalg.matrix_rank(M.numpy())


@given(spectra, st.floats(0, 0.95))
def test_error_rank_is_the_smallest_that_keeps_the_error(s, error):
    squares = sorted((x * x for x in s.tolist()), reverse=True)
    lost = [math.sqrt(math.fsum(squares[r:]) / math.fsum(squares)) for r in range(len(squares) + 1)]
    r = int(ranks.error_rank(s, error))
    assert lost[r] <= error + 1e-7
    assert r == 0 or lost[r - 1] > error - 1e-7


@pytest.mark.parametrize("beta", [0.05, 0.3, 2 / 3, 1.0])
def test_noise_median_against_a_matrix_of_noise_and_the_published_fit(beta):
    n = 1500
    s = torch.linalg.svdvals(gauss(round(beta * n), n, seed=3)) / math.sqrt(n)
    assert ranks.noise_median(beta) == pytest.approx(s.median().item(), rel=0.01)
    omega = ranks.noise_threshold(round(beta * 3000), 3000, 1.0) / math.sqrt(3000) / ranks.noise_median(beta)
    assert omega == pytest.approx(0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, abs=0.02)


def test_noise_threshold():
    assert ranks.noise_threshold(50, 50, 0.5) == pytest.approx(4 / math.sqrt(3) * math.sqrt(50) * 0.5)
    assert ranks.noise_threshold(30, 70, 1.0) == ranks.noise_threshold(70, 30, 1.0)
    assert ranks.noise_threshold(30, 70, 1.0) > math.sqrt(30) + math.sqrt(70)  # the largest singular value of the noise


def test_estimated_rank_finds_the_signal_under_noise():
    U, V = (torch.linalg.qr(gauss(n, 7, seed=n)).Q for n in (120, 200))
    clean = U * torch.linspace(90, 60, 7, dtype=torch.float64) @ V.T
    noisy = torch.stack([clean + noise * gauss(120, 200, seed=5) for noise in (1e-6, 0.1, 1.0, 1.5)])
    s = torch.linalg.svdvals(noisy)
    assert ranks.estimated_rank(s, 120, 200).tolist() == [7] * 4
    assert ranks.estimated_rank(s, 200, 120).tolist() == [7] * 4
    assert ranks.estimated_rank(s.flip(0, 1), 120, 200).tolist() == [7] * 4
    assert ranks.estimated_rank(torch.linalg.svdvals(gauss(5, 90, 91)), 90, 91).tolist() == [0] * 5


@pytest.mark.parametrize("shape", [(40, 40), (20, 60), (60, 20), (1, 5)])
def test_stable_rank_bounds(shape):
    M = gauss(3, *shape, seed=7)
    exact = metrics.stable_rank(M)
    for squarings in (0, 1, 3, 8, 14):
        low, high = ranks.stable_rank_bounds(M, squarings)
        assert bool((low <= exact * (1 + 1e-9)).all())
        assert bool((exact <= high * (1 + 1e-9)).all())
    torch.testing.assert_close(low, high, rtol=1e-3, atol=0)
    by_power_iteration = M.square().sum((-2, -1)) / metrics.spectral_norm(M, iterations=5).square()
    assert bool((by_power_iteration >= exact * (1 - 1e-9)).all())
    first = ranks.stable_rank_bounds(M, 0)  # ||M||_2 lies between ||MM'M||/||M|| and ||M||_F
    assert first[0].tolist() == pytest.approx([1, 1, 1])


def test_stable_rank_bounds_of_extreme_scales_and_of_zero():
    M = torch.stack([torch.zeros(4, 5), 1e-30 * torch.ones(4, 5), 1e15 * torch.eye(4, 5)])
    low, high = ranks.stable_rank_bounds(M, 12)
    assert high.tolist() == pytest.approx([0, 1, 4], rel=1e-5)
    assert low.tolist() == pytest.approx([0, 1, 4], rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks.hill_number(torch.tensor([1, 2]), 1), "floating point"),
        (lambda: ranks.hill_number(torch.empty(3, 0), 1), "n >= 1"),
        (lambda: ranks.hill_number(torch.tensor([1.0, -1e-9]), 1), "finite and >= 0"),
        (lambda: ranks.hill_number(torch.tensor([1.0, math.nan]), 1), "finite and >= 0"),
        (lambda: ranks.hill_number(torch.ones(2), -1), "order=-1"),
        (lambda: ranks.hill_number(torch.ones(2), math.nan), "order=nan"),
        (lambda: ranks.effective_rank(torch.ones(2), 1, 0), "power=0"),
        (lambda: ranks.effective_rank(torch.tensor([1.0, -2.0]), 1, 2), "finite and >= 0"),
        (lambda: ranks.normalized_entropy(torch.ones(1)), "n >= 2"),
        (lambda: ranks.threshold_rank(torch.ones(2)), "exactly one"),
        (lambda: ranks.threshold_rank(torch.ones(2), relative=1.0), r"relative one in \[0, 1\)"),
        (lambda: ranks.error_rank(torch.ones(2), 1.0), "error=1.0"),
        (lambda: ranks.noise_median(1.5), "beta=1.5"),
        (lambda: ranks.noise_threshold(0, 4, 1.0), "positive sides"),
        (lambda: ranks.estimated_rank(torch.ones(4), 5, 6), "4 singular values of an 5 x 6 matrix, which has 5"),
        (lambda: ranks.stable_rank_bounds(torch.ones(4, 4), -1), "at least 0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
