"""A run's numbers in MLflow: each point once, whatever was interrupted or repeated."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vhcr import recording
from vhcr.errors import DataError
from vhcr.recording import MlflowRun, RecordingError, import_run, run_tags, store

ROOT = Path(__file__).resolve().parents[2]


def row(step: int, split: str = "train", **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": step // 10, "split": split, "nll_per_word": 5.0 - step / 100, **values}


def points(run: MlflowRun, name: str) -> list[tuple[int, float]]:
    history = recording.client().get_metric_history(run.run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def start(corpus: str, run_id: str | None = None, **params: Any) -> MlflowRun:
    name = recording.experiment_name(corpus)
    return MlflowRun.start(name, "vhcr-ud-0", params, {"system": "vhcr-ud"}, run_id)


def num_runs(corpus: str) -> int:
    connected = recording.client()
    experiment = connected.get_experiment_by_name(recording.experiment_name(corpus))
    return len(connected.search_runs([experiment.experiment_id]))


def test_curves_are_named_by_split_and_column(corpus: str) -> None:
    run = start(corpus)
    run.log_rows([row(10, kl_conv_per_word=0.25), row(10, "validation", kl_conv_per_word=0.5)])
    assert points(run, "train/kl_conv_per_word") == [(10, 0.25)]
    assert points(run, "validation/kl_conv_per_word") == [(10, 0.5)]
    assert points(run, "train/epoch") == [(10, 1.0)]


def test_a_resumed_run_is_the_same_run_without_double_points(corpus: str) -> None:
    """After a crash, training repeats the steps since its checkpoint; their points are there already."""
    first = start(corpus, seed=0)
    first.log_rows([row(step) for step in (10, 20, 30)])
    again = start(corpus, first.run_id, seed=0)
    again.log_rows([row(step) for step in (20, 30, 40)])
    again.finish()
    assert again.run_id == first.run_id
    assert [step for step, _ in points(first, "train/nll_per_word")] == [10, 20, 30, 40]
    stored = recording.client().get_run(first.run_id)
    assert stored.info.status == "FINISHED"
    assert num_runs(corpus) == 1


def test_a_gap_is_filled_after_a_crash(corpus: str) -> None:
    """Knowing only the last step would lose what a failed request left out in the middle."""
    first = start(corpus)
    first.log_rows([row(10), row(30)])
    again = start(corpus, first.run_id)
    again.log_rows([row(10), row(20), row(30)])
    assert [step for step, _ in points(first, "train/nll_per_word")] == [10, 20, 30]


def test_a_run_that_mlflow_lost_is_replaced(corpus: str, caplog: pytest.LogCaptureFixture) -> None:
    run = start(corpus, "0123456789abcdef0123456789abcdef", seed=3)
    assert run.run_id != "0123456789abcdef0123456789abcdef"
    assert "0123456789abcdef" in caplog.text
    assert recording.client().get_run(run.run_id).data.params == {"seed": "3"}


def test_more_points_and_parameters_than_one_request_takes(corpus: str) -> None:
    run = MlflowRun.start(recording.experiment_name(corpus), "many", {f"p{i}": i for i in range(230)}, {})
    run.log_rows([row(step) for step in range(1200)])
    assert len(points(run, "train/nll_per_word")) == 1200
    assert len(recording.client().get_run(run.run_id).data.params) == 230


def test_observing_a_training_sends_at_the_end_of_an_epoch(corpus: str) -> None:
    run = start(corpus)
    run.recorded([row(10)], 1500.0)
    assert points(run, "train/nll_per_word") == []  # waits: a request per row would cost more than the step
    run.recorded([row(20)], 1600.0)
    run.recorded([row(20, "validation")], 1600.0)
    assert [step for step, _ in points(run, "train/nll_per_word")] == [10, 20]
    assert points(run, "train/words_per_second") == [(10, 1500.0), (20, 1600.0)]
    assert points(run, "validation/nll_per_word") == [(20, 4.8)]


def test_a_failing_server_stops_no_training(
    corpus: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    run = start(corpus)
    original = run._client.log_batch

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("no route to host")

    monkeypatch.setattr(run._client, "log_batch", refuse)
    run.log_rows([row(10)])
    assert "no route to host" in caplog.text
    monkeypatch.setattr(run._client, "log_batch", original)
    run.log_rows([row(20)])
    assert points(run, "train/nll_per_word") == []  # still left alone
    run.finish()
    assert [step for step, _ in points(run, "train/nll_per_word")] == [10, 20]


def test_a_failing_server_stops_no_resumed_training_either(
    corpus: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is stored was asked as soon as a point came, and where that failed the training ended."""
    from mlflow.exceptions import MlflowException

    first = start(corpus)
    first.log_rows([row(10)])
    again = start(corpus, first.run_id)
    original = again._client.get_metric_history

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("no route to host")

    monkeypatch.setattr(again._client, "get_metric_history", refuse)
    again.recorded([row(10), row(20)], 100.0)
    again.flush()
    assert "no route to host" in caplog.text
    monkeypatch.setattr(again._client, "get_metric_history", original)
    again.finish()
    assert [step for step, _ in points(again, "train/nll_per_word")] == [10, 20]


