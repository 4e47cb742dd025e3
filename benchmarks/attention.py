"""Attention: over quantized keys in linear time, and one decoding step from a latent cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.paired import Case, Row, captured, gap
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
    """Eight heads of 128 on a GPU in bfloat16 (131,072 tokens in all), two of 32 on a CPU in float32 (8,192 tokens); 512 and 64 codes.

    Ours also searches the codes of its keys. On a GPU it is the fused function, compiled. Least operations: scores and sums of a query
    with the codes and with one and a half blocks of keys; three and a half times that with the backward pass. That pass costs each its
    full price, but only the gradient of the queries is the same function and is compared.
    """
    cuda = device.type == "cuda"
    tokens, heads, d, c, block = (131_072, 8, 128, 512, 512) if cuda else (8192, 2, 32, 64, 128)
    dtype = torch.bfloat16 if cuda else torch.float32
    generator = torch.Generator(device).manual_seed(n)
    q, k, v = (torch.randn(tokens // n, heads, n, d, generator=generator, device=device).to(dtype) for _ in range(3))
    codebook = torch.randn(c, d, generator=generator, device=device)
    q = q * d**-0.5
    k_hat = vq.decode(vq.nearest_code(k, codebook), codebook.to(dtype))
    upstream = torch.randn(v.shape, generator=generator, device=device).to(dtype)
    for t in (q, k, v, k_hat):
        t.requires_grad_(backward)

    def work(attend: Callable[..., Tensor], keys: Tensor, *arguments: Tensor, **options) -> list[Tensor]:
        y = attend(q, keys, v, *arguments, **options)
        return [y.detach(), torch.autograd.grad(y, [q, keys, v], upstream)[0]] if backward else [y]

    plain = partial(work, vq.vq_attention, k, codebook, block=block)
    peers = {"scaled_dot_product_attention": partial(work, attention, k_hat, is_causal=True, scale=1.0)}
    if cuda:
        peers["ours, not fused (vq_attention)"] = plain

    def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
        return max(float((a.float() - b.float()).norm() / a.float().norm()) for a, b in zip(ours, theirs, strict=True))

    return Case(
        n,
        partial(work, torch.compile(vq.fused_vq_attention, dynamic=False), k, codebook, block=block) if cuda else plain,
        peers,
        operations=(3.5 if backward else 1) * 4 * tokens * heads * d * (c + 1.5 * block),
        moved=(3 if backward else 1) * 4 * v.nbytes,
        precision="bfloat16" if cuda else "float32",
        distance=distance,
    )


def lengths(device: torch.device, backward: bool = False) -> Iterator[Case]:
    """Sequences of 2,048 to 131,072 tokens on a GPU, of 512 to 8,192 on a CPU; the number of tokens in all stays the same."""
    for n in (2048, 8192, 32_768, 131_072) if device.type == "cuda" else (512, 2048, 8192):
        yield quantized(n, device, backward)


# Decoding


@torch.no_grad()
def decoding(n: int, device: torch.device, layers: int) -> Case:
    """One new token for each sequence over n cached ones: MLA (d_c = 512, d_r = 64), 32 heads of 128, 8 sequences, bfloat16.

    On a CPU 8 heads of 32, d_c = 128, d_r = 16, one sequence, float32. Only the expanded form is the same function; MHA and GQA with as
    many heads compute another one and their answer is compared by its shape. The bytes are those of the latent cache and the maps. Each
    layer has a cache and maps of its own; where they are several, all of them are one CUDA graph.
    """
    cuda = device.type == "cuda"
    batch, heads, d, d_c, d_r, groups = (8, 32, 128, 512, 64, 8) if cuda else (1, 8, 32, 128, 16, 2)
    generator = torch.Generator(device).manual_seed(n)

    def normal(*shape: int, std: float = 1.0) -> list[Tensor]:
        one = torch.bfloat16 if cuda else torch.float32
        return [(std * torch.randn(shape, generator=generator, device=device)).to(one) for _ in range(layers)]

    q_c, q_r = normal(batch, heads, 1, d), normal(batch, heads, 1, d_r)
    cached = normal(batch, n, d_c + d_r)
    w_k, w_v = (normal(heads, d_c, d, std=d_c**-0.5) for _ in range(2))
    keys, values = (normal(batch, heads, n, d) for _ in range(2))
    few_keys, few_values = ([t[:, :groups].contiguous() for t in kind] for kind in (keys, values))

    @torch.no_grad()
    def ours() -> list[Tensor]:
        return [latent.absorbed(*layer, 8 if cuda else 1) for layer in zip(q_c, q_r, cached, w_k, w_v, strict=True)]

    @torch.no_grad()
    def expanded() -> list[Tensor]:
        halves = ((q, r, c[..., :d_c], c[..., d_c:], *maps) for q, r, c, *maps in zip(q_c, q_r, cached, w_k, w_v, strict=True))
        return [latent.expanded(*layer) for layer in halves]

    def other(k: list[Tensor], v: list[Tensor], **options) -> tuple[Tensor, ...]:
        return tuple(attention(*layer, **options) for layer in zip(q_c, k, v, strict=True))

    def distance(a: list[Tensor], b: list[Tensor] | tuple[Tensor, ...]) -> float:
        if isinstance(b, tuple):
            return 0.0 if [t.shape for t in a] == [t.shape for t in b] else float("inf")
        return max(gap(x.float(), y.float()) for x, y in zip(a, b, strict=True))

    way = captured if layers > 1 else (lambda work: work)
    return Case(
        n,
        way(ours),
        {
            "the same expanded, as MHA": way(expanded),
            f"MHA, {heads} heads (another function)": way(partial(other, keys, values)),
            f"GQA, {groups} groups (another function)": way(partial(other, few_keys, few_values, enable_gqa=True)),
        },
        operations=layers * 2 * batch * heads * n * (2 * d_c + d_r),
        moved=sum(t.nbytes for kind in (cached, w_k, w_v) for t in kind),
        precision="bfloat16" if cuda else "float32",
        distance=distance,
    )


def caches(device: torch.device, layers: int = 1) -> Iterator[Case]:
    """1,024 to 65,536 cached tokens on a GPU (to 32,768 where layers are several), 1,024 to 16,384 on a CPU."""
    for n in (1024, 8192, 65_536 if layers == 1 else 32_768) if device.type == "cuda" else (1024, 4096, 16_384):
        yield decoding(n, device, layers)


WHY = (
    "A query of ours meets the codes and at most two blocks of keys one by one, so a token costs the same at every length; that of "
    "attention grows with it. On a GPU the scores never leave the chip: each block is a short sequence for torch's own fused kernel "
    "(fused_vq_attention), where vq_attention writes them to memory and reads them again. On a CPU ours is vq_attention. "
)

ROWS = [
    Row(
        "vq-attention",
        "Causal attention over quantized keys, forward",
        "tokens a sequence",
        0.02,
        lengths,
        WHY
        + "All compute the same function. On an H100 the kernel takes four tenths of the time at 131,072 tokens; the rest is what plain "
        "attention does not do: the search of the codes, their mean values, and keys and values laid out block by block.",
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
    Row(
        "mla-decode-graph",
        "The same step for four layers, as one CUDA graph",
        "cached tokens",
        0.03,
        partial(caches, layers=4),
        "How decoding is run in practice: no launch is paid for by anyone, and four layers with caches of their own leave little in the "
        "chip's memory from one step to the next. The bytes decide.",
        devices=("cuda",),
    ),
]
