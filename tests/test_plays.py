"""The figures to drag: their numbers against Python, and what a reader does with them in a browser."""

import json
import math
import re

import numpy as np
import pytest
import scipy.special
import torch
from test_site import SITE, Visit, browser  # noqa: F401 - the fixture

from kexue_nb import budget, positions, ranks, simplex
from kexue_nb.checkout import Checkout
from kexue_nb.diffusion import cosine_log_snr, ddpm_schedule, shift_log_snr, su_schedule

CHECKOUT = Checkout.here()
STATIC = CHECKOUT.root / "book" / "_static"
PLACES = {
    name: f"{CHECKOUT.posts[slug].document}.html"
    for slug in CHECKOUT.written()
    for name in re.findall(r'class="kx-play" data-play="([\w-]+)"', CHECKOUT.source(slug).read_text(encoding="utf-8"))
}
NAMES = sorted(path.stem for path in (STATIC / "plays").glob("*.js"))


@pytest.fixture(scope="module")
def compute(browser):  # noqa: F811
    """compute(name, **values): the numbers of a figure at its defaults, but for the values given."""
    page = browser.new_page()
    page.set_content("<!doctype html><html><body></body></html>")
    for file in [STATIC / "play.js", *sorted((STATIC / "plays").glob("*.js"))]:
        page.add_script_tag(path=str(file))

    def run(name, **values):
        # JSON has no infinity: none of the results compared here is one
        text = page.evaluate(
            "([name, values]) => JSON.stringify(kexuePlays[name].compute({ ...kexuePlays[name].defaults, ...values }))", [name, values]
        )
        return json.loads(text)

    yield run
    page.close()


def test_every_figure_has_its_place_and_every_place_its_figure():
    assert sorted(PLACES) == NAMES
    assert len(set(PLACES.values())) >= 9


# The numbers


@pytest.mark.parametrize(("b", "d"), [(1e4, 128), (8.4e4, 128), (120_000, 128), (500, 64), (3e5, 256), (2e3, 32)])
def test_rope_base(compute, b, d):
    got = compute("rope-base", b=b, d=d)
    assert got["N"] == positions.first_violation(b, d, 65536)
    distance, curve = np.array(got["curve"]).T
    exact = positions.cosine_sum(positions.rope_frequencies(d, b), 65536).numpy()
    np.testing.assert_allclose(curve, exact[distance.astype(int)], atol=1e-8)
    for base, reach in got["near"][::6]:
        assert reach == positions.first_violation(base, d, 65536)


def mean_gradient(alpha, n):
    """E of alpha (1 - sum p^2) over n normal scores, where the figure has E sum ps: 1/Z^2 = integral of t exp(-tZ), t = exp(-alpha u)."""
    s, u = np.linspace(-8, 8, 2001), np.linspace(-10, 10 + 25 / alpha, 2000)
    mass = np.exp(-(s**2) / 2) / math.sqrt(2 * math.pi) * (s[1] - s[0])
    te = np.exp(np.minimum(alpha * (s - u[:, None]), 40))
    kept = np.exp(-te)
    squares = alpha * n * (u[1] - u[0]) * float((te**2 * kept @ mass) @ np.clip(kept @ mass, 0, 1) ** (n - 1))
    return alpha * (1 - squares)


@pytest.mark.parametrize(("n", "alpha"), [(10, 0.3), (128, 1.5), (1000, 2.0), (1000, 6.0), (10_000, 20.0)])
def test_attention_scale(compute, n, alpha):
    got = compute("attention-scale", n=n, alpha=alpha)
    f, mean, one = got["here"]
    assert f == pytest.approx(alpha * (1 - math.exp(alpha**2) / n), rel=1e-12)
    assert mean == pytest.approx(mean_gradient(alpha, n), rel=2e-4)
    assert got["annealed"] == pytest.approx(math.sqrt(float(scipy.special.lambertw(n * math.sqrt(math.e) / 2).real) - 0.5), rel=1e-9)
    assert got["root"] == pytest.approx(math.sqrt(math.log(n)), rel=1e-12)
    alphas, curve = np.array(got["mean"]).T
    assert curve[12] == pytest.approx(mean_gradient(alphas[12], n), rel=2e-4)
    assert (np.diff(curve) > -1e-3).all(), "the mean has no interior maximum"
    assert 0 < one < alpha


