"""Amazon Mechanical Turk: a layout and its CSV out, a batch's results CSV back.

MTurk puts the fields of the CSV into the layout as they are, as HTML, so every text is escaped here.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vhcr.errors import StudyError
from vhcr.human_evaluation.study import CHOICES, Choice, Imported, Item, Study

SOURCE = "mturk"
COUNTED = {"Submitted", "Approved"}
NEEDED = ("AssignmentId", "WorkerId", "AssignmentStatus", "Input.item")
NOTHING = "(says nothing)"


def export(study: Study) -> dict[str, str]:
    """The files to upload: ``layout.html`` for the project, ``batch.csv`` with one HIT a row."""
    items = study.items()
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(_fields(items[0])), lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(_fields(item) for item in items)
    return {"layout.html": _layout(items[0]), "batch.csv": stream.getvalue()}


def read(path: Path, study: Study) -> Iterator[Imported]:
    """The answers in a batch's results ("Download CSV"); rejected assignments are passed over.

    Raises:
        StudyError: the file cannot be read, lacks a column, or a line has no usable answer or other texts
            than the study.
    """
    expected = {item.item: _fields(item) for item in study.items()}
    try:
        stream = io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    reader = csv.DictReader(stream, strict=True)
    try:
        columns = reader.fieldnames or []
        for name in NEEDED:
            if name not in columns:
                raise StudyError(f"{path}: no column {name}: is this the results file of an MTurk batch?")
        if not any(name.startswith("Answer.") for name in columns):
            raise StudyError(f"{path}: no column Answer...: nobody has answered this batch yet")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise StudyError(f"{where}: {len(columns)} fields expected")
            status = row["AssignmentStatus"]
            if status == "Rejected":
                continue
            if status not in COUNTED:
                raise StudyError(f"{where}: AssignmentStatus = {status!r}")
            for name in ("AssignmentId", "WorkerId", "Input.item"):
                if not row[name].strip():
                    raise StudyError(f"{where}: {name} is empty")
            item = row["Input.item"]
            if item not in expected:
                raise StudyError(f"{where}: item {item!r} is not of the study {study.path}")
            for name, text in expected[item].items():
                seen = row.get(f"Input.{name}", text)
                if html.unescape(seen) != html.unescape(text):
                    raise StudyError(f"{where}: Input.{name} = {seen!r}, but the study has {text!r} there")
            yield Imported(item, row["WorkerId"], _choice(row, where), row["AssignmentId"], where)
    except csv.Error as error:
        raise StudyError(f"{path}, line {reader.line_num}: {error}") from None


def _choice(row: Mapping[str, str], where: str) -> Choice:
    """The answer, in each of the forms that MTurk has given one radio group."""
    chosen: list[str] = []
    for name, value in row.items():
        if name == "Answer.choice" and value:
            chosen.append(value)
        elif name.startswith("Answer.choice.") and value.lower() in {"true", "on"}:
            chosen.append(name.removeprefix("Answer.choice."))
        elif name == "Answer.taskAnswers" and value:
            try:
                chosen += _chosen(json.loads(value))
            except ValueError as error:
                raise StudyError(f"{where}: {name} is not valid JSON: {error}") from None
    for choice in CHOICES:
        if chosen == [choice]:
            return choice
    answers = {name: value for name, value in row.items() if name.startswith("Answer.") and value}
    raise StudyError(
        f"{where}: expected one of {', '.join(CHOICES)} as the answer, found {answers or 'none'}"
    )


def _chosen(answers: Any) -> list[str]:
    """What is chosen in the JSON of a crowd-form: {"choice": {"left": true, ...}}, perhaps flattened."""
    found: list[str] = []
    for group in answers if isinstance(answers, list) else [answers]:
        for name, value in group.items() if isinstance(group, dict) else ():
            if name == "choice" and isinstance(value, str):
                found.append(value)
            elif name == "choice" and isinstance(value, dict):
                found += [key for key, on in value.items() if on is True]
            elif name.startswith("choice.") and value is True:
                found.append(name.removeprefix("choice."))
    return found


def _fields(item: Item) -> dict[str, str]:
    """The row of an item: its id, and each turn of the context and of both responses, escaped."""
    left, right = item.sides
    groups = {"context": item.context, "left": left, "right": right}
    texts = {
        f"{name}{number}": _escape(text or NOTHING)
        for name, turns in groups.items()
        for number, text in enumerate(turns, start=1)
    }
    return {"item": item.item, **texts}


def _escape(text: str) -> str:
    # A dollar sign could begin a variable of the layout.
    return html.escape(text).replace("$", "&#36;")


def _layout(item: Item) -> str:
    """The layout with as many turns as the items of this study have: all have the same number."""
    template = resources.files(__package__).joinpath("mturk.html").read_text(encoding="utf-8")
    for group in ("context", "left", "right"):
        names = [name for name in _fields(item) if name.rstrip("0123456789") == group]
        template = template.replace(f"<!-- {group} -->", "".join(f"<li>${{{name}}}</li>" for name in names))
    return template
