"""The mean leak of each known generator in the low frequencies of its latents, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from leakcache.dct import dct_low
from leakcache.errors import CacheError
from leakcache.names import visible
from leakcache.store.cache import Cache
from leaknet.atlas.traces import DCT_SIZE, RATE, Deviation, compared_groups, deviations
from leaknet.config import Z0
from leaknet.data.columns import ImageColumns, load_fold
from leaknet.features.noise import noise_levels
from leaknet.report.raster import Figure, beside, signed_map
from leaknet.report.run_data import LatentBranch, ScoredRun

HEIGHT = 48
"""Of a map in pixels."""
CLEAN = "no noise"


def leak(run: ScoredRun) -> dict[str, Any] | None:
    """Maps before and after noise; None without a branch of latents, or where the cache is gone."""
    if run.latents is None or run.record.cache is None:
        return None
    try:
        cache = Cache.open(Path(run.record.cache.folder))
        images = load_fold(cache, "train", [Z0])
    except CacheError:
        return None
    names, counts = np.unique(images.labels, return_counts=True)
    if counts.min() < 2:
        return None
    found = step_deviations(run.latents, images)
    top = max(float(np.abs(one.mean).max()) for own in found.values() for one in own)
    rows = [
        (visible(name), [_cell(step, name, own[place], top) for step, own in found.items()])
        for place, name in enumerate(names.tolist())
    ]
    return {
        "rows": rows,
        "headings": list(found),
        "ratios": list(zip(run.latents.steps, _ratios(run.latents), strict=True)),
        "size": found[CLEAN][0].mean.shape[1],
        "channels": images.z0.shape[2],
        "images": len(images),
        "rate": RATE,
    }


def step_deviations(branch: LatentBranch, images: ImageColumns) -> dict[str, tuple[Deviation, ...]]:
    """Of the low DCT coefficients of z_t / σ_t, by generator, for no noise and each t.

    Coefficients are in units of their standard deviation. The DCT is orthonormal, so their noise
    is standard normal; it is drawn anew here.
    """
    z0 = images.z0.float().mean(dim=1)  # over the views
    clean = dct_low(z0, min(DCT_SIZE, *z0.shape[2:])).double().numpy()
    _, targets = np.unique(images.labels, return_inverse=True)
    groups, _ = compared_groups(images.groups, targets)
    scale = np.maximum(clean.std(axis=0), 1e-6)
    found = {CLEAN: deviations(clean / scale, targets, groups)}
    if not branch.noise:
        return found
    rng, variance = np.random.default_rng(0), 1 / images.views
    for step, ratio in zip(branch.steps, _ratios(branch), strict=True):
        noise = rng.standard_normal(clean.shape) * np.sqrt(variance)
        spread = np.sqrt(np.square(ratio * scale) + variance)
        found[f"t = {step}"] = deviations((ratio * clean + noise) / spread, targets, groups)
    return found


def _ratios(branch: LatentBranch) -> list[float]:
    ratios: list[float] = noise_levels(branch.schedule, branch.steps).ratio.tolist()
    return ratios


def _cell(step: str, name: str, one: Deviation, top: float) -> tuple[Figure, int, int]:
    """The map of a generator at a step, and how many of its coefficients differ."""
    words = f"Mean DCT coefficients of {visible(name)}, {step}, channel beside channel"
    side = max(HEIGHT // 2, HEIGHT * 4 // len(one.mean))
    picture = signed_map(beside(one.mean), top, side)
    return Figure("", words, picture), int(one.significant.sum()), one.significant.size
