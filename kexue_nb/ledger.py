"""Verdicts and the evidence they rest on.

A :class:`Check` is one comparison that came out true or false. A :class:`Ledger` collects the entries of a notebook:
derivation steps (D1, D2, ..), claims of the post (C1, ..), experiments (E1, ..) and our own additions (X1, ..). Evidence
that contradicts its verdict raises on the spot, so the notebook stops, and so does CI.

Numbers that depend on the machine (training, float32 sampling, timing) are written with a leading ``≈``; the regression
tests compare everything else to the letter.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

MIME = "application/vnd.kexue-nb.ledger+json"
SCHEMA = 1
KINDS = {"D": "derivation", "C": "claim", "E": "experiment", "X": "addition"}
VERDICTS = {
    "verified": "#1a7f4b",
    "partly": "#9a6700",
    "not reproduced": "#8250df",
    "refuted": "#c93c37",
    "not checkable": "#6e7781",
}
_ID = re.compile(r"[DCEX]\d+[a-z]?")


class EvidenceError(AssertionError):
    """The evidence of a ledger entry does not support its verdict."""


class VacuousCheck(ValueError):
    """A check was refused because it could not have failed."""


@dataclass(frozen=True)
class Check:
    """One piece of evidence.

    ``what`` names the comparison, ``method`` its strength, ``expected`` and ``measured`` are the two sides as text,
    ``tolerance`` the distance that would have been accepted, ``scope`` how far the result reaches.
    """

    what: str
    method: str
    passed: bool
    expected: str
    measured: str
    tolerance: str = ""
    scope: str = "exact"

    def __post_init__(self):
        object.__setattr__(self, "passed", bool(self.passed))

    def __str__(self) -> str:
        tolerance = f" (tolerance {self.tolerance})" if self.tolerance else ""
        return f"{self.what} [{self.method}]: expected {self.expected}, got {self.measured}{tolerance}"


@dataclass(frozen=True)
class Entry:
    """One row of the ledger. ``holds`` supports the statement, ``fails`` shows where it does not hold."""

    id: str
    statement: str
    verdict: str
    holds: tuple[Check, ...] = ()
    fails: tuple[Check, ...] = ()
    reason: str = ""

    def as_dict(self) -> dict:
        """The entry by the contract of the ledger's MIME type (schema 1)."""
        checks = self.holds + self.fails

        def values(name: str) -> list[str]:
            return [value for c in checks if (value := getattr(c, name))]

        def distinct(name: str) -> str:
            return "; ".join(dict.fromkeys(values(name)))

        return {
            "id": self.id,
            "statement": self.statement,
            "verdict": self.verdict,
            "method": distinct("method") or "argument",
            "expected": "; ".join(values("expected")),
            "measured": "; ".join(values("measured")) or self.reason,
            "tolerance": distinct("tolerance"),
            "scope": distinct("scope") or "no experiment within reach",
            "where": f"#{self.id}",
            "evidence": [{"side": "holds", **asdict(c)} for c in self.holds] + [{"side": "fails", **asdict(c)} for c in self.fails],
        }

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        color = VERDICTS[self.verdict]
        lines = [f"<li>{_side(c, self.fails)}{html.escape(str(c))}</li>" for c in self.holds + self.fails]
        lines += [f"<li>{html.escape(self.reason)}</li>"] if self.reason else []
        body = (
            f'<div class="kx-entry" id="{self.id}" style="border-left:4px solid {color};padding:.2em .8em;margin:.4em 0">'
            f'<strong>{self.id}</strong> <span class="kx-verdict" data-verdict="{self.verdict}">{self.verdict}</span>'
            f" {html.escape(self.statement)}"
            f'<details><summary>evidence</summary><ul class="kx-evidence">{"".join(lines)}</ul></details></div>'
        )
        plain = [f"{self.id} {self.verdict}: {self.statement}", *(f"  {c}" for c in self.holds + self.fails)]
        return {"text/html": body, "text/plain": "\n".join(plain)}


def _side(check: Check, fails: Sequence[Check]) -> str:
    return "against: " if any(check is c for c in fails) else ""


