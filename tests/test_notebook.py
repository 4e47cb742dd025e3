"""What a notebook opens: kinds of ids, scales, runs and their records, tables and figures, in and outside Jupyter."""

import importlib
import random
import re

import IPython
import IPython.display
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

import kexue_nb
from kexue_nb import records, runtime
from kexue_nb.ledger import MIME, Check, EvidenceError, close
from kexue_nb.notebook import RESULTS_MIME, Notebook

# By its full name: the attribute kexue_nb.notebook is the function.
module = importlib.import_module("kexue_nb.notebook")
GOOD = Check("sum", "series", True, "3", "3")


@pytest.fixture(autouse=True)
def style(own_folders):
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def nb():
    return Notebook("x")


@pytest.fixture
def full(monkeypatch):
    """A notebook at scale full on a machine that needs no GPU for it."""
    monkeypatch.setattr(runtime, "scale", lambda: "full")
    monkeypatch.setattr(runtime, "device", lambda scale: torch.device("cpu"))
    return Notebook("x")


@pytest.fixture
def shown(monkeypatch):
    """Collects what would be displayed inside Jupyter."""
    items = []
    monkeypatch.setattr(module, "_in_jupyter", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda item: items.append(item._repr_mimebundle_()))
    return items


def experiment(device, steps=2, rate=0.1):
    return {"device": str(device), "loss": torch.tensor([1.23456789, steps * rate]), "n": np.int64(steps), 3: (None, True)}


def test_opening_prints_one_line_and_seeds(capsys):
    nb = kexue_nb.notebook("some-slug", seed=7)
    draws = random.random(), np.random.rand(), torch.rand(()).item()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"some-slug: scale cpu on .* CPU, 2 threads; Python 3\..*torch .*numpy .*sympy .*; seed 7", line)
    assert (nb.slug, nb.seed, nb.scale, nb.device) == ("some-slug", 7, "cpu", torch.device("cpu"))
    Notebook("y", seed=7)
    assert draws == (random.random(), np.random.rand(), torch.rand(()).item())
    Notebook("y", seed=8)
    assert draws[0] != random.random()
    assert plt.rcParams["axes.titlelocation"] == "left"
    assert kexue_nb.Notebook is Notebook


def test_opening_with_a_bad_scale_or_a_damaged_record(monkeypatch, own_folders):
    (own_folders / "records").mkdir()
    (own_folders / "records" / "x.json").write_text("{")
    with pytest.raises(records.RecordError, match=r"x\.json"):
        Notebook("x")
    monkeypatch.setenv("KEXUE_SCALE", "huge")
    with pytest.raises(ValueError, match="KEXUE_SCALE='huge'"):
        Notebook("x")


@pytest.mark.parametrize("scale", runtime.SCALES)
def test_at_scale(nb, scale):
    nb.scale = scale
    assert nb.at_scale(cpu="cpu", gpu="gpu", full="full") == scale
    with pytest.raises(TypeError, match="full"):
        nb.at_scale(cpu=1, gpu=2)


def enter(nb, kind, id):
    {
        "derivation": lambda: nb.derivation(id, "a step", GOOD, GOOD),
        "claim": lambda: nb.claim(id, "a claim", "refuted", fails=[GOOD]),
        "experiment": lambda: nb.experiment(id, "a run", "partly", holds=[GOOD], fails=[GOOD]),
    }[kind]()


@pytest.mark.parametrize("id", ["D1", "C2", "X3", "E4", "Q1", ""])
@pytest.mark.parametrize(("kind", "letters"), [("derivation", "D"), ("claim", "CX"), ("experiment", "E")])
def test_kinds_of_ids(nb, capsys, kind, letters, id):
    if id and id[0] in letters:
        enter(nb, kind, id)
        (entry,) = nb._ledger.as_dict()["entries"]
        assert (entry["id"], len(entry["evidence"])) == (id, {"derivation": 2, "claim": 1, "experiment": 2}[kind])
        assert capsys.readouterr().out.startswith(f"{id} {entry['verdict']}: a ")
        with pytest.raises(ValueError, match=f"ledger id {id} stands twice in x"):
            enter(nb, kind, id)
    else:
        with pytest.raises(ValueError, match=f"{id}: ids here begin with {' or '.join(letters)}|ledger id ''"):
            enter(nb, kind, id)
        assert not nb._ledger.entries


def test_evidence_stops_the_notebook(nb):
    with pytest.raises(EvidenceError, match="D1 is entered as 'verified', but this check failed"):
        nb.derivation("D1", "a step", GOOD, close("c", 1, 2, rel=0.1))
    with pytest.raises(EvidenceError, match="D1: 'verified' takes holds="):
        nb.derivation("D1", "a step")
    with pytest.raises(EvidenceError, match="needs reason="):
        nb.claim("C1", "an opinion", "not checkable")
    nb.claim("C1", "an opinion", "not checkable", reason="a matter of taste")
    assert list(nb._ledger.entries) == ["C1"]


