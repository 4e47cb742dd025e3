"""BytePiece: the fast trainer and tokenizer against the plain ones, losslessness, its file, errors, parity with the package bytepiece."""

import itertools
import json
import math
import random
import re
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_nb import bytepiece, records
from kexue_nb.bytepiece import BytePiece, VocabularyError

TEXTS = [
    "the cat sat on the mat.\nthe hat that the cat sat on\n\n\nis the hat of the rat",
    "自然语言处理与自然语言理解，语言是自然的。\r\n自然数，自然语言\t　ＡＢ",
    "naïve café 😀😀 ½ e\u0301",
]
MALFORMED = [b"\x80\x80\xff\xfe\n\n", b"\xe4\xb8", "语".encode()[:2] + b"a" + "言".encode()[1:], b"\xf0\x9f\x98" * 3 + b"\x00\n\x00"]


@cache
def model(keep_rare=True):
    return bytepiece.train([*TEXTS * 2, *MALFORMED], 330, keep_rare=keep_rare)


def log_p(tokenizer):
    return bytepiece.log_shares_plain(dict(zip(tokenizer.pieces, tokenizer.counts, strict=True)))


def plainly(tokenizer, text):
    return [p for chunk in bytepiece.chunks_plain(text) for p in bytepiece.segment_plain(chunk, log_p(tokenizer))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_rare": False},
        {"whole_characters": False},
        {"order": 1},
        {"order": 2},
        {"order": 3, "min_count": 1},
        {"order": 7},
        {"longest": 4},
        {"min_count": 3, "keep_rare": False},
    ],
)
@pytest.mark.parametrize("size", [259, 300, 5000])
def test_the_fast_trainer_is_the_plain_one(options, size):
    texts = [*TEXTS, TEXTS[0] * 2, *MALFORMED]
    assert bytepiece.train(texts, size, **options) == bytepiece.train_plain(texts, size, **options)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.text(alphabet="ab \n中文", max_size=40)), max_size=6),
    st.integers(1, 7),
    st.booleans(),
    st.booleans(),
)
def test_the_fast_trainer_is_the_plain_one_on_anything(texts, order, whole, rare):
    options = {"order": order, "whole_characters": whole, "keep_rare": rare}
    assert bytepiece.train(texts, 270, **options) == bytepiece.train_plain(texts, 270, **options)


@pytest.mark.parametrize("options", [{}, {"keep_rare": False, "min_count": 3}, {"order": 3}])
def test_the_fast_trainer_is_the_plain_one_where_pieces_compete(options):
    draw = random.Random(1)
    words = ["".join(draw.choices("aeiou语言nrst", k=draw.randrange(1, 6))) for _ in range(150)]
    texts = [" ".join(draw.choices(words, weights=[1 / (i + 1) for i in range(150)], k=40)) for _ in range(60)]
    everything = bytepiece.train(texts, 10_000, **options)
    for size in (265, 275):
        small = bytepiece.train(texts, size, **options)
        assert small == bytepiece.train_plain(texts, size, **options)
        assert len(small.pieces) < len(everything.pieces)


@pytest.mark.parametrize("texts", [[b"ab", b"ab\0c", b"ab", b"abd"], [b"a\0", b"a", b"a\0\0", b"a\0b", b"a"], [b"\0" * 9, b"\0" * 4]])
def test_the_end_of_a_line_is_no_nul(texts):
    for least in (1, 2, 3):
        options = {"min_count": least, "keep_rare": False}
        assert bytepiece.train(texts, 300, **options) == bytepiece.train_plain(texts, 300, **options)
    data, starts = bytepiece.join(texts)
    counts = bytepiece._prefix_counts(*bytepiece._radix_sorted(bytepiece._windows(data, starts, 4), 4), 4)
    seen = bytepiece.count_ngrams_plain(texts, 4)
    for first, end in itertools.pairwise(starts):
        for i in range(first, end):
            assert counts[i].tolist() == [seen[data[i : i + k].tobytes()] if i + k <= end else 0 for k in range(1, 5)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_every_byte_string_comes_back(data):
    ids = model().encode(data)
    assert ids.dtype == np.int32
    assert model().decode(ids) == model().decode(ids.tolist()) == data


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.sampled_from(MALFORMED), st.text(max_size=20))
def test_text_around_malformed_utf8_comes_back(before, bad, after):
    data = before.encode() + bad + after.encode()
    assert model().decode(model().encode(data)) == data
    assert b"".join(model().segment(data)) == data


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="the cats\n自然语言的", max_size=60))
def test_segmentation_is_the_plain_one(text):
    for tokenizer in (model(), model(False)):
        assert tokenizer.segment(text) == plainly(tokenizer, text)


def test_batches_and_single_texts_agree():
    texts = ["", *TEXTS, "\n", "\n\na", ""]
    alone = [model().encode(t).tolist() for t in texts]
    assert [ids.tolist() for ids in model().encode_batch(texts)] == alone
    assert model().encode_batch([]) == [] or [len(x) for x in model().encode_batch([])] == [0]


def test_ties_go_to_the_longest_last_piece():
    counts = {bytes([b]): 1 for b in range(256)} | {b"ab": 4, b"bc": 4, b"a": 8, b"c": 8}
    assert BytePiece.from_counts(counts).segment("abc") == [b"a", b"bc"]


def test_it_repeats_itself_and_words_are_found():
    again = bytepiece.train([*TEXTS * 2, *MALFORMED], 330)
    assert again == model()
    assert any(len(p.decode(errors="ignore")) > 1 and p[0] > 127 for p in again.pieces)
    assert again.vocab_size <= 330


