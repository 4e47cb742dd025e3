"""The muP multipliers against the table, the package mup (Yang and Hu's own) and its coordinate check; the vertex of a tuning curve."""

import math
import sys
import types

import mup as peer  # installed without its plotting dependencies, see requirements-no-deps.txt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kexue_nb import metrics, mup, nn, optim, train

SHAPES = {"input": ((64, 512), (64, 32)), "hidden": ((512, 512), (32, 32)), "output": ((512, 10), (32, 10)), "fixed": ((64, 10), (64, 10))}
# exponents of the width: rate of SGD, Adam, Muon, and the deviation beside fan-in initialisation (post 10770, its table)
TABLE = {"input": (1, 0, 0.5, 0), "hidden": (0, -1, 0, 0), "output": (-1, -1, -0.5, -0.5), "fixed": (0, 0, 0, 0)}


@pytest.mark.parametrize("name", SHAPES)
def test_multipliers_are_the_table(name):
    shape, base = SHAPES[name]
    assert mup.block(shape, base) == name
    rates = [mup.rate_multiplier(optimizer, shape, base) for optimizer in mup.OPTIMIZERS]
    assert [*rates, mup.deviation_multiplier(shape, base)] == pytest.approx([16**e for e in TABLE[name]])


def test_a_vector_is_an_input_block_and_layers_do_not_count():
    assert mup.block((512,), (64,)) == "input"
    assert mup.rate_multiplier("SGD", (512,), (64,)) == 8
    assert mup.growth((3, 512, 2048), (3, 64, 256)) == (8, 8)
    assert mup.growth((6, 512), (6, 64)) == (1, 8)  # gains, one row a layer


@given(*[st.integers(1, 9) for _ in range(4)])
def test_muon_has_the_spectral_rule(m, n, base_m, base_n):
    spectral = optim.spectral_multiplier(m, n) / optim.spectral_multiplier(base_m, base_n)
    assert mup.rate_multiplier("Muon", (m, n), (base_m, base_n)) == pytest.approx(spectral)
    assert mup.rate_multiplier("SGD", (m, n), (base_m, base_n)) == pytest.approx(spectral**2)


def test_bad_shapes_and_names():
    for shape, base in (((3, 4), (3,)), ((), ()), ((0, 4), (1, 4))):
        with pytest.raises(ValueError, match="equally many axes"):
            mup.growth(shape, base)
    with pytest.raises(ValueError, match="only the last two axes"):
        mup.growth((2, 3, 4), (1, 3, 4))
    with pytest.raises(ValueError, match="give one of SGD, Adam, Muon"):
        mup.rate_multiplier("Lion", (2, 3), (2, 3))
    stack = {"a": torch.zeros(1, 2, 2), "b": torch.zeros(1, 2, 2)}
    for model, base in ((stack, {"a": stack["a"]}), ({}, {})):
        with pytest.raises(ValueError, match="same parameters"):
            mup.groups(model, base, "Adam")
        with pytest.raises(ValueError, match="same parameters"):
            mup.rescale(model, base)


# The package


class Net(torch.nn.Module):
    """Embedding-free network with biases and a norm's gain, as a user of the package would write it."""

    def __init__(self, d, readout=peer.MuReadout):
        super().__init__()
        self.enter, self.norm = torch.nn.Linear(6, d), torch.nn.LayerNorm(d)
        self.hidden, self.leave = torch.nn.Linear(d, d), readout(d, 3)

    def forward(self, x):
        return self.leave(F.relu(self.hidden(self.norm(F.relu(self.enter(x))))))


WIDTH, BASE = 32, 8
INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
LABELS = torch.arange(20) % 3


def theirs(seed=0):
    torch.manual_seed(seed)
    return peer.set_base_shapes(Net(WIDTH).double(), Net(BASE))


