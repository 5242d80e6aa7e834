"""Tiny encoders under ONNX Runtime, which on a CPU is faster than torch in single precision."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.encoder.networks import TINY, EncoderNetwork
from leakcache.encoder.tiny import TinyEncoder
from leakcache.encoder.weights import Weights
from leakcache.errors import ConfigError

OUTPUTS = ("latents", "half", "quarter", "eighth")
RUNTIME = ("onnxruntime",)
EXPORTER = ("onnx", "onnxruntime", "onnxscript")
"""What exporting an encoder needs, once; what was exported needs `RUNTIME`."""


class OnnxNetwork(nn.Module):
    """An exported encoder: images in [-1, 1] to latents.

    Attributes:
        halvings: modules whose outputs are the activations, as hooks on them receive.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        self.halvings = nn.ModuleList(nn.Identity() for _ in OUTPUTS[1:])

    def forward(
        self, pixels: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image channel rows columns"]:
        """Latents; activations go through `halvings`."""
        given = {"pixels": pixels.contiguous().numpy()}
        latents, *maps = self._session.run(list(OUTPUTS), given)
        for module, found in zip(self.halvings, maps, strict=True):
            module(torch.from_numpy(found))
        return torch.from_numpy(latents)


def onnx_network(network: EncoderNetwork) -> OnnxNetwork:
    """An encoder under ONNX Runtime, exported once and kept in the cache folder of the user.

    Raises:
        ConfigError: the network is not that of a tiny autoencoder, or a package is missing.
    """
    if not isinstance(network.module, TinyEncoder):
        raise ConfigError(f"--runtime onnx: not for {network.kind}; take --runtime torch")
    file = cache_folder() / f"{network.sha256[:32]}.onnx"
    if missing := missing_packages(RUNTIME if file.is_file() else EXPORTER):
        raise ConfigError(
            f'--runtime onnx: needs {", ".join(missing)}: run pip install "leaknet[onnx]"'
        )
    if not file.is_file():
        _export(network.module, file)
    return OnnxNetwork(file)


def can_run(weights: Weights) -> bool:
    """Whether ONNX Runtime can run this encoder here."""
    tiny = weights.config is None or weights.config.get("_class_name") == TINY
    return tiny and not missing_packages(EXPORTER)


def missing_packages(needed: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in needed if importlib.util.find_spec(name) is None]


def cache_folder() -> Path:
    """Folder of exported encoders: below $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "leak" / "onnx"


class _WithActivations(nn.Module):
    """A tiny encoder that returns its activations too."""

    def __init__(self, encoder: TinyEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        hidden, found = pixels.add(1).div(2), []
        for layer in self.encoder.layers:
            hidden = layer(hidden)
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                found.append(hidden)
        return (hidden, *found)


def _export(encoder: TinyEncoder, file: Path) -> None:
    """Write the network with any number of images of any size; whole or not at all."""
    free = {0: "image", 2: "height", 3: "width"}
    example = torch.zeros(2, 3, 64, 72)
    with warnings.catch_warnings():
        # The exporter warns of its own internals.
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            _WithActivations(encoder).eval(),
            (example,),
            dynamo=True,
            input_names=["pixels"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"pixels": free},
            verbose=False,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        program.save(Path(folder) / file.name)
        (Path(folder) / file.name).replace(file)
