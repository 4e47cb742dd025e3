"""The GitHub workflows: bounded in time, least permissions, existing make targets, no secrets."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
versions = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "versions.py")))
WRITES = {("site.yml", "deploy"): {"pages": "write", "id-token": "write"}}


def jobs(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]


def scripts(file):
    return [step["run"] for job in jobs(file).values() for step in job["steps"] if "run" in step]


def test_workflows_are_there():
    assert {f.name for f in FILES} >= {"tests.yml", "site.yml", "colab.yml"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_jobs_are_bounded_and_may_do_little(file):
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    for name, job in jobs(file).items():
        assert 0 < job["timeout-minutes"] <= 180, name
        assert job.get("permissions", {}) == WRITES.get((file.name, name), {}), name
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_no_secret_can_be_printed(file):
    assert not re.search(r"\bsecrets\b|github\.token|GITHUB_TOKEN", file.read_text(encoding="utf-8"))
    for script in scripts(file):
        assert "${{" not in script, "an expression in a script can carry a secret, or a stranger's shell code: pass it as env"
        assert not re.search(r"\b(printenv|set -\w*x)|^\s*env\s*$", script, re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_make_targets_exist(file):
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("there is no Makefile yet")
    targets = set(re.findall(r"^([\w-]+)\s*:(?!=)", makefile.read_text(encoding="utf-8"), re.MULTILINE))
    for script in scripts(file):
        assert set(re.findall(r"\bmake ([\w-]+)", script)) <= targets


def test_the_matrix_of_versions_is_the_scripts_list():
    matrix = jobs(ROOT / ".github" / "workflows" / "tests.yml")["versions"]["strategy"]["matrix"]
    assert matrix == {"include": [{"name": c.name, "python": c.python} for c in versions.COMBINATIONS]}


def test_the_combinations_reach_from_the_lower_bounds_to_the_newest_releases():
    named = {c.name: versions.constraints(c) for c in versions.COMBINATIONS}
    assert len(named) == len(versions.COMBINATIONS)
    bounds = dict(line.split("==") for line in named["oldest"])
    assert {"torch", "numpy", "sympy", "scipy", "scikit-learn", "matplotlib", "mpmath", "numba"} <= set(bounds)
    assert named["newest"] == ()
    assert len(set(named.values())) >= 4
    assert {c.python for c in versions.COMBINATIONS} == {"3.11", "3.12", "3.13", "3.14"}


def test_what_the_combinations_run_is_there():
    for name in versions.LEFT_OUT:
        file, _, test = name.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {test}" in text, name
    assert len(versions.NOTEBOOKS) >= 2
    assert all((ROOT / "notebooks" / f"{n}.py").exists() for n in versions.NOTEBOOKS)


def test_an_unknown_combination_is_refused():
    assert [c.name for c in versions.chosen(["newest"])] == ["newest"]
    assert versions.chosen([]) == list(versions.COMBINATIONS)
    with pytest.raises(ValueError, match="oldst: no such combination; give some of oldest,"):
        versions.chosen(["oldst"])


def test_only_a_python_of_that_very_version_is_taken():
    assert versions.interpreter("{}.{}".format(*versions.sys.version_info)) == versions.sys.executable
    assert versions.interpreter("3.999") is None
