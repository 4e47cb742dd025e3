"""Executing notebooks: .py -> executed .ipynb, in parallel, written only when something changed."""

from __future__ import annotations

import copy
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kexue_nb import records, runtime
from kexue_nb.checkout import Checkout

SCALE = "cpu"
BUDGET_S, BUDGET_GB, REFERENCE_S = 60.0, 4.0, 0.6
APPROXIMATE = re.compile(r"≈[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")
_LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message names the notebook, the cell and the error."""


def read_source(path: Path):
    """The notebook (nbformat 4) that a py:percent file describes, with stable cell ids and metadata."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": _LANGUAGE}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:03d}"
    return notebook


def budget(metadata: dict) -> tuple[float, float]:
    """Seconds (scaled to the reference machine where this one is slower) and GB that an executed notebook took."""
    slowness = max(1.0, metadata["calibration_s"] / REFERENCE_S)
    return metadata["wall_s"] / slowness, metadata["peak_memory_gb"]


def _run(slug: str, root: Path) -> dict:
    """Execute one notebook in this process's kernel and return it as JSON data."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    checkout = Checkout(root)
    source = checkout.source(slug)
    os.environ["KEXUE_SCALE"] = SCALE
    calibration = runtime.calibrate()
    notebook = read_source(source)

    def done(cell, cell_index, execute_reply=None):
        print(cell_index, flush=True)

    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_executed=done,
    )
    start = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        number = next(i for i, c in enumerate(notebook.cells) if any(o.get("output_type") == "error" for o in c.get("outputs", ())))
        head = "\n".join(notebook.cells[number].source.splitlines()[:6])
        raise NotebookFailed(f"{slug}: cell {number} failed with {error.ename}: {error.evalue}\n--- the cell begins\n{head}") from None
    notebook.metadata = {
        "kernelspec": _KERNEL,
        "language_info": _LANGUAGE,
        "kexue_nb": {
            "source_sha256": checkout.source_sha256(slug),
            "scale": SCALE,
            "wall_s": round(time.perf_counter() - start, 1),
            "peak_memory_gb": round(runtime.peak_process_gb(children=True), 2),
            "calibration_s": round(calibration, 2),
        },
    }
    return json.loads(json.dumps(notebook))


def comparable(notebook: dict) -> dict:
    """A notebook without what may differ between two runs: measured cost, ignored outputs, approximate numbers."""
    same = copy.deepcopy(notebook)
    for name in ("wall_s", "peak_memory_gb", "calibration_s"):
        same["metadata"].get("kexue_nb", {}).pop(name, None)
    for cell in same["cells"]:
        if "nbval-ignore-output" in cell["metadata"].get("tags", ()):
            cell["outputs"] = []
    return json.loads(APPROXIMATE.sub("≈", json.dumps(same, ensure_ascii=False)))


def _write(path: Path, notebook: dict) -> bool:
    """Replace ``path`` in one step, unless it already says the same within its time budget. Returns whether it was written."""
    import nbformat

    node = nbformat.from_dict(notebook)
    nbformat.validate(node)
    text = nbformat.writes(node) + "\n"
    if path.exists():
        try:
            kept = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
            if comparable(kept) == comparable(nbformat.reads(text, as_version=4)) and budget(kept["metadata"]["kexue_nb"])[0] <= BUDGET_S:
                return False
        except (ValueError, KeyError):
            pass
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return True


def execute(checkout: Checkout, slugs: list[str], workers: int | None = None) -> dict[str, bool]:
    """Execute notebooks in parallel, each in a process of its own, with a progress bar; returns slug -> whether its .ipynb was rewritten.

    Raises NotebookFailed at the first failing cell; notebooks that finished before it are kept.
    """
    from tqdm import tqdm

    cells = sum(c.cell_type == "code" for slug in slugs for c in read_source(checkout.source(slug)).cells)
    workers = workers or os.cpu_count() or 1
    waiting, running, written = list(slugs), {}, {}
    events: queue.SimpleQueue = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as name, tqdm(total=cells, unit="cell", desc="executing") as bar:
        folder = Path(name)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    slug = waiting.pop(0)
                    running[slug] = _start(checkout, slug, folder, events)
                slug, cell = events.get()
                if cell is not None:
                    bar.update()
                    bar.set_postfix_str(slug)
                elif running.pop(slug).wait():
                    raise NotebookFailed((folder / f"{slug}.err").read_text(encoding="utf-8").strip())
                else:
                    written[slug] = _write(checkout.executed(slug), json.loads((folder / f"{slug}.json").read_text(encoding="utf-8")))
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    return written


def record(root: str, slug: str) -> dict:
    """Record a notebook's full-scale runs and return what they cost: seconds in all, and of each new run seconds and peak GB.

    The notebook runs as a script in a process of its own, on the device that this process sees. Raises NotebookFailed where it fails.
    """
    environment = os.environ | {"KEXUE_SCALE": "full", "MPLBACKEND": "Agg"}
    before, start = records.load(slug), time.perf_counter()
    command = [sys.executable, str(Checkout(Path(root)).source(slug))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise NotebookFailed(f"{slug} ended with {done.returncode}; its last words:\n" + "\n".join(done.stderr.strip().splitlines()[-15:]))
    new = {id: run for id, run in records.load(slug).items() if run != before.get(id)}
    costs = {id: {"wall_s": run.wall_s, "peak_mem_gb": run.peak_mem_gb, "device": run.device} for id, run in new.items()}
    return {"seconds": round(time.perf_counter() - start, 1), "runs": costs}


def _start(checkout: Checkout, slug: str, folder: Path, events: queue.SimpleQueue) -> subprocess.Popen:
    """Start a worker; ``events`` gets (slug, line) for each executed code cell and (slug, None) when it has ended."""
    command = [sys.executable, "-m", "kexue_nb.execute", str(checkout.root), slug, str(folder / f"{slug}.json")]
    with (folder / f"{slug}.err").open("w", encoding="utf-8") as errors:
        # Waiting threads sleep instead of spinning: notebooks that share the cores slow each other down eightfold otherwise.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment)

    def follow() -> None:
        for line in process.stdout:
            events.put((slug, line))
        events.put((slug, None))

    threading.Thread(target=follow, daemon=True).start()
    return process


def _work(root: str, slug: str, target: str) -> None:
    """A worker: one notebook, a line on standard output for each code cell, the result as JSON in ``target``."""
    try:
        notebook = _run(slug, Path(root))
    except NotebookFailed as failure:
        sys.exit(str(failure))
    Path(target).write_text(json.dumps(notebook), encoding="utf-8")


if __name__ == "__main__":
    _work(*sys.argv[1:])
