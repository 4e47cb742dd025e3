# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Can attention really concentrate? A sparsity measure for attention mechanisms
#
# [注意力机制真的可以“集中注意力”吗？](https://kexue.fm/archives/9889) · 2023-12-12 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/attention/attention-concentration.ipynb)
#
# **The point.** Linear attention takes inner products of features for its weights. It is cheaper than softmax and weaker: because it cannot put its weight on few tokens, says the post, and
# measures this by a ratio $S$ (1: all tokens alike; near 0: one token). For normal scores and infinitely many tokens its formulas are right (left): softmax reaches $S\to0$, plain linear
# attention never gets below $\sqrt{2/\pi}$. Its case for more features $d$ rests on an inequality that is upside down. A theorem takes its place (right): with $d$ non-negative features the
# best weights of all tokens sum to **at most $d$**. And $S$ is not the whole story: in a trained recall task (128 pairs, $d=16$) linear attention with signed weights has the largest $S$ and
# recalls better than every non-negative map.

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math
import statistics

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, metrics, nn, optim, runtime, train
from kexue_nb import linear_attention as la
from kexue_nb import symbolic as sym
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED

# %%
nb = kexue_nb.notebook("attention-concentration")


# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: the ratio S against the spread of scores of mean zero, for infinitely many tokens. The exponential falls to zero, relu squared stays at 0.41 and plain linear attention at 0.80. Right: the best weight that any query can give to each of 256 tokens, sorted. Random positive features begin at 0.75 and fall below 0.1 after some thirty tokens, relu features lie near 0.03 throughout, softmax with two-dimensional keys gives every token 0.99."}}
def circle(n, w):
    """Softmax weights (n, n) of n keys on the unit circle for the queries beta k_j, and beta."""
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    keys = torch.stack([angle.cos(), angle.sin()], 1)
    beta = math.log(2 * w / (1 - w)) / (1 - math.cos(2 * math.pi / n))
    return torch.softmax(beta * keys @ keys.T, 1), beta


gamma_axis = np.linspace(0, 4, 200)
with torch.random.fork_rng():
    torch.manual_seed(3)
    relu_keys = F.relu(torch.randn(256, 16, dtype=torch.float64))
    positive_keys = la.positive_random_features(torch.randn(256, 4, dtype=torch.float64), 3 * torch.randn(16, 4, dtype=torch.float64))
fig1_axes = figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
left.plot(gamma_axis, np.exp(-(gamma_axis**2) / 2), color=BLUE, label="exp (softmax): exp(−γ²/2)")
left.axhline(math.sqrt(2 / math.pi), color=ORANGE, ls="--", label="plain linear: √(2/π)")
left.axhline(1 / math.sqrt(6), color=GREEN, ls="-.", label="relu²: 1/√6")
left.set(xlabel="spread γ of the scores (normal, mean 0)", ylabel="S  (1: all tokens alike, 0: one token)", ylim=(0, 1.03))
left.set_title("Post, n = ∞: only exp concentrates", fontsize=10)
left.legend(fontsize=7.5, loc="center right", bbox_to_anchor=(1, 0.58))
tokens = np.arange(1, 257)
best_curves = {
    "softmax, keys in R²": circle(256, 0.99)[0].diagonal(),
    "16 positive random features": la.best_weights(positive_keys),
    "16 relu features": la.best_weights(relu_keys),
}
for (name, best), style, color in zip(best_curves.items(), ("-", ":", "--"), (BLUE, PURPLE, ORANGE), strict=True):
    right.plot(tokens, best.sort(descending=True).values, ls=style, color=color, label=f"{name}: sum {float(best.sum()):.1f}")
right.set(xscale="log", ylim=(0, 1.03), xlabel="token, sorted (of 256, log axis)", ylabel="best weight any query can give it")
right.set_title("Theorem: 16 features, sum ≤ 16", fontsize=10)
right.legend(fontsize=7.5, loc="center right", bbox_to_anchor=(1, 0.72))
nb.show(figure)

# %% [markdown]
# ## The question
#
# A query $q\in\mathbb R^d$ sees keys $k_1,\dots,k_n$ and weighs them by $a_j\propto f(q\cdot k_j)$. Softmax has $f=\exp$; GAU has $f=\mathrm{relu}^2$ {cite}`hua2022gau`; linear attention
# {cite}`katharopoulos2020linear` has $a_j=\tilde q\cdot\tilde k_j$ with feature maps $\tilde q=\phi(q)$, $\tilde k=\phi(k)$, so that the sum over $j$ can be done once for all queries.
# It is cheaper, and it is weaker. The usual reason is rank: an $n\times n$ matrix made from $d$ features has rank at most $d$. For a decoder the argument fails, since a
# triangular matrix with a non-zero diagonal has full rank. What, then, is missing?
#
# The post's answer is concentration: to copy a name from far above, it says in effect, almost all weight must go to one token. Which $f$ can do that, and when?
#
# Notation: $\beta$ and $\gamma$ are mean and standard deviation of the scores, $t=\beta/\gamma$, $\varepsilon\sim N(0,1)$ with density $\varphi$ and distribution function $\Phi$.
# The word *weights* is used for signed and unnormalised ones, too. The [choice of the attention scale](attention-scale.ipynb) has the same sums with another purpose, the
# [alternatives to softmax](softmax-alternatives.ipynb) are other cures, and [attention as an RNN](attention-as-rnn.ipynb) builds on the linear attention used here.
#
# ## A measure of concentration
#
# Entropy needs probabilities. The post wants a number that also serves weights that are signed or not normalised, as in non-local networks
# {cite}`wang2018nonlocal`, and takes the ratio of two means,
#
# $$S(a)=\frac{\frac1n\sum_j|a_j|}{\sqrt{\frac1n\sum_ja_j^2}},\qquad \frac1{\sqrt n}\le S\le1 .$$
#
# It does not change when $a$ is scaled. The upper end is Cauchy-Schwarz, $n\sum a^2-(\sum|a|)^2=\sum_{i<j}(|a_i|-|a_j|)^2\ge0$, reached by equal moduli. The lower is
# $(\sum|a|)^2-\sum a^2=2\sum_{i<j}|a_ia_j|\ge0$, reached by a one-hot vector. A better unit is tokens:
#
# $$N_{\mathrm{eff}}=nS^2=\frac{(\sum|a|)^2}{\sum a^2},$$
#
# which is the participation ratio $1/\sum p^2=e^{H_2}$ of the [attention scale](attention-scale.ipynb) for $p=|a|/\sum|a|$.


# %%
def S_squared(a):
    """The square of S, exactly, from its definition."""
    n = len(a)
    return (sum(sp.Abs(x) for x in a) / n) ** 2 / (sum(x**2 for x in a) / n)


