"""ONNX Runtime against torch: the same latents and activations, of views of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leakcache.encoder.autoencoder import Encoder
from leakcache.encoder.onnx_network import (
    GAIN,
    PREFERRED,
    Setting,
    cache_folder,
    choose,
    choose_fastest,
)
from leakcache.errors import ConfigError
from tests.tiny_data import kl_model, save

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def both(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        onnx = Encoder.load(str(tiny_folder), runtime="onnx")
        exported = list(cache_folder().iterdir())
        assert [file.suffix for file in exported] == [".onnx"]
        before = exported[0].stat().st_mtime_ns
        Encoder.load(str(tiny_folder), runtime="onnx")
        assert exported[0].stat().st_mtime_ns == before, "exported twice"
    return Encoder.load(str(tiny_folder)), onnx


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 96, 80), (2, 47, 66)])
def test_outputs_are_those_of_torch(both: tuple[Encoder, Encoder], shape: tuple[int, int, int]):
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)
    (latents, maps), (found, others) = (encoder.encode_with_activations(views) for encoder in both)
    assert len(others) == len(maps) == 3
    for expected, value in zip((latents, *maps), (found, *others), strict=True):
        error = (value - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert float(error) < 1e-6
    assert [encoder.runtime for encoder in both] == ["torch", "onnx"]


def test_what_onnx_cannot_run_is_refused(tiny_folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="fp32 on a CPU, not in bf16 on cpu; take --runtime tor"):
        Encoder.load(str(tiny_folder), "bf16", runtime="onnx")
    with pytest.raises(ConfigError, match="--runtime tpu: take one of torch, onnx"):
        Encoder.load(str(tiny_folder), runtime="tpu")
    with pytest.raises(ConfigError, match="not for AutoencoderKL; take --runtime torch"):
        Encoder.load(str(save(kl_model(), tmp_path / "kl")), runtime="onnx")


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
