"""ResNet-18 (He et al., "Deep residual learning for image recognition", 2016).

The same layers, names and initial weights as timm's, whose import costs seconds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
