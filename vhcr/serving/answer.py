"""Requests -> conversations. What is asked is checked first; a refusal says what is wrong with what value."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import torch
from pydantic import Field

from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.generation.limits import MAX_LATENT, MAX_LATENT_SCALE, MAX_SEED
from vhcr.generation.respond import Continuation, Responder
from vhcr.generation.strategy import refuse_unused
from vhcr.generation.text import remarks, to_ids_all, to_text
from vhcr.models import Noise
from vhcr.params import GenerationParams
from vhcr.training.run import TrainedRun

MAX_CONTEXTS = 256  # of one request
MAX_TURNS = 100
MAX_CONTEXT_TURNS = 1000
MAX_SAMPLES = 100
MAX_WORDS = 1000
MAX_BEAM = 100
MAX_ANSWERS = 2000  # contexts x samples x turns of one request
MAX_CONTEXT_UTTERANCES = 5000  # of all contexts of one request
MAX_WORK = 500_000  # contexts x samples x turns x words x hypotheses: some seconds of a small model
MAX_COMPLAINTS = 5  # in one refusal: of a z_conv, every number can be wrong


class AnswerParams(GenerationParams):
    """How to answer: decoding, latents, and how much of it. The limits keep one request from taking all."""

    max_words: Annotated[int, Field(ge=2, le=MAX_WORDS)]
    beam_size: Annotated[int, Field(ge=1, le=MAX_BEAM)]
    num_turns: Annotated[int, Field(ge=1, le=MAX_TURNS)] = 1
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    latent_scale: Annotated[float, Field(ge=0.0, le=MAX_LATENT_SCALE, allow_inf_nan=False)] = 1.0
    z_conv: tuple[Annotated[float, Field(ge=-MAX_LATENT, le=MAX_LATENT, allow_inf_nan=False)], ...] = ()
    return_z_conv: bool = False


class Answer(pydantic.BaseModel):
    """What a model says after one context; ``turns`` and ``log_probs`` are [samples][turns]."""

    response: str  # the first turn of the first sample
    turns: list[list[str]]
    log_probs: list[list[float]]  # log p of each utterance, in nats, EOS counted
    remarks: list[str]  # on utterances of the context that hold no word of the vocabulary
    z_conv: list[list[float]] | None = None  # [samples][latent], where it was asked for


@dataclass(frozen=True)
class Answerer:
    """A trained run with the settings it answers by where a request does not say."""

    run: TrainedRun
    defaults: AnswerParams

    @classmethod
    def of(cls, run: TrainedRun, generation: GenerationParams) -> Answerer:
        """With the decoding ``generation`` where a request names none."""
        return cls(run, AnswerParams(**generation.model_dump()))

    def params(self, values: Mapping[str, Any]) -> AnswerParams:
        """The defaults with ``values`` laid over them.

        Raises:
            ParameterError: an unknown name, a value out of its bounds, or one that the strategy does not use.
        """
        try:
            params = AnswerParams(**{**self.defaults.model_dump(), **values})
        except pydantic.ValidationError as error:
            raise ParameterError("; ".join(_plain(one) for one in error.errors()[:MAX_COMPLAINTS])) from None
        changed = {name: value for name, value in params if value != getattr(self.defaults, name)}
        refuse_unused(changed, params.strategy)
        size = self.run.model.z_conv_size
        if params.z_conv and size == 0:
            raise ParameterError(
                f"z_conv: {self.run.params.system.architecture!r} has no z_conv, so none can be given to it"
            )
        if params.z_conv and len(params.z_conv) != size:
            raise ParameterError(f"z_conv has {len(params.z_conv)} numbers; this model needs {size}")
        return params

    def answer(
        self, contexts: Sequence[Any], values: Mapping[str, Any], seconds: float = math.inf
    ) -> list[Answer]:
        """An answer to each context, a list of utterances; an empty list begins a conversation.

        An answer depends on its own context, the parameters and the seed, not on its place in a request or
        on what else was asked. After ``seconds`` nobody waits for it any more, and it is given up.

        Raises:
            ParameterError: as ``params``; or a context is no list of utterances with words in them, or the
                request is too large, or the model cannot begin a conversation; or time is up.
        """
        until = time.monotonic() + seconds

        def give_up(*_: object) -> None:
            if time.monotonic() > until:
                raise ParameterError(f"not answered within {seconds:g} s; ask for less at once")

        params = self.params(values)
        if len(contexts) > MAX_CONTEXTS:
            raise ParameterError(f"{len(contexts)} contexts in one request; at most {MAX_CONTEXTS} are taken")
        size = len(contexts) * params.num_samples * params.num_turns
        if size > MAX_ANSWERS:
            raise ParameterError(
                f"{len(contexts)} contexts x {params.num_samples} samples x {params.num_turns} turns are "
                f"{size} utterances; at most {MAX_ANSWERS} are made for one request"
            )
        work = size * params.max_words * (params.beam_size if params.strategy == "beam" else 1)
        if work > MAX_WORK:
            raise ParameterError(
                f"{size} utterances x {params.max_words} words"
                + (f" x a beam of {params.beam_size}" if params.strategy == "beam" else "")
                + f" are {work} steps; at most MAX_WORK = {MAX_WORK} are taken for one request"
            )
        as_ids = self._as_ids(contexts)
        generation = GenerationParams(**params.model_dump(include=set(GenerationParams.model_fields)))
        speaker = Responder(
            self.run.model, generation, Noise(params.seed), params.latent_scale, on_words=give_up
        )
        given = torch.tensor(params.z_conv, dtype=speaker.dtype) if params.z_conv else None
        # Draws are keyed by the sample alone: every context is number 0.
        made = speaker.respond(
            as_ids,
            params.num_turns,
            index=[0] * len(as_ids),
            samples=params.num_samples,
            z_conv=None if given is None else given.expand(len(as_ids), -1),
        )
        each = [slice(i * params.num_samples, (i + 1) * params.num_samples) for i in range(len(as_ids))]
        return [
            self._said(made, here, params, remarks(context, ids))
            for here, context, ids in zip(each, contexts, as_ids, strict=True)
        ]

    def _as_ids(self, contexts: Sequence[Any]) -> list[list[Ints]]:
        """The token ids of each context's utterances; all texts are split into words at once."""
        for place, context in enumerate(contexts):
            if isinstance(context, str) or not isinstance(context, Sequence):
                raise ParameterError(
                    f'context {place}: {context!r} is no list of utterances; write ["hello", "hi there"]'
                )
            if len(context) > MAX_CONTEXT_TURNS:
                raise ParameterError(
                    f"context {place} has {len(context)} turns; at most {MAX_CONTEXT_TURNS} are taken"
                )
        texts = [text for context in contexts for text in context]
        if len(texts) > MAX_CONTEXT_UTTERANCES:
            raise ParameterError(
                f"the contexts have {len(texts)} utterances; at most MAX_CONTEXT_UTTERANCES = "
                f"{MAX_CONTEXT_UTTERANCES} are taken in one request"
            )
        names = [f"context {i}, turn {j}" for i, context in enumerate(contexts) for j in range(len(context))]
        for name, text in zip(names, texts, strict=True):
            if not isinstance(text, str):
                raise ParameterError(f"{name}: {text!r} is no text")
        spoken = iter(to_ids_all(texts, self.run.vocabulary, self.defaults.max_words, names))
        return [[next(spoken) for _ in context] for context in contexts]

    def _said(self, made: Continuation, here: slice, params: AnswerParams, remarked: list[str]) -> Answer:
        turns = [[to_text(ids, self.run.vocabulary) for ids in said] for said in made.token_ids[here]]
        assert made.log_probs is not None  # a Responder computes them unless told otherwise
        z_conv = made.z_conv[here].tolist() if params.return_z_conv and made.z_conv is not None else None
        log_probs = made.log_probs[here].tolist()
        return Answer(response=turns[0][0], turns=turns, log_probs=log_probs, remarks=remarked, z_conv=z_conv)


def _plain(error: Any) -> str:
    """One complaint of pydantic in one line: the name, what is wrong, and the value."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; known are {', '.join(sorted(AnswerParams.model_fields))}"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{name} = {error['input']!r}: {message}"
