"""Covariances of activations against scipy in float64, for batches, parts and any encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import logm
from torch import Tensor

from leakcache.encoder.autoencoder import Activations, Encoder
from leakcache.images.preprocess import PARTS
from leakcache.statistics.activation_features import (
    CHANNELS,
    FLOOR,
    LEAST_VARIANCE,
    LENGTH,
    LENGTHS,
    SCALES,
    STEPS,
    activation_statistics,
)
from tests.tiny_data import kl_model, save, tiny_image, tiny_model

TOLERANCE = 1e-3
"""A fifth of the step of float16 at the largest values, which are about 10."""


def views_of(*seeds: int, size: tuple[int, int] = (96, 80)) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(tiny_image(seed, size)) for seed in seeds]))


def activations_of(encoder: Encoder, *seeds: int, size: tuple[int, int] = (96, 80)) -> Activations:
    return encoder.encode_with_activations(views_of(*seeds, size=size))[1]


def expected_family(maps: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    down, right = step
    height, width = maps.shape[1:]
    values = maps[:, down:, right:] - maps[:, : height - down, : width - right]
    values = (values if any(step) else maps).reshape(CHANNELS, -1)
    matrix = np.cov(values, bias=True)
    logarithm = logm(
        matrix + (FLOOR * np.trace(matrix) / CHANNELS + LEAST_VARIANCE) * np.eye(CHANNELS)
    )
    weighted = logarithm * np.where(np.eye(CHANNELS), 1, np.sqrt(2))
    found: np.ndarray = weighted[np.triu_indices(CHANNELS)]
    return found


def expected_parts(maps: np.ndarray, least: int) -> list[np.ndarray]:
    height, width = (max(side // 2, least) for side in maps.shape[1:])
    tops, lefts = (0, maps.shape[1] - height), (0, maps.shape[2] - width)
    corners = [(top, left) for top in tops for left in lefts]
    return [maps, *(maps[:, y : y + height, x : x + width] for y, x in corners)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(96, 80), (144, 128), (200, 152), (64, 64)])
def test_families_are_log_covariances_of_the_activations_of_each_part(
    tmp_path: Path, size: tuple[int, int], precision: str
):
    """Also where quarters overlap, and where they leave a line between them out."""
    encoder = Encoder.load(str(save(tiny_model(width=64), tmp_path / "vae")), precision)
    activations = activations_of(encoder, 1, 2, size=size)
    found = activation_statistics(activations, PARTS)
    assert found.shape == (2, PARTS, LENGTH)
    assert list(LENGTHS) == [f"{kind}_{scale}" for scale in SCALES for kind in STEPS]
    families = dict(zip(LENGTHS, found.split(list(LENGTHS.values()), dim=2), strict=True))
    for scale, maps in zip(SCALES, activations, strict=True):
        for row, image in enumerate(maps.double().numpy()):
            for part, values in enumerate(expected_parts(image, 64 // scale)):
                for kind, step in STEPS.items():
                    np.testing.assert_allclose(
                        families[f"{kind}_{scale}"][row, part],
                        expected_family(values, step),
                        atol=TOLERANCE,
                    )


def test_an_image_has_the_same_values_in_any_batch_and_with_or_without_parts(tmp_path: Path):
    encoder = Encoder.load(str(save(tiny_model(width=16), tmp_path / "vae")))
    together = activation_statistics(activations_of(encoder, 1, 2, 3), PARTS)
    for row, seed in enumerate((1, 2, 3)):
        alone = activation_statistics(activations_of(encoder, seed))
        torch.testing.assert_close(alone[0, 0], together[row, 0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", [tiny_model(width=80), tiny_model(width=8), kl_model()])
def test_encoders_of_any_kind_and_width_distinguish_textures(tmp_path: Path, model):
    encoder = Encoder.load(str(save(model, tmp_path / "vae")))
    first, again, other = activation_statistics(activations_of(encoder, 1, 1, 2))[:, 0]
    assert first.shape == (LENGTH,)
    torch.testing.assert_close(first, again, rtol=0, atol=1e-5)
    assert (first - other).abs().max() > 0.1
    blank = encoder.encode_with_activations(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))[1]
    assert activation_statistics(blank, PARTS).isfinite().all()


def test_other_widths_keep_distances(tmp_path: Path):
    """Eight channels as sixty-four: a rotation of them changes no distance of two images."""
    model = tiny_model(width=8)
    plain = Encoder.load(str(save(model, tmp_path / "plain")))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        strided = [layer for layer in model.encoder.layers if getattr(layer, "stride", 0) == (2, 2)]
        strided[-1].weight.copy_(torch.einsum("oc,cihw->oihw", turn, strided[-1].weight))
    turned = Encoder.load(str(save(model, tmp_path / "turned")))

    def distance(encoder: Encoder) -> float:
        first, other = activation_statistics(activations_of(encoder, 1, 2))[:, 0]
        return float((first - other).norm())

    assert distance(turned) == pytest.approx(distance(plain), rel=1e-3)


def test_a_view_whose_activations_are_not_finite_has_no_values_and_spoils_no_other(tmp_path: Path):
    encoder = Encoder.load(str(save(tiny_model(), tmp_path / "vae")))
    activations = activations_of(encoder, 1, 2)
    expected = activation_statistics(activations)
    broken = tuple(maps.clone() for maps in activations)
    broken[1][0, 3, 2, 2] = torch.inf
    found = activation_statistics(broken)
    assert found[0].isnan().any()
    torch.testing.assert_close(found[1], expected[1])


def test_values_stay_on_the_device_of_the_activations():
    """On torch's meta device, which refuses to mix with tensors of the CPU."""
    shapes = [(2, 80, 128 // scale, 96 // scale) for scale in SCALES]
    found = activation_statistics(tuple(torch.empty(s, device="meta") for s in shapes), PARTS)
    assert (found.device.type, found.shape) == ("meta", (2, PARTS, LENGTH))
