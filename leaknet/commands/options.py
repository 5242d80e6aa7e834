"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leakcache.errors import ConfigError
from leakcache.files import json_text
from leakcache.names import visible

if TYPE_CHECKING:
    from leakcache.dataset.records import DatasetIndex, Finding, Split
    from leakcache.distributed.ray_pool import RayPool

_UNSHOWN = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

SHOWN = 20
"""Rejects printed one by one; `leak cache info --json` lists them all."""
ALPHA = 0.05
"""False-alarm rate that answers are given at unless --alpha says otherwise."""
SEED = click.IntRange(0, 2**63 - 1)
"""A seed that every generator of random numbers accepts."""
SEEDS = click.IntRange(1, 1000)
"""How many trainings a protocol has."""

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """`--json`: one JSON object on stdout, nothing else there."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
    )(command)


def data_option(command: Command) -> Command:
    """`--data`: the data root or index file."""
    return click.option(
        "--data",
        metavar="ROOT|URL",
        help="Folder of class folders, WILD, a CSV/Parquet index, or images in tar or Parquet "
        "files, as in 'shards/{0000..0099}.tar'; or a URL of these. [default: data/]",
    )(command)


def reading_options(command: Command) -> Command:
    """`--layout`, `--group`, `--label` and `--image`: how a data root is to be understood."""
    layout = click.option(
        "--layout",
        metavar="LEVELS",
        help="What the folders are, from the top: split, class, kind (real and generated), prompt "
        "or *, as in split/class, class/split/kind, class/prompt. [default: by their names]",
    )
    group = click.option(
        "--group",
        metavar="stem|prefix|folder|file|COLUMN",
        help="What images of one prompt share: the file's stem, the stem before its last number, "
        "the folder, nothing, or a column of the table. [default: by the names]",
    )
    label = click.option("--label", metavar="COLUMN", help="Column of a table that has the labels.")
    image = click.option(
        "--image", metavar="COLUMN", help="Column that has the images, of Parquet with several."
    )
    return layout(group(label(image(command))))


def read_data(root: Path, options: dict[str, Any], split: Split = "all") -> DatasetIndex:
    """The index of a data root, after saying on stderr how it was understood.

    Raises:
        DataError: it cannot be understood, or has errors (a single class, a class without
            images).
    """
    from leakcache.dataset.findings import refuse_errors
    from leakcache.dataset.index import read_index

    index = read_index(root, **reading(options))
    click.echo(visible(index.layout), err=True)
    print_findings(refuse_errors(index, split), err=True)
    return index


def reading(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `read_index` among a command's options."""
    names = ("seed", "open_set", "layout", "group", "label", "image")
    return {name: options[name] for name in names if options.get(name) is not None}


def print_findings(findings: Iterable[Finding], *, err: bool = False) -> None:
    """One line a finding, with its level."""
    for finding in findings:
        click.echo(f"{finding.level}: {finding.sentence}", err=err)


def print_rejects(rejects: tuple[tuple[str, str], ...]) -> None:
    """The first of what was left out."""
    if rejects:
        click.echo(f"{len(rejects)} left out:")
    for path, reason in rejects[:SHOWN]:
        click.echo(f"  {visible(path)}: {visible(reason)}")
    if len(rejects) > SHOWN:
        click.echo(f"  … and {len(rejects) - SHOWN} more (`leak cache info --json` lists them)")


def cache_option(command: Command) -> Command:
    """`--cache` and `--cache-mirror`: the folder of one cache, or its URL and the local copy."""
    folder = click.option(
        "--cache",
        metavar="DIR|URL",
        callback=_local_cache,
        help="Folder of the cache, or its URL (s3://, gs://, az://). [default: the one built last]",
    )
    mirror = click.option(
        "--cache-mirror",
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=_remember_mirror,
        help="Local copy of what is read of a cache by URL. [default: below the folder of caches]",
    )
    return folder(mirror(command))


_MIRROR = "leak.cache_mirror"


def _remember_mirror(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_MIRROR] = value