def test_killed_before_its_id_was_noted_a_run_is_found_by_its_attempt(corpus: str) -> None:
    """A kill while a training started up left a run RUNNING for ever, and the rerun made another."""

    def begin(attempt: str) -> str:
        name = recording.experiment_name(corpus)
        return MlflowRun.start(name, "vhcr-ud-0", {}, {"system": "vhcr-ud"}, attempt=attempt).run_id

    first = begin("one")
    assert begin("one") == first
    assert begin("another") != first
    assert num_runs(corpus) == 2


def test_what_mlflow_says_of_a_failure_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, corpus: str
) -> None:
    """It repeats the address it was given, and a training's log would keep that."""
    from mlflow.exceptions import MlflowException

    run = start(corpus)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@host/")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("API request to https://ann:secret@host/api/2.0/x failed")

    for name in ("log_batch", "set_terminated"):
        monkeypatch.setattr(run._client, name, refuse)
    run.log_rows([row(10)])
    run.finish()
    with pytest.raises(RecordingError) as caught:
        run.set_tags({"a": "b"})
    for text in (caplog.text, str(caught.value)):
        assert "https://host/api/2.0/x failed" in text
        assert "secret" not in text


def test_a_server_that_does_not_answer_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was half a page of urllib3's."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # several would take 20 s
    with pytest.raises(RecordingError) as caught:
        store.client("http://ann:secret@127.0.0.1:1")
    assert str(caught.value) == "MLflow at http://127.0.0.1:1: no answer ([Errno 111] Connection refused)"


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_the_status_says_how_it_ended(corpus: str, error: type[BaseException] | None, status: str) -> None:
    run = start(corpus)

    def body() -> None:
        with run:
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(error):
            body()
    assert recording.client().get_run(run.run_id).info.status == status


def test_an_interrupted_training_is_killed_not_failed(corpus: str) -> None:
    from vhcr.training.loop import Interrupted

    run = start(corpus)
    with pytest.raises(Interrupted), run:
        raise Interrupted("stopped at step 3")
    assert recording.client().get_run(run.run_id).info.status == "KILLED"


def test_artifacts_dataset_and_tags(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "samples.txt").write_text("hello", encoding="utf-8")
    run = start(corpus)
    run.log_artifacts([tmp_path / "samples.txt"], "samples")
    for _ in range(2):  # as a resumed run does
        run.log_dataset("toy", "abc123", "data/tokenised/toy", {"train": 2400})
    run.set_tags({"report": "reports/toy/index.html"})
    stored = recording.client().get_run(run.run_id)
    assert [item.path for item in recording.client().list_artifacts(run.run_id, "samples")] == [
        "samples/samples.txt"
    ]
    assert [item.dataset.digest for item in stored.inputs.dataset_inputs] == ["abc123"]
    assert stored.data.tags["report"] == "reports/toy/index.html"
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        run.log_artifacts([tmp_path / "nowhere.txt"])


