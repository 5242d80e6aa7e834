"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leakcache.errors import ConfigError
from leakcache.names import visible
from leaknet.commands.base import print_findings

if TYPE_CHECKING:
    from leakcache.dataset.records import DatasetIndex, Split
    from leakcache.processes import RayPool

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]i?B)", re.IGNORECASE)
_UNITS = {
    letter + unit: base**power
    for unit, base in (("b", 1000), ("ib", 1024))
    for power, letter in enumerate("kmgt", 1)
}

ALPHA = 0.05
"""False-alarm rate that answers are given at unless --alpha says otherwise."""
SEED = click.IntRange(0, 2**63 - 1)
"""A seed that every generator of random numbers accepts."""
SEEDS = click.IntRange(1, 1000)
"""How many trainings a protocol has."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _limit_memory(_: click.Context, __: click.Parameter, given: str | None) -> None:
    from leakcache.processes import set_memory_limit

    found = _SIZE.fullmatch(given or "")
    if given and not found:
        raise click.UsageError(f"--memory {given} is no size: give one such as 4GiB or 500MB")
    set_memory_limit(int(float(found[1]) * _UNITS[found[2].lower()]) if found else None)


def _remember_mirror(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_MIRROR] = value


def _local_cache(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """The folder, of a URL that of its mirror, which is brought up to date."""
    from leakcache.store.remote import cache_home
    from leaknet.commands.base import Settings

    caches = (context.find_object(Settings) or Settings({})).caches
    mirror, number = context.meta[_MIRROR] or "", context.meta.get(_WORKER)
    return value and str(cache_home(value, caches, mirror, number))


def _parse_worker(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    from leakcache.processes import parse_worker

    found = parse_worker(value) if value else None
    context.meta[_WORKER] = found
    return found


def copy_urls(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Callback of an option or argument: in place of each URL the path of its local copy."""
    from leaknet.commands.base import local_copy

    if context.resilient_parsing or value is None:
        return value
    if isinstance(value, str):
        return str(local_copy(value)) if ":" in value else value
    return tuple(copy_urls(context, parameter, one) for one in value)


def _installed(_: click.Context, __: click.Parameter, client: str | None) -> str | None:
    if client is not None:
        from leaknet.tracking import check_client

        try:
            check_client(client)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
    return client


def _rate(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value < 1:
        raise click.BadParameter("takes a rate between 0 and 1")
    return value


_MIRROR = "leak.cache_mirror"
_WORKER = "leak.worker"

json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
)
data = click.option(
    "--data",
    metavar="ROOT|URL",
    help="Folder of class folders, WILD, a CSV/Parquet index, or images in tar or Parquet "
    "files, as in 'shards/{0000..0099}.tar'; or a URL of these. [default: data/]",
)
reading = _together(
    click.option(
        "--layout",
        metavar="LEVELS",
        help="What the folders are, from the top: split, class, kind (real and generated), prompt "
        "or *, as in split/class, class/split/kind, class/prompt. [default: by their names]",
    ),
    click.option(
        "--group",
        metavar="stem|prefix|folder|file|COLUMN",
        help="What images of one prompt share: the file's stem, the stem before its last number, "
        "the folder, nothing, or a column of the table. [default: by the names]",
    ),
    click.option("--label", metavar="COLUMN", help="Column of a table that has the labels."),
    click.option(
        "--image", metavar="COLUMN", help="Column that has the images, of Parquet with several."
    ),
    click.option(
        "--photographs",
        metavar="DIR",
        help="Folder of photographs, one folder a camera or none: one more class, real.",
    ),
)
cache = _together(
    click.option(
        "--cache",
        metavar="DIR|URL",
        callback=_local_cache,
        help="Folder of the cache, or its URL (s3://, gs://, az://). [default: the one built last]",
    ),
    click.option(
        "--cache-mirror",
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=_remember_mirror,
        help="Local copy of what is read of a cache by URL. [default: below the folder of caches]",
    ),
)
worker = click.option(
    "--worker",
    metavar="K/N|auto",
    is_eager=True,
    callback=_parse_worker,
    help="This is process K (from 0) of N that build one cache together, on hosts that share "
    "its folder, or anywhere with a URL; auto: as torchrun or SLURM has set.",
)
run = click.option(
    "--run",
    metavar="DIR|ID",
    help="Folder of the run, or its hub id OWNER/NAME. [default: the one trained last]",
)
open_roots = click.option(
    "--open",
    "open_roots",
    multiple=True,
    metavar="ROOT|URL",
    callback=copy_urls,
    help="Folder of unknown generators. [default: the open set of the data, if it has one]",
)
open_set = click.option(
    "--open", "open_set", is_flag=True, help="Read every class as an unknown generator."
)
device = click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
memory = click.option(
    "--memory",
    metavar="SIZE",
    expose_value=False,
    callback=_limit_memory,
    help="Memory for columns of images, as 4GiB; what needs more is read from disk as it is used. "
    "[default: half of the machine's]",
)
vae = click.option(
    "--vae",
    default="bundled",
    metavar="NAME|PATH|ID",
    help="bundled, sd21, sd15, sdxl, sd3, flux, taesd, taesdxl; a folder, a .safetensors "
    "file or a hub id.",
)
run_vae = click.option(
    "--vae",
    "autoencoder",
    metavar="NAME|PATH|ID",
    help="Where the run's autoencoder lies now. [default: where it was in training]",
)
log = click.option(
    "--log",
    type=click.Choice(["tensorboard", "trackio", "wandb", "mlflow"]),
    callback=_installed,
    help="Also write settings, epochs and final metrics to an experiment tracker. [default: none]",
)
canonical = _together(
    click.option(
        "--canonical",
        is_flag=True,
        help="Bring all images to one size and one re-encode first: only content can differ.",
    ),
    click.option(
        "--canonical-size",
        default=256,
        metavar="PIXELS",
        help="Side of the canonical form; smaller hides traces of native size better.",
    ),
)
fill = click.option(
    "--fill", is_flag=True, help="Compute columns that the cache lacks, instead of refusing it."
)
force = click.option(
    "--force", is_flag=True, help="Leave out open images that are also closed ones."
)
engine = _together(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="This process, or actors of a Ray cluster.",
    ),
    click.option(
        "--address", metavar="HOST:PORT|auto", help="Ray cluster. [default: one on this machine]"
    ),
    click.option(
        "--actors",
        type=click.IntRange(1),
        metavar="N",
        help="Ray actors, on GPUs first. [default: one a GPU; without GPUs one a CPU]",
    ),
)
alpha = click.option(
    "--alpha",
    type=float,
    default=ALPHA,
    callback=_rate,
    help="Rate at which images of known generators may be called unknown.",
)


