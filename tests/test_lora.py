"""Adapters against SVDs, autograd, numerical minimisation, scipy and the package peft."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from kexue_nb import lora, optim


def gauss(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_top_pairs_are_those_of_the_svd():
    for shape in ((3, 7, 11), (3, 11, 7)):
        M = gauss(*shape)
        U, S, V = lora.top_pairs(M, 4)
        u, s, v = torch.linalg.svd(M, full_matrices=False)
        torch.testing.assert_close(S, s[..., :4])
        torch.testing.assert_close((U * S[..., None, :]) @ V, (u[..., :4] * s[..., None, :4]) @ v[..., :4, :])
        torch.testing.assert_close(U.mT @ U, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
        torch.testing.assert_close(V @ V.mT, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    with pytest.raises(ValueError, match="1 to 7"):
        lora.top_pairs(M, 8)


def test_lora_ga_reaches_the_bound_with_every_pairing():
    G = gauss(2, 12, 9)
    s = torch.linalg.svdvals(G)
    for pairing in ("post", "antitone"):
        A, B = lora.lora_ga_init(G, 2, pairing=pairing)
        residual = (A @ A.mT @ G + G @ B.mT @ B - G).square().sum((-2, -1))
        torch.testing.assert_close(residual, s[..., 4:].square().sum(-1))
        torch.testing.assert_close(lora.captured_energy(G, A, B), s[..., :4].square().sum(-1) / s.square().sum(-1))
        second = (G @ B.mT @ A.mT @ G).square().sum((-2, -1))
        order = (2, 3) if pairing == "post" else (3, 2)
        torch.testing.assert_close(second, sum((s[..., i] * s[..., j]).square() for i, j in zip((0, 1), order, strict=True)))
    torch.testing.assert_close(lora.lora_ga_init(G, 2, 3.0)[0], 3 * lora.lora_ga_init(G, 2)[0])
    with pytest.raises(ValueError, match="antitone"):
        lora.lora_ga_init(G, 2, pairing="best")
    with pytest.raises(ValueError, match="1 to 9"):
        lora.lora_ga_init(G, 5)


def test_captured_energy_is_the_best_scalar_fit():
    G, A, B = gauss(12, 9), gauss(12, 2, seed=1), gauss(2, 9, seed=2)
    M = (A @ A.T @ G + G @ B.T @ B).numpy().ravel()
    c, *_ = np.linalg.lstsq(M[:, None], G.numpy().ravel(), rcond=None)
    left = ((c * M - G.numpy().ravel()) ** 2).sum() / float(G.square().sum())
    assert float(lora.captured_energy(G, A, B)) == pytest.approx(1 - left, rel=1e-12)
    assert float(lora.captured_energy(G, 0 * A, 0 * B)) == 0
    assert float(lora.captured_energy(G, 5 * A, 5 * B)) == pytest.approx(1 - left, rel=1e-12)


def test_default_starts():
    g = torch.Generator().manual_seed(0)
    A, B = lora.default_init(400, 30, 8, g, lead=(2,))
    assert A.shape == (2, 400, 8)
    assert B.shape == (2, 8, 30)
    assert float(B.abs().max()) == 0
    assert float(A.abs().max()) == pytest.approx(1 / 20, rel=0.01)
    assert float(A.std()) == pytest.approx(1 / 20 / math.sqrt(3), rel=0.03)
    A, B = lora.random_pair(20, 30, 4, g)
    torch.testing.assert_close(A.T @ A, torch.eye(4))
    torch.testing.assert_close(B @ B.T, torch.eye(4))


def test_scales_and_rates_of_the_methods():
    W, G = gauss(20, 16), gauss(20, 16, seed=1)
    starts = {m: lora.start(m, W, G, 4, torch.Generator().manual_seed(0)) for m in lora.WITHOUT_GRADIENT + lora.FROM_GRADIENT}
    assert {m: s.scale for m, s in starts.items()} == dict.fromkeys(starts, 8.0) | {"LoRA": 4.0, "LoRA+": 4.0, "PiSSA": 1.0}
    assert {m for m, s in starts.items() if s.ratio != 1} == {"LoRA+"}
    assert starts["LoRA+"].ratio == 16
    gain = 16**0.25 / 4
    u, s, v = torch.linalg.svd(W)
    torch.testing.assert_close(starts["PiSSA"].A @ starts["PiSSA"].B, (u[:, :4] * s[:4]) @ v[:4])
    A, B = lora.pissa_init(W, 4, 5.0)
    torch.testing.assert_close(5.0 * A @ B, (u[:, :4] * s[:4]) @ v[:4])
    own, peft = starts["LoRA-GA"], starts["LoRA-GA in peft"]
    torch.testing.assert_close(peft.A * gain, own.A)
    torch.testing.assert_close(peft.B, torch.linalg.svdvals(G)[4:8, None] * own.B)
    for name in ("LoRA-GA", "GA-sign", "random pair"):
        torch.testing.assert_close(starts[name].A.norm(dim=0), torch.full((4,), gain, dtype=torch.float64))
        torch.testing.assert_close(starts[name].B.norm(dim=1), torch.full((4,), gain, dtype=torch.float64))
    assert torch.equal(starts["LoRA-Pro"].A, starts["LoRA-GA"].A)
    assert torch.equal(starts["LoRA-GA"].B, lora.lora_ga_init(G, 4, gain)[1])
    assert torch.equal(starts["GA-sign"].B, lora.lora_ga_init(G.sign(), 4, gain)[1])
    fit = starts["sign-fit"]  # at scale 8 the first step of Adam is 8 (A sign(A^T G) + sign(G B^T) B)
    assert float(lora.sign_residual(G, 8 * fit.A, 8 * fit.B)) < float(lora.sign_residual(G, *lora.lora_ga_init(G.sign(), 4)))
    assert lora.start("LoRA", W, G, 4, torch.Generator(), scale=2.0).scale == 2
    with pytest.raises(ValueError, match="'DoRA': give one of LoRA"):
        lora.start("DoRA", W, G, 4, torch.Generator())


def test_sign_residual_by_loops_and_alternation_reaches_a_stationary_point():
    G, A, B = gauss(6, 5), gauss(6, 2, seed=1), gauss(2, 5, seed=2)
    total = 0.0
    for i, j in itertools.product(range(6), range(5)):
        step = sum(A[i, k] * torch.sign(A[:, k] @ G[:, j]) + torch.sign(G[i] @ B[k]) * B[k, j] for k in range(2))
        total += float((step - torch.sign(G[i, j])) ** 2)
    assert float(lora.sign_residual(G, A, B)) == pytest.approx(total / 30, rel=1e-12)
    a, b = lora.align_signs(gauss(3, 20, 16), gauss(3, 20, 2, seed=1), gauss(3, 2, 16, seed=2), rounds=60)
    after = lora.sign_residual(gauss(3, 20, 16), a, b)
    assert bool((after < 0.9 * lora.sign_residual(gauss(3, 20, 16), gauss(3, 20, 2, seed=1), gauss(3, 2, 16, seed=2))).all())
    tail = torch.linalg.svdvals(gauss(3, 20, 16).sign())[:, 4:].square().sum(-1) / 320
    assert bool((after > tail).all())


def test_alternation_by_lstsq():
    G, A, B = gauss(12, 9), gauss(12, 2, seed=1), gauss(2, 9, seed=2)
    S = G.sign().numpy()
    S_A, S_B = (A.T @ G).sign().numpy(), (G @ B.T).sign().numpy()
    a = np.linalg.lstsq(S_A.T, (S - S_B @ B.numpy()).T, rcond=None)[0].T
    b = np.linalg.lstsq(S_B, S - a @ S_A, rcond=None)[0]
    want = [A.numpy(), B.numpy()] if lora.sign_residual(G, *map(torch.tensor, (a, b))) > lora.sign_residual(G, A, B) else [a, b]
    for got, expected in zip(lora.align_signs(G, A, B, rounds=1), want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_adapter_starts_at_the_frozen_weight_and_packs_to_rank_2r():
    W = gauss(3, 7, 5)
    layer = lora.LoRALinear(W, gauss(2, 3, 7, 2, seed=1), gauss(2, 3, 2, 5, seed=2), 1.7)
    torch.testing.assert_close(layer.weight(), W.expand(2, 3, 7, 5))
    with torch.no_grad():
        layer.A += gauss(2, 3, 7, 2, seed=3)
        layer.B += gauss(2, 3, 2, 5, seed=4)
    want = W + 1.7 * (layer.A @ layer.B - gauss(2, 3, 7, 2, seed=1) @ gauss(2, 3, 2, 5, seed=2))
    torch.testing.assert_close(layer.weight(), want)
    x = gauss(2, 3, 4, 7, seed=5)
    torch.testing.assert_close(layer(x), x @ want)
    left, right = layer.packed()
    assert left.shape == (2, 3, 7, 4)
    assert right.shape == (2, 3, 4, 5)
    assert [name for name, _ in layer.named_parameters()] == ["A", "B"]
    with pytest.raises(ValueError, match="7 x 5"):
        lora.LoRALinear(W, gauss(7, 2), gauss(2, 6))


def test_inverse():
    M = gauss(4, 5, 9)
    M = M @ M.mT
    torch.testing.assert_close(lora.inverse(M), torch.linalg.inv(M))


def test_pro_gradients_minimise_for_every_c():
    G, A, B = gauss(8, 6), gauss(8, 2, seed=1), gauss(2, 6, seed=2)
    P, Q = A @ torch.linalg.pinv(A), torch.linalg.pinv(B) @ B
    best = float(((torch.eye(8) - P) @ G @ (torch.eye(6) - Q)).norm())
    columns = [np.kron(np.eye(8), B.numpy().T), np.kron(A.numpy(), np.eye(6))]  # of vec(H_A B) and vec(A H_B), row-major
    solution, *_ = np.linalg.lstsq(np.hstack(columns), G.numpy().ravel(), rcond=None)
    assert np.linalg.norm(np.hstack(columns) @ solution - G.numpy().ravel()) == pytest.approx(best, rel=1e-10)
    for C in (None, 0 * gauss(2, 2), gauss(2, 2, seed=5)):
        H_A, H_B = lora.pro_gradients(A, B, G @ B.T, A.T @ G, C)
        assert float((H_A @ B + A @ H_B - G).norm()) == pytest.approx(best, rel=1e-10)
    H_A, H_B = lora.pro_gradients(A, B, G @ B.T, A.T @ G)
    a, b = torch.linalg.inv(A.T @ A), torch.linalg.inv(B @ B.T)
    torch.testing.assert_close(H_A, (torch.eye(8) - A @ a @ A.T / 2) @ G @ B.T @ b)
    torch.testing.assert_close(H_B, a @ A.T @ G @ (torch.eye(6) - B.T @ b @ B / 2))


def test_pro_sylvester_against_scipy():
    G, A, B = gauss(8, 6), gauss(8, 2, seed=1), gauss(2, 6, seed=2)
    right = -(A.T @ G @ B.T @ torch.linalg.inv(B @ B.T)).numpy()
    want = scipy.linalg.solve_sylvester((A.T @ A).numpy(), (B @ B.T).numpy(), right)
    np.testing.assert_allclose(lora.pro_sylvester(A, B, G @ B.T).numpy(), want, rtol=1e-9)


def test_lora_pro_steps_as_if_by_hand():
    W, A, B, x = gauss(6, 5), gauss(1, 6, 2, seed=1), gauss(1, 2, 5, seed=2), gauss(1, 9, 6, seed=3)
    layer = lora.LoRALinear(W, A, B, 2.0)
    opt = lora.LoRAPro([layer], optim.StackedSGD([layer.A, layer.B], torch.tensor([0.1])))
    layer(x).square().sum().backward()
    G = x[0].T @ (2 * x[0] @ W)
    H_A, H_B = lora.pro_gradients(A[0], B[0], G @ B[0].T, A[0].T @ G)
    opt.step()
    torch.testing.assert_close(layer.A[0], A[0] - 0.1 * H_A / 2)
    torch.testing.assert_close(layer.B[0], B[0] - 0.1 * H_B / 2)
    # to first order the step of the weight is the projection of the gradient, whatever the scale of the adapter
    P, Q = A[0] @ torch.linalg.pinv(A[0]), torch.linalg.pinv(B[0]) @ B[0]
    moved = 2.0 * ((layer.A[0] - A[0]) @ B[0] + A[0] @ (layer.B[0] - B[0]))
    torch.testing.assert_close(moved, -0.1 * (P @ G + G @ Q - P @ G @ Q))


class TestPeft:
    """The package peft 0.21.2, a linear layer of 16 inputs and 12 outputs, r = 4."""

    @staticmethod
    def adapted(init, rslora=False, alpha=16, **more):
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 12, bias=False))
        W = model[0].weight.detach().clone()
        config = peft.LoraConfig(r=4, lora_alpha=alpha, use_rslora=rslora, init_lora_weights=init, target_modules=["0"], **more)
        x = torch.randn(200, 16)
        if init == "lora_ga":
            from peft.tuners.lora.loraga import preprocess_loraga

            preprocess_loraga(model, config, lambda: model(x).square().sum().backward())
        layer = peft.get_peft_model(model, config).base_model.model[0]
        A, B = layer.lora_A["default"].weight.detach().T, layer.lora_B["default"].weight.detach().T
        return W.T, A, B, layer.scaling["default"], layer, x

    def test_scales_and_the_default_start(self):
        for rslora, name in ((False, "LoRA"), (True, "rsLoRA")):
            W, A, B, scale, _, _ = self.adapted(True, rslora)
            mine = lora.start(name, W, W, 4, torch.Generator().manual_seed(0))
            assert scale == mine.scale
            assert float(B.abs().max()) == float(mine.B.abs().max()) == 0
            assert float(A.abs().max()) <= 1 / math.sqrt(16)
            assert float(A.std()) == pytest.approx(float(mine.A.std()), rel=0.3)

    @pytest.mark.parametrize("alpha", [4, 16])
    def test_pissa(self, alpha):
        W, A, B, scale, layer, x = self.adapted("pissa", alpha=alpha)
        a, b = lora.pissa_init(W, 4, scale)
        signs = (A * a).sum(0).sign()
        torch.testing.assert_close(A, a * signs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(B, b * signs[:, None], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer(x), lora.LoRALinear(W, a, b, scale)(x), rtol=1e-4, atol=1e-4)

    def test_lora_ga_takes_the_same_directions_but_multiplies_b_by_singular_values(self):
        peft = pytest.importorskip("peft")
        config = peft.tuners.lora.LoraGAConfig()
        assert (config.direction, config.scale, config.stable_gamma) == ("ArB2r", "stable", 16)
        W, A, B, _, layer, x = self.adapted("lora_ga", rslora=True, lora_ga_config=config)
        G = x.T @ (2 * x @ W)
        mine = lora.start("LoRA-GA in peft", W, G, 4, torch.Generator())
        signs = (A * mine.A).sum(0).sign()
        torch.testing.assert_close(A, mine.A * signs, rtol=1e-3, atol=1e-4)
        signs = (B * mine.B).sum(1).sign()
        torch.testing.assert_close(B, mine.B * signs[:, None], rtol=1e-3, atol=1e-2)
        paper = lora.start("LoRA-GA", W, G, 4, torch.Generator())
        cosines = torch.nn.functional.cosine_similarity(B, paper.B, dim=1).abs()
        torch.testing.assert_close(cosines, torch.ones(4), rtol=1e-3, atol=1e-3)
        assert float(B.norm(dim=1).min() / paper.B.norm(dim=1).max()) > 10  # here the singular values are in the hundreds
        torch.testing.assert_close(layer(x), x @ W, rtol=1e-2, atol=5e-2)
