"""Maps to the simplex: sparsemax and entmax beside the package entmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.paired import Case, Row, Work
from kexue_nb import simplex


def both_ways(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Work:
    """Forward and backward; the answer is the weights and the gradient of the logits."""

    def work() -> list[Tensor]:
        p = function(x)
        return [p.detach(), *torch.autograd.grad(p, x, upstream)]

    return work


def peers(alpha: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """What the package offers for this order. Its documentation advises a ``k`` somewhat above the expected number of nonzeros."""
    try:
        import entmax
    except ImportError:
        raise ImportError("this row compares with the package entmax: pip install entmax") from None
    if alpha == 1.25:
        return {"entmax_bisect": partial(entmax.entmax_bisect, alpha=alpha, dim=-1)}
    exact = entmax.sparsemax if alpha == 2 else entmax.entmax15
    return {exact.__name__: partial(exact, dim=-1), f"{exact.__name__}, k = 100": partial(exact, dim=-1, k=100)}


def rows_of_logits(device: torch.device, alpha: float) -> Iterator[Case]:
    """Rows of 1,024 to 131,072 normal logits on a GPU, 4 million in all; to 32,768 on a CPU, a quarter of a million in all."""
    count, sizes = (2**22, (2**10, 2**13, 2**17)) if device.type == "cuda" else (2**18, (2**10, 2**13, 2**15))
    for n in sizes:
        generator = torch.Generator(device).manual_seed(n)
        x, upstream = (torch.randn(count // n, n, generator=generator, device=device) for _ in range(2))
        x.requires_grad_()
        yield Case(
            n,
            both_ways(partial(simplex.fastest_entmax, alpha=alpha), x, upstream),
            {name: both_ways(peer, x, upstream) for name, peer in peers(alpha).items()},
            moved=5 * x.nbytes,
        )


NOTE = "Forward and backward in float32. The bytes are logits in, weights out, and back weights and gradient in, gradient out. "
SORTED = (
    "With k the package sorts only the largest k logits of a row, which suffices where few are nonzero. Ours first counts the logits that "
    "can be nonzero at all and works on these; on a GPU the host waits for that count, and at this size every entry waits for its launches."
)

ROWS = [
    Row("sparsemax", "sparsemax (alpha = 2)", "logits a row", 1e-4, partial(rows_of_logits, alpha=2.0), NOTE + SORTED),
    Row("entmax15", "entmax at alpha = 1.5", "logits a row", 1e-4, partial(rows_of_logits, alpha=1.5), NOTE + SORTED),
    Row(
        "entmax",
        "entmax at alpha = 1.25",
        "logits a row",
        1e-3,
        partial(rows_of_logits, alpha=1.25),
        NOTE + "No sorting solves this order. The package bisects 50 times; ours takes Newton steps on a convex function, a few of which "
        "suffice.",
    ),
]
