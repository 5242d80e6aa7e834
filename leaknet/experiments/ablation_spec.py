"""An ablation as TOML: named rows, each a few settings that differ from the common ones.

    title = "How many prototypes?"
    reference = "M = 4"

    [[row]]
    name = "M = 4"
    head.prototypes = 4
    published = { top1 = 0.8260, macro_auc = 0.9813 }

docs/ABLATIONS.md describes every key. The tables of the paper are in ablation/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from leakcache.errors import ConfigError
from leakcache.files import parse_toml, read_text
from leakcache.store.manifest import Encoding
from leaknet.config import RunConfig
from leaknet.config_table import refuse_unknown, with_fields
from leaknet.detectors import Detector, GlobalKDE
from leaknet.experiments.controls import MODES
from leaknet.scoring.run_embeddings import detectors_named

# The figures of an ablation's rows: their keys, and the words for them.

MEASURES = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_auc": "macro AUC",
    "open_auroc": "open AUROC",
    "open_oscr": "open OSCR",
    "open_eer": "open EER",
    "open_ovl": "open OVL",
    "control_auroc": "control AUROC",
    "control_eer": "control EER",
    "control_ovl": "control OVL",
    "untrained_auroc": "control AUROC, untrained gate",
}
"""Key in JSON, Parquet and `published`, and heading, in the order of the table."""

KEPT_APART = ("control_eer", "control_ovl")
"""In JSON and Parquet alone."""

CLOSED = ("top1", "top5", "macro_auc")
COMPARED = ("top1", "macro_auc", "open_auroc")
"""Compared with the reference row."""


# How a row is scored, once its runs are there.

NAMINGS = ("prototype", "mahalanobis")


@dataclass(frozen=True)
class Scoring:
    """What follows the embeddings; rows that differ in nothing else share their runs.

    Attributes:
        naming: what names the generator: "prototype", the network's own logits, whichever
            head it has, or "mahalanobis".
        detector: for the unknown, by its name.
        attention: one of the attention modes of Table 2, evaluated by KDE beside its control;
            empty for an ordinary row.
    """

    naming: str = "prototype"
    detector: str = GlobalKDE.name
    attention: str = ""

    def __post_init__(self) -> None:
        _require_one_of("score.naming", self.naming, NAMINGS)
        _require_one_of("score.attention", self.attention, ("", *MODES))
        if self.attention and self.detector != GlobalKDE.name:
            raise ConfigError("score.detector: the attention modes are evaluated by kde alone")

    @property
    def kind(self) -> type[Detector]:
        """The detector.

        Raises:
            ScoringError: there is none of that name.
        """
        return detectors_named([self.detector])[0]


def _require_one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ConfigError(f"{key} = {value!r} is out of range: it must be one of {names}")


# Which cache a row needs, as a difference from the cache that the ablation is run on.

_ALLOWED = {
    "precision": ("", "fp32", "bf16", "fp16"),
    "stored": ("", "float16", "float32"),
    "view": ("", "resize", "crop"),
}


@dataclass(frozen=True)
class CacheRequirement:
    """Fields of a cache's encoding; what is empty is as in the main cache.

    Attributes:
        autoencoder: names of the autoencoders that will do.
        precision: arithmetic of the encoder.
        stored: type of the stored latents.
        view: "resize" or "crop".
        size: side of a view in pixels; 0 as in the main cache.
    """

    autoencoder: tuple[str, ...] = ()
    precision: str = ""
    stored: str = ""
    view: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(
                    f"cache.{name} = {value!r} is out of range: it must be one of "
                    f"{', '.join(allowed[1:])}"
                )
        if self.size < 0:
            raise ConfigError(f"cache.size = {self.size} is out of range: it must be positive")

    @property
    def words(self) -> str:
        """What is asked for."""
        named = {"autoencoder": " or ".join(self.autoencoder)}
        named |= {name: getattr(self, name) for name in _ALLOWED}
        named["size"] = str(self.size or "")
        return ", ".join(f"{name} {value}" for name, value in named.items() if value)

    def fits(self, main: Encoding, candidate: Encoding) -> bool:
        """Whether a cache differs from the main one in what is asked for, and in nothing else."""
        if self.autoencoder:
            right = candidate.autoencoder.name in self.autoencoder
        else:
            right = candidate.autoencoder.weights_sha256 == main.autoencoder.weights_sha256
        required = self.applied(main)
        names = ("precision", "stored", "preprocessing")
        return right and all(getattr(candidate, name) == getattr(required, name) for name in names)

    def applied(self, main: Encoding) -> Encoding:
        """The encoding that is wanted, but for its autoencoder.

        Raises:
            ConfigError: there is no such view.
        """
        cut = main.preprocessing
        return replace(
            main,
            precision=self.precision or main.precision,
            stored=self.stored or main.stored,
            preprocessing=replace(cut, name=self.view or cut.name, size=self.size or cut.size),
        )

    def command(self, main: Encoding, data_options: str) -> str:
        """What builds such a cache of the images that these options of the build name."""
        required = self.applied(main)
        if self.autoencoder:
            spec = replace(main.autoencoder, spec=self.autoencoder[0])
            required = replace(required, autoencoder=spec)
        words = ["leak cache build", data_options, required.options]
        return " ".join([*filter(None, words), "--cache DIR"])


BUILT_IN = Path(__file__).with_name("ablation")
NAMES = tuple(sorted(path.stem for path in BUILT_IN.glob("*.toml")))
_RUN_TABLES = ("latents", "statistics", "head", "train")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what it is called.
        settings: of the run, as tables, where they differ from the common ones.
        cache: which cache it needs.
        score: how its runs are scored.
        published: figures printed elsewhere, by key of `MEASURES`, from 0 to 1.
        note: a sentence that belongs beside it.
        prefer_pretrained: take pretrained weights where they can be had, else none.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache: CacheRequirement = field(default_factory=CacheRequirement)
    score: Scoring = field(default_factory=Scoring)
    published: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    prefer_pretrained: bool = False

    def configured(self, base: RunConfig, source: str) -> RunConfig:
        """The settings of its runs, but for the seed.

        Raises:
            ConfigError: a setting is unknown, of the wrong type or out of range.
        """
        return base.with_table(self.settings, f"{source}, row {self.name!r}")


@dataclass(frozen=True)
class Ablation:
    """A table.

    Attributes:
        key: its short name, which its files have.
        title: what it asks.
        rows: in the order of the table.
        reference: name of the row that others are compared with; empty for none.
        notes: sentences that must be read with it.
    """

    key: str
    title: str
    rows: tuple[Row, ...]
    reference: str = ""
    notes: tuple[str, ...] = ()


def find_ablation(name: str) -> Ablation:
    """The built-in ablation of that name, or the one in that TOML file.

    Raises:
        ConfigError: there is no such ablation, or the file is not one.
    """
    if name in NAMES:
        return read_ablation(BUILT_IN / f"{name}.toml")
    if not name.endswith(".toml"):
        raise ConfigError(f"{name} is no ablation: take one of {', '.join(NAMES)}, or a FILE.toml")
    return read_ablation(Path(name))


def read_ablation(path: Path) -> Ablation:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read, or holds an unknown key or a value that is not accepted.
    """
    try:
        table = parse_toml(read_text(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    source = path.name
    for key in table:
        refuse_unknown(key, ["title", "reference", "notes", "row"], key, source)
    rows = table.get("row")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{source} has no rows: write each as a table, [[row]]")
    head = with_fields(_Head(), {k: table[k] for k in table if k != "row"}, "head", source)
    ablation = Ablation(
        key=path.stem,
        title=head.title or path.stem,
        rows=tuple(_row(row, source) for row in rows),
        reference=head.reference,
        notes=head.notes,
    )
    _check_names(ablation, source)
    return ablation


@dataclass(frozen=True)
class _Head:
    title: str = ""
    reference: str = ""
    notes: tuple[str, ...] = ()


def _row(table: Mapping[str, Any], source: str) -> Row:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{source}: a row has no name: give it one, in quotes")
    here = f"{source}, row {name!r}"
    own = [item.name for item in fields(Row) if item.name != "settings"]
    for key in table:
        refuse_unknown(key, [*own, *_RUN_TABLES], key, here)
    for key in ("cache", "score", "published"):
        if not isinstance(table.get(key, {}), Mapping):
            raise ConfigError(f"{here}: {key} must be a table, not {table[key]!r}")
    plain = {key: table[key] for key in ("note", "prefer_pretrained") if key in table}
    row: Row = with_fields(Row(name), plain, "row", here)
    return Row(
        name=name,
        settings={key: table[key] for key in _RUN_TABLES if key in table},
        cache=with_fields(CacheRequirement(), table.get("cache", {}), "cache", here),
        score=with_fields(Scoring(), table.get("score", {}), "score", here),
        published=_published(table.get("published", {}), here),
        note=row.note,
        prefer_pretrained=row.prefer_pretrained,
    )


def _published(table: Mapping[str, Any], source: str) -> dict[str, float]:
    for key, value in table.items():
        refuse_unknown(key, list(MEASURES), f"published.{key}", source)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ConfigError(f"{source}: published.{key} = {value!r} must be from 0 to 1")
    return {key: float(value) for key, value in table.items()}


def _check_names(ablation: Ablation, source: str) -> None:
    names = [row.name for row in ablation.rows]
    if not names:
        raise ConfigError(f"{source} has no rows: write each as a table, [[row]]")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{source}: two rows are called {twice[0]!r}: rename one")
    if ablation.reference and ablation.reference not in names:
        raise ConfigError(f"{source}: reference = {ablation.reference!r} names no row")
