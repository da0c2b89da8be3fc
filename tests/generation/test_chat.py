"""A conversation with a model: what each move does to what the model hears."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generation.examples import generation
from tests.generation.runs import VOCABULARY, trained_run
from vhcr.batch import Ints
from vhcr.errors import ParameterError
from vhcr.generation.chat import MODEL, PERSON, Chat
from vhcr.generation.respond import Responder
from vhcr.generation.text import to_ids
from vhcr.models import Noise
from vhcr.training.run import TrainedRun


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], TrainedRun]:
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for name in ("hred", "vhred", "vhcr-ud"):
        for reading in ("paper", "release"):
            made[name, reading] = TrainedRun.load(trained_run(root / reading, name, reading))
    return made


def chat_with(
    runs: dict[tuple[str, str], TrainedRun], name: str, reading: str = "paper", **changes: object
) -> Chat:
    run = runs[name, reading]
    params = generation(**{"strategy": "sample", **changes})
    return Chat(Responder(run.model, params, Noise(5)), run.vocabulary)


def ids_heard(text: str) -> Ints:
    return to_ids(text, VOCABULARY, 8)


@pytest.mark.parametrize("name", ["hred", "vhred", "vhcr-ud"])
def test_a_reply_is_what_respond_says_to_the_same_context(runs, name) -> None:  # type: ignore[no-untyped-def]
    """Twice, so that the model's own first reply and the person's second turn are context too."""
    chat = chat_with(runs, name)
    first = chat.say("hello")
    assert first.token_ids.tolist() == chat.responder.respond([[ids_heard("hello")]]).token_ids[0][0]
    second = chat.say("how are you?")
    context = [ids_heard("hello"), first.token_ids, ids_heard("how are you?")]
    assert second.token_ids.tolist() == chat.responder.respond([context]).token_ids[0][0]
    assert [line.speaker for line in chat.lines] == [PERSON, MODEL, PERSON, MODEL]


def test_resampling_replaces_the_last_reply_alone(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    chat.say("hello")
    replies = {chat.lines[-1].text} | {chat.resample().text for _ in range(5)}
    assert len(replies) > 1
    assert [line.speaker for line in chat.lines] == [PERSON, MODEL]
    assert chat.lines[-1].text in replies


def test_resampling_draws_z_conv_afresh_and_the_next_turn_starts_over(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    norm = chat.say("hello").why["z_conv_norm"]
    assert chat.resample().why["z_conv_norm"] != norm
    assert chat.attempt == 1
    chat.say("fine")
    assert chat.attempt == 0


def test_undo_takes_back_the_exchange_and_saying_it_again_gets_the_same_reply(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    chat.say("hello")
    reply = chat.say("how are you?")
    chat.resample()
    assert [line.speaker for line in chat.undo()] == [PERSON, MODEL]
    assert len(chat.lines) == 2
    assert chat.say("how are you?").text == reply.text
    chat.undo()
    chat.undo()
    with pytest.raises(ParameterError, match="nothing was said"):
        chat.undo()


def test_a_new_conversation_has_no_context_and_its_own_draws(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    first = chat.say("hello").why
    chat.new()
    assert chat.lines == []
    second = chat.say("hello").why
    assert first["kl_conv"] == pytest.approx(second["kl_conv"])  # the same q(z_conv | hello)
    assert first["z_conv_norm"] != second["z_conv_norm"]  # another draw from it


def test_the_model_hears_no_more_turns_than_it_was_trained_on(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "hred", strategy="greedy")
    chat.max_context_turns = 3
    for text in ("hello", "how are you?", "thanks", "the printer is broken"):
        last = chat.say(text)
    state = [line.token_ids for line in chat.lines[-4:-1]]
    expected = chat.responder.respond([state])
    assert len(chat.lines) == 8
    assert last.token_ids.tolist() == expected.token_ids[0][0]
    assert expected.log_probs is not None
    assert last.why["log_p"] == pytest.approx(float(expected.log_probs[0, 0]))


def test_turns_of_a_long_conversation_draw_numbers_of_their_own(runs) -> None:  # type: ignore[no-untyped-def]
    """Draws were keyed by the turns that are state, nine at most: from the fifth reply on all the same.

    Here one turn is state, the same each time, so a reply could differ from the others by its draws alone.
    """
    chat = chat_with(runs, "vhred")
    chat.max_context_turns = 1
    norms = [chat.say("hello").why["z_utt_norm"] for _ in range(4)]
    assert len(set(norms)) == 4


def test_why_says_what_the_model_has(runs) -> None:  # type: ignore[no-untyped-def]
    """HRED has no latents, VHRED z_utt, VHCR both; log p agrees with scoring the reply."""
    expected = {
        "hred": {"log_p", "words", "nll_per_word"},
        "vhred": {"log_p", "words", "nll_per_word", "z_utt_norm"},
        "vhcr-ud": {"log_p", "words", "nll_per_word", "z_utt_norm", "z_conv_norm", "kl_conv"},
    }
    for name, keys in expected.items():
        chat = chat_with(runs, name)
        with pytest.raises(ParameterError, match="no reply"):
            chat.why()
        chat.say("hello")
        why = chat.why()
        assert set(why) == keys
        found = chat.responder.respond([[ids_heard("hello")]])
        assert found.log_probs is not None
        assert why["log_p"] == pytest.approx(float(found.log_probs[0, 0]))
        assert why["words"] == len(chat.lines[-1].token_ids)
        assert why["nll_per_word"] == pytest.approx(-why["log_p"] / why["words"])
        if found.z_conv is not None:
            assert why["z_conv_norm"] == pytest.approx(float(found.z_conv[0].norm()))
            assert why["kl_conv"] > 0


def test_a_model_begins_unless_it_never_learnt_to(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    assert chat.reply().speaker == MODEL
    assert "kl_conv" not in chat.why()
    replies = {chat.lines[0].text} | {chat.resample().text for _ in range(5)}
    assert len(replies) > 1
    silent = chat_with(runs, "vhcr-ud", "release")
    with pytest.raises(ParameterError, match="cannot begin"):
        silent.reply()
    assert silent.lines == []


def test_unknown_words_alone_get_a_remark(runs) -> None:  # type: ignore[no-untyped-def]
    """They were answered as if they had been understood."""
    chat = chat_with(runs, "hred")
    chat.say("Zzyzx!")
    assert chat.lines[0].remarks == []  # the exclamation mark is known
    chat.say("Zzyzx qqq")
    assert "no word of 'Zzyzx qqq' is in the vocabulary" in chat.lines[2].remarks[0]
    chat.say("hello qqq")
    assert [line.remarks for line in chat.lines[3:]] == [[], [], []]


def test_what_cannot_be_done_leaves_the_conversation_as_it_was(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhcr-ud")
    with pytest.raises(ParameterError, match="no reply"):
        chat.resample()
    with pytest.raises(ParameterError, match="no word"):
        chat.say("—")
    with pytest.raises(ParameterError, match=r"generation\.temperature"):
        chat.set_params(temperature=-1.0)
    assert chat.lines == []
    assert chat.responder.params.temperature == 1.0


def test_params_change_what_follows(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "hred")
    chat.set_params(strategy="greedy")
    said = chat.say("hello").token_ids.tolist()
    expected = chat_with(runs, "hred", strategy="greedy").responder.respond([[ids_heard("hello")]])
    assert said == expected.token_ids[0][0]


def test_a_saved_conversation_is_one_of_a_jsonl_corpus(runs) -> None:  # type: ignore[no-untyped-def]
    chat = chat_with(runs, "vhred")
    chat.say("Hello")
    saved = chat.as_dict()
    assert [turn["text"] for turn in saved["utterances"]] == ["Hello", chat.lines[1].text]
    assert [turn["speaker"] for turn in saved["utterances"]] == [PERSON, MODEL]
    assert np.isfinite(list(saved["utterances"][1]["why"].values())).all()
