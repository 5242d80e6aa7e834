"""Distil the bundled autoencoder from TAESD, on two CPU cores, in about four hours.

Training a deep encoder from scratch is slow. Here each stage of a trained shallow one gets further
residual blocks whose last convolution is zero.

    python data/recipes/distil_autoencoder.py --teacher ../shared/weights/taesd.safetensors \
        --images ../shared/bench/faces/sd3 ../shared/bench/faces/real --photographs photographs \
        --out leakcache/bundled

`photographs` is the output of training_images.py.

Stages: a shallow encoder learns the teacher's latents (squared error of each channel over its
variance: one minus the squared correlation, up to bias); it is deepened; it learns on new, denser
crops; channels with larger errors get more weight. With the encoder frozen, the decoder learns the
teacher's decoding and the image, from the teacher's and the student's latents. Then the encoder
learns on landscapes and new crops with still more weight on the worst channels; the decoder stays,
since it reads the teacher's space. Crops and teacher outputs are computed once and stored in
`--scratch`; a second run reuses finished stages.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from sample_models import optimizers, scale_rates
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_images import CropStyle, Sources, crop, load_sources


def deepen(
    deep: nn.Module,
    shallow: dict[str, Tensor],
    deep_blocks: Sequence[int],
    shallow_blocks: Sequence[int],
) -> None:
    """Load a shallow encoder's weights into a deeper one of the same width.

    Args:
        deep: the encoder to load into, with initial weights.
        shallow: state dict of the shallow one.
        deep_blocks: residual blocks per stage of the deep one.
        shallow_blocks: likewise of the shallow one, at most as many.
    """
    state = deep.state_dict()
    deep_stages, deep_last = _stages(deep_blocks)
    shallow_stages, shallow_last = _stages(shallow_blocks)
    for old_stage, new_stage in zip(shallow_stages, deep_stages, strict=True):
        for old, new in zip(old_stage, new_stage, strict=False):
            _copy(shallow, old, state, new)
        for new in new_stage[len(old_stage) :]:
            _zero(state, new)
    _copy(shallow, shallow_last, state, deep_last)
    deep.load_state_dict(state)


def _stages(blocks: Sequence[int]) -> tuple[list[range], int]:
    """Layer numbers of each stage, its first convolution included, and of the last layer."""
    stages, first = [], 0
    for count in blocks:
        stages.append(range(first, first + 1 + count))
        first += 1 + count
    return stages, first


def _copy(source: dict[str, Tensor], old: int, target: dict[str, Tensor], new: int) -> None:
    prefix = f"layers.{old}."
    for name, value in source.items():
        if name.startswith(prefix):
            target[f"layers.{new}.{name.removeprefix(prefix)}"] = value


def _zero(state: dict[str, Tensor], layer: int) -> None:
    for name, value in list(state.items()):
        if name.startswith(f"layers.{layer}.conv.4."):
            state[name] = torch.zeros_like(value)


LAYOUT = {
    "encoder_block_out_channels": (32, 32, 32, 32),
    "decoder_block_out_channels": (24, 24, 24, 24),
    "num_encoder_blocks": (1, 3, 5, 7),
    "num_decoder_blocks": (1, 2, 2, 1),
}
SHALLOW_BLOCKS = (1, 3, 3, 3)
PARAMETER_LIMIT = 600_000


@dataclass(frozen=True)
class Fit:
    """Steps, pools of crops, and peak rates of Muon (inner convolutions) and AdamW.

    `weights` are those of the channel errors; without them the worst channel counts twice. The
    result is the mean of the network's weights before (fraction `before`) and after the steps.
    """

    steps: int
    pools: tuple[str, ...]
    muon_rate: float = 0.006
    adam_rate: float = 1e-3
    weights: tuple[float, ...] | None = None
    before: float = 0.0


FITS = {
    "shallow": Fit(2500, ("pool-1", "pool-2")),
    "deep": Fit(9000, ("pool-1", "pool-2"), muon_rate=0.005, adam_rate=6e-4),
    "dense": Fit(7000, ("pool-3",), muon_rate=0.004, adam_rate=5e-4),
    "weighted": Fit(9500, ("pool-3", "pool-4"), 0.005, 5e-4, weights=(0.2, 0.08, 0.2, 0.6)),
    "wide": Fit(8000, ("pool-5",), 0.004, 5e-4, (0.25, 0.1, 0.2, 0.6), before=0.35),
    "encoder": Fit(6000, ("pool-5",), 0.004, 5e-4, (0.12, 0.05, 0.1, 0.9), before=0.6),
    "fine": Fit(12_000, ("pool-6",), 0.004, 5e-4, (0.06, 0.03, 0.06, 1.0), before=0.5),
    "finest": Fit(9000, ("pool-6", "pool-7"), 0.003, 4e-4, (0.04, 0.02, 0.04, 1.0), before=0.5),
    "decoder": Fit(1500, ("pool-1",)),
}

Pool = dict[str, Tensor]
Loss = Callable[[Pool, int], Tensor]


@dataclass(frozen=True)
class PoolPlan:
    """Number and style of crops, folders of photographs, and whether to decode."""

    seed: int
    crops: int
    style: CropStyle
    photographs: tuple[str, ...] = ()
    decode: bool = False


PLAIN = (0.75, 0.13, 0.06, 0.06, 0.0, 0.0)
DENSE = (0.42, 0.06, 0.03, 0.04, 0.2, 0.25)
# Soft, sharp and dense crops; the first pool also serves the decoder.
POOLS = {
    "pool-1": PoolPlan(0, 12_000, CropStyle(0.6, PLAIN), decode=True),
    "pool-2": PoolPlan(1, 4_000, CropStyle(1.0, PLAIN)),
    "pool-3": PoolPlan(
        seed=2, crops=24_000, style=CropStyle(1.0, DENSE), photographs=("wallpapers",)
    ),
    "pool-4": PoolPlan(
        seed=3, crops=20_000, style=CropStyle(1.0, DENSE), photographs=("wallpapers",)
    ),
    "pool-5": PoolPlan(
        4, 28_000, CropStyle(1.0, DENSE, 0.85), photographs=("wallpapers", "landscapes")
    ),
    "pool-6": PoolPlan(
        5, 40_000, CropStyle(1.0, DENSE, 0.65), photographs=("wallpapers", "landscapes")
    ),
    "pool-7": PoolPlan(
        6, 24_000, CropStyle(1.0, DENSE, 0.5), photographs=("wallpapers", "landscapes")
    ),
}


class Crops(Dataset[Tensor]):
    """Augmented uint8 crops, (3, size, size), by index."""

    def __init__(self, sources: Sources, plan: PoolPlan, size: int) -> None:
        self.sources, self.plan, self.size = sources, plan, size

    def __len__(self) -> int:
        return self.plan.crops

    def __getitem__(self, index: int) -> Tensor:
        pixels = crop(self.sources, (self.plan.seed, index), self.size, self.plan.style)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def main() -> None:
    """Run all stages and save the student."""
    options = _parse()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    shallow = AutoencoderTiny(**{**LAYOUT, "num_encoder_blocks": SHALLOW_BLOCKS})
    shallow = shallow.to(memory_format=torch.channels_last)
    student = AutoencoderTiny(**LAYOUT)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    if parameters > PARAMETER_LIMIT:
        raise SystemExit(f"error: {parameters} parameters, more than {PARAMETER_LIMIT}")
    student = student.to(memory_format=torch.channels_last)
    train(options, "shallow", shallow.encoder, partial(encoder_loss, shallow, None))
    trained = shallow.encoder.state_dict()
    deepen(student.encoder, trained, LAYOUT["num_encoder_blocks"], SHALLOW_BLOCKS)
    for name in ("deep", "dense", "weighted", "decoder", "wide", "encoder", "fine", "finest"):
        if name == "decoder":
            train(options, name, student.decoder, partial(decoder_loss, student))
        else:
            loss = partial(encoder_loss, student, FITS[name].weights)
            train(options, name, student.encoder, loss)
    save(student, options.out)
    print(f"saved {parameters} parameters to {options.out}", flush=True)


def save(student: AutoencoderTiny, folder: Path) -> None:
    """Write weights (fp16) and configuration, without the entry that causes a warning."""
    student.to(torch.float16).save_pretrained(folder)
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    entries.pop("block_out_channels", None)
    path.write_text(json.dumps(entries, indent=2) + "\n")


def load_teacher(path: Path) -> AutoencoderTiny:
    """The teacher in fp32 (its file can have fp8 weights), in evaluation mode."""
    teacher = AutoencoderTiny()
    teacher.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 (batch, 3, h, w) to [-1, 1], channels last."""
    unit = pixels.float().div(127.5).sub(1)
    return unit.contiguous(memory_format=torch.channels_last)


