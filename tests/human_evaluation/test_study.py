"""Votes: one each, no more than wanted, blinded, safe from interruptions and from each other."""

from __future__ import annotations

import json
import operator
import sqlite3
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.human_evaluation.studies import drawn, make_study, rater, write_run
from vhcr.errors import StudyError
from vhcr.human_evaluation import study as module
from vhcr.human_evaluation.study import CHOICES, Answer, Choice, Imported, Study, choice_of, outcome_of


def vote_all(study: Study, who: str, choice: Choice = "left") -> list[str]:
    """Votes on everything that is given; the items in that order."""
    given = []
    while (shown := study.next_item(who)) is not None:
        assert study.vote(who, shown.item, choice, 0).status == "stored"
        given.append(shown.item)
    return given


def test_a_vote_is_for_the_side_that_was_seen(tmp_path: Path) -> None:
    """Worked by hand: whoever chooses the text of the system makes it win, wherever it stands."""
    study = make_study(tmp_path, 12)
    anna = rater(study, "anna")
    by_item = {item.item: item for item in study.items()}
    wanted = {}
    for turn in range(12):
        shown = study.next_item(anna)
        assert shown is not None
        item = by_item[shown.item]
        assert {shown.left, shown.right} == {item.system_response, item.opponent_response}
        side: Choice = "left" if shown.left == item.system_response else "right"
        other: Choice = "right" if side == "left" else "left"
        choice, outcome = [(side, "win"), (other, "loss"), ("tie", "tie")][turn % 3]
        study.vote(anna, shown.item, choice, 0)
        wanted[shown.item] = outcome
    votes = study.votes()
    assert {vote.item: vote.outcome for vote in votes} == wanted
    for vote in votes:
        conversation = by_item[vote.item].conversation_id
        assert (vote.conversation_id, vote.rater, vote.source) == (conversation, "page:anna", "page")
        assert outcome_of(choice_of(vote.outcome, vote.system_is_left), vote.system_is_left) == vote.outcome


