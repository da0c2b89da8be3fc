"""params.yaml: what is refused, by which name; how defaults merge; what a fingerprint tells apart."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from vhcr.errors import ParameterError
from vhcr.files import flatten
from vhcr.params import CORPUS_SECTIONS, Params, SystemParams, TrainingParams, fingerprint, parse

ROOT = Path(__file__).parents[1]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def changed(change: Callable[[dict[Any, Any]], Any]) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    change(values)
    return values


def refused(change: Callable[[dict[Any, Any]], Any]) -> str:
    """The message with which a changed file is refused; every one names the file."""
    with pytest.raises(ParameterError) as caught:
        Params(changed(change), origin="some/params.yaml")
    message = str(caught.value)
    assert message.startswith("some/params.yaml: ")
    return message


# --- what is refused, and by which name ---


def test_an_unknown_key_is_named_with_a_suggestion() -> None:
    message = refused(lambda v: v["corpora"]["toy"]["training"].update(num_epoch=3))
    assert "corpora.toy.training.num_epoch: unknown key (did you mean num_epochs?)" in message
    message = refused(lambda v: v["systems"]["vhred"].update(word_dropp=0.1))
    assert "systems.vhred.word_dropp: unknown key (did you mean word_drop?)" in message
    message = refused(lambda v: v["active"].update(sead=[1]))
    assert "active.sead: unknown key (did you mean seeds?)" in message
    message = refused(lambda v: v.update(system={}))
    assert "system: unknown key (did you mean systems?)" in message
    message = refused(lambda v: v["corpora"]["toy"]["source"].update(toy={"seeds": 1}))
    assert "corpora.toy.source.toy.seeds: unknown key (did you mean seed?)" in message


def test_an_unknown_key_far_from_all_others_gets_no_suggestion() -> None:
    message = refused(lambda v: v["defaults"]["model"].update(zzz=1))
    assert "corpora.toy.model.zzz: unknown key" in message
    assert "did you mean" not in message
    assert "5: unknown key" in refused(lambda v: v.update({5: {}}))


def test_a_missing_key_is_named() -> None:
    message = refused(lambda v: v["defaults"]["training"].pop("gradient_clip_norm"))
    assert "corpora.toy.training.gradient_clip_norm: missing key" in message
    assert "corpora.cornell" not in message, "the first corpus at fault is enough"
    message = refused(lambda v: v["defaults"]["system"].pop("word_drop"))
    assert "systems.hred.word_drop: missing key" in message


@pytest.mark.parametrize("section", ["active", "defaults", "corpora", "systems"])
def test_a_missing_section_is_named(section: str) -> None:
    assert f"{section}: missing section" in refused(lambda v: v.pop(section))
    assert f"{section}: missing section" in refused(lambda v: v.update({section: None}))


def drop_section(section: str, values: dict[str, Any]) -> None:
    del values["corpora"]["toy"][section]


def test_a_corpus_names_every_section_so_that_dvc_can_watch_it() -> None:
    for section in CORPUS_SECTIONS:
        message = refused(partial(drop_section, section))
        assert f"corpora.toy.{section}: missing key" in message
    assert "corpora.toy: expected a mapping" in refused(lambda v: v["corpora"].update(toy=[1]))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "learning_rate", 0.0),
        ("training", "learning_rate", "fast"),
        ("training", "num_epochs", 0),
        ("training", "num_epochs", 2.5),
        ("training", "gradient_clip_norm", -1.0),
        ("training", "kl_annealing_steps", -1),
        ("training", "precision", "float16"),
        ("model", "z_conv_size", 0),
        ("model", "encoder_layers", None),
        ("tokenisation", "max_words", 1),
        ("tokenisation", "test_fraction", 1.5),
        ("generation", "top_p", 0.0),
        ("generation", "strategy", "guess"),
        ("source", "reader", "pdf"),
        ("evaluation", "response_turns", [0]),
    ],
)
def test_a_value_out_of_range_is_named_with_the_value(section: str, key: str, value: Any) -> None:
    message = refused(lambda v: v["corpora"]["toy"][section].update({key: value}))
    assert f"corpora.toy.{section}.{key}" in message
    shown = value[0] if isinstance(value, list) else value
    assert f"= {shown!r}: " in message


@pytest.mark.parametrize("key", ["word_drop", "utterance_drop"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "often"])
def test_a_drop_rate_is_a_probability(key: str, value: Any) -> None:
    assert f"systems.vhcr.{key} = {value!r}" in refused(lambda v: v["systems"]["vhcr"].update({key: value}))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "num_threads", 1_000_000),  # a segmentation fault
        ("training", "learning_rate", True),  # was 1.0
        ("training", "checkpoint_seconds", math.inf),  # ran to the end, and could not be written down
        ("training", "learning_rate", math.nan),
        ("generation", "temperature", math.inf),
        ("training", "gradient_clip_norm", math.nan),
        ("model", "encoder_size", 10_000_000),
        ("embeddings", "seed", 2**64),
        ("training", "batch_conversations", 10**30),
    ],
)
def test_a_value_beyond_all_sense_stops_before_anything_runs(section: str, key: str, value: Any) -> None:
    message = refused(lambda v: v["defaults"][section].update({key: value}))
    assert f".{section}.{key}" in message


def test_no_clipping_is_written_as_people_write_it_and_can_be_recorded() -> None:
    values = changed(lambda v: v["corpora"]["toy"]["training"].update(gradient_clip_norm=math.inf))
    training = Params(values).corpus("toy").training
    assert training.gradient_clip_norm == math.inf
    assert (
        TrainingParams(**json.loads(json.dumps(training.model_dump(mode="json"), allow_nan=False)))
        == training
    )


def test_every_fault_of_a_section_is_told_at_once() -> None:
    message = refused(lambda v: v["corpora"]["toy"]["training"].update(num_epochs=0, lerning_rate=1.0))
    assert "corpora.toy.training.num_epochs = 0" in message
    assert "corpora.toy.training.lerning_rate: unknown key (did you mean learning_rate?)" in message


def test_faults_in_what_is_not_active_are_found_too() -> None:
    message = refused(lambda v: v["corpora"]["ubuntu"]["model"].update(z_utt_size=-5))
    assert "corpora.ubuntu.model.z_utt_size = -5" in message
    assert "systems.vhred-zonly" in refused(lambda v: v["systems"]["vhred-zonly"].update(reading="mine"))


def test_an_unknown_corpus_or_system_is_named_with_the_known_ones() -> None:
    params = Params(VALUES)
    with pytest.raises(ParameterError, match=r"corpora: 'cornel' is not defined \(did you mean cornell\?\)"):
        params.corpus("cornel")
    with pytest.raises(ParameterError, match=r"systems: 'lstm' is not defined; known: hred, vhred"):
        params.system("lstm")
    assert "corpora: 'moon' is not defined" in refused(lambda v: v["active"].update(corpora=["moon"]))
    assert "systems: 'moon' is not defined" in refused(lambda v: v["active"].update(systems=["moon"]))


@pytest.mark.parametrize("key", ["corpora", "systems", "seeds"])
def test_active_lists_are_not_empty(key: str) -> None:
    assert f"active.{key} = []" in refused(lambda v: v["active"].update({key: []}))


def test_a_seed_is_not_negative_and_a_name_is_no_path() -> None:
    assert "active.seeds.0 = -1" in refused(lambda v: v["active"].update(seeds=[-1]))
    assert "active.corpora.0 = '../toy'" in refused(lambda v: v["active"].update(corpora=["../toy"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"active: [\n", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"- 1\n- 2\n", "expected a mapping at the top level"),
        (b"", "expected a mapping at the top level"),
        (b"active: \xff\xfe", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_params_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=message) as caught:
        Params.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"mine\.yaml: cannot be read: No such file"):
        Params.load(tmp_path / "mine.yaml")
    with pytest.raises(ParameterError, match="cannot be read: Is a directory"):
        Params.load(tmp_path)


# --- merging ---


def test_a_corpus_is_the_defaults_with_its_own_keys_over_them() -> None:
    params = Params(VALUES)
    defaults = VALUES["defaults"]
    for name in params.corpora:
        own = VALUES["corpora"][name]
        for section in CORPUS_SECTIONS:
            found = getattr(params.corpus(name), section)
            merged = {**dict(found), **found.model_dump(mode="json")}  # some keys are in no record
            for key, value in defaults[section].items():
                expected = own[section].get(key, value)
                if isinstance(expected, dict):
                    expected = {**value, **expected}
                assert merged[key] == expected, f"{name}.{section}.{key}"


def test_mappings_merge_deeply_and_lists_are_replaced() -> None:
    def change(values: dict[str, Any]) -> None:
        values["defaults"]["source"]["toy"] = {"num_conversations": 5, "seed": 7}
        values["corpora"]["toy"]["source"]["toy"] = {"seed": 8}
        values["defaults"]["evaluation"]["response_turns"] = [1, 2, 3]
        values["corpora"]["toy"]["evaluation"]["response_turns"] = [9]

    corpus = Params(changed(change)).corpus("toy")
    assert (corpus.source.toy.num_conversations, corpus.source.toy.seed) == (5, 8)
    assert corpus.evaluation.response_turns == (9,)


def test_null_overrides_a_default() -> None:
    def change(values: dict[str, Any]) -> None:
        values["defaults"]["training"]["max_steps"] = 5
        values["corpora"]["toy"]["training"]["max_steps"] = None

    params = Params(changed(change))
    assert params.corpus("toy").training.max_steps is None
    assert params.corpus("cornell").training.max_steps == 5


def test_one_corpus_or_system_leaves_the_others_as_they_are() -> None:
    before = Params(VALUES)

    def change(values: dict[str, Any]) -> None:
        values["corpora"]["toy"]["training"]["learning_rate"] = 0.5
        values["systems"]["vhred"]["word_drop"] = 0.75

    after = Params(changed(change))
    assert after.corpus("toy").training.learning_rate == 0.5
    assert after.corpus("cornell") == before.corpus("cornell")
    assert after.system("vhred").word_drop == 0.75
    assert after.system("vhcr") == before.system("vhcr")


def test_a_system_is_as_its_corpus_says_unless_it_says_itself() -> None:
    def change(values: dict[str, Any]) -> None:
        values["corpora"]["toy"]["system"] = {"decoder_conditioning": "every_step", "word_drop": 0.125}

    params = Params(changed(change))
    assert params.system("vhred", "toy").decoder_conditioning == "every_step"
    assert params.system("vhred", "toy").word_drop == 0.125
    assert params.system("vhred-wd", "toy").word_drop == 0.25
    assert params.system("vhred", "cornell") == params.system("vhred")
    assert params.system("vhred").decoder_conditioning == "initial_state"
    message = refused(lambda v: v["corpora"]["toy"].update(system={"decoder_conditioning": "gates"}))
    assert "corpora.toy.system.decoder_conditioning = 'gates'" in message


def test_the_papers_size_is_conditioned_as_in_the_paper() -> None:
    """Eq. 8 and the authors' program: through the initial state alone; presets for CPUs do more."""
    params = Params.load(ROOT / "params.yaml")
    for corpus in params.corpora:
        expected = "initial_state" if corpus in ("cornell", "ubuntu") else "every_step"
        assert params.system("vhcr-ud", corpus).decoder_conditioning == expected, corpus


