"""Files for other tools: rows that fit together, equal bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.explore.example import atlas, explored
from vhcr.cli import main
from vhcr.errors import DataError, ParameterError
from vhcr.explore.corpus import Corpus
from vhcr.explore.files import write
from vhcr.training.run import TrainedRun


def test_equal_runs_of_the_command_write_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explored(tmp_path)
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "second"):
        with pytest.raises(SystemExit) as end:
            main(["export-latents", "invented/vhcr-ud/0", "--out", folder, "--topics", "2", "--split", "all"])
        assert end.value.code == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()[:5]]
    assert names == [
        "latents.parquet",
        "topics.json",
        "tensors.tsv",
        "metadata.tsv",
        "projector_config.pbtxt",
    ]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert pq.read_metadata(tmp_path / "first" / "latents.parquet").num_rows == 72


def test_rows_of_all_files_are_the_same_points(tmp_path: Path) -> None:
    made = atlas(tmp_path)
    write(made, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "latents.parquet")
    assert table["id"].to_pylist() == [f"test-{number}" for number in range(24)]
    assert table["text"][1].as_py() == "Fine , thanks\nI 'm fine , hello"
    assert table["label_kind"][1].as_py() == "greeting"
    near = table["neighbours"][4].as_py()
    assert len(near["ids"]) == len(near["distances"]) == 10
    assert 4 not in near["ids"]
    tensors = (tmp_path / "out" / "tensors.tsv").read_text(encoding="utf-8").splitlines()
    metadata = (tmp_path / "out" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert len(metadata) == len(tensors) + 1 == 25
    assert {line.count("\t") for line in metadata} == {metadata[0].count("\t")}
    z = [float(number) for number in tensors[7].split("\t")]
    assert z == pytest.approx(table["z_conv"][7].as_py(), rel=1e-4)
    topics = json.loads((tmp_path / "out" / "topics.json").read_text(encoding="utf-8"))
    assert sum(topic["size"] for topic in topics) == 24


def test_a_model_without_z_conv_exports_its_utterances_only(tmp_path: Path) -> None:
    made = atlas(tmp_path, "vhred")
    with pytest.raises(ParameterError, match="'vhred' has no z_conv: it maps utterances only"):
        write(made, tmp_path / "out")
    write(made, tmp_path / "out", "utterance")
    table = pq.read_table(tmp_path / "out" / "latents.parquet")
    assert table.num_rows == made.points["utterance"].z.shape[0]
    assert set(table["label_act"].to_pylist()) == {"act 0", "act 1"}
    assert (tmp_path / "out" / "topics.json").read_text(encoding="utf-8") == "[]\n"
    with pytest.raises(ParameterError, match="'hred' has no latent variable"):
        atlas(tmp_path, "hred")


def test_other_data_than_the_runs_are_refused(tmp_path: Path) -> None:
    run = TrainedRun.load(explored(tmp_path))
    data = tmp_path / "data" / "tokenised" / "invented"
    (data / "manifest.json").write_text('{"data_hash": "other"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json: data other, but the run was trained on d{12}"):
        Corpus.load(run, "test", data)
    with pytest.raises(ParameterError, match="split = 'tset': must be one of train, validation, test or all"):
        Corpus.load(run, "tset", data)
