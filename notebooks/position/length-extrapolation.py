# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Length extrapolation in review: train short, test long
#
# [Transformer升级之路：16、“复盘”长度外推技术](https://kexue.fm/archives/9948) · 2024-01-26 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/position/length-extrapolation.ipynb)
#
# **The point.** A RoPE model trained on $L$ tokens can be read far beyond $L$ without further training, if near distances stay as they are and far ones are
# brought into the trained range. That is what ReRoPE does to distances and YaRN to frequencies; compressing everything (interpolation) or
# hiding what is far (a window) fails. A small model, $L=64$, that has to copy from beyond $L$ in a text of $8L$ is right in 97% of the cases with ReRoPE, in 93% with YaRN,
# and no better than chance with plain RoPE, interpolation or a window. The *loss* on text cannot tell ReRoPE from a window. New here: a formula for how far NTK-aware RoPE
# (a larger base at test time) reaches, right to 8%; and what limits the distances that ReRoPE may keep: not $L$, but those that training made use of.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import copy
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, positions, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.extrapolation import Decoder, Scheme, planted, tiled
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from kexue_nb.positions import (
    dynamic_ntk_frequencies,
    interpolated_frequencies,
    least_leak,
    ntk_by_parts_frequencies,
    ntk_frequencies,
    rope_frequencies,
    yarn_temperature,
)

# %%
nb = kexue_nb.notebook("length-extrapolation")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: the distance that attention is given against the true distance from 0 to 4095, for a model trained on 512. RoPE leaves the trained range at once; interpolation has a slope of one eighth from the start; ReRoPE follows RoPE up to 128 and stays there; Leaky ReRoPE follows it up to 128 and then rises slowly to 511. Right: the factor on each frequency against the number of turns it made in training. Interpolation is one eighth everywhere, NTK falls from 1 to one eighth, YaRN stays at 1 above 32 turns and at one eighth below one turn."}}
figure, (axes, right) = plt.subplots(1, 2, figsize=(7.8, 3.7))
r = np.arange(4096)
shapes = {
    "RoPE": (r, BLACK, ":"),
    "interpolation": (r / 8, ORANGE, "--"),
    "ReRoPE, w = 128": (np.minimum(r, 128), BLUE, "-"),
    "Leaky ReRoPE, k = 10.36": (np.where(r < 128, r, 128 + (r - 128) / 10.36), GREEN, "-."),
}
for name, (shape, color, dash) in shapes.items():
    axes.plot(r, shape, color=color, ls=dash, label=name)
axes.axhspan(0, 511, color=SKY, alpha=0.2, lw=0)
axes.annotate("shaded: distances seen in training, L = 512", (4090, 520), fontsize=8, ha="right")
axes.set(ylim=(0, 640), xlabel="true distance (tokens)", ylabel="distance given to RoPE")
axes.legend(loc="lower right", bbox_to_anchor=(1, 0.225), fontsize=7.5)
axes.set_title("Read at 8 L: near kept, far compressed", fontsize=10)
theta = rope_frequencies(128)
made = positions.turns(theta, 512).numpy()
for name, changed, color, dash in (
    ("interpolation", interpolated_frequencies(theta, 8), ORANGE, "--"),
    ("NTK-aware", ntk_frequencies(128, 8), PURPLE, ":"),
    ("YaRN, τ = 32", ntk_by_parts_frequencies(128, 8, 512), RED, "-"),
):
    right.plot(made, changed / theta, color=color, ls=dash, label=name)
right.set(xscale="log", yscale="log", xlabel="turns of the pair in training (log axis)", ylabel="factor on its frequency (log axis)")
right.set_yticks([1 / 8, 1 / 4, 1 / 2, 1], ["1/8", "1/4", "1/2", "1"])
right.minorticks_off()
right.legend(loc="lower right", fontsize=8)
right.set_title("YaRN: fast pairs kept, slow compressed", fontsize=9.5)
nb.show(figure)

# %% [markdown]
# ## The question
#
# A language model is trained on $L$ tokens and asked to read $n\gg L$, its weights untouched. Attention itself takes any number of tokens, and RoPE
# gives every pair of tokens a rotation; and yet a plain RoPE model falls apart soon after $L$. Su's post looks back on a year in which a dozen
# remedies appeared, and asks what those that work have in common.
#
# Two demands come first. A method must keep the *long-range* dependency: a window that forgets everything beyond $L$ is a baseline, not a solution.
# And it is to be judged by a longer context making *the same* final tokens easier to predict, not by an average loss over all positions, which a
# window gets right as well.
#
# Notation: $L$ training length, $n$ test length, $s=n/L$; $d$ head size; $\theta_i=b^{-2i/d}$, $i<d/2$, with base $b=10^4$; $\mathcal R_m$ the
# rotation at position $m$; $r=i-j$ a distance and $\delta(r)$ the distance a method makes of it; $r_i=L\theta_i/2\pi$ the *turns* that pair $i$ made
# in training; $w$ a window; $k$ the leak of Leaky ReRoPE; $\lambda$ a factor on the logits. ($i$ counts pairs where it is an index, tokens in $i-j$.)
#
# How large the base must be for a given length is [another notebook's question](rope-base.ipynb); factors like $\lambda$ are the matter of [the attention scale](../attention/attention-scale.ipynb).
# All equations below stand as functions in `kexue_nb.positions`. Where the `transformers` package has the same method, a unit test compares the two to $10^{-6}$.

# %% [markdown]
# ## One rotation, one distance
#
# Write the two coordinates of pair $i$ as one complex number, $q_{(i)}=q_{2i}+\mathrm i\,q_{2i+1}$. With the query at position $m$ and the key at position
# $n$ (in this section $n$ is no test length) the logit is
#
# $$(\mathcal R_mq)^\top(\mathcal R_nk)=\operatorname{Re}\sum_i q_{(i)}\,\overline{k_{(i)}}\;e^{\mathrm i(m-n)\theta_i} .$$
#
# Every method below changes $m-n$, or $\theta_i$, or which $n$ are seen, or a factor in front. The check expands one pair from the rotation matrices;
# then the library's `Scheme` is compared with the complex sum.

# %%
m, n, theta1 = sp.symbols("m n theta", real=True)
q1, q2, k1, k2 = sp.symbols("q1 q2 k1 k2", real=True)
turn = lambda a: sp.Matrix([[sp.cos(a), -sp.sin(a)], [sp.sin(a), sp.cos(a)]])
by_matrices = ((turn(m * theta1) * sp.Matrix([q1, q2])).T * turn(n * theta1) * sp.Matrix([k1, k2]))[0]
by_complex = (q1 + sp.I * q2) * (k1 - sp.I * k2) * (sp.cos((m - n) * theta1) + sp.I * sp.sin((m - n) * theta1))


def complex_logits(q, k, theta, distance, factor=1.0):
    """Re sum_p q_p conj(k_p) exp(i distance theta_p), (n, n), for q, k (n, d) and any array of distances (n, n)."""
    pair = lambda x: x[:, 0::2].numpy() + 1j * x[:, 1::2].numpy()
    turned = np.exp(1j * np.asarray(distance)[..., None] * np.asarray(theta))
    return factor * np.einsum("ip,jp,ijp->ij", pair(q), pair(k).conj(), turned).real


with torch.random.fork_rng():
    torch.manual_seed(11)
    draw_q, draw_k = torch.randn(2, 41, 8, dtype=torch.float64)
steps = np.arange(41)[:, None] - np.arange(41)

# %%
nb.derivation(
    "D1",
    "The logit of RoPE is the real part of a sum over pairs of q conj(k) times a phase (m − n)θᵢ.",
    sym.identity("one pair, from the rotation matrices", by_matrices, sp.re(sp.expand(by_complex))),
    ledger.less(
        "largest difference between Scheme and the complex sum, 41 × 41 logits",
        float(
            np.abs(
                Scheme(rope_frequencies(8)).logits(draw_q, draw_k).numpy() - complex_logits(draw_q, draw_k, rope_frequencies(8), steps)
            ).max()
        ),
        1e-11,
        machine=True,
        scope="d = 8, float64",
    ),
)

# %% [markdown]
# ## Windows and sinks
#
# The crudest remedy hides what is far: a query sees the keys with $0\le i-j<w$. LM-Infinite {cite}`han2023lminfinite` and StreamingLLM
# {cite}`xiao2023streaming` found that this destroys a large model, and that keeping the first few tokens repairs it. Here is the arithmetic of why
# it can. Suppose a head often has nothing to say, and has learned to put its attention on token 0 (logit $c$, value 0) instead of on the $w$ keys in
# its window (logits 0). Its output is $\sum_{j\in w}v_j/(e^c+w)$. Remove token 0 and
#
# $$\frac{\sum v_j}{e^c+w}\quad\text{becomes}\quad\frac{\sum v_j}{w}:\qquad\text{larger by }\frac{e^c+w}w .$$
#
# A head that was silent shouts: tenfold at $e^c=9w$. LM-Infinite also clips distances, $\delta(r)=\min(r,L-1)$; StreamingLLM counts positions inside
# its cache. Both put the sinks at a distance that was seen in training.


# %%
def head_output(window, sinks, c, values):
    """Output of the last query: token 0 has logit c and value 0, all other logits are 0; keys as the mask shows them."""
    n = len(values) + 1
    logits = torch.zeros(n, dtype=torch.float64)
    logits[0] = c
    seen = positions.visible(n, window, sinks)[-1]
    return float(torch.softmax(logits.masked_fill(~seen, -math.inf), 0) @ torch.cat([torch.zeros(1, dtype=torch.float64), values]))


with torch.random.fork_rng():
    torch.manual_seed(2)
    sink_values = torch.rand(40, dtype=torch.float64)
seen_by = lambda w, sinks, i: int(positions.visible(30, w, sinks)[i].sum())

# %%
nb.derivation(
    "D2",
    "A window shows min(i + 1, w) keys, a Λ-mask the first sinks besides; dropping a sink of weight e^c multiplies a quiet head's output by (e^c + w)/w.",
    sym.enumeration("keys seen by query i, w = 7", range(30), lambda i: seen_by(7, 0, i), lambda i: min(i + 1, 7)),
    sym.enumeration("with 4 sinks", range(30), lambda i: seen_by(7, 4, i), lambda i: min(i + 1, 11)),
    *[
        ledger.close(
            f"louder without the sink, w = 16, e^c = {ratio} w",
            head_output(16, 0, math.log(ratio * 16), sink_values) / head_output(16, 1, math.log(ratio * 16), sink_values),
            1 + ratio,
            rel=1e-9,
        )
        for ratio in (1, 9)
    ],
)

# %% [markdown]
# ## Interpolation: everything compressed
#
# Position interpolation {cite}`chen2023pi` reads position $m$ as $m/s$. The farthest pair of $n=sL$ tokens is then $(sL-1)/s=L-1/s$ apart: less than
# one position beyond the $L-1$ of training (to be exact one would divide by $(n-1)/(L-1)$). The price: neighbours are $1/s$ apart, a
# distance the model has never seen either, and the nearest tokens matter most. Without fine-tuning the price is too high, as the experiments will show.

# %%
length_, scale_ = sp.symbols("L s", positive=True)
pi_phase = lambda n, s: float((interpolated_frequencies(rope_frequencies(64), s)[0]) * (n - 1))
nb.derivation(
    "D3",
    "Interpolation by s = n/L brings the largest distance to L − 1/s, less than one above L − 1, and neighbours to 1/s.",
    sym.identity("largest distance of n = sL tokens", (scale_ * length_ - 1) / scale_, length_ - 1 / scale_),
    sym.limit("its excess over L − 1", (scale_ * length_ - 1) / scale_ - (length_ - 1), scale_, sp.oo, 1),
    ledger.close("angle of the fastest pair between the ends, 4096 tokens, L = 512", pi_phase(4096, 8.0), 512 - 1 / 8, rel=1e-12),
    ledger.close("and between neighbours", pi_phase(2, 8.0), 1 / 8, rel=1e-12),
)

# %% [markdown]
# ## ReRoPE: the near kept, the far clipped
#
# ReRoPE {cite}`su2023rerope` leaves distances below $w$ alone and makes all others equal to $w$; Leaky ReRoPE lets them grow slowly:
#
# $$\delta(r)=\begin{cases}r,&r<w\\ w+(r-w)/k,&r\ge w\end{cases}\qquad(k\to\infty:\ \delta=\min(r,w)).$$
#
# No choice of positions gives such a $\delta$, because it is not a difference $p_i-p_j$. But two choices do, one for each branch: compute the logits
# twice and pick by distance. For the far branch the query stands at $w+(i-w)/k$ and the key at $j/k$:
#
# $$w+\frac{i-w}k-\frac jk=w+\frac{(i-j)-w}k .$$
#
# For which $w$ and $k$ does no distance leave the trained range? $\delta(n-1)\le L-1$ means
#
# $$k\ge\frac{n-1-w}{L-1-w},\qquad w\le L-1 .$$

# %%
i_, j_, w_, k_, r_ = sp.symbols("i j w k r", positive=True)
far_difference = (w_ + (i_ - w_) / k_) - j_ / k_
leaky = sp.Piecewise((r_, r_ < w_), (w_ + (r_ - w_) / k_, True))
tested = ((3, 5.5), (10, 2.0), (7, math.inf))
loop = lambda w, k: [[(i - j if i - j < w else w + (i - j - w) / k) for j in range(41)] for i in range(41)]
past = np.tril(np.ones((41, 41), dtype=bool))
two_pass = [
    np.abs(
        Scheme(rope_frequencies(8), near=w, leak=k).logits(draw_q, draw_k).numpy()
        - complex_logits(draw_q, draw_k, rope_frequencies(8), loop(w, k))
    )[past].max()
    for w, k in tested
]

# %%
nb.derivation(
    "D4",
    "The two-pass logits of (Leaky) ReRoPE rotate by δ(i − j), and no distance exceeds L − 1 once k ≥ (n − 1 − w)/(L − 1 − w).",
    sym.identity("difference of the far positions", far_difference, w_ + ((i_ - j_) - w_) / k_),
    sym.limit("continuous at w", w_ + (r_ - w_) / k_, r_, w_, w_, side="+"),
    sym.identity("slope beyond w", sp.Derivative(leaky.args[1].expr, r_), 1 / k_),
    sym.limit("ReRoPE is the limit k → ∞", w_ + (r_ - w_) / k_, k_, sp.oo, w_),
    ledger.less(
        "two passes against the loop over relative positions, i, j ≤ 40", float(max(two_pass)), 1e-11, machine=True, scope="3 settings"
    ),
    *[
        ledger.close(f"smallest k, 512 → 4096, w = {w}", least_leak(4096, 512, w), k, abs=0.005 if w < 300 else 0.05)
        for w, k in ((64, 9.02), (128, 10.36), (256, 15.05), (384, 29.2))
    ],
)

# %% [markdown]
# Twice the logits is not twice the cost. Cut the $n\times n$ logits into blocks of $B\times B$: a block needs both passes only where near and far
# distances meet inside it. With $w=\mu B$ that is one block in every row of blocks below the $\mu$-th.


# %%
def blocks(length, window, B):
    """How many of the lower-triangular blocks hold both near and far distances, and how many there are, by looking at each block's extremes."""
    rows, mixed = length // B, 0
    for row, column in ((a, b) for a in range(rows) for b in range(a + 1)):
        nearest, farthest = max(0, (row - column) * B - (B - 1)), (row - column) * B + (B - 1)
        mixed += nearest < window <= farthest
    return mixed, rows * (rows + 1) // 2


