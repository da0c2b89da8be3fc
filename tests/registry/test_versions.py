"""Evaluated runs as versions: once each, loadable without pickle, and the best of them champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.registry.runs import evaluate, evaluated_run
from vhcr import recording
from vhcr.commands.options import DEFAULTS
from vhcr.errors import DataError
from vhcr.files import read_json, write_json
from vhcr.recording import MlflowRun
from vhcr.registry import CHAMPION, register
from vhcr.registry.versions import _compared
from vhcr.stages.resolve import evaluation_of, fetched_run_id, resolve_run


def champion(corpus: str) -> str:
    found = recording.client().get_model_version_by_alias(recording.experiment_name(corpus), CHAMPION)
    return str(found.version)


def versions(corpus: str) -> list[Any]:
    found = recording.client().search_model_versions(f"name = '{recording.experiment_name(corpus)}'")
    return sorted(found, key=lambda version: int(version.version))


def test_a_version_answers_with_pickle_switched_off(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder, out = evaluated_run(corpus)
    registered = register(folder, out)
    assert (registered.version, registered.is_new, registered.is_champion) == ("1", True, True)

    name = f"models:/vhcr-{corpus}@champion"
    model = mlflow.pyfunc.load_model(name)
    found = model.predict([{"context": ["hello"]}, {"context": []}], params={"num_turns": 2, "seed": 3})
    assert [len(turns[0]) for turns in found["turns"]] == [2, 2]
    assert found["response"][0] == found["turns"][0][0][0]
    schema = model.metadata.signature.params
    assert {"strategy", "temperature", "top_k", "top_p", "beam_size", "z_conv_from", "seed"} <= {
        spec.name for spec in schema.params
    }
    example, params = model.input_example, {"num_turns": 2, "seed": 1}
    assert len(model.predict(example, params=params)) == len(example)
    for asked, said in (({"strategy": "smaple"}, "'smaple'"), ({"temprature": 2.0}, "temprature: unknown")):
        with pytest.raises(MlflowException, match=said) as caught:
            model.predict([{"context": ["hello"]}], params=asked)
        assert caught.value.get_http_status_code() == 400

    kept = Path(mlflow.artifacts.download_artifacts(name))
    suffixes = {path.suffix for path in kept.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"}
    assert (kept / "artifacts" / "run" / "best.safetensors").read_bytes() == (
        folder / "best.safetensors"
    ).read_bytes()
    assert "# VHCR + u.d on" in (kept / "artifacts" / "run" / "model_card.md").read_text()
    requirements = (kept / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in requirements)


def test_the_card_says_what_it_is_how_good_and_what_not(corpus: str) -> None:
    folder, out = evaluated_run(corpus, nll=4.25)
    register(folder, out)
    version = versions(corpus)[0]
    card = version.description
    for said in ("c0ffeec0ffee", "data hash `dddd", "1,234 parameters", "| 4.2500 |", " to ", "## Limits"):
        assert said in card
    assert "carry next to nothing (KL 0.0010" in card
    assert version.tags["nll_per_word"] == "4.2500"
    low, _, high = version.tags["nll_per_word_interval"].partition(" to ")
    assert float(low) < 4.25 < float(high)
    about = recording.client().get_registered_model(f"vhcr-{corpus}").description
    assert about.startswith(f"**Champion: [version 1](#/models/vhcr-{corpus}/versions/1)**")
    assert "4.2500 nats a test word (95 % interval " in about
    assert "wholly below zero" in about


def test_one_model_is_one_version_however_often_it_is_made(corpus: str) -> None:
    """Registered again, evaluated anew, and trained again to the same parameters by another MLflow run."""
    folder, out = evaluated_run(corpus, nll=4.0)
    first = register(folder, out)
    again = register(folder, out)
    assert (again.version, again.is_new, again.is_champion) == (first.version, False, True)
    evaluate(out, 3.5)
    register(folder, out)
    assert versions(corpus)[0].tags["nll_per_word"] == "3.5000"
    assert "3.5000" in versions(corpus)[0].description
    provenance = read_json(folder / "provenance.json")
    write_json(folder / "provenance.json", {**provenance, "seconds": 99.0})
    retrained = register(folder, out)
    assert retrained.version == first.version
    assert retrained.run_id != first.run_id
    assert len(versions(corpus)) == 1
    register(*evaluated_run(corpus, seed=1))
    assert len(versions(corpus)) == 2


def test_the_champion_moves_only_when_it_is_beaten(corpus: str) -> None:
    register(*evaluated_run(corpus, 0, nll=4.0))
    worse = register(*evaluated_run(corpus, 1, nll=4.1))
    assert not worse.is_champion
    assert "not lower" in worse.reason
    assert champion(corpus) == "1"
    better = register(*evaluated_run(corpus, 2, nll=3.9))
    assert better.is_champion
    assert champion(corpus) == "3"
    assert versions(corpus)[2].tags["champion_because"] == better.reason
    assert "against version 1" in better.reason
    assert not register(*evaluated_run(corpus, 0, nll=4.0)).is_champion, "nor back"
    by_hand = register(*evaluated_run(corpus, 1, nll=4.1), make_champion=True)
    assert by_hand.reason == "made champion by hand"
    assert champion(corpus) == "2"


def test_a_champion_whose_evaluation_is_gone_stays_until_moved_by_hand(corpus: str, tmp_path: Path) -> None:
    first = register(*evaluated_run(corpus, 0, nll=4.0))
    run = recording.client().get_run(first.run_id)
    kept = Path(run.info.artifact_uri.removeprefix("file://")) / "evaluation" / "conversations.parquet"
    kept.unlink()
    found = register(*evaluated_run(corpus, 1, nll=3.0))
    assert not found.is_champion
    assert "--champion moves the alias" in found.reason


def test_the_reason_a_champion_cannot_be_compared_with_shows_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeated MLflow's error, address and all, and a reason is printed and logged."""
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@host/")

    class Unreachable:
        def download_artifacts(self, *_: str) -> str:
            raise MlflowException("API request to https://ann:secret@host/api/2.0/x failed")

    champion = ModelVersion("vhcr-toy", "3", 0, run_id="0" * 32)
    verdict = _compared(Unreachable(), champion, tmp_path, {"num_samples": 10, "seed": 0})  # type: ignore[arg-type]
    assert "version 3 cannot be read (API request to https://host/api/2.0/x failed)" in verdict.reason


