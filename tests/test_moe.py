"""Mixtures of experts: the grouped and the masked layer against the plain loop over experts, forward and backward; routing; balance."""

import math

import pytest
import scipy.stats
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kexue_nb import moe, nn

RUNS, TOKENS, D, C, N = 2, 13, 6, 5, 7
GELU = nn.ACTIVATIONS["gelu"]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_loop(x, wr, wa, wb, bias, *, k, gate, normalise, scores=None):
    """The layer as it is defined: one run, one token, one expert after the other."""
    h = {"softmax": lambda s: s.exp() / s.exp().sum(), "sigmoid": lambda s: 1 / (1 + (-s).exp()), "relu": lambda s: s.clamp_min(0)}
    y = []
    for r in range(x.shape[0]):
        for row in x[r]:
            logits = row @ wr[r]
            rho, ranked = h[gate](logits), (h[scores or gate](logits) + bias[r]).tolist()
            keep = sorted(range(len(rho)), key=lambda i: -ranked[i])[:k] if k else [i for i in range(len(rho)) if ranked[i] > 0]
            total = torch.zeros_like(row)
            for i in keep:
                hidden = row @ wa[r, i]
                v = (0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))) @ wb[r, i]
                total = total + rho[i] * (v / (v.square().mean() + 1e-6).sqrt() if normalise else v)
            y.append(total)
    return torch.stack(y).view_as(x)


def layer(**options):
    options = {"k": 3, "router_std": 1.0} | options
    made = moe.MoE(nn.Init([3, 5]), D, C, N, **options).double()
    made.bias.copy_(0.1 * draw(RUNS, N, seed=9))
    if options["k"] is None:  # at a threshold within the scores
        made.bias.sub_({"sigmoid": 0.6, "softmax": 0.2, "relu": 0.5}[options.get("scores") or options.get("gate", "softmax")])
    return made


CASES = [
    {"k": k, "gate": gate, "normalise": normalise, "scores": scores}
    for k in (1, 3, N, None)
    for gate, normalise, scores in (
        ("softmax", False, None),
        ("sigmoid", True, None),
        ("relu", True, "sigmoid"),
        ("softmax", True, "sigmoid"),
        ("relu", False, None),
    )
]


