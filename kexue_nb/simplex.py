"""Maps from logits to the simplex beside softmax: sparsemax, entmax, Taylor, top-k and perturb-max; their losses and calibration.

Entmax (arXiv 1905.05702) of order alpha = 1 + beta is p = relu(beta x - lambda)^(1/beta), with lambda fixed by sum p = 1: softmax for
alpha -> 1, sparsemax (arXiv 1602.02068) for alpha = 2. All maps are shift invariant but Taylor's; half precision is computed in float32.
On a GPU sorting is the fastest method for alpha 1.5 and 2 (measured in the notebook softmax-alternatives): :func:`sparsemax`,
:func:`entmax15` and :func:`fastest_entmax` take it there by themselves; in :func:`entmax` and :func:`fenchel_young_loss`, whose "auto"
was chosen on a CPU, ask for it by ``method="sort"``.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

METHODS = ("auto", "sort", "bisect", "newton")
NOISES = ("gumbel", "normal", "laplace", "logistic", "uniform")

# entmax reads the largest of learned orders on the host, outside the graph of derivatives, which is meant.
warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True to a scalar", module=r"kexue_nb\.simplex")


def sparsemax(x: Tensor, dim: int = -1, method: str = "auto") -> Tensor:
    """Euclidean projection of x onto the simplex, relu(x - lambda), over ``dim``: :func:`entmax` at alpha = 2 (arXiv 1602.02068)."""
    return entmax(x, 2.0, dim, _or_sort(x, method))


def entmax15(x: Tensor, dim: int = -1, method: str = "auto") -> Tensor:
    """relu(x/2 - lambda)^2 over ``dim``: :func:`entmax` at alpha = 1.5, the other order with an exact solution (arXiv 1905.05702)."""
    return entmax(x, 1.5, dim, _or_sort(x, method))


def fastest_entmax(x: Tensor, alpha: float | Tensor = 1.5, dim: int = -1) -> Tensor:
    """:func:`entmax` by the method measured fastest where x lies: on a GPU sorting for alpha 1.5 and 2, elsewhere "auto"; same errors."""
    sortable = not isinstance(alpha, Tensor) and alpha in (1.5, 2.0)
    return entmax(x, alpha, dim, _or_sort(x, "auto") if sortable else "auto")


def _or_sort(x: Tensor, method: str) -> str:
    """ "sort" for "auto" on a GPU, else ``method``."""
    return "sort" if method == "auto" and x.is_cuda else method


def entmax(x: Tensor, alpha: float | Tensor = 1.5, dim: int = -1, method: str = "auto") -> Tensor:
    """alpha-entmax over ``dim``, of the shape of x; -inf masks an entry (one a row must be finite). Differentiable in x and alpha.

    ``alpha``: a number >= 1 (1 is softmax), or a tensor of numbers > 1 that broadcasts against x with size 1 in ``dim``. ``method`` finds
    the threshold lambda: ``"sort"`` exactly, for alpha 1.5 and 2 only; ``"bisect"`` to the last bit of the bracket, for every alpha;
    ``"newton"`` for alpha <= 2, by Newton's method on the norm of order 1/beta of relu(beta x - lambda), which is convex in lambda, so
    that the iteration climbs to the root from below and gains a factor of 4 or more a step. ``"auto"`` takes the fastest that serves.
    Second derivatives exist for a fixed alpha. Raises ValueError for another method or alpha, TypeError for integers.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: give one of {', '.join(map(repr, METHODS))}")
    if not x.is_floating_point():
        raise TypeError(f"logits of {x.dtype}: give floating-point numbers, e.g. x.float()")
    if x.ndim == 0 or x.shape[dim] == 0:
        raise ValueError(f"logits of shape {tuple(x.shape)}: axis {dim} must exist and hold at least one entry")
    last = dim in (-1, x.ndim - 1)
    z = x if last else x.movedim(dim, -1)
    if isinstance(alpha, Tensor):
        alpha = _row_alpha(alpha.to(x), x, dim)
        largest = 3.0 if _capturing(x) else float(alpha.max())
    else:
        alpha = largest = float(alpha)
        if not 1 <= alpha < math.inf:
            raise ValueError(f"alpha={alpha:g}: give a finite number >= 1 (1 is softmax, 2 sparsemax)")
        if alpha == 1:
            return torch.softmax(x, dim)
    if method == "sort" and (isinstance(alpha, Tensor) or alpha not in (1.5, 2.0)):
        raise ValueError(f"method='sort' knows alpha 1.5 and 2, not {alpha}; use 'newton' (alpha <= 2) or 'bisect'")
    if method == "newton" and largest > 2:
        raise ValueError(f"method='newton' needs alpha <= 2, where it is sure to converge, and alpha is {largest:g}; use 'bisect'")
    half = x.dtype in (torch.float16, torch.bfloat16)
    p = _Entmax.apply(z.float() if half else z, alpha.float() if half and isinstance(alpha, Tensor) else alpha, method, largest)
    p = p.to(x.dtype) if half else p
    return p if last else p.movedim(-1, dim)


