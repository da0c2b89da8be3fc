"""Which runs a report includes, and what it reads of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.results_tree import SYSTEMS, write_latents, write_run, write_tree
from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_json, write_json
from vhcr.report.page import Report
from vhcr.results.runs import MEASURES, load, read_curves, read_map
from vhcr.training.run import curves_csv

HRED = {"hred": SYSTEMS["hred"]}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path, systems=HRED, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table_rows_have_the_agreed_keys(report: Report) -> None:
    rows = [run.table_row() for run in report.results.runs]
    assert len(rows) == 10
    (keys,) = {tuple(row) for row in rows}
    assert keys == (
        "corpus", "system", "seed", "nll_per_word", "reconstruction_per_word", "kl_per_word",
        "kl_conv_per_word", "kl_utt_per_word", "average_1turn", "extrema_1turn", "greedy_1turn",
        "average_3turn", "extrema_3turn", "greedy_3turn", "mlflow_run_id",
    )  # fmt: skip
    row = rows[-1]
    assert (row["system"], row["seed"]) == ("vhcr-ud", 1)
    scores = report.results.runs[-1].evaluation.responses
    assert row["greedy_3turn"] == scores[3].greedy != row["greedy_1turn"]
    assert row["kl_per_word"] == pytest.approx(row["kl_conv_per_word"] + row["kl_utt_per_word"])
    assert row["mlflow_run_id"] is not None


def test_sums_agree_with_the_metrics(report: Report) -> None:
    """The per-conversation numbers that intervals use give the very numbers of the tables."""
    for run in report.results.runs:
        for key in MEASURES:
            sums = run.sums[key]
            ratio = float((sums.numerators.sum(axis=1) / sums.denominators.sum(axis=1)).mean())
            tolerance = (
                1e-12 if key.endswith("word") else 1e-2
            )  # the fixture pools turns, Table 3 averages them
            assert ratio == pytest.approx(run.value(key), rel=tolerance)


def test_dropped_pairs_weigh_nothing(report: Report) -> None:
    sums = report.results.runs[0].sums["average_1turn"]
    dropped = [sums.conversation_ids.index(f"c{i}") for i in (7, 47, 87)]
    assert not sums.denominators[:, dropped].any()
    assert not sums.numerators[:, dropped].any()
    assert sums.denominators.sum() == 120 - 3
    assert report.results.runs[0].sums["average_3turn"].denominators.shape == (3, 120)


def test_runs_of_other_data_are_left_out_with_the_reason(small: Path) -> None:
    write_run(small, "toy", "vhred", 3, SYSTEMS["vhred"])
    path = small / layout.evaluated("toy", "vhred", 3) / "provenance.json"
    write_json(path, {**read_json(path), "data_hash": "0ld" * 8})
    write_run(small, "toy", "vhred", 4, SYSTEMS["vhred"])
    (small / layout.evaluated("toy", "vhred", 4) / "metrics.json").unlink()
    write_run(small, "toy", "vhred", 5, SYSTEMS["vhred"])
    (small / layout.trained("toy", "vhred", 5) / "run.json").unlink()
    results = load("toy")
    assert [(run.system, run.seed) for run in results.runs] == [("hred", 0)]
    reasons = {left.seed: left.reason for left in results.left_out}
    assert "saw other data: 0ld0ld0ld0ld in provenance.json, now 5f3a" in reasons["3"]
    assert reasons["4"] == "trained, but not evaluated"
    assert "run.json is missing" in reasons["5"]


def test_retrained_on_other_data_is_left_out_too(small: Path) -> None:
    """Evaluated earlier on the present data, but the training run beside it has moved on."""
    path = small / layout.trained("toy", "hred", 0) / "run.json"
    write_json(path, {**read_json(path), "data_hash": "new" * 8})
    results = load("toy")
    assert not results.runs
    assert "in run.json" in results.left_out[0].reason


def test_shown_contexts_are_those_of_every_run(small: Path) -> None:
    write_run(small, "toy", "vhred", 0, SYSTEMS["vhred"])
    path = small / layout.evaluated("toy", "vhred", 0) / "responses.parquet"
    table = pq.read_table(path)
    kept = {f"c{i}" for i in range(0, 120, 3)}
    pq.write_table(table.filter(pa.array([id in kept for id in table["conversation_id"].to_pylist()])), path)
    rules = {"segmenter": "chinese"}
    trained = small / layout.trained("toy", "vhred", 0) / "run.json"
    write_json(trained, {**read_json(trained), "rules": rules})
    results = load("toy", num_samples=10, readable=lambda words, by: by["segmenter"] if by else words.upper())
    shown = {id for _, id in results.runs[0].responses}
    assert len(shown) == 10
    assert shown <= kept
    assert shown == {id for _, id in results.runs[1].responses}
    response = results.runs[0].responses[3, min(shown)]
    assert (len(response.context), len(response.references), len(response.responses)) == (1, 3, 3)
    assert response.responses[0] == response.responses[0].upper() != ""
    # A report joined the words of Chinese with blanks: each run's text is read by its own rules.
    assert results.runs[1].responses[3, min(shown)].responses == ("chinese",) * 3
    assert load("toy", num_samples=10).runs[0].responses.keys() == results.runs[0].responses.keys()


def test_what_the_data_stages_wrote_may_be_missing(small: Path) -> None:
    (small / layout.validated("toy") / "validation.json").unlink()
    (small / layout.embeddings("toy") / "metrics.json").unlink()
    data = load("toy").data
    assert (data.validation, data.embeddings) == (None, None)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"nll_per_word": None}, r"metrics\.json: nll_per_word: .*, not None"),
        ({"nll_per_word": "abc"}, r"metrics\.json: nll_per_word: .*, not 'abc'"),
        ({"nll_per_word": -5}, r"metrics\.json: nll_per_word: .*, not -5"),
        ({"nll_per_word": True}, r"metrics\.json: nll_per_word: .*true or false"),
        ({"nll_by_turn": [3.0, False]}, r"metrics\.json: nll_by_turn: .*true or false"),
        ({"responses": {"1": {"average": "high"}}}, r"metrics\.json: responses\.1\.average: .*, not 'high'"),
    ],
)
def test_a_number_that_is_none_is_named(small: Path, values: dict[str, object], complaint: str) -> None:
    path = small / layout.evaluated("toy", "hred", 0) / "metrics.json"
    write_json(path, {**read_json(path), **values})
    with pytest.raises(DataError, match=complaint):
        load("toy")


def test_a_map_with_an_id_twice_is_refused(tmp_path: Path) -> None:
    """A doubled row was drawn."""
    write_latents(tmp_path / "latents", np.random.default_rng(0))
    path = tmp_path / "latents" / "latents.parquet"
    assert read_map(path.parent) is not None
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(DataError, match=r"latents\.parquet: an id stands there twice"):
        read_map(path.parent)


def test_curves(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("step,split,kl_per_word\n1,train,0.5\n2,validation,\n3,train,nan\n")
    curves = read_curves(path)
    assert (curves.steps, curves.splits) == ([1, 2, 3], ["train", "validation", "train"])
    assert curves.columns == {"kl_per_word": [0.5, None, None]}
    assert curves.points("kl_per_word", "train") == [(1, 0.5)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step,split,kl\n1,train,0.5\n2,train,oops\n", r"curves\.csv, line 3: kl = 'oops'"),
        ("step,kl\n1,2\n", "no column named step or split"),
        ("5", "no column named step or split"),
        ("", "no column named step or split"),
        ("step,split,kl\n1,train\n", r"line 2: kl = None"),
    ],
)
def test_damaged_curves_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_curves(tmp_path / "curves.csv")


def test_a_model_that_only_counts_has_no_curve(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text(curves_csv([]))
    assert read_curves(tmp_path / "curves.csv").steps == []


def test_damaged_files_are_named(small: Path) -> None:
    path = small / layout.evaluated("toy", "hred", 0) / "conversations.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"conversations\.parquet: cannot be read"):
        load("toy")
    (small / layout.tokenised("toy") / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json: data_hash: missing key"):
        load("toy")
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        load("no-such-corpus")


def test_sums_of_a_run_without_latents_are_zero(report: Report) -> None:
    assert not np.any(report.results.runs[0].sums["kl_per_word"].numerators)


def test_a_run_bears_the_name_of_its_folder(small: Path) -> None:
    """A comparison's report called a variant by its system's name, so that two variants were one."""
    for place in (layout.trained, layout.evaluated):
        folder = small / place("toy", "hred", 0)
        folder.parent.with_name("hred.short").mkdir()
        folder.rename(folder.parent.with_name("hred.short") / "0")
    assert [run.system for run in load("toy").runs] == ["hred.short"]
