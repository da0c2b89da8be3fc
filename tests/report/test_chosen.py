"""A page over chosen runs: which may stand together, and under which names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.human_evaluation.studies import make_study
from tests.report.results_tree import DATA_HASH, SYSTEMS, write_run, write_tree
from vhcr import cli, layout
from vhcr.errors import CheckpointError, DataError, StudyError
from vhcr.files import read_json, write_json
from vhcr.human_evaluation.study import Imported
from vhcr.human_evaluation.table import of_runs
from vhcr.params import Params
from vhcr.results import chosen
from vhcr.results.runs import Results
from vhcr.stages.report import compare
from vhcr.stages.resolve import resolve_results

PARAMS = Params.load(Path(__file__).parents[2] / "params.yaml")
VHCR = "data/trained/toy/vhcr-ud"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path, systems={name: SYSTEMS[name] for name in ("hred", "vhcr-ud")})
    for name in ("hred", "vhcr-ud"):
        for seed in (0, 1):
            change(tmp_path / layout.trained("toy", name, seed), corpus="toy", system=name, seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    path = folder / "run.json"
    write_json(path, {**read_json(path), **values})


def copied(source: Path, target: Path, edit: Callable[[Path, Path], None]) -> str:
    """A run and its evaluation somewhere else, as MLflow keeps them, and with something else about them."""
    shutil.copytree(source, target)
    parts = list(source.parts)
    parts[parts.index("trained")] = "evaluated"
    shutil.copytree(Path(*parts), target / "evaluation")
    edit(target, target / "evaluation")
    return str(target)


def load(*references: str) -> Results:
    places = [chosen.Place(*found) for each in references for found in resolve_results(each)]
    return chosen.load(places)


def test_by_name_by_folder_and_all_below(project: Path) -> None:
    for references in (
        ["toy/hred/0", "toy/hred/1", f"{VHCR}/0", f"{VHCR}/1"],
        ["data/trained/toy"],
        ["toy/hred/1", "data/trained/toy/hred/0", VHCR],
    ):
        found = load(*references)
        assert [(run.system, run.seed) for run in found.runs] == [
            ("hred", 0), ("hred", 1), ("vhcr-ud", 0), ("vhcr-ud", 1),
        ]  # fmt: skip
    assert found.data.validation, "the data is still what they saw"
    assert found.title == "toy: 4 chosen runs"


def test_by_mlflow_id(project: Path) -> None:
    path = project / layout.trained("toy", "hred", 0) / "provenance.json"
    write_json(path, {"mlflow_run_id": "ab" * 16})
    assert resolve_results("ab" * 16) == [
        ("ab" * 16, layout.trained("toy", "hred", 0), layout.evaluated("toy", "hred", 0))
    ]


def test_other_settings_have_names_of_their_own(project: Path) -> None:
    def edit(trained: Path, _: Path) -> None:
        params = read_json(trained / "run.json")["params"]
        change(trained, params={**params, "training": {**params["training"], "learning_rate": 0.01}})

    found = load(VHCR, copied(project / VHCR / "0", project / "faster", edit))
    assert found.systems == ("vhcr-ud, learning_rate 0.003", "vhcr-ud, learning_rate 0.01")
    assert [run.seed for run in found.runs] == [0, 1, 0]


def test_other_code_too(project: Path) -> None:
    def edit(trained: Path, _: Path) -> None:
        change(trained, code_version="f" * 40)

    found = load(f"{VHCR}/0", copied(project / VHCR / "0", project / "later", edit))
    assert found.systems == ("vhcr-ud", "vhcr-ud, commit fffffff")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("data_hash", "0ld" * 8, "saw different data.*\n.*data 5f3a5f3a5f3a: toy/hred/0\n.*data 0ld0ld0"),
        ("corpus", "cornell", "saw different data.*\n.*\n.*cornell, data 5f3a5f3a5f3a: .*other"),
    ],
)  # fmt: skip
def test_what_saw_other_data_is_refused(project: Path, key: str, value: str, complaint: str) -> None:
    def edit(trained: Path, _: Path) -> None:
        change(trained, **{key: value})

    other = copied(project / VHCR / "0", project / "other", edit)
    with pytest.raises(DataError, match=complaint):
        load("toy/hred/0", other)


def test_another_protocol_is_refused(project: Path) -> None:
    def edit(_: Path, evaluated: Path) -> None:
        path = evaluated / "provenance.json"
        protocol = {"generation": {"strategy": "beam"}, "context": "the first 1 turns"}
        write_json(path, {**read_json(path), "protocol": protocol})

    other = copied(project / VHCR / "0", project / "other", edit)
    with pytest.raises(
        DataError, match=r"one protocol.*\n.*generation\.strategy: greedy in toy/hred/0, beam in"
    ):
        load("toy/hred/0", other)


def test_what_does_not_matter_to_the_numbers_is_no_other_protocol(project: Path) -> None:
    def edit(_: Path, evaluated: Path) -> None:
        path = evaluated / "provenance.json"
        run = read_json(path)
        run["protocol"]["evaluation"] = {"num_samples_shown": 3}
        write_json(path, run)

    def keep(_: Path, evaluated: Path) -> None:
        path = evaluated / "provenance.json"
        run = read_json(path)
        run["protocol"]["evaluation"] = {"num_samples_shown": 4}
        run["protocol"]["generation"]["unknown_words"] = "allow"  # an older program did nothing else
        write_json(path, run)

    one = copied(project / VHCR / "0", project / "one", edit)
    two = copied(project / "data/trained/toy/hred/0", project / "two", keep)
    assert len(load(one, two).runs) == 2


def test_twice_the_same_is_refused(project: Path) -> None:
    with pytest.raises(DataError, match="data/trained/toy/hred/0: chosen twice"):
        load("toy/hred/0", "data/trained/toy/hred/0")
    copy = copied(project / VHCR / "0", project / "copy", lambda *_: None)
    with pytest.raises(DataError, match=re.escape("VHCR + u.d, seed 0 is there twice")):
        load(f"{VHCR}/0", copy)


def test_what_was_not_evaluated_is_named(project: Path) -> None:
    shutil.rmtree(layout.evaluated("toy", "hred", 0))
    with pytest.raises(DataError, match="data/trained/toy/hred/0: no evaluation of this run"):
        load("toy/hred/0")
    with pytest.raises(CheckpointError, match="no such trained run"):
        load("toy/hred/7")


def test_page_and_command(project: Path, undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    page = compare(["data/trained/toy"], Path("reports/mine"), PARAMS)
    text = page.read_text()
    assert "toy: 4 chosen runs" in text
    assert (page.parent / "tables" / "table7.parquet").is_file()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "--runs", "toy/hred/9"])
    assert stopped.value.code == 2
    assert "error: toy/hred/9: no such trained run" in capsys.readouterr().err


def test_votes_of_a_study_become_table_4(
    project: Path, undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = {"data_hash": DATA_HASH, "protocol": {}}
    study = make_study(tmp_path / "elsewhere", paper_systems={}, provenance=provenance)
    with pytest.raises(StudyError, match="nobody has voted yet"):
        compare(["toy/vhcr-ud/0", "toy/hred/0"], Path("reports/mine"), PARAMS, partial(of_runs, [study.path]))
    votes = [Imported(item.item, "ann", "tie", f"a{n}", "") for n, item in enumerate(study.items())]
    study.record(votes, "mturk")
    with pytest.raises(StudyError, match=r"of toy/hred/0, not on this page"):
        compare([VHCR], Path("reports/mine"), PARAMS, partial(of_runs, [study.path]))
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--runs", "toy/vhcr-ud/0", "toy/hred/0", "--study", str(study.path)])
    assert ended.value.code == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text()
    assert text.index("Table 3") < text.index("Table 4: human evaluation") < text.index('id="plots"')
    row = re.search(r"VHCR \+ u\.d vs HRED</th>(.*?)</tr>", text)
    assert row is not None
    assert re.findall(r">([\d.]+) \[", row[1]) == ["0.0", "0.0", "100.0"]
    assert "6 of 12 votes, by 1 rater, on 6 pairs (1 each)" in text
    assert r"\pm" in (page.parent / "tables" / "table4.tex").read_text()

    other = make_study(tmp_path / "other", provenance={**provenance, "data_hash": "0" * 64})
    with pytest.raises(StudyError, match="on other data"):
        compare(["toy/vhcr-ud/0", "toy/hred/0"], Path("reports/mine"), PARAMS, partial(of_runs, [other.path]))
    with pytest.raises(SystemExit):
        cli.main(["report", "toy", "--study", str(study.path)])
    assert "--study: goes with --runs" in capsys.readouterr().err


def test_runs_of_other_settings_are_pointed_out(project: Path, undrawn: None) -> None:
    """On a corpus's own page they cannot be refused: it shows whatever was evaluated."""
    params = read_json(project / VHCR / "0" / "run.json")["params"]
    training = {**params["training"], "num_epochs": 2}
    for seed in (0, 1):
        change(project / VHCR / str(seed), params={**params, "training": training})
    write_run(project, "toy", "vhred", 0, SYSTEMS["vhred"])
    text = compare(["toy/hred/0", VHCR], Path("reports/mine"), PARAMS).read_text()
    assert "differ in more than their system" in text
    assert "training.num_epochs: 10 in HRED, seed 0, 2 in VHCR + u.d, seed 0 and VHCR + u.d, seed 1" in text
