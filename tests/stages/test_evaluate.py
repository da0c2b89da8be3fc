"""Stage evaluate: every number of a report's row, from files alone, the same each time."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stages import project
from tests.training import tiny
from vhcr import layout
from vhcr.errors import DataError, VhcrError
from vhcr.evaluation.probes import Gathered, probe_labels
from vhcr.evaluation.records import METRIC_VERSION
from vhcr.evaluation.responses import controlled
from vhcr.files import file_digest, read_json, write_json
from vhcr.models import build
from vhcr.stages import evaluate, train
from vhcr.token_files import Conversations
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.training.loop import validate
from vhcr.training.run import TrainedRun

SYSTEMS = ("hred", "vhcr-ud")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with two trained systems and random word vectors; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("VHCR_MLFLOW", "off")
        params = project.make(folder, training={**project.SMALL["training"], "num_epochs": 1})
        project.prepare(params)
        vectors = layout.embeddings("toy") / "vectors.bin"
        write_vectors(vectors)
        write_json(vectors.with_name("metrics.json"), {"sha256": file_digest(vectors)})
        for system in SYSTEMS:
            train.run(params, "toy", system, 0)
    return folder, params


@pytest.fixture
def params(trained, tmp_path, monkeypatch):
    folder, params = trained
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    return params


def write_vectors(path):
    words = Vocabulary.load(layout.tokenised("toy") / "vocabulary.parquet").words[4:]
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(f"{len(words)} 4\n".encode())
        for word in words:
            file.write(word.encode() + b" " + random.standard_normal(4).astype("<f4").tobytes() + b"\n")


def inner(folder):
    return [path.relative_to(folder) for path in (folder / "latents").iterdir()]


def run(params, system):
    evaluate.run(params, "toy", system, 0)
    folder = layout.evaluated("toy", system, 0)
    return folder, json.loads((folder / "metrics.json").read_text())


def test_rows_add_up_to_the_metrics_and_equal_runs_give_equal_bytes(params):
    folder, metrics = run(params, "vhcr-ud")
    table = pq.read_table(folder / "conversations.parquet").to_pandas()
    assert len(table) == metrics["num_conversations"]
    assert metrics["num_words"] == table["num_words"].sum()
    assert metrics["nll_per_word"] == pytest.approx(table["nll"].sum() / table["num_words"].sum())
    assert metrics["nll_per_word"] == pytest.approx(
        metrics["reconstruction_per_word"] + metrics["kl_per_word"]
    )
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["nll_per_word"]))
    assert not metrics["bound_is_exact"]
    bounds = metrics["importance_weighted_nll_per_word"]
    assert list(bounds) == ["1", "2", "5"]
    assert (
        table["importance_weighted_nll"].notna().sum() == metrics["importance_bound_num_conversations"] == 5
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["vhcr-ud-0"]["kl_conv_per_word"] == metrics["kl_conv_per_word"]
    assert summary["vhcr-ud-0"]["average_1turn"] == metrics["responses"]["1"]["average"]
    latents = pq.read_table(folder / "latents" / "latents.parquet")
    assert latents["id"].to_pylist() == table["conversation_id"].to_list()
    assert latents["kl"].to_pylist() == pytest.approx(table["kl_conv"].to_list(), rel=1e-3, abs=1e-6)
    names = {*evaluate.WRITTEN, "summary.json", *map(str, inner(folder))} - {"provenance.json"}
    first = {name: (folder / name).read_bytes() for name in names}
    shutil.rmtree(folder)
    run(params, "vhcr-ud")
    assert {name: (folder / name).read_bytes() for name in first} == first


def test_responses_answer_the_contexts_that_go_on_long_enough(params):
    folder, metrics = run(params, "hred")
    assert inner(folder) == [], "HRED has no latents; DVC still wants its folder"
    table = pq.read_table(folder / "responses.parquet").to_pandas()
    turns = pq.read_table(layout.tokenised("toy") / "conversations.parquet").to_pandas()
    turns = turns[turns["split"] == "test"].set_index("conversation_id")["num_turns"]
    for length in (1, 3):
        asked = table[table["num_response_turns"] == length]
        assert set(asked["conversation_id"]) == set(turns.index[turns >= 1 + length])
        assert set(asked.groupby("conversation_id").size()) == {length}
        kept = metrics["responses"][str(length)]
        assert kept["num_pairs"] + kept["num_dropped"] == len(asked)
    said = pq.read_table(layout.tokenised("toy") / "utterances.parquet").to_pandas()
    known = Vocabulary.load(layout.tokenised("toy") / "vocabulary.parquet")
    said = said.set_index(["conversation_id", "turn"])["words"]
    said = said.map(lambda words: " ".join(word if word in known else "<unk>" for word in words))
    row = table[table["num_response_turns"] == 3].iloc[1]
    assert list(row["context"]) == [said[row["conversation_id"], 0]]
    assert row["reference"] == said[row["conversation_id"], 1 + row["turn"]]


def test_the_same_first_response_whatever_the_number_of_turns(params):
    folder, _ = run(params, "vhcr-ud")
    table = pq.read_table(folder / "responses.parquet").to_pandas()
    first = table[table["turn"] == 0].groupby("conversation_id")["response"].nunique()
    assert (first == 1).all()


def test_hred_has_an_exact_likelihood_and_no_latent_diagnostics(params):
    _, metrics = run(params, "hred")
    assert metrics["bound_is_exact"]
    assert metrics["kl_per_word"] == 0.0
    assert "active_units_utt" not in metrics["diagnostics"]
    assert set(metrics["diagnostics"]["probe"]["topic"]) == {"chance", "num_test", "h_cxt"}


@pytest.mark.parametrize("system", ["transformer", "kneser-ney"])
def test_a_model_from_outside_of_the_family_goes_the_same_road(params, system):
    """Trained, loaded and evaluated like all others; an n-gram model is as large as the data make it."""
    train.run(params, "toy", system, 0)
    trained = TrainedRun.load(layout.trained("toy", system, 0))
    validation = Conversations.load(layout.tokenised("toy") / "token_ids" / "validation.parquet")
    totals, _ = validate(trained.model, validation, 7, 0)
    best = read_json(layout.trained("toy", system, 0) / "metrics.json")["best_validation"]
    assert totals.per_word()["nll_per_word"] == pytest.approx(best["nll_per_word"])
    _, metrics = run(params, system)
    assert metrics["bound_is_exact"] is True
    assert metrics["kl_per_word"] == 0.0
    assert 0.0 < metrics["nll_per_word"] < np.log(len(trained.vocabulary))
    assert metrics["responses"]["1"]["num_pairs"] > 0


def test_the_subset_of_the_tighter_bound_is_there_for_an_exact_model_too(params):
    """Without it HRED's exact NLL could not be paired with the bounds of others on the same conversations."""
    exact, _ = run(params, "hred")
    bound, metrics = run(params, "vhcr-ud")
    ours, theirs = (
        pq.read_table(folder / "conversations.parquet").to_pandas().set_index("conversation_id")
        for folder in (exact, bound)
    )
    column = "importance_weighted_nll"
    assert list(ours[column].notna()) == list(theirs[column].notna())
    chosen = ours[ours[column].notna()]
    assert list(chosen[column]) == list(chosen["nll"])
    subset = theirs[theirs[column].notna()]
    per_word = subset[column].sum() / subset["num_words"].sum()
    assert per_word == pytest.approx(metrics["importance_weighted_nll_per_word"]["5"])


