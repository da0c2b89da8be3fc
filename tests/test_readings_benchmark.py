"""The measured effect of each difference between the readings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import readings
from tests.stages import project
from tests.training import tiny
from vhcr.errors import DataError
from vhcr.evaluation.likelihood import score
from vhcr.models import build
from vhcr.models.reading import READINGS
from vhcr.stages import train

DATA = tiny.conversations(9, seed=2)


def test_each_variant_takes_one_field_from_the_release() -> None:
    paper, release = asdict(READINGS["paper"]), asdict(READINGS["release"])
    found = readings.variants()
    assert asdict(found.pop("paper")) == paper
    assert asdict(found.pop("release")) == release
    assert set(found) == {name for name in paper if paper[name] != release[name]}
    for name, reading in found.items():
        different = {key for key, value in asdict(reading).items() if value != paper[key]}
        assert different == {name}
        assert asdict(reading)[name] == release[name]


def test_a_model_keeps_the_reading_it_was_built_in_and_the_papers_is_put_back() -> None:
    before = READINGS["paper"]
    for reading in readings.variants().values():
        with readings.read_as(reading):
            model = build(tiny.MODEL, tiny.system("vhcr-ud"), tiny.VOCABULARY, seed=3)
        assert model.reading == reading
        assert READINGS["paper"] is before


def test_later_turns_are_the_same_words_in_both_readings() -> None:
    """Else the release would look better for not having to say the first utterance."""
    sizes = []
    for name in ("paper", "scores_first_utterance"):
        with readings.read_as(readings.variants()[name]):
            model = build(tiny.MODEL, tiny.system("vhcr"), tiny.VOCABULARY, seed=3).eval()
        found = readings.measures(model, DATA, 4)
        scores = score(model, DATA, 4, seed=0)
        later = scores.error_by_turn[:, 1:].sum() + scores.kl_conv.sum()
        words = scores.words_by_turn[:, 1:].sum()
        assert found["nll_later_turns"] == pytest.approx(later / words)
        assert found["kl_utt"] == pytest.approx(scores.kl_utt.sum() / (scores.words_by_turn > 0).sum())
        sizes.append((words, found["nll_later_turns"], found["kl_conv"]))
    assert sizes[0] == pytest.approx(sizes[1])  # the same parameters, the same noise


def test_runs_of_the_pipeline_are_measured_if_they_are_of_these_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VHCR_MLFLOW", "off")
    params = project.make(tmp_path, training={**project.SMALL["training"], "num_epochs": 1})
    project.prepare(params)
    train.run(params, "toy", "vhcr-ud", 0)
    corpus, system = params.corpus("toy"), params.system("vhcr-ud", "toy")
    found = readings.trained("toy", "vhcr-ud", 0, corpus, system)
    assert set(readings.MEASURES) < set(found)
    assert found["made_by"]["versions"]["torch"]
    with pytest.raises(DataError, match=r"vhcr-ud/0: trained with system\.utterance_drop = 0\.25"):
        readings.trained("toy", "vhcr-ud", 0, corpus, system.model_copy(update={"utterance_drop": 0.5}))
