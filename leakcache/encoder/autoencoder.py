"""The encoder half of a diffusion autoencoder: images in [-1, 1] to scaled latents."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from threading import get_ident
from typing import TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from leakcache.device import to_device
from leakcache.encoder.networks import DOWNSCALE, load_network
from leakcache.encoder.weights import locate
from leakcache.errors import ConfigError

# Not `Self`: where shapes are checked at run time, methods are decorated one by one.
Loaded = TypeVar("Loaded", bound="Encoder")

Activations = tuple[Float[Tensor, "image _ _ _"], ...]
"""Outputs of an encoder's strided convolutions, finest first."""

TORCH, ONNX = RUNTIMES = ("torch", "onnx")
"""What can run an encoder."""
PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
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

    def same_as(self, other: AutoencoderIdentity) -> bool:
        """Whether both give the same latents, whatever their names and places."""
        return replace(self, name=other.name, spec=other.spec, source=other.source) == other


class Encoder:
    """A frozen encoder on one device, channels-last, with nothing of the decoder in memory."""

    DOWNSCALE = DOWNSCALE

    def __init__(
        self,
        network: nn.Module,
        identity: AutoencoderIdentity,
        precision: str,
        device: str,
        runtime: str = TORCH,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"--precision {precision}: take one of {', '.join(PRECISIONS)}")
        self.identity = identity
        self.precision = precision
        self.runtime = runtime
        self.device = torch.device(device)
        self._dtype = PRECISIONS[precision]
        # Casting is not undone by casting back, so the error is measured against a copy.
        self._exact = (
            None
            if precision == "fp32"
            else Encoder(copy.deepcopy(network), identity, "fp32", device)
        )
        self.network = network.eval().to(self.device, self._dtype)
        self.network.to(memory_format=torch.channels_last)

    @classmethod
    def load(
        cls: type[Loaded],
        spec: str,
        precision: str = "fp32",
        device: str = "cpu",
        runtime: str = TORCH,
    ) -> Loaded:
        """Load the encoder that `spec` names (see `leakcache.encoder.weights.locate`).

        Args:
            spec: names the weights.
            precision: a key of `PRECISIONS`.
            device: where it runs.
            runtime: one of `RUNTIMES`; `ONNX` is for tiny autoencoders in fp32 on a CPU.

        Raises:
            WeightsError: the weights cannot be had or do not fit their configuration.
            ConfigError: there is no such precision, or the runtime cannot run this encoder.
        """
        weights = locate(spec)
        network = load_network(weights)
        identity = AutoencoderIdentity(
            name=weights.name,
            spec=weights.spec,
            source=weights.source,
            kind=network.kind,
            weights_sha256=network.sha256,
            channels=network.channels,
            scaling_factor=network.scaling_factor,
            shift_factor=network.shift_factor,
        )
        if runtime == TORCH:
            return cls(network.module, identity, precision, device)
        if runtime != ONNX:
            raise ConfigError(f"--runtime {runtime}: take one of {', '.join(RUNTIMES)}")
        if precision != "fp32" or torch.device(device).type != "cpu":
            raise ConfigError(
                f"--runtime onnx: computes in fp32 on a CPU, not in {precision} on {device}; "
                "take --runtime torch"
            )
        from leakcache.encoder.onnx_network import onnx_network

        return cls(onnx_network(network), identity, precision, device, runtime)

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
        mean: Tensor = self.network(batch).float()
        return (mean - self.identity.shift_factor) * self.identity.scaling_factor

    def encode_bytes(
        self, pixels: UInt8[Tensor, "image height width 3"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """As `encode`, of RGB as images hold it: 0..255, channels last."""
        # Four times less to move to the device, and in the layout that the encoder reads.
        unit = to_device(pixels, self.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
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
        thread = get_ident()

        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            if get_ident() == thread:  # other threads may encode at the same time
                found.append(output)

        hooks = [module.register_forward_hook(keep) for module in halvings(self.network)]
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


def halvings(network: nn.Module) -> Iterable[nn.Module]:
    """Modules that give the activations: convolutions that halve the resolution."""
    found: Iterable[nn.Module] = getattr(network, "halvings", ()) or [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    ]
    return found
