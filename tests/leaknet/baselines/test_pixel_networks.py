"""The networks of compared methods: sizes as published, layers as written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_baselines import CLASSES
from torch.nn import functional as F

from leakcache.store.columns import ContrastTiles
from leaknet.baselines import BASELINES
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.pixel_networks import (
    NPR,
    EfficientNetB4Scratch,
    FreqNet,
    FreqNetwork,
    NeighbourNetwork,
    NPRResized,
    ResNet50Scratch,
    SpectralConv,
    SuSy,
    SusyNetwork,
    XceptionScratch,
    channel_high_pass,
    downsampling,
    neighbour_residual,
    spatial_high_pass,
)
from leaknet.baselines.trained_network import standardised
from leaknet.metrics import closed_values

TEN = 10

COUNTS = {"train": 2, "val": 1}
OPTIONS = {"classes": CLASSES[:2]}


@pytest.mark.parametrize(
    ("network", "millions", "width"),
    [(FreqNetwork, 1.855, 512), (NeighbourNetwork, 1.442, 512), (SusyNetwork, 12.15, 256)],
)
def test_sizes_are_those_published_for_ten_classes(network, millions, width):
    torch.manual_seed(0)
    model = network(TEN).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.0005 if millions < 10 else 0.005)
    vectors, logits = model(torch.rand(2, 3, 64, 64))
    assert vectors.shape == (2, width)
    assert logits.shape == (2, TEN)


@pytest.mark.parametrize(
    ("kind", "count", "width"),
    [
        (EfficientNetB4Scratch, 17_566_546, 1792),
        (XceptionScratch, 20_827_442, 2048),
        (ResNet50Scratch, 23_528_522, 2048),
    ],
)
def test_cnns_are_those_of_timm(kind, count, width):
    names = tuple(f"generator{number}" for number in range(TEN))
    baseline = kind(names, BaselineOptions())
    assert baseline.parameters == count
    side = 64
    views = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    baseline.network.eval()
    with torch.inference_mode():
        vectors, logits = baseline.network(standardised(views))
        expected = baseline.network.network(standardised(views))
    assert vectors.shape == (2, width)
    torch.testing.assert_close(logits, expected)
    assert kind.size <= kind.cut.preprocessing.size < kind.size + 40


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_the_spatial_high_pass_is_the_written_one(channels, height, width, seed):
    x = np.random.default_rng(seed).standard_normal((1, channels, height, width))
    spectrum = np.fft.fftshift(np.fft.fft2(x, norm="ortho"), axes=(-2, -1))
    h, w = height // 2, width // 2
    spectrum[..., h - height // 4 : h + height // 4, w - width // 4 : w + width // 4] = 0
    back = np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1)), norm="ortho").real
    found = spatial_high_pass(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), back.clip(0), atol=1e-12)


def test_high_passes_lose_what_is_flat_and_keep_what_alternates():
    flat = torch.full((1, 8, 16, 16), 3.0, dtype=torch.float64)
    assert spatial_high_pass(flat).abs().max() < 1e-12
    assert channel_high_pass(flat).abs().max() < 1e-12
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = (1.0 - 2.0 * ((rows + columns) % 2)).double().expand(1, 8, 16, 16)
    torch.testing.assert_close(spatial_high_pass(board), board.clamp(min=0))
    alternating = board[:, :1, :1, :8].permute(0, 3, 1, 2).expand(1, 8, 4, 4)
    torch.testing.assert_close(channel_high_pass(alternating), alternating.clamp(min=0))


def test_a_spectral_convolution_of_identity_is_a_rectifier():
    layer = SpectralConv(3)
    with torch.no_grad():
        for convolution in (layer.real, layer.imaginary):
            convolution.weight.copy_(torch.eye(3)[..., None, None])
    x = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), F.relu(x), atol=1e-5, rtol=1e-5)


def test_neighbour_residuals_see_only_what_halving_loses():
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    blocks = x[..., ::2, ::2].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert neighbour_residual(blocks).abs().max() == 0
    torch.testing.assert_close(neighbour_residual(x), (x - blocks) * 2 / 3)


def test_susy_descends_to_seven_by_seven_at_every_tap():
    for width, side in ((64, 56), (128, 28), (256, 14)):
        assert downsampling(width).eval()(torch.zeros(1, width, side, side)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize("kind", [FreqNet, NPR, NPRResized, SuSy])
def test_every_network_runs_from_files_to_embeddings(images, kind, monkeypatch):
    monkeypatch.setattr(kind, "size", 32)
    if kind is SuSy:
        monkeypatch.setattr(SuSy, "cut", ContrastTiles(32, 2))
        monkeypatch.setattr("leaknet.baselines.pixel_networks.PROBABILITY", 1.0)
    baseline = kind(CLASSES[:2], BaselineOptions(epochs=1)).fit(images["train"], images["val"])
    e = baseline.embed(images["val"])
    assert e.logits.shape == (2, 2)
    assert 0 <= closed_values(e.logits, e.targets)["macro_auc"][0] <= 1


def test_rows_have_names_of_their_own():
    names = [kind.name for kind in BASELINES]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and " " not in name for name in names)
