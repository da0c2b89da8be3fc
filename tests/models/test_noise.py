"""Noise is a function of what it is for, and as random as it should be."""

from __future__ import annotations

import itertools
import math
import zlib
from functools import cache

import pytest
import torch
from scipy import stats
from torch import Tensor

from vhcr.models.noise import Noise

NUMBER = 20_000
IMPROBABLE = 1e-4  # fixed seeds: either always passed or never


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def splitmix(*keys: int) -> float:
    """The same chain of SplitMix64 finalisers in Python's unbounded integers."""
    mask = (1 << 64) - 1
    state = keys[0]
    for key in keys[1:]:
        x = (state + 0x9E3779B97F4A7C15 + key) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        state = x ^ (x >> 31)
    return (state >> 12) / 2**52


@pytest.mark.parametrize("keys", [(0,), (1, 2), (5, 0, 9), (2**40, 3)])
def test_bits_are_splitmix64_of_the_keys(keys: tuple[int, ...]) -> None:
    """Runs of other machines and versions must draw the same: the function itself is pinned."""
    expected = splitmix(zlib.crc32(b"z_utt"), 11, 4, *keys)
    drawn = float(Noise(11, 4).uniform("z_utt", *(ints(key) for key in keys)))
    assert drawn == pytest.approx(expected, abs=2.0**-51)


def test_uniform_stays_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 53 bits and a half the largest draw was rounded to 1: a drop of rate 1 could spare a word."""
    for bits in (-1, 0):
        monkeypatch.setattr(Noise, "_bits", lambda self, purpose, *keys, bits=bits: torch.tensor([bits]))
        drawn = float(Noise(0).uniform("x", ints(0)))
        assert 0.0 < drawn < 1.0


@cache
def streams() -> dict[str, Tensor]:
    """The same count of draws along every coordinate of the key."""
    many, zero = torch.arange(NUMBER), ints(0)
    return {
        "conversation": Noise(0, 0).uniform("x", many, zero, zero),
        "turn": Noise(0, 0).uniform("x", zero, many, zero),
        "position": Noise(0, 0).uniform("x", zero, zero, many),
        "step": torch.cat([Noise(0, step).uniform("x", zero, zero, zero) for step in range(500)]),
        "seed": torch.cat([Noise(seed, 0).uniform("x", zero, zero, zero) for seed in range(500)]),
        "other purpose": Noise(0, 0).uniform("y", many, zero, zero),
        "other seed": Noise(1, 0).uniform("x", many, zero, zero),
        "other step": Noise(0, 1).uniform("x", many, zero, zero),
    }


def test_every_coordinate_is_uniform() -> None:
    for name, stream in streams().items():
        assert stats.kstest(stream.numpy(), "uniform").pvalue > IMPROBABLE, name
        cells = torch.histc(stream, bins=64, min=0.0, max=1.0).numpy()
        assert stats.chisquare(cells).pvalue > IMPROBABLE, name


def test_streams_are_independent_of_each_other_and_of_their_neighbours() -> None:
    all_streams = streams()
    bound = 5.0  # standard errors
    for (one, a), (other, b) in itertools.combinations(all_streams.items(), 2):
        number = min(len(a), len(b))
        # The first draw of two streams may be one and the same key; the rest are not.
        pair = torch.stack([a[1:number], b[1:number]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < bound / math.sqrt(number), f"{one}, {other}"
    for name, stream in all_streams.items():
        for lag in (1, 2, 8):
            pair = torch.stack([stream[:-lag], stream[lag:]])
            assert abs(float(torch.corrcoef(pair)[0, 1])) < bound / math.sqrt(len(stream)), f"{name}, {lag}"


def test_pairs_fill_the_square_evenly() -> None:
    """(draw at key k, draw at key k + 1) over an 8 by 8 board."""
    stream = streams()["conversation"]
    cell = (stream[0::2] * 8).long() * 8 + (stream[1::2] * 8).long()
    assert stats.chisquare(torch.bincount(cell, minlength=64).numpy()).pvalue > IMPROBABLE


def test_the_order_of_keys_matters() -> None:
    noise = Noise(2)
    assert noise.uniform("x", ints(3), ints(5)) != noise.uniform("x", ints(5), ints(3))
    assert noise.uniform("x", ints(3)) != noise.uniform("x", ints(3), ints(0))
    assert Noise(3, 5).uniform("x", ints(0)) != Noise(5, 3).uniform("x", ints(0))


def test_normal_has_the_moments_of_the_standard_normal() -> None:
    draws = Noise(4).normal("z", torch.arange(NUMBER), ints(0), size=3, dtype=torch.float64)
    assert draws.shape == (NUMBER, 3)
    error = 5.0 / math.sqrt(NUMBER)
    assert (draws.mean(0).abs() < error).all()
    assert ((draws.var(0) - 1.0).abs() < error * math.sqrt(2.0)).all()
    assert ((draws**3).mean(0).abs() < error * math.sqrt(15.0)).all()
    assert (((draws**4).mean(0) - 3.0).abs() < error * math.sqrt(96.0)).all()
    correlation = torch.corrcoef(draws.t()) - torch.eye(3)
    assert (correlation.abs() < error).all()
    for dimension in range(3):
        assert stats.kstest(draws[:, dimension].numpy(), "norm").pvalue > IMPROBABLE


def test_a_draw_does_not_depend_on_what_else_is_drawn() -> None:
    noise = Noise(6, 2)
    keys, turns = torch.tensor([9, 4, 4, 7]), torch.tensor([0, 0, 1, 5])
    together = noise.normal("z", keys, turns, size=4, dtype=torch.float32)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(
        noise.normal("z", keys[order], turns[order], size=4, dtype=torch.float32), together[order]
    )
    for row in range(4):
        alone = noise.normal("z", keys[row : row + 1], turns[row : row + 1], size=4, dtype=torch.float32)
        assert torch.equal(alone[0], together[row])
    assert together.dtype == torch.float32
    # A longer latent begins with the same numbers.
    assert torch.equal(noise.normal("z", keys, turns, size=6, dtype=torch.float32)[:, :4], together)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = Noise(1).normal("z", ints(0), size=2, dtype=torch.float64)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(Noise(1).normal("z", ints(0), size=2, dtype=torch.float64), first)
