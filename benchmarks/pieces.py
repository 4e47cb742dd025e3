"""Tokenizers: our BytePiece beside SentencePiece, tokenizers and the package bytepiece, on the texts of the notebook ``bytepiece``.

All are set to lose nothing: no normalisation, white space kept, bytes for what is not in the vocabulary. Each peer runs as its
documentation says: a whole batch a call, on all cores that it takes. Ours runs on one thread. The package bytepiece is timed where it
is installed (the extra ``parity`` of pyproject.toml says how).
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import random
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import sentencepiece
import tokenizers
import torch

from benchmarks.paired import Case, Row
from kexue_nb import bytepiece, data

SEED = 0
TRAIN_MB = 1.0  # what the encoders are trained on
ENCODE_MB = (0.1, 0.4, 1.6)
ENCODE_IDS, TRAIN_IDS = 8000, 4000
LEARN_MB = (0.1, 0.25, 0.6)


class Coded(NamedTuple):
    """The ids of every text, what gives a text back, and whether the ids must be ours."""

    ids: Sequence
    decode: Callable[[Sequence[int]], str]
    same: bool = False


class Learned(NamedTuple):
    """A trained tokenizer: there and back for a batch; the count of every piece, where they must be ours."""

    returned: Callable[[Sequence[str]], list[str]]
    counts: dict[bytes, int] | None = None


@cache
def paragraphs() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paragraphs of the People's Daily and of Shakespeare, shuffled, each on one line, in the normal form that the package applies."""
    found = []
    for text, between in ((data.chinese_news(), "\n"), (data.shakespeare(), "\n\n")):
        kept = [unicodedata.normalize("NFC", p.replace("\n", " ")) for p in text.split(between) if p.strip()]
        random.Random(SEED).shuffle(kept)
        found.append(tuple(kept))
    return found[0], found[1]


def texts(megabytes: float, after: float = 0.0) -> list[str]:
    """``megabytes`` of paragraphs, half of them Chinese, half English; other ones than those of ``texts(after)``."""
    found = []
    for kind in paragraphs():
        seen = 0
        for text in kind:
            if seen >= after * 5e5:
                found.append(text)
            seen += len(text.encode())
            if seen >= (after + megabytes) * 5e5:
                break
    return found


def megabytes(batch: Sequence[str]) -> float:
    """Size of a batch of texts."""
    return sum(len(t.encode()) for t in batch) / 1e6


def of_sentencepiece(batch: Sequence[str], ids: int, kind: str) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model ("unigram" or "bpe") that loses nothing."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(batch),
        model_writer=file,
        vocab_size=ids,
        model_type=kind,
        normalization_rule_name="identity",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=1 << 20,
        num_threads=torch.get_num_threads(),
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())


def of_tokenizers(batch: Sequence[str], ids: int, kind: str) -> tokenizers.Tokenizer:
    """A byte-level model ("Unigram" or "BPE") of the package tokenizers, as its quick tour makes it, without the normaliser."""
    model = tokenizers.Tokenizer(getattr(tokenizers.models, kind)())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    settings = {"initial_alphabet": tokenizers.pre_tokenizers.ByteLevel.alphabet(), "special_tokens": ["<PAD>", "<BOS>", "<EOS>"]}
    made_by = {"Unigram": tokenizers.trainers.UnigramTrainer, "BPE": tokenizers.trainers.BpeTrainer}
    trainer = made_by[kind](vocab_size=ids, show_progress=False, **settings)
    model.train_from_iterator(batch, trainer)
    return model


def has_package() -> bool:
    """Whether the package bytepiece is installed, with an automaton built for bytes."""
    if not (importlib.util.find_spec("bytepiece") and importlib.util.find_spec("ahocorasick")):
        return False
    import ahocorasick

    return not ahocorasick.unicode


