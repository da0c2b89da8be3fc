"""manifest.json of a tokenised corpus, and holding its tables against it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, NonNegativeInt

from vhcr.conversation import SPLITS
from vhcr.errors import DataError
from vhcr.files import file_digest, read_record
from vhcr.params import TokenisationParams
from vhcr.tokenisation.rules import Rules
from vhcr.tokenisation.tables import ALL

NAME = "manifest.json"


class SplitSizes(BaseModel):
    """What the tables hold of one split; EOS is counted among the words."""

    conversations: NonNegativeInt
    utterances: NonNegativeInt
    words: NonNegativeInt


class Manifest(BaseModel):
    """What a tokenised corpus is: its digests, the parameters that made it, its sizes."""

    format: int
    corpus: str
    data_hash: str  # of conversations, vocabulary and labels, whatever files hold them
    vocabulary_hash: str
    rules: Rules  # by which text became words
    tokenisation: TokenisationParams
    splits: dict[str, SplitSizes]
    files: dict[str, str]  # SHA-256 of each table, by its name

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest of the corpus in ``folder``.

        Raises:
            DataError: it is missing or damaged; the message names file and key.
        """
        manifest = read_record(cls, folder / NAME)
        for split in SPLITS:
            if split not in manifest.splits:
                raise DataError(f"{folder / NAME}: splits.{split}: missing key")
        return manifest

    @classmethod
    def of(cls, folder: Path, *names: str) -> Manifest:
        """The manifest, after the tables ``names`` (all of them where none is named) are held against it.

        Raises:
            DataError: as ``load``, or a table is missing or is not the one that the manifest names.
        """
        manifest = cls.load(folder)
        for name in names or [f"{table}.parquet" for table in (*ALL, "vocabulary")]:
            if name not in manifest.files:
                raise DataError(f"{folder / NAME}: files.{name}: missing key")
            try:
                found = file_digest(folder / name)
            except OSError as error:
                raise DataError(f"{folder / name}: cannot be read: {error.strerror}") from None
            if found != manifest.files[name]:
                raise DataError(
                    f"{folder / name}: is not the file that {NAME} beside it names "
                    f"(SHA-256 {found[:12]}, expected {manifest.files[name][:12]}): damaged or changed. "
                    "Make it again: remove the folder, and the file's copy in DVC's cache, then dvc repro"
                )
        return manifest


def table_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each table in ``folder``, by its name."""
    return {name: file_digest(folder / name) for name in sorted(f"{name}.parquet" for name in names)}
