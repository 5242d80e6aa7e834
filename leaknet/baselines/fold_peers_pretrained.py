"""Pretrained timm networks: from a folder of safetensors, or from the hub; never from a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from leakcache.errors import WeightsError
from leaknet.baselines.weights import model_folder

HUB_FILE = "model.safetensors"


def pretrained(model: str, classes: int, folder: Path | None) -> nn.Module:
    """A timm network with pretrained weights and a new classifier.

    Args:
        model: timm's name.
        classes: outputs of the classifier, which is drawn anew.
        folder: local weights, `MODEL.safetensors` or the repository as it was downloaded; None
            for the hub, or what was fetched before.

    Raises:
        WeightsError: the weights cannot be had or are another network's.
    """
    network: Any = timm.create_model(model, pretrained=False, num_classes=classes)
    path = _local(model, folder) if folder else _from_hub(model)
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not readable as safetensors ({error})") from error
    head = f"{network.pretrained_cfg['classifier']}."
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(head)}
    body = {name: tensor for name, tensor in found.items() if not name.startswith(head)}
    try:
        network.load_state_dict(body | own)
    except RuntimeError as error:
        raise WeightsError(f"{path}: holds other weights than timm's {model}") from error
    return network  # type: ignore[no-any-return]


def _local(model: str, folder: Path) -> Path:
    repository = timm.get_pretrained_cfg(model).hf_hub_id or model
    plain = folder / f"{model}.safetensors"
    downloaded = folder / repository.rpartition("/")[2] / HUB_FILE
    for path in (plain, downloaded):
        if path.is_file():
            return path
    raise WeightsError(f"{plain} is not there: put timm's weights of {model} under that name")


def _from_hub(model: str) -> Path:
    repository = timm.get_pretrained_cfg(model).hf_hub_id
    if not repository:
        raise WeightsError(
            f"timm's weights of {model} are a pickle, which is never loaded: save them as "
            f"{model}.safetensors and name the folder with --weights"
        )
    return model_folder(repository, [HUB_FILE], None) / HUB_FILE
