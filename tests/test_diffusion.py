"""Schedules, samplers, exact problems and training: against closed forms, autograd, Monte Carlo, and the package diffusers."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kexue_nb import data, diffusion, metrics
from kexue_nb.unet import UNet

ROOT = Path(__file__).parents[1]
SU = diffusion.su_schedule()
GRID = SU.nodes(diffusion.linear_taus(1000, 10))
ODE = diffusion.karras_sigmas(9, 0.01, 80.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_gaussian(v):
    return diffusion.GaussianMixture(*(torch.tensor(t, dtype=torch.float64) for t in ([[0.0]], [math.sqrt(v)], [1.0])))


# Schedules


@pytest.mark.parametrize("schedule", [SU, diffusion.ddpm_schedule(), diffusion.exponential_schedule(), diffusion.su_schedule(7)])
def test_a_schedule_is_the_product_of_its_steps(schedule):
    assert schedule.alpha[0] == schedule.bar_alpha[0] == 1
    assert schedule.beta[0] == schedule.bar_beta[0] == schedule.sigma[0] == 0
    torch.testing.assert_close(schedule.alpha.cumprod(0), schedule.bar_alpha)
    torch.testing.assert_close(schedule.alpha**2 + schedule.beta**2, torch.ones(schedule.T + 1, dtype=torch.float64))
    torch.testing.assert_close(schedule.bar_alpha**2 + schedule.bar_beta**2, torch.ones(schedule.T + 1, dtype=torch.float64))
    torch.testing.assert_close(schedule.sigma, schedule.bar_beta / schedule.bar_alpha)


def test_schedules_against_their_formulas():
    assert float(SU.alpha[250]) == pytest.approx(math.sqrt(1 - 0.02 * 250 / 1000), rel=1e-14)
    betas = np.linspace(1e-4, 0.02, 1000)
    assert float(diffusion.ddpm_schedule().bar_alpha[-1]) == pytest.approx(float(np.prod(1 - betas)) ** 0.5, rel=1e-12)
    assert float(diffusion.ddpm_schedule().beta[1]) == pytest.approx(0.01, rel=1e-12)
    assert float(diffusion.exponential_schedule(10, 3.0).bar_alpha[4]) == pytest.approx(math.exp(-3 * 0.16), rel=1e-14)


def test_respacing_keeps_the_noise_levels():
    taus = diffusion.linear_taus(1000, 3)
    assert taus.tolist() == [333, 667, 1000]
    short = SU.respace(taus)
    assert short.sigma.tolist() == pytest.approx([0, *SU.sigma[taus].tolist()], rel=1e-12)
    assert SU.nodes(taus).tolist() == pytest.approx(short.nodes().tolist(), rel=1e-12)
    assert float(SU.nodes(taus)[-1]) == 0


@pytest.mark.parametrize("taus", [[], [0, 5], [5, 5], [7, 3], [1001], [[1, 2]]])
def test_taus_that_are_no_subsequence(taus):
    with pytest.raises(ValueError, match=r"increase within 1\.\.1000"):
        SU.nodes(torch.tensor(taus, dtype=torch.long))


@pytest.mark.parametrize("bad", [[0.0], [0.1, -1.0], [0.0, -1.0, -1.0], [0.0, 1.0]])
def test_what_is_no_schedule(bad):
    with pytest.raises(ValueError, match="log_bar_alpha"):
        diffusion.Schedule(torch.tensor(bad, dtype=torch.float64))


def test_karras_sigmas_are_even_in_the_seventh_root():
    s = diffusion.karras_sigmas(5, 0.02, 50.0)
    assert (s[0].item(), s[-1].item()) == pytest.approx((50.0, 0.02))
    assert s.pow(1 / 7).diff().tolist() == pytest.approx([float(s.pow(1 / 7).diff()[0])] * 4)
    with pytest.raises(ValueError, match="nodes=1"):
        diffusion.karras_sigmas(1)


# log-SNR schedules and pooling


def test_the_cosine_schedule_is_bounded_and_odd_about_the_middle():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    L = diffusion.cosine_log_snr(t)
    assert (L[0].item(), L[50].item(), L[-1].item()) == (
        pytest.approx(15, rel=1e-12),
        pytest.approx(0, abs=1e-12),
        pytest.approx(-15, rel=1e-12),
    )
    torch.testing.assert_close(L, -L.flip(0))
    assert bool((L.diff() < 0).all())
    free = diffusion.cosine_log_snr(t[1:-1], bound=60.0)
    torch.testing.assert_close(torch.sigmoid(free), torch.cos(math.pi * t[1:-1] / 2) ** 2, rtol=1e-9, atol=1e-12)  # bar_alpha^2
    for bad, bound in ((t + 0.5, 15.0), (t.float(), 15.0), (t, 0.0)):
        with pytest.raises(ValueError, match="float64 times"):
            diffusion.cosine_log_snr(bad, bound)


def test_a_shift_multiplies_the_noise_and_interpolation_meets_both_ends():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    L = diffusion.cosine_log_snr(t)
    torch.testing.assert_close((-diffusion.shift_log_snr(L, 3.0) / 2).exp(), 3 * (-L / 2).exp())
    torch.testing.assert_close(diffusion.shift_log_snr(diffusion.shift_log_snr(L, 2.0), 0.5), L)
    mixed = diffusion.interpolate_log_snr(t, diffusion.shift_log_snr(L, 1.0), diffusion.shift_log_snr(L, 4.0))
    torch.testing.assert_close(mixed, diffusion.shift_log_snr(L, 4.0**t))
    with pytest.raises(ValueError, match="positive factors"):
        diffusion.shift_log_snr(L, -1.0)
    with pytest.raises(ValueError, match="must lie"):
        diffusion.interpolate_log_snr(2 * t, L, L)


def test_average_pooling_against_torch_and_its_refusals():
    x = normal(2, 3, 12, 18)
    torch.testing.assert_close(diffusion.average_pool(x, 3), torch.nn.functional.avg_pool2d(x, 3))
    torch.testing.assert_close(diffusion.average_pool(diffusion.average_pool(x, 2), 3), diffusion.average_pool(x, 6))
    with pytest.raises(ValueError, match="do not tile"):
        diffusion.average_pool(x, 5)


# Variances and stochastic samplers, in the posts' coordinates


def test_reverse_standard_deviations_in_vp_units():
    a, b = SU.bar_alpha, SU.bar_beta
    sigmas = SU.nodes()
    t = torch.arange(1000, 0, -1)
    vp = (1 + sigmas[1:] ** 2).sqrt()
    torch.testing.assert_close(diffusion.posterior_std(sigmas) / vp, b[t - 1] * SU.beta[t] / b[t], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(diffusion.forward_std(sigmas) / vp, SU.beta[t], rtol=1e-9, atol=1e-12)
    m = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = (b[t - 1] * SU.beta[t] / b[t]) ** 2 + (a[t - 1] * SU.beta[t] ** 2 / b[t] ** 2) ** 2 * m
    torch.testing.assert_close((diffusion.optimal_std(sigmas, m) / vp) ** 2, wanted, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("v", [0.05, 0.25, 1.0])
def test_samplers_on_gaussian_data_have_the_variance_of_the_closed_form(v):
    mixture = one_gaussian(v)
    zero = torch.zeros(10, dtype=torch.float64)
    posterior = diffusion.posterior_std(GRID)
    for mean_std, std in ((zero, zero), (posterior, posterior), (posterior, diffusion.forward_std(GRID))):
        V = 1.0 + float(GRID[0]) ** 2
        for i, (now, after) in enumerate(zip(GRID.tolist(), GRID.tolist()[1:], strict=False)):
            k = v / (v + now**2) + math.sqrt(max(after**2 - float(mean_std[i]) ** 2, 0)) * now / (v + now**2)
            V = k**2 * V + float(std[i]) ** 2
        law = diffusion.output_law(mixture.eps, GRID, std, mean_std=mean_std)
        assert law.variance == pytest.approx(V, rel=2e-5)
    wanted = {0.05: 0.2861 * 0.05, 0.25: 0.5555 * 0.25, 1.0: 0.6903}[v]
    assert diffusion.output_law(mixture.eps, GRID, zero).variance == pytest.approx(wanted, rel=5e-4)


def test_an_output_law_is_the_law_of_the_sampler():
    toy = diffusion.toy1d()
    noise = diffusion.gaussian(torch.Generator().manual_seed(1))
    x = diffusion.endpoint(diffusion.ddim(toy.eps, GRID, diffusion.from_vp(normal(40_000, 1), GRID[0]), 1.0, noise))[:, 0]
    law = diffusion.output_law(toy.eps, GRID, diffusion.posterior_std(GRID))
    assert float(x.var()) == pytest.approx(law.variance, rel=0.02)
    assert float(metrics.w2_1d(x, torch.from_numpy(law.quantiles(40_000)))) < 0.02
    assert law.cdf[-1] == pytest.approx(1, abs=1e-9)
    assert law.density.min() > -1e-6


def test_an_output_law_keeps_its_accuracy_over_a_thousand_steps():
    """Gaussian data of variance 1 is reproduced exactly by DDPM's mean with the noise sigma-hat, whatever the number of steps."""
    sigmas = SU.nodes()
    law = diffusion.output_law(one_gaussian(1.0).eps, sigmas, diffusion.forward_std(sigmas), mean_std=diffusion.posterior_std(sigmas))
    exact = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).numpy()
    assert np.abs(law.quantiles(1000) - exact).max() < 1e-4
    assert law.variance == pytest.approx(1, abs=1e-5)


