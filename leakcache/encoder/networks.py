"""Encoder networks from weights on disk: of KL autoencoders and of tiny ones."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from leakcache.encoder.weights import Weights
from leakcache.errors import WeightsError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
}


class TinyEncoder(nn.Module):
    """Convolutions and residual blocks that halve the resolution once a stage after the first.

    The encoder of the Tiny AutoEncoder for Stable Diffusion (TAESD, Ollin Boer Bohan, 2023), with
    the layer names of diffusers' `AutoencoderTiny`, whose import costs seconds.

    Args:
        channels: of each stage.
        blocks: residual blocks of each stage.
        latent_channels: channels of the latents.
        in_channels: channels of the images.
        activation: a key of `ACTIVATIONS`.

    Raises:
        ValueError: stages differ in number or channels, or the activation is not known.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int],
        latent_channels: int,
        in_channels: int = 3,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or len(set(channels)) != 1:
            raise ValueError(f"stages of {list(channels)} channels and {list(blocks)} blocks")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation}: known are {', '.join(ACTIVATIONS)}")
        width = channels[0]
        layers: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            if stage == 0:
                layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            else:
                layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            layers += [ResidualBlock(width, activation) for _ in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, latent_channels, 3, padding=1))

    def forward(
        self, pixels: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image latent rows columns"]:
        """Latents of images in [-1, 1]; the layers read [0, 1]."""
        found: Tensor = self.layers(pixels.add(1).div(2))
        return found


class ResidualBlock(nn.Module):
    """Three 3×3 convolutions beside the identity, and a ReLU after their sum."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, act(), second, act(), third)

    def forward(
        self, hidden: Float[Tensor, "image channel rows columns"]
    ) -> Float[Tensor, "image channel rows columns"]:
        """Hidden maps of the same shape."""
        return torch.relu(self.conv(hidden) + hidden)


_, TINY = KINDS = ("AutoencoderKL", "AutoencoderTiny")
DOWNSCALE = 8
"""How many times smaller than the image the latents are."""

# Files saved before diffusers renamed the attention projections still carry the old names.
_RENAMED = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


@dataclass(frozen=True)
class EncoderNetwork:
    """An encoder with its weights, and what its latents are scaled by.

    Attributes:
        module: images in [-1, 1] to the mean of the posterior.
        kind: diffusers class, one of `KINDS`.
        sha256: of the encoder's tensors.
        channels: latent channels.
        scaling_factor: what the posterior mean is multiplied by.
        shift_factor: what is subtracted before.
    """

    module: nn.Module
    kind: str
    sha256: str
    channels: int
    scaling_factor: float
    shift_factor: float


def load_network(weights: Weights) -> EncoderNetwork:
    """Build the encoder that a configuration describes and give it the tensors of a file.

    Raises:
        WeightsError: the weights do not fit their configuration, or it describes none of `KINDS`.
    """
    tensors = _encoder_tensors(weights)
    config = weights.config or _tiny_config(weights, tensors)
    kind = config.get("_class_name")
    if kind not in KINDS:
        raise WeightsError(f"{weights.source}: {kind} is not one of {', '.join(KINDS)}")
    build = _tiny_network if kind == TINY else _kl_network
    sha256 = _tensors_hash(tensors)
    try:
        with torch.device("meta"):
            module, found = build(config)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(
            f"{weights.source}: config.json does not describe an {kind} ({_one_line(error)})"
        ) from error
    if (scale := 2 ** (found["stages"] - 1)) != DOWNSCALE:
        raise WeightsError(
            f"{weights.source}: makes latents {scale} times smaller than the image; only "
            f"autoencoders that make them {DOWNSCALE} times smaller are read"
        )
    if kind == TINY:
        tensors = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.file}: does not fit its configuration ({_one_line(error)})"
        ) from error
    return EncoderNetwork(
        module.requires_grad_(False),
        kind,
        sha256,
        channels=int(found["latent_channels"]),
        scaling_factor=float(found["scaling_factor"]),
        shift_factor=float(found["shift_factor"] or 0.0),
    )


def _tiny_network(config: Mapping[str, Any]) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network, and its configuration with diffusers' defaults for what the file leaves out."""
    defaults = {
        "encoder_block_out_channels": (64, 64, 64, 64),
        "num_encoder_blocks": (1, 3, 3, 3),
        "latent_channels": 4,
        "in_channels": 3,
        "act_fn": "relu",
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    found = {**defaults, **config}
    module = TinyEncoder(
        found["encoder_block_out_channels"],
        found["num_encoder_blocks"],
        found["latent_channels"],
        found["in_channels"],
        found["act_fn"],
    )
    return module, {**found, "stages": len(found["num_encoder_blocks"])}


def _kl_network(config: Mapping[str, Any]) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network, and its configuration with diffusers' defaults for what the file leaves out."""
    # Importing diffusers costs seconds, which tiny autoencoders need not pay.
    from diffusers import AutoencoderKL

    # A saved configuration also holds what is derived; `from_config` would warn of that.
    expected = inspect.signature(AutoencoderKL).parameters
    model = AutoencoderKL(**{key: config[key] for key in expected if key in config})
    module = _PosteriorMean(model.encoder, model.quant_conv)
    return module, {**model.config, "stages": len(model.config["block_out_channels"])}


class _PosteriorMean(nn.Module):
    """A KL encoder followed by its 1×1 convolution, of which the mean half is kept."""

    def __init__(self, encoder: nn.Module, quant_conv: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.quant_conv = quant_conv

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.encoder(pixels)
        if self.quant_conv is not None:
            hidden = self.quant_conv(hidden)
        mean: Tensor = hidden.chunk(2, dim=1)[0]
        return mean


def _encoder_tensors(weights: Weights) -> dict[str, Tensor]:
    tensors = {}
    try:
        with safe_open(weights.file, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (a handle, not a mapping)
                if key.startswith(("encoder.", "quant_conv.")):
                    tensors[_current_name(key)] = file.get_tensor(key).float()
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights.file}: not a readable safetensors file ({error})") from error
    if not tensors:
        raise WeightsError(
            f"{weights.file}: holds no `encoder.` tensors; "
            "save the autoencoder in diffusers' layout (`vae.save_pretrained`)"
        )
    return tensors


def _current_name(key: str) -> str:
    for old, new in _RENAMED.items():
        key = key.replace(old, new)
    return key


def _tiny_config(weights: Weights, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the configuration of an `AutoencoderTiny` off the shapes of a bare file."""
    if "encoder.layers.0.weight" not in tensors:
        raise WeightsError(
            f"{weights.file}: no config.json beside it, and the scaling factor of a KL "
            "autoencoder cannot be read off its weights; add the config.json or pass the folder"
        )
    blocks, last = [0], _last_layer(tensors)
    for layer in range(1, last):
        if f"encoder.layers.{layer}.weight" in tensors:
            blocks.append(0)
        else:
            blocks[-1] += 1
    width = tensors["encoder.layers.0.weight"].shape[0]
    return {
        "_class_name": TINY,
        "encoder_block_out_channels": [width] * len(blocks),
        "num_encoder_blocks": blocks,
        "latent_channels": tensors[f"encoder.layers.{last}.weight"].shape[0],
        "scaling_factor": 1.0,
    }


def _last_layer(tensors: Mapping[str, Tensor]) -> int:
    found = (re.match(r"encoder\.layers\.(\d+)\.", key) for key in tensors)
    return max(int(match.group(1)) for match in found if match)


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1].strip()


def _tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
