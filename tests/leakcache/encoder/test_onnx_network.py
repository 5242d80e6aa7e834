"""ONNX Runtime against torch: the same latents and activations, of views of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leakcache.encoder.autoencoder import Encoder
from leakcache.encoder.onnx_network import cache_folder
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
