"""Peak memory of builds of several sizes, for `test_build_programs`; a program of its own.

    python peaking.py IMAGES WEIGHTS SCRATCH COUNT…

Prints the peak of each build, in KiB, as JSON. Every build runs in a fork of one process.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

# Before any parallel region: threads do not survive a fork.
torch.set_num_threads(1)

from leakcache.dataset.index import DatasetIndex, read_index  # noqa: E402
from leakcache.encoder.autoencoder import Encoder  # noqa: E402
from leakcache.images.decode import Preprocessing  # noqa: E402
from leakcache.processes import keep_freed_memory  # noqa: E402
from leakcache.store.build import build_cache  # noqa: E402


def peak(index: DatasetIndex, encoder: Encoder, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        build_cache(index, encoder, folder, split="all", preprocessing=Preprocessing("crop", 128))
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss


def main(images: Path, weights: Path, scratch: Path, counts: list[int]) -> None:
    keep_freed_memory()
    index, encoder = read_index(images), Encoder.load(str(weights))
    peaks = [
        peak(
            replace(index, records=index.records[:count]),
            encoder,
            scratch / f"first{count}" / "all",
        )
        for count in counts
    ]
    print(json.dumps(peaks))


if __name__ == "__main__":
    places, numbers = sys.argv[1:4], sys.argv[4:]
    main(*(Path(place) for place in places), [int(number) for number in numbers])
