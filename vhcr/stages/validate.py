"""Stage validate: the tokenised tables -> validation.json, or a stop."""

from __future__ import annotations

import logging

from vhcr import layout
from vhcr.files import write_json
from vhcr.params import Params
from vhcr.stages.common import stage_main

logger = logging.getLogger(__name__)


def run(params: Params, *, corpus: str) -> None:
    """Check all expectations on a tokenised corpus; the first line of a failure says where all results are.

    Results of a failure go to .work/validation, since DVC keeps no output of a failed stage.
    """
    from vhcr.tokenisation.manifest import Manifest
    from vhcr.tokenisation.verdict import seal
    from vhcr.validation import require, validate

    own = params.corpus(corpus)
    Manifest.of(layout.tokenised(corpus))  # the tables are those that were written
    report = validate(layout.tokenised(corpus), own.tokenisation, own.validation)
    failed = layout.WORK / "validation" / f"{corpus}.json"
    if report["success"]:
        failed.unlink(missing_ok=True)
        write_json(layout.validated(corpus) / "validation.json", seal(report, layout.tokenised(corpus)))
        logger.info("%s: all %d expectations hold", corpus, report["num_expectations"])
    else:
        write_json(failed, report)
        require(report, corpus, failed)


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
