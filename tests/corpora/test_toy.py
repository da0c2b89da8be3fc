from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.corpora.conftest import read_all, source_of
from vhcr.corpora import toy

WORD = re.compile(r"[a-z']+|[0-9]+|[,.?!:]")


@pytest.fixture(scope="module")
def corpus() -> list[toy.ToyConversation]:
    return [toy.conversation(0, index) for index in range(3000)]


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def test_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """The digest is pinned: the same on every platform and Python. Change it only with the grammar."""
    toy.write(tmp_path, 50, 0)
    digest = hashlib.sha256()
    for name in (toy.TOY_FILE, toy.LATENTS_FILE, toy.README_FILE):
        digest.update((tmp_path / name).read_bytes())
    assert digest.hexdigest() == "66809a58e48fc7f4c0a0c15a8f1b84493c0835bb808ee348de15b66da27d3409"
    assert toy.conversation(1, 0).texts != toy.conversation(0, 0).texts


def test_a_longer_corpus_begins_with_the_shorter(corpus: list[toy.ToyConversation], tmp_path: Path) -> None:
    toy.write(tmp_path / "a", 3, 0)
    toy.write(tmp_path / "b", 5, 0)
    assert (tmp_path / "b" / toy.TOY_FILE).read_text().startswith((tmp_path / "a" / toy.TOY_FILE).read_text())


def test_labels_reach_the_reader(tmp_path: Path) -> None:
    toy.write(tmp_path / "raw", 40, 3)
    conversations, skipped = read_all(tmp_path / "raw", source_of("toy"))
    latents = [json.loads(line) for line in (tmp_path / "raw" / toy.LATENTS_FILE).read_text().splitlines()]
    assert len(conversations) == len(latents) == 40
    assert skipped.total == 0
    for conversation, latent in zip(conversations, latents, strict=True):
        assert conversation.id == latent["id"]
        assert dict(conversation.labels) == {key: latent[key] for key in ("topic", "tone", "length", "item")}
        assert [u.labels["act"] for u in conversation.utterances] == latent["acts"]
        assert len(conversation.utterances) == latent["num_turns"]
        assert [u.speaker for u in conversation.utterances] == list("ABABABABAB")[: latent["num_turns"]]


def test_size_is_as_documented(corpus: list[toy.ToyConversation]) -> None:
    counts = Counter(word for c in corpus for text in c.texts for word in words(text))
    assert 550 <= len(counts) <= 700
    assert min(counts.values()) >= 8  # none is too rare to learn
    lengths = [len(re.findall(r"[\w']+", text)) for c in corpus for text in c.texts]
    assert sum(4 <= length <= 14 for length in lengths) / len(lengths) > 0.94
    assert max(len(words(text)) for c in corpus for text in c.texts) < 29  # nothing is cut at 30 with EOS


def test_lengths_in_turns(corpus: list[toy.ToyConversation]) -> None:
    for conversation in corpus:
        assert len(conversation.acts) == len(conversation.texts)
        assert len(conversation.acts) in toy.LENGTHS[conversation.length][1]
    assert {len(c.acts) for c in corpus} == set(range(2, 11))


def test_latents_have_their_stated_frequencies(corpus: list[toy.ToyConversation]) -> None:
    """Within five standard errors of a binomial."""
    expected = {("tone", tone): p for tone, p in toy.TONES.items()}
    expected |= {("length", name): p for name, (p, _) in toy.LENGTHS.items()}
    expected |= {("topic", topic): 1 / len(toy.grammar().topics) for topic in toy.grammar().topics}
    for (latent, value), p in expected.items():
        share = sum(getattr(c, latent) == value for c in corpus) / len(corpus)
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / len(corpus)), (latent, value)


def test_cost_of_the_latents_averages_to_their_entropy(corpus: list[toy.ToyConversation]) -> None:
    mean = sum(c.nats_latent for c in corpus) / len(corpus)
    assert mean == pytest.approx(sum(toy.latent_entropy().values()), abs=0.05)


def test_cost_of_a_text_is_that_of_its_choices() -> None:
    """By hand: 3 alternatives, then an optional rule that is taken or not."""
    rules = {"a": ("x <b?>",), "b": ("y", "z", "w")}
    seen: dict[str, set[float]] = defaultdict(set)
    for index in range(200):
        draws = toy._Draws(f"test:{index}")
        seen[toy._expand(draws, rules, "<a>").strip()].add(round(draws.nats, 9))
    with_b = round(math.log(2) + math.log(3), 9)
    assert seen == {"x": {round(math.log(2), 9)}, "x y": {with_b}, "x z": {with_b}, "x w": {with_b}}


