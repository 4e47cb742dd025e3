"""``python -m benchmarks.book``: how long the book itself takes, measured in fresh clones of this checkout that share its .venv.

``make book`` with nothing built, again with nothing changed, and after a word was added to one notebook, which is then executed; with
``--test`` also ``make test``, once. Only what is committed is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.__main__ import made
from kexue_nb import records
from kexue_nb.checkout import Checkout

CHANGED = "minimize-a-plus-b-plus-c"  # the notebook that executes fastest
COLD, WARM, ONE, TEST = "make book, nothing built", "make book, nothing changed", "make book, one notebook changed", "make test"
NOT_PASSED_ON = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH")
# Between this process and the command, because Linux counts the memory of the process that starts a command as the command's own.
WAIT = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
status, usage = os.wait4(process.pid, 0)[1:]
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime, usage.ru_stime, usage.ru_maxrss], file)
"""
Timed = Callable[[Sequence[str], Path], dict[str, float]]


def timed(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command; its seconds, the processor's seconds of all its processes, and the memory of the largest of these in GB.

    Raises RuntimeError with the command's last words where it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    with tempfile.TemporaryFile() as log, tempfile.NamedTemporaryFile("r") as told:
        start = time.perf_counter()
        wait = [sys.executable, "-S", "-c", WAIT, told.name, *command]
        subprocess.run(wait, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
        seconds = time.perf_counter() - start
        code, user, system, peak = json.load(told)
        if code:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {log.read().decode(errors='replace')[-2000:]}")
    return {"seconds": seconds, "user": user, "system": system, "peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9}


def clone(checkout: Checkout, target: Path) -> Checkout:
    """A clone of what is committed, with the .venv of ``checkout``. Raises RuntimeError where a notebook is not up to date in it."""
    subprocess.run(["git", "clone", "--quiet", str(checkout.root), str(target)], check=True)
    (target / ".venv").symlink_to((checkout.root / ".venv").resolve())
    found = Checkout(target)
    if stale := [slug for slug in found.written() if found.stale(slug)]:
        raise RuntimeError(f"not executed since they changed: {', '.join(stale)}; execute and commit them first")
    return found


def add_word(source: Path) -> None:
    """A word at the end of a notebook whose last cell is text. Raises ValueError for another one."""
    text = source.read_text(encoding="utf-8").rstrip("\n")
    if not text[text.rindex("\n# %%") :].startswith("\n# %% [markdown]"):
        raise ValueError(f"{source.name}: the last cell is no text")
    source.write_text(f"{text} Indeed.\n", encoding="utf-8")


def one_round(book: Checkout, run: Timed) -> dict[str, dict[str, float]]:
    """The three builds, one after the other, in a fresh clone."""
    found = {name: run(["make", "book"], book.root) for name in (COLD, WARM)}
    add_word(book.source(CHANGED))
    return found | {ONE: run(["make", "book"], book.root)}


def summary(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The median of each quantity over the rounds, with the lowest and the highest of the seconds."""
    steps = {name: [r[name] for r in rounds if name in r] for r in rounds for name in r}
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        | {"low": min(run["seconds"] for run in runs), "high": max(run["seconds"] for run in runs), "rounds": len(runs)}
        for name, runs in steps.items()
    }


def measure(checkout: Checkout, rounds: int, run: Timed = timed) -> dict[str, dict[str, float]]:
    """The builds of all rounds, each round in a clone of its own."""
    return summary([_in_a_clone(checkout, one_round, run) for _ in range(rounds)])


def measure_tests(checkout: Checkout, run: Timed = timed) -> dict[str, dict[str, float]]:
    """The tests, once, in a clone of theirs, so that their time includes a build of the site."""
    return summary([_in_a_clone(checkout, lambda book, run: {TEST: run(["make", "test"], book.root)}, run)])


def _in_a_clone(
    checkout: Checkout, steps: Callable[[Checkout, Timed], dict[str, dict[str, float]]], run: Timed
) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        found = steps(clone(checkout, Path(folder) / "book"), run)
    for name, step in found.items():
        typer.echo(f"{name}: {step['seconds']:.1f} s, {step['user'] + step['system']:.1f} s of processor, {step['peak_gb']:.2f} GB")
    return found


def main(
    write: Annotated[Path | None, typer.Option(help="Put the result into this JSON file.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Time `make test` as well.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each build is measured.")] = 3,
) -> None:
    """Measure how long the book takes to build, and to test; the builds are on file before the tests begin."""
    checkout = Checkout.here()

    def keep(steps: Mapping[str, Mapping[str, float]], command: str) -> None:
        provenance = made(torch.device("cpu"), os.cpu_count(), command)
        provenance["versions"] |= {name: metadata.version(name) for name in ("jupyter-book", "Sphinx", "nbclient")}
        doc = {"schema": 1, "notebooks": len(checkout.written()), "changed": CHANGED, "steps": steps, "made": provenance}
        if write:
            write.parent.mkdir(parents=True, exist_ok=True)
            write.write_text(json.dumps(records.compact(doc, 4), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    steps = measure(checkout, rounds)
    keep(steps, "python -m benchmarks.book")
    if test:
        keep(steps | measure_tests(checkout), "python -m benchmarks.book --test")


if __name__ == "__main__":
    typer.run(main)
