"""Sphinx extension: the front page's findings and map, and the bar under every notebook's title."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from kexue_book import Book, FromNotebooks
from kexue_ledger import image, verdict

from kexue_nb.ledger import VERDICTS


class Highlights(FromNotebooks):
    """The strongest findings, each with its figure and the entry that decides it (book/highlights.yml)."""

    def render(self, book: Book) -> str:
        blocks = []
        for item in book.listed("highlights.yml"):
            post, e = book.entry(item["entry"])
            page = f"../{post.document}.html"
            decided = f'<a href="{page}{e["where"]}">{post.slug} {e["id"]}</a>, {verdict(e["verdict"])}'
            blocks.append(
                f'<article class="kx-highlight"><h3><a href="{page}">{html.escape(item["title"])}</a></h3>'
                f"<p>{html.escape(item['text'])} ({decided})</p>{image(book.figure(post.slug, item['figure']))}</article>"
            )
        return "".join(blocks)


class PostMap(FromNotebooks):
    """All notebooks by parts in reading order; arcs join each to those it builds on."""

    row, left = 22, 120

    def render(self, book: Book) -> str:
        posts = book.checkout.posts
        at, y, labels = {}, 0, []
        for part, name in book.checkout.parts.items():
            y += self.row * 1.3
            labels.append(f'<text class="kx-part" x="{self.left}" y="{y + 4:.0f}">{html.escape(name)}</text>')
            for post in (p for p in posts.values() if p.part == part):
                y += self.row
                at[post.slug] = y
                labels.append(self.label(post, y))
        arcs = "".join(self.arc(at[need], at[slug], need, slug) for slug, post in posts.items() for need in post.needs)
        return (
            f'<svg class="kx-graph" viewBox="0 0 390 {y + self.row:.0f}" role="group" '
            'aria-label="Map of the notebooks: an arc joins a notebook to one that it builds on">'
            f"<g>{arcs}</g>{''.join(labels)}</svg>"
        )

    def label(self, post, y: float) -> str:
        return (
            f'<a href="../{post.document}.html"><title>{html.escape(post.title)}</title><circle cx="{self.left}" cy="{y:.0f}" r="4"/>'
            f'<text x="{self.left + 10}" y="{y + 4:.0f}">{post.slug}</text></a>'
        )

    def arc(self, start: float, end: float, need: str, slug: str) -> str:
        x = self.left - 4
        bent = x - 1.3 * min(self.left - 12, 14 + 0.16 * abs(end - start))
        path = f"M{x},{start:.0f} C{bent:.0f},{start:.0f} {bent:.0f},{end:.0f} {x},{end:.0f}"
        return f'<path d="{path}"><title>{slug} builds on {need}</title></path>'


class Parts(FromNotebooks):
    """The parts and their posts; those without a notebook are listed as coming."""

    def render(self, book: Book) -> str:
        blocks = []
        for part, name in book.checkout.parts.items():
            items = []
            for post in (p for p in book.checkout.posts.values() if p.part == part):
                original = f'<a href="{post.url}" lang="zh">{html.escape(post.original)}</a>, {post.date}'
                title = html.escape(post.title)
                if post.slug in book.notebooks:
                    items.append(f'<li><a href="../{post.document}.html">{title}</a><br><small>{original}</small></li>')
                else:
                    items.append(f'<li class="kx-coming">{title} <em>(coming)</em><br><small>{original}</small></li>')
            blocks.append(f"<h3>{html.escape(name)}</h3><ul>{''.join(items)}</ul>")
        return f'<div class="kx-map">{"".join(blocks)}</div>'


def bar(book: Book, slug: str) -> str:
    """Under a notebook's title: its downloads, its symbols, its verdicts, its neighbours."""
    posts = book.checkout.posts

    def linked(slugs) -> str:
        return ", ".join(f'<a href="../../{posts[s].document}.html">{s}</a>' for s in slugs)

    sources = f"../../_sources/{posts[slug].document}"
    verdicts = [e["verdict"] for e in book.ledgers[slug]["entries"]]
    counted = ", ".join(f"{verdicts.count(v)} {verdict(v)}" for v in VERDICTS if v in verdicts)
    parts = [
        f'download <a href="{sources}.ipynb" download>.ipynb</a> <a href="{sources}.py" download>.py</a>',
        f'<a href="../../book/notation.html#{slug}">symbols</a>',
        f'<a href="../../book/ledger.html?post={slug}">{len(verdicts)} entries</a>: {counted}',
    ]
    if posts[slug].needs:
        parts.append(f"builds on {linked(posts[slug].needs)}")
    if later := [s for s, post in posts.items() if slug in post.needs and s in book.notebooks]:
        parts.append(f"leads to {linked(later)}")
    return f'<p class="kx-about">{" · ".join(parts)}</p>'


def _first_screen(app, document, docname) -> None:
    """The bar, the point, and the first figure, which the set-up makes and which comes before it here."""
    slug = docname.rpartition("/")[2]
    if app.builder.format != "html" or slug not in app.kexue_book.ledgers:
        return
    cells = [c for c in document.findall(nodes.container) if "cell" in c["classes"]]
    shown = next(c for c in cells if next(c.findall(nodes.image), None))
    if shown.parent is cells[0].parent:
        shown.parent.remove(shown)
        cells[0].parent.insert(cells[0].parent.index(cells[0]), shown)  # the point and its figure, then the set-up
    badge = next(p for p in document.findall(nodes.paragraph) if any("colab" in i.get("uri", "") for i in p.findall(nodes.image)))
    badge.parent.insert(badge.parent.index(badge) + 1, nodes.raw("", bar(app.kexue_book, slug), format="html"))


def _copy_sources(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    checkout = app.kexue_book.checkout
    for slug in app.kexue_book.notebooks:
        shutil.copy(checkout.source(slug), Path(app.outdir) / "_sources" / f"{checkout.posts[slug].document}.py")


def setup(app):
    """Register the directives, the bar and the sources to download."""
    directives.register_directive("kexue-highlights", Highlights)
    directives.register_directive("kexue-map", PostMap)
    directives.register_directive("kexue-parts", Parts)
    app.connect("doctree-resolved", _first_screen)
    app.connect("build-finished", _copy_sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