def test_tables_6_and_7_are_paths_between_draws_and_samples_of_one_draw(params):
    folder, _ = run(params, "vhcr-ud")
    table = pq.read_table(folder / "control.parquet").to_pandas()
    wanted = params.corpus("toy").evaluation.control
    paths = table[table["table"] == "interpolation"]
    assert set(paths["path"]) == {"linear", "spherical"}
    assert sorted(set(paths["position"])) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert len(paths) == 2 * wanted.num_pairs * wanted.num_points * wanted.num_turns
    fixed = table[table["table"] == "fixed"]
    assert len(fixed) == wanted.num_fixed * wanted.num_samples * wanted.num_turns
    assert fixed["path"].isna().all()
    assert fixed["position"].isna().all()
    assert set(fixed["sample"]) == set(range(wanted.num_samples))
    assert table["opening"].isna().all(), "a model of the paper's reading says the first utterance itself"
    # Both paths have the same ends, and the same noise.
    ends = paths[paths["position"].isin([0.0, 1.0])].set_index(["example", "position", "turn"])["text"]
    assert (ends.groupby(level=[0, 1, 2]).nunique() == 1).all()


def test_a_model_of_the_release_reading_is_given_the_first_utterance(params):
    trained = TrainedRun.load(layout.trained("toy", "vhcr-ud", 0))
    system = trained.params.system.model_copy(update={"reading": "release"})
    released = replace(
        trained,
        params=trained.params.model_copy(update={"system": system}),
        model=build(trained.params.model, system, len(trained.vocabulary)).eval(),
    )
    test = Conversations.load(layout.tokenised("toy") / "token_ids" / "test.parquet")
    merged = params.corpus("toy")
    rows = controlled(released.model, released.vocabulary, test, merged.evaluation, merged.generation)
    openings = [" ".join(trained.vocabulary.decode(test.utterances(i)[0])) for i in range(len(test))]
    (opening,) = {row.opening for row in rows}
    assert opening in openings


