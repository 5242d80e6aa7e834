"""An ablation as TOML: named rows, each a few settings that differ from the common ones.

    title = "How many prototypes?"
    reference = "M = 4"

    [[row]]
    name = "M = 4"
    model.prototypes = 4
    published = { top1 = 0.8260, macro_auc = 0.9813 }

docs/ABLATIONS.md describes every key. The tables of the paper lie beside this module.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from leakcache.errors import ConfigError
from leaknet.config import RunConfig, refuse_unknown, with_fields
from leaknet.experiments.ablation.fold_ablation_measures import MEASURES
from leaknet.experiments.ablation.fold_ablation_scoring import Scoring
from leaknet.experiments.ablation.fold_ablation_wish import CacheWish

BUILT_IN = Path(__file__).parent
NAMES = ("table2", "table3", "table4", "table5", "noise", "dct", "stem", "schedule", "precision")
_RUN_TABLES = ("features", "model", "train")


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
    cache: CacheWish = field(default_factory=CacheWish)
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
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
        cache=with_fields(CacheWish(), table.get("cache", {}), "cache", here),
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
