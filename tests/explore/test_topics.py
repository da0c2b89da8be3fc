"""Topics: clusters that are the same each time, and words that set them apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vhcr.errors import ParameterError
from vhcr.explore.topics import cluster, distinctive_words, topics


def islands() -> tuple[np.ndarray, np.ndarray]:
    sizes = [30, 50, 20]
    kinds = np.repeat([0, 1, 2], sizes)
    noise = np.random.Generator(np.random.Philox(key=1)).standard_normal((100, 4)) * 0.3
    return noise + 5.0 * np.eye(4)[kinds], kinds


def test_islands_are_found_with_their_number_and_named_by_size() -> None:
    z, kinds = islands()
    of, centres = cluster(z)
    assert len(centres) == 3
    assert of.tolist() == np.array([1, 0, 2])[kinds].tolist()
    np.testing.assert_allclose(centres[0], z[kinds == 1].mean(0))
    again, _ = cluster(z)
    np.testing.assert_array_equal(of, again)
    assert len(cluster(z, 5)[1]) == 5


def test_points_that_are_all_the_same_are_one_topic() -> None:
    """z_conv that has collapsed is one and the same for all."""
    of, centres = cluster(np.zeros((7, 3)))
    assert (of == 0).all()
    assert len(centres) == 1
    with pytest.raises(ParameterError, match="2 topics were asked for; there are 1 different points"):
        cluster(np.zeros((7, 3)), 2)


def test_words_of_a_topic_by_hand() -> None:
    """Group 0: paper 3, the 3; group 1: wine 2, the 4. A = 6; f(the) = 7, f(paper) = 3, f(wine) = 2.

    paper: 3 log(1 + 6/3) = 3.30, the: 3 log(1 + 6/7) = 1.86; wine: 2 log(1 + 6/2) = 2.77,
    the: 4 log(1 + 6/7) = 2.48.
    """
    groups = [Counter(paper=3, the=3), Counter(wine=2, the=4)]
    assert distinctive_words(groups) == [["paper", "the"], ["wine", "the"]]
    assert distinctive_words(groups, 1) == [["paper"], ["wine"]]


def test_a_topic_says_its_words_and_its_most_typical_conversations() -> None:
    z = np.array([[0.0], [0.2], [5.0], [5.1], [5.3]])
    of, centres = cluster(z, 2)
    found = topics(z, of, centres, [["hi", "!"], ["hi"], ["ink"], ["ink", "ink"], ["ink", "."]])
    assert [(topic.number, topic.size, topic.words) for topic in found] == [(0, 3, ("ink",)), (1, 2, ("hi",))]
    assert found[0].typical == (3, 2, 4)
    assert found[0].name == "0: ink"
