"""The book's own timing: what a command took, in which order the builds come, and what is refused. With a make that does nothing."""

import subprocess

import pytest

from benchmarks import book
from kexue_nb.checkout import Checkout

NOTEBOOK = "# %% [markdown]\n# # Title\n\n# %%\n1\n\n# %% [markdown]\n# The end.\n"


def test_a_command_is_timed_with_what_it_starts(tmp_path):
    held = bytearray(b"x") * 300_000_000  # not the command's
    took = book.timed(["sh", "-c", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'; sleep 0.2"], tmp_path)
    assert took["seconds"] >= 0.2
    assert took["user"] > 0.01
    assert 0 < took["peak_gb"] < len(held) / 1e9


def test_a_failing_command_says_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="no rule"):
        book.timed(["sh", "-c", "echo no rule; exit 2"], tmp_path)


def test_the_word_is_added_to_text_only(tmp_path):
    source = tmp_path / "n.py"
    source.write_text(NOTEBOOK)
    book.add_word(source)
    assert source.read_text() == NOTEBOOK[:-1] + " Indeed.\n"
    source.write_text(NOTEBOOK + "\n# %%\n2\n")
    with pytest.raises(ValueError, match="no text"):
        book.add_word(source)


def test_each_round_has_a_clone_of_its_own(tmp_path, monkeypatch):
    checkout, calls = Checkout.here(), []

    def cloned(_, target):
        (target / checkout.source(book.CHANGED).relative_to(checkout.root)).parent.mkdir(parents=True)
        (target / "book").mkdir()
        (target / "book" / "posts.yml").write_text((checkout.root / "book" / "posts.yml").read_text(encoding="utf-8"), encoding="utf-8")
        found = Checkout(target)
        found.source(book.CHANGED).write_text(NOTEBOOK)
        return found

    def make(command, folder):
        calls.append((command[1], folder, "Indeed" in Checkout(folder).source(book.CHANGED).read_text()))
        return {"seconds": float(len(calls)), "user": 1.0, "system": 0.5, "peak_gb": 0.1}

    monkeypatch.setattr(book, "clone", cloned)
    steps = book.measure(checkout, 2, make) | book.measure_tests(checkout, make)
    assert [(what, changed) for what, _, changed in calls] == [("book", False), ("book", False), ("book", True)] * 2 + [("test", False)]
    assert len({folder for _, folder, _ in calls}) == 3
    assert steps[book.COLD] | {"user": 0} == {"seconds": 2.5, "low": 1, "high": 4, "rounds": 2, "user": 0, "system": 0.5, "peak_gb": 0.1}
    assert steps[book.TEST]["rounds"] == 1


def test_a_clone_holds_what_is_committed_and_refuses_stale_notebooks(tmp_path):
    root = tmp_path / "here"
    (root / "book").mkdir(parents=True)
    (root / ".venv").mkdir()
    (root / "book" / "posts.yml").write_text(
        "- {part: p, name: P, posts: [{slug: s, title: S, original: S, date: 2020-01-01, archive: 1}]}\n"
    )

    def commit():
        subprocess.run(["git", "-C", root, "add", "."], check=True)
        who = ["-c", "user.name=n", "-c", "user.email=e@x.org"]
        subprocess.run(["git", "-C", root, *who, "commit", "-qm", "m"], check=True)

    subprocess.run(["git", "init", "-q", root], check=True)
    commit()
    (root / "uncommitted").touch()
    made = book.clone(Checkout(root), tmp_path / "there")
    assert made.posts
    assert not (made.root / "uncommitted").exists()
    assert (made.root / ".venv").resolve() == (root / ".venv").resolve()
    (root / "notebooks" / "p").mkdir(parents=True)
    (root / "notebooks" / "p" / "s.py").write_text(NOTEBOOK)
    commit()
    with pytest.raises(RuntimeError, match="execute and commit"):
        book.clone(Checkout(root), tmp_path / "again")
