"""The files of an ablation: JSON, Markdown, Parquet and a figure, each whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from leaknet.experiments.ablation.fold_ablation_figure import draw_figure
from leaknet.experiments.ablation.fold_ablation_measures import MEASURES
from leaknet.experiments.ablation.fold_ablation_tables import ablation_tables
from leaknet.experiments.ablation.tables import AblationResult
from leaknet.experiments.fold_evaluation_render import json_ready, markdown
from leaknet.files import replace_file, write_text


def write_results(result: AblationResult, out: Path) -> list[str]:
    """Write `KEY.json`, `KEY.md`, `KEY.svg` and, where pyarrow is installed, `KEY.parquet`.

    Args:
        result: a table, whole or in part.
        out: folder.

    Returns:
        Names of the files.

    Raises:
        RunError: the folder cannot be written to.
    """
    key = result.ablation.key
    content = json_ready(result.as_dict())
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / f"{key}.json", text + "\n")
    write_text(out / f"{key}.svg", draw_figure(result) + "\n")
    figure = f"\n![{result.ablation.title}]({key}.svg)\n"
    write_text(out / f"{key}.md", markdown(ablation_tables(result)) + figure)
    names = [f"{key}.json", f"{key}.md", f"{key}.svg"]
    return [*names, f"{key}.parquet"] if _write_parquet(result, out / f"{key}.parquet") else names


def parquet_rows(result: AblationResult) -> list[dict[str, Any]]:
    """One flat record a row: every measure with `_sd`, `_low`, `_high`, `_seeds`, `_published`."""
    return [_flat(row) for row in result.as_dict()["rows"]]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    names = ("parameters", "trained", "training_seconds", "seconds", "reason")
    flat = {"row": row["name"], **{name: row[name] for name in names}}
    for name in ("settings", "notes", "runs"):
        flat[name] = row[name]
    for key in MEASURES:
        low, high = row["interval"].get(key) or (None, None)
        flat[key] = row.get(key)
        flat[f"{key}_sd"] = row["sd"].get(key)
        flat[f"{key}_low"], flat[f"{key}_high"] = low, high
        flat[f"{key}_seeds"] = row["seeds"].get(key)
        flat[f"{key}_published"] = row["published"].get(key)
        flat[f"{key}_difference"] = row["difference"].get(key, {}).get("value")
    return flat


def _write_parquet(result: AblationResult, path: Path) -> bool:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    numbers = [
        (f"{key}{end}", pyarrow.float64())
        for key in MEASURES
        for end in ("", "_sd", "_low", "_high", "_published", "_difference")
    ]
    lists = [(f"{key}_seeds", pyarrow.list_(pyarrow.float64())) for key in MEASURES]
    words = [(name, pyarrow.list_(pyarrow.string())) for name in ("settings", "notes", "runs")]
    plain = [
        ("row", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("parameters", pyarrow.int64()),
        ("trained", pyarrow.int64()),
        ("training_seconds", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
    ]
    schema = pyarrow.schema([*plain, *numbers, *lists, *words])
    table = pyarrow.Table.from_pylist(parquet_rows(result), schema=schema)
    replace_file(path, lambda partial: parquet.write_table(table, partial))
    return True
