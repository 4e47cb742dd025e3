"""Errors planted in one notebook: it runs once, and every mutant is a fork of it that goes on from the cell with the error."""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutants import cells as notebook_cells
from mutants.cells import Cell
from mutants.sites import Site, diff, sample, sites

SLACK_S, TIMES, MEMORY = 20.0, 3.0, 8 * 2**30
APPROXIMATE = re.compile(r"≈[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")


@dataclass(frozen=True)
class Place:
    """An error and the cell it stands in."""

    cell: Cell
    site: Site


class Baseline:
    """What the notebook did without an error, cell by cell: output, seconds, the state of the random numbers before; suites that ran."""

    def __init__(self):
        self.outputs, self.seconds, self.states, self.reached = [], [], [], set()


def places(cells: list[Cell], unit: str) -> list[Place]:
    """All places of a notebook where an error can be planted."""
    found = []
    for cell in cells:
        if "google.colab" not in cell.source:
            found += [Place(cell, site) for site in sites(cell.source, unit, only_functions=cell.shows)]
    return found


def execute(source: str, name: str, namespace: dict) -> str:
    """Run one cell and return what it printed, its last expression included, as a notebook would show it."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if last is not None and (value := eval(compile(ast.Expression(last.value), name, "eval"), namespace)) is not None:
            print(repr(value))
    return printed.getvalue()


class _Marks(ast.NodeTransformer):
    """Put a mark at the head of every suite inside a function: which ones ran?"""

    def __init__(self, cell: int):
        self.cell, self.depth = cell, 0

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        at = int(ast.get_docstring(node) is not None)
        node.body.insert(at, self.mark(node.body[min(at, len(node.body) - 1)].lineno))
        return node

    def visit_If(self, node):
        self.generic_visit(node)
        if self.depth:
            for suite in (node.body, node.orelse):
                if suite:
                    suite.insert(0, self.mark(suite[0].lineno))
        return node

    def mark(self, line: int) -> ast.stmt:
        return ast.parse(f"__reached__.add(({self.cell}, {line}))").body[0]


def marked(source: str, cell: int) -> str:
    """The cell with a mark in every suite."""
    return ast.unparse(ast.fix_missing_locations(_Marks(cell).visit(ast.parse(source))))


def suite(source: str, line: int) -> int | None:
    """The first line of the innermost suite inside a function around a line, by which a mark names it; None outside functions."""
    found = None
    for node in ast.walk(ast.parse(source)):
        suites = [node.body[int(ast.get_docstring(node) is not None) :]] if isinstance(node, ast.FunctionDef) else []
        suites += [node.body, node.orelse] if isinstance(node, ast.If) else []
        for body in suites:
            if body and body[0].lineno <= line <= body[-1].end_lineno and (isinstance(node, ast.FunctionDef) or found is not None):
                found = max(found or 0, body[0].lineno)
    return found


def comparable(text: str) -> str:
    """An output without what may differ between machines."""
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    return APPROXIMATE.sub("≈", "\n".join(lines))


def _random_states() -> tuple:
    import numpy as np
    import torch

    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_random_states(states: tuple) -> None:
    import numpy as np
    import torch

    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


# The mutants


def run(cells: list[Cell], chosen: list[Place], report: Callable, control: bool = False) -> Baseline:
    """Run a notebook once, try the errors of ``chosen`` and ``report`` each with its outcome.

    Before each cell with an error a fork of the process stops and waits; when the notebook has come to its end, and it is known
    what it says and how long each cell takes, the forks wake one after another. With ``control`` each of them also runs its cell
    without an error, and what depends on it: a failure there is the harness's own and raises RuntimeError.
    """
    base, namespace, waiting = Baseline(), {"__name__": "__main__"}, {}
    namespace["__reached__"] = base.reached
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        for cell in cells:
            base.states.append(_random_states())
            if mine := [p for p in chosen if p.cell.number == cell.number]:
                waiting[cell.number] = _sleeper(cells, cell, mine, namespace, told, report, control)
            start = time.perf_counter()
            base.outputs.append(execute(marked(cell.source, cell.number), f"<cell {cell.number}>", namespace))
            base.seconds.append(time.perf_counter() - start)
        told.write_bytes(pickle.dumps(base))
        namespace.clear()
        for number in sorted(waiting):
            pid, write = waiting[number]
            os.write(write, b"g")
            os.close(write)
            _, status = os.waitpid(pid, 0)
            if status:
                raise RuntimeError(f"the fork before cell {number} ended with status {status}")
    gc.unfreeze()
    return base


def _sleeper(cells, cell: Cell, mine: list[Place], namespace: dict, told: Path, report: Callable, control: bool) -> tuple[int, int]:
    """Fork a process that waits for a byte and then tries the errors of one cell. Returns its pid and where to write."""
    gc.collect()
    gc.freeze()
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)
        return pid, write
    code = 1
    try:
        os.close(write)
        if os.read(read, 1) == b"g":
            base, last = pickle.loads(told.read_bytes()), 0
            for place in mine:
                outcome = attempt(cells, place.cell.number, place.site.plant(cell.source), base, namespace, place)
                last = max(last, outcome.pop("at", 0))
                report(place, outcome)
            if control:
                outcome = attempt(cells, cell.number, cell.source, base, namespace, None, last)
                if outcome["outcome"] != "missed":
                    raise RuntimeError(f"cell {cell.number} without an error fails when run alone with its dependents: {outcome['by']}")
        code = 0
    except BaseException as error:  # a fork must never go on as its parent
        print(f"mutants: cell {cell.number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def attempt(
    cells: list[Cell], first: int, source: str, base: Baseline, namespace: dict, place: Place | None, last: int | None = None
) -> dict:
    """Run one mutated cell and what depends on it in a fork: caught (and by what) or missed."""
    start = time.perf_counter()
    if place and (line := suite(cells[first].source, place.site.line)) and (first, line) not in base.reached:
        return {"outcome": "missed", "by": "the notebook never runs it", "seconds": 0.0}
    targets = [k for k in notebook_cells.noticing(cells, first) if last is None or k <= last]
    plan = [first, *notebook_cells.needed(cells, first, targets)]
    limit = {k: SLACK_S + TIMES * base.seconds[k] for k in plan}
    outcome = follow(lambda tell: _child(cells, plan, source, base, namespace, tell), limit)
    if outcome["outcome"] == "missed" and not targets and not cells[first].checks:
        outcome["by"] = "no check depends on it"
    return outcome | {"seconds": round(time.perf_counter() - start, 2)}


def _child(cells: list[Cell], plan: list[int], source: str, base: Baseline, namespace: dict, tell: Callable) -> dict:
    for k in plan:
        tell({"at": k})
        _set_random_states(base.states[k])
        try:
            output = execute(source if k == plan[0] else cells[k].source, f"<cell {k}>", namespace)
        except BaseException as error:
            kind = "check" if isinstance(error, AssertionError) else "error"
            return {"outcome": "caught", "kind": kind, "by": f"{type(error).__name__}: {error}"[:300]}
        if cells[k].compared and comparable(output) != comparable(base.outputs[k]):
            lines = zip(comparable(output).splitlines(), comparable(base.outputs[k]).splitlines(), strict=False)
            differs = next((a for a, b in lines if a != b), "its length")
            return {"outcome": "caught", "kind": "output", "by": f"output differs: {differs.strip()}"[:300]}
    return {"outcome": "missed", "by": ""}


def follow(child: Callable, limits: dict[int, float]) -> dict:
    """Fork, run ``child(tell)`` there, and return what it returns; a step past its limit, or a death, counts as caught."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            os.setsid()
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
            if used:
                resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

            def tell(message: dict) -> None:
                os.write(write, json.dumps(message).encode() + b"\n")

            tell(child(tell))
        finally:
            os._exit(0)
    os.close(write)
    try:
        return _listen(read, limits)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _listen(read: int, limits: dict[int, float]) -> dict:
    at, text, end = None, b"", time.monotonic() + 60
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return {"outcome": "caught", "kind": "timeout", "by": f"still in cell {at} after its limit", "at": at or 0}
        data = os.read(read, 65536)
        if not data:
            return {"outcome": "caught", "kind": "died", "by": f"the process died in cell {at}", "at": at or 0}
        text += data
        *lines, text = text.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "outcome" in message:
                return message | {"at": at or 0}
            at = message["at"]
            end = time.monotonic() + limits[at]


def prepare() -> None:
    """One thread, so that a fork is whole; the smallest scale; no fingerprints, which notice every edit."""
    os.environ |= {"KEXUE_SCALE": "cpu", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    import torch

    from kexue_nb import records, runtime

    torch.set_num_threads(1)
    runtime.THREADS = 1
    records.code_sha256 = lambda function: ""


def selected(cells: list[Cell], unit: str, seed: int, count: int) -> list[Place]:
    """The first ``count`` errors of a seed."""
    return list(itertools.islice(sample(places(cells, unit), seed), count))


def row(unit: str, place: Place, outcome: dict) -> dict:
    """What is kept of one mutant."""
    before, after = diff(place.cell.source, place.site)
    line = place.cell.line + place.site.line - 1
    return {"unit": unit, "id": place.site.id, "line": line, "operator": place.site.operator, "before": before, "after": after} | outcome
