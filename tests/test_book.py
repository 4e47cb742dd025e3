"""The words of the book: its notation, its bibliography, its links and its spelling."""

import html
import re
import runpy
import tomllib
import unicodedata
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from PIL import Image
from pybtex.backends.plaintext import Backend
from pybtex.database import Entry, parse_file, parse_string
from pybtex.style.formatting.plain import Style
from spellchecker import SpellChecker

import kexue_nb
from kexue_nb.checkout import Checkout

CHECKOUT = Checkout.here()
ROOT = CHECKOUT.root
links = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "links.py")))
BIBLIOGRAPHY = parse_file(ROOT / "book" / "references.bib").entries


SOURCES = links.sources(ROOT)
SITE = ROOT / "_build" / "html"


def cited(text):
    """The bibliography keys that a text cites, in order."""
    return [key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")]


def test_every_citation_has_an_entry_and_every_entry_a_citation():
    keys = {key for text in SOURCES.values() for key in cited(text)}
    assert keys - set(BIBLIOGRAPHY) == set()
    assert set(BIBLIOGRAPHY) - keys == set()


def fault(entry, style):
    """What is missing or wrong in a bibliography entry, or nothing."""
    fields = entry.fields
    if not entry.persons.get("author"):
        return "no author"
    if not re.fullmatch(r"(18|19|20)\d\d", fields.get("year", "")):
        return "no year"
    if not any(fields.get(f) for f in ("eprint", "doi", "url", "journal", "booktitle", "publisher", "institution")):
        return "nowhere to be found"
    if not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", fields.get("eprint", "0000.0000")):
        return "no arXiv id"
    shown = style.format_entry("1", entry).text.render(Backend())
    return f"LaTeX would show: {shown}" if re.search(r"[\\{}$]", shown) else ""


def test_every_reference_says_who_when_and_where():
    style = Style()
    faults = {key: found for key, entry in BIBLIOGRAPHY.items() if (found := fault(entry, style))}
    assert faults == {}


def test_a_faulty_reference_is_noticed():
    entry = parse_string(
        r"@misc{a, author = {Su, Jianlin}, title = {On \\url{x}}, year = {2024}, eprint = {2405.04434}}", "bibtex"
    ).entries["a"]
    style = Style()
    assert "LaTeX" in fault(entry, style)
    entry.fields["title"] = "On x"
    assert fault(entry, style) == ""
    for field, value in (("year", "24"), ("eprint", "10122"), ("eprint", "")):
        broken = Entry(entry.type, {**entry.fields, field: value}, entry.persons)
        assert fault(broken, style)


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
        assert f"[{post.original}]({post.url}) · {post.date} · Su Jianlin" in SOURCES[post.document]


def test_the_notation_has_a_table_for_every_notebook():
    sections = re.split(r"^#{2,3} ", SOURCES["book/notation"], flags=re.M)
    tables = {s.splitlines()[0]: re.findall(r"^\| (?!symbol)(.+?) \|", s, re.M) for s in sections}
    assert set(CHECKOUT.posts) <= set(tables)
    assert {slug for slug in CHECKOUT.posts if not 4 <= len(tables[slug]) <= 12} == set()
    assert set(CHECKOUT.parts.values()) <= set(tables)


def test_the_notation_lists_symbols_that_the_notebooks_use():
    """Each formula in the first column of a notebook's table occurs in its source, spaces and braces aside."""

    def flat(text):
        return re.sub(r"[\s{}]", "", re.sub(r"\\[lr]?(?:Vert|\|)", r"\\|", text))

    for section in re.split(r"^#{2,3} ", SOURCES["book/notation"], flags=re.M):
        slug = section.splitlines()[0]
        if slug not in CHECKOUT.posts:
            continue
        source = flat(CHECKOUT.source(slug).read_text(encoding="utf-8"))
        symbols = [s for row in re.findall(r"^\| (.+?) \| ", section, re.M) for s in re.findall(r"\$([^$]+)\$", row)]
        unused = [s for s in symbols if not any(part in source for part in flat(s).split("="))]
        assert len(unused) * 5 <= len(symbols), f"{slug} does not use {unused}"


@pytest.mark.skipif(not SITE.exists(), reason="run `make book` first")
@pytest.mark.parametrize("slug", CHECKOUT.written())
def test_symbols_lead_to_their_line_in_the_notation(slug):
    page = (SITE / f"{CHECKOUT.posts[slug].document}.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="kx-symbol[^"]*" href="\.\./\.\./book/notation\.html#([\w-]+)" title="([^"]+)"', page)
    assert len(links) >= 3
    assert slug in {anchor for anchor, _ in links}


def internal_links(text):
    """The targets of a page's links into the book: of markdown links, of {doc} and of images."""
    roles = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text)
    plain = re.sub(r"^```(?:bash|python).*?^```|\$[^$]*\$|`[^`\n]*`", "", text, flags=re.M | re.S)
    return roles + [t for t in re.findall(r"\]\(([^)\s]+)\)", plain) if "://" not in t]


