"""LatentTracer and AEDR: which autoencoder does an image come from?"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Float64, Int, Int8
from scipy.stats import gaussian_kde
from torch import Tensor, nn

from leakcache.errors import TrainingError
from leakcache.store.source_images import Rows
from leaknet.baselines.base import BaselineImages, ConcatenatedRows
from leaknet.baselines.reconstruction import (
    EPSILON,
    NATIVE,
    ReconstructionErrors,
    stored_measurements,
)
from leaknet.baselines.trained_network import Recipe, TrainedNetwork, cropped, flipped
from leaknet.baselines.weights import Autoencoder, available_autoencoders, count
from leaknet.data.embeddings import Embeddings

Crops = Float[Tensor, "image 3 side side"]

RATE = 0.01
SIZE = 224
SCALE = 16.0
"""8-bit residual that becomes 1 in the network's input: about the typical residual."""


def inversion_losses(
    pixels: Crops, autoencoder: Autoencoder, steps: int
) -> Float[Tensor, "image 2"]:
    """Mean square errors of D(E(x)) and of D(z) after `steps` of Adam on z alone."""
    latents = autoencoder.encode(pixels).detach()
    before = _errors(autoencoder, latents, pixels)
    latents.requires_grad_(True)
    optimiser = torch.optim.Adam([latents], lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast(pixels.device.type, torch.bfloat16):
            decoded = autoencoder.decode(latents)
        # In a sum over images each latent's gradient is independent of the batch.
        loss = (decoded.float() - pixels).square().mean(dim=(1, 2, 3)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return torch.stack([before, _errors(autoencoder, latents.detach(), pixels)], dim=1)


@torch.no_grad()
def _errors(
    autoencoder: Autoencoder, latents: Float[Tensor, "image channel rows columns"], pixels: Crops
) -> Float[Tensor, "image"]:
    return (autoencoder.decode(latents) - pixels).square().mean(dim=(1, 2, 3))


class LatentTracer(ReconstructionErrors):
    """LatentTracer (arXiv 2405.13360): errors before and after latent inversion.

    For each autoencoder, Adam optimises the latent from z = E(x) to minimise the mean square error
    of D(z); images of the autoencoder's own generator reach a lower error. The published method
    assigns one generator per autoencoder, which fails for closed autoencoders. Here logistic
    regression reads the log errors before and after, over all available autoencoders: our K-way
    adaptation. The learning rate, 0.01 for latents of about unit scale, is ours. Gradients are
    computed in bfloat16, errors in float32, of values in [-1, 1].

    `latenttracer-residual` is a ResNet-18 on the residuals x − D(E(x)) of all available
    autoencoders, stacked as channels; the adaptation and its recipe are ours.

    Attributes:
        steps: of Adam.
    """

    name: ClassVar[str] = "latenttracer"
    columns: ClassVar[int] = 2
    steps: ClassVar[int] = 100

    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 2"]:
        """Errors before and after inversion."""
        return inversion_losses(pixels, autoencoder, self.steps)

    @property
    def store_name(self) -> str:
        """Name with the number of steps."""
        return f"latenttracer-{self.steps}"

    @property
    def depends(self) -> dict[str, Any]:
        """Steps and learning rate."""
        return {"steps": self.steps, "rate": RATE}


class LatentTracerQuick(LatentTracer):
    """For CPUs: a tenth of the steps on a quarter of the pixels."""

    name = "latenttracer-quick"
    steps = 10
    side = 128


def residual(pixels: Crops, autoencoder: Autoencoder) -> Int8[Tensor, "image side side 3"]:
    """X − D(E(x)) in 8-bit units, channels last, clipped to [-127, 127]."""
    difference = (pixels - autoencoder.reconstruct(pixels)) * 127.5
    return difference.round().clamp(-127, 127).to(torch.int8).permute(0, 2, 3, 1)


class ResidualNetwork(nn.Module):
    """timm's ResNet-18 with three input channels per residual."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.trunk: Any = timm.create_model("resnet18", in_chans=channels, num_classes=0)
        self.classifier = nn.Linear(self.trunk.num_features, classes)

    def forward(
        self, x: Float[Tensor, "sample channel size size"]
    ) -> tuple[Float[Tensor, "sample 512"], Float[Tensor, "sample class"]]:
        """Pooled features and logits."""
        vectors = self.trunk(x)
        return vectors, self.classifier(vectors)


class LatentTracerResidual(TrainedNetwork):
    """ResNet-18 on residuals: from scratch, random crops of 224 and flips."""

    name: ClassVar[str] = "latenttracer-residual"
    recipe = Recipe(learning_rate=1e-3, batch=64, epochs=30, patience=5)
    autoencoders: tuple[Autoencoder, ...]

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised; the autoencoders stay frozen."""
        self.autoencoders = available_autoencoders(self.options.weights, self.options.device)
        return ResidualNetwork(3 * len(self.autoencoders), classes)

    @property
    def parameters(self) -> int:
        """Of the network and of the autoencoders."""
        return count(self.network) + sum(one.parameters for one in self.autoencoders)

    def rows(self, images: BaselineImages) -> Rows:
        """Residuals of all autoencoders, concatenated: (image, 1, side, side, channel)."""
        spec = ("residual", (1, NATIVE, NATIVE, 3), "int8")

        def measure(pixels: Crops, autoencoder: Autoencoder) -> Int8[Tensor, "image 1 side side 3"]:
            return residual(pixels, autoencoder)[:, None]

        return ConcatenatedRows(
            [stored_measurements(images, one, measure, spec) for one in self.autoencoders]
        )

    def prepare(
        self,
        views: Int8[np.ndarray, "sample side side channel"],
        rng: np.random.Generator | None,
    ) -> Float[Tensor, "sample channel size size"]:
        """Random or central crop of 224, flip, channels first."""
        x = np.ascontiguousarray(flipped(cropped(views, SIZE, rng), rng))
        return torch.from_numpy(x).permute(0, 3, 1, 2).float() / SCALE


LEVELS = 32
ALPHA = 0.05
"""Fraction of a generator's own images that its threshold rejects."""
POINTS = 10_000
"""Of the grid on which the density is summed."""
LUMA = (0.299, 0.587, 0.114)
ABSENT = -1e3
"""Logit of a class without training images."""


def double_reconstruction_ratio(
    pixels: Float[Tensor, "image 3 height width"], autoencoder: Autoencoder
) -> Float[Tensor, "image"]:
    """T of images in [-1, 1]."""
    once = autoencoder.decode(autoencoder.encode(pixels))
    twice = autoencoder.decode(autoencoder.encode(once))
    first = (once - pixels).square().mean(dim=(1, 2, 3))
    second = (twice - once).square().mean(dim=(1, 2, 3))
    return homogeneity(pixels) * first / (second + EPSILON)


def homogeneity(pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image"]:
    """H of images in [-1, 1]; 1 for an image of one grey."""
    weights = pixels.new_tensor(LUMA).view(3, 1, 1)
    grey = ((pixels + 1) * 127.5 * weights).sum(dim=1).round().clamp(0, 255)
    levels = (grey / (256 / LEVELS)).floor()
    # The symmetric matrix counts each pair of neighbours in both orders, and so does the mean.
    return (1 / (1 + (levels[..., 1:] - levels[..., :-1]).square())).mean(dim=(1, 2))


def density_threshold(values: Float[np.ndarray, "image"], alpha: float = ALPHA) -> float:
    """The 1 - α quantile of a Gaussian kernel density, by Scott's rule, of these values."""
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if deviation <= EPSILON * max(abs(float(values.mean())), EPSILON):
        return float(values.max())
    grid = np.linspace(values.min() - deviation, values.max() + deviation, POINTS)
    below = np.cumsum(gaussian_kde(values)(grid))
    return float(np.interp(1 - alpha, below / below[-1], grid))


class AEDR(ReconstructionErrors):
    """AEDR (arXiv 2507.18988): ratio of two consecutive reconstruction losses.

        t = H · L₁ / L₂,  L₁ = |x - x₁|² and L₂ = |x₁ - x₂|² per value, x₁ = D(E(x)), x₂ = D(E(x₁))

    H is the homogeneity of the image: Σ p(i, j) / (1 + (i - j)²) over the co-occurrence matrix p of
    horizontal neighbours in 32 levels of grey. Images of the autoencoder's own generator have the
    lowest ratios, and are accepted up to the 95 % quantile of a kernel density of them.

    The published method knows the autoencoder of each generator. Here it is the one whose threshold
    parts a generator from the others best, in balanced accuracy on validation images; the logit of
    a generator is how far log t lies below its threshold, so that its sign is the published answer.
    This K-way adaptation is ours, as is the central native crop of 256.
    """

    name: ClassVar[str] = "aedr"

    @torch.inference_mode()
    def errors(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Autoencoder
    ) -> Float[Tensor, "image 1"]:
        """The ratio t."""
        return double_reconstruction_ratio(pixels, autoencoder)[:, None]

    @property
    def parameters(self) -> int:
        """Of the autoencoders; a threshold and a choice for each class."""
        return sum(one.parameters for one in self.autoencoders) + 2 * len(self.classes)

    def fit(self, train: BaselineImages, val: BaselineImages) -> AEDR:
        """Thresholds on the training images; autoencoders by balanced accuracy on `val`.

        Raises:
            TrainingError: the training fold has fewer than two classes.
        """
        targets = train.targets(self.classes)
        if len(np.unique(targets)) < 2:
            raise TrainingError(f"{self.name}: the training fold has fewer than two classes")
        values, held_out = self.measure(train), self.measure(val)
        chosen, thresholds = [], []
        for number in range(len(self.classes)):
            own = targets == number
            if not own.any():
                chosen.append(0)
                thresholds.append(ABSENT)
                continue
            limits = np.array([np.log10(density_threshold(10**x)) for x in values[own].T])
            own_held_out = val.targets(self.classes) == number
            accuracies = _balanced_accuracy(limits, held_out, own_held_out)
            if not np.isfinite(accuracies).all():
                accuracies = _balanced_accuracy(limits, values, own)
            chosen.append(int(accuracies.argmax()))
            thresholds.append(float(limits[chosen[-1]]))
        self.fitted = {"autoencoder": torch.tensor(chosen), "threshold": torch.tensor(thresholds)}
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """log10 of t for each autoencoder, and how far it lies below each generator's threshold."""
        vectors = self.measure(images)
        chosen: Int[np.ndarray, "class"] = self.fitted["autoencoder"].numpy()
        logits = self.fitted["threshold"].numpy() - vectors[:, chosen]
        return self.embeddings(images, vectors, logits)


def _balanced_accuracy(
    limits: Float64[np.ndarray, "autoencoder"],
    values: Float64[np.ndarray, "image autoencoder"],
    own: np.ndarray,
) -> Float64[np.ndarray, "autoencoder"]:
    """Of accepting the own images and rejecting the others; NaN without images of either kind."""
    if own.all() or not own.any():
        return np.full(len(limits), np.nan)
    accepted = values <= limits
    found: np.ndarray = (accepted[own].mean(axis=0) + 1 - accepted[~own].mean(axis=0)) / 2
    return found
