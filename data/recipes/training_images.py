"""Training crops for the bundled autoencoder from freely licensed images, strongly augmented.

A crop is a pure function of (seed, index). Most are cut from photographs and portraits, as one
window or a mosaic of small ones; the rest is synthetic (dead leaves, coloured noise with gradients,
text) and adds edges, textures and letters that two hundred portraits lack.

The photographs are those of two Debian packages:

    apt-get download lomiri-wallpapers-16.04 endless-sky-data
    for file in *.deb; do dpkg-deb -x "$file" unpacked; done
    python data/recipes/training_images.py --root unpacked --out photographs

writes `photographs/wallpapers` and `photographs/landscapes`: those that the package's
machine-readable copyright file lists under a licence of `FREE`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

# Photographs inside installed wheels. Their licences are listed in the model card.
PACKAGE_PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "retina.jpg",
            "rocket.jpg",
        )
    ),
}
RESAMPLERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
# Larger photographs are reduced to this side, because camera pixels are soft.
LARGEST = 1536
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class CropStyle:
    """Smallest window in crop widths (below 1 some are enlarged) and probabilities of the kinds.

    Kinds: window, dead leaves, coloured noise, text, mosaic, leaves cut from images.
    `photographs` is the probability of a photograph instead of an image of the folders.
    """

    smallest: float
    probabilities: tuple[float, ...]
    photographs: float = 0.45


@dataclass(frozen=True)
class Sources:
    """RGB images for the crops: those of the folders, and photographs."""

    folders: tuple[Image.Image, ...]
    photographs: tuple[Image.Image, ...]


def load_sources(folders: list[Path], photographs: list[Path]) -> Sources:
    """Read the images of `folders`, and the photographs of Python packages and of `photographs`."""
    paths = package_photographs() + [
        path for folder in photographs for path in _image_files(folder)
    ]
    return Sources(
        tuple(_read(path) for folder in folders for path in _image_files(folder)),
        tuple(_read(path) for path in paths),
    )


def _image_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]


def package_photographs() -> list[Path]:
    """Paths of the photographs in installed packages."""
    found: list[Path] = []
    for package, names in PACKAGE_PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent / name for name in names]
    return [path for path in found if path.is_file()]


def crop(sources: Sources, key: tuple[int, int], size: int, style: CropStyle) -> NDArray[np.uint8]:
    """The training crop of this (seed, index), uint8, (size, size, 3)."""
    rng = np.random.default_rng(key)
    kind = rng.choice(len(style.probabilities), p=style.probabilities)
    if kind == 0:
        image = _cut(_pick(sources, rng, style), rng, size, style.smallest)
    elif kind == 1:
        image = _dead_leaves(rng, size)
    elif kind == 2:
        image = _coloured_noise(rng, size)
    elif kind == 3:
        image = _text(rng, size)
    elif kind == 4:
        image = _mosaic(sources, rng, size, style)
    else:
        image = _textured_leaves(sources, rng, size, style)
    return np.asarray(_degrade(_recolour(image, rng), rng), dtype=np.uint8)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    rgb.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return rgb


def _pick(sources: Sources, rng: np.random.Generator, style: CropStyle) -> Image.Image:
    use_photograph = sources.photographs and rng.random() < style.photographs
    pool = sources.photographs if use_photograph or not sources.folders else sources.folders
    return pool[rng.integers(len(pool))]


def _cut(image: Image.Image, rng: np.random.Generator, size: int, smallest: float) -> Image.Image:
    """A square window of random scale, side and turn, resized to `size`."""
    if rng.random() < 0.15:
        image = image.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC)
    shorter = min(image.size)
    bounds = min(shorter, smallest * size), min(shorter, 4.5 * size)
    side = np.exp(rng.uniform(*np.log(bounds)))
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    piece = image.resize((size, size), RESAMPLERS[rng.integers(len(RESAMPLERS))], box=box)
    if rng.random() < 0.5:
        piece = ImageOps.mirror(piece)
    if rng.random() < 0.2:
        piece = piece.rotate(90 * int(rng.integers(1, 4)))
    return piece


def _mosaic(sources: Sources, rng: np.random.Generator, size: int, style: CropStyle) -> Image.Image:
    """A grid of strongly reduced windows: the dense detail of whole scenes."""
    across = int(rng.integers(2, 4))
    tile = -(-size // across)
    image = Image.new("RGB", (size, size))
    for index in range(across * across):
        piece = _cut(_pick(sources, rng, style), rng, tile, 1.0)
        image.paste(_recolour(piece, rng), (index % across * tile, index // across * tile))
    return image


def _textured_leaves(
    sources: Sources, rng: np.random.Generator, size: int, style: CropStyle
) -> Image.Image:
    """Overlapping ellipses and quadrilaterals cut from images, on an image."""
    image = _cut(_pick(sources, rng, style), rng, size, 1.0)
    for _ in range(int(rng.integers(4, 20))):
        side = int(min(size, max(8, 0.12 * size / np.sqrt(rng.uniform(0.01, 1)))))
        piece = _recolour(_cut(_pick(sources, rng, style), rng, side, 1.0), rng)
        mask = Image.new("L", (2 * side, 2 * side))
        corners = [(float(x), float(y)) for x, y in rng.uniform(0, 2 * side, (4, 2))]
        if rng.random() < 0.5:
            ImageDraw.Draw(mask).ellipse((0, 0, 2 * side - 1, 2 * side - 1), fill=255)
        else:
            ImageDraw.Draw(mask).polygon(corners, fill=255)
        left, top = (int(value) for value in rng.integers(-side // 2, size, 2))
        image.paste(piece, (left, top), mask.resize((side, side), Image.Resampling.BOX))
    return image


def _recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Random hue turn, saturation, white balance, contrast, brightness and gamma."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    if rng.random() < 0.7:
        pixels = pixels @ _hue_matrix(rng).T
    if rng.random() < 0.5:
        pixels = pixels * rng.uniform(0.75, 1.25, 3).astype(np.float32)
    if rng.random() < 0.6:
        contrast, shift = np.exp(rng.normal(0, 0.3)), rng.normal(0, 0.1)
        pixels = (pixels - 0.5) * np.float32(contrast) + np.float32(0.5 + shift)
    pixels = pixels.clip(0, 1)
    if rng.random() < 0.5:
        pixels = pixels ** np.float32(np.exp(rng.normal(0, 0.35)))
    if rng.random() < 0.03:
        pixels = 1 - pixels
    return Image.fromarray((pixels * 255 + 0.5).astype(np.uint8))


def _hue_matrix(rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn about the grey axis, with a random saturation; now and then none at all (grey)."""
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.4 else rng.normal(0, 0.25)
    saturation = 0.0 if rng.random() < 0.05 else np.exp(rng.normal(0.05, 0.35))
    grey = np.full((3, 3), 1 / 3)
    turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = grey + (np.eye(3) - grey) * np.cos(angle) + turn * np.sin(angle)
    return np.asarray(grey + saturation * (rotation - grey), dtype=np.float32)


