"""Crowd platforms: what goes out can be shown as it is, what comes back is checked line by line."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.human_evaluation.studies import make_study
from vhcr.errors import StudyError
from vhcr.human_evaluation import label_studio, mturk
from vhcr.human_evaluation.study import Choice, Study, choice_of

# The columns of a batch's results, in MTurk's order.
BEFORE = (
    "HITId", "HITTypeId", "Title", "Description", "Keywords", "Reward", "CreationTime",
    "MaxAssignments", "RequesterAnnotation", "AssignmentDurationInSeconds",
    "AutoApprovalDelayInSeconds", "Expiration", "NumberOfSimilarHITs", "LifetimeInSeconds",
    "AssignmentId", "WorkerId", "AssignmentStatus", "AcceptTime", "SubmitTime", "AutoApprovalTime",
    "ApprovalTime", "RejectionTime", "RequesterFeedback", "WorkTimeInSeconds", "LifetimeApprovalRate",
    "Last30DaysApprovalRate", "Last7DaysApprovalRate",
)  # fmt: skip
Answerer = Callable[[Choice], dict[str, str]]
FORMS: dict[str, Answerer] = {
    "plain": lambda choice: {"Answer.choice": choice},
    "columns": lambda choice: {
        f"Answer.choice.{each}": str(each == choice).lower() for each in ("left", "right", "tie")
    },
    "crowd-form": lambda choice: {
        "Answer.taskAnswers": json.dumps(
            [{"choice": {each: each == choice for each in ("left", "right", "tie")}}]
        )
    },
    "flattened": lambda choice: {"Answer.taskAnswers": json.dumps([{f"choice.{choice}": True}])},
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path, num_turns=3, votes=2)


def uploaded(study: Study) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(mturk.export(study)["batch.csv"])))


def results(
    study: Study,
    path: Path,
    choices: Sequence[Choice] = ("left", "right", "tie"),
    form: Answerer = FORMS["crowd-form"],
    **changes: str,
) -> Path:
    """A batch's results: two workers each give the same choices to the first items."""
    rows = []
    for worker in ("W1", "W2"):
        for number, (row, choice) in enumerate(zip(uploaded(study), choices, strict=False)):
            rows.append(
                {
                    **dict.fromkeys(BEFORE, ""),
                    "AssignmentId": f"A{worker}{number}",
                    "WorkerId": worker,
                    "AssignmentStatus": "Submitted",
                    **{f"Input.{name}": text for name, text in row.items()},
                    **form(choice),
                    "Approve": "",
                    "Reject": "",
                    **changes,
                }
            )
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def sides(study: Study) -> dict[str, set[str]]:
    return {
        item.item: {choice_of(v.outcome, v.system_is_left) for v in study.votes() if v.item == item.item}
        for item in study.items()
    }


def test_mturk_shows_every_turn_and_no_markup(study: Study) -> None:
    files = mturk.export(study)
    rows = uploaded(study)
    assert list(rows[0]) == [
        "item",
        "context1",
        "context2",
        "left1",
        "left2",
        "left3",
        "right1",
        "right2",
        "right3",
    ]
    for name in list(rows[0])[1:]:
        assert f"<li>${{{name}}}</li>" in files["layout.html"]
    assert files["layout.html"].count("${") == 8, "each of them once, and the item nowhere"
    assert len(rows) == 6
    for row, item in zip(rows, study.items(), strict=True):
        shown = item.system_response if item.system_is_left else item.opponent_response
        assert row["item"] == item.item
        for number, text in enumerate(shown, start=1):
            assert row[f"left{number}"] == text.replace("&", "&amp;").replace("<", "&lt;").replace(
                ">", "&gt;"
            )
    assert "vhcr" not in files["layout.html"] + ",".join(rows[0])


@pytest.mark.parametrize("form", FORMS)
def test_mturk_results_come_home_in_every_form_of_answer(study: Study, tmp_path: Path, form: str) -> None:
    path = results(study, tmp_path / "batch.csv", form=FORMS[form])
    assert study.record(mturk.read(path, study), mturk.SOURCE) == (6, 0, 0, 0)
    assert study.record(mturk.read(path, study), mturk.SOURCE) == (0, 6, 0, 0)
    assert list(sides(study).values()) == [{"left"}, {"right"}, {"tie"}, set(), set(), set()]


def test_rejected_work_does_not_count(study: Study, tmp_path: Path) -> None:
    path = results(study, tmp_path / "batch.csv", AssignmentStatus="Rejected")
    assert list(mturk.read(path, study)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Input.item": "f" * 16}, "line 2: item 'ffffffffffffffff' is not of the study"),
        ({"Input.left1": "another text"}, "line 2: Input.left1 = 'another text', but the study has 'answer"),
        ({"AssignmentStatus": "Maybe"}, "line 2: AssignmentStatus = 'Maybe'"),
        ({"WorkerId": " "}, "line 2: WorkerId is empty"),
        (
            {"Answer.taskAnswers": "[{}]"},
            r"line 2: expected one of left, right, tie as the answer, found \{'Answer",
        ),
        ({"Answer.taskAnswers": ""}, "line 2: expected one of left, right, tie as the answer, found none"),
        ({"Answer.taskAnswers": "[{"}, "line 2: Answer.taskAnswers is not valid JSON"),
        (
            {"Answer.taskAnswers": '{"choice": {"left": true, "tie": true}}'},
            "expected one of left, right, tie",
        ),
        ({"Answer.taskAnswers": '{"choice": "system"}'}, "expected one of left, right, tie"),
    ],
)
def test_mturk_mistakes_are_named(
    study: Study, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    path = results(study, tmp_path / "batch.csv", **changes)
    with pytest.raises(StudyError, match=rf"batch\.csv, {message}|{message}"):
        study.record(mturk.read(path, study), mturk.SOURCE)
    assert study.votes() == []


def test_other_files_are_told_apart_from_mturks(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "batch.csv"
    path.write_text(mturk.export(study)["batch.csv"], encoding="utf-8")
    with pytest.raises(StudyError, match=r"batch.csv: no column AssignmentId"):
        list(mturk.read(path, study))
    results(study, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].rpartition(",")[0]]), encoding="utf-8")
    with pytest.raises(StudyError, match=r"batch.csv, line 3: 39 fields expected"):
        list(mturk.read(path, study))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match=r"batch.csv: cannot be read"):
        list(mturk.read(path, study))
    with pytest.raises(StudyError, match=r"none.csv: cannot be read: No such file"):
        list(mturk.read(tmp_path / "none.csv", study))


