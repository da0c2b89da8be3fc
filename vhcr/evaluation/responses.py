"""Section 4.3: what a model says in test contexts, how that scores, and Tables 6 and 7.

Noise is keyed by the number of the conversation in its split, so the response to a context is the same
whatever else is asked beside it.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np

from vhcr.evaluation.embedding_metrics import embedding_diversity, embedding_scores, n_turn_summary
from vhcr.evaluation.records import Diversity, Responses, SampledResponses
from vhcr.evaluation.text_metrics import distinct, distinct_responses, text_metrics
from vhcr.generation import control
from vhcr.generation.respond import Continuation, Responder
from vhcr.models import ConversationModel, Noise
from vhcr.params import EvaluationParams, GenerationParams
from vhcr.token_files import Conversations
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.word_vectors import WordVectors


class ResponseRow(NamedTuple):
    """A row of responses.parquet: one generated turn beside what was said; words are joined by spaces."""

    conversation_id: str
    num_response_turns: int
    turn: int
    context: list[str]
    reference: str
    response: str
    average: float  # by the definition of the paper's program; NaN where the pair is dropped
    extrema: float
    greedy: float


class ControlRow(NamedTuple):
    """A row of control.parquet: one turn of a conversation from a chosen z_conv."""

    table: str  # "interpolation" (Table 6) or "fixed" (Table 7)
    path: str | None  # "linear" or "spherical"; None for Table 7
    example: int  # number of the pair, or of the fixed z_conv
    position: float | None  # 0 to 1 on the path; None for Table 7
    sample: int
    turn: int
    opening: str | None  # the first utterance where it is given
    text: str


def _responder(model: ConversationModel, generation: GenerationParams, seed: int) -> Responder:
    return Responder(model, generation, Noise(seed), want_log_probs=False)


def respond(
    model: ConversationModel,
    vocabulary: Vocabulary,
    test: Conversations,
    vectors: WordVectors,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> tuple[dict[int, Responses], list[ResponseRow]]:
    """Responses to every test context that goes on long enough, and their scores (Table 3)."""
    responder = _responder(model, generation, evaluation.seed)
    rows: list[ResponseRow] = []
    records: dict[int, Responses] = {}
    for length in evaluation.response_turns:
        chosen = np.flatnonzero(test.num_turns >= evaluation.context_turns + length).tolist()
        if not chosen:
            records[length] = Responses(num_pairs=0, num_dropped=0)
            continue
        contexts = [test.utterances(index)[: evaluation.context_turns] for index in chosen]
        spoken = responder.respond(contexts, length, index=chosen).token_ids
        places: list[tuple[str, int, list[str]]] = []
        references, responses = [], []
        for index, generated in zip(chosen, spoken, strict=True):
            real = [vocabulary.decode(ids) for ids in test.utterances(index)]
            context = [" ".join(words) for words in real[: evaluation.context_turns]]
            for turn, ids in enumerate(generated):
                places.append((test.ids[index], turn, context))
                references.append(real[evaluation.context_turns + turn])
                responses.append(vocabulary.decode(ids))
        scores = embedding_scores(references, responses, vectors, "release")
        serban = embedding_scores(references, responses, vectors, "serban")
        turns = [turn for _, turn, _ in places]
        records[length] = Responses.model_validate(
            {
                **n_turn_summary(scores, turns).as_json(),
                "serban": n_turn_summary(serban, turns),
                **text_metrics(references, responses).as_json(),
            }
        )
        rows += [
            ResponseRow(
                name, length, turn, context, " ".join(reference), " ".join(response), *map(float, score)
            )
            for (name, turn, context), reference, response, score in zip(
                places, references, responses, zip(*scores, strict=True), strict=True
            )
        ]
    return records, rows


def diversity(
    model: ConversationModel,
    vocabulary: Vocabulary,
    test: Conversations,
    vectors: WordVectors,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> Diversity:
    """How much several responses to one context differ, by decoding.

    Once as responses are decoded in Table 3, where all that differs comes from the latents unless words are
    sampled there, and once with every word sampled. The first sample is the response of Table 3.
    """
    wanted = evaluation.diversity
    fit = np.flatnonzero(test.num_turns > evaluation.context_turns)
    drawn = np.random.Generator(np.random.Philox(key=evaluation.seed)).permutation(fit)
    chosen = np.sort(drawn[: wanted.num_contexts]).tolist()
    contexts = [test.utterances(index)[: evaluation.context_turns] for index in chosen]
    sampling = {"strategy": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    ways = {generation.strategy: generation} if chosen else {}
    if chosen:
        ways.setdefault("sample", generation.model_copy(update=sampling))
    found: dict[str, object] = {"num_contexts": len(chosen), "num_samples": wanted.num_samples}
    for name, params in ways.items():
        responder = _responder(model, params, evaluation.seed)
        said = responder.respond(contexts, 1, index=chosen, samples=wanted.num_samples).token_ids
        words = [vocabulary.decode(turns[0]) for turns in said]
        groups = [
            words[first : first + wanted.num_samples] for first in range(0, len(words), wanted.num_samples)
        ]
        found[name] = SampledResponses(
            embedding_diversity=embedding_diversity(groups, vectors),
            distinct_responses=distinct_responses(groups),
            distinct_1=distinct(words, 1),
            distinct_2=distinct(words, 2),
        )
    return Diversity.model_validate(found)


def controlled(
    model: ConversationModel,
    vocabulary: Vocabulary,
    test: Conversations,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> list[ControlRow]:
    """Tables 6 and 7: conversations along paths between two z_conv, and several from one z_conv.

    Empty for a model without z_conv. One that never says the first utterance (reading ``release``) is given
    that of a test conversation drawn by the seed.
    """
    if model.z_conv_size == 0:
        return []
    rows: list[ControlRow] = []
    wanted = evaluation.control
    responder = _responder(model, generation, evaluation.seed)
    opening: list[int] | None = None
    if not model.reading.scores_first_utterance:
        drawn = np.random.Generator(np.random.Philox(key=evaluation.seed)).integers(len(test))
        opening = test.utterances(int(drawn))[0].tolist()
    given = None if opening is None else " ".join(vocabulary.decode(opening))

    def keep(
        table: str, path: str | None, example: int, places: list[float | None], made: Continuation
    ) -> None:
        samples = len(made.token_ids) // len(places)
        for number, turns in enumerate(made.token_ids):
            for turn, ids in enumerate(turns):
                text = " ".join(vocabulary.decode(ids))
                place, sample = places[number // samples], number % samples
                rows.append(ControlRow(table, path, example, place, sample, turn, given, text))

    ends = control.prior_z_conv(responder, 2 * wanted.num_pairs)
    places: list[float | None] = [i / (wanted.num_points - 1) for i in range(wanted.num_points)]
    for example in range(wanted.num_pairs):
        for path in get_args(control.Way):
            z_conv = control.interpolate(ends[2 * example], ends[2 * example + 1], wanted.num_points, path)
            made = control.from_z_conv(responder, z_conv, wanted.num_turns, same_noise=True, opening=opening)
            keep("interpolation", path, example, places, made)
    fixed = control.prior_z_conv(responder, wanted.num_fixed, first=len(ends))
    for example in range(wanted.num_fixed):
        made = control.from_z_conv(
            responder,
            fixed[example : example + 1],
            wanted.num_turns,
            samples=wanted.num_samples,
            opening=opening,
        )
        keep("fixed", None, example, [None], made)
    return rows
