"""Points: what is measured, where it lies in the plane, what is near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.explore.example import atlas
from vhcr.errors import ParameterError
from vhcr.explore.points import measure, nearest, neighbours, project
from vhcr.explore.surprise import surprise


def cloud(count: int = 60, size: int = 5) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=3)).standard_normal((count, size)) * np.arange(
        1, size + 1
    )


def test_a_point_is_the_mean_of_its_posterior_however_it_was_batched(tmp_path: Path) -> None:
    made = atlas(tmp_path)
    alone, utterances = measure(made.run.model, made.corpus.data, batch_conversations=1)
    together = made.points["conversation"]
    assert alone is not None
    assert utterances is not None
    np.testing.assert_allclose(alone.z, together.z, atol=1e-6)
    np.testing.assert_allclose(alone.reconstruction_error, together.reconstruction_error, rtol=1e-5)
    assert together.conversation.tolist() == list(range(24))
    turns = [len(said) for said in made.corpus.texts]
    assert utterances.turn.tolist() == [turn for size in turns for turn in range(size)]
    by_conversation = np.bincount(utterances.conversation, utterances.reconstruction_error)
    np.testing.assert_allclose(by_conversation, together.reconstruction_error, rtol=1e-5)


def test_the_release_never_scores_the_first_utterance_so_it_is_no_point(tmp_path: Path) -> None:
    made = atlas(tmp_path, reading="release")
    assert made.points["utterance"].turn.min() == 1


def test_pca_keeps_most_variance_and_its_signs(tmp_path: Path) -> None:
    z = cloud()
    plane = project(z)
    expected = np.linalg.svd(z - z.mean(0), full_matrices=False)[1][:2]
    np.testing.assert_allclose(np.linalg.norm(plane, axis=0), expected)
    turned = np.random.Generator(np.random.Philox(key=5)).permutation(len(z))
    np.testing.assert_allclose(project(z[turned]), plane[turned], atol=1e-9)
    assert project(z[:, :1]).shape == (60, 2)
    with pytest.raises(ParameterError, match="'umap': must be one of pca, tsne"):
        project(z, "umap")  # type: ignore[arg-type]


def test_tsne_is_the_same_each_time_and_keeps_islands_apart() -> None:
    z = cloud(40) * 0.01 + np.repeat([[0.0], [9.0]], 20, axis=0)
    first = project(z, "tsne")
    np.testing.assert_array_equal(first, project(z, "tsne"))
    places, _ = neighbours(first, 3)
    assert ((places < 20) == (np.arange(40) < 20)[:, None]).all()


def test_the_nearest_are_those_of_all_distances() -> None:
    z, to = cloud(300), cloud(17) + 0.5
    places, distances = nearest(z, to, 4)
    full = np.linalg.norm(z[None] - to[:, None], axis=2)
    np.testing.assert_array_equal(places, np.argsort(full, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(full, axis=1)[:, :4])


def test_nobody_is_their_own_neighbour_not_even_among_equals() -> None:
    """Of more equal points than neighbours, a point need not be among its own nearest."""
    z = np.concatenate([np.zeros((9, 3)), cloud(5, 3)])
    places, distances = neighbours(z, 4)
    assert places.shape == (14, 4)
    assert (places != np.arange(14)[:, None]).all()
    assert distances[:9].max() == 0.0
    assert neighbours(z[:2], 10)[0].tolist() == [[1], [0]]


def test_surprise_adds_up_to_the_reconstruction_error(tmp_path: Path) -> None:
    made = atlas(tmp_path)
    points = made.points["conversation"]
    found = surprise(made.run.model, made.corpus.utterances(3), 3)
    assert [len(words) for words in found.with_z] == [len(ids) for ids in made.corpus.utterances(3)]
    assert sum(map(sum, found.with_z)) == pytest.approx(points.reconstruction_error[3], rel=1e-5)
    torch.manual_seed(9)
    assert surprise(made.run.model, made.corpus.utterances(3), 3) == found
    assert found.without_z != found.with_z
