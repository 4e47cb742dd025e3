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
# [Transformer升级之路:17、多模态位置编码的简单思考](https://kexue.fm/archives/10040) · 2024-03-29 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/position/multimodal-rope.ipynb)
#
# **The point.** TODO

# %% tags=["nbval-ignore-output", "hide-input"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

import kexue_nb
from kexue_nb import data, ledger, nn, optim, runtime, train
from kexue_nb import symbolic as sym
from kexue_nb.multimodal import (
    apply_axis_rope,
    axis_angles,
    grid,
    interleaved_axes,
    mrope,
    rope_1d,
    rope_2d,
    rope_tie,
    rope_tv,
    section_axes,
)
from kexue_nb.plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from kexue_nb.positions import apply_rope, rope_frequencies, rotate_pairs

# %%
nb = kexue_nb.notebook("multimodal-rope")

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


def angle_tables(arms, sequences, d, length):
    """Angles of every arm (scheme, allocation, base) for every sequence, padded to ``length``: (arms, sequences, length, d/2)."""
    table = torch.zeros(len(arms), len(sequences), length, d // 2, dtype=torch.float64)
    for a, (scheme, allocation, base) in enumerate(arms):
        for s, segments in enumerate(sequences):
            at = place(scheme, segments)
            table[a, s, : len(at)] = axis_angles(at, *frequencies_and_axes(allocation, d, at.shape[1], base))
    return table


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
    cpu={"rates": [1e-2], "seeds": [0, 1, 2], "texts": [4, 3], "shape": [48, 1, 2], "steps": 200, "batch": 24, "tested": 32},
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
LIVE2 = [["TV", "interleaved", 1e4, 0], ["TV", "sections", 1e4, 0], ["TV", "sections, columns first", 1e4, 0]]
e2 = nb.run(
    "E2",
    copy_study,
    arms=nb.at_scale(cpu=LIVE2, gpu=ARMS2, full=ARMS2),
    sizes=SEEN,
    tests=[*SEEN, *UNSEEN],
    **(COPY | nb.at_scale(cpu={"steps": 150}, gpu={}, full={"seeds": [0, 1, 2, 3]})),
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

# %%
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

# %%
nb.ledger()
