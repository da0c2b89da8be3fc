"""The order of an epoch: a function of the seed and the epoch, so resuming needs no memory."""

from __future__ import annotations

from typing import Literal

import numpy as np

from vhcr.batch import Ints

HALF_ROUNDS = 12
_ODD = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


class ComputedOrder:
    """A permutation of 0 ... n - 1 of which any part is computed when it is asked for; none is stored.

    A Feistel network over the smallest number of bits that n - 1 fits into, keyed by seed and epoch: each
    half-round changes one part of the bits by a digest of the other, which can be undone, so that no two
    numbers meet. What falls at n or beyond goes through it again until it falls below ("cycle walking":
    Black and Rogaway, 2002), less than once on average.
    """

    def __init__(self, num_conversations: int, seed: int, epoch: int) -> None:
        self._size = num_conversations
        bits = max(2, (num_conversations - 1).bit_length())
        self._low = np.uint64(bits // 2)
        self._masks = [np.uint64(2 ** (bits // 2) - 1), np.uint64(2 ** (bits - bits // 2) - 1)]
        self._keys = np.random.Philox(key=[seed, epoch]).random_raw(HALF_ROUNDS)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, places: slice) -> Ints:
        """The numbers at some places."""
        found = np.arange(*places.indices(self._size), dtype=np.uint64)
        beyond = np.arange(len(found))
        while len(beyond):
            found[beyond] = self._permuted(found[beyond])
            beyond = beyond[found[beyond] >= self._size]
        return found.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        parts = [numbers & self._masks[0], numbers >> self._low]
        for number in range(HALF_ROUNDS):
            changed = number % 2
            parts[changed] ^= (
                _mixed(parts[1 - changed] + self._keys[number : number + 1]) & self._masks[changed]
            )
        return parts[0] | (parts[1] << self._low)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    numbers = numbers + _ODD[:1]
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _ODD[1:2]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _ODD[2:]
    return numbers ^ (numbers >> np.uint64(31))


Kind = Literal["shuffled", "computed"]


def epoch_order(num_conversations: int, seed: int, epoch: int, kind: Kind) -> Ints | ComputedOrder:
    """The order of epoch ``epoch``; ``kind`` as ``training.epoch_order``.

    ``shuffled`` is an array of 8 bytes a conversation; ``computed`` takes no memory, and its slices are such
    arrays. The two are different orders.
    """
    if kind == "computed":
        return ComputedOrder(num_conversations, seed, epoch)
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_conversations)
