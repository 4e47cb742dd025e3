"""Sphinx extension: what the executed notebooks say, read once a build, and the directives that write pages from it."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive

from kexue_nb.checkout import Checkout
from kexue_nb.ledger import read_ledger
from kexue_nb.notebook import RESULTS_MIME


@dataclass(frozen=True)
class Figure:
    """A figure of a notebook: its PNG and its alternative text."""

    png: bytes
    alt: str

    @property
    def name(self) -> str:
        """File name in the site's folder of images."""
        return f"kx-{sha256(self.png).hexdigest()[:16]}.png"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return struct.unpack(">II", self.png[16:24])


class Book:
    """The executed notebooks, and the hand-written lists in book/ that point into them."""

    def __init__(self, root: Path):
        self.checkout = Checkout(root)
        self.notebooks = {
            slug: json.loads(self.checkout.executed(slug).read_text(encoding="utf-8"))
            for slug in self.checkout.written()
            if self.checkout.executed(slug).exists()
        }
        self.ledgers = {slug: ledger for slug, nb in self.notebooks.items() if (ledger := read_ledger(nb))}
        self.shown: dict[str, Figure] = {}

    def entries(self):
        """(post, entry) for every ledger entry of the book, in reading order."""
        for slug, ledger in self.ledgers.items():
            for entry in ledger["entries"]:
                yield self.checkout.posts[slug], entry

    def entry(self, name: str):
        """(post, entry) of a name like "attention-scale C7". Raises KeyError where there is none."""
        slug, _, id = name.partition(" ")
        for entry in self.ledgers[slug]["entries"]:
            if entry["id"] == id:
                return self.checkout.posts[slug], entry
        raise KeyError(f"{slug} has no entry {id}")

    def results(self, slug: str):
        """The results tables of a notebook, in order."""
        for cell in self.notebooks[slug]["cells"]:
            for output in cell.get("outputs", ()):
                if RESULTS_MIME in output.get("data", {}):
                    yield output["data"][RESULTS_MIME]

    def table(self, slug: str, caption: str) -> dict:
        """The results table whose caption begins so. Raises KeyError where there is not exactly one."""
        return _only(
            f"{slug}: results tables whose caption begins {caption!r}", [t for t in self.results(slug) if t["caption"].startswith(caption)]
        )

    def figure(self, slug: str, alt: str) -> Figure:
        """The figure whose alternative text begins so; its image goes into the site. Raises KeyError where there is not exactly one."""
        found = [
            Figure(b64decode("".join(output["data"]["image/png"])), text)
            for cell in self.notebooks[slug]["cells"]
            if (text := cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")).startswith(alt)
            for output in cell.get("outputs", ())
            if "image/png" in output.get("data", {})
        ]
        figure = _only(f"{slug}: figures whose alternative text begins {alt!r}", found)
        self.shown[figure.name] = figure
        return figure

    def listed(self, file: str) -> list:
        """A hand-written list: a YAML file in book/."""
        return yaml.safe_load((self.checkout.root / "book" / file).read_text(encoding="utf-8"))

    def findings(self, kind: str) -> list[dict]:
        """The ``kind`` of all files in book/findings."""
        files = sorted((self.checkout.root / "book" / "findings").glob("*.yml"))
        return [item for file in files for item in self.listed(f"findings/{file.name}")[kind]]


def _only(what: str, found: list):
    if len(found) != 1:
        raise KeyError(f"{what}: {len(found)}, and there should be one")
    return found[0]


class FromNotebooks(Directive):
    """A directive that writes HTML out of the executed notebooks: ``render(book)``. Other builders leave it out."""

    has_content = False

    def run(self):
        return self.marked([nodes.raw("", self.render(self.book), format="html")])

    @property
    def book(self) -> Book:
        """What the executed notebooks say."""
        return self.state.document.settings.env.app.kexue_book

    def marked(self, found: list) -> list:
        """``found``, for a page that is written anew in every build."""
        env = self.state.document.settings.env
        env.metadata[env.docname]["kexue_from_notebooks"] = True
        return found


def _outdated(app, env, added, changed, removed):
    return [name for name, meta in env.metadata.items() if meta.get("kexue_from_notebooks") and name in env.all_docs]


def _write_images(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_images"
    folder.mkdir(exist_ok=True)
    for name, figure in app.kexue_book.shown.items():
        (folder / name).write_bytes(figure.png)


def setup(app):
    """Read the notebooks."""
    app.kexue_book = Book(Path(app.srcdir))
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _write_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
