"""Sphinx extension for the PDF: HTML becomes LaTeX, hidden cells are left out; and the directive that offers the PDF on the site."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from kexue_nb import pdf
from kexue_nb.checkout import Checkout
from kexue_nb.ledger import VERDICTS, read_ledger
from kexue_nb.notebook import RESULTS_MIME

PREAMBLE = Path(__file__).with_name("preamble.tex")
INSIDE = re.compile(r"[./]*(?P<page>notebooks/[\w/-]+)\.html(?:#(?P<id>[DCEX]\d+[a-z]?))?")
SETUP = ", ".join(
    [
        "verbatimforcewraps, verbatimmaxunderfull=3",
        "hmargin={22mm,22mm}, vmargin={24mm,24mm}",
        "VerbatimColor={RGB}{248,248,248}, VerbatimBorderColor={RGB}{215,215,215}",
    ]
)


class LatexPages(SphinxPostTransform):
    """Everything that LaTeX could not show, replaced by something that it can."""

    default_priority = 1  # before MyST-NB chooses among the formats of an output
    formats = ("latex",)

    def run(self, **kwargs) -> None:
        """Rewrite the assembled book in place."""
        self.notebooks = _Notebooks(Path(self.app.srcdir))
        for cell in _containers(self.document, "cell_code"):
            _drop_hidden(cell)
        for block in list(self.document.findall(nodes.literal_block)):
            _tighten(block)
        for bundle in _containers(self.document, "mime_bundle"):
            self.show_output(bundle)
        for block in self.document.findall(nodes.math_block):
            _lift_tag(block)
        for raw in [node for node in self.document.findall(nodes.raw) if node["format"] == "html"]:
            raw.replace_self(self.show_html(raw))
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].endswith(".svg"):
                _drop_badge(image)
        for start in self.document.findall(addnodes.start_of_file):
            if start["docname"] == "book/bibliography":  # LaTeX moves the list itself behind the last chapter
                next(start.findall(nodes.section)).append(nodes.paragraph("", "The list stands at the end of the book."))

    def show_output(self, bundle: nodes.container) -> None:
        """An entry, a ledger or a table of results as LaTeX; all other outputs are left to MyST-NB."""
        shown = _html(bundle)
        document = self.page(bundle)
        if 'class="kx-entry"' in shown:
            id = BeautifulSoup(shown, "html.parser").div["id"]
            bundle.replace_self(entry(document, self.notebooks.entry(document, id)))
        elif 'class="kx-ledger"' in shown:
            bundle.replace_self(ledger(document, self.notebooks.ledgers[document]))
        elif 'class="kx-results"' in shown:
            bundle.replace_self(results(self.notebooks.next_results(document)))

    def page(self, node: nodes.Node) -> str:
        """The page that a node of the assembled book comes from: Sphinx puts the pages together without telling their nodes."""
        while not isinstance(node, nodes.document):
            node = node.parent
        return self.app.project.path2doc(node["source"])

    def show_html(self, raw: nodes.raw) -> list[nodes.Node]:
        """HTML that a directive wrote: text, lists and tables stay, controls and drawings go."""
        soup = BeautifulSoup(raw.astext(), "html.parser")
        for tag in soup.find_all(["form", "svg", "script", "style", "button", "select", "img", "iframe", "input"]):
            tag.decompose()
        for tag in soup.find_all(class_="kx-downloads"):
            tag.decompose()
        for tag in soup.find_all("table", class_="kx-results"):
            if not tag.caption or tag.caption.get_text() != "Recorded runs":
                tag.decompose()  # the notebooks show it
        shown = []
        for tag in soup.find_all("table", class_="kx-ledger"):
            tag.decompose()
            shown += self.ledger_index()
        return from_html(soup) + shown

    def ledger_index(self) -> list[nodes.Node]:
        """Every entry of the book with its page, by notebook and verdict."""
        found = []
        for document, entries in self.notebooks.ledgers.items():
            title = nodes.strong("", "", _link(document, self.notebooks.titles[document]))
            found.append(nodes.paragraph("", "", title))
            lines = nodes.bullet_list()
            for verdict in VERDICTS:
                ids = [e["id"] for e in entries if e["verdict"] == verdict]
                if ids:
                    line = nodes.paragraph("", "", _verdict(verdict), nodes.Text(": "))
                    for i, id in enumerate(ids):
                        label = rf"\,{{\footnotesize(\pageref{{\detokenize{{{document}:{id}}}}})}}"
                        line += [nodes.Text(", " if i else ""), _link(document, id, id), nodes.raw("", label, format="latex")]
                    lines += nodes.list_item("", line)
            found.append(lines)
        return found


class _Notebooks:
    """The ledgers and tables of the executed notebooks, by document."""

    def __init__(self, root: Path):
        checkout = Checkout(root)
        self.titles, self.ledgers, self._results = {}, {}, {}
        for slug in checkout.written():
            document = checkout.posts[slug].document
            notebook = json.loads(checkout.executed(slug).read_text(encoding="utf-8"))
            outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", ())]
            self.titles[document] = checkout.posts[slug].title
            self.ledgers[document] = (read_ledger(notebook) or {"entries": []})["entries"]
            self._results[document] = iter([data[RESULTS_MIME] for data in outputs if RESULTS_MIME in data])

    def entry(self, document: str, id: str) -> dict:
        """The ledger entry ``id`` of a notebook."""
        return next(e for e in self.ledgers[document] if e["id"] == id)

    def next_results(self, document: str) -> dict:
        """The next table of a notebook; its tables are asked for in their order."""
        return next(self._results[document])


def entry(document: str, e: dict) -> nodes.container:
    """A ledger entry where it is made: statement and verdict, below them the evidence in small print."""
    evidence = nodes.container(classes=["kx-small"])
    for check in e["evidence"]:
        tolerance = f" (tolerance {check['tolerance']})" if check["tolerance"] else ""
        side = "against: " if check["side"] == "fails" else ""
        text = f"{side}{check['what']} [{check['method']}]: expected {check['expected']}, got {check['measured']}{tolerance}"
        evidence += nodes.paragraph("", "", *_breakable(text))
    if not e["evidence"]:
        evidence += nodes.paragraph("", e["measured"])
    head = nodes.paragraph("", "", nodes.strong("", e["id"]), nodes.Text(" "), _verdict(e["verdict"]), nodes.Text(" " + e["statement"]))
    return nodes.container("", nodes.target("", "", ids=[e["id"]]), head, evidence, classes=[f"kx-entry-{_name(e['verdict'])}"])


def _breakable(text: str) -> list[nodes.Node]:
    """Text whose endless words, such as numbers of 60 digits, may go on in the next line."""
    found: list[nodes.Node] = []
    for piece in re.findall(r"\S{1,30}|\s+", text):
        if found and not piece.isspace() and not found[-1].astext().isspace():
            found.append(nodes.raw("", r"\allowbreak{}", format="latex"))
        found.append(nodes.Text(piece))
    return found


def ledger(document: str, entries: list[dict]) -> nodes.container:
    """The ledger at the end of a notebook, with the page of each entry."""
    tally = ", ".join(f"{n} {v}" for v in VERDICTS if (n := sum(e["verdict"] == v for e in entries)))
    rows = [
        [
            [_link(document, e["id"], e["id"])],
            [_verdict(e["verdict"])],
            [nodes.Text(e["statement"])],
            [nodes.raw("", rf"\pageref{{\detokenize{{{document}:{e['id']}}}}}", format="latex")],
        ]
        for e in entries
    ]
    table = _table(["id", "verdict", "statement", "page"], rows, widths=[7, 18, 68, 7])
    return nodes.container("", nodes.paragraph("", f"{len(entries)} entries: {tally}"), table, classes=["kx-small"])


def results(doc: dict) -> nodes.container:
    """A table of results."""
    rows = [[[nodes.Text(cell)] for cell in row] for row in doc["rows"]]
    caption = nodes.paragraph("", "", nodes.strong("", doc["caption"]))
    return nodes.container("", caption, _table(doc["columns"], rows, widths=_widths([doc["columns"], *doc["rows"]])), classes=["kx-small"])


def _widths(rows: list[list[str]]) -> list[int]:
    """Column widths in percent: by the longest cell of each column, none below what its longest word or a short cell needs."""
    columns = list(zip(*rows, strict=True))
    wanted = [min(max(len(cell) for cell in column), 60) + 2 for column in columns]
    least = [max(max(map(len, cell.split()), default=0) if len(cell) > 8 else len(cell) for cell in column) + 2 for column in columns]
    spare = max(1, 110 - sum(least))
    more = [w - m for w, m in zip(wanted, least, strict=True)]
    widths = [m + spare * x / max(1, sum(more)) for m, x in zip(least, more, strict=True)]
    return [max(1, round(100 * w / sum(widths))) for w in widths]


def _table(head: list[str], rows: list[list[list[nodes.Node]]], widths: list[int]) -> nodes.table:
    def row(cells) -> nodes.row:
        return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells])

    group = nodes.tgroup("", *[nodes.colspec(colwidth=width) for width in widths], cols=len(widths))
    group += nodes.thead("", row([[nodes.Text(name)] for name in head]))
    group += nodes.tbody("", *[row(cells) for cells in rows])
    return nodes.table("", group, classes=["longtable", "colwidths-given"])


def from_html(tag: Tag) -> list[nodes.Node]:
    """Paragraphs, lists and tables of simple HTML as document nodes."""
    blocks: list[nodes.Node] = []
    for child in tag.children:
        name = getattr(child, "name", None)
        if isinstance(child, NavigableString):
            blocks += [nodes.paragraph("", str(child).strip())] if str(child).strip() else []
        elif name in ("ul", "ol"):
            blocks.append(
                nodes.bullet_list(
                    "", *[nodes.list_item("", nodes.paragraph("", "", *_inline(li))) for li in child.find_all("li", recursive=False)]
                )
            )
        elif name == "table":
            blocks += _html_table(child)
        elif name in ("h2", "h3", "h4"):
            blocks.append(nodes.paragraph("", "", nodes.strong("", child.get_text())))
        elif name in ("p", "span", "a", "strong", "em", "code", "small", "summary"):
            blocks.append(nodes.paragraph("", "", *_inline(child)))
        else:
            blocks += from_html(child)
    return [block for block in blocks if block.astext().strip()]


def _html_table(tag: Tag) -> list[nodes.Node]:
    rows = [tr.find_all(["th", "td"]) for tr in tag.find_all("tr")]
    if not rows or len({len(row) for row in rows}) > 1:
        return [nodes.paragraph("", " · ".join(cell.get_text() for cell in row)) for row in rows]
    texts = [[cell.get_text() for cell in row] for row in rows]
    table = _table(texts[0], [[_inline(cell) for cell in row] for row in rows[1:]], _widths(texts))
    caption = [nodes.paragraph("", "", nodes.strong("", tag.caption.get_text()))] if tag.caption else []
    return [nodes.container("", *caption, table, classes=["kx-small"])]


def _inline(tag: Tag) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for child in tag.children:
        if isinstance(child, NavigableString):
            found.append(nodes.Text(str(child)))
        elif child.name == "a" and child.get("href", "").startswith("http"):
            found.append(nodes.reference("", child.get_text(), refuri=child["href"]))
        elif child.name == "a" and (inside := INSIDE.fullmatch(child.get("href", ""))):
            found.append(_link(inside["page"], child.get_text(), inside["id"] or ""))
        elif child.get("data-verdict") in VERDICTS:
            found.append(_verdict(child["data-verdict"]))
        elif child.name == "br":
            found.append(nodes.Text(" · "))
        else:
            found += _inline(child)
    return found


def _containers(document: nodes.document, element: str) -> list[nodes.container]:
    return [node for node in document.findall(nodes.container) if node.get("nb_element") == element]


def _drop_hidden(cell: nodes.container) -> None:
    """Leave out the hidden parts of a cell, but no ledger entry: the ledger links to it."""
    tags = {c.removeprefix("tag_") for c in cell["classes"]}
    cell["classes"] = ["cell"]
    for part in list(cell.children):
        source = part.get("nb_element") == "cell_code_source"
        if "hide-cell" in tags or (source and "hide-input" in tags) or (not source and "hide-output" in tags):
            part.children = [] if source else [output for output in part.children if 'class="kx-entry"' in _html(output)]
        if not part.children:
            cell.remove(part)
    if not cell.children:
        cell.parent.remove(cell)


def _html(output: nodes.Node) -> str:
    """What a web page would show of an output."""
    return next((raw.astext() for raw in output.findall(nodes.raw) if raw["format"] == "html"), "")


def _tighten(block: nodes.literal_block) -> None:
    """One blank line where there were several, and an escape for the one character that no common font has."""
    text = re.sub(r"\n{3,}", "\n\n", block.astext()).replace("\u9fff", r"\u9fff")
    block.replace_self(nodes.literal_block(text, text, **block.attributes))


def _lift_tag(block: nodes.math_block) -> None:
    """Put a formula's number where LaTeX allows it: outside the ``split`` into which Sphinx puts every formula."""
    if tag := re.search(r"\\tag\{[^}]*\}\s*$", block.astext()):
        body = block.astext()[: tag.start()].strip()
        text = rf"\begin{{equation*}}\begin{{split}}{body}\end{{split}}{tag[0].strip()}\end{{equation*}}"
        block.children, block["nowrap"] = [nodes.Text(text)], True


