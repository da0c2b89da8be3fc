"""The word2vec binary format: what is written is read, by gensim too, and what is damaged is named."""

from __future__ import annotations

import gzip
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from vhcr.errors import DataError
from vhcr.word_vectors import WordVectors

VECTORS = WordVectors.of(["b", "é", "a", "A"], np.arange(12, dtype=np.float32).reshape(4, 3) / 7)


def word2vec(newline: bytes = b"") -> bytes:
    """Three words of two dimensions; é to be two bytes long; a vector byte that looks like a space."""
    entries = [("<unk>", 9.0, 9.0), ("é", 1.0, 2.5), ("east", struct.unpack("<f", b"    ")[0], -1.0)]
    body = b"".join(w.encode() + b" " + struct.pack("<2f", x, y) + newline for w, x, y in entries)
    return b"3 2\n" + body


@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["as gensim writes", "as the original tool writes"])
@pytest.mark.parametrize("suffix", [".bin", ".bin.gz"])
def test_load(tmp_path: Path, newline: bytes, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(word2vec(newline)) if suffix.endswith("gz") else word2vec(newline))
    vectors = WordVectors.load(path)
    assert list(vectors.index) == ["é", "east"], "special words are never kept"
    np.testing.assert_array_equal(vectors.vectors[0], np.float32([1.0, 2.5]))
    assert vectors.vectors[1][1] == -1.0
    assert list(WordVectors.load(path, only=["east", "other"]).index) == ["east"]


def test_only_wanted_words_are_read_and_vectors_stay_raw(tmp_path: Path) -> None:
    VECTORS.save(tmp_path / "vectors.bin")
    found = WordVectors.load(tmp_path / "vectors.bin", {"a", "é", "nobody"})
    assert found.words == ["é", "a"]  # not A: case counts
    np.testing.assert_array_equal(found.vectors, VECTORS.vectors[[1, 2]])
    assert WordVectors.load(tmp_path / "vectors.bin", {"nobody"}).vectors.shape == (0, 3)


def test_of_two_vectors_of_one_word_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    entries = ((b"a", 1.0), (b"b", 2.0), (b"a", 3.0))
    path.write_bytes(b"3 1\n" + b"".join(word + b" " + struct.pack("<f", x) for word, x in entries))
    assert WordVectors.load(path).vectors.tolist() == [[1.0], [2.0]]


def test_gensim_reads_what_is_saved(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    VECTORS.save(tmp_path / "vectors.bin")
    found = KeyedVectors.load_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    assert found.index_to_key == VECTORS.words
    np.testing.assert_array_equal(found.vectors, VECTORS.vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.bin"]


def test_what_gensim_writes_is_read(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    written = KeyedVectors(vector_size=5)
    words = [f"wörd{i}" for i in range(40)]
    table = np.random.default_rng(3).standard_normal((40, 5)).astype(np.float32)
    written.add_vectors(words, table)
    written.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    for only in (None, words):
        vectors = WordVectors.load(tmp_path / "v.bin", only)
        assert sorted(vectors.index) == sorted(words)
        for word, row in zip(words, table, strict=True):
            np.testing.assert_array_equal(vectors.vectors[vectors.index[word]], row)


def test_a_large_file_is_read_across_its_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhcr.word_vectors.READ_BYTES", 5000)  # a little more than one word may take
    many = WordVectors.of(
        [f"w{n}" for n in range(3000)], np.random.default_rng(0).random((3000, 20), np.float32)
    )
    many.save(tmp_path / "many.bin")
    found = WordVectors.load(tmp_path / "many.bin")
    assert found.index == many.index
    np.testing.assert_array_equal(found.vectors, many.vectors)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "nor GloVe: it begins with b''"),
        (b"<html>not found</html>", "nor GloVe: it begins with b'<html>"),
        (b"3 0\n", "nor GloVe"),
        (word2vec()[:-3], "announces 3 vectors, 2 can be read"),
        (b"1 2\nbad " + struct.pack("<2f", math.nan, 1.0), "vector of 'bad' is not finite"),
        (b"2 2\n" + b"x" * 200_000, "announces 2 vectors, 0 can be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        WordVectors.load(path)
    assert "vectors.bin" in str(caught.value)


def test_a_missing_file_and_a_broken_gzip_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin: no such file of word vectors"):
        WordVectors.load(tmp_path / "none.bin")
    with pytest.raises(DataError, match=r"cannot be read as word vectors: Is a directory"):
        WordVectors.load(tmp_path)
    cut = tmp_path / "cut.bin.gz"
    for content in (
        gzip.compress(word2vec())[:-12],
        gzip.compress(b"4 3\n" + os.urandom(5000))[:-2000],
        b"no",
    ):
        cut.write_bytes(content)
        with pytest.raises(DataError, match=r"cut\.bin\.gz: cannot be read as word vectors: \w"):
            WordVectors.load(cut)


def test_vectors_belong_to_words() -> None:
    with pytest.raises(ValueError, match="2 words, but vectors of shape"):
        WordVectors.of(["a", "b"], np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="1 words, but vectors of shape"):
        WordVectors.of(["a", "a"], np.zeros((2, 2), np.float32))


TEXT = "the 0.25 -1 2\nKing 1e-3 0 3.5\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w2v.txt", "2 3\n" + TEXT),
        ("cc.en.vec", "2 3\n" + TEXT.replace("\n", " \n")),  # fastText ends lines with a blank
        ("glove.txt", TEXT),
        ("glove.txt.gz", TEXT),
    ],
)
def test_vectors_as_text(tmp_path: Path, name: str, text: str) -> None:
    """Read as binary, .vec gave one word, "covering" 3.7 %, with values of 1e-8."""
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    vectors = WordVectors.load(tmp_path / name)
    assert vectors.words == ["the", "King"]
    assert vectors.vectors.tolist() == [[0.25, -1.0, 2.0], [np.float32(1e-3), 0.0, 3.5]]
    assert WordVectors.load(tmp_path / name, {"King"}).words == ["King"]


def test_what_gensim_writes_as_text_is_read(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(4)
    keyed.add_vectors(["a", "b"], np.array([[1, 2, 3, 4], [0.1, 0.2, 0.3, 1e-9]], dtype=np.float32))
    keyed.save_word2vec_format(str(tmp_path / "v.txt"), binary=False)
    ours = WordVectors.load(tmp_path / "v.txt")
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "v.txt"), binary=False)
    assert ours.words == theirs.index_to_key
    assert np.array_equal(ours.vectors, theirs.vectors)


def test_words_of_glove_that_hold_blanks(tmp_path: Path) -> None:
    """GloVe's 840B has some; gensim refuses the whole file for them."""
    (tmp_path / "g.txt").write_text("the 1 2 3\n. . . 4 5 6\n")
    assert WordVectors.load(tmp_path / "g.txt").words == ["the", ". . ."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 3\nthe 1 2 3\nking 1 2\n", r"v\.txt:3: not a word and 3 numbers"),
        ("2 3\nthe 1 2 3\nking 1 2 x\n", r"v\.txt:3: the vector of 'king' is no numbers"),
        ("2 3\nthe 1 2 3\nking 1 2 nan\n", r"v\.txt:3: the vector of 'king' is not finite"),
        (
            "3 3\nthe 1 2 3\nking 1 2 3\n",
            r"v\.txt: cut short or damaged: it announces 3 vectors, 2 can be read",
        ),
        ("Dear Ann,\nall is well.\n", r"v\.txt: neither word2vec .* it begins with b'Dear Ann,'"),
    ],
)
def test_text_that_is_no_vectors_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        WordVectors.load(tmp_path / "v.txt")
