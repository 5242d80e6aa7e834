"""Training by epoch, and the epoch that was kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from leaknet.report.html import Html
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.branches import NAMES
from leaknet.report.svg import Axis, Frame
from leaknet.training.history import EpochRecord


def training(run: ScoredRun) -> dict[str, Any]:
    """Loss and validation figures by epoch of each branch; none where no history was kept."""
    histories = {
        name: [record for record in run.history if record.branch == name]
        for name in run.record.config.branches
    }
    limit = run.record.config.train.epochs
    return {"limit": limit, "branches": [_branch(n, h) for n, h in histories.items() if h]}


def _branch(name: str, history: list[EpochRecord]) -> dict[str, Any]:
    best = ([record for record in history if record.best] or list(history))[-1]
    lowest = min(history, key=lambda record: record.val_loss)
    overfit = lowest.epoch < best.epoch and best.val_loss > 1.1 * lowest.val_loss
    loss, quality = _curves(history, best.epoch)
    return {
        "name": name,
        "title": NAMES[name],
        "best": best,
        "epochs": len(history),
        "overfit_since": lowest.epoch if overfit else None,
        "duration": _duration(sum(record.seconds for record in history)),
        "loss": loss,
        "quality": quality,
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _curves(history: list[EpochRecord], kept: int) -> tuple[Html, Html]:
    epochs = [record.epoch for record in history]
    losses = {
        "c0": [record.loss for record in history],
        "c1": [record.val_loss for record in history],
    }
    quality = {
        "c2": [record.val_macro_auc for record in history],
        "c3": [record.val_top1 for record in history],
    }
    top = max(max(values) for values in losses.values())
    axis = Axis.spanning("cross-entropy", 0.0, 1.05 * top)
    return (
        _panel(epochs, losses, axis, kept, "Loss by epoch"),
        _panel(epochs, quality, Axis.fraction("value"), kept, "Validation metrics by epoch"),
    )


def _panel(
    epochs: list[int], lines: dict[str, list[float]], y: Axis, kept: int, description: str
) -> Html:
    frame = Frame(_epoch_axis(epochs), y)
    marks: list[Html | None] = [*frame.vertical(float(kept), "kept", "")] if len(epochs) > 1 else []
    for class_, values in lines.items():
        marks.append(frame.line(epochs, values, class_))
        if len(epochs) <= 30:
            marks.append(frame.dots(np.column_stack([epochs, values]), f"{class_} mark"))
    return frame.draw(description, *marks)


def _epoch_axis(epochs: list[int]) -> Axis:
    first, last = epochs[0], epochs[-1]
    positions = np.unique(np.linspace(first, last, 6).round().astype(int)).tolist()
    margin = 0.5 if first == last else 0.0
    ticks = tuple((float(position), str(position)) for position in positions)
    return Axis("epoch", first - margin, last + margin, ticks)
