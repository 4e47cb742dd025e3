"""Sphinx extension of the book: pages made from the executed notebooks, and a site that needs no other host."""

from __future__ import annotations

import html
import json
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from kexue_nb import records
from kexue_nb.checkout import Checkout
from kexue_nb.ledger import KINDS, VERDICTS, read_ledger
from kexue_nb.notebook import RESULTS_MIME, results_html

MATHJAX = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
    "input/tex/extensions",
)


class Book:
    """What the executed notebooks say, read once a build."""

    def __init__(self, root: Path):
        self.checkout = Checkout(root)
        self.notebooks = {
            slug: json.loads(self.checkout.executed(slug).read_text(encoding="utf-8"))
            for slug in self.checkout.written()
            if self.checkout.executed(slug).exists()
        }
        self.ledgers = {slug: ledger for slug, nb in self.notebooks.items() if (ledger := read_ledger(nb))}

    def entries(self):
        """(post, entry) for every ledger entry of the book, in reading order."""
        for slug, ledger in self.ledgers.items():
            for entry in ledger["entries"]:
                yield self.checkout.posts[slug], entry

    def results(self, slug: str):
        """The results tables of a notebook, in order."""
        for cell in self.notebooks[slug]["cells"]:
            for output in cell.get("outputs", ()):
                if RESULTS_MIME in output.get("data", {}):
                    yield output["data"][RESULTS_MIME]


class FromNotebooks(Directive):
    """A directive that writes HTML out of the executed notebooks."""

    has_content = False

    def run(self):
        env = self.state.document.settings.env
        env.metadata[env.docname]["kexue_from_notebooks"] = True
        return [nodes.raw("", self.render(env.app.kexue_book), format="html")]


class LedgerTable(FromNotebooks):
    """All entries, with the controls that filter them."""

    def render(self, book: Book) -> str:
        def choices(name: str, label: str, values) -> str:
            options = "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in values)
            return f'<label>{label} <select id="kx-{name}"><option value="">all</option>{options}</select></label>'

        controls = (
            '<form class="kx-controls" role="search" aria-label="Filter the ledger">'
            + choices("post", "post", [(slug, book.checkout.posts[slug].title) for slug in book.ledgers])
            + choices("kind", "kind", [(name, name) for name in KINDS.values()])
            + choices("verdict", "verdict", [(v, v) for v in VERDICTS])
            + '<label>words <input id="kx-words" type="search" placeholder="in statement or method"></label>'
            '<output id="kx-count" aria-live="polite"></output></form>'
        )
        rows = "".join(self.row(post, entry) for post, entry in book.entries())
        head = "".join(
            f'<th scope="col">{h}</th>' for h in ("id", "verdict", "statement", "method", "expected", "measured", "tolerance", "scope")
        )
        table = f'<table class="kx-ledger" id="kx-ledger"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        return controls + f'<div class="kx-scroll" tabindex="0" role="region" aria-label="All ledger entries">{table}</div>'

    @staticmethod
    def row(post, e: dict) -> str:
        short = "".join(f"<td>{html.escape(_shorten(e[k]))}</td>" for k in ("method", "expected", "measured", "tolerance", "scope"))
        return (
            f'<tr data-post="{post.slug}" data-kind="{KINDS[e["id"][0]]}" data-verdict="{e["verdict"]}">'
            f'<td><a href="../{post.document}.html{e["where"]}" title="{html.escape(post.title)}">{post.slug} {e["id"]}</a></td>'
            f'<td><span class="kx-verdict" data-verdict="{e["verdict"]}">{e["verdict"]}</span></td>'
            f"<td>{html.escape(e['statement'])}</td>{short}</tr>"
        )


class VerdictCounts(FromNotebooks):
    """How many entries have which verdict."""

    def render(self, book: Book) -> str:
        verdicts = [e["verdict"] for _, e in book.entries()]
        items = "".join(
            f'<li><span class="kx-verdict" data-verdict="{v}">{v}</span> {verdicts.count(v)}</li>' for v in VERDICTS if v in verdicts
        )
        posts = f"{len(book.ledgers)} of {len(book.checkout.posts)} posts"
        return f'<p>{posts}, {len(verdicts)} entries:</p><ul class="kx-counts">{items}</ul>'


class PostMap(FromNotebooks):
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


