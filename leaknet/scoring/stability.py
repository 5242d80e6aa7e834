"""Mild changes that an image meets on its way: does the answer survive them?

Eight variants, each a pure function of the pixels: re-encoding as JPEG at quality 95, 85 and 75
and as WebP at 90, rescaling by 0.9 and 1.1, a mirror image, and a border of 8 pixels cut off,
which keeps the JPEG and latent grids in place. An answer that one of them alters is no evidence.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

Variant = Callable[[Image.Image], Image.Image]

BORDER = 8


@dataclass(frozen=True)
class Stability:
    """Answers to the variants of one image.

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
