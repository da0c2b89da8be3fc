"""The paper's own figures (Tables 1 to 4), as printed; paper.json holds them."""

from __future__ import annotations

from functools import cached_property, lru_cache
from importlib import resources

from pydantic import BaseModel


class PaperFigures:
    """The paper's figures for one of its corpora, or none for a corpus that it did not use."""

    def __init__(self, corpus: str | None) -> None:
        self.corpus = corpus
        known = _read().corpora
        if corpus is not None and corpus not in known:
            raise ValueError(f"the paper has no corpus {corpus!r}; it has {', '.join(known)}")

    def value(self, system: str, key: str, table: int | None = None) -> float | None:
        """The figure under a key of table.json, from the named table or whichever has it."""
        for figure in self._figures:
            if (figure.system, figure.measure) == (system, key) and table in (None, figure.table):
                return figure.value
        return None

    @property
    def name(self) -> str | None:
        """The corpus as the paper calls it."""
        return None if self.corpus is None else _read().corpora[self.corpus]

    @property
    def diamond(self) -> str:
        """What a caption says of the paper's marks."""
        return "; diamonds are the paper's figures" if self.corpus else ""

    def note(self, table: int) -> str:
        """What one should know when reading a table's figures; empty without any."""
        if self.corpus is None:
            return ""
        notes = _read().notes
        return notes.get(f"{table}.{self.corpus}", notes.get(str(table), ""))

    @staticmethod
    def source() -> str:
        """The citation."""
        return _read().source

    @cached_property
    def _figures(self) -> list[_Printed]:
        return [figure for figure in _read().figures if figure.corpus == self.corpus]


def paper_corpus(reader: str) -> str | None:
    """Which of the paper's corpora a reader of raw files reads, if either."""
    return reader if reader in _read().corpora else None


class _Printed(BaseModel):
    table: int
    corpus: str
    system: str
    measure: str
    value: float


class _Paper(BaseModel):
    source: str
    corpora: dict[str, str]  # reader -> what the paper calls it
    notes: dict[str, str]  # table, or table.corpus -> what one should know
    figures: list[_Printed]


@lru_cache(maxsize=1)
def _read() -> _Paper:
    text = resources.files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    return _Paper.model_validate_json(text)
