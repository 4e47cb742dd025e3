"""The pairing of ours and a peer: who is compared with what, in which order the clock runs, and what stops a row."""

import gc
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import paired
from benchmarks.paired import Case, Disagreement, Row

CPU = torch.device("cpu")
CEILING = {"bandwidth": 1e9, "float32": 1e12}


def a_row(cases, tolerance=1e-3):
    return Row("r", "A row", "numbers", tolerance, cases, "a note")


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (np.array([3.0, 4.0]), np.array([3.0, 4.5]), 0.1),
        (torch.tensor([3.0, 4.0], requires_grad=True), [3.0, 4.5], 0.1),
        ([torch.ones(4), torch.ones(1)], [torch.ones(4), torch.full((1,), 1.5)], 0.5),
        (2.0, 1.0, 0.5),
        (np.ones(3), np.ones(4), math.inf),
        (np.ones(2), np.array([1.0, np.nan]), math.inf),
        (np.zeros(2), np.zeros(2), 0.0),
        ("ab", "ab", 0.0),
        ("ab", "ac", math.inf),
        (None, None, 0.0),
    ],
)
def test_the_gap_between_answers(a, b, wanted):
    assert paired.gap(a, b) == pytest.approx(wanted)


def test_lists_of_unequal_length_are_no_answers():
    with pytest.raises(ValueError, match="zip"):
        paired.gap([torch.ones(1)], [torch.ones(1), torch.ones(1)])


def test_ours_and_the_peers_run_forwards_and_backwards(monkeypatch):
    monkeypatch.setattr(paired, "SAMPLE_S", 0.0)
    calls = []
    works = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = paired.in_turn(works, CPU, rounds=3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", 3)


def test_seconds_are_of_one_call(monkeypatch):
    now = [0.0]

    def work():
        now[0] += 0.02

    monkeypatch.setattr(paired, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert paired.seconds(work, 4, CPU) == pytest.approx(0.02)
    assert now[0] == pytest.approx(0.08)
    assert paired.repeats_for(work, CPU) == 3


def test_a_case_is_told_beside_its_bound(monkeypatch):
    clock = {"ours": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 4.0]}
    monkeypatch.setattr(paired, "in_turn", lambda works, device, rounds: clock)
    case = Case(8, lambda: 1.0, {"peer": lambda: 1.0005}, operations=5e11, moved=25e7, label="eight")
    found = paired.measured(case, a_row(None), CPU, CEILING)
    assert (found["seconds"], found["bound"], found["limit"]) == (2.0, 0.5, "operations")
    assert found["peers"]["peer"] == {"seconds": 4.0, "ratio": 2.0, "low": 1.0, "high": 3.0, "gap": pytest.approx(5e-4)}
    moved = paired.measured(Case(8, lambda: 1, {}, moved=2.5e8), a_row(None), CPU, CEILING)
    assert (moved["bound"], moved["limit"], moved["size"], moved["peers"]) == (0.25, "bytes", 8, {})
    assert paired.measured(Case(0.5, lambda: 1, {}), a_row(None), CPU, CEILING)["limit"] == ""


@pytest.mark.parametrize("theirs", [1.01, math.nan])
def test_a_wrong_answer_stops_the_row(theirs):
    with pytest.raises(Disagreement, match="r at 8 numbers: peer is"):
        paired.measured(Case(8, lambda: 1.0, {"peer": lambda: theirs}), a_row(None), CPU, CEILING)


def test_growth_is_a_power_of_the_size():
    assert paired.exponent([1, 10, 100], [3, 300, 30000]) == pytest.approx(2)


def test_a_row_grows_and_lets_go_of_what_it_measured(monkeypatch):
    monkeypatch.setattr(paired, "in_turn", lambda works, device, rounds: {name: [work() ** 2] for name, work in works.items()})
    alive = []

    def cases(device):
        for n in (1, 2, 4):
            gc.collect()
            assert [case for case in alive if case() is not None] == []
            case = Case(n, lambda n=n: n, {"peer": lambda n=n: n} | ({"late": lambda n=n: n} if n > 1 else {}))
            alive.append(weakref.ref(case))
            yield case
            del case

    found = paired.run(a_row(cases), CPU, CEILING)
    assert found["exponents"] == {"ours": pytest.approx(2), "peer": pytest.approx(2)}
    assert [c["size"] for c in found["cases"]] == [1, 2, 4]
    assert "extra" not in found
