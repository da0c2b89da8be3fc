"""Linear probes: what does a representation know of a conversation's labels?

The toy corpus comes with its latent structure (topic, tone, length, acts), so one can ask whether z_conv
has found it. A probe is a multinomial logistic regression fitted on the validation split and scored on the
test split: neither was trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_CLASSES = 50  # more than that is a name or a number, not a label


class ProbeResult(NamedTuple):
    """Accuracy on the test split, beside that of always naming the most frequent label."""

    accuracy: float
    chance: float
    num_test: int


def probe(
    fitted_on: Floats, fitted_labels: list[str], tested_on: Floats, tested_labels: list[str]
) -> ProbeResult | None:
    """Accuracy of a linear probe, [examples, size] -> labels; None where there is nothing to tell apart."""
    if len(set(fitted_labels)) < 2 or len(set(fitted_labels)) > MAX_CLASSES or not tested_labels:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    # A collapsed representation is constant: the scaler leaves a column without variance at zero.
    scaler = StandardScaler().fit(fitted_on)
    classifier = LogisticRegression(max_iter=2000, C=0.1).fit(scaler.transform(fitted_on), fitted_labels)
    accuracy = float(np.mean(classifier.predict(scaler.transform(tested_on)) == np.asarray(tested_labels)))
    _, counts = np.unique(np.asarray(tested_labels), return_counts=True)
    return ProbeResult(accuracy, float(counts.max() / counts.sum()), len(tested_labels))
