"""Norm layers and their element-wise substitutes, and a stacked transformer that takes them, where they stand, and what its head shares.

Shapes as in :mod:`kexue_nb.nn`: R runs, B sequences, T positions, d width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue_nb import nn as stacked

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "dyt": torch.tanh,
    "dyisru": lambda u: u * torch.rsqrt(1 + u * u),
    "derf": torch.erf,
    "clip": F.hardtanh,
    "identity": lambda u: u,
}
KINDS = (*stacked.NORMS, *ELEMENTWISE)
PLACEMENTS = ("pre", "post", "none")
TYINGS = ("untied", "tied", "projected", "permuted")


class Norm(nn.Module):
    """x (R, ..., d) -> (R, ..., d), by ``kind``.

    - ``"rms"``, ``"layer"``: gamma * norm(x), a learned gamma (R, d).
    - element-wise: gamma * A f(alpha x / A) + beta, with learned alpha (R,), gamma and beta (R, d), and a fixed amplitude A:
      ``"dyt"`` f = tanh (arXiv 2503.10622), ``"dyisru"`` f(u) = u / sqrt(1 + u^2) (arXiv 2503.21708; post 10831 with C = A^2 / alpha^2),
      ``"derf"`` f = erf (arXiv 2512.10938, without its shift), ``"clip"`` f = clamp to [-1, 1], ``"identity"`` f(u) = u.

    ``alpha`` (default 0.5) starts as the slope of tanh and ISRU at 0, ``amplitude`` (default 1) is the value at infinity: 1 in the papers,
    sqrt(d) in the form that the post 10831 advises. Both are one number, or (R,) one for each run; ``"rms"`` and ``"layer"`` take neither.
    """

    def __init__(
        self, init: stacked.Init, d: int, kind: str, *, alpha: float | Tensor | None = None, amplitude: float | Tensor | None = None
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: give one of {', '.join(map(repr, KINDS))}")
        if kind in stacked.NORMS and not (alpha is None and amplitude is None):
            raise ValueError(f"kind={kind!r} has neither alpha nor amplitude; leave them out")
        self.kind = kind
        self.gamma = nn.Parameter(torch.ones(init.runs, d))
        if kind in ELEMENTWISE:
            self.alpha = nn.Parameter(_each(init.runs, "alpha", 0.5 if alpha is None else alpha))
            self.beta = nn.Parameter(torch.zeros(init.runs, d))
            self.register_buffer("amplitude", _each(init.runs, "amplitude", 1.0 if amplitude is None else amplitude))

    def forward(self, x: Tensor) -> Tensor:
        across = (-1, *[1] * (x.ndim - 2))
        gamma = self.gamma.to(x.dtype).view(*across, x.shape[-1])
        if self.kind in stacked.NORMS:
            return gamma * stacked.NORMS[self.kind](x)
        alpha, A = (t.to(x.dtype).view(*across, 1) for t in (self.alpha, self.amplitude))
        return gamma * (A * ELEMENTWISE[self.kind](alpha * x / A)) + self.beta.to(x.dtype).view(*across, x.shape[-1])


class Transformer(stacked.Transformer):
    """:class:`kexue_nb.nn.Transformer` whose norm layers, their placement and the head's tying are chosen freely.

    ``placement``, F a sublayer (attention or feed-forward), N its own :class:`Norm`:

    - ``"pre"``: skip * x + F(N(x)), and one more norm before the head;
    - ``"post"``: N(skip * x + F(x)); with skip alpha and gain beta this is DeepNorm (arXiv 2203.00555, section 3);
    - ``"none"``: skip * x + F(x); then ``norm`` must be None.

    ``norm``, ``alpha`` and ``amplitude`` are those of :class:`Norm`. ``tying``, with the embedding table E (vocabulary, d) and the state h:

    - ``"untied"``: logits = h W with an own matrix, entries N(0, 1/d);
    - ``"tied"``: h E^T;
    - ``"projected"``: (h P) E^T, P (d, d) learned from a random rotation (arXiv 2010.12821; the post 9698, remedy b);
    - ``"permuted"``: h[permutation] E^T (the post 9698, remedies c and d: half swap, shuffle).

    The logits are multiplied by ``logit_scale``, a number or (R,) one for each run. The entries of E start as N(0, embedding_std^2).
    ``embedding_scale`` multiplies the embedding by a learned scalar (R,), at first 1. ``position_std=0`` leaves positions out.
    The other options are those of :class:`kexue_nb.nn.Transformer`.
    """

    def __init__(
        self,
        init: stacked.Init,
        *,
        vocabulary: int,
        d: int,
        depth: int,
        placement: str = "pre",
        norm: str | None = "rms",
        alpha: float | Tensor | None = None,
        amplitude: float | Tensor | None = None,
        tying: str = "untied",
        permutation: Tensor | None = None,
        logit_scale: float | Tensor = 1.0,
        embedding_std: float | Tensor = 1.0,
        embedding_scale: bool = False,
        position_std: float = 0.3,
        **options,
    ):
        if "affine" in options:
            raise ValueError("affine: every norm here has its learned gain")
        for name, value, allowed in (("placement", placement, PLACEMENTS), ("tying", tying, TYINGS)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")
        if (placement == "none") != (norm is None):
            raise ValueError(f"placement={placement!r} with norm={norm!r}: placement 'none' goes with norm None, the others with a norm")
        if norm is None and not (alpha is None and amplitude is None):
            raise ValueError("without a norm there is neither alpha nor amplitude; leave them out")
        if (tying == "permuted") != (permutation is not None):
            raise ValueError(f"tying={tying!r}: a permutation goes with 'permuted', and with nothing else")
        if permutation is not None and sorted(permutation.tolist()) != list(range(d)):
            raise ValueError(f"permutation must hold each of 0..{d - 1} once; got {permutation.tolist()}")
        base = "layer" if norm == "layer" else "rms"  # the embedding's norm, where embedding_norm asks for one
        super().__init__(init, vocabulary=vocabulary, d=d, depth=depth, norm=base, affine=False, position_std=position_std, **options)
        if position_std == 0:
            self.positions = None
        self.placement, self.tying, runs = placement, tying, init.runs
        self.tokens.weight.data *= _each(runs, "embedding_std", embedding_std).view(-1, 1, 1)
        self.register_buffer("logit_scale", _each(runs, "logit_scale", logit_scale, positive=False))
        self.embedding_scale = nn.Parameter(torch.ones(runs)) if embedding_scale else None
        count = 2 * depth + (placement == "pre")
        self.norms = nn.ModuleList([] if norm is None else (Norm(init, d, norm, alpha=alpha, amplitude=amplitude) for _ in range(count)))
        self.register_buffer("permutation", permutation)
        if tying != "untied":
            self.head = None
        if tying == "projected":
            self.projection = nn.Parameter(rotation_of(init.normal(d, d).detach()))

    def forward(self, ids: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        h = deque(self.states(ids, precision), maxlen=1).pop()
        return self.logits(self.norms[-1](h) if self.placement == "pre" else h)

    def logits(self, h: Tensor) -> Tensor:
        """The head: h (R, B, T, d) -> logits (R, B, T, vocabulary)."""
        if self.tying == "untied":
            logits = self.head(h)
        else:
            if self.tying == "projected":
                h = stacked._matmul(h, self.projection.to(h.dtype))
            elif self.tying == "permuted":
                h = h[..., self.permutation]
            logits = stacked._matmul(h, self.tokens.weight.to(h.dtype).mT)
        return logits * self.logit_scale.to(h.dtype).view(-1, 1, 1, 1)

    def states(self, ids: Tensor, precision: torch.dtype = torch.float32) -> Iterator[Tensor]:
        """The hidden state (R, B, T, d) after the embedding and after each sublayer; activations in ``precision``."""
        length = ids.shape[-1]
        if length > self.context:
            raise ValueError(f"{length} positions, but this model was built for a context of {self.context}")
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(length, device=ids.device).expand(ids.shape[0], 1, length))
        if self.embedding_scale is not None:
            x = self.embedding_scale.view(-1, 1, 1, 1) * x
        x = self.norm(x).to(precision) if self.embedding_norm else x.to(precision)
        yield x
        rotation = None
        if self.angles is not None:
            angles = self.angles[..., :length, :]
            rotation = angles.cos().to(precision), angles.sin().to(precision)
        norms = iter(self.norms) if len(self.norms) else iter([nn.Identity()] * (2 * self.depth))
        for wq, wk, wv, wo, w1, w2 in zip(
            *(w.to(precision).unbind(1) for w in (self.wq, self.wk, self.wv, self.wo, self.w1, self.w2)), strict=True
        ):
            x = self._sublayer(x, lambda h, w=(wq, wk, wv, wo): self._attention(h, *w, rotation), next(norms))
            yield x
            x = self._sublayer(x, lambda h, w1=w1, w2=w2: stacked._matmul(self.activation(stacked._matmul(h, w1)), w2), next(norms))
            yield x

    def _sublayer(self, x: Tensor, branch: Callable[[Tensor], Tensor], norm: nn.Module) -> Tensor:
        kept = x if self.skip is None else self.skip.to(x.dtype) * x
        return norm(kept + branch(x)) if self.placement == "post" else kept + branch(norm(x))


def rotation_of(A: Tensor) -> Tensor:
    """The orthogonal Q of A = QR whose R has a positive diagonal, (..., d, d): Haar where A is Gaussian (Mezzadri, math-ph/0609050)."""
    Q, upper = torch.linalg.qr(A)
    return Q * torch.diagonal(upper, dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _each(runs: int, name: str, value: float | Tensor, positive: bool = True) -> Tensor:
    """``value`` as (R,) float32: one number for all runs, or one for each."""
    value = torch.as_tensor(value, dtype=torch.float32)
    if value.shape not in ((), (runs,)):
        raise ValueError(f"{name} {tuple(value.shape)}: give one number, or one for each of {runs} runs")
    if not bool(torch.isfinite(value).all()) or (positive and not bool((value > 0).all())):
        raise ValueError(f"{name}={value.tolist()}: it must be finite" + (" and positive" if positive else ""))
    return value.expand(runs).clone()