def _degrade(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, sharpening, sensor-like noise and JPEG, each now and then."""
    if rng.random() < 0.12:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.5)))
    if rng.random() < 0.25:
        image = ImageEnhance.Sharpness(image).enhance(rng.uniform(1.2, 4.0))
    if rng.random() < 0.08:
        noise = rng.normal(0, rng.uniform(2, 15), (*image.size[::-1], 3))
        noisy = np.asarray(image, dtype=np.float32) + noise
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
        image = Image.open(buffer).convert("RGB")
    return image


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def _dead_leaves(rng: np.random.Generator, size: int) -> Image.Image:
    """Overlapping ellipses, boxes and triangles whose radii follow a power law."""
    canvas = _coloured_noise(rng, 2 * size) if rng.random() < 0.5 else None
    image = canvas or Image.new("RGB", (2 * size, 2 * size), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(20, 220))):
        radius = min(6 / np.sqrt(rng.uniform(0.0004, 1)), size)
        x, y = rng.uniform(0, 2 * size, 2)
        shape = rng.integers(3)
        spread = radius * rng.uniform(0.3, 1, 2)
        box = (x - spread[0], y - spread[1], x + spread[0], y + spread[1])
        if shape == 0:
            draw.ellipse(box, fill=_colour(rng))
        elif shape == 1:
            draw.rectangle(box, fill=_colour(rng))
        else:
            corners = rng.uniform(-radius, radius, (3, 2)) + (x, y)
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=_colour(rng))
    return image.resize((size, size), Image.Resampling.BOX)


def _coloured_noise(rng: np.random.Generator, size: int) -> Image.Image:
    """Noise of spectrum 1/f^a with correlated colours over a linear gradient."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    white = np.fft.rfft2(rng.normal(size=(3, size, size)))
    field = np.fft.irfft2(white / frequency ** rng.uniform(0.6, 2.2), s=(size, size))
    field /= field.std() + 1e-9
    mixed = np.einsum("oc,chw->hwo", rng.normal(size=(3, 3)) * rng.uniform(5, 40), field)
    ramp = np.linspace(0, 1, size)
    slope = rng.normal(0, 60, (2, 3))
    gradient = ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
    pixels = rng.uniform(30, 225, 3) + mixed + gradient
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _text(rng: np.random.Generator, size: int) -> Image.Image:
    """Lines of random characters in random sizes and colours."""
    plain = rng.random() < 0.6
    image = Image.new("RGB", (size, size), _colour(rng)) if plain else _coloured_noise(rng, size)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 12))):
        letters = "".join(chr(code) for code in rng.integers(33, 127, int(rng.integers(2, 16))))
        place = (float(rng.uniform(-size / 4, size)), float(rng.uniform(-10, size)))
        font = ImageFont.load_default(float(rng.uniform(7, size / 2.5)))
        draw.text(place, letters, fill=_colour(rng), font=font)
    return image


