"""All settings of a run besides its cache: frozen dataclasses, read from and written to TOML.

    RunConfig ─┬─ latents      branch of noisy latents: features, backbone, temporal attention
               ├─ statistics   branch of image statistics, fitted in closed form
               ├─ head         gate and prototypes of each branch
               └─ train        seed, optimiser, precision, early stopping

A file names only what it changes; the rest comes from its preset. The presets are `paper` (as
published), `authors` (the settings of their public code) and `best`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from leakcache.errors import ConfigError
from leakcache.files import parse_toml, read_text
from leaknet.config_table import coerce, parse_override, refuse_unknown, with_fields

__all__ = [
    "AUTHORS",
    "BEST",
    "PAPER",
    "PRESETS",
    "HeadConfig",
    "LatentConfig",
    "RunConfig",
    "StatisticsConfig",
    "TrainConfig",
    "config_from_table",
    "config_to_table",
    "differences",
    "dump_config",
    "load_config",
    "preset",
]

SCHEDULES = ("cosine", "scaled_linear", "linear")
PLACEMENTS = ("corner", "upsampled", "lowpass", "none")
STEMS = ("imagenet", "small")
OPTIMIZERS = ("adam", "adamw")
PRECISIONS = ("fp32", "bf16", "fp16")
SEEDS = 2**63  # seeds are below this
SEED_RANGE = "from 0 to 2^63 - 1"
STEPS = 1000  # length of the discrete diffusion schedule
CACHED_DCT = 16  # low frequencies whose moments a cache holds

Z0 = "z0"
PIXELS = "pixel_statistics"
ACTIVATIONS = "activation_statistics"
DEGRADED_PIXELS = "degraded_pixel_statistics"
DEGRADED_ACTIVATIONS = "degraded_activation_statistics"


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{key} = {value!r} is out of range: it must be {expected}")


def _require_one_of(allowed: tuple[str, ...], key: str, value: str) -> None:
    _require(value in allowed, key, value, f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class LatentConfig:
    """The branch of noisy latents (the paper, sections 3.1-3.3).

    Attributes:
        enabled: whether the model has this branch.
        schedule: which α_t, σ_t; see `leaknet.features.noise`.
        timesteps: the steps t, 0 to 999, without repeats.
        noise: False leaves ε out, so that every step shows the same clean latent.
        noise_seed: seed of the noise at evaluation; training noise follows `train.seed`.
        standardise: subtract the training fold's mean and divide by its standard deviation.
        dct_size: side of the block of low frequencies, 1 to 16.
        dct_placement: how that block joins the latent; see `leaknet.features.latent_features`.
        backbone: a timm model name.
        stem: "imagenet" keeps the backbone's own; "small" is 3×3, stride 1, no max-pool.
        pretrained: start from timm's weights, which come from the hub.
        attention: weight the steps by Eq. 6-7; otherwise take their plain mean.
        time_dropout: probability that the attention omits a step in training.
    """

    enabled: bool = True
    schedule: str = "cosine"
    timesteps: tuple[int, ...] = (0, 5, 10)
    noise: bool = True
    noise_seed: int = 0
    standardise: bool = True
    dct_size: int = 8
    dct_placement: str = "lowpass"
    backbone: str = "resnet18"
    stem: str = "imagenet"
    pretrained: bool = False
    attention: bool = True
    time_dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_one_of(SCHEDULES, "latents.schedule", self.schedule)
        _require_one_of(PLACEMENTS, "latents.dct_placement", self.dct_placement)
        _require_one_of(STEMS, "latents.stem", self.stem)
        _require(bool(self.backbone), "latents.backbone", self.backbone, "a timm model name")
        steps, size, drop = self.timesteps, self.dct_size, self.time_dropout
        _require(
            len(set(steps)) == len(steps) > 0 and all(0 <= t < STEPS for t in steps),
            "latents.timesteps",
            list(steps),
            f"one or more different steps from 0 to {STEPS - 1}",
        )
        _require(
            self.noise or len(steps) == 1,
            "latents.timesteps",
            list(steps),
            "a single step when latents.noise is false, since clean steps are all alike",
        )
        _require(0 <= self.noise_seed < SEEDS, "latents.noise_seed", self.noise_seed, SEED_RANGE)
        _require(1 <= size <= CACHED_DCT, "latents.dct_size", size, f"from 1 to {CACHED_DCT}")
        _require(0 <= drop < 1, "latents.time_dropout", drop, "in [0, 1)")

    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads; the same in training and afterwards."""
        return (Z0,) if self.enabled else ()


