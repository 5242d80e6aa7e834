"""Answers for images, one each, as values, JSON, a DataFrame or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, overload

from PIL import Image, ImageOps

from leakcache.errors import DataError
from leakcache.images.file_parts import DeclaredOrigin
from leakcache.names import cell

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


Variant = Callable[[Image.Image], Image.Image]

BORDER = 8


@dataclass(frozen=True)
class Stability:
    """Answers to the variants of one image.

    Eight variants, each a pure function of the pixels: re-encoding as JPEG at quality 95, 85 and 75
    and as WebP at 90, rescaling by 0.9 and 1.1, a mirror image, and a border of 8 pixels cut off,
    which keeps the JPEG and latent grids in place. An answer that one of them alters is no
    evidence.

    Attributes:
        answer: to the image as it is.
        variants: answer by name of the variant.
    """

    answer: str
    variants: dict[str, str]

    @property
    def changed(self) -> dict[str, str]:
        """The variants that got another answer."""
        return {name: other for name, other in self.variants.items() if other != self.answer}

    @property
    def same(self) -> int:
        """How many variants got the same answer."""
        return len(self.variants) - len(self.changed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "answer": self.answer,
            "same": self.same,
            "of": len(self.variants),
            "variants": self.variants,
        }


def reencoded(kind: str, quality: int) -> Variant:
    """Written and read again in a lossy format, with Pillow's own chroma subsampling."""

    def change(image: Image.Image) -> Image.Image:
        data = io.BytesIO()
        image.save(data, kind, quality=quality)
        return Image.open(data).convert("RGB")

    return change


def rescaled(factor: float) -> Variant:
    """Resized by a factor, bicubic and antialiased."""

    def change(image: Image.Image) -> Image.Image:
        width, height = (max(1, round(side * factor)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    return change


def without_border(image: Image.Image) -> Image.Image:
    """`BORDER` pixels cut off every side; an image too small for that stays as it is."""
    if min(image.size) <= 4 * BORDER:
        return image
    return ImageOps.crop(image, BORDER)


VARIANTS: dict[str, Variant] = {
    "jpeg95": reencoded("JPEG", 95),
    "jpeg85": reencoded("JPEG", 85),
    "jpeg75": reencoded("JPEG", 75),
    "webp90": reencoded("WEBP", 90),
    "scale0.9": rescaled(0.9),
    "scale1.1": rescaled(1.1),
    "flip": ImageOps.mirror,
    "crop8": without_border,
}


def variants_of(image: Image.Image) -> list[Image.Image]:
    """The image after each of `VARIANTS`, in their order."""
    return [change(image) for change in VARIANTS.values()]


def stability_of(answers: Sequence[str]) -> Stability:
    """From the answers to an image and, after it, to each of its variants."""
    first, *others = answers
    return Stability(first, dict(zip(VARIANTS, others, strict=True)))
