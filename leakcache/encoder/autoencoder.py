"""The encoder half of a diffusion autoencoder: images in [-1, 1] to scaled latents."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from leakcache.encoder.weights import Weights, locate
from leakcache.errors import ConfigError, WeightsError

# Not `Self`: where shapes are checked at run time, methods are decorated one by one.
Loaded = TypeVar("Loaded", bound="Encoder")

Activations = tuple[Float[Tensor, "image _ _ _"], ...]
"""Outputs of an encoder's strided convolutions, finest first."""

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# Files saved before diffusers renamed the attention projections still carry the old names.
_RENAMED = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


@dataclass(frozen=True)
class AutoencoderIdentity:
    """What of an autoencoder a cache depends on.

    Attributes:
        name: short name.
        spec: what loads it again.
        source: where the weights came from.
        kind: diffusers class, `AutoencoderKL` or `AutoencoderTiny`.
        weights_sha256: hash of the encoder's tensors (names, shapes, values as float32),
            the same for every file that holds the same encoder.
        channels: latent channels.
        scaling_factor: what the posterior mean is multiplied by.
        shift_factor: what is subtracted before (0 for SD 1.x, 2.x and XL).
    """

    name: str
    spec: str
    source: str
    kind: str
    weights_sha256: str
    channels: int
    scaling_factor: float
    shift_factor: float


class Encoder:
    """A frozen encoder on one device, channels-last, with nothing of the decoder in memory."""

    DOWNSCALE = 8

    def __init__(
        self, network: nn.Module, identity: AutoencoderIdentity, precision: str, device: str
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"--precision {precision}: take one of {', '.join(PRECISIONS)}")
        self.identity = identity
        self.precision = precision
        self.device = torch.device(device)
        self._dtype = PRECISIONS[precision]
        # Casting is not undone by casting back, so the error is measured against a copy.
        self._exact = (
            None
            if precision == "fp32"
            else Encoder(copy.deepcopy(network), identity, "fp32", device)
        )
        self._network = network.eval().to(self.device, self._dtype)
        self._network.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls: type[Loaded], spec: str, precision: str = "fp32", device: str = "cpu") -> Loaded:
        """Load the encoder that `spec` names (see `leakcache.encoder.weights.locate`).

        Raises:
            WeightsError: the weights cannot be had or do not fit their configuration.
        """
        weights = locate(spec)
        tensors = _encoder_tensors(weights)
        model = _blank_model(weights, weights.config or _tiny_config(weights, tensors))
        # Of the model, not of the file: what a file leaves out has diffusers' default.
        config = model.config
        identity = AutoencoderIdentity(
            name=weights.name,
            spec=weights.spec,
            source=weights.source,
            kind=type(model).__name__,
            weights_sha256=_tensors_hash(tensors),
            channels=int(config.latent_channels),
            scaling_factor=float(config.scaling_factor),
            shift_factor=float(config.shift_factor or 0.0),
        )
        return cls(_encoder_half(weights, model, tensors), identity, precision, device)

    @torch.inference_mode()
    def encode(
        self, pixels: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """z0 = (posterior mean - shift) × scaling factor, diffusers' convention, as float32.

        The paper's Eq. 1 divides by the factor, which is a slip: latent diffusion models
        are trained on the product.

        Args:
            pixels: RGB in [-1, 1]; height and width are multiples of 8.
        """
        batch = pixels.to(device=self.device, dtype=self._dtype, memory_format=torch.channels_last)
        mean: Tensor = self._network(batch).float()
        return (mean - self.identity.shift_factor) * self.identity.scaling_factor

    def encode_bytes(
        self, pixels: UInt8[Tensor, "image height width 3"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """As `encode`, of RGB as images hold it: 0..255, channels last."""
        # Four times less to move to the device, and in the layout that the encoder reads.
        unit = pixels.to(self.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        return self.encode(unit)

    @torch.inference_mode()
    def encode_with_activations(
        self, views: UInt8[Tensor, "image height width 3"]
    ) -> tuple[Float[Tensor, "image channel _ _"], Activations]:
        """Latents as `encode_bytes`, and activations, in one forward pass.

        Activations are the outputs of the convolutions that halve the resolution, at a half, a
        quarter and an eighth of it, in the encoder's precision and on its device. Last rows and
        columns beyond a multiple of 8 are left out.
        """
        height, width = (side // self.DOWNSCALE * self.DOWNSCALE for side in views.shape[1:3])
        found: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _, __, output: found.append(output))
            for module in self._network.modules()
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
        ]
        try:
            latents = self.encode_bytes(views[:, :height, :width])
        finally:
            for hook in hooks:
                hook.remove()
        return latents, tuple(found)

    def relative_error(self, pixels: UInt8[Tensor, "image height width 3"]) -> float:
        """RMS difference from full precision on these images, over the latents' own RMS."""
        if self._exact is None:
            return 0.0
        reference = self._exact.encode_bytes(pixels)
        error = self.encode_bytes(pixels) - reference
        return float(error.square().mean().sqrt() / reference.square().mean().sqrt())


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
        "_class_name": "AutoencoderTiny",
        "encoder_block_out_channels": [width] * len(blocks),
        "num_encoder_blocks": blocks,
        "latent_channels": tensors[f"encoder.layers.{last}.weight"].shape[0],
        "scaling_factor": 1.0,
    }


def _last_layer(tensors: Mapping[str, Tensor]) -> int:
    found = (re.match(r"encoder\.layers\.(\d+)\.", key) for key in tensors)
    return max(int(match.group(1)) for match in found if match)


def _blank_model(weights: Weights, config: dict[str, Any]) -> Any:
    """The autoencoder without its tensors: the decoder costs no memory before it is dropped."""
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    kind = config.get("_class_name")
    if kind not in kinds:
        raise WeightsError(f"{weights.source}: {kind} is not one of {', '.join(kinds)}")
    # A saved configuration also holds what is derived; `from_config` would warn of that.
    expected = inspect.signature(kinds[kind]).parameters
    try:
        with torch.device("meta"):
            model = kinds[kind](**{key: config[key] for key in expected if key in config})
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(
            f"{weights.source}: config.json does not describe an {kind} ({_one_line(error)})"
        ) from error
    shape = model.config
    stages = shape.get("block_out_channels") or shape["encoder_block_out_channels"]
    if 2 ** (len(stages) - 1) != Encoder.DOWNSCALE:
        raise WeightsError(
            f"{weights.source}: makes latents {2 ** (len(stages) - 1)} times smaller than the "
            f"image; only autoencoders that make them {Encoder.DOWNSCALE} times smaller are read"
        )
    return model


def _encoder_half(weights: Weights, model: Any, tensors: dict[str, Tensor]) -> nn.Module:
    network: nn.Module = model.encoder
    if isinstance(model, AutoencoderKL):
        network = _PosteriorMean(model.encoder, model.quant_conv)
    else:
        tensors = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.file}: does not fit its configuration ({_one_line(error)})"
        ) from error
    return network.requires_grad_(False)


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
