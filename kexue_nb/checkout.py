"""The book's checkout: where it is, its posts, its repository address, its notebooks and whether they are up to date."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PAGES = ("ledger", "did-not-hold", "papers", "results", "benchmarks", "notation", "glossary", "posts", "bibliography", "about")


class CheckoutError(RuntimeError):
    """Not inside the book's checkout, or something in it is not as it should be."""


@dataclass(frozen=True)
class Post:
    """One post of the book. ``part``: its folder; ``number``: its archive number on the blog; ``needs``: slugs it builds on."""

    slug: str
    part: str
    title: str
    original: str
    date: str
    number: int
    needs: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where the original stands."""
        return f"https://kexue.fm/archives/{self.number}"

    @property
    def document(self) -> str:
        """Path of the notebook from the checkout's root, without its ending."""
        return f"notebooks/{self.part}/{self.slug}"


@dataclass(frozen=True)
class Checkout:
    """A checkout of the book at ``root``."""

    root: Path

    @classmethod
    def here(cls, start: Path | None = None) -> Checkout:
        """The checkout that contains ``start`` (default: the working directory). Raises CheckoutError where there is none."""
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "book" / "posts.yml").exists() and (folder / "pyproject.toml").exists():
                return cls(folder)
        raise CheckoutError(f"{start} is not inside a checkout of the book; clone it and run this command there")

    @cached_property
    def parts(self) -> dict[str, str]:
        """Part folder -> part name, in reading order."""
        return {part["part"]: part["name"] for part in self._catalogue}

    @cached_property
    def posts(self) -> dict[str, Post]:
        """Slug -> post, in reading order."""
        return {
            p["slug"]: Post(p["slug"], part["part"], p["title"], p["original"], str(p["date"]), p["archive"], tuple(p.get("needs", ())))
            for part in self._catalogue
            for p in part["posts"]
        }

    @cached_property
    def _catalogue(self) -> list:
        import yaml

        return yaml.safe_load((self.root / "book" / "posts.yml").read_text(encoding="utf-8"))

    @cached_property
    def repository(self) -> str:
        """The repository's address, from pyproject.toml."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["urls"]["Repository"].rstrip("/")

    def source(self, slug: str) -> Path:
        """The notebook's .py. Raises CheckoutError for an unknown slug."""
        if slug not in self.posts:
            raise CheckoutError(f"{slug!r} is none of the {len(self.posts)} slugs in book/posts.yml")
        return self.root / f"{self.posts[slug].document}.py"

    def executed(self, slug: str) -> Path:
        """The notebook's .ipynb, executed or to be."""
        return self.source(slug).with_suffix(".ipynb")

    def written(self) -> list[str]:
        """The slugs that have a notebook, in reading order."""
        return [slug for slug in self.posts if self.source(slug).exists()]

    def source_sha256(self, slug: str) -> str:
        """Fingerprint of what a notebook is made of: its .py and its record."""
        record = self.root / "kexue_nb" / "records" / f"{slug}.json"
        digest = hashlib.sha256(self.source(slug).read_bytes())
        if record.exists():
            digest.update(record.read_bytes())
        return digest.hexdigest()

    def stale(self, slug: str) -> bool:
        """Whether the executed notebook is missing, unreadable, or made from another source."""
        try:
            notebook = json.loads(self.executed(slug).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return True
        return notebook["metadata"].get("kexue_nb", {}).get("source_sha256") != self.source_sha256(slug)

    def toc(self) -> str:
        """The text of _toc.yml: every written notebook under its part, then the pages of the book."""
        lines = [
            "# Made by `python -m kexue_nb toc` from book/posts.yml and the notebooks that exist.",
            "format: jb-book",
            "root: book/index",
        ]
        lines += ["parts:"]
        for part, name in self.parts.items():
            slugs = [s for s in self.written() if self.posts[s].part == part]
            if slugs:
                lines += [f"  - caption: {name}", "    chapters:"]
                lines += [f"      - file: {self.posts[s].document}" for s in slugs]
        lines += ["  - caption: The book", "    chapters:"]
        lines += [f"      - file: book/{page}" for page in PAGES]
        return "\n".join(lines) + "\n"

    def address_files(self) -> list[Path]:
        """The files that carry the repository's address."""
        named = [self.root / name for name in ("pyproject.toml", "_config.yml", "README.md", "CITATION.cff")]
        return [f for f in named if f.exists()] + [f for s in self.written() for f in (self.source(s), self.executed(s)) if f.exists()]

    def move_to(self, address: str) -> list[Path]:
        """Carry a new repository address into every file; returns the changed ones. Raises ValueError for a malformed address."""
        pattern = r"https://github\.com/[\w.-]+/[\w.-]+"
        address = address.rstrip("/")
        if not re.fullmatch(pattern, address):
            raise ValueError(f"{address!r} is no repository address; give https://github.com/OWNER/NAME")
        old, new = (a.removeprefix("https://github.com/") for a in (self.repository, address))
        hashes = {slug: self.source_sha256(slug) for slug in self.written()}
        changed = []
        for file in self.address_files():
            text = file.read_text(encoding="utf-8")
            moved = text.replace(f"github.com/{old}", f"github.com/{new}").replace(f"/github/{old}/", f"/github/{new}/")
            if moved != text:
                file.write_text(moved, encoding="utf-8")
                changed.append(file)
        for slug, before in hashes.items():
            if self.executed(slug).exists():
                text = self.executed(slug).read_text(encoding="utf-8")
                self.executed(slug).write_text(text.replace(before, self.source_sha256(slug)), encoding="utf-8")
        return changed
