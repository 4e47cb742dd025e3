"""Maps to the simplex: the package entmax, quadratic programs by hand, bisection in float64, quadrature and finite differences."""

import itertools
import math
import types
from functools import partial

import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch.nn import functional as F

from kexue_nb import simplex

ALPHAS = (1.05, 1.25, 1.5, 1.75, 2.0, 3.0)
NAMED = {"gumbel": scipy.stats.gumbel_r, "normal": scipy.stats.norm, "laplace": scipy.stats.laplace, "logistic": scipy.stats.logistic}
NAMED |= {"uniform": scipy.stats.uniform(-0.5, 1)}


def draws(*shape, scale=1.0, seed=0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def methods(alpha):
    return [m for m in simplex.METHODS if (m != "sort" or alpha in (1.5, 2.0)) and (m != "newton" or alpha <= 2)]


def by_brent(x, alpha):
    """The definition itself: relu(beta x - lambda)^(1/beta) with the root of sum p = 1 found by scipy."""
    z = (alpha - 1) * x

    def p(t):
        return (z - t).clamp_min(0) ** (1 / (alpha - 1))

    return p(scipy.optimize.brentq(lambda t: float(p(t).sum()) - 1, float(z.max()) - 1.01, float(z.max()), xtol=1e-15, rtol=9e-16))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_every_method_solves_the_defining_equation(alpha):
    for n, scale in itertools.product((1, 2, 7, 300), (0.01, 1.0, 20.0)):
        x = draws(3, n, scale=scale, seed=n)
        expected = torch.stack([by_brent(row, alpha) for row in x])
        for method in methods(alpha):
            torch.testing.assert_close(simplex.entmax(x, alpha, method=method), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_ties_and_integer_logits(alpha):
    grid = torch.tensor(list(itertools.product(range(-4, 5), repeat=3)), dtype=torch.float64)
    expected = torch.stack([by_brent(row, alpha) for row in grid])
    for method in methods(alpha):
        p = simplex.entmax(grid, alpha, method=method)
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-12)
    assert simplex.entmax15(torch.tensor([2.0, 0.0])).tolist() == [1, 0]
    assert simplex.entmax(torch.zeros(4), alpha).tolist() == [0.25] * 4


def test_known_values():
    x = torch.tensor([1, 0.7, 0.2, -0.4, -3], dtype=torch.float64)
    values = {
        1.25: [0.47033, 0.32173, 0.15567, 0.05226, 0],
        1.5: [0.54201, 0.34364, 0.11304, 0.00131, 0],
        1.75: [0.60539, 0.35646, 0.03815, 0, 0],
        2.0: [0.65, 0.35, 0, 0, 0],
    }
    losses = {1.25: 0.79112, 1.5: 0.58660, 1.75: 0.48008, 2.0: 0.42250}
    for alpha, expected in values.items():
        assert simplex.entmax(x, alpha).tolist() == pytest.approx(expected, abs=6e-6)
        assert float(simplex.fenchel_young_loss(x, torch.tensor(1), alpha)) == pytest.approx(losses[alpha], abs=6e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 5, 64, 3000])
def test_agrees_with_the_package_entmax(n, dtype):
    entmax = pytest.importorskip("entmax", reason="the package entmax is not installed")
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-6}
    for scale in (0.1, 1.0, 5.0):
        x, g = draws(4, n, scale=scale, dtype=dtype).requires_grad_(), draws(4, n, seed=1, dtype=dtype)
        target = torch.arange(4) % n
        pairs = [(entmax.sparsemax, 2.0), (entmax.entmax15, 1.5), (partial(entmax.entmax_bisect, alpha=1.25, n_iter=60), 1.25)]
        for theirs, alpha in pairs:
            peer = theirs(x)
            (peer_gradient,) = torch.autograd.grad(peer, x, g)
            for method in methods(alpha):
                p = simplex.entmax(x, alpha, method=method)
                torch.testing.assert_close(p, peer, **tolerance)
                if dtype == torch.float64:
                    torch.testing.assert_close(torch.autograd.grad(p, x, g)[0], peer_gradient, rtol=0, atol=1e-6)
        for loss, alpha in ((entmax.sparsemax_loss, 2.0), (entmax.entmax15_loss, 1.5)):
            torch.testing.assert_close(simplex.fenchel_young_loss(x, target, alpha), loss(x, target), rtol=1e-5, atol=1e-5)


