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
    # Departure: section 3.3 drops conditioned-on words; the program's coins fall on SOS, too.
    drops_sos: bool
    # Departure: under Eq. 15 f_cxt starts from the conversation's own z_conv; the program sorts its inputs by
    # length but not their starts, so that while training nearly every one starts from another's. It scores
    # so, too; here a score depends on its conversation alone.
    shuffles_context_starts: bool
    # Departure: the paper does not say how weights begin. The program's recurrent weights are orthogonal as
    # one matrix of all three gates, and h_unk has this deviation.
    orthogonal_across_gates: bool
    h_unk_deviation: float


READINGS = {
    "paper": Reading(
        scores_first_utterance=True,
        shares_drops_in_batch=False,
        conversation_encoder_sees_drops=False,
        vhred_prior_layers=2,
        vhcr_prior_layers=2,
        drops_sos=False,
        shuffles_context_starts=False,
        orthogonal_across_gates=False,
        h_unk_deviation=0.1,
    ),
    "release": Reading(
        scores_first_utterance=False,
        shares_drops_in_batch=True,
        conversation_encoder_sees_drops=True,
        vhred_prior_layers=2,
        vhcr_prior_layers=1,
        drops_sos=True,
        shuffles_context_starts=True,
        orthogonal_across_gates=True,
        h_unk_deviation=1.0,
    ),
}
