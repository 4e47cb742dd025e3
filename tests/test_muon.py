"""Muon against torch.optim.Muon, against explicit loops and SVDs; steepest descent in Schatten norms; what is refused."""

import math

import pytest
import torch

from kexue_nb import muon, optim

SHAPES = [(16, 16), (24, 8), (8, 24), (16, 16), (5, 3), (24, 8)]


def gauss(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(shapes=SHAPES, **options):
    ours = [torch.nn.Parameter(gauss(*s, seed=i)) for i, s in enumerate(shapes)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    return ours, theirs, muon.Muon(ours, **options), torch.optim.Muon(theirs, **options)


def advance(params, optimizer, step, shift=0):
    for i, p in enumerate(params):
        p.grad = gauss(*p.shape, seed=100 * step + i + shift)
    optimizer.step()


def assert_like_torch(ours, theirs, start):
    """The same bits in most entries, and in none far from it: some processors round one in 10^5 sums of a batch as they would not alone."""
    for p, q, W in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 2**-8 * (q - W).norm()
    assert torch.cat([(p == q).flatten() for p, q in zip(ours, theirs, strict=True)]).double().mean() > 0.75


@pytest.mark.parametrize("rule", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "momentum": 0.7}, {"weight_decay": 0.0, "ns_steps": 3}, {"lr": 0.3, "weight_decay": 1.0}]
)
def test_step_by_step_like_torch(rule, options):
    ours, theirs, own, peer = pair(adjust_lr_fn=rule, **{"lr": 0.02} | options)
    start = [p.detach().clone() for p in ours]
    for step in range(8):
        advance(ours, own, step)
        advance(theirs, peer, step)
        assert_like_torch(ours, theirs, start)


def test_coefficients_and_eps_like_torch():
    options = {"ns_coefficients": (15 / 8, -5 / 4, 3 / 8), "eps": 0.5, "ns_steps": 7, "lr": 0.1}
    ours, theirs, own, peer = pair(**options)
    start = [p.detach().clone() for p in ours]
    for step in range(3):
        for params, optimizer in ((ours, own), (theirs, peer)):
            for i, p in enumerate(params):
                p.grad = 1e-2 * gauss(*p.shape, seed=step + i)  # norms below eps: the clamp decides
            optimizer.step()
    assert_like_torch(ours, theirs, start)


def test_state_goes_over_to_torch_and_back():
    ours, theirs, own, peer = pair(lr=0.05)
    start = [p.detach().clone() for p in ours]
    for step in range(3):
        advance(ours, own, step)
        advance(theirs, peer, step)
    fresh = muon.Muon(theirs, lr=0.7)
    fresh.load_state_dict(peer.state_dict())
    other = torch.optim.Muon(ours, lr=0.7)
    other.load_state_dict(own.state_dict())
    for step in range(3, 6):
        advance(ours, other, step)
        advance(theirs, fresh, step)
    assert_like_torch(ours, theirs, start)


def test_groups_closures_and_missing_gradients():
    a, b, idle = (torch.nn.Parameter(gauss(6, 4, seed=i)) for i in range(3))
    kept = idle.detach().clone()
    own = muon.Muon([{"params": [a], "lr": 0.5}, {"params": [b, idle], "adjust_lr_fn": "match_rms_adamw"}], lr=0.1, weight_decay=0.0)
    before = [p.detach().clone() for p in (a, b)]

    def closure():
        own.zero_grad()
        loss = (a * gauss(6, 4, seed=7)).sum() + (b * gauss(6, 4, seed=7)).sum()
        loss.backward()
        return loss.detach()

    weights = gauss(6, 4, seed=7)
    assert own.step(closure).item() == pytest.approx(float(sum((p * weights).sum() for p in before)), rel=1e-5)
    assert torch.equal(idle, kept)
    moved = [(p.detach() - old).norm() for p, old in zip((a, b), before, strict=True)]
    assert moved[0] / moved[1] == pytest.approx(0.5 * math.sqrt(6 / 4) / (0.1 * 0.2 * math.sqrt(6)), rel=1e-4)


def test_leading_axes_are_matrices_of_their_own():
    stack = torch.nn.Parameter(gauss(2, 3, 12, 5))
    single = [torch.nn.Parameter(W.clone()) for W in stack.detach().flatten(0, 1)]
    ours, theirs = muon.Muon([stack], lr=0.1, adjust_lr_fn="spectral"), muon.Muon(single, lr=0.1, adjust_lr_fn="spectral")
    for step in range(3):
        stack.grad = gauss(2, 3, 12, 5, seed=step + 1)
        for p, G in zip(single, stack.grad.flatten(0, 1), strict=True):
            p.grad = G.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(stack.detach().flatten(0, 1), torch.stack([p.detach() for p in single]))


