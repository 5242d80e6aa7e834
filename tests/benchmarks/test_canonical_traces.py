"""Traces of an image's history after canonicalisation: the figures of docs/AUDIT.md.

The same images get seven histories of resampling and compression and are canonicalised. A linear
model on block-DCT energies and a radial spectrum classifies the histories, with 4-fold
cross-validation over prompts. The goal is chance.

    python tests/benchmarks/test_canonical_traces.py ../shared/bench/gallery8
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leakcache.images.decode import decode
from leakcache.images.preprocess import Preprocessing, preprocess

LANCZOS, BICUBIC = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC


def through(image: Image.Image, form: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return decode(buffer.getvalue())


def halved(image: Image.Image) -> Image.Image:
    return image.resize((256, 256), LANCZOS)


HISTORIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 75 of 512 px": lambda image: image,
    "lossless 256 px": halved,
    "256 px enlarged to 512": lambda image: halved(image).resize((512, 512), BICUBIC),
    "JPEG 40 of 512 px": lambda image: through(image, "JPEG", quality=40),
    "JPEG 75 of 256 px": lambda image: through(halved(image), "JPEG", quality=75),
    "WebP 75 of 512 px": lambda image: through(image, "WEBP", quality=75),
    "JPEG 95 of 1024 px": lambda image: through(
        image.resize((1024, 1024), BICUBIC), "JPEG", quality=95, subsampling="4:4:4"
    ),
}
TRACKS = {
    "resized to 256, not canonical": Preprocessing(),
    "canonical 256": Preprocessing(canonical=True),
    "canonical 192": Preprocessing(size=192, canonical=True, canonical_size=192),
    "canonical 128": Preprocessing(size=128, canonical=True, canonical_size=128),
}


def traces(pixels: np.ndarray) -> np.ndarray:
    """Log energies of 8×8 DCT coefficients on the block grid and off it, and over radius."""
    image = np.asarray(Image.fromarray(pixels).convert("YCbCr"), float)
    side = len(image)
    parts = []
    for shift in (0, 4):
        blocks = np.roll(image, (shift, shift), (0, 1)).reshape(side // 8, 8, side // 8, 8, 3)
        energies = np.abs(dctn(blocks, axes=(1, 3), norm="ortho")).mean((0, 2))
        parts.append(np.log(energies + 1e-3).ravel())
    spectrum = np.abs(dctn(image[..., 0], norm="ortho"))
    radius = (np.hypot(*np.mgrid[:side, :side]) / side * 24).astype(int).ravel()
    energy = np.bincount(radius, spectrum.ravel()) / np.bincount(radius)
    return np.concatenate([*parts, np.log(energy[:24] + 1e-3)])


def rows_of(images: list[Image.Image], names: list[str], track: str) -> dict[str, np.ndarray]:
    """Traces of each history of the images on a track."""
    return {
        name: np.array(
            [traces(preprocess(HISTORIES[name](image), TRACKS[track])[0]) for image in images]
        )
        for name in names
    }


def told_apart(rows: list[np.ndarray], prompts: list[str]) -> float:
    """Accuracy of the classification of histories, each with one row per image."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    targets = np.repeat(np.arange(len(rows)), len(prompts))
    groups = np.tile(prompts, len(rows))
    folds = GroupKFold(4)
    right = cross_val_score(model, np.concatenate(rows), targets, groups=groups, cv=folds)
    return float(right.mean())


def read(root: Path, prompts: slice) -> tuple[list[Image.Image], list[str]]:
    files = [f for folder in sorted(root.iterdir()) for f in sorted(folder.glob("*"))[prompts]]
    return [decode(file.read_bytes()) for file in files], [file.stem for file in files]


def test_a_smaller_canonical_form_hides_more_of_the_history(shared):
    images, prompts = read(shared / "bench" / "gallery8", slice(1, 12, 2))
    names = ["JPEG 75 of 512 px", "lossless 256 px", "WebP 75 of 512 px"]
    raw, canonical, smaller = (
        told_apart(list(rows_of(images, names, track).values()), prompts)
        for track in ("resized to 256, not canonical", "canonical 256", "canonical 128")
    )
    assert raw > 0.75
    assert canonical < raw - 0.15
    assert smaller < 0.5


if __name__ == "__main__":
    images, of_prompts = read(Path(sys.argv[1]), slice(0, 40, 2))
    for track in TRACKS:
        first, *others = list(rows_of(images, list(HISTORIES), track).values())
        pairs = [told_apart([first, other], of_prompts) for other in others]
        print(f"{track}: {told_apart([first, *others], of_prompts):.3f};", *np.round(pairs, 3))
