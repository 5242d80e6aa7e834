"""Several stores of rows read as one: the same images, their values side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from leakcache.store.array_store import Rows


class JoinedRows(Rows):
    """Rows of several stores joined along their last axis; each keeps its own memory."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        """Join rows of the same images, of shapes that differ at most in the last axis."""
        self._parts = list(parts)
        first = self._parts[0].shape
        self.shape = (*first[:-1], sum(part.shape[-1] for part in self._parts))

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, rows: slice | Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Rows at these positions, in their order."""
        return np.concatenate([part[rows] for part in self._parts], axis=-1)
