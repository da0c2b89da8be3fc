"""Each system learns one small batch by heart: gradients point where they should, all the way down."""

from __future__ import annotations

import pytest
import torch

from tests.models.examples import READINGS, SYSTEMS, packed, params, system
from vhcr.models import Noise, build, objective

# Words that only the turns before tell apart: a decoder without context or latents cannot know them.
LESSON = [[[4, 5, 3], [6, 7, 8, 3], [4, 3]], [[8, 9, 3], [4, 4, 9, 3]], [[10, 3], [9, 3], [5, 6, 3]]]


QUICK = ("hred", "vhred-zonly", "vhcr-ud", "transformer")


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        pytest.param(name, reading, marks=[] if name in QUICK and reading == "paper" else pytest.mark.slow)
        for name in (*SYSTEMS, "transformer")
        for reading in READINGS
    ],
)
def test_reconstruction_error_falls_to_nearly_zero(name: str, reading: str) -> None:
    small = {key: 24 for key in params().corpus("toy").model.model_dump() if key.endswith("_size")}
    # "informative" begins with hundreds of nats of KL: that takes the clipping and annealing of the loop.
    sizes = params().corpus("toy").model.model_copy(update={**small, "initialisation": "release"})
    model = build(sizes, system(name, reading), vocabulary_size=11, seed=1)
    batch = packed(LESSON)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    # Ends small: at a constant rate drops kept one system's error moving, and a processor's rounding decided.
    rate = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, total_iters=100)
    model.train()
    for step in range(100):
        optimiser.zero_grad()
        # The KL is free at first, as annealing has it: latents may carry all that the context does not.
        loss = objective.loss(model(batch, Noise(0, step)), 0.01, model.system.bag_of_words_weight)
        loss.backward()
        optimiser.step()
        rate.step()
    with torch.no_grad():
        output = model.eval()(batch, Noise(1))
    # The first utterances of the paper's reading have no context: without latents a model knows only how
    # often each comes.
    first = 0 if model.z_utt_size else 1
    errors, words = output.reconstruction_error[:, first:], output.num_words[:, first:]
    # From log 11 = 2.4; knowing nothing but how often each word comes leaves 2.
    assert float(errors.sum() / words.sum()) < 0.15


@pytest.mark.slow
def test_vhcr_keeps_the_conversation_latent_under_utterance_drop() -> None:
    sizes = (
        params()
        .corpus("toy")
        .model.model_copy(
            update={
                "encoder_size": 24,
                "context_size": 24,
                "decoder_size": 24,
                "conversation_encoder_size": 24,
                "initialisation": "release",
            }
        )
    )
    model = build(sizes, system("vhcr-ud"), vocabulary_size=11, seed=1)
    batch = packed(LESSON)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(200):
        optimiser.zero_grad()
        objective.loss(model(batch, Noise(0, step)), objective.kl_weight(step, 200), 0.0).backward()
        optimiser.step()
    with torch.no_grad():
        output = model.eval()(batch, Noise(1))
    # log 3 nats tell three conversations apart.
    assert (output.kl_conv > 0.5).all()
