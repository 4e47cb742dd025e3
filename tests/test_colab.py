"""The set-up cell in an environment like Colab's: it adds the package, changes nothing, and the notebook then runs."""

import ast
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbclient
import nbformat
import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "attention" / "attention-scale.py"
HOME = ROOT / ".venv-colab"
PYTHON = HOME / "env" / "bin" / "python"
LEDGER = "application/vnd.kexue-nb.ledger+json"
# Colab's own versions; where Colab's Python is not ours, the nearest that has wheels.
PACKAGES = [
    "pip==24.1.2",
    "setuptools>=77.0.3",
    'numpy==2.0.2; python_version < "3.13"',
    'numpy==2.1.0; python_version >= "3.13"',
    'numba==0.60.0; python_version < "3.13"',
    'numba==0.61.0; python_version >= "3.13"',
    "sympy==1.13.3",
    "mpmath==1.3.0",
    "scipy==1.16.3",
    "scikit-learn==1.6.1",
    "matplotlib==3.10.0",
    "pillow==11.3.0",
    "tqdm==4.67.1",
    "ipykernel==6.17.1",
    'ipython==7.34.0; python_version < "3.13"',
]
# The running interpreter's torch, linked into a folder that pip does not own: nothing that pip does here can write to the original.
TORCH = ("torch", "torchgen", "functorch", "torch-*.dist-info", "nvidia*", "triton*", "cuda*")

FIRST_CELL = """
import subprocess, sys, types

sys.modules |= {name: types.ModuleType(name) for name in ("google", "google.colab")}
_commands, _run = [], subprocess.run


def _record(command, **options):
    if "install" not in command:
        return _run(command, **options)
    _commands.append(command)
    return subprocess.CompletedProcess(command, 0)


subprocess.run = _record
"""
LAST_CELL = 'import json; print(json.dumps({"commands": _commands, "file": kexue_nb.__file__}))'


def environment():
    """The environment variables of a fresh machine: nothing that leads to the checkout."""
    ours = ("PYTHONPATH", "PYTHONHOME", "MPLBACKEND", "KEXUE_RECORDS")
    return {k: v for k, v in os.environ.items() if k not in ours} | {"KEXUE_SCALE": "cpu", "PYTHONNOUSERSITE": "1"}


def run(*command, check=True):
    done = subprocess.run([str(PYTHON), *command], cwd=HOME, env=environment(), capture_output=True, text=True, timeout=1200)
    assert not check or done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def versions():
    return {p["name"]: p["version"] for p in json.loads(run("-m", "pip", "list", "--format=json", "--disable-pip-version-check"))}


def conflicts():
    return set(run("-m", "pip", "check", "--disable-pip-version-check", check=False).splitlines()) - {"No broken requirements found."}


def build():
    """Make the environment, or take the package out of the one that stands; its versions."""
    torch = importlib.metadata.version("torch")
    site = Path(importlib.metadata.distribution("torch").locate_file("")).resolve()
    key = hashlib.sha256(repr((PACKAGES, sys.version, torch, str(site))).encode()).hexdigest()
    stamp = HOME / "stamp.json"
    if stamp.exists():
        built = json.loads(stamp.read_text(encoding="utf-8"))
        if built["sha256"] == key:
            run("-m", "pip", "uninstall", "-q", "-y", "kexue_nb")
            if versions() == built["versions"]:
                return built["versions"]
        stamp.unlink()
    for folder in (HOME / "env", HOME / "torch"):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", HOME / "env"], check=True)
    (HOME / "torch").mkdir()
    for item in (item for pattern in TORCH for item in site.glob(pattern)):
        (HOME / "torch" / item.name).symlink_to(item)
    packages = next((HOME / "env").glob("lib/python*/site-packages"))
    (packages / "torch.pth").write_text(f"{HOME / 'torch'}\n", encoding="utf-8")
    run("-m", "pip", "install", "-q", *PACKAGES, f"torch=={torch}")
    built = {"sha256": key, "versions": versions()}
    stamp.write_text(json.dumps(built), encoding="utf-8")
    return built["versions"]


def setup_command():
    """The arguments that the set-up cell gives to Python."""
    cell = next(c for c in jupytext.read(NOTEBOOK).cells if c.cell_type == "code")
    calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "subprocess.run"]
    assert len(calls) == 1, f"the set-up cell has {len(calls)} calls of subprocess.run"
    first, *rest = calls[0].args[0].elts
    assert ast.unparse(first) == "sys.executable"
    return [ast.literal_eval(e) for e in rest]


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The environment with the package installed in it as the cell would, and what it was before."""
    pytest.importorskip("torch", reason="torch is linked from the running environment, which has none")
    HOME.mkdir(exist_ok=True)
    with FileLock(HOME / "lock", timeout=1800):
        before, broken = build(), conflicts()
        clone = tmp_path_factory.mktemp("clone")
        for item in ROOT.iterdir():
            if item.is_file():
                shutil.copy(item, clone)
        shutil.copytree(ROOT / "kexue_nb", clone / "kexue_nb", ignore=shutil.ignore_patterns("__pycache__"))
        run(*setup_command()[:-1], str(clone))
        yield SimpleNamespace(before=before, broken=broken)


def test_setup_cell_installs_from_our_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert setup_command() == ["-m", "pip", "install", "-q", f"git+{project['urls']['Repository']}"]


def test_installing_changes_nothing_on_colab(colab):
    after = versions()
    assert {name: after.get(name) for name in colab.before} == colab.before
    assert [name.replace("-", "_") for name in after.keys() - colab.before.keys()] == ["kexue_nb"], "Colab has these? Add them above"
    assert conflicts() <= colab.broken


def test_records_travel_with_the_package(colab):
    code = "import json, kexue_nb.records as r, pathlib; print(json.dumps(sorted(p.name for p in r.path('x').parent.glob('*.json'))))"
    assert json.loads(run("-c", code)) == sorted(p.name for p in (ROOT / "kexue_nb" / "records").glob("*.json"))


def test_teachers_travel_with_the_package(colab):
    code = "import kexue_nb, pathlib; print(*sorted(p.name for p in (pathlib.Path(kexue_nb.__file__).parent / 'teachers').iterdir()))"
    assert run("-c", code).split() == sorted(p.name for p in (ROOT / "kexue_nb" / "teachers").iterdir())


def test_notebook_runs_on_colab(colab, tmp_path, monkeypatch):
    kernel = tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    (work := tmp_path / "content").mkdir()

    notebook = jupytext.read(NOTEBOOK)
    last = [c for c in notebook.cells if c.cell_type == "code"][-1]
    report = nbformat.v4.new_code_cell(LAST_CELL)
    notebook.cells = [nbformat.v4.new_code_cell(FIRST_CELL), *notebook.cells, report]
    client = nbclient.NotebookClient(notebook, kernel_name="colab", timeout=600, resources={"metadata": {"path": str(work)}})
    client.execute(env=environment())

    said = json.loads(report.outputs[0].text)
    assert said["commands"] == [[str(PYTHON), *setup_command()]]
    assert HOME / "env" in Path(said["file"]).parents
    ledger = next(o.data[LEDGER] for o in last.outputs if LEDGER in o.get("data", {}))
    assert ledger["slug"] == NOTEBOOK.stem
    assert ledger["scale"] == "cpu"
    assert ledger["entries"]
