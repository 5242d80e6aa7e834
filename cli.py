"""The `leak` command: finds the command that is asked for and turns errors into one line.

Nothing heavy is imported here, so that `leak --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from difflib import get_close_matches
from typing import TextIO

import click

from leakcache.errors import DecoderWarning, LeakError
from leakcache.names import visible
from leaknet.commands.base import Settings, read_settings

_show_python_warning = warnings.showwarning

COMMANDS = {
    "demo": "Run everything on the bundled sample: cache, train, score, report.",
    "data": "Understand a data set: which images, generators, folds.",
    "audit": "Find what in a data set gives the generator away without any signal leak.",
    "cache": "Build, inspect, check and export latent caches.",
    "train": "Train the prototype model on a cache.",
    "score": "Score the test fold, an open set, or your own images.",
    "same": "Compare images: do they have the same source, known or not?",
    "cluster": "Group images by source: how many sources, which images belong together.",
    "atlas": "Show the mean traces of the generators of a cache.",
    "explain": "Explain the answers of a run to single images.",
    "evaluate": "Evaluate a recipe over seeds: closed, open, generators left out, controls.",
    "ablate": "Run a table of settings that differ, from one cache.",
    "bench": "Run the compared methods on the same folds: the paper's Table 1.",
    "compare": "Test whether two runs differ on the same images.",
    "enroll": "Add a new generator to a run from a few images.",
    "export": "Write a run as ONNX graphs with a scorer that needs neither torch nor leak.",
    "push": "Push a run to the hub of Hugging Face, with a model card.",
    "serve": "Score images on a local page, or through HTTP.",
    "report": "Write the report of a run, or of several, as one HTML page.",
    "runs": "List the trained runs, or choose the default one.",
    "bench-speed": "Measure on this machine what is claimed about speed.",
}


MODULES = {
    **dict.fromkeys(("compare", "export", "push", "serve"), "runs"),
    **dict.fromkeys(("atlas", "audit"), "report"),
    **dict.fromkeys(("cluster", "enroll"), "same"),
    "ablate": "evaluate",
    "bench_speed": "bench",
    "demo": "train",
    "explain": "score",
}
"""Modules of the commands that share one; the others have the name of their command."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a first day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; `bench-speed` is `bench_speed`."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"leaknet.commands.{MODULES.get(name, name)}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first argument; what is misspelt names the nearest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = get_close_matches(name, COMMANDS, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {visible(name)!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(package_name="leaknet", prog_name="leak")
@click.option("--caches", default="caches", help="Where caches are kept.")
@click.option("--runs", default="runs", help="Where runs are kept.")
@click.pass_context
def leak(ctx: click.Context, caches: str, runs: str) -> None:
    """Which generator made this image, and is it one we have never seen?

    Every option of every command can also stand in a `leak.toml` in the working directory:
    at its top level for all commands, under [train], [cache.build], ... for one.

    \b
    Example:
      leak demo
      leak cache build --split closed && leak train && leak score --kde
    """
    settings = ctx.find_object(Settings) or Settings({})
    ctx.obj = settings.with_places(ctx, caches, runs)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning about the user's data as one line, any other as Python does it."""
    if issubclass(category, DecoderWarning):
        click.echo(f"warning: {visible(str(message))}", err=True)
    else:
        _show_python_warning(message, category, filename, lineno, file, line)


def main() -> None:
    """Run `leak`; exit 0 on success, 1 on a refusal or an interruption, 2 on wrong usage."""
    warnings.showwarning = show_warning
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Threads that spin while they wait slow a shared machine down several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _run()
        _ignore_signals()
    except (click.Abort, KeyboardInterrupt):
        _ignore_signals()
        click.echo("interrupted: the same command goes on where this one stopped", err=True)
        code = 1
    sys.exit(code)


def _ignore_signals() -> None:
    """Let nothing interrupt the end of a command that has done its work."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


def _run() -> int:
    """Run the command; the exit status."""
    try:
        code = leak.main(prog_name="leak", standalone_mode=False, obj=read_settings())
    except LeakError as error:
        click.echo(f"error: {visible(str(error))}", err=True)
        return 1
    except OSError as error:
        place = f"{visible(str(error.filename))}: " if error.filename else ""
        click.echo(
            f"error: {place}{error.strerror or error}; check that it is there and can be read "
            "and written, and that the disk has room",
            err=True,
        )
        return 1
    except (MemoryError, RecursionError) as error:
        what = "memory" if isinstance(error, MemoryError) else "depth for what is nested"
        click.echo(f"error: not enough {what}; close other programs or check the input", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
