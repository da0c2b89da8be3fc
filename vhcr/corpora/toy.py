"""The embedded corpus: small talk and help-desk lines from a grammar whose hidden causes are known.

A conversation is drawn from the top down: topic, tone, length and item; then acts, by a Markov chain that
depends on the tone and on the kind of topic; then words, by a grammar that depends on all of them. So a
latent variable for the whole conversation has something to say about every utterance, the first included,
and we can ask a trained model whether its z_conv knows it. Each choice is counted in nats: their sum bounds
from above what a perfect model would have to pay.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from vhcr.corpora.jsonl import TOY_FILE
from vhcr.files import write_text

Kind = Literal["help", "social"]
T = TypeVar("T")

LATENTS_FILE = "latents.jsonl"
README_FILE = "README.txt"

TONES: dict[str, float] = {"friendly": 0.35, "neutral": 0.4, "rude": 0.25}
LENGTHS: dict[str, tuple[float, tuple[int, ...]]] = {
    "short": (0.25, (2, 3)),
    "medium": (0.45, (4, 5, 6)),
    "long": (0.3, (7, 8, 9, 10)),
}
END_WITH_CLOSING = 0.8
ITEMS_PER_TOPIC = 4
GRAMMAR_PATH = Path(__file__).with_name("toy_grammar.txt")

# act -> the acts that may follow, each with its weight when the tone is (friendly, neutral, rude)
Chain = Mapping[str, Mapping[str, tuple[int, int, int]]]
CHAINS: dict[Kind, Chain] = {
    # The first speaker has a problem, the second is to help; every arrow leads from one to the other.
    "help": {
        "start": {"greet": (6, 3, 1), "ask": (4, 6, 3), "complain": (0, 1, 6)},
        "greet": {"offer": (1, 1, 1)},
        "offer": {"ask": (7, 7, 3), "complain": (0, 1, 6), "thank": (3, 2, 1)},
        "ask": {"question": (4, 5, 4), "suggest": (3, 4, 4), "apologise": (3, 1, 2)},
        "complain": {"question": (3, 3, 3), "suggest": (3, 4, 3), "apologise": (4, 3, 4)},
        "question": {"inform": (9, 9, 5), "refuse": (1, 1, 5)},
        "apologise": {"agree": (6, 4, 1), "inform": (4, 5, 2), "complain": (0, 1, 7)},
        "suggest": {"report": (4, 5, 3), "agree": (5, 4, 1), "refuse": (1, 1, 6)},
        "inform": {"suggest": (6, 6, 6), "question": (4, 4, 4)},
        "report": {"suggest": (4, 5, 4), "question": (3, 4, 4), "apologise": (3, 1, 2)},
        "agree": {"suggest": (5, 5, 5), "question": (5, 5, 5)},
        "refuse": {"suggest": (5, 6, 5), "apologise": (5, 4, 5)},
        "thank": {"offer": (6, 5, 3), "question": (4, 5, 7)},
        "bye": {"offer": (1, 1, 1)},
    },
    # Two acquaintances; either may say anything.
    "social": {
        "start": {"greet": (5, 3, 1), "ask": (3, 4, 4), "suggest": (2, 3, 2), "complain": (0, 0, 3)},
        "greet": {"ask": (4, 5, 4), "tell": (4, 3, 2), "suggest": (2, 2, 2), "complain": (0, 0, 2)},
        "ask": {"inform": (8, 8, 5), "refuse": (1, 1, 4), "tell": (1, 1, 1)},
        "suggest": {"agree": (6, 4, 1), "refuse": (1, 3, 7), "ask": (3, 3, 2)},
        "inform": {"tell": (3, 3, 2), "agree": (4, 3, 1), "complain": (0, 1, 5), "suggest": (3, 3, 2)},
        "tell": {"agree": (5, 4, 1), "ask": (4, 5, 4), "complain": (1, 1, 5)},
        "agree": {"suggest": (3, 3, 3), "ask": (4, 4, 4), "thank": (3, 1, 0), "tell": (2, 4, 3)},
        "refuse": {"suggest": (6, 6, 3), "ask": (4, 3, 2), "complain": (0, 1, 5)},
        "complain": {"refuse": (1, 3, 6), "suggest": (5, 4, 2), "agree": (4, 3, 2)},
        "thank": {"tell": (5, 5, 5), "suggest": (5, 5, 5)},
        "bye": {"tell": (1, 1, 1)},
    },
}
CLOSING: dict[Kind, tuple[Mapping[str, tuple[int, int, int]], Mapping[str, tuple[int, int, int]]]] = {
    "help": (
        {"thank": (7, 4, 1), "bye": (3, 5, 3), "complain": (0, 1, 6)},  # the first speaker has the last word
        {"bye": (8, 8, 7), "apologise": (2, 2, 3)},
    ),
    "social": (
        {"bye": (6, 7, 5), "thank": (4, 2, 1), "refuse": (0, 1, 4)},
        {"bye": (6, 7, 5), "thank": (4, 2, 1), "refuse": (0, 1, 4)},
    ),
}


SECTION = re.compile(r"\[(topic|tone|kind|shared)(?: ([a-z]+))?(?: (help|social))?\]")
SLOT = re.compile(r"<([a-z]+)(\?)?>")
SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")

Rules = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Grammar:
    """The rules of toy_grammar.txt: what one may say, by topic, tone and kind of topic."""

    topics: Mapping[str, Rules]
    kinds: Mapping[str, Kind]  # of each topic
    tones: Mapping[str, Rules]
    by_kind: Mapping[str, Rules]
    shared: Rules

    def rules(self, topic: str, tone: str, item: str) -> Rules:
        """All rules of a conversation; its topic's own come last, and the item is settled."""
        kind = self.kinds[topic]
        return {
            **self.shared, **self.tones[tone], **self.by_kind[kind], **self.topics[topic], "item": (item,),
        }  # fmt: skip


