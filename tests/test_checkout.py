"""The table of contents, the one repository address, ruff, and the paths that must not leak."""

import graphlib
import json
import re
import subprocess
import sys

import pytest

from kexue_nb.checkout import Checkout, CheckoutError

CHECKOUT = Checkout.here()


def test_the_catalogue_has_the_37_posts():
    assert len(CHECKOUT.posts) == 37
    assert len(CHECKOUT.parts) == 7
    for post in CHECKOUT.posts.values():
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", post.date)
        assert post.title
        assert re.search(r"[一-鿿]", post.original)


def test_no_notebook_builds_on_itself():
    graph = {slug: set(post.needs) for slug, post in CHECKOUT.posts.items()}
    assert set().union(*graph.values()) <= set(graph)
    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_table_of_contents_lists_what_exists():
    assert (CHECKOUT.root / "_toc.yml").read_text(encoding="utf-8") == CHECKOUT.toc()
    on_disk = {p.stem for p in (CHECKOUT.root / "notebooks").rglob("*.py")}
    assert on_disk == set(CHECKOUT.written())


def test_one_repository_address_everywhere():
    where = CHECKOUT.repository.removeprefix("https://github.com/")
    config = (CHECKOUT.root / "_config.yml").read_text(encoding="utf-8")
    assert f"url: {CHECKOUT.repository}\n" in config
    for slug in CHECKOUT.written():
        document = CHECKOUT.posts[slug].document
        for file in (CHECKOUT.source(slug), CHECKOUT.executed(slug)):
            text = file.read_text(encoding="utf-8")
            assert f"https://colab.research.google.com/github/{where}/blob/main/{document}.ipynb" in text
            assert f"git+{CHECKOUT.repository}" in text
            assert set(re.findall(r"git\+(https://github\.com/[\w.-]+/[\w.-]+)", text)) == {CHECKOUT.repository}


def test_moving_the_address_changes_every_copy(tmp_path):
    subprocess.run(["git", "clone", "-q", str(CHECKOUT.root), str(tmp_path / "copy")], check=True)
    copy = Checkout(tmp_path / "copy")
    stale = [s for s in copy.written() if copy.stale(s)]
    copy.move_to("https://github.com/someone/elsewhere/")
    moved = Checkout(copy.root)
    assert moved.repository == "https://github.com/someone/elsewhere"
    old = CHECKOUT.repository.removeprefix("https://")
    for file in moved.address_files():
        assert old not in file.read_text(encoding="utf-8")
    assert [s for s in moved.written() if moved.stale(s)] == stale
    with pytest.raises(ValueError, match="no repository address"):
        moved.move_to("gitlab.com/x")


def test_outside_a_checkout(tmp_path):
    with pytest.raises(CheckoutError, match="not inside a checkout"):
        Checkout.here(tmp_path)
    with pytest.raises(CheckoutError, match="none of the 37 slugs"):
        CHECKOUT.source("no-such-post")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=CHECKOUT.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_lower_modules_never_import_higher_ones():
    floors = dict.fromkeys(("ledger", "symbolic", "records", "runtime", "plotting", "checkout"), 0)
    floors |= dict.fromkeys(("nn", "positions", "unet", "optim", "scan", "data", "numbers", "bpe", "bytepiece", "extrapolation"), 1)
    floors |= dict.fromkeys(("latent", "linear_attention", "lora", "minilm", "multimodal", "muon", "mup", "norms", "ranks"), 1)
    floors |= dict.fromkeys(("similarity", "simplex", "vq"), 1)
    floors |= dict.fromkeys(("train", "distributed", "sweep", "diffusion", "metrics", "peers"), 2)
    floors |= dict.fromkeys(("notebook", "execute", "template", "pdf"), 3) | {"__main__": 4, "__init__": 4}
    for file in (CHECKOUT.root / "kexue_nb").glob("*.py"):
        for imported in re.findall(r"^\s*from kexue_nb\.(\w+) import", file.read_text(encoding="utf-8"), re.M):
            assert floors[imported] <= floors[file.stem], f"{file.stem} imports {imported}"


def test_executed_notebooks_name_no_path_of_the_machine_that_made_them():
    for slug in CHECKOUT.written():
        for cell in json.loads(CHECKOUT.executed(slug).read_text(encoding="utf-8"))["cells"]:
            text = json.dumps([o for o in cell.get("outputs", ()) if "image/png" not in o.get("data", {})])
            assert not re.search(r"/(home|root|work|tmp|Users)/", text), text[:200]
