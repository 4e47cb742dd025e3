"""A recurrent network in parallel: Newton sweeps against cuDNN's kernel and against a loop without launches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.paired import Case, Row, captured
from kexue_nb import scan

BATCH = 16


@torch.no_grad()
def gru_case(steps: int, device: torch.device, states: int, graph: bool) -> Case:
    """Equal weights and inputs, as many features as states, float32; the answer is all states.

    Ours, cuDNN and the loop include the products with the inputs. With ``graph`` ours makes one sweep more than it needed when it stopped
    by itself, as one CUDA graph, and would give NaN had they not sufficed. The loop's step is compiled, and where it has at most 10,000 of
    them they are replayed as one CUDA graph, so that no launch is paid for; longer loops take minutes to capture and are left out.
    """
    generator = torch.Generator().manual_seed(steps)
    torch.manual_seed(0)
    module = torch.nn.GRU(states, states).to(device).requires_grad_(False)
    x = torch.randn(steps, BATCH, states, generator=generator).to(device)

    @torch.no_grad()
    def cudnn() -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return module(x)[0]

    @torch.no_grad()
    def ours(**options) -> Tensor:
        return scan.solve(*scan.from_module(module, x), **options).states

    peers = {"torch.nn.GRU, cuDNN": cudnn}
    if steps <= 10_000:
        step = torch.compile(scan.gru_step, dynamic=False)

        def loop() -> Tensor:
            _, u, w, b = scan.from_module(module, x)
            found, h = [], x.new_zeros(BATCH, states)
            for u_t in u.unbind():
                h = step(h, u_t, w, b)
                found.append(h)
            return torch.stack(found)

        peers["compiled steps in one CUDA graph"] = captured(loop)
    known = scan.solve(*scan.from_module(module, x)).sweeps + 1 if graph else None
    return Case(
        steps,
        captured(partial(ours, sweeps=known)) if graph else ours,
        peers,
        operations=2 * 6 * states**2 * BATCH * steps,
        moved=2 * x.nbytes,
    )


def grus(device: torch.device, states: int, graph: bool) -> Iterator[Case]:
    """1,000 to 60,000 steps; cuDNN refuses more than 65,535 for a batch of this size."""
    for steps in (1000, 8000, 60_000):
        yield gru_case(steps, device, states, graph)


WHY = (
    "cuDNN walks through time inside one kernel that keeps state and weights on the chip, half a microsecond a step, and launches nothing. "
    "A loop that a reader writes pays several kernels a step even in a graph. "
)

ROWS = [
    Row(
        "parallel-rnn",
        f"All states of a GRU of 16 states, batch {BATCH}",
        "steps",
        1e-3,
        partial(grus, states=16, graph=False),
        "Ours solves for all steps at once by Newton's method, each sweep a parallel scan of matrices, and stops when the residual "
        "is small: some hundred kernels whatever the length, so the time hardly grows until the device is full. " + WHY + "With 16 "
        "states it wins at all these lengths.",
        devices=("cuda",),
    ),
    Row(
        "parallel-rnn-graph",
        f"The same 16 states, batch {BATCH}, with the number of sweeps known",
        "steps",
        1e-3,
        partial(grus, states=16, graph=True),
        "As above, but ours asks nothing on the way: one sweep more than needed, replayed as one CUDA graph. What is left is the "
        "arithmetic and the memory of the scan, which multiplies 16 × 16 matrices where cuDNN multiplies a vector. " + WHY,
        devices=("cuda",),
    ),
    Row(
        "parallel-rnn-one-state",
        f"All states of a GRU of one state, batch {BATCH}, with the number of sweeps known",
        "steps",
        1e-3,
        partial(grus, states=1, graph=True),
        "With one state a matrix of the scan is a number, and cuDNN's half a microsecond a step buys almost no arithmetic: from some "
        "thousand steps on the parallel form wins. The notebook nonlinear-rnn-parallel has this for more lengths and states, and for the "
        "solver that stops by itself.",
        devices=("cuda",),
    ),
]
