"""A stack of R runs against R hand-written single models in plain torch, in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from kexue_nb import nn

SEEDS = (3, 5, 3)
SCALE, UNIT = torch.tensor([1.0, 0.7, 4.0]), torch.tensor([False, False, True])


def model(seeds=SEEDS, scale=SCALE, unit_norm=UNIT, heads=2, depth=2):
    return nn.Transformer(
        nn.Init(seeds), vocabulary=11, context=7, d=8, depth=depth, heads=heads, scale=scale, unit_norm=unit_norm
    ).double()


def batch(length=6, runs=3):
    return torch.randint(11, (runs, 2, length), generator=torch.Generator().manual_seed(1))


def rms(x, gain):
    return x / x.pow(2).mean(-1, keepdim=True).sqrt() * gain


def single(stack, r, ids):
    """Logits of run r for ids (B, T), written out for one model with explicit sums over heads and past positions."""
    p = {name: value[r].detach() for name, value in stack.named_parameters()}
    x = p["tokens.weight"][ids] + p["positions.weight"][: ids.shape[-1]]
    d = x.shape[-1]
    for i, block in enumerate(stack.blocks):
        b, heads = f"blocks.{i}.", block.attention.heads
        y = attention(
            rms(x, p[b + "norm1.gain"]), p[b + "attention.qkv.weight"], p[b + "attention.out.weight"], heads, SCALE[r].double(), UNIT[r]
        )
        x = x + y
        h = rms(x, p[b + "norm2.gain"]) @ p[b + "up.weight"]
        x = x + (h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))) @ p[b + "down.weight"]
    assert d == 8
    return rms(x, p["norm.gain"]) @ p["head.weight"]


def attention(x, qkv, out, heads, scale, unit):
    batch, length, d = x.shape
    width, y = d // heads, torch.zeros_like(x)
    q, k, v = x @ qkv[:, :d], x @ qkv[:, d : 2 * d], x @ qkv[:, 2 * d :]
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        for b in range(batch):
            for i in range(length):
                dots = torch.stack([q[b, i, at] @ k[b, j, at] for j in range(i + 1)])
                norms = torch.stack([q[b, i, at].norm() * k[b, j, at].norm() for j in range(i + 1)])
                weights = (scale * (dots / norms if unit else dots / math.sqrt(width))).exp()
                y[b, i, at] = (weights / weights.sum()) @ v[b, : i + 1, at]
    return y @ out


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 6])
def test_transformer_against_single_models(heads, length):
    stack, ids = model(heads=heads), batch(length)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * torch.randn_like(p))
    logits = stack(ids, torch.float64)
    assert logits.shape == (3, 2, length, 11)
    for r in range(3):
        torch.testing.assert_close(logits[r], single(stack, r, ids[r]), rtol=1e-9, atol=1e-9)


def test_attention_alone():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    layer = nn.Attention(nn.Init(SEEDS), 8, 2, SCALE, UNIT).double()
    for r in range(3):
        wanted = attention(x[r], layer.qkv.weight[r], layer.out.weight[r], 2, SCALE[r].double(), UNIT[r])
        torch.testing.assert_close(layer(x)[r], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_linear_norm_and_block_keep_shapes(shape):
    torch.manual_seed(0)
    x, init = torch.randn(3, *shape, dtype=torch.float64), nn.Init(SEEDS)
    layer, norm = nn.Linear(init, 4, 6).double(), nn.RMSNorm(init, 4).double()
    norm.gain.data.normal_()
    for r in range(3):
        torch.testing.assert_close(norm(x)[r], rms(x[r], norm.gain[r]))
        if len(shape) > 1:
            torch.testing.assert_close(layer(x)[r], x[r] @ layer.weight[r])


def test_linear_takes_one_vector_a_run():
    layer = nn.Linear(nn.Init(SEEDS), 4, 6)
    assert layer(torch.ones(3, 4)).shape == (3, 6)


def test_norm_starts_at_gain_one_and_has_unit_rms():
    norm = nn.RMSNorm(nn.Init(SEEDS), 8)
    assert torch.equal(norm.gain, torch.ones(3, 8))
    torch.testing.assert_close(norm(1e3 * torch.randn(3, 5, 8)).pow(2).mean(-1), torch.ones(3, 5), rtol=1e-5, atol=0)


def test_embedding_looks_up_in_its_own_run():
    layer, ids = nn.Embedding(nn.Init(SEEDS), 11, 4, std=2.0), batch()
    assert torch.equal(layer(ids), torch.stack([layer.weight[r][ids[r]] for r in range(3)]))


@pytest.mark.parametrize("bad", [11, -1])
def test_embedding_refuses_ids_out_of_range_in_every_run(bad):
    ids = torch.zeros(3, 1, 1, dtype=torch.long)
    ids[1] = bad
    with pytest.raises(IndexError):
        nn.Embedding(nn.Init(SEEDS), 11, 4)(ids)


@pytest.mark.parametrize("at", range(1, 6))
def test_causality(at):
    stack, ids = model(), batch()
    other = ids.clone()
    other[:, :, at] = (ids[:, :, at] + 1) % 11
    before, after = stack(ids, torch.float64), stack(other, torch.float64)
    torch.testing.assert_close(before[:, :, :at], after[:, :, :at], rtol=0, atol=1e-12)
    assert ((before - after)[:, :, at:].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("target", range(3))
def test_gradients_stay_in_their_run(target):
    stack, ids = model(), batch()
    stack(ids, torch.float64)[target].square().sum().backward()
    for name, p in stack.named_parameters():
        used = p.grad.flatten(1).abs().sum(1) > 0
        assert used.tolist() == [r == target for r in range(3)], name


def test_seeds_decide_the_initial_values():
    stack, alone = model(), model(seeds=(5,), scale=SCALE[:1], unit_norm=UNIT[:1])
    for (name, p), q in zip(stack.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(p[0], p[2]), name
        assert torch.equal(p[1], q[0]), name
        if not name.endswith("gain"):
            assert not torch.equal(p[0], p[1]), name
    assert torch.equal(model().head.weight, stack.head.weight)
    assert not torch.equal(stack.blocks[0].up.weight, stack.blocks[1].up.weight)


@pytest.mark.parametrize(
    ("tensor", "std"),
    [
        (lambda i: nn.Linear(i, 100, 400).weight, 0.1),
        (lambda i: nn.Embedding(i, 400, 100).weight, 1.0),
        (lambda i: nn.Embedding(i, 400, 100, std=0.3).weight, 0.3),
        (lambda i: i.normal(40000, std=2.5), 2.5),
    ],
)
def test_initial_spread(tensor, std):
    value = tensor(nn.Init([0, 1]))
    assert isinstance(value, torch.nn.Parameter)
    assert value.flatten(1).std(1).tolist() == pytest.approx([std, std], rel=0.02)
    assert value.flatten(1).mean(1).abs().max() < 5 * std / 200


def test_positions_start_small():
    init = nn.Init([0])
    big = nn.Transformer(init, vocabulary=50, context=200, d=64, depth=0, heads=1, scale=torch.ones(1), unit_norm=torch.tensor([False]))
    assert big.positions.weight.std().item() == pytest.approx(0.3, rel=0.03)
    assert big.tokens.weight.std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_precision_of_activations(precision):
    stack, ids = model().float(), batch()
    logits = stack(ids, precision)
    assert logits.dtype == precision
    exact = stack.double()(ids, torch.float64)
    assert (logits.double() - exact).abs().max() < 30 * torch.finfo(precision).eps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.Init([]), "seeds is empty"),
        (lambda: model(heads=3), "width 8 is not a multiple of 3 heads"),
        (lambda: model(scale=torch.ones(2)), r"scale \(2,\) and unit_norm \(3,\) must hold one entry for each of 3 runs"),
        (lambda: model(unit_norm=torch.ones(3, 1, dtype=torch.bool)), r"unit_norm \(3, 1\) must"),
        (lambda: model()(batch(8)), "8 positions, but this model was built for a context of 7"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(3, 5, 11), (3, 2, 4, 11), (1, 1, 11)])
def test_cross_entropy_of_each_run(shape):
    torch.manual_seed(0)
    logits, targets = torch.randn(*shape), torch.randint(11, shape[:-1])
    loss = nn.cross_entropy_per_run(logits, targets)
    x = logits.double()
    wanted = (x.logsumexp(-1) - x.gather(-1, targets[..., None])[..., 0]).flatten(1).mean(1)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=1e-6)
    assert nn.cross_entropy_per_run(logits.bfloat16(), targets).dtype == torch.float32
    torch.testing.assert_close(F.cross_entropy(logits[0].flatten(0, -2), targets[0].flatten()), loss[0])
