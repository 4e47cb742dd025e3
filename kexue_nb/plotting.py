"""Figure style: colour-blind-safe, distinguishable in grey, on a white card that stays readable on a dark page."""

from __future__ import annotations

import io

# Okabe and Ito's palette, reordered so that neighbours differ in lightness as well as in hue.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#007A5A", "#8E3B76", "#56B4E9", "#C44601"
BLACK, GREY = "#1b1b1b", "#6b6b6b"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)


def use_style() -> None:
    """Set the book's matplotlib style. Lines cycle through colour and dash together."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "figure.figsize": (7.2, 3.8),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]),
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "legend.framealpha": 0.9,
            "lines.linewidth": 1.8,
            "font.family": "DejaVu Sans",
        }
    )


def png(figure, dpi: int = 144, colors: int = 128) -> bytes:
    """The figure as a small PNG (palette of ``colors``) whose bytes depend on nothing but the drawing."""
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    raw.seek(0)
    small = io.BytesIO()
    Image.open(raw).convert("RGB").quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, format="PNG", optimize=True
    )
    return small.getvalue()


def tile(pictures, columns: int):
    """Pictures (N, s, s) in [-1, 1] as one array, ``columns`` a row, each in a grey frame; N must be a multiple of ``columns``."""
    import torch

    if pictures.ndim != 3 or len(pictures) % columns:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)} in rows of {columns}: give (N, s, s) with N a multiple of it")
    framed = torch.nn.functional.pad(pictures.detach().cpu().clamp(-1, 1), (1, 1, 1, 1), value=0.0)
    return torch.cat([torch.cat(list(row), 1) for row in framed.split(columns)]).numpy()
