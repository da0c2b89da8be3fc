"""validation.json as a training reads it: sealed, so that a changed byte of it is not taken for a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictBool

from vhcr import layout
from vhcr.errors import ValidationError
from vhcr.files import file_digest, parse_record, read_object, values_digest
from vhcr.tokenisation.manifest import NAME, Manifest


class Verdict(BaseModel):
    """What a training has to know of it."""

    success: StrictBool
    data_hash: str
    manifest: str = ""  # SHA-256 of the manifest.json that it is about
    digest: str = ""  # of all the rest


def seal(report: Mapping[str, Any], tokenised: Path) -> dict[str, Any]:
    """A report on the data in ``tokenised``, with what tells later whether either was changed."""
    whole = {**report, "manifest": file_digest(tokenised / NAME)}
    return {**whole, "digest": values_digest(whole)}


def require_valid(corpus: str) -> None:
    """Nothing, where the tokenised data of ``corpus`` are those that were found valid.

    Raises:
        ValidationError: they are not valid, or one of the two files is about other data or was changed.
        DataError: one is missing or damaged.
    """
    path, tokenised = layout.validated(corpus) / "validation.json", layout.tokenised(corpus)
    report = read_object(path)
    verdict = parse_record(Verdict, report, str(path))
    if not verdict.success:
        raise ValidationError(f"{path}: the data of {corpus!r} is not valid")
    if verdict.data_hash != Manifest.load(tokenised).data_hash:
        raise ValidationError(f"{path}: is about other data than {tokenised} holds now")
    again = f"Make it again: remove it, then dvc repro validate@{corpus}"
    if report.pop("digest", "") != values_digest(report):
        raise ValidationError(f"{path}: was damaged or changed since it was written. {again}")
    if verdict.manifest != file_digest(tokenised / NAME):
        raise ValidationError(f"{tokenised / NAME}: is not the file that {path} is about. {again}")
