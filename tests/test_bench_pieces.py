"""The tokenizer rows: texts to learn from and to encode are other ones, and an answer that is wrong is noticed."""

import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("tokenizers")

from benchmarks import pieces


@pytest.fixture
def lines(monkeypatch):
    monkeypatch.setattr(pieces, "paragraphs", lambda: tuple(tuple(f"{kind}{i:03}" for i in range(200)) for kind in "ab"))


def test_what_is_encoded_was_not_learned(lines):
    learned, unseen = pieces.texts(4e-4), pieces.texts(4e-4, after=4e-4)
    assert len(learned) == len(unseen) == 100
    assert not set(learned) & set(unseen)
    assert {t[0] for t in unseen} == {"a", "b"}


def test_a_lost_text_and_other_ids_are_noticed():
    batch = ["ab", "c"]
    ours, lost = pieces.Coded([[1, 2], [3]], lambda ids: "".join("?abc"[i] for i in ids)), [[1, 2], [0]]
    share = pieces.apart(batch)
    assert share(ours, ours._replace(same=True)) == 0
    assert share(ours, ours._replace(ids=lost)) == share(ours._replace(ids=lost), ours) == 0.5
    other = pieces.Coded([[5], [3]], lambda ids: {5: "ab", 3: "c"}[ids[0]])
    assert share(ours, other) == 0
    assert share(ours, other._replace(same=True)) == 0.5


def test_other_counts_are_noticed():
    ours = pieces.Learned(lambda sample: list(sample), {b"a": 2, b"b": 1})
    share = pieces.unlike(["x", "y"])
    assert share(ours, ours) == share(ours, ours._replace(counts=None)) == 0
    assert share(ours, ours._replace(counts={b"a": 3, b"b": 1})) > 0
    assert share(ours, pieces.Learned(lambda sample: ["x", "z"])) == 0.5