def test_an_output_law_of_a_decreasing_mean_is_refused():
    with pytest.raises(ValueError, match="does not increase"):
        diffusion.output_law(lambda x, sigma: 3 * x, torch.tensor([1.0, 0.5], dtype=torch.float64), torch.zeros(1))


def test_samplers_say_what_they_need():
    toy, x = diffusion.toy1d(), normal(3, 1)
    for arguments, message in (((1.5, lambda s, d: d), r"eta=1\.5"), ((0.5, None), "noise=None")):
        with pytest.raises(ValueError, match=message):
            diffusion.ddim(toy.eps, GRID, x, *arguments)
    with pytest.raises(ValueError, match="10 steps"):
        diffusion.ddpm(toy.eps, GRID, x, torch.ones(3), lambda s, d: d)
    with pytest.raises(ValueError, match="descending"):
        diffusion.endpoint(diffusion.euler(toy.eps, GRID.flip(0), x))
    with pytest.raises(ValueError, match="last noise level is 0"):
        diffusion.endpoint(diffusion.amed(toy.eps, GRID, x, 0.5))
    with pytest.raises(ValueError, match=r"\(8,\) or \(8, 3\)"):
        diffusion.endpoint(diffusion.amed(toy.eps, ODE, x, torch.full((7,), 0.5)))
    with pytest.raises(ValueError, match="r=1"):
        diffusion.endpoint(diffusion.dpm_solver_2(toy.eps, ODE, x, r=1.0))