cases = {(4096, 1024, 128): (24, 528), (32768, 4096, 128): (224, 32896), (8192, 1000, 128): (113, 2080)}
by_rule = lambda n, mu: (n - mu, n * (n + 1) // 2)

# %%
nb.derivation(
    "D5",
    "With blocks of B and w = μB, both passes are needed in n/B − μ of the n/B (n/B + 1)/2 blocks.",
    sym.enumeration("three sizes, block by block", cases, lambda c: blocks(*c), cases.get),
    sym.enumeration(
        "n/B = 2 .. 14, μ = 1 .. n/B",
        [(a, b) for a in range(2, 15) for b in range(1, a + 1)],
        lambda c: blocks(8 * c[0], 8 * c[1], 8),
        lambda c: by_rule(*c),
    ),
)
nb.claim(
    "C17",
    "Blocks that need both passes are a negligible part (of long texts: 4.5% at 4,096 tokens, 0.7% at 32,768).",
    "verified",
    holds=[
        ledger.less(f"share at n = {n}, w = {w}", blocks(n, w, 128)[0] / blocks(n, w, 128)[1], bound)
        for n, w, bound in ((4096, 1024, 0.046), (32768, 4096, 0.007), (131072, 4096, 0.002))
    ],
)

# %% [markdown]
# ### Self-Extend is Leaky ReRoPE in integers
#
# Self-Extend {cite}`jin2024selfextend` divides positions by a group size $G$ and rounds down,
# $\delta=\lfloor i/G\rfloor+w-\lfloor w/G\rfloor-\lfloor j/G\rfloor$ beyond $w$ (its formula as we remember it). Each floor loses less than one, so
# its difference from Leaky ReRoPE with $k=G$ lies between $-1$ and $2$.

# %%
gaps = [
    int(self_extended) - (Fraction(w) + Fraction(i - j - w, G))
    for w, G in itertools.product((1, 5, 8, 13), (1, 2, 3, 7))
    for i in range(0, 60)
    for j in range(0, i - w + 1)
    for self_extended in [i // G + w - w // G - j // G]
]
at60 = torch.arange(60)
library = positions.self_extend_distance(at60[:, None], at60, 5, 3)
nb.derivation(
    "D6",
    "Self-Extend's distance is Leaky ReRoPE's with k = G up to rounding: the difference lies in (−1, 2).",
    ledger.less("largest difference", float(max(gaps)), 2),
    ledger.more("smallest difference", float(min(gaps)), -1),
    ledger.more("rounding does matter: largest difference", float(max(gaps)), 1.5),
    sym.enumeration(
        "the library's distances, w = 5, G = 3",
        [(i, j) for i in range(0, 60, 7) for j in range(i + 1)],
        lambda c: int(library[c]),
        lambda c: c[0] - c[1] if c[0] - c[1] < 5 else c[0] // 3 + 5 - 1 - c[1] // 3,
    ),
)

# %% [markdown]
# ## YaRN: how many turns did a pair make?
#
# Interpolation compresses all pairs alike. But a pair that turned many times within $L$ has met every angle: it knows nothing of far and near, and
# can be left alone. One that made less than a turn has not: its new angles are unseen. YaRN {cite}`peng2023yarn` (its part "NTK-by-parts") asks
# each pair for its turns $r_i$:
#
# $$\theta_i^{new}=\Bigl[\gamma_i+\frac{1-\gamma_i}s\Bigr]\theta_i,\qquad\gamma_i=\operatorname{clip}\Bigl(\frac{r_i-1}{\tau-1},0,1\Bigr),\qquad\tau=32 .$$
#
# At $n=sL$ the pair turns by $n\theta_i^{new}=[1+\gamma_i(s-1)]\,L\theta_i$: inside its trained arc exactly where $\gamma_i=0$.

# %%
gamma, s_, L_, th_, tau_, turns_ = sp.symbols("gamma s L theta tau r", positive=True)
ramp = (turns_ - 1) / (tau_ - 1)
kept = {L: (positions.turns(rope_frequencies(128), L) > 32).sum() for L in (4096, 2048)}
ratio = {L: ntk_by_parts_frequencies(128, 4.0, L) / rope_frequencies(128) for L in (4096, 2048)}
counts = lambda x: (int((x == 1).sum()), int(((x < 1) & (x > 0.25)).sum()), int((x == 0.25).sum()))
critical_index = lambda d, L, b=1e4: d / 2 * math.log(L / (2 * math.pi)) / math.log(b)
nb.derivation(
    "D7",
    "YaRN's ramp is continuous and increasing in the turns; pairs with γ = 0, and only they, stay in their trained arc; for d = 128, L = 4096 the pairs split 21/25/18.",
    sym.identity("arc at n = sL", s_ * L_ * (gamma + (1 - gamma) / s_) * th_, (1 + gamma * (s_ - 1)) * L_ * th_),
    sym.solves("it is the trained arc at γ = 0", (1 + gamma * (s_ - 1)) * L_ * th_ - L_ * th_, gamma, sp.Integer(0)),
    sym.limit("the ramp begins at 0", ramp, turns_, 1, 0),
    sym.limit("and ends at 1", ramp, turns_, tau_, 1),
    sym.identity("its slope, positive for τ > 1", sp.Derivative(ramp, turns_), 1 / (tau_ - 1)),
    sym.enumeration(
        "kept, ramped, interpolated, d = 128", [4096, 2048], lambda L: counts(ratio[L]), {4096: (21, 25, 18), 2048: (17, 24, 23)}.get
    ),
    ledger.close("turns of the first pair, L = 4096", float(positions.turns(rope_frequencies(128), 4096)[0]), 651.9, abs=0.01),
    ledger.close("turns of the last", float(positions.turns(rope_frequencies(128), 4096)[-1]), 0.0753, abs=5e-5),
    ledger.close("index with one turn, L = 4096", critical_index(128, 4096), 45.03, abs=0.005),
    ledger.close("L = 2048", critical_index(128, 2048), 40.21, abs=0.005),
    ledger.close("turns at that index", 2048 * 1e4 ** (-critical_index(128, 2048) / 64) / (2 * math.pi), 1.0, rel=1e-9),
)

# %% [markdown]
# The index with one turn, rounded up and doubled, is the "critical dimension" of {cite}`liu2023scaling`: 92 for Llama 2, 82 for Llama 1.
#
# One thing is worth knowing before one compares numbers: **published implementations ramp linearly in the index $i$, between the pairs with
# $\tau$ and with 1 turns, not in the turns $r_i$ as the paper writes.** Since $r_i$ is exponential in $i$, the two differ much in the middle. The
# `transformers` package does the former under the name YaRN and the latter under the name Llama 3; our functions have both, and the experiments
# below ramp in the turns.

# %%
by_turns, by_index = (ntk_by_parts_frequencies(128, 8.0, 4096, ramp=name) for name in ("turns", "index, rounded"))
widest = int((by_index / by_turns).argmax())
nb.claim(
    "X1",
    "YaRN as published in code ramps in the pair's index, as written in the paper in its turns; the frequencies differ by up to a factor of 2.3.",
    "verified",
    holds=[
        ledger.close("largest ratio code/paper, d = 128, L = 4096, s = 8", float((by_index / by_turns).max()), 2.305, abs=0.001),
        ledger.close("at pair", widest, 36, abs=0.5),
        ledger.close("turns of that pair", float(positions.turns(rope_frequencies(128), 4096)[widest]), 3.666, abs=0.001),
        ledger.close("both keep the first pair", float(by_index[0]), float(by_turns[0]), rel=1e-12),
    ],
)

# %% [markdown]
# ## Temperature
#
# More keys flatten the softmax. YaRN multiplies the logits by $\lambda=(1+0.1\ln s)^2$, found by experiment; Su's log-n factor
# $\lambda_n=\max(1,\ln n/\ln L)$ follows from keeping the entropy constant {cite}`su2021entropy`. The two are cousins:
#
# $$(1+0.1\ln s)^2\approx1+0.2\ln s,\qquad\frac{\ln n}{\ln L}=1+\frac{\ln s}{\ln L},\qquad\frac1{\ln2048}=0.131,\quad\frac1{\ln4096}=0.120 .$$

# %%
x_ = sp.symbols("x", positive=True)
yarn_values, linear_values = {2: 1.143, 4: 1.296, 8: 1.459, 16: 1.631, 32: 1.813}, {2: 1.139, 4: 1.277, 8: 1.416, 16: 1.555, 32: 1.693}
log_values = {2: 1.091, 4: 1.182, 8: 1.273, 16: 1.364, 32: 1.455}
log_factor = lambda s, L: float(positions.log_n_factor(torch.tensor([float(s * L)]), L)[0])
nb.derivation(
    "D8",
    "YaRN's factor is 1 + 0.2 ln s to first order, the log-n factor exactly 1 + ln s / ln L.",
    sym.series("(1 + 0.1 x)², x = ln s", (1 + x_ / 10) ** 2, 1 + x_ / 5, x_, order=2),
    sym.identity("ln(sL)/ln L", sp.expand_log(sp.log(s_ * L_)) / sp.log(L_), 1 + sp.log(s_) / sp.log(L_)),
    *[ledger.close(f"YaRN, s = {s}", yarn_temperature(s), v, abs=6e-4) for s, v in yarn_values.items()],
    *[ledger.close(f"linearized, s = {s}", 1 + 2 * (math.sqrt(yarn_temperature(s)) - 1), v, abs=6e-4) for s, v in linear_values.items()],
    *[ledger.close(f"log n, L = 2048, s = {s}", log_factor(s, 2048), v, abs=6e-4) for s, v in log_values.items()],
    ledger.close("log n inside L does nothing", float(positions.log_n_factor(torch.tensor([100.0]), 2048)[0]), 1.0, rel=1e-12),
)

# %% [markdown]
# ## NTK-aware RoPE, and how far it reaches
#
# Before YaRN there was a one-parameter version {cite}`bloc972023ntk`: enlarge the base, $b\to b\kappa$, so that the fastest pair stays and the
# slowest is interpolated by $s$ in full. With $i=d/2-1$,
#
# $$(b\kappa)^{-2i/d}=\frac{b^{-2i/d}}s\quad\Longrightarrow\quad\kappa=s^{d/(d-2)} .$$
#
# The post reports, from experience, that such a model works up to about *half* of $sL$. Why half? At $n=s'L$ pair $i$ has covered
# $s'\kappa^{-2i/d}$ times its trained arc. Only the slowest pair was given the full factor; the first one that may not overshoot is the first with
# less than one turn, near the critical index $i_c=\frac d2\ln(L/2\pi)/\ln b$. There the arc is not exceeded up to
#
# $$s'=\kappa^{2i_c/d}=s^{\,2i_c/(d-2)}=s^{\frac{\ln(L/2\pi)}{\ln b}\cdot\frac d{d-2}} .$$
#
# For Llama 2 this gives $s'=2.7,4.4,7.3$ for $s=4,8,16$, that is $s/1.5$, $s/1.8$, $s/2.2$: about half, but a power of $s$ and not a share of it, and to be
# multiplied by whatever slack a model has (plain RoPE, too, survives a little beyond $L$; E3 measures both). It tells what to do: to support $s$, take $\kappa=s^{d/(2i_c)}$, in other words ask NTK-aware RoPE for the scale $s^{(d-2)/(2i_c)}$.


# %%
def corrected_scale(s, trained, d, base=1e4):
    """The scale to give to NTK-aware RoPE so that the first pair with less than one turn in training is interpolated by s in full."""
    critical = d / 2 * math.log(trained / (2 * math.pi)) / math.log(base)  # its index, not rounded
    return s ** ((d - 2) / (2 * critical))


# %%
d_, b_, lk = sp.symbols("d b logkappa", positive=True)
lowest = d_ / 2 - 1
condition = -(2 * lowest / d_) * (sp.log(b_) + lk) - (-(2 * lowest / d_) * sp.log(b_) - sp.log(s_))
overshoot = lambda s, L, d=128: s ** (2 * critical_index(d, L) / (d - 2))


def reach(s, L, d=128, base=1e4):
    """Tokens until a pair at the (continuous) critical index of NTK-aware RoPE leaves its trained arc, over L."""
    i = critical_index(d, L, base)
    old, new = base ** (-2 * i / d), positions.ntk_base(base, s, d) ** (-2 * i / d)
    return L * old / new / L


# %%
nb.derivation(
    "D9",
    "NTK-aware RoPE needs κ = s^(d/(d−2)); pairs of less than a turn keep to their trained arcs up to s' = s^(2 i_c/(d−2)), about s/1.5 to s/2.2 for Llama 2.",
    sym.solves("the slowest pair interpolated by s, in logarithms", condition, lk, d_ / (d_ - 2) * sp.log(s_)),
    *[
        ledger.close(f"κ, d = 128, s = {s}", positions.ntk_base(1.0001, s, 128) / 1.0001, v, rel=1e-4)
        for s, v in ((2, 2.0221), (4, 4.0890), (8, 8.2685), (16, 16.720))
    ],
    *[ledger.close(f"s', Llama 2, s = {s}", reach(s, 4096), v, abs=0.006) for s, v in ((4, 2.69), (8, 4.42), (16, 7.25))],
    *[ledger.close(f"s', Llama 1, s = {s}", reach(s, 2048), v, abs=0.006) for s, v in ((4, 2.42), (8, 3.77), (16, 5.87))],
    ledger.close("the closed form, Llama 2, s = 8", overshoot(8, 4096), reach(8, 4096), rel=1e-9),
    *[
        ledger.close(f"asked for the corrected scale, it reaches s = {s}", reach(corrected_scale(s, 4096, 128), 4096), s, rel=1e-9)
        for s in (4, 8)
    ],
    ledger.close(
        "arc of the last pair at s = 8 over the trained one",
        float(8 * ntk_frequencies(128, 8.0)[-1] / rope_frequencies(128)[-1]),
        1.0,
        rel=1e-9,
    ),
)

# %% [markdown]
# RoPE-ABF {cite}`xiong2023effective` is the same knob turned without a formula, followed by more training. Code Llama's base of $10^6$
# {cite}`roziere2023codellama` is $\kappa=100$: with $d=128$ what NTK-aware RoPE would choose for $s=93$.

# %%
nb.derivation(
    "D10",
    "A larger base (RoPE-ABF; Code Llama's 1e6) is NTK-aware RoPE with κ = b'/b: at d = 128 a factor of 100 stands for s = 93.",
    ledger.close(
        "frequencies at s = 93.06 against base 1e6, last pair",
        float(ntk_frequencies(128, 93.0572)[-1] / rope_frequencies(128, 1e6)[-1]),
        1.0,
        rel=1e-5,
    ),
    sym.solves(
        "s that NTK-aware RoPE would be asked for", s_ ** sp.Rational(128, 126) - sp.exp(lk), s_, sp.exp(lk * sp.Rational(126, 128))
    ),
    ledger.close("s for κ = 100", 100 ** (126 / 128), 93.06, abs=0.005),
)

# %% [markdown]
# <div class="kx-play" data-play="length-extrapolation" role="group" aria-label="What interpolation, NTK and YaRN do to each pair of RoPE">
# <p><em class="kx-still">In the book on the web this is a figure to drag:</em> the frequency of each pair after scaling, and how far the
# slow pairs leave the arc that they saw in training. Try: NTK-aware at s = 8 on a text 8 times longer, then on shorter ones, until no pair
# leaves its arc. <span class="kx-still">By D9 that is at 4.4 times for L = 4096.</span></p>
# </div>

# %% [markdown]
# ## Dynamic scaling
#
# Every change of frequencies alters the model inside $L$ as well, where nothing was wrong: the *extrapolation tax*. Unless the scale depends on the
# position: $s=\max(L,n)/L$ leaves $n\le L$ alone. But a cache holds keys that were already rotated, with the old frequencies, and
# $(\mathcal R'_mq)^\top\mathcal R_nk$ with $\theta'\ne\theta$ is not a function of $m-n$. So cache keys *before* rotation, or fix $s$ for one turn of
# the dialogue ("locally static": prompt plus the tokens to come), as our dynamic methods do with $n$ the length of the text. CLEX {cite}`chen2023clex`
# learns the frequencies as a function of the scale, by a differential equation; it needs fine-tuning.

# %%
shifted = lambda theta_q, theta_k, shift: complex_logits(
    positions.apply_rope(draw_q[:1], torch.tensor([50.0 + shift]), theta_q),
    positions.apply_rope(draw_k[:1], torch.tensor([20.0 + shift]), theta_k),
    theta_q,
    [[0]],
)[0, 0]
old, new = rope_frequencies(8), ntk_frequencies(8, 4.0)
unchanged = lambda n: int(torch.equal(dynamic_ntk_frequencies(64, n, 512), rope_frequencies(64)))
nb.derivation(
    "D11",
    "Dynamic scaling is the identity up to L, and needs keys that are not yet rotated: mixed frequencies break relativity.",
    sym.enumeration("dynamic NTK equals RoPE at n = 1, 100, 512, 513, 4096", [1, 100, 512, 513, 4096], unchanged, lambda n: int(n <= 512)),
    ledger.less("change of a logit when both move by 100, same θ", abs(shifted(old, old, 0) - shifted(old, old, 100)), 1e-11, machine=True),
    ledger.more("with θ changed for the query alone", abs(shifted(new, old, 0) - shifted(new, old, 100)), 0.05, digits=2),
    ledger.close(
        "scale at n = 4096 through its last frequency",
        float(rope_frequencies(64)[-1] / dynamic_ntk_frequencies(64, 4096, 512)[-1]),
        8.0,
        rel=1e-9,
    ),
)

# %% [markdown]
# Who pays the tax, and who does not, can be read off the logits of random queries and keys inside the training length: the share that a method
# changes.


# %%
def changed_share(scheme, q, k):
    """Share of the causal logits inside the training length (40 tokens) that differ from RoPE's."""
    before, after = (x.logits(*x.scaled(q, k)) for x in (Scheme(rope_frequencies(8)), scheme))
    return Fraction(int(((before - after).abs() > 1e-9).tril().sum()), 40 * 41 // 2)


inside = (draw_q[:40], draw_k[:40])
tax = {
    "dynamic NTK": Scheme(dynamic_ntk_frequencies(8, 40, 40)),
    "Leaky ReRoPE, k_min": Scheme(rope_frequencies(8), near=10, leak=least_leak(40, 40, 10)),
    "ReRoPE, w = 10": Scheme(rope_frequencies(8), near=10),
    "NTK-aware, s = 4": Scheme(ntk_frequencies(8, 4.0)),
    "PI, s = 4": Scheme(interpolated_frequencies(rope_frequencies(8), 4.0)),
}
off_diagonal, beyond = Fraction(39 * 40 // 2, 820), Fraction(sum(max(0, i - 10) for i in range(40)), 820)
expected_tax = dict(zip(tax, (0, 0, beyond, off_diagonal, off_diagonal), strict=True))
nb.derivation(
    "D12",
    "Inside L, dynamic scales and Leaky ReRoPE with the smallest k change no logit, ReRoPE those at distances above w, fixed rescalings all but the diagonal.",
    sym.enumeration("share of changed logits", tax, lambda name: changed_share(tax[name], *inside), expected_tax.get),
)

# %% [markdown]
# ## Changing the training instead
#
# **HWFA** (hybrid window-full attention): all layers but the last attend with RoPE within a small window $\tilde w$; the last sees everything,
# without positions, with the log-n factor. No distance there can go out of distribution. The windowed layers must not see more than was trained:
#
# $$(\tilde w-1)(l-1)+1=\alpha L,\qquad0<\alpha\le1 .$$
#
# **HWFA2** keeps RoPE in one or two full layers in the middle, and uses ReRoPE there at test time.


# %%
def receptive_field(window, layers):
    """How many tokens the last query can depend on through `layers` windowed layers: reachability along the masks."""
    reached, one = torch.eye(400, dtype=torch.float32)[-1], positions.visible(400, window).float()
    for _ in range(layers):
        reached = ((reached @ one) > 0).float()
    return int(reached.sum())


nb.derivation(
    "D13",
    "l − 1 windowed layers see (w̃ − 1)(l − 1) + 1 tokens: 346 for l = 24 and w̃ = 16.",
    sym.enumeration(
        "along the masks", [(16, 23), (16, 5), (7, 4), (2, 30), (1, 9)], lambda c: receptive_field(*c), lambda c: (c[0] - 1) * c[1] + 1
    ),
    ledger.close("l = 24, w̃ = 16, L = 512: share α", receptive_field(16, 23) / 512, 346 / 512, rel=1e-9),
)

# %% [markdown]
# **KeyNorm** {cite}`su2023keynorm`: $q^\top k=\|q\|\|k\|\cos(q,k)$, and a model may rely on $\|k\|$, which carries no position, instead of learning
# directions. So give keys unit length: $\tilde k=k/\|k\|$, and no $1/\sqrt d$, since $\|k\|\approx\sqrt d$ at the start. CosA normalises both and takes
# $\lambda\cos(q,k)$ with $\lambda=4\ln(L/2)$. Random directions in $d$ dimensions have $\mathbb E\cos^2=1/d$: a cosine must be learned.

# %%
with torch.random.fork_rng():
    torch.manual_seed(3)
    normal = torch.randn(2, 40000, 64, dtype=torch.float64)
cosines = F.cosine_similarity(*normal, dim=-1).square()
qs, ks = sp.symbols("q1:4", real=True), sp.symbols("k1:4", real=True)
dot = sum(a * b for a, b in zip(qs, ks, strict=True))
norm = lambda v: sp.sqrt(sum(a**2 for a in v))
key_logit = Scheme(torch.zeros(4), norm="key").scaled(draw_q, draw_k)
nb.derivation(
    "D14",
    "A logit is ‖q‖‖k‖cos(q, k); keys of unit length leave ‖q‖cos; random directions have a mean squared cosine of 1/d.",
    sym.identity("unit key, d = 3", sum(a * b / norm(ks) for a, b in zip(qs, ks, strict=True)), norm(qs) * (dot / (norm(qs) * norm(ks)))),
    sym.monte_carlo("E cos², d = 64", *(float(x) for x in metrics.mean_stderr(cosines)), 1 / 64, draws=40000),
    ledger.close(
        "KeyNorm's logit in the library",
        float((key_logit[0] @ key_logit[1].mT)[3, 5]),
        float(draw_q[3] @ draw_k[5] / math.sqrt(sum(float(x) ** 2 for x in draw_k[5]))),
        rel=1e-12,
    ),
    ledger.close("‖k‖/√d at the start, d = 64", float(normal[1].square().sum(-1).sqrt().mean()) / 8, 1.0, abs=0.01),
)

# %% [markdown]
# **CoCA** (as we remember it): make query and key of a pair *collinear*, $k_{(i)}=t_i\,q_{(i)}$ with $t_i\ge0$. Then the angle between them is the
# rotation alone, and the logit is $\sum_it_i|q_{(i)}|^2\cos(m-n)\theta_i$, at the cost of half of the key's freedom.
#
# **Augmentation**: train on positions drawn from a longer range, at random {cite}`ruoss2023randomized` or by skips {cite}`zhu2023pose`. And there is
# a reading in digits: low frequencies are the leading digits of the position; drop them, and what remains is the position modulo the longest
# period that is left.

# %%
t_ = sp.Symbol("t", nonnegative=True)
collinear = ((turn(m * theta1) * sp.Matrix([q1, q2])).T * turn(n * theta1) * (t_ * sp.Matrix([q1, q2])))[0]
nb.derivation(
    "D15",
    "With collinear pairs the logit is t |q|² cos((m − n)θ): largest at distance 0.",
    sym.identity("one pair", collinear, t_ * (q1**2 + q2**2) * sp.cos((m - n) * theta1)),
    sym.identity("at distance 0", collinear.subs(m, n), t_ * (q1**2 + q2**2)),
)
digits = torch.tensor([2 * math.pi / period for period in (4, 16, 64)])
logit_at = lambda where, theta: float(complex_logits(draw_q[:1, : 2 * len(theta)], draw_k[:1, : 2 * len(theta)], theta, [[where]])[0, 0])
with_more = torch.tensor([*digits.tolist(), 2 * math.pi / 256], dtype=torch.float64)
nb.derivation(
    "D16",
    "Pairs with the periods 4, 16 and 64 know a distance modulo 64 only; a pair with period 256 tells 7 from 71.",
    ledger.close("logit at 71 against that at 7", logit_at(71, digits), logit_at(7, digits), rel=1e-5),
    ledger.more("with the slower pair", abs(logit_at(71, with_more) - logit_at(7, with_more)), 0.1, digits=2),
)

# %% tags=["hide-input"]
nb.claim(
    "C1",
    "The formulas of the post: relative rotation, ReRoPE's two passes, YaRN's ramp, the temperatures, NTK's base.",
    "verified",
    holds=[
        sym.identity("a turn back and forth", (turn(m * theta1)).T * turn(n * theta1), turn((n - m) * theta1)),
        ledger.close(
            "Leaky ReRoPE at r = 100, w = 10, k = 9", float(positions.rerope_distance(torch.tensor([100]), 10, 9)[0]), 20, rel=1e-12
        ),
        sym.identity("half way up the ramp", ramp.subs(turns_, (1 + tau_) / 2), sp.Rational(1, 2)),
        ledger.close("κ for s = 8 at d = 64", positions.ntk_base(1e4, 8, 64) / 1e4, 8 ** (64 / 62), rel=1e-12),
    ],
)

# %% [markdown]
# ## The algorithm
#
# All of Leaky ReRoPE's attention, for one head. It needs no training, and any model with RoPE can be read by it.


# %%
def leaky_rerope(q, k, v, theta, w, leak=math.inf):
    """Causal attention (n, d) whose distances beyond w grow 1/leak a token; near and far logits, chosen by distance."""
    at = torch.arange(len(q), dtype=torch.float64)
    distance = at[:, None] - at
    rotate = lambda x, where: positions.apply_rope(x, where, theta)
    near = rotate(q, at) @ rotate(k, at).T
    far = rotate(q, (at - w) / leak + w) @ rotate(k, at / leak).T
    logits = torch.where(distance < w, near, far) / math.sqrt(q.shape[1])
    return torch.softmax(logits.masked_fill(distance < 0, -math.inf), 1) @ v


# %% [markdown]
# The experiments use `kexue_nb.extrapolation`: a `Scheme` says how a layer reads positions (frequencies, window, sinks, far branch, temperature,
# norms), and a `Decoder` has the weights and no positions of its own. Train with one scheme, test with another. These two functions turn a method's
# name into a scheme; with them the whole comparison is a loop.

# %% tags=["hide-input"]
METHODS = [
    ["window", 1.0],
    ["LM-Infinite", 1.0],
    ["StreamingLLM", 1.0],
    ["PI"],
    ["PI, fixed", 4.0],
    *(["NTK-aware, fixed", s] for s in (4.0, 16.0)),
    *(["dynamic NTK", f] for f in (1.0, 2.0, 4.0)),
    ["NTK, corrected"],
    *(["NTK-by-parts", r] for r in (2, 4, 8)),
    *(["YaRN", r] for r in (2, 4, 8, 32)),
    ["YaRN, fixed", 8, 16.0],
    *(["NTK-by-parts, log n", r] for r in (2, 4, 8)),
    ["RoPE"],
    ["RoPE, log n"],
    *(["ReRoPE", w] for w in (0.25, 0.5, 0.75, 0.9, 1.0)),
    *(["ReRoPE, log n", w] for w in (0.25, 0.5, 0.75)),
    *(["Leaky ReRoPE", w, m] for w in (0.25, 0.5) for m in (1, 2)),
    *(["Self-Extend", w] for w in (0.25, 0.5)),
]
ALSO = [
    ["KeyNorm", ["ReRoPE", 0.25]],
    ["KeyNorm", ["YaRN", 4]],
    ["KeyNorm", ["dynamic NTK", 1.0]],
    ["HWFA2", ["ReRoPE", 0.25]],
    ["log n", ["ReRoPE", 0.25]],
]
ARMS = ["RoPE", "KeyNorm", "QueryNorm", "CosA", "HWFA", "HWFA2", "log n", "ReRoPE", "NoPE", "ALiBi", "random positions"]
LIVE = [["window", 1.0], ["PI"], ["dynamic NTK", 1.0], ["YaRN", 4], ["RoPE"], ["ReRoPE", 0.25], ["ReRoPE", 1.0], ["Leaky ReRoPE", 0.25, 1]]


# %%
def rescaled(p, n, trained, d, base):
    """Methods that change the frequencies: name -> scheme for n tokens; p holds the parameters of the one that is wanted."""
    s, theta = max(1.0, n / trained), rope_frequencies(d, base)
    by_parts = lambda fast, s=s: ntk_by_parts_frequencies(d, s, trained, base, fast=fast)
    return {
        "RoPE": lambda: Scheme(theta),
        "RoPE, log n": lambda: Scheme(theta, log_base=trained),
        "PI": lambda: Scheme(interpolated_frequencies(theta, s)),
        "PI, fixed": lambda: Scheme(interpolated_frequencies(theta, p[0])),
        "NTK-aware, fixed": lambda: Scheme(ntk_frequencies(d, p[0], base)),
        "dynamic NTK": lambda: Scheme(dynamic_ntk_frequencies(d, n, trained, base, factor=p[0])),
        "NTK, corrected": lambda: Scheme(ntk_frequencies(d, corrected_scale(s, trained, d, base), base)),
        "NTK-by-parts": lambda: Scheme(by_parts(p[0])),
        "NTK-by-parts, log n": lambda: Scheme(by_parts(p[0]), log_base=trained),
        "YaRN": lambda: Scheme(by_parts(p[0]), temperature=yarn_temperature(s)),
        "YaRN, fixed": lambda: Scheme(by_parts(p[0], p[1]), temperature=yarn_temperature(p[1])),
    }


# %%
def rewired(p, n, trained, theta):
    """Methods that change distances or what is seen; p[0] is their window as a share of the training length."""
    window = round(p[0] * trained)
    leak = least_leak(n, trained, min(window, trained - 2))
    return {
        "window": lambda: Scheme(theta, window=window),
        "LM-Infinite": lambda: Scheme(theta, window=window, sinks=4, near=trained - 1),
        "StreamingLLM": lambda: Scheme(theta, window=window - 4, sinks=4, near=window - 4, cached=True),
        "ReRoPE": lambda: Scheme(theta, near=window),
        "ReRoPE, log n": lambda: Scheme(theta, near=window, log_base=trained),
        "Leaky ReRoPE": lambda: Scheme(theta, near=window, leak=1 + p[1] * (leak - 1)),
        "Self-Extend": lambda: Scheme(theta, near=window, leak=math.ceil(leak), grouped=True),
    }


# %%
REWIRED = tuple(rewired([1.0], 2, 8, torch.ones(1)))


def reading(method, n, trained, d, device, base=1e4):
    """The scheme [name, parameters..] for a text of n tokens by a model with heads of size d that was trained on `trained` with RoPE."""
    name, *p = method
    made = (rewired(p, n, trained, rope_frequencies(d, base)) if name in REWIRED else rescaled(p, n, trained, d, base))[name]()
    return replace(made, frequencies=made.frequencies.to(device))


# %% [markdown]
# Does every name give the scheme it should? Below, each method is written down once more, by its formula, as a distance for every pair of tokens, a
# list of frequencies, a factor for every query and a mask; attention weights from the complex sum of D1 must agree with the library's.


# %%
def by_formula(method, n, L, d):
    """Frequencies, distances (n, n), factors (n,) and mask (n, n) of a method, written out once more with numpy."""
    name, *p = method
    i, j, s = np.arange(n)[:, None], np.arange(n), max(1.0, n / L)
    theta, r, w = 1e4 ** (-2 * np.arange(d // 2) / d), i - j, round(p[0] * L) if p else 0
    ntk = lambda s: theta * s ** (-2 * np.arange(d // 2) / (d - 2))
    gamma = lambda tau: np.clip((L * theta / (2 * np.pi) - 1) / (tau - 1), 0, 1)
    parts = lambda tau, s: theta * (gamma(tau) + (1 - gamma(tau)) / s)
    yarn, log_n = lambda s: (1 + 0.1 * np.log(s)) ** 2, np.maximum(1, np.log(np.arange(n) + 1) / np.log(L))
    k = max(1, (n - 1 - w) / (L - 1 - w)) if 0 < w < L - 1 else 1
    far = lambda beyond, w=w: np.where(r < w, r, beyond)
    G, band = math.ceil(k), lambda w, sinks=0: (r < w) | (j < sinks)
    frequencies = {"PI": theta / s, "dynamic NTK": ntk(p[0] * s - p[0] + 1 if p else s)}
    frequencies |= {"NTK, corrected": ntk(s ** ((d - 2) / (d * np.log(L / 2 / np.pi) / np.log(1e4))))}
    if p and name in ("PI, fixed", "NTK-aware, fixed", "YaRN, fixed"):
        frequencies[name] = {"PI, fixed": theta / p[0], "NTK-aware, fixed": ntk(p[0]), "YaRN, fixed": parts(p[0], p[-1])}[name]
    elif name.split(",")[0] in ("YaRN", "NTK-by-parts"):
        frequencies[name] = parts(p[0], s)
    distances = {"LM-Infinite": np.minimum(r, L - 1), "StreamingLLM": far(np.minimum(i, L * (p or [1])[0] - 1) - j, w - 4)}
    distances |= {"ReRoPE": far(w), "ReRoPE, log n": far(w), "Self-Extend": far(i // G + w - w // G - j // G)}
    distances |= {"Leaky ReRoPE": far(w + (r - w) / (1 + (p or [0])[-1] * (k - 1)))}
    factors = {"YaRN": yarn(s), "YaRN, fixed": yarn((p or [1])[-1])} | {x: log_n for x in (name,) if x.endswith("log n")}
    masks = {"window": band(w), "LM-Infinite": band(w, 4), "StreamingLLM": band(w - 4, 4)}
    return frequencies.get(name, theta), distances.get(name, r), np.ones(n) * factors.get(name, 1), masks.get(name, r < n) & (r >= 0)


# %% tags=["hide-input"]
def worst_difference(method, n, L=16):
    """Largest difference between the weights of the scheme and those by formula, for random q and k (n, 8)."""
    theta, distance, factor, seen = by_formula(method, n, L, 8)
    with np.errstate(over="ignore"):
        scores = np.exp(complex_logits(draw_q[:n], draw_k[:n], theta, distance, factor[:, None] / math.sqrt(8))) * seen
    ours = reading(method, n, L, 8, "cpu").weights(draw_q[:n], draw_k[:n]).numpy()
    return float(np.abs(ours - scores / scores.sum(1, keepdims=True)).max())


with torch.random.fork_rng():
    torch.manual_seed(4)
    draw_v = torch.randn(41, 8, dtype=torch.float64)
plain = max(
    float(
        (
            leaky_rerope(draw_q, draw_k, draw_v, old, w, leak)
            - Scheme(old, near=w, leak=leak).attend(*(x[None, None] for x in (draw_q, draw_k, draw_v)))[0, 0]
        )
        .abs()
        .max()
    )
    for w, leak in ((5, 3.0), (8, math.inf))
)
unit = lambda x: x / x.square().sum(1, keepdim=True).sqrt()
rotated_logits = lambda q, k, factor=1.0: complex_logits(q, k, old, steps, factor)
trained_variants = {
    "KeyNorm": (Scheme(old, norm="key"), rotated_logits(draw_q, unit(draw_k))),
    "QueryNorm": (Scheme(old, norm="query"), rotated_logits(unit(draw_q), draw_k)),
    "CosA": (Scheme(old, norm="cosine", temperature=9.0), rotated_logits(unit(draw_q), unit(draw_k), 9.0)),
    "ALiBi": (Scheme(0 * old, slopes=torch.tensor([0.25])), (draw_q @ draw_k.T).numpy() / math.sqrt(8) - 0.25 * steps),
    "log n": (
        Scheme(old, log_base=16, log_floor=0.0),
        rotated_logits(draw_q, draw_k, np.log(np.arange(41) + 1)[:, None] / math.log(16) / math.sqrt(8)),
    ),
}
trained_off = []
for scheme, logits in trained_variants.values():
    by_hand = np.where(steps >= 0, np.exp(np.where(steps >= 0, logits, 0)), 0)
    found = scheme.weights(draw_q[None], draw_k[None])[0].numpy()
    trained_off.append(float(np.abs(found - by_hand / by_hand.sum(1, keepdims=True)).max()))
worst = {str(m): max(worst_difference(m, n) for n in (12, 16, 41)) for m in METHODS}

# %% tags=["hide-input"]
nb.claim(
    "X2",
    "All methods of the comparison are what their formulas say: attention weights of the schemes against the complex sum, inside and beyond L.",
    "verified",
    holds=[
        ledger.less(
            f"largest difference over {len(METHODS)} settings, n = 12, 16, 41, L = 16",
            max(worst.values()),
            1e-9,
            machine=True,
            scope="d = 8, float64",
        ),
        ledger.less(
            "largest difference over the schemes of training: KeyNorm, QueryNorm, CosA, ALiBi, log n",
            max(trained_off),
            1e-9,
            machine=True,
            scope="d = 8, float64",
        ),
        ledger.less("leaky_rerope above against the library", plain, 1e-12, machine=True, scope="d = 8, float64"),
        sym.enumeration(
            "settings that differ from plain RoPE at n = 41",
            METHODS,
            lambda m: int(
                float((reading(m, 41, 16, 8, "cpu").weights(draw_q, draw_k) - Scheme(old).weights(draw_q, draw_k)).abs().max()) > 1e-6
            ),
            lambda m: int(m[0] != "RoPE"),
        ),
    ],
)

# %% [markdown]
# ## E1: copying, near and far
#
# **Question.** Which methods let a trained model *use* what lies beyond $L$? **Set-up.** Random tokens of an alphabet of 16, repeated with a period $p$;
# the model must predict every token from the second round on. Nothing but looking back by $p$ helps, and induction (find the last place where this
# token stood, read what came next) takes two layers. Periods in training go up to $\frac34L$. The test scores the last 16 tokens of longer texts, with a
# *short* period ($\frac38L$, an easy distance, in a long text) and a *long* one ($0.45\,n$, beyond every distance of training from $n=4L$ on). **Expected**, if
# the post is right: plain RoPE, interpolation and windows fail at the long period, NTK is in between, YaRN and the ReRoPE family succeed.


# %%
def architecture(arm, full, trained, d, heads, depth):
    """The schemes of all layers of a trained variant, ``full`` being that of its layers with full RoPE attention."""
    nowhere, span = torch.zeros_like(full.frequencies), max(4, trained // 8)
    local = Scheme(rope_frequencies(d).to(nowhere.device), window=span)
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1, device=nowhere.device) / heads)
    return {
        "RoPE": lambda: [full] * depth,
        "RoPE, other base": lambda: [full] * depth,
        "random positions": lambda: [full] * depth,
        "log n": lambda: [replace(full, log_base=trained, log_floor=0.0)] * depth,
        "ReRoPE": lambda: [replace(full, near=trained // 4)] * depth,
        "KeyNorm": lambda: [replace(full, norm="key")] * depth,
        "QueryNorm": lambda: [replace(full, norm="query")] * depth,
        "CosA": lambda: [replace(full, norm="cosine", temperature=full.temperature * 4 * math.log(trained / 2))] * depth,
        "NoPE": lambda: [replace(full, frequencies=nowhere)] * depth,
        "ALiBi": lambda: [replace(full, frequencies=nowhere, slopes=slopes)] * depth,
        "HWFA": lambda: [local] * (depth - 1) + [Scheme(nowhere, log_base=trained, log_floor=0.0)],
        "HWFA2": lambda: [full if i == depth // 2 else local for i in range(depth)],
    }[arm]()


# %%
def copies(sequences, low, high, length, vocabulary, generator):
    """Random tokens of a period in low..high: (1, sequences, length + 1), and where the next token is a copy (1, sequences, length)."""
    device = generator.device
    period = torch.randint(low, high + 1, (1, sequences), generator=generator, device=device)
    ids = tiled(torch.randint(vocabulary, (1, sequences, high), generator=generator, device=device), period, length + 1)
    return ids, torch.arange(1, length + 1, device=device) >= period[..., None]


def losses(model, ids, schemes, precision=torch.float32, at=None):
    """Cross-entropy of every next token (R, B, T) of ids (R, B, T + 1)."""
    logits = model(ids[..., :-1], schemes, precision, at=at).float()
    return F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none").view(ids[..., 1:].shape)


def random_positions(count, reach, generator):
    """``count`` places of 0..reach-1 in increasing order."""
    return torch.rand(reach, generator=generator, device=generator.device).topk(count).indices.sort().values


# %%
def train_copier(arm, device, *, length, d, heads, depth, rates, seeds, steps, batch, reach):
    """A stack of decoders, rates x seeds, that learn to continue periodic text of `length` tokens; arm: [architecture, base]."""
    name, base = arm
    model = Decoder(nn.Init(list(seeds) * len(rates)), vocabulary=16, d=d, depth=depth, heads=heads).to(device)
    runs, generator = len(rates) * len(seeds), torch.Generator(device=device).manual_seed(50_000)
    schemes = architecture(name, reading(["RoPE"], length, length, d // heads, device, base), length, d // heads, heads, depth)

    def batch_of(step):
        ids, scored = copies(batch, length // 8, 3 * length // 4, length, 16, generator)
        at = torch.arange(length, device=device)
        return ids, scored.float(), random_positions(length, reach, generator) if name == "random positions" else at

    def loss(ids, scored, at):
        nll = losses(model, ids.expand(runs, -1, -1), schemes, at=at if name == "random positions" else None)
        return (nll * scored).sum((1, 2)) / scored.sum()

    rate = torch.tensor(rates).repeat_interleave(len(seeds))
    optimizer = optim.StackedAdam(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = lambda step, steps: optim.warmup_cosine(step, steps, final=0.02)
    train.fit_graphed(loss, batch_of, optimizer, steps, schedule=schedule)
    return model


# %%
@torch.no_grad()
def copying(model, schemes, length, period, sequences, seed, tail=16):
    """Share of the last 16 tokens of periodic text that are predicted: (runs,)."""
    device = model.tokens.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    ids, _ = copies(sequences, period, period, length, 16, generator)
    runs, right = len(model.tokens.weight), []
    for part in ids.split(max(1, 2**15 // length), 1):
        guess = model(part[..., :-1].expand(runs, -1, -1), schemes)[:, :, -tail:].argmax(-1)
        right.append((guess == part[..., -tail:]).float())
    return torch.cat(right, 1).mean((1, 2))


def keep_rows(model, rows):
    """A decoder that holds the runs ``rows`` of a stack."""
    kept = copy.deepcopy(model)
    for p in kept.parameters():
        p.data = p.data[rows].clone()
    return kept


# %%
def copy_tests(model, arm, method, seed, *, length, d, heads, depth, multiples, sequences):
    """Accuracy (multiples, short and long period, seeds) of an architecture [name, base] with a method."""
    table = []
    for n in (length * m for m in multiples):
        schemes = architecture(
            arm[0], reading(method, n, length, d // heads, model.tokens.weight.device, arm[1]), length, d // heads, heads, depth
        )
        table.append(torch.stack([copying(model, schemes, n, period, sequences, seed) for period in (3 * length // 8, int(0.45 * n))]))
    return torch.stack(table)


# %%
def copy_experiment(device, *, length, d, heads, depth, arms, rates, seeds, steps, batch, multiples, methods, also, sequences):
    """E1: every architecture trained at every rate and seed; then, at multiples of the training length, every method on plain RoPE."""
    shape, chosen, models = {"length": length, "d": d, "heads": heads, "depth": depth}, [], {}
    test = lambda arm, method, seed=61_000: copy_tests(models[arm[0]], arm, method, seed, **shape, multiples=multiples, sequences=sequences)
    for arm in arms:
        common = {**shape, "rates": rates, "seeds": seeds, "steps": steps, "batch": batch, "reach": length * max(multiples)}
        model = models[arm[0]] = train_copier(arm, device, **common)
        at_home = copy_tests(model, arm, ["RoPE"], 60_000, **shape, multiples=[1], sequences=4 * sequences)
        chosen.append(at_home.mean((0, 1)).view(len(rates), len(seeds)))
        best = int(chosen[-1].mean(1).argmax())
        models[arm[0]] = keep_rows(model, slice(best * len(seeds), (best + 1) * len(seeds)))
    by_name = {arm[0]: arm for arm in arms}
    result = {"at training length": torch.stack(chosen), "direct": [test(arm, ["RoPE"]) for arm in arms]}
    result |= {key: [test(arms[0], m, seed) for m in methods] for key, seed in (("post hoc", 61_000), ("choice", 62_000))}
    return result | {"also": [test(by_name[arm], method) for arm, method in also]}


# %% [markdown]
# **The parts first**, since a recorded number would not notice a mistake in them. The task, token by token; the loss by explicit softmax; the trained
# weights against PyTorch's own AdamW, one run at a time; the score against a loop.


# %%
def copier_by_hand(arm, rate, seed, *, length, d, heads, depth, steps, batch, reach):
    """One run of train_copier with torch.optim.AdamW, its loss from log_softmax token by token."""
    model = Decoder(nn.Init([seed]), vocabulary=16, d=d, depth=depth, heads=heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(50_000)
    full = Scheme(torch.tensor([arm[1] ** (-2 * i * heads / d) for i in range(d // heads // 2)], dtype=torch.float64))
    for step in range(steps):
        twin = torch.Generator().set_state(generator.get_state())
        periods = torch.randint(length // 8, 3 * length // 4 + 1, (1, batch), generator=twin)[0].tolist()
        ids, _ = copies(batch, length // 8, 3 * length // 4, length, 16, generator)
        at = random_positions(length, reach, generator) if arm[0] == "random positions" else torch.arange(length)
        logs = torch.log_softmax(model(ids[..., :-1], architecture(arm[0], full, length, d // heads, heads, depth), at=at), -1)
        rows = ids[0].tolist()
        terms = [logs[0, b, t, rows[b][t + 1]] for b in range(batch) for t in range(periods[b] - 1, length)]
        (-sum(terms) / len(terms)).backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * (
                1.0 if step < max(1, round(0.1 * steps)) else 0.02 + 0.49 * (1 + math.cos(math.pi * (step - 1) / (steps - 1)))
            )
        optimizer.step()
        model.zero_grad()
    return model


# %%
small = {"length": 15, "d": 16, "heads": 2, "depth": 2, "steps": 3, "batch": 3, "reach": 64}
drift = []
for arm in (["RoPE", 1e4], ["RoPE, other base", 50.0], ["random positions", 1e4], ["KeyNorm", 1e4], ["HWFA", 1e4]):
    stack = train_copier(arm, torch.device("cpu"), **small, rates=[1e-2, 3e-2], seeds=[5, 6])
    alone = copier_by_hand(arm, 1e-2, 6, **small)
    start = Decoder(nn.Init([6]), vocabulary=16, d=16, depth=2, heads=2)
    kept_row = keep_rows(stack, slice(1, 2))  # the first rate, the second seed
    for a, b, c in zip(kept_row.parameters(), alone.parameters(), start.parameters(), strict=True):
        drift.append(float((a.data - b.data).norm() / (b.data - c.data).norm()))

# %% tags=["hide-input"]
drawn, scored_at = copies(6, 3, 9, 30, 16, torch.Generator().manual_seed(1))
generator = torch.Generator().manual_seed(8)
checked, _ = copies(5, 6, 6, 24, 16, generator)
guesses = stack(checked[..., :-1].expand(4, -1, -1), architecture("HWFA", Scheme(rope_frequencies(8)), 16, 8, 2, 2)).argmax(-1)
by_loop = [np.mean([float(guesses[run, b, t] == checked[0, b, t + 1]) for b in range(5) for t in range(8, 24)]) for run in range(4)]
by_library = copying(stack, architecture("HWFA", Scheme(rope_frequencies(8)), 16, 8, 2, 2), 24, 6, 5, 8)


def layer_facts(arm):
    """Of each of four layers: window, near, norm, 100 temperatures, log n (and whether from 0), first frequency, slopes in 1/256."""
    facts = lambda x: (x.window, x.near, x.norm, round(100 * x.temperature), (x.log_base, x.log_floor == 0), int(x.frequencies[0]))
    slopes = lambda x: () if x.slopes is None else tuple(round(256 * float(y)) for y in x.slopes)
    return tuple(facts(x) + slopes(x) for x in architecture(arm, Scheme(rope_frequencies(8)), 64, 8, 2, 4))


usual, none = (None, None, "none", 100, (None, False), 1), (None, False)
local8 = (8, *usual[1:])
layers_wanted = dict.fromkeys(("RoPE", "RoPE, other base", "random positions"), (usual,) * 4)
layers_wanted |= {"log n": ((*usual[:4], (64, True), 1),) * 4, "ReRoPE": ((None, 16, *usual[2:]),) * 4}
layers_wanted |= {"KeyNorm": ((None, None, "key", *usual[3:]),) * 4, "QueryNorm": ((None, None, "query", *usual[3:]),) * 4}
layers_wanted |= {
    "CosA": ((None, None, "cosine", 1386, none, 1),) * 4,
    "NoPE": ((*usual[:5], 0),) * 4,
    "ALiBi": ((*usual[:5], 0, 16, 1),) * 4,
}
layers_wanted |= {"HWFA": (local8,) * 3 + ((*usual[:4], (64, True), 0),), "HWFA2": (local8, local8, usual, local8)}

# %% tags=["hide-input"]
mini = {"length": 16, "d": 16, "heads": 2, "depth": 2}
quick = {"rates": [1e-2, 3e-2], "seeds": [5, 6], "steps": 2, "batch": 3}
mini_arms, mini_also = [["RoPE", 50.0], ["HWFA2", 1e4]], [["HWFA2", ["ReRoPE", 0.25]]]
mini_run = copy_experiment(
    torch.device("cpu"), **mini, **quick, arms=mini_arms, multiples=[1, 6], methods=[["PI"], ["ReRoPE", 0.5]], also=mini_also, sequences=3
)


def apart(x, y):
    """Largest difference of two tensors."""
    return float((x - y).abs().max())


def copies_differ(a, name, base):
    """Differences of the cells of mini_run that concern architecture a from scores computed one by one."""
    stack = train_copier([name, base], torch.device("cpu"), **mini, **quick, reach=64)
    scheme = lambda method, n: architecture(name, reading(method, n, 16, 8, "cpu", base), 16, 8, 2, 2)
    at_home = sum(copying(stack, scheme(["RoPE"], 16), 16, p, 12, 60_000) for p in (6, 7)) / 2
    first = 0 if at_home[:2].sum() >= at_home[2:].sum() else 2
    wanted = lambda method, n, p, seed: copying(stack, scheme(method, n), n, p, 3, seed)[first : first + 2]
    pairs = [(mini_run["at training length"][a].flatten(), at_home)]
    pairs += [(mini_run["direct"][a][1][k], wanted(["RoPE"], 96, p, 61_000)) for k, p in ((0, 6), (1, 43))]
    if a == 0:
        pairs += [(mini_run["post hoc"][1][1][0], wanted(["ReRoPE", 0.5], 96, 6, 61_000))]
        pairs += [(mini_run["choice"][0][1][1], wanted(["PI"], 96, 43, 62_000))]
    else:
        pairs += [(mini_run["also"][0][1][1], wanted(["ReRoPE", 0.25], 96, 43, 61_000))]
    return [apart(x, y) for x, y in pairs]


mini_off = [gap for a, arm in enumerate(mini_arms) for gap in copies_differ(a, *arm)]

# %%
first_copy = [next(p for p in range(1, 30) if torch.equal(row[p:], row[:-p])) for row in drawn[0]]
taken = lambda k: random_positions(k, 64, torch.Generator().manual_seed(k)).tolist()
places_of = lambda k: (len(taken(k)), taken(k) == sorted(set(taken(k))), set(taken(k)) <= set(range(64)))
untrained = losses(start.requires_grad_(False), drawn, Scheme(rope_frequencies(8)))

# %% tags=["hide-input"]
nb.claim(
    "X3",
    "The copy task, its training and its score do what the text says.",
    "verified",
    holds=[
        sym.enumeration(
            "which next tokens are copies, and that they are",
            [(b, t) for b in range(6) for t in range(30)],
            lambda c: (bool(scored_at[0][c]), True),
            lambda c: (
                c[1] + 1 >= first_copy[c[0]],
                c[1] + 1 < first_copy[c[0]] or int(drawn[0, c[0], c[1] + 1]) == int(drawn[0, c[0], c[1] + 1 - first_copy[c[0]]]),
            ),
        ),
        ledger.less(
            "trained weights against torch.optim.AdamW, largest relative difference of the change, 5 arms",
            max(drift),
            1e-4,
            machine=True,
            scope="3 steps",
        ),
        ledger.less(
            "score of four runs against a loop, largest difference",
            max(abs(a - float(b)) for a, b in zip(by_loop, by_library, strict=True)),
            1e-6,
            machine=True,
        ),
        sym.enumeration("random places: how many, increasing, in range", [4, 9, 64], lambda k: places_of(k), lambda k: (k, True, True)),
        sym.enumeration("layers of every architecture", layers_wanted, layer_facts, layers_wanted.get),
        ledger.less("cells of a tiny experiment against single scores, largest difference", max(mini_off), 1e-6, machine=True),
        ledger.close(
            "how a difference is taken: (1, 2, 3) from (1, −1, 4)",
            apart(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, -1, 4])),
            3,
            abs=1e-9,
        ),
        ledger.close(
            "loss against the vocabulary's entropy before training", float(untrained.mean()), math.log(16), rel=0.35, machine=True
        ),
    ],
)


# %%
e1 = nb.run(
    "E1",
    copy_experiment,
    d=64,
    heads=2,
    depth=2,
    length=nb.at_scale(cpu=32, gpu=64, full=64),
    arms=nb.at_scale(cpu=[["RoPE", 1e4]], gpu=[[a, 1e4] for a in ARMS[:6]], full=[*([a, 1e4] for a in ARMS), ["RoPE, other base", 50.0]]),
    rates=nb.at_scale(cpu=[1e-2], gpu=[5e-3, 1e-2], full=[4e-3, 8e-3, 1.6e-2, 3.2e-2]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=200, gpu=400, full=500),
    batch=nb.at_scale(cpu=32, gpu=48, full=48),
    multiples=nb.at_scale(cpu=[1, 2, 4, 8], gpu=[1, 2, 4, 8, 16], full=[1, 2, 4, 8, 16]),
    methods=nb.at_scale(cpu=LIVE, gpu=METHODS, full=METHODS),
    also=nb.at_scale(cpu=[], gpu=ALSO[:4], full=ALSO),
    sequences=nb.at_scale(cpu=12, gpu=32, full=64),
)


# %% [markdown]
# **A control.** Periods go up to $\frac34L$ above, so no distance beyond that is ever of *use* in training, though attention meets them all. Do the windows
# that ReRoPE needs depend on this? The same model with other longest periods, read by ReRoPE with $w$ up to $L$.


# %%
def period_experiment(device, *, longest, windows, length, d, heads, depth, rate, seeds, steps, batch, sequences):
    """X6: copiers whose longest period in training varies; accuracy at L and, at 4 L and a long period, by window of ReRoPE."""
    scheme = lambda method, n: [reading(method, n, length, d // heads, device)] * depth
    at_home, beyond = [], []
    for high in longest:
        model = Decoder(nn.Init(seeds), vocabulary=16, d=d, depth=depth, heads=heads).to(device)
        generator = torch.Generator(device=device).manual_seed(50_000)

        def loss(ids, scored, model=model):
            nll = losses(model, ids.expand(len(seeds), -1, -1), scheme(["RoPE"], length))
            return (nll * scored).sum((1, 2)) / scored.sum()

        optimizer = optim.StackedAdam(model.parameters(), torch.tensor([rate] * len(seeds)), betas=(0.9, 0.98), weight_decay=0.01)
        schedule = lambda step, steps: optim.warmup_cosine(step, steps, final=0.02)
        batch_of = lambda step, high=high, generator=generator: copies(batch, length // 8, high, length, 16, generator)
        train.fit_graphed(loss, batch_of, optimizer, steps, schedule=schedule)
        long, methods = int(1.8 * length), [["ReRoPE", w] for w in windows]
        at_home.append(copying(model, scheme(["RoPE"], length), length, 3 * length // 8, sequences, 60_000))
        beyond.append(torch.stack([copying(model, scheme(m, 4 * length), 4 * length, long, sequences, 61_000) for m in methods]))
    return {"at L": torch.stack(at_home), "4 L": torch.stack(beyond)}


# %%
control = nb.run(
    "X6",
    period_experiment,
    d=64,
    heads=2,
    depth=2,
    length=32,
    longest=nb.at_scale(cpu=[16], gpu=[16, 24, 31], full=[16, 24, 31]),
    windows=[0.25, 0.5, 0.75, 0.9, 1.0],
    rate=1e-2,
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2, 3]),
    steps=nb.at_scale(cpu=160, gpu=400, full=400),
    batch=32,
    sequences=nb.at_scale(cpu=12, gpu=32, full=32),
)
mini_23 = {**mini, "length": 23}
periods_23 = period_experiment(
    torch.device("cpu"), **mini_23, longest=[17], windows=[0.5], rate=1e-2, seeds=[5, 6], steps=2, batch=3, sequences=3
)
same_copier = train_copier(["RoPE", 1e4], torch.device("cpu"), **mini_23, **quick, reach=64)
same_scheme = lambda method, n: [reading(method, n, 23, 8, "cpu")] * 2
control_off = [
    apart(periods_23["at L"][0], copying(same_copier, same_scheme(["RoPE"], 23), 23, 8, 3, 60_000)[:2]),
    apart(periods_23["4 L"][0, 0], copying(same_copier, same_scheme(["ReRoPE", 0.5], 92), 92, 41, 3, 61_000)[:2]),
]


# %% [markdown]
# ## E5: one text model, all methods
#
# **Question.** Does the order of the copy task hold for a language model, on text? **Set-up.** Characters of Shakespeare, 4 layers, $d=256$, four heads of
# 64, trained on $L=256$ (numbers of the recorded run; the live one is far smaller). So that there is something to find beyond $L$, half of the training sequences are
# periodic (period up to $L/2$), and all carry twelve *notes*, a name followed by a value, each asked for once later.
#
# Tests on held-out text, contexts of $L$ to $16L$: (i) the loss of the *same* last 128 characters, (ii) accuracy on the last 128 of a text of $L$ characters
# repeated again and again, the post's measure, (iii) the share of notes recalled, twelve of them anywhere in the context, asked for at its end, (iv) the loss
# by position.
#
# Four learning rates for every architecture and three seeds; the rate by the loss at $L$ on all test texts, plain text and notes together; parameters of a method by
# the loss at $8L$ on one half of the texts, results from the other half. The verdicts call the methods on RoPE E2, the NTK-aware bases E3, the
# architectures E4. **Expected**, if the post is right: the order of E1, and HWFA and KeyNorm level without any change.
#
# One caution about (ii), the post's measure: what follows stood $L$ back, so a *window* of $L$ tokens can see it, too.


# %%
def notes_for(length):
    """Notes in a text, names and values that they use."""
    return (12, 16, 16) if length >= 128 else (2, 8, 4)


@torch.no_grad()
def text_loss(model, schemes, text, note):
    """What training minimizes, on plain text and notes of the training length: (runs,). A model that diverged gets 100."""
    length = note[0].shape[-1] - 1
    plain, noted = scored(model, text[:, -(length + 1) :], schemes)[..., 0], scored(model, note[0], schemes, note[1])[..., 0]
    return (plain + noted).mean(1).nan_to_num(100.0)


@torch.no_grad()
def fine_lengths(model, schemes_of, text, length, shares, scales):
    """E3: loss of the last tokens with contexts of `shares` of the training length, bases fixed for the scales: (scales, shares, runs)."""
    lengths = [int(length * share) for share in shares]
    return [[scored(model, text[:, -(n + 1) :], schemes_of(["NTK-aware, fixed", s], n))[..., 0].mean(1) for n in lengths] for s in scales]


# %%
def train_reader(arm, device, ids, alphabet, *, length, d, heads, depth, rates, seeds, steps, batch, bf16):
    """A stack of character models, rates x seeds, on text of which half is periodic and all carries notes that are asked for."""
    pairs, names, values = notes_for(length)
    model = Decoder(nn.Init(list(seeds) * len(rates)), vocabulary=alphabet + names + values, d=d, depth=depth, heads=heads).to(device)
    generator = torch.Generator(device=device).manual_seed(70_000)
    schemes = architecture(arm, reading(["RoPE"], length, length, d // heads, device), length, d // heads, heads, depth)
    precision, every_rate = torch.bfloat16 if bf16 else torch.float32, lambda t: t.repeat(len(rates), 1, 1)

    def batch_of(step):
        start = torch.randint(len(ids) - length, (len(seeds), batch, 1), generator=generator, device=device)
        text = ids[start + torch.arange(length + 1, device=device)]
        period = torch.randint(length // 16, length // 2 + 1, (len(seeds), batch // 2), generator=generator, device=device)
        text = torch.cat([tiled(text[:, : batch // 2], period, length + 1), text[:, batch // 2 :]], 1)
        text, asked, _ = planted(text, pairs, names, values, alphabet, None, generator)
        return every_rate(text), every_rate(asked)

    def loss(text, asked):
        nll = losses(model, text, schemes, precision)
        return nll.mean((1, 2)) + nll.gather(-1, asked).mean((1, 2))

    rate = torch.tensor(rates).repeat_interleave(len(seeds))
    optimizer = optim.StackedAdam(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
    train.fit_graphed(loss, batch_of, optimizer, steps, schedule=optim.warmup_cosine)
    return model


# %%
@torch.no_grad()
def scored(model, ids, schemes, asked=None, bins=0, tail=128):
    """Losses of the last ``tail`` tokens of ids (B, n + 1): (runs, B); their accuracy; with ``bins`` the mean loss in so many stretches.

    With ``asked`` (B, pairs) loss and accuracy are those of the tokens after these places.
    """
    runs, rows, size = len(model.tokens.weight), [], max(1, 2**13 // (ids.shape[-1] - 1))
    for part in range(0, len(ids), size):
        text = ids[part : part + size].expand(runs, -1, -1)
        logits, target = model(text[..., :-1], schemes).float(), text[..., 1:]
        nll = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
        right = (logits.argmax(-1) == target).float()
        if asked is None:
            nll_tail, right = nll[..., -tail:], right[..., -tail:]
        else:
            where = asked[part : part + size].expand(runs, -1, -1)
            nll_tail, right = nll.gather(-1, where), right.gather(-1, where)
        row = [nll_tail.mean(-1), right.mean(-1)]
        rows.append(torch.stack([*row, *nll.unflatten(-1, (bins, -1)).mean(-1).unbind(-1)] if bins else row, -1))
    return torch.cat(rows, 1)  # (runs, B, 2 + bins)


# %%
def read_tests(model, schemes_of, text, notes, *, length, multiples, bins):
    """Results of the methods on the same last tokens with contexts of multiples of the training length.

    Rows: loss of plain text, loss and accuracy of text of period `length`, accuracy on the notes; each (multiples, halves, seeds): the first
    half of the sequences is for choices, the second for reports. And the loss by stretches at the longest context (bins, seeds).
    """
    halves = lambda x: torch.stack([h.mean(1) for h in x.tensor_split(2, 1)])  # (runs, B) -> (2, runs)
    plain, repeated, repeated_right, noted = [], [], [], []
    for n in (length * m for m in multiples):
        schemes = schemes_of(n)
        last = scored(model, text[:, -(n + 1) :], schemes, bins=bins if n == length * max(multiples) else 0)
        periods = torch.full(text.shape[:1], length, device=text.device)
        again = scored(model, tiled(text[:, :length], periods, n + 1), schemes)
        asked = scored(model, notes[n][0], schemes, notes[n][1])
        plain.append(halves(last[..., 0]))
        repeated.append(halves(again[..., 0]))
        repeated_right.append(halves(again[..., 1]))
        noted.append(halves(asked[..., 1]))
    curve = last[:, -(len(text) // 2) :, 2:].mean(1).T
    names = ("plain", "repeated", "repeated right", "noted")
    return {k: torch.stack(v) for k, v in zip(names, (plain, repeated, repeated_right, noted), strict=True)} | {"by position": curve}


# %%
@torch.no_grad()
def masses(model, schemes, text, length):
    """Mean attention of the queries from `length` on: to token 0, and in ten octaves of the distance; (layers, 11, runs)."""
    found = []

    def watch(layer, weights):  # (R, B, H, T, T)
        n = weights.shape[-1]
        at = torch.arange(n, device=weights.device)
        octave = (at[:, None] - at).clamp_min(0).float().add(1).log2().floor().clamp_max(9)
        mean = weights.mean((1, 2))[:, length:]
        found.append(torch.stack([mean[..., 0].mean(1), *((mean * (octave[length:] == o)).sum(-1).mean(1) for o in range(10))]))

    for part in text[:, -(2 * length) :].split(2):
        model(part.expand(len(model.tokens.weight), -1, -1), schemes, watch=watch)
    return torch.stack(found).unflatten(0, (-1, model.depth)).mean(0)


# %%
def held_out(device, length, multiples, sequences):
    """The characters to train on, their number, text (sequences, n + 1) from the last tenth, and its notes by context length."""
    characters, letters = data.encode_characters(data.shakespeare())
    characters, split, longest = characters.to(device), int(0.9 * len(characters)), length * max(multiples)
    generator = torch.Generator(device=device).manual_seed(71_000)
    start = torch.randint(split, len(characters) - longest - 1, (sequences, 1), generator=generator, device=device)
    text, notes = characters[start + torch.arange(longest + 1, device=device)], {}
    for n in (length * m for m in multiples):
        ids, asked, _ = planted(text[:, -(n + 1) : -1], *notes_for(length), len(letters), length // 4, generator)
        notes[n] = F.pad(ids, (0, 1)), asked  # what comes after the last token is not scored
    return characters[:split], len(letters), text, notes


# %%
def text_experiment(device, *, shape, arms, methods, also, rates, seeds, steps, batch, multiples, sequences, bins, fine, bf16):
    """E2 to E5: character models trained on `length` characters and read with up to max(multiples) times as many."""
    length, d, heads, depth = (shape[key] for key in ("length", "d", "heads", "depth"))
    characters, letters, text, notes = held_out(device, length, multiples, sequences)
    schemes = lambda arm, m, n: architecture(arm, reading(m, n, length, d // heads, device), length, d // heads, heads, depth)
    tests = {"length": length, "multiples": multiples, "bins": bins}
    test = lambda arm, method: read_tests(models[arm], lambda n: schemes(arm, method, n), text, notes, **tests)
    chosen, models = [], {}
    for arm in arms:
        model = train_reader(arm, device, characters, letters, **shape, rates=rates, seeds=seeds, steps=steps, batch=batch, bf16=bf16)
        chosen.append(text_loss(model, schemes(arm, ["RoPE"], length), text, notes[length]).view(len(rates), len(seeds)))
        best = int(chosen[-1].mean(1).argmin())
        models[arm] = keep_rows(model, slice(best * len(seeds), (best + 1) * len(seeds)))
    result = {"at training length": torch.stack(chosen), "direct": [test(arm, ["RoPE"]) for arm in arms]}
    result |= {"post hoc": [test("RoPE", method) for method in methods], "also": [test(arm, method) for arm, method in also]}
    result["fine"] = fine_lengths(models["RoPE"], lambda m, n: schemes("RoPE", m, n), text, length, **fine)
    mass = {m[0]: masses(models["RoPE"], schemes("RoPE", m, 2 * length), text, length) for m in (["RoPE"], ["ReRoPE", 0.25])}
    return result | {"mass": mass}


# %% [markdown]
# Again the parts first: training against AdamW, the scores and the attention masses against loops, notes and texts against the corpus.


# %%
def reader_by_hand(arm, rate, seed, ids, alphabet, *, length, d, heads, depth, steps, batch):
    """One run of train_reader with seeds [5, 6], by torch.optim.AdamW; ``seed`` is 5 or 6."""
    pairs, names, values = notes_for(length)
    model = Decoder(nn.Init([seed]), vocabulary=alphabet + names + values, d=d, depth=depth, heads=heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(70_000)
    schemes = architecture(arm, Scheme(rope_frequencies(d // heads)), length, d // heads, heads, depth)
    for step in range(steps):
        start = torch.randint(len(ids) - length, (2, batch, 1), generator=generator)
        period = torch.randint(length // 16, length // 2 + 1, (2, batch // 2), generator=generator)
        rows = [[ids[a : a + length + 1] for a in column] for column in start[..., 0].tolist()]
        tile = lambda row, p: torch.stack([row[t % p] for t in range(length + 1)])
        text = [[tile(row, int(period[a, b])) if b < batch // 2 else row for b, row in enumerate(column)] for a, column in enumerate(rows)]
        text, asked, _ = planted(torch.stack([torch.stack(column) for column in text]), pairs, names, values, alphabet, None, generator)
        text, asked = text[seed - 5 : seed - 4], asked[seed - 5 : seed - 4]
        logs = torch.log_softmax(model(text[..., :-1], schemes), -1)[0]
        at = [(b, t) for b in range(batch) for t in range(length)]
        loss = -sum(logs[b, t, text[0, b, t + 1]] for b, t in at) / len(at)
        loss = loss - sum(logs[b, t, text[0, b, t + 1]] for b in range(batch) for t in asked[0, b].tolist()) / (batch * pairs)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1.0 if step < 1 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 1) / (steps - 1))))
        optimizer.step()
        model.zero_grad()
    return model


# %%
tiny, toy = {"length": 16, "d": 16, "heads": 2, "depth": 2}, torch.arange(400) % 7 * (torch.arange(400) % 3)
text_drift = []
for arm in ("RoPE", "HWFA2", "ReRoPE", "ALiBi"):
    stack = train_reader(arm, torch.device("cpu"), toy, 13, **tiny, rates=[1e-2, 3e-2], seeds=[5, 6], steps=3, batch=4, bf16=False)
    alone = reader_by_hand(arm, 1e-2, 6, toy, 13, **tiny, steps=3, batch=4)
    start = Decoder(nn.Init([6]), vocabulary=25, d=16, depth=2, heads=2)
    for a, b, c in zip(keep_rows(stack, slice(1, 2)).parameters(), alone.parameters(), start.parameters(), strict=True):
        text_drift.append(float((a.data - b.data).norm() / (b.data - c.data).norm()))
with torch.random.fork_rng():
    torch.manual_seed(9)
    some = torch.randint(13, (5, 65))
near_scheme = Scheme(rope_frequencies(8), near=4)
with torch.no_grad():
    log_probability = torch.log_softmax(stack(some[:, :-1].expand(4, -1, -1), near_scheme), -1)
nll_of = lambda run, b, t: -float(log_probability[run, b, t, some[b, t + 1]])
right_of = lambda run, b, t: float(log_probability[run, b, t].argmax() == some[b, t + 1])
some_asked = torch.tensor([[3, 40], [5, 6], [0, 63], [20, 9], [1, 2]])
library_rows = [scored(stack, some, near_scheme, bins=4, tail=10), scored(stack, some, near_scheme, some_asked)]

# %%
mean = lambda f, run, b, where: np.mean([f(run, b, t) for t in where])
cells = [(run, b) for run in range(4) for b in range(5)]
off = [abs(float(library_rows[0][run, b, 0]) - mean(nll_of, run, b, range(54, 64))) for run, b in cells]
off += [abs(float(library_rows[0][run, b, 1]) - mean(right_of, run, b, range(54, 64))) for run, b in cells]
off += [abs(float(library_rows[0][run, b, 2 + k]) - mean(nll_of, run, b, range(16 * k, 16 * k + 16))) for run, b in cells for k in range(4)]
off += [abs(float(library_rows[1][run, b, 0]) - mean(nll_of, run, b, some_asked[b].tolist())) for run, b in cells]
off += [abs(float(library_rows[1][run, b, 1]) - mean(right_of, run, b, some_asked[b].tolist())) for run, b in cells]
notes_here = {16 * m: (some[:, -(16 * m + 1) :], some_asked[:, :1] % (16 * m)) for m in (1, 2, 4)}
table = read_tests(stack, lambda n: near_scheme, some, notes_here, length=16, multiples=[1, 2, 4], bins=4)
tests_by_hand = {
    "plain": lambda m, half: scored(stack, some[half, -(16 * m + 1) :], near_scheme)[..., 0].mean(1),
    "repeated": lambda m, half: scored(stack, some[half][:, [t % 16 for t in range(16 * m + 1)]], near_scheme)[..., 0].mean(1),
    "repeated right": lambda m, half: scored(stack, some[half][:, [t % 16 for t in range(16 * m + 1)]], near_scheme)[..., 1].mean(1),
    "noted": lambda m, half: scored(stack, notes_here[16 * m][0][half], near_scheme, notes_here[16 * m][1][half])[..., 1].mean(1),
}
off += [
    apart(table[key][row, h], f(m, half))
    for key, f in tests_by_hand.items()
    for row, m in enumerate((1, 2, 4))
    for h, half in enumerate((slice(0, 3), slice(3, 5)))
]
off += [apart(table["by position"][k], library_rows[0][:, 3:, 2 + k].mean(1)) for k in range(4)]

# %% tags=["hide-input"]
seen_weights = []
with torch.no_grad():
    for part in some[:, -32:].split(2):
        stack(part.expand(4, -1, -1), near_scheme, watch=lambda layer, weights: seen_weights.append((layer, weights.mean((1, 2)))))
library_mass = masses(stack, near_scheme, some, 16)
octave = lambda i, j: min(9, int(math.log2(i - j + 1)))
for layer in range(2):
    chunks = [x for at, x in seen_weights if at == layer]
    for run in range(4):
        to_first = np.mean([np.mean([float(x[run, i, 0]) for i in range(16, 32)]) for x in chunks])
        by_octave = [
            np.mean([sum(float(x[run, i, j]) for i in range(16, 32) for j in range(i + 1) if octave(i, j) == o) / 16 for x in chunks])
            for o in range(10)
        ]
        off.append(apart(library_mass[layer, :, run], torch.tensor([to_first, *by_octave])))
fine_here = fine_lengths(
    stack, lambda m, n: Scheme(ntk_frequencies(8, m[1])) if m[0] == "NTK-aware, fixed" else None, some, 16, [1, 2.5], [1.0, 4.0]
)
off += [
    apart(fine_here[a][b], scored(stack, some[:, -(n + 1) :], Scheme(ntk_frequencies(8, s)))[..., 0].mean(1))
    for a, s in enumerate((1.0, 4.0))
    for b, n in enumerate((16, 40))
]
corpus = data.shakespeare()
known, count_letters, held_text, held_notes = held_out(torch.device("cpu"), 32, [1, 4], 3)
alphabet = sorted(set(corpus))
many_asked, many_back = planted(torch.zeros(1000, 128, dtype=torch.long), 2, 8, 4, 1, 8, torch.Generator().manual_seed(6))[1:]
note_places = (many_asked - many_back).double()  # even places of 0 .. 118
as_text = ["".join(alphabet[c] for c in row) for row in held_text.tolist()]
note_rows = [(n, b, a, held_notes[n][0][b].tolist()) for n in (32, 128) for b in range(3) for a in held_notes[n][1][b].tolist()]
first_at = lambda row, a: row.index(row[a])
home = (some[:, -17:], some_asked[:, :1] % 16)
home_by_hand = scored(stack, some[:, -17:], near_scheme)[..., 0].mean(1) + scored(stack, home[0], near_scheme, home[1])[..., 0].mean(1)
broken = copy.deepcopy(stack)
_ = broken.head.weight.data.fill_(math.nan)

# %% tags=["hide-input"]
mini_shape = {"length": 16, "d": 16, "heads": 2, "depth": 2}
quick_text = {"rates": [3e-2, 1e-2], "seeds": [5, 6], "steps": 2, "batch": 4, "bf16": False}
few = {"multiples": [1, 2], "sequences": 4, "bins": 4, "fine": {"shares": [1, 1.5], "scales": [1, 2]}}
text_run = text_experiment(
    torch.device("cpu"), shape=mini_shape, arms=["RoPE", "HWFA2"], methods=[["PI"]], also=[["HWFA2", ["ReRoPE", 0.25]]], **quick_text, **few
)
known16, letters16, text16, notes16 = held_out(torch.device("cpu"), 16, [1, 2], 4)


def texts_differ(a, arm):
    """Differences of the cells of text_run that concern architecture a from results computed one by one."""
    stack = train_reader(arm, torch.device("cpu"), known16, letters16, **mini_shape, **quick_text)
    scheme = lambda method, n: architecture(arm, reading(method, n, 16, 8, "cpu"), 16, 8, 2, 2)
    at_home = text_loss(stack, scheme(["RoPE"], 16), text16, notes16[16])
    one = keep_rows(stack, slice(0, 2) if at_home[:2].sum() <= at_home[2:].sum() else slice(2, 4))
    tests = lambda method: read_tests(one, lambda n: scheme(method, n), text16, notes16, length=16, multiples=[1, 2], bins=4)
    same = lambda table, method: [apart(x, table[k]) for k, x in tests(method).items()]
    found = [apart(text_run["at training length"][a].flatten(), at_home), *same(text_run["direct"][a], ["RoPE"])]
    if a:
        return found + same(text_run["also"][0], ["ReRoPE", 0.25])
    mass = masses(one, scheme(["ReRoPE", 0.25], 32), text16, 16)
    fine = scored(one, text16[:, -25:], [Scheme(ntk_frequencies(8, 2))] * 2)[..., 0].mean(1)
    found += [*same(text_run["post hoc"][0], ["PI"]), apart(mass, text_run["mass"]["ReRoPE"])]
    return [*found, apart(fine, text_run["fine"][1][1])]


off += [*texts_differ(0, "RoPE"), *texts_differ(1, "HWFA2")]

# %% tags=["hide-input"]
nb.claim(
    "X4",
    "The text task, its training, its scores and its attention masses do what the text says.",
    "verified",
    holds=[
        ledger.less(
            "trained weights against torch.optim.AdamW, largest relative difference of the change, 4 arms",
            max(text_drift),
            1e-4,
            machine=True,
            scope="3 steps",
        ),
        ledger.less(f"scores, halves, masses against loops, largest of {len(off)} differences", max(off), 2e-5, machine=True),
        sym.enumeration(
            "held-out rows stand in the last tenth of the plays, and nowhere else",
            range(3),
            lambda b: (as_text[b] in corpus[int(0.9 * len(corpus)) :], as_text[b] in corpus[: int(0.9 * len(corpus))], len(as_text[b]) - b),
            lambda b: (True, False, 129 - b),
        ),
        ledger.close("characters to train on", len(known), 0.9 * len(corpus), abs=1),
        sym.enumeration(
            "each question repeats a note: same value, note before the tail, text otherwise the same context",
            range(len(note_rows)),
            lambda x: (
                note_rows[x][3][note_rows[x][2] + 1] == note_rows[x][3][first_at(note_rows[x][3], note_rows[x][2]) + 1],
                note_rows[x][2] >= note_rows[x][0] - 8 > first_at(note_rows[x][3], note_rows[x][2]),
                x,
            ),
            lambda x: (True, True, x),
        ),
        sym.enumeration(
            "most of the noted text is the held-out text before its last character",
            [32, 128],
            lambda n: (n, int((held_notes[n][0][:, :n] == held_text[:, -(n + 1) : -1]).sum() >= 3 * n - 3 * 8)),
            lambda n: (n, 1),
        ),
        ledger.close("notes stand anywhere before the tail: mean place", float(note_places.mean()), 59, abs=4, machine=True),
        ledger.close("its standard deviation", float(note_places.std()), 2 * math.sqrt((60**2 - 1) / 12), abs=2, machine=True),
        ledger.close("loss at home of a diverged run", float(text_loss(broken, near_scheme, some, home)[0]), 100, abs=1e-9),
        ledger.less(
            "loss at home against its definition",
            apart(text_loss(stack, near_scheme, some, home), home_by_hand),
            1e-5,
            machine=True,
        ),
    ],
)


# %%
e5 = nb.run(
    "E5",
    text_experiment,
    shape=nb.at_scale(
        cpu={"length": 32, "d": 48, "heads": 2, "depth": 2},
        gpu={"length": 128, "d": 128, "heads": 2, "depth": 4},
        full={"length": 256, "d": 256, "heads": 4, "depth": 4},
    ),
    arms=nb.at_scale(cpu=["RoPE"], gpu=["RoPE", "KeyNorm"], full=["RoPE", "KeyNorm", "HWFA", "HWFA2", "ReRoPE", "ALiBi"]),
    methods=nb.at_scale(cpu=LIVE, gpu=METHODS, full=METHODS),
    also=nb.at_scale(cpu=[], gpu=[], full=ALSO[:4]),
    rates=nb.at_scale(cpu=[1e-2], gpu=[2e-3, 4e-3], full=[5e-4, 1e-3, 2e-3, 4e-3]),
    seeds=[0, 1, 2],
    steps=nb.at_scale(cpu=100, gpu=600, full=1800),
    batch=nb.at_scale(cpu=16, gpu=16, full=16),
    multiples=nb.at_scale(cpu=[1, 2, 4, 8], gpu=[1, 2, 4, 8, 16], full=[1, 2, 4, 8, 16]),
    sequences=nb.at_scale(cpu=6, gpu=8, full=16),
    bins=nb.at_scale(cpu=8, gpu=16, full=16),
    fine={"shares": [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8], "scales": nb.at_scale(cpu=[1, 4], gpu=[1, 4, 8], full=[1, 2, 4, 8, 16])},
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
)


# %% [markdown]
# ## What came out: copying
#
# The recorded run ($L=64$, twelve architectures, four rates, four seeds; curves) and the live one ($L=32$, RoPE alone, three seeds; circles) share the axes. Parameters
# of a method were chosen on other texts at $8L$. At $L$ the task is solved, and the rate matters little: the two architectures that do best at the
# grid's edge gain a tenth of a point there.

# %% tags=["hide-input"]
e1_record = nb.recorded("E1")
e1_methods, e1_times = e1_record.config["methods"], e1_record.config["multiples"]
post_hoc = [np.array(r) for r in e1_record.result["post hoc"]]  # (multiples, short and long, seeds) each
e1_value = [np.array(r)[e1_times.index(8)].mean() for r in e1_record.result["choice"]]
e1_names = list(dict.fromkeys(m[0] for m in e1_methods))
e1_best = {name: max((i for i, m in enumerate(e1_methods) if m[0] == name), key=e1_value.__getitem__) for name in e1_names}
e1_arms = [arm[0] for arm in e1_record.config["arms"]]
direct = {arm: np.array(r) for arm, r in zip(e1_arms, e1_record.result["direct"], strict=True)}
combined = {(arm, m[0]): np.array(r) for (arm, m), r in zip(e1_record.config["also"], e1_record.result["also"], strict=True)}
live = {str(m): np.array(r)[:4] for m, r in zip(nb.at_scale(cpu=LIVE, gpu=METHODS, full=METHODS), e1["post hoc"], strict=True)}
e1_scope, live_scope = f"full, {len(e1_record.config['seeds'])} seeds, 0.1M parameters", "live"
SHORT, LONG = 0, 1


def e1_of(name, times, kind=LONG):
    """Accuracies (seeds) of a method at its chosen parameters, or of an architecture as trained."""
    table = post_hoc[e1_best[name]] if name in e1_best else direct[name]
    return table[e1_times.index(times), kind]


def e1_at(method, times, kind=LONG):
    """Accuracies (seeds) of one setting."""
    return post_hoc[e1_methods.index(method)][e1_times.index(times), kind]


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of copying accuracy against the multiple of the training length, one to sixteen, for eight methods on the same trained RoPE models. Left, short period: windows, ReRoPE and Leaky ReRoPE stay near one, YaRN falls slowly, RoPE and NTK faster, interpolation at once. Right, long period: the window, RoPE and interpolation are at chance from four times on, NTK follows, YaRN holds longer, and ReRoPE with the log-n factor stays highest to sixteen times. Open circles of the smaller live run lie lower, in the same order but for YaRN at eight."}}
shown = {
    "RoPE": (BLACK, ":", ["RoPE"]),
    "window": (GREY, "-.", ["window", 1.0]),
    "PI": (ORANGE, "--", ["PI"]),
    "dynamic NTK": (PURPLE, (0, (3, 1, 1, 1)), ["dynamic NTK", 1.0]),
    "YaRN": (RED, "--", ["YaRN", 4]),
    "Leaky ReRoPE": (GREEN, "-.", ["Leaky ReRoPE", 0.25, 1]),
    "ReRoPE": (SKY, "-", ["ReRoPE", 0.25]),
    "ReRoPE, log n": (BLUE, "-", None),
}
figure, panels = plt.subplots(1, 2, figsize=(7.8, 4.4), sharey=True)
for axes, kind, title in (
    (panels[0], SHORT, "short period: what is needed is near"),
    (panels[1], LONG, "long period: beyond L from 4 L on"),
):
    for name, (color, dash, alive) in shown.items():
        mean = [e1_of(name, t, kind).mean() for t in e1_times]
        spread = [e1_of(name, t, kind).std(ddof=1) for t in e1_times]
        axes.errorbar(e1_times, mean, spread, color=color, ls=dash, label=name, capsize=2, lw=1.6)
        if alive is not None:
            axes.plot([1, 2, 4, 8], live[str(alive)][:, kind].mean(-1), "o", mfc="none", mec=color, ms=5)
    axes.axhline(1 / 16, color=GREY, lw=0.8, ls=":")
    axes.plot([], [], "o", mfc="none", mec=BLACK, ms=5, label="live run, L = 32")
    axes.set(xscale="log", xlabel="test length / training length (log axis)", ylim=(0, 1.03))
    axes.set_xticks(e1_times, [f"{t}" for t in e1_times])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("accuracy of the last 16 tokens")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
figure.suptitle(
    "Of these, only methods that keep the near and compress the far use what lies beyond L",
    fontsize=10.5,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% [markdown]
# **What we saw.** At $8L$ and a long period ReRoPE copies nearly as well as HWFA, which was trained for it; at $16L$ HWFA still has 98%, YaRN 47%, and the log-n factor lifts
# ReRoPE from 90% to 95%. Leaky ReRoPE with the smallest legal $k$ is worse (84% at $8L$) than with twice as much: X6 will tell why. Every NTK-aware base fails
# sooner. (The live models are weaker, and for $L=32$ even $\tau=4$ is too large: its circles lie low, see X7.)
#
# Parameters in the table: windows as shares of $L$; YaRN's $\tau$; "fixed": the scale; dynamic NTK: the factor $f$ in the scale $fs-f+1$; Leaky ReRoPE: $w/L$, and
# $k-1$ in units of $k_{min}-1$.

# %% tags=["hide-input"]
shorthand = lambda table, t: f"{table[e1_times.index(t), SHORT].mean():.2f} / {table[e1_times.index(t), LONG].mean():.2f}"
parameters = lambda m: ", ".join(f"{x:g}" for x in m[1:]) or "–"
nb.results(
    "E1",
    f"Accuracy of copying, short / long period, mean over seeds; {e1_record.provenance}",
    ["method", "parameters", *(f"{t}L" for t in e1_times)],
    [[n, parameters(e1_methods[e1_best[n]]), *(shorthand(post_hoc[e1_best[n]], t) for t in e1_times)] for n in e1_names]
    + [[f"trained: {a}", "–", *(shorthand(direct[a], t) for t in e1_times)] for a in e1_arms[1:]]
    + [[f"trained: {a}, read by {m}", "–", *(shorthand(table, t) for t in e1_times)] for (a, m), table in combined.items()],
)

# %% [markdown]
# ## What came out: text
#
# All numbers of this section are of the recorded run. The table says what the models learned at $L$, in 1,800 steps. Only HWFA learned the notes with every
# seed. RoPE did not, at any rate: its best is the grid's highest, but the four lie within 0.13 nats; HWFA, ReRoPE and ALiBi are best at the lowest, so a wider
# grid might favour them more. Nor did RoPE, at the chosen rate, learn to copy from text. So for methods that read the *RoPE* model this section shows what breaks and what holds; who *uses* the far, the copy task says, and
# here the architectures that did learn to look back. There, for KeyNorm, YaRN and ReRoPE lift repeated text at $8L$ from 75% to 96% and 94%.

# %% tags=["hide-input"]
e5_record = nb.recorded("E5")
config, result = e5_record.config, e5_record.result
e5_methods, e5_times, e5_arms = config["methods"], config["multiples"], config["arms"]
CHOICE, REPORT = 0, 1
metric = lambda table, key, half=REPORT: np.array(table[key])[:, half]  # (multiples, seeds)
e5_value = [sum(metric(table, key, CHOICE)[e5_times.index(8)].mean() for key in ("plain", "repeated")) for table in result["post hoc"]]
e5_best = {
    name: min((i for i, m in enumerate(e5_methods) if m[0] == name), key=e5_value.__getitem__)
    for name in dict.fromkeys(m[0] for m in e5_methods)
}
e5_direct = dict(zip(e5_arms, result["direct"], strict=True))
e5_combined = {(arm, m[0]): table for (arm, m), table in zip(config["also"], result["also"], strict=True)}
e5_scope = f"full, {len(config['seeds'])} seeds, {4 * 12 * 256**2 / 1e6:.1f}M parameters"


def e5_of(name, times, key):
    """Results (seeds) of a method at its chosen parameters, of an architecture as trained, or of (architecture, method)."""
    table = result["post hoc"][e5_best[name]] if name in e5_best else e5_combined.get(name) or e5_direct[name]
    return metric(table, key)[e5_times.index(times)]


def e5_at(method, times, key):
    """Results (seeds) of one setting."""
    return metric(result["post hoc"][e5_methods.index(method)], key)[e5_times.index(times)]


# %% tags=["hide-input"]
at_L = {arm: np.array(x) for arm, x in zip(e5_arms, result["at training length"], strict=True)}  # (rates, seeds)
e5_rate = {arm: int(x.mean(1).argmin()) for arm, x in at_L.items()}
nb.results(
    "E5a",
    f"Loss at L of plain text plus notes (nats), mean ± standard deviation over seeds, by learning rate; * chosen; {e5_record.provenance}",
    ["trained", *(f"{rate:g}" for rate in config["rates"]), "notes recalled at L"],
    [
        [
            arm,
            *(f"{y.mean():.2f} ± {y.std(ddof=1):.2f}{' *' if i == e5_rate[arm] else ''}" for i, y in enumerate(x)),
            f"{metric(e5_direct[arm], 'noted')[0].mean():.0%}",
        ]
        for arm, x in at_L.items()
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels against the multiple of the training length, one to sixteen. Left, seven methods that read the same RoPE models, loss of the last 128 characters of plain text: RoPE and interpolation rise at once, NTK after four, YaRN slowly; ReRoPE, Leaky ReRoPE and the window with sinks are level. Middle and right, architectures that learned to look back, accuracy on repeated text and share of notes recalled: HWFA stays on top of both to sixteen, HWFA2 read by ReRoPE next; KeyNorm falls on repeated text and is lifted by YaRN and ReRoPE, RoPE read by ReRoPE stays below one half, and all but HWFA and HWFA2 recall few notes."}}
e5_shown = {k: v for k, v in shown.items() if k not in ("window", "ReRoPE, log n")} | {"LM-Infinite": (GREY, "-.", None)}
looks_back = {
    "HWFA": (e5_direct["HWFA"], BLUE, "-"),
    "HWFA2 + ReRoPE": (e5_combined["HWFA2", "ReRoPE"], GREEN, "-."),
    "KeyNorm": (e5_direct["KeyNorm"], ORANGE, ":"),
    "KeyNorm + YaRN": (e5_combined["KeyNorm", "YaRN"], RED, "--"),
    "KeyNorm + ReRoPE": (e5_combined["KeyNorm", "ReRoPE"], SKY, "-"),
    "RoPE + ReRoPE": (result["post hoc"][e5_best["ReRoPE"]], BLACK, (0, (5, 1))),
}
post_hoc_shown = {name: (result["post hoc"][e5_best[name]], color, dash) for name, (color, dash, _) in e5_shown.items()}
figure, panels = plt.subplots(1, 3, figsize=(7.9, 4.6))
for axes, key, lines, title in zip(
    panels,
    ("plain", "repeated right", "noted"),
    (post_hoc_shown, looks_back, looks_back),
    ("plain text, RoPE read by ..", "repeated text", "notes recalled; dots: seeds"),
    strict=True,
):
    for name, (table, color, dash) in lines.items():
        values = metric(table, key)
        if key == "noted":  # HWFA2 has learned the notes with two seeds of three
            axes.plot(e5_times, values, ".", color=color, ms=4)
        spread = 0 * values[:, 0] if key == "noted" else values.std(1, ddof=1)
        axes.errorbar(e5_times, values.mean(1), spread, color=color, ls=dash, label=name, capsize=2 * (key != "noted"), lw=1.5)
    axes.set(xscale="log", xlabel="length / L (log axis)")
    axes.set_xticks(e5_times, [f"{t}" for t in e5_times])
    axes.minorticks_off()
    axes.set_title(title, fontsize=9.5)
    if key != "plain":
        axes.set_ylim(0, 1.03)
panels[0].set_ylabel("loss (nats a character)")
panels[1].set_ylabel("accuracy; share")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=7.5, title="left", title_fontsize=8)
figure.legend(
    *panels[1].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=7.5, title="middle, right", title_fontsize=8
)
figure.suptitle("The loss shows what breaks; recall shows who uses the far", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% tags=["hide-input"]
e5_row = lambda table: [
    " / ".join(f"{metric(table, key)[e5_times.index(t)].mean():.2f}" for key in ("plain", "repeated right", "noted")) for t in e5_times
]
nb.results(
    "E5",
    f"Loss of plain text (nats a character) / accuracy on repeated text / share of notes recalled, mean over seeds; {e5_record.provenance}",
    ["method", "parameters", *(f"{t}L" for t in e5_times)],
    [[n, parameters(e5_methods[i]), *e5_row(result["post hoc"][i])] for n, i in e5_best.items()]
    + [[f"trained: {a}", "–", *e5_row(e5_direct[a])] for a in e5_arms[1:]]
    + [[f"trained: {a}, read by {m}", "–", *e5_row(table)] for (a, m), table in e5_combined.items()],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss by position in a text of sixteen training lengths, sixteen stretches of L characters each, for seven methods. RoPE and interpolation climb within a few stretches; NTK climbs later; ReRoPE, YaRN and the window with sinks stay level."}}
figure, axes = plt.subplots(figsize=(7.4, 3.7))
stretches = np.arange(len(result["post hoc"][0]["by position"])) + 0.5
for name, (color, dash, _) in e5_shown.items():
    curve = np.array(result["post hoc"][e5_best[name]]["by position"])
    axes.plot(stretches, curve.mean(1), color=color, ls=dash, label=name)
axes.set(xlabel="position / L, in stretches of L characters", ylabel="loss (nats a character)")  # scales are those for 16 L
axes.set_title("Texts of 16 L: RoPE lets go at L, the ReRoPE family never")
axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))
nb.show(figure)

# %% [markdown]
# ### E3: how far does NTK-aware RoPE reach?
#
# Bases fixed for $s=1,2,4,8,16$, the same last characters, contexts from $L$ to $8L$. D9 predicts that a base for $s$ serves $s'L$ tokens, with $s'$ from
# the critical index, times whatever slack plain RoPE itself shows. A context counts as served while the loss stays within 0.05 nats of its value at $L$.

# %% tags=["hide-input"]
shares, scales = config["fine"]["shares"], config["fine"]["scales"]
fine = np.array(result["fine"]).mean(-1)  # (scales, shares)
fine_seeds = np.array(result["fine"])
head, trained = config["shape"]["d"] // config["shape"]["heads"], config["shape"]["length"]
TOLERATED = 0.05  # nats above the same model's loss at L


def usable(curve):
    """The largest share of L, interpolated in its logarithm, up to which the loss stays within TOLERATED of its value at L; capped at the last."""
    excess = np.array(curve) - curve[0] - TOLERATED
    if not (excess > 0).any():
        return shares[-1]
    i = int((excess > 0).argmax())
    part = -excess[i - 1] / (excess[i] - excess[i - 1])
    return math.exp((1 - part) * math.log(shares[i - 1]) + part * math.log(shares[i]))


reached = {s: [usable(fine_seeds[i, :, k]) for k in range(fine_seeds.shape[2])] for i, s in enumerate(scales)}
predicted = {s: reach(s, trained, head) for s in scales}
slack = np.mean(reached[1])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss of the last characters against context length over L, one to eight, for NTK-aware RoPE with bases fixed for scales one, two, four, eight and sixteen. Each curve is level and then rises; triangles mark the predicted reach without slack, dots that with the slack of plain RoPE; the curves pass close to their dots, well left of the nominal scale."}}
figure, axes = plt.subplots(figsize=(7.4, 3.7))
for i, (s, color, dash) in enumerate(zip(scales, (BLACK, ORANGE, GREEN, RED, BLUE), (":", "--", "-.", (0, (5, 1)), "-"), strict=True)):
    axes.errorbar(shares, fine[i], fine_seeds[i].std(-1, ddof=1), color=color, ls=dash, label=f"base for s = {s:g}", capsize=2)
    axes.plot([predicted[s]], [np.interp(math.log(predicted[s]), np.log(shares), fine[i])], "^", color=color, mec=BLACK, ms=8, zorder=5)
    axes.plot([predicted[s] * slack], [fine[i][0] + TOLERATED], "o", color=color, mec=BLACK, ms=7, zorder=6)
axes.set(xscale="log", xlabel="context / L (log axis)", ylabel="loss of the last 128 characters (nats)")
axes.set_xticks(shares, [f"{x:g}" for x in shares])
axes.minorticks_off()
axes.set_title(f"A base for s serves {slack:.1f} s' L (dots; triangles: s' L), not s L")
axes.legend(fontsize=8)
nb.show(figure)

# %% [markdown]
# Where does the attention go at $2L$? RoPE's upper layers spend about a fifth of it on distances they never met, with ReRoPE next to nothing.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Attention mass in octaves of the distance for each of four layers, RoPE with solid and ReRoPE with dashed lines, at twice the training length. In the last octave, 255 to 510, which training on 256 did not reach, layers three and four of RoPE have about a fifth of their attention, with ReRoPE almost none; layer one is broad with both."}}
figure, axes = plt.subplots(figsize=(7.4, 3.5))
for layer, color in zip(range(config["shape"]["depth"]), (BLUE, ORANGE, GREEN, PURPLE), strict=True):
    for name, dash in (("RoPE", "-"), ("ReRoPE", "--")):
        mass = np.array(result["mass"][name]).mean(-1)[layer]
        axes.plot(range(9), mass[1:10], color=color, ls=dash, label=f"layer {layer + 1}, {name}")
axes.set_xticks(range(9), ["0", *(f"{2**o - 1}–{2 ** (o + 1) - 2}" for o in range(1, 9))], rotation=30, fontsize=8)
axes.set(xlabel="distance (octaves)", ylabel="share of the attention")
axes.set_title("At 2L RoPE's upper layers are drawn to unseen distances")
axes.legend(fontsize=7, ncols=2)
nb.show(figure)

# %% [markdown]
# ## The post's tables, and a rule they obey
#
# The author's own measurements: a language model of 100M parameters with gated attention units (GAU) and Post-Norm, trained on 512 tokens, accuracy in % of predicting the last tokens at 512, in a
# text of 512 tokens repeated to 4096, and in a text of 4096 that does not repeat. They come from the three earlier posts on ReRoPE {cite}`su2023rerope`, HWFA2 {cite}`su2023hwfa2` and KeyNorm
# {cite}`su2023keynorm`, which this review sums up.

# %% tags=["hide-input"]
POST = {
    "RoPE": (49.41, 24.17, 23.16),
    "RoPE, log n": (49.40, 24.60, 24.02),
    "PI": (49.41, 15.04, 13.54),
    "NTK-aware": (49.41, 60.57, 42.20),
    "NTK-aware, log n": (49.40, 75.86, 47.06),
    "YaRN": (49.41, 80.10, 47.45),
    "YaRN, log n": (49.40, 82.57, 46.52),
    "ReRoPE w64": (49.41, 69.39, 45.19),
    "ReRoPE w128": (49.41, 76.11, 47.82),
    "ReRoPE w256": (49.41, 77.90, 48.48),
    "ReRoPE w384": (49.41, 70.72, 48.15),
    "ReRoPE w512": (49.41, 7.09, 8.25),
    "ReRoPE w128, log n": (49.40, 85.47, 48.87),
    "ReRoPE w256, log n": (49.40, 85.12, 49.07),
    "ReRoPE w512, log n": (49.40, 15.84, 10.83),
    "Leaky w128 k16, log n": (49.40, 85.15, 49.10),
    "Leaky w256 k16, log n": (49.40, 83.59, 48.87),
    "Leaky w128 k8, log n": (49.40, 80.00, 48.11),
    "Leaky w256 k8, log n": (49.40, 69.80, 45.72),
    "KeyNorm": (49.60, 61.08, 47.69),
    "QueryNorm": (49.55, 22.45, 22.18),
    "CosA": (49.73, 58.90, 46.98),
    "KeyNorm, NTK-aware": (None, None, 43.02),
    "KeyNorm, YaRN": (49.60, 84.19, 47.44),
    "KeyNorm, log n, ReRoPE": (49.58, 85.48, 48.78),
    "HWFA": (48.70, 80.84, 48.15),
    "HWFA2 w64": (49.46, 84.43, 49.36),
}
nb.results(
    "C",
    "The author's measurements (accuracy in %, 100M GAU, trained on 512; posts 9708, 9731, 9859)",
    ["model", "512", "4096, repeated", "4096, not repeated"],
    [[name, *("–" if x is None else f"{x:.2f}" for x in row)] for name, row in POST.items()],
)
LLAMA = {"RoPE": (1.4967, 8.8615, None), "NTK-aware": (1.6081, 1.5417, 1.5163), "ReRoPE": (1.4996, 1.4267, 1.4001)}
nb.results(
    "Ca",
    "The author's losses of LLaMA2-13B, trained on 4096 (post 9708)",
    ["model", "4096", "8192", "16384"],
    [[name, *("–" if x is None else f"{x:.4f}" for x in row)] for name, row in LLAMA.items()],
)
column_sums = [sum(row[k] or 0 for row in POST.values()) for k in range(3)], [sum(row[k] or 0 for row in LLAMA.values()) for k in range(3)]

# %% [markdown]
# The post does not say it, but these rows follow the rule of D4: a setting that sends the farthest pair beyond the distance 511 does worse than the
# neighbouring setting (same $w$, or same $k$) that does not. Leak 8 overflows at both windows (623.9 and 735.9), leak 16 at neither (375.9, 495.9). The overflow by *one* position at $w=512$ costs
# everything; this cannot be the one unseen distance alone. In 512 tokens the distance $r$ occurs $512-r$ times, so the last distances were rarely
# trained, and at $n=4096$ nearly all keys stand at exactly 512. We test below what
# a window may be.

# %%
farthest = lambda w, k: float(positions.rerope_distance(torch.tensor([4095]), w, k)[0])
neighbours = {  # alike but for w or k: the one that fits, the one that does not
    ("ReRoPE w384", "ReRoPE w512"): ((384, math.inf), (512, math.inf)),
    ("ReRoPE w256, log n", "ReRoPE w512, log n"): ((256, math.inf), (512, math.inf)),
    **{(f"Leaky w{w} k16, log n", f"Leaky w{w} k8, log n"): ((w, 16), (w, 8)) for w in (128, 256)},
}
better_row = lambda a, b: (POST[a][1] > POST[b][1], POST[a][2] > POST[b][2])

# %% tags=["hide-input"]
nb.claim(
    "C2",
    "The author's tables obey the rule of D4: a setting whose farthest distance exceeds 511 is worse than the neighbouring one that fits.",
    "verified",
    holds=[
        *[
            ledger.close(f"farthest distance, w = {w}, k = {k}", farthest(w, k), d, abs=0.05)
            for w, k, d in ((128, 8, 623.9), (256, 8, 735.9), (128, 16, 375.9), (256, 16, 495.9), (512, math.inf, 512))
        ],
        sym.enumeration(
            "of neighbouring settings the one that fits is better in both columns",
            neighbours,
            lambda x: (*(farthest(*wk) <= 511 for wk in neighbours[x]), *better_row(*x), x),
            lambda x: (True, False, True, True, x),
        ),
        ledger.more("k = 16 over k = 8, repeated, w = 128", POST["Leaky w128 k16, log n"][1] - POST["Leaky w128 k8, log n"][1], 5),
        ledger.more("w = 256", POST["Leaky w256 k16, log n"][1] - POST["Leaky w256 k8, log n"][1], 13),
    ],
)
nb.claim(
    "C12",
    "KeyNorm immunises against out-of-distribution positions: YaRN on top of it does not help text that does not repeat.",
    "partly",
    holds=[
        ledger.less(
            "not repeated: NTK-aware over KeyNorm alone", POST["KeyNorm, NTK-aware"][2] - POST["KeyNorm"][2], -4, scope="the author's table"
        ),
        ledger.less("not repeated: YaRN over KeyNorm alone", POST["KeyNorm, YaRN"][2] - POST["KeyNorm"][2], 0, scope="the author's table"),
        ledger.more(
            "ours, plain text, 8 L: the loss with YaRN over that without",
            float(np.mean(e5_of(("KeyNorm", "YaRN"), 8, "plain") - e5_of("KeyNorm", 8, "plain"))),
            0.05,
            machine=True,
            scope=e5_scope,
        ),
    ],
    fails=[
        ledger.more("repeated: YaRN over KeyNorm alone", POST["KeyNorm, YaRN"][1] - POST["KeyNorm"][1], 20, scope="the author's table"),
        ledger.better(
            "ours, repeated text, 8 L: with YaRN over without",
            e5_of(("KeyNorm", "YaRN"), 8, "repeated right"),
            e5_of("KeyNorm", 8, "repeated right"),
            sigmas=3,
            scope=e5_scope,
        ),
    ],
)

# %% [markdown]
# ## The verdicts
#
# **Direct extrapolation, windows, interpolation.** Note how little the loss of plain text says: there a window is as good as ReRoPE, and forgets
# everything. And no sink has formed in a model this small, so the first tokens are not missed.

# %% tags=["hide-input"]
E1S, E5S, LIVE_S = {"machine": True, "scope": e1_scope}, {"machine": True, "scope": e5_scope}, {"machine": True, "scope": live_scope}
top, bottom = lambda x: float(np.max(x)), lambda x: float(np.min(x))  # the worst seed of what should be small, and of what should be large
of_live = lambda method, times, kind=LONG: live[str(method)][[1, 2, 4, 8].index(times), kind]
rise = lambda a, b: float(np.mean(a - b))
nb.claim(
    "C3",
    "RoPE does not extrapolate: beyond L the loss rises and far tokens are no longer used.",
    "verified",
    holds=[
        ledger.less("copying, long period, 4 L: best seed of RoPE", top(e1_of("RoPE", 4)), 0.35, **E1S),
        ledger.more("and at L the worst", bottom(e1_of("RoPE", 1)), 0.9, **E1S),
        ledger.better(
            "text: loss at 8 L against that at L", e5_of("RoPE", 8, "plain"), e5_of("RoPE", 1, "plain"), sigmas=3, scope=e5_scope
        ),
        ledger.less("live copying, long period, 4 L", top(of_live(["RoPE"], 4)), 0.5, **LIVE_S),
    ],
)
first_token = np.array(result["mass"]["RoPE"])[:, 0]
nb.claim(
    "C4",
    "A window alone does not work, one with the first tokens does; neither uses what is far.",
    "partly",
    holds=[
        ledger.less("copying, long period, 4 L: window", top(e1_of("window", 4)), 0.3, **E1S),
        ledger.less("window with sinks", top(e1_of("LM-Infinite", 4)), 0.3, **E1S),
        ledger.less("live: window, 8 L", top(of_live(["window", 1.0], 8)), 0.3, **LIVE_S),
        ledger.more(
            "copying, short period, 16 L: what is near is kept",
            bottom([e1_of("window", 16, SHORT), e1_of("LM-Infinite", 16, SHORT)]),
            0.9,
            **E1S,
        ),
    ],
    fails=[
        ledger.less(
            "text at 16 L: loss of the window alone over that with sinks",
            abs(rise(e5_of("window", 16, "plain"), e5_of("LM-Infinite", 16, "plain"))),
            0.03,
            **E5S,
        ),
        ledger.less("largest attention on token 0 over layers and seeds: no sink has formed", top(first_token), 0.05, **E5S),
        ledger.more("but not below an even share of the longest context", top(first_token), 1 / (2 * trained), **E5S),
    ],
)
nb.claim(
    "C5",
    "Interpolation without fine-tuning fails.",
    "verified",
    holds=[
        ledger.less("copying, long period, 4 L", top(e1_of("PI", 4)), 0.4, **E1S),
        ledger.less("even the short one, 8 L", top(e1_of("PI", 8, SHORT)), 0.4, **E1S),
        ledger.better(
            "text at 4 L: interpolation's loss over RoPE's", e5_of("PI", 4, "plain"), e5_of("RoPE", 4, "plain"), sigmas=2, scope=e5_scope
        ),
        ledger.less("live, long period, 4 L", top(of_live(["PI"], 4)), 0.5, **LIVE_S),
    ],
)

# %% [markdown]
# **Order, temperature, tax, gain.** The author's order holds up to ReRoPE; the leaky variants are not better here. Either temperature is worth thirty points to YaRN in copying, and
# nothing to the loss. Inside $L$ ReRoPE costs nothing, a fixed rescaling much.

# %% tags=["hide-input"]
order = ["PI", "RoPE", "dynamic NTK", "YaRN", "ReRoPE"]
nb.claim(
    "C7",
    "At 8 times L: RoPE and interpolation alike < NTK < YaRN < ReRoPE, and Leaky ReRoPE or Self-Extend a little better still.",
    "partly",
    holds=[
        *[ledger.less(f"copying, long period, 8 L: {x}, near chance (1/16)", top(e1_of(x, 8)), 0.11, **E1S) for x in ("RoPE", "PI")],
        ledger.better("NTK, its parameter chosen, over interpolation", e1_of("dynamic NTK", 8), e1_of("PI", 8), sigmas=2, scope=e1_scope),
        ledger.better("YaRN over NTK", e1_of("YaRN", 8), e1_of("dynamic NTK", 8), sigmas=3, scope=e1_scope),
        ledger.better("ReRoPE over YaRN", e1_of("ReRoPE", 8), e1_of("YaRN", 8), sigmas=2, scope=e1_scope),
        ledger.increasing("text, 8 L, minus the loss", [-e5_of(x, 8, "plain").mean() for x in order], **E5S),
        *[
            ledger.better(f"their losses: {b} over {a}", e5_of(b, 8, "plain"), e5_of(a, 8, "plain"), sigmas=2, scope=e5_scope)
            for b, a in itertools.pairwise(order[1:])
        ],
        ledger.better(
            "live, 8 L: ReRoPE over NTK", of_live(["ReRoPE", 0.25], 8), of_live(["dynamic NTK", 1.0], 8), sigmas=3, scope=live_scope
        ),
    ],
    fails=[
        ledger.less("copying: NTK at the scale it is asked for is no better than chance", top(e1_at(["dynamic NTK", 1.0], 8)), 0.11, **E1S),
        *[
            ledger.better(f"copying: ReRoPE over {name}", e1_of("ReRoPE", 8), e1_at(setting, 8), sigmas=3, scope=e1_scope)
            for name, setting in (("Leaky ReRoPE with k_min", ["Leaky ReRoPE", 0.25, 1]), ("Self-Extend", ["Self-Extend", 0.25]))
        ],
    ],
)
nb.claim(
    "C8",
    "The log-n factor at test time helps ReRoPE, and is interchangeable with YaRN's temperature.",
    "partly",
    holds=[
        ledger.better(
            "copying, 16 L, w = 3/4 L: ReRoPE with over without",
            e1_at(["ReRoPE, log n", 0.75], 16),
            e1_at(["ReRoPE", 0.75], 16),
            sigmas=2,
            scope=e1_scope,
        ),
        *[
            ledger.better(
                f"copying, 8 L, τ = 4: {method[0]} over NTK-by-parts alone",
                e1_at(method, 8),
                e1_at(["NTK-by-parts", 4], 8),
                sigmas=3,
                scope=e1_scope,
            )
            for method in (["YaRN", 4], ["NTK-by-parts, log n", 4])
        ],
        ledger.less(
            "text, 8 L: loss with either temperature on NTK-by-parts, difference",
            abs(rise(e5_at(["YaRN", 4], 8, "plain"), e5_at(["NTK-by-parts, log n", 4], 8, "plain"))),
            0.05,
            **E5S,
        ),
    ],
    fails=[
        ledger.less(
            "plain text, 16 L: gain of ReRoPE, w = L/2, by the factor",
            rise(e5_at(["ReRoPE", 0.5], 16, "plain"), e5_at(["ReRoPE, log n", 0.5], 16, "plain")),
            0.01,
            **E5S,
        ),
        ledger.close("the coefficients of ln s are not equal: 1/ln 2048 over 0.2", 1 / math.log(2048) / 0.2, 0.656, abs=0.001),
        ledger.more("at s = 16, L = 2048, YaRN's factor over log-n's", yarn_temperature(16) / log_factor(16, 2048), 1.19),
    ],
)

# %% tags=["hide-input"]
tax_of = lambda method: rise(e5_at(method, 1, "plain"), e5_at(["RoPE"], 1, "plain"))
nb.claim(
    "C9",
    "What changes the model inside L costs something there; ReRoPE costs next to nothing, Leaky ReRoPE and dynamic scales nothing.",
    "verified",
    holds=[
        ledger.less("tax of ReRoPE, w = L/2, either way", abs(tax_of(["ReRoPE", 0.5])), 0.02, **E5S),
        ledger.less("the same in copying at L, long period", abs(rise(e1_at(["ReRoPE", 0.5], 1), e1_at(["RoPE"], 1))), 0.01, **E1S),
        ledger.less("of Leaky ReRoPE with k_min", abs(tax_of(["Leaky ReRoPE", 0.5, 1])), 1e-3, **E5S),
        ledger.more("of NTK-aware, s = 16", tax_of(["NTK-aware, fixed", 16.0]), 0.01, **E5S),
        ledger.more("of YaRN, τ = 8, s = 16", tax_of(["YaRN, fixed", 8, 16.0]), 0.05, **E5S),
        ledger.more("of PI, s = 4", tax_of(["PI, fixed", 4.0]), 0.5, **E5S),
    ],
)
nb.claim(
    "C10",
    "With ReRoPE a longer context lowers the loss of the same last tokens (the author: 1.4996, 1.4267, 1.4001 at 4k, 8k, 16k for LLaMA2-13B).",
    "partly",
    holds=[
        ledger.better(
            "HWFA2, which learned to look back, read by ReRoPE: gain from L to 8 L on all test texts, seed by seed, over 0",
            np.subtract(*(np.array(e5_combined["HWFA2", "ReRoPE"]["plain"])[e5_times.index(t)].mean(0) for t in (1, 8))),
            [0.0] * 3,
            sigmas=2,
            scope=e5_scope,
        )
    ],
    fails=[
        ledger.less(
            "RoPE: gain of ReRoPE over the window at 8 L, plain text, either way",
            abs(rise(e5_of("window", 8, "plain"), e5_of("ReRoPE", 8, "plain"))),
            0.01,
            **E5S,
        ),
        ledger.less("RoPE: gain of ReRoPE from 2 L to 16 L", rise(e5_of("ReRoPE", 2, "plain"), e5_of("ReRoPE", 16, "plain")), 0, **E5S),
    ],
)

# %% [markdown]
# **NTK-aware RoPE.** Its reach, divided by that of plain RoPE, is $s'$ within 8%. The corrected scale beats the other bases at $4L$ in copying and at $8L$ on text, but pays
# at $2L$.

# %% tags=["hide-input"]
nb.claim(
    "C6",
    "NTK-aware RoPE for the scale s works up to about half of sL.",
    "partly",
    holds=[
        ledger.close("reach over s, s = 4", float(np.mean(reached[4])) / 4, 0.5, abs=0.15, **E5S),
        ledger.close("s = 8", float(np.mean(reached[8])) / 8, 0.5, abs=0.15, **E5S),
    ],
    fails=[ledger.less("s = 16: well below half", float(np.mean(reached[16])) / 16, 0.35, **E5S)],
)
nb.experiment(
    "E3",
    "The reach of a base for s is that of plain RoPE times s' of D9.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"reach for s = {s:g} over RoPE's own, against s'", float(np.mean(reached[s]) / slack), predicted[s], rel=0.08, **E5S
            )
            for s in scales[1:]
        ],
        ledger.close(
            "the exponent that fits best",
            float(np.polynomial.polynomial.polyfit(np.log(scales), np.log([np.mean(reached[s]) / slack for s in scales]), [1])[1]),
            2 * critical_index(head, trained) / (head - 2),
            abs=0.04,
            **E5S,
        ),
        ledger.close(
            "usable() of a loss that rises by 0.1 from L to 8 L, in the logarithm",
            usable([2 + 0.1 * math.log(x) / math.log(8) for x in shares]),
            8**0.5,
            rel=1e-6,
        ),
        ledger.close(
            "s' at d = 64, L = 256, s = 16", predicted[16], 16 ** (2 * 32 * math.log(256 / (2 * math.pi)) / math.log(1e4) / 62), rel=1e-9
        ),
    ],
)
others = [m for m in e1_methods if m[0] in ("dynamic NTK", "NTK-aware, fixed")]
nb.claim(
    "X5",
    "Asked for the scale s^((d−2)/(2 i_c)) instead of s, dynamic NTK-aware RoPE reaches farther, without a parameter to choose.",
    "partly",
    holds=[
        ledger.better(
            f"copying, long period, 4 L: corrected over the best of {len(others)} other bases",
            e1_at(["NTK, corrected"], 4),
            max((e1_at(m, 4) for m in others), key=np.mean),
            sigmas=3,
            scope=e1_scope,
        ),
        ledger.better(
            "text, 8 L: loss, the best of the other bases over corrected",
            min((e5_at(m, 8, "plain") for m in others), key=np.mean),
            e5_at(["NTK, corrected"], 8, "plain"),
            sigmas=2,
            scope=e5_scope,
        ),
    ],
    fails=[
        ledger.better(
            "copying, long period, 2 L: it costs, plain over corrected",
            e1_at(["dynamic NTK", 1.0], 2),
            e1_at(["NTK, corrected"], 2),
            sigmas=2,
            scope=e1_scope,
        ),
        ledger.more(
            "text: at 8 L its loss is above that at L",
            rise(e5_at(["NTK, corrected"], 8, "plain"), e5_at(["NTK, corrected"], 1, "plain")),
            TOLERATED,
            **E5S,
        ),
    ],
)

# %% [markdown]
# **Changed training.** KeyNorm keeps more beyond $L$ but gains nothing at $L$. HWFA is the one that remembers. Training with ReRoPE does extrapolate here, on text less well than
# ReRoPE added at the test. What NoPE, and random positions, did not learn, they did not learn in 500 steps.

# %% tags=["hide-input"]
nb.claim(
    "C11",
    "KeyNorm trains slightly better and extrapolates clearly better without any change at test time; normalising queries does not.",
    "partly",
    holds=[
        ledger.better(
            "text, 8 L: RoPE's loss over KeyNorm's", e5_of("RoPE", 8, "plain"), e5_of("KeyNorm", 8, "plain"), sigmas=3, scope=e5_scope
        ),
        ledger.better(
            "repeated text, 8 L: KeyNorm over RoPE",
            e5_of("KeyNorm", 8, "repeated right"),
            e5_of("RoPE", 8, "repeated right"),
            sigmas=3,
            scope=e5_scope,
        ),
        ledger.better(
            "copying, short period, 8 L: KeyNorm over RoPE", e1_of("KeyNorm", 8, SHORT), e1_of("RoPE", 8, SHORT), sigmas=2, scope=e1_scope
        ),
        ledger.better("KeyNorm over QueryNorm", e1_of("KeyNorm", 8, SHORT), e1_of("QueryNorm", 8, SHORT), sigmas=2, scope=e1_scope),
    ],
    fails=[
        ledger.less(
            "text: what it gains at L, loss with notes",
            rise(at_L["RoPE"][e5_rate["RoPE"]], at_L["KeyNorm"][e5_rate["KeyNorm"]]),
            0.02,
            **E5S,
        ),
    ],
)
nb.claim(
    "C13",
    "HWFA extrapolates as trained, but trains worse; HWFA2 trains as well as RoPE and extrapolates when its full layer is read by ReRoPE.",
    "partly",
    holds=[
        ledger.more("HWFA, copying, long period, 16 L: worst seed", bottom(e1_of("HWFA", 16)), 0.95, **E1S),
        ledger.more("HWFA, notes recalled at 16 L: worst seed", bottom(e5_of("HWFA", 16, "noted")), 0.95, **E5S),
        ledger.less(
            "HWFA, text: change of the loss from L to 16 L, either way",
            abs(rise(e5_of("HWFA", 16, "plain"), e5_of("HWFA", 1, "plain"))),
            TOLERATED,
            **E5S,
        ),
        ledger.better("HWFA's loss of plain text at L over RoPE's", e5_of("HWFA", 1, "plain"), e5_of("RoPE", 1, "plain"), scope=e5_scope),
        ledger.less("HWFA2's over RoPE's", rise(e5_of("HWFA2", 1, "plain"), e5_of("RoPE", 1, "plain")), 0.06, **E5S),
        ledger.better(
            "copying, 8 L: HWFA2 read by ReRoPE over HWFA2",
            combined["HWFA2", "ReRoPE"][e1_times.index(8), LONG],
            e1_of("HWFA2", 8),
            sigmas=3,
            scope=e1_scope,
        ),
        ledger.better(
            "repeated text, 8 L: the same",
            e5_of(("HWFA2", "ReRoPE"), 8, "repeated right"),
            e5_of("HWFA2", 8, "repeated right"),
            sigmas=3,
            scope=e5_scope,
        ),
    ],
    fails=[
        ledger.better(
            "but HWFA trains better on what it was trained for, text with notes: RoPE's loss at L over HWFA's",
            at_L["RoPE"][e5_rate["RoPE"]],
            at_L["HWFA"][e5_rate["HWFA"]],
            sigmas=3,
            scope=e5_scope,
        )
    ],
)
nb.claim(
    "C14",
    "A smaller base in training is worse and does not help to extrapolate.",
    "partly",
    holds=[
        ledger.better(
            "copying, long period, 2 L: base 10,000 over base 50", e1_of("RoPE", 2), e1_of("RoPE, other base", 2), sigmas=3, scope=e1_scope
        )
    ],
    fails=[ledger.less("but not worse at L", abs(rise(e1_of("RoPE", 1), e1_of("RoPE, other base", 1))), 0.01, **E1S)],
)
climb = lambda table: np.subtract(*(metric(table, "plain")[e5_times.index(t)] for t in (16, 1)))  # of the loss from L to 16 L (seeds)
nb.claim(
    "C15",
    "A model trained with ReRoPE does not extrapolate at all (the author's models: GAU with post-norm).",
    "partly",
    holds=[
        ledger.better(
            "text: rise of the loss from L to 16 L, ReRoPE in training and test over ReRoPE at the test alone",
            climb(e5_direct["ReRoPE"]),
            climb(result["post hoc"][e5_methods.index(["ReRoPE", 0.25])]),
            sigmas=3,
            scope=e5_scope,
        )
    ],
    fails=[
        ledger.more(
            "trained with ReRoPE, copying, long period, 8 L: worst seed", bottom(direct["ReRoPE"][e1_times.index(8), LONG]), 0.9, **E1S
        ),
        ledger.better(
            "text: the rise of RoPE over that of training with ReRoPE",
            climb(e5_direct["RoPE"]),
            climb(e5_direct["ReRoPE"]),
            sigmas=3,
            scope=e5_scope,
        ),
    ],
)
nb.claim(
    "C16",
    "Without positions a model does not extrapolate by itself, and ALiBi's bias gives up what is far.",
    "partly",
    holds=[
        ledger.less("NoPE, copying, at L: not learned in 500 steps", top(e1_of("NoPE", 1)), 0.8, **E1S),
        ledger.less("NoPE, long period, 8 L", top(e1_of("NoPE", 8)), 0.4, **E1S),
        ledger.better("ALiBi, long period: at L over 16 L", e1_of("ALiBi", 1), e1_of("ALiBi", 16), sigmas=2, scope=e1_scope),
    ],
    fails=[
        ledger.less(
            "ALiBi, text: rise of the loss from L to 16 L", rise(e5_of("ALiBi", 16, "plain"), e5_of("ALiBi", 1, "plain")), 0, **E5S
        ),
        ledger.better(
            "and it keeps more of the far than RoPE, long period, 8 L", e1_of("ALiBi", 8), e1_of("RoPE", 8), sigmas=3, scope=e1_scope
        ),
    ],
)
nb.claim(
    "C18",
    "Training with random positions is unstable.",
    "partly",
    holds=[ledger.less("copying at L, long period: best seed; not learned in 500 steps", top(e1_of("random positions", 1)), 0.8, **E1S)],
    fails=[ledger.less("spread over seeds: slow rather than unstable", float(np.std(e1_of("random positions", 1), ddof=1)), 0.1, **E1S)],
)

# %% [markdown]
# **Stay inside what training made use of.** In E1 ReRoPE works with $w=\frac34L$ and fails with $w=0.9L$, although then no distance is new. The
# control says why: the limit moves with the longest period of training. A model has to have *looked* that far with profit; having met a distance is
# not enough. (With periods up to $L-1$, $w=0.9L$ works, and $w=L$ still loses twenty points.) So D4 is necessary, not sufficient. Text, whose far characters matter less, does not care about $w$ here. That this explains the author's $w=512$ is
# a guess: distances near $L$ are rare in his training, too.

# %% tags=["hide-input"]
control_record = nb.recorded("X6")
by_period = {
    p: np.array(x) for p, x in zip(control_record.config["longest"], control_record.result["4 L"], strict=True)
}  # (windows, seeds)
control_scope = f"full, {len(control_record.config['seeds'])} seeds, L = 32"
nb.results(
    "X6",
    f"ReRoPE at 4 L, long period: accuracy by window and longest period of training, mean ± standard deviation; {control_record.provenance}",
    ["longest period / L", "at L (RoPE)", *(f"w = {w:g} L" for w in control_record.config["windows"])],
    [
        [f"{p / 32:.2f}", f"{np.mean(home):.2f}", *(f"{x.mean():.2f} ± {x.std(ddof=1):.2f}" for x in by_period[p])]
        for p, home in zip(by_period, control_record.result["at L"], strict=True)
    ],
)
nb.claim(
    "X6",
    "Fitting the trained range is not enough: ReRoPE's window must not exceed the distances that training made use of.",
    "verified",
    holds=[
        ledger.better(
            "copying, long period, 8 L, periods up to 3/4 L: w = 3/4 L over 0.9 L",
            e1_at(["ReRoPE", 0.75], 8),
            e1_at(["ReRoPE", 0.9], 8),
            sigmas=3,
            scope=e1_scope,
        ),
        *[
            ledger.better(
                f"control, periods up to {p / 32:.2f} L: w = {control_record.config['windows'][a]:g} L over {control_record.config['windows'][b]:g} L",
                by_period[p][a],
                by_period[p][b],
                sigmas=3,
                scope=control_scope,
            )
            for p, a, b in ((16, 1, 2), (24, 2, 3), (31, 3, 4))
        ],
        ledger.more(
            "control, w = 0.9 L, where it works: longest period L − 1 over 3/4 L",
            rise(by_period[31][3], by_period[24][3]),
            0.1,
            machine=True,
            scope=control_scope,
        ),
        ledger.better(
            "live, periods up to L/2: w = L/2 over 3/4 L", *(np.array(control["4 L"])[0][k] for k in (1, 2)), sigmas=3, scope=live_scope
        ),
        ledger.better(
            "live, periods up to 3/4 L, 8 L: w = L/4 over w = L",
            of_live(["ReRoPE", 0.25], 8),
            of_live(["ReRoPE", 1.0], 8),
            sigmas=3,
            scope=live_scope,
        ),
        ledger.less(
            "the control with periods up to 3/4 L against train_copier, largest difference of scores", max(control_off), 1e-6, machine=True
        ),
        ledger.less(
            "text, 8 L: loss of w = L over w = L/2, either way",
            abs(rise(e5_at(["ReRoPE", 1.0], 8, "plain"), e5_at(["ReRoPE", 0.5], 8, "plain"))),
            0.06,
            **E5S,
        ),
    ],
)
nb.claim(
    "X7",
    "YaRN's τ = 32 is not free of scale: with L = 64 no pair makes 32 turns, and τ = 4 is far better.",
    "verified",
    holds=[
        ledger.close("turns of the fastest pair at L = 64", float(positions.turns(rope_frequencies(32), 64)[0]), 10.186, abs=0.001),
        ledger.better(
            "copying, long period, 8 L: τ = 4 over τ = 32", e1_at(["YaRN", 4], 8), e1_at(["YaRN", 32], 8), sigmas=3, scope=e1_scope
        ),
        *[
            check(
                f"text with L = 256, r₀ = 40.7, where τ = 32 is within reach: loss over that of τ = 4 at 8 L, {side}",
                rise(e5_at(["YaRN", 32], 8, "plain"), e5_at(["YaRN", 4], 8, "plain")),
                bound,
                **E5S,
            )
            for side, check, bound in (("small", ledger.less, 0.1), ("but there", ledger.more, 0))
        ],
    ],
)

# %% tags=["hide-input"]
beside = {
    "RoPE": "RoPE",
    "PI": "PI",
    "dynamic NTK": "NTK-aware",
    "YaRN": "YaRN",
    "ReRoPE": "ReRoPE w128",
    "ReRoPE, log n": "ReRoPE w128, log n",
    "Leaky ReRoPE": "Leaky w128 k16, log n",
    "window": None,
    "KeyNorm": "KeyNorm",
    "HWFA": "HWFA",
    "HWFA2": "HWFA2 w64",
}
column_of = {"512": 0, "repeated": 1, "not repeated": 2}
reads = {"HWFA2": ("HWFA2", "ReRoPE")}  # as the author reads it
percent = lambda x: f"{100 * float(np.mean(x)):.1f}"
nb.results(
    "E5b",
    f"The post's accuracies at 8 L beside ours (%), and our losses in nats a character; {e5_record.provenance}",
    ["method", "post: repeated / not", "ours, text: repeated", "notes", "loss at 8 L", "ours, copying: long period"],
    [
        [
            name,
            f"{POST[key][1]:.1f} / {POST[key][2]:.1f}" if key else "–",
            percent(e5_of(reads.get(name, name), 8, "repeated right")),
            percent(e5_of(reads.get(name, name), 8, "noted")),
            f"{e5_of(reads.get(name, name), 8, 'plain').mean():.3f}",
            percent(combined[reads[name]][e1_times.index(8), LONG] if name in reads else e1_of(name, 8)),
        ]
        for name, key in beside.items()
    ],
)
both = {name: key for name, key in beside.items() if key}
rank_of = lambda x: np.argsort(np.argsort(x))
agreement = lambda ours, kind: float(np.corrcoef(rank_of(ours), rank_of([POST[key][column_of[kind]] for key in both.values()]))[0, 1])
alike = {
    "not repeated": agreement([-e5_of(reads.get(name, name), 8, "plain").mean() for name in both], "not repeated"),
    "repeated": agreement([e5_of(reads.get(name, name), 8, "repeated right").mean() for name in both], "repeated"),
}
nb.experiment(
    "E1",
    "Copying: at 4 L and a long period RoPE, window and interpolation fail, ReRoPE and HWFA succeed.",
    "verified",
    holds=[
        *[
            ledger.less(f"{name}, 4 L, long", top(e1_of(name, 4)), bound, **E1S)
            for name, bound in (("RoPE", 0.35), ("window", 0.2), ("PI", 0.3))
        ],
        *[ledger.more(f"{name}, 4 L, long", bottom(e1_of(name, 4)), bound, **E1S) for name, bound in (("ReRoPE", 0.6), ("HWFA", 0.9))],
        ledger.better("live, 4 L: ReRoPE over RoPE", of_live(["ReRoPE", 0.25], 4), of_live(["RoPE"], 4), sigmas=3, scope=live_scope),
        ledger.better(
            "live, 4 L: Leaky ReRoPE over PI", of_live(["Leaky ReRoPE", 0.25, 1], 4), of_live(["PI"], 4), sigmas=3, scope=live_scope
        ),
        ledger.better(
            "live, 4 L: YaRN, τ = 4, over NTK", of_live(["YaRN", 4], 4), of_live(["dynamic NTK", 1.0], 4), sigmas=2, scope=live_scope
        ),
    ],
)
nb.experiment(
    "E2",
    "Text: the order of the copy task in the loss of methods on RoPE; on models that copy (KeyNorm), YaRN and ReRoPE restore it beyond L.",
    "verified",
    holds=[
        ledger.better("loss at 8 L: RoPE over ReRoPE", e5_of("RoPE", 8, "plain"), e5_of("ReRoPE", 8, "plain"), sigmas=3, scope=e5_scope),
        ledger.better("YaRN over ReRoPE", e5_of("YaRN", 8, "plain"), e5_of("ReRoPE", 8, "plain"), sigmas=2, scope=e5_scope),
        *[
            ledger.better(
                f"KeyNorm, repeated text, 8 L: read by {name} over as it is",
                e5_of(("KeyNorm", name), 8, "repeated right"),
                e5_of("KeyNorm", 8, "repeated right"),
                sigmas=3,
                scope=e5_scope,
            )
            for name in ("YaRN", "ReRoPE")
        ],
        ledger.more(
            "live model has learned: loss below that of a uniform guess by",
            math.log(84) - float(np.mean(e5["direct"][0]["plain"])),
            1.0,
            **LIVE_S,
        ),
    ],
)
nb.experiment(
    "E4",
    "Architectures on text: up to 8 L the loss of HWFA, HWFA2 and ALiBi does not rise; that of KeyNorm and of training with ReRoPE does, less than RoPE's.",
    "verified",
    holds=[
        *[
            ledger.less(f"{arm}: rise from L to 8 L", rise(e5_of(arm, 8, "plain"), e5_of(arm, 1, "plain")), bound, **E5S)
            for arm, bound in (("HWFA", 0.03), ("HWFA2", 0), ("ALiBi", 0))
        ],
        *[
            ledger.more(f"{arm}: rise from L to 16 L", float(climb(e5_direct[arm]).mean()), TOLERATED, **E5S)
            for arm in ("KeyNorm", "ReRoPE")
        ],
        *[
            ledger.better(f"RoPE's rise over that of {arm}", climb(e5_direct["RoPE"]), climb(e5_direct[arm]), sigmas=3, scope=e5_scope)
            for arm in e5_arms[1:]
        ],
    ],
)
nb.experiment(
    "E5",
    "The order of ten methods at 8 L in the author's table is ours.",
    "partly",
    holds=[ledger.more(f"{name}: rank correlation", x, bound, **E5S) for (name, x), bound in zip(alike.items(), (0.75, 0.6), strict=True)],
    fails=[
        ledger.more("repeated, the author: YaRN on RoPE over KeyNorm, points", POST["YaRN"][1] - POST["KeyNorm"][1], 15),
        ledger.better(
            "ours: KeyNorm over YaRN on RoPE, which did not learn to copy text",
            e5_of("KeyNorm", 8, "repeated right"),
            e5_of("YaRN", 8, "repeated right"),
            sigmas=3,
            scope=e5_scope,
        ),
    ],
)

# %% tags=["hide-input"]
quoted = {
    "copying at 8 L, %: ReRoPE": (100 * e1_of("ReRoPE", 8).mean(), 97),
    "YaRN": (100 * e1_of("YaRN", 8).mean(), 93),
    "Leaky ReRoPE, smallest k": (100 * e1_at(["Leaky ReRoPE", 0.25, 1], 8).mean(), 84),
    "copying at 16 L, %: HWFA": (100 * e1_of("HWFA", 16).mean(), 98),
    "at 16 L: YaRN": (100 * e1_of("YaRN", 16).mean(), 47),
    "at 16 L: ReRoPE": (100 * e1_of("ReRoPE", 16).mean(), 90),
    "at 16 L: ReRoPE, log n": (100 * e1_of("ReRoPE, log n", 16).mean(), 95),
    "repeated text at 8 L, %: KeyNorm read by ReRoPE": (100 * e5_of(("KeyNorm", "ReRoPE"), 8, "repeated right").mean(), 94),
    "copying at 8 L, %: KeyNorm": (100 * e1_of("KeyNorm", 8).mean(), 10),
    "repeated text at 8 L, %: KeyNorm": (100 * e5_of("KeyNorm", 8, "repeated right").mean(), 75),
    "KeyNorm read by YaRN": (100 * e5_of(("KeyNorm", "YaRN"), 8, "repeated right").mean(), 96),
    "reach of the base for s = 4 over s, %": (100 * np.mean(reached[4]) / 4, 61),
    "for s = 16": (100 * np.mean(reached[16]) / 16, 27),
}
nb.claim(
    "X8",
    "Numbers that the text quotes are those of the records, tables typed by hand add up, and choices were made on other texts than reports.",
    "verified",
    holds=[
        *[ledger.close(name, float(value), shown, abs=0.5, **E1S) for name, (value, shown) in quoted.items()],
        *[
            ledger.less(f"copying at 8 L, {name}: chance (6.25%) but for two points", 100 * float(e1_of(name, 8).mean()), 8.25, **E1S)
            for name in ("RoPE", "PI", "window")
        ],
        *[
            ledger.close(f"sum of column {k + 1}, the author's table {t + 1}", column_sums[t][k], wanted, abs=0.004)
            for t, row in enumerate(((1284.91, 1646.46, 1096.01), (4.6044, 11.8299, 2.9164)))
            for k, wanted in enumerate(row)
        ],
        ledger.more(
            "the columns named: RoPE repeated over not", POST["RoPE"][column_of["repeated"]] - POST["RoPE"][column_of["not repeated"]], 1
        ),
        ledger.close("the worst and the best of (2, 1, 3)", 10 * bottom([2, 1, 3]) + top([2, 1, 3]), 13, rel=1e-9),
        ledger.more(
            "choices and reports, copying: smallest difference of their mean scores over methods that are not perfect",
            min(
                abs(np.mean(v) - np.mean(p[e1_times.index(8)])) for v, p in zip(e1_value, post_hoc, strict=True) if 0.2 < np.mean(v) < 0.95
            ),
            0,
            **E1S,
        ),
        ledger.more(
            "text: difference of the halves, RoPE at L",
            float(np.abs(metric(e5_direct["RoPE"], "plain")[0] - metric(e5_direct["RoPE"], "plain", CHOICE)[0]).min()),
            0,
            **E5S,
        ),
    ],
)

# %% [markdown]
# ## Beyond the post
#
# - **"Half of $sL$", measured and explained** (D9, E3): a base for $s$ serves $s'=s^{2i_c/(d-2)}$ training lengths, times the slack that plain RoPE has. The
#   corrected scale (X5) needs no parameter and mostly beats the bases we tried, but does not reach $8L$ without loss.
# - **$\tau$ has a scale** (X7): it counts turns, so it must be read against $r_0=L/2\pi$. For short training lengths take $\tau$ well below it.
# - **What bounds the window** (X6): not the range of distances that were seen, but of those that were of use.
# - **Code and paper differ** (X1): "YaRN" in the libraries is linear in the index of a pair, in the paper in its turns.
#
# Later work went on along both lines. LongRoPE {cite}`ding2024longrope` searches one factor for every pair; Dual Chunk Attention {cite}`an2024dual` is a ReRoPE
# with exact distances inside chunks; and local layers with RoPE under global layers without positions, HWFA's idea, returned in large models
# {cite}`yang2025nope`.
#
# ## What does not hold
#
# Two of these are limits of our small models rather than of the post: C4 and C10.
#
# - **"A window alone fails"** (C4) presupposes that the model has put a sink on its first tokens, as Llama 2 has (StreamingLLM, table 1, from memory: perplexity
#   5158 with a window of 1024, 5.40 with four sinks). Ours has not, so the sinks are not missed. What always holds: a window forgets.
# - **"NTK works up to half"** (C6): at $s=4$ it is more (61%), at $s=16$ a quarter (27%): a power of $s$, near that of D9.
# - **"Training with ReRoPE does not extrapolate"** (C15): on copies ours does as well as with ReRoPE at the test alone, on text worse, but far
#   better than RoPE. The author's models are GAU with Post-Norm; why they fail altogether remains open.
# - **"KeyNorm immunises"** (C12): the loss rises less. In the copy task it does not use what is far (10% at $8L$), and YaRN on top lifts repeated text in the
#   author's table from 61% to 84%, in ours from 75% to 96%.
# - **"HWFA trains worse"** (C13): on plain text, yes; but it alone learned to recall the notes with every seed.
# - **"Longer context, lower loss"** (C10) needs a model that has learned to look back. Our RoPE models have not, and gain nothing beyond $2L$; HWFA2 read by
#   ReRoPE gains a little. This is a warning about perplexity.
# - The KeyNorm post's formula mixes its indices ($p(j|i)$ beside $s(n|m)$), and its table has 48.95 in one place and 48.39 in another for the same
#   entry (CosA with log n).

# %% [markdown]
# ## Exercises
#
# 1. Your model was trained on 8,192 tokens and is to read 131,072 by Leaky ReRoPE with $w=2048$. Which $k$ do you need, and what is the farthest distance
#    if you take ReRoPE instead? What share of blocks of 128 needs both passes?
# 2. YaRN's $\tau=32$ was chosen for Llama ($d=128$, $L=2048$ or 4096). What does it do to a model with $L=64$ and $d=32$? Which $\tau$ would leave the fastest
#    quarter of its pairs alone?
# 3. Write Self-Extend's distance for $G=1$ and for $G\to\infty$. Which methods are these?
# 4. Which scale must one ask NTK-aware RoPE for, to serve 32,768 tokens with Llama 2?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $k\ge(131071-2048)/(8191-2048)=21.003$; with ReRoPE the farthest distance is 2048. 1,008 of 524,800 blocks, 0.2%.
# ```

# %% tags=["hide-cell"]
print(f"k = {least_leak(131072, 8192, 2048):.2f}, farthest {float(positions.rerope_distance(torch.tensor([131071]), 2048)[0]):.0f}")
print("mixed blocks:", blocks(131072, 2048, 128))

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Even the fastest pair makes only 10.2 turns, so with $\tau=32$ no pair is left alone, and even the fastest gets $\gamma=0.30$: at $s=8$, 38% of its own frequency. The four fastest of 16
# pairs make at least 1.8 turns: $\tau=1.8$ leaves them alone.
# ```

# %% tags=["hide-cell"]
few = positions.turns(rope_frequencies(32), 64)
print("turns:", [round(float(x), 2) for x in few[:6]])
print("fastest, τ = 32: γ =", round(float((few[0] - 1) / 31), 3))
print("its factor at s = 8:", round(float(ntk_by_parts_frequencies(32, 8.0, 64)[0]), 3))

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# $G=1$ is plain RoPE. For $G>n$ all the floors are 0 and $\delta=w$ beyond $w$: ReRoPE.
# ```

# %% tags=["hide-cell"]
i40 = torch.arange(40)
extend = lambda G: positions.self_extend_distance(i40[:, None], i40, 6, G).tril()
print("RoPE:", torch.equal(extend(1), (i40[:, None] - i40).tril()))
print("ReRoPE:", torch.equal(extend(100), (i40[:, None] - i40).clamp_max(6).tril()))

# %% [markdown]
# ```{admonition} Solution 4
# :class: dropdown
# $s=8$ needs the scale $8^{126/(2\cdot45.03)}=18.3$, a base of about 192,000 instead of 10,000.
# ```

# %% tags=["hide-cell"]
asked_for = corrected_scale(8, 4096, 128)
print(f"scale {asked_for:.2f}, base {positions.ntk_base(1e4, asked_for, 128):,.0f}, reach {reach(asked_for, 4096):.2f} L")

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2024extrapolation`; the earlier ones that it reviews: {cite}`su2023rerope`, {cite}`su2023hwfa2`, {cite}`su2023keynorm`,
# {cite}`su2021entropy`. RoPE: {cite}`su2021roformer`. Frequencies: {cite}`chen2023pi`, {cite}`bloc972023ntk`, {cite}`emozilla2023dynamic`,
# {cite}`peng2023yarn`, {cite}`liu2023scaling`, {cite}`xiong2023effective`, {cite}`roziere2023codellama`, {cite}`chen2023clex`,
# {cite}`ding2024longrope`. Windows, sinks, distances: {cite}`han2023lminfinite`, {cite}`xiao2023streaming`, {cite}`jin2024selfextend`,
# {cite}`an2024dual`. Training: {cite}`press2021alibi`, {cite}`kazemnejad2023nope`, {cite}`ruoss2023randomized`, {cite}`zhu2023pose`,
# {cite}`zhu2023coca`, {cite}`yang2025nope`.
