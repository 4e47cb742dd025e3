"""Sphinx extension of the book: the index of the posts, Chinese words, and what search engines and link previews read."""

from __future__ import annotations

import html
import re
import unicodedata
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx import addnodes

from kexue_nb.checkout import Checkout


class PostIndex(Directive):
    """The posts by date: the original's title with its link, and the notebook."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        checkout = Checkout(Path(env.app.srcdir))
        env.note_dependency(str(checkout.root / "book" / "posts.yml"))
        posts = sorted(checkout.posts.values(), key=lambda post: (post.date, post.number))
        return [table(("date", "original", "notebook"), [self.row(post) for post in posts])]

    @staticmethod
    def row(post) -> list[nodes.Node]:
        original = nodes.reference("", post.original, refuri=post.url, classes=["language-zh"])
        notebook = addnodes.pending_xref("", refdomain="std", reftype="doc", reftarget=f"/{post.document}", refexplicit=True, refwarn=True)
        notebook += nodes.inline("", post.title)
        return [nodes.inline("", post.date, classes=["kx-date"]), original, notebook]


def table(head: tuple[str, ...], rows: list[list[nodes.Node]]) -> nodes.table:
    """A docutils table, which the site and the PDF can both show."""

    def line(cells):
        entries = [nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells]
        return nodes.row("", *entries)

    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (2, 5, 6)), cols=len(head))
    group += nodes.thead("", line([nodes.Text(name) for name in head]))
    group += nodes.tbody("", *(line(cells) for cells in rows))
    return nodes.table("", group)


def chinese(name, rawtext, text, lineno, inliner, options=None, content=None):
    """The role {zh}: words in Chinese, marked as such for screen readers and fonts."""
    return [nodes.inline(rawtext, text, classes=["language-zh"])], []


SIGNS = {
    "sqrt": "√",
    "times": "×",
    "cdot": "·",
    "to": "→",
    "le": "≤",
    "ge": "≥",
    "approx": "≈",
    "infty": "∞",
    "sum": "Σ",
    "sim": "~",
    "in": "∈",
}


def plain(tex: str) -> str:
    """A short formula as plain text."""

    def sign(command: re.Match) -> str:
        name = command[1].removeprefix("var")
        if name in ("log", "ln", "exp", "cos", "sin", "tanh", "max", "min"):
            return f"{name} "
        try:
            return unicodedata.lookup(f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {name.upper()}")
        except KeyError:
            return SIGNS.get(name, "")

    return re.sub(r"[{}]", "", re.sub(r"\\([A-Za-z]+) ?", sign, re.sub(r"\\[,;!:|]", "", tex)))


def description(doctree: nodes.document, limit: int = 300) -> str:
    """The first sentences of the point of a notebook; of another page, of its first paragraph."""
    paragraphs = [p for p in doctree.findall(nodes.paragraph) if not isinstance(p.parent, nodes.footnote)]
    points = [p for p in paragraphs if p.astext().startswith("The point.")]
    if not paragraphs:
        return ""
    chosen = (points or paragraphs)[0].deepcopy()
    for formula in list(chosen.findall(nodes.math)):
        formula.replace_self(nodes.Text(plain(formula.astext())))
    text = " ".join(chosen.astext().removeprefix("The point.").split())
    short = ""
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", text):
        if short and len(short) + len(sentence) >= limit:
            break
        short = f"{short} {sentence}".strip()
    return short if len(short) <= limit else short[: limit - 1].rsplit(" ", 1)[0] + "…"


def base_address(repository: str) -> str:
    """Where GitHub Pages serves a repository."""
    owner, name = repository.removeprefix("https://github.com/").split("/")
    return f"https://{owner}.github.io/{name}/"


def _set_base(app, config) -> None:
    config.html_baseurl = config.html_baseurl or base_address(Checkout(Path(app.srcdir)).repository)


def _add_tags(app, pagename, templatename, context, doctree) -> None:
    """Meta tags for search engines and for the card that a shared link shows."""
    if doctree is None:
        return
    base, words = app.config.html_baseurl, description(doctree)
    tags = {
        "og:type": "article",
        "og:site_name": app.config.project,
        "og:title": re.sub(r"<[^>]+>|\\[()]", "", html.unescape(context.get("title", ""))),
        "og:description": words,
        "og:url": f"{base}{pagename}.html",
        "og:image": f"{base}_static/card.png",
        "og:image:alt": "Scientific Spaces, executed: how far each base of RoPE reaches",
        "og:image:width": "1200",
        "og:image:height": "630",
    }
    lines = [f'<meta property="{name}" content="{html.escape(value)}">' for name, value in tags.items() if value]
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    if words and 'name="description"' not in context.get("metatags", ""):
        lines += [f'<meta name="description" content="{html.escape(words)}">']
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def _write_sitemap(app, exception) -> None:
    """sitemap.xml with every page, and robots.txt that names it."""
    if exception or app.builder.format != "html":
        return
    base, out = app.config.html_baseurl, Path(app.outdir)
    urls = "\n".join(f"  <url><loc>{base}{name}.html</loc></url>" for name in sorted(app.env.found_docs))
    head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    (out / "sitemap.xml").write_text(f"{head}\n{urls}\n</urlset>\n", encoding="utf-8")
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n", encoding="utf-8")


def setup(app):
    """Register the directive, the role and the tags."""
    directives.register_directive("kexue-posts", PostIndex)
    app.add_role("zh", chinese)
    app.connect("config-inited", _set_base)
    app.connect("html-page-context", _add_tags)
    app.connect("build-finished", _write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
