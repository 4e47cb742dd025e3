"""Small networks for pictures: the U-Net of the diffusion notebooks, its preconditioning, and the classifier behind the quality metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING = 64


class NoiseLevelFeatures(nn.Module):
    """log sigma -> 64 features: sines and cosines at 32 frequencies from 0.25 to 16, then a two-layer MLP."""

    def __init__(self):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), EMBEDDING // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING * 2), nn.SiLU(), nn.Linear(EMBEDDING * 2, EMBEDDING))

    def forward(self, log_sigma: Tensor) -> Tensor:
        angles = log_sigma[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))


class ResidualBlock(nn.Module):
    """Pre-activation: norm, SiLU, conv, plus noise features, norm, SiLU, conv; a plain 1x1 shortcut where asked for."""

    def __init__(self, inputs: int, outputs: int, *, shortcut: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.level = nn.Linear(EMBEDDING, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if shortcut else nn.Identity()

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.level(F.silu(features))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    """A noise predictor for pictures (N, channels, h, w) in VP scale, h and w divisible by 2^(levels - 1).

    ``width`` times ``multipliers`` are the channels of the levels, ``blocks`` the residual blocks of each. There are
    ``skips = len(multipliers) * (blocks + 1)`` skip connections: the input convolution, every encoder block and every pooling.
    Each is concatenated (``skip="concatenate"``) or, through a 1x1 convolution to the decoder's width, added (``"add"``). The
    shortcut of a decoder block sees the skip without a norm, so that scaling a skip changes the output. The last convolution
    starts at zero.
    """

    def __init__(
        self, channels: int = 1, width: int = 16, multipliers: Sequence[int] = (1, 2), blocks: int = 1, *, skip: str = "concatenate"
    ):
        super().__init__()
        if width % 8 or width < 8 or blocks < 1 or not multipliers or min(multipliers) < 1:
            raise ValueError(
                f"width={width}, multipliers={tuple(multipliers)}, blocks={blocks}: give a width divisible by 8, and positive counts"
            )
        if skip not in ("concatenate", "add"):
            raise ValueError(f"skip={skip!r}: give 'concatenate' or 'add'")
        self.blocks, self.levels = blocks, len(multipliers)
        widths = [width * m for m in multipliers]
        self.features = NoiseLevelFeatures()
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.project = nn.ModuleList() if skip == "add" else None
        kept, now = [width], width
        for level, w in enumerate(widths):
            for _ in range(blocks):
                self.encoder.append(ResidualBlock(now, w, shortcut=now != w))
                now = w
                kept.append(now)
            if level < self.levels - 1:
                kept.append(now)
        self.skips = len(kept)
        self.middle = ResidualBlock(now, now, shortcut=False)
        for w in reversed(widths):
            for _ in range(blocks + 1):
                side = kept.pop()
                if self.project is not None:
                    self.project.append(nn.Conv2d(side, now, 1))
                self.decoder.append(ResidualBlock(now if self.project is not None else now + side, w, shortcut=True))
                now = w
        self.outlet = nn.Sequential(nn.GroupNorm(8, now), nn.SiLU(), nn.Conv2d(now, channels, 3, padding=1))
        nn.init.zeros_(self.outlet[-1].weight)
        nn.init.zeros_(self.outlet[-1].bias)

    def forward(self, x: Tensor, log_sigma: Tensor, skip_scale: Sequence[float] | Tensor | None = None, *, return_bottleneck: bool = False):
        """Predicted noise, shape of ``x``; with ``return_bottleneck`` also the innermost activation (N, c, h', w').

        ``log_sigma`` is (N,) or a scalar. ``skip_scale`` gives each of the ``skips`` features its factor, index 0 being the
        outermost; None leaves them as they are.
        """
        step = 2 ** (self.levels - 1)
        if x.ndim != 4 or x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"x of shape {tuple(x.shape)}: give (N, channels, h, w) with h and w divisible by {step}")
        if skip_scale is not None and len(skip_scale) != self.skips:
            raise ValueError(f"{len(skip_scale)} skip scales for {self.skips} skip connections")
        features = self.features(log_sigma.to(x.dtype).expand(len(x)))
        h = self.inlet(x)
        kept = [h]
        for i, block in enumerate(self.encoder):
            h = block(h, features)
            kept.append(h)
            if (i + 1) % self.blocks == 0 and i + 1 < len(self.encoder):
                h = F.avg_pool2d(h, 2)
                kept.append(h)
        bottleneck = h = self.middle(h, features)
        for i, block in enumerate(self.decoder):
            if i and i % (self.blocks + 1) == 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            side = kept.pop()
            if skip_scale is not None:
                side = side * skip_scale[len(kept)]
            h = block(torch.cat([h, side], dim=1) if self.project is None else h + self.project[i](side), features)
        out = self.outlet(h)
        return (out, bottleneck) if return_bottleneck else out


class Preconditioned(nn.Module):
    """EDM's denoiser around a network F(x, log sigma) (arXiv 2206.00364, section 5): D(x, sigma) of VE pictures x.

    D = c_skip x + c_out F(c_in x, log sigma) with c_skip = s^2/(sigma^2+s^2), c_out = sigma s/sqrt(sigma^2+s^2),
    c_in = 1/sqrt(sigma^2+s^2), s = ``sigma_data``: for data of variance s^2 the network's input and target have unit variance.
    """

    def __init__(self, net: nn.Module, sigma_data: float):
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data={sigma_data}: give the positive standard deviation of the data")
        self.net, self.sigma_data = net, sigma_data

    def forward(self, x: Tensor, sigma: Tensor, **kwargs) -> Tensor:
        """Predicted x_0 for noise levels ``sigma``, a scalar or (N,)."""
        s = sigma.to(x.dtype).expand(len(x)).view(-1, *[1] * (x.ndim - 1))
        total = (s**2 + self.sigma_data**2).sqrt()
        inner = self.net(x / total, s.flatten().log(), **kwargs)
        return (self.sigma_data / total) ** 2 * x + s * self.sigma_data / total * inner

    def eps(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The noise predictor (x - D) / sigma."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return (x - self(x, sigma)) / sigma


class DigitClassifier(nn.Module):
    """Ten digits from pictures (N, 1, size, size); its 32 tanh features are the space of the Frechet distance."""

    def __init__(self, size: int):
        super().__init__()
        if size < 4:
            raise ValueError(f"size={size}: two poolings need pictures of at least 4 x 4")
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.hidden, self.head = nn.Linear(64 * (size // 4) ** 2, 32), nn.Linear(32, 10)

    def features(self, x: Tensor) -> Tensor:
        """(N, 32), each between -1 and 1."""
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.hidden(x.flatten(1)).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
