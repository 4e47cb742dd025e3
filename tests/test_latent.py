"""Grouped and latent attention against loops, torch's fused kernels, and transformers' DeepSeek-V2 and V3."""

from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kexue_nb import latent, nn, positions

GROUPS = [latent.Groups(24, 6, g, 8) for g in (1, 2, 3, 6)]
LATENTS = [latent.Latent(24, 6, 8, 10, 4, 14), latent.Latent(24, 6, 8, 10, 4)]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(shape, runs=2):
    rotary = positions.rope_frequencies(shape.rope if isinstance(shape, latent.Latent) else shape.head)
    kind = latent.LatentAttention if isinstance(shape, latent.Latent) else latent.GroupedAttention
    layer = kind(nn.Init(list(range(runs))), shape, rotary).double()
    with torch.no_grad():  # gains off their initial ones
        for name, p in layer.named_parameters():
            if "gain" in name:
                p.copy_(1 + 0.3 * draw(*p.shape, seed=len(name)))
    return layer


@pytest.mark.parametrize("shape", GROUPS + LATENTS)
def test_cache_and_parameters_are_those_of_the_layer(shape):
    layer, cache = layer_of(shape), latent.Cache(5)
    layer(draw(2, 3, 5, 24), cache)
    assert cache.elements == 2 * 3 * 5 * shape.cache
    assert sum(p.numel() for name, p in layer.named_parameters() if "gain" not in name) == 2 * shape.parameters


def test_flops_are_those_that_torch_counts():
    shape, sizes = LATENTS[0], (7, 19)

    def counted(f):
        found = []
        for n in sizes:
            with FlopCounterMode(display=False) as counter:
                f(n)
            found.append(counter.get_total_flops())
        return Fraction(found[1] - found[0], sizes[1] - sizes[0])

    w_k, w_v = draw(6, 10, 8), draw(6, 10, 8)
    q_c, q_r = draw(1, 6, 1, 8), draw(1, 6, 1, 4)
    assert counted(lambda n: latent.absorbed(q_c, q_r, draw(1, n, 14), w_k, w_v)) == shape.flops
    both = counted(lambda n: latent.expanded(q_c, q_r, draw(1, n, 10), draw(1, n, 4), w_k, w_v))
    assert both == shape.expanded_flops + shape.expansion_flops
    for shape in GROUPS:
        assert counted(lambda n, g=shape.groups: latent.attend(draw(1, 6, 1, 8), draw(1, g, n, 8), draw(1, g, n, 8), 1.0)) == shape.flops


def test_models():
    v2 = latent.MODELS["DeepSeek-V2"]
    assert v2.elements == 34_560
    assert v2.bytes() == 69_120
    assert v2.bytes(bits=6) == 25_920
    assert latent.MODELS["LLaMA-2 7B"].bytes(131072) == 64 * 2**30
    assert v2.shape.parameters == 149_225_472
    with pytest.raises(ValueError, match="tokens=0"):
        v2.bytes(0)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(("m", "n"), [(1, 12), (5, 12), (12, 12)])
def test_attend_is_a_loop_over_heads_and_queries(groups, m, n):
    q, k, v = draw(2, 6, m, 8), draw(2, groups, n, 8, seed=1), draw(2, groups, n, 5, seed=2)
    expected = torch.empty(2, 6, m, 5, dtype=torch.float64)
    for b in range(2):
        for s in range(6):
            for i in range(m):
                seen = n - m + i + 1
                at = s * groups // 6
                weights = torch.softmax(0.3 * k[b, at, :seen] @ q[b, s, i], 0)
                expected[b, s, i] = weights @ v[b, at, :seen]
    torch.testing.assert_close(latent.attend(q, k, v, 0.3), expected)
    for splits in (2, 3, 12):
        torch.testing.assert_close(latent.attend(q, k, v, 0.3, splits), expected)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attend_is_torchs_grouped_query_attention(groups):
    q, k, v = draw(2, 6, 9, 8), draw(2, groups, 9, 8, seed=1), draw(2, groups, 9, 8, seed=2)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(latent.attend(q, k, v, 8**-0.5), theirs)