def ours(seed=0):
    """The same draws as a stack of one run: name -> (1, fan-in, fan-out) or (1, fan-out); muP's initial values, no forward multiplier."""
    torch.manual_seed(seed)
    stacks = []
    for model in (Net(WIDTH, torch.nn.Linear).double(), Net(BASE, torch.nn.Linear).double()):
        named = dict(model.named_parameters())
        stacks.append(
            {
                name: torch.nn.Parameter(p.detach().mT[None].clone() if p.ndim == 2 else p.detach()[None].clone())
                for name, p in named.items()
            }
        )
    stack, base = stacks
    # the package starts biases at a constant deviation too, where PyTorch lets them shrink like the root of the fan-in
    for bias in ("hidden.bias", "leave.bias"):
        stack[bias].data.mul_(math.sqrt(WIDTH / BASE))
    mup.rescale(stack, base)
    return stack, base


def logits(stack, x):
    """Net.forward on a stack: x (n, 6) -> (runs, n, 3)."""

    def layer(h, name):
        return h @ stack[f"{name}.weight"] + stack[f"{name}.bias"][:, None]

    h = F.relu(layer(x[None], "enter"))
    h = F.layer_norm(h, h.shape[-1:]) * stack["norm.weight"][:, None] + stack["norm.bias"][:, None]
    return layer(F.relu(layer(h, "hidden")), "leave")


@pytest.mark.parametrize("seed", [0, 1])
def test_initial_functions_agree_with_the_package(seed):
    stack, base = ours(seed)
    torch.testing.assert_close(logits(stack, INPUTS)[0], theirs(seed)(INPUTS), rtol=1e-12, atol=1e-12)
    plain = {name: p.clone() for name, p in stack.items()}
    mup.rescale(plain, base)  # a second time is one time too many
    assert not torch.allclose(logits(plain, INPUTS)[0], theirs(seed)(INPUTS), rtol=1e-2)


def package_rates(model, optimizer):
    return {
        name: group["lr"] for group in optimizer.param_groups for p in group["params"] for name, q in model.named_parameters() if q is p
    }


@pytest.mark.parametrize(("kind", "gauge"), [("Adam", 1), ("SGD", 2)])
def test_rate_multipliers_agree_with_the_package(kind, gauge):
    """The package divides the readout in its forward pass by r = 4 and so has a rate r^gauge times ours there."""
    model, (stack, base) = theirs(), ours()
    rates = package_rates(model, {"Adam": peer.MuAdam, "SGD": peer.MuSGD}[kind](model.parameters(), lr=1.0))
    names = {id(p): name for name, p in stack.items()}
    made = {names[id(p)]: group["multiplier"] for group in mup.groups(stack, base, kind) for p in group["params"]}
    assert set(made) == set(rates)
    r = WIDTH / BASE
    for name in made:
        assert rates[name] == pytest.approx(made[name] * (r**gauge if name == "leave.weight" else 1)), name
    assert made["hidden.weight"] != made["enter.weight"]


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_training_agrees_with_the_package_step_by_step(kind):
    model, (stack, base) = theirs(), ours()
    rate, tiny = {"Adam": 2.0**-6, "SGD": 2.0**-4}[kind], 1e-60  # an epsilon of Adam's would break the symmetry of the gauges
    if kind == "Adam":
        theirs_opt = peer.MuAdam(model.parameters(), lr=rate, betas=(0.9, 0.95), eps=tiny)
        ours_opt = optim.StackedAdam(mup.groups(stack, base, kind), [rate], betas=(0.9, 0.95), eps=tiny)
    else:
        theirs_opt = peer.MuSGD(model.parameters(), lr=rate)
        ours_opt = optim.StackedSGD(mup.groups(stack, base, kind), [rate])
    start = model(INPUTS).detach()
    for step in range(6):
        for opt, z in ((theirs_opt, model(INPUTS)), (ours_opt, logits(stack, INPUTS)[0])):
            opt.zero_grad()
            F.cross_entropy(z, LABELS).backward()
            opt.step()
        torch.testing.assert_close(logits(stack, INPUTS)[0], model(INPUTS), rtol=1e-9, atol=1e-11, msg=f"step {step}")
    assert (model(INPUTS) - start).abs().max() > 0.05


