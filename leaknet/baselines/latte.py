"""LATTE (arXiv 2507.03054): latents of a denoising trajectory attend to image features.

Each of the five latents (`leaknet.baselines.ddim_trajectory`), as one token of 512, attends with a
block of its own (8 heads, then an MLP of four times the width) to the features of a frozen
ConvNeXt-Base: its third stage's map and its pooled last stage, projected to 512. A linear layer
classifies the mean over the latents and the pooled features. AdamW 1e-4, weight decay 4e-5, batch
32, 20 epochs, 10 % warm-up, cosine. Features and trajectory are computed once, so there is no
augmentation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import BaselineImages, BaselineOptions, ConcatenatedRows
from leaknet.baselines.ddim_trajectory import CUT, SIDE, TIMESTEPS, Trajectory
from leaknet.baselines.trained_network import Recipe, TrainedNetwork, standardised
from leaknet.baselines.weights import count, fingerprint, frozen, pretrained

WIDTH, HEADS = 512, 8
WARM_UP = 0.1
"""Fraction of the training in which the rate rises."""
_BLANK = np.zeros((1, SIDE, SIDE, 3), np.uint8)


def warmup_cosine(epoch: float, epochs: int) -> float:
    """Learning rate with linear warm-up over the first tenth, then half a cosine to 0."""
    done = epoch / epochs
    if done < WARM_UP:
        return done / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


class CrossAttentionBlock(nn.Module):
    """Cross-attention and an MLP, each with a residual connection and post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(
        self, x: Float[Tensor, "sample token 512"], features: Float[Tensor, "sample place 512"]
    ) -> Float[Tensor, "sample token 512"]:
        """The refined tokens."""
        attended, _ = self.attention(x, features, features, need_weights=False)
        x = self.norm1(x + attended)
        refined: Tensor = self.norm2(x + self.mlp(x))
        return refined


class LatteNetwork(nn.Module):
    """18.17 M parameters for ten classes, latents of 4×28×28 and ConvNeXt-Base's widths.

    Attributes:
        latent: values of one latent.
        pooled: width of the last stage.
        local: width of the third stage.
    """

    def __init__(self, classes: int, latent: int, pooled: int, local: int) -> None:
        super().__init__()
        self.latent, self.pooled, self.local = latent, pooled, local
        self.token = nn.Linear(latent, WIDTH)
        self.whole = nn.Linear(pooled, WIDTH)
        self.place = nn.Linear(local, WIDTH)
        self.blocks = nn.ModuleList([CrossAttentionBlock() for _ in TIMESTEPS])
        self.classifier = nn.Linear(2 * WIDTH, classes)

    def forward(
        self, x: Float[Tensor, "sample value"]
    ) -> tuple[Float[Tensor, "sample 1024"], Float[Tensor, "sample class"]]:
        """Vectors and logits from concatenated trajectory, pooled features and feature map."""
        ends = (len(TIMESTEPS) * self.latent, self.pooled)
        trajectory, pooled, local = torch.split(x, [*ends, x.shape[1] - sum(ends)], dim=1)
        tokens = self.token(trajectory.reshape(len(x), len(TIMESTEPS), self.latent))
        whole = self.whole(pooled)
        places = self.place(local.reshape(len(x), -1, self.local))
        features = torch.cat([whole[:, None], places], dim=1)
        refined = [
            block(tokens[:, step : step + 1], features) for step, block in enumerate(self.blocks)
        ]
        vectors = torch.cat([whole, torch.cat(refined, dim=1).mean(dim=1)], dim=1)
        return vectors, self.classifier(vectors)


class Latte(TrainedNetwork):
    """The row of LATTE.

    Attributes:
        visual: timm's name of the image network.
    """

    name: ClassVar[str] = "latte"
    visual: ClassVar[str] = "convnext_base.fb_in22k"
    recipe = Recipe(
        learning_rate=1e-4,
        batch=32,
        epochs=20,
        optimiser=lambda weights, rate: torch.optim.AdamW(weights, rate, weight_decay=4e-5),
        rate=warmup_cosine,
    )
    trajectory: Trajectory
    features: Any

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        # First, because these weights may be missing.
        device = options.device
        self.trajectory = Trajectory.from_weights(options.weights, device, self.name)
        self.features = frozen(pretrained(self.visual, 0, options.weights), device)
        super().__init__(classes, options)

    def build(self, classes: int) -> nn.Module:
        """The trained part, randomly initialised."""
        widths = [stage["num_chs"] for stage in self.features.feature_info]
        latent = int(np.prod(self.trajectory.shape))
        return LatteNetwork(classes, latent, pooled=widths[3], local=widths[2])

    @property
    def parameters(self) -> int:
        """Of all networks, frozen ones included."""
        return count(self.network) + count(self.features) + self.trajectory.parameters

    def rows(self, images: BaselineImages) -> Rows:
        """Concatenated trajectory, pooled features and feature map: (image, 1, value)."""
        return ConcatenatedRows([self.trajectory.rows(images), self._visual(images)])

    def prepare(
        self, views: Shaped[np.ndarray, "sample value"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample value"]:
        """The values as float32."""
        return torch.from_numpy(views).float()

    def _visual(self, images: BaselineImages) -> Rows:
        """Features of the frozen network: pooled last stage, then the third stage's map."""
        shape = self._extract(_BLANK, np.zeros(1, int)).shape[1:]
        spec = ColumnSpec(
            "latte-features", shape, "float16", {"weights": fingerprint(self.features)}
        )
        return images.extract(spec, CUT, self._extract)

    @torch.inference_mode()
    def _extract(
        self, views: UInt8[np.ndarray, "k side side 3"], _: Int[np.ndarray, "k"]
    ) -> Float[np.ndarray, "k 1 value"]:
        settings = timm.get_pretrained_cfg(self.visual)
        x = standardised(views, settings.mean, settings.std).to(self.options.device)
        local, last = self.features.forward_intermediates(
            x, indices=[2, 3], intermediates_only=True
        )
        places = local.flatten(2).transpose(1, 2).flatten(1)
        return torch.cat([last.mean(dim=(2, 3)), places], dim=1).cpu().numpy()[:, None]
