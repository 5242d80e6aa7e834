"""Size and compression of images, and the range of them that a run is calibrated on.

range.json of a run holds those of its validation images. An answer *outside the calibrated range*
says with it what is unlike them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from leakcache.errors import ImageError, RunError
from leakcache.files import parse_json
from leakcache.images.archive import read_image
from leakcache.images.decode import opened
from leakcache.images.preprocess import texture
from leakcache.store.cache import Cache
from leaknet.audit.file_facts import quality
from leaknet.checksums import is_there, read_text, was_written
from leaknet.files import write_json

FILE = "range.json"
MOST_READ = 500
"""Validation images whose headers are read at most, evenly spaced."""
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
        _, form, found = _header(data) if data else ((0, 0), "", 0)
        return cls(texture(pixels), _sorted(pixels.size), form, found)


def _header(data: bytes) -> tuple[tuple[int, int], str, int]:
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


def write_range(run: Path, images: Sequence[ImageFacts], former: ImageRange | None = None) -> None:
    """Write the range of a run, `former` included; nothing without images."""
    if (found := ImageRange.of(images)) is not None:
        write_json(run / FILE, vars(found.joined(former)))


def read_range(run: Path) -> ImageRange | None:
    """The range of a run; None for a run that has none.

    Raises:
        RunError: the file is damaged, or gone.
    """
    path = run / FILE
    if not is_there(path):
        if was_written(path):
            raise RunError(f"{path} is missing: restore it, or train again")
        return None
    try:
        content = {key: tuple(value) for key, value in parse_json(read_text(path)).items()}
        formats = tuple(map(str, content.pop("formats")))
        ends = {key: (int(low), int(high)) for key, (low, high) in content.items()}
        return ImageRange(formats=formats, **ends)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error


def facts_of_cache(cache: Cache, fold: str = "val") -> list[ImageFacts]:
    """Facts of the image files of a fold, from their headers; those that are gone are left out."""
    rows, root = cache.rows(fold), Path(cache.manifest.data)
    if len(rows) > MOST_READ:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_READ).astype(np.int64)]
    found = []
    for path in cache.paths[rows].tolist():
        try:
            sides, form, level = _header(read_image(root / path))
        except (OSError, ImageError):
            continue
        found.append(ImageFacts(sides=sides, format=form, quality=level))
    return found
