"""The network that embeds one feature map: any timm model, with its stem kept or shrunk.

ResNet-18 (He et al., "Deep residual learning for image recognition", 2016) is built here: the same
layers, names and initial weights as timm's, whose import costs seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.errors import ConfigError, WeightsError
from leaknet.config import LatentConfig


def build_backbone(
    config: LatentConfig, channels: int, size: tuple[int, int]
) -> tuple[nn.Module, int]:
    """A timm model from (batch, channels, *size) to (batch, width), and that width.

    Models that are made for one size of input, such as ViTs, are made for this one.

    Raises:
        ConfigError: timm has no such model, it cannot take such maps, or it has no stem to make
            small.
        WeightsError: pretrained weights were asked for and cannot be had.
    """
    if config.backbone == NAME and not config.pretrained:
        plain = ResNet18(channels)
        if config.stem == "small":
            _shrink(plain, channels)
        return plain, plain.num_features
    # Importing timm costs seconds, which other models need not pay.
    import timm
    from timm.models.resnet import ResNet

    if not timm.is_model(config.backbone):
        raise ConfigError(
            f"latents.backbone = {config.backbone!r} is no timm model: see timm.list_models()"
        )
    backbone = _created(config, channels, size)
    if _patches(backbone) == 0:
        raise ConfigError(
            f"latents.backbone = {config.backbone!r} has no patch in maps of {size[0]}×{size[1]}: "
            "take one with smaller patches"
        )
    if isinstance(backbone, ResNet) and not config.pretrained:
        _open_residuals(backbone)
    if config.stem == "small":
        _shrink_stem(backbone, config.backbone, channels)
    return backbone, int(backbone.num_features)


def describe_patches(backbone: nn.Module, size: tuple[int, int]) -> str:
    """In words, how a ViT or its like cuts a map; empty for other networks."""
    count = _patches(backbone)
    if count is None:
        return ""
    side = _patch_embed(backbone).patch_size
    return f"tokens: {count} (patches of {side[0]}×{side[1]}, maps of {size[0]}×{size[1]})"


def _patch_embed(backbone: nn.Module) -> Any:
    return getattr(backbone, "patch_embed", None)


def _patches(backbone: nn.Module) -> int | None:
    count = getattr(_patch_embed(backbone), "num_patches", None)
    return None if count is None else int(count)


def _created(config: LatentConfig, channels: int, size: tuple[int, int]) -> Any:
    import timm

    settings: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    defaults = timm.get_pretrained_cfg(config.backbone)
    if defaults is not None and defaults.fixed_input_size:
        settings["img_size"] = size
    try:
        return timm.create_model(config.backbone, pretrained=config.pretrained, **settings)
    # timm says by a RuntimeError that a model was never published with weights.
    except (OSError, RuntimeError) as error:
        if not config.pretrained:
            raise
        raise WeightsError(
            f"pretrained weights of {config.backbone} cannot be fetched from the hub: "
            "connect once, or set latents.pretrained=false"
        ) from error


def _open_residuals(backbone: nn.Module) -> None:
    """Start residual branches at one, where timm starts them at zero.

    The usual start gains .04 of macro AUC on a few hundred images (docs/LOG.md).
    """
    from timm.models.resnet import BasicBlock, Bottleneck

    for block in backbone.modules():
        if isinstance(block, BasicBlock):
            nn.init.ones_(block.bn2.weight)
        elif isinstance(block, Bottleneck):
            nn.init.ones_(block.bn3.weight)


def _shrink_stem(backbone: nn.Module, name: str, channels: int) -> None:
    """3×3 at stride 1 and no max-pool: a 32×32 map is small enough for full resolution."""
    from timm.models.resnet import ResNet

    if not isinstance(backbone, ResNet):
        raise ConfigError(f'latents.stem = "small" needs a ResNet of timm, which {name} is not')
    _shrink(backbone, channels)


def _shrink(backbone: Any, channels: int) -> None:
    width = backbone.bn1.num_features
    backbone.conv1 = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()


NAME = "resnet18"
WIDTHS = (64, 128, 256, 512)
BLOCKS = 2


class ResNet18(nn.Module):
    """Stem, four stages of two residual blocks, and the mean over positions.

    Residual branches start at one.

    Attributes:
        num_features: values of an embedding.
    """

    num_features = WIDTHS[-1]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        before = WIDTHS[0]
        for number, width in enumerate(WIDTHS, 1):
            blocks = [BasicBlock(before, width, 1 if number == 1 else 2)]
            blocks += [BasicBlock(width, width, 1) for _ in range(BLOCKS - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, maps: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 512"]:
        """Embeddings of feature maps."""
        hidden = self.maxpool(torch.relu_(self.bn1(self.conv1(maps))))
        for number in range(1, len(WIDTHS) + 1):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return nn.functional.adaptive_avg_pool2d(hidden, 1).flatten(1)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside the identity, or beside a 1×1 convolution where shapes differ."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        downsample: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(
        self, maps: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch filter rows columns"]:
        """Maps of `width` channels, `stride` times smaller."""
        hidden = torch.relu_(self.bn1(self.conv1(maps)))
        return torch.relu_(self.bn2(self.conv2(hidden)) + self.downsample(maps))
