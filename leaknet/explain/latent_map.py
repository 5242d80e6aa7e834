"""Which places of the latent decide: integrated gradients of the latent branch's margin.

    a_i = (z_i - b_i) · mean over s of ∂ margin / ∂ z_i at b + s (z - b),  0 < s < 1

for clean latents z, the channel means b of the training latents, and the noise of the evaluation
(Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017). The sum of all a_i
is the margin less that of b, up to the error of the mean over s.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from leaknet.data.columns import ImageColumns
from leaknet.model.head import PrototypeHead
from leaknet.model.latent_branch import LatentBranch

STEPS = 32
BLOCKS = 8
"""Blocks in a row that the deletion check takes out."""


@dataclass(frozen=True)
class LatentMap:
    """Integrated gradients of one image.

    Attributes:
        values: sum over channels, for each view and place of the latent.
        margin: of the branch for the image.
        baseline: the same for the channel means.
    """

    values: Float[np.ndarray, "view row column"]
    margin: float
    baseline: float

    @property
    def gap(self) -> float:
        """Relative difference of the sum of the map from `margin` - `baseline`; 0 is exact."""
        difference = self.margin - self.baseline
        return abs(float(self.values.sum()) - difference) / max(abs(difference), 1e-12)


class LatentMargin:
    """The margin between two classes as a function of the views of one clean latent."""

    def __init__(self, branch: LatentBranch, image: ImageColumns, pair: tuple[int, int]) -> None:
        self.branch, self.pair = branch, pair
        self.z0 = image.z0[0].to(branch.device).float()
        noise = branch.evaluation_noise(image.hashes.tolist(), image.views)
        self.noise = None if noise is None else noise.to(branch.device)

    def __call__(self, z0: Float[Tensor, "view channel row column"]) -> Float[Tensor, ""]:
        """The margin."""
        pooled, attention = self.branch(self.branch.features(z0, self.noise))
        mean = pooled.mean(dim=0, keepdim=True)
        logits = self.branch.classify(mean, attention.mean(dim=0, keepdim=True)).logits[0]
        return logits[self.pair[0]] - logits[self.pair[1]]

    @property
    def baseline(self) -> Float[Tensor, "view channel row column"]:
        """Channel means of the training latents; those of the image where the run has none."""
        affine = self.branch.features.latent
        signal, offset = affine.signal[0], affine.offset[0]
        means = -offset / torch.where(signal == 0, 1.0, signal)
        return means.expand_as(self.z0).clone()


def integrated_gradients(margin: LatentMargin, steps: int = STEPS) -> LatentMap:
    """The map of one image; the branch is in evaluation mode."""
    start, end = margin.baseline, margin.z0
    total = torch.zeros_like(end)
    for step in range(steps):
        point = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(margin(point), point)
        total += gradient
    values = ((end - start) * total / steps).sum(dim=1)
    with torch.inference_mode():
        found, empty = float(margin(end)), float(margin(start))
    return LatentMap(values.double().cpu().numpy(), found, empty)


def shuffled_agreement(margin: LatentMargin, found: LatentMap, draws: int) -> float | None:
    """Median |rank correlation| with maps of a branch whose last weights are shuffled.

    The weights of the projection and of the prototypes or the linear head change places at random
    (Adebayo et al., "Sanity checks for saliency maps", 2018).
    """
    if np.ptp(found.values) == 0:
        return None
    agreements = []
    for seed in range(draws):
        other = copy.copy(margin)
        other.branch = _shuffled(margin.branch, seed)
        values = integrated_gradients(other, STEPS // 4).values
        if np.ptp(values):
            agreements.append(abs(float(spearmanr(found.values, values, axis=None).statistic)))
    return float(np.median(agreements)) if agreements else None


@torch.no_grad()
def _shuffled(branch: LatentBranch, seed: int) -> LatentBranch:
    generator = torch.Generator().manual_seed(seed)
    found = copy.deepcopy(branch)
    head = found.head
    last = head.prototypes if isinstance(head, PrototypeHead) else head.linear.weight
    for weight in (found.projection.weight, last):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    return found


@torch.inference_mode()
def deletion(margin: LatentMargin, found: LatentMap, draws: int) -> tuple[float, float]:
    """Drop of the margin where the most important blocks are replaced by the channel means.

    Returns:
        The drop for the quarter of blocks with the highest sum of the map, and the mean drop for
        as many blocks at random.
    """
    height, width = found.values.shape[1:]
    rows, columns = min(BLOCKS, height), min(BLOCKS, width)
    owner = torch.from_numpy(
        np.arange(height)[:, None] * rows // height * columns + np.arange(width) * columns // width
    )
    sums = np.zeros(rows * columns)
    np.add.at(sums, owner.numpy().ravel(), found.values.sum(axis=0).ravel())
    count = max(1, len(sums) // 4)

    def drop(blocks: np.ndarray) -> float:
        gone = torch.isin(owner, torch.from_numpy(blocks)).to(margin.z0.device)
        return found.margin - float(margin(torch.where(gone, margin.baseline, margin.z0)))

    rng = np.random.default_rng(0)
    chance = [drop(rng.choice(len(sums), count, replace=False)) for _ in range(draws)]
    return drop(np.argsort(-sums, kind="stable")[:count]), float(np.mean(chance))
