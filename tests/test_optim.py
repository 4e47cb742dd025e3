"""Stacked optimizers against torch.optim's run by run; the matrix sign against the polar factor; the bounds of the schedule."""

import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb.optim import (
    MUON_COEFFICIENTS,
    Clipped,
    StackedAdam,
    StackedMuon,
    StackedSGD,
    Together,
    msign,
    newton_schulz,
    spectral_multiplier,
    warmup_cosine,
)

SHAPES = [(4, 3), (2, 3, 4), (5,), ()]


@given(
    lr=st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=3),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    eps=st.sampled_from([1e-8, 1e-3]),
    decay=st.sampled_from([0.0, 0.1, 1.0]),
    steps=st.integers(1, 6),
    scheduled=st.booleans(),
)
def test_each_run_evolves_as_under_adamw(lr, betas, eps, decay, steps, scheduled):
    torch.manual_seed(0)
    runs = len(lr)
    stack = [torch.nn.Parameter(torch.randn(runs, *s)) for s in SHAPES]
    singles = [[torch.nn.Parameter(p[r].detach().clone()) for p in stack] for r in range(runs)]
    ours = StackedAdam(stack, torch.tensor(lr), betas=betas, eps=eps, weight_decay=decay)
    theirs = [
        torch.optim.AdamW(
            [{"params": [p], "weight_decay": decay * (len(s) >= 2)} for p, s in zip(mine, SHAPES, strict=True)], lr[r], betas, eps
        )
        for r, mine in enumerate(singles)
    ]
    for step in range(steps):
        factor = warmup_cosine(step, steps, warmup=0.5) if scheduled else 1.0
        for i, p in enumerate(stack):
            p.grad = torch.randn_like(p) * (step + 1)
            for r in range(runs):
                singles[r][i].grad = p.grad[r].clone()
        ours.step(factor) if scheduled else ours.step()
        for r, reference in enumerate(theirs):
            for group in reference.param_groups:
                group["lr"] = lr[r] * factor
            reference.step()
    for i, p in enumerate(stack):
        for r in range(runs):
            torch.testing.assert_close(p[r], singles[r][i], rtol=2e-5, atol=2e-5 * max(1.0, lr[r] * steps))


def test_weight_decay_is_for_matrices_of_a_stack_only():
    shapes = [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]
    stack = [torch.nn.Parameter(torch.ones(s)) for s in shapes]
    optimizer = StackedAdam(stack, torch.tensor([0.1, 0.2]), weight_decay=0.5)
    for p in stack:
        p.grad = torch.zeros_like(p)
    optimizer.step(0.5)
    for p in stack:
        for r, lr in enumerate((0.1, 0.2)):
            torch.testing.assert_close(p[r], torch.full_like(p[r], 1 - 0.5 * lr * 0.5 if p.ndim >= 3 else 1.0))


def test_a_diverged_run_leaves_the_others_alone():
    p, q = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    for tensor, bad in ((p, math.nan), (q, 1.0)):
        optimizer = StackedAdam([tensor], torch.tensor([0.1, 0.1]))
        for _ in range(3):
            tensor.grad = torch.tensor([[bad] * 3, [1.0] * 3])
            optimizer.step()
    assert p[0].isnan().all()
    assert torch.equal(p[1], q[1])


def test_a_parameter_without_gradient_stays():
    p, idle = torch.nn.Parameter(torch.ones(1, 2, 2)), torch.nn.Parameter(torch.ones(1, 2, 2))
    p.grad = torch.ones_like(p)
    StackedAdam([p, idle], [0.1], weight_decay=0.1).step()
    assert torch.equal(idle, torch.ones(1, 2, 2))
    assert (p < 1).all()


def test_a_late_first_gradient_is_corrected_as_in_adamw():
    p, late = torch.nn.Parameter(torch.ones(1, 2)), torch.nn.Parameter(torch.ones(1, 2))
    copies = [torch.nn.Parameter(x.detach().clone()) for x in (p, late)]
    ours, theirs = StackedAdam([p, late], [0.1]), torch.optim.AdamW(copies, 0.1, weight_decay=0)
    for step in range(3):
        for x, y in zip((p, late), copies, strict=True):
            x.grad = y.grad = None if x is late and step < 2 else torch.ones(1, 2)
        ours.step()
        theirs.step()
    torch.testing.assert_close(late, copies[1])


