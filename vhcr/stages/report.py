"""Stage report: every evaluated run of a corpus -> one page, its plots and tables, table.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_object
from vhcr.params import Params
from vhcr.provenance import code_version
from vhcr.stages.common import stage_main
from vhcr.stages.resolve import resolve_results

if TYPE_CHECKING:
    from vhcr.report.tables import Table
    from vhcr.results.runs import Results

log = logging.getLogger(__name__)


def run(params: Params, *, corpus: str) -> None:
    """Report on all runs of a corpus that were trained and evaluated on its present data."""
    merged = params.corpus(corpus)
    results = load(params, corpus, merged.evaluation.num_samples_shown)
    evaluation = merged.evaluation
    _write(results, layout.report(corpus), evaluation.bootstrap_samples, evaluation.seed)


def load(params: Params, corpus: str, num_samples: int) -> Results:
    """The evaluated runs of a corpus; the log says which are left out.

    Raises:
        DataError: none was evaluated on the present data, or a file is missing or damaged.
        ParameterError: the corpus is not defined.
    """
    from vhcr.results import runs
    from vhcr.tokenisation.tokeniser import readable

    results = _named(runs.load(corpus, num_samples=num_samples, readable=readable), params)
    for left in results.left_out:
        log.warning("%s %s %s is left out: %s", corpus, left.system, left.seed, left.reason)
    if not results.runs:
        raise DataError(
            f"{layout.DATA / 'evaluated' / corpus}: no run was evaluated on the present data; "
            "`dvc repro` makes what is missing"
        )
    return results


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
    from vhcr.results import chosen
    from vhcr.tokenisation.tokeniser import readable

    places = [
        chosen.Place(name, trained, evaluated)
        for reference in references
        for name, trained, evaluated in resolve_results(reference)
    ]
    found = chosen.load(places, readable=readable)
    return _as_evaluated(found, out, params, votes(found) if votes else None)


def from_published(path: Path, out: Path, params: Params | None = None) -> list[Path]:
    """A page over the runs of results/<corpus>, one for each set of them that compares; their paths.

    Raises:
        DataError: they are missing or damaged.
    """
    from vhcr.results import published

    sets = published.load(path)
    if not sets:
        raise DataError(f"{path}: there is no run in it")
    folders = [out if len(sets) == 1 else out / f"setting-{number}" for number in range(1, len(sets) + 1)]
    return [_as_evaluated(found, folder, params) for found, folder in zip(sets, folders, strict=True)]


def publish(corpus: str, params: Params, results: Path = Path("results")) -> list[Path]:
    """Add a corpus's evaluated runs to results/<corpus>; returns its files and the pages.

    Raises:
        DataError: nothing was evaluated, or a file is missing or damaged.
        ParameterError: the corpus is not defined.
    """
    from vhcr.report import markdown
    from vhcr.results import published

    evaluation = params.corpus(corpus).evaluation
    found = load(params, corpus, 0)
    files = published.publish(
        found, num_samples=evaluation.bootstrap_samples, seed=evaluation.seed, folder=results
    )
    return [*files, markdown.write(results / corpus), markdown.write_overview(results)]


def _as_evaluated(results: Results, out: Path, params: Params | None, table4: Table | None = None) -> Path:
    """The page; intervals by the protocol that the runs recorded."""
    if params is not None and results.corpus in params.corpora:
        results = _named(results, params)
    recorded = [
        run.evaluated.protocol.evaluation for run in results.runs if run.evaluated.protocol.evaluation
    ]
    counts = (recorded[0].get("bootstrap_samples"), recorded[0].get("seed")) if recorded else (None, None)
    samples, seed = (
        value if isinstance(value, int) else usual for value, usual in zip(counts, (1000, 0), strict=True)
    )
    return _write(results, out, samples, seed, table4)


def _named(results: Results, params: Params) -> Results:
    """With what its reader says of a corpus: one of the paper's, the embedded one, or somebody's own."""
    from vhcr.results.paper import paper_corpus

    reader = params.corpus(results.corpus).source.reader
    known = paper_corpus(reader)
    account = None if known or reader == "toy" else _account(results)
    named = {"paper_corpus": known, "account": account}
    return replace(results, data=results.data.model_copy(update=named))


def _account(results: Results) -> tuple[str, ...]:
    """What the tokenise stage said of these conversations; nothing where it has made others since."""
    from vhcr.tokenisation.account import account

    tokenised = layout.tokenised(results.corpus)
    if not (tokenised / "metrics.json").exists():
        return ()
    manifest, metrics = (read_object(tokenised / name) for name in ("manifest.json", "metrics.json"))
    if manifest.get("data_hash") != results.data.manifest.data_hash:
        return ()
    marks = {logging.INFO: "", logging.WARNING: "⚠ "}
    return tuple(marks[line.level] + line.text for line in account(manifest, metrics))


def _write(results: Results, out: Path, num_samples: int, seed: int, table4: Table | None = None) -> Path:
    from vhcr.report.page import assemble
    from vhcr.report.write import write

    report = assemble(results, num_samples=num_samples, seed=seed)
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
