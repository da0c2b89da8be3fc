"""What the page asks a model to say: from points of the map, or in a talk; word by word as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vhcr.batch import pack
from vhcr.errors import ParameterError
from vhcr.explore.corpus import Corpus
from vhcr.explore.points import Floats
from vhcr.generation import control
from vhcr.generation.decode import OnWords
from vhcr.generation.limits import MAX_LATENT, MAX_LATENT_SCALE, MAX_SEED
from vhcr.generation.respond import Continuation, Responder
from vhcr.generation.text import remarks, to_ids, to_text
from vhcr.models import Noise
from vhcr.params import GenerationParams
from vhcr.tokenisation.specials import EOS
from vhcr.training.run import TrainedRun

MAX_CONTEXT_TURNS = 9  # what a model hears of a talk: it was trained on no longer ones
MAX_TEXT = 1000  # characters of one utterance

Event = dict[str, Any]
Latent = Annotated[float, Field(ge=-MAX_LATENT, le=MAX_LATENT, allow_inf_nan=False)]
Said = Annotated[str, Field(max_length=MAX_TEXT)]


class Dials(GenerationParams):
    """How to speak; the limits keep one request from taking all."""

    max_words: Annotated[int, Field(ge=2, le=100)]
    beam_size: Annotated[int, Field(ge=1, le=20)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    latent_scale: Annotated[float, Field(ge=0.0, le=MAX_LATENT_SCALE, allow_inf_nan=False)] = 1.0

    def responder(self, run: TrainedRun, on_words: OnWords) -> Responder:
        """A model that speaks by these dials."""
        params = GenerationParams(**self.model_dump(include=set(GenerationParams.model_fields)))
        return Responder(run.model, params, Noise(self.seed), self.latent_scale, on_words=on_words)


class FromMap(BaseModel):
    """Conversations from z_conv of the map: several from a point, from the middle of two, or along a path."""

    model_config = ConfigDict(extra="forbid")

    way: Literal["point", "middle", "path"]
    start: Annotated[int, Field(ge=0)]  # conversations, by their number on the map
    end: Annotated[int, Field(ge=0)] | None = None
    path: control.Way = "linear"
    count: Annotated[int, Field(ge=1, le=9)] = 5  # conversations from one z_conv, or points of a path
    turns: Annotated[int, Field(ge=1, le=10)] = 3
    dials: Dials


class Talk(BaseModel):
    """The next utterance of a talk; ``z_conv`` holds one, else it is inferred anew from what was said."""

    model_config = ConfigDict(extra="forbid")

    run: Annotated[int, Field(ge=0)] = 0
    context: Annotated[list[Said], Field(max_length=200)]
    z_conv: Annotated[list[Latent], Field(max_length=4096)] | None = None
    dials: Dials


def from_map(run: TrainedRun, corpus: Corpus, z: Floats, asked: FromMap) -> Callable[[OnWords], Continuation]:
    """What makes the conversations that were asked for (Tables 6 and 7).

    A model that never learnt to say a first utterance is given that of ``start``.

    Raises:
        ParameterError: a conversation is not on the map, one is missing, or no such path leads there.
    """
    if asked.way != "point" and asked.end is None:
        raise ParameterError(f"{asked.way!r} leads from one conversation to another: `end` is missing")
    ends = [asked.start] if asked.way == "point" or asked.end is None else [asked.start, asked.end]
    for number in ends:
        if number >= len(z):
            raise ParameterError(f"conversation {number} is not on the map")
    device = run.model.device
    z_conv = torch.tensor(z[ends], dtype=run.model.dtype, device=device)
    if asked.way == "path":
        z_conv = control.interpolate(z_conv[0], z_conv[1], max(2, asked.count), asked.path)
    elif asked.way == "middle":
        z_conv = control.interpolate(z_conv[0], z_conv[1], 3, asked.path)[1:2]
    opening = None
    if not run.model.reading.scores_first_utterance:
        opening = corpus.utterances(asked.start)[0].tolist()

    def make(on_words: OnWords) -> Continuation:
        return control.from_z_conv(
            asked.dials.responder(run, on_words),
            z_conv,
            asked.turns,
            samples=1 if asked.way == "path" else asked.count,
            same_noise=asked.way == "path",
            opening=opening,
        )

    return make


def talk(run: TrainedRun, asked: Talk) -> tuple[Callable[[OnWords], Continuation], list[str]]:
    """What makes the next utterance, and what is odd about the last; with nothing said yet, the model begins.

    Raises:
        ParameterError: an utterance has no word in it, or ``z_conv`` does not fit the model.
    """
    size = run.model.z_conv_size
    if asked.z_conv is not None and len(asked.z_conv) != size:
        raise ParameterError(f"z_conv has {len(asked.z_conv)} numbers; this model needs {size}")
    context = [
        # A model may say nothing, and hears that it did.
        to_ids(text, run.vocabulary, asked.dials.max_words) if text else np.array([EOS])
        for text in asked.context[-MAX_CONTEXT_TURNS:]
    ]
    z_conv: Tensor | None = None
    if asked.z_conv:
        z_conv = torch.tensor([asked.z_conv], dtype=run.model.dtype)
    if not context and not run.model.reading.scores_first_utterance:
        raise ParameterError("this model cannot begin a conversation: say something first")

    def make(on_words: OnWords) -> Continuation:
        responder = asked.dials.responder(run, on_words)
        number = torch.tensor([len(asked.context)])  # key of the draws: each turn of a talk has its own
        if not context:
            return responder.generate(responder.begin(number * 0, number, z_conv), 1)
        return responder.generate(responder.read(pack([context], [len(asked.context)]), z_conv), 1)

    return make, remarks(asked.context[-1:], context[-1:])


class _StoppedError(Exception):
    """Nobody listens any more."""


def streamed(
    run: TrainedRun, make: Callable[[OnWords], Continuation], at_once: Any, remarked: Sequence[str] = ()
) -> Iterator[Event]:
    """Events while ``make`` speaks: each utterance so far as it grows, and at the end all that was made.

    ``at_once`` is a semaphore: so many speak at a time, others wait. When the iterator is closed, the model
    stops at the next word.
    """
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    stopped = threading.Event()
    said: dict[int, list[list[int]]] = {}

    def on_words(rows: list[int], words: list[int]) -> None:
        if stopped.is_set():
            raise _StoppedError
        grown = []
        for row, word in zip(rows, words, strict=True):
            turns = said.setdefault(row, [[]])
            if turns[-1] and turns[-1][-1] == EOS:
                turns.append([])
            turns[-1].append(word)
            grown.append([row, len(turns) - 1, to_text(turns[-1], run.vocabulary)])
        events.put({"words": grown})

    def speak() -> None:
        try:
            with at_once, torch.inference_mode():
                made = make(on_words)
            texts = [[to_text(ids, run.vocabulary) for ids in turns] for turns in made.token_ids]
            z_conv = None if made.z_conv is None else made.z_conv[0].tolist()
            log_probs = [] if made.log_probs is None else made.log_probs.tolist()
            done = {"done": texts, "log_probs": log_probs, "z_conv": z_conv, "remarks": list(remarked)}
            events.put(done)
        except ParameterError as error:
            events.put({"error": str(error)})
        except _StoppedError:
            pass
        finally:
            events.put(None)

    threading.Thread(target=speak, daemon=True).start()
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        stopped.set()
