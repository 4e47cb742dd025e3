"""Repeated runs: what a check allows, what differs between ledgers, what is run again, and a tiny notebook with its seeds shifted."""

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from kexue_nb import ledger

ROOT = Path(__file__).parents[1]
repeat = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "repeat.py")))
page = SimpleNamespace(**runpy.run_path(str(ROOT / "book" / "_ext" / "kexue_repeats.py")))

TINY = """# %%
import random

import numpy as np
import torch

import kexue_nb
from kexue_nb import ledger

nb = kexue_nb.notebook("tiny")
drawn = [
    torch.rand(1, generator=torch.Generator().manual_seed(5)).item(),
    np.random.default_rng(5).random(),
    np.random.RandomState(5).rand(),
    random.Random(5).random(),
    torch.rand(1).item(),
    np.random.rand(),
    random.random(),
]

# %%
nb.claim("C1", "Seven draws are below 1.", "verified", holds=[ledger.less("draw", x, 1, digits=12) for x in drawn])
nb.claim("C2", "The first is what seed 5 gives.", "verified", holds=[ledger.close("draw", drawn[0], 0.8302519, abs=1e-6)])

# %%
1 / (drawn[0] < 0.83 or drawn[0] > 0.8304)

# %%
nb.ledger()
"""


def doc(*entries):
    """A ledger of (id, verdict, checks)."""
    kept = ledger.Ledger("tiny", "cpu")
    kept.entries = {id: ledger.Entry(id, "It is so.", verdict, tuple(holds)) for id, verdict, holds in entries}
    return kept.as_dict()


def measured(check):
    return repeat.measure(doc(("C1", "verified", [check]))["entries"][0]["evidence"][0])


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        (ledger.close("x", 2.25, 2, abs=0.5), (0.25, -0.5, 0.5)),
        (ledger.close("x", -2.25, -2, rel=0.25, machine=True), (-0.25, -0.5, 0.5)),
        (ledger.less("x", 0.25, 1), (-0.75, -math.inf, 0)),
        (ledger.less("x", 0.25, 1, margin=0.5), (-0.25, -math.inf, 0)),
        (ledger.more("x", 5e-7, -1, margin=0.25, machine=True), (0.7500005, 0, math.inf)),
        (ledger.increasing("x", [1, 2, 4]), (1, 0, math.inf)),
        (ledger.better("x", [3, 4, 5], [0, 1, 2], sigmas=2, scope="three seeds"), (3 / math.sqrt(2 / 3) - 2, 0, math.inf)),
        (ledger.Check("x", "monte carlo", True, "≈1.5", "≈1.25 ± ≈0.5", "3 standard errors"), (-0.5, -3, 3)),
        (ledger.Check("x", "numeric", True, "2.0", "2.0", "1e-12 relative"), (0, -2e-12, 2e-12)),
    ],
)
def test_what_a_check_allows(check, wanted):
    found = measured(check)
    assert (found.value, found.low, found.high) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    "check",
    [
        ledger.Check("x", "simplify", True, "3", "difference simplifies to 0"),
        ledger.Check("x", "limit", True, "1/2", "1/2"),
        ledger.Check("x", "enumeration", True, "equality in every case", "4 of 4 equal"),
        ledger.Check("x", "argument", True, "a", "b", "strict"),
    ],
)
def test_checks_without_numbers_have_no_margin(check):
    assert measured(check) is None


def test_the_margin_is_to_the_nearest_limit():
    assert repeat.margin([repeat.Measure(v, -4, 10) for v in (1, 2, 3)]) == (1, 6)
    assert repeat.margin([repeat.Measure(v, high=4) for v in (1, 3, 5)]) == (2, 0.5)
    assert repeat.margin([repeat.Measure(v, low=4) for v in (1, 3, 5)]) == (2, -0.5)
    spread, apart = repeat.margin([repeat.Measure(1, high=4)] * 3)
    assert spread == 0
    assert math.isnan(apart)


def test_a_check_without_spread_is_as_far_as_it_passed():
    """Also where the digits that are shown lie on the limit or outside."""
    run = {"verdicts": {"C1": "verified ++-"}, "measures": {f"C1 {n}": [0.001, None, 0.0006] for n in (1, 2, 3)}}
    assert repeat.margins([run, run]) == {"C1 1": (0, math.inf), "C1 2": (0, math.inf), "C1 3": (0, -math.inf)}


def row(run, ledger, errors=(), offset=0):
    return {"run": run, "offset": offset, "seconds": 2.0, "errors": list(errors), "ledger": ledger}


def runs_of(*ledgers):
    return [repeat.summary(row(i, ledger)) for i, ledger in enumerate(ledgers)]


def below(*values):
    return [doc(("C1", "verified", [ledger.less("x", v, 1, machine=True)]), ("C2", "verified", [ledger.less("y", 0, 1)])) for v in values]


def test_entries_that_differ_between_runs():
    same, failed = below(0.5, 0.25), below(0.5, 1.5)
    assert repeat.differing(runs_of(*same)) == {}
    assert repeat.differing(runs_of(*failed)) == {"C1": 1}
    assert repeat.differing(runs_of(*same, None)) == {"C1": 1, "C2": 1}
    other = [doc(("C1", v, [])) for v in ("refuted", "partly", "partly")]
    assert repeat.differing(runs_of(*other)) == {"C1": 2}


def test_numbers_that_differ_without_a_sign_that_they_may():
    assert repeat.reworded(runs_of(*below(0.5, 0.25))) == []
    assert repeat.reworded(runs_of(*(doc(("C1", "verified", [ledger.less("x", v, 1)])) for v in (0.5, 0.25)))) == ["C1"]


