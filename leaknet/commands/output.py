"""How commands print: JSON, findings, what was left out, and what to run next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from leakcache.files import json_text
from leakcache.names import visible

if TYPE_CHECKING:
    from leakcache.dataset.records import Finding

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
