# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A simple look at multimodal position encoding: RoPE-1D, RoPE-2D and RoPE-Tie
#
# [Transformer升级之路：17、多模态位置编码的简单思考](https://kexue.fm/archives/10040) · 2024-03-29 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/position/multimodal-rope.ipynb)
#
# **The point.** A text token has one coordinate, a patch of a picture two; the post fits RoPE to both by linear equations. Text on the diagonal $(n,n)$, with the frequencies shared out between rows and columns,
# *is* the RoPE of a language model. A grid of patches can be scaled (RoPE-Tie) to lie symmetrically between the texts around it. All of this holds, but the step to the patch above then depends on the width: a trained
# layer finds that patch in 7 to 46% of the cases at three sizes that it never saw. *Shifting* the grid instead (RoPE-TV, the author's later proposal) keeps steps of one and finds it in 91 to 98%; now the gap between text and
# picture depends on the size. And to give each axis one contiguous block of *frequencies* costs a single head a factor of thousands in the margin by which it prefers the right patch.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.multimodal import (
    along_the_text,
    apply_axis_rope,
    axis_angles,
    grid,
    interleaved_axes,
    interleaved_mrope_axes,
    mrope,
    rope_1d,
    rope_2d,
    rope_tie,
    rope_tv,
    section_axes,
)
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from kexue_nb.positions import rope_frequencies, rotate_pairs

# %%
nb = kexue_nb.notebook("multimodal-rope")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six panels with the plane of positions, x the row and y the column, for three text tokens, a picture of three rows and four columns, and three more text tokens. Flattened: all fifteen plus three on one diagonal. Page layout: texts are horizontal rows above and below the grid. RoPE-Tie: text on the diagonal, a wide-meshed grid centred between the texts. RoPE-TV: text on the diagonal, a grid of unit mesh in the middle of a gap of thirteen. M-RoPE: a grid of unit mesh right after the text, the gap after it longer in rows than in columns."}}
parade = [3, (3, 4), 3]
chosen = {
    "flattened": rope_1d(parade).expand(-1, 2),
    "page layout": rope_2d(parade),
    "RoPE-Tie": rope_tie(parade),
    "RoPE-Tie, wh tokens": rope_tie(parade, "equivalent"),
    "RoPE-TV": rope_tv(parade),
    "M-RoPE (rows and columns)": mrope(parade)[:, 1:],
}
figure, panels = plt.subplots(2, 3, figsize=(8.6, 5.6))
for axes, (name, at) in zip(panels.flat, chosen.items(), strict=True):
    text = torch.cat([at[:3], at[-3:]])
    axes.plot(text[:, 1], text[:, 0], "s", color=BLACK, ms=5, label="text")
    axes.plot(at[3:-3, 1], at[3:-3, 0], "o", color=BLUE, ms=4.5, label="patch")
    for start, end in ((at[2], at[3]), (at[-4], at[-3])):
        style = {"arrowstyle": "->", "color": ORANGE, "lw": 1.8, "shrinkA": 2, "shrinkB": 2}
        axes.annotate("", (end[1], end[0]), (start[1], start[0]), arrowprops=style)
    top = float(at.max()) + 1.5
    axes.set(xlim=(-1.5, top), ylim=(top, -1.5), aspect="equal", xlabel="y (column)", ylabel="x (row)")
    axes.set_title(name, fontsize=10)