def _drop_badge(image: nodes.image) -> None:
    """Take out a vector image that LaTeX cannot read, with the link and the paragraph that hold nothing else."""
    node = image
    while len(node.parent.children) == 1 and isinstance(node.parent, (nodes.reference, nodes.paragraph)):
        node = node.parent
    node.parent.remove(node)


def _link(document: str, text: str, id: str = "") -> nodes.reference:
    return nodes.reference("", text, internal=True, refuri=f"%{document}#{id}" if id else f"%{document}")


def _name(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _verdict(verdict: str) -> nodes.inline:
    return nodes.inline("", verdict, classes=[f"kx-{_name(verdict)}"])


def _configure(app, config) -> None:
    """Our fonts, page and preamble instead of the class that comes with Jupyter Book, which needs fonts that few systems have."""
    config.latex_theme = "manual"
    config.latex_use_xindy = False
    config.latex_show_urls = "no"
    config.latex_table_style = ["booktabs"]
    config.latex_elements = {
        "papersize": "a4paper",
        "pointsize": "10pt",
        "extraclassoptions": "openany,oneside",
        "fncychap": "",
        "printindex": "",
        "sphinxsetup": SETUP,
        "preamble": PREAMBLE.read_text(encoding="utf-8"),
    }


class Downloads(Directive):
    """Where the PDF of the book has been made, a link to it with its size; otherwise nothing."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """A raw HTML paragraph, or nothing."""
        env = self.state.document.settings.env
        env.metadata[env.docname]["kexue_downloads"] = True
        made = pdf.place(Path(env.app.srcdir))
        if not made.exists():
            return []
        here = "../" * env.docname.count("/")
        size = f"{made.stat().st_size / 1e6:.0f} MB"
        link = f'<a href="{here}_static/{pdf.NAME}" type="application/pdf" download>The whole book as a PDF</a> ({size})'
        return [nodes.raw("", f'<p class="kx-downloads">{link}</p>', format="html")]


def _with_downloads(app, env, added, changed, removed) -> list[str]:
    return [name for name, meta in env.metadata.items() if meta.get("kexue_downloads") and name in env.all_docs]


def _copy_pdf(app, exception) -> None:
    """Put the PDF beside the pages, or take away one that is no longer offered."""
    if exception or app.builder.format != "html":
        return
    made, offered = pdf.place(Path(app.srcdir)), Path(app.outdir) / "_static" / pdf.NAME
    if made.exists():
        shutil.copy2(made, offered)
    else:
        offered.unlink(missing_ok=True)


def setup(app):
    """Register the directive and the build steps."""
    directives.register_directive("kexue-downloads", Downloads)
    app.add_post_transform(LatexPages)
    app.connect("config-inited", _configure, priority=750)
    app.connect("env-get-outdated", _with_downloads)
    app.connect("build-finished", _copy_pdf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
