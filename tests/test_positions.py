"""Rotary positions against plain loops, complex multiplication and a sum of cosines term by term."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb.positions import (
    apply_rope,
    cosine_sum,
    dynamic_ntk_frequencies,
    far_positions,
    first_violation,
    interpolated_frequencies,
    key_normalised,
    least_leak,
    log_n_factor,
    ntk_base,
    ntk_by_parts_frequencies,
    ntk_frequencies,
    rerope_distance,
    rope_frequencies,
    self_extend_distance,
    turns,
    visible,
    yarn_temperature,
)


@given(st.integers(1, 40), st.floats(1.1, 1e9))
def test_frequencies_against_the_formula(pairs, base):
    theta = rope_frequencies(2 * pairs, base)
    assert theta.tolist() == pytest.approx([base ** (-2 * i / (2 * pairs)) for i in range(pairs)], rel=1e-12)


def test_a_fraction_of_the_pairs_rotates_with_its_own_spacing():
    theta = rope_frequencies(16, 1e4, rotary_fraction=0.5)
    assert theta.tolist() == pytest.approx([1, 0.1, 0.01, 0.001, 0, 0, 0, 0], rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 8), (2, 6, 8), (2, 3, 6, 8)])
def test_rotation_is_multiplication_by_a_phase(shape):
    torch.manual_seed(0)
    x, at, theta = torch.randn(shape, dtype=torch.float64), torch.tensor([0, 1, 5, -3, 0.25, 1e5], dtype=torch.float64), rope_frequencies(8)
    wanted = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones(6, 4, dtype=torch.float64), torch.outer(at, theta))
    torch.testing.assert_close(apply_rope(x, at, theta), torch.view_as_real(wanted).flatten(-2), rtol=1e-9, atol=1e-9)


def test_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    q, k, theta = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64), rope_frequencies(8, 50.0)

    def at(t, n):
        return apply_rope(t, torch.tensor([float(n)]), theta)

    products = [float((at(q, n + 7) * at(k, n)).sum()) for n in (0, 3, 100)]
    assert products == pytest.approx([products[0]] * 3, rel=1e-10)
    assert products[0] != pytest.approx(float((at(q, 0) * at(k, 7)).sum()), rel=1e-3)


def test_frequencies_may_differ_from_run_to_run():
    x = torch.ones(2, 3, 1, 5, 4, dtype=torch.float64)
    thetas = torch.stack([rope_frequencies(4, 10.0), rope_frequencies(4, 100.0)])
    turned = apply_rope(x, torch.arange(5), thetas.view(2, 1, 1, 1, 2))
    for r in range(2):
        torch.testing.assert_close(turned[r], apply_rope(x[r], torch.arange(5), thetas[r]))


def test_single_precision_positions_far_out_keep_their_phase():
    x = torch.tensor([[1.0, 0.0]])
    turned = apply_rope(x, torch.tensor([1_000_003]), torch.tensor([1.0]))
    assert turned.tolist()[0] == pytest.approx([math.cos(1_000_003), math.sin(1_000_003)], abs=1e-6)


@given(st.integers(1, 300), st.integers(1, 9), st.floats(1.5, 1e6), st.sampled_from([1.0, "half"]))
def test_cosine_sum_against_a_loop(length, pairs, base, fraction):
    d = 4 * pairs
    theta = rope_frequencies(d, base, 0.5 if fraction == "half" else 1.0)
    wanted = [math.fsum(math.cos(m * t) for t in theta.tolist()) for m in range(length)]
    got = cosine_sum(theta, length)
    assert got.shape == (length,)
    assert got.tolist() == pytest.approx(wanted, abs=1e-10)


def test_cosine_sum_far_out():
    theta, m = rope_frequencies(128, 1e6), 999_983
    assert float(cosine_sum(theta, m + 1)[m]) == pytest.approx(math.fsum(math.cos(m * t) for t in theta.tolist()), abs=1e-8)


@pytest.mark.parametrize(("base", "d", "first"), [(1e4, 128, 1707), (5e5, 128, 18438), (100, 128, 59), (1e4, 64, 725)])
def test_first_violations(base, d, first):
    assert first_violation(base, d, first) is None
    assert first_violation(base, d, first + 1) == first
    assert first_violation(base, d, 4 * first) == first


def test_half_of_the_pairs_never_violates():
    assert first_violation(2.0, 8, 3000, rotary_fraction=0.5) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rope_frequencies(7), "d=7: RoPE rotates pairs"),
        (lambda: rope_frequencies(0), "d=0"),
        (lambda: rope_frequencies(8, 1.0), "base=1.0: give a finite number above 1"),
        (lambda: rope_frequencies(8, math.inf), "base=inf"),
        (lambda: rope_frequencies(8, math.nan), "base=nan"),
        (lambda: rope_frequencies(8, 10, 0.3), "rotary_fraction=0.3 of 4 pairs"),
        (lambda: rope_frequencies(8, 10, 1.5), "rotary_fraction=1.5"),
        (lambda: rope_frequencies(8, 10, 0.0), "rotary_fraction=0.0"),
        (lambda: cosine_sum(rope_frequencies(8), 0), "length=0"),
        (lambda: apply_rope(torch.ones(3, 6), torch.arange(3), rope_frequencies(8)), "x has 6 coordinates and there are 4 frequencies"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_lowest_frequency_of_ntk_is_that_of_interpolation():
    for d, s in ((8, 2.0), (64, 4.0), (128, 16.0)):
        theta, ntk, pi = rope_frequencies(d), ntk_frequencies(d, s), interpolated_frequencies(rope_frequencies(d), s)
        assert float(ntk[0]) == float(theta[0]) == 1
        assert float(ntk[-1]) == pytest.approx(float(theta[-1]) / s, rel=1e-12)
        assert float(pi[0]) == pytest.approx(1 / s, rel=1e-15)
        assert bool((ntk[1:-1] > pi[1:-1]).all())
        assert bool((ntk[1:] < theta[1:]).all())


@pytest.mark.parametrize(("d", "length", "slow", "fast"), [(128, 4096, 1, 32), (64, 256, 1, 8), (32, 64, 0.5, 4)])
def test_by_parts_pair_by_pair(d, length, slow, fast):
    got = ntk_by_parts_frequencies(d, 8.0, length, slow=slow, fast=fast)
    for i in range(d // 2):
        theta = 1e4 ** (-2 * i / d)
        r = length * theta / (2 * math.pi)
        gamma = 1.0 if r > fast else 0.0 if r < slow else (r - slow) / (fast - slow)
        assert float(got[i]) == pytest.approx((gamma + (1 - gamma) / 8) * theta, rel=1e-12)


def test_by_parts_of_llama_2():
    kept = ntk_by_parts_frequencies(128, 4.0, 4096) / rope_frequencies(128)
    assert [int((kept > 0.9999).sum()), int((kept < 0.25 + 1e-9).sum())] == [21, 18]


def transformers_frequencies(kind, d, trained, base, seq_len=None, **parameters):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": kind, "rope_theta": base, **parameters}
    config = transformers.LlamaConfig(hidden_size=4 * d, num_attention_heads=4, max_position_embeddings=trained, rope_parameters=rope)
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq_len)


def assert_parity(ours, theirs):
    torch.testing.assert_close(theirs.double(), ours, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("d", "trained", "base"), [(128, 4096, 1e4), (64, 2048, 1e4), (128, 8192, 5e5)])
@pytest.mark.parametrize("s", [2.0, 4.0, 16.0])
class TestParityWithTransformers:
    def test_interpolation(self, d, trained, base, s):
        theirs, _ = transformers_frequencies("linear", d, trained, base, factor=s)
        assert_parity(interpolated_frequencies(rope_frequencies(d, base), s), theirs)

    def test_dynamic_ntk(self, d, trained, base, s):
        for length in (trained // 2, trained, int(2.5 * trained)):
            theirs, _ = transformers_frequencies("dynamic", d, trained, base, seq_len=length, factor=s)
            assert_parity(dynamic_ntk_frequencies(d, length, trained, base, factor=s), theirs)

    def test_ntk_aware(self, d, trained, base, s):
        theirs, _ = transformers_frequencies("dynamic", d, trained, base, seq_len=int(s * trained), factor=1.0)
        assert_parity(ntk_frequencies(d, s, base), theirs)

    def test_yarn(self, d, trained, base, s):
        parameters = {"factor": s, "original_max_position_embeddings": trained}
        for truncate, ramp in ((True, "index, rounded"), (False, "index")):
            theirs, factor = transformers_frequencies("yarn", d, trained, base, truncate=truncate, **parameters)
            assert_parity(ntk_by_parts_frequencies(d, s, trained, base, ramp=ramp), theirs)
            assert factor**2 == pytest.approx(yarn_temperature(s), rel=1e-6)
        with pytest.raises(AssertionError):
            assert_parity(ntk_by_parts_frequencies(d, s, trained, base, ramp="turns"), theirs)

    def test_by_parts_of_llama_3(self, d, trained, base, s):
        parameters = {"factor": s, "original_max_position_embeddings": trained, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        theirs, _ = transformers_frequencies("llama3", d, trained, base, **parameters)
        assert_parity(ntk_by_parts_frequencies(d, s, trained, base, slow=1, fast=4, ramp="turns"), theirs)


@pytest.mark.parametrize("window", [1, 5, 16])
def test_windows_are_those_of_transformers(window):
    masking_utils = pytest.importorskip("transformers.masking_utils")
    theirs = masking_utils.sliding_window_causal_mask_function(window)
    seen = visible(16, window)
    assert [[bool(theirs(0, 0, torch.tensor(i), torch.tensor(j))) for j in range(16)] for i in range(16)] == seen.tolist()


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (3, 0), (3, 2), (1, 1), (20, 4)])
def test_visible_keys_one_by_one(window, sinks):
    wanted = [[j <= i and (window is None or i - j < window or j < sinks) for j in range(12)] for i in range(12)]
    assert visible(12, window, sinks).tolist() == wanted


@given(st.integers(1, 12), st.floats(1, 40), st.integers(1, 60))
def test_far_positions_give_the_distances(window, leak, n):
    at = torch.arange(n)
    query, key = far_positions(at, window, leak)
    distance = at[:, None] - at
    wanted = rerope_distance(distance, window, leak)
    torch.testing.assert_close(torch.where(distance < window, distance.double(), query[:, None] - key), wanted)


def test_rerope_distances_by_hand():
    assert rerope_distance(torch.arange(6), 3).tolist() == [0, 1, 2, 3, 3, 3]
    assert rerope_distance(torch.arange(8), 3, 2).tolist() == [0, 1, 2, 3, 3.5, 4, 4.5, 5]


@given(st.integers(1, 30), st.integers(1, 9))
def test_self_extend_in_integers(window, group):
    at = torch.arange(60)
    query, key = far_positions(at, window, group, grouped=True)
    got = self_extend_distance(at[:, None], at, window, group)
    assert got.dtype == torch.int64
    for i in range(0, 60, 7):
        for j in range(i + 1):
            wanted = i - j if i - j < window else i // group + window - window // group - j // group
            assert got[i, j] == wanted
            if i - j >= window:
                assert query[i] - key[j] == wanted


@given(st.integers(2, 40), st.integers(1, 20), st.integers(1, 400))
def test_the_least_leak_fills_the_trained_distances(trained, window, extra):
    if window >= trained - 1:
        return
    length = trained + extra
    k = least_leak(length, trained, window)
    assert float(rerope_distance(torch.tensor([length - 1]), window, k)) == pytest.approx(trained - 1)
    assert least_leak(trained, trained, window) == 1
    assert least_leak(1, trained, window) == 1


def test_turns_and_temperatures():
    assert float(turns(rope_frequencies(128), 4096)[0]) == pytest.approx(651.9, abs=0.05)
    assert yarn_temperature(1) == 1
    assert yarn_temperature(8) == pytest.approx((1 + 0.1 * math.log(8)) ** 2)
    factors = log_n_factor(torch.tensor([1, 16, 256, 4096]), 256)
    assert factors.tolist() == pytest.approx([1, 1, 1, 1.5])
    assert log_n_factor(torch.tensor([1, 16, 256]), 256, floor=0.0).tolist() == pytest.approx([0, 0.5, 1])


def test_normalised_keys():
    k = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert key_normalised(k).flatten().tolist() == pytest.approx([0.6, 0.8, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolated_frequencies(rope_frequencies(8), 0.5), "scale=0.5: give a finite number of at least 1"),
        (lambda: ntk_base(1e4, 2, 2), "d=2: the lowest frequency must differ"),
        (lambda: ntk_base(1e4, math.inf, 8), "scale=inf"),
        (lambda: dynamic_ntk_frequencies(8, 0, 16), "length=0"),
        (lambda: ntk_by_parts_frequencies(8, 2, 64, slow=4, fast=4), "slow=4, fast=4: give 0 < slow < fast"),
        (lambda: ntk_by_parts_frequencies(8, 2, 64, ramp="cosine"), "ramp='cosine': give 'turns'"),
        (lambda: log_n_factor(torch.ones(1), 1), "trained=1"),
        (lambda: rerope_distance(torch.arange(3), 0), "window=0, leak=inf"),
        (lambda: self_extend_distance(torch.arange(3), torch.arange(3), 2, 0), "window=2, group=0"),
        (lambda: least_leak(64, 16, 15), "window=15: give 1 <= window < 15"),
    ],
)
def test_bad_input_of_the_extrapolations(call, message):
    with pytest.raises(ValueError, match=message):
        call()
