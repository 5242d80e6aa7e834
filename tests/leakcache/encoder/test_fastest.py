"""The choice of runtime and precision: torch in fp32 unless another is clearly faster."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.encoder.onnx_network import GAIN, PREFERRED, Setting, choose, choose_fastest
from tests.tiny_data import kl_model, save

FP32, ONNX, BF16 = PREFERRED


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({FP32: 10.0, BF16: 10 * GAIN}, BF16),
        ({FP32: 10.0, BF16: 10 * GAIN - 0.1}, FP32),
        ({FP32: 10.0, BF16: 3.0}, FP32),
        ({FP32: 10.0, ONNX: 20.0, BF16: 21.0}, ONNX),
        ({FP32: 10.0, ONNX: 11.0, BF16: 12.0}, BF16),
    ],
)
def test_a_setting_has_to_be_clearly_faster(rates: dict[Setting, float], expected: Setting):
    found = choose(rates)
    assert (found.runtime, found.precision) == expected


def test_a_measured_choice_says_all_rates(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = choose_fastest(str(tiny_folder), runtime="torch", seconds=0.0)
    assert (found.runtime, found.precision) in (FP32, BF16)
    assert all(rate > 0 for rate in found.per_second.values())
    for words in (f"torch {found.precision}: ", "torch fp32 ", "torch bf16 ", "views of 256 pixel"):
        assert words in str(found)


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_fp16_leaves_nothing_to_measure(tiny_folder: Path, runtime: str):
    found = choose_fastest(str(tiny_folder), runtime=runtime, precision="fp16")
    assert (found.runtime, found.precision, found.per_second) == ("torch", "fp16", {})


def test_a_kl_autoencoder_is_never_timed_under_onnx(tmp_path: Path):
    found = choose_fastest(str(save(kl_model(), tmp_path)), precision="fp32")
    assert (found.runtime, found.per_second) == ("torch", {})


def test_onnx_is_timed_where_it_can_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = choose_fastest(str(tiny_folder), precision="fp32", seconds=0.0)
    assert set(found.per_second) == {FP32, ONNX}
