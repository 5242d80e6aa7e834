"""`leak bench-speed`: the benchmarks of docs/PERFORMANCE.md on this machine."""

from __future__ import annotations

from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand
from leaknet.commands.output import emit, next_steps

MEANING = {
    "build.images_per_second": "a cache build, from JPEG files to latents on disk",
    "build.of_limit": "relative to the encoder alone on tensors in memory (goal: at least 0.95)",
    "build.bf16_error": "relative RMS error of bf16 latents",
    "build.best_images_per_second": "a build for `best`, images of 512 pixels, half for training",
    "build.best_of_limit": "relative to the encoder alone on the same views (goal: at least 0.70)",
    "build.best_passes": "encoded views of 512 × 512 pixels an image, in area (goal: at most 4)",
    "build.kl_of_limit": "a build by an autoencoder of the size of SD 2.1, relative to that alone",
    "train.images_per_second": "a training epoch on cached latents",
    "train.of_limit": "relative to forward, backward and update alone (goal: at least 0.95)",
    "train.over_sd": "times faster than with an SD-sized encoder in the loop (goal: 100)",
    "train.over_taesd": "times faster than with a TAESD-sized one (goal: 10)",
    "kde.over_sklearn": "times faster than scikit-learn's KernelDensity (goal: 9)",
    "kde.over_sklearn_exact": "the same with scikit-learn set to exact results",
}


@click.command("bench-speed", cls=LeakCommand)
@opt.vae
@opt.device
@opt.json
def bench_speed(vae: str, device: str, as_json: bool) -> None:
    """Benchmark build, training and KDE on this machine; about three minutes on two cores.

    JSON keys: build.images_per_second, build.of_limit, build.bf16_error,
    build.best_images_per_second, build.best_of_limit, build.best_passes, build.kl_of_limit,
    train.images_per_second, train.of_limit, train.over_sd, train.over_taesd,
    kde.over_sklearn, kde.over_sklearn_exact.

    \b
    Example:
      leak bench-speed --json
    """
    from leakcache.device import resolve_device

    where = resolve_device(device)
    measured = {"build": _build(vae, str(where)), "train": _train(where), "kde": _kde()}
    if as_json:
        emit(measured)
        return
    for group, values in measured.items():
        for name, value in values.items():
            click.echo(f"{group}.{name:<20} {value:10.3f}  {MEANING[f'{group}.{name}']}")
    next_steps(["cache", "build", "--vae", vae])


def _build(vae: str, device: str) -> dict[str, Any]:
    from leaknet.config import preset
    from leaknet.speed.build import measure_bf16_error, measure_build

    columns = preset("best").columns()
    speed, best = measure_build(vae, device), measure_build(vae, device, columns=columns, images=10)
    return {
        "images_per_second": 1 / speed.elapsed,
        "of_limit": speed.of_limit,
        "bf16_error": measure_bf16_error(vae, device),
        "best_images_per_second": 1 / best.elapsed,
        "best_of_limit": best.of_limit,
        "best_passes": best.passes,
        "kl_of_limit": _kl(device),
    }


def _kl(device: str) -> float:
    """Throughput of a build by a KL autoencoder of full size, relative to that alone."""
    import tempfile

    from leaknet.speed.build import measure_build
    from leaknet.speed.train import sd_autoencoder

    with tempfile.TemporaryDirectory(prefix="leak-speed-") as folder:
        sd_autoencoder().save_pretrained(folder)
        # In full precision, as a build measures the error of any other on its first image.
        return measure_build(folder, device, "fp32", images=6, side=256).of_limit


def _train(device: Any) -> dict[str, Any]:
    from leaknet.speed.train import measure_encoder, measure_epoch, sd_encoder, taesd_encoder

    speed = measure_epoch(device)
    return {
        "images_per_second": 1 / speed.cached,
        "of_limit": speed.of_limit,
        "over_sd": speed.over_encoder(measure_encoder(sd_encoder(), device)),
        "over_taesd": speed.over_encoder(measure_encoder(taesd_encoder(), device)),
    }


def _kde() -> dict[str, Any]:
    from leaknet.speed.kde import measure_density

    speed = measure_density()
    return {
        "over_sklearn": speed.sklearn / speed.ours,
        "over_sklearn_exact": speed.sklearn_exact / speed.ours,
    }
