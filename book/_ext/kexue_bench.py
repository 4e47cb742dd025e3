"""Sphinx extension: the tables of the benchmarks page, from the files in book/benchmarks that `python -m benchmarks` writes."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

COLUMNS = ("against", "faster, how many times", "theirs", "ours", "gap", "of the bound")
COMMANDS = {"cpu": "make bench", "cuda": "make bench", "book": "python -m benchmarks.book --write book/benchmarks/book.json"}
COMMANDS["two-gpus"] = "python -m benchmarks.two_gpus --write book/benchmarks/two-gpus.json"


def significant(x: float) -> str:
    """Three significant digits: 1,230, 12.3, 0.0123; far from one as a power of ten."""
    if x == 0:
        return "0"
    x = float(f"{x:.2e}")
    power = math.floor(math.log10(abs(x)))
    if not -4 < power < 6:
        return f"{x / 10.0**power:.2f} × 10<sup>{power}</sup>".replace("<sup>-", "<sup>−")
    return f"{x:,.{max(0, 2 - power)}f}"


def duration(seconds: float) -> str:
    """Seconds with three significant digits, in s, ms, µs or ns."""
    shown = float(f"{seconds:.2e}")
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if shown * f >= 1), (1e9, "ns"))
    return f"{significant(shown * factor)} {unit}"


def faster(peer: Mapping) -> str:
    """Who is faster and how many times, with the lowest and the highest of the rounds; nobody where these lie on both sides of one."""
    ratio, low, high = peer["ratio"], peer["low"], peer["high"]
    if low <= 1 <= high:
        return f'<b class="kx-faster" data-who="neither">neither</b>, {significant(ratio)} ({significant(low)} to {significant(high)})'
    who = "ours" if ratio > 1 else "theirs"
    if who == "theirs":
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return f'<b class="kx-faster" data-who="{who}">{who}, {significant(ratio)}</b> ({significant(low)} to {significant(high)})'


def size(case: Mapping, unit: str) -> str:
    """What a case is called: its label, or its size with its unit."""
    number = case["size"]
    return html.escape(case["label"]) or f"{f'{int(number):,}' if number == int(number) and number < 1e9 else significant(number)} {unit}"


def share(case: Mapping) -> str:
    """The share of the bound that ours reaches, and which bound it is."""
    return f"{significant(100 * case['bound'] / case['seconds'])}% ({html.escape(case['limit'])})" if case["limit"] else "–"


def row(name: str, doc: Mapping, place: str) -> str:
    """One row of the benchmarks: its title, the table of its sizes, and what is to be said about it."""
    unit, body = html.escape(doc["size"]), []
    for case in doc["cases"]:
        head, bound = _spanned("th", size(case, unit), len(case["peers"])), _spanned("td", share(case), len(case["peers"]))
        for i, (peer, p) in enumerate(case["peers"].items()):
            shown = _cells((html.escape(peer), faster(p), duration(p["seconds"]), duration(case["seconds"]), significant(p["gap"])))
            body.append(shown if i else head + shown + bound)
    foot = exponents(doc["exponents"], doc["cases"][0]["peers"]) if "exponents" in doc else ""
    gaps = [p["gap"] for case in doc["cases"] for p in case["peers"].values()]
    caption, columns = f"Sizes in {doc['size']}; times are medians", (doc["size"], *COLUMNS)
    checked = f"largest gap {significant(max(gaps, default=0.0))}, allowed {significant(doc['tolerance'])}"
    return (
        f'<h3 id="{place}-{name}">{html.escape(doc["title"])}</h3>'
        f"{_table(doc['title'], caption, columns, f'<tbody>{_lines(body)}</tbody>{foot}')}{extras(doc.get('extra', {}))}"
        f"<p>{html.escape(doc['note'])} Answers compared before timing: {checked}.</p>"
    )


def exponents(powers: Mapping[str, float], peers: Iterable[str]) -> str:
    """The foot of a table: to which power of the size the times grow."""
    shown = {name: f"{power:.2f}".replace("-", "−") for name, power in powers.items()}
    lines = [_cells((html.escape(peer), "", shown[peer], shown["ours"], "", "")) for peer in peers if peer in shown]
    lines = lines or [_cells(("", "", "", shown["ours"], "", ""))]
    return f"<tfoot>{_lines([_spanned('th', 'exponent', len(lines)) + lines[0], *lines[1:]])}</tfoot>"


def extras(found: Mapping[str, float]) -> str:
    """Further numbers: a table where each is called "quantity, of what", else a list."""
    if not found:
        return ""
    parts = {key: key.split(", ", 1) for key in found}
    if any(len(part) < 2 for part in parts.values()):
        return f'<ul class="kx-counts">{"".join(f"<li>{html.escape(k)}: {significant(v)}</li>" for k, v in found.items())}</ul>'
    quantities, owners = (list(dict.fromkeys(part[i] for part in parts.values())) for i in (0, 1))
    values = {tuple(parts[key]): significant(value) for key, value in found.items()}
    lines = [_spanned("th", html.escape(owner), 1) + _cells(values.get((q, owner), "–") for q in quantities) for owner in owners]
    return _table("Further numbers", "What else was measured", ("of", *quantities), f"<tbody>{_lines(lines)}</tbody>")


def overview(rows: Mapping[str, Mapping], place: str) -> str:
    """Each row at its largest size, against the fastest of its peers there; not those that compute something else, which say "another"."""
    lines = []
    for name, doc in rows.items():
        case = doc["cases"][-1]
        peers = {name: p for name, p in case["peers"].items() if "another" not in name and not name.startswith("ours")} or case["peers"]
        peer, p = min(peers.items(), key=lambda item: item[1]["ratio"])
        link = _spanned("th", f'<a href="#{place}-{name}">{html.escape(doc["title"])}</a>', 1)
        at = size(case, html.escape(doc["size"]))
        lines.append(link + _cells((faster(p), html.escape(peer), at, duration(p["seconds"]), duration(case["seconds"]), share(case))))
    head = ("what", "faster, how many times", "fastest peer", "largest size", "theirs", "ours", "of the bound")
    caption = "Each at its largest size, against the fastest peer there that gives the same answer"
    return _table("Overview", caption, head, f"<tbody>{_lines(lines)}</tbody>")


def provenance(rows: Mapping[str, Mapping]) -> str:
    """On which machine, when, with which versions and by which command: one paragraph for the rows that share them."""
    groups: dict[str, list[str]] = {}
    for name, doc in rows.items():
        groups.setdefault(made(doc["made"]), []).append(name)
    return "".join(f"<p>{'All rows' if len(groups) == 1 else html.escape(', '.join(names))}: {text}</p>" for text, names in groups.items())


def made(doc: Mapping) -> str:
    """One machine and run in a sentence."""
    machine = html.escape(f"{doc['device']}; {doc['processor']}, {doc['threads']} threads")
    rates = ", ".join(f"{html.escape(k)} {significant(v / 1e9)} G/s" for k, v in doc.get("ceilings", {}).items())
    best = f"; at best {rates}" if rates else ""
    versions = html.escape(", ".join(f"{k} {v}" for k, v in doc["versions"].items()))
    return f"{doc['date']}, {machine}{best}. {versions}. <code>{html.escape(doc['command'])}</code>"


def rows_of(doc: Mapping, place: str) -> str:
    """All rows of cpu.json or cuda.json."""
    rows = doc["rows"]
    return overview(rows, place) + "".join(row(name, r, place) for name, r in rows.items()) + provenance(rows)


def book_of(doc: Mapping) -> str:
    """The times of book.json."""
    lines = []
    for name, step in doc["steps"].items():
        spread = f"{duration(step['low'])} to {duration(step['high'])}" if step["rounds"] > 1 else "once"
        shown = (duration(step["seconds"]), spread, duration(step["user"] + step["system"]), f"{significant(step['peak_gb'])} GB")
        lines.append(_spanned("th", html.escape(name), 1) + _cells(shown))
    head = ("what", "time", "lowest to highest", "processor time", "memory of the largest process")
    caption = f"The book of {doc['notebooks']} notebooks; the one that is changed is {doc['changed']}"
    return f"{_table('The book itself', caption, head, f'<tbody>{_lines(lines)}</tbody>')}<p>{made(doc['made'])}</p>"


def two_of(doc: Mapping) -> str:
    """The times of two-gpus.json."""
    lines = []
    for run in doc["runs"]:
        one, two = run["seconds"]
        shown = (duration(one), duration(two), significant(run["speed-up"]), significant(run["apart"]))
        lines.append(_spanned("th", f"{html.escape(run['precision'])}, {run['batch']} sequences", 1) + _cells(shown))
    shape = doc["shape"]
    model = f"a transformer of {shape['depth']} layers of width {shape['d']}"
    caption = f"A step of {model}, sequences of {shape['context']} tokens, shared by the GPUs; medians of {doc['steps'] - 11} steps"
    head = ("activations, batch", "one GPU", "two GPUs", "times as fast", "largest relative gap of the losses")
    command = f"<code>{html.escape(COMMANDS['two-gpus'])}</code>"
    table = _table("Two GPUs", caption, head, f"<tbody>{_lines(lines)}</tbody>")
    return f"{table}<p>{doc['date']}, {html.escape(doc['device'])}, torch {html.escape(doc['torch'])}. {command}</p>"


def _table(name: str, caption: str, head: Iterable[str], body: str) -> str:
    columns = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in head)
    table = f'<table class="kx-results kx-bench"><caption>{html.escape(caption)}</caption><thead><tr>{columns}</tr></thead>{body}</table>'
    return f'<div class="kx-scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">{table}</div>'


def _cells(shown: Iterable[str]) -> str:
    return "".join(f"<td>{x}</td>" for x in shown)


def _spanned(tag: str, shown: str, lines: int) -> str:
    scope, span = ' scope="row"' * (tag == "th"), f' rowspan="{lines}"' * (lines > 1)
    return f"<{tag}{scope}{span}>{shown}</{tag}>"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"<tr>{line}</tr>" for line in lines)


class Benchmarks(Directive):
    """The tables of one file: cpu, cuda, two-gpus or book."""

    required_arguments = 1
    has_content = False

    def run(self):
        place = self.arguments[0]
        if place not in COMMANDS:
            raise self.error(f"no benchmarks {place!r}; there are {', '.join(COMMANDS)}")
        env = self.state.document.settings.env
        file = Path(env.srcdir) / "book" / "benchmarks" / f"{place}.json"
        env.note_dependency(str(file))
        if not file.exists():
            command = nodes.literal(text=COMMANDS[place])
            return [nodes.paragraph("", "", nodes.Text("Nothing is on file yet; "), command, nodes.Text(" writes it."))]
        doc = json.loads(file.read_text(encoding="utf-8"))
        shown = {"book": book_of, "two-gpus": two_of}.get(place, lambda doc: rows_of(doc, place))(doc)
        return [nodes.raw("", shown, format="html")]


def setup(app):
    """Register the directive."""
    directives.register_directive("kexue-benchmarks", Benchmarks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
