"""Autoencoders (encoder and decoder) for baselines that measure reconstruction errors.

The bundled one is always available. With --weights, so is every autoencoder in that folder (a
diffusers folder, or a .safetensors file in TAESD's layout); otherwise, those of TAESD's family on
the hub or in its local cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from leakcache.encoder.weights import BUNDLED, WEIGHTS_FILE, locate
from leakcache.errors import WeightsError
from leaknet.baselines.weights import count, fingerprint, frozen

Images = Float[Tensor, "image 3 height width"]

KINDS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
HUB = ("taesd", "taesdxl", "madebyollin/taesd3", "madebyollin/taef1")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Autoencoder:
    """A frozen autoencoder.

    Attributes:
        name: letters, digits and dashes.
        sha256: of its tensors, so equal weights have equal hashes.
        network: the diffusers model.
    """

    name: str
    sha256: str
    network: Any

    @property
    def parameters(self) -> int:
        """Number of weights of encoder and decoder."""
        return count(self.network)

    def encode(self, pixels: Images) -> Float[Tensor, "image channel height/8 width/8"]:
        """Latents (posterior mean) of RGB in [-1, 1], in the decoder's scale."""
        output = self.network.encode(pixels)
        latents: Tensor = output.latents if "latents" in output else output.latent_dist.mean
        return latents

    def decode(self, latents: Float[Tensor, "image channel rows columns"]) -> Images:
        """RGB, roughly in [-1, 1]; differentiable with respect to the latents."""
        pixels: Tensor = self.network.decode(latents).sample
        return pixels

    @torch.inference_mode()
    def reconstruct(self, pixels: Images) -> Images:
        """D(E(x)), clipped to [-1, 1]."""
        return self.decode(self.encode(pixels)).clamp(-1, 1)


def available_autoencoders(
    weights: Path | None, device: torch.device = CPU
) -> tuple[Autoencoder, ...]:
    """Every available autoencoder once, the bundled one first.

    Raises:
        WeightsError: an autoencoder in the folder of local weights cannot be read.
    """
    others = _in_folder(weights) if weights is not None else _on_hub()
    chosen: dict[str, Autoencoder] = {}
    for name, network in (("bundled", _from_folder(BUNDLED)), *others):
        sha256 = fingerprint(network)
        if sha256 not in chosen:
            # Convolutions are faster in channels-last order.
            ready = frozen(network, device).to(memory_format=torch.channels_last)
            chosen[sha256] = Autoencoder(_plain(name), sha256, ready)
    return tuple(chosen.values())


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _in_folder(weights: Path) -> Iterator[tuple[str, Any]]:
    if not weights.is_dir():
        raise WeightsError(f"{weights} is not a folder: give the folder of local weights")
    for path in sorted(weights.iterdir()):
        if path.suffix == ".safetensors" and _is_whole(path):
            yield path.stem, _from_file(path)
        for folder in (path, path / "vae"):
            if _kind(folder) in KINDS:
                yield path.name, _from_folder(folder)


def _on_hub() -> Iterator[tuple[str, Any]]:
    for spec in HUB:
        try:
            weights = locate(spec)
        except WeightsError:
            continue
        yield weights.name, _from_folder(weights.file.parent)


def _is_whole(path: Path) -> bool:
    """Whether a file contains an encoder and a decoder."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    return {"encoder", "decoder"} <= {key.partition(".")[0] for key in keys}


def _kind(folder: Path) -> str | None:
    config = folder / "config.json"
    if not (config.is_file() and (folder / WEIGHTS_FILE).is_file()):
        return None
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{config}: not the configuration of a model ({error})") from error
    return str(kind)


def _from_folder(folder: Path) -> Any:
    kind = KINDS[_kind(folder) or ""]
    try:
        # low_cpu_mem_usage needs the package accelerate and warns without it.
        return kind.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder}: cannot be loaded ({_one_line(error)})") from error


def _from_file(path: Path) -> Any:
    tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    last = tensors.get("decoder.layers.0.weight")
    network = AutoencoderTiny(latent_channels=4 if last is None else last.shape[1])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: not in the layout of TAESD; give the diffusers folder with its config.json"
        ) from error
    return network


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
