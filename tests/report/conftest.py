"""A results tree and its report, made once for the tests that only read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.report.results_tree import write_tree
from vhcr.report import published_page, write
from vhcr.report.page import Report, assemble
from vhcr.report.results import load


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
    for module in (write, published_page):
        monkeypatch.setattr(module, "write_images", lambda *_: [])
