"""Statistics that settings read and caches lack: computed when first asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakcache.store.array_store import RowSpec
    from leakcache.store.build import BuildReport
    from leakcache.store.cache import Cache
    from leakcache.store.manifest import Encoding


def _pixel_statistics(encoding: Encoding) -> RowSpec:
    from leakcache.statistics.pixels import SPEC

    return SPEC


def _activation_statistics(encoding: Encoding) -> RowSpec:
    from leakcache.statistics.activations import spec_of

    return spec_of(encoding)


def _degraded_pixel_statistics(encoding: Encoding) -> RowSpec:
    from leakcache.statistics.degraded import SPEC

    return SPEC


def _degraded_activation_statistics(encoding: Encoding) -> RowSpec:
    from leakcache.statistics.degraded import degraded_spec

    return degraded_spec(encoding)


COLUMNS = {
    "pixel_statistics": _pixel_statistics,
    "activation_statistics": _activation_statistics,
    "degraded_pixel_statistics": _degraded_pixel_statistics,
    "degraded_activation_statistics": _degraded_activation_statistics,
}
"""Spec of each column of statistics, by name."""


def complete_statistics(
    columns: Collection[str], caches: Iterable[Cache], device: str = "cpu"
) -> None:
    """Bring the statistics of caches up to date, as `leak cache build --with statistics` does.

    Args:
        columns: names of those that are read; others are left alone, and those of degraded copies
            are computed of training images alone.
        caches: whose images; nothing is read where all rows are kept.
        device: where the encoder runs.

    Raises:
        CacheStale: an image file is gone or has changed since the cache was built, or the
            autoencoder has.
        WeightsError: the autoencoder is not on this machine any more.
    """
    if not any("statistics" in name for name in columns):
        return
    from leakcache.statistics.activations import build_activation_statistics
    from leakcache.statistics.degraded import build_degraded, build_degraded_activations
    from leakcache.statistics.pixels import build_statistics

    for cache in caches:
        build_statistics(cache)
        if "activation_statistics" in columns:
            build_activation_statistics(cache, device)
        if len(cache.rows("train")):
            if "degraded_pixel_statistics" in columns:
                build_degraded(cache)
            if "degraded_activation_statistics" in columns:
                build_degraded_activations(cache, device)


def complete_alike(cache: Cache, others: Iterable[Cache], device: str = "cpu") -> None:
    """Give other caches the statistics of images that one has, so that a model can read them.

    Arguments and errors as `complete_statistics`.
    """
    from leakcache.statistics.activations import (
        build_activation_statistics,
        has_activation_statistics,
    )
    from leakcache.statistics.pixels import build_statistics, has_statistics

    pixels, activations = has_statistics(cache), has_activation_statistics(cache)
    for other in others:
        if pixels:
            build_statistics(other)
        if activations:
            build_activation_statistics(other, device)


# What `leak cache build --with` stores beside latents.


def build_extra(
    name: str, reports: dict[str, BuildReport], options: dict[str, Any]
) -> dict[str, Any]:
    """What was stored, by split and store; thrown away once, as the splits share the stores."""
    from leakcache.device import resolve_device
    from leakcache.statistics.activations import build_activation_statistics
    from leakcache.statistics.degraded import build_degraded, build_degraded_activations
    from leakcache.statistics.pixels import build_statistics
    from leakcache.store.derived import build_pixels

    found: dict[str, Any] = {}
    for number, (split, report) in enumerate(reports.items()):
        how = {"fresh": options["fresh"] and number == 0, "repair": options["repair"]}
        if name == "pixels":
            done = build_pixels(report.cache, **how)
        else:
            device = str(resolve_device(options["device"]))
            done = [
                build_statistics(report.cache, **how),
                build_activation_statistics(report.cache, device, **how),
            ]
            if len(report.cache.rows("train")):
                done += [
                    build_degraded(report.cache, **how),
                    build_degraded_activations(report.cache, device, **how),
                ]
        found[split] = {one.name: vars(one) for one in done}
    return found
