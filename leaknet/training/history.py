"""history.jsonl: one line an epoch, of what was measured at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from leakcache.errors import RunError
from leakcache.files import parse_json
from leaknet.checksums import is_there, read_text, was_written
from leaknet.files import write_text

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        branch: that was trained.
        epoch: its number, from 1.
        loss: mean training loss.
        val_loss: mean cross-entropy on the validation fold.
        val_macro_auc: unweighted mean of one-vs-rest areas there, in [0, 1].
        val_top1: accuracy there.
        best: whether the run keeps these weights of the branch.
        temperature: τ; None with a linear head.
        attention: mean weight of each step on the validation fold.
        seconds: of training and validation.
        images_per_second: of training alone.
    """

    branch: str
    epoch: int
    loss: float
    val_loss: float
    val_macro_auc: float
    val_top1: float
    best: bool
    temperature: float | None
    attention: tuple[float, ...]
    seconds: float
    images_per_second: float


def append_history(folder: Path, record: EpochRecord) -> None:
    """Add one line at the end."""
    write_history(folder, [*read_history(folder), record])


def read_history(folder: Path) -> list[EpochRecord]:
    """All epochs, in order; none if there is no such file.

    Raises:
        RunError: a line is damaged, or the file was changed.
    """
    path = folder / HISTORY
    if not is_there(path):
        if was_written(path):
            raise RunError(f"{path} is missing: restore it, or train again")
        return []
    records = []
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error}): train again") from error
    for number, line in enumerate(lines, start=1):
        try:
            content = parse_json(line)
            records.append(EpochRecord(**{**content, "attention": tuple(content["attention"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}, line {number} is damaged: train again") from error
    return records


def write_history(folder: Path, records: Sequence[EpochRecord]) -> None:
    """Replace all lines."""
    write_text(folder / HISTORY, "".join(json.dumps(asdict(record)) + "\n" for record in records))
