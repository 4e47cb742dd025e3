"""List every external link of the book, sorted, one a line, with the pages that carry it. Asks no network.

python scripts/links.py
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https?://[^\s<>\"'`)\]}]+")


def markdown(file: Path) -> str:
    """The prose of a file: of a notebook's source its markdown cells, without their comment signs."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    cells = re.split(r"^# %%", text, flags=re.M)[1:]
    return "\n\n".join(re.sub(r"^# ?", "", c.partition("\n")[2], flags=re.M) for c in cells if c.startswith(" [markdown]"))


def sources(root: Path = ROOT) -> dict[str, str]:
    """Path of each written page, from the root and without its ending, and its prose."""
    files = [*root.glob("book/*.md"), *root.glob("notebooks/*/*.py"), root / "README.md", root / "CONTRIBUTING.md"]
    return {str(f.relative_to(root).with_suffix("")): markdown(f) for f in sorted(files)}


def external_links(root: Path = ROOT) -> dict[str, list[str]]:
    """External address -> the pages that carry it. The bibliography's arXiv ids and DOIs count as addresses."""
    found = defaultdict(set)
    for page, text in sources(root).items():
        without_code = re.sub(r"^```(?:bash|python).*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)
        for address in ADDRESS.findall(without_code):
            found[address.rstrip(".,;:")].add(page)
    for post in re.findall(r"archive: (\d+)", (root / "book" / "posts.yml").read_text(encoding="utf-8")):
        found[f"https://kexue.fm/archives/{post}"].add("book/posts")
    entries = (root / "book" / "references.bib").read_text(encoding="utf-8")
    at = {"eprint": "https://arxiv.org/abs/", "doi": "https://doi.org/", "url": ""}
    for field, value in re.findall(r"\b(eprint|doi|url) = \{([^}]+)\}", entries):
        found[at[field] + value].add("book/bibliography")
    return {address: sorted(pages) for address, pages in sorted(found.items())}


if __name__ == "__main__":
    for address, pages in external_links().items():
        print(address, *pages)
