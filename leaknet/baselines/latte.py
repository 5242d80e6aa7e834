"""LATTE (arXiv 2507.03054): latents of a denoising trajectory attend to image features."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Float32, Int, Shaped, UInt8
from torch import Tensor, nn

from leakcache.encoder.weights import PRESETS
from leakcache.images.preprocess import Preprocessing
from leakcache.store.columns import Views
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import BaselineImages, BaselineOptions, ConcatenatedRows
from leaknet.baselines.frozen_transformers import TOKENIZER
from leaknet.baselines.trained_network import Recipe, TrainedNetwork, standardised
from leaknet.baselines.weights import (
    count,
    fingerprint,
    frozen,
    load_model,
    model_folder,
    pretrained,
    transformers,
)
from leaknet.features.evaluation_noise import evaluation_noise

TIMESTEPS = (981, 741, 521, 261, 1)
STEPS = 100
"""Number of steps of the sampler; one is executed."""
PROMPT = "a photo"
SIDE = 224
SEED = 0
"""Of the noise: part of the input, independent of the training seed."""
CUT = Views(Preprocessing("resize", SIDE))
REPOSITORY = PRESETS["sd21"].repository
FILES = (
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    *(f"tokenizer/{file}" for file in TOKENIZER),
)
BATCH = 8


@dataclass(frozen=True)
class Trajectory:
    """A frozen autoencoder and UNet of diffusers, which take one denoising step from five levels.

    For t in 981, 741, 521, 261, 1 the latent (posterior mean × scale, image of 224) is noised to t;
    the UNet with the prompt "a photo" takes one deterministic DDIM step of a hundred. The noise
    depends on (seed, image, t) only, so the trajectory is computed once and stored. Mean,
    determinism and the step are our choices; the published code samples.

    Attributes:
        vae: autoencoder.
        unet: denoiser, conditioned by cross-attention.
        scheduler: diffusers' DDIM with the noise schedule and prediction type of the UNet.
        prompt: hidden states of the prompt.
    """

    vae: Any
    unet: Any
    scheduler: Any
    prompt: Float[Tensor, "1 token width"]

    @classmethod
    def from_weights(cls, weights: Path | None, device: torch.device, method: str) -> Trajectory:
        """`REPOSITORY`, from the folder of local weights or from the hub.

        Raises:
            WeightsError: transformers is not installed, or the weights are missing.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        library = transformers(method)
        folder = model_folder(REPOSITORY, FILES, weights)
        plain = {"use_safetensors": True, "low_cpu_mem_usage": False}
        encoder = load_model(library.CLIPTextModel, folder / "text_encoder", use_safetensors=True)
        tokenizer = load_model(library.CLIPTokenizer, folder / "tokenizer")
        scheduler = load_model(DDIMScheduler, folder / "scheduler")
        scheduler.set_timesteps(STEPS)
        return cls(
            frozen(load_model(AutoencoderKL, folder / "vae", **plain), device),
            frozen(load_model(UNet2DConditionModel, folder / "unet", **plain), device),
            scheduler,
            _hidden(encoder.eval(), tokenizer).to(device),
        )

    @property
    def parameters(self) -> int:
        """Of autoencoder and UNet; the prompt's embedding is a constant."""
        return count(self.vae) + count(self.unet)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        side = SIDE // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.latent_channels), side, side

    def rows(self, images: BaselineImages) -> Rows:
        """Trajectories, flattened, in float16: (image, 1, step · channel · row · column)."""
        values = len(TIMESTEPS) * int(np.prod(self.shape))
        prompt = hashlib.sha256(self.prompt.cpu().numpy().tobytes()).hexdigest()
        depends = {
            "vae": fingerprint(self.vae),
            "unet": fingerprint(self.unet),
            "schedule": self.scheduler.alphas_cumprod.double().sum().item(),
            "prediction": str(self.scheduler.config.prediction_type),
            "prompt": prompt,
            "timesteps": TIMESTEPS,
            "steps": STEPS,
            "seed": SEED,
        }

        def compute(
            views: UInt8[np.ndarray, "k side side 3"], rows: Int[np.ndarray, "k"]
        ) -> Float32[np.ndarray, "k 1 value"]:
            return self.steps(views, images.hashes[rows].tolist()).reshape(len(rows), 1, values)

        spec = ColumnSpec("latte-trajectory", (1, values), "float16", depends)
        return images.extract(spec, CUT, compute, BATCH)

    @torch.inference_mode()
    def steps(
        self, views: np.ndarray, hashes: list[str]
    ) -> Float32[np.ndarray, "image step channel row column"]:
        """Latents after one step from each noise level, of uint8 views (image, side, side, 3)."""
        device = self.prompt.device
        pixels = torch.from_numpy(np.ascontiguousarray(views)).to(device).permute(0, 3, 1, 2)
        mean = self.vae.encode(pixels.float() / 127.5 - 1).latent_dist.mean
        latents = mean * self.vae.config.scaling_factor
        noise = evaluation_noise(SEED, hashes, TIMESTEPS, tuple(latents.shape[1:]))
        prompt = self.prompt.expand(len(views), -1, -1)
        latents_after = []
        for step, t in enumerate(TIMESTEPS):
            level_noise, when = torch.from_numpy(noise[:, step]).to(device), torch.tensor([t])
            noisy = self.scheduler.add_noise(latents, level_noise, when.to(device))
            predicted = self.unet(noisy, t, prompt).sample
            latents_after.append(self.scheduler.step(predicted, t, noisy).prev_sample)
        steps: np.ndarray = torch.stack(latents_after, dim=1).float().cpu().numpy()
        return steps


@torch.inference_mode()
def _hidden(encoder: Any, tokenizer: Any) -> Float[Tensor, "1 token width"]:
    length = int(encoder.config.max_position_embeddings)
    tokens = tokenizer(PROMPT, padding="max_length", max_length=length, return_tensors="pt")
    hidden: Tensor = encoder(tokens["input_ids"]).last_hidden_state
    return hidden.float()


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

    Each of the five latents (`Trajectory`), as one token of 512, attends with a block of its own (8
    heads, then an MLP of four times the width) to the features of a frozen ConvNeXt-Base: its third
    stage's map and its pooled last stage, projected to 512. A linear layer classifies the mean over
    the latents and the pooled features. AdamW 1e-4, weight decay 4e-5, batch 32, 20 epochs, 10 %
    warm-up, cosine. Features and trajectory are computed once, so there is no augmentation.

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