def test_a_draw_of_attention_scale(compute, browser):  # noqa: F811
    page = browser.new_page()
    page.set_content("<!doctype html><html><body></body></html>")
    page.add_script_tag(path=str(STATIC / "play.js"))
    for n, draw, alpha in ((1000, 1, 2.0), (100, 7, 5.0), (3000, 3, 0.7)):
        scores = np.array(page.evaluate("([n, draw]) => kexuePlay.normals(n, draw)", [n, draw]))
        assert abs(scores.mean()) < 4 / math.sqrt(n)
        assert scores.var() == pytest.approx(1, abs=6 / math.sqrt(n))
        p = scipy.special.softmax(alpha * scores)
        assert compute("attention-scale", n=n, draw=draw, alpha=alpha)["here"][2] == pytest.approx(alpha * (1 - (p**2).sum()), rel=1e-10)
    page.close()


@pytest.mark.parametrize(
    ("rule", "T", "last"), [("the post's", 1000, 0.02), ("the paper's", 1000, 0.02), ("the post's", 50, 0.3), ("the paper's", 100, 0.1)]
)
def test_ddpm_vae(compute, rule, T, last):
    got = compute("ddpm-vae", rule=rule, T=T, last=last)
    t = np.arange(1, T + 1)
    square = last * t / T if rule == "the post's" else np.linspace(1e-4, last, T)
    log_bar_alpha = 0.5 * np.log(1 - square).cumsum()
    if last == 0.02:
        ours = su_schedule(T) if rule == "the post's" else ddpm_schedule(T)
        np.testing.assert_allclose(log_bar_alpha, ours.log_bar_alpha[1:].numpy(), rtol=1e-10)
    a2 = np.exp(2 * log_bar_alpha)
    np.testing.assert_allclose(np.array(got["signal"])[1:, 1], np.sqrt(a2), rtol=1e-9)
    np.testing.assert_allclose(np.array(got["logSnr"])[:, 1], np.log(a2 / (1 - a2)), atol=1e-9)
    assert got["end"] == pytest.approx(a2[-1], rel=1e-9)
    assert got["price"] == pytest.approx((a2[-1] + (1 - a2[-1]) - 1 - math.log(1 - a2[-1])) / 2, rel=1e-6)
    x, bound = np.array(got["bound"]).T
    np.testing.assert_allclose(bound, np.exp(-last / 4 * T * x * (T * x + 1) / T), rtol=1e-9)


@pytest.mark.parametrize(("s", "k", "a"), [(16, 1, 4), (8, 8, 4), (64, 2, 2.5)])
@pytest.mark.parametrize("kind", ["one shift", "interpolated", "swapped"])
def test_diffusion_snr(compute, s, k, a, kind):
    got = compute("diffusion-snr", s=s, k=k, a=a, kind=kind)
    t, own = np.array(got["own"]).T
    gain = {"one shift": k, "interpolated": k**t, "swapped": k ** (1 - t)}[kind]
    ours = shift_log_snr(cosine_log_snr(torch.tensor(t), 40.0), torch.tensor(gain)).numpy()
    np.testing.assert_allclose(own, ours, atol=1e-5)
    np.testing.assert_allclose(np.array(got["coarse"])[:, 1], own + 2 * math.log(s), atol=1e-9)
    fine = (np.arange(100_000) + 0.5) / 100_000
    gain = {"one shift": k, "interpolated": k**fine, "swapped": k ** (1 - fine)}[kind]
    counted = (np.abs(-2 * np.log(np.tan(np.pi * fine / 2)) - 2 * np.log(gain) + 2 * np.log(s)) <= a).mean()
    assert got["share"] == pytest.approx(counted, abs=2e-5 if kind == "one shift" else 0.01)
    if kind == "one shift":
        assert -2 * math.log(math.tan(math.pi * got["passes"] / 2)) + 2 * math.log(s / k) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("knee", "power", "floor"), [(10, 0.5, 1e-2), (99, 1.0, 1e-6), (3, 2.0, 1.0), (40, 0.0, 0.1)])
