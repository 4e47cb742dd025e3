"""The PDF of the book: what its extension makes of the pages' HTML, and the PDF itself where it was made."""

import re
import sys
import unicodedata
from types import SimpleNamespace

import pytest
from docutils import nodes

from kexue_nb import pdf
from kexue_nb.checkout import Checkout

CHECKOUT = Checkout.here()
PDF = pdf.place(CHECKOUT.root)
made = pytest.mark.skipif(not PDF.exists(), reason="the PDF was not made on this machine: `make pdf` makes it")

CHECK = {"side": "fails", "what": "growth", "method": "measured", "expected": "1", "measured": "2", "tolerance": "0.1", "scope": "exact"}
ENTRY = {"id": "C1", "verdict": "not reproduced", "statement": "It grows.", "measured": "2", "evidence": [CHECK]}


@pytest.fixture(scope="module")
def extension():
    sys.path.insert(0, str(CHECKOUT.root / "book" / "_ext"))
    import kexue_pdf

    yield kexue_pdf
    sys.path.pop(0)


def test_an_entry_keeps_its_evidence_and_can_be_linked_to(extension):
    box = extension.entry("notebooks/a/b", ENTRY)
    assert box["classes"] == ["kx-entry-not-reproduced"]
    assert [target["ids"] for target in box.findall(nodes.target)] == [["C1"]]
    assert "C1 not reproduced It grows." in box.astext()
    assert "against: growth [measured]: expected 1, got 2 (tolerance 0.1)" in box.astext()
    argued = extension.entry("notebooks/a/b", ENTRY | {"evidence": [], "measured": "a matter of taste"})
    assert "a matter of taste" in argued.astext()


def test_endless_words_may_break(extension):
    words = extension._breakable("got " + "7" * 70 + " of it")
    assert "".join(node.astext() for node in words if isinstance(node, nodes.Text)) == "got " + "7" * 70 + " of it"
    assert [node.astext() for node in words if isinstance(node, nodes.raw)] == [r"\allowbreak{}"] * 2


def test_a_ledger_counts_verdicts_and_links_to_entries(extension):
    shown = extension.ledger("notebooks/a/b", [ENTRY, ENTRY | {"id": "D1", "verdict": "verified"}])
    assert "2 entries: 1 verified, 1 not reproduced" in shown.astext()
    assert [link["refuri"] for link in shown.findall(nodes.reference)] == ["%notebooks/a/b#C1", "%notebooks/a/b#D1"]
    assert [raw.astext() for raw in shown.findall(nodes.raw)] == [
        r"\pageref{\detokenize{notebooks/a/b:C1}}",
        r"\pageref{\detokenize{notebooks/a/b:D1}}",
    ]


def test_html_becomes_paragraphs_lists_and_tables(extension):
    from bs4 import BeautifulSoup

    text = '<h3>Part</h3><p>so <a href="https://kexue.fm">far</a></p><ul><li>one<br>two</li></ul><table><tr><th>a</th></tr><tr><td>b</td></tr></table>'
    blocks = extension.from_html(BeautifulSoup(text, "html.parser"))
    assert [type(block) for block in blocks] == [nodes.paragraph, nodes.paragraph, nodes.bullet_list, nodes.container]
    assert [block.astext().split() for block in blocks] == [["Part"], ["so", "far"], ["one", "·", "two"], ["a", "b"]]
    assert next(blocks[1].findall(nodes.reference))["refuri"] == "https://kexue.fm"


def test_links_into_notebooks_stay_links(extension):
    from bs4 import BeautifulSoup

    text = '<p><a href="../notebooks/a/b.html#C1">entry</a> <a href="../notebooks/a/b.html">page</a> <a href="#top">other</a></p>'
    (shown,) = extension.from_html(BeautifulSoup(text, "html.parser"))
    assert [link["refuri"] for link in shown.findall(nodes.reference)] == ["%notebooks/a/b#C1", "%notebooks/a/b"]
    assert shown.astext() == "entry page other"


@pytest.mark.parametrize(
    ("tags", "left"), [((), ["code", "out"]), (("hide-input",), ["out"]), (("hide-output",), ["code"]), (("hide-cell",), [])]
)
def test_hidden_parts_of_a_cell_are_left_out(extension, tags, left):
    source = nodes.container("", nodes.paragraph("", "code"), nb_element="cell_code_source")
    output = nodes.container("", nodes.paragraph("", "out"), nb_element="cell_code_output")
    page = nodes.container("", nodes.container("", source, output, classes=["cell", *(f"tag_{tag}" for tag in tags)]))
    extension._drop_hidden(page[0])
    assert page.astext().split() == left


def test_an_entry_in_a_hidden_cell_stays(extension):
    kept = nodes.container("", nodes.raw("", '<div class="kx-entry" id="X1"></div>', format="html"))
    output = nodes.container("", nodes.paragraph("", "out"), kept, nb_element="cell_code_output")
    page = nodes.container("", nodes.container("", output, classes=["cell", "tag_hide-cell"]))
    extension._drop_hidden(page[0])
    assert output.children == [kept]
    assert output in list(page.findall())


def test_a_formula_keeps_its_number(extension):
    block = nodes.math_block("", r"a=b, \tag{1}")
    extension._lift_tag(block)
    assert block.astext() == r"\begin{equation*}\begin{split}a=b,\end{split}\tag{1}\end{equation*}"
    assert block["nowrap"]


