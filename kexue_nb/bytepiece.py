"""A byte tokenizer with a Unigram vocabulary, trained by a byte n-gram model that cuts the corpus into pieces (BytePiece).

The method is that of https://kexue.fm/archives/9752: count the byte n-grams of the corpus, let their conditional probabilities
cut every line by dynamic programming, count the pieces, prune them to the wanted number. The notebook ``bytepiece`` derives each
step. The functions that end in ``_plain`` say the same in dictionaries and loops, to be read and to test against.

The fast trainer builds no table of n-grams. The model is only ever asked about the corpus that it was counted on, so one sort of
all positions by their next n bytes is enough: a run of equal prefixes is as long as the n-gram is frequent. A vocabulary is kept
in a double-array trie. The loops are compiled (numba).

With ``keep_rare=False`` the trainer gives the same vocabulary and counts as the package ``bytepiece`` 0.6.3, whose file format is
used: JSON, ``{base64 of the piece: [id, its text without what is no UTF-8, count]}``, ids from 3 on in the order of (length,
bytes); 0, 1 and 2 are padding, begin and end. Two things differ on purpose: no Unicode normalisation is applied, so that encoding
loses nothing (normalise beforehand where it is wanted), and a line of over 10,000 characters is not cut while training.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numba
import numpy as np

SPECIALS = 3  # ids of padding, begin and end
LARGEST_ORDER = 7  # n bytes and their number share one 64-bit word
_jit = numba.njit(cache=True, nogil=True)


class VocabularyError(ValueError):
    """A vocabulary that cannot be used; the message says why."""


@dataclass(frozen=True)
class BytePiece:
    """A tokenizer: byte strings ``pieces`` in the order of (length, bytes) and their ``counts``; piece k has the id k + 3.

    All 256 single bytes are among the pieces, so that every byte string can be written.
    """

    pieces: tuple[bytes, ...]
    counts: tuple[int, ...]

    def __post_init__(self):
        distinct = set(self.pieces)
        if not len(distinct) == len(self.pieces) == len(self.counts):
            raise VocabularyError(f"{len(self.pieces)} pieces, {len(distinct)} of them distinct, with {len(self.counts)} counts")
        if missing := [b for b in range(256) if bytes([b]) not in distinct]:
            raise VocabularyError(f"{len(missing)} single bytes are no pieces, the first is {missing[0]:#04x}; all 256 are needed")
        if b"" in self.pieces or min(self.counts) < 1:
            raise VocabularyError("a piece is empty or has a count below 1; give each piece the number of times that it was seen")
        if list(self.pieces) != sorted(self.pieces, key=lambda p: (len(p), p)):
            raise VocabularyError("the pieces are not in the order of (length, bytes); from_counts() sorts them")

    @classmethod
    def from_counts(cls, counts: dict[bytes, int]) -> BytePiece:
        """The tokenizer of a dictionary piece -> count."""
        pieces = tuple(sorted(counts, key=lambda p: (len(p), p)))
        return cls(pieces, tuple(int(counts[p]) for p in pieces))

    @property
    def vocab_size(self) -> int:
        """The number of ids, the three special ones included."""
        return len(self.pieces) + SPECIALS

    @cached_property
    def log_p(self) -> np.ndarray:
        """Natural logarithms of the pieces' shares of the total count, (pieces,) float64."""
        return np.log(np.array(self.counts)) - np.log(sum(self.counts))

    @cached_property
    def _trie(self) -> tuple[np.ndarray, np.ndarray]:
        order = sorted(range(len(self.pieces)), key=self.pieces.__getitem__)
        units = _trie([self.pieces[i] for i in order])
        used = units[:, 2] >= 0
        units[used, 2] = np.array(order)[units[used, 2]]
        return units, self.log_p

    def encode(self, text: str | bytes) -> np.ndarray:
        """The ids (tokens,) int32 of the most probable segmentation of every line of ``text``; among equals the one whose last
        piece is longest, then the one before it, and so on. Time and memory are linear in the text."""
        data = np.frombuffer(_bytes(text), dtype=np.uint8)
        starts = _line_starts(data, np.array([0, len(data)]))
        return _segment(data, starts[:-1], starts[1:], *self._trie)[0] + np.int32(SPECIALS)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """:meth:`encode` of every text, in one pass over all."""
        parts = [_bytes(t) for t in texts]
        data, offsets = np.frombuffer(b"".join(parts), dtype=np.uint8), np.cumsum([0, *map(len, parts)])
        starts = _line_starts(data, offsets)
        pieces, per_chunk = _segment(data, starts[:-1], starts[1:], *self._trie)
        done = np.concatenate([[0], np.cumsum(per_chunk)])[np.searchsorted(starts, offsets)]
        return np.split(pieces + np.int32(SPECIALS), done[1:-1])

    def segment(self, text: str | bytes) -> list[bytes]:
        """The pieces of the same segmentation."""
        return [self.pieces[i - SPECIALS] for i in self.encode(text).tolist()]

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for; special ids stand for none. ``decode(encode(x)) == x`` for every byte string."""
        table = self._decoder
        try:
            return b"".join([table[i] for i in ids])
        except KeyError as error:
            raise ValueError(f"id {error.args[0]!r} is not in the vocabulary; ids go from 0 to {self.vocab_size - 1}") from None

    @cached_property
    def _decoder(self) -> dict[int, bytes]:
        return dict(enumerate((b"",) * SPECIALS + self.pieces))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON in the format of the package ``bytepiece`` (see the module's head)."""
        rows = zip(self.pieces, self.counts, strict=True)
        doc = {base64.b64encode(p).decode(): [i, p.decode(errors="ignore"), c] for i, (p, c) in enumerate(rows, SPECIALS)}
        Path(path).write_text(json.dumps(doc, indent=4, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> BytePiece:
        """Read a vocabulary that :meth:`save` or the package ``bytepiece`` wrote. Raises VocabularyError where it is none."""
        try:
            doc = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = sorted((i, base64.b64decode(key, validate=True), count) for key, (i, _, count) in doc.items())
        except (ValueError, TypeError, AttributeError) as error:
            raise VocabularyError(f"{path} holds no vocabulary: {error}") from None
        if [i for i, _, _ in rows] != list(range(SPECIALS, SPECIALS + len(rows))):
            raise VocabularyError(f"{path}: the ids are not {SPECIALS}, {SPECIALS + 1}, ..")
        return cls(tuple(p for _, p, _ in rows), tuple(c for _, _, c in rows))


def train(
    texts: Iterable[str | bytes],
    vocab_size: int,
    *,
    order: int = 6,
    min_count: int = 2,
    longest: int = 36,
    whole_characters: bool = True,
    keep_rare: bool = True,
) -> BytePiece:
    """A tokenizer with at most ``vocab_size`` ids, from the lines of ``texts``.

    ``order`` is the n of the n-gram model (1 to 7). n-grams of two bytes or more seen fewer than ``min_count`` times do not exist
    for it; with ``keep_rare`` those inside one UTF-8 character do, without which a rare character breaks the cut of the rest of its
    line into single bytes, as it does in the original. ``whole_characters`` lets no piece begin inside a character. ``longest`` is
    the length of a piece in bytes. Memory is about 50 bytes for each byte of text.
    """
    _check(vocab_size, order, min_count, longest)
    data, starts = join(texts)
    begins, _ = cut(data, starts, order=order, min_count=min_count, whole_characters=whole_characters, keep_rare=keep_rare)
    at = np.flatnonzero(begins)
    ends = np.append(at[1:], len(data))
    first, counts = _count_pieces(data, at, ends)
    raw = data.tobytes()
    start, end = at[first], ends[first]
    keep = (end - start == 1) | ((end - start <= longest) & (counts >= min_count))
    named = {bytes([b]): 1 for b in range(256)}
    named |= {raw[a:b]: c for a, b, c in zip(start[keep].tolist(), end[keep].tolist(), counts[keep].tolist(), strict=True)}
    pieces = sorted(named)
    kept = np.array([named[p] for p in pieces], dtype=np.int64)
    pieces, kept = _without_dead(pieces, kept + _spread(pieces, kept, (data, start[~keep], end[~keep]), counts[~keep]))
    if len(pieces) > vocab_size - SPECIALS:
        size = np.array([len(p) for p in pieces])
        best = np.lexsort((np.arange(len(pieces)), -size, -kept, size > 1))
        inside, outside = np.sort(best[: vocab_size - SPECIALS]), best[vocab_size - SPECIALS :]
        some, counts = [pieces[i] for i in inside], kept[inside]
        pieces, kept = _without_dead(some, counts + _spread(some, counts, _spans([pieces[i] for i in outside]), kept[outside]))
    return BytePiece.from_counts(dict(zip(pieces, kept.tolist(), strict=True)))


def _check(vocab_size: int, order: int, min_count: int, longest: int) -> None:
    if vocab_size < 256 + SPECIALS:
        raise ValueError(f"vocab_size={vocab_size}: give at least {256 + SPECIALS}, for the 256 bytes and {SPECIALS} special ids")
    if not 1 <= order <= LARGEST_ORDER:
        raise ValueError(f"order={order}: give 1 to {LARGEST_ORDER}")
    if min_count < 1 or longest < 1:
        raise ValueError(f"min_count={min_count}, longest={longest}: both are at least 1")


def _spread(pieces: list[bytes], counts: np.ndarray, spans: tuple[np.ndarray, ...], weights: np.ndarray) -> np.ndarray:
    """What each of ``pieces`` (sorted) gains when the spans, with their weights, are cut by the Unigram model of ``pieces``."""
    parts, per_span = _segment(*spans, _trie(pieces), np.log(counts) - np.log(counts.sum()))
    gained = np.bincount(parts, weights=np.repeat(weights, per_span).astype(np.float64), minlength=len(pieces))
    return gained.astype(np.int64)


def _spans(pieces: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The joined bytes, and where each piece begins and ends."""
    offsets = np.cumsum([0, *map(len, pieces)])
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets[:-1], offsets[1:]


def _without_dead(pieces: list[bytes], counts: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Cut every piece by the model of all until none is lost: a piece that is not its own best segmentation is never emitted."""
    while True:
        counts = _spread(pieces, counts, _spans(pieces), counts)
        alive = np.flatnonzero(counts)
        if len(alive) == len(pieces):
            return pieces, counts
        pieces, counts = [pieces[i] for i in alive], counts[alive]


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise TypeError(f"a text is str or bytes, not {type(text).__name__}")


def join(texts: Iterable[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes (N,) uint8, and where the chunks begin, with N at the end; a chunk is a line with all newlines that follow it."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts is one {type(texts).__name__}; give a list of them")
    parts = [_bytes(t) for t in texts]
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return data, _line_starts(data, np.cumsum([0, *map(len, parts)]))


@_jit
def _line_starts(data, offsets):
    """Where chunks begin: at the offsets (of which some may be equal), and where a byte follows a newline and is none; last, the end."""
    lines = 0
    for i in range(1, len(data)):
        lines += data[i - 1] == 10 and data[i] != 10
    starts = np.empty(lines + len(offsets), np.int64)
    filled, k = 0, 0
    for i in range(len(data)):
        given = False
        while offsets[k] <= i:
            k, given = k + 1, True
        if given or (data[i - 1] == 10 and data[i] != 10):
            starts[filled] = i
            filled += 1
    starts[filled] = len(data)
    return starts[: filled + 1]


# The cut by the n-gram model


def cut(
    data: np.ndarray, starts: np.ndarray, *, order: int, min_count: int, whole_characters: bool, keep_rare: bool
) -> tuple[np.ndarray, int]:
    """Where the pieces begin, (N,) bool, in the best cut of the chunks ``data[starts[k] : starts[k + 1]]`` by their own n-gram model;
    and the number of chunks whose best score is minus infinity."""
    if not len(data):
        return np.zeros(0, dtype=bool), 0
    keys = _windows(data, starts, order)
    counts = _prefix_counts(*_radix_sorted(keys, order), order)
    total = len(data) + 256 - len(np.unique(data))  # a byte that does not occur counts once
    logs = np.concatenate([[-np.inf], np.log(np.arange(1, counts.max() + 1))])
    return _cut(data, starts, counts, logs, np.log(total), min_count, whole_characters, keep_rare)


@_jit
def _windows(data, starts, order):
    """The next ``order`` bytes of every position as the leading bytes of a word, their number (fewer at a chunk's end) as its last."""
    keys = np.empty(len(data), np.uint64)
    mask = np.uint64(0)
    for k in range(order):
        mask |= np.uint64(255) << np.uint64(56 - 8 * k)
    for c in range(len(starts) - 1):
        word = np.uint64(0)
        for i in range(starts[c + 1] - 1, starts[c] - 1, -1):
            word = (np.uint64(data[i]) << np.uint64(56) | word >> np.uint64(8)) & mask
            keys[i] = word | np.uint64(min(order, starts[c + 1] - i))
    return keys


@_jit
def _radix_sorted(keys, order):
    """The keys in ascending order of their leading ``order`` bytes, and where each came from, (N,) uint32. Overwrites ``keys``."""
    rank = np.arange(len(keys)).astype(np.uint32)
    other_keys, other_rank = np.empty_like(keys), np.empty_like(rank)
    for k in range(order):
        shift = np.uint64(64 - 8 * order + 8 * k)
        at = np.zeros(257, np.int64)
        for key in keys:
            at[np.int64(key >> shift & np.uint64(255)) + 1] += 1
        for b in range(256):
            at[b + 1] += at[b]
        for i in range(len(keys)):
            b = np.int64(keys[i] >> shift & np.uint64(255))
            other_keys[at[b]], other_rank[at[b]] = keys[i], rank[i]
            at[b] += 1
        keys, other_keys, rank, other_rank = other_keys, keys, other_rank, rank
    return keys, rank


@_jit
def _prefix_counts(keys, rank, order):
    """How often the next k + 1 bytes of each position occur, (N, order) int32, from the sorted keys; 0 where a chunk ends before."""
    counts = np.empty((len(keys), order), np.int32)
    begin = 0
    while begin < len(keys):  # one first byte after the other: the rows are made in order, and then put in their places
        end = begin
        while end < len(keys) and keys[end] >> np.uint64(56) == keys[begin] >> np.uint64(56):
            end += 1
        rows = np.empty((end - begin, order), np.int32)
        for k in range(1, order + 1):
            shift = np.uint64(64 - 8 * k)
            low = begin
            while low < end:
                high, seen = low, 0
                while high < end and keys[high] >> shift == keys[low] >> shift:
                    seen += (keys[high] & np.uint64(255)) >= np.uint64(k)
                    high += 1
                for r in range(low, high):
                    rows[r - begin, k - 1] = seen if (keys[r] & np.uint64(255)) >= np.uint64(k) else 0
                low = high
        for r in range(begin, end):
            for k in range(order):
                counts[rank[r], k] = rows[r - begin, k]
        begin = end
    return counts


@_jit
def _cut(data, starts, counts, logs, log_total, min_count, whole_characters, keep_rare):
    order = counts.shape[1]
    begins = np.zeros(len(data), np.bool_)
    widest = 0
    for c in range(len(starts) - 1):
        widest = max(widest, starts[c + 1] - starts[c])
    routes = np.zeros((widest, order), np.int8)
    old, new = np.empty(order), np.empty(order)
    impossible = 0
    for c in range(len(starts) - 1):
        first, end = starts[c], starts[c + 1]
        inside = 0  # continuation bytes in a row, up to here
        for i in range(first, end):
            continues = 128 <= data[i] < 192
            inside = inside + 1 if continues else 0
            for j in range(order):
                node = -np.inf
                if j == 0:
                    if not (whole_characters and continues) or i == first:
                        node = logs[counts[i, 0]] - log_total
                elif i - j >= first:
                    seen = counts[i - j, j]
                    if seen >= min_count or (keep_rare and j <= inside):
                        node = logs[seen] - logs[counts[i - j, j - 1]]
                best, via = node, 0
                if i > first:
                    best = -np.inf
                    for s in range(0 if j == 0 else j - 1, order if j in (0, order - 1) else j):
                        if old[s] + node > best:
                            best, via = old[s] + node, s
                new[j], routes[i - first, j] = best, via
            old, new = new, old
        state = 0
        for s in range(1, order):
            if old[s] > old[state]:
                state = s
        impossible += old[state] == -np.inf
        for i in range(end - 1, first - 1, -1):
            begins[i] = state == 0
            state = routes[i - first, state]
        begins[first] = True
    return begins, impossible


# Counting pieces


@_jit
def _count_pieces(data, at, ends):
    """For every distinct piece ``data[at[k] : ends[k]]`` the k of its first occurrence, and its count."""
    size = 1024
    while size < 2 * len(at):
        size *= 2
    slots = np.full(size, -1, np.int32)
    first, counts = np.empty(len(at), np.int64), np.zeros(len(at), np.int64)
    found = 0
    for k in range(len(at)):
        word = np.uint64(14695981039346656037)
        for i in range(at[k], ends[k]):
            word = (word ^ np.uint64(data[i])) * np.uint64(1099511628211)
        slot = np.int64((word ^ word >> np.uint64(29)) & np.uint64(size - 1))
        while slots[slot] >= 0 and not _equal(data, at[k], ends[k], at[first[slots[slot]]], ends[first[slots[slot]]]):
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot], first[found] = found, k
            found += 1
        counts[slots[slot]] += 1
    return first[:found], counts[:found]


@_jit
def _equal(data, a, a_end, b, b_end):
    if a_end - a != b_end - b:
        return False
    i = 0
    while a + i < a_end and data[a + i] == data[b + i]:
        i += 1
    return a + i == a_end


# The Unigram model


def _trie(pieces: Sequence[bytes]) -> np.ndarray:
    """The double-array trie of sorted distinct pieces: units (slots, 3) int32, columns base, parent and piece (-1 where none ends).

    The child of the node at slot s by byte b lies at slot base[s] + b, if the parent there is s. The root lies at 0.
    """
    data, begins, ends = _spans(pieces)
    offsets, room = np.append(begins, ends[-1]), 2 * len(data) + 4096
    while not len(units := _double_array(data, offsets, room)):
        room *= 2
    return units


@_jit
def _double_array(data, offsets, room):
    """The units; empty where ``room`` slots were too few."""
    units = np.full((room, 3), -1, np.int32)
    units[0, 1] = 0
    # Nodes to place: the pieces low..high-1 share their first depth bytes and end in the node at slot.
    queue = np.empty((len(data) + 1, 4), np.int64)
    queue[0, 0], queue[0, 1], queue[0, 2], queue[0, 3] = 0, len(offsets) - 1, 0, 0
    waiting, done, cursor, last = 1, 0, 1, 0
    labels, edges = np.empty(256, np.int64), np.empty(257, np.int64)
    while done < waiting:
        low, high, depth, slot = queue[done, 0], queue[done, 1], queue[done, 2], queue[done, 3]
        done += 1
        if offsets[low + 1] - offsets[low] == depth:
            units[slot, 2] = low
            low += 1
        children = 0
        for k in range(low, high):
            label = data[offsets[k] + depth]
            if children == 0 or labels[children - 1] != label:
                labels[children], edges[children] = label, k
                children += 1
        if children == 0:
            units[slot, 0] = 0  # no slot has this one as its parent
            continue
        edges[children] = high
        while units[cursor, 1] >= 0:
            cursor += 1
        place, taken = max(cursor - labels[0], 1), 0
        while True:
            if place + 256 >= room:
                return units[:0]
            fits = True
            for k in range(children):
                if units[place + labels[k], 1] >= 0:
                    fits = False
                    break
            if fits:
                break
            taken += 1
            place += 1
        if taken > 64:
            cursor = place  # what is free before is too scattered to be worth looking at again
        units[slot, 0] = place
        for k in range(children):
            child = place + labels[k]
            units[child, 1] = slot
            queue[waiting, 0], queue[waiting, 1], queue[waiting, 2], queue[waiting, 3] = edges[k], edges[k + 1], depth + 1, child
            waiting += 1
            last = max(last, child)
    return units[: last + 257]


@_jit
def _segment(data, begins, ends, units, log_p):
    """The best segmentation of every span ``data[begins[c] : ends[c]]``: the pieces' numbers (tokens,) int32, and how many a span has."""
    widest, size = 0, 0
    for c in range(len(begins)):
        widest, size = max(widest, ends[c] - begins[c]), size + ends[c] - begins[c]
    best, back, via = np.empty(widest + 1), np.empty(widest + 1, np.int32), np.empty(widest + 1, np.int32)
    pieces, per_span = np.empty(size, np.int32), np.empty(len(begins), np.int64)
    filled = 0
    for c in range(len(begins)):
        first, length = begins[c], ends[c] - begins[c]
        best[0] = 0.0
        for e in range(1, length + 1):
            best[e] = -np.inf
        for s in range(length):
            node = np.int64(0)
            for e in range(s, length):
                child = np.int64(units[node, 0]) + data[first + e]
                if units[child, 1] != node:
                    break
                node = child
                piece = units[node, 2]
                if piece >= 0:
                    score = best[s] + log_p[piece]
                    if score > best[e + 1]:  # the first, longest, last piece stays among equals
                        best[e + 1], back[e + 1], via[e + 1] = score, s, piece
        e, begin = length, filled
        while e > 0:
            pieces[filled] = via[e]
            filled += 1
            e = back[e]
        for k in range((filled - begin) // 2):
            pieces[begin + k], pieces[filled - 1 - k] = pieces[filled - 1 - k], pieces[begin + k]
        per_span[c] = filled - begin
    return pieces[:filled], per_span


# The same in dictionaries and loops


def chunks_plain(text: str | bytes) -> list[bytes]:
    """The lines of a text, each with the newlines that follow it."""
    return re.findall(rb"[^\n]*\n+|[^\n]+", _bytes(text))


def count_ngrams_plain(chunks: Iterable[bytes], order: int) -> Counter[bytes]:
    """How often every byte string of up to ``order`` bytes occurs inside the chunks; b"" counts the positions."""
    return Counter(chunk[i : i + k] for chunk in chunks for i in range(len(chunk)) for k in range(order + 1) if i + k <= len(chunk))


def log_conditional_plain(counts: Counter[bytes], min_count: int, keep_rare: bool) -> dict[bytes, float]:
    """log p(last byte | the bytes before it) = log c(all) - log c(all but the last) for every n-gram that is not pruned."""
    counts = counts + Counter(bytes([b]) for b in range(256) if bytes([b]) not in counts)
    counts[b""] = sum(c for gram, c in counts.items() if len(gram) == 1)

    def kept(gram: bytes) -> bool:
        in_one_character = all(128 <= b < 192 for b in gram[1:])
        return len(gram) == 1 or counts[gram] >= min_count or (keep_rare and in_one_character)

    return {g: float(np.log(c) - np.log(counts[g[:-1]])) for g, c in counts.items() if g and kept(g)}


def cut_plain(chunk: bytes, log_p: dict[bytes, float], order: int, whole_characters: bool = True) -> list[bytes]:
    """The best path through the lattice of states j, the bytes of the piece so far (at most order - 1); ties go to the lowest state."""
    none = float("-inf")
    scores, routes = [], []
    for i in range(len(chunk)):
        node = [log_p.get(chunk[i - j : i + 1], none) if j <= i else none for j in range(order)]
        if whole_characters and i and 128 <= chunk[i] < 192:
            node[0] = none
        if i == 0:
            scores = node
            continue
        allowed = [[s for s in range(order) if j in (0, min(s + 1, order - 1))] for j in range(order)]
        ranked = [max((scores[s] + node[j], -s) for s in allowed[j]) for j in range(order)]
        routes.append([-s if score > none else 0 for score, s in ranked])
        scores = [score for score, _ in ranked]
    state = scores.index(max(scores))
    states = [state]
    for route in reversed(routes):
        state = route[state]
        states.append(state)
    begins = [i for i, s in enumerate(reversed(states)) if s == 0 or i == 0]
    return [chunk[a:b] for a, b in zip(begins, [*begins[1:], len(chunk)], strict=True)]


def segment_plain(chunk: bytes, log_p: dict[bytes, float]) -> list[bytes]:
    """The most probable segmentation into the pieces of ``log_p``; among equals the one with the longest last piece."""
    longest = max(map(len, log_p))
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(chunk) + 1):
        ways = [(best[s][0] + log_p[chunk[s:end]], -s) for s in range(max(0, end - longest), end) if chunk[s:end] in log_p]
        score, start = max(ways, default=(float("-inf"), 0))
        best.append((score, -start))
    pieces, end = [], len(chunk)
    while end:
        pieces.append(chunk[best[end][1] : end])
        end = best[end][1]
    return pieces[::-1]


def log_shares_plain(counts: dict[bytes, int]) -> dict[bytes, float]:
    """log of each piece's share of the total count."""
    total = np.log(sum(counts.values()))
    return {p: float(np.log(c) - total) for p, c in counts.items()}


def prune_plain(pieces: Counter[bytes], vocab_size: int, min_count: int = 2, longest: int = 36) -> dict[bytes, int]:
    """Add the missing bytes, drop rare and long pieces, then the dead ones, then all but the most frequent, then the dead ones again.

    What is dropped is cut by the model of what stays, and its count moves to the parts.
    """

    def spread(others: dict[bytes, int], kept: dict[bytes, int]) -> Counter[bytes]:
        log_p, gained = log_shares_plain(kept), Counter()
        for other, count in others.items():
            for part in segment_plain(other, log_p):
                gained[part] += count
        return gained

    def without_dead(kept: Counter[bytes]) -> Counter[bytes]:
        while len(alive := spread(kept, kept)) < len(kept):
            kept = alive
        return alive

    pieces = Counter({bytes([b]): 1 for b in range(256)}) | pieces
    kept = Counter({p: c for p, c in pieces.items() if len(p) == 1 or (len(p) <= longest and c >= min_count)})
    kept = without_dead(kept + spread(pieces - kept, kept))
    ranked = sorted(kept, key=lambda p: (len(p) > 1, -kept[p], -len(p), p))[: vocab_size - SPECIALS]
    if len(ranked) < len(kept):
        some = Counter({p: kept[p] for p in ranked})
        kept = without_dead(some + spread(kept - some, some))
    return dict(kept)


def train_plain(
    texts: Iterable[str | bytes],
    vocab_size: int,
    *,
    order: int = 6,
    min_count: int = 2,
    longest: int = 36,
    whole_characters: bool = True,
    keep_rare: bool = True,
) -> BytePiece:
    """What :func:`train` does, step by step."""
    _check(vocab_size, order, min_count, longest)
    chunks = [c for text in texts for c in chunks_plain(text)]
    log_p = log_conditional_plain(count_ngrams_plain(chunks, order), min_count, keep_rare)
    pieces = Counter(p for chunk in chunks for p in cut_plain(chunk, log_p, order, whole_characters))
    return BytePiece.from_counts(prune_plain(pieces, vocab_size, min_count, longest))
