"""StackedAdam against torch.optim.AdamW run by run, and the bounds of the schedule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb.optim import StackedAdam, warmup_cosine

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
