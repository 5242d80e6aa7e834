r"""Distil the bundled autoencoder from TAESD, on two CPU cores, in about half an hour.

    python data/recipes/distil_autoencoder.py --teacher ../shared/weights/taesd.safetensors \
        --images ../shared/bench/faces/sd3 ../shared/bench/faces/real --out leakcache/bundled

Two stages, each finished before the next begins. The encoder learns the teacher's latents (mean
squared error, each channel over its variance, which is one minus the squared correlation up to
bias). Then, with the encoder frozen, the decoder learns the teacher's decoding and the picture
itself, from the teacher's and from the student's latents in turn. Crops, teacher's latents and
decodings are computed once and kept under `--scratch`; a second run takes up the finished parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_images import Sources, crop, load_sources

LAYOUT = {
    "encoder_block_out_channels": (32, 32, 32, 32),
    "decoder_block_out_channels": (32, 32, 32, 32),
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (2, 3, 3, 1),
}
PARAMETER_LIMIT = 600_000

Pool = dict[str, Tensor]
Loss = Callable[[Tensor], Tensor]


class Crops(Dataset[Tensor]):
    """Augmented uint8 crops, (3, size, size), by index."""

    def __init__(self, sources: Sources, seed: int, count: int, size: int) -> None:
        self.sources, self.seed, self.count, self.size = sources, seed, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        pixels = torch.from_numpy(crop(self.sources, self.seed, index, self.size).copy())
        return pixels.permute(2, 0, 1)


def main() -> None:
    """Read the flags, run both stages, save the student."""
    options = _parse()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    student = AutoencoderTiny(**LAYOUT)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    if parameters > PARAMETER_LIMIT:
        raise SystemExit(f"error: {parameters} parameters, more than {PARAMETER_LIMIT}")
    pool = make_pool(options, load_teacher(options.teacher))
    student = student.to(memory_format=torch.channels_last)
    stage(options, student.encoder, "encoder", lambda rows: encoder_loss(student, pool, rows), pool)
    student.encoder.requires_grad_(False)
    stage(options, student.decoder, "decoder", lambda rows: decoder_loss(student, pool, rows), pool)
    student.to(torch.float16).save_pretrained(options.out)
    print(f"saved {parameters} parameters to {options.out}", flush=True)


def load_teacher(path: Path) -> AutoencoderTiny:
    """The teacher in fp32 (its file may hold fp8 weights), evaluation mode."""
    teacher = AutoencoderTiny()
    teacher.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 (batch, 3, h, w) to [-1, 1], channels last."""
    unit = pixels.float().div(127.5).sub(1)
    return unit.contiguous(memory_format=torch.channels_last)


def make_pool(options: argparse.Namespace, teacher: AutoencoderTiny) -> Pool:
    """Crops (uint8), teacher's latents (fp16) and the teacher's decodings of them (uint8)."""
    path = options.scratch / "pool.safetensors"
    if path.is_file():
        stored: Pool = load_file(path)
        return stored
    crops = Crops(load_sources(options.images), options.seed, options.crops, options.size)
    parts: dict[str, list[Tensor]] = {"crops": [], "latents": [], "decodings": []}
    start = time.perf_counter()
    for number, batch in enumerate(DataLoader(crops, batch_size=32, num_workers=1)):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            latents = teacher.encoder(to_unit_range(batch)).float()
            decodings = teacher.decoder(latents).float().add(1).mul(127.5).round().clamp(0, 255)
        parts["crops"].append(batch)
        parts["latents"].append(latents.half())
        parts["decodings"].append(decodings.byte())
        if number % 20 == 19:
            _say(f"pool {32 * (number + 1)} of {options.crops}", start)
    pool = {name: torch.cat(batches).contiguous() for name, batches in parts.items()}
    save_file(pool, path)
    return pool


def stage(options: argparse.Namespace, half: nn.Module, name: str, loss: Loss, pool: Pool) -> None:
    """Train one half of the student; keep it, so that a second run goes on to the next."""
    path = options.scratch / f"{name}.safetensors"
    if not path.is_file():
        train(half, loss, len(pool["crops"]), getattr(options, f"{name}_epochs"), options)
        save_file({key: value.contiguous() for key, value in half.state_dict().items()}, path)
    half.load_state_dict(load_file(path))


def train(
    half: nn.Module, loss: Loss, count: int, epochs: int, options: argparse.Namespace
) -> None:
    """AdamW under a one-cycle rate, gradients clipped; prints the running loss."""
    optimizer = torch.optim.AdamW(half.parameters(), lr=options.rate, weight_decay=1e-4)
    steps = epochs * (count // options.batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=steps, pct_start=0.1
    )
    start, running = time.perf_counter(), 0.0
    for step, rows in enumerate(_batches(count, epochs, options.batch_size)):
        optimizer.zero_grad()
        value = loss(rows)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        running += (value.item() - running) / min(step + 1, 100)
        if step % 100 == 99:
            _say(f"step {step + 1} of {steps}, loss {running:.4f}", start)


def encoder_loss(student: AutoencoderTiny, pool: Pool, rows: Tensor) -> Tensor:
    """Mean squared error of the latents, each channel over the teacher's variance in the batch."""
    target = pool["latents"][rows].float()
    with torch.autocast("cpu", torch.bfloat16):
        latents = student.encoder(to_unit_range(pool["crops"][rows]))
    spread = target.var((0, 2, 3), keepdim=True)
    error: Tensor = (latents.float() - target).square() / spread
    return error.mean()


def decoder_loss(student: AutoencoderTiny, pool: Pool, rows: Tensor) -> Tensor:
    """L1 to the teacher's decoding and to the picture, plus L1 of the picture's differences."""
    picture, target = to_unit_range(pool["crops"][rows]), to_unit_range(pool["decodings"][rows])
    with torch.autocast("cpu", torch.bfloat16):
        latents = pool["latents"][rows].float()
        half = len(rows) // 2
        with torch.no_grad():
            latents[half:] = student.encoder(picture[half:]).float()
        decoded = student.decoder(latents)
    decoded = decoded.float()
    values = functional.l1_loss(decoded, target) + 0.5 * functional.l1_loss(decoded, picture)
    return values + 0.5 * sum(
        (functional.l1_loss(decoded.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3)),
        start=torch.zeros(()),
    )


def _batches(count: int, epochs: int, size: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count)
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]


def _say(message: str, start: float) -> None:
    print(f"{message}, {time.perf_counter() - start:.0f} s", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", type=Path, required=True, help="TAESD, AutoencoderTiny keys")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--out", type=Path, default=Path("leakcache/bundled"))
    parser.add_argument("--scratch", type=Path, default=Path("scratch/distil"))
    parser.add_argument("--crops", type=int, default=12_000, help="how many training crops")
    parser.add_argument("--size", type=int, default=128, help="side of a crop, pixels")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--encoder-epochs", type=int, default=5)
    parser.add_argument("--decoder-epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
