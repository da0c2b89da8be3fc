"""Stage report: every evaluated run of a corpus -> one page, its plots and tables, table.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhcr import layout
from vhcr.errors import DataError
from vhcr.params import Params
from vhcr.provenance import code_version
from vhcr.stages.common import stage_main
from vhcr.stages.resolve import resolve_results

if TYPE_CHECKING:
    from vhcr.report.results import Results
    from vhcr.report.tables import Table

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


def compare(
    references: Sequence[str],
    out: Path,
    params: Params | None = None,
    votes: Callable[[Results], Table] | None = None,
) -> Path:
    """One page over chosen runs, named as ``resolve_results`` takes them; returns its path.

    ``votes`` makes Table 4 for the runs that are shown, which human evaluations lie outside of.

    Raises:
        CheckpointError: there is no such run.
        DataError: a run was not evaluated, or the runs do not compare.
    """
    from vhcr.report import chosen
    from vhcr.tokenisation.tokeniser import detokenise

    places = [
        chosen.Place(name, trained, evaluated)
        for reference in references
        for name, trained, evaluated in resolve_results(reference)
    ]
    found = chosen.load(places, readable=lambda text: detokenise(text.split()))
    return _write(found, out, params, votes(found) if votes else None)


def from_published(path: Path, out: Path, params: Params | None = None) -> list[Path]:
    """A page over the rows of results/<corpus>, one for each set of them that compares; their paths.

    Raises:
        DataError: they are missing or damaged.
    """
    from vhcr.report import published

    sets = published.load(path)
    if not sets:
        raise DataError(f"{path}: there is no row in it")
    folders = [out if len(sets) == 1 else out / f"setting-{number}" for number in range(1, len(sets) + 1)]
    return [_write(found, folder, params) for found, folder in zip(sets, folders, strict=True)]


def _write(results: Results, out: Path, params: Params | None, table4: Table | None = None) -> Path:
    """The page; intervals by the protocol that the runs recorded."""
    from vhcr.report.page import assemble
    from vhcr.report.paper import paper_corpus
    from vhcr.report.write import write

    if params is not None and results.corpus in params.corpora:
        reader = params.corpus(results.corpus).source.reader
        results = replace(results, paper_corpus=paper_corpus(reader))
    protocols = [run.provenance.get("protocol") or {} for run in results.runs]
    evaluation: dict[str, Any] = next((each["evaluation"] for each in protocols if "evaluation" in each), {})
    report = assemble(
        results, num_samples=evaluation.get("bootstrap_samples", 1000), seed=evaluation.get("seed", 0)
    )
    if table4 is not None:
        after = sum(table.id in ("table1", "table2", "table3") for table in report.tables)
        report = replace(report, tables=[*report.tables[:after], table4, *report.tables[after:]])
    page = write(report, out, commit=code_version().commit)
    log.info("%s: %d runs of %d systems", page, len(results.runs), len(results.systems))
    return page


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
