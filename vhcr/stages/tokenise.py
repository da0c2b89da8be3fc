"""Stage tokenise: raw conversations -> Parquet tables, manifest and metrics."""

from __future__ import annotations

import logging
import os
import shutil

from vhcr import layout
from vhcr.errors import DataError
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
    scratch = layout.WORK / "tokenised" / f"{corpus}.{os.getpid()}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        conversations = corpora.read(layout.raw(corpus), own.source, skipped)
        dataset = build(conversations, own.tokenisation, scratch, corpus=corpus)
        dataset.metrics["read"]["skipped"] = {
            "records": skipped.total,
            "by_reason": dict(sorted(skipped.counts.items())),
            "examples": dict(sorted(skipped.examples.items())),
        }
        layout.write_json(scratch / "manifest.json", dataset.manifest)
        layout.write_json(scratch / "metrics.json", dataset.metrics)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(folder)
    except OSError as error:
        where = error.filename or scratch
        raise DataError(f"{where}: cannot be written or read: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
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