@dataclass(frozen=True)
class ToyConversation:
    """One conversation and what it was made from.

    ``nats_latent`` is -log p(topic, tone, length, number of turns, item); ``nats_text`` is that of all
    further choices given them. Two ways to one text are not added up, so their sum bounds -log p(text)
    from above, closely.
    """

    id: str
    topic: str
    tone: str
    length: str
    item: str
    acts: tuple[str, ...]
    texts: tuple[str, ...]
    nats_latent: float
    nats_text: float


@cache
def grammar() -> Grammar:
    """The grammar, read once."""
    sections: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    kinds: dict[str, Kind] = {}
    rules: dict[str, tuple[str, ...]] = {}
    # A line that begins with a bar goes on with the rule above it.
    text = GRAMMAR_PATH.read_text(encoding="utf-8").replace("\n  | ", " | ")
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        section = SECTION.fullmatch(line)
        if section is None:
            name, _, alternatives = line.partition(" = ")
            rules[name] = tuple(alternative.strip() for alternative in alternatives.split(" | "))
            continue
        rules = sections.setdefault((section[1], section[2] or ""), {})
        if section[1] == "topic":
            kinds[section[2]] = "help" if section[3] == "help" else "social"
    named = {
        sort: {name: rules for (its_sort, name), rules in sections.items() if its_sort == sort}
        for sort in ("topic", "tone", "kind", "shared")
    }
    return Grammar(named["topic"], kinds, named["tone"], named["kind"], named["shared"][""])


class _Draws:
    """Random choices that are the same on every platform, and what they cost in nats."""

    def __init__(self, seed: str) -> None:
        # random() of the Mersenne Twister seeded by text is guaranteed to stay as it is; choice() is not.
        self._random = random.Random(seed)
        self.nats = 0.0

    def weighted(self, options: Mapping[str, float]) -> str:
        possible = {option: weight for option, weight in options.items() if weight > 0}
        total = sum(possible.values())
        point = self._random.random() * total
        chosen = next(iter(possible))
        for option, weight in possible.items():
            chosen = option
            point -= weight
            if point < 0:
                break
        self.nats -= math.log(possible[chosen] / total)
        return chosen

    def uniform(self, options: Sequence[T]) -> T:
        self.nats += math.log(len(options))
        return options[int(self._random.random() * len(options))]


def conversation(seed: int, index: int) -> ToyConversation:
    """Conversation number ``index`` of the corpus with this seed; it does not depend on the others."""
    draws = _Draws(f"{seed}:{index}")
    topic = draws.uniform(tuple(grammar().topics))
    tone = draws.weighted(TONES)
    length = draws.weighted({name: weight for name, (weight, _) in LENGTHS.items()})
    num_turns = draws.uniform(LENGTHS[length][1])
    item = draws.uniform(grammar().topics[topic]["item"])
    nats_latent = draws.nats
    acts = _acts(draws, grammar().kinds[topic], tone, num_turns)
    rules = grammar().rules(topic, tone, item)
    texts = tuple(_spell(_expand(draws, rules, f"<{act}>")) for act in acts)
    return ToyConversation(
        id=f"toy-{index:05d}",
        topic=topic,
        tone=tone,
        length=length,
        item=item,
        acts=acts,
        texts=texts,
        nats_latent=nats_latent,
        nats_text=draws.nats - nats_latent,
    )


