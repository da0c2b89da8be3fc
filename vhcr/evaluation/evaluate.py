"""A trained model and its data -> every number and every generated text that section 4 asks for."""

from __future__ import annotations

from typing import NamedTuple

from vhcr.evaluation.latents import diagnose
from vhcr.evaluation.likelihood import PerConversation, likelihood
from vhcr.evaluation.probes import Labels
from vhcr.evaluation.records import Evaluation
from vhcr.evaluation.responses import ControlRow, ResponseRow, controlled, diversity, respond
from vhcr.models import ConversationModel
from vhcr.params import EvaluationParams, GenerationParams
from vhcr.token_files import Conversations
from vhcr.tokenisation.vocabulary import Vocabulary
from vhcr.word_vectors import WordVectors


class EvaluationData(NamedTuple):
    """What a model is evaluated on: the test split; probes are fitted on the validation split."""

    test: Conversations
    validation: Conversations
    labels: Labels  # empty where a corpus has none


class Evaluated(NamedTuple):
    """The record, and the rows that it sums up."""

    evaluation: Evaluation
    conversations: PerConversation
    responses: list[ResponseRow]
    control: list[ControlRow]


def evaluate(
    model: ConversationModel,
    vocabulary: Vocabulary,
    data: EvaluationData,
    vectors: WordVectors,
    evaluation: EvaluationParams,
    generation: GenerationParams,
) -> Evaluated:
    """Likelihood (4.2), responses and their scores (4.3), diagnostics, Tables 6 and 7.

    ``model`` is in evaluation mode. The same arguments give the same numbers, whatever the batch size.
    """
    bounds, conversations = likelihood(model, data.test, evaluation)
    scores, responses = respond(model, vocabulary, data.test, vectors, evaluation, generation)
    splits = {"validation": data.validation, "test": data.test}
    record = Evaluation.model_validate(
        {
            **{name: getattr(bounds, name) for name in bounds.model_fields_set},
            "responses": scores,
            "diversity": diversity(model, vocabulary, data.test, vectors, evaluation, generation),
            "diagnostics": diagnose(model, splits, data.labels, evaluation),
        }
    )
    control = controlled(model, vocabulary, data.test, evaluation, generation)
    return Evaluated(record, conversations, responses, control)
