"""What every notebook of the book owes its reader; nbval re-executes them besides."""

import json

import pytest

from kexue_nb import execute, records
from kexue_nb.checkout import Checkout
from kexue_nb.ledger import VERDICTS, read_ledger

CHECKOUT = Checkout.here()
SLUGS = CHECKOUT.written()


@pytest.fixture(scope="module", params=SLUGS)
def slug(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(slug):
    return json.loads(CHECKOUT.executed(slug).read_text(encoding="utf-8"))


def code(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def tags(cell):
    return set(cell["metadata"].get("tags", ()))


def test_the_pair_says_the_same(slug, notebook):
    source = execute.read_source(CHECKOUT.source(slug))
    assert [c.source for c in source.cells] == ["".join(c["source"]) for c in notebook["cells"]]
    assert [dict(c.metadata) for c in source.cells] == [c["metadata"] for c in notebook["cells"]]
    assert not CHECKOUT.stale(slug), f"python -m kexue_nb execute {slug}"


def test_every_cell_ran_in_order_without_errors_or_warnings(notebook):
    assert [c["execution_count"] for c in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [o for c in code(notebook) for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error"] == []
    assert ["".join(o["text"]) for o in outputs if o.get("name") == "stderr"] == []


def test_it_ends_in_a_ledger_with_unique_ids(slug, notebook):
    ledger = read_ledger({"cells": [code(notebook)[-1]]})
    assert ledger is not None, "the last code cell shows no ledger"
    assert (ledger["schema"], ledger["slug"], ledger["scale"]) == (1, slug, "cpu")
    ids = [e["id"] for e in ledger["entries"]]
    assert len(ids) == len(set(ids))
    for entry in ledger["entries"]:
        assert entry["verdict"] in VERDICTS
        assert entry["statement"]
        assert entry["method"]
        assert entry["evidence"] or entry["verdict"] == "not checkable"
        assert all(check["passed"] for check in entry["evidence"])


def test_every_entry_has_its_anchor_in_the_page(notebook):
    shown = "".join("".join(o.get("data", {}).get("text/html", "")) for c in code(notebook) for o in c["outputs"])
    for entry in read_ledger(notebook)["entries"]:
        assert f'id="{entry["where"].removeprefix("#")}"' in shown


def test_few_cells_are_exempt_from_comparison(notebook):
    exempt = [c for c in code(notebook) if tags(c) & {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception"}]
    assert len(exempt) * 3 <= len(code(notebook))


def test_it_keeps_its_budget(notebook):
    seconds, gigabytes = execute.budget(notebook["metadata"]["kexue_nb"])
    assert seconds <= execute.BUDGET_S
    assert 0 < gigabytes <= execute.BUDGET_GB


def test_it_is_small(slug):
    assert CHECKOUT.executed(slug).stat().st_size <= 1.5e6


def test_cells_are_short(notebook):
    hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
    long = [
        "".join(c["source"]).splitlines()[0] for c in code(notebook) if len("".join(c["source"]).splitlines()) > 25 and not tags(c) & hidden
    ]
    assert long == []


def test_every_figure_has_alternative_text(notebook):
    for cell in code(notebook):
        if any("image/png" in o.get("data", {}) for o in cell["outputs"]):
            assert len(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")) >= 40, "".join(cell["source"])[:80]


def test_its_records_load_and_are_of_this_code(slug, notebook):
    assert all(run.result for run in records.load(slug).values())
    assert "was recorded by other code" not in json.dumps(notebook["cells"])
