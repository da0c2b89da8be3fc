from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tokenisation.test_dataset import many, settings
from vhcr import corpora, engines
from vhcr.conversation import Conversation
from vhcr.corpora.skipped import Skipped
from vhcr.errors import ParameterError, VhcrError
from vhcr.params import Params
from vhcr.tokenisation.dataset import Dataset, build, build_from

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """One of several equal parts of the example; its reader kills its process where ``deadly`` is absent."""

    number: int
    parts: int
    deadly: Path | None = None

    def __call__(self, skipped: Skipped) -> Iterable[tuple[str, Iterable[Conversation]]]:
        conversations = list(many(140))
        size = len(conversations) // self.parts
        for n, one in enumerate(conversations[self.number * size : (self.number + 1) * size]):
            if n == 3 and self.deadly is not None and not self.deadly.exists():
                self.deadly.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield one.id, [one]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


def made(parts: list[Part], folder: Path, engine: engines.Engine = engines.here, **overrides: Any) -> Dataset:
    params = settings(split_by="hash", max_words=12, max_turns=6, vocabulary_size=15, **overrides)
    return build_from(parts, params, folder, corpus="own", engine=engine, shard_utterances=400)


@pytest.mark.parametrize("split_by", ["hash", "conversation"])
def test_contents_are_the_same_from_1_2_and_7_pieces(tmp_path: Path, split_by: str) -> None:
    found = {}
    for parts in (1, 2, 7):
        params = settings(split_by=split_by, max_words=12, max_turns=6, deduplicate=True)
        pieces = [Part(number, parts) for number in range(parts)]
        data = build_from(pieces, params, tmp_path / str(parts), corpus="own", shard_utterances=400)
        found[parts] = ({**data.manifest, "files": None}, data.metrics)
    assert found[1] == found[2] == found[7]


def test_a_record_of_another_shard_is_known_again(tmp_path: Path) -> None:
    """Of two pieces neither knows the other's ids."""
    twice = made([Part(0, 2), Part(0, 2), Part(1, 2)], tmp_path / "twice")
    once = made([Part(0, 2), Part(1, 2)], tmp_path / "once")
    skipped = twice.metrics["read"].pop("skipped")
    assert skipped["by_reason"] == {"conversation id used twice": 70}
    assert skipped["conversations"] == 70
    assert skipped["examples"] == {"conversation id used twice": ["c0", "c1", "c2", "c3", "c4"]}
    assert twice.manifest["data_hash"] == once.manifest["data_hash"]
    once.metrics["read"].pop("skipped")
    assert twice.metrics == once.metrics


def test_buckets_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests and words are compared bucket by bucket; here few rows are many."""
    pieces = [Part(number, 7) for number in (0, 1, 2, 3, 3, 4, 5, 6)]
    whole = made(pieces, tmp_path / "whole", deduplicate=True)
    monkeypatch.setattr("vhcr.tokenisation.digests.BUCKET_ROWS", 60)
    parted = made(pieces, tmp_path / "parted", deduplicate=True)
    assert digests(tmp_path / "whole") == digests(tmp_path / "parted")
    assert whole == parted
    assert whole.metrics["left_out"]["copies"] > 0, "else nothing was compared"


def test_one_stream_is_as_one_piece(tmp_path: Path) -> None:
    params = settings(split_by="hash")
    one = build(many(140), params, tmp_path / "stream", corpus="own", shard_utterances=400)
    assert one == build_from([Part(0, 1)], params, tmp_path / "piece", corpus="own", shard_utterances=400)


def test_lines_of_a_part_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    """Each line is in one part, whatever the size; what is broken is named by its line of the file."""
    lines = [json.dumps({"utterances": ["é" * (n % 7), "ja"]}, ensure_ascii=False) for n in range(40)]
    lines[11] = "{broken"
    lines[23] = ""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "chats.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    source = Params.load(ROOT / "params.yaml").defaults.source
    reads = {}
    for size in (1, 50, 97, 10**6):
        skipped = Skipped()
        pieces = corpora.pieces(raw, source, engines.here, piece_bytes=size)
        found = [one for piece in pieces for _, held in piece(skipped) for one in held]
        reads[size] = (found, skipped.as_dict())
        assert (len(pieces) > 1) == (size < 10**6)
    assert reads[1] == reads[50] == reads[97] == reads[10**6]
    assert reads[1][1]["examples"] == {"not valid JSON": ["chats.jsonl:12"]}
    assert [one.id for one in reads[1][0]][-1] == "chats:40"


@pytest.mark.slow
def test_processes_make_the_same_bytes_even_when_one_is_killed(tmp_path: Path) -> None:
    """SIGKILL in the middle of a shard: the pool is broken, and what was not done is done again."""
    parts = [Part(number, 7) for number in range(7)]
    deadly = tmp_path / "died"
    killed = [Part(number, 7, deadly if number == 4 else None) for number in range(7)]
    here = made(parts, tmp_path / "here")
    with engines.started("processes", workers=2) as engine:
        there = made(killed, tmp_path / "there", engine)
    assert deadly.exists()
    assert here == there
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


@pytest.mark.slow
def test_who_is_killed_again_and_again_is_told(tmp_path: Path) -> None:
    with (
        engines.started("processes", workers=2) as engine,
        pytest.raises(VhcrError, match=r"_always: workers were killed 4 times, with \d of 3 tasks to do"),
    ):
        engine(_always, [(0,), (1,), (2,)])


def _always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def scaled(name: str, folder: Path, workers: int | None = None) -> tuple[Dataset, dict[str, str]]:
    with engines.started(name, workers) as engine:
        made_there = made([Part(number, 7) for number in range(7)], folder, engine)
    return made_there, digests(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_makes_the_same_bytes_here_and_on_two_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes on loopback stand for a cluster; without an address, Ray starts one node here."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = made([Part(number, 7) for number in range(7)], tmp_path / "here")
    assert scaled("ray", tmp_path / "one", workers=2) == (here, digests(tmp_path / "here"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert scaled("ray", tmp_path / "two") == (here, digests(tmp_path / "here"))
    finally:
        cluster.shutdown()


def test_an_engine_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match="needs Ray: pip install 'vhcr"), engines.started("ray"):
        pass
