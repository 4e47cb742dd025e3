"""Codebooks against scipy, attention over quantized keys against loops and torch's own, gradients against autograd, costs by counting."""

import math

import numpy as np
import pytest
import scipy.cluster.vq
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kexue_nb import vq


def gauss(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def operands(lead, n, d_k, d_v, c, w=None, dtype=torch.float64):
    q, k, v = (gauss(*lead, n, d, seed=s, dtype=dtype).requires_grad_() for s, d in enumerate((d_k, d_k, d_v)))
    bias = None if w is None else gauss(w + 1, seed=3, dtype=dtype).requires_grad_()
    return q, k, v, gauss(c, d_k, seed=4, dtype=dtype), bias


# Codebooks


def test_nearest_code_against_scipy_on_every_leading_index():
    keys, book = gauss(2, 3, 40, 5), gauss(3, 7, 5, seed=1)
    codes = vq.nearest_code(keys, book)
    for i in range(2):
        for h in range(3):
            assert np.array_equal(codes[i, h], scipy.cluster.vq.vq(keys[i, h].numpy(), book[h].numpy())[0])
    assert torch.equal(vq.nearest_code(keys, book[0]), vq.nearest_code(keys, book[0].expand(2, 3, 7, 5)))


def test_nearest_code_takes_the_lowest_of_equals_and_only_active_codes():
    book = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 3]])
    assert vq.nearest_code(torch.tensor([[1.0, 0], [0, 1.9], [0, 2.1]]), book).tolist() == [0, 2, 3]
    assert vq.nearest_code(torch.tensor([[1.0, 0], [0, 2.1]]), book, torch.tensor([False, True, True, False])).tolist() == [1, 2]


