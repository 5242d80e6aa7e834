"""What all commands share: defaults in `leak.toml`, places of caches and runs, and output."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.errors import CacheError, ConfigError, DataError, RunError
from leakcache.files import json_text, parse_toml, read_text
from leakcache.names import visible, without_braces
from leakcache.processes import keep_freed_memory

if TYPE_CHECKING:
    from leakcache.dataset.records import Finding


FILE = Path("leak.toml")
COMMON = ("data", "caches", "runs", "cache", "run", "vae", "open", "preset", "seed", "device")
"""Options that may stand at the top level, for every command that has them."""


@dataclass(frozen=True)
class Settings:
    """What `leak.toml` says, and where caches and runs are kept.

    Attributes:
        content: the parsed file.
        caches: folder of caches.
        runs: folder of runs.
    """

    content: dict[str, Any]
    caches: Path = field(default=Path("caches"))
    runs: Path = field(default=Path("runs"))

    def with_places(self, ctx: click.Context, caches: str, runs: str) -> Settings:
        """Settings with the folders of the root options; a flag goes before the file."""

        def chosen(name: str, given: str) -> Path:
            flag = ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
            return Path(given if flag else str(self.content.get(name, given)))

        return Settings(self.content, chosen("caches", caches), chosen("runs", runs))


class LeakCommand(click.Command):
    """A command whose options take their defaults from `leak.toml`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Look the defaults up: common ones first, then those of the command's own table.

        Raises:
            ConfigError: the table names an option that the command does not have.
        """
        settings = parent.find_object(Settings) if parent else None
        if parent and settings:
            refuse_unknown_tables(settings.content, parent)
            words = [*parent.command_path.split()[1:], info_name or ""]
            extra["default_map"] = self._defaults(settings.content, words)
        extra.setdefault("show_default", True)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with an allocator that suits large tensors."""
        keep_freed_memory()
        return super().invoke(ctx)

    def _defaults(self, content: dict[str, Any], words: list[str]) -> dict[str, Any]:
        known = {parameter.name for parameter in self.params}
        # `[cache.build]` makes `cache` a table of the file; only `cache = "DIR"` is the option.
        defaults = {
            key: content[key]
            for key in COMMON
            if key in known and not isinstance(content.get(key, {}), dict)
        }
        table: Any = content
        for word in words:
            table = _table(table, word)
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ConfigError(
                    f"{FILE}: [{'.'.join(words)}] has no option {key}; "
                    f"see `leak {' '.join(words)} -h`"
                )
            defaults[name] = value
        return defaults


def refuse_unknown_tables(content: dict[str, Any], ctx: click.Context) -> None:
    """Refuse what stands where the name of a command is expected, on the way to `ctx`.

    Raises:
        ConfigError: no command has that name.
    """
    if ctx.parent:
        refuse_unknown_tables(content, ctx.parent)
    words = ctx.command_path.split()[1:]
    table = content
    for word in words:
        table = _table(table, word)
    commands = ctx.command.list_commands(ctx) if isinstance(ctx.command, click.Group) else []
    for key, value in table.items():
        if key not in commands and (words or isinstance(value, dict)):
            place = ".".join([*words, key])
            raise ConfigError(
                f"{FILE}: {place} is not known; under {' '.join(['leak', *words])} there are "
                f"{', '.join(commands)}"
            )


def _table(content: dict[str, Any], word: str) -> dict[str, Any]:
    # `cache = "DIR"` is an option for all commands, `[cache.build]` a table: either may stand.
    found = content.get(word, {})
    return found if isinstance(found, dict) else {}


def read_settings() -> Settings:
    """Read `leak.toml` if there is one.

    Raises:
        ConfigError: it is not TOML, or names an unknown common option.
    """
    try:
        content = parse_toml(read_text(FILE))
    except FileNotFoundError:
        return Settings({})
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{FILE}: not readable as TOML ({error}); correct or delete it"
        ) from error
    for key, value in content.items():
        if not isinstance(value, dict) and key not in COMMON:
            raise ConfigError(
                f"{FILE}: {key} is not known at the top level; take one of {', '.join(COMMON)}, "
                "or put it into the table of its command"
            )
    return Settings(content)


