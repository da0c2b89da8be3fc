from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vhcr.conversation import Conversation, Utterance
from vhcr.embeddings import Sentences, coverage, locate, train
from vhcr.errors import DataError
from vhcr.files import read_json, write_json
from vhcr.params import EmbeddingParams, Params
from vhcr.stages import embeddings as stage
from vhcr.tokenisation.dataset import build
from vhcr.word_vectors import WordVectors

ROOT = Path(__file__).parents[1]
VECTORS = WordVectors.of(["b", "é", "a", "A"], np.arange(12, dtype=np.float32).reshape(4, 3) / 7)


def settings(**overrides: Any) -> EmbeddingParams:
    defaults = Params.load(ROOT / "params.yaml").defaults.embeddings
    return EmbeddingParams.model_validate(
        {**defaults.model_dump(), "vector_size": 16, "epochs": 10, "window": 2, **overrides}
    )


def sentences() -> list[list[str]]:
    """Animals stand among animals' words, tools among tools'."""
    draw = random.Random(0)
    animals, tools = ["cat", "dog", "cow", "eats", "sleeps"], ["saw", "axe", "hammer", "cuts", "breaks"]
    return [draw.choices(draw.choice([animals, tools]), k=6) for _ in range(2000)]


def counts_of(lines: list[list[str]]) -> Counter[str]:
    return Counter(word for line in lines for word in line)


def test_null_words_are_refused(tmp_path: Path) -> None:
    """word2vec hung on them."""
    table = pa.table({"split": ["train"], "words": [["a", None]]})
    pq.write_table(table, tmp_path / "utterances.parquet")
    with pytest.raises(DataError, match=r"utterances\.parquet: holds a null"):
        list(Sentences(tmp_path / "utterances.parquet", "train"))


def test_words_of_like_company_are_alike() -> None:
    lines = sentences()
    found = train(lines, counts_of(lines), settings())
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    of = dict(zip(found.words, unit, strict=True))
    assert of["cat"] @ of["dog"] > of["cat"] @ of["saw"] + 0.3
    assert of["axe"] @ of["hammer"] > of["axe"] @ of["cow"] + 0.3


def test_training_is_the_same_bit_for_bit_in_any_process(tmp_path: Path) -> None:
    """The hash seed of a process must not reach the vectors."""
    code = (
        "import sys; from pathlib import Path; from tests.test_embeddings import *;"
        "lines = sentences(); train(lines, counts_of(lines), settings(epochs=2)).save(Path(sys.argv[1]))"
    )
    here = os.environ.get("PYTHONHASHSEED")
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there.bin")],
        env={**os.environ, "PYTHONHASHSEED": "2" if here == "1" else "1", "PYTHONPATH": str(ROOT)},
        check=True,
    )
    lines = sentences()
    train(lines, counts_of(lines), settings(epochs=2)).save(tmp_path / "here.bin")
    assert (tmp_path / "here.bin").read_bytes() == (tmp_path / "there.bin").read_bytes()
    other = train(lines, counts_of(lines), settings(epochs=2, seed=1))
    assert not np.array_equal(
        other.vectors, WordVectors.load(tmp_path / "here.bin", set(other.words)).vectors
    )


def test_rare_words_get_no_vector() -> None:
    lines = [*sentences(), ["zebra"]]
    assert "zebra" not in train(lines, counts_of(lines), settings(min_count=2, epochs=1)).words
    with pytest.raises(DataError, match="no word of the training split occurs min_count = 5 times"):
        train([["a"]], counts_of([["a"]]), settings(min_count=5))


def test_file_is_found_by_path_by_name_and_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.bin"
    google = tmp_path / "GoogleNews-vectors-negative300.subset.bin.gz"
    own.touch()
    google.touch()
    monkeypatch.delenv("VHCR_SOURCES", raising=False)
    assert locate(str(own)) == own
    with pytest.raises(DataError, match=r"no GoogleNews.*VHCR_SOURCES is not set.*embeddings\.path"):
        locate(None)
    monkeypatch.setenv("VHCR_SOURCES", str(tmp_path))
    assert locate("elsewhere/own.bin") == own
    assert locate(None) == google
    with pytest.raises(DataError, match=r"no missing\.bin"):
        locate("missing.bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VHCR_SOURCES", "~")
    assert locate(None) == google
    assert locate("~/own.bin") == own, "as source.path is understood"


