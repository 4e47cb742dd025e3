"""Run notebooks again and again at cpu scale: is every ledger the same each time, and how far are the measured claims from their limits?

python scripts/repeat.py --runs 10                    ten plain runs of every notebook, which must give ten equal ledgers
python scripts/repeat.py --runs 10 --shift 100000     the same with every seed of run r shifted by r * 100000: the spread over seeds
python scripts/repeat.py deepnet --report             what is on file, without running anything

The committed .ipynb stay as they are. Each run is a line in _build/repeat/SLUG.jsonl; one that is on file for the present source is not
run again. Entries whose evidence fails do not stop a notebook here: they are kept in its ledger with the checks that failed. Seeds are
shifted in the notebook's own process, not in processes that it starts. Ledgers carry four digits: a smaller spread counts as none.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kexue_nb import execute
from kexue_nb.checkout import Checkout, CheckoutError
from kexue_nb.ledger import read_ledger

NEAR = 3.0
_NUMBER = r"≈?([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|inf))"


def install(shift: int) -> None:
    """Runs in the kernel, before the first cell: shift every integer seed, and enter failed evidence instead of raising."""
    import numbers
    import random

    import numpy as np
    import torch

    from kexue_nb import ledger

    def moved(seed):
        if isinstance(seed, numbers.Integral) and not isinstance(seed, bool):
            return int(seed) + shift
        return [moved(seed[0]), *seed[1:]] if isinstance(seed, list | tuple) and seed else seed

    def shifted(function):
        return lambda seed=None, *rest, **options: function(moved(seed), *rest, **options)

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(moved(seed))

    class Random(random.Random):
        def seed(self, a=None, version=2):
            super().seed(moved(a), version)

    class RandomState(np.random.RandomState):
        def __init__(self, seed=None):
            super().__init__(moved(seed))

    add = ledger.Ledger.add

    def enter(self, id, statement, verdict, *, holds=(), fails=(), reason=""):
        holds, fails = tuple(holds), tuple(fails)
        try:
            return add(self, id, statement, verdict, holds=holds, fails=fails, reason=reason)
        except ledger.EvidenceError:
            self.entries[id] = ledger.Entry(id, statement.strip(), verdict, holds, fails, reason.strip())
            return self.entries[id]

    ledger.Ledger.add = enter
    if shift:
        torch.Generator, torch.manual_seed = Generator, shifted(torch.manual_seed)
        random.Random, random.seed = Random, shifted(random.seed)
        np.random.RandomState, np.random.seed, np.random.default_rng = RandomState, shifted(np.random.seed), shifted(np.random.default_rng)


def run(source: Path, offset: int) -> dict:
    """Execute a notebook's .py with its seeds shifted by ``offset``: seconds, errors by cell, and the ledger (None where there is none)."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbformat.v4 import new_code_cell

    notebook = execute.read_source(source)
    notebook.cells.insert(0, new_code_cell(f"{inspect.getsource(install)}\n\ninstall({offset})", id="install"))
    options = {"timeout": 1800, "kernel_name": "python3", "resources": {"metadata": {"path": str(source.parent)}}}
    start, errors = time.perf_counter(), []
    try:
        NotebookClient(notebook, allow_errors=True, **options).execute(stderr=subprocess.DEVNULL)
    except (CellTimeoutError, DeadKernelError) as stopped:
        errors.append({"cell": None, "error": str(stopped)})
    for i, cell in enumerate(notebook.cells):
        errors += [{"cell": i - 1, "error": f"{o.ename}: {o.evalue}"} for o in cell.get("outputs", ()) if o.output_type == "error"]
    return {"seconds": round(time.perf_counter() - start, 1), "errors": errors, "ledger": read_ledger(notebook)}


