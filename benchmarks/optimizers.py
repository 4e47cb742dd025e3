"""One step of Muon on the hidden matrices of a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.paired import Case, Row
from kexue_nb.muon import Muon, newton_schulz_flops


def hidden_shapes(d: int, layers: int) -> list[tuple[int, int]]:
    """The matrices (out, in) of ``layers`` layers of width d: queries, keys, values, output, and the two of the feed-forward layer."""
    return [*[(d, d)] * 4, (4 * d, d), (d, 4 * d)] * layers


def muon_case(d: int, layers: int, device: torch.device) -> Case:
    """Equal matrices and gradients for each optimizer, in float32; all start without momentum. AdamW returns None: nothing to compare.

    The operations are those of the plain matrix products of Newton-Schulz (the symmetry of XX^T would save some), the bytes those of
    reading matrices, gradients and momenta and of writing matrices and momenta. On a CPU only the bytes bound: the products are in
    bfloat16, whose peak is measured on a GPU alone.
    """
    generator = torch.Generator(device).manual_seed(d)
    shapes = hidden_shapes(d, layers)
    start, gradients = ([torch.randn(s, generator=generator, device=device) * s[1] ** -0.5 for s in shapes] for _ in range(2))

    def step(kind: Callable[..., torch.optim.Optimizer], **options) -> Callable[[], list[Tensor]]:
        params = [torch.nn.Parameter(W.clone()) for W in start]
        for p, G in zip(params, gradients, strict=True):
            p.grad = G
        optimizer = kind(params, lr=0.02, **options)

        def advance() -> list[Tensor]:
            optimizer.step()
            return [p.detach() for p in params]

        return advance

    adamw = step(torch.optim.AdamW, fused=True)

    def distance(ours: list[Tensor], theirs: list[Tensor] | None) -> float:
        """|ours - theirs| over the length of our update, in the worst matrix; 0 for AdamW, which computes another step."""
        if theirs is None:
            return 0.0
        return max(float((a - b).norm() / (a - W).norm()) for a, b, W in zip(ours, theirs, start, strict=True))

    def other_step() -> None:
        adamw()

    return Case(
        d,
        step(Muon),
        {"torch.optim.Muon": step(torch.optim.Muon), "torch.optim.AdamW, fused (another step)": other_step},
        operations=sum(newton_schulz_flops(*s) for s in shapes) if device.type == "cuda" else 0.0,
        moved=5 * 4 * sum(rows * columns for rows, columns in shapes),
        precision="bfloat16" if device.type == "cuda" else "float32",
        distance=distance,
        label=f"{len(shapes)} matrices of width {d}",
    )


def muon_steps(device: torch.device) -> Iterator[Case]:
    """Eight layers on a GPU, two on a CPU."""
    widths, layers = ((512, 1024, 2048), 8) if device.type == "cuda" else ((64, 128, 256), 2)
    for d in widths:
        yield muon_case(d, layers, device)


ROWS = [
    Row(
        "muon-step",
        "One step of Muon on the hidden matrices of a transformer",
        "width",
        0.05,
        muon_steps,
        "Ours does the arithmetic of torch.optim.Muon, but the matrices of one shape go through Newton-Schulz as one batch, so a step has "
        "fewer and larger kernels; the wider the matrices, the less that matters, since each product then fills the device by itself. The "
        "distance is that of the updates, whose products are in bfloat16. AdamW computes another, elementwise step: it stands here for "
        "scale, and its answer is not compared.",
    ),
]
