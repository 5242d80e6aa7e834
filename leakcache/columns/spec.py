"""What the values of a column depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import PIL
from PIL import features

ROWS = 32
"""Images of one shard at most: the unit of writing and of resuming."""
SHARD_BYTES = 2**26
"""Bytes of one shard at most."""
CHUNK_BYTES = 2**18
"""Approximate bytes of one inner chunk, the unit of random reading and of one checksum."""


@lru_cache
def decoder_versions() -> Mapping[str, str]:
    """Versions of Pillow and of the libraries that decode JPEG and WebP in this process."""
    libraries = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp"}
    found = {name: features.version(key) or "none" for name, key in libraries.items()}
    return {"Pillow": PIL.__version__, **found}


def in_words(decoder: Mapping[str, str]) -> str:
    """Names and versions, separated by commas."""
    return ", ".join(f"{name} {version}" for name, version in decoder.items())


@dataclass(frozen=True)
class ColumnSpec:
    """What the values of a column are.

    Attributes:
        name: of the column; letters, digits, dashes and underscores.
        shape: of the values of one image.
        dtype: of the values, such as "uint8" or "float16".
        depends: all settings that the values depend on, hashes of weights among them; JSON values.
        version: raised when the code gives other values.
        rows: images of one shard at most; fewer where an image takes long, as a kill loses the
            shard that is being computed.
        decoder: versions of the libraries that decode images.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    depends: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    rows: int = ROWS
    decoder: Mapping[str, str] = field(default_factory=decoder_versions)

    @property
    def fingerprint(self) -> str:
        """Hash of all attributes."""
        return _hash(asdict(self))

    @property
    def settings(self) -> str:
        """Hash of all attributes but the decoder."""
        return _hash({key: value for key, value in asdict(self).items() if key != "decoder"})

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's values."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def per_shard(self) -> int:
        """Images of one shard."""
        return max(1, min(self.rows, SHARD_BYTES // max(1, self.row_bytes)))

    @property
    def per_chunk(self) -> int:
        """Images of one inner chunk; divides `per_shard`."""
        most = max(1, min(self.per_shard, CHUNK_BYTES // max(1, self.row_bytes)))
        return max(n for n in range(1, most + 1) if self.per_shard % n == 0)

    def with_settings(self, **settings: Any) -> ColumnSpec:
        """The spec with further settings that its values depend on."""
        return replace(self, depends={**self.depends, **settings})

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ColumnSpec:
        """Read back what `dataclasses.asdict` gave."""
        return cls(**{**table, "shape": tuple(table["shape"])})


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
