"""Pairs of texts with human scores: parsed from (faked) files, refused where the bytes are others; the real sets where they can be had."""

import hashlib
import io
import tarfile
from dataclasses import replace

import pytest
import torch

from kexue_nb import data, similarity
from kexue_nb.data import DataError


@pytest.fixture
def served(monkeypatch):
    """Puts given bytes in place of what the package index would send."""

    def serve(source, content):
        monkeypatch.setitem(fake, source.pattern, content)

    fake = {}
    monkeypatch.setattr(data, "fetch", lambda source: fake[source.pattern])
    return serve


def test_word_pairs_from_lines(served):
    served(similarity.WORDSIM353, b"# a comment\n# another\ntiger\tcat\t7.35\ntiger\ttiger\t10.00\n\n")
    pairs = similarity.word_pairs("wordsim353")
    assert (pairs.left, pairs.right) == (("tiger", "tiger"), ("cat", "tiger"))
    assert pairs.score.tolist() == [7.35, 10.0]
    assert pairs.texts == ["tiger", "cat"]
    with pytest.raises(ValueError, match="'wordsim353', 'simlex999'"):
        similarity.word_pairs("men")


def test_lee_pairs_are_the_upper_triangle(served):
    texts = [f"text {i} \x85 of fifty".ljust(100) for i in range(49)]
    first = "\n".join(texts).encode("latin-1")
    first += b"\n" + b"x" * (24658 - len(first) - 1)
    served(similarity.LEE_NEWS, first + b"one\ntwo\n")
    served(similarity.LEE_SCORES, "\n".join("\t".join(str(100 * i + j) for j in range(50)) for i in range(50)).encode())
    pairs, background = similarity.lee_news()
    assert (len(pairs.left), len(pairs.texts), background) == (1225, 50, ["one", "two"])
    assert pairs.score[:2].tolist() == [1.0, 2.0]
    assert (pairs.left[49], pairs.right[49], pairs.score[49]) == (texts[1].strip(), texts[2].strip(), 102.0)


ROWS = ["genre\tfile\t2012\t1\t5.000\tA man. \tA \u2028man", "genre\tfile\t2012\t2\t0.500\tOne\tTwo\textra\tcolumns"]
KEPT = hashlib.sha256("A man.\tA \u2028man\t5.000\nOne\tTwo\t0.500".encode()).hexdigest()


@pytest.fixture
def two_rows(monkeypatch, own_folders):
    monkeypatch.setattr(similarity, "STSB_ROWS", {"dev": (2, KEPT), "test": (2, KEPT)})
    monkeypatch.delenv("KEXUE_STSB", raising=False)


def check(pairs):
    assert pairs.left == ("A man.", "One")
    assert pairs.right == ("A \u2028man", "Two")
    assert pairs.score.dtype == torch.float64
    assert pairs.score.tolist() == [5.0, 0.5]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_sts_benchmark_in_a_folder(two_rows, tmp_path, monkeypatch, newline):
    (tmp_path / "sts-dev.csv").write_bytes((newline.join(ROWS) + newline).encode())
    check(similarity.sts_benchmark("dev", tmp_path))
    monkeypatch.setenv("KEXUE_STSB", str(tmp_path))
    check(similarity.sts_benchmark("dev"))
    with pytest.raises(DataError, match=r"KEXUE_STSB holds no sts-test\.csv"):
        similarity.sts_benchmark("test")
    (tmp_path / "sts-dev.csv").write_text(ROWS[0])
    with pytest.raises(DataError, match=r"gave 1 rows .* expected 2"):
        similarity.sts_benchmark("dev")
    with pytest.raises(ValueError, match="'dev', 'test'"):
        similarity.sts_benchmark("train")


def test_sts_benchmark_by_name(two_rows, tmp_path, monkeypatch):
    archive = tmp_path / "sts.tar.gz"
    with tarfile.open(archive, "w:gz") as t:
        for part in ("dev", "test"):
            content = "\n".join(ROWS).encode()
            member = tarfile.TarInfo(f"stsbenchmark/sts-{part}.csv")
            member.size = len(content)
            t.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(similarity, "STSB_URL", archive.as_uri())
    check(similarity.sts_benchmark("test"))
    archive.unlink()
    check(similarity.sts_benchmark("dev"))  # from the cache
    for file in (data.cache_folder() / "stsbenchmark").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"does not answer .* KEXUE_STSB"):
        similarity.sts_benchmark("dev")


@pytest.mark.parametrize(("name", "count", "words", "first"), [("wordsim353", 353, 437, 6.77), ("simlex999", 999, 1028, 1.58)])
def test_the_real_words(name, count, words, first):
    try:
        pairs = similarity.word_pairs(name)
    except DataError as missing:
        pytest.skip(str(missing))
    assert (len(pairs.left), len(pairs.texts), float(pairs.score[0])) == (count, words, first)
    assert 0 <= pairs.score.min() <= pairs.score.max() <= 10


def test_sources_are_pinned():
    for source in (similarity.WORDSIM353, similarity.SIMLEX999, similarity.LEE_NEWS, similarity.LEE_SCORES):
        assert len(source.sha256) == 64
        assert "==" in source.package
        assert source.licence
        assert replace(source, name="x") != source
