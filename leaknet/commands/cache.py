"""`leak cache`: build, inspect, check, copy and export caches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakcache.names import visible
from leaknet.commands import options as opt
from leaknet.commands.base import (
    LeakCommand,
    Settings,
    cache_folder,
    emit,
    next_steps,
    print_rejects,
)
from leaknet.commands.cache_build import build
from leaknet.commands.preflight import check_cache

if TYPE_CHECKING:
    from leakcache.store.cache import Cache
    from leakcache.store.verify import Verification


@click.group()
def cache() -> None:
    """Build, inspect, check and export latent caches."""


cache.add_command(build)


def _finished(given: str | None, settings: Settings, split: str = "") -> Path:
    """The folder of a cache, of which a split is finished; refused without importing torch."""
    folder = cache_folder(given, settings.caches)
    if split or not any(folder.glob("*/manifest.json")):
        check_cache(folder, split or "closed")
    return folder


def open_caches(folder: Path) -> dict[str, Cache]:
    """The finished caches in a folder, `closed` first.

    Raises:
        CacheIncomplete: there is none.
    """
    from leakcache.store.cache import Cache

    found = {
        path.parent.name: Cache.open(path.parent) for path in sorted(folder.glob("*/manifest.json"))
    }
    return found or {"closed": Cache.open(folder / "closed")}


@cache.command(cls=LeakCommand)
@opt.cache
@opt.json
@click.pass_obj
def info(settings: Settings, cache: str | None, as_json: bool) -> None:
    """What a cache is, how big, how complete, and which images were left out and why.

    \b
    Example:
      leak cache info
    """
    folder = _finished(cache, settings)

    from leakcache.store.verify import describe, describe_columns

    facts = {name: describe(found) for name, found in open_caches(folder).items()}
    columns = describe_columns(folder)
    if as_json:
        emit({"cache": str(folder), "columns": columns, **facts})
        return
    for name, fact in facts.items():
        rejects = tuple((reject["path"], reject["reason"]) for reject in fact.pop("rejects"))
        click.echo(f"{folder / name}")
        for key, value in fact.items():
            click.echo(f"  {key:<14} {visible(str(value))}")
        print_rejects(rejects)
    for name, fact in columns.items():
        size = f"{fact['bytes'] / 1e6:.1f} MB"
        click.echo(f"  {name:<40} {fact['images']} images, {fact['shape']}, {size}")
    next_steps(["cache", "verify", "--cache", str(folder)], ["train", "--cache", str(folder)])


@cache.command(cls=LeakCommand)
@opt.cache
@click.option("--vae", default=None, help="Autoencoder for the spot check. [default: as built]")
@click.option(
    "--spot",
    default=8,
    help="Images of each split to compute again; 0 for none.",
)
@opt.device
@opt.json
@click.pass_obj
def verify(
    settings: Settings, cache: str | None, vae: str | None, spot: int, device: str, as_json: bool
) -> None:
    """Check all checksums, and compute the columns of a few images again.

    JSON keys: ok, shards, damaged[], recomputed, worst, differing[].

    \b
    Example:
      leak cache verify --spot 20
    """
    folder = _finished(cache, settings)

    from leakcache.device import resolve_device
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.store.verify import verify as check

    splits = list(open_caches(folder).values())
    encoding = splits[0].manifest.encoding
    spec, where = vae or encoding.autoencoder.spec, str(resolve_device(device))
    encoder = Encoder.load(spec, encoding.precision, where, encoding.runtime) if spot else None
    result = check(splits, encoder, spot)
    if as_json:
        emit({"ok": result.ok, **vars(result)})
    else:
        print_verified(folder, result)
        next_steps(["cache", "info", "--cache", str(folder)])
    if not result.ok:
        sys.exit(1)


@cache.command(cls=LeakCommand)
@click.argument("url", metavar="URL")
@opt.cache
@opt.json
@click.pass_obj
def push(settings: Settings, url: str, cache: str | None, as_json: bool) -> None:
    """Upload a cache to an object store; run it again to resume, or after adding images.

    The manifest comes last, and replaces none that another process wrote meanwhile. Credentials
    come from the environment, as in docs/SCALE.md.
    JSON keys: url, objects (uploaded now).

    \b
    Example:
      leak cache push s3://bucket/caches/faces
      leak train --cache s3://bucket/caches/faces
    """
    from leakcache.errors import ConfigError
    from leakcache.store.remote import SCHEMES, Mirror, is_url

    if not is_url(url):
        raise ConfigError(
            f"{visible(url)}: takes a URL of {', '.join(SCHEMES)}, as s3://bucket/name"
        )
    folder = _finished(cache, settings)
    open_caches(folder)
    count = Mirror.begin(url, folder).push()
    if as_json:
        emit({"url": url, "objects": count})
    else:
        click.echo(f"{url}: {count} objects written")
        next_steps(["train", "--cache", url])


@cache.command(cls=LeakCommand)
@opt.cache
@click.option("--to", "form", type=click.Choice(["h5"]), default="h5")
@click.option("--out", metavar="FILE", help="File to write. [default: beside the cache]")
@click.option("--split", default="closed", help="Which of the caches in it.")
@opt.json
@click.pass_obj
def export(
    settings: Settings, cache: str | None, form: str, out: str | None, split: str, as_json: bool
) -> None:
    """Write a cache as one file for other tools.

    \b
    Example:
      leak cache export --to h5 --out latents.h5
    """
    folder = _finished(cache, settings, split)

    from leakcache.store.cache import Cache
    from leakcache.store.verify import export_h5

    found = Cache.open(folder / split)
    target = export_h5(found, Path(out) if out else folder / f"{split}.{form}")
    if as_json:
        emit({"file": str(target), "images": len(found), "bytes": target.stat().st_size})
    else:
        click.echo(f"{target}: {len(found)} images, {target.stat().st_size / 1e6:.1f} MB")
        next_steps(["train", "--cache", str(folder)])


def print_verified(folder: Path, result: Verification) -> None:
    """What was found in the columns of a cache folder."""
    click.echo(
        f"{folder}: {result.shards} shards read, {len(result.damaged)} damaged; "
        f"{result.recomputed} images computed again, largest difference {result.worst:.2%}"
    )
    for line in (*result.damaged, *result.differing):
        click.echo(f"  {visible(line)}")
