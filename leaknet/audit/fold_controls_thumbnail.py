"""What colour and layout alone say: the mean colours of an 8×8 grid over the picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

SIDE = 8


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, "8 8 3"]:
    """Mean colour of each cell of an 8×8 grid over the whole RGB image, whatever its aspect."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def thumbnail_features(
    thumbnails: UInt8[np.ndarray, "image 8 8 3"],
) -> Float32[np.ndarray, "image 192"]:
    """One row an image, 0 to 1."""
    features: Float32[np.ndarray, "image 192"] = thumbnails.reshape(
        len(thumbnails), -1
    ) / np.float32(255)
    return features