@pytest.mark.parametrize("method", ["grouped", "dense"])
@pytest.mark.parametrize("options", CASES, ids=lambda o: f"{o['k']}-{o['gate']}-{o['normalise']}-{o['scores']}")
def test_against_the_plain_loop_over_experts(options, method):
    made, x = layer(method=method, **options), draw(RUNS, TOKENS, D, seed=1).requires_grad_()
    parameters = [made.wr, made.wa, made.wb]
    y, expected = made(x), plain_loop(x, *parameters, made.bias, **options)
    torch.testing.assert_close(y, expected)
    probe = draw(RUNS, TOKENS, D, seed=2)
    ours, theirs = (torch.autograd.grad((t * probe).sum(), [x, *parameters]) for t in (y, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert all(float(a.abs().max()) > 0 for a in ours)


def test_gradients_by_finite_differences():
    made, x = layer(gate="sigmoid", normalise=True), draw(RUNS, 4, D, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: made(x), (x, made.wr, made.wa, made.wb, made.gain))


def test_the_shape_of_the_input_is_free():
    made, x = layer(), draw(RUNS, 3, 4, D, seed=1)
    torch.testing.assert_close(made(x), made(x.view(RUNS, 12, D)).view_as(x))
    torch.testing.assert_close(made(x.transpose(1, 2)), made(x).transpose(1, 2))


def test_runs_are_independent():
    made, x = layer(), draw(RUNS, TOKENS, D, seed=1)
    other = x.clone()
    other[1] = 0
    torch.testing.assert_close(made(other)[0], made(x)[0])
    grads = torch.autograd.grad(made(x)[0].sum(), [made.wa, made.wr])
    assert all(bool((g[1] == 0).all()) for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_grouped_kernel_against_one_product_a_group(dtype):
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    ends = torch.tensor([4, 4, 9, 20], dtype=torch.int32)
    results = []
    for native in (True, False):
        x, w = draw(20, 8).to(dtype).requires_grad_(), draw(4, 8, 16, seed=1).to(dtype).requires_grad_()
        y = moe.grouped_matmul(x, w, ends, native)
        (y * draw(20, 16, seed=2).to(dtype)).sum().backward()
        results.append((y, x.grad, w.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert float(results[0][2][1].abs().max()) == 0  # an expert without tokens


def flops(made, x):
    with FlopCounterMode(display=False) as counter:
        made(x)
    return counter.get_total_flops()


def test_the_cost_is_that_of_the_chosen():
    tokens, d, c = 64, 8, 12
    x = draw(1, tokens, d).float()
    for n in (4, 16, 64):
        for k in (1, 2, 4):
            made = moe.MoE(nn.Init([0]), d, c, n, k=k)
            assert flops(made, x) == tokens * (k * 4 * d * c + 2 * d * n)
    made.method = "dense"
    assert flops(made, x) == tokens * (64 * 4 * d * c + 2 * d * 64)
    made = moe.MoE(nn.Init([0]), d, c, 16, k=None, gate="sigmoid", router_std=1.0)
    made.bias.fill_(-0.5)
    assert flops(made, x) == tokens * 2 * d * 16 + int(made.route(x).mask.sum()) * 4 * d * c


def test_the_work_of_a_dense_layer_in_blocks():
    wa, wb, x = draw(1, 1, D, 4 * C), draw(1, 1, 4 * C, D, seed=1), draw(1, TOKENS, D, seed=2)
    split = wa.view(1, D, 4, C).transpose(1, 2), wb.view(1, 4, C, D)
    ones = torch.ones(1, TOKENS, 4, dtype=torch.float64)
    for compute in moe.EXPERTS.values():
        torch.testing.assert_close(compute(x, moe.route(ones, ones, 4), *split, GELU), GELU(x @ wa[:, 0]) @ wb[:, 0])


def test_pairs_are_sorted_and_complete():
    scores = draw(RUNS, TOKENS, N)
    for k in (3, None):
        routing = moe.route(scores, scores, k)
        pairs = moe.dispatch(routing)
        assert sorted(pairs.slot.tolist()) == routing.mask.flatten().nonzero()[:, 0].tolist()
        counts = pairs.ends.diff(prepend=torch.zeros(1, dtype=torch.int32)).view(RUNS, N)
        torch.testing.assert_close(counts / TOKENS, moe.expert_load(routing.mask), check_dtype=False)
        assert torch.equal(pairs.token, pairs.slot // N)


def test_choice():
    scores = draw(4, 50, N)
    mask = moe.topk_mask(scores, 2)
    assert torch.equal(mask.sum(-1), torch.full((4, 50), 2))
    assert bool((scores.where(mask, math.inf).amin(-1) >= scores.where(~mask, -math.inf).amax(-1)).all())
    assert torch.equal(moe.route(scores, scores, 2).mask, mask)
    assert torch.equal(moe.route(scores, scores, None).mask, scores > 0)
    made, x = layer(), draw(RUNS, TOKENS, D)
    before = made.route(x).mask
    made.bias += 3.0  # one constant for all changes no top-k
    assert torch.equal(made.route(x).mask, before)
    torch.testing.assert_close(made.route(x).weights, (x @ made.wr).softmax(-1))  # the bias is not in the weights


def test_no_gradient_reaches_the_unchosen():
    made, x = layer(gate="sigmoid", k=1), draw(1, 1, D).expand(RUNS, 1, D)
    mask = made.route(x).mask[:, 0]
    made(x).sum().backward()
    for grad in (made.wa.grad.abs().sum((-2, -1)), made.wb.grad.abs().sum((-2, -1)), made.wr.grad.abs().sum(1)):
        assert torch.equal(grad > 0, mask)


def test_nobody_chosen_gives_zero():
    made = layer(k=None, gate="sigmoid")
    made.bias.fill_(-2)
    y = made(draw(RUNS, TOKENS, D))
    assert bool((y == 0).all())
    y.sum().backward()


def test_load_and_violation():
    mask = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0]]], dtype=torch.bool)
    load = moe.expert_load(mask)
    assert load.tolist() == [[1.0, 0.25, 0.25]]
    assert moe.max_violation(load).tolist() == [1.0]
    assert moe.max_violation(torch.full((5,), 0.3)).item() == pytest.approx(0)


@pytest.mark.parametrize(("tokens", "n", "k", "value"), [(512, 32, 4, 0.249), (384, 16, 4, 0.158), (4096, 64, 6, 0.116)])
def test_floor_of_the_violation(tokens, n, k, value):
    floor = moe.max_violation_floor(tokens, n, k)
    assert floor == pytest.approx(value, abs=6e-4)
    draws = scipy.stats.binom.rvs(tokens, k / n, size=(4000, n), random_state=0).max(1) / (tokens * k / n) - 1
    assert floor == pytest.approx(draws.mean(), abs=4 * draws.std() / math.sqrt(4000))


def test_balancing_step_and_what_it_reaches():
    bias = torch.zeros(1, 4)
    moe.balance_(bias, torch.tensor([[0.9, 0.5, 0.3, 0.3]]), 0.1)
    assert bias.tolist() == [pytest.approx([-0.1, 0.0, 0.1, 0.1])]
    lean, bias = torch.tensor([0.5, 0.2, 0.0, 0.0, -0.2, -0.5]), torch.zeros(6)
    scores = torch.rand(4000, 6, generator=torch.Generator().manual_seed(0)) + lean
    assert float(moe.max_violation(moe.expert_load(moe.topk_mask(scores, 2)))) > 1
    for _ in range(400):
        moe.balance_(bias, moe.expert_load(moe.topk_mask(scores + bias, 2)), 5e-3)
    assert float(moe.max_violation(moe.expert_load(moe.topk_mask(scores + bias, 2)))) < 0.05


OPTIONS = {"vocabulary": 11, "context": 7, "d": 8, "depth": 2, "heads": 2}


def test_transformer_of_one_expert_is_the_plain_transformer():
    ids = torch.randint(11, (RUNS, 2, 6), generator=torch.Generator().manual_seed(1))
    ours = moe.Transformer(nn.Init([3, 5]), moe={"width": 12, "experts": 1, "k": 1}, **OPTIONS)
    plain = nn.Transformer(nn.Init([3, 5]), width=12, **OPTIONS)
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if name == "w1":
                p.copy_(torch.cat([l.wa for l in ours.layers], 1))
            elif name == "w2":
                p.copy_(torch.cat([l.wb for l in ours.layers], 1))
            else:
                p.copy_(ours.get_parameter(name))
    torch.testing.assert_close(ours(ids), plain(ids))
    assert len(list(ours.states(ids))) == 5


def test_transformer_matches_its_outputs_and_balances():
    ids = torch.randint(11, (RUNS, 4, 7), generator=torch.Generator().manual_seed(1))
    model = moe.Transformer(nn.Init([3, 5]), moe={"width": 4, "experts": N, "k": 2, "gate": "sigmoid"}, **OPTIONS)
    with pytest.raises(ValueError, match="no load yet"):
        model.balance(0.1)
    model.match_output(ids, 0.5)
    states = list(model.states(ids))
    for before, after in ((1, 2), (3, 4)):
        torch.testing.assert_close((states[after] - states[before]).flatten(1).square().mean(1).sqrt(), torch.full((2,), 0.5))
    model.balance(0.1)
    for layer in model.layers:
        assert torch.equal(layer.bias.sign(), -(layer.load * N - 2).sign())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moe.topk_mask(torch.zeros(2, 3), 4), "between 1 and all 3"),
        (lambda: moe.MoE(nn.Init([0]), D, C, N, k=0), "between 1 and all 7"),
        (lambda: moe.MoE(nn.Init([0]), D, C, N, k=1, gate="tanh"), "gate='tanh'"),
        (lambda: moe.MoE(nn.Init([0]), D, C, N, k=1, scores="x"), "scores='x'"),
        (lambda: moe.MoE(nn.Init([0]), D, C, N, k=1, method="loop"), "method='loop'"),
        (lambda: moe.route(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), 1), "must be"),
        (lambda: moe.route(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), 9), "k=9"),
        (lambda: moe.balance_(torch.zeros(3), torch.zeros(4), 0.1), "one shape"),
        (lambda: moe.balance_(torch.zeros(3), torch.zeros(3), -0.1), "rate"),
        (lambda: moe.max_violation_floor(10, 4, 5), "1 <= k"),
        (lambda: moe.grouped_matmul(torch.zeros(4, 2), torch.zeros(3, 2, 5), torch.zeros(2)), "give"),
        (lambda: moe.grouped_matmul(torch.zeros(4, 2), torch.zeros(2, 2, 5), torch.tensor([1, 3])), "has 4 rows"),
        (lambda: moe.Transformer(nn.Init([0]), moe={"width": 4, "experts": 2, "k": 1}, width=3, **OPTIONS), "belongs to the experts"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
