"""Settings by size: they fit the schema, the schedule fits the training, and the docs say the same."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from vhcr import preset
from vhcr.params import Params

ROOT = Path(__file__).resolve().parent.parent


def params() -> Params:
    return Params(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("words", "conversations"),
    [(500, 12), (50_000, 900), (900_000, 4_372), (4_000_000, 66_000), (10**9, 10**7)],
)
def test_annealing_fits_the_training_and_the_network_is_never_the_papers(
    words: int, conversations: int
) -> None:
    """4,372 conversations got the paper's network, 15,000 steps of annealing and a KL weight of 0.09."""
    sections = preset.sections(words, conversations)
    own = params().changed({"corpora": {"own": sections}}).corpus("own")
    steps = own.training.num_epochs * math.ceil(conversations / own.training.batch_conversations)
    assert own.training.kl_annealing_steps <= steps / 2
    assert own.model.encoder_size < params().defaults.model.encoder_size
    assert steps >= min(preset.size_for(words).num_steps, 2 * math.ceil(conversations / 80), 60)
    if conversations == 4_372:
        assert preset.size_for(words).name == "small"


def test_systems_by_default_are_defined() -> None:
    assert set(preset.SYSTEMS) <= set(params().systems)


def test_the_table_in_the_docs_is_the_rule() -> None:
    text = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
    rows = {
        cells[1]: cells for line in text.splitlines() if (cells := [c.strip() for c in line.split("|")])[1:2]
    }
    for size in preset.SIZES:
        numbers = [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", " ".join(rows[size.name][3:10]))]
        assert numbers == [
            size.embedding_size, size.encoder_size, size.context_size, size.decoder_size, size.z_size,
            size.vocabulary_size, size.min_count, size.num_steps,
        ]  # fmt: skip
