"""What a cache depends on, and the fingerprint of exactly that.

Schedule, timesteps, DCT size and placement, backbone, head and seeds are not here: they
belong to stage two, which is why every ablation reuses the cache.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from leakcache.encoder.autoencoder import TORCH, AutoencoderIdentity, Encoder
from leakcache.errors import CacheCorrupt, CacheStale, WeightsError
from leakcache.files import read_checked, write_checked
from leakcache.images.decode import Preprocessing
from leakcache.store.remote import unfinished
from leakcache.store.zarr_column import decoder_versions

FORMAT = 2
FILE = "manifest.json"


@dataclass(frozen=True)
class Encoding:
    """How an image becomes a latent.

    Attributes:
        autoencoder: whose encoder.
        preprocessing: how pixels are cut and scaled.
        precision: arithmetic of the encoder, `fp32`, `bf16` or `fp16`.
        stored: type of the stored latents, `float16` or `float32`.
        runtime: what runs the encoder, `torch` or `onnx`.
    """

    autoencoder: AutoencoderIdentity
    preprocessing: Preprocessing
    precision: str
    stored: str
    runtime: str = TORCH

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the images: two caches that share it can be scored together."""
        autoencoder = asdict(self.autoencoder)
        # The same weights under another name or from another place are the same weights.
        for name in ("name", "spec", "source"):
            del autoencoder[name]
        return _hash({**asdict(self), "autoencoder": autoencoder})

    def encoder(self, device: str = "cpu") -> Encoder:
        """The encoder that these latents were made with.

        Raises:
            WeightsError: it is not on this machine any more.
            CacheStale: it has other weights than then.
        """
        spec = self.autoencoder.spec
        try:
            encoder = Encoder.load(spec, self.precision, device, self.runtime)
        except WeightsError as error:
            raise WeightsError(
                f"the cache's autoencoder {self.autoencoder.name} is not at {spec} any more: "
                "put it back, or build the cache again with --vae"
            ) from error
        if not encoder.identity.same_as(self.autoencoder):
            raise CacheStale(
                f"{spec}: has other weights than when the cache was built; build that again with "
                "--fresh"
            )
        return encoder

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Encoding:
        """Read back what `dataclasses.asdict` gave."""
        return cls(
            autoencoder=AutoencoderIdentity(**table["autoencoder"]),
            preprocessing=Preprocessing(**table["preprocessing"]),
            precision=table["precision"],
            stored=table["stored"],
            runtime=table.get("runtime", TORCH),
        )

    @property
    def canonical_size(self) -> int | None:
        """Side of the canonical form that images are brought to first; None for none."""
        cut = self.preprocessing
        return cut.canonical_size if cut.canonical else None

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """View, channel, height and width of one image's latents."""
        side = self.preprocessing.size // Encoder.DOWNSCALE
        return (self.preprocessing.views, self.autoencoder.channels, side, side)

    @property
    def options(self) -> str:
        """Options of `leak cache build` that give this encoding, those by default left out."""
        cut, words = self.preprocessing, []
        if self.autoencoder.spec != "bundled":
            words.append(f"--vae {self.autoencoder.spec}")
        plain = {"view": "resize", "size": 256, "views": 1}
        given = {"view": cut.name, "size": cut.size, "views": cut.views}
        words += [f"--{name} {value}" for name, value in given.items() if value != plain[name]]
        if cut.canonical:
            words.append(f"--canonical --canonical-size {cut.canonical_size}")
        if self.precision != "fp32":
            words.append(f"--precision {self.precision}")
        if self.runtime != TORCH:
            words.append(f"--runtime {self.runtime}")
        if self.stored != "float16":
            words.append(f"--store {self.stored}")
        return " ".join(words)

    def difference(self, other: Encoding) -> str:
        """In words, what differs; empty where nothing does."""
        mine, theirs = self.autoencoder, other.autoencoder
        changes = []
        if mine.weights_sha256 != theirs.weights_sha256:
            changes.append(
                f"autoencoder {mine.name} ({mine.weights_sha256[:8]}) "
                f"against {theirs.name} ({theirs.weights_sha256[:8]})"
            )
        elif self.fingerprint != other.fingerprint:
            for name in ("scaling_factor", "shift_factor", "kind"):
                changes += _change(name, getattr(mine, name), getattr(theirs, name))
        for name in ("name", "size", "views", "canonical", "canonical_size"):
            changes += _change(
                f"preprocessing {name}",
                getattr(self.preprocessing, name),
                getattr(other.preprocessing, name),
            )
        changes += _change("precision", self.precision, other.precision)
        changes += _change("runtime", self.runtime, other.runtime)
        changes += _change("stored type", self.stored, other.stored)
        return "; ".join(changes)