def test_ledger(nb, capsys, shown, monkeypatch):
    with pytest.raises(ValueError, match="x: the ledger is empty"):
        nb.ledger()
    nb.claim("C1", "a claim", "verified", holds=[GOOD])
    nb.ledger()
    assert [MIME in s for s in shown] == [False, True]
    assert shown[1][MIME] == nb._ledger.as_dict()
    monkeypatch.setattr(module, "_in_jupyter", lambda: False)
    capsys.readouterr()
    nb.ledger()
    assert capsys.readouterr().out == "x at scale cpu: 1 verified\n  C1  verified        a claim\n"


def test_run_compacts_its_result_and_records_nothing(nb, own_folders):
    assert nb.run("E1", experiment) == {"device": "cpu", "loss": [1.23457, 0.2], "n": 2, "3": [None, True]}
    assert nb.run("E1", experiment, steps=torch.tensor(4), rate=0.5)["loss"] == [1.23457, 2.0]
    assert not (own_folders / "records").exists()
    with pytest.raises(LookupError, match="x has no recorded run E1; make one on a GPU with: python -m kexue_nb record x"):
        nb.recorded("E1")


@pytest.mark.parametrize("bad", [object(), 1j, b"x", {1, 2}])
def test_run_takes_and_gives_plain_data(nb, bad):
    with pytest.raises(TypeError, match="a result holds numbers, text, lists and dicts, not "):
        nb.run("E1", lambda device: {"a": bad})
    with pytest.raises(TypeError, match="a result holds numbers, text, lists and dicts, not "):
        nb.run("E1", lambda device, a: {}, a=bad)


def test_run_at_full_scale_is_recorded(full, capsys):
    result = full.run("E1", experiment, steps=3)
    run = records.load("x")["E1"]
    assert full.recorded("E1") == Notebook("x").recorded("E1") == run
    assert (run.config, run.result) == ({"steps": 3}, result)
    assert (run.torch, run.cuda, run.date) == (torch.__version__, torch.version.cuda, records.today())
    assert run.code_sha256 == records.code_sha256(experiment)
    assert run.wall_s >= 0 < run.peak_mem_gb
    assert f"recorded E1 in x.json: {run.provenance}" in capsys.readouterr().out
    full.run("E2", experiment)
    full.run("E1", experiment, steps=5)
    assert {k: r.config for k, r in records.load("x").items()} == {"E1": {"steps": 5}, "E2": {}}


def test_a_run_that_cannot_be_recorded_is_not_called_recorded(full, capsys):
    with pytest.raises(records.RecordError, match=r"runs\.E1\.result\.a"):
        full.run("E1", lambda device: {"a": float("nan")})
    assert "recorded" not in capsys.readouterr().out
    with pytest.raises(LookupError):
        full.recorded("E1")


def test_results(nb, capsys, shown, monkeypatch):
    nb.results("E1", "loss < 1 & so on", ["model", "<loss>"], [["a", 0.5], ["<b>", None]])
    (bundle,) = shown
    doc = {"schema": 1, "slug": "x", "id": "E1", "caption": "loss < 1 & so on"}
    assert bundle[RESULTS_MIME] == doc | {"columns": ["model", "<loss>"], "rows": [["a", "0.5"], ["<b>", "None"]]}
    assert bundle["text/html"] == module.results_html(bundle[RESULTS_MIME])
    assert "<caption>loss &lt; 1 &amp; so on</caption>" in bundle["text/html"]
    assert "<th>&lt;loss&gt;</th>" in bundle["text/html"]
    assert bundle["text/html"].count("<tr>") == 3
    assert "<td>&lt;b&gt;</td>" in bundle["text/html"]
    monkeypatch.setattr(module, "_in_jupyter", lambda: False)
    nb.results("E1", "losses", ["model", "loss"], [["a", 0.5]])
    assert capsys.readouterr().out == "losses\nmodel | loss\na | 0.5\n"


@pytest.mark.parametrize("row", [["a"], ["a", 1, 2], []])
def test_ragged_rows(nb, row):
    with pytest.raises(ValueError, match=re.escape(f"E1: a row of {len(row)} cells under 2 columns: {row!r}")):
        nb.results("E1", "losses", ["model", "loss"], [["a", 1], row])


@pytest.mark.parametrize(("title", "alternative"), [("a < b", "Figure: a < b"), ("", "Figure: figure")])
@pytest.mark.parametrize("where", ["left", "center"])
def test_show(nb, shown, title, alternative, where):
    figure, axes = plt.subplots()
    axes.set_title(title, loc=where)
    nb.show(figure)
    assert shown[0]["text/plain"] == alternative
    assert shown[0]["image/png"].startswith(b"\x89PNG\r\n")
    assert not plt.get_fignums()


def test_show_outside_jupyter_closes_in_silence(nb, capsys):
    nb.show(plt.figure())
    assert capsys.readouterr().out == ""
    assert not plt.get_fignums()
    assert module._in_jupyter() is False
