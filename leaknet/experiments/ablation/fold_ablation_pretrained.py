"""Pretrained weights where they can be had, else none, and words that say which."""

from __future__ import annotations

from dataclasses import replace

import timm
from huggingface_hub import constants, try_to_load_from_cache

from leakcache.encoder.weights import answers
from leakcache.errors import WeightsError
from leaknet.config import RunConfig
from leaknet.model.backbone import build_backbone

_FILES = ("model.safetensors", "pytorch_model.bin")


def with_pretrained(config: RunConfig, pretrained: bool) -> RunConfig:
    """The same settings, started from timm's weights or from none."""
    return replace(config, model=replace(config.model, pretrained=pretrained))


def pretrained_if_available(
    config: RunConfig, shape: tuple[int, int, int]
) -> tuple[RunConfig, str]:
    """Settings that can be run here, and which weights they start from.

    Args:
        config: settings of a row.
        shape: of a latent: channel, height, width.

    Raises:
        ConfigError: there is no such backbone, or it cannot take such latents.
    """
    name = config.model.backbone
    scratch = with_pretrained(config, False)
    if not _worth_trying(name):
        return scratch, "from scratch: no weights on this disk, no hub in reach"
    wanted = with_pretrained(config, True)
    try:
        build_backbone(wanted.model, shape[0], shape[1:])
    except WeightsError:
        return scratch, "from scratch: the hub does not give its weights"
    return wanted, pretrained_words(name)


def pretrained_words(backbone: str) -> str:
    """Which weights a pretrained backbone starts from."""
    return f"pretrained: {getattr(timm.get_pretrained_cfg(backbone), 'hf_hub_id', backbone)}"


def _worth_trying(backbone: str) -> bool:
    """False where a request would only time out, after a minute of trying."""
    repository = getattr(timm.get_pretrained_cfg(backbone), "hf_hub_id", None)
    if repository is None or constants.HF_HUB_OFFLINE:
        return repository is not None and _on_disk(repository)
    return _on_disk(repository) or answers(constants.ENDPOINT)


def _on_disk(repository: str) -> bool:
    found = (try_to_load_from_cache(repository, file) for file in _FILES)
    return any(isinstance(path, str) for path in found)
