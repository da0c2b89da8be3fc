"""A model and a corpus small enough to train in milliseconds."""

import numpy as np

from vhcr.params import ModelParams, Params, SystemParams, TrainingParams
from vhcr.token_files import Conversations
from vhcr.tokenisation.specials import EOS

VOCABULARY = 30
PARAMS = Params.load("params.yaml")

MODEL = ModelParams(
    embedding_size=6,
    encoder_size=7,
    context_size=8,
    decoder_size=10,
    conversation_encoder_size=5,
    z_utt_size=3,
    z_conv_size=4,
    encoder_layers=1,
    context_layers=1,
    decoder_layers=1,
    conversation_encoder_layers=1,
    initialisation="release",
)


def training(**changes: object) -> TrainingParams:
    tiny = {
        "num_epochs": 3,
        "batch_conversations": 4,
        "learning_rate": 0.01,
        "kl_annealing_steps": 10,
        "record_every_steps": 2,
        "device": "cpu",
        "num_threads": 1,
    }
    return TrainingParams.model_validate({**PARAMS.corpus("toy").training.model_dump(), **tiny, **changes})


def system(name: str, **changes: object) -> SystemParams:
    return PARAMS.system(name).model_copy(update=changes)


def conversations(count: int, seed: int) -> Conversations:
    random = np.random.default_rng(seed)
    flat, lengths, turns = [], [], []
    for _ in range(count):
        turns.append(int(random.integers(1, 5)))
        for _ in range(turns[-1]):
            words = random.integers(4, VOCABULARY, random.integers(0, 6))
            flat.append(np.append(words, EOS))
            lengths.append(len(flat[-1]))
    word_offsets = np.concatenate([[0], np.cumsum(lengths)])
    row_offsets = np.concatenate([[0], np.cumsum(turns)])
    return Conversations([f"c{i}" for i in range(count)], np.concatenate(flat), word_offsets, row_offsets)