def test_numbers_as_people_write_them() -> None:
    """YAML reads 1e-4 as text, for want of a dot."""
    params = Params(
        yaml.safe_load(yaml.safe_dump(VALUES).replace("learning_rate: 0.0001", "learning_rate: 1e-4"))
    )
    assert params.corpus("cornell").training.learning_rate == 1e-4


def test_sections_are_frozen() -> None:
    training = Params(VALUES).corpus("toy").training
    with pytest.raises(ValueError, match="frozen"):
        setattr(training, "num_epochs", 3)  # noqa: B010 - mypy refuses it too


def test_the_systems_of_the_paper() -> None:
    params = Params.load(ROOT / "params.yaml")
    assert set(params.systems) >= {
        "hred", "vhred", "vhred-wd", "vhred-ud", "vhred-bow", "vhred-zonly", "vhcr", "vhcr-ud",
    }  # fmt: skip
    assert (params.system("vhred-wd").word_drop, params.system("vhcr-ud").utterance_drop) == (0.25, 0.25)
    assert params.system("vhcr-ud").word_drop == 0.0, "never together"
    assert [params.system(f"vhred-wd{rate}").word_drop for rate in (50, 75)] == [0.5, 0.75], "section 3.4"
    for name in params.systems:
        assert params.system(name).reading == ("release" if name.endswith("-release") else "paper")