def test_a_run_fetched_from_the_registry_is_registered_as_itself(corpus: str) -> None:
    """`vhcr register models:/...@champion` where only MLflow has the run: nothing is imported twice."""
    import shutil

    folder, out = evaluated_run(corpus)
    first = register(folder, out)
    shutil.rmtree("data")
    fetched = resolve_run(f"models:/vhcr-{corpus}@champion")
    assert fetched_run_id(fetched) == first.run_id
    once = (evaluation_of(fetched) / "metrics.json").read_text()
    run = MlflowRun(recording.client(), first.run_id, "", resumed=True)
    anew = Path("anew") / "metrics.json"
    anew.parent.mkdir()
    anew.write_text(once + "\n")
    run.log_artifacts([anew], "evaluation")
    assert (evaluation_of(fetched) / "metrics.json").read_text() == once + "\n", "it may be evaluated anew"
    again = register(fetched, evaluation_of(fetched), run_id=fetched_run_id(fetched))
    assert (again.version, again.is_new) == (first.version, False)
    experiment = recording.client().get_run(first.run_id).info.experiment_id
    assert len(recording.client().search_runs([experiment])) == 1


def test_what_is_missing_is_named(corpus: str) -> None:
    folder, out = evaluated_run(corpus)
    assert evaluation_of(folder) == out
    assert fetched_run_id(folder) is None
    (out / "provenance.json").write_text(json.dumps({"data_hash": "d", "protocol": {"generation": DEFAULTS}}))
    with pytest.raises(
        DataError, match=r"provenance\.json: protocol\.evaluation\.bootstrap_samples is missing"
    ):
        register(folder, out)
    (out / "conversations.parquet").unlink()
    with pytest.raises(DataError, match="no evaluation of this run"):
        evaluation_of(folder)
    (folder / "best.safetensors").unlink()
    evaluate(out, 4.0)
    with pytest.raises(DataError, match=r"best\.safetensors"):
        register(folder, out)
