"""Stage report: every evaluated run of a corpus -> one page, its plots and tables, table.json."""

from __future__ import annotations

import logging

from vhcr import layout
from vhcr.errors import DataError
from vhcr.params import Params
from vhcr.provenance import code_version
from vhcr.stages.common import stage_main

log = logging.getLogger(__name__)


def run(params: Params, *, corpus: str) -> None:
    """Report on all runs of a corpus that were trained and evaluated on its present data."""
    from vhcr.report.page import assemble
    from vhcr.report.paper import paper_corpus
    from vhcr.report.results import load
    from vhcr.report.write import write
    from vhcr.tokenisation.tokeniser import detokenise

    merged = params.corpus(corpus)
    results = load(
        corpus,
        paper_corpus=paper_corpus(merged.source.reader),
        num_samples=merged.evaluation.num_samples_shown,
        readable=lambda text: detokenise(text.split()),
    )
    for left in results.left_out:
        log.warning("%s %s %s is left out: %s", corpus, left.system, left.seed, left.reason)
    if not results.runs:
        raise DataError(
            f"{layout.DATA / 'evaluated' / corpus}: no run was evaluated on the present data; "
            "`dvc repro` makes what is missing"
        )
    report = assemble(results, num_samples=merged.evaluation.bootstrap_samples, seed=merged.evaluation.seed)
    page = write(report, layout.report(corpus), commit=code_version().commit)
    log.info("%s: %d runs of %d systems", page, len(results.runs), len(results.systems))


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
