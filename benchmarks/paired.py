"""Timing two ways to the same answer: in turn, on the same input, beside what the machine could do at best."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

ROUNDS, SAMPLE_S = 9, 0.05
Work = Callable[[], object]


def gap(a: object, b: object) -> float:
    """How far ``b`` is from ``a``: |a - b| / |a| in the Euclidean norm for numbers and arrays, the worst in a list; else 0 or infinity."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and not all(isinstance(x, (int, float)) for x in a):
        return max((gap(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, (str, bytes, dict, set)) or a is None:
        return 0.0 if a == b else math.inf
    a, b = (np.asarray(x.detach().double().cpu() if isinstance(x, torch.Tensor) else x, dtype=float) for x in (a, b))
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), np.finfo(float).tiny))


@dataclass(frozen=True)
class Case:
    """One size of a row: ``ours`` and each of ``peers`` do the same work on the same input and return their answer.

    ``operations`` and ``moved``: the fewest operations and bytes that the work needs (inputs read once, outputs written once);
    ``precision`` names the matrix products whose peak counts (a torch dtype, or "tf32"). ``distance`` compares two answers. Where the two
    cannot give the same answer (another random number, a model trained by another rule), ``distance`` compares what they must share.
    """

    size: float
    ours: Work
    peers: Mapping[str, Work]
    operations: float = 0.0
    moved: float = 0.0
    precision: str = "float32"
    distance: Callable[[object, object], float] = gap
    label: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table. ``cases(device)`` yields them by growing size; ``size`` says what the size counts, ``note`` why who wins.

    ``tolerance``: the largest allowed distance from ours to any peer. ``extra(device)``, if given, returns further numbers by name,
    such as a compression or a share of the peak.
    """

    name: str
    title: str
    size: str
    tolerance: float
    cases: Callable[[torch.device], Iterable[Case]]
    note: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    extra: Callable[[torch.device], dict[str, float]] | None = field(default=None)


class Disagreement(AssertionError):
    """Ours and a peer do not give the same answer; a time would mean nothing."""


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, repeats: int, device: torch.device) -> float:
    """Seconds of one call, from ``repeats`` calls."""
    finish(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    finish(device)
    return (time.perf_counter() - start) / repeats


def captured(work: Work) -> Work:
    """``work`` as one CUDA graph, replayed at each call: what it launches costs no time of the host."""
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


def repeats_for(work: Work, device: torch.device) -> int:
    """How many calls make a sample long enough for the clock."""
    return max(1, math.ceil(SAMPLE_S / seconds(work, 1, device)))


def in_turn(works: Mapping[str, Work], device: torch.device, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of a call of each, once a round, forwards and backwards in turn so that a drift of the machine favours none."""
    repeats = {name: repeats_for(work, device) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(works[name], repeats[name], device))
    return times


def ceilings(device: torch.device) -> dict[str, float]:
    """What this machine does at best now: bytes a second of a large copy, operations a second of large matrix products by precision."""
    count, side = (2**28, 8192) if device.type == "cuda" else (2**25, 2048)
    source = torch.rand(count, device=device)
    target = torch.empty_like(source)
    found = {"bandwidth": 2 * source.nbytes / min(seconds(lambda: target.copy_(source), 5, device) for _ in range(5))}
    kinds = {"float32": torch.float32, "float64": torch.float64} | (
        {"tf32": torch.float32, "bfloat16": torch.bfloat16} if device.type == "cuda" else {}
    )
    before = torch.get_float32_matmul_precision()
    for name, dtype in kinds.items():
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        torch.mm(a, b)
        found[name] = 2 * side**3 / min(seconds(lambda a=a, b=b: torch.mm(a, b), 3, device) for _ in range(3))
    torch.set_float32_matmul_precision(before)
    return found


def measured(case: Case, row: Row, device: torch.device, ceiling: Mapping[str, float], rounds: int = ROUNDS) -> dict:
    """Check that all answers agree, time them in turn, and put the times beside the bound.

    Raises Disagreement where a peer's answer is further than the row's tolerance from ours.
    """
    ours = case.ours()
    gaps = {name: case.distance(ours, work()) for name, work in case.peers.items()}
    for name, apart in gaps.items():
        if not apart <= row.tolerance:
            raise Disagreement(f"{row.name} at {case.size:g} {row.size}: {name} is {apart:.2g} from ours, allowed are {row.tolerance:g}")
    del ours
    gc.collect()
    times = in_turn({"ours": case.ours, **case.peers}, device, rounds)
    bounds = {"operations": case.operations / ceiling[case.precision], "bytes": case.moved / ceiling["bandwidth"]}
    limit = max(bounds, key=bounds.get)
    peers = {}
    for name in case.peers:
        ratios = sorted(theirs / own for own, theirs in zip(times["ours"], times[name], strict=True))
        peers[name] = {
            "seconds": statistics.median(times[name]),
            "ratio": statistics.median(ratios),
            "low": ratios[0],
            "high": ratios[-1],
            "gap": gaps[name],
        }
    return {
        "size": int(case.size) if float(case.size).is_integer() else case.size,
        "label": case.label,
        "seconds": statistics.median(times["ours"]),
        "bound": bounds[limit],
        "limit": limit if bounds[limit] else "",
        "peers": peers,
    }


def exponent(sizes: Iterable[float], times: Iterable[float]) -> float:
    """Slope of log time against log size by least squares."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(times)), 1)[0])


def run(row: Row, device: torch.device, ceiling: Mapping[str, float], rounds: int = ROUNDS) -> dict:
    """All sizes of a row, with the exponents of growth where there are three sizes or more."""
    measure = partial(measured, row=row, device=device, ceiling=ceiling, rounds=rounds)
    cases = list(map(measure, row.cases(device)))  # map lets go of a case, and its memory, before the next is made
    doc = {"title": row.title, "size": row.size, "tolerance": row.tolerance, "note": row.note, "cases": cases}
    sizes = [c["size"] for c in cases]
    if len(set(sizes)) >= 3:
        doc["exponents"] = {"ours": exponent(sizes, [c["seconds"] for c in cases])}
        for name in (p for p in cases[0]["peers"] if all(p in c["peers"] for c in cases)):
            doc["exponents"][name] = exponent(sizes, [c["peers"][name]["seconds"] for c in cases])
    if row.extra:
        doc["extra"] = row.extra(device)
    return doc
