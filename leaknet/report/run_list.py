"""The run folders below a folder, as `leak runs` lists them; nothing here loads a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from leakcache.errors import LeakError
from leakcache.files import parse_json, parse_toml
from leakcache.names import visible
from leaknet.checksums import is_there, read_text

CONFIG = "config.toml"
_FIGURES = {"top1": "closed", "macro_auc": "closed", "auroc": "open"}


@dataclass(frozen=True)
class RunSummary:
    """One run folder in a line.

    Attributes:
        path: the folder.
        data: name of the cache it was trained on; empty if not recorded.
        preset, seed: its settings.
        generators: number of known generators.
        fold: "test" if it was scored, "val" if only trained, else empty.
        figures: top1, macro_auc (of that fold) and auroc (of the open set), where measured.
        trained: local time of the last change to the weights, to the minute.
    """

    path: Path
    data: str
    preset: str
    seed: int
    generators: int
    fold: str
    figures: dict[str, float]
    trained: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "path": str(self.path)}


def find_runs(parent: Path) -> tuple[list[RunSummary], list[str]]:
    """Trained runs directly below a folder, the newest first, and what is wrong with the others."""
    found, damaged = [], []
    for config in sorted(parent.glob(f"*/{CONFIG}")):
        if not (config.parent / "model.safetensors").exists():
            continue  # not trained yet
        try:
            found.append(_summary(config.parent))
        except (LeakError, OSError, ValueError, KeyError, TypeError) as error:
            reason = error if isinstance(error, LeakError) else "`leak train` again"
            damaged.append(visible(f"{config.parent} is damaged: {reason}"))
    return sorted(found, key=lambda run: (run.trained, run.path.name), reverse=True), damaged


def _summary(folder: Path) -> RunSummary:
    table = parse_toml(read_text(folder / CONFIG))
    metrics_file = folder / "metrics.json"
    metrics = parse_json(read_text(metrics_file)) if is_there(metrics_file) else {}
    closed = metrics.get("closed") or metrics.get("validation") or {}
    groups = {"closed": closed, "open": metrics.get("open") or {}}
    cache = table["record"].get("cache")
    changed = (folder / "model.safetensors").stat().st_mtime
    return RunSummary(
        path=folder,
        data=Path(cache["folder"]).parent.name if cache else "",
        preset=table["preset"],
        seed=table["train"]["seed"],
        generators=len(parse_json(read_text(folder / "classes.json"))),
        fold="test" if "closed" in metrics else "val" if closed else "",
        figures={k: groups[g][k] for k, g in _FIGURES.items() if groups[g].get(k) is not None},
        trained=datetime.fromtimestamp(changed).isoformat(" ", "minutes"),
    )