# Deterministic samplers


@pytest.mark.parametrize(
    ("sampler", "order", "calls"),
    [("euler", 1, 1), ("heun", 2, 2), ("dpm_solver_2", 2, 2), ("dpmpp_2m", 2, 1), ("ipndm", None, 1), ("amed", 2, 2), ("ddim", 1, 1)],
)
def test_order_of_convergence_on_an_exact_problem(sampler, order, calls):
    """Gaussian data N(0, v): the exact flow is x(sigma) = C sqrt(v + sigma^2)."""
    v, start = 0.3, torch.tensor([[1.7]], dtype=torch.float64)
    mixture, errors, counts = one_gaussian(v), [], (32, 64, 128, 256)
    for steps in counts:
        sigmas = diffusion.karras_sigmas(steps + 1, 0.05, 5.0)
        eps = diffusion.count_calls(mixture.eps)
        path = getattr(diffusion, sampler)(eps, sigmas, start, *([0.5] if sampler == "amed" else []))
        exact = start * math.sqrt((v + 0.05**2) / (v + 25.0))
        errors.append(float((diffusion.endpoint(path) - exact).abs()))
        assert eps.calls == calls * steps
    slope = metrics.loglog_slope(counts, errors).slope
    assert slope == pytest.approx(-order, abs=0.15) if order else slope < -1.8


