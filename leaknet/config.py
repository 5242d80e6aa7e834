"""What a run depends on besides its cache: frozen dataclasses, read from and written to TOML.

    RunConfig ─┬─ features   which noisy views of a latent the network sees
               ├─ model      backbone, attention, gate, prototypes
               └─ train      seed, optimiser, precision, stopping

A file names only what it changes; the rest comes from its preset. Presets are constants:
`paper` (as published), `authors` (their public code's settings), `best`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import tomli_w

from leakcache.errors import ConfigError
from leaknet.fold_leaknet_sections import FeatureConfig, ModelConfig, TrainConfig

__all__ = [
    "AUTHORS",
    "BEST",
    "PAPER",
    "PRESETS",
    "FeatureConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "config_from_table",
    "config_to_table",
    "differences",
    "dump_config",
    "load_config",
    "preset",
    "refuse_unknown",
    "with_fields",
]

_LISTS: dict[Any, tuple[type, str]] = {
    tuple[int, ...]: (int, "a list of whole numbers"),
    tuple[str, ...]: (str, "a list of names"),
}


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run; `preset` names the one it started from."""

    preset: str = "paper"
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def with_overrides(self, overrides: Iterable[str]) -> RunConfig:
        """Apply settings such as "train.epochs=20"; values are TOML, bare words or 0,5,10.

        Raises:
            ConfigError: a setting is malformed, unknown, of the wrong type or out of range.
        """
        table: dict[str, dict[str, Any]] = {}
        for text in overrides:
            section, name, value = _parse_override(text)
            table.setdefault(section, {})[name] = value
        return _apply(self, table, source="--set")

    def with_table(self, table: Mapping[str, Any], source: str) -> RunConfig:
        """Apply settings of a parsed TOML table; `source` is named in errors.

        Raises:
            ConfigError: a key is unknown, or a value is of the wrong type or out of range.
        """
        return _apply(self, table, source)


PAPER = RunConfig()
"""As published: cosine schedule, DCT map, Adam with weight decay, M = 4."""

AUTHORS = RunConfig(
    preset="authors",
    features=FeatureConfig(schedule="linear", standardise=False, dct_placement="none"),
    model=ModelConfig(prototypes=6, time_dropout=0.3),
    train=TrainConfig(optimizer="adamw", entropy=0.1),
)
"""The settings of the authors' public code.

Theirs start from ImageNet weights: add `model.pretrained=true` where the hub can be reached.
What we know to be wrong in that code is not reproduced: its temporal attention is missing
from the optimiser and from the checkpoint; its evaluation noise comes from the global
generator, so that no figure repeats; an empty class wins every Mahalanobis argmax; its
tied-covariance likelihood ratio uses a diagonal inverse and counts one term twice; its
`dual` mode must know which images are open before it scores them; its open-set script
feeds pixels to a network that was trained on latents; and its encoder runs anew in every
epoch.
"""

BEST = RunConfig(
    preset="best",
    features=FeatureConfig(latents=False, statistics=True, activations=True, degraded=True),
)
"""What validation says is best: statistics of the native pixels, of the encoder's activations and
of degraded copies, embedded in closed form, and the paper's gate and prototypes on them. A network
on reduced latents beside them loses (docs/LOG.md)."""

PRESETS: Mapping[str, RunConfig] = MappingProxyType(
    {"paper": PAPER, "authors": AUTHORS, "best": BEST}
)


def preset(name: str) -> RunConfig:
    """The named preset.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown: take one of {', '.join(PRESETS)}")
    return PRESETS[name]


def load_config(path: Path) -> RunConfig:
    """Read a TOML file; what it does not name comes from its `preset` ("paper" if absent).

    Raises:
        ConfigError: the file is missing or is no TOML, or a key or value is not accepted.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    return config_from_table(table, source=str(path))


def config_from_table(table: Mapping[str, Any], source: str) -> RunConfig:
    """Build a configuration from a parsed TOML table; `source` is named in errors.

    A table [record], which a run's own config.toml has, is skipped.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or out of range.
    """
    start = table.get("preset", "paper")
    if not isinstance(start, str):
        raise ConfigError(f"{source}: preset = {start!r} must be a name, in quotes")
    settings = {key: value for key, value in table.items() if key != "record"}
    return _apply(preset(start), settings, source)


def config_to_table(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain tables, in the order of the fields; all settings, named."""
    table = asdict(config)
    table["features"]["timesteps"] = list(config.features.timesteps)
    return table


def dump_config(config: RunConfig) -> str:
    """The configuration as TOML text that `load_config` reads back to an equal value."""
    return tomli_w.dumps(config_to_table(config))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Settings in which two configurations differ, as "train.epochs: 10, now 20"."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: {before[key]}, now {after[key]}" for key in before if before[key] != after[key]
    ]


def _flatten(config: RunConfig) -> Iterator[tuple[str, Any]]:
    for key, value in config_to_table(config).items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", setting) for name, setting in value.items())
        else:
            yield key, value


def _parse_override(text: str) -> tuple[str, str, Any]:
    key, equals, raw = (part.strip() for part in text.partition("="))
    section, dot, name = key.partition(".")
    if not (equals and dot and name and raw):
        raise ConfigError(f"--set {text} is malformed: write it as train.epochs=20")
    return section, name, _parse_value(raw)


def _parse_value(raw: str) -> Any:
    for candidate in (raw, f"[{raw}]" if "," in raw else raw):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return raw


def _apply(config: RunConfig, table: Mapping[str, Any], source: str) -> RunConfig:
    changes: dict[str, Any] = {}
    for key, value in table.items():
        refuse_unknown(key, [part.name for part in fields(config)], key, source)
        section = getattr(config, key)
        if key == "preset":
            changes[key] = _coerce(value, str, key, source)
        elif isinstance(value, Mapping):
            changes[key] = with_fields(section, value, key, source)
        else:
            raise ConfigError(f"{source}: {key} must be a table, [{key}], not {value!r}")
    return replace(config, **changes)


def with_fields(section: Any, table: Mapping[str, Any], prefix: str, source: str) -> Any:
    """A frozen dataclass with the fields that a parsed TOML table names.

    Args:
        section: fields that the table does not name stay as they are here.
        table: values by field.
        prefix: what stands before a field's name in errors.
        source: file or flag, named in errors.

    Raises:
        ConfigError: a key is no field, or a value is of the wrong type or out of range.
    """
    kinds = get_type_hints(type(section))
    changes = {}
    for key, value in table.items():
        refuse_unknown(key, list(kinds), f"{prefix}.{key}", source)
        changes[key] = _coerce(value, kinds[key], f"{prefix}.{key}", source)
    try:
        return replace(section, **changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def refuse_unknown(key: str, valid: list[str], shown: str, source: str) -> None:
    """Refuse a key that is not valid, naming the nearest that is.

    Raises:
        ConfigError: in one line, with the key as `shown`.
    """
    if key not in valid:
        nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
        prefix = shown.removesuffix(key)
        raise ConfigError(f"{source}: {shown} is no setting; the nearest is {prefix}{nearest}")


def _coerce(value: Any, kind: Any, key: str, source: str) -> Any:
    """Accept a TOML value for a field of the given type; only int to float is converted."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in _LISTS:
        items = value if isinstance(value, list | tuple) else [value]
        if all(type(item) is _LISTS[kind][0] for item in items):
            return tuple(items)
    elif type(value) is kind:
        return value
    expected = _LISTS[kind][1] if kind in _LISTS else f"of type {kind.__name__}"
    raise ConfigError(f"{source}: {key} = {value!r} must be {expected}")
