"""Input of LATTE: an image's latent after one denoising step from each of five noise levels.

For t in 981, 741, 521, 261, 1 the latent (posterior mean × scale, image of 224) is noised to t;
the UNet with the prompt "a photo" takes one deterministic DDIM step of a hundred. The noise
depends on (seed, image, t) only, so the trajectory is computed once and stored. Mean, determinism
and the step are our choices; the published code samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from leakcache.columns.table import Views
from leakcache.encoder.weights import PRESETS
from leakcache.images.preprocess import Preprocessing
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import BaselineImages
from leaknet.baselines.occ_clip import TOKENIZER
from leaknet.baselines.weights import (
    count,
    fingerprint,
    frozen,
    load_model,
    model_folder,
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
    """A frozen autoencoder and UNet of diffusers, and the prompt's embedding.

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