def test_a_run_goes_on_from_its_state():
    def train(steps, p, optimizer):
        for i in range(steps):
            p.grad = torch.full_like(p, 1.0 + i % 2)
            optimizer.step()

    whole, half = (torch.nn.Parameter(torch.ones(1, 2)) for _ in range(2))
    train(4, whole, StackedAdam([whole], [0.1]))
    first, second = StackedAdam([half], [0.1]), StackedAdam([half], [0.1])
    train(2, half, first)
    second.load_state_dict(first.state_dict())
    train(2, half, second)
    torch.testing.assert_close(half, whole)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3), {"lr": torch.tensor(0.1)}, "lr must be a vector of positive rates"),
        ((2, 3), {"lr": torch.ones(2, 1)}, "lr must be a vector"),
        ((2, 3), {"lr": [0.1, 0.0]}, r"got tensor\(\[0.1000, 0.0000\]\)"),
        ((2, 3), {"lr": [0.1, -1.0]}, "positive rates"),
        ((2, 3), {"lr": [0.1, math.nan]}, "positive rates.*nan"),
        ((2, 3), {"lr": [0.1, math.inf]}, "positive rates.*inf"),
        ((3, 3), {}, r"shape \(3, 3\) does not lead with the 2 runs"),
        ((), {}, r"shape \(\) does not lead with the 2 runs"),
        ((2, 3), {"betas": (1.0, 0.9)}, r"betas=\(1.0, 0.9\): both must lie in \[0, 1\)"),
        ((2, 3), {"betas": (0.9, -0.1)}, r"betas=\(0.9, -0.1\)"),
        (None, {}, "empty parameter list"),
    ],
)
def test_bad_input(shape, options, message):
    params = [] if shape is None else [torch.nn.Parameter(torch.ones(shape))]
    with pytest.raises(ValueError, match=message):
        StackedAdam(params, **({"lr": torch.tensor([0.1, 0.2])} | options))


shares = st.floats(0, 1)


@given(st.integers(1, 300), shares, shares)
def test_warmup_cosine_bounds(steps, warmup, final):
    values = [warmup_cosine(s, steps, warmup=warmup, final=final) for s in range(steps)]
    rise = max(1, round(warmup * steps))
    assert all(0 < v <= 1 for v in values)
    assert values[:rise] == pytest.approx([(s + 1) / rise for s in range(rise)])
    assert values[rise - 1] == 1
    assert all(a >= b >= final - 1e-12 for a, b in zip(values[rise - 1 :], values[rise:], strict=False))


def test_warmup_cosine_values():
    assert [warmup_cosine(s, 10, warmup=0.2, final=0.5) for s in (0, 1, 2)] == [0.5, 1, 1]
    assert warmup_cosine(6, 10, warmup=0.2, final=0.5) == pytest.approx(0.75)
    assert warmup_cosine(99, 100) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))


@pytest.mark.parametrize(("step", "steps"), [(-1, 5), (5, 5), (0, 0)])
def test_warmup_cosine_knows_its_steps(step, steps):
    with pytest.raises(ValueError, match=rf"step {step} is not in 0\.\.{steps - 1}"):
        warmup_cosine(step, steps)