def _row_alpha(alpha: Tensor, x: Tensor, dim: int) -> Tensor:
    """alpha with as many axes as x, the one of size 1 that stands for ``dim`` moved to the end."""
    try:
        shape = torch.broadcast_shapes(alpha.shape, x.shape)
    except RuntimeError:
        shape = None
    rows = alpha.reshape(*[1] * (x.ndim - alpha.ndim), *alpha.shape).movedim(dim, -1) if alpha.ndim <= x.ndim else alpha
    if shape != x.shape or rows.shape[-1] != 1:
        raise ValueError(f"alpha {tuple(alpha.shape)} must broadcast against x {tuple(x.shape)} and have size 1 in axis {dim}")
    if not _capturing(x) and not bool(((rows > 1) & torch.isfinite(rows)).all()):
        raise ValueError(f"alpha from {float(rows.min()):g} to {float(rows.max()):g}: tensors hold finite numbers > 1; 1 itself is softmax")
    return rows


def _capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, when the host must not look at values."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class _Entmax(torch.autograd.Function):
    """entmax over the last axis of z, with the Jacobian diag(s) - ss^T / sum(s), s = p^(2 - alpha), in closed form."""

    @staticmethod
    def forward(z, alpha, method, largest):
        return _solve(z, alpha, method, largest)

    @staticmethod
    def setup_context(ctx, inputs, output):
        alpha = inputs[1]
        ctx.learned = isinstance(alpha, Tensor)
        ctx.alpha = None if ctx.learned else alpha
        ctx.save_for_backward(output, *([alpha] if ctx.learned else []))
        ctx.save_for_forward(output, *([alpha] if ctx.learned else []))

    @staticmethod
    def backward(ctx, g):
        p, *rest = ctx.saved_tensors
        alpha = rest[0] if ctx.learned else ctx.alpha
        g_z = entmax_jvp(p, g, alpha) if ctx.needs_input_grad[0] else None
        g_alpha = (g * _alpha_derivative(p, alpha)).sum_to_size(alpha.shape) if ctx.needs_input_grad[1] else None
        return g_z, g_alpha, None, None

    @staticmethod
    def jvp(ctx, t_z, t_alpha, *_):
        p, *rest = ctx.saved_tensors
        alpha = rest[0] if ctx.learned else ctx.alpha
        parts = [] if t_z is None else [entmax_jvp(p, t_z, alpha)]
        return sum(parts + ([] if t_alpha is None else [t_alpha * _alpha_derivative(p, alpha)]))

    @staticmethod
    def vmap(info, in_dims, z, alpha, method, largest):
        z = z.movedim(in_dims[0], 0) if in_dims[0] is not None else z.expand(info.batch_size, *z.shape)
        if in_dims[1] is not None:
            alpha = alpha.movedim(in_dims[1], 0)
        return _Entmax.apply(z, alpha, method, largest), 0


def entmax_jvp(p: Tensor, v: Tensor, alpha: float | Tensor, dim: int = -1) -> Tensor:
    """J v with J = dp/dx at p = entmax(x, alpha): s v - s (s.v)/sum(s), s = p^(2 - alpha) on the support; J is symmetric.

    alpha = 1 gives the softmax's diag(p) - pp^T, alpha = 2 the indicator of the support minus its mean.
    """
    s = _weights(p, alpha)
    sv = s * v
    return sv - s * (sv.sum(dim, keepdim=True) / s.sum(dim, keepdim=True))


