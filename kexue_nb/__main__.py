"""The command line: python -m kexue_nb COMMAND."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from kexue_nb.checkout import Checkout, CheckoutError
from kexue_nb.ledger import VERDICTS, read_ledger

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _stop(message: str, code: int = 1):
    typer.echo(message, err=True)
    raise typer.Exit(code)


@app.command("list")
def list_() -> None:
    """The posts, whether their notebook is there and up to date, and its verdicts."""
    checkout = Checkout.here()
    for slug, post in checkout.posts.items():
        if not checkout.source(slug).exists():
            state = "coming"
        elif not checkout.executed(slug).exists():
            state = "not executed"
        else:
            ledger = read_ledger(json.loads(checkout.executed(slug).read_text(encoding="utf-8")))
            tally = [e["verdict"] for e in ledger["entries"]] if ledger else []
            state = ", ".join(f"{tally.count(v)} {v}" for v in VERDICTS if v in tally) or "no ledger"
            state += " (stale)" if checkout.stale(slug) else ""
        typer.echo(f"{post.part:14} {slug:28} {state}")


@app.command()
def stale() -> None:
    """The notebooks whose .ipynb is not made from their present .py and record, a line each."""
    checkout = Checkout.here()
    for slug in checkout.written():
        if checkout.stale(slug):
            typer.echo(slug)


@app.command()
def execute(
    slugs: Annotated[list[str] | None, typer.Argument(help="Slugs; default: the stale ones.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every notebook, stale or not.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; default: one a core.")] = os.cpu_count() or 1,
) -> None:
    """Execute notebooks at cpu scale and write their .ipynb where something changed."""
    from kexue_nb.execute import NotebookFailed
    from kexue_nb.execute import execute as run

    checkout = Checkout.here()
    chosen = slugs or [s for s in checkout.written() if all or checkout.stale(s)]
    for slug in chosen:
        if not checkout.source(slug).exists():
            _stop(f"{slug} has no notebook yet; make one with: python -m kexue_nb new {slug}")
    if not chosen:
        typer.echo("nothing to execute: every .ipynb is made from its present .py and record")
        return
    try:
        written = run(checkout, chosen, workers)
    except NotebookFailed as failure:
        _stop(str(failure))
    except KeyboardInterrupt:
        _stop("interrupted: finished notebooks are kept, nothing is half-written", 130)
    for slug in chosen:
        typer.echo(f"{slug}: {'written' if written[slug] else 'unchanged'}")


@app.command()
def site() -> None:
    """Build the site from the executed notebooks into _build/html; warnings are errors."""
    checkout = Checkout.here()
    (checkout.root / "_build").mkdir(exist_ok=True)
    log = checkout.root / "_build" / "site.log"
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", "-W", "-n", "--keep-going", str(checkout.root)]
    typer.echo("building the site ...")
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        faults = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "ERROR" in line or "Error" in line]
        _stop("\n".join([*faults[:20], f"the site was not built; the whole log is {log}"]))
    typer.echo(f"the site is at {checkout.root / '_build' / 'html' / 'index.html'}")


@app.command("pdf")
def pdf_() -> None:
    """Make _build/pdf/scientific-spaces-executed.pdf, the whole book, from the executed notebooks. Needs LaTeX; takes some minutes."""
    from kexue_nb import pdf

    typer.echo("making the PDF (some minutes) ...")
    try:
        made = pdf.build(Checkout.here())
    except pdf.PdfFailed as failure:
        _stop(str(failure))
    typer.echo(f"the PDF is at {made} ({made.stat().st_size / 1e6:.0f} MB); `make book` offers it on the front page")


@app.command()
def record(
    slug: Annotated[str | None, typer.Argument()] = None,
    all: Annotated[bool, typer.Option("--all", help="Every notebook that has full-scale runs, several at a time.")] = False,
) -> None:
    """Make a full-scale recording: the notebook run as a script with KEXUE_SCALE=full, on the GPU (or with KEXUE_DEVICE=cpu on the CPU).

    With --all, one notebook at a time on each GPU; KEXUE_SWEEP chooses another way (kexue_nb.sweep), a Dask cluster for example.
    """
    if (slug is None) != all:
        _stop("give one slug, or --all", 2)
    checkout = Checkout.here()
    if all:
        return _record_all(checkout)
    source = checkout.source(slug)
    if not source.exists():
        _stop(f"{slug} has no notebook yet; make one with: python -m kexue_nb new {slug}")
    environment = os.environ | {"KEXUE_SCALE": "full", "MPLBACKEND": "Agg"}
    raise typer.Exit(subprocess.run([sys.executable, str(source)], env=environment).returncode)


def _record_all(checkout: Checkout) -> None:
    from kexue_nb import execute
    from kexue_nb.sweep import SweepFailed, sweep

    slugs = [s for s in checkout.written() if "nb.run(" in checkout.source(s).read_text(encoding="utf-8")]
    on = os.environ.get("KEXUE_SWEEP") or ("serial" if os.environ.get("KEXUE_DEVICE") == "cpu" else "gpus")
    failure = None
    try:
        points = sweep(execute.record, {"root": [str(checkout.root)], "slug": slugs}, on=on)
    except SweepFailed as failed:
        points, failure = failed.points, failed
    except RuntimeError as error:  # no GPU
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("interrupted: the runs that were recorded are kept", 130)
    for point in points:
        typer.echo(_cost(point.parameters["slug"], point.result))
    kept = [p.result for p in points if p.result]
    runs = [run for result in kept for run in result["runs"].values()]
    peak = max((run["peak_mem_gb"] for run in runs), default=0.0)
    seconds = sum(result["seconds"] for result in kept)
    typer.echo(f"{len(kept)} of {len(slugs)} notebooks, {len(runs)} runs: {seconds:.0f} s of all processes together, peak {peak:.1f} GB")
    if failure:
        _stop(str(failure))


def _cost(slug: str, result: dict | None) -> str:
    if result is None:
        return f"{slug:28} failed"
    runs = ", ".join(f"{id} {run['wall_s']:.0f} s {run['peak_mem_gb']:.1f} GB" for id, run in result["runs"].items())
    devices = ", ".join(sorted({run["device"] for run in result["runs"].values()}))
    return f"{slug:28} {result['seconds']:6.0f} s  {runs or 'no new run'}{f' ({devices})' if devices else ''}"


@app.command()
def new(slug: str) -> None:
    """Begin a notebook: a .py with the sections in their order, and its place in the table of contents."""
    from kexue_nb.template import notebook_source

    checkout = Checkout.here()
    source = checkout.source(slug)
    if source.exists():
        _stop(f"{source.relative_to(checkout.root)} is there already")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(notebook_source(checkout.posts[slug], checkout.repository), encoding="utf-8")
    (checkout.root / "_toc.yml").write_text(checkout.toc(), encoding="utf-8")
    typer.echo(f"wrote {source.relative_to(checkout.root)}; fill it in, then: python -m kexue_nb execute {slug}")


@app.command()
def toc() -> None:
    """Rewrite _toc.yml from book/posts.yml and the notebooks that exist."""
    checkout = Checkout.here()
    (checkout.root / "_toc.yml").write_text(checkout.toc(), encoding="utf-8")


@app.command()
def address(url: Annotated[str | None, typer.Argument(help="https://github.com/OWNER/NAME")] = None) -> None:
    """Show the repository's address, or carry a new one into every file that has it."""
    checkout = Checkout.here()
    if url is None:
        typer.echo(checkout.repository)
        return
    for file in checkout.move_to(url):
        typer.echo(f"changed {file.relative_to(checkout.root)}")


