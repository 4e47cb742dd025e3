"""Vector-quantized keys: codebooks, softmax attention over quantized keys in quadratic and in linear time, and its gradients.

Shapes: n tokens, block length l, m blocks, c codes, head sizes d_k and d_v; ``...`` are leading axes (batch, heads, runs). Scores are plain
dot products, without 1/sqrt(d_k). The method is Transformer-VQ (arXiv 2309.16354; post 9844); the exact gradient by scans is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

NEVER = -1e30  # a score that no softmax notices, and that stays finite in bfloat16
GRADIENTS = ("exact", "truncated")


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a (..., l, d) times b (..., d, k), accumulated and returned in float32 (float64 for float64)."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if not a.is_cuda:
        return a.float() @ b.float()
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (t.expand(*lead, *t.shape[-2:]) for t in (a, b))
    flat = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), out_dtype=torch.float32)
    return flat.view(*lead, *flat.shape[-2:])


# Codebooks


@torch.no_grad()
def nearest_code(keys: Tensor, codebook: Tensor, active: Tensor | None = None) -> Tensor:
    """Index of the nearest code of every key, the lowest one where several are as near: keys (..., n, d_k) -> (..., n), int64.

    ``codebook`` (c, d_k) or (..., c, d_k) with the keys' leading axes, or ones that broadcast to them. ``active`` (..., c), where given,
    is false at codes that must not be used. Raises ValueError for sizes that do not match and for an empty codebook.
    """
    if codebook.ndim < 2 or keys.ndim < 2 or keys.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"keys {tuple(keys.shape)} and codebook {tuple(codebook.shape)}: give (..., n, d) and (..., c, d) of one d")
    if not codebook.shape[-2]:
        raise ValueError("the codebook is empty; give at least one code")
    half = codebook.to(_accumulator(codebook.dtype)).square().sum(-1) / 2  # |K - C|^2 = |K|^2 + 2 (|C|^2/2 - K.C)
    if active is not None:
        half = half.masked_fill(~active, torch.inf)
    codebook = codebook.to(keys.dtype)
    rows = max(1, 2**27 // (codebook.shape[-2] * max(1, keys.shape[:-2].numel())))
    parts = []
    for part in keys.split(rows, -2):
        scores = _product(part, codebook.mT)
        parts.append(torch.sub(half[..., None, :], scores, out=scores).argmin(-1))
    return torch.cat(parts, -1)


def decode(codes: Tensor, codebook: Tensor) -> Tensor:
    """The rows of the codebook that ``codes`` name: (..., n) and (c, d) or (..., c, d) -> (..., n, d)."""
    if codebook.ndim == 2:
        return codebook[codes]
    table = codebook.expand(*codes.shape[:-1], *codebook.shape[-2:])
    return table.gather(-2, codes[..., None].expand(*codes.shape, codebook.shape[-1]))


def code_sums(codes: Tensor, rows: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """Sum of the rows of each code and how many they are: codes (..., n), rows (..., n, d) -> (..., c, d), (..., c).

    Delta^T rows and Delta^T 1 for the one-hot matrix Delta of the codes, without building it.
    """
    lead, d = rows.shape[:-2], rows.shape[-1]
    shift = torch.arange(max(1, lead.numel()), device=codes.device).view(*lead, 1) * c if lead else 0
    at = (codes + shift).reshape(-1)
    total = max(1, lead.numel()) * c
    sums = torch.zeros(total, d, dtype=rows.dtype, device=rows.device).index_add_(0, at, rows.reshape(-1, d))
    counts = torch.zeros(total, dtype=rows.dtype, device=rows.device).index_add_(0, at, rows.new_ones(at.shape))
    return sums.view(*lead, c, d), counts.view(*lead, c)


@torch.no_grad()
def kmeans(x: Tensor, c: int, generator: torch.Generator, steps: int = 10) -> Tensor:
    """Codebook (..., c, d) for the rows x (..., n, d) after ``steps`` of Lloyd's algorithm, each leading index by itself.

    Starts from rows drawn one by one with probability proportional to the squared distance to the ones already drawn (k-means++,
    Arthur and Vassilvitskii 2007). A code that loses all its rows keeps its place. Raises ValueError unless 1 <= c <= n.
    """
    n = x.shape[-2]
    if not 1 <= c <= n:
        raise ValueError(f"{c} codes for {n} rows: give 1 to {n}")
    if steps < 0:
        raise ValueError(f"steps={steps}: give 0 or more")
    flat = x.reshape(-1, n, x.shape[-1])
    draw = torch.rand(c, len(flat), 1, generator=generator, device=generator.device, dtype=torch.float64).to(x)
    first = (draw[0] * n).long().clamp_max(n - 1)
    codes = [flat.gather(1, first[..., None].expand(-1, 1, flat.shape[-1]))]
    far = (flat - codes[0]).square().sum(-1)
    for u in draw[1:]:
        ladder = far.cumsum(-1)
        at = torch.searchsorted(ladder, u * ladder[:, -1:]).clamp_max(n - 1)
        codes.append(flat.gather(1, at[..., None].expand(-1, 1, flat.shape[-1])))
        far = torch.minimum(far, (flat - codes[-1]).square().sum(-1))
    book = torch.cat(codes, 1)
    for _ in range(steps):
        sums, counts = code_sums(nearest_code(flat, book), flat, c)
        book = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1)[..., None], book)
    return book.view(*x.shape[:-2], c, x.shape[-1])


class EMACodebook(nn.Module):
    """A codebook that follows its keys by exponential moving averages; it has buffers and no parameter.

    S <- gamma S + (1 - gamma) sum of the keys of each code, N <- gamma N + (1 - gamma) their number, code = S / max(N, floor): the rule
    of VQ-VAE (arXiv 1711.00937, appendix A.1) with the floor 0.01 and the start N = 1 of Transformer-VQ's reference code. ``start``
    (..., c, d) are the first codes; ``active`` as in :func:`nearest_code`. Raises ValueError unless 0 <= gamma < 1 and floor > 0.
    """

    def __init__(self, start: Tensor, gamma: float = 0.99, floor: float = 0.01, active: Tensor | None = None):
        super().__init__()
        if not 0 <= gamma < 1 or not floor > 0:
            raise ValueError(f"gamma={gamma}, floor={floor}: give 0 <= gamma < 1 and floor > 0")
        self.gamma, self.floor = gamma, floor
        self.register_buffer("sums", start.detach().clone())
        self.register_buffer("counts", start.new_ones(start.shape[:-1]))
        self.register_buffer("active", active)

    @property
    def codes(self) -> Tensor:
        """The codebook (..., c, d)."""
        return self.sums / self.counts.clamp_min(self.floor)[..., None]

    def nearest(self, keys: Tensor) -> Tensor:
        """:func:`nearest_code` of the keys (..., n, d)."""
        return nearest_code(keys, self.codes, self.active)

    @torch.no_grad()
    def update(self, keys: Tensor, codes: Tensor) -> None:
        """One step of the averages with the keys (..., n, d) that have the given codes (..., n)."""
        sums, counts = code_sums(codes, keys.detach().to(self.sums.dtype), self.counts.shape[-1])
        self.sums.lerp_(sums, 1 - self.gamma)
        self.counts.lerp_(counts, 1 - self.gamma)


def straight_through(x: Tensor, x_hat: Tensor) -> Tensor:
    """The value of ``x_hat`` with the gradient of ``x`` (Bengio, Leonard and Courville, arXiv 1308.3432), in the common shape."""
    return _StraightThrough.apply(x, x_hat)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, x_hat):
        if x.shape != x_hat.shape:
            raise ValueError(f"x {tuple(x.shape)} and x_hat {tuple(x_hat.shape)} must have one shape")
        return x_hat.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


# Attention


def toeplitz_bias(bias: Tensor, distance: Tensor) -> Tensor:
    """Additive bias of pairs at ``distance`` i - j (any shape, int64): ``bias[t]`` at t = 0..len(bias) - 1, 0 beyond, NEVER below 0."""
    w = len(bias) - 1
    inside = bias[distance.clamp(0, w)]
    return torch.where(distance < 0, NEVER, torch.where(distance > w, 0.0, inside)).to(bias.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, codebook: Tensor, block: int, bias: Tensor | None, gradient: str) -> None:
    if not (q.shape == k.shape and q.ndim >= 2 and v.shape[:-1] == q.shape[:-1] and q.shape[-2]):
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: give (..., n, d_k) twice and (..., n, d_v), n >= 1")
    if codebook.ndim < 2 or codebook.shape[-1] != q.shape[-1] or not codebook.shape[-2]:
        raise ValueError(f"codebook {tuple(codebook.shape)}: give (..., c, {q.shape[-1]}) with at least one code")
    if block < 1:
        raise ValueError(f"block={block}: give at least 1 token a block")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r}: give one of {', '.join(map(repr, GRADIENTS))}")
    if bias is not None and not (bias.ndim == 1 and 1 <= len(bias) <= block + 1):
        raise ValueError(f"bias {tuple(bias.shape)}: give (w + 1,) with 0 <= w <= block = {block}; a wider window reaches a third block")


def dense_vq_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codebook: Tensor,
    *,
    block: int,
    bias: Tensor | None = None,
    gradient: str = "truncated",
    codes: Tensor | None = None,
) -> Tensor:
    """:func:`vq_attention` as one masked softmax over all n^2 scores, differentiated by autograd: the definition, for tests and small n."""
    _check(q, k, v, codebook, block, bias, gradient)
    codes = nearest_code(k, codebook) if codes is None else codes
    k_hat = straight_through(k, decode(codes, codebook.to(k.dtype)))
    place = torch.arange(q.shape[-2], device=q.device)
    distance = place[:, None] - place
    far = place[:, None] // block - place // block >= 2
    scores = q @ k_hat.mT
    if gradient == "truncated":
        scores = torch.where(far, q @ k_hat.detach().mT, scores)
    p = torch.softmax(scores + toeplitz_bias(q.new_zeros(1) if bias is None else bias, distance), -1)
    if gradient == "exact":
        return p @ v
    return p.masked_fill(far, 0) @ v + p.masked_fill(~far, 0) @ v.detach()


def vq_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codebook: Tensor,
    *,
    block: int,
    bias: Tensor | None = None,
    gradient: str = "truncated",
    codes: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Causal softmax attention over quantized keys in linear time and memory, forward and backward: (..., n, d_v).

    ``q``, ``k`` (..., n, d_k), ``v`` (..., n, d_v), ``codebook`` (c, d_k) or one that broadcasts to (..., c, d_k); n need not divide by
    ``block``. A query sees the quantized keys of its own and the previous block one by one, all older ones through the count and the mean
    value of each code. ``bias`` (w + 1,), w <= block, is added to the scores at distance 0..w. ``codes`` (..., n) are the keys' codes
    where they are known.

    The keys get straight-through gradients, the codebook none. ``gradient="truncated"`` sends none to keys and values of older blocks
    (the paper's choice: time O(n (l + c) (d_k + d_v))); ``"exact"`` sends all of it, at O(n c d_k d_v) more. Blocks are worked on
    ``chunk`` at a time (default: what 2^27 numbers hold); the backward pass computes scores and sums again, from sums kept once a chunk.

    Raises ValueError for shapes that do not match, a window wider than a block, or an unknown ``gradient``.
    """
    _check(q, k, v, codebook, block, bias, gradient)
    codes = nearest_code(k, codebook) if codes is None else codes
    *lead, n, d_k = q.shape
    c, d_v, rest = codebook.shape[-2], v.shape[-1], -n % block
    codebook = codebook.detach().to(q.dtype).expand(*lead, c, d_k).reshape(-1, c, d_k)
    q, k, v = (nn.functional.pad(t.reshape(-1, n, t.shape[-1]), (0, 0, 0, rest)).unflatten(1, (-1, block)) for t in (q, k, v))
    codes = nn.functional.pad(codes.expand(*lead, n).reshape(-1, n), (0, rest), value=-1).unflatten(1, (-1, block))
    if chunk is None:
        chunk = 2**27 // (len(q) * (block + d_v) * (c + 2 * block))
    chunk = min(max(1, chunk), q.shape[1])
    out = _Blockwise.apply(q, k, v, bias, codebook, codes, chunk, gradient == "exact")
    return out.flatten(1, 2)[:, :n].view(*lead, n, d_v)


