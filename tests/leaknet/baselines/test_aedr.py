"""AEDR: ratio, homogeneity and threshold by hand; each generator by its best autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from scipy.stats import norm
from tiny_baselines import CLASSES, baseline_images
from tiny_data import save, tiny_model

from leakcache.errors import TrainingError
from leaknet.baselines.aedr import (
    ABSENT,
    AEDR,
    density_threshold,
    double_reconstruction_ratio,
    homogeneity,
)
from leaknet.baselines.autoencoders import Autoencoder
from leaknet.baselines.base import BaselineOptions


class SmallAEDR(AEDR):
    name = "small-aedr"
    side = 64


class Halving:
    """A network that halves every value of blocks of 8 by 8."""

    def encode(self, pixels):
        return AutoencoderTinyOutput(latents=pixels[..., ::8, ::8])

    def decode(self, latents):
        return DecoderOutput(sample=latents.repeat_interleave(8, 2).repeat_interleave(8, 3) / 2)


def image(levels):
    """RGB in [-1, 1] whose greys lie in the middle of these of 32 levels."""
    grey = torch.tensor(levels, dtype=torch.float32) * 8 + 4
    return (grey / 127.5 - 1).expand(1, 3, -1, -1)


def test_homogeneity_by_hand():
    # Neighbours differ by 0 and 1 in one row, by 2 and 0 in the other.
    x = image([[5, 5, 6], [9, 7, 7]])
    expected = (1 + 1 / 2 + 1 / 5 + 1) / 4
    assert homogeneity(x).item() == pytest.approx(expected)
    assert homogeneity(image([[31, 31], [31, 31]])).item() == 1


def test_the_ratio_by_hand():
    # x → x/2 → x/4: losses x²/4 and x²/16, so that their ratio is 4. Of 15 neighbours in a row
    # 14 are equal and one differs by 1.
    x = image([[5] * 8 + [6] * 8] * 8)
    found = double_reconstruction_ratio(x, Autoencoder("halving", "0", Halving()))
    assert found.item() == pytest.approx(4 * 14.5 / 15, rel=1e-4)


def test_the_threshold_is_a_quantile_of_the_density():
    values = np.random.default_rng(0).normal(5, 1, size=4000)
    assert density_threshold(values) == pytest.approx(5 + norm.ppf(0.95), abs=0.1)
    assert density_threshold(values, 0.5) == pytest.approx(5, abs=0.1)
    two = np.array([0.0, 1.0])
    width = two.std(ddof=1) * 2**-0.2
    grid = np.linspace(-two.std(ddof=1), 1 + two.std(ddof=1), 10_000)
    mass = np.cumsum(norm.pdf(grid, 0, width) + norm.pdf(grid, 1, width))
    assert density_threshold(two) == pytest.approx(np.interp(0.95, mass / mass[-1], grid))
    assert density_threshold(np.array([3.0])) == 3
    assert density_threshold(np.array([3.0, 3.0])) == 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save(tiny_model(), folder / "one")
    return folder


def test_the_sign_of_a_logit_is_the_answer(weights, tmp_path):
    train, val, test = (baseline_images(tmp_path, f, 6) for f in ("train", "val", "test"))
    options = BaselineOptions(weights=weights)
    baseline = SmallAEDR(CLASSES, options).fit(train, val)
    ratios = 10 ** baseline.measure(train)
    found = baseline.embed(train)
    for number in range(len(CLASSES)):
        own = train.targets(CLASSES) == number
        column = int(baseline.fitted["autoencoder"][number])
        limit = density_threshold(ratios[own, column])
        np.testing.assert_array_equal(found.logits[:, number] >= 0, ratios[:, column] <= limit)
        assert (found.logits[own, number] >= 0).mean() > 0.6
    again = SmallAEDR(CLASSES, options).restore(baseline.state())
    np.testing.assert_array_equal(again.embed(test).logits, baseline.embed(test).logits)
    assert baseline.embed(test).vectors.shape == (18, len(baseline.autoencoders))


def test_classes_without_images(weights, tmp_path):
    known = (*CLASSES, "eve")
    train, val = baseline_images(tmp_path, "train", 2), baseline_images(tmp_path, "val", 0)
    baseline = SmallAEDR(known, BaselineOptions(weights=weights)).fit(train, val)
    assert (baseline.embed(train).logits[:, 3] < ABSENT / 2).all()
    single = baseline_images(tmp_path / "single", "train", 2, classes=("ada",))
    with pytest.raises(TrainingError, match="fewer than two classes"):
        SmallAEDR(CLASSES, BaselineOptions(weights=weights)).fit(single, val)