def test_effective_rank(compute, knee, power, floor):
    got = compute("effective-rank", knee=knee, power=power, floor=floor)
    i = np.arange(1, 101)
    sigma = torch.tensor(np.where(i <= knee, i**-power, floor * knee**-power))
    np.testing.assert_allclose(got["sigma"], sigma.numpy(), rtol=1e-12)
    expected = {"rank": 100.0} | {name: float(value) for name, value in ranks.all_measures(sigma).items()}
    assert got["measures"] == pytest.approx(expected, rel=1e-9)
    for gamma, curve in enumerate(got["curves"], 1):
        for x, value in curve[::20]:
            assert value == pytest.approx(float(ranks.effective_rank(sigma, x / (1 - x) if x < 1 else math.inf, gamma)), rel=1e-9)


@pytest.mark.parametrize(("steps", "a", "b", "c"), [(5, 3.4445, -4.775, 2.0315), (12, 1.875, -1.25, 0.375), (1, 3, -3, 1)])
def test_muon(compute, steps, a, b, c):
    got = compute("muon", steps=steps, a=a, b=b, c=c, x=0.03)
    start, after = np.array(got["after"]).T
    x, orbit = start.copy(), [0.03]
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
        orbit.append(a * orbit[-1] + b * orbit[-1] ** 3 + c * orbit[-1] ** 5)
    np.testing.assert_allclose(after, x, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got["orbit"], orbit, rtol=1e-9)
    assert (got["lowest"], got["highest"]) == pytest.approx((x[start >= 0.0015].min(), x[start >= 0.0015].max()), rel=1e-8)
    assert (got["one"], got["growth"]) == pytest.approx((a + b + c, a**steps), rel=1e-12)


@pytest.mark.parametrize(("N", "a", "b"), [(12, 0.0, 0.0), (100, 0.25, 0.25), (1000, 0.5, 0.5), (30, 0.0, 0.5)])
def test_deepnet(compute, N, a, b):
    got = compute("deepnet", N=N, a=a, b=b)
    S = 2 * N
    assert got["change"] == pytest.approx(
        {"SGD": S ** (1 - 2 * a - 2 * b), "Adam, Muon": S ** (1 - a - b), "LAMB": S ** (1 - a - 2 * b)}, rel=1e-9
    )
    alpha, lam, rho, gaps = S**a, S**-b, 0.0, [1.0]
    c = 2 * 4 / 5**2
    for _ in range(N):  # the two formulas of the notebook, n = 32, r = 4
        m = (1 + 31 * rho) / 32
        rho = (alpha**2 * rho + lam**4 * m) / (alpha**2 + lam**4 * m)
        kappa = (math.sqrt(1 - rho**2) + (math.pi - math.acos(rho)) * rho) / math.pi
        rho = (alpha**2 * rho + c * lam**4 * kappa) / (alpha**2 + c * lam**4)
        gaps.append(1 - rho)
    np.testing.assert_allclose(got["gap"], gaps, rtol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.5, 2.0, 2.75])
@pytest.mark.parametrize("logits", [[1.2, 0.7, 0.0, -0.5, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0], [3.0, 2.9, -3.0, 1.0, 2.0]])
def test_softmax_alternatives(compute, alpha, logits):
    got = compute("softmax-alternatives", alpha=alpha, **{f"x{i}": x for i, x in enumerate(logits, 1)})
    x = torch.tensor(logits, dtype=torch.float64)
    np.testing.assert_allclose(got["p"], simplex.entmax(x, alpha).numpy(), atol=1e-9)
    np.testing.assert_allclose(got["soft"], torch.softmax(x, 0).numpy(), atol=1e-12)
    for i, path in enumerate(got["paths"]):
        for order, p in path[::20]:
            assert p == pytest.approx(float(simplex.entmax(x, order)[i]), abs=1e-9)


