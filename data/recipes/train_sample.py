"""Generate the bundled sample: train eight small latent diffusion models, sample 48 images each.

    python data/recipes/train_sample.py --images ../shared/bench/faces/sd3 --out data

The models learn the bundled autoencoder's latents of 200 CC0 portraits and their mirror images. All
start from one pretrained model and then learn their own objective. Image i of every model starts
from the same noise, so i is its prompt group, and the split is by i. Weights stay in `--scratch`
and are not published; a second run reuses finished models.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import platform
import shutil
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from sample_models import (
    BASE,
    GENERATORS,
    Generator,
    PatchUNet,
    noised,
    optimizers,
    predict,
    sample,
    scale_rates,
)
from torch import Tensor
from torch.nn import functional

COUNT = 48
FOLDS = {"train": 24, "val": 10, "test": 14}
JPEG = {"quality": 88, "subsampling": "4:2:0", "optimize": True}
EMA_DECAY = 0.995


def main() -> None:
    """Train missing models, sample, write images, split and manifest."""
    options = _parse()
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    autoencoder = AutoencoderTiny.from_pretrained(options.autoencoder, local_files_only=True)
    autoencoder = autoencoder.float().eval().requires_grad_(False)
    clean = encode(autoencoder, sorted(options.images.glob("*.webp")))
    scale = 1 / clean.std().item()
    start = base(clean * scale, options)
    chosen = [g for g in GENERATORS if not options.only or g.name in options.only]
    for generator in chosen:
        model, _ = finished(generator, options) or train(generator, start, clean * scale, options)
        write_images(
            decode(autoencoder, sample(generator, model, COUNT) / scale), generator, options
        )
    if all(facts_path(generator, options).is_file() for generator in GENERATORS):
        write_split(options)
        write_manifest(scale, options)


@torch.inference_mode()
def encode(autoencoder: AutoencoderTiny, paths: list[Path]) -> Tensor:
    """Latents (2 * images, 4, 32, 32) of the images and of their mirror images."""
    images = [Image.open(path).convert("RGB") for path in paths]
    images += [ImageOps.mirror(image) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    unit = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return torch.cat([autoencoder.encoder(batch) for batch in torch.split(unit, 16)]).clone()


@torch.inference_mode()
def decode(autoencoder: AutoencoderTiny, latents: Tensor) -> list[Image.Image]:
    """RGB images of the latents."""
    decoded = torch.cat([autoencoder.decoder(batch) for batch in torch.split(latents, 16)])
    pixels = decoded.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(image) for image in pixels.numpy()]


def base(clean: Tensor, options: argparse.Namespace) -> PatchUNet:
    """The common pretrained model; trained once."""
    model, path = PatchUNet(), options.scratch / "base.safetensors"
    if not path.is_file():
        torch.manual_seed(BASE.seed)
        model = PatchUNet()
        average, _ = fit(BASE, model, clean, options.base_steps, options)
        save_file({key: value.contiguous() for key, value in average.state_dict().items()}, path)
    model.load_state_dict(load_file(path))
    return model


def train(
    generator: Generator, start: PatchUNet, clean: Tensor, options: argparse.Namespace
) -> tuple[PatchUNet, dict[str, object]]:
    """Train a copy of `start` with the generator's seed; store averaged weights and facts."""
    torch.manual_seed(generator.seed)
    begun = time.perf_counter()
    average, losses = fit(generator, copy.deepcopy(start), clean, options.steps, options)
    seconds = time.perf_counter() - begun
    return average, keep(generator, average, losses, seconds, options)


def fit(
    generator: Generator, model: PatchUNet, clean: Tensor, steps: int, options: argparse.Namespace
) -> tuple[PatchUNet, list[float]]:
    """Train the generator's objective with Muon and AdamW; returns averaged weights and losses."""
    average = copy.deepcopy(model).requires_grad_(False)
    both = optimizers(model, options.rate, 1e-3)
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(steps):
        scale_rates(both, step, steps)
        batch = clean[torch.randint(len(clean), (options.batch_size,))]
        latents, timesteps, target = noised(generator, batch, torch.randn_like(batch))
        with torch.autocast("cpu", torch.bfloat16):
            output = predict(generator, model, latents, timesteps)
        loss = functional.mse_loss(output.float(), target)
        model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
        follow(average, model, min(EMA_DECAY, (step + 1) / (step + 10)))
        losses.append(loss.item())
        if step % 100 == 99:
            seconds, mean = time.perf_counter() - start, np.mean(losses[-100:])
            print(f"{generator.name} step {step + 1}, loss {mean:.4f}, {seconds:.0f} s", flush=True)
    return average.eval(), losses