def test_zero_weights_are_never_drawn() -> None:
    drawn = Counter(toy._Draws(str(n)).weighted({"a": 1, "b": 0, "c": 3, "d": 0}) for n in range(2000))
    assert set(drawn) == {"a", "c"}
    assert drawn["c"] / 2000 == pytest.approx(0.75, abs=0.05)


def test_words_left_free_keep_every_model_from_zero(corpus: list[toy.ToyConversation]) -> None:
    """Even who knows all latents pays for the words; and conversations hardly repeat."""
    num_words = sum(len(words(text)) + 1 for c in corpus for text in c.texts)
    assert 0.5 < sum(c.nats_text for c in corpus) / num_words < 1.0
    assert len({c.texts for c in corpus}) >= 0.999 * len(corpus)


@pytest.mark.parametrize(("latent", "at_least"), [("topic", 0.8), ("tone", 0.65)])
@pytest.mark.parametrize("turn", [0, 1, 4])
def test_every_turn_tells_topic_and_tone(
    corpus: list[toy.ToyConversation], latent: str, at_least: float, turn: int
) -> None:
    """A naive Bayes reader of one turn alone recovers them far above chance, in the first turn too."""
    long_enough = [c for c in corpus if len(c.texts) > turn]
    train, test = long_enough[::2], long_enough[1::2]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for c in train:
        counts[getattr(c, latent)].update(words(c.texts[turn]))
    vocabulary = len(set().union(*counts.values()))

    def score(value: str, text: str) -> float:
        total = sum(counts[value].values()) + 0.1 * vocabulary
        return sum(math.log((counts[value][word] + 0.1) / total) for word in words(text))

    right = sum(max(counts, key=lambda v: score(v, c.texts[turn])) == getattr(c, latent) for c in test)
    assert at_least < right / len(test)


def test_acts_depend_on_tone_and_kind(corpus: list[toy.ToyConversation]) -> None:
    share: dict[str, Counter[str]] = defaultdict(Counter)
    for c in corpus:
        share[c.tone].update(c.acts)
        kind = toy.grammar().kinds[c.topic]
        assert set(c.acts) <= set(toy.CHAINS[kind])
    for act, more, less in (("refuse", "rude", "friendly"), ("thank", "friendly", "rude")):
        assert share[more][act] / share[more].total() > 2 * share[less][act] / share[less].total()


def test_grammar_is_closed_and_free_of_repeats() -> None:
    """A misspelt slot, an unused rule, or an alternative given twice (which would skew the entropies)."""
    grammar = toy.grammar()
    acts = {act for chain in toy.CHAINS.values() for act in chain} - {"start"}
    all_used, all_rules = set(acts), set()
    for topic in grammar.topics:
        assert len(grammar.topics[topic]["item"]) == toy.ITEMS_PER_TOPIC
        for tone in toy.TONES:
            rules = grammar.rules(topic, tone, "item")
            used = {
                slot for options in rules.values() for text in options for slot, _ in toy.SLOT.findall(text)
            }
            assert used <= set(rules), topic
            assert set(toy.CHAINS[grammar.kinds[topic]]) - {"start"} <= set(rules), topic
            all_used |= used
            all_rules |= set(rules)
            for name, options in rules.items():
                assert len(set(options)) == len(options), name
                assert all(option and "  " not in option for option in options), name
    assert all_used == all_rules
    assert set(grammar.tones) == set(toy.TONES)


def test_chains_lead_somewhere_in_every_tone() -> None:
    for chain in toy.CHAINS.values():
        for act, options in chain.items():
            assert set(options) <= set(chain), act
            assert all(sum(weights) > 0 for weights in zip(*options.values(), strict=True)), act


def test_spelling() -> None:
    assert (
        toy._spell("hi anna ,  i may ask  . see you on monday , .")
        == "Hi Anna, I may ask. See you on Monday."
    )


def test_readme_gives_the_entropies(tmp_path: Path) -> None:
    toy.write(tmp_path, 7, 9)
    text = (tmp_path / toy.README_FILE).read_text()
    assert "7 invented conversations, seed 9" in text
    assert f"topic: {math.log(8):.3f}" in text
