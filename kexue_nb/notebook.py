"""What a notebook opens: seeds, device, scale and style at the start; checks, runs and figures on the way; the ledger at the end."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence

from kexue_nb import plotting, records, runtime
from kexue_nb.ledger import Check, Ledger

RESULTS_MIME = "application/vnd.kexue-nb.results+json"


def notebook(slug: str, *, seed: int = 0) -> Notebook:
    """Open the notebook ``slug``: choose scale and device, seed everything, set the plot style, print one line about it."""
    nb = Notebook(slug, seed)
    print(f"{slug}: scale {nb.scale} on {runtime.device_name(nb.device)}; {runtime.versions()}; seed {seed}")
    return nb


class Notebook:
    """The state of one notebook. Attributes: ``slug``, ``seed``, ``scale`` (cpu, gpu or full) and ``device`` (torch's)."""

    def __init__(self, slug: str, seed: int = 0):
        self.slug, self.seed = slug, seed
        self.scale = runtime.scale()
        self.device = runtime.wanted_device(self.scale)
        self._ledger = Ledger(slug, self.scale)
        self._records = records.load(slug)
        runtime.seed_everything(seed)
        plotting.use_style()

    def at_scale(self, *, cpu, gpu, full):
        """The one of three values that belongs to the scale of this run."""
        return {"cpu": cpu, "gpu": gpu, "full": full}[self.scale]

    # Evidence

    def derivation(self, id: str, statement: str, *checks: Check) -> None:
        """Enter a derivation step, verified by ``checks`` that all passed."""
        self._enter("D", id, statement, "verified", holds=checks)

    def claim(
        self, id: str, statement: str, verdict: str, *, holds: Iterable[Check] = (), fails: Iterable[Check] = (), reason: str = ""
    ) -> None:
        """Enter a claim of the post (C..) or one of ours (X..); ``Ledger.add`` says which verdict takes which evidence."""
        self._enter("CX", id, statement, verdict, holds=holds, fails=fails, reason=reason)

    def experiment(self, id: str, statement: str, verdict: str, *, holds: Iterable[Check] = (), fails: Iterable[Check] = ()) -> None:
        """Enter what an experiment showed."""
        self._enter("E", id, statement, verdict, holds=holds, fails=fails)

    def _enter(self, kinds: str, id: str, statement: str, verdict: str, **evidence) -> None:
        if id[:1] not in kinds:
            raise ValueError(f"{id}: ids here begin with {' or '.join(kinds)}; D are derivations, C and X claims, E experiments")
        _display(self._ledger.add(id, statement, verdict, **evidence))

    def ledger(self) -> None:
        """Show the ledger: the last code cell of every notebook. Raises ValueError where nothing was entered."""
        if not self._ledger.entries:
            raise ValueError(f"{self.slug}: the ledger is empty")
        _display(self._ledger)

    # Experiments

    def run(self, id: str, function: Callable[..., Mapping], **config) -> dict:
        """Run ``function(device=..., **config)`` and return its result as plain JSON data (floats to 6 digits).

        ``config`` must be plain data too. At scale ``full`` the run is recorded with its provenance.
        """
        config = records.compact(config)
        with runtime.Stopwatch(self.device) as watch:
            result = function(device=self.device, **config)
        result = records.compact(dict(result))
        if self.scale != "full" and id in self._records and self._records[id].code_sha256 != records.code_sha256(function):
            print(f"note: {id} was recorded by other code than this")
        if self.scale == "full":
            import torch

            run = records.Run(
                device=runtime.device_name(self.device),
                torch=torch.__version__,
                cuda=torch.version.cuda,
                date=records.today(),
                wall_s=round(watch.wall_s, 2),
                peak_mem_gb=round(watch.peak_mem_gb, 2),
                code_sha256=records.code_sha256(function),
                config=config,
                result=result,
            )
            file = records.save(self.slug, id, run)
            self._records[id] = run
            print(f"recorded {id} in {file.name}: {run.provenance}")
        return result

    def recorded(self, id: str) -> records.Run:
        """The recorded full-scale run of an experiment. Raises LookupError where there is none."""
        if id not in self._records:
            raise LookupError(f"{self.slug} has no recorded run {id}; make one on a GPU with: python -m kexue_nb record {self.slug}")
        return self._records[id]

    # Display

    def show(self, figure) -> None:
        """Display a matplotlib figure as a compact PNG and close it. Its alternative text stands in the cell's metadata."""
        import matplotlib.pyplot as plt

        title = next((axes.get_title(loc="left") or axes.get_title() for axes in figure.axes), "") or "figure"
        if _in_jupyter():
            _display(_Picture(plotting.png(figure), title))
        plt.close(figure)

    def results(self, id: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
        """Display a table of an experiment's headline numbers, ours beside the source's; the book's results page collects them."""
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{id}: a row of {len(row)} cells under {len(columns)} columns: {row!r}")
        cells = [[str(x) for x in row] for row in rows]
        _display(_Results({"schema": 1, "slug": self.slug, "id": id, "caption": caption, "columns": list(columns), "rows": cells}))


class _Picture:
    def __init__(self, data: bytes, title: str):
        self.data, self.title = data, title

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"image/png": self.data, "text/plain": f"Figure: {self.title}"}


class _Results:
    def __init__(self, doc: dict):
        self.doc = doc

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        head, rows = self.doc["columns"], self.doc["rows"]
        plain = [self.doc["caption"], " | ".join(head), *(" | ".join(row) for row in rows)]
        return {RESULTS_MIME: self.doc, "text/html": results_html(self.doc), "text/plain": "\n".join(plain)}


def results_html(doc: Mapping) -> str:
    """A results table as HTML."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in doc["columns"])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in doc["rows"])
    caption = html.escape(doc["caption"])
    return f'<table class="kx-results"><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _in_jupyter() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _display(item) -> None:
    if _in_jupyter():
        from IPython.display import display

        display(item)
    else:
        print(item._repr_mimebundle_()["text/plain"])
