"""Low-rank adapters: their initialisations, the gradient they can follow, and LoRA-Pro's corrected gradients.

Matrices act on row vectors, y = x W with W (n, m), and an adapter adds ``scale * A B`` with A (n, r) and B (r, m); peft's lora_A and
lora_B are the transposes of A and B. All functions accept leading axes: layers, and in front of them the runs of a stack
(see :mod:`kexue_nb.optim`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kexue_nb.optim import Stacked, Together

LORA_PLUS_RATIO = 16.0  # rate of B over that of A (arXiv 2402.12354, section 5)
WITHOUT_GRADIENT = ("LoRA", "rsLoRA", "LoRA+", "PiSSA", "random pair")
FROM_GRADIENT = ("LoRA-GA", "LoRA-GA in peft", "GA-sign", "sign-fit", "LoRA-Pro")


@dataclass(frozen=True)
class Start:
    """Where an adapter starts: A (..., n, r), B (..., r, m), its scale, and how much faster B learns than A."""

    A: Tensor
    B: Tensor
    scale: float
    ratio: float = 1.0


def top_pairs(M: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest singular triples: U (..., n, k), S (..., k), V (..., k, m) with right vectors as rows; M (..., n, m), k <= min(n, m).

    From the eigenvectors of the smaller Gram matrix, in float64: singular values below 1e-7 of the largest are not resolved.
    """
    n, m = M.shape[-2:]
    if not 1 <= k <= min(n, m):
        raise ValueError(f"k={k} triples of a {n} x {m} matrix: give 1 to {min(n, m)}")
    D = M.double()
    D = D if n <= m else D.mT
    U = torch.linalg.eigh(D @ D.mT).eigenvectors.flip(-1)[..., :k]
    V = U.mT @ D
    S = torch.linalg.vector_norm(V, dim=-1)
    V = V / S.clamp_min(torch.finfo(D.dtype).tiny)[..., None]
    U, V = (U, V) if n <= m else (V.mT, U.mT)
    return U.to(M.dtype), S.to(M.dtype), V.to(M.dtype)


