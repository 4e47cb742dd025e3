"""Byte pair encoding on bytes, the baseline of the notebook ``bytepiece``: with words as its walls, or with none.

Sennrich, Haddow and Birch, https://arxiv.org/abs/1508.07909. The pair that occurs most often becomes a token, again and again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np

LARGEST = 10_000  # tokens: the counts of all pairs are one matrix
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|_+|\s+")
_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class BPE:
    """``merges`` (M, 2) int32: the pair that becomes token 256 + k. ``words``: whether a token stays inside a word (and its space)."""

    merges: np.ndarray
    words: bool

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """The tokens (n,) int32 of all texts, one after the other."""
        tokens = _walled(texts, self.words)
        for k, (a, b) in enumerate(self.merges.tolist()):
            tokens = tokens[: _replace(tokens, a, b, 256 + k)]
        return tokens[tokens >= 0]

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for."""
        table = [bytes([b]) for b in range(256)]
        for a, b in self.merges.tolist():
            table.append(table[a] + table[b])
        return b"".join(table[t] for t in tokens)


def train(texts: Iterable[str], tokens: int, *, words: bool) -> BPE:
    """Merge the most frequent pair until there are ``tokens`` tokens, or no pair occurs twice; among equals the smallest pair."""
    if not 256 <= tokens <= LARGEST:
        raise ValueError(f"tokens={tokens}: give 256 to {LARGEST}")
    return BPE(_merges(_walled(texts, words), tokens), words)


def _walled(texts: Iterable[str], words: bool) -> np.ndarray:
    """The bytes of the texts as int32, -1 between two stretches that no token may join."""
    stretches = [w for text in texts for w in (_WORD.findall(text) if words else [text]) if w]
    data = np.frombuffer(" ".join(stretches).encode(), dtype=np.uint8).astype(np.int32)
    data[np.cumsum([len(w.encode()) + 1 for w in stretches])[:-1] - 1] = -1
    return data


@_jit
def _merges(tokens, size):
    counts = np.zeros((size, size), np.int32)
    bound = np.zeros(size, np.int64)  # no pair that begins with this token is more frequent
    for i in range(len(tokens) - 1):
        if tokens[i] >= 0 and tokens[i + 1] >= 0:
            counts[tokens[i], tokens[i + 1]] += 1
            bound[tokens[i]] += 1
    merges = np.empty((size - 256, 2), np.int32)
    for new in range(256, size):
        while True:
            a = 0
            for t in range(1, new):
                if bound[t] > bound[a]:
                    a = t
            b = 0
            for t in range(1, new):
                if counts[a, t] > counts[a, b]:
                    b = t
            if counts[a, b] == bound[a]:
                break
            bound[a] = counts[a, b]
        if bound[a] < 2:
            return merges[: new - 256]
        merges[new - 256, 0], merges[new - 256, 1] = a, b
        write, read = 0, 0
        while read < len(tokens):
            if read + 1 < len(tokens) and tokens[read] == a and tokens[read + 1] == b:
                left = tokens[write - 1] if write > 0 else -1
                right = tokens[read + 2] if read + 2 < len(tokens) else -1
                counts[a, b] -= 1
                if left >= 0:
                    counts[left, a] -= 1
                    counts[left, new] += 1
                    bound[left] = max(bound[left], counts[left, new])
                if right >= 0:
                    counts[b, right] -= 1
                    counts[new, right] += 1
                    bound[new] = max(bound[new], counts[new, right])
                tokens[write] = new
                read += 2
            else:
                tokens[write] = tokens[read]
                read += 1
            write += 1
        tokens = tokens[:write]
    return merges


@_jit
def _replace(tokens, a, b, new):
    """Replace the pair (a, b) by ``new``, from the left, in place; the new length."""
    write, read = 0, 0
    while read < len(tokens):
        if read + 1 < len(tokens) and tokens[read] == a and tokens[read + 1] == b:
            tokens[write] = new
            read += 2
        else:
            tokens[write] = tokens[read]
            read += 1
        write += 1
    return write
