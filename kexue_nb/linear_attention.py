"""Linear attention: feature maps, the same attention in parallel, recurrent and chunked form, and two measures of concentration.

Shapes: q, k (..., n, m) are *features*, already mapped; v (..., n, d_v); the leading axes are batch and heads. Query i is
at position i and sees the keys 0..i. With numerators N_i = sum_j lambda^(i-j) (q_i . k_j) v_j the output is N_i, or with
``normalize`` N_i divided by sum_j lambda^(i-j) (q_i . k_j), as in arXiv 2006.16236 (lambda = 1) and arXiv 2307.08621 (the decay).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def elu_plus_one(x: Tensor) -> Tensor:
    """elu(x) + 1 > 0, entry by entry: the feature map of arXiv 2006.16236."""
    return F.elu(x) + 1


def exp_feature(x: Tensor, bound: float = 20.0) -> Tensor:
    """exp(min(x, bound)) > 0, entry by entry; the bound keeps training finite."""
    return x.clamp(max=bound).exp()


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {"elu+1": elu_plus_one, "relu": F.relu, "exp": exp_feature}


def positive_random_features(x: Tensor, directions: Tensor) -> Tensor:
    """exp(w_c . x - |x|^2 / 2) / sqrt(m) for the m rows w_c of ``directions`` (m, d); x (..., d) -> (..., m), all positive.

    For w_c ~ N(0, I) the mean of the dot product of two images is exp(x . y): FAVOR+ (arXiv 2009.14794, lemma 1).
    """
    if directions.ndim != 2 or directions.shape[1] != x.shape[-1]:
        raise ValueError(f"directions {tuple(directions.shape)} for x with {x.shape[-1]} coordinates: give (m, {x.shape[-1]})")
    return (x @ directions.mT - x.square().sum(-1, keepdim=True) / 2).exp() / math.sqrt(len(directions))


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, decay: float | Tensor = 1.0, normalize: bool = True) -> Tensor:
    """Causal linear attention by its n x n weights (parallel form): time and memory quadratic in n; -> (..., n, d_v).

    ``decay`` lambda in (0, 1]: a number, or a tensor that broadcasts against the leading axes (one a head, say).
    """
    log_decay = _log_decay(q, k, v, decay)
    weights = (q @ k.mT) * _decay_mask(q.shape[-2], log_decay)
    out = weights @ v
    return out / weights.sum(-1, keepdim=True) if normalize else out


def linear_attention_recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: float | Tensor = 1.0,
    normalize: bool = True,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The same as a linear RNN: S_i = lambda S_(i-1) + k_i v_i^T, z_i = lambda z_(i-1) + k_i, output q_i S_i (/ q_i . z_i).

    Returns the outputs (..., n, d_v) and the last state (S, z), (..., m, d_v) and (..., m), which ``state`` takes to go on: memory does
    not grow with n.
    """
    factor = _log_decay(q, k, v, decay).exp()
    S, z = _start(q, k, v) if state is None else state
    outputs = []
    for t in range(q.shape[-2]):
        S = factor[..., None, None] * S + k[..., t, :, None] * v[..., t, None, :]
        z = factor[..., None] * z + k[..., t, :]
        out = (q[..., t, None, :] @ S)[..., 0, :]
        outputs.append(out / (q[..., t, :] * z).sum(-1, keepdim=True) if normalize else out)
    return torch.stack(outputs, -2), (S, z)


def linear_attention_chunked(
    q: Tensor, k: Tensor, v: Tensor, *, chunk: int = 64, decay: float | Tensor = 1.0, normalize: bool = True
) -> Tensor:
    """The same in chunks: parallel inside a chunk, recurrent from one to the next; time linear in n (arXiv 2202.10447, section 3.3)."""
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: give at least 1")
    log_decay = _log_decay(q, k, v, decay)
    S, z = _start(q, k, v)
    outputs = []
    for qc, kc, vc in zip(*(t.split(chunk, -2) for t in (q, k, v)), strict=True):
        size = qc.shape[-2]
        steps = torch.arange(1, size + 1, device=q.device, dtype=q.dtype)
        since = (log_decay[..., None, None] * steps[:, None]).exp()  # lambda^(i+1): decay of the incoming state at row i
        left = (log_decay[..., None, None] * (size - steps)[:, None]).exp()  # lambda^(size-1-j): decay of key j at the chunk's end
        weights = (qc @ kc.mT) * _decay_mask(size, log_decay)
        out = weights @ vc + since * (qc @ S)
        if normalize:
            out = out / (weights.sum(-1, keepdim=True) + since * (qc @ z[..., None]))
        outputs.append(out)
        whole = (log_decay * size).exp()
        S = whole[..., None, None] * S + (left * kc).mT @ vc
        z = whole[..., None] * z + (left * kc).sum(-2)
    return torch.cat(outputs, -2)


def _log_decay(q: Tensor, k: Tensor, v: Tensor, decay: float | Tensor) -> Tensor:
    if q.shape != k.shape or v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: give (..., n, m), (..., n, m) and (..., n, d_v)")
    decay = torch.as_tensor(decay, dtype=q.dtype, device=q.device)
    if not q.is_cuda and not bool(((decay > 0) & (decay <= 1)).all()):  # on a GPU the check would stall every step
        raise ValueError(f"decay={decay.tolist()}: it must lie in (0, 1]")
    return decay.log()


def _decay_mask(n: int, log_decay: Tensor) -> Tensor:
    """lambda^(i-j) for j <= i, 0 above the diagonal; (..., n, n)."""
    at = torch.arange(n, device=log_decay.device)
    distance = at[:, None] - at
    powers = (log_decay[..., None, None] * distance.clamp_min(0).to(log_decay.dtype)).exp()
    return torch.where(distance >= 0, powers, torch.zeros_like(powers))


def _start(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1]), k.new_zeros(*k.shape[:-2], k.shape[-1])


def l1_l2_ratio(a: Tensor) -> Tensor:
    """S = mean |a| / sqrt(mean a^2) over the last axis, in [1/sqrt(n), 1]: 1 for equal moduli, 1/sqrt(n) where one entry has it all.

    Does not change with the scale of ``a``; signs do not matter. NaN for an all-zero row. Source: post 9889 (kexue.fm).
    """
    if a.shape[-1] == 0:
        raise ValueError(f"a of shape {tuple(a.shape)}: the last axis needs at least one entry")
    a = a.abs()
    peak = a.amax(-1, keepdim=True)
    a = a / peak  # squares of tiny entries would underflow; 0/0 makes the NaN of a zero row
    return a.mean(-1) / a.square().mean(-1).sqrt()


def effective_tokens(a: Tensor) -> Tensor:
    """N_eff = n S^2 = (sum |a|)^2 / sum a^2 over the last axis, between 1 and n: how many entries share the weight. NaN for a zero row."""
    return a.shape[-1] * l1_l2_ratio(a).square()


def best_weights(features: Tensor) -> Tensor:
    """The largest normalised weight that any non-negative query can give to each of n keys: features (..., n, m) >= 0 -> (..., n).

    It is max_c k_jc / sum_i k_ic, attained by the query e_c. The sum over the keys is at most m, whatever n is. A coordinate in which
    all keys vanish is left out. Raises ValueError for negative features.
    """
    if bool((features < 0).any()):
        raise ValueError(f"a feature is {float(features.min())}; the bound needs features >= 0")
    total = features.sum(-2, keepdim=True)
    return torch.where(total > 0, features / total.clamp_min(torch.finfo(features.dtype).tiny), torch.zeros_like(features)).amax(-1)