@dataclass(frozen=True)
class StatisticsConfig:
    """The branch of image statistics; see `leaknet.model.statistics_branch`.

    Attributes:
        enabled: whether the model has this branch.
        activations: read statistics of the encoder's activations besides those of pixels.
        degraded: also fit to statistics of degraded copies of the training images.
    """

    enabled: bool = False
    activations: bool = True
    degraded: bool = True

    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads; those of degraded copies in training only."""
        names = {
            PIXELS: True,
            ACTIVATIONS: self.activations,
            DEGRADED_PIXELS: training and self.degraded,
            DEGRADED_ACTIVATIONS: training and self.degraded and self.activations,
        }
        return tuple(name for name, read in names.items() if read and self.enabled)


@dataclass(frozen=True)
class HeadConfig:
    """Gate and prototypes on the embedding (the paper, section 3.4).

    Attributes:
        dimension: D, the length of the embedding.
        prototypes: M per class; 0 puts a linear layer in their place.
        gate: weight the features of the embedding by w = σ(A h̄ + b); otherwise w = 1.
    """

    dimension: int = 128
    prototypes: int = 4
    gate: bool = True

    def __post_init__(self) -> None:
        _require(self.dimension >= 1, "head.dimension", self.dimension, "1 or more")
        _require(self.prototypes >= 0, "head.prototypes", self.prototypes, "0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """How the model is fitted.

    Attributes:
        seed: initial weights, order of the images, training noise.
        epochs: passes over the training fold at most.
        batch_size: images a step, 2 or more.
        optimizer: "adam" adds weight decay to the gradient, "adamw" decouples it.
        learning_rate: constant step size.
        weight_decay: its factor.
        clip: largest norm of the gradient; 0 leaves it alone.
        precision: of the network under autocast; features and head stay in fp32.
        patience: stop after this many epochs without a better validation AUC; 0 never stops.
        entropy: weight of log T − H(a), which keeps the attention from collapsing.
    """

    seed: int = 0
    epochs: int = 10
    batch_size: int = 16
    optimizer: str = "adam"
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    clip: float = 5.0
    precision: str = "fp32"
    patience: int = 10
    entropy: float = 0.0

    def __post_init__(self) -> None:
        _require_one_of(OPTIMIZERS, "train.optimizer", self.optimizer)
        _require_one_of(PRECISIONS, "train.precision", self.precision)
        _require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        _require(
            self.batch_size >= 2,
            "train.batch_size",
            self.batch_size,
            "2 or more, since batch normalisation needs two images",
        )
        rate = self.learning_rate
        _require(0 < rate < math.inf, "train.learning_rate", rate, "positive and finite")
        _require(0 <= self.seed < SEEDS, "train.seed", self.seed, SEED_RANGE)
        for name in ("weight_decay", "clip", "patience", "entropy"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"train.{name}", value, "0 or more, and finite")


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run; `preset` names the one it started from."""

    preset: str = "paper"
    latents: LatentConfig = field(default_factory=LatentConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not (self.latents.enabled or self.statistics.enabled):
            raise ConfigError(
                "latents.enabled and statistics.enabled are both false: a model needs a branch"
            )

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the enabled branches, `latents` first."""
        names = ("latents", "statistics")
        return tuple(name for name in names if getattr(self, name).enabled)

    def with_branches(self, names: Collection[str]) -> RunConfig:
        """The same settings with these branches enabled and no others."""
        latents = replace(self.latents, enabled="latents" in names)
        statistics = replace(self.statistics, enabled="statistics" in names)
        return replace(self, latents=latents, statistics=statistics)

    def columns(self, *, training: bool = True) -> tuple[str, ...]:
        """Cache columns that the model reads.

        Args:
            training: include the columns that only training reads.
        """
        return tuple(
            name
            for branch in (self.latents, self.statistics)
            for name in branch.columns(training=training)
        )

    def with_overrides(self, overrides: Iterable[str]) -> RunConfig:
        """Apply settings such as "train.epochs=20"; values are TOML, bare words or 0,5,10.

        Raises:
            ConfigError: a setting is malformed, unknown, of the wrong type or out of range.
        """
        table: dict[str, dict[str, Any]] = {}
        for text in overrides:
            section, name, value = parse_override(text)
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
    latents=LatentConfig(
        schedule="linear", standardise=False, dct_placement="none", time_dropout=0.3
    ),
    head=HeadConfig(prototypes=6),
    train=TrainConfig(optimizer="adamw", entropy=0.1),
)
"""The settings of the authors' public code.

Theirs start from ImageNet weights: add `latents.pretrained=true` where the hub can be reached.
What we know to be wrong in that code is not reproduced: its temporal attention is missing
from the optimiser and from the checkpoint; its evaluation noise comes from the global
generator, so that no figure repeats; an empty class wins every Mahalanobis argmax; its
tied-covariance likelihood ratio uses a diagonal inverse and counts one term twice; its
`dual` mode must know which images are open before it scores them; its open-set script
feeds pixels to a network that was trained on latents; and its encoder runs anew in every
epoch.
"""

BEST = RunConfig(preset="best", statistics=StatisticsConfig(enabled=True))
"""Both branches: the paper's, and statistics of native pixels, of the encoder's activations and of
degraded copies. Held-out prompt groups decide their weights (`leaknet.model.fusion`)."""

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
        table = parse_toml(read_text(path))
    except (OSError, ValueError) as error:
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
    table["latents"]["timesteps"] = list(config.latents.timesteps)
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


def _apply(config: RunConfig, table: Mapping[str, Any], source: str) -> RunConfig:
    changes: dict[str, Any] = {}
    for key, value in table.items():
        refuse_unknown(key, [part.name for part in fields(config)], key, source)
        section = getattr(config, key)
        if key == "preset":
            changes[key] = coerce(value, str, key, source)
        elif isinstance(value, Mapping):
            changes[key] = with_fields(section, value, key, source)
        else:
            raise ConfigError(f"{source}: {key} must be a table, [{key}], not {value!r}")
    try:
        return replace(config, **changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
