"""Topics: clusters of z_conv, with the words that set each apart and its most typical conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhcr.batch import Ints
from vhcr.errors import ParameterError

Floats = NDArray[np.float64]

TRIED = (*range(2, 13), 14, 16, 18, 20, 22, 24, 27, 30, 33, 36, 40)  # topics, where no number is given
FOR_CHOICE = 1000  # points on which the number of topics is chosen: its time grows with their square
SHOWN_WORDS, SHOWN_CONVERSATIONS = 10, 5


@dataclass(frozen=True)
class Topic:
    """One cluster. Topics are numbered from 0 by falling size."""

    number: int
    size: int
    words: tuple[str, ...]  # by falling weight
    typical: tuple[int, ...]  # conversations, nearest to the cluster's centre first

    @property
    def name(self) -> str:
        """A short name: its number and first words."""
        return f"{self.number}: {' '.join(self.words[:3])}"


def cluster(z: Floats, num_topics: int = 0, seed: int = 0) -> tuple[Ints, Floats]:
    """k-means on ``z`` [points, latent]: the topic of each point, and the centres [topics, latent].

    With ``num_topics`` 0 the number is the one of ``TRIED`` with the largest mean silhouette (Rousseeuw,
    1987) on ``FOR_CHOICE`` points. The same points give the same topics on every call.

    Raises:
        ParameterError: there are fewer different points than topics asked for.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    different = len(np.unique(z, axis=0))
    if num_topics > different:
        raise ParameterError(f"{num_topics} topics were asked for; there are {different} different points")

    def fitted(k: int, points: Floats) -> KMeans:
        return KMeans(k, n_init=4, random_state=seed).fit(points)

    with threadpool_limits(1):  # sums in one order, and no waiting for threads on a busy machine
        if num_topics == 0:
            sample = z[np.random.Generator(np.random.Philox(key=seed)).permutation(len(z))[:FOR_CHOICE]]
            most = len(np.unique(sample, axis=0)) - 1
            scores = {k: silhouette_score(sample, fitted(k, sample).labels_) for k in TRIED if k <= most}
            num_topics = max(scores, key=lambda k: (scores[k], -k)) if scores else 1
        model = fitted(num_topics, z)
    by_size = np.argsort(-np.bincount(model.labels_, minlength=num_topics), kind="stable")
    rank = np.empty_like(by_size)
    rank[by_size] = np.arange(num_topics)
    return rank[model.labels_].astype(np.int64), model.cluster_centers_[by_size]


def topics(z: Floats, of_point: Ints, centres: Floats, words: Sequence[Iterable[str]]) -> tuple[Topic, ...]:
    """What each cluster is about; ``words`` are those of each point's conversation."""
    counts = [Counter[str]() for _ in centres]
    for topic, said in zip(of_point.tolist(), words, strict=True):
        counts[topic].update(word for word in said if any(map(str.isalnum, word)))
    found = []
    for number, (centre, own) in enumerate(zip(centres, distinctive_words(counts), strict=True)):
        members = np.flatnonzero(of_point == number)
        order = np.argsort(((z[members] - centre) ** 2).sum(axis=1), kind="stable")
        found.append(
            Topic(number, len(members), tuple(own), tuple(members[order[:SHOWN_CONVERSATIONS]].tolist()))
        )
    return tuple(found)


def distinctive_words(groups: Sequence[Counter[str]], count: int = SHOWN_WORDS) -> list[list[str]]:
    """The ``count`` words of largest weight in each group of texts, by falling weight.

    Class-based TF-IDF (Grootendorst, 2022): tf(word, group) log(1 + A / f(word)), where tf is the share of
    the word in its group, f how often it occurs in all groups, and A the mean number of words of a group.
    """
    everywhere = Counter[str]()
    for group in groups:
        everywhere.update(group)
    average = everywhere.total() / max(len(groups), 1)
    return [
        sorted(group, key=lambda word: (-group[word] * np.log1p(average / everywhere[word]), word))[:count]
        for group in groups
    ]
