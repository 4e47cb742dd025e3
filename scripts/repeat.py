"""Run notebooks again and again at cpu scale: is every ledger the same each time, and how far are the measured claims from their limits?

python scripts/repeat.py --runs 10                    ten plain runs of every notebook, which must give ten equal ledgers
python scripts/repeat.py --runs 10 --shift 100000     the same with every seed of run r shifted by r * 100000: the spread over seeds
python scripts/repeat.py deepnet --report             what is on file, without running anything
python scripts/repeat.py --report --write             the same, and keep it for the book's about page

The committed .ipynb stay as they are. Each run is a line in _build/repeat/SLUG.jsonl, and with --write what matters of it stands in
book/repeats.json; a run that is on file for the present source is not made again. Entries whose evidence fails do not stop a notebook here:
they are kept in its ledger with the checks that failed. Seeds are shifted in the notebook's own process, not in processes that it starts.
Ledgers carry four digits: a smaller spread counts as none.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import math
import os
import re
import statistics
import subprocess
import time
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
    """(run, offset of its seeds) -> summary of the runs of this source in a file of lines."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {(row["run"], row["offset"]): summary(row) for row in map(json.loads, lines) if row["source"] == source}


def kept(file: Path, slug: str, source: str) -> dict[tuple[int, int], dict]:
    """The same of book/repeats.json, where a run holds only what is not as in the first one of its notebook."""
    found = json.loads(file.read_text(encoding="utf-8"))["notebooks"].get(slug) if file.exists() else None
    if found is None or found["source"] != source:
        return {}
    first = found["runs"][0]
    return {(run["run"], run["offset"]): unpacked(run, first) for run in found["runs"]}


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


def summary(row: dict) -> dict:
    """What a report needs of a run: entry -> verdict, passed checks (+) and a fingerprint of its text; check -> value, low, high."""
    ledger = row["ledger"] or {"entries": []}
    errors = [f"cell {e['cell']}: {e['error'].splitlines()[0][:160]}" for e in row["errors"]]
    texts = {e["id"]: execute.APPROXIMATE.sub("≈", json.dumps(e, ensure_ascii=False)) for e in ledger["entries"]}
    found = {name: measure(check) for name, check in checks(ledger).items()}
    return {
        "run": row["run"],
        "offset": row["offset"],
        "seconds": row["seconds"],
        "errors": errors if row["ledger"] else [*errors, "no ledger"],
        "verdicts": {e["id"]: f"{e['verdict']} {''.join('-+'[c['passed']] for c in e['evidence'])}" for e in ledger["entries"]},
        "texts": {id: hashlib.sha256(text.encode()).hexdigest()[:8] for id, text in texts.items()},
        "measures": {name: [m.value, _finite(m.low), _finite(m.high)] for name, m in found.items() if m},
    }


SAME = ("verdicts", "texts", "measures")


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def packed(run: dict, first: dict) -> dict:
    """A summary without what is as in the first run; what the first one alone has is None."""
    if run is first:
        return run
    return run | {
        part: {key: run[part].get(key) for key in first[part] | run[part] if run[part].get(key) != first[part].get(key)} for part in SAME
    }


def unpacked(run: dict, first: dict) -> dict:
    """The summary that ``packed`` was made of."""
    return run | {part: {key: value for key, value in (first[part] | run[part]).items() if value is not None} for part in SAME}


def margin(measures: list[Measure]) -> tuple[float, float]:
    """The standard deviation over the runs, and the distance from the mean to the nearest limit in units of it.

    The distance is negative where the mean lies outside, and NaN where there is no spread.
    """
    value, low, high = (statistics.fmean(getattr(m, name) for m in measures) for name in ("value", "low", "high"))
    spread, distance = statistics.stdev(m.value for m in measures), min(value - low, high - value)
    return spread, distance / spread if spread else math.nan


def checks(ledger: dict | None) -> dict[str, dict]:
    """'ENTRY NUMBER' -> check."""
    return {f"{e['id']} {i + 1}": check for e in (ledger or {"entries": []})["entries"] for i, check in enumerate(e["evidence"])}


def differing(runs: list[dict]) -> dict[str, int]:
    """Entry -> in how many runs its verdict, or whether a check passed, is not as in the first run; a missing entry counts."""
    found = [run["verdicts"] for run in runs]
    counts = {id: sum(verdicts.get(id) != found[0].get(id) for verdicts in found) for id in dict.fromkeys(id for v in found for id in v)}
    return {id: n for id, n in counts.items() if n}


def reworded(runs: list[dict]) -> list[str]:
    """Entries whose text is not the same in every run, numbers behind ≈ excepted."""
    texts: dict[str, set] = {}
    for run in runs:
        for id, text in run["texts"].items():
            texts.setdefault(id, set()).add(text)
    return [id for id, forms in texts.items() if len(forms) > 1]


