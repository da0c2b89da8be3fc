"""Tables: means and deviations over seeds, what is bold, and how they are written."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from tests.report.conftest import with_numbers
from vhcr.report.page import Report
from vhcr.report.tables import Cell, Column, Table, as_csv, latex, tables
from vhcr.results.compare import Evidence
from vhcr.results.paper import PaperFigures


def table(report: Report, id: str) -> Table:
    return next(table for table in report.tables if table.id == id)


def cell(made: Table, system: str, key: str) -> Cell:
    row = next(row for row in made.rows if row.system == system)
    return row.cells[[column.key for column in made.columns].index(key)]


def test_mean_deviation_and_the_papers_figure(report: Report) -> None:
    found = cell(table(report, "table1"), "vhcr-ud", "nll_per_word")
    a, b = (run.evaluation.nll_per_word for run in report.results.of("vhcr-ud"))
    assert found.text == f"{(a + b) / 2:.3f}"
    assert found.deviation == f"{abs(a - b) / 2**0.5:.3f}"
    assert (found.prefix, found.paper) == ("≤ ", "4.026")
    exact = cell(table(report, "table1"), "hred", "nll_per_word")
    assert (exact.prefix, exact.paper) == ("", "3.873")
    assert cell(table(report, "table1"), "hred", "kl_per_word").text == "–"


def test_each_seed_is_kept(report: Report) -> None:
    row = next(row for row in table(report, "table3").rows if row.system == "vhred")
    assert [seed.label for seed in row.seeds] == ["seed 0", "seed 1"]
    expected = [f"{run.evaluation.responses[1].average:.3f}" for run in report.results.of("vhred")]
    assert [seed.cells[0].text for seed in row.seeds] == expected


def test_bold_is_the_best_and_what_cannot_be_told_from_it(report: Report) -> None:
    # The fixture makes VHCR + u.d's Average stand out, and HRED's and VHRED's NLL 0.02 apart.
    made = table(report, "table3")
    assert [row.system for row in made.rows if row.cells[0].best] == ["vhcr-ud"]
    assert [row.system for row in table(report, "table1").rows if row.cells[0].best] == ["hred"]
    tied = report.evidence.leaders("extrema_1turn", ["hred", "vhred"])
    assert tied == {"hred", "vhred"}, "0.0007 apart, far within the noise"
    assert report.evidence.leaders("nll_per_word", ["hred"]) == set(), "alone, nobody is best"


def test_importance_bound_of_an_exact_model_is_its_nll(report: Report) -> None:
    made = table(report, "table1")
    exact = cell(made, "hred", "importance_weighted")
    assert exact.text == cell(made, "hred", "subset").text
    assert exact.prefix == ""
    assert cell(made, "vhred", "importance_weighted").text < cell(made, "vhred", "subset").text


def test_differences(report: Report) -> None:
    made = table(report, "differences")
    assert [row.system for row in made.rows] == ["hred", "vhred", "vhred-wd", "vhred-bow"]
    text = cell(made, "vhred-bow", "nll_per_word").text
    estimate, low, high = (float(n.replace("−", "-")) for n in re.findall(r"[+−][\d.]+", text))
    assert low < estimate < high < 0
    assert estimate == pytest.approx(-0.4, abs=0.05)
    assert cell(made, "vhred-bow", "nll_per_word").best


def test_papers_figures_only_where_they_belong(report: Report) -> None:
    made = tables(report.evidence, PaperFigures(None))
    assert not any(table.has_paper for table in made)
    ubuntu = next(t for t in tables(report.evidence, PaperFigures("ubuntu")) if t.id == "table1")
    assert cell(ubuntu, "vhcr-ud", "nll_per_word").paper == "3.951"
    assert "3.961" in ubuntu.caption
    assert "3.961" not in table(report, "table1").caption
    # Table 2's VHRED is the one with word drop, Table 1's VHRED has a KL of its own.
    assert cell(table(report, "table2"), "vhred", "kl_per_word").paper == "–"
    assert cell(table(report, "table1"), "vhred", "kl_per_word").paper == "0.293"


def test_paper_json_is_the_paper() -> None:
    """A few figures of each table and corpus, and sums that hold where the paper's do."""
    cornell, ubuntu = PaperFigures("cornell"), PaperFigures("ubuntu")
    assert cornell.value("vhred-bow", "kl_per_word") == 1.167
    assert ubuntu.value("hred", "greedy_3turn") == 0.402
    assert cornell.value("vhcr-ud", "average_1turn") == 0.585
    assert cornell.value("hred", "wins_percent", table=4) == 28.5
    assert cornell.value("vhcr", "nll_per_word") is None
    for figures in (cornell, ubuntu):
        for system in ("vhred", "vhred-wd", "vhred-bow", "vhcr-ud"):
            parts = [figures.value(system, f"{part}_per_word", 1) for part in ("reconstruction", "kl", "nll")]
            assert None not in parts
            off = parts[0] + parts[1] - parts[2]  # type: ignore[operator]
            misprint = 0.01 if (figures is ubuntu and system == "vhcr-ud") else 0.0
            assert off == pytest.approx(misprint, abs=1e-9)
    with pytest.raises(ValueError, match="no corpus 'toy'"):
        PaperFigures("toy")


