"""Recurrences evaluated in parallel over time: linear ones by a blocked associative scan, GRU and tanh cells by Newton-like sweeps of it.

Time comes first: T steps, N sequences (any number of axes where a function says ``...``), h states, g gates.

A linear recurrence x_t = A_t x_{t-1} + b_t is cut into blocks of a few steps. All blocks are reduced to one affine map each, in parallel;
the maps are scanned by the same routine; a second pass fills the blocks in. Every level is ``block`` times shorter than the last, so the
work is linear in T and the number of launches logarithmic (Blelloch, "Prefix sums and their applications", 1990; Martin and Cundy, arXiv
1709.04057).

A nonlinear cell x_t = f(x_{t-1}, u_t) is solved as the root of F(x)_t = x_t - f(x_{t-1}, u_t) (arXiv 2309.12252, "DEER"; the diagonal form
is "quasi-DEER", arXiv 2407.19115). A sweep takes r_t = f(x_{t-1}) - x_t, solves delta_t = L_t delta_{t-1} + r_t by the scan and adds delta.
With L_t the Jacobian J_t this is Newton's method. For both cells J_t = diag(d_t) + sum_i diag(c_it) W_i with few coefficients, so the
lowest level of the scan, which holds nearly all the work, is a product with the small matrices W_i, and no J_t is ever stored. The exact
trajectory lies in [-1, 1] (or within |h0|): an iterate outside is moved to the edge, and entries that overflowed take the plain step
f(x_{t-1}). Neither touches an exact entry, so after n sweeps the first n states are right whatever happened to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

METHODS = ("newton", "quasi", "picard")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class NotConverged(RuntimeError):
    """The sweeps stopped above the tolerance: the message says where they were and what to change."""


# Transitions: T maps of rows of length h. ``compose`` and ``advance`` take all T at once.


@dataclass(frozen=True)
class Diagonal:
    """x -> a_t * x, a (T, N, h)."""

    a: Tensor

    def __getitem__(self, at: slice) -> Diagonal:
        return Diagonal(self.a[at])

    def first(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """The product of one map and its offset, from which ``compose`` goes on."""
        return self.a, b

    def compose(self, product: Tensor, offset: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """This map after ``x -> product x + offset``."""
        return self.a * product, torch.addcmul(b, self.a, offset)

    def advance(self, x: Tensor, b: Tensor) -> Tensor:
        """A_t x_t + b_t for all t."""
        return torch.addcmul(b, self.a, x)

    def reversed(self) -> Diagonal:
        """The maps of the adjoint recurrence: transposed, last first, shifted by one (the first one meets a zero state)."""
        return Diagonal(self.a.flip(0).roll(1, 0))

    wrap = staticmethod(lambda product: Diagonal(product))


@dataclass(frozen=True)
class Dense:
    """x -> x M_t for rows x, M (T, N, h, h), the transposed transition matrices."""

    m: Tensor

    def __getitem__(self, at: slice) -> Dense:
        return Dense(self.m[at])

    def first(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """As in Diagonal."""
        return self.m, b

    def compose(self, product: Tensor, offset: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """As in Diagonal."""
        return product @ self.m, self.advance(offset, b)

    def advance(self, x: Tensor, b: Tensor) -> Tensor:
        """As in Diagonal."""
        return b + (x[..., None, :] @ self.m)[..., 0, :]

    def reversed(self) -> Dense:
        """As in Diagonal."""
        return Dense(self.m.mT.flip(0).roll(1, 0))

    wrap = staticmethod(lambda product: Dense(product))


@dataclass(frozen=True)
class Structured:
    """x -> J_t x with J_t = diag(d_t) + sum_i diag(c_it) W_i, or with ``transposed`` x -> J_t^T x.

    d (T, N, h) or None for zero, c (T, N, g, h), w (g*h, h) with W_i = w[i*h:(i+1)*h].
    """

    d: Tensor | None
    c: Tensor
    w: Tensor
    transposed: bool = False

    def __getitem__(self, at: slice) -> Structured:
        return Structured(None if self.d is None else self.d[at], self.c[at], self.w, self.transposed)

    def apply(self, rows: Tensor) -> Tensor:
        """J_t times each of m rows (T, N, m, h)."""
        g, h = self.c.shape[-2:]
        if self.transposed:
            scaled = rows[..., None, :] * self.c[..., None, :, :]
            moved = scaled.reshape(*rows.shape[:-1], g * h) @ self.w
        elif g == 1:
            moved = (rows @ self.w.mT) * self.c
        else:
            moved = ((rows @ self.w.mT).view(*rows.shape[:-1], g, h) * self.c[..., None, :, :]).sum(-2)
        return moved if self.d is None else torch.addcmul(moved, self.d[..., None, :], rows)

    def first(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """As in Diagonal."""
        h = b.shape[-1]
        return self.apply(torch.eye(h, dtype=b.dtype, device=b.device).expand(*b.shape[:-1], h, h)), b

    def compose(self, product: Tensor, offset: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """As in Diagonal; ``product`` holds the transposed matrix, its row j the image of the j-th unit vector."""
        return self.apply(product), self.advance(offset, b)

    def advance(self, x: Tensor, b: Tensor) -> Tensor:
        """As in Diagonal."""
        return b + self.apply(x[..., None, :])[..., 0, :]

    def reversed(self) -> Structured:
        """As in Diagonal."""
        d = None if self.d is None else self.d.flip(0).roll(1, 0)
        return Structured(d, self.c.flip(0).roll(1, 0), self.w, not self.transposed)

    wrap = staticmethod(lambda product: Dense(product))


Transition = Diagonal | Dense | Structured


def run_scan(maps: Transition, b: Tensor, start: Tensor, block: int = 8) -> Tensor:
    """All x_t = A_t x_{t-1} + b_t, (T, N, h), from x_0 = ``start`` (N, h), by the blocked scan. No checks, no gradient, no host sync."""
    length, out, x = len(b), torch.empty_like(b), start[None]
    whole = 0 if length < 2 * block else length // block * block
    if whole:
        parts = [(maps[slice(k, whole, block)], b[k:whole:block]) for k in range(block)]
        product, offset = parts[0][0].first(parts[0][1])
        for part, shift in parts[1:]:
            product, offset = part.compose(product, offset, shift)
        ends = run_scan(maps.wrap(product[:-1]), offset[:-1], start, block)
        x = torch.cat([x, ends])
        for k, (part, shift) in enumerate(parts):
            x = part.advance(x, shift)
            out[k:whole:block] = x
        x = x[-1:]
    for t in range(whole, length):
        x = maps[slice(t, t + 1)].advance(x, b[t : t + 1])
        out[t : t + 1] = x
    return out


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, start, block, dense):
        x = run_scan(Dense(a.mT) if dense else Diagonal(a), b, start, block)
        ctx.save_for_backward(a, x, start)
        ctx.block, ctx.dense = block, dense
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, x, start = ctx.saved_tensors
        maps = Dense(a.mT) if ctx.dense else Diagonal(a)
        adjoint = run_scan(maps.reversed(), grad.flip(0), torch.zeros_like(start), ctx.block).flip(0)
        before = torch.cat([start[None], x[:-1]])
        grad_a = adjoint[..., :, None] * before[..., None, :] if ctx.dense else adjoint * before
        first = (a[0].mT @ adjoint[0][..., None])[..., 0] if ctx.dense else a[0] * adjoint[0]
        return grad_a, adjoint, first, None, None


def linear_scan(a: Tensor, b: Tensor, x0: Tensor | None = None, *, block: int = 8, check: bool = True) -> Tensor:
    """x_t = a_t x_{t-1} + b_t for t = 1..T in parallel, differentiable in all arguments (the gradient is one scan backwards in time).

    ``b`` (T, ..., h); ``a`` of the same shape (diagonal transitions) or (T, ..., h, h); ``x0`` (..., h), default zero. Returns (T, ..., h).
    ``block`` >= 2 is the number of steps that one block takes in sequence. Products of many a_t can overflow or underflow where the states
    themselves would not; with ``check`` the result is put back into the recurrence (one pass, one host sync), and a step whose residual is
    not small beside its terms, or not finite, raises FloatingPointError. Raises ValueError for shapes that do not fit and for an empty
    sequence.
    """
    dense = a.ndim == b.ndim + 1
    _check_shapes(a, b, x0, dense, block)
    start = b.new_zeros(b.shape[1:]) if x0 is None else x0
    x = _LinearScan.apply(a, b, start, block, dense)
    if check:
        with torch.no_grad():
            before = torch.cat([start[None], x[:-1]])
            moved = (a @ before[..., None])[..., 0] if dense else a * before
            off, size = (moved + b - x).abs().amax(-1), (moved.abs() + b.abs()).amax(-1)
            fine = off <= 1e3 * torch.finfo(b.dtype).eps * size
            if not bool(fine.all()):
                at = int((~fine).reshape(len(b), -1).any(1).nonzero()[0])
                raise FloatingPointError(
                    f"the scan of {len(b)} steps misses its own recurrence, first at step {at + 1}: products of the transitions left the "
                    f"range of {b.dtype} (or an input is not finite); use float64, smaller transitions, or a loop"
                )
    return x


def _check_shapes(a: Tensor, b: Tensor, x0: Tensor | None, dense: bool, block: int) -> None:
    wanted = (*b.shape, b.shape[-1]) if dense else tuple(b.shape)
    if b.ndim < 2 or len(b) < 1 or tuple(a.shape) != wanted:
        raise ValueError(
            f"transitions {tuple(a.shape)} for offsets {tuple(b.shape)}: give b (T, ..., h) with T >= 1 and a (T, ..., h) or (T, ..., h, h)"
        )
    if x0 is not None and x0.shape != b.shape[1:]:
        raise ValueError(f"x0 {tuple(x0.shape)} must have the shape of one step, {tuple(b.shape[1:])}")
    if len({t.dtype for t in (a, b, *(() if x0 is None else (x0,)))}) > 1 or not b.is_floating_point():
        raise ValueError(f"transitions of {a.dtype}, offsets of {b.dtype}: give one floating-point dtype")
    if block < 2:
        raise ValueError(f"block={block}: give at least 2")


# Cells: u (..., g*h) holds what the inputs contribute to the gates, w (g*h, h) and b (g*h,) are the recurrent weight and its bias.


def tanh_step(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """tanh(W x + b + u), torch.nn.RNN's cell; x and u (..., h)."""
    return torch.tanh(u + torch.nn.functional.linear(x, w, b))


