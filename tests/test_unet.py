"""The U-Net's contract with the notebooks that open it, its preconditioning, and the digit classifier."""

import copy

import pytest
import torch

from kexue_nb import data
from kexue_nb.unet import DigitClassifier, NoiseLevelFeatures, Preconditioned, UNet


def awake(**options):
    """A U-Net whose last convolution is not zero."""
    torch.manual_seed(0)
    net = UNet(**options)
    torch.nn.init.normal_(net.outlet[-1].weight, std=0.1)
    return net


X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LEVEL = torch.tensor([-1.0, 0.5, 2.0])


@pytest.mark.parametrize(("multipliers", "skips", "parameters"), [((1, 2), 4, 138_753), ((1, 2, 2), 6, 223_585)])
def test_size_and_skips(multipliers, skips, parameters):
    net = UNet(multipliers=multipliers)
    assert (net.skips, sum(p.numel() for p in net.parameters())) == (skips, parameters)
    assert torch.equal(net(X, LEVEL), torch.zeros_like(X)), "the last convolution starts at zero"


@pytest.mark.parametrize("skip", ["concatenate", "add"])
def test_every_skip_has_its_own_factor(skip):
    net = awake(multipliers=(1, 2), skip=skip)
    plain = net(X, LEVEL)
    torch.testing.assert_close(net(X, LEVEL, [1.0] * 4), plain)
    changed = [net(X, LEVEL, [0.5 if i == j else 1.0 for j in range(4)]) for i in range(4)]
    assert all(float((c - plain).detach().abs().max()) > 1e-3 for c in changed)
    with pytest.raises(ValueError, match="3 skip scales for 4"):
        net(X, LEVEL, [1.0] * 3)


def test_skip_0_is_the_input_convolution_and_the_last_the_innermost_block():
    net = awake(multipliers=(1, 2))
    seen = {}
    net.inlet.register_forward_hook(lambda m, i, o: seen.setdefault("outer", o))
    net.encoder[-1].register_forward_hook(lambda m, i, o: seen.setdefault("inner", o))
    inputs = []
    for block in net.decoder:
        block.register_forward_hook(lambda m, i, o: inputs.append(i[0]))
    net(X, LEVEL, [2.0, 1.0, 1.0, 3.0])
    torch.testing.assert_close(inputs[-1][:, -16:], 2 * seen["outer"])
    torch.testing.assert_close(inputs[0][:, -32:], 3 * seen["inner"])


def test_decoder_shortcuts_see_the_skip_without_a_norm():
    net = awake()
    assert all(isinstance(b.shortcut, torch.nn.Conv2d) and b.shortcut.kernel_size == (1, 1) for b in net.decoder)


def test_the_bottleneck_is_returned_and_nothing_stays_behind():
    net = awake(multipliers=(1, 2, 2))
    out, bottleneck = net(X, LEVEL, return_bottleneck=True)
    assert bottleneck.shape == (3, 32, 2, 2)
    assert bottleneck.requires_grad
    torch.testing.assert_close(copy.deepcopy(net)(X, LEVEL), out)


def test_one_noise_level_for_all_is_that_level_for_each():
    net = awake()
    torch.testing.assert_close(net(X, torch.tensor(0.5)), net(X, torch.full((3,), 0.5)))
    torch.testing.assert_close(net(X, LEVEL)[1:2], net(X[1:2], LEVEL[1:2]))
    assert float((net(X, torch.tensor(0.5)) - net(X, torch.tensor(0.6))).detach().abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 12}, "width=12"), ({"multipliers": ()}, "multipliers"), ({"skip": "none"}, "skip='none'")]
)
def test_options_that_make_no_net(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**options)


def test_pictures_that_cannot_be_halved():
    with pytest.raises(ValueError, match="divisible by 4"):
        UNet(multipliers=(1, 2, 2))(torch.zeros(1, 1, 6, 6), torch.tensor(0.0))


def test_preconditioning_gives_the_network_unit_variance():
    s, seen = 0.5, {}

    class Spy(torch.nn.Module):
        def forward(self, x, log_sigma):
            seen.update(x=x, log_sigma=log_sigma)
            return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(0)
    x0, noise = s * torch.randn(200_000, 1, generator=generator), torch.randn(200_000, 1, generator=generator)
    for sigma in (0.05, 0.5, 20.0):
        x, level = x0 + sigma * noise, torch.tensor(sigma)
        D = Preconditioned(Spy(), s)(x, level)
        c_out = sigma * s / (sigma**2 + s**2) ** 0.5
        assert float(seen["x"].var()) == pytest.approx(1, rel=0.02)
        assert float(((x0 - D) / c_out).var()) == pytest.approx(1, rel=0.02), "the target of the inner network"
        torch.testing.assert_close(seen["log_sigma"], torch.full((200_000,), sigma).log())
        torch.testing.assert_close(Preconditioned(Spy(), s).eps(x, sigma), (x - D) / sigma)
    with pytest.raises(ValueError, match="sigma_data=0"):
        Preconditioned(Spy(), 0)


def test_the_classifier_has_32_bounded_features():
    classifier = DigitClassifier(8)
    features = classifier.features(X)
    assert features.shape == (3, 32)
    assert float(features.detach().abs().max()) <= 1
    assert classifier(X).shape == (3, 10)
    with pytest.raises(ValueError, match="size=3"):
        DigitClassifier(3)


def test_pictures_are_split_and_scaled():
    digits = data.pictures("digits8")
    assert digits.train.shape == (1200, 1, 8, 8)
    assert digits.test.shape == (597, 1, 8, 8)
    assert (float(digits.train.min()), float(digits.train.max())) == (-1, 1)
    both = torch.cat([digits.train, digits.test]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, (data.digits8x8()[0] / 8 - 1).flatten(1).tolist()))
    images, labels = data.digits8x8()
    at = (images.flatten(1) / 8 - 1 == digits.test[0].flatten()).all(1).nonzero().flatten()
    assert int(digits.test_labels[0]) in labels[at].tolist()
    with pytest.raises(ValueError, match="no pictures 'x'"):
        data.pictures("x")


def test_noise_levels_are_seen_at_frequencies_from_a_quarter_to_sixteen():
    frequencies = NoiseLevelFeatures().frequencies
    assert frequencies[0] == pytest.approx(0.25)
    assert frequencies[-1] == pytest.approx(16)
    ratios = frequencies[1:] / frequencies[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
