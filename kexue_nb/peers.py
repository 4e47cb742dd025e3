"""Tokenizers side by side: the same texts, the same number of ids, each trained and timed in a process of its own.

One policy for all: no normalisation, white space is kept as it is, a token may consist of spaces, single bytes serve what is not in
the vocabulary. So every contestant gives back exactly the text that it was given, which is checked, and tokens can be compared.
``sentencepiece`` and ``tokenizers`` are needed for their own rows only.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kexue_nb import bpe, bytepiece

NAMES = {
    "BytePiece": "BytePiece, rare characters kept",
    "BytePiece original": "BytePiece as published",
    "BPE words": "own byte BPE, inside words",
    "BPE free": "own byte BPE, across spaces",
    "SP Unigram": "SentencePiece Unigram",
    "SP BPE": "SentencePiece BPE",
    "SP Unigram free": "SentencePiece Unigram, across spaces and scripts",
    "SP BPE free": "SentencePiece BPE, across spaces and scripts",
    "HF BPE": "tokenizers byte BPE, words of GPT-2",
    "HF BPE free": "tokenizers byte BPE, across spaces",
    "reference": "the package bytepiece 0.6.3",
}


@dataclass(frozen=True)
class Contestant:
    """A trained tokenizer: ``encode`` takes a list of texts and gives one list of ids a text, ``decode`` is its inverse for one text."""

    encode: Callable[[Sequence[str]], list]
    decode: Callable[[Sequence[int]], str]


def contestant(name: str, texts: Sequence[str], vocab_size: int) -> Contestant:
    """Train the tokenizer called ``name`` (one of NAMES) on one thread."""
    if name not in NAMES:
        raise ValueError(f"no tokenizer {name!r}; there are {', '.join(NAMES)}")
    family, *rest = name.split(" ")
    if family == "BytePiece":
        model = bytepiece.train(texts, vocab_size, keep_rare=rest != ["original"])
        return Contestant(model.encode_batch, lambda ids: model.decode(ids.tolist()).decode())
    if family == "BPE":
        made = bpe.train(texts, vocab_size - bytepiece.SPECIALS, words=rest == ["words"])
        return Contestant(lambda batch: [made.encode(batch)], lambda ids: made.decode(ids.tolist()).decode())
    if family == "SP":
        return _sentencepiece(texts, vocab_size, rest[0].lower(), "free" in rest)
    if family == "HF":
        return _huggingface(texts, vocab_size, "free" in rest)
    model = reference_trained(texts, vocab_size)[1]
    return Contestant(lambda batch: [model.encode(t) for t in batch], model.decode)


def _sentencepiece(texts: Sequence[str], vocab_size: int, kind: str, free: bool) -> Contestant:
    import io

    import sentencepiece

    wide = {"split_by_whitespace": False, "split_by_unicode_script": False, "split_by_number": False} if free else {}
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=file,
        vocab_size=vocab_size,
        model_type=kind,
        normalization_rule_name="identity",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
        **wide,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    return Contestant(lambda batch: model.encode(list(batch), num_threads=1), model.decode)


def through_sentencepiece(text: str, texts: Sequence[str], **settings) -> str:
    """``text`` encoded and decoded by a SentencePiece Unigram model of 4,000 pieces with these settings, trained on ``texts``."""
    import io

    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=4000, num_threads=1, minloglevel=2, **settings
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    return model.decode(model.encode(text))


def _huggingface(texts: Sequence[str], vocab_size: int, free: bool) -> Contestant:
    import tokenizers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not free)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<bos>", "<eos>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, special_tokens=specials)
    model.train_from_iterator(texts, trainer)
    return Contestant(lambda batch: [coded.ids for coded in model.encode_batch(batch)], model.decode)


def reference_trained(texts: Sequence[str], vocab_size: int):
    """What the package bytepiece learns from ``texts``: as our BytePiece, and as its own Tokenizer."""
    import contextlib

    from bytepiece import Tokenizer, Trainer

    trainer = Trainer(order=6, max_vocab_size=vocab_size, min_count=2)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        trainer.train(texts)
    return bytepiece.BytePiece.from_counts(trainer.pieces[0]), Tokenizer(trainer.dump(trainer.pieces[0]))


def measure(name: str, train: Sequence[str], tests: Mapping[str, Sequence[str]], vocab_size: int, *, alone: bool) -> dict:
    """Train, encode the tests, check that they come back, and say what it took.

    Returns bytes_per_token and bits_per_byte for each test (the latter: Unigram code length by the tokens' frequencies in ``train``,
    plus 1/2 each), ``train_s`` and ``encode_s`` in seconds of processor time, ``encode_mb_s``, and ``memory_mb``: by how much training
    raised the peak of the resident memory. With ``alone`` in a process of its own, after a warm-up on a small text.
    """
    if not alone:
        return _measure(name, train, tests, vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps([name, list(train), {k: list(v) for k, v in tests.items()}, vocab_size]), encoding="utf-8")
        threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "kexue_nb.peers", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(name: str, train: Sequence[str], tests: Mapping[str, Sequence[str]], vocab_size: int) -> dict:
    before, start = _memory_mb("VmRSS"), time.process_time()
    model = contestant(name, train, vocab_size)
    train_s, peak = time.process_time() - start, _memory_mb("VmHWM")
    seen = Counter(int(i) for ids in model.encode(train) for i in ids)
    total, result = sum(seen.values()) + vocab_size / 2, {"bytes_per_token": {}, "bits_per_byte": {}}
    encode_s, size = 0.0, 0
    for key, texts in tests.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            coded = model.encode(texts)
            times.append(time.process_time() - start)
        encode_s += min(times)
        if "".join(model.decode(ids) for ids in coded) != "".join(texts):
            raise RuntimeError(f"{name} does not give back the text {key!r}")
        length, tokens = sum(len(t.encode()) for t in texts), sum(len(ids) for ids in coded)
        bits = -sum(math.log2((seen[int(i)] + 0.5) / total) for ids in coded for i in ids)
        result["bytes_per_token"][key], result["bits_per_byte"][key] = length / tokens, bits / length
        size += length
    cost = {"train_s": train_s, "encode_s": encode_s, "encode_mb_s": size / 1e6 / max(encode_s, 1e-9), "memory_mb": max(0.0, peak - before)}
    return result | cost


def _memory_mb(field: str) -> float:
    """Resident memory of this process, now (VmRSS) or at its peak (VmHWM), where the system says it; else 0."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)


def _main() -> None:
    name, train, tests, vocab_size = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if name.startswith("SP"):
        import sentencepiece  # noqa: F401 (nothing is compiled on first use; a small text may hold too few pieces, or too many characters)
    else:
        contestant(name, [*train[:40], *train[-40:]], 300)
    print(json.dumps(_measure(name, train, tests, vocab_size)))


if __name__ == "__main__":
    _main()
