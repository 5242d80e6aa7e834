"""Pretrained timm networks: from a folder of safetensors, or from the hub; never from a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from leakcache.errors import WeightsError
from leakcache.weights import answers

HUB_FILE = "model.safetensors"


def pretrained(model: str, classes: int, folder: Path | None) -> nn.Module:
    """A timm network with pretrained weights and a new classifier.

    Args:
        model: timm's name.
        classes: outputs of the classifier, which is drawn anew.
        folder: local weights, `MODEL.safetensors`; None for the hub, or what was fetched before.

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
    path = folder / f"{model}.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path} is not there: put timm's weights of {model} under that name")
    return path


def _from_hub(model: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    repository = timm.get_pretrained_cfg(model).hf_hub_id
    if not repository:
        raise WeightsError(
            f"timm's weights of {model} are a pickle, which is never loaded: save them as "
            f"{model}.safetensors and name the folder with --weights"
        )
    reason = "the hub cannot be reached"
    try:
        return Path(hf_hub_download(repository, HUB_FILE, local_files_only=True))
    except (OSError, ValueError):
        online = not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)
    try:
        if online:
            return Path(hf_hub_download(repository, HUB_FILE))
    except (OSError, ValueError) as error:
        reason = f"the hub says {type(error).__name__}"
    raise WeightsError(
        f"{repository} is not on this disk and {reason}: save its {HUB_FILE} as "
        f"{model}.safetensors and name the folder with --weights"
    )