@pytest.mark.parametrize(("rule", "ours"), [("two-term (4)", "two-term"), ("one-sided (5)", "one-sided"), ("simplified (6)", "simplified")])
@pytest.mark.parametrize(("k", "rate", "start"), [(1.0, 2e-3, (-0.345, -0.62)), (0.6, 5e-3, (-0.65, -0.66)), (1.4, 1e-2, (-0.4, -0.3))])
def test_moe_dynamic_budget(compute, rule, ours, k, rate, start):
    got = compute("moe-dynamic-budget", rule=rule, k=k, rate=rate, b1=start[0], b2=start[1])
    bias = torch.tensor(start, dtype=torch.float64)
    means = torch.tensor([0.2, -0.2], dtype=torch.float64)
    for step in range(301):
        load = torch.special.ndtr((means - torch.logit(-bias)) / 0.3)
        np.testing.assert_allclose(got["path"][step], bias.numpy(), atol=1e-9, err_msg=f"step {step}")
        np.testing.assert_allclose(got["load"][step], load.numpy(), atol=1e-9)
        budget.steer_(bias, load, k, rate, ours)
    goal = [-float(scipy.special.expit(m + 0.3 * scipy.special.ndtri(1 - k / 2))) for m in (0.2, -0.2)]
    np.testing.assert_allclose(got["goal"], goal, atol=1e-9)


@pytest.mark.parametrize(("mean", "ratio", "beta", "gamma"), [(2, 0.25, 0, 0), (2, 0.25, 1, 1), (4, 0.05, 0.5, 1), (0.3, 0.8, 0, 0.4)])
def test_bert_whitening(compute, mean, ratio, beta, gamma):
    got = compute("bert-whitening", mean=mean, ratio=ratio, beta=beta, gamma=gamma)
    X = np.array(got["cloud"])
    Z = X - beta * X.mean(0)
    lam, U = np.linalg.eigh(Z.T @ Z / len(Z))
    rows = Z @ U[:, ::-1] * lam[::-1] ** (-gamma / 2)
    np.testing.assert_allclose(got["lambda"], lam[::-1], rtol=1e-8)
    for key, vectors in (("before", X), ("after", rows)):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.tril_indices(len(X), -1)]
        assert got[key]["mean"] == pytest.approx(cosines.mean(), abs=1e-9)
        np.testing.assert_allclose(got[key]["shares"], np.histogram(cosines, 40, (-1, 1 + 1e-12))[0] / len(cosines), atol=3e-4)
        assert got["marked"][key == "after"] == pytest.approx(float(unit[0] @ unit[1]), abs=1e-9)


@pytest.mark.parametrize(
    ("method", "s", "L", "tau"), [("YaRN", 8, 4096, 32), ("YaRN", 4, 2048, 16), ("NTK-aware", 8, 4096, 32), ("interpolation", 3, 8192, 32)]
)
@pytest.mark.parametrize("text", [2.0, 8.0])
def test_length_extrapolation(compute, method, s, L, tau, text):
    got = compute("length-extrapolation", method=method, s=s, L=L, tau=tau, text=text)
    theta = positions.rope_frequencies(128)
    scaled = {
        "YaRN": lambda: positions.ntk_by_parts_frequencies(128, s, L, fast=tau),
        "NTK-aware": lambda: positions.ntk_frequencies(128, s),
        "interpolation": lambda: positions.interpolated_frequencies(theta, s),
    }[method]()
    ratio, turns = (scaled / theta).numpy(), positions.turns(theta, L).numpy()
    np.testing.assert_allclose(got["ratio"], ratio, rtol=1e-10)
    np.testing.assert_allclose(got["turns"], turns, rtol=1e-10)
    assert got["beyond"] == int(((turns < 1) & (text * ratio > 1 + 1e-9)).sum())
    if method == "YaRN" and (s, L) == (8, 4096):
        assert (got["kept"], got["full"]) == (21, 18)  # D7 of the notebook


