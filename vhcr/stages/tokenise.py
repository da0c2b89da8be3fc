"""Stage tokenise: raw conversations -> Parquet tables, manifest and metrics."""

from __future__ import annotations

import logging

from vhcr import layout
from vhcr.files import atomic_folder, write_json
from vhcr.params import Params
from vhcr.stages.common import stage_main

logger = logging.getLogger(__name__)


def run(params: Params, *, corpus: str) -> None:
    """Tokenise a corpus: conversations, utterances, labels, vocabulary and token ids as Parquet.

    All is written into a scratch folder and moved into place when it is complete.
    """
    from vhcr import corpora
    from vhcr.tokenisation.dataset import build

    own = params.corpus(corpus)
    skipped = corpora.Skipped()
    folder = layout.tokenised(corpus)
    with atomic_folder(folder) as scratch:
        conversations = corpora.read(layout.raw(corpus), own.source, skipped)
        dataset = build(conversations, own.tokenisation, scratch, corpus=corpus)
        dataset.metrics["read"]["skipped"] = {
            "records": skipped.total,
            "by_reason": dict(sorted(skipped.counts.items())),
            "examples": dict(sorted(skipped.examples.items())),
        }
        write_json(scratch / "manifest.json", dataset.manifest)
        write_json(scratch / "metrics.json", dataset.metrics)
    sizes = dataset.manifest["splits"]
    logger.info(
        "%s: %s conversations; vocabulary %s (4 specials), %s distinct words in training; %s records skipped",
        corpus,
        " / ".join(f"{sizes[split]['conversations']:,} {split}" for split in sizes),
        f"{dataset.metrics['vocabulary']['size']:,}",
        f"{dataset.metrics['vocabulary']['distinct_words']:,}",
        f"{skipped.total:,}",
    )


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
