"""``python -m mutants``: plant errors in all notebooks and modules, two at a time, and report which ones were caught."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
PACKAGE = "kexue_nb."


def source_of(root: Path, unit: str) -> str:
    """The code that errors are planted in: a module, or the code cells of a notebook."""
    from mutants import cells

    if unit.startswith(PACKAGE):
        return (root / "kexue_nb" / f"{unit.removeprefix(PACKAGE)}.py").read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in cells.read(_notebook(root, unit)))


def fingerprint(root: Path, unit: str) -> str:
    """A hash of the code of a unit and, for a module, of its tests."""
    text = source_of(root, unit)
    if unit.startswith(PACKAGE):
        text += (root / "tests" / f"test_{unit.removeprefix(PACKAGE)}.py").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _notebook(root: Path, slug: str) -> Path:
    from kexue_nb.checkout import Checkout

    return Checkout(root).source(slug)


def chosen(root: Path, unit: str, seed: int, count: int) -> list:
    """The errors that a seed plants in a unit."""
    from mutants import cells, notebooks, package

    if unit.startswith(PACKAGE):
        return package.selected(root, unit.removeprefix(PACKAGE), seed, count)
    return notebooks.selected(cells.read(_notebook(root, unit)), unit, seed, count)


def results(folder: Path, unit: str) -> dict[str, dict]:
    """Mutant id -> the last result that is on file."""
    file = folder / f"{unit}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {row["id"]: row for row in map(json.loads, lines)}


def pending(places: list, known: dict[str, dict], source: str, keep: bool) -> list:
    """The errors without a result for this source; with ``keep`` what was caught in an older source counts as caught."""
    done = {id for id, row in known.items() if row["source"] == source or (keep and row["outcome"] == "caught")}
    return [p for p in places if p.site.id not in done]


def one(root: Path, folder: Path, unit: str, args) -> None:
    """Try what is pending in one unit, in this process."""
    from mutants import cells, notebooks, package

    source = fingerprint(root, unit)
    todo = pending(
        chosen(root, unit, args.seed, args.modules if unit.startswith(PACKAGE) else args.notebooks),
        results(folder, unit),
        source,
        args.keep,
    )
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / f"{unit}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def report(row: dict) -> None:
        os.write(file, (json.dumps(row | {"source": source}, ensure_ascii=False) + "\n").encode())

    if unit.startswith(PACKAGE):
        os.environ |= {"KEXUE_SCALE": "cpu", "MPLBACKEND": "Agg", "KEXUE_DEVICE": ""}
        name, text = unit.removeprefix(PACKAGE), source_of(root, unit)
        package.run(root, name, todo, lambda place, outcome: report(package.row(name, text, place, outcome)))
    else:
        notebooks.prepare()
        os.chdir(_notebook(root, unit).parent)
        notebook = cells.read(_notebook(root, unit))
        notebooks.run(notebook, todo, lambda place, outcome: report(notebooks.row(unit, place, outcome)), args.control)


def equivalents(root: Path) -> dict[str, dict]:
    """Mutant id -> why it changes nothing that a check could see."""
    import yaml

    return {str(e["id"]): e for e in yaml.safe_load((root / "mutants" / "equivalent.yml").read_text(encoding="utf-8")) or []}


def table(root: Path, folder: Path, units: list[str], args) -> dict:
    """Counts for each unit and the list of misses, by what is on file; results for an older source count as :func:`pending` says."""
    known, counts, misses = equivalents(root), {}, []
    for unit in units:
        found, wanted = results(folder, unit), chosen(root, unit, args.seed, args.modules if unit.startswith(PACKAGE) else args.notebooks)
        todo = {p.site.id for p in pending(wanted, found, fingerprint(root, unit), args.keep)}
        rows = [found[p.site.id] for p in wanted if p.site.id not in todo]
        missed = [r for r in rows if r["outcome"] == "missed" and r["id"] not in known]
        same = sum(r["outcome"] == "missed" and r["id"] in known for r in rows)
        counts[unit] = {"planted": len(rows), "caught": len(rows) - len(missed) - same, "missed": len(missed), "equivalent": same}
        counts[unit] |= {"pending": len(todo)} if todo else {}
        misses += missed
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"schema": 1, "date": today, "seed": args.seed, "counts": counts, "misses": misses}


def score(counts: dict) -> float:
    """Caught among those that could be."""
    return counts["caught"] / max(1, counts["caught"] + counts["missed"])


def show(doc: dict) -> None:
    """Print the table and the misses."""
    print(f"{'':34}planted  caught  missed  equivalent  score")
    total = {k: sum(c[k] for c in doc["counts"].values()) for k in ("planted", "caught", "missed", "equivalent")}
    for unit, c in [*doc["counts"].items(), ("all", total)]:
        note = f"  ({c['pending']} not run)" if c.get("pending") else ""
        print(f"{unit:34}{c['planted']:7}{c['caught']:8}{c['missed']:8}{c['equivalent']:12}{score(c):7.0%}{note}")
    for r in doc["misses"]:
        print(f"\n{r['unit']}:{r['line']} {r['operator']} {r['id']} {r['by']}\n  - {r['before']}\n  + {r['after']}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("units", nargs="*", help="slugs and kexue_nb.MODULE; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--notebooks", type=int, default=12, help="errors in each notebook")
    parser.add_argument("--modules", type=int, default=8, help="errors in each module")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="what was caught in an older source of the same unit stays caught")
    parser.add_argument("--control", action="store_true", help="also run each cell without an error, alone with its dependents")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help="write book/mutants.json")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    from kexue_nb.checkout import Checkout
    from mutants import package

    root = Checkout.here().root
    folder = root / "_build" / "mutants"
    if args.one:
        return one(root, folder, args.units[0], args)
    units = args.units or [*Checkout(root).written(), *(PACKAGE + m for m in package.modules(root))]
    failed = [] if args.report else run_all(units, args)
    doc = table(root, folder, units, args)
    show(doc)
    if args.write:
        kept = {k: doc[k] for k in ("schema", "date", "seed", "counts")}
        (root / "book" / "mutants.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"the harness failed on {', '.join(failed)}")
    return None


def run_all(units: list[str], args) -> list[str]:
    """Each unit in a process of its own, a few at a time; returns those whose process failed."""
    from tqdm import tqdm

    options = [f"--seed={args.seed}", f"--notebooks={args.notebooks}", f"--modules={args.modules}"]
    options += [f"--{name}" for name in ("keep", "control") if getattr(args, name)]

    def start(unit: str) -> tuple[str, int]:
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "mutants", unit, "--one", *options], env=os.environ | ONE_THREAD, check=False)
        tqdm.write(f"{unit}: {time.monotonic() - begin:.0f} s")
        return unit, done.returncode

    with ThreadPoolExecutor(args.workers) as pool:
        outcomes = list(tqdm(pool.map(start, units), total=len(units), unit="unit", desc="planting errors"))
    return [unit for unit, status in outcomes if status]


if __name__ == "__main__":
    main()
