"""The precision in which an encoder is fastest on this machine, by measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from leakcache.encoder.autoencoder import Encoder

SECONDS = 1.0
"""Time that is measured for, beside a first pass in each precision."""
SIDE = 256
"""Side of the view that is timed, in pixels."""
GAIN = 1.15
"""Reduced precision has to be this many times faster: it costs accuracy, and timings vary."""


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, and why.

    Attributes:
        precision: "fp32" or "bf16".
        per_second: views of 256 × 256 pixels in a second, by precision; empty where none was timed.
    """

    precision: str
    per_second: dict[str, float]

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in self.per_second.items())
        return f"precision {self.precision}: {rates} views of {SIDE} pixels a second here"


def choose_precision(spec: str, device: str = "cpu", seconds: float = SECONDS) -> PrecisionChoice:
    """Time an encoder in fp32 and bf16, in turn, and choose bf16 where it is `GAIN` times faster.

    The times of passes are compared by their medians, so that other work on the machine hardly
    matters.

    Args:
        spec: names the encoder (see `leakcache.encoder.weights.locate`).
        device: where it runs.
        seconds: how long to measure.

    Raises:
        WeightsError: the weights cannot be had or do not fit their configuration.
    """
    encoders = {name: Encoder.load(spec, name, device) for name in ("fp32", "bf16")}
    view = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for encoder in encoders.values():
        encoder.encode_bytes(view)  # a warm-up
    end = time.perf_counter() + seconds
    while not times["bf16"] or time.perf_counter() < end:
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder.encode_bytes(view).cpu()
            times[name].append(time.perf_counter() - start)
    return choose({name: 1 / sorted(each)[len(each) // 2] for name, each in times.items()})


def choose(per_second: dict[str, float]) -> PrecisionChoice:
    """The choice for measured rates."""
    faster = per_second["bf16"] >= GAIN * per_second["fp32"]
    return PrecisionChoice("bf16" if faster else "fp32", per_second)
