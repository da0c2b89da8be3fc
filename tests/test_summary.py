"""The table that ends `make run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vhcr.errors import DataError
from vhcr.summary import summary, table


def test_columns_line_up_and_missing_numbers_are_dashes() -> None:
    text = table(
        [
            {"system": "hred", "seed": 0, "nll_per_word": 3.5, "kl_conv_per_word": 0.0, "greedy_1turn": None},
            {"system": "vhcr-ud", "seed": 10, "nll_per_word": 13.25, "kl_conv_per_word": 0.125},
        ]
    )
    heading, _, hred, vhcr = text.splitlines()
    for name, first, second in (
        ("nll", "3.500", "13.250"),
        ("kl_conv", "0.000", "0.125"),
        ("greedy", "-", "-"),
    ):
        end = heading.index(f" {name}") + 1 + len(name)
        assert hred[:end].endswith(first)
        assert vhcr[:end].endswith(second)


def test_every_corpus_has_its_table_and_its_page(tmp_path: Path) -> None:
    for corpus in ("toy", "cornell-small"):
        (tmp_path / corpus).mkdir()
        (tmp_path / corpus / "table.json").write_text(json.dumps([{"system": "hred", "seed": 0}]))
    text = summary(tmp_path)
    assert text.index("cornell-small") < text.index("toy")
    assert str(tmp_path / "toy" / "index.html") in text
    assert "make mlflow" in text


def test_a_password_in_the_tracking_address_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@tracking.example")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "table.json").write_text("[]")
    assert "tracking.example" in summary(tmp_path)
    assert "secret" not in summary(tmp_path)


def test_without_a_report_it_says_what_to_do(tmp_path: Path) -> None:
    assert "make run" in summary(tmp_path)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "table.json").write_text("[{")
    with pytest.raises(DataError, match=r"table\.json"):
        summary(tmp_path)
