"""Small models of transformers and diffusers with random weights, laid out as theirs are saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tiny_data import kl_model, save

transformers = pytest.importorskip("transformers")

LETTERS = sorted(set("x a photo target other".replace(" ", "")))
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of single letters; returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *SPECIAL]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(vocabulary)


def text_settings(vocabulary: int) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def save_clip(folder: Path) -> Path:
    """A CLIP of 32 px whose image tower sees patches of 8."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.CLIPConfig(
        text_config=text_settings(save_tokenizer(folder)), vision_config=vision, projection_dim=8
    )
    return save(transformers.CLIPModel(config), folder)


def save_diffusion(folder: Path) -> Path:
    """A latent diffusion model: autoencoder, UNet, DDIM, text encoder, tokenizer."""
    save(kl_model(), folder / "vae")
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=28,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    save(unet, folder / "unet")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    ).save_pretrained(folder / "scheduler")
    settings = transformers.CLIPTextConfig(**text_settings(save_tokenizer(folder / "tokenizer")))
    save(transformers.CLIPTextModel(settings), folder / "text_encoder")
    return folder
