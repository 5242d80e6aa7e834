"""The tiny encoder against diffusers', bit for bit, and what its loading imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from leakcache.encoder.autoencoder import Encoder
from leakcache.encoder.networks import ACTIVATIONS, load_network
from leakcache.encoder.weights import locate
from leakcache.errors import WeightsError
from tests.tiny_data import save, tiny_model


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 72, 88, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latent_channels": 16, "num_encoder_blocks": (1, 2, 0, 3)},
        *({"act_fn": name} for name in ACTIVATIONS),
    ],
)
@torch.no_grad()
def test_outputs_are_those_of_diffusers_bit_for_bit(options: dict[str, object], tmp_path: Path):
    torch.manual_seed(0)
    shape = {
        "encoder_block_out_channels": (12,) * 4,
        "decoder_block_out_channels": (12,) * 4,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    }
    model = AutoencoderTiny(**{**shape, **options}).eval()
    network = load_network(locate(str(save(model, tmp_path / "tiny")))).module
    assert torch.equal(network(pixels()), model.encoder(pixels()))


def test_no_loader_of_diffusers_is_imported_for_a_tiny_encoder(tmp_path: Path):
    folder = save(tiny_model(), tmp_path / "tiny")
    script = (
        "import sys; from leakcache.encoder.autoencoder import Encoder; "
        f"Encoder.load({str(folder)!r}); "
        "print([m for m in ('diffusers', 'transformers', 'scipy', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_unknown_activations_are_refused(tmp_path: Path):
    folder = save(tiny_model(), tmp_path / "tiny")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"act_fn": "relu"', '"act_fn": "none"'))
    with pytest.raises(WeightsError, match=r"does not describe an AutoencoderTiny \(activation"):
        Encoder.load(str(folder))
