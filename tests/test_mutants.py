"""Planted errors: each operator plants what it says, the harness catches what a check can see, and a run goes on where it stopped."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kexue_nb.checkout import Checkout
from mutants import __main__ as command
from mutants import cells, notebooks, package
from mutants.sites import diff, sample, sites

ROOT = Checkout.here(Path(__file__).parent).root

TINY = """# %%
import kexue_nb
from kexue_nb import ledger

# %%
nb = kexue_nb.notebook("tiny")


# %%
def cube(x):
    return x**3


def unchecked(x):
    return x + 7


def unreached(x):
    return x - 7


# %%
volumes = [cube(x) for x in (1, 2, 3)]
elsewhere = unchecked(1)
print("a number that nobody compares: ≈" + str(elsewhere))


# %%
def endless(n):
    while n > 0:
        n = n - 1
    return n


# %%
nb.derivation("D1", "The cube of 3 is 27.", ledger.close("cube", volumes[2], 27, abs=1e-9))

# %%
print("down to", endless(5))
"""


def planted(source, operator):
    return {diff(source, s)[1] for s in sites(source, "unit") if s.operator == operator}


@pytest.mark.parametrize(
    ("operator", "source", "wanted"),
    [
        ("sign", "y = f(a) + b", "y = f(a) - b"),
        ("sign", "y = (a\n  - b)", "+ b)"),
        ("sign", "y = -x", "y = x"),
        ("factor", "y = (a + b) * (c)", "y = (a + b) / (c)"),
        ("exponent", "y = x**2", "y = x**3"),
        ("exponent", "y = x.rsqrt()", "y = x.sqrt()"),
        ("constant", "y = 3 * x", "y = 4 * x"),
        ("constant", "y = sp.Rational(1, 2)", "y = sp.Rational(2, 2)"),
        ("drop", "y = α * b + c", "y = (α * b)"),
        ("swap", "def f(a, b): ...\ny = f(u, v)", "y = f(v, u)"),
        ("swap", "y = a @ b", "y = b @ a"),
        ("swap", "y = np.where(c, a, b)", "y = np.where(c, b, a)"),
        ("range", "y = [g(i) for i in range(1, n)]", "y = [g(i) for i in range(1, n - 1)]"),
        ("index", "y = x[:-1]", "y = x[:-2]"),
        ("index", "y = x[0]", "y = x[1]"),
        ("axis", "y = x.sum(-1)", "y = x.sum(-2)"),
        ("axis", "y = torch.softmax(x, dim=1)", "y = torch.softmax(x, dim=0)"),
        ("transpose", "y = x.mT @ x", "y = x @ x"),
        ("transpose", "y = x.transpose(1, 2)", "y = x"),
        ("minmax", "y = max(a, b)", "y = min(a, b)"),
        ("minmax", "y = x.clamp_min(0)", "y = x.clamp_max(0)"),
        ("log", "y = torch.log(x)", "y = torch.log2(x)"),
        ("gradient", "y = x.detach() + 1", "y = x + 1"),
        ("gradient", "with torch.no_grad():\n    y = x", "with torch.enable_grad():"),
    ],
)
def test_an_operator_plants_its_error(operator, source, wanted):
    assert wanted in planted(source, operator)
    for site in sites(source, "unit"):
        compile(site.plant(source), "mutant", "exec")


@pytest.mark.parametrize(
    "source",
    [
        "nb.derivation('D1', 'text', sym.identity('what', x + 1, y - 2))",
        "checks = [ledger.close('what', a + b, 3, rel=2 * t)]",
        "sizes = [1, 2, 3]",
        "g = torch.Generator().manual_seed(3 + 4)",
        "axes.plot(x, 2 * x)",
        "def draw(axes, x):\n    axes.plot(x, 2 * x)",
        "print(f'{a + b}')",
        "assert a + 1 == b",
        "text = 'a' + b",
        "if device.type == 'cuda':\n    y = a + b",
        "e1 = nb.run('E1', f, n=2 * m)",
        "e1 = nb.at_scale(cpu=a + b, gpu=1, full=2)",
    ],
)
def test_checks_figures_text_and_configuration_are_left_alone(source):
    assert sites(source, "unit") == []


def test_a_sample_is_of_its_seed_and_of_every_operator():
    source = "\n".join(f"def f{i}(a, b): return a[{i}] + b ** {i} - a @ b * max(a, b)" for i in range(20))
    places = [package.Place(s) for s in sites(source, "unit")]
    first, again, other = ([p.site.id for p, _ in zip(sample(places, seed), range(12), strict=False)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 12
    drawn = {p.site.id: p.site for p in places}
    assert {drawn[id].operator for id in first} == {s.operator for s in drawn.values()}


def test_an_edit_elsewhere_keeps_the_ids():
    source = "def f(x):\n    return x + 1\n"
    assert {s.id for s in sites(source, "unit")} <= {s.id for s in sites("z = 1 / w\n\n" + source, "unit")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("tiny") / "tiny.py"
    file.write_text(TINY, encoding="utf-8")
    return cells.read(file)


@pytest.fixture(scope="module")
def outcomes(tiny):
    """Every error of the tiny notebook, by the changed line."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEXUE_SCALE", "cpu")
        patch.setattr(notebooks, "SLACK_S", 2.0)
        places = notebooks.places(tiny, "tiny")
        read, write = os.pipe()

        def report(place, outcome):
            os.write(write, (json.dumps(notebooks.row("tiny", place, outcome)) + "\n").encode())

        notebooks.run(tiny, places, report, control=True)
        os.close(write)
        with open(read, encoding="utf-8") as lines:
            found = {row["after"]: row for row in map(json.loads, lines)}
    return found


