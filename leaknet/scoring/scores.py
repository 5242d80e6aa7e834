"""From scores and facts of images to their answers; needs NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from leakcache.images.decode import opened
from leakcache.images.file_parts import DeclaredOrigin
from leakcache.images.preprocess import texture
from leaknet.audit.file_facts import quality
from leaknet.calibration.decision import KNOWN, Decision, blank, decide, doubt, verbal
from leaknet.scoring.answers import Answer, stability_of

CONTENT = "its size and compression are like theirs, so its content or processing differs"


@dataclass(frozen=True)
class ImageFacts:
    """What an image is like, apart from its content.

    Attributes:
        texture: see `leakcache.images.preprocess.texture`.
        sides: shorter and longer side, in pixels.
        format: Pillow's name of the file format; empty for pixels that are no file.
        quality: nearest libjpeg quality, 1 to 100; 0 for a file that is no JPEG.
    """

    texture: float = 0.0
    sides: tuple[int, int] = (0, 0)
    format: str = ""
    quality: int = 0

    @classmethod
    def of(cls, pixels: Image.Image, data: bytes = b"") -> ImageFacts:
        """Facts of a decoded image, and of the bytes that it was decoded from."""
        _, form, found = header(data) if data else ((0, 0), "", 0)
        return cls(texture(pixels), _sorted(pixels.size), form, found)


def header(data: bytes) -> tuple[tuple[int, int], str, int]:
    """Sides, format and JPEG quality of a file; raises ImageError."""
    with opened(data) as image:
        tables = image.quantization if isinstance(image, JpegImageFile) else {}
        return _sorted(image.size), image.format or "", quality(tables) if tables else 0


def _sorted(size: tuple[int, int]) -> tuple[int, int]:
    return min(size), max(size)


@dataclass(frozen=True)
class ImageRange:
    """Sizes and compressions of some images.

    Attributes:
        shorter, longer: least and greatest side, in pixels.
        formats: of the files.
        quality: least and greatest of the JPEG files; (0, 0) without any.
    """

    shorter: tuple[int, int]
    longer: tuple[int, int]
    formats: tuple[str, ...]
    quality: tuple[int, int]

    @classmethod
    def of(cls, images: Sequence[ImageFacts]) -> ImageRange | None:
        """The range of images; None of none."""
        if not images:
            return None
        found = [one.quality for one in images if one.quality]
        return cls(
            _ends(one.sides[0] for one in images),
            _ends(one.sides[1] for one in images),
            tuple(sorted({one.format for one in images if one.format})),
            _ends(found) if found else (0, 0),
        )

    def joined(self, other: ImageRange | None) -> ImageRange:
        """The range of the images of both."""
        if other is None:
            return self
        levels = [*filter(None, (*self.quality, *other.quality))]
        return ImageRange(
            _ends((*self.shorter, *other.shorter)),
            _ends((*self.longer, *other.longer)),
            tuple(sorted({*self.formats, *other.formats})),
            _ends(levels) if levels else (0, 0),
        )

    def difference(self, image: ImageFacts) -> str:
        """In words, how an image differs from all of these; its content where nothing else does."""
        found = []
        if _beyond(image.sides[0], self.shorter) or _beyond(image.sides[1], self.longer):
            sides = " x ".join(map(str, image.sides))
            known = " x ".join(map(_range, (self.shorter, self.longer)))
            found.append(f"its size is {sides} pixels, theirs {known}")
        if image.format and image.format not in self.formats:
            found.append(f"its format is {image.format}, theirs {' or '.join(self.formats)}")
        elif image.quality and _beyond(image.quality, self.quality):
            found.append(f"its JPEG quality is {image.quality}, theirs {_range(self.quality)}")
        return " and ".join(found) or CONTENT


def _ends(values: Iterable[int]) -> tuple[int, int]:
    found = list(values)
    return min(found), max(found)


def _beyond(value: int, ends: tuple[int, int]) -> bool:
    return not ends[0] <= value <= ends[1]


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class LikeliestFamily:
    """The likeliest family of an image, its probability, and whether that is enough to name it."""

    name: str
    probability: float
    enough: bool


@dataclass(frozen=True)
class Scores:
    """Scores of embedded images, one row each; p-values and depths by the deciding detector.

    `enough` says whether the likeliest generator is probable enough to be named, `weak` whether
    evidence of a known source is too low for that.
    """

    probabilities: Float[np.ndarray, "image class"]
    enough: Bool[np.ndarray, " image"]
    weak: Bool[np.ndarray, " image"]
    log10_ratios: Float[np.ndarray, "image class"]
    sets: Bool[np.ndarray, "image class"]
    p_values: Float[np.ndarray, " image"]
    smallest_p: float
    depths: Float[np.ndarray, " image"]
    families: tuple[LikeliestFamily, ...]
    scores: dict[str, Float[np.ndarray, " image"]]


def likeliest_families(
    names: Sequence[str],
    sizes: Int[np.ndarray, " family"],
    log_probabilities: Float[np.ndarray, "image family"],
    threshold: float,
) -> tuple[LikeliestFamily, ...]:
    """The likeliest family of each image, named where it has two generators or more.

    Args:
        names: of the families.
        sizes: generators of each.
        log_probabilities: natural log of each family's probability.
        threshold: log probability above which a family is named.
    """
    found = []
    for row, best in enumerate(log_probabilities.argmax(axis=1).tolist()):
        several, highest = sizes[best] > 1, float(log_probabilities[row, best])
        enough = bool(several and highest > threshold)
        name = names[best] if several else ""
        found.append(LikeliestFamily(name, float(np.exp(highest)), enough))
    return tuple(found)


def answers_of(
    scored: Scores,
    paths: Sequence[str],
    classes: tuple[str, ...],
    alpha: float,
    images: Sequence[ImageFacts],
    known: ImageRange | None,
) -> list[Answer]:
    """Answers for images, in their order.

    Args:
        scored: one row an image, or as many rows as there are variants of each, itself first.
        paths: of the images.
        classes: known generators.
        alpha: rate at which images of known generators may be called unknown, in (0, 1).
        images: facts of each.
        known: range of the images that calibrated the run.
    """
    tried, found = len(scored.p_values) // len(images), []
    for place, (path, facts) in enumerate(zip(paths, images, strict=True)):
        rows = range(place * tried, (place + 1) * tried)
        why = known.difference(facts) if known else ""
        found.append(_answer(str(path), scored, rows, classes, alpha, blank(facts.texture), why))
    return found


def with_origin(answer: Answer, origin: DeclaredOrigin | None, classes: tuple[str, ...]) -> Answer:
    """The answer with what the file says of its origin, and where the two disagree."""
    if origin is None:
        return answer
    named = answer.verdict == KNOWN
    conflict = origin.conflict(answer.generator or "", classes) if named else ""
    return replace(answer, origin=origin, conflict=conflict)


def _answer(
    path: str,
    scored: Scores,
    rows: range,
    classes: tuple[str, ...],
    alpha: float,
    unanswered: Decision | None,
    why: str,
) -> Answer:
    """One image, whose variants follow it in `rows`.

    `unanswered` replaces its own answer; `why` says how it differs from calibrating images.
    """
    decisions = [_decide(scored, row, classes, alpha, why) for row in rows]
    decision, stability = unanswered or decisions[0], None
    if len(decisions) > 1:
        stability = stability_of([item.answer for item in decisions])
        decision = doubt(decision, stability.changed, len(stability.variants))
    row = rows[0]
    best = int(scored.probabilities[row].argmax())
    p_value = float(scored.p_values[row])
    return Answer(
        path,
        verdict=decision.verdict,
        answer=decision.answer,
        explanation=decision.explanation,
        generator=classes[best],
        probability=float(scored.probabilities[row, best]),
        family=scored.families[row].name if scored.families else "",
        family_probability=scored.families[row].probability if scored.families else None,
        known=p_value > alpha,
        p_value=p_value,
        prediction_set=_members(scored, row, classes),
        verbal=verbal(float(scored.log10_ratios[row, best])),
        log10_lr=dict(zip(classes, scored.log10_ratios[row].tolist(), strict=True)),
        probabilities=dict(zip(classes, scored.probabilities[row].tolist(), strict=True)),
        scores={name: float(values[row]) for name, values in scored.scores.items()},
        stability=stability,
    )


def _decide(scored: Scores, row: int, classes: tuple[str, ...], alpha: float, why: str) -> Decision:
    members = _members(scored, row, classes)
    family = scored.families[row] if scored.families else None
    best = classes[int(scored.probabilities[row].argmax())]
    return decide(
        float(scored.p_values[row]),
        members,
        alpha,
        scored.smallest_p,
        family.name if family and family.enough else "",
        generator=best if scored.enough[row] else "",
        weak=bool(scored.weak[row]),
        depth=float(scored.depths[row]),
        why=why,
    )


def _members(scored: Scores, row: int, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The prediction set, likeliest first."""
    order = np.argsort(-scored.probabilities[row], kind="stable").tolist()
    return tuple(classes[i] for i in order if scored.sets[row, i])
