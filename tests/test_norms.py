"""Norm layers and the transformer that takes them: each choice against one hand-written model, in float64."""

import math

import pytest
import torch
from test_nn import attention, batch, gelu, layer_norm, rms

from kexue_nb import nn, norms

SEEDS = (3, 5, 3)
ONE, NO = torch.tensor(1.0, dtype=torch.float64), torch.tensor(False)
ALPHA, AMPLITUDE = torch.tensor([0.5, 0.7, 2.0]), torch.tensor([1.0, 3.0, 0.4])
BY_HAND = {
    "dyt": lambda u: (math.e ** (2 * u) - 1) / (math.e ** (2 * u) + 1),
    "dyisru": lambda u: u / (1 + u**2) ** 0.5,
    "derf": lambda u: torch.special.ndtr(u * 2**0.5) * 2 - 1,
    "clip": lambda u: u.clamp(-1, 1),
    "identity": lambda u: u,
}


def randomize(module, seed=0):
    """Random values for all gains, shifts and slopes, which start out as constants."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if name.split(".")[-1] in ("gamma", "beta", "alpha", "embedding_scale"):
            p.data = 0.5 + torch.rand(p.shape, generator=generator, dtype=torch.float64)
    return module


def norm_by_hand(kind, p, amplitude, x):
    """One run's norm of x (..., d) from its parameters gamma, beta, alpha."""
    if kind in ("rms", "layer"):
        return {"rms": rms, "layer": layer_norm}[kind](x) * p["gamma"]
    return p["gamma"] * amplitude * BY_HAND[kind](p["alpha"] * x / amplitude) + p["beta"]


@pytest.mark.parametrize("kind", norms.KINDS)
def test_a_norm_by_hand(kind):
    free = {"alpha": ALPHA, "amplitude": AMPLITUDE} if kind in norms.ELEMENTWISE else {}
    norm = randomize(norms.Norm(nn.Init(SEEDS), 8, kind, **free).double())
    x = torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    for r in range(3):
        p = {name: value[r] for name, value in norm.named_parameters()}
        torch.testing.assert_close(norm(x)[r], norm_by_hand(kind, p, AMPLITUDE[r].double(), x[r]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", norms.ELEMENTWISE)
def test_alpha_starts_as_a_slope_and_the_amplitude_bounds(kind):
    norm = norms.Norm(nn.Init([0]), 4, kind, alpha=0.25, amplitude=2.0).double()
    with torch.no_grad():
        slope = float(norm(torch.full((1, 1, 4), 1e-6, dtype=torch.float64)).max()) / 1e-6
        far = float(norm(torch.full((1, 1, 4), 1e6, dtype=torch.float64)).max())
    assert slope == pytest.approx(0.25 * (2 / math.sqrt(math.pi) if kind == "derf" else 1), rel=1e-9)
    assert far == pytest.approx(0.25e6 if kind == "identity" else 2.0, rel=1e-9)


def model(placement, kind, tying, **options):
    free = {"alpha": ALPHA, "amplitude": AMPLITUDE} if kind in norms.ELEMENTWISE else {}
    sizes = {"vocabulary": 11, "context": 7, "d": 8, "depth": 1, "heads": 2, "width": 12}
    if tying == "permuted":
        options["permutation"] = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    built = norms.Transformer(nn.Init(SEEDS), placement=placement, norm=kind, tying=tying, **free, **sizes, **options)
    return randomize(built.double())


def by_hand(stack, r, ids, placement, kind, tying, *, skip=1.0, scale=1.0):
    p = {name: value[r].detach() for name, value in stack.named_parameters()}

    def norm(i, x):
        own = {name: p[f"norms.{i}.{name}"] for name in ("gamma", "beta", "alpha") if f"norms.{i}.{name}" in p}
        return norm_by_hand(kind, own, AMPLITUDE[r].double(), x)

    def branch(i, x):
        if i == 0:
            return attention(x, *(p[w][0] for w in ("wq", "wk", "wv", "wo")), 2, ONE, NO)
        return gelu(x @ p["w1"][0]) @ p["w2"][0]

    x = p["tokens.weight"][ids]
    if "positions.weight" in p:
        x = x + p["positions.weight"][: ids.shape[-1]]
    x = x * p.get("embedding_scale", 1.0)
    for i in range(2):
        if placement == "pre":
            x = skip * x + branch(i, norm(i, x))
        elif placement == "post":
            x = norm(i, skip * x + branch(i, x))
        else:
            x = skip * x + branch(i, x)
    x = norm(2, x) if placement == "pre" else x
    if tying == "untied":
        return scale * (x @ p["head.weight"])
    if tying == "projected":
        x = x @ p["projection"]
    if tying == "permuted":
        x = torch.cat([x[..., 4:], x[..., :4]], -1)
    return scale * torch.einsum("btd,vd->btv", x, p["tokens.weight"])


@pytest.mark.parametrize("tying", norms.TYINGS)
@pytest.mark.parametrize(("placement", "kind"), [*((p, k) for p in ("pre", "post") for k in norms.KINDS), ("none", None)])
def test_one_layer_by_hand(placement, kind, tying):
    stack, ids = model(placement, kind, tying), batch()
    logits = stack(ids, torch.float64)
    for r in range(3):
        torch.testing.assert_close(logits[r], by_hand(stack, r, ids[r], placement, kind, tying), atol=1e-9, rtol=0)


def test_the_other_options_by_hand():
    skip, scale, std = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 0.25, -2.0]), torch.tensor([0.1, 1.0, 2.0])
    stack = model("post", "rms", "tied", skip=skip, logit_scale=scale, embedding_std=std, embedding_scale=True, position_std=0)
    assert stack.positions is None
    logits, ids = stack(batch(), torch.float64), batch()
    for r in range(3):
        expected = by_hand(stack, r, ids[r], "post", "rms", "tied", skip=float(skip[r]), scale=float(scale[r]))
        torch.testing.assert_close(logits[r], expected, atol=1e-9, rtol=0)
    plain = model("post", "rms", "tied").tokens.weight
    torch.testing.assert_close(stack.tokens.weight, plain * std.view(-1, 1, 1).double())


