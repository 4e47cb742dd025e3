"""Verdicts against their evidence, the comparisons that make evidence, and the ledger's JSON."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kexue_nb import ledger
from kexue_nb.ledger import MIME, Check, EvidenceError, Ledger, VacuousCheck, better, close, increasing, less, more, number, read_ledger

GOOD = Check("sum", "enumeration", True, "3", "3", "1e-9", "exact")
BAD = Check("a product", "simplify", False, "6", "5")
# Which verdict takes which evidence: (any holds=, any fails=).
TAKES = {
    "verified": {(True, False)},
    "partly": {(True, True)},
    "not reproduced": {(False, True), (True, True)},
    "refuted": {(False, True)},
    "not checkable": {(False, False)},
}
FIELDS = {"id", "statement", "verdict", "method", "expected", "measured", "tolerance", "scope", "where", "evidence"}
finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(("verdict", "holds", "fails", "reason"), itertools.product(TAKES, range(3), range(3), ["", "  ", "too large"]))
def test_every_verdict_with_every_evidence(verdict, holds, fails, reason):
    book = Ledger("slug", "cpu")
    evidence = {"holds": [GOOD] * holds, "fails": [GOOD] * fails, "reason": reason}
    if (holds > 0, fails > 0) not in TAKES[verdict]:
        with pytest.raises(EvidenceError, match=rf"C1: '{verdict}' takes .*got {holds} and {fails} checks"):
            book.add("C1", "a claim", verdict, **evidence)
    elif verdict == "not checkable" and not reason.strip():
        with pytest.raises(EvidenceError, match="needs reason="):
            book.add("C1", "a claim", verdict, **evidence)
    else:
        entry = book.add("C1", " a claim ", verdict, **evidence)
        assert (entry.statement, entry.verdict, len(entry.holds), len(entry.fails)) == ("a claim", verdict, holds, fails)
        assert entry.reason == reason.strip()
        return
    assert not book.entries


@pytest.mark.parametrize(
    ("verdict", "side"),
    [("verified", "holds"), ("refuted", "fails"), ("not reproduced", "fails"), ("partly", "holds"), ("partly", "fails")],
)
def test_a_failed_check_contradicts_every_verdict(verdict, side):
    book = Ledger("slug", "cpu")
    evidence = {"holds": [GOOD], "fails": [GOOD]} if verdict == "partly" else {side: [GOOD]}
    with pytest.raises(EvidenceError, match=rf"C1 is entered as '{verdict}', but .* a product \[simplify\]: expected 6, got 5"):
        book.add("C1", "a claim", verdict, **{**evidence, side: iter([GOOD, BAD])})
    assert not book.entries


@pytest.mark.parametrize("id", ["", "d1", "A1", "D", "1", "D1ab", "D1A", "D-1", " D1", "D1 ", "D1\n", "D1.2"])
def test_bad_ids(id):
    with pytest.raises(ValueError, match="ledger id"):
        Ledger("slug", "cpu").add(id, "a claim", "verified", holds=[GOOD])


@pytest.mark.parametrize("id", ["D1", "C12", "E3b", "X0"])
def test_good_ids_and_no_id_twice(id):
    book = Ledger("some-slug", "cpu")
    book.add(id, "a claim", "verified", holds=[GOOD])
    with pytest.raises(ValueError, match=f"{id} stands twice in some-slug"):
        book.add(id, "a claim", "verified", holds=[GOOD])
    assert list(book.entries) == [id]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"statement": " \n"}, ValueError, "C1: the statement is empty"),
        ({"verdict": "Verified"}, ValueError, "C1: verdict 'Verified' is none of verified, partly"),
        ({"holds": [True]}, TypeError, "C1: evidence must be Check objects, got bool"),
        ({"verdict": "refuted", "holds": (), "fails": ["no"]}, TypeError, "got str"),
    ],
)
def test_bad_entries(change, error, message):
    with pytest.raises(error, match=message):
        Ledger("slug", "cpu").add("C1", **({"statement": "a claim", "verdict": "verified", "holds": [GOOD]} | change))


checks = st.builds(Check, *[st.text(max_size=12)] * 2, st.just(True), *[st.text(max_size=12)] * 4)
entries = st.sampled_from(sorted((v, *pair) for v, pairs in TAKES.items() for pair in pairs)).flatmap(
    lambda t: st.fixed_dictionaries(
        {
            "statement": st.text(min_size=1).filter(str.strip),
            "verdict": st.just(t[0]),
            "holds": st.lists(checks, min_size=t[1], max_size=2 * t[1]),
            "fails": st.lists(checks, min_size=t[2], max_size=2 * t[2]),
            "reason": st.text(min_size=1).filter(str.strip) if t[0] == "not checkable" else st.text(),
        }
    )
)


@given(st.lists(entries, max_size=4), st.sampled_from(["cpu", "gpu", "full"]))
def test_json_round_trip(rows, scale):
    book = Ledger("slug", scale)
    for i, row in enumerate(rows):
        book.add(f"C{i}", **row)
    shown = book._repr_mimebundle_()
    doc = json.loads(json.dumps(shown[MIME]))
    assert doc == book.as_dict()
    assert (doc["schema"], doc["slug"], doc["scale"]) == (1, "slug", scale)
    assert shown["text/html"].count("<tr>") == 1 + len(rows)
    for i, (row, entry) in enumerate(zip(rows, doc["entries"], strict=True)):
        assert set(entry) == FIELDS
        assert (entry["id"], entry["where"], entry["verdict"]) == (f"C{i}", f"#C{i}", row["verdict"])
        assert entry["statement"] == row["statement"].strip()
        back = [(e.pop("side"), Check(**e)) for e in entry["evidence"]]
        assert back == [("holds", c) for c in row["holds"]] + [("fails", c) for c in row["fails"]]


def test_columns_join_values_in_order_and_methods_once():
    a, b = Check("a", "series", True, "1", "1", "", "exact"), Check("b", "limit", True, "2", "1", "0.1", "exact")
    book = Ledger("slug", "cpu")
    entry = book.add("C1", "a claim", "partly", holds=[a], fails=[b]).as_dict()
    assert [entry[k] for k in ("method", "expected", "measured", "tolerance", "scope")] == ["series; limit", "1; 2", "1; 1", "0.1", "exact"]
    plain = book.add("C2", "an opinion", "not checkable", reason="taste").as_dict()
    assert [plain[k] for k in ("method", "measured", "scope")] == ["argument", "taste", "no experiment within reach"]


def test_html_is_escaped_and_plain_text_is_complete():
    check = Check("a < b & c", "series", True, "<1>", "<1>", "<w>")
    book = Ledger("slug", "cpu")
    entry = book.add("C1", "<script>", "partly", holds=[GOOD], fails=[check])
    book.add("C2", "taste", "not checkable", reason="<i>no</i>")
    for page in (entry, book, book.entries["C2"]):
        source = page._repr_mimebundle_()["text/html"]
        assert "<script>" not in source
        assert "<1>" not in source
        assert "<i>" not in source
    source, plain = (entry._repr_mimebundle_()[k] for k in ("text/html", "text/plain"))
    assert source.count("against: ") == 1
    assert "against: a &lt; b &amp; c" in source
    assert "partly: <script>" in plain
    assert "a < b & c [series]: expected <1>, got <1> (tolerance <w>)" in plain
    table = book._repr_mimebundle_()
    assert table["text/plain"].splitlines()[0] == "slug at scale cpu: 1 partly, 1 not checkable"
    assert "2 entries at scale <code>cpu</code>: 1 partly, 1 not checkable" in table["text/html"]


def test_read_ledger_finds_the_last_one():
    def cell(n):
        return {"outputs": [{"output_type": "stream", "text": "x"}, {"data": {"text/plain": "y"}}, {"data": {MIME: {"n": n}}}]}

    assert read_ledger({"cells": [cell(1), cell(2), {"cell_type": "markdown"}]}) == {"n": 2}
    assert read_ledger({"cells": [{"cell_type": "markdown"}, {"outputs": []}]}) is None


@pytest.mark.parametrize(
    ("args", "options", "text"),
    [((1234.567,), {}, "1235"), ((0.00012344, 3), {}, "0.000123"), ((2, 2), {"machine": True}, "≈2"), ((-1e9,), {}, "-1e+09")],
)
def test_number(args, options, text):
    assert number(*args, **options) == text


@given(finite, finite, st.floats(0.001, 0.9), st.booleans())
def test_close_is_a_distance(value, expected, share, relative):
    tolerance = Fraction(expected if expected else 1) * Fraction(share)
    assume(abs(expected) > 1e-6 if relative else True)
    distance = abs(Fraction(value) - Fraction(expected))
    assume(abs(distance - abs(tolerance)) > abs(tolerance) / 10**9)
    check = close("c", value, expected, **({"rel": share} if relative else {"abs": abs(float(tolerance))}), scope="s", method="m")
    assert check.passed is (distance <= abs(tolerance))
    assert (check.method, check.scope, check.what) == ("m", "s", "c")


@given(finite, finite, st.floats(0, 1e3))
def test_less_and_more_mirror_each_other(value, bound, margin):
    below, above = less("c", value, bound, margin=margin), more("c", -value, -bound, margin=margin)
    assert below.passed is above.passed is (value < bound - margin)
    assert not (below.passed and more("c", value, bound, margin=margin).passed)
    assert below.tolerance == above.tolerance == (f"margin {margin:.2g}" if margin else "strict")
    assert below.expected.startswith("< ")
    assert above.expected.startswith("> ")


@pytest.mark.parametrize("compare", [less, more])
def test_inequalities_are_strict(compare):
    assert not compare("c", 2, 2).passed
    assert not compare("c", 1, 2, margin=1).passed
    with pytest.raises(ValueError, match="c: the margin is -1; it must be >= 0"):
        compare("c", 1, 2, margin=-1)


@given(st.lists(finite, min_size=3, max_size=8))
def test_increasing_is_strict_and_only_that(values):
    wanted = all(a < b for a, b in itertools.pairwise(values)) and all(b - a > 0 for a, b in itertools.pairwise(values))
    assert increasing("c", values).passed is wanted
    assert increasing("c", [*sorted(set(values)), 2e6, 3e6, 4e6]).passed
    assert not increasing("c", [*values, values[-1]]).passed


@given(st.lists(finite, min_size=3, max_size=6), st.lists(finite, min_size=3, max_size=6), st.floats(0.5, 5))
def test_better_is_a_difference_in_standard_errors(a, b, sigmas):
    error = math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    difference = np.mean(a) - np.mean(b)
    assume(error > 1e-3 and abs(difference - sigmas * error) > 1e-6 * error)
    assert better("c", a, b, sigmas=sigmas, scope="s").passed is bool(difference > sigmas * error)
    assert not (better("c", a, b, scope="s").passed and better("c", b, a, scope="s").passed)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: close("c", x, 1, rel=0.1),
        lambda x: close("c", 1, x, rel=0.1),
        lambda x: less("c", x, 1),
        lambda x: less("c", 1, x),
        lambda x: more("c", x, 1),
        lambda x: more("c", 1, x),
        lambda x: increasing("c", [0, x, 1]),
        lambda x: better("c", [1, 2, x], [1, 2, 3], scope="s"),
        lambda x: better("c", [1, 2, 3], [1, 2, x], scope="s"),
    ],
)
def test_comparisons_need_finite_numbers(call, bad):
    with pytest.raises(EvidenceError, match=r"c: \S+ is (nan|-?inf); a check needs finite numbers"):
        call(bad)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: close("c", 1, 1), ValueError, "exactly one of rel= and abs="),
        (lambda: close("c", 1, 1, rel=0.1, abs=0.1), ValueError, "exactly one of rel= and abs="),
        (lambda: close("c", 1, 0, rel=0.1), VacuousCheck, "the tolerance is 0.0"),
        (lambda: close("c", 1, 1, abs=0), VacuousCheck, "the tolerance is 0; give a positive one"),
        (lambda: close("c", 1, 1, rel=-0.1), VacuousCheck, "the tolerance is -0.1"),
        (lambda: close("c", 1, 1, rel=1), VacuousCheck, "a tolerance of 1 is as wide as the expected value 1"),
        (lambda: close("c", 1, -2, abs=2), VacuousCheck, "a tolerance of 2 is as wide as the expected value -2"),
        (lambda: increasing("c", [1, 2]), VacuousCheck, "2 values; a trend needs at least 3"),
        (lambda: increasing("c", []), VacuousCheck, "0 values"),
        (lambda: better("c", [1, 2], [1, 2, 3], scope="s"), VacuousCheck, "2 and 3 seeds; a comparison needs at least 3"),
        (lambda: better("c", [1, 2, 3], [], scope="s"), VacuousCheck, "3 and 0 seeds"),
        (lambda: close("c", "1", 1, rel=0.1), TypeError, "str"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_the_comparisons_say():
    check = close("loss", 1.98765, 2, rel=0.05, digits=3, machine=True)
    assert str(check) == "loss [measured]: expected 2, got ≈1.99 (tolerance 0.05 relative)"
    assert close("zero", 1e-9, 0, abs=1e-6).passed
    assert increasing("c", [1, 2, 4], machine=True).measured == "from ≈1 to ≈4, smallest step ≈1"
    shown = better("c", [3.0, 3.1, 2.9], [1.0, 1.1, 0.9], scope="cpu, 3 seeds")
    assert (shown.measured, shown.tolerance, shown.scope) == (
        "≈3 against ≈1, a difference of ≈24.49 standard errors",
        "2 standard errors",
        "cpu, 3 seeds",
    )


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor])
@pytest.mark.parametrize("compare", [less, more])
def test_array_scalars_make_plain_evidence(compare, kind):
    check = compare("c", kind(1.5), kind(2.0))
    assert type(check.passed) is bool


def test_a_tolerance_without_end_is_refused():
    with pytest.raises((VacuousCheck, EvidenceError), match="inf"):
        close("c", 5, 0, abs=math.inf)


def test_runs_without_any_spread_are_refused_by_name():
    with pytest.raises(VacuousCheck, match="c: "):
        better("c", [1, 1, 1], [0, 0, 0], scope="s")


def test_every_verdict_has_a_color_of_its_own():
    assert set(ledger.VERDICTS) == set(TAKES)
    assert len(set(ledger.VERDICTS.values())) == len(TAKES)


def test_mean_with_its_error():
    assert ledger.with_error([1.0, 2.0, 3.0]) == "2.000 ± 0.577"
    assert ledger.with_error([1, 3], digits=1) == "2.0 ± 1.0"
    with pytest.raises(ValueError, match="1 numbers"):
        ledger.with_error([1.0])
