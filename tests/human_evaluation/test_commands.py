"""`vhcr human-eval` as a person types it, from two evaluated runs to Table 4."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.human_evaluation.studies import PROTOCOL, make_study, rater, write_run
from tests.human_evaluation.test_platforms import exported, results, saved
from vhcr import cli, layout
from vhcr.files import write_json
from vhcr.human_evaluation.study import Study

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["human-eval", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["human-eval", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_whole_way_with_a_crowd(tmp_path: Path) -> None:
    for system in ("vhcr-ud", "hred"):
        write_run(Path(), system, mlflow_run_id=f"run of {system}", code_version="abc", dirty=False)
    path = typed("build", "toy/vhcr-ud/0", "toy/hred/0", "--items", "6", "--votes", "2").strip()
    assert path.startswith("data/human_evaluation/toy/vhcr-ud-0-vs-hred-0")
    assert "0 of 12 votes; 0 of 6 pairs have all 2" in typed("status", path)
    assert "nobody has voted yet; 12 votes are wanted" in typed("report", path)

    written = typed("export", path, "mturk").split() + typed("export", path, "label-studio").split()
    assert [Path(name).name for name in written] == ["layout.html", "batch.csv", "config.xml", "tasks.json"]
    study = Study(Path(path))
    typed("import", path, "mturk", str(results(study, tmp_path / "r.csv", ("left", "right", "tie"))))
    again = typed("import", path, "mturk", "r.csv")
    assert "r.csv: 0 votes stored, 6 known before, 0 changed, 0 second votes" in again
    typed("import", path, "label-studio", str(saved(tmp_path, exported(study))))

    text = typed("report", path)
    assert "12 of 12 votes, by 4 raters, on 3 pairs (4 each)" in text
    assert "ties 33.3" in text
    assert "Krippendorff's alpha 1.00" in text
    document = json.loads(typed("report", path, "--format", "json"))
    row = document["rows"][0]
    assert document["level"] == 0.9
    assert row["ties"]["share"] == pytest.approx(1 / 3)
    assert row["wins"]["num_votes"] + row["losses"]["num_votes"] == 8
    assert row["agreement"]["nominal"] == pytest.approx(1)
    [made] = row["studies"]
    assert made["provenance"]["protocol"] == PROTOCOL
    assert made["provenance"]["runs"]["opponent"] == {
        "mlflow_run_id": "run of hred",
        "code_version": "abc",
        "dirty": False,
    }
    status = typed("status", path)
    assert "12 of 12 votes; 3 of 6 pairs have all 2" in status
    assert "3 pairs with 0 votes\n  3 pairs with 4 votes" in status
    assert not re.search("win|loss|tie", status), "whoever looks while people vote learns nothing"


def test_the_papers_figures_stand_beside_ours(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for system in ("vhcr-ud", "hred", "vhred-bow"):
        write_run(Path(), system, corpus="cornell-small")
    paths = [
        typed("build", "cornell-small/vhcr-ud/0", f"cornell-small/{opponent}/0", "--items", "5").strip()
        for opponent in ("vhred-bow", "hred")
    ]
    for path in paths:
        assert Study(Path(_voted(path))).settings.paper_corpus == "cornell"
    text = typed("report", *paths)
    assert text.index("VHCR + u.d vs HRED") < text.index("VHCR + u.d vs VHRED + bow"), "the paper's order"
    assert "the paper's VHCR: wins 28.5 ± 1.9   losses 28.2 ± 1.9   ties 43.3 ± 2.1" in text
    document = json.loads(typed("report", *paths, "--format", "json"))
    assert document["rows"][1]["paper"]["wins"] == {"percent": 31.3, "half_width": 2.0}
    latex = typed("report", *paths, "--format", "latex")
    assert r"$31.3 \pm 2.0$" in latex
    assert r"$40.0 \pm " in latex
    assert latex.count(r"\toprule") == latex.count(r"\end{table}") == 1


def test_the_papers_systems_are_told_by_what_was_trained() -> None:
    """A folder's name proves nothing where the run says what it is."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    at_rest = values["defaults"]["system"]
    settings = {
        "mine": {**at_rest, "architecture": "vhcr", "utterance_drop": 0.25},
        "vhcr-ud": {**at_rest, "architecture": "vhcr", "utterance_drop": 0.25, "word_drop": 0.9},
        "hred": {**at_rest, "architecture": "hred"},
    }
    for system, recorded in settings.items():
        write_run(Path(), system, corpus="ubuntu")
        run = layout.trained("ubuntu", system, 0) / "run.json"
        write_json(run, {"params": {"system": recorded}})
    said = {
        system: typed("report", _voted(typed("build", f"ubuntu/{system}/0", "ubuntu/hred/0", "--items", "5")))
        for system in ("mine", "vhcr-ud")
    }
    assert "the paper's VHCR: wins 52.9 ± 2.1" in said["mine"]
    assert "the paper" not in said["vhcr-ud"].replace("the paper's formula", "")


