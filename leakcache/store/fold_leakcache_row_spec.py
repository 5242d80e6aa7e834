"""What the rows of a store are: shape, type and all that their values depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import CacheCorrupt

FILE = "rows.json"
FORMAT = 1
SHARD_BYTES = 2**26
"""Rows of one shard take at most this many bytes: the unit of writing and of resuming."""
SHARD = 256
CHUNK_BYTES = 2**18
"""Rows of one inner chunk, the unit of random reading, take about this many."""


@dataclass(frozen=True)
class RowSpec:
    """What the rows of a store are.

    Attributes:
        name: of the store's folder; letters, digits and dashes.
        shape: of one row.
        dtype: of its values, such as "uint8" or "float16".
        depends: all settings that the values depend on, weights' hashes among them; JSON values.
        shard: rows of one shard at most; few where a row takes long, as a kill loses what has
            been computed of the next.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    depends: Mapping[str, Any] = field(default_factory=dict)
    shard: int = SHARD

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
        content = json.dumps([FORMAT, asdict(self)], sort_keys=True, default=list)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def per_shard(self) -> int:
        """Rows of one shard."""
        return max(1, min(self.shard, SHARD_BYTES // max(1, self.row_bytes)))

    @property
    def per_chunk(self) -> int:
        """Rows of one inner chunk; divides `per_shard`."""
        most = max(1, min(self.per_shard, CHUNK_BYTES // max(1, self.row_bytes)))
        return max(n for n in range(1, most + 1) if self.per_shard % n == 0)


def stored_spec(folder: Path) -> RowSpec:
    """What the rows in a store's folder are.

    Raises:
        CacheCorrupt: its description is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shape, shard = tuple(found["shape"]), found.get("shard", SHARD)
        return RowSpec(found["name"], shape, found["dtype"], found["depends"], shard)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheCorrupt(f"{path}: is damaged ({error}); delete this folder") from error
