"""Bytes to pixels: decode whatever can be read, refuse the rest with a reason.

Decoding keeps the values that the file stores: alpha is dropped without compositing (the
colours below transparent pixels are evidence too), ICC profiles are ignored, 16 bits become 8
by the nearest multiple of 257, EXIF orientation is applied, an animation is its first frame.
The content decides the format, never the file's name. Safe in threads: together they decode at
most `PIXEL_LIMIT` pixels at once, so that memory does not grow with their number.

What becomes of the pixels (`leakcache.images.preprocess`) may be imported from here.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from leakcache.errors import ImageError
from leakcache.images.file_parts import jpeg_endings, mend_png
from leakcache.images.preprocess import Preprocessing, preprocess, to_unit_range

__all__ = [
    "PIXEL_LIMIT",
    "VERSION",
    "Preprocessing",
    "bands",
    "decode",
    "decoded",
    "opened",
    "preprocess",
    "to_unit_range",
]


class PixelBudget:
    """Makes threads wait while the images of other threads fill a number of pixels."""

    def __init__(self, limit: int) -> None:
        """A budget of `limit` pixels; a larger image takes all of it."""
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._thread = threading.local()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels while the body runs; nothing more inside another such body."""
        if getattr(self._thread, "inside", False):
            yield
            return
        pixels = min(pixels, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._held + pixels <= self._limit)
            self._held += pixels
        self._thread.inside = True
        try:
            yield
        finally:
            self._thread.inside = False
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


VERSION = 1
"""To be raised when the code refuses other files."""
PIXEL_LIMIT = 2**30 // 12
"""Most pixels that are decoded: 256 MiB of RGB, about 9,459 × 9,459; Pillow's own bound."""
_AT_ONCE = PixelBudget(PIXEL_LIMIT)
_BAND = 2**22
"""Pixels of an image that are converted at a time where the conversion makes copies."""

# Formats by content. Left out: those that run programs (EPS), those without a signature
# (TGA), and containers of something else than the pixels of an image.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_FOREIGN = {b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif1": "HEIF", b"<svg": "SVG"}
# What Pillow raises on malformed bytes, depending on the format.
_MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    MemoryError,
    Warning,
    struct.error,
    zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Reading 16-bit colour in the other byte order yields the low bytes, which Pillow drops.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_FINE = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")

# Pillow warns of odd metadata in files whose pixels are fine. Said once here, since filters
# belong to the process and cannot be changed for one call while other threads decode.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow registers its formats on first use, which threads must not do at once.
Image.init()


def decode(data: bytes, *, least: int = 0) -> Image.Image:
    """The image in a file's bytes as 8-bit RGB, upright, first frame, without metadata.

    With `least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size, in a fraction of the time, as
    long as neither side falls below `least` pixels: for thumbnails, never for evidence.

    Raises ImageError with the reason for empty or truncated data, for what is no image or
    none of the formats read here, for more than `PIXEL_LIMIT` pixels (found in the header,
    before any pixel is decoded) and for numbers without an agreed range.
    """
    with decoded(data, least=least) as image:
        return image


@contextmanager
def decoded(data: bytes, *, least: int = 0) -> Iterator[Image.Image]:
    """The image as `decode` gives it, for use on this thread.

    Its pixels count among those that are decoded at once until the block ends.
    """
    data = mend_png(data)
    with ExitStack() as room:
        yield _mended(data, least, room)


def _mended(data: bytes, least: int, room: ExitStack) -> Image.Image:
    try:
        return _decoded(data, least, room)
    except ImageError:
        endings = jpeg_endings(data)
        if endings is None:
            raise
        first, second = (_decoded(ended, least, room) for ended in endings)
        if not _same(first, second):
            raise
        return first


def _same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and all(
        one.tobytes() == other.tobytes()
        for (_, one), (_, other) in zip(bands(first), bands(second), strict=True)
    )


def _decoded(data: bytes, least: int, room: ExitStack) -> Image.Image:
    with opened(data) as image:
        if least:
            image.draft(None, (least, least))
        room.enter_context(_AT_ONCE.room(image.width * image.height))
        other_order = _in_other_order(image.tile)
        image.load()
        turn = _turn(image)
        rgb = _from_16_bit(image, data, other_order) if other_order else _to_rgb(image)
    rgb.info.clear()
    return rgb.transpose(turn) if turn is not None else rgb


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Pixels that are decoded already as `decode` would give them, upright RGB.

    Args:
        image: of any mode, or an array: height × width (8 or 16 bits, or floats in 0..1), or
            height × width × 3 or 4 (8 bits).

    Raises:
        ImageError: it is no such array, has too many pixels or cannot be decoded.
    """
    if isinstance(image, np.ndarray) and image.ndim not in (2, 3):
        raise ImageError(f"is no image: an array of {image.ndim} axes")
    try:
        found = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    except (*_MALFORMED, UnidentifiedImageError) as error:
        raise ImageError(f"is no image: {' '.join(str(error).split())}") from error
    _refuse_bomb(found.size)
    turn = _turn(found)
    rgb = _to_rgb(found)
    rgb.info.clear()
    return rgb.transpose(turn) if turn is not None else rgb


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """The image in a file's bytes as Pillow opens it: header read, pixels not yet decoded.

    What fails inside the block for the file's fault raises ImageError, as in `decode`.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(mend_png(data)), formats=_FORMATS) as image:
            _refuse_bomb(image.size)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_unknown(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more than {PIXEL_LIMIT:,} pixels: a decompression bomb") from error
    except _MALFORMED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}") from error


