"""Size and compression of images; this module needs NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from leakcache.images.decode import opened
from leakcache.images.preprocess import texture
from leaknet.audit.file_facts import quality

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