def test_the_papers_systems_have_no_remedy_and_each_remedy_is_one_difference() -> None:
    """So that what a comparison shows has one cause, or, of a name with two remedies in it, two."""
    params = Params.load(ROOT / "params.yaml")
    plain = params.system("vhred").model_dump()
    of_the_paper = ("architecture", "reading", "word_drop", "utterance_drop", "bag_of_words_weight")
    remedies = set(plain) - {*of_the_paper, "decoder_sees_context", "decoder_conditioning"}
    for name in params.systems:
        base, _, suffix = name.rpartition("-")
        own = params.system(name).model_dump()
        changed = {key for key in remedies if own[key] != plain[key]}
        if suffix in ("fb", "fb3", "fbw", "cyc", "b50", "bn", "bn90", "bnfb", "agg"):
            different = {key for key, value in params.system(base).model_dump().items() if own[key] != value}
            assert different == changed, name
            assert len({"_".join(key.split("_")[:2]) for key in changed}) == (2 if suffix == "bnfb" else 1), (
                name
            )
        else:
            assert not changed, name


# --- fingerprints and flat names ---


def test_a_fingerprint_changes_exactly_when_a_value_does() -> None:
    params = Params(VALUES)
    training = params.corpus("cornell").training
    prints = {fingerprint(training)}
    for key, value in training.model_dump().items():
        other: Any = {
            "float32": "bfloat16", "auto": "cpu", "mean": "sum", "shuffled": "computed", None: 3,
        }.get(value, value + 1 if isinstance(value, (int, float)) else None)  # fmt: skip
        assert other is not None, key
        changed_print = fingerprint(training.model_copy(update={key: other}))
        assert changed_print not in prints, key
        prints.add(changed_print)
    again = parse(TrainingParams, dict(reversed(list(training.model_dump().items()))))
    assert fingerprint(again) == fingerprint(training), "the order of keys is no value"
    assert fingerprint(Params(copy.deepcopy(VALUES)).corpus("cornell").training) == fingerprint(training)