FREE = {"CC0-1.0", "CC-BY-4.0", "public-domain"}


@dataclass(frozen=True)
class Listed:
    """Photographs of a package: their folder, and its name in the copyright file."""

    package: str
    folder: str
    listed_as: str


PHOTOGRAPHS = {
    "wallpapers": (Listed("lomiri-wallpapers-16.04", "usr/share/backgrounds", "16.04"),),
    "landscapes": tuple(
        Listed("endless-sky-data", f"usr/share/games/endless-sky/{folder}", folder)
        for folder in ("images/land", "images/scene")
    ),
}


def main() -> None:
    """Write two folders and print the number of photographs in each."""
    parser = argparse.ArgumentParser(description="Collect the freely licensed photographs.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=Path("photographs"))
    options = parser.parse_args()
    for kind, sources in PHOTOGRAPHS.items():
        paths = [path for source in sources for path in free_photographs(options.root, source)]
        (options.out / kind).mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copy(path, options.out / kind)
        print(f"{len(paths)} photographs in {options.out / kind}", flush=True)


def free_photographs(root: Path, source: Listed) -> Iterator[Path]:
    """Photographs whose last matching entry in the copyright file has a licence of `FREE`."""
    entries = list(licences(root / "usr/share/doc" / source.package / "copyright"))
    for path in sorted((root / source.folder).glob("*.jpg")):
        name = f"{source.listed_as}/{path.name}"
        found = [licence for pattern, licence in entries if fnmatchcase(name, pattern)]
        if found and found[-1] in FREE:
            yield path


def licences(path: Path) -> Iterator[tuple[str, str]]:
    """(file pattern, short name of the licence), in the order of the copyright file."""
    for stanza in re.split(r"\n\s*\n", path.read_text()):
        files = re.search(r"^Files:(.*?)^\S", stanza, re.DOTALL | re.MULTILINE)
        licence = re.search(r"^License:\s*(\S+)", stanza, re.MULTILINE)
        if files and licence:
            yield from ((pattern, licence[1]) for pattern in files[1].split())


if __name__ == "__main__":
    main()