def _weights(p: Tensor, alpha: float | Tensor) -> Tensor:
    """p^(2 - alpha) on the support and 0 outside, its own derivative finite."""
    if not isinstance(alpha, Tensor):
        if alpha == 2:
            return (p > 0).to(p.dtype)
        if alpha == 1:
            return p
        if alpha == 1.5 and not (torch.is_grad_enabled() and p.requires_grad):
            return p.sqrt()
    return torch.where(p > 0, torch.where(p > 0, p, 1).pow(2 - alpha), 0)


def _alpha_derivative(p: Tensor, alpha: Tensor) -> Tensor:
    """dp/dalpha: a - s sum(a)/sum(s) with a = (p/beta - p log p)/beta, from log p = log(beta x - lambda)/beta and sum p = 1."""
    beta, s = alpha - 1, _weights(p, alpha)
    a = (p / beta + torch.special.entr(p)) / beta
    return a - s * (a.sum(-1, keepdim=True) / s.sum(-1, keepdim=True))


def _solve(x: Tensor, alpha: float | Tensor, method: str, largest: float) -> Tensor:
    """p over the last axis; see :func:`entmax`."""
    top = x.amax(-1, keepdim=True)
    z = x - top
    if isinstance(alpha, Tensor) or alpha != 2:
        z = z * (alpha - 1)
    n, exact, capturing = x.shape[-1], not isinstance(alpha, Tensor) and alpha in (1.5, 2.0), _capturing(x)
    if method == "auto":
        small = n <= 16 or (x.is_cuda and x.numel() <= 2**19)
        method = "bisect" if largest > 2 else "sort" if exact and (small or capturing) else "newton"
    candidates = z
    if n >= 256 and not capturing:  # lambda >= -1, so that only what lies above -1 can be in the support
        count = max(1, int((z > -1).sum(-1).max())) if z.numel() else n
        if 4 * count <= n:
            candidates = z.topk(count, dim=-1, sorted=method == "sort").values
    if method == "sort":
        threshold = _by_sorting(candidates, alpha, ordered=candidates is not z)
    else:
        threshold = (_by_bisection if method == "bisect" else _by_newton)(candidates, alpha, n)
    p = _power((z - threshold).clamp_min_(0), alpha)
    return p if exact and method != "bisect" else p / p.sum(-1, keepdim=True)


def _power(u: Tensor, alpha: float | Tensor, less: int = 0) -> Tensor:
    """u^(1/beta - less) for u >= 0, without a power function where there is a product; 0^0 counts as 0."""
    if not isinstance(alpha, Tensor) and alpha in (1.5, 2.0):
        order = (1 if alpha == 2 else 2) - less
        return u * u if order == 2 else u if order == 1 else (u > 0).to(u.dtype)
    order = 1 / (alpha - 1) - less
    return torch.where(u > 0, u.pow(order), 0) if less else u.pow(order)


def _by_sorting(z: Tensor, alpha: float, ordered: bool) -> Tensor:
    """The threshold (..., 1) of z <= 0 with maximum 0 for alpha 2 and 1.5: the largest k with z_k >= lambda_k, in falling order.

    ``ordered``: z comes sorted. What is below -1 cannot be in the support and is lifted to -1, which also takes -inf.
    """
    z = (z if ordered else z.sort(-1, descending=True).values).clamp_min(-1)
    k = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    if alpha == 2:
        threshold = (z.cumsum(-1) - 1).div_(k)
    else:
        first, second = z.cumsum(-1), (z * z).cumsum(-1)
        mean = first / k
        threshold = mean - ((1 - second).addcmul_(first, mean)).div_(k).clamp_min_(0).sqrt_()
    support = (threshold <= z).sum(-1, keepdim=True).clamp_min_(1)  # 0 for NaN only
    return threshold.gather(-1, support - 1)


def _bracket(z: Tensor, alpha: float | Tensor, n: int) -> tuple[Tensor, Tensor]:
    """-1 <= lambda <= -n^(-beta): one entry alone would need the first, n equal ones the second."""
    low = torch.full_like(z[..., :1], -1.0)
    return low, torch.zeros_like(low) - float(n) ** (1 - alpha)


def _by_bisection(z: Tensor, alpha: float | Tensor, n: int) -> Tensor:
    """The threshold (..., 1) by halving its bracket until the dtype's resolution at 1."""
    low, high = _bracket(z, alpha, n)
    width = high - low
    for _ in range(25 if z.dtype == torch.float32 else 54):
        width = width / 2
        middle = low + width
        low = torch.where(_power((z - middle).clamp_min_(0), alpha).sum(-1, keepdim=True) >= 1, middle, low)
    return low


