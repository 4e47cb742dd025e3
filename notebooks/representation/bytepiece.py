# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import inspect
import itertools
import json
import math
import random
import tempfile
import time
import unicodedata
from collections import Counter
from fractions import Fraction
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sympy as sp

import kexue_nb
from kexue_nb import bpe, bytepiece, data, ledger, metrics, peers
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# %%
nb = kexue_nb.notebook("bytepiece")


# %%
def paragraphs(kind):
    """The paragraphs of one of our four texts, each on one line: newlines become spaces, for every tokenizer alike."""
    if kind == "zh":
        raw = data.chinese_news().split("\n")
    elif kind == "reviews":
        raw = data.chinese_reviews().split("\n")
    else:
        raw = (data.shakespeare() if kind == "en" else data.python_code()).split("\n\n")
    return [p.replace("\n", " ") for p in raw if p.strip()]


def split(kind, train, test, seed):
    """Shuffled paragraphs: about ``train`` bytes to learn from, about ``test`` other bytes to judge by."""
    parts, room, k = ([], []), [test, train], 0
    shuffled = sorted(paragraphs(kind))
    random.Random(seed).shuffle(shuffled)
    for text in shuffled:
        k += k < 2 and room[k] <= 0
        if k == 2:
            break
        parts[k].append(text)
        room[k] -= len(text.encode())
    return parts[1], parts[0]


# %%
def compare(device, settings, test, alone):
    """peers.measure for all settings, tokenizers and seeds: setting -> tokenizer -> quantity (-> test text) -> one number a seed."""
    found = {}
    for name, (mixture, vocab_size, tokenizers, seeds, kinds) in settings.items():
        rows = found[name] = {t: {} for t in tokenizers}
        for seed in seeds:
            pairs = {kind: split(kind, mixture.get(kind, 0), test, seed) for kind in kinds}
            texts = [text for kind in mixture for text in pairs[kind][0]]
            for tokenizer in tokenizers:
                seen = peers.measure(tokenizer, texts, {kind: pair[1] for kind, pair in pairs.items()}, vocab_size, alone=alone)
                for key, value in seen.items():
                    for kind, x in value.items() if isinstance(value, dict) else [(None, value)]:
                        place = rows[tokenizer] if kind is None else rows[tokenizer].setdefault(key, {})
                        place.setdefault(kind or key, []).append(x)
    return found


# %%
def sweep(device, mixture, test, orders, sizes, vocab_size, seed):
    """Bytes per token against the order n at one vocabulary size, and against the size at n = 6; how full the vocabulary is."""
    pairs = {kind: split(kind, amount, test, seed) for kind, amount in mixture.items()}
    texts = [text for kind in mixture for text in pairs[kind][0]]
    found = {"order": {}, "size": {}}
    for key, values in (("order", orders), ("size", sizes)):
        for value in values:
            setting = {"order": value} if key == "order" else {}
            model = bytepiece.train(texts, vocab_size if key == "order" else value, **setting)
            rates = {kind: rate(model, pair[1]) for kind, pair in pairs.items()}
            rates["total"] = rate(model, [text for pair in pairs.values() for text in pair[1]])
            found[key][str(value)] = rates | {"vocabulary": model.vocab_size}
    return found


def rate(model, texts):
    """Bytes per token."""
    return sum(len(t.encode()) for t in texts) / sum(map(len, model.encode_batch(texts)))


