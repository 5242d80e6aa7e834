"""What `leak cache` prints of a build and of a cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from leakcache.store.build import BuildReport
    from leakcache.store.derived import RowCheck
    from leakcache.store.verify import Verification

SHOWN = 20
"""Rejects printed one by one; `leak cache info --json` lists them all."""


def built(report: BuildReport) -> dict[str, Any]:
    """Plain values of one split's build."""
    manifest = report.cache.manifest
    return {
        "path": str(report.cache.path),
        "fingerprint": manifest.fingerprint,
        "images": manifest.images,
        "encoded": report.encoded,
        "reused": report.reused,
        "resumed": report.resumed,
        "changes": str(report.changes),
        "relative_latent_error": manifest.facts["relative_latent_error"],
        "rejects": [{"path": path, "reason": reason} for path, reason in manifest.rejects],
        "seconds": round(report.seconds, 3),
    }


def print_built(split: str, report: BuildReport) -> None:
    """What one split's build did."""
    manifest = report.cache.manifest
    if report.changes:
        click.echo(f"{split}: since the last build, {report.changes}")
    click.echo(
        f"{split}: {manifest.images} images in {report.cache.path} "
        f"({report.encoded} encoded, {report.reused} reused, {report.resumed} already done, "
        f"{report.seconds:.1f} s)"
    )
    error = manifest.facts["relative_latent_error"]
    if error is not None:
        click.echo(
            f"{split}: {manifest.encoding.precision} latents differ from fp32 by {error:.2%} RMS"
        )
    print_rejects(manifest.rejects)


def print_extras(extras: dict[str, dict[str, Any]]) -> None:
    """What was stored beside the latents; nothing where that was not asked for."""
    for what, splits in sorted(extras.items()):
        for split, stores in splits.items():
            for name, one in stores.items():
                click.echo(
                    f"{split}: {what} {name}: {one['cut']} images read, {one['kept']} already "
                    f"there, {one['bytes'] / 1e6:.1f} MB in all"
                )


def print_rejects(rejects: tuple[tuple[str, str], ...]) -> None:
    """The first of what was left out."""
    if rejects:
        click.echo(f"{len(rejects)} left out:")
    for path, reason in rejects[:SHOWN]:
        click.echo(f"  {path}: {reason}")
    if len(rejects) > SHOWN:
        click.echo(f"  … and {len(rejects) - SHOWN} more (`leak cache info --json` lists them)")


def print_verified(folder: Path, results: dict[str, Verification], rows: RowCheck) -> None:
    """What was found in each split's latents, and in the rows beside them."""
    for name, result in results.items():
        click.echo(
            f"{folder / name}: {result.shards} shards read, {len(result.damaged)} damaged; "
            f"{result.reencoded} images encoded again, largest difference {result.worst:.2%}"
        )
        for line in (*result.damaged, *result.differing):
            click.echo(f"  {line}")
    if rows.shards:
        click.echo(
            f"{folder / 'rows'}: {rows.shards} shards read, {len(rows.damaged)} damaged; "
            f"{rows.recut} images cut again, {len(rows.differing)} differ"
        )
    for line in (*rows.damaged, *rows.differing):
        click.echo(f"  {line}")


def refuse_too_many_rejects(reports: list[BuildReport], percent: float) -> None:
    """Exit with 1 where more than `percent` of the files were left out."""
    refused = sum(len(report.cache.manifest.rejects) for report in reports)
    total = refused + sum(report.cache.manifest.images for report in reports)
    if refused > total * percent / 100:
        click.echo(
            f"error: {refused} of {total} files were left out, more than --max-rejects "
            f"{percent:g} %; the cache holds the rest and can be used",
            err=True,
        )
        sys.exit(1)
