"""The book as one PDF, by Jupyter Book's LaTeX route, from the executed notebooks: nothing is executed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kexue_nb.checkout import Checkout

NAME = "scientific-spaces-executed.pdf"
# What it takes, and the Debian and Ubuntu package that has it.
COMMANDS = {"xelatex": "texlive-xetex", "latexmk": "latexmk", "make": "make", "fc-list": "fontconfig"}
STYLES = {
    "fancyhdr.sty": "texlive-latex-base",
    "unicode-math.sty": "texlive-latex-recommended",
    "tabulary.sty": "texlive-latex-extra",
    "xeCJK.sty": "texlive-lang-chinese",
    "ctexhook.sty": "texlive-lang-chinese",
    "pzdr.tfm": "texlive-fonts-recommended",
}
FONTS = {
    "FreeSerif": "fonts-freefont-otf",
    "DejaVu Sans Mono": "fonts-dejavu-core",
    "Noto Serif CJK SC": "fonts-noto-cjk",
    "TeX Gyre Termes Math": "fonts-texgyre-math",
}


class PdfFailed(RuntimeError):
    """The PDF could not be made, or lost something on the way; the message says what."""


def place(root: Path) -> Path:
    """Where the PDF of a checkout stands once it is made; its LaTeX log lies beside it."""
    return root / "_build" / "pdf" / NAME


def lacking() -> list[str]:
    """The Debian packages that this machine lacks for making the PDF."""
    missing = [package for command, package in COMMANDS.items() if not shutil.which(command)]
    if shutil.which("kpsewhich"):
        missing += [package for style, package in STYLES.items() if not _output("kpsewhich", style).strip()]
    else:
        missing += STYLES.values()
    families = _output("fc-list", ":", "family") if shutil.which("fc-list") else ""
    missing += [package for family, package in FONTS.items() if family not in families]
    return list(dict.fromkeys(missing))


def build(checkout: Checkout) -> Path:
    """Make the PDF. Raises PdfFailed for missing packages, for warnings of Sphinx, errors of LaTeX, and for lost characters and links."""
    if missing := lacking():
        raise PdfFailed(f"the PDF needs LaTeX and fonts. On Debian and Ubuntu: apt-get install --no-install-recommends {' '.join(missing)}")
    target = place(checkout.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    program = "from jupyter_book.cli.main import main; main()"
    options = ["--builder", "pdflatex", "--path-output", str(target.parent), "-W", "-n", "--keep-going"]
    environment = os.environ | {
        "PYTHONIOENCODING": "utf-8",
        "LATEXMKOPTS": "-xelatex -interaction=nonstopmode -halt-on-error",
        "max_print_line": "1000",
    }
    said = target.with_name("build.log")
    with said.open("w", encoding="utf-8") as log:
        command = [sys.executable, "-c", program, "build", *options, str(checkout.root)]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    made = target.parent / "_build" / "latex" / NAME
    if code:
        told = said.read_text(encoding="utf-8", errors="replace").splitlines()
        faults = [line for line in told if re.search(r"WARNING|ERROR|Error|^!", line)]
        raise PdfFailed("\n".join([*faults[:20], f"the PDF was not made; the whole log is {said}"]))
    if lost := losses(made.with_suffix(".log").read_text(encoding="utf-8", errors="replace")):
        raise PdfFailed("\n".join([*lost[:20], f"the PDF would lack these; the whole log is {made.with_suffix('.log')}"]))
    for suffix in (".log", ".pdf"):
        shutil.copy2(made.with_suffix(suffix), target.with_suffix(suffix))
    return target


def losses(log: str) -> list[str]:
    """The lines of a LaTeX log that tell of lost content: characters that no font has, links without a target."""
    return [
        line for line in log.splitlines() if re.search(r"Missing character|(?:Reference|Citation) .* undefined|undefined references", line)
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout
