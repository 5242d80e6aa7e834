"""The encoder half against diffusers' own autoencoders, and what its hash depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from tiny_data import kl_model, save, tiny_model

from leakcache.encoder.autoencoder import Encoder
from leakcache.encoder.weights import WEIGHTS_FILE
from leakcache.errors import ConfigError, WeightsError
from leakcache.images.decode import to_unit_range


def pixels(count: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rewrite(
    folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    """A copy of a saved autoencoder with other tensors and the same configuration."""
    target.mkdir()
    (target / "config.json").write_text((folder / "config.json").read_text())
    save_file(change(load_file(folder / WEIGHTS_FILE)), target / WEIGHTS_FILE)
    return target


@pytest.fixture(scope="module")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(kl_model(), tmp_path_factory.mktemp("kl") / "kl")


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, 4),
        ({"scaling_factor": 0.13025}, 4),
        # As SD 3 and FLUX: sixteen channels, a shift, no 1×1 convolution after the encoder.
        (
            {
                "latent_channels": 16,
                "scaling_factor": 1.5305,
                "shift_factor": 0.0609,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
            },
            16,
        ),
        ({"mid_block_add_attention": False}, 4),
    ],
)
@torch.no_grad()
def test_kl_latents_are_the_scaled_posterior_mean(
    options: dict[str, object], channels: int, tmp_path: Path
) -> None:
    model = kl_model(**options)
    mean = model.encode(pixels()).latent_dist.mean
    shift = model.config.shift_factor or 0.0
    expected = (mean - shift) * model.config.scaling_factor
    encoder = Encoder.load(str(save(model, tmp_path / "kl")))
    assert encoder.identity.channels == channels
    assert encoder.identity.kind == "AutoencoderKL"
    torch.testing.assert_close(encoder.encode(pixels()), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_config_without_scaling_factor_has_diffusers_default(
    kl_folder: Path, tmp_path: Path
) -> None:
    folder = rewrite(kl_folder, tmp_path / "copy", lambda tensors: tensors)
    config = json.loads((folder / "config.json").read_text())
    del config["scaling_factor"], config["shift_factor"]  # as sd-vae-ft-mse comes
    (folder / "config.json").write_text(json.dumps(config))
    assert Encoder.load(str(folder)).identity.scaling_factor == 0.18215


@pytest.mark.parametrize("options", [{}, {"width": 12, "latent": 16, "blocks": 2}])
@torch.no_grad()
def test_a_bare_tiny_file_gives_the_latents_of_its_model(
    options: dict[str, int], tmp_path: Path
) -> None:
    model = tiny_model(3, **options)
    expected = model.encode(pixels()).latents
    file = tmp_path / "any name.safetensors"
    save_file(model.state_dict(), file)
    encoder = Encoder.load(str(file))
    assert encoder.identity.channels == options.get("latent", 4)
    torch.testing.assert_close(encoder.encode(pixels()), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_tiny_config_scales_and_shifts_too(tmp_path: Path) -> None:
    model = tiny_model()
    model.register_to_config(scaling_factor=2.0, shift_factor=0.25)
    expected = (model.encode(pixels()).latents - 0.25) * 2
    found = Encoder.load(str(save(model, tmp_path / "tiny"))).encode(pixels())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bytes_encode_as_their_unit_range(encoder: Encoder) -> None:
    views = np.random.default_rng(0).integers(0, 256, (3, 64, 80, 3), np.uint8)
    expected = encoder.encode(torch.from_numpy(to_unit_range(views)))
    found = encoder.encode_bytes(torch.from_numpy(views))
    assert found.shape == (3, 4, 8, 10)
    assert torch.equal(found, expected)


def test_activations_are_what_each_halving_of_the_resolution_gives(
    kl_folder: Path, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    view = torch.randint(0, 256, (2, 47, 66, 3), generator=generator).byte()
    unit = torch.from_numpy(to_unit_range(view[:, :40, :64].numpy()))
    model, encoder = kl_model(), Encoder.load(str(kl_folder))
    hidden, expected = model.encoder.conv_in(unit), []
    for block in model.encoder.down_blocks[:3]:
        hidden = block(hidden)
        expected.append(hidden)
    latents, found = encoder.encode_with_activations(view)
    assert torch.equal(latents, encoder.encode_bytes(view[:, :40, :64]))
    assert [tuple(maps.shape) for maps in found] == [(2, 8, 20, 32), (2, 8, 10, 16), (2, 8, 5, 8)]
    for maps, same in zip(found, expected, strict=True):
        torch.testing.assert_close(maps, same)
    again = encoder.encode_with_activations(view)[1]
    assert all(torch.equal(*both) for both in zip(again, found, strict=True)), (
        "what an earlier call watched is watched again"
    )
    tiny = Encoder.load(str(save(tiny_model(blocks=3), tmp_path / "tiny")), "bf16")
    halves = tiny.encode_with_activations(view)[1]
    assert [maps.shape[2:] for maps in halves] == [maps.shape[2:] for maps in found]
    assert all(maps.dtype == torch.bfloat16 for maps in halves)


def test_an_image_has_the_same_latent_in_any_batch(encoder: Encoder) -> None:
    together = encoder.encode(pixels(5))
    for row in range(5):
        alone = encoder.encode(pixels(5)[row : row + 1])[0]
        torch.testing.assert_close(alone, together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.05), ("fp16", 0.01)])
def test_reduced_precision_measures_its_own_error(
    precision: str, bound: float, tiny_folder: Path, encoder: Encoder
) -> None:
    reduced = Encoder.load(str(tiny_folder), precision)
    views = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    exact, rounded = encoder.encode_bytes(views), reduced.encode_bytes(views)
    expected = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert rounded.dtype == torch.float32
    assert reduced.relative_error(views) == pytest.approx(float(expected), rel=1e-3)
    assert 0 < reduced.relative_error(views) < bound
    assert encoder.relative_error(views) == 0.0


def test_an_unknown_precision_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="--precision int4: take one of fp32, bf16, fp16"):
        Encoder.load(str(tiny_folder), "int4")


@pytest.mark.parametrize("make", [tiny_model, kl_model])
def test_nothing_of_the_decoder_is_in_memory(
    make: Callable[[], torch.nn.Module], tmp_path: Path
) -> None:
    model = make()
    encoder = Encoder.load(str(save(model, tmp_path / "model")))
    halves = [model.encoder]
    if getattr(model, "quant_conv", None) is not None:
        halves.append(model.quant_conv)
    expected = sum(p.numel() for half in halves for p in half.parameters())
    held = [
        p for v in vars(encoder).values() if isinstance(v, torch.nn.Module) for p in v.parameters()
    ]
    assert sum(p.numel() for p in held) == expected
    assert expected < sum(p.numel() for p in model.parameters())
    assert all(p.device.type == "cpu" and not p.requires_grad for p in held)


def test_the_hash_is_of_the_encoder_and_of_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    half = {key: value.half() for key, value in load_file(tiny_folder / WEIGHTS_FILE).items()}

    def hashed(
        name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    ) -> str:
        folder = rewrite(tiny_folder, tmp_path / name, lambda _: change(dict(half)))
        return Encoder.load(str(folder)).identity.weights_sha256

    same = hashed("half", lambda tensors: tensors)
    assert hashed("float", lambda tensors: {k: v.float() for k, v in tensors.items()}) == same
    assert (
        hashed(
            "decoder",
            lambda tensors: {k: v + (1 if k.startswith("dec") else 0) for k, v in tensors.items()},
        )
        == same
    )
    file = tmp_path / "renamed.safetensors"
    save_file({k: v.double() for k, v in half.items() if k.startswith("encoder")}, file)
    assert Encoder.load(str(file)).identity.weights_sha256 == same
    for number, key in enumerate(k for k in half if k.startswith("encoder")):
        last = half[key].flatten()[-1:].view(torch.int16)

        def nudged(
            tensors: dict[str, torch.Tensor], key: str = key, last: torch.Tensor = last
        ) -> dict[str, torch.Tensor]:
            changed = tensors[key].clone().contiguous()
            changed.view(-1)[-1:].view(torch.int16).copy_(last ^ 1)  # one last bit
            return {**tensors, key: changed}

        assert hashed(f"nudged{number}", nudged) != same


@torch.no_grad()
def test_old_names_of_the_attention_load_the_same(kl_folder: Path, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for key, value in tensors.items():
            for new, name in old.items():
                key = key.replace(f".{new}.", f".{name}.")  # noqa: PLW2901
            renamed[key] = value
        return renamed

    before = Encoder.load(str(kl_folder))
    after = Encoder.load(str(rewrite(kl_folder, tmp_path / "old", rename)))
    assert after.identity.weights_sha256 == before.identity.weights_sha256
    assert torch.equal(after.encode(pixels()), before.encode(pixels()))


def test_a_kl_file_alone_is_refused_in_one_line(kl_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "kl.safetensors"
    file.write_bytes((kl_folder / WEIGHTS_FILE).read_bytes())
    with pytest.raises(WeightsError, match=r"no config\.json.*scaling factor") as caught:
        Encoder.load(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "AutoencoderDC"}, "AutoencoderDC is not one of"),
        ({"_class_name": None}, "None is not one of"),
        (
            {
                "block_out_channels": [8, 8],
                "down_block_types": ["DownEncoderBlock2D"] * 2,
                "up_block_types": ["UpDecoderBlock2D"] * 2,
            },
            "2 times smaller",
        ),
        ({"latent_channels": 8}, "does not fit its configuration"),
        ({"down_block_types": ["NoSuchBlock"] * 4}, "does not describe an AutoencoderKL"),
        ({"block_out_channels": 3}, "does not describe an AutoencoderKL"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_one_line(
    changes: dict[str, object], words: str, kl_folder: Path, tmp_path: Path
) -> None:
    folder = rewrite(kl_folder, tmp_path / "odd", lambda tensors: tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(WeightsError, match=words) as caught:
        Encoder.load(str(folder))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_autoencoder_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    damaged.write_bytes((tiny_folder / WEIGHTS_FILE).read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        Encoder.load(str(damaged))
    save_file({"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match=r"no `encoder\.` tensors"):
        Encoder.load(str(other))
    missing = rewrite(
        tiny_folder,
        tmp_path / "missing",
        lambda tensors: {k: v for k, v in tensors.items() if k != "encoder.layers.0.bias"},
    )
    with pytest.raises(WeightsError, match="does not fit its configuration"):
        Encoder.load(str(missing))


@pytest.mark.parametrize(("name", "channels"), [("taesd", 4), ("taesd_3", 16)])
@torch.no_grad()
def test_files_of_eight_bit_floats_load_as_their_model(
    name: str, channels: int, shared: Path
) -> None:
    file = shared / "weights" / f"{name}.safetensors"
    encoder = Encoder.load(str(file))
    tensors = {k: v.float() for k, v in load_file(file).items() if k.startswith("encoder")}
    model = AutoencoderTiny(latent_channels=channels).eval()
    model.load_state_dict(tensors, strict=False)
    expected = model.encode(pixels()).latents
    assert encoder.identity.channels == channels
    torch.testing.assert_close(encoder.encode(pixels()), expected, rtol=1e-4, atol=1e-4)


def test_threads_that_encode_at_the_same_time_do_not_mix_their_activations(encoder: Encoder):
    generator = torch.Generator().manual_seed(0)
    views = [
        torch.randint(0, 256, (1, side, 72, 3), generator=generator, dtype=torch.uint8)
        for side in range(64, 128, 8)
    ]
    expected = [encoder.encode_with_activations(view) for view in views]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(encoder.encode_with_activations, views * 4))
    for (latents, maps), (wanted, others) in zip(found, expected * 4, strict=True):
        torch.testing.assert_close(latents, wanted)
        torch.testing.assert_close(maps, others)