def test_nobody_votes_twice(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = rater(study, "anna")
    shown = study.next_item(anna)
    assert shown is not None
    again = study.next_item(anna)  # a reload, or a second tab
    assert again == shown
    assert study.vote(anna, shown.item, "left", 0) == Answer("stored", "left", 1)
    for choice in CHOICES:  # the second tab, a double click, a repeated request
        assert study.vote(anna, shown.item, choice, 0) == Answer("already", "left", 1)
    assert len(study.votes()) == 1
    following = study.next_item(anna)
    assert following is not None
    assert following.item != shown.item
    with pytest.raises(sqlite3.IntegrityError), sqlite3.connect(study.path) as connection:
        connection.execute("INSERT INTO votes SELECT * FROM votes")
    connection.close()


def test_a_vote_may_be_changed_from_what_is_known_of_it(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = rater(study, "anna")
    shown = study.next_item(anna)
    assert shown is not None
    study.vote(anna, shown.item, "left", 0)
    assert study.vote(anna, shown.item, "tie", 1) == Answer("stored", "tie", 2)
    assert study.vote(anna, shown.item, "tie", 2) == Answer("stored", "tie", 2), "no change, no revision"
    assert study.vote(anna, shown.item, "right", 1) == Answer("already", "tie", 2), "an older page"
    seen = study.item(anna, shown.item)
    assert seen is not None
    assert (seen.choice, seen.revision, seen.left) == ("tie", 2, shown.left)
    assert [vote.outcome for vote in study.votes()] == ["tie"]
    with sqlite3.connect(study.path) as connection:
        kept = connection.execute("SELECT revision, outcome FROM replaced_votes").fetchall()
    connection.close()
    assert [revision for revision, _ in kept] == [1]
    assert kept[0][1] in {"win", "loss"}


def test_only_what_was_given_can_be_voted_on(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna, ben = rater(study, "anna"), rater(study, "ben")
    shown = study.next_item(anna)
    assert shown is not None
    assert study.vote(anna, shown.item, "left", 1).status == "unknown", "a revision that never was"
    given = {shown.item}
    for item in study.items():
        if item.item not in given:
            assert study.vote(anna, item.item, "left", 0).status == "unknown"
            assert study.item(ben, item.item) is None
    assert study.votes() == []


def test_all_items_reach_their_votes_and_none_gets_more(tmp_path: Path) -> None:
    """Five raters, three votes: those who come last find less to do."""
    study = make_study(tmp_path, 6, votes=3)
    raters = [rater(study, f"rater {i}") for i in range(5)]
    todo = list(raters)
    turn = 0
    while todo:
        who = todo[turn % len(todo)]
        shown = study.next_item(who)
        if shown is None:
            todo.remove(who)
            continue
        assert study.vote(who, shown.item, CHOICES[turn % 3], 0).status == "stored"
        turn += 1
    assert set(Counter(vote.item for vote in study.votes()).values()) == {3}
    assert len(study.votes()) == 18
    assert all(study.progress(who).left == 0 for who in raters)


def test_items_grow_together(tmp_path: Path) -> None:
    """Whenever one stops, no item is two votes ahead of another."""
    study = make_study(tmp_path, 6, votes=5)
    for name in ("anna", "ben", "carla"):
        who = rater(study, name)
        for _ in range(4):
            shown = study.next_item(who)
            assert shown is not None
            study.vote(who, shown.item, "tie", 0)
            on = Counter({item.item: 0 for item in study.items()})
            on.update(vote.item for vote in study.votes())
            assert max(on.values()) - min(on.values()) <= 1


def test_an_item_waits_for_its_reader_and_then_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, 1, votes=1)
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    anna, ben = rater(study, "anna"), rater(study, "ben")
    shown = study.next_item(anna)
    assert shown is not None
    assert study.next_item(ben) is None, "anna is reading it"
    assert study.progress(ben).left == 1, "but may leave it"
    now[0] += module.RESERVED_SECONDS - 1
    assert study.next_item(anna) == shown, "and looks again, which prolongs it"
    now[0] += 2
    assert study.next_item(ben) is None
    now[0] += module.RESERVED_SECONDS
    assert study.next_item(ben) is not None, "anna has gone"
    assert study.vote(anna, shown.item, "left", 0).status == "full", "it is ben's now"
    assert study.vote(ben, shown.item, "left", 0).status == "stored"
    assert study.vote(anna, shown.item, "left", 0).status == "full"
    assert study.next_item(anna) is None
    assert study.progress(anna).left == 0


def test_a_late_vote_counts_while_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path, 1, votes=1)
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    anna = rater(study, "anna")
    shown = study.next_item(anna)
    assert shown is not None
    now[0] += 2 * module.RESERVED_SECONDS
    assert study.vote(anna, shown.item, "tie", 0).status == "stored"


def test_voting_from_many_threads_keeps_the_rules(tmp_path: Path) -> None:
    """Each rater votes from two threads at once, as from two tabs; five raters for three votes."""
    study = make_study(tmp_path, 8, votes=3)
    stored: list[tuple[str, str]] = []
    failed: list[BaseException] = []

    def work(who: str) -> None:
        try:
            own = Study(study.path)
            while (shown := own.next_item(who)) is not None:
                if own.vote(who, shown.item, "left", 0).status == "stored":
                    stored.append((who, shown.item))
        except BaseException as error:  # a thread's error would be lost otherwise
            failed.append(error)

    threads = [
        threading.Thread(target=work, args=(rater(study, name),)) for name in "abcde" for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    votes = [(vote.rater, vote.item) for vote in study.votes()]
    assert sorted(votes) == sorted(stored)
    assert len(set(votes)) == len(votes) == 24
    assert set(Counter(item for _, item in votes).values()) == {3}


def test_sides_are_halved_for_items_and_raters_and_in_exports(tmp_path: Path) -> None:
    study = make_study(tmp_path, 8, votes=4)
    for name in ("anna", "ben", "carla", "dora"):
        vote_all(study, rater(study, name))
    drawn_sides = {item.item: item.system_is_left for item in study.items()}
    assert sum(drawn_sides.values()) == 4
    for place, name in enumerate(("anna", "ben", "carla", "dora")):
        seen = {v.item: v.system_is_left for v in study.votes() if v.rater == f"page:{name}"}
        assert seen == {item: side ^ (place % 2 == 1) for item, side in drawn_sides.items()}


def test_nothing_can_be_computed_from_what_is_public(tmp_path: Path) -> None:
    """Two studies of the same runs by the same seed have other ids, sides, orders and links."""
    studies = [make_study(tmp_path, 12, name=name) for name in ("one", "two")]
    first, second = ({item.conversation_id: item for item in study.items()} for study in studies)
    assert first.keys() == second.keys(), "the seed alone draws the contexts"
    assert {item.item for item in first.values()}.isdisjoint(item.item for item in second.values())
    orders = [[item.conversation_id for item in study.items()] for study in studies]
    assert orders[0] != orders[1]
    assert studies[0].invite("anna") != studies[1].invite("anna")
    raters = [(studies[0], rater(studies[0], name)) for name in ("anna", "ben")]
    anna, ben = (vote_all(study, who) for study, who in raters[:2])
    assert sorted(anna) == sorted(ben)
    assert anna != ben, "an order for each rater"


def test_the_secret_alone_decides_sides_and_order(tmp_path: Path) -> None:
    """Of 12 pairs 6 are left, any 6; of 11 the odd one is on either side."""
    make_study(tmp_path)
    pairs = drawn(tmp_path, 12).pairs
    by_pair = operator.itemgetter(2)  # the conversation
    made = {
        number: [row[1:] for row in sorted(module._rows(pairs[:size], bytes([number])), key=by_pair)]
        for number, size in [*((n, 12) for n in range(20)), *((n, 11) for n in range(20, 40))]
    }
    sides = {number: tuple(row[-1] for row in rows) for number, rows in made.items()}
    assert {sum(sides[number]) for number in range(20)} == {6}
    assert {sum(sides[number]) for number in range(20, 40)} == {5, 6}
    assert len(set(sides.values())) > 30
    for place in range(11):
        assert {sides[number][place] for number in sides} == {0, 1}, "no pair keeps its side"
    orders = {tuple(row[0] for row in rows) for rows in made.values()}
    assert len(orders) == 40


def test_links_are_known_apart(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    token = study.invite("anna")
    assert study.invite("anna") == token, "the same when asked again"
    assert Study(study.path).rater_of(token) == "page:anna"
    assert study.rater_of(study.invite("ben")) == "page:ben"
    assert study.invited() == {"anna": token, "ben": study.invite("ben")}
    for wrong in ("", "anna", token[:-1], token.upper() if token.upper() != token else "x", "é"):
        assert study.rater_of(wrong) is None
    for name in ("", " anna", "an\nna", "x" * 81):
        with pytest.raises(StudyError, match="a rater's name has 1 to 80 printable characters"):
            study.invite(name)


def test_a_study_is_never_overwritten_and_is_its_owners_alone(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    vote_all(study, rater(study, "anna"))
    before = study.path.read_bytes()
    with pytest.raises(StudyError, match=r"study.sqlite: exists already"):
        make_study(tmp_path)
    assert study.path.read_bytes() == before
    assert stat.S_IMODE(study.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("*sqlite*")] == ["study.sqlite"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study"):
        Study(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text(
        "not a database, but long enough to be one " * 100, encoding="utf-8"
    )
    with pytest.raises(StudyError, match="file is not a database"):
        Study(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(StudyError, match="no study of human evaluation"):
        Study(tmp_path / "other.sqlite")
    later = sqlite3.connect(make_study(tmp_path).path)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(StudyError, match="format 2, but this version reads format 1"):
        Study(tmp_path / "study.sqlite")


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    path = make_study(tmp_path).path
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE study SET settings = '{}'")
    connection.close()
    with pytest.raises(StudyError, match=r"study.sqlite: its settings are damaged: .*missing"):
        Study(path)


def test_settings_and_texts_survive(tmp_path: Path) -> None:
    study = make_study(tmp_path, num_turns=3, provenance={"protocol": {"k": [1, "ä"]}})
    assert Study(study.path).settings == study.settings
    assert json.loads(json.dumps(study.settings.provenance)) == {"protocol": {"k": [1, "ä"]}}
    pairs = {pair.conversation_id: pair for pair in drawn(tmp_path, 6, num_turns=3).pairs}
    for item in study.items():
        assert item[2:5] == tuple(pairs[item.conversation_id])[1:]


def answers(study: Study, *choices: Choice, who: str = "W1", first: int = 0) -> list[Imported]:
    return [
        Imported(item.item, who, choice, f"{who} {number}", f"file, line {number}")
        for number, (item, choice) in enumerate(
            zip(study.items()[first:], choices, strict=False), start=first
        )
    ]


def test_imports_are_idempotent_and_complete_or_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    some = answers(study, "left", "right", "tie")
    assert study.record(some, "mturk") == (3, 0, 0, 0)
    assert study.record(some, "mturk") == (0, 3, 0, 0)
    assert study.record(answers(study, "left", "right", "tie", "tie"), "mturk") == (1, 3, 0, 0)
    expected = {
        item.item: outcome_of(choice, item.system_is_left)
        for item, choice in zip(study.items(), ("left", "right", "tie", "tie"), strict=False)
    }
    assert {vote.item: vote.outcome for vote in study.votes()} == expected
    wrong = [*answers(study, "left", "left", who="W2"), Imported("f" * 16, "W2", "left", "x", "file, line 9")]
    with pytest.raises(StudyError, match="file, line 9: item 'ffffffffffffffff' is not of the study"):
        study.record(wrong, "mturk")
    assert len(study.votes()) == 4, "nothing of a file with a mistake"


def test_a_person_votes_once_on_a_platform_too(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert study.record(answers(study, "left"), "mturk") == (1, 0, 0, 0)
    again = [answers(study, "right")[0]._replace(source_id="another HIT")]
    assert study.record(again, "mturk") == (0, 0, 0, 1)
    assert study.record(answers(study, "right"), "mturk") == (0, 0, 1, 0), "the same answer, changed there"
    assert len(study.votes()) == 1
    assert choice_of(study.votes()[0].outcome, study.votes()[0].system_is_left) == "right"
    stolen = [answers(study, "right")[0]._replace(rater="W2")]
    with pytest.raises(StudyError, match="answer 'W1 0' came before with another rater or item"):
        study.record(stolen, "mturk")


def test_people_of_platforms_are_kept_as_digests(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    study.record(answers(study, "left", who="A2EXAMPLEWORKER"), "mturk")
    assert b"A2EXAMPLEWORKER" not in study.path.read_bytes()
    assert study.votes()[0].rater.startswith("mturk:")
    study.record(answers(study, "left", who="A2EXAMPLEWORKER", first=1), "mturk")
    assert len({vote.rater for vote in study.votes()}) == 1, "but known again"


def test_votes_of_a_platform_count_on_the_page(tmp_path: Path) -> None:
    study = make_study(tmp_path, votes=1)
    study.record(answers(study, *["tie"] * 5), "mturk")
    anna = rater(study, "anna")
    assert study.progress(anna).left == 1
    assert vote_all(study, anna) == [study.items()[5].item]


def test_identical_pairs_may_be_asked_for(tmp_path: Path) -> None:
    same = dict.fromkeys(range(12), "what ?")
    for system in ("vhcr-ud", "hred"):
        write_run(tmp_path, system, responses=same)
    assert len(drawn(tmp_path, 12, include_identical=True).pairs) == 12
