# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DDCM: a picture as the list of noises that a sampler used
#
# [生成扩散模型漫谈（二十九）：用DDPM来离散编码](https://kexue.fm/archives/10711) · 2025-02-14 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/diffusion/ddcm.ipynb)
#
# **The point.** Let DDPM draw the noise of each step from $K$ fixed vectors, and choose the one that points towards a given picture: the
# list of choices is a code for it, and nothing was trained for that. It works. Of the post's two rules for choosing, which it holds to be
# nearly the same, the nearest vector does 13 to 38 times worse than the best aligned one, because a vector's *length* fluctuates more than
# its direction matters. Its third rule, a random draw, needs other weights. Two vectors a step fail when nothing guides the sampler; taking
# their mean away mostly repairs it. On MNIST the code beats WebP and JPEG at low rates (figure) if the network's own bits are free: at 0.37
# bits a pixel its error is a fifth of WebP's on a sheet of the same pictures. Below a quarter of a bit a linear transform fitted to the
# data is as good or better.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import io
import itertools
import math

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import scipy.integrate
import scipy.special
import sympy as sp
import torch
from PIL import Image

import kexue_nb
from kexue_nb import diffusion, ledger, metrics
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, tile
from kexue_nb.unet import DigitClassifier

# %% tags=["hide-input"]
nb = kexue_nb.notebook("ddcm")
su = diffusion.su_schedule()


def schedule(T):
    """The post's noise schedule at T equally spaced steps."""
    return su.respace(diffusion.linear_taus(1000, T))


def flat(teacher):
    """The teacher's noise predictor on pictures as vectors, (N, d) -> (N, d)."""
    shape = teacher.images.test.shape[1:]
    return lambda x, level: teacher.eps(x.view(-1, *shape), level).flatten(1)


def mse(x, x0):
    """Mean squared error a pixel on [-1, 1], the reconstruction rounded to 8 bits."""
    return float((((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1 - x0).square().mean())


# %% tags=["hide-input"]
def gamma(s, t):
    return float(s.bar_alpha[t - 1] * s.beta[t] ** 2 / s.bar_beta[t] ** 2)


def sigma(s, t):
    return float(s.bar_beta[t - 1] * s.beta[t] / s.bar_beta[t])  # 0 at t = 1


def reverse_step(eps, s, t, x):
    """The guess μ̄(x_t) of the picture and the mean μ(x_t) of DDPM's step, (N, d) each."""
    a, b, b0 = float(s.bar_alpha[t]), float(s.bar_beta[t]), float(s.bar_beta[t - 1])
    guess = x / a - b / a * eps(x / a, b / a)
    return guess, float(s.alpha[t]) * b0**2 / b**2 * x + gamma(s, t) * guess


# %% tags=["hide-input"]
def codebook(t, K, d, seed, device="cpu"):
    """The K noise vectors of step t, (K, d)."""
    return torch.randn(K, d, generator=torch.Generator(device).manual_seed(100_003 * seed + t), device=device)


def centred(C):
    """Without the mean, the variance restored; a single vector stays."""
    return (C - C.mean(0)) * math.sqrt(len(C) / (len(C) - 1)) if len(C) > 1 else C


def on_sphere(C):
    return C * math.sqrt(C.shape[1]) / C.norm(dim=1, keepdim=True)


def books(K, d, seed, device="cpu", kind="plain", cut=None):
    """t -> codebook. Above t = cut there is one vector, known to both sides: no bits. A shared book is that of t = 0 at every step."""
    change = {"centred": centred, "sphere": on_sphere}.get(kind, lambda C: C)
    return lambda t: change(codebook(0 if kind == "shared" else t, K if cut is None or t <= cut else 1, d, seed, device))


# %% tags=["hide-input"]
@torch.no_grad()
def ddcm(eps, s, x, book, choose, std=sigma):
    """From x_T (N, d) to x_0 (N, d) and the code (N, T-1); choose(t, guess, C) -> (N,) indices into C (K, d)."""
    code = []
    for t in range(s.T, 0, -1):
        guess, x = reverse_step(eps, s, t, x)
        if t > 1:
            C = book(t)
            code.append(choose(t, guess, C))
            x = x + std(s, t) * C[code[-1]]
    return x, torch.stack(code, 1)


# %% tags=["hide-input"]
def argmax(tau, C, generator):
    return (tau @ C.T).argmax(1)


def encode(eps, s, x0, book, seed, rule=argmax, std=sigma):
    """Every picture (N, d) steers its own chain, all from the one vector of codebook T + 1."""
    generator = torch.Generator(x0.device).manual_seed(900 + seed)
    start = codebook(s.T + 1, 1, x0.shape[1], seed, x0.device).to(x0.dtype).expand(len(x0), -1)
    return ddcm(eps, s, start, book, lambda t, guess, C: rule(gamma(s, t) / std(s, t) * (x0 - guess), C, generator), std)


def decode(eps, s, code, book, seed):
    C = book(2)
    start = codebook(s.T + 1, 1, C.shape[1], seed, C.device).to(C.dtype).expand(len(code), -1)
    return ddcm(eps, s, start, book, lambda t, guess, C: code[:, s.T - t])[0]


def bits(T, K, cut=None):
    return (min(T, cut or T) - 1) * math.log2(K)


# %% tags=["hide-input"]
@torch.no_grad()
def ideal(eps, s, x0, generator):
    """Along p(x_{t-1} | x_t, x_0): bits ½ m²/ln 2 a picture spent before step t and MSE of the guess then, (T, 2); t = T..1."""
    noise = lambda: torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    x, spent, rows = float(s.bar_alpha[-1]) * x0 + float(s.bar_beta[-1]) * noise(), 0.0, []
    for t in range(s.T, 0, -1):
        guess, mean = reverse_step(eps, s, t, x)
        rows.append([spent, float((guess.clamp(-1, 1) - x0).square().mean())])
        if t > 1:
            tau = gamma(s, t) / sigma(s, t) * (x0 - guess)
            spent += float(tau.square().sum(1).mean()) / 2 / math.log(2)
            x = mean + sigma(s, t) * (tau + noise())
    return rows


def thin(rows, keep=40):
    """At most keep rows, the first and the last among them."""
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, keep).round().astype(int))]


@torch.no_grad()
def mnist_rates(device, arms, seeds, pictures, ideal_counts):
    """MSE and share recognised as the original for arms [T, K, cut, kind] on MNIST test pictures, one row a codebook seed; the ideal curve."""
    teacher = diffusion.teacher("mnist28", device)
    eps, shape, x0 = flat(teacher), teacher.images.test.shape[1:], teacher.images.test[:pictures].flatten(1)
    name = lambda x: teacher.classifier(x.view(-1, *shape).clamp(-1, 1)).argmax(1)
    out, gap = {}, {}
    for T, K, cut, kind in arms:
        rows = []
        for seed in seeds:
            book = books(K, x0.shape[1], seed, device, kind, cut)
            x, code = encode(eps, schedule(T), x0, book, seed)
            rows.append([mse(x, x0), float((name(x) == name(x0)).double().mean())])
            if T not in gap:
                gap[T] = float((decode(eps, schedule(T), code, book, seed) - x).abs().max())
        out[f"{T} {K} {cut} {kind}"] = rows
    for T in ideal_counts:
        out[f"ideal {T}"] = [thin(ideal(eps, schedule(T), x0, torch.Generator(device).manual_seed(50 + seed))) for seed in seeds]
    return {"gap": gap, **out}


# %% tags=["hide-input"]
arms6 = [[T, K, T, "plain"] for T in (100, 300, 1000) for K in (2, 4, 16, 64, 256, 1024)]
arms6 += [[T, K, T, "centred"] for T in (100, 300) for K in (2, 4, 16)] + [[1000, 2, 1000, "centred"]]
arms6 += [
    [100, K, cut, "plain"] for cut, K in ((75, 16), (75, 64), (60, 64), (60, 1024), (50, 16), (50, 64), (50, 1024), (40, 64), (30, 1024))
]
arms6 += [[300, K, cut, "plain"] for cut, K in ((180, 4), (150, 4), (150, 16), (120, 16), (150, 64), (120, 256), (90, 64))]
arms6 += [[1000, 2, 500, "centred"], [1000, 4, 500, "plain"], [1000, 16, 300, "plain"]]
live6 = [[50, 64, 50, "plain"], [50, 64, 25, "plain"]]
e6 = nb.run(
    "E6",
    mnist_rates,
    arms=nb.at_scale(cpu=live6, gpu=live6, full=arms6 + live6),
    seeds=nb.at_scale(cpu=[0], gpu=[0], full=[0, 1]),
    pictures=nb.at_scale(cpu=6, gpu=100, full=100),
    ideal_counts=nb.at_scale(cpu=[], gpu=[], full=[100, 300, 1000]),
)
r6, full6 = nb.recorded("E6").result, nb.recorded("E6")
MNIST = f"full, MNIST, {full6.config['pictures']} pictures, {len(full6.config['seeds'])} codebook seeds"

# %% tags=["hide-input"]
mnist = diffusion.teacher("mnist28")
TARGET = mnist.images.test[: full6.config["pictures"], 0]
NAMES = mnist.classifier(TARGET[:, None]).argmax(1)
GREY8 = ((TARGET + 1) * 127.5).round().byte().numpy()
PIXELS = GREY8.size
COLUMNS = math.isqrt(len(GREY8))
while len(GREY8) % COLUMNS:
    COLUMNS -= 1


def scans(data):
    """Bytes of entropy-coded data in a JPEG file."""
    i, total = 2, 0
    while data[i + 1] != 0xD9:
        marker, i = data[i + 1], i + 2 + int.from_bytes(data[i + 2 : i + 4], "big")
        if marker == 0xDA:
            end = next(j for j in range(i, len(data)) if data[j] == 0xFF and data[j + 1] != 0 and not 0xD0 <= data[j + 1] <= 0xD7)
            total, i = total + end - i, end
    return total


def webp_payload(data):
    """Bytes of a lossy WebP file after its RIFF, chunk and frame headers (12 + 8 + 10)."""
    if data[12:16] != b"VP8 ":
        raise ValueError("not a simple lossy WebP file")
    return len(data) - 30