def test_a_model_without_z_conv_has_an_empty_table_of_the_same_columns(params):
    folder, _ = run(params, "hred")
    table = pq.read_table(folder / "control.parquet")
    assert table.num_rows == 0
    assert table.schema.equals(evaluate.CONTROL)


def test_diversity_is_of_samples_to_one_context(params):
    """HRED has nothing random but words: greedy decoding says one thing, again and again."""
    _, metrics = run(params, "hred")
    found, wanted = metrics["diversity"], params.corpus("toy").evaluation.diversity
    assert (found["num_contexts"], found["num_samples"]) == (6, wanted.num_samples)
    assert found["greedy"]["distinct_responses"] == pytest.approx(1 / wanted.num_samples)
    assert found["greedy"]["embedding_diversity"] == pytest.approx(0.0, abs=1e-6)
    assert found["sample"]["distinct_responses"] > 0.9
    assert found["sample"]["embedding_diversity"] > 0.1


def test_parts_by_length_turn_and_position_are_in_the_metrics(params):
    folder, metrics = run(params, "vhcr-ud")
    assert sum(entry["num_words"] for entry in metrics["by_utterance_length"]) == metrics["num_words"]
    words = sum(entry["num_words"] * entry["nll_per_word"] for entry in metrics["by_utterance_length"])
    without_conv = metrics["nll_per_word"] - metrics["kl_conv_per_word"]
    assert words / metrics["num_words"] == pytest.approx(without_conv)
    assert len(metrics["kl_utt_by_turn"]) == len(metrics["nll_by_turn"])
    found = metrics["diagnostics"]
    assert set(found["reconstruction_by_word_position_by_source"]) == {"posterior", "prior"}
    assert (
        found["mutual_information_utt"]["num_posteriors"] > found["mutual_information_conv"]["num_posteriors"]
    )
    protocol = json.loads((folder / "provenance.json").read_text())["protocol"]
    assert protocol["metric_version"] == metrics["metric_version"] == METRIC_VERSION
    assert {"context", "importance_weighting", "diagnostics", "evaluation", "generation"} <= set(protocol)


def test_probes_read_every_label_from_every_representation(params):
    _, metrics = run(params, "vhcr-ud")
    found = metrics["diagnostics"]["probe"]
    assert {"topic", "tone", "act"} <= set(found)
    assert {"z_conv", "z_conv_drawn", "h_cxt"} <= set(found["topic"])
    assert {"z_utt", "z_utt_drawn", "h_cxt"} <= set(found["act"])


def test_the_mean_of_a_dead_latent_can_be_read_and_a_draw_cannot():
    """The KL of this z_conv is 2e-4 nats; a probe of the mean alone would call it alive."""
    count = 400
    data = tiny.conversations(count, seed=0)
    labels = [("left", "right")[i % 2] for i in range(count)]
    mean = np.array([[0.01 if label == "left" else -0.01, 0.0] for label in labels])
    rows = np.arange(count)
    gathered = Gathered(rows, 0 * rows, np.zeros((count, 1)), None, None, (mean, np.ones((count, 2))))
    known = {("conversation", "side"): dict(zip([(name, None) for name in data.ids], labels, strict=True))}
    sides = {"validation": gathered, "test": gathered}
    found = probe_labels(sides, dict.fromkeys(sides, data), known, seed=0)["side"]
    assert found.z_conv == 1.0
    assert found.z_conv_drawn < 0.6


