"""Random numbers as a function of what they are for.

A draw is keyed by (seed, step, purpose, conversation, sample, turn, position), never by when it was drawn or
what else stood in the batch. So a conversation scores the same alone and in company, a resumed run and a
run over several processes draw what one uninterrupted process draws, and no generator state needs saving.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); int64 products wrap as it needs."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


@dataclass(frozen=True)
class Noise:
    """Uniform and normal draws keyed by what they are for; ``step`` is the optimiser's."""

    seed: int
    step: int = 0

    def _bits(self, purpose: str, *keys: Tensor) -> Tensor:
        salt = zlib.crc32(purpose.encode())
        state = torch.tensor(salt, dtype=torch.int64, device=keys[0].device)
        for key in (self.seed, self.step):
            state = _mix(state + _GOLDEN + key)
        for tensor in keys:
            state = _mix(state + _GOLDEN + tensor)
        return state

    def uniform(self, purpose: str, *keys: Tensor) -> Tensor:
        """Uniform on (0, 1), float64, shaped as the integer ``keys`` broadcast together."""
        # 52 bits: with 53, adding the half would round the largest draw up to 1.
        return (_shift(self._bits(purpose, *keys), 12).double() + 0.5) * 2.0**-52

    def normal(self, purpose: str, *keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """Standard normal, [*keys' shape, size], by Box and Muller (1958)."""
        dimension = torch.arange(size, device=keys[0].device)
        expanded = [key.unsqueeze(-1) for key in keys]
        radius = torch.sqrt(-2.0 * torch.log(self.uniform(f"{purpose}/radius", *expanded, dimension)))
        angle = 2.0 * math.pi * self.uniform(f"{purpose}/angle", *expanded, dimension)
        return (radius * torch.cos(angle)).to(dtype)