def test_tags_name_the_flow_run_and_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "corpus": "toy",
        "system": "hred",
        "seed": 7,
        "data_hash": "d1",
        "device": "cpu",
    }
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("VHCR_FLOW_RUN_ID", raising=False)
    plain = run_tags(**arguments, root=tmp_path)
    assert plain["started_by"] == "command"
    assert (plain["data_hash"], plain["seed"], plain["system"]) == ("d1", "7", "hred")
    assert "git_commit" not in plain  # not a repository
    monkeypatch.setenv("VHCR_FLOW_RUN_ID", "f-1")
    by_flow = run_tags(**arguments, root=tmp_path)
    assert (by_flow["started_by"], by_flow["flow_run_id"]) == ("prefect", "f-1")


def write_run(corpus: str, folder: Path, mlflow_run_id: str | None = None, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    info = {
        "format": 1,
        "corpus": corpus,
        "system": "vhcr-ud",
        "seed": seed,
        "data_hash": "d1",
        "params": {
            "model": {"z_utt_size": 16},
            "system": {"reading": "release"},
            "training": {"learning_rate": 0.003},
        },
    }
    made = {"mlflow_run_id": mlflow_run_id, "code_version": "c0ffee", "dirty": False, "device": "cuda"}
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps(made), encoding="utf-8")
    (folder / "curves.csv").write_text(
        "step,epoch,split,nll_per_word\n10,0,train,4.5\n10,0,validation,4.25\n20,1,train,4.0\n",
        encoding="utf-8",
    )
    (folder / "metrics.json").write_text('{"best": {"nll_per_word": 4.25}, "steps": 20}', encoding="utf-8")


def test_a_run_kept_as_files_is_imported_exactly_once(corpus: str, tmp_path: Path) -> None:
    write_run(corpus, tmp_path / "run")
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "metrics.json").write_text(
        '{"nll_per_word": 4.5, "responses": {"1": {"bleu": 0.5}}}'
    )
    first = import_run(tmp_path / "run", tmp_path / "evaluated")
    assert import_run(tmp_path / "run", tmp_path / "evaluated") == first
    assert num_runs(corpus) == 1
    connected = recording.client()
    stored = connected.get_run(first)
    assert stored.data.params == {
        "model.z_utt_size": "16",
        "system.reading": "release",
        "training.learning_rate": "0.003",
        "seed": "0",
    }
    assert stored.data.tags["reading"] == "release", "by it runs are chosen, as by those that were watched"
    assert stored.data.metrics["training/best/nll_per_word"] == 4.25
    assert stored.data.metrics["test/responses/1/bleu"] == 0.5
    assert stored.data.tags["git_commit"] == "c0ffee"
    assert len(connected.get_metric_history(first, "train/nll_per_word")) == 2


def test_import_completes_the_run_it_was_recorded_under(corpus: str, tmp_path: Path) -> None:
    run = start(corpus)
    run.log_rows([row(10)])
    write_run(corpus, tmp_path / "run", run.run_id)
    assert import_run(tmp_path / "run") == run.run_id
    assert [step for step, _ in points(run, "train/nll_per_word")] == [10, 20]
    assert recording.client().get_run(run.run_id).data.tags["system"] == "vhcr-ud"


