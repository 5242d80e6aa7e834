"""`leak audit`: what in a data set gives the generator away without any signal leak."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from leaknet.commands.defaults import LeakCommand, data_root
from leaknet.commands.options import canonical_option, emit, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from leaknet.audit.audit import Audit
    from leaknet.metrics.bootstrap import Interval

_STYLES = {"severe": "bold red", "warning": "yellow", "unsure": "cyan", "note": "dim"}


@click.command(cls=LeakCommand)
@click.argument("data", metavar="[DATA]", required=False)
@click.option(
    "--open",
    "open_roots",
    multiple=True,
    metavar="ROOT",
    help="Folder of unknown generators to judge beside DATA; may be repeated.",
)
@canonical_option
@click.option("--seed", default=0, show_default=True, help="Of the fold cut where none is given.")
@json_option
def audit(
    data: str | None,
    open_roots: tuple[str, ...],
    canonical: bool,
    canonical_size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Judge DATA before any training: could a score be had without any signal leak?

    Classifiers that see file facts alone (size, format, coding, metadata), or an 8×8 thumbnail
    alone, try to name the generator and to tell unknown generators from known ones. Pictures
    that occur twice, prompt groups across folds and uneven classes are listed. With --canonical
    the images are judged as `leak cache build --canonical` brings them before the encoder.
    [default: data/]

    JSON keys: metadata.*, thumbnail.* (top1, macro_auc, interval, chance, per_class_auc,
    shuffled, facts), open.metadata.*, open.thumbnail.* (auroc, interval, generators, facts),
    duplicates.exact.*, duplicates.near.*, crossing_groups, images, unreadable, findings
    (level, control, sentence).

    \b
    Example:
      leak audit photos/
      leak audit photos/ --open unknown-generators/ --canonical --json
    """
    from leakcache.dataset.index import read_index
    from leakcache.images.decode import Preprocessing
    from leaknet.audit.audit import audit as judge

    side = Preprocessing(canonical=canonical, canonical_size=canonical_size).canonical_size
    found = judge(
        read_index(data_root(data), seed=seed),
        [read_index(Path(root), open_set=True) for root in open_roots],
        canonical=side if canonical else None,
    )
    if as_json:
        emit(found.as_dict())
    else:
        _print(found)


def _print(found: Audit) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_table(found))
    judged = [control.protocol for control in (found.metadata, found.open_metadata) if control]
    if judged:
        words = "; known against unknown: ".join(judged)
        console.print(Text(f"95 % intervals; judged on {words}", style="dim"), soft_wrap=True)
    for finding in found.findings:
        level = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
        console.print(level + Text(finding.sentence, style=""), soft_wrap=True)


def _table(found: Audit) -> Table:
    """One row a control: top-1, macro AUC and, where there is an open set, its AUROC."""
    from rich.table import Table
    from rich.text import Text

    form = f", canonical form of {found.canonical} px" if found.canonical else ""
    images = found.as_dict(paths=False)["images"]
    counts = ", ".join(f"{number} {name}" for name, number in images.items() if number)
    table = Table(title=Text(f"{found.index.root}{form}: {counts}"), title_justify="left")
    for heading in ("what is seen", "top-1", "chance", "macro AUC", "known against unknown"):
        table.add_column(heading, justify="left" if heading == "what is seen" else "right")
    rows = (
        ("file facts", found.metadata, found.open_metadata),
        ("8×8 thumbnail", found.thumbnail, found.open_thumbnail),
    )
    for name, closed, unknown in rows:
        table.add_row(
            name,
            _cell(closed.top1) if closed else "-",
            f"{closed.chance:.3f}" if closed else "-",
            _cell(closed.macro_auc) if closed else "-",
            _cell(unknown.auroc) if unknown else "-",
        )
    return table


def _cell(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.2f}-{interval.high:.2f})"
