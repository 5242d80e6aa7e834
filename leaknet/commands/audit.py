"""`leak audit`: how well file facts and thumbnails alone identify the generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, data_root
from leaknet.commands.output import emit, next_steps

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
    metavar="ROOT|URL",
    callback=opt.copy_urls,
    help="Folder of unknown generators; may be repeated.",
)
@opt.canonical
@opt.seed("Of the fold split if DATA has none.")
@opt.json
@click.pass_obj
def audit(
    settings: Settings,
    /,
    data: str | None,
    open_roots: tuple[str, ...],
    canonical: bool,
    canonical_size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Check DATA before training: how well do file facts and thumbnails identify the generator?

    Classifiers on file facts alone (size, format, coding, metadata) or on an 8×8 thumbnail alone
    name the generator and separate unknown from known generators. The audit also lists duplicate
    images, prompt groups across folds and unbalanced classes. With --canonical it evaluates the
    canonical form that `leak cache build --canonical` encodes. The result is kept beside the
    caches, and `leak report` shows its findings. [default: data/]

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

    index = read_index(data_root(data), seed=seed)
    unknown = [read_index(Path(root), open_set=True) for root in open_roots]

    from leakcache.images.decode import Preprocessing
    from leaknet.audit.audit import audit as run_audit
    from leaknet.files import write_json
    from leaknet.report.related import audit_file

    side = Preprocessing(canonical=canonical, canonical_size=canonical_size).canonical_size
    result = run_audit(
        index,
        unknown,
        canonical=side if canonical else None,
    )
    file = audit_file(settings.caches, result.index.root, result.canonical)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, result.as_dict(paths=False))
    if as_json:
        emit(result.as_dict())
    else:
        _print(result)
        source = result.index.source or result.index.root
        next_steps(["cache", "build", "--data", str(source)])


def _print(result: Audit) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_table(result))
    protocols = [c.protocol for c in (result.metadata, result.open_metadata) if c]
    if protocols:
        evaluated = "; known against unknown: ".join(protocols)
        console.print(
            Text(f"95 % intervals; evaluated on {evaluated}", style="dim"), soft_wrap=True
        )
    for finding in result.findings:
        level = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
        console.print(level + Text(finding.sentence, style=""), soft_wrap=True)


def _table(result: Audit) -> Table:
    """One row per control: top-1, macro AUC and AUROC of the open set if there is one."""
    from rich.table import Table
    from rich.text import Text

    form = f", canonical form of {result.canonical} px" if result.canonical else ""
    images = result.as_dict(paths=False)["images"]
    counts = ", ".join(f"{number} {name}" for name, number in images.items() if number)
    table = Table(title=Text(f"{result.index.root}{form}: {counts}"), title_justify="left")
    for heading in ("features", "top-1", "chance", "macro AUC", "known against unknown"):
        table.add_column(heading, justify="left" if heading == "features" else "right")
    rows = (
        ("file facts", result.metadata, result.open_metadata),
        ("8×8 thumbnail", result.thumbnail, result.open_thumbnail),
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
