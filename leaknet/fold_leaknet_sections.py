"""The three sections of a configuration, each validated when it is made.

An error is one line that names the setting, its value and what is accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from leakcache.errors import ConfigError

SCHEDULES = ("cosine", "scaled_linear", "linear")
PLACEMENTS = ("corner", "upsampled", "lowpass", "none")
STEMS = ("imagenet", "small")
OPTIMIZERS = ("adam", "adamw")
PRECISIONS = ("fp32", "bf16", "fp16")
STEPS = 1000  # length of the discrete diffusion schedule
CACHED_DCT = 16  # low frequencies whose moments a cache holds


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{key} = {value!r} is out of range: it must be {expected}")


def _require_one_of(allowed: tuple[str, ...], key: str, value: str) -> None:
    _require(value in allowed, key, value, f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class FeatureConfig:
    """The noisy, standardised views f_t of a latent (the paper, sections 3.1-3.2).

    Attributes:
        schedule: which α_t, σ_t; see `leaknet.features.schedule`.
        timesteps: the steps t, 0 to 999, without repeats.
        noise: False leaves ε out, so that every step shows the same clean latent.
        noise_seed: seed of the noise at evaluation; training noise follows `train.seed`.
        standardise: subtract the training fold's mean and divide by its deviation.
        dct_size: side of the block of low frequencies, 1 to 16.
        dct_placement: how that block joins the latent's map; see `leaknet.features.latent_features`.
        latents: False leaves latents out, so that statistics speak alone.
        statistics: read the statistics of the native pixels too; see `leaknet.model.statistics_branch`.
        activations: and those of what the encoder sees; see `leakcache.statistics.activations`.
        degraded: learn from statistics of degraded copies of the training images as well.
    """

    schedule: str = "cosine"
    timesteps: tuple[int, ...] = (0, 5, 10)
    noise: bool = True
    noise_seed: int = 0
    standardise: bool = True
    dct_size: int = 8
    dct_placement: str = "lowpass"
    latents: bool = True
    statistics: bool = False
    activations: bool = False
    degraded: bool = False

    def __post_init__(self) -> None:
        _require_one_of(SCHEDULES, "features.schedule", self.schedule)
        _require_one_of(PLACEMENTS, "features.dct_placement", self.dct_placement)
        steps = self.timesteps
        _require(
            len(set(steps)) == len(steps) > 0 and all(0 <= t < STEPS for t in steps),
            "features.timesteps",
            list(steps),
            f"one or more different steps from 0 to {STEPS - 1}",
        )
        _require(
            self.noise or len(steps) == 1,
            "features.timesteps",
            list(steps),
            "a single step when features.noise is false, since clean steps are all alike",
        )
        _require(
            self.latents or self.statistics,
            "features.latents",
            self.latents,
            "true where features.statistics is false, since nothing else is left",
        )
        _require(
            self.statistics or not self.degraded,
            "features.degraded",
            self.degraded,
            "false where features.statistics is false, as there is nothing to learn from copies",
        )
        _require(
            self.statistics or not self.activations,
            "features.activations",
            self.activations,
            "false where features.statistics is false, as they are read together",
        )
        _require(self.noise_seed >= 0, "features.noise_seed", self.noise_seed, "0 or more")
        _require(
            1 <= self.dct_size <= CACHED_DCT,
            "features.dct_size",
            self.dct_size,
            f"from 1 to {CACHED_DCT}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """Backbone, temporal attention, gate and prototypes (the paper, sections 3.3-3.4).

    Attributes:
        backbone: a timm model name.
        stem: "imagenet" keeps the backbone's own; "small" is 3×3, stride 1, no max-pool.
        pretrained: start from timm's weights, which come from the hub.
        dimension: D, the length of the embedding.
        prototypes: M per class; 0 puts a linear layer in their place.
        attention: weigh the steps by Eq. 6-7; otherwise take their plain mean.
        gate: weigh the embedding's features by w = σ(A h̄ + b); otherwise w = 1.
        time_dropout: chance that a step is left out of the attention while training.
    """

    backbone: str = "resnet18"
    stem: str = "imagenet"
    pretrained: bool = False
    dimension: int = 128
    prototypes: int = 4
    attention: bool = True
    gate: bool = True
    time_dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_one_of(STEMS, "model.stem", self.stem)
        _require(bool(self.backbone), "model.backbone", self.backbone, "a timm model name")
        _require(self.dimension >= 1, "model.dimension", self.dimension, "1 or more")
        _require(self.prototypes >= 0, "model.prototypes", self.prototypes, "0 or more")
        _require(0 <= self.time_dropout < 1, "model.time_dropout", self.time_dropout, "in [0, 1)")


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
        for name in ("seed", "weight_decay", "clip", "patience", "entropy"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"train.{name}", value, "0 or more, and finite")
