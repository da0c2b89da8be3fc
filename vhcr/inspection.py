"""A look at conversations before anything runs: format, examples, what would be lost, settings to use."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhcr import corpora, preset
from vhcr.conversation import Conversation
from vhcr.corpora.placing import place_file, place_folder
from vhcr.corpora.recognise import Recognised, recognise
from vhcr.errors import CorpusError, DataError, ParameterError
from vhcr.params import CORPUS_SECTIONS, Params, TokenisationParams
from vhcr.tokenisation.account import Line, account
from vhcr.tokenisation.dataset import Dataset, build

NUM_EXAMPLES = 3
# What tells one's own conversations from the published corpora.
TOKENISATION = {
    "long_conversations": "windows",
    "strip_html": True,
    "symbols": True,
    "segmenter": "auto",
}
UNKNOWN_FROM = 0.12  # below the 0.15 that validation allows


@dataclass(frozen=True)
class Inspection:
    """What was found, and the corpus's section for params.yaml: only where it differs from the defaults.

    ``problem`` says why nothing can be trained on it (too few conversations, say); then there is no section.
    """

    description: str
    examples: tuple[Conversation, ...]
    lines: tuple[Line, ...]
    section: dict[str, Any]
    problem: str | None = None


def inspect(path: Path, params: Params, overrides: Mapping[str, Any] | None = None) -> Inspection:
    """Read all of ``path`` as ``vhcr add`` would have it read, in a scratch folder; nothing is kept.

    ``overrides`` are keys of a source section that are known better than by a look.

    Raises:
        CorpusError: no such path, no known format, or not one conversation.
    """
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    base = {"reader": "auto", "path": str(path), **(overrides or {})}
    source = params.changed({"defaults": {"source": base}}).defaults.source
    with tempfile.TemporaryDirectory(prefix="vhcr-inspect-") as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        reader = source.reader
        if path.is_dir():
            place_folder(path, raw, reader)
        else:
            place_file(path, path.name, raw, reader)
        with _naming(path, raw):
            found = recognise(raw, source) if reader == "auto" else Recognised(source, f"read as {reader}")
        tokenisation = params.defaults.tokenisation.model_copy(
            update={
                **TOKENISATION,
                "merge_speaker_turns": found.is_chat,
                "min_turns": 2 if found.is_chat else 1,
            }
        )
        examples: list[Conversation] = []
        try:
            with _naming(path, raw):
                dataset, settings = _fitted(raw, found, tokenisation, Path(scratch), examples)
        except DataError as error:
            return Inspection(found.description, tuple(examples), (), {}, problem=str(error))
    section = _section(path, found, params, settings, dataset)
    lines = tuple(account(dataset.manifest, dataset.metrics))
    return Inspection(found.description, tuple(examples), lines, section)


@contextmanager
def _naming(path: Path, raw: Path) -> Iterator[None]:
    """Errors name the file that somebody gave, not its copy in the scratch folder."""
    try:
        yield
    except CorpusError as error:
        copied = raw if path.is_dir() else next((file for file in raw.iterdir() if file.is_file()), raw)
        raise CorpusError(str(error).replace(str(copied), str(path)).replace(str(raw), str(path))) from error


def _fitted(
    raw: Path, found: Recognised, base: TokenisationParams, scratch: Path, examples: list[Conversation]
) -> tuple[Dataset, TokenisationParams]:
    """The corpus, tokenised by the rules for its size: once to see that, and again where they are others."""
    first = base.model_copy(update={"max_words": 30, "min_count": 1, "vocabulary_size": 20_000})
    dataset = _built(raw, found, first, scratch / "1", examples)
    words = sum(split["words"] for split in dataset.manifest["splits"].values())
    size = preset.size_for(dataset.metrics["vocabulary"]["counted_words"])
    fitting = first.model_copy(
        update={
            "max_words": preset.max_words_for(dataset.metrics, words),
            "min_count": size.min_count,
            "vocabulary_size": size.vocabulary_size,
        }
    )
    if fitting != first:
        dataset = _built(raw, found, fitting, scratch / "2", [])
    if _unknown(dataset) > UNKNOWN_FROM and fitting.min_count > 1:
        fitting = fitting.model_copy(update={"min_count": 1, "vocabulary_size": 20_000})
        dataset = _built(raw, found, fitting, scratch / "3", [])
    return dataset, fitting


def _built(
    raw: Path, found: Recognised, tokenisation: TokenisationParams, folder: Path, examples: list[Conversation]
) -> Dataset:
    skipped = corpora.Skipped()

    def seen(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            if len(examples) < NUM_EXAMPLES:
                examples.append(conversation)
            yield conversation

    read = seen(corpora.read(raw, found.source, skipped))
    dataset = build(read, tokenisation, folder, corpus=raw.name)
    dataset.metrics["read"]["skipped"] = skipped.as_dict()
    return dataset


def _unknown(dataset: Dataset) -> float:
    return max(float(split["unknown_fraction"]) for split in dataset.metrics["splits"].values())


def _section(
    path: Path, found: Recognised, params: Params, tokenisation: TokenisationParams, dataset: Dataset
) -> dict[str, Any]:
    plain = params.defaults.model_dump(mode="json")
    source = _differing(found.source.model_dump(mode="json"), plain["source"])
    own = {
        "source": {"reader": found.source.reader, "path": str(path), **source},
        "tokenisation": _differing(tokenisation.model_dump(mode="json"), plain["tokenisation"]),
        "validation": {},
        "generation": _differing(
            {"unknown_words": "never", "max_words": tokenisation.max_words}, plain["generation"]
        ),
    }
    own |= preset.sections(
        dataset.metrics["vocabulary"]["counted_words"], dataset.manifest["splits"]["train"]["conversations"]
    )
    unknown = _unknown(dataset)
    if unknown > UNKNOWN_FROM:
        # So few conversations that many words of the held-out ones are new; the console says the share.
        own["validation"] = {"max_unknown_fraction": min(1.0, math.ceil(unknown * 20 + 1) / 20)}
    return {name: own.get(name, {}) for name in CORPUS_SECTIONS}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that are not the defaults'."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if inner := _differing(value, defaults.get(key) or {}):
                found[key] = inner
        elif value != defaults.get(key) and key != "path":
            found[key] = value
    return found


def refuse_name(file: Path, name: str, *, replace: bool) -> None:
    """Whether a file of parameters takes a corpus of this name; asked before all of it is read.

    Raises:
        ParameterError: the name is none, or is there already.
    """
    params = Params.load(file)
    if name in params.corpora and not replace:
        raise ParameterError(f"{file}: corpora.{name} is there already; --replace writes it anew")
    params.changed({"corpora": {name: {key: {} for key in CORPUS_SECTIONS}}})


def add(
    file: Path, name: str, section: Mapping[str, Any], *, replace: bool = False, activate: bool = True
) -> None:
    """Write ``section`` into a file of parameters as corpus ``name``; comments and order stay.

    ``activate`` makes it the only active corpus, with the systems that ``preset`` names.

    Raises:
        ParameterError: the name is none, is there already, or the file would not be valid.
    """
    from dvc.utils.serialize import modify_yaml

    refuse_name(file, name, replace=replace)
    params = Params.load(file)
    changes: dict[str, Any] = {"corpora": {name: dict(section)}}
    if activate:
        changes["active"] = {"corpora": [name], "systems": list(preset.SYSTEMS)}
    params.changed(changes)  # refused before anything is written
    with modify_yaml(file) as values:
        values["corpora"][name] = dict(section)
        if activate:
            values["active"] |= changes["active"]
