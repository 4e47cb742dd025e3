"""Whitening sentence vectors, fit and transform, beside scikit-learn's PCA."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.decomposition import PCA

from benchmarks.paired import Case, Row

D = 384


def whitened(X: torch.Tensor, k: int) -> torch.Tensor:
    """The notebook bert-whitening's fit and transform at beta = gamma = 1: the first k coordinates of the whitened vectors (N, k)."""
    mu = X.mean(0)
    Z = X - mu
    lam, U = torch.linalg.eigh(Z.T @ Z / len(Z))
    lam, U = lam.flip(0)[:k], U.flip(1)[:, :k]
    return Z @ (U / lam.sqrt())


def signless(a: np.ndarray, b: np.ndarray) -> float:
    """Relative distance of the cosines of the first 200 vectors, which signs of axes and the factor n/(n - 1) leave alone."""
    grams = []
    for x in (a, b):
        x = np.asarray(x, dtype=float)[:200]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        grams.append(x @ x.T)
    return float(np.linalg.norm(grams[0] - grams[1]) / np.linalg.norm(grams[0]))


def vectors(device: torch.device) -> Iterator[Case]:
    """4,000 to 64,000 vectors of 384 numbers with a spectrum that falls like 1/i, all coordinates kept, float32."""
    for n in (4000, 16000, 64000):
        generator = torch.Generator().manual_seed(n)
        X = 0.3 + torch.randn(n, D, generator=generator) @ torch.diag(torch.arange(1, D + 1) ** -0.5)
        array = X.numpy()
        yield Case(
            n,
            lambda X=X: whitened(X, D).numpy(),
            {"PCA(whiten=True)": lambda array=array: PCA(whiten=True).fit_transform(array)},
            operations=2 * n * D * 1.5 * D,
            moved=4 * n * 2 * D,
            distance=signless,
        )


ROWS = [
    Row(
        "whitening",
        "Whitening vectors of 384 numbers, fit and transform",
        "vectors",
        1e-2,
        vectors,
        "scikit-learn chooses its solver by the shape (svd_solver='auto'): for many more vectors than coordinates the eigenvectors of the "
        "covariance, as ours, but without a centred copy of the vectors. The least operations are those of the symmetric "
        "covariance and of the map. "
        "Both sum in float32, which is what the tolerance allows for.",
        devices=("cpu",),
    ),
]
