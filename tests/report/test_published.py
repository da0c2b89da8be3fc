"""Published results: later runs add to them, and what was said of the files is said of the rows."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.report.results_tree import DATA_HASH, SYSTEMS, write_run, write_tree
from vhcr import layout
from vhcr.cli import app
from vhcr.errors import DataError
from vhcr.files import read_json, write_json, write_text
from vhcr.params import Params
from vhcr.report import markdown
from vhcr.report.claims import claims
from vhcr.report.page import Report
from vhcr.report.templates import markdown_text
from vhcr.results import published
from vhcr.results.compare import Evidence
from vhcr.results.runs import load
from vhcr.results.statistics import resample
from vhcr.stages import report as stage
from vhcr.tokenisation.tokeniser import readable

PARAMS = Path(__file__).parents[2] / "params.yaml"
PUBLISHED = Path("results/toy")
PAGE = PUBLISHED / "README.md"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    write_tree(tmp_path, systems={name: SYSTEMS[name] for name in ("hred", "vhcr-ud")}, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish() -> list[published.Published]:
    stage.publish("toy", Params.load(PARAMS))
    return published.read(PUBLISHED)


def names(rows: list[published.Published]) -> list[tuple[str, int]]:
    return sorted((row.run.system, row.run.seed) for row in rows)


def test_later_runs_add_and_the_same_run_again_replaces(project: Path) -> None:
    """The files of earlier runs may be gone by then; their rows and what they prove are not."""
    publish()
    shutil.rmtree(project / layout.evaluated("toy", "hred", 0).parent)
    shutil.rmtree(project / layout.trained("toy", "hred", 0).parent)
    write_run(project, "toy", "vhred", 0, SYSTEMS["vhred"])
    write_run(project, "toy", "vhcr-ud", 0, (3.3, 0.2, 0.3, 0.6))
    rows = publish()
    assert names(rows) == [("hred", 0), ("vhcr-ud", 0), ("vhred", 0)]
    vhcr = next(row.run for row in rows if row.run.system == "vhcr-ud")
    assert vhcr.evaluation.nll_per_word == pytest.approx(3.3, abs=0.1)
    (results,) = published.load(PUBLISHED)
    difference = Evidence(results, num_samples=0, seed=0).difference("vhcr-ud", "hred", "nll_per_word")
    assert difference is not None
    assert difference.high < 0


def test_other_parameters_are_another_row_in_another_table(project: Path) -> None:
    publish()
    path = project / layout.trained("toy", "hred", 0) / "run.json"
    run = read_json(path)
    changed = {**run["params"], "training": {**run["params"]["training"], "num_epochs": 99}}
    write_json(path, {**run, "params": changed})
    rows = publish()
    assert names(rows) == [("hred", 0), ("hred", 0), ("vhcr-ud", 0)]
    assert sorted(len(results.runs) for results in published.load(PUBLISHED)) == [1, 2]
    page = PAGE.read_text()
    assert "setting 1 of 2" in page
    assert "num_epochs 99" in page


def test_how_a_training_ran_makes_no_other_row(project: Path) -> None:
    """Nor does a setting that an older program did not have, and that is off."""
    publish()
    path = project / layout.trained("toy", "hred", 0) / "run.json"
    run = read_json(path)
    run["params"]["training"]["num_threads"] = 7
    run["params"]["system"] |= {"free_nats": 0.0, "kl_cycles": 1, "final_kl_weight": 1.0}
    run["params"]["model"]["initialisation"] = "release"
    write_json(path, run)
    assert names(publish()) == [("hred", 0), ("vhcr-ud", 0)]


def test_rows_say_what_the_files_said(report: Report, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, intervals and verdicts, from the file alone."""
    monkeypatch.chdir(tree)
    published.publish(report.results, num_samples=200, seed=0)
    page = markdown.write(PUBLISHED)
    try:
        (results,) = published.load(page.parent)
        evidence = Evidence(results, num_samples=0, seed=0)
        assert [run.table_row() | {"mlflow_run_id": None} for run in results.runs] == sorted(
            (run.table_row() | {"mlflow_run_id": None} for run in report.results.runs),
            key=lambda row: (row["system"], row["seed"]),
        )
        for key in ("nll_per_word", "greedy_3turn"):
            ours = evidence.difference("vhcr-ud", "vhred", key)
            theirs = report.evidence.difference("vhcr-ud", "vhred", key)
            assert ours == pytest.approx(theirs, abs=3e-5)
        assert [(claim.text, claim.finding.verdict) for claim in claims(evidence)] == [
            (claim.text, claim.finding.verdict) for claim in report.claims
        ]
        text = page.read_text()
        assert "| VHCR + u.d | ≤ 3.50" in text
        assert "*4.026*" in text, "the paper's figure"
        assert "**supported**" in text
        assert DATA_HASH[:12] in text
        plots = re.findall(r"\]\((\S+)\.svg\)", text)
        assert plots == ["frontier", "kl", "usage"]
        assert all("<svg" in page.with_name(f"{plot}.svg").read_text() for plot in plots)
    finally:
        shutil.rmtree(tree / "results")