def test_each_run_evolves_as_under_sgd():
    p = torch.nn.Parameter(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    singles = [torch.nn.Parameter(p[r].detach().clone()) for r in range(2)]
    ours = StackedSGD([p], [0.1, 0.3], weight_decay=0.2)
    theirs = [torch.optim.SGD([x], lr) for x, lr in zip(singles, (0.1, 0.3), strict=True)]
    for _ in range(3):
        p.grad = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
        ours.step()
        for r, (x, lr) in enumerate(zip(singles, (0.1, 0.3), strict=True)):
            x.grad = p.grad[r].clone()
            x.data.mul_(1 - lr * 0.2)
            theirs[r].step()
    for r in range(2):
        torch.testing.assert_close(p[r], singles[r])


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(48, 48), (64, 24), (24, 64)])
def test_each_run_evolves_as_under_torch_muon(nesterov, shape):
    torch.manual_seed(0)
    rates, p = (0.02, 0.1), torch.nn.Parameter(torch.randn(2, *shape))
    singles = [torch.nn.Parameter(p[r].detach().clone()) for r in range(2)]
    ours = StackedMuon([p], rates, momentum=0.9, nesterov=nesterov, weight_decay=0.1, dtype=torch.bfloat16)
    theirs = [torch.optim.Muon([x], lr, weight_decay=0.1, momentum=0.9, nesterov=nesterov) for x, lr in zip(singles, rates, strict=True)]
    ours.param_groups[0]["multiplier"] = math.sqrt(max(1, shape[0] / shape[1]))
    start = p.detach().clone()
    for step in range(5):
        p.grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(step))
        ours.step()
        for r, optimizer in enumerate(theirs):
            singles[r].grad = p.grad[r].clone()
            optimizer.step()
    for r in range(2):
        difference = (p[r] - singles[r]).norm() / (singles[r] - start[r]).norm()
        assert difference < 0.02  # bfloat16 products in another order


def test_muon_in_full_precision_takes_the_sign_of_the_momentum():
    G = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.nn.Parameter(torch.zeros_like(G))
    optimizer = StackedMuon([{"params": [p], "multiplier": 3.0}], [0.1, 0.2], momentum=0.5, nesterov=True)
    p.grad = G
    optimizer.step()
    rates = torch.tensor([0.1, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(p.detach(), -3 * rates * newton_schulz(0.75 * G), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (2, 3, 9)])
def test_msign_is_the_polar_factor(shape):
    G = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q, G3 = msign(G).reshape(-1, *shape[-2:]), G.reshape(-1, *shape[-2:])
    for q, g in zip(Q, G3, strict=True):
        tall = g if g.shape[0] >= g.shape[1] else g.T
        half = torch.linalg.inv(torch.from_numpy(scipy.linalg.sqrtm((tall.T @ tall).numpy()).real))
        wanted = tall @ half
        torch.testing.assert_close(q, wanted if tall is g else wanted.T, rtol=1e-8, atol=1e-8)


def test_the_tolerance_of_msign_does_not_grow_with_the_batch():
    G = torch.diag(torch.tensor([1.0, 1e-14], dtype=torch.float64)).expand(1000, 2, 2)
    torch.testing.assert_close(msign(G), torch.eye(2, dtype=torch.float64).expand(1000, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_msign_drops_what_lies_below_the_numerical_rank(dtype):
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(40, 3, dtype=dtype))[0], torch.linalg.qr(torch.randn(30, 3, dtype=dtype))[0]
    G = (left * torch.tensor([5.0, 1.0, 0.01], dtype=dtype)) @ right.T
    torch.testing.assert_close(msign(G), left @ right.T, rtol=0, atol=2e-3 if dtype == torch.float32 else 1e-8)
    assert torch.linalg.matrix_norm(msign(G)) ** 2 == pytest.approx(3, rel=1e-4)
    torch.testing.assert_close(msign(G, tolerance=0.1), left[:, :2] @ right[:, :2].T, rtol=0, atol=1e-4)
    for size in (1e-6, 1e6):
        torch.testing.assert_close(msign(size * G), left @ right.T, rtol=0, atol=2e-3 if dtype == torch.float32 else 1e-8)
        torch.testing.assert_close(msign(size * G, tolerance=0.1), left[:, :2] @ right[:, :2].T, rtol=0, atol=1e-4)
    assert torch.equal(msign(torch.zeros(4, 3)), torch.zeros(4, 3))
    assert torch.equal(newton_schulz(torch.zeros(4, 3)), torch.zeros(4, 3))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (2, 3, 6, 6)])