def test_coverage_counts_tokens_and_types() -> None:
    found = coverage(Counter({"a": 6, "b": 3, "c": 1}), {"a", "c", "unused"})
    assert found == {"tokens": 10, "types": 3, "token_coverage": 0.7, "type_coverage": 2 / 3}
    assert coverage(Counter(), {"a"})["token_coverage"] == 0.0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a tokenised corpus ``own``: training says a and b, the test split b and c."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    texts = {"train": ["a a b", "a"], "validation": ["b"], "test": ["b b b", "c"]}
    corpus = [
        Conversation(split, tuple(Utterance(text) for text in lines), split=split)  # type: ignore[arg-type]
        for split, lines in texts.items()
    ]
    tokenisation = Params.load().defaults.tokenisation.model_copy(
        update={"split_by": "published", "min_count": 1, "max_words": 3}
    )
    data = build(corpus, tokenisation, tmp_path / "data/tokenised/own", corpus="own")
    write_json(tmp_path / "data/tokenised/own/manifest.json", data.manifest)
    return tmp_path


def run(source: str, path: str | None = None) -> None:
    import yaml

    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    values["corpora"]["own"]["embeddings"] = {"source": source, "path": path, "vector_size": 4, "epochs": 1}
    stage.run(Params(values), corpus="own")


def test_stage_trains_on_the_training_split_alone(project: Path) -> None:
    assert list(Sentences(Path("data/tokenised/own/utterances.parquet"), "train")) == [["a", "a"], ["a"]]
    run("corpus")
    metrics = read_json(Path("data/embeddings/own/metrics.json"))
    # Cut to two words, training says a alone; the test split says b, b, c.
    assert WordVectors.load(Path("data/embeddings/own/vectors.bin"), {"a", "b", "c"}).words == ["a"]
    assert metrics["token_coverage"] == 0.0
    assert metrics["splits"]["train"]["token_coverage"] == 1.0
    assert (metrics["num_vectors"], metrics["vector_size"]) == (1, 4)


def test_stage_reads_a_given_file(project: Path) -> None:
    VECTORS.save(project / "given.bin")
    run("file", "given.bin")
    metrics = read_json(Path("data/embeddings/own/metrics.json"))
    assert metrics["origin"] == "given.bin"
    assert metrics["vector_size"] == 3
    assert metrics["token_coverage"] == 2 / 3  # b, b of b, b, c
    assert metrics["type_coverage"] == 1 / 2
    assert WordVectors.load(Path("data/embeddings/own/vectors.bin"), {"a", "b", "A"}).words == ["b", "a"]


def test_stage_names_a_damaged_table(project: Path) -> None:
    """Utterances that were there twice made other vectors, silently."""
    path = project / "data/tokenised/own/utterances.parquet"
    table = pq.read_table(path)
    for damage in (
        lambda: pq.write_table(pa.concat_tables([table, table]), path),
        lambda: path.write_bytes(path.read_bytes()[:-100]),
    ):
        damage()
        with pytest.raises(DataError, match=r"utterances\.parquet: is not the file that manifest\.json"):
            run("corpus")
    path.unlink()
    with pytest.raises(DataError, match=r"utterances\.parquet: cannot be read: No such file"):
        run("corpus")


def test_vectors_that_cover_next_to_nothing_are_refused(project: Path) -> None:
    """fastText's vectors, misread, covered 3.7 % of all words, and evaluation went on."""
    WordVectors.of(["x", "y"], np.ones((2, 3), dtype=np.float32)).save(project / "other.bin")
    with pytest.raises(DataError, match=r"other\.bin: covers 0\.0 % .* embeddings\.min_coverage = 0\.2"):
        run("file", "other.bin")