def default_init(n: int, m: int, r: int, generator: torch.Generator, lead: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """LoRA's start as in peft: entries of A uniform in (-1/sqrt(n), 1/sqrt(n)), B = 0 (arXiv 2106.09685; Kaiming with a = sqrt 5)."""
    A = (2 * torch.rand(*lead, n, r, generator=generator) - 1) / math.sqrt(n)
    return A, torch.zeros(*lead, r, m)


def random_pair(n: int, m: int, r: int, generator: torch.Generator, lead: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """A with orthonormal columns and B with orthonormal rows in random directions: a non-zero start that knows no gradient."""
    A = torch.linalg.qr(torch.randn(*lead, n, r, generator=generator)).Q
    return A, torch.linalg.qr(torch.randn(*lead, m, r, generator=generator)).Q.mT


def pissa_init(W: Tensor, r: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """PiSSA's start, scale * A B = the best rank-r approximation of W, evenly split (arXiv 2404.02948, equation 2)."""
    U, S, V = top_pairs(W, r)
    root = (S / scale).sqrt()
    return U * root[..., None, :], root[..., :, None] * V


def lora_ga_init(G: Tensor, r: int, gain: float = 1.0, pairing: str = "post") -> tuple[Tensor, Tensor]:
    """LoRA-GA's start from the gradient G (..., n, m): r of the top 2r left singular vectors in A, the right vectors of the others in B.

    ``"post"``: A has the indices 1..r and B r+1..2r in order (arXiv 2407.05000, theorem 3.1, and post 10226). ``"antitone"``: B's order is
    reversed, so that column i of A meets index 2r+1-i, which makes the second-order error of the first step smallest. Both have columns
    of norm ``gain``; :func:`stable_gain` is the paper's. Raises ValueError where 2r > min(n, m).
    """
    if pairing not in ("post", "antitone"):
        raise ValueError(f"pairing={pairing!r}: give 'post' or 'antitone'")
    U, _, V = top_pairs(G, 2 * r)
    B = V[..., r:, :]
    return gain * U[..., :r], gain * (B if pairing == "post" else B.flip(-2))


def stable_gain(m: int, gamma: float = 16.0) -> float:
    """m^(1/4)/sqrt(gamma), the column norm in the authors' code for a matrix with m outputs ("stable" scaling)."""
    return m**0.25 / math.sqrt(gamma)


def captured_energy(G: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Share of ||G||_F^2 in the first-order SGD step of an adapter, at the best step size: in [0, 1], (..., n, m) -> (...).

    1 - min_c ||c M - G||^2/||G||^2 = <M, G>^2/(||M||^2 ||G||^2) with M = A A^T G + G B^T B (post 10226, the objective up to a scalar);
    0 where M is.
    """
    M = A @ (A.mT @ G) + (G @ B.mT) @ B
    inner, norms = (M * G).sum((-2, -1)), M.square().sum((-2, -1)) * G.square().sum((-2, -1))
    return inner.square() / norms.clamp_min(torch.finfo(G.dtype).tiny)


def sign_residual(G: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """||A sign(A^T G) + sign(G B^T) B - sign(G)||_F^2/||sign(G)||_F^2: how far the first step of Adam is from full fine-tuning's."""
    S = G.sign()
    return (A @ (A.mT @ G).sign() + (G @ B.mT).sign() @ B - S).square().sum((-2, -1)) / S.square().sum((-2, -1))


def align_signs(G: Tensor, A: Tensor, B: Tensor, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Minimise :func:`sign_residual` by alternating least squares from (A, B), in float64; keeps the best pair seen. G (..., n, m).

    With the signs S_A = sign(A^T G) and S_B = sign(G B^T) frozen, A <- (S - S_B B) S_A^+ and B <- S_B^+ (S - A S_A), S = sign(G).
    """
    dtype, G, A, B = G.dtype, G.double(), A.double(), B.double()
    S, best, kept = G.sign(), sign_residual(G, A, B), (A, B)
    for _ in range(rounds):
        S_A, S_B = (A.mT @ G).sign(), (G @ B.mT).sign()
        A = (S - S_B @ B) @ S_A.mT @ _inverse_gram(S_A)
        B = _inverse_gram(S_B.mT) @ S_B.mT @ (S - A @ S_A)
        value = sign_residual(G, A, B)
        better = (value < best)[..., None, None]
        best, kept = value.minimum(best), tuple(torch.where(better, new, old) for new, old in zip((A, B), kept, strict=True))
    return kept[0].to(dtype), kept[1].to(dtype)


def _inverse_gram(R: Tensor) -> Tensor:
    """(R R^T)^-1 of wide R (..., r, m), with a ridge of 1e-10 of the trace for rows that coincide."""
    M = R @ R.mT
    ridge = 1e-10 * M.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return inverse(M + ridge * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))


def start(
    method: str,
    W: Tensor,
    G: Tensor,
    r: int,
    generator: torch.Generator,
    *,
    alpha: float = 16.0,
    gamma: float = 16.0,
    scale: float | None = None,
    gain: float | None = None,
) -> Start:
    """The start of ``method`` for weights W and gradient G, both (..., n, m), each at the scale that its authors use.

    LoRA and LoRA+ alpha/r, PiSSA 1, all others alpha/sqrt(r), rsLoRA's (arXiv 2312.03732). ``scale`` and ``gain`` override these and
    :func:`stable_gain`. "random pair" is the control, "GA-sign" LoRA-GA on sign(G); "sign-fit" goes on from there with :func:`align_signs`,
    at the size that makes Adam's first step that of full fine-tuning; "LoRA-Pro" starts as LoRA-GA. "LoRA-GA in peft" is what peft 0.21.2
    makes of it: columns of A of norm 1, rows of B multiplied by their singular values.
    """
    *lead, n, m = W.shape
    if method not in WITHOUT_GRADIENT + FROM_GRADIENT:
        raise ValueError(f"method {method!r}: give one of {', '.join(WITHOUT_GRADIENT + FROM_GRADIENT)}")
    own = {"LoRA": alpha / r, "LoRA+": alpha / r, "PiSSA": 1.0}.get(method, alpha / math.sqrt(r))
    scale = own if scale is None else scale
    gain = stable_gain(m, gamma) if gain is None else gain
    if method == "PiSSA":
        A, B = pissa_init(W, r, scale)
    elif method in ("LoRA-GA", "LoRA-Pro", "GA-sign"):
        A, B = lora_ga_init(G.sign() if method == "GA-sign" else G, r, gain)
    elif method == "LoRA-GA in peft":
        U, S, V = top_pairs(G, 2 * r)
        A, B = U[..., :r], gain * S[..., r:, None] * V[..., r:, :]
    elif method == "sign-fit":
        A, B = (x / scale for x in align_signs(G, *lora_ga_init(G.sign(), r), rounds=30))
    elif method == "random pair":
        A, B = (gain * x for x in random_pair(n, m, r, generator, lead))
    else:
        A, B = default_init(n, m, r, generator, lead)
    return Start(A.to(W), B.to(W), scale, LORA_PLUS_RATIO if method == "LoRA+" else 1.0)


class LoRALinear(nn.Module):
    """x (..., n) -> x W + scale * (x A B - x A_0 B_0): W stays frozen, A and B train from A_0 and B_0, so the start is W itself.

    ``W`` (..., n, m); ``A`` (R, ..., n, r) and ``B`` (R, ..., r, m) may lead with runs. Equal to training on the frozen weight
    W - scale * A_0 B_0 (post 10226), without its rounding.
    """

    def __init__(self, W: Tensor, A: Tensor, B: Tensor, scale: float = 1.0):
        super().__init__()
        n, m = W.shape[-2:]
        if A.shape[-2] != n or B.shape[-1] != m or A.shape[-1] != B.shape[-2]:
            raise ValueError(f"A {tuple(A.shape)} and B {tuple(B.shape)} do not make a {n} x {m} matrix of one rank")
        self.scale = scale
        self.register_buffer("W", W.detach())
        self.register_buffer("A0", A.detach().clone())
        self.register_buffer("B0", B.detach().clone())
        self.A, self.B = nn.Parameter(A.detach().clone()), nn.Parameter(B.detach().clone())

    def packed(self) -> tuple[Tensor, Tensor]:
        """The trained change as one adapter of rank 2r: [A, A_0] (..., n, 2r) and scale * [B; -B_0] (..., 2r, m)."""
        return torch.cat([self.A, self.A0], -1), self.scale * torch.cat([self.B, -self.B0], -2)

    def weight(self) -> Tensor:
        """The effective matrix W + scale * (A B - A_0 B_0), (R, ..., n, m)."""
        left, right = self.packed()
        return self.W + left @ right

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.packed()
        return x @ self.W + (x @ left) @ right


def inverse(M: Tensor) -> Tensor:
    """Inverse of small symmetric positive definite matrices (..., r, r) by Gauss-Jordan, without pivots or host synchronisation."""
    r = M.shape[-1]
    X = torch.cat([M, torch.eye(r, dtype=M.dtype, device=M.device).expand_as(M)], -1)
    for i in range(r):
        row = X[..., i : i + 1, :] / X[..., i : i + 1, i : i + 1]
        unit = torch.zeros(r, 1, dtype=M.dtype, device=M.device)
        unit[i] = 1
        X = X - (X[..., :, i : i + 1] - unit) * row
        X = torch.where(unit.bool(), row, X)
    return X[..., r:]


def pro_gradients(A: Tensor, B: Tensor, G_A: Tensor, G_B: Tensor, C: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """LoRA-Pro's H_A, H_B, which minimise ||H_A B + A H_B - G||_F given G_A = G B^T and G_B = A^T G (arXiv 2407.18242, theorem 2.1).

    H_A = G_A (B B^T)^-1 + A C and H_B = (A^T A)^-1 G_B (I - B^T (B B^T)^-1 B) - C B reach the minimum ||(I - P) G (I - Q)||_F for every C
    (..., r, r), P and Q projecting onto the columns of A and the rows of B. The default C = -(A^T A)^-1 G_B B^T (B B^T)^-1/2 treats both
    alike (post 10266). A and B need full rank.
    """
    a, b = inverse(A.mT @ A), inverse(B @ B.mT)
    inner = a @ G_B @ B.mT @ b  # (..., r, r)
    C = -inner / 2 if C is None else C
    return G_A @ b + A @ C, a @ G_B - (inner + C) @ B


def pro_sylvester(A: Tensor, B: Tensor, G_A: Tensor) -> Tensor:
    """The paper's C: it solves A^T A C + C B B^T = -A^T G_A (B B^T)^-1, which keeps H_A, H_B closest to G_A, G_B; (..., r, r)."""
    p, X = torch.linalg.eigh(A.mT @ A)
    q, Y = torch.linalg.eigh(B @ B.mT)
    right = -(A.mT @ G_A) @ torch.linalg.inv(B @ B.mT)
    return X @ ((X.mT @ right @ Y) / (p[..., :, None] + q[..., None, :])) @ Y.mT


class LoRAPro(Together):
    """An optimizer of A and B that sees LoRA-Pro's gradients in place of theirs. ``adapters``: the :class:`LoRALinear` it trains."""

    def __init__(self, adapters: Sequence[LoRALinear], optimizer: Stacked):
        super().__init__(optimizer)
        self.adapters = list(adapters)

    @torch.no_grad()
    def update(self) -> None:
        for layer in self.adapters:
            s = layer.scale
            H_A, H_B = pro_gradients(layer.A, layer.B, layer.A.grad / s, layer.B.grad / s)
            layer.A.grad.copy_(H_A / s)
            layer.B.grad.copy_(H_B / s)
        super().update()