def test_no_piece_begins_inside_a_character():
    tokenizer = bytepiece.train(TEXTS, 2000, min_count=1)
    assert all(len(p) == 1 or not 128 <= p[0] < 192 for p in tokenizer.pieces)


def test_chunks_are_lines():
    for text in [b"", b"\n", b"a", b"a\n\nb\n", b"\n\na\n", *(t.encode() for t in TEXTS)]:
        data, starts = bytepiece.join([text])
        assert [data[a:b].tobytes() for a, b in itertools.pairwise(starts)] == bytepiece.chunks_plain(text)
    data, starts = bytepiece.join(["ab", "", "c"])
    assert (data.tobytes(), starts.tolist()) == (b"abc", [0, 2, 3])


def test_a_rare_character_breaks_the_line_only_without_the_repair():
    line = "自然语言处理" * 8 + "龘" + "自然语言处理" * 8

    def cut(rare):
        return bytepiece.cut(*bytepiece.join([line]), order=6, min_count=2, whole_characters=True, keep_rare=rare)

    broken, mended = cut(False), cut(True)
    assert (broken[1], mended[1]) == (1, 0)
    assert broken[0][len(line.encode()) // 2 + 3 :].all()
    assert mended[0].sum() < broken[0].sum() / 2


def test_saved_and_loaded(tmp_path):
    model().save(tmp_path / "v.json")
    assert BytePiece.load(tmp_path / "v.json") == model()
    doc = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert min(i for i, _, _ in doc.values()) == 3


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"YQ==": [3, "a"]}', '{"YQ==": [4, "a", 1]}', '{"!": [3, "a", 1]}', "no json", '{"YQ==": [3, "a", 1]}']
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(VocabularyError):
        BytePiece.load(tmp_path / "v.json")


def test_what_is_refused():
    every = tuple(bytes([b]) for b in range(256))
    for pieces, counts in [
        (every, (1,) * 255),
        (every[1:], (1,) * 255),
        (every, (0,) + (1,) * 255),
        (every[::-1], (1,) * 256),
        ((*every, b"a"), (1,) * 257),
    ]:
        with pytest.raises(VocabularyError):
            BytePiece(pieces, counts)
    with pytest.raises(ValueError, match="give at least 259"):
        bytepiece.train(["a"], 258)
    with pytest.raises(ValueError, match="give 1 to 7"):
        bytepiece.train(["a"], 300, order=8)
    with pytest.raises(ValueError, match="at least 1"):
        bytepiece.train(["a"], 300, min_count=0)
    with pytest.raises(TypeError, match="give a list"):
        bytepiece.train("abc", 300)
    with pytest.raises(TypeError, match="str or bytes"):
        model().encode(3)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        model().decode([3, 10**6])


def test_an_empty_corpus_gives_the_bytes():
    for texts in ([], [""], ["", b""]):
        assert bytepiece.train(texts, 300).pieces == tuple(bytes([b]) for b in range(256))
    assert model().encode("").tolist() == []
    assert model().decode([0, 1, 2]) == b""


def test_a_trie_of_many_pieces_finds_each():
    draw = random.Random(0)
    pieces = sorted({bytes(draw.choices(range(256), k=draw.randrange(1, 5))) for _ in range(20_000)})
    units = bytepiece._trie(pieces)
    for number, piece in enumerate(pieces):
        node = 0
        for byte in piece:
            child = units[node, 0] + byte
            assert units[child, 1] == node
            node = child
        assert units[node, 2] == number


def test_log_p_sums_to_one():
    assert math.isclose(np.exp(model().log_p).sum(), 1)


def test_a_record_knows_the_compiled_code():
    before = records.code_sha256(bytepiece.train)
    source = records._source
    try:
        records._source = lambda item: re.sub("argmax|best", "other", source(item)) if item.__name__ == "_segment" else source(item)
        assert records.code_sha256(bytepiece.train) != before
    finally:
        records._source = source


def test_parity_with_the_package_bytepiece(tmp_path):
    """Vocabulary, counts, file and tokens are those of the package, which needs gcc, Cython and a pyahocorasick built for bytes."""
    ahocorasick = pytest.importorskip("ahocorasick", reason="pyahocorasick is not installed (extra 'parity' of pyproject.toml)")
    if ahocorasick.unicode:
        pytest.skip("this pyahocorasick was built for str: AHOCORASICK_BYTES=1 pip install --no-binary pyahocorasick pyahocorasick")
    package = pytest.importorskip("bytepiece", reason="the package bytepiece is not installed (extra 'parity' of pyproject.toml)")
    texts = [unicodedata.normalize("NFC", t) for t in [*TEXTS * 3, " ".join(TEXTS), "龘" + TEXTS[1]]]
    for size, whole, least, order in [(300, True, 2, 6), (400, True, 2, 6), (400, False, 3, 4), (10_000, True, 1, 5)]:
        trainer = package.Trainer(order=order, max_vocab_size=size, min_count=least, ensure_unicode=whole)
        trainer.train(texts)
        ours = bytepiece.train(texts, size, order=order, min_count=least, whole_characters=whole, keep_rare=False)
        assert dict(zip(ours.pieces, ours.counts, strict=True)) == trainer.pieces[0]
        trainer.save(str(tmp_path / "theirs.json"))
        ours.save(tmp_path / "ours.json")
        assert (tmp_path / "ours.json").read_text(encoding="utf-8") == (tmp_path / "theirs.json").read_text(encoding="utf-8")
        theirs = package.Tokenizer(str(tmp_path / "theirs.json"))
        for text in [*texts, "an unseen text, 没有见过的字，éé\n\n\nx"]:
            assert theirs.encode(text) == ours.encode(text).tolist()