def of_package(batch: Sequence[str], ids: int, workers: int) -> dict[bytes, int]:
    """The pieces that the package bytepiece learns, with their counts."""
    from bytepiece import Trainer

    trainer = Trainer(order=6, max_vocab_size=ids, min_count=2)
    with contextlib.redirect_stderr(io.StringIO()):
        trainer.train(batch, workers=workers)
    return trainer.pieces[0]


def in_package(model: bytepiece.BytePiece):
    """The package's tokenizer with the vocabulary of ours."""
    from bytepiece import Tokenizer

    counted = enumerate(zip(model.pieces, model.counts, strict=True), bytepiece.SPECIALS)
    return Tokenizer({base64.b64encode(p).decode(): [i, p.decode(errors="ignore"), c] for i, (p, c) in counted})


def decoded(model: bytepiece.BytePiece) -> Callable[[Sequence[int]], str]:
    """Decoding to a text, by ours."""
    return lambda ids: model.decode(list(ids)).decode()


Encode = Callable[[Sequence[str]], Coded]


@cache
def encoders() -> dict[str, Encode]:
    """What encodes a batch, by name, all trained on the same text to the same number of ids."""
    batch = texts(TRAIN_MB)
    ours = bytepiece.train(batch, ENCODE_IDS)
    found: dict[str, Encode] = {"ours": lambda b: Coded(ours.encode_batch(b), decoded(ours))}
    for kind in ("Unigram", "BPE"):
        pieces, levels = of_sentencepiece(batch, ENCODE_IDS, kind.lower()), of_tokenizers(batch, ENCODE_IDS, kind)
        found[f"sentencepiece {kind}"] = lambda b, m=pieces: Coded(m.encode(b), m.decode)
        found[f"tokenizers {kind}"] = lambda b, m=levels: Coded([coded.ids for coded in m.encode_batch(b)], m.decode)
    if has_package():
        theirs = in_package(ours)
        found["bytepiece"] = lambda b: Coded([theirs.encode(t) for t in b], theirs.decode, same=True)
    return found


def apart(batch: Sequence[str]) -> Callable[[Coded, Coded], float]:
    """Share of the texts that one of the two does not give back; where the ids must be the same, of those that have others."""

    def share(ours: Coded, theirs: Coded) -> float:
        wrong = 0
        for text, a, b in zip(batch, ours.ids, theirs.ids, strict=True):
            wrong += ours.decode(a) != text or theirs.decode(b) != text or (theirs.same and list(a) != list(b))
        return wrong / len(batch)

    return share


def encoding(device: torch.device) -> Iterator[Case]:
    """Texts that none was trained on."""
    for size in ENCODE_MB:
        batch = texts(size, after=TRAIN_MB)
        ours, *peers = encoders().items()
        tokens = sum(map(len, ours[1](batch).ids))
        yield Case(
            megabytes(batch),
            lambda batch=batch: encoders()["ours"](batch),
            {name: lambda batch=batch, encode=encode: encode(batch) for name, encode in peers},
            moved=megabytes(batch) * 1e6 + 4 * tokens,
            distance=apart(batch),
            label=f"{size:g} MB",
        )


def rates(device: torch.device) -> dict[str, float]:
    """Bytes a token, and MB/s as the best of three, on the text of middle size."""
    batch = texts(ENCODE_MB[1], after=TRAIN_MB)
    tokens, speed = {}, {}
    for name, encode in encoders().items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            coded = encode(batch)
            times.append(time.perf_counter() - start)
        tokens[f"bytes a token, {name}"] = megabytes(batch) * 1e6 / sum(map(len, coded.ids))
        speed[f"MB/s, {name}"] = megabytes(batch) / min(times)
    return tokens | speed


