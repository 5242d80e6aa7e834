"""Operations that degrade an image, and chains of them drawn from the image's own hash.

WILD (arXiv 2504.19595) names these kinds without their parameters, so the ranges are ours:
"WILD-like". JPEG-AI, which it has too, is left out for want of a kept codec. Every operation
takes an RGB image of any size and returns one; its parameters are plain numbers and words, so
that what `record` gives says all that is needed to repeat it.

What is done to an image depends on (seed, the hash of its file, step) and on nothing else: not
on its path, its class, the order of the images or the machine. So copies can be made in any
order, on any number of workers and again later, and no class is treated unlike another.
"""

from __future__ import annotations

import hashlib
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from PIL import Image, ImageEnhance, ImageFilter

from leakcache.errors import ConfigError, ImageError

Item = TypeVar("Item")


class HashRNG:
    """A stream of numbers that is a function of its key: no state is shared with anything else.

    The n-th number is sha256(key, n), so a stream can be drawn again from what was recorded.
    """

    def __init__(self, *key: str | int) -> None:
        self._key = "\0".join(map(str, key))
        self._drawn = 0

    def fraction(self) -> float:
        """The next number, evenly from [0, 1)."""
        word = hashlib.sha256(f"{self._key}\0{self._drawn}".encode()).digest()
        self._drawn += 1
        return int.from_bytes(word[:6]) / 2**48

    def uniform(self, low: float, high: float) -> float:
        """Evenly from [low, high], to three decimals, so that a record of it is exact."""
        return round(low + (high - low) * self.fraction(), 3)

    def integer(self, low: int, high: int) -> int:
        """One of low, …, high, both included."""
        return low + int((high - low + 1) * self.fraction())

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items in drawn order."""
        rest = list(items)
        return [rest.pop(self.integer(0, len(rest) - 1)) for _ in range(count)]


FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
PIXEL_LIMIT = 2**30 // 12
"""Most pixels of an enlarged image: what `leakcache.images.decode` reads back."""


def _drawn(draw: Callable[[HashRNG], Any]) -> Any:
    """A parameter of an operation, drawn from its range."""
    return field(metadata={"draw": draw})


@dataclass(frozen=True)
class Operation(ABC):
    """One operation with its parameters."""

    name: ClassVar[str]

    @classmethod
    def draw(cls, draws: HashRNG) -> Operation:
        """The operation with parameters from their ranges, drawn in the order of the fields."""
        made: Any = cls
        drawn: Operation = made(*(one.metadata["draw"](draws) for one in fields(cls)))
        return drawn

    @abstractmethod
    def apply(self, image: Image.Image) -> Image.Image:
        """Do it to an RGB image. Raises ImageError where the image is too large for it."""

    def record(self) -> dict[str, str | int | float]:
        """Name and parameters, for JSON."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Jpeg(Operation):
    """Saved as a JPEG, with whole or halved chroma, and read again."""

    name: ClassVar[str] = "jpeg"
    quality: int = _drawn(lambda draws: draws.integer(30, 95))
    subsampling: str = _drawn(lambda draws: draws.choice(("4:4:4", "4:2:0")))

    def apply(self, image: Image.Image) -> Image.Image:
        """Encode and decode."""
        return _saved(image, "JPEG", quality=self.quality, subsampling=self.subsampling)


@dataclass(frozen=True)
class Webp(Operation):
    """Saved as a lossy WebP and read again."""

    name: ClassVar[str] = "webp"
    quality: int = _drawn(lambda draws: draws.integer(30, 95))

    def apply(self, image: Image.Image) -> Image.Image:
        """Encode and decode."""
        return _saved(image, "WEBP", quality=self.quality)


@dataclass(frozen=True)
class Crop(Operation):
    """A part of the image: `keep` of each side; `left` and `top`, 0 to 1, place it."""

    name: ClassVar[str] = "crop"
    keep: float = _drawn(lambda draws: draws.uniform(0.6, 0.95))
    left: float = _drawn(lambda draws: draws.uniform(0.0, 1.0))
    top: float = _drawn(lambda draws: draws.uniform(0.0, 1.0))

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut; at least one pixel stays."""
        width, height = (_scaled(side, self.keep) for side in image.size)
        left = round(self.left * (image.width - width))
        top = round(self.top * (image.height - height))
        return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Resize(Operation):
    """Both sides times `factor`, antialiased."""

    name: ClassVar[str] = "resize"
    factor: float = _drawn(lambda draws: draws.uniform(0.5, 1.5))
    kernel: str = _drawn(lambda draws: draws.choice(tuple(FILTERS)))

    def apply(self, image: Image.Image) -> Image.Image:
        """Resample; at least one pixel stays."""
        width, height = (_scaled(side, self.factor) for side in image.size)
        if width * height > PIXEL_LIMIT:
            raise ImageError(f"resized to {width}x{height} it has more than {PIXEL_LIMIT:,} pixels")
        return image.resize((width, height), FILTERS[self.kernel])


@dataclass(frozen=True)
class Rotation(Operation):
    """Turned by `degrees` either way; the largest upright part is kept, without empty corners."""

    name: ClassVar[str] = "rotation"
    degrees: float = _drawn(lambda draws: draws.uniform(2.0, 30.0) * draws.choice((-1, 1)))
    kernel: str = _drawn(lambda draws: draws.choice(("bilinear", "bicubic")))

    def apply(self, image: Image.Image) -> Image.Image:
        """Turn about the centre and cut."""
        turned = image.rotate(self.degrees, FILTERS[self.kernel])
        width, height = largest_upright(*image.size, math.radians(abs(self.degrees)))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return turned.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Brightness(Operation):
    """All values times `factor`, clipped."""

    name: ClassVar[str] = "brightness"
    factor: float = _drawn(lambda draws: draws.uniform(0.7, 1.3))

    def apply(self, image: Image.Image) -> Image.Image:
        """Multiply and clip."""
        return ImageEnhance.Brightness(image).enhance(self.factor)


@dataclass(frozen=True)
class Contrast(Operation):
    """Distances from the mean grey times `factor`, clipped."""

    name: ClassVar[str] = "contrast"
    factor: float = _drawn(lambda draws: draws.uniform(0.7, 1.3))

    def apply(self, image: Image.Image) -> Image.Image:
        """Multiply and clip."""
        return ImageEnhance.Contrast(image).enhance(self.factor)


@dataclass(frozen=True)
class Blur(Operation):
    """A Gaussian of `sigma` pixels' standard deviation."""

    name: ClassVar[str] = "blur"
    sigma: float = _drawn(lambda draws: draws.uniform(0.5, 2.0))

    def apply(self, image: Image.Image) -> Image.Image:
        """Blur."""
        return image.filter(ImageFilter.GaussianBlur(self.sigma))