def test_attend_refuses():
    q, k = draw(1, 6, 3, 8), draw(1, 4, 5, 8)
    with pytest.raises(ValueError, match="g must divide h"):
        latent.attend(q, k, k, 1.0)
    with pytest.raises(ValueError, match="m <= n"):
        latent.attend(q, k[:, :2, :2], k[:, :2, :2], 1.0)
    with pytest.raises(ValueError, match="divisor of the 5"):
        latent.attend(q, k[:, :2], k[:, :2], 1.0, 2)


@pytest.mark.parametrize("shape", GROUPS + LATENTS)
def test_decoding_token_by_token_is_the_full_pass(shape):
    layer, x = layer_of(shape), draw(2, 3, 7, 24)
    full = layer(x)
    forms = [{}, {"absorb": True}] if isinstance(shape, latent.Latent) else [{}]
    for form in forms:
        cache = latent.Cache(9)
        steps = [layer(x[:, :, a:b], cache, **form) for a, b in ((0, 3), (3, 4), (4, 7))]  # a prompt, a token, a chunk
        torch.testing.assert_close(torch.cat(steps, 2), full, rtol=1e-10, atol=1e-12)
        with pytest.raises(ValueError, match="7 tokens and 3 new ones in a cache of 9"):
            layer(x[:, :, :3], cache, **form)
    if len(forms) > 1:
        torch.testing.assert_close(layer(x, absorb=True), full, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", GROUPS)
def test_grouped_attention_is_projections_rope_and_torchs_attention(shape):
    layer, x = layer_of(shape), draw(2, 3, 7, 24)
    for run in range(2):
        q, k, v = ((x[run] @ f.weight[run]).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (layer.query, layer.key, layer.value))
        q, k = (positions.apply_rope(t, torch.arange(7), positions.rope_frequencies(8)) for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.testing.assert_close(layer(x)[run], y.transpose(1, 2).flatten(2) @ layer.output.weight[run])


def test_runs_do_not_see_each_other():
    for shape in (GROUPS[1], LATENTS[0]):
        layer, x = layer_of(shape), draw(2, 1, 4, 24)
        other = x.clone()
        other[1] += 1
        assert torch.equal(layer(x)[0], layer(other)[0])
        assert not torch.allclose(layer(x)[1], layer(other)[1])


def test_gradients_of_both_forms_agree():
    layer, x = layer_of(LATENTS[0]), draw(2, 1, 5, 24)
    grads = [torch.autograd.grad(layer(x, absorb=a).square().sum(), list(layer.parameters())) for a in (False, True)]
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def put(module, w):
    module.weight.copy_(w.T)


@pytest.mark.parametrize("query_latent", [14, None])
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_latent_attention_is_that_of_transformers(version, query_latent):
    pytest.importorskip("transformers")
    import importlib

    theirs = importlib.import_module(f"transformers.models.deepseek_{version}.modeling_deepseek_{version}")
    name = f"Deepseek{version.upper()}"
    sizes = {
        "hidden_size": 24,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "kv_lora_rank": 10,
        "q_lora_rank": query_latent,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "head_dim": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    if version == "v3":
        sizes["rope_interleave"] = True
    config = getattr(theirs, f"{name}Config")(**sizes)
    config._attn_implementation = "eager"
    attention = getattr(theirs, f"{name}Attention")(config, layer_idx=0).double()
    layer = layer_of(latent.Latent(24, 6, 8, 10, 4, query_latent), runs=1)
    with torch.no_grad():
        if query_latent is None:
            put(attention.q_proj, layer.query.weight[0])
        else:
            put(attention.q_a_proj, layer.query_down.weight[0])
            attention.q_a_layernorm.weight.copy_(layer.query_gain[0])
            put(attention.q_b_proj, layer.query.weight[0])
        put(attention.kv_a_proj_with_mqa, layer.down.weight[0])
        attention.kv_a_layernorm.weight.copy_(layer.gain[0])
        put(attention.kv_b_proj, torch.cat([layer.key_up[0], layer.value_up[0]], -1).transpose(0, 1).reshape(10, -1))
        put(attention.o_proj, layer.output.weight[0])
    x = draw(1, 2, 7, 24)
    rotary = getattr(theirs, f"{name}RotaryEmbedding")(config)
    mask = torch.full((7, 7), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    embeddings = rotary(x[0], torch.arange(7)[None])
    with torch.no_grad():
        expected = attention(x[0], attention_mask=mask, position_embeddings=embeddings)[0]
        for absorb in (False, True):
            torch.testing.assert_close(layer(x, absorb=absorb)[0], expected, rtol=1e-4, atol=1e-5)


def test_shapes_refuse():
    with pytest.raises(ValueError, match="divides the number of heads"):
        latent.Groups(24, 6, 4, 8)
    with pytest.raises(ValueError, match="head=0"):
        latent.Groups(24, 6, 3, 0)
    with pytest.raises(ValueError, match="rope=3"):
        latent.Latent(24, 6, 8, 10, 3)
    with pytest.raises(ValueError, match=r"takes \(2,\)"):
        latent.LatentAttention(nn.Init([0]), LATENTS[0], positions.rope_frequencies(8))
    with pytest.raises(ValueError, match="capacity=0"):
        latent.Cache(0)


def test_roofline_and_clock():
    assert latent.roofline(6, 10, 2, 5) == 3
    assert latent.roofline(2, 10, 2, 5) == 2
    with pytest.raises(ValueError, match="bandwidth=0"):
        latent.roofline(1, 1, 1, 0)
    calls = []
    found = latent.seconds(lambda: calls.append(1), torch.device("cpu"), warmup=2, repeats=3)
    assert len(calls) == 5
    assert len(found) == 3
    assert all(t >= 0 for t in found)
    with pytest.raises(ValueError, match="repeats=0"):
        latent.seconds(lambda: None, torch.device("cpu"), repeats=0)


class Stopwatch:
    """In place of a CUDA event: its time is the number of events and steps before it."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Stopwatch.now += 1
        self.at = Stopwatch.now

    def elapsed_time(self, end):
        return 1000.0 * (end.at - self.at)


def test_the_clock_of_a_gpu_brackets_each_step(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "Event", Stopwatch)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)

    def step():
        Stopwatch.now += 10

    assert latent.seconds(step, torch.device("cuda"), warmup=1, repeats=3) == [11, 11, 11]
    assert len(waited) == 1


@pytest.mark.parametrize("shape", [GROUPS[1], LATENTS[0]])
def test_decoder_is_causal_and_decodes(shape):
    model = latent.Decoder(nn.Init([0, 1]), shape, vocabulary=11, depth=2).double()
    ids = torch.randint(11, (2, 3, 8), generator=torch.Generator().manual_seed(3))
    logits = model(ids, torch.float64)
    changed = ids.clone()
    changed[..., 5] = (ids[..., 5] + 1) % 11
    later = model(changed, torch.float64)
    assert torch.equal(later[..., :5, :], logits[..., :5, :])
    assert not torch.allclose(later[..., 5:, :], logits[..., 5:, :])
    caches = [latent.Cache(8) for _ in range(2)]
    steps = [model(ids[..., i : i + 1], torch.float64, caches) for i in range(8)]
    torch.testing.assert_close(torch.cat(steps, 2), logits)


def test_decoder_with_a_group_for_every_head_is_the_stacked_transformer():
    rotary = positions.rope_frequencies(8)
    theirs = nn.Transformer(nn.Init([0, 1]), vocabulary=11, context=9, d=24, depth=2, heads=3, affine=False, rotary=rotary).double()
    ours = latent.Decoder(nn.Init([5, 6]), latent.Groups(24, 3, 3, 8), vocabulary=11, depth=2).double()
    with torch.no_grad():
        ours.tokens.weight.copy_(theirs.tokens.weight)
        ours.head.weight.copy_(theirs.head.weight)
        for i, layer in enumerate(ours.attention):
            pairs = {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
            for name, other in pairs.items():
                getattr(layer, name).weight.copy_(getattr(theirs, other)[:, i])
            ours.up[i].weight.copy_(theirs.w1[:, i])
            ours.down[i].weight.copy_(theirs.w2[:, i])
    ids = torch.randint(11, (2, 3, 9), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(ours(ids, torch.float64), theirs(ids, torch.float64))


def test_head_maps_start_with_the_inverse_root_of_the_latent_as_deviation():
    shape = latent.Latent(d=32, heads=4, head=32, rope=8, latent=128)
    layer = latent.LatentAttention(nn.Init([0]), shape, positions.rope_frequencies(8))
    for W in (layer.key_up, layer.value_up):
        assert float(W.std()) * 128**0.5 == pytest.approx(1, abs=0.03)
