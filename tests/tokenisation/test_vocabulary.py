from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vhcr.errors import DataError
from vhcr.tokenisation.specials import EOS, SPECIALS, UNK
from vhcr.tokenisation.vocabulary import Vocabulary

COUNTS = {"b": 3, "a": 3, "c": 5, "é": 3, "rare": 1, "d": 2}


def test_a_null_word_is_refused() -> None:
    """It was a traceback; a file of vocabulary can hold one."""
    with pytest.raises(DataError, match="word 4 is None"):
        Vocabulary([*SPECIALS, None])  # type: ignore[list-item]


def test_ranks_by_count_then_by_code_point() -> None:
    vocabulary = Vocabulary.from_counts(COUNTS, size=100, min_count=2, num_utterances=7)
    assert vocabulary.words == (*SPECIALS, "c", "a", "b", "é", "d")
    assert vocabulary.counts == (0, 1, 0, 7, 5, 3, 3, 3, 2)


def test_size_counts_the_specials_and_what_falls_out_is_unknown() -> None:
    vocabulary = Vocabulary.from_counts(COUNTS, size=6)
    assert vocabulary.words == (*SPECIALS, "c", "a")
    assert vocabulary.counts is not None
    assert vocabulary.counts[UNK] == 3 + 3 + 1 + 2
    assert len(vocabulary) == 6


def test_order_of_counting_does_not_matter() -> None:
    turned = dict(reversed(COUNTS.items()))
    assert Vocabulary.from_counts(turned, size=7).words == Vocabulary.from_counts(COUNTS, size=7).words


def test_decode_undoes_encode_up_to_the_first_end() -> None:
    vocabulary = Vocabulary.from_counts(COUNTS, size=100)
    ids = vocabulary.encode(["a", "nobody", "d"], end=True)
    assert ids == [5, UNK, 8, EOS]
    assert vocabulary.decode([*ids, 4, 4]) == ["a", "<unk>", "d"]
    assert vocabulary.decode([2, 4, 0, 0]) == ["c"]
    with pytest.raises(DataError, match="id 10 lies outside a vocabulary of 10 words"):
        vocabulary.decode([10])


@pytest.mark.parametrize("name", ["vocabulary.parquet", "vocabulary.txt"])
def test_survives_its_file(tmp_path: Path, name: str) -> None:
    vocabulary = Vocabulary.from_counts({**COUNTS, "'": 9, "mr.": 4}, size=100, num_utterances=7)
    vocabulary.save(tmp_path / name)
    read = Vocabulary.load(tmp_path / name)
    assert read == vocabulary
    assert read.hash == vocabulary.hash
    assert read.counts == (vocabulary.counts if name.endswith("parquet") else None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_hash_is_of_words_in_order_alone() -> None:
    one = Vocabulary([*SPECIALS, "a", "b"], [0, 0, 0, 0, 2, 1])
    assert one.hash == Vocabulary([*SPECIALS, "a", "b"]).hash
    assert one.hash != Vocabulary([*SPECIALS, "b", "a"]).hash


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["<unk>", "<pad>", "<sos>", "<eos>"], "begins with"),
        ([*SPECIALS, "a", "b", "a"], "'a' stands twice, as 4 and 6"),
        ([*SPECIALS, "a b"], "word 4 is 'a b'"),
        ([*SPECIALS, ""], "word 4 is ''"),
    ],
)
def test_refuses_what_is_no_vocabulary(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        Vocabulary.load(tmp_path / "vocabulary.txt")
    assert "vocabulary.txt" in str(error.value)


def test_refuses_damaged_missing_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.parquet"
    with pytest.raises(DataError, match=r"vocabulary\.parquet: cannot be read"):
        Vocabulary.load(path)
    path.write_bytes(b"PAR1 this is not Parquet PAR1")
    with pytest.raises(DataError, match=r"vocabulary\.parquet"):
        Vocabulary.load(path)
    pq.write_table(pa.table({"word": ["a"]}), path)
    with pytest.raises(DataError, match=r"its columns are \['word'\]"):
        Vocabulary.load(path)
    pq.write_table(pa.table({"id": [0, 1, 2, 4], "word": list(SPECIALS), "count": [0] * 4}), path)
    with pytest.raises(DataError, match="ids are not 0 to 3 in order"):
        Vocabulary.load(path)


def test_needs_no_polars_nor_torch() -> None:
    """A bare worker trains with torch, numpy, pyarrow and pydantic alone."""
    code = (
        "import sys, vhcr.tokenisation.vocabulary;"
        "print([m for m in ('polars', 'torch', 'pandas', 'gensim', 'yaml') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