def test_learned_alpha_has_the_packages_gradient():
    entmax = pytest.importorskip("entmax", reason="the package entmax is not installed")
    x, g, alpha = draws(6, 9), draws(6, 9, seed=1), torch.linspace(1.1, 2.0, 6, dtype=torch.float64)[:, None].requires_grad_()
    mine, theirs = (torch.autograd.grad((f(x, alpha) * g).sum(), alpha)[0] for f in (simplex.entmax, entmax.entmax_bisect))
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_derivatives(alpha):
    x = torch.tensor([[1, 0.7, 0.25, -0.4, -3], [0.3, 0.1, 0.0, -0.2, 0.25]], dtype=torch.float64, requires_grad=True)

    def f(t):
        return simplex.entmax(t, alpha)

    assert torch.autograd.gradcheck(f, x, eps=1e-7, atol=1e-5, check_forward_ad=True)
    jacobian = torch.func.vmap(torch.func.jacrev(f))(x.detach())
    v = draws(2, 5)
    torch.testing.assert_close(simplex.entmax_jvp(f(x.detach()), v, alpha), (jacobian @ v[..., None])[..., 0])
    torch.testing.assert_close(torch.func.jacfwd(f)(x.detach()[0]), jacobian[0])
    assert torch.autograd.gradgradcheck(f, x, eps=1e-7, atol=1e-4)
    rows = torch.tensor([[alpha], [1.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(simplex.entmax, (x, rows), eps=1e-7, atol=1e-5, check_forward_ad=True)


def test_softmax_is_the_limit_and_its_jacobian_the_case_one():
    x, v = draws(3, 6), draws(3, 6, seed=1)
    assert torch.equal(simplex.entmax(x, 1), torch.softmax(x, -1))
    torch.testing.assert_close(simplex.entmax(x, 1.0001), torch.softmax(x, -1), rtol=0, atol=1e-3)
    p = torch.softmax(x, -1)
    torch.testing.assert_close(simplex.entmax_jvp(p, v, 1.0), torch.func.jvp(lambda t: torch.softmax(t, -1), (x,), (v,))[1])


def test_axes_masks_precision_and_large_rows():
    x = draws(2, 3, 4, 5)
    for dim in range(-4, 4):
        expected = simplex.entmax15(x.movedim(dim, -1)).movedim(-1, dim)
        torch.testing.assert_close(simplex.entmax15(x, dim), expected)
        rows = torch.full([1 if a == dim % 4 else s for a, s in enumerate(x.shape)], 1.5, dtype=torch.float64)
        torch.testing.assert_close(simplex.entmax(x, rows, dim), expected)
    masked = x.masked_fill(torch.arange(5) > 2, -math.inf)
    for alpha, method in ((2.0, "sort"), (1.5, "sort"), (1.5, "newton"), (1.5, "bisect"), (1.25, "auto")):
        p = simplex.entmax(masked, alpha, method=method)
        torch.testing.assert_close(p[..., :3], simplex.entmax(x[..., :3], alpha))
        assert not p[..., 3:].any()
    assert simplex.entmax15(x.bfloat16()).dtype == torch.bfloat16
    big = 1e4 + draws(2, 2000, dtype=torch.float32)
    for method in ("sort", "newton", "bisect"):
        torch.testing.assert_close(simplex.entmax15(big, method=method).sum(-1), torch.ones(2))
    assert simplex.sparsemax(torch.empty(0, 300)).shape == (0, 300)


def test_newton_stays_within_its_bound():
    """The worst rows that a search finds, float64: the promised number of steps is enough, and is used up to a half at most."""
    for beta, n in itertools.product((0.1, 0.5, 1.0), (10, 400)):
        rows = torch.cat([draws(50, n, scale=s) for s in (0.01, 0.3, 3)] + [-torch.arange(n).double().mul(0.5 / n)[None]])
        rows = torch.cat([rows, -(1 - 0.5 ** torch.arange(n).double())[None]])
        z = beta * (rows - rows.amax(-1, keepdim=True))
        exact = simplex._by_bisection(z, 1 + beta, n)
        steps = simplex.newton_steps(n, beta, 1e-12)
        threshold = simplex._by_newton(z, 1 + beta, n)
        torch.testing.assert_close(threshold, exact, rtol=0, atol=1e-11)
        assert steps == math.ceil(math.log(n ** (2 * beta) * 1e12) / math.log(4))


def test_losses():
    x, target = draws(40, 7, scale=2).requires_grad_(), torch.arange(40) % 7
    for alpha in (1, 1.25, 1.5, 2):
        loss = simplex.fenchel_young_loss(x, target, alpha)
        assert bool((loss > -1e-12).all())
        expected = simplex.entmax(x.detach(), alpha) - F.one_hot(target, 7)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], expected)
        assert torch.autograd.gradcheck(lambda t, a=alpha: simplex.fenchel_young_loss(t, target, a), x, eps=1e-6, atol=1e-6)
    torch.testing.assert_close(simplex.fenchel_young_loss(x, target, 1), F.cross_entropy(x, target, reduction="none"))
    lead = torch.tensor([[2.001, 0, 0], [1.9, 0, 0]], dtype=torch.float64)
    at = simplex.fenchel_young_loss(lead, torch.tensor([0, 0]), 1.5)
    assert float(at[0]) == pytest.approx(0, abs=1e-15)
    assert float(at[1]) > 1e-6
    for alpha in (1, 1.5, 2):
        p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
        near = simplex.tsallis_entropy(p, alpha + 1e-7)
        torch.testing.assert_close(simplex.tsallis_entropy(p, alpha), near, rtol=1e-5, atol=0)
    assert float(simplex.tsallis_entropy(p, 1)) == pytest.approx(math.log(2))


def test_top_k():
    x = torch.tensor([3.0, 2, 1, 0], dtype=torch.float64, requires_grad=True)
    p = simplex.topk_softmax(x, 2)
    assert p.tolist() == pytest.approx([*torch.softmax(torch.tensor([3.0, 2]), 0).tolist(), 0, 0])
    inside = simplex.topk_softmax_loss(x, torch.tensor(1), 2)
    assert float(inside) == pytest.approx(-math.log(float(p[1])))
    outside = torch.autograd.grad(simplex.topk_softmax_loss(x, torch.tensor(3), 2), x)[0]
    assert outside.tolist() == pytest.approx([0.731059, 0.268941, 0, -1], abs=1e-6)
    torch.testing.assert_close(simplex.topk_softmax(draws(3, 5), 5, 0 - 1), torch.softmax(draws(3, 5), -1))
    torch.testing.assert_close(simplex.topk_softmax(draws(5, 3), 2, 0), simplex.topk_softmax(draws(5, 3).T, 2).T)


def test_taylor():
    x = draws(2, 5, scale=3)
    expected = sum(x**m / math.factorial(m) for m in range(5))
    torch.testing.assert_close(simplex.taylor_exp(x, 4), expected)
    torch.testing.assert_close(simplex.taylor_softmax(x, 4), expected / expected.sum(-1, keepdim=True))
    p = simplex.taylor_softmax(torch.tensor([-1.0, -3.0]), 2)
    assert p.tolist() == pytest.approx([0.5 / 3, 2.5 / 3])


@pytest.mark.parametrize("noise", simplex.NOISES)
def test_perturbed_argmax_against_quadrature(noise):
    x, law = [1.0, 0.3, -0.5], NAMED[noise]

    def exact(i):
        others = [x[i] - v for j, v in enumerate(x) if j != i]
        return scipy.integrate.quad(lambda e: law.pdf(e) * law.cdf(others[0] + e) * law.cdf(others[1] + e), -12, 30, limit=800)[0]

    logits = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    p = simplex.perturbed_argmax(logits, noise, 4096)
    bound = 1e-4 if noise == "uniform" else 3e-6
    assert p.tolist() == pytest.approx([exact(i) if noise != "uniform" else v for i, v in enumerate([0.955, 0.045, 0])], abs=bound)
    logs = simplex.perturbed_argmax(logits, noise, 4096, log=True)
    torch.testing.assert_close(logs.exp(), p)
    raw = simplex.perturbed_argmax(logits, noise, 8, normalise=False)
    torch.testing.assert_close(raw / raw.sum(), simplex.perturbed_argmax(logits, noise, 8))
    if noise != "uniform":
        assert torch.autograd.gradcheck(lambda t: simplex.perturbed_argmax(t, noise, 16), logits)
    if noise == "gumbel":
        torch.testing.assert_close(p, torch.softmax(logits, 0), rtol=0, atol=3e-6)


def test_calibration_error_against_a_loop():
    p = torch.softmax(draws(3, 200, 4, scale=2), -1)
    y = torch.arange(200) % 4
    for r in range(3):
        confidence, guess = p[r].max(-1)
        total = 0.0
        for b in range(10):
            inside = [i for i in range(200) if b / 10 < confidence[i] <= (b + 1) / 10]
            if inside:
                right = sum(int(guess[i] == y[i]) for i in inside) / len(inside)
                total += len(inside) / 200 * abs(right - sum(float(confidence[i]) for i in inside) / len(inside))
        assert float(simplex.calibration_error(p, y)[r]) == pytest.approx(total)


def test_calibration_error_with_other_bins_and_nan():
    p = torch.tensor([[[0.55, 0.45], [0.7, 0.3], [math.nan, math.nan]]])
    y = torch.tensor([0, 1, 0])
    assert float(simplex.calibration_error(p[:, :2], y[:2], bins=1)) == pytest.approx(abs(0.5 - 0.625))
    assert float(simplex.calibration_error(p[:, :2], y[:2], bins=5)) == pytest.approx((0.45 + 0.7) / 2)
    assert math.isnan(float(simplex.calibration_error(p, y)))


def test_on_a_gpu_the_orders_with_a_sorting_form_sort(monkeypatch):
    on_gpu, on_cpu = types.SimpleNamespace(is_cuda=True), types.SimpleNamespace(is_cuda=False)
    asked = []
    monkeypatch.setattr(simplex, "entmax", lambda x, alpha, dim, method: asked.append((alpha, dim, method)))
    for x in (on_gpu, on_cpu):
        simplex.sparsemax(x)
        simplex.entmax15(x, 0)
        simplex.entmax15(x, 0, "newton")
        for alpha in (1.5, 2, 1.25):
            simplex.fastest_entmax(x, alpha, 1)
    gpu = [(2.0, -1, "sort"), (1.5, 0, "sort"), (1.5, 0, "newton"), (1.5, 1, "sort"), (2, 1, "sort"), (1.25, 1, "auto")]
    assert asked == gpu + [(alpha, dim, method.replace("sort", "auto")) for alpha, dim, method in gpu]


def test_fastest_entmax_is_entmax():
    x, orders = draws(3, 9), torch.tensor([[1.2], [1.5], [2.0]], dtype=torch.float64)
    for alpha in (1, 1.25, 1.5, 2, 3, orders):
        torch.testing.assert_close(simplex.fastest_entmax(x, alpha), simplex.entmax(x, alpha, method="auto"))
    torch.testing.assert_close(simplex.fastest_entmax(x, 2, 0), simplex.sparsemax(x, 0))


def test_the_axis_is_the_one_asked_for():
    x, v = draws(4, 3), draws(4, 3, seed=1)
    p = simplex.sparsemax(x, 0)
    torch.testing.assert_close(simplex.taylor_softmax(x, 2, 0), simplex.taylor_softmax(x.T, 2).T)
    torch.testing.assert_close(simplex.tsallis_entropy(p, 1.5, 0), simplex.tsallis_entropy(p.T, 1.5))
    torch.testing.assert_close(simplex.entmax_jvp(p, v, 1.5, 0), simplex.entmax_jvp(p.T, v.T, 1.5).T)


def test_larger_k_and_order():
    x, target = draws(5, 9), torch.arange(5)
    kept = torch.where(x >= x.sort(-1).values[:, -4:-3], x, -math.inf)
    torch.testing.assert_close(simplex.topk_softmax(x, 4), torch.softmax(kept, -1))
    expected = kept.logsumexp(-1) - x[torch.arange(5), target]
    torch.testing.assert_close(simplex.topk_softmax_loss(x, target, 4), expected)
    for order in (6, 8):
        torch.testing.assert_close(simplex.taylor_exp(x, order), sum(x**m / math.factorial(m) for m in range(order + 1)))


def test_the_quadrature_left_unnormalised():
    x = torch.tensor([1.0, 0.3, -0.5], dtype=torch.float64)
    assert float(simplex.perturbed_argmax(x, "normal", 8, normalise=False).sum()) == pytest.approx(0.99127, abs=6e-6)
    nodes = scipy.stats.norm.ppf((torch.arange(4).numpy() + 0.5) / 4)
    by_hand = [
        sum(math.prod(scipy.stats.norm.cdf(a - b + e) for j, b in enumerate(x) if j != i) for e in nodes) / 4 for i, a in enumerate(x)
    ]
    assert simplex.perturbed_argmax(x, "normal", 4, normalise=False).tolist() == pytest.approx(by_hand, rel=1e-9)


def test_half_precision_is_computed_in_float32():
    x = draws(4, 500, dtype=torch.float32).bfloat16()
    torch.testing.assert_close(simplex.entmax15(x, method="sort"), simplex.entmax15(x.float(), method="sort").bfloat16(), rtol=0, atol=0)


def test_newton_ends_at_the_threshold_also_where_it_cannot_watch(monkeypatch):
    """In a CUDA graph the number of steps is fixed beforehand."""
    x = draws(3, 5000) / 50
    monkeypatch.setattr(simplex, "_capturing", lambda x: True)
    for alpha in (1.25, 1.5, 2.0):
        wanted = simplex.entmax(x, alpha, -1, "bisect")
        torch.testing.assert_close(simplex.entmax(x, alpha, -1, "newton"), wanted, rtol=0, atol=1e-12)


def test_vmap_over_other_axes():
    x, orders = draws(3, 5), torch.tensor([[1.2, 1.5, 1.9]], dtype=torch.float64)
    columns = torch.func.vmap(simplex.sparsemax, in_dims=1)(x)
    torch.testing.assert_close(columns, simplex.sparsemax(x.T))
    rows = torch.func.vmap(lambda z, a: simplex._Entmax.apply(z, a, "newton", 2.0), in_dims=(0, 1))(x, orders)
    torch.testing.assert_close(rows, simplex.entmax(x, orders.T))


@pytest.mark.parametrize("method", ["sort", "newton", "bisect"])
def test_an_entry_just_above_the_cut_keeps_its_weight(method):
    x = torch.full((300,), -5.0, dtype=torch.float64)
    x[:2] = torch.tensor([0, -0.95], dtype=torch.float64)
    assert simplex.sparsemax(x, method=method)[:3].tolist() == pytest.approx([0.975, 0.025, 0], abs=1e-12)


def test_the_loss_hands_on_its_method(monkeypatch):
    asked, entmax = [], simplex.entmax
    monkeypatch.setattr(simplex, "entmax", lambda x, alpha, dim, method: asked.append(method) or entmax(x, alpha, dim, method))
    simplex.fenchel_young_loss(draws(2, 3), torch.tensor([0, 1]), 1.5, "bisect")
    assert asked == ["bisect"]


def test_errors_say_what_to_do():
    x = torch.zeros(2, 3)
    bad = [
        (lambda: simplex.entmax(x, 0.9), "finite number >= 1"),
        (lambda: simplex.entmax(x, math.nan), "finite number >= 1"),
        (lambda: simplex.entmax(x, torch.tensor([[1.0], [1.5]])), "1 itself is softmax"),
        (lambda: simplex.entmax(x, torch.tensor([1.5, 1.5, 1.5])), "size 1 in axis"),
        (lambda: simplex.entmax(x, 1.25, method="sort"), "knows alpha 1.5 and 2"),
        (lambda: simplex.entmax(x, 2.5, method="newton"), "alpha <= 2"),
        (lambda: simplex.entmax(x, method="sorting"), "give one of"),
        (lambda: simplex.entmax(torch.zeros(2, 0)), "at least one entry"),
        (lambda: simplex.fenchel_young_loss(x, torch.tensor([0, 3])), "0..2"),
        (lambda: simplex.fenchel_young_loss(x, torch.tensor([-1, 0])), "0..2"),
        (lambda: simplex.fenchel_young_loss(x, torch.tensor([0])), "give class ids"),
        (lambda: simplex.topk_softmax(x, 4), "give 1 to 3"),
        (lambda: simplex.topk_softmax_loss(x, torch.tensor([0, 1]), 0), "give 1 to 3"),
        (lambda: simplex.taylor_softmax(x, 3), "even number"),
        (lambda: simplex.perturbed_argmax(x, "cauchy"), "give one of"),
        (lambda: simplex.perturbed_argmax(x, nodes=0), "at least 1"),
        (lambda: simplex.calibration_error(x, torch.zeros(2)), "probabilities"),
        (lambda: simplex.tsallis_entropy(x, 0.5), "finite number >= 1"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="floating-point"):
        simplex.entmax(torch.zeros(2, 3, dtype=torch.long))