def newton_steps(n: int, beta: float, eps: float) -> int:
    """Steps after which the threshold of n logits is surely within ``eps`` of its limit: n^(2 beta) 4^(-steps) <= eps.

    For a convex falling h each Newton step has h'/h'_0 + h/h_0 <= 1, so that the product of h - 1 and |h'| falls fourfold; it starts below
    n^(2 beta) and bounds the distance, since |h'| >= 1.
    """
    return math.ceil((2 * beta * math.log(n) - math.log(eps)) / math.log(4))


def _by_newton(z: Tensor, alpha: float | Tensor, n: int) -> Tensor:
    """The threshold (..., 1) by Newton's method on the norm of order 1/beta of relu(z - lambda), from below."""
    eps = torch.finfo(z.dtype).eps
    beta = alpha - 1
    threshold = torch.full_like(z[..., :1], -1.0)
    watched = not _capturing(z)
    for step in range(newton_steps(max(n, 2), 1.0 if isinstance(beta, Tensor) else beta, eps)):
        u = (z - threshold).clamp_min_(0)
        lower = _power(u, alpha, less=1)
        total, slope = (u * lower).sum(-1, keepdim=True), lower.sum(-1, keepdim=True)
        climb = (total - total.pow(1 - beta)) / slope
        threshold = threshold + climb.clamp_min_(0)
        if watched and step >= 2 and not bool((climb > 2 * eps).any()):
            break
    return threshold


def tsallis_entropy(p: Tensor, alpha: float, dim: int = -1) -> Tensor:
    """sum(p - p^alpha) / (alpha (alpha - 1)) over ``dim``; Shannon's entropy, in nats, at alpha = 1 (arXiv 1905.05702, section 3)."""
    if not 1 <= alpha < math.inf:
        raise ValueError(f"alpha={alpha}: give a finite number >= 1")
    if alpha == 1:
        return torch.special.entr(p).sum(dim)
    if alpha == 2:
        return (p - p * p).sum(dim) / 2
    logs = torch.where(p > 0, p, 1).log()
    return -(p * torch.expm1((alpha - 1) * logs)).sum(dim) / (alpha * (alpha - 1))


def fenchel_young_loss(x: Tensor, target: Tensor, alpha: float = 1.5, method: str = "auto") -> Tensor:
    """(p - e_t).x + H(p) with p = entmax(x, alpha) and Tsallis' entropy H: logits (..., V), class ids (...) -> (...).

    Cross-entropy at alpha = 1. Its gradient is p - e_t (arXiv 1901.02324), and that is what autograd sees here: p maximises p.x + H(p),
    so it may be held fixed. Zero once the target's logit leads by 1/(alpha - 1). Raises ValueError for other shapes or ids.
    """
    _check_target(x, target)
    p = entmax(x.detach(), alpha, -1, method)
    return (p * x).sum(-1) - x.gather(-1, target[..., None])[..., 0] + tsallis_entropy(p, alpha)


def _check_target(x: Tensor, target: Tensor) -> None:
    if target.shape != x.shape[:-1] or target.is_floating_point():
        raise ValueError(f"targets {target.dtype} {tuple(target.shape)} for logits {tuple(x.shape)}: give class ids {tuple(x.shape[:-1])}")
    if not target.is_cuda and target.numel() and not 0 <= int(target.min()) <= int(target.max()) < x.shape[-1]:
        raise ValueError(f"class ids from {int(target.min())} to {int(target.max())}: they must lie in 0..{x.shape[-1] - 1}")


def topk_softmax(x: Tensor, k: int, dim: int = -1) -> Tensor:
    """Sparse softmax (arXiv 2112.12433): softmax over the k largest logits of ``dim``, zero elsewhere; of equal ones torch.topk chooses."""
    if not 1 <= k <= x.shape[dim]:
        raise ValueError(f"k={k}: give 1 to {x.shape[dim]}, the number of logits")
    values, places = x.topk(k, dim=dim)
    return torch.zeros_like(x).scatter(dim, places, torch.softmax(values, dim))


