"""Sphinx extension: a site that asks no other host and sends no more than its pages use."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

MATHJAX = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
    "input/tex/extensions",
)


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
    """Register the last step of a build."""
    app.connect("build-finished", _serve_ourselves, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
