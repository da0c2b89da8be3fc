"""The notebook of docs/, its cells run in their order on a small run, as a newcomer would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.explore.example import explored

NOTEBOOK = Path(__file__).parents[2] / "docs" / "a-run-in-hand.ipynb"


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explored(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VHCR_RUN", "invented/vhcr-ud/0")
    known: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "kept without outputs: those of one run are not those of another"
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), known)
    assert [row["word"] for row in known["scored"]][:2] == ["hello", "<eos>"]
    assert all(row["with z"] > 0 and row["without"] > 0 for row in known["scored"])
    assert [len(turns) for turns in known["spoken"]] == [2, 2, 2]
    assert [len(turns) for turns in known["conversations"]] == [3] * 5
    drawn = known["chart"].to_dict()
    assert len(drawn["data"]["values"]) == 24
