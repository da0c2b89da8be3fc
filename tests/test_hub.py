"""A run in the form of the Hugging Face Hub: written, read back, the same losses, with little installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.generation.runs import trained_run
from tests.stages.project import ROOT
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
            raise ModuleNotFoundError(f"{name} is not of the core dependencies", name=name)

REFUSED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Refuse())
from vhcr.batch import pack
from vhcr.models import Noise
from vhcr.training.run import TrainedRun

run = TrainedRun.load(sys.argv[1])
print(run.model(pack([[run.vocabulary.encode(["hello"], end=True)]], [0]), Noise(0)).word_errors.sum().item())
from vhcr.cli import main

for arguments in (["chat", sys.argv[1], "--max-words", "4"], ["chat", "models:/vhcr-toy@champion"]):
    try:
        main(arguments)
    except SystemExit as end:
        print(f"ended: {end.code}")
main(["serve", sys.argv[1], "--port", "0"])
"""


def not_of_the_core() -> set[str]:
    """Modules that are installed here, and would not be by ``pip install`` of the wheel without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core, waiting = set[str](), list(project["dependencies"])
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name not in core and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            core.add(name)
            waiting += importlib.metadata.requires(name) or []
    kept = {"vhcr", "flows", "benchmarks", "tests"}
    owners = importlib.metadata.packages_distributions().items()
    return {module for module, of in owners if not core & {*map(canonicalize_name, of)}} - kept


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


def test_the_core_dependencies_are_enough_to_load_to_score_to_talk_and_to_serve(tmp_path: Path) -> None:
    """All that the project can install beside them is refused, as if it were not there."""
    run = TrainedRun.load(trained_run(tmp_path))
    export(run, tmp_path / "hub")
    refused = not_of_the_core()
    assert {"mlflow", "prefect", "pandas", "scipy", "sklearn", "httpx", "huggingface_hub"} <= refused
    assert not {"torch", "polars", "fastapi", "anyio"} & refused
    command = [sys.executable, "-c", BARE, str(tmp_path / "hub"), ",".join(sorted(refused))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, env=environment
        ) as bare,
    ):
        assert bare.stdin is not None
        assert bare.stdout is not None
        try:
            bare.stdin.write(b"hello\n")
            bare.stdin.close()
            lines: list[str] = []
            while not lines or not lines[-1].startswith("http://"):
                line = bare.stdout.readline().decode()
                assert line, (tmp_path / "log").read_text(encoding="utf-8")
                lines.append(line.rstrip())
            asked = urllib.request.Request(
                lines[-1],
                json.dumps({"inputs": [{"context": ["hello"]}]}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert len(json.load(answer)["predictions"][0]["turns"][0]) == 1
        finally:
            bare.kill()
    assert float(lines[0]) == pytest.approx(error(run), rel=1e-6)
    assert "ended: 0" in lines, "it is talked with, too: the tokeniser once needed what only the pipeline has"
    assert "ended: 2" in lines
    told = (tmp_path / "log").read_text(encoding="utf-8")
    assert "error: this takes mlflow, which is not installed: pip install 'vhcr[pipeline]'" in told
    assert "Traceback" not in told


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
