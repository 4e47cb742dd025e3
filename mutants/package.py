"""Errors planted in a module of the package: its own test file runs in a fork for each."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutants.notebooks import SLACK_S, TIMES, follow
from mutants.sites import Site, diff, sample, sites

# Imported once, before the forks.
HEAVY = ("torch", "numpy", "scipy.special", "scipy.stats", "scipy.optimize", "sympy", "mpmath", "pytest", "hypothesis", "PIL", "numba")
HEAVY += ("matplotlib.pyplot", "sklearn", "tqdm", "yaml")


@dataclass(frozen=True)
class Place:
    """An error in a module."""

    site: Site


def modules(root: Path) -> list[str]:
    """The modules that have a test file of their own."""
    return sorted(p.stem for p in (root / "kexue_nb").glob("*.py") if (root / "tests" / f"test_{p.stem}.py").exists())


def places(root: Path, module: str) -> list[Place]:
    """All places of a module where an error can be planted."""
    return [Place(s) for s in sites((root / "kexue_nb" / f"{module}.py").read_text(encoding="utf-8"), module)]


def selected(root: Path, module: str, seed: int, count: int) -> list[Place]:
    """The first ``count`` errors of a seed."""
    return list(itertools.islice(sample(places(root, module), seed), count))


def run(root: Path, module: str, chosen: list[Place], report: Callable) -> None:
    """Run the module's tests without an error (they must pass), then once with each error of ``chosen``, up to the first failure."""
    for name in HEAVY:
        importlib.import_module(name)
    source = (root / "kexue_nb" / f"{module}.py").read_text(encoding="utf-8")
    start = time.perf_counter()
    plain = _attempt(root, module, source, 600)
    if plain["outcome"] != "missed":
        raise RuntimeError(f"{module}: its tests fail without an error: {plain['by']}")
    limit = SLACK_S + TIMES * (time.perf_counter() - start)
    for place in chosen:
        start = time.perf_counter()
        outcome = _attempt(root, module, place.site.plant(source), limit)
        report(place, outcome | {"seconds": round(time.perf_counter() - start, 2)})


def _attempt(root: Path, module: str, source: str, limit: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root / "kexue_nb", Path(folder) / "kexue_nb", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "kexue_nb" / f"{module}.py").write_text(source, encoding="utf-8")
        outcome = follow(lambda tell: _tests(root, module, folder, tell), {0: limit})
    outcome.pop("at", None)
    return outcome


def _tests(root: Path, module: str, folder: str, tell: Callable) -> dict:
    """In a fork: run a module's tests with the copy of the package in ``folder``, also in the processes that they start."""
    import numba
    import pytest

    tell({"at": 0})
    numba.config.CACHE_DIR = folder  # a compiled caller keeps its callee as it was
    os.chdir(root)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kexue_nb"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    os.environ |= {"PYTHONPATH": os.pathsep.join([folder, str(root), str(root / "tests")]), "PYTHONSAFEPATH": "1"}
    importlib.import_module("kexue_nb")
    first = _First()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:nbval", "-p", "no:xdist"]
    status = pytest.main([*options, f"tests/test_{module}.py"], plugins=[first])
    if status == 0:
        return {"outcome": "missed", "by": ""}
    return {"outcome": "caught", "kind": "test", "by": first.failure or f"pytest ended with {status}"}


class _First:
    """A pytest plugin that keeps the name of the first failure."""

    failure = ""

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failure:
            self.failure = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failure:
            self.failure = f"{report.nodeid}: not importable"


def row(module: str, source: str, place: Place, outcome: dict) -> dict:
    """What is kept of one mutant."""
    before, after = diff(source, place.site)
    head = {"unit": f"kexue_nb.{module}", "id": place.site.id, "line": place.site.line, "operator": place.site.operator}
    return head | {"before": before, "after": after} | outcome