def on_file(file: Path, source: str) -> dict[tuple[int, int], dict]:
    """(run, offset of its seeds) -> its line, of the runs of this source."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {(row["run"], row["offset"]): row for row in map(json.loads, lines) if row["source"] == source}


def wanted(runs: int, shift: int) -> list[tuple[int, int]]:
    """(run, offset) of ``runs`` runs; the first is never shifted."""
    return [(r, r * shift) for r in range(runs)]


@dataclass(frozen=True)
class Measure:
    """A measured number and what its check allows: ``low`` <= ``value`` <= ``high``, all less the expected value."""

    value: float
    low: float = -math.inf
    high: float = math.inf


def measure(check: dict) -> Measure | None:
    """What a check of a ledger measured, or None where it compares no numbers within a tolerance."""
    expected, measured, tolerance = check["expected"], check["measured"], check["tolerance"]
    if found := re.fullmatch(rf"{_NUMBER} standard errors", tolerance):
        sigmas = float(found[1])
        if ratio := re.search(rf"a difference of {_NUMBER} standard errors", measured):
            return Measure(float(ratio[1]) - sigmas, low=0)
        if both := re.fullmatch(rf"{_NUMBER} ± {_NUMBER}", measured):
            centre = re.fullmatch(_NUMBER, expected)
            error = float(both[2])
            return Measure((float(both[1]) - float(centre[1])) / error, -sigmas, sigmas) if centre and error > 0 else None
        return None
    if smallest := re.search(rf"smallest step {_NUMBER}$", measured):
        return Measure(float(smallest[1]), low=0)
    value, width = re.fullmatch(_NUMBER, measured), re.fullmatch(rf"(?:margin )?{_NUMBER}( relative)?|strict", tolerance)
    side = re.fullmatch(rf"([<>] )?{_NUMBER}", expected)
    if not (value and width and side):
        return None
    off, room = float(value[1]) - float(side[2]), float(width[1] or 0)
    if side[1] == "< ":
        return Measure(off + room, high=0)
    if side[1] == "> ":
        return Measure(off - room, low=0)
    room *= abs(float(side[2])) if width[2] else 1
    return Measure(off, -room, room) if width[1] else None


def margin(measures: list[Measure]) -> tuple[float, float]:
    """The standard deviation over the runs, and the distance from the mean to the nearest limit in units of it.

    The distance is negative where the mean lies outside, and infinite where there is no spread.
    """
    value, low, high = (statistics.fmean(getattr(m, name) for m in measures) for name in ("value", "low", "high"))
    spread, distance = statistics.stdev(m.value for m in measures), min(value - low, high - value)
    return spread, distance / spread if spread else math.copysign(math.inf, distance)


def checks(ledger: dict | None) -> dict[tuple[str, int], dict]:
    """(entry, number of the check in it) -> check."""
    return {(e["id"], i): check for e in (ledger or {"entries": []})["entries"] for i, check in enumerate(e["evidence"])}


def verdicts(ledger: dict | None) -> dict[str, tuple]:
    """Entry -> its verdict and which of its checks passed."""
    return {e["id"]: (e["verdict"], tuple(c["passed"] for c in e["evidence"])) for e in (ledger or {"entries": []})["entries"]}


def differing(ledgers: list[dict | None]) -> dict[str, int]:
    """Entry -> in how many runs its verdict, or whether a check passed, is not as in the first run; a missing entry counts."""
    found = [verdicts(ledger) for ledger in ledgers]
    ids = dict.fromkeys(id for entries in found for id in entries)
    counts = {id: sum(entries.get(id) != found[0].get(id) for entries in found) for id in ids}
    return {id: n for id, n in counts.items() if n}


def reworded(ledgers: list[dict | None]) -> list[str]:
    """Entries whose text is not the same in every run, numbers behind ≈ excepted."""
    texts: dict[str, set] = {}
    for ledger in ledgers:
        for entry in (ledger or {"entries": []})["entries"]:
            texts.setdefault(entry["id"], set()).add(execute.APPROXIMATE.sub("≈", json.dumps(entry, ensure_ascii=False)))
    return [id for id, forms in texts.items() if len(forms) > 1]


def margins(ledgers: list[dict | None]) -> Iterator[tuple[str, int, dict, float, float]]:
    """Entry, number, check as in the first run, spread and margin of every check that has a number in all runs."""
    found = [checks(ledger) for ledger in ledgers]
    for (id, i), check in found[0].items():
        measures = [measure(of_run[id, i]) if (id, i) in of_run else None for of_run in found]
        if len(measures) > 1 and None not in measures:
            yield id, i, check, *margin(measures)


def report(slug: str, rows: list[dict], shift: int) -> tuple[list[str], bool]:
    """Lines about the runs of one notebook, and whether all went well: plain runs that differ do not, shifted ones may."""
    ledgers = [row["ledger"] for row in rows]
    broken = [row for row in rows if row["errors"] or row["ledger"] is None]
    unlike, found = differing(ledgers), list(margins(ledgers))
    near = sorted((m for m in found if m[4] < NEAR), key=lambda m: m[4])
    failed = sum(not check["passed"] for ledger in ledgers for check in checks(ledger).values())
    texts = [] if shift else reworded(ledgers)
    seconds = statistics.fmean(row["seconds"] for row in rows)
    lines = [
        f"{slug}: {len(rows)} runs of {seconds:.0f} s, {len(broken)} with an error, {failed} failed checks, {len(unlike)} entries differ; "
        f"{len(found)} checks with a margin, {sum(m[3] > 0 for m in found)} of them spread, {len(near)} under {NEAR:g}"
    ]
    for row in broken:
        first = row["errors"][0] if row["errors"] else {"cell": None, "error": "no ledger"}
        lines.append(f"  run {row['run']}: cell {first['cell']}: {first['error'].splitlines()[0][:160]}")
    lines += [f"  {id}: not as in run 0 in {n} of {len(rows)} runs" for id, n in unlike.items()]
    lines += [f"  {id}: the text differs between runs in a number without ≈" for id in texts]
    lines += [
        f"  {id} check {i + 1}, {check['what']}: margin {distance:.1f}, spread {spread:.2g}; "
        f"run 0: expected {check['expected']}, got {check['measured']} (tolerance {check['tolerance']})"
        for id, i, check, spread, distance in near
    ]
    return lines, not broken and not failed and not unlike and not texts


def perform(checkout: Checkout, slugs: Iterable[str], runs: int, shift: int, workers: int, folder: Path) -> None:
    """Make the runs that are not on file, each written when it has ended."""
    from tqdm import tqdm

    os.environ |= {"KEXUE_SCALE": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(checkout.root), os.environ.get("PYTHONPATH")]))
    folder.mkdir(parents=True, exist_ok=True)
    done = {slug: on_file(folder / f"{slug}.jsonl", checkout.source_sha256(slug)) for slug in slugs}
    todo = [(slug, *pair) for pair in wanted(runs, shift) for slug in done if pair not in done[slug]]

    def one(slug: str, number: int, offset: int) -> dict:
        source = checkout.source_sha256(slug)
        return {"slug": slug, "run": number, "offset": offset, "source": source} | run(checkout.source(slug), offset)

    pool = ThreadPoolExecutor(workers)
    try:
        for ended in tqdm(as_completed([pool.submit(one, *job) for job in todo]), total=len(todo), unit="run", desc="repeating"):
            row = ended.result()
            with (folder / f"{row['slug']}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    finally:
        pool.shutdown(cancel_futures=True)


def main(
    slugs: Annotated[list[str] | None, typer.Argument(help="Slugs; default: all notebooks.")] = None,
    runs: Annotated[int, typer.Option(min=2, help="Runs of each notebook.")] = 10,
    shift: Annotated[int, typer.Option(min=0, help="Every seed of run r is shifted by r times this.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Notebooks at a time.")] = 2,
    only_report: Annotated[bool, typer.Option("--report", help="Run nothing.")] = False,
) -> None:
    """Run, then report: errors, entries that differ between runs, and the checks whose margin is less than three standard deviations."""
    try:
        checkout = Checkout.here()
        chosen = slugs or checkout.written()
        sources = {slug: checkout.source_sha256(slug) for slug in chosen}
    except (CheckoutError, FileNotFoundError) as error:
        raise typer.BadParameter(f"{error}; `python -m kexue_nb list` shows the slugs") from None
    folder = checkout.root / "_build" / "repeat"
    if not only_report:
        perform(checkout, chosen, runs, shift, workers, folder)
    good = True
    for slug, source in sources.items():
        known = on_file(folder / f"{slug}.jsonl", source)
        rows = [known[pair] for pair in wanted(runs, shift) if pair in known]
        if len(rows) < 2:
            typer.echo(f"{slug}: {len(rows)} of {runs} runs are on file; run it without --report")
            good = False
            continue
        lines, well = report(slug, rows, shift)
        typer.echo("\n".join(lines))
        good &= well or bool(shift)
    raise typer.Exit(not good)


if __name__ == "__main__":
    typer.run(main)
