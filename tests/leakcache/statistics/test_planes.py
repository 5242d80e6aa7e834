"""The low-frequency DCT against scipy, and what orthonormality promises."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from leakcache.statistics.planes import dct_low, idct_low


def maps(height: int, width: int, *batch: int) -> torch.Tensor:
    return torch.randn(*batch, height, width, dtype=torch.float64)


@given(height=st.integers(1, 24), width=st.integers(1, 24), data=st.data())
def test_equals_scipy_at_any_size(height: int, width: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(height, width)))
    z = maps(height, width, 2, 3)
    expected = scipy.fft.dctn(z.numpy(), axes=(-2, -1), norm="ortho")[..., :size, :size]
    np.testing.assert_allclose(dct_low(z, size).numpy(), expected, atol=1e-12)


def test_full_transform_keeps_energy_and_inverts() -> None:
    z = maps(16, 16, 4)
    coefficients = dct_low(z, 16)
    torch.testing.assert_close(coefficients.square().sum((-2, -1)), z.square().sum((-2, -1)))
    torch.testing.assert_close(idct_low(coefficients, 16, 16), z)


def test_inverse_of_low_coefficients_is_the_low_pass_image() -> None:
    z = maps(12, 20, 2)
    padded = np.zeros((2, 12, 20))
    padded[:, :5, :5] = dct_low(z, 5).numpy()
    expected = scipy.fft.idctn(padded, axes=(-2, -1), norm="ortho")
    low = idct_low(dct_low(z, 5), 12, 20)
    np.testing.assert_allclose(low.numpy(), expected, atol=1e-12)
    # A projection: the low-pass image has the same low coefficients.
    torch.testing.assert_close(dct_low(low, 5), dct_low(z, 5))


def test_white_noise_stays_white() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 8, 8, generator=generator)
    variance = dct_low(noise, 8).var(dim=0)
    assert (variance - 1).abs().max() < 0.06


def test_keeps_the_type_of_its_input() -> None:
    assert dct_low(torch.ones(3, 8, 8), 2).dtype == torch.float32
    assert dct_low(maps(8, 8), 2).dtype == torch.float64


@pytest.mark.parametrize("size", [0, -1, 9])
def test_refuses_sizes_that_do_not_fit(size: int) -> None:
    with pytest.raises(ValueError, match=f"dct size {size} does not fit 8×10: take 1 to 8"):
        dct_low(maps(8, 10), size)