def test_import_names_the_missing_file(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.json"):
        import_run(tmp_path / "nothing")
    write_run(corpus, tmp_path / "run")
    (tmp_path / "run" / "curves.csv").unlink()
    with pytest.raises(DataError, match=r"curves\.csv"):
        import_run(tmp_path / "run")


def test_a_number_that_changed_is_the_latest_and_others_are_sent_once(corpus: str) -> None:
    """An evaluation made anew must not leave MLflow with the old numbers at the same step."""
    run = start(corpus)
    run.log_metrics({"test/a": 1.0, "test/b": 2.0}, step=30)
    again = start(corpus, run.run_id)
    again.log_metrics({"test/a": 1.0, "test/b": 3.0}, step=30)
    assert points(run, "test/a") == [(30, 1.0)]
    assert points(run, "test/b") == [(30, 2.0), (30, 3.0)]
    assert recording.client().get_run(run.run_id).data.metrics == {"test/a": 1.0, "test/b": 3.0}


def test_an_imported_run_has_its_files_and_keeps_the_time_it_ended(corpus: str, tmp_path: Path) -> None:
    """Its artifacts are what a registered version is fetched from; evaluating later is no training time."""
    write_run(corpus, tmp_path / "run")
    (tmp_path / "evaluated" / "latents").mkdir(parents=True)
    (tmp_path / "evaluated" / "latents" / "topics.json").write_text("[]")
    (tmp_path / "evaluated" / "metrics.json").write_text('{"nll_per_word": 4.5}')
    first = import_run(tmp_path / "run")
    connected = recording.client()
    ended = connected.get_run(first).info.end_time
    assert import_run(tmp_path / "run", tmp_path / "evaluated") == first
    stored = connected.get_run(first)
    assert (stored.info.status, stored.info.end_time) == ("FINISHED", ended)
    kept = {item.path for item in connected.list_artifacts(first)}
    assert {"run.json", "curves.csv", "metrics.json", "evaluation"} <= kept
    inner = connected.list_artifacts(first, "evaluation/latents")
    assert [item.path for item in inner] == ["evaluation/latents/topics.json"]
    curves = hashlib.sha256((tmp_path / "run" / "curves.csv").read_bytes()).hexdigest()
    assert stored.data.tags["sha256/curves.csv"] == curves


def test_links_and_messages_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s@cret@mlflow.example.org/base/")
    assert recording.pages_url() == "https://mlflow.example.org/base"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:secret@db:5432/mlflow")
    monkeypatch.setenv("VHCR_MLFLOW_PAGES", "http://localhost:5001/")
    assert recording.run_url("1", "2").startswith("http://localhost:5001/#/experiments/1/runs/2")
    assert store.without_password("postgresql://ann:secret@db:5432/mlflow") == "postgresql://db:5432/mlflow"


def test_an_unusable_store_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RecordingError) as caught:
        recording.client("http://ann:secret@127.0.0.1:9")
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_recording_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VHCR_MLFLOW", raising=False)
    assert recording.available()
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    assert not recording.available()


def test_killed_while_the_database_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """6 of 13 kills on a first run left half of its tables, with which every later stage failed."""

    class Killed(BaseException):
        pass

    def half(engine: Any) -> None:
        assert store._sqlite_path(str(engine.url)) != path, "made under its own name"
        with engine.begin() as connected:
            connected.exec_driver_sql("create table review_queues (id integer)")
        raise Killed

    def whole(engine: Any) -> None:
        shutil.copy(made, Path(engine.url.database))

    recording.client(database)
    made = database.removeprefix("sqlite:///")
    path = tmp_path / "mlflow.db"
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", half)
    with pytest.raises(Killed):
        recording.client(f"sqlite:///{path}")
    assert not path.exists()
    (tmp_path / ".mlflow.db.tmp").write_bytes(b"half of it")  # SIGKILL lets nobody tidy up
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", whole)
    assert recording.client(f"sqlite:///{path}").search_experiments(max_results=1)
    assert {file.name for file in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.parametrize("content", [b"half of it" * 100, None])
def test_a_damaged_database_is_told_with_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    """It was 120 lines of traceback in every stage."""
    path = tmp_path / "mlflow.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with contextlib.closing(sqlite3.connect(path)) as connected:
            connected.execute("create table alembic_version as select 'another time' as version_num")
            connected.commit()
    with pytest.raises(RecordingError, match=r"mv mlflow\.db mlflow\.db\.damaged") as caught:
        recording.client(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_four_processes_may_use_a_new_database_first(tmp_path: Path) -> None:
    """Created without the lock, the tables of a new database are made twice, and a process dies of it."""
    code = (
        "from vhcr.recording import MlflowRun; import sys;"
        "run = MlflowRun.start('vhcr-toy', sys.argv[1], {'a': 1}, {}, uri='sqlite:///' + sys.argv[2]);"
        "run.log_metrics({'x': 1.0}); run.finish()"
    )
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen([*command, f"r{i}", str(tmp_path / "new.db")], cwd=ROOT, stderr=subprocess.PIPE)
        for i in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    connected = recording.client(f"sqlite:///{tmp_path / 'new.db'}")
    experiment = connected.get_experiment_by_name("vhcr-toy")
    assert len(connected.search_runs([experiment.experiment_id])) == 4
