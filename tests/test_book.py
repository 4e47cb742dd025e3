"""The words of the book: its notation, its bibliography, its links and its spelling."""

import re
from collections import Counter

import pytest
from pybtex.backends.plaintext import Backend
from pybtex.database import parse_file
from pybtex.style.formatting.plain import Style

from kexue_nb.checkout import Checkout

CHECKOUT = Checkout.here()
ROOT = CHECKOUT.root
BIBLIOGRAPHY = parse_file(ROOT / "book" / "references.bib").entries


def prose(slug):
    """The markdown of a notebook's source (by hand: jupytext needs half a minute for all of them)."""
    cells = re.split(r"^# %%", CHECKOUT.source(slug).read_text(encoding="utf-8"), flags=re.M)[1:]
    return "\n\n".join(re.sub(r"^# ?", "", c.partition("\n")[2], flags=re.M) for c in cells if c.startswith(" [markdown]"))


PAGES = {f"book/{p.stem}": p.read_text(encoding="utf-8") for p in sorted((ROOT / "book").glob("*.md"))}
NOTEBOOKS = {CHECKOUT.posts[slug].document: prose(slug) for slug in CHECKOUT.written()}
SOURCES = PAGES | NOTEBOOKS


def cited(text):
    """The bibliography keys that a text cites, in order."""
    return [key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")]


def test_every_citation_has_an_entry_and_every_entry_a_citation():
    keys = {key for text in SOURCES.values() for key in cited(text)}
    assert keys - set(BIBLIOGRAPHY) == set()
    assert set(BIBLIOGRAPHY) - keys == set()


@pytest.mark.parametrize("key", BIBLIOGRAPHY)
def test_a_reference_says_who_when_and_where(key):
    entry = BIBLIOGRAPHY[key]
    assert entry.persons.get("author"), "no author"
    assert re.fullmatch(r"(18|19|20)\d\d", entry.fields["year"])
    assert any(entry.fields.get(f) for f in ("eprint", "doi", "url", "journal", "booktitle", "publisher", "institution")), (
        "nowhere to be found"
    )
    assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", entry.fields.get("eprint", "0000.0000")), "no arXiv id"
    assert entry.fields.get("url", "https://").startswith("https://")
    shown = Style().format_entry("1", entry).text.render(Backend())
    assert not re.search(r"[\\{}$]", shown), f"LaTeX would show: {shown}"


def test_no_work_stands_under_two_keys():
    for field in ("title", "eprint", "url", "doi"):
        values = Counter(re.sub(r"\W", "", e.fields[field].lower()) for e in BIBLIOGRAPHY.values() if e.fields.get(field))
        assert [v for v, n in values.items() if n > 1] == [], field


def test_the_posts_have_one_title():
    by_url = {e.fields.get("url"): e.fields for e in BIBLIOGRAPHY.values()}
    for post in CHECKOUT.posts.values():
        assert by_url[post.url]["title"].strip("{}") == post.original
        assert by_url[post.url]["year"] == post.date[:4]
    for slug in CHECKOUT.written():
        post = CHECKOUT.posts[slug]
        assert f"[{post.original}]({post.url}) · {post.date} · Su Jianlin" in NOTEBOOKS[post.document]


def test_the_notation_has_a_table_for_every_notebook():
    sections = re.split(r"^#{2,3} ", PAGES["book/notation"], flags=re.M)
    tables = {s.splitlines()[0]: re.findall(r"^\| (?!symbol)(.+?) \|", s, re.M) for s in sections}
    assert set(CHECKOUT.posts) <= set(tables)
    assert {slug for slug in CHECKOUT.posts if not 4 <= len(tables[slug]) <= 12} == set()
    assert set(CHECKOUT.parts.values()) <= set(tables)


def test_the_notation_lists_symbols_that_the_notebooks_use():
    """Each formula in the first column of a notebook's table occurs in its source, spaces and braces aside."""

    def flat(text):
        return re.sub(r"[\s{}]", "", re.sub(r"\\[lr]?(?:Vert|\|)", r"\\|", text))

    for section in re.split(r"^#{2,3} ", PAGES["book/notation"], flags=re.M):
        slug = section.splitlines()[0]
        if slug not in CHECKOUT.posts:
            continue
        source = flat(CHECKOUT.source(slug).read_text(encoding="utf-8"))
        symbols = [s for row in re.findall(r"^\| (.+?) \| ", section, re.M) for s in re.findall(r"\$([^$]+)\$", row)]
        unused = [s for s in symbols if not any(part in source for part in flat(s).split("="))]
        assert len(unused) * 5 <= len(symbols), f"{slug} does not use {unused}"