class ResultTables(FromNotebooks):
    """One table for each recorded run, with its provenance, as the notebooks show them."""

    def render(self, book: Book) -> str:
        blocks = []
        for slug in book.notebooks:
            post = book.checkout.posts[slug]
            tables = "".join(
                f'<div class="kx-scroll" tabindex="0" role="region" aria-label="{html.escape(t["caption"])}">{results_html(t)}</div>'
                for t in book.results(slug)
            )
            runs = "".join(
                f"<tr><td>{id}</td><td>{html.escape(r.device)}</td><td>{r.date}</td><td>{r.wall_s:.0f}</td><td>{r.peak_mem_gb:.1f}</td><td>{html.escape(r.torch)}</td></tr>"
                for id, r in records.load(slug).items()
            )
            head = "".join(f"<th>{h}</th>" for h in ("run", "device", "date", "seconds", "peak GB", "torch"))
            provenance = (
                f'<div class="kx-scroll" tabindex="0" role="region" aria-label="Recorded runs of {slug}"><table class="kx-results">'
                f"<caption>Recorded runs</caption><thead><tr>{head}</tr></thead><tbody>{runs}</tbody></table></div>"
                if runs
                else ""
            )
            blocks.append(f'<h2><a href="../{post.document}.html">{html.escape(post.title)}</a></h2>{provenance}{tables}')
        return "".join(blocks)


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _outdated(app, env, added, changed, removed):
    return [name for name, meta in env.metadata.items() if meta.get("kexue_from_notebooks") and name in env.all_docs]


def _serve_ourselves(app, exception) -> None:
    """Put MathJax beside the pages, and take out what they do not need."""
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    packed = Path(str(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline"))) / "static" / "mathjax"
    for name in MATHJAX:
        source, target = packed / name, static / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    for heavy in static.glob("vendor/fontawesome/*/js"):
        shutil.rmtree(heavy)
    pages = {page: _slim(page.read_text(encoding="utf-8")) for page in Path(app.outdir).rglob("*.html")}
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    scripts = [script.read_text(encoding="utf-8") for script in static.rglob("*.js") if "mathjax" not in script.parts]
    words = set(re.findall(r"[\w-]+", " ".join([*pages.values(), *scripts])))
    for sheet in static.rglob("*.css"):
        sheet.write_text(_keep_used(sheet.read_text(encoding="utf-8"), words), encoding="utf-8")
    for source_map in static.rglob("*.map"):
        source_map.unlink()


# Scripts and styles that no page of this book uses: the icons' second copy as SVG (1.5 MB a page), live-code buttons that would
# ask another host, design components; and preloads of fonts that may not be needed.
_UNUSED = re.compile(
    r'<script[^>]*src="[^"]*(?:fontawesome/[^"]*/js/|sphinx-thebe|design-tabs)[^"]*"[^>]*></script>'
    r'|<script[^>]*type="text/x-thebe-config"[^>]*>.*?</script>'
    r"|<script>\s*const THEBE_JS_URL.*?</script>"
    r'|<link[^>]*href="[^"]*(?:sphinx-thebe|sphinx-design)[^"]*"[^>]*>'
    r'|<link[^>]*rel="preload"[^>]*href="[^"]*fontawesome[^"]*"[^>]*>',
    re.S,
)
# Highlighting classes whose colour is the text's own.
_PLAIN = re.compile(r'<span class="(?:n|nn|p|w)">([^<]*)</span>')


def _slim(page: str) -> str:
    """The page without what it does not use."""
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')  # its children are no list items
    return _PLAIN.sub(r"\1", _UNUSED.sub("", page))


def _keep_used(sheet: str, words: set[str]) -> str:
    """The style sheet without selectors on classes that occur in no page and no script."""

    def keep(rule: re.Match) -> str:
        selectors = [s for s in rule.group(1).split(",") if words.issuperset(re.findall(r"\.(-?[A-Za-z_][\w-]*)", s))]
        return ",".join(selectors) + rule.group(2) if selectors else ""

    return re.sub(r"([^{}@;/]*\.[^{}@;/]*)(\{[^{}]*\})", keep, sheet)


def setup(app):
    """Register the directives and the build steps."""
    app.kexue_book = Book(Path(app.srcdir))
    directives.register_directive("kexue-ledger", LedgerTable)
    directives.register_directive("kexue-counts", VerdictCounts)
    directives.register_directive("kexue-map", PostMap)
    directives.register_directive("kexue-results", ResultTables)
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _serve_ourselves)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
