"""Draw book/_static/card.png, the picture that a shared link shows (1200 x 630). The same bytes on every run with the pinned matplotlib.

python scripts/card.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, PAPER, ACCENTS = "#1f2933", "#fbfaf7", ("#0072b2", "#009e73", "#d55e00")


def draw(file: Path) -> None:
    """The title, and the attention gradient of the first notebook against its scale, for three context lengths."""
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
    figure.text(0.06, 0.76, "Scientific Spaces,\nexecuted", fontsize=46, color=INK, weight="bold", va="center", linespacing=1.15)
    figure.text(
        0.06,
        0.47,
        "37 posts of Su Jianlin's blog:\nevery formula derived again, every\nexperiment run, every claim with\na verdict and its evidence",
        fontsize=22,
        color=INK,
        va="center",
        linespacing=1.4,
    )
    figure.text(0.06, 0.14, "Python notebooks · SymPy · PyTorch", fontsize=18, color="#52606d", va="center")
    axes = figure.add_axes((0.62, 0.15, 0.34, 0.58), facecolor=PAPER)
    scale = np.linspace(0, 4, 400)
    for n, color in zip((16, 256, 4096), ACCENTS, strict=True):
        gradient = scale * (1 - np.exp(scale**2) / n)
        axes.plot(scale, np.where(gradient >= 0, gradient, np.nan), color=color, linewidth=4)
        best = np.nanargmax(gradient)
        axes.annotate(f"n = {n}", (scale[best], gradient[best]), (12, 10), textcoords="offset points", fontsize=17, color=color)
    axes.set(xlim=(0, 3.2), ylim=(0, 2.9), xticks=[], yticks=[])
    axes.set_xlabel("attention scale", fontsize=17, color=INK)
    axes.set_ylabel("gradient of the softmax", fontsize=17, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parents[1] / "book" / "_static" / "card.png")
