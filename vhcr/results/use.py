"""Whether a latent variable is used, as a KL alone does not tell.

A posterior may move away from its prior in the same way for all data, and a decoder may ignore what a
latent knows. Either is a KL that the bound pays for nothing. Active units (Burda et al., 2016) are told
beside the two numbers that decide, and do not decide: their limit is absolute, while the scale of a z whose
prior is learnt is free.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from vhcr.results.runs import Run

VANISHED = 0.02  # nats per word: under a quarter of a nat for an utterance of ten words
UNINFORMED = 0.1  # nats of mutual information, a seventh of a bit; sampling alone makes 0.01 of none
UNHEARD = 0.002  # nats per word; noise makes up to 0.0007 of a z that the decoder ignores

AT_FLOOR = 1.2  # times the free bits, up to which a KL is what was free and no more

Level = Literal["conv", "utt"]
LEVELS: tuple[Level, ...] = ("conv", "utt")


class Use(NamedTuple):
    """What the diagnostics of a run say of one latent; None where they do not."""

    active_units: float | None
    information: float | None  # I(x; z), nats a conversation or an utterance
    cost: float | None  # of another's z to the reconstruction, nats per word

    @property
    def is_used(self) -> bool | None:
        """Whether z tells data apart and the decoder hears it; None where that was not measured."""
        enough = (
            None if self.information is None else self.information >= UNINFORMED,
            None if self.cost is None else self.cost >= UNHEARD,
        )
        return False if False in enough else None if None in enough else True

    def __str__(self) -> str:
        known = (
            (self.active_units, 0, "{} active units"),
            (self.information, 2, "{} nats of mutual information"),
            (self.cost, 4, "another's z costs {} nats a word"),
        )
        return ", ".join(
            text.format(f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−"))  # no minus zero
            for value, digits, text in known
            if value is not None
        )


def use(run: Run, level: Level) -> Use:
    """How the latent of this level is used by a run."""
    found = run.evaluation.diagnostics
    if level == "conv":
        units, information = found.active_units_conv, found.mutual_information_conv
    else:
        units, information = found.active_units_utt, found.mutual_information_utt
    sources, cost = found.reconstruction_per_word_by_source, None
    if sources is not None:
        other = sources.shuffled_conv if level == "conv" else sources.shuffled_utt
        if other is None and len(levels(run)) == 1:
            other = sources.shuffled
        cost = None if other is None else other - sources.posterior
    return Use(units, None if information is None else information.estimate, cost)


def free(run: Run, level: Level) -> tuple[float, float] | None:
    """The KL of a latent, and what of it cost nothing in training: nats a conversation, or an utterance.

    None where nothing was free, or the evaluation does not say of how many utterances it was.
    """
    found, settings = run.evaluation, run.settings
    utterances = sum(length.num_utterances for length in found.by_utterance_length)
    count = found.num_conversations if level == "conv" else utterances
    allowed, per_word = (
        float(value) if isinstance(value := settings.get(f"free_bits_{level}{by}"), (int, float)) else 0.0
        for by in ("", "_per_word")
    )
    if not count or not allowed + per_word:
        return None
    words = found.num_words / count
    return (run.value(f"kl_{level}_per_word") or 0.0) * words, allowed + per_word * words


def levels(run: Run) -> tuple[Level, ...]:
    """Latents of a run that have a KL."""
    return tuple(level for level in LEVELS if run.value(f"kl_{level}_per_word"))


def judged(run: Run) -> dict[Level, Use]:
    """Latents of which a KL is left that could be information, and how they are used."""
    return {
        level: use(run, level)
        for level in levels(run)
        if (run.value(f"kl_{level}_per_word") or 0.0) >= VANISHED
    }


def unused(run: Run) -> dict[Level, Use]:
    """Latents of which a KL is left that counts as none, and why."""
    return {level: one for level, one in judged(run).items() if one.is_used is False}
