"""Recorded full-scale runs, one JSON file a notebook, with their provenance.

A record is made by running a notebook with ``KEXUE_SCALE=full`` and is never edited by hand. The files travel with the
package (``kexue_nb/records``); ``KEXUE_RECORDS`` names another folder to write to and read from.
"""

from __future__ import annotations

import ast
import datetime
import dis
import hashlib
import inspect
import json
import math
import os
import types
from dataclasses import asdict, dataclass
from pathlib import Path

SCHEMA = 1
_FIELDS = {
    "device": str,
    "torch": str,
    "cuda": (str, type(None)),
    "date": str,
    "wall_s": (int, float),
    "peak_mem_gb": (int, float),
    "code_sha256": str,
    "config": dict,
    "result": dict,
}


class RecordError(ValueError):
    """A record file is damaged; the message names the file and the field."""


@dataclass(frozen=True)
class Run:
    """One recorded run: where, when and with what it was made, and what came out."""

    device: str
    torch: str
    cuda: str | None
    date: str
    wall_s: float
    peak_mem_gb: float
    code_sha256: str
    config: dict
    result: dict

    @property
    def provenance(self) -> str:
        """One line for captions and scopes."""
        return f"{self.device}, torch {self.torch}, {self.date}, {self.wall_s:.0f} s, {self.peak_mem_gb:.1f} GB"


def path(slug: str) -> Path:
    """Where the record of a notebook lies."""
    folder = os.environ.get("KEXUE_RECORDS")
    return (Path(folder) if folder else Path(__file__).parent / "records") / f"{slug}.json"


def load(slug: str) -> dict[str, Run]:
    """The recorded runs of a notebook by experiment id, empty where there are none. Raises RecordError for a damaged file."""
    file = path(slug)
    if not file.exists():
        return {}
    try:
        doc = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not JSON ({error}); restore it from git or record it again") from None
    return _parse(file, slug, doc)


def _parse(file: Path, slug: str, doc) -> dict[str, Run]:
    if not isinstance(doc, dict):
        raise RecordError(f"{file}: holds {type(doc).__name__}, not an object")
    for name, wanted in {"schema": SCHEMA, "slug": slug}.items():
        if doc.get(name) != wanted or isinstance(doc.get(name), bool):
            raise RecordError(f"{file}: field {name!r} is {doc.get(name)!r}, not {wanted!r}")
    if unknown := set(doc) - {"schema", "slug", "runs"}:
        raise RecordError(f"{file}: field {min(unknown)!r} is not part of schema {SCHEMA}")
    if not isinstance(doc.get("runs"), dict):
        raise RecordError(f"{file}: field 'runs' is missing or no object")
    runs = {}
    for id, fields in doc["runs"].items():
        if not isinstance(fields, dict):
            raise RecordError(f"{file}: field 'runs.{id}' is no object")
        for name, kind in _FIELDS.items():
            if name not in fields:
                raise RecordError(f"{file}: field 'runs.{id}.{name}' is missing")
            if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
                raise RecordError(f"{file}: field 'runs.{id}.{name}' is {fields[name]!r}, of the wrong type")
        if unknown := set(fields) - set(_FIELDS):
            raise RecordError(f"{file}: field 'runs.{id}.{min(unknown)}' is not part of schema {SCHEMA}")
        if fields["wall_s"] < 0 or fields["peak_mem_gb"] < 0:
            raise RecordError(f"{file}: 'runs.{id}' has a negative wall_s or peak_mem_gb")
        _reject_nan(file, f"runs.{id}", fields)
        runs[id] = Run(**fields)
    return runs


def _reject_nan(file: Path, where: str, value) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _reject_nan(file, f"{where}.{key}", inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _reject_nan(file, f"{where}[{i}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{file}: field '{where}' is {value}; a record holds finite numbers")


def save(slug: str, id: str, run: Run) -> Path:
    """Add or replace one run in the record of a notebook; the file is replaced in one step."""
    file = path(slug)
    runs = {k: asdict(r) for k, r in load(slug).items()} | {id: asdict(run)}
    doc = json.loads(json.dumps({"schema": SCHEMA, "slug": slug, "runs": dict(sorted(runs.items()))}))
    _parse(file, slug, doc)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(_dump(doc) + "\n", encoding="utf-8")
    os.replace(part, file)
    return file


def _dump(value, indent: int = 0) -> str:
    """JSON with one line for each list of numbers."""
    pad = "  " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(k)}: {_dump(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * indent + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(pad + _dump(v, indent + 1) for v in value) + "\n" + "  " * indent + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def today() -> str:
    """Today's date, UTC, as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def compact(value, digits: int = 6):
    """Plain JSON data: tensors and arrays become lists, floats keep ``digits`` significant digits."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): compact(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [compact(v, digits) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    raise TypeError(f"a result holds numbers, text, lists and dicts, not {type(value).__name__}")


def code_sha256(function) -> str:
    """Fingerprint of a function and of every function or class of ours that it reaches by name; comments do not count."""
    sources, waiting, seen = [], [function], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        lines = (line.rstrip() for line in _source(item).splitlines())
        sources.append("\n".join(line for line in lines if line and not line.lstrip().startswith("#")))
        waiting += [x for x in _reached(item) if _is_ours(x, function)]
    return hashlib.sha256("\n".join(sorted(sources)).encode()).hexdigest()


def _source(item) -> str:
    """The source of a function or class; that of a class in a notebook, where inspect looks for a file, is cut out of its cell."""
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):
        method = next((f for f in vars(item).values() if inspect.isfunction(f) and f.__module__ == item.__module__), None)
        if method is None:
            raise
    lines = inspect.findsource(inspect.unwrap(method))[0]
    nodes = [n for n in ast.walk(ast.parse("".join(lines))) if isinstance(n, ast.ClassDef) and n.name == item.__name__]
    first = min([nodes[-1].lineno, *(d.lineno for d in nodes[-1].decorator_list)])
    return "".join(lines[first - 1 : nodes[-1].end_lineno])


def _reached(item) -> list:
    functions = [f for f in vars(item).values() if inspect.isfunction(f)] if inspect.isclass(item) else [item]
    found = []
    for f in functions:
        codes = [inspect.unwrap(f).__code__]
        while codes:
            code = codes.pop()
            for name in sorted({i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}):
                target = f.__globals__.get(name)
                if isinstance(target, types.ModuleType):
                    found += [vars(target)[other] for other in code.co_names if other in vars(target)]
                elif target is not None:
                    found.append(target)
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [getattr(x, "py_func", x) for x in found]  # of a compiled function (numba) the Python that it was made from


def _is_ours(item, root) -> bool:
    module = getattr(item, "__module__", None) or ""
    return (inspect.isfunction(item) or inspect.isclass(item)) and (module == root.__module__ or module.split(".")[0] == "kexue_nb")