def _refuse_bomb(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > PIXEL_LIMIT:
        raise ImageError(f"{width}x{height} is more than {PIXEL_LIMIT:,} pixels")


def _unknown(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not an image: fetch the file with `git lfs pull`"
    if data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image: download it again"
    for signature, name in _FOREIGN.items():
        if signature in data[:1024]:
            return f"{name} is not supported: convert it to PNG"
    return "not an image: unknown format or damaged header"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright; damaged EXIF data count as none."""
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except _MALFORMED:
        return None


def _in_other_order(tiles: list[ImageFile._Tile]) -> list[ImageFile._Tile]:
    """The tiles of 16-bit colour to be read in the other byte order; empty for all else."""
    swapped = []
    for tile in tiles:
        raw, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or ("",)
        match = _FINE.fullmatch(str(raw))
        if not match:
            return []
        other = f"{match[1]};16{_OTHER_ORDER[match[2]]}"
        swapped.append(tile._replace(args=(other, *rest) if rest else other))
    return swapped


def _from_16_bit(
    image: Image.Image, data: bytes, other_order: list[ImageFile._Tile]
) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as again:
        again.tile = other_order
        again.load()

    def nearest(high: Image.Image, top: int) -> Image.Image:
        low = again.crop((0, top, high.width, top + high.height))
        return Image.fromarray(_nearest_8_bit(np.asarray(high)[..., :3], np.asarray(low)[..., :3]))

    return _by_bands(image, nearest)


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image some rows at a time, each band with its first row."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def pixels_hash(image: Image.Image) -> str:
    """Hash of the size and the pixels of a decoded image."""
    digest = hashlib.sha256(repr(image.size).encode())
    for _, band in bands(image):
        digest.update(band.tobytes())
    return digest.hexdigest()


def _by_bands(
    image: Image.Image, convert: Callable[[Image.Image, int], Image.Image]
) -> Image.Image:
    """Convert an image some rows at a time; `convert` takes a band and its first row."""
    whole = Image.new("RGB", image.size)
    for top, band in bands(image):
        whole.paste(convert(band, top), (0, top))
    return whole


def _nearest_8_bit(
    high: UInt8[np.ndarray, "*shape"], low: UInt8[np.ndarray, "*shape"]
) -> UInt8[np.ndarray, "*shape"]:
    """round(v / 257) of v = 256·high + low: high, or its neighbour where low is far from it."""
    apart = low.astype(np.int16) - high
    nearest: UInt8[np.ndarray, "*shape"] = high + (apart > 128).astype(np.uint8) - (apart < -128)
    return nearest


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        # The same pixels without the file's class; convert() would copy them.
        return image._new(image.im)
    if image.mode in ("I", "F"):
        return _by_bands(image, lambda band, _: _from_numbers(np.asarray(band)))
    if image.mode.startswith("I;16"):
        return _by_bands(image, lambda band, _: _from_16_bit_grey(np.asarray(band)))
    # Else Pillow would look for a palette entry that stands for transparency, and warn.
    image.info.pop("transparency", None)
    if image.mode in ("RGBa", "La"):
        return image.convert(image.mode.upper()).convert("RGB")
    return image.convert("RGB")


def _from_16_bit_grey(values: np.ndarray) -> Image.Image:
    whole = values.astype(np.uint16)
    high, low = (whole >> 8).astype(np.uint8), (whole & 255).astype(np.uint8)
    return Image.fromarray(_nearest_8_bit(high, low)).convert("RGB")


def _from_numbers(values: np.ndarray) -> Image.Image:
    """Greyscale from 0..65535 (integers) or 0..1 (floats), the ranges there is a custom for."""
    top = 1 if values.dtype.kind == "f" else 65535
    if not (values.min() >= 0 and values.max() <= top):
        raise ImageError(f"{values.dtype} pixels outside 0..{top}: save it with 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8)).convert("RGB")
