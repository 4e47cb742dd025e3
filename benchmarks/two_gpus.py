"""One language model trained on one GPU and on two (torchrun, NCCL), with the same batches: the same losses, and how much faster.

Says how far the losses are apart, of which 1e-3 of their size is allowed, and the ratio of the times a step (median after ten steps).
``python -m benchmarks.two_gpus --write book/benchmarks/two-gpus.json`` keeps the numbers. Fewer than two GPUs are an error.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from kexue_nb import distributed, nn, optim, records

TARGET, CASE = "KEXUE_TWO_GPUS_TARGET", "KEXUE_TWO_GPUS_CASE"
APART = 1e-3
CASES = (("bfloat16", 32), ("bfloat16", 128), ("float32", 32))  # activations and sequences of a step
STEPS, SHAPE = 60, {"vocabulary": 4096, "context": 512, "d": 1024, "depth": 12, "heads": 16}


def train(target: str, precision: str, batch: int) -> None:
    """Train in as many processes as there are, activations in ``precision``; the losses and the seconds of each step go to ``target``."""
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
            start, stride = torch.randint(SHAPE["vocabulary"], (2, 1, batch, 1), generator=generator)
            ids = world.share((start + stride * steps) % SHAPE["vocabulary"], dim=1).to(world.device)
            return nn.cross_entropy_per_run(parallel(ids[..., :-1], getattr(torch, precision)), ids[..., 1:])

        def watch(step: int, losses: torch.Tensor) -> None:
            clock.append(time.perf_counter())  # the loop has just brought the losses to the host, so the step has ended

        curve = distributed.fit(loss, optimizer, STEPS, world=world, module=parallel, schedule=optim.warmup_cosine, watch=watch)
        if world.rank == 0:
            seconds = [b - a for a, b in itertools.pairwise(clock[10:])]
            Path(target).write_text(json.dumps({"losses": curve[:, 0].tolist(), "seconds": seconds}), encoding="utf-8")


def measured(processes: int, precision: str, batch: int) -> dict:
    """Losses and seconds of ``processes`` processes, each on a GPU of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "run.json")
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "benchmarks.two_gpus"]
        subprocess.run([sys.executable, "-m", *command], check=True, env=os.environ | {TARGET: target, CASE: f"{precision} {batch}"})
        return json.loads(Path(target).read_text(encoding="utf-8"))


def main(write: Annotated[Path | None, typer.Option(help="Put the numbers into this JSON file.")] = None) -> None:
    """Time both; exits with 1 where there are fewer than two GPUs or the losses are further apart than 1e-3."""
    if torch.cuda.device_count() < 2:
        sys.exit(f"two GPUs against one: this machine has {torch.cuda.device_count()}")
    name = torch.cuda.get_device_name(0)
    doc = {"schema": 1, "date": records.today(), "device": name, "torch": torch.__version__, "shape": SHAPE, "steps": STEPS}
    doc["runs"] = []
    for precision, batch in CASES:
        one, two = (measured(processes, precision, batch) for processes in (1, 2))
        apart = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], two["losses"], strict=True))
        seconds = [statistics.median(run["seconds"]) for run in (one, two)]
        ratio = seconds[0] / seconds[1]
        print(f"two GPUs against one, {name}, {precision}, batch {batch}: {ratio:.2f} times as fast, losses {apart:.1e} apart")
        run = {"precision": precision, "batch": batch, "seconds": seconds, "speed-up": ratio, "apart": apart}
        doc["runs"].append(run | {"losses": [one["losses"], two["losses"]]})
    if write:
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(json.dumps(records.compact(doc)) + "\n", encoding="utf-8")
    if any(run["apart"] > APART for run in doc["runs"]):
        sys.exit(f"the losses of one GPU and of two are more than {APART} apart")


if __name__ == "__main__":
    if TARGET in os.environ:
        precision, batch = os.environ[CASE].split()
        train(os.environ[TARGET], precision, int(batch))
    else:
        typer.run(main)
