"""Pictures whose bytes depend on nothing but the drawing, and the style that they are drawn in."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from kexue_nb import plotting


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def drawing(shift=0.0, lines=2):
    figure, axes = plt.subplots()
    for i in range(lines):
        axes.plot([0, 1, 2], [i, 1 + shift, 2], label=str(i))
    axes.set_title("a title")
    return figure


@pytest.mark.parametrize(("dpi", "colors"), [(144, 128), (50, 16)])
def test_same_drawing_same_bytes(dpi, colors):
    first, again, other = (plotting.png(drawing(shift), dpi, colors) for shift in (0, 0, 0.5))
    assert first == again != other
    picture = Image.open(io.BytesIO(first))
    picture.load()
    assert (picture.format, picture.mode) == ("PNG", "P")
    assert picture.size == (int(7.2 * dpi), int(3.8 * dpi))
    assert len(picture.getcolors()) <= colors
    assert not picture.info.get("Software")


def test_png_is_close_to_the_drawing_and_smaller():
    figure, raw = drawing(), io.BytesIO()
    figure.savefig(raw, dpi=100)
    small = plotting.png(figure, dpi=100)
    assert len(small) < len(raw.getvalue())
    pixels = [np.asarray(Image.open(io.BytesIO(b)).convert("RGB"), dtype=float) for b in (small, raw.getvalue())]
    assert np.abs(pixels[0] - pixels[1]).mean() < 3
    assert tuple(pixels[0][0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("colors", [0, 257])
def test_a_palette_has_1_to_256_colors(colors):
    with pytest.raises(ValueError, match="colors"):
        plotting.png(drawing(), 50, colors)


def test_lines_differ_in_color_dash_and_lightness():
    cycle = list(plt.rcParams["axes.prop_cycle"])
    assert [c["color"] for c in cycle] == list(plotting.COLORS)
    assert len({str(c["linestyle"]) for c in cycle}) == len(set(plotting.COLORS)) == len(cycle)
    grey = [np.dot(matplotlib.colors.to_rgb(c), (0.2126, 0.7152, 0.0722)) for c in plotting.COLORS]
    assert all(abs(a - b) > 0.05 for a, b in itertools.pairwise(grey))
    assert plt.rcParams["savefig.facecolor"] == "white"


def test_pictures_in_rows():
    import torch

    sheet = plotting.tile(torch.stack([torch.full((2, 2), v) for v in (-1.0, 0.5, 1.0, 3.0)]), 2)
    assert sheet.shape == (8, 8)
    assert sheet[1:3, 1:3].tolist() == [[-1, -1], [-1, -1]]
    assert sheet[5:7, 5:7].tolist() == [[1, 1], [1, 1]], "clipped"
    assert set(sheet[0].tolist()) == {0}
    with pytest.raises(ValueError, match="in rows of 3"):
        plotting.tile(torch.zeros(4, 2, 2), 3)


def test_pictures_that_require_gradients():
    assert plotting.tile(torch.zeros(2, 2, 2, requires_grad=True), 2).shape == (4, 8)
