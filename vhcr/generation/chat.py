"""A conversation between a person and a model: say, reply, try again, take back, ask why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from vhcr.batch import Ints, pack
from vhcr.errors import ParameterError
from vhcr.generation.respond import Responder
from vhcr.generation.text import remarks, to_ids, to_text
from vhcr.params import GenerationParams, parse
from vhcr.tokenisation.vocabulary import Vocabulary

PERSON, MODEL = "you", "model"


@dataclass(frozen=True)
class Line:
    """One utterance of the conversation, as it was said and as the model state it."""

    speaker: str
    text: str
    token_ids: Ints
    why: dict[str, float] = field(default_factory=dict)  # of a reply: see ``Chat.why``

    @property
    def remarks(self) -> list[str]:
        """What is odd about how the model state it; nothing, as a rule."""
        return remarks([self.text], [self.token_ids]) if self.speaker == PERSON else []


@dataclass
class Chat:
    """A conversation with ``responder``'s model; its noise decides it, draw by draw.

    z_conv is inferred anew from all that was said before each reply, as in the authors' program. Of a
    conversation longer than ``max_context_turns`` the model hears the last ones only: it was trained on
    no longer ones. Draws are keyed by the turns that were said, state or not.
    """

    responder: Responder
    vocabulary: Vocabulary
    max_context_turns: int = 9
    lines: list[Line] = field(default_factory=list)
    conversation: int = 0  # how many were begun before this one: key of its draws
    attempt: int = 0  # how often a reply was asked for again: key of its draws

    def say(self, text: str) -> Line:
        """Say ``text``, and have the model reply.

        Raises:
            ParameterError: there is no word in ``text``.
        """
        ids = to_ids(text, self.vocabulary, self.responder.params.max_words)
        self.lines.append(Line(PERSON, text.strip(), ids))
        self.attempt = 0
        return self.reply()

    def reply(self) -> Line:
        """The model's next utterance; where nothing was said yet, it begins the conversation.

        Raises:
            ParameterError: nothing was said yet, and the model cannot begin.
        """
        line = self._generate()
        self.lines.append(line)
        return line

    def resample(self) -> Line:
        """Another reply in place of the last: z_conv, z_utt and words are drawn afresh.

        Raises:
            ParameterError: there is no reply to replace.
        """
        if not self.lines or self.lines[-1].speaker != MODEL:
            raise ParameterError("there is no reply yet that another could replace")
        self.attempt += 1
        last = self.lines.pop()
        try:
            return self.reply()
        except ParameterError:
            self.lines.append(last)
            raise

    def undo(self) -> list[Line]:
        """Take back the last reply and what it replied to; returns what was taken back.

        Raises:
            ParameterError: nothing was said.
        """
        if not self.lines:
            raise ParameterError("nothing was said that could be taken back")
        taken = [self.lines.pop()]
        if taken[0].speaker == MODEL and self.lines and self.lines[-1].speaker == PERSON:
            taken.insert(0, self.lines.pop())
        self.attempt = 0
        return taken

    def new(self) -> None:
        """Forget everything and begin another conversation."""
        self.lines.clear()
        self.conversation += 1
        self.attempt = 0

    def set_params(self, **changes: Any) -> None:
        """Go on with other generation parameters, such as ``temperature``.

        Raises:
            ParameterError: a value is out of its range, or the name is not known.
        """
        values = {**self.responder.params.model_dump(), **changes}
        params = parse(GenerationParams, values, where="generation", origin="chat")
        self.responder = replace(self.responder, params=params)

    def why(self) -> dict[str, float]:
        """What lies behind the last reply; log quantities in nats, norms Euclidean.

        ``log_p``, ``words`` (EOS counted) and ``nll_per_word`` of the reply; the norms of what was drawn as
        z_conv and z_utt, where the model has them (a standard normal has about the root of its size);
        ``kl_conv``: how far q(z_conv | conversation so far) is from its prior.

        Raises:
            ParameterError: there is no reply yet.
        """
        if not self.lines or self.lines[-1].speaker != MODEL:
            raise ParameterError("there is no reply yet to explain")
        return self.lines[-1].why

    def as_dict(self) -> dict[str, Any]:
        """The conversation in the format of a JSON Lines corpus, with what lies behind each reply."""
        return {
            "id": f"chat-{self.conversation}",
            "utterances": [
                {"speaker": line.speaker, "text": line.text, **({"why": line.why} if line.why else {})}
                for line in self.lines
            ],
        }

    @torch.inference_mode()
    def _generate(self) -> Line:
        responder = self.responder
        why: dict[str, float] = {}
        if self.lines:
            context = [line.token_ids for line in self.lines[-self.max_context_turns :]]
            batch = pack([context], [self.conversation])
            batch = replace(batch, sample=torch.full_like(batch.sample, self.attempt)).to(responder.device)
            state = responder.read(batch)
            # Counted in what is state, every turn of a long conversation would draw the same numbers.
            state = replace(state, turn=torch.full_like(state.turn, len(self.lines)))
            if state.z_conv is not None:
                why["kl_conv"] = float(responder.model(batch, responder.noise).kl_conv[0])
        else:
            state = responder.begin(torch.tensor([self.conversation]), torch.tensor([self.attempt]))
        turn = responder.next_turn(state)
        ids = turn.token_ids[0]
        if state.z_conv is not None:
            why["z_conv_norm"] = float(state.z_conv[0].norm())
        if turn.z_utt is not None:
            why["z_utt_norm"] = float(turn.z_utt[0].norm())
        if turn.log_probs is not None:
            log_p = float(turn.log_probs[0])
            why |= {"log_p": log_p, "words": len(ids), "nll_per_word": -log_p / len(ids)}
        return Line(MODEL, to_text(ids, self.vocabulary), np.asarray(ids, dtype=np.int64), why)
