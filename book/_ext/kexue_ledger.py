"""Sphinx extension: the ledger of all entries, what did not hold, the papers' numbers beside ours, the recorded runs."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from kexue_book import Book, Figure, FromNotebooks
from pybtex.database import parse_file

from kexue_nb import records
from kexue_nb.ledger import KINDS, VERDICTS
from kexue_nb.notebook import results_html

FIELDS = ("slug", "id", "verdict", "statement", "method", "expected", "measured", "tolerance", "scope", "url")


class LedgerTable(FromNotebooks):
    """All entries, with the controls that filter them and the whole as CSV and JSON."""

    def render(self, book: Book) -> str:
        def choices(name: str, label: str, values) -> str:
            options = "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in values)
            return f'<label>{label} <select id="kx-{name}"><option value="">all</option>{options}</select></label>'

        controls = (
            '<p>The whole ledger, every field in full: <a href="ledger.csv" download>CSV</a>, <a href="ledger.json" download>JSON</a>.</p>'
            '<form class="kx-controls" role="search" aria-label="Filter the ledger">'
            + choices("post", "post", [(slug, book.checkout.posts[slug].title) for slug in book.ledgers])
            + choices("kind", "kind", [(name, name) for name in KINDS.values()])
            + choices("verdict", "verdict", [(v, v) for v in VERDICTS])
            + '<label>words <input id="kx-words" type="search" placeholder="anywhere in an entry"></label>'
            '<output id="kx-count" aria-live="polite"></output></form>'
        )
        rows = "".join(self.row(post, entry) for post, entry in book.entries())
        head = "".join(
            f'<th scope="col">{h}</th>' for h in ("id", "verdict", "statement", "method", "expected", "measured", "tolerance", "scope")
        )
        table = f'<table class="kx-ledger" id="kx-ledger"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        return controls + _scrolled("All ledger entries", table)

    @staticmethod
    def row(post, e: dict) -> str:
        short = "".join(f"<td>{html.escape(_shorten(e[k]))}</td>" for k in ("method", "expected", "measured", "tolerance", "scope"))
        return (
            f'<tr data-post="{post.slug}" data-kind="{KINDS[e["id"][0]]}" data-verdict="{e["verdict"]}">'
            f'<td><a href="../{post.document}.html{e["where"]}" title="{html.escape(post.title)}">{post.slug} {e["id"]}</a></td>'
            f"<td>{verdict(e['verdict'])}</td><td>{html.escape(e['statement'])}</td>{short}</tr>"
        )


class VerdictCounts(FromNotebooks):
    """How many entries have which verdict; each leads to those entries."""

    def render(self, book: Book) -> str:
        verdicts = [e["verdict"] for _, e in book.entries()]
        items = "".join(
            f'<li>{verdict(v)} <a href="ledger.html?verdict={v.replace(" ", "%20")}">{verdicts.count(v)}</a></li>'
            for v in VERDICTS
            if v in verdicts
        )
        posts = f"{len(book.ledgers)} of {len(book.checkout.posts)} posts"
        return f'<p>{posts}, {len(verdicts):,} entries:</p><ul class="kx-counts">{items}</ul>'


class DidNotHold(FromNotebooks):
    """Every refuted or not reproduced entry, in two sentences and a figure."""

    def render(self, book: Book) -> str:
        found = {item["entry"]: item for item in book.findings("did_not_hold")}
        wanted = [f"{post.slug} {e['id']}" for post, e in book.entries() if e["verdict"] in ("refuted", "not reproduced")]
        if set(wanted) != set(found):
            raise ValueError(
                f"book/findings: without their two sentences {set(wanted) - set(found)}, no longer so {set(found) - set(wanted)}"
            )
        blocks, last = [], None
        for name in wanted:
            post, e = book.entry(name)
            if post.slug != last:
                blocks.append(
                    f'<h2 class="kx-heading" id="{post.slug}"><a href="../{post.document}.html">{html.escape(post.title)}</a></h2>'
                )
                last = post.slug
            item = found[name]
            figure = image(book.figure(post.slug, item["figure"]))
            link = f'<a href="../{post.document}.html{e["where"]}">{e["id"]}</a>'
            blocks.append(f'<div class="kx-finding"><p>{verdict(e["verdict"])} · {link} · {html.escape(item["text"])}</p>{figure}</div>')
        return "".join(blocks)


class Papers(FromNotebooks):
    """For every paper whose numbers a notebook sets beside ours: its headline rows, the scales, and why they differ."""

    def run(self):
        book = self.book
        bibliography = parse_file(book.checkout.root / "book" / "references.bib").entries
        order = list(book.notebooks)
        found, last = [], None
        for item in sorted(book.findings("papers"), key=lambda item: order.index(item["notebook"])):
            if item["paper"] != last:
                last = item["paper"]
                title = html.escape(bibliography[last].fields["title"].translate(str.maketrans("", "", "{}")))
                cited, problems = self.state.inline_text(f"{{cite:t}}`{last}`", self.lineno)
                found += [
                    nodes.raw("", f'<h2 class="kx-heading" id="{last}">{title}</h2>', format="html"),
                    nodes.paragraph("", "", *cited),
                    *problems,
                ]
            found.append(nodes.raw("", self.compared(book, item), format="html"))
        return self.marked(found)

    @staticmethod
    def compared(book: Book, item: dict) -> str:
        post = book.checkout.posts[item["notebook"]]
        table = book.table(post.slug, item["table"])
        chosen = table | {"rows": [table["rows"][i] for i in item["rows"]]}
        return (
            f"{_scrolled(table['caption'], results_html(chosen))}<p>{html.escape(item['scale'])}. {html.escape(item['why'])} "
            f'(<a href="../{post.document}.html">{html.escape(post.title)}</a>)</p>'
        )


class ResultTables(FromNotebooks):
    """One table for each recorded run, with its provenance, as the notebooks show them."""

    def render(self, book: Book) -> str:
        blocks = []
        for slug in book.notebooks:
            post = book.checkout.posts[slug]
            tables = "".join(_scrolled(t["caption"], results_html(t)) for t in book.results(slug))
            runs = "".join(
                f"<tr><td>{id}</td><td>{html.escape(r.device)}</td><td>{r.date}</td><td>{r.wall_s:.0f}</td><td>{r.peak_mem_gb:.1f}</td><td>{html.escape(r.torch)}</td></tr>"
                for id, r in records.load(slug).items()
            )
            head = "".join(f"<th>{h}</th>" for h in ("run", "device", "date", "seconds", "peak GB", "torch"))
            listed = (
                f'<table class="kx-results"><caption>Recorded runs</caption><thead><tr>{head}</tr></thead><tbody>{runs}</tbody></table>'
            )
            provenance = _scrolled(f"Recorded runs of {slug}", listed) if runs else ""
            blocks.append(f'<h2><a href="../{post.document}.html">{html.escape(post.title)}</a></h2>{provenance}{tables}')
        return "".join(blocks)


def verdict(name: str) -> str:
    """A verdict in its colour."""
    return f'<span class="kx-verdict" data-verdict="{name}">{name}</span>'


def image(figure: Figure) -> str:
    """A figure of a notebook, fetched when the reader comes near it."""
    width, height = figure.size
    alt = html.escape(figure.alt)
    return f'<img class="kx-figure" loading="lazy" src="../_images/{figure.name}" width="{width}" height="{height}" alt="{alt}">'


def _scrolled(label: str, table: str) -> str:
    return f'<div class="kx-scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">{table}</div>'


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _write_downloads(app, exception) -> None:
    """The ledger as CSV (with a byte order mark, for spreadsheets) and JSON, beside its page."""
    if exception or app.builder.format != "html":
        return
    book = app.kexue_book
    rows = [
        {"slug": post.slug} | {k: e[k] for k in FIELDS[1:-1]} | {"url": f"{post.document}.html{e['where']}"} for post, e in book.entries()
    ]
    folder = Path(app.outdir) / "book"
    with (folder / "ledger.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    whole = {"schema": 1, "ledgers": list(book.ledgers.values())}
    (folder / "ledger.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")


def setup(app):
    """Register the directives and the downloads."""
    directives.register_directive("kexue-ledger", LedgerTable)
    directives.register_directive("kexue-counts", VerdictCounts)
    directives.register_directive("kexue-did-not-hold", DidNotHold)
    directives.register_directive("kexue-papers", Papers)
    directives.register_directive("kexue-results", ResultTables)
    app.connect("build-finished", _write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
