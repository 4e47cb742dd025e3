"""Positions of texts and pictures against plain loops, the posts' equations, and transformers' Qwen2-VL and Qwen3-VL."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb.multimodal import (
    along_the_text,
    apply_axis_rope,
    axis_angles,
    grid,
    interleaved_axes,
    interleaved_mrope_axes,
    mrope,
    rope_1d,
    rope_2d,
    rope_tie,
    rope_tv,
    section_axes,
)
from kexue_nb.positions import apply_rope, rope_frequencies

SIDES = st.integers(1, 12)
SEGMENTS = st.lists(st.one_of(st.integers(0, 5), st.tuples(SIDES, SIDES)), min_size=1, max_size=5)
DIAGONAL = {
    "tie": rope_tie,
    "tv": rope_tv,
    "smallest": lambda s: rope_tie(s, "smallest"),
    "equivalent": lambda s: rope_tie(s, "equivalent"),
}


def by_loop(segments, lengths, patch):
    """Token by token: ``patch(h, w, i, j)`` is the offset from L, ``lengths(h, w)`` is K - L."""
    at, last = [], -1
    for segment in segments:
        if isinstance(segment, int):
            for _ in range(segment):
                last += 1
                at.append((last, last))
        else:
            h, w = segment
            for i in range(1, h + 1):
                for j in range(1, w + 1):
                    x, y = patch(h, w, i, j)
                    at.append((last + x, last + y))
            last += lengths(h, w) - 1
    return torch.tensor(at, dtype=torch.float64).view(-1, 2)


@given(SEGMENTS)
def test_the_schemes_against_loops(segments):
    tokens = sum(s if isinstance(s, int) else s[0] * s[1] for s in segments)
    assert rope_1d(segments).flatten().tolist() == list(range(tokens))
    tie = by_loop(segments, lambda h, w: (h + 1) * (w + 1), lambda h, w, i, j: ((w + 1) * i, (h + 1) * j))
    torch.testing.assert_close(rope_tie(segments), tie, rtol=1e-12, atol=1e-12)
    equal = by_loop(segments, lambda h, w: h * w + 1, lambda h, w, i, j: ((h * w + 1) / (h + 1) * i, (h * w + 1) / (w + 1) * j))
    torch.testing.assert_close(rope_tie(segments, "equivalent"), equal, rtol=1e-12, atol=1e-12)
    tv = by_loop(segments, lambda h, w: h * w + 1, lambda h, w, i, j: (h * (w - 1) / 2 + i, w * (h - 1) / 2 + j))
    torch.testing.assert_close(rope_tv(segments), tv, rtol=1e-12, atol=1e-12)
    rows = by_loop(segments, lambda h, w: max(h, w) + 1, lambda h, w, i, j: (i, j))
    torch.testing.assert_close(mrope(segments)[:, 1:], rows, rtol=0, atol=0)


@given(SIDES, SIDES)
def test_the_smallest_steps_are_the_smallest_integers(h, w):
    first = rope_tie([1, (h, w), 1], "smallest")[1]
    steps = (s for s in range(1, w + 2) if (h + 1) * s % (w + 1) == 0)
    assert first[0] == next(steps)
    assert first.tolist() == [int(first[0]), (h + 1) * int(first[0]) // (w + 1)]


@given(st.sampled_from(sorted(DIAGONAL)), SIDES, SIDES)
def test_symmetric_schemes_map_to_themselves_under_the_reflection(name, h, w):
    at = DIAGONAL[name]([1, (h, w), 1])
    torch.testing.assert_close(at.flip(0), at[0] + at[-1] - at, rtol=1e-12, atol=1e-12)


def test_the_page():
    assert rope_2d([2, (2, 3), 1]).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2], [2, 3], [3, 1], [3, 2], [3, 3], [4, 1]]


def test_three_axes_and_video():
    at = mrope([1, (2, 1, 3), 1])
    assert at.tolist() == [[0, 0, 0], *[[1 + k, 1, 1 + j] for k in range(2) for j in range(3)], [4, 4, 4]]
    assert mrope([2, (2, 3), 1])[2:].tolist() == [[2, i, j] for i in (2, 3) for j in (2, 3, 4)] + [[5, 5, 5]]
    assert mrope([(5, 1, 2), 1])[-1].tolist() == [5, 5, 5]


def test_a_scheme_of_ones_own():
    shifted = along_the_text([1, (1, 2), 1], lambda h, w: (grid(h, w) + 10.0, 30))
    assert shifted.tolist() == [[0, 0], [11, 11], [11, 12], [30, 30]]


@pytest.mark.parametrize("axes", [2, 3])
@given(st.integers(0, 2**31))
def test_text_on_the_diagonal_is_rope_1d_for_any_allocation(axes, seed):
    generator = torch.Generator().manual_seed(seed)
    allocation = torch.randint(axes, (8,), generator=generator)
    x = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    theta = rope_frequencies(16)
    at = torch.tensor([0, 1, 2, 30, 31.0])
    text = at[:, None].expand(-1, axes)
    assert torch.equal(apply_axis_rope(x, text, theta, torch.cat([allocation[:-1], torch.tensor([axes - 1])])), apply_rope(x, at, theta))


def test_the_rotation_pair_by_pair():
    torch.manual_seed(0)
    x, at = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 2)
    theta, allocation = torch.tensor([1.0, 0.1, 0.01]), torch.tensor([1, 0, 1])
    turned = apply_axis_rope(x, at, theta, allocation)
    for n, p in itertools.product(range(4), range(3)):
        angle = float(at[n, allocation[p]]) * float(theta[p])
        z = complex(*x[n, 2 * p : 2 * p + 2].tolist()) * complex(math.cos(angle), math.sin(angle))
        assert turned[n, 2 * p : 2 * p + 2].tolist() == pytest.approx([z.real, z.imag], rel=1e-9)


def test_allocations():
    assert interleaved_axes(5, 2).tolist() == [0, 1, 0, 1, 0]
    assert section_axes([1, 2, 3]).tolist() == [0, 1, 1, 2, 2, 2]
    assert interleaved_mrope_axes([4, 2, 1]).tolist() == [0, 1, 2, 0, 1, 0, 0]


# Parity with transformers: its M-RoPE is not ours, but the same numbers must come out. It rotates the pairs (p, p + d/2), we (2p, 2p+1).


def halves(x):
    return torch.cat([x[..., 0::2], x[..., 1::2]], -1)


def qwen2_vl(**text):
    from transformers.models.qwen2_vl import modeling_qwen2_vl as theirs
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

    shape = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 1, "spatial_merge_size": 2}
    config = Qwen2VLConfig(text_config=shape | {"vocab_size": 8} | text, vision_config=vision)
    return theirs, config


@pytest.mark.parametrize("segments", [[3, (2, 4), 2], [1, (5, 3), 4, (1, 1), 2], [(2, 2), 1], [4, (6, 6), 3]])
def test_mrope_positions_agree_with_qwen2_vl(segments):
    theirs, config = qwen2_vl()
    kinds = torch.cat([torch.zeros(s) if isinstance(s, int) else torch.ones(s[0] * s[1]) for s in segments]).long()
    sizes = torch.tensor([[1, 2 * s[0], 2 * s[1]] for s in segments if not isinstance(s, int)])  # before 2 x 2 patches are merged
    wanted, _ = theirs.Qwen2VLModel(config).get_rope_index(torch.zeros_like(kinds)[None], kinds[None], image_grid_thw=sizes)
    torch.testing.assert_close(mrope(segments), wanted[:, 0].T.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 3])
def test_mrope_positions_of_a_short_video_agree_with_qwen2_vl(frames):
    theirs, config = qwen2_vl()
    kinds = torch.tensor([0, 0] + [2] * (frames * 12) + [0])
    wanted, _ = theirs.Qwen2VLModel(config).get_rope_index(
        torch.zeros_like(kinds)[None], kinds[None], video_grid_thw=torch.tensor([[frames, 6, 8]])
    )
    torch.testing.assert_close(mrope([2, (frames, 3, 4), 1]), wanted[:, 0].T.double(), rtol=0, atol=1e-6)


def test_a_long_video_ends_above_its_last_frame_unlike_in_transformers():
    theirs, config = qwen2_vl()
    kinds = torch.tensor([0] + [2] * 6 + [0])
    got, _ = theirs.Qwen2VLModel(config).get_rope_index(
        torch.zeros_like(kinds)[None], kinds[None], video_grid_thw=torch.tensor([[6, 2, 2]])
    )
    assert got[:, 0, -2:].T.tolist() == [[6, 1, 1], [2, 2, 2]]  # the text token stands inside the video's time
    assert mrope([1, (6, 1, 1), 1])[-2:].tolist() == [[6, 1, 1], [7, 7, 7]]  # the paper: the largest id so far, plus one


def test_the_section_wise_rotation_agrees_with_qwen2_vl():
    parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    theirs, config = qwen2_vl(rope_parameters=parameters)
    torch.manual_seed(0)
    at = mrope([3, (2, 4), 2])
    q, k = torch.randn(2, 1, 2, len(at), 128, dtype=torch.float64)
    rotary = theirs.Qwen2VLRotaryEmbedding(config.text_config)
    cos, sin = rotary(q, at.T[:, None])
    wanted = theirs.apply_rotary_pos_emb(halves(q), halves(k), cos, sin)
    for ours, other in zip((q, k), wanted, strict=True):
        turned = apply_axis_rope(ours, at, rope_frequencies(128, 1e6), section_axes([16, 24, 24]))
        torch.testing.assert_close(halves(turned), other, rtol=0, atol=1e-6)
        wrong = apply_axis_rope(ours, at, rope_frequencies(128, 1e6), section_axes([24, 16, 24]))
        assert (halves(wrong) - other).abs().max() > 1e-2


def test_the_interleaved_rotation_agrees_with_qwen3_vl():
    from transformers.models.qwen3_vl import modeling_qwen3_vl as theirs
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

    parameters = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    config = Qwen3VLTextConfig(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=parameters)
    at = mrope([3, (2, 4), 2])
    cos, sin = theirs.Qwen3VLTextRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), at.T[:, None])
    angles = axis_angles(at, rope_frequencies(128, 5e6), interleaved_mrope_axes([24, 20, 20]))
    torch.testing.assert_close(angles.cos(), cos[0, :, :64], rtol=0, atol=1e-6)
    torch.testing.assert_close(angles.sin(), sin[0, :, :64], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rope_tie([1, (2, 3)], "half"), "step='half': give one of 'product', 'smallest', 'equivalent'"),
        (lambda: rope_tv([1, (2, 3, 4)]), r"segment \(2, 3, 4\): give a number of tokens, or 2 sides"),
        (lambda: rope_2d([1, (2, 0)]), r"segment \(2, 0\)"),
        (lambda: mrope([(2, 3, 4, 5)]), "2 or 3 sides"),
        (lambda: axis_angles(torch.ones(3, 2), torch.ones(4), torch.zeros(3, dtype=torch.int64)), r"\(4,\) frequencies and an allocation"),
        (lambda: axis_angles(torch.ones(3, 2), torch.ones(4), section_axes([2, 1, 1])), "names axis 2, positions have 2 axes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