def test_newton_schulz_acts_on_the_singular_values_alone(shape):
    G = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    a, b, c = MUON_COEFFICIENTS
    s = S / torch.linalg.matrix_norm(G)[..., None]
    for _ in range(4):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(newton_schulz(G, steps=4), (U * s[..., None, :]) @ Vh, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(newton_schulz(G, steps=40, coefficients=(15 / 8, -5 / 4, 3 / 8)), msign(G), rtol=1e-6, atol=1e-6)
    assert newton_schulz(G.float(), dtype=torch.bfloat16).dtype == torch.float32


def test_groups_scale_the_rate_and_optimizers_step_together():
    p, q, w = (torch.nn.Parameter(torch.zeros(1, 2, 2)) for _ in range(3))
    both = Together(StackedSGD([{"params": [p], "multiplier": 2.0}, {"params": [q]}], [0.1]), StackedAdam([w], [0.1]))
    for x in (p, q, w):
        x.grad = torch.ones_like(x)
    both.step(0.5)
    for x, moved in ((p, 0.1), (q, 0.05), (w, 0.05)):
        torch.testing.assert_close(x.detach(), torch.full((1, 2, 2), -moved))
    both.zero_grad()
    assert p.grad is None
    assert w.grad is None


def test_a_reset_optimizer_starts_anew():
    p = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = StackedAdam([p], [0.1, 0.2])
    for _ in range(2):
        p.data.zero_()
        for step in range(3):
            p.grad = torch.full_like(p, 1.0 + step)
            optimizer.step()
        end = p.detach().clone()
        optimizer.reset()
    fresh = torch.nn.Parameter(torch.zeros(2, 3))
    other = StackedAdam([fresh], [0.1, 0.2])
    for step in range(3):
        fresh.grad = torch.full_like(fresh, 1.0 + step)
        other.step()
    assert torch.equal(end, fresh.detach())


def test_rate_zero_moves_nothing():
    p = torch.nn.Parameter(torch.ones(1, 3, 3))
    optimizer = StackedAdam([p], [0.1], weight_decay=1.0)
    p.grad = torch.ones_like(p)
    optimizer.schedule(0.0)
    optimizer.update()
    assert torch.equal(p.detach(), torch.ones(1, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: StackedMuon([p], [0.1]), r"Muon takes stacks of matrices \(runs, ..., m, n\); got \(1, 3\)"),
        (lambda p: StackedMuon([p], [0.1], momentum=1.0), "momentum=1.0: it must lie in"),
        (lambda p: StackedSGD([{"params": [p], "multiplier": 0.0}], [0.1]), "multiplier=0.0: give a positive number"),
        (lambda p: Together(), "no optimizer given"),
        (lambda p: spectral_multiplier(0, 4), r"shape \(0, 4\): both sides must be at least 1"),
    ],
)
def test_bad_input_of_the_others(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.nn.Parameter(torch.ones(1, 3)))


def test_spectral_multiplier():
    assert spectral_multiplier(100, 25) == 0.5
    assert spectral_multiplier(25, 100) == 2


def test_clipped_is_clip_grad_norm_for_each_run():
    bounds = torch.tensor([0.5, 3.0, math.inf])
    stack = [
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(i)).requires_grad_() for i, shape in enumerate([(4, 3), (3,), ()])
    ]
    factors = [torch.randn(p.shape, generator=torch.Generator().manual_seed(7)) for p in stack]
    single = [[p.detach()[r].clone().requires_grad_() for p in stack] for r in range(3)]
    ours = Clipped(bounds, *(StackedSGD([p], torch.full((3,), 0.1)) for p in stack))
    for step in range(3):
        ours.zero_grad()
        sum((p * other * (step + 1)).sum() for p, other in zip(stack, factors, strict=True)).backward()
        ours.step()
        for r in range(3):
            theirs = torch.optim.SGD(single[r], lr=0.1)
            theirs.zero_grad()
            sum((p * other[r] * (step + 1)).sum() for p, other in zip(single[r], factors, strict=True)).backward()
            torch.nn.utils.clip_grad_norm_(single[r], float(bounds[r]))
            theirs.step()
    for p, *runs in zip(stack, *single, strict=True):
        torch.testing.assert_close(p, torch.stack(runs), atol=1e-5, rtol=0)


def test_clipped_leaves_a_zero_gradient_alone_and_refuses_bad_bounds():
    p = torch.ones(2, 3, requires_grad=True)
    sgd = StackedSGD([p], torch.full((2,), 0.1))
    p.grad = torch.zeros_like(p)
    Clipped(1.0, sgd).step()
    assert bool((p == 1).all())
    for bound in (0.0, torch.ones(3)):
        with pytest.raises(ValueError, match="positive number"):
            Clipped(bound, sgd)
