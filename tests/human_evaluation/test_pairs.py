"""Which responses stand side by side, and which may not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.human_evaluation.studies import DATA_HASH, PROTOCOL, drawn, write_run
from vhcr import layout
from vhcr.errors import DataError, StudyError
from vhcr.files import write_json
from vhcr.human_evaluation.pairs import find_run, read_run


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_both(**opponent: Any) -> None:
    write_run(Path(), "vhcr-ud")
    write_run(Path(), "hred", **opponent)


def test_pairs_are_of_one_context_and_readable() -> None:
    write_both()
    for pair in drawn(Path(), 12).pairs:
        number = int(pair.conversation_id.removeprefix("talk"))
        assert pair.context == (f"hello, number {number}.", "i don't know you!")
        assert pair.system_response == (f"answer {number} of <vhcr-ud> & co, turn 0.",)
        assert pair.opponent_response == (f"answer {number} of <hred> & co, turn 0.",)


def test_a_seed_draws_the_same_contexts_and_another_seed_others() -> None:
    write_both()
    first, again, other = (drawn(Path(), 6, seed).pairs for seed in (0, 0, 1))
    assert first == again
    assert len({pair.conversation_id for pair in first}) == 6
    assert {pair.conversation_id for pair in other} != {pair.conversation_id for pair in first}
    # A draw that keeps the order of the file would take the first ones.
    assert [pair.conversation_id for pair in first] != sorted(pair.conversation_id for pair in first)


def test_pairs_that_agree_are_left_out_unless_asked_for() -> None:
    same = dict.fromkeys(range(4), "what ?")
    write_run(Path(), "vhcr-ud", responses=same)
    write_run(Path(), "hred", responses=same)
    found = drawn(Path(), 8)
    assert (found.num_contexts, found.num_identical) == (12, 4)
    assert not any(pair.identical for pair in found.pairs)
    with pytest.raises(StudyError, match="have 8 pairs that differ in 12 test contexts, fewer than the 9"):
        drawn(Path(), 9)
    assert sum(pair.identical for pair in drawn(Path(), 12, include_identical=True).pairs) == 4


def test_the_same_question_is_not_asked_twice() -> None:
    """Toy conversations often begin alike; a deterministic system then answers alike, too."""
    write_both()
    for system in ("vhcr-ud", "hred"):
        path = layout.evaluated("toy", system, 0) / "responses.parquet"
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            if row["conversation_id"] in {"talk000", "talk001", "talk002"}:
                row["context"] = ["hello"]
                row["response"] = f"hello from {system}"
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = drawn(Path(), 10)
    assert found.num_repeated == 2
    assert len({pair.conversation_id for pair in found.pairs} & {"talk000", "talk001", "talk002"}) == 1


def test_three_turns_stay_in_their_order() -> None:
    write_both()
    pair = drawn(Path(), 1, num_turns=3).pairs[0]
    assert [text[-2:] for text in pair.system_response] == ["0.", "1.", "2."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_hash": "0" * 64}, "different data, 5f3a5f3a5f3a and 000000000000"),
        (
            {"protocol": {**PROTOCOL, "generation": {"strategy": "sample", "max_words": 30}}},
            "generation.strategy is 'greedy' in one and 'sample'",
        ),
        ({"protocol": {**PROTOCOL, "metric_version": 9}}, "metric_version is None in one and 9"),
        ({"contexts": range(1, 12)}, "no response to conversation 'talk000'"),
        ({"contexts": range(13)}, "no response to conversation 'talk012'"),
    ],
)
def test_runs_that_do_not_match_are_refused(changes: dict[str, Any], message: str) -> None:
    write_both(**changes)
    with pytest.raises(StudyError, match=message):
        drawn(Path(), 3)


@pytest.mark.parametrize("column", ["context", "reference"])
def test_other_texts_under_the_same_id_are_refused(column: str) -> None:
    write_both()
    path = layout.evaluated("toy", "hred", 0) / "responses.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3][column] = ["something", "else"] if column == "context" else "else"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(StudyError, match="conversation 'talk003' is not the same text in both"):
        drawn(Path(), 3)


def test_a_run_is_found_by_name_or_folder_and_not_compared_with_itself() -> None:
    folder = write_run(Path(), "hred")
    assert find_run("toy/hred/0") == find_run(str(folder)) == folder
    with contextlib.chdir(folder.parents[1]):  # a short name from within the project
        assert read_run(Path("hred/0"), 1).system == "hred"
    with pytest.raises(StudyError, match=r"toy/vhcr/0: no such evaluated run.*one of: toy/hred/0"):
        find_run("toy/vhcr/0")
    write_run(Path(), "vhcr-ud")
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(layout.evaluated("toy", "vhcr-ud", 0).resolve())
    with pytest.raises(StudyError, match="cannot be compared with itself"):
        drawn(Path(), 3)


def test_damaged_runs_are_named() -> None:
    folder = write_run(Path(), "hred")
    with pytest.raises(StudyError, match="no responses of 2 turns, only of 1, 3"):
        read_run(folder, 2)
    rows = pq.read_table(folder / "responses.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[:-1]), folder / "responses.parquet")
    with pytest.raises(StudyError, match="conversation 'talk011' lacks one of its 3 turns"):
        read_run(folder, 3)
    write_json(folder / "provenance.json", {"data_hash": DATA_HASH})
    with pytest.raises(StudyError, match=r"provenance.json: protocol is missing"):
        read_run(folder, 1)
    (folder / "provenance.json").unlink()
    with pytest.raises(DataError, match=r"provenance.json: cannot be read"):
        read_run(folder, 1)
