"""Stage report: what it writes, and what it refuses."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report import results_tree
from tests.report.results_tree import SYSTEMS, write_run, write_tree
from vhcr import layout
from vhcr.errors import DataError
from vhcr.files import read_json
from vhcr.params import Params
from vhcr.report import page as page_module
from vhcr.report.page import assemble, render
from vhcr.results.runs import load
from vhcr.stages import download, tokenise
from vhcr.stages.report import main, publish, run

PARAMS = Params.load(Path(__file__).parents[2] / "params.yaml")


SCRIPTS = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page_module, "library", lambda: "/* Vega */")
    write_tree(tmp_path, systems={name: SYSTEMS[name] for name in ("hred", "vhcr-ud")}, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_all_files_and_leaves_out_what_does_not_belong(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stale = layout.report("toy") / "plots" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (layout.report("toy") / "table.json").touch()  # it was a report
    write_run(project, "toy", "vhred", 0, SYSTEMS["vhred"])
    shutil.rmtree(layout.evaluated("toy", "vhred", 0))
    path = layout.evaluated("toy", "hred", 0) / "responses.parquet"
    table = pq.read_table(path)
    said = pa.array(["i 'm gon na go , sir ."] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("response"), "response", said), path)
    with caplog.at_level(logging.WARNING):
        run(PARAMS, corpus="toy")
    assert "vhred 0 is left out: trained, but not evaluated" in caplog.text
    assert not stale.exists()
    folder = layout.report("toy")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.*")}
    expected = {"index.html", "table.json", "plots/kl.png", "plots/kl.svg", "tables/table1.tex"}
    assert expected | {"tables/table3.csv"} <= set(files)
    said = pq.read_table(files["tables/table5.parquet"]).to_pylist()
    assert {row["system"] for row in said} == {"hred", "vhcr-ud"}
    assert {row["response"] for row in said if row["system"] == "hred"} == {"i'm gonna go, sir."}
    for number, talks in ((6, 2 * 2 * 3), (7, 2 * 4)):
        told = pq.read_table(files[f"tables/table{number}.parquet"])
        assert told.num_rows == 3 * talks
        assert set(told["system"].to_pylist()) == {"vhcr-ud"}
    rows = json.loads(files["table.json"].read_text())
    assert [(row["system"], row["seed"]) for row in rows] == [("hred", 0), ("vhcr-ud", 0)]
    page = files["index.html"].read_text()
    assert "i&#39;m gonna go, sir." in page, "words are joined for reading"
    assert render(assemble(load("toy"), num_samples=50, seed=0)) == render(
        assemble(load("toy"), num_samples=50, seed=0)
    )


def test_refuses_to_report_on_nothing(project: Path) -> None:
    shutil.rmtree(layout.DATA / "evaluated")
    with pytest.raises(DataError, match="data/evaluated/toy: no run was evaluated on the present data"):
        run(PARAMS, corpus="toy")
    assert not layout.report("toy").exists()


def test_command(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", "--corpus", "nope", "--params", str(Path(__file__).parents[2] / "params.yaml")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "corpora: 'nope' is not defined" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_ones_own_report_answers_what_one_asks_and_leaves_the_paper_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read, how good it is, and what z_conv knows; the paper's claims stood there instead."""
    lines = [json.dumps({"utterances": [f"is it {n} ?", "it is .", ""]}) for n in range(40)]
    (project / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    params = PARAMS.changed({"corpora": {"own": {"source": {"path": "chats.jsonl"}}}})
    download.run(params, corpus="own")
    tokenise.run(params, corpus="own")
    manifest = layout.tokenised("own") / "manifest.json"
    monkeypatch.setattr(results_tree, "DATA_HASH", read_json(manifest)["data_hash"])
    for system in ("hred", "vhcr-ud"):
        write_run(project, "own", system, 0, SYSTEMS[system])
    run(params, corpus="own")
    text = SCRIPTS.sub("", (layout.report("own") / "index.html").read_text(encoding="utf-8"))
    for said in (
        "<li>read 40 conversations of 120 utterances; 0 records skipped</li>",
        "<li>⚠ 40 utterances without a word left out (such as",
        "HRED has the lowest NLL or bound, 3.401 nats per word (a perplexity of 30)",
        "VHCR + u.d, seed 0: of the labels it tells topic 74 % (20 % by the commonest); 9 active units",
    ):
        assert said in text
    for said in (
        "claims",
        "The paper has no figures",
        "as in the paper",
        "Table 6:",
        "not run",
        ">the paper<",
    ):
        assert said not in text
    publish("own", params)
    text = Path("results/own/README.md").read_text(encoding="utf-8")
    assert "## own" in text
    assert "claims" not in text