def test_what_was_said_from_z_conv_is_kept_and_shown(project: Path) -> None:
    """Tables 6 and 7; but nothing that begins with an utterance of the corpus: that is not ours."""
    publish()
    (results,) = published.load(PUBLISHED)
    run = next(run for run in results.runs if run.system == "vhcr-ud")
    files = load("toy", num_samples=0, readable=readable)
    assert run.talks == next(each for each in files.runs if each.system == "vhcr-ud").talks
    talk = run.talks["interpolation", "linear", 0][0]
    page = PAGE.read_text()
    assert f"| 0.0 | {' | '.join(talk.turns)} |" in page.replace("\\", "")
    given = replace(
        run, talks={("given", "", 0): (replace(talk, opening="of the corpus"),), ("kept", "", 0): (talk,)}
    )
    published.publish(replace(results, runs=(given,)), num_samples=10, seed=0)
    (kept,) = [row.run for row in published.read(PUBLISHED) if row.run.system == "vhcr-ud"]
    assert set(kept.talks) == {("kept", "", 0)}


@pytest.mark.parametrize("text", ["<unk>", "a|b", "*", "under_score", "[x](y)", "`", "# 1"])
def test_what_was_said_stays_text_in_markdown(text: str) -> None:
    plain = markdown_text(text)
    assert html.unescape(re.sub(r"\\(.)", r"\1", plain)) == text
    assert not re.search(r"(?<!\\)[*_`#<\[]", plain)


def test_files_are_small_and_say_what_made_them(project: Path) -> None:
    rows = publish()
    assert rows[0].run.training.code_version
    assert {row.run.training.mlflow_run_id or row.run.evaluated.mlflow_run_id for row in rows} == {None}
    table = pq.read_table(PUBLISHED / published.RUNS)
    assert table["nll_per_word"].to_pylist() == [row.run.evaluation.nll_per_word for row in rows]
    sizes = [(PUBLISHED / name).stat().st_size for name in (published.RUNS, published.REPLICATES)]
    assert sum(sizes) < 120_000, "of two runs; once 160,000"


def test_replicates_survive_the_file() -> None:
    rng = np.random.default_rng(0)
    one = resample(rng.normal(4, 1, 50), np.ones(50), num_samples=30, seed=3)
    again = published._decoded(published._encoded("key", "nll_per_word", one))
    assert again.pairs_with(one)
    spread = float(np.ptp(one.replicates))
    np.testing.assert_allclose(again.replicates, one.replicates, atol=spread / 2 / published.STEPS)
    twice = published._decoded(published._encoded("key", "nll_per_word", again))
    np.testing.assert_allclose(twice.replicates, again.replicates, rtol=1e-12)


