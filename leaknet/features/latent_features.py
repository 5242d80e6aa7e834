"""f_t = standardise(concat[z_t / σ_t, DCT_low(z_t / σ_t)]), for all steps t at once.

The DCT is orthonormal, so white noise stays white and the moments of z_t / σ_t follow
from those of clean latents in closed form: mean_t = (α/σ) μ, var_t = (α/σ)² v + 1, for
latents and coefficients alike. One cache thus standardises every schedule and every t.

The paper does not say how a k×k block of coefficients joins an H×W map. Four ways:

    corner      the standardised block in the low corner of a map of zeros
    upsampled   the standardised block, each coefficient repeated over a patch
    lowpass     the inverse transform, an image without high frequencies, per channel
    none        no map beside the latent
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.errors import ConfigError
from leakcache.statistics.planes import dct_basis
from leakcache.store.cache import Moments
from leaknet.config import LatentConfig
from leaknet.features.noise import noise_levels

_CONSTANT = 1e-12  # a variance below this is a constant: its feature is 0


class Affine(nn.Module):
    """signal · z0 + noise · ε + offset, with one set of weights per step and channel.

    The three weights are buffers of shape (step, channel, rows, columns), where rows and
    columns are 1 or the block's side; they are saved with the model, so that a run folder
    standardises new images without its cache.
    """

    signal: Tensor
    noise: Tensor
    offset: Tensor

    def __init__(self, steps: int, channels: int, side: int) -> None:
        super().__init__()
        shape = (steps, channels, side, side)
        self.register_buffer("signal", torch.ones(shape))
        self.register_buffer("noise", torch.ones(shape))
        self.register_buffer("offset", torch.zeros(shape))

    def fit(
        self,
        ratio: Float[np.ndarray, "step"],
        mean: Float[np.ndarray, "..."],
        variance: Float[np.ndarray, "..."],
        noise_variance: float,
    ) -> None:
        """Set the weights so that ratio · z0 + ε has mean 0 and variance 1.

        Args:
            ratio: α_t / σ_t.
            mean: of clean values, (channel,) or (channel, side, side).
            variance: of clean values, likewise.
            noise_variance: what ε adds to the variance; 0 without noise.
        """
        coordinates = mean.reshape(self.signal.shape[1:])
        scale = ratio[:, None, None, None]
        total = scale**2 * variance.reshape(coordinates.shape) + noise_variance
        gain = np.where(total > _CONSTANT, 1 / np.sqrt(np.maximum(total, _CONSTANT)), 0.0)
        self._set(scale * gain, gain, -scale * coordinates * gain)

    def fit_identity(self, ratio: Float[np.ndarray, "step"]) -> None:
        """Leave ratio · z0 + ε as it is."""
        one = np.ones(self.signal.shape)
        self._set(ratio[:, None, None, None] * one, one, 0 * one)

    def _set(self, signal: np.ndarray, noise: np.ndarray, offset: np.ndarray) -> None:
        for buffer, value in ((self.signal, signal), (self.noise, noise), (self.offset, offset)):
            buffer.copy_(torch.from_numpy(value))

    def forward(
        self,
        z0: Float[Tensor, "batch channel height width"],
        noise: Float[Tensor, "batch step channel height width"] | None,
    ) -> Float[Tensor, "batch step channel height width"]:
        """Apply the weights; `noise` None means ε = 0."""
        mean: Tensor = torch.addcmul(self.offset, z0[:, None], self.signal)
        return mean if noise is None else mean.addcmul_(noise, self.noise)


class LatentFeatures(nn.Module):
    """Noisy, standardised views of latents, with a map of low DCT frequencies beside them.

    Attributes:
        config: schedule, steps and placement.
        shape: of a latent, (channel, height, width).
        channels: of a feature map: twice the latent's, or once without a DCT map.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, config: LatentConfig, shape: tuple[int, int, int]) -> None:
        """Build without statistics: `fit` or a state dict supplies them.

        Raises:
            ConfigError: the block of frequencies is larger than the latent.
        """
        super().__init__()
        if config.dct_size > min(shape[1:]):
            raise ConfigError(
                f"latents.dct_size = {config.dct_size} does not fit latents of "
                f"{shape[1]}×{shape[2]}: take {min(shape[1:])} or less"
            )
        self.config, self.shape = config, shape
        steps, channels = len(config.timesteps), shape[0]
        self.channels = channels if config.dct_placement == "none" else 2 * channels
        self.latent = Affine(steps, channels, 1)
        side = 1 if config.dct_placement == "lowpass" else config.dct_size
        self.dct = None if config.dct_placement == "none" else Affine(steps, channels, side)
        for name, length in (("rows", shape[1]), ("columns", shape[2])):
            basis = dct_basis(length, torch.empty(0))[: config.dct_size]
            self.register_buffer(name, basis, persistent=False)

    def fit(self, latent: Moments, dct: Moments) -> LatentFeatures:
        """Derive the standardisation of every step from moments of clean training latents.

        Args:
            latent: per channel, over images and positions.
            dct: per channel and coefficient, (channel, 16, 16) or any block large enough.
        """
        ratio = noise_levels(self.config.schedule, self.config.timesteps).ratio
        noisy = float(self.config.noise)
        if not self.config.standardise:
            self.latent.fit_identity(ratio)
            if self.dct is not None:
                self.dct.fit_identity(ratio)
            return self
        self.latent.fit(ratio, latent.mean, latent.variance, noisy)
        if self.dct is not None:
            self.dct.fit(ratio, *self._dct_moments(dct, noisy))
        return self

    def _dct_moments(self, dct: Moments, noisy: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean, variance and noise variance of the DCT map."""
        size = self.config.dct_size
        mean, variance = dct.mean[:, :size, :size], dct.variance[:, :size, :size]
        if self.config.dct_placement != "lowpass":
            return mean, variance, noisy
        # Parseval: a low-pass image's mean square is that of its coefficients over H·W, and
        # its mean is the first coefficient over √(H·W).
        pixels = self.shape[1] * self.shape[2]
        average = mean[:, 0, 0] / np.sqrt(pixels)
        mean_square = (variance + mean**2).sum(axis=(1, 2)) / pixels
        return average, mean_square - average**2, noisy * size**2 / pixels

    def forward(
        self,
        z0: Float[Tensor, "batch channel height width"],
        noise: Float[Tensor, "batch step channel height width"] | None,
    ) -> Float[Tensor, "batch step {self.channels} height width"]:
        """Feature maps in fp32; `noise` is ε, and must be None when the config has none."""
        if (noise is not None) != self.config.noise:
            raise ValueError("noise must be given exactly when latents.noise is true")
        z0 = z0.float()
        views: Tensor = self.latent(z0, noise)
        if self.dct is None:
            return views
        clean = self._dct_map(z0)
        noisy = None if noise is None else self._dct_map(noise)
        return torch.cat([views, self._place(self.dct(clean, noisy))], dim=2)

    def _dct_map(self, x: Float[Tensor, "*batch height width"]) -> Tensor:
        """Low coefficients, or for "lowpass" the image that has no others."""
        block = self.rows @ x @ self.columns.mT
        if self.config.dct_placement == "lowpass":
            return self.rows.mT @ block @ self.columns
        return block

    def _place(
        self, block: Float[Tensor, "batch step channel rows columns"]
    ) -> Float[Tensor, "batch step channel height width"]:
        height, width = self.shape[1:]
        if self.config.dct_placement == "corner":
            return F.pad(block, (0, width - block.shape[-1], 0, height - block.shape[-2]))
        if self.config.dct_placement == "upsampled":
            whole = F.interpolate(block.flatten(0, 1), size=(height, width), mode="nearest")
            return whole.reshape(*block.shape[:3], height, width)
        return block