def trainers(slow: bool) -> dict[str, Callable[[Sequence[str]], Learned]]:
    """What learns from a batch, by name; those that take seconds only where asked for."""

    def ours(b: Sequence[str]) -> Learned:
        model = bytepiece.train(b, TRAIN_IDS, keep_rare=False)
        counts = dict(zip(model.pieces, model.counts, strict=True))
        return Learned(lambda sample: [decoded(model)(ids) for ids in model.encode_batch(sample)], counts)

    def pieces(b: Sequence[str], kind: str) -> Learned:
        model = of_sentencepiece(b, TRAIN_IDS, kind)
        return Learned(lambda sample: [model.decode(ids) for ids in model.encode(sample)])

    def levels(b: Sequence[str], kind: str) -> Learned:
        model = of_tokenizers(b, TRAIN_IDS, kind)
        return Learned(lambda sample: [model.decode(coded.ids) for coded in model.encode_batch(sample)])

    def package(b: Sequence[str], workers: int) -> Learned:
        counts = of_package(b, TRAIN_IDS, workers)
        return Learned(lambda sample: sample, counts)

    found = {"ours": ours}
    found |= {f"sentencepiece {kind}": lambda b, kind=kind: pieces(b, kind.lower()) for kind in ("Unigram", "BPE")}
    found["tokenizers BPE"] = lambda b: levels(b, "BPE")
    if slow:
        found["tokenizers Unigram"] = lambda b: levels(b, "Unigram")
        if has_package():
            found["bytepiece"] = lambda b: package(b, 1)
            found["bytepiece, two processes"] = lambda b: package(b, 2)
    return found


def unlike(sample: Sequence[str]) -> Callable[[Learned, Learned], float]:
    """Share of ``sample`` that one of the two does not give back; where the counts must be the same, of the pieces that have others."""

    def share(ours: Learned, theirs: Learned) -> float:
        lost = sum(a != t or b != t for t, a, b in zip(sample, ours.returned(sample), theirs.returned(sample), strict=True)) / len(sample)
        if theirs.counts is None:
            return lost
        return max(lost, len(ours.counts.items() ^ theirs.counts.items()) / len(ours.counts))

    return share


def learning(device: torch.device) -> Iterator[Case]:
    """Growing texts, the same number of ids."""
    for size in LEARN_MB:
        batch = texts(size)
        ours, *peers = trainers(slow=size == LEARN_MB[0]).items()
        yield Case(
            megabytes(batch),
            lambda batch=batch, learn=ours[1]: learn(batch),
            {name: lambda batch=batch, learn=learn: learn(batch) for name, learn in peers},
            moved=megabytes(batch) * 1e6,
            distance=unlike(texts(0.02, after=LEARN_MB[-1])),
            label=f"{size:g} MB",
        )


ROWS = [
    Row(
        "bytepiece-encode",
        f"Encoding Chinese and English, {ENCODE_IDS:,} ids learned from {TRAIN_MB:g} MB",
        "MB of text",
        0.0,
        encoding,
        "The package bytepiece cuts by the same vocabulary: its ids are ours, one by one. The others have vocabularies of their own; they "
        "and ours give every text back. Ours is one compiled pass over the whole batch through a double-array trie, on one thread, and "
        "returns arrays. SentencePiece's Unigram does the same in C++ and returns lists; it and tokenizers share the texts out over all "
        "cores. BPE merges pairs through a queue instead; tokenizers makes an object for each text, with the place of each token in it. "
        "The package asks an automaton from Cython for each match and copies the rest of the line for each piece.",
        devices=("cpu",),
        extra=rates,
    ),
    Row(
        "bytepiece-train",
        f"Training a tokenizer of at most {TRAIN_IDS:,} ids",
        "MB of text",
        0.0,
        learning,
        "The package bytepiece learns the same pieces with the same counts; the others learn by other rules, and are checked to give "
        "unseen text back. Ours sorts all positions once by their next six bytes where the package keeps a dictionary of n-grams, on one "
        "thread. SentencePiece's Unigram fits probabilities by several rounds of EM. Its BPE looks at each distinct word once and keeps "
        "an index of where a pair occurs, so that a merge touches those places only, less work than a sort of all positions and several "
        "passes of dynamic programming. The package and tokenizers' Unigram take seconds and are timed on the smallest text only; there "
        "the package and ours find some 2,000 pieces worth keeping, the others fill all 4,000 ids.",
        devices=("cpu",),
    ),
]
