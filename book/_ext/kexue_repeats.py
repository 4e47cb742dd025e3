"""Sphinx extension: the table of repeated runs on the about page, from book/repeats.json (written by scripts/repeat.py)."""

from __future__ import annotations

import html
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from kexue_nb.checkout import Checkout

COLUMNS = {
    "runs": "runs",
    "broken": "with an error",
    "failed": "failed checks",
    "unlike": "entries that differ",
    "checks": "checks with a number",
    "spread": "that varied",
    "near": "under 3 deviations",
    "least": "least margin, deviations",
}


def table(doc: dict, posts: dict) -> str:
    """Two sentences, then the table by notebook, folded away; ``posts`` by slug."""
    found = {slug: n for slug, n in doc["notebooks"].items() if n["plain"]["runs"] > 1 or n["shifted"]}
    said = " ".join(_sentence(kind, [n[kind] for n in found.values() if n[kind]]) for kind in ("plain", "shifted"))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "seeds", *COLUMNS.values()))
    rows = "".join(_row(posts[slug], kind, n[kind]) for slug, n in found.items() for kind in ("plain", "shifted") if n[kind])
    body = f'<table class="kx-results"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        f"<p>Latest run, {doc['date']}. {said}</p><details><summary>Repeated runs by notebook</summary>"
        f'<div class="kx-scroll" tabindex="0" role="region" aria-label="Repeated runs by notebook">{body}</div></details>'
    )


def _sentence(kind: str, counts: list[dict]) -> str:
    if not counts:
        return ""
    total = {name: sum(c[name] for c in counts) for name in ("runs", "broken", "failed", "unlike", "entries", "checks", "spread", "near")}
    seeds = {"plain": "the book's own seeds", "shifted": "seeds shifted from run to run"}[kind]
    return (
        "With {seeds}: {runs} runs of {notebooks} notebooks, {broken} of them with an error; of {entries:,} entries {unlike} differed "
        "between runs, {failed} checks failed; of {checks:,} checks with a number {spread} varied, {near} with less than three standard "
        "deviations to their limit."
    ).format(seeds=seeds, notebooks=len(counts), **total)


def _row(post, kind: str, counts: dict) -> str:
    seeds = {"plain": "own", "shifted": "shifted"}[kind]
    cells = "".join(f"<td>{'–' if counts[name] is None else counts[name]}</td>" for name in COLUMNS)
    return f'<tr><td><a href="../{post.document}.html">{html.escape(post.title)}</a></td><td>{seeds}</td>{cells}</tr>'


class Repeats(Directive):
    """The latest table of repeated runs."""

    has_content = False

    def run(self):
        env = self.state.document.settings.env
        file = Path(env.srcdir) / "book" / "repeats.json"
        env.note_dependency(str(file))
        if not file.exists():
            return [nodes.paragraph(text="No repeated run is on file yet.")]
        doc = json.loads(file.read_text(encoding="utf-8"))
        return [nodes.raw("", table(doc, Checkout(Path(env.srcdir)).posts), format="html")]


def setup(app):
    """Register the directive."""
    directives.register_directive("kexue-repeats", Repeats)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