def test_adams_bashforth_weights_integrate_polynomials():
    for order, weights in enumerate(diffusion.ADAMS_BASHFORTH, 1):
        for power in range(order):
            assert sum(w * (-j) ** power for j, w in enumerate(weights)) == pytest.approx(1 / (power + 1))


def test_amed_is_euler_at_r_0_and_takes_r_and_c_a_step_and_a_sample():
    toy, x = diffusion.toy2d(), 80 * normal(4, 2)
    euler = diffusion.endpoint(diffusion.euler(toy.eps, ODE, x))
    torch.testing.assert_close(diffusion.endpoint(diffusion.amed(toy.eps, ODE, x, 0.0)), euler)
    r = torch.linspace(0.1, 0.9, 8 * 4, dtype=torch.float64).view(8, 4)
    c = 1 + 0.1 * r
    together = diffusion.endpoint(diffusion.amed(toy.eps, ODE, x, r, c))
    alone = [diffusion.endpoint(diffusion.amed(toy.eps, ODE, x[[i]], r[:, i], c[:, i])) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_ddim_at_eta_0_is_euler_and_a_path_begins_with_its_start():
    toy, x = diffusion.toy1d(), normal(5, 1)
    paths = [torch.stack(list(p)) for p in (diffusion.ddim(toy.eps, GRID, x), diffusion.euler(toy.eps, GRID, x))]
    torch.testing.assert_close(*paths)
    assert paths[0].shape == (11, 5, 1)
    assert torch.equal(paths[0][0], x)


def test_the_analytic_first_step_saves_one_call():
    toy = diffusion.toy2d()
    counted = diffusion.count_calls(toy.eps)
    x = 80 * normal(200, 2)
    with_afs = diffusion.endpoint(diffusion.euler(diffusion.analytic_first_step(counted, 80.0), ODE, x))
    assert counted.calls == 7
    assert float((with_afs - diffusion.endpoint(diffusion.euler(toy.eps, ODE, x))).abs().max()) < 0.05


# The package diffusers, step by step, on the same model output

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers 0.42 under numpy 2.4


def _peer(cls, **options):
    diffusers = pytest.importorskip("diffusers")
    betas = (SU.beta[1:] ** 2).numpy()
    return getattr(diffusers, cls)(num_train_timesteps=1000, trained_betas=betas, timestep_spacing="trailing", **options)


def _model(x, sigma):
    """Some smooth noise prediction: the samplers are compared, whatever the network."""
    z = diffusion.to_vp(x, sigma)
    return 0.8 * z + 0.3 * torch.sin(2 * z + 0.1 * math.log(float(sigma)))


def _vp_path(path, sigmas):
    return [diffusion.to_vp(x, s) for x, s in zip(path, sigmas.tolist(), strict=True)]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_ddim_agrees_with_diffusers(eta, steps):
    peer = _peer("DDIMScheduler", clip_sample=False, set_alpha_to_one=True)
    peer.set_timesteps(steps)
    taus = diffusion.linear_taus(1000, steps)
    sigmas = SU.nodes(taus)
    assert (peer.timesteps + 1).tolist() == taus.flip(0).tolist()
    noises, z = normal(steps, 4, 3, seed=2), normal(4, 3)
    ours = _vp_path(diffusion.ddim(_model, sigmas, diffusion.from_vp(z, sigmas[0]), eta, lambda i, d: noises[i]), sigmas)
    for i, t in enumerate(peer.timesteps):
        out = _model(diffusion.from_vp(z, sigmas[i]), sigmas[i])
        z = peer.step(out, t, z, eta=eta, variance_noise=noises[i] if eta else None).prev_sample
        torch.testing.assert_close(ours[i + 1], z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "std"), [("fixed_small", diffusion.posterior_std), ("fixed_large", diffusion.forward_std)])