# The page


def shown(page, name):
    """The readout of a figure, and the paths of its curves."""
    figure = page.locator(f'.kx-play[data-play="{name}"]')
    return figure.locator(".kx-readout").inner_text(), figure.locator(".kx-panel svg[role=img]").evaluate_all(
        "all => all.map(s => s.innerHTML).join('')"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_slider_moves_by_keyboard_and_the_figure_follows(browser, name, width, scheme):  # noqa: F811
    visit = Visit(browser, PLACES[name], width, scheme)
    page = visit.page
    figure = page.locator(f'.kx-play[data-play="{name}"]')
    figure.scroll_into_view_if_needed()
    assert figure.locator(".kx-still").first.is_hidden()
    for slider in figure.locator("input[type=range]").all():
        before = shown(page, name), slider.get_attribute("aria-valuetext")
        slider.focus()
        at_end = slider.evaluate("s => Number(s.value) >= Number(s.max)")
        for _ in range(6):
            page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        page.wait_for_timeout(150)
        after = shown(page, name), slider.get_attribute("aria-valuetext")
        assert after[1] != before[1], "the slider says its value"
        knob = slider.get_attribute("data-knob")
        if (name, knob) not in {("length-extrapolation", "tau")} or "YaRN" in before[0][0]:
            assert after[0][1] != before[0][1], f"the curve follows {knob}"
            assert after[0][0] != before[0][0], f"the readout follows {knob}"
    figure.get_by_role("button", name="Reset").click()
    page.wait_for_timeout(150)
    colours = figure.locator(".kx-panel svg[role=img]").evaluate_all(
        """all => all.map(svg => [...svg.querySelectorAll('.kx-line, .kx-dot')]
            .filter(e => Math.max(e.getBBox().width, e.getBBox().height) > 3).map(e => getComputedStyle(e).color))"""
    )
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(len(panel) >= 1 for panel in colours), "every panel has ink"
    assert all(colour != ground for panel in colours for colour in panel)
    assert len({colour for panel in colours for colour in panel}) >= 2, "the palette of the page is used"
    for svg in figure.locator(".kx-panel svg[role=img]").all():
        assert figure.locator(".kx-readout").inner_text() in svg.get_attribute("aria-label")
        assert svg.bounding_box()["width"] <= width
    assert visit.faults == []
    assert visit.outside == []
    visit.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_drag_in_the_axes_sets_a_slider(browser, name):  # noqa: F811
    visit = Visit(browser, PLACES[name])
    page = visit.page
    axes = page.locator(f'.kx-play[data-play="{name}"] svg.kx-drag')
    if axes.count() == 0:
        pytest.skip("this figure has sliders alone")
    axes.first.scroll_into_view_if_needed()
    before = shown(page, name)[0]
    box = axes.first.bounding_box()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.3 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_timeout(150)
    assert shown(page, name)[0] != before
    visit.close()


@pytest.mark.parametrize("name", NAMES)
def test_without_javascript_a_sentence_stands_in_its_place(browser, name):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{SITE / PLACES[name]}")
    place = page.locator(f'.kx-play[data-play="{name}"]')
    assert place.locator("p").is_visible()
    assert "In the book on the web this is a figure to drag:" in place.inner_text()
    assert "Try:" in place.inner_text()
    context.close()


def test_a_page_without_figures_loads_none_of_it(browser):  # noqa: F811
    visit = Visit(browser, "book/about.html")
    assert not {"play.js", "play.css"} & {f.name for f in visit.files}
    visit.close()
    visit = Visit(browser, PLACES["rope-base"])
    assert {"play.js", "play.css", "rope-base.js"} <= {f.name for f in visit.files}
    visit.close()
