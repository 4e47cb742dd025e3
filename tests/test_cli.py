"""The command line on a small checkout of its own: new, execute, stale, list, failures, interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from kexue_nb import records, sweep
from kexue_nb.__main__ import app
from kexue_nb.checkout import Checkout

ROOT = Checkout.here().root
SLUG = "effective-rank"


@pytest.fixture
def small(tmp_path):
    """A checkout with the package, no notebooks, and one freshly begun."""
    for name in ("pyproject.toml", "_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "posts.yml", tmp_path / "book" / "posts.yml")
    assert run(tmp_path, "new", SLUG).returncode == 0
    return Checkout(tmp_path)


def run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "kexue_nb", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_new_notebook_executes_and_executing_again_changes_nothing(small):
    assert SLUG in (small.root / "_toc.yml").read_text()
    assert run(small.root, "new", SLUG).returncode == 1
    assert run(small.root, "stale").stdout.split() == [SLUG]
    first = run(small.root, "execute")
    assert first.returncode == 0, first.stderr
    assert f"{SLUG}: written" in first.stdout
    before = small.executed(SLUG).read_bytes()
    assert run(small.root, "stale").stdout == ""
    assert "nothing to execute" in run(small.root, "execute").stdout
    again = run(small.root, "execute", SLUG)
    assert f"{SLUG}: unchanged" in again.stdout
    assert small.executed(SLUG).read_bytes() == before
    over = json.loads(before)
    over["metadata"]["kexue_nb"] |= {"wall_s": 1e6, "calibration_s": 0.1}
    small.executed(SLUG).write_text(json.dumps(over))
    assert f"{SLUG}: written" in run(small.root, "execute", SLUG).stdout  # a cost over the budget is measured anew
    assert json.loads(small.executed(SLUG).read_bytes())["metadata"]["kexue_nb"]["wall_s"] < 1e3
    assert "1 verified" in run(small.root, "list").stdout
    assert json.loads(before)["metadata"]["kexue_nb"]["wall_s"] > 0


def test_a_failing_cell_is_named_and_nothing_is_written(small):
    source = small.source(SLUG)
    source.write_text(source.read_text().replace("a * x ** (a - 1)))", "a * x ** (a + 1)))"))
    done = run(small.root, "execute")
    assert done.returncode == 1
    assert f"{SLUG}: cell" in done.stderr
    assert "EvidenceError" in done.stderr
    assert "Traceback" not in done.stderr
    assert not small.executed(SLUG).exists()


def test_interrupting_leaves_no_half_written_file(small):
    source = small.source(SLUG)
    source.write_text(
        source.read_text().replace("nb.ledger()", "import time\n\nopen('started', 'w').close()\ntime.sleep(300)\nnb.ledger()")
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kexue_nb", "execute"]

    def listen():  # a shell that runs the tests in the background has made them deaf to SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": listen}
    process = subprocess.Popen(command, cwd=small.root, env=environment, **options)
    started = source.parent / "started"
    for _ in range(600):
        if started.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    started.unlink()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert sorted(p.suffix for p in source.parent.iterdir()) == [".py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "no-such-post"], "none of the 37 slugs"),
        (["execute", "mup"], "no notebook yet"),
        (["record", "mup"], "no notebook yet"),
        (["address", "x"], "no repository"),
    ],
)
def test_bad_requests_get_one_clear_line(small, arguments, message):
    done = run(small.root, *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_checkout(tmp_path):
    done = run(tmp_path, "list")
    assert done.returncode == 2
    assert "not inside a checkout" in done.stderr


def test_doctor_reports(small):
    done = run(small.root, "doctor")
    assert "python" in done.stdout
    assert "notebooks" in done.stdout


RECORDING = """
import os, pathlib, sys
from kexue_nb import records
made_by = "nb.run("
slug = pathlib.Path(__file__).stem
assert os.environ["KEXUE_SCALE"] == "full"
if slug == "lora-ga":
    sys.exit("no luck today")
for id, seconds, gb in (("E1", 12.0, 0.5), ("E2", 30.0, 2.5)):
    config = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "process": os.getpid()}
    records.save(slug, id, records.Run("a card", "2", None, "2026-01-01", seconds, gb, "0", config, {}))
"""


def recording(small, *slugs):
    for slug in slugs:
        source = small.source(slug)
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(RECORDING)


@pytest.mark.parametrize("failing", [False, True])
def test_recording_all_runs_one_notebook_a_gpu_and_says_what_each_cost(failing, small, own_folders, monkeypatch):
    slugs = ["mup", "muon", "lora-ga"] if failing else ["mup", "muon"]
    recording(small, *slugs)
    records.save("mup", "E1", records.Run("old", "2", None, "2025-01-01", 1.0, 9.0, "0", {}, {}))
    records.save("mup", "E9", records.Run("old", "2", None, "2025-01-01", 1.0, 9.0, "0", {}, {}))
    monkeypatch.delenv("KEXUE_SWEEP", raising=False)
    monkeypatch.delenv("KEXUE_DEVICE", raising=False)
    monkeypatch.setattr(sweep, "_gpus", lambda: ["5", "7"])
    monkeypatch.chdir(small.root)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = CliRunner().invoke(app, ["record", "--all"])
    assert done.exit_code == int(failing), done.output
    told = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    for slug in ("mup", "muon"):  # a run that was recorded before and is not made any more costs nothing now
        assert told[slug].endswith("E1 12 s 0.5 GB, E2 30 s 2.5 GB (a card)")
        assert records.load(slug)["E1"].config["gpu"] in ("5", "7")
    assert SLUG not in told  # it has nothing to record
    assert f"2 of {len(slugs)} notebooks, 4 runs" in done.stdout
    assert "peak 2.5 GB" in done.stdout
    if failing:
        assert told["lora-ga"].endswith("failed")
        assert "'slug': 'lora-ga'" in done.output
        assert "no luck today" in done.output


@pytest.mark.parametrize("arguments", [["record"], ["record", "mup", "--all"]])
def test_recording_wants_one_slug_or_all(small, arguments, monkeypatch):
    monkeypatch.chdir(small.root)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "give one slug, or --all" in done.output


def test_recording_all_without_a_gpu_says_so(small, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("KEXUE_SWEEP", raising=False)
    monkeypatch.delenv("KEXUE_DEVICE", raising=False)
    monkeypatch.chdir(small.root)
    done = CliRunner().invoke(app, ["record", "--all"])
    assert done.exit_code == 1
    assert "needs a CUDA GPU" in done.output