def test_ddpm_agrees_with_diffusers(name, std):
    peer = _peer("DDPMScheduler", clip_sample=False, variance_type=name)
    peer.set_timesteps(20)
    sigmas = SU.nodes(diffusion.linear_taus(1000, 20))
    z = normal(4, 3)
    noise = diffusion.gaussian(torch.Generator().manual_seed(5))
    ours = _vp_path(diffusion.ddpm(_model, sigmas, diffusion.from_vp(z, sigmas[0]), std(sigmas), noise), sigmas)
    generator = torch.Generator().manual_seed(5)
    for i, t in enumerate(peer.timesteps):
        z = peer.step(_model(diffusion.from_vp(z, sigmas[i]), sigmas[i]), t, z, generator=generator).prev_sample
        torch.testing.assert_close(ours[i + 1], z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_dpm_solver_pp_2m_agrees_with_diffusers(steps):
    peer = _peer("DPMSolverMultistepScheduler", algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero")
    peer.set_timesteps(steps)
    sigmas = peer.sigmas.double()  # in float32, hence not quite
    torch.testing.assert_close(sigmas, SU.nodes(diffusion.linear_taus(1000, steps)), rtol=1e-4, atol=1e-6)
    z = normal(4, 3)
    ours = _vp_path(diffusion.dpmpp_2m(_model, sigmas, diffusion.from_vp(z, sigmas[0])), sigmas)
    for i, t in enumerate(peer.timesteps):
        z = peer.step(_model(diffusion.from_vp(z, sigmas[i]), sigmas[i]), t, z).prev_sample
        torch.testing.assert_close(ours[i + 1], z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "sampler", "calls"),
    [
        ("EulerDiscreteScheduler", diffusion.euler, 1),
        ("HeunDiscreteScheduler", diffusion.heun, 2),
        ("KDPM2DiscreteScheduler", diffusion.dpm_solver_2, 2),
    ],
)
def test_ode_solvers_agree_with_diffusers(cls, sampler, calls):
    peer = _peer(cls)
    peer.set_timesteps(10)
    torch.manual_seed(0)
    sigmas = peer.sigmas.double().unique_consecutive()
    torch.testing.assert_close(sigmas, SU.nodes(diffusion.linear_taus(1000, 10)), rtol=1e-4, atol=1e-6)
    x = diffusion.from_vp(normal(4, 3), sigmas[0])
    ours = list(sampler(_model, sigmas, x))
    done = 0
    for t in peer.timesteps:
        if peer.step_index is None:
            peer._init_step_index(t)
        at = peer.sigmas[peer.step_index]
        if cls.startswith("KDPM2") and not peer.state_in_first_order:
            at = peer.sigmas_interpol[peer.step_index]
        x = peer.step(_model(x, float(at)), t, x).prev_sample
        finished = calls == 1 or peer.state_in_first_order or t == peer.timesteps[-1]
        if finished:
            done += 1
            scale = math.sqrt(1 + float(sigmas[done]) ** 2)
            torch.testing.assert_close(ours[done] / scale, x.double() / scale, rtol=1e-5, atol=1e-5)
    assert done == 10


# Problems whose exact score is known


@pytest.mark.parametrize("mixture", [diffusion.toy1d(), diffusion.toy2d(), diffusion.kernel_density(normal(5, 3), 0.3)])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_the_score_is_the_gradient_of_the_log_density(mixture, sigma):
    x = (2 * normal(7, mixture.means.shape[1])).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)
    x = x.detach()
    torch.testing.assert_close(mixture.score(x, sigma), gradient, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(mixture.denoise(x, sigma), x + sigma**2 * gradient, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(mixture.eps(x, sigma), (x - mixture.denoise(x, sigma)) / sigma, rtol=1e-7, atol=1e-9)
    per_state = torch.full((7, 1), sigma, dtype=torch.float64)
    for f in (mixture.denoise, mixture.eps, mixture.posterior_variance):
        torch.testing.assert_close(f(x, per_state), f(x, sigma))


def test_the_posterior_by_quadrature():
    toy, x0 = diffusion.toy1d(), torch.linspace(-3, 3, 20001, dtype=torch.float64)
    prior = toy.log_density(x0[:, None]).exp()
    assert float(torch.trapezoid(prior, x0)) == pytest.approx(1, abs=1e-9)
    for x, sigma in ((0.1, 0.5), (-1.3, 0.2), (2.0, 3.0)):
        weight = prior * torch.exp(-((x - x0) ** 2) / (2 * sigma**2))
        mean = torch.trapezoid(weight * x0, x0) / torch.trapezoid(weight, x0)
        variance = torch.trapezoid(weight * (x0 - mean) ** 2, x0) / torch.trapezoid(weight, x0)
        at = torch.tensor([[x]], dtype=torch.float64)
        assert float(toy.denoise(at, sigma)) == pytest.approx(float(mean), rel=1e-7)
        assert float(toy.posterior_variance(at, sigma)) == pytest.approx(float(variance), rel=1e-6)


def test_moments_and_samples_of_a_mixture():
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    mixture = diffusion.GaussianMixture(
        torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64), torch.tensor([0.5, 0.1]).double(), weights
    )
    x = mixture.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), mixture.mean, atol=0.01, rtol=0)
    assert float(x.var(0).mean()) == pytest.approx(mixture.variance, rel=0.01)
    assert diffusion.toy1d().variance == pytest.approx(0.68)
    sigmas = torch.tensor([0.3, 2.0], dtype=torch.float64)
    v = 0.5
    torch.testing.assert_close(diffusion.mmse_1d(one_gaussian(v), sigmas), v * sigmas**2 / (v + sigmas**2), rtol=1e-9, atol=0)