def exported(
    study: Study, choices: Sequence[Any] = ("left", "right", "tie"), **changes: Any
) -> list[dict[str, Any]]:
    """What Label Studio exports: two people annotate the first tasks, and one skips."""
    tasks = json.loads(label_studio.export(study)["tasks.json"])
    made = []
    for number, (task, choice) in enumerate(zip(tasks, choices, strict=False)):
        result = {
            "from_name": "choice",
            "to_name": "context",
            "id": "x",
            "type": "choices",
            "value": {"choices": [choice]},
        }
        annotations = [
            {
                "id": 10 * number + person,
                "completed_by": person,
                "was_cancelled": False,
                "result": [result],
                **changes,
            }
            for person in (1, 2)
        ]
        annotations.append({"id": 10 * number + 3, "completed_by": 3, "was_cancelled": True, "result": []})
        made.append({"id": number + 1, "data": task["data"], "annotations": annotations})
    return made


def saved(tmp_path: Path, tasks: Any) -> Path:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def test_label_studio_has_what_its_configuration_names(study: Study) -> None:
    files = label_studio.export(study)
    config = ElementTree.fromstring(files["config.xml"])
    tasks = json.loads(files["tasks.json"])
    shown = {each.attrib["value"] for each in config.iter("Paragraphs")}
    assert shown == {"$context", "$left", "$right"}
    names = {each.attrib["name"] for each in config.iter("Paragraphs")}
    choices = config.find("Choices")
    assert choices is not None
    assert choices.attrib["toName"] in names
    assert {choice.attrib["alias"] for choice in choices} == {"left", "tie", "right"}
    assert len(tasks) == 6
    for task, item in zip(tasks, study.items(), strict=True):
        data = task["data"]
        assert [said["text"] for said in data["left"]] == list(item.sides[0])
        assert [said["text"] for said in data["right"]] == list(item.sides[1])
        assert [said["speaker"] for said in data["context"] + data["left"]] == ["A", "B", "A", "B", "A"]
    assert "vhcr" not in files["config.xml"]


def test_label_studio_results_come_home(study: Study, tmp_path: Path) -> None:
    path = saved(tmp_path, exported(study))
    assert study.record(label_studio.read(path, study), label_studio.SOURCE) == (6, 0, 0, 0)
    assert list(sides(study).values()) == [{"left"}, {"right"}, {"tie"}, set(), set(), set()]
    path = saved(tmp_path, exported(study, ("left", "right", "left", "tie")))
    assert study.record(label_studio.read(path, study), label_studio.SOURCE) == (2, 4, 2, 0)
    assert list(sides(study).values())[2] == {"left"}, "changed there"
    people = exported(study, completed_by={"id": 1, "email": "a@b.example"})
    assert {answer.rater for answer in label_studio.read(saved(tmp_path, people), study)} == {"1"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda tasks: tasks[1]["data"].update(item="f" * 16),
            "task 2: data.item = 'ffffffffffffffff' is not of",
        ),
        (lambda tasks: tasks[1]["data"].update(left=[]), r"task 2: data.left = \[\], but the study has"),
        (lambda tasks: tasks[1].pop("annotations"), "task 2: no data and annotations.*not JSON-MIN"),
        (
            lambda tasks: tasks[1]["annotations"][0].update(result=[]),
            r"task 2, annotation 11: expected one of left, right, tie as the answer, found \[\]",
        ),
        (
            lambda tasks: tasks[1]["annotations"][0]["result"][0]["value"].update(choices=["left", "tie"]),
            "task 2, annotation 11: expected one of",
        ),
        (
            lambda tasks: tasks[1]["annotations"][0].update(completed_by=None),
            "task 2, annotation 11: completed_by = None: whose vote",
        ),
        (lambda tasks: tasks[1]["annotations"][0].pop("id"), "task 2: an annotation without an id"),
    ],
)
def test_label_studio_mistakes_are_named(
    study: Study, tmp_path: Path, spoil: Callable[[Any], object], message: str
) -> None:
    tasks = exported(study)
    spoil(tasks)
    path = saved(tmp_path, tasks)
    with pytest.raises(StudyError, match=rf"export\.json, {message}"):
        study.record(label_studio.read(path, study), label_studio.SOURCE)
    assert study.votes() == []


def test_other_files_are_told_apart_from_label_studios(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"export.json: expected a list of tasks, found dict"):
        list(label_studio.read(saved(tmp_path, {}), study))
    (tmp_path / "export.json").write_text("[", encoding="utf-8")
    with pytest.raises(StudyError, match=r"export.json: not valid JSON"):
        list(label_studio.read(tmp_path / "export.json", study))