# %%
def reference(device, package, size, vocab_size, measured, lengths):
    """The fast trainer and tokenizer against the package bytepiece, or against the plain code where it is not installed."""
    texts = [t for kind in ("zh", "en") for t in split(kind, size // 2, 0, 0)[0]]
    texts = [unicodedata.normalize("NFC", t) for t in texts]
    fast = bytepiece.train(texts, vocab_size, keep_rare=False)
    if not package:
        plain = bytepiece.train_plain(texts, vocab_size, keep_rare=False)
        log_p = bytepiece.log_shares_plain(dict(zip(plain.pieces, plain.counts, strict=True)))
        other, cut_other = plain, lambda text: [p for c in bytepiece.chunks_plain(text) for p in bytepiece.segment_plain(c, log_p)]
    else:
        other, tokenizer = peers.reference_trained(texts, vocab_size)
        cut_other = tokenizer.tokenize
    unequal = sum(fast.segment(t) != cut_other(t) for t in texts)
    found = {"pieces": len(fast.pieces), "same": fast == other, "texts": len(texts), "unequal": unequal}
    if package:
        more = [t for kind in ("zh", "en") for t in split(kind, measured // 2, 0, 0)[0]]
        found |= {name: peers.measure(name, more, {"train": more[:1000]}, 8000, alone=True) for name in ("reference", "BytePiece original")}
        line = " ".join(more)
        found["mb_s"] = {str(n): [speed(cut, line, n) for cut in (cut_other, fast.encode)] for n in lengths}
    return found


def speed(cut, line, length):
    """MB/s of processor time on one line of ``length`` bytes; the best of three."""
    text, times = line.encode()[:length].decode(errors="ignore"), []
    for _ in range(3):
        start = time.process_time()
        cut(text)
        times.append(time.process_time() - start)
    return length / 1e6 / min(times)


# %%
def growth(device, sizes, vocab_size, tokenizers, test, seed, alone):
    """Bytes per token on held-out Chinese (news and reviews mixed) for growing training texts: size -> tokenizer -> rate."""
    mixed = sorted(paragraphs("zh") + paragraphs("reviews"))
    random.Random(seed).shuffle(mixed)
    ends = np.cumsum([len(t.encode()) for t in mixed])
    held_out, rest = mixed[: int(np.searchsorted(ends, test))], mixed[int(np.searchsorted(ends, test)) :]
    ends = np.cumsum([len(t.encode()) for t in rest])
    found = {}
    for size in sizes:
        texts = rest[: int(np.searchsorted(ends, size))]
        seen = {t: peers.measure(t, texts, {"test": held_out}, vocab_size, alone=alone) for t in tokenizers}
        found[str(size)] = {t: s["bytes_per_token"]["test"] for t, s in seen.items()}
    return found


# %%
def returned(device, package, text):
    """What SentencePiece gives back of ``text`` under four settings, and what BytePiece does; trained on 300 kB of Chinese and English."""
    texts = [t for kind in ("zh", "en") for t in split(kind, 150_000, 0, 0)[0]]
    model = bytepiece.train(texts, 2000)
    found = {"BytePiece": model.decode(model.encode(text)).decode()}
    if package:
        identity = {"normalization_rule_name": "identity"}
        keep = {"remove_extra_whitespaces": False, "add_dummy_prefix": False}
        settings = {"default": {}, "identity": identity, "identity, bytes": identity | {"byte_fallback": True}}
        settings |= {"identity, bytes, spaces": identity | {"byte_fallback": True} | keep}
        found |= {name: peers.through_sentencepiece(text, texts, **setting) for name, setting in settings.items()}
    return found


# %%
everyone = ["BytePiece", "BytePiece original", "SP Unigram", "SP BPE", "SP BPE free", "HF BPE", "HF BPE free"]
few = ["BytePiece", "SP Unigram", "SP BPE", "SP BPE free"]
own = ["BytePiece", "BytePiece original", "BPE words", "BPE free"]
tests = ["zh", "en", "reviews", "code"]
live = {"zh+en, 0.3 MB, V = 2000": [{"zh": 150_000, "en": 150_000}, 2000, own, [0, 1, 2], tests]}
large = {
    "zh+en, 1 MB, V = 8000": [{"zh": 500_000, "en": 500_000}, 8000, everyone, [0, 1, 2], tests],
    "zh+en, 4 MB, V = 16000": [{"zh": 2_000_000, "en": 2_000_000}, 16000, few, [0], tests],
    "zh, 5 MB, V = 20000": [{"zh": 5_000_000}, 20000, few, [0], ["zh"]],
    "zh+en+code, 1.5 MB, V = 8000": [{"zh": 500_000, "en": 500_000, "code": 500_000}, 8000, [*few, "HF BPE"], [0], tests],
}
small_e1 = {"settings": live, "test": 60_000, "alone": False}
e1 = nb.run("E1", compare, **nb.at_scale(cpu=small_e1, gpu=small_e1, full={"settings": large, "test": 200_000, "alone": True}))

# %%
small_e3 = {"mixture": {"zh": 150_000, "en": 150_000}, "test": 60_000, "vocab_size": 3000, "seed": 0}
small_e3 |= {"orders": [2, 3, 4, 5, 6, 7], "sizes": [500, 1000, 2000, 4000]}
large_e3 = {"mixture": {"zh": 500_000, "en": 500_000}, "test": 200_000, "vocab_size": 8000, "seed": 0}
large_e3 |= {"orders": [2, 3, 4, 5, 6, 7], "sizes": [500, 1000, 2000, 4000, 8000, 16000]}
e3 = nb.run("E3", sweep, **nb.at_scale(cpu=small_e3, gpu=small_e3, full=large_e3))

small_e4 = {"package": False, "size": 12_000, "vocab_size": 600, "measured": 0, "lengths": []}
large_e4 = {"package": True, "size": 120_000, "vocab_size": 3000, "measured": 250_000, "lengths": [10_000, 20_000, 40_000, 80_000, 160_000]}
e4 = nb.run("E4", reference, **nb.at_scale(cpu=small_e4, gpu=small_e4, full=large_e4))

# %%
small_e6 = {"sizes": [50_000, 100_000, 200_000], "vocab_size": 1500, "tokenizers": ["BytePiece", "BPE free"], "test": 60_000, "seed": 0}
large_e6 = {"sizes": [1_500_000, 3_000_000, 6_000_000, 12_000_000], "vocab_size": 20000, "test": 400_000, "seed": 0}
large_e6 |= {"tokenizers": ["BytePiece", "SP BPE", "SP BPE free"], "alone": True}
e6 = nb.run("E6", growth, **nb.at_scale(cpu=small_e6 | {"alone": False}, gpu=small_e6 | {"alone": False}, full=large_e6))

# %%
hard = "  a  b\t\tc\n\nd\u3000，Ｈ 龘"
c2 = nb.run("C2", returned, package=nb.at_scale(cpu=False, gpu=False, full=True), text=hard)