def test_what_is_no_mixture():
    one, two = torch.ones(1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for arguments, message in (
        ((torch.zeros(2, 1).double(), two, one), r"give \(K, d\)"),
        ((torch.zeros(2, 1), two, two / 2), "float64"),
        ((torch.zeros(2, 1).double(), two, two), "sum 1"),
    ):
        with pytest.raises(ValueError, match=message):
            diffusion.GaussianMixture(*arguments)
    with pytest.raises(ValueError, match=r"give float64 \(N, 1\)"):
        diffusion.toy1d().eps(torch.zeros(3).double(), 1.0)


# Training and teachers


class Affine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, log_sigma):
        return self.slope * x


def test_training_finds_the_weighted_least_squares_slope():
    """Data N(0, v) in VP scale: E[noise x] / E[x^2] at each level, averaged with the weights."""
    v, sigmas, weights = 0.25, torch.tensor([0.5, 4.0], dtype=torch.float64), torch.tensor([3.0, 1.0], dtype=torch.float64)
    net = Affine()
    images = (0.5 * normal(4000, 1)).float()
    diffusion.train_denoiser(net, images, sigmas, steps=1500, batch=512, rate=1e-2, seed=0, weights=weights)
    a2, b2 = 1 / (1 + sigmas**2), sigmas**2 / (1 + sigmas**2)
    wanted = (weights * b2.sqrt()).sum() / (weights * (a2 * v + b2)).sum()
    assert net.slope.item() == pytest.approx(float(wanted), rel=0.01)