def save(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def load(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


# %% tags=["hide-input"]
def sheet(images, cell):
    """Pictures (N, 28, 28) in cells of a sheet, COLUMNS a row."""
    n = len(images) // COLUMNS
    padded = np.zeros((len(images), cell, cell), np.uint8)
    padded[:, :28, :28] = images
    return padded.reshape(n, COLUMNS, cell, cell).transpose(0, 2, 1, 3).reshape(n * cell, COLUMNS * cell)


def cut_out(image, cell):
    n = image.shape[0] // cell
    return image.reshape(n, cell, COLUMNS, cell).transpose(0, 2, 1, 3).reshape(-1, cell, cell)[:, :28, :28]


def measure(data, payload, images):
    """bits a pixel, the same without headers, MSE on [-1, 1], the decoded pictures (N, 28, 28) in [-1, 1]."""
    x = torch.from_numpy(images / 127.5 - 1).float()
    return *(8 * sum(map(f, data)) / PIXELS for f in (len, payload)), float((x - TARGET).square().mean()), x


def recognised(x):
    """Share of decoded pictures that the classifier names as the originals."""
    return float((mnist.classifier(x[:, None].float()).argmax(1) == NAMES).double().mean())


FINE = (*range(0, 17, 2), 18, 20, 23, 26, 30, 35, 40, 46, 53, 60, 68, 76, 88, 95, 100)
QUALITIES = {("JPEG", True): FINE, ("WEBP", True): (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.5, 2.5, *FINE)}  # WebP's is a real number
QUALITIES |= {(kind, False): (0, 2, 7, 14, 28, 50, 75, 93, 100) for kind in ("JPEG", "WEBP")}
OPTIONS = {("JPEG", False): ({}, {"optimize": True}), ("JPEG", True): ({"optimize": True}, {"optimize": True, "progressive": True})}
OPTIONS |= {("WEBP", whole): ({"method": 6},) for whole in (False, True)}


def curve(kind, whole):
    """Every setting of a codec: rows of measure()."""
    payload, rows = scans if kind == "JPEG" else webp_payload, []
    for quality, options in itertools.product(QUALITIES[kind, whole], OPTIONS[kind, whole]):
        if whole:
            for cell in (28, 32):
                data = save(sheet(GREY8, cell), kind, quality=quality, **options)
                rows.append(measure([data], payload, cut_out(load(data), cell)))
        else:
            data = [save(image, kind, quality=quality, **options) for image in GREY8]
            rows.append(measure(data, payload, np.stack([load(d) for d in data])))
            if options.get("optimize"):  # its Huffman tables are in the header: without the header it is no code
                rows[-1] = (rows[-1][0], math.inf, *rows[-1][2:])
    return rows


# %% tags=["hide-input"]
classic = {(kind, whole): curve(kind, whole) for kind in ("JPEG", "WEBP") for whole in (False, True)}
LOSSLESS = 8 * len(save(sheet(GREY8, 28), "WEBP", lossless=True, method=6, quality=100)) / PIXELS


def transform_codec(steps):
    """Principal components of the training pictures, uniform steps, entropy code with the training pictures' frequencies: rows of measure()."""
    train, target = (x.flatten(1).double() for x in (mnist.images.train, TARGET))
    centre = train.mean(0)
    V = torch.linalg.eigh(torch.cov(train.T))[1]
    A, B, rows = (train - centre) @ V, (target - centre) @ V, []
    for step in steps:
        qa, qb = (A / step).round().long(), (B / step).round().long()
        low, high = int(min(qa.min(), qb.min())), int(max(qa.max(), qb.max()))
        counts = torch.full((V.shape[1], high - low + 1), 0.02, dtype=torch.float64)
        counts.scatter_add_(1, (qa - low).T, torch.ones_like(A.T))
        length = -(counts / counts.sum(1, keepdim=True)).log2().gather(1, (qb - low).T).sum()
        x = ((qb.double() * step) @ V.T + centre).clamp(-1, 1).view(-1, 28, 28)
        own = torch.zeros_like(counts).scatter_add_(1, (qb - low).T, torch.ones_like(B.T)) / len(B)  # no code can do with less on these
        rows.append(
            (float(length) / PIXELS, float(torch.special.entr(own).sum()) / math.log(2) / 784, float((x - TARGET).square().mean()), x)
        )
    return rows


classic["linear", True] = transform_codec(np.geomspace(6, 0.4, 24).tolist())


def best(key, rate, without_header=False):
    """Smallest MSE of a codec at a rate of at most so many bits a pixel; inf where it has no setting that small."""
    return min((row[2] for row in classic[key] if row[int(without_header)] <= rate), default=math.inf)


# %% tags=["hide-input"]
def points(kinds):
    """(bits a pixel, mean MSE, its standard error, mean share recognised, key) of the recorded arms that a test admits, by rate."""
    rows = []
    for T, K, cut, kind in arms6:
        if kinds(T, K, cut, kind):
            v = np.array(r6[f"{T} {K} {cut} {kind}"])
            rows.append((bits(T, K, cut) / 784, v[:, 0].mean(), v[:, 0].std(ddof=1) / math.sqrt(len(v)), v[:, 1].mean(), (T, K, cut, kind)))
    return sorted(rows)


def frontier(rows):
    """The points that no other beats in both coordinates."""
    kept = []
    for row in sorted(rows):
        if not kept or row[1] < kept[-1][1]:
            kept.append(row)
    return kept


whole6 = points(lambda T, K, cut, kind: cut == T and kind == "plain")
part6 = points(lambda T, K, cut, kind: cut < T and kind == "plain")
all6 = frontier(points(lambda *_: True))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels over bits per pixel on a logarithmic axis, MNIST. Left, mean squared error, logarithmic: the DDCM frontier lies below WebP and JPEG sheets below about one bit per pixel, WebP crosses it above, JPEG is worst; files one by one lie far to the right; the ideal DiffC curve lies far to the left of all. Right, share of pictures recognised as the original: DDCM near one from 0.3 bits per pixel on."}}
figure, (axes, side) = plt.subplots(1, 2, figsize=(8.8, 4.2), width_ratios=(1.5, 1))
looks = {
    ("WEBP", True): ("WebP, sheet", GREEN, "-"),
    ("JPEG", True): ("JPEG, sheet", ORANGE, "-"),
    ("linear", True): ("linear, trained", PURPLE, "-."),
}
looks |= {("WEBP", False): ("WebP, one by one", GREEN, ":"), ("JPEG", False): ("JPEG, one by one", ORANGE, ":")}
for key, (label, color, style) in looks.items():
    edge = frontier([(row[0], row[2], i, row[3]) for i, row in enumerate(classic[key])])
    axes.plot([p[0] for p in edge], [p[1] for p in edge], style, color=color, label=label)
    if key[1]:
        few = thin(edge, 9)
        side.plot([p[0] for p in few], [recognised(p[3]) for p in few], style, color=color)
axes.errorbar([p[0] for p in all6], [p[1] for p in all6], [p[2] for p in all6], fmt="o-", color=BLUE, ms=4, label="DDCM, best settings")
axes.plot([p[0] for p in whole6], [p[1] for p in whole6], "x", color=SKY, ms=5, label="DDCM, all steps alike")
side.plot([p[0] for p in all6], [p[3] for p in all6], "o-", color=BLUE, ms=4)
live_rate = np.array([(bits(T, K, cut) / 784, e6[f"{T} {K} {cut} {kind}"][0][0]) for T, K, cut, kind in live6])
axes.plot(live_rate[:, 0], live_rate[:, 1], "D", color=BLACK, ms=4, label="DDCM, live")
best_ideal = np.array(r6[f"ideal {max(full6.config['ideal_counts'])}"]).mean(0)
axes.plot(best_ideal[1:, 0] / 784, best_ideal[1:, 1], "--", color=GREY, label="ideal (DiffC)")
axes.axvline(LOSSLESS, color=BLACK, lw=1, ls=(0, (1, 2)))
axes.annotate("lossless", (LOSSLESS, 0.25), rotation=90, fontsize=7, ha="right", va="top")
axes.set(xscale="log", yscale="log", xlim=(0.02, 8), ylim=(1e-4, 0.6), xlabel="bits a pixel", ylabel="MSE on [−1, 1]")
axes.set_title("At low rates DDCM beats WebP and JPEG on MNIST")
axes.legend(fontsize=7, loc="lower left")
side.set(xscale="log", xlim=(0.02, 8), ylim=(0, 1.02), xlabel="bits a pixel", ylabel="recognised as the original")
side.set_title("and the digit stays readable", fontsize=10)
nb.show(figure)

# %% [markdown]
# The network's weights are not counted, as is usual for learned codecs; X6 below does the sum. All of DDCM stands in the folded cells
# above, in plain torch: `reverse_step`, a step of the sampler with the coefficients of DDPM; `codebook`, whose vectors nobody stores
# because a seed draws them again; and the chain `ddcm` with a function `choose` that picks an index for every picture. `encode` chooses by
# the picture, `decode` by the code, a generator at random.
#
# The rivals are JPEG and WebP by PIL, over qualities and options, on the same pictures one by one and on one sheet of all of them (cells of
# 28 or of 32 pixels). Headers are counted; a second number leaves them out. A third rival knows the data as the network does: a linear
# transform fitted to the 4,000 training pictures.
#
# ## The question
#
# A tokeniser turns a picture into integers. VQ and FSQ {cite}`oord2017vqvae,mentzer2023fsq` train an encoder for it and give a
# two-dimensional grid (see [ddpm-vae](ddpm-vae.ipynb) for the generative side). The paper {cite}`ohayon2025ddcm`, which the post
# {cite}`su2025ddcm` reads, needs no training: a DDPM that samples in $T$ steps consumes one Gaussian vector at the start and one a step.
# Let each come from a fixed *codebook* $\mathcal C_t$ of $K$ vectors, and sampling becomes a map $\{1..K\}^T\to\mathbb R^d$ (the last step has $\sigma_1=0$: one index is the start's). Two
# questions: does it still sample well, and can a *given* picture be found among the outputs?
#
# Notation as in [ddpm-bayes](ddpm-bayes.ipynb): the step is $x_{t-1}=\mu(x_t)+\sigma_t\varepsilon_t$ with
#
# $$\mu(x_t)=\frac{\alpha_t\bar\beta_{t-1}^2}{\bar\beta_t^2}x_t+\gamma_t\bar\mu(x_t),\qquad\gamma_t=\frac{\bar\alpha_{t-1}\beta_t^2}{\bar\beta_t^2},\qquad
# \sigma_t=\tilde\beta_t=\frac{\bar\beta_{t-1}\beta_t}{\bar\beta_t},$$
#
# and $\bar\mu(x_t)$ the guess of the picture. New: the residual $R_t=x_0-\bar\mu(x_t)$; the wanted shift of the noise,
# $\tau_t=\gamma_tR_t/\sigma_t$; its length, here $m_t=\lVert\tau_t\rVert$; $e_K$, the mean of the largest of $K$ standard normals;
# $s_t=\bar\alpha_t^2/\bar\beta_t^2$, the signal-to-noise ratio.
#
# ## What noise would lead to the picture?
#
# Bayes' rule gives $p(x_{t-1}|x_t,x_0)=\mathcal N\bigl(\mu(x_t)+\gamma_tR_t,\;\sigma_t^2I\bigr)$: DDPM's own step, but with noise of the
# law $\mathcal N(\tau_t,I)$ in place of $\mathcal N(0,I)$. Its square has a simple form,
#
# $$m_t^2=\frac{\gamma_t^2}{\sigma_t^2}\lVert R_t\rVert^2=(s_{t-1}-s_t)\lVert R_t\rVert^2 .$$

# %%
A1, A0 = sp.symbols("abar_t abar_s", positive=True)  # s = t − 1
y, xt, x0_, guess_ = sp.symbols("y x_t x_0 mubar", real=True)
B1, B0, al = sp.sqrt(1 - A1**2), sp.sqrt(1 - A0**2), A1 / A0
be = sp.sqrt(1 - al**2)
gam, sig = A0 * be**2 / B1**2, B0 * be / B1
mean = al * B0**2 / B1**2 * xt + gam * guess_
quadratic = lambda z, m, v: (z - m) ** 2 / v
bayes = quadratic(xt, al * y, be**2) + quadratic(y, A0 * x0_, B0**2) - quadratic(xt, A1 * x0_, B1**2)

# %%
toy = diffusion.toy2d()
g = torch.Generator().manual_seed(1)
state = torch.randn(5, 2, dtype=torch.float64, generator=g)
pair = su.sigma[[400, 399]]
fixed_noise = lambda *_: torch.full((5, 2), 0.7, dtype=torch.float64)
helper = diffusion.to_vp(diffusion.endpoint(diffusion.ddim(toy.eps, pair, diffusion.from_vp(state, pair[0]), 1.0, fixed_noise)), pair[1])
ours = reverse_step(toy.eps, su, 400, state)[1] + sigma(su, 400) * 0.7
apart = lambda a, b: float((a - b).abs().max())  # the largest difference

# %%
nb.derivation(
    "D1",
    "Given x_0, the DDPM step has noise of the law N(τ, I), τ = γR/σ, and |τ|² is the gain in signal-to-noise ratio times |R|².",
    sym.identity("Bayes' quadratic form", bayes, quadratic(y, mean + gam * (x0_ - guess_), sig**2)),
    sym.identity("γ²/σ²", gam**2 / sig**2, A0**2 / (1 - A0**2) - A1**2 / (1 - A1**2)),
    ledger.less("reverse_step and sigma against the helper's ddim at η = 1", apart(helper, ours), 1e-12, digits=2, machine=True),
    ledger.close("control: the largest difference of (0, 0) and (0, 1)", apart(torch.zeros(2), torch.tensor([0.0, 1.0])), 1, abs=1e-12),
    ledger.close(
        "the code's γ²/σ² at t = 400 of 1000, over the difference of 1/ς²",
        (gamma(su, 400) / sigma(su, 400)) ** 2 / float(su.sigma[399] ** -2 - su.sigma[400] ** -2),
        1,
        abs=1e-9,
    ),
)

# %% [markdown]
# ## Two rules
#
# Start all pictures from one fixed $x_T$. The post, like the paper, gives **rule A**: the vector with the largest inner product,
# $\varepsilon_t=\operatorname{argmax}_{\varepsilon\in\mathcal C_t}\varepsilon\cdot R_t$. It motivates it by **rule N**: the noise should
# supply the missing shift, so take the nearest,
# $\operatorname{argmin}\lVert\gamma_tR_t-\tilde\beta_t\varepsilon\rVert=\operatorname{argmin}\lVert\tau_t-\varepsilon\rVert$. Since
#
# $$\lVert\tau-\varepsilon\rVert^2=\lVert\varepsilon\rVert^2-2\,\tau\cdot\varepsilon+\lVert\tau\rVert^2,$$
#
# the two agree when all norms in the codebook are equal, and in high dimension the norms of Gaussian vectors are nearly equal. So far the
# post.


# %%
def nearest(tau, C, generator):
    return (tau @ C.T - C.square().sum(1) / 2).argmax(1)


def ratio_softmax(tau, C, generator):
    """Index with probability ∝ exp(τ·ε)."""
    return torch.multinomial((tau @ C.T).softmax(1), 1, generator=generator)[:, 0]


def printed_softmax(tau, C, generator):
    """Index with probability ∝ exp(−|ε − τ|²/2), the post's."""
    return torch.multinomial((tau @ C.T - C.square().sum(1) / 2).softmax(1), 1, generator=generator)[:, 0]


def uniform(tau, C, generator):
    return torch.randint(len(C), (len(tau),), generator=generator, device=tau.device)


RULES = {"A": argmax, "N": nearest, "ratio": ratio_softmax, "printed": printed_softmax, "uniform": uniform}

# %%
C64 = codebook(7, 64, 64, seed=3)
R = torch.randn(300, 64, generator=torch.Generator().manual_seed(2)) * 0.3
shift, length = 4.0, 0.5  # γ/σ and σ of some step
written_out = ((shift * length * R)[:, None] - length * C64[None]).norm(dim=2).argmin(1)
same = lambda a, b: float((a == b).double().mean())
t1, t2, n1, n2, th1, th2, radius = sp.symbols("tau_1 tau_2 eps_1 eps_2 theta_1 theta_2 r", real=True)
distance = lambda angle: (t1 - radius * sp.cos(angle)) ** 2 + (t2 - radius * sp.sin(angle)) ** 2
inner = lambda angle: t1 * radius * sp.cos(angle) + t2 * radius * sp.sin(angle)
sphere64 = on_sphere(C64)

# %%
nb.derivation(
    "D2",
    "Nearest and largest inner product are the same choice if and only if the norms are equal.",
    sym.identity(
        "squared distance, d = 2",
        (t1 - n1) ** 2 + (t2 - n2) ** 2,
        (n1**2 + n2**2) - 2 * (t1 * n1 + t2 * n2) + t1**2 + t2**2,
    ),
    sym.identity("equal norms: difference of distances", distance(th1) - distance(th2), -2 * (inner(th1) - inner(th2))),
    ledger.close(
        "nearest() against argmin |γR − σε| written out: share equal", same(nearest(shift * R, C64, None), written_out), 1, abs=1e-9
    ),
    ledger.close("argmax() by τ and by R: share equal", same(argmax(shift * R, C64, None), (R @ C64.T).argmax(1)), 1, abs=1e-9),
    ledger.close("on the sphere, N and A: share equal", same(nearest(R, sphere64, None), argmax(R, sphere64, None)), 1, abs=1e-9),
    ledger.less("Gaussian codebook, K = d = 64, |τ| = 2.4: share equal", same(nearest(R, C64, None), argmax(R, C64, None)), 0.5, digits=2),
)

# %% [markdown]
# ### The length outvotes the direction
#
# "Nearly equal" is true relatively: $\lVert\varepsilon\rVert=\sqrt d\,(1\pm1/\sqrt{2d})$. But what competes in the distance is absolute:
#
# $$\operatorname{sd}\lVert\varepsilon\rVert^2=\sqrt{2d}\qquad\text{against}\qquad\operatorname{sd}(2\,\tau\cdot\varepsilon)=2m_t .$$
#
# Rule N follows the length, and takes short vectors, until $m_t\gtrsim\sqrt{d/2}$: 5.7 for our 64 pixels, 157 for $128\times128\times3$.
# The correlation of $\tau\cdot\varepsilon/m$ with N's score is $m/\sqrt{m^2+d/2}$, so N gains about $e_K\,m/\sqrt{m^2+d/2}$ along $\tau$
# where A gains $e_K$ (a little less: lengths are skew, short ones rarer). The cure is one line: put the codebook on the sphere,
# $\varepsilon\to\sqrt d\,\varepsilon/\lVert\varepsilon\rVert$, and N is A.

# %%
e = sp.Symbol("e", real=True)
m, d_, K_ = sp.symbols("m d K", positive=True)
phi = sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi)
over = lambda f: sp.Integral(f, (e, -sp.oo, sp.oo))
var_square, var_inner = over((e**2 - 1) ** 2 * phi), over((2 * m * e) ** 2 * phi)
many = codebook(1, 100_000, 64, seed=5).double()
norms = many.square().sum(1)

# %%
nb.derivation(
    "D3",
    "The squared norm of a codebook vector fluctuates by √(2d), twice its inner product with τ by 2m: N follows the direction only from m ≈ √(d/2) on.",
    sym.identity("variance of ε² in one coordinate", var_square, 2 + 0 * m),
    sym.identity("variance of 2 τ·ε", var_inner, 4 * m**2),
    sym.solves("they are equal", sp.Eq(d_ * var_square.doit(), var_inner.doit()), m, sp.sqrt(d_ / 2)),
    sym.monte_carlo(
        "variance of |c|², codebook(), d = 64", float(norms.var()), float((norms - 64).square().std()) / 316.2, 128, draws=100_000
    ),
    ledger.close("relative spread of |c| times √(2d)", float(norms.sqrt().std() / 8) * math.sqrt(128), 1, abs=0.02),
)


# %%
def e_max(K):
    """Mean of the largest of K standard normals, by quadrature of x K φ Φ^(K−1)."""
    density = lambda x: K * math.exp(-0.5 * x * x + (K - 1) * scipy.special.log_ndtr(x)) / math.sqrt(2 * math.pi)
    return scipy.integrate.quad(lambda x: x * density(x), -12, 12, epsabs=1e-12, epsrel=1e-12, limit=400)[0]


gains, draws = {}, 4000
for length in (1.0, math.sqrt(32), 20.0):
    tau = torch.zeros(1, 64)
    tau[0, 0] = length
    for rule in ("A", "N"):
        chosen = [codebook(t, 64, 64, seed=6) for t in range(draws)]
        gains[rule, length] = torch.stack([C[RULES[rule](tau, C, None)[0], 0] for C in chosen]).double()

# %% tags=["hide-input"]
nb.claim(
    "X1",
    "Along τ, A gains e_K and N about e_K m/√(m² + d/2).",
    "verified",
    holds=[
        *[
            sym.monte_carlo(
                f"A, d = K = 64, m = {length:.3g}", float(v.mean()), float(v.std()) / math.sqrt(draws), e_max(64), draws=draws, sigmas=5
            )
            for (rule, length), v in gains.items()
            if rule == "A"
        ],
        *[
            ledger.close(
                f"N, m = {length:.3g}: gain over e_K m/√(m² + d/2)",
                float(v.mean()) / (e_max(64) * length / math.sqrt(length**2 + 32)),
                1,
                abs=0.25,
                machine=True,
                scope=f"{draws:,} codebooks",
            )
            for (rule, length), v in gains.items()
            if rule == "N"
        ],
    ],
)

# %% [markdown]
# ### More and more vectors
#
# The post asks of any sound rule that $K\to\infty$ should give DDPM back, that is a random step of the right law. Rule N does not: the
# nearest of infinitely many vectors is $\tau_t$ itself, and the step becomes deterministic,
# $x_{t-1}=\frac{\alpha_t\bar\beta_{t-1}^2}{\bar\beta_t^2}x_t+\gamma_tx_0$. Rule A, which the post does not follow to the limit, does not
# converge at all: its component along $R_t$ is $e_K\sim\sqrt{2\ln K}$. It pushes too hard where $e_K>m_t$ and too little where $m_t>e_K$.

# %%
normal_cdf = (1 + sp.erf(e / sp.sqrt(2))) / 2
EXACT = {2: 1 / sp.sqrt(sp.pi), 3: 3 / (2 * sp.sqrt(sp.pi))}
TABLE = {2: 0.564190, 4: 1.029375, 8: 1.423600, 16: 1.765991, 64: 2.343733, 256: 2.826863, 1024: 3.248240, 8192: 3.802279}


def e_max_by_tails(K):
    """The same from P(max > x) = 1 − Φ^K: ∫₀^∞ [1 − Φ^K(x) − Φ^K(−x)] dx."""
    tails = lambda x: -math.expm1(K * scipy.special.log_ndtr(x)) - math.exp(K * scipy.special.log_ndtr(-x))
    return scipy.integrate.quad(tails, 0, 14, epsabs=1e-12, limit=400)[0]


plane = torch.randn(200, 2, generator=torch.Generator().manual_seed(4))  # 200 shifts in two dimensions
reach = {K: (lambda C: float((C[nearest(plane, C, None)] - plane).norm(dim=1).mean()))(codebook(2, K, 2, seed=1)) for K in (100, 10_000)}

# %% tags=["hide-input"]
nb.derivation(
    "D4",
    "K → ∞: rule N becomes a deterministic step to the picture, rule A diverges like √(2 ln K).",
    sym.identity("the step with noise τ", mean + sig * (gam / sig * (x0_ - guess_)), al * B0**2 / B1**2 * xt + gam * x0_),
    ledger.less("nearest() in the plane: mean distance to τ, K = 10,000", reach[10_000], reach[100] / 5, digits=2),
    *[
        ledger.close(
            f"e_{K} by quadrature, exact value",
            e_max(K),
            float(over(e * K * phi * normal_cdf ** (K - 1)).doit()) if K == 2 else float(w),
            rel=1e-9,
        )
        for K, w in EXACT.items()
    ],
    *[ledger.close(f"e_{K}, density against tails", e_max(K), e_max_by_tails(K), abs=1e-8) for K in TABLE],
    ledger.increasing("e_K/√(2 ln K) at K = 10², 10⁴, 10⁸", [e_max_by_tails(10**k) / math.sqrt(2 * k * math.log(10)) for k in (2, 4, 8)]),
    sym.monte_carlo(
        "argmax() along τ, d = K = 64, m = 1",
        float(gains["A", 1.0].mean()),
        float(gains["A", 1.0].std()) / math.sqrt(draws),
        e_max_by_tails(64),
        draws=draws,
    ),
)
nb.claim(
    "C3",
    "Rule N does not give back DDPM for K → ∞, against the condition that the post itself sets; nor, differently, does A.",
    "verified",
    holds=[
        ledger.less(
            "N: mean distance to τ over √2, that of a draw from N(τ, I) in the plane being √(π/2)",
            reach[10_000] / math.sqrt(math.pi / 2),
            0.1,
            digits=2,
        ),
        ledger.increasing("A: e_K over K = 2, .., 8192", [e_max(K) for K in TABLE]),
        ledger.more("A: e_K at K = 10⁸", e_max_by_tails(10**8), 5),
    ],
)

# %% [markdown]
# ## Drawing from the codebook
#
# The post's remedy is a draw from $\mathcal C_t$ with probability proportional to $e^{-\frac12\lVert\varepsilon-\tau_t\rVert^2}$, the
# target density. But the vectors of the codebook are themselves a sample of $\mathcal N(0,I)$, so the draw tends to the *product*
#
# $$e^{-\frac12\lVert\varepsilon\rVert^2}\,e^{-\frac12\lVert\varepsilon-\tau\rVert^2}\propto\mathcal N\bigl(\tfrac\tau2,\tfrac12I\bigr).$$
#
# Importance sampling weighs by target *over* proposal,
#
# $$w(\varepsilon)\propto e^{-\frac12\lVert\varepsilon-\tau\rVert^2+\frac12\lVert\varepsilon\rVert^2}\propto e^{\tau\cdot\varepsilon},$$
#
# and then the limit is $\mathcal N(\tau,I)$, the exact posterior step; without a target, $\tau=0$, all weights are equal and DDPM
# returns. The price of the right weight is its effective number of candidates: $\mathbb E[w]^2/\mathbb E[w^2]=e^{-m^2}$, so $K$ vectors
# count as $Ke^{-m^2}$ as long as that is large.
#
# On a sphere both weights coincide, but the limit is the von Mises-Fisher law, with the mean $\sqrt d\,I_{d/2}(\sqrt dm)/I_{d/2-1}(\sqrt
# dm)$ along $\tau$: right for $m\ll\sqrt d$ only.

# %%
tau_ = sp.Symbol("tau", real=True)
weights = {"printed": sp.exp(-((e - tau_) ** 2) / 2), "ratio": sp.exp(tau_ * e)}
average = lambda w, f: over(sp.expand(f) * w * phi) / over(w * phi)
million = codebook(0, 1_000_000, 2, seed=8).double()
target = torch.tensor([2.0, 0.0], dtype=torch.float64)
logits = {"printed": million @ target - million.square().sum(1) / 2, "ratio": million @ target}
moments = {}
for name, w in logits.items():
    p = w.softmax(0)
    centre = p @ million
    moments[name] = [*centre.tolist(), *((p[:, None] * (million - centre) ** 2).sum(0)).tolist()]


def fisher_mean(m, d=64):
    """Mean along τ of the tilted uniform law on the sphere of radius √d, by quadrature over the angle."""
    k = math.sqrt(d) * m
    f = lambda u, power: u**power * math.exp(k * (u - 1)) * (1 - u * u) ** ((d - 3) / 2)
    return (
        math.sqrt(d)
        * scipy.integrate.quad(f, -1, 1, args=(1,), epsabs=0, limit=200)[0]
        / scipy.integrate.quad(f, -1, 1, args=(0,), epsabs=0, limit=200)[0]
    )


# %%
picks = {}
tau2 = torch.tensor([[2.0, 0.0]]).expand(5_000, 2)
for name in ("ratio", "printed"):
    C = codebook(9, 1024, 2, seed=9)
    picks[name] = C[RULES[name](tau2, C, torch.Generator().manual_seed(10))].double()
    logit = tau2[:1] @ C.T - (C.square().sum(1) / 2 if name == "printed" else 0)
    picks[name, "expected"] = float(logit.softmax(1) @ C[:, 0])
bessel = lambda m: float(8 * mpmath.besseli(32, 8 * m) / mpmath.besseli(31, 8 * m))

# %%
nb.derivation(
    "D5",
    "The post's weight leads to N(τ/2, I/2); the ratio weight e^{τ·ε} leads to N(τ, I), and to DDPM at τ = 0. Its effective number is K e^{−m²}.",
    sym.identity("printed weight: mean", average(weights["printed"], e), tau_ / 2),
    sym.identity("printed weight: variance", average(weights["printed"], (e - tau_ / 2) ** 2), sp.Rational(1, 2) + 0 * tau_),
    sym.identity("ratio weight: mean", average(weights["ratio"], e), tau_),
    sym.identity("ratio weight: variance", average(weights["ratio"], (e - tau_) ** 2), 1 + 0 * tau_),
    sym.identity("E[w]²/E[w²]", over(weights["ratio"] * phi) ** 2 / over(weights["ratio"] ** 2 * phi), sp.exp(-(tau_**2))),
    *[
        ledger.close(f"sphere, d = 64, m = {m_}: mean by quadrature against Bessel functions", fisher_mean(m_), bessel(m_), rel=1e-8)
        for m_ in (1, 5, 10)
    ],
    ledger.close("and its value at m = 1, 5, 10, summed", sum(fisher_mean(m_) for m_ in (1, 5, 10)), 0.9853 + 3.859 + 5.436, abs=2e-3),
)

# %%
ESS = {
    m_: float(metrics.participation_ratio((m_ * codebook(3, 400_000, 1, seed=4)[:, 0].double()).softmax(0))) / 400_000 for m_ in (0.5, 1.0)
}
nb.claim(
    "X2",
    "What decides whether the draw is one-hot is m, not K: the effective share of the candidates is e^{−m²}.",
    "verified",
    holds=[ledger.close(f"share at m = {m_}, K = 400,000", v, math.exp(-(m_**2)), rel=0.02) for m_, v in ESS.items()]
    + [
        ledger.close("K = 10⁶, d = 2, τ = (2, 0): mean, printed weight", moments["printed"][0], 1, abs=0.01),
        ledger.close("its variance, first coordinate", moments["printed"][2], 0.5, abs=0.01),
        ledger.close("mean, ratio weight", moments["ratio"][0], 2, abs=0.05),
        ledger.close("its variance, first coordinate", moments["ratio"][2], 1, abs=0.1),
        *[
            sym.monte_carlo(
                f"{name}_softmax(), K = 1024: mean of 5,000 draws against Σ p c",
                float(picks[name][:, 0].mean()),
                float(picks[name][:, 0].std()) / math.sqrt(5_000),
                picks[name, "expected"],
                draws=5_000,
            )
            for name in ("ratio", "printed")
        ],
    ],
)

# %% [markdown]
# ## Guidance by a classifier
#
# Nothing in this needs a target picture. For a condition $y$, $p(x_{t-1}|x_t,y)\propto p(x_{t-1}|x_t)\,p(y|x_{t-1})$, and with $\log
# p(y|\cdot)$ linear across the step {cite}`dhariwal2021guidance`
#
# $$x_{t-1}=\mu(x_t)+\sigma_t^2\nabla_{x_t}\log p(y|x_t)+\sigma_t\varepsilon,\qquad\text{so}\qquad\tau_t=\sigma_t\nabla_{x_t}\log p(y|x_t),$$
#
# and all rules apply. With a classifier $p_o$ for clean pictures one takes $p_o(y|\bar\mu(x_t))$, the guess. (The post writes $\mu(x_t)$
# in that place, the mean of the next state; we read it as a slip, since that is still a noisy picture.)

# %%
slope, centre_, width = sp.symbols("g mu_ w", positive=True)
z_ = sp.Symbol("z", real=True)
tilted = sp.exp(-((z_ - centre_) ** 2) / (2 * width**2)) * sp.exp(slope * (z_ - centre_))
on_line = lambda f: sp.Integral(f, (z_, -sp.oo, sp.oo))


def wanted_shift(eps, classify, s, t, x, y):
    """Guess, mean, and τ_t = σ_t ∇ log p_o(y | μ̄(x_t)), through the network; (N, d) each."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        guess, mean = reverse_step(eps, s, t, x)
        score = classify(guess.clamp(-1, 1)).log_softmax(1).gather(1, y[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, x)
    return guess.detach(), mean.detach(), sigma(s, t) * gradient


small = diffusion.teacher("digits8")
exact = diffusion.teacher("digits8")
exact.net.double(), exact.classifier.double()
classify = lambda x: exact.classifier(x.view(-1, 1, 8, 8))
there = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
along = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
label = torch.tensor([3])
logp = lambda x: float(classify(reverse_step(flat(exact), schedule(100), 30, x)[0].clamp(-1, 1)).log_softmax(1)[0, 3])
tau30 = wanted_shift(flat(exact), classify, schedule(100), 30, there, label)[2]

# %%
nb.derivation(
    "D6",
    "Guidance is the shift τ = σ ∇ log p(y|x): the tilted step is N(μ + σ²g, σ²).",
    sym.identity("mean of N(μ, σ²) e^{g(z−μ)}", on_line(z_ * tilted) / on_line(tilted), centre_ + width**2 * slope),
    sym.identity("its variance", on_line((z_ - centre_ - width**2 * slope) ** 2 * tilted) / on_line(tilted), width**2 + 0 * slope),
    sym.identity("the post's distance is that to τ", sp.expand((width**2 * slope - width * e) ** 2), width**2 * (width * slope - e) ** 2),
    ledger.close(
        "wanted_shift() along a direction against a difference quotient, t = 30 of 100",
        float(tau30[0] @ along[0]),
        sigma(schedule(100), 30) * (logp(there + 1e-5 * along) - logp(there - 1e-5 * along)) / 2e-5,
        rel=1e-3,
        machine=True,
    ),
)

# %% [markdown]
# ## Counting bits
#
# With $\sigma_1=0$ and $x_T$ fixed there are $T-1$ choices: $K^{T-1}$ codes of $(T-1)\log_2K$ bits. The paper can combine $M$ vectors a
# step with $M-1$ coefficients of $C$ bits (matching pursuit): $(T-1)\bigl(M\log_2K+(M-1)C\bigr)$ bits.
#
# How many bits does a step *need*? The receiver knows $p_\theta(x_{t-1}|x_t)$ and is to get a sample of $p(x_{t-1}|x_t,x_0)$. The two
# have the same covariance, so
#
# $$KL=\tfrac12m_t^2=\tfrac12(s_{t-1}-s_t)\lVert R_t\rVert^2\quad\text{nats},$$
#
# and reverse channel coding (DiffC {cite}`theis2022diffc`) can come near the sum of these. DDCM spends $\ln K$ at every step, needed or
# not. Stop at level $t$ and show the guess: that is a rate-distortion curve, of the model and not of a code. For Gaussian data it is
# Shannon's: with $\mathcal N(0,v)$ the mean of $R_t^2$ is $v/(1+vs_t)$, the sum becomes an integral,
#
# $$\text{rate}=\tfrac12\int_0^{s}\frac v{1+vs'}\,ds'=\tfrac12\ln(1+vs)=\tfrac12\ln\frac vD,\qquad D=\frac v{1+vs} .$$

# %%
line = lambda v=1.0: diffusion.GaussianMixture(*(torch.tensor(w, dtype=torch.float64) for w in ([[0.0]], [math.sqrt(v)], [1.0])))


def outputs(T, K, seed=1, kind="plain"):
    """All K^(T−1) outputs of the decoder in one dimension, data N(0, 1), ᾱ = exp(−5 t²/T²)."""
    codes = torch.tensor(list(itertools.product(range(K), repeat=T - 1)))
    book = books(K, 1, seed, kind=kind)
    return decode(line().eps, diffusion.exponential_schedule(T), codes, lambda t: book(t).double(), seed)[:, 0]


def pursuit_bits(T, K, M, C):
    return (T - 1) * (M * math.log2(K) + (M - 1) * C)


# %%
nb.derivation(
    "D7",
    "A code has (T − 1) log₂ K bits; with M vectors and C-bit coefficients (T − 1)(M log₂ K + (M − 1) C).",
    sym.enumeration(
        "distinct outputs of decode() over all codes, K = 2, 3",
        [(T, K) for K in (2, 3) for T in (2, 3, 5)],
        lambda case: len(set(outputs(*case).tolist())),
        lambda case: case[1] ** (case[0] - 1),
    ),
    *[
        ledger.close(f"bits({T}, {K}) against log₂ of that number", bits(T, K), math.log2(len(set(outputs(T, K).tolist()))), rel=1e-9)
        for T, K in ((5, 2), (4, 3))
    ],
    ledger.close("bits with t ≤ 3 coded only: a codebook of 1 above", bits(5, 3, 3), 2 * math.log2(3), rel=1e-12),
    sym.enumeration(
        "matching pursuit: messages of a step, M = 1, 2, 3, K = 4, C = 2",
        [1, 2, 3],
        lambda M: sum(1 for _ in itertools.product(*[range(4)] * M, *[range(4)] * (M - 1))),
        lambda M: 2 ** int(pursuit_bits(2, 4, M, 2)),
    ),
)

# %%
v_, s_, S_ = sp.symbols("v s S", positive=True)
shifted = phi.subs(e, e - tau_)
kl = over(shifted * sp.expand(sp.expand_log(sp.log(shifted) - sp.log(phi), force=True)))
normal_data = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
thousand = ideal(line().eps, su, normal_data, torch.Generator().manual_seed(7))
rate_at = lambda t: math.log2(1 + 1 / float(su.sigma[t]) ** 2) / 2  # ½ log₂(1 + s_t), v = 1

# %%
nb.derivation(
    "D8",
    "A step needs m²/2 nats; for Gaussian data the sum is the mutual information ½ ln(1 + vs), and the curve Shannon's.",
    sym.identity("KL(N(τ, 1) ‖ N(0, 1))", kl, tau_**2 / 2),
    sym.identity("½∫ v/(1 + vs)", sp.Integral(v_ / (1 + v_ * s_), (s_, 0, S_)) / 2, sp.log(1 + v_ * S_) / 2),
    sym.identity(
        "residual of the exact guess: Var(x_0|x_t)",
        ((A1**2 / (1 - A1**2)) + 1 / v_) ** -1,
        v_ * (1 - A1**2) / (A1**2 * v_ + 1 - A1**2),
    ),
    *[
        ledger.close(
            f"ideal(), N(0, 1), T = 1000: bits before t = {t}",
            thousand[1000 - t][0],
            rate_at(t),
            rel=0.03,
            machine=True,
            scope="20,000 draws",
        )
        for t in (300, 100, 30)
    ],
)

# %% [markdown]
# ## What a finite codebook has in common
#
# When indices are drawn at random, to *generate*, all samples share the codebook. Its mean $\bar c_t=\frac1K\sum c$ is a drift common to
# all: $\mathbb E\lVert\bar c_t\rVert^2=d/K$, a share $1/K$ of the noise's energy, and the samples differ only by the rest, $1-\frac1K$.
# Centring, $c\to(c-\bar c)\sqrt{K/(K-1)}$, removes the drift and keeps the variance; for $K=2$ it leaves an antithetic pair $\pm c$. One
# codebook for *all* steps is worse: all noise ever added lies in a space of $K$ dimensions.


# %%
def expectation(polynomial, symbols):
    """Of a quadratic polynomial in independent standard normals: E c_i² = 1, E c_i c_j = 0."""
    terms = sp.Poly(sp.expand(polynomial), *symbols).terms()
    return sum(k for powers, k in terms if all(p % 2 == 0 for p in powers))


def book_moments(K):
    c = sp.symbols(f"c:{K}", real=True)
    common = sum(c) / K
    within = sum(w**2 for w in c) / K - common**2
    return tuple(sp.nsimplify(expectation(q, c)) for q in (common**2, within))


pair2 = centred(codebook(1, 2, 5, seed=1))
averaged = torch.stack([centred(codebook(t, 3, 200, seed=2)).square().mean() for t in range(400)]).double()
ranks = {
    kind: int(torch.linalg.matrix_rank(torch.cat([books(16, 64, 1, kind=kind)(t) for t in range(2, 20)]).double()))
    for kind in ("plain", "shared")
}

# %%
nb.derivation(
    "D9",
    "Of the noise's energy a share 1/K is common to all samples; centring removes it and keeps the variance.",
    sym.enumeration(
        "E|c̄|² and E of the variance within, K = 2, .., 6", range(2, 7), book_moments, lambda K: (sp.Rational(1, K), sp.Rational(K - 1, K))
    ),
    ledger.less("centred(), K = 2: an antithetic pair", apart(pair2[0], -pair2[1]), 1e-6, digits=1, machine=True),
    ledger.less("mean of centred(), K = 64", apart(centred(C64).mean(0), torch.zeros(1)), 1e-6, digits=1, machine=True),
    sym.monte_carlo("variance of centred(), K = 3", float(averaged.mean()), float(averaged.std()) / 20, 1, draws=400, effect=0.1),
)

# %%
nb.derivation(
    "D10",
    "A codebook shared by all steps spans K dimensions; one a step spans them all.",
    ledger.close("rank of all noise, K = 16, d = 64: shared", ranks["shared"], 16, abs=0.5),
    ledger.close("one a step", ranks["plain"], 64, abs=0.5),
)

# %% [markdown]
# The derivations of the post that hold, and the table of $e_K$ that the experiments need:

# %% tags=["hide-input"]
nb.claim(
    "C1",
    "The posterior step, the two rules, the limit of N and the number of codes are as the post has them.",
    "verified",
    holds=[
        sym.identity(
            "target of N: the most probable next state less the step's mean", sp.solve(sp.diff(bayes, y), y)[0] - mean, gam * (x0_ - guess_)
        ),
        *[ledger.close(f"e_{K}", e_max(K), w, abs=1e-6, digits=7) for K, w in TABLE.items()],
        ledger.close("σ_1, the post's schedule", sigma(su, 1) + 1, 1, abs=1e-12),
    ],
)
BPP = {(256, 512): 0.030, (2048, 512): 0.042, (4096, 512): 0.046, (64, 768): 0.010}
nb.claim(
    "C11",
    "The bits per pixel on the authors' page follow from (T − 1) log₂ K over the pixels, with T = 1000.",
    "verified",
    holds=[ledger.close(f"K = {K}, {side_}²", bits(1000, K) / side_**2, w, abs=6e-4, digits=3) for (K, side_), w in BPP.items()],
)
nb.claim(
    "C12",
    "The published Keras program holds (T + 1) × 64 codebook vectors of 128 × 128 × 3 doubles: 25 GB. From a seed one needs a step's K × d at a time.",
    "verified",
    holds=[
        ledger.close("GB for all steps", 1001 * 64 * 128 * 128 * 3 * 8 / 1e9, 25.2, abs=0.05, digits=3, method="arithmetic"),
        ledger.less(
            "drawn twice from the seed: largest difference",
            apart(codebook(5, 64, 64, 1), codebook(5, 64, 64, 1)),
            1e-30,
            digits=1,
            machine=True,
        ),
        ledger.more(
            "and other steps and seeds differ by",
            min(apart(codebook(5, 64, 64, 1), c) for c in (codebook(6, 64, 64, 1), codebook(5, 64, 64, 2))),
            1,
        ),
    ],
)

# %% [markdown]
# ## Is every picture reachable?
#
# The post argues: since FID hardly suffers from finite codebooks, every sample should be reachable, and the encoding problem solvable.
# But the outputs are *finite* in number. In one dimension they can all be listed: data $\mathcal N(0,1)$, exact guess, six steps, $K^5$
# outputs. For 2,000 targets compare the nearest output with what the rules find.


# %%
def reachable(K, seed, T=6):
    """Mean squared error of 2,000 targets: nearest of all outputs, rule A, rule N."""
    x0 = torch.randn(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(70 + seed))
    book = books(K, 1, seed)
    ordered = outputs(T, K, seed).sort().values
    place = torch.searchsorted(ordered, x0[:, 0]).clamp(1, len(ordered) - 1)
    gap = torch.minimum((ordered[place] - x0[:, 0]).abs(), (ordered[place - 1] - x0[:, 0]).abs())
    run = lambda rule: encode(line().eps, diffusion.exponential_schedule(T), x0, lambda t: book(t).double(), seed, rule)[0]
    return [float(gap.square().mean()), *(float((run(rule) - x0).square().mean()) for rule in (argmax, nearest))]


found = {K: np.median([reachable(K, seed) for seed in range(20)], axis=0) for K in (2, 4, 8)}

# %% tags=["hide-input"]
SEEDS20 = "20 codebook seeds, medians"
nb.claim(
    "C14",
    "Every sample is reachable, so encoding is solvable: approximately. The outputs are finite in number, and the greedy code falls behind the best one as K grows.",
    "partly",
    holds=[
        ledger.increasing("−MSE of the nearest output, K = 2, 4, 8", [-found[K][0] for K in found], scope=SEEDS20),
        ledger.increasing("−MSE of rule A, K = 2, 4, 8", [-found[K][1] for K in found], scope=SEEDS20),
    ],
    fails=[
        ledger.more("MSE of the nearest of 32 outputs, K = 2", found[2][0], 0.1, digits=2, scope=SEEDS20),
        ledger.increasing(
            "MSE of rule A over that of the nearest output, K = 2, 4, 8", [found[K][1] / found[K][0] for K in found], scope=SEEDS20
        ),
        *[ledger.more(f"K = {K}: rule N over rule A", found[K][2] / found[K][1], 1, scope=SEEDS20) for K in found],
    ],
)

# %% [markdown]
# The nearest output improves quickly with $K$, the greedy one slowly: an equal FID does not say how close a given picture can be
# approached, still less that a step-by-step search finds the best code.
#
# ## The experiments
#
# Teachers as in [ddpm-vae](ddpm-vae.ipynb): U-Nets for scikit-learn's 8 x 8 digits ($d=64$) and for MNIST. All pictures that are encoded
# are test pictures. MSE is taken on $[-1,1]$ after clipping and rounding. Six functions make the numbers: short runs of them live, long
# ones on a GPU, recorded with several codebook seeds (for small $K$ the codebook itself is the randomness).

# %% tags=["hide-input"]


@torch.no_grad()
def from_books(eps, s, kind, K, seed, samples, device):
    """Samples (N, 64) with indices at random, x_T from codebook T + 1 too; K = 0: fresh noise."""
    generator = torch.Generator(device).manual_seed(1000 + seed)
    fresh = lambda t: torch.randn(samples, 64, generator=generator, device=device)
    if not K:
        return ddcm(eps, s, fresh(0), fresh, lambda t, guess, C: torch.arange(samples, device=device))[0]
    book = books(K, 64, seed, device, kind)
    choose = lambda t, guess, C: torch.randint(len(C), (samples,), generator=generator, device=device)
    C = book(s.T + 1)
    return ddcm(eps, s, C[choose(0, 0, C)], book, choose)[0]


@torch.no_grad()
def generation(device, T, arms, seeds, samples):
    """FD, SW2, total variance and share of the commonest class of samples on digits8 for arms [kind, K]: one row a seed."""
    teacher, out = diffusion.teacher("digits8", device), {}
    test, half = teacher.images.test, len(teacher.images.train) // 2
    features = teacher.features(test)
    quality = lambda x: [metrics.frechet(teacher.features(x), features), metrics.sliced_w2(x, test), float(x.flatten(1).var(0).sum())]
    for kind, K in arms:
        out[f"{kind} {K}"] = []
        for seed in seeds:
            x = from_books(flat(teacher), schedule(T), kind, K, seed, samples, device).view(-1, 1, 8, 8)
            classes = torch.bincount(teacher.classifier(x).argmax(1), minlength=10)
            out[f"{kind} {K}"].append([*quality(x), float(classes.max()) / samples])
    floor = teacher.images.train[:half]
    out["floor"] = [metrics.frechet(teacher.features(floor), features), metrics.sliced_w2(floor, test), float(test.flatten(1).var(0).sum())]
    return out


# %% tags=["hide-input"]
def forward(s, t):
    """σ_t = β_t, of the forward step; the post's program uses it. None at t = 1."""
    return float(s.beta[t])


STDS = {"posterior": sigma, "forward": forward}


@torch.no_grad()
def reconstruction(device, arms, seeds, pictures):
    """MSE and share recognised as the original on digits8, for arms [T, K, rule, kind, std, cut]: one row a codebook seed."""
    teacher = diffusion.teacher("digits8", device)
    eps, x0, out = flat(teacher), teacher.images.test[:pictures].flatten(1), {}
    name = lambda x: teacher.classifier(x.view(-1, 1, 8, 8).clamp(-1, 1)).argmax(1)
    for T, K, rule, kind, std, cut in arms:
        rows = []
        for seed in seeds:
            x = encode(eps, schedule(T), x0, books(K, 64, seed, device, kind, cut), seed, RULES[rule], STDS[std])[0]
            rows.append([mse(x, x0), float((name(x) == name(x0)).double().mean())])
        out[f"{T} {K} {rule} {kind} {std} {cut}"] = rows
    order = torch.randperm(pictures, generator=torch.Generator().manual_seed(0)).to(device)
    out["two test digits"] = float((x0 - x0[order]).square().mean())
    out["nearest training digit"] = float((torch.cdist(x0, teacher.images.train.flatten(1)) ** 2 / 64).min(1).values.mean())
    return out


# %% tags=["hide-input"]
def watched(rule, log):
    """The rule, noting mean m and the effective number of candidates under both softmax weights."""

    def choose(tau, C, generator):
        logits = tau @ C.T
        effective = [float(metrics.participation_ratio(w.softmax(1)).mean()) for w in (logits, logits - C.square().sum(1) / 2)]
        log.append([float(tau.norm(dim=1).mean()), *effective])
        return rule(tau, C, generator)

    return choose


@torch.no_grad()
def information(device, counts, K, seeds, pictures, many, entropy_K):
    """On digits8: rows [t, m, effective numbers] along the code path; the ideal curve; entropy in bits of each index over many pictures."""
    teacher = diffusion.teacher("digits8", device)
    eps, test, out = flat(teacher), teacher.images.test.flatten(1), {}
    for T in counts:
        log = []
        encode(eps, schedule(T), test[:pictures], books(K, 64, 0, device), 0, watched(argmax, log))
        out[f"path {T}"] = thin([[T - i, *row] for i, row in enumerate(log)], 99)
        walks = [ideal(eps, schedule(T), test[:pictures], torch.Generator(device).manual_seed(50 + seed)) for seed in seeds]
        out[f"ideal {T}"] = [thin(walk, 100) for walk in walks]
    out["entropy"] = []
    for seed in seeds:
        code = encode(eps, schedule(counts[0]), test[:many], books(entropy_K, 64, seed, device), seed)[1]
        shares = torch.stack([torch.bincount(column, minlength=entropy_K) for column in code.T]).double() / len(code)
        bias = ((shares > 0).sum(1) - 1) / (2 * len(code))  # Miller and Madow
        out["entropy"].append(((torch.special.entr(shares).sum(1) + bias) / math.log(2)).tolist())
    return out


# %% tags=["hide-input"]
def guidance(device, T, arms, seeds, samples, epochs):
    """Share of samples that a second classifier gives the wanted class, FD and SW2, on digits8, for arms [move, K, scale]."""
    teacher, s = diffusion.teacher("digits8", device), schedule(T)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        judge = DigitClassifier(8)
    judge = judge.to(device)
    out = {"judge": diffusion.train_classifier(judge, teacher.images, epochs=epochs, seed=5)}
    eps, test, y = flat(teacher), teacher.images.test, torch.arange(samples, device=device) % 10
    classify = lambda x: teacher.classifier(x.view(-1, 1, 8, 8))
    features = teacher.features(test)
    for move, K, scale in arms:
        rows = []
        for seed in seeds:
            g = torch.Generator(device).manual_seed(2000 + seed)
            noise = lambda g=g: torch.randn(samples, 64, generator=g, device=device)
            book, x = books(K or 1, 64, seed, device), noise()
            for t in range(T, 0, -1):
                _, x, tau = wanted_shift(eps, classify, s, t, x, y)
                if t > 1 and move in ("fresh", "drift"):
                    C = book(t)
                    x = x + sigma(s, t) * (scale * tau + (noise() if move == "fresh" else C[uniform(tau, C, g)]))
                elif t > 1:
                    C = book(t)
                    x = x + sigma(s, t) * C[RULES[move](tau, C, g)]
            x = x.view(-1, 1, 8, 8).clamp(-1, 1)
            with torch.no_grad():
                hit = float((judge(x).argmax(1) == y).double().mean())
            rows.append([hit, metrics.frechet(teacher.features(x), features), metrics.sliced_w2(x, test)])
        out[f"{move} {K} {scale}"] = rows
    return out


# %% tags=["hide-input"]
KS = (2, 4, 8, 16, 64)
arms1 = [["plain", 0], *[["plain", K] for K in KS], *[["centred", K] for K in KS[:4]], *[["shared", K] for K in (64, 256, 1024, 4096)]]
post = lambda T, K, rule="A", kind="plain", std="posterior", cut=None: [T, K, rule, kind, std, cut or T]
COUNTS2, SIZES2 = (50, 100, 300, 1000), (2, 16, 64, 256, 1024)
arms2 = [post(T, K) for T in COUNTS2 for K in SIZES2]
arms3 = [
    post(100, K, rule, kind)
    for K in (16, 64, 1024)
    for rule, kind in (("N", "plain"), ("N", "sphere"), ("ratio", "plain"), ("printed", "plain"))
]
arms3 += [post(100, K, rule, kind) for K in (16, 64, 1024) for rule, kind in (("uniform", "plain"), ("A", "shared"))]
arms3 += [post(100, K, "A", "centred") for K in (2, 4, 16, 64)] + [
    post(100, 4),
    post(100, 64, std="forward"),
    post(1000, 64, std="forward"),
]
cuts4 = [post(100, K, cut=cut) for cut, K in ((75, 16), (50, 64), (25, 4096))] + [post(100, 8)]
arms5 = [["fresh", 0, scale] for scale in (0.0, 1.0, 5.0)] + [["A", K, 1.0] for K in (2, 8, 64, 1024)]
arms5 += [[rule, K, 1.0] for rule in ("ratio", "printed") for K in (64, 1024)] + [["drift", K, 1.0] for K in (2, 4, 16, 64)]

# %%
three = nb.at_scale(cpu=[0], gpu=[0], full=[0, 1, 2])
e1 = nb.run(
    "E1",
    generation,
    T=nb.at_scale(cpu=40, gpu=100, full=100),
    arms=nb.at_scale(cpu=[["plain", 2], ["plain", 64], ["centred", 2]], gpu=arms1, full=arms1),
    seeds=nb.at_scale(cpu=[0], gpu=[0], full=[0, 1, 2, 3, 4]),
    samples=nb.at_scale(cpu=100, gpu=1000, full=2000),
)
pictures8 = nb.at_scale(cpu=24, gpu=64, full=64)
live2 = [post(50, 16), post(50, 64), post(100, 64)]  # run everywhere
live3 = [post(50, 64, "N"), post(50, 64, "N", "sphere"), post(50, 64, "ratio"), post(50, 64, "printed")]
e2 = nb.run("E2", reconstruction, arms=nb.at_scale(cpu=live2, gpu=live2, full=arms2), seeds=three, pictures=pictures8)
e3 = nb.run("E3", reconstruction, arms=nb.at_scale(cpu=live3, gpu=live3, full=arms3 + cuts4 + live3), seeds=three, pictures=pictures8)

# %%
e4 = nb.run(
    "E4",
    information,
    counts=nb.at_scale(cpu=[50], gpu=[50], full=[100, 1000, 50]),
    K=64,
    seeds=three,
    pictures=pictures8,
    many=nb.at_scale(cpu=24, gpu=597, full=597),
    entropy_K=16,
)
e5 = nb.run(
    "E5",
    guidance,
    T=nb.at_scale(cpu=40, gpu=100, full=100),
    arms=nb.at_scale(cpu=[["fresh", 0, 1.0], ["A", 64, 1.0], ["ratio", 64, 1.0]], gpu=arms5, full=arms5),
    seeds=three,
    samples=nb.at_scale(cpu=80, gpu=1000, full=1000),
    epochs=nb.at_scale(cpu=6, gpu=40, full=40),
)
r1, r2, r3, r4, r5 = (nb.recorded(f"E{i}").result for i in range(1, 6))
col = lambda record, key, j: [row[j] for row in record[key]]
arm = lambda *args, **kw: "{} {} {} {} {} {}".format(*post(*args, **kw))
PATH = f"full, {nb.recorded('E4').device}, 64 pictures, one codebook seed"
FULL = lambda i: f"full, {nb.recorded(f'E{i}').device}, {len(nb.recorded(f'E{i}').config['seeds'])} seeds"
LIVE = f"cpu, {pictures8} pictures"

# %% [markdown]
# ### E2. Encoding

# %% tags=["hide-input"]
nb.results(
    "E2",
    "Digits, rule A: MSE (share recognised as the original), mean ± s.e. over codebook seeds",
    ["T", *(f"K = {K}" for K in SIZES2)],
    [[T, *(f"{ledger.with_error(col(r2, arm(T, K), 0), 5)} ({np.mean(col(r2, arm(T, K), 1)):.2f})" for K in SIZES2)] for T in COUNTS2],
)

# %% [markdown]
# For scale: two test digits differ by an MSE near 0.58, the nearest training digit is at 0.08. At 8 x 8 this is no compression: a picture
# with 17 grey levels has 262 bits, and $T=100$, $K=64$ costs 594. Compression begins with larger pictures, as in the first figure.
#
# The decoder returns bit for bit what the encoder ended with, if both call the network with the same batch. With another batch the last
# bits of float32 differ; since the decoder makes no choices, nothing derails.

# %%
pair8 = small.images.test[:24].flatten(1)
eps8, s8 = flat(small), schedule(50)
book8 = books(64, 64, 3)
end8, code8 = encode(eps8, s8, pair8, book8, 3)
back8 = decode(eps8, s8, code8, book8, 3)
alone8 = torch.cat([decode(eps8, s8, row[None], book8, 3) for row in code8[:4]])
shuffled = code8[:, torch.randperm(49, generator=torch.Generator().manual_seed(2))]
wrong8 = decode(eps8, s8, shuffled, book8, 3)
other8 = decode(eps8, s8, code8, books(64, 64, 4), 3)

# %% tags=["hide-input"]
nb.experiment(
    "E2",
    "Encoding works: the error falls with K and with T, and the digits stay what they were.",
    "verified",
    holds=[
        *[
            ledger.increasing(f"−MSE over K = 2, .., 1024, T = {T}", [-np.mean(col(r2, arm(T, K), 0)) for K in SIZES2], scope=FULL(2))
            for T in COUNTS2
        ],
        *[ledger.increasing(f"−MSE over T, K = {K}", [-np.mean(col(r2, arm(T, K), 0)) for T in COUNTS2], scope=FULL(2)) for K in SIZES2],
        ledger.less("T = 100, K = 64: MSE", np.mean(col(r2, arm(100, 64), 0)), 0.0045, digits=3, scope=FULL(2)),
        ledger.more("share recognised", np.mean(col(r2, arm(100, 64), 1)), 0.96, digits=3, scope=FULL(2)),
        ledger.less("live: T = 100, K = 64: MSE", e2[arm(100, 64)][0][0], 0.006, machine=True, digits=3, scope=LIVE),
        ledger.less(
            "live: T = 50, K = 64 over K = 16", e2[arm(50, 64)][0][0] / e2[arm(50, 16)][0][0], 0.8, machine=True, digits=3, scope=LIVE
        ),
    ],
)
nb.claim(
    "C8",
    "A given picture can be encoded, without training; decoding repeats the sampler.",
    "verified",
    holds=[
        ledger.close(
            "decoder against encoder, share of equal bits", float((back8 == end8).double().mean()), 1, abs=1e-9, scope="24 pictures"
        ),
        ledger.less(
            "another batch size: largest difference",
            apart(alone8, end8[:4]),
            1e-3,
            machine=True,
            digits=1,
            scope="4 pictures",
        ),
        ledger.less(
            "MSE over that of the nearest training digit, T = 100, K = 64",
            np.mean(col(r2, arm(100, 64), 0)) / r2["nearest training digit"],
            0.1,
            digits=2,
            scope=FULL(2),
        ),
        ledger.more(
            "decoded with the codebooks of another seed: MSE", mse(other8, pair8), 0.2, machine=True, digits=2, scope="24 pictures"
        ),
        ledger.less("MNIST, decoder against encoder, largest difference, T = 100", r6["gap"]["100"], 1e-3, digits=1, scope=MNIST),
    ],
)
nb.claim(
    "C9",
    "A picture becomes T − 1 integers: with σ_1 = 0 and x_T fixed. Keeping the forward σ = β costs accuracy.",
    "verified",
    holds=[
        ledger.close("indices a picture, T = 50", code8.shape[1], 49, abs=0.5),
        ledger.close("β_1 of the post's schedule, the noise that its program leaves", float(su.beta[1]), 0.0045, abs=5e-5),
        *[
            ledger.better(
                f"MSE of σ = β over σ = β̃, T = {T}, K = 64", col(r3, arm(T, 64, std="forward"), 0), col(r2, arm(T, 64), 0), scope=FULL(3)
            )
            for T in (100, 1000)
        ],
    ],
)
nb.claim(
    "C10",
    "Encoding costs a whole sampling run; fewer steps shorten the code and raise the error.",
    "verified",
    holds=[
        ledger.close(
            "network calls of encode(), T = 50",
            (lambda f: (encode(f, s8, pair8[:2], book8, 3), f.calls)[1])(diffusion.count_calls(eps8)),
            50,
            abs=0.5,
        ),
        ledger.increasing("bits at T = 50, 100, 300, 1000, K = 64", [bits(T, 64) for T in COUNTS2], method="arithmetic"),
        *[ledger.increasing(f"−MSE over T, K = {K}", [-np.mean(col(r2, arm(T, K), 0)) for T in COUNTS2], scope=FULL(2)) for K in SIZES2],
    ],
)

# %% [markdown]
# ### E3. The rules compared
#
# What we expect from D3: N far behind A, equal to it on the sphere; the printed softmax near N, because it samples from the same scores;
# the ratio softmax near A where $m_t$ is large, and noisier elsewhere.

# %% tags=["hide-input"]
SHOWN3 = (
    ("A, largest inner product", lambda K: np.array(r2[arm(100, K)])[:, 0]),
    ("N, nearest", lambda K: np.array(r3[arm(100, K, "N")])[:, 0]),
    ("N on the sphere", lambda K: np.array(r3[arm(100, K, "N", "sphere")])[:, 0]),
    ("softmax, ratio weight", lambda K: np.array(r3[arm(100, K, "ratio")])[:, 0]),
    ("softmax, printed weight", lambda K: np.array(r3[arm(100, K, "printed")])[:, 0]),
    ("at random", lambda K: np.array(r3[arm(100, K, "uniform")])[:, 0]),
    ("A, one codebook for all steps", lambda K: np.array(r3[arm(100, K, "A", "shared")])[:, 0]),
)
nb.results(
    "E3",
    "Digits, T = 100: MSE of the reconstruction by selection rule, mean ± s.e. over codebook seeds",
    ["rule", "K = 16", "K = 64", "K = 1024"],
    [[label, *(ledger.with_error(f(K).tolist(), 4) for K in (16, 64, 1024))] for label, f in SHOWN3],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Grouped bars on a logarithmic axis: mean squared error of the reconstruction for five selection rules and three codebook sizes. Largest inner product and nearest on the sphere are lowest, near 0.003 at K = 64. The ratio softmax is three times higher, nearest vector and the printed softmax more than ten times higher, all falling with K."}}
figure, axes = plt.subplots(figsize=(7.2, 3.6))
for i, (K, color) in enumerate(((16, SKY), (64, BLUE), (1024, GREEN))):
    values = np.array([f(K) for _, f in SHOWN3[:5]])
    axes.bar(
        np.arange(5) + 0.27 * (i - 1),
        values.mean(1),
        0.25,
        yerr=values.std(1, ddof=1) / math.sqrt(values.shape[1]),
        color=color,
        label=f"K = {K}",
    )
live_rows = [e2[arm(50, 64)], *(e3[arm(50, 64, *way)] for way in (("N",), ("N", "sphere"), ("ratio",), ("printed",)))]
axes.plot(range(5), [row[0][0] for row in live_rows], "D", color=BLACK, ms=4, label="live, K = 64, T = 50")
axes.set_xticks(range(5), ["A", "N", "N, sphere", "ratio\nsoftmax", "printed\nsoftmax"])
axes.set(yscale="log", ylim=(5e-4, 1.5), ylabel="MSE on [−1, 1]")
axes.set_title("The nearest vector is not the best aligned one, until all have one length")
axes.legend(fontsize=8, loc="upper center", ncol=4)
nb.show(figure)

# %% tags=["hide-input"]
rule3 = dict(SHOWN3)
over3 = lambda a, b, K: rule3[a](K).mean() / rule3[b](K).mean()
A_, N_, NS, RS, PS = (label for label, _ in SHOWN3[:5])
live_mse = dict(zip((A_, N_, NS, RS, PS), (row[0][0] for row in live_rows), strict=True))
nb.experiment(
    "E3",
    "Rule N is at least five times worse than A, normalised N no worse than A; the ratio softmax lies between; the printed one is about as bad as N.",
    "verified",
    holds=[
        *[ledger.more(f"K = {K}: N over A", over3(N_, A_, K), 5, digits=3, scope=FULL(3)) for K in (16, 64, 1024)],
        *[ledger.less(f"K = {K}: N on the sphere over A", over3(NS, A_, K), 1, digits=3, scope=FULL(3)) for K in (16, 64, 1024)],
        *[ledger.better(f"K = {K}: ratio softmax over A", rule3[RS](K), rule3[A_](K), scope=FULL(3)) for K in (16, 64, 1024)],
        *[ledger.better(f"K = {K}: printed softmax over ratio", rule3[PS](K), rule3[RS](K), scope=FULL(3)) for K in (16, 64, 1024)],
        ledger.more("at random, K = 64: MSE", rule3["at random"](64).mean(), 0.4, digits=2, scope=FULL(3)),
        ledger.more("live, K = 64: N over A", live_mse[N_] / live_mse[A_], 4, machine=True, digits=2, scope=LIVE),
        ledger.less("live: N on the sphere over A", live_mse[NS] / live_mse[A_], 1.3, machine=True, digits=2, scope=LIVE),
        ledger.more("live: ratio softmax over A", live_mse[RS] / live_mse[A_], 1.5, machine=True, digits=2, scope=LIVE),
        ledger.more("live: printed softmax over ratio", live_mse[PS] / live_mse[RS], 3, machine=True, digits=2, scope=LIVE),
    ],
)
nb.claim(
    "C2",
    "Rules N and A are about the same since the codebook's norms are about equal: exact for equal norms, false for the Gaussian codebooks it is meant for.",
    "partly",
    holds=[
        ledger.close("norms equal: share of equal choices", same(nearest(R, sphere64, None), argmax(R, sphere64, None)), 1, abs=1e-9),
        ledger.less(
            "norms are about equal: relative spread, d = 64",
            float(norms.sqrt().std() / norms.sqrt().mean()),
            0.1,
            digits=2,
            scope="100,000 vectors",
        ),
    ],
    fails=[
        *[ledger.better(f"K = {K}: MSE of N over A", rule3[N_](K), rule3[A_](K), scope=FULL(3)) for K in (16, 64, 1024)],
        ledger.more("live, K = 64: N over A", live_mse[N_] / live_mse[A_], 4, machine=True, digits=2, scope=LIVE),
    ],
)

# %% [markdown]
# ### E4. Where the information is
#
# Along the path of the code, $m_t$ stays small until the last steps: almost everywhere the wanted shift is *much* smaller than the $e_K$
# that rule A delivers. The effective number of candidates of the ratio softmax is then nearly $K$: the right draw is almost uniform. The
# post's reason for replacing the draw by a maximum, that for small $K$ the softmax is nearly one-hot, holds only for its printed weight,
# which is one-hot for the wrong reason: it picks the shortest vector.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels over the step t with logarithmic axis. Left, the wanted shift m falls from several units near the picture to about a tenth at high noise and crosses the lines of e_2, e_64 and e_1024 between t = 3 and t = 20. Right, effective share of 64 candidates: the ratio weight is near one for t above 20 and drops near the picture, close to exp of minus m squared; the printed weight stays at a few percent everywhere."}}
figure, (axes, side) = plt.subplots(1, 2, figsize=(8.6, 3.7))
path = np.array(r4["path 100"])
live_path = np.array(e4["path 50"])
axes.plot(path[:, 0] / 100, path[:, 1], color=BLUE, label="m, T = 100, recorded")
axes.plot(live_path[::3, 0] / 50, live_path[::3, 1], "D", color=BLACK, ms=3, label="m, T = 50, live")
for K, color in ((2, GREY), (64, ORANGE), (1024, PURPLE)):
    axes.axhline(e_max(K), color=color, ls="--", lw=1.2, label=f"e_K, K = {K}")
axes.axhline(math.sqrt(32), color=RED, ls=":", lw=1.2, label="√(d/2)")
axes.set(xscale="log", yscale="log", xlabel="t/T (0: the picture)", ylabel="length of the wanted shift")
axes.set_title("Rule A pushes too hard nearly everywhere", fontsize=10)
axes.legend(fontsize=7, loc="upper right")
side.plot(path[:, 0] / 100, path[:, 2] / 64, color=GREEN, label="ratio weight")
side.plot(path[:, 0] / 100, np.exp(-(path[:, 1] ** 2)), ":", color=BLACK, label="exp(−m²)")
side.plot(path[:, 0] / 100, path[:, 3] / 64, "--", color=RED, label="printed weight")
side.set(xscale="log", xlabel="t/T", ylabel="effective share of 64 candidates", ylim=(0, 1.05))
side.set_title("The right draw is nearly uniform until late", fontsize=10)
side.legend(fontsize=8, loc="center right")
figure.suptitle("The wanted shift is small until the last steps", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# So which steps deserve bits? Compare codes of about 295 bits and, live with 50 steps, codes of about 147 bits, one of which codes only
# the noisy half. "Not coded" means a fixed vector that the decoder knows.


# %%
def allocation(size, seed, count=12):
    """MSE on digits with size(t) vectors at step t of 50."""
    book = lambda t: codebook(t, size(t), 64, seed)
    x0 = small.images.test[:count].flatten(1)
    return mse(encode(eps8, s8, x0, book, seed)[0], x0)


noisy_half, clean_half, all_alike = (lambda t: 64 if t > 25 else 1), (lambda t: 64 if t <= 25 else 1), (lambda t: 8)
early, late, spread8 = ([allocation(size, seed) for seed in (0, 1, 2)] for size in (noisy_half, clean_half, all_alike))
spent = [sum(math.log2(size(t)) for t in range(2, 51)) for size in (noisy_half, clean_half, all_alike)]
print("bits: noisy half {:.0f}, clean half {:.0f}, all alike {:.0f}".format(*spent))

# %% tags=["hide-input"]
ideal100 = np.array(r4["ideal 100"]).mean(0)
ideal1000 = np.array(r4["ideal 1000"]).mean(0)


def ideal_bits(curve_, error):
    """Bits at which the ideal curve reaches an MSE, by interpolation in the logarithm."""
    lowest = np.minimum.accumulate(curve_[:, 1])
    return float(np.interp(-math.log(error), -np.log(lowest), curve_[:, 0]))


CUTS = ((100, 8), (75, 16), (50, 64), (25, 4096))
cut_rows = {(cut, K): col(r3, arm(100, K, cut=cut), 0) for cut, K in CUTS}
full64 = col(r2, arm(100, 64), 0)
nb.results(
    "E4",
    "Digits, T = 100, rule A: where to spend about 295 bits. MSE, mean ± s.e. over codebook seeds; ideal: bits of the model's rate curve at that MSE",
    ["coded steps", "K", "bits", "MSE", "ideal bits"],
    [
        [
            "all" if cut == 100 else f"t ≤ {cut}",
            K,
            f"{bits(100, K, cut):.0f}",
            ledger.with_error(v, 4),
            f"{ideal_bits(ideal100, np.mean(v)):.0f}",
        ]
        for (cut, K), v in [*cut_rows.items(), ((100, 64), full64)]
    ],
)

# %% [markdown]
# Three quarters of the steps need no code at all here, and the saved bits are better spent on larger codebooks for the rest. The last
# column is the reference: the bits at which the model's own rate curve (D8) reaches the same error. All steps with $K=64$ cost 6 to 7
# times as much, 4096 vectors on the last quarter little more than twice.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Mean squared error against bits a picture, both logarithmic, 8 x 8 digits. The ideal curves of 100 and 1000 steps fall from 0.3 at a few bits to 0.001 near a hundred bits. DDCM with all steps coded lies five to over thirty times to the right; codes that spend about 295 bits on the low-noise steps only lie lower and closer to the ideal. A vertical line marks the raw size of 262 bits."}}
figure, axes = plt.subplots(figsize=(7.2, 4.0))
for T, color, marker in ((50, SKY, "v"), (100, BLUE, "o"), (300, PURPLE, "s"), (1000, GREEN, "^")):
    rows = [(bits(T, K), np.mean(col(r2, arm(T, K), 0))) for K in SIZES2]
    axes.plot([r[0] for r in rows], [r[1] for r in rows], marker=marker, ls="-", color=color, ms=4, label=f"all steps, T = {T}")
axes.plot(
    [bits(100, K, cut) for cut, K in CUTS[1:]],
    [np.mean(cut_rows[c]) for c in CUTS[1:]],
    "D-",
    color=RED,
    ms=5,
    label="low-noise steps, T = 100",
)
axes.plot([spent[1]] * 3, late, "x", color=BLACK, label="t ≤ 25 of 50, K = 64, live")
axes.plot([spent[0]] * 3, early, "+", color=BLACK, label="t > 25 of 50, K = 64, live")
for curve_, style, T in ((ideal100, "--", 100), (ideal1000, ":", 1000)):
    axes.plot(curve_[1:, 0], curve_[1:, 1], style, color=GREY, label=f"ideal, T = {T}")
axes.axvline(262, color=BLACK, lw=1, ls=(0, (1, 2)))
axes.annotate("raw picture", (262, 0.5), rotation=90, fontsize=7, ha="right", va="top")
axes.set(xscale="log", yscale="log", xlim=(1, 2e4), ylim=(1e-4, 0.7), xlabel="bits a picture", ylabel="MSE on [−1, 1]")
axes.set_title("The bits of the noisy half are wasted on digits")
axes.legend(fontsize=7, loc="lower left", ncol=2)
nb.show(figure)

# %% tags=["hide-input"]
entropy = np.array(r4["entropy"])  # (seeds, T - 1)
m_at = dict(zip(path[:, 0].astype(int).tolist(), path[:, 1].tolist(), strict=True))
share_at = dict(zip(path[:, 0].astype(int).tolist(), (path[:, 2] / 64).tolist(), strict=True))
nb.experiment(
    "E4",
    "The wanted shift, and with it the information, sits in the last steps; coding the low-noise half alone keeps the quality at half the bits.",
    "verified",
    holds=[
        ledger.increasing("m at t = 60, 20, 10, 5, 2, along the code path", [m_at[t] for t in (60, 20, 10, 5, 2)], scope=PATH),
        ledger.increasing(
            "live, T = 50: m at t = 30, 10, 5, 3, 2", [live_path[50 - t, 1] for t in (30, 10, 5, 3, 2)], machine=True, scope=LIVE
        ),
        ledger.less("m at t = 20 over e_64", m_at[20] / e_max(64), 0.5, digits=2, scope=PATH),
        ledger.more("m at t = 2 over e_1024", m_at[2] / e_max(1024), 1, digits=2, scope=PATH),
        ledger.better("all steps K = 8 over t ≤ 50, K = 64, about 295 bits each: MSE", cut_rows[100, 8], cut_rows[50, 64], scope=FULL(3)),
        ledger.better("live, T = 50: the same, all alike over the clean half", spread8, late, scope="cpu, 12 pictures"),
        ledger.less("live: largest over smallest number of bits of the three codes", max(spent) / min(spent), 1.05),
        ledger.better("live: MSE with t > 25 coded over t ≤ 25, K = 64, as many bits", early, late, scope="cpu, 12 pictures"),
        ledger.less(
            "t ≤ 50 over all steps, K = 64: MSE, at half the bits",
            np.mean(cut_rows[50, 64]) / np.mean(full64),
            1.3,
            digits=3,
            scope=FULL(3),
        ),
        ledger.better("t ≤ 50, K = 64 over t ≤ 25, K = 4096: MSE", cut_rows[50, 64], cut_rows[25, 4096], scope=FULL(3)),
        ledger.more(
            "bits of K = 64, all steps, over the ideal's at that MSE",
            594 / ideal_bits(ideal100, np.mean(full64)),
            3,
            digits=2,
            scope=FULL(4),
        ),
    ],
)
nb.claim(
    "C5",
    "For small K the softmax is nearly one-hot, so one may take the maximum: so for the printed weight, whose maximum is rule N; not for the right weight, and not as a reason for rule A.",
    "partly",
    holds=[
        ledger.less("printed weight: largest effective number of 64, t = 2..100", float(path[:, 3].max()), 10, digits=2, scope=PATH),
        ledger.less("live: the same", float(live_path[:, 3].max()), 10, machine=True, digits=2, scope=LIVE),
    ],
    fails=[
        *[ledger.more(f"ratio weight: effective share of 64 at t = {t}", share_at[t], 0.9, digits=3, scope=PATH) for t in (100, 60, 30)],
        ledger.more("live: at t = 30 of 50", float(live_path[20, 2] / 64), 0.9, machine=True, digits=3, scope=LIVE),
        *[ledger.better(f"K = {K}: MSE of the printed softmax over rule A", rule3[PS](K), rule3[A_](K), scope=FULL(3)) for K in (16, 64)],
    ],
)
nb.claim(
    "C13",
    "The code is one-dimensional, no order has to be chosen: but the position is the noise level, and positions differ widely in what they carry.",
    "verified",
    holds=[
        ledger.more("information m²/2 at t = 2 over t = 60, along the code path", (m_at[2] / m_at[60]) ** 2, 100, digits=2, scope=PATH),
        ledger.more(
            "live: MSE with the indices permuted over the right order",
            mse(wrong8, pair8) / mse(back8, pair8),
            10,
            machine=True,
            digits=2,
            scope="24 pictures",
        ),
    ],
)
nb.claim(
    "X3",
    "Each index alone is hardly compressible: its entropy over pictures is most of log₂ K, except at the very first step, where most pictures choose alike.",
    "verified",
    holds=[
        ledger.more("mean entropy of an index of log₂ 16 = 4 bits, 597 pictures", float(entropy.mean()), 3.5, digits=3, scope=FULL(4)),
        ledger.less("that of the first index", float(entropy[:, 0].mean()), 2.5, digits=2, scope=FULL(4)),
    ],
)

# %% [markdown]
# The first index is the same for most pictures: at the highest noise level the network's guess is off by an error of its own, common to
# all, amplified by $\bar\beta_T/\bar\alpha_T=154$, and this is what the index answers to. An autoregressive model of the code would have
# to find its gains in the dependence between positions; position by position there is little.
#
# ### E1. Generating from codebooks
#
# Uniform draws, $x_T$ from a codebook too. By D9 a share $1/K$ of each step's noise is common to all samples, which should show as less
# variety; centring should remove exactly this.

# %% tags=["hide-input"]
floor1 = r1["floor"]
label1 = {"plain": "one a step", "centred": "one a step, centred", "shared": "shared by all steps"}
nb.results(
    "E1",
    f"Digits, T = 100, {nb.recorded('E1').config['samples']} samples: FD / SW2 (total variance; data {floor1[2]:.1f}), mean over codebook seeds ± s.e. Half the training digits: {floor1[0]:.2f} / {floor1[1]:.3f}",
    ["codebook", "K", "FD", "SW2", "variance", "largest class"],
    [
        [
            "fresh noise" if not K else label1[kind],
            K or "–",
            *(ledger.with_error(col(r1, f"{kind} {K}", j), 3) for j in range(2)),
            f"{np.mean(col(r1, f'{kind} {K}', 2)):.1f}",
            f"{np.mean(col(r1, f'{kind} {K}', 3)):.2f}",
        ]
        for kind, K in arms1
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Frechet distance against codebook size, both logarithmic, digits. One codebook a step falls from about ten at K = 2 to half a unit at K = 64, still above the line of DDPM with fresh noise at 0.2. Centred codebooks start a factor of ten lower and reach the line at K = 16. One codebook shared by all steps needs K of several thousand."}}
figure, axes = plt.subplots(figsize=(7.0, 3.7))
for kind, color, style in (("plain", BLUE, "o-"), ("centred", GREEN, "s--"), ("shared", ORANGE, "^:")):
    Ks = [K for k, K in arms1 if k == kind and K]
    v = np.array([col(r1, f"{kind} {K}", 0) for K in Ks])
    axes.errorbar(Ks, v.mean(1), v.std(1, ddof=1) / math.sqrt(v.shape[1]), fmt=style, color=color, ms=4, capsize=2, label=label1[kind])
axes.axhline(np.mean(col(r1, "plain 0", 0)), color=GREY, label="DDPM, fresh noise")
axes.set(xscale="log", yscale="log", xlabel="vectors in a codebook, K", ylabel="FD to the test digits")
axes.set_xticks([2, 4, 8, 16, 64, 256, 1024, 4096], ["2", "4", "8", "16", "64", "256", "1024", "4096"])
axes.minorticks_off()
axes.set_title("Centred codebooks need sixteen vectors, plain ones more than 64")
axes.legend(fontsize=8)
nb.show(figure)


# %% tags=["hide-input"]
def generated_by_hand(kind, K, T=20, seed=1, count=60):
    """A row of ``generation`` with the draws and DDPM's step, (x - β² ε / β̄) / α + σ c, written out."""
    s, g = schedule(T), torch.Generator(nb.device).manual_seed(1000 + seed)
    teacher8 = diffusion.teacher("digits8", nb.device)

    def draw(t):
        if not K:
            return torch.randn(count, 64, generator=g, device=nb.device)
        C = codebook(t, K, 64, seed, nb.device)
        C = (C - C.mean(0)) * math.sqrt(K / (K - 1)) if kind == "centred" else C
        return C[torch.randint(K, (count,), generator=g, device=nb.device)]

    x = draw(T + 1)
    for t in range(T, 0, -1):
        a, b, before = (float(v) for v in (s.bar_alpha[t], s.bar_beta[t], s.bar_beta[t - 1]))
        alpha = a / float(s.bar_alpha[t - 1])
        with torch.no_grad():
            e = teacher8.eps(x.view(-1, 1, 8, 8) / a, b / a).flatten(1)
        x = (x - (1 - alpha**2) / b * e) / alpha
        x = x + before / b * math.sqrt(1 - alpha**2) * draw(t) if t > 1 else x
    x, test = x.view(-1, 1, 8, 8), teacher8.images.test
    found = teacher8.classifier(x).argmax(1).tolist()
    variance = np.var(x.flatten(1).cpu().numpy(), axis=0, ddof=1).sum()
    fd = metrics.frechet(teacher8.features(x), teacher8.features(test))
    return [fd, metrics.sliced_w2(x, test), variance, max(map(found.count, range(10))) / count]


few1 = [["plain", 0], ["plain", 8], ["centred", 2]]
tiny1 = generation(nb.device, 20, few1, [1], 60)
tiny1_gap = {
    f"{kind}, K = {K}": apart(torch.tensor(tiny1[f"{kind} {K}"][0]) / torch.tensor(generated_by_hand(kind, K)), torch.ones(4))
    for kind, K in few1
}

# %% tags=["hide-input"]
fd1 = lambda kind, K: col(r1, f"{kind} {K}", 0)
nb.experiment(
    "E1",
    "Unconditional digits: 64 vectors a step come near fresh noise but are measurably worse, two collapse; two centred ones do not, and 16 are as good as fresh noise.",
    "verified",
    holds=[
        ledger.less(
            "FD, K = 64, mean minus that of fresh noise", np.mean(fd1("plain", 64)) - np.mean(fd1("plain", 0)), 0.5, digits=2, scope=FULL(1)
        ),
        ledger.better("FD, K = 64 over fresh noise", fd1("plain", 64), fd1("plain", 0), sigmas=3, scope=FULL(1)),
        ledger.less(
            "FD, K = 16, centred, minus that of fresh noise",
            np.mean(fd1("centred", 16)) - np.mean(fd1("plain", 0)),
            0.1,
            digits=1,
            scope=FULL(1),
        ),
        ledger.better("FD, K = 2 over K = 64", fd1("plain", 2), fd1("plain", 64), scope=FULL(1)),
        ledger.better("FD, K = 2: plain over centred", fd1("plain", 2), fd1("centred", 2), scope=FULL(1)),
        ledger.more("ratio of the means", np.mean(fd1("plain", 2)) / np.mean(fd1("centred", 2)), 4, digits=2, scope=FULL(1)),
        ledger.increasing("−FD over K = 2, 4, 64, plain", [-np.mean(fd1("plain", K)) for K in (2, 4, 64)], scope=FULL(1)),
        *[
            ledger.less(f"60 samples in 20 steps, {name}: the row by hand, largest relative gap", gap, 1e-3, machine=True, digits=1)
            for name, gap in tiny1_gap.items()
        ],
        ledger.more(
            "live: FD, K = 2 over K = 64",
            e1["plain 2"][0][0] / e1["plain 64"][0][0],
            2,
            machine=True,
            digits=2,
            scope="cpu, 100 samples, T = 40",
        ),
        ledger.more(
            "live: FD, K = 2, plain over centred",
            e1["plain 2"][0][0] / e1["centred 2"][0][0],
            2,
            machine=True,
            digits=2,
            scope="cpu, 100 samples, T = 40",
        ),
    ],
)
nb.claim(
    "X4",
    "The collapse at small K is the common drift of D9: centring cuts the FD of K = 2 to about three times that of fresh noise, and 16 vectors reach it.",
    "verified",
    holds=[
        *[ledger.better(f"FD, K = {K}: plain over centred", fd1("plain", K), fd1("centred", K), scope=FULL(1)) for K in (2, 4)],
        ledger.better("total variance, K = 2: centred over plain", col(r1, "centred 2", 2), col(r1, "plain 2", 2), scope=FULL(1)),
        ledger.less(
            "FD, K = 4, centred, minus that of fresh noise",
            np.mean(fd1("centred", 4)) - np.mean(fd1("plain", 0)),
            0.5,
            digits=2,
            scope=FULL(1),
        ),
        ledger.better("largest class, K = 2: plain over centred", col(r1, "plain 2", 3), col(r1, "centred 2", 3), scope=FULL(1)),
    ],
)
nb.claim(
    "C7",
    "A codebook shared by all steps needs a far larger K (the post: 8192 or more on its model): far larger, yes; 64 pixels need less (that it grows with d is D10's argument, not measured).",
    "partly",
    holds=[
        ledger.better("FD: 64 shared over 64 a step", fd1("shared", 64), fd1("plain", 64), scope=FULL(1)),
        ledger.more(
            "FD, means: 256 shared over 16 a step", np.mean(fd1("shared", 256)) / np.mean(fd1("plain", 16)), 1.3, digits=2, scope=FULL(1)
        ),
        ledger.increasing("−FD over K = 64, 256, 1024, shared", [-np.mean(fd1("shared", K)) for K in (64, 256, 1024)], scope=FULL(1)),
        ledger.better(
            "encoding, K = 64, T = 100: MSE shared over one a step",
            rule3["A, one codebook for all steps"](64),
            rule3[A_](64),
            scope=FULL(3),
        ),
    ],
    fails=[
        ledger.less(
            "FD, 4096 shared, minus that of fresh noise",
            np.mean(fd1("shared", 4096)) - np.mean(fd1("plain", 0)),
            0.5,
            digits=2,
            scope=FULL(1),
        ),
    ],
)

# %% [markdown]
# ### E5. Guided generation

# %% tags=["hide-input"]
move5 = {
    "fresh": "fresh noise, guidance",
    "A": "rule A",
    "ratio": "ratio softmax",
    "printed": "printed softmax",
    "drift": "guidance, noise from a codebook",
}
nb.results(
    "E5",
    f"Digits, T = 100, wanted classes 0–9, {nb.recorded('E5').config['samples']} samples: share of hits (second classifier), FD, SW2; mean ± s.e. over seeds",
    ["noise", "K", "hits", "FD", "SW2"],
    [
        [
            move5[k] + (f", scale {scale:g}" if k == "fresh" else ""),
            K or "–",
            *(ledger.with_error(col(r5, f"{k} {K} {scale}", j), 3) for j in range(3)),
        ]
        for k, K, scale in arms5
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of hits against Frechet distance for guided digits. Gaussian guidance at scale one and the ratio softmax with 64 and 1024 vectors lie together at about 0.95 hits and low distance. Rule A has nearly all hits at several times the distance. The printed softmax has fewer hits and more distance. Guidance with codebook noise moves from higher distance at K = 2 to the Gaussian point at K = 64."}}
figure, axes = plt.subplots(figsize=(7.0, 4.0))
for move, color, marker in (("fresh", BLACK, "*"), ("A", RED, "o"), ("ratio", GREEN, "s"), ("printed", PURPLE, "^"), ("drift", BLUE, "D")):
    rows = [
        (K, scale, np.mean(col(r5, f"{k} {K} {scale}", 1)), np.mean(col(r5, f"{k} {K} {scale}", 0))) for k, K, scale in arms5 if k == move
    ]
    axes.plot([r[2] for r in rows], [r[3] for r in rows], marker, color=color, ms=9 if marker == "*" else 6, label=move5[move])
    for K, scale, x_, y_ in rows if move == "fresh" else (rows[0], rows[-1]):
        text, up = (f"K = {K}", 5) if K else (f"scale {scale:g}", -12)
        axes.annotate(text, (x_, y_), xytext=(2, up), textcoords="offset points", fontsize=7, color=color)
axes.set(xscale="log", xlabel="FD to the test digits", ylabel="share of hits", ylim=(0, 1.08))
axes.set_title("The ratio softmax is guidance; the maximum over-guides")
axes.legend(fontsize=8, loc="lower left")
nb.show(figure)

# %% tags=["hide-input"]
hit5 = lambda k, K, scale=1.0: col(r5, f"{k} {K} {scale}", 0)
fd5 = lambda k, K, scale=1.0: col(r5, f"{k} {K} {scale}", 1)
sw5 = lambda k, K, scale=1.0: col(r5, f"{k} {K} {scale}", 2)
live5 = lambda k, K, j: e5[f"{k} {K} 1.0"][0][j]
L5 = "cpu, 80 samples, T = 40"
nb.experiment(
    "E5",
    "Guided digits: the ratio softmax does what Gaussian guidance does; rule A hits the class but over-guides.",
    "verified",
    holds=[
        ledger.close(
            "hits: ratio softmax, K = 1024, over Gaussian guidance",
            np.mean(hit5("ratio", 1024)) / np.mean(hit5("fresh", 0)),
            1,
            abs=0.03,
            scope=FULL(5),
        ),
        ledger.less(
            "FD: ratio softmax, K = 1024, minus Gaussian guidance",
            np.mean(fd5("ratio", 1024)) - np.mean(fd5("fresh", 0)),
            0.15,
            digits=2,
            scope=FULL(5),
        ),
        *[ledger.more(f"hits of rule A, K = {K}", np.mean(hit5("A", K)), 0.96, digits=3, scope=FULL(5)) for K in (8, 64, 1024)],
        *[
            ledger.better(f"FD: rule A, K = {K}, over Gaussian guidance", fd5("A", K), fd5("fresh", 0), scope=FULL(5))
            for K in (8, 64, 1024)
        ],
        ledger.more("ratio of the means, K = 1024", np.mean(fd5("A", 1024)) / np.mean(fd5("fresh", 0)), 2.5, digits=2, scope=FULL(5)),
        ledger.less("hits without guidance", np.mean(hit5("fresh", 0, 0.0)), 0.2, digits=2, scope=FULL(5)),
        ledger.more("live: hits of the ratio softmax, K = 64", live5("ratio", 64, 0), 0.8, machine=True, digits=2, scope=L5),
        ledger.more(
            "live: FD of rule A over the ratio softmax, K = 64",
            live5("A", 64, 1) / live5("ratio", 64, 1),
            1.3,
            machine=True,
            digits=2,
            scope=L5,
        ),
    ],
)
nb.claim(
    "C4",
    "Drawing from the codebook by a softmax is the rigorous rule: the idea is right, the printed weight is not.",
    "partly",
    holds=[
        sym.identity("with the ratio weight the limit has mean", average(weights["ratio"], e), tau_),
        ledger.close(
            "hits: ratio softmax, K = 1024, over Gaussian guidance",
            np.mean(hit5("ratio", 1024)) / np.mean(hit5("fresh", 0)),
            1,
            abs=0.03,
            scope=FULL(5),
        ),
    ],
    fails=[
        sym.identity("with the printed weight it has", average(weights["printed"], e), tau_ / 2),
        ledger.close("K = 10⁶, τ = (2, 0): mean by the printed weight", moments["printed"][0], 1, abs=0.01, scope="one codebook"),
        ledger.better("FD: printed over ratio, K = 64", fd5("printed", 64), fd5("ratio", 64), scope=FULL(5)),
        *[ledger.better(f"hits: ratio over printed, K = {K}", hit5("ratio", K), hit5("printed", K), scope=FULL(5)) for K in (64, 1024)],
    ],
)
nb.claim(
    "C6",
    "K = 64 about matches DDPM, even K = 2 loses little: so at K = 64 when a condition guides, as in the paper's tests, and nearly so without; at K = 2 the loss is moderate with a condition and a collapse without.",
    "partly",
    holds=[
        ledger.less(
            "guided, FD, K = 64, minus fresh noise", np.mean(fd5("drift", 64)) - np.mean(fd5("fresh", 0)), 0.1, digits=2, scope=FULL(5)
        ),
        *[ledger.more(f"guided, K = {K}: hits", np.mean(hit5("drift", K)), 0.9, digits=3, scope=FULL(5)) for K in (2, 4, 16, 64)],
        ledger.less(
            "FD at K = 2, guided, over unconditional",
            np.mean(fd5("drift", 2)) / np.mean(fd1("plain", 2)),
            0.3,
            digits=2,
            scope=f"{FULL(1)} and E5",
        ),
        ledger.less(
            "unconditional, FD, K = 64, minus fresh noise",
            np.mean(fd1("plain", 64)) - np.mean(fd1("plain", 0)),
            0.5,
            digits=2,
            scope=FULL(1),
        ),
    ],
    fails=[
        ledger.better("unconditional, FD, K = 64 over fresh noise", fd1("plain", 64), fd1("plain", 0), sigmas=3, scope=FULL(1)),
        ledger.more(
            "unconditional, FD, K = 2 over fresh noise", np.mean(fd1("plain", 2)) / np.mean(fd1("plain", 0)), 5, digits=2, scope=FULL(1)
        ),
        ledger.better("unconditional, largest class, K = 2 over fresh noise", col(r1, "plain 2", 3), col(r1, "plain 0", 3), scope=FULL(1)),
        ledger.better("guided, FD, K = 2 over fresh noise", fd5("drift", 2), fd5("fresh", 0), scope=FULL(5)),
        ledger.better("guided, SW2, K = 2 over fresh noise", sw5("drift", 2), sw5("fresh", 0), scope=FULL(5)),
    ],
)

# %% [markdown]
# The paper's curve of FID against $K$ (class-conditional ImageNet and text-to-image) is shown in the post as a figure; we have no numbers
# of it to set beside ours. What can be set beside: the bits.

# %% tags=["hide-input"]
nb.results(
    "C11",
    "Bits per pixel on the authors' page (T = 1000), and by (T − 1) log₂ K",
    ["picture", "K", "page", "formula"],
    [[f"{side_} × {side_}", K, f"{w:.3f}", f"{bits(1000, K) / side_**2:.4f}"] for (K, side_), w in BPP.items()],
)

# %% [markdown]
# ## E6. MNIST, beside JPEG and WebP
#
# The first figure in numbers. Each row takes a DDCM setting and asks what the others do with at most as many bits. One by one a 28 x 28
# file is mostly header, so the sheet is the fair form for them; two columns leave the headers out altogether. The trained linear
# transform is the rival with the same knowledge of the data; the last column is the rate of the model itself (D8) at DDCM's error.

# %% tags=["hide-input"]
PICKED = [
    (100, 64, 50, "plain"),
    (100, 16, 100, "plain"),
    (100, 64, 100, "plain"),
    (300, 16, 150, "plain"),
    (100, 1024, 100, "plain"),
    (1000, 2, 1000, "centred"),
]
cell = lambda w: f"{w:.4f}" if math.isfinite(w) else "–"
table6, ideal6 = [], np.array(r6["ideal 1000"]).mean(0)
for T, K, cut, kind in PICKED:
    rate = bits(T, K, cut) / 784
    v = col(r6, f"{T} {K} {cut} {kind}", 0)
    setting = f"T = {T}, K = {K}" + (f", t ≤ {cut}" if cut < T else "") + (", centred" if kind == "centred" else "")
    rivals = [
        best(key, rate, bare)
        for key, bare in ((("WEBP", True), 0), (("JPEG", True), 0), (("linear", True), 0), (("WEBP", False), 1), (("JPEG", False), 1))
    ]
    needed = ideal_bits(ideal6, np.mean(v)) / 784
    table6.append([setting, f"{rate:.3f}", ledger.with_error(v, 4), *map(cell, rivals), f"{needed:.3f}"])
nb.results(
    "E6",
    f"MNIST, MSE at the same bits a pixel ({MNIST}). –: no setting so small. Lossless WebP of the sheet: {LOSSLESS:.2f} bits a pixel",
    ["DDCM", "bpp", "DDCM", "WebP sheet", "JPEG sheet", "linear", "WebP, no header", "JPEG, no header", "ideal bpp"],
    sorted(table6, key=lambda row: float(row[1])),
)

# %%
strip8 = mnist.images.test[:6].flatten(1)
shown = {"original": strip8}
for label_, K, cut, kind in (
    ("K = 2", 2, 50, "plain"),
    ("K = 2, centred", 2, 50, "centred"),
    ("K = 64, t ≤ 25", 64, 25, "plain"),
    ("K = 64", 64, 50, "plain"),
):
    end, _ = encode(flat(mnist), schedule(50), strip8, books(K, 784, 1, kind=kind, cut=cut), 1)
    shown[f"{label_} ({bits(50, K, cut):.0f} bits)"] = end
webp8 = [save(image, "WEBP", quality=0, method=6) for image in GREY8[:6]]
shown[f"WebP, q = 0 ({np.mean([8 * len(w) for w in webp8]):.0f} bits)"] = (
    torch.from_numpy(np.stack([load(w) for w in webp8]) / 127.5 - 1).float().flatten(1)
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six rows of six MNIST digits: originals; DDCM with 50 steps and K = 2, several wrong digits; K = 2 centred; K = 64 on the low-noise half of the steps; K = 64 on all steps, close to the originals; WebP at its lowest quality, blocky but recognisable."}}
figure, axes = plt.subplots(figsize=(7.6, 4.7))
axes.imshow(tile(torch.cat(list(shown.values())).view(-1, 28, 28), 6), cmap="gray")
axes.grid(False)
axes.set(xticks=[], yticks=[14.5 + 30 * i for i in range(len(shown))], yticklabels=list(shown))
axes.set_title("DDCM errs by drawing another sharp digit, WebP by blocks", fontsize=10)
nb.show(figure)

# %% tags=["hide-input"]
mse6 = lambda T, K, cut=None, kind="plain": col(r6, f"{T} {K} {cut or T} {kind}", 0)
KS6 = (2, 4, 16, 64, 256, 1024)
nb.experiment(
    "E6",
    "MNIST: the error falls with K and T; centring helps K = 2; the noisy half of the steps can go without code, but not seven tenths of them (T = 100).",
    "verified",
    holds=[
        *[
            ledger.increasing(f"−MSE over K = 2, .., 1024, T = {T}", [-np.mean(mse6(T, K)) for K in KS6], scope=MNIST)
            for T in (100, 300, 1000)
        ],
        *[ledger.increasing(f"−MSE over T, K = {K}", [-np.mean(mse6(T, K)) for T in (100, 300, 1000)], scope=MNIST) for K in KS6],
        ledger.more(
            "T = 100, K = 2: MSE plain over centred, smallest over largest of 2 seeds",
            min(mse6(100, 2)) / max(mse6(100, 2, kind="centred")),
            1.05,
            digits=3,
            machine=True,
            scope=MNIST,
        ),
        ledger.more(
            "T = 100: MSE of K = 16, 396 bits, over K = 64 for t ≤ 50, 294 bits, smallest over largest of 2 seeds",
            min(mse6(100, 16)) / max(mse6(100, 64, 50)),
            1.05,
            digits=3,
            machine=True,
            scope=MNIST,
        ),
        ledger.more(
            "T = 100, K = 1024: MSE of t ≤ 30 over all steps",
            np.mean(mse6(100, 1024, 30)) / np.mean(mse6(100, 1024)),
            10,
            digits=2,
            scope=MNIST,
        ),
        ledger.less("live: T = 50, K = 64: MSE", e6["50 64 50 plain"][0][0], 0.03, machine=True, digits=2, scope="cpu, 6 pictures"),
    ],
)
nb.claim(
    "X5",
    "Where the bits may be saved depends on the picture's size: on 64 pixels a quarter of the steps is enough to code, on 784, 30% are too few (T = 100); 40% suffice at T = 300, K = 256.",
    "verified",
    holds=[
        ledger.better("digits, MSE: t ≤ 50, K = 64 over t ≤ 25, K = 4096", cut_rows[50, 64], cut_rows[25, 4096], scope=FULL(3)),
        ledger.more(
            "MNIST, MSE: t ≤ 30, K = 1024 over t ≤ 50, K = 64, smallest over largest of 2 seeds",
            min(mse6(100, 1024, 30)) / max(mse6(100, 64, 50)),
            1.05,
            digits=3,
            machine=True,
            scope=MNIST,
        ),
        ledger.more("MNIST, share recognised, t ≤ 50, K = 64", np.mean(col(r6, "100 64 50 plain", 1)), 0.9, digits=3, scope=MNIST),
    ],
)

# %% [markdown]
# Why does MNIST need more of the chain? The signal-to-noise ratio of a step is per pixel; a digit of 784 pixels shows itself at a lower
# one than a digit of 64. With too few coded steps the sampler has already decided, by its known noise, for another digit, and the code
# cannot turn it back.
#
# **Who pays for the network?** Its weights in float16 are 447 kB. The rivals need none (a decoder is on every machine), and the trained
# transform needs its basis. The saving against the WebP sheet pays for the weights only after so many pictures:

# %% tags=["hide-input"]
weights_bits = sum(8 * p.numel() * p.half().element_size() for p in mnist.net.parameters())
ref = (100, 64, 50)
rate50, error50 = bits(*ref) / 784, np.mean(mse6(*ref))
webp_rate = min((row[0] for row in classic["WEBP", True] if row[2] <= error50), default=LOSSLESS)
break_even = weights_bits / ((webp_rate - rate50) * 784)
print(f"DDCM {rate50:.3f} bpp, WebP sheet for the same MSE ≈{webp_rate:.2f} bpp: the weights pay off from ≈{break_even:,.0f} pictures on")

# %% tags=["hide-input"]
checked = save(GREY8[0], "JPEG", quality=30), save(GREY8[1], "JPEG", quality=80), save(GREY8[1], "WEBP", quality=30, method=6)
by_hand = 8 * sum(len(save(image, "WEBP", quality=28, method=6)) for image in GREY8) / (len(GREY8) * 784)
jpegs = {optimize: [save(image, "JPEG", quality=28, optimize=optimize) for image in GREY8] for optimize in (False, True)}
fixed_tables, own_tables = classic["JPEG", False][2 * QUALITIES["JPEG", False].index(28) :][:2]
jpeg_ratio = {
    "fixed tables": 8 * sum(map(len, jpegs[False])) / GREY8.size / fixed_tables[0],
    "fixed tables, no header": 8 * sum(map(scans, jpegs[False])) / GREY8.size / fixed_tables[1],
    "own tables": 8 * sum(map(len, jpegs[True])) / GREY8.size / own_tables[0],
}
low6 = [(100, 64, 50), (100, 16, 100), (100, 1024, 50)]
linear_excess = [row[0] / row[1] for row in classic["linear", True]]
nb.claim(
    "X6",
    "With the weights not counted, DDCM has a smaller error than JPEG, WebP and a trained linear transform at 0.37 to 0.63 bits a pixel of MNIST, even on a sheet. At its smallest rate, 0.13, the linear transform is better; with T = 1000 WebP is, and from 1.6 bits on a lossless file.",
    "verified",
    holds=[
        ledger.less(
            f"linear, at most {all6[0][0]:.2f} bits a pixel: its MSE over that of DDCM's smallest code",
            best(("linear", True), all6[0][0]) / all6[0][1],
            0.9,
            machine=True,
            digits=2,
            scope=MNIST,
        ),
        *[
            ledger.less(
                f"{name}, at most {bits(*a) / 784:.2f} bits a pixel: MSE of DDCM over its best",
                np.mean(mse6(*a)) / best(key, bits(*a) / 784),
                0.75,
                machine=True,
                digits=2,
                scope=MNIST,
            )
            for name, key in (("WebP sheet", ("WEBP", True)), ("JPEG sheet", ("JPEG", True)), ("linear", ("linear", True)))
            for a in low6
            if math.isfinite(best(key, bits(*a) / 784))
        ],
        *[
            ledger.more(
                f"{name}: its smallest rate with the MSE of DDCM at {rate50:.3f}, over that",
                min(row[j] for row in classic[key] if row[2] <= error50) / rate50,
                bound,
                machine=True,
                digits=3,
                scope=MNIST,
            )
            for name, key, j, bound in (
                ("WebP sheet", ("WEBP", True), 0, 1.5),
                ("WebP, one by one", ("WEBP", False), 0, 3),
                ("WebP, one by one, no headers", ("WEBP", False), 1, 2),
                ("JPEG sheet", ("JPEG", True), 0, 3),
                ("JPEG, one by one, no headers", ("JPEG", False), 1, 3),
            )
        ],
        ledger.more(
            "T = 1000, K = 2: MSE of DDCM over the best WebP sheet",
            np.mean(mse6(1000, 2)) / best(("WEBP", True), bits(1000, 2) / 784),
            3,
            machine=True,
            digits=2,
            scope=MNIST,
        ),
        ledger.more(
            "T = 1000, K = 4: bits a pixel over those of lossless WebP",
            bits(1000, 4) / 784 / LOSSLESS,
            1,
            machine=True,
            digits=3,
            scope="same pictures",
        ),
        ledger.close(
            "sheet() and cut_out(), cells of 32: share of equal pixels", float((cut_out(sheet(GREY8, 32), 32) == GREY8).mean()), 1, abs=1e-9
        ),
        ledger.close(
            "WebP one by one, q = 28, by hand: bits a pixel over curve()'s",
            by_hand / classic["WEBP", False][QUALITIES["WEBP", False].index(28)][0],
            1,
            abs=1e-9,
        ),
        *[
            ledger.close(f"JPEG one by one, q = 28, {what}, by hand: bits a pixel over curve()'s", bits_, 1, abs=1e-9)
            for what, bits_ in jpeg_ratio.items()
        ],
        ledger.close(
            "and its bits without the header where its own tables are in it: settings with a finite number",
            sum(math.isfinite(row[1]) for row in classic["JPEG", False][1::2]),
            0,
            abs=0.5,
        ),
        ledger.close(
            "JPEG headers of two files, bytes: difference",
            len(checked[0]) - scans(checked[0]) - len(checked[1]) + scans(checked[1]),
            0,
            abs=0.5,
        ),
        ledger.more(
            "JPEG: bytes of header in 28 x 28 over bytes of data", len(checked[0]) / scans(checked[0]) - 1, 1, machine=True, digits=2
        ),
        ledger.close(
            "WebP: bytes by the length field of its picture chunk over our payload plus the frame header",
            int.from_bytes(checked[2][16:20], "little") / (webp_payload(checked[2]) + 10),
            1,
            abs=0.01,
        ),
        ledger.more("linear: smallest code length over the pictures' own entropy, 24 steps", min(linear_excess), 1, digits=3, machine=True),
        ledger.less("linear: largest", max(linear_excess), 1.3, digits=2, machine=True),
        ledger.more("pictures that pay for the weights", break_even, 1000, machine=True, digits=2, scope="against the WebP sheet"),
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **Large codebooks are efficient ones.** A vector chosen by rule A carries $e_K$ along the wanted direction, worth $\frac12e_K^2$ nats by
# D8, and costs $\ln K$. The share $e_K^2/(2\ln K)$ is 0.23 for $K=2$, two thirds for $K=64$, and tends to 1 like the square of D4's
# ratio: one reason to code few steps with many vectors rather than many steps with few. It is not the whole of the gap to the ideal
# curve, since rule A also spends $\ln K$ where next to nothing is wanted.
#
# **Matching pursuit** (in the paper) combines $M$ vectors a step; Turbo-DDCM {cite}`vaisman2025turbo` chooses hundreds of them at once
# and needs far fewer steps; gDDCM {cite}`kong2025gddcm` carries the idea to other samplers. That the ideal is a sum of Kullback-Leibler
# terms, and how near one can come to it, is the subject of DiffC {cite}`theis2022diffc,vonderfecht2025diffc`.
#
# ## What does not hold
#
# - **"Nearly equal norms make N and A the same"** (C2): the premise is true to leading order and the conclusion false, because the
#   neglected fluctuation, $\sqrt{2d}$, exceeds the signal, $2m_t$. On a sphere it is true, and then slightly better than A.
# - **The importance weight** (C4, D5): the codebook is a sample already, so the target has to be divided by the proposal. With the
#   printed weight the post's own condition, $K\to\infty$ gives the exact step, fails: half the mean, half the variance.
# - **"For small $K$ the softmax is nearly one-hot"** (C5): on our 64 pixels only through the same slip. The wanted length $m_t$ grows like
#   $\sqrt d$: on $128\times128\times3$ numbers, at the same error a pixel, it is 28 times longer, and the right weight is one-hot there too.
# - **"Even $K=2$ loses little"** (C6): with a condition FD is three to four times that of fresh noise; without one the
#   shared drift collapses the samples, and $K=64$ is still measurably short of DDPM. Centring mends most of it; 16 centred vectors, all.
# - **"Every sample can be reached"** (C14): approximately, and a greedy search finds less than there is.
# - Slips: $\mu(x_t)$ for $\bar\mu(x_t)$ in the clean-image classifier (D6); the header of the published program names another post
#   (9245).

# %%
efficiency = {K: e_max_by_tails(K) ** 2 / (2 * math.log(K)) for K in (2, 64, 1024, 10**8)}
nb.claim(
    "X7",
    "A random codebook's best vector is worth e_K²/2 nats for ln K: a share that rises from 0.23 at K = 2 towards 1.",
    "verified",
    holds=[
        ledger.close("K = 2, where e_K² = 1/π", efficiency[2], 1 / (2 * math.pi * math.log(2)), rel=1e-8),
        ledger.increasing("share at K = 2, 64, 1024, 10⁸", list(efficiency.values())),
        ledger.less("and below 1", max(efficiency.values()), 1),
    ],
)

# %% [markdown]
# ## Exercises
#
# 1. How many vectors would rule A need at each step of the digits so as neither to over- nor to under-guide, that is $e_K=m_t$?
# 2. Why does centring, meant for generation, help the *encoder* at $K=2$?
# 3. Rule A over-guides. Does it encode better with shrunk vectors, $\lambda\varepsilon$ with $\lambda<1$?
# 4. Show that the printed weight with $2\tau$ in place of $\tau$ has the right mean and still the wrong variance.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# At most steps fewer than two: $m_t$ reaches $e_2=0.56$ only below about $t=15$ of 100. At the last steps more than any codebook that
# could be searched. Few steps lie between.
# ```

# %% tags=["hide-cell"]
for t_ in (60, 30, 15, 10, 5, 3, 2):
    needed = next((K for K in (2, 4, 8, 16, 64, 256, 1024, 8192, 10**6) if e_max_by_tails(K) >= m_at[t_]), None)
    print(f"t = {t_:3d}: m = {m_at[t_]:.2f}, smallest K of the list with e_K ≥ m: {needed}")

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# With the pair $\pm c$ the better of the two always has a non-negative inner product with $R_t$, of mean $\mathbb E|z|=\sqrt{2/\pi}=0.80$
# where two independent vectors give $e_2=0.56$.
# ```

# %% tags=["hide-cell"]
antithetic = torch.stack([centred(codebook(t, 2, 64, seed=11))[:, 0].max() for t in range(4000)]).double()
print(
    f"gain along a direction, centred pair: {float(antithetic.mean()):.3f} ± {float(antithetic.std()) / 4000**0.5:.3f}; √(2/π) = {math.sqrt(2 / math.pi):.3f}"
)
pair_mse = [
    [mse(encode(eps8, s8, pair8, books(2, 64, seed, kind=kind), seed)[0], pair8) for seed in (0, 1)] for kind in ("plain", "centred")
]
print("MSE at T = 50, two seeds: plain", np.round(pair_mse[0], 3), "centred", np.round(pair_mse[1], 3))

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# No: at $\lambda=\frac12$ the error rises (at 0.8 one codebook seed cannot tell). The network expects noise of the right size, and each
# vector then carries less of the shift in the last steps, where it is wanted.
# ```

# %% tags=["hide-cell"]
for scale_ in (1.0, 0.8, 0.5):
    shrunk = lambda t, k=scale_: k * codebook(t, 64, 64, 1)
    print(f"λ = {scale_}: MSE {mse(encode(eps8, s8, pair8, shrunk, 1)[0], pair8):.4f}")

# %% [markdown]
# ```{admonition} Solution 4
# :class: dropdown
# The product of $\mathcal N(0,1)$ and $e^{-\frac12(\varepsilon-2\tau)^2}$ is $\mathcal N(\tau,\frac12)$ up to a constant.
# ```

# %% tags=["hide-cell"]
twice = sp.exp(-((e - 2 * tau_) ** 2) / 2)
print(sp.simplify(average(twice, e).doit()), sp.simplify(average(twice, (e - tau_) ** 2).doit()))

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2025ddcm`; the paper: {cite}`ohayon2025ddcm`. Tokenisers that are trained: {cite}`oord2017vqvae`,
# {cite}`mentzer2023fsq`. Guidance: {cite}`dhariwal2021guidance`. Reverse channel coding: {cite}`theis2022diffc`,
# {cite}`vonderfecht2025diffc`. Later work: {cite}`vaisman2025turbo`, {cite}`kong2025gddcm`.