def test_a_check_catches(outcomes):
    assert outcomes["return x**4"]["outcome"] == "caught"
    assert outcomes["return x**4"]["kind"] == "check"
    assert outcomes["return x**4"]["line"] == 11


def test_a_changed_output_is_caught_unless_it_is_approximate(outcomes):
    assert outcomes["n = n"]["outcome"] == "caught"
    assert outcomes["return x - 7"]["outcome"] == "missed"


def test_an_endless_loop_is_caught(outcomes):
    assert outcomes["n = n + 1"]["kind"] == "timeout"


def test_what_never_runs_is_missed(outcomes):
    assert outcomes["return x + 7"]["by"] == "the notebook never runs it"


def test_only_what_depends_on_the_error_runs(tiny):
    assert cells.noticing(tiny, 2) == [3, 5]
    assert cells.needed(tiny, 2, [5]) == [3, 5]
    assert cells.needed(tiny, 4, [6]) == [6]


def test_a_run_goes_on_where_it_stopped(tiny, tmp_path):
    places = notebooks.selected(tiny, "tiny", 1, 4)
    rows = [
        {"id": places[0].site.id, "outcome": "caught", "source": "new"},
        {"id": places[1].site.id, "outcome": "caught", "source": "old"},
    ]
    rows += [{"id": places[2].site.id, "outcome": "missed", "source": "old"}]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    known = command.results(tmp_path, "tiny")
    assert command.pending(places, known, "new", keep=False) == places[1:]
    assert command.pending(places, known, "new", keep=True) == places[2:]


def test_the_module_harness_catches_and_misses(tmp_path):
    (tmp_path / "kexue_nb").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "kexue_nb" / "__init__.py").write_text("")
    (tmp_path / "kexue_nb" / "tiny.py").write_text("def double(x):\n    return 2 * x\n\n\ndef unchecked(x):\n    return x - 1\n")
    (tmp_path / "tests" / "test_tiny.py").write_text("from kexue_nb import tiny\n\n\ndef test_double():\n    assert tiny.double(3) == 6\n")
    code = (
        "import json; from pathlib import Path; from mutants import package\n"
        "package.HEAVY = ()\nroot = Path('.')\n"
        "package.run(root.resolve(), 'tiny', package.places(root, 'tiny'), lambda p, o: print(json.dumps([p.site.new, o])))\n"
    )
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {o["outcome"] for new, o in found if new in ("/", "3")} == {"caught"}
    assert {o["outcome"] for new, o in found if new == "+"} == {"missed"}
    assert any("test_double" in o["by"] for _, o in found)


def test_equivalents_name_errors_that_can_still_be_planted():
    for id, entry in command.equivalents(ROOT).items():
        assert len(entry["reason"].split()) >= 4, id
        unit = entry["unit"]
        if unit.startswith(command.PACKAGE):
            places = package.places(ROOT, unit.removeprefix(command.PACKAGE))
        else:
            places = notebooks.places(cells.read(Checkout(ROOT).source(unit)), unit)
        assert id in {p.site.id for p in places}, f"{unit} {id}: the line has changed; look at the error again"


def test_the_table_adds_up(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "chosen", lambda root, unit, seed, count: notebooks_places[:3])
    monkeypatch.setattr(command, "fingerprint", lambda root, unit: "s")
    monkeypatch.setattr(command, "equivalents", lambda root: {notebooks_places[1].site.id: {}})
    notebooks_places = [package.Place(s) for s in sites("y = a + b - c", "tiny")]
    rows = [
        {"id": p.site.id, "outcome": o, "source": "s", "unit": "tiny"} for p, o in zip(notebooks_places, ("caught", "missed"), strict=False)
    ]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    doc = command.table(ROOT, tmp_path, ["tiny"], argparse.Namespace(seed=1, notebooks=3, modules=3, keep=False))
    assert doc["counts"]["tiny"] == {"planted": 2, "caught": 1, "missed": 0, "equivalent": 1, "pending": 1}
    assert command.score(doc["counts"]["tiny"]) == 1


@pytest.mark.skipif(not (ROOT / "book" / "mutants.json").exists(), reason="no full run is on file yet: make mutants")
def test_the_committed_table_covers_every_notebook_and_module():
    doc = json.loads((ROOT / "book" / "mutants.json").read_text(encoding="utf-8"))
    assert set(Checkout(ROOT).written()) <= set(doc["counts"])
    assert {command.PACKAGE + m for m in package.modules(ROOT)} <= set(doc["counts"])
    planted = sum(c["planted"] for c in doc["counts"].values())
    assert planted >= 400
    assert all(c["planted"] == c["caught"] + c["missed"] + c["equivalent"] for c in doc["counts"].values())