def test_a_fingerprint_of_several_parts_keeps_them_apart() -> None:
    assert fingerprint("a", "b") != fingerprint("ab")
    assert fingerprint("a", "b") != fingerprint("b", "a")
    assert fingerprint("1") != fingerprint(1)
    assert fingerprint("a") != fingerprint("a", "")


def test_a_fingerprint_is_the_same_on_every_day_and_machine() -> None:
    """Checkpoints and evaluations are matched by it: a change of the function orphans them all."""
    system = SystemParams(
        architecture="vhcr",
        reading="paper",
        word_drop=0.25,
        utterance_drop=0.0,
        bag_of_words_weight=0.0,
        decoder_sees_context=True,
        decoder_conditioning="initial_state",
        free_bits_utt=0.0,
        free_bits_conv=0.5,
        free_bits_conv_per_word=0.0,
        kl_cycles=1,
        final_kl_weight=1.0,
        posterior_batch_norm=0.0,
        inference_first_steps=0,
    )
    text = (
        '[{"architecture":"vhcr","bag_of_words_weight":0.0,"decoder_conditioning":"initial_state",'
        '"decoder_sees_context":true,"final_kl_weight":1.0,"free_bits_conv":0.5,'
        '"free_bits_conv_per_word":0.0,"free_bits_utt":0.0,"inference_first_steps":0,"kl_cycles":1,'
        '"posterior_batch_norm":0.0,"reading":"paper","utterance_drop":0.0,"word_drop":0.25},"toy",3]'
    )
    assert fingerprint(system, "toy", 3) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_flat_names() -> None:
    corpus = Params(VALUES).corpus("toy")
    names = flatten(corpus)
    assert names["training.learning_rate"] == corpus.training.learning_rate
    assert names["source.toy.seed"] == 0
    assert names["tokenisation.min_count"] == 2
    assert names["evaluation.response_turns"] == (1, 3)
    assert all(not isinstance(value, dict) for value in names.values())
    assert "training" not in names
    assert flatten(corpus.model, prefix="model.")["model.z_utt_size"] == 16