def topk_softmax_loss(x: Tensor, target: Tensor, k: int) -> Tensor:
    """log of the sum of exp over the k largest logits, minus the target's logit: logits (..., V), class ids (...) -> (...).

    -log p_t of :func:`topk_softmax` where the target is among the k; finite elsewhere, and then it is no -log p_t (arXiv 2112.12433).
    """
    _check_target(x, target)
    if not 1 <= k <= x.shape[-1]:
        raise ValueError(f"k={k}: give 1 to {x.shape[-1]}, the number of logits")
    return x.topk(k, dim=-1).values.logsumexp(-1) - x.gather(-1, target[..., None])[..., 0]


def taylor_exp(x: Tensor, order: int) -> Tensor:
    """sum of x^m / m! for m <= order, positive for an even order; raises ValueError for another."""
    if order < 2 or order % 2:
        raise ValueError(f"order={order}: give an even number >= 2; odd sums are negative somewhere")
    total = torch.ones_like(x)
    for m in range(order, 0, -1):
        total = 1 + x * total / m
    return total


def taylor_softmax(x: Tensor, order: int = 2, dim: int = -1) -> Tensor:
    """Softmax with exp replaced by its Taylor sum of even ``order``. Not shift invariant, and not monotone left of the sum's minimum."""
    f = taylor_exp(x, order)
    return f / f.sum(dim, keepdim=True)


def _log_cdf(t: Tensor, noise: str) -> Tensor:
    if noise == "normal":
        return torch.special.log_ndtr(t)
    if noise == "gumbel":
        return -torch.exp(-t)
    if noise == "logistic":
        return torch.nn.functional.logsigmoid(t)
    if noise == "laplace":
        return torch.where(t < 0, t - math.log(2), torch.log1p(-torch.exp(-t.abs()) / 2))
    return (t + 0.5).clamp(torch.finfo(t.dtype).tiny, 1).log()


def _quantile(q: Tensor, noise: str) -> Tensor:
    if noise == "normal":
        return torch.special.ndtri(q)
    if noise == "gumbel":
        return -torch.log(-torch.log(q))
    if noise == "logistic":
        return torch.logit(q)
    if noise == "laplace":
        return torch.where(q < 0.5, torch.log(2 * q), -torch.log(2 - 2 * q))
    return q - 0.5


def perturbed_argmax(x: Tensor, noise: str = "normal", nodes: int = 64, *, normalise: bool = True, log: bool = False) -> Tensor:
    """P(argmax(x + eps) = i) over the last axis for i.i.d. noise: mean over eps of prod_{j != i} Phi(x_i - x_j + eps) (..., n).

    The mean runs over the noise's quantiles at (r - 1/2)/nodes. Memory: nodes n^2 a row. ``noise``: gumbel (softmax), normal, laplace,
    logistic, or uniform on [-1/2, 1/2]. ``normalise`` divides by the sum, which the quadrature leaves a little off 1; ``log`` returns
    logarithms, which do not underflow.
    """
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r}: give one of {', '.join(map(repr, NOISES))}")
    if nodes < 1:
        raise ValueError(f"nodes={nodes}: give at least 1")
    eps = _quantile((torch.arange(nodes, device=x.device, dtype=x.dtype) + 0.5) / nodes, noise)
    gap = x[..., :, None, None] - x[..., None, :, None] + eps  # (..., i, j, r)
    logs = (_log_cdf(gap, noise).sum(-2) - _log_cdf(eps, noise)).logsumexp(-1) - math.log(nodes)
    logs = torch.log_softmax(logs, -1) if normalise else logs
    return logs if log else logs.exp()


def calibration_error(p: Tensor, target: Tensor, bins: int = 10) -> Tensor:
    """Expected calibration error: p (R, N, V), class ids (R, N) or (N,) -> (R,), over ``bins`` equal bins of the largest probability.

    The mean over examples of |accuracy - confidence|, both averaged within the example's bin first (arXiv 1706.04599, equation 3).
    """
    if bins < 1 or p.ndim != 3:
        raise ValueError(f"p {tuple(p.shape)}, bins={bins}: give probabilities (R, N, V) and at least one bin")
    confidence, guess = p.double().max(-1)
    gap = (guess == target).double() - confidence
    place = (confidence.nan_to_num(0) * bins).ceil().clamp(1, bins).long() - 1
    return torch.zeros(len(p), bins, dtype=torch.float64, device=p.device).scatter_add(1, place, gap).abs().sum(1) / p.shape[1]
