"""Test the package under each Python and the releases of torch, numpy and sympy that pyproject.toml allows.

python scripts/versions.py            every combination whose Python this machine has
python scripts/versions.py oldest     one of them

COMBINATIONS is the one list of them; the matrix of .github/workflows/tests.yml repeats it. Each combination gets a virtual environment
of its own under _build/versions, with the package, its unit tests and some light notebooks as plain scripts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "versions"


@dataclass(frozen=True)
class Combination:
    """A Python and the releases of packages: pip constraints, or "oldest" (pyproject's lower bounds) or "pinned" (requirements.txt)."""

    name: str
    python: str
    pins: tuple[str, ...] | str = ()


COMBINATIONS = (
    Combination("oldest", "3.11", "oldest"),
    Combination(
        "between", "3.12", ("torch==2.11.*", "numpy==2.2.*", "sympy==1.14.*", "scipy==1.15.*", "scikit-learn==1.6.*", "numba==0.61.*")
    ),
    Combination("pinned", "3.11", "pinned"),
    Combination("pinned-3.13", "3.13", "pinned"),
    Combination("newest-3.11", "3.11"),
    Combination("newest", "3.14"),
)
TOOLS = ("docutils", "hypothesis", "ipykernel", "jupytext", "nbclient", "nbformat", "pytest", "pytest-xdist", "pyyaml", "typer")
LEFT_OUT = {
    "tests/test_book.py": "needs the built site and a dictionary",
    "tests/test_checkout.py::test_ruff": "needs ruff; the style does not depend on versions",
    "tests/test_colab.py": "makes an environment of its own",
    "tests/test_multimodal.py::test_mrope_positions": "compares with the pinned transformers",
    "tests/test_multimodal.py::test_a_long_video": "compares with the pinned transformers",
    "tests/test_multimodal.py::test_the_section_wise_rotation": "compares with the pinned transformers",
    "tests/test_multimodal.py::test_the_interleaved_rotation": "compares with the pinned transformers",
    "tests/test_mup.py": "compares with the pinned mup",
    "tests/test_mutants.py": "tests the planting of errors, not the package",
    "tests/test_notebooks.py": "reads the committed .ipynb, which pinned versions made",
    "tests/test_pdf.py": "needs the built site",
    "tests/test_plays.py": "needs a browser",
    "tests/test_site.py": "needs the built site and a browser",
    "tests/test_workflows.py": "reads the workflows",
}
NOTEBOOKS = ("representation/minimize-a-plus-b-plus-c", "attention/softmax-alternatives", "depth/deepnet")
OTHER_CODE = "was recorded by other code"


class StepFailed(RuntimeError):
    """A step of a combination failed; the message names the step and carries the end of its log."""


def lower_bounds(root: Path = ROOT) -> tuple[str, ...]:
    """pyproject's dependencies at their lower bounds, as pip constraints."""
    wanted = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return tuple(re.sub(r">=([\d.]+)$", r"==\1", requirement) for requirement in wanted)


def constraints(combination: Combination, root: Path = ROOT) -> tuple[str, ...]:
    """What pip is told to install at most and at least, one constraint for each package that is not free."""
    if combination.pins == "oldest":
        return lower_bounds(root)
    if combination.pins == "pinned":
        return tuple((root / "requirements.txt").read_text(encoding="utf-8").splitlines())
    return combination.pins


def interpreter(version: str) -> str | None:
    """A Python of that version ("3.12"): this one, or pythonX.Y on the path."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    return shutil.which(f"python{version}")


def chosen(names: list[str]) -> list[Combination]:
    """The combinations of these names, all where none is given. Raises ValueError for an unknown name."""
    known = {c.name: c for c in COMBINATIONS}
    if unknown := [n for n in names if n not in known]:
        raise ValueError(f"{', '.join(unknown)}: no such combination; give some of {', '.join(known)}")
    return [known[n] for n in names] or list(COMBINATIONS)


def step(what: str, command: list, log: Path) -> str:
    """Run one command, append what it says to ``log`` and return it. Raises StepFailed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "KEXUE_RECORDS")}
    environment |= {"KEXUE_SCALE": "cpu", "MPLBACKEND": "Agg", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONNOUSERSITE": "1"}
    with log.open("a+", encoding="utf-8", errors="replace") as file:
        print("$", *command, file=file, flush=True)
        begin = file.tell()
        done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        file.seek(begin)
        said = file.read()
    if done.returncode:
        raise StepFailed(f"{what} ended with {done.returncode}\n" + "\n".join(said.strip().splitlines()[-15:]))
    return said


def attempt(combination: Combination, python: str) -> str:
    """Make the environment and test in it; returns one line about it. Raises StepFailed."""
    home, log = FOLDER / combination.name, FOLDER / f"{combination.name}.log"
    FOLDER.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    limits = FOLDER / f"{combination.name}.txt"
    limits.write_text("".join(f"{line}\n" for line in constraints(combination)), encoding="utf-8")
    start, own = time.monotonic(), home / "bin" / "python"
    step("making the environment", [python, "-m", "venv", "--clear", home], log)
    step("the installation", [own, "-m", "pip", "install", "--no-compile", "--only-binary", ":all:", "-c", limits, "-e", ".", *TOOLS], log)
    versions = step("importing", [own, "-c", "from kexue_nb.runtime import versions; print(versions())"], log).splitlines()[-1]
    left_out = [f"--deselect={name}" if "::" in name else f"--ignore={name}" for name in LEFT_OUT]
    tests = step("the unit tests", [own, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *left_out, "tests"], log)
    for notebook in NOTEBOOKS:
        if OTHER_CODE in step(f"the notebook {notebook}", [own, f"notebooks/{notebook}.py"], log):
            raise StepFailed(f"{notebook}: a record {OTHER_CODE}; the fingerprint depends on the version of Python or torch")
    summary = tests.strip().splitlines()[-1].strip("= ")
    return f"{versions}; {summary}; {len(NOTEBOOKS)} notebooks; {time.monotonic() - start:.0f} s"


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(c.name for c in COMBINATIONS)}; default: all.")] = None,
    python: Annotated[str | None, typer.Option(help="Another interpreter than the one of the list.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the environments (gigabytes each).")] = False,
) -> None:
    """Test each combination; a line for each: passed, failed with the end of its log, or no interpreter (a failure where it was named)."""
    try:
        combinations = chosen(names or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    bad = 0
    for combination in combinations:
        found = python or interpreter(combination.python)
        if found is None:
            typer.echo(f"{combination.name:12} no interpreter: python{combination.python} is not on the path")
            bad += bool(names)
            continue
        try:
            typer.echo(f"{combination.name:12} passed: {attempt(combination, found)}")
        except StepFailed as failure:
            bad += 1
            typer.echo(f"{combination.name:12} failed: {failure}\nthe whole log is {FOLDER / combination.name}.log")
        finally:
            if not keep:
                shutil.rmtree(FOLDER / combination.name, ignore_errors=True)
    raise typer.Exit(min(bad, 1))


if __name__ == "__main__":
    typer.run(main)
