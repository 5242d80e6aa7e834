"""`leak data`: which images, generators and folds a data root holds; degraded copies of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.names import visible
from leaknet.commands import options as opt
from leaknet.commands.base import LeakCommand, Settings, data_root, emit, next_steps, print_findings

if TYPE_CHECKING:
    from rich.table import Table

    from leakcache.dataset.degraded_copies import CopyReport
    from leakcache.dataset.index import DatasetIndex
    from leakcache.dataset.records import Reject
    from leakcache.dataset.wild import WildCheck

SHOWN = 20
"""Rejects printed one by one; `--json` lists them all."""


@click.group()
def data() -> None:
    """Understand a data set: which images, generators and folds there are."""


@data.command(cls=LeakCommand)
@click.argument("data", metavar="[ROOT]", required=False)
@opt.open_set
@opt.reading
@opt.seed("Of the fold cut where none is given.")
@click.option(
    "--out", metavar="FILE", help="Where to write the index. [default: CACHES/ROOT-HASH.index.csv]"
)
@opt.json
@click.pass_context
def index(ctx: click.Context, /, data: str | None, out: str | None, **options: Any) -> None:
    """Print and write how ROOT is understood: classes, folds, prompt groups, rejects.

    ROOT is a folder or a table. A folder has one folder of images a class; train, val and test
    may lie above or below, real and generated images side by side ({ai,nature},
    {0_real,1_fake}, {real,fake}), and one folder a prompt below. WILD is read as it comes
    (Closed_Set, Open_Set, Split.json, step1 to step3), Hugging Face's metadata files give labels.
    A table (CSV with any separator, JSON lines, Parquet) has path,label and, if wished,
    group,fold. Without a split the folds are cut by prompt group, never by image.

    The CSV that is written (path,label,group,fold) can be edited and given as ROOT or --data; an
    edited one is never overwritten. Exits with 1 where the data has an error, such as a
    single class. Images of equal pixels become one prompt group; those in several classes or folds
    are a warning. [default: data/]

    JSON keys: root, layout, classes, unknown, counts.LABEL.FOLD, groups, crossing_groups,
    findings (level, sentence), rejects (path, reason), out, written.

    \b
    Example:
      leak data index path/to/WILD --out index.csv
      leak data index path/to/GenImage --layout class/*/split/kind
      leak data index path/to/WILD/step1 --json
    """
    from leakcache.dataset.findings import inspect, join_equal_images
    from leakcache.dataset.index import read_index
    from leakcache.dataset.index_file import default_name, save_index

    root = data_root(data)
    found = join_equal_images(read_index(root, **opt.reading_arguments(options)))
    caches = (ctx.find_object(Settings) or Settings({})).caches
    file = Path(out) if out else caches / default_name(root)
    written = save_index(found, file)
    if options["as_json"]:
        emit({**_summary(found), "out": str(file), "written": written})
    else:
        _print(found)
        click.echo(
            f"written to {file}"
            if written
            else f"{file} was edited and is kept: give --out to write another index"
        )
        chosen = any(options[name] for name in ("layout", "group", "label", "photographs"))
        source = str(file if chosen else root)
        next_steps(["audit", source], ["cache", "build", "--data", source])
    if any(finding.level == "error" for finding in inspect(found)):
        sys.exit(1)


def _summary(found: DatasetIndex) -> dict[str, object]:
    from leakcache.dataset.findings import inspect

    return {
        "root": str(found.root),
        "layout": found.layout,
        "classes": found.classes,
        "unknown": found.unknown,
        "counts": found.counts(),
        "groups": len({record.group for record in found.records}),
        "crossing_groups": found.crossing_groups,
        "findings": [vars(finding) for finding in inspect(found)],
        "rejects": _reject_rows(found.rejects),
    }


def _reject_rows(rejects: tuple[Reject, ...]) -> list[dict[str, str]]:
    return [{"path": reject.path, "reason": reject.reason} for reject in rejects]


def _print(found: DatasetIndex) -> None:
    from rich.console import Console

    from leakcache.dataset.findings import inspect

    console = Console(highlight=False, markup=False)
    console.print(_table(found))
    console.print(visible(found.layout), soft_wrap=True)
    print_findings(inspect(found))
    _print_rejects(found.rejects)


def _print_rejects(rejects: tuple[Reject, ...]) -> None:
    for reject in rejects[:SHOWN]:
        click.echo(f"left out: {visible(reject.path)}: {visible(reject.reason)}")
    if len(rejects) > SHOWN:
        click.echo(f"left out: {len(rejects) - SHOWN} more, listed by --json")


def _table(found: DatasetIndex) -> Table:
    """One row a class with its images per fold and its prompt groups, and a row of sums."""
    from rich.table import Table
    from rich.text import Text

    from leakcache.dataset.index import FOLDS

    table = Table("class", *FOLDS, "groups", title=Text(visible(str(found.root))), show_footer=True)
    counts = found.counts()
    groups: dict[str, set[str]] = {label: set() for label in counts}
    for record in found.records:
        groups[record.label].add(record.group)
    for label, row in counts.items():
        cells = (str(row[fold] or "") for fold in FOLDS)
        table.add_row(Text(visible(label)), *cells, str(len(groups[label])))
    sums = [sum(row[fold] for row in counts.values()) for fold in FOLDS]
    every = len(set().union(*groups.values()))
    for column, footer in zip(table.columns, ["all", *sums, every], strict=True):
        column.footer = str(footer)
        column.justify = "left" if footer == "all" else "right"
    return table


@data.command(cls=LeakCommand)
@click.argument("source", metavar="FILE|FOLDER")
@click.option("--out", metavar="DIR", required=True, help="New folder for images and metadata.csv.")
@click.option("--label", metavar="COLUMN", help="Column that has the labels.")
@click.option("--image", metavar="COLUMN", help="Column that has the images, where several do.")
@opt.json
def unpack(source: str, out: str, label: str | None, image: str | None, as_json: bool) -> None:
    """Write the images inside Parquet files or WebDataset tar shards as files.

    DIR can then be given as ROOT or --data: its metadata.csv has labels, prompts and folds (of a
    column split, or of file names such as train-00000-of-00002.parquet).
    JSON keys: folder, images, skipped (samples without an image or a label), labels.LABEL.

    \b
    Example:
      leak data unpack downloads/community-forensics --label model_name --out images
      leak data index images
    """
    from leakcache.dataset.image_files import unpack as write

    done = write(Path(source), Path(out), label=label, image=image)
    if as_json:
        emit({**vars(done), "folder": str(done.folder)})
        return
    click.echo(f"{done.images} images in {done.folder}, {done.skipped} samples skipped")
    for name, count in done.labels.items():
        click.echo(f"  {visible(name)}: {count}")
    next_steps(["data", "index", out])


@data.command(cls=LeakCommand)
@click.argument("data", metavar="[ROOT]", required=False)
@click.option(
    "--step",
    type=click.Choice(["1", "2", "3"]),
    required=True,
    help="How many operations are chained.",
)
@click.option("--out", metavar="DIR", required=True, help="Copies go to DIR/step1, step2, step3.")
@click.option(
    "--fold",
    "folds",
    type=click.Choice(["train", "val", "test", "open"]),
    multiple=True,
    help="Copy this fold alone; may be repeated. [default: all]",
)
@opt.open_set
@opt.seed("Of the operations, and of the fold cut where none is given.")
@opt.json
def degrade(
    data: str | None,
    step: str,
    out: str,
    folds: tuple[str, ...],
    open_set: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Write WILD-like degraded copies of ROOT: one to three chained operations an image.

    JPEG, WebP, crop, resize, rotation, brightness, contrast, blur, greyscale and rescaling as
    after super-resolution, with parameters drawn from the seed, the image's hash and the step.
    WILD's own ranges are not published: these are ours. DIR/stepN reads like any data root, with
    the folds of ROOT; DIR/stepN/degradations.jsonl records what was done to each image. Run
    again to resume, or after adding images. [default: data/]

    JSON keys: folder, manifest, step, seed, images, written, kept, operations.NAME,
    rejects (path, reason), seconds.

    \b
    Example:
      leak data degrade path/to/WILD --step 1 --out degraded --fold test --fold open
      leak data index degraded/step1
    """
    from leakcache.dataset.degraded_copies import write_copies
    from leakcache.dataset.index import FOLDS, read_index

    found = read_index(data_root(data), seed=seed, open_set=open_set)
    report = write_copies(found, Path(out), step=int(step), seed=seed, folds=folds or FOLDS)
    if as_json:
        emit({"step": int(step), "seed": seed, **_copied(report)})
        return
    click.echo(
        f"{len(report.copies)} copies in {report.folder} ({report.written} written, "
        f"{report.kept} there already, {report.seconds:.1f} s)"
    )
    done = report.operations()
    click.echo("operations: " + ", ".join(f"{name} {count}" for name, count in done.items()))
    _print_rejects(report.rejects)
    next_steps(["data", "index", str(Path(out) / f"step{step}")])


def _copied(report: CopyReport) -> dict[str, object]:
    from leakcache.dataset.degraded_copies import FILE

    return {
        "folder": str(report.folder),
        "manifest": str(report.folder / FILE),
        "images": len(report.copies),
        "written": report.written,
        "kept": report.kept,
        "operations": report.operations(),
        "rejects": _reject_rows(report.rejects),
        "seconds": round(report.seconds, 3),
    }


@data.command(cls=LeakCommand)
@click.argument("folder", required=False)
@click.option("--download", "fetch", is_flag=True, help="Fetch it through kagglehub first.")
@opt.seed("Of the fold cut where none is given.")
@opt.json
def wild(folder: str | None, fetch: bool, seed: int, as_json: bool) -> None:
    """Say how to get WILD, or check FOLDER against what should be in it.

    With FOLDER (or with --download, which needs kagglehub, a Kaggle account and a network) the
    index is printed, and which generators, images, folds and post-processed copies are missing
    or odd. Exits with 1 where something is missing.

    JSON keys: without FOLDER kaggle, page; else those of `leak data index` without out, and
    generators.NAME (its folder, null where it is missing), steps.STEP, findings (level,
    sentence), complete.

    \b
    Example:
      leak data wild
      leak data wild path/to/WILD --json
    """
    from leakcache.dataset import wild as source

    if folder is None and not fetch:
        say = {"kaggle": source.KAGGLE, "page": source.PAGE}
        emit(say) if as_json else click.echo(source.HOW, nl=False)
        return
    found = source.check(source.download() if folder is None else Path(folder), seed)
    if as_json:
        emit({**_summary(found.index), **_checked(found)})
    else:
        _print(found.index)
        _print_check(found)
        next_steps(["cache", "build", "--data", str(found.index.root)])
    if not found.complete:
        sys.exit(1)


def _checked(found: WildCheck) -> dict[str, object]:
    from leakcache.dataset.wild import CLOSED, OPEN

    return {
        "generators": {name: found.folders.get(name) for name in (*CLOSED, *OPEN)},
        "steps": found.steps,
        "findings": [vars(finding) for finding in found.findings],
        "complete": found.complete,
    }


def _print_check(found: WildCheck) -> None:
    for finding in found.findings:
        click.echo(f"{finding.level}: {finding.sentence}")
    there = [f"{count:,} images in {step}" for step, count in found.steps.items() if count]
    click.echo(f"post-processed copies: {', '.join(there) or 'none'}")
    lacking = [step[-1] for step, count in found.steps.items() if not count]
    if lacking:
        command = f"leak data degrade {found.index.root} --step {lacking[0]} --out DIR"
        click.echo(f"`{command}` writes WILD-like ones")
    click.echo("complete" if found.complete else "not complete")
