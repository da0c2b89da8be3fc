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
    from vhcr import corpora, engines
    from vhcr.corpora.placing import require_placed
    from vhcr.corpora.remote import located
    from vhcr.tokenisation.account import account
    from vhcr.tokenisation.dataset import build_from

    own = params.corpus(corpus)
    raw = layout.raw(corpus)
    require_placed(raw)
    with (
        atomic_folder(layout.tokenised(corpus)) as scratch,
        engines.started(own.tokenisation.engine) as engine,
    ):
        pieces = corpora.pieces(located(raw), own.source, engine)
        dataset = build_from(pieces, own.tokenisation, scratch, corpus=corpus, engine=engine)
        write_json(scratch / "manifest.json", dataset.manifest)
        write_json(scratch / "metrics.json", dataset.metrics)
    for line in account(dataset.manifest, dataset.metrics):
        logger.log(line.level, "%s: %s", corpus, line.text)


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
