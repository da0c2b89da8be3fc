"""The two readings of the paper, and what tells the eight systems apart."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.examples import (
    CONDITIONINGS,
    LATENT_SYSTEMS,
    READINGS,
    SYSTEMS,
    conversations,
    network,
    packed,
    params,
    system,
)
from vhcr.errors import ParameterError
from vhcr.models import Noise, build, objective
from vhcr.models.reading import Reading

NOISE = Noise(1)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_release_conditions_on_the_first_utterance_and_never_scores_it(name: str) -> None:
    chosen = conversations([3, 1, 2], seed=2)
    batch = packed(chosen)
    release, paper = (network(name, reading).eval()(batch, NOISE) for reading in ("release", "paper"))
    bag = "bow" in name
    for part in ("reconstruction_error", "kl_utt", "bag_of_words_error", "num_words"):
        assert (getattr(release, part)[:, 0] == 0).all(), part
    assert (paper.reconstruction_error[:, 0] > 0.0).all()
    assert paper.num_words.tolist() == [
        [len(chosen[n][t]) if t < len(chosen[n]) else 0 for t in range(3)] for n in batch.index.tolist()
    ]
    assert release.num_words[:, 1:].tolist() == paper.num_words[:, 1:].tolist()
    assert (release.reconstruction_error[:, 1:] > 0.0).sum() == 3
    if name in LATENT_SYSTEMS:
        assert (paper.kl_utt[:, 0] > 0.0).all()
        assert (release.kl_utt[:, 1:] > 0.0).sum() == 3
    assert bool((release.bag_of_words_error > 0.0).any()) is bag
    # z_conv costs what it costs, whatever is scored.
    assert bool((release.kl_conv > 0.0).all()) is name.startswith("vhcr")
    # And the first utterance is heard: it moves the error of the second.
    other = packed([[[9, 9, 9, 3], *turns[1:]] for turns in chosen])
    heard = network(name, "release").eval()(other, NOISE)
    assert (heard.reconstruction_error[:2, 1] != release.reconstruction_error[:2, 1]).all()


@pytest.mark.parametrize("name", ["hred", "vhred-bow", "vhcr"])
def test_a_batch_with_nothing_to_score_trains_on_nothing(name: str) -> None:
    """One-turn conversations under the release's reading: the backward pass once failed."""
    model = network(name, "release").train()
    output = model(packed(conversations([1, 1])), NOISE)
    loss = objective.loss(output, 0.0, model.system.bag_of_words_weight)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or (p.grad == 0.0).all() for p in model.parameters())


@pytest.mark.parametrize("name", LATENT_SYSTEMS)
def test_depth_of_the_priors(name: str) -> None:
    models = [network(name, reading) for reading in READINGS]
    depths = [len(model.prior_mlp.layers) for model in models if model.z_utt_size]
    assert depths == ([2, 1] if name.startswith("vhcr") else [2, 2])


# The authors' numbers, REFERENCE facts: HRED 53.5 M, VHRED 60.0 M, VHCR 81.0 M at 20,000 words.
@pytest.mark.parametrize(("name", "millions"), [("hred", 53.5), ("vhred", 60.0), ("vhcr", 81.0)])
def test_number_of_parameters_in_the_papers_setting(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(params().corpus("cornell").model, system(name, "release"), 20_000)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert round(number / 1e6, 1) == millions


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_reach_every_parameter(name: str, reading: str) -> None:
    # Training without drops leaves h_unk alone, so half of them fall.
    drops: dict[str, Any] = {"utterance_drop": 0.5} if name.endswith("-ud") else {}
    model = network(name, reading, layers=2, decoder_conditioning="every_step", **drops).train()
    output = model(packed(conversations([3, 5, 2], seed=3)), NOISE)
    objective.loss(output, 1.0, model.system.bag_of_words_weight).backward()
    idle = [
        parameter_name
        for parameter_name, parameter in model.named_parameters()
        if parameter.grad is None or not (parameter.grad != 0.0).any()
    ]
    assert idle == []


def test_what_each_system_is() -> None:
    def has(name: str) -> tuple[bool, ...]:
        model = network(name)
        modules = dict(model.named_modules())
        return (
            "prior_mlp" in modules,
            "conversation_encoder" in modules,
            getattr(model, "bag_of_words", None) is not None,
            model.h_unk is not None,
            model.system.word_drop > 0.0,
            model.system.decoder_sees_context,
        )

    #                        z_utt  z_conv bow    h_unk  w.d    h_cxt in f_dec
    assert has("hred") == (False, False, False, False, False, True)
    assert has("vhred") == (True, False, False, False, False, True)
    assert has("vhred-wd") == (True, False, False, False, True, True)
    assert has("vhred-ud") == (True, False, False, True, False, True)
    assert has("vhred-bow") == (True, False, True, False, False, True)
    assert has("vhred-zonly") == (True, False, False, False, False, False)
    assert has("vhcr") == (True, True, False, False, False, True)
    assert has("vhcr-ud") == (True, True, False, True, False, True)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("name", ["vhred-zonly", "vhcr"])
def test_a_decoder_of_latents_alone_sees_no_context(name: str, conditioning: str) -> None:
    """Eq. 13: for given latents, what was said before changes no word's probability."""
    model = network(name, decoder_sees_context=False, decoder_conditioning=conditioning).eval()
    errors = []
    for first in (4, 5):
        batch = packed([[[first, 3], [6, 7, 3]]])
        with torch.no_grad():
            output = model(batch, NOISE, draw=lambda posterior, prior, eps: eps)
        errors.append(output.reconstruction_error[0, 1])
    assert torch.equal(errors[0], errors[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_sees_context": False}, "nothing to see"),
        ({"bag_of_words_weight": 1.0}, "needs a latent variable"),
        ({"free_bits_utt": 0.1}, "free_bits_utt > 0 needs a latent variable"),
        ({"posterior_batch_norm": 0.5}, "posterior_batch_norm > 0 needs a latent variable"),
        ({"inference_first_steps": 5}, "inference_first_steps > 0 needs a latent variable"),
    ],
)
def test_hred_refuses_what_needs_a_latent(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        network("hred", **changes)
    assert "'hred'" in str(caught.value)


def test_vhred_refuses_what_needs_a_latent_of_the_conversation() -> None:
    with pytest.raises(
        ParameterError, match="free_bits_conv > 0 needs a latent variable of the conversation"
    ):
        network("vhred", free_bits_conv=1.0)


def test_no_model_asks_for_a_name() -> None:
    """No branch on a system's, an architecture's or a reading's name anywhere in the models."""
    for path in sorted((ROOT / "vhcr" / "models").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"[=!]= *\"(hred|vhred|vhcr|paper|release)", source), path.name
        assert not re.search(r"system\.(architecture|reading) *(==|!=|in )", source), path.name


def test_every_difference_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "readings.md").read_text(encoding="utf-8")
    for field in fields(Reading):
        assert f"`{field.name}`" in text