def test_stacks_and_single_matrices_of_one_shape_share_a_batch():
    params = [torch.nn.Parameter(gauss(*s, seed=i)) for i, s in enumerate([(2, 6, 4), (4, 6), (3, 4, 6), (6, 4)])]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    together, separate = muon.Muon(params, lr=0.1), [muon.Muon([p], lr=0.1) for p in alone]
    for i, (p, q) in enumerate(zip(params, alone, strict=True)):
        p.grad, q.grad = gauss(*p.shape, seed=50 + i), gauss(*p.shape, seed=50 + i)
    together.step()
    for optimizer in separate:
        optimizer.step()
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12)])
def test_orthogonalize_acts_on_singular_values_only(shape):
    G = gauss(*shape, dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    x = s / s.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(muon.orthogonalize(G[None], dtype=torch.float64)[0], (U * x) @ Vh)
    torch.testing.assert_close(muon.orthogonalize(G[None], dtype=torch.float64)[0], optim.newton_schulz(G), rtol=1e-4, atol=1e-5)
    rough = muon.orthogonalize(G[None])[0]
    assert rough.dtype == torch.bfloat16
    assert (rough.double() - (U * x) @ Vh).norm() < 0.03 * x.norm()
    assert not bool(muon.orthogonalize(torch.zeros(2, *shape)).any())


def test_shape_factor():
    assert muon.shape_factor("original", 400, 100) == 2
    assert muon.shape_factor("original", 100, 400) == 1
    assert muon.shape_factor("match_rms_adamw", 400, 100) == muon.shape_factor("match_rms_adamw", 100, 400) == pytest.approx(4)
    assert muon.shape_factor("spectral", 100, 400) == 0.5
    for rule, rows, message in (("adam", 3, "'original', 'match_rms_adamw', 'spectral'"), ("original", 0, "at least 1")):
        with pytest.raises(ValueError, match=message):
            muon.shape_factor(rule, rows, 3)


@pytest.mark.parametrize("p", [1.2, 2, 3, math.inf])
def test_schatten_direction_has_norm_one_and_nothing_beats_it(p):
    G = gauss(6, 4, dtype=torch.float64)
    D = muon.schatten_direction(G, p)
    q = 1 if math.isinf(p) else p / (p - 1)
    assert float(torch.linalg.svdvals(D).norm(p)) == pytest.approx(1)
    assert float((G * D).sum()) == pytest.approx(float(torch.linalg.svdvals(G).norm(q)))
    others = gauss(500, 6, 4, seed=1, dtype=torch.float64)
    gains = (G * others).sum((-2, -1)) / torch.linalg.vector_norm(torch.linalg.svdvals(others), ord=p, dim=-1)
    assert float(gains.max()) < float((G * D).sum())


def test_schatten_special_cases():
    G = gauss(5, 3, dtype=torch.float64)
    torch.testing.assert_close(muon.schatten_direction(G, 2), G / G.norm())
    torch.testing.assert_close(muon.schatten_direction(G, math.inf), optim.msign(G))
    low = gauss(5, 2, dtype=torch.float64) @ gauss(2, 3, seed=1, dtype=torch.float64)
    torch.testing.assert_close(muon.schatten_direction(low, math.inf), optim.msign(low))
    torch.testing.assert_close(muon.schatten_direction(torch.stack([G, 3 * G]), 3)[1], muon.schatten_direction(G, 3))
    with pytest.raises(ValueError, match="above 1"):
        muon.schatten_direction(G, 1)


def test_flops_by_counting_products():
    n, m = 3, 5
    products = [(n, m, n), (n, n, n), (n, n, m)]
    assert muon.newton_schulz_flops(m, n, steps=4) == 4 * sum(2 * a * b * c for a, b, c in products)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"momentum": 1.0}, "below 1"),
        ({"momentum": -0.5}, "momentum=-0.5"),
        ({"ns_steps": 0}, "ns_steps=0"),
        ({"eps": math.nan}, "eps=nan"),
        ({"adjust_lr_fn": "adam"}, "adjust_lr_fn='adam'"),
        ({"ns_coefficients": (1.0, 2.0)}, "give three"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        muon.Muon([torch.nn.Parameter(torch.ones(2, 2))], **options)


def test_bad_tensors():
    for tensor, message in (
        (torch.ones(3), "shape \\(3,\\); give it to AdamW"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            muon.Muon([torch.nn.Parameter(tensor)])
    with pytest.raises(ValueError, match="G\\[None\\]"):
        muon.orthogonalize(torch.ones(2, 2))
