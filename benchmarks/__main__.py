"""``python -m benchmarks``: time our algorithms beside their peers on this machine's GPU, or on its CPU where it has none."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import paired
from kexue_nb import records, runtime

MODULES = ("rnn", "attention", "optimizers", "training", "maps", "sampling", "pieces", "integers", "whitening")
THREADS = 2
VERSIONS = ("torch", "numpy", "scipy", "numba", "scikit-learn", "entmax", "diffusers", "sentencepiece", "tokenizers", "bytepiece", "triton")


def rows() -> dict[str, paired.Row]:
    """All rows by name, in the order of the table."""
    found = [row for module in MODULES for row in importlib.import_module(f"benchmarks.{module}").ROWS]
    return {row.name: row for row in found}


def versions() -> dict[str, str]:
    """Python and the packages that are timed, as installed here."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The CPU's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine()
    )


def made(device: torch.device, threads: int, command: str, ceilings: dict[str, float] | None = None) -> dict:
    """Where, when, with what and how numbers are made."""
    found = {"date": records.today(), "device": runtime.device_name(device), "processor": processor(), "threads": threads}
    return found | {"command": command, "versions": versions()} | ({"ceilings": ceilings} if ceilings else {})


def show(name: str, doc: dict) -> None:
    """Print one row."""
    typer.echo(f"\n{name}: {doc['title']}")
    for c in doc["cases"]:
        share = f", {c['bound'] / c['seconds']:.0%} of the bound ({c['limit']})" if c["limit"] else ""
        typer.echo(f"  {c['label'] or format(c['size'], 'g') + ' ' + doc['size']}: ours {c['seconds']:.3g} s{share}")
        for peer, p in c["peers"].items():
            typer.echo(
                f"    {peer}: {p['seconds']:.3g} s, {p['ratio']:.2f} of ours ({p['low']:.2f} to {p['high']:.2f}), gap {p['gap']:.1g}"
            )
    for key in ("exponents", "extra"):
        if key in doc:
            typer.echo(f"  {key}: " + ", ".join(f"{k} {v:.3g}" for k, v in doc[key].items()))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Rows; default: all of this device.")] = None,
    write: Annotated[Path | None, typer.Option(help="Put the rows into this JSON file, beside those that it has.")] = None,
    rounds: Annotated[int, typer.Option(help="Times that each is measured.")] = paired.ROUNDS,
) -> None:
    """Time the rows; exits with 1 where an answer disagrees with its peer's or a row fails."""
    torch.set_num_threads(min(THREADS, os.cpu_count()))
    device = torch.device("cuda" if torch.cuda.is_available() and os.environ.get("KEXUE_DEVICE") != "cpu" else "cpu")
    known = rows()
    if unknown := sorted(set(names or ()) - set(known)):
        raise typer.BadParameter(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in names or known if device.type in known[name].devices]
    ceiling = paired.ceilings(device)
    typer.echo(", ".join(f"{k} {v / 1e9:.4g} G/s" for k, v in ceiling.items()))
    provenance = made(device, torch.get_num_threads(), " ".join(["python -m benchmarks", *(names or ())]), ceiling)
    failed = []
    for row in chosen:
        try:
            doc = paired.run(row, device, ceiling, rounds)
        except Exception:
            traceback.print_exc()
            failed.append(row.name)
            continue
        show(row.name, doc)
        if write:
            kept = json.loads(write.read_text(encoding="utf-8")) if write.exists() else {"schema": 1, "rows": {}}
            kept["rows"][row.name] = records.compact(doc | {"made": provenance}, 4)
            kept["rows"] = {name: kept["rows"][name] for name in known if name in kept["rows"]}
            write.parent.mkdir(parents=True, exist_ok=True)
            write.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
