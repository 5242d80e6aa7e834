r"""Compare the bundled autoencoder with its teacher on images outside its training data.

    python data/recipes/measure_autoencoder.py --teacher ../shared/weights/taesd.safetensors \
        --images ../shared/bench/gallery8 --fold test

Images are resized as in a cache build (shorter side to 256, centre crop). Prints, in fp32: the
Pearson correlation of student and teacher latents per channel, over all images and positions
and in the worst image; and PSNR of the decodings, each of its own latents, in dB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from distil_autoencoder import load_teacher, to_unit_range
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional
from training_images import SUFFIXES


def main() -> None:
    """Run both autoencoders over the images and print one JSON object."""
    options = _parse()
    torch.set_num_threads(options.threads)
    student = AutoencoderTiny.from_pretrained(options.autoencoder, local_files_only=True)
    student = student.float().eval().to(memory_format=torch.channels_last)
    paths = list_images(options.images, options.fold)[:: options.every]
    figures = measure(student, load_teacher(options.teacher), paths)
    print(json.dumps({"images": len(paths), **figures}, indent=2))


def list_images(folder: Path, fold: str | None) -> list[Path]:
    """All images in the folder tree, or those of a fold of its Split.json."""
    if fold is None:
        return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    split = json.loads((folder / "Split.json").read_text())[fold]
    return [folder / name / file for name in sorted(split) for file in split[name]]


@torch.inference_mode()
def measure(
    student: AutoencoderTiny, teacher: AutoencoderTiny, paths: list[Path]
) -> dict[str, object]:
    """Correlations per channel and PSNR in dB."""
    latents: tuple[list[Tensor], list[Tensor]] = ([], [])
    ratios: list[Tensor] = []
    for batch in _batches(paths):
        image = to_unit_range(batch)
        ours, theirs = student.encoder(image), teacher.encoder(image)
        latents[0].append(ours)
        latents[1].append(theirs)
        decoded, reference = student.decoder(ours), teacher.decoder(theirs)
        pairs = ((decoded, reference), (decoded, image), (reference, image))
        ratios.append(torch.stack([psnr(left, right) for left, right in pairs]))
    ours, theirs = torch.cat(latents[0]), torch.cat(latents[1])
    each = torch.stack([correlation(a[None], b[None]) for a, b in zip(ours, theirs, strict=True)])
    decibels = torch.cat(ratios, dim=1).mean(1).tolist()
    return {
        "correlation": correlation(ours, theirs).tolist(),
        "correlation_worst_image": each.amin(0).tolist(),
        "correlation_image_mean": each.mean(0).tolist(),
        "psnr_student_decoding_to_teacher_decoding": decibels[0],
        "psnr_student_decoding_to_image": decibels[1],
        "psnr_teacher_decoding_to_image": decibels[2],
    }


def correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Pearson correlation per channel of (batch, channel, h, w) tensors."""
    left = functional.normalize(_centred(ours), dim=1)
    right = functional.normalize(_centred(theirs), dim=1)
    return (left * right).sum(1)


def _centred(latents: Tensor) -> Tensor:
    rows = latents.double().transpose(0, 1).flatten(1)
    return rows - rows.mean(1, keepdim=True)


def psnr(left: Tensor, right: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image of (batch, 3, h, w) in [-1, 1], clipped, in dB."""
    error = (left.clamp(-1, 1) - right.clamp(-1, 1)).div(2).square().mean((1, 2, 3))
    return error.log10().mul(-10)


def _batches(paths: list[Path], size: int = 8) -> Iterator[Tensor]:
    for first in range(0, len(paths), size):
        images = [_resized(path) for path in paths[first : first + size]]
        yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _resized(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (256, 256), Image.Resampling.BILINEAR)
    return np.asarray(square)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, default=Path("leakcache/bundled"))
    parser.add_argument("--images", type=Path, required=True, help="folder, searched recursively")
    parser.add_argument("--fold", help="a fold of the folder's Split.json; default all images")
    parser.add_argument("--every", type=int, default=1, help="take each n-th image")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
