"""What a flow reads from DVC's graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import graph
from vhcr.errors import ParameterError, VhcrError

DOT = """strict digraph {
"download@toy";
"train@toy-a";
"train@toy-b";
"report@toy";
"lonely";
"download@toy" -> "train@toy-a";
"download@toy" -> "train@toy-b";
"train@toy-a" -> "report@toy";
"train@toy-b" -> "report@toy";
}
"""


def test_arrows_go_from_the_needed_to_the_needing() -> None:
    assert graph.parse(DOT) == {
        "download@toy": frozenset(),
        "train@toy-a": {"download@toy"},
        "train@toy-b": {"download@toy"},
        "report@toy": {"train@toy-a", "train@toy-b"},
        "lonely": frozenset(),
    }


def test_all_stages_come_after_what_they_need() -> None:
    order = graph.select(graph.parse(DOT))
    assert order == ["download@toy", "train@toy-a", "train@toy-b", "report@toy", "lonely"]


def test_a_target_brings_what_it_needs_and_nothing_else() -> None:
    needs = graph.parse(DOT)
    assert graph.select(needs, ["train@toy-b"]) == ["download@toy", "train@toy-b"]
    assert graph.select(needs, ["train"]) == ["download@toy", "train@toy-a", "train@toy-b"]


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ParameterError, match="'trian' is no stage"):
        graph.select(graph.parse(DOT), ["trian"])


def test_the_graph_is_the_one_dvc_sees(project: Path) -> None:
    assert graph.load() == {
        "download@toy": frozenset(),
        "train@toy-a": {"download@toy"},
        "train@toy-b": {"download@toy"},
        "report@toy": {"train@toy-a", "train@toy-b"},
    }


def test_a_broken_graph_is_reported_in_dvcs_words(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {download: {outs: [raw.txt]}}")
    with pytest.raises(VhcrError, match=r"dvc\.yaml"):
        graph.load()
