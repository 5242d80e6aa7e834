"""What a request may cost."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        request_bytes: of one request.
        image_bytes: of one image, also inside a ZIP file.
        unpacked_bytes: of all images of one request, ZIP files unpacked.
        pixels: of one image.
        images: of one request.
        waiting: requests that wait for the one that is scored; more are answered with 429.
        seconds: to receive a request, and to score its images.
    """

    request_bytes: int = 128 * MEBIBYTE
    image_bytes: int = 64 * MEBIBYTE
    unpacked_bytes: int = 512 * MEBIBYTE
    pixels: int = 50_000_000
    images: int = 64
    waiting: int = 16
    seconds: float = 120.0
