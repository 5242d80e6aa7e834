"""What a cache depends on, and the fingerprint of exactly that.

Schedule, timesteps, DCT size and placement, backbone, head and seeds are not here: they
belong to stage two, which is why every ablation reuses the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leakcache.encoder.autoencoder import AutoencoderIdentity, Encoder
from leakcache.errors import CacheCorrupt, CacheIncomplete, CacheStale, WeightsError
from leakcache.images.decode import Preprocessing

FORMAT = 1
FILE = "manifest.json"


@dataclass(frozen=True)
class Encoding:
    """How an image becomes a latent.

    Attributes:
        autoencoder: whose encoder.
        preprocessing: how pixels are cut and scaled.
        precision: arithmetic of the encoder, `fp32`, `bf16` or `fp16`.
        stored: type of the stored latents, `float16` or `float32`.
    """

    autoencoder: AutoencoderIdentity
    preprocessing: Preprocessing
    precision: str
    stored: str

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the images: two caches that share it can be scored together."""
        autoencoder = asdict(self.autoencoder)
        # The same weights under another name or from another place are the same weights.
        for name in ("name", "spec", "source"):
            del autoencoder[name]
        preprocessing = asdict(self.preprocessing)
        if not self.preprocessing.canonical:
            # As it was before there was a canonical track: those caches stay what they are.
            del preprocessing["canonical"], preprocessing["canonical_size"]
        return _hash({**asdict(self), "autoencoder": autoencoder, "preprocessing": preprocessing})

    def encoder(self, device: str = "cpu") -> Encoder:
        """The encoder that these latents were made with.

        Raises:
            WeightsError: it is not on this machine any more.
            CacheStale: it has other weights than then.
        """
        spec = self.autoencoder.spec
        try:
            encoder = Encoder.load(spec, self.precision, device)
        except WeightsError as error:
            raise WeightsError(
                f"the cache's autoencoder {self.autoencoder.name} is not at {spec} any more: "
                "put it back, or build the cache again with --vae"
            ) from error
        if encoder.identity.weights_sha256 != self.autoencoder.weights_sha256:
            raise CacheStale(
                f"{spec}: has other weights than when the cache was built; build that again with "
                "--fresh"
            )
        return encoder

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
        changes += _change("stored type", self.stored, other.stored)
        return "; ".join(changes)


@dataclass(frozen=True)
class CacheManifest:
    """Written last, so a cache without one is incomplete.

    Attributes:
        encoding: how images became latents.
        split: `closed`, `open` or `all`.
        data: the data root, as it was given.
        layout: how that root was understood, in one sentence.
        images_sha256: hash over every accepted image's content, label, group and fold.
        images: number of accepted images.
        latent_shape: view, channel, height, width.
        classes: closed labels in order: class k of every model is `classes[k]`.
        unknown: labels of the open set.
        rejects: path and reason of what was left out.
        facts: how the build went (seconds, versions, measured errors); not fingerprinted.
    """

    encoding: Encoding
    split: str
    data: str
    layout: str
    images_sha256: str
    images: int
    latent_shape: tuple[int, int, int, int]
    classes: tuple[str, ...]
    unknown: tuple[str, ...]
    rejects: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of encoder weights, preprocessing, types and every image's content."""
        return _hash([FORMAT, self.encoding.fingerprint, self.images_sha256])

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder`, whole or not at all."""
        content = {"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}
        write_json(folder / FILE, content)

    @classmethod
    def read(cls, folder: Path) -> CacheManifest:
        """Read the manifest of a finished cache.

        Raises:
            CacheIncomplete: there is none.
            CacheCorrupt: it is not one that this version wrote, or was changed by hand.
        """
        path = folder / FILE
        if not path.is_file():
            raise CacheIncomplete(
                f"{folder}: no finished cache; run (or run again) "
                f"`leak cache build --cache {folder.parent}`"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls._from_content(content)
        except (ValueError, KeyError, TypeError) as error:
            raise CacheCorrupt(f"{path}: not a manifest of format {FORMAT} ({error})") from error
        if content["format"] != FORMAT or content["fingerprint"] != manifest.fingerprint:
            raise CacheCorrupt(f"{path}: changed since it was written; build with --fresh")
        return manifest

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> CacheManifest:
        encoding = content["encoding"]
        known = {key: content[key] for key in content if key not in ("format", "fingerprint")}
        return cls(
            **{
                **known,
                "encoding": Encoding(
                    autoencoder=AutoencoderIdentity(**encoding["autoencoder"]),
                    preprocessing=Preprocessing(**encoding["preprocessing"]),
                    precision=encoding["precision"],
                    stored=encoding["stored"],
                ),
                "latent_shape": tuple(content["latent_shape"]),
                "classes": tuple(content["classes"]),
                "unknown": tuple(content["unknown"]),
                "rejects": tuple((path, reason) for path, reason in content["rejects"]),
            }
        )


def images_hash(images: Iterable[tuple[str, str, str, str]]) -> str:
    """Hash of (content hash, label, group, fold) of every image, in canonical order."""
    digest = hashlib.sha256()
    for row in images:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _change(what: str, mine: Any, theirs: Any) -> list[str]:
    return [] if mine == theirs else [f"{what} {mine} against {theirs}"]
