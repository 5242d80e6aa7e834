"""The `leak` command itself: help, exit codes, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli
from leakcache.errors import DataError, DecoderWarning

ROOT = Path(__file__).resolve().parents[1]


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        yield " ".join([*words, name]), command


EVERY = dict(commands(cli.leak))


@pytest.mark.parametrize("name", EVERY)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    command = EVERY[name]
    with click.Context(command, info_name=f"leak {name}") as context:
        text = command.get_help(context)
    assert "\\b" not in text
    assert len(text.splitlines()[2].split()) >= 3
    if not isinstance(command, click.Group):
        assert "Example:" in text
        assert f"leak {name}" in text.split("Example:")[1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.type.name == "choice", parameter.name


def test_every_command_that_prints_a_result_has_json() -> None:
    """All but the server, which answers requests."""
    lacking = [
        name
        for name, command in EVERY.items()
        if not isinstance(command, click.Group)
        and name != "serve"
        and "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert lacking == []


def leak(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """`leak WORDS` in a process of its own; `code` runs when it has ended."""
    program = f"import sys, cli\ntry:\n    cli.main()\nfinally:\n    {code or 'pass'}"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [["--help"], ["cache", "--help"], ["cache", "build", "-h"], ["--version"], ["nonsense"]],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = "{'torch', 'numpy', 'zarr', 'diffusers', 'PIL', 'scipy'} & set(sys.modules)"
    said = leak(*words, code=f"print('heavy:', sorted({heavy}), file=sys.stderr)")
    assert "heavy: []" in said.stderr
    assert said.returncode == (2 if words == ["nonsense"] else 0)
    assert "Traceback" not in said.stderr


def test_unknown_commands_and_options_are_wrong_usage() -> None:
    for words in (["nonsense"], ["--nonsense"], ["cache", "nonsense"], ["cache"]):
        said = leak(*words)
        assert said.returncode == 2, words
        assert said.stdout == ""


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (DataError("no images: look elsewhere"), "error: no images: look elsewhere"),
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (KeyboardInterrupt(), "the same command goes on"),
    ],
)
def test_errors_are_one_line_and_exit_1(
    raised: BaseException,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setattr(cli.leak, "get_command", lambda ctx, name: failing)
    monkeypatch.setattr(sys, "argv", ["leak", "failing"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.leak, "get_command", lambda ctx, name: failing)
    monkeypatch.setattr(sys, "argv", ["leak", "failing"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_warning_about_the_decoder_is_one_plain_line(capsys, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", cli.show_warning)
        warnings.warn("c: decoded by\x1b other", DecoderWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: c: decoded by\\x1b other\n"
