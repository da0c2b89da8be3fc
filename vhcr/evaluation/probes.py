"""Linear probes: what does a representation know of a conversation's labels?

The toy corpus comes with its latent structure (topic, tone, length, acts), so one can ask whether z_conv
has found it. A probe is a multinomial logistic regression fitted on the validation split and scored on the
test split: neither was trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vhcr.evaluation.records import Probe
from vhcr.token_files import Conversations

Floats = NDArray[np.float64]

Key = tuple[str, int | None]  # conversation id, and the turn or None for the whole conversation
Labels = Mapping[tuple[str, str], Mapping[Key, str]]  # (level, name) -> the value of each example

MAX_CLASSES = 50  # more than that is a name or a number, not a label


@dataclass(frozen=True)
class Gathered:
    """Latent quantities over a split; arrays are float64, conversations in the split's order.

    Utterances are those that are scored: nothing has trained the latents of the others (the first, in the
    ``release`` reading).
    """

    conversation: NDArray[np.int64]  # [utterances]
    turn: NDArray[np.int64]  # [utterances]
    h_cxt: Floats  # [utterances, size]
    prior_utt: tuple[Floats, Floats] | None  # mu and var, [utterances, latent]
    posterior_utt: tuple[Floats, Floats] | None
    posterior_conv: tuple[Floats, Floats] | None  # [conversations, latent]


class ProbeResult(NamedTuple):
    """Accuracy on the test split, beside that of always naming the most frequent label."""

    accuracy: float
    chance: float
    num_test: int


def probe(
    fitted_on: Floats, fitted_labels: list[str], tested_on: Floats, tested_labels: list[str]
) -> ProbeResult | None:
    """Accuracy of a linear probe, [examples, size] -> labels; None where there is nothing to tell apart."""
    if (
        fitted_on.shape[1] == 0
        or len(set(fitted_labels)) < 2
        or len(set(fitted_labels)) > MAX_CLASSES
        or not tested_labels
    ):
        return None
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    # A collapsed representation is constant: the scaler leaves a column without variance at zero.
    scaler = StandardScaler().fit(fitted_on)
    classifier = LogisticRegression(max_iter=2000, C=0.1)
    with warnings.catch_warnings():  # no reader of an evaluation can do anything about either
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        classifier.fit(scaler.transform(fitted_on), fitted_labels)
    accuracy = float(np.mean(classifier.predict(scaler.transform(tested_on)) == np.asarray(tested_labels)))
    _, counts = np.unique(np.asarray(tested_labels), return_counts=True)
    return ProbeResult(accuracy, float(counts.max() / counts.sum()), len(tested_labels))


def drawn(posterior: tuple[Floats, Floats], seed: int) -> Floats:
    """One z of each posterior, [examples, latent]: what a decoder hears."""
    mu, var = posterior
    return mu + np.sqrt(var) * np.random.Generator(np.random.Philox(key=seed)).standard_normal(mu.shape)


def probe_labels(
    found: Mapping[str, Gathered],
    splits: Mapping[str, Conversations],
    labels: Labels,
    seed: int,
) -> dict[str, Probe]:
    """For each label, what linear probes read from each representation: accuracy beside chance."""
    result: dict[str, dict[str, float | int]] = {}
    for (level, label), values in sorted(labels.items()):
        of_conversation = level == "conversation"
        examples = {
            split: representations(gathered, splits[split], of_conversation, seed)
            for split, gathered in found.items()
        }
        for name in examples["test"]:
            sides = {}
            for split, available in examples.items():
                keys, matrix = available[name]
                kept = [i for i, key in enumerate(keys) if key in values]
                sides[split] = (matrix[kept], [values[keys[i]] for i in kept])
            outcome = probe(*sides["validation"], *sides["test"])
            if outcome is not None:
                result.setdefault(label, {"chance": outcome.chance, "num_test": outcome.num_test})
                result[label][name] = outcome.accuracy
    return {label: Probe.model_validate(found) for label, found in result.items()}


def representations(
    gathered: Gathered, data: Conversations, of_conversation: bool, seed: int
) -> dict[str, tuple[list[Key], Floats]]:
    """Per representation its keys (conversation id, turn or None) and vectors [examples, size].

    Of a latent, the posterior's mean and one draw: to a linear probe the mean's scale is nothing, so it may
    tell what lies far below the noise; a draw tells no more than the KL lets through.
    """
    ids = data.ids
    if of_conversation:
        last = np.flatnonzero(np.append(gathered.conversation[1:] != gathered.conversation[:-1], True))
        keys: list[Key] = [(ids[int(i)], None) for i in gathered.conversation[last]]
        found = {"h_cxt": (keys, gathered.h_cxt[last])}
        if gathered.posterior_conv is not None:
            # A row for each, of one turn too, of which the release's reading scores no utterance.
            everyone: list[Key]
            everyone = [(name, None) for name in ids[: len(gathered.posterior_conv[0])]]
            found["z_conv"] = (everyone, gathered.posterior_conv[0])
            found["z_conv_drawn"] = (everyone, drawn(gathered.posterior_conv, seed))
        return found
    keys = [(ids[int(c)], int(t)) for c, t in zip(gathered.conversation, gathered.turn, strict=True)]
    found = {"h_cxt": (keys, gathered.h_cxt)}
    if gathered.posterior_utt is not None:
        found["z_utt"] = (keys, gathered.posterior_utt[0])
        found["z_utt_drawn"] = (keys, drawn(gathered.posterior_utt, seed))
    return found
