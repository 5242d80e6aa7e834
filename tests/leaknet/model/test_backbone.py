"""ResNet-18 against timm's: the same names, initial weights, embeddings and gradients."""

from __future__ import annotations

import subprocess
import sys

import timm
import torch
from torch import nn

from leaknet.model.backbone import ResNet18


def test_it_is_the_network_of_timm_with_open_residuals():
    torch.manual_seed(0)
    ours = ResNet18(5)
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", in_chans=5, num_classes=0)
    for block in theirs.modules():
        if hasattr(block, "zero_init_last"):
            nn.init.ones_(block.bn2.weight)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    assert ours.num_features == theirs.num_features
    maps = torch.randn(3, 5, 32, 40, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        found, expected = (model.train(training)(maps) for model in (ours, theirs))
        torch.testing.assert_close(found, expected)
    found, expected = (model.train()(maps).square().sum() for model in (ours, theirs))
    gradients = [
        torch.autograd.grad(value, model.conv1.weight)[0]
        for value, model in ((found, ours), (expected, theirs))
    ]
    torch.testing.assert_close(*gradients)


def test_scoring_images_imports_neither_timm_nor_torchvision():
    script = (
        "import sys, leaknet.scoring.predict\n"
        "from leaknet.config import preset\n"
        "from leaknet.model.protoleaknet import ProtoLeakNet\n"
        "ProtoLeakNet(preset('best'), ('ada', 'bob'), (4, 32, 32))\n"
        "print([m for m in ('timm', 'torchvision', 'diffusers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
