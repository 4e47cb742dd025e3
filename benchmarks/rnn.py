"""A recurrent network in parallel: Newton sweeps against cuDNN's kernel and against a loop without launches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.paired import Case, Row, Work
from kexue_nb import scan

BATCH, STATES = 16, 16


def captured(work: Work) -> Work:
    """``work`` as one CUDA graph, replayed at each call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> object:
        graph.replay()
        return result

    return replay


@torch.no_grad()
def gru_case(steps: int, device: torch.device) -> Case:
    """Equal weights and inputs, 16 features and 16 states in float32; the answer is all states.

    Ours, cuDNN and the loop include the products with the inputs. The loop's step is compiled, and where it has at most 10,000 of them
    they are replayed as one CUDA graph, so that no launch is paid for; longer loops take minutes to capture and are left out.
    """
    generator = torch.Generator().manual_seed(steps)
    torch.manual_seed(0)
    module = torch.nn.GRU(STATES, STATES).to(device).requires_grad_(False)
    x = torch.randn(steps, BATCH, STATES, generator=generator).to(device)

    @torch.no_grad()
    def cudnn() -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return module(x)[0]

    @torch.no_grad()
    def ours() -> Tensor:
        return scan.solve(*scan.from_module(module, x)).states

    peers = {"torch.nn.GRU, cuDNN": cudnn}
    if steps <= 10_000:
        step = torch.compile(scan.gru_step)

        def loop() -> Tensor:
            _, u, w, b = scan.from_module(module, x)
            states, h = [], x.new_zeros(BATCH, STATES)
            for u_t in u.unbind():
                h = step(h, u_t, w, b)
                states.append(h)
            return torch.stack(states)

        peers["compiled steps in one CUDA graph"] = captured(loop)
    return Case(
        steps,
        ours,
        peers,
        operations=2 * 6 * STATES**2 * BATCH * steps,
        moved=2 * x.nbytes,
    )


def grus(device: torch.device) -> Iterator[Case]:
    """1,000 to 60,000 steps; cuDNN refuses more than 65,535 for a batch of this size."""
    for steps in (1000, 8000, 60_000):
        yield gru_case(steps, device)


ROWS = [
    Row(
        "parallel-rnn",
        f"All states of a GRU of {STATES} states, batch {BATCH}",
        "steps",
        1e-3,
        grus,
        "Ours solves for all steps at once by Newton's method, each sweep a parallel scan of matrices, and stops when the residual "
        "is small: some hundred kernels whatever the length, so the time hardly grows until the device is full. cuDNN walks through time "
        "inside one kernel that keeps state and weights on the chip, half a microsecond a step, and launches nothing: with 16 states it "
        "wins at all these lengths. A loop that a reader writes pays several kernels a step even in a graph. With one state, or with "
        "the number of sweeps known and one CUDA graph, the parallel form does win: see the notebook nonlinear-rnn-parallel.",
        devices=("cuda",),
    ),
]
