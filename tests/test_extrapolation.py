"""Schemes of attention against loops over relative positions, the decoder against one built from them, the tasks token by token."""

import math

import pytest
import torch
from torch.nn import functional as F

from kexue_nb import nn
from kexue_nb.extrapolation import Decoder, Scheme, planted, tiled
from kexue_nb.positions import least_leak, rope_frequencies

D, T = 8, 24
THETA = rope_frequencies(D, 30.0)


def turned(k, angle_distance):
    """R_{-distance} k for one vector, pair by pair as complex numbers: q . R_{-(i-j)} k is the logit."""
    pairs = torch.view_as_complex(k.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(THETA), -angle_distance * THETA)).flatten(-2)


def weights_by_loop(q, k, distance, seen, factor):
    """softmax over j of factor(i, j, q_i, turned k_j), one pair at a time."""
    out = torch.zeros(T, T, dtype=torch.float64)
    for i in range(T):
        row = {j: factor(i, j, q[i], turned(k[j], distance(i, j))) for j in range(i + 1) if seen(i, j)}
        total = sum(math.exp(x) for x in row.values())
        for j, x in row.items():
            out[i, j] = math.exp(x) / total
    return out


def plain(i, j, q, k):
    return float(q @ k) / math.sqrt(D)


def self_extend(i, j, w, g):
    return float(i - j if i - j < w else i // g + w - w // g - j // g)


CASES = {
    "RoPE": ({}, lambda i, j: i - j, lambda i, j: True, plain),
    "window": ({"window": 5}, lambda i, j: i - j, lambda i, j: i - j < 5, plain),
    "sinks": ({"window": 5, "sinks": 2}, lambda i, j: i - j, lambda i, j: i - j < 5 or j < 2, plain),
    "ReRoPE": ({"near": 6}, lambda i, j: min(i - j, 6), lambda i, j: True, plain),
    "Leaky ReRoPE": ({"near": 6, "leak": 3.5}, lambda i, j: i - j if i - j < 6 else 6 + (i - j - 6) / 3.5, lambda i, j: True, plain),
    "Self-Extend": ({"near": 7, "leak": 3, "grouped": True}, lambda i, j: self_extend(i, j, 7, 3), lambda i, j: True, plain),
    "LM-Infinite": ({"window": 9, "sinks": 3, "near": 10}, lambda i, j: min(i - j, 10), lambda i, j: i - j < 9 or j < 3, plain),
    "StreamingLLM": (
        {"window": 6, "sinks": 3, "near": 6, "cached": True},
        lambda i, j: i - j if i - j < 6 else min(i, 8) - j,
        lambda i, j: i - j < 6 or j < 3,
        plain,
    ),
    "temperature": ({"temperature": 1.7}, lambda i, j: i - j, lambda i, j: True, lambda i, j, q, k: 1.7 * plain(i, j, q, k)),
    "log n": (
        {"log_base": 10},
        lambda i, j: i - j,
        lambda i, j: True,
        lambda i, j, q, k: max(1, math.log(i + 1) / math.log(10)) * plain(i, j, q, k),
    ),
    "log n, trained, ReRoPE": (
        {"log_base": 10, "log_floor": 0.0, "near": 4},
        lambda i, j: min(i - j, 4),
        lambda i, j: True,
        lambda i, j, q, k: math.log(i + 1) / math.log(10) * plain(i, j, q, k),
    ),
    "KeyNorm": ({"norm": "key"}, lambda i, j: i - j, lambda i, j: True, lambda i, j, q, k: float(q @ k / k.norm())),
    "QueryNorm": ({"norm": "query"}, lambda i, j: i - j, lambda i, j: True, lambda i, j, q, k: float(q @ k / q.norm())),
    "CosA": (
        {"norm": "cosine", "temperature": 6.0},
        lambda i, j: i - j,
        lambda i, j: True,
        lambda i, j, q, k: 6 * float(q @ k / q.norm() / k.norm()),
    ),
    "KeyNorm, ReRoPE": (
        {"norm": "key", "near": 5},
        lambda i, j: min(i - j, 5),
        lambda i, j: True,
        lambda i, j, q, k: float(q @ k / k.norm()),
    ),
    "ALiBi": (
        {"slopes": torch.tensor([0.25], dtype=torch.float64)},
        lambda i, j: i - j,
        lambda i, j: True,
        lambda i, j, q, k: plain(i, j, q, k) - 0.25 * (i - j),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_schemes_against_the_loop_over_relative_positions(name):
    options, distance, seen, factor = CASES[name]
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, T, D, dtype=torch.float64)
    scheme = Scheme(THETA, **options)
    wanted = weights_by_loop(q[0, 0], k[0, 0], distance, seen, factor)
    torch.testing.assert_close(scheme.weights(q, k)[0, 0], wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scheme.attend(q, k, v)[0, 0], wanted @ v[0, 0], rtol=1e-9, atol=1e-12)


def test_other_positions_and_stacks():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 2, T, D, dtype=torch.float64)
    at = 3 * torch.arange(T)
    for options in ({}, {"norm": "cosine"}, {"window": 4}):
        one = Scheme(THETA, **options).attend(q, k, v, at)
        torch.testing.assert_close(one, Scheme(3 * THETA, **options).attend(q, k, v))
        torch.testing.assert_close(one[1, 2, 1], Scheme(THETA, **options).attend(*(t[1:2, 2:3, 1:2] for t in (q, k, v)), at)[0, 0, 0])
    slopes = torch.tensor([0.5, 0.1], dtype=torch.float64)
    by_head = Scheme(THETA, slopes=slopes).weights(q, k)
    for h in range(2):
        torch.testing.assert_close(
            by_head[:, :, h : h + 1], Scheme(THETA, slopes=slopes[h : h + 1]).weights(q[:, :, h : h + 1], k[:, :, h : h + 1])
        )


def test_the_decoder_against_one_run_alone_layer_by_layer():
    init = nn.Init([3, 5])
    model = Decoder(init, vocabulary=7, d=16, depth=2, heads=2)
    with torch.no_grad():
        model.gains.add_(0.1 * torch.randn(model.gains.shape, generator=torch.Generator().manual_seed(0)))
    ids = torch.randint(7, (2, 3, T), generator=torch.Generator().manual_seed(1))
    schemes = [Scheme(THETA, window=4), Scheme(THETA, near=5, log_base=10)]
    seen = []
    logits = model(ids, schemes, watch=lambda layer, weights: seen.append(weights))
    r = 1

    def norm(x, g):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * g

    x = model.tokens.weight[r][ids[r]]
    for i, scheme in enumerate(schemes):
        h = norm(x, model.gains[r, 2 * i])
        heads = [[(h @ w[r, i])[..., 8 * a : 8 * a + 8] for w in (model.wq, model.wk, model.wv)] for a in range(2)]
        attended = [scheme.weights(q[None], k[None])[0] @ v for q, k, v in heads]
        torch.testing.assert_close(seen[i][r, :, 1], scheme.weights(*(t[None] for t in heads[1][:2]))[0])
        x = x + torch.cat(attended, -1) @ model.wo[r, i]
        x = x + F.gelu(norm(x, model.gains[r, 2 * i + 1]) @ model.w1[r, i]) @ model.w2[r, i]
    torch.testing.assert_close(logits[r], norm(x, model.gains[r, -1]) @ model.head.weight[r], rtol=1e-4, atol=1e-5)


def test_nothing_of_the_future_is_read():
    model = Decoder(nn.Init([0]), vocabulary=7, d=16, depth=2, heads=2)
    ids = torch.randint(7, (1, 1, T), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[..., 15] = (ids[..., 15] + 1) % 7
    for options in (
        {},
        {"near": 5, "leak": 2.0},
        {"window": 6, "sinks": 2, "near": 6, "cached": True},
        {"slopes": torch.tensor([0.5, 0.1])},
    ):
        a, b = model(ids, Scheme(THETA, **options)), model(other, Scheme(THETA, **options))
        torch.testing.assert_close(a[..., :15, :], b[..., :15, :])
        assert not torch.allclose(a[..., 15, :], b[..., 15, :])


@pytest.mark.parametrize(
    "options", [{}, {"window": 6}, {"near": 5}, {"norm": "cosine", "log_base": 9}, {"slopes": torch.tensor([0.5, 0.1])}]
)
def test_half_precision_stays_close(options):
    model = Decoder(nn.Init([0]), vocabulary=7, d=16, depth=2, heads=2)
    ids = torch.randint(7, (1, 2, T), generator=torch.Generator().manual_seed(1))
    half = model(ids, Scheme(THETA, **options), torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(ids, Scheme(THETA, **options)), rtol=0.1, atol=0.15)
    half.float().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_leaky_rerope_in_the_trained_length_is_rope():
    q, k = torch.randn(2, 1, T, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaky = Scheme(THETA, near=4, leak=least_leak(T, T, 4))
    torch.testing.assert_close(leaky.weights(q, k), Scheme(THETA).weights(q, k))


def test_tiles():
    tokens = torch.arange(40).view(2, 20)
    got = tiled(tokens, torch.tensor([3, 20]), 25)
    assert got.tolist() == [[t % 3 for t in range(25)], [20 + t % 20 for t in range(25)]]


@pytest.mark.parametrize("tail", [None, 12])
def test_notes_are_where_they_are_said_to_be(tail):
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, (3, 2, 40), generator=generator)
    ids, asked, distance = planted(text, 4, 6, 3, 5, tail, generator)
    assert ids.shape == text.shape
    assert asked.shape == distance.shape == (3, 2, 4)
    for a in range(3):
        for b in range(2):
            row, places, back = ids[a, b].tolist(), asked[a, b].tolist(), distance[a, b].tolist()
            notes = [p - r for p, r in zip(places, back, strict=True)]
            assert len({*places, *notes}) == 8
            assert len({row[p] for p in places}) == 4
            assert all(p % 2 == 0 for p in places + notes)
            assert max(notes) < min(places) if tail is None else max(notes) < 28 <= min(places)
            for p, n in zip(places, notes, strict=True):
                assert 5 <= row[p] == row[n] < 11
                assert 11 <= row[p + 1] == row[n + 1] < 14
            touched = {x + s for x in places + notes for s in (0, 1)}
            assert all(row[t] == text[a, b, t] for t in range(40) if t not in touched)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scheme(THETA, norm="both"), "norm='both': give one of 'none', 'key', 'query', 'cosine'"),
        (lambda: Scheme(THETA, cached=True, window=4, near=5), "cached, with window=4 and near=5"),
        (lambda: Scheme(THETA, cached=True), "cached, with window=None"),
        (lambda: Decoder(nn.Init([0]), vocabulary=5, d=12, depth=1, heads=4), "width 12 is not a multiple of twice 4 heads"),
        (
            lambda: Decoder(nn.Init([0]), vocabulary=5, d=16, depth=2, heads=2)(torch.zeros(1, 1, 4, dtype=torch.long), [Scheme(THETA)]),
            "1 schemes for 2 layers",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_matrices_start_with_the_inverse_root_of_their_inputs_as_deviation():
    model = Decoder(nn.Init([0]), vocabulary=7, d=256, depth=1, heads=2)
    for W in (model.wq, model.wk, model.wv, model.wo, model.w1, model.w2):
        assert float(W.std()) * math.sqrt(W.shape[-2]) == pytest.approx(1, abs=0.02)