def test_training_is_determined_by_its_seed_and_leaves_the_average():
    def run(seed, average):
        torch.manual_seed(0)
        net, losses = UNet(width=8, multipliers=(1, 1)), []
        images = data.pictures("digits8").train[:64]
        diffusion.train_denoiser(
            net, images, SU.sigma[1:], steps=6, batch=8, seed=seed, average=average, watch=lambda i, loss: losses.append(float(loss))
        )
        return losses, net.outlet[-1].bias.item()

    assert run(1, 0.9) == run(1, 0.9)
    assert run(1, 0.9)[0] != run(2, 0.9)[0]
    assert run(1, 0.9)[0] == run(1, 0.0)[0]
    assert run(1, 0.9)[1] != run(1, 0.0)[1]
    assert run(1, None) == run(1, 1 - 5 / 6)
    with pytest.raises(ValueError, match="steps=0"):
        diffusion.train_denoiser(Affine(), torch.zeros(2, 1), SU.sigma[1:], steps=0, batch=1, seed=0)


def test_denoising_loss_of_the_exact_predictor_is_one_minus_its_power():
    v, sigmas = 0.25, torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    loss = diffusion.denoising_loss(one_gaussian(v).eps, math.sqrt(v) * normal(200_000, 1), sigmas, seed=7)
    torch.testing.assert_close(loss, v / (v + sigmas**2), rtol=0.02, atol=0)


@pytest.mark.parametrize(("name", "size", "loss"), [("digits8", 8, 0.09), pytest.param("mnist28", 28, 0.03, marks=pytest.mark.network)])
def test_a_teacher_is_what_its_report_says(name, size, loss):
    teacher = diffusion.teacher(name)
    report, test = teacher.report, teacher.images.test
    assert sum(p.numel() for p in teacher.net.parameters()) == report["parameters"]
    assert test.shape[1:] == (1, size, size)
    predicted = teacher.classifier(test).argmax(1)
    assert float((predicted == teacher.images.test_labels).double().mean()) == pytest.approx(report["classifier_accuracy"], abs=0.004)
    ours = diffusion.denoising_loss(teacher.eps, test[:200], SU.sigma[1::50], seed=1)
    assert float(ours.mean()) < loss + 0.02
    assert metrics.frechet(teacher.features(teacher.images.train), teacher.features(test)) == pytest.approx(
        report["frechet_train_test"], abs=0.01
    )
    assert "H100" in teacher.provenance
    with pytest.raises(ValueError, match="no teacher 'x'; there are digits8, mnist28"):
        diffusion.teacher("x")


def test_the_script_that_makes_the_teachers(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "teachers.py"), "--only", "digits8", "--steps", "2", "--folder", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    report = json.loads((tmp_path / "digits8.json").read_text())
    kept = json.loads((ROOT / "kexue_nb" / "teachers" / "digits8.json").read_text())
    assert report.keys() == kept.keys()
    assert report["parameters"] == kept["parameters"]
    with np.load(tmp_path / "digits8.npz") as made, np.load(ROOT / "kexue_nb" / "teachers" / "digits8.npz") as held:
        assert {k: made[k].shape for k in made} == {k: held[k].shape for k in held}


def test_a_classifier_learns_and_says_how_well():
    torch.manual_seed(0)
    pictures, classifier = data.pictures("digits8"), diffusion.build_teacher("digits8")[1]
    accuracy = diffusion.train_classifier(classifier, pictures, epochs=2, seed=0)
    assert 0.6 < accuracy < 1
    right = (classifier(pictures.test).argmax(1) == pictures.test_labels).float().mean()
    assert accuracy == pytest.approx(float(right), abs=1e-6)
