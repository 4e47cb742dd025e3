"""Draw book/_static/card.png, the picture that a shared link shows (1200 x 630). The same bytes on every run with the pinned matplotlib.

python scripts/card.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from kexue_nb.positions import first_violation

INK, PAPER, BLUE = "#1f2933", "#fbfaf7", "#0072b2"


def draw(file: Path) -> None:
    """The title, and how far each base of RoPE reaches (rope-base)."""
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
    bases = np.geomspace(1e4, 1e6, 700)
    axes.plot(bases, [first_violation(b, 128, 2**15) or 2**15 for b in bases.tolist()], ".", color=BLUE, markersize=5)
    axes.set(xscale="log", yscale="log", xticks=[], yticks=[])
    axes.minorticks_off()
    axes.set_xlabel("base of RoPE", fontsize=17, color=INK)
    axes.set_ylabel("usable context", fontsize=17, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parents[1] / "book" / "_static" / "card.png")
