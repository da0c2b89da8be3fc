"""A run in the form of the Hugging Face Hub: written, read back, the same losses, with little installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.generation.runs import trained_run
from vhcr.batch import pack
from vhcr.cli import main
from vhcr.errors import CheckpointError
from vhcr.generation.respond import Responder
from vhcr.hub import export
from vhcr.models import Noise
from vhcr.params import GenerationParams
from vhcr.training.run import TrainedRun

BARE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{name} is not of the core dependencies")

REFUSED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Refuse())
from vhcr.batch import pack
from vhcr.models import Noise
from vhcr.training.run import TrainedRun

run = TrainedRun.load(sys.argv[1])
print(run.model(pack([[run.vocabulary.encode(["hello"], end=True)]], [0]), Noise(0)).word_errors.sum().item())
from vhcr.cli import main

main(["chat", sys.argv[1], "--max-words", "4"])
"""


def error(run: TrainedRun) -> float:
    batch = pack([[run.vocabulary.encode(["hello"], end=True)]], [0])
    return run.model(batch, Noise(0)).word_errors.sum().item()


@pytest.mark.parametrize("name", ["hred", "vhred-bow", "vhcr-ud", "vhcr-ud-bn"])
def test_a_run_comes_back_from_the_hub_with_the_same_losses(tmp_path: Path, name: str) -> None:
    from vhcr.pretrained import PretrainedModel

    run = TrainedRun.load(trained_run(tmp_path, name))
    export(run, tmp_path / "hub", {"nll_per_word": 3.21987})
    assert error(TrainedRun.load(tmp_path / "hub")) == error(run)
    loaded = PretrainedModel.from_pretrained(str(tmp_path / "hub"))
    assert error(loaded.run) == error(run)
    assert loaded.run.info == run.info
    loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "hub" / file).read_bytes()
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "library_name: vhcr" in card
    assert "| bound on −log p, nats per word | 3.22 |" in card


def test_the_core_dependencies_are_enough_to_load_to_score_and_to_talk(tmp_path: Path) -> None:
    """All that the project can install beside them is refused, as if it were not there."""
    run = TrainedRun.load(trained_run(tmp_path))
    export(run, tmp_path / "hub")
    heavy = (
        "fastapi,uvicorn,httpx,mlflow,prefect,dvc,pandas,scipy,sklearn,matplotlib,gensim,"
        "yaml,jinja2,huggingface_hub"
    )
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "hub"), heavy],
        capture_output=True, text=True, timeout=240, check=False, input="hello\n", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scored, *said = done.stdout.splitlines()
    assert float(scored) == pytest.approx(error(run), rel=1e-6)
    assert any(said), "it is talked with, too: the tokeniser once needed what only the pipeline installs"


def test_the_command_writes_a_run_that_other_commands_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    for arguments in (["export-hub", "invented/vhcr-ud/0", "hub"], ["generate", "hub", "hello"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "hub/config.json",
        "hub/model.safetensors",
        "hub/README.md",
    ]


def test_other_words_than_those_it_was_trained_with_are_refused(tmp_path: Path) -> None:
    export(TrainedRun.load(trained_run(tmp_path)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "words": config["words"][:-1]}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"config.json: not the vocabulary this run was trained with"):
        TrainedRun.load(tmp_path)
    del config["words"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json: words: missing key"):
        TrainedRun.load(tmp_path)


def test_an_export_speaks_as_its_corpus_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, without params.yaml, a corpus whose replies never hold <unk> had said it again."""
    run = TrainedRun.load(trained_run(tmp_path))
    never = {"strategy": "beam", "beam_size": 3, "unknown_words": "never", "max_words": 7}
    export(run, tmp_path / "hub", generation=never)
    assert TrainedRun.load(tmp_path / "hub").info["generation"] == never
    seen: list[GenerationParams] = []
    monkeypatch.setattr(Responder, "__post_init__", lambda self: seen.append(self.params))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["generate", "hub", "hello", "--beam-size", "4"])
    assert end.value.code == 0
    assert (seen[0].unknown_words, seen[0].max_words, seen[0].beam_size) == ("never", 7, 4)
