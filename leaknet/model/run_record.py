"""What a run folder says of itself: settings, classes, latent shape and cache.

    config.toml    the settings at the top level, everything else under [record]
    classes.json   the generators, in the order of the logits

A run's config.toml is itself a valid configuration file: [record] is skipped there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from leakcache.errors import LeakError, RunError
from leakcache.files import parse_json, parse_toml
from leakcache.store.cache import Cache
from leakcache.store.manifest import Encoding, images_hash
from leaknet.checksums import read_text
from leaknet.config import RunConfig, config_from_table, config_to_table, differences
from leaknet.files import write_text

CONFIG = "config.toml"
CLASSES = "classes.json"
FORMAT = 8
_CURE = "restore it, or train again"


@dataclass(frozen=True)
class CacheIdentity:
    """Which cache a run was trained on.

    Attributes:
        fingerprint: of the whole cache.
        training_sha256: hash over images, labels and groups of the training and validation folds.
        encoding: how its images became latents.
        folder: where it lay then; where it lies is no part of what it is.
    """

    fingerprint: str
    training_sha256: str
    encoding: Encoding
    folder: str

    @classmethod
    def of(cls, cache: Cache) -> CacheIdentity:
        """The identity of an open cache."""
        manifest, folder = cache.manifest, str(cache.path.resolve())
        return cls(manifest.fingerprint, training_hash(cache), manifest.encoding, folder)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> CacheIdentity:
        """Read back what `dataclasses.asdict` gave."""
        return cls(
            table["fingerprint"],
            table["training_sha256"],
            Encoding.from_table(table["encoding"]),
            table["folder"],
        )


def training_hash(cache: Cache) -> str:
    """Hash over content, label and group of training and validation images, in canonical order."""
    rows = np.concatenate([cache.rows("train"), cache.rows("val")])
    columns = (cache.hashes, cache.labels, cache.groups, cache.folds)
    hashed, label, group, fold = (column[rows].tolist() for column in columns)
    return images_hash(zip(hashed, label, group, fold, strict=True))


@dataclass(frozen=True)
class RunRecord:
    """Everything needed to build a run's model but its weights.

    Attributes:
        config: all settings.
        classes: closed generators, in the order of the logits.
        shape: of a latent, (channel, height, width); None for a model that reads no latents.
        cache: what it was trained on; None for a model made by hand.
    """

    config: RunConfig
    classes: tuple[str, ...]
    shape: tuple[int, int, int] | None
    cache: CacheIdentity | None = None

    def write(self, folder: Path) -> None:
        """Write config.toml and classes.json into an existing folder."""
        classes = json.dumps(self.classes, ensure_ascii=False, indent=1)
        write_text(folder / CLASSES, classes + "\n")
        record: dict[str, Any] = {
            "format": FORMAT,
            "classes_sha256": _hash_classes(self.classes),
            "versions": _versions(),
        }
        if self.shape is not None:
            record["latent_shape"] = list(self.shape)
        if self.cache is not None:
            record["cache"] = asdict(self.cache)
        table = {**config_to_table(self.config), "record": record}
        write_text(folder / CONFIG, tomli_w.dumps(table))

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read what `write` wrote.

        Raises:
            RunError: a file is missing, damaged, or does not belong to the other.
        """
        if not (folder / CONFIG).is_file():
            raise RunError(
                f"{folder} is no run folder, as it has no {CONFIG}: `leak train` makes one"
            )
        try:
            table = parse_toml(read_text(folder / CONFIG))
            classes = tuple(parse_json(read_text(folder / CLASSES)))
            run = cls._from_table(table, classes, source=str(folder / CONFIG))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, LeakError) else f"{error!r}; {_CURE}"
            raise RunError(
                f"{folder} holds no readable {CONFIG} and {CLASSES}: {reason}"
            ) from error
        if _hash_classes(classes) != table["record"]["classes_sha256"]:
            raise RunError(f"{folder / CLASSES} was changed since {CONFIG} was written: {_CURE}")
        return run

    @classmethod
    def _from_table(cls, table: dict[str, Any], classes: tuple[str, ...], source: str) -> RunRecord:
        record = table["record"]
        if record["format"] != FORMAT:
            raise RunError(
                f"{source} is of run format {record['format']}, not {FORMAT}: `leak train` again"
            )
        shape = record.get("latent_shape")
        cache = record.get("cache")
        return cls(
            config_from_table(table, source),
            classes,
            None if shape is None else tuple(shape),
            None if cache is None else CacheIdentity.from_table(cache),
        )

    def changes(self, now: RunRecord) -> list[str]:
        """In words, what another record has otherwise; empty where they agree."""
        found = differences(self.config, now.config)
        if self.classes != now.classes:
            found.append(f"classes: {', '.join(self.classes)}, now {', '.join(now.classes)}")
        if self.shape != now.shape:
            found.append(f"latent shape: {self.shape}, now {now.shape}")
        if self.cache is not None and now.cache is not None:
            found += _cache_changes(self.cache, now.cache)
        return found


def _cache_changes(old: CacheIdentity, now: CacheIdentity) -> list[str]:
    found = []
    if encoding := old.encoding.difference(now.encoding):
        found.append(f"cache: {encoding}")
    if old.training_sha256 != now.training_sha256:
        found.append("cache: the training or validation images differ")
    return found


def _hash_classes(classes: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()


def _versions() -> dict[str, str]:
    known = {name: version(name) for name in ("leaknet", "diffusers", "timm")}
    return {**known, "torch": str(torch.__version__)}