def test_a_report_lists_what_is_near_and_what_failed():
    ledgers = below(0.7, 0.8, 0.9)
    lines, well = repeat.report("tiny", runs_of(*ledgers), 0, repeat.checks(ledgers[0]))
    assert well
    assert (
        "3 runs of 2 s, 0 with an error, 0 failed checks, 0 entries differ; 2 checks with a margin, 1 of them spread, 1 under 3" in lines[0]
    )
    assert lines[1] == "  C1 1: margin 2.0, spread 0.1; x: expected < 1, got ≈0.7 (tolerance strict)"
    error = {"cell": 4, "error": "ZeroDivisionError: division by zero"}
    runs = [repeat.summary(row(0, below(0.7)[0])), repeat.summary(row(1, below(1.5)[0], [error]))]
    lines, well = repeat.report("tiny", runs, 1, {})
    assert not well
    assert "1 with an error, 1 failed checks, 1 entries differ" in lines[0]
    assert lines[1:3] == ["  run 1: cell 4: ZeroDivisionError: division by zero", "  C1: not as in run 0 in 1 of 2 runs"]
    assert repeat.summary(row(0, None))["errors"] == ["no ledger"]


def test_what_is_kept_for_the_book_comes_back_whole(tmp_path):
    file = tmp_path / "repeats.json"
    assert repeat.kept(file, "tiny", "new") == {}
    runs = [repeat.summary(row(i, ledger, offset=10 * (i > 2))) for i, ledger in enumerate([*below(0.7, 0.7, 1.5, 0.2), None])]
    repeat.write(file, {"tiny": ("new", runs)})
    repeat.write(file, {"another": ("new", runs[:1])})
    assert list(repeat.kept(file, "tiny", "new").values()) == runs
    assert repeat.kept(file, "tiny", "old") == {}
    assert repeat.kept(file, "no", "new") == {}
    doc = json.loads(file.read_text(encoding="utf-8"))["notebooks"]["tiny"]
    assert doc["runs"][1]["verdicts"] == doc["runs"][1]["measures"] == {}
    assert [doc[kind]["runs"] for kind in ("plain", "shifted")] == [3, 3]
    assert (doc["plain"]["failed"], doc["plain"]["unlike"], doc["plain"]["near"]) == (1, 1, 1)
    assert doc["shifted"]["broken"] == 1


def test_the_page_says_what_came_of_the_runs(tmp_path):
    file = tmp_path / "repeats.json"
    runs = [repeat.summary(row(i, ledger, offset=10 * (i > 1))) for i, ledger in enumerate(below(0.7, 0.7, 0.9, 1.5))]
    repeat.write(file, {"tiny": ("new", runs), "once": ("new", runs[:1])})
    made = page.table(json.loads(file.read_text(encoding="utf-8")), {"tiny": SimpleNamespace(document="p/tiny", title="Tiny & small")})
    assert "own seeds: 2 runs of 1 notebooks, 0 of them with an error; of 2 entries 0 differed between runs, 0 checks failed" in made
    assert "shifted from run to run: 3 runs of 1 notebooks, 0 of them with an error; of 2 entries 1 differed between runs, 1 checks" in made
    assert "of 2 checks with a number 0 varied, 0 with less" in made
    assert "of 2 checks with a number 1 varied, 1 with less" in made
    assert 'href="../p/tiny.html">Tiny &amp; small</a></td><td>own</td><td>2</td>' in made
    assert "once" not in made


@pytest.mark.skipif(not (ROOT / "book" / "repeats.json").exists(), reason="no repeated run is on file yet: scripts/repeat.py --write")
def test_the_tables_in_the_book_are_those_of_its_runs():
    for slug, found in json.loads((ROOT / "book" / "repeats.json").read_text(encoding="utf-8"))["notebooks"].items():
        runs = list(repeat.kept(ROOT / "book" / "repeats.json", slug, found["source"]).values())
        assert repeat.table([run for run in runs if not run["offset"]]) == found["plain"], slug


def test_runs_of_another_source_are_run_again(tmp_path):
    assert repeat.on_file(tmp_path / "none.jsonl", "new") == {}
    rows = [row(r, None, offset=o) | {"source": s} for r, o, s in ((0, 0, "new"), (1, 0, "old"), (1, 10, "new"))]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    known = repeat.on_file(tmp_path / "tiny.jsonl", "new")
    assert [pair for pair in repeat.wanted(3, 0) if pair not in known] == [(1, 0), (2, 0)]
    assert [pair for pair in repeat.wanted(3, 10) if pair not in known] == [(2, 20)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    source = tmp_path_factory.mktemp("tiny") / "tiny.py"
    source.write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEXUE_SCALE", "cpu")
        patch.setenv("PYTHONPATH", str(ROOT))
        return [repeat.run(source, offset) for offset in (0, 0, 10)]


def draws(run):
    return [check["measured"] for name, check in repeat.checks(run["ledger"]).items() if name.startswith("C1 ")]


def test_plain_runs_agree(runs):
    assert draws(runs[0]) == draws(runs[1])
    assert repeat.differing([repeat.summary(row(0, run["ledger"])) for run in runs[:2]]) == {}


def test_every_kind_of_seed_is_shifted(runs):
    assert len(draws(runs[0])) == 7
    assert [a for a, b in zip(draws(runs[0]), draws(runs[2]), strict=True) if a == b] == []


def test_a_failed_check_and_a_failed_cell_are_kept_and_stop_nothing(runs):
    verdicts = [repeat.summary(row(0, run["ledger"]))["verdicts"]["C2"] for run in runs]
    assert (verdicts[0], verdicts[2]) == ("verified +", "verified -")
    assert [(e["cell"], e["error"]) for e in runs[0]["errors"]] == [(2, "ZeroDivisionError: division by zero")]
    assert runs[2]["errors"] == []
