"""A results tree and its report, made once for the tests that only read them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from tests.report.results_tree import write_tree
from vhcr.report import markdown, page, write
from vhcr.report.page import Report, assemble
from vhcr.results.runs import Run, load


def assemble_in(root: Path, *, paper_corpus: str | None = "cornell", corpus: str = "toy") -> Report:
    """The report of a tree, read as a stage would: from the root."""
    before = Path.cwd()
    os.chdir(root)
    try:
        return assemble(load(corpus, paper_corpus=paper_corpus, num_samples=8), num_samples=200, seed=0)
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of the paper's five systems; read only."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture(scope="session")
def report(tree: Path) -> Report:
    """The report of ``tree``, beside the paper's Cornell figures."""
    return assemble_in(tree)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports and published pages without images: nine tenths of the time of a test of anything else."""
    for module in (write, markdown):
        monkeypatch.setattr(module, "write_images", lambda *_: [])
    monkeypatch.setattr(page, "library", lambda: "/* Vega */")


def with_numbers(run: Run, **values: object) -> Run:
    """The run with other numbers in its evaluation; ``diagnostics`` takes those of the diagnostics."""
    if isinstance(changed := values.get("diagnostics"), dict):
        values["diagnostics"] = run.evaluation.diagnostics.model_copy(update=changed)
    return replace(run, evaluation=run.evaluation.model_copy(update=values))


def with_system(run: Run, **settings: JsonValue) -> Run:
    """The run as if it had been trained with these settings of its system alone."""
    params = {**run.training.params, "system": settings}
    return replace(run, training=run.training.model_copy(update={"params": params}))


def with_weight(run: Run, weight: float) -> Run:
    """The run with one KL weight all along."""
    columns = {**run.curves.columns, "kl_weight": [weight] * len(run.curves.steps)}
    return replace(run, curves=replace(run.curves, columns=columns))
