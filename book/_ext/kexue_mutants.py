"""Sphinx extension: the table of planted errors on the about page, from book/mutants.json (written by `make mutants`)."""

from __future__ import annotations

import html
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from kexue_nb.checkout import Checkout

COLUMNS = ("planted", "caught", "missed", "equivalent")


def table(doc: dict, posts: dict) -> str:
    """The counts of ``mutants.json`` as HTML: a sentence, then a table that is folded away; ``posts`` by slug."""
    counts = doc["counts"]
    notebooks = {unit: c for unit, c in counts.items() if unit in posts}
    modules = {unit: c for unit, c in counts.items() if unit not in posts}
    total, books, package = (_sum(part) for part in (counts, notebooks, modules))
    summary = (
        f"<p>Latest run, {doc['date']}, seed {doc['seed']}: "
        f"{total['planted']} errors planted, {total['equivalent']} of them equivalent; of the "
        f"others {_score(total)} caught ({_score(books)} in {len(notebooks)} notebooks, {_score(package)} in {len(modules)} modules).</p>"
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *COLUMNS, "score"))
    links = {unit: f'<a href="../{posts[unit].document}.html">{html.escape(posts[unit].title)}</a>' for unit in notebooks}
    rows = "".join(_row(links.get(unit, f"<code>{html.escape(unit)}</code>"), c) for unit, c in (notebooks | modules).items())
    body = f'<table class="kx-results"><thead><tr>{head}</tr></thead><tbody>{_row("all", total)}{rows}</tbody></table>'
    return (
        f"{summary}<details><summary>By notebook and module</summary>"
        f'<div class="kx-scroll" tabindex="0" role="region" aria-label="Planted errors by notebook and module">{body}</div></details>'
    )


def _sum(counts: dict) -> dict:
    return {name: sum(c[name] for c in counts.values()) for name in COLUMNS}


def _score(c: dict) -> str:
    return f"{c['caught'] / max(1, c['caught'] + c['missed']):.1%}"


def _row(name: str, c: dict) -> str:
    return f"<tr><td>{name}</td>{''.join(f'<td>{c[k]}</td>' for k in COLUMNS)}<td>{_score(c)}</td></tr>"


class Mutants(Directive):
    """The latest table of planted errors."""

    has_content = False

    def run(self):
        env = self.state.document.settings.env
        file = Path(env.srcdir) / "book" / "mutants.json"
        env.note_dependency(str(file))
        if not file.exists():
            return [nodes.paragraph(text="No full run is on file yet.")]
        doc = json.loads(file.read_text(encoding="utf-8"))
        return [nodes.raw("", table(doc, Checkout(Path(env.srcdir)).posts), format="html")]


def setup(app):
    """Register the directive."""
    directives.register_directive("kexue-mutants", Mutants)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