@dataclass(frozen=True)
class Greyscale(Operation):
    """Luma in all three channels."""

    name: ClassVar[str] = "greyscale"

    def apply(self, image: Image.Image) -> Image.Image:
        """Drop the colour."""
        return image.convert("L").convert("RGB")


@dataclass(frozen=True)
class SuperResolution(Operation):
    """As if enlarged from a small copy: averaged down by `factor`, enlarged, sharpened.

    The size stays. No learned enlarger runs here: a Lanczos kernel and an unsharp mask of
    `percent` stand for it.
    """

    name: ClassVar[str] = "super-resolution"
    factor: float = _drawn(lambda draws: draws.uniform(1.5, 4.0))
    percent: int = _drawn(lambda draws: draws.integer(50, 150))

    def apply(self, image: Image.Image) -> Image.Image:
        """Shrink, enlarge, sharpen."""
        width, height = (_scaled(side, 1 / self.factor) for side in image.size)
        small = image.resize((width, height), Image.Resampling.BOX)
        large = small.resize(image.size, Image.Resampling.LANCZOS)
        return large.filter(ImageFilter.UnsharpMask(self.factor / 2, self.percent, threshold=0))


OPERATIONS: tuple[type[Operation], ...] = (
    Jpeg,
    Webp,
    Crop,
    Resize,
    Rotation,
    Brightness,
    Contrast,
    Blur,
    Greyscale,
    SuperResolution,
)


def largest_upright(width: int, height: int, angle: float) -> tuple[int, int]:
    """Width and height of the largest upright rectangle inside one turned by `angle` radians.

    It is centred like the turned one; `angle` lies in 0..π/2, and neither side falls below 1.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    long, short = max(width, height), min(width, height)
    if short <= 2 * sine * cosine * long:
        # Two corners touch the long sides' turned edges, halfway between them.
        half = short / 2
        across, down = half / sine, half / cosine
        across, down = (across, down) if width >= height else (down, across)
    else:
        double = cosine**2 - sine**2
        across = (width * cosine - height * sine) / double
        down = (height * cosine - width * sine) / double
    return max(1, int(min(across, width))), max(1, int(min(down, height)))


def _scaled(side: int, factor: float) -> int:
    return max(1, round(side * factor))


def _saved(image: Image.Image, form: str, **options: str | int) -> Image.Image:
    buffer = io.BytesIO()
    try:
        image.save(buffer, form, **options)
    except (OSError, ValueError) as error:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"{size} pixels cannot be written as {form} ({error})") from error
    with Image.open(buffer, formats=(form,)) as file:
        return file.convert("RGB")


STEPS = (1, 2, 3)


def operations(step: int, seed: int, sha256: str) -> list[Operation]:
    """The `step` different operations, in order, for the image whose file has that hash.

    Raises:
        ConfigError: `step` is not 1, 2 or 3.
    """
    if step not in STEPS:
        raise ConfigError(f"step {step} is not known: use 1, 2 or 3")
    draws = HashRNG("degradation", seed, sha256, step)
    return [kind.draw(draws) for kind in draws.sample(OPERATIONS, step)]


def degrade(
    image: Image.Image, step: int, seed: int, sha256: str
) -> tuple[Image.Image, list[Operation]]:
    """A degraded copy of an RGB image, and what was done to it, in order.

    Args:
        image: RGB, any size; it is left as it is.
        step: how many operations are chained, 1 to 3.
        seed: draws other operations for every image.
        sha256: hash of the image's file, as in an index or a cache.

    Raises:
        ConfigError: `step` is not 1, 2 or 3.
        ImageError: the image is too large for what was drawn.
    """
    chain = operations(step, seed, sha256)
    for operation in chain:
        image = operation.apply(image)
    return image, chain
