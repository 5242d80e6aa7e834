"""LatentTracer and AEDR: losses, ratio and threshold by hand; each generator by its best model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from safetensors.torch import load_file, save_file
from scipy.stats import norm
from tiny_baselines import CLASSES, baseline_images
from tiny_data import kl_model, save, tiny_model

from leakcache.errors import TrainingError, WeightsError
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.tracing import (
    ABSENT,
    AEDR,
    LatentTracer,
    LatentTracerResidual,
    density_threshold,
    double_reconstruction_ratio,
    homogeneity,
    inversion_losses,
    residual,
)
from leaknet.baselines.weights import (
    Autoencoder,
    available_autoencoders,
    count,
    fingerprint,
    frozen,
)

CPU = torch.device("cpu")


class Short(LatentTracer):
    """Two steps on a crop of 32."""

    name = "latenttracer-short"
    steps = 2
    side = 32


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a tiny autoencoder, a KL one in `vae`, and a file that is none."""
    folder = tmp_path_factory.mktemp("weights")
    save(tiny_model(), folder / "small.one")
    save(kl_model(), folder / "pipeline" / "vae")
    save_file({"head.weight": torch.zeros(2)}, folder / "other.safetensors")
    return folder


def pixels(number=2, side=32):
    return torch.rand(number, 3, side, side, generator=torch.manual_seed(0)) * 2 - 1


def reconstructor(network):
    return Autoencoder("one", fingerprint(network), frozen(network, CPU))


def test_every_autoencoder_of_the_folder_is_at_hand_once(weights, tmp_path):
    found = available_autoencoders(weights)
    assert [one.name for one in found] == ["bundled", "pipeline", "small-one"]
    assert len({one.sha256 for one in found}) == 3
    save(tiny_model(), tmp_path / "copy")
    save(tiny_model(), tmp_path / "same")
    assert [one.name for one in available_autoencoders(tmp_path)] == ["bundled", "copy"]


def test_without_any_the_bundled_one_is_left(tmp_path):
    assert [one.name for one in available_autoencoders(tmp_path)] == ["bundled"]
    with pytest.raises(WeightsError, match="is not a folder"):
        available_autoencoders(tmp_path / "nowhere")


def test_broken_weights_are_refused_in_one_line(tmp_path):
    save_file(
        {"encoder.x": torch.zeros(1), "decoder.layers.0.weight": torch.zeros(8, 4, 3, 3)},
        tmp_path / "odd.safetensors",
    )
    with pytest.raises(WeightsError, match="not in the layout of TAESD"):
        available_autoencoders(tmp_path)
    (tmp_path / "odd.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        available_autoencoders(tmp_path)


def test_real_bare_files_are_read(shared):
    found = {one.name: one for one in available_autoencoders(shared / "weights")}
    assert set(found) == {"bundled", "taesd", "taesd-3", "taesd-f", "taesd-xl"}
    assert found["taesd-3"].encode(pixels(1)).shape == (1, 16, 4, 4)
    assert found["taesd"].parameters == 2_445_063
    tensors = load_file(shared / "weights" / "taesd.safetensors")
    reference = AutoencoderTiny()
    reference.load_state_dict({key: value.float() for key, value in tensors.items()})
    with torch.no_grad():
        latents = reference.eval().encode(pixels(1)).latents
        expected = reference.decode(latents).sample.clamp(-1, 1)
    reconstructed = found["taesd"].reconstruct(pixels(1))
    torch.testing.assert_close(reconstructed, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [tiny_model, kl_model])
def test_inversion_lowers_the_loss_and_starts_at_the_reconstruction(model):
    one = reconstructor(model())
    x = pixels()
    losses = inversion_losses(x, one, 20)
    with torch.no_grad():
        expected = (one.decode(one.encode(x)) - x).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses[:, 0], expected)
    assert (losses[:, 1] < losses[:, 0]).all()


def test_an_image_that_the_decoder_made_is_found_again():
    one = reconstructor(tiny_model())
    with torch.no_grad():
        own = one.decode(one.encode(pixels(1)) + 0.3).clamp(-1, 1)
    other = pixels(1).flip(0)
    losses = inversion_losses(torch.cat([own, other]), one, 30)
    assert losses[0, 1] < 0.1 * losses[1, 1]


def test_losses_do_not_depend_on_the_batch():
    one = reconstructor(tiny_model())
    together, alone = inversion_losses(pixels(3), one, 3), inversion_losses(pixels(3)[1:2], one, 3)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-6)


def test_latenttracer_learns_and_restores_and_computes_each_loss_once(weights, images, monkeypatch):
    baseline = Short(CLASSES, BaselineOptions(weights=weights)).fit(images["train"], images["val"])
    found = baseline.embed(images["test"])
    assert found.vectors.shape == (3, 6)
    assert baseline.parameters == sum(one.parameters for one in baseline.autoencoders) + 7 * 3
    again = Short(CLASSES, BaselineOptions(weights=weights)).restore(baseline.state())
    monkeypatch.setattr(again, "errors", again.embed)
    assert (again.embed(images["test"]).logits == found.logits).all()


def test_the_residual_is_what_is_lost():
    one = reconstructor(tiny_model())
    x = pixels()
    lost = residual(x, one).permute(0, 3, 1, 2) / 127.5
    inside = lost.abs() < 0.99
    assert (lost + one.reconstruct(x) - x)[inside].abs().max() <= 0.51 / 127.5


def test_row_b_has_three_channels_an_autoencoder_and_runs(weights, images):
    baseline = LatentTracerResidual(CLASSES, BaselineOptions(weights=weights, epochs=0))
    own = sum(one.parameters for one in baseline.autoencoders)
    # ResNet-18 has 11,176,512 without classifier; its stem sees 9 channels instead of 3.
    assert count(baseline.network) == 11_176_512 + 6 * 64 * 49 + 513 * 3
    assert baseline.parameters == count(baseline.network) + own
    rows = baseline.rows(images["test"])
    assert rows.shape == (3, 1, 256, 256, 9)
    views = rows[np.arange(2)][:, 0]
    central = baseline.prepare(views, None)
    assert central.shape == (2, 9, 224, 224)
    corner = torch.from_numpy(views[0, 16, 16]).float() / 16
    torch.testing.assert_close(central[0, :, 0, 0], corner)
    drawn = baseline.prepare(views, np.random.default_rng(0))
    assert not torch.equal(drawn, central)
    vectors, logits = baseline.network.eval()(central)
    assert (vectors.shape, logits.shape) == ((2, 512), (2, 3))


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
def aedr_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save(tiny_model(), folder / "one")
    return folder


def test_the_sign_of_a_logit_is_the_answer(aedr_weights, tmp_path):
    train, val, test = (baseline_images(tmp_path, f, 6) for f in ("train", "val", "test"))
    options = BaselineOptions(weights=aedr_weights)
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


def test_classes_without_images(aedr_weights, tmp_path):
    known = (*CLASSES, "eve")
    train, val = baseline_images(tmp_path, "train", 2), baseline_images(tmp_path, "val", 0)
    baseline = SmallAEDR(known, BaselineOptions(weights=aedr_weights)).fit(train, val)
    assert (baseline.embed(train).logits[:, 3] < ABSENT / 2).all()
    single = baseline_images(tmp_path / "single", "train", 2, classes=("ada",))
    with pytest.raises(TrainingError, match="fewer than two classes"):
        SmallAEDR(CLASSES, BaselineOptions(weights=aedr_weights)).fit(single, val)
