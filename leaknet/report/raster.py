"""Small images as PNG: thumbnails, maps over an image, patterns."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image

THUMBNAIL = 128
SIDE = 320
"""Longest side of a map."""
POSITIVE, NEGATIVE = (0, 114, 178), (213, 94, 0)
"""Blue and vermilion, which most colour-blind readers tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class PageImage:
    """An image of a page.

    Attributes:
        key: its name among the figures of a page.
        alt: text alternative.
        png: bytes of the file.
    """

    key: str
    alt: str
    png: bytes

    @property
    def source(self) -> str:
        """The file as a data URI."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


def png(image: Image.Image) -> bytes:
    """A PNG file's bytes."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> bytes:
    """The image with its longer side at most `side`."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return png(small)


def overlay(
    pixels: UInt8[np.ndarray, "height width 3"], values: Float[np.ndarray, "row column"]
) -> bytes:
    """A map over the grey image: blue for positive values, vermilion for negative ones."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    strength = np.abs(values) / max(float(np.abs(values).max()), 1e-12)
    colours = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE).astype(np.float64)
    base = 60 + grey[..., None] * 0.7
    mixed = base + 0.65 * strength[..., None] * (colours - base)
    return thumbnail(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)), SIDE)


def enlarged(
    values: Float64[np.ndarray, "row column"], shape: tuple[int, int]
) -> Float64[np.ndarray, "height width"]:
    """A map of cells brought to the size of an image, each cell of one colour."""
    rows = np.arange(shape[0]) * values.shape[0] // shape[0]
    columns = np.arange(shape[1]) * values.shape[1] // shape[1]
    found: np.ndarray = values[rows[:, None], columns]
    return found


def pattern(values: Float64[np.ndarray, "row column plane"], scale: int = 12) -> bytes:
    """A pattern in grey or colour; 0 is mid-grey."""
    level = values / max(float(np.abs(values).max()), 1e-12)
    pixels = (127.5 + 127.5 * level).round().astype(np.uint8)
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    return png(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))


def signed_map(
    values: Float64[np.ndarray, "row column"], top: float | None = None, side: int = 264
) -> bytes:
    """A map on white: blue for positive values, vermilion for negative ones.

    Args:
        values: one for each cell.
        top: the magnitude of full colour; the largest one by default.
        side: height of the image in pixels, about.
    """
    most = float(np.abs(values).max()) if top is None else top
    strength = (np.abs(values) / max(most, 1e-12)).clip(0, 1)
    colours = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE)
    pixels = (255 + strength[..., None] * (colours - 255)).round().astype(np.uint8)
    scale = max(1, side // len(values))
    return png(Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))


def beside(channels: Float64[np.ndarray, "channel row column"]) -> np.ndarray:
    """Channels side by side, with a column of zeros between them."""
    gap = np.zeros((channels.shape[1], 1))
    parts = [part for channel in channels for part in (channel, gap)]
    found: np.ndarray = np.concatenate(parts[:-1], axis=1)
    return found