panels[0, 0].legend(fontsize=8, loc="lower left")
figure.suptitle(
    "The gaps around a picture of 3 × 4 patches (arrows) differ on a page and in M-RoPE", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## The question
#
# A token of text has one coordinate, its place in the text. A patch of a picture has two. What should rotary positions {cite}`su2021roformer` do with
# a sequence that holds both? Fuyu, DeepSeek-VL and Emu2 flatten the picture into a row-major list and go on counting; the post {cite}`su2024ropetie`
# looks for something that keeps the plane and yet, on text alone, *is* the RoPE of the language model one starts from. It turns the design into a
# handful of linear equations. That is the part worth keeping: one can check what any scheme keeps and what it gives up, those that came later too.
#
# Notation. A picture has $h$ rows and $w$ columns of patches. $x$ is the **row**, $y$ the **column**; patch $(i,j)$ has $i=1..h$, $j=1..w$. $L$ is the
# position of the last text token before the picture, $K$ that of the first one after it. $s$, $t$ are the steps of the grid (rows, columns), $\beta_1$,
# $\beta_2$ its offsets, $e$ the *entry gap*. $\theta_p=b^{-2p/d}$, $p=0..d/2-1$, are the frequencies of a head of size $d$, $\mathcal R_n$ is the rotation at
# position $n$ as in [the notebook on RoPE's base](rope-base.ipynb), and $\mathcal R_{x,y}$ the one at a position with two coordinates. Which coordinate turns pair $p$ is the *allocation*
# $a(p)$, which we write as a list of axes. A head of size $d$ has $d/2$ pairs.
#
# How such a sequence should be *learned* is the question of [multimodal autoregression](../representation/multimodal-autoregression.ipynb); here only positions are at stake. What happens
# at distances that training never saw is the subject of [length extrapolation](length-extrapolation.ipynb).
#
# ## One axis, two axes

# %% [markdown]
# ### RoPE-1D
#
# $\mathcal R_n$ turns pair $p$ by $n\theta_p$. Since $\mathcal R_m^\top\mathcal R_n=\mathcal R_{n-m}$, only distances count, and adding a constant to all
# positions changes nothing:
#
# $$(\mathcal R_mq)^\top(\mathcal R_nk)=q^\top\mathcal R_{n-m}k .$$
#
# On a computer the second statement needs care: the product $n\theta_p$ is rounded, and in float32 its error grows with $n$.


# %%
def rotation(angles):
    """Block diagonal rotation by a list of angles (SymPy)."""
    return sp.diag(*[sp.Matrix([[sp.cos(a), -sp.sin(a)], [sp.sin(a), sp.cos(a)]]) for a in angles])


m, n, x, y, u, v = sp.symbols("m n x y u v", real=True)
th = sp.symbols("theta0:3", positive=True)
theta128 = rope_frequencies(128)
vectors = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shifted_logits(c, dtype):
    """Logits of 16 queries and keys at positions c .. c + 15, the angles computed in ``dtype``."""
    angles = (torch.arange(16) + c).to(dtype)[:, None] * theta128.to(dtype)
    q, k = (rotate_pairs(t.to(dtype), angles.cos(), angles.sin()) for t in vectors)
    return (q @ k.T).double()


by_phase = torch.view_as_complex(vectors.unflatten(-1, (64, 2)))
apart = torch.arange(16)[:, None] - torch.arange(16)  # m - n
wanted = torch.einsum(
    "mp,np,mnp->mn", by_phase[0], by_phase[1].conj(), torch.polar(torch.ones(1).double(), apart[..., None] * theta128)
).real
entry_gap, widest = lambda a, b: float((a - b).abs().max()), lambda *gaps: max(gaps)
moved = {(c, t): entry_gap(shifted_logits(c, t), wanted) for c in (1000, 100_000) for t in (torch.float32, torch.float64)}

# %% tags=["hide-input"]
nb.derivation(
    "D1",
    "RoPE-1D sees distances only, and a shift of all positions changes no logit, up to the rounding of the angle.",
    sym.identity(
        "R_mᵀ R_n = R_{n−m}, d = 4",
        rotation([m * t for t in th[:2]]).T * rotation([n * t for t in th[:2]]),
        rotation([(n - m) * t for t in th[:2]]),
    ),
    ledger.close(
        "logits against complex phases of m − n, no shift, d = 128",
        float((shifted_logits(0, torch.float64) - wanted).abs().max()),
        0,
        abs=1e-11,
        machine=True,
    ),
    ledger.close("control: the largest gap of (1, 1) and (1, 3)", entry_gap(torch.ones(2), torch.tensor([1.0, 3.0])), 2, rel=1e-9),
    ledger.close("control: the widest of 0, 2 and 1", widest(0, 2, 1), 2, rel=1e-9),
    ledger.less("shift 1000, float64 angles", moved[1000, torch.float64], 1e-10, machine=True),
    ledger.more("shift 1000, float32 angles", moved[1000, torch.float32], 1e-4, machine=True),
    ledger.more("shift 100,000, float32 angles", moved[100_000, torch.float32], 5e-3, machine=True),
)

# %% [markdown]
# ### RoPE-2D
#
# With two coordinates each gets pairs of its own. For two pairs,
#
# $$\mathcal R_{x,y}=\begin{pmatrix}\mathcal R_x&0\\0&\mathcal R_y\end{pmatrix},\qquad\mathcal R_{x,y}^\top\mathcal R_{x',y'}=\mathcal R_{x'-x,\,y'-y},$$
#
# and so on for $k$ coordinates in $k$ parts. In code the position of a token is a row of coordinates, and pair $p$ picks the one that $a(p)$ names.

# %%
two, three = [x * th[0], y * th[1]], [x * th[0], y * th[1], n * th[2]]
there = {x: sp.Symbol("x2"), y: sp.Symbol("y2"), n: sp.Symbol("n2")}
difference = {a: b - a for a, b in there.items()}
moved_to = lambda angles, where: [a.subs(where, simultaneous=True) for a in angles]
spot, axes_of = torch.tensor([[3.0, -1.5]]), torch.tensor([1, 0])
by_matrix = rotation([spot[0, 1].item() * 0.7, spot[0, 0].item() * 0.2]) * sp.Matrix(vectors[0, 0, :4].tolist())
turned = apply_axis_rope(vectors[0, :1, :4], spot, torch.tensor([0.7, 0.2], dtype=torch.float64), axes_of)[0]
at_numbers = dict(zip((x, y, n, *th), (3, -1.5, 2, 0.7, 0.2, 0.4), strict=True))
angles = axis_angles(torch.tensor([[3.0, -1.5, 2.0]]), torch.tensor([0.7, 0.2, 0.4], dtype=torch.float64), torch.arange(3))[0]
nb.derivation(
    "D2",
    "RoPE-2D sees the difference of the coordinates, each in its own block; the same holds for k axes in k parts.",
    sym.identity("two axes", rotation(two).T * rotation(moved_to(two, there)), rotation(moved_to(two, difference))),
    sym.identity("three axes", rotation(three).T * rotation(moved_to(three, there)), rotation(moved_to(three, difference))),
    *[
        ledger.close(f"apply_axis_rope against the matrix, coordinate {i}", float(turned[i]), float(by_matrix[i]), rel=1e-12)
        for i in range(4)
    ],
    *[
        ledger.close(f"axis_angles against angle {i} of {len(formula)}", float(angles[i]), float(angle.subs(at_numbers)), rel=1e-12)
        for formula in (two, three)
        for i, angle in enumerate(formula)
    ],
)

# %% [markdown]
# ## What flattening loses, and what a page loses
#
# **Flattened**, patch $(i,j)$ stands at $L+(i-1)w+j$. The right neighbour is one step away, the lower neighbour $w$ steps: the number depends on the
# picture. No cleverer order repairs it. An order of the patches in which all neighbours are at most $B$ apart has bandwidth $B$, and the bandwidth of a grid is $\min(h,w)$:
# even the best order of a $3\times3$ picture leaves two neighbours 3 apart.


# %%
def bandwidth(h, w):
    """The smallest, over all orders of the patches, largest distance of two neighbours."""
    orders = np.array(list(itertools.permutations(range(h * w)))).reshape(-1, h, w)
    down, right = (np.abs(np.diff(orders, axis=axis)).reshape(len(orders), -1) for axis in (1, 2))
    return int(np.concatenate([down, right], 1).max(1).min())


sizes = [(h, w) for h in range(2, 8) for w in range(2, 8)]
flat = {size: rope_1d([2, size, 1])[2:-1].view(*size) for size in sizes}
nb.derivation(
    "D3",
    "In a flattened picture right neighbours are 1 apart and lower neighbours w; every order of the patches leaves some neighbours min(h, w) apart.",
    sym.enumeration(
        "sum of the distances to the lower neighbours", sizes, lambda s: int(flat[s].diff(dim=0).sum()), lambda s: s[1] * s[1] * (s[0] - 1)
    ),
    sym.enumeration(
        "number of right neighbours at distance 1", sizes, lambda s: int((flat[s].diff(dim=1) == 1).sum()), lambda s: s[0] * (s[1] - 1)
    ),
    sym.enumeration("bandwidth by brute force", [(1, 4), (2, 2), (2, 3), (2, 4), (3, 3)], lambda s: bandwidth(*s), min),
)

# %% tags=["hide-input"]
spacings = lambda size, dim: sorted({float(d) for d in flat[size].diff(dim=dim).flatten()})
nb.claim(
    "C8",
    "Flattened, horizontal neighbours stay together and vertical ones are w apart.",
    "verified",
    holds=[
        sym.enumeration("distances that occur between vertical neighbours", sizes, lambda s: str(spacings(s, 0)), lambda s: f"[{s[1]}.0]"),
        ledger.close("the same between horizontal neighbours, 7 × 7", max(spacings((7, 7), 1)), 1, abs=1e-9),
    ],
)

# %% [markdown]
# **A page.** The post's second attempt is to lay everything out in the plane: a text is one line of the page, a picture takes $h$ lines. The plane is
# kept. But the tokens of a text now share $x$ and differ in $y$ only, so half of the pairs do not see them, and a language model that was trained with
# RoPE-1D finds its text changed.

# %%
tokens = torch.arange(16.0)
ordinary = shifted_logits(0, torch.float64)
logits = lambda at, theta, allocation: (lambda q, k: q @ k.T)(*(apply_axis_rope(t, at, theta, allocation) for t in vectors))
half_theta = rope_frequencies(64).repeat(2)  # RoPE-2D as in vision: both axes have the frequencies of a head of half the size
halves = section_axes([32, 32])
paired_theta = rope_frequencies(64).repeat_interleave(2)  # the same frequencies, the two axes side by side: close to those of RoPE-1D
on_page = logits(rope_2d([16]), theta128, interleaved_axes(64, 2))
on_diagonal_shared = logits(tokens[:, None].expand(-1, 2), half_theta, halves)
on_diagonal_paired = logits(tokens[:, None].expand(-1, 2), paired_theta, interleaved_axes(64, 2))


def by_phases(exponents):
    """Logits of 16 text tokens when pair p turns by 10^(-4 e_p) radians per token, as complex phases of m − n."""
    angles = apart[..., None] * 10 ** (-4 * torch.tensor(exponents, dtype=torch.float64))
    return torch.einsum("mp,np,mnp->mn", by_phase[0], by_phase[1].conj(), torch.polar(torch.ones(1).double(), angles)).real


changed_by = lambda exponents: entry_gap(by_phases(exponents), ordinary)
change_halves, change_paired = changed_by([(p % 32) / 32 for p in range(64)]), changed_by([(p // 2) / 32 for p in range(64)])
page_angles = axis_angles(rope_2d([16]), theta128, interleaved_axes(64, 2))
# %% tags=["hide-input"]
nb.derivation(
    "D4",
    "On a page the tokens of a text differ in one coordinate only: half of the pairs do not see their order, and the logits are not those of RoPE-1D.",
    sym.enumeration(
        "pairs that tell tokens 0 and 1 of a text apart, by head size",
        [8, 32, 128],
        lambda d: int((axis_angles(rope_2d([2]), rope_frequencies(d), interleaved_axes(d // 2, 2)).diff(dim=0) != 0).sum()),
        lambda d: d // 4,
    ),
    ledger.more(
        "largest change of a logit against RoPE-1D, 16 tokens, d = 128",
        float((on_page - ordinary).abs().max()),
        10,
        machine=True,
        scope="one draw",
    ),
    ledger.close(
        "text at (n, n), frequencies repeated, one axis after the other, against phases",
        float((on_diagonal_shared - ordinary).abs().max()),
        change_halves,
        rel=1e-6,
        machine=True,
        scope="one draw",
    ),
    ledger.close(
        "the same, axes side by side",
        float((on_diagonal_paired - ordinary).abs().max()),
        change_paired,
        rel=1e-6,
        machine=True,
        scope="one draw",
    ),
    ledger.more("the change one after the other over that side by side", change_halves / change_paired, 2, machine=True, scope="one draw"),
)

# %% [markdown]
# ## Three equations
#
# ### Compatibility
#
# Give text token $n$ the diagonal position $(n,n)$, and let the axes *share out* the frequencies of RoPE-1D, pair $p$ going to axis $a(p)$. Then on text every
# pair turns by $n\theta_p$, whichever axis it belongs to:
#
# $$\mathcal R_{n,n}=\mathcal R_n\quad\text{for every allocation }a .$$
#
# The standard RoPE-2D of vision models does not have this property: there both axes carry the *same* $d/4$ frequencies. (How far the logits move depends on the order: one axis after the other takes the second half of
# the pairs back to the fast frequencies; side by side every pair stays near its old one, and the change is about a third of that, D4.) The proof is one line,
# and it leaves the allocation free. The post does not say which one it means; we take even pairs for rows and odd ones for columns, and shall see
# that the choice matters.

# %%
q4, k4 = sp.Matrix(sp.symbols("q0:4")), sp.Matrix(sp.symbols("k0:4"))


def score(at, there, allocation):
    """(R q)·(R k), d = 4, for a query at (x, y) = ``at`` and a key at ``there``."""
    turn = lambda where: rotation([where[axis] * t for axis, t in zip(allocation, th, strict=False)])
    return ((turn(at) * q4).T * (turn(there) * k4))[0]


def agreeing(d, theta, allocation):
    """In how many cells of the table of angles, 64 text tokens on the diagonal by d/2 pairs, the angle is that of RoPE-1D, to the bit."""
    n = torch.arange(64.0, dtype=torch.float64)
    return int((axis_angles(n[:, None].expand(-1, 2), theta, allocation) == n[:, None] * rope_frequencies(d)).sum())


draws = torch.Generator().manual_seed(3)
partition = lambda d: torch.cat([torch.randint(2, (d // 2 - 1,), generator=draws), torch.tensor([1])])
one_line = (q4.T * rotation([(n - m) * t for t in th[:2]]) * k4)[0]
# %% tags=["hide-input"]
nb.derivation(
    "D5",
    "With text on the diagonal and the frequencies of RoPE-1D shared out, any allocation turns text exactly as RoPE-1D does; with repeated frequencies it does not.",
    *[
        sym.identity(f"score at (m, m) and (n, n), d = 4, allocation {a}", score((m, m), (n, n), a), one_line)
        for a in itertools.product((0, 1), repeat=2)
    ],
    sym.enumeration(
        "equal cells for random allocations, by d",
        range(8, 136, 8),
        lambda d: agreeing(d, rope_frequencies(d), partition(d)),
        lambda d: 32 * d,
    ),
    sym.enumeration(
        "equal cells with repeated frequencies",
        range(8, 136, 8),
        lambda d: agreeing(d, rope_frequencies(d // 2).repeat(2), section_axes([d // 4] * 2)),
        lambda d: 64 + d // 2 - 1,
    ),
)

# %% tags=["hide-input"]
text_only = {
    "RoPE-Tie": logits(rope_tie([16]), theta128, interleaved_axes(64, 2)),
    "RoPE-TV": logits(rope_tv([16]), theta128, partition(128)),
    "M-RoPE": logits(mrope([16]), theta128, section_axes([16, 24, 24])),
}
nb.claim(
    "C2",
    "On text alone RoPE-Tie gives the logits of RoPE-1D; a page layout and RoPE-2D with repeated frequencies do not.",
    "verified",
    holds=[
        *[
            ledger.close(
                f"{name}: largest difference of a logit",
                float((t - logits(rope_1d([16]).expand(-1, 2), theta128, halves)).abs().max()),
                0,
                abs=1e-300,
            )
            for name, t in text_only.items()
        ],
        *[
            ledger.close(f"{name}: against complex phases of m − n", float((t - wanted).abs().max()), 0, abs=1e-11, machine=True)
            for name, t in text_only.items()
        ],
        ledger.more("page layout", float((on_page - wanted).abs().max()), 10, machine=True),
        ledger.more("repeated frequencies, one axis after the other", float((on_diagonal_shared - wanted).abs().max()), 3, machine=True),
        ledger.more("repeated frequencies, axes side by side", float((on_diagonal_paired - wanted).abs().max()), 3, machine=True),
    ],
)

# %% [markdown]
# ### Symmetry
#
# Put the patches on a grid of steps $s$ and $t$, $(L+si,\,L+tj)$, and the next text token at $(K,K)$. The gap before the picture is $(s,t)$; the gap
# after it is $(K-L-hs,\;K-L-wt)$. A picture should be as far from the text before as from the text after:
#
# $$(h+1)\,s=(w+1)\,t=K-L .$$
#
# Equivalently, the reflection $p\mapsto(L+K,L+K)-p$ maps the whole arrangement to itself, patch $(i,j)$ to $(h+1-i,w+1-j)$, the last text token to the first.
# With $s=t=1$ this is possible for square pictures only.

# %%
L, K = sp.symbols("L K", real=True)
s, t, h, w = sp.symbols("s t h w", positive=True)
patch = lambda i, j: sp.Matrix([L + s * i, L + t * j])
before, after = patch(1, 1) - sp.Matrix([L, L]), sp.Matrix([K, K]) - patch(h, w)
symmetric = {s: (K - L) / (h + 1), t: (K - L) / (w + 1)}
unequal = before - after
i, j = sp.symbols("i j", positive=True)
mirrored = sp.Matrix([L + K, L + K]) - patch(i, j)
nb.derivation(
    "D6",
    "The gaps before and after a picture are equal exactly if (h + 1)s = (w + 1)t = K − L; then the arrangement is its own mirror image.",
    *[sym.solves(f"equal gaps, {name}", unequal[axis], name, symmetric[name]) for axis, name in enumerate((s, t))],
    sym.identity("patch (i, j) goes to (h+1−i, w+1−j)", mirrored.subs(symmetric), patch(h + 1 - i, w + 1 - j).subs(symmetric)),
    sym.solves("s = t = 1: both conditions at once", (unequal[0] - unequal[1]).subs({s: 1, t: 1}), h, w),
)


# %%
def is_mirrored(at):
    """Whether a picture between two text tokens, positions (hw + 2, 2), is its own mirror image, patch by patch."""
    return bool(torch.allclose(at.flip(0), at[0] + at[-1] - at, rtol=0, atol=1e-9))


small = list(itertools.product(range(1, 13), range(1, 13)))
between = lambda scheme, size: scheme([1, size, 1])
SYMMETRIC = {
    "Tie": rope_tie,
    "Tie, smallest": lambda s: rope_tie(s, "smallest"),
    "Tie, equivalent": lambda s: rope_tie(s, "equivalent"),
    "TV": rope_tv,
}
unscaled = lambda segments: mrope(segments)[:, 1:]  # s = t = 1, K − L = max(h, w) + 1
# %% tags=["hide-input"]
nb.claim(
    "C3",
    "Without scaling, s = t = 1, symmetry fails unless w = h, wherever the next text token is put.",
    "verified",
    holds=[
        sym.enumeration(
            "K − L that would serve for the rows less that for the columns",
            small,
            lambda a: int(between(unscaled, a)[-2, 0] - between(unscaled, a)[-2, 1]),
            lambda a: a[0] - a[1],
        ),
        sym.enumeration(
            "sizes up to 12 × 12 that are mirrored", small, lambda a: int(is_mirrored(between(unscaled, a))), lambda a: int(a[0] == a[1])
        ),
        *[
            ledger.close(f"{name}: sizes up to 12 × 12 that are mirrored", sum(is_mirrored(between(f, a)) for a in small), 144, abs=0.5)
            for name, f in SYMMETRIC.items()
        ],
    ],
)

# %% [markdown]
# ### Integers
#
# Which $K$? Positive integers $s,t$ with $(h+1)s=(w+1)t$ are the multiples of one smallest pair: with $g=\gcd(h+1,w+1)$,
#
# $$(s,t)=k\Bigl(\frac{w+1}g,\frac{h+1}g\Bigr),\qquad K-L=k\,\operatorname{lcm}(h+1,w+1),\qquad k=1,2,\dots$$
#
# The post takes $k=g$: $s=w+1$, $t=h+1$, $K-L=(w+1)(h+1)$. As a formula this is the simplest, as a number it can be far from the smallest: a square picture needs no scaling at all,
# and for $24\times24$ patches $K-L$ is 625 where 25 would do.

# %%
sides = list(itertools.product(range(1, 15), range(1, 15)))


def integer_steps(h, w, top=240):
    """All integer pairs (s, t) with (h + 1) s = (w + 1) t <= top, by trial."""
    return [(s, K // (w + 1)) for s in range(1, top // (h + 1) + 1) for K in [(h + 1) * s] if K % (w + 1) == 0]


first_patch = lambda a, step: tuple(int(x) for x in rope_tie([(*a,)], step)[0] + 1)  # (s, t), as L = −1
nb.derivation(
    "D7",
    "Integer steps are the multiples of ((w+1)/g, (h+1)/g); the post's choice (w+1, h+1) is the g-th of them, and the smallest only if h+1 and w+1 are coprime.",
    sym.enumeration("smallest pair by trial", sides, lambda a: integer_steps(*a)[0], lambda a: first_patch(a, "smallest")),
    sym.enumeration(
        "how many pairs with K − L ≤ 240", sides, lambda a: len(integer_steps(*a)), lambda a: 240 // math.lcm(a[0] + 1, a[1] + 1)
    ),
    sym.enumeration(
        "the post's pair is which, counted from 1",
        sides,
        lambda a: integer_steps(*a).index(first_patch(a, "product")) + 1,
        lambda a: math.gcd(a[0] + 1, a[1] + 1),
    ),
)

# %% tags=["hide-input"]
example = rope_tie([1, (3, 4), 1])
nb.claim(
    "C4",
    "The post's integers satisfy the symmetry; for h = 3, w = 4 they are s = 5, t = 4, K = L + 20, a picture as long as 19 tokens (it has 12).",
    "verified",
    holds=[
        sym.enumeration("(s, t, K − L) at 3 × 4", range(3), lambda i: int([*example[1], example[-1, 0]][i]), lambda i: (5, 4, 20)[i]),
        sym.enumeration(
            "gap before and after, rows and columns",
            range(2),
            lambda i: (float(example[1, i]).hex(), float(example[-1, i] - example[-2, i]).hex()),
            lambda i: (float((5, 4)[i]).hex(),) * 2,
        ),
        sym.enumeration(
            "text tokens it is worth, sizes up to 12 × 12",
            small,
            lambda a: int(between(rope_tie, a)[-1, 0]) - 1,
            lambda a: (a[0] + 1) * (a[1] + 1) - 1,
        ),
    ],
)
nb.claim(
    "C5",
    "s = w + 1, t = h + 1 is the simplest choice that keeps all ids integer.",
    "partly",
    holds=[
        sym.enumeration(
            "it is integer: s, t up to 12 × 12",
            small,
            lambda a: str((between(rope_tie, a)[1]).tolist()),
            lambda a: f"[{a[1] + 1}.0, {a[0] + 1}.0]",
        )
    ],
    fails=[
        ledger.less(
            "K − L of the smallest choice at 3 × 5",
            float(between(SYMMETRIC["Tie, smallest"], (3, 5))[-1, 0]),
            float(between(rope_tie, (3, 5))[-1, 0]),
        ),
        ledger.close("the smallest at 24 × 24", float(between(SYMMETRIC["Tie, smallest"], (24, 24))[-1, 0]), 25, abs=0.5),
        ledger.close("the post's at 24 × 24", float(between(rope_tie, (24, 24))[-1, 0]), 625, abs=0.5),
    ],
)

# %% [markdown]
# ### Equivalence, and why it has no integers
#
# If a picture is to count as its $wh$ tokens, $K-L=wh+1$ joins the equations, and everything is fixed:
#
# $$s=\frac{wh+1}{h+1},\qquad t=\frac{wh+1}{w+1}.$$
#
# The post offers this for those who do not mind fractions. One might hope for sizes with integers. Because of $wh+1=w(h+1)-(w-1)$, $s$ is an integer exactly
# if $h+1$ divides $w-1$, and $t$ exactly if $w+1$ divides $h-1$. The first needs $w=1$ or $w\ge h+2$, the second $h=1$ or $h\ge w+2$: both hold only for
# strips, $w=1$ with $h$ odd or $h=1$ with $w$ odd. **For a proper picture integer ids and equivalence exclude each other**, as long as one only scales.

# %%
as_long = unequal.subs(K, L + w * h + 1)
up_to_59 = list(itertools.product(range(1, 60), range(1, 60)))
both_integer = lambda a: int((a[0] * a[1] + 1) % (a[0] + 1) == 0 and (a[0] * a[1] + 1) % (a[1] + 1) == 0)
strip = lambda a: int((a[1] == 1 and a[0] % 2 == 1) or (a[0] == 1 and a[1] % 2 == 1))
nb.derivation(
    "D8",
    "Equivalence asks for s = (wh+1)/(h+1), t = (wh+1)/(w+1); both are integers for strips of odd length only.",
    sym.solves("s", as_long[0], s, (w * h + 1) / (h + 1)),
    sym.solves("t", as_long[1], t, (w * h + 1) / (w + 1)),
    sym.identity("division with remainder", (w * h + 1) / (h + 1), w - (w - 1) / (h + 1)),
    sym.enumeration("integer sizes below 60 × 60", up_to_59, both_integer, strip),
    ledger.close("how many there are", sum(map(both_integer, up_to_59)), 59, abs=0.5),
)

# %% tags=["hide-input"]
equal = {a: between(SYMMETRIC["Tie, equivalent"], a) for a in small}
nb.claim(
    "C6",
    "With non-integer ids a picture can be made as long as its wh tokens.",
    "verified",
    holds=[
        sym.enumeration("tokens it is worth", small, lambda a: round(float(equal[a][-1, 0])) - 1, lambda a: a[0] * a[1]),
        sym.enumeration(
            "sizes with an id that is no integer",
            small,
            lambda a: int(
                bool((equal[a] % 1 > 1e-9).any() and (equal[a] % 1 < 1 - 1e-9).any() and ((equal[a] - equal[a].round()).abs() > 1e-9).any())
            ),
            lambda a: 1 - strip(a),
        ),
    ],
)

# %% [markdown]
# ### Neighbouring pictures
#
# Two pictures in a row, of different sizes, cannot both be symmetric to each other's patches. The post wraps each in tags, `[IMG]` and `[/IMG]`, that
# count as text: then every picture lies between two text tokens again. (A separator between *rows* is needed only by a model that draws patch by patch
# and must say where a row ends.)


# %%
def local_gaps(scheme, segments):
    """For each picture of a sequence: the gap before its first patch less the gap after its last, by axis, as text."""
    at, start, found = scheme(segments), 0, []
    for segment in segments:
        count = segment if isinstance(segment, int) else segment[0] * segment[1]
        if not isinstance(segment, int):
            first, last = at[start] - at[start - 1], at[start + count] - at[start + count - 1]
            found.append(tuple(round(float(g), 6) + 0.0 for g in first - last))
        start += count
    return str(found)


tagged, bare = [2, (2, 3), 2, (5, 4), 2], [2, (2, 3), (5, 4), 2]
zeros = str([(0.0, 0.0)] * 2)
one_sided = lambda segments: mrope(segments)[:, 1:]
# %% tags=["hide-input"]
nb.derivation(
    "D9",
    "Between tags that count as text, two neighbouring pictures of different sizes are symmetric; without tags they are not.",
    sym.enumeration(
        "with tags: gap before less gap after, Tie and M-RoPE",
        [0, 1],
        lambda k: local_gaps((rope_tie, one_sided)[k], tagged),
        lambda k: (zeros, str([(-1.0, 0.0), (0.0, -1.0)]))[k],
    ),
    sym.enumeration(
        "without tags and with them, RoPE-TV", [bare, tagged], lambda a: int(local_gaps(rope_tv, a) == zeros), lambda a: int(a is tagged)
    ),
    sym.enumeration(
        "without tags and with them, RoPE-Tie", [bare, tagged], lambda a: int(local_gaps(rope_tie, a) == zeros), lambda a: int(a is tagged)
    ),
)

# %% [markdown]
# ### The whole family: offsets and scales
#
# RoPE-Tie scales the grid. His later proposal {cite}`su2024ropetv` shifts it instead. With an offset and a scale on each axis, $(L+\beta_1+\gamma_1i,\;L+\beta_2+\gamma_2j)$,
# symmetry reads
#
# $$2\beta_1+\gamma_1(h+1)=2\beta_2+\gamma_2(w+1)=K-L .$$
#
# RoPE-Tie is $\beta=0$. With $\gamma=1$, steps of one, and $K-L=wh+1$ the offsets are determined, $\beta_1=\frac{wh-h}2$ and $\beta_2=\frac{wh-w}2$: this is RoPE-TV, and *it keeps all that was asked*: compatibility, symmetry, equivalence, unit
# steps; integers whenever $h$ and $w$ are both even or both odd, half-integers otherwise. (We had the conditions of that post only, not its text; the formula is our derivation.)
# Offsets, not scales, are the right degree of freedom.

# %%
b1, b2, g1, g2 = sp.symbols("beta1 beta2 gamma1 gamma2", real=True)
corner = lambda i, j: sp.Matrix([L + b1 + g1 * i, L + b2 + g2 * j])
gaps = corner(1, 1) - sp.Matrix([L, L]) - (sp.Matrix([K, K]) - corner(h, w))
unit_steps = gaps.subs({g1: 1, g2: 1, K: L + w * h + 1})
half_integer = lambda a: int(bool(((2 * between(rope_tv, a)).round() % 2 == 1).any()))
nb.derivation(
    "D10",
    "In the family of offsets and scales symmetry is 2β₁ + γ₁(h+1) = 2β₂ + γ₂(w+1) = K − L; unit steps and equivalence leave β₁ = (wh−h)/2, β₂ = (wh−w)/2.",
    sym.identity("rows", gaps[0], 2 * b1 + g1 * (h + 1) - (K - L)),
    sym.identity("columns", gaps[1], 2 * b2 + g2 * (w + 1) - (K - L)),
    sym.solves("β₁", unit_steps[0], b1, (w * h - h) / 2),
    sym.solves("β₂", unit_steps[1], b2, (w * h - w) / 2),
    sym.enumeration(
        "first patch of rope_tv, doubled",
        small,
        lambda a: str((2 * between(rope_tv, a)[1]).tolist()),
        lambda a: str([float(a[0] * (a[1] - 1) + 2), float(a[1] * (a[0] - 1) + 2)]),
    ),
    sym.enumeration("sizes with half-integers", small, half_integer, lambda a: (a[0] - a[1]) % 2),
)

# %% [markdown]
# ### M-RoPE
#
# Qwen2-VL {cite}`wang2024qwen2vl` took another road. Three axes, time, row, column; text at $(n,n,n)$; patch $(i,j)$ at $(L+1,L+i,L+j)$; the next text at one above the
# largest coordinate, $K=L+\max(h,w)+1$. Compatible, unit steps, integers. The gap before is always $(1,1)$, that after is $(\max(h,w)-h+1,\max(h,w)-w+1)$: symmetric for squares only, and a
# picture counts as $\max(h,w)$ tokens. Its rows and columns are the unscaled grid $s=t=1$ that C3 rules out.

# %%
after_gap = lambda a: tuple(int(g) for g in mrope([1, a, 1])[-1] - mrope([1, a, 1])[-2])[1:]
nb.derivation(
    "D11",
    "M-RoPE: gap (1, 1) before, (max−h+1, max−w+1) after; as long as max(h, w) tokens; symmetric for squares only.",
    sym.enumeration("gap after", small, after_gap, lambda a: (max(a) - a[0] + 1, max(a) - a[1] + 1)),
    sym.enumeration("first patch and its time", small, lambda a: str(mrope([a[0], a, 1])[a[0]].tolist()), lambda a: str([float(a[0])] * 3)),
    sym.enumeration("tokens it is worth", small, lambda a: int(mrope([1, a, 1])[-1, 0]) - 1, max),
    sym.enumeration("mirrored in rows and columns", small, lambda a: int(is_mirrored(between(unscaled, a))), lambda a: int(a[0] == a[1])),
)

# %% [markdown]
# ### Video
#
# A video of $T$ frames has $N=Thw$ patches, and each axis has an equation of its own: with unit steps symmetry and equivalence give $\beta_a=\frac{N-n_a}2$ for the axis of length $n_a$. But all
# three offsets, and the place of the next text token, depend on $T$: a model that draws frame after frame would have to know beforehand how many there will be. The
# author raised this objection himself; M-RoPE escapes it for the patches, whose positions do not depend on $T$.

# %%
T, na, beta = sp.symbols("T n_a beta", positive=True)
axis_gap = (beta + 1) - ((T * h * w + 1) - (beta + na))
offset = sp.solve(axis_gap, beta)[0]
frames = [(f, 3, 5) for f in range(1, 9)]
nb.derivation(
    "D12",
    "With three axes unit steps, symmetry and equivalence give β = (N − n)/2 on an axis of length n, so one more frame moves all patches by hw/2 in rows and columns and by (hw − 1)/2 in time.",
    sym.solves("β", axis_gap, beta, (T * h * w - na) / 2),
    sym.identity("one more frame, an axis of space", offset.subs(T, T + 1) - offset, h * w / 2),
    sym.identity("one more frame, the axis of time", offset.subs(na, T).subs(T, T + 1) - offset.subs(na, T), (h * w - 1) / 2),
    sym.enumeration(
        "M-RoPE: first frame's patches, the same for every T; tokens it is worth",
        frames,
        lambda a: (str(mrope([1, a, 1])[1:16].tolist() == mrope([1, (1, 3, 5), 1])[1:16].tolist()), int(mrope([1, a, 1])[-1, 0]) - 1),
        lambda a: ("True", max(a)),
    ),
)

# %% tags=["hide-input"]
again = np.random.default_rng(5)
chance = [tuple(int(x) for x in again.integers(2, 40, 2)) for _ in range(20)]
mirrors = {name: [(at, at[2] + at[-2] - at[2:-1]) for at in (f([3, a, 2]) for a in chance)] for name, f in SYMMETRIC.items()}
mirror_error = {name: widest(*(entry_gap(at.flip(0)[1:-2], image) for at, image in pairs)) for name, pairs in mirrors.items()}
nb.claim(
    "C1",
    "The algebra holds: rotations by difference, compatibility, symmetry, equivalence, and the general family.",
    "verified",
    holds=[
        *[
            ledger.less(f"mirror error of {name}, 20 random sizes up to 39 × 39", error, 1e-9, machine=True)
            for name, error in mirror_error.items()
        ],
        sym.enumeration(
            "tokens a picture of RoPE-TV is worth, random sizes",
            chance,
            lambda a: int(rope_tv([3, a, 2])[-1, 0]) - 3 - 1,
            lambda a: a[0] * a[1],
        ),
        ledger.less(
            "RoPE-TV: largest step between neighbours, less 1",
            max(float((rope_tv([1, a])[1:].view(*a, 2).diff(dim=d)[..., d - 0] - 1).abs().max()) for a in chance for d in (0, 1)),
            1e-9,
            machine=True,
        ),
    ],
)

# %% [markdown]
# ## E3: what each scheme keeps
#
# **Question.** Which scheme meets which demand? **Set-up.** Five demands, tested by their definitions on the tables of positions, without training, at the 144 sizes up to $12\times12$: *compatible* (text turns as in RoPE-1D), *symmetric* (mirrored), *equivalent* ($K-L=wh+1$),
# *unit steps* (neighbours one apart), *integer* ids. **Expected**, by the derivations: no scheme meets all five everywhere; RoPE-TV does so whenever $h-w$ is even.

# %%
PLACES = {
    "flattened": rope_1d,
    "page layout": rope_2d,
    "RoPE-Tie": rope_tie,
    "RoPE-Tie, smallest integers": SYMMETRIC["Tie, smallest"],
    "RoPE-Tie, wh tokens": SYMMETRIC["Tie, equivalent"],
    "RoPE-TV": rope_tv,
    "M-RoPE, rows and columns": unscaled,
}


# %%
def kept(scheme, a):
    """Which of the five demands a scheme meets for a picture of size a between two text tokens: five 0 or 1."""
    at, text = scheme([1, a, 1]), scheme([4])
    inner = at[1:-1].view(*a, -1)
    down, right = (inner.diff(dim=dim).flatten(0, 1) for dim in (0, 1))
    unit = [(d - e).abs().max() < 1e-9 for d, e in ((down, torch.eye(2)[0]), (right, torch.eye(2)[1])) if len(d) and d.shape[1] == 2]
    return (
        int(bool((text - text[:1] == torch.arange(4)[:, None]).all())),
        int(is_mirrored(at)),
        int(abs(float((at[-1] - at[0]).max()) - a[0] * a[1] - 1) < 1e-9 and bool((at[-1] == at[-1, 0]).all())),
        int(all(unit) and at.shape[1] == 2),
        int(bool(((at - at.round()).abs() < 1e-9).all())),
    )


# %% tags=["hide-input"]
found = {name: [kept(scheme, a) for a in small] for name, scheme in PLACES.items()}
demands = ["compatible", "symmetric", "equivalent", "unit steps", "integer ids"]
totals = {name: tuple(sum(row[i] for row in rows) for i in range(5)) for name, rows in found.items()}
all_five = {name: sum(row == (1,) * 5 for row in rows) for name, rows in found.items()}
nb.results(
    "E3",
    "Sizes up to 12 × 12, of 144, at which a scheme meets the demand",
    ["scheme", *demands, "all five"],
    [[name, *t, all_five[name]] for name, t in totals.items()],
)

# %% tags=["hide-input"]
promised = {  # from the derivations; a is (h, w)
    "flattened": lambda a: (1, 1, 1, 0, 1),
    "page layout": lambda a: (0, int(a[1] == 1), 0, 1, 1),
    "RoPE-Tie": lambda a: (1, 1, 0, int(a == (1, 1)), 1),
    "RoPE-Tie, smallest integers": lambda a: (1, 1, strip(a), int(a[0] == a[1] or strip(a)), 1),
    "RoPE-Tie, wh tokens": lambda a: (1, 1, 1, int(min(a) == 1), strip(a)),
    "RoPE-TV": lambda a: (1, 1, 1, 1, 1 - (a[0] - a[1]) % 2),
    "M-RoPE, rows and columns": lambda a: (1, int(a[0] == a[1]), int(min(a) == 1), 1, 1),
}
proper = [k for k, a in enumerate(small) if min(a) > 1]
nb.experiment(
    "E3",
    "Flattening keeps all but the plane, a page the plane and integers only; RoPE-Tie gives up unit steps and length, M-RoPE symmetry and length; RoPE-TV keeps all five demands at every second size, and no other scheme does at any proper picture.",
    "verified",
    holds=[
        *[
            sym.enumeration(f"{name}: five demands", small, lambda a, k=name: kept(PLACES[k], a), lambda a, k=name: promised[k](a))
            for name in PLACES
            if name != "flattened"
        ],
        sym.enumeration(
            "flattened: how many sizes meet a demand", range(5), lambda i: totals["flattened"][i], lambda i: (144, 144, 144, 0, 144)[i]
        ),
        sym.enumeration(
            "proper pictures with all five",
            list(PLACES),
            lambda k: sum(found[k][c] == (1,) * 5 for c in proper),
            lambda k: 61 if k == "RoPE-TV" else 0,
        ),
    ],
)

# %% [markdown]
# One demand is missing from the post's list. A model that is asked "what is in the third row?" needs the way from the *text* to a patch, and it should be the same for all pictures. In M-RoPE row $i$ is always $i$ steps from
# the token before the picture. In RoPE-TV the *entry gap* $e_a=\beta_a+1$ grows with the picture. That is no oversight. With unit steps symmetry reads $2e_a+n_a-1=K-L$ on the axis of length $n_a$, so if both axes had one and the same
# constant gap, $h$ would equal $w$:
#
# $$\text{unit steps}+\text{symmetry}\;\Rightarrow\;2(e_1-e_2)=w-h .$$
#
# **Unit steps, symmetry and an entry gap that does not depend on the size exclude each other.** M-RoPE gives up symmetry, RoPE-TV the constant gap; exercise 1 gives up the unit steps and keeps both.

# %%
e1_, e2_, n1, n2 = sp.symbols("e1 e2 n1 n2", positive=True)
condition = lambda e, n: (
    (L + e) - L - (K - (L + e + n - 1))
)  # gap before less gap after on an axis, first patch at L + e, last at L + e + n − 1
entry = lambda scheme, a: tuple(float(g) for g in (lambda at: at[1] - at[0])(scheme([1, a, 1])))
nb.claim(
    "X1",
    "With unit steps and symmetry the entry gaps of rows and columns differ by (w − h)/2, so they cannot both be the same for pictures of all sizes: M-RoPE has constant gaps and no symmetry, RoPE-TV the reverse.",
    "verified",
    holds=[
        sym.solves("e₁ from equal gaps on both axes", condition(e1_, n1) - condition(e2_, n2), e1_, e2_ + (n2 - n1) / 2),
        sym.enumeration(
            "RoPE-TV: twice the difference of its gaps",
            small,
            lambda a: int(2 * (entry(rope_tv, a)[0] - entry(rope_tv, a)[1])),
            lambda a: a[1] - a[0],
        ),
        sym.enumeration(
            "different entry gaps among the 144 sizes",
            ["TV", "M-RoPE", "Tie"],
            lambda k: len({entry({"TV": rope_tv, "M-RoPE": unscaled, "Tie": rope_tie}[k], a) for a in small}),
            lambda k: {"TV": len({(a[0] * (a[1] - 1), a[1] * (a[0] - 1)) for a in small}), "M-RoPE": 1, "Tie": 144}[k],
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gaps before and after a picture on the row axis and on the column axis, against the shape of pictures of about 36 patches from 2 by 18 to 18 by 2. For RoPE-Tie before and after coincide but grow with the length of the other side; for RoPE-TV they coincide and lie between 10 and 18; for M-RoPE the gap before is always one and the gap after is larger on the short side, up to 17."}}
shapes = [(2, 18), (3, 12), (4, 9), (6, 6), (9, 4), (12, 3), (18, 2)]
figure, panels = plt.subplots(1, 3, figsize=(8.6, 3.2), sharey=True)
for axes, (name, scheme) in zip(panels, (("RoPE-Tie", rope_tie), ("RoPE-TV", rope_tv), ("M-RoPE", unscaled)), strict=True):
    at = [scheme([1, a, 1]) for a in shapes]
    for axis, color, label in ((0, BLUE, "rows"), (1, ORANGE, "columns")):
        axes.plot([float(p[1, axis] - p[0, axis]) for p in at], color=color, ls="-", marker="o", ms=7, mfc="none", label=f"before, {label}")
        axes.plot([float(p[-1, axis] - p[-2, axis]) for p in at], color=color, ls=":", marker="x", ms=6, label=f"after, {label}")
    axes.set_xticks(range(len(shapes)), [f"{a}×{b}" for a, b in shapes], fontsize=7.5)
    axes.set(xlabel="picture, rows × columns")
    axes.set_title(name, fontsize=10)
panels[0].set_ylabel("gap (positions)")
panels[2].legend(fontsize=7.5)
figure.suptitle(
    "RoPE-Tie and RoPE-TV: gaps that depend on the shape. M-RoPE: only the one after does",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
budget = {name: int(scheme([1, (24, 24), 1])[-1].max()) for name, scheme in PLACES.items() if name != "page layout"}
nb.claim(
    "C14",
    "A picture of 24 × 24 patches takes 577 positions flattened or in an equivalent scheme, 625 in RoPE-Tie, 25 with the smallest integers or in M-RoPE.",
    "verified",
    holds=[
        sym.enumeration(
            "K − L by scheme",
            list(budget),
            budget.get,
            lambda k: {"RoPE-Tie": 625, "RoPE-Tie, smallest integers": 25, "M-RoPE, rows and columns": 25}.get(k, 577),
        )
    ],
)

# %%
SCHEMES = ["flattened", "page", "Tie", "Tie, smallest", "Tie, equivalent", "TV", "M-RoPE, 2 axes", "M-RoPE"]


def place(scheme, segments):
    """The positions (tokens, axes) that a scheme gives to the tokens of a sequence."""
    return {
        "flattened": rope_1d,
        "page": rope_2d,
        "Tie": rope_tie,
        "Tie, smallest": lambda segments: rope_tie(segments, "smallest"),
        "Tie, equivalent": lambda segments: rope_tie(segments, "equivalent"),
        "TV": rope_tv,
        "M-RoPE, 2 axes": lambda segments: mrope(segments)[:, 1:],
        "M-RoPE": mrope,
    }[scheme](segments)


# %%
def frequencies_and_axes(allocation, d, axes, base=1e4):
    """Frequencies (d/2,) and the axis of every pair (d/2,) of an allocation."""
    theta, pairs = rope_frequencies(d, base), d // 2
    if allocation == "interleaved":
        return theta, interleaved_axes(pairs, axes)
    if allocation == "sections":  # one axis after the other: 4 : 6 : 6 for three axes (Qwen2-VL's 16 : 24 : 24), halves for two
        sizes = [pairs // 4, 3 * pairs // 8, 3 * pairs // 8] if axes == 3 else [pairs // 2, pairs // 2]
        return theta, section_axes(sizes)
    if allocation == "sections, columns first":
        return theta, 1 - section_axes([pairs // 2, pairs // 2])
    if allocation == "shared":  # RoPE-2D as in vision Transformers: both axes have the frequencies of a head of half the size
        return rope_frequencies(pairs, base).repeat(2), section_axes([pairs // 2, pairs // 2])
    raise ValueError(f"allocation {allocation!r}")


# %% tags=["hide-input"]
def angle_tables(arms, sequences, d, length):
    """Angles of every arm (scheme, allocation, base) for every sequence, padded to ``length``: (arms, sequences, length, d/2)."""
    table = torch.zeros(len(arms), len(sequences), length, d // 2, dtype=torch.float64)
    for a, (scheme, allocation, base) in enumerate(arms):
        for s, segments in enumerate(sequences):
            at = place(scheme, segments)
            table[a, s, : len(at)] = axis_angles(at, *frequencies_and_axes(allocation, d, at.shape[1], base))
    return table


# %% [markdown]
# ## What one head can do
#
# The post argues that scaling by $s$ and $t$ loses no information about position. Injective it is. But a model does not read positions, it compares them. Ask the simplest question one can ask in
# a plane: *which patch is directly above me?* For one head that ignores content the logit of a key at the offset $\Delta$ is
#
# $$\ell_z(\Delta)=\sum_p\operatorname{Re}\bigl(z_p\,e^{\mathrm i\theta_p\Delta_{a(p)}}\bigr),\qquad z\in\mathbb C^{d/2},$$
#
# where $z_p$ is the product of query and key in pair $p$. The head is right where $\ell_z$ is larger at the patch above than at every other patch seen so far. All these conditions, for all places of all
# pictures of a set of sizes, are *linear* in $z$. So the best head, the one with the widest margin per unit length of $z$,
#
# $$\rho=\max_{\|z\|=1}\;\min_{\text{conditions}}\;\ell_z(\Delta_{\text{above}})-\ell_z(\Delta_{\text{other}}),$$
#
# is a convex problem with one answer, a hard-margin support vector machine. It is a number that judges scheme *and* allocation, without training. (Gradient descent on separable data turns towards this head
# {cite}`soudry2018implicit`, at least in a model that is linear.)


# %%
def above_and_others(at, w, own=True):
    """Offsets query less key: of the patch above, and of each other patch up to the query (with ``own``: and itself), below the first row."""
    rows = []
    for q in range(w, len(at)):
        offset = at[q] - at[: q + 1]
        rows += [np.concatenate([offset[q - w], offset[k]]) for k in range(q + own) if k != q - w]
    return rows


def widest_margin(scheme, allocation, sizes, d=32, base=1e4, own=True):
    """The margin rho of the best head of size d over ``sizes``, its z as d numbers, and the allocation that ``head_logits`` needs."""
    rows = [row for h, w in sizes for row in above_and_others(scheme([1, (h, w)])[1:].numpy(), w, own)]
    rows = np.unique(np.round(rows, 9), axis=0)
    axes = rows.shape[1] // 2
    turn = frequencies_and_axes(allocation, d, axes, base)
    A = waves(rows[:, :axes], turn) - waves(rows[:, axes:], turn)  # A z >= 1 with the shortest z, by Lawson and Hanson's NNLS
    target = np.append(np.zeros(d), 1.0)
    weights, _ = scipy.optimize.nnls(np.vstack([A.T, np.ones(len(A))]), target, maxiter=100_000)
    rest = np.vstack([A.T, np.ones(len(A))]) @ weights - target
    z = -rest[:-1] / rest[-1]
    return 1 / np.linalg.norm(z), z, turn


# %%
def waves(offsets, turn):
    """Cosines and sines (n, d) of the angles that offsets (n, axes) make."""
    angles = axis_angles(torch.from_numpy(np.ascontiguousarray(offsets)), *turn).numpy()
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def share_right(scheme, size, z, turn):
    """At which share of the places below the first row the head with ``z`` scores the patch above highest."""
    at, w = scheme([1, size])[1:].numpy(), size[1]
    return float(np.mean([(waves(at[q] - at[: q + 1], turn) @ z).argmax() == q - w for q in range(w, len(at))]))


small_seen = [(4, 4), (4, 6), (6, 4), (5, 8), (8, 5), (6, 6), (3, 8)]
far_sizes = [(6, 10), (10, 10), (3, 12)]
schemes6 = {name: PLACES[name] for name in ("RoPE-Tie", "RoPE-Tie, smallest integers", "RoPE-Tie, wh tokens", "RoPE-TV")} | {
    "M-RoPE": mrope
}
heads = {(name, "interleaved"): (scheme, *widest_margin(scheme, "interleaved", small_seen)) for name, scheme in schemes6.items()}
for allocation in ("shared", "sections", "sections, columns first"):
    heads["RoPE-TV", allocation] = rope_tv, *widest_margin(rope_tv, allocation, small_seen)
heads["M-RoPE", "sections"] = mrope, *widest_margin(mrope, "sections", small_seen)
everywhere = {key: widest_margin(scheme, key[1], [*small_seen, *far_sizes])[0] for key, (scheme, *_) in heads.items()}

# %% tags=["hide-input"]
percent = lambda x: f"{100 * x:.0f}%"
nb.results(
    "E0",
    "The best head for the patch above, d = 32, b = 10⁴: margin ρ over seven training sizes, over these and three larger ones, and the share that the head for the seven gets right at the larger ones",
    ["scheme", "allocation", "ρ, 7 sizes", "ρ, 10 sizes", *(f"{a}×{b}" for a, b in far_sizes)],
    [
        [
            name,
            allocation,
            f"{rho:.2g}",
            f"{everywhere[name, allocation]:.2g}",
            *(percent(share_right(scheme, a, z, turn)) for a in far_sizes),
        ]
        for (name, allocation), (scheme, rho, z, turn) in heads.items()
    ],
)

# %% [markdown]
# Start with the last rows. **Contiguous halves cost a factor of 2,800 in margin, three contiguous sections 9,000**, each against the same positions interleaved: an axis that gets the low frequencies only cannot tell neighbours apart.
# (Repeated frequencies give a wider margin still, at the price of compatibility. A third axis, which is the same for all patches, costs three.)
#
# Among the *positions* only the smallest integers cost anything like it: $s$ is 1 in a square and 9 in
# a strip, and the margin is 500 times below RoPE-Tie's. Inside a picture RoPE-TV, M-RoPE's rows and columns, and the page are the same
# grid of unit steps, and a head that is best on the seven sizes is right on the three larger ones too.
#
# RoPE-Tie is a surprise: its margin is *wider*, with large offsets it is easier to be selective; and there *is* a head that is right on all ten sizes ("nearest in my column", whatever the size). But
# the head that is best on the seven has tuned itself to their offsets $s=w+1=5,7,9$, and fails in two of the three larger pictures. Not so with the fractions of "wh tokens": there the best head goes
# on to be right, although its steps depend on the size as well (from width 13 on it fails too, see the figure). So a step that depends on the size need not be fatal for the *best* head; what training
# finds is E1.
#
# Flattening allows no head at all, whatever its size: in a picture of width 4 the offset 4 has to beat the offset 6, in one of width 6 the reverse.

# %%
constraints = lambda scheme: {
    tuple(np.round(row, 6)) for h, w in small_seen for row in above_and_others(scheme([1, (h, w)])[1:].numpy(), w)
}
swapped = lambda row: (*row[len(row) // 2 :], *row[: len(row) // 2])
contradictions = {name: sum(swapped(row) in rows for row in rows) // 2 for name in PLACES for rows in [constraints(PLACES[name])]}
rho_tv, z_tv, turn_tv = heads["RoPE-TV", "interleaved"][1:]
tv_rows = np.array(sorted(constraints(rope_tv)))
A_tv = waves(tv_rows[:, :2], turn_tv) - waves(tv_rows[:, 2:], turn_tv)
start = np.linalg.lstsq(A_tv, np.ones(len(A_tv)), rcond=None)[0]
margin_constraint = {"type": "ineq", "fun": lambda z: A_tv @ z - 1, "jac": lambda z: A_tv}
by_slsqp = scipy.optimize.minimize(
    lambda z: z @ z, start, jac=lambda z: 2 * z, constraints=margin_constraint, method="SLSQP", options={"maxiter": 500}
)
one_logit = sum(
    z_tv[p] * math.cos(turn_tv[0][p] * (3, -2)[p % 2]) + z_tv[16 + p] * math.sin(turn_tv[0][p] * (3, -2)[p % 2]) for p in range(16)
)

# %% tags=["hide-input"]
nb.claim(
    "X2",
    "Some head finds the patch above at every size in every scheme with a plane; none does in a flattened picture, where widths 4 and 6 ask for opposite things.",
    "verified",
    holds=[
        sym.enumeration(
            "pairs of conditions that contradict each other, flattened or not",
            list(PLACES),
            lambda k: int(contradictions[k] > 0),
            lambda k: int(k == "flattened"),
        ),
        *[ledger.more(f"ρ over ten sizes, {k[0]}, interleaved", rho, 1e-4) for k, rho in everywhere.items() if k[1] == "interleaved"],
        ledger.less(
            "seven sizes: ρ of the smallest integers over the least of the other interleaved schemes",
            heads["RoPE-Tie, smallest integers", "interleaved"][1]
            / min(heads[k][1] for k in heads if k[1] == "interleaved" and k[0] != "RoPE-Tie, smallest integers"),
            0.1,
        ),
        ledger.close("ρ by another solver (SLSQP), RoPE-TV", rho_tv, 1 / math.sqrt(by_slsqp.fun), rel=1e-4),
        ledger.close(
            "smallest margin of its head times its length", float((A_tv @ z_tv).min() / np.linalg.norm(z_tv) / rho_tv), 1, abs=1e-6
        ),
        ledger.close(
            "its logit at the offset (3, −2), term by term", float((waves(np.array([[3.0, -2.0]]), turn_tv) @ z_tv)[0]), one_logit, rel=1e-9
        ),
    ],
)
far_share = {key: np.mean([share_right(scheme, a, z, turn) for a in far_sizes]) for key, (scheme, rho, z, turn) in heads.items()}
nb.claim(
    "X3",
    "The best head for seven sizes is right at three larger ones with unit steps, and with RoPE-Tie's fractions; with RoPE-Tie's integers it fails at two of the three, although they allow a head that is right at all ten.",
    "verified",
    holds=[
        ledger.close("share right at the larger sizes, RoPE-TV", far_share["RoPE-TV", "interleaved"], 1, abs=1e-9),
        ledger.close("M-RoPE", far_share["M-RoPE", "interleaved"], 1, abs=1e-9),
        ledger.close("RoPE-Tie, wh tokens", far_share["RoPE-Tie, wh tokens", "interleaved"], 1, abs=1e-9),
        *[
            ledger.less(
                f"RoPE-Tie, {a[0]} × {a[1]}", share_right(rope_tie, a, *heads["RoPE-Tie", "interleaved"][2:]), 0.7, scope="100% at 6 × 10"
            )
            for a in far_sizes[1:]
        ],
        ledger.more(
            "RoPE-Tie: ρ over ten sizes against RoPE-TV's",
            everywhere["RoPE-Tie", "interleaved"] / everywhere["RoPE-TV", "interleaved"],
            1.5,
        ),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "The margin by which the best head of each scheme prefers the patch above, as a share of the margin at the training sizes, against the width of the picture from 3 to 16, six rows. RoPE-TV stays at one for all widths. RoPE-Tie lies near one at the training widths of four to eight and turns negative from eleven on. RoPE-Tie with wh tokens is below zero at width three and from thirteen on. Flattened, with a head tuned to width six, is positive at width six only and falls to minus five."}}
widths = range(3, 17)


def margin_by_width(scheme, z, turn):
    """By how much the patch above beats the best other patch, at worst over the picture, for widths ``widths`` and six rows."""
    found = []
    for w in widths:
        rows = np.array(above_and_others(scheme([1, (6, w)])[1:].numpy(), w))
        half = rows.shape[1] // 2
        found.append(float(((waves(rows[:, :half], turn) - waves(rows[:, half:], turn)) @ z).min()))
    return np.array(found)


_, z_flat, turn_flat = widest_margin(rope_1d, "interleaved", [(6, 6)])
figure, axes = plt.subplots()
for name, scheme, z, turn, color, style in (
    ("RoPE-TV and M-RoPE's grid", rope_tv, z_tv, turn_tv, BLUE, "-"),
    ("RoPE-Tie", rope_tie, *heads["RoPE-Tie", "interleaved"][2:], ORANGE, "--"),
    ("RoPE-Tie, wh tokens", SYMMETRIC["Tie, equivalent"], *heads["RoPE-Tie, wh tokens", "interleaved"][2:], GREEN, "-."),
    ("flattened, tuned to width 6", rope_1d, z_flat, turn_flat, PURPLE, ":"),
):
    axes.plot(list(widths), margin_by_width(scheme, z, turn), color=color, ls=style, marker="o", ms=4, label=name)
axes.axvspan(3.9, 8.1, color=GREY, alpha=0.12, lw=0)
axes.annotate("widths in training\n(7 is not)", (6, 1.7), ha="center", color=GREY, fontsize=9)
axes.axhline(0, color=BLACK, lw=0.8)
axes.set(ylim=(-5.5, 4.5), xlabel="width of the picture (patches), six rows", ylabel="smallest margin of the patch above")
axes.set_title("One head serves these widths with unit steps, not with RoPE-Tie")
axes.legend(loc="upper right", fontsize=8, ncols=2)
nb.show(figure)

# %% tags=["hide-input"]
mean_cosine = lambda step: float(np.mean(np.where(np.arange(64) % 2 == 0, np.cos(step * 1e4 ** (-np.arange(64) / 64)), 1.0)))
adjacent = lambda a: axis_angles(rope_tie([1, a])[[1, 1 + a[1]]], theta128, interleaved_axes(64, 2))
distinct = lambda a: len({tuple(p) for p in between(rope_tie, a).tolist()})
nb.claim(
    "C7",
    "Scaling by s and t loses nothing of the positions.",
    "partly",
    holds=[sym.enumeration("distinct positions of the patches and the two texts", small, distinct, lambda a: a[0] * a[1] + 2)],
    fails=[
        *[
            ledger.close(
                f"mean cosine between vertical neighbours, d = 128, width {w} (s = {w + 1})",
                float(adjacent((3, w)).diff(dim=0).cos().mean()),
                mean_cosine(w + 1),
                rel=1e-9,
            )
            for w in (1, 6, 24)
        ],
        ledger.less("the same at width 24 over that at unit steps", mean_cosine(25) / mean_cosine(1), 0.84),
        ledger.close(
            "offset of the patch above less w, width 24", float(rope_tie([1, (3, 24)])[:, 0].unique().diff()[1]) - 24, 1, abs=1e-9
        ),
    ],
)

# %% [markdown]
# ## Who gets which frequency
#
# Qwen2-VL gives its 64 pairs to time, rows and columns in three contiguous sections, 16, 24, 24, with $b=10^6$ (so the configuration in the transformers package; our module agrees with its code to $10^{-6}$). The first
# pairs turn fastest. Time gets $[0.039,1]$, rows $[2.2\cdot10^{-4},0.032]$, columns $[1.2\cdot10^{-6},1.8\cdot10^{-4}]$ radians a step: across a hundred patches the fastest pair of the column axis turns by 0.018.
#
# How much that matters follows from the conditions on the two neighbours of the patch above, left and right. In their mean the sines cancel:
#
# $$\ell_z(1,0)-\tfrac12\bigl[\ell_z(1,1)+\ell_z(1,-1)\bigr]=\sum_{p\,:\,a(p)=\text{column}}\operatorname{Re}(z_p)\,(1-\cos\theta_p),$$
#
# so with unit steps, and pictures at least three columns wide,
#
# $$\rho\le\Bigl(\sum_{p\,:\,a(p)=\text{column}}(1-\cos\theta_p)^2\Bigr)^{1/2}.$$
#
# For the rows the same works with the patch itself and the patch two rows above, for pictures at least three rows high: $\ell_z(1,0)-\frac12[\ell_z(0,0)+\ell_z(2,0)]=\sum_{a(p)=\text{row}}\operatorname{Re}(z_pe^{\mathrm i\theta_p})(1-\cos\theta_p)$.
#
# An axis whose highest frequency $\theta$ is small allows a margin of about $\theta^2/2$ and no more. In our table the bound is attained by the contiguous allocations: for the halves
# $\theta=10^{-2}$ and $\rho=5.3\cdot10^{-5}$. For Qwen2-VL's columns it is $2\cdot10^{-8}$. Large models evidently work in spite of it: they need not find neighbours by position alone. Qwen3-VL interleaves, and {cite}`huang2026revisiting`
# recommends it after ablations.

# %%
zr, zi, ty = sp.symbols("zr zi theta_y", real=True)
column_part = lambda dy: zr * sp.cos(ty * dy) + zi * sp.sin(ty * dy)  # a pair of the column axis; those of the row axis cancel
row_part = lambda dx: zr * sp.cos(ty * dx) + zi * sp.sin(ty * dx)  # the same for a pair of the row axis
axis_bound = lambda turn, axis: float(np.linalg.norm((1 - turn[0].cos()[turn[1] == axis]).numpy()))
neighbour_bound = lambda turn: axis_bound(turn, turn[1].max())
row_heads = {
    key: rho / axis_bound(turn, turn[1].max() - 1) for key, (scheme, rho, z, turn) in heads.items() if key[0] in ("RoPE-TV", "M-RoPE")
}
unit_heads = {
    key: (rho, neighbour_bound(turn))
    for key, (scheme, rho, z, turn) in heads.items()
    if key[0] in ("RoPE-TV", "M-RoPE") and key[1] != "sections, columns first"
}
# %% tags=["hide-input"]
nb.claim(
    "X4",
    "With unit steps the margin of a head is at most the root of Σ (1 − cos θ)² over the pairs of the column axis, and over those of the row axis, about θ²/2 of the highest frequency; contiguous allocations attain it.",
    "verified",
    holds=[
        sym.identity(
            "the mean over both neighbours, one pair", column_part(0) - (column_part(1) + column_part(-1)) / 2, zr * (1 - sp.cos(ty))
        ),
        sym.identity(
            "the mean over the patch itself and the patch two above, one pair",
            row_part(1) - (row_part(0) + row_part(2)) / 2,
            (zr * sp.cos(ty) + zi * sp.sin(ty)) * (1 - sp.cos(ty)),
        ),
        *[ledger.less(f"ρ over the bound of the rows, {' '.join(key)}", x, 1 + 1e-5, digits=3) for key, x in row_heads.items()],
        ledger.close("attained: RoPE-TV, columns first", row_heads["RoPE-TV", "sections, columns first"], 1, abs=2e-3),
        *[ledger.less(f"ρ over the bound, {' '.join(key)}", rho / bound, 1 + 1e-5, digits=3) for key, (rho, bound) in unit_heads.items()],
        *[
            ledger.close(f"attained: {name}, sections", unit_heads[name, "sections"][0] / unit_heads[name, "sections"][1], 1, abs=2e-3)
            for name in ("RoPE-TV", "M-RoPE")
        ],
        ledger.close(
            "the bound for Qwen2-VL's columns",
            neighbour_bound((rope_frequencies(128, 1e6), section_axes([16, 24, 24]))),
            0.5 * 10 ** (-6 * 40 / 32) / math.sqrt(1 - 10 ** (-24 / 64)),
            rel=1e-4,
            digits=3,
        ),
    ],
)

# %% tags=["hide-input"]
qwen = rope_frequencies(128, 1e6)
axis_of = section_axes([16, 24, 24])
band = {name: (float(qwen[axis_of == a].min()), float(qwen[axis_of == a].max())) for a, name in enumerate(("time", "row", "column"))}
widths_turn = axis_angles(mrope([1, (1, 101)])[[1, 101]], qwen, axis_of)
by_power = {"time": (15, 0), "row": (39, 16), "column": (63, 40)}
nb.claim(
    "C12",
    "Qwen2-VL's contiguous sections leave the columns only frequencies up to 1.8e-4: across 100 patches the fastest pair of that axis turns by 0.018 rad.",
    "verified",
    holds=[
        *[
            ledger.close(f"{name} axis, {end} frequency", band[name][i], 10 ** (-6 * by_power[name][i] / 64), rel=1e-9)
            for name in band
            for i, end in enumerate(("lowest", "highest"))
        ],
        ledger.close(
            "largest turn between columns 1 and 101, through positions and sections",
            float(widths_turn.diff(dim=0).abs().max()),
            0.0178,
            abs=5e-5,
        ),
        ledger.less(
            "ρ of M-RoPE in sections over interleaved, d = 32, b = 10⁴",
            heads["M-RoPE", "sections"][1] / heads["M-RoPE", "interleaved"][1],
            1e-3,
        ),
        ledger.less("ρ of RoPE-TV in halves over interleaved", heads["RoPE-TV", "sections"][1] / heads["RoPE-TV", "interleaved"][1], 1e-3),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of horizontal bands on a logarithmic axis of radians per step. Contiguous sections of Qwen2-VL: time holds the frequencies from one down to 0.04, rows from 0.03 to 0.0002, columns from 0.00018 to 0.000001. Interleaved as in Qwen3-VL: each of the three axes has marks along nearly the whole range."}}
figure, panels = plt.subplots(2, 1, figsize=(7.4, 3.6), sharex=True)
for axes, (name, allocation) in zip(
    panels,
    (("contiguous sections 16, 24, 24 (Qwen2-VL)", axis_of), ("interleaved 24, 20, 20 (Qwen3-VL)", interleaved_mrope_axes([24, 20, 20]))),
    strict=True,
):
    for a, color in enumerate((GREY, BLUE, ORANGE)):
        axes.plot(qwen[allocation == a], np.full(int((allocation == a).sum()), 2 - a), "|", ms=15, mew=1.8, color=color)
    axes.set_yticks([2, 1, 0], ["time", "row", "column"])
    axes.set(xscale="log", ylim=(-0.7, 2.7))
    axes.set_title(name, fontsize=10)
    axes.axvspan(2 * np.pi / 100, 1.2, color=GREY, alpha=0.12, lw=0)
panels[0].annotate("a full turn within\n100 patches", (0.09, -0.55), fontsize=8, color=GREY)
panels[1].set_xlabel("angle per step (radians, log axis), b = 10⁶")
figure.suptitle(
    "In contiguous sections the columns turn by 0.018 rad at most across 100 patches", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% [markdown]
# ## E1: what training finds
#
# **Question.** The best head generalises with unit steps and not with RoPE-Tie. Does training find such heads? **Set-up.** Six tokens of text, a picture, four tokens of text, all random out of 16 symbols (a patch has ids of
# its own, as in real models, so that it is known to be a patch). Every patch below the first row has to name the symbol of the patch *above*, every text token that of the text token *before*. One causal layer, $d=64$, two
# heads of size 32, trained on seven sizes with 4 to 8 columns, tested on all sizes from $2\times2$ to $12\times12$.
#
# **Baselines.** Flattening, also with a token at the end of each row, as Fuyu does; the page; the page with repeated frequencies, which is the RoPE-2D of vision models. Five learning rates for each
# arm, the best by the loss on fresh data of *seen* sizes; five seeds. **Expected**, by the margins: flattening fails outright, RoPE-Tie fails beyond the sizes it saw, all unit-step schemes
# generalise; text works everywhere but on the page.
#
# The whole model is this. It is stacked: every parameter leads with an axis of runs, and each sequence comes with the cosines and sines of its own positions.


# %%
# fmt: off
class Reader(torch.nn.Module):
    """Stacked causal Transformers: ids (R, B, T), cosines and sines of the angles (R, B, 1, T, d_head/2) -> logits (R, B, T, vocabulary)."""
    def __init__(self, init, vocabulary, d, depth, heads, pixels=0):
        super().__init__()
        self.tokens, self.head = nn.Embedding(init, vocabulary, d), nn.Linear(init, d, vocabulary)
        self.patches = nn.Linear(init, pixels, d) if pixels else None
        self.mix = init.normal(depth, 4, d, d, std=d**-0.5)  # W_q, W_k, W_v, W_o of every layer
        self.up, self.down = init.normal(depth, d, 2 * d, std=d**-0.5), init.normal(depth, 2 * d, d, std=(2 * d) ** -0.5)
        self.gains, self.heads, self.depth = torch.nn.Parameter(torch.ones(init.runs, 2 * depth + 1, d)), heads, depth
    def forward(self, ids, cos, sin, patches=None, precision=torch.float32):
        x = self.tokens(ids) if patches is None else self.tokens(ids) + self.patches(patches)
        x, cos, sin = x.to(precision), cos.to(precision), sin.to(precision)
        norm = lambda x, i: F.rms_norm(x, x.shape[-1:]) * self.gains[:, None, None, i].to(precision)
        times = lambda x, w: (x.flatten(1, 2) @ w.to(precision)).unflatten(1, x.shape[1:3])
        for l in range(self.depth):
            h = norm(x, 2 * l)
            q, k, v = (times(h, self.mix[:, l, i]).unflatten(-1, (self.heads, -1)).transpose(2, 3) for i in range(3))  # (R, B, H, T, d_head)
            y = F.scaled_dot_product_attention(
                *(t.flatten(0, 1) for t in (rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin), v)), is_causal=True
            )
            x = x + times(y.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2]), self.mix[:, l, 3])
            x = x + times(F.gelu(times(norm(x, 2 * l + 1), self.up[:, l])), self.down[:, l])
        return self.head(norm(x, 2 * self.depth)).float()
# fmt: on


# %%
def by_kind(values, kind, kinds):
    """Means of ``values`` (R, B, T) over the places of kind 1, .., kinds: (R, kinds). Kind 0 is left out."""
    chosen = [(kind == k).to(values.dtype) for k in range(1, kinds + 1)]
    return torch.stack([(values * c).sum((1, 2)) / c.sum((1, 2)).clamp_min(1) for c in chosen], 1)


def losses_and_hits(logits, targets, kind, kinds):
    """Cross-entropy and share of right answers of each kind of place: two (R, kinds)."""
    loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape)
    return by_kind(loss, kind, kinds), by_kind((logits.argmax(-1) == targets).float(), kind, kinds)


# %% tags=["hide-input"]
SYMBOLS, ROW_END = 16, 32  # ids 0..15 in a text, 16..31 in a picture


def copy_layout(before, h, w, after, ends):
    """A picture between two texts: segments, and for every token what it copies (its own place where nothing) and of which kind that is.

    Kind 1: a patch below the first row copies the patch above; kind 2: a text token copies the text token before it.
    Kind 3 (with ``ends``) is a token after each row that only marks its end. -> segments, source (T,), kind (T,).
    """
    width = w + ends
    total = before + h * width + after
    source, kind = list(range(total)), [0] * total
    for start, n in ((0, before), (before + h * width, after)):
        for t in range(start + 1, start + n):
            source[t], kind[t] = t - 1, 2
    for i, j in itertools.product(range(h), range(width)):
        t = before + i * width + j
        if j == w:
            kind[t] = 3
        elif i > 0:
            source[t], kind[t] = t - width, 1
    return [before, (h, width), after], source, kind


# fmt: off
class CopyTask:
    """Random symbols in a text, a picture of one of ``sizes`` and a text: every arm (scheme, allocation, base, ends) sees the same symbols."""
    def __init__(self, arms, sizes, texts, d, device):
        layouts = [[copy_layout(texts[0], h, w, texts[1], ends) for h, w in sizes] for *_, ends in arms]
        length = max(len(kind) for row in layouts for *_, kind in row)
        padded = lambda values: values + [0] * (length - len(values))
        self.source, self.kind = (torch.tensor([[padded(cell[i]) for cell in row] for row in layouts], device=device) for i in (1, 2))
        picture = torch.zeros_like(self.kind)  # patches have ids of their own
        for row, cells in zip(picture, layouts, strict=True):
            for mask, (segments, *_) in zip(row, cells, strict=True):
                mask[texts[0] : texts[0] + segments[1][0] * segments[1][1]] = SYMBOLS
        self.shift = picture
        angles = torch.stack([angle_tables([arm[:3]], [c[0] for c in row], d, length)[0] for arm, row in zip(arms, layouts, strict=True)])
        self.cos, self.sin = (t.float().to(device) for t in (angles.cos(), angles.sin()))
    def __call__(self, size, symbols, rates):
        """size (S, B) indexes the sizes, symbols (S, B, length or more) -> ids, targets, kind, cos, sin, leading axis arm, rate, seed."""
        pick = lambda table: table[:, size]  # (arms, S, B, ..)
        spread = lambda t: t[:, None].expand(-1, rates, *t.shape[1:]).flatten(0, 2)
        kind, source = pick(self.kind), pick(self.source)
        symbols = symbols[..., : kind.shape[-1]].expand_as(kind)
        ids = torch.where(kind == 3, ROW_END, symbols + pick(self.shift))
        return *(spread(t) for t in (ids, symbols.gather(-1, source), kind)), *(spread(pick(t)[:, :, :, None]) for t in (self.cos, self.sin))
# fmt: on


# %% tags=["hide-input"]
def draw_symbols(generator, sizes, seeds, batch, length):
    """Which size each sequence has, (seeds, batch), and its symbols (seeds, batch, length)."""
    size = torch.randint(sizes, (seeds, batch), generator=generator, device=generator.device)
    return size, torch.randint(SYMBOLS, (seeds, batch, length), generator=generator, device=generator.device)


def copy_study(device, *, arms, rates, seeds, sizes, tests, texts, shape, steps, batch, tested):
    """Train every arm at every rate; at each arm's best rate (seen sizes, fresh data) the accuracy on every size of ``tests``.

    -> loss (arms, rates, seeds) on fresh data; best (arms) index of the rate; picture, text (arms, seeds, tests); over_rates (arms, rates,
    seeds) the accuracy on pictures, averaged over ``tests``.
    """
    d, depth, heads = shape
    runs = len(arms) * len(rates) * len(seeds)
    model = Reader(nn.Init(list(seeds) * (len(arms) * len(rates))), SYMBOLS * 2 + 1, d, depth, heads).to(device)
    lr = torch.tensor(rates).repeat_interleave(len(seeds)).repeat(len(arms))
    task = CopyTask(arms, sizes, texts, d // heads, device)
    length = task.kind.shape[-1]
    generator = torch.Generator(device=device).manual_seed(10_040)

    def score(task, size, symbols, rates):
        ids, targets, kind, cos, sin = task(size, symbols, rates)
        return losses_and_hits(model(ids, cos, sin), targets, kind, 2)

    train.fit_graphed(
        lambda size, symbols: score(task, size, symbols, len(rates))[0].sum(1),
        lambda step: draw_symbols(generator, len(sizes), len(seeds), batch, length),
        optim.StackedAdam(model.parameters(), lr),
        steps,
        schedule=optim.warmup_cosine,
    )
    with torch.no_grad():
        fresh = draw_symbols(generator, len(sizes), len(seeds), tested, length)
        loss = score(task, *fresh, len(rates))[0].sum(1).view(len(arms), len(rates), len(seeds)).cpu().nan_to_num(nan=99.0)
        best = loss.mean(2).argmin(1)
        hits = torch.empty(runs, len(tests), 2)
        for i, size in enumerate(tests):
            one = CopyTask(arms, [size], texts, d // heads, device)
            drawn = draw_symbols(generator, 1, len(seeds), tested, one.kind.shape[-1])
            hits[:, i] = score(one, *drawn, len(rates))[1].cpu()
    hits = hits.view(len(arms), len(rates), len(seeds), len(tests), 2)
    mine = hits[torch.arange(len(arms)), best]
    return {"loss": loss, "best": best, "picture": mine[..., 0], "text": mine[..., 1], "over_rates": hits[..., 0].mean(3)}


# %% tags=["hide-input"]
SPECIAL = ["picture", "end", "row?", "column?", "digit?"]
SIDE, LEVELS = 7, 8  # a digit of 28 x 28 pixels has 7 x 7 patches of 4 x 4 pixels; levels of ink


def patches_of(pictures):
    """Pictures (N, 28, 28) in [0, 1] -> patches (N, 49, 16) and their level of ink (N, 49): 0 where empty, else 1..7 by the mean."""
    cut = pictures.unflatten(-1, (SIDE, 4)).unflatten(-3, (SIDE, 4)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    ink = cut.mean(-1)
    return cut, torch.where(ink > 0, 1 + (ink * (LEVELS - 1)).long().clamp_max(LEVELS - 2), 0)


KINDS = {None: 0, "c": 1, "p": 2, "row": 3, "column": 4, "digit": 5}


def script(before, size, after, questions):
    """A sequence, word by word: (what stands there, what is asked there, which patch). Letters "c0", "c1", ..; patches "p0", "p1", ..

    A text of ``before`` letters, a picture of ``size`` = (h, w) patches with questions about it, ``after`` more letters; without ``size``
    the letters alone. -> segments, words.
    """
    letters = [(f"c{i}", f"c{i + 1}", None) for i in range(before + after)]
    if not size:
        return [before + after], letters
    n = size[0] * size[1]
    patches = [("picture", f"p{k + 1}" if k + 1 < n else None, k) for k in range(n)]
    asked = [word for q in questions for word in ((f"{q}?", q, None), (q, None, None))]
    words = [*letters[:before], ("picture", None, None), *patches, ("end", None, None), *asked, *letters[before:]]
    return [before + 1, tuple(size), 1 + len(asked) + after], words


# fmt: off
class Reading:
    """Sequences of letters, pictures and questions, by ``scripts``: every arm (scheme, allocation, base) sees the same sequences.

    A token is taken out of a bag: letters, SPECIAL, the answers row, column and digit, the levels of the picture's patches.
    """
    def __init__(self, arms, scripts, alphabet, letters, d, device):
        spoken = [f"c{i}" for i in range(letters + 1)] + [*SPECIAL, "row", "column", "digit"] + [f"p{k}" for k in range(SIDE**2)]
        place = {name: i for i, name in enumerate(spoken)} | {None: 0}
        length = max(len(words) for _, words in scripts)
        padded = lambda values, fill=0: values + [fill] * (length - len(values))
        kind_of = lambda name: KINDS[name if name in KINDS else name[0]]
        columns = [
            [padded([place[a] for a, *_ in words]), padded([place[b] for _, b, _ in words]), padded([kind_of(b) for _, b, _ in words])]
            for _, words in scripts
        ]
        self.source, self.target, self.kind = torch.tensor(columns, device=device).unbind(1)  # (scripts, T)
        self.patch = torch.tensor([padded([SIDE**2 if k is None else k for *_, k in words], SIDE**2) for _, words in scripts], device=device)
        sizes = [next((s for s in segments if not isinstance(s, int)), (1, 1)) for segments, _ in scripts]
        self.sizes = torch.tensor(sizes, device=device)
        angles = angle_tables(arms, [segments for segments, _ in scripts], d, length)
        self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)
        self.alphabet, self.special = alphabet, torch.arange(alphabet, alphabet + len(SPECIAL), device=device)
        self.answers, self.levels = alphabet + len(SPECIAL), alphabet + len(SPECIAL) + SIDE + 10
        self.vocabulary = self.levels + LEVELS
    def window(self, which, corner):
        """The places (S, B, 49) in a 7 x 7 grid of a window's patches, row by row; past its end the window repeats its last patch."""
        (h, w), k = self.sizes[which].unbind(-1), torch.arange(SIDE**2, device=which.device)
        k = torch.minimum(k, (h * w - 1)[..., None])
        return (corner[..., :1] + k // w[..., None]) * SIDE + corner[..., 1:] + k % w[..., None]
    def __call__(self, which, letters, cut, level, digit, corner, rates):
        """which (S, B) script; letters (S, B, n + 1); cut (S, B, 49, 16), level (S, B, 49), digit (S, B) and the window's corner (S, B, 2).

        -> ids, targets, kind, cos, sin, patches, leading axis arm, rate, seed.
        """
        at = self.window(which, corner)
        patches, ink = cut.gather(2, at[..., None].expand(*at.shape, cut.shape[-1])), level.gather(2, at)
        brightest = patches.mean(-1).argmax(2)  # the first of equals
        w = self.sizes[which][..., 1]
        answers = torch.stack([brightest // w, brightest % w, SIDE + digit], -1) + self.answers
        bag = torch.cat([letters, self.special.expand(*which.shape, -1), answers, ink + self.levels], -1)
        ids, targets = bag.gather(2, self.source[which]), bag.gather(2, self.target[which])
        patches = torch.cat([patches, torch.zeros_like(patches[:, :, :1])], 2)
        place = self.patch[which]
        shown = patches.gather(2, place[..., None].expand(*place.shape, patches.shape[-1]))
        arms = len(self.cos)
        spread = lambda t: t[None].expand(arms * rates, *t.shape).flatten(0, 1)
        turn = lambda t: t[:, None, which].expand(-1, rates, *which.shape, *t.shape[2:]).flatten(0, 2)[:, :, None]
        return spread(ids), spread(targets), spread(self.kind[which]), turn(self.cos), turn(self.sin), spread(shown)
# fmt: on


# %% tags=["hide-input"]
class Source:
    """Draws letters of a text and windows of pictures: ``draw`` gives the arguments of a ``Reading`` but ``rates``."""

    def __init__(self, reading, weights, text, pictures, labels, letters, generator):
        self.reading, self.weights, self.generator = reading, torch.tensor(weights, device=generator.device), generator
        self.cut, self.level = patches_of(pictures[:, 0] / 2 + 0.5)
        self.text, self.labels, self.letters = text, labels, letters

    def draw(self, seeds, batch):
        g = self.generator
        uniform = lambda high, *shape: torch.randint(high, shape, generator=g, device=g.device)
        which = torch.multinomial(self.weights, seeds * batch, replacement=True, generator=g).view(seeds, batch)
        start = uniform(len(self.text) - self.letters, seeds, batch, 1)
        letters = self.text[start + torch.arange(self.letters + 1, device=g.device)]
        example = uniform(len(self.labels), seeds, batch)
        room = SIDE + 1 - self.reading.sizes[which]
        corner = (torch.rand(seeds, batch, 2, generator=g, device=g.device) * room).long()
        return which, letters, self.cut[example], self.level[example], self.labels[example], corner


# %% tags=["hide-input"]
def reading_scores(model, reading, drawn, rates, precision):
    """Losses and hits (R, 5) of the five kinds of question on what a ``Source`` drew."""
    ids, targets, kind, cos, sin, patches = reading(*drawn, rates)
    return losses_and_hits(model(ids, cos, sin, patches, precision), targets, kind, len(KINDS) - 1)


def questions_study(device, *, arms, rates, seeds, sizes, tests, shape, steps, batch, tested, bf16):
    """Windows of digits of ``sizes``, the level of each next patch, then row and column of the brightest patch, and the digit.

    -> loss (arms, rates, seeds) on half of the test digits, windows of seen sizes; best (arms); and on the other half, at the best rate,
    losses and hits (arms, seeds, tests, kinds): next patch, row, column, digit.
    """
    d, depth, heads = shape
    pictures, precision = data.pictures("mnist28").to(device), torch.bfloat16 if bf16 else torch.float32
    generator = torch.Generator(device=device).manual_seed(4_000)

    def source(sizes, pictures, labels):
        reading = Reading(arms, [script(0, size, 0, ["row", "column", "digit"]) for size in sizes], 1, 0, d // heads, device)
        text = torch.zeros(2, dtype=torch.int64, device=device)
        return Source(reading, [1.0] * len(sizes), text, pictures, labels, 0, generator)

    learn = source(sizes, pictures.train, pictures.train_labels)
    runs = len(arms) * len(rates)
    model = Reader(nn.Init(list(seeds) * runs), learn.reading.vocabulary, d, depth, heads, pixels=16).to(device)
    train.fit_graphed(
        lambda *drawn: reading_scores(model, learn.reading, drawn, len(rates), precision)[0].sum(1),
        lambda step: learn.draw(len(seeds), batch),
        optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)).repeat(len(arms))),
        steps,
        schedule=optim.warmup_cosine,
    )
    by_arm = lambda t: t.view(len(arms), len(rates), len(seeds), *t.shape[1:]).cpu()
    with torch.no_grad():
        check = source(sizes, pictures.test[:500], pictures.test_labels[:500])
        loss = by_arm(reading_scores(model, check.reading, check.draw(len(seeds), tested), len(rates), precision)[0].sum(1))
        best = loss.nan_to_num(nan=99.0).mean(2).argmin(1)
        rows = []
        for size in tests:
            one = source([size], pictures.test[500:], pictures.test_labels[500:])
            scores = reading_scores(model, one.reading, one.draw(len(seeds), tested), len(rates), precision)
            rows.append([by_arm(t[:, 1:])[torch.arange(len(arms)), best] for t in scores])
    losses, hits = (torch.stack(t, 2) for t in zip(*rows, strict=True))
    return {"loss": loss.nan_to_num(nan=99.0), "best": best, "losses": losses, "hits": hits}


# %% tags=["hide-input"]
def two_stages(device, *, arms, first, rates, seeds, sizes, letters, shape, steps, batches, marks, tested, bf16):
    """Train on text with RoPE-1D at the rate ``first``, then go on, half text, half text with a picture and its digit, with every arm.

    ``letters`` before and after the picture, ``steps`` and ``batches`` of the two stages. -> first: held-out loss a letter after stage one
    (seeds); text: the same at step ``marks`` of stage two (marks, arms, rates, seeds); mixed (marks, arms, rates, seeds, 3): a letter, a
    patch's level and the digit in sequences with a picture.
    """
    d, depth, heads = shape
    pictures, precision = data.pictures("mnist28").to(device), torch.bfloat16 if bf16 else torch.float32
    ids, alphabet = data.encode_characters(data.shakespeare())
    ids, n = ids.to(device), sum(letters)
    cut = len(ids) * 19 // 20
    plain, mixed = script(n, None, 0, []), [script(letters[0], size, letters[1], ["digit"]) for size in sizes]
    weights = [float(len(sizes)), *[1.0] * len(sizes)]

    def source(arms, scripts, weights, seed, held_out=False):
        reading = Reading(arms, scripts, len(alphabet), n, d // heads, device)
        digits = (pictures.test, pictures.test_labels) if held_out else (pictures.train, pictures.train_labels)
        generator = torch.Generator(device=device).manual_seed(seed)
        return Source(reading, weights, ids[cut:] if held_out else ids[:cut], *digits, n, generator)

    def stage(model, learn, lr, count, steps, batch, watch):
        train.fit_graphed(
            lambda *drawn: reading_scores(model, learn.reading, drawn, count, precision)[0].sum(1),
            lambda step: learn.draw(len(seeds), batch),
            optim.StackedAdam(model.parameters(), lr),
            steps,
            schedule=optim.warmup_cosine,
            watch=watch,
        )

    learn = source([("flattened", "interleaved", 1e4)], [plain], [1.0], 5_000)
    young = Reader(nn.Init(list(seeds)), learn.reading.vocabulary, d, depth, heads, pixels=16).to(device)
    stage(young, learn, torch.full((len(seeds),), first), 1, steps[0], batches[0], lambda *_: None)
    runs = len(arms) * len(rates)
    model = Reader(nn.Init(list(seeds) * runs), learn.reading.vocabulary, d, depth, heads, pixels=16).to(device)
    with torch.no_grad():
        for new, old in zip(model.parameters(), young.parameters(), strict=True):
            new.copy_(old.repeat(runs, *[1] * (old.ndim - 1)))
    tests = [source(arms, scripts, [1.0] * len(scripts), 5_001, held_out=True) for scripts in ([plain], mixed)]
    drawn = [test.draw(len(seeds), tested) for test in tests]
    by_arm = lambda t: t.view(len(arms), len(rates), len(seeds), *t.shape[1:]).cpu().nan_to_num(nan=99.0)
    curves = {"text": [], "mixed": []}

    @torch.no_grad()
    def mark(step, losses=None):
        if step + 1 in marks:
            text, mix = (reading_scores(model, test.reading, d, len(rates), precision)[0] for test, d in zip(tests, drawn, strict=True))
            curves["text"].append(by_arm(text[:, 0]))
            curves["mixed"].append(by_arm(mix[:, [0, 1, 4]]))

    mark(-1)
    learn = source(arms, [plain, *mixed], weights, 5_002)
    lr = torch.tensor(rates).repeat_interleave(len(seeds)).repeat(len(arms))
    stage(model, learn, lr, len(rates), steps[1], batches[1], mark)
    with torch.no_grad():
        one = source([("flattened", "interleaved", 1e4)], [plain], [1.0], 5_001, held_out=True)
        before = reading_scores(young, one.reading, drawn[0], 1, precision)[0][:, 0]
    return {"first": before, **{name: torch.stack(rows) for name, rows in curves.items()}}


# %%
SEEN = nb.at_scale(
    cpu=[[3, 3], [3, 5], [5, 3], [4, 4], [4, 6], [6, 4]],
    gpu=[[4, 4], [4, 6], [6, 4], [5, 8], [8, 5], [6, 6], [3, 8]],
    full=[[4, 4], [4, 6], [6, 4], [5, 8], [8, 5], [6, 6], [3, 8]],
)
UNSEEN = nb.at_scale(cpu=[[5, 8], [8, 8], [3, 9]], gpu=[[6, 10], [10, 10], [3, 12]], full=[[6, 10], [10, 10], [3, 12]])
SQUARE = [[h, w] for h in range(2, 13) for w in range(2, 13)]
ARMS1 = [[name, "interleaved", 1e4, 0] for name in SCHEMES[:-1]]
ARMS1 += [["flattened", "interleaved", 1e4, 1], ["TV", "interleaved", 1e4, 1], ["page", "shared", 1e4, 0]]
LIVE1 = [[name, "interleaved", 1e4, 0] for name in ("flattened", "Tie", "TV", "M-RoPE, 2 axes")]
RATES = [6e-4, 1.6e-3, 4e-3, 1e-2, 2.5e-2]
COPY = nb.at_scale(
    cpu={"rates": [1e-2], "seeds": [0, 1, 2], "texts": [4, 3], "shape": [48, 1, 2], "steps": 150, "batch": 24, "tested": 32},
    gpu={"rates": RATES[1:4], "seeds": [0, 1, 2], "texts": [6, 4], "shape": [64, 1, 2], "steps": 600, "batch": 48, "tested": 64},
    full={"rates": RATES, "seeds": [0, 1, 2, 3, 4], "texts": [6, 4], "shape": [64, 1, 2], "steps": 1000, "batch": 48, "tested": 32},
)
e1 = nb.run(
    "E1",
    copy_study,
    arms=nb.at_scale(cpu=LIVE1, gpu=ARMS1, full=ARMS1),
    sizes=SEEN,
    tests=nb.at_scale(cpu=[*SEEN, *UNSEEN], gpu=[*SEEN, *UNSEEN], full=SQUARE),
    **COPY,
)

# %%
HALVES = ["interleaved", "sections", "sections, columns first", "shared"]
ARMS2 = [[name, allocation, 1e4, 0] for name in ("TV", "M-RoPE, 2 axes") for allocation in HALVES]
ARMS2 += [["M-RoPE", allocation, base, 0] for allocation in ("interleaved", "sections") for base in (1e4, 1e6)]
LIVE2 = [["TV", "sections", 1e4, 0], ["TV", "sections, columns first", 1e4, 0]]  # interleaved is in E1
e2 = nb.run(
    "E2",
    copy_study,
    arms=nb.at_scale(cpu=LIVE2, gpu=ARMS2, full=ARMS2),
    sizes=SEEN,
    tests=[*SEEN, *UNSEEN],
    **(COPY | nb.at_scale(cpu={}, gpu={}, full={"seeds": [0, 1, 2, 3]})),
)
DEEP = {"shape": [64, 2, 2], "steps": 1500, "rates": RATES[:4], "seeds": [0, 1, 2]}
if nb.scale != "cpu":  # two layers instead of one
    e1b = nb.run("E1b", copy_study, arms=ARMS1, sizes=SEEN, tests=[*SEEN, *UNSEEN], **(COPY | DEEP))

# %%
ODD, EVEN = ([[h, w] for h in sides for w in sides] for sides in ((3, 5, 7), (4, 6)))
ARMS4 = [[name, "interleaved", 1e4] for name in ("flattened", "page", "Tie", "TV", "M-RoPE, 2 axes", "M-RoPE")]
QUESTIONS = nb.at_scale(
    cpu={"arms": ARMS4[2:5], "rates": [4e-3], "seeds": [0, 1, 2], "shape": [32, 2, 2], "steps": 20, "batch": 12, "tested": 32},
    gpu={"arms": ARMS4, "rates": [2e-3, 4e-3], "seeds": [0, 1, 2], "shape": [96, 2, 3], "steps": 1000, "batch": 32, "tested": 250},
    full={
        "arms": [*ARMS4, ["M-RoPE", "sections", 1e6]],
        "rates": [1e-3, 2e-3, 4e-3, 8e-3],
        "seeds": [0, 1, 2],
        "shape": [96, 2, 3],
        "steps": 2500,
        "batch": 32,
        "tested": 500,
    },
)
bf16 = nb.scale != "cpu" and runtime.has_bf16()
e4 = nb.run("E4", questions_study, sizes=ODD, tests=[*ODD, *EVEN], bf16=bf16, **QUESTIONS)

# %% tags=["hide-input"]
ARMS5 = [[name, "interleaved", 1e4] for name in ("flattened", "Tie", "TV", "M-RoPE, 2 axes", "M-RoPE", "page")]
ARMS5 += [["M-RoPE", "sections", 1e4], ["M-RoPE, 2 axes", "shared", 1e4]]
STAGES = nb.at_scale(
    cpu={
        "arms": [ARMS5[i] for i in (0, 2, 5, 7)],
        "letters": [16, 16],
        "shape": [32, 2, 2],
        "steps": [150, 4],
        "batches": [16, 6],
        "marks": [0, 4],
    },
    gpu={"arms": ARMS5, "letters": [48, 48], "shape": [128, 2, 2], "steps": [1000, 200], "batches": [64, 16], "marks": [0, 20, 200]},
    full={
        "arms": ARMS5,
        "letters": [48, 48],
        "shape": [192, 3, 3],
        "steps": [4000, 800],
        "batches": [64, 16],
        "marks": [0, 5, 20, 50, 100, 200, 400, 800],
    },
)
TUNING = nb.at_scale(
    cpu={"first": 1e-2, "rates": [4e-3], "tested": 24},
    gpu={"first": 3e-3, "rates": [1e-3, 3e-3], "tested": 128},
    full={"first": 3e-3, "rates": [3e-4, 1e-3, 3e-3, 1e-2], "tested": 128},
)
e5 = nb.run("E5", two_stages, seeds=[0, 1, 2], sizes=[[h, w] for h in (5, 6, 7) for w in (5, 6, 7)], bf16=bf16, **STAGES, **TUNING)


# %% [markdown]
# ### The code, tested
#
# A recorded number does not move when the code breaks. So the parts that made it are tested here, small and live: the model against one written with complex numbers and loops, the layout of the copy task against a
# drawing, the digits' questions against the raw pixels, the training of a stack against a single run.


# %% tags=["hide-input"]
def by_complex_numbers(model, run, ids, at, theta, allocation, patches=None):
    """The Reader's logits (T, vocabulary) for one sequence of one run: positions (T, axes), rotations as phases, attention by a loop."""
    part = lambda weight: weight[run].double()
    x = part(model.tokens.weight)[ids] + (0 if patches is None else patches.double() @ part(model.patches.weight))
    rms = lambda x, i: x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * model.gains[run, i].double()
    gelu = lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2
    for layer in range(model.depth):
        wq, wk, wv, wo = part(model.mix)[layer]
        h, out = rms(x, 2 * layer), []
        size = len(wq) // model.heads
        for head in range(model.heads):
            cols = slice(head * size, (head + 1) * size)
            q, k = (torch.view_as_complex((h @ m[:, cols]).unflatten(-1, (-1, 2)).contiguous()) for m in (wq, wk))
            v, rows = h @ wv[:, cols], []
            for n in range(len(ids)):
                apart = (at[n] - at[: n + 1])[:, allocation] * theta
                logits = (q[n] * k[: n + 1].conj() * torch.polar(torch.ones(()).double(), apart)).real.sum(-1) / math.sqrt(size)
                rows.append(logits.softmax(0) @ v[: n + 1])
            out.append(torch.stack(rows))
        x = x + torch.cat(out, 1) @ wo
        x = x + gelu(rms(x, 2 * layer + 1) @ part(model.up)[layer]) @ part(model.down)[layer]
    return rms(x, 2 * model.depth) @ part(model.head.weight)


cpu, texts3 = torch.device("cpu"), [3, 2]
probe_arms = [
    ("Tie", "interleaved", 1e4, 0),
    ("M-RoPE", "sections", 1e6, 1),
    ("TV", "shared", 1e4, 0),
    ("M-RoPE, 2 axes", "sections, columns first", 1e4, 0),
]
probe = Reader(nn.Init([0, 1, 0, 1, 0, 1, 0, 1]), 2 * SYMBOLS + 1, 32, 2, 2)
with torch.no_grad():
    probe.gains.add_(0.3 * torch.randn(probe.gains.shape, generator=torch.Generator().manual_seed(2)))
probe_task = CopyTask(probe_arms, [(3, 2), (2, 3)], texts3, 16, cpu)
probe_size, probe_symbols = draw_symbols(torch.Generator().manual_seed(1), 2, 2, 4, probe_task.kind.shape[-1])
ids, targets, kind, cos, sin = probe_task(probe_size, probe_symbols, 1)
with torch.no_grad():
    stacked = probe(ids, cos, sin)
gap = 0.0
for run, b in itertools.product(range(8), range(4)):
    scheme, allocation, base, ends = probe_arms[run // 2]
    hh, ww = [(3, 2), (2, 3)][int(probe_size[run % 2, b])]
    at = place(scheme, [3, (hh, ww + ends), 2])
    known = {
        "shared": (rope_frequencies(8).repeat(2), torch.tensor([0] * 4 + [1] * 4)),
        "sections, columns first": (rope_frequencies(16), torch.tensor([1] * 4 + [0] * 4)),
    }
    known |= {
        "interleaved": (rope_frequencies(16), torch.arange(8) % 2),
        "sections": (rope_frequencies(16, 1e6), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])),
    }
    with torch.no_grad():
        plain = by_complex_numbers(probe, run, ids[run, b, : len(at)], at, *known[allocation])
    gap = widest(gap, entry_gap(plain, stacked[run, b, : len(at)]))


# %% tags=["hide-input"]
def drawn_by_hand(before, picture, after):
    """Ids, right answers (or None) and kinds of a copy task, from lists: a text, the rows of a picture (None ends a row), a text."""
    ids, answers = list(before), [None, *before[:-1]]
    for i, row in enumerate(picture):
        ids += [32 if c is None else 16 + c for c in row]
        answers += [None if c is None or i == 0 else picture[i - 1][j] for j, c in enumerate(row)]
    return [*ids, *after], [*answers, None, *after[:-1]]


mismatch = 0
for run, b in itertools.product(range(8), range(4)):
    ends, (hh, ww) = probe_arms[run // 2][3], [(3, 2), (2, 3)][int(probe_size[run % 2, b])]
    said = probe_symbols[run % 2, b].tolist()
    cells = iter(said[3:])
    rows = [[next(cells) for _ in range(ww + ends)] for _ in range(hh)]
    rows = [[*row[:-1], None] if ends else row for row in rows]
    wanted_ids, answers = drawn_by_hand(said[:3], rows, [next(cells), next(cells)])
    count = len(wanted_ids)
    kinds = [0 if a is None else 1 if 3 <= t < count - 2 else 2 for t, a in enumerate(answers)]
    mismatch += wanted_ids != ids[run, b, :count].tolist()
    mismatch += kinds != [k % 3 for k in kind[run, b, :count].tolist()] or bool(kind[run, b, count:].any())
    mismatch += [a for a in answers if a is not None] != [int(x) for x, k in zip(targets[run, b], kind[run, b], strict=True) if 0 < k < 3]
loss2, hit2 = losses_and_hits(stacked, targets, kind, 2)
log_p = stacked.double().log_softmax(-1)
by_hand = [
    [[-float(log_p[r, b, n, targets[r, b, n]]) for b in range(4) for n in range(kind.shape[-1]) if kind[r, b, n] == k] for k in (1, 2)]
    for r in range(8)
]
right = [
    [float(stacked[r, b, n].argmax() == targets[r, b, n]) for b in range(4) for n in range(kind.shape[-1]) if kind[r, b, n] == 1]
    for r in range(8)
]
nb.claim(
    "X5",
    "The model, the layout, the losses and the training of the copy task are what the text says.",
    "verified",
    holds=[
        ledger.less("largest difference of a logit, four arms, against complex numbers and loops", gap, 1e-3, machine=True),
        ledger.close("sequences (ids, answers or kinds) that differ from a drawing", mismatch, 0, abs=0.5, scope="32 sequences"),
        *[
            ledger.close(f"loss of kind {k + 1}, run {r}", float(loss2[r, k]), float(np.mean(by_hand[r][k])), rel=1e-4, machine=True)
            for r, k in ((0, 0), (3, 1), (6, 0))
        ],
        ledger.close(
            "share of right answers, kind 1, all runs",
            float(hit2[:, 0].sum()),
            sum(float(np.mean(x)) for x in right),
            abs=1e-4,
            machine=True,
        ),
    ],
)

# %% tags=["hide-input"]
pair_arms, pair_rates = [["TV", "interleaved", 1e4, 0], ["Tie", "interleaved", 1e4, 0]], [1e-3, 3e-2]
brief = {
    "seeds": [0, 1],
    "sizes": [[2, 3], [3, 2]],
    "tests": [[2, 3], [4, 4]],
    "texts": texts3,
    "shape": [16, 1, 2],
    "steps": 4,
    "batch": 3,
    "tested": 5,
}
stack = copy_study(cpu, arms=pair_arms, rates=pair_rates, **brief)
alone = Reader(nn.Init([1]), 2 * SYMBOLS + 1, 16, 1, 2)
adam, generator = torch.optim.Adam(alone.parameters()), torch.Generator().manual_seed(10_040)
task = CopyTask([pair_arms[1]], brief["sizes"], texts3, 8, cpu)


def mine(count, task, sizes=2):
    """Seed 1's share of what both seeds draw, scored by the run that trains alone: losses and hits (1, 2)."""
    size, symbols = draw_symbols(generator, sizes, 2, count, task.kind.shape[-1])
    ids, targets, kind, cos, sin = task(size[1:], symbols[1:], 1)
    return losses_and_hits(alone(ids, cos, sin), targets, kind, 2)


for step in range(4):
    for group in adam.param_groups:  # rise over the first tenth, at least one step; then half a cosine down to a tenth
        group["lr"] = 3e-2 * (1 if step == 0 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 1) / 3)) / 2)
    adam.zero_grad()
    mine(3, task)[0].sum().backward()
    adam.step()
with torch.no_grad():
    alone_loss = float(mine(5, task)[0].sum())
    alone_hits = [mine(5, CopyTask([pair_arms[1]], [a], texts3, 8, cpu), 1)[1][0].tolist() for a in brief["tests"]]
picked = [int(np.argmin(np.mean(row, axis=1))) for row in stack["loss"].tolist()]
print(
    "fresh loss of run (Tie, 3e-2, seed 1), stacked and alone:",
    ledger.number(stack["loss"][1, 1, 1], machine=True),
    ledger.number(alone_loss, machine=True),
)

# %% tags=["hide-input"]
real, labels0 = data.pictures("mnist28").train[:40], data.pictures("mnist28").train_labels[:40]
quiz_sizes = [[3, 5], [6, 4], [7, 7]]
quiz = Reading(
    [("M-RoPE", "interleaved", 1e4)],
    [script(2, a, 2, ["row", "column", "digit"]) for a in quiz_sizes] + [script(4, None, 0, [])],
    30,
    4,
    16,
    cpu,
)
source0 = Source(quiz, [1.0] * 4, torch.arange(30).repeat(3), real, labels0, 4, torch.Generator().manual_seed(3))
which, letters, cut, level, digit, corners = source0.draw(2, 12)
asked_ids, asked_targets, asked_kind, asked_cos, _, asked_patches = quiz(which, letters, cut, level, digit, corners, 1)
corner_room = [max(int(c) for c in corners[which == k].flatten()) for k in range(3)]
wrong, wrong_angle, seen_digit = 0, 0.0, 0
for b in range(12):
    story = letters[1, b].tolist()
    if which[1, b] == 3:
        wrong += (
            story[:4] != asked_ids[1, b, :4].tolist() or story[1:] != asked_targets[1, b, :4].tolist() or bool(asked_patches[1, b].any())
        )
        continue
    hh, ww = quiz_sizes[int(which[1, b])]
    number = next(n for n in range(40) if torch.equal(patches_of(real[n : n + 1, 0] / 2 + 0.5)[0][0], cut[1, b]))
    top, left = (int(c) for c in corners[1, b])
    window = real[number, 0, 4 * top : 4 * (top + hh), 4 * left : 4 * (left + ww)].double() / 2 + 0.5
    blocks = [[window[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for j in range(ww)] for i in range(hh)]
    ink = [[float(block.mean()) for block in row] for row in blocks]
    levels = [0 if x == 0 else 1 + min(6, int(7 * x)) for row in ink for x in row]
    top_ink = max(map(max, ink))
    r, c = next((i, j) for i in range(hh) for j in range(ww) if ink[i][j] > top_ink - 1e-9)
    # ids: 30 letters, then picture, end, row?, column?, digit?, then 0..6 for rows and columns, then ten digits, then eight levels
    ids_wanted = [*story[:2], 30, *[30] * (hh * ww), 31, 32, 35 + r, 33, 35 + c, 34, 42 + int(labels0[number]), *story[2:4]]
    kinds_wanted = [1, 1, 0, *[2] * (hh * ww - 1), 0, 0, 3, 0, 4, 0, 5, 0, 1, 1]
    answers_wanted = [*story[1:3], *[52 + x for x in levels[1:]], 35 + r, 35 + c, 42 + int(labels0[number]), *story[3:5]]
    n = len(ids_wanted)
    wrong += ids_wanted != asked_ids[1, b, :n].tolist() or kinds_wanted != asked_kind[1, b, :n].tolist() or bool(asked_kind[1, b, n:].any())
    wrong += answers_wanted != [int(x) for x, k in zip(asked_targets[1, b], asked_kind[1, b], strict=True) if k]
    wrong += not torch.allclose(
        torch.stack([x.flatten() for row in blocks for x in row]), asked_patches[1, b, 3 : 3 + hh * ww].double(), atol=1e-6
    )
    wrong += bool(asked_patches[1, b, :3].any() or asked_patches[1, b, 3 + hh * ww :].any())
    angles = mrope([3, (hh, ww), 9])[:, torch.arange(8) % 3] * rope_frequencies(16)
    wrong_angle = widest(wrong_angle, entry_gap(angles.cos(), asked_cos[1, b, 0, :n]))
    seen_digit += 1

# %% tags=["hide-input"]
drawn_from, plain_source = [], Source


class Watched(plain_source):
    """A Source that notes what it may draw from."""

    def __init__(self, reading, weights, text, pictures, labels, letters, generator):
        super().__init__(reading, weights, text, pictures, labels, letters, generator)
        drawn_from.append((weights, text, pictures.flatten(1)))


Source = Watched
tiny4 = questions_study(
    cpu,
    arms=ARMS4[2:4],
    rates=[1e-9, 2e-2],
    seeds=[0, 1],
    sizes=ODD[:2],
    tests=[ODD[0]],
    shape=[16, 1, 2],
    steps=12,
    batch=8,
    tested=40,
    bf16=False,
)
tiny5 = two_stages(
    cpu,
    arms=[ARMS5[0], ARMS5[5], ARMS5[1]],
    first=1e-2,
    rates=[1e-9, 1e-2],
    seeds=[0, 1],
    sizes=[[5, 6], [6, 5]],
    letters=[6, 5],
    shape=[16, 1, 2],
    steps=[6, 5],
    batches=[4, 4],
    marks=[0, 5],
    tested=6,
    bf16=False,
)
Source = plain_source
# E4 makes sources to learn, to choose the rate and to report; E5 the first stage, two tests (plain, mixed), the second stage, a last test
learned, chooses, reports = (drawn_from[k][2] for k in range(3))
apart4 = min(float(torch.cdist(reports, other).min()) for other in (learned, chooses))
(_, text_learned, ink_learned), (_, text_held, ink_held), second_stage = drawn_from[3], drawn_from[4], drawn_from[6]
apart5 = float(torch.cdist(ink_held, ink_learned).min())
whole_text = data.encode_characters(data.shakespeare())[0]
text5 = torch.as_tensor(tiny5["text"])  # (marks, arms, rates, seeds)
nb.claim(
    "X6",
    "A run in a stack trains as it would alone under torch's Adam; the digits' questions are those of the pixels; the second stage starts where the first ended.",
    "verified",
    holds=[
        ledger.close("fresh loss of one of eight runs, alone", alone_loss, float(stack["loss"][1, 1, 1]), rel=1e-4, machine=True),
        ledger.close(
            "its hits on two test sizes, pictures and text, if its rate is best",
            float(np.abs(np.array(alone_hits) - np.stack([stack["picture"][1, 1].numpy(), stack["text"][1, 1].numpy()], 1)).max())
            if int(stack["best"][1]) == 1
            else 1.0,
            0,
            abs=1e-4,
            machine=True,
        ),
        ledger.close(
            "picked rates that are not the best by mean loss",
            sum(a != int(b) for a, b in zip(picked, stack["best"], strict=True)),
            0,
            abs=0.5,
        ),
        ledger.close("quiz sequences that differ from the raw pixels", wrong, 0, abs=0.5, scope=f"{seen_digit} digits"),
        ledger.less("largest difference of a cosine", wrong_angle, 1e-5, machine=True),
        ledger.close(
            "largest corners of the three windows, as 100 a + 10 b + c",
            100 * corner_room[0] + 10 * corner_room[1] + corner_room[2],
            430,
            abs=0.5,
        ),
        ledger.more(
            "E4: the larger rate learns, fall of the loss", float((tiny4["loss"][:, 0] - tiny4["loss"][:, 1]).min()), 0.3, machine=True
        ),
        ledger.less(
            "E4: the tiny rate does not: difference of the arms' first losses", float(tiny4["loss"][:, 0].std(0).max()), 0.5, machine=True
        ),
        ledger.close(
            "E5: flattened text at step 0 less the end of stage one",
            float((text5[0, 0] - torch.as_tensor(tiny5["first"])).abs().max()),
            0,
            abs=1e-4,
            machine=True,
        ),
        ledger.close("E5: RoPE-Tie's", float((text5[0, 2] - torch.as_tensor(tiny5["first"])).abs().max()), 0, abs=1e-4, machine=True),
        ledger.more("E5: the page's", float((text5[0, 1] - torch.as_tensor(tiny5["first"])).abs().min()), 1e-3, machine=True),
        ledger.close("E5: the tiny rate stays there", float((text5[1, :, 0] - text5[0, :, 0]).abs().max()), 0, abs=1e-4, machine=True),
        ledger.more("E4: least distance of a digit reported on to one learned or chosen by", apart4, 1e-3, machine=True),
        ledger.close("E4: digits to learn, choose, report", len(learned) * 10**6 + len(chooses) * 1000 + len(reports), 4000500500, abs=0.5),
        ledger.more("E4: smallest loss of the four kinds", float(tiny4["losses"].min()), 0.1, machine=True),
        ledger.close("E4: share of arms that pick the rate that learns", float(tiny4["best"].double().mean()), 1, abs=1e-9),
        ledger.more("E5: least distance of a held-out digit to one learned", apart5, 1e-3, machine=True),
        ledger.close(
            "E5: characters in which text learned, then text held out, differ from the whole",
            int((torch.cat([text_learned, text_held]) != whole_text).sum()),
            0,
            abs=0.5,
        ),
        ledger.close("E5: share of sequences with text alone", second_stage[0][0] / sum(second_stage[0]), 0.5, abs=1e-9),
        ledger.more("E5: smallest loss of letters, patches and digit", float(tiny5["mixed"].min()), 0.1, machine=True),
        ledger.more("E5: the larger rate moves", float((text5[1, :, 1] - text5[0, :, 1]).abs().min()), 1e-2, machine=True),
    ],
)

# %% tags=["hide-input"]
e1_record, e1b_record, e2_record, e4_record, e5_record = (nb.recorded(id) for id in ("E1", "E1b", "E2", "E4", "E5"))


def arm_name(arm):
    """What an arm is called in tables and figures."""
    name = {
        "page": "page layout",
        "Tie": "RoPE-Tie",
        "Tie, smallest": "RoPE-Tie, smallest integers",
        "Tie, equivalent": "RoPE-Tie, wh tokens",
        "TV": "RoPE-TV",
    }.get(arm[0], arm[0])
    return name + (", repeated θ" if arm[1] == "shared" else "") + (", row ends" if arm[3:] == [1] else "")


def at_sizes(run, config, sizes, what="picture"):
    """Accuracy on some of the tested sizes: (arms, seeds, sizes)."""
    where = [config["tests"].index(list(a)) for a in sizes]
    return np.array(run[what])[:, :, where]


columns1 = [*far_sizes]
table1 = []
for record, layers in ((e1_record, "1"), (e1b_record, "2")):
    seen_acc, far_acc = (at_sizes(record.result, record.config, a) for a in (record.config["sizes"], far_sizes))
    text_acc = at_sizes(record.result, record.config, record.config["sizes"], "text").mean(2)
    for a, arm in enumerate(record.config["arms"]):
        rate = record.config["rates"][record.result["best"][a]]
        table1.append(
            [
                arm_name(arm),
                layers,
                f"{rate:g}",
                ledger.with_error(seen_acc[a].mean(1), 2),
                *(ledger.with_error(far_acc[a, :, k], 2) for k in range(3)),
                ledger.with_error(text_acc[a], 2),
            ]
        )
nb.results(
    "E1",
    "Share of patches that name the patch above, and of text tokens that name the token before; mean ± standard error over seeds, at each arm's best rate (recorded)",
    ["positions", "layers", "rate", "seen sizes", *(f"{a}×{b}" for a, b in far_sizes), "text"],
    table1,
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Six heat maps of the share of patches that name the patch above, for pictures of 2 to 12 rows and columns, the seven training sizes outlined in red. Flattened is dark nearly everywhere, with row ends too. The page layout and RoPE-TV are bright nearly everywhere. RoPE-Tie and RoPE-Tie with wh tokens are bright around the training sizes and dark or patchy for wide pictures."}}
panels_of = ["flattened", "flattened, row ends", "page layout", "RoPE-Tie", "RoPE-Tie, wh tokens", "RoPE-TV"]
names1 = [arm_name(arm) for arm in e1_record.config["arms"]]
heats = {}
figure, panels = plt.subplots(2, 3, figsize=(8.2, 5.4), sharex=True, sharey=True)
for axes, name in zip(panels.flat, panels_of, strict=True):
    heats[name] = heat = np.array(e1_record.result["picture"])[names1.index(name)].mean(0).reshape(11, 11)
    shown = axes.imshow(heat, origin="lower", extent=(1.5, 12.5, 1.5, 12.5), vmin=0, vmax=1, cmap="cividis")
    for a, b in e1_record.config["sizes"]:
        axes.add_patch(plt.Rectangle((b - 0.5, a - 0.5), 1, 1, fill=False, ec=RED, lw=1.8))
    axes.set_title(name, fontsize=10)
    axes.grid(False)
for axes in panels[1]:
    axes.set_xlabel("columns w")
for axes in panels[:, 0]:
    axes.set_ylabel("rows h")
figure.colorbar(shown, ax=panels, shrink=0.8, label="share of patches right")
figure.suptitle(
    "Unit steps generalise to larger pictures; RoPE-Tie fades beyond the sizes it saw (red)",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input", "nbval-ignore-output"]
live_far = (
    {arm_name(arm): at_sizes(e1, {"tests": [*SEEN, *UNSEEN]}, UNSEEN)[a].mean(1) for a, arm in enumerate(LIVE1)}
    if nb.scale == "cpu"
    else {}
)
live_text = {arm_name(arm): np.array(e1["text"])[a].mean(1) for a, arm in enumerate(LIVE1)} if nb.scale == "cpu" else {}
for name, row in live_far.items():
    print(
        f"live, d = 48, {COPY['steps']} steps: {name:15} larger sizes {ledger.with_error(row, 2)}, text {ledger.with_error(live_text[name], 2)}"
    )

# %% [markdown]
# As expected for pictures, but not for text: that is learned on the page as well, and flattened; half of the pairs suffice for "the token before". Three remarks.
#
# (1) Flattened, the width of a picture is nowhere to be seen; with a token at the end of each
# row two layers learn the seen sizes perfectly, and still do not generalise (0.18 at $6\times10$).
#
# (2) The best rate lies at the upper edge of the grid for most arms, so the table may understate them. The comparison does not hang on it: at *every* rate of the
# grid RoPE-TV with one layer is right at 96% or more of all places of all 121 sizes and RoPE-Tie at 71% or less; flattening with two layers has its best rate inside.
#
# (3) RoPE-TV and M-RoPE's two axes are the same grid inside a picture, and do about equally well, a little worse in the strip $3\times12$. The fractions of "wh
# tokens" lie in between. (The real M-RoPE, with three axes, is in E2 and E4.)

# %% tags=["hide-input"]
far1 = {name: at_sizes(e1_record.result, e1_record.config, far_sizes)[a] for a, name in enumerate(names1)}
seen1 = {name: at_sizes(e1_record.result, e1_record.config, e1_record.config["sizes"])[a] for a, name in enumerate(names1)}
text1 = {name: np.array(e1_record.result["text"])[a].mean(1) for a, name in enumerate(names1)}
deep = {arm_name(arm): at_sizes(e1b_record.result, e1b_record.config, far_sizes)[a] for a, arm in enumerate(e1b_record.config["arms"])}
deep_seen = {
    arm_name(arm): at_sizes(e1b_record.result, e1b_record.config, e1b_record.config["sizes"])[a]
    for a, arm in enumerate(e1b_record.config["arms"])
}
rates1 = {name: np.array(e1_record.result["over_rates"])[a].mean(1) for a, name in enumerate(names1)}
nb.experiment(
    "E1",
    "Trained to copy the patch above, unit-step schemes are right at larger pictures than they saw, RoPE-Tie is not; a flattened picture is not learned even at seen sizes by one layer, or by two without row ends.",
    "verified",
    holds=[
        *[
            ledger.better(
                f"{size[0]} × {size[1]}: RoPE-TV over RoPE-Tie", far1["RoPE-TV"][:, k], far1["RoPE-Tie"][:, k], scope="full, 5 seeds"
            )
            for k, size in enumerate(far_sizes)
        ],
        *[
            ledger.more(f"{size[0]} × {size[1]}: RoPE-TV", float(far1["RoPE-TV"][:, k].mean()), 0.85, scope="full, 5 seeds")
            for k, size in enumerate(far_sizes)
        ],
        *[
            ledger.less(f"{size[0]} × {size[1]}: RoPE-Tie", float(far1["RoPE-Tie"][:, k].mean()), 0.5, scope="full, 5 seeds")
            for k, size in enumerate(far_sizes)
        ],
        ledger.better(
            "larger sizes, M-RoPE's two axes over RoPE-Tie", far1["M-RoPE, 2 axes"].mean(1), far1["RoPE-Tie"].mean(1), scope="full, 5 seeds"
        ),
        *[
            ledger.less(f"{name} at seen sizes, {layers}", float(value.mean()), 0.6, scope=scope)
            for name, layers, value, scope in (
                ("flattened", "one layer", seen1["flattened"], "full, 5 seeds"),
                ("flattened, row ends", "one layer", seen1["flattened, row ends"], "full, 5 seeds"),
                ("flattened", "two layers", deep_seen["flattened"], "full, 3 seeds"),
            )
        ],
        ledger.more("flattened, row ends, two layers", float(deep_seen["flattened, row ends"].mean()), 0.97, scope="full, 3 seeds"),
        ledger.close(
            "the map's cell of 6 rows and 10 columns, RoPE-Tie", heats["RoPE-Tie"][4, 8], float(far1["RoPE-Tie"][:, 0].mean()), abs=1e-9
        ),
        ledger.more("all 121 sizes: RoPE-TV at its worst rate", float(rates1["RoPE-TV"].min()), 0.955, scope="full, 5 seeds"),
        ledger.less("all 121 sizes: RoPE-Tie at its best rate", float(rates1["RoPE-Tie"].max()), 0.715, scope="full, 5 seeds"),
        ledger.more(
            "all 121 sizes: the worst rate of RoPE-TV less the best of RoPE-Tie",
            float(rates1["RoPE-TV"].min() - rates1["RoPE-Tie"].max()),
            0.2,
            scope="full, 5 rates, 5 seeds",
        ),
        ledger.better("live, larger sizes: RoPE-TV over RoPE-Tie", live_far["RoPE-TV"], live_far["RoPE-Tie"], scope="cpu, 3 seeds"),
        ledger.better("live: RoPE-TV over flattened", live_far["RoPE-TV"], live_far["flattened"], scope="cpu, 3 seeds"),
    ],
)
nb.claim(
    "C9",
    "Beyond the sizes it saw RoPE-Tie, in which the offset of the patch above is w + 1, no longer finds it; with unit steps, where the offset is the same everywhere, the copy goes on.",
    "verified",
    holds=[
        sym.enumeration(
            "offset of the patch above at widths 4 .. 12, RoPE-Tie",
            range(4, 13),
            lambda w: int(rope_tie([1, (3, w)])[1 + w, 0] - rope_tie([1, (3, w)])[1, 0]),
            lambda w: w + 1,
        ),
        *[
            ledger.better(f"RoPE-TV over {name}, larger sizes", far1["RoPE-TV"].mean(1), far1[name].mean(1), scope="full, 5 seeds")
            for name in ("RoPE-Tie", "RoPE-Tie, smallest integers", "RoPE-Tie, wh tokens", "flattened", "flattened, row ends")
        ],
        ledger.more("M-RoPE's rows and columns, larger sizes", float(far1["M-RoPE, 2 axes"].mean()), 0.9, scope="full, 5 seeds"),
        ledger.more("RoPE-2D, page with repeated frequencies", float(far1["page layout, repeated θ"].mean()), 0.9, scope="full, 5 seeds"),
    ],
)
nb.claim(
    "C10",
    "The text of the same sequences is learned perfectly by the diagonal schemes; flattened or on a page it is not.",
    "partly",
    holds=[
        ledger.more(f"text at seen sizes, {name}", float(text1[name].mean()), 0.97, scope="full, 5 seeds")
        for name in ("RoPE-Tie", "RoPE-TV", "M-RoPE, 2 axes")
    ],
    fails=[
        ledger.more("flattened, with ids that tell patches from text", float(text1["flattened"].mean()), 0.97, scope="full, 5 seeds"),
        ledger.more("page layout", float(text1["page layout"].mean()), 0.97, scope="full, 5 seeds"),
        ledger.more(
            "flattened, live", float(live_text["flattened"].mean()) if live_text else 1.0, 0.95, machine=True, scope="cpu, 3 seeds"
        ),
    ],
)

# %% [markdown]
# ## E2: the allocation, trained
#
# **Question.** The bound says that the allocation decides what a head can resolve. Does training agree? **Set-up.** The task of E1; positions of RoPE-TV, of M-RoPE's two axes of space, and of M-RoPE with its three axes (contiguous sections
# in the proportion 4 : 6 : 6 of Qwen2-VL); twelve combinations of positions and allocation; five rates, four seeds. **Expected:** accuracy follows the margin $\rho$ of the best head. It did not, for one allocation; the figure shows the margin that was
# computed *afterwards*, without the condition that the query's own patch scores lower.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of patches right at seen sizes against the computed margin of the best head without the condition on the patch itself, log axis, twelve combinations of positions and allocation. Contiguous sections with slow columns have the smallest margins and 0.2 to 0.3 of the patches right; all others have larger margins and lie at 0.98 to 1.0."}}
short = {
    "interleaved": "interleaved",
    "sections": "contiguous",
    "sections, columns first": "contiguous, columns first",
    "shared": "repeated θ",
}
names2 = [(arm[0], arm[1], arm[2]) for arm in e2_record.config["arms"]]
seen2 = at_sizes(e2_record.result, e2_record.config, e2_record.config["sizes"]).mean(2)
rho2 = [
    widest_margin(lambda s, name=name: place(name, s), allocation, small_seen, base=base, own=False)[0] for name, allocation, base in names2
]
figure, axes = plt.subplots(figsize=(7.4, 4.2))
markers, colors2 = (
    {"TV": "o", "M-RoPE, 2 axes": "s", "M-RoPE": "^"},
    {"interleaved": BLUE, "sections": ORANGE, "sections, columns first": RED, "shared": GREEN},
)
for k, (name, allocation, base) in enumerate(names2):
    mean, error = seen2[k].mean(), seen2[k].std(ddof=1) / math.sqrt(seen2.shape[1])
    label = f"{'RoPE-TV' if name == 'TV' else name}, {short[allocation]}{', b = 10⁶' if base > 1e5 else ''}"
    axes.errorbar(rho2[k], mean, error, fmt=markers[name], color=colors2[allocation], ms=7, mec=BLACK, label=label)
axes.set(
    xscale="log",
    ylim=(0, 1.05),
    xlabel="margin of the best head, its own patch not a rival (computed, log axis)",
    ylabel="share of patches right, seen sizes",
)
axes.set_title("Contiguous: slow columns fail, slow rows can be learned")
axes.legend(fontsize=6.5, loc="center left", ncols=1)
nb.show(figure)

# %% tags=["hide-input"]
by2 = {key: seen2[k] for k, key in enumerate(names2)}
live2 = at_sizes(e2, {"tests": [*SEEN, *UNSEEN]}, SEEN).mean(2) if nb.scale == "cpu" else seen2[[1, 2]]
live_seen = (
    at_sizes(e1, {"tests": [*SEEN, *UNSEEN]}, SEEN).mean(2)[[arm[0] for arm in LIVE1].index("TV")] if nb.scale == "cpu" else seen2[0]
)
slow_rows = [k for k, key in enumerate(names2) if key[1] == "sections, columns first"]
slow_columns = [k for k, key in enumerate(names2) if key[1] == "sections"]
others2 = [k for k in range(len(names2)) if k not in slow_columns]
nb.experiment(
    "E2",
    "Trained accuracy follows the margin of the best head: contiguous sections with slow columns are not learned, interleaving is; but slow rows, with the same margin, are learned too.",
    "partly",
    holds=[
        ledger.better(
            "RoPE-TV: interleaved over contiguous", by2["TV", "interleaved", 1e4], by2["TV", "sections", 1e4], scope="full, 4 seeds"
        ),
        ledger.better(
            "M-RoPE, 3 axes: interleaved over contiguous",
            by2["M-RoPE", "interleaved", 1e4],
            by2["M-RoPE", "sections", 1e4],
            scope="full, 4 seeds",
        ),
        ledger.better("live: interleaved over contiguous", live_seen, live2[0], scope="cpu, 3 seeds"),
        ledger.better("live: interleaved over contiguous, columns first", live_seen, live2[1], scope="cpu, 3 seeds"),
    ],
    fails=[
        ledger.close(
            "ρ as defined: slow rows over slow columns, RoPE-TV",
            heads["RoPE-TV", "sections, columns first"][1] / heads["RoPE-TV", "sections"][1],
            1,
            abs=0.05,
        ),
        ledger.more(
            "accuracy: slow rows less slow columns, RoPE-TV",
            float(by2["TV", "sections, columns first", 1e4].mean() - by2["TV", "sections", 1e4].mean()),
            0.5,
            scope="full, 4 seeds",
        ),
        ledger.less(
            "own patch not a rival (post hoc): largest margin of an arm with slow columns over the smallest of the others",
            max(rho2[k] for k in slow_columns) / min(rho2[k] for k in others2),
            0.1,
        ),
        ledger.more(
            "smallest accuracy of the others less the largest with slow columns",
            float(seen2[others2].mean(1).min() - seen2[slow_columns].mean(1).max()),
            0.5,
            scope="full, 4 seeds",
        ),
    ],
)
nb.claim(
    "C11",
    "Interleaved the copy task is learned, with contiguous halves it is not, whichever axis gets the high frequencies.",
    "partly",
    holds=[
        ledger.more("interleaved, RoPE-TV", float(by2["TV", "interleaved", 1e4].mean()), 0.95, scope="full, 4 seeds"),
        *[
            ledger.less(f"{name}, contiguous, slow columns", float(by2[name, "sections", 1e4].mean()), 0.4, scope="full, 4 seeds")
            for name in ("TV", "M-RoPE, 2 axes")
        ],
    ],
    fails=[
        ledger.more(f"{names2[k][0]}, contiguous, slow rows, at its best rate", float(seen2[k].mean()), 0.95, scope="full, 4 seeds")
        for k in slow_rows
    ],
)

# %% [markdown]
# Halves with slow *rows* are learned after all, at high rates, with a margin as small as that of slow columns. The likely reason: what makes slow rows hard in X4 is the patch itself as a rival, and a layer knows its own symbol and can subtract it; left and right
# neighbours cannot be got around that way. Without that rival the margins fall into two groups as the accuracies do, but two groups, sorted after the fact, are an explanation and no confirmation.

# %% [markdown]
# ## E4: real digits, and questions about them
#
# **Question.** What do the schemes mean for pictures with content, and for questions asked in text? **Set-up.** A window of 3, 5 or 7 rows and columns is cut from the $7\times7$ patches of an MNIST digit (5,000 of them, 4,000 to train). The model
# predicts the level of ink (eight levels) of each next patch; then text asks for the row of the brightest patch, its column, and the digit. Two layers, $d=96$, three heads; four rates, three seeds; rates are chosen on 500 test digits, all
# numbers are from the other 500. Windows with even sides, 4 and 6, do not occur in training. **Expected:** flattening cannot tell rows and columns at sizes it has not seen. X1 makes a prediction that is less obvious: for "which row"
# a constant entry gap is worth more than symmetry, so M-RoPE should be ahead of RoPE-TV.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels, one row of points for each of seven schemes, sizes seen and not seen: loss of the next patch, and the share right for the row of the brightest patch, its column, and the digit. At seen sizes most planar schemes reach about 0.9 for row and column. At sizes not seen flattened and RoPE-Tie fall to 0.2 to 0.45, RoPE-TV to 0.56 for the row and 0.85 for the column, M-RoPE with two axes to about 0.8 for both. The digit differs little."}}
names4 = [arm_name(arm) + (", contiguous" if arm[1] == "sections" else "") for arm in e4_record.config["arms"]]
odd4 = [e4_record.config["tests"].index(list(a)) for a in ODD]
even4 = [e4_record.config["tests"].index(list(a)) for a in EVEN]
losses4, hits4 = np.array(e4_record.result["losses"]), np.array(e4_record.result["hits"])  # (arms, seeds, tests, kinds)
panels4 = {
    "next patch: loss (nats)": losses4[..., 0],
    "row of the brightest": hits4[..., 1],
    "its column": hits4[..., 2],
    "which digit": hits4[..., 3],
}
figure, panels = plt.subplots(1, 4, figsize=(9.2, 3.6), sharey=True)
for axes, (title, values) in zip(panels, panels4.items(), strict=True):
    for sizes4, shift, color, marker, label in ((odd4, 0.12, BLUE, "o", "sizes seen"), (even4, -0.12, ORANGE, "s", "sizes not seen")):
        each = values[:, :, sizes4].mean(2)
        axes.errorbar(
            each.mean(1),
            np.arange(len(names4))[::-1] + shift,
            xerr=each.std(1, ddof=1) / math.sqrt(each.shape[1]),
            fmt=marker,
            color=color,
            ms=5,
            label=label,
        )
    axes.set_yticks(range(len(names4)), names4[::-1], fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("nats" if "loss" in title else "share right")
panels[0].legend(fontsize=7)
figure.suptitle(
    "At sizes not seen: a constant gap before the picture does not decide who finds the row",
    fontsize=11,
    fontweight="bold",
    x=0.01,
    ha="left",
)
nb.show(figure)

# %% tags=["hide-input"]
mean4 = lambda kind, sizes4: {name: hits4[a][:, sizes4, kind].mean(1) for a, name in enumerate(names4)}
row_even, column_even, row_odd, digit_even = mean4(1, even4), mean4(2, even4), mean4(1, odd4), mean4(3, even4)
patch_even = {name: losses4[a][:, even4, 0].mean(1) for a, name in enumerate(names4)}
where4 = {name: (row_even[name] + column_even[name]) / 2 for name in names4}
nb.results(
    "E4",
    "Windows of MNIST digits, sizes not seen in training (4 and 6 rows or columns): share of right answers, and the loss of the next patch; mean ± standard error over 3 seeds (recorded)",
    ["positions", "row", "column", "digit", "next patch (nats)", "row, seen sizes"],
    [
        [
            name,
            *(ledger.with_error(t[name], 2) for t in (row_even, column_even, digit_even)),
            ledger.with_error(patch_even[name], 3),
            ledger.with_error(row_odd[name], 2),
        ]
        for name in names4
    ],
)
sem = lambda x: float(np.std(x, ddof=1)) / math.sqrt(len(x))
looped = lambda kind, rest: float(
    np.mean([hits4[:, :, k, kind] for k, (a, b) in enumerate(e4_record.config["tests"]) if a % 2 == b % 2 == rest])
)
nb.experiment(
    "E4",
    "Asked in text for row and column of the brightest patch at sizes not seen, RoPE-TV and M-RoPE's two axes are ahead of flattening and RoPE-Tie; a constant entry gap, as X1 suggests, puts M-RoPE's two axes ahead on rows, but neither the page nor the real M-RoPE, which have it too.",
    "partly",
    holds=[
        ledger.better("row: M-RoPE (2 axes) over RoPE-TV", row_even["M-RoPE, 2 axes"], row_even["RoPE-TV"], scope="full, 3 seeds"),
        ledger.better("row and column: RoPE-TV over RoPE-Tie", where4["RoPE-TV"], where4["RoPE-Tie"], scope="full, 3 seeds"),
        ledger.better(
            "row and column: M-RoPE (2 axes) over flattened", where4["M-RoPE, 2 axes"], where4["flattened"], scope="full, 3 seeds"
        ),
        ledger.less(
            "digit, sizes not seen: largest less smallest share of the seven arms",
            max(float(x.mean()) for x in digit_even.values()) - min(float(x.mean()) for x in digit_even.values()),
            0.1,
            scope="full, 3 seeds",
        ),
        *[
            ledger.close(
                f"{label}: mean over arms, seeds and sizes, by a loop",
                sum(float(x.mean()) for x in t.values()) / len(t),
                looped(k, rest),
                abs=1e-9,
            )
            for label, t, k, rest in (
                ("row, not seen", row_even, 1, 0),
                ("column, not seen", column_even, 2, 0),
                ("digit, not seen", digit_even, 3, 0),
                ("row, seen", row_odd, 1, 1),
            )
        ],
        ledger.better("next patch: loss, flattened over RoPE-TV", patch_even["flattened"], patch_even["RoPE-TV"], scope="full, 3 seeds"),
        ledger.more(
            "live: the loss falls from that of even guesses over 31 ids, three questions and patches",
            4 * math.log(31) - float(np.mean(e4["loss"])),
            1.0,
            machine=True,
            scope="cpu, 3 seeds",
        ),
    ],
    fails=[
        ledger.less(
            "column: M-RoPE (2 axes) less RoPE-TV",
            float(column_even["M-RoPE, 2 axes"].mean() - column_even["RoPE-TV"].mean()),
            0.0,
            scope="full, 3 seeds",
        ),
        ledger.close("entry gaps of a page, sizes of E4", len({entry(rope_2d, tuple(a)) for a in [*ODD, *EVEN]}), 1, abs=0.5),
        ledger.better("row: RoPE-TV over the page", row_even["RoPE-TV"], row_even["page layout"], scope="full, 3 seeds"),
        ledger.less(
            "row: lead of M-RoPE (3 axes) over RoPE-TV, in standard errors",
            float(row_even["M-RoPE"].mean() - row_even["RoPE-TV"].mean()) / math.hypot(*(sem(row_even[k]) for k in ("M-RoPE", "RoPE-TV"))),
            2.0,
            scope="full, 3 seeds",
        ),
        ledger.better("column: RoPE-TV over M-RoPE (3 axes)", column_even["RoPE-TV"], column_even["M-RoPE"], scope="full, 3 seeds"),
        ledger.better("next patch: loss, M-RoPE (3 axes) over RoPE-TV", patch_even["M-RoPE"], patch_even["RoPE-TV"], scope="full, 3 seeds"),
    ],
)

# %% [markdown]
# The prediction fails. M-RoPE's two axes do find rows best (0.82, RoPE-TV 0.56). But a page has the same constant entry gap here, and is the worst of all (0.28); and the real M-RoPE, with its axis of time, has no lead over RoPE-TV on rows (0.63)
# and is behind on columns (0.60 against 0.85) and on the next patch. The page, best of all on columns (0.92), hints at another gap: that to the *question*, whose column is constant on a page and whose row depends on $h$. We have not tested it, and three seeds
# are few. What stands: flattening and RoPE-Tie are behind RoPE-TV where row and column are taken together; RoPE-Tie is ahead of flattening on columns and the next patch, not on rows. The digit itself hardly depends on positions, as the post would expect.

# %% [markdown]
# ## E5: from a text model to a multimodal one
#
# **Question.** This is the case for compatibility: one starts from a language model. Does its text survive the change of positions? **Set-up.** A character model (three layers, $d=192$) is trained on Shakespeare with RoPE-1D, three seeds. Then
# the same weights go on under eight arms, half of the sequences text, half text, a picture of 5 to 7 rows and columns of patches, its digit, and more text. Four rates, three seeds; for each arm the rate with the lowest final loss (all
# kinds, held out; the table reports on the same draws). **Measured:** held-out loss on text *alone*, at the switch and after. **Expected:** no change at the switch for compatible schemes, a jump for the page and for repeated frequencies.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Held-out loss on text less that before the switch, against the step after the switch, for eight arms. The six compatible arms start at zero and stay below 0.06. The page layout starts at 1.7 and M-RoPE with repeated frequencies at 1.1 nats a character; both fall to about 0.04 within 800 steps."}}
names5 = [arm_name(arm) + (", contiguous" if arm[1] == "sections" else "") for arm in e5_record.config["arms"]]
text5_, mixed5 = np.array(e5_record.result["text"]), np.array(e5_record.result["mixed"])  # (marks, arms, rates, seeds), (.., 3)
final5 = (text5_[-1] + mixed5[-1].sum(-1)).mean(2)  # (arms, rates)
best5 = final5.argmin(1)
first5 = np.array(e5_record.result["first"])
curve5 = {name: text5_[:, a, best5[a]] for a, name in enumerate(names5)}  # (marks, seeds)
after5 = {name: mixed5[-1, a, best5[a]] for a, name in enumerate(names5)}  # (seeds, 3)
marks5 = e5_record.config["marks"]
figure, axes = plt.subplots(figsize=(7.4, 4.0))
styles = zip([BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY, BLACK], ["-", "--", "-.", ":", "-", "--", "-.", ":"], strict=True)
for (name, rows), (color, style) in zip(curve5.items(), styles, strict=True):
    jump = (rows - first5).mean(1), (rows - first5).std(1, ddof=1) / math.sqrt(len(first5))
    axes.errorbar([max(m, 2) for m in marks5], *jump, color=color, ls=style, marker="o", ms=4, label=name)
axes.set_xscale("log")
axes.set_xticks([2, 5, 20, 50, 200, 800], ["0", "5", "20", "50", "200", "800"])
axes.axhline(0, color=BLACK, lw=0.8)
axes.set(
    xlabel="steps after the switch (log axis; the switch itself at 2)", ylabel="change in text loss since the switch\n(nats per character)"
)
axes.set_title("At the switch only compatible schemes leave the text as it was")
axes.legend(fontsize=7.5)
nb.show(figure)

# %% tags=["hide-input"]
nb.results(
    "E5",
    "Held-out loss (nats) after stage one, right after the switch, and after 800 steps: text alone, and in sequences with a picture; mean ± standard error over 3 seeds (recorded)",
    [
        "positions",
        "rate",
        "text, jump at the switch",
        "text, 50 steps later",
        "text, 800 steps",
        "letters beside a picture",
        "next patch",
        "digit",
    ],
    [
        [
            name,
            f"{e5_record.config['rates'][best5[a]]:g}",
            ledger.with_error(curve5[name][0] - first5, 3),
            ledger.with_error(curve5[name][marks5.index(50)] - first5, 3),
            ledger.with_error(curve5[name][-1] - first5, 3),
            *(ledger.with_error(after5[name][:, k], 3) for k in range(3)),
        ]
        for a, name in enumerate(names5)
    ],
)

# %% tags=["hide-input"]
live_jump = (np.array(e5["text"])[0, :, 0] - np.array(e5["first"])) if nb.scale == "cpu" else np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
jump5 = {name: curve5[name][0] - first5 for name in names5}
misplaced = 0
for a in range(len(names5)):
    totals5 = [np.mean(text5_[-1, a, k]) + sum(np.mean(mixed5[-1, a, k, :, kind]) for kind in range(3)) for k in range(text5_.shape[2])]
    misplaced += min(totals5) < totals5[best5[a]] - 1e-9
compatible5 = ["flattened", "RoPE-Tie", "RoPE-TV", "M-RoPE, 2 axes", "M-RoPE", "M-RoPE, contiguous"]
nb.experiment(
    "E5",
    "A text model keeps its loss on text when it is switched to a compatible scheme, and loses at once on a page or with frequencies repeated one axis after the other; training repairs most of it.",
    "verified",
    holds=[
        ledger.less(
            "recorded: largest change at the switch, six compatible arms",
            max(float(np.abs(jump5[name]).max()) for name in compatible5),
            2e-3,
            scope="full, 3 seeds",
        ),
        *[
            ledger.more(f"recorded: smallest jump, {name}", float(jump5[name].min()), 0.1, scope="full, 3 seeds")
            for name in ("page layout", "M-RoPE, 2 axes, repeated θ")
        ],
        *[
            ledger.more(
                f"recorded: least share of the jump regained after 800 steps, {name}",
                float((1 - (curve5[name][-1] - first5) / jump5[name]).min()),
                0.9,
                scope="full, 3 seeds",
            )
            for name in ("page layout", "M-RoPE, 2 axes, repeated θ")
        ],
        ledger.close("arms whose rate is not that of the lowest final loss", misplaced, 0, abs=0.5),
        ledger.better(
            "digit beside text: loss of RoPE-TV over that of repeated θ",
            after5["RoPE-TV"][:, 2],
            after5["M-RoPE, 2 axes, repeated θ"][:, 2],
            scope="full, 3 seeds",
        ),
        ledger.close(
            "live: largest change, flattened and RoPE-TV",
            float(np.abs(live_jump[:2]).max()),
            0,
            abs=1e-3,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.more("live: smallest jump, page layout", float(live_jump[2].min()), 0.03, machine=True, scope="cpu, 3 seeds"),
        ledger.more("live: smallest jump, repeated frequencies", float(live_jump[3].min()), 0.03, machine=True, scope="cpu, 3 seeds"),
    ],
)

# %% [markdown]
# The switch costs a page 1.7 nats a character and repeated frequencies 1.1, most of it regained within 200 steps, not all within 800. (The arm repeats them one axis after the other; side by side they would move the logits less, D4, and presumably cost less: not trained.)
# Compatible arms rise by up to 0.06 for a while; without a run that goes on with text alone we cannot say whether the mixture or the fresh optimiser is to blame. And compatibility is not everything: the last column, the digit, is read best by the
# two *incompatible* arms after 800 steps, and worst by RoPE-TV and RoPE-Tie (at different best rates).

# %% [markdown]
# ## The post's numbers beside ours
#
# The post is a proposal without experiments; its numbers are the positions, and they agree with ours (C4, C6). It expects no obvious gain over flattening (C13). What we can put beside it is what each scheme costs and keeps: the
# tables of E3, E1, E4 and E5.
#
# ## Beyond the post
#
# - **Offsets instead of scales** (D10): RoPE-TV meets what RoPE-Tie was after and keeps neighbours one apart.
# - **The entry gap** (X1), a demand that the post does not list: M-RoPE meets it; symmetric schemes with unit steps cannot (exercise 1: those without can). Whether it matters, E4 leaves open.
# - **The margin** (X2 to X4) judges a scheme in a second. In margin, contiguous allocation costs a factor of thousands, the smallest integers of RoPE-Tie one of hundreds, the other plane-keeping positions one of about ten. It is a number about one head; trained, slow rows are learned in spite of it (E2).
# - **Ecosystem.** `kexue_nb.multimodal` holds all schemes under their names. Its `mrope` and the section-wise rotation agree with the transformers package to $10^{-6}$, Qwen3-VL's interleaved one too (tests/test_multimodal.py). One difference turned up:
#   for a video with more frames than rows and columns, transformers 5.24.0 starts the next text at $\max(h,w)$ above the video's start, so text shares time coordinates with late frames; the paper says one above the largest
#   coordinate so far, which is what we do.
#
# ## What does not hold
#
# - **"The simplest integers"** (C5) are the smallest only where $h+1$ and $w+1$ are coprime; for a square of $24\times24$ they spend 625 positions where 25 would do. But the smallest are no bargain either: their margin is the smallest of all interleaved schemes (X2).
# - **Our own predictions** (E2, E4): the margin did not foresee that slow rows can be learned, the constant entry gap not who finds rows.
# - Of the remark that **scaling loses nothing** (C7) the letter holds: no *information* is lost, but sameness is. And an integer grid as long as its $wh$ tokens (D8), which the post does not promise, exists for strips only.
# - **A finer point on our own side.** It would be wrong to say that RoPE-Tie *cannot* generalise: it allows a better head than unit steps (X3). Training just does not look for it.
# - The copy task rewards exact offsets. It shows what positions make easy, and says nothing about captions in a large model (C13).

# %% tags=["hide-input"]
nb.claim(
    "C13",
    "RoPE-Tie should not be expected to bring an obvious gain over flattening.",
    "not checkable",
    reason="The author speaks of large models on ordinary tasks; deciding it takes several such models trained alike but for the positions. On our toys both occur: no gain for the row and hardly one for the digit in E4, nor for text in E5; a gain for columns and the next patch in E4, and at seen sizes in E1.",
)

# %% [markdown]
# ## Exercises
#
# 1. Find offsets and scales for which the entry gap is $(1,1)$ for every picture *and* the arrangement is symmetric. What is $K-L$, and what happens to the steps?
# 2. With $g$ the greatest common divisor of $h+1$ and $w+1$: how often is the post's integer choice already the smallest? Estimate the share among all sizes up to $60\times60$ and compare it with $6/\pi^2$.
# 3. Take the frequencies of a head of size 128 with $b=10^6$. Compute the bound of X4 for both axes of space in Qwen2-VL's contiguous sections and in Qwen3-VL's interleaved allocation. By what factor do they differ?

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# By X1 unit steps are impossible, so let the steps differ: $\beta_a+\gamma_a=1$ and $2\beta_a+\gamma_a(n_a+1)=K-L$ give $\gamma_a=\frac{K-L-2}{n_a-1}$ and $\beta_a=1-\gamma_a$. $K-L$ is free; $K-L=\max(h,w)+1$ gives steps of one along the longer side and
# stretches the shorter side to the same length. Every picture becomes a square: symmetric, with constant gaps, and with steps that depend on the shape again.
# ```


# %% tags=["hide-cell"]
def stretched(segments):
    """Entry gap (1, 1), symmetric: the shorter side is stretched to the longer one."""

    def picture(h, w):
        steps = torch.tensor([(max(h, w) - 1) / max(n - 1, 1) for n in (h, w)], dtype=torch.float64)
        return 1 + (grid(h, w) - 1) * steps, max(h, w) + 1

    return along_the_text(segments, picture)


print(
    "mirrored:",
    all(is_mirrored(between(stretched, a)) for a in small if min(a) > 1),
    " entry gaps:",
    {entry(stretched, a) for a in small if min(a) > 1},
)

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# Whenever $g=1$. Two random integers are coprime with probability $6/\pi^2=0.608$.
# ```

# %% tags=["hide-cell"]
coprime = sum(math.gcd(a + 1, b + 1) == 1 for a, b in itertools.product(range(1, 61), repeat=2)) / 3600
print(f"share of sizes up to 60 × 60 with g = 1: {coprime:.3f}; 6/π² = {6 / math.pi**2:.3f}")

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# Contiguous: $6.6\cdot10^{-4}$ for rows and $2.1\cdot10^{-8}$ for columns. Interleaved: 0.32 and 0.21. For the columns that is a factor of ten million.
# ```

# %% tags=["hide-cell"]
for name, allocation in (("contiguous", section_axes([16, 24, 24])), ("interleaved", interleaved_mrope_axes([24, 20, 20]))):
    bounds = [float(np.linalg.norm((1 - rope_frequencies(128, 1e6).cos()[allocation == axis]).numpy())) for axis in (1, 2)]
    print(f"{name}: rows {bounds[0]:.2g}, columns {bounds[1]:.2g}")

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2024ropetie`; the author's second attempt: {cite}`su2024ropetv`. RoPE: {cite}`su2021roformer`. M-RoPE: {cite}`wang2024qwen2vl`; interleaving: {cite}`huang2026revisiting`. Models that flatten:
# {cite}`bavishi2023fuyu`, {cite}`lu2024deepseekvl`, {cite}`sun2024emu2`. The direction of gradient descent: {cite}`soudry2018implicit`.
