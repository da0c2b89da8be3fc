"""What became of a corpus, told in lines: what was read, left out, cut and shared, each with an example."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# From this share on, what another split repeats is a warning.
LEAKAGE_FROM = 0.01
CUT_FROM = 0.05
REASONS = {
    "empty_utterances": "utterances without a word left out",
    "empty_conversations": "conversations without a word left out",
    "short_conversations": "conversations shorter than tokenisation.min_turns left out",
    "conversations_in_no_list": "conversations left out: others have a split, they have none",
    "copies": "training conversations left out: validation or test hold them, too",
}
LEAKS = {
    "conversation_words": "have the words of one",
    "token_ids": "are equal, as a model sees them, to one",
}


class Line(NamedTuple):
    """One line for the console."""

    level: int
    text: str


def account(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[Line]:
    """The lines for one tokenised corpus, from its manifest.json and metrics.json."""
    info, warning = logging.INFO, logging.WARNING
    read, skipped = metrics["read"], metrics["read"]["skipped"]
    yield Line(
        info,
        f"read {read['conversations']:,} conversations of {read['utterances']:,} utterances; "
        f"{skipped['records']:,} records skipped",
    )
    for reason, count in skipped["by_reason"].items():
        yield Line(warning, f"skipped {count:,}: {reason}{_example(skipped['examples'].get(reason))}")
    for reason, count in skipped["noted"].items():
        yield Line(info, f"{count:,} x {reason}{_example(skipped['examples'].get(reason))}")
    for reason, text in REASONS.items():
        if count := metrics["left_out"][reason]:
            yield Line(warning, f"{count:,} {text}{_example(metrics['left_out_examples'].get(reason))}")
    if count := metrics["merged"]["utterances"]:
        yield Line(info, f"{count:,} utterances joined to the one before, of the same speaker")
    if count := metrics["windows"]["conversations"]:
        dial = manifest["tokenisation"]["max_turns"]
        parts = metrics["windows"]["windows"]
        yield Line(
            info,
            f"{count:,} conversations longer than max_turns = {dial} became {parts:,} windows (#1, #2, ...)",
        )
    if count := metrics["html"]["utterances"]:
        yield Line(info, f"HTML taken out of {count:,} utterances")
    rules = manifest["rules"]
    if rules["segmenter"] != "none":
        yield Line(info, f"words divided by the segmenter {rules['segmenter']!r}")
        wanted = metrics["language"]["segmenter_for_it"]
        if rules["segmenter"] == "characters" and wanted not in ("none", "characters"):
            yield Line(
                warning, f"each character is a word: for words of {wanted}, pip install 'vhcr[segmenters]'"
            )
    yield from _cuts(manifest, metrics)
    sizes = manifest["splits"]
    yield Line(
        info,
        " / ".join(f"{sizes[split]['conversations']:,} {split}" for split in sizes)
        + f" conversations, {metrics['split_rule']}; "
        f"vocabulary {metrics['vocabulary']['size']:,} (4 specials), "
        f"{metrics['vocabulary']['distinct_words']:,} distinct words in training",
    )
    yield from _leaks(manifest, metrics)


def _example(examples: list[str] | None) -> str:
    return f" (such as {examples[0]})" if examples else ""


def _cuts(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[Line]:
    cut, dials = metrics["cut"], manifest["tokenisation"]
    kept = {
        name: sum(split[name] for split in manifest["splits"].values()) for name in ("utterances", "words")
    }
    for count, whole, name, dial in (
        (cut["turns"], kept["utterances"], "turns", "max_turns"),
        (cut["words"], kept["words"], "words", "max_words"),
    ):
        if count:
            share = count / (count + whole)
            level = logging.WARNING if share >= CUT_FROM else logging.INFO
            yield Line(
                level,
                f"{count:,} {name} ({100 * share:.1f} %) lie beyond {dial} = {dials[dial]} and are cut"
                + ("; long_conversations: windows keeps them" if name == "turns" else ""),
            )


def _leaks(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[Line]:
    for split in ("validation", "test"):
        pair = f"{split}_also_in_train"
        found = {kind: metrics["leakage"][kind][pair] for kind in LEAKS}
        worst = max(found, key=lambda kind: found[kind]["fraction"])
        if found[worst]["fraction"] > LEAKAGE_FROM:
            yield Line(
                logging.WARNING,
                f"{found[worst]['conversations']:,} conversations of {split} "
                f"({100 * found[worst]['fraction']:.1f} %) {LEAKS[worst]} of train"
                + (
                    ""
                    if manifest["tokenisation"]["deduplicate"]
                    else "; deduplicate: true takes those out of train"
                ),
            )
