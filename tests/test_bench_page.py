"""The benchmarks page: numbers with their units, who is faster, and tables that anyone can read."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
page = SimpleNamespace(**runpy.run_path(str(ROOT / "book" / "_ext" / "kexue_bench.py")))

MADE = {
    "date": "2026-01-02",
    "device": "x CPU, 2 threads",
    "processor": "X & Y",
    "threads": 2,
    "command": "python -m benchmarks",
    "versions": {"python": "3.14", "torch": "2"},
    "ceilings": {"bandwidth": 2.5e10},
}


def peer(seconds, ratio, low, high, gap=0.0):
    return {"seconds": seconds, "ratio": ratio, "low": low, "high": high, "gap": gap}


def case(size, seconds, limit="", **peers):
    return {"size": size, "label": "", "seconds": seconds, "bound": seconds / 4, "limit": limit, "peers": peers}


CASES = [
    case(1024.0, 2e-4, slow=peer(8e-4, 4, 3.9, 4.1, 2e-7), quick=peer(1e-4, 0.5, 0.4, 0.8)),
    case(1e9, 1.5, "bytes", slow=peer(1.5, 1.01, 0.98, 1.03)),
]
ROWS = {
    name: {"title": f"Sums <of> {name}", "size": "n", "tolerance": 1e-6, "note": "Because & so.", "cases": CASES, "made": MADE}
    | {"exponents": {"ours": 0.5, "slow": -1.0}, "extra": {"bytes a token": 3.456}}
    for name in ("one", "two")
}


@pytest.mark.parametrize(
    ("x", "shown"),
    [(0, "0"), (2154.5, "2,150"), (12.345, "12.3"), (0.99951, "1.00"), (0.0512, "0.0512"), (1.2e-16, "1.20 × 10<sup>−16</sup>")],
)
def test_numbers_have_three_digits(x, shown):
    assert page.significant(x) == shown


@pytest.mark.parametrize(
    ("x", "shown"), [(12.345, "12.3 s"), (0.99999, "1.00 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 µs"), (3e-8, "30.0 ns")]
)
def test_times_have_units(x, shown):
    assert page.duration(x) == shown


def test_a_faster_peer_is_told_as_a_faster_own():
    def said(shown):
        return re.sub("<[^>]+>", "", shown), re.search('data-who="(.*?)"', shown)[1]

    assert said(page.faster(peer(1, 4, 3.9, 4.1))) == ("ours, 4.00 (3.90 to 4.10)", "ours")
    assert said(page.faster(peer(1, 0.5, 0.4, 0.8))) == ("theirs, 2.00 (1.25 to 2.50)", "theirs")
    assert said(page.faster(peer(1, 1.01, 0.98, 1.03))) == ("neither, 1.01 (0.980 to 1.03)", "neither")


def test_a_document_becomes_tables():
    shown = page.rows_of({"rows": ROWS}, "cpu")
    assert shown.count("<table") == shown.count("<caption>") == 3
    assert re.findall(r"<th(?! scope)", shown.replace("<thead>", "")) == []
    assert "Sums &lt;of&gt; one" in shown
    assert "<of>" not in shown
    assert set(re.findall('href="#(.*?)"', shown)) == set(re.findall('<h3[^>]* id="(.*?)"', shown)) == {"cpu-one", "cpu-two"}
    for part in (
        "200 µs",
        "1,024 n",
        "25.0% (bytes)",
        "2.00 × 10<sup>−7</sup>",
        "−1.00",
        "bytes a token: 3.46",
        "Sizes in n",
        "X &amp; Y",
        "25.0 G/s",
    ):
        assert part in shown, part
    assert shown.count("All rows: 2026-01-02") == 1


def columns(lines):
    """How many columns each line of a table fills, cells that reach down from above included."""
    reach, found = [], []
    for line in lines:
        cells = [int(re.search(r"rowspan=\"(\d+)\"", tag)[1]) if "rowspan" in tag else 1 for tag in re.findall("<t[dh][^>]*>", line)]
        reach = [n - 1 for n in reach if n > 1] + cells
        found.append(len(reach))
    return found


def test_every_line_of_a_table_fills_its_columns():
    for table in re.findall("<table.*?</table>", page.rows_of({"rows": ROWS}, "cpu")):
        assert len(set(columns(re.findall("<tr>(.*?)</tr>", table)))) == 1


def test_extras_of_several_are_a_table():
    shown = page.extras({"MB/s, ours": 12.34, "MB/s, a, b": 2.0, "bytes, ours": 3.0})
    assert re.findall("<t[dh]\\b[^>]*>(.*?)</t[dh]>", shown) == ["of", "MB/s", "bytes", "ours", "12.3", "3.00", "a, b", "2.00", "–"]


def test_rows_of_other_runs_are_told_apart():
    other = ROWS | {"two": ROWS["two"] | {"made": MADE | {"date": "2026-02-03"}}}
    shown = page.provenance(other)
    assert "one: 2026-01-02" in shown
    assert "two: 2026-02-03" in shown


def test_the_book_becomes_a_table():
    step = {"seconds": 90.0, "user": 100.0, "system": 5.0, "peak_gb": 0.75, "low": 88.0, "high": 95.0, "rounds": 3}
    shown = page.book_of({"notebooks": 37, "changed": "x", "made": MADE, "steps": {"make book": step, "make test": step | {"rounds": 1}}})
    for part in ('<th scope="row">make book</th>', "90.0 s", "88.0 s to 95.0 s", "105 s", "0.750 GB", "once"):
        assert part in shown, part
