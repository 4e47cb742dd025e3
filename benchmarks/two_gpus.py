"""One language model trained on one GPU and on two (torchrun, NCCL), with the same batches: the same losses, and how much faster.

Checks first that the losses agree to 1e-3 of their size, then prints the ratio of the times a step (median over the steps after the
first ten). Where there are fewer than two GPUs it says so and does nothing.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from kexue_nb import distributed, nn, optim

STEPS, BATCH, SHAPE = 60, 32, {"vocabulary": 4096, "context": 512, "d": 1024, "depth": 12, "heads": 16}


def train(target: str) -> None:
    """Train in as many processes as there are, and write the losses and the seconds of each step to ``target``."""
    torch.set_float32_matmul_precision("high")
    with distributed.world() as world:
        rotary = 10000.0 ** -torch.linspace(0, 1, SHAPE["d"] // SHAPE["heads"] // 2)
        model = nn.Transformer(nn.Init([0]), **SHAPE, rotary=rotary).to(world.device)
        optimizer = optim.StackedAdam(model.parameters(), torch.tensor([3e-4]))
        parallel = world.parallel(model)
        generator = torch.Generator().manual_seed(1)
        steps = torch.arange(SHAPE["context"] + 1)
        clock = []

        def loss(step: int) -> torch.Tensor:
            start, stride = torch.randint(SHAPE["vocabulary"], (2, 1, BATCH, 1), generator=generator)
            ids = world.share((start + stride * steps) % SHAPE["vocabulary"], dim=1).to(world.device)
            return nn.cross_entropy_per_run(parallel(ids[..., :-1], torch.bfloat16), ids[..., 1:])

        def watch(step: int, losses: torch.Tensor) -> None:
            clock.append(time.perf_counter())  # the loop has just brought the losses to the host, so the step has ended

        curve = distributed.fit(loss, optimizer, STEPS, world=world, module=parallel, schedule=optim.warmup_cosine, watch=watch)
        if world.rank == 0:
            seconds = [b - a for a, b in itertools.pairwise(clock[10:])]
            Path(target).write_text(json.dumps({"losses": curve[:, 0].tolist(), "seconds": seconds}), encoding="utf-8")


def measured(processes: int) -> dict:
    """Losses and seconds of ``processes`` processes, each on a GPU of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "run.json")
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__, target]
        subprocess.run([sys.executable, "-m", *command], check=True)
        return json.loads(Path(target).read_text(encoding="utf-8"))


def main() -> None:
    if torch.cuda.device_count() < 2:
        print(f"two GPUs against one: not measured, this machine has {torch.cuda.device_count()}")
        return
    one, two = measured(1), measured(2)
    apart = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], two["losses"], strict=True))
    if apart > 1e-3:
        sys.exit(f"the losses of one GPU and of two are {apart:.1e} apart, more than 1e-3")
    ratio = statistics.median(one["seconds"]) / statistics.median(two["seconds"])
    print(f"two GPUs against one, {torch.cuda.get_device_name(0)}: {ratio:.2f} times as fast, same losses to {apart:.1e}")


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else main()
