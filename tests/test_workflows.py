"""The GitHub workflows: bounded in time, least permissions, existing make targets, no secrets."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
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