def tanh_linearise(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, None, Tensor]:
    """The step and its Jacobian diag(1 - y^2) W as (y, d, c) of Structured."""
    y = tanh_step(x, u, w, b)
    return y, None, (1 - y * y)[..., None, :]


def gru_step(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """torch.nn.GRU's cell: gates r, z, n in this order, the reset gate behind the product, z keeps; x (..., h), u (..., 3h)."""
    h = x.shape[-1]
    v = torch.nn.functional.linear(x, w, b)
    gates = torch.sigmoid(u[..., : 2 * h] + v[..., : 2 * h])
    n = torch.tanh(torch.addcmul(u[..., 2 * h :], gates[..., :h], v[..., 2 * h :]))
    return torch.lerp(n, x, gates[..., h:])


def gru_linearise(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The step and its Jacobian diag(z) + sum of three scaled blocks of W, as (y, d, c) of Structured."""
    h = x.shape[-1]
    v = torch.nn.functional.linear(x, w, b)
    gates = torch.sigmoid(u[..., : 2 * h] + v[..., : 2 * h])
    slopes = gates * (1 - gates)
    r, z, m = gates[..., :h], gates[..., h:], v[..., 2 * h :]
    n = torch.tanh(torch.addcmul(u[..., 2 * h :], r, m))
    new = (1 - z) * (1 - n * n)
    c = torch.stack([new * m * slopes[..., :h], (x - n) * slopes[..., h:], new * r], -2)
    return torch.lerp(n, x, z), z, c


@dataclass(frozen=True)
class Cell:
    """A cell: its number of gates, ``step(x, u, w, b)`` and ``linearise(x, u, w, b)``."""

    gates: int
    step: Callable[..., Tensor]
    linearise: Callable[..., tuple[Tensor, Tensor | None, Tensor]]


CELLS = {"tanh": Cell(1, tanh_step, tanh_linearise), "gru": Cell(3, gru_step, gru_linearise)}


@dataclass(frozen=True)
class Solution:
    """What the sweeps found: ``states`` (T, N, h); ``sweeps`` made; ``residual`` max |f(x_{t-1}) - x_t| (a 0-d tensor); ``converged``; and
    ``repaired``, how many entries in all sweeps were moved back from outside the box or from overflow (both None when ``sweeps`` was
    fixed).
    """

    states: Tensor
    sweeps: int
    residual: Tensor
    converged: bool | None
    repaired: int | None


def solve(
    cell: str,
    u: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    method: str = "newton",
    tolerance: float | None = None,
    max_sweeps: int | None = None,
    sweeps: int | None = None,
    guess: Tensor | None = None,
    block: int = 8,
    strict: bool = True,
) -> Solution:
    """The trajectory x_t = f(x_{t-1}, u_t) of a cell ("gru" or "tanh") by parallel sweeps; no gradient (see :func:`rnn`).

    u (T, N, g*h), w (g*h, h), b (g*h,) default zero, h0 (N, h) default zero, ``guess`` (T, N, h) the first iterate, default zero.
    ``method``: "newton" (full Jacobian), "quasi" (its diagonal) or "picard" (none). The sweeps end when max |f(x_{t-1}) - x_t| <=
    ``tolerance`` (default 1e-5 in float32, 1e-10 in float64); after ``max_sweeps`` (default T, which always suffices but for rounding)
    NotConverged is raised, or with ``strict=False`` the last iterate is returned with ``converged`` False. A fixed number of ``sweeps``
    asks nothing of the host, so it can be captured in a CUDA graph; states that miss the tolerance then come out as NaN. Raises ValueError
    for bad input.
    """
    b, h0, x = _prepare(cell, u, w, b, h0, guess, method)
    tolerance = TOLERANCE[u.dtype] if tolerance is None else tolerance
    if not tolerance > 0 or block < 2 or min(max_sweeps or 1, sweeps or 1) < 1:
        raise ValueError(
            f"tolerance={tolerance}, block={block}, max_sweeps={max_sweeps}, sweeps={sweeps}: give positive numbers, block >= 2"
        )
    limit = sweeps if sweeps is not None else len(u) if max_sweeps is None else max_sweeps
    with torch.no_grad():
        states = torch.cat([h0[None], x])  # (T + 1, N, h); the sweeps write into it
        x, before, edge = states[1:], states[:-1], h0.abs().amax().clamp_min(1.0)
        done, repaired = 0, torch.zeros((), dtype=torch.int64, device=u.device)
        while True:
            last = sweeps is not None and done == limit
            y, d, c = (CELLS[cell].step(before, u, w, b), None, None) if last else CELLS[cell].linearise(before, u, w, b)
            residual = (y - x).abs().amax()
            if last:
                return Solution(torch.where(residual <= tolerance, y, torch.nan), done, residual, None, None)
            if sweeps is None and (bool(residual <= tolerance) or done == limit):
                break
            repaired += _update(x, y, d, c, w, method, edge, block)
            done += 1
        converged = bool(residual <= tolerance)
        if not converged and strict:
            raise NotConverged(
                f"{method} sweeps of {cell!r}, {len(u)} steps: residual {float(residual):.3g} > {tolerance:g} after {done} sweeps; raise "
                "max_sweeps (T always suffices but for rounding), use float64 or method='newton', or a sequential loop: the recurrence "
                "may be chaotic"
            )
        return Solution(y if converged else x.clone(), done, residual, converged, int(repaired))


def _update(x: Tensor, y: Tensor, d, c, w: Tensor, method: str, edge: Tensor, block: int) -> Tensor:
    """One sweep in place: x += delta, put back into the box. Returns the number of entries put back."""
    if method == "picard":
        x.copy_(y)
        return torch.zeros((), dtype=torch.int64, device=x.device)
    maps = diagonal_of(d, c, w) if method == "quasi" or x.shape[-1] == 1 else Structured(d, c, w)
    new = x + run_scan(maps, y - x, torch.zeros_like(x[0]), block)
    bad = ~(new.abs() <= edge)
    x.copy_(torch.where(torch.isfinite(new), torch.clamp(new, -edge, edge), y))
    return bad.sum()


def diagonal_of(d: Tensor | None, c: Tensor, w: Tensor) -> Diagonal:
    """The diagonals of the Jacobians diag(d_t) + sum_i diag(c_it) W_i."""
    g, h = c.shape[-2:]
    a = (c * w.view(g, h, h).diagonal(dim1=1, dim2=2)).sum(-2)
    return Diagonal(a if d is None else a + d)


def _prepare(cell: str, u: Tensor, w: Tensor, b: Tensor | None, h0: Tensor | None, guess: Tensor | None, method: str):
    if cell not in CELLS:
        raise ValueError(f"no cell {cell!r}; there are {', '.join(map(repr, CELLS))}")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: give one of {', '.join(map(repr, METHODS))}")
    h, g = w.shape[-1], CELLS[cell].gates
    if w.ndim != 2 or len(w) != g * h or u.ndim != 3 or u.shape[-1] != g * h or 0 in u.shape:
        raise ValueError(
            f"{cell!r} with u {tuple(u.shape)} and w {tuple(w.shape)}: give u (T, N, {g}h) and w ({g}h, h), none of them empty"
        )
    if u.dtype not in TOLERANCE or w.dtype != u.dtype:
        raise ValueError(f"u of {u.dtype} and w of {w.dtype}: give both in float32 or both in float64")
    b = u.new_zeros(g * h) if b is None else b
    h0 = u.new_zeros(u.shape[1], h) if h0 is None else h0
    guess = u.new_zeros(*u.shape[:2], h) if guess is None else guess
    for name, value, shape in (("b", b, (g * h,)), ("h0", h0, (u.shape[1], h)), ("guess", guess, (*u.shape[:2], h))):
        if tuple(value.shape) != shape or value.dtype != u.dtype:
            raise ValueError(f"{name} {tuple(value.shape)} of {value.dtype}: give {shape} of {u.dtype}")
    if not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
        finite = torch.stack([torch.isfinite(t.detach()).all() for t in (u, w, b, h0, guess)])
        if not bool(finite.all()):
            bad = [name for name, fine in zip(("u", "w", "b", "h0", "guess"), finite.tolist(), strict=True) if not fine]
            raise ValueError(f"{', '.join(bad)}: not finite; the fixed point of a recurrence with NaN or infinity does not exist")
    return b, h0, guess


class _Adjoint(torch.autograd.Function):
    """The identity on y = f(x_{t-1}, u_t), whose gradient is taken through all later steps: lambda_t = J_{t+1}^T lambda_{t+1} + g_t."""

    @staticmethod
    def forward(ctx, y, before, u, w, b, cell, method, block, tolerance, sweeps):
        ctx.save_for_backward(before, u, w, b)
        ctx.options = cell, method, block, tolerance, sweeps
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        before, u, w, b = ctx.saved_tensors
        cell, method, block, tolerance, sweeps = ctx.options
        _, d, c = CELLS[cell].linearise(before, u, w, b)
        return adjoint(d, c, w, grad, method=method, block=block, tolerance=tolerance, sweeps=sweeps), *[None] * 9


def adjoint(
    d: Tensor | None,
    c: Tensor,
    w: Tensor,
    grad: Tensor,
    *,
    method: str = "newton",
    block: int = 8,
    tolerance: float = 1e-5,
    sweeps: int | None = None,
) -> Tensor:
    """lambda_t = J_{t+1}^T lambda_{t+1} + grad_t, (T, N, h): with J_t = diag(d_t) + sum_i diag(c_it) W_i as in Structured.

    "newton" is one reverse scan. "quasi" and "picard" repeat sweeps with the diagonal of J, or without it, until the equation holds to
    ``tolerance`` times max |lambda| (or ``sweeps`` times). Raises NotConverged where T sweeps do not suffice; where the host is not asked
    (one scan, or fixed ``sweeps``) a result that misses its equation is NaN.
    """
    exact, g = Structured(d, c, w).reversed(), grad.flip(0)
    zero, relative = torch.zeros_like(g[0]), max(tolerance, 1e3 * torch.finfo(g.dtype).eps)

    def missing(v: Tensor) -> tuple[Tensor, Tensor]:
        rest = exact.advance(torch.cat([zero[None], v[:-1]]), g) - v
        return rest, rest.abs().amax() <= relative * v.abs().amax()

    if method == "newton" or w.shape[-1] == 1:
        maps = exact if w.shape[-1] > 1 else diagonal_of(d, c, w).reversed()
        v = run_scan(maps, g, zero, block)
        return torch.where(missing(v)[1], v, torch.nan).flip(0)
    maps, v = diagonal_of(d, c, w).reversed(), torch.zeros_like(g)
    for _ in range(len(g) if sweeps is None else sweeps):
        rest, fine = missing(v)
        if sweeps is None and bool(fine) and bool(v.any()):
            break
        v = v + (rest if method == "picard" else run_scan(maps, rest, zero, block))
    fine = missing(v)[1]
    if sweeps is None and not bool(fine) and bool(g.any()):
        raise NotConverged(f"{method} sweeps of the backward pass, {len(g)} steps, did not converge; use method='newton'")
    return torch.where(fine, v, torch.nan).flip(0)


def rnn(
    cell: str,
    u: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    method: str = "newton",
    tolerance: float | None = None,
    max_sweeps: int | None = None,
    sweeps: int | None = None,
    guess: Tensor | None = None,
    block: int = 8,
) -> tuple[Tensor, Solution]:
    """The states (T, N, h) of a cell with gradients to u, w, b and h0, and the Solution that they came from. Arguments as in :func:`solve`.

    The sweeps are not differentiated. By the implicit function theorem the gradient of the fixed point is one linear recurrence backwards
    in time, solved by :func:`adjoint`, and then one product rule for all steps at once. Raises NotConverged and ValueError as :func:`solve`
    does.
    """
    found = solve(cell, u, w, b, h0, method=method, tolerance=tolerance, max_sweeps=max_sweeps, sweeps=sweeps, guess=guess, block=block)
    b = u.new_zeros(len(w)) if b is None else b
    h0 = u.new_zeros(u.shape[1], w.shape[-1]) if h0 is None else h0
    before = torch.cat([h0[None], found.states[:-1]])
    y = CELLS[cell].step(before, u, w, b)
    limit = TOLERANCE[u.dtype] if tolerance is None else tolerance
    return _Adjoint.apply(y, before.detach(), u.detach(), w.detach(), b.detach(), cell, method, block, limit, sweeps), found


def from_module(module: torch.nn.RNNBase, inputs: Tensor) -> tuple[str, Tensor, Tensor, Tensor]:
    """(cell, u, w, b) of a one-layer, one-way torch.nn.GRU or tanh torch.nn.RNN with biases, for inputs (T, N, features).

    Raises ValueError for any other module.
    """
    kind = "gru" if isinstance(module, torch.nn.GRU) else "tanh" if getattr(module, "nonlinearity", "") == "tanh" else ""
    if not kind or module.num_layers != 1 or module.bidirectional or not module.bias:
        raise ValueError(f"{module}: give a one-layer, one-way torch.nn.GRU, or torch.nn.RNN with nonlinearity='tanh', with biases")
    u = torch.nn.functional.linear(inputs, module.weight_ih_l0, module.bias_ih_l0)
    return kind, u, module.weight_hh_l0, module.bias_hh_l0


def run_loop(cell: str, u: Tensor, w: Tensor, b: Tensor | None = None, h0: Tensor | None = None) -> Tensor:
    """The same states (T, N, h) one step after the other, differentiable by autograd: the reference."""
    b = u.new_zeros(len(w)) if b is None else b
    x, states = u.new_zeros(u.shape[1], w.shape[-1]) if h0 is None else h0, []
    for step in u:
        x = CELLS[cell].step(x, step, w, b)
        states.append(x)
    return torch.stack(states)


def lyapunov_exponent(jacobians: Tensor, seed: int = 0) -> Tensor:
    """(1/T) log |J_T ... J_1 v| for a random unit v: the mean growth rate of a small difference; (T, ..., h, h) -> (...)."""
    h = jacobians.shape[-1]
    v = torch.randn(h, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(jacobians)
    v, total = (v / v.norm()).expand(*jacobians.shape[1:-2], h, 1), 0
    for J in jacobians:
        v = J @ v
        size = v.norm(dim=-2, keepdim=True)
        v, total = v / size, total + size.log()
    return total[..., 0, 0] / len(jacobians)


def amplification(
    cell: str, states: Tensor, u: Tensor, w: Tensor, b: Tensor | None = None, h0: Tensor | None = None, seed: int = 0
) -> float:
    """How far a small residual carries the states (T, N, h): max |d| of d_t = J_t d_{t-1} + e_t, e_t = +-1 at random, J_t at the states.

    A trajectory with residual r is right to about r times this number, and no method, the loop included, gets below the machine's epsilon
    times it. Of the order of ten for a cell that forgets; it grows exponentially with T where the Lyapunov exponent is positive. An
    estimate from one draw of signs, not a bound. Takes what :func:`solve` takes, computes in float64, overflows to inf.
    """
    b, h0, x = _prepare(cell, u, w, b, h0, states, "newton")
    x, u, w, b, h0 = (t.detach().double() for t in (x, u, w, b, h0))
    _, d, c = CELLS[cell].linearise(torch.cat([h0[None], x[:-1]]), u, w, b)
    signs = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(seed)).to(x) * 2 - 1
    carried = run_scan(Structured(d, c, w), signs, torch.zeros_like(h0))
    return float(torch.nan_to_num(carried, nan=torch.inf).abs().amax())
