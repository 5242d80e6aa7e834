"""Answers for images, one each, as values, JSON, a DataFrame or CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, overload

from leakcache.errors import DataError
from leakcache.images.file_parts import DeclaredOrigin
from leakcache.names import cell
from leaknet.scoring.stability import Stability

if TYPE_CHECKING:
    from pandas import DataFrame

_FIXED = (
    "path",
    "verdict",
    "answer",
    "explanation",
    "generator",
    "probability",
    "family",
    "family_probability",
    "known",
    "p_value",
    "verbal",
)


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        path: the file, or the name of an image that is no file.
        reason: why it could not be scored; empty where it was, and all below is None where not.
        verdict: `known`, `family`, `unknown` or `unsure`, at the false-alarm rate that was asked
            for, or `outside`.
        answer: the same as text: `known: X`, `of the X family`, `unknown generator`, `unsure` or
            `outside the calibrated range`.
        explanation: why, in words.
        generator: the likeliest known generator, whatever the verdict.
        probability: its calibrated probability, among the known generators only.
        family: the likeliest family of related generators, whatever the verdict; empty where the
            likeliest is a single generator.
        family_probability: the sum of its generators' probabilities; None for a run without
            families.
        known: whether the p-value exceeds the false-alarm rate.
        p_value: that the image comes from a known generator, by the deciding detector; small
            means unlike anything known.
        prediction_set: the generators that can't be excluded, likeliest first.
        verbal: the likelihood ratio of `generator` in words.
        log10_lr: by generator, log10 of the likelihood ratio against another known one.
        probabilities: by generator, calibrated.
        scores: raw score by detector, higher = more like the known; the first decides.
        stability: answers after mild changes of the image; None where that was not asked for.
        origin: what the file says of its origin, which no other value depends on; None where it
            says nothing.
        conflict: why that disagrees with the answer; empty where it does not.
    """

    path: str
    reason: str = ""
    verdict: str | None = None
    answer: str | None = None
    explanation: str | None = None
    generator: str | None = None
    probability: float | None = None
    family: str | None = None
    family_probability: float | None = None
    known: bool | None = None
    p_value: float | None = None
    prediction_set: tuple[str, ...] | None = None
    verbal: str | None = None
    log10_lr: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    stability: Stability | None = None
    origin: DeclaredOrigin | None = None
    conflict: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        stability = self.stability.as_dict() if self.stability else None
        return asdict(self) | {"stability": stability}

    def as_row(self) -> dict[str, Any]:
        """Columns of a table; see `write_csv`."""
        if self.reason:
            return {"path": self.path, "reason": self.reason}
        row: dict[str, Any] = {name: getattr(self, name) for name in _FIXED}
        row["prediction_set"] = "|".join(self.prediction_set or ())
        stable = self.stability
        row["file_says"], row["conflict"] = self.origin.words if self.origin else "", self.conflict
        row["stable"] = f"{stable.same}/{len(stable.variants)}" if stable else ""
        row |= self.scores or {}
        row |= {f"probability:{name}": value for name, value in (self.probabilities or {}).items()}
        return row | {f"log10_lr:{name}": value for name, value in (self.log10_lr or {}).items()}


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """The answers of one run, in the order of the images.

    Attributes:
        images: one each.
        run: the folder of the run.
        alpha: the false-alarm rate that was asked for.
        detector: the one that decides.
        calibration: `leaknet.calibration.Calibration.as_dict` at this rate.
    """

    images: tuple[Answer, ...]
    run: str
    alpha: float
    detector: str
    calibration: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.images)

    @overload
    def __getitem__(self, index: int) -> Answer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Answer]: ...

    def __getitem__(self, index: int | slice) -> Answer | Sequence[Answer]:
        return self.images[index]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as `leak score IMAGE --json` prints them."""
        return {
            "run": self.run,
            "alpha": self.alpha,
            "detector": self.detector,
            "calibration": dict(self.calibration),
            "images": [answer.as_dict() for answer in self.images],
        }

    def to_frame(self) -> DataFrame:
        """One row an image, with the columns of `write_csv`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        from pandas import DataFrame

        return DataFrame([answer.as_row() for answer in self.images])


def write_csv(answers: Sequence[Answer], path: Path) -> None:
    """Write answers as CSV, one row an image.

    Columns: those of `Answer`; the prediction set joined by |, likeliest first; file_says,
    what the file says of its origin, and its conflict with the answer; stable as 7/8; then one raw
    score per detector under its name, and per generator probability:NAME and log10_lr:NAME.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        # Names may hold bytes that are no UTF-8.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write_rows(answers, file)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); name another --csv"
        ) from error


def write_rows(answers: Sequence[Answer], file: TextIO) -> None:
    """Write answers as CSV into an open file; see `write_csv`."""
    rows = [answer.as_row() for answer in answers]
    longest: dict[str, Any] = max(rows, key=len, default={})
    names = dict.fromkeys([*map(cell, longest), "reason"])
    writer = csv.DictWriter(file, list(names), restval="")
    writer.writeheader()
    writer.writerows(_safe(row) for row in rows)


def _safe(row: Mapping[str, Any]) -> dict[str, Any]:
    return {cell(k): cell(v) if isinstance(v, str) else v for k, v in row.items()}
