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
    from vhcr.corpora.placing import require_placed
    from vhcr.tokenisation.account import account
    from vhcr.tokenisation.dataset import build

    own = params.corpus(corpus)
    skipped = corpora.Skipped()
    folder = layout.tokenised(corpus)
    require_placed(layout.raw(corpus))
    with atomic_folder(folder) as scratch:
        conversations = corpora.read(layout.raw(corpus), own.source, skipped)
        dataset = build(conversations, own.tokenisation, scratch, corpus=corpus)
        dataset.metrics["read"]["skipped"] = skipped.as_dict()
        write_json(scratch / "manifest.json", dataset.manifest)
        write_json(scratch / "metrics.json", dataset.metrics)
    for line in account(dataset.manifest, dataset.metrics):
        logger.log(line.level, "%s: %s", corpus, line.text)


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
