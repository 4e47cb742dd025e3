"""Byte pair encoding against a plain loop, and the tokenizers' comparison at small size."""

import itertools
import math
import random
import re
from collections import Counter

import pytest

from kexue_nb import bpe, bytepiece, peers

TEXTS = ["low lower lowest, new newer newest wider", "aaa aaaa abababab  two  spaces", "自然语言处理 自然语言 x_y 12 123"]


def plain_merges(stretches, size):
    words, merges = [list(s.encode()) for s in stretches], []
    while len(merges) < size - 256:
        pairs = Counter(pair for w in words for pair in itertools.pairwise(w))
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        for w in words:
            i = 0
            while i < len(w) - 1:
                if (w[i], w[i + 1]) == best:
                    w[i : i + 2] = [256 + len(merges)]
                i += 1
        merges.append(best)
    return merges, [t for w in words for t in w]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("size", [256, 270, 1000])
def test_merges_are_those_of_a_plain_loop(words, size):
    stretches = [w for t in TEXTS for w in (bpe._WORD.findall(t) if words else [t])]
    merges, tokens = plain_merges(stretches, size)
    made = bpe.train(TEXTS, size, words=words)
    assert [tuple(m) for m in made.merges.tolist()] == merges
    assert made.encode(TEXTS).tolist() == tokens
    assert made.decode(tokens) == "".join(TEXTS).encode()


def test_words_are_walls():
    assert all("".join(bpe._WORD.findall(t)) == t for t in TEXTS)
    made = bpe.train(TEXTS * 5, 1000, words=True)
    assert not any(re.search(rb"\S ", made.decode([256 + k])) for k in range(len(made.merges)))
    assert any(re.search(rb"\S ", bpe.train(TEXTS * 5, 1000, words=False).decode([256 + k])) for k in range(len(made.merges)))


def test_size_is_checked():
    with pytest.raises(ValueError, match="give 256 to"):
        bpe.train(TEXTS, 255, words=True)


@pytest.mark.parametrize("name", [n for n in peers.NAMES if n != "reference"])
def test_every_contestant_gives_the_text_back(name):
    if name.startswith("SP"):
        pytest.importorskip("sentencepiece")
    if name.startswith("HF"):
        pytest.importorskip("tokenizers")
    texts = [f"{t} {i}" for i in range(40) for t in TEXTS]
    seen = peers.measure(
        name, texts, {"a": TEXTS, "b": ["  unseen 没见过 é\t\u3000", "x"]}, 330 if not name.startswith("SP") else 310, alone=False
    )
    assert set(seen) == {"bytes_per_token", "bits_per_byte", "train_s", "encode_s", "encode_mb_s", "memory_mb"}
    assert seen["bytes_per_token"]["a"] > 1
    assert 0 < seen["bits_per_byte"]["a"] < 8


def test_bits_and_bytes_are_those_of_the_definition():
    texts = [f"{t} {i % 7}" for i in range(40) for t in TEXTS]
    seen = peers.measure("BytePiece", texts, {"a": TEXTS}, 400, alone=False)
    model = bytepiece.train(texts, 400)
    learned = Counter(i for t in texts for i in model.encode(t).tolist())
    tokens = [i for t in TEXTS for i in model.encode(t).tolist()]
    size = sum(len(t.encode()) for t in TEXTS)
    shares = {i: (learned[i] + 0.5) / (sum(learned.values()) + 200) for i in range(400)}
    assert math.isclose(sum(shares.values()), 1)
    assert math.isclose(seen["bits_per_byte"]["a"], sum(math.log2(1 / shares[i]) for i in tokens) / size)
    assert math.isclose(seen["bytes_per_token"]["a"], size / len(tokens))


def test_an_unknown_contestant_is_refused():
    with pytest.raises(ValueError, match="there are BytePiece"):
        peers.contestant("WordPiece", TEXTS, 300)


def test_random_texts_are_merged_as_by_the_plain_loop():
    draw = random.Random(0)
    for _ in range(60):
        text = "".join(draw.choice("aab ") for _ in range(draw.randint(2, 24)))
        merges, tokens = plain_merges([text], 262)
        made = bpe.train([text], 262, words=False)
        assert [tuple(m) for m in made.merges.tolist()] == merges
        assert made.encode([text]).tolist() == tokens