def margins(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """'ENTRY NUMBER' -> spread and margin of every check that has a number in all runs, of which there are two at least.

    Without spread the margin is infinite, negative where the check failed: digits that a ledger does not show may have decided.
    """
    names = [name for name in runs[0]["measures"] if all(name in run["measures"] for run in runs)] if len(runs) > 1 else []
    found = {name: margin([_measure(*run["measures"][name]) for run in runs]) for name in names}
    return {name: (spread, apart if spread else _certain(name, runs[0])) for name, (spread, apart) in found.items()}


def _certain(name: str, run: dict) -> float:
    entry, number = name.rsplit(" ", 1)
    return math.inf if run["verdicts"][entry].rsplit(" ", 1)[1][int(number) - 1] == "+" else -math.inf


def _measure(value: float, low: float | None, high: float | None) -> Measure:
    return Measure(value, -math.inf if low is None else low, math.inf if high is None else high)


def table(runs: list[dict]) -> dict:
    """What runs of a notebook come to: how many, mean seconds, what failed and differed, checks with a number, the least margin."""
    found = margins(runs)
    least = min((apart for _, apart in found.values()), default=math.inf)
    return {
        "runs": len(runs),
        "seconds": round(statistics.fmean(run["seconds"] for run in runs), 1),
        "broken": sum(bool(run["errors"]) for run in runs),
        "failed": sum(verdict.count("-") for run in runs for verdict in run["verdicts"].values()),
        "unlike": len(differing(runs)),
        "entries": len(runs[0]["verdicts"]),
        "checks": len(found),
        "spread": sum(spread > 0 for spread, _ in found.values()),
        "near": sum(apart < NEAR for _, apart in found.values()),
        "least": round(least, 1) if math.isfinite(least) else None,
    }


def report(slug: str, runs: list[dict], shift: int, words: dict[str, dict]) -> tuple[list[str], bool]:
    """Lines about the runs of one notebook, and whether all went well: plain runs that differ do not, shifted ones may.

    ``words`` are the checks of the executed notebook, which say what a number is.
    """
    counts, unlike, found = table(runs), differing(runs), margins(runs)
    texts = [] if shift else reworded(runs)
    lines = [
        "{0}: {runs} runs of {seconds:.0f} s, {broken} with an error, {failed} failed checks, {unlike} entries differ; "
        "{checks} checks with a margin, {spread} of them spread, {near} under {1:g}".format(slug, NEAR, **counts)
    ]
    lines += [f"  run {run['run']}: {run['errors'][0]}" for run in runs if run["errors"]]
    lines += [f"  {id}: not as in run 0 in {n} of {len(runs)} runs" for id, n in unlike.items()]
    lines += [f"  {id}: the text differs between runs in a number without ≈" for id in texts]
    for name, (spread, distance) in sorted(found.items(), key=lambda item: item[1][1]):
        if distance < NEAR:
            said = "{what}: expected {expected}, got {measured} (tolerance {tolerance})".format(**words[name]) if name in words else ""
            lines.append(f"  {name}: margin {distance:.1f}, spread {spread:.2g}; {said}")
    return lines, not (counts["broken"] or counts["failed"] or unlike or texts)


def write(file: Path, notebooks: dict[str, tuple[str, list[dict]]]) -> None:
    """Keep slug -> (source, runs) in book/repeats.json, other notebooks' runs as they are."""
    doc = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"schema": 1, "notebooks": {}}
    for slug, (source, runs) in notebooks.items():
        plain, shifted = ([run for run in runs if bool(run["offset"]) is moved or run is runs[0]] for moved in (False, True))
        doc["notebooks"][slug] = {
            "source": source,
            "plain": table(plain),
            "shifted": table(shifted) if len(shifted) > 1 else None,
            "runs": [packed(run, runs[0]) for run in runs],
        }
    doc["date"] = datetime.date.today().isoformat()
    doc["notebooks"] = dict(sorted(doc["notebooks"].items()))
    lines = json.dumps(doc, ensure_ascii=False, separators=(",", ":")).replace('{"run":', '\n{"run":')
    file.write_text(lines + "\n", encoding="utf-8")


def perform(checkout: Checkout, todo: list[tuple[str, int, int]], workers: int, folder: Path) -> None:
    """Make runs (slug, run, offset), each written when it has ended."""
    from tqdm import tqdm

    os.environ |= {"KEXUE_SCALE": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(checkout.root), os.environ.get("PYTHONPATH")]))
    folder.mkdir(parents=True, exist_ok=True)

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
    keep: Annotated[bool, typer.Option("--write", help="Keep all runs on file in book/repeats.json.")] = False,
) -> None:
    """Run, then report: errors, entries that differ between runs, and the checks whose margin is less than three standard deviations."""
    try:
        checkout = Checkout.here()
        sources = {slug: checkout.source_sha256(slug) for slug in slugs or checkout.written()}
    except (CheckoutError, FileNotFoundError) as error:
        raise typer.BadParameter(f"{error}; `python -m kexue_nb list` shows the slugs") from None
    folder, book = checkout.root / "_build" / "repeat", checkout.root / "book" / "repeats.json"
    done = {slug: kept(book, slug, source) | on_file(folder / f"{slug}.jsonl", source) for slug, source in sources.items()}
    if not only_report:
        todo = [(slug, *pair) for pair in wanted(runs, shift) for slug in sources if pair not in done[slug]]
        perform(checkout, todo, workers, folder)
        done = {slug: found | on_file(folder / f"{slug}.jsonl", sources[slug]) for slug, found in done.items()}
    good = True
    for slug, found in done.items():
        chosen = [found[pair] for pair in wanted(runs, shift) if pair in found]
        if len(chosen) < 2:
            typer.echo(f"{slug}: {len(chosen)} of {runs} runs are on file; run it without --report")
            good = False
            continue
        executed = json.loads(checkout.executed(slug).read_text(encoding="utf-8"))
        lines, well = report(slug, chosen, shift, checks(read_ledger(executed)))
        typer.echo("\n".join(lines))
        good &= well or bool(shift)
    if keep:
        write(book, {slug: (sources[slug], [found[pair] for pair in sorted(found)]) for slug, found in done.items() if found})
    raise typer.Exit(not good)


if __name__ == "__main__":
    typer.run(main)