def headings(text):
    """The anchors that a page's headings make."""
    found = re.findall(r"^#{1,3} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in found}


def test_links_are_found():
    text = (
        "[a](x.ipynb#b), {doc}`c <../d>`, {doc}`e`, ![f](g.svg), [h](https://i.org), `[j](k)`, $[l](m)$\n```python\nn[0](o)\n```\n[](p.md)"
    )
    assert internal_links(text) == ["../d", "e", "x.ipynb#b", "g.svg", "p.md"]
    assert headings("# A b\n## mha-to-mla\n```\n# no\n```") == {"a-b", "mha-to-mla"}


@pytest.mark.parametrize("page", SOURCES)
def test_links_into_the_book_lead_to_pages_that_exist(page):
    for target in internal_links(SOURCES[page]):
        path, _, fragment = target.partition("#")
        there = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        known = str(there.relative_to(ROOT).with_suffix("") if there.suffix in (".ipynb", ".md", ".py") else there.relative_to(ROOT))
        assert known in SOURCES or there.exists(), f"{target} leads nowhere"
        if fragment and known in SOURCES and not known.startswith("notebooks/"):
            assert fragment in headings(SOURCES[known]), f"{target}: there is no such heading"


def test_external_links_are_public_and_encrypted():
    found = links.external_links(ROOT)
    assert len(found) > 300
    assert [a for a in found if urlsplit(a).scheme != "https"] == []
    hosts = {urlsplit(a).hostname for a in found}
    assert all("." in host and not re.fullmatch(r"[\d.:]+|.*\.(local|internal|lan|home|test|example)", host) for host in hosts), hosts


@pytest.mark.skipif(not SITE.exists(), reason="run `make book` first")
def test_every_fragment_of_the_site_has_its_anchor():
    texts = {str(p.relative_to(SITE)): p.read_text(encoding="utf-8") for p in SITE.rglob("*.html") if "_static" not in p.parts}
    ids = {page: set(re.findall(r'<[^>]*?\s(?:id|name)="([^"]+)"', text)) for page, text in texts.items()}
    broken = defaultdict(list)
    for page, text in texts.items():
        for href in set(re.findall(r'<a\b[^>]*?\shref="([^"]+)"', text)):
            where = urlsplit(html.unescape(href))
            if where.scheme or where.netloc or not where.fragment:
                continue
            target = str(PurePosixPath(page).parent / unquote(where.path)) if where.path else page
            target = str((SITE / target).resolve().relative_to(SITE.resolve()))
            if target in ids and unquote(where.fragment) not in ids[target]:
                broken[page].append(href)
    assert broken == {}


DICTIONARY = SpellChecker(language="en")


def known(word, listed):
    """Whether the dictionary or the list (in small letters) has a word, or the dictionary its American spelling."""
    plain = re.sub(r"['’]s$", "", word.lower())
    american = re.sub(r"is(e|es|ed|er|ers|ing|ation|ations|able)$", r"iz\1", plain).replace("our", "or")
    return plain in listed or any(w in DICTIONARY for w in (word.lower(), plain, american))


def words_of(text):
    """The words of a page's prose: no code, no formulas, no roles, no addresses."""
    text = re.sub(r"^```(?:bash|python|text).*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^```\{.*$|^:class:.*$|&\w+;", "", text, flags=re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`\n]*`|\{[\w:-]+\}|\]\([^)]*\)|https?://\S+|<[^>]+>", " ", text, flags=re.S)
    return re.findall(r"(?<![\w.@/\\])[A-Za-zÀ-ɏ]+(?:['’][A-Za-z]+)?(?![\w@/])", text)


def test_the_prose_is_spelt_as_the_dictionary_and_the_word_list_have_it():
    listed = (ROOT / "book" / "words.txt").read_text(encoding="utf-8").split("\n")[2:-1]
    assert listed == sorted(set(listed), key=lambda w: (w.lower(), w))
    small = {w.lower() for w in listed}
    unknown = {word: page for page, text in SOURCES.items() for word in set(words_of(text)) if not known(word, small)}
    assert unknown == {}, "correct these, or add them to book/words.txt"


