"""The network that looks at one feature map: any timm model, with its stem kept or shrunk."""

from __future__ import annotations

from typing import Any

import timm
from timm.models.resnet import ResNet
from torch import nn

from leakcache.errors import ConfigError, WeightsError
from leaknet.sections import ModelConfig


def build_backbone(config: ModelConfig, channels: int) -> tuple[nn.Module, int]:
    """A timm model from (batch, channels, height, width) to (batch, width), and that width.

    Raises:
        ConfigError: timm has no such model, or it has no stem to make small.
        WeightsError: pretrained weights were asked for and cannot be had.
    """
    if not timm.is_model(config.backbone):
        raise ConfigError(
            f"model.backbone = {config.backbone!r} is no timm model: see timm.list_models()"
        )
    try:
        backbone: Any = timm.create_model(
            config.backbone, pretrained=config.pretrained, in_chans=channels, num_classes=0
        )
    except OSError as error:
        raise WeightsError(
            f"pretrained weights of {config.backbone} cannot be fetched from the hub: "
            "connect once, or set model.pretrained=false"
        ) from error
    if config.stem == "small":
        _shrink_stem(backbone, config.backbone, channels)
    return backbone, int(backbone.num_features)


def _shrink_stem(backbone: nn.Module, name: str, channels: int) -> None:
    """3×3 at stride 1 and no max-pool: a 32×32 map is small enough to be seen whole."""
    if not isinstance(backbone, ResNet):
        raise ConfigError(f'model.stem = "small" needs a ResNet of timm, which {name} is not')
    width = backbone.bn1.num_features
    backbone.conv1 = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
