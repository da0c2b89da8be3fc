"""Published results: later runs add to them, and what was said of the files is said of the rows."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.report.results_tree import DATA_HASH, SYSTEMS, write_run, write_tree
from vhcr import layout, summary
from vhcr.cli import app
from vhcr.errors import DataError
from vhcr.files import read_json, write_json, write_text
from vhcr.report import published, published_page
from vhcr.report.claims import claims
from vhcr.report.evidence import Evidence
from vhcr.report.page import Report
from vhcr.report.results import load
from vhcr.results.statistics import resample
from vhcr.tokenisation.tokeniser import detokenise

PARAMS = Path(__file__).parents[2] / "params.yaml"
PUBLISHED = Path("results/toy")
PAGE = PUBLISHED / "README.md"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    write_tree(tmp_path, systems={name: SYSTEMS[name] for name in ("hred", "vhcr-ud")}, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish() -> list[dict[str, object]]:
    summary.publish("toy", params=PARAMS)
    return published.read(PUBLISHED)


def names(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    return sorted((row["system"], row["seed"]) for row in rows)  # type: ignore[misc]


def test_later_runs_add_and_the_same_run_again_replaces(project: Path) -> None:
    """The files of earlier runs may be gone by then; their rows and what they prove are not."""
    publish()
    shutil.rmtree(project / layout.evaluated("toy", "hred", 0).parent)
    shutil.rmtree(project / layout.trained("toy", "hred", 0).parent)
    write_run(project, "toy", "vhred", 0, SYSTEMS["vhred"])
    write_run(project, "toy", "vhcr-ud", 0, (3.3, 0.2, 0.3, 0.6))
    rows = publish()
    assert names(rows) == [("hred", 0), ("vhcr-ud", 0), ("vhred", 0)]
    vhcr = next(row for row in rows if row["system"] == "vhcr-ud")
    assert vhcr["nll_per_word"] == pytest.approx(3.3, abs=0.1)
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
    page = published_page.write(PUBLISHED)
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
            assert ours == pytest.approx(theirs, abs=2e-5)
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
    files = load("toy", num_samples=0, readable=lambda text: detokenise(text.split()))
    assert run.talks == next(each for each in files.runs if each.system == "vhcr-ud").talks
    talk = run.talks["interpolation", "linear", 0][0]
    page = PAGE.read_text()
    assert f"| 0.0 | {' | '.join(talk.turns)} |" in page.replace("\\", "")
    given = replace(
        run, talks={("given", "", 0): (replace(talk, opening="of the corpus"),), ("kept", "", 0): (talk,)}
    )
    evidence = Evidence(results, num_samples=0, seed=0)
    assert [entry["table"] for entry in published.as_row(given, evidence)["talks"]] == ["kept"]


@pytest.mark.parametrize("text", ["<unk>", "a|b", "*", "under_score", "[x](y)", "`", "# 1"])
def test_what_was_said_stays_text_in_markdown(text: str) -> None:
    plain = published_page._plain(text)
    assert html.unescape(re.sub(r"\\(.)", r"\1", plain)) == text
    assert not re.search(r"(?<!\\)[*_`#<\[]", plain)


def test_rows_are_readable_and_say_what_made_them(project: Path) -> None:
    rows = publish()
    made_by = rows[0]["made_by"]
    assert isinstance(made_by, dict)
    assert set(made_by) == set(published.MADE_BY)
    text = (PUBLISHED / "hred.json").read_text()
    run = read_json(project / layout.evaluated("toy", "hred", 0) / "provenance.json")
    assert run["mlflow_run_id"] not in text, "it means nothing elsewhere"
    assert max(len(line) for line in text.splitlines()) < 20_000
    assert len(text) < 40_000, "of 1,000 replicates and the thinned curves"
    assert json.loads(text) == rows[:1]


def test_replicates_survive_the_file() -> None:
    rng = np.random.default_rng(0)
    one = resample(rng.normal(4, 1, 50), np.ones(50), num_samples=30, seed=3)
    entry = {
        "estimate": one.estimate,
        "seed": 3,
        "num_conversations": 50,
        **published.encoded(one),
    }
    again = published.decoded(json.loads(json.dumps(entry)))
    assert again.pairs_with(one)
    np.testing.assert_allclose(again.replicates, one.replicates, atol=2e-5)


def test_rows_of_before_are_kept(project: Path) -> None:
    """Rows once had neither metrics nor replicates; claims about them are open, not lost."""
    old = {
        "corpus": "toy", "system": "vhred", "seed": 4, "nll_per_word": 3.25, "average_1turn": 0.5,
        "made_by": {"data_hash": DATA_HASH, "params": {"system": {"architecture": "vhred"}}},
        "protocol": {"split": "test"},
    }  # fmt: skip
    write_json(PUBLISHED / "vhred.json", [old])
    assert names(publish()) == [("hred", 0), ("vhcr-ud", 0), ("vhred", 4)]
    older = next(results for results in published.load(PUBLISHED) if results.systems == ("vhred",))
    assert older.runs[0].value("average_1turn") == 0.5
    other = {
        **old,
        "system": "hred",
        "made_by": {"data_hash": DATA_HASH, "params": {"system": {"architecture": "hred"}}},
    }
    write_json(PUBLISHED / "vhred.json", [old])
    write_json(PUBLISHED / "hred.json", [{**other, "nll_per_word": 3.5}])
    publish()
    older = next(results for results in published.load(PUBLISHED) if "vhred" in results.systems)
    told = Evidence(older, num_samples=0, seed=0).leaders("nll_per_word", ["hred", "vhred"])
    assert told == set(), "nothing says that they cannot be told apart"
    assert "| VHRED | ≤ 3.250 |" in PAGE.read_text()


@pytest.mark.parametrize("text", ["{}", '[{"corpus": "toy"}]', "["])
def test_a_damaged_file_is_named_and_all_are_kept(project: Path, text: str) -> None:
    """That it is of a system which this time adds nothing makes no difference."""
    write_text(PUBLISHED / "vhred.json", text)
    with pytest.raises(DataError, match=r"results/toy/vhred\.json"):
        publish()
    assert [path.name for path in PUBLISHED.iterdir()] == ["vhred.json"]
    assert (PUBLISHED / "vhred.json").read_text() == text


def test_a_row_in_the_file_of_another_system_is_refused(project: Path) -> None:
    """The next run of its own system would stand beside it, not in its place."""
    publish()
    (PUBLISHED / "hred.json").rename(PUBLISHED / "vhred.json")
    with pytest.raises(DataError, match=r"vhred\.json: row 0: is of hred, not of vhred"):
        publish()


def test_files_of_other_systems_are_left_alone(project: Path) -> None:
    """So that a commit shows what was added."""
    publish()
    shutil.rmtree(project / layout.evaluated("toy", "hred", 0).parent)
    before = (PUBLISHED / "hred.json").stat().st_mtime_ns
    assert names(publish()) == [("hred", 0), ("vhcr-ud", 0)]
    assert (PUBLISHED / "hred.json").stat().st_mtime_ns == before


def test_nothing_evaluated_is_said(project: Path) -> None:
    shutil.rmtree(layout.DATA / "evaluated")
    with pytest.raises(DataError, match="data/evaluated/toy: no run was evaluated"):
        publish()
    assert not PUBLISHED.exists()


def test_commands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PARAMS, "params.yaml")
    summary.main(["publish", "toy"])
    assert capsys.readouterr().out.splitlines() == [
        "results/toy/hred.json",
        "results/toy/vhcr-ud.json",
        "results/toy/README.md",
        "results/README.md",
    ]
    summary.main(["render", "results/toy"])
    assert capsys.readouterr().out == PAGE.read_text()
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
    names = ["results/toy/hred.json", "results/toy/vhcr-ud.json", "--out", "both"]
    result = CliRunner().invoke(app, ["report", *names])
    assert "--out: takes one page" in str(result.exception) + result.output
    assert not Path("both").exists()


def test_files_of_one_name_have_pages_of_their_own(project: Path) -> None:
    """Of one system on two corpora; the second page once took the place of the first."""
    publish()
    other = Path("results/other/hred.json")
    write_text(other, (PUBLISHED / "hred.json").read_text())
    result = CliRunner().invoke(app, ["report", "results/toy/hred.json", str(other)], catch_exceptions=False)
    pages = [line for line in result.output.splitlines() if line.endswith("index.html")]
    assert pages == ["reports/published-toy-hred/index.html", "reports/published-other-hred/index.html"]


def test_a_report_of_what_is_published(project: Path) -> None:
    """From the rows alone: no corpus of that name need be there, nor params.yaml."""
    publish()
    shutil.rmtree("data")
    result = CliRunner().invoke(app, ["report", "results/toy"], catch_exceptions=False)
    assert result.output.splitlines()[-1] == "reports/published-toy/index.html"
    assert "VHCR + u.d" in Path("reports/published-toy/index.html").read_text()