def fused_vq_attention(q: Tensor, k: Tensor, v: Tensor, codebook: Tensor, *, block: int, codes: Tensor | None = None) -> Tensor:
    """:func:`vq_attention` with the truncated gradient and no bias, as one call of torch's fused attention: (..., n, d_v).

    Each block of queries is a sequence of its own, whose keys are the codes, the previous block and the block itself, aligned at the end:
    causal attention then hides what comes after the query, and never a code. The log count of a code joins its score through two more
    columns, 1 in the queries and log N in the keys; the second carries what the first loses in bfloat16. Time is linear in n, as are
    the keys and values of all blocks, (c + 2 block) (d_k + d_v) numbers a block, which are all kept at once. Made for a GPU, where
    ``torch.compile`` makes it faster still. Arguments and errors as in :func:`vq_attention`.
    """
    _check(q, k, v, codebook, block, None, "truncated")
    codes = nearest_code(k, codebook) if codes is None else codes
    *lead, n, d_k = q.shape
    c, d_v, rest = codebook.shape[-2], v.shape[-1], -n % block
    table = codebook.detach().to(q.dtype).expand(*lead, c, d_k)
    k_hat = straight_through(k, decode(codes, table))
    q, k_hat, v = (nn.functional.pad(t.reshape(-1, n, t.shape[-1]), (0, 0, 0, rest)).unflatten(1, (-1, block)) for t in (q, k_hat, v))
    codes = nn.functional.pad(codes.expand(*lead, n).reshape(-1, n), (0, rest), value=-1).unflatten(1, (-1, block))
    (B, m), acc = codes.shape[:2], _accumulator(q.dtype)

    with torch.no_grad():
        hot = codes[..., None] == torch.arange(c, device=q.device)  # (B, m, l, c)
        counts = _older(hot.sum(2, dtype=acc))
        means = _older(_product(hot.to(v.dtype).mT, v)) / counts.clamp_min(1)[..., None]
        log_N = torch.where(counts > 0, counts.clamp_min(1).log(), NEVER)
        columns = q.new_zeros(B, m, c + 2 * block, 2)
        columns[:, :, :c, 0] = log_N
        columns[:, :, :c, 1] = log_N - columns[:, :, :c, 0]
        columns[:, 0, c : c + block, 0] = NEVER  # there is no block before the first
        size = -(-max(d_k + 2, d_v) // 8) * 8  # fused kernels want one size, a multiple of 8

    own = torch.cat([q, q.new_ones(B, m, block, 2)], -1)
    keys = torch.cat([torch.cat([table.reshape(B, 1, c, d_k).expand(B, m, c, d_k), _previous(k_hat), k_hat], 2), columns], -1)
    values = torch.cat([means.to(v.dtype), _previous(v), v], 2)
    own, keys, values = (nn.functional.pad(t, (0, size - t.shape[-1])) for t in (own, keys, values))
    y = nn.functional.scaled_dot_product_attention(own, keys, values, attn_mask=causal_lower_right(block, c + 2 * block), scale=1.0)
    return y[..., :d_v].flatten(1, 2)[:, :n].reshape(*lead, n, d_v)


def _previous(x: Tensor) -> Tensor:
    """x (B, m, ...) moved on by one block; zeros stand before the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def _older(x: Tensor) -> Tensor:
    """Sums of x (B, m, ...) over the blocks up to two before each."""
    return _previous(_previous(x)).cumsum(1)


def _shifted(x: Tensor, start: int, stop: int, fill: float = 0) -> Tensor:
    """Blocks start - 1 .. stop - 2 of x (B, m, ...); a block -1 holds ``fill``."""
    if start:
        return x[:, start - 1 : stop - 1]
    return torch.cat([torch.full_like(x[:, :1], fill), x[:, : stop - 1]], 1)


class _Blockwise(torch.autograd.Function):
    """:func:`vq_attention` on blocks: q, k (B, m, l, d_k), v (B, m, l, d_v), codebook (B, c, d_k), codes (B, m, l), -1 at padding."""

    @staticmethod
    def _tables(v, codebook, codes, U, N, start, stop):
        """Keys, values and log counts that the query blocks start..stop-1 see, in the order codes, previous block, own block.

        ``U`` (B, c, d_v) and ``N`` (B, c) sum the blocks up to start - 2; returns the sums for the next chunk too.
        """
        B, c, d_k = codebook.shape
        g, l = stop - start, v.shape[2]
        before, own = _shifted(codes, start, stop, -1), codes[:, start:stop]
        v_before = _shifted(v, start, stop)
        hot = before[..., None] == torch.arange(c, device=v.device)  # (B, g, l, c): Delta of the previous blocks
        sums = torch.cat([U[:, None], _product(hot.to(v.dtype).mT, v_before)], 1).cumsum(1)  # Delta^T V, block after block
        counts = torch.cat([N[:, None], hot.sum(2, dtype=N.dtype)], 1).cumsum(1)
        Ns = counts[:, :-1]
        values = v.new_empty(B, g, c + 2 * l, v.shape[-1])
        torch.div(sums[:, :-1], Ns.clamp_min(1)[..., None], out=values[:, :, :c])
        values[:, :, c : c + l], values[:, :, c + l :] = v_before, v[:, start:stop]
        near = torch.cat([before, own], 2).clamp_min(0).view(B, -1)
        near = decode(near, codebook).view(B, g, 2 * l, d_k)
        keys = torch.cat([codebook[:, None].expand(B, g, c, d_k), near], 2)
        log_N = torch.where(Ns > 0, Ns.clamp_min(1).log(), NEVER)
        return keys, values, log_N, Ns, sums[:, -1].clone(), counts[:, -1].clone()

    @staticmethod
    def _weights(q, keys, log_N, local, start):
        """Softmax weights (B, g, l, c + 2l) of the query blocks q (B, g, l, d_k), in the accumulator's precision."""
        c, l = log_N.shape[-1], q.shape[2]
        scores = _product(q, keys.mT)
        scores[..., :c] += log_N[:, :, None]
        scores[..., c:] += local
        if not start:
            scores[:, 0, :, c : c + l] = NEVER  # there is no block before the first
        return torch.softmax(scores, -1)

    @staticmethod
    def _local(q, bias):
        """Mask and bias (l, 2l) of a block and the one before it, and the distances that they belong to."""
        l = q.shape[2]
        place = torch.arange(2 * l, device=q.device)
        distance = place[:l, None] + l - place
        bias = torch.zeros(1, device=q.device) if bias is None else bias
        return toeplitz_bias(bias.to(_accumulator(q.dtype)), distance), distance

    @staticmethod
    def forward(ctx, q, k, v, bias, codebook, codes, chunk, exact):
        B, m = q.shape[:2]
        c, acc = codebook.shape[1], _accumulator(q.dtype)
        U, N = q.new_zeros(B, c, v.shape[-1], dtype=acc), q.new_zeros(B, c, dtype=acc)
        local, _ = _Blockwise._local(q, bias)
        out, kept = torch.empty_like(v), []
        for start in range(0, m, chunk):
            stop = min(m, start + chunk)
            kept += [U, N]
            keys, values, log_N, _, U, N = _Blockwise._tables(v, codebook, codes, U, N, start, stop)
            p = _Blockwise._weights(q[:, start:stop], keys, log_N, local, start)
            out[:, start:stop] = p.to(v.dtype) @ values
            del p, keys, values
        ctx.save_for_backward(q, v, bias, codebook, codes, out, *kept)
        ctx.chunk, ctx.exact = chunk, exact
        return out

    @staticmethod
    def backward(ctx, grad):
        q, v, bias, codebook, codes, out, *kept = ctx.saved_tensors
        m, l, c = q.shape[1], q.shape[2], codebook.shape[1]
        local, distance = _Blockwise._local(q, bias)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(q), torch.zeros_like(v)
        d_local = torch.zeros_like(local)
        scan = _Suffix(q, v, codes, c) if ctx.exact else None
        starts = range(0, m, ctx.chunk)
        for i, start in reversed(list(enumerate(starts))):
            stop = min(m, start + ctx.chunk)
            at = slice(start, stop)
            keys, values, log_N, Ns, _, _ = _Blockwise._tables(v, codebook, codes, kept[2 * i], kept[2 * i + 1], start, stop)
            p = _Blockwise._weights(q[:, at], keys, log_N, local, start)
            g = grad[:, at]
            mean = (g.to(p.dtype) * out[:, at].to(p.dtype)).sum(-1, keepdim=True)  # g_i . o_i
            ds = _product(g, values.mT).sub_(mean).mul_(p)
            if bias is not None:
                d_local += ds[..., c:].sum((0, 1))
            if scan is not None:
                scan.step(p[..., :c] / Ns.clamp_min(1)[:, :, None], g, mean, start, stop, dk, dv)
            p, ds = p[..., c:].to(v.dtype), ds.to(q.dtype)
            dq[:, at] = ds @ keys
            dk_near, dv_near = ds[..., c:].mT @ q[:, at], p.mT @ g
            for total, near in ((dk, dk_near), (dv, dv_near)):
                total[:, at] += near[:, :, l:]
                first = 1 if start == 0 else 0
                total[:, start - 1 + first : stop - 1] += near[:, first:, :l]
            del keys, values, p, ds
        d_bias = None
        if bias is not None:
            inside = (distance >= 0) & (distance < len(bias))
            d_bias = torch.zeros_like(bias, dtype=d_local.dtype).index_add_(0, distance[inside], d_local[inside]).to(bias.dtype)
        return dq, dk, dv, d_bias, None, None, None, None


class _Suffix:
    """The three suffix sums of the exact gradient, code by code, over the query blocks from the last one down.

    With w_is = exp(q_i . C_s) / D_i and the gradient g_i of output i: G_s = sum w_is g_i (c, d_v), M_s = sum w_is q_i g_i^T (c, d_k, d_v)
    and R_s = sum w_is (g_i . o_i) q_i (c, d_k). A key j two blocks back gets M_z v_j - R_z, its value G_z, with z the code of j.
    """

    def __init__(self, q, v, codes, c):
        B, _, _, d_k = q.shape
        acc, d_v = _accumulator(q.dtype), v.shape[-1]
        self.q, self.v, self.codes, self.acc = q, v, codes, acc
        self.G = q.new_zeros(B, c, d_v, dtype=acc)
        self.M = q.new_zeros(B, c, d_k, d_v, dtype=acc)
        self.R = q.new_zeros(B, c, d_k, dtype=acc)

    def step(self, w, g, mean, start, stop, dk, dv):
        """Take in the query blocks start..stop-1 (w (B, blocks, l, c)) and add what their keys two blocks back get to dk and dv."""
        for block in reversed(range(max(start, 2), stop)):
            i, j = block - start, block - 2
            q, gi = self.q[:, block].to(self.acc), g[:, i].to(self.acc)
            self.G += w[:, i].mT @ gi
            self.R += (w[:, i] * mean[:, i]).mT @ q
            pairs = (w[:, i, :, :, None] * q[:, :, None]).flatten(2)  # (B, l, c d_k)
            self.M += (pairs.mT @ gi).view_as(self.M)
            z, vj = self.codes[:, j], self.v[:, j].to(self.acc)
            M = decode(z, self.M.flatten(2)).view(*z.shape, *self.M.shape[2:])
            dk[:, j] += ((M @ vj[..., None]).squeeze(-1) - decode(z, self.R)).to(dk.dtype)
            dv[:, j] += decode(z, self.G).to(dv.dtype)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, stop: Tensor) -> Tensor:
    """softmax(q k^T + mask) v with a backward pass in which the pairs that ``stop`` marks send no gradient to their key and value.

    q, k (..., n, d_k), v (..., n, d_v); ``mask`` (a float, may want a gradient), ``stop`` (bool) broadcast to (..., n, n). Queries get the
    gradient of all pairs. Quadratic: for experiments in which arms of one stack differ in what they see and learn from.
    """
    if stop.dtype != torch.bool:
        raise ValueError(f"stop has the dtype {stop.dtype}; give booleans")
    return _Stopped.apply(q, k, v, mask, stop)


class _Stopped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mask, stop):
        p = torch.softmax(q @ k.mT + mask, -1)
        ctx.save_for_backward(q, k, v, p, stop)
        ctx.mask = mask.shape if mask.requires_grad else None
        return p @ v

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p, stop = ctx.saved_tensors
        dp = grad @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
        d_mask = None if ctx.mask is None else ds.sum_to_size(ctx.mask)
        return ds @ k, ds.masked_fill(stop, 0).mT @ q, p.masked_fill(stop, 0).mT @ grad, d_mask, None
