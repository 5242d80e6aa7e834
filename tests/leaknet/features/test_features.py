"""The closed-form standardisation against moments measured on correlated latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from leakcache.errors import ConfigError
from leakcache.statistics.planes import dct_low
from leakcache.store.cache import Moments
from leaknet.config import PLACEMENTS, SCHEDULES, LatentConfig
from leaknet.features.latent_features import LatentFeatures
from leaknet.features.noise import noise_levels

SHAPE = (3, 16, 24)


def correlated_latents(count: int, seed: int = 0) -> torch.Tensor:
    """Latents with channel means, smooth spatial structure and uneven variances."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, *SHAPE, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(white, 3, stride=1, padding=1)
    mixed = torch.einsum(
        "nchw,dc->ndhw", smooth, torch.tensor([[1, 0, 0], [0.5, 2, 0], [0.0, 1, 3]])
    )
    ramp = torch.linspace(-1, 1, SHAPE[2])
    return mixed + ramp + torch.tensor([0.3, -1.0, 2.0])[:, None, None]


def moments_of(z0: torch.Tensor) -> tuple[Moments, Moments]:
    pixels = z0.permute(0, 2, 3, 1).reshape(-1, SHAPE[0]).numpy()
    return Moments.of(pixels), Moments.of(dct_low(z0, 16).numpy())


def features(config: LatentConfig, z0: torch.Tensor) -> torch.Tensor:
    layer = LatentFeatures(config, SHAPE).fit(*moments_of(z0))
    return layer(z0, noise_for(config, len(z0)) if config.noise else None)


def noise_for(config: LatentConfig, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randn(count, len(config.timesteps), *SHAPE, generator=generator)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_features_have_mean_zero_and_variance_one(schedule: str, placement: str) -> None:
    config = LatentConfig(schedule=schedule, timesteps=(0, 100, 900), dct_placement=placement)
    f = features(config, correlated_latents(3000))
    latent, dct = f[:, :, : SHAPE[0]], f[:, :, SHAPE[0] :]
    assert latent.mean(dim=(0, 3, 4)).abs().max() < 0.01
    assert (latent.var(dim=(0, 3, 4)) - 1).abs().max() < 0.02
    if placement == "none":
        assert dct.numel() == 0
    elif placement == "lowpass":
        assert dct.mean(dim=(0, 3, 4)).abs().max() < 0.02
        assert (dct.var(dim=(0, 3, 4)) - 1).abs().max() < 0.03
    else:
        block = dct[..., :8, :8] if placement == "corner" else dct[..., ::2, ::3]
        # Five standard errors over the 3 × 3 × 64 coefficients of 3,000 images.
        assert block.mean(dim=0).abs().max() < 5 / 3000**0.5
        assert (block.var(dim=0) - 1).abs().max() < 5 * (2 / 3000) ** 0.5


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_clean_features_have_mean_zero_and_variance_one(placement: str) -> None:
    config = LatentConfig(timesteps=(0,), noise=False, dct_placement=placement)
    f = features(config, correlated_latents(200))
    assert f[:, 0, :3].mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (f[:, 0, :3].var(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    if placement == "corner":
        block = f[:, 0, 3:, :8, :8]
        assert block.mean(dim=0).abs().max() < 1e-3
        assert (block.var(dim=0, correction=0) - 1).abs().max() < 1e-3
    if placement == "lowpass":
        assert (f[:, 0, 3:].var(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("placement", ["corner", "upsampled", "lowpass"])
def test_unstandardised_features_are_the_definition(placement: str) -> None:
    config = LatentConfig(
        timesteps=(5, 300), dct_placement=placement, dct_size=4, standardise=False
    )
    z0, noise = correlated_latents(2), noise_for(config, 2)
    f = features(config, z0).numpy()
    for step, ratio in enumerate(noise_levels("cosine", (5, 300)).ratio):
        z = ratio * z0.numpy() + noise[:, step].numpy()
        np.testing.assert_allclose(f[:, step, :3], z, rtol=1e-4, atol=1e-4)
        low = dctn(z, axes=(2, 3), norm="ortho")[..., :4, :4]
        padded = np.pad(low, ((0, 0), (0, 0), (0, 12), (0, 20)))
        expected = {
            "corner": padded,
            "upsampled": low.repeat(4, axis=2).repeat(6, axis=3),
            "lowpass": idctn(padded, axes=(2, 3), norm="ortho"),
        }[placement]
        np.testing.assert_allclose(f[:, step, 3:], expected, rtol=1e-3, atol=2e-3)


def test_a_constant_channel_becomes_zero_without_noise() -> None:
    z0 = correlated_latents(20)
    z0[:, 1] = 0.7
    config = LatentConfig(timesteps=(0,), noise=False)
    f = features(config, z0)
    assert torch.isfinite(f).all()
    assert f[:, :, 1].abs().max() == 0


def test_statistics_travel_in_the_state_dict() -> None:
    config = LatentConfig()
    z0, noise = correlated_latents(8), noise_for(config, 8)
    fitted = LatentFeatures(config, SHAPE).fit(*moments_of(z0))
    loaded = LatentFeatures(config, SHAPE)
    loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(loaded(z0, noise), fitted(z0, noise))


def test_half_precision_latents_give_single_precision_features() -> None:
    config = LatentConfig()
    z0, noise = correlated_latents(8), noise_for(config, 8)
    layer = LatentFeatures(config, SHAPE).fit(*moments_of(z0))
    half = layer(z0.half(), noise)
    assert half.dtype == torch.float32
    assert (half - layer(z0, noise)).abs().max() < 0.05


def test_noise_must_match_the_configuration() -> None:
    z0 = correlated_latents(2)
    with pytest.raises(ValueError, match="noise"):
        LatentFeatures(LatentConfig(), SHAPE)(z0, None)


def test_a_block_larger_than_the_latent_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"latents\.dct_size = 8 does not fit latents of 4×8"):
        LatentFeatures(LatentConfig(), (4, 4, 8))
