"""Weights of timm's networks: found under their name, taken whole, refused in one line."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from leakcache.errors import WeightsError
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.pixel_networks import ResNet50, Xception
from leaknet.baselines.weights import pretrained

MODEL = "test_resnet"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    state = timm.create_model(MODEL, num_classes=1000).state_dict()
    save_file(state, tmp_path / f"{MODEL}.safetensors")
    return tmp_path, state


def test_all_but_the_classifier_is_taken(weights):
    folder, state = weights
    found = pretrained(MODEL, 5, folder).state_dict()
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        if name.startswith("fc."):
            assert tensor.shape[0] == 5
        else:
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("kind", [ResNet50, Xception])
def test_absent_weights_are_named(tmp_path, kind):
    with pytest.raises(WeightsError, match=f"{kind.model}.safetensors"):
        kind(("a", "b"), BaselineOptions(weights=tmp_path))


def test_a_downloaded_repository_is_found(tmp_path):
    folder = tmp_path / "resnet18.a1_in1k"
    folder.mkdir()
    state = timm.create_model("resnet18", num_classes=1000).state_dict()
    save_file(state, folder / "model.safetensors")
    found = pretrained("resnet18", 5, tmp_path).state_dict()
    assert torch.equal(found["conv1.weight"], state["conv1.weight"])


def test_weights_of_another_network_are_refused(weights):
    folder, _ = weights
    (folder / f"{MODEL}.safetensors").rename(folder / "resnet18.safetensors")
    with pytest.raises(WeightsError, match="other weights than timm's resnet18"):
        pretrained("resnet18", 5, folder)


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / f"{MODEL}.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="not readable as safetensors"):
        pretrained(MODEL, 5, tmp_path)


def test_the_hub_out_of_reach_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"--weights"):
        pretrained("resnet50", 5, None)


def test_weights_that_only_exist_as_a_pickle_are_never_fetched():
    with pytest.raises(WeightsError, match="not loaded"):
        pretrained("legacy_xception", 5, None)