def test_publishing_again_changes_nothing(project: Path) -> None:
    """Rows of runs whose files are gone are read and written again each time."""
    publish()
    before = {name: (PUBLISHED / name).read_bytes() for name in (published.RUNS, published.REPLICATES)}
    shutil.rmtree(project / layout.evaluated("toy", "hred", 0).parent)
    publish()
    assert {name: (PUBLISHED / name).read_bytes() for name in before} == before


def test_the_kl_of_both_levels_is_their_sum(project: Path) -> None:
    publish()
    (results,) = published.load(PUBLISHED)
    ours = Evidence(results, num_samples=0, seed=0).interval("vhcr-ud", "kl_per_word")
    theirs = Evidence(load("toy"), num_samples=1000, seed=0).interval("vhcr-ud", "kl_per_word")
    assert ours == pytest.approx(theirs, abs=5e-5)


@pytest.mark.parametrize("name", [published.RUNS, published.REPLICATES])
def test_a_damaged_file_is_named_and_kept(project: Path, name: str) -> None:
    publish()
    (PUBLISHED / name).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=rf"results/toy/{re.escape(name)}: cannot be read"):
        publish()
    assert (PUBLISHED / name).read_bytes() == b"PAR1 and nothing else"


def test_nothing_evaluated_is_said(project: Path) -> None:
    shutil.rmtree(layout.DATA / "evaluated")
    with pytest.raises(DataError, match="data/evaluated/toy: no run was evaluated"):
        publish()
    assert not PUBLISHED.exists()


def test_commands(project: Path) -> None:
    shutil.copy(PARAMS, "params.yaml")
    made = CliRunner().invoke(app, ["publish", "toy"])
    assert made.stdout.splitlines() == [
        "results/toy/runs.parquet",
        "results/toy/replicates.parquet",
        "results/toy/README.md",
        "results/README.md",
    ]
    assert CliRunner().invoke(app, ["render", "results/toy"]).stdout == PAGE.read_text()
    assert load("toy").runs, "the files are as they were"


def test_an_overview_holds_every_claim_on_every_corpus(project: Path) -> None:
    """Benchmarks lie in a folder beside the corpora, and are none."""
    write_json(Path("results/benchmarks/limit.json"), {"gflops": 190})
    publish()
    page = Path("results/README.md").read_text()
    rows = {
        line.split(" | ")[0].strip("| "): line.strip(" |").rpartition(" | ")[2] for line in page.splitlines()
    }
    (results,) = published.load(PUBLISHED)
    judged = claims(Evidence(results, num_samples=0, seed=0))
    assert {claim.text: rows[claim.text] for claim in judged} == {
        claim.text: claim.finding.verdict for claim in judged
    }
    assert "[toy](toy/README.md): 2 runs of 2 systems" in page
    assert "benchmarks" not in page


def test_a_report_leaves_a_folder_of_others_alone(project: Path) -> None:
    """A paper's own folder has tables/ and plots/ too; they were once removed for ours."""
    publish()
    mine = Path("paper/tables/mine.tex")
    write_text(mine, "by hand")
    result = CliRunner().invoke(app, ["report", "results/toy", "--out", "paper"])
    assert "paper/tables: not of a report" in str(result.exception) + result.output
    assert mine.read_text() == "by hand"
    assert list(Path("paper").iterdir()) == [mine.parent]


def test_one_folder_takes_one_report(project: Path) -> None:
    publish()
    names = ["results/toy", "results/other", "--out", "both"]
    result = CliRunner().invoke(app, ["report", *names])
    assert "--out: takes one page" in str(result.exception) + result.output
    assert not Path("both").exists()


def test_a_report_of_what_is_published(project: Path) -> None:
    """From the rows alone: no corpus of that name need be there, nor params.yaml."""
    publish()
    shutil.rmtree("data")
    result = CliRunner().invoke(app, ["report", "results/toy"], catch_exceptions=False)
    assert result.output.splitlines()[-1] == "reports/published-toy/index.html"
    assert "VHCR + u.d" in Path("reports/published-toy/index.html").read_text()
