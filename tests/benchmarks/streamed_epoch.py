"""Throughput of an epoch of `paper` on latents that are read from disk, relative to memory.

python tests/benchmarks/streamed_epoch.py CACHE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from leakcache.processes import set_memory_limit
from leakcache.store.cache import Cache
from leaknet.config import PAPER, RunConfig
from leaknet.data.columns import CPU, TrainingData
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.training.epoch import Stepper, TrainingImages, train_epoch

SMALL = 2**20
"""Memory limit in bytes under which no fold is held in memory."""


def measure(cache: Cache, config: RunConfig = PAPER, rounds: int = 3) -> dict[str, float]:
    """Processor time of an image in an epoch, the fastest of some epochs, after a warm-up."""
    epochs = {}
    for name, limit in (("memory", None), ("disk", SMALL)):
        set_memory_limit(limit)
        data = TrainingData.load(cache, config, CPU)
        branch = ProtoLeakNet(config, cache.classes, data.train.shape).branches["latents"]
        images = TrainingImages.of(branch, data, cache.classes)
        epochs[name] = (Stepper(branch, config.train, CPU), images)
    set_memory_limit(None)
    found = dict.fromkeys(epochs, float("inf"))
    for epoch in range(rounds + 1):
        for name, (stepper, images) in epochs.items():
            start = time.process_time()
            train_epoch(stepper, images, epoch + 1, lambda done: None)
            if epoch:
                found[name] = min(found[name], (time.process_time() - start) / len(images))
    return {**found, "of_memory": found["memory"] / found["disk"]}


if __name__ == "__main__":
    print(json.dumps(measure(Cache.open(Path(sys.argv[1]) / "closed"), rounds=1)))
