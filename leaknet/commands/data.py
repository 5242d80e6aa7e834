"""`leak data`: which images, generators and folds a data root holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from leaknet.commands.options import emit, json_option
from leaknet.commands.places import data_root
from leaknet.commands.settings import LeakCommand, Settings

if TYPE_CHECKING:
    from rich.table import Table

    from leakcache.index import DatasetIndex

SHOWN = 20
"""Rejects printed one by one; `--json` lists them all."""


@click.group()
def data() -> None:
    """Understand a data set: which images, generators and folds there are."""


@data.command(cls=LeakCommand)
@click.argument("data", metavar="[ROOT]", required=False)
@click.option("--open", "open_set", is_flag=True, help="Read every class as an unknown generator.")
@click.option("--seed", default=0, show_default=True, help="Of the fold cut where none is given.")
@click.option(
    "--out", metavar="FILE", help="Where to write the index. [default: CACHES/ROOT.index.csv]"
)
@json_option
@click.pass_context
def index(
    ctx: click.Context, data: str | None, open_set: bool, seed: int, out: str | None, as_json: bool
) -> None:
    """Print and write how ROOT is understood: classes, folds, prompt groups, rejects.

    ROOT is a folder of class folders, WILD as it comes (Closed_Set, Open_Set, Split.json,
    step1 to step3), or a CSV or Parquet file with path,label and, if wished, group,fold.
    Without a split the folds are cut by prompt group, never by image. The CSV that is written
    (path,label,group,fold) can be edited and given as ROOT or --data. [default: data/]

    JSON keys: root, layout, classes, unknown, counts.LABEL.FOLD, groups, crossing_groups,
    rejects (path, reason), out.

    \b
    Example:
      leak data index path/to/WILD --out index.csv
      leak data index path/to/WILD/step1 --json
    """
    from leakcache.index import read_index

    found = read_index(data_root(data), seed=seed, open_set=open_set)
    caches = (ctx.find_object(Settings) or Settings({})).caches
    file = Path(out) if out else caches / f"{found.root.name}.index.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    found.write_csv(file)
    if as_json:
        emit({**_summary(found), "out": str(file)})
        return
    _print(found)
    click.echo(f"written to {file}")


def _summary(found: DatasetIndex) -> dict[str, object]:
    return {
        "root": str(found.root),
        "layout": found.layout,
        "classes": found.classes,
        "unknown": found.unknown,
        "counts": found.counts(),
        "groups": len({record.group for record in found.records}),
        "crossing_groups": found.crossing_groups,
        "rejects": [{"path": r.path, "reason": r.reason} for r in found.rejects],
    }


def _print(found: DatasetIndex) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.print(_table(found))
    console.print(found.layout, soft_wrap=True)
    for reject in found.rejects[:SHOWN]:
        console.print(f"left out: {reject.path}: {reject.reason}", soft_wrap=True)
    if len(found.rejects) > SHOWN:
        console.print(f"left out: {len(found.rejects) - SHOWN} more, listed by --json")


def _table(found: DatasetIndex) -> Table:
    """One row a class with its images per fold and its prompt groups, and a row of sums."""
    from rich.table import Table
    from rich.text import Text

    from leakcache.index import FOLDS

    table = Table("class", *FOLDS, "groups", title=Text(str(found.root)), show_footer=True)
    counts = found.counts()
    groups: dict[str, set[str]] = {label: set() for label in counts}
    for record in found.records:
        groups[record.label].add(record.group)
    for label, row in counts.items():
        cells = (str(row[fold] or "") for fold in FOLDS)
        table.add_row(Text(label), *cells, str(len(groups[label])))
    sums = [sum(row[fold] for row in counts.values()) for fold in FOLDS]
    every = len(set().union(*groups.values()))
    for column, footer in zip(table.columns, ["all", *sums, every], strict=True):
        column.footer = str(footer)
        column.justify = "left" if footer == "all" else "right"
    return table
