"""The files of a bench: bench.json, bench.md and, where pyarrow is installed, bench.parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from leaknet.experiments.benchmark.fold_bench_tables import bench_tables
from leaknet.experiments.benchmark.tables import METRICS, BenchResult, BenchRow
from leaknet.experiments.fold_evaluation_render import json_ready, markdown
from leaknet.files import replace_file, write_text

NAME = "bench"


def write_bench(result: BenchResult, out: Path) -> list[str]:
    """Write the rows so far; returns the names of the files.

    Raises:
        RunError: the folder cannot be written to.
    """
    content = json.dumps(
        json_ready(result.as_dict()), indent=1, ensure_ascii=False, allow_nan=False
    )
    write_text(out / f"{NAME}.json", content + "\n")
    write_text(out / f"{NAME}.md", markdown(bench_tables(result)))
    names = [f"{NAME}.json", f"{NAME}.md"]
    return [*names, f"{NAME}.parquet"] if _write_parquet(result, out / f"{NAME}.parquet") else names


def flat_row(row: BenchRow) -> dict[str, Any]:
    """One record a row: every metric with `_sd`, `_low`, `_high` and `_seeds`."""
    found = row.as_dict()
    names = ("method", "step", "parameters", "seconds", "reason", "published_macro_auc")
    flat = {name: found[name] for name in names}
    flat["behind_ours"] = None if row.behind is None else row.behind.top1
    flat["behind_ours_p"] = None if row.behind is None else row.behind.p
    for metric in METRICS:
        low, high = found["interval"].get(metric) or (None, None)
        flat[metric] = found[metric]
        flat[f"{metric}_sd"] = found["sd"].get(metric)
        flat[f"{metric}_low"], flat[f"{metric}_high"] = low, high
        flat[f"{metric}_seeds"] = found["seeds"].get(metric)
    return flat


def _write_parquet(result: BenchResult, path: Path) -> bool:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    number, text = pyarrow.float64(), pyarrow.string()
    plain = [
        ("method", text),
        ("step", pyarrow.int64()),
        ("parameters", pyarrow.int64()),
        ("seconds", number),
        ("reason", text),
        ("published_macro_auc", number),
        ("behind_ours", number),
        ("behind_ours_p", number),
    ]
    numbers = [(f"{m}{end}", number) for m in METRICS for end in ("", "_sd", "_low", "_high")]
    lists = [(f"{metric}_seeds", pyarrow.list_(number)) for metric in METRICS]
    schema = pyarrow.schema([*plain, *numbers, *lists])
    table = pyarrow.Table.from_pylist([flat_row(row) for row in result.rows], schema=schema)
    replace_file(path, lambda partial: parquet.write_table(table, partial))
    return True