pairs = lambda n: list(itertools.combinations(range(n), 2))
entries = {n: sp.symbols(f"a1:{n + 1}", real=True) for n in (2, 3, 4)}
squares = lambda a: sum(x**2 for x in a)
upper = lambda a: 1 - sum((sp.Abs(a[i]) - sp.Abs(a[j])) ** 2 for i, j in pairs(len(a))) / (len(a) * squares(a))
lower = lambda a: (1 + 2 * sum(sp.Abs(a[i] * a[j]) for i, j in pairs(len(a))) / squares(a)) / len(a)
drawn = torch.randn(40, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
by_hand = torch.tensor([sum(abs(x) for x in row) ** 2 / sum(x * x for x in row) for row in drawn.tolist()], dtype=torch.float64)

# %% tags=["hide-input"]
nb.derivation(
    "D1",
    "1/√n ≤ S ≤ 1: S² = 1 − Σ(|aᵢ| − |aⱼ|)²/(nΣa²) = (1 + 2Σ|aᵢaⱼ|/Σa²)/n; nS² = m for equal weight on m of n tokens.",
    *[sym.identity(f"upper end, n = {n}", S_squared(a), upper(a)) for n, a in entries.items()],
    *[sym.identity(f"lower end, n = {n}", S_squared(a), lower(a)) for n, a in entries.items()],
    sym.enumeration(
        "nS² of m equal moduli among 6", range(1, 7), lambda m: 6 * S_squared([sp.Rational(-2, 3)] * m + [0] * (6 - m)), sp.Integer
    ),
    ledger.less(
        "effective_tokens against a loop, signed, n = 9, worst of 40",
        float((la.effective_tokens(drawn) / by_hand - 1).abs().max()),
        1e-12,
        digits=1,
        machine=True,
    ),
)

# %% tags=["hide-input"]
signed = torch.tensor([3.0, -1.0, 0.5, 0.0, -4.0], dtype=torch.float64)
one_hot = torch.tensor([0.0, 0.0, -2.0, 0.0], dtype=torch.float64)
p_small = signed.abs() / signed.abs().sum()
nb.claim(
    "C2",
    "A small S means concentrated weights, and S makes sense for signed and unnormalised weights too.",
    "verified",
    holds=[
        ledger.close("S of a one-hot row of 4, sign and size arbitrary", float(la.l1_l2_ratio(one_hot)), 0.5, rel=1e-12),
        ledger.close("S(−7a)/S(a)", float(la.l1_l2_ratio(-7 * signed) / la.l1_l2_ratio(signed)), 1, rel=1e-12),
        ledger.close("S of a row of 1e−200", float(la.l1_l2_ratio(1e-200 * signed) / la.l1_l2_ratio(signed)), 1, rel=1e-12),
        ledger.close(
            "nS² of |a| against exp(H₂)", float(la.effective_tokens(signed)), math.exp(metrics.renyi_entropy(p_small, 2)), rel=1e-10
        ),
    ],
)

# %% [markdown]
# ## From keys to one dimension
#
# Let the keys be independent, $k=\mu+\sigma z$ with $z\sim N(0,I)$, and the query fixed. Then $q\cdot k$ is normal with mean $\beta=q\cdot\mu$ and standard deviation $\gamma=\sigma|q|$:
# only these two numbers are left of all the geometry. As $n\to\infty$ the averages become expectations,
#
# $$S=\frac{\mathbb E|f(\beta+\gamma\varepsilon)|}{\sqrt{\mathbb E f(\beta+\gamma\varepsilon)^2}} .$$
#
# Remember that $n$ has gone to infinity *at fixed $\gamma$*. The check expands powers of the dot product in $d=3$ and replaces monomials by their moments; then it
# compares with real keys in 8 dimensions.

# %%
x, t, beta = sp.symbols("x t beta", real=True)
gamma, sigma, n_keys = sp.symbols("gamma sigma n", positive=True)
density = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
Phi = lambda t: (1 + sp.erf(t / sp.sqrt(2))) / 2
phi = lambda t: sp.exp(-(t**2) / 2) / sp.sqrt(2 * sp.pi)


def gaussian_mean(h, low=-sp.oo, high=sp.oo):
    """E h(x) over the part low < x < high of a standard normal, unevaluated."""
    return sp.Integral(h * density, (x, low, high))


def dot_moment(power, d=3):
    """E (q.z)^power for a symbolic q in R^d, from the moments 0, 1, 0, 3, 0, 15 of each coordinate of z."""
    q, z = sp.symbols(f"q1:{d + 1}"), sp.symbols(f"z1:{d + 1}")
    moment = [1, 0, 1, 0, 3, 0, 15]
    terms = sp.Poly(sum(a * b for a, b in zip(q, z, strict=True)) ** power, *z).terms()
    return sp.factor(sum(c * sp.prod([moment[i] for i in powers]) for powers, c in terms))


# %%
norm = lambda power: sp.factor(sp.factorial2(power - 1) * sum(a**2 for a in sp.symbols("q1:4")) ** (power // 2))
generator = torch.Generator().manual_seed(4)
q8, mu8 = 0.3 * torch.randn(8, generator=generator), torch.randn(8, generator=generator)
k8 = mu8 + 0.9 * torch.randn(200, 4096, 8, generator=generator)
score_mean, score_error = (float(m) for m in metrics.mean_stderr((k8 @ q8 - q8 @ mu8).square().mean(1)))
S_keys = metrics.mean_stderr(la.l1_l2_ratio(k8 @ q8))
t8 = float(q8 @ mu8 / (0.9 * q8.norm()))
S_identity = (sp.sqrt(2 / sp.pi) * sp.exp(-(t**2) / 2) + t * sp.erf(t / sp.sqrt(2))) / sp.sqrt(1 + t**2)
nb.derivation(
    "D2",
    "For k ~ N(μ, σ²I) the score q·k is N(q·μ, σ²|q|²), so S depends on the query through β and γ alone.",
    sym.enumeration("E (q·z)^m = (m − 1)!! |q|^m, d = 3, m = 2, 4, 6", (2, 4, 6), dot_moment, norm),
    sym.monte_carlo("variance of q·k, 8 dimensions", score_mean, score_error, 0.81 * float(q8 @ q8), draws=200 * 4096),
    sym.monte_carlo(
        "S of q·k against the formula at t = β/γ", float(S_keys[0]), float(S_keys[1]), float(S_identity.subs(t, t8)), draws=200
    ),
)

# %% [markdown]
# ## Softmax: $S=e^{-\gamma^2/2}$
#
# The normaliser cancels in $S$, so softmax is $f=\exp$. Both means are the Gaussian integral $\mathbb E\,e^{a\varepsilon}=e^{a^2/2}$:
#
# $$S=\frac{e^{\beta+\gamma^2/2}}{\sqrt{e^{2\beta+2\gamma^2}}}=e^{-\gamma^2/2}=e^{-\sigma^2|q|^2/2},\qquad N_{\mathrm{eff}}=n\,e^{-\gamma^2}.$$
#
# The mean $\beta$ drops out. Longer queries or keys that are farther spread make the weights as sparse as one likes.

# %%
a = sp.Symbol("a", real=True)
mean_exp = sp.exp(a**2 / 2)
S_exp = mean_exp.subs(a, gamma) / sp.sqrt(mean_exp.subs(a, 2 * gamma))
squared = lambda h: gaussian_mean(h) ** 2
draws = torch.randn(60, 16384, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
sampled = {g: [float(m) for m in metrics.mean_stderr(la.l1_l2_ratio((2.5 + g * draws).exp()))] for g in (0.5, 1.0)}
nb.derivation(
    "D3",
    "For f = exp, S = exp(−γ²/2), whatever β is; N_eff = n exp(−γ²).",
    sym.identity("E exp(aε)", gaussian_mean(sp.exp(a * x)), mean_exp),
    sym.identity("(E f)² = exp(−γ²) E f²", squared(sp.exp(gamma * x)), sp.exp(-(gamma**2)) * gaussian_mean(sp.exp(2 * gamma * x))),
    sym.series("N_eff/n for small γ", n_keys * S_exp**2, n_keys * (1 - gamma**2 + gamma**4 / 2), gamma, order=6),
)
nb.claim(
    "C3",
    "With exponential weights S = exp(−σ²|q|²/2).",
    "verified",
    holds=[
        sym.monte_carlo(f"mean S at γ = {g:g}, β = 2.5, n = 16,384", *sampled[g], math.exp(-(g**2) / 2), effect=0.02, draws=60)
        for g in (0.5, 1.0)
    ],
)

# %% [markdown]
# ### What "$n=\infty$" hides
#
# A row of $n$ weights has $S\ge1/\sqrt n$, so the formula cannot hold beyond $e^{-\gamma^2/2}=1/\sqrt n$, that is $\gamma=\sqrt{\log n}$. It fails earlier: the second moment is an average of
# $e^{2\gamma\varepsilon}$ with relative variance $(e^{4\gamma^2}-1)/n$, small only for $\gamma\ll\frac12\sqrt{\log n}$ (the same sums as for the [attention scale](attention-scale.ipynb)).
#
# And the two limits do not commute. At fixed $n$, $\gamma\to\infty$ gives one token. At fixed $\gamma$, $n\to\infty$ gives $N_{\mathrm{eff}}=ne^{-\gamma^2}\to\infty$: **a softmax with bounded
# scores disperses**, however sharp it is.
#
# How fast must $\gamma$ grow to keep $N_{\mathrm{eff}}$? Solving $ne^{-\gamma^2}=N$ suggests $\sqrt{\log(n/N)}$, but that is far outside the formula's range. The few largest scores
# rule there, as in the random energy model {cite}`derrida1981rem`: with $a_n\approx\sqrt{2\log n}$ the typical maximum of $n$ normals, the weights $e^{\gamma\varepsilon}$ near the top are a Poisson
# process of density $xy^{-1-x}$, $x=a_n/\gamma<1$. Its Laplace transform is $e^{-\Gamma(1-x)s^x}$, and $1/Z^2=\int_0^\infty s\,e^{-sZ}ds$ gives
#
# $$\mathbb E\sum p^2=\int_0^\infty s\;x\,\Gamma(2-x)\,s^{x-2}\,e^{-\Gamma(1-x)s^x}\,ds=\frac{\Gamma(2-x)}{\Gamma(1-x)}=1-\frac{a_n}\gamma .$$
#
# So a few tokens stay a few if $\gamma$ grows like $\sqrt{2\log n}$, a factor $1/(1-\overline{\sum p^2})$ above it. (This is a heuristic limit; the simulation below agrees within 0.02.)

# %%
variance_ratio = (mean_exp.subs(a, 4 * gamma) - mean_exp.subs(a, 2 * gamma) ** 2) / (n_keys * mean_exp.subs(a, 2 * gamma) ** 2)
sharp = [float(la.l1_l2_ratio(torch.softmax(g * draws[:, :1024], 1)).mean()) for g in (2.0, 4.0, 1000.0)]
share_x, laplace_s, height_y = sp.symbols("x s y", positive=True)
frozen = {share_x: sp.Rational(3, 5)}  # the integrals at x = 3/5, exactly
one_square = sp.Integral(height_y**2 * sp.exp(-laplace_s * height_y) * share_x * height_y ** (-1 - share_x), (height_y, 0, sp.oo))
all_squares = share_x * sp.gamma(2 - share_x) * laplace_s ** (share_x - 1) * sp.exp(-sp.gamma(1 - share_x) * laplace_s**share_x)
scores = {1024: torch.randn(2000, 1024, generator=torch.Generator().manual_seed(21))}
scores[16384] = torch.randn(500, 16384, generator=torch.Generator().manual_seed(22))


def typical_maximum(n):
    """a_n: location of the largest of n standard normals."""
    root = math.sqrt(2 * math.log(n))
    return root - (math.log(math.log(n)) + math.log(4 * math.pi)) / (2 * root)


def simulated(n, gamma):
    """sum p^2 of softmax rows of n scores with spread gamma, one for each draw."""
    return torch.softmax(gamma * scores[n], 1).square().sum(1).double()


# %% tags=["hide-input"]
suggested = {n: float((1 / simulated(n, math.sqrt(math.log(n / 10)))).median()) for n in scores}
nb.derivation(
    "D4",
    "S ≥ 1/√n, so exp(−γ²/2) fails beyond γ = √(log n); at fixed γ N_eff grows like n; to stay at few tokens γ must grow like √(2 log n): E Σp² ≈ 1 − aₙ/γ.",
    sym.solves("formula = floor", sp.Eq(sp.exp(-(gamma**2) / 2), 1 / sp.sqrt(n_keys)), gamma, sp.sqrt(sp.log(n_keys))),
    sym.identity("relative variance of the second moment", variance_ratio, (sp.exp(4 * gamma**2) - 1) / n_keys),
    sym.identity(
        "one weight's square, x = 3/5",
        one_square.subs(frozen),
        (share_x * sp.gamma(2 - share_x) * laplace_s ** (share_x - 2)).subs(frozen),
    ),
    sym.identity("E Σp², x = 3/5", sp.Integral(all_squares.subs(frozen), (laplace_s, 0, sp.oo)), sp.gammasimp(1 - share_x).subs(frozen)),
    *[
        ledger.close(
            f"mean Σp² + aₙ/γ, γ = {c}√(2 log n), n = {n:,}",
            float(simulated(n, g).mean()) + typical_maximum(n) / g,
            1,
            abs=0.04,
            machine=True,
            scope="2,000 and 500 draws",
        )
        for n in scores
        for c in (1.5, 2, 3)
        for g in [c * math.sqrt(2 * math.log(n))]
    ],
    *[
        ledger.close(
            f"a_n against the quantile at 1 − 1/n, n = {n:,}", typical_maximum(n), statistics.NormalDist().inv_cdf(1 - 1 / n), abs=0.05
        )
        for n in scores
    ],
    *[
        ledger.close(
            f"median N_eff at γ = √(log(n/10)) times the median of Σp², n = {n:,}",
            suggested[n] * float(simulated(n, math.sqrt(math.log(n / 10))).median()),
            1,
            abs=0.02,
            machine=True,
        )
        for n in scores
    ],
    *[
        ledger.more(f"median N_eff at γ = √(log(n/10)), n = {n:,}: not 10", suggested[n], 30, machine=True, scope="2,000 and 500 draws")
        for n in scores
    ],
    ledger.more("and it grows: n = 16,384 over 1,024", suggested[16384] / suggested[1024], 1.8, machine=True, scope="2,000 and 500 draws"),
    ledger.close(
        "N_eff at γ = 1: n = 16,384 over 1,024",
        float((1 / simulated(16384, 1)).mean() / (1 / simulated(1024, 1)).mean()),
        16,
        rel=0.1,
        machine=True,
        scope="2,000 and 500 draws",
    ),
    ledger.close("S at γ = 2, n = 1024, over the formula", sharp[0] / math.exp(-2), 1.64, abs=0.15, machine=True, scope="60 draws"),
    ledger.more("at γ = 4", sharp[1] / math.exp(-8), 100, machine=True, scope="60 draws"),
    ledger.close("S at γ = 1000 over the floor 1/32", sharp[2] * 32, 1, abs=0.02, machine=True, scope="60 draws"),
)

# %% [markdown]
# **A bound for every $n$ (ours).** If all scores lie in $[-B,B]$, the weights before normalisation lie in $[m,M]=[e^{-B},e^B]$. Sum $(a_j-m)(M-a_j)\ge0$ over $j$:
# $(m+M)\bar a\ge\overline{a^2}+mM\ge2\sqrt{mM\,\overline{a^2}}$. Hence
#
# $$S\ \ge\ \frac{2\sqrt{mM}}{m+M}=\frac1{\cosh B}\qquad\text{for every }n,$$
#
# and it is attained when a share $m/(m+M)$ of the keys has the score $B$ and the rest $-B$. In tokens: $N_{\mathrm{eff}}\ge n/\cosh^2B$.

# %%
bound, height, low, high = sp.symbols("B h m M", positive=True)
share = low / (low + high)
mixture = (share * high + (1 - share) * low) ** 2 / (share * high**2 + (1 - share) * low**2)
uniform = torch.rand(4000, 50, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * 2 - 1
bounded = [float(la.l1_l2_ratio((b * scores).exp()).min() * math.cosh(b)) for b in (0.5, 1.5, 4.0) for scores in (uniform, uniform.sign())]
nb.claim(
    "X1",
    "A softmax whose scores lie in [−B, B] has S ≥ 1/cosh B for every n; the constant is attained.",
    "verified",
    holds=[
        sym.identity(
            "the chord: (m+M)a − a² − mM = (a−m)(M−a)", (low + high) * height - height**2 - low * high, (height - low) * (high - height)
        ),
        sym.identity("S² of the two-point mixture", mixture, 4 * low * high / (low + high) ** 2),
        sym.identity("m = exp(−B), M = exp(B)", 4 / (sp.exp(bound) + sp.exp(-bound)) ** 2, 1 / sp.cosh(bound) ** 2),
        ledger.more("smallest S cosh B over 24,000 random rows", min(bounded), 1, machine=True, scope="n = 50, B = 0.5, 1.5, 4"),
        ledger.less("the sharpest of them", min(bounded), 1.01, machine=True, scope="n = 50, B = 0.5, 1.5, 4"),
    ],
)

# %% [markdown]
# ## relu²: only a negative bias helps
#
# With $M_m(t)=\mathbb E\,\mathrm{relu}(t+\varepsilon)^m$,
#
# $$M_2=(t^2+1)\Phi+t\varphi,\qquad M_4=(t^4+6t^2+3)\Phi+(t^3+5t)\varphi,\qquad S=\frac{M_2(t)}{\sqrt{M_4(t)}} ,$$
#
# a function of $t=\beta/\gamma$ alone. The post prints Mathematica's output in $\beta$ and $\gamma$; it is the same function. That $S$ increases with $t$, seen in
# the post's plots, can be proved: $M_m'=mM_{m-1}$, so
#
# $$\frac{d}{dt}\log\frac{M_2^2}{M_4}=4\,\frac{M_1M_4-M_2M_3}{M_2M_4}\ >\ 0,$$
#
# because, with $u,v$ two independent copies of $\mathrm{relu}(t+\varepsilon)$, the numerator is $\frac12\mathbb E\,uv(u-v)^2(u+v)$. So for normal scores ($n=\infty$) with $\beta\ge0$ the smallest value is at
# $t=0$: exactly $1/\sqrt6=0.408$. Below it, normal scores need $\beta<0$: most keys must be cut to zero. Given keys do not: see the next section.

# %%
M = {
    1: t * Phi(t) + phi(t),
    2: (t**2 + 1) * Phi(t) + t * phi(t),
    3: (t**3 + 3 * t) * Phi(t) + (t**2 + 2) * phi(t),
    4: (t**4 + 6 * t**2 + 3) * Phi(t) + (t**3 + 5 * t) * phi(t),
}
S_relu2 = M[2] / sp.sqrt(M[4])
u, v = sp.symbols("u v", positive=True)
turan = (u * v**4 + u**4 * v - u**2 * v**3 - u**3 * v**2) / 2
E_, erf_ = sp.exp(-(beta**2) / (2 * gamma**2)), 1 + sp.erf(beta / (sp.sqrt(2) * gamma))
numerator = sp.sqrt(2) * beta * gamma * E_ + sp.sqrt(sp.pi) * (beta**2 + gamma**2) * erf_
bracket = sp.sqrt(2) * beta * gamma * (beta**2 + 5 * gamma**2) * E_
bracket += sp.sqrt(sp.pi) * (beta**4 + 6 * beta**2 * gamma**2 + 3 * gamma**4) * erf_
post_relu2 = numerator / sp.sqrt(2 * sp.sqrt(sp.pi) * bracket)
relu2_integral = lambda s, m: mpmath.quad(lambda y: (s + y) ** m * mpmath.npdf(y), [-s, max(-s, 0) + 2, 30])
S_relu2_at = lambda s: float(sp.N(S_relu2.subs(t, sp.Rational(str(s))), 30))

# %%
nb.derivation(
    "D5",
    "For f = relu² and normal scores, S = M₂(t)/√M₄(t) with t = β/γ: the post's expression; it increases with t, from 0 through 1/√6 at t = 0 to 1.",
    sym.identity("M₂", gaussian_mean((t + x) ** 2, -t), M[2]),
    sym.identity("M₄", gaussian_mean((t + x) ** 4, -t), M[4]),
    *[sym.identity(f"M{m}′ = {m} M{m - 1}", sp.Derivative(M[m], t), m * M[m - 1]) for m in (2, 3, 4)],
    sym.identity("M₁M₄ − M₂M₃ over pairs", turan, u * v * (u - v) ** 2 * (u + v) / 2),
    sym.numeric("the post's expression", post_relu2, S_relu2.subs(t, beta / gamma), at={beta: (-2, 2), gamma: (0.4, 2)}, points=4),
    sym.numeric(
        "S against quadrature, t = −3..5",
        lambda s: relu2_integral(mpmath.mpf(s), 2) / mpmath.sqrt(relu2_integral(mpmath.mpf(s), 4)),
        lambda s: sp.N(S_relu2.subs(t, s), 40),
        at=[(-3,), (-1,), (0,), (2,), (5,)],
        digits=10,
    ),
    sym.enumeration("S² at t = 0", (1, 2), lambda c: sp.simplify((c * S_relu2**2).subs(t, 0)), lambda c: sp.Rational(c, 6)),
    sym.limit("t → ∞", S_relu2, t, sp.oo, 1),
    sym.limit("t → −∞", (S_relu2**2).rewrite(sp.erfc), t, -sp.oo, 0),
    *[ledger.close(f"S({s})", S_relu2_at(s), value, rel=1e-4, digits=5) for s, value in ((-4, 0.0024806), (-2, 0.072006), (1, 0.612773))],
)

# %% tags=["hide-input"]
breaks = lambda kink: sorted({-12, -6, 0, 6, 12} | ({kink} if abs(kink) < 12 else set()))
quadrature = lambda f, b, g: mpmath.quad(lambda y: f(b + g * y) * mpmath.npdf(y), breaks(-b / g))


def S_by_quadrature(f, b, g):
    """S of f(b + g eps) from the two means, by mpmath."""
    return float(quadrature(lambda y: abs(f(y)), b, g) / mpmath.sqrt(quadrature(lambda y: f(y) ** 2, b, g)))


relu2 = lambda y: max(y, 0) ** 2
exp_at = [S_by_quadrature(mpmath.exp, b, 0.8) for b in (-3, 0, 3)]
relu_at = [S_by_quadrature(relu2, b, 0.8) for b in (-1.6, 0, 1.6)]
floor_relu2 = min(S_by_quadrature(relu2, b, g) for b in (0, 0.3, 4) for g in (0.5, 2, 40))
nb.claim(
    "C5",
    "The mean of the scores does nothing for softmax but can help relu².",
    "verified",
    holds=[
        ledger.less("exp: range of S over β = −3, 0, 3 at γ = 0.8", max(exp_at) - min(exp_at), 1e-9, digits=1, method="quadrature"),
        ledger.increasing("relu²: S at β = −1.6, 0, 1.6", relu_at, method="quadrature"),
    ],
)
orthogonal = torch.eye(64, dtype=torch.float64)  # 64 orthogonal keys, the query is one of them: scores of mean 1/64 > 0
nb.claim(
    "C6",
    "relu² attention can become sparse only with a negative bias: for β ≥ 0, S ≥ 1/√6.",
    "partly",
    holds=[
        ledger.more(
            "normal scores: smallest S over β = 0..4, γ = 0.5..40", floor_relu2, 1 / math.sqrt(6) - 1e-9, digits=6, method="quadrature"
        ),
        ledger.less("S at β = −3, γ = 1", S_by_quadrature(relu2, -3, 1), 0.017, method="quadrature"),
        ledger.less("S at β = −6, γ = 1", S_relu2_at(-6), 1.4e-5, method="mpmath"),
    ],
    fails=[
        ledger.close(
            "64 orthogonal keys, q = k₁: S, not 0.408", float(la.l1_l2_ratio(F.relu(orthogonal[0] @ orthogonal) ** 2)), 1 / 8, rel=1e-9
        )
    ],
)
nb.claim(
    "C7",
    "The closed form of S for relu² in β and γ.",
    "verified",
    holds=[
        sym.identity("its numerator is 2√π γ² M₂(β/γ)", numerator, sp.expand(2 * sp.sqrt(sp.pi) * gamma**2 * M[2].subs(t, beta / gamma))),
        ledger.close(
            "at β = −1, γ = 2", float(post_relu2.subs({beta: -1, gamma: 2})), S_by_quadrature(relu2, -1, 2), rel=1e-9, method="quadrature"
        ),
    ],
)

# %% [markdown]
# ## Plain linear attention: a floor at $\sqrt{2/\pi}$, for normal scores
#
# With $f(s)=s$ the weights are signed and $\mathbb E|t+\varepsilon|$ is the folded normal's mean:
#
# $$S(t)=\frac{\sqrt{2/\pi}\,e^{-t^2/2}+t\,\mathrm{erf}(t/\sqrt2)}{\sqrt{1+t^2}},\qquad
# S'(t)=\frac{2\bigl(\Phi(t)-\frac12-t\varphi(t)\bigr)}{(1+t^2)^{3/2}} .$$
#
# The bracket is 0 at $t=0$ and has the derivative $t^2\varphi\ge0$, so it has the sign of $t$ and $S$ has its minimum at 0. The post sees "a rather high lower limit" in its plots; the
# constant is $\sqrt{2/\pi}=0.798$: of infinitely many tokens **with normal scores** at least 63.7% count, whatever their mean and spread. (Signs matter: $S$ takes the mean of $|a|$,
# not $|\text{mean of }a|$.)
#
# This is no floor for *given* keys. If $n\le d$ keys are orthogonal and the query is one of them, the row is one-hot and $S=1/\sqrt n$, for the identity as for relu². Keys that are
# trained need not look normal: in E2 identity gets to $S=0.69$ at $n=128$, $d=64$, and relu² to 0.17.

# %%
folded = gaussian_mean(t + x, -t) - gaussian_mean(t + x, high=-t)
nb.derivation(
    "D6",
    "For f(s) = s and normal scores, S(t) = [√(2/π) exp(−t²/2) + t erf(t/√2)]/√(1+t²): even in t, smallest at t = 0, where it is √(2/π).",
    sym.identity("E|t + ε|", folded, sp.sqrt(2 / sp.pi) * sp.exp(-(t**2) / 2) + t * sp.erf(t / sp.sqrt(2))),
    sym.identity("E(t + ε)²", gaussian_mean((t + x) ** 2), 1 + t**2),
    sym.identity("S′", sp.Derivative(S_identity, t), 2 * (Phi(t) - sp.Rational(1, 2) - t * phi(t)) / (1 + t**2) ** sp.Rational(3, 2)),
    sym.identity("the bracket's derivative", sp.Derivative(Phi(t) - t * phi(t), t), t**2 * phi(t)),
    sym.identity("even", S_identity.subs(t, -t), S_identity.expand()),
    sym.limit("t → ∞", S_identity, t, sp.oo, 1),
    ledger.close("S(2.5) against quadrature", float(S_identity.subs(t, 2.5)), S_by_quadrature(lambda y: y, 2.5, 1), rel=1e-4, digits=6),
)

# %% tags=["hide-input"]
signed_S = lambda b, g: float(S_identity.subs(t, b / g))
nb.claim(
    "C8",
    "The closed form for f(s) = s, an even function of β.",
    "verified",
    holds=[
        ledger.close("β = −1.5, γ = 2 against quadrature at +1.5", signed_S(-1.5, 2), S_by_quadrature(lambda y: y, 1.5, 2), rel=1e-4),
        ledger.close("β = 0.6, γ = 2 (t = 0.3)", S_by_quadrature(lambda y: y, 0.6, 2), 0.798370, rel=1e-4, digits=6, method="quadrature"),
    ],
)
nb.claim(
    "C9",
    "For f(s) = s, S is bounded away from 0.",
    "partly",
    holds=[
        ledger.close(
            "normal scores: minimum over t = −5..5",
            min(float(S_identity.subs(t, s / 10)) for s in range(-50, 51)),
            math.sqrt(2 / math.pi),
            rel=1e-9,
        ),
        ledger.close("N_eff/n there", float((S_identity**2).subs(t, 0)), 0.6366, abs=1e-4),
    ],
    fails=[ledger.close("64 orthogonal keys, q = k₁: S, not 0.798", float(la.l1_l2_ratio(orthogonal[0] @ orthogonal)), 1 / 8, rel=1e-9)],
)

# %% [markdown]
# ## Linear attention with non-negative features
#
# What is usually called linear attention has $a_j=\tilde q\cdot\tilde k_j\ge0$. No absolute values are needed, so with the mean $\tilde\mu$ and the covariance $\tilde\Sigma$ of the
# keys' features
#
# $$S=\frac{\tilde q\cdot\tilde\mu}{\sqrt{\tilde q^\top(\tilde\mu\tilde\mu^\top+\tilde\Sigma)\tilde q}}
# =\left[1+\frac{\tilde q^\top\tilde\Sigma\tilde q}{(\tilde q\cdot\tilde\mu)^2}\right]^{-1/2}
# =\left[1+\frac{\tilde\sigma^2}{\tilde\mu^2}\frac{|\tilde q|_2^2}{|\tilde q|_1^2}\right]^{-1/2},$$
#
# the last for independent components of equal mean $\tilde\mu$ and variance $\tilde\sigma^2$. The second form is *exact* for $n$ given keys, with their empirical mean and their
# covariance (divided by $n$, not $n-1$). The fraction in the brackets is a noise-to-signal ratio: the variance of the weights over the square of their mean.


# %%
def concentration_of(q, keys):
    """[1 + q'Σq/(q·μ)²]^(-1/2) with mean and covariance (over n) of the given keys; SymPy."""
    n = len(keys)
    mu = sum(keys, sp.zeros(len(q), 1)) / n
    cov = sum(((k - mu) * (k - mu).T for k in keys), sp.zeros(len(q), len(q))) / n
    return (1 + (q.T * cov * q)[0] / (q.T * mu)[0] ** 2) ** sp.Rational(-1, 2)


def case(d, n):
    symbol = lambda name: sp.Symbol(name, positive=True)
    q = sp.Matrix([symbol(f"q{c}") for c in range(d)])
    return q, [sp.Matrix([symbol(f"k{j}{c}") for c in range(d)]) for j in range(n)]


# %%
generator = torch.Generator().manual_seed(8)
q_feat, k_feat = (
    torch.rand(16, generator=generator, dtype=torch.float64),
    torch.randn(50, 16, generator=generator, dtype=torch.float64).exp(),
)
cov = torch.cov(k_feat.T, correction=0)
by_formula = float((1 + q_feat @ cov @ q_feat / (q_feat @ k_feat.mean(0)) ** 2) ** -0.5)
iid_k = torch.rand(4000, 64, generator=generator, dtype=torch.float64) + 0.2  # mean 0.7, variance 1/12
q_64 = torch.rand(20, 64, generator=generator, dtype=torch.float64) ** 3
iid_formula = (1 + (1 / 12) / 0.49 * q_64.square().sum(1) / q_64.sum(1) ** 2) ** -0.5
iid_gap = float(((1 - la.l1_l2_ratio(q_64 @ iid_k.T)) / (1 - iid_formula)).mean())
nb.derivation(
    "D7",
    "For a = q̃·k̃ ≥ 0, S = [1 + q̃ᵀΣ̃q̃/(q̃·μ̃)²]^(−1/2), exactly with the empirical mean and covariance; iid components: [1 + (σ̃/μ̃)²|q̃|₂²/|q̃|₁²]^(−1/2).",
    *[
        sym.identity(f"d = {d}, n = {n}", S_squared([(q.T * k)[0] for k in keys]), concentration_of(q, keys) ** 2)
        for d, n in ((2, 2), (2, 3))
        for q, keys in [case(d, n)]
    ],
    ledger.close("50 random keys in 16 dimensions", float(la.l1_l2_ratio(k_feat @ q_feat)), by_formula, rel=1e-12, digits=10),
    ledger.close("iid: (1 − S)/(1 − formula), 20 queries, 4,000 keys", iid_gap, 1, abs=0.03, digits=3),
)

# %% tags=["hide-input"]
weak = torch.zeros(100, 2, dtype=torch.float64) + 1e-6
weak[:, 1] = torch.arange(100) == 7  # feature 1 lives at one token only
noise_to_signal = [
    float((q @ torch.cov(weak.T, correction=0) @ q) / (q @ weak.mean(0)) ** 2)
    for q in (torch.tensor([1.0, e], dtype=torch.float64) for e in (0.0, 1e-5, 1e-3, 1.0))
]
S_weak = [float(la.l1_l2_ratio(weak @ torch.tensor([1.0, e], dtype=torch.float64))) for e in (0.0, 1e-5, 1e-3, 1.0)]
nb.claim(
    "C10",
    "The general formula for S of non-negative linear attention.",
    "verified",
    holds=[
        ledger.close("100 keys, one of them apart: S²(1 + noise/signal)", S_weak[2] ** 2 * (1 + noise_to_signal[2]), 1, rel=1e-9, digits=8),
    ],
)
nb.claim(
    "C11",
    "Non-negative linear attention reaches S → 0 where the signal-to-noise ratio of the keys' features is poor.",
    "verified",
    holds=[
        ledger.increasing("noise over signal grows with the share of the rare feature", noise_to_signal),
        ledger.close("and S falls to the floor 1/√100", S_weak[3], 0.1, rel=1e-3, digits=5),
        ledger.close("the ratio at the floor is n − 1 = 99", noise_to_signal[3], 99, rel=1e-2, digits=4),
    ],
)

# %% [markdown]
# ### What a poor signal-to-noise ratio means
#
# The post reads this as: a non-negative sequence with a poor ratio has nearly all entries alike, so it carries little, and only a fixed position can be stressed, a
# column of ones in the attention matrix. The first half is not a theorem: values spread over $[\frac12,\frac32]$ with one huge spike have a poor ratio, and the bulk is not alike.
# The second half is right in its natural example: one key large in all coordinates takes nearly the whole weight *of every query*.

# %%
generator = torch.Generator().manual_seed(0)
spread_out = torch.rand(999, generator=generator, dtype=torch.float64) + 0.5
with_spike = torch.cat([spread_out, torch.tensor([300.0], dtype=torch.float64)])
variation = lambda a: float(a.std(correction=0) / a.mean())
spiked = torch.rand(64, 16, generator=generator, dtype=torch.float64) + 0.5
spiked[20] = 1000.0
queries = torch.rand(2000, 16, generator=generator, dtype=torch.float64)
row = queries @ spiked.T
column = row[:, 20] / row.sum(1)
nb.claim(
    "C12",
    "A poor signal-to-noise ratio means that most entries are nearly alike and that only fixed positions can be stressed.",
    "partly",
    holds=[
        ledger.more("64 keys, one huge: smallest weight on it over 2,000 queries", float(column.min()), 0.9),
        ledger.less("largest minus smallest: a column of the matrix", float(column.max() - column.min()), 0.01),
        ledger.less("S of all rows (floor 0.125)", float(la.l1_l2_ratio(row).max()), 0.14),
    ],
    fails=[
        ledger.more("noise over signal of 999 spread values and one spike", variation(with_spike), 5),
        ledger.more("their bulk: standard deviation over mean", variation(spread_out), 0.25),
    ],
)

# %% [markdown]
# ## The inequality that is upside down
#
# To make $S$ small at given $\tilde\sigma/\tilde\mu$ one wants $|\tilde q|_2/|\tilde q|_1$ large. The post says that its maximum is $\sqrt d$, so that a larger $d$ helps, in harmony with the
# low-rank view. But
#
# $$\frac1{\sqrt d}\ \le\ \frac{|\tilde q|_2}{|\tilde q|_1}\ \le\ 1 ,$$
#
# since $|q|_1^2-|q|_2^2=2\sum_{c<e}|q_cq_e|$ and $d|q|_2^2-|q|_1^2=\sum_{c<e}(|q_c|-|q_e|)^2$. ($\sqrt d$ is the maximum of the *reciprocal*.) The largest ratio is 1, at a one-hot query, for
# every $d$. So in the model of independent components the best $S$ is $[1+(\tilde\sigma/\tilde\mu)^2]^{-1/2}$ **whatever $d$ is**, and a *dense* query makes $S\to1$ as $d$ grows: for it a larger $d$ makes the weights flatter.
#
# For relu features of standard normal keys $(\tilde\sigma/\tilde\mu)^2=\pi-1$: one-hot queries have $S=1/\sqrt\pi=0.564$, dense ones about $[1+\pi(\pi-1)/d]^{-1/2}$, an approximation for large $d$ (checked from 64 on; at $d=4$ the simulation gives 0.66, the formula 0.61).

# %%
relu_moment = lambda m: gaussian_mean(x**m, 0)
one_norm, two_norm = (lambda a: sum(sp.Abs(c) for c in a) ** 2), squares
q_dims = {d: sp.symbols(f"q1:{d + 1}", real=True) for d in (2, 3, 5)}
cross = lambda q: 2 * sum(sp.Abs(q[i] * q[j]) for i, j in pairs(len(q)))
apart = lambda q: sum((sp.Abs(q[i]) - sp.Abs(q[j])) ** 2 for i, j in pairs(len(q)))


def relu_features_S(d, keys, one_hot, seed):
    """S of relu features of ``keys`` normal keys for a one-hot query, or for 40 dense ones relu(N(0, I)); float."""
    generator = torch.Generator().manual_seed(seed)
    features = F.relu(torch.randn(keys, d, generator=generator, dtype=torch.float64))
    q = torch.eye(d, dtype=torch.float64) if one_hot else F.relu(torch.randn(40, d, generator=generator, dtype=torch.float64))
    return float(la.l1_l2_ratio(q[q.sum(1) > 0] @ features.T).mean())  # at d = 4 some queries are 0


widths = [4, 16, 64, 256, 1024]
dense_S = [relu_features_S(d, 4000, False, seed=d) for d in widths]
one_hot_S = [relu_features_S(d, 4000, True, seed=d) for d in widths]

# %% tags=["hide-input"]
nb.derivation(
    "D8",
    "1/√d ≤ |q|₂/|q|₁ ≤ 1; so the best S of independent features does not depend on d, and that of dense queries rises with d.",
    *[sym.identity(f"|q|₁² − |q|₂² ≥ 0, d = {d}", one_norm(q) - two_norm(q), cross(q)) for d, q in q_dims.items()],
    *[sym.identity(f"d|q|₂² − |q|₁² ≥ 0, d = {d}", d * two_norm(q) - one_norm(q), apart(q)) for d, q in q_dims.items()],
    sym.identity("relu: (σ̃/μ̃)² = π − 1", relu_moment(2) / relu_moment(1) ** 2 - 1, sp.pi - 1),
    *[ledger.close(f"one-hot S, d = {d}", s, 1 / math.sqrt(math.pi), abs=0.01) for d, s in zip(widths, one_hot_S, strict=True)],
    *[
        ledger.close(
            f"1 − S of dense queries over its formula, d = {d}", (1 - s) / (1 - (1 + math.pi * (math.pi - 1) / d) ** -0.5), 1, abs=0.05
        )
        for d, s in zip(widths[2:], dense_S[2:], strict=True)
    ],
    ledger.increasing("S of dense queries over d = 4..1024", dense_S),
)
random_q = torch.randn(20000, 16, generator=torch.Generator().manual_seed(9), dtype=torch.float64).exp() ** 3
ratios = random_q.norm(dim=1) / random_q.sum(1)
nb.claim(
    "C13",
    "The ratio |q|₂/|q|₁ has the maximum √d; making it large means making d large.",
    "refuted",
    fails=[
        ledger.less("largest ratio among 20,000 random q, d = 16 (the claim: up to 4)", float(ratios.max()), 1 + 1e-12),
        ledger.close("the ratio of a one-hot q, d = 16", float(torch.eye(16)[3].norm() / torch.eye(16)[3].sum()), 1, rel=1e-12),
        ledger.close("√d times the ratio of a constant q, d = 16", float(torch.ones(16).norm() / 16 * 4), 1, rel=1e-6),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "S against the number of features on a log axis. One-hot queries stay at 0.56 for every d. Dense queries rise from about 0.6 at four features towards 1 at a thousand. A dashed crossed-out curve shows what the post's inequality would give, falling towards zero."}}
figure, axes = plt.subplots()
fig2_axes = axes
smooth = np.geomspace(4, 1024, 100)
axes.plot(smooth, (1 + math.pi * (math.pi - 1) / smooth) ** -0.5, color=ORANGE, ls="-", lw=1.2)
axes.plot(widths, dense_S, "o", color=ORANGE, label="dense queries")
axes.axhline(1 / math.sqrt(math.pi), color=BLUE, ls="-.", lw=1.2)
axes.plot(widths, one_hot_S, "s", color=BLUE, label="one-hot queries, the best possible: 1/√π")
axes.plot(smooth, (1 + (math.pi - 1) * smooth) ** -0.5, color=GREY, ls="--", label="with the post's maximum √d (not attained by any q)")
axes.plot([64], [(1 + (math.pi - 1) * 64) ** -0.5], "x", color=RED, ms=14, mew=3)
axes.set(xscale="log", ylim=(0, 1.05), xlabel="number of features d (log axis)", ylabel="S of relu features, independent keys")
axes.set_title("A larger d flattens dense queries; the best S stays")
axes.legend(loc="center right", bbox_to_anchor=(1, 0.36))
nb.show(figure)

# %% [markdown]
# ## What $d$ really limits
#
# That $d$ matters is true all the same. Ask not how concentrated a row is but *which* tokens can be reached. Let $\tilde k_j\in\mathbb R^d_{\ge0}$ be given, and
# $A_j(\tilde q)=\tilde q\cdot\tilde k_j/\sum_i\tilde q\cdot\tilde k_i$. Write it as an average over coordinates:
#
# $$A_j(\tilde q)=\sum_c w_c\,T_{jc},\qquad T_{jc}=\frac{\tilde k_{jc}}{\sum_i\tilde k_{ic}},\qquad
# w_c=\frac{\tilde q_c\sum_i\tilde k_{ic}}{\sum_e\tilde q_e\sum_i\tilde k_{ie}},\quad\sum_cw_c=1 .$$
#
# So the best weight that any query can give to token $j$ is $\max_cT_{jc}$, by a one-hot query. Each column of the table $T$ sums to 1 over the tokens. Therefore
#
# $$\boxed{\;\sum_{j=1}^n\ \max_{\tilde q\ge0}A_j(\tilde q)\ \le\ \sum_j\sum_cT_{jc}=d\;}$$
#
# At most $d/\theta$ tokens can *ever* receive weight $\theta$ or more. The average best weight is at most $d/n$. The bound holds for a decoder too: it speaks of queries
# that come after all $n$ keys. This is the low-rank argument in a form that survives, and it is about concentration.


# %%
def table(keys):
    """T_jc = k_jc / sum_i k_ic for keys (n rows of d entries)."""
    totals = [sum(column) for column in zip(*keys, strict=True)]
    return [[entry / total for entry, total in zip(key, totals, strict=True)] for key in keys]


def weights_of(q, keys):
    """A_j(q), from the definition."""
    a = [sum(x * y for x, y in zip(q, key, strict=True)) for key in keys]
    return [w / sum(a) for w in a]


# %%
q_pos = sp.symbols("q1:3", positive=True)
k_pos = [sp.symbols(f"k{j}_1:3", positive=True) for j in (1, 2, 3)]
totals = [sum(column) for column in zip(*k_pos, strict=True)]
mixing = [q_pos[c] * totals[c] / sum(q_pos[e] * totals[e] for e in (0, 1)) for c in (0, 1)]
mixed = [sum(w * entry for w, entry in zip(mixing, row, strict=True)) for row in table(k_pos)]
whole = lambda n, d: [[sp.Integer(1 + (3 * j * j + 5 * c * j + c) % 11) for c in range(d)] for j in range(n)]
generator = torch.Generator().manual_seed(10)
some_keys = F.relu(torch.randn(64, 16, generator=generator, dtype=torch.float64))
best_of_64 = la.best_weights(some_keys)
tried = torch.rand(100_000, 16, generator=generator, dtype=torch.float64) ** 8
reached = (tried @ some_keys.T / (tried @ some_keys.sum(0))[:, None]).amax(0)
vertices = torch.stack(
    [torch.tensor(weights_of(e, some_keys.tolist()), dtype=torch.float64) for e in torch.eye(16, dtype=torch.float64).tolist()]
).amax(0)

# %%
nb.derivation(
    "D9",
    "With d non-negative features the best weight of token j is max_c k̃ⱼc/Σᵢk̃ᵢc, and these sum to at most d over all tokens.",
    sym.identity("A is a mixture of the columns of T, d = 2, n = 3", sp.Matrix(weights_of(q_pos, k_pos)), sp.Matrix(mixed)),
    sym.identity("the mixture's weights sum to 1", sum(mixing) * q_pos[0], q_pos[0]),
    sym.enumeration("ΣΣT = d, exactly", [(3, 2), (7, 3), (12, 5)], lambda c: sum(map(sum, table(whole(*c)))), lambda c: sp.Integer(c[1])),
    ledger.less("100,000 random queries against max_c T, 64 tokens: largest excess", float((reached - best_of_64).max()), 1e-12),
    ledger.less("the one-hot queries attain it: largest distance", float((vertices - best_of_64).abs().max()), 1e-12, digits=1),
    ledger.less("sum of the best weights, n = 64, d = 16", float(best_of_64.sum()), 16),
)

# %% [markdown]
# Softmax obeys no such bound. Put $n$ keys on a circle in $\mathbb R^2$ and let query $j$ be $\beta k_j$ ($\beta$ here is the length of the queries). Only the two neighbours matter, and
# $\beta=\log\frac{2w}{1-w}\big/\bigl(1-\cos\frac{2\pi}n\bigr)$ gives every token its weight $w$ in turn: two dimensions for any $n$. The price is logits of order $n^2$.
#
# The table below (experiment E4) lists the sum of best weights for four feature maps, one draw each. Random features in the manner of Performer {cite}`choromanski2020performers` with long
# directions use 67% to 78% of the bound at $d=16$ and 42% to 49% at $d=64$; elu + 1, relu and exp features of Gaussian keys use 28% of it or less, and give no token more than half.


# %% tags=["hide-input"]
def capacity(device, *, cases, d_keys, spread, seed):
    """Best weight that any non-negative query can give to each of n keys, sorted: one list for each feature map and (n, m)."""
    result = {}
    for n, m in cases:
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(n, m, generator=generator, dtype=torch.float64)
        x = torch.randn(n, d_keys, generator=generator, dtype=torch.float64)
        directions = spread * torch.randn(m, d_keys, generator=generator, dtype=torch.float64)
        maps = {name: phi(gaussian) for name, phi in la.FEATURE_MAPS.items()}
        maps["random features"] = la.positive_random_features(x, directions)
        for name, features in maps.items():
            result[f"{name} {n} {m}"] = la.best_weights(features).sort(descending=True).values
    return result


e4_cases = [[64, 16], [256, 16], [256, 64], [1024, 64]]
e4 = nb.run("E4", capacity, cases=e4_cases, d_keys=4, spread=3.0, seed=0)


# %%
circles = {n: circle(n, 0.99) for n in (8, 64, 256)}
e4_sums = {key: sum(values) for key, values in e4.items()}
e4_halves = {key: sum(w > 0.5 for w in values) for key, values in e4.items()}
e4_record = nb.recorded("E4")
names = [*la.FEATURE_MAPS, "random features"]
fixed = lambda y, digits=2: f"{float(y):.{digits}f}"
nb.results(
    "E4",
    "Sum over all tokens of the best weight that any query can give (the bound is d), and tokens that can receive more than half",
    ["features", *[f"n = {n}, d = {m}" for n, m in e4_cases]],
    [[name, *[f"{e4_sums[f'{name} {n} {m}']:.2f}; {e4_halves[f'{name} {n} {m}']}" for n, m in e4_cases]] for name in names],
)

# %% tags=["hide-input"]
by_brute = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
two = F.relu(torch.randn(10, 2, generator=torch.Generator().manual_seed(12), dtype=torch.float64)) + 0.01
scan = torch.cat([by_brute, 1 - by_brute], 1) @ two.T
scan_best = (scan / scan.sum(1, keepdim=True)).amax(0)
used = {(name, n, m): e4_sums[f"{name} {n} {m}"] / m for name in names for n, m in e4_cases}
random_used = {m: [used["random features", n, d] for n, d in e4_cases if d == m] for m in (16, 64)}
counted, passed_over = (
    [float(w) for key, ws in e4.items() for w in some(ws, e4_halves[key])] for some in (lambda w, c: w[:c], lambda w, c: w[c:])
)
recorded_gaps = [abs(sum(e4_record.result[key]) - total) for key, total in e4_sums.items()]
nb.experiment(
    "E4",
    "Of the bound d on the sum of best weights random features use 42% to 78%, three maps of Gaussian keys 28% or less; softmax on a circle in R² gives each of 256 tokens 0.99.",
    "verified",
    holds=[
        *[
            ledger.close(f"random features, d = {m}: {what} share of the bound", f(random_used[m]), value, abs=0.01, scope="one draw")
            for m, what, f, value in (
                (16, "least", min, 0.67),
                (16, "largest", max, 0.78),
                (64, "least", min, 0.42),
                (64, "largest", max, 0.49),
            )
        ],
        ledger.less(
            "the other maps: largest share", max(u for (name, *_), u in used.items() if name != "random features"), 0.285, scope="12 cases"
        ),
        ledger.more("smallest weight counted as more than half", min(counted), 0.5),
        ledger.less("largest weight not counted", max(passed_over), 0.5),
        ledger.less(
            "best_weights against a scan of all directions, d = 2", float((scan_best - la.best_weights(two)).abs().max()), 1e-4, digits=1
        ),
        *[
            ledger.close(f"circle: smallest weight of {n} tokens", float(A.diagonal().min()), 0.99, abs=2e-4)
            for n, (A, _) in circles.items()
        ],
        ledger.close("its β/n² at n = 256 over log(198)/(2π²)", circles[256][1] / 256**2 / (math.log(198) / (2 * math.pi**2)), 1, rel=1e-3),
        ledger.less("recorded sums against live", max(recorded_gaps), 1e-3, digits=1, scope="recorded run"),
    ],
)

# %% [markdown]
# ## Rank, for a decoder
#
# **Full rank is cheap.** A lower triangular matrix has the determinant $\prod_ja_{jj}$. With strictly positive weights (exp, elu + 1) a causal attention matrix is invertible, though
# without the mask its rank is at most $d$. The post says that the triangle is *necessarily* of full rank; that needs $a_{jj}\ne0$. relu and relu² break it: with $\left(\begin{smallmatrix}1&0\\1&0\end{smallmatrix}\right)$
# the second token gives itself nothing, and the rank is 1. And full rank says little: a quarter of the singular values
# lies below 1% of the largest, and every block of the matrix off the diagonal still has rank at most $d$.

# %%
features_1 = sp.symbols("k1:5", positive=True)
unmasked = sp.Matrix(4, 4, lambda i, j: features_1[i] * features_1[j])
masked = sp.Matrix(4, 4, lambda i, j: unmasked[i, j] if j <= i else 0)


def leibniz(n):
    """Determinant of the leading n x n block, term by term over the permutations."""
    orders = itertools.permutations(range(n))
    return sum(sp.combinatorics.Permutation(order).signature() * sp.prod([masked[i, j] for i, j in enumerate(order)]) for order in orders)


def causal_ranks(kind, d, seed, n=64):
    """Of a causal attention matrix of normal queries and keys: rank, zeros on the diagonal, rank of the lower left quarter, singular
    values above 1% of the largest."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    phi = la.FEATURE_MAPS.get(kind)
    a = (phi(q) @ phi(k).T if phi else F.relu(q @ k.T).square()).tril()
    rank = lambda m: int(torch.linalg.matrix_rank(m, rtol=1e-12))
    return rank(a), int((a.diagonal() == 0).sum()), rank(a[n // 2 :, : n // 2]), int(torch.linalg.matrix_rank(a, rtol=0.01))


# %% tags=["hide-input"]
ranks = {kind: [causal_ranks(kind, d, seed) for seed in (0, 1, 2)] for kind, d in (("relu²", 16), ("relu", 4), ("elu+1", 4))}
nb.derivation(
    "D11",
    "A causal matrix has determinant Πaⱼⱼ: full rank for positive weights (unmasked: ≤ d), not where a diagonal entry is 0.",
    sym.enumeration(
        "determinant by Leibniz' sum, n = 2, 3, 4, d = 1", (2, 3, 4), leibniz, lambda n: sp.prod([k**2 for k in features_1[:n]])
    ),
    sym.enumeration(
        "rank without and with the mask", (0, 1), lambda m: sp.Integer((unmasked, masked)[m].rank()), lambda m: sp.Integer((1, 4)[m])
    ),
    sym.enumeration("[[1,0],[c,c]]: rank at c = 1; [[1,0],[1,0]]", (1, 0), lambda c: sp.Matrix([[1, 0], [1, c]]).rank(), lambda c: 1 + c),
    *[ledger.close(f"elu+1, n = 64, d = 4: rank, seed {s}", r[0], 64, abs=0.5) for s, r in enumerate(ranks["elu+1"])],
    *[ledger.less(f"{kind}: largest rank, seeds 0 to 2", max(r[0] for r in ranks[kind]), 64) for kind in ("relu²", "relu")],
)
nb.claim(
    "C1",
    "A causal attention matrix is necessarily of full rank, so the low-rank argument does not reach decoders.",
    "partly",
    holds=[
        ledger.close("elu+1, d = 4: smallest rank of 3 seeds, n = 64", min(r[0] for r in ranks["elu+1"]), 64, abs=0.5),
    ],
    fails=[
        ledger.more("relu² (d = 16): zeros on the diagonal, smallest of 3 seeds", min(r[1] for r in ranks["relu²"]), 20),
        ledger.less("its rank, largest of 3 seeds", max(r[0] for r in ranks["relu²"]), 64),
        ledger.less("relu features, d = 4: rank, largest of 3 seeds", max(r[0] for r in ranks["relu"]), 60),
        ledger.less("elu+1, d = 4: rank of the 32 × 32 block off the diagonal", max(r[2] for r in ranks["elu+1"]), 5),
        ledger.less("elu+1, d = 4: singular values above 1% of the largest, of 64", max(r[3] for r in ranks["elu+1"]), 52),
    ],
)

# %% [markdown]
# ### How many features close the gap?
#
# The post says that softmax is a linear attention with infinitely many features, and that in theory only $d\to\infty$ closes the gap. The first is the power series: $e^{q\cdot k}=\sum_\alpha
# \frac{q^\alpha}{\sqrt{\alpha!}}\frac{k^\alpha}{\sqrt{\alpha!}}$ over all monomials; up to degree $M$ there are $\binom{d+M}M$.
#
# The second becomes a theorem: let $n$ queries come after $n$ keys, and let
# query $j$ put more than half of its row's absolute weight on its own key. Then each diagonal entry exceeds the sum of the others of its row, and such a matrix is invertible: if $Ax=0$, the row of the largest $|x_j|$ cannot cancel. A linear attention with
# $\tilde d$ features, signed or not, has rank at most $\tilde d$. So $\tilde d\ge n$. Softmax does it in two dimensions for every $n$ (the circle), so no finite $\tilde d$ matches it for all $n$.

# %%
k_2, q_2 = sp.symbols("x1:3", real=True), sp.symbols("y1:3", real=True)


def monomials(vector, top):
    """All v^alpha / sqrt(alpha!) of degree up to ``top``."""
    powers = [p for p in itertools.product(range(top + 1), repeat=len(vector)) if sum(p) <= top]
    return [sp.prod([v**e / sp.sqrt(sp.factorial(e)) for v, e in zip(vector, p, strict=True)]) for p in powers]


truncated = lambda top: sum(sum(a * b for a, b in zip(q_2, k_2, strict=True)) ** m / sp.factorial(m) for m in range(top + 1))
by_features = lambda top: sum(a * b for a, b in zip(monomials(q_2, top), monomials(k_2, top), strict=True))


def best_low_rank(A, r):
    """Mean diagonal of the best rank-r approximation of A in the Frobenius norm."""
    U, s, V = torch.linalg.svd(A)
    return float(((U[:, :r] * s[:r]) @ V[:r]).diagonal().mean())


smallest = {n: float(torch.linalg.svdvals(A)[-1]) for n, (A, _) in circles.items()}
kept = {r: best_low_rank(circles[64][0], r) for r in (2, 32, 63)}
features_of = lambda n, m, seed: la.elu_plus_one(torch.randn(2, n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
normalised = [(q @ k.T / (q @ k.sum(0))[:, None]) for q, k in (features_of(64, 9, seed) for seed in range(3))]

# %% tags=["hide-input"]
nb.derivation(
    "D12",
    "exp(q·k) truncated at degree M is a linear attention with C(d+M, M) features; n queries with more than half on their own key need ≥ n features.",
    *[sym.identity(f"degree {m}, d = 2", by_features(m), truncated(m)) for m in (2, 4)],
    sym.enumeration("number of features, d = 2", (1, 2, 4), lambda m: sp.Integer(len(monomials(k_2, m))), lambda m: sp.binomial(2 + m, m)),
    *[ledger.close(f"circle of {n}: smallest singular value", s, 0.98, abs=2e-3) for n, s in smallest.items()],
    *[
        ledger.close(
            f"normalised linear attention, 9 features, 64 × 64: rank, seed {i}", int(torch.linalg.matrix_rank(A, rtol=1e-10)), 9, abs=0.5
        )
        for i, A in enumerate(normalised)
    ],
    *[ledger.close(f"circle of 64: mean diagonal at rank {r}", d, 0.99 * r / 64, abs=0.01) for r, d in kept.items()],
)
nb.claim(
    "C18",
    "Softmax is linear attention of infinite dimension; in theory only d → ∞ closes the gap completely.",
    "verified",
    holds=[
        sym.series("the exponential series on a line", sp.exp(t * x), sum((t * x) ** m / sp.factorial(m) for m in range(5)), x, order=5),
        ledger.more(
            "circle in R²: own weight of each of 256 keys", float(circles[256][0].diagonal().min()), 0.5, scope="so ≥ 256 features"
        ),
        ledger.more("its smallest singular value: rank 256", smallest[256], 0.9),
    ],
)

# %% [markdown]
# ## Decay: concentrated, but on a fixed place
#
# Linear attention with a forgetting factor (RetNet {cite}`sun2023retentive`, linear RNNs {cite}`orvieto2023lru`) multiplies the weight of the token at distance $i$ by $\lambda^i$. With nothing else,
# $a=(\lambda^{n-1},\dots,\lambda,1)$ and for $\lambda<1$
#
# $$S=\sqrt{\frac{(1-\lambda^n)(1+\lambda)}{n(1-\lambda)(1+\lambda^n)}}<\sqrt{\frac{1+\lambda}{n(1-\lambda)(1+\lambda^n)}}\to0,\qquad N_{\mathrm{eff}}\to\frac{1+\lambda}{1-\lambda} .$$
#
# $S\to0$ says only that the window is finite and the sequence is not. Concentrating is not choosing: the weight on the token at distance $D$ is $\lambda^D(1-\lambda)$, at best (with
# $\lambda=\frac D{D+1}$, made for this $D$)
#
# $$\max_\lambda\lambda^D(1-\lambda)=\frac{D^D}{(D+1)^{D+1}}\approx\frac1{e\,(D+\frac12)} .$$

# %%
lam, D = sp.symbols("lambda D", positive=True)
decay_S2 = lambda n: sum(lam**i for i in range(n)) ** 2 / (n * sum(lam ** (2 * i) for i in range(n)))
closed = lambda n, l=lam: (1 - l**n) * (1 + l) / (n * (1 - l) * (1 + l**n))
half, slow = sp.Rational(1, 2), sp.Rational(9, 10)
at_best = sp.simplify((lam**D * (1 - lam)).subs(lam, D / (D + 1)))
numeric_best = lambda D: max(l**D * (1 - l) for l in np.linspace(0, 1, 200_001)[:-1])
decayed = 0.9 ** torch.arange(50, dtype=torch.float64)

# %% tags=["hide-input"]
nb.derivation(
    "D10",
    "With weights λ^i, S² = (1−λⁿ)(1+λ)/(n(1−λ)(1+λⁿ)) for λ < 1, with limit 1 at λ = 1; N_eff → (1+λ)/(1−λ).",
    *[sym.identity(f"n = {n}", decay_S2(n), closed(n)) for n in (2, 3, 7)],
    *[sym.limit(f"N_eff at λ = {l}", n_keys * closed(n_keys, l), n_keys, sp.oo, (1 + l) / (1 - l)) for l in (half, slow)],
    sym.limit("λ → 1, n = 5", closed(5), lam, 1, 1),
    ledger.close("l1_l2_ratio at λ = 0.9, n = 50", float(la.l1_l2_ratio(decayed)) ** 2, float(closed(50, slow)), rel=1e-10),
)
nb.derivation(
    "D10b",
    "The best weight that a decay can give to distance D is D^D/(D+1)^(D+1) ≈ 1/(e(D+½)), at λ = D/(D+1).",
    sym.solves("stationary", sp.Eq(sp.Derivative(lam**D * (1 - lam), lam), 0), lam, D / (D + 1)),
    sym.limit("asymptotics", D**D / (D + 1) ** (D + 1) * sp.E * (D + half), D, sp.oo, 1),
    *[ledger.close(f"D = {d}: maximised on a grid", numeric_best(d), float(at_best.subs(D, d)), rel=1e-5) for d in (1, 10, 100)],
    *[ledger.close(f"D = {d}", float(at_best.subs(D, d)), v, rel=1e-4) for d, v in ((1, 0.25), (10, 0.035049), (100, 0.0036605))],
)
nb.claim(
    "C15",
    "The formula for S under decay, its bound, and S → 0.",
    "verified",
    holds=[
        sym.identity(
            "bound² − S² = λⁿ(1+λ)/(n(1−λ)(1+λⁿ)) > 0",
            (1 + lam) / (n_keys * (1 - lam) * (1 + lam**n_keys)) - closed(n_keys),
            lam**n_keys * (1 + lam) / (n_keys * (1 - lam) * (1 + lam**n_keys)),
        ),
        sym.limit("S² at λ = 9/10, n → ∞", closed(n_keys, slow), n_keys, sp.oo, 0),
    ],
)

# %% [markdown]
# ## E1: theory against finite $n$
#
# **Question.** From which $\gamma$ on do the formulas fail at a finite number of keys? **Set-up.** Draw $n$ scores, compute $S$, repeat; no formula enters. **Expected.** The exponential follows
# $e^{-\gamma^2/2}$ up to about $\frac12\sqrt{\log n}$, then peels off towards $1/\sqrt n$. The other two have lighter tails and should agree everywhere. ("Fails" means here off by 5%, a
# convention, read on a grid of steps 0.25.)


# %% tags=["hide-input"]
def monte_carlo_S(weights, n, draws, generator):
    """Mean of S, its standard error and the share of all-zero rows; weights: (draws, n) normals -> weights of the same shape."""
    S = []
    for chunk in torch.arange(draws).split(max(1, 2**23 // n)):
        eps = torch.randn(len(chunk), n, generator=generator, device=generator.device)
        S.append(la.l1_l2_ratio(weights(eps)).cpu())
    S = torch.cat(S)
    mean, error = metrics.mean_stderr(S[~S.isnan()])
    return {"S": mean, "error": error, "zero_rows": S.isnan().double().mean()}


def finite_n(device, *, gammas, sizes, draws, ts, n, draws_ts, seed):
    """S of exp(gamma eps) for each n and gamma, and of t + eps and relu(t + eps)^2 for each t, by simulation."""
    generator = torch.Generator(device=device).manual_seed(seed)
    result = {}
    for size, count in zip(sizes, draws, strict=True):
        rows = [monte_carlo_S(lambda eps, g=g: torch.softmax(g * eps, 1), size, count, generator) for g in gammas]
        result[f"exp {size}"] = {key: [row[key] for row in rows] for key in rows[0]}
    for name, f in {"identity": lambda x: x, "relu²": lambda x: F.relu(x).square()}.items():
        rows = [monte_carlo_S(lambda eps, t=t, f=f: f(t + eps), n, draws_ts, generator) for t in ts]
        result[name] = {key: [row[key] for row in rows] for key in rows[0]}
    return result


# %% tags=["hide-input"]
e1_few = [0.5, 1, 1.5, 2, 3, 4, 10]
e1_gammas = nb.at_scale(cpu=e1_few, gpu=e1_few, full=[0.25 * i for i in range(1, 25)] + [8, 10])
e1_ts = nb.at_scale(cpu=[-2, -1, 0, 1, 2.5], gpu=[-2, -1, 0, 1, 2.5], full=[-4 + 0.25 * i for i in range(33)])
e1 = nb.run(
    "E1",
    finite_n,
    gammas=e1_gammas,
    sizes=nb.at_scale(cpu=[128, 1024, 16384], gpu=[128, 1024, 16384], full=[128, 1024, 16384, 131072]),
    draws=nb.at_scale(cpu=[2000, 800, 60], gpu=[20000, 20000, 2000], full=[100000, 50000, 10000, 2000]),
    ts=e1_ts,
    n=4096,
    draws_ts=nb.at_scale(cpu=200, gpu=2000, full=20000),
    seed=1,
)
e1_record = nb.recorded("E1")


# %%
def e1_at(name, s, run=None):
    """Recorded S (or live, given the run's axis and result) of ``name`` at gamma or t equal to s."""
    config, result = run or (e1_record.config, e1_record.result)
    axis = config["gammas" if name.startswith("exp") else "ts"]
    return result[name]["S"][axis.index(s)]


live_e1 = ({"gammas": e1_gammas, "ts": e1_ts}, e1)
formula = {
    "exp": lambda s: math.exp(-(s**2) / 2),
    "identity": lambda s: float(S_identity.subs(t, sp.Rational(str(s)))),
    "relu²": S_relu2_at,
}
off = lambda name, s, run=None: e1_at(name, s, run) / formula[name.split()[0]](s) - 1
e1_sizes = [int(name.split()[1]) for name in e1_record.result if name.startswith("exp")]
first_gap = {n: next(g for g in e1_record.config["gammas"] if abs(off(f"exp {n}", g)) > 0.05) for n in e1_sizes}
S_of_length = [la.l1_l2_ratio(torch.softmax(length * (k8 @ q8), 1)).mean() for length in (1, 3)]
print(
    "first recorded γ at which the formula is off by 5%:",
    first_gap,
    "; ½√(log n):",
    {n: round(math.sqrt(math.log(n)) / 2, 2) for n in e1_sizes},
)

# %% tags=["hide-input"]
nb.experiment(
    "E1",
    "At finite n the exponential follows exp(−γ²/2) within 5% up to about ½√(log n), then comes down to 1/√n from above; identity and relu² follow their formulas for all t.",
    "partly",
    holds=[
        *[
            ledger.less(f"exp at γ = 0.5, n = {n}: |relative deviation|", abs(off(f"exp {n}", 0.5)), 0.01, scope="recorded")
            for n in e1_sizes
        ],
        *[
            ledger.close(f"first γ with 5% over ½√(log n), n = {n}", g / (math.sqrt(math.log(n)) / 2), 1, abs=0.25, scope="recorded")
            for n, g in first_gap.items()
        ],
        *[
            ledger.close(f"√n S at γ = 10, n = {n}", e1_at(f"exp {n}", 10) * math.sqrt(n), 1.37, abs=0.17, scope="recorded")
            for n in e1_sizes
        ],
        *[
            ledger.less(f"n = {n}: S at γ = 10 over that at γ = 6", e1_at(f"exp {n}", 10) / e1_at(f"exp {n}", 6), 0.9, scope="recorded")
            for n in e1_sizes
        ],
        ledger.more(
            "n = 131,072, γ = 3: N_eff over n exp(−γ²)",
            131072 * e1_at("exp 131072", 3) ** 2 / (131072 * math.exp(-9)),
            8,
            scope="recorded: 165 tokens, not 16",
        ),
        *[
            ledger.less(
                f"{f}, t = {low}..4, n = 4096: largest |relative deviation|",
                max(abs(off(f, s)) for s in e1_record.config["ts"] if s >= low),
                0.01,
                scope="recorded",
            )
            for f, low in (("identity", -4), ("relu²", -1))
        ],
        *[
            ledger.less(f"live {f}, t = 0: |relative deviation|", abs(off(f, 0, live_e1)), 0.01, machine=True, scope="cpu")
            for f in ("identity", "relu²")
        ],
        ledger.close("live exp at γ = 1, n = 128", e1_at("exp 128", 1, live_e1), 0.636, abs=0.01, machine=True, scope="cpu, 2,000 draws"),
        ledger.close("live exp at γ = 3, n = 1024", e1_at("exp 1024", 3, live_e1), 0.109, abs=0.01, machine=True, scope="cpu, 800 draws"),
    ],
    fails=[ledger.more("relu² at t = −3: relative deviation", off("relu²", -3), 0.1, scope="recorded: six keys of 4096 alive")],
)
nb.claim(
    "C4",
    "Exponential attention becomes as sparse as one likes if the norm of q or the spread of the keys grows.",
    "partly",
    holds=[
        ledger.close("n = 16,384, γ = 10: S", e1_at("exp 16384", 10), 0.0115, abs=0.002, scope="recorded"),
        sym.limit("n → ∞ first, then γ → ∞", sp.exp(-(gamma**2) / 2), gamma, sp.oo, 0),
    ],
    fails=[
        ledger.more("n = 128, γ = 10: S stays above 1/√128", e1_at("exp 128", 10), 1 / math.sqrt(128), scope="recorded"),
        ledger.more(
            "γ = 2: N_eff at n = 131,072 over that at 1,024",
            128 * (e1_at("exp 131072", 2) / e1_at("exp 1024", 2)) ** 2,
            20,
            scope="recorded",
        ),
    ],
)
nb.claim(
    "C19",
    "The cure that the formula suggests: lengthen the queries or spread the keys.",
    "verified",
    holds=[
        *[
            ledger.less(
                f"n = {n}: largest step of S from γ to the next", max(np.diff(e1_record.result[f"exp {n}"]["S"])), 0, scope="recorded"
            )
            for n in e1_sizes
        ],
        ledger.more("keys in 8 dimensions: S of q over S of 3q", float(S_of_length[0] / S_of_length[1]), 2, machine=True),
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "S of exponential weights against gamma, S on a log axis. The formula is a falling parabola. Recorded curves for four numbers of keys follow it up to about one, then peel off, the fewer the keys the earlier, and flatten towards one over root n, dotted."}}
figure, axes = plt.subplots()
axes.plot(gamma_axis * 1.2, np.exp(-((gamma_axis * 1.2) ** 2) / 2), color=BLACK, ls="--", label="n = ∞: exp(−γ²/2)")
for n, color, marker in zip(e1_sizes, (ORANGE, GREEN, BLUE, PURPLE), "osD^", strict=True):
    axes.plot(e1_record.config["gammas"], e1_record.result[f"exp {n}"]["S"], color=color, ls="-", label=f"n = {n:,}, recorded")
    axes.axhline(1 / math.sqrt(n), color=color, ls=":", lw=1)
    axes.plot([math.sqrt(math.log(n)) / 2], [math.exp(-math.log(n) / 8)], marker, color=color, ms=8, mfc="white")
    if f"exp {n}" in e1:
        axes.plot(e1_gammas, e1[f"exp {n}"]["S"], marker, color=color, ms=4)
axes.set(
    yscale="log",
    ylim=(1.5e-3, 1.1),
    xlim=(0, 10.2),
    xlabel="standard deviation γ of the scores (open markers: ½√(log n); dotted: 1/√n; small markers: live)",
    ylabel="S (log axis)",
)
axes.set_title("exp(−γ²/2) holds up to about ½√(log n); then S levels off")
axes.legend(fontsize=8)
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "S against t, the ratio of mean to standard deviation of the scores, from minus four to four. Plain linear attention is even with its minimum 0.80 at zero. relu squared rises from near zero through 0.41 at zero to one. Recorded and live simulation points lie on the curves except for relu squared below minus two."}}
figure, axes = plt.subplots()
t_axis = np.linspace(-4, 4, 81)
for name, color, style in (("identity", ORANGE, "--"), ("relu²", GREEN, "-.")):
    axes.plot(t_axis, [formula[name](round(float(s), 3)) for s in t_axis], color=color, ls=style, label=f"{name}, formula")
    axes.plot(e1_record.config["ts"], e1_record.result[name]["S"], ".", color=color, label=f"{name}, n = 4096, recorded")
    axes.plot(e1_ts, e1[name]["S"], "D", color=color, mfc="white", ms=7)
axes.axhline(math.sqrt(2 / math.pi), color=GREY, ls=":", lw=1)
axes.axhline(1 / math.sqrt(6), color=GREY, ls=":", lw=1)
axes.annotate("√(2/π)", (-3.95, 0.81), color=GREY)
axes.annotate("1/√6", (-3.95, 0.42), color=GREY)
axes.set(ylim=(0, 1.03), xlabel="t = mean over standard deviation of the scores", ylabel="S")
axes.set_title("Normal scores: only relu² with a negative mean gets near 0")
axes.legend(loc="lower right")
nb.show(figure)

# %% [markdown]
# ## E2: does concentration decide recall?
#
# **Question.** Is $S$ what separates the mechanisms when they are trained on a task that needs one token? **Set-up.** Associative recall: $n$ distinct keys with random values, one of
# the keys is asked for, its value is the answer. One layer of attention with learned key, query and value tables; a key starts as its own query. Targets are spread evenly, so nothing but
# the key helps. (That start makes the match of key and query easy; it is not varied.)
#
# Six mechanisms, each with a learned scale: softmax, relu² (divided by $n$), identity (divided by $\sqrt n$), and the normalised feature maps elu + 1, relu and exp. Every mechanism,
# softmax included, has the same tables, steps, five learning rates and three seeds; the rate is chosen on validation data. **Expected.** D9 says that the
# *average* weight which a non-negative map gives to its target cannot exceed $d/n$; the question is how near training comes.


# %%
def kernel(mechanism, q, k, scale):
    """Every query against every key, q (..., B, d), k (..., K, d) -> (..., B, K): scaled dot products, or those of the feature maps."""
    phi = la.FEATURE_MAPS.get(mechanism)
    return phi(q) @ phi(k).mT if phi else scale * (q @ k.mT)


def weigh(mechanism, s, bias, count):
    """Attention weights of kernel values s (..., n).

    exp(bias) multiplies each key's share: the log of a decay, or -inf for a hidden key; count: how many keys the query sees.
    """
    if mechanism == "softmax":
        return torch.softmax(s + bias, -1)
    a = (F.relu(s).square() if mechanism == "relu²" else s) * bias.exp()
    power = {"identity": 0.5, "relu²": 1.0}.get(mechanism)  # signed terms add up like their square root
    return a / a.sum(-1, keepdim=True).clamp_min(1e-6) if power is None else a / count**power


# %% tags=["hide-input"]
class Recall(torch.nn.Module):
    """One layer of attention over stored (key, value) pairs, a stack of runs; arm (mechanism, decays) owns ``each`` runs in a row.

    decays: the initial lambda of every head, which is then learned; or [] for none.
    """

    def __init__(self, arms, rates, seeds, *, key_ids, value_ids, d, heads, width=64):
        super().__init__()
        self.arms, self.each = arms, len(rates) * len(seeds)
        init = nn.Init(list(seeds) * len(rates) * len(arms))
        self.keys = init.normal(heads, key_ids, d // heads)
        self.queries = torch.nn.Parameter(self.keys.detach().clone())  # a key starts as its own query
        self.values = init.normal(value_ids, width)
        self.readout = init.normal(heads * width, value_ids, std=1 / math.sqrt(heads * width))
        self.log_scale = torch.nn.Parameter(torch.full((init.runs, heads), -0.5 * math.log(d // heads)))
        start = torch.logit(torch.tensor([list(decays) or [0.5] * heads for _, decays in arms], dtype=torch.float32))
        self.decay_logit = torch.nn.Parameter(start.repeat_interleave(self.each, 0))
        self.register_buffer("decays", torch.tensor([float(bool(d)) for _, d in arms]).repeat_interleave(self.each)[:, None])

    def log_decay(self):
        """log lambda of each run and head (R, H); 0 where there is no decay."""
        return self.decays * F.logsigmoid(self.decay_logit)

    def weights(self, keys, target):
        """Attention of the query keys[target] on keys (R, B, n); target (R, B) -> (R, H, B, n)."""
        n = keys.shape[-1]
        distance = torch.arange(n - 1, -1, -1, device=keys.device)
        bias = self.log_decay()[..., None, None] * distance  # (R, H, 1, n)
        asked = keys.gather(-1, target[..., None])  # (R, B, 1)
        q = self.queries.gather(2, asked[:, None].expand(-1, self.queries.shape[1], -1, self.queries.shape[-1]))
        scale = self.log_scale.exp()[..., None, None]
        out = []
        for (mechanism, _), at in zip(self.arms, torch.arange(len(keys)).split(self.each), strict=True):
            mine = slice(int(at[0]), int(at[-1]) + 1)
            s = kernel(mechanism, q[mine], self.keys[mine], scale[mine])  # against all K keys
            s = s.gather(-1, keys[mine, None].expand(-1, s.shape[1], -1, -1))  # those of the sequence
            out.append(weigh(mechanism, s, bias[mine], n))
        return torch.cat(out)

    def forward(self, keys, values, target):
        a = self.weights(keys, target)
        share = a.new_zeros(*a.shape[:-1], self.readout.shape[-1]).scatter_add(
            -1, values[:, None].expand_as(a), a
        )  # weight on each value id
        read = share @ self.values[:, None]  # the sum of weight times value vector, (R, H, B, width)
        return 4 * read.transpose(1, 2).flatten(2) @ self.readout, a


def draw(runs, seeds, batch, generator, *, pairs, key_ids, value_ids, reach):
    """A batch for each seed, shared by that seed's runs; the target is one of the last ``reach`` pairs."""
    keys, values, _, _ = data.associative_recall((len(seeds), batch), pairs, key_ids, value_ids, generator)
    target = pairs - 1 - torch.randint(reach, (len(seeds), batch), generator=generator, device=generator.device)
    answer = values.gather(-1, target[..., None])[..., 0]
    return tuple(t.repeat(runs // len(seeds), *[1] * (t.ndim - 1)) for t in (keys, values, target, answer))


def measure(model, batches, bins):
    """Accuracy, S, weight on the target, share of zero rows, each (R,), and accuracy by distance of the target (R, bins)."""
    sums, hits, seen = 0, 0, 0
    for keys, values, target, answer in batches:
        logits, a = model(keys, values, target)
        right = (logits.argmax(-1) == answer).double()  # (R, B)
        S = la.l1_l2_ratio(a).double()  # (R, H, B)
        total = a.abs().sum(-1)
        on_target = a.abs().gather(-1, target[:, None, :, None].expand(-1, a.shape[1], -1, 1))[..., 0] / total.clamp_min(1e-12)
        zero = total == 0
        columns = [right.mean(1), S.nan_to_num().sum((1, 2)) / (~zero).sum((1, 2)), on_target.mean((1, 2)), zero.double().mean((1, 2))]
        sums = sums + torch.stack(columns) / len(batches)
        which = torch.bucketize(keys.shape[-1] - 1 - target, bins, right=True) - 1
        one = F.one_hot(which, len(bins)).double()  # (R, B, bins)
        hits, seen = hits + (one * right[..., None]).sum(1), seen + one.sum(1)
    return [*sums, hits / seen.clamp_min(1)]


def train_recall(device, n, d, *, arms, rates, seeds, heads, reach, steps, batch, value_ids, tests, bins):
    """Accuracy on validation and test data, S, target weight, zero rows, decays: (arms, rates, seeds) each. reach 0: targets anywhere."""
    task = {"pairs": n, "key_ids": max(256, 2 * n), "value_ids": value_ids}
    model = Recall(arms, rates, seeds, d=d, heads=heads, key_ids=task["key_ids"], value_ids=value_ids).to(device)
    runs, reach = len(arms) * len(rates) * len(seeds), reach or n
    generator = torch.Generator(device=device).manual_seed(1000 + n)
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)).repeat(len(arms)))
    some = lambda size, reach: draw(runs, seeds, size, generator, reach=reach, **task)
    loss = lambda keys, values, target, answer: nn.cross_entropy_per_run(model(keys, values, target)[0], answer)
    train.fit_graphed(loss, lambda step: some(batch, reach), optimizer, steps, schedule=optim.warmup_cosine)
    with torch.no_grad():
        edges = torch.tensor(bins, device=device)
        valid, test = (measure(model, [some(64, span) for _ in range(tests)], edges) for span in (reach, n))
        found = {"valid": valid[0]} | dict(zip(("accuracy", "S", "target", "zero", "by_distance"), test, strict=True))
        found["decay"] = model.log_decay().exp()
    return {key: t.view(len(arms), len(rates), len(seeds), *t.shape[1:]) for key, t in found.items()}


def recall(device, *, sizes, **config):
    """train_recall for each (n, d)."""
    torch.set_float32_matmul_precision("high")
    return {f"{n} {d}": train_recall(device, n, d, **config) for n, d in sizes}


# %% tags=["hide-input"]
e2_arms = [["softmax", []], ["relu²", []], ["identity", []], ["elu+1", []], ["relu", []], ["exp", []]]
e2_live_sizes = [[8, 16], [32, 16], [128, 16], [128, 64]]
e2 = nb.run(
    "E2",
    recall,
    arms=e2_arms,
    rates=nb.at_scale(cpu=[0.1], gpu=[0.03, 0.1], full=[0.003, 0.01, 0.03, 0.1, 0.3]),
    seeds=[0, 1, 2],
    sizes=nb.at_scale(
        cpu=e2_live_sizes,
        gpu=[[8, 16], [32, 16], [128, 16], [128, 64], [512, 16], [512, 64]],
        full=[[8, 16], [32, 16], [32, 64]] + [[n, d] for n in (128, 512, 1024) for d in (16, 32, 64, 128)],
    ),
    heads=1,
    reach=0,
    steps=nb.at_scale(cpu=80, gpu=600, full=1500),
    batch=nb.at_scale(cpu=32, gpu=64, full=128),
    value_ids=64,
    tests=nb.at_scale(cpu=4, gpu=16, full=32),
    bins=[0],
)
e2_record = nb.recorded("E2")

# %% [markdown]
# A recorded number does not move when the code breaks. So the layer, the batches, the metrics and the stacking are compared here with loops that share no code with them.

# %%
FEATURES = {"elu+1": lambda x: x + 1 if x > 0 else math.exp(x), "relu": lambda x: max(x, 0.0), "exp": math.exp}


def weight_of(mechanism, q, k, scale, n):
    """The weight of one key before decay and normalisation, with floats."""
    if mechanism in FEATURES:
        return sum(FEATURES[mechanism](x) * FEATURES[mechanism](y) for x, y in zip(q, k, strict=True))
    s = scale * sum(x * y for x, y in zip(q, k, strict=True))
    return {"softmax": math.exp(s), "relu²": max(s, 0) ** 2 / n, "identity": s / math.sqrt(n)}[mechanism]


@torch.no_grad()
def recall_by_loop(model, run, mechanism, keys, values, target):
    """Logits and weights of one run for one sequence, head by head and key by key."""
    decays, n = model.arms[run // model.each][1], len(keys)
    lam = [1 / (1 + math.exp(-x)) if decays else 1.0 for x in model.decay_logit[run].tolist()]
    read, rows = [], []
    for h in range(len(lam)):
        q, scale = model.queries[run, h, keys[target]].tolist(), math.exp(model.log_scale[run, h])
        row = [weight_of(mechanism, q, model.keys[run, h, k].tolist(), scale, n) * lam[h] ** (n - 1 - j) for j, k in enumerate(keys)]
        rows.append(row if mechanism in ("identity", "relu²") else [w / sum(row) for w in row])
        vectors = model.values[run][values].tolist()
        read += [sum(w * v[c] for w, v in zip(rows[-1], vectors, strict=True)) for c in range(len(vectors[0]))]
    return [4 * sum(r * w for r, w in zip(read, column, strict=True)) for column in model.readout[run].T.tolist()], rows


# %% tags=["hide-input"]
loop_arms = [[name, decays] for name in ("softmax", "relu²", "identity", "elu+1", "relu", "exp") for decays in ([], [0.9, 0.6])]
small = Recall(loop_arms, [0.1], [3], key_ids=12, value_ids=5, d=6, heads=2, width=4)
noise = torch.Generator().manual_seed(13)
started = small.log_decay().exp()[1].tolist()
started_scales = small.log_scale.detach().exp().unique().tolist()
with torch.no_grad():
    for p in small.parameters():
        p.add_(0.6 * torch.randn(p.shape, generator=noise))
task = {"pairs": 7, "key_ids": 12, "value_ids": 5}
few = draw(12, [3], 4, torch.Generator().manual_seed(14), reach=3, **task)
with torch.no_grad():
    small_logits, small_a = small(*few[:3])
loop_errors = {}
for run, (name, decays) in enumerate(loop_arms):
    logits, rows = recall_by_loop(small, run, name, *(few[i][run, 0].tolist() for i in range(3)))
    error = float((small_logits[run, 0] - torch.tensor(logits)).abs().max() / small_logits[run, 0].abs().max())
    arm = name + (", decay" if decays else "")
    loop_errors[arm] = error, float((small_a[run, :, 0] - torch.tensor(rows)).abs().max())
with torch.no_grad():
    metrics_now = measure(small, [few], torch.tensor([0, 1, 2]))
hand_right = (small_logits.argmax(-1) == few[3]).float()
rows_of = small_a.double().abs()
hand_S = (rows_of.mean(-1) / rows_of.square().mean(-1).sqrt()).nanmean((1, 2))
hand_weight = torch.stack([rows_of[:, :, b, int(few[2][0, b])] / rows_of[:, :, b].sum(-1) for b in range(4)]).nan_to_num().mean((0, 2))
at_distance = [(few[2][0] == 6 - i).double() for i in range(3)]
hand_bins = torch.stack([(hand_right * at).sum(1) / at.sum().clamp_min(1) for at in at_distance], 1)
many = draw(6, [0, 1], 500, torch.Generator().manual_seed(15), reach=3, **task)
tiny = {"arms": [["softmax", []], ["elu+1", [0.9]]], "seeds": [0, 1], "sizes": [[8, 4]], "heads": 1, "reach": 0, "steps": 12, "batch": 8}
tiny |= {"value_ids": 8, "tests": 2, "bins": [0, 4]}
stacked = recall(torch.device("cpu"), rates=[0.02, 0.2], **tiny)["8 4"]
alone = recall(torch.device("cpu"), rates=[0.2], **tiny)["8 4"]
apart_now = max(float((stacked[key][:, 1] - alone[key][:, 0]).abs().max()) for key in ("valid", "S", "target", "decay"))
moved = float((stacked["target"][:, 1] - stacked["target"][:, 0]).abs().min())
test_counts = stacked["accuracy"].double() * 64 * tiny["tests"]

# %% tags=["hide-input"]
nb.claim(
    "X2",
    "The recall layer, its batches and its metrics compute what the text says.",
    "verified",
    holds=[
        *[
            ledger.less(f"{arm}, against loops: largest error of {what}", e, 1e-5, digits=1, machine=True)
            for arm, errors in loop_errors.items()
            for what, e in zip(("a logit, relative", "a weight"), errors, strict=True)
        ],
        *[ledger.close(f"initial decay of head {h}", started[h], d, rel=1e-5, machine=True) for h, d in enumerate((0.9, 0.6))],
        ledger.less(
            "accuracy against a direct count", float((metrics_now[0] - hand_right.mean(1)).abs().max()), 1e-6, digits=1, machine=True
        ),
        ledger.less("S", float((metrics_now[1] - hand_S).abs().max()), 1e-5, digits=1, machine=True),
        ledger.less("weight on the target", float((metrics_now[2] - hand_weight).abs().max()), 1e-5, digits=1, machine=True),
        ledger.less("accuracy at distances 0, 1, 2", float((metrics_now[4] - hand_bins).abs().max()), 1e-6, digits=1, machine=True),
        ledger.close("nearest target of 1,000", float(6 - many[2].max()), 0, abs=0.5),
        ledger.close("farthest, reach 3", float(6 - many[2].min()), 2, abs=0.5),
        ledger.close(
            "answers that are the target's value",
            float((many[1].gather(-1, many[2][..., None])[..., 0] == many[3]).double().mean()),
            1,
            abs=1e-9,
        ),
        ledger.close(
            "runs of one seed that see the same batch (of runs 2, 4 against 0, 3, 5 against 1)",
            float((many[0][2:] == many[0][:2].repeat(2, 1, 1)).double().mean()),
            1,
            abs=1e-9,
        ),
        ledger.less("keys shared by two seeds, place by place", float((many[0][0] == many[0][1]).double().mean()), 0.15, machine=True),
        ledger.close("initial scale of every head, of width 3", sum(started_scales), 3**-0.5, rel=1e-6),
        ledger.less(
            "accuracies are counts over tests of 64 sequences: distance from whole numbers",
            float((test_counts - test_counts.round()).abs().max()),
            1e-3,
            digits=1,
            machine=True,
        ),
        ledger.less("a run in a stack of two rates against one rate alone", apart_now, 1e-4, digits=1, machine=True),
        ledger.more("while the rate matters", moved, 1e-3, digits=1, machine=True),
    ],
)


# %%
def best_runs(run, arms, size, key):
    """{arm index: values, one a seed} of ``key`` at the learning rate with the best mean validation accuracy."""
    valid, found = np.array(run[size]["valid"]), np.array(run[size][key])
    return {i: found[i, valid[i].mean(1).argmax()] for i in range(len(arms))}


e2_names = [name for name, _ in e2_arms]
e2_of = lambda size, key: dict(zip(e2_names, best_runs(e2_record.result, e2_arms, size, key).values(), strict=True))
live_of = lambda size, key: dict(zip(e2_names, best_runs(e2, e2_arms, size, key).values(), strict=True))
e2_sizes = [tuple(s) for s in e2_record.config["sizes"]]
non_negative = ("elu+1", "relu", "exp")
e2_scope = "recorded, 3 seeds, best of 5 rates"
e2_valid = {size: dict(zip(e2_names, np.array(run["valid"]).mean(2), strict=True)) for size, run in e2_record.result.items()}
at_edge = {(size, m): int(v.argmax()) for size, rows in e2_valid.items() for m, v in rows.items() if v.argmax() in (0, len(v) - 1)}
untuned = {where: e2_valid[where[0]][where[1]].max() for where in at_edge if e2_valid[where[0]][where[1]].max() < 0.995}
toy = best_runs({"s": {"valid": [[[0.1, 0.3], [0.9, 0.7], [0.8, 0.6]]], "x": [[[1, 2], [3, 5], [6, 7]]]}}, [["softmax", []]], "s", "x")
for m in e2_names:
    print(f"{m}: best rate at an edge of the grid at {sum(name == m for _, name in at_edge)} of {len(e2_sizes)} sizes,", end=" ")
    print("of these below 0.995 in accuracy:", {size: round(float(v), 3) for (size, name), v in untuned.items() if name == m} or "none")

# %% tags=["hide-input"]
half_width = lambda runs: 4.30 * np.std(runs, ddof=1, axis=0) / math.sqrt(3)  # half a 95% t-interval of three seeds

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: recall accuracy against the number of stored pairs at width 16. Softmax and relu squared stay near one, identity falls, the three non-negative maps fall fastest. Right: accuracy of all sizes and widths against d over n. Identity falls on one rising curve, the non-negative maps below it on another, with elu plus one falling short at the largest n; softmax stays at one."}}
fig5_axes = figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.8), sharey=True)
looks = dict(
    zip(
        e2_names,
        ((BLUE, "-", "o"), (GREEN, "-.", "s"), (BLACK, "--", "D"), (ORANGE, "-", "^"), (PURPLE, ":", "v"), (RED, "--", "P")),
        strict=True,
    )
)
for name, (color, style, marker) in looks.items():
    ns = sorted(n for n, d in e2_sizes if d == 16)
    runs = [e2_of(f"{n} 16", "accuracy")[name] for n in ns]
    error = [half_width(r) for r in runs]  # 95% t-interval of three seeds
    left.errorbar(ns, [r.mean() for r in runs], error, color=color, ls=style, marker=marker, ms=4, capsize=2, label=name)
    left.plot(
        [n for n, d in map(tuple, e2_live_sizes) if d == 16],
        [live_of(f"{n} 16", "accuracy")[name].mean() for n, d in e2_live_sizes if d == 16],
        marker,
        color=color,
        mfc="white",
        ms=7,
    )
    right.plot([d / n for n, d in e2_sizes], [e2_of(f"{n} {d}", "accuracy")[name].mean() for n, d in e2_sizes], marker, color=color, ms=5)
left.set(xscale="log", xlabel="pairs n (log axis)", ylabel="recall accuracy", ylim=(0, 1.03))
left.set_title("d = 16 (open: live; bars: 95% of 3 seeds)", fontsize=10)
left.legend(fontsize=7.5)
right.set(xscale="log", xlabel="d / n (log axis)")
right.set_title("all sizes, same marks", fontsize=10)
figure.suptitle(
    "Linear recall falls as n/d grows, signed last of all; softmax stays at 1", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: S of the six mechanisms against the number of pairs at width 16. Softmax falls like one over root n, relu squared stays between 0.26 and 0.42, the non-negative maps lie near 0.6 with elu plus one rising to 0.85 at 1024 pairs, identity is near 0.80. Right: weight on the target. Non-negative maps stay below the dotted bound d over n, softmax stays above one half."}}
fig6_axes = figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
for axes, key in ((left, "S"), (right, "target")):
    for name, (color, style, marker) in looks.items():
        axes.plot(ns, [e2_of(f"{n} 16", key)[name].mean() for n in ns], color=color, ls=style, marker=marker, ms=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="pairs n (log axis)")
left.plot(ns, [n**-0.5 for n in ns], color=GREY, ls=":", lw=1)
left.annotate("1/√n", (150, 0.05), color=GREY)
left.set_yticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
left.yaxis.set_minor_formatter("")
right.plot(ns, [16 / n for n in ns], color=GREY, ls=":", lw=1)
right.annotate("bound d/n", (9, 2.1), color=GREY, fontsize=9)
left.set(ylabel="S (log axis)", ylim=(0.025, 1.1))
left.set_title("concentration", fontsize=10)
right.set_title("share of the weight on the target", fontsize=10)
right.set(ylabel="target weight (log axis)", ylim=(2e-3, 3))
left.legend(fontsize=7, loc="lower left")
figure.suptitle(
    "Largest S at 32 to 512 pairs: identity; linear target weights fall like d/n", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
nb.show(figure)

# %% tags=["hide-input"]
nb.results(
    "E2",
    f"Recall at d = 16 and 64, mean of {len(e2_record.config['seeds'])} seeds at the best rate; {e2_record.provenance}. The bound on the target weight of non-negative maps is d/n = 0.125 at (128, 16)",
    [
        "mechanism",
        *[f"{what}, n = {n}, d = {d}" for n, d in ((128, 16), (128, 64), (1024, 64)) for what in ("accuracy", "S", "target weight")],
    ],
    [
        [
            name,
            *[
                fixed(e2_of(f"{n} {d}", key)[name].mean(), 3)
                for n, d in ((128, 16), (128, 64), (1024, 64))
                for key in ("accuracy", "S", "target")
            ],
        ]
        for name in e2_names
    ],
)

# %% [markdown]
# **What we saw.** Softmax answers everything, at every size, with more than half of its weight on the target. At $n=128$, $d=16$ D9 allows the three non-negative maps a mean target weight of 0.125; they reach 0.05, and an accuracy near
# 0.3. A larger $d$ lifts them (right), in step with $d/n$.
#
# Identity has the largest $S$ at that size and recalls twice as well: its weights do not find the target, they let the others cancel. It is ahead wherever
# the non-negative maps have not yet reached 0.9. At the other sizes the order by $S$ is another: at $n=1024$, $d=64$ elu + 1 has the largest (0.89). Identity's accuracy is one curve in $d/n$, as the noise $\sqrt{n/d}$ of
# $n-1$ random keys suggests; that of relu grows with $n$ at fixed $d/n$, and elu + 1 at $n=1024$ has hardly left its start after 1,500 steps, whatever $d$ is (we did not try more steps). relu² at width 16 is nearly perfect up to
# $n=512$, with $S$ between 0.26 and 0.42.
#
# On the rates: softmax and most of relu² sit at the edge of the grid only because several rates are perfect there and the first is taken; their $S$ and weights are those of that rate. elu + 1 at $(128,64)$ and identity at
# $(128,32)$ are best at the largest rate, so a larger one might do better, which would add to the gains by $d$ listed below.

# %% tags=["hide-input"]
narrow = [(n, d) for n, d in e2_sizes if d < n]
bound_used = {(n, d, m): e2_of(f"{n} {d}", "target")[m].mean() * n / d for n, d in narrow for m in non_negative}
any_rate = max(np.array(e2_record.result[f"{n} {d}"]["target"])[3:].max() * n / d for n, d in narrow)
live_used = max(live_of(f"{n} 16", "target")[m].max() * n / 16 for n in (32, 128) for m in non_negative)
accuracy_128, S_128 = e2_of("128 16", "accuracy"), e2_of("128 16", "S")
gain = e2_of("128 64", "accuracy")["elu+1"].mean() - accuracy_128["elu+1"].mean()
best_of = lambda size: max(non_negative, key=lambda m: e2_of(size, "accuracy")[m].mean())
open_sizes = [size for size in e2_record.result if e2_of(size, "accuracy")[best_of(size)].mean() < 0.9]
largest_S = {size: max(e2_names, key=lambda m: e2_of(size, "S")[m].mean()) for size in e2_record.result}


# %% tags=["hide-input"]
nb.experiment(
    "E2",
    "At n = 128, d = 16 softmax recalls above 0.9 and every non-negative linear map below 0.35, with 40% of the target weight that D9 allows; a larger d helps them.",
    "verified",
    holds=[
        ledger.close("best_runs on a toy grid: mean of the chosen row", toy[0].mean(), 4, abs=1e-9),
        ledger.more("softmax accuracy, n = 128, d = 16, worst seed", min(accuracy_128["softmax"]), 0.9, scope=e2_scope),
        *[ledger.less(f"{name}: accuracy there, best seed", max(accuracy_128[name]), 0.35, scope=e2_scope) for name in non_negative],
        ledger.close("S of identity there", S_128["identity"].mean(), math.sqrt(2 / math.pi), abs=0.03, scope=e2_scope),
        ledger.more("elu+1: accuracy gained from d = 16 to 64", gain, 0.4, scope=e2_scope),
        *[
            ledger.close(f"{m}: share of the bound d/n used there", bound_used[128, 16, m], 0.41, abs=0.04, scope=e2_scope)
            for m in non_negative
        ],
        ledger.less("largest such share, every rate, seed and size with d < n (code: it cannot exceed 1)", any_rate, 1, scope="recorded"),
        ledger.less("the same live, d = 16", live_used, 1, machine=True, scope="cpu, 3 seeds"),
        ledger.more(
            "softmax: smallest accuracy over all sizes",
            min(e2_of(s, "accuracy")["softmax"].mean() for s in largest_S),
            0.999,
            scope=e2_scope,
        ),
        ledger.more(
            "softmax: smallest target weight over all sizes",
            min(e2_of(s, "target")["softmax"].mean() for s in largest_S),
            0.5,
            scope=e2_scope,
        ),
        ledger.more(
            "relu², d = 16: smallest accuracy up to n = 512",
            min(e2_of(f"{n} 16", "accuracy")["relu²"].mean() for n in (8, 32, 128, 512)),
            0.98,
            scope=e2_scope,
        ),
        *[
            ledger.close(
                f"relu², d = 16, n ≤ 512: {what} S",
                f(e2_of(f"{n} 16", "S")["relu²"].mean() for n in (8, 32, 128, 512)),
                v,
                abs=0.01,
                scope=e2_scope,
            )
            for what, f, v in (("smallest", min, 0.26), ("largest", max, 0.42))
        ],
        *[
            ledger.less(
                f"{m} at (128, 64): S is below the value for normal scores", e2_of("128 64", "S")[m].max(), v, margin=0.05, scope=e2_scope
            )
            for m, v in (("identity", math.sqrt(2 / math.pi)), ("relu²", 1 / math.sqrt(6)))
        ],
        *[
            ledger.better(
                f"({size.replace(' ', ', ')}): accuracy of identity over {best_of(size)}, the best non-negative",
                e2_of(size, "accuracy")["identity"],
                e2_of(size, "accuracy")[best_of(size)],
                sigmas=4.3,
                scope=e2_scope,
            )
            for size in open_sizes
        ],
        ledger.close("sizes where the best non-negative map is below 0.9", len(open_sizes), 11, abs=0.5, scope=e2_scope),
        *[
            ledger.close(f"({size}): largest S is that of {m} (1: yes)", float(largest_S[size] == m), 1, abs=0.1, scope=e2_scope)
            for size, m in (("8 16", "elu+1"), ("32 16", "identity"), ("512 16", "identity"), ("1024 64", "elu+1"))
        ],
        ledger.close("rates at the grid's edge below 0.995 in accuracy: cases", len(untuned), 3, abs=0.5, scope="recorded"),
        ledger.better(
            "live, n = 128, d = 16: softmax over relu",
            live_of("128 16", "accuracy")["softmax"],
            live_of("128 16", "accuracy")["relu"],
            sigmas=5,
            scope="cpu, 3 seeds",
        ),
        ledger.better(
            "live, relu features: d = 64 over d = 16",
            live_of("128 64", "accuracy")["relu"],
            live_of("128 16", "accuracy")["relu"],
            sigmas=5,
            scope="cpu, 3 seeds",
        ),
    ],
)
same_ratio = [((n, d), (m, e)) for n, d in e2_sizes for m, e in e2_sizes if n * e == m * d and 128 <= n < m]
ratio_of = lambda mechanism: {
    (a, b): e2_of(f"{b[0]} {b[1]}", "accuracy")[mechanism].mean() / e2_of(f"{a[0]} {a[1]}", "accuracy")[mechanism].mean()
    for a, b in same_ratio
}
nb.claim(
    "X4",
    "From n = 128 on the recall of a linear map depends on n and d through d/n alone.",
    "partly",
    holds=[
        ledger.close(f"identity: accuracy at {b} over {a}", v, 1, abs=0.06, scope=e2_scope) for (a, b), v in ratio_of("identity").items()
    ],
    fails=[
        ledger.more("relu: largest such ratio", max(ratio_of("relu").values()), 1.15, scope=e2_scope),
        ledger.less("elu+1: at (1024, 128) over (128, 16)", ratio_of("elu+1")[(128, 16), (1024, 128)], 0.4, scope=e2_scope),
        ledger.less(
            "elu+1 at (1024, 128): target weight over its bound", e2_of("1024 128", "target")["elu+1"].mean() * 8, 0.05, scope=e2_scope
        ),
    ],
)

# %% [markdown]
# ## E3: what does a decay buy?
#
# **Question.** Decay makes weights concentrated. Does it help to find something? **Set-up.** The same task as a stream of 64 pairs with the question at its end, 4 heads of width 4. The weight of the pair at
# distance $i$ is multiplied by $\lambda_h^i$ (for softmax, inside the exponential), $\lambda_h$ learned from RetNet's start $1-2^{-5-h}$. Two training sets: targets among the last 8 pairs, and
# anywhere. Both are tested at all distances. **Expected.** With decay, good recall near the question, little beyond $N_{\mathrm{eff}}=(1+\lambda)/(1-\lambda)$ pairs; no gain where targets are everywhere.

# %% tags=["hide-input"]
retnet = [1 - 2.0 ** (-5 - h) for h in range(4)]
e3_arms = [["softmax", []], ["softmax", retnet], ["identity", []], ["identity", retnet], ["elu+1", []], ["elu+1", retnet]]
e3_setting = {
    "arms": e3_arms,
    "rates": nb.at_scale(cpu=[0.1], gpu=[0.03, 0.1], full=[0.003, 0.01, 0.03, 0.1, 0.3]),
    "seeds": [0, 1, 2],
    "sizes": [[64, 16]],
    "heads": 4,
    "steps": nb.at_scale(cpu=80, gpu=600, full=2000),
    "batch": nb.at_scale(cpu=32, gpu=64, full=128),
    "value_ids": 64,
    "tests": nb.at_scale(cpu=8, gpu=32, full=128),
    "bins": [0, 1, 2, 4, 8, 16, 32],
}
e3a = nb.run("E3a", recall, reach=8, **e3_setting)
e3b = nb.run("E3b", recall, reach=64, **e3_setting)
e3_records = {8: nb.recorded("E3a"), 64: nb.recorded("E3b")}

# %% tags=["hide-input"]
e3_names = [f"{name}{' × decay' if decays else ''}" for name, decays in e3_arms]
e3_of = lambda reach, key: dict(zip(e3_names, best_runs(e3_records[reach].result, e3_arms, "64 16", key).values(), strict=True))
e3_live = lambda run, key: dict(zip(e3_names, best_runs(run, e3_arms, "64 16", key).values(), strict=True))
near, far = slice(0, 4), slice(5, 7)  # distances 0..7 and 16..63
window = {reach: {name: (1 + lam) / (1 - lam) for name, lam in e3_of(reach, "decay").items() if "decay" in name} for reach in (8, 64)}
by_distance = lambda reach, name, where: e3_of(reach, "by_distance")[name][:, where].mean(1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Recall accuracy against the distance of the target, for models trained on targets among the last eight pairs and among all 64. With a learned decay the linear maps are accurate near the question, and fall from distance eight on to nearly nothing at 48; without decay they are flat. Softmax without decay is flat and near one."}}
fig7_axes = figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.8), sharey=True)
bin_edges = [*e3_setting["bins"], 64]
centres = [(a + b - 1) / 2 for a, b in itertools.pairwise(bin_edges)]  # mean distance of each bin
e3_looks = dict(
    zip(
        e3_names,
        ((BLUE, ":", "o"), (BLUE, "-", "o"), (BLACK, ":", "D"), (BLACK, "-", "D"), (ORANGE, ":", "^"), (ORANGE, "-", "^")),
        strict=True,
    )
)
for axes, reach in zip(panels, (8, 64), strict=True):
    for name, (color, style, marker) in e3_looks.items():
        rows = e3_of(reach, "by_distance")[name]
        axes.errorbar(
            [c + 1 for c in centres],
            rows.mean(0),
            half_width(rows),
            color=color,
            ls=style,
            marker=marker,
            ms=4,
            capsize=2,
            label=name,
        )
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="distance of the target + 1 (log axis)")
    axes.set_title("trained on the last 8 of 64 pairs (grey)" if reach == 8 else "trained on targets anywhere", fontsize=10)
panels[0].axvspan(1, 8, color=GREY, alpha=0.12, lw=0)
panels[0].set_ylabel("recall accuracy")
panels[1].legend(fontsize=7.5, loc="lower left", ncols=2)
figure.suptitle("A decay buys the recent past and pays with the rest", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# **What we saw.** Trained on near targets, the mean $\lambda$ of linear attention settles near 0.94, about 35 pairs by $N_{\mathrm{eff}}$. It gains much on the last 8 pairs (elu + 1 from a third to nearly all) and pays for it well inside that
# window: at distances 16 to 31 elu + 1 is down to 0.20 and identity to 0.38, and beyond little is left. Softmax with the same kind of decay keeps most of the far past: a content score can outweigh a bias of $i\log\lambda$.
# Trained on targets anywhere, both linear models turn their decay off ($\lambda\to1$), and accuracy is what it was without. A warning on weights: four-headed softmax answers all questions with only 0.28 of the weight (mean over
# heads) on the target. "Almost all weight on one token" is not needed when several heads vote. (Bars: 95% t-intervals of three seeds.)

# %% tags=["hide-input"]
longest = {reach: {name: w.max(1).mean() for name, w in rows.items()} for reach, rows in window.items()}
nb.experiment(
    "E3",
    "A learned decay lets linear attention recall the recent past at the expense of the far; where targets are everywhere it brings nothing.",
    "verified",
    holds=[
        *[
            ledger.better(
                f"{name}, targets in the last 8: with decay over without, distances 0 to 7",
                by_distance(8, f"{name} × decay", near),
                by_distance(8, name, near),
                sigmas=4,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        *[
            ledger.better(
                f"{name}: the same models, distances 0 to 7 over 16 to 63",
                by_distance(8, f"{name} × decay", near),
                by_distance(8, f"{name} × decay", far),
                sigmas=4,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        ledger.better(
            "targets anywhere: softmax without decay over elu+1 with",
            e3_of(64, "accuracy")["softmax"],
            e3_of(64, "accuracy")["elu+1 × decay"],
            sigmas=4,
            scope="recorded, 3 seeds",
        ),
        *[
            ledger.close(
                f"{name}, targets anywhere: accuracy with decay over without",
                e3_of(64, "accuracy")[f"{name} × decay"].mean() / e3_of(64, "accuracy")[name].mean(),
                1,
                abs=0.02,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        *[
            ledger.close(
                f"{name} × decay, trained near: mean λ",
                e3_of(8, "decay")[f"{name} × decay"].mean(),
                0.94,
                abs=0.01,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        *[
            ledger.close(
                f"{name} × decay, trained near: accuracy at distances 16 to 31",
                by_distance(8, f"{name} × decay", slice(5, 6)).mean(),
                v,
                abs=0.02,
                scope="recorded, 3 seeds",
            )
            for name, v in (("identity", 0.38), ("elu+1", 0.2))
        ],
        ledger.close(
            "softmax, targets anywhere: weight on the target, mean over heads",
            e3_of(64, "target")["softmax"].mean(),
            0.28,
            abs=0.02,
            scope="recorded, 3 seeds, accuracy 0.9998",
        ),
        *[
            ledger.close(
                f"{name} × decay, trained near: longest window of its heads, in pairs",
                longest[8][f"{name} × decay"],
                35,
                abs=8,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        *[
            ledger.less(
                f"{name} × decay: accuracy at distances 32 to 63",
                by_distance(8, f"{name} × decay", slice(6, 7)).mean(),
                0.1,
                scope="recorded, 3 seeds",
            )
            for name in ("identity", "elu+1")
        ],
        ledger.more(
            "softmax × decay, trained near: accuracy at distances 32 to 63",
            by_distance(8, "softmax × decay", slice(6, 7)).mean(),
            0.5,
            scope="recorded, 3 seeds",
        ),
        ledger.more(
            "trained anywhere: smallest mean λ of the linear models",
            min(e3_of(64, "decay")[f"{name} × decay"].mean() for name in ("identity", "elu+1")),
            0.998,
            digits=6,
            scope="recorded, 3 seeds",
        ),
        ledger.close(
            "live, last 8: identity × decay, mean λ after training (start 0.985)",
            e3_live(e3a, "decay")["identity × decay"].mean(),
            0.919,
            abs=0.015,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.more(
            "live, last 8: identity without decay, accuracy at distances 32 to 63",
            e3_live(e3a, "by_distance")["identity"][:, 6].mean(),
            0.1,
            machine=True,
            scope="cpu, 3 seeds: tested at all distances",
        ),
        ledger.better(
            "live, last 8: identity with decay over without",
            e3_live(e3a, "valid")["identity × decay"],
            e3_live(e3a, "valid")["identity"],
            sigmas=5,
            scope="cpu, 3 seeds",
        ),
    ],
)
nb.claim(
    "C16",
    "Decay concentrates on the recent past and cannot attend to a far token of choice.",
    "verified",
    holds=[
        ledger.less("D10b: best weight on a token at distance 100, λ made for it", float(at_best.subs(D, 100)), 0.004, method="exact"),
        ledger.more(
            "softmax in the stream, targets anywhere: weight on the target",
            e3_of(64, "target")["softmax"].mean(),
            0.2,
            scope="recorded, 3 seeds",
        ),
        ledger.less(
            "elu+1 with decay, trained near: accuracy at distances 16 to 63",
            by_distance(8, "elu+1 × decay", far).mean(),
            0.2,
            scope="recorded, 3 seeds",
        ),
        ledger.less(
            "identity with decay, trained near: accuracy at distances 16 to 63",
            by_distance(8, "identity × decay", far).mean(),
            0.5,
            scope="recorded, 3 seeds",
        ),
    ],
)

# %% [markdown]
# ## E5: a trained language model
#
# **Question.** How many tokens do the heads of a trained model use? **Set-up.** Character models on Shakespeare, 4 layers of 4 heads, 256 characters of context, alike but for the attention: softmax, elu + 1 and
# relu² (divided by the number of visible keys, as in GAU). Four learning rates, three seeds, the rate chosen on validation text. $N_{\mathrm{eff}}$ is taken over test text, for the positions of the second half.


# %% tags=["hide-input"]
class Reader(nn.Transformer):
    """nn.Transformer with the weights of ``weigh``; ``watch``, where given, sees those of each layer, (R, B, H, T, T)."""

    def __init__(self, mechanism, init, **shape):
        super().__init__(init, **shape)
        self.mechanism, self.watch = mechanism, None

    def _attention(self, x, wq, wk, wv, wo, rotation):
        heads = lambda w: nn._matmul(x, w).unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (R, B, H, T, d_head)
        q, k, v = heads(wq), heads(wk), heads(wv)
        at = torch.arange(x.shape[2], device=x.device)
        hidden = torch.zeros(len(at), len(at), device=x.device).masked_fill(at > at[:, None], -math.inf)
        s = kernel(self.mechanism, q, k, 1 / math.sqrt(q.shape[-1])).float()
        a = weigh(self.mechanism, s, hidden, at[:, None] + 1)
        if self.watch is not None:
            self.watch(a)
        return nn._matmul((a.to(x.dtype) @ v).transpose(2, 3).flatten(3), wo)


def concentration(a):
    """N_eff of each row of causal weights (R, B, H, T, T), and the largest share |a|/sum|a|; NaN for zero rows; (R, B, H, T) each."""
    a = a.float().abs()
    return la.effective_tokens(a), a.amax(-1) / a.sum(-1)


def read_weights(model, x, precision):
    """What the heads do on x: for each layer N_eff and largest weight, means over sequences (layers, R, H, T), and by head the 10%, 50%
    and 90% quantiles of N_eff over the visible keys in the second half (layers, R, H, 3) and the share of zero rows (layers, R, H).

    Zero rows are left out of means and quantiles.
    """
    found = []

    def watch(a):
        N, top = concentration(a)
        T = a.shape[-1]
        share = (N / torch.arange(1, T + 1, device=a.device))[..., T // 2 :].transpose(1, 2).flatten(2)  # (R, H, B T/2)
        levels = torch.tensor([0.1, 0.5, 0.9], device=a.device)
        quantiles = share.nanquantile(levels, dim=-1).movedim(0, -1)
        found.append((N.nanmean(1), top.nanmean(1), quantiles, N.isnan().float().mean((1, 3))))

    model.watch = watch
    model(x, precision)
    model.watch = None
    return [torch.stack(t).cpu() for t in zip(*found, strict=True)]


def train_reader(mechanism, device, parts, vocabulary, *, rates, seeds, d, depth, heads, context, batch, steps, tests, points, bf16):
    """Validation and test loss (rates, seeds), and what the heads do on test text (layers, rates, seeds, ...)."""
    precision = torch.bfloat16 if bf16 else torch.float32
    init = nn.Init(list(seeds) * len(rates))
    model = Reader(mechanism, init, vocabulary=vocabulary, context=context, d=d, depth=depth, heads=heads).to(device)
    optimizer = optim.StackedAdam(model.parameters(), torch.tensor(rates).repeat_interleave(len(seeds)))
    generator = torch.Generator(device=device).manual_seed(0)

    def windows(part):
        start = torch.randint(len(part) - context, (len(seeds), batch, 1), generator=generator, device=device)
        at = start + torch.arange(context, device=device)
        return part[at].repeat(len(rates), 1, 1), part[at + 1].repeat(len(rates), 1, 1)

    loss = lambda x, y: nn.cross_entropy_per_run(model(x, precision), y)
    train.fit_graphed(loss, lambda step: windows(parts["train"]), optimizer, steps, schedule=optim.warmup_cosine)
    with torch.no_grad():
        losses = {name: torch.stack([loss(*windows(parts[name])) for _ in range(tests)]).mean(0) for name in ("valid", "test")}
        N, top, quantiles, zero = read_weights(model, windows(parts["test"])[0], precision)
    second_half = lambda t: t[..., context // 2 :].nanmean(-1)
    by_run = {"share": second_half(N / torch.arange(1, context + 1)), "top": second_half(top), "quantiles": quantiles, "zero": zero}
    by_run["curve"] = N[..., [p - 1 for p in points]].nanmean(2)  # (layers, R, points)
    split = lambda t, axis: t.nan_to_num().unflatten(axis, (len(rates), len(seeds)))
    return {k: split(t, 0) for k, t in losses.items()} | {k: split(t, 1) for k, t in by_run.items()}


def language_model(device, *, mechanisms, **config):
    """Character models on Shakespeare: train_reader for each mechanism."""
    torch.set_float32_matmul_precision("high")
    ids, alphabet = data.encode_characters(data.shakespeare())
    ids, hold = ids.to(device), 200_000
    parts = {"train": ids[: -2 * hold], "valid": ids[-2 * hold : -hold], "test": ids[-hold:]}
    return {mechanism: train_reader(mechanism, device, parts, len(alphabet), **config) for mechanism in mechanisms}


# %% tags=["hide-input"]
e5_shape = nb.at_scale(
    cpu={"d": 32, "depth": 2, "heads": 2, "context": 64, "batch": 8, "steps": 50, "tests": 2, "points": [1, 4, 16, 64]},
    gpu={"d": 128, "depth": 3, "heads": 4, "context": 128, "batch": 16, "steps": 400, "tests": 4, "points": [1, 4, 16, 64, 128]},
    full={"d": 256, "depth": 4, "heads": 4, "context": 256, "batch": 16, "steps": 1500, "tests": 16, "points": [2**i for i in range(9)]},
)
e5 = nb.run(
    "E5",
    language_model,
    mechanisms=["softmax", "elu+1", "relu²"],
    rates=nb.at_scale(cpu=[1e-2], gpu=[2e-3, 4e-3], full=[5e-4, 1e-3, 2e-3, 4e-3]),
    seeds=nb.at_scale(cpu=[0, 1, 2], gpu=[0, 1, 2], full=[0, 1, 2]),
    bf16=nb.scale != "cpu" and runtime.has_bf16(),
    **e5_shape,
)
e5_record = nb.recorded("E5")


# %% tags=["hide-input"]
def first_layer(model, ids, mechanism):
    """Queries, keys, values of the first layer (B, H, T, d_head) of run 0, from its parameters."""
    h = model.tokens.weight[0][ids] + model.positions.weight[0][: ids.shape[-1]]
    h = h / h.square().mean(-1, keepdim=True).sqrt() * model.gains[0, 0]
    cut = lambda w: (h @ w[0, 0]).unflatten(-1, (model.heads, -1)).transpose(1, 2)
    return cut(model.wq), cut(model.wk), cut(model.wv)


seen_weights, reader_errors = [], {}
reader_shape = {"vocabulary": 9, "context": 12, "d": 8, "depth": 1, "heads": 2}
text_ids = torch.randint(9, (1, 3, 12), generator=torch.Generator().manual_seed(16))
for mechanism in ("softmax", "elu+1", "relu²"):
    reader = Reader(mechanism, nn.Init([5]), **reader_shape)
    reader.watch = seen_weights.append
    with torch.no_grad():
        reader_logits = reader(text_ids)
        q, k, v = first_layer(reader, text_ids[0], mechanism)
        f = {"softmax": lambda s: (s / 2).exp(), "elu+1": lambda s: s, "relu²": lambda s: F.relu(s / 2) ** 2}[mechanism]
        g = la.elu_plus_one if mechanism == "elu+1" else lambda x: x
        rows = torch.stack(
            [
                torch.stack(
                    [
                        torch.stack([f(g(q[b, h, i]) @ g(k[b, h, j])) if j <= i else torch.tensor(0.0) for j in range(12)])
                        / (i + 1 if mechanism == "relu²" else 1)
                        for i in range(12)
                    ]
                )
                for b in range(3)
                for h in range(2)
            ]
        ).view(3, 2, 12, 12)
        rows = rows if mechanism == "relu²" else rows / rows.sum(-1, keepdim=True)
        reader_errors[mechanism] = float((seen_weights[-1][0] - rows).abs().max())
        if mechanism == "softmax":
            plain = nn.Transformer(nn.Init([5]), **reader_shape)
            reader_errors["logits of nn.Transformer"] = float((reader_logits - plain(text_ids)).abs().max())
        if mechanism == "elu+1":
            forms = [
                la.linear_attention(g(q), g(k), v),
                la.linear_attention_recurrent(g(q), g(k), v)[0],
                la.linear_attention_chunked(g(q), g(k), v, chunk=5),
            ]
            for name, form in zip(("parallel", "recurrent", "chunked"), forms, strict=True):
                reader_errors[f"elu+1, {name} form"] = float((form - rows @ v).abs().max())
        N, top, quantiles, zero = read_weights(reader, text_ids, torch.float32)
        squares_of = rows.square().sum(-1)
        want_N = torch.where(squares_of > 0, rows.sum(-1) ** 2 / squares_of, torch.nan)
        want_q = (want_N / torch.arange(1, 13))[..., 6:].transpose(0, 1).flatten(1).nanquantile(torch.tensor([0.1, 0.5, 0.9]), dim=-1).T
        worst_of = lambda a, b: float((a - b).nan_to_num().abs().max())
        reader_errors[f"{mechanism}: N_eff"] = worst_of(N[0, 0], want_N.nanmean(0))
        reader_errors[f"{mechanism}: its quantiles"] = worst_of(quantiles[0, 0], want_q)
        reader_errors[f"{mechanism}: share of empty rows"] = worst_of(zero[0, 0], want_N.isnan().float().mean((0, 2)))
        reader_errors[f"{mechanism}: largest weight"] = worst_of(top[0, 0], (rows.amax(-1) / rows.sum(-1)).nanmean(0))

# %% tags=["hide-input"]
text = torch.randint(9, (300,), generator=torch.Generator().manual_seed(18))
lm = {"seeds": [0, 1], "d": 8, "depth": 1, "heads": 2, "context": 12, "batch": 4, "steps": 8, "tests": 2, "points": [1, 12], "bf16": False}
lm_parts = {"train": text, "valid": text[:100], "test": text[100:]}
two_rates, one_rate = (train_reader("softmax", torch.device("cpu"), lm_parts, 9, rates=rates, **lm) for rates in ([0.01, 0.1], [0.1]))
nb.claim(
    "X3",
    "The language model's attention, its N_eff and its rates are what the text says; linear attention agrees in parallel, recurrent and chunked form.",
    "verified",
    holds=[
        *[ledger.less(f"{name}: largest difference", e, 2e-5, digits=1, machine=True) for name, e in reader_errors.items()],
        ledger.less(
            "test loss of a run in a stack of two rates against one rate alone",
            float((two_rates["test"][1] - one_rate["test"][0]).abs().max()),
            1e-4,
            digits=1,
            machine=True,
        ),
        ledger.more(
            "while the rate matters", float((two_rates["test"][1] - two_rates["test"][0]).abs().min()), 1e-2, digits=1, machine=True
        ),
    ],
)

# %% tags=["hide-input"]
e5_config = e5_record.config
lowest = lambda run: int(np.array(run["valid"]).mean(1).argmin())  # the rate with the least validation loss
e5_choice = {m: lowest(run) for m, run in e5_record.result.items()}
e5_of = lambda m, key: (
    np.array(e5_record.result[m][key])[e5_choice[m]] if key in ("valid", "test") else np.array(e5_record.result[m][key])[:, e5_choice[m]]
)
alive = {m: e5_of(m, "zero") < 0.999 for m in e5_record.result}  # (layers, seeds, heads)
shares = {m: e5_of(m, "share") for m in e5_record.result}
e5_live = {m: np.array(r["share"])[:, 0] for m, r in e5.items()}
nb.results(
    "E5",
    f"Character models, best rate, mean of {len(e5_config['seeds'])} seeds ± standard deviation; heads over the second half of the context; {e5_record.provenance}",
    ["attention", "rate", "test loss (nats)", "N_eff / n, median head", "lowest head", "highest head", "mean largest weight", "zero rows"],
    [
        [
            m,
            f"{e5_config['rates'][e5_choice[m]]:g}",
            f"{e5_of(m, 'test').mean():.3f} ± {e5_of(m, 'test').std(ddof=1):.3f}",
            *[fixed(f(shares[m][alive[m]]), 3) for f in (np.median, np.min, np.max)],
            fixed(e5_of(m, "top")[alive[m]].mean(), 3),
            fixed(e5_of(m, "zero").mean(), 3),
        ]
        for m in e5_record.result
    ],
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Effective share of tokens of every head, by layer, for softmax, elu plus one and relu squared, one mark for each head and seed on a log axis, with bars from the 10 to the 90 percent quantile of the rows. Softmax heads average in layer one and lie near one to three per cent in layers two to four; relu squared heads lie near two per cent everywhere; elu plus one heads lie between ten and ninety per cent."}}
fig8_axes = figure, panels = plt.subplots(1, 3, figsize=(7.6, 3.8), sharey=True)
for axes, (m, color) in zip(panels, (("softmax", BLUE), ("elu+1", ORANGE), ("relu²", GREEN)), strict=True):
    layers, seeds, heads = shares[m].shape
    quantiles = e5_of(m, "quantiles")
    for layer in range(layers):
        at = layer + 1 + (np.arange(seeds * heads) / (seeds * heads) - 0.5) * 0.7
        low, middle, high = (quantiles[layer, :, :, i].ravel() for i in range(3))
        ok = alive[m][layer].ravel()
        axes.vlines(at[ok], low[ok], high[ok], color=color, lw=1, alpha=0.6)
        axes.plot(at[ok], middle[ok], "o", color=color, ms=3.5)
    axes.set(yscale="log", ylim=(3.5e-3, 1.1), xlabel="layer", xticks=range(1, layers + 1))
    axes.set_title(m, fontsize=10)
panels[0].set_ylabel("N_eff / visible tokens (bar: 10–90% of rows)")
figure.suptitle("Past layer 1 a softmax head uses a few tokens, an elu + 1 head dozens", fontsize=11, fontweight="bold", x=0.01, ha="left")
nb.show(figure)

# %% [markdown]
# **What we saw.** Past the first layer, which averages, a typical row of trained softmax rests on two to seven of 256 tokens, and hardly on more when more are visible: on the lengths it was trained at, the scores keep
# $N_{\mathrm{eff}}$. elu + 1 rests on thirty tokens and more, and the number grows with $n$. Its loss is half a nat higher. relu² concentrates about as much as softmax (median share 0.022 against 0.014 in layers 2 to 4), at
# the price of rows that are all zero (four in ten in the last layer); its loss lies between the two. Its best rate is the largest of the grid, so that loss may be improved upon; the others' rates lie inside.
# (That the three forms of linear attention agree, checked above, is what [attention as an RNN](attention-as-rnn.ipynb) builds on.)

# %% tags=["hide-input"]
bigram = data.bigram_entropy(data.encode_characters(data.shakespeare())[0])
growth = lambda m: (e5_of(m, "curve")[1:, :, -1] / e5_of(m, "curve")[1:, :, -4]).mean(1)
nb.experiment(
    "E5",
    "In trained character models softmax heads past layer 1 use fewer than ten of 256 tokens, elu + 1 heads more than 25, and the loss of softmax is lower.",
    "verified",
    holds=[
        ledger.better(
            "test loss, elu+1 over softmax",
            e5_of("elu+1", "test"),
            e5_of("softmax", "test"),
            sigmas=4.3,
            scope="recorded, 3 seeds, rate tuned",
        ),
        ledger.better(
            "relu² over softmax",
            e5_of("relu²", "test"),
            e5_of("softmax", "test"),
            sigmas=4.3,
            scope="recorded, 3 seeds, relu² at the edge of its rates",
        ),
        *[
            ledger.less(
                f"softmax, layer {layer + 1}: N_eff at position 256", e5_of("softmax", "curve")[layer, :, -1].mean(), 10, scope="recorded"
            )
            for layer in (1, 2, 3)
        ],
        *[
            ledger.more(
                f"elu+1, layer {layer + 1}: N_eff at position 256", e5_of("elu+1", "curve")[layer, :, -1].mean(), 25, scope="recorded"
            )
            for layer in (1, 2, 3)
        ],
        ledger.less("softmax, layers 2 to 4: N_eff at 256 over that at 32, largest", growth("softmax").max(), 1.6, scope="recorded"),
        ledger.more("elu+1, layers 2 to 4: smallest", growth("elu+1").min(), 2, scope="recorded"),
        ledger.more("softmax, layer 1: median share of a head", np.median(shares["softmax"][0]), 0.6, scope="recorded: it averages"),
        *[
            ledger.close(
                f"{m}, layers 2 to 4: median share of a head", np.median(shares[m][1:][alive[m][1:]]), v, abs=0.002, scope="recorded"
            )
            for m, v in (("softmax", 0.014), ("relu²", 0.022))
        ],
        ledger.close(
            "chosen rates, by value: those at the edge are only that of relu² (1: yes)",
            float([m for m, i in e5_choice.items() if i in (0, len(e5_config["rates"]) - 1)] == ["relu²"]),
            1,
            abs=0.1,
            scope="recorded",
        ),
        ledger.close("relu²: share of zero rows in the last layer", e5_of("relu²", "zero")[-1].mean(), 0.4, abs=0.1, scope="recorded"),
        ledger.less(
            "recorded softmax test loss against the entropy of a character given the one before",
            e5_of("softmax", "test").mean(),
            bigram,
            scope="recorded",
        ),
        ledger.more(
            "the live models, barely trained, have not reached that",
            min(np.min(r["test"]) for r in e5.values()),
            bigram,
            machine=True,
            scope="cpu, 3 seeds",
        ),
        ledger.close(
            "the rate chosen in a toy grid", lowest({"valid": [[3, 3], [0, 4], [1, 2]], "test": [[0, 0], [9, 9], [9, 9]]}), 2, abs=0.5
        ),
        ledger.close(
            "recorded N_eff at position 1, largest", max(e5_of(m, "curve")[..., 0].max() for m in ("softmax", "elu+1")), 1, abs=1e-5
        ),
        ledger.close("live N_eff at position 1, elu+1", np.max(e5["elu+1"]["curve"], axis=(1, 2))[:, 0].max(), 1, abs=1e-5),
        ledger.close(
            "live softmax: test loss", np.mean(e5["softmax"]["test"]), 2.91, abs=0.06, machine=True, scope="cpu, 3 seeds, 50 steps"
        ),
        *[
            ledger.close(f"live {m}: share", e5_live[m].mean(), v, abs=0.06, machine=True, scope="cpu, 3 seeds, 50 steps")
            for m, v in (("softmax", 0.426), ("elu+1", 0.925))
        ],
        ledger.better(
            "share, live: elu+1 over softmax",
            e5_live["elu+1"].mean((0, 2)),
            e5_live["softmax"].mean((0, 2)),
            sigmas=4.3,
            scope="cpu, 3 seeds",
        ),
    ],
)

# %% [markdown]
# ## What the experiments say about the post's thesis
#
# Concentration separates softmax from non-negative linear attention: in recall (E2), in the language model (E5), and by the bound D9. As *the* reason it does not do: at $n=128$, $d=16$ plain signed attention has the
# largest $S$ and is the best linear attention. What counts is whether the target's value can be told from the rest, by weight or by cancellation.

# %% tags=["hide-input"]
S_at = {name: e2_of("128 16", "S")[name].mean() for name in e2_names}
accuracy_at = {name: e2_of("128 16", "accuracy")[name].mean() for name in e2_names}
worst_S = max(S_at, key=S_at.get)
nb.claim(
    "C14",
    "Only a larger d fundamentally eases the weakness of linear attention.",
    "partly",
    holds=[
        *[
            ledger.better(
                f"{name}, n = 128: accuracy at d = 128 over d = 16",
                e2_of("128 128", "accuracy")[name],
                e2_of("128 16", "accuracy")[name],
                sigmas=4.3,
                scope=e2_scope,
            )
            for name in non_negative
        ],
    ],
    fails=[
        ledger.more("D8, the post's reason: S of dense relu queries at d = 1024 over that at d = 16", dense_S[4] / dense_S[1], 1.1),
        ledger.more(
            "signed weights instead: accuracy of identity over the best non-negative map, n = 128, d = 16",
            accuracy_at["identity"] - max(accuracy_at[m] for m in non_negative),
            0.1,
            scope=e2_scope,
        ),
    ],
)
nb.claim(
    "C17",
    "That it cannot concentrate is a (the introduction: probably the) main reason why linear attention is weaker.",
    "partly",
    holds=[
        *[
            ledger.better(
                f"n = 128, d = 16: softmax over {m}",
                e2_of("128 16", "accuracy")["softmax"],
                e2_of("128 16", "accuracy")[m],
                sigmas=4.3,
                scope=e2_scope,
            )
            for m in non_negative
        ],
        ledger.more(
            "weight on the target, softmax over the best non-negative map",
            e2_of("128 16", "target")["softmax"].mean() / max(e2_of("128 16", "target")[m].mean() for m in non_negative),
            4,
            scope=e2_scope,
        ),
    ],
    fails=[
        ledger.close(
            "n = 128, d = 16: the mechanism with the largest S is identity (1: yes)",
            float(worst_S == "identity"),
            1,
            abs=0.1,
            scope=e2_scope,
        ),
        *[
            ledger.better(
                f"and it recalls better than {m}",
                e2_of("128 16", "accuracy")["identity"],
                e2_of("128 16", "accuracy")[m],
                sigmas=4.3,
                scope=e2_scope,
            )
            for m in non_negative
        ],
    ],
)

# %% [markdown]
# ## The post's statements beside ours
#
# The post has two plots and no table. These are its statements that carry a number, or could.

# %% tags=["hide-input"]
nb.results(
    "C",
    "Statements of the post, and the same computed here",
    ["quantity", "post", "here", "remark"],
    [
        ["S of exp at γ = 2", "exp(−2) = 0.135", f"{e1_at('exp 1024', 2):.3f} at n = 1024", "the formula is for n = ∞"],
        ["smallest S of exp", "0", "1/√n; 1/cosh B for scores in [−B, B]", "D4, X1"],
        ["smallest S of relu², β ≥ 0", "read off a plot", f"1/√6 = {1 / math.sqrt(6):.4f}", "normal scores, n = ∞ (D5)"],
        ["smallest S of identity", "a rather high limit", f"√(2/π) = {math.sqrt(2 / math.pi):.4f}", "normal scores, n = ∞ (D6)"],
        ["the same, trained, n = 128, d = 64", "", f"{e2_of('128 64', 'S')['identity'].mean():.3f}", "given keys can do better (E2)"],
        ["largest |q|₂/|q|₁", "√d", f"{float(torch.eye(16)[3].norm() / torch.eye(16)[3].sum()):.0f}", "D8; √d is the largest reciprocal"],
        ["S of dense relu queries, d = 16 and 1024", "falls with d", f"{dense_S[1]:.3f} and {dense_S[4]:.3f}", "rises"],
        [
            "rank of a causal matrix",
            "n",
            f"{', '.join(str(r[0]) for r in ranks['relu²'])} of 64 for relu², d = 16",
            "zeros on the diagonal, D11",
        ],
        ["features that match softmax for n tokens", "infinitely many", "at least n", "D12"],
    ],
)

# %% [markdown]
# ## Beyond the post
#
# **Dispersion.** That a softmax with bounded scores must spread as $n$ grows (D4, X1) was later proved for trained networks and offered as an explanation of their failures on longer inputs
# {cite}`velickovic2024softmax`. Cures: let the scores grow with $\log n$ {cite}`nakanishi2025ssmax`, the scale that the post's author derived from entropy (see the [attention scale](attention-scale.ipynb)); or
# [weights that are exactly sparse](softmax-alternatives.ipynb).
#
# **Signs.** A signed linear attention escapes the bound of D9, which needs $\tilde q,\tilde k\ge0$: it need not put *weight* on the target, it can let the others cancel. $S$ cannot see cancellation. The target's share of
# $|a|$ and the accuracy can.
#
# **The square.** For $f(s)=s^2$, whose features are signed but whose weights are not, the capacity is exactly the rank; exercise 2 proves it with leverage scores.
#
# ## What does not hold
#
# - **"The maximum of $|q|_2/|q|_1$ is $\sqrt d$"** (C13). It is 1. In the post's own model a larger $d$ never lowers the best $S$, and raises that of dense queries. That $d$ helps is true for another reason
#   (D9, D12, E2).
# - **"Only a larger $d$ eases it"** (C14): signed weights do, too, by 35 points of accuracy over the best non-negative map at $n=128$, $d=16$.
# - **"Necessarily full rank"** (C1) needs a non-zero diagonal. Causal relu and relu² attention have zeros there, and lose rank.
# - **"Bounded away from 0"** (C6, C9) is a statement about normal scores and $n=\infty$. Orthogonal keys give identity and relu² one-hot rows, and trained ones go below both floors (E2).
# - **"Arbitrarily sparse"** (C4) is a statement about $n=\infty$; at finite $n$ the formula fails beyond $\frac12\sqrt{\log n}$, and at fixed $\gamma$ a softmax disperses as $n$ grows.
# - **"A poor signal-to-noise ratio means that nearly all entries are alike"** (C12): one spike suffices, whatever the bulk does.
# - **Concentration as the main reason** (C17): it separates softmax from non-negative linear attention; it does not rank mechanisms. At $n=128$, $d=16$ plain signed attention has the largest $S$ and is the better linear attention.
# - A slip: the post motivates $S$ by attention matrices that are "even non-negative"; it must mean *negative*, since entropy serves the others.
#
# What survives: all closed forms, the floors for normal scores, the comparison of softmax and non-negative linear attention, and the verdict on decay.
#
# ## Exercises
#
# 1. GAU squares the relu. Which floor at $\beta=0$ does $\mathrm{relu}^m$ have, and from which $m$ on is it below 0.1?
# 2. Let $f(s)=s^2$ with keys $k_1,\dots,k_n$ that span $\mathbb R^d$. Show that the best normalised weights of all tokens sum to exactly $d$.
# 3. A softmax has its scores in $[-B,B]$. How large must $B$ be for one token of $n$ to get the weight 0.99? Compare with the circle of D9.

# %% [markdown]
# ```{admonition} Solution 1
# :class: dropdown
# $\mathbb E\,\mathrm{relu}(\varepsilon)^m=2^{m/2-1}\,\Gamma(\frac{m+1}2)/\sqrt\pi$, so $S=\mathbb E\,\mathrm{relu}^m/\sqrt{\mathbb E\,\mathrm{relu}^{2m}}$; by Stirling it falls by a factor that tends to $1/\sqrt2$ with each
# further power, and it is below 0.1 from $m=7$ on. A higher power is a sharper attention, at a price in features.
# ```

# %% tags=["hide-cell"]
half_moment = lambda m: sp.simplify(gaussian_mean(x**m, 0).doit())
floors = {m: float(half_moment(m) / sp.sqrt(half_moment(2 * m))) for m in range(1, 8)}
print("S of relu^m at β = 0:", {m: round(value, 4) for m, value in floors.items()})

# %% [markdown]
# ```{admonition} Solution 2
# :class: dropdown
# The weight of token $j$ is $(q\cdot k_j)^2/\sum_i(q\cdot k_i)^2=(q\cdot k_j)^2/q^\top K^\top Kq$. By Cauchy-Schwarz in the metric $K^\top K$ its maximum is the leverage score $k_j^\top(K^\top K)^{-1}k_j$. These sum to
# $\operatorname{tr}K(K^\top K)^{-1}K^\top=d$. So a quadratic kernel, with $d(d+1)/2$ features, has the capacity $d$ only.
# ```

# %% tags=["hide-cell"]
K = torch.randn(50, 6, generator=torch.Generator().manual_seed(17), dtype=torch.float64)
leverage = (K @ torch.linalg.inv(K.T @ K) * K).sum(1)
queries_at = torch.linalg.solve(K.T @ K, K.T).T  # the best query for each token
attained = ((queries_at @ K.T) ** 2).diagonal() / ((queries_at @ K.T) ** 2).sum(1)
assert torch.allclose(attained, leverage)
print(f"sum of leverage scores {float(leverage.sum()):.6f}; attained, largest difference {float((attained - leverage).abs().max()):.0e}")

# %% [markdown]
# ```{admonition} Solution 3
# :class: dropdown
# The best case is one score $B$ and $n-1$ scores $-B$: $e^{2B}/(e^{2B}+n-1)=0.99$ gives $B=\frac12\log\bigl(99(n-1)\bigr)$: logarithmic in $n$. The circle needs $\beta\sim n^2$ because its neighbours are close:
# what is dear is not concentration but telling $n$ keys apart in two dimensions.
# ```

# %% tags=["hide-cell"]
needed = {n: 0.5 * math.log(99 * (n - 1)) for n in (8, 256, 65536)}
gets = {n: 1 / (1 + (n - 1) * math.exp(-2 * b)) for n, b in needed.items()}
print({n: f"B = {b:.2f}, weight {gets[n]:.4f}" for n, b in needed.items()}, f"; circle at 256: β = {circles[256][1]:.0f}")

# %% [markdown]
# The curves and marks of the figures, read back from the axes:

# %% tags=["hide-input"]
drawn_y = lambda axes, i: np.asarray(axes.lines[i].get_ydata(), dtype=float)
bar_halves = lambda container: [float(np.ptp(bar[:, 1])) / 2 for bar in container[2][0].get_segments()]
interval = lambda runs: 4.3027 * statistics.stdev(map(float, runs)) / math.sqrt(3)
apart = lambda a, b: float(np.abs(np.subtract(a, b)).max())
sizes_16 = [8, 32, 128, 512, 1024]
fig5_bars = [bar_halves(c) for c in fig5_axes[1][0].containers]
fig5_want = [[interval(e2_of(f"{n} 16", "accuracy")[m]) for n in sizes_16] for m in e2_names]
fig6_want = {key: [[e2_of(f"{n} 16", key)[m].mean() for n in sizes_16] for m in e2_names] for key in ("S", "target")}
bin_means = [1 + sum(range(a, b)) / (b - a) for a, b in ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64))]
fig7_bars = bar_halves(fig7_axes[1][0].containers[3])
fig7_want = [interval(column) for column in np.array(e3_of(8, "by_distance")["identity × decay"]).T]
fig8_bars = np.array([bar[:, 1] for bar in fig8_axes[1][0].collections[3].get_segments()])
fig8_want = e5_of("softmax", "quantiles")[3].reshape(-1, 3)[:, [0, 2]]
nb.claim(
    "X5",
    "The figures draw the numbers of the text.",
    "verified",
    holds=[
        ledger.close("fig. 1: exp at γ = 2", float(np.interp(2, gamma_axis, drawn_y(fig1_axes[1][0], 0))), math.exp(-2), abs=2e-3),
        ledger.close("plain linear", drawn_y(fig1_axes[1][0], 1)[0], S_by_quadrature(lambda y: y, 0, 2), rel=1e-4),
        ledger.close("relu²", drawn_y(fig1_axes[1][0], 2)[0], S_by_quadrature(relu2, 0, 2), rel=1e-4),
        ledger.close("softmax, smallest best weight", drawn_y(fig1_axes[1][1], 0).min(), 0.99, abs=2e-4),
        ledger.close(
            "random features: sum of best weights over the bound", drawn_y(fig1_axes[1][1], 1).sum() / 16, 0.689, abs=0.002, digits=3
        ),
        ledger.less(
            "fig. 2: dense curve against the simulation, d = 64, 256, 1024",
            apart(np.interp(widths[2:], smooth, drawn_y(fig2_axes, 0)), dense_S[2:]),
            0.01,
            digits=1,
        ),
        ledger.less("fig. 5: bars against t-intervals", apart(fig5_bars, fig5_want), 1e-4, digits=1),
        *[
            ledger.less(f"fig. 6: {key}", apart([drawn_y(fig6_axes[1][i], j) for j in range(6)], fig6_want[key]), 1e-9, digits=1)
            for i, key in enumerate(("S", "target"))
        ],
        ledger.less("fig. 7: distances", apart(fig7_axes[1][0].containers[0][0].get_xdata(), bin_means), 1e-9, digits=1),
        ledger.less("bars", apart(fig7_bars, fig7_want), 1e-4, digits=1),
        ledger.less("fig. 8: bars of softmax, layer 4, against the 10% and 90% quantiles", apart(fig8_bars, fig8_want), 1e-9, digits=1),
    ],
)

# %% [markdown]
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
#
# The post: {cite}`su2023concentration`. relu² attention: {cite}`hua2022gau`. Linear attention: {cite}`katharopoulos2020linear`, {cite}`choromanski2020performers`; with decay: {cite}`sun2023retentive`, {cite}`orvieto2023lru`.
# Signed attention weights: {cite}`wang2018nonlocal`. Later: {cite}`velickovic2024softmax`, {cite}`nakanishi2025ssmax`.