@pytest.mark.parametrize(("placement", "kind"), [("pre", "layer"), ("post", "dyt"), ("none", None)])
def test_the_skip_by_hand(placement, kind):
    skip = torch.tensor([1.0, 2.0, 0.5])
    stack, ids = model(placement, kind, "untied", skip=skip), batch()
    for r in range(3):
        expected = by_hand(stack, r, ids[r], placement, kind, "untied", skip=float(skip[r]))
        torch.testing.assert_close(stack(ids, torch.float64)[r], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("rotary", [None, torch.tensor([1.0, 0.1])])
def test_it_is_the_plain_transformer_where_that_has_the_choice(placement, kind, rotary):
    sizes = {"vocabulary": 11, "context": 7, "d": 8, "depth": 2, "heads": 2, "placement": placement, "norm": kind, "rotary": rotary}
    plain, free = nn.Transformer(nn.Init(SEEDS), **sizes), norms.Transformer(nn.Init(SEEDS), **sizes)
    torch.testing.assert_close(plain(batch()), free(batch()), atol=1e-6, rtol=0)


def test_a_rotation_leaves_a_triangle_with_a_positive_diagonal():
    A = torch.randn(20, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q = norms.rotation_of(A)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(4, dtype=torch.float64).expand(20, 4, 4))
    upper = Q.mT @ A
    assert float(upper.tril(-1).abs().max()) < 1e-12
    assert bool((torch.diagonal(upper, dim1=-2, dim2=-1) > 0).all())


def test_the_projection_starts_as_a_rotation():
    P = norms.Transformer(nn.Init(SEEDS), vocabulary=3, context=2, d=4, depth=1, heads=1, tying="projected").projection
    torch.testing.assert_close(P @ P.mT, torch.eye(4).expand(3, 4, 4), atol=1e-5, rtol=0)
    assert not torch.equal(P[0], P[1])
    assert torch.equal(P[0], P[2])


def test_tied_weights_get_both_gradients():
    stack, ids = model("pre", "rms", "tied"), batch()
    stack(ids, torch.float64).square().mean().backward()
    unseen = sorted(set(range(11)) - set(ids[0].flatten().tolist()))
    assert unseen
    assert bool((stack.tokens.weight.grad[0, unseen] != 0).any())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"placement": "middle"}, "placement='middle'"),
        ({"tying": "knotted"}, "tying='knotted'"),
        ({"norm": "batch"}, "kind='batch'"),
        ({"norm": None}, "goes with norm None"),
        ({"placement": "none"}, "goes with norm None"),
        ({"placement": "none", "norm": None, "alpha": 1.0}, "neither alpha"),
        ({"norm": "rms", "alpha": 1.0}, "neither alpha"),
        ({"norm": "dyt", "alpha": -1.0}, "finite and positive"),
        ({"norm": "dyt", "alpha": torch.ones(2)}, "one for each of 3"),
        ({"tying": "permuted"}, "a permutation goes with"),
        ({"permutation": torch.arange(8)}, "a permutation goes with"),
        ({"tying": "permuted", "permutation": torch.zeros(8, dtype=torch.long)}, "each of 0..7 once"),
        ({"logit_scale": math.nan}, "finite"),
        ({"affine": False}, "learned gain"),
    ],
)
def test_bad_choices(options, words):
    with pytest.raises(ValueError, match=words):
        norms.Transformer(nn.Init(SEEDS), vocabulary=11, context=7, d=8, depth=1, heads=2, **options)
