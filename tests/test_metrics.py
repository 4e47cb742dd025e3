"""Laws of the entropies, of the participation ratio and of the matrix measures; means and slopes with their errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from kexue_nb import metrics
from kexue_nb.metrics import mean_stderr, participation_ratio, renyi_entropy

ORDERS = [0, 0.3, 0.7, 1, 1.5, 2, 5, math.inf]
weights = st.lists(st.just(0.0) | st.floats(1e-3, 1), min_size=1, max_size=9).filter(lambda w: sum(w) > 0)
distributions = weights.map(lambda w: torch.tensor(w, dtype=torch.float64) / sum(w))


@given(distributions)
def test_renyi_entropy_never_increases_with_its_order(p):
    values = [renyi_entropy(p, order).item() for order in ORDERS]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    assert values[0] <= math.log(len(p)) + 1e-12
    assert values[-1] >= -1e-12


@given(distributions, st.floats(0.05, 8).filter(lambda q: abs(q - 1) > 1e-3))
def test_renyi_entropy_by_its_definition(p, order):
    wanted = math.log(math.fsum(x**order for x in p.tolist() if x)) / (1 - order)
    assert renyi_entropy(p, order).item() == pytest.approx(wanted, abs=1e-9)


@given(distributions)
def test_named_orders(p):
    assert renyi_entropy(p, 0).item() == pytest.approx(math.log(np.count_nonzero(p)))
    assert renyi_entropy(p, 1).item() == pytest.approx(stats.entropy(p.numpy()), abs=1e-12)
    assert renyi_entropy(p, 2).exp().item() == pytest.approx(participation_ratio(p).item())
    assert renyi_entropy(p, math.inf).item() == pytest.approx(-math.log(p.max()), abs=1e-12)
    assert renyi_entropy(p, 1 - 1e-6).item() == pytest.approx(renyi_entropy(p, 1).item(), abs=1e-4)


@given(distributions)
def test_participation_ratio_lies_between_1_and_n(p):
    assert participation_ratio(p).item() == pytest.approx(1 / sum(x * x for x in p.tolist()))
    assert 1 - 1e-12 <= participation_ratio(p).item() <= len(p) + 1e-9


@pytest.mark.parametrize("n", [1, 2, 17, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_and_certain(n, dtype):
    uniform, certain = torch.full((n,), 1 / n, dtype=dtype), torch.eye(n, dtype=dtype)[0]
    assert participation_ratio(uniform).item() == pytest.approx(n, rel=1e-5)
    assert participation_ratio(certain).item() == 1
    for order in ORDERS:
        assert renyi_entropy(uniform, order).item() == pytest.approx(math.log(n), rel=1e-5, abs=1e-6)
        assert renyi_entropy(certain, order).item() == 0
        assert renyi_entropy(uniform, order).dtype == dtype


@pytest.mark.parametrize("order", ORDERS)
def test_last_axis(order):
    torch.manual_seed(0)
    p = torch.rand(2, 3, 5, dtype=torch.float64).softmax(-1)
    assert renyi_entropy(p, order).shape == participation_ratio(p).shape == (2, 3)
    torch.testing.assert_close(renyi_entropy(p, order)[1, 2], renyi_entropy(p[1, 2], order))
    torch.testing.assert_close(participation_ratio(p)[1, 2], participation_ratio(p[1, 2]))


@pytest.mark.parametrize("p", [[0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], [], [0.0, 0.0], [[1.0, 0.0], [0.5, 0.4]], [math.inf, 0.0]])
@pytest.mark.parametrize("measure", [participation_ratio, lambda p: renyi_entropy(p, 2), lambda p: renyi_entropy(p, 1)])
def test_only_probabilities(measure, p):
    with pytest.raises(ValueError, match="p must hold probabilities that sum to 1 over the last axis"):
        measure(torch.tensor(p))


@pytest.mark.parametrize("order", [-1, -1e-9, -math.inf])
def test_negative_orders(order):
    with pytest.raises(ValueError, match=f"order={order}: give a number >= 0"):
        renyi_entropy(torch.tensor([0.5, 0.5]), order)


def test_an_order_that_is_no_number():
    with pytest.raises(ValueError, match="order=nan"):
        renyi_entropy(torch.tensor([0.5, 0.5]), math.nan)


@pytest.mark.parametrize(("order", "dtype"), [(16, torch.float32), (200, torch.float64)])
def test_high_orders_do_not_underflow(order, dtype):
    assert renyi_entropy(torch.full((1000,), 1e-3, dtype=dtype), order).item() == pytest.approx(math.log(1000), rel=1e-4)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_mean_and_standard_error(axis, dtype):
    torch.manual_seed(0)
    x = (1e4 * torch.randn(5, 4, 3)).to(dtype)
    mean, error = mean_stderr(x, axis)
    assert mean.dtype == error.dtype == torch.float64
    np.testing.assert_allclose(mean, x.double().numpy().mean(axis), rtol=1e-12)
    np.testing.assert_allclose(error, stats.sem(x.double().numpy(), axis=axis), rtol=1e-12)


@pytest.mark.parametrize(("shape", "axis", "draws"), [((1, 5), 0, 1), ((5, 0), 1, 0)])
def test_a_standard_error_needs_two_draws(shape, axis, draws):
    with pytest.raises(ValueError, match=f"{draws} draws along axis {axis}; a standard error needs at least 2"):
        mean_stderr(torch.zeros(shape), axis)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (2, 4, 7, 3)])
def test_spectral_norm(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.as_tensor(np.linalg.norm(W.numpy(), 2, axis=(-2, -1)))
    torch.testing.assert_close(metrics.spectral_norm(W), exact)
    few, many = metrics.spectral_norm(W, 3), metrics.spectral_norm(W, 400)
    assert (few <= exact + 1e-12).all()
    assert (few > 0.7 * exact).all()
    torch.testing.assert_close(many, exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(metrics.spectral_norm(W, 3), few)
    start = torch.randn(shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = (W.mT @ (W @ start)[..., None])[..., 0]
    rate = torch.linalg.vector_norm((W @ once[..., None])[..., 0], dim=-1) / torch.linalg.vector_norm(once, dim=-1)
    torch.testing.assert_close(metrics.spectral_norm(W, 1), rate)
    assert metrics.spectral_norm(torch.zeros(3, 4), 3) == 0


def test_stable_rank():
    assert metrics.stable_rank(torch.eye(7)).item() == pytest.approx(7)
    assert metrics.stable_rank(torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 6))).item() == pytest.approx(1)
    assert metrics.stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item() == pytest.approx(1.5)
    assert metrics.stable_rank(torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, 0.0]))])).tolist() == pytest.approx([2, 1])


def test_alignment_is_one_where_the_bound_is_attained():
    W = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linalg.svd(W)[0][..., :1].mT
    torch.testing.assert_close(metrics.alignment(3 * x, 5 * W), torch.ones(2, dtype=torch.float64))
    one = metrics.alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
    assert one.item() == pytest.approx(0.5)
    two = metrics.alignment(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
    assert two.item() == pytest.approx((2.5**0.5) / 2)


def test_rms():
    assert metrics.rms(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == pytest.approx([12.5**0.5, 0])


@given(st.floats(-2, 2), st.floats(0.1, 10))
def test_a_power_law_is_found(slope, coefficient):
    x = np.array([1.0, 2.0, 5.0, 11.0])
    fit = metrics.loglog_slope(x, coefficient * x**slope)
    noisy = metrics.loglog_slope(x, [1.0, 3.0, 2.0, 8.0])
    peer = stats.linregress(np.log(x), np.log([1.0, 3.0, 2.0, 8.0]))
    assert (noisy.slope, noisy.stderr, math.log(noisy.coefficient)) == pytest.approx((peer.slope, peer.stderr, peer.intercept))
    assert (fit.slope, fit.coefficient) == pytest.approx((slope, coefficient), abs=1e-9, rel=1e-9)
    assert fit.stderr < 1e-7


def test_the_interval_of_a_slope_covers():
    rng, x = np.random.default_rng(0), np.geomspace(1, 100, 6)
    covered = 0
    for _ in range(400):
        low, high = metrics.loglog_slope(x, x**0.5 * np.exp(0.3 * rng.standard_normal(6))).interval(0.9)
        covered += low < 0.5 < high
    assert covered / 400 == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.loglog_slope([1, 2], [1, 2]), "at least three distinct x"),
        (lambda: metrics.loglog_slope([1, 1, 2], [1, 2, 3]), "at least three distinct x"),
        (lambda: metrics.loglog_slope([1, 2, 3], [1, 2]), "equally long"),
        (lambda: metrics.loglog_slope([1, 2, 3], [1, 0, 2]), "positive and finite"),
        (lambda: metrics.loglog_slope([1, 2, 3], [1, math.nan, 2]), "positive and finite"),
        (lambda: metrics.spectral_norm(torch.eye(2), 0), "iterations=0"),
        (lambda: metrics.alignment(torch.ones(1, 3), torch.eye(2)), "x has rows of 3 and W takes rows of 2"),
    ],
)
def test_bad_input_of_the_matrix_measures(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_best_rows_of_a_tuning_grid():
    labels = ["a", "b", "a", "b", "a"]
    values = [[3, 3], [1, 9], [2, 2], [4, 4], [0, 5]]
    assert metrics.best_rows(labels, values) == {"a": 2, "b": 3}
    assert metrics.best_rows(labels, values, largest=True) == {"a": 0, "b": 1}
    assert list(metrics.best_rows(["z", "a"], [[1], [2]])) == ["z", "a"]


@pytest.mark.parametrize(("values", "message"), [([[1.0]], "2 labels for 1 rows"), ([[1.0], [math.nan]], "not finite")])
def test_best_rows_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        metrics.best_rows(["a", "b"], values)


def test_frechet_distance_of_fitted_gaussians():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 5, generator=generator, dtype=torch.float64) @ torch.randn(5, 5, generator=generator, dtype=torch.float64)
    b = 0.5 * torch.randn(300, 5, generator=generator, dtype=torch.float64) + 1
    A, B = (np.cov(x.numpy().T) for x in (a, b))
    wanted = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(A + B - 2 * linalg.sqrtm(A @ B).real)
    assert metrics.frechet(a, b) == pytest.approx(wanted, rel=1e-8)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(a, a + 3) == pytest.approx(45)
    with pytest.raises(ValueError, match="more rows"):
        metrics.frechet(a[:5], b)


def test_wasserstein_distances():
    a = torch.tensor([3.0, 1.0, 2.0])
    assert float(metrics.w2_1d(a, torch.tensor([2.0, 3.0, 4.0]))) == pytest.approx(1)
    assert float(metrics.w2_1d(a, torch.tensor([[1.0, 2.0, 5.0]]))) == pytest.approx(math.sqrt(4 / 3))
    assert float(metrics.w2_1d(torch.linspace(0, 1, 1001), torch.linspace(0, 1, 400))) < 2e-3
    two, four = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])  # at the four levels of the larger: 0, 1/4, 3/4, 1
    assert float(metrics.w2_1d(two, four)) == pytest.approx(math.sqrt(2 / 4) / 4)
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([1.0, 2.0, 2.0])
    assert metrics.sliced_w2(x, x + shift, projections=4000) == pytest.approx(3 / math.sqrt(3), rel=0.05), "a shift s gives |s| / sqrt(d)"
    with pytest.raises(ValueError, match="equal dimension"):
        metrics.sliced_w2(x, x[:, :2])


def folded(mu, s):
    """E|N(mu, s^2)|."""
    return s * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * s**2)) + mu * math.erf(mu / s / math.sqrt(2))


def test_energy_distance_of_two_normals_and_of_equal_laws():
    """In one dimension, N(0, 1) against N(m, 1): 2 E|N(m, 2)| - 2 E|N(0, 2)|, in closed form."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4000, 1, generator=g, dtype=torch.float64)
    m = 1.5
    expected = 2 * folded(m, math.sqrt(2)) - 2 * folded(0.0, math.sqrt(2))
    assert metrics.energy_distance(a, b + m) == pytest.approx(expected, rel=0.05)
    assert abs(metrics.energy_distance(a, b)) < 2e-3
    assert metrics.energy_distance(a[:3], a[3:5] + 1) == pytest.approx(brute_energy(a[:3], a[3:5] + 1), abs=1e-12)


def brute_energy(a, b):
    """The definition, pair by pair."""
    cross = np.mean([abs(float(x - y)) for x in a for y in b])
    inside = [np.mean([abs(float(x[i] - x[j])) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    return 2 * cross - sum(inside)


@pytest.mark.parametrize(("a", "b"), [((3, 2), (3, 3)), ((1, 2), (3, 2))])
def test_energy_distance_refuses_unequal_dimensions_and_single_rows(a, b):
    with pytest.raises(ValueError, match="equal dimension"):
        metrics.energy_distance(torch.zeros(a), torch.zeros(b))
