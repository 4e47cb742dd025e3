"""Training on several processes with torchrun: the same data, the same curve, and checkpoints that go on bit for bit.

The loop is :func:`kexue_nb.train.fit`, unchanged. Every process draws the whole batch of a step from the same seed and takes its share::

    with distributed.world() as world:
        model = world.parallel(build().to(world.device))
        loss = lambda step: per_run(model, world.share(batch(step), dim=1))
        curve = distributed.fit(loss, optimizer, steps, world=world, module=model, checkpoint="run.pt", every=100, generators=[generator])

``python script.py`` is one process, ``torchrun --nproc-per-node 2 script.py`` is two: on CUDA devices over NCCL, elsewhere over gloo.
A notebook, which torchrun cannot start, calls :func:`launch`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from kexue_nb import train
from kexue_nb.optim import Stacked, Together
from kexue_nb.train import Schedule, Watch


@dataclass(frozen=True)
class World:
    """This process among those that train together: its number, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with the gradients of all processes averaged (DistributedDataParallel); alone, the module itself."""
        return nn.parallel.DistributedDataParallel(module) if self.size > 1 else module

    def share(self, batch: Tensor, dim: int = 0) -> Tensor:
        """This process's part of a batch along ``dim``. Raises ValueError where the parts are unequal: the mean would be wrong."""
        if batch.shape[dim] % self.size:
            raise ValueError(f"a batch of {batch.shape[dim]} cannot be shared equally by {self.size} processes")
        return batch.chunk(self.size, dim)[self.rank]

    def mean(self, x: Tensor) -> Tensor:
        """The mean of ``x`` over the processes, the same in all of them."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, item) -> list:
        """``item`` of every process, in all of them."""
        if self.size == 1:
            return [item]
        items = [None] * self.size
        dist.all_gather_object(items, item)
        return items


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The processes that torchrun started, or this one alone; the group is closed at the end."""
    cuda = torch.cuda.is_available() and os.environ.get("KEXUE_DEVICE") != "cpu"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield World(dist.get_rank(), dist.get_world_size(), device)
    dist.destroy_process_group()  # not after an error: the others would see a lost connection before anybody sees the error


def launch(function: Callable, processes: int, *arguments, device: torch.device | None = None):
    """``function(world, *arguments)`` in ``processes`` processes of this machine that train together; returns what the first one returns.

    One process is this one, on ``device`` (default: as in :func:`world`). More are new ones, each with a CUDA device of its own where there
    are CUDA devices; the function and its arguments are pickled by value, so that they may stand in a notebook. Raises what a process
    raises, ValueError for fewer than one process, and RuntimeError for more processes than CUDA devices.
    """
    if processes < 1:
        raise ValueError(f"processes={processes}: give at least 1")
    if processes == 1:
        with world() as alone:
            return function(replace(alone, device=device or alone.device), *arguments)
    found = torch.cuda.device_count() if os.environ.get("KEXUE_DEVICE") != "cpu" else 0
    if 0 < found < processes:
        raise RuntimeError(f"{processes} processes, but this machine has {found} CUDA devices; give {found}, or set KEXUE_DEVICE=cpu")
    from joblib.externals import loky

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    settings |= {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), "OMP_WAIT_POLICY": "PASSIVE"}
    pools = [loky.ProcessPoolExecutor(1, env=settings | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(processes)]
    try:
        futures = [pool.submit(_join, function, arguments) for pool in pools]
        for future in as_completed(futures):
            future.result()
        return futures[0].result()
    finally:
        for pool in pools:
            pool.shutdown(kill_workers=True)


def _join(function: Callable, arguments: tuple):
    with world() as together:
        return function(together, *arguments)


def fit(
    loss: Callable[[int], Tensor],
    optimizer: Stacked | Together,
    steps: int,
    *,
    world: World,
    module: nn.Module,
    checkpoint: str | os.PathLike | None = None,
    every: int = 0,
    generators: Sequence[torch.Generator] = (),
    schedule: Schedule = lambda step, steps: 1.0,
    watch: Watch = lambda step, losses: None,
) -> Tensor:
    """:func:`kexue_nb.train.fit` on all processes; returns the losses of the whole batch at every step, (steps, runs).

    Every ``every`` steps the file ``checkpoint``, which all processes must see, is replaced; where it exists at the start, training goes on
    from it. It holds the curve, the parameters of ``module``, the optimizer, torch's own generator and ``generators``: ``loss(step)`` must
    draw from nothing else.
    """
    if every < 0 or (every and checkpoint is None):
        raise ValueError(f"every={every} needs a positive number of steps and a checkpoint to write")
    curve: list[Tensor] = []
    if checkpoint is not None and Path(checkpoint).exists():
        curve = load(Path(checkpoint), world, module, optimizer, steps, generators)
    done = len(curve)

    def seen(step: int, losses: Tensor) -> None:
        losses = world.mean(losses)
        curve.append(losses.cpu())
        watch(done + step, losses)
        if every and len(curve) % every == 0:
            save(Path(checkpoint), world, module, optimizer, steps, generators, curve)

    if done < steps:
        train.fit(lambda s: loss(done + s), optimizer, steps - done, schedule=lambda s, _: schedule(done + s, steps), watch=seen)
    return torch.stack(curve)


def save(
    file: Path,
    world: World,
    module: nn.Module,
    optimizer: Stacked | Together,
    steps: int,
    generators: Sequence[torch.Generator],
    curve: Sequence[Tensor],
) -> None:
    """Replace a checkpoint in one step, when all processes have come to it."""
    random = world.gather(_random(world, generators))
    if world.rank == 0:
        state = {"steps": steps, "curve": torch.stack(list(curve)), "module": _plain(module).state_dict(), "random": random}
        state["optimizers"] = [o.state_dict() for o in _optimizers(optimizer)]
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, file)
    world.gather(None)


def load(
    file: Path, world: World, module: nn.Module, optimizer: Stacked | Together, steps: int, generators: Sequence[torch.Generator]
) -> list[Tensor]:
    """Put everything back as it was at the checkpoint and return the curve up to it. Raises ValueError where it is of another run."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    for name, wanted, kept in (
        ("steps", steps, state["steps"]),
        ("processes", world.size, len(state["random"])),
        ("generators", len(generators), len(state["random"][0]["own"])),
        ("optimizers", len(_optimizers(optimizer)), len(state["optimizers"])),
    ):
        if wanted != kept:
            raise ValueError(f"{file} was made with {kept} {name}, not {wanted}; remove it to begin anew")
    _plain(module).load_state_dict(state["module"])
    for o, kept in zip(_optimizers(optimizer), state["optimizers"], strict=True):
        o.load_state_dict(kept)
        for p, tensors in o.state.items():
            o.state[p] = {name: tensor.to(p.device) for name, tensor in tensors.items()}
    random = state["random"][world.rank]
    torch.set_rng_state(random["torch"])
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], world.device)
    for generator, kept in zip(generators, random["own"], strict=True):
        generator.set_state(kept)
    return list(state["curve"])


def _random(world: World, generators: Sequence[torch.Generator]) -> dict:
    states = {"torch": torch.get_rng_state(), "own": [g.get_state() for g in generators]}
    return states | ({"cuda": torch.cuda.get_rng_state(world.device)} if world.device.type == "cuda" else {})


def _plain(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def _optimizers(optimizer: Stacked | Together) -> Sequence[Stacked]:
    return optimizer.optimizers if isinstance(optimizer, Together) else [optimizer]