def _local_cache(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """The folder, of a URL that of its mirror, which is brought up to date."""
    from leakcache.store.remote import cache_home
    from leaknet.commands.defaults import Settings

    caches = (context.find_object(Settings) or Settings({})).caches
    return value and str(cache_home(value, caches, context.meta[_MIRROR] or ""))


def run_option(command: Command) -> Command:
    """`--run`: the folder of one run."""
    return click.option(
        "--run",
        metavar="DIR|ID",
        help="Folder of the run, or its hub id OWNER/NAME. [default: the one trained last]",
    )(command)


def open_option(command: Command) -> Command:
    """`--open`: folders of unknown generators."""
    return click.option(
        "--open",
        "open_roots",
        multiple=True,
        metavar="ROOT",
        help="Folder of unknown generators. [default: the open set of the data, if it has one]",
    )(command)


def recipe_options(preset: str) -> Callable[[Command], Command]:
    """`--preset`, by default the one given, `--config` and `--set`: settings of a model."""

    def add(command: Command) -> Command:
        start = click.option(
            "--preset", default=preset, show_default=True, help="paper, authors or best."
        )
        file = click.option("--config", metavar="FILE", help="TOML settings instead of a preset.")
        override = click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override, e.g. train.epochs=20.",
        )
        return start(file(override(command)))

    return add


def device_option(command: Command) -> Command:
    """`--device`: where torch computes."""
    return click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
    )(command)


def vae_option(command: Command) -> Command:
    """`--vae`: the autoencoder."""
    return click.option(
        "--vae",
        default="bundled",
        show_default=True,
        metavar="NAME|PATH|ID",
        help="bundled, sd21, sd15, sdxl, sd3, flux, taesd, taesdxl; a folder, a .safetensors "
        "file or a hub id.",
    )(command)


def log_option(command: Command) -> Command:
    """`--log`: an experiment tracker."""
    return click.option(
        "--log",
        type=click.Choice(["tensorboard", "trackio", "wandb", "mlflow"]),
        callback=_installed,
        help="Also write settings, epochs and final metrics to an experiment tracker. "
        "[default: none]",
    )(command)


def _installed(_: click.Context, __: click.Parameter, client: str | None) -> str | None:
    if client is not None:
        from leaknet.tracking import check_client

        try:
            check_client(client)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
    return client


def run_vae_option(command: Command) -> Command:
    """`--vae`: where the autoencoder of a run lies."""
    return click.option(
        "--vae",
        "autoencoder",
        metavar="NAME|PATH|ID",
        help="Where the run's autoencoder lies now. [default: where it was in training]",
    )(command)


def canonical_option(command: Command) -> Command:
    """`--canonical` and `--canonical-size`: the track on which only content can differ."""
    size = click.option(
        "--canonical-size",
        default=256,
        show_default=True,
        metavar="PIXELS",
        help="Side of the canonical form; smaller hides traces of native size better.",
    )
    flag = click.option(
        "--canonical",
        is_flag=True,
        help="Bring all images to one size and one re-encode first: only content can differ.",
    )
    return flag(size(command))


def fill_option(command: Command) -> Command:
    """`--fill`: compute columns that the cache lacks."""
    return click.option(
        "--fill", is_flag=True, help="Compute columns that the cache lacks, instead of refusing it."
    )(command)


def engine_options(command: Command) -> Command:
    """`--engine`, `--address` and `--actors`: who computes."""
    engine = click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="This process, or actors of a Ray cluster.",
    )
    address = click.option(
        "--address", metavar="HOST:PORT|auto", help="Ray cluster. [default: one on this machine]"
    )
    actors = click.option(
        "--actors",
        type=click.IntRange(1),
        metavar="N",
        help="Ray actors, on GPUs first. [default: one a GPU; without GPUs one a CPU]",
    )
    return engine(address(actors(command)))


def ray_pool(options: dict[str, Any]) -> RayPool | None:
    """The actors that `engine_options` name; None for this process.

    Raises:
        ConfigError: an option of Ray without `--engine ray`.
    """
    from leakcache.distributed.ray_pool import RayPool

    if options["engine"] == "ray":
        return RayPool(options["address"], options["actors"])
    for name in ("address", "actors"):
        if options[name] is not None:
            raise ConfigError(f"--{name} goes with --engine ray")
    return None


def alpha_option(command: Command) -> Command:
    """`--alpha`: the false-alarm rate, in (0, 1)."""
    return click.option(
        "--alpha",
        type=float,
        default=ALPHA,
        show_default=True,
        callback=_rate,
        help="Rate at which images of known generators may be called unknown.",
    )(command)


def _rate(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value < 1:
        raise click.BadParameter("takes a rate between 0 and 1")
    return value


def emit(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout; NaN, which JSON does not know, becomes null."""
    # JSON escapes of its own for what would move a terminal's cursor, or is no UTF-8.
    click.echo(_UNSHOWN.sub(lambda match: json.dumps(match[0])[1:-1], json_text(result)))


def next_steps(*commands: list[str]) -> None:
    """Print the commands that usually follow, as words after `leak`; not with --json."""
    for place, words in enumerate(commands):
        click.echo(f"{'  or:' if place else 'next:'} leak {shlex.join(words)}")