def images(metavar: str, *, required: bool = True) -> Callable[[Command], Command]:
    """Arguments that are image files, folders or URLs of these."""
    return click.argument(
        "images", nargs=-1, required=required, metavar=metavar, callback=copy_urls
    )


def recipe(preset: str) -> Callable[[Command], Command]:
    """`--preset`, by default the one given, `--config` and `--set`: settings of a model."""
    return _together(
        click.option("--preset", default=preset, help="paper, authors or best."),
        click.option("--config", metavar="FILE", help="TOML settings instead of a preset."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override, e.g. train.epochs=20.",
        ),
    )


def seed(what: str) -> Callable[[Command], Command]:
    """`--seed`, 0 by default, of `what`."""
    return click.option("--seed", type=SEED, default=0, help=what)


def step_numbers(least: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """A callback that reads numbers of degradation operations, from `least` to 3."""
    steps = [str(number) for number in range(least, 4)]

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
        given = sorted({part.strip() for part in text.split(",") if part.strip()})
        if not set(given) <= set(steps):
            raise click.BadParameter(f"takes some of {', '.join(steps)}, such as 1,2,3")
        return [int(number) for number in given]

    return read


def read_data(root: Path, options: dict[str, Any], split: Split = "all") -> DatasetIndex:
    """The index of a data root, after saying on stderr how it was understood.

    Raises:
        DataError: it cannot be understood, or has errors (a single class, a class without
            images).
    """
    from leakcache.dataset.findings import refuse_errors
    from leakcache.dataset.index import read_index

    index = read_index(root, **reading_arguments(options))
    click.echo(visible(index.layout), err=True)
    print_findings(refuse_errors(index, split), err=True)
    return index


def reading_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `read_index` among a command's options."""
    names = ("seed", "open_set", "layout", "group", "label", "image", "photographs")
    return {name: options[name] for name in names if options.get(name) is not None}


def ray_pool(options: dict[str, Any]) -> RayPool | None:
    """The actors that the options of `engine` name; None for this process.

    Raises:
        ConfigError: an option of Ray without `--engine ray`.
    """
    from leakcache.processes import RayPool

    if options["engine"] == "ray":
        return RayPool(options["address"], options["actors"])
    for name in ("address", "actors"):
        if options[name] is not None:
            raise ConfigError(f"--{name} goes with --engine ray")
    return None
