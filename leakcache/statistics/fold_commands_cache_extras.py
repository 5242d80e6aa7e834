"""What `leak cache build --with` stores beside latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakcache.store.build import BuildReport


def build_extra(
    name: str, reports: dict[str, BuildReport], options: dict[str, Any]
) -> dict[str, Any]:
    """What was stored, by split and store; thrown away once, as the splits share the stores."""
    from leakcache.device import resolve_device
    from leakcache.statistics.activations import build_activation_statistics
    from leakcache.statistics.degraded import build_degraded
    from leakcache.statistics.fold_leakcache_degraded_activations import build_degraded_activations
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
