"""Find the weights of the branches on prompt groups of the training fold that are held out.

Each branch is trained again without one fifth of the prompt groups, for as many epochs as the run
keeps of it, and classifies that fifth. The closed form of the statistics is not fitted again: it
gives the embedding of every image by a fit without its prompt group. Validation and test images
are not used.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from leakcache.progress import Track
from leaknet.data.columns import TrainingData
from leaknet.features.noise import training_generator
from leaknet.files import read_metadata, read_tensors, save_tensors
from leaknet.model.branch import Branch
from leaknet.model.fusion import Fusion, fit_fusion
from leaknet.model.inference import BATCH
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.training.epoch import Stepper, TrainingImages, train_epoch
from leaknet.training.run_folder import RunFolder

HELD_OUT = 5
"""One in so many prompt groups is held out."""
SEED = 0


def fuse_branches(
    model: ProtoLeakNet, data: TrainingData, run: RunFolder, device: torch.device, track: Track
) -> None:
    """Fit the weights of the branches, and write them into model.safetensors."""
    kept = read_metadata(run.weights)
    epochs = {name: int(kept[name]["epoch"]) for name in model.branches}
    fusion = _fit(model, data, epochs, device, track)
    tensors, _ = read_tensors(run.weights)
    coefficients = [fusion.coefficients[name] for name in model.branches]
    tensors["weights"] = torch.tensor(coefficients)
    save_tensors(run.weights, tensors, {**kept, "fusion": fusion.as_dict()})


def _fit(
    model: ProtoLeakNet,
    data: TrainingData,
    epochs: dict[str, int],
    device: torch.device,
    track: Track,
) -> Fusion:
    held = held_out_groups(data.train.groups)
    if held.all() or not held.any():
        return Fusion.alone(tuple(model.branches), "statistics")
    trained = torch.from_numpy(np.flatnonzero(~held))
    fresh = ProtoLeakNet(model.config, model.classes, model.shape)
    logits = {}
    with track("weight branches", sum(epochs.values()) * len(trained), "images") as advance:
        for name, branch in fresh.branches.items():
            images = TrainingImages.of(branch, data, model.classes, trained)
            stepper = Stepper(branch, model.config.train, device)
            for epoch in range(1, epochs[name] + 1):
                train_epoch(stepper, images, epoch, advance)
            logits[name] = _logits(branch, images, np.flatnonzero(held), device)
    targets = data.train.targets(model.classes).cpu().numpy()[held]
    return fit_fusion(logits, targets, data.train.groups[held])


def held_out_groups(groups: Shaped[np.ndarray, " image"]) -> Bool[np.ndarray, " image"]:
    """Images of one fifth of the prompt groups, at least one group; seeded."""
    names = np.random.default_rng(SEED).permutation(np.unique(groups))
    held: np.ndarray = np.isin(groups, names[: max(1, len(names) // HELD_OUT)])
    return held


@torch.inference_mode()
def _logits(
    branch: Branch, images: TrainingImages, rows: np.ndarray, device: torch.device
) -> Float[np.ndarray, "image class"]:
    """Logits of training images that the branch was not trained on."""
    branch.eval()
    noise = training_generator(SEED, 0, device)
    places = torch.from_numpy(rows).to(images.targets.device)
    parts = [
        branch.attribute(images.sample(batch, torch.zeros_like(batch), noise)).logits
        for batch in torch.split(places, BATCH)
    ]
    found: np.ndarray = torch.cat(parts).cpu().double().numpy()
    return found
