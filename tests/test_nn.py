"""A stack of R runs against R hand-written single models in plain torch, in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from kexue_nb import nn, positions

SEEDS = (3, 5, 3)
SCALE, UNIT = torch.tensor([1.0, 0.7, 4.0]), torch.tensor([False, False, True])


def model(seeds=SEEDS, scale=SCALE, unit_norm=UNIT, heads=2, depth=2, **options):
    options = {"vocabulary": 11, "context": 7, "d": 8} | options
    return nn.Transformer(nn.Init(seeds), depth=depth, heads=heads, scale=scale, unit_norm=unit_norm, **options).double()


def batch(length=6, runs=3):
    return torch.randint(11, (runs, 2, length), generator=torch.Generator().manual_seed(1))


def rms(x):
    return x / x.pow(2).mean(-1, keepdim=True).sqrt()


def layer_norm(x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def single(stack, r, ids, *, placement="pre", norm="rms", activation="gelu", embedding_norm=False, skip=1.0, theta=None):
    """Logits of run r for ids (B, T), written out for one model with explicit sums over heads and past positions."""
    p = {name: value[r].detach() for name, value in stack.named_parameters()}
    normed = {"rms": rms, "layer": layer_norm}[norm]
    gains = p.get("gains", torch.ones(2 * stack.depth, stack.head.weight.shape[1], dtype=torch.float64))
    x = p["tokens.weight"][ids]
    x = x + p["positions.weight"][: ids.shape[-1]] if theta is None else x
    x = normed(x) if embedding_norm else x

    def branch(h, l, feed_forward):
        if not feed_forward:
            return attention(h, *(p[w][l] for w in ("wq", "wk", "wv", "wo")), stack.heads, SCALE[r].double(), UNIT[r], theta)
        h = h @ p["w1"][l]
        return (gelu(h) if activation == "gelu" else h.clamp_min(0)) @ p["w2"][l]

    for l in range(stack.depth):
        for s in (0, 1):
            g = gains[2 * l + s]
            x = skip * x + branch(normed(x) * g, l, s) if placement == "pre" else normed(skip * x + branch(x, l, s)) * g
    return (normed(x) * p.get("final_gain", 1.0) if placement == "pre" else x) @ p["head.weight"]


def rotation(angle):
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def attention(x, wq, wk, wv, wo, heads, scale, unit, theta=None):
    batch, length, d = x.shape
    width, y = d // heads, torch.zeros_like(x)
    q, k, v = x @ wq, x @ wk, x @ wv
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        for b in range(batch):
            turned = [[t[b, i, at] for i in range(length)] for t in (q, k)]
            if theta is not None:
                turned = [[row @ torch.block_diag(*(rotation(i * float(w)) for w in theta)) for i, row in enumerate(t)] for t in turned]
            for i in range(length):
                dots = torch.stack([turned[0][i] @ turned[1][j] for j in range(i + 1)])
                norms = torch.stack([q[b, i, at].norm() * k[b, j, at].norm() for j in range(i + 1)])
                weights = (scale * (dots / norms if unit else dots / math.sqrt(width))).exp()
                y[b, i, at] = (weights / weights.sum()) @ v[b, : i + 1, at]
    return y @ wo


def shaken(stack):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return stack


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 6])
def test_transformer_against_single_models(heads, length):
    stack, ids = shaken(model(heads=heads)), batch(length)
    logits = stack(ids, torch.float64)
    assert logits.shape == (3, 2, length, 11)
    for r in range(3):
        torch.testing.assert_close(logits[r], single(stack, r, ids[r]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("embedding_norm", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_choices_of_architecture_against_single_models(placement, norm, activation, embedding_norm, affine):
    chosen = {"placement": placement, "norm": norm, "activation": activation, "embedding_norm": embedding_norm}
    skip = torch.tensor([1.0, 1.7, 0.4])
    stack, ids = shaken(model(affine=affine, skip=skip, width=12, **chosen)), batch()
    assert ("gains" in dict(stack.named_parameters())) == affine
    logits = stack(ids, torch.float64)
    for r in range(3):
        torch.testing.assert_close(logits[r], single(stack, r, ids[r], skip=float(skip[r]), **chosen), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("a_base_a_run", [False, True])
def test_rotary_positions(a_base_a_run):
    thetas = torch.stack([positions.rope_frequencies(4, base) for base in (10.0, 100.0, 3.0)])
    stack, ids = shaken(model(rotary=thetas if a_base_a_run else thetas[0])), batch()
    assert stack.positions is None
    logits = stack(ids, torch.float64)
    for r in range(3):
        torch.testing.assert_close(logits[r], single(stack, r, ids[r], theta=thetas[r * a_base_a_run]), rtol=1e-9, atol=1e-9)


def test_states_begin_with_the_embedding_and_end_before_the_head():
    stack, ids = model(placement="post"), batch()
    states = list(stack.states(ids, torch.float64))
    assert len(states) == 1 + 2 * 2
    torch.testing.assert_close(states[0], stack.tokens(ids) + stack.positions.weight[:, None, :6])
    torch.testing.assert_close(stack.head(states[-1]), stack(ids, torch.float64))


@pytest.mark.parametrize(("spread", "stds"), [("fan-in", (1 / 8, 1 / 16)), ("xavier", ((2 / 320) ** 0.5,) * 2)])
def test_initial_spread_of_the_layers_and_the_gain_on_the_branch(spread, stds):
    gain = torch.tensor([1.0, 0.5, 2.0])
    stack = model(d=64, heads=4, gain=gain, spread=spread, depth=3)
    for w, std in ((stack.w1, stds[0]), (stack.w2, stds[1]), (stack.wv, 1 / 8), (stack.wo, 1 / 8)):
        assert (w.flatten(1).std(1) / gain).tolist() == pytest.approx([std] * 3, rel=0.02)
    for w in (stack.wq, stack.wk):
        assert w.flatten(1).std(1).tolist() == pytest.approx([1 / 8] * 3, rel=0.02)
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad and p.is_leaf for p in stack.parameters())


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_linear_takes_any_shape(shape):
    torch.manual_seed(0)
    x, layer = torch.randn(3, *shape, dtype=torch.float64), nn.Linear(nn.Init(SEEDS), 4, 6).double()
    assert layer(x).shape == (3, *shape[:-1], 6)
    for r in range(3):
        torch.testing.assert_close(layer(x)[r], x[r] @ layer.weight[r])


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
        if "gain" not in name:
            assert not torch.equal(p[0], p[1]), name
    assert torch.equal(model().head.weight, stack.head.weight)
    assert not torch.equal(stack.w1[:, 0], stack.w1[:, 1])


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
    big = nn.Transformer(init, vocabulary=50, context=200, d=64, depth=0, heads=1)
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
        (lambda: model(scale=torch.ones(2)), r"scale \(2,\) must hold one entry for each of 3 runs"),
        (lambda: model(unit_norm=torch.ones(3, 1, dtype=torch.bool)), r"unit_norm \(3, 1\) must"),
        (lambda: model(skip=torch.ones(4)), r"skip \(4,\) must hold one entry for each of 3 runs"),
        (lambda: model(gain=torch.ones(())), r"gain \(\) must"),
        (lambda: model(placement="sandwich"), "placement='sandwich': give one of 'pre', 'post'"),
        (lambda: model(norm="batch"), "norm='batch': give one of 'rms', 'layer'"),
        (lambda: model(activation="tanh"), "activation='tanh'"),
        (lambda: model(spread="he"), "spread='he': give one of 'fan-in', 'xavier'"),
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
