"""Diffusion models in one room: noise schedules, samplers, problems whose exact score is known, training, recorded teachers.

Coordinates. All samplers work on x = x_0 + sigma eps ("variance exploding", VE) with sigma = bar_beta / bar_alpha; the posts'
x_t = bar_alpha x_0 + bar_beta eps ("variance preserving", VP) is x / sqrt(1 + sigma^2). A *noise predictor* is a function
``eps(x, sigma)`` of states (N, ...) and one noise level for all of them; it predicts x_0 as x - sigma eps(x, sigma).
A *sampler* takes a noise predictor, a descending time grid of S + 1 noise levels and a start, and iterates over the S + 1 states.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.integrate
import scipy.interpolate
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_nb import data
from kexue_nb.unet import DigitClassifier, UNet

NoisePredictor = Callable[[Tensor, "Tensor | float"], Tensor]
Noise = Callable[[int, Tensor], Tensor]  # (step, predicted x_0) -> standard normal numbers of its shape
States = Iterator[Tensor]


# Schedules


@dataclass(frozen=True)
class Schedule:
    """The noising chain x_t = bar_alpha_t x_0 + bar_beta_t eps, bar_alpha_t^2 + bar_beta_t^2 = 1, t = 0..T (index 0 is the data).

    ``log_bar_alpha`` is float64 (T+1,), 0 at t = 0 and decreasing. Post 9152, whose
    letters are the square roots of the paper's.
    """

    log_bar_alpha: Tensor

    def __post_init__(self):
        a = self.log_bar_alpha
        if a.dtype != torch.float64 or a.ndim != 1 or len(a) < 2 or a[0] != 0 or not bool((a.diff() < 0).all()):
            raise ValueError("log_bar_alpha must be float64 (T+1,) with T >= 1, start at 0 and decrease")

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.log_bar_alpha) - 1

    @cached_property
    def bar_alpha(self) -> Tensor:
        """Share of the data in x_t, (T+1,)."""
        return self.log_bar_alpha.exp()

    @cached_property
    def bar_beta(self) -> Tensor:
        """Standard deviation of the noise in x_t, (T+1,)."""
        return (-torch.expm1(2 * self.log_bar_alpha)).sqrt()

    @cached_property
    def sigma(self) -> Tensor:
        """bar_beta / bar_alpha, (T+1,): the noise level in VE coordinates."""
        return torch.expm1(-2 * self.log_bar_alpha).sqrt()

    @cached_property
    def alpha(self) -> Tensor:
        """bar_alpha_t / bar_alpha_{t-1}, (T+1,), 1 at t = 0."""
        return self._step.exp()

    @cached_property
    def beta(self) -> Tensor:
        """Standard deviation sqrt(1 - alpha_t^2) of one step's noise, (T+1,), 0 at t = 0."""
        return (-torch.expm1(2 * self._step)).sqrt()

    @property
    def _step(self) -> Tensor:
        return torch.cat([self.log_bar_alpha[:1], self.log_bar_alpha.diff()])

    def respace(self, taus: Tensor) -> Schedule:
        """The schedule of a sub-sequence 1 <= tau_1 < ... < tau_S <= T: what an accelerated sampler uses (post 9181)."""
        return Schedule(torch.cat([self.log_bar_alpha[:1], self.log_bar_alpha[self._checked(taus)]]))

    def nodes(self, taus: Tensor | None = None) -> Tensor:
        """The time grid of a sampler: sigma at tau_S, ..., tau_1 and 0, float64 (S+1,); all of 1..T without ``taus``."""
        taus = torch.arange(1, self.T + 1) if taus is None else self._checked(taus)
        return torch.cat([self.sigma[taus].flip(0), self.sigma[:1]])

    def _checked(self, taus: Tensor) -> Tensor:
        taus = torch.as_tensor(taus)
        if taus.ndim != 1 or not len(taus) or taus[0] < 1 or taus[-1] > self.T or not bool((taus.diff() > 0).all()):
            raise ValueError(f"taus must increase within 1..{self.T}; got {taus.tolist()[:8]}{' ...' if taus.numel() > 8 else ''}")
        return taus


