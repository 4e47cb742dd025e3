"""The built site in a real browser: nothing broken, nothing fetched from elsewhere, usable by everyone, light enough."""

import csv
import gzip
import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from kexue_nb.checkout import PAGES, Checkout
from kexue_nb.ledger import read_ledger

CHECKOUT = Checkout.here()
SITE = CHECKOUT.root / "_build" / "html"
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_BROWSER = "no chromium or chrome on this machine: the pages were not looked at"

pages = sorted(str(p.relative_to(SITE)) for p in SITE.rglob("*.html") if "_static" not in p.parts)


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        if os.environ.get("KEXUE_NEEDS_BROWSER") == "1":
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """One page, opened from the file system, and all that it did."""

    def __init__(self, browser, path, width=1280, scheme="light"):
        self.faults, self.outside, self.files = [], [], set()
        self.page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        self.page.on("request", self._note)
        self.page.goto(f"file://{SITE / path}", wait_until="load")
        self.page.wait_for_function(
            "!window.MathJax || !MathJax.startup || !MathJax.startup.promise || MathJax.startup.promise.then(() => true)"
        )
        self.page.wait_for_timeout(200)

    def _note(self, request):
        where = urlparse(request.url)
        if where.scheme == "file":
            self.files.add(Path(unquote(where.path)))
        elif where.scheme not in ("data", "blob"):
            self.outside.append(request.url)

    def close(self):
        self.page.context.close()


def sent(file):
    """Bytes on the wire: web servers compress text."""
    return len(gzip.compress(file.read_bytes(), 6)) if file.suffix in (".html", ".js", ".css", ".svg", ".json") else file.stat().st_size


def test_the_site_is_built():
    assert (SITE / "index.html").exists(), "run `make book` first"
    expected = {f"{CHECKOUT.posts[s].document}.html" for s in CHECKOUT.written()}
    expected |= {f"book/{p}.html" for p in ("index", *PAGES)}
    assert expected <= set(pages)


@pytest.mark.parametrize("path", pages)
def test_a_page_is_whole(browser, path):
    visit = Visit(browser, path)
    assert visit.faults == []
    assert visit.outside == []
    assert visit.page.locator("mjx-merror").count() == 0
    text = visit.page.locator("main").inner_text() if visit.page.locator("main").count() else ""
    prose = visit.page.evaluate("""() => { const copy = document.querySelector('main')?.cloneNode(true); if (!copy) return '';
        copy.querySelectorAll('pre, code, mjx-container, script').forEach(e => e.remove()); return copy.textContent; }""")
    assert "\\(" not in prose
    assert "$$" not in prose
    assert "{cite}" not in text
    sizes = sorted(((sent(f), f.stat().st_size, f.name) for f in visit.files if f.exists()), reverse=True)
    assert sum(size for size, _, _ in sizes) <= 1e6, f"a web server would send {sizes[:8]}"
    assert sum(size for _, size, _ in sizes) <= 2.5e6, f"on disk {sizes[:8]}"
    assert len(visit.files) <= 70, "requests"
    visit.close()


def test_a_page_is_soon_readable_on_a_slow_phone(browser):
    heaviest = max((p for p in pages if p.startswith("notebooks/")), key=lambda p: (SITE / p).stat().st_size)
    for path in ("book/index.html", "book/ledger.html", heaviest):
        page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.goto(f"file://{SITE / path}", wait_until="commit")
        painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        page.wait_for_function(painted, timeout=60_000)
        assert page.evaluate(painted) <= 6000, f"{path}: milliseconds until the text stands, on a CPU slowed four times"
        page.context.close()


