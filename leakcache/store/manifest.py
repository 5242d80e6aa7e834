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
from operator import attrgetter
from pathlib import Path
from typing import Any

from leakcache.encoder.autoencoder import TORCH, AutoencoderIdentity, Encoder
from leakcache.errors import CacheCorrupt, CacheStale, WeightsError
from leakcache.files import read_checked, write_checked
from leakcache.images.decode import Preprocessing
from leakcache.store.remote import unfinished
from leakcache.store.zarr_column import decoder_versions, json_hash

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
        return json_hash({**asdict(self), "autoencoder": autoencoder})

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
        autoencoder = AutoencoderIdentity(**table["autoencoder"])
        preprocessing = Preprocessing(**table["preprocessing"])
        return cls(**{**table, "autoencoder": autoencoder, "preprocessing": preprocessing})

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
        cut = self.preprocessing
        options = (
            ("vae", self.autoencoder.spec, "bundled"),
            ("view", cut.name, "resize"),
            ("size", cut.size, 256),
            ("views", cut.views, 1),
            ("canonical --canonical-size", self.canonical_size, None),
            ("precision", self.precision, "fp32"),
            ("runtime", self.runtime, TORCH),
            ("store", self.stored, "float16"),
        )
        return " ".join(f"--{name} {value}" for name, value, usual in options if value != usual)

    def difference(self, other: Encoding) -> str:
        """In words, what differs; empty where nothing does."""
        mine, theirs = self.autoencoder, other.autoencoder
        changes = []
        paths = {"precision": "precision", "runtime": "runtime", "stored type": "stored"}
        cut = ("name", "size", "views", "canonical", "canonical_size")
        paths = {f"preprocessing {name}": f"preprocessing.{name}" for name in cut} | paths
        if mine.weights_sha256 != theirs.weights_sha256:
            changes.append(
                f"autoencoder {mine.name} ({mine.weights_sha256[:8]}) "
                f"against {theirs.name} ({theirs.weights_sha256[:8]})"
            )
        else:
            factors = ("scaling_factor", "shift_factor", "kind")
            paths = {name: f"autoencoder.{name}" for name in factors} | paths
        for what, path in paths.items():
            here, there = map(attrgetter(path), (self, other))
            if here != there:
                changes.append(f"{what} {here} against {there}")
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
        return json_hash(parts)

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
