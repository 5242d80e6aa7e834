"""LATTE (arXiv 2507.03054): latents along a denoising trajectory look at the picture's features.

Each of the five latents (`leaknet.baselines.ddim_trajectory`), as one token of 512, attends by
a block of
its own (8 heads, then an MLP of four times the width) to the features of a frozen ConvNeXt-Base:
its third stage's map and its pooled last stage, brought to 512. The mean over the latents and the
pooled features are classified linearly. AdamW 1e-4, weight decay 4e-5, batch 32, 20 epochs, 10 %
warm-up, cosine. Features and trajectory are computed once, so there is no augmentation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from leakcache.store.array_store import Rows, RowSpec
from leaknet.baselines.augment import standardised
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.ddim_trajectory import CUT, SIDE, TIMESTEPS, Trajectory
from leaknet.baselines.images import BaselineImages, JoinedRows
from leaknet.baselines.trained_network import NetworkPeer, Recipe
from leaknet.baselines.weights import count, fingerprint, frozen, pretrained

WIDTH, HEADS = 512, 8
WARM_UP = 0.1
"""Share of the training in which the rate rises."""
AT_ONCE = 16
_BLANK = np.zeros((1, SIDE, SIDE, 3), np.uint8)


def warm_cosine(epoch: float, epochs: int) -> float:
    """A learning rate that rises over the first tenth and falls as a half cosine to 0."""
    done = epoch / epochs
    if done < WARM_UP:
        return done / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


class LookingBlock(nn.Module):
    """Tokens look at features: attention and an MLP, each added and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.looked = nn.LayerNorm(WIDTH)
        self.think = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.thought = nn.LayerNorm(WIDTH)

    def forward(
        self, x: Float[Tensor, "sample token 512"], features: Float[Tensor, "sample place 512"]
    ) -> Float[Tensor, "sample token 512"]:
        """The tokens, refined."""
        found, _ = self.look(x, features, features, need_weights=False)
        x = self.looked(x + found)
        refined: Tensor = self.thought(x + self.think(x))
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
        self.blocks = nn.ModuleList([LookingBlock() for _ in TIMESTEPS])
        self.classifier = nn.Linear(2 * WIDTH, classes)

    def forward(
        self, x: Float[Tensor, "sample value"]
    ) -> tuple[Float[Tensor, "sample 1024"], Float[Tensor, "sample class"]]:
        """Vectors and logits from trajectory, pooled features and map, side by side."""
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


class Latte(NetworkPeer):
    """LATTE's row.

    Attributes:
        visual: timm's name of the network that sees the picture.
    """

    name: ClassVar[str] = "latte"
    visual: ClassVar[str] = "convnext_base.fb_in22k"
    recipe = Recipe(
        learning_rate=1e-4,
        batch=32,
        epochs=20,
        optimiser=lambda weights, rate: torch.optim.AdamW(weights, rate, weight_decay=4e-5),
        rate=warm_cosine,
    )
    trajectory: Trajectory
    features: Any

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        # Before anything is built, since these are what may be missing.
        device = options.device
        self.trajectory = Trajectory.from_weights(options.weights, device, self.name)
        self.features = frozen(pretrained(self.visual, 0, options.weights), device)
        super().__init__(classes, options)

    def build(self, classes: int) -> nn.Module:
        """What is trained, drawn anew."""
        widths = [stage["num_chs"] for stage in self.features.feature_info]
        latent = int(np.prod(self.trajectory.shape))
        return LatteNetwork(classes, latent, pooled=widths[3], local=widths[2])

    @property
    def parameters(self) -> int:
        """Of all networks that it takes."""
        return count(self.network) + count(self.features) + self.trajectory.parameters

    def rows(self, images: BaselineImages) -> Rows:
        """Trajectory, pooled features and map, side by side: (image, 1, value)."""
        return JoinedRows([self.trajectory.rows(images), self._seen(images)])

    def prepare(
        self, views: Shaped[np.ndarray, "sample value"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample value"]:
        """As they are, in float32."""
        return torch.from_numpy(views).float()

    def _seen(self, images: BaselineImages) -> Rows:
        """Features of the frozen network: the pooled last stage, then the third stage by place."""
        pixels = images.pixels(CUT)
        values = self._look(_BLANK).shape[-1]
        spec = RowSpec(
            "latte-features", (1, values), "float16", {"weights": fingerprint(self.features)}
        )

        def compute(rows: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k 1 value"]:
            starts = range(0, len(rows), AT_ONCE)
            parts = [self._look(pixels[rows[start : start + AT_ONCE]][:, 0]) for start in starts]
            return np.concatenate(parts)[:, None]

        return images.derived(spec, compute)

    @torch.inference_mode()
    def _look(
        self, views: Shaped[np.ndarray, "sample side side 3"]
    ) -> Float[np.ndarray, "sample value"]:
        settings = timm.get_pretrained_cfg(self.visual)
        x = standardised(views, settings.mean, settings.std).to(self.options.device)
        local, last = self.features.forward_intermediates(
            x, indices=[2, 3], intermediates_only=True
        )
        places = local.flatten(2).transpose(1, 2).flatten(1)
        return torch.cat([last.mean(dim=(2, 3)), places], dim=1).cpu().numpy()
