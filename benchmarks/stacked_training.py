"""A grid of small language models trained as one stack, beside the same models trained one after another.

Checks first that both give the same losses, then prints the ratio of their times (median of three, taken in turn).
"""

from __future__ import annotations

import statistics
import time

import torch

from kexue_nb import nn, optim, train

RUNS, STEPS, SHAPE = 8, 20, {"vocabulary": 64, "context": 32, "d": 32, "depth": 2, "heads": 2}


def losses(scales: torch.Tensor, rates: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Final losses (runs,) of a stack with these attention scales and learning rates."""
    plain = torch.zeros(len(scales), dtype=torch.bool)
    model = nn.Transformer(nn.Init([0] * len(scales)), **SHAPE, scale=scales, unit_norm=plain).to(device)
    generator = torch.Generator().manual_seed(1)

    def loss(step: int) -> torch.Tensor:
        ids = torch.randint(64, (1, 4, 33), generator=generator).expand(len(scales), -1, -1).to(device)
        return nn.cross_entropy_per_run(model(ids[..., :-1]), ids[..., 1:])

    return train.fit(loss, optim.StackedAdam(model.parameters(), rates), STEPS).cpu()


def timed(function) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    torch.set_num_threads(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scales, rates = torch.linspace(0.5, 4, RUNS), torch.logspace(-3, -2, RUNS)

    def stacked() -> torch.Tensor:
        return losses(scales, rates, device)

    def in_turn() -> torch.Tensor:
        return torch.cat([losses(s[None], r[None], device) for s, r in zip(scales, rates, strict=True)])

    torch.testing.assert_close(stacked(), in_turn(), rtol=1e-4, atol=1e-4)
    ratios = [timed(in_turn)[0] / timed(stacked)[0] for _ in range(3)]
    print(f"stacked training, {RUNS} runs on {device.type}: {statistics.median(ratios):.2f} times as fast as one after another ", end="")
    print(f"(from {min(ratios):.2f} to {max(ratios):.2f}), same losses to 1e-4")


if __name__ == "__main__":
    main()
