"""The sentence encoder: its tokenizer against a peer and by hand, its layers against a second way of computing them."""

import math

import pytest
import torch

from kexue_nb import data, minilm


@pytest.fixture(autouse=True, scope="module")
def archive():
    """The weights and the tokenizer, fetched once; without them and without a network there is nothing to test."""
    try:
        minilm.weights(), minilm.vocabulary()
    except data.DataError as missing:
        pytest.skip(str(missing))


TEXTS = [
    "A girl is styling her hair.",
    "naïve café — résumé… $5+3=8 ~tilde `x`",
    "unaffable 中文字 and 日本語",
    "a\tb\n c\u200bd \ufffd😀",
    "x" * 101,
    "",
]


def test_the_tokenizer_agrees_with_the_peer():
    tokenizers = pytest.importorskip("tokenizers")
    peer = tokenizers.Tokenizer.from_str(data.fetch(data.MINILM_TOKENIZER).decode())
    peer.no_truncation()
    peer.no_padding()
    texts = TEXTS + [line for line in data.shakespeare()[20_000:60_000].split("\n") if line]
    for text in texts:
        assert minilm.tokenize(text, 512) == peer.encode(text).ids


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Embeddings, RE-shared!", ["em", "##bed", "##ding", "##s", ",", "re", "-", "shared", "!"]),
        ("Café中", ["cafe", "中"]),
        ("x" * 101, ["[UNK]"]),
    ],
)
def test_pieces_by_hand(text, pieces):
    names = {i: piece for piece, i in minilm.vocabulary().items()}
    assert [names[i] for i in minilm.tokenize(text)] == ["[CLS]", *pieces, "[SEP]"]


def test_a_long_text_is_cut_and_still_ends_in_sep():
    full, cut = minilm.tokenize("one two three four five"), minilm.tokenize("one two three four five", 4)
    assert cut == [*full[:3], full[-1]]
    for length in (1, 513):
        with pytest.raises(ValueError, match="2 to 512"):
            minilm.tokenize("one", length)


def test_a_layer_against_its_formula():
    """The first layer by einsum and explicit softmax from the checkpoint's tensors, in float64."""
    w = {name: x.double() for name, x in minilm.weights().items()}
    ids = torch.tensor([minilm.tokenize("A plain check of one layer.")])

    def norm(x, key):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * w[f"{key}.weight"] + w[f"{key}.bias"]

    def linear(x, key):
        return torch.einsum("bti,oi->bto", x, w[f"{key}.weight"]) + w[f"{key}.bias"]

    table = "embeddings.{}_embeddings.weight"
    x = w[table.format("word")][ids] + w[table.format("position")][: ids.shape[1]] + w[table.format("token_type")][0]
    x = norm(x, "embeddings.LayerNorm")
    states = minilm.Encoder().states(ids)
    torch.testing.assert_close(states[0].double(), x, atol=1e-5, rtol=0)
    layer = "encoder.layer.0."
    q, k, v = (linear(x, f"{layer}attention.self.{name}").unflatten(-1, (12, 32)) for name in ("query", "key", "value"))
    y = torch.einsum("bhts,bshd->bthd", (torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(32)).softmax(-1), v).flatten(2)
    x = norm(x + linear(y, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
    h = linear(x, f"{layer}intermediate.dense")
    h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    x = norm(x + linear(h, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    torch.testing.assert_close(states[1].double(), x, atol=1e-5, rtol=0)


def test_padding_changes_nothing_and_order_is_kept():
    texts = ["short", "a sentence of rather more words than the first one has", "two words"]
    together = minilm.embed(texts)
    alone = torch.cat([minilm.embed([text]) for text in texts], 1)
    assert together.shape == (7, 3, 384)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(minilm.embed(texts, batch=1), together, atol=1e-5, rtol=0)


def test_norms_are_in_the_order_in_which_they_act():
    encoder, seen = minilm.Encoder(), []
    for i, norm in enumerate(encoder.norms):
        norm.register_forward_hook(lambda module, inputs, output, i=i: seen.append(i))
    encoder.states(torch.tensor([minilm.tokenize("order")]))
    assert seen == list(range(13))


def test_the_trained_encoder_knows_a_paraphrase():
    """The last layer's vectors were trained for this, the embedding's were not."""
    a, b, c = minilm.embed(["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell on Monday."])[6]
    assert torch.cosine_similarity(a, b, 0) > 0.5 > 0.2 > torch.cosine_similarity(a, c, 0)


def test_bad_input():
    with pytest.raises(ValueError, match="no texts"):
        minilm.embed([])
    with pytest.raises(ValueError, match="513 tokens"):
        minilm.Encoder().states(torch.ones(1, 513, dtype=torch.long))
