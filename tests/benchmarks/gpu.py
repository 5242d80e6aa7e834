"""All goals on a GPU, in under five minutes: `python tests/benchmarks/gpu.py [--device cuda]`.

Prints JSON: a build from JPEG files against the encoder on ready tensors, with z0 alone and with
all columns of `best`; statistics on the device; a training epoch against its bare step; images a
second of each stage of a build, of which the slowest is the bottleneck; and the operations of a
build that take the most time on the device. Goal on one H100: build of z0 at least .85 of the
encoder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from leakcache.dataset.index import DatasetIndex
from leakcache.device import quick_precision, resolve_device, to_device
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.archive import in_order
from leakcache.images.decode import decode
from leakcache.images.preprocess import Preprocessing, preprocess
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import LENGTHS, pixel_statistics
from leakcache.statistics.rows import quantise
from leakcache.store.build import Z0, build_cache
from leaknet.config import preset
from leaknet.experiments.speed import measure_build, measure_epoch, seconds, write_images

PARTS = 5
OPERATIONS = 8


def measure(device: torch.device, spec: str, images: int, side: int, batch: int) -> dict[str, Any]:
    """Everything, on a device.

    Args:
        device: where to compute.
        spec: the autoencoder.
        images: of a build.
        side: of these images in pixels.
        batch: views of `side` pixels that the stages are timed on.
    """
    precision = quick_precision(device)
    columns = preset("best").columns()
    found: dict[str, Any] = {
        "device": str(device),
        "precision": precision,
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["name"] = torch.cuda.get_device_name(device)
    for name, wanted, count in (("z0", Z0, images), ("best", columns, max(2, images // 8))):
        speed = measure_build(spec, str(device), precision, columns=wanted, images=count, side=side)
        found[f"build_{name}"] = {
            "images_per_second": 1 / speed.elapsed,
            "of_bare_encoder": speed.of_limit,
        }
    encoder = Encoder.load(spec, precision, str(device))
    with tempfile.TemporaryDirectory(prefix="leak-gpu-") as scratch:
        index = write_images(Path(scratch) / "images", images, side)
        found["stages"] = _stages(encoder, index, batch)
        found["operations"] = _operations(encoder, index, Path(scratch) / "cache" / "closed")
    found["bottleneck"] = min(found["stages"], key=found["stages"].__getitem__)
    epoch = measure_epoch(device, images=images)
    found["train"] = {"images_per_second": 1 / epoch.cached, "of_bare_step": epoch.of_limit}
    return found


def _stages(encoder: Encoder, index: DatasetIndex, batch: int) -> dict[str, float]:
    """Images a second of each stage alone, on ready inputs."""
    device = encoder.device
    paths = [index.root / record.path for record in index.records]
    views = torch.from_numpy(np.stack([_native(path) for path in paths[:batch]]))
    there = to_device(views, device)
    maps = encoder.encode_with_activations(there)[1]
    rows = [rows.cpu().numpy() for rows in pixel_statistics(there, PARTS)]
    stages: dict[str, tuple[int, Callable[[], object]]] = {
        "decode and cut": (len(paths), lambda: list(in_order(_resized, paths, 16))),
        "copy to the device": (batch, lambda: to_device(views, device)),
        "encoder": (batch, lambda: encoder.encode_with_activations(there)),
        "statistics of pixels": (batch, lambda: pixel_statistics(there, PARTS)),
        "statistics of activations": (batch, lambda: activation_statistics(maps, PARTS)),
        "quantise": (batch, lambda: [quantise(row, LENGTHS) for row in rows]),
    }
    found = {}
    for name, (count, work) in stages.items():
        work()
        found[name] = count / min(seconds(work, device) for _ in range(3))
    return found


def _native(path: Path) -> np.ndarray:
    return np.asarray(decode(path.read_bytes()))


def _resized(path: Path) -> np.ndarray:
    return preprocess(decode(path.read_bytes()), Preprocessing())


def _operations(encoder: Encoder, index: DatasetIndex, cache: Path) -> list[dict[str, Any]]:
    """Operations of a build for `best` by their own time, on the device where it is a GPU."""
    on_gpu = encoder.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    few = DatasetIndex(
        index.root, index.records[: max(2, len(index.records) // 50)], (), "synthetic"
    )
    with profile(activities=activities) as profiler:
        build_cache(few, encoder, cache, columns=preset("best").columns())
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    return [
        {"name": event.key, "part": getattr(event, key) / total, "calls": event.count}
        for event in events[:OPERATIONS]
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--vae", default="bundled")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    device = resolve_device(given.device)
    print(json.dumps(measure(device, given.vae, given.images, 512, given.batch), indent=1))


if __name__ == "__main__":
    main()
