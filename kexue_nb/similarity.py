"""Pairs of words, sentences and news texts that people have scored for similarity.

The words and the news come out of gensim's archive on the package index (26 MB, of which a few kilobytes are kept). The STS benchmark
is never part of the package: it is read from a folder that the reader names, or fetched by name from its own page.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kexue_nb import data
from kexue_nb.data import DataError, Source

_GENSIM = {"package": "gensim==4.4.0", "wheel": True}
WORDSIM353 = Source(
    name="WordSim-353, the relatedness of 353 word pairs (Finkelstein et al. 2002)",
    pattern="gensim/test/test_data/wordsim353.tsv",
    licence="CC BY 4.0 (Gabrilovich's page); package LGPL-2.1",
    sha256="f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    **_GENSIM,
)
SIMLEX999 = Source(
    name="SimLex-999, the similarity of 999 word pairs (Hill, Reichart and Korhonen 2015)",
    pattern="gensim/test/test_data/simlex999.txt",
    licence="free to download from its authors, who name no licence; package LGPL-2.1",
    sha256="d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
    **_GENSIM,
)
LEE_NEWS = Source(
    name="Lee's news texts: 50 that people compared, then 300 of background (Lee, Pincombe and Welsh 2005)",
    pattern="gensim/test/test_data/lee*.cor",
    licence="texts of the Australian Broadcasting Corporation, for research, no licence named; package LGPL-2.1",
    sha256="35b56a002808d40173bd7f214f32f97432890545d5ea228dd793238cd6cf4243",
    **_GENSIM,
)
LEE_SCORES = Source(
    name="the mean similarity of each two of Lee's 50 news texts (50 x 50)",
    pattern="gensim/test/test_data/similarities0-1.txt",
    licence="for research, no licence named; package LGPL-2.1",
    sha256="23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
    **_GENSIM,
)
STSB_URL = "http://ixa2.si.ehu.eus/stswiki/images/4/48/Stsbenchmark.tar.gz"
STSB_ROWS = {
    "dev": (1500, "06fb689aeea50b9ce35c5b6291f239bceba26857ffcad509a7d4b771ac29546a"),
    "test": (1379, "8138112381525153ad138c9fee30d93d41d6ef2f941221ea3254dc4c3575d884"),
}


@dataclass(frozen=True)
class Pairs:
    """``left[i]`` and ``right[i]`` are two texts, ``score[i]`` (float64) is how similar people found them."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    score: Tensor

    @property
    def texts(self) -> list[str]:
        """The distinct texts, in the order in which they first appear."""
        return list(dict.fromkeys(text for pair in zip(self.left, self.right, strict=True) for text in pair))


def _pairs(rows: list[tuple[str, str, str]]) -> Pairs:
    left, right, score = zip(*rows, strict=True)
    return Pairs(left, right, torch.tensor([float(s) for s in score], dtype=torch.float64))


def word_pairs(name: str) -> Pairs:
    """ "wordsim353" (relatedness, 0 to 10, 353 pairs of 437 words) or "simlex999" (similarity, 0 to 10, 999 pairs of 1028 words)."""
    sources = {"wordsim353": WORDSIM353, "simlex999": SIMLEX999}
    if name not in sources:
        raise ValueError(f"no word pairs {name!r}; there are {', '.join(map(repr, sources))}")
    lines = data.fetch(sources[name]).decode("utf-8").split("\n")
    return _pairs([tuple(line.strip().split("\t")) for line in lines if line.strip() and not line.startswith("#")])


def lee_news() -> tuple[Pairs, list[str]]:
    """All 1225 pairs of Lee's 50 news texts with their mean similarity in [0, 1], and 300 background texts without scores."""
    raw = data.fetch(LEE_NEWS).decode("latin-1")
    cut = 24658  # bytes of the first file, which ends without a newline
    texts, background = ([t.strip() for t in part.strip().split("\n")] for part in (raw[:cut], raw[cut:]))
    table = [line.split("\t") for line in data.fetch(LEE_SCORES).decode("ascii").splitlines()]
    rows = [(texts[i], texts[j], table[i][j]) for i in range(len(texts)) for j in range(i + 1, len(texts))]
    return _pairs(rows), background


def sts_benchmark(part: str, folder: str | Path | None = None) -> Pairs:
    """The STS benchmark (Cer et al. 2017): "dev" (1500 sentence pairs) or "test" (1379), scores from 0 to 5.

    ``folder``, or else the environment variable ``KEXUE_STSB``, names the folder that holds ``sts-dev.csv`` and ``sts-test.csv``.
    Without either the archive is fetched from the benchmark's page, once, into the cache. The scores are CC BY-SA 4.0; the sentences stand
    under the licences of their sources, some for research only. Raises DataError where the set cannot be had or has other rows.
    """
    if part not in STSB_ROWS:
        raise ValueError(f"no part {part!r}; there are {', '.join(map(repr, STSB_ROWS))}")
    named = folder or os.environ.get("KEXUE_STSB")
    place = Path(named) if named else data.cache_folder() / "stsbenchmark"
    file = place / f"sts-{part}.csv"
    if not named and not file.exists():
        _fetch_sts_benchmark(place)
    if not file.exists():
        raise DataError(f"STS benchmark: the folder given by {'folder=' if folder else 'KEXUE_STSB'} holds no {file.name}")
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    rows = [(row[5].strip(), row[6].strip(), row[4]) for row in rows]
    count, sha256 = STSB_ROWS[part]
    digest = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
    if digest != sha256:
        raise DataError(f"STS benchmark: {file.name} gave {len(rows)} rows with sha256 {digest}, expected {count} with {sha256}")
    return _pairs(rows)


def _fetch_sts_benchmark(place: Path) -> None:
    try:
        with urllib.request.urlopen(STSB_URL, timeout=60) as answer:
            archive = answer.read()
    except OSError as error:
        raise DataError(
            f"STS benchmark: {STSB_URL} does not answer ({error}); go online, "
            "or name in KEXUE_STSB a folder with sts-dev.csv and sts-test.csv"
        ) from None
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as t:
        for part in STSB_ROWS:
            part_file = place / f"sts-{part}.csv"
            (new := part_file.with_suffix(f".{os.getpid()}")).write_bytes(t.extractfile(f"stsbenchmark/{part_file.name}").read())
            os.replace(new, part_file)
