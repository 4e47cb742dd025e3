"""The parallel recurrences against loops in float64, autograd, torch's own modules and torch's own scan."""

import pytest
import torch
from torch._higher_order_ops.associative_scan import associative_scan

from kexue_nb import scan

LENGTHS = (1, 2, 3, 15, 16, 17, 63, 64, 65, 150)


def normal(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def loop(a, b, x0):
    x, out = x0, []
    for A, c in zip(a, b, strict=True):
        x = (A * x if a.ndim == b.ndim else (A @ x[..., None])[..., 0]) + c
        out.append(x)
    return torch.stack(out)


def problem(cell, length, batch=3, h=4, seed=0, scale=1.0):
    g = scan.CELLS[cell].gates
    u, w = normal(length, batch, g * h, seed=seed), normal(g * h, h, seed=seed + 1, scale=scale / h**0.5)
    return u, w, normal(g * h, seed=seed + 2, scale=0.3), normal(batch, h, seed=seed + 3).tanh()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("block", [2, 3, 8])
@pytest.mark.parametrize("dense", [False, True])
def test_a_linear_scan_is_the_loop(length, block, dense):
    a, b = normal(length, 2, 3, *([3] if dense else []), scale=0.6), normal(length, 2, 3, seed=1)
    x0 = normal(2, 3, seed=2)
    torch.testing.assert_close(scan.linear_scan(a, b, x0, block=block), loop(a, b, x0), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(scan.linear_scan(a, b, block=block), loop(a, b, 0 * x0), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("length", [1, 5, 33])
@pytest.mark.parametrize("dense", [False, True])
def test_a_linear_scan_has_the_gradient_of_the_loop(length, dense):
    a, b, x0 = normal(length, 2, 3, *([3] if dense else []), scale=0.6), normal(length, 2, 3, seed=1), normal(2, 3, seed=2)
    weight, leaves = normal(length, 2, 3, seed=5), [t.requires_grad_() for t in (a, b, x0)]
    ours = torch.autograd.grad((scan.linear_scan(*leaves, block=3) * weight).sum(), leaves)
    theirs = torch.autograd.grad((loop(*leaves) * weight).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=1e-11)


def test_a_linear_scan_agrees_with_torchs():
    a, b = normal(77, 2, 3, scale=0.6), normal(77, 2, 3, seed=1)

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    peer = associative_scan(combine, (a, b), dim=0, combine_mode="generic")[1]
    torch.testing.assert_close(scan.linear_scan(a, b), peer, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(
    ("a", "b", "x0", "message"),
    [
        ((4, 2), (5, 2), None, "transitions"),
        ((4, 2, 3), (4, 2), None, "transitions"),
        ((0, 2), (0, 2), None, "T >= 1"),
        ((4, 2), (4, 2), (3,), "x0"),
    ],
)
def test_a_linear_scan_refuses_shapes_that_do_not_fit(a, b, x0, message):
    with pytest.raises(ValueError, match=message):
        scan.linear_scan(torch.ones(a), torch.ones(b), None if x0 is None else torch.ones(x0))


def test_a_linear_scan_refuses_mixed_dtypes_and_a_block_of_one():
    with pytest.raises(ValueError, match="dtype"):
        scan.linear_scan(torch.ones(4, 2), torch.ones(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="block=1"):
        scan.linear_scan(torch.ones(4, 2), torch.ones(4, 2), block=1)


@pytest.mark.parametrize("factors", [[1e-30, 1e-30, 1e30, 1e30], [1e30, 1e30, 1e-30, 1e-30]])
def test_products_that_leave_the_range_are_reported(factors):
    a, b = torch.tensor(factors * 8)[:, None], torch.zeros(32, 1)
    start = torch.tensor([1e30 if factors[0] < 1 else 1e-30])
    assert float(loop(a, b, start).abs().max()) > 0.9e-30
    with pytest.raises(FloatingPointError, match="float64"):
        scan.linear_scan(a, b, start, block=4)
    assert torch.isfinite(scan.linear_scan(a.double(), b.double(), start.double(), block=4)).all()


@pytest.mark.parametrize("cell", scan.CELLS)
def test_the_linearisation_is_the_jacobian_of_the_step(cell):
    u, w, b, x = problem(cell, 1)
    y, d, c = scan.CELLS[cell].linearise(x, u[0], w, b)
    torch.testing.assert_close(y, scan.CELLS[cell].step(x, u[0], w, b))
    exact = torch.stack(
        [torch.autograd.functional.jacobian(lambda v, i=i: scan.CELLS[cell].step(v, u[0, i], w, b), x[i]) for i in range(3)]
    )
    maps = scan.Structured(None if d is None else d[None], c[None], w)
    rows, target = normal(1, 3, 5, 4, seed=9), exact[None]
    torch.testing.assert_close(maps.apply(rows), rows @ target.mT)
    transposed = scan.Structured(maps.d, maps.c, w, transposed=True)
    torch.testing.assert_close(transposed.apply(rows), rows @ target)
    torch.testing.assert_close(scan.diagonal_of(d, c, w).a, exact.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("cell", scan.CELLS)
@pytest.mark.parametrize("method", scan.METHODS)
@pytest.mark.parametrize("length", [1, 2, 31, 64])
def test_the_sweeps_find_the_trajectory_of_the_loop(cell, method, length):
    u, w, b, h0 = problem(cell, length, scale=0.7)
    found = scan.solve(cell, u, w, b, h0, method=method, block=4)
    assert found.converged
    assert found.sweeps <= length
    torch.testing.assert_close(found.states, scan.run_loop(cell, u, w, b, h0), atol=1e-8, rtol=0)


@pytest.mark.parametrize("cell", scan.CELLS)
@pytest.mark.parametrize("method", scan.METHODS)
def test_after_n_sweeps_n_states_are_exact(cell, method):
    u, w, b, h0 = problem(cell, 24, scale=4.0)
    exact = scan.run_loop(cell, u, w, b, h0)
    for n in (1, 3, 9):
        found = scan.solve(cell, u, w, b, h0, method=method, max_sweeps=n, strict=False, tolerance=1e-14)
        torch.testing.assert_close(found.states[:n], exact[:n], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("kind", "h"), [("gru", 1), ("gru", 5), ("tanh", 1), ("tanh", 5)])
@pytest.mark.parametrize("method", ["newton", "quasi"])
def test_states_and_gradients_of_torchs_modules(kind, h, method):
    torch.manual_seed(1)
    module = (torch.nn.GRU(3, h) if kind == "gru" else torch.nn.RNN(3, h)).double()
    inputs, h0 = normal(41, 2, 3).requires_grad_(), (normal(2, h, seed=4) * 0.5).requires_grad_()
    weight = normal(41, 2, h, seed=7)
    leaves = [inputs, h0, *module.parameters()]
    theirs = module(inputs, h0[None])[0]
    ours, found = scan.rnn(*scan.from_module(module, inputs), h0, method=method, tolerance=1e-12, block=5)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert float(found.residual) <= 1e-12
    expected = torch.autograd.grad((theirs * weight).sum(), leaves)
    for mine, other in zip(torch.autograd.grad((ours * weight).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-8)


def test_a_fixed_number_of_sweeps_gives_the_states_or_nan():
    u, w, b, h0 = problem("gru", 50)
    needed = scan.solve("gru", u, w, b, h0).sweeps
    states, found = scan.rnn("gru", u, w.requires_grad_(), b, h0, sweeps=needed)
    torch.testing.assert_close(states, scan.run_loop("gru", u, w, b, h0), atol=1e-9, rtol=0)
    states.sum().backward()
    assert torch.isfinite(w.grad).all()
    assert found.converged is None
    assert torch.isnan(scan.solve("gru", u, w, b, h0, sweeps=1).states).all()


def test_too_few_sweeps_raise_or_are_flagged():
    u, w, b, h0 = problem("tanh", 60, scale=3.0)
    with pytest.raises(scan.NotConverged, match=r"residual .* after 2 sweeps"):
        scan.solve("tanh", u, w, b, h0, max_sweeps=2)
    found = scan.solve("tanh", u, w, b, h0, max_sweeps=2, strict=False)
    assert not found.converged
    assert float(found.residual) > 1e-10


def test_overflow_in_float32_is_repaired_and_counted():
    u, w, b, h0 = (t.float() for t in problem("tanh", 400, scale=12.0))
    found = scan.solve("tanh", 0.01 * u, w, 0 * b, 0 * h0, max_sweeps=2, strict=False)
    assert found.repaired > 0
    assert torch.isfinite(found.states).all()
    assert float(found.states.abs().max()) <= 1


def test_a_good_guess_saves_sweeps():
    u, w, b, h0 = problem("gru", 80)
    cold = scan.solve("gru", u, w, b, h0)
    warm = scan.solve("gru", u, w, b, h0, guess=cold.states + 1e-6)
    assert warm.sweeps < cold.sweeps
    assert scan.solve("gru", u, w, b, h0, guess=cold.states).sweeps == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "lstm"}, "no cell 'lstm'"),
        ({"method": "magic"}, "method='magic'"),
        ({"u": torch.ones(5, 2, 4)}, "give u"),
        ({"u": torch.full((5, 2, 6), float("nan"))}, "u: not finite"),
        ({"w": torch.ones(6, 2, dtype=torch.float64)}, "float64"),
        ({"h0": torch.ones(3, 2)}, "h0"),
        ({"b": torch.ones(2)}, "b "),
        ({"tolerance": 0.0}, "tolerance=0"),
        ({"block": 1}, "block=1"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"cell": "gru", "u": torch.ones(5, 2, 6), "w": torch.ones(6, 2)}
    with pytest.raises(ValueError, match=message):
        scan.solve(**good | change)


def test_modules_that_are_not_such_a_cell_are_refused():
    for module in (
        torch.nn.LSTM(2, 2),
        torch.nn.GRU(2, 2, num_layers=2),
        torch.nn.RNN(2, 2, nonlinearity="relu"),
        torch.nn.GRU(2, 2, bias=False),
    ):
        with pytest.raises(ValueError, match="one-layer"):
            scan.from_module(module, torch.ones(3, 1, 2))


def test_the_lyapunov_exponent_of_a_constant_map():
    J = torch.tensor([[0.0, 0.5], [2.0, 0.0]], dtype=torch.float64).expand(2000, 3, 2, 2) * 1.1
    torch.testing.assert_close(scan.lyapunov_exponent(J), torch.full((3,), 1.1, dtype=torch.float64).log(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_the_amplification_is_the_recurrence_of_residuals_by_autograd(cell):
    u, w, b, h0 = problem(cell, 40, h=3)
    states = scan.run_loop(cell, u, w, b, h0)
    signs = torch.randint(2, states.shape, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    d, largest, before = torch.zeros_like(h0), 0.0, torch.cat([h0[None], states[:-1]])
    for t in range(40):
        pushed = torch.autograd.functional.jvp(lambda x, t=t: scan.CELLS[cell].step(x[None], u[t : t + 1], w, b)[0], before[t], d)[1]
        d = pushed + signs[t]
        largest = max(largest, float(d.abs().max()))
    assert scan.amplification(cell, states, u, w, b, h0) == pytest.approx(largest, rel=1e-10)


def test_the_amplification_tells_a_chaotic_cell_from_one_that_forgets():
    rotation = torch.linalg.qr(normal(8, 8, seed=7))[0]
    u = normal(200, 1, 8, seed=100, scale=0.3)
    tame, chaotic = (scan.amplification("tanh", scan.run_loop("tanh", u, g * rotation), u, g * rotation) for g in (1.0, 3.0))
    assert tame < 100
    assert chaotic > 1e5


def test_the_amplification_refuses_states_that_do_not_fit():
    u, w, b, h0 = problem("tanh", 5)
    with pytest.raises(ValueError, match="guess"):
        scan.amplification("tanh", u[:3], u, w, b, h0)


def test_a_converged_solution_is_f_of_the_last_iterate():
    u, w, b, h0 = problem("tanh", 30, scale=0.8)
    found = scan.solve("tanh", u, w, b, h0, method="picard", tolerance=0.05)
    x = torch.zeros_like(u)
    for _ in range(found.sweeps + 1):
        x = scan.CELLS["tanh"].step(torch.cat([h0[None], x[:-1]]), u, w, b)
    assert found.residual > 1e-4
    torch.testing.assert_close(found.states, x, atol=1e-13, rtol=0)


def test_states_near_the_edge_of_the_box_are_not_counted_as_put_back():
    u, w = torch.full((20, 1, 3), 1.9, dtype=torch.float64), 0.01 * torch.eye(3, dtype=torch.float64)
    assert scan.run_loop("tanh", u, w).min() > 0.95
    assert scan.solve("tanh", u, w).repaired == 0


def test_a_scanned_gradient_that_misses_its_equation_a_little_is_nan(monkeypatch):
    u, w, b, h0 = problem("tanh", 30)
    _, d, c = scan.CELLS["tanh"].linearise(torch.cat([h0[None], scan.run_loop("tanh", u, w, b, h0)[:-1]]), u, w, b)
    grad, run = normal(30, 3, 4, seed=9), scan.run_scan
    assert scan.adjoint(d, c, w, grad).isfinite().all()
    monkeypatch.setattr(scan, "run_scan", lambda *args: run(*args) * (1 + 1e-3))
    assert scan.adjoint(d, c, w, grad).isnan().all()


def test_the_backward_pass_makes_as_many_sweeps_as_it_is_told():
    """Picard's iteration carries a state one step further a sweep, so four steps need four."""
    generator = torch.Generator().manual_seed(3)
    d, c, w, grad = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 1, 3), (4, 1, 1, 3), (3, 3), (4, 1, 3)))
    exact = scan.adjoint(d, c, w, grad)
    torch.testing.assert_close(scan.adjoint(d, c, w, grad, method="picard", sweeps=4), exact)
    assert scan.adjoint(d, c, w, grad, method="picard", sweeps=3).isnan().any()
