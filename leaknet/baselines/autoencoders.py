"""Whole autoencoders, encoder and decoder, that reconstruction is measured with.

At hand are, always, the bundled one; with --weights every autoencoder in that folder (a diffusers
folder, or a bare .safetensors file in the layout of TAESD); else those of TAESD's family that the
hub, or its cache on this disk, gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from leakcache.encoder.weights import BUNDLED, WEIGHTS_FILE, locate
from leakcache.errors import WeightsError
from leakcache.store.array_store import Rows, RowSpec
from leakcache.store.views import CROPS
from leaknet.baselines.images import BaselineImages
from leaknet.baselines.weights import count, fingerprint, frozen

KINDS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
HUB = ("taesd", "taesdxl", "madebyollin/taesd3", "madebyollin/taef1")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reconstructor:
    """An autoencoder without gradients of its own.

    Attributes:
        name: letters, digits and dashes.
        sha256: of its tensors; equal for every file that holds the same weights.
        network: diffusers' model.
    """

    name: str
    sha256: str
    network: Any

    @property
    def parameters(self) -> int:
        """Of encoder and decoder."""
        return count(self.network)

    def encode(
        self, pixels: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """Latents as the decoder takes them, from RGB in -1 to 1; the posterior's mean."""
        found = self.network.encode(pixels)
        latents: Tensor = found.latents if "latents" in found else found.latent_dist.mean
        return latents

    def decode(
        self, latents: Float[Tensor, "image channel rows columns"]
    ) -> Float[Tensor, "image 3 height width"]:
        """RGB, around -1 to 1; gradients flow to the latents."""
        pixels: Tensor = self.network.decode(latents).sample
        return pixels

    @torch.inference_mode()
    def reconstruct(
        self, pixels: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image 3 height width"]:
        """D(E(x)), clipped to -1 to 1."""
        return self.decode(self.encode(pixels)).clamp(-1, 1)


def at_hand(weights: Path | None, device: torch.device = CPU) -> tuple[Reconstructor, ...]:
    """Every autoencoder that can be had, each once, the bundled one first.

    Raises:
        WeightsError: one in the folder of local weights cannot be read.
    """
    others = _in_folder(weights) if weights is not None else _on_hub()
    chosen: dict[str, Reconstructor] = {}
    for name, network in (("bundled", _from_folder(BUNDLED)), *others):
        sha256 = fingerprint(network)
        if sha256 not in chosen:
            # Channels last is the faster order, and the one that pixels come in.
            ready = frozen(network, device).to(memory_format=torch.channels_last)
            chosen[sha256] = Reconstructor(_plain(name), sha256, ready)
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
    """Whether a file holds an encoder and a decoder; one that is no autoencoder's holds neither."""
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
        # The sparing way of loading needs a package of its own, and warns where it is not there.
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


# What autoencoders lose of a picture, measured once an image and kept.

NATIVE = 256
"""Side of the central native crop that is measured: resizing takes most of the trace."""
AT_ONCE = 8
"""Images that go through an autoencoder at once."""

Measure = Callable[
    [Float[Tensor, "image 3 side side"], Reconstructor], Shaped[Tensor, "image *row"]
]
"""From RGB in -1 to 1, on the autoencoder's device, to one row an image."""


def measured(
    images: BaselineImages,
    autoencoder: Reconstructor,
    measure: Measure,
    spec: tuple[str, tuple[int, ...], str],
    *,
    side: int = NATIVE,
    **depends: Any,
) -> Rows:
    """Rows of one measurement by one autoencoder on the central native crop, kept by content.

    Args:
        images: what is measured.
        autoencoder: with what.
        measure: gives the rows of a batch.
        spec: name, shape and type of a row.
        side: of the crop in pixels, a multiple of 8 up to `NATIVE`.
        depends: settings that the measurement depends on.
    """
    name, shape, dtype = spec
    settings = {"autoencoder": autoencoder.sha256, "side": side, **depends}
    crops = images.pixels(CROPS)

    def compute(rows: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        parts = [
            measure(pixels, autoencoder).cpu().numpy()
            for pixels in _batches(crops, rows, side, autoencoder)
        ]
        return np.concatenate(parts).astype(dtype)

    full = f"{name}-{autoencoder.name}-{autoencoder.sha256[:8]}"
    return images.derived(RowSpec(full, shape, dtype, settings), compute)


def _batches(
    crops: Rows, rows: Int[np.ndarray, "k"], side: int, autoencoder: Reconstructor
) -> Iterator[Float[Tensor, "image 3 side side"]]:
    device = next(autoencoder.network.parameters()).device
    corner = (NATIVE - side) // 2
    inner = slice(corner, corner + side)
    for start in range(0, len(rows), AT_ONCE):
        # The first of several crops is the central one.
        views = crops[rows[start : start + AT_ONCE]][:, 0, inner, inner]
        pixels = torch.from_numpy(np.ascontiguousarray(views)).to(device)
        yield pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
