"""Pretrained weights from --weights or the hub, safetensors only; frozen networks, autoencoders."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from leakcache.encoder.weights import BUNDLED, WEIGHTS_FILE, answers, locate
from leakcache.errors import WeightsError


def model_folder(repository: str, files: Sequence[str], weights: Path | None) -> Path:
    """The folder with these files of a repository.

    Args:
        repository: id on the hub; in `weights` its folder has the name after the slash.
        files: required paths in the repository.
        weights: folder of local weights; None for the hub or its local cache.

    Raises:
        WeightsError: a file is missing and cannot be fetched.
    """
    if weights is not None:
        folder = weights / repository.rpartition("/")[2]
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise WeightsError(
                f"{folder / missing[0]} is missing: run `hf download {repository} "
                f"--local-dir {folder}` where there is a network"
            )
        return folder
    return _from_hub(repository, files)


def _from_hub(repository: str, files: Sequence[str]) -> Path:
    from huggingface_hub import constants

    try:
        return _fetched(repository, files, local=True)
    except (OSError, ValueError):
        online = not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)
    reason = "the hub cannot be reached"
    try:
        if online:
            return _fetched(repository, files, local=False)
    except (OSError, ValueError) as error:
        reason = f"the hub says {type(error).__name__}"
    raise WeightsError(
        f"{repository} is not on this disk and {reason}: run `hf download {repository} "
        f"--local-dir DIR/{repository.rpartition('/')[2]}` where there is a network and pass "
        "--weights DIR"
    )


def _fetched(repository: str, files: Sequence[str], *, local: bool) -> Path:
    from huggingface_hub import hf_hub_download

    paths = [Path(hf_hub_download(repository, file, local_files_only=local)) for file in files]
    return paths[0].parents[files[0].count("/")]


def transformers(method: str) -> Any:
    """The optional package transformers; raises WeightsError if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise WeightsError(
            f"{method} needs transformers, which is not installed: `pip install 'leaknet[clip]'`"
        ) from error


def load_model(kind: Any, folder: Path, **options: Any) -> Any:
    """A model or tokenizer of diffusers or transformers from a local folder, without pickles.

    Raises:
        WeightsError: the folder is missing or its content does not fit.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder}: no {kind.__name__} can be loaded ({reason})") from error


HUB_FILE = "model.safetensors"


def pretrained(model: str, classes: int, folder: Path | None) -> nn.Module:
    """A timm network with pretrained weights and a new classifier.

    Args:
        model: timm's name.
        classes: outputs of the new classifier, randomly initialised.
        folder: local weights, `MODEL.safetensors` or the downloaded repository; None for the hub
            or its local cache.

    Raises:
        WeightsError: the weights are missing or of another network.
    """
    network: Any = timm.create_model(model, pretrained=False, num_classes=classes)
    path = _local(model, folder) if folder else _from_hub_pretrained(model)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not readable as safetensors ({error})") from error
    head = f"{network.pretrained_cfg['classifier']}."
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(head)}
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
    try:
        network.load_state_dict(body | own)
    except RuntimeError as error:
        raise WeightsError(f"{path}: contains other weights than timm's {model}") from error
    return network  # type: ignore[no-any-return]


def _local(model: str, folder: Path) -> Path:
    repository = timm.get_pretrained_cfg(model).hf_hub_id or model
    plain = folder / f"{model}.safetensors"
    downloaded = folder / repository.rpartition("/")[2] / HUB_FILE
    for path in (plain, downloaded):
        if path.is_file():
            return path
    raise WeightsError(f"{plain} is missing: put timm's weights of {model} under that name")


def _from_hub_pretrained(model: str) -> Path:
    repository = timm.get_pretrained_cfg(model).hf_hub_id
    if not repository:
        raise WeightsError(
            f"timm's weights of {model} are a pickle, which is not loaded: save them as "
            f"{model}.safetensors and name the folder with --weights"
        )
    return model_folder(repository, [HUB_FILE], None) / HUB_FILE


Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network, device: torch.device) -> Network:
    """The network on a device, without gradients, in evaluation mode."""
    return network.to(device).eval().requires_grad_(False)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of all tensors of a network: names, shapes, and values as float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


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

    The bundled one is always available. With --weights, so is every autoencoder in that folder (a
    diffusers folder, or a .safetensors file in TAESD's layout); otherwise, those of TAESD's family
    on the hub or in its local cache.

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