def test_columns_get_at_least_their_longest_word(extension):
    narrow, wide = extension._widths([["α = 1", "text"], ["0.5", "a longer text, " * 20]])
    assert 5 < narrow < 20 < wide


def test_lost_content_is_found_in_a_log():
    lost = ["Missing character: There is no X in font Y!", "LaTeX Warning: Reference `a:b' on page 3 undefined on input line 7."]
    assert pdf.losses("\n".join(["Overfull \\hbox", *lost, "LaTeX Font Warning: shape undefined"])) == lost


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    assert {"latexmk", "texlive-xetex", "texlive-lang-chinese", "fonts-noto-cjk"} <= set(pdf.lacking())
    with pytest.raises(pdf.PdfFailed, match=r"apt-get install .*latexmk"):
        pdf.build(CHECKOUT)


def test_the_site_offers_a_pdf_that_is_there_and_no_other(extension, tmp_path):
    made, offered = pdf.place(tmp_path), tmp_path / "html" / "_static" / pdf.NAME
    offered.parent.mkdir(parents=True)
    app = SimpleNamespace(srcdir=tmp_path, outdir=tmp_path / "html", builder=SimpleNamespace(format="html"))
    env = SimpleNamespace(docname="book/index", metadata={"book/index": {}}, app=app)
    state = SimpleNamespace(document=SimpleNamespace(settings=SimpleNamespace(env=env)))
    directive = extension.Downloads("kexue-downloads", [], {}, [], 1, 0, "", state, SimpleNamespace(reporter=None))

    made.parent.mkdir(parents=True)
    made.write_bytes(b"0" * 12_400_000)
    extension._copy_pdf(app, None)
    (shown,) = directive.run()
    assert f'href="../_static/{pdf.NAME}"' in shown.astext()
    assert "(12 MB)" in shown.astext()
    assert offered.read_bytes() == made.read_bytes()

    made.unlink()
    extension._copy_pdf(app, None)
    assert directive.run() == []
    assert not offered.exists()


# The PDF itself


@pytest.fixture(scope="module")
def book():
    import pypdf

    return pypdf.PdfReader(PDF)


@pytest.fixture(scope="module")
def text(book):
    return "".join("".join(page.extract_text().split()) for page in book.pages)


def plain(title):
    """Without spaces, with one form of quotes and of letters of full width."""
    return re.sub("[‘’“”\"']", "'", unicodedata.normalize("NFKC", "".join(title.split())))


@made
def test_the_pdf_is_a_book_of_reasonable_size(book):
    assert len(book.pages) > 300
    assert PDF.stat().st_size < 60e6


@made
def test_the_outline_has_the_parts_and_their_posts(book):
    outline = book.outline
    parts = [re.sub("^[IVX]+ ", "", item.title) for item in outline if not isinstance(item, list)]  # some versions of LaTeX number them
    assert [name for name in parts if name in CHECKOUT.parts.values()] == list(CHECKOUT.parts.values())
    chapters = [plain(item.title) for part in outline if isinstance(part, list) for item in part if not isinstance(item, list)]
    for post in CHECKOUT.posts.values():
        assert any(plain(post.title) in chapter for chapter in chapters), post.title


@made
def test_every_title_is_in_the_text_in_both_languages(text):
    text = plain(text)
    assert [post.original for post in CHECKOUT.posts.values() if plain(post.original) not in text] == []
    assert [post.title for post in CHECKOUT.posts.values() if plain(post.title) not in text] == []


@made
def test_no_character_and_no_link_was_lost(text):
    assert "??" not in text
    assert pdf.losses(PDF.with_suffix(".log").read_text(encoding="utf-8", errors="replace")) == []


@made
def test_entries_are_linked_and_the_references_are_there(book, text):
    targets = set(book.named_destinations)
    assert len(targets) > 1000
    for kept in ("against:", "Recordedruns", "Theledgerofallclaims", "Bibliography"):
        assert kept in text


def test_the_pdf_and_its_log_come_from_where_sphinx_leaves_them(monkeypatch, tmp_path):
    left = tmp_path / "_build" / "pdf" / "_build" / "latex"

    def sphinx(command, **options):
        left.mkdir(parents=True)
        (left / pdf.NAME).write_bytes(b"a pdf")
        (left / pdf.NAME).with_suffix(".log").write_text("no complaints")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(pdf, "lacking", list)
    monkeypatch.setattr(pdf.subprocess, "run", sphinx)
    made = pdf.build(SimpleNamespace(root=tmp_path))
    assert made == tmp_path / "_build" / "pdf" / pdf.NAME
    assert made.read_bytes() == b"a pdf"
    assert made.with_suffix(".log").read_text() == "no complaints"


def test_each_style_is_asked_for(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: name)
    known = {style: f"/texmf/{style}" for style in list(pdf.STYLES)[1:]}
    answers = {"kpsewhich": lambda style: known.get(style, ""), "fc-list": lambda *pattern: " ".join(pdf.FONTS)}
    monkeypatch.setattr(pdf, "_output", lambda command, *rest: answers[command](*rest))
    assert pdf.lacking() == [next(iter(pdf.STYLES.values()))]