@dataclass(frozen=True)
class CacheManifest:
    """The images of one split; written last, so a cache without one is incomplete.

    Attributes:
        encoding: how images become latents.
        split: `closed`, `open` or `all`.
        data: folder that paths are relative to.
        layout: how that root was understood, in one sentence.
        table: columns `path, label, group, fold, sha256` and `bytes`, one entry an accepted image,
            by fold, label and path.
        rejects: path and reason of what was left out.
        facts: how the build went (seconds, versions, measured errors); not fingerprinted.
        decoder: versions of the libraries that decoded the images.
        source: the folder or table that the images were read from; empty for the data root.
        reading: options that it was read with; see `leakcache.dataset.index.read_index`.
    """

    encoding: Encoding
    split: str
    data: str
    layout: str
    table: Mapping[str, Sequence[Any]]
    rejects: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, str] = field(default_factory=decoder_versions)
    source: str = ""
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data_options(self) -> str:
        """Options of `leak cache build` that read the same images again."""
        options = {"data": self.source or self.data, **self.reading}
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())

    @property
    def images(self) -> int:
        """Number of accepted images."""
        return len(self.table["path"])

    @cached_property
    def images_sha256(self) -> str:
        """Hash over the content, label, group and fold of every accepted image."""
        columns = (self.table[name] for name in ("sha256", "label", "group", "fold"))
        return images_hash(zip(*columns, strict=True))

    @property
    def classes(self) -> tuple[str, ...]:
        """Closed labels in order: class k of every model is `classes[k]`."""
        return self._labels(lambda fold: fold != "open")

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels of the open set."""
        return self._labels(lambda fold: fold == "open")

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """View, channel, height, width."""
        return self.encoding.latent_shape

    @property
    def fingerprint(self) -> str:
        """Hash of weights, preprocessing, types, decoder and the content of every image."""
        parts = [FORMAT, self.encoding.fingerprint, dict(self.decoder), self.images_sha256]
        return _hash(parts)

    def _labels(self, chosen: Callable[[str], bool]) -> tuple[str, ...]:
        pairs = zip(self.table["label"], self.table["fold"], strict=True)
        return tuple(sorted({label for label, fold in pairs if chosen(fold)}))

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder`, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_checked(folder / FILE, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> CacheManifest:
        """Read the manifest of a finished cache.

        Raises:
            CacheIncomplete: there is none.
            CacheStale: it has the format of another version.
            CacheCorrupt: it was changed since it was written.
        """
        path = folder / FILE
        if not path.is_file():
            raise unfinished(folder)
        refuse_other_format(folder)
        try:
            return cls._from_content(read_checked(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheCorrupt(
                f"{path}: is damaged ({error}); run the same `leak cache build` with --repair, "
                "then this command again"
            ) from error

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> CacheManifest:
        if content.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        rejects = tuple((path, reason) for path, reason in content["rejects"])
        encoding = Encoding.from_table(content["encoding"])
        return cls(**{**content, "encoding": encoding, "rejects": rejects})


def refuse_other_format(folder: Path) -> None:
    """Refuse a split's folder that another version of this program wrote.

    Raises:
        CacheStale: names the command that builds the cache again.
    """
    if (folder / "latents.zarr").exists() or (folder / "building").exists():
        raise CacheStale(
            f"{folder}: was written by an older version; build it again with "
            f"`leak cache build --cache {folder.parent} --fresh`"
        )


def images_hash(images: Iterable[tuple[str, str, str, str]]) -> str:
    """Hash of (content hash, label, group, fold) of every image, in canonical order."""
    digest = hashlib.sha256()
    for row in images:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _change(what: str, mine: Any, theirs: Any) -> list[str]:
    return [] if mine == theirs else [f"{what} {mine} against {theirs}"]
