"""The fast, packed models against the naive oracle of tests/reference.py, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.examples import DROPS, READINGS, SYSTEMS, conversations, network, packed, sizes, system
from tests.reference import Reference, Score
from vhcr.models import Noise, objective

NOISE = Noise(seed=3, step=27)
# One-turn conversations, equal lengths, and names that are not the places in the batch.
CONVERSATIONS = conversations([2, 4, 1, 2], seed=1)
INDEX = [40, 7, 19, 3]
EVERY_STEP = {"decoder_conditioning": "every_step"}
EVERY_SYSTEM: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SYSTEMS),
    ("vhcr-ud", {"bag_of_words_weight": 0.7}),
    *((name, EVERY_STEP) for name in ("hred", "vhred-wd", "vhred-zonly", "vhcr-ud")),
]
# (layers, training): with drops on in training, and drops in the parameters but evaluation.
SETTINGS = [(1, True), (2, True), (1, False)]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Equal to 1e-9 of the largest entry: single entries may cancel to nearly nothing."""
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    difference = float((actual.detach() - expected.detach()).abs().max()) if expected.numel() else 0.0
    assert difference <= 1e-9 * scale + 1e-14, f"{what}: differs by {difference:.3g} of {scale:.3g}"


def table(scores: list[Score], name: str, turns: int) -> torch.Tensor:
    rows = []
    for score in scores:
        values = [torch.as_tensor(value, dtype=torch.float64).detach() for value in getattr(score, name)]
        rows.append(torch.stack(values + [torch.zeros((), dtype=torch.float64)] * (turns - len(values))))
    return torch.stack(rows)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(("layers", "training"), SETTINGS)
@pytest.mark.parametrize(("name", "changes"), EVERY_SYSTEM, ids=str)
def test_fast_model_equals_the_equations(
    name: str, changes: dict[str, Any], layers: int, training: bool, reading: str
) -> None:
    changes = {**DROPS, **changes}
    model = network(name, reading, layers=layers, seed=5, scale=1.5, **changes).train(training)
    batch = packed(CONVERSATIONS, INDEX)
    output = model(batch, NOISE)
    weight = 0.3
    loss = objective.loss(output, weight, model.system.bag_of_words_weight)
    loss.backward()

    leaves = {key: value.detach().clone().requires_grad_(True) for key, value in model.named_parameters()}
    reference = Reference(leaves, sizes(layers), system(name, reading, **changes), NOISE, training=training)
    by_index = dict(zip(INDEX, CONVERSATIONS, strict=True))
    indices = batch.index.tolist()
    # While it trains, the authors' program starts each f_cxt from the z_conv of some conversation.
    starts = [None] * len(indices)
    if reading == "release" and training:
        coins = {index: float(NOISE.uniform("context start", torch.tensor(index))) for index in indices}
        starts = [(by_index[index], index) for index in sorted(indices, key=coins.__getitem__)]
        assert [start[1] for start in starts] != indices
    scores = [
        reference.conversation(by_index[index], index, start=start)
        for index, start in zip(indices, starts, strict=True)
    ]
    expected = reference.loss(scores, weight)
    expected.backward()

    turns = batch.max_turns
    assert_near(loss, expected, "loss")
    for what in ("reconstruction_error", "kl_utt", "bag_of_words_error", "num_words"):
        assert_near(getattr(output, what).double(), table(scores, what, turns), what)
    assert_near(output.kl_conv, torch.stack([score.kl_conv for score in scores]), "kl_conv")
    for word, (row, step) in enumerate(zip(batch.word_row.tolist(), batch.word_step.tolist(), strict=True)):
        of = scores[int(batch.conversation[row])].word_errors[int(batch.turn[row])][step]
        assert_near(output.word_errors[word], of, f"word {word}")
    for parameter_name, parameter in model.named_parameters():
        gradient = leaves[parameter_name].grad
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_near(actual, gradient, f"gradient of {parameter_name}")


def test_the_oracle_drops_some_and_keeps_some() -> None:
    """The comparison above would prove nothing of drops that never or always fall."""
    reference = Reference(
        {"h_unk": torch.zeros(1)}, sizes(), system("vhcr", "paper", **DROPS), NOISE, training=True
    )
    dropped = {float(reference.heard(torch.ones(1), index, turn)) for index in INDEX for turn in range(4)}
    inputs = {
        word
        for index, turns in zip(INDEX, CONVERSATIONS, strict=True)
        for turn, words in enumerate(turns)
        for word in reference.words_in([9] * len(words), index, turn)
    }
    assert dropped == {0.0, 1.0}
    assert inputs == {1, 2, 9}
    release = Reference({}, sizes(), system("vhred", "release", **DROPS), NOISE, training=True)
    assert release.words_in([9], 0, 0) == [1], "the one coin that decides whether SOS falls must fall"
