"""Two readings of the paper: what its text says, and what the authors' program did.

Each row where they differ is a field here, and a row of docs/readings.md; the models ask for the field,
never for the name of the reading.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """The points on which the paper's text and the authors' program part."""

    # Departure: Eq. 14-16 generate x_1 too; the program conditions on it and never scores it.
    scores_first_utterance: bool
    # Departure: section 3.3 and 3.5 drop each word and each utterance with probability p; the program draws
    # one coin per position for the whole batch.
    shares_drops_in_batch: bool
    # Departure: Eq. 21 reads h_enc; the program writes h_unk into the very vectors that f_conv then reads.
    conversation_encoder_sees_drops: bool
    # Departure: the paper does not say how deep its prior MLPs are; the program has two layers in VHRED,
    # and one in VHCR.
    vhred_prior_layers: int
    vhcr_prior_layers: int


READINGS = {
    "paper": Reading(
        scores_first_utterance=True,
        shares_drops_in_batch=False,
        conversation_encoder_sees_drops=False,
        vhred_prior_layers=2,
        vhcr_prior_layers=2,
    ),
    "release": Reading(
        scores_first_utterance=False,
        shares_drops_in_batch=True,
        conversation_encoder_sees_drops=True,
        vhred_prior_layers=2,
        vhcr_prior_layers=1,
    ),
}