def make_pools(options: argparse.Namespace, names: Sequence[str]) -> Pool:
    """Several pools concatenated, with the entries that all have."""
    pools = [make_pool(options, name) for name in names]
    if len(pools) == 1:
        return pools[0]
    return {name: torch.cat([pool[name] for pool in pools]) for name in ("crops", "latents")}


def make_pool(options: argparse.Namespace, name: str) -> Pool:
    """Crops (uint8), teacher's latents (fp16) and, if planned, their decodings (uint8)."""
    path = options.scratch / f"{name}.safetensors"
    if not path.is_file():
        save_file(teach(options, POOLS[name]), path)
    pool: Pool = load_file(path)
    return pool


@torch.inference_mode()
def teach(options: argparse.Namespace, plan: PoolPlan) -> Pool:
    """Run the teacher over the planned crops, in bf16."""
    teacher, start = load_teacher(options.teacher), time.perf_counter()
    photographs = [options.photographs / name for name in plan.photographs]
    sources = load_sources(options.images, photographs)
    crops = Crops(sources, plan, options.size)
    parts: dict[str, list[Tensor]] = {"crops": [], "latents": [], "decodings": []}
    for number, batch in enumerate(DataLoader(crops, batch_size=32, num_workers=1)):
        with torch.autocast("cpu", torch.bfloat16):
            latents = teacher.encoder(to_unit_range(batch)).float()
            if plan.decode:
                decoded = teacher.decoder(latents).float().add(1).mul(127.5).round()
                parts["decodings"].append(decoded.clamp(0, 255).byte())
        parts["crops"].append(batch)
        parts["latents"].append(latents.half())
        if number % 20 == 19:
            _say(f"{32 * (number + 1)} of {plan.crops} crops", start)
    return {name: torch.cat(batches).contiguous() for name, batches in parts.items() if batches}