def _voted(printed: str) -> str:
    """The study that `build` named, with one rater's votes."""
    study = Study(Path(printed.strip()))
    who = rater(study, "anna")
    for choice in ("left", "tie", "right", "left", "tie"):
        shown = study.next_item(who)
        assert shown is not None
        study.vote(who, shown.item, choice, 0)  # type: ignore[arg-type]
    return str(study.path)


def test_batches_of_one_comparison_are_pooled(capsys: pytest.CaptureFixture[str]) -> None:
    studies = [make_study(Path(), 6, votes=1, seed=seed, name=f"batch{seed}") for seed in (0, 1)]
    for study in studies:
        who = rater(study, "anna")
        while (shown := study.next_item(who)) is not None:
            study.vote(who, shown.item, "tie", 0)
    document = json.loads(typed("report", "batch0.sqlite", "batch1.sqlite", "--format", "json"))
    [row] = document["rows"]
    assert (row["num_items"], row["num_votes"], len(row["studies"])) == (12, 12, 2)
    assert "given twice; its votes would count twice" in refused(
        "report", "batch0.sqlite", "./batch0.sqlite", capsys=capsys
    )
    shutil.copyfile("batch0.sqlite", "copy.sqlite")
    assert "copies of one study, whose votes would count twice" in refused(
        "report", "batch0.sqlite", "batch1.sqlite", "copy.sqlite", capsys=capsys
    )


def test_what_was_not_made_alike_is_not_pooled(capsys: pytest.CaptureFixture[str]) -> None:
    make_study(Path(), name="one", provenance={"data_hash": "a", "protocol": {}})
    make_study(Path(), name="two", provenance={"data_hash": "b", "protocol": {}})
    make_study(Path(), name="three", num_turns=3, provenance={"data_hash": "a", "protocol": {}})
    for other, why in (("two", "their data_hash differs"), ("three", "responses differ in turns")):
        said = refused("report", "one.sqlite", f"{other}.sqlite", capsys=capsys)
        assert f"one.sqlite and {other}.sqlite: not to be pooled, {why}" in said


def test_pairs_left_out_since_they_agree_are_said() -> None:
    study = make_study(Path(), 6, votes=1, num_contexts=20, num_identical=5)
    who = rater(study, "anna")
    while (shown := study.next_item(who)) is not None:
        text = shown.left[0]
        study.vote(who, shown.item, "left" if "vhcr-ud" in text else "right", 0)
    said = typed("report", "study.sqlite")
    assert "left out: 25.0% of contexts, where both say the same" in said
    assert "75.0 wins, 0.0 losses, 25.0 ties" in said


def test_three_turns_and_identical_pairs_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    same = dict.fromkeys(range(11), "what ?")
    for system in ("vhcr-ud", "hred"):
        write_run(Path(), system, responses=same)
    runs = ("toy/vhcr-ud/0", "toy/hred/0", "--turns", "3", "--items", "12")
    assert "have 1 pairs that differ in 12 test contexts" in refused("build", *runs, capsys=capsys)
    path = typed("build", *runs, "--include-identical").strip()
    study = Study(Path(path))
    assert len(study.items()) == 12
    assert {len(item.system_response) for item in study.items()} == {3}
    assert study.settings.include_identical


def test_links_are_printed_and_lead_to_their_raters(capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(Path())
    printed = typed("invite", "study.sqlite", "anna", "ben", "--port", "9000")
    links = dict(line.split(": ", 1) for line in printed.splitlines())
    assert links["anna"] == f"http://127.0.0.1:9000/r/{study.invite('anna')}/"
    assert links["ben"] != links["anna"]
    assert "anna: 0\n  ben: 0" in typed("status", "study.sqlite")
    make_study(Path(), name="other")
    assert "nobody is invited yet" in refused("serve", "other.sqlite", capsys=capsys)


def test_mistakes_are_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "toy/hred/0: no such evaluated run" in refused("build", "toy/hred/0", "toy/vhcr/0", capsys=capsys)
    assert "none.sqlite: no such study" in refused("report", "none.sqlite", capsys=capsys)
    make_study(Path())
    Path("taken").write_text("a file", encoding="utf-8")
    assert "taken/layout.html: cannot be written" in refused(
        "export", "study.sqlite", "mturk", "--output", "taken", capsys=capsys
    )
    runs = ("toy/vhcr-ud/0", "toy/hred/0", "--items", "3")
    said = refused("build", *runs, "--output", "taken/study.sqlite", capsys=capsys)
    assert "taken/study.sqlite: cannot be written" in said
    assert "no.csv: cannot be read" in refused("import", "study.sqlite", "mturk", "no.csv", capsys=capsys)
