"""What the machine offers and what the reader asked for: scale, device, precision, threads, seed, memory, clock.

Environment variables: ``KEXUE_SCALE`` (cpu, gpu or full), ``KEXUE_DEVICE=cpu`` (records at full scale without a GPU),
``KEXUE_GPU_MEMORY_GB`` (caps the GPU's memory) and ``KEXUE_NO_BF16=1`` (treats bfloat16 as unavailable); the last two let a
large card stand in for a T4.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata

SCALES = ("cpu", "gpu", "full")
THREADS = 2


def scale() -> str:
    """The scale to run at: ``KEXUE_SCALE`` where it is set, otherwise ``gpu`` where CUDA is there and ``cpu`` where not."""
    asked = os.environ.get("KEXUE_SCALE", "")
    if not asked:
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    if asked not in SCALES:
        raise ValueError(f"KEXUE_SCALE={asked!r}: give one of {', '.join(SCALES)}, or leave it unset")
    return asked


def device(scale: str):
    """The torch device of a scale. Raises RuntimeError where ``gpu`` or ``full`` is asked for and there is no CUDA device."""
    import torch

    if scale == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f"scale {scale!r} needs a CUDA GPU and torch sees none; run with KEXUE_SCALE=cpu")
    if cap := os.environ.get("KEXUE_GPU_MEMORY_GB"):
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(cap) / total))
    return torch.device("cuda")


def wanted_device(scale: str):
    """:func:`device`, or the CPU at any scale where ``KEXUE_DEVICE`` is ``cpu``. Raises ValueError for another ``KEXUE_DEVICE``."""
    asked = os.environ.get("KEXUE_DEVICE", "")
    if asked not in ("", "cpu"):
        raise ValueError(f"KEXUE_DEVICE={asked!r}: give cpu, or leave it unset")
    return device("cpu" if asked else scale)


def has_bf16() -> bool:
    """Whether the GPU multiplies in bfloat16 at speed (compute capability 8.0 and later; a T4 has 7.5)."""
    import torch

    if os.environ.get("KEXUE_NO_BF16") == "1" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability()[0] >= 8


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and fix torch's CPU threads, so that a machine repeats itself."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)


def device_name(device) -> str:
    """A name for people: the GPU's own, or the processor architecture with the number of threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> str:
    """Python's version and those of the packages that decide results."""
    packages = ("torch", "numpy", "sympy", "kexue_nb")
    return ", ".join([f"Python {platform.python_version()}", *(f"{p} {_version(p)}" for p in packages)])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from the checkout"


class Stopwatch:
    """Wall-clock seconds and peak memory (GB: of torch's CUDA allocator, or of the process) of a ``with`` block."""

    def __init__(self, device):
        self.device, self.wall_s, self.peak_mem_gb = device, 0.0, 0.0

    def __enter__(self) -> Stopwatch:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *failure) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak_mem_gb = torch.cuda.max_memory_allocated() / 1e9
        else:
            self.peak_mem_gb = peak_process_gb()
        self.wall_s = time.perf_counter() - self._start


def peak_process_gb(children: bool = False) -> float:
    """Peak resident memory in GB of this process, or of the largest child that has ended (0 where the system does not say)."""
    try:
        import resource
    except ImportError:
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024) / 1e9


def calibrate() -> float:
    """Seconds that this machine takes for a fixed piece of work (interpreter and matrix products; 0.6 s on the reference machine)."""
    import numpy as np

    start = time.perf_counter()
    total = 0
    for i in range(4_000_000):
        total += i * i % 7
    a = np.random.default_rng(0).standard_normal((700, 700))
    for _ in range(25):
        a = a @ a
        a /= np.abs(a).max()
    return time.perf_counter() - start


def graphed(step, device, *generators):
    """``step`` (no arguments, no result) to be called again and again: on a GPU as one CUDA graph from its fourth call on.

    Everything that ``step`` reads and writes must keep its place in memory: inputs are closed over, optimizers are ``capturable``,
    and random numbers come from the torch ``generators`` given here. Elsewhere ``step`` itself is returned.
    """
    import torch

    if device.type != "cuda":
        return step
    state = {"calls": 0, "graph": None}
    side = torch.cuda.Stream()

    def advance() -> None:
        state["calls"] += 1
        if state["calls"] <= 3:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream().wait_stream(side)
            return
        if state["graph"] is None:
            state["graph"] = torch.cuda.CUDAGraph()
            for generator in generators:
                state["graph"].register_generator_state(generator)
            with torch.cuda.graph(state["graph"]):
                step()
        state["graph"].replay()

    return advance
