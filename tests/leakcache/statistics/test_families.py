"""Each family against scipy or a closed form, and all of them on views that are hard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.linalg import logm
from scipy.signal import correlate2d

from leakcache.statistics.patch_covariance import (
    FLOOR,
    NORMALISED_FLOOR,
    colour_covariance,
    luma_covariance,
    normalised_luma,
    normalised_residual,
    odd_luma,
)
from leakcache.statistics.patch_covariance import log_covariance as patch_covariances
from leakcache.statistics.pixel_families import (
    BINS,
    EDGES,
    HALF,
    cooccurrence,
    dct_correlation,
    dct_histogram,
    residual_spectrum,
)
from leakcache.statistics.pixel_features import (
    FAMILIES,
    LENGTH,
    LENGTHS,
    Family,
    pixel_statistics,
)
from leakcache.statistics.planes import Planes
from leakcache.statistics.planes import amplitudes as block_amplitudes
from leakcache.statistics.planes import luma_chroma as luma_chroma_planes
from leakcache.statistics.planes import residuals as high_pass
from leakcache.statistics.rows import Parts


def of(family: Family, view: np.ndarray) -> np.ndarray:
    """A family of one view."""
    found: np.ndarray = family(Planes(torch.from_numpy(view)[None]))[0, 0].numpy()
    return found


def statistics(view: np.ndarray, parts: int = 1) -> np.ndarray:
    found: np.ndarray = pixel_statistics(torch.from_numpy(view)[None], parts)[0].numpy()
    return found


def luma_chroma(view: np.ndarray) -> np.ndarray:
    found: np.ndarray = luma_chroma_planes(torch.from_numpy(view)[None])[0].numpy()
    return found


def amplitudes(planes: np.ndarray, side: int) -> np.ndarray:
    """Of each plane, by block and frequency."""
    found = block_amplitudes(torch.from_numpy(planes)[None], side)[0].flatten(0, 1)
    return found.unflatten(1, (len(planes), side**2)).transpose(0, 1).numpy()


def residuals(planes: np.ndarray, limit: float) -> np.ndarray:
    found: np.ndarray = high_pass(torch.from_numpy(planes)[None], limit)[0].numpy()
    return found


def log_covariance(planes: np.ndarray, side: int, contrast: float | None = None) -> np.ndarray:
    tensor = torch.from_numpy(planes)[None]
    whole = Parts.whole(*planes.shape[1:])
    found: np.ndarray = patch_covariances(tensor, whole, side, contrast)[0, 0].numpy()
    return found


def noise(height: int = 80, width: int = 104, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(plane).astype(np.uint8)[..., None], 3, axis=2)


def slow_amplitudes(plane: np.ndarray, side: int) -> np.ndarray:
    rows, columns = (size // side * side for size in plane.shape)
    return np.array(
        [
            np.abs(dctn(plane[y : y + side, x : x + side], norm="ortho")).ravel()
            for y in range(0, rows, side)
            for x in range(0, columns, side)
        ]
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(64, 150), st.integers(64, 150), st.integers(0, 9))
def test_vectors_are_finite_and_of_one_length_whatever_the_view(height, width, seed):
    view = noise(height, width, seed)
    for name, (family, length) in FAMILIES.items():
        found = of(family, view)
        assert found.dtype == np.float32, name
        assert np.isfinite(found).all(), name
        assert found.shape == (length,), name
    assert statistics(view).shape == (1, LENGTH)
    assert sum(LENGTHS.values()) == LENGTH


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_blank_views_are_finite(level):
    found = statistics(np.full((64, 70, 3), level, np.uint8))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 100


def test_a_view_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="too small"):
        statistics(noise(63, 64))


@pytest.mark.parametrize("family", [f for f, _ in FAMILIES.values()], ids=FAMILIES.keys())
def test_statistics_hardly_depend_on_the_size_of_the_view(family):
    """White noise: a quarter of the view gives the same values, up to their spread."""
    whole, part = of(family, noise(256, 256)), of(family, noise(128, 128, seed=1))
    assert np.abs(whole - part).mean() < 0.12 * max(1.0, np.abs(whole).mean())


def test_luma_and_chroma_are_those_of_jfif():
    view = np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(
        luma_chroma(view)[:, 0],
        [[255, 76.245, 29.07], [0, -43.03, 127.5], [0, 127.5, -20.73]],
        atol=0.01,
    )


@pytest.mark.parametrize("side", [8, 16])
def test_amplitudes_are_those_of_scipy(side):
    planes = luma_chroma(noise())
    for found, plane in zip(amplitudes(planes, side), planes, strict=True):
        np.testing.assert_allclose(found, slow_amplitudes(plane, side), atol=1e-2)


def test_histograms_are_those_of_numpy():
    found = of(dct_histogram, noise()).reshape(3, 64, BINS)
    np.testing.assert_allclose((found**2).sum(-1), 1, atol=1e-5)
    d = np.log1p(slow_amplitudes(luma_chroma(noise())[1], 8)[:, 7])
    expected, _ = np.histogram(d, [0, *EDGES, np.inf])
    np.testing.assert_allclose(found[1, 7] ** 2 * len(d), expected, atol=1e-3)


def test_correlations_are_those_of_numpy():
    found = of(dct_correlation, noise())
    logs = np.log1p(slow_amplitudes(luma_chroma(noise())[0], 8))
    expected = np.corrcoef(logs.T)[np.triu_indices(64)]
    np.testing.assert_allclose(found[:-64], expected, atol=1e-4)
    np.testing.assert_allclose(found[-64:], logs.std(0), rtol=1e-4)


def test_residuals_are_those_of_a_convolution():
    plane = luma_chroma(noise())[:1]
    kernel = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])
    expected = correlate2d(plane[0], kernel, "same", "symm").clip(-20, 20)
    np.testing.assert_allclose(residuals(plane, 20.0)[0], expected, atol=1e-3)


def test_a_lattice_of_eight_pixels_is_a_peak_at_an_eighth():
    generator = np.random.default_rng(0)
    plane = 128 + generator.normal(0, 2, (128, 128))
    plane[:, ::8] += 6
    found = of(residual_spectrum, grey(plane)).reshape(3, HALF, HALF)[0]
    assert (found[0, [8, 16, 24]] > found[0, [7, 15, 23]] + 1).all()
    assert (found[0, [8, 16, 24]] > found[0, [9, 17, 25]] + 1).all()


def test_the_spectrum_of_white_noise_is_that_of_the_filter():
    generator = np.random.default_rng(0)
    plane = grey(128 + generator.normal(0, 3, (512, 512)))
    found = of(residual_spectrum, plane).reshape(3, HALF, HALF)[0]
    u, v = np.meshgrid(np.arange(HALF), np.arange(HALF), indexing="ij")
    gain = 1 - (np.cos(2 * np.pi * u / 64) + np.cos(2 * np.pi * v / 64)) / 2
    expected = np.log((9 + 1 / 12) * gain**2 + 1e-4)
    assert np.abs(found - expected)[gain > 0.2].max() < 0.6
    assert np.abs(found - expected)[gain > 0.2].mean() < 0.12


def test_spectra_do_not_see_which_way_is_left():
    view = noise(64, 64)
    plane = of(residual_spectrum, view)
    np.testing.assert_allclose(of(residual_spectrum, view[:, ::-1].copy()), plane, atol=1e-3)


def test_co_occurrences_are_counted_triples():
    view = grey(np.tile(np.arange(0, 64 * 2, 2), (64, 1)))  # +2 along rows, 0 along columns
    shares = np.exp(of(cooccurrence, view).reshape(3, 7, 7, 7)) - 1e-5
    assert shares[0, 4, 4, 4] == pytest.approx(0.5, abs=1e-4)
    assert shares[0, 3, 3, 3] == pytest.approx(0.5, abs=1e-4)
    assert shares[1, 3, 3, 3] == pytest.approx(1, abs=1e-4)
    assert shares.sum() == pytest.approx(3, abs=1e-3)


def test_log_covariances_are_those_of_scipy():
    planes = luma_chroma(noise())[:1]
    patches = np.lib.stride_tricks.sliding_window_view(planes[0], (3, 3))[::2, ::2].reshape(-1, 9)
    patches = patches - patches.mean(1, keepdims=True)
    expected = logm(np.cov(patches.T, bias=True) + FLOOR * np.eye(9))
    rows, columns = np.triu_indices(9)
    scale = np.where(rows == columns, 1, np.sqrt(2))
    np.testing.assert_allclose(
        log_covariance(planes, 3), scale * expected[rows, columns], atol=1e-2
    )


def test_normalised_covariances_are_those_of_scipy():
    planes = luma_chroma(noise())[:1]
    patches = np.lib.stride_tricks.sliding_window_view(planes[0], (3, 3))[::2, ::2].reshape(-1, 9)
    patches = patches - patches.mean(1, keepdims=True)
    patches = patches / np.sqrt((patches**2).mean(1, keepdims=True))
    expected = logm(np.cov(patches.T, bias=True) + NORMALISED_FLOOR * np.eye(9))
    rows, columns = np.triu_indices(9)
    scale = np.where(rows == columns, 1, np.sqrt(2))
    found = log_covariance(planes, 3, contrast=1e-6)
    np.testing.assert_allclose(found, scale * expected[rows, columns], atol=1e-2)


def test_normalised_families_do_not_see_contrast():
    """A busy half of the image says as much about its texture as a quiet half."""
    generator = np.random.default_rng(0)
    texture = generator.normal(0, 6, (128, 256))
    texture = texture + np.roll(texture, 1, axis=1)
    even = grey(128 + texture)
    strong = np.where(np.arange(256) < 128, 0.5, 2.5)
    uneven = grey(128 + strong * texture)
    for normalised, plain in (
        (normalised_luma, luma_covariance),
        (normalised_residual, luma_covariance),
        (odd_luma, luma_covariance),
    ):
        moved, as_it_is = (np.abs(of(f, even) - of(f, uneven)).mean() for f in (normalised, plain))
        assert moved < 0.5 * as_it_is


def test_odd_patches_see_what_even_ones_do_one_pixel_on():
    """Rows and columns that a doubling repeats look otherwise from the odd ones."""
    doubled = grey(np.kron(np.random.default_rng(0).integers(0, 256, (64, 64)), np.ones((2, 2))))
    plain = grey(np.random.default_rng(1).integers(0, 256, (128, 128)))
    one_on = log_covariance(luma_chroma(doubled[1:, 1:])[:1], 7, contrast=4.0)
    np.testing.assert_allclose(of(odd_luma, doubled), one_on, atol=1e-5)
    moves = [
        np.abs(of(odd_luma, view) - log_covariance(luma_chroma(view)[:1], 7, contrast=4.0)).mean()
        for view in (doubled, plain)
    ]
    assert moves[0] > 10 * moves[1]


def test_equal_colours_have_no_covariance_between_channels_beyond_their_own():
    found = of(colour_covariance, grey(np.random.default_rng(0).integers(0, 256, (80, 80))))
    matrix = np.zeros((27, 27))
    matrix[np.triu_indices(27)] = found
    # Differences of channels never occur, so 18 of 27 directions have the floor for variance.
    off = np.triu(matrix, 1) / np.sqrt(2)
    values = np.linalg.eigvalsh(np.diag(np.diag(matrix)) + off + off.T)
    np.testing.assert_allclose(values[:18], np.log(FLOOR), atol=0.3)
    assert values[19] > 5


def crops(view: np.ndarray) -> list[np.ndarray]:
    """The whole and its corners: half as wide and high, at least 64, on multiples of 8."""
    height, width = (max(side // 16 * 8, 64) for side in view.shape[:2])
    down, right = ((view.shape[0] - height) // 8 * 8, (view.shape[1] - width) // 8 * 8)
    corners = ((0, 0), (0, right), (down, 0), (down, right))
    return [view, *(view[y : y + height, x : x + width].copy() for y, x in corners)]


@pytest.mark.parametrize("size", [(256, 256), (192, 150), (101, 64), (64, 64), (330, 251)])
def test_parts_have_the_values_of_their_crops_alone(size):
    """Whatever is shared between the whole and its quarters, and where quarters overlap."""
    generator = np.random.default_rng(0)
    smooth = np.kron(generator.integers(0, 200, (12, 12, 3)), np.ones((31, 31, 1)))
    view = (smooth[: size[0], : size[1]] + generator.integers(0, 56, (*size, 3))).astype(np.uint8)
    found = statistics(view, parts=5)
    for values, crop in zip(found, crops(view), strict=True):
        np.testing.assert_allclose(values, statistics(crop)[0], rtol=1e-4, atol=2e-3)


def test_a_view_has_the_same_values_in_any_batch():
    views = np.stack([noise(96, 80, seed) for seed in range(3)])
    together = pixel_statistics(torch.from_numpy(views), parts=5).numpy()
    for view, values in zip(views, together, strict=True):
        np.testing.assert_allclose(values, statistics(view, parts=5), rtol=1e-4, atol=2e-3)


def test_luma_is_rounded_as_by_fused_multiply_adds():
    """Grey levels one apart differ by one to the last digit or not at all: ties are ties."""
    view = noise(64, 64)
    exact = view.astype(np.float64)
    weights = np.array([0.299, 0.587, 0.114], np.float32).astype(np.float64)
    expected = (weights[0] * exact[..., 0]).astype(np.float32)
    for weight, colour in zip(weights[1:], (exact[..., 1], exact[..., 2]), strict=True):
        expected = (expected + weight * colour).astype(np.float32)
    np.testing.assert_array_equal(luma_chroma(view)[0], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_values_stay_on_the_device_of_the_views(name: str):
    """On torch's meta device, which refuses to mix with tensors of the CPU."""
    if name in ("dct_histogram", "cooccurrence"):
        pytest.skip("torch counts on real devices only")
    family, length = FAMILIES[name]
    views = torch.empty(2, 128, 96, 3, dtype=torch.uint8, device="meta")
    found = family(Planes(views, parts=5))
    assert (found.device.type, found.shape) == ("meta", (2, 5, length))
