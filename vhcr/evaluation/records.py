"""What an evaluation is: the record behind metrics.json, and the protocol that its numbers are of.

``Evaluation`` is written as metrics.json and read back from it. ``METRIC_VERSION`` rises whenever a number
changes its meaning; docs/metrics.md says what changed. Likelihoods are in nats, and per word where the name
says so. A number that a model has none of (a KL of z_conv in VHRED) is absent from the file and None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

if TYPE_CHECKING:
    from vhcr.params import EvaluationParams, GenerationParams

METRIC_VERSION = 2

Parameters = dict[str, JsonValue]  # one section of params.yaml as it was when a run was made
NotNegative = Annotated[float, Field(ge=-1e-3)]  # rounding leaves a KL of nought a little below it
ByPlace = tuple[float | None, ...]  # one number a turn, or a word position; None where there is no word


class Record(BaseModel):
    """Something that is kept as JSON; a key that this program does not know is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """A number that became false was drawn as 0."""
        known = cls.model_fields.get(info.field_name or "")
        if _holds_bool(value) and known is not None and _of_numbers(known.annotation):
            raise ValueError("true or false where a number is expected")
        return value

    def as_json(self) -> Parameters:
        """What is written: the fields that were given, in the order of their declaration."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _holds_bool(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_bool, value)))


def _of_numbers(annotation: object) -> bool:
    """Whether a field takes nothing but numbers and text, however nested."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _of_numbers(inner[0])
    return all(map(_of_numbers, inner)) if inner else annotation in (int, float, str, type(None), ...)


class LengthBin(Record):
    """The bound for utterances of some lengths, EOS counted; kl_conv belongs to no utterance."""

    first: int = Field(validation_alias="from", serialization_alias="from")
    last: int = Field(validation_alias="to", serialization_alias="to")
    num_utterances: int = 0
    num_words: int = 0
    nll_per_word: float | None = None
    kl_utt_per_word: NotNegative
    perplexity: float | None


class Likelihood(Record):
    """Section 4.2, over the test split."""

    metric_version: int
    num_conversations: Annotated[int, Field(ge=1)]
    num_words: Annotated[int, Field(ge=1)]  # every word of a scored utterance, EOS and UNK counted
    nll_per_word: NotNegative
    reconstruction_per_word: NotNegative
    kl_per_word: NotNegative
    kl_conv_per_word: NotNegative
    kl_utt_per_word: NotNegative
    bound_is_exact: bool  # no latent variable: the bound is the NLL
    nll_by_turn: ByPlace = ()
    kl_utt_by_turn: ByPlace = ()
    by_utterance_length: tuple[LengthBin, ...] = ()
    reconstruction_by_word_position: ByPlace = ()
    perplexity: float | None = None  # None beyond what a float holds
    # The importance-weighted bound, by its number of samples, is of some conversations alone.
    importance_bound_num_conversations: int | None = None
    importance_bound_subset_nll_per_word: float | None = None
    importance_weighted_nll_per_word: dict[int, float] = {}
    # With evaluation.precision bfloat16: how far it moves the bound, on some conversations; else None.
    precision_error_per_word: float | None = None


class EmbeddingScore(Record):
    """Table 3: similarity to the reference, by turn and as the mean over turns; None without a kept pair."""

    average: float | None = None
    average_by_turn: ByPlace = ()
    extrema: float | None = None
    extrema_by_turn: ByPlace = ()
    greedy: float | None = None
    greedy_by_turn: ByPlace = ()
    num_pairs: int | None = None
    num_dropped: int | None = None  # pairs that some metric leaves out


class TextScore(Record):
    """Properties of responses beyond the paper; see ``text_metrics``."""

    bleu: float | None = None  # points of 0 to 100
    distinct_1: float | None = None
    distinct_2: float | None = None
    entropy: float | None = None  # nats
    length_ratio: float | None = None
    repetition: float | None = None


class BothDefinitions(EmbeddingScore):
    """Table 3 by the definition of the paper's program, and by the other one in use."""

    serban: EmbeddingScore | None = None


class Responses(TextScore, BothDefinitions):
    """All scores of responses of one length."""


class SampledResponses(Record):
    """How much several responses to one context differ."""

    embedding_diversity: float | None = None
    distinct_responses: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None


class Diversity(Record):
    """The same by decoding: as in Table 3, and with every word sampled."""

    num_contexts: int
    num_samples: int
    greedy: SampledResponses | None = None
    beam: SampledResponses | None = None
    sample: SampledResponses | None = None


class Information(Record):
    """I(x; z) in nats, biased low: it cannot exceed the log of the number of posteriors."""

    estimate: float | None
    standard_error: float | None = None
    num_posteriors: int | None = None


class BySource(Record):
    """Reconstruction error in nats per word by where z comes from; of one level alone where it says so."""

    posterior: float
    prior: float
    prior_conv: float | None = None
    prior_utt: float | None = None
    shuffled: float | None
    shuffled_conv: float | None = None
    shuffled_utt: float | None = None


class PositionsBySource(Record):
    """Reconstruction error of a word in nats, by its position in the utterance."""

    posterior: ByPlace
    prior: ByPlace


class Probe(Record):
    """Accuracy of linear probes that read one label, by what they read it from."""

    chance: float
    num_test: int = 0
    h_cxt: float | None = None
    z_conv: float | None = None
    z_conv_drawn: float | None = None
    z_utt: float | None = None
    z_utt_drawn: float | None = None


class Diagnostics(Record):
    """Is z used, and for what? Section 3.4 and what goes beyond it."""

    prior_variance_ratio: float | None = None
    active_units_utt: int | None = None
    kl_utt_per_dimension: tuple[float, ...] = ()
    mutual_information_utt: Information | None = None
    reconstruction_per_word_by_source: BySource | None = None
    reconstruction_by_word_position_by_source: PositionsBySource | None = None
    active_units_conv: int | None = None
    kl_conv_per_dimension: tuple[float, ...] = ()
    mutual_information_conv: Information | None = None
    probe: dict[str, Probe] = {}


class Evaluation(Likelihood):
    """Every number that an evaluation gives."""

    responses: dict[int, Responses] = {}  # by the number of turns
    diversity: Diversity | None = None
    diagnostics: Diagnostics = Diagnostics()


class Protocol(Record):
    """What the numbers are of, in one place; docs/metrics.md says it at length."""

    metric_version: int = METRIC_VERSION
    split: Literal["test"] = "test"
    words: str = ""
    unit: str = ""
    bound: str = ""
    context: str = ""
    references: str = ""
    feedback: str = ""
    importance_weighting: str = ""
    diagnostics: str = ""
    evaluation: Parameters = {}
    generation: Parameters = {}

    @classmethod
    def of(cls, evaluation: EvaluationParams, generation: GenerationParams) -> Self:
        """The protocol that these parameters make."""
        return cls(
            metric_version=METRIC_VERSION,
            split="test",
            words="every target word of a scored utterance, EOS and UNK counted",
            unit="nats per word",
            bound="one sample per latent, analytic KL",
            context=f"the first {evaluation.context_turns} turns",
            references="the turns that follow, as token ids decoded; shorter conversations are left out",
            feedback="generated turns are fed back",
            importance_weighting=(
                f"{evaluation.importance_samples} posterior samples a conversation, on at most "
                f"{evaluation.importance_conversations} test conversations drawn at random by the seed"
            ),
            diagnostics=(
                f"the first {evaluation.importance_conversations} test conversations (all where the corpus "
                "has labels), scored utterances only"
            ),
            evaluation=evaluation.model_dump(mode="json"),
            generation=generation.model_dump(mode="json"),
        )