def test_latex(report: Report) -> None:
    text = latex(table(report, "table1"))
    head = next(line for line in text.splitlines() if line.startswith("System"))
    rows = [line for line in text.splitlines() if line.startswith(("HRED", "VHRED", "VHCR"))]
    assert len(rows) == 5
    width = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])  # type: ignore[index]
    assert {line.count("&") for line in (head, *rows)} == {width - 1}
    assert r"$\leq 3.5" in rows[-1]
    assert r" \pm 0." in rows[-1]
    assert r"\mathbf{" in rows[0]
    differences = latex(table(report, "differences"))
    assert r"\,[+" in differences
    assert "vs HRED & $" in differences
    assert r"z\_conv" in latex(table(report, "table2"))


def test_csv_reads_back(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(table(report, "table2")))))
    assert len(rows) == 4 * 3
    last = rows[-3]
    assert (last["system"], last["seed"]) == ("vhcr-ud", "mean")
    assert float(last["Total"]) == pytest.approx(float(last["z_conv"]) + float(last["z_utt"]), abs=2e-3)
    assert last["Total, paper"] == "0.503"
    assert rows[-1]["seed"] == "1"


def test_runs_that_lack_a_part_leave_dashes_and_columns_out(report: Report) -> None:
    bare = {"responses": {}, "diversity": None, "perplexity": None, "importance_weighted_nll_per_word": {}}
    runs = list(report.results.runs)
    runs[-1] = replace(with_numbers(runs[-1], **bare, nll_per_word=3.3), sums={})
    runs[-2] = replace(with_numbers(runs[-2], **bare, nll_per_word=3.3), sums={})
    evidence = Evidence(replace(report.results, runs=tuple(runs)), num_samples=20, seed=0)
    made = {table.id: table for table in tables(evidence, report.paper)}
    assert cell(made["table1"], "vhcr-ud", "nll_per_word").text == "3.300"
    assert cell(made["table1"], "vhcr-ud", "perplexity").text == "–"
    assert "vhcr-ud" not in [row.system for row in made["table3"].rows]
    none = replace(report.results, runs=tuple(with_numbers(run, **bare) for run in report.results.runs))
    found = {table.id: table for table in tables(Evidence(none, num_samples=20, seed=0), report.paper)}
    assert not {"table3", "text", "diversity"} & set(found)
    assert "importance_weighted" not in [column.key for column in found["table1"].columns]


def test_probes_stand_beside_chance(report: Report) -> None:
    made = table(report, "probes")
    assert made.groups == [("topic (chance 20 %)", 3)]
    titles = [column.title for column in made.columns]
    assert titles == ["z_conv", "mean of z_conv", "h_cxt"], "no run has a probe of z_utt"
    assert [cell.text for cell in made.rows[-1].cells] == ["74.0 %", "93.0 %", "61.0 %"]


def test_zero_has_no_sign() -> None:
    column = Column("x", "x", lambda run: None)
    assert [column.text(value) for value in (-0.0001, -0.001, 0.0)] == ["0.000", "−0.001", "0.000"]


def test_numbers_without_limit_stay_short() -> None:
    ratio, count = Column("x", "x", lambda run: None), Column("x", "x", lambda run: None, digits=0)
    assert [ratio.text(value) for value in (36_768_560.953, 99_999.0, -2e12)] == [
        "3.7e7",
        "99,999.000",
        "−2.0e12",
    ]
    assert count.text(1_234_567.0) == "1,234,567"


def test_the_vectors_behind_our_own_scores_are_named(report: Report) -> None:
    """A report once said "GoogleNews vectors" under scores by vectors trained on the corpus."""
    caption = table(report, "table3").caption
    assert "Our vectors: word2vec trained on the training split, which know 99.1% of" in caption
    assert "GoogleNews" not in caption.split("The paper's figures:")[0]


def test_gains_of_each_level(report: Report) -> None:
    made = table(report, "sources")
    assert cell(made, "vhcr-ud", "gain_prior").text == "0.310"
    assert cell(made, "vhcr-ud", "gain_prior_conv").text == "0.170"
    assert cell(made, "vhred", "gain_prior_conv").text == "–", "it has no z_conv"
    assert cell(made, "vhred-bow", "share_shuffled").text == "42.3 %", "2.2 of 5.2 nats"


def test_mutual_information_stands_beside_its_error_and_its_limit(report: Report) -> None:
    made = table(report, "diagnostics")
    assert cell(made, "vhcr-ud", "information_conv").text == "3.20"
    assert cell(made, "vhcr-ud", "error_conv").text == "0.10"
    assert cell(made, "vhcr-ud", "most_conv").text == "4.79", "log 120"
    assert cell(made, "vhred", "information_utt").text == "0.01"


def test_diversity_by_decoding(report: Report) -> None:
    made = table(report, "diversity")
    assert made.groups == [("greedy decoding", 3)], "no column without a number"
    assert cell(made, "hred", "greedy decoding.distinct_responses").text == "40.0 %"


def test_nats_of_other_words_are_said_to_be(report: Report) -> None:
    assert "other words" not in table(report, "table1").caption
    runs = tuple(
        with_numbers(run, num_words=1, nll_per_word=1.0) if run.system == "vhred-bow" else run
        for run in report.results.runs
    )
    evidence = Evidence(replace(report.results, runs=runs), num_samples=20, seed=0)
    made = next(each for each in tables(evidence, report.paper) if each.id == "table1")
    assert "VHRED + bow: nats of other words" in made.caption
    assert not cell(made, "vhred-bow", "nll_per_word").best
