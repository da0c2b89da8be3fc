"""The numbers of a report against scikit-learn and scipy; sacrebleu is met in test_text_metrics.

Both are imported where they are used: of several processes that run tests, one needs them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from vhcr.evaluation.embedding_metrics import embedding_diversity, embedding_scores
from vhcr.evaluation.likelihood import LogWeights, importance_weighted_nll
from vhcr.evaluation.probes import probe
from vhcr.evaluation.text_metrics import distinct, entropy
from vhcr.results.statistics import mean_and_deviation, paired_difference, ratio_interval
from vhcr.word_vectors import WordVectors

WORDS = [f"w{i}" for i in range(40)]
VECTORS = WordVectors(
    {w: i for i, w in enumerate(WORDS)},
    np.random.default_rng(11).normal(size=(40, 8)).astype(np.float32),
)


@pytest.fixture
def rng() -> np.random.Generator:
    """Of each test its own: what one draws must not depend on which others ran before it."""
    return np.random.default_rng(12)


def texts(rng: np.random.Generator, number: int) -> list[list[str]]:
    """A few words each, some of which have no vector."""
    return [[str(word) for word in rng.choice([*WORDS, "nobody"], rng.integers(1, 9))] for _ in range(number)]


def known(words: list[str]) -> np.ndarray:
    return VECTORS.vectors[[VECTORS.index[w] for w in words if w in VECTORS]].astype(np.float64)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from sklearn.metrics import pairwise

    found: np.ndarray = pairwise.cosine_similarity(np.atleast_2d(a), np.atleast_2d(b))
    return found


def test_embedding_metrics_agree_with_cosines_of_scikit_learn(rng: np.random.Generator) -> None:
    references, responses = texts(rng, 300), texts(rng, 300)
    release = embedding_scores(references, responses, VECTORS, "release")
    serban = embedding_scores(references, responses, VECTORS, "serban")
    compared = 0
    for i, (reference, response) in enumerate(zip(references, responses, strict=True)):
        r, s = known(reference), known(response)
        if not len(r) or not len(s):
            continue
        compared += 1
        extreme = [np.where(-m.min(0) > m.max(0), m.min(0), m.max(0)) for m in (r, s)]
        between = cosines(r, s)
        assert release.average[i] == pytest.approx(cosines(r.mean(0), s.mean(0))[0, 0], abs=1e-5)
        assert release.extrema[i] == pytest.approx(cosines(*extreme)[0, 0], abs=1e-5)
        assert release.greedy[i] == pytest.approx(between.max(1).mean(), abs=1e-5)
        both = (between.max(1).clip(0).mean() + between.max(0).clip(0).mean()) / 2
        assert serban.greedy[i] == pytest.approx(both, abs=1e-5)
    assert compared > 250


def test_diversity_agrees_with_distances_of_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.metrics import pairwise

    groups = [texts(rng, 4) for _ in range(20)]
    expected = []
    for group in groups:
        means = [known(words).mean(0) for words in group if len(known(words))]
        apart = pairwise.cosine_distances(np.stack(means))
        expected.append(apart[np.triu_indices(len(means), 1)].mean())
    assert embedding_diversity(groups, VECTORS) == pytest.approx(np.mean(expected), abs=1e-6)


def test_distinct_agrees_with_counts_of_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.feature_extraction.text import CountVectorizer

    responses = texts(rng, 50)
    for order in (1, 2):
        counter = CountVectorizer(analyzer="word", token_pattern=r"\S+", ngram_range=(order, order))
        counts = counter.fit_transform([" ".join(words) for words in responses])
        assert distinct(responses, order) == pytest.approx(counts.shape[1] / counts.sum())


def test_entropy_agrees_with_scipy(rng: np.random.Generator) -> None:
    from scipy.stats import entropy as scipy_entropy

    found = texts(rng, 50)
    counts = np.unique([word for words in found for word in words], return_counts=True)[1]
    assert entropy(found) == pytest.approx(scipy_entropy(counts), rel=1e-12)


def test_the_importance_weighted_bound_agrees_with_logsumexp_of_scipy(rng: np.random.Generator) -> None:
    from scipy.special import logsumexp

    turns = rng.normal(-200.0, 30.0, (6, 40, 4))  # together far below what exp can hold
    conversation = np.repeat(rng.normal(-3.0, 1.0, (6, 8)), 5, axis=1)
    for utterance_draws, samples in ((1, 25), (5, 25), (5, 40)):
        outer = samples // utterance_draws
        grouped = turns[:, :samples].reshape(6, outer, utterance_draws, 4)
        given = logsumexp(grouped, axis=2) - math.log(utterance_draws)
        expected = math.log(outer) - logsumexp(
            conversation[:, :samples:utterance_draws] + given.sum(2), axis=1
        )
        found = importance_weighted_nll(LogWeights(conversation, turns, utterance_draws), samples)
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_probe_is_the_pipeline_of_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = [str(label) for label in rng.integers(0, 3, 400)]
    points = rng.normal(size=(400, 5)) * [1, 10, 100, 0.1, 1] + np.array([[int(k)] for k in labels])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    pipeline.fit(points[:200], labels[:200])
    found = probe(points[:200], labels[:200], points[200:], labels[200:])
    assert found is not None
    assert found.accuracy == accuracy_score(labels[200:], pipeline.predict(points[200:]))
    guess = DummyClassifier(strategy="most_frequent").fit(points[200:], labels[200:])
    assert found.chance == guess.score(points[200:], labels[200:])
    assert found.num_test == 200


def test_intervals_agree_with_the_bootstrap_of_scipy(rng: np.random.Generator) -> None:
    from scipy.stats import bootstrap

    words = rng.integers(5, 60, 150).astype(np.float64)
    hardness = rng.normal(3, 0.5, 150)
    a, b = (words * (hardness + rng.normal(shift, 0.1, 150)) for shift in (0.0, 0.03))

    def ratio(nats: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(nats.sum(axis) / counts.sum(axis))

    def difference(nats: np.ndarray, others: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return ratio(nats, counts, axis) - ratio(others, counts, axis)

    options = {"paired": True, "method": "percentile", "n_resamples": 4000, "rng": np.random.default_rng(0)}
    one = ratio_interval(a, words, num_samples=4000, seed=1)
    theirs = bootstrap((a, words), ratio, **options).confidence_interval
    # The ends of an interval over 4,000 resamples are known to some 3 % of its width (standard error).
    assert one.low == pytest.approx(theirs.low, abs=0.1 * (theirs.high - theirs.low))
    assert one.high == pytest.approx(theirs.high, abs=0.1 * (theirs.high - theirs.low))
    two = paired_difference(a, words, b, words, num_samples=4000, seed=1)
    theirs = bootstrap((a, b, words), difference, **options).confidence_interval
    assert two.low == pytest.approx(theirs.low, abs=0.1 * (theirs.high - theirs.low))
    assert two.high == pytest.approx(theirs.high, abs=0.1 * (theirs.high - theirs.low))
    assert two.high - two.low < 0.5 * (one.high - one.low), "pairing takes out what conversations share"


def test_deviation_over_seeds_agrees_with_numpy() -> None:
    values = [3.1, 3.4, 3.2]
    found = mean_and_deviation(values)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert math.isclose(found.num_seeds, 3)