def test_decode_and_code_sums_against_one_hot_matrices():
    codes = torch.randint(4, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    rows, hot = gauss(2, 3, 9, 5), F.one_hot(codes, 4).double()
    sums, counts = vq.code_sums(codes, rows, 4)
    assert torch.allclose(sums, hot.mT @ rows)
    assert torch.equal(counts, hot.sum(-2))
    for book in (gauss(4, 5, seed=1), gauss(3, 4, 5, seed=1), gauss(2, 3, 4, 5, seed=1)):
        assert torch.equal(vq.decode(codes, book), hot @ book)
    sums, counts = vq.code_sums(codes[0, 0], rows[0, 0], 4)
    assert torch.allclose(sums, hot[0, 0].T @ rows[0, 0])


def test_kmeans_against_scipy_from_the_same_start():
    x = gauss(2, 60, 3)
    start, end = (vq.kmeans(x, 4, torch.Generator().manual_seed(0), steps) for steps in (0, 6))
    for i in range(2):
        wanted, _ = scipy.cluster.vq.kmeans2(x[i].numpy(), start[i].numpy(), iter=6, minit="matrix")
        assert np.allclose(end[i], wanted)
        assert all((x[i] == code).all(1).any() for code in start[i])
    assert torch.allclose(vq.kmeans(x, 1, torch.Generator(), 1), x.mean(1, keepdim=True))


def test_kmeans_starts_far_apart():
    clumps = torch.cat([gauss(30, 2, seed=s) * 0.01 + 10 * torch.tensor([s, s * s % 5]) for s in range(4)])
    for seed in range(10):
        start = vq.kmeans(clumps, 4, torch.Generator().manual_seed(seed), steps=0)
        assert len((start / 10).round().unique(dim=0)) == 4
    first = [tuple(vq.kmeans(clumps, 1, torch.Generator().manual_seed(seed), steps=0)[0].tolist()) for seed in range(10)]
    assert len(set(first)) > 7  # drawn from all 120 rows
    spare = vq.kmeans(torch.full((5, 2), 3.0), 3, torch.Generator().manual_seed(0))  # equal rows: codes without keys stay where they are
    assert torch.equal(spare, torch.full((3, 2), 3.0))


def test_ema_codebook_by_its_rule_and_its_limit():
    keys, start = gauss(20, 3), gauss(4, 3, seed=1)
    codes = torch.arange(20) % 3  # code 3 gets no key
    book = vq.EMACodebook(start, gamma=0.8)
    S, N = start.clone(), torch.ones(4)
    for _ in range(40):
        book.update(keys, codes)
        for s in range(4):
            mine = keys[codes == s]
            S[s], N[s] = 0.8 * S[s] + 0.2 * mine.sum(0), 0.8 * N[s] + 0.2 * len(mine)
        assert torch.allclose(book.codes, S / N.clamp_min(0.01)[:, None])
    centroids = torch.stack([keys[codes == s].mean(0) for s in range(3)])
    assert torch.allclose(book.codes[:3], centroids, atol=1e-2)
    assert book.codes[3].norm() < 0.05 * start[3].norm()  # below the floor an unused code shrinks
    assert not list(book.parameters())
    assert torch.equal(book.nearest(keys), vq.nearest_code(keys, book.codes))


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    x, x_hat = gauss(4, 3).requires_grad_(), gauss(4, 3, seed=1).requires_grad_()
    y = vq.straight_through(x, x_hat)
    assert torch.equal(y, x_hat)
    gx, g_hat = torch.autograd.grad((y * torch.arange(3)).sum(), (x, x_hat), allow_unused=True)
    assert torch.equal(gx, torch.arange(3.0).expand(4, 3).double())
    assert g_hat is None
    with pytest.raises(ValueError, match="one shape"):
        vq.straight_through(x, x_hat[:2])


# Attention


def by_loops(q, k, v, book, block, bias, truncated):
    """One query after the other, differentiable: the definition in words."""
    rows = []
    codes = [int((book - key).square().sum(1).argmin()) for key in k.detach()]
    for i in range(len(q)):
        logits, values = [], []
        for j in range(i + 1):
            key, value = k[j] + (book[codes[j]] - k[j]).detach(), v[j]
            if truncated and i // block - j // block >= 2:
                key, value = key.detach(), value.detach()
            logits.append(q[i] @ key + (bias[i - j] if bias is not None and i - j < len(bias) else 0))
            values.append(value)
        rows.append(torch.softmax(torch.stack(logits), 0) @ torch.stack(values))
    return torch.stack(rows)


@pytest.mark.parametrize("gradient", vq.GRADIENTS)
@pytest.mark.parametrize(
    ("n", "block", "w", "c", "chunk"), [(23, 4, 4, 6, 2), (17, 5, None, 3, None), (5, 8, 0, 4, 1), (12, 1, 1, 5, 3), (16, 4, 2, 1, 4)]
)
def test_value_and_gradients_against_loops(gradient, n, block, w, c, chunk):
    q, k, v, book, bias = operands((), n, 3, 4, c, w)
    inputs = [t for t in (q, k, v, bias) if t is not None]
    wanted = by_loops(q, k, v, book, block, bias, gradient == "truncated")
    weights = gauss(n, 4, seed=9)
    slow = torch.autograd.grad(wanted, inputs, weights)
    for attend in (vq.dense_vq_attention, lambda *a, **kw: vq.vq_attention(*a, **kw, chunk=chunk)):
        got = attend(q, k, v, book, block=block, bias=bias, gradient=gradient)
        assert torch.allclose(got, wanted, atol=1e-12)
        for a, b in zip(torch.autograd.grad(got, inputs, weights), slow, strict=True):
            assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "block", "d_k", "d_v", "c"), [(23, 4, 3, 4, 6), (17, 5, 8, 2, 3), (5, 8, 2, 11, 4), (12, 1, 6, 6, 5), (16, 4, 3, 3, 1)]
)
def test_the_fused_form_has_the_values_and_truncated_gradients_of_the_definition(n, block, d_k, d_v, c):
    q, k, v, _, _ = operands((2, 3), n, d_k, d_v, c)
    books, upstream = gauss(3, c, d_k, seed=5), gauss(2, 3, n, d_v, seed=9)
    got, wanted = (attend(q, k, v, books, block=block) for attend in (vq.fused_vq_attention, vq.dense_vq_attention))
    assert torch.allclose(got, wanted, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), upstream) for y in (got, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    codes = torch.randint(c, (2, 3, n), generator=torch.Generator().manual_seed(0))
    got, wanted = (attend(q, k, v, books, block=block, codes=codes) for attend in (vq.fused_vq_attention, vq.dense_vq_attention))
    assert torch.allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("gradient", vq.GRADIENTS)
def test_leading_axes_and_a_codebook_for_each_head(gradient):
    q, k, v, _, _ = operands((2, 3), 21, 4, 5, 1)
    books = gauss(3, 6, 4, seed=5)
    got = vq.vq_attention(q, k, v, books, block=4, gradient=gradient)
    grads = torch.autograd.grad(got, (q, k, v), torch.ones_like(got))
    for i in range(2):
        for h in range(3):
            alone = vq.dense_vq_attention(q[i, h], k[i, h], v[i, h], books[h], block=4, gradient=gradient)
            assert torch.allclose(got[i, h], alone, atol=1e-12)
            for a, b in zip(grads, torch.autograd.grad(alone, (q, k, v), torch.ones_like(alone)), strict=True):
                assert torch.allclose(a[i, h], b[i, h], atol=1e-12)


def test_the_output_is_torchs_attention_over_the_quantized_keys():
    q, k, v, book, _ = operands((2, 3), 50, 8, 6, 7, dtype=torch.float32)
    k_hat = book[vq.nearest_code(k, book)]
    wanted = F.scaled_dot_product_attention(q, k_hat, v, is_causal=True, scale=1.0)
    assert torch.allclose(vq.vq_attention(q, k, v, book, block=8), wanted, atol=1e-5)
    codes = torch.zeros(2, 3, 50, dtype=torch.long)
    wanted = F.scaled_dot_product_attention(q, book[codes], v, is_causal=True, scale=1.0)
    assert torch.allclose(vq.vq_attention(q, k, v, book, block=8, codes=codes), wanted, atol=1e-5)


def test_large_scores_do_not_overflow():
    q, k, v, book, _ = operands((), 40, 4, 3, 6, dtype=torch.float32)
    for attend in (vq.vq_attention, vq.fused_vq_attention):
        got = attend(60 * q, k, v, 5 * book, block=4)
        assert torch.isfinite(got).all()
        assert torch.allclose(got, vq.dense_vq_attention(60 * q, k, v, 5 * book, block=4), atol=1e-4)


@pytest.mark.parametrize("attend", [vq.vq_attention, vq.fused_vq_attention])
def test_bfloat16_within_its_rounding(attend):
    q, k, v, book, _ = operands((2,), 70, 8, 16, 9, dtype=torch.float32)
    half = [t.detach().bfloat16().requires_grad_() for t in (q, k, v)]
    full = [t.detach().float().requires_grad_() for t in half]
    codes = vq.nearest_code(half[1], book)
    got = attend(*half, book, block=16, codes=codes)
    wanted = vq.dense_vq_attention(*full, book.bfloat16().float(), block=16, codes=codes)
    assert got.dtype == torch.bfloat16
    pairs = zip(
        (got, *torch.autograd.grad(got.float().square().sum(), half)),
        (wanted, *torch.autograd.grad(wanted.square().sum(), full)),
        strict=True,
    )
    for a, b in pairs:
        assert (a.float() - b).norm() < 0.02 * b.norm()


def test_the_fused_form_keeps_log_counts_that_bfloat16_alone_would_round():
    codes = torch.tensor([0] * 89 + [1] * 88 + [0, 1])  # log 89 rounds up by 0.011 and log 88 down by 0.009
    v = (1.0 - 2 * codes)[:, None].bfloat16()
    zero = torch.zeros(len(codes), 1).bfloat16()
    got = vq.fused_vq_attention(zero, zero, v, zero[:2], block=1, codes=codes)[-1]
    assert float(got) == pytest.approx(float(v.double().mean()), abs=3e-3)


@pytest.mark.parametrize("gradient", vq.GRADIENTS)
def test_time_and_memory_are_linear_forward_and_backward(gradient):
    costs = {}
    for n in (256, 512, 1024):
        q, k, v, book, bias = operands((), n, 4, 6, 5, 8, dtype=torch.float32)
        largest, kept = [0], [0]

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None, largest=largest):
                out = func(*args, **(kwargs or {}))
                largest[0] = max(
                    [largest[0], *(t.untyped_storage().nbytes() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))]
                )
                return out

        def pack(t, kept=kept):
            kept[0] += t.numel() * t.element_size()
            return t

        with FlopCounterMode(display=False) as flops, Sizes(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            vq.vq_attention(q, k, v, book, block=8, bias=bias, gradient=gradient, chunk=4).sum().backward()
        costs[n] = flops.get_total_flops(), kept[0], largest[0]
    (f1, s1, l1), (f2, s2, l2), (f3, s3, l3) = costs.values()
    assert f3 - f2 == pytest.approx(2 * (f2 - f1), rel=1e-6)
    assert s3 - s2 == pytest.approx(2 * (s2 - s1), rel=1e-6)
    assert f3 < 2.1 * f2
    assert s3 < 2.1 * s2
    assert l3 <= max(2 * l2, l1)  # no tensor grows faster than n; an (n, n) matrix would hold 4 MB
    assert l3 < 1024 * 1024 * 4 / 8


def test_masked_attention_against_detached_pairs():
    q, k, v, _, _ = operands((2, 3), 9, 4, 5, 1)
    mask = gauss(2, 1, 9, 9, seed=7).requires_grad_()
    stop = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    p = torch.softmax(torch.where(stop, q @ k.detach().mT, q @ k.mT) + mask, -1)
    wanted = p.masked_fill(stop, 0) @ v + p.masked_fill(~stop, 0) @ v.detach()
    got = vq.masked_attention(q, k, v, mask, stop)
    assert torch.allclose(got, wanted, atol=1e-12)
    weights = gauss(2, 3, 9, 5, seed=8)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v, mask), weights) for y in (got, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_toeplitz_bias_by_hand():
    got = vq.toeplitz_bias(torch.tensor([5.0, 7.0]), torch.tensor([-1, 0, 1, 2, 9]))
    assert got.tolist() == [pytest.approx(vq.NEVER), 5, 7, 0, 0]


# Bad input


def test_bad_input_is_refused_with_what_was_given():
    q, k, v, book, _ = operands((2,), 8, 3, 4, 5)
    for changed, words in (
        ({"k": k[:, :4]}, "twice"),
        ({"v": v[:, :4]}, "twice"),
        ({"q": q[:, :0], "k": k[:, :0], "v": v[:, :0]}, "n >= 1"),
        ({"codebook": book[:, :2]}, "at least one code"),
        ({"codebook": book[:0]}, "at least one code"),
        ({"block": 0}, "block=0"),
        ({"gradient": "exakt"}, "exakt"),
        ({"bias": torch.zeros(6)}, "third block"),
        ({"bias": torch.zeros(2, 2)}, "bias"),
    ):
        arguments = {"q": q, "k": k, "v": v, "codebook": book, "block": 4} | changed
        for attend in (vq.vq_attention, vq.dense_vq_attention):
            with pytest.raises(ValueError, match=words):
                attend(**arguments)
        if not {"gradient", "bias"} & set(changed):
            with pytest.raises(ValueError, match=words):
                vq.fused_vq_attention(**arguments)
    with pytest.raises(ValueError, match="one d"):
        vq.nearest_code(q, book[:, :2])
    with pytest.raises(ValueError, match="empty"):
        vq.nearest_code(q, book[:0])
    for c in (0, 9):
        with pytest.raises(ValueError, match=f"{c} codes for 8 rows"):
            vq.kmeans(k, c, torch.Generator())
    with pytest.raises(ValueError, match="steps=-1"):
        vq.kmeans(k, 2, torch.Generator(), -1)
    for gamma, floor in ((1.0, 0.01), (-0.1, 0.01), (0.9, 0.0), (math.nan, 0.01)):
        with pytest.raises(ValueError, match="gamma"):
            vq.EMACodebook(book, gamma, floor)
    with pytest.raises(ValueError, match="booleans"):
        vq.masked_attention(q, k, v, torch.zeros(8, 8), torch.zeros(8, 8))


def test_the_last_row_can_become_a_code():
    rows = torch.tensor([[0.0], [0.0], [0.0], [7.0]])
    for seed in range(8):
        codes = vq.kmeans(rows, 2, torch.Generator().manual_seed(seed), steps=0)
        assert sorted(codes[:, 0].tolist()) == [0.0, 7.0]