def test_coordinate_check_agrees_with_the_package(monkeypatch):
    """Its module asks for pandas only to wrap the list of its rows: a stand-in that keeps the list is enough."""

    class Frame(dict):
        def __init__(self, rows):
            super().__init__()
            self.rows = rows

    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
    monkeypatch.delitem(sys.modules, "mup.coord_check", raising=False)
    from mup.coord_check import get_coord_data

    rows = get_coord_data(
        {WIDTH: lambda: theirs(3)},
        [(INPUTS, LABELS)],
        optimizer="adam",
        lr=2.0**-6,
        nsteps=4,
        cuda=False,
        show_progress=False,
        filter_module_by_name=lambda name: name == "leave",
        output_fdict={"l2": lambda x: x.square().mean().sqrt()},
    )
    monkeypatch.delitem(sys.modules, "mup.coord_check")
    seen = [row["l2"] for row in rows.rows]
    stack, base = ours(3)
    opt = optim.StackedAdam(mup.groups(stack, base, "Adam"), [2.0**-6], eps=1e-60)
    sizes = []

    def step(t):
        z = logits(stack, INPUTS)
        sizes.append(float(metrics.rms(z.detach().flatten())))
        opt.zero_grad()
        F.cross_entropy(z[0], LABELS).backward()
        opt.step()

    moved = train.coordinate_check(lambda: {"z": logits(stack, INPUTS)}, step, 4)["z"]
    assert sizes == pytest.approx(seen, rel=1e-4)  # the package's Adam has an epsilon of 1e-8
    assert moved.shape == (4, 1)
    assert bool((moved[1:] > moved[:-1]).all())


def test_a_transformer_gets_its_blocks_from_its_shapes():
    shape = {"vocabulary": 11, "context": 5, "depth": 2}
    model = nn.Transformer(nn.Init([0, 1, 2]), d=32, heads=4, **shape)
    base = nn.Transformer(nn.Init([7]), d=8, heads=1, **shape)
    stack = dict(model.named_parameters())
    reference = {name: p.detach().clone() for name, p in stack.items()}
    mup.rescale(stack, dict(base.named_parameters()))
    for name, p in stack.items():
        torch.testing.assert_close(p.detach(), reference[name] * (0.5 if name == "head.weight" else 1))
    made = {id(p): g["multiplier"] for g in mup.groups(stack, dict(base.named_parameters()), "Adam") for p in g["params"]}
    for name, p in stack.items():
        expected = 0.25 if name in ("wq", "wk", "wv", "wo", "w1", "w2", "head.weight") else 1
        assert made[id(p)] == expected, name


# The vertex of a tuning curve


@given(st.floats(-1.4, 1.4), st.floats(0.1, 5), st.floats(-3, 3), st.floats(0.3, 2))
def test_best_rate_of_a_parabola(vertex, bend, low, gap):
    x = np.array([-2.0, -2 + gap, -1 + gap, 2 + gap, 5 + gap])
    x0, y0 = mup.best_rate(x, low + bend * (x - vertex) ** 2)
    if math.isnan(x0):
        assert np.argmin((x - vertex) ** 2) == 0
    else:
        assert x0 == pytest.approx(vertex, abs=1e-6)
        assert y0 == pytest.approx(low, abs=1e-6)


def test_best_rate_agrees_with_a_fit_and_refuses_edges():
    x, y = [-9, -8, -7, -6], [1.0, 0.4, 0.5, 2.0]
    a, b, c = np.polyfit(x[:3], y[:3], 2)
    assert mup.best_rate(x, y) == pytest.approx((-b / (2 * a), c - b * b / (4 * a)))
    assert all(map(math.isnan, mup.best_rate(x, [0, 1, 2, 3])))
    assert all(map(math.isnan, mup.best_rate(x, [3, 2, 1, 0])))
    assert mup.best_rate([0, 1, 2], [1, 1, 1]) in ((0.0, 1.0), pytest.approx((math.nan, math.nan), nan_ok=True))
    for bad_x, bad_y in (([0, 1], [1, 0]), ([0, 2, 1], [1, 0, 1]), ([0, 1, 2], [1, math.inf, 1]), ([0, 1, 2], [1, 2])):
        with pytest.raises(ValueError, match="ascending"):
            mup.best_rate(bad_x, bad_y)
