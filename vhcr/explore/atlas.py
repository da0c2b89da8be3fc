"""All that the map, the exported files and the page show of one run on its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.explore.corpus import Corpus
from vhcr.explore.points import Points, Projection, measure, neighbours, project
from vhcr.explore.topics import Topic, cluster, topics
from vhcr.training.run import TrainedRun

Level = Literal["conversation", "utterance"]
LATENT = {"conversation": "z_conv", "utterance": "z_utt"}

NUM_NEIGHBOURS = 10


@dataclass(frozen=True)
class Atlas:
    """A run, its conversations, and where they lie in its latent space."""

    run: TrainedRun
    corpus: Corpus
    points: dict[Level, Points]  # of the levels that the model has
    topic: Ints | None  # [conversations]; None without z_conv
    topics: tuple[Topic, ...]

    @classmethod
    def of(cls, run: TrainedRun, corpus: Corpus, num_topics: int = 0) -> Atlas:
        """Infer the latents of every conversation, and cluster them into topics (0: as many as fit best).

        Raises:
            ParameterError: the model has no latent variable at all, or more topics are asked for than there
                are different points.
        """
        if not run.model.z_utt_size:
            raise ParameterError(
                f"{run.params.system.architecture!r} has no latent variable, so there is nothing to map; "
                "vhcr chat talks with it"
            )
        conversations, utterances = measure(run.model, corpus.data)
        points: dict[Level, Points] = {}
        of_point: Ints | None = None
        found: tuple[Topic, ...] = ()
        if conversations is not None:
            points["conversation"] = conversations
            of_point, centres = cluster(conversations.z, num_topics)
            words = [[word for said in spoken for word in said] for spoken in corpus.words]
            found = topics(conversations.z, of_point, centres, words)
        if utterances is not None:
            points["utterance"] = utterances
        return cls(run, corpus, points, of_point, found)

    def level(self, level: Level) -> Points:
        """The points of ``level``.

        Raises:
            ParameterError: the model has no such latent.
        """
        if level not in self.points:
            raise ParameterError(
                f"{self.run.params.system.architecture!r} has no {LATENT[level]}: it maps "
                f"{' and '.join(f'{name}s' for name in self.points)} only"
            )
        return self.points[level]

    def text(self, level: Level, place: int) -> str:
        """What a point's text is: all turns of a conversation, a line each, or one utterance."""
        points = self.points[level]
        said = self.corpus.texts[int(points.conversation[place])]
        return "\n".join(said) if level == "conversation" else said[int(points.turn[place])]

    def columns(self, level: Level) -> dict[str, list[Any]]:
        """What is known of each point beside its place; numbers in nats.

        Labels are called ``label_<name>``; an utterance has those of its conversation too.
        """
        points, corpus = self.level(level), self.corpus
        of = points.conversation.tolist()
        columns: dict[str, list[Any]] = {"split": [corpus.split_of[number] for number in of]}
        for name, values in corpus.labels.items():
            columns[f"label_{name}"] = [values[number] for number in of]
        if level == "utterance":
            turns = points.turn.tolist()
            for name, known in corpus.turn_labels.items():
                columns[f"label_{name}"] = [known.get(key) for key in zip(of, turns, strict=True)]
            columns["turn"] = turns
        else:
            columns["turns"] = [len(corpus.texts[number]) for number in of]
        if self.topic is not None:
            columns["topic"] = [int(self.topic[number]) for number in of]
        columns["words"] = points.num_words.astype(int).tolist()
        columns["kl"] = points.kl.tolist()
        columns["nll_per_word"] = ((points.reconstruction_error + points.kl) / points.num_words).tolist()
        return columns

    def table(self, level: Level = "conversation", projection: Projection = "pca") -> pa.Table:
        """One row for each point: id, text, columns, x and y, the latent, and its nearest neighbours.

        ``neighbours`` are {ids: rows of this table, distances}, as Embedding Atlas reads them.

        Raises:
            ParameterError: the model has no such latent.
        """
        points = self.level(level)
        plane = project(points.z, projection)
        near, distances = neighbours(points.z, NUM_NEIGHBOURS)
        columns = self.columns(level)
        if self.topic is not None:
            columns["topic_words"] = [" ".join(self.topics[number].words) for number in columns["topic"]]
        arrays: dict[str, Any] = {
            "id": [self.corpus.ids[number] for number in points.conversation.tolist()],
            "text": [self.text(level, place) for place in range(len(points.z))],
            **columns,
            "x": pa.array(plane[:, 0], pa.float32()),
            "y": pa.array(plane[:, 1], pa.float32()),
            LATENT[level]: pa.array(points.z.tolist(), pa.list_(pa.float32())),
            "neighbours": pa.array(
                [
                    {"ids": ids, "distances": far}
                    for ids, far in zip(near.tolist(), distances.tolist(), strict=True)
                ],
                pa.struct({"ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float32())}),
            ),
        }
        return pa.table(arrays)