def train(options: argparse.Namespace, name: str, half: nn.Module, loss: Loss) -> None:
    """Train encoder or decoder of the student, or load the result of a finished run."""
    path, plan = options.scratch / f"{name}.safetensors", FITS[name]
    if not path.is_file():
        before = copy.deepcopy(half.state_dict())
        fit(half, partial(loss, make_pools(options, plan.pools)), plan, options.batch_size)
        mixed = {k: torch.lerp(v, before[k], plan.before) for k, v in half.state_dict().items()}
        save_file({key: value.contiguous() for key, value in mixed.items()}, path)
    half.load_state_dict(load_file(path))


def fit(half: nn.Module, loss: Callable[[int], Tensor], plan: Fit, batch_size: int) -> None:
    """Muon and AdamW, gradients clipped; prints the running loss."""
    both = optimizers(half, plan.muon_rate, plan.adam_rate)
    start, running = time.perf_counter(), 0.0
    for step in range(plan.steps):
        scale_rates(both, step, plan.steps)
        half.zero_grad()
        value = loss(batch_size)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
        running += (value.item() - running) / min(step + 1, 100)
        if step % 100 == 99:
            _say(f"step {step + 1} of {plan.steps}, loss {running:.4f}", start)


def encoder_loss(
    student: AutoencoderTiny, weights: tuple[float, ...] | None, pool: Pool, count: int
) -> Tensor:
    """The channels' weighted error; without weights their mean, and the worst once more."""
    error = channel_errors(student, pool, count)
    if weights is None:
        return error.mean() + error.max()
    return (error * torch.tensor(weights)).sum()


def channel_errors(student: AutoencoderTiny, pool: Pool, count: int) -> Tensor:
    """Squared error of each channel over its variance, on crops drawn at random."""
    rows = torch.randint(len(pool["crops"]), (count,))
    target = pool["latents"][rows].float()
    with torch.autocast("cpu", torch.bfloat16):
        latents = student.encoder(to_unit_range(pool["crops"][rows]))
    spread = pool["latents"][::100].float().var((0, 2, 3))
    error: Tensor = (latents.float() - target).square().mean((0, 2, 3)) / spread
    return error


def decoder_loss(student: AutoencoderTiny, pool: Pool, count: int) -> Tensor:
    """L1 to the teacher's decoding and to the image, plus L1 of the decoding's differences."""
    rows = torch.randint(len(pool["crops"]), (count,))
    image, target = to_unit_range(pool["crops"][rows]), to_unit_range(pool["decodings"][rows])
    with torch.autocast("cpu", torch.bfloat16):
        latents = pool["latents"][rows].float()
        half = count // 2
        with torch.no_grad():
            latents[half:] = student.encoder(image[half:]).float()
        decoded = student.decoder(latents)
    decoded = decoded.float()
    values = functional.l1_loss(decoded, target) + 0.5 * functional.l1_loss(decoded, image)
    return values + 0.5 * sum(
        (functional.l1_loss(decoded.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3)),
        start=torch.zeros(()),
    )


def _say(message: str, start: float) -> None:
    print(f"{message}, {time.perf_counter() - start:.0f} s", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", type=Path, required=True, help="TAESD, AutoencoderTiny keys")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of images")
    parser.add_argument("--photographs", type=Path, required=True, help="see above")
    parser.add_argument("--out", type=Path, default=Path("leakcache/bundled"))
    parser.add_argument("--scratch", type=Path, default=Path("scratch/distil"))
    parser.add_argument("--size", type=int, default=128, help="side of a crop, pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