@pytest.mark.parametrize("path", [p for p in pages if p.startswith(("book/", "notebooks/"))])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_is_accessible(browser, path, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    visit = Visit(browser, path, width, scheme)
    found = Axe().run(visit.page).response["violations"]
    serious = {v["id"]: [n["html"][:160] for n in v["nodes"][:3]] for v in found if v["impact"] in ("serious", "critical")}
    assert serious == {}
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    missing = visit.page.eval_on_selector_all("main img", "images => images.filter(i => !i.alt).map(i => i.src)")
    assert missing == []
    visit.close()


def test_navigation_reaches_every_page(browser):
    seen, waiting = set(), ["index.html"]
    visit = Visit(browser, "index.html")
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        visit.page.goto(f"file://{SITE / path}", wait_until="domcontentloaded")
        visit.page.wait_for_selector("a[href]", state="attached")  # the front page has none and sends its reader on
        for link in visit.page.eval_on_selector_all("a[href]", "links => links.map(a => a.href)"):
            where = urlparse(link)
            if where.scheme != "file":
                continue
            target = Path(unquote(where.path))
            assert target.exists(), f"{path} links to {target.name}, which does not exist"
            if target.suffix == ".html" and SITE in target.parents:
                waiting.append(str(target.relative_to(SITE)))
    assert {p for p in pages if p.startswith(("book/", "notebooks/"))} <= seen
    visit.close()


def test_the_ledger_filters(browser):
    visit = Visit(browser, "book/ledger.html")
    page = visit.page
    shown = "rows => rows.filter(r => !r.hidden).map(r => [r.dataset.post, r.dataset.kind, r.dataset.verdict])"
    rows = page.eval_on_selector_all("#kx-ledger tbody tr", shown)
    assert len(rows) >= 38
    assert page.inner_text("#kx-count") == f"{len(rows)} of {len(rows)} entries"
    page.select_option("#kx-verdict", "partly")
    page.select_option("#kx-kind", "claim")
    fewer = page.eval_on_selector_all("#kx-ledger tbody tr", shown)
    assert 0 < len(fewer) < len(rows)
    assert {(kind, verdict) for _, kind, verdict in fewer} == {("claim", "partly")}
    page.select_option("#kx-verdict", "")
    page.select_option("#kx-kind", "")
    page.fill("#kx-words", "stein attended")
    assert page.inner_text("#kx-count").startswith("0 of")
    page.fill("#kx-words", "jacobian norm")
    assert 0 < len(page.eval_on_selector_all("#kx-ledger tbody tr", shown)) < len(rows)
    visit.close()


def test_the_ledger_opens_filtered_from_an_address(browser):
    visit = Visit(browser, "book/ledger.html")
    visit.page.goto(f"file://{SITE}/book/ledger.html?post=rope-base&verdict=partly")
    rows = visit.page.eval_on_selector_all(
        "#kx-ledger tbody tr", "rows => rows.filter(r => !r.hidden).map(r => r.dataset.post + ' ' + r.dataset.verdict)"
    )
    assert rows
    assert set(rows) == {"rope-base partly"}
    visit.close()


def test_the_downloads_hold_every_entry_in_full():
    ledgers = [read_ledger(json.loads(CHECKOUT.executed(slug).read_text(encoding="utf-8"))) for slug in CHECKOUT.written()]
    assert json.loads((SITE / "book" / "ledger.json").read_text(encoding="utf-8"))["ledgers"] == ledgers
    with (SITE / "book" / "ledger.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    entries = [(ledger["slug"], e) for ledger in ledgers for e in ledger["entries"]]
    assert [(r["slug"], r["id"], r["verdict"], r["measured"]) for r in rows] == [
        (s, e["id"], e["verdict"], e["measured"]) for s, e in entries
    ]
    for slug in CHECKOUT.written():
        copies = SITE / "_sources" / f"{CHECKOUT.posts[slug].document}"
        assert copies.with_suffix(".py").read_bytes() == CHECKOUT.source(slug).read_bytes()
        assert copies.with_suffix(".ipynb").read_bytes() == CHECKOUT.executed(slug).read_bytes()


def test_what_did_not_hold_is_all_there(browser):
    visit = Visit(browser, "book/did-not-hold.html")
    ledgers = [read_ledger(json.loads(CHECKOUT.executed(slug).read_text(encoding="utf-8"))) for slug in CHECKOUT.written()]
    failed = [e for ledger in ledgers for e in ledger["entries"] if e["verdict"] in ("refuted", "not reproduced")]
    shown = visit.page.eval_on_selector_all(".kx-finding .kx-verdict", "all => all.map(v => v.dataset.verdict)")
    assert shown == [e["verdict"] for e in failed]
    visit.close()


def test_a_ledger_link_opens_its_evidence(browser):
    visit = Visit(browser, "book/ledger.html")
    visit.page.click("#kx-ledger tbody tr:nth-child(3) a")
    visit.page.wait_for_load_state("load")
    identifier = visit.page.url.partition("#")[2]
    assert visit.page.evaluate("id => document.getElementById(id).querySelector('details').open", identifier)
    visit.close()


@pytest.mark.parametrize("slug", CHECKOUT.written())
def test_a_notebook_page_has_its_colab_and_repository_links(browser, slug):
    visit = Visit(browser, f"{CHECKOUT.posts[slug].document}.html")
    links = visit.page.eval_on_selector_all("a[href]", "links => links.map(a => a.href)")
    where = CHECKOUT.repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{where}/blob/main/{CHECKOUT.posts[slug].document}.ipynb"
    assert links.count(colab) >= 2, "the badge and the launch button"
    assert any(link.startswith(CHECKOUT.repository) for link in links)
    bar = visit.page.locator(".kx-about")
    assert bar.locator("a[download]").count() == 2
    assert bar.locator(f"a[href$='ledger.html?post={slug}']").count() == 1
    visit.close()
