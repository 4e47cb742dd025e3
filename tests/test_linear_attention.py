"""Linear attention against explicit loops, its three forms against one another; feature maps, S and the capacity bound against numpy."""

import math

import numpy as np
import pytest
import torch

from kexue_nb import linear_attention as la

N, M, DV = 23, 5, 4


def inputs(seed=0, lead=(2, 3), dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.rand(*lead, N, M, generator=g, dtype=dtype) for _ in range(2))
    return q, k, torch.randn(*lead, N, DV, generator=g, dtype=dtype)


def by_loops(q, k, v, decay, normalize):
    """One head (n, m), token by token, from the definition."""
    out = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        weights = [decay ** (i - j) * sum(float(a) * float(b) for a, b in zip(q[i], k[j], strict=True)) for j in range(i + 1)]
        total = sum(weights) if normalize else 1.0
        for j, w in enumerate(weights):
            out[i] += w / total * v[j].numpy()
    return out


@pytest.mark.parametrize("normalize", [True, False])
def test_all_three_forms_are_the_sum_over_the_past(normalize):
    q, k, v = inputs()
    decay = torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64)
    parallel = la.linear_attention(q, k, v, decay=decay, normalize=normalize)
    recurrent, _ = la.linear_attention_recurrent(q, k, v, decay=decay, normalize=normalize)
    for h in range(3):
        wanted = by_loops(q[1, h], k[1, h], v[1, h], float(decay[h]), normalize)
        np.testing.assert_allclose(parallel[1, h].numpy(), wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(recurrent, parallel, rtol=1e-10, atol=1e-12)
    for chunk in (1, 4, 23, 64):
        chunked = la.linear_attention_chunked(q, k, v, chunk=chunk, decay=decay, normalize=normalize)
        torch.testing.assert_close(chunked, parallel, rtol=1e-10, atol=1e-12)


def test_the_forms_have_the_same_gradients():
    grads = []
    for form in (
        la.linear_attention,
        lambda *a, **k: la.linear_attention_recurrent(*a, **k)[0],
        lambda *a, **k: la.linear_attention_chunked(*a, chunk=7, **k),
    ):
        q, k, v = (x.requires_grad_() for x in inputs())
        decay = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        form(q, k, v, decay=decay).square().sum().backward()
        grads.append([x.grad for x in (q, k, v, decay)])
    for other in grads[1:]:
        for a, b in zip(other, grads[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_state_goes_on_where_it_stopped():
    q, k, v = inputs()
    whole, last = la.linear_attention_recurrent(q, k, v, decay=0.9)
    first, state = la.linear_attention_recurrent(q[..., :9, :], k[..., :9, :], v[..., :9, :], decay=0.9)
    second, end = la.linear_attention_recurrent(q[..., 9:, :], k[..., 9:, :], v[..., 9:, :], decay=0.9, state=state)
    torch.testing.assert_close(torch.cat([first, second], -2), whole)
    assert state[0].shape == (2, 3, M, DV)
    assert state[1].shape == (2, 3, M)
    for a, b in zip(end, last, strict=True):
        torch.testing.assert_close(a, b)


def test_linear_attention_says_what_it_takes():
    q, k, v = inputs()
    with pytest.raises(ValueError, match=r"give \(\.\.\., n, m\)"):
        la.linear_attention(q[..., :3], k, v)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        la.linear_attention_recurrent(q, k, v, decay=1.5)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        la.linear_attention_chunked(q, k, v, decay=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        la.linear_attention_chunked(q, k, v, chunk=0)


def test_feature_maps_are_what_their_names_say():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    np.testing.assert_allclose(la.elu_plus_one(x).numpy(), np.where(x.numpy() > 0, x.numpy() + 1, np.exp(x.numpy())))
    np.testing.assert_allclose(la.exp_feature(x).numpy(), np.exp(x.numpy()))
    assert float(la.exp_feature(torch.tensor(1e4))) == pytest.approx(math.exp(20), rel=1e-6)
    assert set(la.FEATURE_MAPS) == {"elu+1", "relu", "exp"}
    assert all(bool((phi(x) >= 0).all()) for phi in la.FEATURE_MAPS.values())


def test_positive_random_features_estimate_the_exponential():
    g = torch.Generator().manual_seed(1)
    x, y = 0.5 * torch.randn(2, 3, generator=g, dtype=torch.float64)
    directions = torch.randn(200_000, 3, generator=g, dtype=torch.float64)
    products = (la.positive_random_features(x, directions) * la.positive_random_features(y, directions)) * len(directions)
    error = float(products.std() / math.sqrt(len(directions)))
    assert abs(float(products.mean()) - math.exp(float(x @ y))) < 4 * error < 0.02
    with pytest.raises(ValueError, match="coordinates"):
        la.positive_random_features(x, directions[:, :2])


def test_l1_l2_ratio_against_numpy_and_at_its_ends():
    a = torch.randn(7, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = np.abs(a.numpy()).mean(1) / np.sqrt((a.numpy() ** 2).mean(1))
    np.testing.assert_allclose(la.l1_l2_ratio(a).numpy(), wanted)
    np.testing.assert_allclose(la.l1_l2_ratio(-3e-170 * a).numpy(), wanted)
    np.testing.assert_allclose(la.effective_tokens(a).numpy(), np.abs(a.numpy()).sum(1) ** 2 / (a.numpy() ** 2).sum(1))
    assert float(la.l1_l2_ratio(torch.ones(9))) == pytest.approx(1)
    assert float(la.l1_l2_ratio(torch.eye(9)[4])) == pytest.approx(1 / 3)
    assert la.l1_l2_ratio(torch.zeros(4)).isnan()
    with pytest.raises(ValueError, match="at least one"):
        la.l1_l2_ratio(torch.zeros(3, 0))


def test_best_weights_are_reached_and_never_beaten():
    g = torch.Generator().manual_seed(3)
    k = torch.rand(40, 6, generator=g, dtype=torch.float64) ** 4
    k[:, 5] = 0  # a coordinate that no key has
    best = la.best_weights(k)
    q = torch.rand(50_000, 6, generator=g, dtype=torch.float64) ** 12
    weights = q @ k.T / (q @ k.T).sum(1, keepdim=True)
    assert bool((weights.amax(0) <= best + 1e-12).all())
    assert bool((weights.amax(0) > 0.9 * best).all())
    assert float(best.sum()) <= 5
    torch.testing.assert_close(la.best_weights(torch.stack([k, 2 * k]))[1], best)
    with pytest.raises(ValueError, match="features >= 0"):
        la.best_weights(k - 0.5)
