"""The same records through PostgreSQL, and through a tracking server that keeps the artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recording.servers import mlflow_server, postgresql
from tests.registry.runs import evaluated_run
from tests.stages import project
from vhcr import layout, recording
from vhcr.files import read_json
from vhcr.provenance import dvc_hash
from vhcr.recording import RecordingError
from vhcr.registry import register
from vhcr.stages.resolve import resolve_run
from vhcr.training.run import TrainedRun

PASSWORD = "hunter2-and-more"
SEEDS = ("0", "1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_postgresql_behind_a_server_that_keeps_the_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds trained at the same time over HTTP; a run imported straight into the database; the registry.

    Nowhere but in the environment may the password be found afterwards.
    """
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    project.prepare(project.make(root, training={**project.SMALL["training"], "num_epochs": 2}))
    with (
        postgresql(PASSWORD) as database,
        mlflow_server(tmp_path, database, "--artifacts-destination", str(tmp_path / "kept")) as address,
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        environment = {**os.environ, "PYTHONPATH": str(project.ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("VHCR_MLFLOW", None)
        command = [
            sys.executable,
            "-m",
            "vhcr.stages.train",
            "--corpus",
            "toy",
            "--system",
            "vhcr-ud",
            "--seed",
        ]
        started = [
            subprocess.Popen([*command, seed], env=environment, stderr=subprocess.PIPE, text=True)
            for seed in SEEDS
        ]
        for process in started:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
        connected = recording.client()
        experiment = connected.get_experiment_by_name("vhcr-toy")
        runs = connected.search_runs([experiment.experiment_id])
        assert len(runs) == 3, "two seeds and their parent"
        parent = next(run for run in runs if run.data.tags.get("kind") == "seeds")
        children = {run.data.tags["seed"]: run for run in runs if run is not parent}
        finals = [children[seed].data.metrics["training/best_validation/nll_per_word"] for seed in SEEDS]
        mean = parent.data.metrics["training/best_validation/nll_per_word"]
        assert mean == pytest.approx(sum(finals) / 2)
        own = children["0"]
        ids = layout.tokenised("toy") / "token_ids"
        assert own.data.tags[f"dvc/{ids}"] == dvc_hash(ids)
        assert own.data.tags["data_hash"] == read_json(ids.with_name("manifest.json"))["data_hash"]
        assert own.info.artifact_uri.startswith("mlflow-artifacts:/"), "behind the server"
        folder = layout.trained("toy", "vhcr-ud", 0)
        folder.rename(root / "elsewhere")
        fetched = resolve_run(own.info.run_id)
        assert fetched.is_relative_to(layout.WORK)
        assert TrainedRun.load(fetched).info["seed"] == 0

        registered = register(*evaluated_run("invented", nll=4.0))
        assert registered.is_champion
        assert answer_of("vhcr-invented")

        # Straight into the database, with files kept here: for corpora whose files the server does not keep.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
        direct = register(*evaluated_run("direct", nll=4.0))
        again = register(*evaluated_run("direct", nll=4.0))
        assert (again.version, again.is_new, again.run_id) == (direct.version, False, direct.run_id)
        assert answer_of("vhcr-direct")
        with pytest.raises(RecordingError, match="tracking URI must be a valid http") as caught:
            register(*evaluated_run("invented", seed=1, nll=3.9))
        assert PASSWORD not in str(caught.value)
        assert recording.pages_url() == recording.store.DEFAULT_PAGES
        text = "".join(
            str(run.to_dictionary()) + str(connected.get_experiment(run.info.experiment_id).tags)
            for run in connected.search_runs([experiment.experiment_id])
        )
        assert PASSWORD not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def answer_of(model: str) -> str:
    import mlflow.pyfunc

    found = mlflow.pyfunc.load_model(f"models:/{model}@champion").predict([{"context": ["hello"]}])
    return str(found["response"][0])