@app.command()
def doctor() -> None:
    """What this machine has for building, testing and recording, and what it lacks."""
    checkout = Checkout.here()
    lacking = 0

    def line(name: str, value: str, good: bool) -> None:
        nonlocal lacking
        lacking += not good
        typer.echo(f"{'ok  ' if good else 'LACK'} {name:14} {value}")

    line("python", platform.python_version(), sys.version_info >= (3, 11))
    for requirement in (checkout.root / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, _, pinned = requirement.partition("==")
        if not pinned or requirement.startswith("#"):
            continue
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            have = "missing"
        if have.partition("+")[0] != pinned.strip():
            line(name, f"{have}, pinned {pinned.strip()}", False)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    line("browser", browser or "none: the page tests will be skipped", bool(browser))
    line("make", shutil.which("make") or "missing", bool(shutil.which("make")))
    free = shutil.disk_usage(checkout.root).free / 1e9
    line("disk", f"{free:.0f} GB free", free > 3)
    outdated = [s for s in checkout.written() if checkout.stale(s)]
    line("notebooks", f"{len(checkout.written())} written, stale: {', '.join(outdated) or 'none'}", not outdated)
    try:
        import torch

        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: full-scale recordings need one"
        typer.echo(f"     {'gpu':14} {gpu}")
    except ImportError:
        line("torch", "missing", False)
    if lacking:
        _stop(f"{lacking} lacking; `make test` sets up the environment from requirements.txt")


def main() -> None:
    """Run the command line; errors about the checkout become one line."""
    try:
        app()
    except (CheckoutError, ValueError) as error:
        typer.echo(f"kexue_nb: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