def su_schedule(T: int = 1000) -> Schedule:
    """alpha_t = sqrt(1 - 0.02 t/T): the schedule of post 9152."""
    return _from_square_steps(1 - 0.02 * torch.arange(1, T + 1, dtype=torch.float64) / T)


def ddpm_schedule(T: int = 1000) -> Schedule:
    """beta_t^2 from 1e-4 to 0.02 in equal steps, T >= 2: the paper's schedule (arXiv 2006.11239, section 4; its beta is our beta^2)."""
    if T < 2:
        raise ValueError(f"T={T}: the paper's schedule needs two steps or more")
    return _from_square_steps(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64))


def exponential_schedule(T: int = 1000, rate: float = 5.0) -> Schedule:
    """bar_alpha_t = exp(-rate (t/T)^2): the posts' closed form, which the first schedule approaches."""
    return Schedule(-rate * (torch.arange(T + 1, dtype=torch.float64) / T) ** 2)


def _from_square_steps(squares: Tensor) -> Schedule:
    return Schedule(torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * squares.log().cumsum(0)]))


def linear_taus(T: int, S: int) -> Tensor:
    """round(T i/S), i = 1..S: S of the T steps at equal distances, ending at T."""
    if not 1 <= S <= T:
        raise ValueError(f"S={S}: give 1 to T={T} steps")
    return torch.round(torch.arange(1, S + 1, dtype=torch.float64) * T / S).long()


def karras_sigmas(nodes: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Descending noise levels, equally spaced in sigma^(1/rho), float64 (nodes,) (arXiv 2206.00364, equation 5)."""
    if nodes < 2 or not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            f"nodes={nodes}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}: need 2 nodes, 0 < sigma_min < sigma_max, rho > 0"
        )
    u = torch.linspace(0, 1, nodes, dtype=torch.float64)
    return (sigma_max ** (1 / rho) + u * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def cosine_log_snr(t: Tensor, bound: float = 15.0) -> Tensor:
    """-2 ln tan(a + t (pi/2 - 2a)), tan a = exp(-bound/2), for times t in [0, 1] (any shape, float64): from ``bound`` to ``-bound``.

    The cosine schedule of continuous time with its ends bounded (arXiv 2301.11093, appendix). sigma = exp(-log SNR / 2).
    """
    if t.dtype != torch.float64 or not bound > 0 or not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"bound={bound}, t of {t.dtype}: give a positive bound and float64 times in [0, 1]")
    a = math.atan(math.exp(-bound / 2))
    # beyond the middle by symmetry: the tangent loses digits next to pi/2
    half = torch.minimum(t, 1 - t)
    return -2 * torch.tan(a + half * (math.pi / 2 - 2 * a)).log() * torch.where(t > 0.5, -1.0, 1.0)


def shift_log_snr(log_snr: Tensor, s: Tensor | float) -> Tensor:
    """log SNR - 2 ln s: the noise s times as large, for pictures s times as large (post 10047; arXiv 2301.11093, equation 4)."""
    s = torch.as_tensor(s, dtype=log_snr.dtype, device=log_snr.device)
    if not bool((s > 0).all()):
        raise ValueError(f"s={s.tolist()}: give positive factors")
    return log_snr - 2 * s.log()


def interpolate_log_snr(t: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """(1 - t) clean + t noisy: one log-SNR schedule next to the data (t = 0), another next to the noise (t = 1); shapes that broadcast."""
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("t must lie in [0, 1]")
    return (1 - t) * clean + t * noisy


def average_pool(x: Tensor, s: int) -> Tensor:
    """Means over s x s blocks of the last two axes: (..., h, w) -> (..., h/s, w/s); s must divide h and w."""
    h, w = x.shape[-2:]
    if s < 1 or h % s or w % s:
        raise ValueError(f"blocks of {s} x {s} do not tile pictures of {h} x {w}")
    return x.unflatten(-2, (h // s, s)).unflatten(-1, (w // s, s)).mean((-3, -1))


def to_vp(x: Tensor, sigma: Tensor | float) -> Tensor:
    """x / sqrt(1 + sigma^2): a VE state in the posts' coordinates."""
    return x / math.sqrt(1 + float(sigma) ** 2)


def from_vp(x: Tensor, sigma: Tensor | float) -> Tensor:
    """x sqrt(1 + sigma^2): standard normal numbers become the start of a sampler at noise level sigma."""
    return x * math.sqrt(1 + float(sigma) ** 2)


# Reverse variances, in VE units: divide by sqrt(1 + sigma_next^2) for the posts'


def posterior_std(sigmas: Tensor) -> Tensor:
    """beta~ of each step of a grid (S+1,): (S,), the noise of p(x_{t-1} | x_t, x_0) (post 9164)."""
    now, after = _steps(sigmas)
    return after * (1 - (after / now) ** 2).sqrt()


def forward_std(sigmas: Tensor) -> Tensor:
    """beta of each step of a grid (S+1,): (S,), the noise of p(x_t | x_{t-1}); the paper's sigma-hat (arXiv 2010.02502, appendix D.3)."""
    now, after = _steps(sigmas)
    return ((now**2 - after**2) * (1 + after**2) / (1 + now**2)).sqrt()


def optimal_std(sigmas: Tensor, mmse: Tensor) -> Tensor:
    """sigma* of each step, (S,): beta~^2 + (gamma_t)^2 m_t, the variance of p(x_{t-1} | x_t) averaged over x_t.

    ``mmse`` (S,) is m_t, the mean over dimensions of E Var(x_0 | x_t) at ``sigmas[:-1]`` (post 9164; arXiv 2201.06503, theorem 1).
    """
    now, after = _steps(sigmas)
    if mmse.shape != now.shape or not bool((mmse >= 0).all()):
        raise ValueError(f"mmse of shape {tuple(mmse.shape)} for {len(now)} steps: give one number >= 0 a step")
    return (posterior_std(sigmas) ** 2 + (1 - (after / now) ** 2) ** 2 * mmse).sqrt()


def _steps(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas[-1] < 0 or not bool((sigmas.diff() < 0).all()):
        raise ValueError("sigmas must be a descending time grid of two noise levels or more, the last one >= 0")
    return sigmas[:-1], sigmas[1:]


# Samplers


def gaussian(generator: torch.Generator) -> Noise:
    """Standard normal noise from ``generator``, on its device."""
    return lambda step, x0: torch.randn(x0.shape, generator=generator, device=generator.device, dtype=x0.dtype)


def endpoint(path: States) -> Tensor:
    """Run a sampler without gradients and return its last state."""
    with torch.no_grad():
        for x in path:
            last = x
    return last


def count_calls(eps: NoisePredictor) -> NoisePredictor:
    """``eps`` with an attribute ``calls`` that counts its uses (the NFE of the literature)."""

    def counted(x: Tensor, sigma: Tensor | float) -> Tensor:
        counted.calls += 1
        return eps(x, sigma)

    counted.calls = 0
    return counted


def analytic_first_step(eps: NoisePredictor, sigma_max: float) -> NoisePredictor:
    """``eps`` without a call at the start: x / sqrt(1 + sigma^2) at ``sigma_max`` and above (arXiv 2210.05475; post 9881)."""
    return lambda x, sigma: to_vp(x, sigma) if float(sigma) >= float(sigma_max) else eps(x, sigma)


def ddim(eps: NoisePredictor, sigmas: Tensor, x: Tensor, eta: float = 0.0, noise: Noise | None = None) -> States:
    """DDIM (arXiv 2010.02502, equation 12; post 9181): x_0 estimate, plus direction, plus noise of std eta beta~.

    ``eta`` = 0 is deterministic, 1 is DDPM with beta~; between and at 1 it needs ``noise``.
    """
    if not 0 <= eta <= 1 or (eta > 0 and noise is None):
        raise ValueError(f"eta={eta}, noise={noise}: give 0 <= eta <= 1, and noise where eta > 0")
    std = eta * posterior_std(sigmas)
    return _stochastic(eps, sigmas, x, std, std, noise)


def ddpm(eps: NoisePredictor, sigmas: Tensor, x: Tensor, std: Tensor, noise: Noise) -> States:
    """DDPM (arXiv 2006.11239, algorithm 2): the mean of p(x_{t-1} | x_t, x_0 estimate) plus noise of ``std`` (S,), in VE units."""
    posterior = posterior_std(sigmas)
    if std.shape != posterior.shape or not bool((std >= 0).all()):
        raise ValueError(f"std of shape {tuple(std.shape)} for {len(posterior)} steps: give one number >= 0 a step")
    return _stochastic(eps, sigmas, x, posterior, std, noise)


def _stochastic(eps, sigmas, x, mean_std, std, noise) -> States:
    yield x
    for i, (now, after) in enumerate(_pairs(sigmas)):
        e = eps(x, now)
        x0 = x - now * e
        x = x0 + math.sqrt(max(after**2 - float(mean_std[i]) ** 2, 0.0)) * e
        if float(std[i]) > 0:
            x = x + float(std[i]) * noise(i, x0)
        yield x


def euler(eps: NoisePredictor, sigmas: Tensor, x: Tensor) -> States:
    """Euler's method for dx/dsigma = eps(x, sigma), which is DDIM at eta = 0 (post 9181)."""
    yield x
    for now, after in _pairs(sigmas):
        x = x + (after - now) * eps(x, now)
        yield x


def heun(eps: NoisePredictor, sigmas: Tensor, x: Tensor) -> States:
    """Heun's method (arXiv 2206.00364, algorithm 1); a last step to sigma = 0 is Euler's. Two calls a step."""
    yield x
    for now, after in _pairs(sigmas):
        e = eps(x, now)
        guess = x + (after - now) * e
        x = x + (after - now) / 2 * (e + eps(guess, after)) if after else guess
        yield x


def dpm_solver_2(eps: NoisePredictor, sigmas: Tensor, x: Tensor, r: float = 0.5) -> States:
    """DPM-Solver-2 (arXiv 2206.00927, algorithm 1, at r = 1/2), with the intermediate level after^r now^(1-r), 0 < r < 1.

    Weights 1/(2r) on the intermediate call and 1 - 1/(2r) on the first; r = 1/2 is the exponential midpoint rule. A last step to
    sigma = 0 is Euler's. Two calls a step.
    """
    if not 0 < r < 1:
        raise ValueError(f"r={r}: give 0 < r < 1")
    yield x
    for now, after in _pairs(sigmas):
        e = eps(x, now)
        if after:
            between = after**r * now ** (1 - r)
            e = eps(x + (between - now) * e, between) / (2 * r) + (1 - 1 / (2 * r)) * e
        x = x + (after - now) * e
        yield x


def dpmpp_2m(eps: NoisePredictor, sigmas: Tensor, x: Tensor) -> States:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): two-step in log sigma on the predicted x_0, one call a step.

    The first step is of first order, and so is a last step to sigma = 0.
    """
    yield x
    before, x0_before = None, None
    for now, after in _pairs(sigmas):
        x0 = x - now * eps(x, now)
        D = x0
        if before is not None and after:
            ratio = math.log(before / now) / math.log(now / after)
            D = x0 + (x0 - x0_before) / (2 * ratio)
        x = after / now * x + (1 - after / now) * D
        before, x0_before = now, x0
        yield x


ADAMS_BASHFORTH = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(eps: NoisePredictor, sigmas: Tensor, x: Tensor) -> States:
    """iPNDM: Adams-Bashforth weights of orders 1 to 4 on past directions, as if steps were equal (arXiv 2204.13902). One call a step."""
    yield x
    past: list[Tensor] = []
    for now, after in _pairs(sigmas):
        past = [eps(x, now), *past[:3]]
        x = x + (after - now) * sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(past) - 1], past, strict=True))
        yield x


def amed(eps: NoisePredictor, sigmas: Tensor, x: Tensor, r: Sequence | Tensor | float, c: Sequence | Tensor | float = 1.0) -> States:
    """AMED-Solver's step (arXiv 2312.00094, section 3; post 9881): one direction, taken at the level after^r now^(1-r), scaled by c.

    ``r`` in [0, 1] and ``c`` are a number, one a step (S,), or one a step and sample (S, N); with one a sample, ``eps`` is called with
    a noise level of shape (N, 1, ...). The last level must be positive. Two calls a step.
    """
    if float(sigmas[-1]) <= 0:
        raise ValueError("the last noise level is 0: AMED's geometric intermediate level needs a positive one")
    steps = len(sigmas) - 1
    r, c = (_per_step(v, steps, x) for v in (r, c))
    if not bool(((r >= 0) & (r <= 1)).all()):
        raise ValueError("r must lie in [0, 1]")
    yield x
    for i, (now, after) in enumerate(_pairs(sigmas)):
        between = now * (after / now) ** r[i]
        guess = x + (between - now) * eps(x, now)
        x = x + c[i] * (after - now) * eps(guess, between)
        yield x


def _per_step(value, steps: int, x: Tensor) -> Tensor:
    v = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if v.ndim == 0:
        return v.expand(steps)
    if v.ndim > 2 or len(v) != steps or (v.ndim == 2 and v.shape[1] != len(x)):
        raise ValueError(f"r or c of shape {tuple(v.shape)}: give a number, ({steps},) or ({steps}, {len(x)})")
    return v if v.ndim == 1 else v.view(*v.shape, *[1] * (x.ndim - 1))


def _pairs(sigmas: Tensor) -> list[tuple[float, float]]:
    _steps(sigmas)
    return list(itertools.pairwise(sigmas.tolist()))


# Problems whose exact score is known


@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weights_k N(means_k, stds_k^2 I) with exact score at every noise level; float64, means (K, d), stds and weights (K,).

    States are (N, d), noise levels a number or one a state, (N, 1). At noise level sigma the law of x = x_0 + sigma eps is the mixture with
    variances stds^2 + sigma^2.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __post_init__(self):
        K = len(self.means)
        if self.means.ndim != 2 or self.stds.shape != (K,) or self.weights.shape != (K,):
            raise ValueError(
                f"means {tuple(self.means.shape)}, stds {tuple(self.stds.shape)}, weights {tuple(self.weights.shape)}: "
                "give (K, d), (K,), (K,)"
            )
        if any(t.dtype != torch.float64 for t in (self.means, self.stds, self.weights)):
            raise ValueError("means, stds and weights must be float64")
        if not bool((self.stds >= 0).all()) or not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-9:
            raise ValueError("stds must be >= 0 and weights positive with sum 1")

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.weights @ self.means

    @property
    def variance(self) -> float:
        """Mean over dimensions of the variance."""
        spread = (self.means - self.mean).square().mean(1)
        return float(self.weights @ (self.stds**2 + spread))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, d), float64, on the CPU."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[k] + self.stds[k, None] * torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log p of states (N, d) at noise level sigma: (N,)."""
        return self._log_joint(x, sigma).logsumexp(1)

    def responsibilities(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """p(component | x): (N, K)."""
        return self._log_joint(x, sigma).softmax(1)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[x_0 | x], (N, d): each component shrinks x to its mean by stds^2 / (stds^2 + sigma^2)."""
        r, keep = self.responsibilities(x, sigma), self._shrink(sigma)
        return (r * keep).sum(1, keepdim=True) * x + (r * (1 - keep)) @ self.means

    def eps(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[eps | x] = (x - E[x_0 | x]) / sigma, (N, d): the exact noise predictor, computed without the difference."""
        r = self.responsibilities(x, sigma) * (1 - self._shrink(sigma))
        return (r.sum(1, keepdim=True) * x - r @ self.means) / sigma

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Gradient of ``log_density``, -eps / sigma, (N, d)."""
        return -self.eps(x, sigma) / sigma

    def posterior_variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Mean over dimensions of Var(x_0 | x): (N,)."""
        r, keep = self.responsibilities(x, sigma), self._shrink(sigma)
        means = keep[..., None] * x[:, None, :] + (1 - keep)[..., None] * self.means
        between = (r[:, :, None] * (means - self.denoise(x, sigma)[:, None]) ** 2).sum(1).mean(1)
        return (r * self.stds**2 * (1 - keep)).sum(1) + between

    def _shrink(self, sigma: Tensor | float) -> Tensor:
        return self.stds**2 / (self.stds**2 + sigma**2)

    def _log_joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        d = self.means.shape[1]
        if x.ndim != 2 or x.shape[1] != d or x.dtype != torch.float64:
            raise ValueError(f"states of shape {tuple(x.shape)} and dtype {x.dtype}: give float64 (N, {d})")
        variance = self.stds**2 + sigma**2
        squares = torch.cdist(x, self.means, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        return self.weights.log() - 0.5 * squares / variance - 0.5 * d * (2 * math.pi * variance).log()


def toy1d() -> GaussianMixture:
    """1/2 N(-0.8, 0.2^2) + 1/2 N(0.8, 0.2^2): variance 0.68."""
    return _equal(torch.tensor([[-0.8], [0.8]], dtype=torch.float64), 0.2)


def toy2d() -> GaussianMixture:
    """Eight equal Gaussians of standard deviation 0.1 around the unit circle."""
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    return _equal(torch.stack([angle.cos(), angle.sin()], dim=1), 0.1)


def kernel_density(x: Tensor, s: float) -> GaussianMixture:
    """Equal Gaussians of standard deviation ``s`` around the rows of ``x`` (K, d): real data with an exact score, no training."""
    return _equal(x.double(), s)


def _equal(means: Tensor, std: float) -> GaussianMixture:
    K = len(means)
    return GaussianMixture(means, torch.full((K,), std, dtype=torch.float64), torch.full((K,), 1 / K, dtype=torch.float64))


@dataclass(frozen=True)
class Law:
    """A law on the line: ``grid`` (equally spaced), ``density`` and ``cdf`` on it, float64 numpy arrays."""

    grid: np.ndarray
    density: np.ndarray
    cdf: np.ndarray

    @property
    def variance(self) -> float:
        """Second central moment."""
        x, top, h = self.grid, self.grid[-1], self.grid[1] - self.grid[0]  # by parts, from the cdf: no derivative is taken
        mean = top - scipy.integrate.trapezoid(self.cdf, x)
        square = top**2 - 2 * scipy.integrate.trapezoid(x * self.cdf, x) + h**2 / 6  # Euler-Maclaurin: x F has slope 1 at the top
        return float(square - mean**2)

    def quantiles(self, n: int) -> np.ndarray:
        """The quantiles at (i + 1/2)/n, i = 0..n-1."""
        return np.interp((np.arange(n) + 0.5) / n, self.cdf, self.grid)


def output_law(
    eps: NoisePredictor, sigmas: Tensor, std: Tensor, *, mean_std: Tensor | None = None, points: int = 2048, reach: float = 6.0
) -> Law:
    """The law of a 1-d stochastic sampler's last state, started at N(0, 1) in VP coordinates, without a sample.

    ``std`` (S,) is the noise of each step and ``mean_std`` the one inside its mean (default ``std``: the DDIM family;
    ``posterior_std(sigmas)`` for DDPM's mean), both in VE units. Each step pushes the cdf through its mean, by a cubic spline on
    ``points`` equally spaced points in [-reach, reach] of the VP coordinates, and convolves its difference from the normal one with
    the step's noise by FFT: errors stay below 1e-5 over 1000 steps. Raises ValueError where a mean does not increase in x.
    """
    mean_std = std if mean_std is None else mean_std
    grid = np.linspace(-reach, reach, points)
    frequency = 2 * math.pi * np.fft.rfftfreq(2 * points, grid[1] - grid[0])
    x, normal = torch.from_numpy(grid)[:, None], scipy.special.ndtr(grid)
    cdf = normal
    for i, (now, after) in enumerate(_pairs(sigmas)):
        hat = from_vp(x, now)
        e = eps(hat, now)
        mean = hat - now * e + math.sqrt(max(after**2 - float(mean_std[i]) ** 2, 0.0)) * e
        image = to_vp(mean, after)[:, 0].numpy()
        if not (np.diff(image) > 0).all():
            raise ValueError(f"step {i} (sigma {now:.4g} to {after:.4g}): the mean does not increase in x, so its law is no monotone image")
        inside = (grid > image[0]) & (grid < image[-1])
        pushed = np.where(grid < image.mean(), 0.0, 1.0)
        pushed[inside] = scipy.interpolate.CubicSpline(image, cdf)(grid[inside])
        width = float(std[i]) / math.sqrt(1 + after**2)
        if width > 0:
            spectrum = np.fft.rfft(pushed - normal, 2 * points) * np.exp(-0.5 * (frequency * width) ** 2)
            pushed = np.fft.irfft(spectrum, 2 * points)[:points] + scipy.special.ndtr(grid / math.hypot(1, width))
        cdf = pushed
    return Law(grid, np.gradient(cdf, grid[1] - grid[0]), np.maximum.accumulate(cdf))


def mmse_1d(mixture: GaussianMixture, sigmas: Tensor, points: int = 4001) -> Tensor:
    """E Var(x_0 | x) of a 1-d mixture at each noise level (S,), by the trapezoid rule over 12 standard deviations: float64 (S,)."""
    rows = []
    for sigma in sigmas.tolist():
        half = float(mixture.means.abs().max()) + 12 * math.sqrt(float(mixture.stds.max()) ** 2 + sigma**2)
        x = torch.linspace(-half, half, points, dtype=torch.float64)[:, None]
        weight = mixture.log_density(x, sigma).exp()
        rows.append(torch.trapezoid(weight * mixture.posterior_variance(x, sigma), x[:, 0]))
    return torch.stack(rows)


# Training


def noise_predictor(net: nn.Module) -> NoisePredictor:
    """eps(x, sigma) of a network net(x_vp, log_sigma) that predicts the noise from VP-scaled states."""

    def eps(x: Tensor, sigma: Tensor | float) -> Tensor:
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return net(x / (1 + s**2).sqrt(), s.log().flatten())

    return eps


def train_denoiser(
    net: nn.Module,
    images: Tensor,
    sigmas: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float = 3e-3,
    seed: int,
    weights: Tensor | None = None,
    average: float | None = None,
    watch: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> nn.Module:
    """Train net(x_vp, log_sigma) to predict the noise; afterwards it holds the exponential average of its weights.

    Each step draws ``batch`` of the ``images`` (N, ...) and for each a noise level, uniformly from ``sigmas`` (T,), and minimises the
    mean of ``weights`` (T,) times the squared error of the noise (post 9152; arXiv 2006.11239, equation 14). Adam with ``rate``, after
    100 steps of warm-up falling linearly to 0. The average decays by ``average`` a step: by default 0.999, or 1 - 5/steps where that is
    less, so that short trainings forget their start. ``watch(step, loss)`` sees every step. On a GPU the step runs as one CUDA graph.
    """
    average = max(0.0, min(0.999, 1 - 5 / max(steps, 1))) if average is None else average
    if steps < 1 or batch < 1 or not 0 <= average < 1:
        raise ValueError(f"steps={steps}, batch={batch}, average={average}: give positive counts and 0 <= average < 1")
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    levels = sigmas.to(device, torch.float32)
    factors = torch.ones_like(levels) if weights is None else weights.to(device, torch.float32)
    lr = torch.zeros((), device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, capturable=device.type == "cuda")
    parameters = list(net.parameters())
    averaged = [p.detach().clone() for p in parameters]
    shape = (-1, *[1] * (images.ndim - 1))

    def once() -> Tensor:
        which = torch.randint(len(images), (batch,), generator=generator, device=device)
        t = torch.randint(len(levels), (batch,), generator=generator, device=device)
        noise = torch.randn((batch, *images.shape[1:]), generator=generator, device=device)
        sigma = levels[t]
        x = (images[which] + sigma.view(shape) * noise) / (1 + sigma**2).sqrt().view(shape)
        loss = (factors[t].view(shape) * (net(x, sigma.log()) - noise) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - average)
        return loss.detach()

    advance = once if device.type == "cpu" else _graphed(once, net, optimizer, averaged, generator, seed)
    for step in range(steps):
        lr.fill_(rate * min((step + 1) / 100, 1 - step / steps))
        watch(step, advance())
    with torch.no_grad():
        for p, a in zip(parameters, averaged, strict=True):
            p.copy_(a)
    return net


def _graphed(once, net, optimizer, averaged, generator, seed) -> Callable[[], Tensor]:
    """``once`` as a CUDA graph, with weights, averages, moments and random numbers as they were before its warm-up."""
    start = {k: v.clone() for k, v in net.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        loss = once()
    net.load_state_dict(start)
    for a, p in zip(averaged, net.parameters(), strict=True):
        a.copy_(p.detach())
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    generator.manual_seed(seed)

    def replay() -> Tensor:
        graph.replay()
        return loss.clone()

    return replay


@torch.no_grad()
def denoising_loss(eps: NoisePredictor, images: Tensor, sigmas: Tensor, seed: int) -> Tensor:
    """Mean squared error a pixel of the predicted noise on ``images`` at each noise level (S,): float64 (S,), one draw each."""
    generator = torch.Generator(images.device).manual_seed(seed)
    rows = []
    for sigma in sigmas.tolist():
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        rows.append((eps(images + sigma * noise, sigma) - noise).double().square().mean())
    return torch.stack(rows).cpu()


# Teachers: recorded small networks

TEACHERS = {"digits8": (8, (1, 2)), "mnist28": (28, (1, 2, 2))}


@dataclass(frozen=True)
class Teacher:
    """A trained noise predictor with its pictures and the classifier whose features measure its samples."""

    net: UNet
    classifier: DigitClassifier
    images: data.Pictures
    report: dict

    @property
    def eps(self) -> NoisePredictor:
        """The noise predictor in VE coordinates."""
        return noise_predictor(self.net)

    def features(self, x: Tensor) -> Tensor:
        """(N, 32) features of pictures, without gradients."""
        with torch.no_grad():
            return self.classifier.features(x)

    @property
    def provenance(self) -> str:
        """One line for captions and scopes."""
        r = self.report
        trained = f"{r['steps']:,} steps of batch {r['batch']}"
        return f"U-Net of {r['parameters']:,} parameters, {trained}, {r['device']}, torch {r['torch']}, {r['date']}"


def build_teacher(name: str) -> tuple[UNet, DigitClassifier]:
    """The untrained networks of a teacher, from torch's global random state."""
    if name not in TEACHERS:
        raise ValueError(f"no teacher {name!r}; there are {', '.join(TEACHERS)}")
    size, multipliers = TEACHERS[name]
    return UNet(multipliers=multipliers), DigitClassifier(size)


def teacher(name: str, device: torch.device | str = "cpu") -> Teacher:
    """A recorded teacher: "digits8" (8 x 8) or "mnist28". Weights in float16 with their report, made by scripts/teachers.py."""
    net, classifier = build_teacher(name)
    folder = Path(__file__).parent / "teachers"
    with np.load(folder / f"{name}.npz") as arrays:
        for part, module in (("net", net), ("classifier", classifier)):
            module.load_state_dict({k: torch.from_numpy(arrays[f"{part}.{k}"]).float() for k in module.state_dict()})
    report = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for module in (net, classifier):
        module.requires_grad_(False).eval().to(device)
    return Teacher(net, classifier, data.pictures(name).to(device), report)


def train_classifier(classifier: DigitClassifier, pictures: data.Pictures, *, epochs: int = 40, batch: int = 64, seed: int) -> float:
    """Train on the training pictures with Adam 2e-3 and input noise 0.1, and return the accuracy on the test pictures."""
    images, labels = pictures.train, pictures.train_labels
    generator = torch.Generator(images.device).manual_seed(seed)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for rows in order.split(batch):
            noise = torch.randn(images[rows].shape, generator=generator, device=images.device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(classifier(images[rows] + 0.1 * noise), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((classifier(pictures.test).argmax(1) == pictures.test_labels).double().mean())
