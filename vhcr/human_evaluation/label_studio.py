"""Label Studio: tasks and their labelling configuration out, the JSON export back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vhcr.errors import DataError, StudyError
from vhcr.files import read_json
from vhcr.human_evaluation.study import CHOICES, Choice, Imported, Item, Study

SOURCE = "label-studio"
CONTROL = "choice"  # the name of the Choices tag in label_studio.xml
NOTHING = "(says nothing)"


def export(study: Study) -> dict[str, str]:
    """The files to load: ``config.xml`` for the project, ``tasks.json`` with one task an item."""
    tasks = [{"data": _data(item)} for item in study.items()]
    return {
        "config.xml": resources.files(__package__).joinpath("label_studio.xml").read_text(encoding="utf-8"),
        "tasks.json": json.dumps(tasks, indent=1, ensure_ascii=False) + "\n",
    }


def read(path: Path, study: Study) -> Iterator[Imported]:
    """The answers in an export of the kind "JSON"; skipped tasks are passed over.

    Raises:
        StudyError: the file cannot be read or is no such export, or an annotation has no usable answer or a
            task other texts than the study.
    """
    expected = {item.item: _data(item) for item in study.items()}
    try:
        tasks = read_json(path)
    except (DataError, UnicodeDecodeError) as error:
        raise StudyError(str(error)) from None
    if not isinstance(tasks, list):
        raise StudyError(f"{path}: expected a list of tasks, found {type(tasks).__name__}")
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {number}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or "annotations" not in task:
            raise StudyError(
                f"{where}: no data and annotations: is this an export of the kind JSON (not JSON-MIN)?"
            )
        data = task["data"]
        item = data.get("item")
        if item not in expected:
            raise StudyError(f"{where}: data.item = {item!r} is not of the study {study.path}")
        for name, value in expected[item].items():
            if data.get(name) != value:
                raise StudyError(
                    f"{where}: data.{name} = {data.get(name)!r}, but the study has {value!r} there"
                )
        for annotation in (
            task["annotations"] if isinstance(task["annotations"], list) else [task["annotations"]]
        ):
            found = _answer(annotation, str(item), where)
            if found is not None:
                yield found


def _answer(annotation: Any, item: str, where: str) -> Imported | None:
    if not isinstance(annotation, dict) or annotation.get("id") is None:
        raise StudyError(f"{where}: an annotation without an id: {annotation!r}")
    where = f"{where}, annotation {annotation['id']}"
    if annotation.get("was_cancelled"):
        return None
    # A number, or where the export asks for it the whole person.
    rater = annotation.get("completed_by")
    if isinstance(rater, dict):
        rater = rater.get("id")
    if rater is None:
        raise StudyError(f"{where}: completed_by = {annotation.get('completed_by')!r}: whose vote is this?")
    # Annotations are numbered by each Label Studio anew; a study may be in several.
    name = f"{item} {rater} {annotation['id']}"
    return Imported(item, str(rater), _choice(annotation, where), name, where)


def _choice(annotation: Mapping[str, Any], where: str) -> Choice:
    results = annotation.get("result")
    chosen = [value for result in results for value in _values(result)] if isinstance(results, list) else []
    for choice in CHOICES:
        if chosen == [choice]:
            return choice
    raise StudyError(
        f"{where}: expected one of {', '.join(CHOICES)} as the answer, found {chosen or results!r}"
    )


def _values(result: Any) -> list[Any]:
    """What one result of an annotation chose; nothing for results of other controls."""
    if not isinstance(result, dict) or result.get("from_name") != CONTROL:
        return []
    value = result.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    return choices if isinstance(choices, list) else [choices]


def _data(item: Item) -> dict[str, Any]:
    """The data of a task. Paragraphs name a speaker in turn, as the page's bubbles change sides."""
    left, right = item.sides
    start = len(item.context)
    return {
        "item": item.item,
        "context": _paragraphs(item.context, 0),
        "left": _paragraphs(left, start),
        "right": _paragraphs(right, start),
    }


def _paragraphs(turns: tuple[str, ...], first: int) -> list[dict[str, str]]:
    return [
        {"speaker": "AB"[(first + number) % 2], "text": text or NOTHING} for number, text in enumerate(turns)
    ]
