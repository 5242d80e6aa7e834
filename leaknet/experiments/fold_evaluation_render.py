"""Tables on the terminal and in Markdown."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaknet.experiments.fold_evaluation_result import Evaluation
from leaknet.experiments.tables import Grid, evaluation_tables
from leaknet.files import write_text

JSON = "evaluation.json"
MARKDOWN = "evaluation.md"
WIDTH = 200


def print_grids(grids: Iterable[Grid]) -> None:
    """Print tables and their notes."""
    # Off a terminal rich assumes 80 columns, in which a cell with its interval breaks in three.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for grid in grids:
        table = Table(title=escape(grid.title), title_justify="left")
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
        for row in grid.rows:
            table.add_row(*(escape(text) for text in row))
        console.print(table)
        for note in grid.notes:
            console.print(f"[dim]{escape(note)}[/dim]")


def markdown(grids: Sequence[Grid]) -> str:
    """The same as Markdown, one section a table."""
    return "\n".join(_section(grid) for grid in grids)


def write_evaluation(result: Evaluation, out: Path) -> None:
    """Write evaluation.json and evaluation.md into the folder of an evaluation."""
    table = json.dumps(json_ready(result.as_dict()), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / JSON, table + "\n")
    write_text(out / MARKDOWN, markdown(evaluation_tables(result)))


def _section(grid: Grid) -> str:
    lines = [f"## {grid.title}", "", _line(grid.headings), _line(["---"] * len(grid.headings))]
    lines += [_line(row) for row in grid.rows]
    for note in grid.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def json_ready(value: Any) -> Any:
    """Values that JSON knows: tuples as lists, what does not exist as null."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
