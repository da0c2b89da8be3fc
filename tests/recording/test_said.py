"""What people are told of MLflow's records: what is not there, and what comes back."""

from __future__ import annotations

import json
import logging

import pytest

from tests.registry.runs import evaluated_run
from vhcr import recording
from vhcr.commands import results


def test_an_id_that_mlflow_does_not_have_is_not_listed_as_one(
    corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's copy listed the ids of another's MLflow, and the old one still after importing."""
    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    recording.client()  # makes the database, without which nothing can be there
    old = "0" * 32
    folder, _ = evaluated_run(corpus)
    made = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**made, "mlflow_run_id": old}))
    assert results._in_mlflow([folder]) == {old: f"not here (vhcr import-run {folder})"}
    new = recording.import_run(folder)
    assert new != old
    assert results._in_mlflow([folder]) == {old: new}


def test_a_deleted_experiment_that_comes_back_is_said(corpus: str, caplog: pytest.LogCaptureFixture) -> None:
    """It came back silently, with the runs that somebody had deleted."""
    connected = recording.client()
    name = recording.experiment_name(corpus)
    made = recording.experiment_id(connected, name)
    connected.delete_experiment(made)
    with caplog.at_level(logging.WARNING):
        assert recording.experiment_id(connected, name) == made
    assert f"{name} was deleted; it is restored" in caplog.text
