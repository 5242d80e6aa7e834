"""Time to open a cache of many latents and to read its first batch.

    python tests/benchmarks/million.py [IMAGES]

The cache is made up: its shards are links to one file, whose bytes do not depend on the images.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.files import json_text, with_checksum
from leakcache.images.preprocess import Preprocessing
from leakcache.store.column_store import ColumnStore
from leakcache.store.columns import COLUMNS
from leakcache.store.manifest import FILE, FORMAT, CacheManifest, Encoding
from leakcache.store.zarr_column import key_of
from leaknet.data.columns import LatentDataset

CLASSES = 10
BATCH = 64
LINKS = 30_000
"""Links to one file: file systems allow 65,000."""


def make(home: Path, images: int) -> None:
    """Write a finished cache of that many latents of 4 × 32 × 32."""
    autoencoder = AutoencoderIdentity(
        "made-up", "made-up", "", "AutoencoderTiny", "0" * 64, 4, 1.0, 0.0
    )
    encoding = Encoding(autoencoder, Preprocessing("resize", 256, 1), "fp32", "float16")
    spec, store = COLUMNS["z0"].spec(encoding), ColumnStore(home)
    store.lay_out([spec])
    column = store.columns[key_of(spec)]
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32).hex() for _ in range(images)]
    commits = home / "store" / "commits"
    commits.mkdir(parents=True)
    for shard, start in enumerate(range(0, images, spec.per_shard)):
        names = hashes[start : start + spec.per_shard]
        if shard % LINKS == 0:
            column.write(shard, rng.normal(size=(spec.per_shard, *spec.shape)).astype(spec.dtype))
            first = column.file(shard)
        else:
            file = column.file(shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, file)
        commit = {"images": names, "columns": {key_of(spec): shard}, "refused": {}, "rules": ""}
        _write(commits / f"{shard:06d}.json", {**commit, "pixels": {}})
    order = np.sort(np.arange(images) % CLASSES)
    table = {
        "path": [f"class{label}/{row:07d}.jpg" for row, label in enumerate(order)],
        "label": [f"class{label}" for label in order],
        "group": [f"prompt {row % (images // CLASSES + 1)}" for row in range(images)],
        "fold": ["train"] * images,
        "sha256": hashes,
        "bytes": [1] * images,
    }
    manifest = CacheManifest(encoding, "closed", str(home / "none"), "made up", table)
    folder = home / "closed"
    folder.mkdir()
    _write(folder / FILE, {"format": FORMAT, **asdict(manifest)})


def _write(path: Path, content: dict) -> None:
    """As `leakcache.files.write_checked`, without waiting for the disk."""
    path.write_text(with_checksum(json_text(content)), encoding="utf-8")


def measure(home: Path) -> dict[str, float]:
    """Seconds to open the data set, and from there to its first shuffled batch."""
    start, cpu = time.perf_counter(), time.process_time()
    data = LatentDataset(home)
    opened, opened_cpu = time.perf_counter() - start, time.process_time() - cpu
    generator = torch.Generator().manual_seed(0)
    batch, _ = next(iter(DataLoader(data, BATCH, shuffle=True, generator=generator)))
    total, total_cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "images": len(data),
        "batch": len(batch),
        "open_s": opened,
        "open_cpu_s": opened_cpu,
        "first_batch_s": total,
        "first_batch_cpu_s": total_cpu,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="leak-million-") as scratch:
        make(Path(scratch) / "cache", int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
        print(json.dumps(measure(Path(scratch) / "cache")))