@dataclass
class Ledger:
    """The entries of one notebook, in the order in which it made them."""

    slug: str
    scale: str
    entries: dict[str, Entry] = field(default_factory=dict)

    def add(
        self,
        id: str,
        statement: str,
        verdict: str,
        *,
        holds: Iterable[Check] = (),
        fails: Iterable[Check] = (),
        reason: str = "",
    ) -> Entry:
        """Enter one verdict with its evidence.

        ``holds`` are checks that support the statement; ``fails`` are checks of the opposite. Both kinds must have passed:
        ``verified`` needs only ``holds``; ``refuted`` and ``not reproduced`` need ``fails``; ``partly`` needs both;
        ``not checkable`` needs a ``reason`` and no checks.

        Raises EvidenceError where the evidence contradicts the verdict, ValueError for a bad id, statement or verdict.
        """
        holds, fails = tuple(holds), tuple(fails)
        if not _ID.fullmatch(id):
            raise ValueError(f"ledger id {id!r}: give D, C, E or X, a number and at most one letter, such as 'D3' or 'E3b'")
        if id in self.entries:
            raise ValueError(f"ledger id {id} stands twice in {self.slug}: each id is entered once")
        if not statement.strip():
            raise ValueError(f"{id}: the statement is empty; say in one sentence what is claimed")
        if verdict not in VERDICTS:
            raise ValueError(f"{id}: verdict {verdict!r} is none of {', '.join(VERDICTS)}")
        for check in holds + fails:
            if not isinstance(check, Check):
                raise TypeError(f"{id}: evidence must be Check objects, got {type(check).__name__}")
            if not check.passed:
                raise EvidenceError(f"{id} is entered as {verdict!r}, but this check failed: {check}")
        needs = {
            "verified": (True, False),
            "partly": (True, True),
            "not reproduced": (False, True),
            "refuted": (False, True),
            "not checkable": (False, False),
        }[verdict]
        if (bool(holds), bool(fails)) != needs and not (verdict == "not reproduced" and holds and fails):
            raise EvidenceError(
                f"{id}: {verdict!r} takes {'' if needs[0] else 'no '}holds= and {'' if needs[1] else 'no '}fails= evidence; "
                f"got {len(holds)} and {len(fails)} checks"
            )
        if verdict == "not checkable" and not reason.strip():
            raise EvidenceError(f"{id}: 'not checkable' needs reason=, which experiment would decide it and why it is out of reach")
        entry = self.entries[id] = Entry(id, statement.strip(), verdict, holds, fails, reason.strip())
        return entry

    def as_dict(self) -> dict:
        """The whole ledger by its MIME contract."""
        entries = [e.as_dict() for e in self.entries.values()]
        return {"schema": SCHEMA, "slug": self.slug, "scale": self.scale, "entries": entries}

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        doc = self.as_dict()
        tally = {v: sum(e["verdict"] == v for e in doc["entries"]) for v in VERDICTS}
        line = ", ".join(f"{n} {v}" for v, n in tally.items() if n)
        rows = "".join(
            f'<tr><td><a href="{e["where"]}">{e["id"]}</a></td>'
            f'<td><span class="kx-verdict" data-verdict="{e["verdict"]}">{e["verdict"]}</span></td>'
            f"<td>{html.escape(e['statement'])}</td><td>{html.escape(e['method'])}</td></tr>"
            for e in doc["entries"]
        )
        table = (
            f"<p>{len(doc['entries'])} entries at scale <code>{self.scale}</code>: {line}</p>"
            '<table class="kx-ledger"><thead><tr><th>id</th><th>verdict</th><th>statement</th><th>method</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )
        plain = [f"{self.slug} at scale {self.scale}: {line}"]
        plain += [f"{e['id']:>4}  {e['verdict']:<14}  {e['statement']}" for e in doc["entries"]]
        return {MIME: doc, "text/html": table, "text/plain": "\n".join(plain)}


def read_ledger(notebook: dict) -> dict | None:
    """The ledger document in an executed notebook (parsed .ipynb JSON), or None where it has none."""
    for cell in reversed(notebook["cells"]):
        for output in cell.get("outputs", ()):
            if MIME in output.get("data", {}):
                return output["data"][MIME]
    return None


def number(value: float, digits: int = 4, *, machine: bool = False) -> str:
    """``value`` to ``digits`` significant digits; with ``machine`` marked ≈, as a number that depends on the machine."""
    value = float(value)
    return f"{'≈' if machine else ''}{value:.{digits}g}"


def _finite(what: str, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise EvidenceError(f"{what}: {name} is {value}; a check needs finite numbers")


def _scope(machine: bool) -> str:
    """Of a check that names none: what depends on the machine reaches as far as its statement says, everything else is exact."""
    return "as stated" if machine else "exact"


def close(
    what: str,
    value: float,
    expected: float,
    *,
    rel: float | None = None,
    abs: float | None = None,
    digits: int = 4,
    machine: bool = False,
    method: str = "measured",
    scope: str | None = None,
) -> Check:
    """``|value - expected| <= tolerance``, the tolerance given either relative or absolute.

    Raises VacuousCheck where the tolerance is as wide as the expected value itself, unless that is 0.
    """
    if (rel is None) == (abs is None):
        raise ValueError(f"{what}: give exactly one of rel= and abs=")
    _finite(what, value=value, expected=expected)
    tolerance = math.fabs(expected) * rel if abs is None else abs
    if not 0 < tolerance < math.inf:
        raise VacuousCheck(f"{what}: the tolerance is {tolerance}; give a positive one, and finite (rel= needs a non-zero expected value)")
    if expected != 0 and tolerance >= math.fabs(expected):
        raise VacuousCheck(f"{what}: a tolerance of {tolerance:.3g} is as wide as the expected value {expected:.3g}")
    width = f"{rel:.2g} relative" if abs is None else f"{abs:.2g}"
    passed = math.fabs(value - expected) <= tolerance
    return Check(what, method, passed, number(expected, digits), number(value, digits, machine=machine), width, scope or _scope(machine))


def less(
    what: str,
    value: float,
    bound: float,
    *,
    margin: float = 0.0,
    digits: int = 4,
    machine: bool = False,
    method: str = "measured",
    scope: str | None = None,
) -> Check:
    """``value < bound - margin``: an inequality with a margin >= 0 in the units of ``value``."""
    _finite(what, value=value, bound=bound)
    if margin < 0:
        raise ValueError(f"{what}: the margin is {margin}; it must be >= 0")
    sign, width = f"< {number(bound, digits)}", f"margin {margin:.2g}" if margin else "strict"
    return Check(what, method, value < bound - margin, sign, number(value, digits, machine=machine), width, scope or _scope(machine))


def more(
    what: str,
    value: float,
    bound: float,
    *,
    margin: float = 0.0,
    digits: int = 4,
    machine: bool = False,
    method: str = "measured",
    scope: str | None = None,
) -> Check:
    """``value > bound + margin``: an inequality with a margin >= 0 in the units of ``value``."""
    _finite(what, value=value, bound=bound)
    if margin < 0:
        raise ValueError(f"{what}: the margin is {margin}; it must be >= 0")
    sign, width = f"> {number(bound, digits)}", f"margin {margin:.2g}" if margin else "strict"
    return Check(what, method, value > bound + margin, sign, number(value, digits, machine=machine), width, scope or _scope(machine))


def increasing(what: str, values: Sequence[float], *, machine: bool = False, method: str = "measured", scope: str | None = None) -> Check:
    """Every value exceeds the one before it (at least three values)."""
    values = [float(v) for v in values]
    if len(values) < 3:
        raise VacuousCheck(f"{what}: {len(values)} values; a trend needs at least 3")
    _finite(what, **{f"values[{i}]": v for i, v in enumerate(values)})
    step = min(b - a for a, b in itertools.pairwise(values))
    first, last, least = (number(x, machine=machine) for x in (values[0], values[-1], step))
    shown = f"from {first} to {last}, smallest step {least}"
    return Check(what, method, step > 0, f"increasing over {len(values)} points", shown, "strict", scope or _scope(machine))


def better(what: str, a: Sequence[float], b: Sequence[float], *, sigmas: float = 2.0, scope: str) -> Check:
    """The mean over the runs ``a`` exceeds that over ``b`` by ``sigmas`` standard errors of the difference.

    ``a`` and ``b`` hold one number a seed, at least three each.
    """
    a, b = [float(x) for x in a], [float(x) for x in b]
    if min(len(a), len(b)) < 3:
        raise VacuousCheck(f"{what}: {len(a)} and {len(b)} seeds; a comparison needs at least 3 of each")
    (mean_a, se_a), (mean_b, se_b) = _mean_se(a), _mean_se(b)
    _finite(what, a=mean_a, b=mean_b)
    difference, error = mean_a - mean_b, math.hypot(se_a, se_b)
    if error == 0:
        raise VacuousCheck(f"{what}: the runs show no spread at all; were the seeds different?")
    ours, theirs, ratio = (number(x, machine=True) for x in (mean_a, mean_b, difference / error))
    shown = f"{ours} against {theirs}, a difference of {ratio} standard errors"
    return Check(what, "measured", difference > sigmas * error, "a positive difference", shown, f"{sigmas:g} standard errors", scope)


def _mean_se(sample: Sequence[float]) -> tuple[float, float]:
    mean = sum(sample) / len(sample)
    variance = sum((x - mean) ** 2 for x in sample) / (len(sample) - 1)
    return mean, math.sqrt(variance / len(sample))


def with_error(sample: Sequence[float], digits: int = 3) -> str:
    """ "mean ± standard error" of one number a seed (at least two), both to ``digits`` decimals."""
    if len(sample) < 2:
        raise ValueError(f"{len(sample)} numbers; a standard error needs at least 2")
    mean, error = _mean_se([float(x) for x in sample])
    return f"{mean:.{digits}f} ± {error:.{digits}f}"
