"""The training loop: against plain gradient steps, as a CUDA graph, and where runs diverge; the coordinate check."""

import math

import pytest
import torch

from kexue_nb import nn
from kexue_nb.optim import StackedAdam, StackedMuon, Together, warmup_cosine
from kexue_nb.train import coordinate_check, fit, fit_graphed

LR = [0.1, 0.03]


def quadratic(p):
    return lambda step: (p - torch.tensor([[3.0], [-1.0]])).square().sum(1) * (1 + step % 2)


def start():
    return torch.nn.Parameter(torch.tensor([[1.0, 2.0], [0.5, -2.0]]))


def test_against_a_loop_of_adamw_for_each_run():
    p, seen = start(), []
    singles = [torch.nn.Parameter(row.detach().clone()) for row in p]
    last = fit(quadratic(p), StackedAdam([p], LR), 7, schedule=warmup_cosine, watch=lambda s, losses: seen.append((s, losses.clone())))
    for r, (x, goal) in enumerate(zip(singles, (3.0, -1.0), strict=True)):
        optimizer = torch.optim.AdamW([x], weight_decay=0)
        for step in range(7):
            optimizer.zero_grad()
            loss = (x - goal).square().sum() * (1 + step % 2)
            torch.testing.assert_close(seen[step][1][r], loss.detach())
            loss.backward()
            optimizer.param_groups[0]["lr"] = LR[r] * warmup_cosine(step, 7)
            optimizer.step()
        torch.testing.assert_close(p[r], x)
        torch.testing.assert_close(last[r], loss.detach())
    assert [s for s, _ in seen] == list(range(7))
    assert not last.requires_grad
    assert not any(losses.requires_grad for _, losses in seen)


def test_the_schedule_defaults_to_one_and_sees_every_step():
    p, q, asked = start(), start(), []
    fit(quadratic(p), StackedAdam([p], LR), 4)
    fit(quadratic(q), StackedAdam([q], LR), 4, schedule=lambda *a: asked.append(a) or 1.0)
    assert torch.equal(p, q)
    assert asked == [(s, 4) for s in range(4)]


def test_gradients_of_the_step_before_are_dropped():
    p, q = start(), start()
    p.grad = torch.full_like(p, 1e6)
    assert torch.equal(fit(quadratic(p), StackedAdam([p], LR), 3), fit(quadratic(q), StackedAdam([q], LR), 3))


def test_one_diverged_run_is_nan_and_the_other_goes_on():
    p, q = start(), start()
    mixed = fit(lambda s: quadratic(p)(s) * torch.tensor([math.nan, 1.0]), StackedAdam([p], LR), 5)
    plain = fit(quadratic(q), StackedAdam([q], LR), 5)
    assert mixed[0].isnan()
    assert torch.equal(mixed[1], plain[1])
    assert torch.equal(p[1], q[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_all_runs_diverged(bad):
    p = start()
    with pytest.raises(FloatingPointError, match="all 2 runs diverged within 3 steps; lower the learning rates"):
        fit(lambda s: quadratic(p)(s) * bad, StackedAdam([p], LR), 3)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps(steps):
    p = start()
    with pytest.raises(ValueError, match="step"):
        fit(quadratic(p), StackedAdam([p], LR), steps)


def test_fit_graphed_is_fit_on_the_cpu():
    p, q, drawn = start(), start(), []
    goals = torch.tensor([[3.0], [-1.0]])

    def batch(step):
        drawn.append(step)
        return (goals * (1 + step % 2),)

    a = fit_graphed(lambda g: (p - g).square().sum(1), batch, StackedAdam([p], LR), 5, schedule=warmup_cosine)
    b = fit(lambda step: (q - goals * (1 + step % 2)).square().sum(1), StackedAdam([q], LR), 5, schedule=warmup_cosine)
    assert torch.equal(a, b)
    assert torch.equal(p, q)
    assert drawn == list(range(5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_graph_trains_as_the_loop_does():
    curves = []
    for graphed in (True, False):
        model = nn.Transformer(nn.Init([0, 1]), vocabulary=13, context=8, d=16, depth=3, heads=2, placement="post").cuda()
        generator, curve = torch.Generator(device="cuda").manual_seed(0), []

        def batch(step, generator=generator):
            ids = torch.randint(13, (2, 4, 9), generator=generator, device="cuda")
            return ids[..., :-1], ids[..., 1:]

        def loss(x, y, model=model):
            return nn.cross_entropy_per_run(model(x), y)

        def watch(step, losses, curve=curve):
            curve.append(losses)

        matrices = [p for p in model.parameters() if p.ndim == 4]
        rest = [p for p in model.parameters() if p.ndim < 4]
        optimizer = Together(StackedMuon(matrices, LR), StackedAdam(rest, [0.01, 0.02]))
        if graphed:
            fit_graphed(loss, batch, optimizer, 12, schedule=warmup_cosine, watch=watch)
        else:
            fit(lambda step, batch=batch, loss=loss: loss(*batch(step)), optimizer, 12, schedule=warmup_cosine, watch=watch)
        curves.append(torch.stack(curve))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-3, atol=1e-3)
    assert (curves[0][-1] < curves[0][0]).all()


def test_coordinate_check_measures_the_change_since_the_start():
    x = torch.tensor([[1.0, 1.0], [2.0, 0.0]])

    def step(t):
        x.add_(torch.tensor([[3.0, 4.0], [0.0, t + 1.0]]))

    moved = coordinate_check(lambda: {"x": x, "twice": 2 * x.view(2, 1, 2)}, step, 2)
    torch.testing.assert_close(moved["x"], torch.tensor([[12.5**0.5, 0.5**0.5], [50**0.5, 4.5**0.5]]))
    torch.testing.assert_close(moved["twice"], 2 * moved["x"])
