"""Attention: over quantized keys in linear time, and one decoding step from a latent cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.paired import Case, Row, Work, gap
from kexue_nb import latent, vq

FAST = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def attention(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """torch's fused attention, on a GPU never the one that keeps all scores."""
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, **options)
    with sdpa_kernel(FAST):
        return F.scaled_dot_product_attention(q, k, v, **options)


# Quantized keys


def quantized(n: int, device: torch.device, backward: bool) -> Case:
    """Eight heads of 128 on a GPU in bfloat16 (65,536 tokens in all), two of 32 on a CPU in float32 (4,096 tokens); 512 and 64 codes.

    Ours also searches the codes of its keys. Least operations: scores and sums of a query with the codes and with one and a half blocks of
    keys; three and a half times that with the backward pass.
    """
    cuda = device.type == "cuda"
    tokens, heads, d, c, block = (65536, 8, 128, 512, 512) if cuda else (8192, 2, 32, 64, 128)
    dtype = torch.bfloat16 if cuda else torch.float32
    generator = torch.Generator(device).manual_seed(n)
    q, k, v = (torch.randn(tokens // n, heads, n, d, generator=generator, device=device).to(dtype) for _ in range(3))
    codebook = torch.randn(c, d, generator=generator, device=device)
    q = q * d**-0.5
    k_hat = vq.decode(vq.nearest_code(k, codebook), codebook.to(dtype))
    upstream = torch.randn(v.shape, generator=generator, device=device).to(dtype)
    inputs = [t.requires_grad_(backward) for t in (q, k, v)]

    def both(forward: Work) -> Work:
        def work() -> list[Tensor]:
            y = forward()
            return [y.detach(), *torch.autograd.grad(y, inputs[:1], upstream)] if backward else [y]

        return work

    def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
        return max(float((a.float() - b.float()).norm() / a.float().norm()) for a, b in zip(ours, theirs, strict=True))

    k_hat.requires_grad_(backward)
    peer = both(partial(attention, q, k_hat, v, is_causal=True, scale=1.0))
    if backward:  # the gradients of keys and values cost what they cost, though only that of the queries is the same function

        def peer() -> list[Tensor]:
            y = attention(q, k_hat, v, is_causal=True, scale=1.0)
            return [y.detach(), torch.autograd.grad(y, [q, k_hat, v], upstream)[0]]

        def ours() -> list[Tensor]:
            y = vq.vq_attention(q, k, v, codebook, block=block)
            return [y.detach(), torch.autograd.grad(y, [q, k, v], upstream)[0]]

    else:
        ours = both(partial(vq.vq_attention, q, k, v, codebook, block=block))
    return Case(
        n,
        ours,
        {"scaled_dot_product_attention": peer},
        operations=(3.5 if backward else 1) * 4 * tokens * heads * d * (c + 1.5 * block),
        moved=(3 if backward else 1) * 4 * v.nbytes,
        precision="bfloat16" if cuda else "float32",
        distance=distance,
    )


def lengths(device: torch.device, backward: bool = False) -> Iterator[Case]:
    """Sequences of 2,048 to 65,536 tokens on a GPU, of 512 to 8,192 on a CPU; the number of tokens in all stays the same."""
    for n in (2048, 8192, 32768, 65536) if device.type == "cuda" else (512, 2048, 8192):
        yield quantized(n, device, backward)


# Decoding


@torch.no_grad()
def decoding(n: int, device: torch.device) -> Case:
    """One new token for each sequence over n cached ones, one layer: MLA (d_c = 512, d_r = 64), 32 heads of 128, 8 sequences, bfloat16.

    On a CPU 8 heads of 32, d_c = 128, d_r = 16, one sequence, float32. Only the expanded form is the same function; MHA and GQA with as
    many heads compute another one and their answer is compared by its shape. The bytes are those of the latent cache and the maps.
    """
    cuda = device.type == "cuda"
    batch, heads, d, d_c, d_r, groups = (8, 32, 128, 512, 64, 8) if cuda else (1, 8, 32, 128, 16, 2)
    generator = torch.Generator(device).manual_seed(n)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape, generator=generator, device=device)).to(torch.bfloat16 if cuda else torch.float32)

    q_c, q_r = normal(batch, heads, 1, d), normal(batch, heads, 1, d_r)
    cached = normal(batch, n, d_c + d_r)
    w_k, w_v = (normal(heads, d_c, d, std=d_c**-0.5) for _ in range(2))
    keys, values = (normal(batch, heads, n, d) for _ in range(2))
    few_keys, few_values = (t[:, :groups].contiguous() for t in (keys, values))

    def ours() -> Tensor:
        return latent.absorbed(q_c, q_r, cached, w_k, w_v, 8 if cuda else 1)

    def expanded() -> Tensor:
        return latent.expanded(q_c, q_r, cached[..., :d_c], cached[..., d_c:], w_k, w_v)

    def distance(a: Tensor, b: Tensor | tuple) -> float:
        if isinstance(b, tuple):
            return 0.0 if a.shape == b[0].shape else float("inf")
        return gap(a.float(), b.float())

    return Case(
        n,
        torch.no_grad()(ours),
        {
            "the same expanded, as MHA": torch.no_grad()(expanded),
            f"MHA, {heads} heads (another function)": lambda: (attention(q_c, keys, values),),
            f"GQA, {groups} groups (another function)": lambda: (attention(q_c, few_keys, few_values, enable_gqa=True),),
        },
        operations=2 * batch * heads * n * (2 * d_c + d_r),
        moved=cached.nbytes + w_k.nbytes + w_v.nbytes,
        precision="bfloat16" if cuda else "float32",
        distance=distance,
    )


def caches(device: torch.device) -> Iterator[Case]:
    """1,024 to 65,536 cached tokens on a GPU, 1,024 to 16,384 on a CPU."""
    for n in (1024, 8192, 65536) if device.type == "cuda" else (1024, 4096, 16384):
        yield decoding(n, device)


WHY = (
    "A query of ours meets the codes and at most two blocks of keys one by one, so a token costs the same at every length; that of "
    "attention grows with it. But ours are several products that write their scores to memory and read them again, where a fused kernel "
    "keeps them on the chip: on a GPU with heads of 128 that is worth tens of thousands of tokens. "
)

ROWS = [
    Row(
        "vq-attention",
        "Causal attention over quantized keys, forward",
        "tokens a sequence",
        0.02,
        lengths,
        WHY + "Both compute the same function.",
    ),
    Row(
        "vq-attention-training",
        "Causal attention over quantized keys, forward and backward",
        "tokens a sequence",
        0.02,
        partial(lengths, backward=True),
        WHY + "Ours sends no gradient to keys and values of older blocks, as the paper does; compared are the outputs and the gradients "
        "of the queries.",
    ),
    Row(
        "mla-decode",
        "One decoding step of multi-head latent attention, absorbed",
        "cached tokens",
        0.03,
        caches,
        "The absorbed form reads one latent a token for all heads; the expanded one first makes keys and values of every head out of it. "
        "MHA reads far more bytes, GQA a few times as many. Ours are plain batched products that write their scores to memory, and at "
        "short lengths their launches are all that counts; torch's kernels are fused and reach a larger share of their own bound.",
    ),
]
