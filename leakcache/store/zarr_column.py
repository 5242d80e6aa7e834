"""One column on disk: what its values depend on, and a Zarr v3 array, sharded and checksummed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from jaxtyping import Int, Shaped
from PIL import features

from leakcache.errors import CacheCorrupt
from leakcache.files import parse_json, read_checked, read_text, replace_file, write_checked

if TYPE_CHECKING:
    from zarr.storage import StoreLike


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
        return json_hash(asdict(self))

    @property
    def settings(self) -> str:
        """Hash of all attributes but the decoder."""
        return json_hash({key: value for key, value in asdict(self).items() if key != "decoder"})

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


def json_hash(content: Any) -> str:
    """SHA-256 of values as JSON, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


SPEC = "column.json"
ARRAY = "values.zarr"
SHARDS = 2**26
"""Shards that an array has room for: its metadata never change, whatever is written."""
CURE = "`leak cache build --repair` computes what is lost again"


class ZarrColumn:
    """Values of images, written one whole shard at a time.

    Attributes:
        folder: of the column.
        spec: what its values depend on.
    """

    def __init__(self, folder: Path, spec: ColumnSpec) -> None:
        self.folder, self.spec = folder, spec

    @classmethod
    def create(cls, folder: Path, spec: ColumnSpec) -> ZarrColumn:
        """Lay out an empty column, in place of what a killed process may have left there."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _array(folder / ARRAY, spec, SHARDS)
        # The spec is written last: without it there is no column.
        metadata = (folder / ARRAY / "zarr.json").read_text(encoding="utf-8")
        write_checked(folder / SPEC, {"spec": asdict(spec), "zarr": metadata})
        return cls(folder, spec)

    @classmethod
    def open(cls, folder: Path) -> ZarrColumn:
        """Open an existing column.

        Raises:
            CacheCorrupt: its metadata are damaged.
        """
        try:
            content = read_checked(folder / SPEC)
            if read_text(folder / ARRAY / "zarr.json") != content["zarr"]:
                raise ValueError("zarr.json has changed")
            spec = ColumnSpec.from_table(content["spec"])
            if key_of(spec) != folder.name:
                raise ValueError("its spec is that of another column")
            declared = parse_json(content["zarr"])["shape"]
            if declared != [SHARDS * spec.per_shard, *spec.shape]:
                raise ValueError(f"zarr.json declares the shape {declared}")
            return cls(folder, spec)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheCorrupt(f"{folder}: is damaged ({error}); {CURE}") from error

    @cached_property
    def _values(self) -> Any:
        # Importing zarr costs a third of a second, which scoring a single image need not pay.
        import zarr

        return zarr.open_array(store=self.folder / ARRAY, mode="r")

    def write(
        self, shard: int, values: Shaped[np.ndarray, "k *row"], partial: Path | None = None
    ) -> None:
        """Write the first rows of one shard, in place of what is there; whole or not at all.

        Args:
            shard: its number.
            values: of its first images.
            partial: see `leakcache.files.replace_file`.
        """
        content = _shard_bytes(self.spec, values)
        path = self.file(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write_bytes(content), partial)

    def read(self, shard: int, offsets: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Some rows of one shard.

        Raises:
            CacheCorrupt: the shard is missing, or its bytes do not match their checksum.
        """
        first, file = shard * self.spec.per_shard, self.file(shard)
        try:
            # To zarr a missing file stands for zeros.
            if not file.is_file() or file.stat().st_size == 0:
                raise FileNotFoundError("its file is missing or empty")
            # Few rows one by one: zarr's own selection is slower than the whole shard.
            if len(offsets) == 1:
                whole: np.ndarray = self._values[first + int(offsets[0])]
                return whole[None]
            whole = self._values[first : first + int(offsets.max()) + 1]
        except (ValueError, OSError, KeyError) as error:
            raise CacheCorrupt(
                f"{self.folder}: shard {shard} is damaged ({error}); {CURE}"
            ) from error
        found: np.ndarray = whole[offsets]
        return found

    def size(self, shard: int) -> int:
        """Bytes of the file of one shard; 0 where it is missing."""
        path = self.file(shard)
        return path.stat().st_size if path.is_file() else 0

    def file(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / ARRAY / _key(self.spec, shard)

    @property
    def metadata(self) -> list[Path]:
        """Its files that are no shards."""
        return [self.folder / ARRAY / "zarr.json", self.folder / SPEC]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def key_of(spec: ColumnSpec) -> str:
    """Folder of a column: other settings give another one, another decoder does not."""
    return f"{spec.name}-{spec.settings[:8]}"


def _key(spec: ColumnSpec, shard: int) -> str:
    return "/".join(["c", str(shard), *"0" * len(spec.shape)])


def _shard_bytes(spec: ColumnSpec, values: Shaped[np.ndarray, "k *row"]) -> bytes:
    """The file of a shard: the same for any process, whatever its number."""
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    # Without empty chunks a shard of zeros would have no file, like one that is lost.
    array = _array(MemoryStore(content), spec, 1).with_config({"write_empty_chunks": True})
    array[: len(values)] = values
    found: bytes = content[_key(spec, 0)].to_bytes()
    return found


def _array(store: StoreLike, spec: ColumnSpec, shards: int) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        store=store,
        shape=(shards * spec.per_shard, *spec.shape),
        chunks=(spec.per_chunk, *spec.shape),
        shards=(spec.per_shard, *spec.shape),
        dtype=spec.dtype,
        # Compression does not pay on latents (docs/PERFORMANCE.md); the checksum does.
        compressors=(Crc32cCodec(),),
        fill_value=0,
    )
