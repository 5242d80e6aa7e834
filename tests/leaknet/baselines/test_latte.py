"""LATTE on a small latent diffusion model and a small ConvNeXt."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")

from tiny_baselines import CLASSES
from tiny_clip import save_diffusion

from leakcache.errors import WeightsError
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.latte import (
    CUT,
    REPOSITORY,
    TIMESTEPS,
    CrossAttentionBlock,
    Latte,
    LatteNetwork,
    warmup_cosine,
)
from leaknet.baselines.weights import count
from leaknet.features.evaluation_noise import evaluation_noise


class Small(Latte):
    name = "latte-small"
    visual = "test_convnext"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_diffusion(folder / REPOSITORY.split("/")[1])
    torch.manual_seed(0)
    network = timm.create_model("test_convnext")
    save_file(network.state_dict(), folder / "test_convnext.safetensors")
    return folder


@pytest.fixture(scope="module")
def baseline(weights, images):
    return Small(CLASSES, BaselineOptions(weights=weights, epochs=1)).fit(
        images["train"], images["val"]
    )


def test_a_trajectory_is_five_latents_one_step_back(baseline, images):
    trajectory = baseline.trajectory
    views = images["test"].pixels(CUT)[:][:, 0]
    steps = trajectory.steps(views, images["test"].hashes.tolist())
    assert steps.shape == (3, 5, 4, 28, 28)
    x = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        clean = trajectory.vae.encode(x).latent_dist.mean * trajectory.vae.config.scaling_factor
    # Next to no noise is left at t = 1, next to nothing but noise at t = 981.
    last, first = torch.from_numpy(steps[:, 4]), torch.from_numpy(steps[:, 0])
    assert (last - clean).std() < 0.1
    assert (first - clean).std() > 0.5
    assert trajectory.scheduler.timesteps.tolist()[::-1][0] == 1
    assert set(TIMESTEPS) <= set(trajectory.scheduler.timesteps.tolist())


def test_the_step_is_ddims(baseline, images):
    # z' = a' (z − s ε)/a + s' ε, with signal and noise of the step before.
    trajectory = baseline.trajectory
    views, hashes = images["test"].pixels(CUT)[:1][:, 0], images["test"].hashes[:1].tolist()
    found = trajectory.steps(views, hashes)[0, 1]
    t, signal = TIMESTEPS[1], trajectory.scheduler.alphas_cumprod.double()
    x = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z0 = trajectory.vae.encode(x).latent_dist.mean * trajectory.vae.config.scaling_factor
        noise = torch.from_numpy(evaluation_noise(0, hashes, TIMESTEPS, (4, 28, 28))[:, 1])
        z = signal[t].sqrt() * z0 + (1 - signal[t]).sqrt() * noise
        eps = trajectory.unet(z.float(), t, trajectory.prompt).sample
        clean = (z - (1 - signal[t]).sqrt() * eps) / signal[t].sqrt()
        back = signal[t - 10].sqrt() * clean + (1 - signal[t - 10]).sqrt() * eps
    np.testing.assert_allclose(found, back[0], atol=1e-4)


def test_a_trajectory_depends_on_the_image_alone(baseline, images):
    views, hashes = images["test"].pixels(CUT)[:][:, 0], images["test"].hashes.tolist()
    together = baseline.trajectory.steps(views, hashes)
    alone = baseline.trajectory.steps(views[2:], hashes[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-4)
    assert not np.allclose(
        together[2:], baseline.trajectory.steps(views[2:], hashes[:1]), atol=1e-2
    )


def test_trajectories_are_computed_once(baseline, weights, images, monkeypatch):
    expected = baseline.embed(images["test"]).logits
    again = Small(CLASSES, BaselineOptions(weights=weights, seed=5)).restore(baseline.state())
    monkeypatch.setattr(type(again.trajectory), "steps", None)
    np.testing.assert_array_equal(again.embed(images["test"]).logits, expected)


def test_shapes_and_parameters(baseline, images):
    network = LatteNetwork(10, 4 * 28 * 28, pooled=1024, local=512)
    assert count(network) == 18_165_770
    assert count(CrossAttentionBlock()) == 3_152_384
    width = 5 * 3136 + 1024 + 196 * 512
    vectors, logits = network(torch.randn(2, width))
    assert (vectors.shape, logits.shape) == ((2, 1024), (2, 10))
    with torch.device("meta"):
        stages = timm.create_model(Latte.visual).feature_info
    assert [stage["num_chs"] for stage in stages[2:]] == [512, 1024]
    assert baseline.embed(images["test"]).vectors.shape == (3, 1024)
    frozen = baseline.trajectory.parameters + count(baseline.features)
    assert baseline.parameters == count(baseline.network) + frozen


def test_each_part_of_the_input_counts():
    network = LatteNetwork(3, 16, pooled=8, local=6).eval()
    x = torch.randn(1, 5 * 16 + 8 + 4 * 6, generator=torch.manual_seed(0))
    with torch.no_grad():
        reference = network(x)[1]
        for place in (0, 5 * 16 - 1, 5 * 16, 5 * 16 + 8, x.shape[1] - 1):
            changed = x.clone()
            changed[0, place] += 3
            assert not torch.allclose(network(changed)[1], reference, atol=1e-5), place


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = [warmup_cosine(epoch, 20) for epoch in (0.0, 1.0, 2.0, 11.0, 20.0)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.5, 0], atol=1e-12)


def test_what_is_absent_is_reported_in_one_line(tmp_path, weights):
    with pytest.raises(WeightsError, match=r"vae/config\.json is missing: run `hf download"):
        Latte(CLASSES, BaselineOptions(weights=tmp_path))
    with pytest.raises(WeightsError, match=r"convnext_base.fb_in22k.safetensors is missing"):
        Latte(CLASSES, BaselineOptions(weights=weights))
