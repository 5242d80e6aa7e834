"""The runtime and precision in which an encoder is fastest on this machine, by measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from leakcache.encoder.autoencoder import ONNX, TORCH, Encoder
from leakcache.encoder.onnx_network import can_run
from leakcache.encoder.weights import locate

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