def write(folder: Path, num_conversations: int, seed: int) -> list[str]:
    """Write conversations.jsonl, latents.jsonl and README.txt; return their names."""
    all_conversations = [conversation(seed, index) for index in range(num_conversations)]
    write_text(folder / TOY_FILE, _json_lines(_record(item) for item in all_conversations))
    write_text(folder / LATENTS_FILE, _json_lines(_latents(item) for item in all_conversations))
    write_text(folder / README_FILE, _readme(num_conversations, seed))
    return [TOY_FILE, LATENTS_FILE, README_FILE]


def latent_entropy() -> dict[str, float]:
    """Entropy of each latent, in nats; they are independent, but for num_turns (given length) and item."""
    return {
        "topic": math.log(len(grammar().topics)),
        "tone": _entropy(TONES.values()),
        "length": _entropy(weight for weight, _ in LENGTHS.values()),
        "num_turns given length": sum(weight * math.log(len(turns)) for weight, turns in LENGTHS.values()),
        "item given topic": math.log(ITEMS_PER_TOPIC),
    }


def _entropy(probabilities: Iterable[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities)


def _acts(draws: _Draws, kind: Kind, tone: str, num_turns: int) -> tuple[str, ...]:
    column = tuple(TONES).index(tone)
    acts: list[str] = []
    for turn in range(num_turns):
        options = CHAINS[kind][acts[-1] if acts else "start"]
        if turn == num_turns - 1:
            how = draws.weighted({"close": END_WITH_CLOSING, "go on": 1 - END_WITH_CLOSING})
            if how == "close":
                options = CLOSING[kind][turn % 2]
        acts.append(draws.weighted({act: weights[column] for act, weights in options.items()}))
    return tuple(acts)


def _expand(draws: _Draws, rules: Rules, production: str) -> str:
    def expand(match: re.Match[str]) -> str:
        name, optional = match[1], match[2]
        if optional and draws.uniform((False, True)):
            return ""
        return _expand(draws, rules, draws.uniform(rules[name]))

    return SLOT.sub(expand, production)


def _spell(text: str) -> str:
    """Blanks and capitals as in print."""
    text = re.sub(r" +([,.?!])", r"\1", " ".join(text.split()))
    text = re.sub(r"[,.:]+([.?!])", r"\1", text)  # a phrase that ends with a comma, at the end of a sentence
    text = SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)
    names = (*grammar().shared["name"], *grammar().shared["day"])
    return re.sub(rf"\b(i|{'|'.join(names)})\b", lambda match: match[1].capitalize(), text)


def _record(item: ToyConversation) -> dict[str, object]:
    return {
        "id": item.id,
        "labels": {"topic": item.topic, "tone": item.tone, "length": item.length, "item": item.item},
        "utterances": [
            {"text": text, "speaker": "AB"[turn % 2], "labels": {"act": act}}
            for turn, (text, act) in enumerate(zip(item.texts, item.acts, strict=True))
        ],
    }


def _latents(item: ToyConversation) -> dict[str, object]:
    return {
        "id": item.id,
        "topic": item.topic,
        "tone": item.tone,
        "length": item.length,
        "num_turns": len(item.acts),
        "item": item.item,
        "acts": item.acts,
        # Rounded: the last digits of a logarithm are the platform's own.
        "nats_latent": round(item.nats_latent, 4),
        "nats_text": round(item.nats_text, 4),
    }


def _json_lines(values: Iterator[dict[str, object]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _readme(num_conversations: int, seed: int) -> str:
    entropies = "\n".join(f"  {name}: {value:.3f}" for name, value in latent_entropy().items())
    return f"""The embedded corpus: {num_conversations} invented conversations, seed {seed}.

{TOY_FILE}  one conversation a line: id, labels (topic, tone, length, item), utterances (text, speaker, act)
{LATENTS_FILE}        what each was made from, one a line, and the cost of its choices in nats:
                     nats_latent = -log p(latents), nats_text = -log p(acts and words given the latents)

Topics: {", ".join(grammar().topics)}
Tones: {", ".join(TONES)}
Lengths in turns: {", ".join(f"{name} {turns[0]}-{turns[-1]}" for name, (_, turns) in LENGTHS.items())}

Entropy in nats:
{entropies}

Made by vhcr/corpora/toy.py, which holds the grammar. Nothing in it was said by anyone.
"""