@pytest.mark.parametrize("word", ["teh", "recieve", "occured", "normalisd", "Guassian", "derivaton", "behavoiur", "seperate", "thier"])
def test_a_misspelling_is_noticed(word):
    assert not known(word, {"softmax"})


@pytest.mark.parametrize(
    "word", ["normalised", "normalized", "Optimiser", "initialisation", "behaviour", "centred", "neighbour's", "softmax's"]
)
def test_both_spellings_pass(word):
    assert known(word, {"softmax", "centred"})


def test_the_glossary_is_sorted_bilingual_and_linked():
    def plain(term):
        return unicodedata.normalize("NFKD", term).encode("ascii", "ignore").decode().lower().replace("-", " ")

    body = re.search(r"```\{glossary\}\n(.*?)```", SOURCES["book/glossary"], re.S)[1].strip()
    entries = [entry.split("\n  ") for entry in body.split("\n\n")]
    assert 80 <= len(entries) <= 150
    assert [e[0] for e in entries] == sorted({e[0] for e in entries}, key=plain)
    for term, definition in entries:
        found = re.fullmatch(r"\{zh\}`[^`]+` · [^.]*\..* \[([\w-]+)\]\(\.\./(notebooks/\w+/[\w-]+)\.ipynb\)", definition)
        assert found, term
        assert found[2] == CHECKOUT.posts[found[1]].document
        stem = max(re.findall(r"[^\W\d_]+", term), key=len)[:6].lower()
        assert stem in SOURCES[found[2]].lower() or term in ("MLA", "GQA"), f"{found[1]} does not speak of {term}"


@pytest.mark.skipif(not SITE.exists(), reason="run `make book` first")
def test_every_page_tells_search_engines_what_it_is():
    base = f"https://{CHECKOUT.repository.split('/')[3]}.github.io/{CHECKOUT.repository.split('/')[4]}/"
    listed = re.findall(r"<loc>([^<]+)</loc>", (SITE / "sitemap.xml").read_text(encoding="utf-8"))
    expected = sorted(f"{p.relative_to(SITE)}" for folder in ("book", "notebooks") for p in (SITE / folder).rglob("*.html"))
    assert sorted(listed) == sorted(base + page for page in expected)
    assert f"Sitemap: {base}sitemap.xml" in (SITE / "robots.txt").read_text(encoding="utf-8")
    said = Counter()
    for page in expected:
        head = (SITE / page).read_text(encoding="utf-8").partition("</head>")[0]
        assert f'<link rel="canonical" href="{base}{page}"' in head
        tags = dict(re.findall(r'<meta (?:property|name)="([\w:]+)" content="([^"]*)"', head))
        assert {"og:title", "og:description", "og:url", "og:image", "twitter:card", "description"} <= set(tags), page
        assert 40 <= len(html.unescape(tags["description"])) <= 300, page
        assert not re.search(r"\\[a-z]|\$", tags["og:title"] + tags["description"]), page
        assert (SITE / tags["og:image"].removeprefix(base)).exists()
        said[tags["og:title"]] += 1
    assert max(said.values()) == 1


def test_the_card_has_the_size_that_networks_ask_for():
    with Image.open(ROOT / "book" / "_static" / "card.png") as card:
        assert card.size == (1200, 630)


def test_the_licences_and_the_citation_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The editors of this edition"}]
    assert citation["repository-code"] == CHECKOUT.repository
    assert citation["version"] == kexue_nb.__version__
    assert citation["title"] == yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    assert [p["family-names"] for r in citation["references"] for p in r["authors"]] == ["Su"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == [project["license"], "CC-BY-4.0"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8").startswith("Attribution 4.0 International")
    assert all(f"]({name})" in SOURCES["README"] for name in ("LICENSE", "LICENSE-TEXT", "CITATION.cff"))


def test_formulas_become_plain_text_in_descriptions():
    words = runpy.run_path(str(ROOT / "book" / "_ext" / "kexue_words.py"))
    assert words["plain"](r"\alpha\approx0.84\sqrt{\log n}") == "α≈0.84√log n"
    assert words["plain"](r"x_t=\tanh(Ax_{t-1}+\varepsilon)") == "x_t=tanh (Ax_t-1+ε)"
    assert words["base_address"]("https://github.com/someone/book") == "https://someone.github.io/book/"
