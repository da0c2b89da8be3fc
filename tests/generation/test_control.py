"""The control tasks of Tables 6 and 7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.generation.test_respond import responder
from tests.models.examples import SYSTEMS
from vhcr.errors import ParameterError
from vhcr.generation.control import conversations, from_z_conv, interpolate, prior_z_conv
from vhcr.tokenisation.specials import EOS

OPENING = [5, 6, EOS]


@pytest.mark.parametrize("name", SYSTEMS)
def test_conversation_i_is_the_same_however_many_there_are(name: str) -> None:
    speaker = responder(name, strategy="sample")
    many, few = conversations(speaker, 5, 3), conversations(speaker, 2, 3)
    assert many.token_ids[:2] == few.token_ids
    assert [len(turns) for turns in many.token_ids] == [3] * 5
    assert len({str(turns) for turns in many.token_ids}) > 1


def test_several_conversations_from_one_z_conv_have_fresh_z_utt() -> None:
    """Table 7."""
    speaker = responder("vhcr")
    z_conv = prior_z_conv(speaker, 2)
    found = from_z_conv(speaker, z_conv, 2, samples=3)
    assert found.z_conv is not None
    assert found.z_utt is not None
    torch.testing.assert_close(found.z_conv, z_conv.repeat_interleave(3, dim=0))
    assert len(found.z_utt.flatten(0, 1).unique(dim=0)) == 12
    alone = from_z_conv(speaker, z_conv[:1], 2, samples=2)
    assert alone.token_ids == found.token_ids[:2]


def test_with_the_same_noise_only_z_conv_differs() -> None:
    """Equal z_conv at two points give equal conversations; otherwise z_utt is drawn afresh."""
    speaker = responder("vhcr", strategy="sample")
    twice = prior_z_conv(speaker, 1).expand(2, -1)
    for opening in (None, OPENING):
        same = from_z_conv(speaker, twice, 3, same_noise=True, opening=opening)
        assert same.token_ids[0] == same.token_ids[1]
        fresh = from_z_conv(speaker, twice, 3, opening=opening)
        assert fresh.token_ids[0] != fresh.token_ids[1]
        assert fresh.token_ids[0] == same.token_ids[0]


def test_a_release_model_needs_an_opening() -> None:
    speaker = responder("vhcr", "release")
    z_conv = prior_z_conv(speaker, 2)
    with pytest.raises(ParameterError, match="opening"):
        from_z_conv(speaker, z_conv, 2)
    found = from_z_conv(speaker, z_conv, 2, opening=OPENING)
    state = speaker.respond([[np.array(OPENING)]] * 2, 2)  # the same opening, z_conv from the posterior
    assert [len(turns) for turns in found.token_ids] == [2, 2]
    assert found.z_conv is not None
    assert state.z_conv is not None
    torch.testing.assert_close(found.z_conv, z_conv)
    assert not torch.allclose(state.z_conv, z_conv)


def test_prior_draws_are_numbered_and_standard_normal() -> None:
    speaker = responder("vhcr")
    z_conv = prior_z_conv(speaker, 5000)
    torch.testing.assert_close(prior_z_conv(speaker, 3, first=10), z_conv[10:13])
    count = z_conv.numel()
    assert abs(float(z_conv.mean())) < 5 / math.sqrt(count)
    assert abs(float(z_conv.var()) - 1) < 5 * math.sqrt(2 / count)


def test_linear_interpolation_by_hand() -> None:
    a, b = torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0])
    expected = torch.tensor([[0.0, 4.0], [0.5, 3.0], [1.0, 2.0], [1.5, 1.0], [2.0, 0.0]])
    torch.testing.assert_close(interpolate(a, b, 5), expected)


def test_spherical_interpolation_by_hand() -> None:
    """A right angle in three steps of 30 degrees; the norms 1, 2, 3, 4."""
    found = interpolate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0]), 4, "spherical")
    half, root = 0.5, math.sqrt(3) / 2
    expected = torch.tensor([[1.0, 0.0], [2 * root, 2 * half], [3 * half, 3 * root], [0.0, 4.0]])
    torch.testing.assert_close(found, expected)


def test_spherical_keeps_the_norm_and_turns_at_constant_speed_where_linear_cuts_through() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    b *= a.norm() / b.norm()
    points = interpolate(a, b, 9, "spherical")
    torch.testing.assert_close(points.norm(dim=1), a.norm().expand(9))
    steps = (points[1:] - points[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))
    middle = interpolate(a, b, 3, "linear")[1]
    assert float(middle.norm()) < 0.8 * float(a.norm())


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_the_ends_to_the_bit(path: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 16, generator=generator, dtype=dtype)
    points = interpolate(a, b, 7, path)  # type: ignore[arg-type]
    assert points.dtype == dtype
    assert torch.equal(points[0], a)
    assert torch.equal(points[-1], b)
    back = interpolate(b, a, 7, path)  # type: ignore[arg-type]
    torch.testing.assert_close(points.flip(0), back)


def test_spherical_between_one_direction_is_linear() -> None:
    a = torch.tensor([1.0, 2.0, 2.0])
    for b in (a, 3 * a, a * (1 + 1e-7)):
        torch.testing.assert_close(interpolate(a, b, 4, "spherical"), interpolate(a, b, 4))


def test_interpolations_that_do_not_exist_are_refused() -> None:
    a = torch.tensor([1.0, 2.0])
    with pytest.raises(ParameterError, match="opposite"):
        interpolate(a, -2 * a, 3, "spherical")
    with pytest.raises(ParameterError, match="origin"):
        interpolate(a, 0 * a, 3, "spherical")
    with pytest.raises(ParameterError, match="1 points"):
        interpolate(a, a, 1)


def test_models_without_z_conv_are_refused_by_name() -> None:
    for name, architecture in (("hred", "hred"), ("vhred-bow", "vhred")):
        speaker = responder(name)
        with pytest.raises(ParameterError, match=f"'{architecture}' has no z_conv"):
            prior_z_conv(speaker, 1)
        with pytest.raises(ParameterError, match=f"'{architecture}' has no z_conv"):
            from_z_conv(speaker, torch.zeros(1, 3), 2)


def test_numbers_that_make_no_sense_are_refused() -> None:
    speaker = responder("vhcr")
    with pytest.raises(ParameterError, match="0 conversations"):
        conversations(speaker, 0, 2)
    with pytest.raises(ParameterError, match="0 samples"):
        from_z_conv(speaker, prior_z_conv(speaker, 1), 2, samples=0)