def test_probes_are_scored_on_conversations_that_they_have_not_seen():
    """Labels that nothing tells, in more dimensions than there are conversations: learnt by heart alone."""
    random, count = np.random.default_rng(0), 60
    data = tiny.conversations(count, seed=0)
    labels = [str(label) for label in random.integers(0, 2, count)]
    known = {("conversation", "coin"): dict(zip([(name, None) for name in data.ids], labels, strict=True))}
    rows = np.arange(count)
    sides = {
        split: Gathered(rows, 0 * rows, random.standard_normal((count, 200)), None, None, None)
        for split in ("validation", "test")
    }
    found = probe_labels(sides, dict.fromkeys(sides, data), known, seed=0)["coin"]
    assert found.h_cxt < 0.75
    seen = dict.fromkeys(sides, sides["test"])
    assert probe_labels(seen, dict.fromkeys(sides, data), known, seed=0)["coin"].h_cxt == 1.0


def test_z_conv_is_probed_where_no_utterance_is_scored():
    """In the release's reading a conversation of one turn has a z_conv, but no utterance that is scored."""
    count = 300
    data = tiny.conversations(count, seed=0)
    labels = [("left", "right")[i % 2] for i in range(count)]
    mean = np.array([[1.0 if label == "left" else -1.0, 0.0] for label in labels])
    rows = np.arange(count)[np.arange(count) % 3 > 0]
    gathered = Gathered(rows, 0 * rows, mean[rows], None, None, (mean, np.full((count, 2), 1e-6)))
    known = {("conversation", "side"): dict(zip([(name, None) for name in data.ids], labels, strict=True))}
    sides = {"validation": gathered, "test": gathered}
    found = probe_labels(sides, dict.fromkeys(sides, data), known, seed=0)["side"]
    assert found.z_conv == found.z_conv_drawn == found.h_cxt == 1.0


def test_a_run_of_other_data_is_refused(params):
    manifest = layout.tokenised("toy") / "manifest.json"
    write_json(manifest, {**json.loads(manifest.read_text()), "data_hash": "0" * 64})
    with pytest.raises(DataError, match="trained on data"):
        evaluate.run(params, "toy", "hred", 0)


def test_missing_word_vectors_are_named(params):
    (layout.embeddings("toy") / "vectors.bin").unlink()
    with pytest.raises(DataError, match=r"vectors\.bin"):
        evaluate.run(params, "toy", "hred", 0)


def test_a_label_without_value_is_refused(tmp_path):
    """Nulls became a class of their own, and the probe was scored on it."""
    columns = {"conversation_id": ["c1"], "turn": [None], "name": ["topic"], "value": [None]}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"labels\.parquet: the label 'topic' of conversation 'c1'"):
        evaluate.read_labels(tmp_path / "labels.parquet")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data/tokenised/toy/token_ids/test.parquet", "is not the file that manifest.json"),
        ("data/tokenised/toy/labels.parquet", "is not the file that manifest.json"),
        ("data/embeddings/toy/vectors.bin", "is not the file that metrics.json beside it names"),
        ("data/trained/toy/hred/0/best.safetensors", "damaged: it holds other numbers"),
    ],
)
def test_a_flipped_byte_in_what_an_evaluation_reads_is_refused_by_name(params, name, said):
    """A bound of 5.6912 became 5.6901, or 6.048, with status 0."""
    path = Path(name)
    damaged = bytearray(path.read_bytes())
    # Of tables inside, of vectors and checkpoints the last numbers.
    damaged[len(damaged) // 2 if path.suffix == ".parquet" else -4] ^= 0x01
    path.write_bytes(damaged)
    with pytest.raises(VhcrError, match=re.escape(f"{name}: {said}")):
        evaluate.run(params, "toy", "hred", 0)
