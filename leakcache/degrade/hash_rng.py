"""Numbers drawn from a key alone: the same on every machine, with every version of numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class HashRNG:
    """A stream of numbers that is a function of its key: no state is shared with anything else.

    The n-th number is sha256(key, n), so a stream can be drawn again from what was recorded.
    """

    def __init__(self, *key: str | int) -> None:
        self._key = "\0".join(map(str, key))
        self._drawn = 0

    def fraction(self) -> float:
        """The next number, evenly from [0, 1)."""
        word = hashlib.sha256(f"{self._key}\0{self._drawn}".encode()).digest()
        self._drawn += 1
        return int.from_bytes(word[:6]) / 2**48

    def uniform(self, low: float, high: float) -> float:
        """Evenly from [low, high], to three decimals, so that a record of it is exact."""
        return round(low + (high - low) * self.fraction(), 3)

    def integer(self, low: int, high: int) -> int:
        """One of low, …, high, both included."""
        return low + int((high - low + 1) * self.fraction())

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items in drawn order."""
        rest = list(items)
        return [rest.pop(self.integer(0, len(rest) - 1)) for _ in range(count)]
