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


def symbols(notation: str, slug: str, part: str) -> dict[str, tuple[str, str]]:
    """Symbol -> (its meaning as plain text, the anchor of its table), for a notebook: its own table, its part's, that of the whole book."""
    tables = {s.splitlines()[0]: s for s in re.split(r"^#{2,3} ", notation, flags=re.M)[1:]}
    found = {}
    for name in ("The whole book", part, slug):
        for shown, meaning in re.findall(r"^\| (.+?) \| (.+) \|$", tables.get(name, ""), re.M):
            words = re.sub(r"\$([^$]+)\$", lambda m: plain(m[1]), meaning)
            found |= {flat(tex): (words, nodes.make_id(name)) for tex in re.findall(r"\$([^$]+)\$", shown)}
    return found


def flat(tex: str) -> str:
    """A formula without what does not change it."""
    return re.sub(r"[\s{}]", "", tex)


def _link_symbols(app, document, docname) -> None:
    """In a notebook, the first time that a symbol stands alone it leads to its line in the notation, which it also shows."""
    checkout = Checkout(Path(app.srcdir))
    post = checkout.posts.get(docname.rpartition("/")[2])
    if app.builder.format != "html" or post is None:
        return
    notation = (checkout.root / "book" / "notation.md").read_text(encoding="utf-8")
    waiting = symbols(notation, post.slug, checkout.parts[post.part])
    for formula in list(document.findall(nodes.math)):
        above = formula.parent
        while above is not None and not isinstance(above, (nodes.title, nodes.reference)):
            above = above.parent
        alone = re.split(r"=|\\in(?![a-z])", formula.astext())[0]
        if above is None and flat(alone) in waiting:
            words, anchor = waiting.pop(flat(alone))
            where = f"../../book/notation.html#{anchor}"
            formula.replace_self(
                nodes.reference("", "", formula.deepcopy(), refuri=where, reftitle=words, internal=True, classes=["kx-symbol"])
            )


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
    app.connect("doctree-resolved", _link_symbols)
    app.connect("config-inited", _set_base)
    app.connect("html-page-context", _add_tags)
    app.connect("build-finished", _write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
