"""Finding weights: presets, folders, files, hub ids, and what is said where there are none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from leakcache.encoder.weights import PRESETS, WEIGHTS_FILE, locate
from leakcache.errors import WeightsError


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def downloaded(hub: Path, repository: str, *files: str) -> Path:
    """Lay files out as the hub client does after a download."""
    root = hub / f"models--{repository.replace('/', '--')}"
    commit = "c" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for file in files:
        path = root / "snapshots" / commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"_class_name": "AutoencoderKL"}')
    return root / "snapshots" / commit


@pytest.mark.parametrize("preset", PRESETS)
def test_an_absent_preset_is_one_line_with_name_cure_and_way_out(preset: str) -> None:
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        locate(preset)
    assert time.monotonic() - start < 1  # the client would retry for half a minute
    message = str(caught.value)
    assert "\n" not in message
    for words in (preset, PRESETS[preset].repository, "hf download", "--vae bundled"):
        assert words in message


def test_the_message_downloads_the_autoencoder_alone_and_its_folder_is_then_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(WeightsError, match=r'--include "vae/\*" --local-dir DIR'):
        locate("sdxl")
    (tmp_path / "DIR" / "vae").mkdir(parents=True)
    (tmp_path / "DIR" / "vae" / "config.json").write_text("{}")
    (tmp_path / "DIR" / "vae" / WEIGHTS_FILE).touch()
    assert locate(str(tmp_path / "DIR")).file == tmp_path / "DIR" / "vae" / WEIGHTS_FILE


def test_what_the_hub_client_has_on_disk_needs_no_hub(tmp_path: Path) -> None:
    preset = PRESETS["sd21"]
    files = [f"vae/{name}" for name in ("config.json", WEIGHTS_FILE)]
    snapshot = downloaded(tmp_path / "hub", preset.repository, *files)
    found = locate("sd21")
    assert found.file == snapshot / "vae" / WEIGHTS_FILE
    assert (found.name, found.spec) == ("sd21", "sd21")
    assert found.source == f"hub:{preset}"


@pytest.mark.parametrize("folder", ["", "vae/"])
def test_a_hub_id_is_an_autoencoder_or_a_pipeline_that_has_one(folder: str, tmp_path: Path) -> None:
    repository = "maker/FLUX.1-schnell"
    files = [folder + name for name in ("config.json", WEIGHTS_FILE)]
    snapshot = downloaded(tmp_path / "hub", repository, *files)
    found = locate(repository)
    assert found.file == snapshot / folder / WEIGHTS_FILE
    assert found.name == "FLUX.1-schnell"


def test_an_unknown_hub_id_is_named() -> None:
    with pytest.raises(WeightsError, match=r"nobody/nothing-1\.5.*--vae bundled"):
        locate("nobody/nothing-1.5")


@pytest.mark.parametrize(
    "spec",
    ["sd99", "missing/vae.safetensors", "./missing/vae", "a/b/c", "/nowhere/vae", "a/b.ckpt"],
)
def test_what_is_neither_here_nor_a_hub_id_lists_the_choices(spec: str) -> None:
    with pytest.raises(WeightsError, match=r"no such folder.*bundled, sd21, sd15, sdxl, sd3, flux"):
        locate(spec)


def test_a_folder_needs_its_two_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json"):
        locate(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match="only safetensors are read"):
        locate(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[1]", "\x00", "null"])
def test_a_damaged_config_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / WEIGHTS_FILE).touch()
    with pytest.raises(WeightsError, match=r"config\.json: not"):
        locate(str(tmp_path))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_pickles_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"vae{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match="pickled weights are never loaded"):
        locate(str(path))


def test_a_file_takes_the_config_beside_it_and_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert locate("my.safetensors").config is None
    (tmp_path / "config.json").write_text(json.dumps({"latent_channels": 7}))
    found = locate("my.safetensors")
    assert found.config == {"latent_channels": 7}
    assert (found.name, found.spec) == ("my", str(tmp_path / "my.safetensors"))
