"""The branch of noisy latents: feature maps → backbone → temporal attention (the paper, section 3).

z_t = α_t z0 + σ_t ε for every step t, standardised, with a map of low DCT frequencies beside it;
a timm backbone embeds each step, and temporal attention pools the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from leaknet.config import Z0, HeadConfig, LatentConfig
from leaknet.data.columns import (
    ImageColumns,
    ShuffledWindows,
    StoredColumn,
    TrainingData,
    window_size,
)
from leaknet.features.evaluation_noise import evaluation_noise
from leaknet.features.latent_features import LatentFeatures
from leaknet.features.noise import training_noise
from leaknet.model.backbone import build_backbone
from leaknet.model.branch import Branch, Sampler, TemporalAttention


class LatentBranch(Branch):
    """From clean latents to an embedding, trained by gradient descent.

    Attributes:
        config: features, backbone and attention.
        shape: of a latent, (channel, height, width).
    """

    name: ClassVar[str] = "latents"

    def __init__(
        self, config: LatentConfig, head: HeadConfig, classes: int, shape: tuple[int, int, int]
    ) -> None:
        """Build with initial weights.

        Raises:
            ConfigError: the settings do not fit the latents.
            WeightsError: pretrained weights were requested and cannot be had.
        """
        super().__init__()
        self.config, self.shape = config, shape
        self.features = LatentFeatures(config, shape)
        self.backbone, width = build_backbone(config, self.features.channels, shape[1:])
        self.projection = nn.Linear(width, head.dimension)
        self.attention = TemporalAttention(
            head.dimension, attend=config.attention, dropout=config.time_dropout
        )
        self.add_head(head, classes)

    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads: z0."""
        return self.config.columns(training=training)

    def fit(self, data: TrainingData, classes: tuple[str, ...]) -> tuple[Sampler, None]:
        """Set the standardisation; the sampler gives feature maps under fresh noise."""
        self.features.fit(data.moments.latent, data.moments.dct)
        return self.sampler(data.train), None

    def sampler(self, images: ImageColumns) -> Sampler:
        """Feature maps of these images under fresh noise."""
        column = images.columns[Z0]
        windows = None
        if isinstance(column, StoredColumn):
            windows = ShuffledWindows(column, window_size(column))
        z0: Any = column if windows is None else windows

        def sample(
            rows: Int64[Tensor, "batch"], views: Int64[Tensor, "batch"], noise: torch.Generator
        ) -> Tensor:
            rows, views = rows.to(column.device), views.to(column.device)
            return self.training_maps(z0[rows, views].to(self.device), noise)

        return Sampler(sample, windows)

    def training_maps(
        self, z0: Float[Tensor, "batch channel height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch step map height width"]:
        """Feature maps under noise that is drawn from the generator."""
        steps, noisy = len(self.config.timesteps), self.config.noise
        noise = training_noise(len(z0), steps, self.shape, generator) if noisy else None
        maps: Tensor = self.features(z0, noise)
        return maps

    def forward(
        self, inputs: Float[Tensor, "batch step map height width"]
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch step"]]:
        """Embedding and attention; under autocast only the backbone is in low precision."""
        maps = inputs.flatten(0, 1)
        if maps.is_cuda:  # on the CPU channels-last gains nothing (docs/PERFORMANCE.md)
            maps = maps.contiguous(memory_format=torch.channels_last)
        h = self.projection(self.backbone(maps)).float().view(*inputs.shape[:2], -1)
        with torch.autocast(h.device.type, enabled=False):
            pooled, attention = self.attention(h)
            return pooled, attention

    def embed(
        self, images: ImageColumns
    ) -> tuple[Float[Tensor, "image dimension"], Float[Tensor, "image step"]]:
        """Means over views, under noise that depends on image and view alone."""
        noise = self.evaluation_noise(images.hashes.tolist(), images.views)
        z0 = images.z0.flatten(0, 1).to(self.device)
        found = self(self.features(z0, None if noise is None else noise.to(self.device)))
        pooled, attention = (
            values.view(len(images), images.views, values.shape[1]).mean(dim=1) for values in found
        )
        return pooled, attention

    def evaluation_noise(
        self, hashes: Sequence[str], views: int
    ) -> Float[Tensor, "crop step channel height width"] | None:
        """Noise of these images, the views of one image consecutive; None without noise."""
        config = self.config
        if not config.noise:
            return None
        draws = [
            evaluation_noise(config.noise_seed, hashes, config.timesteps, self.shape, view)
            for view in range(views)
        ]
        return torch.from_numpy(np.stack(draws, axis=1)).flatten(0, 1)
