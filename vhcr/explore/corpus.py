"""The conversations a run knows, as people read them: texts, speakers and labels beside the token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vhcr import files, layout
from vhcr.batch import Ints
from vhcr.conversation import SPLITS
from vhcr.errors import DataError, ParameterError
from vhcr.token_files import Conversations
from vhcr.training.run import TrainedRun

ALL = "all"


@dataclass(frozen=True)
class Corpus:
    """Conversations of one split or of all, numbered from 0 in the order of the splits and of their files."""

    splits: tuple[str, ...]
    data: tuple[Conversations, ...]  # one for each split
    texts: tuple[tuple[str, ...], ...]  # [conversations][turns], as they were written
    speakers: tuple[tuple[str | None, ...], ...]  # [conversations][turns]
    words: tuple[tuple[tuple[str, ...], ...], ...]  # [conversations][turns][words], as a model hears them
    labels: dict[str, list[str | None]]  # of conversations: name -> [conversations]
    turn_labels: dict[str, dict[tuple[int, int], str]]  # of utterances: name -> (conversation, turn) -> value

    @cached_property
    def ids(self) -> list[str]:
        """The name of each conversation."""
        return [name for data in self.data for name in data.ids]

    @cached_property
    def split_of(self) -> list[str]:
        """The split of each conversation."""
        return [split for split, data in zip(self.splits, self.data, strict=True) for _ in range(len(data))]

    def __len__(self) -> int:
        return len(self.texts)

    def utterances(self, number: int) -> list[Ints]:
        """Token ids of each utterance of conversation ``number``."""
        for data in self.data:
            if number < len(data):
                return data.utterances(number)
            number -= len(data)
        raise IndexError(number)

    @classmethod
    def load(cls, run: TrainedRun, split: str = "test", folder: Path | None = None) -> Corpus:
        """The data that ``run`` was trained on, as stage tokenise left them in ``folder``.

        Raises:
            ParameterError: there is no such split.
            DataError: the data are missing, damaged, or not those of the run.
        """
        if split not in (*SPLITS, ALL):
            raise ParameterError(f"split = {split!r}: must be one of {', '.join(SPLITS)} or {ALL}")
        folder = folder or layout.tokenised(str(run.info["corpus"]))
        manifest = files.read_object(folder / "manifest.json")
        if manifest.get("data_hash") != run.info.get("data_hash"):
            raise DataError(
                f"{folder / 'manifest.json'}: data {str(manifest.get('data_hash'))[:12]}, but the run was "
                f"trained on {str(run.info.get('data_hash'))[:12]}"
            )
        splits = SPLITS if split == ALL else (split,)
        data = tuple(
            Conversations.load(folder / "token_ids" / f"{name}.parquet", len(run.vocabulary))
            for name in splits
        )
        number = {name: place for place, name in enumerate(name for part in data for name in part.ids)}
        turns = [size for part in data for size in part.num_turns.tolist()]
        texts: list[list[str]] = [[""] * size for size in turns]
        speakers: list[list[str | None]] = [[None] * size for size in turns]
        words: list[list[tuple[str, ...]]] = [[()] * size for size in turns]
        columns = ["conversation_id", "turn", "text", "speaker", "words"]
        for name, turn, *said in _rows(folder / "utterances.parquet", columns, splits):
            if name in number and turn < turns[number[name]]:
                place = number[name]
                texts[place][turn], speakers[place][turn] = said[0], said[1]
                words[place][turn] = tuple(said[2])
        labels: dict[str, list[str | None]] = {}
        turn_labels: dict[str, dict[tuple[int, int], str]] = {}
        columns = ["conversation_id", "turn", "name", "value"]
        for name, turn, label, value in _rows(folder / "labels.parquet", columns, splits):
            if name not in number:
                continue
            if turn is None:
                labels.setdefault(label, [None] * len(turns))[number[name]] = value
            else:
                turn_labels.setdefault(label, {})[number[name], turn] = value
        return cls(
            splits,
            data,
            tuple(map(tuple, texts)),
            tuple(map(tuple, speakers)),
            tuple(map(tuple, words)),
            labels,
            turn_labels,
        )


def _rows(path: Path, columns: Sequence[str], splits: Sequence[str]) -> Any:
    """The rows of a file of stage tokenise that belong to ``splits``."""
    try:
        table = pq.read_table(path, columns=list(columns), filters=[("split", "in", list(splits))])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    return zip(*(column.to_pylist() for column in table.columns), strict=True)
