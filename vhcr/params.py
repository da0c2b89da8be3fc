"""params.yaml as one frozen schema, and what reads it.

The file has four parts. ``active`` lists what runs. ``defaults`` holds every dial once. ``corpora``
and ``systems`` hold, per name, only what differs from the defaults. What a stage sees is the merge of
the two, checked after merging: an unknown, missing or ill-typed key stops the run by its full name.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vhcr.errors import ParameterError
from vhcr.files import values_digest

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def _no_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("not a number")
    return value


# Bounds far beyond all that makes sense, so that what is refused is a slip, not a wish.
Positive = Annotated[int, Field(ge=1, le=10**9)]
NonNegative = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(ge=1, le=2**15)]  # dimensions
Layers = Annotated[int, Field(ge=1, le=64)]
Threads = Annotated[int, Field(ge=0, le=1024)]  # a million of them ended in a segmentation fault
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what torch takes as an integer
NAME = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]
# Infinite where that means something: no limit. JSON has no word for it but the text "inf".
Limit = Annotated[
    float,
    Field(gt=0.0, allow_inf_nan=True),
    pydantic.AfterValidator(_no_nan),
    pydantic.PlainSerializer(lambda value: "inf" if value == math.inf else value, when_used="json"),
]

T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """One section: frozen, and closed to keys it does not know; numbers are finite unless a key says more."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """``learning_rate: true`` was 1.0."""
        known = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and known is not None and known.annotation in (int, float):
            raise ValueError("true or false where a number is expected")
        return value


class ToyParams(Section):
    """The embedded corpus."""

    num_conversations: Positive = Field(description="How many conversations to generate.")
    seed: Seed = Field(description="Seed of the generator.")


class TableColumns(Section):
    """Which columns of a table hold what; all but the text may be absent (null)."""

    conversation: str | None = Field(description="Id; null: each file is one conversation.")
    turn: str | None = Field(description="An integer that orders rows; null: by time, else as they stand.")
    time: str | None = Field(description="When it was said; orders rows where turn is null.")
    text: str = Field(description="What was said: text, or a list of all turns.")
    speaker: str | None
    split: str | None
    group: str | None
    labels: tuple[str, ...] = Field(description="Labels of the whole conversation.")
    utterance_labels: tuple[str, ...] = Field(description="Labels of each utterance.")


class SourceParams(Section):
    """Where a raw corpus comes from, and how it is read."""

    reader: Literal[
        "auto", "toy", "cornell", "ubuntu", "jsonl", "table", "convokit", "eou", "parlai",
        "whatsapp", "telegram", "slack", "discord",
    ] = Field(description="Format of the raw corpus; auto looks at the files.")  # fmt: skip
    path: str | None = Field(description="A local file, folder or archive to use instead of downloading.")
    urls: tuple[str, ...] = Field(description="Addresses of the archive, tried in this order.")
    sha256: str | None = Field(description="Digest of the archive; recorded rather than checked when null.")
    extra_urls: tuple[str, ...] = Field(
        description="Further files fetched beside it (Ubuntu: published lists)."
    )
    columns: TableColumns
    encoding: str | None = Field(description="Of text files, such as cp1252; null: found by a look at them.")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        description="Between the cells of a CSV file; null: found by a look at it."
    )
    quotechar: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        description="Around cells of a CSV file; null: none, a quotation mark is text."
    )
    date_order: Literal["dmy", "mdy", "ymd"] | None = Field(
        description="Of dates such as 3/4/21; null: found by a look at all of them."
    )
    session_gap_minutes: Annotated[float, Field(gt=0.0)] | None = Field(
        description="A longer silence begins another conversation, where times are there; null: none does."
    )
    toy: ToyParams


class TokenisationParams(Section):
    """Raw conversations -> token ids."""

    max_words: Annotated[int, Field(ge=2, le=10**5)] = Field(
        description="Longest utterance in words, EOS included."
    )
    max_turns: Positive = Field(description="Longest conversation in turns.")
    long_conversations: Literal["cut", "windows"] = Field(
        description="Turns beyond max_turns are cut, or become conversations of their own."
    )
    min_turns: Positive = Field(description="Shorter conversations are left out (counted after merging).")
    vocabulary_size: Annotated[int, Field(ge=5, le=10**7)] = Field(
        description="Words kept, the 4 specials included."
    )
    min_count: Positive = Field(description="Rarer words of the training split become UNK.")
    merge_speaker_turns: bool = Field(description="Join consecutive lines of one speaker into one utterance.")
    split_by: Literal["auto", "conversation", "group", "published", "hash"] = Field(
        description="Draw the split by conversation, by group (movie), or take the corpus's own; hash: each "
        "conversation by its id alone, so that a corpus may grow; auto: its own where it has one, else by "
        "conversation."
    )
    validation_fraction: Probability
    test_fraction: Probability
    split_seed: Seed
    deduplicate: bool = Field(
        description="Leave conversations of validation and test out of training where they stand there too."
    )
    strip_html: bool = Field(description="Take tags of HTML out, and read &amp; and the like as characters.")
    symbols: bool = Field(
        description="Emoji, emoticons, clock times and punctuation of all scripts are words, too."
    )
    segmenter: Literal["auto", "none", "characters", "chinese", "japanese", "thai"] = Field(
        description="Words of languages without spaces; auto: by a look at the text."
    )
    # It changes no result, so it is in no record of one.
    engine: Literal["processes", "ray"] = Field(
        default="processes",
        exclude=True,
        description="Who works on the shards: all cores of this machine, or a Ray cluster.",
    )


class ValidationParams(Section):
    """What must hold of tokenised data before anything is trained on it."""

    max_unknown_fraction: Probability = Field(description="Largest share of UNK among the words of a split.")
    max_skipped_fraction: Probability = Field(
        description="Largest share of raw records skipped as malformed."
    )
    min_conversations: Positive = Field(description="Fewest conversations in any split.")
    num_lines: Positive | None = Field(description="Published number of raw lines, if known.")
    num_conversations: Positive | None = Field(description="Published number of raw conversations, if known.")
    num_groups: Positive | None = Field(description="Published number of groups (movies), if known.")


class EmbeddingParams(Section):
    """Word vectors for the embedding metrics (not for the models)."""

    source: Literal["corpus", "file"] = Field(
        description="Train word2vec on the training split, or read a file."
    )
    path: str | None = Field(
        description="Vectors for source: file: word2vec binary or text, .vec, GloVe; plain or .gz."
    )
    min_coverage: Probability = Field(
        description="Least share of the test split's words that the vectors of a file must cover."
    )
    vector_size: Size
    window: Positive
    min_count: Positive
    epochs: Positive
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy's generator takes, which gensim uses


class ModelParams(Section):
    """Sizes of the networks; units are dimensions and layers."""

    embedding_size: Size = Field(description="Word vectors.")
    encoder_size: Size = Field(description="f_enc, per direction.")
    context_size: Size = Field(description="f_cxt.")
    decoder_size: Size = Field(description="f_dec.")
    conversation_encoder_size: Size = Field(description="f_conv, per direction.")
    z_utt_size: Size = Field(description="Latent of an utterance.")
    z_conv_size: Size = Field(description="Latent of a conversation.")
    encoder_layers: Layers = Field(description="Layers of f_enc.")
    context_layers: Layers = Field(description="Layers of f_cxt.")
    decoder_layers: Layers = Field(description="Layers of f_dec.")
    conversation_encoder_layers: Layers = Field(description="Layers of f_conv.")
    initialisation: Literal["release", "informative"] = Field(
        description="Weights as in the authors' program, or so that z says something at once."
    )


class SystemParams(Section):
    """What tells the systems of the paper apart."""

    architecture: Literal["hred", "vhred", "vhcr", "transformer", "kneser-ney"] = Field(
        description="No latents, z_utt, or both; or a model from outside of the family to compare with."
    )
    reading: Literal["paper", "release"] = Field(description="The paper's text, or the authors' program.")
    word_drop: Probability = Field(description="Decoder input words replaced by UNK (section 3.3).")
    utterance_drop: Probability = Field(description="Utterance vectors replaced by h_unk (section 3.5).")
    bag_of_words_weight: Annotated[float, Field(ge=0.0)] = Field(
        description="Weight of the bag-of-words loss beside the bound; 0 leaves it out."
    )
    decoder_sees_context: bool = Field(description="False: the decoder sees latents alone (Eq. 13).")
    decoder_conditioning: Literal["initial_state", "every_step"] = Field(
        description="Context and latents set the decoder's first state, or reach every word's output, too."
    )
    free_bits_utt: Annotated[float, Field(ge=0.0)] = Field(
        description="KL of z_utt that costs nothing, in nats an utterance (Kingma et al., 2016)."
    )
    free_bits_conv: Annotated[float, Field(ge=0.0)] = Field(
        description="KL of z_conv that costs nothing, in nats a conversation."
    )
    free_bits_conv_per_word: Annotated[float, Field(ge=0.0)] = Field(
        description="The same by the length of a conversation, in nats a word of it; added to the former."
    )
    kl_cycles: Positive = Field(
        description="Times the KL weight rises while it is annealed (Fu et al., 2019); 1 is Eq. 12."
    )
    final_kl_weight: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="KL weight that annealing ends at; 1 is Eq. 12."
    )
    posterior_batch_norm: Annotated[float, Field(ge=0.0)] = Field(
        description="Scale of batch-normalised posterior means (Zhu et al., 2020); 0 leaves them alone."
    )
    inference_first_steps: NonNegative = Field(
        description="First steps, of which most train the posteriors alone (He et al., 2019); 0: none."
    )


class TrainingParams(Section):
    """Optimisation and its schedule."""

    num_epochs: Positive = Field(description="Passes over the training split.")
    max_steps: Positive | None = Field(description="Stop after this many steps, whatever the epoch.")
    epoch_order: Literal["shuffled", "computed"] = Field(
        description="Of conversations: shuffled in memory, 8 bytes each; or computed batch by batch, in none."
    )
    batch_conversations: Positive = Field(description="Conversations per step.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(description="Of Adam.")
    final_learning_rate_factor: Probability = Field(
        description="Share of the learning rate left at the end; it falls linearly. 1: constant."
    )
    loss_reduction: Literal["mean", "sum"] = Field(
        description="Whose gradient is clipped: the loss per word, or its sum over a batch."
    )
    gradient_clip_norm: Limit = Field(description="Longer gradients are scaled down; .inf: none.")
    kl_annealing_steps: NonNegative = Field(description="Linear steps of the KL weight from 0 to 1 (Eq. 12).")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="bfloat16: mixed, parameters in float32; auto: where it is quicker here."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: a GPU where there is one.")
    num_threads: Threads = Field(description="CPU threads; 0 takes all cores.")
    checkpoint_seconds: Annotated[float, Field(gt=0.0)] = Field(
        description="Longest time between checkpoints."
    )
    record_every_steps: Positive = Field(description="Training curves have a point for every so many steps.")
    validate_every_steps: Positive | None = Field(description="Validate within epochs too, this often.")
    patience_epochs: Positive | None = Field(description="Stop after so many epochs without a better bound.")


class DiversityParams(Section):
    """Several responses to one context: how different are they?"""

    num_contexts: Positive = Field(description="Test contexts, drawn at random.")
    num_samples: Annotated[int, Field(ge=2)] = Field(description="Responses to each.")


class ControlParams(Section):
    """Tables 6 and 7: whole conversations from chosen z_conv."""

    num_pairs: Positive = Field(description="Pairs of z_conv to interpolate between (Table 6).")
    num_points: Annotated[int, Field(ge=2)] = Field(description="Points on the way, both ends included.")
    num_fixed: Positive = Field(description="z_conv that are held fixed (Table 7).")
    num_samples: Positive = Field(description="Conversations from each of those, with z_utt drawn anew.")
    num_turns: Positive = Field(description="Turns of each conversation.")


class EvaluationParams(Section):
    """Section 4: bounds and embedding metrics."""

    batch_conversations: Positive = Field(description="Conversations scored at once.")
    seed: Seed = Field(description="Seed of the draws that the metrics need.")
    precision: Literal["float32", "bfloat16"] = Field(
        description="Of the products behind bounds; what bfloat16 changes is measured and recorded."
    )
    importance_samples: Positive = Field(description="Draws K of the importance-weighted bound.")
    importance_conversations: Positive = Field(description="Test conversations that bound is computed on.")
    context_turns: Positive = Field(description="Turns given before the model responds.")
    response_turns: tuple[Positive, ...] = Field(
        description="Lengths of generated continuations (Table 3: 1, 3)."
    )
    bootstrap_samples: Positive = Field(description="Resamples behind each confidence interval.")
    num_samples_shown: Positive = Field(description="Conversations kept as examples for the report.")
    diversity: DiversityParams
    control: ControlParams


class GenerationParams(Section):
    """How responses are decoded."""

    strategy: Literal["greedy", "sample", "beam"] = Field(description="How the next word is chosen.")
    max_words: Annotated[int, Field(ge=2, le=10**5)] = Field(
        description="Longest generated utterance, EOS included."
    )
    unknown_words: Literal["allow", "never"] = Field(description="Whether <unk> may be said.")
    beam_size: Positive = Field(description="Hypotheses kept; 1 is greedy.")
    length_penalty: Annotated[float, Field(ge=0.0)] = Field(description="Score = log p / words ** penalty.")
    temperature: Annotated[float, Field(gt=0.0)] = Field(description="Of sampling; below 1 is safer.")
    top_k: NonNegative = Field(description="Sample among the k likeliest words; 0 means all.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="Nucleus sampling mass.")
    z_conv_from: Literal["posterior", "prior"] = Field(description="q(z_conv | context), or N(0, I).")


class CorpusParams(Section):
    """All that one corpus needs, merged over the defaults."""

    source: SourceParams
    tokenisation: TokenisationParams
    validation: ValidationParams
    embeddings: EmbeddingParams
    model: ModelParams
    system: SystemParams = Field(description="What systems are on this corpus where they do not say.")
    training: TrainingParams
    evaluation: EvaluationParams
    generation: GenerationParams


class ActiveParams(Section):
    """What `dvc repro` runs: every combination of the three lists."""

    corpora: Annotated[tuple[Name, ...], Field(min_length=1)]
    systems: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


CORPUS_SECTIONS = tuple(CorpusParams.model_fields)
# What leaves everything as it was before a setting existed: records of older runs lack it.
AT_REST: dict[str, dict[str, Any]] = {
    "model": {"initialisation": "release"},
    "system": {
        "decoder_conditioning": "initial_state",
        "free_bits_conv_per_word": 0.0,
        "kl_cycles": 1,
        "final_kl_weight": 1.0,
    },
    "training": {
        "epoch_order": "shuffled",
        "final_learning_rate_factor": 1.0,
        "loss_reduction": "mean",
    },
    "evaluation": {"precision": "float32"},
    "generation": {"unknown_words": "allow"},
}
TOP_LEVEL = ("active", "defaults", "corpora", "systems")


def _merge(base: Any, override: Any) -> Any:
    """``override`` laid over ``base``: mappings merge key by key, all else is replaced."""
    if isinstance(base, Mapping) and isinstance(override, Mapping):
        return {**base, **{key: _merge(base[key], v) if key in base else v for key, v in override.items()}}
    return override


def _explain(
    error: pydantic.ValidationError, schema: type[BaseModel], where: str, origin: str
) -> ParameterError:
    """Each pydantic complaint as one line that names file, full key and value."""
    lines = []
    for item in error.errors():
        path = (
            ".".join((where, *(str(part) for part in item["loc"])))
            if where
            else ".".join(map(str, item["loc"]))
        )
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys_at(schema, item["loc"][:-1]), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            lines.append(f"{origin}: {path}: unknown key{hint}")
        elif item["type"] == "missing":
            lines.append(f"{origin}: {path}: missing key")
        else:
            lines.append(f"{origin}: {path} = {item['input']!r}: {item['msg']}")
    return ParameterError("\n".join(lines))


def _keys_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = schema.model_fields[str(part)].annotation if str(part) in schema.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return list(schema.model_fields)


def parse(schema: type[T], values: Any, *, where: str = "", origin: str = "params.yaml") -> T:
    """``values`` as ``schema``; raises ParameterError naming ``origin`` and every key at fault."""
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        raise _explain(error, schema, where, origin) from None


class Params:
    """The whole file. Corpora and systems are merged and checked when first asked for.

    Raises:
        ParameterError: a key is unknown, missing, or its value does not fit; an active corpus or system
            is not defined.
    """

    def __init__(self, values: Mapping[str, Any], origin: str = "params.yaml") -> None:
        self.origin = origin
        unknown = [key for key in values if key not in TOP_LEVEL]
        missing = [key for key in TOP_LEVEL if not isinstance(values.get(key), Mapping)]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), TOP_LEVEL, n=1)
            raise ParameterError(
                f"{origin}: {unknown[0]}: unknown key" + (f" (did you mean {near[0]}?)" if near else "")
            )
        if missing:
            raise ParameterError(f"{origin}: {missing[0]}: missing section")
        self._values = values
        self.active = parse(ActiveParams, values["active"], where="active", origin=origin)
        for name in self.systems:
            self.system(name)
        for part in ("corpora", "systems"):
            for name in values[part]:
                if not re.fullmatch(NAME, str(name)):
                    raise ParameterError(
                        f"{origin}: {part}.{name}: a name has lower-case letters, digits, '.', '_' and '-' "
                        "only, since folders are called so"
                    )
        for name in self.corpora:
            self.corpus(name)
        for name in self.active.corpora:
            self._defined("corpora", name)
        for name in self.active.systems:
            self._defined("systems", name)

    @classmethod
    def load(cls, path: Path | str = "params.yaml") -> Params:
        """Read and check a params file."""
        import yaml

        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ParameterError(f"{path}: cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path}: not valid YAML: {error}") from None
        if not isinstance(values, Mapping):
            raise ParameterError(f"{path}: expected a mapping at the top level")
        return cls(values, origin=str(path))

    def changed(self, values: Mapping[str, Any], origin: str | None = None) -> Params:
        """The same with ``values`` laid over the file, key by key; lists are replaced as a whole.

        Raises:
            ParameterError: the outcome does not fit the schema.
        """
        return Params(_merge(self._values, values), origin or self.origin)

    def text(self) -> str:
        """All of it as YAML: what ``load`` would read."""
        import yaml

        return yaml.safe_dump(self._values, sort_keys=False, allow_unicode=True, width=100)

    @cached_property
    def corpora(self) -> tuple[str, ...]:
        """Names of all defined corpora."""
        return tuple(self._values["corpora"])

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Names of all defined systems."""
        return tuple(self._values["systems"])

    @cached_property
    def defaults(self) -> CorpusParams:
        """What a corpus has that says nothing itself."""
        return parse(CorpusParams, self._values["defaults"], where="defaults", origin=self.origin)

    def corpus(self, name: str) -> CorpusParams:
        """The defaults with the overrides of corpus ``name`` laid over them."""
        own = self._defined("corpora", name) or {}
        if not isinstance(own, Mapping):
            raise ParameterError(f"{self.origin}: corpora.{name}: expected a mapping")
        for section in CORPUS_SECTIONS:
            if section not in own:
                raise ParameterError(
                    f"{self.origin}: corpora.{name}.{section}: missing key (write {{}} for defaults)"
                )
        merged = _merge(self._values["defaults"], own)
        return parse(CorpusParams, merged, where=f"corpora.{name}", origin=self.origin)

    def system(self, name: str, corpus: str | None = None) -> SystemParams:
        """The default system with the overrides of ``corpus``, then those of ``name`` laid over it."""
        base = self._values["defaults"].get("system", {})
        if corpus is not None:
            base = _merge(base, self._defined("corpora", corpus)["system"])
        own = self._defined("systems", name)
        return parse(SystemParams, _merge(base, own), where=f"systems.{name}", origin=self.origin)

    def _defined(self, part: str, name: str) -> Any:
        known = self._values[part]
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ParameterError(
                f"{self.origin}: {part}: {name!r} is not defined{hint}; known: {', '.join(known)}"
            )
        return known[name]


def recorded(schema: type[T], values: Any, *, where: str = "", origin: str) -> T:
    """As ``parse``, of what a run recorded: settings that came after it are at rest (``AT_REST``)."""
    at_rest = {section: rest for section, rest in AT_REST.items() if section in schema.model_fields}
    return parse(schema, _merge(at_rest, values), where=where, origin=origin)


def fingerprint(*sections: BaseModel | str | int) -> str:
    """A short, stable digest of parameter sections and plain values: equal exactly when they are."""
    parts = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return values_digest(*parts)
