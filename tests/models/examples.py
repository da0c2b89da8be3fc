"""Small models and invented conversations that the tests of the models share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vhcr.batch import Batch, pack
from vhcr.models import ConversationModel, KneserNey, build
from vhcr.params import ModelParams, Params, SystemParams
from vhcr.tokenisation.specials import EOS, SPECIALS, UNK

VOCABULARY = 11
WORDS = [UNK, *range(len(SPECIALS), VOCABULARY)]  # what may stand inside an utterance
READINGS = ("paper", "release")
CONDITIONINGS = ("initial_state", "every_step")
SYSTEMS = ("hred", "vhred", "vhred-wd", "vhred-ud", "vhred-bow", "vhred-zonly", "vhcr", "vhcr-ud")
ANCHORS = ("transformer", "kneser-ney")  # from outside of the family: no drops, no latents
LATENT_SYSTEMS = tuple(name for name in SYSTEMS if name != "hred")
DROPS: dict[str, Any] = {"word_drop": 0.4, "utterance_drop": 0.4}

Conversation = list[list[int]]


@cache
def params() -> Params:
    """The project's own params.yaml: the systems under test are those that people train."""
    return Params.load(Path(__file__).parents[2] / "params.yaml")


def sizes(
    layers: int = 1, latent: int = 2, initialisation: Literal["release", "informative"] = "release"
) -> ModelParams:
    """Sizes that all differ, so that a mix-up of two of them is an error and no accident."""
    return ModelParams(
        embedding_size=3,
        encoder_size=4,
        context_size=5,
        decoder_size=6,
        conversation_encoder_size=7,
        z_utt_size=latent,
        z_conv_size=latent if latent == 1 else latent + 1,
        encoder_layers=layers,
        context_layers=layers,
        decoder_layers=layers,
        conversation_encoder_layers=layers,
        initialisation=initialisation,
    )


def system(name: str, reading: str = "paper", **changes: object) -> SystemParams:
    """System ``name`` of params.yaml under ``reading``, with ``changes``."""
    values = {**params().system(name).model_dump(), "reading": reading, **changes}
    return SystemParams.model_validate(values)


def network(
    name: str,
    reading: str = "paper",
    *,
    layers: int = 1,
    latent: int = 2,
    seed: int = 0,
    scale: float = 2.0,
    **changes: object,
) -> ConversationModel:
    """A small float64 model whose weights are ``scale`` times the usual, so that nothing is nearly linear."""
    model = build(sizes(layers, latent), system(name, reading, **changes), VOCABULARY, seed).double()
    if isinstance(model, KneserNey):
        model.count([packed(conversations([4, 2, 3, 1, 5, 2] * 5, seed=8))])
        return model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def conversations(num_turns: list[int], seed: int = 0, max_words: int = 5) -> list[Conversation]:
    """Random conversations of ``num_turns`` turns each, of 1 to ``max_words`` words, EOS included."""
    draw = np.random.default_rng(seed)
    return [
        [[*draw.choice(WORDS, draw.integers(0, max_words)).tolist(), EOS] for _ in range(turns)]
        for turns in num_turns
    ]


def arrays(of: list[Conversation]) -> list[list[NDArray[np.int64]]]:
    """Conversations as ``pack`` takes them."""
    return [[np.array(words, dtype=np.int64) for words in turns] for turns in of]


def packed(of: list[Conversation], index: list[int] | None = None, samples: int = 1) -> Batch:
    """Conversations as a batch; their names are their places unless ``index`` says otherwise."""
    return pack(arrays(of), list(range(len(of))) if index is None else index, samples)
