"""Tiny encoders under ONNX Runtime, and the runtime and precision that are fastest here."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.encoder.autoencoder import ONNX, TORCH, Encoder
from leakcache.encoder.networks import TINY, EncoderNetwork, TinyEncoder
from leakcache.encoder.weights import Weights, locate
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


AUTO = "auto"
"""Leaves a setting to the measurement."""
SECONDS = 1.0
"""Time that is measured for, beside a first pass in each setting."""
SIDE = 256
"""Side of the view that is timed, in pixels."""
GAIN = 1.15
"""A setting has to be this many times faster than those before it: timings vary, reduced precision
costs accuracy, and ONNX Runtime has to be installed wherever a run is used."""

Setting = tuple[str, str]
"""Runtime and precision."""
PREFERRED: tuple[Setting, ...] = ((TORCH, "fp32"), (ONNX, "fp32"), (TORCH, "bf16"))
"""What is timed, those that are preferred at equal speed first."""


@dataclass(frozen=True)
class EncoderChoice:
    """A runtime and a precision, and why.

    Attributes:
        runtime: one of `leakcache.encoder.autoencoder.RUNTIMES`.
        precision: of `leakcache.encoder.autoencoder.PRECISIONS`.
        per_second: views of 256 × 256 pixels in a second; empty where there was no choice.
    """

    runtime: str
    precision: str
    per_second: dict[Setting, float]

    def __str__(self) -> str:
        rates = ", ".join(f"{' '.join(name)} {r:.1f}" for name, r in self.per_second.items())
        return f"{self.runtime} {self.precision}: {rates} views of {SIDE} pixels a second here"


def choose_fastest(
    spec: str,
    device: str = "cpu",
    *,
    runtime: str = AUTO,
    precision: str = AUTO,
    seconds: float = SECONDS,
) -> EncoderChoice:
    """Time an encoder in the settings that are left open, in turn; see `GAIN`.

    The times of passes are compared by their medians, so that other work on the machine hardly
    matters.

    Args:
        spec: names the encoder (see `leakcache.encoder.weights.locate`).
        device: where it runs.
        runtime: "auto", or the one to take.
        precision: "auto", or the one to take.
        seconds: how long to measure.

    Raises:
        WeightsError: the weights cannot be had or do not fit their configuration.
    """
    chosen = [
        (run, kind)
        for run, kind in PREFERRED
        if runtime in (AUTO, run) and precision in (AUTO, kind)
    ]
    if runtime == AUTO and not (torch.device(device).type == "cpu" and can_run(locate(spec))):
        chosen = [setting for setting in chosen if setting[0] != ONNX]
    if len(chosen) < 2:
        runtime, precision = chosen[0] if chosen else (TORCH, precision)
        return EncoderChoice(runtime, precision, {})
    encoders = {s: Encoder.load(spec, s[1], device, s[0]) for s in chosen}
    view = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    times: dict[Setting, list[float]] = {setting: [] for setting in chosen}
    for encoder in encoders.values():
        encoder.encode_bytes(view)  # a warm-up
    end = time.perf_counter() + seconds
    while not times[chosen[-1]] or time.perf_counter() < end:
        for setting, encoder in encoders.items():
            start = time.perf_counter()
            encoder.encode_bytes(view).cpu()
            times[setting].append(time.perf_counter() - start)
    return choose({name: 1 / sorted(each)[len(each) // 2] for name, each in times.items()})


def choose(per_second: dict[Setting, float]) -> EncoderChoice:
    """The choice for measured rates, those of preferred settings first."""
    best, *others = per_second
    for setting in others:
        if per_second[setting] >= GAIN * per_second[best]:
            best = setting
    return EncoderChoice(*best, per_second)