# Where data, caches and runs lie when no flag says so.

LATEST = "latest"
POINTER_LIMIT = 2**16
"""Most bytes that are read of the file that names a default folder."""
SAMPLE = Path("share") / "leaknet" / "data"


def data_root(given: str | None) -> Path:
    """The data root: as given, else `data/` here, else the sample that was installed.

    What a URL names is copied below the folder of caches first.

    Raises:
        DataError: there is none.
    """
    if given is not None:
        return local_copy(given)
    here = Path("data")
    if here.is_dir():
        return here
    return sample_root()


def local_copy(given: str) -> Path:
    """The path that an argument names; of a URL that of its copy below the folder of caches.

    Raises:
        CacheError, ConfigError: as `leakcache.dataset.image_files.copy_images`.
    """
    from leakcache.dataset.image_files import local_images

    context = click.get_current_context(silent=True)
    caches = ((context and context.find_object(Settings)) or Settings({})).caches
    return local_images(given, caches)


def sample_root() -> Path:
    """The bundled sample: in a checkout beside the packages, else where the wheel put it.

    Raises:
        DataError: it was not installed.
    """
    checkout = Path(__file__).resolve().parents[2] / "data"
    for root in (checkout, Path(sys.prefix) / SAMPLE):
        if (root / "Closed_Set").is_dir():
            return root
    raise DataError("no data/ here and no bundled sample installed; name a folder with --data")


def name_cache(root: Path, vae: str, preprocessing: str, precision: str) -> str:
    """Folder name that tells caches of the same data apart."""
    autoencoder = Path(vae).stem if vae.endswith(".safetensors") else vae.rstrip("/").split("/")[-1]
    name = f"{without_braces(root.resolve().name)}-{autoencoder}-{preprocessing}"
    return name if precision == "fp32" else f"{name}-{precision}"


def remember(parent: Path, folder: Path) -> None:
    """Make `folder` the default of later commands; a change of that default is said on stderr."""
    parent.mkdir(parents=True, exist_ok=True)
    before = latest(parent)
    if before and before.resolve() != folder.resolve():
        click.echo(f"default of {parent}: now {folder}; it was {before}", err=True)
    (parent / LATEST).write_text(f"{folder.resolve()}\n", encoding="utf-8")


def cache_folder(given: str | None, caches: Path) -> Path:
    """The cache: as given, else the one built last.

    Raises:
        CacheError: none was built yet.
    """
    if given is not None:
        return Path(given)
    found = latest(caches)
    if found is None:
        raise CacheError(f"{caches}: no cache yet; run `leak cache build` or name one with --cache")
    return found


def run_folder(given: str | None, runs: Path) -> Path:
    """The run: as given, a folder or a hub id, else the one trained last.

    Raises:
        RunError: nothing was trained yet, or the hub does not give the run.
    """
    if given is not None:
        if Path(given).exists():
            return Path(given)
        from leaknet.export.hub import local_run

        return local_run(given)
    found = latest(runs)
    if found is None:
        raise RunError(f"{runs}: no run yet; run `leak train` or name one with --run")
    return found


def latest(parent: Path) -> Path | None:
    """The folder that commands take by default; None without one, or where it is gone."""
    pointer = parent / LATEST
    try:
        folder = Path(read_text(pointer, POINTER_LIMIT).strip())
    except (OSError, ValueError):
        return None
    if not folder.is_dir():
        return None
    here = Path.cwd().resolve()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


_UNSHOWN = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 20
"""Rejects printed one by one; `leak cache info --json` lists them all."""


def emit(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout; NaN, which JSON does not know, becomes null."""
    # JSON escapes of its own for what would move a terminal's cursor, or is no UTF-8.
    click.echo(_UNSHOWN.sub(lambda match: json.dumps(match[0])[1:-1], json_text(result)))


def next_steps(*commands: list[str]) -> None:
    """Print the commands that usually follow, as words after `leak`; not with --json."""
    for place, words in enumerate(commands):
        click.echo(f"{'  or:' if place else 'next:'} leak {shlex.join(words)}")


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
