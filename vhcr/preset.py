"""Settings for a corpus of one's own, by its size: a network that its words can fill, a schedule that fits.

Rules of thumb: a training of some thousand steps or of ten epochs, the KL weight at its end after two fifths
of them, and never the paper's network, which needs Cornell's 4 million words. docs/corpora.md holds them as
a table, with what they were tried on; a test keeps the two alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SYSTEMS = ("hred", "vhred", "vhcr-ud")  # without latents, with z_utt, and VHCR's best on small corpora
ANNEALED = 0.4  # of the steps, in which the KL weight rises


@dataclass(frozen=True)
class Size:
    """A network and a schedule for corpora of up to ``max_words`` words in training."""

    name: str
    max_words: float
    embedding_size: int
    encoder_size: int
    context_size: int
    decoder_size: int
    z_size: int
    vocabulary_size: int
    min_count: int
    learning_rate: float
    num_steps: int
    vector_size: int


SIZES = (
    Size("tiny", 300_000, 64, 96, 96, 128, 16, 8_000, 1, 0.003, 1_500, 50),
    Size("small", 3_000_000, 128, 128, 256, 256, 32, 10_000, 2, 0.001, 4_000, 100),
    Size("medium", math.inf, 256, 256, 512, 512, 64, 20_000, 5, 0.001, 10_000, 100),
)
MAX_EPOCHS = 10  # with more, small corpora are learnt by heart
MIN_EPOCHS = 2


def size_for(num_words: int) -> Size:
    """The size for so many words in the training split."""
    return next(size for size in SIZES if num_words <= size.max_words)


def sections(num_words: int, num_conversations: int) -> dict[str, Any]:
    """embeddings, model, system, training and evaluation, for so many words and conversations of training."""
    size = size_for(num_words)
    batch = 80 if num_conversations >= 20_000 else 40 if num_conversations >= 400 else 10
    steps_per_epoch = max(1, math.ceil(num_conversations / batch))
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(size.num_steps / steps_per_epoch)))
    steps = epochs * steps_per_epoch
    training = {
        "num_epochs": epochs,
        "batch_conversations": batch,
        "learning_rate": size.learning_rate,
        "final_learning_rate_factor": 0.1,
        "kl_annealing_steps": max(1, round(ANNEALED * steps)),
        "record_every_steps": min(50, max(1, steps // 100)),
    }
    if steps_per_epoch > 600:
        training["validate_every_steps"] = 300
    if size.name == "tiny":
        training["num_threads"] = 1  # so small a network loses by sharing each product between cores
    return {
        "embeddings": {"vector_size": size.vector_size, "epochs": 10 if size.name == "tiny" else 5},
        "model": {
            "embedding_size": size.embedding_size,
            "encoder_size": size.encoder_size,
            "context_size": size.context_size,
            "decoder_size": size.decoder_size,
            "conversation_encoder_size": size.encoder_size,
            "z_utt_size": size.z_size,
            "z_conv_size": size.z_size,
            "initialisation": "informative",
        },
        "system": {"decoder_conditioning": "every_step"},  # with it z stays in use (docs/results.md)
        "training": training,
        "evaluation": {"importance_samples": 50, "importance_conversations": 300},
    }


def max_words_for(metrics: Mapping[str, Any], words: int) -> int:
    """``tokenisation.max_words``: the paper's 30, or 60 where more than a twentieth of all words would go."""
    cut = metrics["cut"]["words"]
    return 60 if cut > 0.05 * (cut + words) else 30