@torch.no_grad()
def follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's, in place."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def keep(
    generator: Generator,
    model: PatchUNet,
    losses: list[float],
    seconds: float,
    options: argparse.Namespace,
) -> dict[str, object]:
    """Save the weights and the model's entry of the manifest."""
    weights = weights_path(generator, options)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    facts = {
        **asdict(generator),
        "base_steps": options.base_steps,
        "training_steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.rate,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss": round(float(np.mean(losses[-100:])), 5),
        "training_seconds": round(seconds),
        "weights_sha256": sha256(weights),
    }
    facts_path(generator, options).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def finished(
    generator: Generator, options: argparse.Namespace
) -> tuple[PatchUNet, dict[str, object]] | None:
    """The model and its facts, if an earlier run has finished it."""
    if not facts_path(generator, options).is_file():
        return None
    model = PatchUNet()
    model.load_state_dict(load_file(weights_path(generator, options)))
    return model.eval(), json.loads(facts_path(generator, options).read_text())


def write_images(
    images: list[Image.Image], generator: Generator, options: argparse.Namespace
) -> None:
    """Write 000.jpg, 001.jpg, ... under Closed_Set or Open_Set, one JPEG setting, no metadata."""
    folder = options.out / ("Open_Set" if generator.open_set else "Closed_Set") / generator.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        image.save(folder / f"{index:03d}.jpg", "JPEG", **JPEG)


def write_split(options: argparse.Namespace) -> None:
    """Split.json in WILD's form, closed classes only, the same groups in every class."""
    order = np.random.default_rng(0).permutation(COUNT)
    ends = np.cumsum(list(FOLDS.values()))
    cut = dict(zip(FOLDS, np.split(order, ends[:-1]), strict=True))
    closed = [generator.name for generator in GENERATORS if not generator.open_set]
    split = {
        fold: {name: [f"{index:03d}.jpg" for index in sorted(groups)] for name in sorted(closed)}
        for fold, groups in cut.items()
    }
    (options.out / "Split.json").write_text(json.dumps(split, indent=1) + "\n")


def write_manifest(scale: float, options: argparse.Namespace) -> None:
    """Provenance of every image."""
    weights = options.autoencoder / "diffusion_pytorch_model.safetensors"
    manifest = {
        "recipe": "python data/recipes/train_sample.py --images ../shared/bench/faces/sd3",
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()} CPU, {options.threads} threads, bf16 autocast",
        "autoencoder": {"path": "leakcache/bundled", "sha256": sha256(weights)},
        "latent_scale": scale,
        "ema_decay": EMA_DECAY,
        "images_per_generator": COUNT,
        "image_size": 256,
        "jpeg": {key: JPEG[key] for key in ("quality", "subsampling")},
        "group": "the image's number: the seed of the noise it starts from, in every generator",
        "generators": [json.loads(facts_path(g, options).read_text()) for g in GENERATORS],
    }
    (options.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def weights_path(generator: Generator, options: argparse.Namespace) -> Path:
    """Path of the generator's weights."""
    return Path(options.scratch) / f"{generator.name}.safetensors"


def facts_path(generator: Generator, options: argparse.Namespace) -> Path:
    """Path of the manifest entry; written last, so it marks a finished model."""
    return weights_path(generator, options).with_suffix(".json")


def sha256(path: Path) -> str:
    """Hex digest of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, required=True, help="folder of 256 px portraits")
    parser.add_argument("--autoencoder", type=Path, default=Path("leakcache/bundled"))
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--scratch", type=Path, default=Path("scratch/sample"))
    parser.add_argument("--only", nargs="*", default=[], help="names; default all eight")
    parser.add_argument("--base-steps", type=int, default=1600, help="of the common start")
    parser.add_argument("--steps", type=int, default=400, help="of each model from there")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.006, help="peak of Muon's")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
